//! For build scripts: builds the programs that sandpen carries inside of itself, so that an application which embeds it
//! needs no second file. They are PID 1 of the guests ([`GUEST`]) and the waiter ([`WAITER`]): static, and small, since
//! each sandbox has one of both in its memory for its whole life.
//!
//! Cargo cannot yet depend on a program that is built another way than the rest, so this runs a cargo of its own, on a
//! package of its own ([`package`]), which consists of the real one's `main` and says how it is built. Nothing of an
//! application's build has to know of it: no profile, no configuration, no target that is to be installed. Nothing is
//! downloaded that the outer cargo did not have to download, and nothing is written beside the sources.
//!
//! ```text
//!   build script of the crate that embeds it ─▶ cargo build ─▶ TARGET_DIR/embedded/…  one for all that is built below
//!                                                                   │               TARGET_DIR: profiles, features,
//!                                                                   ▼               clippy, tests
//!                                                                OUT_DIR ─▶ include_bytes!(env!("SANDPEN_WAITER"))
//! ```
//!
//! May know: how such programs are built. May not: what they do, and who installs or boots them.

mod error;
mod package;

use std::ffi::OsStr;
use std::fs::{self, File};
use std::hash::Hasher as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

pub use error::EmbedError;

/// A program of sandpen's that is embedded. The crate that does it depends on the program's package, which tells where
/// it lies (`links` in its manifest).
#[derive(Debug, Clone, Copy)]
pub struct Program {
    /// The package, whose library has the program's `main`.
    package: &'static str,
    /// The variable in which cargo hands on where the package's sources lie.
    source: &'static str,
    /// The environment variable of `rustc` that has the built program's path.
    variable: &'static str,
    /// Packages of sandpen's own that it is built with, by their folders in the tree.
    below: &'static [&'static str],
}

/// PID 1 of every Linux guest. Its path is `SANDPEN_GUEST`, the hash of its content `SANDPEN_GUEST_HASH`.
pub const GUEST: Program = Program {
    package: "sandpen-guest",
    source: "DEP_SANDPEN_GUEST_SOURCE",
    variable: "SANDPEN_GUEST",
    below: &["crates/files", "crates/tree"],
};

/// The waiter. Its path is `SANDPEN_WAITER`, the hash of its content `SANDPEN_WAITER_HASH`.
pub const WAITER: Program =
    Program { package: "sandpen-waiter", source: "DEP_SANDPEN_WAITER_SOURCE", variable: "SANDPEN_WAITER", below: &[] };

/// Builds the program, to be called by the build script of the crate that embeds it, and gives that crate its path and
/// hash as environment variables.
///
/// # Errors
/// [`EmbedError`], which says what is missing.
pub fn build(program: Program) -> Result<(), EmbedError> {
    let variable = |name: &'static str| std::env::var_os(name).ok_or(EmbedError::NoBuildScript(name));
    let source = PathBuf::from(variable(program.source)?);
    for path in watched(&source, program.below) {
        println!("cargo::rerun-if-changed={}", path.display());
    }
    let out_dir = PathBuf::from(variable("OUT_DIR")?);
    let target = variable("TARGET")?.to_string_lossy().into_owned();
    if !target.contains("linux") {
        return Err(EmbedError::Target(target));
    }
    let built = out_dir.join(program.package);
    let shared = shared_directory(&out_dir, &target).join("embedded");
    fs::create_dir_all(&shared).map_err(EmbedError::file(&shared))?;
    {
        // Two source trees may share a target directory: what is taken has to be what was just built.
        let path = shared.join(".lock");
        let lock = File::create(&path).map_err(EmbedError::file(&path))?;
        lock.lock().map_err(EmbedError::file(&path))?;
        let package = shared.join(program.package);
        package::write(&package, program.package, &source)?;
        let cargo = |subcommand| cargo(&variable("CARGO").unwrap_or_default(), subcommand, &target, &package);
        choose_versions(&package, &out_dir, || cargo("fetch"))?;
        let mut cargo = cargo("build");
        cargo.arg("--profile=embedded").arg("--target-dir").arg(&shared);
        let status = cargo.status().map_err(|source| EmbedError::Run { program: program.package, source })?;
        if !status.success() {
            return Err(EmbedError::Failed { program: program.package, status });
        }
        let from = shared.join(&target).join("embedded").join(program.package);
        fs::copy(&from, &built).map_err(EmbedError::file(&from))?;
    }
    let content = fs::read(&built).map_err(EmbedError::file(&built))?;
    // A version, not a protection.
    let mut hasher = std::hash::DefaultHasher::new();
    hasher.write(&content);
    println!("cargo::rustc-env={}={}", program.variable, built.display());
    println!("cargo::rustc-env={}_HASH={:016x}", program.variable, hasher.finish());
    Ok(())
}

