//! What a guest's kernel that speaks the file protocol by itself gets out of a shared directory: names that lead out of
//! it, and what lies in it. A workload's own kernel never asks for such; one that a workload took over may.

use std::collections::BTreeMap;
use std::fs;
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixListener;
use std::process::{Command, Stdio};

use nix::unistd::Uid;
use sandpen::driver::confine::rights::is_initial_root;
use sandpen::driver::confine::{JailNetwork, JailPlan, Policy};
use sandpen::driver::fuse_probe::{VirtiofsdGuest, outcomes};
use sandpen::driver::virtiofs;
use sandpen_types::confinement::Jail;

use sandpen_skip::{Reason, skip};

use crate::support;
use crate::support::shared::{INSIDE, Shared, leads_out};

const SANDPEN: &str = env!("CARGO_BIN_EXE_sandpen");

/// A virtiofsd in a jail, as `command` starts it: what it did for such a kernel, and how it was confined.
fn asked_of_virtiofsd(shared: &Shared, uid: Option<u32>, mut command: Command) -> (BTreeMap<String, String>, Jail) {
    let jail = Ok(JailPlan { uid, network: JailNetwork::Own, empty_root: None });
    let policy = Policy { jail, ..virtiofs::policy_of_share(&shared.share()) };
    let runtime = tempfile::tempdir().unwrap();
    let socket = runtime.path().join("virtiofs.sock");
    let listener = UnixListener::bind(&socket).unwrap();
    command.args(["__virtiofsd", "--shared-dir"]).arg(shared.share()).arg("--policy");
    command.arg(serde_json::to_string(&policy).unwrap()).current_dir(runtime.path());
    command.stdin(Stdio::from(OwnedFd::from(listener))).stdout(Stdio::piped()).stderr(Stdio::piped());
    let child = command.spawn().unwrap();
    let words = VirtiofsdGuest::connect(&socket).map(|mut guest| outcomes(&mut guest, &shared.share()));
    // It ends with its guest.
    let output = support::finish(child);
    let words = words.unwrap().unwrap_or_else(|errno| panic!("{errno}: {}", support::explain(&output)));
    let report = sandpen::driver::confine::read(runtime.path()).unwrap();
    (words, report["virtiofsd"].jail.clone().unwrap())
}

fn shows_what_is_shared_alone(words: &BTreeMap<String, String>) {
    assert!(INSIDE.iter().all(|name| words[*name] == "done"), "{words:#?}");
    for (name, word) in words {
        assert!(!leads_out(name, word), "{name}: {word} {words:#?}");
    }
    assert_ne!(words["make a device node"], "done", "{words:#?}");
}

#[test]
fn virtiofsd_shows_what_it_shares_and_nothing_else() {
    // As another user's, and as the host's root has it: with a user of the sandbox's own.
    for uid in [None, Some(0x7FFF_FFFE)] {
        if uid.is_some() && !is_initial_root() {
            return skip(Reason::NotRoot, "only root gives a sandbox its own user");
        }
        let shared = Shared::new();
        let before = shared.beside();
        let (words, jail) = asked_of_virtiofsd(&shared, uid, Command::new(SANDPEN));
        shows_what_is_shared_alone(&words);
        assert_eq!((jail.uid, jail.unmapped), (uid, None));
        assert_eq!(shared.beside(), before);
    }
}

/// A ramfs, in a mount namespace that only this test's process has.
#[test]
fn where_owners_cannot_be_mapped_it_stays_root_and_says_so() {
    if !is_initial_root() {
        return skip(Reason::NotRoot, "only root gives a sandbox its own user");
    }
    let shared = Shared::new();
    let before = shared.beside();
    let mut command = Command::new("unshare");
    let script = "mount -t ramfs none \"$1\" && echo inside > \"$1/file\" && mknod \"$1/null\" c 1 3 && shift && exec \"$0\" \"$@\"";
    command.args(["-m", "sh", "-c", script, SANDPEN]).arg(shared.share());
    let (words, jail) = asked_of_virtiofsd(&shared, Some(0x7FFF_FFFE), command);
    shows_what_is_shared_alone(&words);
    let why = jail.unmapped.unwrap();
    assert!(jail.uid.is_none() && why.contains(shared.share().to_str().unwrap()), "{why}");
    assert_eq!(shared.beside(), before);
}

