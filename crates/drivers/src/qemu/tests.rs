//! The driver against real QEMU, a real kernel and a busybox root directory; and against hosts that
//! lack something, which every host can play.
//!
//! The real ones need `sandpen kernel install`, else they are skipped, and `/bin/busybox` (static).

use std::os::fd::AsFd as _;
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;

use nix::libc::SIGKILL;
use nix::poll::{PollFd, PollFlags};
use sandpen_skip::{Reason, skip};
use sandpen_types::output_stream::OutputStream;
use sandpen_types::spec::{Rootfs, SandboxName, SandboxSpec};
use sandpen_types::state::{ExitStatus, FailureReason};
use sandpen_vmm::driver::VmmEvent;
use sandpen_vmm::waiter::{WaitedVmm, open_fifo_read};
use tokio::io::AsyncReadExt as _;

use super::*;
use crate::tests::helper;

mod cancel;
mod sessions;

/// Longest wait for anything: a boot under emulation on a busy machine takes some seconds.
const DEADLINE: Duration = Duration::from_secs(150);

struct Host {
    directory: tempfile::TempDir,
    config: QemuConfig,
}

impl Host {
    fn new(data_dir: &Path) -> Self {
        let directory = tempfile::Builder::new().prefix("sandpen-qemu-").tempdir().unwrap();
        let state_dir = StateDir::new(directory.path().join("state"));
        let mut config = QemuConfig::new(state_dir, data_dir);
        config.helper = Some(helper());
        let rootfs = directory.path().join("rootfs");
        for name in ["bin", "tmp", "proc", "sys", "dev"] {
            std::fs::create_dir_all(rootfs.join(name)).unwrap();
        }
        Self { directory, config }
    }

    /// One with everything, or `None` where a real microVM cannot be had.
    fn real() -> Option<Self> {
        let data_dir = std::env::var_os("SANDPEN_DATA_DIR")
            .map_or_else(sandpen_kernels::default_data_dir, std::path::PathBuf::from);
        let busybox = Path::new("/bin/busybox");
        if let Err(error) = sandpen_kernels::find(&data_dir) {
            skip(Reason::NoKernel, error);
            return None;
        }
        let host = Self::new(&data_dir);
        std::fs::copy(busybox, host.directory.path().join("rootfs/bin/busybox")).unwrap();
        Some(host)
    }

    fn launch(&self, command: &[&str]) -> Launch {
        let rootfs = Rootfs::Native(self.directory.path().join("rootfs"));
        let command = command.iter().map(|part| (*part).into()).collect();
        let mut spec = SandboxSpec::new(SandboxName::new("box").unwrap(), rootfs, command);
        spec.stdin = true;
        let state = &self.config.state_dir;
        Launch {
            runtime_dir: state.runtime(&spec.key),
            vmm_log: state.vmm_log(&spec.key),
            spec: Arc::new(spec),
            generation: 1,
            state_id: "test".into(),
            uid: None,
            timings: sandpen_vmm::start_timings::StartTimings::default(),
            cancel: tokio_util::sync::CancellationToken::new(),
        }
    }

    fn shell(&self, script: &str) -> Launch {
        self.launch(&["/bin/busybox", "sh", "-c", script])
    }

    fn driver(&self) -> QemuDriver {
        QemuDriver::new(self.config.clone())
    }

    fn vmm_log(&self) -> String {
        std::fs::read_to_string(self.shell("").vmm_log).unwrap_or_default()
    }
}

async fn next(vmm: &mut Vmm) -> VmmEvent {
    let event = tokio::time::timeout(DEADLINE, vmm.events.recv()).await.expect("no event in time");
    event.expect("the events ended early")
}

/// Reads an output until `wanted` bytes are there.
async fn read_output(vmm: &mut Vmm, stream: OutputStream, wanted: usize) -> Vec<u8> {
    let at = vmm.outputs.iter().position(|(of, _)| *of == stream).unwrap();
    let pipe = vmm.outputs.remove(at).1;
    let mut pipe = tokio::net::unix::pipe::Receiver::from_owned_fd(pipe).unwrap();
    let mut bytes = vec![0; wanted];
    tokio::time::timeout(DEADLINE, pipe.read_exact(&mut bytes)).await.expect("no output in time").unwrap();
    bytes
}

fn chain(result: Result<Vmm, DriverError>) -> String {
    result.map(drop).unwrap_err().chain()
}

