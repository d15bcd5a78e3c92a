//! Jobs, whose keeper, monitor, log writer and orchestrator fail: each byte comes once, and each end is on record.

use std::path::{Path, PathBuf};

use sandpen_types::job::ENDED_JOBS_KEPT;
use sandpen_types::session::{SESSIONS_MAX, SessionEnd, SessionId, SessionSpec};
use sandpen_types::spec::TerminalSize;
use sandpen_vmm::sessions::{GuestSessions as _, SessionError, SessionRequest};

use super::*;
use crate::database::{AddJob, JobRow, ListJobs};
use crate::jobs::JobError;
use crate::log_writer::{FollowFrom, LogChunk, LogFollower};
use crate::telemetry::counters::Counter;

fn id(number: u64) -> SessionId {
    SessionId::new(number).unwrap()
}

fn sh(script: &str) -> SessionSpec {
    SessionSpec::command(["sh", "-c", script])
}

impl Stage {
    async fn start_job(&self, number: u64, spec: SessionSpec) -> Result<JobRow, SupervisorError> {
        soon(self.supervisor.send(StartJob { key: key("a"), id: id(number), spec })).await.unwrap()
    }

    async fn wait_job(&self, number: u64) -> Result<JobRow, SupervisorError> {
        soon(self.supervisor.send(WaitJob { key: key("a"), id: id(number) })).await.unwrap()
    }

    async fn end_of(&self, number: u64) -> SessionEnd {
        self.wait_job(number).await.unwrap().ended.expect("it has ended").1
    }

    async fn tell_job(&self, number: u64, request: SessionRequest) -> Result<(), SupervisorError> {
        soon(self.supervisor.send(TellJob { key: key("a"), id: id(number), request })).await.unwrap()
    }

    async fn jobs(&self, name: &str) -> Vec<JobRow> {
        self.database.send(ListJobs(self.row(name).await.id)).await.unwrap().unwrap()
    }

    fn job_log(&self, sandbox: i64, number: u64) -> PathBuf {
        StateDir::new(self.dir.path().to_owned()).job_log(sandbox, id(number))
    }

    /// Waits until more is on file than now.
    async fn grows(&self, log: &Path) {
        let length = || std::fs::metadata(log).map_or(0, |meta| meta.len());
        let before = length();
        let grown = async {
            while length() <= before {
                tokio::task::yield_now().await;
            }
        };
        soon(grown).await;
    }

    /// A script that writes numbered lines until it is let go.
    fn lines(&self) -> (SessionSpec, PathBuf) {
        let go = self.dir.path().join("go");
        let script = format!("i=0; until [ -e {} ]; do i=$((i+1)); echo $i; echo e$i >&2; done; exit 3", go.display());
        (sh(&script), go)
    }
}

/// What is on file of each stream.
async fn streams(log: &Path) -> [String; 2] {
    let mut follower = LogFollower::of_files(log, FollowFrom::Oldest).unwrap();
    let mut streams = [Vec::new(), Vec::new()];
    while let Some(chunk) = follower.next().await.unwrap() {
        let LogChunk::Bytes { stream, bytes, .. } = chunk else { panic!("{chunk:?}") };
        streams[usize::from(stream == OutputStream::Stderr)].extend_from_slice(&bytes);
    }
    streams.map(|bytes| String::from_utf8(bytes).unwrap())
}

/// Every line of either stream once and in order; how many.
async fn check_lines(log: &Path) -> usize {
    let [lines, errors] = streams(log).await;
    for (index, line) in lines.lines().enumerate() {
        assert_eq!(line, (index + 1).to_string(), "a line is lost, doubled or broken");
    }
    for (index, line) in errors.lines().enumerate() {
        assert_eq!(line, format!("e{}", index + 1), "a line is lost, doubled or broken");
    }
    assert_eq!(lines.lines().count(), errors.lines().count());
    errors.lines().count()
}

