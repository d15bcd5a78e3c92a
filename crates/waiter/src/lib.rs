//! What a waiter and the orchestrator have to understand of each other.
//!
//! A *waiter* is the parent of one sandbox's VMM and outlives the orchestrator: the program of this package. The
//! orchestrator tells it what to start ([`wire`]); it writes down what runs and how it ended ([`records`]), with
//! processes that are meant beyond their pids ([`process_identity`]).
//!
//! There is a waiter for every sandbox, so it stays small. May know: the standard library, processes, FIFOs and files.
//! May not: what a VMM is, drivers, guests, sandboxes.

pub mod process_identity;
pub mod records;
pub mod wire;

#[cfg(test)]
mod tests;
