//! Deadlines of the end of a microVM that the unit tests beside them leave open.

use std::time::{Duration, Instant};

use super::deadlines::{Deadlines, Due};

const SECOND: Duration = Duration::from_secs(1);

#[test]
fn a_guest_has_ten_seconds_to_power_off_whatever_was_planned() {
    let start = Instant::now();
    let mut deadlines = Deadlines::default();
    deadlines.limit_run_time(start + SECOND);
    deadlines.stop_asked(start, SECOND * 60);
    deadlines.exit_acknowledged(start);
    assert_eq!(deadlines.take_due(start + SECOND * 9), None);
    assert_eq!(deadlines.take_due(start + SECOND * 10), Some(Due::KillVmm));
}

#[test]
fn nothing_is_due_while_the_output_of_an_ended_workload_is_drained() {
    let start = Instant::now();
    let mut deadlines = Deadlines::default();
    deadlines.limit_run_time(start);
    deadlines.stop_asked(start, SECOND);
    deadlines.workload_ended();
    assert_eq!((deadlines.next(), deadlines.take_due(start + SECOND * 3600)), (None, None));
}

#[test]
fn a_stop_puts_off_no_kill_that_is_due_as_soon() {
    let start = Instant::now();
    let mut deadlines = Deadlines::default();
    deadlines.stop_asked(start, Duration::ZERO);
    assert_eq!(deadlines.take_due(start), Some(Due::TerminateVmm));
    let kill = deadlines.next().unwrap();
    deadlines.stop_asked(start, kill - start);
    assert_eq!(deadlines.take_due(kill), Some(Due::KillVmm));
}

#[test]
fn the_time_limit_is_no_step_of_an_end() {
    let start = Instant::now();
    let mut deadlines = Deadlines::default();
    deadlines.limit_run_time(start);
    assert_eq!((deadlines.next_escalation(), deadlines.take_escalation(start)), (None, None));
    deadlines.stop_asked(start, SECOND);
    assert_eq!(deadlines.next_escalation(), Some(start + SECOND));
}
