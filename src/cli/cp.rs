//! `sandpen cp`.
//!
//! ```text
//!   host ─▶ sandbox:  pack, or standard input ─▶ channel ─▶ session ─▶ the guest's own unpacking
//!   sandbox ─▶ host:  the guest's own packing ─▶ session ─▶ channel ─▶ unpack, or standard output
//!                                                            └ a thread at this end: files block
//! ```

mod endpoint;
mod ends;
mod error;
mod transfer;

use std::ffi::OsString;
use std::io::{self, IsTerminal as _};
use std::path::Path;

use sandpen::client::{Client, SessionClient};
use sandpen_tree::{Report, StreamError, UnpackError};
use sandpen_types::guest_tool::GuestTool;
use sandpen_types::session::{SessionProgram, SessionSpec};
use sandpen_types::spec::{ByteString, SandboxKey};

use super::args::ConfigArg;
use super::print::CopyBar;
use super::{CliError, Global, print};
use endpoint::Endpoint;
use ends::{HostEnd, HostError};
pub use error::{CopyCause, CopyError};
use transfer::{Outcome, transfer};

/// Copy files into a sandbox, out of it, or as a tar
///
/// By the rules of `docker cp`: a directory that is there gets SRC by its name, anything else is the new name; SRC/. is what
/// the directory SRC holds. With - for SRC a tar from standard input is unpacked into the directory DST; with - for DST a tar
/// of SRC is written to standard output. The sandbox needs no tar of its own, and may have ended.
///
/// What arrives in the sandbox belongs to root, on the host to whoever calls. Kept are permissions, times, symbolic and hard
/// links, extended attributes (user.*) and holes. A file has its name when all of it is there: an interrupted copy leaves
/// none by halves.
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  sandpen cp ./app web:/srv                 a file or directory, into /srv or as /srv
  sandpen cp web:/var/log/app.log .         and back
  sandpen cp ./site/. web:/srv/www          what a directory holds
  sandpen cp - web:/srv < site.tar          a tar, unpacked
  sandpen cp web:/etc - | tar t             a tar of it
  sandpen cp ./a:b web:/tmp                 a local name with a colon")]
pub struct Args {
    /// Keep owners and all extended attributes; on this host as far as the caller may, and with set-user-ID
    #[arg(short, long)]
    archive: bool,
    /// Follow SRC if it is a symbolic link
    #[arg(short = 'L', long)]
    follow_link: bool,
    /// Do not show how far it is
    #[arg(short, long)]
    quiet: bool,
    #[command(flatten)]
    config: ConfigArg,
    /// What to copy: a path of this host, NAME:PATH or CONFIG/NAME:PATH, or - for a tar from standard input
    #[arg(value_name = "SRC")]
    source: OsString,
    /// Where to: likewise, or - for a tar to standard output
    #[arg(value_name = "DST")]
    destination: OsString,
}

/// One copy.
struct Copy<'a> {
    global: &'a Global,
    args: &'a Args,
    key: SandboxKey,
}

pub async fn execute(global: &Global, args: &Args) -> Result<u8, CliError> {
    let (source, destination) = (Endpoint::parse(&args.source)?, Endpoint::parse(&args.destination)?);
    let copy = |name: &str| Ok::<_, CliError>(Copy { global, args, key: args.config.key(name)? });
    let report = match (source, destination) {
        (Endpoint::Sandbox { .. }, Endpoint::Sandbox { .. }) => return Err(CopyError::TwoSandboxes.into()),
        (Endpoint::Sandbox { name, path }, to) => copy(&name)?.outwards(path, &to).await,
        (from, Endpoint::Sandbox { name, path }) => copy(&name)?.inwards(&from, path).await,
        _ => return Err(CopyError::NoSandbox.into()),
    };
    let notes = report.map_err(|cause| failed(args, cause))?;
    for note in notes {
        print::note(&note);
    }
    Ok(0)
}

/// A failure with both ends, unless it is no more than what a daemon says.
fn failed(args: &Args, cause: CopyCause) -> CliError {
    match cause {
        CopyCause::Own(error) => *error,
        cause => {
            let shown = |end: &OsString| end.to_string_lossy().into_owned();
            CopyError::Failed { from: shown(&args.source), to: shown(&args.destination), cause }.into()
        }
    }
}

