//! Certificates: whom a client believes, and what it says where it does not.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test that cannot go on fails")]

mod support;

use std::net::SocketAddr;
use std::path::Path;
use std::sync::Arc;

use rcgen::{BasicConstraints, CertificateParams, IsCa, KeyPair, date_time_ymd};
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::server::WebPkiClientVerifier;
use rustls::{RootCertStore, ServerConfig};
use sandpen_registry::{Options, Registry, RegistryError, Secret};
use support::{Authority, Image, Server, authority, options, platform, signed};
use tempfile::TempDir;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use tokio_rustls::TlsAcceptor;

type Change = fn(&mut CertificateParams);

fn acceptor((certificate, key): &(String, String), clients: Option<&Authority>) -> TlsAcceptor {
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let builder = ServerConfig::builder_with_provider(Arc::clone(&provider)).with_safe_default_protocol_versions();
    let builder = builder.unwrap();
    let builder = match clients {
        None => builder.with_no_client_auth(),
        Some(authority) => {
            let mut roots = RootCertStore::empty();
            roots.add(authority.der().clone()).unwrap();
            let verifier = WebPkiClientVerifier::builder_with_provider(Arc::new(roots), provider).build().unwrap();
            builder.with_client_cert_verifier(verifier)
        }
    };
    let certificate = CertificateDer::from_pem_slice(certificate.as_bytes()).unwrap();
    let key = PrivateKeyDer::from_pem_slice(key.as_bytes()).unwrap();
    TlsAcceptor::from(Arc::new(builder.with_single_cert(vec![certificate], key).unwrap()))
}

async fn server(tls: TlsAcceptor) -> (Image, Server) {
    let image = Image::new(100);
    let served = image.clone();
    let server = Server::start_with(Some(tls), move |request| served.serve(request)).await;
    (image, server)
}

async fn pull(options: Options, server: &Server) -> Result<(), RegistryError> {
    Registry::new(options).unwrap().manifest(&server.reference(), &platform()).await.map(drop)
}

/// Options with a directory of certificates for a server, that has these files.
fn with_files(directory: &Path, server: &Server, files: &[(&str, &str)]) -> Options {
    let own = directory.join(server.name());
    std::fs::create_dir_all(&own).unwrap();
    for (name, text) in files {
        std::fs::write(own.join(name), text).unwrap();
    }
    Options { certificates: vec!["/nowhere".into(), directory.to_owned()], ..options() }
}

#[tokio::test]
async fn a_registrys_own_authority() {
    let (authority, dir) = (authority(), TempDir::new().unwrap());
    let (image, server) = server(acceptor(&signed(&authority, &["127.0.0.1"], |_| {}), None)).await;
    // This machine's registries need no TLS, but if they have it, it counts.
    let error = pull(Options { certificates: vec![dir.path().into()], ..options() }, &server).await.unwrap_err();
    let place = dir.path().join(server.name()).join("ca.crt");
    let expected = format!(
        "the certificate of {} is signed by nobody whom this machine believes; put the certificate of who signed it \
         into {}",
        server.name(),
        place.display()
    );
    assert_eq!(error.to_string(), expected);
    assert!(server.requests().is_empty());
    let options = with_files(dir.path(), &server, &[("ca.crt", &authority.pem())]);
    pull(options.clone(), &server).await.unwrap();
    let registry = Registry::new(options).unwrap();
    let (bytes, end) = support::collect(registry.blob(&server.reference(), image.blob(), 0)).await;
    end.unwrap();
    assert_eq!(bytes, image.layer);
}

#[tokio::test]
async fn a_certificate_that_signs_itself() {
    // As `openssl req -x509` makes it: an authority's, and the server's as well.
    let change: Change = |params| params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    let own = |names: &[&str], change: Change| {
        let mut params =
            CertificateParams::new(names.iter().map(|name| (*name).to_owned()).collect::<Vec<_>>()).unwrap();
        change(&mut params);
        let key = KeyPair::generate().unwrap();
        (params.self_signed(&key).unwrap().pem(), key.serialize_pem())
    };
    let dir = TempDir::new().unwrap();
    let pair = own(&["127.0.0.1"], change);
    let (_, first) = server(acceptor(&pair, None)).await;
    let error = pull(options(), &first).await.unwrap_err().to_string();
    assert!(error.contains("is signed by nobody whom this machine believes"), "{error}");
    pull(with_files(dir.path(), &first, &[("ca.crt", &pair.0)]), &first).await.unwrap();
    // Another one of the same names is another one; and names and times count.
    let (_, second) = server(acceptor(&own(&["127.0.0.1"], change), None)).await;
    let error = pull(with_files(dir.path(), &second, &[("ca.crt", &pair.0)]), &second).await.unwrap_err().to_string();
    assert!(error.contains("is signed by nobody whom this machine believes"), "{error}");
    let expired: Change = |params| {
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.not_after = date_time_ymd(2001, 1, 1);
    };
    for (names, change, expected) in
        [(["other.example"], change, "is for other names"), (["127.0.0.1"], expired, "has expired")]
    {
        let pair = own(&names, change);
        let (_, server) = server(acceptor(&pair, None)).await;
        let error = pull(with_files(dir.path(), &server, &[("ca.crt", &pair.0)]), &server).await.unwrap_err();
        assert!(error.to_string().contains(expected), "{error}");
    }
}

