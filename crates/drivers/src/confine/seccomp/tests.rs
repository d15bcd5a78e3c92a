//! The filters, by running their instructions: what each role may ask of the kernel, over the whole table of calls.

use std::collections::BTreeMap;

use super::*;

/// Numbers and names of all calls of x86-64 up to Linux 6.18.
const X86_64: &str = include_str!("x86_64.txt");
/// Bit 30 of a number: the call of x32.
const X32: u32 = 0x4000_0000;
const PID: u32 = 4242;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Answer {
    Allow,
    Errno(i32),
    Trap,
    Kill,
}
use Answer::{Allow, Errno, Kill, Trap};

const EPERM: Answer = Errno(libc::EPERM);
const ENOSYS: Answer = Errno(libc::ENOSYS);

/// What one filter answers: the subset of instructions that ours have (linux/filter.h).
fn run(program: &BpfProgram, architecture: u32, number: u32, arguments: [u64; 6]) -> u32 {
    let word = |offset: u32| match offset {
        0 => number,
        4 => architecture,
        16..64 => {
            let argument = arguments[(offset as usize - 16) / 8];
            u32::try_from(if offset.is_multiple_of(8) { argument & 0xFFFF_FFFF } else { argument >> 32 }).unwrap()
        }
        _ => panic!("reads at {offset}"),
    };
    let (mut at, mut a) = (0, 0);
    loop {
        let step = &program[at];
        at += 1;
        let jump = |holds: bool| usize::from(if holds { step.jt } else { step.jf });
        match step.code {
            0x20 => a = word(step.k),
            0x05 => at += step.k as usize,
            0x15 => at += jump(a == step.k),
            0x25 => at += jump(a > step.k),
            0x35 => at += jump(a >= step.k),
            0x54 => a &= step.k,
            0x06 => return step.k,
            code => panic!("instruction {code:#x}"),
        }
    }
}

struct Role {
    programs: Vec<BpfProgram>,
    architecture: TargetArch,
}

impl Role {
    fn new(policy: &Policy) -> Self {
        let architecture = TargetArch::x86_64;
        Self { programs: programs(policy, architecture, PID).unwrap(), architecture }
    }

    /// The strictest answer.
    fn answer(&self, number: u32, arguments: [u64; 6]) -> Answer {
        let answers = self.programs.iter();
        let answers = answers.map(|program| run(program, prologue::audit(self.architecture), number, arguments));
        // The kernel compares the actions as signed numbers; the data are no part of it.
        let strictest = answers.min_by_key(|answer| (answer & libc::SECCOMP_RET_ACTION_FULL).cast_signed()).unwrap();
        match strictest & libc::SECCOMP_RET_ACTION_FULL {
            libc::SECCOMP_RET_ALLOW => Allow,
            libc::SECCOMP_RET_TRAP => Trap,
            libc::SECCOMP_RET_ERRNO => Errno(i32::try_from(strictest & libc::SECCOMP_RET_DATA).unwrap()),
            _ => Kill,
        }
    }

    fn call(&self, number: i64, arguments: &[u64]) -> Answer {
        let mut six = [0; 6];
        six[..arguments.len()].copy_from_slice(arguments);
        self.answer(u32::try_from(number).unwrap(), six)
    }

    fn socket(&self, domain: i32, kind: i32, protocol: i32) -> Answer {
        self.call(libc::SYS_socket, &[domain, kind, protocol].map(|value| value.cast_unsigned().into()))
    }
}

fn policy(system_calls: SystemCalls) -> Policy {
    Policy { system_calls, ..Policy::new("vmm") }
}

fn role(system_calls: SystemCalls) -> Role {
    Role::new(&policy(system_calls))
}

fn names() -> BTreeMap<u32, &'static str> {
    let pairs = X86_64.split_whitespace().map(|pair| pair.split_once('=').unwrap());
    pairs.map(|(number, name)| (number.parse().unwrap(), name)).collect()
}

