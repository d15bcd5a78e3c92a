//! Counters and gauges of an orchestrator, as values and in Prometheus' text format.

use std::collections::BTreeMap;
use std::fmt::Write as _;

use sandpen_actors::counters::{Counter, CounterName};
use sandpen_actors::fault::Fault;
use sandpen_actors::faults::Faults;
use serde::{Deserialize, Serialize};

/// `Content-Type` of [`prometheus`].
pub const PROMETHEUS_CONTENT_TYPE: &str = "text/plain; version=0.0.4; charset=utf-8";

/// The states a sandbox can be in, and the gauge that counts them.
const STATES: [&str; 7] = ["CREATED", "STARTING", "RUNNING", "STOPPING", "STOPPED", "FAILED", "BACKOFF"];
const SANDBOXES: (&str, &str) =
    ("sandpen_sandboxes", "Sandboxes that there are, by state; left out when the database cannot be read.");
const FAULT_ACTIVE: (&str, &str) = ("sandpen_fault_active", "Whether a fault of the host lasts, 1 or 0.");

/// One number with its name.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Metric {
    /// Its name; several differ in their labels.
    pub name: String,
    /// Counter or gauge.
    pub kind: MetricKind,
    /// What it is, one line.
    pub help: String,
    /// What tells it from others of its name.
    pub labels: BTreeMap<String, String>,
    /// The number.
    pub value: u64,
}

/// What a number does.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum MetricKind {
    /// Grows, from zero at the start of the orchestrator.
    Counter,
    /// Goes up and down.
    Gauge,
}

impl Metric {
    fn new(kind: MetricKind, (name, help): (&str, &str), label: Option<(&str, &str)>, value: u64) -> Self {
        let labels = label.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned())).collect();
        Self { name: name.to_owned(), kind, help: help.to_owned(), labels, value }
    }
}

/// All metrics; `by_state` counts the sandboxes of each state, where that is known.
pub(crate) fn all(faults: &Faults, by_state: Option<&[(String, u64)]>) -> Vec<Metric> {
    let counters = Counter::ALL.into_iter().map(|counter| {
        let CounterName { name, label } = counter.name();
        Metric::new(MetricKind::Counter, (name, counter.help()), label, faults.counters().value(counter))
    });
    let active = faults.active();
    let lasting = Fault::ALL.into_iter().filter(|fault| *fault != Fault::ClockJumped).map(|fault| {
        let label = Some(("fault", fault.as_str()));
        Metric::new(MetricKind::Gauge, FAULT_ACTIVE, label, u64::from(active.contains(&fault)))
    });
    let sandboxes = by_state.into_iter().flat_map(|by_state| {
        STATES.into_iter().map(|state| {
            let count = by_state.iter().find(|(of, _)| of == state).map_or(0, |(_, count)| *count);
            Metric::new(MetricKind::Gauge, SANDBOXES, Some(("state", state)), count)
        })
    });
    counters.chain(lasting).chain(sandboxes).collect()
}

/// The text that Prometheus scrapes. Those of one name must follow each other.
pub fn prometheus(metrics: &[Metric]) -> String {
    let mut text = String::new();
    let mut before = "";
    for Metric { name, kind, help, labels, value } in metrics {
        // Writing into a string cannot fail.
        if name != before {
            let kind = match kind {
                MetricKind::Counter => "counter",
                MetricKind::Gauge => "gauge",
            };
            let help = help.replace('\\', "\\\\").replace('\n', "\\n");
            let _ = write!(text, "# HELP {name} {help}\n# TYPE {name} {kind}\n");
            before = name;
        }
        let labels: Vec<String> = labels.iter().map(|(key, value)| format!("{key}=\"{}\"", escaped(value))).collect();
        let labels = if labels.is_empty() { String::new() } else { format!("{{{}}}", labels.join(",")) };
        let _ = writeln!(text, "{name}{labels} {value}");
    }
    text
}

fn escaped(value: &str) -> String {
    value.replace('\\', "\\\\").replace('"', "\\\"").replace('\n', "\\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_text_has_each_family_once_and_each_number_on_a_line() {
        let faults = Faults::default();
        faults.count(Counter::MonitorRestarts);
        let text = prometheus(&all(&faults, Some(&[("RUNNING".to_owned(), 3)])));
        assert!(text.contains("\nsandpen_actor_restarts_total{actor=\"monitor\"} 1\n"), "{text}");
        assert!(text.contains("\nsandpen_sandboxes{state=\"RUNNING\"} 3\n"), "{text}");
        assert!(text.contains("\nsandpen_sandboxes{state=\"BACKOFF\"} 0\n"), "{text}");
        let mut types: Vec<_> = text.lines().filter(|line| line.starts_with("# TYPE")).collect();
        let all = types.len();
        types.sort_unstable();
        types.dedup();
        assert_eq!(types.len(), all);
        assert!(!prometheus(&super::all(&faults, None)).contains("sandpen_sandboxes"));
    }

    #[test]
    fn hostile_labels_stay_on_their_line() {
        let metric = Metric::new(MetricKind::Gauge, ("a", "b\nc"), Some(("k", "x\"} 1\n\\y")), 2);
        assert_eq!(prometheus(&[metric]), "# HELP a b\\nc\n# TYPE a gauge\na{k=\"x\\\"} 1\\n\\\\y\"} 2\n");
    }
}
