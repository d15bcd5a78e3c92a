//! Registries that stall, reset, lie and redirect: documents and redirects. Each error says what and where, and no
//! credentials go astray.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test that cannot go on fails")]

mod support;

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use sandpen_images::digest::digest_of;
use sandpen_images::manifest::media;
use sandpen_registry::RegistryError;
use serde_json::json;
use support::{Image, Reply, Request, Server, Step, answer, descriptor, head, logged_in, options, platform, registry};

const MANIFEST: &[(&str, &str)] = &[("Content-Type", media::MANIFEST)];

/// The error of asking for a manifest of a server that answers like this.
async fn refused(handle: impl Fn(&Request) -> Reply + Send + Sync + 'static) -> RegistryError {
    let server = Server::start(handle).await;
    registry().manifest(&server.reference(), &platform()).await.unwrap_err()
}

fn is_manifest(request: &Request) -> bool {
    request.path.contains("/manifests/")
}

#[tokio::test]
async fn a_sound_registry() {
    let image = Image::new(100);
    let served = image.clone();
    let server = Server::start(move |request| served.serve(request)).await;
    let registry = registry();
    let pulled = registry.manifest(&server.reference(), &platform()).await.unwrap();
    assert_eq!((pulled.digest, pulled.index_digest), (image.digest(), None));
    assert_eq!((pulled.bytes, pulled.config_bytes), (image.manifest.clone(), image.config.clone()));
    assert_eq!(pulled.config.diff_ids, [digest_of(&image.layer)]);
    assert_eq!(registry.platforms(&server.reference()).await.unwrap(), [platform()]);
    registry.check(&server.name()).await.unwrap();
    let by_digest = format!("{}/app:other@{}", server.name(), image.digest()).parse().unwrap();
    assert_eq!(registry.manifest(&by_digest, &platform()).await.unwrap().digest, image.digest());
    let accepted = server
        .requests()
        .iter()
        .any(|request| is_manifest(request) && request.headers.iter().any(|(_, value)| value == media::DOCKER_LIST));
    assert!(accepted);
    assert!(server.requests().iter().all(|request| request.header("authorization").is_none()));
}

#[tokio::test]
async fn an_index_leads_to_the_platform_and_too_many_lead_nowhere() {
    let image = Image::new(10);
    let entry = |media_type, bytes: &[u8]| {
        let mut entry = descriptor(media_type, bytes);
        entry["platform"] = json!({ "os": "linux", "architecture": "amd64" });
        entry
    };
    let index = |entry: serde_json::Value| {
        json!({ "schemaVersion": 2, "mediaType": media::INDEX, "manifests": [entry] }).to_string().into_bytes()
    };
    let first = index(entry(media::MANIFEST, &image.manifest));
    let second = index(entry(media::INDEX, &first));
    let third = index(entry(media::INDEX, &second));
    let served = image.clone();
    let documents = [first.clone(), second.clone(), third.clone()];
    let server = Server::start(move |request| {
        let found = documents.iter().enumerate().find(|(number, document)| {
            request.path.ends_with(&digest_of(document).to_string())
                || request.path.ends_with(&format!("/manifests/index-{number}"))
        });
        match found {
            Some((_, document)) => answer(200, &[("Content-Type", media::INDEX)], document),
            None => served.serve(request),
        }
    })
    .await;
    let reference = |tag: &str| format!("{}/app:{tag}", server.name()).parse().unwrap();
    for (tag, top) in [("index-0", &first), ("index-1", &second)] {
        let pulled = registry().manifest(&reference(tag), &platform()).await.unwrap();
        assert_eq!((pulled.digest, pulled.index_digest), (image.digest(), Some(digest_of(top))));
    }
    let error = registry().manifest(&reference("index-2"), &platform()).await.unwrap_err().to_string();
    assert!(error.contains("its indexes point at indexes, more than 2 deep"), "{error}");
    let other = "linux/riscv64".parse().unwrap();
    for tag in ["index-0", "1"] {
        let error = registry().manifest(&reference(tag), &other).await.unwrap_err().to_string();
        assert!(error.contains("no image for linux/riscv64 in it; there are linux/amd64"), "{error}");
    }
    assert_eq!(registry().platforms(&reference("index-0")).await.unwrap(), [platform()]);
}

