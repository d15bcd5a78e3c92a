//! What cannot be done against core dumps is told, by a command and by the daemon.

use crate::support::{Home, explain, in_namespaces, output};

#[test]
fn what_a_dump_holds_and_cannot_be_limited_is_told() {
    let home = Home::new();
    for args in [&["doctor", "--json"][..], &["daemon", "--state-dir", "/dev/null"]] {
        let prepare = "mount --bind /dev/full /proc/$$/coredump_filter";
        let Some(command) = in_namespaces(prepare, &home.sandpen(args)) else { return };
        let said = output(command);
        let stderr = String::from_utf8_lossy(&said.stderr);
        let word = "what a core dump of this program holds cannot be limited: No space left on device";
        assert_eq!(stderr.matches(word).count(), 1, "{args:?}: {}", explain(&said));
    }
}
