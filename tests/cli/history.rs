//! A workload that ends at once and is started again at once, as often as it may: what is kept and shown of it has
//! bounds, and what happened to others stays.

use serde_json::{Value, json};

use crate::http_api::request;
use crate::support::{Home, run_on_host as run, succeeds};

const STARTS: u64 = 230;

fn lines(home: &Home, args: &[&str]) -> Vec<Value> {
    home.ok(args).lines().map(|line| serde_json::from_str(line).unwrap()).collect()
}

fn numbers(steps: &[Value]) -> Vec<u64> {
    steps.iter().map(|step| step["seq"].as_u64().unwrap()).collect()
}

#[test]
fn of_a_sandbox_that_restarts_all_the_time_the_latest_starts_are_kept_and_nobody_else_loses_anything() {
    let home = Home::new();
    let _quiet = succeeds(run(&home, &["-n", "quiet"], "exit 0"));
    let now = json!({"initial": {"secs": 0, "nanos": 0}, "max": {"secs": 1, "nanos": 0}, "healthy_after": {"secs": 10, "nanos": 0}});
    let spec = json!({
        "key": {"config": "default", "name": "noisy"},
        "rootfs": {"native": home.path()},
        "command": ["false"],
        "driver": {"named": "process"},
        "restart": {"on_failure": {"max": STARTS - 1}},
        "restart_backoff": now,
    });
    let (status, answer) = request(&home, "POST", "/v1/sandboxes", &spec.to_string());
    assert_eq!(status, 201, "{answer}");
    assert_eq!(home.ok(&["wait", "noisy"]), "1\n");
    let inspected = home.inspect("noisy");
    assert_eq!((&inspected["generation"], &inspected["state"]), (&STARTS.into(), &"STOPPED".into()), "{inspected}");

    let kept = lines(&home, &["history", "--json", "noisy"]);
    let last = kept.last().unwrap()["seq"].as_u64().unwrap();
    let first = kept[0]["seq"].as_u64().unwrap();
    assert_eq!(numbers(&kept), (first..=last).collect::<Vec<_>>());
    assert_eq!((&kept[0]["state"], &kept[0]["generation"]), (&"STARTING".into(), &(STARTS - 99).into()));
    assert_eq!(kept.iter().filter(|step| step["state"] == "STARTING").count(), 100);
    // As many as are asked for, and a look at the end.
    assert_eq!(
        numbers(&lines(&home, &["history", "--json", "--last", "7", "noisy"])),
        (last - 6..=last).collect::<Vec<_>>()
    );
    assert_eq!(lines(&home, &["history", "--json", "--last", &u64::MAX.to_string(), "noisy"]), kept);
    let tail = &kept[kept.len() - 50..];
    assert_eq!(inspected["history"].as_array().unwrap(), tail);
    let text = home.ok(&["history", "--last", "1", "noisy"]);
    assert!(
        text.contains(&format!("start {STARTS}")) && text.contains("STOPPED") && text.contains("exit code 1"),
        "{text}"
    );
    for bad in ["0", "-1", "x", ""] {
        assert_eq!(home.run(&["history", &format!("--last={bad}"), "noisy"]).status.code(), Some(2), "{bad}");
    }

    // The same page by page, from either end.
    let page = |query: &str| {
        let (status, answer) = request(&home, "GET", &format!("/v1/sandboxes/default/noisy/history{query}"), "");
        assert_eq!(status, 200, "{answer}");
        answer.as_array().unwrap().clone()
    };
    assert_eq!(page(""), kept);
    let (mut forward, mut backward) = (page("?limit=90"), page(&format!("?limit=90&before={}", u64::MAX)));
    assert_eq!(forward.len(), 90);
    loop {
        let more = page(&format!("?limit=90&after={}", forward.last().unwrap()["seq"]));
        forward.extend(more.iter().cloned());
        let before = page(&format!("?limit=90&before={}", backward[0]["seq"]));
        backward.splice(..0, before.iter().cloned());
        if more.is_empty() && before.is_empty() {
            break;
        }
    }
    assert!(forward == kept && backward == kept);
    assert_eq!(page(&format!("?after={}", u64::MAX)), Vec::<Value>::new());

    // Events of before the flood are there, and what is missing is told.
    let events = lines(&home, &["events", "--json"]);
    let of = |name: &str| events.iter().filter(|event| event["name"] == name).count();
    assert_eq!((of("quiet"), of("noisy"), events[0]["kind"].as_str()), (4, 1000, Some("orchestrator_started")));
    let refused = home.fails(&["events", "--from", "1", "noisy"]);
    assert!(refused.contains("event 1 is no longer kept; the first one that is kept is"), "{refused}");
    assert_eq!(lines(&home, &["events", "--json", "noisy"]).len(), 1000);
    assert_eq!(lines(&home, &["events", "--json", "--from", "1", "quiet"]).len(), 4);
    let told = home.run(&["events", "--json", "--from", "5"]);
    let told = String::from_utf8(told.stderr).unwrap();
    let first = lines(&home, &["events", "--json", "noisy"])[0]["seq"].as_u64().unwrap();
    assert_eq!(told, format!("sandpen: events 6 to {} are no longer kept\n", first - 1));
}
