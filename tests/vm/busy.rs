//! A host whose disk or programs are slow for some: nobody else waits for them.

use std::fs;
use std::process::Stdio;
use std::time::{Duration, Instant};

use sandpen::driver::image_helper::HELD_BY_A_TEST;
use sandpen_skip::{Reason, skip};

use crate::support::{Home, explain, make_rootfs, until};

/// More than the daemon has threads for short work.
const STARTS: usize = 33;

/// The time limit of a microVM, and its start, beside more starts that never get their image than there are
/// threads.
#[test]
fn images_that_take_for_ever_hold_up_nobody_else() {
    if let Err(missing) = sandpen::driver::mke2fs::find() {
        return skip(Reason::NoMke2fs, missing);
    }
    let home = Home::new();
    let rootfs = home.rootfs();
    let client = |args: &[&str]| {
        let mut command = home.sandpen(args);
        command.stdout(Stdio::null()).stderr(Stdio::null());
        command
    };
    // Starts the daemon, and whatever every start needs.
    assert!(client(&["run", "--rm", &rootfs, "--", "true"]).status().unwrap().success());
    let mut clients = Vec::new();
    for number in 0..STARTS {
        let root = home.path().join(format!("root-{number}"));
        make_rootfs(&root);
        fs::write(root.join(HELD_BY_A_TEST), "").unwrap();
        let (name, root) = (format!("image-{number}"), root.display().to_string());
        clients.push(client(&["run", "-d", "-n", &name, "--root", "image", &root, "--", "true"]).spawn().unwrap());
    }
    let has_disk = |number| home.state().join(format!("disks/sandbox/default/image-{number}.img")).exists();
    until("all want their image", || (0..STARTS).all(has_disk));
    until("some images are being made", || home.processes().iter().any(|(_, line)| line.contains("__image")));

    let begun = Instant::now();
    let output = home.run(&["run", "-n", "limited", "--timeout", "2s", &rootfs, "--", "sleep", "1000"]);
    let took = begun.elapsed();
    eprintln!("it was started and ended within {took:?}");
    let row = home.inspect("limited");
    assert_eq!(row["state"], "FAILED", "{}", explain(&output));
    assert_eq!(row["failure_kind"], "timed_out", "{row}");
    // Two seconds, a boot, and a busy machine.
    assert!(took < Duration::from_mins(1), "it took {took:?}");
    // Each of them can be ended, and all at once.
    for (name, end) in [("image-0", "stop"), ("image-1", "kill")] {
        assert_eq!(home.inspect(name)["state"], "STARTING");
        home.ok(&[end, name]);
        assert_eq!(home.inspect(name)["state"], "STOPPED");
    }
    home.ok(&["shutdown", "--stop-sandboxes"]);
    for client in &mut clients {
        until("the start is answered", || client.try_wait().unwrap().is_some());
    }
    let left = home.processes();
    assert!(left.is_empty(), "{left:?}");
    let drafts = fs::read_dir(home.state().join("cache/images")).unwrap().flatten();
    assert_eq!(drafts.filter(|entry| entry.file_name().to_string_lossy().starts_with(".draft")).count(), 0);
}
