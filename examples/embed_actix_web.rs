//! A small service that runs every request's script in a microVM of its own and streams what it
//! prints:
//!
//! ```text
//! cargo run --release --example embed_actix_web -- ROOTFS [STATE_DIR] [PORT]
//! curl -N --data 'echo hello; sleep 1; echo world' http://127.0.0.1:8080/run
//! curl http://127.0.0.1:8080/changes
//! ```
//!
//! It shows the three ways in: the [`Handle`] from a request handler, an actor of the application
//! that hears of every state change, and the graceful end.

use std::path::PathBuf;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use actix::{Actor, Context, Handler, Message, MessageResult};
use actix_web::web::{Bytes, Data};
use actix_web::{App, HttpResponse, HttpServer, Responder, get, post};
use futures::stream::LocalBoxStream;
use sandpen::actors::log_writer::LogChunk;
use sandpen::actors::monitor::StateChanged;
use sandpen::actors::spec::{Rootfs, SandboxName, SandboxSpec};
use sandpen::actors::supervisor::SubscribeStateChanges;
use sandpen::{Handle, LogStart, OutputOptions, Sandpen, SandpenError};

/// An actor of the application: remembers the latest state changes.
#[derive(Default)]
struct Changes(Vec<String>);

impl Actor for Changes {
    type Context = Context<Self>;
}

impl Handler<StateChanged> for Changes {
    type Result = ();

    fn handle(&mut self, StateChanged { row }: StateChanged, _: &mut Self::Context) {
        self.0.push(format!("{} {}", row.spec.key, row.state.status()));
    }
}

#[derive(Message)]
#[rtype(result = "String")]
struct GetChanges;

impl Handler<GetChanges> for Changes {
    type Result = MessageResult<GetChanges>;

    fn handle(&mut self, _: GetChanges, _: &mut Self::Context) -> Self::Result {
        MessageResult(self.0.join("\n") + "\n")
    }
}

struct Service {
    sandpen: Handle,
    changes: actix::Addr<Changes>,
    rootfs: PathBuf,
    jobs: AtomicU64,
}

#[post("/run")]
async fn run(service: Data<Service>, script: Bytes) -> impl Responder {
    let number = service.jobs.fetch_add(1, Ordering::Relaxed);
    let name = match SandboxName::new(format!("job-{}-{number}", std::process::id())) {
        Ok(name) => name,
        Err(error) => return HttpResponse::InternalServerError().body(error.to_string()),
    };
    let script = match std::str::from_utf8(&script) {
        Ok(script) => script,
        Err(error) => return HttpResponse::BadRequest().body(error.to_string()),
    };
    let rootfs = Rootfs::Native(service.rootfs.clone());
    let mut spec = SandboxSpec::new(name, rootfs, vec!["/bin/sh".into(), "-c".into(), script.into()]);
    spec.timeout = Some(Duration::from_mins(1));
    let key = spec.key.clone();
    let row = match service.sandpen.start_sandbox(spec).await {
        Ok(row) => row,
        Err(error) => return HttpResponse::ServiceUnavailable().body(error.to_string()),
    };
    let from = LogStart::Generation(row.first_generation());
    let options = OutputOptions { from, follow: true, ..OutputOptions::default() };
    match service.sandpen.output(&key, options).await {
        Ok(mut output) => HttpResponse::Ok().streaming(Box::pin(async_stream::try_stream! {
            while let Some(chunk) = output.next().await? {
                if let LogChunk::Bytes { bytes, .. } = chunk {
                    yield Bytes::from(bytes);
                }
            }
            // Nobody asks for this job again.
            service.sandpen.wait(&key).await?;
            service.sandpen.remove(&key, false).await?;
        })
            as LocalBoxStream<'static, Result<Bytes, SandpenError>>),
        Err(error) => HttpResponse::InternalServerError().body(error.to_string()),
    }
}

#[get("/changes")]
async fn list_changes(service: Data<Service>) -> impl Responder {
    service.changes.send(GetChanges).await.unwrap_or_default()
}

#[actix_web::main]
async fn serve(rootfs: PathBuf, state_dir: PathBuf, port: u16) -> Result<(), Box<dyn std::error::Error>> {
    let sandpen = Sandpen::builder().state_dir(state_dir).start()?;
    let changes = Changes::default().start();
    let recipient = changes.clone().recipient();
    sandpen.handle().supervisor().send(SubscribeStateChanges { recipient }).await?;
    let service = Data::new(Service { sandpen: sandpen.handle(), changes, rootfs, jobs: AtomicU64::new(0) });
    let server = HttpServer::new(move || App::new().app_data(service.clone()).service(run).service(list_changes))
        .workers(1)
        .bind(("127.0.0.1", port))?;
    for address in server.addrs() {
        println!("listening on http://{address}");
    }
    // Ends on SIGINT and SIGTERM.
    server.run().await?;
    sandpen.shutdown(Some(Duration::from_secs(5))).await?;
    Ok(())
}

fn main() -> Result<(), Box<dyn std::error::Error>> {
    // sandpen starts this very program again for its helpers; this runs and ends them.
    sandpen::run_helper_if_asked();
    let mut arguments = std::env::args().skip(1);
    let rootfs = arguments.next().ok_or("usage: embed_actix_web ROOTFS [STATE_DIR] [PORT]")?;
    let state_dir = arguments.next().map_or_else(|| std::env::temp_dir().join("sandpen-embed"), PathBuf::from);
    let port = arguments.next().map_or(Ok(8080), |port| port.parse())?;
    serve(std::fs::canonicalize(rootfs)?, state_dir, port)
}
