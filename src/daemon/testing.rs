//! Faults on purpose: a route that is there in builds for tests only.

#[cfg(feature = "testing")]
pub(super) use with_faults::configure;

/// Adds nothing.
#[cfg(not(feature = "testing"))]
pub(super) fn configure(_: &mut actix_web::web::ServiceConfig) {}

#[cfg(feature = "testing")]
mod with_faults {
    use actix_web::HttpResponse;
    use actix_web::web::{self, Data, Json};
    use sandpen_actors::testing::panic::{ActorKind, InjectPanic, PanicPlace};
    use sandpen_types::spec::{SandboxKey, SandboxName};
    use serde::Deserialize;

    use crate::daemon::reject::Rejection;
    use crate::daemon::shared::Shared;

    /// Adds `POST /v1/testing/panic`.
    pub(in crate::daemon) fn configure(config: &mut web::ServiceConfig) {
        config.service(web::resource("/v1/testing/panic").route(web::post().to(inject_panic)));
    }

    #[derive(Deserialize)]
    #[serde(deny_unknown_fields)]
    struct PanicRequest {
        actor: ActorKind,
        place: PanicPlace,
        /// Of no project file.
        sandbox: Option<SandboxName>,
    }

    /// 204, or 404 when there is no such actor at the moment.
    async fn inject_panic(shared: Data<Shared>, panic: Json<PanicRequest>) -> Result<HttpResponse, Rejection> {
        let PanicRequest { actor, place, sandbox } = panic.into_inner();
        let panic = InjectPanic { actor, place, sandbox: sandbox.map(SandboxKey::new) };
        let was_there = shared.handle.inject_panic(panic).await?;
        Ok(if was_there { HttpResponse::NoContent().finish() } else { HttpResponse::NotFound().finish() })
    }
}
