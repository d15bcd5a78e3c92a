//! `sandpen file`.

mod values;

use std::ffi::OsString;
use std::os::unix::ffi::OsStrExt as _;

use clap::Subcommand;
use sandpen::api::file::FileChange;
use sandpen::client::{ClientError, SandboxFiles};
use sandpen_types::spec::{ByteString, WorkloadUser};

use super::args::NameArg;
use super::{CliError, FAILED, Global, print, stdin};
use values::{Owner, mode};

/// Read, write, list, change, remove and watch the files of a sandbox
///
/// Without any program of the sandbox's root: its own PID 1 does it, as root or as the user that -u names, and follows
/// symbolic links as any process of the sandbox would. Paths are absolute in the sandbox. A sandbox that has ended will do,
/// but for watch: a microVM with its root and disk is started for that, which takes as long as its start. The exit code is 1
/// where anything failed.
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  sandpen file ls web /srv
  sandpen file read web /etc/hosts
  tar c . | sandpen file write web /srv/site.tar     whole or not at all
  sandpen file mkdir -p web /srv/a/b
  sandpen file chown web 33:33 /srv/a
  sandpen file watch -r web /srv                     what happens there, until ctrl-c")]
pub struct Args {
    #[command(subcommand)]
    action: Action,
}

#[derive(Debug, Subcommand)]
enum Action {
    #[command(visible_alias = "list")]
    Ls(Ls),
    Stat(Stat),
    Read(Read),
    Write(Write),
    Append(Append),
    Mkdir(Mkdir),
    Rm(Rm),
    Mv(Mv),
    Chmod(Chmod),
    Chown(Chown),
    Watch(Watch),
}

/// Whose files.
#[derive(Debug, clap::Args)]
struct Of {
    /// User, and perhaps group, whose rights count, names or numbers of the sandbox's /etc/passwd and /etc/group [default:
    /// root]
    #[arg(short, long, value_name = "USER[:GROUP]")]
    user: Option<WorkloadUser>,
    #[command(flatten)]
    name: NameArg,
}

impl Of {
    async fn files(&self, global: &Global) -> Result<SandboxFiles, CliError> {
        let key = self.name.key()?;
        Ok(global.connect().await?.files(&key, self.user.clone()))
    }
}

/// List a directory
#[derive(Debug, clap::Args)]
struct Ls {
    /// Print JSON
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    of: Of,
    /// The directory
    path: OsString,
}

/// Show what files are like
#[derive(Debug, clap::Args)]
struct Stat {
    /// Show what symbolic links lead to
    #[arg(short = 'L', long)]
    follow: bool,
    /// Print JSON
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    of: Of,
    /// The files
    #[arg(required = true, value_name = "PATH")]
    paths: Vec<OsString>,
}

/// Write a file, or a part of it, to standard output
#[derive(Debug, clap::Args)]
struct Read {
    /// Begin with this byte, counted from 0; the file has to have it
    #[arg(short, long, value_name = "BYTES", default_value_t = 0)]
    offset: u64,
    /// At most so many bytes
    #[arg(short, long, value_name = "BYTES")]
    length: Option<u64>,
    #[command(flatten)]
    of: Of,
    /// The file
    path: OsString,
}

/// Make a file of standard input, or put that in the place of a file
///
/// The file is there whole or not at all: until all is written and on its disk, the one before is as it was. That one's owner,
/// group and mode are kept.
#[derive(Debug, clap::Args)]
struct Write {
    /// Its permission bits, in octal digits; those of the one before otherwise, or 644
    #[arg(short, long, value_name = "MODE", value_parser = mode)]
    mode: Option<u32>,
    #[command(flatten)]
    of: Of,
    /// The file
    path: OsString,
}

/// Write standard input at the end of a file, which is made where it is not there
#[derive(Debug, clap::Args)]
struct Append {
    /// Permission bits of one that is made, in octal digits [default: 644]
    #[arg(short, long, value_name = "MODE", value_parser = mode)]
    mode: Option<u32>,
    #[command(flatten)]
    of: Of,
    /// The file
    path: OsString,
}

/// Make directories
#[derive(Debug, clap::Args)]
struct Mkdir {
    /// Make those above them as well, and be content with those that are there
    #[arg(short, long)]
    parents: bool,
    /// Their permission bits, in octal digits [default: 755]
    #[arg(short, long, value_name = "MODE", value_parser = mode)]
    mode: Option<u32>,
    #[command(flatten)]
    of: Of,
    /// The directories
    #[arg(required = true, value_name = "PATH")]
    paths: Vec<OsString>,
}

/// Remove files
#[derive(Debug, clap::Args)]
struct Rm {
    /// Directories as well, with all that is in them
    #[arg(short, long)]
    recursive: bool,
    #[command(flatten)]
    of: Of,
    /// The files
    #[arg(required = true, value_name = "PATH")]
    paths: Vec<OsString>,
}

