//! Durable status updates: through the database actor, from one sender and from many at once, against one
//! transaction for each update and against batches by hand, into the same tables, in turn, in one run.
//!
//! `make bench-status`. Environment: `RUNS` (rounds; 5 by default), `UPDATES` (of each case and round; 20,000
//! by default, a tenth where each is a transaction), `OUT` (a directory for JSON and SVG).

#[path = "support/report.rs"]
mod report;

use std::error::Error;
use std::path::Path;
use std::time::{Duration, Instant};

use actix::{Actor as _, Addr, System};
use chrono::Utc;
use report::Report;
use sandpen::actors::database::{BeginStart, Database, RecordTransition};
use sandpen::actors::row::SandboxRow;
use sandpen::actors::spec::{Rootfs, SandboxName, SandboxSpec};
use sandpen::actors::state::SandboxState;
use sandpen::actors::transition::Transition;
use sqlx::SqlitePool;
use sqlx::sqlite::{SqliteConnectOptions, SqliteJournalMode, SqlitePoolOptions, SqliteSynchronous};

type Result<T> = std::result::Result<T, Box<dyn Error>>;

const SENDERS: [usize; 3] = [1, 100, 1000];
/// Rows of a batch by hand.
const BATCH: usize = 1000;

fn main() -> Result<()> {
    if !std::env::args().any(|argument| argument == "--bench") {
        println!("bench status: skipped (use `make bench-status`)");
        return Ok(());
    }
    let number = |name: &str, default| std::env::var(name).ok().and_then(|value| value.parse().ok()).unwrap_or(default);
    let (runs, updates): (usize, usize) = (number("RUNS", 5), number("UPDATES", 20_000));
    let mut report = Report::new("status", &["updates/s", "× one transaction each"]);
    System::new().block_on(async {
        for run in 0..=runs {
            let dir = tempfile::tempdir()?;
            let single = by_hand(&dir.path().join("single"), updates / 10, 1).await?;
            let batched = by_hand(&dir.path().join("batched"), updates, BATCH).await?;
            let mut rates =
                vec![("one transaction each".to_owned(), single), (format!("by hand, {BATCH} a batch"), batched)];
            for senders in SENDERS {
                let count = if senders == 1 { updates / 10 } else { updates };
                let rate = by_actor(&dir.path().join(senders.to_string()), count, senders).await?;
                rates.push((format!("sandpen, {senders} senders"), rate));
            }
            // The first round warms caches and does not count.
            for (who, rate) in rates.into_iter().filter(|_| run > 0) {
                report.add("durable updates", &who, vec![rate, rate / single]);
            }
        }
        Ok::<_, Box<dyn Error>>(())
    })?;
    Ok(report.publish()?)
}

fn rate(updates: usize, time: Duration) -> Result<f64> {
    Ok(f64::from(u32::try_from(updates)?) / time.as_secs_f64())
}

async fn row(database: &Addr<Database>, number: usize) -> Result<SandboxRow> {
    let name = SandboxName::new(format!("box-{number}"))?;
    let spec = SandboxSpec::new(name, Rootfs::Native("/".into()), vec!["x".into()]);
    Ok(database
        .send(BeginStart {
            again: None,
            spec: spec.into(),
            supervisor_pid: 1,
            driver: "qemu".into(),
            boot_id: None,
            requested_at: Utc::now(),
        })
        .await??)
}

/// Each sender waits for its answer before it sends the next one, as a monitor does.
async fn by_actor(path: &Path, updates: usize, senders: usize) -> Result<f64> {
    let database = Database::open(path).await?.start();
    let mut rows = Vec::new();
    for number in 0..senders {
        rows.push(row(&database, number).await?);
    }
    let begun = Instant::now();
    let senders_work = rows.iter().map(|row| async {
        // The first is the start.
        for seq in 2..updates / senders + 2 {
            let state = if seq % 2 == 1 { SandboxState::Starting } else { SandboxState::Running };
            database
                .send(RecordTransition(Transition {
                    sandbox: row.id,
                    seq: seq as u64,
                    generation: 1,
                    event: "WorkloadStarted".into(),
                    state,
                    at: Utc::now(),
                    microvm_pid: Some(1),
                    supervisor_pid: 1,
                    driver: Some("qemu".into()),
                    restarts: 0,
                    restarts_in_a_row: 0,
                    stopped_by: None,
                    boot_id: None,
                }))
                .await??;
        }
        Ok::<_, Box<dyn Error>>(())
    });
    futures::future::try_join_all(senders_work).await?;
    rate(updates / senders * senders, begun.elapsed())
}

/// The same rows with the least that does it: one statement for each batch, committed.
async fn by_hand(path: &Path, updates: usize, batch: usize) -> Result<f64> {
    let database = Database::open(path).await?.start();
    let row = row(&database, 0).await?;
    drop(database);
    let options = SqliteConnectOptions::new()
        .filename(path)
        .journal_mode(SqliteJournalMode::Wal)
        .synchronous(SqliteSynchronous::Full);
    let pool: SqlitePool = SqlitePoolOptions::new().max_connections(1).connect_with(options).await?;
    let begun = Instant::now();
    for first in (2..updates + 2).step_by(batch) {
        let seqs: Vec<usize> = (first..(first + batch).min(updates + 2)).collect();
        sqlx::query(
            "INSERT INTO transitions (sandbox_id, seq, generation, event, status, state, at, microvm_pid,
                                      supervisor_pid, driver, restarts, restarts_in_a_row)
             SELECT ?1, value, 1, 'WorkloadStarted', 'RUNNING', '\"running\"', ?2, 1, 1, 'qemu', 0, 0 FROM json_each(?3)",
        )
        .bind(row.id)
        .bind(Utc::now().to_rfc3339())
        .bind(serde_json::to_string(&seqs)?)
        .execute(&pool)
        .await?;
    }
    let elapsed = begun.elapsed();
    pool.close().await;
    rate(updates, elapsed)
}
