//! What no VMM needs and many a way out of one goes through. Refused with EPERM. Not in the lists, as their arguments
//! count: clone and unshare (no namespaces), prlimit64 (itself only), socket (`sockets.rs`).
//!
//! The list was made from the whole table of Linux 6.18; what is left of it is held by a test. What later kernels add
//! has numbers above [`NEWEST`] and is refused as a whole.

use nix::libc;

/// `listns`, the newest call that was looked at. From 424 on the numbers are those of all architectures.
pub(super) const NEWEST: u32 = 470;

/// Refused to everybody.
pub(super) const DENIED: &[&[i64]] =
    &[OTHERS, MOUNTS, KERNEL, KEYS, NAMESPACES, MACHINE, SHARED, SURFACE, SIDE_CHANNELS, OLD];

/// Refused to a VMM that shares no files: what a path reaches whatever Landlock says (it knows of no modes, owners,
/// times and extended attributes), and becoming another user.
pub(super) const DENIED_WITHOUT_FILES: &[&[i64]] = &[ATTRIBUTES, HANDLES, USERS, OLD_ATTRIBUTES];

/// Connections, where there are no sockets to be made. Listening and accepting are not among them: a socket that does
/// was handed over, and its name with it.
pub(super) const CONNECTIONS: &[i64] = &[libc::SYS_connect, libc::SYS_bind];

/// Looking into other processes, taking their descriptors, signals with a payload or by descriptor, and what
/// processor and memory they get.
const OTHERS: &[i64] = &[
    libc::SYS_ptrace,
    libc::SYS_process_vm_readv,
    libc::SYS_process_vm_writev,
    libc::SYS_process_madvise,
    libc::SYS_process_mrelease,
    libc::SYS_kcmp,
    libc::SYS_pidfd_open,
    libc::SYS_pidfd_getfd,
    libc::SYS_pidfd_send_signal,
    libc::SYS_rt_sigqueueinfo,
    libc::SYS_rt_tgsigqueueinfo,
    libc::SYS_get_robust_list,
    libc::SYS_migrate_pages,
    libc::SYS_move_pages,
    libc::SYS_setpriority,
    libc::SYS_ioprio_set,
    libc::SYS_sched_setparam,
    libc::SYS_sched_setscheduler,
    libc::SYS_sched_setattr,
    libc::SYS_sched_setaffinity,
];

/// What is mounted where, and files by handle, past every directory.
const MOUNTS: &[i64] = &[
    libc::SYS_mount,
    libc::SYS_umount2,
    libc::SYS_pivot_root,
    libc::SYS_chroot,
    libc::SYS_move_mount,
    libc::SYS_open_tree,
    libc::SYS_mount_setattr,
    libc::SYS_fsopen,
    libc::SYS_fsconfig,
    libc::SYS_fsmount,
    libc::SYS_fspick,
    libc::SYS_swapon,
    libc::SYS_swapoff,
    libc::SYS_quotactl,
    libc::SYS_quotactl_fd,
    libc::SYS_acct,
    libc::SYS_open_by_handle_at,
    457, // statmount
    458, // listmount
    467, // open_tree_attr
];

/// Other kernels, and code in this one.
const KERNEL: &[i64] = &[
    libc::SYS_kexec_load,
    libc::SYS_kexec_file_load,
    libc::SYS_reboot,
    libc::SYS_init_module,
    libc::SYS_finit_module,
    libc::SYS_delete_module,
    libc::SYS_bpf,
    libc::SYS_perf_event_open,
    libc::SYS_syslog,
    459, // lsm_get_self_attr
    460, // lsm_set_self_attr
    461, // lsm_list_modules
];

/// The kernel's key rings, which no directory or namespace of ours bounds.
const KEYS: &[i64] = &[libc::SYS_add_key, libc::SYS_request_key, libc::SYS_keyctl];

/// Other namespaces; new ones are flags of clone and unshare.
const NAMESPACES: &[i64] = &[
    libc::SYS_setns,
    470, // listns
];

/// The host's clock and names.
const MACHINE: &[i64] = &[
    libc::SYS_settimeofday,
    libc::SYS_clock_settime,
    libc::SYS_adjtimex,
    libc::SYS_clock_adjtime,
    libc::SYS_sethostname,
    libc::SYS_setdomainname,
    libc::SYS_vhangup,
];

