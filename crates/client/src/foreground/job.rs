//! A job in the foreground: its output passed on, its input fed, left on signals.
//!
//! ```text
//!   output read, from its begin or from now on ─┬▶ ended: how it was asked for
//!     ↻ the daemon goes away: the next one      ├▶ detach keys, a signal: left, it goes on
//!                                               └▶ nobody takes the output: it goes on
//! ```

use sandpen_types::job::JobInfo;
use sandpen_types::log_start::LogStart;
use sandpen_types::spec::SandboxKey;
use tokio::sync::{mpsc, watch};

use super::super::source::Source;
use super::super::{Client, ClientError, ClientOptions};
use super::feed::{Left, feed};
use super::follow::follow;
use super::{Input, Notice};

/// A job to have in the foreground.
pub struct JobForeground<'a> {
    /// The daemon.
    pub client: &'a Client,
    /// How to find or start another one.
    pub options: &'a ClientOptions,
    /// Whose.
    pub key: &'a SandboxKey,
    /// Which, as it is.
    pub job: JobInfo,
    /// From where its output is wanted.
    pub from: LogStart,
    /// Its input.
    pub input: Input,
    /// One message per signal.
    pub signals: &'a mut mpsc::Receiver<()>,
    /// Where everything goes, as for [`Foreground`](super::Foreground).
    pub notices: mpsc::Sender<Notice>,
}

/// How it ended.
#[derive(Debug)]
pub enum JobForegroundEnd {
    /// It ended and all output was passed on.
    Ended(JobInfo),
    /// It was left and goes on.
    Left,
    /// Nobody takes its output any more; it goes on.
    Unread,
}

impl JobForeground<'_> {
    /// Shows it to its end.
    ///
    /// # Errors
    /// As [`Client::job`]; [`ClientError::NoSuccessor`] where no daemon goes on. The job may run on then.
    pub async fn run(self) -> Result<JobForegroundEnd, ClientError> {
        let Self { client, options, key, job, from, input, signals, notices } = self;
        let source = Source::job(key, job.id);
        let ended = job.end.is_some().then_some(job);
        let input = if ended.is_some() { Input::None } else { input };
        let (opened, is_opened) = watch::channel(false);
        tokio::select! {
            result = follow(client, options, &source, ended, from, opened, &notices) => result.map(JobForegroundEnd::Ended),
            left = feed(client, &source, input, true, is_opened, &notices) => left.map(|Left| JobForegroundEnd::Left),
            () = notices.closed() => Ok(JobForegroundEnd::Unread),
            Some(()) = signals.recv() => Ok(JobForegroundEnd::Left),
        }
    }
}
