//! How much of the past is kept: one set of numbers, in several places.

use std::collections::BTreeSet;

use sandpen_actors::database::{EVENTS_KEPT, EVENTS_KEPT_OF_SANDBOX, OWN_EVENTS_KEPT, STARTS_KEPT};

use sandpen_types::job::ENDED_JOBS_KEPT;

use super::{read, rows, section};

/// The numbers stand in the code, in the triggers that see to them, and where users read of them.
#[test]
fn what_is_kept_of_the_past() {
    let number = |text: &str| -> Vec<u64> {
        let words = text.split(|c: char| !c.is_ascii_digit()).filter(|word| !word.is_empty());
        words.map(|word| word.parse().unwrap()).collect()
    };
    let page = read("docs/operations.md");
    let table = rows(section(&page, "## What is kept"));
    let documented: Vec<_> = table.iter().map(|cells| number(cells[1])[0]).collect();
    let jobs = u64::try_from(ENDED_JOBS_KEPT).unwrap();
    assert_eq!(documented, [STARTS_KEPT, EVENTS_KEPT_OF_SANDBOX, EVENTS_KEPT, OWN_EVENTS_KEPT, jobs]);
    for page in ["docs/sessions.md", "docs/http-api.md"] {
        assert!(
            number(section(&read(page), if page.ends_with("api.md") { "### Jobs" } else { "## Jobs" })).contains(&jobs)
        );
    }
    assert!(number(&read("src/cli/jobs.rs")).contains(&jobs));
    let api = read("docs/http-api.md");
    let events = number(section(&api, "### Events"));
    assert!([EVENTS_KEPT_OF_SANDBOX, EVENTS_KEPT, OWN_EVENTS_KEPT].iter().all(|kept| events.contains(kept)));
    let history = number(section(&api, "### History"));
    assert!(
        [STARTS_KEPT, u64::from(sandpen_types::history::HistoryPage::MAX)].iter().all(|kept| history.contains(kept))
    );
    let migration = read("migrations/0005_bounds.sql");
    let statements = migration.lines().filter(|line| !line.trim_start().starts_with("--")).collect::<String>();
    let large: BTreeSet<u64> = number(&statements).into_iter().filter(|number| *number >= 100).collect();
    assert_eq!(large, BTreeSet::from([STARTS_KEPT, EVENTS_KEPT_OF_SANDBOX, OWN_EVENTS_KEPT, EVENTS_KEPT]));
    for (page, kept) in [("src/cli/history.rs", STARTS_KEPT), ("docs/state-machine.md", STARTS_KEPT)] {
        assert!(number(&read(page)).contains(&kept), "{page}");
    }
    let help = number(&read("src/cli/events.rs"));
    assert!([EVENTS_KEPT_OF_SANDBOX, EVENTS_KEPT, OWN_EVENTS_KEPT].iter().all(|kept| help.contains(kept)));
}
