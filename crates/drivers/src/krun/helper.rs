//! The process that becomes a microVM, behind a hidden subcommand of this program.
//!
//! ```text
//!   specification from fd 0 ─▶ fd 0 := /dev/null ─▶ libkrunfw loaded ─▶ limits ─▶ jail ─▶ FIFOs opened ─▶
//!   libkrun configured ─▶ confined ─▶ enter: ends with the machine
//! ```
//!
//! It starts in the sandbox's runtime directory, under the waiter; standard output and error are the
//! VMM log. Its exit code says nothing: libkrun ends with 0 after a guest's triple fault too.

use std::convert::Infallible;
use std::fs::{File, OpenOptions, TryLockError};
use std::os::fd::{AsFd as _, OwnedFd};
use std::path::{Path, PathBuf};

use nix::fcntl::{FcntlArg, fcntl};
use nix::unistd::close;
use sandpen_types::error_chain::error_chain;

use super::ffi::{self, Context, DiskFormat, KrunError, LogLevel, Port};
use super::vm_spec::{Boot, BootDisk, GuestKernel, VmSpec};
use crate::confine::{self, ConfineError, FIRST_INHERITED, descriptor_path};
use crate::waited::PORTS;
use crate::{disk, guest_binary, standard_input};

/// Descriptors that a microVM's process has room for from the beginning: about 60 with a root directory and no more,
/// some for each share, disk and published port.
const DESCRIPTORS: i32 = 512;

/// The hidden subcommand's name. A word for people who look at the process list may follow it.
pub const SUBCOMMAND: &str = "__krun";

