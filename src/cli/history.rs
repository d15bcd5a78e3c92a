//! `sandpen history`.

use std::num::NonZeroU64;

use sandpen_types::history::HistoryPage;

use super::args::NameArg;
use super::{CliError, Global, print};

/// Show every change of a sandbox's state
///
/// Oldest first: a number, the time (UTC), which start, the state, and why. The last 100 starts of each sandbox
/// are kept.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// Only so many, the last ones
    #[arg(long, value_name = "N")]
    last: Option<NonZeroU64>,
    /// Print JSON, one object per line
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    name: NameArg,
}

pub async fn execute(global: &Global, args: &Args) -> Result<u8, CliError> {
    let key = args.name.key()?;
    let client = global.connect().await?;
    let mut page = match args.last {
        None => HistoryPage::OLDEST,
        Some(last) => {
            // Their numbers are without a gap.
            let latest = client.history(&key, HistoryPage::latest(1)).await?;
            HistoryPage::after(latest.last().map_or(0, |latest| latest.seq.saturating_sub(last.get())))
        }
    };
    loop {
        let transitions = client.history(&key, page).await?;
        for transition in &transitions {
            if !print::transition(transition, args.json)? {
                return Ok(0);
            }
        }
        match transitions.last() {
            Some(last) if transitions.len() >= page.limit as usize => page = HistoryPage::after(last.seq),
            // There were no more.
            _ => return Ok(0),
        }
    }
}
