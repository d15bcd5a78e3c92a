//! Waiters that are killed, and what comes in their place.

use super::*;

#[tokio::test]
async fn a_killed_waiter_is_replaced_and_the_vmm_never_notices() {
    let home = Home::new();
    let script = "i=0; while read line; do i=$((i+1)); echo $i; echo log $i >&2; done; exit 7";
    let mut echo = shell("vmm", script);
    // As a VMM does: it holds its pipes itself.
    echo.args = vec!["-c".into(), format!("exec 0<>control.in; echo up; {script}").into()];
    echo.stderr = StdioSpec::VmmLog;
    let vmm = home.launch(vec![shell("virtiofsd", "exec sleep 1000"), echo]).await.unwrap();
    let (pid, companion) = (vmm.pid(), home.pidfd("virtiofsd"));
    assert_eq!(within(home.read_line("stdout.out")).await, "up");
    let ended = tokio::spawn({
        let vmm = vmm.clone();
        async move { vmm.ended().await }
    });
    for round in 1..=3 {
        let waiter = home.pidfd("waiter");
        kill(&waiter).await;
        // What is written while there is none waits in the pipes, those of the log too.
        home.write("control.in", b"x\n");
        let replaced = async {
            while crate::pidfd::has_ended(home.pidfd_of("waiter").unwrap_or_else(|| waiter.try_clone().unwrap()))
                .unwrap()
            {
                tokio::time::sleep(std::time::Duration::from_millis(5)).await;
            }
        };
        within(replaced).await;
        assert_eq!(within(home.read_line("stdout.out")).await, round.to_string());
    }
    assert!(!ended.is_finished());
    assert!(matches!(home.launch(vec![shell("vmm", ":")]).await, Err(WaiterError::Live { .. })));
    let tags = fs::read(format!("/proc/{}/cmdline", home.pid("waiter"))).unwrap();
    assert_eq!(tags, b"sandpen-waiter\0test\0");
    assert_eq!(vmm.pid(), pid);
    vmm.signal(15).unwrap();
    let end = within(ended).await.unwrap();
    assert_eq!((end.status, end.companion_lost), (ExitStatus::Unknown, None));
    let log = fs::read_to_string(home.log()).unwrap();
    assert_eq!(log, "log 1\nlog 2\nlog 3\n");
    within(vmm.release()).await.unwrap();
    assert!(crate::pidfd::has_ended(&companion).unwrap());
    assert!(matches!(WaitedVmm::adopt(&home.runtime(), &home.bin()).await, Err(WaiterError::Gone)));
}

#[tokio::test]
async fn an_adoption_replaces_a_killed_waiter() {
    let home = Home::new();
    let script = "exec 0<>control.in; read line; echo $line";
    let vmm = home.launch(vec![shell("virtiofsd", "exec sleep 1000"), shell("vmm", script)]).await.unwrap();
    let (waiter, companion) = (home.pidfd("waiter"), home.pidfd("virtiofsd"));
    kill(&waiter).await;
    let adopted = WaitedVmm::adopt(&home.runtime(), &home.bin()).await.unwrap();
    assert!(!crate::pidfd::has_ended(home.pidfd("waiter")).unwrap());
    home.write("control.in", b"go\n");
    let end = within(adopted.ended()).await;
    assert_eq!(end.status, ExitStatus::Unknown);
    assert_eq!(within(vmm.ended()).await, end, "recorded like any other");
    assert_eq!(home.read_now("stdout.out"), "go\n", "the new waiter holds the pipes");
    within(adopted.release()).await.unwrap();
    assert!(crate::pidfd::has_ended(&companion).unwrap());
    assert!(!home.runtime().exists());
}

