//! The edges of one life on their way to the database, in the order in which they came: pure, the clock is an
//! argument.
//!
//! ```text
//!   push ─▶ waits for those before it ─▶ first: being recorded ─▶ durable ─▶ what follows it
//!               └── what it ends: at once when it is durable, when it has waited for 0.2 s, or when the
//!                   database refuses; whatever comes first
//! ```
//!
//! Nothing that was pushed is lost or takes the place of something else: an edge leaves when it is durable, or when
//! it turns out to be none. The same event twice is one edge, so that the queue is bounded by their kinds.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

use sandpen_types::state::{Event, SandboxState, StopCause};

/// How long what ends the microVM waits for its edge to be durable.
pub(super) const DURABLE_FIRST: Duration = Duration::from_millis(200);

/// How the microVM is ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Ending {
    /// The workload is asked, and has this long.
    Ask(Duration),
    /// The VMM is killed.
    Kill,
}

impl Ending {
    /// The harder one of two.
    pub(super) fn or_harder(self, other: Option<Self>) -> Self {
        match (self, other) {
            (Self::Ask(grace), Some(Self::Ask(other))) => Self::Ask(grace.min(other)),
            (Self::Kill, _) | (_, Some(Self::Kill)) => Self::Kill,
            (ending, None) => ending,
        }
    }
}

/// What the life does once an edge is durable.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum After {
    /// No more than to tell it.
    Nothing,
    /// The workload's time begins to run.
    CountRunTime,
    /// The guest may power off.
    Acknowledge,
    /// The life is over but for what is left of the microVM.
    Release,
}

/// One edge; `R` is the place of an answer.
#[derive(Debug)]
pub(super) struct Edge<R> {
    pub(super) event: Event,
    /// What it ends, until that is carried out, and how long that waits for it at most.
    ending: Option<(Ending, Instant)>,
    pub(super) after: After,
    /// Who hears when it is durable.
    pub(super) replies: Vec<R>,
}

impl<R> Edge<R> {
    /// What it ends, if that was not carried out before.
    pub(super) fn ending(&self) -> Option<Ending> {
        self.ending.map(|(ending, _)| ending)
    }
}

/// The edges that are not durable yet.
#[derive(Debug)]
pub(super) struct Edges<R> {
    /// The first one is being recorded, or is next.
    queue: VecDeque<Edge<R>>,
}

impl<R> Default for Edges<R> {
    fn default() -> Self {
        Self { queue: VecDeque::new() }
    }
}

impl<R> Edges<R> {
    /// Adds an edge.
    pub(super) fn push(&mut self, event: Event, after: After) {
        self.queue.push_back(Edge { event, ending: None, after, replies: Vec::new() });
    }

    /// Adds one after which the microVM is ended, at `now + DURABLE_FIRST` at the latest.
    pub(super) fn push_ending(&mut self, event: Event, ending: Ending, reply: Option<R>, now: Instant) {
        let at = now + DURABLE_FIRST;
        if let Some(edge) = self.queue.iter_mut().find(|edge| edge.event == event) {
            let (before, planned) = edge.ending.unzip();
            edge.ending = Some((ending.or_harder(before), planned.map_or(at, |planned| at.min(planned))));
            edge.replies.extend(reply);
        } else {
            let replies = reply.into_iter().collect();
            self.queue.push_back(Edge { event, ending: Some((ending, at)), after: After::Nothing, replies });
        }
    }

    /// The next one to be recorded where the row is in `state`. A report of the workload's end can be the first sign
    /// of life after an adoption: that it ran is an edge of its own.
    pub(super) fn first(&mut self, state: &SandboxState) -> Option<&Event> {
        if *state == SandboxState::Starting
            && self.queue.front().is_some_and(|edge| matches!(edge.event, Event::WorkloadExited(_)))
        {
            let after = After::Nothing;
            self.queue.push_front(Edge { event: Event::WorkloadStarted, ending: None, after, replies: Vec::new() });
        }
        self.queue.front().map(|edge| &edge.event)
    }

