//! PID 1 of sandpen's Linux microVMs: what it and the host say to each other.
//!
//! The library half is the control protocol, shared by both sides: [`protocol`]. It is plain data
//! and a codec, without I/O and without async. The binary half of this crate (`main.rs`) is the
//! static program that every Linux guest runs as PID 1.
//!
//! May know: Linux as a guest sees it. May not: the host, its types and its errors. The program lives in every
//! microVM's memory, so each dependency counts.

pub mod protocol;
