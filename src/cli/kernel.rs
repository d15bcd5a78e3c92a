//! `sandpen kernel`.

use std::path::PathBuf;

use clap::Subcommand;
use sandpen::kernel::{self, InstalledKernel, KernelSource};
use sandpen_types::error_chain::error_chain;

use super::{CliError, Global, print};

const FETCHING: &str = "fetching Debian's cloud kernel from the package archive, up to a minute …";

/// Install the kernel that guests run
#[derive(Debug, clap::Args)]
pub struct Args {
    #[command(subcommand)]
    action: Action,
}

#[derive(Debug, Subcommand)]
enum Action {
    Install(Install),
}

/// Install a guest kernel for this user
///
/// Without options, Debian's current cloud kernel is downloaded and unpacked, from the package
/// archive that this host is set up for; nothing is installed in the system and no root is needed.
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  sandpen kernel install
  sandpen kernel install --krunfw
  sandpen kernel install --kernel /boot/vmlinuz-$(uname -r) --modules /lib/modules/$(uname -r)")]
struct Install {
    /// Do nothing when an undamaged one is installed already; one of Debian's that an older sandpen installed without all
    /// modules is replaced, and stays where that fails
    #[arg(long, conflicts_with = "kernel")]
    if_missing: bool,
    /// A kernel of your own: a bzImage or an uncompressed vmlinux
    #[arg(long, value_name = "FILE", requires = "modules")]
    kernel: Option<PathBuf>,
    /// Its modules: a /lib/modules/VERSION directory
    #[arg(long, value_name = "DIR", requires = "kernel")]
    modules: Option<PathBuf>,
    /// The kernel of the krun driver instead: libkrunfw.so.5, from the PyPI package microsandbox if no
    /// file is given
    #[arg(long, value_name = "FILE", num_args = 0..=1, require_equals = true, conflicts_with = "kernel")]
    #[expect(clippy::option_option, reason = "an option whose value is optional")]
    krunfw: Option<Option<PathBuf>>,
}

pub fn execute(global: &Global, args: &Args) -> Result<u8, CliError> {
    let Action::Install(install) = &args.action;
    if let Some(file) = &install.krunfw {
        let kept = install.if_missing && file.is_none();
        if kept && let Some(path) = kernel::krunfw::installed(&global.data_dir()) {
            return print::krunfw(&path);
        }
        if file.is_none() {
            print::note("fetching libkrunfw, the kernel of libkrun, from PyPI, up to a minute …");
        }
        let path = kernel::krunfw::install(&global.data_dir(), file.as_deref())?;
        return print::krunfw(&path);
    }
    if install.if_missing
        && let Ok(installed) = kernel::find(&global.data_dir())
    {
        return print_kernel(&completed(global, installed));
    }
    let source = if let (Some(kernel), Some(modules)) = (&install.kernel, &install.modules) {
        KernelSource::Files { kernel: kernel.clone(), modules: modules.clone() }
    } else {
        print::note(FETCHING);
        KernelSource::Debian
    };
    print_kernel(&kernel::install(&global.data_dir(), &source)?)
}

/// The one that is installed, or in its place a newer install of Debian's: with all modules that guests use now. What a user
/// has installed from files is nobody else's to replace.
fn completed(global: &Global, installed: InstalledKernel) -> InstalledKernel {
    let lacks = installed.not_looked_for().join(", ");
    if lacks.is_empty() || !installed.is_fetched() {
        return installed;
    }
    print::note(FETCHING);
    match kernel::install(&global.data_dir(), &KernelSource::Debian) {
        Ok(newer) => newer,
        Err(error) => {
            let version = installed.version();
            print::note(&format!("kernel {version} stays, without {lacks}: {}", error_chain(&error)));
            installed
        }
    }
}

fn print_kernel(kernel: &InstalledKernel) -> Result<u8, CliError> {
    print::kernel(kernel.version(), kernel.directory())
}
