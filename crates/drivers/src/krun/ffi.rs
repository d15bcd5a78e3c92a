//! libkrun's C API behind safe functions; the only unsafe code of the driver.
//!
//! Every function names the call that failed and translates its negative errno. libkrun is meant for
//! one microVM per process, which [`Context::enter`] turns the process into.
#![allow(unsafe_code)]
// Some of the functions are safe where they are libkrun's own; declared from its header none is.
#![cfg_attr(feature = "krun-bundled", allow(unused_unsafe))]

use std::convert::Infallible;
use std::ffi::{CStr, CString};
use std::os::fd::{AsRawFd, IntoRawFd as _, OwnedFd};
use std::os::unix::ffi::OsStrExt as _;
use std::path::Path;

#[cfg(not(any(feature = "krun", feature = "krun-bundled")))]
compile_error!("the feature krun-driver says nothing of which libkrun: ask for krun-bundled or krun");

// The same functions: libkrun's own, or what its header declares. A signature that has changed does not compile.
#[cfg(feature = "krun-bundled")]
use krun as api;
#[cfg(all(feature = "krun", not(feature = "krun-bundled")))]
use krun_sys as api;

use nix::errno::Errno;
use nix::libc;

/// The tag of the root file system that libkrun's kernel mounts (`krun_set_root`).
const ROOT_TAG: &CStr = c"/dev/root";
/// What libkrun's kernel parameters name as PID 1.
const INIT_PATH: &CStr = c"/init.krun";
/// What PID 1 mounts on while it makes a root of its own (`guest/src/boot.rs`, `rootfs.rs`).
const MOUNT_POINTS: [&CStr; 4] = [c"/dev", c"/proc", c"/sys", c"/newroot"];
/// The serial number of the disk.
const DISK_ID: &CStr = c"sandpen-disk";
/// `KRUN_DISK_FORMAT_RAW` and `KRUN_DISK_FORMAT_VMDK` of libkrun.h.
const DISK_FORMAT_RAW: u32 = 0;
const DISK_FORMAT_VMDK: u32 = 2;
/// `KRUN_LOG_LEVEL_WARN`, `KRUN_LOG_LEVEL_INFO`, `KRUN_LOG_STYLE_NEVER`, `KRUN_LOG_OPTION_NO_ENV` and
/// `KRUN_KERNEL_FORMAT_ELF` of libkrun.h.
const LOG_LEVEL_WARN: u32 = 2;
const LOG_LEVEL_INFO: u32 = 3;
const LOG_STYLE_NEVER: u32 = 2;
const LOG_OPTION_NO_ENV: u32 = 1;
const KERNEL_FORMAT_ELF: u32 = 1;
/// `KRUN_TSI_HIJACK_INET` of libkrun.h.
const TSI_HIJACK_INET: u32 = 1;
/// libkrun reads an array of ports as one of this many pointers (`MAX_ARGS` of its source).
const PORT_MAP_LEN: usize = 4096;

/// Why libkrun did not do something.
#[derive(Debug, thiserror::Error)]
pub enum KrunError {
    /// A call failed.
    #[error("{call} failed")]
    Call {
        /// Its name in libkrun.h.
        call: &'static str,
        /// What it answered.
        #[source]
        source: Errno,
    },
    /// A text that C cannot take.
    #[error("{what} has a NUL byte")]
    Nul {
        /// Which.
        what: &'static str,
    },
    /// The library with the guest kernel cannot be loaded.
    #[error("loading the guest kernel: {0}")]
    Firmware(String),
}

/// The number that a call answered, or its failure.
fn check(call: &'static str, answer: i32) -> Result<u32, KrunError> {
    u32::try_from(answer).map_err(|_| KrunError::Call { call, source: Errno::from_raw(answer.saturating_neg()) })
}

fn text(what: &'static str, text: &[u8]) -> Result<CString, KrunError> {
    CString::new(text).map_err(|_| KrunError::Nul { what })
}

