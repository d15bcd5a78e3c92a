//! `sandpen events`.

use sandpen::client::{Client, EventsRequest};

use super::args::ConfigArg;
use super::{CliError, Global, print};

/// Show what happened
///
/// Every change of every sandbox with its reason, and what happened to sandpen itself, in one order:
/// a number, the time (UTC), the sandbox, what, and why. Events stay when their sandbox is removed; the
/// last 1000 of each sandbox and 100000 of all are kept, and 10000 of sandpen itself. Where numbers are
/// missing, events are no longer kept; with --from that is said.
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  sandpen events                      everything that is kept
  sandpen events -f web               what happens to one sandbox, as it happens
  sandpen events -f --from 118        go on after number 117, nothing missing
  sandpen events --json | jq .        one JSON object per line")]
pub struct Args {
    /// Wait for more; goes on with the next daemon if this one ends
    #[arg(short, long)]
    follow: bool,
    /// Begin with this number [default: the oldest that is kept]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u64).range(1..))]
    from: Option<u64>,
    /// Print JSON, one object per line
    #[arg(long)]
    json: bool,
    /// Only this sandbox: NAME or CONFIG/NAME
    name: Option<String>,
    #[command(flatten)]
    config: ConfigArg,
}

pub async fn execute(global: &Global, args: &Args) -> Result<u8, CliError> {
    let sandbox = args.name.as_deref().map(|name| args.config.key(name)).transpose()?;
    let request = EventsRequest { from: args.from, follow: args.follow, sandbox };
    let options = global.client_options()?;
    let mut events = Client::connect(&options).await?.events(&options, request).await?;
    // Those of one sandbox are scattered anyway; the daemon knows of them.
    let mut expected = args.from.filter(|_| args.name.is_none());
    while let Some(event) = events.next().await? {
        if let Some(expected) = &mut expected {
            if event.seq > *expected {
                print::note(&format!("events {expected} to {} are no longer kept", event.seq - 1));
            }
            *expected = event.seq + 1;
        }
        if !print::event(&event, args.json)? {
            break;
        }
    }
    Ok(0)
}