#[tokio::test]
async fn what_is_no_manifest_is_refused() {
    type Case = (&'static str, fn(&Request) -> Reply, &'static str);
    let cases: [Case; 11] = [
        (
            "a page of the web",
            |_| answer(200, &[("Content-Type", "text/html; charset=utf-8")], "<html>Sign in</html>"),
            "answered with text/html when it was asked for",
        ),
        ("a page without a type", |_| answer(200, &[], "<html>Sign in</html>"), "it begins with \"<html>Sign in"),
        ("escapes", |_| answer(200, MANIFEST, "\u{1b}[2J"), "it begins with \"\\u{1b}[2J\""),
        ("too large", |_| head(200, MANIFEST, 5 << 20), "has more than 4194304 bytes"),
        (
            "too large without saying so",
            |_| {
                let begin = b"HTTP/1.1 200 X\r\nConnection: close\r\n\r\n".to_vec();
                vec![Step::Write(begin), Step::Endless(vec![b' '; 65536])]
            },
            "has more than 4194304 bytes",
        ),
        (
            "endless headers",
            |_| {
                vec![
                    Step::Write(b"HTTP/1.1 200 X\r\n".to_vec()),
                    Step::Endless(b"X: yyyyyyyyyyyyyyyyyyyy\r\n".to_vec()),
                ]
            },
            "the connection to 127.0.0.1",
        ),
        (
            "one endless header",
            |_| vec![Step::Write(b"HTTP/1.1 200 X\r\nX: ".to_vec()), Step::Endless(vec![b'y'; 4096])],
            "the connection to 127.0.0.1",
        ),
        (
            "headers by the drop",
            |_| vec![Step::Write(b"HTTP/1.1 200 X\r\n".to_vec()), Step::Trickle(b"X: y\r\n".to_vec())],
            "has said nothing for 0.4 s",
        ),
        (
            "a manifest by the drop",
            |_| [head(200, MANIFEST, 4 << 20), vec![Step::Trickle(b" ".to_vec())]].concat(),
            "has not sent all of it in 1.6 s",
        ),
        ("nothing at all", |_| vec![Step::Stall], "has said nothing for 0.4 s"),
        ("half of it", |_| [head(200, MANIFEST, 100), vec![Step::Stall]].concat(), "has said nothing for 0.4 s"),
    ];
    for (case, handle, expected) in cases {
        let error = refused(handle).await.to_string();
        assert!(error.contains(expected), "{case}: {error}");
        assert!(!error.contains('\u{1b}'), "{case}");
    }
}

#[tokio::test]
async fn other_bytes_than_asked_for_are_refused() {
    let image = Image::new(10);
    let served = image.clone();
    let error = refused(move |request| match is_manifest(request) {
        true => answer(200, &[("Docker-Content-Digest", &digest_of(b"x").to_string())], &served.manifest),
        false => served.serve(request),
    });
    let error = error.await.to_string();
    assert!(error.contains(&format!("its digest is {} and not {}", image.digest(), digest_of(b"x"))), "{error}");

    let server = Server::start(move |_| answer(200, MANIFEST, "{}")).await;
    let reference = format!("{}/app@{}", server.name(), image.digest()).parse().unwrap();
    let error = registry().manifest(&reference, &platform()).await.unwrap_err().to_string();
    assert!(error.contains(&format!("its digest is {} and not {}", digest_of(b"{}"), image.digest())), "{error}");

    let error = refused(move |request| match request.path.contains("/blobs/") {
        true => answer(200, &[], "{}"),
        false => image.serve(request),
    });
    assert!(matches!(error.await, RegistryError::OtherDigest { .. }));
}

#[tokio::test]
async fn layers_that_are_elsewhere_or_of_no_known_type_are_refused() {
    for (media_type, expected) in [
        ("application/vnd.docker.image.rootfs.foreign.diff.tar.gzip", "such a layer is not distributed"),
        ("application/x-brotli", "of the unknown type \"application/x-brotli\""),
    ] {
        let image = Image::of_type(10, media_type);
        let error = refused(move |request| image.serve(request)).await.to_string();
        assert!(error.contains(expected), "{error}");
    }
}

#[tokio::test]
async fn redirects_that_are_not_followed() {
    for (location, expected) in [
        ("file:///etc/passwd", "redirects to another scheme, \"file\"; it is not followed"),
        ("ftp://a.example/x", "redirects to another scheme, \"ftp\""),
        ("/v2/app/manifests/1", "redirects more than 5 times"),
        ("http://[", "which is no URL"),
    ] {
        let error = refused(move |request| match is_manifest(request) {
            true => answer(307, &[("Location", location)], ""),
            false => answer(200, &[], ""),
        });
        let error = error.await.to_string();
        assert!(error.contains(expected), "{location}: {error}");
    }
    let error = refused(|_| answer(302, &[], "")).await.to_string();
    assert!(error.contains("redirects without saying where to"), "{error}");
}

