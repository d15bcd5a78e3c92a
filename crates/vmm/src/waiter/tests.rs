//! Real waiters with real processes.

use std::fs;
use std::io;
use std::io::{Read as _, Write as _};
use std::os::unix::net::UnixStream;
use std::path::PathBuf;
use std::process::{Command, Stdio};

use sandpen_types::state::ExitStatus;
use sandpen_waiter::records::ProcessesRecord;
use sandpen_waiter::wire;

use super::*;
use crate::start_timings::StartTimings;
use test_support::*;

mod killed;
mod lease;
mod lock;
mod namespaces;
mod newborn;
mod program;
mod removed;
mod test_support;

#[tokio::test]
async fn an_exit_code_and_the_last_output_come_through() {
    let home = Home::new();
    let vmm = home.launch(vec![shell("vmm", "echo out; echo err >&2; exit 42")]).await.unwrap();
    let end = within(vmm.ended()).await;
    assert_eq!(end.status, ExitStatus::Code(42));
    assert_eq!(end.companion_lost, None);
    assert!((chrono::Utc::now() - end.at).num_seconds() < 60);
    // The waiter holds the pipes after the writer's end.
    assert_eq!(home.read_now("stdout.out"), "out\n");
    assert_eq!(home.read_now("stderr.out"), "err\n");
    assert_eq!(within(vmm.ended()).await, end, "it can be asked again");
    vmm.release().await.unwrap();
    vmm.release().await.unwrap();
    assert!(!home.runtime().exists());
    assert_eq!(within(vmm.ended()).await, end, "also after the release");
}

#[tokio::test]
async fn an_end_that_cannot_be_recorded_is_recorded_when_it_can() {
    let home = Home::new();
    let vmm = home.launch(vec![shell("vmm", "read line < control.in; exit 42")]).await.unwrap();
    // A directory in the way: the disk takes nothing under this name.
    let in_the_way = home.runtime().join("exit");
    fs::create_dir(&in_the_way).unwrap();
    home.write("control.in", b"go\n");
    let words = home.runtime().join("waiter.err");
    let was_tried = async {
        while !fs::read_to_string(&words).unwrap().contains("trying again") {
            tokio::time::sleep(std::time::Duration::from_millis(5)).await;
        }
    };
    within(was_tried).await;
    assert!(fs::exists(format!("/proc/{}", vmm.pid())).unwrap(), "not reaped before its end is on record");
    fs::remove_dir(&in_the_way).unwrap();
    assert_eq!(within(vmm.ended()).await.status, ExitStatus::Code(42));
    vmm.release().await.unwrap();
}

#[tokio::test]
async fn a_vmm_that_nobody_watches_is_killed_by_its_records() {
    let home = Home::new();
    WaitedVmm::kill(&home.runtime()).unwrap();
    let vmm = home.launch(vec![shell("vmm", "exec sleep 1000")]).await.unwrap();
    WaitedVmm::kill(&home.runtime()).unwrap();
    assert_eq!(within(vmm.ended()).await.status, ExitStatus::Signal(9));
    WaitedVmm::kill(&home.runtime()).unwrap();
    vmm.release().await.unwrap();
}

#[tokio::test]
async fn a_signal_is_told_from_a_code() {
    let home = Home::new();
    let vmm = home.launch(vec![shell("vmm", "exec sleep 1000")]).await.unwrap();
    assert!(fs::exists(format!("/proc/{}", vmm.pid())).unwrap());
    vmm.signal(15).unwrap();
    assert_eq!(within(vmm.ended()).await.status, ExitStatus::Signal(15));
    vmm.signal(15).unwrap();
    assert!(vmm.signal(1000).is_err());
    assert!(!fs::exists(format!("/proc/{}", vmm.pid())).unwrap(), "reaped when its end is told");
    vmm.release().await.unwrap();
}

