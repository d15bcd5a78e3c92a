//! Builds PID 1 of the guests (crate `sandpen-guest`) as a static program, for embedding.
//!
//! Cargo cannot yet depend on a program that is built another way than the rest, so this runs a cargo
//! of its own with a target directory of its own; nothing is downloaded that the outer one did not
//! have to download.

use std::env;
use std::error::Error;
use std::path::PathBuf;
use std::process::Command;

fn main() -> Result<(), Box<dyn Error>> {
    // Our header for krun-sys names nothing to link (see .cargo/config.toml).
    if env::var_os("CARGO_FEATURE_KRUN").is_some() && env::var_os("CARGO_FEATURE_KRUN_BUNDLED").is_none() {
        println!("cargo:rustc-link-lib=krun");
    }
    for path in ["build.rs", "guest/src", "guest/Cargo.toml", "Cargo.toml", "Cargo.lock"] {
        println!("cargo:rerun-if-changed={path}");
    }
    let variable = |name: &str| env::var_os(name).ok_or_else(|| format!("cargo did not set {name}"));
    let out_dir = PathBuf::from(variable("OUT_DIR")?);
    let target = env::var("TARGET")?;
    if !target.contains("linux") {
        return Err(format!("guests run Linux: {target} cannot build their PID 1").into());
    }

    let target_dir = out_dir.join("guest");
    let mut cargo = Command::new(variable("CARGO")?);
    cargo
        .args(["build", "--quiet", "--locked", "--offline", "--profile=guest", "--package=sandpen-guest"])
        .args(["--bin=sandpen-guest", "--manifest-path=Cargo.toml", "--target", &target, "--target-dir"])
        .arg(&target_dir)
        .current_dir(variable("CARGO_MANIFEST_DIR")?);
    // What the outer cargo, clippy or a coverage tool set for the outer build must not change this one.
    for (name, _) in env::vars_os() {
        let kept = ["CARGO_HOME", "CARGO_MAKEFLAGS"].iter().any(|keep| name == *keep);
        let text = name.to_string_lossy();
        if !kept && (text.starts_with("CARGO_") || text.starts_with("RUSTC_") || text.ends_with("RUSTFLAGS")) {
            cargo.env_remove(&name);
        }
    }
    // With an explicit `--target` these do not reach build scripts and macros, which cannot be static.
    cargo.env("CARGO_ENCODED_RUSTFLAGS", "-Ctarget-feature=+crt-static\u{1f}-Crelocation-model=static");
    let status = cargo.status()?;
    if !status.success() {
        return Err(format!("building the guest's PID 1 failed ({status})").into());
    }

    let binary = target_dir.join(&target).join("guest").join("sandpen-guest");
    println!("cargo:rustc-env=SANDPEN_GUEST_BINARY={}", binary.display());
    Ok(())
}
