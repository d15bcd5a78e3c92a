//! Jobs: sessions whose output goes to logs of their own, and whose end is on record.

use sandpen_actors::database::{GetJob, JobRow, ListJobs};
use sandpen_actors::log_writer::bytes_logged;
use sandpen_actors::supervisor::{HoldRemoval, OpenJobStdin, StartJob, SupervisorError, TellJob, WaitJob};
use sandpen_client::random_session_id;
use sandpen_types::job::JobInfo;
use sandpen_types::row::SandboxRow;
use sandpen_types::session::{SessionId, SessionSpec};
use sandpen_types::spec::{SandboxKey, TerminalSize};
use sandpen_vmm::blocking::blocking;
use sandpen_vmm::sessions::{SessionError, SessionRequest};

use super::super::error::SandpenError;
use super::super::output::{Output, OutputOf, OutputOptions};
use super::{Handle, Stdin, StdinWriter};

impl Handle {
    /// Begins a job in a live sandbox: a command beside its workload, as [`Handle::exec`] runs one, whose output goes to a log
    /// of its own without any client. Resolves when it runs, or with its end where it could not be executed.
    ///
    /// # Errors
    /// As [`Handle::exec`].
    pub async fn start_job(&self, key: &SandboxKey, spec: SessionSpec) -> Result<JobInfo, SandpenError> {
        self.open_job(key, random_session_id(), spec).await
    }

    /// The same under a number that the caller made, at random. Asked again with it, nothing runs twice, and it answers how the
    /// job is.
    ///
    /// # Errors
    /// As [`Handle::exec`], and that a session has that number which is no job.
    pub async fn open_job(&self, key: &SandboxKey, id: SessionId, spec: SessionSpec) -> Result<JobInfo, SandpenError> {
        spec.check().map_err(SessionError::from)?;
        let row = self.supervisor.send(StartJob { key: key.clone(), id, spec }).await??;
        self.with_bytes(row).await
    }

    /// The jobs of a sandbox, live or not, oldest first: those that run, and of those that have ended the newest
    /// [`ENDED_JOBS_KEPT`](sandpen_types::job::ENDED_JOBS_KEPT).
    ///
    /// # Errors
    /// `NotFound`, or the database's.
    pub async fn jobs(&self, key: &SandboxKey) -> Result<Vec<JobInfo>, SandpenError> {
        let sandbox = self.sandbox(key).await?;
        let rows = self.database.send(ListJobs(sandbox.id)).await??;
        self.all_with_bytes(rows).await
    }

    /// One of them.
    ///
    /// # Errors
    /// As [`Handle::jobs`], and that there is none of that number.
    pub async fn job(&self, key: &SandboxKey, id: SessionId) -> Result<JobInfo, SandpenError> {
        let row = self.job_row(&self.sandbox(key).await?, id).await?;
        self.with_bytes(row).await
    }

    /// Resolves when a job has ended and all of its output is on file.
    ///
    /// # Errors
    /// As [`Handle::job`].
    pub async fn wait_job(&self, key: &SandboxKey, id: SessionId) -> Result<JobInfo, SandpenError> {
        let row = self.supervisor.send(WaitJob { key: key.clone(), id }).await??;
        self.with_bytes(row).await
    }

    /// Sends a signal, 1 to 64, to the process group of a job that runs.
    ///
    /// # Errors
    /// As [`Handle::job`]; that it has ended, and [`SessionError`].
    pub async fn signal_job(&self, key: &SandboxKey, id: SessionId, signal: i32) -> Result<(), SandpenError> {
        self.tell_job(key, id, SessionRequest::Signal(signal)).await
    }

    /// Tells the terminal of a job that runs a size.
    ///
    /// # Errors
    /// As [`Handle::signal_job`], and that it has no terminal.
    pub async fn resize_job(&self, key: &SandboxKey, id: SessionId, size: TerminalSize) -> Result<(), SandpenError> {
        self.tell_job(key, id, SessionRequest::Resize(size)).await
    }

    /// The standard input of a job that runs and has one.
    ///
    /// # Errors
    /// As [`Handle::signal_job`], and that it has no standard input.
    pub async fn job_stdin(&self, key: &SandboxKey, id: SessionId) -> Result<StdinWriter, SandpenError> {
        let stdin = self.supervisor.send(OpenJobStdin { key: key.clone(), id }).await??;
        Ok(StdinWriter(Stdin::Job(stdin)))
    }

    /// A job's output, from its log: as [`Handle::output`] has a sandbox's. A job is one generation, number 1.
    ///
    /// # Errors
    /// As [`Handle::job`], or the log's.
    pub async fn job_output(
        &self,
        key: &SandboxKey,
        id: SessionId,
        options: OutputOptions,
    ) -> Result<Output, SandpenError> {
        // Before the look: nothing that is there then removes itself.
        let hold = self.supervisor.send(HoldRemoval { key: key.clone() }).await??;
        let row = self.job_row(&self.sandbox(key).await?, id).await?;
        let log = self.state_dir.job_log(row.sandbox, id);
        Output::open(log, self.supervisor.clone(), hold, (OutputOf::Job(key.clone(), id), 1), options).await
    }

    async fn tell_job(&self, key: &SandboxKey, id: SessionId, request: SessionRequest) -> Result<(), SandpenError> {
        Ok(self.supervisor.send(TellJob { key: key.clone(), id, request }).await??)
    }

    async fn sandbox(&self, key: &SandboxKey) -> Result<SandboxRow, SandpenError> {
        Ok(self.get(key).await?.ok_or_else(|| SupervisorError::NotFound { key: key.clone() })?)
    }

    async fn job_row(&self, sandbox: &SandboxRow, id: SessionId) -> Result<JobRow, SandpenError> {
        let row = self.database.send(GetJob { sandbox: sandbox.id, id }).await??;
        Ok(row.ok_or_else(|| SupervisorError::JobNotFound { key: sandbox.spec.key.clone(), id })?)
    }

    async fn with_bytes(&self, row: JobRow) -> Result<JobInfo, SandpenError> {
        let mut all = self.all_with_bytes(vec![row]).await?;
        all.pop().ok_or(SandpenError::Gone)
    }

    /// With what each has written, which its log says.
    async fn all_with_bytes(&self, rows: Vec<JobRow>) -> Result<Vec<JobInfo>, SandpenError> {
        let dir = self.state_dir.clone();
        let counted = move || {
            let count = |row: JobRow| Ok(bytes_logged(&dir.job_log(row.sandbox, row.id)).map(|bytes| row.info(bytes))?);
            rows.into_iter().map(count).collect()
        };
        blocking(counted).await.map_err(|_| SandpenError::Gone)?
    }
}
