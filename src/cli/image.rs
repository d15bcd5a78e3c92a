//! `sandpen image`.

pub mod commit;
mod filter;
pub mod pull;
pub mod push;
mod save;

use std::ffi::OsString;
use std::path::PathBuf;

use clap::Subcommand;
use sandpen::api::{
    ImageArchive, ImageEntry, ImageImportRequest, ImageLoadRequest, ImagePruneRequest, ImageSaveRequest,
    ImageTagRequest, ImageWork,
};
use sandpen::client::{ClientError, ImageWorkReader};

use self::filter::Filter;
use super::args::ImageNameArg;
use super::ask::{Asking, is_yes};
use super::{CliError, FAILED, Global, print, stdin};

/// Pull, push, load, list, name, save and remove images, which `sandpen run IMAGE` runs
///
/// They lie in the data directory, and every daemon of it shares them. An image is named as elsewhere: debian:12,
/// ghcr.io/owner/app@sha256:…; by its id; or by the first digits of that, at least 4.
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  sandpen image pull debian:12
  docker save debian:12 | sandpen image load -
  sandpen image load ./app.tar && sandpen run app:latest
  sandpen image import ./rootfs tools:1
  sandpen image ls --filter used=false")]
pub struct Args {
    #[command(subcommand)]
    action: Action,
}

#[derive(Debug, Subcommand)]
enum Action {
    Pull(pull::Args),
    Push(push::Args),
    Load(Load),
    Save(Save),
    Import(Import),
    #[command(visible_alias = "list")]
    Ls(Ls),
    Inspect(Inspect),
    Tag(Tag),
    Rm(Rm),
    Prune(Prune),
}

/// Take the images of an archive: of `docker save`, `podman save`, or an OCI layout
#[derive(Debug, clap::Args)]
struct Load {
    /// The archive, also a compressed one; a directory with an OCI layout; - for standard input
    #[arg(value_name = "FILE|DIR|-")]
    source: OsString,
    /// Give the image this name besides those that the archive says
    #[arg(long, value_name = "REFERENCE")]
    name: Option<ImageNameArg>,
    /// Take the image for this platform of an archive with several, for example linux/arm64 [default: this host's]
    #[arg(long, value_name = "PLATFORM")]
    platform: Option<String>,
    /// Print JSON
    #[arg(long)]
    json: bool,
}

/// Write images as an archive, for `sandpen image load` and `docker load`
#[derive(Debug, clap::Args)]
struct Save {
    /// The images
    #[arg(required = true, value_name = "IMAGE")]
    images: Vec<String>,
    /// Where the archive goes, - for standard output; a file is there whole or not at all
    #[arg(short, long, value_name = "FILE|-", default_value = "-")]
    output: PathBuf,
    /// What it is: docker or oci
    #[arg(long, value_name = "FORMAT", default_value = "docker", value_parser = archive)]
    format: ImageArchive,
}

/// Make an image of a root directory
///
/// All files, with owners, modes, links, devices and extended attributes as far as they can be read. The image has no
/// command of its own: `sandpen run IMAGE -- COMMAND` says it.
#[derive(Debug, clap::Args)]
struct Import {
    /// The directory; a tar of one, also compressed; - for a tar on standard input
    #[arg(value_name = "DIR|TAR|-")]
    source: OsString,
    /// The image's name
    #[arg(value_name = "REFERENCE")]
    name: ImageNameArg,
    /// Print JSON
    #[arg(long)]
    json: bool,
}

/// List images
///
/// SIZE is what an image takes of the disk, with the layers that it shares with others.
#[derive(Debug, clap::Args)]
pub struct Ls {
    /// Print ids only
    #[arg(short, long, conflicts_with = "json")]
    quiet: bool,
    /// Print JSON
    #[arg(long)]
    json: bool,
    /// Only those with this name (* stands for anything), with used=true or false (a sandbox has it, live or ended), or
    /// with named=true or false; may be given several times: of several names one is enough
    #[arg(short, long, value_name = "KEY=VALUE")]
    filter: Vec<Filter>,
}

/// Show everything about images as JSON, their configurations too
#[derive(Debug, clap::Args)]
struct Inspect {
    /// The images
    #[arg(required = true, value_name = "IMAGE")]
    images: Vec<String>,
    /// It is JSON in any case
    #[arg(long, hide = true)]
    json: bool,
}

