//! What a process of a microVM that was taken over reaches: a program in the place of QEMU, started as QEMU is, and one
//! that confines itself as libkrun's does, try everything of a table on a host with a daemon, other services and files.

use std::fs;
use std::net::{Ipv4Addr, TcpListener};
use std::os::linux::net::SocketAddrExt as _;
use std::os::unix::net::{SocketAddr, UnixListener};
use std::path::{Path, PathBuf};
use std::process::{Child, Command};

use sandpen::driver::acceleration::Accelerator;
use sandpen::driver::confine::probe::{ProbeReport, ProbeRequest, SUBCOMMAND, Targets, names, probe};
use sandpen::driver::confine::rights;
use sandpen::driver::confine::{JailNetwork, JailPlan, Policy, SystemCalls, kernel_abi, seccomp_available};
use sandpen::driver::image_helper::{self, policy_of_store};
use sandpen::driver::qemu;
use sandpen::driver::qemu::args::QemuArgs;
use sandpen_skip::{Reason, skip};

use crate::support::Home;
use crate::support::daemon::daemon;

const SANDPEN: &str = env!("CARGO_BIN_EXE_sandpen");

/// A host with something to be reached.
struct Host {
    home: Home,
    targets: Targets,
    /// Closed at the end.
    _listeners: (TcpListener, UnixListener, UnixListener),
    daemon: Child,
}

impl Host {
    fn new() -> Self {
        let home = Home::new();
        let daemon = daemon(&home, &[]);
        fs::create_dir_all(home.state().join("run/default/a")).unwrap();
        let (service, secret) = (home.path().join("docker.sock"), home.path().join("secret"));
        fs::write(&secret, "secret").unwrap();
        let name = format!("sandpen-test-{}", std::process::id());
        let tcp = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
        let listeners = (
            UnixListener::bind(&service).unwrap(),
            UnixListener::bind_addr(&SocketAddr::from_abstract_name(&name).unwrap()).unwrap(),
        );
        let targets = Targets {
            // As a sandbox's process would find it from where it is.
            unix: vec!["../../../sandpen.sock".into(), home.state().join("sandpen.sock"), service],
            abstract_names: vec![name],
            tcp: vec![tcp.local_addr().unwrap().port()],
            pid: Some(std::process::id()),
            files: vec![secret, home.state().join("sandpen.db")],
        };
        Self { home, targets, _listeners: (tcp, listeners.0, listeners.1), daemon }
    }

    /// The runtime directory of a sandbox.
    fn runtime_dir(&self) -> PathBuf {
        self.home.state().join("run/default/a")
    }

    /// What a program in the place of QEMU reaches.
    fn in_qemus_place(&self, policy: &Policy) -> ProbeReport {
        let targets = serde_json::to_string(&self.targets).unwrap();
        let command = |from: usize| {
            let mut command = Command::new(SANDPEN);
            command.args(["__confine", SANDPEN, SUBCOMMAND, &from.to_string(), &targets]);
            command.current_dir(self.runtime_dir());
            command
        };
        probe(command, &serde_json::to_vec(policy).unwrap(), &names(&self.targets)).unwrap()
    }

    /// What a process reaches that confines itself by this policy.
    fn confined(&self, policy: Policy) -> ProbeReport {
        let command = |from: usize| {
            let mut command = Command::new(SANDPEN);
            command.args([SUBCOMMAND, &from.to_string()]).current_dir(self.runtime_dir());
            command
        };
        let request = ProbeRequest { policy, targets: self.targets.clone() };
        probe(command, &serde_json::to_vec(&request).unwrap(), &names(&self.targets)).unwrap()
    }

    /// The attempts that lead to what is not the process's own.
    fn doors(&self) -> Vec<String> {
        let Targets { unix, abstract_names, files, .. } = &self.targets;
        let unix = unix.iter().map(|path| format!("connect {}", path.display()));
        let names = abstract_names.iter().map(|name| format!("connect @{name}"));
        let files = files.iter().map(|path| format!("read {}", path.display()));
        unix.chain(names).chain(files).collect()
    }

    fn connection(&self) -> String {
        format!("connect tcp {}", self.targets.tcp[0])
    }
}

impl Drop for Host {
    fn drop(&mut self) {
        let _ = self.daemon.kill();
        let _ = self.daemon.wait();
    }
}

/// Whether this kernel can do all that is asked of it here.
fn can_confine() -> bool {
    let landlock = kernel_abi().and_then(|abi| if abi >= 6 { Ok(abi) } else { Err(format!("ABI {abi}, not 6")) });
    if let Err(why) = landlock {
        skip(Reason::NoLandlock, why);
        return false;
    }
    if let Err(why) = seccomp_available() {
        skip(Reason::NoSeccomp, why);
        return false;
    }
    true
}

