//! Pushing to registries that break off, and to some that need nothing.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test that cannot go on fails")]

mod support;

use std::collections::{BTreeMap, HashMap};
use std::sync::{Arc, Mutex};

use sandpen_images::digest::digest_of;
use sandpen_registry::{Blob, RegistryError};
use sandpen_types::image::ImageDigest;
use support::{Image, Memory, PushEvent, Request, Server, Step, answer, push, registry};

/// Its blobs.
fn memory(image: &Image) -> Memory {
    Memory([&image.config, &image.layer].into_iter().map(|bytes| (digest_of(bytes), bytes.clone().into())).collect())
}

/// What a registry got.
#[derive(Default)]
struct State {
    /// Uploads by number.
    uploads: HashMap<String, Vec<u8>>,
    blobs: HashMap<String, Vec<u8>>,
    manifests: HashMap<String, Vec<u8>>,
    patches: usize,
}

/// A registry that takes what it is given. The first patches are broken off: what arrived of each is kept.
fn take(state: &Mutex<State>, request: &Request, broken: &[usize], knows: bool) -> support::Reply {
    let mut state = state.lock().unwrap();
    let (path, query) = request.path.split_once('?').unwrap_or((&request.path, ""));
    let last = path.rsplit('/').next().unwrap().to_owned();
    match request.method.as_str() {
        "HEAD" => match state.blobs.get(&last) {
            Some(blob) => support::head(200, &[], blob.len()),
            None => support::head(404, &[], 0),
        },
        "POST" => {
            assert_eq!(path, "/v2/app/blobs/uploads/");
            assert_eq!(request.header("content-length"), Some("0"));
            let id = format!("u{}", state.uploads.len());
            state.uploads.insert(id.clone(), Vec::new());
            answer(202, &[("Location", &format!("/v2/app/blobs/uploads/{id}?state=x"))], "")
        }
        "GET" => match state.uploads.get(&last).filter(|_| knows) {
            Some(bytes) => answer(204, &[("Range", &format!("0-{}", bytes.len().saturating_sub(1)))], ""),
            None => answer(404, &[], ""),
        },
        "PATCH" => {
            let number = state.patches;
            state.patches += 1;
            let upload = state.uploads.get_mut(&last).unwrap();
            if let Some(range) = request.header("content-range") {
                assert!(range.starts_with(&format!("{}-", upload.len())), "{range}");
            } else {
                assert!(upload.is_empty());
            }
            assert_eq!(query, "state=x");
            if let Some(len) = broken.get(number) {
                upload.extend_from_slice(&request.body[..*len]);
                return vec![Step::Reset];
            }
            upload.extend_from_slice(&request.body);
            answer(202, &[("Location", &format!("{last}?state=y"))], "")
        }
        "PUT" if path.contains("/manifests/") => {
            let digest = digest_of(&request.body).to_string();
            assert_eq!(request.header("content-type"), Some(sandpen_images::manifest::media::MANIFEST));
            state.manifests.insert(last, request.body.clone());
            answer(201, &[("Docker-Content-Digest", &digest)], "")
        }
        "PUT" => {
            let digest = query.strip_prefix("state=y&digest=").expect("the query is kept").replace("%3A", ":");
            let bytes = state.uploads.remove(&last).unwrap();
            assert_eq!(digest_of(&bytes).to_string(), digest);
            state.blobs.insert(digest, bytes);
            answer(201, &[], "")
        }
        other => panic!("{other}"),
    }
}

async fn push_it(
    image: &Image,
    broken: &'static [usize],
    knows: bool,
) -> (Result<ImageDigest, RegistryError>, Arc<Mutex<State>>, Vec<PushEvent>) {
    let state = Arc::new(Mutex::new(State::default()));
    let kept = Arc::clone(&state);
    state.lock().unwrap().blobs.insert(digest_of(&image.config).to_string(), image.config.clone());
    let server = Server::start(move |request| match request.path.as_str() {
        "/v2/" => answer(200, &[], ""),
        _ => take(&kept, request, broken, knows),
    })
    .await;
    let (events, source) = (Mutex::new(Vec::new()), memory(image));
    let on = |event| events.lock().unwrap().push(event);
    let pushed = push(&registry(), &server.reference(), &image.manifest, &[], &source, &on).await;
    (pushed, state, events.into_inner().unwrap())
}

