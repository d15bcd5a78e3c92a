//! Tests that cannot run on this host. No test passes by not running: it calls [`skip`] with a
//! [`Reason`], which is printed, noted in a list, and fails the test unless the reason is allowed.
//!
//! | `SANDPEN_ALLOW_SKIPS` | `CI` | allowed |
//! | --- | --- | --- |
//! | set: names of reasons, separated by commas | any | those and no others |
//! | unset | unset, empty or `false` | all: a developer sees the list |
//! | unset | anything else | none |
//!
//! The list is the file of `SANDPEN_SKIPS`, `target/skips.txt` of this workspace by default.
//! `make test` empties it at its beginning and prints it at its end, with the program of this crate.
//!
//! May know: reasons. May not: anything of sandpen; any crate's tests use it.

use std::fmt::Display;
use std::fs::{self, File};
use std::io::{self, Write as _};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

/// The variable that names what may be skipped.
pub const ALLOWED: &str = "SANDPEN_ALLOW_SKIPS";
/// The variable that names the list.
pub const LIST: &str = "SANDPEN_SKIPS";
/// Ends a line of the list that fails `make test`.
const REFUSED: &str = " [not allowed]";

/// Declares the reasons, each with its name.
macro_rules! reasons {
    ($($(#[$doc:meta])* $variant:ident = $name:literal,)+) => {
        /// What a host lacks (or has) so that a test cannot run.
        #[derive(Clone, Copy, Debug, PartialEq, Eq)]
        pub enum Reason {
            $($(#[$doc])* $variant,)+
        }

        impl Reason {
            /// All of them.
            pub const ALL: &[Self] = &[$(Self::$variant,)+];

            /// As [`ALLOWED`] names it.
            pub fn name(self) -> &'static str {
                match self {
                    $(Self::$variant => $name,)+
                }
            }
        }
    };
}

reasons! {
    /// `/dev/kvm` does not open.
    NoKvm = "no-kvm",
    /// KVM accelerates QEMU here, and the test is of emulated machines.
    KvmWorks = "kvm-works",
    /// No guest kernel is installed, or an older one without what the test needs.
    NoKernel = "no-kernel",
    /// The kernel of libkrunfw is not installed.
    NoKrunfw = "no-krunfw",
    /// No program makes ext4 file systems.
    NoMke2fs = "no-mke2fs",
    /// Not run by root.
    NotRoot = "not-root",
    /// No file system may be mounted.
    NoMounts = "no-mounts",
    /// No newuidmap and newgidmap (package uidmap).
    NoUidmap = "no-uidmap",
    /// An ordinary user may make no user namespaces.
    NoUserNamespaces = "no-user-namespaces",
    /// The kernel has no Landlock.
    NoLandlock = "no-landlock",
    /// The kernel filters no system calls.
    NoSeccomp = "no-seccomp",
    /// No cgroups may be made.
    NoCgroups = "no-cgroups",
    /// The kernel's ext4 lets nobody make an error.
    NoDiskErrors = "no-disk-errors",
    /// The processor's time stamp counter tells nothing.
    NoTsc = "no-tsc",
    /// libfaketime is not installed.
    NoFaketime = "no-faketime",
    /// No systemd that checks units is installed.
    NoSystemd = "no-systemd",
    /// No database of known vulnerabilities is at hand.
    NoAdvisoryDb = "no-advisory-db",
    /// No programs look through EROFS file systems.
    NoErofsUtils = "no-erofs-utils",
    /// skopeo is not installed.
    NoSkopeo = "no-skopeo",
    /// umoci is not installed.
    NoUmoci = "no-umoci",
    /// docker-registry is not installed.
    NoDockerRegistry = "no-docker-registry",
    /// GNU tar is not installed.
    NoGnuTar = "no-gnu-tar",
    /// Python is not installed.
    NoPython = "no-python",
}

impl Reason {
    /// The one of this name.
    pub fn named(name: &str) -> Option<Self> {
        Self::ALL.iter().copied().find(|reason| reason.name() == name)
    }
}

/// What the environment says: which skips are allowed, and where they are noted.
#[derive(Debug)]
pub struct Skips {
    allowed: Option<String>,
    ci: bool,
    list: PathBuf,
}

impl Skips {
    /// As this process's environment says.
    pub fn from_env() -> Self {
        let ci = std::env::var_os("CI").is_some_and(|ci| !ci.is_empty() && ci != "false");
        let list = std::env::var_os(LIST).map_or_else(default_list, PathBuf::from);
        Self { allowed: std::env::var(ALLOWED).ok(), ci, list }
    }

    /// The file that skips are noted in.
    pub fn list(&self) -> &Path {
        &self.list
    }

    /// Whether a test may be skipped for a reason.
    ///
    /// # Panics
    /// On a name in [`ALLOWED`] that no reason has: it would allow nothing.
    pub fn allows(&self, reason: Reason) -> bool {
        let Some(names) = &self.allowed else { return !self.ci };
        let names = names.split(',').map(str::trim).filter(|name| !name.is_empty());
        let named = |name| Reason::named(name).unwrap_or_else(|| panic!("{ALLOWED}: {name:?} is no reason"));
        // All are looked at, so that a wrong name shows at the first skip.
        names.map(named).collect::<Vec<_>>().contains(&reason)
    }

    /// Notes that `who` does not run, or not in full. Whether that is allowed.
    ///
    /// # Errors
    /// When the list cannot be written: then the skip does not count as allowed.
    ///
    /// # Panics
    /// As [`Self::allows`].
    pub fn note(&self, who: &str, reason: Reason, detail: &dyn Display) -> io::Result<bool> {
        let allowed = self.allows(reason);
        let detail = detail.to_string().replace('\n', " ");
        let refused = if allowed { "" } else { REFUSED };
        let line = format!("{who}: {}: {detail}{refused}\n", reason.name());
        eprint!("skipped: {line}");
        if let Some(parent) = self.list.parent() {
            fs::create_dir_all(parent)?;
        }
        // Tests run at the same time: each line is one write at the end.
        File::options().append(true).create(true).open(&self.list)?.write_all(line.as_bytes())?;
        Ok(allowed)
    }

    /// Empties the list.
    ///
    /// # Errors
    /// When it cannot be removed.
    pub fn clear(&self) -> io::Result<()> {
        match fs::remove_file(&self.list) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
            _ => Ok(()),
        }
    }

    /// The list as text for people, a test that was tried again once; and whether all was allowed.
    ///
    /// # Errors
    /// When it cannot be read.
    pub fn report(&self) -> io::Result<(String, bool)> {
        let text = match fs::read_to_string(&self.list) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => String::new(),
            text => text?,
        };
        let mut lines: Vec<_> = text.lines().collect();
        lines.sort_unstable();
        lines.dedup();
        if lines.is_empty() {
            return Ok(("skipped: none\n".to_owned(), true));
        }
        let listed: String = lines.iter().map(|line| format!("  {line}\n")).collect();
        Ok((format!("skipped: {}\n{listed}", lines.len()), !lines.iter().any(|line| line.ends_with(REFUSED))))
    }
}

/// In the target directory that cargo makes by default.
fn default_list() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../target/skips.txt")
}