#[tokio::test]
async fn a_killed_companion_takes_the_vmm_along() {
    let home = Home::new();
    let vmm = home.launch(vec![shell("virtiofsd", "kill -9 $$"), shell("vmm", "exec sleep 1000")]).await.unwrap();
    let end = within(vmm.ended()).await;
    assert_eq!(end.status, ExitStatus::Signal(9));
    assert_eq!(end.companion_lost.as_deref(), Some("virtiofsd"));
    vmm.release().await.unwrap();
}

#[tokio::test]
async fn a_companion_that_exits_before_the_vmm_was_not_lost() {
    let home = Home::new();
    // The VMM shuts down: it closes its connection, the companion exits, then the VMM.
    let vmm = shell(
        "vmm",
        "while kill -0 $(sed -n 's/^virtiofsd \\([0-9]*\\) .*/\\1/p' processes); do sleep 0.01; done; exit 3",
    );
    let vmm = home.launch(vec![shell("virtiofsd", "sleep 0.2; exit 1"), vmm]).await.unwrap();
    let end = within(vmm.ended()).await;
    assert_eq!((end.status, end.companion_lost), (ExitStatus::Code(3), None));
    vmm.release().await.unwrap();
}

#[tokio::test]
async fn companions_end_after_the_vmm_even_deaf_ones() {
    let home = Home::new();
    let deaf = shell("virtiofsd", "trap '' TERM; echo deaf; while :; do sleep 0.05; done");
    let vmm = home.launch(vec![deaf, shell("vmm", "read line < control.in; exit 0")]).await.unwrap();
    let companion = home.pidfd("virtiofsd");
    within(home.read_line("stdout.out")).await;
    home.write("control.in", b"go\n");
    assert_eq!(within(vmm.ended()).await.status, ExitStatus::Code(0));
    within(crate::pidfd::ended(&companion)).await.unwrap();
    assert!(home.runtime().exists(), "the waiter stays until it is released");
    vmm.release().await.unwrap();
}

#[tokio::test]
async fn release_ends_whatever_lives() {
    let home = Home::new();
    let vmm = home.launch(vec![shell("virtiofsd", "exec sleep 1000"), shell("vmm", "exec sleep 1000")]).await.unwrap();
    let all = ["waiter", "virtiofsd", "vmm"].map(|role| home.pidfd(role));
    within(vmm.release()).await.unwrap();
    for process in all {
        assert!(crate::pidfd::has_ended(process).unwrap());
    }
    assert!(!home.runtime().exists());
}

#[tokio::test]
async fn descendants_end_with_their_process() {
    let home = Home::new();
    let vmm = home.launch(vec![shell("vmm", "sleep 1000 & echo $!; exit 0")]).await.unwrap();
    within(vmm.ended()).await;
    let pid = home.read_now("stdout.out");
    let gone = async {
        // It is init's now, which reaps it when it likes.
        while fs::read_to_string(format!("/proc/{}/stat", pid.trim())).is_ok_and(|stat| !stat.contains(") Z ")) {
            tokio::time::sleep(std::time::Duration::from_millis(5)).await;
        }
    };
    within(gone).await;
    vmm.release().await.unwrap();
}

async fn kill(process: &std::os::fd::OwnedFd) {
    crate::pidfd::send_signal(process, 9).unwrap();
    within(crate::pidfd::ended(process)).await.unwrap();
}

#[tokio::test]
async fn a_program_that_is_missing_is_named_and_nothing_is_left() {
    let home = Home::new();
    let mut missing = shell("vmm", "");
    missing.program = "/nonexistent/qemu".into();
    let first = shell("virtiofsd", "echo $$ > ../pid; exec sleep 1000");
    let error = home.launch(vec![first, missing]).await.unwrap_err();
    let WaiterError::Start { role, program, source } = &error else { panic!("{error:?}") };
    assert_eq!((role.as_str(), source.kind()), ("vmm", io::ErrorKind::NotFound));
    assert_eq!(program, &PathBuf::from("/nonexistent/qemu"));
    assert!(!home.runtime().exists());
    if let Ok(pid) = fs::read_to_string(home.path().join("pid")) {
        assert!(!fs::exists(format!("/proc/{}", pid.trim())).unwrap());
    }
    assert!(matches!(WaitedVmm::adopt(&home.runtime(), &home.bin()).await, Err(WaiterError::Gone)));
}

