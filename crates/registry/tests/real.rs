//! Debian's docker-registry on loopback, with TLS and a password; images by umoci and skopeo, which are the other
//! opinion on what is in it.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on fails")]

mod support;

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::Write as _;
use std::process::{Child, Command, Stdio};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use bytes::Bytes;
use futures::StreamExt as _;
use sandpen_images::digest::digest_of;
use sandpen_registry::{
    Blob, BlobSource, ByteStream, Credentials, Options, Registry, RegistryError, Secret, Times, checked,
};
use sandpen_skip::{Reason, has_programs};
use sandpen_types::image::{ImageDigest, ImageReference};
use support::{Memory, PushEvent, authority, collect, password, platform, push, signed};
use tempfile::TempDir;

/// Whether all programs are here; if not the test is skipped.
fn has_all() -> bool {
    has_programs(&[
        ("docker-registry", Reason::NoDockerRegistry),
        ("skopeo", Reason::NoSkopeo),
        ("umoci", Reason::NoUmoci),
    ])
}

fn run(program: &str, arguments: &[&str]) -> String {
    let output = Command::new(program).args(arguments).output().unwrap();
    let errors = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(output.status.success(), "{program} {arguments:?}: {errors}");
    String::from_utf8(output.stdout).unwrap()
}

/// A registry of its own, which ends with the test.
struct Debians {
    dir: TempDir,
    port: u16,
    process: Option<Child>,
}

impl Drop for Debians {
    fn drop(&mut self) {
        self.kill();
    }
}

impl Debians {
    fn start() -> Self {
        let dir = TempDir::new().unwrap();
        // Nobody takes a port twice in the moments until the registry does.
        let port = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
        let authority = authority();
        let (certificate, key) = signed(&authority, &["127.0.0.1", "localhost"], |_| {});
        let certificates = dir.path().join("certs.d").join(format!("127.0.0.1:{port}"));
        fs::create_dir_all(&certificates).unwrap();
        fs::write(certificates.join("ca.crt"), authority.pem()).unwrap();
        fs::write(dir.path().join("server.crt"), certificate).unwrap();
        fs::write(dir.path().join("server.key"), key).unwrap();
        fs::write(dir.path().join("htpasswd"), format!("user:{}\n", bcrypt::hash("hunter2", 4).unwrap())).unwrap();
        let at = dir.path().display();
        let config = format!(
            "version: 0.1\nlog: {{level: error, accesslog: {{disabled: true}}}}\n\
             storage: {{filesystem: {{rootdirectory: {at}/storage}}, delete: {{enabled: true}}}}\n\
             http: {{addr: '127.0.0.1:{port}', secret: test, \
             tls: {{certificate: {at}/server.crt, key: {at}/server.key}}}}\n\
             auth: {{htpasswd: {{realm: test, path: {at}/htpasswd}}}}\n"
        );
        fs::write(dir.path().join("config.yml"), config).unwrap();
        let mut started = Self { dir, port, process: None };
        started.run();
        started
    }

    fn run(&mut self) {
        let log = File::options().append(true).create(true).open(self.dir.path().join("log")).unwrap();
        let process = Command::new("docker-registry")
            .arg("serve")
            .arg(self.dir.path().join("config.yml"))
            .stdin(Stdio::null())
            .stdout(log.try_clone().unwrap())
            .stderr(log)
            .spawn();
        self.process = Some(process.unwrap());
        for _ in 0..200 {
            if std::net::TcpStream::connect(("127.0.0.1", self.port)).is_ok() {
                return;
            }
            std::thread::sleep(Duration::from_millis(50));
        }
        panic!("{}", fs::read_to_string(self.dir.path().join("log")).unwrap());
    }

    fn kill(&mut self) {
        if let Some(mut process) = self.process.take() {
            let _ = process.kill();
            let _ = process.wait();
        }
    }

    fn reference(&self, name: &str) -> ImageReference {
        format!("127.0.0.1:{}/{name}", self.port).parse().unwrap()
    }

    fn options(&self, credentials: Option<Credentials>) -> Options {
        let mut options = Options {
            certificates: vec![self.dir.path().join("certs.d")],
            times: Times { backoff: Duration::from_millis(200), ..Times::default() },
            ..Options::default()
        };
        options.credentials.extend(credentials.map(|credentials| (format!("127.0.0.1:{}", self.port), credentials)));
        options
    }

    fn client(&self) -> Registry {
        Registry::new(self.options(Some(password()))).unwrap()
    }

    fn skopeo(arguments: &[&str]) -> String {
        run("skopeo", &[&["--insecure-policy"], arguments].concat())
    }

    fn certificates(&self) -> String {
        self.dir.path().join(format!("certs.d/127.0.0.1:{}", self.port)).to_str().unwrap().to_owned()
    }