#[test]
fn a_job_is_logged_and_on_record_without_any_client() {
    on_stage(|| async {
        let mut stage = Stage::new().await;
        let vmm = stage.running(stage.spec("a")).await;
        // More than any window.
        let flood = "i=0; while [ $i -lt 30000 ]; do i=$((i+1)); echo $i; done; echo end >&2; exit 7";
        // Asked for twice at once, it runs once.
        let (begun, twice) = tokio::join!(stage.start_job(1, sh(flood)), stage.start_job(1, sh(flood)));
        let (begun, twice) = (begun.unwrap(), twice.unwrap());
        assert_eq!((twice.id, twice.asked_at), (begun.id, begun.asked_at));
        assert!(begun.label.starts_with("sh -c i=0") && begun.ended.is_none(), "{begun:?}");
        let ended = stage.wait_job(1).await.unwrap();
        assert_eq!(ended.ended.as_ref().unwrap().1, SessionEnd::Exited(ExitStatus::Code(7)));
        let whole: String = (1..=30_000).map(|number| format!("{number}\n")).collect();
        let [stdout, stderr] = streams(&stage.job_log(ended.sandbox, 1)).await;
        assert!(stdout == whole && stderr == "end\n", "{} bytes and {stderr:?}", stdout.len());
        // Asked again, it runs no second time, and its session is forgotten.
        assert_eq!(stage.start_job(1, sh("exit 1")).await.unwrap(), ended);
        let forgotten = async {
            while !vmm.sessions().list().await.unwrap().is_empty() {
                tokio::task::yield_now().await;
            }
        };
        soon(forgotten).await;
        // What cannot be executed has its end at once.
        let failed = stage.start_job(2, SessionSpec::command(["/no/such"])).await.unwrap();
        assert!(matches!(failed.ended, Some((_, SessionEnd::NotStarted { code: 127, .. }))), "{failed:?}");
        assert_eq!(stage.jobs("a").await.len(), 2);
        // The workload's own log has nothing of it.
        assert!(!stage.dir.path().join("logs/default/a.log").exists());
        stage.end();
    });
}

#[cfg(feature = "testing")]
#[test]
fn whoever_fails_no_line_is_lost_or_doubled() {
    use crate::testing::panic::{ActorKind, InjectPanic, PLACES};
    on_stage(|| async {
        let mut stage = Stage::new().await;
        stage.config.intensity = RestartIntensity { limit: 1000, ..RestartIntensity::default() };
        let config = stage.config.clone();
        stage.supervisor = host_on(&Arbiter::current(), move || Supervisor::new(config), |_| {});
        let mut vmm = stage.running(stage.spec("a")).await;
        let (spec, go) = stage.lines();
        let sandbox = stage.start_job(1, spec).await.unwrap().sandbox;
        let log = stage.job_log(sandbox, 1);
        for place in PLACES {
            for actor in [ActorKind::JobKeeper, ActorKind::Monitor] {
                stage.grows(&log).await;
                let panic = InjectPanic { actor, place, sandbox: Some(key("a")) };
                let injected = async {
                    while !stage.supervisor.send(panic.clone()).await.unwrap() {
                        tokio::task::yield_now().await;
                    }
                };
                soon(injected).await;
                assert_eq!(soon(vmm.next_asked()).await, Some(Asked::Adopted), "{actor:?} at {place:?}");
            }
            stage.grows(&log).await;
            vmm.hang_up();
            assert_eq!(soon(vmm.next_asked()).await, Some(Asked::Adopted));
        }
        // Who waits meanwhile hears of the end.
        let waiting = tokio::task::spawn_local(stage.supervisor.send(WaitJob { key: key("a"), id: id(1) }));
        stage.grows(&log).await;
        std::fs::write(go, "").unwrap();
        let ended = soon(waiting).await.unwrap().unwrap().unwrap().ended;
        assert_eq!(ended.unwrap().1, SessionEnd::Exited(ExitStatus::Code(3)));
        assert!(check_lines(&log).await > PLACES.len());
        assert_eq!(stage.faults.counters().value(Counter::LogFailures), 0, "nobody was told of what is none");
        stage.end();
    });
}

