//! What may be asked of a sandbox in which phase: one pure function, and a name for every refusal.
//!
//! | | start, remove, rename | stop, kill, remove by force | signal | wait, await a start | log | guest |
//! | --- | --- | --- | --- | --- | --- | --- |
//! | absent | now | not live | not live | not live | not live | not live |
//! | reserved | taken | now | not live | now | not live | not live |
//! | hosted | taken | now | now | now | now | now |
//! | ending | once released | now | now | now | not live | now |
//! | lost, giving up | taken | now | not live | now | once hosted | once hosted |
//! | releasing, leaving | once released | now | not live | now | not live | not live |
//! | recording, backoff | taken | now | not live | now | not live | not live |
//! | removing | being removed | not live; a removal: being removed | not live | not live | not live | not live |
//!
//! An absent sandbox can be removed by force too. "Not live" is no error for who waits or reads: the row, or the
//! files, answer.

use sandpen_types::spec::SandboxKey;

use super::SupervisorError;
use super::phase::PhaseKind;

/// What is asked.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Request {
    /// [`StartSandbox`](super::StartSandbox) of a new specification.
    Start,
    /// The same of one that is there.
    StartAgain,
    /// [`AwaitStarted`](super::AwaitStarted).
    AwaitStarted,
    /// [`StopSandbox`](super::StopSandbox), a kill, or the orchestrator's own end.
    Stop,
    /// [`KillSandbox`](super::KillSandbox) with a signal for the workload.
    Signal,
    /// [`RemoveSandbox`](super::RemoveSandbox).
    Remove,
    /// The same with `force`.
    RemoveByForce,
    /// [`RenameSandbox`](super::RenameSandbox), of the old name and of the new one.
    Rename,
    /// [`WaitSandbox`](super::WaitSandbox).
    Wait,
    /// [`AwaitRestart`](super::AwaitRestart).
    AwaitRestart,
    /// [`OpenLog`](super::OpenLog).
    OpenLog,
    /// [`OpenGuest`](super::OpenGuest).
    OpenGuest,
}

/// When a request that is not refused is carried out.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum When {
    /// At once.
    Now,
    /// Once nothing is left of what has ended; who asks has seen that it ended. Asked again then.
    OnceReleased,
    /// Once there is a monitor again, or the end. Asked again then.
    OnceHosted,
}

/// Why a request is refused.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Refusal {
    /// A sandbox that has not ended for good has the name.
    NameTaken,
    /// The files of an ended one are being removed.
    BeingRemoved,
    /// There is nothing that could do it.
    NotLive,
}

impl Refusal {
    /// The error for who asked. `status`: the word for the sandbox's state.
    pub(super) fn error(self, key: SandboxKey, status: &'static str, asked: Request) -> SupervisorError {
        match (self, asked) {
            (Self::NameTaken, Request::Remove) => {
                let advice = ", which cannot be removed; stop it first, or use --force";
                SupervisorError::NotEnded { key, status, advice }
            }
            (Self::NameTaken, Request::Rename) => {
                let advice = ", which cannot be renamed; stop it first";
                SupervisorError::NotEnded { key, status, advice }
            }
            (Self::NameTaken, Request::StartAgain) => {
                let advice = " already; `sandpen restart` ends it and starts it again";
                SupervisorError::NotEnded { key, status, advice }
            }
            (Self::NameTaken, _) => SupervisorError::AlreadyLive { key, status },
            (Self::BeingRemoved, _) => SupervisorError::BeingRemoved { key },
            (Self::NotLive, _) => SupervisorError::NotLive { key, status },
        }
    }
}

