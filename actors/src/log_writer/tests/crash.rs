//! SIGKILL under flood, again and again: no byte lost, none twice.

use std::io::Write as _;

use nix::sys::stat::Mode;

use super::killed::{dir, kill_amid};
use super::*;

const OUT: usize = 16_000_000;
const ERR: usize = 2_000_000;

fn limits() -> Place {
    // Small files: many of the kills hit a rotation.
    Place { dir: TestDir::new(), max_bytes: 50_000, keep: 1000 }
}

fn fifo(dir: &Path, name: &str) -> File {
    File::options().read(true).write(true).open(dir.join(name)).unwrap()
}

fn open_nonblocking(dir: &Path, name: &str) -> OwnedFd {
    use std::os::unix::fs::OpenOptionsExt as _;
    File::options().read(true).custom_flags(nix::libc::O_NONBLOCK).open(dir.join(name)).unwrap().into()
}

fn config(dir: &Path) -> LogConfig {
    let Place { max_bytes, keep, .. } = limits();
    LogConfig::new(dir.join("box.log"), LogLimits { max_bytes, keep, ..LogLimits::default() }, 7)
}

async fn start_on(dir: &Path) -> Addr<LogWriter> {
    let writer = start(config(dir));
    for (stream, name) in [(OutputStream::Stdout, "out"), (OutputStream::Stderr, "err")] {
        ask(&writer, AttachStream { stream, pipe: open_nonblocking(dir, name) }).await.unwrap();
    }
    writer
}

/// Not a test by itself: the process that is killed.
#[test]
#[ignore = "run by sigkill_under_flood_loses_and_doubles_nothing as a process of its own"]
fn crashing_writer() {
    actix_rt::System::new().block_on(async {
        let _writer = start_on(&dir()).await;
        // Ends by SIGKILL; or by itself, if the test that started it is gone.
        tokio::time::sleep(DEADLINE).await;
    });
}

#[test]
fn sigkill_under_flood_loses_and_doubles_nothing() {
    run(async {
        let dir = tempfile::tempdir().unwrap();
        for name in ["out", "err"] {
            nix::unistd::mkfifo(&dir.path().join(name), Mode::S_IRWXU).unwrap();
        }
        // Held open for both ends, as the waiter does: a reader's death leaves the buffer alone.
        let (mut out_pipe, mut err_pipe) = (fifo(dir.path(), "out"), fifo(dir.path(), "err"));
        let _held = (fifo(dir.path(), "out"), fifo(dir.path(), "err"));
        let (out, err) = (pattern(1, OUT), pattern(2, ERR));
        let (out_copy, err_copy) = (out.clone(), err.clone());
        let threads = [
            std::thread::spawn(move || out_copy.chunks(997).for_each(|piece| out_pipe.write_all(piece).unwrap())),
            std::thread::spawn(move || err_copy.chunks(101).for_each(|piece| err_pipe.write_all(piece).unwrap())),
        ];
        let all = (OUT + ERR) as u64;
        kill_amid("crash::crashing_writer", dir.path(), all);
        // The last one goes on to the end.
        let writer = start_on(dir.path()).await;
        let wanted = bytes_of(OUT as u64, ERR as u64);
        let expected =
            StreamTotals { stdout: OUT as u64, stderr: ERR as u64, position: all, ..StreamTotals::default() };
        assert_eq!(ask(&writer, wanted).await.unwrap(), expected);
        assert_eq!(ask(&writer, Close).await.unwrap(), expected);
        for thread in threads {
            thread.join().unwrap();
        }
        let got = files(&dir.path().join("box.log"), FollowFrom::Oldest).await;
        assert!(got.gaps.is_empty(), "{:?}", got.gaps);
        assert!(got.stdout == out, "stdout differs");
        assert!(got.stderr == err, "stderr differs");
    });
}
