//! `sandpen ps`.

mod filter;

pub use self::filter::is_like;

use sandpen::api::Sandbox;

use self::filter::{Filter, lets_through};
use super::template::{self, Template};
use super::{CliError, Global, print};

/// List sandboxes
///
/// The JSON of --json is an array of objects as `sandpen inspect` shows them, without the history; --format
/// has their fields by the same names.
#[derive(Debug, clap::Args)]
#[command(
    visible_alias = "list",
    after_help = "\
Examples:
  sandpen ps -a --filter state=failed
  sandpen ps --filter label=team=search --filter 'name=web-*'
  sandpen ps --format '{{.name}}\\t{{.microvm_pid}}\\t{{.labels.team}}'
  sandpen rm $(sandpen ps -aq --filter state=stopped)"
)]
pub struct Args {
    /// Also those that have ended or never started
    #[arg(short, long)]
    all: bool,
    /// Only those with this name (* stands for anything), state, label (KEY or KEY=VALUE), driver, config or health
    /// (starting, healthy, failing); may be given several times: of several names, states and so on one is enough, of labels
    /// all must be there. Without -a and without a state that is an end, only active sandboxes are looked at
    #[arg(short, long, value_name = "KEY=VALUE")]
    filter: Vec<Filter>,
    /// Print names only
    #[arg(short, long, conflicts_with_all = ["json", "format"])]
    quiet: bool,
    /// Print JSON
    #[arg(long, conflicts_with = "format")]
    json: bool,
    /// Print a line for each, with its fields in the places of {{.name}}, {{.state}}, {{.labels.KEY}} and so on
    #[arg(long, value_name = "TEMPLATE")]
    format: Option<Template>,
}

pub async fn execute(global: &Global, args: &Args) -> Result<u8, CliError> {
    // Also where nothing is listed.
    args.format.as_ref().map_or(Ok(()), |template| template.check(template::fields::<Sandbox>()))?;
    // Whoever asks for a state that is an end means those, too.
    let ended = args.filter.iter().any(|filter| matches!(filter, Filter::State(state) if !state.is_active()));
    let mut sandboxes = global.connect().await?.list(args.all || ended).await?;
    sandboxes.retain(|sandbox| lets_through(&args.filter, sandbox));
    match &args.format {
        _ if args.json => print::json(&sandboxes),
        _ if args.quiet => print::names(&sandboxes),
        Some(template) => print::formatted(&sandboxes, template),
        None => print::table(&sandboxes),
    }
}
