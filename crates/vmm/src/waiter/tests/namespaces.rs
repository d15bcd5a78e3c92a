//! Processes in namespaces of their own: signals, statuses and ends are what they are without.

use nix::unistd::Uid;
use sandpen_skip::{Reason, skip};

use super::*;

fn spec(home: &Home, processes: Vec<ProcessSpec>) -> WaiterSpec {
    WaiterSpec { namespaces: Some(Namespaces { user: None, network: true }), ..home.spec(processes) }
}

/// Their making takes rights that an ordinary user has in a user namespace alone, which a driver's tests make.
fn may_make_namespaces() -> bool {
    if !Uid::effective().is_root() {
        skip(Reason::NotRoot, "namespaces without a user namespace are root's");
        return false;
    }
    true
}

fn init_pid(home: &Home) -> u32 {
    let record = fs::read_to_string(home.runtime().join("processes")).unwrap();
    let record = ProcessesRecord::from_text(&record).unwrap();
    record.processes.iter().find(|(role, ..)| role == wire::INIT_ROLE).map(|(_, pid, _)| *pid).unwrap()
}

async fn until_gone(pid: u32) {
    let gone = async {
        while fs::exists(format!("/proc/{pid}")).unwrap() {
            tokio::time::sleep(std::time::Duration::from_millis(5)).await;
        }
    };
    within(gone).await;
}

#[tokio::test]
async fn they_are_alone_and_their_ends_are_told() {
    if !may_make_namespaces() {
        return;
    }
    let home = Home::new();
    // The default of SIGTERM, which the first process of a namespace would not get.
    let look = "echo $$; ls /proc/self/ns >/dev/null; cat /proc/net/dev | wc -l; exec sleep 1000";
    let vmm = home.launch_spec(spec(&home, vec![shell("vmm", look)])).await.unwrap();
    assert_eq!(within(home.read_line("stdout.out")).await, "2", "the second one in its namespace");
    let devices = within(home.read_line("stdout.out")).await;
    assert_eq!(devices.trim(), "3", "two lines of titles and the loopback");
    let init = init_pid(&home);
    assert!(fs::read_dir(format!("/proc/{init}/fd")).unwrap().count() <= 1 + 1, "it keeps files open");
    vmm.signal(15).unwrap();
    let end = within(vmm.ended()).await;
    assert_eq!((end.status, end.companion_lost), (ExitStatus::Signal(15), None));
    until_gone(init).await;
    vmm.release().await.unwrap();
    assert!(!home.runtime().exists());

    let processes = vec![shell("virtiofsd", "exec sleep 1000"), shell("vmm", "read line < control.in; exit 42")];
    let vmm = home.launch_spec(spec(&home, processes)).await.unwrap();
    let (init, companion) = (init_pid(&home), home.pidfd("virtiofsd"));
    home.write("control.in", b"go\n");
    assert_eq!(within(vmm.ended()).await.status, ExitStatus::Code(42));
    within(crate::pidfd::ended(&companion)).await.unwrap();
    until_gone(init).await;
    vmm.release().await.unwrap();
}

#[tokio::test]
async fn with_their_first_process_all_end() {
    if !may_make_namespaces() {
        return;
    }
    let home = Home::new();
    let processes = vec![shell("virtiofsd", "exec sleep 1000"), shell("vmm", "sleep 1000; exit 1")];
    let vmm = home.launch_spec(spec(&home, processes)).await.unwrap();
    let init = home.pidfd(wire::INIT_ROLE);
    crate::pidfd::send_signal(&init, 9).unwrap();
    assert_eq!(within(vmm.ended()).await.status, ExitStatus::Signal(9));
    vmm.release().await.unwrap();
}

#[tokio::test]
async fn a_release_and_a_waiters_death_leave_nothing() {
    if !may_make_namespaces() {
        return;
    }
    let home = Home::new();
    let processes = || vec![shell("virtiofsd", "exec sleep 1000"), shell("vmm", "sleep 1000; exit 1")];
    let vmm = home.launch_spec(spec(&home, processes())).await.unwrap();
    let init = init_pid(&home);
    vmm.release().await.unwrap();
    until_gone(init).await;

    let vmm = home.launch_spec(spec(&home, processes())).await.unwrap();
    let init = init_pid(&home);
    let waiter = home.pidfd(wire::WAITER_ROLE);
    crate::pidfd::send_signal(&waiter, 9).unwrap();
    within(crate::pidfd::ended(&waiter)).await.unwrap();
    crate::pidfd::reap(&waiter).unwrap();
    // Another waiter takes them up, the first process of the namespace among them.
    let adopted = within(WaitedVmm::adopt(&home.runtime(), &home.bin())).await.unwrap();
    assert_eq!(init_pid(&home), init);
    adopted.signal(9).unwrap();
    within(adopted.ended()).await;
    adopted.release().await.unwrap();
    until_gone(init).await;
    drop(vmm);
}

#[tokio::test]
async fn sockets_come_connected_and_leave_no_name() {
    let home = Home::new();
    let read = "import socket; s=socket.socket(fileno=0); c,_=s.accept(); print(c.recv(9).decode(), flush=True)";
    let write = "import os,socket; os.write(3, b'over'); os.read(3, 1); print(os.listdir('.'))";
    let python = |role: &str, program: &str| {
        let process = shell(role, "");
        ProcessSpec { program: "python3".into(), args: vec!["-c".into(), program.into()], ..process }
    };
    let server = ProcessSpec { stdin: StdioSpec::Listener("s.sock".into()), ..python("virtiofsd", read) };
    let client = ProcessSpec { descriptors: vec![DescriptorSpec::Connected("s.sock".into())], ..python("vmm", write) };
    let vmm = home.launch(vec![server.clone(), client.clone()]).await.unwrap();
    assert_eq!(within(home.read_line("stdout.out")).await, "over");
    within(vmm.ended()).await;
    assert!(!home.read_now("stdout.out").contains("s.sock"));
    vmm.release().await.unwrap();

    for wrong in [vec![client.clone()], vec![server, client.clone(), ProcessSpec { role: "other".into(), ..client }]] {
        assert!(matches!(home.launch(wrong).await, Err(WaiterError::Invalid(_))));
    }
}
