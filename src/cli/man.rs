//! `sandpen man`.

use std::fs::{self, Permissions};
use std::io::{self, Write as _};
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};

use clap::{Command, CommandFactory as _};
use clap_mangen::Man;

use super::{Cli, CliError, print};

/// Write the manual pages into a directory
///
/// One for each command, in troff: sandpen.1, sandpen-run.1 and so on. The directory is made where it is missing. What is
/// in them is what --help shows, whatever a config file says.
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  sandpen man ~/.local/share/man/man1 && man sandpen-run
  sandpen man \"$DESTDIR/usr/share/man/man1\"")]
pub struct Args {
    /// The directory
    #[arg(value_name = "DIR")]
    directory: PathBuf,
}

pub fn execute(args: &Args) -> Result<u8, CliError> {
    let failed = |path: &Path| {
        let path = path.to_owned();
        move |source| CliError::ManualPage { path, source }
    };
    fs::create_dir_all(&args.directory).map_err(failed(&args.directory))?;
    for (name, page) in pages().map_err(CliError::Output)? {
        let path = args.directory.join(name);
        write(&args.directory, &path, &page).map_err(failed(&path))?;
        print::bytes(format!("{}\n", path.display()).as_bytes())?;
    }
    Ok(0)
}

/// Every page with the name of its file.
fn pages() -> io::Result<Vec<(String, Vec<u8>)>> {
    // Its name in the pages is that of one package, which has one version.
    let mut command = Cli::command().disable_help_subcommand(true).term_width(100);
    command.build();
    let version = command.get_version().unwrap_or_default().to_owned();
    let mut pages = Vec::new();
    collect(&command, &version, &mut pages)?;
    Ok(pages)
}

fn collect(command: &Command, version: &str, pages: &mut Vec<(String, Vec<u8>)>) -> io::Result<()> {
    let mut page = Vec::new();
    let man = Man::new(command.clone()).source(format!("sandpen {version}")).manual("sandpen");
    man.render(&mut page)?;
    pages.push((man.get_filename(), page));
    for inner in command.get_subcommands().filter(|inner| !inner.is_hide_set()) {
        collect(inner, version, pages)?;
    }
    Ok(())
}

/// A page, whole or not at all, that everybody can read.
fn write(directory: &Path, path: &Path, page: &[u8]) -> io::Result<()> {
    let mut draft = tempfile::NamedTempFile::new_in(directory)?;
    draft.write_all(page)?;
    draft.as_file().set_permissions(Permissions::from_mode(0o644))?;
    draft.persist(path)?;
    Ok(())
}