#[test]
fn the_next_orchestrator_goes_on_from_what_is_on_file() {
    on_stage(|| async {
        let mut first = Stage::new().await;
        let mut vmm = first.running(first.spec("a")).await;
        let (spec, go) = first.lines();
        let sandbox = first.start_job(1, spec).await.unwrap().sandbox;
        let log = first.job_log(sandbox, 1);
        first.start_job(2, sh("echo two; exit 2")).await.unwrap();
        // One that its guest never had: its orchestrator died before it could ask.
        let row = JobRow { id: id(3), is_begun: false, ended: None, ..first.jobs("a").await[0].clone() };
        first.database.send(AddJob(row.clone())).await.unwrap().unwrap();
        // One that its guest has forgotten by the time.
        first.database.send(AddJob(JobRow { id: id(4), is_begun: true, ..row })).await.unwrap().unwrap();
        first.end_of(2).await;
        let (mut dir, mut driver, mut arrivals) =
            (first.dir.clone(), first.driver.clone(), mpsc::unbounded_channel().1);
        std::mem::swap(&mut first.arrivals, &mut arrivals);
        first.grows(&log).await;
        first.supervisor.send(Shutdown { grace: None }).await.unwrap();
        first.end();
        for round in 0..4 {
            let mut next = Stage::on(dir, driver, arrivals).await;
            next.supervisor.send(Reconcile).await.unwrap().unwrap();
            assert_eq!(soon(vmm.next_asked()).await, Some(Asked::Adopted));
            next.grows(&log).await;
            if round == 3 {
                std::fs::write(&go, "").unwrap();
                assert_eq!(next.end_of(1).await, SessionEnd::Exited(ExitStatus::Code(3)));
                assert_eq!(next.end_of(2).await, SessionEnd::Exited(ExitStatus::Code(2)));
                assert_eq!(next.end_of(4).await, SessionEnd::Gone);
                assert!(matches!(next.wait_job(3).await, Err(SupervisorError::JobNotFound { .. })));
                assert!(check_lines(&log).await > 4);
                assert_eq!(std::fs::read(next.job_log(sandbox, 2)).unwrap(), b"two\n");
            }
            (dir, driver) = (next.dir.clone(), next.driver.clone());
            arrivals = std::mem::replace(&mut next.arrivals, mpsc::unbounded_channel().1);
            next.supervisor.send(Shutdown { grace: None }).await.unwrap();
            next.end();
        }
    });
}

/// Whoever takes the files away, or an index, loses what was in them, and nothing that comes.
#[test]
fn a_job_goes_on_where_its_files_do_not_go_with_its_guest() {
    on_stage(|| async {
        let mut first = Stage::new().await;
        let mut vmm = first.running(first.spec("a")).await;
        let (spec, go) = first.lines();
        let sandbox = first.start_job(1, spec).await.unwrap().sandbox;
        let log = first.job_log(sandbox, 1);
        let (mut dir, mut driver, mut arrivals) =
            (first.dir.clone(), first.driver.clone(), mpsc::unbounded_channel().1);
        std::mem::swap(&mut first.arrivals, &mut arrivals);
        first.grows(&log).await;
        first.supervisor.send(Shutdown { grace: None }).await.unwrap();
        first.end();
        let index = log.with_extension("log.idx");
        for gone in [&[&log, &index][..], &[&index], &[&log]] {
            for file in gone {
                std::fs::remove_file(file).unwrap();
            }
            let mut next = Stage::on(dir, driver, arrivals).await;
            next.supervisor.send(Reconcile).await.unwrap().unwrap();
            assert_eq!(soon(vmm.next_asked()).await, Some(Asked::Adopted));
            next.grows(&log).await;
            if gone == [&log] {
                std::fs::write(&go, "").unwrap();
                assert_eq!(next.end_of(1).await, SessionEnd::Exited(ExitStatus::Code(3)));
                // What came since then is whole.
                let [lines, _] = streams(&log).await;
                let numbers: Vec<u64> = lines.lines().skip(1).map(|line| line.parse().unwrap()).collect();
                assert!(numbers.windows(2).all(|pair| pair[1] == pair[0] + 1), "{} lines", numbers.len());
                assert!(numbers.len() > 1);
            } else {
                next.supervisor.send(Shutdown { grace: None }).await.unwrap();
            }
            (dir, driver) = (next.dir.clone(), next.driver.clone());
            arrivals = std::mem::replace(&mut next.arrivals, mpsc::unbounded_channel().1);
            next.end();
        }
    });
}

#[test]
fn a_microvm_that_is_lost_ends_its_jobs_before_its_own_end_is_on_record() {
    on_stage(|| async {
        let mut stage = Stage::new().await;
        let vmm = stage.running(stage.spec("a")).await;
        let sandbox = stage.start_job(1, sh("echo one; exec sleep 1000")).await.unwrap().sandbox;
        let written = async {
            while std::fs::read(stage.job_log(sandbox, 1)).unwrap_or_default() != b"one\n" {
                tokio::task::yield_now().await;
            }
        };
        soon(written).await;
        assert!(vmm.tell(VmmEvent::VmmExited(ExitStatus::Signal(9))).await);
        stage.wait("a").await;
        let jobs = stage.jobs("a").await;
        assert_eq!(jobs[0].ended.as_ref().unwrap().1, SessionEnd::Gone);
        assert_eq!(std::fs::read(stage.job_log(sandbox, 1)).unwrap(), b"one\n");
        // The name's next start has what its jobs were, and others of its own.
        let vmm = stage.running_when_free(stage.spec("a")).await;
        stage.start_job(2, sh("exec sleep 1000")).await.unwrap();
        // Nobody heard of it: the end of the sandbox is its own.
        vmm.sessions().forget_all();
        stage.execute("UPDATE sandboxes SET status = 'FAILED'").await;
        let ends: Vec<_> = stage.jobs("a").await.into_iter().map(|job| job.ended.unwrap().1).collect();
        assert_eq!(ends, [SessionEnd::Gone, SessionEnd::Gone]);
        stage.end();
    });
}