/// The calls that get this answer when all of their arguments are 0, eight to a line.
fn with(role: &Role, wanted: Answer) -> String {
    let names = names().into_iter().filter(|(number, _)| role.answer(*number, [0; 6]) == wanted);
    let names: Vec<_> = names.map(|(_, name)| name).collect();
    names.chunks(8).map(|line| line.join(" ")).collect::<Vec<_>>().join("\n")
}

#[test]
fn the_whole_table_is_known() {
    assert_eq!(*names().last_key_value().unwrap().0, denied_calls::NEWEST);
    assert_eq!(names().len(), 337 + 47);
}

#[test]
#[cfg(target_arch = "x86_64")]
fn what_is_left_to_qemu_was_looked_at() {
    insta::assert_snapshot!(with(&role(SystemCalls::AnyVmm), Allow), @r"
    read write open close stat fstat lstat poll
    lseek mmap mprotect munmap brk rt_sigaction rt_sigprocmask rt_sigreturn
    ioctl pread64 pwrite64 readv writev access pipe select
    sched_yield mremap msync mincore madvise dup dup2 pause
    nanosleep getitimer alarm setitimer getpid sendfile accept sendto
    recvfrom sendmsg recvmsg shutdown listen getsockname getpeername setsockopt
    getsockopt clone fork vfork execve exit wait4 kill
    uname fcntl flock fsync fdatasync truncate ftruncate getdents
    getcwd chdir fchdir rename mkdir rmdir creat link
    unlink symlink readlink umask gettimeofday getrlimit getrusage sysinfo
    times getuid getgid geteuid getegid setpgid getppid getpgrp
    setsid getgroups getresuid getresgid getpgid getsid capget capset
    rt_sigpending rt_sigtimedwait rt_sigsuspend sigaltstack mknod statfs fstatfs getpriority
    sched_getparam sched_getscheduler sched_get_priority_max sched_get_priority_min sched_rr_get_interval mlock munlock mlockall
    munlockall _sysctl prctl arch_prctl setrlimit sync create_module get_kernel_syms
    query_module nfsservctl getpmsg putpmsg afs_syscall tuxcall security gettid
    readahead getxattr lgetxattr fgetxattr listxattr llistxattr flistxattr tkill
    time futex sched_getaffinity set_thread_area get_thread_area epoll_create epoll_ctl_old epoll_wait_old
    getdents64 set_tid_address restart_syscall fadvise64 timer_create timer_settime timer_gettime timer_getoverrun
    timer_delete clock_gettime clock_getres clock_nanosleep exit_group epoll_wait epoll_ctl tgkill
    vserver mbind set_mempolicy get_mempolicy waitid ioprio_get openat mkdirat
    mknodat newfstatat unlinkat renameat linkat symlinkat readlinkat faccessat
    pselect6 ppoll set_robust_list splice tee sync_file_range epoll_pwait signalfd
    timerfd_create eventfd fallocate timerfd_settime timerfd_gettime accept4 signalfd4 eventfd2
    epoll_create1 dup3 pipe2 preadv pwritev recvmmsg prlimit64 syncfs
    sendmmsg getcpu sched_getattr renameat2 seccomp getrandom memfd_create membarrier
    mlock2 copy_file_range preadv2 pwritev2 pkey_mprotect pkey_alloc pkey_free statx
    rseq close_range openat2 faccessat2 epoll_pwait2 landlock_create_ruleset landlock_add_rule landlock_restrict_self
    futex_waitv set_mempolicy_home_node map_shadow_stack futex_wake futex_wait futex_requeue mseal getxattrat
    listxattrat
    ");
}

#[test]
#[cfg(target_arch = "x86_64")]
fn what_is_taken_from_virtiofsd_was_looked_at() {
    insta::assert_snapshot!(with(&role(SystemCalls::FileServer), EPERM), @r"
    shmget shmat shmctl socket socketpair semget semop semctl
    shmdt msgget msgsnd msgrcv msgctl ptrace syslog rt_sigqueueinfo
    uselib personality ustat sysfs setpriority sched_setparam sched_setscheduler vhangup
    modify_ldt pivot_root adjtimex chroot acct settimeofday mount umount2
    swapon swapoff reboot sethostname setdomainname iopl ioperm init_module
    delete_module quotactl sched_setaffinity io_setup io_destroy io_getevents io_submit io_cancel
    lookup_dcookie remap_file_pages semtimedop clock_settime mq_open mq_unlink mq_timedsend mq_timedreceive
    mq_notify mq_getsetattr kexec_load add_key request_key keyctl ioprio_set inotify_init
    inotify_add_watch inotify_rm_watch migrate_pages get_robust_list vmsplice move_pages inotify_init1 rt_tgsigqueueinfo
    perf_event_open fanotify_init fanotify_mark open_by_handle_at clock_adjtime setns process_vm_readv process_vm_writev
    kcmp finit_module sched_setattr kexec_file_load bpf execveat userfaultfd io_pgetevents
    uretprobe uprobe pidfd_send_signal io_uring_setup io_uring_enter io_uring_register open_tree move_mount
    fsopen fsconfig fsmount fspick pidfd_open pidfd_getfd process_madvise mount_setattr
    quotactl_fd memfd_secret process_mrelease cachestat statmount listmount lsm_get_self_attr lsm_set_self_attr
    lsm_list_modules open_tree_attr file_getattr file_setattr listns
    ");
}

#[test]
#[cfg(target_arch = "x86_64")]
fn what_is_given_to_libkrun_was_looked_at() {
    insta::assert_snapshot!(with(&role(SystemCalls::Krun), Allow), @r"
    read write open close stat fstat lstat poll
    lseek mmap mprotect munmap brk rt_sigaction rt_sigprocmask rt_sigreturn
    ioctl pread64 pwrite64 readv writev access pipe sched_yield
    mremap madvise dup dup2 nanosleep getpid exit fcntl
    flock fsync fdatasync ftruncate readlink fchmod fchown umask
    gettimeofday getuid getgid geteuid getegid setresuid setresgid capget
    capset sigaltstack statfs fstatfs gettid setxattr lsetxattr fsetxattr
    getxattr lgetxattr fgetxattr listxattr llistxattr flistxattr removexattr lremovexattr
    fremovexattr time futex sched_getaffinity getdents64 restart_syscall clock_gettime clock_getres
    clock_nanosleep exit_group epoll_wait epoll_ctl openat mkdirat mknodat fchownat
    newfstatat unlinkat linkat symlinkat readlinkat fchmodat faccessat ppoll
    set_robust_list sync_file_range utimensat epoll_pwait timerfd_create fallocate timerfd_settime timerfd_gettime
    eventfd2 epoll_create1 dup3 pipe2 preadv pwritev syncfs renameat2
    getrandom membarrier copy_file_range preadv2 pwritev2 statx rseq openat2
    faccessat2
    ");
}

#[test]
fn no_call_is_allowed_to_libkrun_that_is_denied_to_everybody() {
    let mut with_network = policy(SystemCalls::Krun);
    with_network.tcp = true;
    let krun = Role::new(&with_network);
    for call in denied_calls::DENIED.iter().copied().flatten() {
        assert_eq!(krun.call(*call, &[]), Trap, "{call}");
    }
}

#[test]
fn calls_of_x32_and_calls_to_come_do_not_exist() {
    for calls in [SystemCalls::AnyVmm, SystemCalls::FileServer] {
        let role = role(calls);
        for (number, name) in names() {
            assert_eq!(role.answer(number | X32, [0; 6]), ENOSYS, "{name}");
        }
        // Those of x32 alone, which mean ptrace, execve, process_vm_writev and others.
        for number in 512..=547 {
            assert_eq!(role.answer(number | X32, [0; 6]), ENOSYS, "{number}");
        }
        for number in [denied_calls::NEWEST + 1, 999, u32::MAX] {
            assert_eq!(role.answer(number, [0; 6]), ENOSYS, "{number}");
        }
        assert_eq!(role.call(libc::SYS_clone3, &[]), ENOSYS);
    }
    let krun = role(SystemCalls::Krun);
    let read = u32::try_from(libc::SYS_read).unwrap();
    assert_eq!((krun.answer(read, [0; 6]), krun.answer(read | X32, [0; 6])), (Allow, Trap));
    assert_eq!(krun.call(libc::SYS_clone3, &[]), ENOSYS);
}

#[test]
fn calls_of_another_architecture_end_the_process() {
    for calls in [SystemCalls::AnyVmm, SystemCalls::FileServer, SystemCalls::Krun] {
        let mut other = role(calls);
        // As int 0x80 makes them: number 11 is execve there.
        other.architecture = TargetArch::aarch64;
        assert_eq!(other.answer(11, [0; 6]), Kill);
    }
}

#[test]
fn without_a_network_there_are_no_sockets() {
    for calls in [SystemCalls::AnyVmm, SystemCalls::FileServer, SystemCalls::Krun] {
        let (role, refused) = (role(calls), if calls == SystemCalls::Krun { Trap } else { EPERM });
        for domain in 0..64 {
            for kind in [libc::SOCK_STREAM, libc::SOCK_DGRAM | libc::SOCK_CLOEXEC, libc::SOCK_SEQPACKET] {
                assert_eq!(role.socket(domain, kind, 0), refused, "{calls:?} {domain}");
            }
        }
        // QEMU's own pairs reach nobody else.
        let pairs = if calls == SystemCalls::AnyVmm { Allow } else { refused };
        assert_eq!(role.call(libc::SYS_socketpair, &[1, 1]), pairs);
        for (domain, kind) in [(1, 2), (1, 5), (16, 3), (2, 1)] {
            assert_eq!(role.call(libc::SYS_socketpair, &[domain, kind]), refused, "{calls:?} {domain} {kind}");
        }
    }
    for call in denied_calls::CONNECTIONS {
        assert_eq!(role(SystemCalls::AnyVmm).call(*call, &[]), EPERM);
    }
    // QEMU listens where it was handed a socket: its template's state is asked for there.
    for call in [libc::SYS_listen, libc::SYS_accept4] {
        assert_eq!(role(SystemCalls::AnyVmm).call(call, &[]), Allow);
    }
}

#[test]
fn with_a_network_there_are_sockets_of_the_internet_alone() {
    for calls in [SystemCalls::AnyVmm, SystemCalls::Krun] {
        let mut policy = policy(calls);
        policy.tcp = true;
        let (role, refused) = (Role::new(&policy), if calls == SystemCalls::Krun { Trap } else { EPERM });
        let flags = libc::SOCK_CLOEXEC | libc::SOCK_NONBLOCK;
        for domain in 0..64 {
            let expected = if [libc::AF_INET, libc::AF_INET6].contains(&domain) { Allow } else { refused };
            assert_eq!(role.socket(domain, libc::SOCK_STREAM, 0), expected, "{calls:?} {domain}");
            assert_eq!(role.socket(domain, libc::SOCK_DGRAM | flags, libc::IPPROTO_UDP), expected, "{domain}");
        }
        for kind in [libc::SOCK_RAW, libc::SOCK_RAW | flags, libc::SOCK_SEQPACKET, 10, 0] {
            assert_eq!(role.socket(libc::AF_INET, kind, 0), refused, "{calls:?} {kind}");
        }
        for protocol in [libc::IPPROTO_MPTCP, libc::IPPROTO_SCTP, libc::IPPROTO_RAW] {
            assert_eq!(role.socket(libc::AF_INET, libc::SOCK_STREAM, protocol), refused, "{calls:?} {protocol}");
        }
        // The upper half of an argument is not the kernel's either.
        let high = 1 << 32;
        assert_eq!(role.call(libc::SYS_socket, &[high | 16, high | 3, high]), refused);
        assert_eq!(role.call(libc::SYS_connect, &[]), Allow);
    }
}

#[test]
fn new_namespaces_are_refused_and_threads_are_not() {
    let thread = 0x003D_0F00; // as the C library asks for one
    for calls in [SystemCalls::AnyVmm, SystemCalls::FileServer] {
        let role = role(calls);
        assert_eq!(role.call(libc::SYS_clone, &[thread]), Allow);
        for flag in (0..32).map(|bit| 1 << bit).filter(|flag| NAMESPACES & flag != 0) {
            assert_eq!(role.call(libc::SYS_clone, &[flag]), EPERM, "{flag:#x}");
            assert_eq!(role.call(libc::SYS_unshare, &[flag | 0x200]), EPERM, "{flag:#x}");
        }
        assert_eq!(role.call(libc::SYS_unshare, &[0x80]), EPERM);
    }
    // Each of virtiofsd's threads has a working directory and a umask of its own.
    assert_eq!(role(SystemCalls::FileServer).call(libc::SYS_unshare, &[0x200]), Allow);
    assert_eq!(role(SystemCalls::AnyVmm).call(libc::SYS_unshare, &[0x200]), EPERM);
    let krun = role(SystemCalls::Krun);
    assert_eq!((krun.call(libc::SYS_clone, &[thread]), krun.call(libc::SYS_clone, &[17])), (Allow, Trap));
}

#[test]
fn limits_are_its_own() {
    let role = role(SystemCalls::AnyVmm);
    for (pid, expected) in [(0, Allow), (PID.into(), Allow), (1, EPERM), (u64::from(PID) + 1, EPERM)] {
        assert_eq!(role.call(libc::SYS_prlimit64, &[pid]), expected, "{pid}");
    }
}

#[test]
fn holes_in_a_file_that_others_have_are_said_to_be_made() {
    let done = Errno(0);
    let shared = role(SystemCalls::AnyVmm);
    let private = Role::new(&Policy { private_memory: true, ..policy(SystemCalls::AnyVmm) });
    let large = 1 << 40;
    for (mode, offset, length, answer) in [
        (3, 0, 2 << 20, done),
        (3, large, 4 << 20, done),
        (3, 4096, 2 << 20, Allow),
        (3, large + (1 << 20), 2 << 20, Allow),
        (3, 0, (2 << 20) - 512, Allow),
        (3, 0, (2 << 20) + 4096, Allow),
        (1, 0, 2 << 20, Allow),
        (0x10, 0, 2 << 20, Allow),
        (0, 0, 2 << 20, Allow),
    ] {
        let arguments = [9, mode, offset, length];
        assert_eq!(private.call(libc::SYS_fallocate, &arguments), answer, "{arguments:?}");
        assert_eq!(shared.call(libc::SYS_fallocate, &arguments), Allow, "{arguments:?}");
    }
    assert_eq!(with(&private, EPERM), with(&shared, EPERM));
}

#[test]
fn the_lists_are_filters_elsewhere_too() {
    for architecture in [TargetArch::x86_64, TargetArch::aarch64] {
        for calls in [SystemCalls::AnyVmm, SystemCalls::FileServer, SystemCalls::Krun] {
            let mut policy = policy(calls);
            policy.tcp = true;
            for program in programs(&policy, architecture, PID).unwrap() {
                assert!(program.len() < 4096, "{}", program.len());
                assert!(matches!(program.last().unwrap().code, 0x06));
            }
        }
    }
}

#[test]
fn a_kernel_without_what_is_needed_is_noticed() {
    let answering = |errno: Option<i32>| {
        usable(move |action| match errno {
            Some(errno) if action == libc::SECCOMP_RET_TRAP => Err(io::Error::from_raw_os_error(errno)),
            _ => Ok(()),
        })
    };
    assert_eq!(answering(None), Ok(()));
    assert!(answering(Some(libc::EOPNOTSUPP)).unwrap_err().contains("trap"));
    assert!(answering(Some(libc::ENOSYS)).unwrap_err().contains("has no seccomp"));
    assert!(answering(Some(libc::EPERM)).unwrap_err().contains("cannot be used"));
    // The kernel itself says that there is no such action as this.
    assert_eq!(sys::has_seccomp_action(0x1234_0000).unwrap_err().raw_os_error(), Some(libc::EOPNOTSUPP));
}
