//! `sandpen commit`.

use sandpen::api::ImageCommitRequest;
use sandpen_types::image_changes::ImageChanges;

use super::{Told, came_in, follow};
use crate::cli::args::{ImageNameArg, NameArg};
use crate::cli::{CliError, Global, print};

/// Make an image of what was written to a sandbox's root
///
/// It has the layers of the image that the sandbox runs, and one more. While that is packed, whoever in the sandbox writes to
/// the root waits; a sandbox that has ended is looked into by a microVM of its own. The same changes make the same image.
/// Environment variables of `sandpen run -e` may be secrets: the image has none of them but those that are named here; nor has it
/// the command of `sandpen run`. A sandbox over a directory of this host has no image below, and one with --read-only wrote
/// nothing: both are refused.
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  sandpen run -d --idle --net user -n box debian
  sandpen exec box -- sh -c 'apt-get update && apt-get install -y git'
  sandpen commit box debian-git
  sandpen commit --cmd serve --cmd --port=80 -e MODE=prod -w /srv web web:2")]
pub struct Args {
    /// The image's program, in the place of its entrypoint and arguments; once for each word, '' for none
    #[arg(long, value_name = "WORD", allow_hyphen_values = true)]
    entrypoint: Vec<String>,
    /// The arguments of the image's program, or the program itself; once for each word, '' for none
    #[arg(long, value_name = "WORD", allow_hyphen_values = true)]
    cmd: Vec<String>,
    /// Set an environment variable in the image
    #[arg(short, long, value_name = "NAME=VALUE", value_parser = pair)]
    env: Vec<(String, String)>,
    /// The image's working directory [default: the sandbox's]
    #[arg(short, long, value_name = "DIR")]
    workdir: Option<String>,
    /// Whom the image's program runs as [default: as the sandbox's]
    #[arg(short, long, value_name = "USER[:GROUP]")]
    user: Option<String>,
    /// Give the image a label
    #[arg(short, long, value_name = "NAME=VALUE", value_parser = pair)]
    label: Vec<(String, String)>,
    /// Say that the image listens on a port
    #[arg(long, value_name = "PORT[/PROTOCOL]")]
    expose: Vec<String>,
    /// Say who answers for the image
    #[arg(short, long, value_name = "NAME")]
    author: Option<String>,
    /// Say in the image's history what was changed
    #[arg(short, long, value_name = "TEXT")]
    message: Option<String>,
    /// Print JSON
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    name: NameArg,
    /// The image's name
    #[arg(value_name = "IMAGE")]
    image: ImageNameArg,
}

/// `NAME=VALUE`.
fn pair(text: &str) -> Result<(String, String), String> {
    match text.split_once('=') {
        Some((name, value)) if !name.is_empty() && !text.contains('\0') => Ok((name.to_owned(), value.to_owned())),
        _ => Err("NAME=VALUE is expected".to_owned()),
    }
}

/// What was said; a single empty word is none.
fn words(words: &[String]) -> Option<Vec<String>> {
    match words {
        [] => None,
        [none] if none.is_empty() => Some(Vec::new()),
        words => Some(words.to_vec()),
    }
}

pub async fn execute(global: &Global, args: &Args) -> Result<u8, CliError> {
    let changes = ImageChanges {
        entrypoint: words(&args.entrypoint),
        cmd: words(&args.cmd),
        env: args.env.clone(),
        workdir: args.workdir.clone(),
        user: args.user.clone(),
        labels: args.label.iter().cloned().collect(),
        exposed_ports: args.expose.clone(),
        author: args.author.clone(),
        message: args.message.clone(),
    };
    let request = ImageCommitRequest { sandbox: args.name.key()?, name: args.image.name(global)?, changes };
    let client = global.connect().await?;
    if !args.json {
        print::note(&format!("packing what was written in {}", request.sandbox.name));
    }
    let reader = client.commit(&request).await?;
    came_in(global, &follow(reader, Told::Bars(print::ImageBars::new())).await?, args.json)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_and_pairs() {
        assert_eq!(pair("A=b=c"), Ok(("A".to_owned(), "b=c".to_owned())));
        assert!(pair("=b").is_err() && pair("A").is_err() && pair("A=\0").is_err());
        assert_eq!(words(&[]), None);
        assert_eq!(words(&[String::new()]), Some(vec![]));
        assert_eq!(words(&["a".into(), String::new()]), Some(vec!["a".to_owned(), String::new()]));
    }
}
