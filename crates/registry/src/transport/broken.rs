//! Connections that fail, in words: the libraries below wrap what happened several times.

use std::error::Error;
use std::io;
use std::path::PathBuf;

use reqwest::Url;

use crate::certificates;
use crate::endpoint::authority;
use crate::error::{RegistryError, shown};

/// What happened on the way to a URL.
pub(super) fn explain(error: &reqwest::Error, url: &Url, directories: &[PathBuf]) -> RegistryError {
    let host = authority(url);
    if let Some(tls) = find::<rustls::Error>(error) {
        if let Some(problem) = certificates::problem(tls, &host, directories) {
            return RegistryError::Certificate { host, problem };
        }
        return match tls {
            rustls::Error::InvalidMessage(_) => RegistryError::NoTls { host },
            other => {
                let reason = format!("could be made with TLS: {}", shown(&other.to_string()));
                RegistryError::Connection { host, reason, connecting: true, is_refused: false }
            }
        };
    }
    let connecting = error.is_connect();
    let mut is_refused = false;
    let reason = if error.is_timeout() {
        if connecting { "could be made in time".to_owned() } else { "took too long".to_owned() }
    } else {
        // The innermost says what happened; what is around it says where, which we know better.
        let mut innermost: &(dyn Error + 'static) = error;
        while let Some(below) = below(innermost) {
            innermost = below;
        }
        let of_system = innermost.downcast_ref::<io::Error>();
        is_refused = connecting && of_system.is_some_and(|error| error.kind() == io::ErrorKind::ConnectionRefused);
        let words = shown(&innermost.to_string());
        if connecting { format!("could be made: {words}") } else { format!("broke: {words}") }
    };
    RegistryError::Connection { host, reason, connecting, is_refused }
}

/// The cause of an error. What an I/O error wraps is not its source, but what is below that.
fn below<'a>(error: &'a (dyn Error + 'static)) -> Option<&'a (dyn Error + 'static)> {
    match error.downcast_ref::<io::Error>().and_then(io::Error::get_ref) {
        Some(wrapped) => Some(wrapped),
        None => error.source(),
    }
}

fn find<'a, E: Error + 'static>(error: &'a (dyn Error + 'static)) -> Option<&'a E> {
    let mut next = Some(error);
    while let Some(error) = next {
        if let Some(found) = error.downcast_ref() {
            return Some(found);
        }
        next = below(error);
    }
    None
}
