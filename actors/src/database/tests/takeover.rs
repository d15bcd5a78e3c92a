//! What the next one sees of a database actor's last work.

use sandpen_types::state::Status;

use super::*;
use crate::runtime::actor_ref::ActorRef;
use crate::runtime::intensity::RestartIntensity;
use crate::telemetry::faults::Faults;
use crate::testing::panic::{Panic, PanicPlace};

/// A write of the first actor has been given to SQLite and waits for another program's lock when the actor dies.
/// A question may be answered before it is done; `Flush` is not.
#[test]
fn a_flush_waits_for_what_an_actor_was_writing_when_it_died() {
    run(|| async {
        let fixture = Fixture::new();
        let file = DatabaseFile::open(&fixture.path(), Faults::default()).await.unwrap();
        let arbiter = actix::Arbiter::current();
        let database: ActorRef<Database> = Database::keep_running(file, arbiter, RestartIntensity::default(), || {});
        let row = database.send(PutSandbox(spec("a"))).await.unwrap().unwrap();
        let mut other = fixture.locked_by_another().await;
        let (_, record) = advance(&row, &Event::StartRequested, Utc::now(), None).unwrap().unwrap();
        // Whoever sends it dies as well: nobody sends it again.
        let update = tokio::task::spawn_local(database.send_once(RecordTransition(record)));
        tokio::time::sleep(Duration::from_millis(300)).await;
        database.tell(Panic(PanicPlace::Handler));
        assert!(update.await.unwrap().is_err());

        let flushed = tokio::task::spawn_local(database.send(Flush));
        let seen = database.send(GetSandbox(row.spec.key.clone())).await.unwrap().unwrap().unwrap();
        assert_eq!(seen.state.status(), Status::Created);
        tokio::time::sleep(Duration::from_millis(300)).await;
        assert!(!flushed.is_finished());
        sqlx::query("ROLLBACK").execute(&mut *other).await.unwrap();
        flushed.await.unwrap().unwrap().unwrap();
        let seen = database.send(GetSandbox(row.spec.key.clone())).await.unwrap().unwrap().unwrap();
        assert_eq!(seen.state.status(), Status::Starting);
    });
}
