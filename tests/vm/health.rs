//! A health check in a real microVM: the command runs in the guest, beside the workload.

use crate::support::{self, Home, explain, finish, until};

#[test]
fn the_check_sees_the_guest_and_its_failure_is_a_crash() {
    let home = Home::new();
    let rootfs = home.rootfs();
    // It is in the workload's environment and directory, and finds what the workload does.
    let check = "pwd; echo $MARK; test -e /run-on && test ! -e /sick";
    let script = "touch /run-on; echo ready; read x; touch /sick; exec sleep 1000";
    let mut command = home.sandpen(&["run", "-i", "-n", "a", "-e", "MARK=here", "-w", "/tmp"]);
    command.args(["--health-cmd", check, "--health-interval", "100ms", "--health-retries", "2"]);
    command.args([&rootfs, "--", "sh", "-c", script]);
    command.stdin(std::process::Stdio::piped()).stdout(std::process::Stdio::piped());
    let mut child = command.stderr(std::process::Stdio::piped()).spawn().unwrap();
    until("it is well", || {
        home.run(&["inspect", "a"]).status.success() && home.inspect("a")["health"]["status"] == "healthy"
    });
    support::feed(&mut child, b"go\n");
    let ended = finish(child);
    let stderr = String::from_utf8_lossy(&ended.stderr);
    assert!(stderr.contains("the health check failed 2 times in a row"), "{}", explain(&ended));
    assert_eq!(ended.stdout, b"ready\n", "what a check writes is no output of the workload");
    let row = home.inspect("a");
    assert_eq!((row["state"].as_str(), row["failure_kind"].as_str()), (Some("FAILED"), Some("unhealthy")), "{row}");
    assert!(row["failure"].as_str().unwrap().ends_with("exit code 1: /tmp here"), "{row}");
}