/// A chroot's /proc, say, in a mount namespace that only this test's process has.
#[test]
fn a_directory_with_files_of_the_kernels_is_not_shared() {
    if !Uid::effective().is_root() {
        return skip(Reason::NotRoot, "only root mounts");
    }
    let shared = Shared::new();
    fs::create_dir(shared.share().join("proc")).unwrap();
    let runtime = tempfile::tempdir().unwrap();
    let listener = UnixListener::bind(runtime.path().join("virtiofs.sock")).unwrap();
    let mut command = Command::new("unshare");
    let script = "mount -t proc proc \"$1/proc\" && exec \"$0\" __virtiofsd --shared-dir \"$1\"";
    command.args(["-m", "sh", "-c", script, SANDPEN]).arg(shared.share()).current_dir(runtime.path());
    command.stdin(Stdio::from(OwnedFd::from(listener))).stdout(Stdio::piped()).stderr(Stdio::piped());
    let output = support::finish(command.spawn().unwrap());
    let said = String::from_utf8_lossy(&output.stderr);
    let mount = shared.share().join("proc");
    assert!(!output.status.success() && said.contains(mount.to_str().unwrap()) && said.contains("unmount"), "{said}");
}

#[cfg(feature = "krun-bundled")]
mod krun {
    use std::path::Path;

    use sandpen::driver::confine::kernel_abi;
    use sandpen::driver::confine::probe::{ProbeReport, probe};
    use sandpen::driver::fuse_probe::{FuseRequest, SUBCOMMAND, names};
    use sandpen::driver::krun::policy_of_root;

    use super::*;

    /// What libkrun's server does for such a kernel, under a policy or under none.
    fn asked(shared: &Shared, policy: Option<Policy>) -> ProbeReport {
        let runtime = tempfile::tempdir().unwrap();
        let command = |from: usize| {
            let mut command = Command::new(SANDPEN);
            command.args([SUBCOMMAND, &from.to_string()]).current_dir(runtime.path());
            command
        };
        let request = FuseRequest { policy, share: shared.share() };
        probe(command, &serde_json::to_vec(&request).unwrap(), &names()).unwrap()
    }

    /// That the library does not check names is why its process needs a confinement: once it does, this says so.
    #[test]
    fn libkruns_server_itself_leads_anywhere() {
        let shared = Shared::new();
        let report = asked(&shared, None);
        for name in INSIDE.iter().chain(&["look up outside", "read outside", "change the mode outside"]) {
            assert!(report.reached(name), "{report}");
        }
        assert_eq!(report.reached("open a device node"), Uid::effective().is_root(), "{report}");
    }

    #[test]
    fn a_process_of_libkrun_shows_what_it_shares_and_nothing_else() {
        if let Err(why) = kernel_abi() {
            return skip(Reason::NoLandlock, why);
        }
        let jail =
            || JailPlan { uid: is_initial_root().then_some(0x7FFF_FFFF), network: JailNetwork::Own, empty_root: None };
        let mut jails = vec![Err("not tried".to_owned())];
        if Uid::effective().is_root() {
            jails.push(Ok(jail()));
        } else {
            skip(Reason::NotRoot, "a jail without a waiter is root's");
        }
        jails.into_iter().for_each(shows_nothing_else);
    }

    fn shows_nothing_else(jail: Result<JailPlan, String>) {
        let is_jailed = jail.is_ok();
        let shared = Shared::new();
        let before = shared.beside();
        let report = asked(&shared, Some(Policy { jail, ..policy_of_root(&shared.share(), false) }));
        let own = report.outside.namespaces.get("mnt").map(Path::new);
        let has_own_mounts = own.is_some_and(|own| own != fs::read_link("/proc/self/ns/mnt").unwrap());
        assert_eq!(has_own_mounts, is_jailed, "{report}");
        for (name, word) in &report.attempts {
            // Landlock alone knows no names, modes, owners and times, nor what a file is.
            let known =
                ["look up", "change the", "set an", "open a device"].iter().any(|known| name.starts_with(known));
            assert!(!leads_out(name, word) || known && !has_own_mounts, "{name}\n{report}");
        }
        assert!(INSIDE.iter().all(|name| report.reached(name)), "{report}");
        assert!(!report.reached("make a device node"), "{report}");
        // The modes of what is beside it are among what Landlock does not know.
        assert!(shared.beside() == before || !has_own_mounts, "{before:#?} {:#?}", shared.beside());
    }
}
