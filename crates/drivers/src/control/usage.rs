//! How a guest is: one question at a time, and which answers may come. Pure.
//!
//! A guest that does not answer (it is paused, or does not want to) is not asked again before it has: who asks meanwhile
//! waits for the same answer, but not for longer than the first one would.

use std::time::Duration;

use sandpen_guest::protocol::Usage;
use tokio::sync::watch;
use tokio::time::Instant;

/// How long an answer is waited for.
pub(super) const ANSWER_LIMIT: Duration = Duration::from_secs(1);

/// The questions of one link.
#[derive(Debug)]
pub(super) struct UsageQuestions {
    next: u64,
    asked: Option<Question>,
}

#[derive(Debug)]
struct Question {
    nonce: u64,
    until: Instant,
    answer: watch::Sender<Option<Usage>>,
}

/// What to do for an answer.
#[derive(Debug)]
pub(super) struct Asked {
    /// The question to send, unless it is under way already.
    pub(super) nonce: Option<u64>,
    /// When it is given up.
    pub(super) until: Instant,
    /// Where the answer comes.
    pub(super) answer: watch::Receiver<Option<Usage>>,
}

impl UsageQuestions {
    /// Numbers begin at `first`: random, so that an earlier daemon's are others. Answers to those come before the status
    /// that an adopted guest is asked for first.
    pub(super) fn new(first: u64) -> Self {
        Self { next: first, asked: None }
    }

    /// Asks, or joins whoever waits already.
    pub(super) fn ask(&mut self, now: Instant) -> Asked {
        if let Some(asked) = &self.asked {
            return Asked { nonce: None, until: asked.until, answer: asked.answer.subscribe() };
        }
        let (sender, answer) = watch::channel(None);
        let (nonce, until) = (self.next, now + ANSWER_LIMIT);
        self.next = self.next.wrapping_add(1);
        self.asked = Some(Question { nonce, until, answer: sender });
        Asked { nonce: Some(nonce), until, answer }
    }

    /// The question could not be sent: nothing will come.
    pub(super) fn take_back(&mut self, nonce: u64) {
        if self.asked.as_ref().is_some_and(|asked| asked.nonce == nonce) {
            self.asked = None;
        }
    }

    /// Takes an answer; false when it is to no question.
    pub(super) fn answer(&mut self, nonce: u64, usage: Usage) -> bool {
        match self.asked.take() {
            Some(asked) if asked.nonce == nonce => {
                asked.answer.send_replace(Some(usage));
                true
            }
            other => {
                self.asked = other;
                false
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_question_has_one_answer_and_is_not_asked_again_before_it_came() {
        let now = Instant::now();
        let mut questions = UsageQuestions::new(u64::MAX);
        assert!(!questions.answer(u64::MAX, Usage::default()), "nobody asked");
        let first = questions.ask(now);
        assert_eq!((first.nonce, first.until), (Some(u64::MAX), now + ANSWER_LIMIT));
        let second = questions.ask(now + 5 * ANSWER_LIMIT);
        assert_eq!((second.nonce, second.until), (None, now + ANSWER_LIMIT), "it waits for the same");
        assert!(!questions.answer(7, Usage::default()));
        let usage = Usage { tasks: 5, ..Usage::default() };
        assert!(questions.answer(u64::MAX, usage));
        assert_eq!((*first.answer.borrow(), *second.answer.borrow()), (Some(usage), Some(usage)));
        assert!(!questions.answer(u64::MAX, usage), "once");
        let third = questions.ask(now);
        assert_eq!(third.nonce, Some(0));
        questions.take_back(0);
        assert_eq!(questions.ask(now).nonce, Some(1));
    }
}