/// Loads libkrunfw, the library that the guest kernel is in, from `path`. libkrun itself asks for it
/// by its soname only, and gets the one that is loaded already.
///
/// # Errors
/// [`KrunError::Firmware`] with what the dynamic loader says.
pub fn load_firmware(path: &Path) -> Result<(), KrunError> {
    let path = text("the path of libkrunfw", path.as_os_str().as_bytes())?;
    // SAFETY: `path` is a NUL-terminated string that lives through the call. The library's
    // initialisers run; which library that is, is the choice of the user whose process this is.
    let library = unsafe { libc::dlopen(path.as_ptr(), libc::RTLD_NOW) };
    if !library.is_null() {
        // Never closed: the guest's memory is made of it.
        return Ok(());
    }
    // SAFETY: no other thread runs the dynamic loader here, so the message stays as it is until it
    // is copied.
    let message = unsafe {
        let message = libc::dlerror();
        if message.is_null() { None } else { Some(CStr::from_ptr(message).to_string_lossy().into_owned()) }
    };
    Err(KrunError::Firmware(message.unwrap_or_else(|| "the dynamic loader gives no reason".to_owned())))
}

/// What libkrun tells of itself.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LogLevel {
    /// Warnings and errors.
    Warnings,
    /// Also why a processor stopped: `KVM_EXIT_SHUTDOWN` tells a triple fault from a reset.
    Steps,
}

/// Sends libkrun's messages and the guest's console to standard error, whatever the environment
/// says. Call it once: libkrun panics at a second logger.
///
/// # Errors
/// [`KrunError::Call`].
pub fn init_log(level: LogLevel) -> Result<(), KrunError> {
    let level = match level {
        LogLevel::Warnings => LOG_LEVEL_WARN,
        LogLevel::Steps => LOG_LEVEL_INFO,
    };
    // SAFETY: takes integers; standard error is not given away by its number.
    let answer = unsafe { api::krun_init_log(libc::STDERR_FILENO, level, LOG_STYLE_NEVER, LOG_OPTION_NO_ENV) };
    check("krun_init_log", answer).map(drop)
}

/// What the file of a disk is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum DiskFormat {
    /// The disk itself.
    Raw,
    /// The descriptor of a disk of other files, which it names.
    Vmdk,
}

/// A virtio port of the guest.
#[derive(Debug)]
pub struct Port<'a> {
    /// Its name inside the guest.
    pub name: &'a str,
    /// What the guest reads, on an open file description that nobody else uses: libkrun makes it
    /// non-blocking.
    pub input: Option<OwnedFd>,
    /// What the guest writes to, likewise.
    pub output: Option<OwnedFd>,
}

/// The configuration of this process's microVM.
#[derive(Debug)]
pub struct Context {
    id: u32,
    /// Descriptors that libkrun knows by number.
    held: Vec<OwnedFd>,
}

impl Context {
    /// An empty configuration, without libkrun's own init, console and network.
    ///
    /// # Errors
    /// [`KrunError::Call`].
    pub fn new() -> Result<Self, KrunError> {
        // SAFETY: takes nothing.
        let id = check("krun_create_ctx", unsafe { api::krun_create_ctx() })?;
        // SAFETY: these take the number of a live context.
        let answers = unsafe {
            [
                ("krun_disable_implicit_init", api::krun_disable_implicit_init(id)),
                ("krun_disable_implicit_console", api::krun_disable_implicit_console(id)),
                // Without it the guest's sockets would be the host's (TSI).
                ("krun_disable_implicit_vsock", api::krun_disable_implicit_vsock(id)),
            ]
        };
        for (call, answer) in answers {
            check(call, answer)?;
        }
        Ok(Self { id, held: Vec::new() })
    }

    /// Sets the number of virtual CPUs and the memory in MiB.
    ///
    /// # Errors
    /// [`KrunError::Call`].
    pub fn set_machine(&mut self, cpus: u8, memory_mib: u32) -> Result<(), KrunError> {
        // SAFETY: takes integers.
        check("krun_set_vm_config", unsafe { api::krun_set_vm_config(self.id, cpus, memory_mib) }).map(drop)
    }

    /// Shares a host directory as the guest's root and puts `init` into it as PID 1, visible to the
    /// guest only.
    ///
    /// # Errors
    /// [`KrunError`].
    pub fn set_root(&mut self, directory: &str, init: &'static [u8]) -> Result<(), KrunError> {
        let directory = text("the path of the root directory", directory.as_bytes())?;
        // SAFETY: a NUL-terminated string that lives through the call, which copies it.
        check("krun_set_root", unsafe { api::krun_set_root(self.id, directory.as_ptr()) })?;
        self.add_init(init)
    }

