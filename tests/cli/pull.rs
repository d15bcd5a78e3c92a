//! Images out of Debian's docker-registry on loopback, made and pushed by umoci and skopeo, through the built program:
//! what is fetched, what is said, and what is run.

mod partial;

use std::fs;
use std::path::PathBuf;
use std::process::{Command, Stdio};

use nix::sys::signal::Signal;
use sandpen::images::digest::digest_of;
use sandpen::images::store::Store;
use sandpen_types::image::ImageDigest;
use serde_json::{Value, json};

use crate::http_api::refused;
use crate::support::registry::{Registry, has_all, noise, tool};
use crate::support::{Home, explain, is_there, output, send, succeeds, until};

/// `user:hunter2` and `user:hunter3` in base64, as files of credentials have it.
pub(crate) const RIGHT: &str = "dXNlcjpodW50ZXIy";
pub(crate) const WRONG: &str = "dXNlcjpodW50ZXIz";

/// A registry and a home with data of its own.
pub(crate) struct Place {
    // It goes first: nothing is left of the home then.
    pub(crate) registry: Registry,
    pub(crate) home: Home,
}

impl Place {
    /// With a password, or for everybody.
    pub(crate) fn new(has_password: bool) -> Self {
        Self::with_tls(has_password, None)
    }

    /// The same with a certificate and its key.
    pub(crate) fn with_tls(has_password: bool, tls: Option<(String, String)>) -> Self {
        let home = Home::with_data();
        let registry = Registry::with_tls(home.path(), has_password, tls);
        Self { registry, home }
    }

    pub(crate) fn reference(&self, name: &str) -> String {
        self.registry.reference(name)
    }

    /// An image of two layers, the second one with as many bytes that cannot be compressed.
    pub(crate) fn put(&self, name: &str, len: usize) {
        self.registry.put(name, &[("small", vec![b'x'; 3000]), ("large", noise(len))]);
    }

    /// What skopeo says of something in it.
    pub(crate) fn skopeo(&self, name: &str, arguments: &[&str]) -> Vec<u8> {
        let of = format!("docker://{}", self.reference(name));
        let inspect = ["inspect", "--tls-verify=false", "--creds", "user:hunter2"];
        tool("skopeo", &[&inspect[..], arguments, &[&of]].concat())
    }

    /// The digest of the manifest, as skopeo sees it.
    pub(crate) fn digest(&self, name: &str) -> ImageDigest {
        digest_of(&self.skopeo(name, &["--raw"]))
    }

    /// How often blobs were fetched.
    pub(crate) fn fetched(&self) -> usize {
        self.registry.fetched().len()
    }

    pub(crate) fn credentials(&self, auth: &str) -> PathBuf {
        let path = self.home.path().join(format!("{auth}.json"));
        let entries = json!({"auths": {format!("127.0.0.1:{}", self.registry.port): {"auth": auth}}});
        fs::write(&path, entries.to_string()).unwrap();
        path
    }

    pub(crate) fn sandpen(&self, args: &[&str]) -> Command {
        let mut command = self.home.sandpen(args);
        let none = self.home.path().join("no-credentials.json");
        command.env("REGISTRY_AUTH_FILE", none).env("http_proxy", "http://u:hunter4@127.0.0.1:1");
        command
    }

    pub(crate) fn ok(&self, args: &[&str]) -> String {
        String::from_utf8(succeeds(self.sandpen(args)).stdout).unwrap()
    }

    pub(crate) fn fails(&self, args: &[&str]) -> String {
        failed(self.sandpen(args))
    }

    pub(crate) fn store(&self) -> Store {
        Store::open(&self.home.data().join(Store::DIRECTORY)).unwrap()
    }

    /// Whether anything is in the making, or was left of that.
    pub(crate) fn has_drafts(&self) -> bool {
        fs::read_dir(self.home.data().join("images/drafts")).is_ok_and(|mut drafts| drafts.next().is_some())
    }

    pub(crate) fn images(&self) -> Value {
        serde_json::from_str(&self.ok(&["images", "--json"])).unwrap()
    }
}

pub(crate) fn failed(command: Command) -> String {
    let output = output(command);
    assert!(!output.status.success(), "{}", explain(&output));
    String::from_utf8(output.stderr).unwrap()
}