#[tokio::test]
async fn specifications_that_lead_elsewhere_are_refused() {
    let home = Home::new();
    for name in ["", "..", "a/b", "exit", "commands", ".hidden", "a b", "stdout.out"] {
        let mut spec = home.spec(vec![shell("vmm", "")]);
        spec.fifos.push(name.to_owned());
        let error = WaitedVmm::launch(&home.runtime(), &home.bin(), spec, &StartTimings::default()).await.unwrap_err();
        assert!(matches!(error, WaiterError::Invalid(_)), "{name:?}: {error}");
    }
    for roles in [&["vmm", "vmm"][..], &[], &["virtiofsd"], &["vmm", "waiter"], &["vmm", "a b"]] {
        let spec = home.spec(roles.iter().map(|role| shell(role, "")).collect());
        let error = WaitedVmm::launch(&home.runtime(), &home.bin(), spec, &StartTimings::default()).await.unwrap_err();
        assert!(matches!(error, WaiterError::Invalid(_)), "{roles:?}: {error}");
    }
    assert!(!home.runtime().exists());
}

#[tokio::test]
async fn a_live_directory_is_refused_and_a_stale_one_emptied() {
    let home = Home::new();
    prepare_runtime_dir(&home.runtime()).unwrap();
    fs::write(home.runtime().join("prepared"), "by the driver\n").unwrap();
    let vmm = home.launch(vec![shell("vmm", "cat prepared; exec sleep 1000")]).await.unwrap();
    assert_eq!(within(home.read_line("stdout.out")).await, "by the driver");
    assert!(matches!(home.launch(vec![shell("vmm", ":")]).await, Err(WaiterError::Live { .. })));
    assert!(matches!(prepare_runtime_dir(&home.runtime()), Err(WaiterError::Live { .. })));

    vmm.signal(9).unwrap();
    within(vmm.ended()).await;
    assert!(matches!(home.launch(vec![shell("vmm", ":")]).await, Err(WaiterError::Live { .. })), "not yet read");
    let waiter = home.pidfd("waiter");
    crate::pidfd::send_signal(&waiter, 9).unwrap();
    within(crate::pidfd::ended(&waiter)).await.unwrap();
    drop(vmm);
    let vmm = home.launch(vec![shell("vmm", "ls; exit 1")]).await.unwrap();
    assert_eq!(within(vmm.ended()).await.status, ExitStatus::Code(1));
    assert!(!home.read_now("stdout.out").contains("prepared"));
    vmm.release().await.unwrap();
}

#[tokio::test]
async fn the_vmm_log_has_a_limit_that_no_flood_passes() {
    let home = Home::new();
    let mut flood = shell("vmm", "head -c 3000000 /dev/zero; echo err >&2; exit 7");
    (flood.stdout, flood.stderr) = (StdioSpec::VmmLog, StdioSpec::VmmLog);
    let vmm = home.launch(vec![flood]).await.unwrap();
    assert_eq!(within(vmm.ended()).await.status, ExitStatus::Code(7));
    let log = fs::read(home.log()).unwrap();
    assert_eq!(log.len(), 10_000 + "\n… truncated\n".len());
    vmm.release().await.unwrap();

    let mut words = shell("vmm", "echo last words >&2");
    words.stderr = StdioSpec::VmmLog;
    let vmm = home.launch(vec![words]).await.unwrap();
    within(vmm.ended()).await;
    assert_eq!(fs::read_to_string(home.log()).unwrap(), "last words\n", "emptied at the launch, whole at the end");
    vmm.release().await.unwrap();
}