/// Asks for a password first.
fn with_basic(request: &Request, reply: impl FnOnce() -> Reply) -> Reply {
    match request.header("authorization") {
        Some("Basic dXNlcjpodW50ZXIy") => reply(),
        _ => answer(401, &[("WWW-Authenticate", "Basic realm=\"x\"")], ""),
    }
}

#[tokio::test]
async fn credentials_follow_no_redirect_to_another_host() {
    let image = Image::new(1000);
    let served = image.clone();
    let storage = Arc::new(Server::start(move |_| answer(200, &[], &served.config)).await);
    let place = format!("http://user:stolen@{}/storage?signature=x", storage.name());
    let served = image.clone();
    let server = Server::start(move |request| {
        with_basic(request, || match request.path.contains("/blobs/") {
            true => answer(307, &[("Location", &place)], ""),
            false => served.serve(request),
        })
    })
    .await;
    let pulled = logged_in(&server).manifest(&server.reference(), &platform()).await.unwrap();
    assert_eq!(pulled.config_bytes, image.config);
    let asked = storage.requests();
    assert_eq!(asked.len(), 1);
    assert!(asked[0].header("authorization").is_none(), "{asked:?}");
    assert!(server.requests().iter().filter(|request| request.header("authorization").is_some()).count() >= 2);
}

#[tokio::test]
async fn who_is_not_let_in_is_told_how_to_log_in() {
    let said = r#"{"errors": [{"code": "UNAUTHORIZED", "message": "go\u001b[2J away"}]}"#;
    let server = Server::start(move |_| answer(401, &[("WWW-Authenticate", "Basic realm=\"x\"")], said)).await;
    let error = registry().manifest(&server.reference(), &platform()).await.unwrap_err().to_string();
    assert!(error.contains(&format!("log in with: sandpen login {}", server.name())), "{error}");
    let error = logged_in(&server).manifest(&server.reference(), &platform()).await.unwrap_err();
    let words = format!("{error} {error:?}");
    assert!(
        words.contains("log in as somebody else with: sandpen login") && words.contains("go\\u{1b}[2J away"),
        "{words}"
    );
    assert!(!words.contains("hunter2") && !words.contains("dXNlcjpodW50ZXIy"), "{words}");
    let error = refused(|_| answer(401, &[("WWW-Authenticate", "Negotiate")], "")).await.to_string();
    assert!(error.contains("in a way that is not known here: negotiate"), "{error}");
}