/// See the module.
pub(super) fn admits(phase: PhaseKind, request: Request) -> Result<When, Refusal> {
    use PhaseKind as P;
    match request {
        Request::Start | Request::StartAgain | Request::Remove | Request::Rename => match phase {
            P::Absent => Ok(When::Now),
            P::Ending | P::Releasing | P::Leaving => Ok(When::OnceReleased),
            P::Reserved | P::Hosted | P::Lost | P::GivingUp | P::Recording | P::Backoff => Err(Refusal::NameTaken),
            P::Removing => Err(Refusal::BeingRemoved),
        },
        Request::RemoveByForce if phase == P::Removing => Err(Refusal::BeingRemoved),
        Request::RemoveByForce => Ok(When::Now),
        Request::Stop | Request::Wait | Request::AwaitStarted | Request::AwaitRestart => match phase {
            P::Absent | P::Removing => Err(Refusal::NotLive),
            _ => Ok(When::Now),
        },
        Request::Signal => match phase {
            P::Hosted | P::Ending => Ok(When::Now),
            _ => Err(Refusal::NotLive),
        },
        Request::OpenLog | Request::OpenGuest => match phase {
            P::Hosted => Ok(When::Now),
            P::Ending if request == Request::OpenGuest => Ok(When::Now),
            P::Lost | P::GivingUp => Ok(When::OnceHosted),
            _ => Err(Refusal::NotLive),
        },
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use proptest::prelude::*;
    use proptest::sample::select;

    use super::*;
    use sandpen_types::spec::SandboxName;

    const PHASES: [PhaseKind; 11] = [
        PhaseKind::Absent,
        PhaseKind::Reserved,
        PhaseKind::Hosted,
        PhaseKind::Ending,
        PhaseKind::Lost,
        PhaseKind::GivingUp,
        PhaseKind::Releasing,
        PhaseKind::Recording,
        PhaseKind::Backoff,
        PhaseKind::Leaving,
        PhaseKind::Removing,
    ];
    const REQUESTS: [Request; 12] = [
        Request::Start,
        Request::StartAgain,
        Request::Rename,
        Request::AwaitStarted,
        Request::Stop,
        Request::Signal,
        Request::Remove,
        Request::RemoveByForce,
        Request::Wait,
        Request::AwaitRestart,
        Request::OpenLog,
        Request::OpenGuest,
    ];

    /// The verbs that lead a child from phase to phase.
    #[derive(Debug, Clone, Copy, PartialEq, Eq)]
    enum Verb {
        Start,
        Host,
        GiveUp,
        Release,
        Restart,
        Remove,
    }

    /// What a child does by itself, or what happens to it.
    #[derive(Debug, Clone, Copy)]
    enum Step {
        Asked(Request),
        /// It goes on to one of the phases that may follow.
        GoesOn(prop::sample::Index),
    }

    fn owner(phase: PhaseKind) -> Option<Verb> {
        Some(match phase {
            PhaseKind::Absent => return None,
            PhaseKind::Reserved => Verb::Start,
            PhaseKind::Hosted | PhaseKind::Ending | PhaseKind::Lost => Verb::Host,
            PhaseKind::GivingUp => Verb::GiveUp,
            PhaseKind::Releasing => Verb::Release,
            PhaseKind::Recording | PhaseKind::Backoff => Verb::Restart,
            PhaseKind::Leaving | PhaseKind::Removing => Verb::Remove,
        })
    }

    fn key() -> SandboxKey {
        SandboxKey::new(SandboxName::new("a").unwrap())
    }

    #[test]
    fn what_is_being_removed_admits_nothing() {
        for request in REQUESTS {
            assert!(admits(PhaseKind::Removing, request).is_err(), "{request:?}");
        }
    }

    #[test]
    fn every_refusal_has_an_error_of_its_own() {
        let refusals = PHASES.iter().flat_map(|phase| REQUESTS.map(|request| admits(*phase, request)));
        let mut seen: Vec<Refusal> = Vec::new();
        for refusal in refusals.filter_map(Result::err) {
            if !seen.contains(&refusal) {
                seen.push(refusal);
            }
        }
        let errors: HashSet<_> = seen
            .iter()
            .map(|refusal| std::mem::discriminant(&refusal.error(key(), "RUNNING", Request::Start)))
            .collect();
        assert_eq!((seen.len(), errors.len()), (3, 3));
    }

    #[test]
    fn every_phase_is_reached_and_left_and_all_end() {
        let mut reached = vec![PhaseKind::Absent];
        let mut at = 0;
        while let Some(phase) = reached.get(at) {
            for next in phase.successors() {
                if !reached.contains(next) {
                    reached.push(*next);
                }
            }
            at += 1;
        }
        reached.sort();
        let mut all = PHASES.to_vec();
        all.sort();
        assert_eq!(reached, all);
    }

    /// Who waits for a phase is woken: from where it is awaited, there is a way to where it is admitted or refused.
    #[test]
    fn what_is_put_off_is_decided_in_the_end() {
        for request in REQUESTS {
            for phase in PHASES {
                let Ok(When::OnceReleased | When::OnceHosted) = admits(phase, request) else { continue };
                let mut seen = vec![phase];
                let mut at = 0;
                while let Some(phase) = seen.get(at).copied() {
                    at += 1;
                    if matches!(admits(phase, request), Ok(When::OnceReleased | When::OnceHosted)) {
                        for next in phase.successors() {
                            if !seen.contains(next) {
                                seen.push(*next);
                            }
                        }
                    }
                }
                let decided = seen.iter().any(|phase| matches!(admits(*phase, request), Ok(When::Now) | Err(_)));
                assert!(decided, "{request:?} in {phase:?}");
            }
        }
    }

    proptest! {
        #[test]
        fn no_start_and_no_removal_meets_another_verb(phase in select(&PHASES[..]), request in select(&REQUESTS[..])) {
            if matches!(request, Request::Start | Request::Remove) && admits(phase, request) == Ok(When::Now) {
                prop_assert_eq!(owner(phase), None);
            }
            // Nothing is put off for somebody who is not there.
            if phase == PhaseKind::Absent {
                prop_assert!(matches!(admits(phase, request), Ok(When::Now) | Err(Refusal::NotLive)));
            }
        }

        /// Whatever is asked in whatever order: a child has one owner, a start is begun by a start alone and only
        /// when nothing of an earlier one is left, and a removal is left to itself until the name is free.
        #[test]
        fn over_a_whole_life_a_child_has_one_owner(
            steps in prop::collection::vec(
                prop_oneof![
                    select(&REQUESTS[..]).prop_map(Step::Asked),
                    any::<prop::sample::Index>().prop_map(Step::GoesOn),
                ],
                0..200,
            ),
        ) {
            let mut phase = PhaseKind::Absent;
            let mut owners: Vec<Verb> = Vec::new();
            for step in steps {
                let next = match step {
                    Step::Asked(request) => match (request, admits(phase, request)) {
                        (Request::Start, Ok(When::Now)) => PhaseKind::Reserved,
                        (Request::Remove, Ok(When::Now)) => PhaseKind::Removing,
                        // Of somebody who is not there: as without force.
                        (Request::RemoveByForce, Ok(When::Now)) if phase == PhaseKind::Absent => PhaseKind::Removing,
                        // Everything else is told to the owner, or waits.
                        _ => phase,
                    },
                    Step::GoesOn(_) if phase == PhaseKind::Absent => phase,
                    Step::GoesOn(index) => *index.get(phase.successors()),
                };
                if next != phase {
                    prop_assert!(phase.successors().contains(&next), "{phase:?} to {next:?}");
                    if matches!(next, PhaseKind::Reserved | PhaseKind::Removing) {
                        prop_assert!(owners.is_empty(), "{next:?} while {owners:?}");
                    }
                    owners.clear();
                    owners.extend(owner(next));
                    phase = next;
                }
                prop_assert!(owners.len() <= 1);
                prop_assert_eq!(owners.first().copied(), owner(phase));
            }
        }
    }
}