    /// Takes the first one, which is durable or none.
    pub(super) fn take_first(&mut self) -> Option<Edge<R>> {
        self.queue.pop_front()
    }

    /// When something has to be ended although its edge is not durable.
    pub(super) fn next_ending(&self) -> Option<Instant> {
        self.queue.iter().filter_map(|edge| edge.ending).map(|(_, at)| at).min()
    }

    /// The hardest of the endings that wait no longer.
    pub(super) fn take_ending(&mut self, now: Instant) -> Option<Ending> {
        let due = self.queue.iter_mut().filter_map(|edge| edge.ending.take_if(|(_, at)| *at <= now));
        due.fold(None, |hardest, (ending, _)| Some(ending.or_harder(hardest)))
    }

    /// The database cannot record for the moment: no ending waits for it.
    pub(super) fn refused(&mut self, now: Instant) {
        for (_, at) in self.queue.iter_mut().filter_map(|edge| edge.ending.as_mut()) {
            *at = now.min(*at);
        }
    }

    /// Those who wait for a kill, when it has failed.
    pub(super) fn take_replies_of_kills(&mut self) -> Vec<R> {
        let kills =
            self.queue.iter_mut().filter(|edge| matches!(edge.event, Event::StopRequested(StopCause::Killed { .. })));
        kills.flat_map(|edge| edge.replies.drain(..)).collect()
    }
}

