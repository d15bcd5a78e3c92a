//! Gets Debian's cloud kernel with the host's own `apt-get` and `dpkg-deb`, without root and
//! without installing anything: apt checks the archive's signatures.
//!
//! First with the package lists that the system has; where there are none, or they speak of
//! versions that the archive no longer has, with private ones.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

/// The package that always depends on the newest cloud kernel: small, few drivers, virtio.
const META_PACKAGE: &str = "linux-image-cloud-amd64";

/// Why the package could not be had.
#[derive(Debug, thiserror::Error)]
pub enum DebianError {
    /// A tool is missing.
    #[error("{tool} was not found; install the package {package} (Debian and its derivatives)")]
    ToolMissing {
        /// The program.
        tool: &'static str,
        /// The package it is in.
        package: &'static str,
    },
    /// A tool could not be run.
    #[error("cannot run {tool}")]
    Run {
        /// The program.
        tool: &'static str,
        /// The cause.
        #[source]
        source: std::io::Error,
    },
    /// A tool failed.
    #[error("{command} failed: {message}")]
    Failed {
        /// What was run.
        command: String,
        /// The end of what it said.
        message: String,
    },
    /// No archive that this host knows has the package.
    #[error("no package archive of this host has {META_PACKAGE}; it is in Debian's main archive")]
    NoPackage,
    /// The package is not made as expected.
    #[error("package {package} does not hold {what}")]
    Content {
        /// The package.
        package: String,
        /// What is missing.
        what: &'static str,
    },
    /// A private directory cannot be made.
    #[error("cannot prepare {path:?}")]
    Prepare {
        /// Which.
        path: PathBuf,
        /// The cause.
        #[source]
        source: std::io::Error,
    },
}

/// An unpacked kernel package.
#[derive(Debug)]
pub(super) struct Package {
    /// Name and version.
    pub(super) name: String,
    /// The bzImage.
    pub(super) kernel: PathBuf,
    /// Its `/lib/modules/VERSION`.
    pub(super) modules: PathBuf,
}

/// Downloads and unpacks the kernel below `work`, an empty directory.
pub(super) fn fetch(work: &Path) -> Result<Package, DebianError> {
    let download = work.join("download");
    make_dir(&download)?;
    let system = Apt { options: vec!["-oAPT::Sandbox::User=root".to_owned()], directory: &download };
    let name = match system.download() {
        Ok(name) => name,
        Err(error @ DebianError::ToolMissing { .. }) => return Err(error),
        Err(error) => {
            tracing::info!(%error, "the system's package lists do not do; fetching lists of our own");
            let private = Apt::private(work, &download)?;
            let updated = private.update();
            // A source that fails need not be the one with the kernel.
            private.download().map_err(|error| updated.err().unwrap_or(error))?
        }
    };
    let root = work.join("root");
    make_dir(&root)?;
    let package = only_file(&download, |file| Path::new(file).extension() == Some("deb".as_ref()))
        .ok_or_else(|| DebianError::Content { package: name.clone(), what: "a .deb file" })?;
    run("dpkg-deb", "dpkg", |command| command.arg("-x").arg(&package).arg(&root))?;
    let kernel = only_file(&root.join("boot"), |file| file.starts_with("vmlinuz-"));
    let modules = [root.join("lib/modules"), root.join("usr/lib/modules")]
        .iter()
        .find_map(|directory| only_file(directory, crate::kernel_file::is_version));
    match (kernel, modules) {
        (Some(kernel), Some(modules)) => Ok(Package { name, kernel, modules }),
        (None, _) => Err(DebianError::Content { package: name, what: "a kernel" }),
        (_, None) => Err(DebianError::Content { package: name, what: "modules" }),
    }
}

struct Apt<'a> {
    options: Vec<String>,
    directory: &'a Path,
}

impl<'a> Apt<'a> {
    /// With lists and caches below `work`, but the system's sources and keys.
    fn private(work: &Path, directory: &'a Path) -> Result<Self, DebianError> {
        let (state, cache, config) = (work.join("state"), work.join("cache"), work.join("apt.conf"));
        make_dir(&state.join("lists/partial"))?;
        make_dir(&cache.join("archives/partial"))?;
        // Hooks of the host's configuration are about the host's own lists.
        let text = "#clear APT::Update::Pre-Invoke;\n#clear APT::Update::Post-Invoke;\n\
                    #clear APT::Update::Post-Invoke-Success;\n";
        std::fs::write(&config, text).map_err(|source| DebianError::Prepare { path: config.clone(), source })?;
        let options = vec![
            format!("-c={}", config.display()),
            format!("-oDir::State={}", state.display()),
            format!("-oDir::State::lists={}/", state.join("lists").display()),
            format!("-oDir::Cache={}", cache.display()),
            format!("-oDir::Cache::archives={}/", cache.join("archives").display()),
            "-oAPT::Sandbox::User=root".to_owned(),
            "-oAcquire::Languages=none".to_owned(),
        ];
        Ok(Self { options, directory })
    }