    /// Makes an empty directory the guest's first root, with `init` and mount points in it; `init`
    /// makes another one.
    ///
    /// # Errors
    /// [`KrunError`].
    pub fn set_empty_root(&mut self, init: &'static [u8]) -> Result<(), KrunError> {
        // SAFETY: a NUL-terminated constant; without a directory there is nothing but what is added.
        let answer = unsafe { api::krun_add_virtiofs3(self.id, ROOT_TAG.as_ptr(), std::ptr::null(), 0, true) };
        check("krun_add_virtiofs3", answer)?;
        for directory in MOUNT_POINTS {
            // SAFETY: NUL-terminated constants that live through the call, which copies them.
            let answer = unsafe { api::krun_fs_add_overlay_dir(self.id, ROOT_TAG.as_ptr(), directory.as_ptr(), 0o755) };
            check("krun_fs_add_overlay_dir", answer)?;
        }
        self.add_init(init)
    }

    /// Puts PID 1 into the root.
    fn add_init(&mut self, init: &'static [u8]) -> Result<(), KrunError> {
        // SAFETY: NUL-terminated constants; pointer and length are of one slice that lives, unchanged,
        // as long as the process, as the call demands.
        let answer = unsafe {
            api::krun_fs_add_overlay_file(
                self.id,
                ROOT_TAG.as_ptr(),
                INIT_PATH.as_ptr(),
                init.as_ptr(),
                // `size_t`, which the bindings have as one type or another.
                init.len() as _,
                0o755,
                false,
            )
        };
        check("krun_fs_add_overlay_file", answer).map(drop)
    }

    /// Adds a disk, the guest's first one, from a file without a format of its own. `lock` is kept
    /// open as long as the process lives.
    ///
    /// # Errors
    /// [`KrunError`].
    pub fn add_disk(&mut self, file: &Path, lock: OwnedFd) -> Result<(), KrunError> {
        let file = text("the path of the disk", file.as_os_str().as_bytes())?;
        // SAFETY: NUL-terminated strings that live through the call, which copies them.
        let answer = unsafe { api::krun_add_disk2(self.id, DISK_ID.as_ptr(), file.as_ptr(), DISK_FORMAT_RAW, false) };
        check("krun_add_disk2", answer)?;
        self.held.push(lock);
        Ok(())
    }

    /// Adds a disk that the guest only reads, with a serial number.
    ///
    /// # Errors
    /// [`KrunError`].
    pub fn add_root_disk(&mut self, serial: &str, file: &Path, format: DiskFormat) -> Result<(), KrunError> {
        let format = match format {
            DiskFormat::Raw => DISK_FORMAT_RAW,
            DiskFormat::Vmdk => DISK_FORMAT_VMDK,
        };
        let serial = text("the serial number of a disk", serial.as_bytes())?;
        let file = text("the path of a disk", file.as_os_str().as_bytes())?;
        // SAFETY: NUL-terminated strings that live through the call, which copies them.
        let answer = unsafe { api::krun_add_disk2(self.id, serial.as_ptr(), file.as_ptr(), format, true) };
        check("krun_add_disk2", answer).map(drop)
    }

    /// Shares another host directory under a virtiofs tag. With `read_only` libkrun answers every
    /// write with an error.
    ///
    /// # Errors
    /// [`KrunError`].
    pub fn add_share(&mut self, tag: &str, directory: &str, read_only: bool) -> Result<(), KrunError> {
        let tag = text("the tag of a shared directory", tag.as_bytes())?;
        let directory = text("the path of a shared directory", directory.as_bytes())?;
        // SAFETY: NUL-terminated strings that live through the call, which copies them.
        let answer = unsafe { api::krun_add_virtiofs3(self.id, tag.as_ptr(), directory.as_ptr(), 0, read_only) };
        check("krun_add_virtiofs3", answer).map(drop)
    }