#[test]
fn what_is_pulled_is_what_was_pushed_and_is_fetched_once() {
    if !has_all() {
        return;
    }
    let place = Place::new(false);
    place.put("first/app:1", 3 << 20);
    let (name, manifest) = (place.reference("first/app:1"), place.digest("first/app:1"));
    let pulled = succeeds(place.sandpen(&["pull", &name]));
    let said = String::from_utf8(pulled.stderr).unwrap();
    assert!(said.starts_with(&format!("sandpen: pulling {name}\n")), "{said}");
    assert_eq!(said.matches("  done  ").count(), 2, "{said}");
    assert!(String::from_utf8(pulled.stdout).unwrap().ends_with(&format!("  {name}\n")));
    let images = place.images();
    assert_eq!((&images[0]["manifest_digest"], &images[0]["names"]), (&json!(manifest), &json!([name])));
    assert_eq!(place.fetched(), 3, "two layers and a configuration");

    let said = String::from_utf8(succeeds(place.sandpen(&["image", "pull", &name])).stderr).unwrap();
    assert_eq!(said.matches("  there already").count(), 2, "{said}");
    assert_eq!(place.fetched(), 4, "the configuration alone");
    let quiet = succeeds(place.sandpen(&["pull", "-q", &name]));
    assert_eq!(quiet.stderr, b"");
    assert_eq!(quiet.stdout, place.ok(&["images", "-q"]).as_bytes());
    let told = place.ok(&["pull", "--json", &name]);
    let told: Vec<Value> = told.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    let steps: Vec<_> = told.iter().filter_map(|word| word["progress"]["step"].as_str()).collect();
    assert_eq!(steps, ["layer_present", "layer_present", "image_done"]);
    // Who brings it again has used it.
    assert_eq!((&images[0]["last_used"], &place.images()[0]["layers"]), (&Value::Null, &images[0]["layers"]));
    assert_eq!(told.last().unwrap()["images"], json!(place.images()));
    assert!(place.images()[0]["last_used"].is_string());
    assert_eq!(place.store().verify().unwrap(), Vec::<String>::new());

    let error = place.fails(&["pull", &place.reference("first/app:2")]);
    assert!(error.contains("first/app:2 is not in the registry") && error.contains("there are the tags 1"), "{error}");
    let body = json!({"name": place.reference("other/app")}).to_string();
    refused(&place.home, "POST", "/v1/images/pull", &body, 404, "image_not_found");
    let body = json!({"name": name, "platform": "linux/s390x"}).to_string();
    refused(&place.home, "POST", "/v1/images/pull", &body, 404, "image_not_found");
    let body = json!({"name": "127.0.0.1:1/app"}).to_string();
    refused(&place.home, "POST", "/v1/images/pull", &body, 502, "registry_failed");
    assert!(place.fails(&["pull", "../x"]).contains("is no name of an image"));
}

#[test]
fn run_pulls_what_is_not_there() {
    if !has_all() {
        return;
    }
    let place = Place::new(false);
    place.put("app:1", 1000);
    let name = place.reference("app:1");
    let run = |pull: &[&str], name: &str| {
        let args = [&["run", "--rm", "--driver", "process"], pull, &[name, "--", "echo", "hi"]].concat();
        place.sandpen(&args)
    };
    let error = failed(run(&["--pull", "never"], &name));
    assert!(error.contains("get one with `sandpen pull NAME`"), "{error}");
    assert_eq!(place.fetched(), 0);
    let output = succeeds(run(&[], &name));
    assert_eq!((output.stdout.as_slice(), place.fetched()), (&b"hi\n"[..], 3));
    let output = succeeds(run(&[], &name));
    assert_eq!((output.stdout.as_slice(), output.stderr.as_slice(), place.fetched()), (&b"hi\n"[..], &b""[..], 3));
    succeeds(run(&["--pull", "never"], &name));
    assert_eq!(place.fetched(), 3);
    succeeds(run(&["--pull", "always"], &name));
    assert_eq!(place.fetched(), 4);

    place.ok(&["image", "rm", &name]);
    let by_digest = place.reference(&format!("app@{}", place.digest("app:1")));
    let output = succeeds(run(&[], &by_digest));
    assert_eq!(output.stdout, b"hi\n");
    let fetched = place.fetched();
    assert_eq!(place.images()[0]["names"], json!([]));
    succeeds(run(&[], &by_digest));
    assert_eq!(place.fetched(), fetched, "it is known by its manifest");
    let error = failed(run(&[], &place.reference("app:2")));
    assert!(error.contains("app:2 is not in the registry"), "{error}");
}

