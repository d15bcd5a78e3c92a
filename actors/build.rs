//! Builds the waiter: a static program of one source file, small enough that every sandbox can
//! have one for its whole life. It is embedded into this crate and installed at run time, so that
//! an application which embeds the library needs no second binary.

use std::hash::Hasher;
use std::path::PathBuf;
use std::process::Command;
use std::{env, fs};

fn main() {
    let sources = [
        "src/waiter/program.rs",
        "src/waiter/program_log.rs",
        "src/waiter/program_process.rs",
        "src/waiter/program_sys.rs",
        "src/waiter/records.rs",
        "src/waiter/wire.rs",
        "src/process_identity.rs",
    ];
    for source in sources {
        println!("cargo::rerun-if-changed={source}");
    }
    println!("cargo::rerun-if-changed=build.rs");
    println!("cargo::rerun-if-changed=../migrations");

    let variable = |name: &str| env::var_os(name).unwrap_or_else(|| panic!("cargo does not set {name}"));
    let program = PathBuf::from(variable("OUT_DIR")).join("sandpen-waiter");
    let mut rustc = Command::new(variable("RUSTC"));
    rustc.args([
        "--edition=2024",
        "--crate-type=bin",
        "--crate-name=sandpen_waiter",
        "src/waiter/program.rs",
        "--target",
    ]);
    rustc.arg(variable("TARGET")).arg("-o").arg(&program);
    // Not position independent: relocations would dirty pages in every one of the waiters.
    for option in [
        "target-feature=+crt-static",
        "relocation-model=static",
        "opt-level=z",
        "panic=abort",
        "strip=symbols",
        "lto=fat",
        "codegen-units=1",
    ] {
        rustc.args(["-C", option]);
    }
    if let Some(linker) = env::var_os("RUSTC_LINKER") {
        rustc.arg("-C").arg(format!("linker={}", linker.to_string_lossy()));
    }
    let output = rustc.output().unwrap_or_else(|error| panic!("cannot run rustc for the waiter: {error}"));
    assert!(
        output.status.success(),
        "the waiter does not build (a static C library is needed, package libc6-dev or glibc-static):\n{}",
        String::from_utf8_lossy(&output.stderr)
    );

    let content = fs::read(&program).unwrap_or_else(|error| panic!("cannot read {}: {error}", program.display()));
    // A version, not a protection: only we write the directory that it is installed in.
    let mut hasher = std::hash::DefaultHasher::new();
    hasher.write(&content);
    println!("cargo::rustc-env=SANDPEN_WAITER={}", program.display());
    println!("cargo::rustc-env=SANDPEN_WAITER_HASH={:016x}", hasher.finish());
}