/// That a blob of it is there.
fn there(image: &Image, request: &Request) -> support::Reply {
    let is_layer = request.path.ends_with(&image.blob().digest.to_string());
    support::head(200, &[], if is_layer { image.layer.len() } else { image.config.len() })
}

/// Whoever pulls and pushes may do it on any thread.
#[tokio::test]
async fn futures_are_sent_between_threads() {
    fn is_send<T: Send>(_: &T) {}
    let (registry, image) = (registry(), Image::new(1));
    let (reference, source) = ("a.example/x".parse().unwrap(), memory(&image));
    is_send(&registry.manifest(&reference, &support::platform()));
    is_send(&registry.platforms(&reference));
    is_send(&registry.check("a.example"));
    is_send(&registry.blob(&reference, image.blob(), 0));
    is_send(&push(&registry, &reference, &image.manifest, &[], &source, &|_| {}));
}

#[tokio::test]
async fn what_is_there_is_not_sent() {
    let image = Image::new(300_000);
    let (pushed, state, events) = push_it(&image, &[], true).await;
    assert_eq!(pushed.unwrap(), image.digest());
    let state = state.lock().unwrap();
    assert_eq!(state.blobs[&image.blob().digest.to_string()], image.layer);
    assert_eq!(state.manifests["1"], image.manifest);
    let config = Blob { digest: digest_of(&image.config), size: image.config.len() as u64 };
    assert!(events.contains(&PushEvent::There(config)));
    assert!(events.contains(&PushEvent::Sent(image.blob(), 300_000)));
    assert_eq!(events.last(), Some(&PushEvent::Done(image.blob())));
}

#[tokio::test]
async fn an_upload_goes_on_where_it_stopped_or_begins_anew() {
    let image = Image::new(300_000);
    for (knows, uploads) in [(true, 0), (false, 2)] {
        let (pushed, state, _) = push_it(&image, &[100_000, 50_000], knows).await;
        assert_eq!(pushed.unwrap(), image.digest(), "{knows}");
        let state = state.lock().unwrap();
        assert_eq!((state.patches, state.uploads.len()), (3, uploads));
    }
    let (pushed, state, _) = push_it(&image, &[0; 8], true).await;
    assert!(matches!(pushed, Err(RegistryError::Connection { .. })), "{pushed:?}");
    assert_eq!(state.lock().unwrap().patches, 5);
    assert!(state.lock().unwrap().manifests.is_empty());
}

#[tokio::test]
async fn bytes_that_cannot_be_read_are_no_fault_of_the_registry() {
    let image = Image::new(300_000);
    let kept = Arc::new(Mutex::new(State::default()));
    let state = Arc::clone(&kept);
    let server = Server::start(move |request| match request.path.as_str() {
        "/v2/" => answer(200, &[], ""),
        _ => take(&state, request, &[], true),
    })
    .await;
    let source = Memory(BTreeMap::new());
    let error = push(&registry(), &server.reference(), &image.manifest, &[], &source, &|_| {}).await.unwrap_err();
    assert!(matches!(error, RegistryError::Source { .. }) && error.to_string().ends_with("it is gone"), "{error}");
    assert!(kept.lock().unwrap().manifests.is_empty());
}

#[tokio::test]
async fn a_place_elsewhere_gets_no_credentials() {
    let image = Image::new(1000);
    let elsewhere = Server::start(|request| match request.method.as_str() {
        // A link for GET alone.
        "HEAD" => support::head(403, &[], 0),
        _ => answer(202, &[("Location", "/done")], ""),
    });
    let elsewhere = elsewhere.await;
    let place = format!("http://{}/upload", elsewhere.name());
    let server = Server::start(move |request| {
        if request.header("authorization").is_none() {
            return answer(401, &[("WWW-Authenticate", "Basic realm=x")], "");
        }
        match request.method.as_str() {
            "HEAD" => answer(307, &[("Location", &place)], ""),
            "POST" => answer(202, &[("Location", &place)], ""),
            _ => answer(201, &[], ""),
        }
    })
    .await;
    let (registry, source) = (support::logged_in(&server), memory(&image));
    let pushed = push(&registry, &server.reference(), &image.manifest, &[], &source, &|_| {}).await;
    assert_eq!(pushed.unwrap(), image.digest());
    let asked = elsewhere.requests();
    assert!(asked.len() == 6 && asked.iter().all(|request| request.header("authorization").is_none()), "{asked:?}");
}

