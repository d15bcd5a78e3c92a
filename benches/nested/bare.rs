//! The least program that runs a command in a Linux microVM of libkrun: what sandpen is measured
//! against.
#![allow(unsafe_code, reason = "libkrun's C API")]

use std::ffi::CString;
use std::io::Error as IoError;
use std::path::Path;

use super::Result;

/// Becomes a microVM with `root` as `/` and the program `init` as its PID 1, like sandpen's: 256 MiB,
/// one processor, no network.
pub fn run(root: &str, init: &Path) -> Result<()> {
    let root = CString::new(root)?;
    let init: &'static [u8] = Box::leak(std::fs::read(init)?.into_boxed_slice());
    let firmware = CString::new(std::env::var("SANDPEN_KRUNFW")?)?;
    // SAFETY: a string that ends with NUL. libkrun asks for the library by its soname, and gets the
    // one that is loaded already.
    if unsafe { nix::libc::dlopen(firmware.as_ptr(), nix::libc::RTLD_NOW) }.is_null() {
        return Err("libkrunfw cannot be loaded".into());
    }
    // SAFETY: takes nothing.
    let context = check(unsafe { krun_sys::krun_create_ctx() })?;
    // SAFETY: the context is live; all strings end with NUL and are copied by the calls; `init` lives
    // as long as the process.
    unsafe {
        check(krun_sys::krun_disable_implicit_init(context))?;
        check(krun_sys::krun_disable_implicit_console(context))?;
        check(krun_sys::krun_disable_implicit_vsock(context))?;
        check(krun_sys::krun_set_vm_config(context, 1, 256))?;
        check(krun_sys::krun_set_root(context, root.as_ptr()))?;
        let (tag, path) = (c"/dev/root".as_ptr(), c"/init.krun".as_ptr());
        check(krun_sys::krun_fs_add_overlay_file(context, tag, path, init.as_ptr(), init.len(), 0o755, false))?;
        check(krun_sys::krun_add_virtio_console_default(context, 0, 1, 2))?;
        check(krun_sys::krun_start_enter(context))?;
    }
    Ok(())
}

fn check(answer: i32) -> Result<u32> {
    u32::try_from(answer).map_err(|_| IoError::from_raw_os_error(answer.saturating_neg()).into())
}