/// What processes share by a number or a name of its own, not by a path.
const SHARED: &[i64] = &[
    libc::SYS_shmget,
    libc::SYS_shmat,
    libc::SYS_shmctl,
    libc::SYS_shmdt,
    libc::SYS_semget,
    libc::SYS_semop,
    libc::SYS_semtimedop,
    libc::SYS_semctl,
    libc::SYS_msgget,
    libc::SYS_msgsnd,
    libc::SYS_msgrcv,
    libc::SYS_msgctl,
    libc::SYS_mq_open,
    libc::SYS_mq_unlink,
    libc::SYS_mq_timedsend,
    libc::SYS_mq_timedreceive,
    libc::SYS_mq_notify,
    libc::SYS_mq_getsetattr,
];

/// Large interfaces with a history of holes: memory faults and input/output behind the kernel's back.
/// QEMU does without io_uring and Linux's own asynchronous input/output where they are refused.
const SURFACE: &[i64] = &[
    libc::SYS_userfaultfd,
    libc::SYS_io_uring_setup,
    libc::SYS_io_uring_enter,
    libc::SYS_io_uring_register,
    libc::SYS_io_setup,
    libc::SYS_io_destroy,
    libc::SYS_io_submit,
    libc::SYS_io_getevents,
    libc::SYS_io_cancel,
    libc::SYS_fanotify_init,
    libc::SYS_fanotify_mark,
    libc::SYS_personality,
    libc::SYS_memfd_secret,
    libc::SYS_vmsplice,
    libc::SYS_remap_file_pages,
    libc::SYS_lookup_dcookie,
    libc::SYS_execveat, // programs from memory; the path of QEMU's is execve
    468,                // file_getattr
    469,                // file_setattr
];

/// What others do with files, which Landlock does not hide.
const SIDE_CHANNELS: &[i64] = &[
    libc::SYS_inotify_init1,
    libc::SYS_inotify_add_watch,
    libc::SYS_inotify_rm_watch,
    451, // cachestat
];

/// Of x86 alone: ports, segments, probes, and older names of calls above.
#[cfg(target_arch = "x86_64")]
const OLD: &[i64] = &[
    libc::SYS_iopl,
    libc::SYS_ioperm,
    libc::SYS_modify_ldt,
    libc::SYS_uselib,
    libc::SYS_ustat,
    libc::SYS_sysfs,
    libc::SYS_inotify_init,
    333, // io_pgetevents
    335, // uretprobe
    336, // uprobe
];
#[cfg(not(target_arch = "x86_64"))]
const OLD: &[i64] = &[
    292, // io_pgetevents
];

const ATTRIBUTES: &[i64] = &[
    libc::SYS_fchmod,
    libc::SYS_fchmodat,
    452, // fchmodat2
    libc::SYS_fchown,
    libc::SYS_fchownat,
    libc::SYS_utimensat,
    libc::SYS_setxattr,
    libc::SYS_lsetxattr,
    libc::SYS_fsetxattr,
    463, // setxattrat
    libc::SYS_removexattr,
    libc::SYS_lremovexattr,
    libc::SYS_fremovexattr,
    466, // removexattrat
];

/// virtiofsd may ask for them, and open none.
const HANDLES: &[i64] = &[libc::SYS_name_to_handle_at];

const USERS: &[i64] = &[
    libc::SYS_setuid,
    libc::SYS_setgid,
    libc::SYS_setreuid,
    libc::SYS_setregid,
    libc::SYS_setresuid,
    libc::SYS_setresgid,
    libc::SYS_setfsuid,
    libc::SYS_setfsgid,
    libc::SYS_setgroups,
];

#[cfg(target_arch = "x86_64")]
const OLD_ATTRIBUTES: &[i64] =
    &[libc::SYS_chmod, libc::SYS_chown, libc::SYS_lchown, libc::SYS_utime, libc::SYS_utimes, libc::SYS_futimesat];
#[cfg(not(target_arch = "x86_64"))]
const OLD_ATTRIBUTES: &[i64] = &[];
