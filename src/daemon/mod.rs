//! The daemon: the orchestrator of one state directory, served over HTTP on a unix socket.
//!
//! ```text
//!   lock (by the orchestrator) ─▶ adopt ─▶ socket published ─▶ ready told ─▶ serving
//!     (a service manager is told READY and STOPPING)
//!     serving ─ SIGTERM, SIGINT, SIGHUP or POST /v1/shutdown ─▶ socket removed, new work refused
//!       ─▶ sandboxes stopped (killed at a second signal) or left ─▶ streams and waits ended ─▶ server stopped
//! ```

mod body;
mod disk_usage;
mod drivers;
mod events;
mod extract;
mod files;
mod images;
pub mod inherited;
mod jobs;
mod keeper;
mod notify;
mod ready;
mod reject;
mod replace;
mod routes;
mod server;
mod sessions;
mod shared;
mod socket;
mod stats;
mod stream;
mod strict;
mod testing;
mod view;

use std::io;
use std::path::PathBuf;
use std::time::Duration;

use actix_web::web::Data;
use sandpen_types::state_dir::StateDir;
use sandpen_vmm::driver::Drivers;
use tokio::signal::unix::{SignalKind, signal};

pub use keeper::keep;
pub use replace::{ReplaceError, check_can_take_over};
use sandpen_client::private_dir::{PrivateDir, PrivateDirError};
use sandpen_drivers::HostOptions;
use sandpen_drivers::krun_host::KrunUnusable;
use shared::{Shared, ShutdownOrder};
pub use socket::SocketError;

use crate::api::{API_VERSION, ErrorCode, ErrorDetail, NAME, Readiness, Version};
use crate::orchestrator::{LockError, Sandpen, StartError};

/// How long readers may take for the rest of an ended sandbox's output when the daemon ends.
const DRAIN_LIMIT: Duration = Duration::from_secs(5);

/// How to run the daemon.
#[derive(Debug, Clone)]
pub struct DaemonOptions {
    /// Where everything of it lies.
    pub state_dir: PathBuf,
    /// Where guest kernels lie.
    pub data_dir: PathBuf,
    /// Leave the caller's session, and tell readiness on standard output ([`Readiness`]).
    pub background: bool,
    /// What a signal does to the sandboxes: stops them with this grace, or leaves them running.
    pub stop_sandboxes: Option<Duration>,
    /// Bytes that stay free on the state directory's disk; see [`crate::SandpenBuilder::reserve`].
    pub reserve: Option<u64>,
    /// The budget of the store of images in bytes; see [`crate::SandpenBuilder::image_budget`].
    pub image_budget: Option<u64>,
    /// The drivers; `None` for all that work on this host.
    pub drivers: Option<Drivers>,
    /// How those are to be.
    pub host: HostOptions,
}

