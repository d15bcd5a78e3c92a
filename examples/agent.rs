//! A small service for agents: one microVM that runs nothing by itself, and commands in it, side by side, whose output is
//! streamed to whoever asked for them:
//!
//! ```text
//! cargo run --release --example agent -- ROOTFS [STATE_DIR] [PORT]
//! curl -N --data 'echo hello; sleep 1; echo world' http://127.0.0.1:8080/exec
//! curl --data 'cat >/tmp/notes' http://127.0.0.1:8080/exec
//! curl http://127.0.0.1:8080/sessions
//! ```
//!
//! The microVM and all that is in it outlive this program: killed and started again it goes on with the same one. Asked to
//! end it ends the microVM as well.

use std::path::PathBuf;
use std::time::Duration;

use actix_web::web::{Bytes, Data};
use actix_web::{App, HttpResponse, HttpServer, Responder, get, post};
use futures::stream::LocalBoxStream;
use sandpen::actors::spec::{ByteString, Rootfs, SandboxKey, SandboxName, SandboxSpec};
use sandpen::session::SessionSpec;
use sandpen::{Handle, Sandpen, SandpenError};

struct Agent {
    sandpen: Handle,
    key: SandboxKey,
}

/// Has the sandbox run: the one of before, if it does.
async fn keep(sandpen: &Handle, key: &SandboxKey, rootfs: PathBuf) -> Result<(), SandpenError> {
    if let Some(row) = sandpen.get(key).await?
        && row.state.is_live()
    {
        return Ok(());
    }
    let spec = SandboxSpec { idle: true, ..SandboxSpec::new(key.clone(), Rootfs::Native(rootfs), Vec::new()) };
    sandpen.start_sandbox(spec).await.map(drop)
}

/// What it writes, and in the last line how it ended. A client that goes away ends it after a while.
#[post("/exec")]
async fn exec(agent: Data<Agent>, script: Bytes) -> impl Responder {
    let script = match std::str::from_utf8(&script) {
        Ok(script) => ByteString::from(script),
        Err(error) => return HttpResponse::BadRequest().body(error.to_string()),
    };
    let command = ["/bin/sh".into(), "-c".into(), script];
    let spec = SessionSpec { timeout: Some(Duration::from_mins(5)), ..SessionSpec::command(command) };
    match agent.sandpen.exec(&agent.key, spec).await {
        Ok(mut session) => HttpResponse::Ok().streaming(Box::pin(async_stream::try_stream! {
            while let Some(output) = session.next().await? {
                yield output.bytes;
            }
            let end = session.wait().await?;
            yield Bytes::from(format!("{end}\n"));
        })
            as LocalBoxStream<'static, Result<Bytes, SandpenError>>),
        Err(error) => HttpResponse::ServiceUnavailable().body(error.to_string()),
    }
}

#[get("/sessions")]
async fn sessions(agent: Data<Agent>) -> impl Responder {
    match agent.sandpen.sessions(&agent.key).await {
        Ok(sessions) => HttpResponse::Ok().json(sessions),
        Err(error) => HttpResponse::ServiceUnavailable().body(error.to_string()),
    }
}

#[actix_web::main]
async fn serve(rootfs: PathBuf, state_dir: PathBuf, port: u16) -> Result<(), Box<dyn std::error::Error>> {
    let sandpen = Sandpen::builder().state_dir(state_dir).start()?;
    let (handle, key) = (sandpen.handle(), SandboxKey::new(SandboxName::new("agent")?));
    keep(&handle, &key, rootfs).await?;
    let agent = Data::new(Agent { sandpen: handle, key });
    let server = HttpServer::new(move || App::new().app_data(agent.clone()).service(exec).service(sessions))
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
    let rootfs = arguments.next().ok_or("usage: agent ROOTFS [STATE_DIR] [PORT]")?;
    let state_dir = arguments.next().map_or_else(|| std::env::temp_dir().join("sandpen-agent"), PathBuf::from);
    let port = arguments.next().map_or(Ok(8080), |port| port.parse())?;
    serve(std::fs::canonicalize(rootfs)?, state_dir, port)
}
