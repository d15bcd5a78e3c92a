//! Bare-metal guests for libkrun, compiled with the system's C compiler.

use std::path::{Path, PathBuf};
use std::process::Command;

use sandpen_skip::{Reason, skip};

/// Whether microVMs of libkrun can be made here; else that is a skip.
pub fn kvm() -> bool {
    let opened = std::fs::OpenOptions::new().read(true).write(true).open("/dev/kvm");
    if let Err(error) = &opened {
        skip(Reason::NoKvm, format_args!("/dev/kvm: {error}"));
    }
    opened.is_ok()
}

/// Compiles `tests/guests/NAME.c` into `dir`; the program's path.
pub fn build(dir: &Path, name: &str) -> PathBuf {
    let sources = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/guests");
    let program = dir.join(format!("{name}.elf"));
    let mut cc = Command::new("cc");
    cc.args(["-std=gnu11", "-Wall", "-Wextra", "-Werror", "-O1", "-ffreestanding", "-fno-stack-protector"]);
    cc.args(["-fno-pic", "-no-pie", "-mno-red-zone", "-mgeneral-regs-only", "-fcf-protection=none"]);
    cc.args(["-fno-asynchronous-unwind-tables", "-nostdlib", "-static"]);
    cc.arg("-Wl,-Ttext=0x1000000,--build-id=none,-n,-z,noexecstack,--no-warn-rwx-segments");
    cc.arg("-o").arg(&program).arg(sources.join(format!("{name}.c"))).arg(sources.join("runtime.c"));
    let output = cc.output().expect("a C compiler (package gcc)");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    program
}
