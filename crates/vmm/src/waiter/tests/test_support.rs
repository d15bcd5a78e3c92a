//! A place for a test's sandbox, and ways to look at it.

use std::fs::{self, File};
use std::future::Future;
use std::io;
use std::io::{Read as _, Write as _};
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use super::super::*;

/// The deadline of every wait: far beyond what a loaded machine needs.
pub async fn within<T>(future: impl Future<Output = T>) -> T {
    tokio::time::timeout(Duration::from_mins(1), future).await.expect("nothing happened for a minute")
}

const HOME_VARIABLE: &str = "SANDPEN_TEST_WAITER_HOME";

/// A temporary directory with a runtime directory in it.
pub struct Home {
    path: PathBuf,
    temporary: Option<tempfile::TempDir>,
}

impl Home {
    pub fn new() -> Self {
        let temporary = tempfile::tempdir().unwrap();
        Self { path: temporary.path().canonicalize().unwrap(), temporary: Some(temporary) }
    }

    /// In a process that [`Home::run_test`] started.
    pub fn from_environment() -> Self {
        Self { path: std::env::var_os(HOME_VARIABLE).unwrap().into(), temporary: None }
    }

    /// Runs one ignored test of this binary as a process of its own, in this home.
    pub fn run_test(&self, name: &str) -> Child {
        let mut command = Command::new(std::env::current_exe().unwrap());
        command.args(["--ignored", "--exact", name, "--nocapture"]).env(HOME_VARIABLE, &self.path);
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
        command.spawn().unwrap()
    }

    pub fn path(&self) -> &Path {
        &self.path
    }

    pub fn runtime(&self) -> PathBuf {
        self.path.join("runtime")
    }

    pub fn bin(&self) -> PathBuf {
        self.path.join("bin")
    }

    pub fn log(&self) -> PathBuf {
        self.path.join("logs/vmm.log")
    }

    pub fn spec(&self, processes: Vec<ProcessSpec>) -> WaiterSpec {
        let fifos = ["control.in", "stdout.out", "stderr.out"].map(str::to_owned).to_vec();
        let tags = vec!["test".into()];
        WaiterSpec {
            tags,
            fifos,
            processes,
            namespaces: None,
            vmm_log: self.log(),
            vmm_log_limit: 10_000,
            leases: Vec::new(),
        }
    }

    pub async fn launch(&self, processes: Vec<ProcessSpec>) -> Result<WaitedVmm, WaiterError> {
        self.launch_spec(self.spec(processes)).await
    }

    pub async fn launch_spec(&self, spec: WaiterSpec) -> Result<WaitedVmm, WaiterError> {
        let timings = crate::start_timings::StartTimings::default();
        within(WaitedVmm::launch(&self.runtime(), &self.bin(), spec, &timings)).await
    }

    /// Everything that is in a FIFO now.
    pub fn read_now(&self, fifo: &str) -> String {
        let mut pipe = File::from(open_fifo_read(&self.runtime().join(fifo)).unwrap());
        let mut bytes = Vec::new();
        let error = pipe.read_to_end(&mut bytes).expect_err("the waiter holds it open");
        assert_eq!(error.kind(), io::ErrorKind::WouldBlock);
        String::from_utf8(bytes).unwrap()
    }

    /// One line from a FIFO, byte by byte so that the rest stays in it.
    pub async fn read_line(&self, fifo: &str) -> String {
        let pipe = open_fifo_read(&self.runtime().join(fifo)).unwrap();
        let pipe = tokio::net::unix::pipe::Receiver::from_owned_fd(pipe).unwrap();
        let mut line = Vec::new();
        loop {
            pipe.readable().await.unwrap();
            let mut byte = [0];
            match pipe.try_read(&mut byte) {
                Ok(1) if byte == *b"\n" => return String::from_utf8(line).unwrap(),
                Ok(1) => line.extend(byte),
                Ok(_) => panic!("{fifo} ended"),
                Err(error) => assert_eq!(error.kind(), io::ErrorKind::WouldBlock),
            }
        }
    }

    pub fn write(&self, fifo: &str, bytes: &[u8]) {
        let pipe = open_fifo_write(&self.runtime().join(fifo)).unwrap();
        File::from(pipe).write_all(bytes).unwrap();
    }

    /// A recorded process.
    pub fn pidfd(&self, role: &str) -> OwnedFd {
        self.pidfd_of(role).expect("it runs")
    }

    /// A recorded process, if it is still there.
    pub fn pidfd_of(&self, role: &str) -> Option<OwnedFd> {
        crate::pidfd::open(&self.identity(role)).unwrap()
    }

    /// A recorded process's id.
    pub fn pid(&self, role: &str) -> u32 {
        self.identity(role).pid
    }

    fn identity(&self, role: &str) -> crate::process_identity::ProcessIdentity {
        let record = runtime_dir::read_processes(&self.runtime()).unwrap().unwrap();
        runtime_dir::identities(&record).find(|(known, _)| *known == role).unwrap().1
    }

    /// Resolves when a file of this name is there.
    pub async fn appears(&self, name: &str) {
        while !self.path.join(name).exists() {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    }
}

impl Drop for Home {
    /// A failed test leaves nothing running either.
    fn drop(&mut self) {
        if self.temporary.is_some()
            && let Ok(Some(record)) = runtime_dir::read_processes(&self.runtime())
        {
            for process in runtime_dir::living(&record).unwrap_or_default() {
                let _ = crate::pidfd::send_signal(process, 9);
            }
        }
    }
}

/// A shell as the VMM or a companion, with the output FIFOs as its output.
pub fn shell(role: &str, script: &str) -> ProcessSpec {
    ProcessSpec {
        role: role.into(),
        program: "sh".into(),
        args: vec!["-c".into(), script.into()],
        env: Vec::new(),
        clear_env: false,
        stdin: StdioSpec::Null,
        stdout: StdioSpec::Fifo("stdout.out".into()),
        stderr: StdioSpec::Fifo("stderr.out".into()),
        descriptors: Vec::new(),
    }
}

/// A process's proportional share of memory.
pub fn pss_kib(pid: u32) -> u64 {
    let text = fs::read_to_string(format!("/proc/{pid}/smaps_rollup")).unwrap();
    let line = text.lines().find_map(|line| line.strip_prefix("Pss:")).unwrap();
    line.trim().trim_end_matches(" kB").parse().unwrap()
}
