//! Blobs of registries that break off, stall and send something else.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test that cannot go on fails")]

mod support;

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use sandpen_registry::{Registry, RegistryError, checked};
use support::{Image, Reply, Request, Server, Step, answer, collect, head, options, registry, start_of_range};

/// All of a blob of a server that answers like this.
async fn pull(
    image: &Image,
    from: u64,
    handle: impl Fn(&Request) -> Reply + Send + Sync + 'static,
) -> (Vec<u8>, Result<(), RegistryError>, Server) {
    let server = Server::start(handle).await;
    let (bytes, end) = collect(registry().blob(&server.reference(), image.blob(), from)).await;
    (bytes, end, server)
}

/// A part of the layer, and then something else.
fn part(image: &Image, request: &Request, len: usize, then: Step) -> Reply {
    let start = start_of_range(request).unwrap_or(0);
    let mut reply = image.serve_layer(request);
    let end = (start + len).min(image.layer.len());
    *reply.last_mut().unwrap() = Step::Write(image.layer[start..end].to_vec());
    if end < image.layer.len() {
        reply.push(then);
    }
    reply
}

#[tokio::test]
async fn a_part_goes_on_where_it_stopped() {
    let image = Image::new(300_000);
    for then in [Step::Reset, Step::Stall, Step::Write(Vec::new())] {
        let served = image.clone();
        let kind = then.clone();
        let (bytes, end, server) = pull(&image, 0, move |request| part(&served, request, 100_000, kind.clone())).await;
        end.unwrap();
        assert!(bytes == image.layer, "{then:?}");
        let ranges: Vec<_> = server.requests().iter().map(start_of_range).collect();
        assert_eq!(ranges.len(), 3, "{then:?}: {ranges:?}");
        assert!(ranges[0].is_none() && ranges[1] < ranges[2]);
    }
    let served = image.clone();
    let (bytes, end, server) = pull(&image, 250_000, move |request| served.serve_layer(request)).await;
    end.unwrap();
    assert!(bytes == image.layer[250_000..]);
    assert_eq!(start_of_range(&server.requests()[0]), Some(250_000));
}

#[tokio::test]
async fn a_registry_without_ranges_is_read_from_the_beginning() {
    let image = Image::new(300_000);
    let (served, asked) = (image.clone(), AtomicUsize::new(0));
    let (bytes, end, _server) = pull(&image, 0, move |_| match asked.fetch_add(1, Ordering::Relaxed) {
        0 => [head(200, &[], served.layer.len()), vec![Step::Write(served.layer[..100_000].to_vec()), Step::Reset]]
            .concat(),
        _ => answer(200, &[], &served.layer),
    })
    .await;
    end.unwrap();
    assert!(bytes == image.layer);
}

#[tokio::test]
async fn ranges_that_are_not_the_right_ones_are_refused() {
    let image = Image::new(1000);
    for range in [
        "bytes 0-999/1000",
        "bytes 500-999/2000",
        "bytes 500-999/*",
        "bytes 500-1000/1000",
        "500",
        "",
        "bytes 500-400/1000",
    ] {
        let layer = image.layer.clone();
        let (bytes, end, server) =
            pull(&image, 500, move |_| answer(206, &[("Content-Range", range)], &layer[500..])).await;
        let error = end.unwrap_err().to_string();
        assert!(error.contains("it was asked for bytes 500-999, and it sends"), "{range}: {error}");
        assert!(bytes.is_empty());
        assert_eq!(server.requests().len(), 1);
    }
    let (_, end, _server) = pull(&image, 500, |_| answer(416, &[("Content-Range", "bytes */100")], "")).await;
    let error = end.unwrap_err().to_string();
    assert!(error.contains("has no byte 500 of sha256:") && error.ends_with("which is to have 1000 bytes"), "{error}");
    let (_, end, server) = pull(&image, 1001, |_| answer(500, &[], "")).await;
    assert!(matches!(end, Err(RegistryError::OtherSize { .. })));
    assert!(server.requests().is_empty());
}

