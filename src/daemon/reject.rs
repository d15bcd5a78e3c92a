//! Failures as HTTP answers: `{"error":{"code","message","chain"}}` with a fitting status.

use actix_web::http::StatusCode;
use actix_web::{HttpRequest, HttpResponse, ResponseError};
use sandpen_actors::supervisor::SupervisorError;
use sandpen_types::spec::SandboxKey;

use crate::api::{ErrorBody, ErrorCode, ErrorDetail};
use crate::orchestrator::SandpenError;

/// A refusal or failure of a request.
#[derive(Debug, thiserror::Error)]
#[error("{}", .detail.one_line())]
pub struct Rejection {
    status: StatusCode,
    detail: ErrorDetail,
}

impl Rejection {
    /// A refusal.
    pub fn new(code: ErrorCode, message: impl Into<String>) -> Self {
        Self::from_detail(ErrorDetail::message(code, message))
    }

    /// The same with the causes of `error`.
    pub fn from_error(code: ErrorCode, error: &(dyn std::error::Error + 'static)) -> Self {
        Self::from_detail(ErrorDetail::new(code, error))
    }

    /// A failure that already has its form.
    pub fn from_detail(detail: ErrorDetail) -> Self {
        let code = detail.code.known().unwrap_or(ErrorCode::Internal);
        let status = StatusCode::from_u16(code.http_status()).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
        Self { status, detail }
    }

    /// No sandbox of that key.
    pub fn not_found(key: &SandboxKey) -> Self {
        SandpenError::from(SupervisorError::NotFound { key: key.clone() }).into()
    }

    /// The daemon ends and takes no new work.
    pub fn shutting_down() -> Self {
        Self::new(ErrorCode::ShuttingDown, "the daemon is shutting down; try again in a moment")
    }
}

impl ResponseError for Rejection {
    fn status_code(&self) -> StatusCode {
        self.status
    }

    fn error_response(&self) -> HttpResponse {
        if self.status.is_server_error() {
            tracing::warn!(code = %self.detail.code, error = self.detail.one_line(), "a request failed");
        }
        HttpResponse::build(self.status).json(ErrorBody { error: self.detail.clone() })
    }
}

impl From<SandpenError> for Rejection {
    fn from(error: SandpenError) -> Self {
        Self::from_error(error.code(), &error)
    }
}

/// For actix's own refusals of bodies, queries and paths.
pub fn invalid<E: std::fmt::Display>(error: E, _request: &HttpRequest) -> actix_web::Error {
    Rejection::new(ErrorCode::InvalidRequest, error.to_string()).into()
}

/// The same for JSON bodies, which may be too large.
#[expect(clippy::needless_pass_by_value, reason = "actix calls it like this")]
pub fn invalid_json(error: actix_web::error::JsonPayloadError, _request: &HttpRequest) -> actix_web::Error {
    use actix_web::error::JsonPayloadError as E;
    let code = match &error {
        E::Overflow { .. } | E::OverflowKnownLength { .. } => ErrorCode::TooLarge,
        _ => ErrorCode::InvalidRequest,
    };
    // serde's own words already say line and column.
    let message = match &error {
        E::Deserialize(cause) => format!("the body is not what is expected here: {cause}"),
        E::ContentType => "send the body with Content-Type: application/json".to_owned(),
        other => other.to_string(),
    };
    Rejection::new(code, message).into()
}

/// Answers what no route takes.
pub async fn no_such_route() -> Result<HttpResponse, Rejection> {
    Err(Rejection::new(ErrorCode::NoSuchRoute, "there is no such path in this API; see docs/http-api.md"))
}

/// Answers a known path with another method.
pub async fn method_not_allowed() -> Result<HttpResponse, Rejection> {
    Err(Rejection::new(ErrorCode::MethodNotAllowed, "this path does not take that method; see docs/http-api.md"))
}

#[cfg(test)]
mod tests {
    use actix_web::body::to_bytes;
    use actix_web::test::{TestRequest, call_service, init_service};
    use actix_web::{App, web};

