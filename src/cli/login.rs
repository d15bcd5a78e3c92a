//! `sandpen login`.

use sandpen::registry::credentials::check_username;
use sandpen::registry::{Credentials, RegistryError, Secret};
use sandpen_types::registry::RegistryName;

use super::registry::{InsecureArgs, client, places};
use super::{CliError, Global, print, secret};

/// Log in to a registry, for `sandpen pull` and `sandpen run`
///
/// The name and the password are tried out first, by this command itself: the daemon is sent them with each request, and keeps
/// none. What the registry does not take is not kept. The file is $REGISTRY_AUTH_FILE, else
/// $XDG_CONFIG_HOME/containers/auth.json or ~/.config/containers/auth.json, which its owner alone can read and Podman
/// and others read as well. Where it names a program for that (credHelpers, credsStore), the program keeps the password.
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  sandpen login ghcr.io
  pass show ghcr | sandpen login -u me --password-stdin ghcr.io
  sandpen pull ghcr.io/me/app:1")]
pub struct Args {
    /// The registry [default: the default registry]
    #[arg(value_name = "HOST[:PORT]")]
    registry: Option<RegistryName>,
    /// The name [default: it is asked for]
    #[arg(short, long, value_name = "USER")]
    username: Option<String>,
    /// Read the password, or a token that stands for one, from standard input, instead of asking for it on this terminal
    #[arg(long, requires = "username")]
    password_stdin: bool,
    /// Do not look at the registry's certificate, and speak plain HTTP with one that has no TLS: whoever listens in between
    /// has the password then
    #[arg(long)]
    insecure: bool,
    #[command(flatten)]
    insecure_registries: InsecureArgs,
}

pub async fn execute(global: &Global, args: &Args) -> Result<u8, CliError> {
    let registry = which(global, args.registry.as_ref())?;
    let places = places();
    // Nothing is typed for nothing.
    places.own()?;
    let username = match &args.username {
        Some(username) => username.clone(),
        None => secret::ask(&format!("name for {registry}"), secret::Echo::On).await?,
    };
    check_username(&username)?;
    let password = match args.password_stdin {
        true => secret::read_stdin()?,
        false => secret::ask(&format!("password of {username} for {registry}"), secret::Echo::Off).await?,
    };
    let credentials = Credentials::Password { username: username.clone(), password: Secret::new(password) };
    let is_insecure = args.insecure || args.insecure_registries.has(registry.as_str());
    let checked = client(global, registry, credentials.clone(), is_insecure)?.check(registry.as_str()).await;
    let was_asked = checked.map_err(|error| match error {
        RegistryError::Denied { said, .. } => {
            CliError::LoginDenied { registry: registry.to_string(), username: username.clone(), said }
        }
        error => error.into(),
    })?;
    let kept = places.log_in(registry.as_str(), &credentials).await?;
    print::logged_in(registry, &username, &kept)?;
    if !was_asked {
        print::note(&format!("{registry} lets everybody in: whether the password is right it did not say"));
    }
    if let Some(path) = places.before(registry.as_str()).await? {
        let path = path.display();
        print::note(&format!("{path} knows {registry} too, and is asked first; `podman logout {registry}` ends that"));
    }
    Ok(0)
}

/// The registry that is meant.
pub fn which<'a>(global: &'a Global, given: Option<&'a RegistryName>) -> Result<&'a RegistryName, CliError> {
    given.or_else(|| global.default_registry.registry()).ok_or(CliError::WhichRegistry)
}