#[tokio::test]
async fn processes_start_clean() {
    let home = Home::new();
    let mut vmm = shell("vmm", "ls /proc/self/fd; grep -E 'Sig(Blk|Ign)' /proc/self/status; pwd; env");
    (vmm.clear_env, vmm.env) = (true, vec![("SECRET".into(), "a\nb".into())]);
    assert!(!format!("{vmm:?}").contains("a\\nb"));
    let vmm = home.launch(vec![vmm]).await.unwrap();
    within(vmm.ended()).await;
    let text = home.read_now("stdout.out");
    let lines: Vec<&str> = text.lines().collect();
    // 3 is ls's own.
    assert_eq!(lines[..4], ["0", "1", "2", "3"], "{text}");
    for line in &lines[4..6] {
        // The C library keeps signals 32 and 33 for itself; what we inherited there, stays.
        let mask = u64::from_str_radix(line.split_once('\t').unwrap().1, 16).unwrap();
        assert_eq!(mask & !(3 << 31), 0, "{text}");
    }
    assert_eq!(lines[6], home.runtime().to_str().unwrap());
    assert!(text.contains("SECRET=a\nb\n") && !text.contains("CARGO"), "{text}");
    vmm.release().await.unwrap();
}

#[tokio::test]
async fn a_listener_is_bound_before_anybody_connects() {
    let home = Home::new();
    let mut companion = shell("virtiofsd", "test -S /proc/self/fd/0 || ls -l /proc/self/fd/0; exec sleep 1000");
    companion.stdin = StdioSpec::Listener("fs.sock".into());
    let vmm = home.launch(vec![shell("vmm", "test -S fs.sock && exit 9"), companion]).await.unwrap();
    assert_eq!(within(vmm.ended()).await.status, ExitStatus::Code(9));
    vmm.release().await.unwrap();
    assert!(UnixStream::connect(home.runtime().join("fs.sock")).is_err());
}

#[tokio::test]
async fn given_data_is_read_to_its_end_and_is_in_no_command_line() {
    let home = Home::new();
    let mut data = b"secret\n".to_vec();
    data.resize(1 << 20, b'x');
    let mut cat = shell("vmm", "wc -c; (echo more > /proc/self/fd/0) 2>/dev/null && echo changed");
    cat.stdin = StdioSpec::Data(data);
    assert!(!format!("{:?}", cat.stdin).contains("115"), "no bytes are shown");
    let vmm = home.launch(vec![cat]).await.unwrap();
    within(vmm.ended()).await;
    assert_eq!(home.read_now("stdout.out").trim(), (1 << 20).to_string());
    vmm.release().await.unwrap();
}

#[tokio::test]
async fn input_ends_when_it_is_closed_and_not_before() {
    let home = Home::new();
    let mut cat = shell("vmm", "cat; echo end");
    cat.stdin = StdioSpec::Fifo("control.in".into());
    let vmm = home.launch(vec![cat]).await.unwrap();
    home.write("control.in", b"one\n");
    assert_eq!(within(home.read_line("stdout.out")).await, "one");
    home.write("control.in", b"two\n");
    assert_eq!(within(home.read_line("stdout.out")).await, "two");
    vmm.close_fifo("control.in").await.unwrap();
    assert_eq!(within(vmm.ended()).await.status, ExitStatus::Code(0));
    vmm.release().await.unwrap();
    assert!(matches!(vmm.close_fifo("control.in").await, Err(WaiterError::Gone)));
}

/// Not a test by itself: the orchestrator that is killed.
#[tokio::test]
#[ignore = "run by a_killed_orchestrator_costs_neither_output_nor_status as a process of its own"]
async fn orchestrator_to_be_killed() {
    let home = Home::from_environment();
    let script = "for i in $(seq 500); do echo line $i; done; read line < control.in; exit 42";
    let _vmm = home.launch(vec![shell("vmm", script)]).await.unwrap();
    fs::write(home.path().join("launched"), "").unwrap();
    std::future::pending::<()>().await;
}

