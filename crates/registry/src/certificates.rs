//! Whom to believe, per registry: this machine's certificates, and those of a directory of the registry's own.
//!
//! Source: Docker's "Verify repository client with certificates" and containers-certs.d(5): `HOST[:PORT]/*.crt` are
//! certificates of authorities, `NAME.cert` and `NAME.key` a client's certificate and its key, all PEM.

use std::fs::{self, File};
use std::io::{self, Read as _};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use rustls::crypto::ring;
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::{CertificateError, ClientConfig, RootCertStore};

use self::verifier::{Verifier, is_own_authority};
use crate::endpoint::has_port;
use crate::error::{CertificateProblem, RegistryError, shown};

mod verifier;

/// Most bytes of a file of certificates.
const FILE_MAX: u64 = 1 << 20;
/// Where certificates go that no directory was given for.
const DEFAULT_DIRECTORY: &str = "/etc/containers/certs.d";

/// The directories of one registry, those that are there.
pub(crate) fn directories_of(all: &[PathBuf], host: &str) -> Vec<PathBuf> {
    // A host is never a path, but `..` is a host to a URL, and who redirects chooses it.
    if host.starts_with('.') || host.contains('/') {
        return Vec::new();
    }
    let names = if has_port(host) { vec![host.to_owned()] } else { vec![host.to_owned(), format!("{host}:443")] };
    let every = all.iter().flat_map(|directory| names.iter().map(move |name| directory.join(name)));
    every.filter(|directory| directory.is_dir()).collect()
}

/// What this machine believes.
pub(crate) fn of_this_machine() -> RootCertStore {
    let mut roots = RootCertStore::empty();
    let found = rustls_native_certs::load_native_certs();
    for error in found.errors {
        tracing::debug!(%error, "a certificate of this machine is not read");
    }
    roots.add_parsable_certificates(found.certs);
    roots
}

/// How TLS is spoken with a registry that has these directories.
pub(crate) fn tls(
    roots: &RootCertStore,
    directories: &[PathBuf],
    verified: bool,
) -> Result<ClientConfig, RegistryError> {
    let mut roots = roots.clone();
    let mut client = None;
    let mut own = Vec::new();
    for directory in directories {
        let refused = |error: io::Error| of_file(directory, &error);
        for path in files(directory, "crt").map_err(refused)? {
            for certificate in certificates(&path).map_err(refused)? {
                roots.add(certificate.clone()).map_err(|error| refused(bad(&path, error)))?;
                own.push(certificate);
            }
        }
        if let Some(path) = files(directory, "cert").map_err(refused)?.into_iter().next() {
            let key_path = path.with_extension("key");
            let key = PrivateKeyDer::from_pem_slice(&read(&key_path).map_err(refused)?);
            let key = key.map_err(|error| refused(bad(&key_path, error)))?;
            client = Some((certificates(&path).map_err(refused)?, key, directory));
        }
    }
    let provider = Arc::new(ring::default_provider());
    let builder = ClientConfig::builder_with_provider(Arc::clone(&provider)).with_safe_default_protocol_versions();
    let builder = builder.map_err(|error| own_fault(&error))?;
    let verifier = if verified {
        let verifier = Verifier::new(&provider, roots, own);
        verifier.map_err(|error| own_fault(&error))?
    } else {
        Verifier::of_anybody(&provider)
    };
    let builder = builder.dangerous().with_custom_certificate_verifier(Arc::new(verifier));
    match client {
        None => Ok(builder.with_no_client_auth()),
        Some((chain, key, directory)) => {
            builder.with_client_auth_cert(chain, key).map_err(|error| of_file(directory, &error))
        }
    }
}

fn of_file(directory: &Path, error: &dyn std::fmt::Display) -> RegistryError {
    let (directory, reason) = (shown(&directory.to_string_lossy()), shown(&error.to_string()));
    RegistryError::CertificateFile { directory, reason }
}

fn own_fault(error: &dyn std::fmt::Display) -> RegistryError {
    RegistryError::Protocol { host: "TLS".to_owned(), reason: error.to_string() }
}

fn bad(path: &Path, error: impl std::fmt::Display) -> io::Error {
    let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
    io::Error::new(io::ErrorKind::InvalidData, format!("{name}: {error}"))
}

/// In the order of their names.
fn files(directory: &Path, extension: &str) -> io::Result<Vec<PathBuf>> {
    let entries = fs::read_dir(directory)?.collect::<io::Result<Vec<_>>>()?;
    let mut paths: Vec<_> = entries.into_iter().map(|entry| entry.path()).collect();
    paths.retain(|path| path.extension().is_some_and(|of| of == extension) && path.is_file());
    paths.sort();
    Ok(paths)
}

fn read(path: &Path) -> io::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    let read = File::open(path).and_then(|file| file.take(FILE_MAX + 1).read_to_end(&mut bytes));
    read.map_err(|error| bad(path, error))?;
    // A part of it would be other certificates than those that somebody put there.
    if u64::try_from(bytes.len()).unwrap_or(u64::MAX) > FILE_MAX {
        return Err(bad(path, format!("it has more than {FILE_MAX} bytes")));
    }
    Ok(bytes)
}

fn certificates(path: &Path) -> io::Result<Vec<CertificateDer<'static>>> {
    let bytes = read(path)?;
    let found = CertificateDer::pem_slice_iter(&bytes).collect::<Result<Vec<_>, _>>();
    let found = found.map_err(|error| bad(path, error))?;
    if found.is_empty() { Err(bad(path, "there is no certificate in it (PEM is read)")) } else { Ok(found) }
}

/// What the TLS library says of a host, as people are told it.
pub(crate) fn problem(error: &rustls::Error, host: &str, directories: &[PathBuf]) -> Option<CertificateProblem> {
    let directory = directories.last().map_or_else(|| PathBuf::from(DEFAULT_DIRECTORY), PathBuf::clone).join(host);
    let file = |name| shown(&directory.join(name).to_string_lossy());
    match error {
        rustls::Error::InvalidCertificate(error) => Some(match error {
            CertificateError::UnknownIssuer | CertificateError::BadSignature => {
                CertificateProblem::UnknownIssuer(file("ca.crt"))
            }
            error if is_own_authority(error) => CertificateProblem::UnknownIssuer(file("ca.crt")),
            CertificateError::Expired | CertificateError::ExpiredContext { .. } => CertificateProblem::Expired,
            CertificateError::NotValidYet | CertificateError::NotValidYetContext { .. } => CertificateProblem::NotYet,
            CertificateError::NotValidForName => CertificateProblem::OtherName(String::new()),
            CertificateError::NotValidForNameContext { presented, .. } => {
                let names: Vec<_> = presented.iter().take(8).map(|name| shown(name)).collect();
                CertificateProblem::OtherName(if names.is_empty() {
                    String::new()
                } else {
                    format!(" ({})", names.join(", "))
                })
            }
            other => CertificateProblem::Other(shown(&other.to_string())),
        }),
        rustls::Error::NoCertificatesPresented => Some(CertificateProblem::Other("there is none".to_owned())),
        rustls::Error::AlertReceived(alert) => {
            use rustls::AlertDescription as Alert;
            let wants = matches!(alert, Alert::CertificateRequired | Alert::BadCertificate | Alert::AccessDenied);
            wants.then(|| CertificateProblem::ClientWanted(file("client.cert")))
        }
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_machine_without_certificates_believes_nobody_and_can_still_speak() {
        let nobody = RootCertStore::empty();
        assert!(tls(&nobody, &[], true).is_ok() && tls(&nobody, &[], false).is_ok());
    }
}
