//! The table of what is tried. A system call gets arguments with which it does nothing: null pointers, descriptors that
//! are none, unknown flags, address 1. What it says then tells whether the kernel looked at them.

use std::fs::{File, OpenOptions};
use std::net::TcpStream;
use std::os::linux::net::SocketAddrExt as _;
use std::os::unix::net::{SocketAddr, UnixStream};
use std::path::{Path, PathBuf};

use nix::errno::Errno;
use nix::fcntl::AT_FDCWD;
use nix::libc;
use nix::sys::stat::{FchmodatFlags, Mode, SFlag, fchmodat, makedev, mknod, stat};
use serde::{Deserialize, Serialize};

use super::super::sys;

/// What is to be reached, where a test has it.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct Targets {
    /// Unix sockets to connect to: `connect PATH`.
    pub unix: Vec<PathBuf>,
    /// Abstract ones: `connect @NAME`.
    pub abstract_names: Vec<String>,
    /// Ports of 127.0.0.1: `connect tcp PORT`.
    pub tcp: Vec<u16>,
    /// A process of the same user: `signal`, `trace`, `memory`, `read memory`, `descriptor`.
    pub pid: Option<u32>,
    /// Files: `read PATH` and `change PATH` (its mode, to what it may be already).
    pub files: Vec<PathBuf>,
}

/// One entry.
pub(super) struct Attempt {
    pub(super) name: String,
    pub(super) run: Box<dyn Fn() -> Result<(), Errno>>,
}

const NONE: usize = 0;
/// -1 as a descriptor, a process or a length.
const MINUS: usize = usize::MAX;