/// As the driver decides for a QEMU that is this program.
fn policy_of_qemu() -> Policy {
    let args = QemuArgs::plain("4f1c/default/a/1", Accelerator::Tcg, "kernel", "initramfs");
    qemu::policy(Path::new(SANDPEN), &args)
}

/// Without a jail, as where none can be made, and in one.
fn jails(network: JailNetwork) -> Vec<Result<JailPlan, String>> {
    let mut jails = vec![Err("not tried".to_owned())];
    match rights::find(Path::new(SANDPEN)) {
        Ok(rights) if rights.user().is_none() => {
            jails.push(Ok(JailPlan { uid: Some(0x7FFF_FFFF), network, empty_root: None }));
        }
        // Its namespace is entered by a waiter, which there is none of here.
        Ok(_) => skip(Reason::NotRoot, "a jail without a waiter is root's"),
        Err(why) => skip(Reason::NoUserNamespaces, why),
    }
    jails
}

/// Everything else must have been refused: calls by the kernel before it looked at them, all else in any way.
fn only(report: &ProbeReport, allowed: &[&str]) {
    for name in report.attempts.keys() {
        let got = if name.starts_with("call ") { report.answers(name) } else { report.reached(name) };
        assert_eq!(got, allowed.contains(&name.as_str()), "{name}: {}\n{report}", report.word(name));
    }
}

/// Whether the process has a mount namespace of its own. Without one the modes of files are out of Landlock's reach.
fn has_own_mounts(report: &ProbeReport) -> bool {
    let ours = fs::read_link("/proc/self/ns/mnt").unwrap();
    report.outside.namespaces.get("mnt").is_some_and(|theirs| Path::new(theirs) != ours)
}

/// Nothing is seen from there but programs and what they look at.
fn is_in_a_jail(report: &ProbeReport) {
    assert!(has_own_mounts(report), "{report}");
    assert_eq!(report.outside.status["Uid"], "2147483647 2147483647 2147483647 2147483647", "{report}");
    assert_eq!(report.outside.status["Groups"], "", "{report}");
    let known = ["/usr", "/lib", "/lib64", "/dev", "/etc", "/proc/self/fd", "/shares", SANDPEN].map(PathBuf::from);
    // What this test was started with.
    let libraries = std::env::var_os("LD_LIBRARY_PATH").unwrap_or_default();
    let known: Vec<_> = known.into_iter().chain(std::env::split_paths(&libraries)).collect();
    for path in &report.outside.tree {
        let is_known = known.iter().any(|known| Path::new(path).starts_with(known) || known.starts_with(path));
        assert!(is_known, "{path:?} in\n{report}");
    }
}

fn holds_nothing(report: &ProbeReport) {
    let status = &report.outside.status;
    for set in ["CapInh", "CapPrm", "CapEff", "CapAmb"] {
        assert_eq!(u64::from_str_radix(&status[set], 16), Ok(0), "{set}\n{report}");
    }
    assert_eq!((status["NoNewPrivs"].as_str(), status["Seccomp"].as_str()), ("1", "2"), "{report}");
}

/// What the kernel looks at for whoever is in QEMU's place: it was executed, and may make threads and processes, which
/// are as confined.
const OF_QEMU: [&str; 3] = ["call execve", "call clone process", "thread"];

#[test]
fn a_program_in_the_place_of_qemu_reaches_nothing() {
    if !can_confine() {
        return;
    }
    let host = Host::new();
    for jail in jails(JailNetwork::Own) {
        let is_jailed = jail.is_ok();
        let report = host.in_qemus_place(&Policy { jail, ..policy_of_qemu() });
        only(&report, &OF_QEMU);
        holds_nothing(&report);
        // So that this test cannot pass by a name that leads nowhere.
        for door in host.doors() {
            assert_ne!(report.word(&door), "done", "{report}");
        }
        if is_jailed {
            is_in_a_jail(&report);
        }
    }
    for path in &host.targets.unix {
        std::os::unix::net::UnixStream::connect(host.runtime_dir().join(path)).unwrap();
    }
}

#[test]
fn with_a_network_it_reaches_the_internet_and_nothing_else() {
    if !can_confine() {
        return;
    }
    let host = Host::new();
    for jail in jails(JailNetwork::Host) {
        let is_jailed = jail.is_ok();
        let report = host.in_qemus_place(&Policy { jail, tcp: true, ..policy_of_qemu() });
        let connection = host.connection();
        let of_network = ["socket inet stream", "socket inet datagram", "socket inet6 stream", &connection];
        only(&report, &[&OF_QEMU[..], &of_network].concat());
        holds_nothing(&report);
        if is_jailed {
            is_in_a_jail(&report);
        }
    }
}