/// Give an image a name more; another one that has it loses it
#[derive(Debug, clap::Args)]
struct Tag {
    /// The image
    #[arg(value_name = "IMAGE")]
    image: String,
    /// The name
    #[arg(value_name = "NEW")]
    name: ImageNameArg,
    /// Print JSON
    #[arg(long)]
    json: bool,
}

/// Remove images
///
/// Of an image with several names only the name goes; the last one takes the image. One that a microVM runs from, or that
/// a sandbox may be started from again, stays.
#[derive(Debug, clap::Args)]
struct Rm {
    /// The images
    #[arg(required = true, value_name = "IMAGE")]
    images: Vec<String>,
    /// By its id, also one that has several names
    #[arg(short, long)]
    force: bool,
    /// Print JSON
    #[arg(long)]
    json: bool,
}

/// Remove images without a name that no sandbox has, live or ended, and layers that no image has
///
/// On a terminal it asks first; elsewhere it needs -f.
#[derive(Debug, clap::Args)]
struct Prune {
    /// Those with names too
    #[arg(short, long)]
    all: bool,
    #[command(flatten)]
    asking: Asking,
    /// Print JSON
    #[arg(long)]
    json: bool,
}

fn archive(text: &str) -> Result<ImageArchive, String> {
    match text {
        "docker" => Ok(ImageArchive::Docker),
        "oci" => Ok(ImageArchive::Oci),
        _ => Err("it is docker or oci".to_owned()),
    }
}

pub async fn execute(global: &Global, args: &Args) -> Result<u8, CliError> {
    match &args.action {
        Action::Pull(args) => pull::execute(global, args).await,
        Action::Push(args) => push::execute(global, args).await,
        Action::Load(args) => load(global, args).await,
        Action::Save(Save { images, output, format }) => {
            let request = ImageSaveRequest { images: spelled_out(global, images)?, format: *format };
            let to = save::Target::open(output)?;
            to.write(global.connect().await?.save_images(&request).await?).await
        }
        Action::Import(args) => import(global, args).await,
        Action::Ls(args) => list(global, args).await,
        Action::Inspect(args) => inspect(global, args).await,
        Action::Tag(Tag { image, name, json }) => {
            let names = &global.default_registry;
            let request = ImageTagRequest { image: names.spelled_out(image)?, name: name.name(global)? };
            let tagged = global.connect().await?.tag_image(&request).await?;
            let familiar = names.familiar(&request.name);
            if *json { print::json(&tagged) } else { print::lines(std::iter::once(familiar.as_str())) }
        }
        Action::Rm(args) => remove(global, args).await,
        Action::Prune(args) => prune(global, args).await,
    }
}

/// `sandpen image ls` and `sandpen images`.
pub async fn list(global: &Global, Ls { quiet, json, filter }: &Ls) -> Result<u8, CliError> {
    let mut images = global.connect().await?.images().await?;
    images.retain(|image| filter::lets_through(filter, image, &global.default_registry));
    match (json, quiet) {
        (true, _) => print::json(&images),
        (_, true) => ids(&images),
        _ => print::images(&images, &global.default_registry),
    }
}

/// The id of each on a line.
fn ids(images: &[ImageEntry]) -> Result<u8, CliError> {
    let ids: Vec<_> = images.iter().map(|image| image.digest.short()).collect();
    print::lines(ids.iter().map(String::as_str))
}

async fn inspect(global: &Global, Inspect { images, .. }: &Inspect) -> Result<u8, CliError> {
    let images = spelled_out(global, images)?;
    let client = global.connect().await?;
    let (mut found, mut failed) = (Vec::new(), Vec::new());
    for result in futures::future::join_all(images.iter().map(|image| client.image(image))).await {
        match result {
            Ok(image) => found.push(image),
            Err(error) => failed.push(error),
        }
    }
    let code = print::json(&found)?;
    Ok(failures(failed, global.debug).unwrap_or(code))
}

/// Names and ids as the daemon is told them.
fn spelled_out(global: &Global, images: &[String]) -> Result<Vec<String>, CliError> {
    let all = images.iter().map(|image| global.default_registry.spelled_out(image));
    Ok(all.collect::<Result<_, _>>()?)
}

async fn load(global: &Global, Load { source, name, platform, json }: &Load) -> Result<u8, CliError> {
    let name = name.as_ref().map(|name| name.name(global)).transpose()?;
    let reader = if source == "-" {
        let input = stdin::open_archive()?;
        let client = global.connect().await?;
        client.load_images_from(input, name.as_ref(), platform.as_deref()).await?
    } else {
        let request = ImageLoadRequest { path: real(source)?, name, platform: platform.clone() };
        global.connect().await?.load_images(&request).await?
    };
    came_in(global, &follow(reader, Told::Bars(print::ImageBars::new())).await?, *json)
}

