//! What went wrong with a registry: what, where, and what can be done. Text of a registry's own is bounded and harmless
//! on a terminal; credentials and the queries of URLs, which may hold signatures, are in none of it.

use std::time::Duration;

use chrono::{DateTime, Utc};
use sandpen_images::config::ConfigError;
pub(crate) use sandpen_images::json::shown;
use sandpen_images::manifest::ManifestError;
use sandpen_types::image::ImageDigest;

use crate::retry::PAUSE_MAX;

/// What went wrong with a registry.
#[derive(Debug, thiserror::Error)]
pub enum RegistryError {
    /// No name of a registry.
    #[error("\"{name}\" is no registry; one is HOST[:PORT]")]
    Name {
        /// As it was given.
        name: String,
    },
    /// No URL of a proxy. What it is instead is not said: it may hold a password.
    #[error("the proxy for {scheme} is no URL; one is http://HOST:PORT")]
    Proxy {
        /// Of which URLs.
        scheme: &'static str,
    },
    /// A directory of certificates that cannot be read, or a file in it that is none.
    #[error("the certificates in {directory} cannot be taken: {reason}")]
    CertificateFile {
        /// The directory.
        directory: String,
        /// Why.
        reason: String,
    },
    /// It is not there.
    #[error("{what} is not in the registry {registry}{}", near(.tags))]
    NotFound {
        /// The reference, or the blob.
        what: String,
        /// The registry.
        registry: String,
        /// Tags that are there, the nearest ones first.
        tags: Vec<String>,
    },
    /// Nothing of that name can be put there: mostly a repository that has to be made first.
    #[error("the registry {registry} has no place for {what}{}; does its repository have to be made first?", also(.said))]
    NoPlace {
        /// The reference, or the blob.
        what: String,
        /// The registry.
        registry: String,
        /// What the registry says.
        said: String,
    },
    /// It is not allowed. Many registries say the same of what is not there.
    #[error("the registry {registry} {}{}", denied(what, registry, *.with_credentials), also(.said))]
    Denied {
        /// The reference, or the blob.
        what: String,
        /// The registry.
        registry: String,
        /// Whether credentials were sent.
        with_credentials: bool,
        /// What the registry says.
        said: String,
    },
    /// A challenge that cannot be answered.
    #[error("the registry {registry} asks for credentials in a way that is not known here: {reason}")]
    Challenge {
        /// The registry.
        registry: String,
        /// What it is.
        reason: String,
    },
    /// A certificate that does not count.
    #[error("the certificate of {host} {problem}")]
    Certificate {
        /// Host and port.
        host: String,
        /// What is wrong, and what to do.
        problem: CertificateProblem,
    },
    /// It speaks no TLS.
    #[error(
        "{host} speaks no TLS; if nobody between here and there can read along, allow that with --insecure-registry {host}"
    )]
    NoTls {
        /// Host and port.
        host: String,
    },
    /// No connection, or one that broke.
    #[error("{} {host} {reason}", if *.connecting { "no connection to" } else { "the connection to" })]
    Connection {
        /// Host and port.
        host: String,
        /// What the system says.
        reason: String,
        /// Whether nothing was sent yet.
        connecting: bool,
        /// Whether nobody listens there.
        is_refused: bool,
    },
    /// Nothing came for too long.
    #[error("{host} has said nothing for {} s", .after.as_secs_f64())]
    Silent {
        /// Host and port.
        host: String,
        /// So long.
        after: Duration,
    },
    /// A document came too slowly.
    #[error("{host} has not sent all of it in {} s", .after.as_secs_f64())]
    Slow {
        /// Host and port.
        host: String,
        /// So long.
        after: Duration,
    },
    /// An answer ended too early.
    #[error("{host} ended its answer {missing} bytes early")]
    Short {
        /// Host and port.
        host: String,
        /// So many are missing.
        missing: u64,
    },
    /// Too many requests.
    #[error(
        "{host} answers no more requests for now (it limits their rate){}",
        .until.map_or_else(String::new, |until| format!("; try again at {} UTC", until.format("%Y-%m-%d %H:%M:%S")))
    )]
    RateLimited {
        /// Host and port.
        host: String,
        /// Until then, if it says so.
        until: Option<DateTime<Utc>>,
        /// The same from when it was said.
        after: Option<Duration>,
    },
    /// Another status than any that is expected.
    #[error("{host} answered with status {status} when it was asked for {what}{}", also(.said))]
    Status {
        /// Host and port.
        host: String,
        /// The reference, or the blob.
        what: String,
        /// The status.
        status: u16,
        /// What it says.
        said: String,
        /// When to ask again, if it says so.
        after: Option<Duration>,
    },
    /// A redirect that is not followed.
    #[error("{host} redirects {reason}; it is not followed")]
    Redirect {
        /// Host and port.
        host: String,
        /// Where to.
        reason: String,
    },
    /// Something else than what was asked for.
    #[error(
        "{host} answered with {found} when it was asked for {what}: is it a registry, and does no sign-in page stand \
         before it?"
    )]
    NoManifest {
        /// Host and port.
        host: String,
        /// The reference.
        what: String,
        /// The type of the answer.
        found: String,
    },
    /// An answer of more bytes than are read.
    #[error("the answer of {host} has more than {max} bytes")]
    TooLarge {
        /// Host and port.
        host: String,
        /// So many are read.
        max: u64,
    },
    /// An answer that makes no sense.
    #[error("{host} answered in a way that makes no sense: {reason}")]
    Protocol {
        /// Host and port.
        host: String,
        /// What it is.
        reason: String,
    },
    /// A manifest that is none, or has no image for the platform.
    #[error("{what}: {source}")]
    Manifest {
        /// The reference.
        what: String,
        /// What is wrong.
        source: ManifestError,
    },
    /// A configuration that is none.
    #[error("{what}: {source}")]
    Config {
        /// The reference.
        what: String,
        /// What is wrong.
        source: ConfigError,
    },
    /// Other bytes than were asked for.
    #[error("{host} sent something else for {what}: its digest is {found} and not {expected}")]
    OtherDigest {
        /// Host and port.
        host: String,
        /// The reference, or the blob.
        what: String,
        /// What it should be.
        expected: ImageDigest,
        /// What it is.
        found: ImageDigest,
    },
    /// More or fewer bytes than were promised.
    #[error("{host} has {found} of {digest}, which is to have {size} bytes")]
    OtherSize {
        /// Host and port.
        host: String,
        /// The blob.
        digest: ImageDigest,
        /// What was promised.
        size: u64,
        /// What there is, in words.
        found: String,
    },
    /// Bytes that shall be sent cannot be read.
    #[error("reading {digest}, to send it: {source}")]
    Source {
        /// The blob.
        digest: ImageDigest,
        /// What the system says.
        source: std::io::Error,
    },
}

