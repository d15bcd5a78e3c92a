//! What is asked of a server's certificate.

use std::sync::Arc;

use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::client::{VerifierBuilderError, WebPkiServerVerifier, verify_server_name};
use rustls::crypto::{CryptoProvider, WebPkiSupportedAlgorithms, verify_tls12_signature, verify_tls13_signature};
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::server::ParsedCertificate;
use rustls::{CertificateError, DigitallySignedStruct, RootCertStore, SignatureScheme};

/// Whether a server's certificate is that of an authority: what `openssl req -x509` makes signs itself.
pub(super) fn is_own_authority(error: &CertificateError) -> bool {
    let CertificateError::Other(error) = error else { return false };
    matches!(error.0.downcast_ref(), Some(webpki::Error::CaUsedAsEndEntity))
}

/// Whose certificates are believed.
#[derive(Debug)]
pub(super) struct Verifier {
    algorithms: WebPkiSupportedAlgorithms,
    believed: Believed,
}

#[derive(Debug)]
enum Believed {
    /// Everybody's: of registries that were called insecure.
    All,
    /// Nobody's: this machine has no certificates, nor the registry's directories.
    None,
    /// Of whom the certificates of this machine and of the registry's directories have signed, and a certificate that lies
    /// in such a directory (`own`) itself.
    Signed { by: Arc<WebPkiServerVerifier>, own: Vec<CertificateDer<'static>> },
}

impl Verifier {
    /// Believes everybody.
    pub(super) fn of_anybody(provider: &CryptoProvider) -> Self {
        Self { algorithms: provider.signature_verification_algorithms, believed: Believed::All }
    }

    /// Believes whom these have signed, and those of `own`, which are among them, themselves.
    pub(super) fn new(
        provider: &Arc<CryptoProvider>,
        roots: RootCertStore,
        own: Vec<CertificateDer<'static>>,
    ) -> Result<Self, VerifierBuilderError> {
        let believed = if roots.is_empty() {
            Believed::None
        } else {
            let by = WebPkiServerVerifier::builder_with_provider(Arc::new(roots), Arc::clone(provider)).build()?;
            Believed::Signed { by, own }
        };
        Ok(Self { algorithms: provider.signature_verification_algorithms, believed })
    }
}

impl ServerCertVerifier for Verifier {
    fn verify_server_cert(
        &self,
        server: &CertificateDer<'_>,
        chain: &[CertificateDer<'_>],
        name: &ServerName<'_>,
        ocsp: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        let (by, own) = match &self.believed {
            Believed::All => return Ok(ServerCertVerified::assertion()),
            Believed::None => return Err(CertificateError::UnknownIssuer.into()),
            Believed::Signed { by, own } => (by, own),
        };
        match by.verify_server_cert(server, chain, name, ocsp, now) {
            // The library looks at its times before, and at its name after this.
            Err(rustls::Error::InvalidCertificate(error))
                if is_own_authority(&error) && own.iter().any(|own| own == server) =>
            {
                verify_server_name(&ParsedCertificate::try_from(server)?, name)?;
                Ok(ServerCertVerified::assertion())
            }
            verified => verified,
        }
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        verify_tls12_signature(message, certificate, signed, &self.algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        verify_tls13_signature(message, certificate, signed, &self.algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.algorithms.supported_schemes()
    }
}