    use super::super::strict::Strict;
    use super::*;
    use crate::api::{BODY_MAX_BYTES, CreateSandbox, KillRequest, ShutdownRequest, StopRequest};

    /// Each code of version 1 with its status and its whole body.
    #[actix_web::test]
    async fn each_code_has_its_status() {
        let mut lines = String::new();
        for line in include_str!("../../crates/api/src/golden/errors.jsonl").lines() {
            let body: ErrorBody = serde_json::from_str(line.split_once(' ').unwrap().1).unwrap();
            let answer = Rejection::from_detail(body.error).error_response();
            let status = answer.status().as_u16();
            let body = to_bytes(answer.into_body()).await.unwrap();
            lines.extend([status.to_string().as_str(), " ", &String::from_utf8_lossy(&body), "\n"]);
        }
        assert_eq!(lines, include_str!("../../crates/api/src/golden/errors.jsonl"));
    }

    async fn refusals<T: serde::de::DeserializeOwned + 'static>(bodies: &[&str]) -> Vec<(u16, String)> {
        let route = web::post().to(|_: web::Json<T>| async { HttpResponse::Ok().finish() });
        let json = web::JsonConfig::default().limit(BODY_MAX_BYTES).error_handler(invalid_json);
        let app = init_service(App::new().app_data(json).route("/", route)).await;
        let mut refusals = Vec::new();
        for body in bodies {
            let request = TestRequest::post().uri("/").insert_header(("content-type", "application/json"));
            let answer = call_service(&app, request.set_payload((*body).to_owned()).to_request()).await;
            let status = answer.status().as_u16();
            let body = to_bytes(answer.into_body()).await.unwrap();
            let code =
                serde_json::from_slice::<ErrorBody>(&body).map_or(String::new(), |body| body.error.code.to_string());
            refusals.push((status, code));
        }
        refusals
    }

    /// Bodies that nobody who means well sends, and what became of them when version 1 was made.
    #[actix_web::test]
    async fn hostile_bodies_are_refused_as_ever() {
        let bodies: Vec<&str> = include_str!("../../crates/api/src/golden/hostile.jsonl").lines().collect();
        let bodies: Vec<&str> = bodies.iter().map(|line| line.split_once(' ').map_or("", |(_, body)| body)).collect();
        let refused = refusals::<Strict<CreateSandbox>>(&bodies).await;
        let lines: Vec<_> = refused.iter().zip(&bodies).map(|((status, _), body)| format!("{status} {body}")).collect();
        let golden: Vec<_> = include_str!("../../crates/api/src/golden/hostile.jsonl").lines().collect();
        assert_eq!(lines, golden);
        assert!(refused.iter().all(|(status, code)| *status == 200 || code == "invalid_request"), "{refused:?}");
        let large = format!("\"{}\"", "x".repeat(BODY_MAX_BYTES));
        let too_large = [(413, "too_large".to_owned())];
        assert_eq!(refusals::<Strict<CreateSandbox>>(&[&large]).await, too_large);
        for refused in [
            refusals::<StopRequest>(&[
                "",
                r#"{"grace_ms":-1}"#,
                r#"{"grace_ms":1.5}"#,
                r#"{"grace":1}"#,
                r#"{"grace_ms":1,"grace_ms":1}"#,
                r#"{"grace_ms":18446744073709551616}"#,
            ])
            .await,
            refusals::<KillRequest>(&["{}", r#"{"signal":"9"}"#, r#"{"signal":2147483648}"#, r#"{"signal":9,"x":1}"#])
                .await,
            refusals::<ShutdownRequest>(&[r#"{"stop":true}"#, r#"{"stop_sandboxes":1}"#, "null"]).await,
            refusals::<sandpen_types::spec::TerminalSize>(&[
                "{}",
                r#"{"rows":0,"cols":1}"#,
                r#"{"rows":1,"cols":65536}"#,
                r#"{"rows":1,"cols":1,"x":1}"#,
            ])
            .await,
        ] {
            assert!(refused.iter().all(|refusal| *refusal == (400, "invalid_request".to_owned())), "{refused:?}");
        }
    }
}
