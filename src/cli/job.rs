//! A job in the foreground, as `attach --job` shows it, and what `exec -d` says of one.

use sandpen::client::{Client, ClientError, ClientOptions, Input, JobForeground, JobForegroundEnd};
use sandpen_types::job::JobInfo;
use sandpen_types::log_start::LogStart;
use sandpen_types::session::SessionEnd;
use sandpen_types::spec::SandboxKey;

use super::detach_keys::DetachKeys;
use super::foreground::UNREAD;
use super::print::Controls;
use super::session::check_input;
use super::{CliError, RUN_FAILED, print, signals, stdin, terminal, typing};

/// What is wanted of it.
#[derive(Debug)]
pub struct Wanted {
    /// What users call its sandbox.
    pub name: String,
    /// Only so many of the last lines that it wrote before.
    pub tail: Option<usize>,
    /// Standard input, where it has one.
    pub input: bool,
    /// What leaves it.
    pub keys: DetachKeys,
    /// A terminal of ours gets control characters even if the job has none.
    pub raw: bool,
}

/// A job in the background: its id, or why it was not executed.
pub fn started(job: &JobInfo) -> Result<u8, CliError> {
    if let Some(end) = job.end.as_ref().filter(|end| matches!(end, SessionEnd::NotStarted { .. })) {
        return Ok(print::session_ended(end));
    }
    let id = job.id.to_string();
    print::lines(std::iter::once(id.as_str()))
}

/// Shows it until it has ended or is left; the exit code.
pub async fn show(
    client: &Client,
    options: &ClientOptions,
    key: &SandboxKey,
    job: JobInfo,
    wanted: Wanted,
) -> Result<u8, CliError> {
    let (id, is_terminal) = (job.id, job.terminal);
    let is_fed = wanted.input && job.stdin && job.end.is_none();
    check_input(is_fed, is_terminal)?;
    let name = wanted.name;
    let (mut signals, hang_up) = signals::channel()?;
    // Whatever comes: the terminal is given back before the first word about it.
    let guard = terminal::Guard::new();
    let controls = if is_terminal { Controls::OfItsTerminal } else { Controls::of_raw(wanted.raw) };
    let printer =
        print::Foreground::start(format!("job {id} of sandbox {name}"), controls).map_err(CliError::Thread)?;
    let input = match (is_fed, is_terminal) {
        (true, true) => Input::Terminal(Box::new(move || typing::open(Some((wanted.keys, hang_up))))),
        (true, false) => Input::Pipe { open: Box::new(stdin::open), close: false },
        (false, _) => {
            if is_terminal && job.end.is_none() {
                // Who only watches passes neither keys nor sizes on.
                terminal::take(false).map_err(CliError::Terminal)?;
            }
            Input::None
        }
    };
    let from = wanted.tail.map_or(LogStart::Oldest, LogStart::Tail);
    let notices = printer.notices();
    let shown = JobForeground { client, options, key, job, from, input, signals: &mut signals, notices };
    let result = shown.run().await;
    printer.finish(&mut signals).await;
    drop(guard);
    match result {
        Ok(JobForegroundEnd::Ended(job)) => Ok(job.end.as_ref().map_or(RUN_FAILED, print::session_ended)),
        Ok(JobForegroundEnd::Left) => Ok(print::left(&format!(
            "left job {id} of sandbox {name}, which runs on; `sandpen attach --job {id} {name}` comes back"
        ))),
        Ok(JobForegroundEnd::Unread) => Ok(UNREAD),
        Err(source) => {
            let is_out_of_sight = source.is_away() || matches!(source, ClientError::NoSuccessor(_));
            Err(match is_out_of_sight {
                true => CliError::JobOutOfSight { id, name, source },
                false => source.into(),
            })
        }
    }
}

/// The end of a job that was waited for: its exit code, printed as `sandpen wait` prints a sandbox's, and ours as well.
pub fn waited(job: &JobInfo) -> Result<u8, CliError> {
    let Some(end) = &job.end else { return Ok(RUN_FAILED) };
    if let Some(code) = end.shell_code() {
        print::bytes(format!("{code}\n").as_bytes())?;
    }
    Ok(print::session_ended(end))
}

#[cfg(test)]
mod tests {
    use sandpen_types::session::SessionId;
    use sandpen_types::state::ExitStatus;

    use super::*;

    /// However soon it ended: whoever asked wants to look at its log and its code.
    #[test]
    fn of_a_job_that_was_executed_the_id_is_said() -> Result<(), CliError> {
        let not_started = SessionEnd::NotStarted { code: 127, message: "no such file".to_owned() };
        let ended = |code| SessionEnd::Exited(ExitStatus::Code(code));
        for (end, code) in [(None, 0), (Some(ended(0)), 0), (Some(ended(9)), 0), (Some(not_started), 127)] {
            let Some(id) = SessionId::new(7) else { continue };
            let asked_at = chrono::DateTime::UNIX_EPOCH;
            let label = "false".to_owned();
            let job = JobInfo { id, label, asked_at, terminal: false, stdin: false, bytes: 0, ended_at: None, end };
            assert_eq!(started(&job)?, code);
        }
        Ok(())
    }
}