#[tokio::test]
async fn more_or_other_bytes_are_refused() {
    let image = Image::new(1000);
    for len in [999, 1001] {
        let (bytes, end, _server) = pull(&image, 0, move |_| answer(200, &[], vec![1; len])).await;
        let error = end.unwrap_err().to_string();
        assert!(error.contains(&format!("has {len} bytes of sha256:")), "{error}");
        assert!(bytes.is_empty());
    }
    // Nobody says how many there will be.
    let begin = b"HTTP/1.1 200 X\r\nConnection: close\r\n\r\n".to_vec();
    let (bytes, end, _server) =
        pull(&image, 0, move |_| vec![Step::Write(begin.clone()), Step::Endless(vec![1; 100])]).await;
    assert!(matches!(end, Err(RegistryError::OtherSize { .. })));
    assert!(bytes.len() <= 1000);

    let server = Server::start(|_| answer(200, &[], vec![1; 1000])).await;
    let (_, end) = collect(checked(image.blob(), registry().blob(&server.reference(), image.blob(), 0))).await;
    let Err(RegistryError::OtherDigest { expected, .. }) = end else { panic!("{end:?}") };
    assert_eq!(expected, image.blob().digest);
    let served = image.clone();
    let server = Server::start(move |request| served.serve_layer(request)).await;
    collect(checked(image.blob(), registry().blob(&server.reference(), image.blob(), 0))).await.1.unwrap();
}

#[tokio::test]
async fn it_is_given_up_after_five_tries() {
    let image = Image::new(1000);
    let before = Instant::now();
    let (bytes, end, server) = pull(&image, 0, |_| vec![Step::Reset]).await;
    assert!(bytes.is_empty() && matches!(end, Err(RegistryError::Connection { .. })), "{end:?}");
    assert_eq!(server.requests().len(), 5);
    // 20, 40, 80 and 160 ms, each by a half more or less.
    assert!(before.elapsed() >= Duration::from_millis(150));
    // One byte at a time is no progress.
    let served = image.clone();
    let (bytes, end, server) = pull(&image, 0, move |request| part(&served, request, 1, Step::Reset)).await;
    assert!(bytes.len() <= 5 && end.is_err());
    assert_eq!(server.requests().len(), 5);
}

#[tokio::test]
async fn much_progress_makes_up_for_failures() {
    let image = Image::new(9 << 20);
    let served = image.clone();
    let (bytes, end, server) = pull(&image, 0, move |request| part(&served, request, 3 << 19, Step::Reset)).await;
    end.unwrap();
    assert!(bytes == image.layer);
    assert!(server.requests().len() > 5);
}

