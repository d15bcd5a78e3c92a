//! `sandpen inspect`.

use super::args::NameArg;
use super::{CliError, Global, print};

/// Show everything about a sandbox as JSON
///
/// Environment values are not shown, they may be secrets.
#[derive(Debug, clap::Args)]
pub struct Args {
    #[command(flatten)]
    name: NameArg,
}

pub async fn execute(global: &Global, args: &Args) -> Result<u8, CliError> {
    let key = args.name.key()?;
    let client = global.connect().await?;
    print::inspected(&client.inspect(&key).await?, &client.history(&key).await?)
}