/// What is wrong with a certificate.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum CertificateProblem {
    /// Nobody who is believed has signed it.
    #[error("is signed by nobody whom this machine believes; put the certificate of who signed it into {0}")]
    UnknownIssuer(String),
    /// Its time is over.
    #[error("has expired; who runs the registry has to renew it (if the clock of this machine is right)")]
    Expired,
    /// Its time is to come.
    #[error("is not valid yet; is the clock of this machine right?")]
    NotYet,
    /// It is for another host.
    #[error("is for other names{0}; call the registry as its certificate does")]
    OtherName(String),
    /// It wants one from us.
    #[error("is fine, but it wants one of the client as well; put it into {0} and its key beside it, as client.key")]
    ClientWanted(String),
    /// Something else.
    #[error("cannot be taken: {0}")]
    Other(String),
}

impl RegistryError {
    /// Whether it may go by itself.
    pub fn is_transient(&self) -> bool {
        match self {
            Self::Connection { .. } | Self::Silent { .. } | Self::Short { .. } => true,
            Self::RateLimited { after, .. } => after.is_none_or(|after| after <= PAUSE_MAX),
            Self::Status { status, after, .. } => {
                matches!(status, 408 | 425 | 500 | 502 | 503 | 504) && after.is_none_or(|after| after <= PAUSE_MAX)
            }
            _ => false,
        }
    }

    /// Whether a registry answered at all.
    pub(crate) fn is_unreachable(&self) -> bool {
        matches!(self, Self::Connection { connecting: true, .. })
    }

    /// When it was asked to be tried again.
    pub(crate) fn retry_after(&self) -> Option<Duration> {
        match self {
            Self::RateLimited { after, .. } | Self::Status { after, .. } => *after,
            _ => None,
        }
    }
}

fn also(said: &str) -> String {
    if said.is_empty() { String::new() } else { format!(" (it says: {said})") }
}

fn near(tags: &[String]) -> String {
    if tags.is_empty() { String::new() } else { format!("; there are the tags {}", tags.join(", ")) }
}

fn denied(what: &str, registry: &str, with_credentials: bool) -> String {
    if with_credentials {
        format!(
            "does not allow {what} to whoever is logged in here, or has it not; log in as somebody else with: sandpen \
             login {registry}"
        )
    } else {
        format!("does not allow {what} to everybody, or has it not; log in with: sandpen login {registry}")
    }
}