#[tokio::test]
async fn a_killed_orchestrator_costs_neither_output_nor_status() {
    let home = Home::new();
    let mut orchestrator = home.run_test("waiter::tests::orchestrator_to_be_killed");
    within(home.appears("launched")).await;
    orchestrator.kill().unwrap();
    orchestrator.wait().unwrap();

    let vmm = WaitedVmm::adopt(&home.runtime(), &home.bin()).await.unwrap();
    let waiter = home.pidfd("waiter");
    home.write("control.in", b"go\n");
    assert_eq!(within(vmm.ended()).await.status, ExitStatus::Code(42));
    drop(vmm);
    // And once more, now that it has ended.
    let vmm = WaitedVmm::adopt(&home.runtime(), &home.bin()).await.unwrap();
    assert_eq!(within(vmm.ended()).await.status, ExitStatus::Code(42));
    let lines: Vec<String> = (1..=500).map(|i| format!("line {i}")).collect();
    assert_eq!(home.read_now("stdout.out").lines().collect::<Vec<_>>(), lines);
    within(vmm.release()).await.unwrap();
    assert!(crate::pidfd::has_ended(waiter).unwrap());
    assert!(!home.runtime().exists());
}

#[tokio::test]
async fn a_waiter_whose_specification_ends_early_leaves_nothing() {
    let home = Home::new();
    let program = install::program(&home.bin()).unwrap();
    let whole = wire::encode(&home.spec(vec![shell("vmm", "touch ../ran; exec sleep 1000")])).unwrap();
    for length in [0, 5, 12, 40, whole.len() - 8, whole.len() - 1] {
        fs::create_dir_all(home.runtime()).unwrap();
        let mut waiter = Command::new(program.path());
        waiter.current_dir(home.runtime()).stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::null());
        let mut waiter = waiter.spawn().unwrap();
        waiter.stdin.take().unwrap().write_all(&whole[..length]).unwrap();
        let mut report = String::new();
        waiter.stdout.take().unwrap().read_to_string(&mut report).unwrap();
        assert!(waiter.wait().unwrap().success());
        assert_eq!(report, "");
        assert!(!home.runtime().exists(), "after {length} bytes");
    }
    assert!(!home.path().join("ran").exists());
}

#[tokio::test]
async fn a_hundred_waiters() {
    let home = Home::new();
    let launches = (0..100).map(|i| {
        let runtime = home.path().join(format!("run/{i}"));
        let (bin, spec) = (home.bin(), home.spec(vec![shell("vmm", &format!("echo {i}; exit {i}"))]));
        async move { WaitedVmm::launch(&runtime, &bin, spec, &StartTimings::default()).await }
    });
    let vmms = futures::future::try_join_all(launches).await.unwrap();
    let mut waiters = Vec::new();
    for (i, vmm) in vmms.iter().enumerate() {
        assert_eq!(within(vmm.ended()).await.status, ExitStatus::Code(i32::try_from(i).unwrap()));
        let record = fs::read_to_string(home.path().join(format!("run/{i}/processes"))).unwrap();
        waiters.push(ProcessesRecord::from_text(&record).unwrap().processes[0].1);
    }
    let pss: u64 = waiters.iter().map(|pid| pss_kib(*pid)).sum();
    println!("PSS of an idle waiter among 100: {} KiB", pss / 100);
    within(futures::future::try_join_all(vmms.iter().map(WaitedVmm::release))).await.unwrap();
    for pid in waiters {
        assert!(!fs::exists(format!("/proc/{pid}")).unwrap(), "reaped");
    }
    assert_eq!(fs::read_dir(home.path().join("run")).unwrap().count(), 0);
}
