//! `sandpen logout`.

use sandpen_types::registry::RegistryName;

use super::login::which;
use super::registry::places;
use super::{CliError, Global, print};

/// Forget the login of a registry
///
/// What `sandpen login` wrote goes, and what a program keeps that the file names. Files of other tools are left alone: where
/// one of them still knows the registry, that is an error that names it.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// The registry [default: the default registry]
    #[arg(value_name = "HOST[:PORT]", conflicts_with = "all")]
    registry: Option<RegistryName>,
    /// All registries that the file knows
    #[arg(short, long)]
    all: bool,
}

pub async fn execute(global: &Global, args: &Args) -> Result<u8, CliError> {
    let places = places();
    let own = places.own()?.display().to_string();
    if args.all {
        let mut any = false;
        for registry in places.known()? {
            let had = places.log_out(&registry).await?;
            any |= !had.is_empty();
            print::logged_out(&registry, &had)?;
        }
        return Ok(if any { 0 } else { print::note(&format!("there was no login in {own}")) });
    }
    let registry = which(global, args.registry.as_ref())?.as_str();
    let had = places.log_out(registry).await?;
    print::logged_out(registry, &had)?;
    match places.elsewhere(registry).await? {
        Some(path) => Err(CliError::StillLoggedIn { registry: registry.to_owned(), path: path.to_owned() }),
        None if had.is_empty() => Ok(print::note(&format!("there was no login for {registry} in {own}"))),
        None => Ok(0),
    }
}
