//! `sandpen push`. Credentials and proxies are those of whoever calls: the daemon gets them with the request, and keeps
//! none.

use sandpen::api::{ImagePushRequest, ImagePushed, ImageWork};
use sandpen::client::ImageWorkReader;
use sandpen_types::image::ImageReference;

use super::pull;
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
    destination: Option<ImageReference>,
    /// Print the reference with the digest only
    #[arg(short, long, conflicts_with = "json")]
    quiet: bool,
    /// Do not look at the registry's certificate, and speak plain HTTP with one that has no TLS
    #[arg(long)]
    insecure: bool,
    /// Print JSON
    #[arg(long)]
    json: bool,
}

/// `sandpen push` and `sandpen image push`.
pub async fn execute(global: &Global, args: &Args) -> Result<u8, CliError> {
    let Args { image, destination, quiet, insecure, json } = args;
    // Whatever else it is, the daemon says what is missing.
    let to = destination.clone().or_else(|| image.parse().ok());
    let (credentials, proxies) = match &to {
        Some(to) => pull::access(to).await?,
        None => (None, None),
    };
    let client = global.connect().await?;
    let progress = to.filter(|_| !quiet).map(|to| {
        print::note(&format!("pushing {image} to {to}"));
        print::Progress::with_layers()
    });
    let request = ImagePushRequest {
        image: image.clone(),
        destination: destination.clone(),
        credentials,
        insecure: *insecure,
        proxies,
    };
    let pushed = follow(client.push_image(&request).await?, progress).await?;
    if *json { print::json(&pushed) } else { print::lines(std::iter::once(pushed.reference.to_string().as_str())) }
}

/// Shows how far it is, if anybody wants to know, until all is there.
async fn follow(mut reader: ImageWorkReader, mut progress: Option<print::Progress>) -> Result<ImagePushed, CliError> {
    loop {
        match reader.next().await? {
            ImageWork::Progress(step) => progress.iter_mut().for_each(|progress| progress.show(&step)),
            ImageWork::Pushed(pushed) => return Ok(pushed),
            // The reader makes an error of the one; the other is of what comes in.
            ImageWork::Error(_) | ImageWork::Images(_) => {}
        }
    }
}
