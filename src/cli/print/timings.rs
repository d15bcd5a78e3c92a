//! Where the time of a command that starts a sandbox went.

use sandpen::api;
use sandpen_types::start_step::Spender;
use sandpen_types::visible::visible;
use sandpen_vmm::start_timings::monotonic_us;

use super::{aligned, to_stderr};

/// The command's own steps, if they are wanted; those of the daemon come between them by their times.
pub struct Timings {
    wanted: bool,
    began_us: u64,
    marks: Vec<Row>,
}

/// One step.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Row {
    /// Since the command began.
    at_us: u64,
    step: String,
    by: String,
}

impl Timings {
    /// Those of a command that begins now.
    pub fn begin(wanted: bool) -> Self {
        Self { wanted, began_us: monotonic_us(), marks: Vec::new() }
    }

    /// A step of the command's own is done.
    pub fn mark(&mut self, step: &str) {
        let at_us = monotonic_us().saturating_sub(self.began_us);
        self.marks.push(Row { at_us, step: step.to_owned(), by: Spender::Sandpen.name().to_owned() });
    }

    /// Shows all on standard error.
    pub fn show(self, of_daemon: Option<&api::Timings>) {
        if self.wanted {
            to_stderr(&self.text(of_daemon));
        }
    }

    fn text(self, of_daemon: Option<&api::Timings>) -> String {
        let Self { began_us, marks: mut rows, .. } = self;
        let mut text = String::new();
        match of_daemon {
            None => text.push_str("sandpen: the daemon knows nothing of the steps of this start\n"),
            Some(timings) => {
                if timings.adopted {
                    text.push_str("sandpen: the daemon was another one at first; what was before is not known\n");
                }
                rows.extend(timings.steps.iter().map(|step| Row {
                    at_us: timings.began_us.saturating_add(step.at_us).saturating_sub(began_us),
                    step: visible(&step.step),
                    by: visible(&step.by),
                }));
            }
        }
        // Stable: steps of one microsecond stay in the order in which they were told.
        rows.sort_by_key(|row| row.at_us);
        let mut before = 0;
        let cells = rows.into_iter().map(|Row { at_us, step, by }| {
            let took = at_us - std::mem::replace(&mut before, at_us);
            [step, by, milliseconds(took), milliseconds(at_us)]
        });
        let heading = ["STEP", "BY", "TOOK ms", "AT ms"].map(str::to_owned);
        text.push_str(&aligned(std::iter::once(heading).chain(cells)));
        text
    }
}

fn milliseconds(us: u64) -> String {
    format!("{}.{:03}", us / 1000, us % 1000)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn step(step: &str, at_us: u64) -> api::StepTime {
        api::StepTime { step: step.to_owned(), by: "guest".to_owned(), at_us, took_us: 0 }
    }

    #[test]
    fn the_daemons_steps_come_between_the_commands_own() {
        let row = |at_us, step: &str| Row { at_us, step: step.to_owned(), by: "sandpen".to_owned() };
        let own = || Timings { wanted: true, began_us: 1_000, marks: vec![row(500, "found"), row(9_000, "shown")] };
        let daemon =
            api::Timings { adopted: false, began_us: 2_000, steps: vec![step("a\u{1b}", 0), step("b", 1_500)] };
        let shown = own().text(Some(&daemon));
        let rows: Vec<Vec<&str>> = shown.lines().map(|line| line.split_whitespace().collect()).collect();
        assert_eq!(
            rows[1..],
            [
                vec!["found", "sandpen", "0.500", "0.500"],
                vec!["a\\u{1b}", "guest", "0.500", "1.000"],
                vec!["b", "guest", "1.500", "2.500"],
                vec!["shown", "sandpen", "6.500", "9.000"],
            ]
        );
        assert!(own().text(None).starts_with("sandpen: the daemon knows nothing"));
        assert!(own().text(Some(&api::Timings { adopted: true, ..daemon })).contains("is not known"));
    }
}