/// Rename a file or directory, within its file system
#[derive(Debug, clap::Args)]
struct Mv {
    /// Refuse where there is something of the new name already
    #[arg(short, long)]
    no_replace: bool,
    #[command(flatten)]
    of: Of,
    /// Its path
    from: OsString,
    /// Its new one
    to: OsString,
}

/// Change the permission bits of files
#[derive(Debug, clap::Args)]
struct Chmod {
    #[command(flatten)]
    of: Of,
    /// The bits, in octal digits
    #[arg(value_parser = mode)]
    mode: u32,
    /// The files
    #[arg(required = true, value_name = "PATH")]
    paths: Vec<OsString>,
}

/// Change owner and group of files
#[derive(Debug, clap::Args)]
struct Chown {
    #[command(flatten)]
    of: Of,
    /// Numbers: of the owner, of both, or of the group alone behind a colon
    #[arg(value_name = "UID[:GID]")]
    owner: Owner,
    /// The files
    #[arg(required = true, value_name = "PATH")]
    paths: Vec<OsString>,
}

/// Tell what happens to a file or in a directory, until it is gone
///
/// What the host does in a directory that it shares with the sandbox is not seen. Of more than is read in time some is
/// dropped, which is said.
#[derive(Debug, clap::Args)]
struct Watch {
    /// In all directories below as well
    #[arg(short, long)]
    recursive: bool,
    /// Print one JSON object a line
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    of: Of,
    /// The file or directory
    path: OsString,
}

pub async fn execute(global: &Global, args: &Args) -> Result<u8, CliError> {
    match &args.action {
        Action::Ls(Ls { json, of, path }) => {
            let entries = of.files(global).await?.list(path.as_bytes()).await?;
            if *json { print::json(&entries) } else { print::files(&entries) }
        }
        Action::Stat(args) => stat(global, args).await,
        Action::Read(args) => read(global, args).await,
        Action::Write(Write { mode, of, path }) => {
            of.files(global).await?.write(path.as_bytes(), *mode, stdin::open()).await?;
            Ok(0)
        }
        Action::Append(Append { mode, of, path }) => {
            of.files(global).await?.append(path.as_bytes(), *mode, stdin::open()).await?;
            Ok(0)
        }
        Action::Mkdir(Mkdir { parents, mode, of, paths }) => {
            let files = of.files(global).await?;
            each(global, paths, async |path| files.make_directory(path, *mode, *parents).await).await
        }
        Action::Rm(Rm { recursive, of, paths }) => {
            let files = of.files(global).await?;
            each(global, paths, async |path| files.remove(path, *recursive).await).await
        }
        Action::Mv(Mv { no_replace, of, from, to }) => {
            of.files(global).await?.rename(ByteString::from(from), ByteString::from(to), !no_replace).await?;
            Ok(0)
        }
        Action::Chmod(Chmod { of, mode, paths }) => {
            let (files, change) = (of.files(global).await?, FileChange { mode: Some(*mode), ..FileChange::default() });
            each(global, paths, async |path| files.change(path, &change).await).await
        }
        Action::Chown(Chown { of, owner: Owner { uid, gid }, paths }) => {
            let change = FileChange { uid: *uid, gid: *gid, ..FileChange::default() };
            let files = of.files(global).await?;
            each(global, paths, async |path| files.change(path, &change).await).await
        }
        Action::Watch(args) => watch(global, args).await,
    }
}

/// Does it to each, and says of all that fail why.
async fn each(
    global: &Global,
    paths: &[OsString],
    work: impl AsyncFn(&[u8]) -> Result<(), ClientError>,
) -> Result<u8, CliError> {
    let mut code = 0;
    for path in paths {
        if let Err(error) = work(path.as_bytes()).await {
            print::error(&error.into(), global.debug);
            code = FAILED;
        }
    }
    Ok(code)
}

async fn stat(global: &Global, Stat { follow, json, of, paths }: &Stat) -> Result<u8, CliError> {
    let files = of.files(global).await?;
    let (mut found, mut failed) = (Vec::new(), 0);
    for path in paths {
        match files.stat(path.as_bytes(), *follow).await {
            Ok(entry) => found.push(entry),
            Err(error) => {
                print::error(&error.into(), global.debug);
                failed = FAILED;
            }
        }
    }
    let code = if *json { print::json(&found)? } else { print::files(&found)? };
    Ok(code.max(failed))
}

async fn read(global: &Global, Read { offset, length, of, path }: &Read) -> Result<u8, CliError> {
    let mut content = of.files(global).await?.read(path.as_bytes(), *offset, *length).await?;
    while let Some(bytes) = content.next().await? {
        if !print::bytes_wanted(&bytes)? {
            break;
        }
    }
    Ok(0)
}

async fn watch(global: &Global, Watch { recursive, json, of, path }: &Watch) -> Result<u8, CliError> {
    let mut events = of.files(global).await?.watch(path.as_bytes(), *recursive).await?;
    while let Some(event) = events.next().await? {
        if !print::file_event(&event, *json)? {
            return Ok(0);
        }
    }
    Err(CliError::WatchCut)
}