#[test]
fn who_asks_is_sent_and_kept_nowhere() {
    if !has_all() {
        return;
    }
    let place = Place::new(true);
    place.put("app:1", 1000);
    let name = place.reference("app:1");
    let error = place.fails(&["pull", &name]);
    assert!(error.contains("log in with: sandpen login 127.0.0.1"), "{error}");
    let with = |auth: &str| {
        let mut command = place.sandpen(&["pull", &name]);
        command.env("REGISTRY_AUTH_FILE", place.credentials(auth));
        command
    };
    let error = failed(with(WRONG));
    assert!(error.contains("log in as somebody else") && !error.contains("hunter"), "{error}");
    let body = json!({"name": name, "credentials": {"username": "user", "password": "hunter3"}}).to_string();
    refused(&place.home, "POST", "/v1/images/pull", &body, 403, "registry_denied");
    let body = json!({"name": name, "credentials": {"password": "hunter3"}}).to_string();
    refused(&place.home, "POST", "/v1/images/pull", &body, 400, "invalid_request");
    succeeds(with(RIGHT));
    place.ok(&["shutdown"]);
    let mut files = vec![place.home.state(), place.home.data()];
    let mut looked_at = 0;
    while let Some(path) = files.pop() {
        if path.is_dir() {
            files.extend(fs::read_dir(&path).unwrap().map(|entry| entry.unwrap().path()));
        } else if path.metadata().is_ok_and(|meta| meta.is_file() && meta.len() < 1 << 30) {
            let bytes = fs::read(&path).unwrap();
            let is_told = |secret: &str| bytes.windows(secret.len()).any(|part| part == secret.as_bytes());
            assert!(!["hunter", RIGHT, WRONG].into_iter().any(is_told), "{path:?}");
            looked_at += 1;
        }
    }
    assert!(looked_at > 5, "{looked_at}");
}

#[test]
fn other_bytes_than_the_manifest_says_are_not_taken() {
    if !has_all() {
        return;
    }
    let place = Place::new(false);
    place.put("app:1", 3 << 20);
    let blobs = place.home.path().join("storage/docker/registry/v2/blobs/sha256");
    let directories = fs::read_dir(&blobs).unwrap().flat_map(|entry| fs::read_dir(entry.unwrap().path()).unwrap());
    let paths = directories.map(|entry| entry.unwrap().path().join("data"));
    let largest = paths.max_by_key(|path| path.metadata().unwrap().len()).unwrap();
    let whole = fs::read(&largest).unwrap();
    let mut other = whole.clone();
    let end = other.len() - 1;
    other[end] ^= 1;
    fs::write(&largest, &other).unwrap();
    let name = place.reference("app:1");
    let error = place.fails(&["pull", &name]);
    assert!(error.contains("the layer 2 of 2"), "{error}");
    fs::write(&largest, &whole[..1 << 20]).unwrap();
    let error = place.fails(&["pull", &name]);
    assert!(error.contains("which is to have"), "{error}");
    assert_eq!(place.images(), json!([]));
    fs::write(&largest, &whole).unwrap();
    succeeds(place.sandpen(&["pull", &name]));
    // What a process left that was killed goes with the next pull.
    assert!(!place.has_drafts());
    assert_eq!(place.store().verify().unwrap(), Vec::<String>::new());
}

/// The registry stands still in the middle of a layer; whoever waits for it goes away.
#[test]
fn a_pull_ends_with_its_client() {
    if !has_all() {
        return;
    }
    let place = Place::new(false);
    place.put("app:1", 64 << 20);
    let name = place.reference("app:1");
    let mut client = place.sandpen(&["pull", &name]);
    client.stderr(Stdio::null()).stdout(Stdio::null());
    place.ok(&["ps"]);
    let mut client = client.spawn().unwrap();
    until("it has begun", || place.has_drafts());
    send(place.registry.process.id(), Signal::SIGSTOP);
    client.kill().unwrap();
    client.wait().unwrap();
    let helpers = || place.home.processes().into_iter().any(|(_, line)| line.contains("__image"));
    until("nobody waits for the registry", || !helpers());
    send(place.registry.process.id(), Signal::SIGCONT);
    assert!(is_there(place.registry.process.id()));
    succeeds(place.sandpen(&["pull", &name]));
    assert!(!place.has_drafts());
    assert_eq!(place.store().verify().unwrap(), Vec::<String>::new());
}
