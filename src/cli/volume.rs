//! `sandpen volume`.

use clap::Subcommand;
use sandpen::api::{ErrorCode, VolumeEntry};
use sandpen_types::spec::VolumeName;

use super::ask::{Asking, is_yes};
use super::{CliError, Global, print};

/// List and remove the directories that `-v NAME:GUEST` made
#[derive(Debug, clap::Args)]
pub struct Args {
    #[command(subcommand)]
    action: Action,
}

#[derive(Debug, Subcommand)]
enum Action {
    Ls(Ls),
    Rm(Rm),
    Prune(Prune),
}

/// List named volumes
#[derive(Debug, clap::Args)]
#[command(visible_alias = "list")]
struct Ls {
    /// Print JSON
    #[arg(long)]
    json: bool,
    /// Print names only
    #[arg(short, long, conflicts_with = "json")]
    quiet: bool,
}

/// Remove named volumes that no sandbox has, live or ended, with all that is in them
#[derive(Debug, clap::Args)]
struct Rm {
    /// The volumes
    #[arg(required = true, value_name = "VOLUME")]
    names: Vec<VolumeName>,
}

/// Remove all named volumes that no sandbox has, live or ended, with all that is in them
///
/// On a terminal it asks first; elsewhere it needs -f. The names of those that are removed are printed.
#[derive(Debug, clap::Args)]
struct Prune {
    #[command(flatten)]
    asking: Asking,
}

pub async fn execute(global: &Global, args: &Args) -> Result<u8, CliError> {
    let must_ask = match &args.action {
        Action::Prune(Prune { asking }) => asking.must_ask()?,
        _ => false,
    };
    let client = global.connect().await?;
    match &args.action {
        Action::Ls(Ls { json, quiet }) => {
            let volumes = client.volumes().await?;
            match (json, quiet) {
                (true, _) => print::json(&volumes),
                (_, true) => print::lines(volumes.iter().map(|volume| volume.name.as_str())),
                _ => print::volumes(&volumes),
            }
        }
        Action::Rm(Rm { names }) => {
            let removals = names.iter().map(|name| client.remove_volume(name));
            print::each(names, futures::future::join_all(removals).await, global.debug)
        }
        Action::Prune(Prune { asking }) => {
            let unused = client.volumes().await?.into_iter().filter(|volume| volume.used_by.is_empty());
            let names: Vec<_> = unused.map(|VolumeEntry { name, .. }| name).collect();
            if asking.dry_run {
                return print::planned_volumes(&names);
            }
            if must_ask && !names.is_empty() {
                print::asked_volumes(&names);
                if !is_yes("Remove all of this, with what is in it?") {
                    return Ok(print::note("nothing was removed"));
                }
            }
            let removals = futures::future::join_all(names.iter().map(|name| client.remove_volume(name))).await;
            // One that somebody has taken or removed since is not ours any more.
            let stays = |code| matches!(code, Some(ErrorCode::VolumeInUse | ErrorCode::NotFound));
            let done = names.iter().zip(removals);
            let (names, removals): (Vec<_>, Vec<_>) = done
                .filter(|(_, removed)| !removed.as_ref().is_err_and(|error| stays(error.code())))
                .map(|(name, removed)| (name.clone(), removed))
                .unzip();
            print::each(&names, removals, global.debug)
        }
    }
}
