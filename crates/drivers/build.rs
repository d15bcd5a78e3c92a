//! Embeds PID 1 of the guests, and links the system's libkrun where that is asked for.

use std::env;
use std::error::Error;
use std::ffi::{OsStr, OsString};
use std::process::Command;

/// The oldest libkrun with all functions that are called (libkrun_header/libkrun.h), as far as
/// was tried.
const LIBKRUN_MIN: &str = "1.19";

fn main() -> Result<(), Box<dyn Error>> {
    if env::var_os("CARGO_FEATURE_KRUN").is_some() && env::var_os("CARGO_FEATURE_KRUN_BUNDLED").is_none() {
        link_system_libkrun()?;
    }
    println!("cargo::rerun-if-changed=build.rs");
    sandpen_embed::build(sandpen_embed::GUEST)?;
    Ok(())
}

/// Links the system's libkrun, where pkg-config finds it. In this workspace krun-sys is given our own header, whose
/// `.pc` file names nothing to link (see .cargo/config.toml), so that it can be built where no libkrun is;
/// HOST_PKG_CONFIG_PATH names other places, for krun-sys as well.
fn link_system_libkrun() -> Result<(), Box<dyn Error>> {
    const PLACES: &str = "HOST_PKG_CONFIG_PATH";
    println!("cargo:rerun-if-env-changed={PLACES}");
    let mut pkg_config = Command::new("pkg-config");
    pkg_config.args(["--libs", "--print-errors"]).arg(format!("libkrun >= {LIBKRUN_MIN}"));
    match env::var_os(PLACES) {
        Some(places) => pkg_config.env("PKG_CONFIG_PATH", places),
        None => {
            pkg_config.env("PKG_CONFIG_PATH", places_of_others(&env::var_os("PKG_CONFIG_PATH").unwrap_or_default())?)
        }
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

/// Where pkg-config is told to look, without our own header's place.
fn places_of_others(places: &OsStr) -> Result<OsString, Box<dyn Error>> {
    let others = env::split_paths(places).filter(|place| !place.ends_with("libkrun_header"));
    Ok(env::join_paths(others)?)
}