    fn update(&self) -> Result<(), DebianError> {
        tracing::info!("fetching the package lists");
        self.run("apt-get", &["-q", "update"]).map(drop)
    }

    /// Resolves the meta package and downloads what it stands for; answers name and version.
    fn download(&self) -> Result<String, DebianError> {
        let record = self.run("apt-cache", &["--no-all-versions", "show", META_PACKAGE])?;
        let (package, version) = kernel_dependency(&record).ok_or(DebianError::NoPackage)?;
        tracing::info!(package, "downloading");
        let name = format!("{package}={version}");
        self.run("apt-get", &["-q", "download", &name])?;
        Ok(name)
    }

    fn run(&self, tool: &'static str, args: &[&str]) -> Result<String, DebianError> {
        run(tool, "apt", |command| {
            command.args(&self.options).args(["-oAcquire::Retries=2", "-oAcquire::http::Timeout=60"]);
            command.args(args).current_dir(self.directory)
        })
    }
}

fn run(
    tool: &'static str,
    package: &'static str,
    with: impl FnOnce(&mut Command) -> &mut Command,
) -> Result<String, DebianError> {
    let mut command = Command::new(tool);
    with(&mut command);
    command.stdin(Stdio::null()).env("LC_ALL", "C").env("DEBIAN_FRONTEND", "noninteractive");
    let output = command.output().map_err(|source| match source.kind() {
        std::io::ErrorKind::NotFound => DebianError::ToolMissing { tool, package },
        _ => DebianError::Run { tool, source },
    })?;
    if output.status.success() {
        return Ok(String::from_utf8_lossy(&output.stdout).into_owned());
    }
    let said = String::from_utf8_lossy(&output.stderr);
    let mut lines: Vec<_> = said.lines().filter(|line| !line.trim().is_empty()).rev().take(4).collect();
    lines.reverse();
    let message = if lines.is_empty() { output.status.to_string() } else { lines.join("; ") };
    let verb = command.get_args().filter_map(|arg| arg.to_str()).find(|arg| !arg.starts_with('-')).unwrap_or("");
    Err(DebianError::Failed { command: format!("{tool} {verb}").trim_end().to_owned(), message })
}

/// The versioned kernel package in the `Depends:` of the meta package's record:
/// `linux-image-6.1.0-56-cloud-amd64 (= 6.1.192-2)`.
fn kernel_dependency(record: &str) -> Option<(String, String)> {
    let depends = record.lines().find_map(|line| line.strip_prefix("Depends:"))?;
    let safe = |text: &str| {
        !text.is_empty()
            && text.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'.' | b'-' | b'+' | b'~' | b':'))
    };
    depends.split(',').find_map(|dependency| {
        let (package, version) = dependency.trim().split_once(" (= ")?;
        let version = version.strip_suffix(')')?;
        let wanted = package.starts_with("linux-image-") && safe(package) && safe(version);
        wanted.then(|| (package.to_owned(), version.to_owned()))
    })
}

fn make_dir(path: &Path) -> Result<(), DebianError> {
    std::fs::create_dir_all(path).map_err(|source| DebianError::Prepare { path: path.to_owned(), source })
}

/// The one entry of a directory whose name is `wanted`.
fn only_file(directory: &Path, wanted: impl Fn(&str) -> bool) -> Option<PathBuf> {
    let mut found = std::fs::read_dir(directory)
        .ok()?
        .filter_map(Result::ok)
        .filter(|entry| entry.file_name().to_str().is_some_and(&wanted));
    let first = found.next()?.path();
    found.next().is_none().then_some(first)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_dependency_is_read_and_hostile_ones_are_refused() {
        let record = "Package: linux-image-cloud-amd64\nVersion: 6.1.192-2\n\
                      Depends: linux-image-6.1.0-56-cloud-amd64 (= 6.1.192-2)\nSection: kernel\n";
        assert_eq!(kernel_dependency(record), Some(("linux-image-6.1.0-56-cloud-amd64".into(), "6.1.192-2".into())));
        for depends in [
            "",
            "libc6 (= 1)",
            "linux-image-x",
            "linux-image-x (>= 1)",
            "linux-image-$(id) (= 1)",
            "linux-image-a (= 1 -o x)",
        ] {
            assert_eq!(kernel_dependency(&format!("Depends: {depends}\n")), None, "{depends}");
        }
    }

    #[test]
    fn a_missing_tool_names_its_package() {
        let error = run("no-such-tool-anywhere", "apt", |command| command).unwrap_err();
        assert!(matches!(error, DebianError::ToolMissing { package: "apt", .. }));
    }

    #[test]
    fn a_failing_tool_says_its_last_lines() {
        let error = run("sh", "dash", |command| command.args(["-c", "echo first >&2; echo E: broken >&2; exit 3"]));
        assert!(matches!(error, Err(DebianError::Failed { message, .. }) if message == "first; E: broken"));
    }
}