#[test]
fn what_cannot_be_is_refused_in_words() {
    on_stage(|| async {
        let mut stage = Stage::new().await;
        let vmm = stage.running(stage.spec("a")).await;
        let _other = stage.running(stage.spec("b")).await;
        let signal = SessionRequest::Signal(15);
        let refused = stage.tell_job(1, signal.clone()).await.unwrap_err();
        assert!(refused.to_string().contains("has no job 0000000000000001"), "{refused}");
        assert!(matches!(stage.wait_job(1).await, Err(SupervisorError::JobNotFound { .. })));
        // One of another sandbox.
        stage.start_job(1, sh("exec sleep 1000")).await.unwrap();
        let of_other = WaitJob { key: key("b"), id: id(1) };
        let refused = soon(stage.supervisor.send(of_other)).await.unwrap();
        assert!(matches!(refused, Err(SupervisorError::JobNotFound { .. })), "{refused:?}");
        let of_nobody = WaitJob { key: key("c"), id: id(1) };
        let refused = soon(stage.supervisor.send(of_nobody)).await.unwrap();
        assert!(matches!(refused, Err(SupervisorError::NotFound { .. })), "{refused:?}");
        // What it has not.
        let refused = stage.tell_job(1, SessionRequest::Resize(TerminalSize::default())).await;
        assert!(matches!(refused, Err(SupervisorError::Job(JobError::NoTerminal(_)))), "{refused:?}");
        let refused = soon(stage.supervisor.send(OpenJobStdin { key: key("a"), id: id(1) })).await.unwrap();
        assert!(matches!(refused, Err(SupervisorError::Job(JobError::NoStdin(_)))), "{refused:?}");
        // Its session is nobody else's.
        let attach = AttachSession { key: key("a"), id: id(1), from: None };
        let refused = soon(stage.supervisor.send(attach)).await.unwrap().unwrap_err();
        assert!(refused.to_string().contains("`sandpen attach --job 0000000000000001 default/a`"), "{refused}");
        assert!(soon(stage.supervisor.send(ListSessions { key: key("a") })).await.unwrap().unwrap().is_empty());
        stage.tell_job(1, signal.clone()).await.unwrap();
        assert_eq!(stage.end_of(1).await, SessionEnd::Exited(ExitStatus::Signal(15)));
        let refused = stage.tell_job(1, signal.clone()).await.unwrap_err();
        assert!(refused.to_string().contains("job 0000000000000001 has ended: "), "{refused}");
        // A number that a session has.
        let session = OpenSession { key: key("a"), id: id(2), spec: sh("exec sleep 1000") };
        soon(stage.supervisor.send(session)).await.unwrap().unwrap();
        let refused = stage.start_job(2, sh("exit")).await;
        assert!(matches!(refused, Err(SupervisorError::Job(JobError::IsSession(_)))), "{refused:?}");
        // As many as there can be.
        let left = SESSIONS_MAX as u64 - vmm.sessions().list().await.unwrap().len() as u64;
        for number in 0..left {
            vmm.sessions().open(id(1000 + number), sh("exec sleep 1000")).await.unwrap();
        }
        let refused = stage.start_job(3, sh("exit")).await;
        let too_many = SupervisorError::Session(SessionError::TooMany { max: SESSIONS_MAX });
        assert_eq!(refused.unwrap_err().to_string(), too_many.to_string());
        assert_eq!(stage.jobs("a").await.len(), 1, "what was refused is not on record");
        assert!(vmm.tell(VmmEvent::VmmExited(ExitStatus::Code(0))).await);
        stage.wait("a").await;
        let refused = stage.start_job(4, sh("exit")).await;
        assert!(matches!(refused, Err(SupervisorError::NotLive { .. })), "{refused:?}");
        let refused = stage.tell_job(1, signal).await;
        assert!(matches!(refused, Err(SupervisorError::Job(JobError::Ended { .. }))), "{refused:?}");
        stage.end();
    });
}

