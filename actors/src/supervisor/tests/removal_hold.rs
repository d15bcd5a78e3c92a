//! Ended sandboxes that remove themselves when nobody holds them any more.

use super::*;

const DELAY: Duration = Duration::from_millis(50);

impl Stage {
    fn lingering(&self, name: &str) -> SandboxSpec {
        SandboxSpec { remove_on_end: true, remove_delay: DELAY, ..self.spec(name) }
    }

    /// Runs it to its end.
    async fn ended(&mut self, spec: SandboxSpec) {
        let name = spec.key.name.as_str().to_owned();
        let mut vmm = self.running(spec).await;
        exit(&mut vmm, 0, b"text").await;
        let row = self.wait(&name).await;
        assert_eq!(row.state, SandboxState::Stopped { exit: ExitStatus::Code(0) });
    }

    fn is_there(&self, name: &str) -> impl Future<Output = bool> + use<> {
        let row = self.database.send(GetSandbox(key(name)));
        let log = self.dir.path().join(format!("logs/default/{name}.log"));
        async move { row.await.unwrap().unwrap().is_some() && log.exists() }
    }

    async fn until_gone(&self, name: &str) {
        let gone = async {
            while self.database.send(GetSandbox(key(name))).await.unwrap().unwrap().is_some() {
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        };
        soon(gone).await;
        assert!(!self.dir.path().join(format!("logs/default/{name}.log")).exists());
    }

    /// One that ends now without a hold goes later than all that end before.
    async fn delay_is_over(&mut self) {
        let later = self.lingering("later");
        self.ended(later).await;
        self.until_gone("later").await;
    }
}

#[test]
fn it_stays_while_it_is_held_and_goes_after_the_last_hold() {
    on_stage(|| async {
        let mut stage = Stage::new().await;
        let holds = [
            stage.supervisor.send(HoldRemoval { key: key("a") }),
            stage.supervisor.send(HoldRemoval { key: key("a") }),
        ];
        let [first, second] = futures::future::join_all(holds).await.try_into().unwrap();
        let (first, second) = (first.unwrap().unwrap(), second.unwrap().unwrap());
        let spec = stage.lingering("a");
        stage.ended(spec).await;
        stage.delay_is_over().await;
        assert!(stage.is_there("a").await);
        drop(first);
        stage.delay_is_over().await;
        assert!(stage.is_there("a").await, "one still holds it");
        drop(second);
        stage.until_gone("a").await;
        stage.end();
    });
}

#[test]
fn another_start_of_the_name_is_not_removed_with_it() {
    on_stage(|| async {
        let mut stage = Stage::new().await;
        let spec = stage.lingering("a");
        stage.ended(spec).await;
        let mut again = stage.running_when_free(stage.spec("a")).await;
        stage.delay_is_over().await;
        exit(&mut again, 0, b"text").await;
        stage.wait("a").await;
        stage.delay_is_over().await;
        assert!(stage.is_there("a").await, "it was not to remove itself");
        stage.end();
    });
}

#[test]
fn a_later_orchestrator_removes_it_and_a_reconciliation_leaves_it_while_it_is_held() {
    on_stage(|| async {
        let mut stage = Stage::new().await;
        let mut spec = stage.lingering("a");
        // Not in the first one's time.
        spec.remove_delay = Duration::from_hours(1);
        stage.ended(spec).await;
        let dir = Arc::clone(&stage.dir);
        stage.end();
        let row =
            "UPDATE sandboxes SET spec = json_set(spec, '$.remove_delay.secs', 0, '$.remove_delay.nanos', 50000000)";
        let database = format!("sqlite:{}", dir.path().join("sandpen.db").display());
        let mut connection = <sqlx::SqliteConnection as sqlx::Connection>::connect(&database).await.unwrap();
        sqlx::query(row).execute(&mut connection).await.unwrap();
        drop(connection);

        let (driver, arrivals) = FakeDriver::new();
        let mut next = Stage::on(dir, driver, arrivals).await;
        let hold = next.supervisor.send(HoldRemoval { key: key("a") }).await.unwrap().unwrap();
        for _ in 0..2 {
            soon(next.supervisor.send(Reconcile)).await.unwrap().unwrap();
            next.delay_is_over().await;
            assert!(next.is_there("a").await);
        }
        drop(hold);
        next.until_gone("a").await;
        next.end();
    });
}
