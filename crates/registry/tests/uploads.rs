//! Pushing to registries that break off, and to some that need nothing.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test that cannot go on fails")]

mod support;

use std::collections::{BTreeMap, HashMap};
use std::sync::{Arc, Mutex};

use sandpen_images::digest::digest_of;
use sandpen_registry::{Blob, PushEvent, RegistryError};
use sandpen_types::image::ImageDigest;
use support::{Image, Memory, Request, Server, Step, answer, registry};

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

async fn push(
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
    let pushed = registry().push(&server.reference(), &image.manifest, None, &source, &on).await;
    (pushed, state, events.into_inner().unwrap())
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
    is_send(&registry.push(&reference, &image.manifest, None, &source, &|_| {}));
}

#[tokio::test]
async fn what_is_there_is_not_sent() {
    let image = Image::new(300_000);
    let (pushed, state, events) = push(&image, &[], true).await;
    assert_eq!(pushed.unwrap(), image.digest());
    let state = state.lock().unwrap();
    assert_eq!(state.blobs[&image.blob().digest.to_string()], image.layer);
    assert_eq!(state.manifests["1"], image.manifest);
    let config = Blob { digest: digest_of(&image.config), size: image.config.len() as u64 };
    assert!(events.contains(&PushEvent::Exists(config)));
    assert!(events.contains(&PushEvent::Sent { blob: image.blob(), bytes: 300_000 }));
    assert_eq!(events.last(), Some(&PushEvent::Done(image.blob())));
}

#[tokio::test]
async fn an_upload_goes_on_where_it_stopped_or_begins_anew() {
    let image = Image::new(300_000);
    for (knows, uploads) in [(true, 0), (false, 2)] {
        let (pushed, state, _) = push(&image, &[100_000, 50_000], knows).await;
        assert_eq!(pushed.unwrap(), image.digest(), "{knows}");
        let state = state.lock().unwrap();
        assert_eq!((state.patches, state.uploads.len()), (3, uploads));
    }
    let (pushed, state, _) = push(&image, &[0; 8], true).await;
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
    let error = registry().push(&server.reference(), &image.manifest, None, &source, &|_| {}).await.unwrap_err();
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
    let pushed =
        support::logged_in(&server).push(&server.reference(), &image.manifest, None, &memory(&image), &|_| {}).await;
    assert_eq!(pushed.unwrap(), image.digest());
    let asked = elsewhere.requests();
    assert!(asked.len() == 6 && asked.iter().all(|request| request.header("authorization").is_none()), "{asked:?}");
}

#[tokio::test]
async fn what_is_in_another_repository_is_mounted() {
    let image = Image::new(1000);
    let server = Server::start(move |request| match request.method.as_str() {
        "HEAD" => support::head(404, &[], 0),
        "POST" => {
            assert!(request.path.contains("?mount=sha256%3A") && request.path.ends_with("&from=other%2Fone"));
            answer(201, &[("Location", "/x")], "")
        }
        "PUT" if request.path.contains("/manifests/") => answer(201, &[], ""),
        _ => answer(200, &[], ""),
    })
    .await;
    let mounted = Mutex::new(0);
    let on = |event| {
        assert!(matches!(event, PushEvent::Mounted(_)));
        *mounted.lock().unwrap() += 1;
    };
    let source = Memory(BTreeMap::new());
    let pushed = registry().push(&server.reference(), &image.manifest, Some("other/one"), &source, &on).await;
    assert_eq!(pushed.unwrap(), image.digest());
    assert_eq!(*mounted.lock().unwrap(), 2);
}