#[tokio::test]
async fn a_stopped_vmm_outlives_its_waiter() {
    let home = Home::new();
    let script = "exec 0<>control.in; echo up; read line; echo $line; exit 7";
    let vmm = home.launch(vec![shell("vmm", script)]).await.unwrap();
    assert_eq!(within(home.read_line("stdout.out")).await, "up");
    vmm.signal(19).unwrap();
    let state = || fs::read_to_string(format!("/proc/{}/stat", vmm.pid())).unwrap();
    within(async {
        while !state().contains(") T ") {
            tokio::time::sleep(std::time::Duration::from_millis(5)).await;
        }
    })
    .await;
    kill(&home.pidfd("waiter")).await;
    let adopted = WaitedVmm::adopt(&home.runtime(), &home.bin()).await.unwrap();
    assert!(state().contains(") T "), "{}", state());
    adopted.signal(18).unwrap();
    home.write("control.in", b"go\n");
    assert_eq!(within(home.read_line("stdout.out")).await, "go");
    within(adopted.ended()).await;
    within(adopted.release()).await.unwrap();
}

#[tokio::test]
async fn a_companion_that_dies_under_another_waiter_takes_the_vmm_along() {
    let home = Home::new();
    let vmm = home.launch(vec![shell("virtiofsd", "exec sleep 1000"), shell("vmm", "exec sleep 1000")]).await.unwrap();
    kill(&home.pidfd("waiter")).await;
    let adopted = WaitedVmm::adopt(&home.runtime(), &home.bin()).await.unwrap();
    kill(&home.pidfd("virtiofsd")).await;
    let end = within(adopted.ended()).await;
    assert_eq!((end.status, end.companion_lost.as_deref()), (ExitStatus::Unknown, Some("virtiofsd")));
    within(adopted.release()).await.unwrap();
    drop(vmm);
}

#[tokio::test]
async fn a_waiter_that_says_not_what_it_held_is_not_replaced() {
    let home = Home::new();
    let vmm = home.launch(vec![shell("vmm", "exec sleep 1000")]).await.unwrap();
    fs::write(home.runtime().join("held"), "SPWAIT1\nof an earlier version").unwrap();
    kill(&home.pidfd("waiter")).await;
    let adopted = WaitedVmm::adopt(&home.runtime(), &home.bin()).await.unwrap();
    assert!(home.pidfd_of("waiter").is_none_or(|waiter| crate::pidfd::has_ended(waiter).unwrap()));
    adopted.signal(15).unwrap();
    assert_eq!(within(adopted.ended()).await.status, ExitStatus::Unknown);
    within(adopted.release()).await.unwrap();
    drop(vmm);
}

#[tokio::test]
async fn what_is_left_without_vmm_and_waiter_is_ended() {
    let home = Home::new();
    let vmm = home.launch(vec![shell("virtiofsd", "exec sleep 1000"), shell("vmm", "exec sleep 1000")]).await.unwrap();
    let companion = home.pidfd("virtiofsd");
    for role in ["waiter", "vmm"] {
        kill(&home.pidfd(role)).await;
    }
    drop(vmm);
    assert!(matches!(WaitedVmm::adopt(&home.runtime(), &home.bin()).await, Err(WaiterError::Gone)));
    within(crate::pidfd::ended(&companion)).await.unwrap();
    assert!(!home.runtime().exists());
}

#[tokio::test]
async fn with_everything_killed_adoption_says_gone_and_clears_up() {
    let home = Home::new();
    let vmm = home.launch(vec![shell("vmm", "exec sleep 1000")]).await.unwrap();
    let waiter = home.pid("waiter");
    for role in ["waiter", "vmm"] {
        let process = home.pidfd(role);
        crate::pidfd::send_signal(&process, 9).unwrap();
        within(crate::pidfd::ended(&process)).await.unwrap();
    }
    assert!(fs::exists(format!("/proc/{waiter}")).unwrap(), "its parent is this process");
    drop(vmm);
    assert!(matches!(WaitedVmm::adopt(&home.runtime(), &home.bin()).await, Err(WaiterError::Gone)));
    assert!(!home.runtime().exists());
    assert!(!fs::exists(format!("/proc/{waiter}")).unwrap(), "reaped with its record");
}