#[test]
fn a_virtiofsd_that_was_taken_over_reaches_nothing() {
    if !can_confine() {
        return;
    }
    let host = Host::new();
    for jail in jails(JailNetwork::Own) {
        let is_jailed = jail.is_ok();
        // What it shares is beside the question.
        let policy = Policy { jail, system_calls: SystemCalls::FileServer, ..Policy::new("virtiofsd") };
        let mut report = host.confined(policy);
        if is_jailed {
            is_in_a_jail(&report);
        } else {
            // Modes are a guest's to change.
            report.attempts.retain(|name, _| !name.starts_with("change "));
        }
        // Ours over its library's list, which has it.
        assert_eq!(report.word("call open_by_handle_at"), "EPERM", "{report}");
        assert_eq!(report.word("call ptrace"), "SIGSYS", "{report}");
        assert_eq!(report.word("socket unix stream"), "SIGSYS", "{report}");
        // Without a capability this one is refused, filter or not.
        report.attempts.remove("call setgroups");
        only(&report, &["call clone process", "call name_to_handle_at", "call setxattr", "thread"]);
    }
}

/// What nobody is refused: threads and processes that are as confined, and attributes of its own files.
const OF_FILE_WRITERS: [&str; 5] =
    ["call chmod", "call clone process", "call name_to_handle_at", "call setxattr", "thread"];

#[test]
fn a_reader_of_archives_that_was_taken_over_reaches_its_store_alone() {
    if !can_confine() {
        return;
    }
    let host = Host::new();
    let store = host.home.path().join("images");
    fs::create_dir(&store).unwrap();
    let own = JailPlan { uid: None, network: JailNetwork::Own, empty_root: None };
    for jail in [Ok(own), Err("none".to_owned())] {
        let is_jailed = jail.is_ok();
        let mut report = host.confined(Policy { jail, ..policy_of_store(&store) });
        if !has_own_mounts(&report) {
            // Modes are the owner's to change, who it is.
            report.attempts.retain(|name, _| !name.starts_with("change "));
        }
        assert!(!is_jailed || has_own_mounts(&report), "{report}");
        holds_nothing(&report);
        assert_eq!(report.word("call ptrace"), "EPERM", "{report}");
        only(&report, &OF_FILE_WRITERS);
        for door in host.doors() {
            assert_ne!(report.word(&door), "done", "{report}");
        }
    }
}

#[test]
fn a_reader_of_a_root_directory_that_was_taken_over_reaches_nothing() {
    if !can_confine() {
        return;
    }
    let host = Host::new();
    let root = host.home.path().join("rootfs");
    fs::create_dir(&root).unwrap();
    for jail in jails(JailNetwork::Own) {
        let is_jailed = jail.is_ok();
        let mut report = host.confined(Policy { jail, ..image_helper::policy_of_root(&root) });
        if is_jailed {
            is_in_a_jail(&report);
        } else {
            report.attempts.retain(|name, _| !name.starts_with("change "));
        }
        holds_nothing(&report);
        only(&report, &OF_FILE_WRITERS);
    }
}

#[test]
#[cfg(feature = "krun-driver")]
fn a_process_of_libkrun_that_was_taken_over_reaches_nothing() {
    use sandpen::driver::krun::policy_of_root;

    if !can_confine() {
        return;
    }
    let host = Host::new();
    let root = host.home.path().join("rootfs");
    fs::create_dir(&root).unwrap();
    // Attributes of its own files are a guest's to change.
    let of_krun = ["call setxattr", "thread"];
    let with = |network, with_network| jails(network).into_iter().map(move |jail| (jail, with_network));
    for (jail, with_network) in with(JailNetwork::Own, false).chain(with(JailNetwork::Host, true)) {
        let is_jailed = jail.is_ok();
        let mut report = host.confined(Policy { jail, ..policy_of_root(&root, with_network) });
        if is_jailed {
            is_in_a_jail(&report);
        }
        if !has_own_mounts(&report) {
            report.attempts.retain(|name, _| !name.starts_with("change "));
        }
        let connection = host.connection();
        let of_network = ["socket inet stream", "socket inet datagram", "socket inet6 stream", &connection];
        let allowed = if with_network { [&of_krun[..], &of_network].concat() } else { of_krun.to_vec() };
        only(&report, &allowed);
        assert_eq!(report.outside.status["NoNewPrivs"], "1");
        // It ends at what it must not do.
        assert_eq!(report.word("call ptrace"), "SIGSYS", "{report}");
    }
}