/// Why the daemon could not start or ended badly.
#[derive(Debug, thiserror::Error)]
pub enum DaemonError {
    /// The state directory cannot be used.
    #[error(transparent)]
    StateDir(#[from] PrivateDirError),
    /// The orchestrator could not start.
    #[error(transparent)]
    Start(#[from] StartError),
    /// The libkrunfw that was named is of no use.
    #[error("no daemon was started")]
    Krunfw(#[from] KrunUnusable),
    /// The socket could not be made.
    #[error("cannot make the daemon's socket")]
    Socket(#[from] SocketError),
    /// The system refused a step.
    #[error("{action}")]
    System {
        /// What was being done.
        action: &'static str,
        /// The cause.
        #[source]
        source: io::Error,
    },
    /// The HTTP server ended although nobody asked.
    #[error("the HTTP server ended by itself")]
    ServerEnded,
    /// The orchestrator could not end in order.
    #[error("the shutdown was not clean: {}", .0.one_line())]
    Shutdown(ErrorDetail),
}

impl DaemonError {
    /// Whether another process has the state directory.
    pub fn is_already_running(&self) -> bool {
        matches!(self, Self::Start(StartError::StateDir(LockError::Held { .. })))
    }

    /// For programs.
    pub fn code(&self) -> ErrorCode {
        if self.is_already_running() { ErrorCode::AlreadyRunning } else { ErrorCode::Internal }
    }

    fn system(action: &'static str) -> impl FnOnce(io::Error) -> Self {
        move |source| Self::System { action, source }
    }
}

/// Runs the daemon until it is told to end. Blocks; call it from a thread without a runtime.
///
/// # Errors
/// See [`DaemonError`]. With [`DaemonOptions::background`] a failure to start has been told to the
/// parent as well.
pub fn run(options: &DaemonOptions) -> Result<(), DaemonError> {
    let started = prepare(options).and_then(|dir| start(options, &dir));
    let (sandpen, published, listener) = match started {
        Ok(started) => started,
        Err(error) => {
            if options.background {
                // A parent that is gone reads nothing; the log has the error as well.
                let _ = ready::tell(&Readiness::Failed(ErrorDetail::new(error.code(), &error)));
            }
            return Err(error);
        }
    };
    actix_web::rt::System::new().block_on(serve(options, sandpen, published, listener))
}

fn prepare(options: &DaemonOptions) -> Result<StateDir, DaemonError> {
    // Whoever started us may have blocked the signals that end us.
    let unblocked = nix::sys::signal::SigSet::empty().thread_set_mask();
    unblocked.map_err(|errno| DaemonError::system("taking signals")(errno.into()))?;
    if options.background {
        // Fails only for a leader of a process group, which then is as far from the terminal as
        // its parent wanted it.
        if let Err(error) = nix::unistd::setsid() {
            tracing::debug!(%error, "staying in the session");
        }
    }
    let dir = PrivateDir::of_daemon(&options.state_dir)?.state_dir().clone();
    nix::sys::stat::umask(nix::sys::stat::Mode::from_bits_truncate(0o077));
    // No directory of the caller's stays in use; `dir` is absolute.
    std::env::set_current_dir("/").map_err(DaemonError::system("changing to the directory /"))?;
    inherited::raise_limits();
    Ok(dir)
}

type Started = (Sandpen, socket::Published, std::os::unix::net::UnixListener);

fn start(options: &DaemonOptions, dir: &StateDir) -> Result<Started, DaemonError> {
    let drivers = if let Some(drivers) = &options.drivers {
        drivers.clone()
    } else {
        drivers::offer(dir, &options.data_dir, &options.host)?
    };
    let mut builder = Sandpen::builder().state_dir(dir.path()).data_dir(&options.data_dir).drivers(drivers);
    if let Some(reserve) = options.reserve {
        builder = builder.reserve(reserve);
    }
    if let Some(budget) = options.image_budget {
        builder = builder.image_budget(budget);
    }
    let sandpen = builder.start()?;
    let (published, listener) = socket::Published::new(dir)?;
    Ok((sandpen, published, listener))
}

async fn serve(
    options: &DaemonOptions,
    sandpen: Sandpen,
    published: socket::Published,
    listener: std::os::unix::net::UnixListener,
) -> Result<(), DaemonError> {
    let handle = sandpen.handle();
    let dir = handle.state_dir().path().to_owned();
    let pid = std::process::id();
    let version = env!("CARGO_PKG_VERSION").to_owned();
    let version = Version { name: NAME.to_owned(), version, api: API_VERSION, pid, state_dir: dir.clone() };
    let (shared, mut orders) = Shared::new(handle, version);
    let shared = Data::new(shared);

    let mut signals = Signals::new().map_err(DaemonError::system("taking signals"))?;
    let server = server::serve(listener, shared.clone()).map_err(DaemonError::system("starting the HTTP server"))?;
    let server_handle = server.handle();
    let mut server = actix_web::rt::spawn(server);
    tracing::info!(pid, state_dir = ?dir, "serving");
    for restriction in inherited::restrictions() {
        tracing::warn!("whoever started this daemon has left it with less: {restriction}");
    }
    if options.background
        && let Err(error) = ready::tell(&Readiness::Serving { pid })
    {
        tracing::debug!(%error, "nobody waits for our readiness");
    }

    notify::tell(notify::Stage::Ready);
    // Nobody waits for it, and it can be done again at any time.
    let images = shared.handle.clone();
    actix_web::rt::spawn(async move { images.look_at_images().await });

    let (order, failed) = tokio::select! {
        name = signals.next() => {
            tracing::info!(signal = name, "ending");
            (ShutdownOrder { grace: options.stop_sandboxes, done: tokio::sync::oneshot::channel().0 }, None)
        }
        order = orders.recv() => match order {
            Some(order) => { tracing::info!("ending on request"); (order, None) }
            None => (ShutdownOrder { grace: None, done: tokio::sync::oneshot::channel().0 }, Some(DaemonError::ServerEnded)),
        },
        result = &mut server => {
            tracing::error!(?result, "the HTTP server ended by itself");
            (ShutdownOrder { grace: None, done: tokio::sync::oneshot::channel().0 }, Some(DaemonError::ServerEnded))
        }
    };

    notify::tell(notify::Stage::Stopping);
    shared.refuse_new_work();
    // While we still hold the lock: later it could be another daemon's.
    published.remove();
    if order.grace.is_none() {
        shared.ending.cancel();
    }
    let result = end_sandboxes(sandpen, order.grace, &mut signals).await;
    // Whoever asked may have gone away.
    let _ = order.done.send(result.clone());
    // Readers of ended sandboxes get the rest of the output, unless they are too slow.
    let mut stopped = std::pin::pin!(server_handle.stop(true));
    tokio::select! {
        () = &mut stopped => {}
        () = tokio::time::sleep(DRAIN_LIMIT) => {
            shared.ending.cancel();
            stopped.await;
        }
    }
    tracing::info!("ended");
    match failed {
        Some(error) => Err(error),
        None => result.map_err(DaemonError::Shutdown),
    }
}

/// Ends the orchestrator. A second signal cuts the sandboxes' grace short.
async fn end_sandboxes(sandpen: Sandpen, grace: Option<Duration>, signals: &mut Signals) -> Result<(), ErrorDetail> {
    let handle = sandpen.handle();
    let mut ended = std::pin::pin!(sandpen.shutdown(grace));
    let ended = tokio::select! {
        ended = &mut ended => ended,
        name = signals.next(), if grace.is_some() => {
            tracing::warn!(signal = name, "killing the sandboxes that still run");
            let killed = async {
                match handle.list().await {
                    Ok(rows) => {
                        let live = rows.iter().filter(|row| row.state.is_live());
                        // Their ends are the orchestrator's to wait for.
                        let kills = live.map(|row| handle.kill(&row.spec.key, nix::libc::SIGKILL));
                        drop(futures::future::join_all(kills).await);
                    }
                    Err(error) => tracing::warn!(%error, "the sandboxes cannot be listed"),
                }
            };
            tokio::join!(ended, killed).0
        }
    };
    ended.map_err(|error| ErrorDetail::new(error.code(), &error))
}

/// The signals that end the daemon.
struct Signals {
    terminate: tokio::signal::unix::Signal,
    interrupt: tokio::signal::unix::Signal,
    hangup: tokio::signal::unix::Signal,
}

impl Signals {
    fn new() -> io::Result<Self> {
        Ok(Self {
            terminate: signal(SignalKind::terminate())?,
            interrupt: signal(SignalKind::interrupt())?,
            hangup: signal(SignalKind::hangup())?,
        })
    }

    /// The next one's name.
    async fn next(&mut self) -> &'static str {
        tokio::select! {
            _ = self.terminate.recv() => "SIGTERM",
            _ = self.interrupt.recv() => "SIGINT",
            _ = self.hangup.recv() => "SIGHUP",
        }
    }
}