/// Calls by name, number and arguments.
const CALLS: &[(&str, i64, [usize; 6])] = &[
    ("acct by a bad path", libc::SYS_acct, [1, 0, 0, 0, 0, 0]),
    ("add_key", libc::SYS_add_key, [NONE; 6]),
    ("bpf", libc::SYS_bpf, [0xFFFF, 0, 0, 0, 0, 0]),
    ("cachestat", 451, [MINUS, 0, 0, 0, 0, 0]),
    ("chroot", libc::SYS_chroot, [NONE; 6]),
    // Contradicts itself: CLONE_NEWUSER with CLONE_FS.
    ("clone namespaces", libc::SYS_clone, [0x1000_0200, 0, 0, 0, 0, 0]),
    // Contradicts itself: CLONE_SIGHAND without CLONE_VM.
    ("clone process", libc::SYS_clone, [0x0811, 0, 0, 0, 0, 0]),
    ("clone3", libc::SYS_clone3, [NONE; 6]),
    ("clock_settime", libc::SYS_clock_settime, [NONE; 6]),
    ("delete_module", libc::SYS_delete_module, [NONE; 6]),
    ("execve", libc::SYS_execve, [NONE; 6]),
    ("execveat", libc::SYS_execveat, [MINUS, 0, 0, 0, 0, 0]),
    ("fanotify_init", libc::SYS_fanotify_init, [MINUS, 0, 0, 0, 0, 0]),
    ("file_setattr", 469, [MINUS, 0, 0, 0, 0, 0]),
    ("finit_module", libc::SYS_finit_module, [MINUS, 0, 0, 0, 0, 0]),
    ("fsopen", libc::SYS_fsopen, [NONE; 6]),
    ("init_module", libc::SYS_init_module, [NONE; 6]),
    ("inotify_init1", libc::SYS_inotify_init1, [NONE; 6]),
    ("io_setup", libc::SYS_io_setup, [NONE; 6]),
    ("io_uring_setup", libc::SYS_io_uring_setup, [NONE; 6]),
    ("ioprio_set", libc::SYS_ioprio_set, [MINUS, 0, 0, 0, 0, 0]),
    ("kcmp", libc::SYS_kcmp, [1, 1, MINUS, 0, 0, 0]),
    ("kexec_load", libc::SYS_kexec_load, [0, 0, 0, MINUS, 0, 0]),
    ("keyctl", libc::SYS_keyctl, [0xFFFF, 0, 0, 0, 0, 0]),
    ("listmount", 458, [NONE; 6]),
    ("listns", 470, [NONE; 6]),
    ("lsm_set_self_attr", 460, [NONE; 6]),
    ("memfd_secret", libc::SYS_memfd_secret, [0xFFFF, 0, 0, 0, 0, 0]),
    ("mount", libc::SYS_mount, [NONE; 6]),
    ("mount_setattr", libc::SYS_mount_setattr, [MINUS, 0, 0, 0, 0, 0]),
    ("move_mount", libc::SYS_move_mount, [MINUS, 0, MINUS, 0, 0, 0]),
    ("mq_open", libc::SYS_mq_open, [NONE; 6]),
    ("msgget", libc::SYS_msgget, [1, 0, 0, 0, 0, 0]),
    ("name_to_handle_at", libc::SYS_name_to_handle_at, [MINUS, 0, 0, 0, 0, 0]),
    ("of a later kernel", 999, [NONE; 6]),
    ("of x32", 0x4000_0000 | libc::SYS_getpid, [NONE; 6]),
    ("open_by_handle_at", libc::SYS_open_by_handle_at, [MINUS, 0, 0, 0, 0, 0]),
    ("open_tree", libc::SYS_open_tree, [MINUS, 0, 0, 0, 0, 0]),
    ("open_tree_attr", 467, [MINUS, 0, 0, 0, 0, 0]),
    ("perf_event_open", libc::SYS_perf_event_open, [NONE; 6]),
    ("personality", libc::SYS_personality, [0xFFFF_FFFF, 0, 0, 0, 0, 0]),
    ("pidfd_getfd", libc::SYS_pidfd_getfd, [MINUS, 0, 0, 0, 0, 0]),
    ("pidfd_open", libc::SYS_pidfd_open, [MINUS, 0, 0, 0, 0, 0]),
    ("pidfd_send_signal", libc::SYS_pidfd_send_signal, [MINUS, 0, 0, 0, 0, 0]),
    ("pivot_root", libc::SYS_pivot_root, [NONE; 6]),
    ("prlimit64 of another", libc::SYS_prlimit64, [1, 7, 0, 0, 0, 0]),
    ("process_madvise", libc::SYS_process_madvise, [MINUS, 0, 0, 0, 0, 0]),
    ("process_mrelease", libc::SYS_process_mrelease, [MINUS, 0, 0, 0, 0, 0]),
    ("process_vm_readv", libc::SYS_process_vm_readv, [NONE; 6]),
    ("ptrace", libc::SYS_ptrace, [0xFFFF, 0, 0, 0, 0, 0]),
    ("quotactl_fd", libc::SYS_quotactl_fd, [MINUS, 0, 0, 0, 0, 0]),
    ("reboot", libc::SYS_reboot, [NONE; 6]),
    ("sched_setaffinity", libc::SYS_sched_setaffinity, [1, 0, 0, 0, 0, 0]),
    ("setgroups", libc::SYS_setgroups, [MINUS, 0, 0, 0, 0, 0]),
    ("sethostname", libc::SYS_sethostname, [0, MINUS, 0, 0, 0, 0]),
    ("setns", libc::SYS_setns, [MINUS, 0, 0, 0, 0, 0]),
    ("setpriority", libc::SYS_setpriority, [MINUS, 0, 0, 0, 0, 0]),
    ("setxattr", libc::SYS_setxattr, [NONE; 6]),
    ("shmget", libc::SYS_shmget, [NONE; 6]),
    ("statmount", 457, [NONE; 6]),
    ("swapon", libc::SYS_swapon, [NONE; 6]),
    ("syslog", libc::SYS_syslog, [10, 0, 0, 0, 0, 0]),
    ("umount2", libc::SYS_umount2, [NONE; 6]),
    ("userfaultfd", libc::SYS_userfaultfd, [0xFFFF, 0, 0, 0, 0, 0]),
    ("vmsplice", libc::SYS_vmsplice, [MINUS, 0, 0, 0, 0, 0]),
];

/// Calls as above, of x86-64 alone.
#[cfg(target_arch = "x86_64")]
const OLD_CALLS: &[(&str, i64, [usize; 6])] = &[
    ("chmod", libc::SYS_chmod, [NONE; 6]),
    ("iopl", libc::SYS_iopl, [4, 0, 0, 0, 0, 0]),
    ("modify_ldt", libc::SYS_modify_ldt, [0xFFFF, 0, 0, 0, 0, 0]),
];
#[cfg(not(target_arch = "x86_64"))]
const OLD_CALLS: &[(&str, i64, [usize; 6])] = &[];

/// Sockets by name: domain and type.
const SOCKETS: &[(&str, i32, i32)] = &[
    ("unix stream", libc::AF_UNIX, libc::SOCK_STREAM),
    ("unix datagram", libc::AF_UNIX, libc::SOCK_DGRAM),
    ("inet stream", libc::AF_INET, libc::SOCK_STREAM),
    ("inet datagram", libc::AF_INET, libc::SOCK_DGRAM),
    ("inet raw", libc::AF_INET, libc::SOCK_RAW),
    ("inet6 stream", libc::AF_INET6, libc::SOCK_STREAM),
    ("netlink", libc::AF_NETLINK, libc::SOCK_RAW),
    ("vsock", libc::AF_VSOCK, libc::SOCK_STREAM),
    ("packet", libc::AF_PACKET, libc::SOCK_RAW),
    ("alg", libc::AF_ALG, libc::SOCK_SEQPACKET),
    ("bluetooth", libc::AF_BLUETOOTH, libc::SOCK_RAW),
];

