//! `sandpen rename`.

use super::args::ConfigArg;
use super::{CliError, Global};

/// Give an ended sandbox another name
///
/// Its history, its log and its disk go along; `sandpen start` starts it under the new name.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// The sandbox: NAME or CONFIG/NAME
    name: String,
    /// Its new name: NAME or CONFIG/NAME
    new_name: String,
    #[command(flatten)]
    config: ConfigArg,
}

pub async fn execute(global: &Global, args: &Args) -> Result<u8, CliError> {
    let (from, to) = (args.config.key(&args.name)?, args.config.key(&args.new_name)?);
    global.connect().await?.rename(&from, &to).await?;
    Ok(0)
}
