//! What a waiter and the orchestrator have to understand of each other.
//!
//! A *waiter* is the parent of one sandbox's VMM and outlives the orchestrator: the program of this package, [`main`],
//! which `sandpen-embed` builds. The orchestrator tells it what to start ([`wire`]); it writes down what runs and how it
//! ended ([`records`]), with processes that are meant beyond their pids ([`process_identity`]).
//!
//! There is a waiter for every sandbox, so it stays small. May know: the standard library, processes, FIFOs and files.
//! May not: what a VMM is, drivers, guests, sandboxes.

// What only the program uses names the shared part like everybody else.
extern crate self as sandpen_waiter;

mod init;
mod log_copy;
mod opened;
mod process;
pub mod process_identity;
mod program;
pub mod records;
mod removal;
mod start;
mod sys;
mod waiter;
pub mod wire;

pub use program::main;

#[cfg(test)]
mod tests;
