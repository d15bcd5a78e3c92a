//! Runtime directories that somebody removes while a waiter is in them: nobody could ever release it.

use super::*;

/// The pidfds of these roles.
fn processes(home: &Home, roles: &[&str]) -> Vec<std::os::fd::OwnedFd> {
    roles.iter().map(|role| home.pidfd(role)).collect()
}

/// All of them end, the waiter last, which has this process as its parent.
async fn all_end(processes: &[std::os::fd::OwnedFd]) {
    for process in processes {
        within(crate::pidfd::ended(process)).await.unwrap();
        crate::pidfd::reap(process).unwrap();
    }
}

#[tokio::test]
async fn a_waiter_whose_directory_is_removed_ends_its_processes_and_leaves() {
    let home = Home::new();
    let vmm = home.launch(vec![shell("virtiofsd", "exec sleep 1000"), shell("vmm", "exec sleep 1000")]).await.unwrap();
    let processes = processes(&home, &["vmm", "virtiofsd", "waiter"]);
    fs::remove_dir_all(home.runtime()).unwrap();
    all_end(&processes).await;
    assert!(!home.runtime().exists(), "nothing was written again");
    drop(vmm);
}

#[tokio::test]
async fn also_one_that_has_taken_up_the_processes_of_another() {
    let home = Home::new();
    let vmm = home.launch(vec![shell("vmm", "exec sleep 1000")]).await.unwrap();
    kill(&home.pidfd("waiter")).await;
    let adopted = WaitedVmm::adopt(&home.runtime(), &home.bin()).await.unwrap();
    let processes = processes(&home, &["vmm", "waiter"]);
    fs::remove_dir_all(home.runtime()).unwrap();
    all_end(&processes).await;
    drop((vmm, adopted));
}

#[tokio::test]
async fn also_one_whose_vmm_has_ended() {
    let home = Home::new();
    let vmm = home
        .launch(vec![shell("virtiofsd", "trap '' TERM; echo up; sleep 1000"), shell("vmm", "read line < control.in")]);
    let vmm = vmm.await.unwrap();
    assert_eq!(within(home.read_line("stdout.out")).await, "up");
    let processes = processes(&home, &["virtiofsd", "waiter"]);
    home.write("control.in", b"go\n");
    assert_eq!(within(vmm.ended()).await.status, ExitStatus::Code(0));
    fs::remove_dir_all(home.runtime()).unwrap();
    all_end(&processes).await;
    drop(vmm);
}

/// A state directory may be moved while no daemon runs, and other files in it come and go.
#[tokio::test]
async fn a_directory_that_is_moved_is_not_gone() {
    let home = Home::new();
    let vmm =
        home.launch(vec![shell("vmm", "echo up; read line < control.in; echo $line; exec sleep 1000")]).await.unwrap();
    assert_eq!(within(home.read_line("stdout.out")).await, "up");
    let processes = processes(&home, &["vmm", "waiter"]);
    let moved = home.path().join("moved");
    fs::write(home.runtime().join("other"), "").unwrap();
    fs::remove_file(home.runtime().join("other")).unwrap();
    fs::rename(home.runtime(), &moved).unwrap();
    fs::rename(&moved, home.runtime()).unwrap();
    home.write("control.in", b"go\n");
    assert_eq!(within(home.read_line("stdout.out")).await, "go");
    fs::rename(home.runtime(), &moved).unwrap();
    assert!(!processes.iter().any(|process| crate::pidfd::has_ended(process).unwrap()));
    fs::remove_dir_all(&moved).unwrap();
    all_end(&processes).await;
    drop(vmm);
}
