//! sandpen runs untrusted code in microVMs and keeps them running: a library to embed, a daemon
//! and a command line, with one core.
//!
//! | module | what it holds |
//! | --- | --- |
//! | [`orchestrator`] | [`Sandpen`] and its [`Handle`]: the facade of actors and drivers |
//! | [`daemon`] | the facade behind HTTP on a unix socket |
//! | [`doctor`] | what of this host hinders sandpen |
//!
//! May know: all crates below. May not: their insides. What they offer to embedders is here again under its old path
//! ([`actors`], [`api`], [`client`], [`driver`], [`kernel`]).

pub mod daemon;
pub mod doctor;
mod metrics;
pub mod orchestrator;
pub mod paths;

pub use orchestrator::{
    ArchiveFormat, Events, EventsOptions, FileRange, FileRead, FileWatch, FileWrite, Files, Handle, ImageError,
    ImageInfo, ImageSource, LoadOptions, LockError, Output, OutputOptions, PruneOptions, PullError, PullMirror,
    PullRequest, PushError, PushRequest, PushedImage, RegistryAccess, Sandpen, SandpenBuilder, SandpenError,
    SavedImages, Session, SessionOutput, SessionStdin, StartError, StatsOptions, StdinWriter, VmmLog, VmmLogOptions,
    WorkError,
};
pub use sandpen_actors as actors;
pub use sandpen_api as api;
pub use sandpen_client as client;
pub use sandpen_client::private_dir;
pub use sandpen_drivers as driver;
pub use sandpen_drivers::run_helper_if_asked;
pub use sandpen_files as files;
pub use sandpen_images as images;
pub use sandpen_kernels as kernel;
pub use sandpen_registry as registry;
pub use sandpen_types::log_start::LogStart;
pub use sandpen_types::{process_entry, session};

/// Waits on this thread for what a [`Handle`] answers, on a small runtime of tokio's: for programs that have none. Inside
/// of one, await it; blocking there would hold up others.
///
/// # Errors
/// On a thread of a tokio runtime, one of its `spawn_blocking` too, a refusal that says what to do; the future is dropped
/// without a look at it. Else what the system says when it has no room for a runtime.
pub fn block_on<F: Future>(future: F) -> std::io::Result<F::Output> {
    if tokio::runtime::Handle::try_current().is_ok() {
        let refusal = "sandpen::block_on was called on a thread of a tokio runtime, which it would hold up; await the \
                       future there, or give it to Handle::block_on in tokio::task::spawn_blocking";
        return Err(std::io::Error::other(refusal));
    }
    Ok(tokio::runtime::Builder::new_current_thread().enable_all().build()?.block_on(future))
}

/// The README's example is compiled with the documentation tests.
#[cfg(doctest)]
#[doc = include_str!("../README.md")]
struct Readme;

#[cfg(test)]
mod tests {
    #[test]
    fn blocking_is_refused_in_words_on_a_runtimes_thread() {
        assert_eq!(super::block_on(async { 7 }).unwrap(), 7);
        let refused = super::block_on(async { super::block_on(async { 7 }) }).unwrap().unwrap_err();
        assert!(refused.to_string().contains("await the future there"), "{refused}");
        assert_eq!(super::block_on(async { 8 }).unwrap(), 8, "and nothing is left of it");
    }
}
