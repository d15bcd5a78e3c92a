//! Every failure with its code.

use std::io;

use sandpen_actors::host::mounts;
use sandpen_actors::host::places::{Nested, Places};
use sandpen_actors::host::room::NoRoom;
use sandpen_actors::monitor::MonitorError;
use sandpen_types::output_stream::OutputStream;
use sandpen_types::session::SessionEnd;
use sandpen_types::spec::{DiskName, Rootfs, SandboxName, SandboxSpec, SpecError};

use super::*;

fn unavailable() -> DriverError {
    DriverError::Unavailable { name: "x".into(), reason: "y".into() }
}

fn full_disk() -> io::Error {
    io::Error::from_raw_os_error(nix::libc::ENOSPC)
}

fn nested() -> Box<Nested> {
    let key = SandboxKey::new(SandboxName::new("a").unwrap());
    let mut spec = SandboxSpec::new(key.clone(), Rootfs::Native("/a".into()), vec!["x".into()]);
    spec.kernel = Some("/a/vmlinux".into());
    Places::of(&spec, &sandpen_types::state_dir::StateDir::new("/s".into()), &mounts::parse("1 0 8:1 / / rw"))
        .check_own(&key)
        .unwrap_err()
}

/// Every refusal of the supervisor with its code.
fn of_supervisor() -> Vec<(SupervisorError, ErrorCode)> {
    let key = || SandboxKey::new(SandboxName::new("a").unwrap());
    let (disk, dir) = (DiskName::new("d").unwrap(), std::path::PathBuf::from("/x"));
    let write = |errno| NoRoom::Write { dir: dir.clone(), source: io::Error::from_raw_os_error(errno) };
    let (status, job) = ("RUNNING", SessionId::new(7).unwrap());
    vec![
        (SpecError::NoCommand.into(), ErrorCode::InvalidSpec),
        (DriverError::Unusable { what: "it", source: "y".into() }.into(), ErrorCode::InvalidSpec),
        (nested().into(), ErrorCode::InvalidSpec),
        (SupervisorError::AlreadyLive { key: key(), status }, ErrorCode::AlreadyLive),
        (SupervisorError::NotFound { key: key() }, ErrorCode::NotFound),
        (SupervisorError::DiskNotFound { name: disk.clone() }, ErrorCode::NotFound),
        (SupervisorError::NotLive { key: key(), status }, ErrorCode::NotLive),
        (SupervisorError::GivenUp { key: key() }, ErrorCode::GivenUp),
        (SupervisorError::OpenFiles { live: 1, limit: 2, needed: 3 }, ErrorCode::NoRoom),
        (NoRoom::Space { dir: dir.clone(), free_mib: 1, reserve_mib: 2 }.into(), ErrorCode::NoRoom),
        (NoRoom::Files { dir: dir.clone() }.into(), ErrorCode::NoRoom),
        (write(nix::libc::ENOSPC).into(), ErrorCode::NoRoom),
        (write(nix::libc::EROFS).into(), ErrorCode::ReadOnly),
        (write(nix::libc::EMFILE).into(), ErrorCode::NoRoom),
        (write(nix::libc::EIO).into(), ErrorCode::Internal),
        (DatabaseError::Ended.into(), ErrorCode::Internal),
        (SupervisorError::Unrecorded { key: key(), faults: "x".into() }, ErrorCode::Unrecorded),
        (SupervisorError::ShuttingDown, ErrorCode::ShuttingDown),
        (unavailable().into(), ErrorCode::DriverUnavailable),
        (DriverError::no_kernel("x").into(), ErrorCode::Unsupported),
        (DriverError::NoTerminals.into(), ErrorCode::Unsupported),
        (DriverError::Cancelled.into(), ErrorCode::GuestUnreachable),
        (DriverError::Launch { step: "x".into(), source: "y".into() }.into(), ErrorCode::GuestUnreachable),
        (DriverError::Gone.into(), ErrorCode::GuestUnreachable),
        (DriverError::Unreachable("x".into()).into(), ErrorCode::GuestUnreachable),
        (DriverError::Signal { signal: 9, source: full_disk() }.into(), ErrorCode::GuestUnreachable),
        (MonitorError::Ended.into(), ErrorCode::GuestUnreachable),
        (MonitorError::Driver("x".into()).into(), ErrorCode::GuestUnreachable),
        (SupervisorError::DiskInUse { name: disk, user: key() }, ErrorCode::DiskInUse),
        (SupervisorError::FilesInUse { key: key() }, ErrorCode::DiskInUse),
        (SupervisorError::RemoveLog { key: key(), source: LogError::NotRegular(dir) }, ErrorCode::Internal),
        (SupervisorError::Disk { action: "x", source: full_disk() }, ErrorCode::Internal),
        (SessionError::NotRunning.into(), ErrorCode::NotLive),
        (SupervisorError::JobNotFound { key: key(), id: job }, ErrorCode::JobNotFound),
        (SupervisorError::IsJob { key: key(), id: job }, ErrorCode::SessionNotFound),
        (JobError::Ended { id: job, end: SessionEnd::Gone }.into(), ErrorCode::JobEnded),
        (JobError::IsSession(job).into(), ErrorCode::InvalidRequest),
        (JobError::NoStdin(job).into(), ErrorCode::NoStdin),
        (JobError::NoTerminal(job).into(), ErrorCode::NoTerminal),
        (JobError::InputBroke(job).into(), ErrorCode::GuestUnreachable),
        (JobError::from(SessionError::Older).into(), ErrorCode::GuestTooOld),
        (JobError::from(DatabaseError::Ended).into(), ErrorCode::Internal),
        (SupervisorError::Gone, ErrorCode::Gone),
    ]
}

