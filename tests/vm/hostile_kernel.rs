//! A microVM of libkrun whose kernel asks its file server for whatever it likes, from the command to the device: what it
//! gets, with Landlock and on a host whose kernel has none. The same for each server alone is in `tests/cli`.

use std::process::{Command, Stdio};

use sandpen::driver::fuse_probe::{RelayGuest, lookup, outcomes};

use crate::support::shared::{INSIDE, Shared, leads_out};
use crate::support::{Home, explain, finish, guests};

/// Refuses the system calls of Landlock (`landlock_create_ruleset` and the next two) as a kernel without it does, and
/// becomes the command after it.
const WITHOUT_LANDLOCK: &str = "
import ctypes, os, struct, sys
NR, ALLOW, NO_CALL = 0, 0x7fff0000, 0x00050000 | 38
code = [(0x20, 0, 0, NR), (0x35, 0, 2, 444), (0x25, 1, 0, 446), (0x06, 0, 0, NO_CALL), (0x06, 0, 0, ALLOW)]
filters = ctypes.create_string_buffer(b''.join(struct.pack('HBBI', *line) for line in code))
program = ctypes.create_string_buffer(struct.pack('HxxxxxxP', len(code), ctypes.addressof(filters)))
libc = ctypes.CDLL(None, use_errno=True)
if libc.prctl(38, 1, 0, 0, 0) or libc.prctl(22, 2, ctypes.byref(program), 0, 0):
    sys.exit(os.strerror(ctypes.get_errno()))
os.execvp(sys.argv[1], sys.argv[1:])
";

/// What lies above every share of a process in no jail.
const OF_THE_HOST: [&str; 8] = [
    "../../etc/passwd",
    "../../root",
    "../../home",
    "../../tmp",
    "../../run",
    "../../sys",
    "../../proc/1",
    "../../proc/self/mem",
];

fn without_landlock(command: &Command) -> Command {
    let mut python = Command::new("python3");
    python.args(["-c", WITHOUT_LANDLOCK]).arg(command.get_program()).args(command.get_args());
    python.envs(command.get_envs().filter_map(|(name, value)| Some((name, value?))));
    python
}

fn it_gets_what_is_shared_and_nothing_else(has_landlock: bool) {
    if !guests::kvm() {
        return;
    }
    let (home, shared) = (Home::new(), Shared::new());
    let before = shared.beside();
    let program = guests::build(home.path(), "relay");
    let volume = format!("{}:/share", shared.share().display());
    let root = home.path().to_str().unwrap();
    let options = ["run", "-i", "-n", "a", "--driver", "krun-bare", "--memory", "96M", "-v", &volume, root, "--"];
    let run = home.sandpen(&[&options[..], &[program.to_str().unwrap()]].concat());
    // The daemon that it starts, and all processes of that, are below the same filter.
    let mut run = if has_landlock { run } else { without_landlock(&run) };
    let mut child = run.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    let mut guest = RelayGuest::new(child.stdin.take().unwrap(), child.stdout.take().unwrap());
    let words = outcomes(&mut guest, &shared.share());
    let found: Vec<_> = OF_THE_HOST.iter().filter(|path| lookup(&mut guest, path).is_ok()).collect();
    let vmm = home.inspect("a")["confinement"]["vmm"].clone();
    drop(guest);
    let output = finish(child);
    let words = words.unwrap_or_else(|errno| panic!("{errno}: {}", explain(&output)));
    assert_eq!(output.status.code(), Some(0), "{}", explain(&output));
    assert!(vmm["jail"].is_object(), "{vmm}");
    assert_eq!(vmm["landlock"].is_object(), has_landlock, "{vmm}");
    assert!(INSIDE.iter().all(|name| words[*name] == "done"), "{words:#?}");
    for (name, word) in &words {
        // The jail's own root can be listed, where mounts alone hold the process.
        let is_jails = !has_landlock && name == "list outside";
        assert!(!leads_out(name, word) || is_jails, "{name}: {word} {words:#?}");
    }
    assert!(found.is_empty(), "{found:?}");
    assert_ne!(words["make a device node"], "done", "{words:#?}");
    assert_eq!(shared.beside(), before);
}

#[test]
fn a_hostile_kernel_gets_what_is_shared_and_nothing_else() {
    if let Err(why) = sandpen::driver::confine::kernel_abi() {
        return sandpen_skip::skip(sandpen_skip::Reason::NoLandlock, why);
    }
    it_gets_what_is_shared_and_nothing_else(true);
}

#[test]
fn so_it_is_on_a_host_without_landlock() {
    it_gets_what_is_shared_and_nothing_else(false);
}
