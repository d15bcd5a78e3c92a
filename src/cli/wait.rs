//! `sandpen wait`.

use sandpen::client::{Client, ClientError, ClientOptions, EventsRequest};
use sandpen_types::event::EventKind;
use sandpen_types::spec::SandboxKey;
use sandpen_types::state::ExitStatus;

use super::args::NameArg;
use super::{CliError, Global, print};

/// Wait until a sandbox has ended and print its exit code
#[derive(Debug, clap::Args)]
pub struct Args {
    #[command(flatten)]
    name: NameArg,
}

pub async fn execute(global: &Global, args: &Args) -> Result<u8, CliError> {
    let key = args.name.key()?;
    let options = global.client_options()?;
    let client = Client::connect(&options).await?;
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
