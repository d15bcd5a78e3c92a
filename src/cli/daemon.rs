//! `sandpen daemon`.

use std::time::Duration;

use sandpen::daemon::{self, DaemonOptions};

use super::{CliError, FAILED, Global, print};

/// Run the daemon in the foreground
///
/// The other commands start one in the background where none runs; run it yourself under a service
/// manager. Its messages go to stderr; SANDPEN_LOG=debug shows more. SIGTERM ends it and leaves the
/// sandboxes running for the next daemon.
#[derive(Debug, clap::Args)]
#[command(after_help = "\
systemd:
  [Service]
  ExecStart=/usr/bin/sandpen daemon
  Restart=always
  KillMode=process        (any other mode would end the microVMs with the daemon)")]
pub struct Args {
    /// Stop all sandboxes when a signal ends the daemon
    #[arg(long)]
    stop_sandboxes: bool,
    /// Grace in seconds for --stop-sandboxes
    #[arg(short, long, value_name = "SECONDS", default_value_t = 10, requires = "stop_sandboxes")]
    time: u32,
    /// Leave the session and tell readiness on stdout
    #[arg(long, hide = true)]
    background: bool,
}

pub fn execute(global: &Global, args: &Args) -> Result<u8, CliError> {
    print::start_tracing();
    let options = DaemonOptions {
        state_dir: global.state_dir(),
        data_dir: global.data_dir(),
        background: args.background,
        stop_sandboxes: args.stop_sandboxes.then(|| Duration::from_secs(args.time.into())),
        drivers: None,
    };
    match daemon::run(&options) {
        // Several clients started one at once; the parent was told, and the log stays readable.
        Err(error) if args.background && error.is_already_running() => Ok(FAILED),
        result => result.map(|()| 0).map_err(CliError::from),
    }
}