/// Why there is no microVM.
#[derive(Debug, thiserror::Error)]
enum HelperError {
    #[error("reading the specification from standard input, which only sandpen itself writes")]
    Spec(#[source] std::io::Error),
    #[error("the specification on standard input cannot be understood")]
    Malformed(#[from] serde_json::Error),
    #[error("the policy has other files and directories than the machine")]
    Policy,
    #[error("confining the process")]
    Confine(#[from] ConfineError),
    #[error("opening {path:?}")]
    Open {
        path: PathBuf,
        #[source]
        source: std::io::Error,
    },
    #[error("the disk {0:?} is in use by another microVM")]
    DiskInUse(PathBuf),
    #[error("/dev/kvm cannot be opened; see `sandpen doctor`")]
    Kvm(#[source] std::io::Error),
    #[error("libkrun")]
    Krun(#[from] KrunError),
}

/// Runs the subcommand to the end of its microVM; answers an exit code only if there is none. Must
/// be called while the process has one thread.
pub fn run() -> i32 {
    match become_microvm() {
        Ok(never) => match never {},
        Err(error) => {
            eprintln!("krun: {}", error_chain(&error));
            1
        }
    }
}

/// Lets the kernel make the table of descriptors large while there is one thread. With several each growth waits for
/// all processors (`expand_files`, `synchronize_rcu`): 5 to 10 ms at the 65th, which libkrun opens while its guest
/// already runs, and waits for it.
fn make_room_for_descriptors(any: &OwnedFd) {
    // With a lower limit on open files it grows later, as ever.
    if let Ok(high) = fcntl(any, FcntlArg::F_DUPFD_CLOEXEC(DESCRIPTORS - 1)) {
        let _ = close(high);
    }
}

fn become_microvm() -> Result<Infallible, HelperError> {
    let spec = read_spec()?;
    if let Boot::Linux { kernel: GuestKernel::Firmware(firmware), .. } = &spec.boot {
        // Before the context is made, which looks for it, and before nothing of the host can be reached.
        ffi::load_firmware(firmware)?;
    }
    let begun = confine::begin(&spec.policy)?;
    // libkrun would panic, which says little to people.
    let kvm = open("/dev/kvm", true).map_err(|error| match error {
        HelperError::Open { source, .. } => HelperError::Kvm(source),
        other => other,
    })?;
    make_room_for_descriptors(&kvm);
    drop(kvm);
    // Of its network libkrun tells every connection.
    ffi::init_log(if spec.tsi.is_some() { LogLevel::Warnings } else { LogLevel::Steps })?;
    let mut context = Context::new()?;
    context.set_machine(spec.cpus, spec.memory_mib)?;
    // Open by now; libkrun opens them once more.
    let mut files = (FIRST_INHERITED..).zip(&spec.policy.inherited);
    let mut next = || files.next().ok_or(HelperError::Policy);
    let mut directories = spec.policy.share_paths();
    let mut next_share =
        || directories.next().and_then(|path| path.to_str().map(str::to_owned)).ok_or(HelperError::Policy);
    match &spec.boot {
        Boot::Linux { kernel, root, shares, disk: writable, root_disks } => {
            if let GuestKernel::Own(_) = kernel {
                context.set_elf_kernel(&descriptor_path(next()?.0))?;
            }
            if writable.is_some() {
                let (descriptor, file) = next()?;
                let open = descriptor_path(descriptor);
                context.add_disk(&open, lock_disk(&open, &file.path)?)?;
            }
            for (number, root_disk) in root_disks.iter().enumerate() {
                let serial = disk::root_disk_serial(number);
                match root_disk {
                    BootDisk::File(_) => {
                        context.add_root_disk(&serial, &descriptor_path(next()?.0), DiskFormat::Raw)?;
                    }
                    BootDisk::Joined(files) => {
                        // The descriptor behind them says which they are.
                        for _ in files {
                            next()?;
                        }
                        context.add_root_disk(&serial, &descriptor_path(next()?.0), DiskFormat::Vmdk)?;
                    }
                }
            }
            match root {
                Some(_) => context.set_root(&next_share()?, guest_binary())?,
                None => context.set_empty_root(guest_binary())?,
            }
            for share in shares {
                context.add_share(&share.tag, &next_share()?, share.tree.read_only)?;
            }
        }
        Boot::Bare { shares, .. } => {
            context.set_elf_kernel(&descriptor_path(next()?.0))?;
            let stderr = std::io::stderr().as_fd().try_clone_to_owned();
            let path = PathBuf::from("standard error");
            context.add_serial_output(stderr.map_err(|source| HelperError::Open { path, source })?)?;
            for share in shares {
                context.add_share(&share.tag, &next_share()?, share.tree.read_only)?;
            }
        }
    }
    if let Some(ports) = &spec.tsi {
        context.add_tsi(ports)?;
    }
    context.add_log_console()?;
    let mut ports = Vec::new();
    for (fifo, name) in PORTS {
        let (input, output) = match fifo {
            "control" | "sessions" => (true, true),
            "stdin" | "files" => (true, false),
            _ => (false, true),
        };
        // For reading and writing: the guest waits on a full pipe while nobody reads, and input never
        // ends, so that libkrun does not close the port; its end is a message.
        let end = |wanted: bool, end: &str| wanted.then(|| open(&format!("{fifo}.{end}"), true)).transpose();
        ports.push(Port { name, input: end(input, "in")?, output: end(output, "out")? });
    }
    context.add_ports(ports)?;
    // Everything is open but what libkrun itself opens by path: the policy has those.
    confine::enforce(&spec.policy, begun)?;
    Ok(context.enter()?)
}

/// Locks the disk for as long as this process lives, as QEMU does with its own: two machines that
/// write to one file system would destroy it.
fn lock_disk(open: &Path, path: &Path) -> Result<OwnedFd, HelperError> {
    let failed = |source| HelperError::Open { path: path.to_owned(), source };
    let file = OpenOptions::new().read(true).write(true).open(open).map_err(failed)?;
    match file.try_lock() {
        Ok(()) => Ok(file.into()),
        Err(TryLockError::WouldBlock) => Err(HelperError::DiskInUse(path.to_owned())),
        Err(TryLockError::Error(error)) => Err(failed(error)),
    }
}

fn read_spec() -> Result<VmSpec, HelperError> {
    Ok(serde_json::from_slice(&standard_input::take_document().map_err(HelperError::Spec)?)?)
}

fn open(path: &str, write: bool) -> Result<OwnedFd, HelperError> {
    let opened: std::io::Result<File> = OpenOptions::new().read(true).write(write).open(path);
    opened.map(OwnedFd::from).map_err(|source| HelperError::Open { path: path.into(), source })
}