async fn import(global: &Global, Import { source, name, json }: &Import) -> Result<u8, CliError> {
    let name = name.name(global)?;
    let reader = if source == "-" {
        let input = stdin::open_archive()?;
        global.connect().await?.import_image_from(input, &name).await?
    } else {
        let request = ImageImportRequest { path: real(source)?, name };
        global.connect().await?.import_image(&request).await?
    };
    came_in(global, &follow(reader, Told::Bars(print::ImageBars::new())).await?, *json)
}

/// A path as the daemon sees it.
fn real(source: &OsString) -> Result<PathBuf, CliError> {
    let path = PathBuf::from(source);
    let real = path.canonicalize().map_err(|source| CliError::Archive { path, source })?;
    if real.to_str().is_none() { Err(CliError::ArchiveText(real)) } else { Ok(real) }
}

/// Who is told how far it is.
enum Told {
    /// People.
    Bars(print::ImageBars),
    /// Programs: all of it, the end too.
    Json,
    Nobody,
}

impl Told {
    /// As the flags say; people are told what begins.
    fn new(json: bool, quiet: bool, what: &str) -> Self {
        match (json, quiet) {
            (true, _) => Self::Json,
            (_, true) => Self::Nobody,
            _ => {
                print::note(what);
                Self::Bars(print::ImageBars::new())
            }
        }
    }
}

/// Waits until all is there.
async fn follow(reader: ImageWorkReader, told: Told) -> Result<Vec<ImageEntry>, CliError> {
    match end(reader, told).await? {
        ImageWork::Images(images) => Ok(images),
        _ => Ok(Vec::new()),
    }
}

/// The last word.
async fn end(mut reader: ImageWorkReader, mut told: Told) -> Result<ImageWork, CliError> {
    loop {
        let word = reader.next().await?;
        if matches!(told, Told::Json) && !print::json_line(&word)? {
            told = Told::Nobody; // who reads no more wants the work all the same
        }
        match (word, &mut told) {
            (ImageWork::Progress(step), Told::Bars(bars)) => bars.show(&step),
            // The reader makes an error of one.
            (ImageWork::Progress(_) | ImageWork::Error(_), _) => {}
            (end, _) => return Ok(end),
        }
    }
}

fn came_in(global: &Global, images: &[ImageEntry], json: bool) -> Result<u8, CliError> {
    if json { print::json(&images) } else { print::images_loaded(images, &global.default_registry) }
}

async fn remove(global: &Global, Rm { images, force, json }: &Rm) -> Result<u8, CliError> {
    let (images, names) = (spelled_out(global, images)?, &global.default_registry);
    let client = global.connect().await?;
    let (mut removals, mut failed) = (Vec::new(), Vec::new());
    // One after the other: two names of an image are the same image's.
    for image in &images {
        match client.remove_image(image, *force).await {
            Ok(removal) => removals.push(removal),
            Err(error) => failed.push(error),
        }
    }
    let code = if *json { print::json(&removals)? } else { print::images_removed(&removals, names)? };
    Ok(failures(failed, global.debug).unwrap_or(code))
}

async fn prune(global: &Global, Prune { all, asking, json }: &Prune) -> Result<u8, CliError> {
    let must_ask = asking.must_ask()?;
    let client = global.connect().await?;
    let request = ImagePruneRequest { all: *all, dry_run: asking.dry_run };
    if must_ask {
        let planned = client.prune_images(ImagePruneRequest { dry_run: true, ..request }).await?;
        if planned.freed_bytes == 0 && planned.removed.is_empty() {
            return Ok(print::note("there is nothing to remove"));
        }
        print::asked_images(&planned, &global.default_registry);
        if !is_yes("Remove all of this?") {
            return Ok(print::note("nothing was removed"));
        }
    }
    let removal = client.prune_images(request).await?;
    if *json { print::json(&removal) } else { print::images_pruned(&removal, asking.dry_run, &global.default_registry) }
}

/// Tells what failed; the exit code if anything did.
fn failures(failed: Vec<ClientError>, debug: bool) -> Option<u8> {
    let code = (!failed.is_empty()).then_some(FAILED);
    for error in failed {
        print::error(&error.into(), debug);
    }
    code
}