#[tokio::test]
async fn output_and_exit_code_arrive() {
    let Some(host) = Host::real() else { return };
    let launch = host.shell("echo out; echo err >&2; exit 42");
    let runtime_dir = launch.runtime_dir.clone();
    let mut vmm = host.driver().launch(launch).await.unwrap();
    assert_eq!(next(&mut vmm).await, VmmEvent::WorkloadStarted, "{}", host.vmm_log());
    let (stdout_bytes, stderr_bytes) = (Some(4), Some(4));
    let exited = VmmEvent::WorkloadExited { exit: ExitStatus::Code(42), stdout_bytes, stderr_bytes };
    assert_eq!(next(&mut vmm).await, exited);
    assert_eq!(read_output(&mut vmm, OutputStream::Stdout, 4).await, b"out\n");
    assert_eq!(read_output(&mut vmm, OutputStream::Stderr, 4).await, b"err\n");
    vmm.guest.acknowledge_exit().await.unwrap();
    assert_eq!(next(&mut vmm).await, VmmEvent::VmmExited(ExitStatus::Code(0)));
    assert_eq!(vmm.events.recv().await, None);
    vmm.process.release().await.unwrap();
    assert!(!runtime_dir.exists());
}

/// Whatever is wrong with a template, the machine comes up.
#[tokio::test]
async fn a_template_that_qemu_refuses_is_made_again_and_then_given_up() {
    let Some(host) = Host::real() else { return };
    if crate::acceleration::acceleration().accelerator != crate::acceleration::Accelerator::Tcg {
        return skip(Reason::KvmWorks, "machines are restored under emulation only");
    }
    let driver = host.driver();
    let garbage = || {
        let file = |bytes| {
            let file = template::memory_file("test", bytes).unwrap();
            template::seal(&file).unwrap();
            file
        };
        template::Template { memory: file(256 << 20), state: file(1000) }
    };
    let mut failures = Vec::new();
    for _ in 0..4 {
        let mut launch = host.shell("echo up; exit 3");
        let mut spec = SandboxSpec::clone(&launch.spec);
        spec.rootfs = Rootfs::Overlayfs(spec.rootfs.paths().into_iter().map(Path::to_owned).collect());
        spec.root_device = sandpen_types::spec::RootDevice::Disk;
        launch.spec = Arc::new(spec);
        let mut vmm = driver.launch(launch).await.unwrap();
        assert_eq!(next(&mut vmm).await, VmmEvent::WorkloadStarted, "{}", host.vmm_log());
        let exited = next(&mut vmm).await;
        assert!(matches!(exited, VmmEvent::WorkloadExited { exit: ExitStatus::Code(3), .. }), "{exited:?}");
        vmm.guest.acknowledge_exit().await.unwrap();
        assert_eq!(next(&mut vmm).await, VmmEvent::VmmExited(ExitStatus::Code(0)));
        vmm.process.release().await.unwrap();
        failures.push(driver.templates.replace_all(garbage));
    }
    // The first built it; the next two found garbage; the last one did not look any more.
    assert_eq!(failures, [0, 1, 2, 2]);
}

#[tokio::test]
async fn stdin_signals_and_a_missing_program() {
    let Some(host) = Host::real() else { return };
    let mut vmm = host.driver().launch(host.shell("read x; echo got $x; sleep 1000")).await.unwrap();
    assert_eq!(next(&mut vmm).await, VmmEvent::WorkloadStarted);
    vmm.guest.write_stdin(b"hello\n".to_vec()).await.unwrap();
    assert_eq!(read_output(&mut vmm, OutputStream::Stdout, 10).await, b"got hello\n");
    vmm.guest.signal_workload(15).await.unwrap();
    let exited = next(&mut vmm).await;
    assert!(matches!(exited, VmmEvent::WorkloadExited { exit: ExitStatus::Signal(15), .. }), "{exited:?}");
    vmm.process.signal_vmm(SIGKILL).unwrap();
    assert_eq!(next(&mut vmm).await, VmmEvent::VmmExited(ExitStatus::Signal(9)));
    vmm.process.release().await.unwrap();

    let mut vmm = host.driver().launch(host.launch(&["/bin/nothing"])).await.unwrap();
    let event = next(&mut vmm).await;
    assert!(matches!(event, VmmEvent::WorkloadNotStarted { code: 127, .. }), "{event:?}");
    vmm.guest.acknowledge_exit().await.unwrap();
    assert_eq!(next(&mut vmm).await, VmmEvent::VmmExited(ExitStatus::Code(0)));
    vmm.process.release().await.unwrap();
}