impl Copy<'_> {
    /// The session that does the sandbox's part. Here alone it is decided how a sandbox is reached.
    async fn open(&self, tool: GuestTool, stdin: bool) -> Result<SessionClient, CliError> {
        let spec = SessionSpec { stdin, ..SessionSpec::new(SessionProgram::Tool(tool)) };
        spec.check()?;
        let options = self.global.client_options()?;
        let client = Client::connect(&options).await?;
        Ok(client.exec(&options, &self.key, spec).await?)
    }

    async fn inwards(&self, from: &Endpoint, path: ByteString) -> Result<Vec<String>, CopyCause> {
        let archive = self.args.archive;
        let tool = GuestTool::Unpack { path, directory: matches!(from, Endpoint::Stream), archive };
        let (mut host, total) = match from {
            Endpoint::Local(path) => {
                let total = std::fs::metadata(path).ok().filter(std::fs::Metadata::is_file).map(|meta| meta.len());
                (ends::pack(path, self.args.follow_link, archive)?, total)
            }
            _ if io::stdin().is_terminal() => return Err(CliError::ArchiveFromTerminal.into()),
            _ => (ends::stdin()?, None),
        };
        // What is not there is said before anybody is asked.
        if let Some(error) = host.is_lost().await {
            return Err(error.into());
        }
        let bar = self.bar(total);
        let mut session = self.open(tool, true).await?;
        let outcome = transfer(&mut session, host, &bar).await?;
        drop(bar);
        settle(outcome)
    }

    async fn outwards(&self, path: ByteString, to: &Endpoint) -> Result<Vec<String>, CopyCause> {
        let (follow, archive) = (self.args.follow_link, self.args.archive);
        let host: HostEnd = match to {
            Endpoint::Local(to) => ends::unpack(to, sandpen_tree::top(Path::new(path.as_os_str())), archive)?,
            _ if io::stdout().is_terminal() => return Err(CliError::ArchiveOnTerminal.into()),
            _ => ends::stdout()?,
        };
        let bar = self.bar(None);
        let mut session = self.open(GuestTool::Pack { path, follow, archive }, false).await?;
        let outcome = transfer(&mut session, host, &bar).await?;
        drop(bar);
        settle(outcome)
    }

    fn bar(&self, total: Option<u64>) -> CopyBar {
        if self.args.quiet { CopyBar::hidden() } else { CopyBar::new(total) }
    }
}

/// What both ends say, as one: notes, or why it failed.
fn settle(outcome: Outcome) -> Result<Vec<String>, CopyCause> {
    let Outcome { end, said, host, is_interrupted } = outcome;
    if is_interrupted {
        return Err(CopyCause::Interrupted);
    }
    let lines = |text: &str| text.lines().map(str::to_owned).collect::<Vec<_>>();
    let has_failed = end.shell_code() != Some(0);
    // The other end's failure is no more than that the stream broke.
    let is_cause = |error: &HostError| match error {
        HostError::Pack(error) => matches!(error, sandpen_tree::PackError::Source { .. }),
        HostError::Unpack(error) => {
            !matches!(error, UnpackError::NoEntries | UnpackError::Stream(StreamError::Broken { .. }))
        }
        HostError::Stdin(_) | HostError::Stdout(_) => true,
        HostError::Lost => false,
    };
    match host {
        Err(error) if is_cause(&error) || !has_failed => Err(error.into()),
        host if has_failed && said.is_empty() => Err(match host {
            Err(error) if end.shell_code().is_some() => error.into(),
            _ => CopyCause::Ended(end),
        }),
        Err(_) => Err(CopyCause::Said(said)),
        Ok(Report { problems, notes, .. }) => {
            let problems = problems.to_string();
            match (has_failed, problems.is_empty()) {
                (true, true) => Err(CopyCause::Said(said)),
                (true, false) => Err(CopyCause::Said(format!("{problems}\n{said}"))),
                (false, false) => Err(CopyCause::Said(problems)),
                (false, true) => Ok([lines(&notes.to_string()), lines(&said)].concat()),
            }
        }
    }
}
