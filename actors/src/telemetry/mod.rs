//! What is told of an orchestrator beside the states of its sandboxes: faults of the host, counters, and events on
//! their way to the database.

pub mod counters;
pub mod faults;
pub mod outbox;
