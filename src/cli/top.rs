//! `sandpen top`.

use std::time::Duration;

use sandpen::client::{Client, SessionClient, SessionStep};
use sandpen_types::output_stream::OutputStream;
use sandpen_types::process_entry::ProcessEntry;
use sandpen_types::session::{SessionEnd, SessionOffsets, SessionProgram, SessionSpec};
use sandpen_types::state::ExitStatus;

use super::args::NameArg;
use super::{CliError, Global, print};

/// How long the guest may take for its list.
const LIMIT: Duration = Duration::from_secs(20);
/// Most bytes of a list: some thousand processes with long command lines.
const LIST_MAX_BYTES: usize = 32 << 20;

/// List the processes of a running sandbox
///
/// Once, as ps(1) does, and as the sandbox's own kernel has them, whatever its root has as programs; `sandpen stats` follows whole
/// sandboxes. CPU is the processor's time that each has used, MEM what of its memory is there, AGE how long ago it began, STAT
/// its state: R runs, S sleeps, D waits for a device, I is idle (of the kernel), T is stopped, Z has ended and nobody has asked
/// how.
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  sandpen top web
  sandpen top --json web")]
pub struct Args {
    /// Print JSON
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    name: NameArg,
}

pub async fn execute(global: &Global, args: &Args) -> Result<u8, CliError> {
    let key = args.name.key()?;
    let options = global.client_options()?;
    let client = Client::connect(&options).await?;
    let spec = SessionSpec { timeout: Some(LIMIT), ..SessionSpec::new(SessionProgram::Processes) };
    let mut session = client.exec(&options, &key, spec).await?;
    let list = read(&mut session).await?;
    let lines = list.split(|byte| *byte == b'\n').filter(|line| !line.is_empty());
    let processes: Result<Vec<ProcessEntry>, _> = lines.map(serde_json::from_slice).collect();
    let processes = processes.map_err(CliError::Processes)?;
    if args.json { print::json(&processes) } else { print::processes(&processes) }
}

async fn read(session: &mut SessionClient) -> Result<Vec<u8>, CliError> {
    let (mut list, mut had) = (Vec::new(), SessionOffsets::default());
    loop {
        match session.next().await? {
            SessionStep::Output(bytes) => {
                if bytes.stream == OutputStream::Stdout {
                    list.extend_from_slice(&bytes.bytes);
                }
                if list.len() > LIST_MAX_BYTES {
                    return Err(CliError::ProcessesLong { most: LIST_MAX_BYTES });
                }
                bytes.pass(&mut had);
                session.taken(had);
            }
            SessionStep::Ended(end) => {
                session.forget().await?;
                return match end {
                    SessionEnd::Exited(ExitStatus::Code(0)) => Ok(list),
                    end => Err(CliError::ProcessesEnd(end)),
                };
            }
            SessionStep::Input | SessionStep::StreamEnded(_) | SessionStep::DaemonEnds | SessionStep::Reconnected => {}
        }
    }
}
