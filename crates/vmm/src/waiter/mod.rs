//! The tiny process between the orchestrator and a sandbox's VMM, which outlives us.
//!
//! Every VMM is the child of a *waiter*: a small static program (`sandpen-waiter`; [`WaitedVmm::launch`] starts
//! it) that holds the sandbox's FIFOs open, starts the VMM and its companions, records how
//! the VMM ended, and stays until it is released. So an orchestrator can die at any moment: output
//! waits in the pipes, the exit status on disk, and the next one finds both
//! ([`WaitedVmm::adopt`]). A waiter that is killed itself ends nothing: whoever watches the VMM starts
//! another one, which opens the FIFOs by their names and watches the processes. Only the exit status of
//! a VMM that ends after that is unknown.
//!
//! ```text
//!             launch                     VMM ended            release
//!   (nothing) ──────▶ all processes run ──────────▶ recorded ────────▶ (nothing)
//!       │                  │      ▲                   │   ▲
//!       │ failed:          └──────┘ adopt             └───┘ adopt
//!       ▼ nothing is left
//! ```
//!
//! In the runtime directory (0700), beside the drivers' own files:
//!
//! | name | what |
//! | --- | --- |
//! | `waiter.err` | locked by the waiter as long as it lives; its last words if something is wrong |
//! | `processes` | boot id, pids and start times, written before the launch resolves |
//! | `exit` | how and when the VMM ended, written before the VMM is reaped; out on the disk soon after, unless an orchestrator has released the waiter by then |
//! | `ended` | FIFO that reads as ended once `exit` is written or the waiter is gone |
//! | `held` | what the waiter holds and has locked, for one that takes its place |
//! | `log` | FIFO that the VMM log is copied from |
//! | `commands` | FIFO: `release`, `close FIFO` |
//!
//! What a microVM uses and others may want to remove has a file, its *lease*, which the waiter has locked, shared
//! (`flock(2)`), until it ends: so it is in use while no orchestrator lives, and of several orchestrators each knows.

mod check;
mod error;
mod fifo;
mod install;
mod launch;
mod newborn;
mod runtime_dir;
mod waited;
mod watched;

#[cfg(test)]
mod tests;

pub use sandpen_waiter::wire::{
    DESCRIPTORS_MAX, DescriptorSpec, FIRST_DESCRIPTOR, LOG_FIFO, Namespaces, ProcessSpec, StdioSpec, VMM_ROLE,
    WaiterSpec,
};

pub use error::WaiterError;
pub use fifo::{open_fifo_read, open_fifo_write};
pub use runtime_dir::{check_readable, is_abandoned, prepare_runtime_dir, recorded_processes};
pub use waited::WaitedVmm;
pub use watched::WaitedEnd;
