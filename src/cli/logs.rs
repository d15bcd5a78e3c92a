//! `sandpen logs`.

use chrono::Utc;
use clap::builder::{PossibleValuesParser, TypedValueParser};
use sandpen::api::OutputQuery;
use sandpen::api::frame::Frame;
use sandpen::client::Client;
use sandpen_types::log_start::LogStart;
use sandpen_types::moment::Moment;
use sandpen_types::output_stream::OutputStream;
use sandpen_types::session::SessionId;

use super::args::NameArg;
use super::{CliError, Global, print};

/// Show what a sandbox has written
///
/// In the order in which it arrived, byte for byte, all on standard output. On a terminal, control
/// characters and what hides or reorders text are shown as escapes, unless --raw is given.
///
/// A time is a date (2026-01-31), a time (2026-01-31T12:00:00Z; UTC where it has no zone), or how long ago (10m, 2h30m).
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  sandpen logs --tail 20 web          the last 20 lines
  sandpen logs -f -t web              with times, until it ends
  sandpen logs --all web              of earlier runs of the name too
  sandpen logs --stream stderr web    errors only
  sandpen logs --since 10m web        the last ten minutes
  sandpen logs --json web | jq .      one JSON object per line
  sandpen logs --raw box              on this terminal as it was on the sandbox's, colours too
  sandpen logs -f --job $id web       of a job, until that has ended
  sandpen logs --vmm web              what the microVM's process and the guest's console said")]
#[expect(clippy::struct_excessive_bools, reason = "flags of a command line are")]
pub struct Args {
    /// Wait for more until the sandbox, or the job, has ended; goes on with the next daemon if this one ends
    #[arg(short, long)]
    follow: bool,
    /// Put the time (UTC) before each line
    #[arg(short, long)]
    timestamps: bool,
    /// Only the last N lines
    #[arg(long, value_name = "N")]
    tail: Option<usize>,
    /// What is kept of earlier runs too: without it, what was written since the latest `run`, `start` or `restart`
    #[arg(short, long)]
    all: bool,
    /// Only what was written at this time or later
    #[arg(long, value_name = "TIME", allow_hyphen_values = true)]
    since: Option<Moment>,
    /// Only what was written before this time; with -f, wait until then
    #[arg(long, value_name = "TIME", allow_hyphen_values = true)]
    until: Option<Moment>,
    /// Print JSON, one object per line: `time`, `stream`, `position` and the line with its end as `text`, or as
    /// `base64` where it is not UTF-8
    #[arg(long, conflicts_with_all = ["timestamps", "raw"])]
    json: bool,
    /// Only one stream
    #[arg(long, value_parser = stream_words())]
    stream: Option<OutputStream>,
    /// What the VMM and the guest's console printed since the last start, instead of the output; with -f
    /// until the sandbox or the daemon ends
    #[arg(long, conflicts_with_all = ["timestamps", "stream", "raw", "since", "until", "json"])]
    vmm: bool,
    /// What a job of the sandbox has written, instead of its own command: `sandpen jobs` lists them
    #[arg(long, value_name = "JOB", conflicts_with_all = ["vmm", "all"])]
    job: Option<SessionId>,
    /// Pass control characters on to a terminal: a sandbox that is not trusted can do with it what it likes
    #[arg(long)]
    raw: bool,
    #[command(flatten)]
    name: NameArg,
}

/// Reads the word of a stream; the help lists both.
fn stream_words() -> impl TypedValueParser<Value = OutputStream> {
    PossibleValuesParser::new(OutputStream::ALL.map(OutputStream::as_str)).try_map(|word| word.parse::<OutputStream>())
}

pub async fn execute(global: &Global, args: &Args) -> Result<u8, CliError> {
    let key = args.name.key()?;
    let now = Utc::now();
    let time = |moment: &Option<Moment>| moment.as_ref().map(|moment| moment.from(now)).transpose();
    let (since, until) = OutputQuery::check_window(time(&args.since)?, time(&args.until)?)?;
    if args.vmm {
        let mut log = global.connect().await?.vmm_log(&key, args.tail, args.follow).await?;
        let mut printer = print::Output::of_log(false, print::Controls::Escaped);
        while let Some(bytes) = log.next().await? {
            if !printer.bytes(&bytes)? {
                break;
            }
        }
        return printer.finish().map(|()| 0);
    }
    let options = global.client_options()?;
    let client = Client::connect(&options).await?;
    let from = if args.all || args.job.is_some() {
        args.tail.map_or(LogStart::Oldest, LogStart::Tail)
    } else {
        let generation = client.inspect(&key).await?.first_generation();
        args.tail.map_or(LogStart::Generation(generation), |lines| LogStart::TailOf { lines, generation })
    };
    let request = OutputQuery { from, follow: args.follow, stream: args.stream, since, until };
    let mut output = match args.job {
        Some(id) => client.job_output(&options, &key, id, request).await?,
        None => client.output(&options, &key, request).await?,
    };
    let mut printer = match args.json {
        true => print::LogPrinter::json(),
        false => print::LogPrinter::text(args.timestamps, print::Controls::of_raw(args.raw)),
    };
    let mut is_first = true;
    while let Some(frame) = output.next().await? {
        // Of a log that was rotated the kept rest is shown: what went before it is missing at no place in it.
        let is_before_all = std::mem::take(&mut is_first) && matches!(frame, Frame::Gap { .. });
        if !is_before_all && !printer.frame(&frame)? {
            break;
        }
    }
    printer.finish().map(|()| 0)
}