#[tokio::test]
async fn a_token_that_expires_is_renewed_in_the_middle() {
    let image = Image::new(300_000);
    let tokens = Arc::new(AtomicUsize::new(0));
    let (served, given) = (image.clone(), Arc::clone(&tokens));
    let realm = Server::start(move |request| {
        assert!(request.path.contains("scope=repository%3Aapp%3Apull"), "{}", request.path);
        assert!(request.path.contains("service=the+service"), "{}", request.path);
        let n = given.fetch_add(1, Ordering::Relaxed) + 1;
        answer(200, &[], format!(r#"{{"token": "t{n}", "expires_in": 3600}}"#))
    })
    .await;
    let challenge = format!("Bearer realm=\"http://{}/token\",service=\"the service\",scope=\"x\"", realm.name());
    let used = AtomicUsize::new(0);
    let counts = Arc::clone(&tokens);
    let (bytes, end, server) = pull(&image, 0, move |request| {
        // Each counts for one answer only.
        let latest = format!("Bearer t{}", counts.load(Ordering::Relaxed));
        let is_used = used.load(Ordering::Relaxed) == counts.load(Ordering::Relaxed);
        if request.header("authorization") != Some(&latest) || is_used {
            return answer(401, &[("WWW-Authenticate", &challenge)], "");
        }
        used.store(counts.load(Ordering::Relaxed), Ordering::Relaxed);
        part(&served, request, 100_000, Step::Reset)
    })
    .await;
    end.unwrap();
    assert!(bytes == image.layer);
    assert_eq!(tokens.load(Ordering::Relaxed), 3);
    assert!(server.requests().iter().any(|request| start_of_range(request).is_some()));
    assert!(realm.requests().iter().all(|request| request.header("authorization").is_none()));
}

#[tokio::test]
async fn a_token_that_never_counts_is_asked_for_once_more_only() {
    let image = Image::new(10);
    let realm = Server::start(|_| answer(200, &[], r#"{"access_token": "t"}"#)).await;
    let challenge = format!("Bearer realm=\"http://{}/token\"", realm.name());
    let (_, end, server) = pull(&image, 0, move |_| answer(401, &[("WWW-Authenticate", &challenge)], "")).await;
    assert!(matches!(end, Err(RegistryError::Denied { with_credentials: false, .. })), "{end:?}");
    assert_eq!((realm.requests().len(), server.requests().len()), (1, 2));
}

#[tokio::test]
async fn credentials_go_to_the_realm_and_identity_tokens_by_post() {
    let image = Image::new(10);
    let realm = Server::start(|request| match (request.method.as_str(), request.header("authorization")) {
        ("GET", Some("Basic dXNlcjpodW50ZXIy")) if request.path.contains("account=user") => {
            answer(200, &[], r#"{"token": "t"}"#)
        }
        ("POST", None) => {
            let form = String::from_utf8(request.body.clone()).unwrap();
            let expected = "grant_type=refresh_token&client_id=sandpen&scope=repository%3Aapp%3Apull&\
                            refresh_token=id%26entity";
            assert_eq!(form, expected);
            answer(200, &[], r#"{"access_token": "t"}"#)
        }
        _ => answer(401, &[], ""),
    })
    .await;
    let challenge = format!("Bearer realm=\"http://{}/token\"", realm.name());
    let served = image.clone();
    let server = Server::start(move |request| match request.header("authorization") {
        Some("Bearer t") => served.serve(request),
        _ => answer(401, &[("WWW-Authenticate", &challenge)], ""),
    })
    .await;
    let identity = sandpen_registry::Credentials::IdentityToken(sandpen_registry::Secret::new("id&entity"));
    for credentials in [support::password(), identity] {
        let mut options = options();
        options.credentials.insert(format!("{}/app", server.name()), credentials);
        let registry = Registry::new(options).unwrap();
        collect(registry.blob(&server.reference(), image.blob(), 0)).await.1.unwrap();
    }
    let (_, end) = collect(registry().blob(&server.reference(), image.blob(), 0)).await;
    assert!(matches!(end, Err(RegistryError::Denied { with_credentials: false, .. })), "{end:?}");
}

#[tokio::test]
async fn a_realm_passes_no_credentials_on() {
    let image = Image::new(10);
    let thief = Server::start(|_| answer(200, &[], r#"{"token": "t"}"#)).await;
    let place = format!("http://{}/", thief.name());
    let realm = Server::start(move |_| answer(307, &[("Location", &place)], "")).await;
    let challenge = format!("Bearer realm=\"http://{}/token\"", realm.name());
    let served = image.clone();
    let server = Server::start(move |request| match request.header("authorization") {
        Some(_) => served.serve(request),
        None => answer(401, &[("WWW-Authenticate", &challenge)], ""),
    })
    .await;
    collect(support::logged_in(&server).blob(&server.reference(), image.blob(), 0)).await.1.unwrap();
    assert_eq!(thief.requests().len(), 1);
    assert!(thief.requests()[0].header("authorization").is_none());
    let mut options = options();
    let identity = sandpen_registry::Credentials::IdentityToken(sandpen_registry::Secret::new("identity"));
    options.credentials.insert(server.name(), identity);
    let (_, end) = collect(Registry::new(options).unwrap().blob(&server.reference(), image.blob(), 0)).await;
    assert!(matches!(end, Err(RegistryError::Redirect { .. })), "{end:?}");
    assert_eq!(thief.requests().len(), 1);
}

#[tokio::test]
async fn a_link_that_expired_is_asked_for_again() {
    let image = Image::new(10);
    let (served, asked) = (image.clone(), AtomicUsize::new(0));
    let storage = Server::start(move |request| match asked.fetch_add(1, Ordering::Relaxed) {
        0 => answer(403, &[], "<Error>hunter2</Error>"),
        _ => served.serve_layer(request),
    })
    .await;
    let place = format!("http://{}/x?signature=hunter2", storage.name());
    let (bytes, end, server) = pull(&image, 0, move |_| answer(307, &[("Location", &place)], "")).await;
    end.unwrap();
    assert!(bytes == image.layer);
    assert_eq!(server.requests().len(), 2);
}

#[tokio::test]
async fn an_empty_blob_is_nothing() {
    let image = Image::new(0);
    let (bytes, end, server) = pull(&image, 0, |_| answer(500, &[], "")).await;
    end.unwrap();
    assert!(bytes.is_empty() && server.requests().is_empty());
}
