//! Commands beside the workload: one question at a time, and which answers may come. Pure.
//!
//! A question that was given up may still be answered, once; one that nobody asked may not.

use sandpen_vmm::driver::ProbeOutcome;
use tokio::sync::oneshot;

/// The questions of one link.
#[derive(Debug)]
pub(super) struct Probes {
    next: u64,
    asked: Option<(u64, oneshot::Sender<ProbeOutcome>)>,
    /// Answers that may come although nobody waits for them.
    given_up: u32,
}

impl Probes {
    /// Numbers begin at `first`: random, so that an earlier daemon's are others. One answer of its may
    /// be under way in an adopted guest.
    pub(super) fn new(first: u64, is_adopted: bool) -> Self {
        Self { next: first, asked: None, given_up: u32::from(is_adopted) }
    }

    /// The number of a new question. One that waits is given up, as the guest does.
    pub(super) fn ask(&mut self) -> (u64, oneshot::Receiver<ProbeOutcome>) {
        self.give_up();
        let id = self.next;
        self.next = self.next.wrapping_add(1);
        let (sender, receiver) = oneshot::channel();
        self.asked = Some((id, sender));
        (id, receiver)
    }

    fn give_up(&mut self) {
        if self.asked.take().is_some() {
            self.given_up = self.given_up.saturating_add(1);
        }
    }

    /// Takes an answer; false when it is to no question.
    pub(super) fn answer(&mut self, id: u64, outcome: ProbeOutcome) -> bool {
        match self.asked.take() {
            Some((asked, sender)) if asked == id => {
                // Who asked may have lost patience.
                let _ = sender.send(outcome);
                true
            }
            other => {
                self.asked = other;
                match self.given_up.checked_sub(1) {
                    Some(left) => {
                        self.given_up = left;
                        true
                    }
                    None => false,
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use sandpen_vmm::driver::ProbeStatus;

    use super::*;

    fn outcome() -> ProbeOutcome {
        ProbeOutcome { end: ProbeStatus::TimedOut, output: String::new() }
    }

    #[test]
    fn each_question_has_one_answer() {
        let mut probes = Probes::new(u64::MAX, false);
        assert!(!probes.answer(u64::MAX, outcome()), "nobody asked");
        let (first, _) = probes.ask();
        let (second, mut answer) = probes.ask();
        assert_eq!((first, second), (u64::MAX, 0));
        assert!(probes.answer(first, outcome()) && answer.try_recv().is_err(), "late, but asked for");
        assert!(!probes.answer(first, outcome()));
        assert!(probes.answer(second, outcome()) && answer.try_recv().is_ok());
        assert!(!probes.answer(second, outcome()));
        let mut adopted = Probes::new(5, true);
        assert!(adopted.answer(1, outcome()) && !adopted.answer(1, outcome()));
    }
}
