//! Counters and gauges of an orchestrator.

use sandpen_actors::telemetry::counters::{Counter, CounterName};
use sandpen_actors::telemetry::faults::Faults;
use sandpen_api::{Metric, MetricKind};
use sandpen_types::fault::Fault;
use sandpen_types::state::Status;

const SANDBOXES: (&str, &str) =
    ("sandpen_sandboxes", "Sandboxes that there are, by state; left out when the database cannot be read.");
const FAULT_ACTIVE: (&str, &str) = ("sandpen_fault_active", "Whether a fault of the host lasts, 1 or 0.");

fn metric(kind: MetricKind, (name, help): (&str, &str), label: Option<(&str, &str)>, value: u64) -> Metric {
    let labels = label.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned())).collect();
    Metric { name: name.to_owned(), kind, help: help.to_owned(), labels, value }
}

/// All metrics; `by_state` counts the sandboxes of each state, where that is known.
pub(crate) fn all(faults: &Faults, by_state: Option<&[(String, u64)]>) -> Vec<Metric> {
    let counters = Counter::ALL.into_iter().map(|counter| {
        let CounterName { name, label } = counter.name();
        metric(MetricKind::Counter, (name, counter.help()), label, faults.counters().value(counter))
    });
    let active = faults.active();
    let lasting = Fault::ALL.into_iter().filter(|fault| *fault != Fault::ClockJumped).map(|fault| {
        let label = Some(("fault", fault.as_str()));
        metric(MetricKind::Gauge, FAULT_ACTIVE, label, u64::from(active.contains(&fault)))
    });
    let sandboxes = by_state.into_iter().flat_map(|by_state| {
        Status::ALL.into_iter().map(|status| {
            let count = by_state.iter().find(|(of, _)| of == status.as_str()).map_or(0, |(_, count)| *count);
            metric(MetricKind::Gauge, SANDBOXES, Some(("state", status.as_str())), count)
        })
    });
    counters.chain(lasting).chain(sandboxes).collect()
}

#[cfg(test)]
mod tests {
    use sandpen_api::prometheus;

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
}