/// Whether the row says already what the event tells: after an adoption a guest says once more what it did.
pub(super) fn is_known(state: &SandboxState, event: &Event) -> bool {
    match event {
        Event::WorkloadStarted => *state != SandboxState::Starting,
        Event::WorkloadExited(_) => state.exit().is_some(),
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use sandpen_types::state::ExitStatus;

    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    fn stop() -> Event {
        Event::StopRequested(StopCause::Requested)
    }

    fn kill() -> Event {
        Event::StopRequested(StopCause::Killed { signal: 9 })
    }

    fn names(edges: &Edges<u32>) -> Vec<&'static str> {
        edges.queue.iter().map(|edge| edge.event.name()).collect()
    }

    #[test]
    fn edges_leave_in_the_order_in_which_they_came() {
        let now = Instant::now();
        let mut edges = Edges::default();
        assert_eq!(edges.first(&SandboxState::Starting), None);
        edges.push(Event::WorkloadStarted, After::CountRunTime);
        edges.push_ending(Event::StopRequested(StopCause::OrchestratorEnds), Ending::Ask(SECOND), Some(1), now);
        edges.push_ending(stop(), Ending::Ask(SECOND), Some(2), now);
        assert_eq!(edges.first(&SandboxState::Starting), Some(&Event::WorkloadStarted));
        assert_eq!(edges.take_first().unwrap().after, After::CountRunTime);
        for (cause, reply) in [(StopCause::OrchestratorEnds, 1), (StopCause::Requested, 2)] {
            let edge = edges.take_first().unwrap();
            assert_eq!(edge.ending(), Some(Ending::Ask(SECOND)), "it was durable before it had waited for long");
            assert_eq!((edge.event, edge.replies), (Event::StopRequested(cause), vec![reply]));
        }
        assert!(edges.take_first().is_none());
    }

    #[test]
    fn the_same_request_twice_is_one_edge_and_both_hear_of_it() {
        let now = Instant::now();
        let mut edges = Edges::default();
        edges.push_ending(stop(), Ending::Ask(SECOND * 10), Some(1), now);
        edges.push_ending(stop(), Ending::Ask(SECOND), Some(2), now + SECOND);
        assert_eq!(edges.next_ending(), Some(now + DURABLE_FIRST), "the second puts nothing off");
        assert_eq!(edges.take_ending(now + DURABLE_FIRST), Some(Ending::Ask(SECOND)));
        // It is still being recorded when it is asked for once more.
        edges.push_ending(stop(), Ending::Ask(SECOND * 5), Some(3), now + SECOND);
        assert_eq!(edges.next_ending(), Some(now + SECOND + DURABLE_FIRST));
        assert_eq!(edges.take_first().unwrap().replies, [1, 2, 3]);
    }

    #[test]
    fn endings_wait_for_their_edge_no_longer_than_they_may() {
        let now = Instant::now();
        let after = |millis| now + Duration::from_millis(millis);
        // What is pushed and when; when the endings are looked at; what is carried out.
        let cases = [
            (vec![(stop(), Ending::Ask(SECOND), 0)], 199, None),
            (vec![(stop(), Ending::Ask(SECOND), 0)], 200, Some(Ending::Ask(SECOND))),
            (vec![(stop(), Ending::Ask(SECOND), 0), (kill(), Ending::Kill, 100)], 200, Some(Ending::Ask(SECOND))),
            (vec![(stop(), Ending::Ask(SECOND), 0), (kill(), Ending::Kill, 100)], 300, Some(Ending::Kill)),
            (vec![(kill(), Ending::Kill, 0), (stop(), Ending::Ask(SECOND), 0)], 200, Some(Ending::Kill)),
        ];
        for (pushed, at, expected) in cases {
            let mut edges = Edges::<u32>::default();
            edges.push(Event::WorkloadStarted, After::CountRunTime);
            for (event, ending, millis) in pushed {
                edges.push_ending(event, ending, None, after(millis));
            }
            assert_eq!(edges.take_ending(after(at)), expected, "{:?}", names(&edges));
            assert_eq!(edges.take_ending(after(at)), None, "once");
        }
    }

    #[test]
    fn a_database_that_refuses_is_waited_for_by_no_ending() {
        let now = Instant::now();
        let mut edges = Edges::default();
        edges.push_ending(stop(), Ending::Ask(SECOND), Some(1), now);
        edges.push_ending(kill(), Ending::Kill, Some(2), now);
        edges.refused(now);
        assert_eq!(edges.take_ending(now), Some(Ending::Kill));
        assert_eq!(edges.next_ending(), None);
        assert_eq!(edges.take_replies_of_kills(), [2], "the stop is still recorded");
        let stopped = edges.take_first().unwrap();
        assert_eq!((stopped.ending(), stopped.replies), (None, vec![1]));
    }

    #[test]
    fn an_end_that_is_the_first_sign_of_life_comes_after_the_beginning() {
        let exited = Event::WorkloadExited(ExitStatus::Code(0));
        let mut edges = Edges::<u32>::default();
        edges.push(exited.clone(), After::Acknowledge);
        assert_eq!(edges.first(&SandboxState::Starting), Some(&Event::WorkloadStarted));
        assert_eq!(edges.first(&SandboxState::Starting), Some(&Event::WorkloadStarted), "once");
        edges.take_first();
        assert_eq!(edges.first(&SandboxState::Running), Some(&exited));
        assert_eq!(edges.take_first().unwrap().after, After::Acknowledge);
    }

    #[test]
    fn what_a_guest_says_once_more_is_known() {
        let exited = Event::WorkloadExited(ExitStatus::Code(0));
        let stopping = |exit| SandboxState::Stopping { cause: StopCause::WorkloadEnded, exit };
        let ended = stopping(Some(ExitStatus::Code(0)));
        for (state, event, known) in [
            (SandboxState::Starting, Event::WorkloadStarted, false),
            (SandboxState::Running, Event::WorkloadStarted, true),
            (SandboxState::Running, exited.clone(), false),
            (stopping(None), exited.clone(), false),
            (ended.clone(), exited, true),
            (ended, stop(), false),
        ] {
            assert_eq!(is_known(&state, &event), known, "{state:?} {event:?}");
        }
    }
}
