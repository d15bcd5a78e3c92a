//! Builds PID 1 of the guests (crate `sandpen-guest`) as a static program, for embedding.
//!
//! Cargo cannot yet depend on a program that is built another way than the rest, so this runs a cargo
//! of its own with a target directory of its own; nothing is downloaded that the outer one did not
//! have to download.

use std::env;
use std::error::Error;
use std::path::PathBuf;
use std::process::Command;

/// The oldest libkrun with all functions that are called (libkrun_header/libkrun.h), as far as
/// was tried.
const LIBKRUN_MIN: &str = "1.19";

fn main() -> Result<(), Box<dyn Error>> {
    if env::var_os("CARGO_FEATURE_KRUN").is_some() && env::var_os("CARGO_FEATURE_KRUN_BUNDLED").is_none() {
        link_system_libkrun()?;
    }
    for path in ["build.rs", "../../guest/src", "../../guest/Cargo.toml", "../../Cargo.toml", "../../Cargo.lock"] {
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
        .current_dir(PathBuf::from(variable("CARGO_MANIFEST_DIR")?).join("../.."));
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

/// Links the system's libkrun, where pkg-config finds it. krun-sys is given our own header, whose `.pc`
/// file names nothing to link (see .cargo/config.toml); HOST_PKG_CONFIG_PATH names other places, for
/// krun-sys as well.
fn link_system_libkrun() -> Result<(), Box<dyn Error>> {
    const PLACES: &str = "HOST_PKG_CONFIG_PATH";
    println!("cargo:rerun-if-env-changed={PLACES}");
    let mut pkg_config = Command::new("pkg-config");
    pkg_config.args(["--libs", "--print-errors"]).arg(format!("libkrun >= {LIBKRUN_MIN}"));
    match env::var_os(PLACES) {
        Some(places) => pkg_config.env("PKG_CONFIG_PATH", places),
        None => pkg_config.env_remove("PKG_CONFIG_PATH"),
    };
    let output = pkg_config.output().map_err(|error| format!("running pkg-config, to find libkrun: {error}"))?;
    if !output.status.success() {
        let said = String::from_utf8_lossy(&output.stderr);
        return Err(format!(
            "{}\nno libkrun of version {LIBKRUN_MIN} or later was found: install its development files, name the \
             directory of libkrun.pc in {PLACES}, or build with the default feature krun-bundled, which needs none",
            said.trim()
        )
        .into());
    }
    for flag in String::from_utf8(output.stdout)?.split_whitespace() {
        if let Some(dir) = flag.strip_prefix("-L") {
            println!("cargo:rustc-link-search=native={dir}");
        } else if let Some(name) = flag.strip_prefix("-l") {
            println!("cargo:rustc-link-lib={name}");
        }
    }
    Ok(())
}
