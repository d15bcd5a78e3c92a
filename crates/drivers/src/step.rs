//! A step of a start: how its failure is told, and how what it does on a disk is done off the calling thread.

use sandpen_vmm::driver::DriverError;

/// An error of the step `step`.
pub(super) fn failed(step: &str, source: impl std::error::Error + Send + Sync + 'static) -> DriverError {
    DriverError::Launch { step: step.to_owned(), source: Box::new(source) }
}

/// Runs what may wait for a disk, but not for long, off the calling thread: reading and writing small files. What
/// takes longer is [work](super::work).
pub(super) async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, DriverError> + Send + 'static,
) -> Result<T, DriverError> {
    sandpen_vmm::blocking::blocking(work).await.map_err(|lost| failed("preparing the microVM", lost))?
}
