//! The HTTP server on the unix socket: who may talk to it, and the routes.

use std::any::Any;
use std::io;
use std::os::unix::net::UnixListener;

use actix_web::body::MessageBody;
use actix_web::dev::{Extensions, Server, ServiceRequest, ServiceResponse};
use actix_web::middleware::{Next, from_fn};
use actix_web::web::Data;
use actix_web::{App, Error, HttpServer};
use sandpen_api::ErrorCode;
use tokio::net::UnixStream;

use super::reject::Rejection;
use super::routes;
use super::shared::Shared;

/// Threads that serve requests. All of them only wait for others, so two are plenty; the second is
/// there for one that is busy encoding output.
const WORKERS: usize = 2;
/// Seconds that requests have to end once the server stops; more than the daemon's own limit for
/// readers, which ends them in order.
const SHUTDOWN_SECONDS: u64 = 8;

/// The user at the other end of a connection.
#[derive(Clone, Copy)]
struct Peer(u32);

/// The server; it serves while the returned future is polled.
pub fn serve(listener: UnixListener, shared: Data<Shared>) -> io::Result<Server> {
    let server = HttpServer::new(move || {
        App::new().app_data(shared.clone()).wrap(from_fn(only_our_user)).configure(routes::configure)
    })
    .on_connect(remember_peer)
    .workers(WORKERS)
    .disable_signals()
    .shutdown_timeout(SHUTDOWN_SECONDS)
    // A client that closed its end is gone: its long poll or stream ends at once.
    .h1_allow_half_closed(false)
    .listen_uds(listener)?;
    Ok(server.run())
}

fn remember_peer(connection: &dyn Any, data: &mut Extensions) {
    let Some(stream) = connection.downcast_ref::<UnixStream>() else { return };
    match stream.peer_cred() {
        Ok(peer) => {
            data.insert(Peer(peer.uid()));
        }
        Err(error) => tracing::warn!(%error, "cannot tell who connected; refusing"),
    }
}

/// Beside the permissions of directory and socket: the kernel says who connected.
async fn only_our_user(
    request: ServiceRequest,
    next: Next<impl MessageBody>,
) -> Result<ServiceResponse<impl MessageBody>, Error> {
    let ours = nix::unistd::geteuid().as_raw();
    match request.conn_data::<Peer>() {
        Some(Peer(user)) if *user == ours || *user == 0 => next.call(request).await,
        Some(Peer(user)) => {
            let message = format!("user id {user} may not use the daemon of user id {ours}");
            Err(Rejection::new(ErrorCode::Forbidden, message).into())
        }
        None => Err(Rejection::new(ErrorCode::Forbidden, "cannot tell who connected").into()),
    }
}
