//! `sandpen push`. Credentials and proxies are those of whoever calls: the daemon gets them with the request, and keeps
//! none.

use sandpen::api::{ImagePushRequest, ImagePushed, ImageWork};
use sandpen_types::image::ImageReference;

use super::{Told, end};
use crate::cli::args::ImageNameArg;
use crate::cli::registry::{InsecureArgs, proxies, who_asks};
use crate::cli::{CliError, Global, print};

/// Put an image into a registry
///
/// It goes where its name says, or to DESTINATION: then IMAGE may be an id as well. What the registry has of it is not
/// sent. An image that was pulled keeps its manifest, and so its digest, where the registry has its layers or they are
/// packed to the same bytes here; otherwise it gets another manifest there, over the same layers and the same
/// configuration. Who asks, and which way, is looked up as by `sandpen pull`.
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  sandpen push ghcr.io/owner/app:1
  sandpen push app:dev registry.example.com/team/app:1
  sandpen image push 0a1b2c3d4e5f localhost:5000/app:1")]
pub struct Args {
    /// The image
    #[arg(value_name = "IMAGE")]
    image: String,
    /// Where it goes; one without a tag has the tag latest [default: the name that IMAGE is]
    #[arg(value_name = "DESTINATION")]
    destination: Option<ImageNameArg>,
    /// Print the reference with the digest only
    #[arg(short, long, conflicts_with = "json")]
    quiet: bool,
    /// Do not look at the registry's certificate, and speak plain HTTP with one that has no TLS
    #[arg(long)]
    insecure: bool,
    #[command(flatten)]
    insecure_registries: InsecureArgs,
    /// Print JSON: how far it is, an object a line, and at the end where the image is
    #[arg(long)]
    json: bool,
}

/// `sandpen push` and `sandpen image push`.
pub async fn execute(global: &Global, args: &Args) -> Result<u8, CliError> {
    let Args { image, destination, quiet, insecure, insecure_registries, json } = args;
    let image = global.default_registry.spelled_out(image)?;
    let destination = destination.as_ref().map(|name| name.name(global)).transpose()?;
    // Whatever else it is, the daemon says what is missing.
    let to: Option<ImageReference> = destination.clone().or_else(|| image.parse().ok());
    let (credentials, is_insecure) = match &to {
        Some(to) => (who_asks(to).await?, insecure_registries.has(to.registry())),
        None => (None, false),
    };
    let request = ImagePushRequest {
        image: image.clone(),
        destination,
        credentials,
        insecure: *insecure || is_insecure,
        proxies: proxies(),
    };
    let client = global.connect().await?;
    let what = match to.map(|to| to.to_string()).filter(|to| *to != *image) {
        Some(to) => format!("pushing {image} to {to}"),
        None => format!("pushing {image}"),
    };
    let told = Told::new(*json, *quiet, &what);
    match end(client.push_image(&request).await?, told).await? {
        ImageWork::Pushed(ImagePushed { reference, .. }) if !json => {
            print::lines([reference.to_string().as_str()].into_iter())
        }
        _ => Ok(0),
    }
}