#[test]
fn the_oldest_ended_ones_go_with_their_logs_and_all_with_the_sandbox() {
    on_stage(|| async {
        let mut stage = Stage::new().await;
        let vmm = stage.running(stage.spec("a")).await;
        let sandbox = stage.start_job(1, sh("echo one; exec sleep 1000")).await.unwrap().sandbox;
        let most = u64::try_from(ENDED_JOBS_KEPT).unwrap();
        for number in 2..most + 5 {
            stage.start_job(number, sh("echo x")).await.unwrap();
            stage.end_of(number).await;
        }
        let trimmed = async {
            while stage.jobs("a").await.len() > ENDED_JOBS_KEPT + 1 {
                tokio::task::yield_now().await;
            }
        };
        soon(trimmed).await;
        let kept: Vec<_> = stage.jobs("a").await.into_iter().map(|job| job.id.get()).collect();
        assert_eq!(kept, std::iter::once(1).chain(5..most + 5).collect::<Vec<_>>(), "the one that runs stays");
        for number in [2, 3, 4, 5] {
            assert_eq!(stage.job_log(sandbox, number).exists(), number == 5, "{number}");
        }
        assert!(matches!(stage.wait_job(2).await, Err(SupervisorError::JobNotFound { .. })));
        assert!(vmm.tell(VmmEvent::VmmExited(ExitStatus::Code(0))).await);
        stage.wait("a").await;
        let renamed = soon(stage.supervisor.send(RenameSandbox { from: key("a"), to: key("b") })).await.unwrap();
        assert_eq!(renamed.unwrap().id, sandbox);
        assert_eq!(stage.jobs("b").await.len(), ENDED_JOBS_KEPT);
        let of_new = soon(stage.supervisor.send(WaitJob { key: key("b"), id: id(1) })).await.unwrap().unwrap();
        assert_eq!(of_new.ended.unwrap().1, SessionEnd::Gone);
        soon(stage.supervisor.send(RemoveSandbox { key: key("b"), force: false })).await.unwrap().unwrap();
        assert!(!stage.job_log(sandbox, 1).parent().unwrap().exists());
        assert!(stage.database.send(ListJobs(sandbox)).await.unwrap().unwrap().is_empty());
        stage.end();
    });
}

#[test]
fn what_cannot_be_written_waits_in_the_guest() {
    on_stage(|| async {
        let mut stage = Stage::new().await;
        let _vmm = stage.running(stage.spec("a")).await;
        let in_the_way = stage.dir.path().join("jobs");
        std::fs::write(&in_the_way, "").unwrap();
        let sandbox = stage.start_job(1, sh("echo one; exit 4")).await.unwrap().sandbox;
        let failed = async {
            while stage.faults.counters().value(Counter::LogFailures) == 0 {
                tokio::task::yield_now().await;
            }
        };
        soon(failed).await;
        assert!(stage.jobs("a").await[0].ended.is_none());
        std::fs::remove_file(in_the_way).unwrap();
        assert_eq!(stage.end_of(1).await, SessionEnd::Exited(ExitStatus::Code(4)));
        assert_eq!(std::fs::read(stage.job_log(sandbox, 1)).unwrap(), b"one\n");
        stage.end();
    });
}

#[test]
fn input_comes_whole_over_the_failures_of_monitors() {
    on_stage(|| async {
        let mut stage = Stage::new().await;
        let mut vmm = stage.running(stage.spec("a")).await;
        let bytes: Vec<u8> = (0..300_000_u32).map(|n| (n.wrapping_mul(2_654_435_761) >> 24).to_le_bytes()[0]).collect();
        let spec = SessionSpec { stdin: true, ..SessionSpec::command(["cat"]) };
        let sandbox = stage.start_job(1, spec).await.unwrap().sandbox;
        let open = || stage.supervisor.send(OpenJobStdin { key: key("a"), id: id(1) });
        let stdin = soon(open()).await.unwrap().unwrap();
        for (index, chunk) in bytes.chunks(100_000).enumerate() {
            soon(stdin.write(chunk.to_vec().into())).await.unwrap();
            if index == 1 {
                vmm.hang_up();
                assert_eq!(soon(vmm.next_asked()).await, Some(Asked::Adopted));
            }
        }
        soon(stdin.close()).await.unwrap();
        assert_eq!(stage.end_of(1).await, SessionEnd::Exited(ExitStatus::Code(0)));
        assert!(std::fs::read(stage.job_log(sandbox, 1)).unwrap() == bytes);
        let broke = soon(stdin.write(b"x"[..].into())).await;
        assert!(matches!(broke, Err(JobError::InputBroke(_))), "{broke:?}");
        stage.end();
    });
}