    /// An image of two layers, the second one with as many bytes that cannot be compressed.
    fn put(&self, name: &str, len: usize, format: &str) {
        let layout = self.dir.path().join("layout");
        if !layout.exists() {
            let at = layout.to_str().unwrap();
            let image = format!("{at}:1");
            run("umoci", &["init", "--layout", at]);
            run("umoci", &["new", "--image", &image]);
            for (file, bytes) in [("small", vec![b'x'; 3000]), ("large", noise(len))] {
                let path = self.dir.path().join(file);
                fs::write(&path, bytes).unwrap();
                run("umoci", &["insert", "--rootless", "--image", &image, path.to_str().unwrap(), &format!("/{file}")]);
            }
        }
        let (from, to) = (format!("oci:{}:1", layout.display()), format!("docker://{}", self.reference(name)));
        let certificates = self.certificates();
        let to = ["--dest-creds", "user:hunter2", "--dest-cert-dir", &certificates, &from, &to];
        Self::skopeo(&[&["copy", "--format", format], &to[..]].concat());
    }

    /// The manifest of a reference as skopeo sees it.
    fn inspect(&self, name: &str) -> String {
        let (certificates, of) = (self.certificates(), format!("docker://{}", self.reference(name)));
        Self::skopeo(&["inspect", "--raw", "--creds", "user:hunter2", "--cert-dir", &certificates, &of])
    }
}

/// Bytes that are the same each time and that nothing makes fewer.
fn noise(len: usize) -> Vec<u8> {
    let mut state = 0x9E37_79B9_7F4A_7C15u64;
    let mut bytes = Vec::with_capacity(len + 8);
    while bytes.len() < len {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        bytes.write_all(&state.to_le_bytes()).unwrap();
    }
    bytes.truncate(len);
    bytes
}

/// All of an image.
async fn pull(registry: &Registry, reference: &ImageReference) -> (Vec<u8>, Memory) {
    let pulled = registry.manifest(reference, &platform()).await.unwrap();
    let mut blobs = BTreeMap::from([(digest_of(&pulled.config_bytes), Bytes::from(pulled.config_bytes))]);
    for layer in &pulled.manifest.layers {
        let blob = Blob::from(layer);
        let (bytes, end) = collect(checked(blob, registry.blob(reference, blob, 0))).await;
        end.unwrap();
        assert_eq!(bytes.len() as u64, blob.size);
        blobs.insert(blob.digest, bytes.into());
    }
    (pulled.bytes, Memory(blobs))
}

#[tokio::test]
async fn what_is_pulled_is_pushed_and_pulled_again_the_same() {
    if !has_all() {
        return;
    }
    let debians = Debians::start();
    debians.put("first/app:1", 5 << 20, "oci");
    debians.put("first/app:docker", 0, "v2s2");
    let registry = debians.client();
    registry.check(&format!("127.0.0.1:{}", debians.port)).await.unwrap();
    for tag in ["1", "docker"] {
        let (from, to) = (debians.reference(&format!("first/app:{tag}")), debians.reference(&format!("a/b/c:{tag}")));
        let (manifest, blobs) = pull(&registry, &from).await;
        assert_eq!(String::from_utf8(manifest.clone()).unwrap(), debians.inspect(&format!("first/app:{tag}")));
        let events = Mutex::new(Vec::new());
        let on = |event| events.lock().unwrap().push(event);
        let digest = push(&registry, &to, &manifest, &[], &blobs, &on).await.unwrap();
        assert_eq!(digest, digest_of(&manifest));
        let done = events.lock().unwrap().iter().filter(|event| matches!(event, PushEvent::Done(_))).count();
        // The two differ in the manifest alone.
        assert_eq!(done, if tag == "1" { 3 } else { 0 });
        let (again, blobs_again) = pull(&registry, &to).await;
        assert_eq!((&again, &blobs_again.0), (&manifest, &blobs.0));
        let by_digest = debians.reference(&format!("a/b/c@{digest}"));
        assert_eq!(registry.manifest(&by_digest, &platform()).await.unwrap().digest, digest);
        assert_eq!(debians.inspect(&format!("a/b/c:{tag}")), String::from_utf8(manifest).unwrap());
    }
    assert_eq!(registry.platforms(&debians.reference("first/app:1")).await.unwrap(), [platform()]);

    let (from, to) = (debians.reference("first/app:1"), debians.reference("mounted/app:1"));
    let manifest = registry.manifest(&from, &platform()).await.unwrap().bytes;
    let events = Mutex::new(Vec::new());
    let on = |event| events.lock().unwrap().push(event);
    let nothing = Memory(BTreeMap::new());
    push(&registry, &to, &manifest, &["not/there", "first/app"], &nothing, &on).await.unwrap();
    let events = events.into_inner().unwrap();
    assert!(events.len() == 3 && events.iter().all(|event| matches!(event, PushEvent::Mounted(_))), "{events:?}");
    pull(&registry, &to).await;
}