#[tokio::test]
async fn what_is_in_another_repository_is_mounted() {
    let image = Image::new(1000);
    let blobs = image.clone();
    let server = Server::start(move |request| match (request.method.as_str(), request.path.as_str()) {
        ("HEAD", path) if path.starts_with("/v2/other/one/") => there(&blobs, request),
        ("HEAD", path) if path.starts_with("/v2/secret/") => support::head(403, &[], 0),
        ("HEAD", _) => support::head(404, &[], 0),
        ("POST", path) => {
            assert!(path.contains("?mount=sha256%3A") && path.ends_with("&from=other%2Fone"), "{path}");
            answer(201, &[("Location", "/x")], "")
        }
        ("PUT", path) if path.contains("/manifests/") => answer(201, &[], ""),
        _ => answer(200, &[], ""),
    })
    .await;
    let mounted = Mutex::new(0);
    let on = |event| {
        assert!(matches!(event, PushEvent::Mounted(_)));
        *mounted.lock().unwrap() += 1;
    };
    let (registry, source) = (registry(), Memory(BTreeMap::new()));
    let mounts = ["app", "nothing", "secret/one", "other/one"];
    let pushed = push(&registry, &server.reference(), &image.manifest, &mounts, &source, &on).await;
    assert_eq!(pushed.unwrap(), image.digest());
    assert_eq!(*mounted.lock().unwrap(), 2);
    // In vain nobody begins an upload.
    assert_eq!(server.requests().iter().filter(|request| request.method == "POST").count(), 2);
}

/// A registry that mounts nothing begins an upload instead.
#[tokio::test]
async fn what_is_not_mounted_is_sent() {
    let image = Image::new(1000);
    let state = Arc::new(Mutex::new(State::default()));
    let (kept, blobs) = (Arc::clone(&state), image.clone());
    let server = Server::start(move |request| match (request.method.as_str(), request.path.as_str()) {
        ("HEAD", path) if path.starts_with("/v2/other/") => there(&blobs, request),
        (_, "/v2/") => answer(200, &[], ""),
        _ => take(&kept, request, &[], true),
    })
    .await;
    let (registry, source) = (registry(), memory(&image));
    let pushed = push(&registry, &server.reference(), &image.manifest, &["other"], &source, &|_| {}).await;
    assert_eq!(pushed.unwrap(), image.digest());
    assert_eq!(server.requests().iter().filter(|request| request.path.contains("from=other")).count(), 2);
    assert_eq!(state.lock().unwrap().blobs[&image.blob().digest.to_string()], image.layer);
}

/// A registry that has all blobs, and answers to the manifest in its own way.
async fn put(
    reply: impl Fn() -> support::Reply + Send + Sync + 'static,
) -> (Server, Result<ImageDigest, RegistryError>) {
    let image = Image::new(1000);
    let blobs = image.clone();
    let server = Server::start(move |request| match request.method.as_str() {
        "HEAD" => there(&blobs, request),
        "PUT" => reply(),
        _ => answer(200, &[], ""),
    })
    .await;
    let (registry, source) = (registry(), memory(&image));
    let pushed = push(&registry, &server.reference(), &image.manifest, &[], &source, &|_| {}).await;
    (server, pushed)
}

#[tokio::test]
async fn a_manifest_that_is_taken_for_another_is_not_pushed() {
    let other = digest_of(b"other").to_string();
    let (_, pushed) = put(move || answer(201, &[("Docker-Content-Digest", &other)], "")).await;
    assert!(matches!(pushed, Err(RegistryError::OtherDigest { .. })), "{pushed:?}");
    // One that is told nothing about has it.
    let (_, pushed) = put(|| answer(201, &[("Docker-Content-Digest", "md5:x")], "")).await;
    assert_eq!(pushed.unwrap(), Image::new(1000).digest());
}

