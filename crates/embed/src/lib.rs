//! For build scripts: builds the programs that sandpen carries inside of itself, so that an application which embeds it
//! needs no second file. They are PID 1 of the guests ([`GUEST`]) and the waiter ([`WAITER`]): static, and small, since
//! each sandbox has one of both in its memory for its whole life.
//!
//! Cargo cannot yet depend on a program that is built another way than the rest, so this runs a cargo of its own, with
//! the profile `embedded` of sandpen's workspace. Nothing is downloaded that the outer cargo did not have to download.
//!
//! ```text
//!   build script of the crate that embeds it ─▶ cargo build ─▶ TARGET_DIR/embedded/…  one for all that is built below
//!                                                                   │               TARGET_DIR: profiles, features,
//!                                                                   ▼               clippy, tests
//!                                                                OUT_DIR ─▶ include_bytes!(env!("SANDPEN_WAITER"))
//! ```
//!
//! May know: where the packages lie in sandpen's source tree, and how such programs are built. May not: what they do,
//! and who installs or boots them.

mod error;

use std::ffi::OsString;
use std::fs::{self, File};
use std::hash::Hasher as _;
use std::path::{Path, PathBuf};
use std::process::Command;

pub use error::EmbedError;

/// A program of sandpen's workspace that is embedded.
#[derive(Debug, Clone, Copy)]
pub struct Program {
    /// The package, and the program in it.
    package: &'static str,
    /// What it is built from, below the workspace's root.
    sources: &'static [&'static str],
    /// The environment variable of `rustc` that has the built program's path.
    variable: &'static str,
}

/// PID 1 of every Linux guest. Its path is `SANDPEN_GUEST`, the hash of its content `SANDPEN_GUEST_HASH`.
pub const GUEST: Program = Program {
    package: "sandpen-guest",
    sources: &["guest/src", "guest/Cargo.toml", "Cargo.toml", "Cargo.lock"],
    variable: "SANDPEN_GUEST",
};

/// The waiter. Its path is `SANDPEN_WAITER`, the hash of its content `SANDPEN_WAITER_HASH`.
pub const WAITER: Program = Program {
    package: "sandpen-waiter",
    sources: &["crates/waiter/src", "crates/waiter/Cargo.toml", "Cargo.toml"],
    variable: "SANDPEN_WAITER",
};

/// Builds the program, to be called by the build script of the crate that embeds it, and gives that crate its path and
/// hash as environment variables.
///
/// # Errors
/// [`EmbedError`], which says what is missing.
pub fn build(program: Program) -> Result<(), EmbedError> {
    let root = workspace();
    for source in program.sources {
        println!("cargo::rerun-if-changed={}", root.join(source).display());
    }
    let variable = |name: &'static str| std::env::var_os(name).ok_or(EmbedError::NoBuildScript(name));
    let out_dir = PathBuf::from(variable("OUT_DIR")?);
    let target = variable("TARGET")?.to_string_lossy().into_owned();
    if !target.contains("linux") {
        return Err(EmbedError::Target(target));
    }
    let built = out_dir.join(program.package);
    let shared = shared_directory(&out_dir, &target).join("embedded");
    let failed = |path: &Path| {
        let path = path.to_owned();
        move |source| EmbedError::File { path, source }
    };
    fs::create_dir_all(&shared).map_err(failed(&shared))?;
    {
        // Two source trees may share a target directory: what is taken has to be what was just built.
        let path = shared.join(".lock");
        let lock = File::create(&path).map_err(failed(&path))?;
        lock.lock().map_err(failed(&path))?;
        let mut cargo = cargo(&variable("CARGO")?, program, &target, &shared);
        let status = cargo.status().map_err(|source| EmbedError::Run { program: program.package, source })?;
        if !status.success() {
            return Err(EmbedError::Failed { program: program.package, status });
        }
        let from = shared.join(&target).join("embedded").join(program.package);
        fs::copy(&from, &built).map_err(failed(&from))?;
    }
    let content = fs::read(&built).map_err(failed(&built))?;
    // A version, not a protection.
    let mut hasher = std::hash::DefaultHasher::new();
    hasher.write(&content);
    println!("cargo::rustc-env={}={}", program.variable, built.display());
    println!("cargo::rustc-env={}_HASH={:016x}", program.variable, hasher.finish());
    Ok(())
}

/// The root of sandpen's source tree, also where sandpen is a dependency of others.
fn workspace() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../..")
}

fn cargo(program: &OsString, package: Program, target: &str, target_dir: &Path) -> Command {
    let mut cargo = Command::new(program);
    cargo
        .args(["build", "--quiet", "--locked", "--offline", "--profile=embedded", "--manifest-path=Cargo.toml"])
        .args(["--package", package.package, "--bin", package.package, "--target", target, "--target-dir"])
        .arg(target_dir)
        .current_dir(workspace());
    // What the outer cargo, clippy or a coverage tool set for the outer build must not change this one.
    for (name, _) in std::env::vars_os() {
        let kept = ["CARGO_HOME", "CARGO_MAKEFLAGS"].iter().any(|keep| name == *keep);
        let text = name.to_string_lossy();
        if !kept && (text.starts_with("CARGO_") || text.starts_with("RUSTC_") || text.ends_with("RUSTFLAGS")) {
            cargo.env_remove(&name);
        }
    }
    // Not so the linker: it may be the only one there is for this target.
    if let Some(linker) = std::env::var_os("RUSTC_LINKER") {
        cargo.env(format!("CARGO_TARGET_{}_LINKER", target.to_uppercase().replace('-', "_")), linker);
    }
    // With an explicit `--target` these do not reach build scripts and macros, which cannot be static. Not position
    // independent: relocations would dirty pages in every one of the processes.
    cargo.env("CARGO_ENCODED_RUSTFLAGS", "-Ctarget-feature=+crt-static\u{1f}-Crelocation-model=static");
    cargo
}

/// The outer cargo's target directory, which has a tag at its root; where there is none, what is ours alone.
fn shared_directory<'a>(out_dir: &'a Path, target: &str) -> &'a Path {
    let is_tagged = |directory: &Path| directory.join("CACHEDIR.TAG").is_file();
    // OUT_DIR is four to seven levels below: TARGET_DIR/TRIPLE/PROFILE/build/PACKAGE/out.
    let Some(found) = out_dir.ancestors().skip(1).take(7).find(|above| is_tagged(above)) else { return out_dir };
    // With `--target`, the directory of that one has a tag too.
    let above = found.parent().filter(|above| found.ends_with(target) && is_tagged(above));
    above.unwrap_or(found)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn all_that_is_built_in_a_target_directory_shares_one() {
        let dir = tempfile::tempdir().unwrap();
        let out = dir.path().join("target/x86_64-unknown-linux-gnu/debug/build/sandpen-actors-0123/out");
        fs::create_dir_all(&out).unwrap();
        let shared = |out| shared_directory(out, "x86_64-unknown-linux-gnu");
        assert_eq!(shared(&out), out, "nothing says which one it is");
        let target = dir.path().join("target");
        fs::write(target.join("CACHEDIR.TAG"), "").unwrap();
        assert_eq!(shared(&out), target);
        fs::write(target.join("x86_64-unknown-linux-gnu/CACHEDIR.TAG"), "").unwrap();
        assert_eq!(shared(&out), target);
        assert_eq!(shared(&target.join("debug/build/sandpen-0123/out")), target);
    }

    #[test]
    fn every_source_is_there() {
        for program in [GUEST, WAITER] {
            for source in program.sources {
                assert!(workspace().join(source).exists(), "{source}");
            }
        }
    }
}