/// What the program is built from. In sandpen's own tree that is also what its manifest inherits, and other packages.
fn watched(source: &Path, below: &[&str]) -> Vec<PathBuf> {
    let mut watched = vec![source.join("src"), source.join("Cargo.toml")];
    let workspace = source.ancestors().skip(1).take(2).find(|above| above.join("Cargo.toml").is_file());
    if let Some(above) = workspace {
        watched.extend(
            ["Cargo.toml", "Cargo.lock"].map(|name| above.join(name)).into_iter().filter(|file| file.is_file()),
        );
        let packages = below.iter().map(|folder| above.join(folder)).filter(|folder| folder.is_dir());
        watched.extend(packages.flat_map(|folder| [folder.join("src"), folder.join("Cargo.toml")]));
    }
    watched
}

/// Has the program built with the versions that the outer cargo chose, where its lock file is found: they were
/// downloaded, and somebody may have looked at them. Else with those of the downloaded ones that suit.
fn choose_versions(package: &Path, out_dir: &Path, fetch: impl Fn() -> Command) -> Result<(), EmbedError> {
    let lock = package.join("Cargo.lock");
    let outer = levels_above(out_dir).map(|above| above.join("Cargo.lock")).find(|outer| outer.is_file());
    match &outer {
        Some(outer) => fs::copy(outer, &lock).map(drop).map_err(EmbedError::file(outer))?,
        None => forget(&lock)?,
    }
    // The lock file of somebody else, beside a target directory that was put elsewhere.
    let is_of_use = || fetch().stderr(Stdio::null()).status().is_ok_and(|status| status.success());
    if outer.is_some() && !is_of_use() { forget(&lock) } else { Ok(()) }
}

fn forget(file: &Path) -> Result<(), EmbedError> {
    match fs::remove_file(file) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => Err(EmbedError::file(file)(error)),
        _ => Ok(()),
    }
}

/// A cargo in the package's directory. That lies in the target directory, so that a configuration which the outer cargo
/// has found above that is this one's too: where packages come from, which linker there is.
fn cargo(program: &OsStr, subcommand: &str, target: &str, package: &Path) -> Command {
    let mut cargo = Command::new(program);
    cargo.args([subcommand, "--quiet", "--offline", "--target", target]).current_dir(package);
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
    let Some(found) = levels_above(out_dir).find(|above| is_tagged(above)) else { return out_dir };
    // With `--target`, the directory of that one has a tag too.
    let above = found.parent().filter(|above| found.ends_with(target) && is_tagged(above));
    above.unwrap_or(found)
}

/// Where the target directory is, and what it lies in: `OUT_DIR` is four to seven levels below,
/// `TARGET_DIR/TRIPLE/PROFILE/build/PACKAGE/out`.
fn levels_above(out_dir: &Path) -> impl Iterator<Item = &Path> {
    out_dir.ancestors().skip(1).take(7)
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
    fn a_lock_file_of_somebody_else_is_not_used() {
        let dir = tempfile::tempdir().unwrap();
        let package = dir.path().join("target/embedded/program");
        fs::create_dir_all(&package).unwrap();
        let lock = package.join("Cargo.lock");
        let chosen = |fetch: &'static str| {
            choose_versions(&package, &dir.path().join("target/debug/build/package/out"), || Command::new(fetch))
                .unwrap();
            fs::read_to_string(&lock).ok()
        };
        fs::write(&lock, "of before").unwrap();
        assert_eq!(chosen("false"), None, "there is none to take");
        fs::write(dir.path().join("Cargo.lock"), "the outer one").unwrap();
        assert_eq!(chosen("true").as_deref(), Some("the outer one"));
        assert_eq!(chosen("false"), None, "it names what was not downloaded");
    }

    #[test]
    fn what_a_program_is_built_from_is_there() {
        let tree = Path::new(env!("CARGO_MANIFEST_DIR")).join("../..").canonicalize().unwrap();
        for (source, program, files) in [("guest", GUEST, 8), ("crates/waiter", WAITER, 4)] {
            let watched = watched(&tree.join(source), program.below);
            assert_eq!(watched.len(), files, "{watched:?}");
            assert!(watched.iter().all(|path| path.exists()), "{watched:?}");
        }
    }
}