/// The running test: its program, and its thread, which the test runner names after it.
fn this_test() -> String {
    let program = std::env::current_exe().unwrap_or_default();
    let program = program.file_stem().unwrap_or_default().to_string_lossy();
    // Without the hash that cargo ends it with.
    let program = program.rsplit_once('-').map_or(&*program, |(program, _)| program);
    let thread = std::thread::current();
    // One test at a time runs in the main thread.
    let given = std::env::var("NEXTEST_TEST_NAME").ok();
    let name = thread.name().filter(|name| *name != "main").map(str::to_owned).or(given);
    format!("{program} {}", name.as_deref().unwrap_or("(one of its tests)"))
}

/// Notes that the running test ends here, or leaves a part out, for a reason; the caller returns.
///
/// # Panics
/// When that is not allowed, so that the test fails, and when it cannot be noted.
pub fn skip(reason: Reason, detail: impl Display) {
    let skips = Skips::from_env();
    let allowed = skips.note(&this_test(), reason, &detail);
    let allowed = allowed.unwrap_or_else(|error| panic!("noting a skip in {}: {error}", skips.list.display()));
    assert!(allowed, "not run for {}: {detail}; {ALLOWED} does not allow that", reason.name());
}

/// Whether the running test has these programs; if not it ends here, or leaves a part out, for the reason of the first
/// one that is missing.
///
/// # Panics
/// As [`skip`].
pub fn has_programs(programs: &[(&str, Reason)]) -> bool {
    let is_missing = |program: &str| {
        let mut command = Command::new(program);
        command.arg("--version").stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
        command.status().is_err()
    };
    let missing = programs.iter().find(|(program, _)| is_missing(program));
    if let Some((program, reason)) = missing {
        skip(*reason, format_args!("the package {program}"));
    }
    missing.is_none()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn skips(allowed: Option<&str>, ci: bool) -> Skips {
        Skips { allowed: allowed.map(str::to_owned), ci, list: PathBuf::from("/nowhere/list") }
    }

    #[test]
    fn what_is_named_is_allowed_and_without_names_all_outside_of_ci() {
        for (allowed, ci, expected) in [
            (None, false, [true, true]),
            (None, true, [false, false]),
            (Some(""), false, [false, false]),
            (Some("no-kvm"), false, [true, false]),
            (Some(" no-mke2fs , no-kvm,"), true, [true, false]),
            (Some("no-mke2fs"), true, [false, false]),
        ] {
            let skips = skips(allowed, ci);
            assert_eq!([Reason::NoKvm, Reason::NotRoot].map(|reason| skips.allows(reason)), expected, "{skips:?}");
        }
    }

    #[test]
    #[should_panic(expected = "\"no-kwm\" is no reason")]
    fn a_name_that_is_none_is_told() {
        skips(Some("no-kvm,no-kwm"), true).allows(Reason::NoKvm);
    }

    #[test]
    fn what_cannot_be_noted_is_not_allowed() {
        let file = tempfile::NamedTempFile::new().unwrap();
        let skips = Skips { allowed: None, ci: false, list: file.path().join("list") };
        assert!(skips.note("test", Reason::NoKvm, &"detail").is_err());
    }
}
