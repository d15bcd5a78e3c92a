//! The route of what sandboxes take of their host.

use actix_web::HttpResponse;
use actix_web::web::{Data, Query};
use sandpen_types::spec::SandboxKey;
use serde::Deserialize;

use super::extract::flag;
use super::reject::Rejection;
use super::shared::Shared;
use crate::api::{ErrorCode, Stats};
use crate::orchestrator::StatsOptions;

/// Most sandboxes that are asked for by name.
const NAMES_MAX: usize = 1000;

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub struct StatsQuery {
    /// `CONFIG/NAME,CONFIG/NAME`.
    sandboxes: Option<String>,
    #[serde(default, deserialize_with = "flag")]
    all: bool,
}

impl StatsQuery {
    fn options(&self) -> Result<StatsOptions, Rejection> {
        let names = self.sandboxes.as_deref().unwrap_or_default();
        let keys = names.split(',').filter(|name| !name.is_empty()).map(str::parse).collect::<Result<Vec<_>, _>>();
        let keys: Vec<SandboxKey> = keys.map_err(|error| Rejection::from_error(ErrorCode::InvalidName, &error))?;
        if keys.len() > NAMES_MAX {
            let message = format!("{} sandboxes are named; at most {NAMES_MAX} are accepted", keys.len());
            return Err(Rejection::new(ErrorCode::InvalidRequest, message));
        }
        Ok(StatsOptions { keys, ended: self.all })
    }
}

/// `GET /v1/stats`.
pub async fn stats(shared: Data<Shared>, query: Query<StatsQuery>) -> Result<HttpResponse, Rejection> {
    let sample = shared.handle.stats(&query.options()?).await?;
    Ok(HttpResponse::Ok().json(Stats::from(sample)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_checked() {
        let options = |text: &str| Query::<StatsQuery>::from_query(text).unwrap().options();
        assert_eq!(options("").unwrap(), StatsOptions::default());
        let two = options("sandboxes=default/a,b/c&all").unwrap();
        assert!(two.ended && two.keys.iter().map(ToString::to_string).eq(["default/a", "b/c"]));
        for odd in [
            "sandboxes=a",
            "sandboxes=../a",
            "sandboxes=a/..",
            "sandboxes=a/b/c",
            "sandboxes=a/%00",
            "sandboxes=a/b%0a",
        ] {
            assert!(options(odd).is_err(), "{odd}");
        }
        let many = vec!["a/b"; NAMES_MAX + 1].join(",");
        assert!(options(&format!("sandboxes={many}")).is_err());
        assert!(Query::<StatsQuery>::from_query("sandbox=a/b").is_err());
    }
}
