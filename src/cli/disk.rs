//! `sandpen disk`.

use clap::Subcommand;
use sandpen_types::spec::DiskName;

use super::{CliError, Global, print};

/// List and remove the disks that --keep-disk made
#[derive(Debug, clap::Args)]
pub struct Args {
    #[command(subcommand)]
    action: Action,
}

#[derive(Debug, Subcommand)]
enum Action {
    Ls(Ls),
    Rm(Rm),
}

/// List named disks
#[derive(Debug, clap::Args)]
#[command(visible_alias = "list")]
struct Ls {
    /// Print JSON
    #[arg(long)]
    json: bool,
}

/// Remove named disks that no live sandbox uses, with all that is on them
#[derive(Debug, clap::Args)]
struct Rm {
    /// The disks
    #[arg(required = true, value_name = "DISK")]
    names: Vec<DiskName>,
}

pub async fn execute(global: &Global, args: &Args) -> Result<u8, CliError> {
    let client = global.connect().await?;
    match &args.action {
        Action::Ls(Ls { json }) => {
            let disks = client.disks().await?;
            if *json { print::json(&disks) } else { print::disks(&disks) }
        }
        Action::Rm(Rm { names }) => {
            let removals = names.iter().map(|name| client.remove_disk(name));
            print::each(names, futures::future::join_all(removals).await, global.debug)
        }
    }
}
