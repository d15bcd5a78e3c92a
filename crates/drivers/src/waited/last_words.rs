//! What lies in the control pipe of a microVM that ended while no daemon was there to hear it.

use std::fs::File;
use std::io::{ErrorKind, Read as _};
use std::os::fd::OwnedFd;

use sandpen_guest::protocol::{
    ExitReport, FrameReader, Garbage, GuestMessage, GuestState, StartFailure, WorkloadEnd, cut_message,
};
use sandpen_types::state::ExitStatus;
use sandpen_vmm::driver::VmmEvent;

/// Most bytes of a pipe (`/proc/sys/fs/pipe-max-size` of an unchanged Linux).
const PIPE_MAX: usize = 1 << 20;

/// The workload's end, if the guest had reported it. `control` is non-blocking.
pub(super) fn read(control: OwnedFd) -> Option<VmmEvent> {
    let mut bytes = Vec::new();
    let mut pipe = File::from(control);
    let mut chunk = [0; 4096];
    while bytes.len() < PIPE_MAX {
        match pipe.read(&mut chunk) {
            Ok(len @ 1..) => bytes.extend_from_slice(&chunk[..len]),
            Err(error) if error.kind() == ErrorKind::Interrupted => {}
            // No writer is left, or one (the waiter) that writes nothing.
            Ok(_) | Err(_) => break,
        }
    }
    parse(&bytes)
}

/// The first report counts: a guest has one end. What follows something broken is not believed.
fn parse(mut bytes: &[u8]) -> Option<VmmEvent> {
    // An earlier daemon may have read the first part of a frame.
    let mut reader = FrameReader::<GuestMessage>::new(Garbage::SkipFirst(FrameReader::<GuestMessage>::CAPACITY));
    loop {
        let taken = reader.push(bytes);
        bytes = &bytes[taken..];
        while let Some(message) = reader.next().ok()? {
            match message {
                GuestMessage::Exit(report) | GuestMessage::Status { state: GuestState::Ended(report), .. } => {
                    return exited(report);
                }
                GuestMessage::NotStarted(failure)
                | GuestMessage::Status { state: GuestState::NotStarted(failure), .. } => {
                    return Some(not_started(&failure));
                }
                GuestMessage::Ready { .. }
                | GuestMessage::Started
                | GuestMessage::Status { .. }
                | GuestMessage::Faulted { .. }
                | GuestMessage::ProbeEnded { .. }
                | GuestMessage::FilesLimitMet
                | GuestMessage::OutOfMemory { .. }
                | GuestMessage::Understands { .. }
                | GuestMessage::Usage { .. } => {}
            }
        }
        if taken == 0 {
            return None;
        }
    }
}

fn exited(report: ExitReport) -> Option<VmmEvent> {
    let exit = match report.end {
        WorkloadEnd::Code(code) => ExitStatus::Code(code.into()),
        WorkloadEnd::Signal(signal @ 1..=64) => ExitStatus::Signal(signal.into()),
        WorkloadEnd::Signal(_) => return None,
    };
    let (stdout_bytes, stderr_bytes) = (Some(report.stdout_bytes), Some(report.stderr_bytes));
    Some(VmmEvent::WorkloadExited { exit, stdout_bytes, stderr_bytes })
}

fn not_started(failure: &StartFailure) -> VmmEvent {
    let message = failure.message.chars().map(|c| if c.is_control() { ' ' } else { c }).collect();
    VmmEvent::WorkloadNotStarted { code: failure.code.code(), message: cut_message(message) }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use sandpen_guest::protocol::{StartFailureCode, encode};

    use super::*;

    fn exit(end: WorkloadEnd) -> GuestMessage {
        GuestMessage::Exit(ExitReport { end, stdout_bytes: 7, stderr_bytes: 0 })
    }

    fn frames(messages: &[GuestMessage]) -> Vec<u8> {
        messages.iter().flat_map(|message| encode(message).unwrap()).collect()
    }

    fn exited_with(exit: ExitStatus) -> VmmEvent {
        VmmEvent::WorkloadExited { exit, stdout_bytes: Some(7), stderr_bytes: Some(0) }
    }

    #[test]
    fn the_first_report_counts() {
        let bytes = frames(&[GuestMessage::Started, exit(WorkloadEnd::Code(42)), exit(WorkloadEnd::Code(0))]);
        assert_eq!(parse(&bytes), Some(exited_with(ExitStatus::Code(42))));
        assert_eq!(parse(&bytes[..bytes.len() - 3]), Some(exited_with(ExitStatus::Code(42))));
        assert_eq!(parse(&frames(&[GuestMessage::Ready { version: 1 }, GuestMessage::Started])), None);
        assert_eq!(parse(&[]), None);
        assert_eq!(parse(&frames(&[exit(WorkloadEnd::Signal(200))])), None);
    }

    #[test]
    fn half_a_frame_before_it_is_skipped() {
        let bytes = frames(&[GuestMessage::Started, exit(WorkloadEnd::Signal(9))]);
        for cut in 1..10 {
            assert_eq!(parse(&bytes[cut..]), Some(exited_with(ExitStatus::Signal(9))), "cut {cut}");
        }
    }

    #[test]
    fn words_for_users_hold_no_control_characters() {
        let failure = StartFailure::new(StartFailureCode::NotFound, "no \x1b[2Jsuch program");
        let event = parse(&frames(&[GuestMessage::NotStarted(failure)]));
        let message = "no  [2Jsuch program".to_owned();
        assert_eq!(event, Some(VmmEvent::WorkloadNotStarted { code: 127, message }));
    }

    #[test]
    fn a_pipe_that_somebody_holds_open_is_read_to_what_it_has() {
        let (read_end, write_end) = nix::unistd::pipe2(nix::fcntl::OFlag::O_NONBLOCK).unwrap();
        nix::unistd::write(&write_end, &frames(&[exit(WorkloadEnd::Code(3))])).unwrap();
        assert_eq!(read(read_end), Some(exited_with(ExitStatus::Code(3))));
    }

    proptest! {
        #[test]
        fn any_bytes_are_survived(bytes in proptest::collection::vec(any::<u8>(), 0..2000)) {
            let _ = parse(&bytes);
        }
    }
}
