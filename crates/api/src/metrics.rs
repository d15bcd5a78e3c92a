//! Counters and gauges on the wire: as values, and in Prometheus' text format.

use std::collections::BTreeMap;
use std::fmt::Write as _;

use serde::{Deserialize, Serialize};

/// `Content-Type` of [`prometheus`].
pub const PROMETHEUS_CONTENT_TYPE: &str = "text/plain; version=0.0.4; charset=utf-8";

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
    fn hostile_labels_stay_on_their_line() {
        let labels = BTreeMap::from([("k".to_owned(), "x\"} 1\n\\y".to_owned())]);
        let metric = Metric { name: "a".into(), kind: MetricKind::Gauge, help: "b\nc".into(), labels, value: 2 };
        assert_eq!(prometheus(&[metric]), "# HELP a b\\nc\n# TYPE a gauge\na{k=\"x\\\"} 1\\n\\\\y\"} 2\n");
    }
}
