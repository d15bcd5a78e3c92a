//! PID 1 of every Linux microVM: brings the machine up, runs the workload, relays its output and
//! reports its end.
//!
//! ```text
//!   boot ──▶ ports open ──▶ Ready ──▶ AwaitingStart ──Start──▶ Running ──end──▶ draining ──▶ Ended
//!    │            │                        │  │                                               │
//!    │            │                Signal  │  └── failure ──▶ NotStarted                      │
//!    │            │                        └────────────────▶     │                           │
//!    ▼            ▼                                               ▼      AcknowledgeExit      ▼
//!   console message                                              power off ◀──────────────────┘
//! ```
//!
//! One thread, one `poll` loop ([`init`]): nothing that one stream does may hold up another.
//! PID 1 never ends: an error or a panic is reported over the control port, then the machine powers
//! off. The host trusts none of this.

mod blocks;
mod boot;
mod caches;
mod control;
mod covered;
mod fresh;
mod hosts;
mod init;
mod limits;
mod log;
mod machine;
mod memory;
mod modules;
mod network;
mod overlay;
mod ports;
mod probe;
mod process;
mod relay;
mod rng;
mod rootfs;
mod stdin;
mod terminal;
mod volumes;
mod workload;

use std::path::Path;
use std::process::ExitCode;
use std::sync::OnceLock;
use std::time::Duration;

use sandpen_guest::protocol::{GuestMessage, PowerOff, Start, cut_message, encode};

use crate::log::log;

/// How long a report of the guest's own failure may take to leave the machine.
const LAST_WORDS: Duration = Duration::from_secs(5);

/// A second handle of the control port, for last words from anywhere.
static CONTROL: OnceLock<std::os::fd::OwnedFd> = OnceLock::new();

fn main() -> ExitCode {
    if std::process::id() != 1 {
        if let Some(name) = modules::asked(std::env::args().skip(1)) {
            return modules::load(&name);
        }
        log!("this is PID 1 of sandpen's microVMs and does nothing elsewhere");
        return ExitCode::from(2);
    }
    std::panic::set_hook(Box::new(|panic| give_up(&format!("panic in the guest's PID 1: {panic}"))));
    match run() {
        Ok(how) => machine::power_off(how),
        Err(error) => give_up(&error_chain(&error)),
    }
}

fn run() -> Result<PowerOff, init::InitError> {
    boot::mount_kernel_filesystems();
    boot::load_modules();
    let ports = ports::open_all()?;
    if let Ok(second) = ports.control.try_clone() {
        let _ = CONTROL.set(second);
    }
    init::Init::new(ports, Path::new(caches::SWITCH), memory::OutOfMemory::watch(), prepare)?.serve()
}

/// Everything between `Start` and the workload.
fn prepare(start: &Start) -> Result<(), PrepareError> {
    rng::reseed(&start.entropy)?;
    machine::set_clock(start.wall_clock)?;
    machine::set_hostname(&start.hostname)?;
    network::bring_up(&start.network)?;
    limits::raise_open_files();
    limits::make_room(&start.rlimits);
    rootfs::enter(&start.rootfs)?;
    volumes::mount_all(&start.volumes)?;
    hosts::complete(&start.hostname);
    if let Some(content) = &start.resolv_conf {
        network::cover_resolv_conf(content);
    }
    Ok(())
}

/// Why the machine could not be made ready for the workload.
#[derive(Debug, thiserror::Error)]
enum PrepareError {
    #[error(transparent)]
    Rng(#[from] rng::RngError),
    #[error(transparent)]
    Machine(#[from] machine::MachineError),
    #[error(transparent)]
    Network(#[from] network::NetworkError),
    #[error(transparent)]
    Rootfs(#[from] rootfs::RootfsError),
    #[error(transparent)]
    Volume(#[from] volumes::VolumeError),
}

/// Reports the guest's own failure on the console and to the host, and powers off.
fn give_up(message: &str) -> ! {
    log!("{message}");
    if let Some(control) = CONTROL.get() {
        let report = GuestMessage::Faulted { message: cut_message(message.to_owned()) };
        if let Ok(frame) = encode(&report) {
            control::write_all_until(control, &frame, LAST_WORDS);
        }
        // A QEMU port loses what is queued at power-off; the host ends the machine as soon as it has
        // read the report.
        std::thread::sleep(LAST_WORDS);
    }
    machine::power_off(PowerOff::default())
}

/// An error's message followed by its causes.
fn error_chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        let cause_text = cause.to_string();
        if !text.ends_with(&cause_text) {
            text.push_str(": ");
            text.push_str(&cause_text);
        }
        source = cause.source();
    }
    text
}