#[tokio::test]
async fn what_a_registry_says_is_told() {
    let refused = |status, code: &'static str| {
        put(move || answer(status, &[], format!(r#"{{"errors": [{{"code": "X", "message": "{code}"}}]}}"#)))
    };
    for status in [400, 409, 412, 413, 415, 422] {
        let (server, pushed) = refused(status, "the tag 1 is immutable\\u001b[2J").await;
        let error = pushed.unwrap_err().to_string();
        assert!(error.contains(&format!("status {status}")) && error.contains("the tag 1 is immutable"), "{error}");
        assert!(!error.contains('\u{1b}'), "{error:?}");
        assert_eq!(server.requests().iter().filter(|request| request.method == "PUT").count(), 1, "once is enough");
    }
    let (_, pushed) = refused(404, "the repository app does not exist").await;
    let error = pushed.unwrap_err().to_string();
    assert!(error.contains("has no place for") && error.contains("the repository app does not exist"), "{error}");
    let (_, pushed) = refused(403, "quota").await;
    let error = pushed.unwrap_err();
    assert!(matches!(error, RegistryError::Denied { .. }) && error.to_string().contains("quota"), "{error}");
    // It is tried again what may go by itself.
    let (server, pushed) = refused(503, "busy").await;
    assert!(matches!(pushed, Err(RegistryError::Status { status: 503, .. })), "{pushed:?}");
    assert!(server.requests().iter().filter(|request| request.method == "PUT").count() > 1);
}

/// A registry that has forgotten an upload is sent it again.
#[tokio::test]
async fn an_upload_that_is_forgotten_begins_anew() {
    let image = Image::new(300_000);
    let state = Arc::new(Mutex::new(State::default()));
    let (kept, forgotten) = (Arc::clone(&state), Mutex::new(false));
    let server = Server::start(move |request| match (request.method.as_str(), request.path.as_str()) {
        (_, "/v2/") => answer(200, &[], ""),
        ("PATCH", _) if !std::mem::replace(&mut *forgotten.lock().unwrap(), true) => answer(404, &[], ""),
        _ => take(&kept, request, &[], false),
    })
    .await;
    let (registry, source) = (registry(), memory(&image));
    let pushed = push(&registry, &server.reference(), &image.manifest, &[], &source, &|_| {}).await;
    assert_eq!(pushed.unwrap(), image.digest());
    assert_eq!(state.lock().unwrap().blobs.len(), 2);
}

/// Answers to uploads that lead nowhere.
#[tokio::test]
async fn a_registry_that_does_not_take_a_blob_is_given_up() {
    let image = Image::new(300_000);
    let of = async |post: fn() -> support::Reply, patch: fn() -> support::Reply| {
        let server = Server::start(move |request| match request.method.as_str() {
            "HEAD" => support::head(404, &[], 0),
            "POST" => post(),
            "PATCH" => patch(),
            "PUT" => answer(201, &[], ""),
            _ => answer(404, &[], ""),
        })
        .await;
        let (registry, source) = (registry(), memory(&image));
        let pushed = push(&registry, &server.reference(), &image.manifest, &[], &source, &|_| {}).await;
        assert!(server.requests().iter().all(|request| !request.path.contains("/manifests/")));
        pushed.unwrap_err()
    };
    let begins = || answer(202, &[("Location", "/upload")], "");
    let error = of(begins, || vec![Step::Stall]).await;
    assert!(matches!(error, RegistryError::Silent { .. }), "{error}");
    let error = of(begins, || vec![Step::Reset]).await;
    assert!(matches!(error, RegistryError::Connection { .. }), "{error}");
    let error = of(begins, || answer(202, &[], "")).await;
    assert!(error.to_string().contains("does not say where an upload goes on"), "{error}");
    let error = of(|| answer(202, &[], ""), || answer(202, &[], "")).await;
    assert!(error.to_string().contains("does not say where an upload goes on"), "{error}");
    let error = of(|| answer(404, &[], ""), || answer(202, &[], "")).await;
    assert!(matches!(error, RegistryError::NoPlace { .. }), "{error}");
    let error = of(|| answer(202, &[("Location", "file:///etc/passwd")], ""), || answer(202, &[], "")).await;
    assert!(matches!(error, RegistryError::Redirect { .. }), "{error}");
    let error = of(begins, || answer(307, &[("Location", "/upload")], "")).await;
    assert!(matches!(error, RegistryError::Redirect { .. }), "{error}");
    let error =
        of(begins, || answer(413, &[], r#"{"errors": [{"code": "SIZE_INVALID", "message": "too large"}]}"#)).await;
    assert!(error.to_string().contains("too large"), "{error}");
}