/// Programs act on these words: they are part of version 1.
#[test]
fn each_failure_has_its_code() {
    let key = SandboxKey::new(SandboxName::new("a").unwrap());
    let (id, stream) = (SessionId::new(7).unwrap(), OutputStream::Stdout);
    let others = [
        (SandpenError::NoStdin(key.clone()), ErrorCode::NoStdin),
        (SandpenError::NoTerminal(key.clone()), ErrorCode::NoTerminal),
        (DriverError::NoTerminals.into(), ErrorCode::Unsupported),
        (unavailable().into(), ErrorCode::GuestUnreachable),
        (DatabaseError::EventsGone { from: 1, first: 2 }.into(), ErrorCode::EventsGone),
        (DatabaseError::EventsAhead { from: 3, next: 2 }.into(), ErrorCode::EventsAhead),
        (DatabaseError::StillLive.into(), ErrorCode::Internal),
        (LogError::NotRegular("/x".into()).into(), ErrorCode::Internal),
        (SandpenError::VmmLog(full_disk()), ErrorCode::Internal),
        (SandpenError::Unrecorded { sandboxes: vec![key] }, ErrorCode::Unrecorded),
        (SessionError::from(SpecError::NoCommand).into(), ErrorCode::InvalidSpec),
        (SessionError::NotFound(id).into(), ErrorCode::SessionNotFound),
        (SessionError::TooMany { max: 256 }.into(), ErrorCode::TooManySessions),
        (SessionError::Older.into(), ErrorCode::GuestTooOld),
        (SessionError::Unsupported.into(), ErrorCode::Unsupported),
        (SessionError::NotKept { stream, asked: 1, kept: 2 }.into(), ErrorCode::SessionNotKept),
        (SessionError::Ahead { stream: "stdin", asked: 2, there: 1 }.into(), ErrorCode::InvalidRequest),
        (SessionError::Unreachable("x".into()).into(), ErrorCode::GuestUnreachable),
        (SandpenError::SessionReplaced(id), ErrorCode::SessionReplaced),
        (FilesError::Nonsense("x").into(), ErrorCode::GuestUnreachable),
        (SandpenError::FilesNotServed("x".into()), ErrorCode::InvalidRequest),
        (SandpenError::RangeBeyondEnd { path: vec![], offset: 1, size: 1 }, ErrorCode::RangeBeyondEnd),
        (SandpenError::RangeUnknown { path: vec![], problem: "x" }, ErrorCode::RangeBeyondEnd),
        (MailboxError::Closed.into(), ErrorCode::Gone),
    ];
    let of_supervisor = of_supervisor().into_iter().map(|(error, code)| (SandpenError::from(error), code));
    for (error, code) in of_supervisor.chain(others) {
        assert_eq!(error.code(), code, "{error:?}");
    }
    let faults = Fault::ALL.map(storage_code);
    let codes = [
        ErrorCode::NoRoom,
        ErrorCode::ReadOnly,
        ErrorCode::Internal,
        ErrorCode::DatabaseBusy,
        ErrorCode::NoRoom,
        ErrorCode::NoRoom,
        ErrorCode::Internal,
    ];
    assert_eq!(faults, codes, "{:?}", Fault::ALL);
}
