//! Jobs: commands beside a sandbox's workload that run without any client, with logs of their own.

use hyper::Method;
use sandpen_api::OutputQuery;
use sandpen_api::session::{OpenSession, SessionSignal};
use sandpen_types::job::JobInfo;
use sandpen_types::session::{SessionId, SessionSpec};
use sandpen_types::spec::SandboxKey;

use super::connection::Body;
use super::resume::Resume;
use super::session::random_session_id;
use super::source::Source;
use super::{Client, ClientError, ClientOptions, OutputReader, path};

impl Client {
    /// Begins a job; answers when its program runs or could not be executed. Asked again with the same number, nothing runs
    /// twice, and it answers how the job is.
    ///
    /// # Errors
    /// As [`Client::open_session`].
    pub async fn open_job(&self, key: &SandboxKey, id: SessionId, spec: SessionSpec) -> Result<JobInfo, ClientError> {
        self.call(Method::POST, &path(key, "/jobs"), Some(&OpenSession::new(id, spec))).await
    }

    /// Runs a command beside the workload of a live sandbox, in the background. `options` find the next daemon if this one
    /// dies or is replaced; the command runs once even so.
    ///
    /// # Errors
    /// As [`Client::open_job`]; [`ClientError::NoSuccessor`] where no daemon goes on.
    pub async fn start_job(
        &self,
        options: &ClientOptions,
        key: &SandboxKey,
        spec: SessionSpec,
    ) -> Result<JobInfo, ClientError> {
        let (id, mut client, mut resume) = (random_session_id(), self.clone(), Resume::new(options, Some(key)));
        loop {
            match client.open_job(key, id, spec.clone()).await {
                Ok(info) => return Ok(info),
                Err(error) => client = resume.after(error).await?,
            }
        }
    }

    /// The jobs of a sandbox, live or not, oldest first.
    ///
    /// # Errors
    /// Code [`NotFound`](sandpen_api::ErrorCode::NotFound).
    pub async fn jobs(&self, key: &SandboxKey) -> Result<Vec<JobInfo>, ClientError> {
        self.get(&path(key, "/jobs")).await
    }

    /// One of them.
    ///
    /// # Errors
    /// As [`Client::jobs`], and [`JobNotFound`](sandpen_api::ErrorCode::JobNotFound).
    pub async fn job(&self, key: &SandboxKey, id: SessionId) -> Result<JobInfo, ClientError> {
        self.get(&Source::job(key, id).path("")).await
    }

    /// Answers when a job has ended. `options` find the next daemon if this one dies or is replaced.
    ///
    /// # Errors
    /// As [`Client::job`]; [`ClientError::RemovedMeanwhile`] where its sandbox was removed before the next daemon could be
    /// asked, [`ClientError::NoSuccessor`] where there is none.
    pub async fn wait_job(
        &self,
        options: &ClientOptions,
        key: &SandboxKey,
        id: SessionId,
    ) -> Result<JobInfo, ClientError> {
        let (mut client, mut resume) = (self.clone(), Resume::new(options, Some(key)));
        loop {
            match client.wait_here(&Source::job(key, id)).await {
                Ok(info) => return Ok(info),
                Err(error) => client = resume.after(error).await?,
            }
        }
    }

    /// Reads a job's output. `options` find the next daemon if this one dies or is replaced.
    ///
    /// # Errors
    /// As [`Client::job`]; [`ClientError::NoSuccessor`] where no daemon goes on.
    pub async fn job_output(
        &self,
        options: &ClientOptions,
        key: &SandboxKey,
        id: SessionId,
        request: OutputQuery,
    ) -> Result<OutputReader, ClientError> {
        OutputReader::open(self.clone(), options, Source::job(key, id), request).await
    }

    /// Sends a signal, 1 to 64, to the process group of a job that runs.
    ///
    /// # Errors
    /// As [`Client::job`]; [`JobEnded`](sandpen_api::ErrorCode::JobEnded) and
    /// [`GuestUnreachable`](sandpen_api::ErrorCode::GuestUnreachable).
    pub async fn signal_job(&self, key: &SandboxKey, id: SessionId, signal: i32) -> Result<(), ClientError> {
        let body = Body::json(&SessionSignal { signal })?;
        let reply = self.send(Method::POST, &Source::job(key, id).path("/signal"), body).await?;
        reply.collect().await.map(drop)
    }
}
