//! What no VMM needs and many a way out of one goes through. Refused with EPERM. clone is not in the
//! list, as its flags count: no namespaces.

use nix::libc;

/// All groups.
pub(super) const DENIED: &[&[i64]] = &[OTHERS, MOUNTS, KERNEL, KEYS, NAMESPACES, MACHINE, SURFACE, OLD];

/// Looking into other processes, and taking their descriptors.
const OTHERS: &[i64] = &[
    libc::SYS_ptrace,
    libc::SYS_process_vm_readv,
    libc::SYS_process_vm_writev,
    libc::SYS_process_madvise,
    libc::SYS_kcmp,
    libc::SYS_pidfd_getfd,
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
    libc::SYS_acct,
    libc::SYS_open_by_handle_at,
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
];

/// The kernel's key rings, which no directory or namespace of ours bounds.
const KEYS: &[i64] = &[libc::SYS_add_key, libc::SYS_request_key, libc::SYS_keyctl];

/// New and other namespaces.
const NAMESPACES: &[i64] = &[libc::SYS_unshare, libc::SYS_setns];

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

/// Large interfaces with a history of holes: memory faults and input/output behind the kernel's back.
/// QEMU does without io_uring where it is refused.
const SURFACE: &[i64] = &[
    libc::SYS_userfaultfd,
    libc::SYS_io_uring_setup,
    libc::SYS_io_uring_enter,
    libc::SYS_io_uring_register,
    libc::SYS_fanotify_init,
    libc::SYS_personality,
];

/// Of x86 alone: ports, and segments.
#[cfg(target_arch = "x86_64")]
const OLD: &[i64] = &[libc::SYS_iopl, libc::SYS_ioperm, libc::SYS_modify_ldt, libc::SYS_uselib];
#[cfg(not(target_arch = "x86_64"))]
const OLD: &[i64] = &[];
