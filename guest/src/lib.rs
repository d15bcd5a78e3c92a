//! PID 1 of sandpen's Linux microVMs, and what it and the host say to each other.
//!
//! The control protocol is shared by both sides: [`protocol`]. It is plain data and a codec, without I/O and without
//! async. All else is the program that every Linux guest runs as PID 1: [`main`], which the program of this package and
//! the one that `sandpen-embed` builds consist of.
//!
//! May know: Linux as a guest sees it. May not: the host, its types and its errors. The program lives in every
//! microVM's memory, so each dependency counts.

// What only the program uses names the shared part like everybody else.
extern crate self as sandpen_guest;

mod blocks;
mod boot;
mod caches;
mod clock;
mod control;
mod covered;
mod freeze;
mod fresh;
mod hosts;
mod init;
mod launch;
mod limits;
mod log;
mod machine;
mod memory;
mod modules;
mod network;
mod overlay;
mod pid1;
mod ports;
mod probe;
mod process;
pub mod protocol;
mod relay;
mod rng;
mod root_file;
mod rootfs;
mod sessions;
mod stdin;
mod sysctl;
mod terminal;
mod tools;
mod usage;
mod users;
mod volumes;
mod workload;

pub use pid1::main;
