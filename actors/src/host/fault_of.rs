//! Which fault of the host an error of the system stands for.

use std::error::Error;
use std::io;

use nix::errno::Errno;
use sandpen_types::fault::Fault;

/// What an error means that came while a file was written.
pub fn fault_of_io(error: &io::Error) -> Fault {
    match error.raw_os_error().map(Errno::from_raw) {
        Some(Errno::ENOSPC | Errno::EDQUOT) => Fault::DiskFull,
        Some(Errno::EROFS) => Fault::ReadOnly,
        Some(Errno::EMFILE | Errno::ENFILE) => Fault::OpenFiles,
        _ => Fault::StorageFailed,
    }
}

/// The same by the first cause that the system named; an error without one is none of the host's.
pub fn fault_of_causes(error: &(dyn Error + 'static)) -> Option<Fault> {
    first_io(error).map(fault_of_io)
}

/// What the host lacks for a microVM to be made or found, where that is the cause; it may pass.
pub fn fault_of_lack(error: &(dyn Error + 'static)) -> Option<Fault> {
    match first_io(error)?.raw_os_error().map(Errno::from_raw)? {
        Errno::EMFILE | Errno::ENFILE => Some(Fault::OpenFiles),
        Errno::EAGAIN | Errno::ENOMEM => Some(Fault::Processes),
        _ => None,
    }
}

fn first_io<'a>(error: &'a (dyn Error + 'static)) -> Option<&'a io::Error> {
    let mut cause = Some(error);
    while let Some(error) = cause {
        if let Some(io) = error.downcast_ref() {
            return Some(io);
        }
        cause = error.source();
    }
    None
}
