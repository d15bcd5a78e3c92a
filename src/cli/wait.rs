//! `sandpen wait`.

use sandpen::client::{Client, ClientError, ClientOptions, EventsRequest};
use sandpen_types::event::EventKind;
use sandpen_types::session::SessionId;
use sandpen_types::spec::SandboxKey;
use sandpen_types::state::ExitStatus;

use super::args::NameArg;
use super::{CliError, Global, job, print};

/// Wait until a sandbox has ended and print its exit code
///
/// A restart that is pending is waited for as well. Its own exit code is 0 whatever it prints, and 1, with the reason on standard
/// error, where the sandbox has no exit code: it could not be started, or its microVM was lost. With --job of a job of it, whose
/// exit code is this program's too, as for exec; 125 when sandpen itself failed.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// A job of the sandbox: `sandpen jobs` lists them
    #[arg(long, value_name = "JOB")]
    job: Option<SessionId>,
    #[command(flatten)]
    name: NameArg,
}

impl Args {
    /// Whether its exit code is a job's.
    pub fn is_for_job(&self) -> bool {
        self.job.is_some()
    }
}

pub async fn execute(global: &Global, args: &Args) -> Result<u8, CliError> {
    let key = args.name.key()?;
    let options = global.client_options()?;
    let client = Client::connect(&options).await?;
    if let Some(id) = args.job {
        return job::waited(&client.wait_job(&options, &key, id).await?);
    }
    match client.wait(&options, &key).await {
        // With --rm the next daemon removes it before it answers anybody. What happened stays on record.
        Err(error @ ClientError::RemovedMeanwhile { .. }) => match recorded_exit(&client, &options, &key).await? {
            Some(code) => print::bytes(format!("{code}\n").as_bytes()),
            None => Err(error.into()),
        },
        sandbox => print::exit_code(&sandbox?),
    }
}

/// The exit code of the last end of a sandbox that is removed by now, as a shell would report it; `None` where it
/// is unknown.
async fn recorded_exit(client: &Client, options: &ClientOptions, key: &SandboxKey) -> Result<Option<i32>, ClientError> {
    let request = EventsRequest { sandbox: Some(key.clone()), ..EventsRequest::default() };
    let (mut events, mut code) = (client.events(options, request).await?, None);
    while let Some(event) = events.next().await? {
        if let Some(EventKind::Transition { state, .. }) = event.known_kind() {
            code = state.exit().filter(|_| state.is_ended()).and_then(ExitStatus::shell_code);
        }
    }
    Ok(code)
}