#[tokio::test]
async fn what_is_not_there_is_said_with_tags_that_are() {
    let server = Server::start(|request| match request.path.contains("/tags/list") {
        true => answer(200, &[], r#"{"name": "app", "tags": ["zzz", "1.2\u001b", "12"]}"#),
        false => answer(404, &[], r#"{"errors": [{"code": "MANIFEST_UNKNOWN"}]}"#),
    })
    .await;
    let error = registry().manifest(&server.reference(), &platform()).await.unwrap_err().to_string();
    assert!(error.ends_with("; there are the tags 12, 1.2\\u{1b}, zzz"), "{error}");
    let error = refused(|_| answer(404, &[], "")).await.to_string();
    assert!(error.contains("/app:1 is not in the registry 127.0.0.1:"), "{error}");
}

#[tokio::test]
async fn a_rate_limit_is_waited_for_or_told() {
    let (image, asked) = (Image::new(10), AtomicUsize::new(0));
    let server = Server::start(move |request| match asked.fetch_add(1, Ordering::Relaxed) {
        0 => answer(429, &[("Retry-After", "1")], ""),
        1 => answer(503, &[], ""),
        _ => image.serve(request),
    })
    .await;
    let before = std::time::Instant::now();
    registry().manifest(&server.reference(), &platform()).await.unwrap();
    assert!(before.elapsed() >= std::time::Duration::from_secs(1));
    let error = refused(|_| answer(429, &[("Retry-After", "3600")], "")).await.to_string();
    assert!(error.contains("limits their rate); try again at 2") && error.ends_with(" UTC"), "{error}");
    let error = refused(|_| answer(500, &[], "{\"errors\": [{\"message\": \"disk full\"}]}")).await.to_string();
    assert!(error.contains("status 500") && error.contains("disk full"), "{error}");
}

#[tokio::test]
async fn mirrors_come_first_and_the_registry_last() {
    let image = Image::new(1000);
    let served = image.clone();
    let server = Server::start(move |request| served.serve(request)).await;
    let broken = Server::start(|_| answer(500, &[], "")).await;
    let served = image.clone();
    let good = Server::start(move |request| {
        let mut request = request.clone();
        request.path = request.path.replace("/hub/", "/");
        served.serve(&request)
    })
    .await;
    let mut options = options();
    options
        .mirrors
        .insert(server.name(), vec!["127.0.0.1:1".to_owned(), broken.name(), format!("{}/hub", good.name())]);
    let registry = sandpen_registry::Registry::new(options.clone()).unwrap();
    registry.manifest(&server.reference(), &platform()).await.unwrap();
    let (bytes, end) = support::collect(registry.blob(&server.reference(), image.blob(), 0)).await;
    end.unwrap();
    assert_eq!(bytes, image.layer);
    assert!(server.requests().is_empty() && !broken.requests().is_empty());
    assert!(good.requests().iter().all(|request| request.path.starts_with("/hub/v2/")));
    options.mirrors.insert(server.name(), vec![broken.name()]);
    let registry = sandpen_registry::Registry::new(options).unwrap();
    registry.manifest(&server.reference(), &platform()).await.unwrap();
    assert!(!server.requests().is_empty());
}

/// Neither for the manifest nor for any blob: a pause between two tries is an hour here.
#[tokio::test]
async fn a_mirror_that_is_down_is_not_waited_for() {
    let image = Image::new(1000);
    let served = image.clone();
    let server = Server::start(move |request| served.serve(request)).await;
    let mut options = options();
    options.times.backoff = std::time::Duration::from_hours(1);
    options.mirrors.insert(server.name(), vec!["127.0.0.1:1".to_owned()]);
    let pulled = async {
        // A blob alone, then one behind a manifest.
        for _ in 0..2 {
            let registry = sandpen_registry::Registry::new(options.clone()).unwrap();
            let (bytes, end) = support::collect(registry.blob(&server.reference(), image.blob(), 0)).await;
            end.unwrap();
            assert_eq!(bytes, image.layer);
            registry.manifest(&server.reference(), &platform()).await.unwrap();
        }
    };
    tokio::time::timeout(std::time::Duration::from_secs(20), pulled).await.unwrap();
}

#[tokio::test]
async fn a_mirror_that_sends_something_else_is_passed_over() {
    let (image, other) = (Image::new(1000), Image::new(999));
    let served = image.clone();
    let server = Server::start(move |request| served.serve(request)).await;
    let wrong = Server::start(move |request| {
        let is_manifest = request.path.contains("/manifests/");
        let bytes = if is_manifest { &other.manifest } else { &other.config };
        answer(200, &[("Content-Type", media::MANIFEST)], bytes)
    })
    .await;
    let mut options = options();
    options.mirrors.insert(server.name(), vec![wrong.name()]);
    let registry = sandpen_registry::Registry::new(options).unwrap();
    let by_digest = format!("{}/app@{}", server.name(), image.digest()).parse().unwrap();
    let pulled = registry.manifest(&by_digest, &platform()).await.unwrap();
    assert_eq!(pulled.bytes, image.manifest);
    assert!(!wrong.requests().is_empty());
}

#[tokio::test]
async fn nobody_at_the_other_end_is_said_at_once() {
    let reference = "127.0.0.1:1/app".parse().unwrap();
    let before = std::time::Instant::now();
    let error = registry().manifest(&reference, &platform()).await.unwrap_err().to_string();
    assert!(error.contains("no connection to 127.0.0.1:1 could be made: Connection refused"), "{error}");
    assert!(before.elapsed() < std::time::Duration::from_secs(2));
}

#[tokio::test]
async fn a_proxy_is_asked_as_who_asks_says() {
    let image = Image::new(10);
    let served = image.clone();
    let proxy = Server::start(move |request| {
        let mut request = request.clone();
        let rest = request.path.strip_prefix("http://old.example").unwrap_or("/nowhere").to_owned();
        request.path = rest;
        served.serve(&request)
    })
    .await;
    let mut options = options();
    options.insecure.insert("old.example".to_owned());
    options.proxies.http = Some(sandpen_registry::Secret::new(format!("http://me:hunter2@{}", proxy.name())));
    options.proxies.https = Some(sandpen_registry::Secret::new("127.0.0.1:1"));
    let registry = sandpen_registry::Registry::new(options).unwrap();
    assert!(!format!("{registry:?}").contains("hunter2"));
    registry.manifest(&"old.example/app:1".parse().unwrap(), &platform()).await.unwrap();
    let asked = proxy.requests();
    assert!(
        asked.iter().all(|request| request.header("proxy-authorization") == Some("Basic bWU6aHVudGVyMg==")),
        "{asked:?}"
    );
}