#[tokio::test]
async fn certificates_that_do_not_count() {
    let (authority, dir) = (authority(), TempDir::new().unwrap());
    let cases: [(&[&str], Change, &str); 3] = [
        (&["a.example", "10.1.1.1"], |_| {}, "is for other names"),
        (&["127.0.0.1"], |params| params.not_after = date_time_ymd(2001, 1, 1), "has expired"),
        (&["127.0.0.1"], |params| params.not_before = date_time_ymd(3000, 1, 1), "is not valid yet"),
    ];
    for (names, change, expected) in cases {
        let (_, server) = server(acceptor(&signed(&authority, names, change), None)).await;
        let strict = with_files(dir.path(), &server, &[("ca.crt", &authority.pem())]);
        let error = pull(strict, &server).await.unwrap_err().to_string();
        assert!(error.starts_with(&format!("the certificate of {} {expected}", server.name())), "{error}");
        // Whoever calls it insecure is not stopped by that.
        let insecure = Options { insecure: [server.name()].into(), ..options() };
        pull(insecure, &server).await.unwrap();
    }
}

#[tokio::test]
async fn a_certificate_of_the_client() {
    let (authority, dir) = (authority(), TempDir::new().unwrap());
    let tls = acceptor(&signed(&authority, &["127.0.0.1"], |_| {}), Some(&authority));
    let (_, server) = server(tls).await;
    let options = with_files(dir.path(), &server, &[("ca.crt", &authority.pem())]);
    let error = pull(options, &server).await.unwrap_err().to_string();
    assert!(error.contains("it wants one of the client as well") && error.contains("client.cert"), "{error}");
    let (certificate, key) = signed(&authority, &["me"], |_| {});
    let options = with_files(dir.path(), &server, &[("client.cert", &certificate), ("client.key", &key)]);
    pull(options, &server).await.unwrap();
    // Without its key, and with something else.
    std::fs::remove_file(dir.path().join(server.name()).join("client.key")).unwrap();
    let options = with_files(dir.path(), &server, &[]);
    let error = pull(options, &server).await.unwrap_err().to_string();
    assert!(error.contains("cannot be taken: client.key: No such file"), "{error}");
    let options = with_files(dir.path(), &server, &[("client.key", "hunter2"), ("ca.crt", "hunter2")]);
    let error = pull(options, &server).await.unwrap_err().to_string();
    assert!(error.contains("ca.crt: there is no certificate in it") && !error.contains("hunter2"), "{error}");
    // Of one that is too large no part is taken for all of it.
    let large = authority.pem() + &"\n".repeat(1 << 20);
    let options = with_files(dir.path(), &server, &[("ca.crt", &large)]);
    let error = pull(options, &server).await.unwrap_err().to_string();
    assert!(error.contains("cannot be taken: ca.crt: it has more than 1048576 bytes"), "{error}");
}

/// Who gives out the tokens is another host, whose certificate the same authority has signed.
#[tokio::test]
async fn a_registrys_own_authority_counts_for_its_tokens() {
    let (authority, other, dir) = (authority(), authority(), TempDir::new().unwrap());
    let start = async |by: &Authority| {
        let tls = acceptor(&signed(by, &["127.0.0.1"], |_| {}), Some(&authority));
        Server::start_with(Some(tls), |_| support::answer(200, &[], "{\"token\": \"t\"}")).await
    };
    let (tokens, stranger) = (start(&authority).await, start(&other).await);
    let (certificate, key) = signed(&authority, &["me"], |_| {});
    for (tokens, expected) in [(&tokens, None), (&stranger, Some("is signed by nobody whom this machine believes"))] {
        let realm = format!("Bearer realm=\"https://{}/token\"", tokens.name());
        let tls = acceptor(&signed(&authority, &["127.0.0.1"], |_| {}), Some(&authority));
        let server = Server::start_with(Some(tls), move |request| match request.header("authorization") {
            Some("Bearer t") => support::answer(200, &[], "{}"),
            _ => support::answer(401, &[("WWW-Authenticate", &realm)], ""),
        })
        .await;
        let files = [("ca.crt", &*authority.pem()), ("client.cert", &certificate), ("client.key", &key)];
        let options = with_files(dir.path(), &server, &files);
        let checked = Registry::new(options).unwrap().check(&server.name()).await;
        match (checked, expected) {
            (Ok(_), None) => {}
            (Err(error), Some(expected)) => assert!(error.to_string().contains(expected), "{error}"),
            (checked, _) => panic!("{expected:?}: {checked:?}"),
        }
    }
}

