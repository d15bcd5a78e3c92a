//! Names that are planned.

use super::*;

#[test]
fn the_same_plan_twice_is_one_and_its_name_is_nobody_elses() {
    run(|| async {
        let fixture = Fixture::new();
        let database = fixture.open().await;
        let (one, other) = (add(&database, "a").await.id, add(&database, "b").await.id);
        let key = |name| SandboxKey::new(SandboxName::new(name).unwrap());
        let plan = |sandbox, to| database.send(PlanRename { sandbox, to: key(to) });
        plan(one, "c").await.unwrap().unwrap();
        // As after the death of the actor that had it.
        plan(one, "c").await.unwrap().unwrap();
        assert!(matches!(plan(other, "c").await.unwrap(), Err(DatabaseError::NameReserved { .. })));
        assert!(matches!(plan(one, "b").await.unwrap(), Err(DatabaseError::NameTaken { .. })));
        assert!(plan(one, "d").await.unwrap().is_err(), "one at a time");
        database.send(RenameSandbox { sandbox: one, to: key("c") }).await.unwrap().unwrap();
        assert!(matches!(plan(other, "a").await.unwrap(), Err(DatabaseError::NameReserved { .. })));
    });
}