/// All attempts.
pub(super) fn all(targets: &Targets) -> Vec<Attempt> {
    let mut all = Vec::new();
    let mut add = |name: String, run: Box<dyn Fn() -> Result<(), Errno>>| all.push(Attempt { name, run });
    for (name, number, arguments) in CALLS.iter().chain(OLD_CALLS) {
        add(format!("call {name}"), Box::new(|| sys::call(*number, *arguments).map(drop)));
    }
    for (name, domain, kind) in SOCKETS {
        let arguments = [domain, kind].map(|value| value.cast_unsigned() as usize);
        let arguments = [arguments[0], arguments[1], 0, 0, 0, 0];
        add(format!("socket {name}"), Box::new(move || sys::call(libc::SYS_socket, arguments).map(drop)));
    }
    for path in targets.unix.clone() {
        add(format!("connect {}", path.display()), Box::new(move || done(UnixStream::connect(&path))));
    }
    for name in targets.abstract_names.clone() {
        let title = format!("connect @{name}");
        let connect = move || UnixStream::connect_addr(&SocketAddr::from_abstract_name(&name)?);
        add(title, Box::new(move || done(connect())));
    }
    for port in targets.tcp.clone() {
        add(format!("connect tcp {port}"), Box::new(move || done(TcpStream::connect(("127.0.0.1", port)))));
    }
    for path in targets.files.clone() {
        let (read, changed) = (path.clone(), path.clone());
        add(format!("read {}", path.display()), Box::new(move || done(File::open(&read))));
        add(format!("change {}", path.display()), Box::new(move || change(&changed)));
    }
    if let Some(pid) = targets.pid {
        let number = pid as usize;
        // No signal, only whether it could be one.
        add("signal".to_owned(), Box::new(move || sys::call(libc::SYS_kill, [number, 0, 0, 0, 0, 0]).map(drop)));
        let seize = [libc::PTRACE_SEIZE as usize, number, 0, 0, 0, 0];
        add("trace".to_owned(), Box::new(move || sys::call(libc::SYS_ptrace, seize).map(drop)));
        let memory = format!("/proc/{pid}/mem");
        add("memory".to_owned(), Box::new(move || done(OpenOptions::new().write(true).open(&memory))));
        add("read memory".to_owned(), Box::new(move || sys::read_memory(pid)));
        add("descriptor".to_owned(), Box::new(move || take_descriptor(number)));
    }
    add("device node".to_owned(), Box::new(make_device));
    add("fifo".to_owned(), Box::new(|| nix::unistd::mkfifo("probe-fifo", Mode::S_IRUSR)));
    add(
        "list /".to_owned(),
        Box::new(|| done(std::fs::read_dir("/").and_then(|mut entries| entries.next().transpose()))),
    );
    add(
        "thread".to_owned(),
        Box::new(|| done(std::thread::Builder::new().spawn(|| ()).map(std::thread::JoinHandle::join))),
    );
    // At last, as all that is tried after it would be in there.
    add("user namespace".to_owned(), Box::new(|| sys::call(libc::SYS_unshare, [0x1000_0000, 0, 0, 0, 0, 0]).map(drop)));
    all
}

/// The system's answer, of any operation.
fn done<T>(result: std::io::Result<T>) -> Result<(), Errno> {
    result.map(drop).map_err(|error| Errno::from_raw(error.raw_os_error().unwrap_or(libc::EIO)))
}

/// Sets a file's mode to what it is.
fn change(path: &Path) -> Result<(), Errno> {
    let mode = stat(path)?.st_mode;
    fchmodat(AT_FDCWD, path, Mode::from_bits_truncate(mode), FchmodatFlags::FollowSymlink)
}

fn take_descriptor(pid: usize) -> Result<(), Errno> {
    let handle = sys::call(libc::SYS_pidfd_open, [pid, 0, 0, 0, 0, 0])?;
    sys::call(libc::SYS_pidfd_getfd, [handle, 0, 0, 0, 0, 0]).map(drop)
}

/// `/dev/null` once more, in the current directory.
fn make_device() -> Result<(), Errno> {
    mknod("probe-node", SFlag::S_IFCHR, Mode::S_IRUSR, makedev(1, 3))
}