#[tokio::test]
async fn its_errors_say_what_to_do() {
    if !has_all() {
        return;
    }
    let debians = Debians::start();
    debians.put("first/app:1.0", 1000, "oci");
    let reference = debians.reference("first/app:1.0");
    let ask = async |options: Options, reference: &ImageReference| {
        Registry::new(options).unwrap().manifest(reference, &platform()).await.unwrap_err().to_string()
    };
    let error = ask(debians.options(None), &reference).await;
    assert!(error.contains(&format!("log in with: sandpen login 127.0.0.1:{}", debians.port)), "{error}");
    let wrong = Credentials::Password { username: "user".to_owned(), password: Secret::new("hunter3") };
    let error = ask(debians.options(Some(wrong.clone())), &reference).await;
    assert!(error.contains("log in as somebody else") && !error.contains("hunter"), "{error}");
    let check = Registry::new(debians.options(Some(wrong))).unwrap();
    assert!(check.check(reference.registry()).await.is_err());
    let error = ask(debians.options(Some(password())), &debians.reference("first/app:1.1")).await;
    assert!(error.contains("first/app:1.1 is not in the registry") && error.ends_with("the tags 1.0"), "{error}");
    let error = ask(debians.options(Some(password())), &debians.reference("nothing/here")).await;
    assert!(error.contains("nothing/here:latest is not in the registry"), "{error}");
    let unknown = Options { certificates: Vec::new(), ..debians.options(Some(password())) };
    let error = ask(unknown, &reference).await;
    assert!(error.contains("is signed by nobody whom this machine believes"), "{error}");
    let localhost = format!("localhost:{}/first/app:1.0", debians.port).parse().unwrap();
    let mut options = debians.options(Some(password()));
    options.insecure.insert(format!("localhost:{}", debians.port));
    options.credentials.insert(format!("localhost:{}", debians.port), password());
    Registry::new(options).unwrap().manifest(&localhost, &platform()).await.unwrap();
}

#[tokio::test]
async fn a_registry_that_is_killed_in_between_costs_nothing() {
    if !has_all() {
        return;
    }
    let mut debians = Debians::start();
    debians.put("first/app:1", 40 << 20, "oci");
    let (registry, reference) = (debians.client(), debians.reference("first/app:1"));
    let (manifest, blobs) = pull(&registry, &reference).await;
    let large = registry.manifest(&reference, &platform()).await.unwrap().manifest.layers.pop().unwrap();
    let blob = Blob::from(&large);
    let mut stream = checked(blob, registry.blob(&reference, blob, 0));
    let (mut len, mut kills) = (0, 0);
    while let Some(chunk) = stream.next().await {
        len += chunk.unwrap().len() as u64;
        if len > (kills + 1) * (10 << 20) && kills < 3 {
            kills += 1;
            debians.kill();
            debians.run();
        }
    }
    assert_eq!((len, kills), (blob.size, 3));

    // And while it is given something.
    let debians = Arc::new(Mutex::new(debians));
    let to = debians.lock().unwrap().reference("second/app:1");
    let kills = Arc::new(Mutex::new(Vec::new()));
    let source = Killing { blobs, large: blob.digest, debians, kills };
    let digest = push(&registry, &to, &manifest, &[], &source, &|_| {}).await.unwrap();
    assert_eq!(digest, digest_of(&manifest));
    // This registry forgets an upload whose last piece broke off.
    assert_eq!(*source.kills.lock().unwrap(), [0, 0, 0]);
    let (again, blobs_again) = pull(&registry, &to).await;
    assert!(again == manifest && blobs_again.0 == source.blobs.0);
}

/// Blobs of whose large one the registry is killed in the middle, two times, and is there again at once.
struct Killing {
    blobs: Memory,
    large: ImageDigest,
    debians: Arc<Mutex<Debians>>,
    /// From where it was sent, each time.
    kills: Arc<Mutex<Vec<u64>>>,
}

impl BlobSource for Killing {
    fn open(&self, blob: &Blob, from: u64) -> ByteStream {
        let all = self.blobs.open(blob, from);
        if blob.digest != self.large {
            return all;
        }
        let mut kills = self.kills.lock().unwrap();
        kills.push(from);
        if kills.len() > 2 {
            return all;
        }
        let debians = Arc::clone(&self.debians);
        all.enumerate()
            .map(move |(number, piece)| {
                if number == 160 {
                    let mut debians = debians.lock().unwrap();
                    debians.kill();
                    debians.run();
                }
                piece
            })
            .boxed()
    }
}

#[test]
fn errors_are_small() {
    assert!(size_of::<RegistryError>() <= 192, "{}", size_of::<RegistryError>());
}
