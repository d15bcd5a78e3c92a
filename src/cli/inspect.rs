//! `sandpen inspect`.

use sandpen_types::history::HistoryPage;

use super::args::NameArg;
use super::{CliError, Global, print};

/// Transitions that are shown: some ten starts.
const LATEST: u32 = 50;

/// Show everything about a sandbox as JSON
///
/// Environment values are not shown, they may be secrets. `history` has the last 50 changes of its state; `sandpen
/// history` shows all that are kept.
#[derive(Debug, clap::Args)]
pub struct Args {
    #[command(flatten)]
    name: NameArg,
}

pub async fn execute(global: &Global, args: &Args) -> Result<u8, CliError> {
    let key = args.name.key()?;
    let client = global.connect().await?;
    print::inspected(&client.inspect(&key).await?, &client.history(&key, HistoryPage::latest(LATEST)).await?)
}