#[tokio::test]
async fn a_lost_virtiofsd_is_named_and_ends_the_microvm() {
    let Some(host) = Host::real() else { return };
    let launch = host.shell("sleep 1000");
    let processes = launch.runtime_dir.join("processes");
    let mut vmm = host.driver().launch(launch).await.unwrap();
    assert_eq!(next(&mut vmm).await, VmmEvent::WorkloadStarted);
    let text = std::fs::read_to_string(processes).unwrap();
    let line = text.lines().find(|line| line.starts_with("virtiofsd ")).expect("a line for virtiofsd");
    let pid = line.split(' ').nth(1).unwrap().parse().unwrap();
    nix::sys::signal::kill(nix::unistd::Pid::from_raw(pid), nix::sys::signal::Signal::SIGKILL).unwrap();
    let process = "virtiofsd".to_owned();
    assert_eq!(next(&mut vmm).await, VmmEvent::Faulted(FailureReason::CompanionLost { process }));
    assert!(matches!(next(&mut vmm).await, VmmEvent::VmmExited(_)));
    vmm.process.release().await.unwrap();
}

#[tokio::test]
async fn a_running_microvm_is_adopted_with_its_output() {
    let Some(host) = Host::real() else { return };
    let launch = host.shell("echo first; read x; echo second; exit 5");
    let mut first = host.driver().launch(launch.clone()).await.unwrap();
    assert_eq!(next(&mut first).await, VmmEvent::WorkloadStarted);
    drop(first);
    let mut vmm = host.driver().adopt(launch).await.unwrap();
    assert_eq!(next(&mut vmm).await, VmmEvent::WorkloadStarted);
    vmm.guest.write_stdin(b"\n".to_vec()).await.unwrap();
    let exited = next(&mut vmm).await;
    assert!(matches!(exited, VmmEvent::WorkloadExited { exit: ExitStatus::Code(5), .. }), "{exited:?}");
    assert_eq!(read_output(&mut vmm, OutputStream::Stdout, 13).await, b"first\nsecond\n");
    vmm.guest.acknowledge_exit().await.unwrap();
    assert_eq!(next(&mut vmm).await, VmmEvent::VmmExited(ExitStatus::Code(0)));
    vmm.process.release().await.unwrap();
}

#[tokio::test]
async fn an_exit_report_survives_both_ends() {
    let Some(host) = Host::real() else { return };
    let launch = host.shell("sleep 2; echo last words; exit 6");
    let mut first = host.driver().launch(launch.clone()).await.unwrap();
    assert_eq!(next(&mut first).await, VmmEvent::WorkloadStarted);
    let process = first.process.clone();
    // As if the daemon died: nobody reads the control pipe, the report stays in it.
    drop(first);
    let control = open_fifo_read(&launch.runtime_dir.join("control.out")).unwrap();
    let reported = tokio::task::spawn_blocking(move || {
        let mut waiting = [PollFd::new(control.as_fd(), PollFlags::POLLIN)];
        nix::poll::poll(&mut waiting, 60_000_u16).unwrap()
    });
    assert_eq!(reported.await.unwrap(), 1, "no exit report");
    process.signal_vmm(SIGKILL).unwrap();
    WaitedVmm::adopt(&launch.runtime_dir, &host.config.state_dir.bin()).await.unwrap().ended().await;
    let mut vmm = host.driver().adopt(launch.clone()).await.unwrap();
    let exited = next(&mut vmm).await;
    assert!(matches!(exited, VmmEvent::WorkloadExited { exit: ExitStatus::Code(6), .. }), "{exited:?}");
    assert_eq!(next(&mut vmm).await, VmmEvent::VmmExited(ExitStatus::Signal(9)));
    assert_eq!(read_output(&mut vmm, OutputStream::Stdout, 11).await, b"last words\n");
    vmm.process.release().await.unwrap();
    assert!(matches!(host.driver().adopt(launch).await, Err(DriverError::Gone)));
}