#[tokio::test]
async fn from_https_nothing_leads_to_http() {
    let (authority, dir) = (authority(), TempDir::new().unwrap());
    let plain = Server::start(|_| support::answer(200, &[], "{}")).await;
    let place = format!("http://{}/", plain.name());
    let tls = acceptor(&signed(&authority, &["127.0.0.1"], |_| {}), None);
    let realm = format!("Bearer realm=\"http://{}/token\"", plain.name());
    let server = Server::start_with(Some(tls), move |request| match request.path.as_str() {
        "/v2/app/manifests/1" => support::answer(307, &[("Location", &place)], ""),
        _ => support::answer(401, &[("WWW-Authenticate", &realm)], ""),
    })
    .await;
    let options = with_files(dir.path(), &server, &[("ca.crt", &authority.pem())]);
    let error = pull(options.clone(), &server).await.unwrap_err().to_string();
    assert!(error.contains("redirects from https to http"), "{error}");
    let error = Registry::new(options).unwrap().check(&server.name()).await.unwrap_err().to_string();
    assert!(error.contains("its tokens are given out over http by 127.0.0.1") && error.contains("not safe"), "{error}");
    assert!(plain.requests().is_empty());
}

/// A proxy that opens one tunnel after the other to a server, whatever host it is asked for; without a server it
/// answers as a web server does that is greeted with TLS and speaks none.
async fn proxy(target: Option<SocketAddr>) -> (SocketAddr, tokio::task::JoinHandle<()>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let tunnels = tokio::spawn(async move {
        while let Ok((mut client, _)) = listener.accept().await {
            tokio::spawn(async move {
                let mut bytes = [0; 4096];
                let len = client.read(&mut bytes).await?;
                let asked = String::from_utf8_lossy(&bytes[..len]).to_ascii_lowercase();
                assert!(asked.starts_with("connect far.example:5000 http/1.1\r\n"), "{asked}");
                assert!(asked.contains("proxy-authorization: basic bwu6ahvudgvymg=="), "{asked}");
                assert!(!asked.contains("\r\nauthorization"), "{asked}");
                client.write_all(b"HTTP/1.1 200 X\r\n\r\n").await?;
                if let Some(target) = target {
                    let mut server = TcpStream::connect(target).await?;
                    tokio::io::copy_bidirectional(&mut client, &mut server).await?;
                } else {
                    let _ = client.read(&mut bytes).await?;
                    client.write_all(b"HTTP/1.1 400 Bad Request\r\n\r\n").await?;
                }
                std::io::Result::Ok(())
            });
        }
    });
    (address, tunnels)
}

#[tokio::test]
async fn over_a_proxy_the_certificate_is_the_registrys() {
    let (authority, dir) = (authority(), TempDir::new().unwrap());
    let (_, server) = server(acceptor(&signed(&authority, &["far.example"], |_| {}), None)).await;
    let (proxy, tunnels) = proxy(Some(server.address)).await;
    let mut options = with_files(dir.path(), &server, &[("ca.crt", &authority.pem())]);
    std::fs::rename(dir.path().join(server.name()), dir.path().join("far.example:5000")).unwrap();
    options.proxies.https = Some(Secret::new(format!("http://me:hunter2@{proxy}")));
    options.credentials.insert("far.example:5000".to_owned(), support::password());
    let reference = "far.example:5000/app:1".parse().unwrap();
    Registry::new(options).unwrap().manifest(&reference, &platform()).await.unwrap();
    tunnels.abort();
}

#[tokio::test]
async fn without_tls_only_where_it_is_allowed() {
    let (proxy, tunnels) = proxy(None).await;
    let mut options = options();
    options.proxies.https = Some(Secret::new(format!("http://me:hunter2@{proxy}")));
    let reference = "far.example:5000/app:1".parse().unwrap();
    let error = Registry::new(options).unwrap().manifest(&reference, &platform()).await.unwrap_err().to_string();
    assert!(
        error.contains("far.example:5000 speaks no TLS") && error.contains("with --insecure-registry far.example:5000"),
        "{error}"
    );
    tunnels.abort();
}
