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

use std::os::fd::OwnedFd;
use std::path::Path;
use std::process::ExitCode;
use std::sync::OnceLock;
use std::time::Duration;

use crate::log::log;
use crate::protocol::{Begin, GuestMessage, PowerOff, cut_message, encode};
use crate::{
    boot, caches, control, hosts, init, limits, machine, memory, modules, network, ports, rng, rootfs, sysctl, volumes,
    workload,
};

/// How long a report of the guest's own failure may take to leave the machine.
const LAST_WORDS: Duration = Duration::from_secs(5);

/// A second handle of the control port, for last words from anywhere.
static CONTROL: OnceLock<std::os::fd::OwnedFd> = OnceLock::new();

/// The program. Called by anybody else than PID 1 it loads a module, where the kernel asks for one, and else does nothing.
pub fn main() -> ExitCode {
    if std::process::id() != 1 {
        if let Some(name) = modules::asked(std::env::args_os().skip(1).map(|name| name.to_string_lossy().into_owned()))
        {
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

/// Everything between `Start` and the workload. Answers as [`rootfs::enter`].
fn prepare(begin: &Begin) -> Result<Option<OwnedFd>, PrepareError> {
    let Begin { start, settings } = begin;
    rng::reseed(&start.entropy)?;
    machine::set_clock(start.wall_clock)?;
    machine::set_hostname(&start.hostname)?;
    network::bring_up(&start.network)?;
    limits::raise_open_files();
    limits::make_room(&start.rlimits);
    let upper = rootfs::enter(&start.rootfs, settings)?;
    volumes::mount_all(begin)?;
    if !volumes::is_given(begin, hosts::HOSTS) {
        hosts::complete(&start.hostname, &settings.hosts)?;
    }
    if let Some(content) = start.resolv_conf.as_ref().filter(|_| !volumes::is_given(begin, network::RESOLV_CONF)) {
        network::cover_resolv_conf(content);
    }
    sysctl::set_all(&settings.sysctls)?;
    workload::make_workdir(start);
    if settings.read_only {
        rootfs::make_read_only()?;
    }
    Ok(upper)
}

/// Why the machine could not be made ready for the workload.
#[derive(Debug, thiserror::Error)]
pub(crate) enum PrepareError {
    #[error(transparent)]
    Hosts(#[from] hosts::HostsError),
    #[error(transparent)]
    Rng(#[from] rng::RngError),
    #[error(transparent)]
    Machine(#[from] machine::MachineError),
    #[error(transparent)]
    Network(#[from] network::NetworkError),
    #[error(transparent)]
    Rootfs(#[from] rootfs::RootfsError),
    #[error(transparent)]
    Sysctl(#[from] sysctl::SysctlError),
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
pub(crate) fn error_chain(error: &dyn std::error::Error) -> String {
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