    /// Boots this ELF file instead of the kernel of libkrunfw.
    ///
    /// # Errors
    /// [`KrunError`].
    pub fn set_elf_kernel(&mut self, kernel: &Path) -> Result<(), KrunError> {
        let kernel = text("the path of the kernel", kernel.as_os_str().as_bytes())?;
        // SAFETY: a NUL-terminated string that lives through the call, which copies it; initramfs and
        // parameters may be NULL.
        let answer = unsafe {
            api::krun_set_kernel(self.id, kernel.as_ptr(), KERNEL_FORMAT_ELF, std::ptr::null(), std::ptr::null())
        };
        check("krun_set_kernel", answer).map(drop)
    }

    /// Makes the guest's internet sockets the host's. A guest that listens at the second port of one of
    /// `ports` makes the host listen at the first one.
    ///
    /// # Errors
    /// [`KrunError`].
    pub fn add_tsi(&mut self, ports: &[(u16, u16)]) -> Result<(), KrunError> {
        // SAFETY: takes integers.
        check("krun_add_vsock", unsafe { api::krun_add_vsock(self.id, TSI_HIJACK_INET) })?;
        let texts: Vec<CString> = ports
            .iter()
            .map(|(host, guest)| text("a published port", format!("{host}:{guest}").as_bytes()))
            .collect::<Result<_, _>>()?;
        let mut pointers: Vec<*const libc::c_char> = texts.iter().map(|text| text.as_ptr()).collect();
        pointers.resize(PORT_MAP_LEN.max(pointers.len() + 1), std::ptr::null());
        // SAFETY: NUL-terminated strings, a NULL after the last of them, and as many pointers as the
        // call looks at; all live through the call, which copies them.
        let answer = unsafe { api::krun_set_port_map(self.id, pointers.as_ptr()) };
        check("krun_set_port_map", answer).map(drop)
    }

    /// Adds the console of the guest's kernel, whose lines go to libkrun's log.
    ///
    /// # Errors
    /// [`KrunError::Call`].
    pub fn add_log_console(&mut self) -> Result<(), KrunError> {
        // SAFETY: takes integers; -1 is no descriptor.
        let answer = unsafe { api::krun_add_virtio_console_default(self.id, -1, -1, -1) };
        check("krun_add_virtio_console_default", answer).map(drop)
    }

    /// Adds a device with these ports.
    ///
    /// # Errors
    /// [`KrunError`].
    pub fn add_ports(&mut self, ports: Vec<Port<'_>>) -> Result<(), KrunError> {
        // SAFETY: takes the number of a live context.
        let answer = unsafe { api::krun_add_virtio_console_multiport(self.id) };
        let console = check("krun_add_virtio_console_multiport", answer)?;
        for port in ports {
            let name = text("the name of a port", port.name.as_bytes())?;
            let number = |fd: &Option<OwnedFd>| fd.as_ref().map_or(-1, AsRawFd::as_raw_fd);
            let (input, output) = (number(&port.input), number(&port.output));
            // SAFETY: a NUL-terminated string that lives through the call, which copies it. libkrun
            // duplicates the descriptors when it starts; until then `held` keeps them open.
            let answer = unsafe { api::krun_add_console_port_inout(self.id, console, name.as_ptr(), input, output) };
            check("krun_add_console_port_inout", answer)?;
            self.held.extend([port.input, port.output].into_iter().flatten());
        }
        Ok(())
    }

    /// Adds a serial port that only writes, to a blocking description (others drop bytes).
    ///
    /// # Errors
    /// [`KrunError::Call`].
    pub fn add_serial_output(&mut self, output: OwnedFd) -> Result<(), KrunError> {
        // SAFETY: takes integers. libkrun owns the descriptor from here on, so it is given away.
        let answer = unsafe { api::krun_add_serial_console_default(self.id, -1, output.into_raw_fd()) };
        check("krun_add_serial_console_default", answer).map(drop)
    }

    /// Becomes the microVM: the process ends with it, and no destructor runs.
    ///
    /// # Errors
    /// [`KrunError::Call`] when the microVM cannot be made.
    pub fn enter(self) -> Result<Infallible, KrunError> {
        // SAFETY: takes the number of a live context; what it points to (descriptors, the init
        // program) is held by `self` and by the process until it ends.
        let answer = unsafe { api::krun_start_enter(self.id) };
        Err(KrunError::Call { call: "krun_start_enter", source: Errno::from_raw(answer.saturating_neg()) })
    }
}