/// As root: any number of files under a low limit of open ones, and no device nodes.
#[tokio::test]
async fn a_root_directory_may_hold_many_files_but_no_new_device_nodes() {
    let Some(mut host) = Host::real() else { return };
    if !nix::unistd::Uid::effective().is_root() {
        return skip(Reason::NotRoot, "an ordinary user's guest sees as many files as may be open");
    }
    let script = host.directory.path().join("helper");
    let text = format!("#!/bin/sh\nulimit -n 1000\nexec {} \"$@\"\n", helper().display());
    std::fs::write(&script, text).unwrap();
    std::fs::set_permissions(&script, std::fs::Permissions::from_mode(0o755)).unwrap();
    host.config.helper = Some(script);
    let many = host.directory.path().join("rootfs/many");
    std::fs::create_dir(&many).unwrap();
    for number in 0..1500 {
        std::fs::write(many.join(number.to_string()), "").unwrap();
    }
    let count = "ls -l /many | wc -l; mknod /tmp/node c 1 3 && echo made; echo end > /tmp/end; cat /tmp/end";
    let script = format!("/bin/busybox --install -s /bin; export PATH=/bin; {count}");
    let mut vmm = host.driver().launch(host.shell(&script)).await.unwrap();
    assert_eq!(next(&mut vmm).await, VmmEvent::WorkloadStarted, "{}", host.vmm_log());
    let exited = next(&mut vmm).await;
    assert!(matches!(exited, VmmEvent::WorkloadExited { exit: ExitStatus::Code(0), .. }), "{exited:?}");
    assert_eq!(read_output(&mut vmm, OutputStream::Stdout, 9).await, b"1501\nend\n");
    vmm.guest.acknowledge_exit().await.unwrap();
    assert_eq!(next(&mut vmm).await, VmmEvent::VmmExited(ExitStatus::Code(0)));
    vmm.process.release().await.unwrap();
    assert!(!host.directory.path().join("rootfs/tmp/node").exists());
}

#[tokio::test]
async fn what_is_missing_is_said_with_what_to_do() {
    let nowhere = tempfile::tempdir().unwrap();
    let mut host = Host::new(nowhere.path());
    let launch = host.shell("true");
    host.config.qemu = Some(nowhere.path().join("qemu"));
    assert!(chain(host.driver().launch(launch.clone()).await).starts_with("looking for QEMU: cannot run"));

    let qemu = nowhere.path().join("qemu");
    std::fs::write(&qemu, "#!/bin/sh\necho QEMU emulator version 8.2.0\n").unwrap();
    std::fs::set_permissions(&qemu, std::fs::Permissions::from_mode(0o755)).unwrap();
    assert!(chain(host.driver().launch(launch.clone()).await).ends_with("run `sandpen kernel install`"));

    let mut layered = (*launch.spec).clone();
    layered.rootfs = Rootfs::Overlayfs(vec!["/a".into(); 21]);
    let layered = Launch { spec: Arc::new(layered), ..launch.clone() };
    assert!(matches!(host.driver().launch(layered).await, Err(DriverError::Unsupported { .. })));
    assert!(matches!(host.driver().adopt(launch.clone()).await, Err(DriverError::Gone)));
    assert!(!launch.runtime_dir.exists());
}

/// A VMM that ends at once: what it said is in the log, and nothing stays.
#[tokio::test]
async fn a_vmm_that_ends_at_once_is_told_as_such() {
    let fixture = sandpen_kernels::testing::Fixture::new();
    fixture.install().unwrap();
    let mut host = Host::new(&fixture.data());
    let qemu = host.directory.path().join("qemu");
    let script =
        "#!/bin/sh\n[ \"$1\" = --version ] && echo QEMU emulator version 8.2.0 && exit\necho no memory >&2; exit 3\n";
    std::fs::write(&qemu, script).unwrap();
    std::fs::set_permissions(&qemu, std::fs::Permissions::from_mode(0o755)).unwrap();
    host.config.qemu = Some(qemu);
    let launch = host.shell("true");
    let mut vmm = host.driver().launch(launch.clone()).await.unwrap();
    let mut events = Vec::new();
    while let Some(event) = tokio::time::timeout(DEADLINE, vmm.events.recv()).await.unwrap() {
        events.push(event);
    }
    assert_eq!(events, [VmmEvent::VmmExited(ExitStatus::Code(3))]);
    vmm.process.release().await.unwrap();
    assert!(host.vmm_log().contains("no memory"), "{}", host.vmm_log());
    assert!(!launch.runtime_dir.exists());
}
