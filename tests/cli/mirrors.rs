//! Mirrors of a registry, and another default registry: what is asked, in which order and as whom, on loopback.

use std::fs;
use std::io::{Read as _, Write as _};
use std::net::TcpListener;
use std::path::PathBuf;
use std::process::Command;
use std::sync::mpsc;

use serde_json::json;

use crate::http_api::refused;
use crate::pull::{Place, RIGHT, failed};
use crate::support::registry::{has_all, tool};
use crate::support::{explain, output, succeeds};

/// `REGISTRY=MIRROR`.
fn of(registry: &Place, mirror: &Place) -> String {
    format!("127.0.0.1:{}=127.0.0.1:{}", registry.registry.port, mirror.registry.port)
}

/// Has a mirror have the same as its registry.
fn copy(registry: &Place, mirror: &Place, name: &str) {
    let [from, to] = [registry, mirror].map(|place| format!("docker://{}", place.reference(name)));
    let copy = ["--insecure-policy", "copy", "--src-tls-verify=false", "--dest-tls-verify=false"];
    tool("skopeo", &[&copy[..], &[&from, &to]].concat());
}

/// The largest blob, which is a layer.
fn largest_blob(place: &Place) -> PathBuf {
    let blobs = place.home.path().join("storage/docker/registry/v2/blobs/sha256");
    let directories = fs::read_dir(&blobs).unwrap().flat_map(|entry| fs::read_dir(entry.unwrap().path()).unwrap());
    let paths = directories.map(|entry| entry.unwrap().path().join("data"));
    paths.max_by_key(|path| path.metadata().unwrap().len()).unwrap()
}

#[test]
fn a_mirror_is_asked_first_and_the_registry_for_what_it_lacks() {
    if !has_all() {
        return;
    }
    let (place, mirror) = (Place::new(false), Place::new(false));
    place.put("app:1", 3 << 20);
    copy(&place, &mirror, "app:1");
    place.put("app:2", 1000);
    let (name, mirrored) = (place.reference("app:1"), of(&place, &mirror));
    let pull = |mirror: &str, name: &str| succeeds(place.sandpen(&["pull", "--mirror", mirror, name]));
    let before = place.fetched(); // for the copy
    pull(&mirrored, &name);
    assert_eq!((place.fetched(), mirror.fetched()), (before, 3), "two layers and a configuration");
    assert_eq!(place.images()[0]["names"], json!([name]), "it is the registry's image");
    pull(&mirrored, &place.reference("app:2"));
    assert!(place.fetched() > before);

    let fetched = place.fetched();
    place.ok(&["image", "rm", &name]);
    let by_digest = place.reference(&format!("app@{}", place.digest("app:1")));
    let run = ["run", "--rm", "--driver", "process", "--mirror", &mirrored, &by_digest, "--", "echo", "hi"];
    assert_eq!(place.ok(&run), "hi\n");
    assert_eq!(place.fetched(), fetched);
    place.ok(&["image", "prune", "--all", "-f"]);

    // One that is down, and one whose layer is another one.
    pull(&format!("127.0.0.1:{}=127.0.0.1:1", place.registry.port), &name);
    assert!(place.fetched() > fetched);
    place.ok(&["image", "prune", "--all", "-f"]);
    let layer = largest_blob(&mirror);
    let mut bytes = fs::read(&layer).unwrap();
    let middle = bytes.len() / 2;
    bytes[middle] ^= 1;
    fs::write(&layer, bytes).unwrap();
    let fetched = (place.fetched(), mirror.fetched());
    pull(&mirrored, &name);
    assert!(mirror.fetched() > fetched.1 && place.fetched() == fetched.0 + 1, "one layer of the registry's");
    assert_eq!(place.store().verify().unwrap(), Vec::<String>::new());
    // That of another registry is none of this one's.
    place.ok(&["image", "prune", "--all", "-f"]);
    let asked = mirror.fetched();
    pull(&format!("ghcr.io=127.0.0.1:{}", mirror.registry.port), &name);
    assert_eq!(mirror.fetched(), asked);
}

#[test]
fn a_mirror_has_a_login_of_its_own() {
    if !has_all() {
        return;
    }
    let (place, mirror) = (Place::new(false), Place::new(true));
    place.put("app:1", 1000);
    mirror.put("app:1", 1000);
    let name = place.reference("app:1");
    let mut command = place.sandpen(&["pull", "--mirror", &of(&place, &mirror), &name]);
    command.env("REGISTRY_AUTH_FILE", mirror.credentials(RIGHT));
    succeeds(command);
    assert_eq!((place.fetched(), mirror.fetched()), (0, 3));
}

/// A mirror that asks who it is told nothing of the registry's own.
#[test]
fn a_mirror_gets_nothing_that_is_the_registrys() {
    if !has_all() {
        return;
    }
    let place = Place::new(true);
    place.put("app:1", 1000);
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = listener.local_addr().unwrap().port();
    let (sender, heard) = mpsc::channel();
    let answers = std::thread::spawn(move || {
        for stream in listener.incoming() {
            let mut stream = stream.unwrap();
            let mut bytes = vec![0; 4096];
            let count = stream.read(&mut bytes).unwrap();
            let asked = String::from_utf8_lossy(&bytes[..count]).to_ascii_lowercase();
            if asked.starts_with("end") {
                return;
            }
            let answer = "HTTP/1.1 401 X\r\nWWW-Authenticate: Basic realm=\"x\"\r\nContent-Length: 0\r\n\
                          Connection: close\r\n\r\n";
            let _ = stream.write_all(answer.as_bytes());
            sender.send(asked).unwrap();
        }
    });
    let mirror = format!("127.0.0.1:{}=127.0.0.1:{port}", place.registry.port);
    let mut command = place.sandpen(&["pull", "--mirror", &mirror, &place.reference("app:1")]);
    command.env("REGISTRY_AUTH_FILE", place.credentials(RIGHT));
    succeeds(command);
    std::net::TcpStream::connect(("127.0.0.1", port)).unwrap().write_all(b"end").unwrap();
    answers.join().unwrap();
    let heard: Vec<_> = heard.into_iter().collect();
    assert!(heard.iter().any(|asked| asked.starts_with("get /v2/app/manifests/1 ")), "{heard:?}");
    assert!(!heard.iter().any(|asked| asked.contains("\r\nauthorization")), "{heard:?}");
}

#[test]
fn a_config_file_says_which_ways_lead_to_images() {
    if !has_all() {
        return;
    }
    let (place, mirror) = (Place::new(false), Place::new(false));
    mirror.put("app:1", 1000);
    let config = place.home.path().join("config.toml");
    let text = format!(
        "default-registry = '127.0.0.1:{}'\nmirror = ['ghcr.io=a.example', '{}']\ninsecure-registry = 'a.example'\n",
        place.registry.port,
        of(&place, &mirror)
    );
    fs::write(&config, text).unwrap();
    let sandpen = |args: &[&str]| {
        let mut command = place.sandpen(args);
        command.env("SANDPEN_CONFIG", &config);
        command
    };
    let pulled = succeeds(sandpen(&["image", "pull", "app:1"]));
    let said = String::from_utf8(pulled.stderr).unwrap();
    assert!(said.starts_with(&format!("sandpen: pulling {}\n", place.reference("app:1"))), "{said}");
    assert!(String::from_utf8(pulled.stdout).unwrap().ends_with("  app:1\n"));
    assert_eq!((place.fetched(), mirror.fetched()), (0, 3));
    succeeds(sandpen(&["image", "rm", "app:1"]));
    succeeds(sandpen(&["run", "--rm", "--driver", "process", "app:1", "--", "true"]));
    let shown = String::from_utf8(succeeds(sandpen(&["config"])).stdout).unwrap();
    assert!(shown.contains(&format!("[\"ghcr.io=a.example\", \"{}\"]", of(&place, &mirror))), "{shown}");
    // A flag stands for all of the file's.
    succeeds(sandpen(&["image", "rm", "app:1"]));
    let error = failed(sandpen(&["pull", "--mirror", "ghcr.io=a.example", "app:1"]));
    assert!(error.contains("app:1 is not in the registry"), "{error}");
}

#[test]
fn names_without_a_registry_are_of_the_default_one() {
    if !has_all() {
        return;
    }
    let place = Place::new(false);
    place.put("app:1", 1000);
    let name = place.reference("app:1");
    let sandpen = |default: &str, args: &[&str]| {
        let mut command = place.sandpen(args);
        command.env("SANDPEN_DEFAULT_REGISTRY", default);
        command
    };
    let registry = format!("127.0.0.1:{}", place.registry.port);
    let own = |args: &[&str]| String::from_utf8(succeeds(sandpen(&registry, args)).stdout).unwrap();
    own(&["run", "--rm", "--driver", "process", "app:1", "--", "true"]);
    assert_eq!(place.images()[0]["names"], json!([name]));
    assert_eq!(own(&["image", "tag", "app:1", "team/other"]), "team/other:latest\n");
    assert_eq!(own(&["image", "tag", "app:1", "docker.io/other"]), "docker.io/library/other:latest\n");
    let listed = own(&["images"]);
    for (shown, is_there) in [("\napp:1 ", true), ("\ndocker.io/library/other:latest ", true), (&registry, false)] {
        assert_eq!(listed.contains(shown), is_there, "{shown}: {listed}");
    }
    assert!(own(&["images", "--filter", "name=app"]).contains("app:1"));
    let id = own(&["images", "-q", "--filter", "name=app"]).trim().to_owned();
    assert_eq!(own(&["image", "inspect", &id]), own(&["image", "inspect", "app:1"]));
    own(&["run", "--rm", "--driver", "process", "--pull", "never", &id[..8], "--", "true"]);
    let archive = place.home.path().join("archive.tar");
    own(&["image", "save", "-o", archive.to_str().unwrap(), "team/other"]);
    assert_eq!(own(&["image", "rm", "team/other"]), "team/other:latest: untagged\n");
    let loaded = own(&["image", "load", "--name", "again", archive.to_str().unwrap()]);
    assert!(loaded.contains("again:latest") && !loaded.contains(&registry), "{loaded}");
    own(&["image", "import", place.home.path().join("layout-app-1").to_str().unwrap(), "made"]);
    assert!(place.ok(&["images"]).contains(&place.reference("made:latest")));

    // What may be an id is one: no registry is asked for it.
    let asked = place.fetched();
    let error = failed(sandpen(&registry, &["run", "--driver", "process", "cafe1234", "--", "true"]));
    assert!(error.contains("cafe1234") && !error.contains("pulling"), "{error}");
    let error = failed(sandpen(&registry, &["pull", "cafe1234"]));
    assert!(error.contains("cafe1234:latest") && place.fetched() == asked, "{error}");

    for args in [&["pull", "debian"][..], &["image", "rm", "debian"], &["image", "tag", &name, "debian"]] {
        let error = failed(sandpen("none", args));
        assert!(error.contains("no default one is set") && error.contains("docker.io/library/debian"), "{error}");
    }
    let error = failed(sandpen("none", &["run", "debian:12", "--", "true"]));
    assert!(error.contains("that of Docker Hub is docker.io/library/debian:12"), "{error}");
    succeeds(sandpen("none", &["pull", &name]));
    let listed = String::from_utf8(succeeds(sandpen("none", &["images"])).stdout).unwrap();
    assert!(listed.contains(&format!("\n{name} ")), "{listed}");
}

#[test]
fn what_is_no_registry_is_refused() {
    let home = crate::support::Home::new();
    let run = |args: &[&str]| -> Command { home.sandpen(args) };
    for (args, expected) in [
        (&["--default-registry", "https://ghcr.io", "images"][..], "named without https://"),
        (&["--default-registry", "ghcr.io/owner", "images"], "is no registry"),
        (&["--default-registry", "a b", "images"], "is no registry"),
        (&["--default-registry", "", "images"], "is no registry"),
        (&["pull", "--mirror", "ghcr.io", "x"], "REGISTRY=HOST[:PORT][/PREFIX]"),
        (&["pull", "--mirror", "ghcr.io=https://a.example", "x"], "named without https://"),
        (&["pull", "--mirror", "ghcr.io=u:p@a.example", "x"], "without who logs in"),
        (&["run", "--mirror", "ghcr.io=a.example/../x", "x"], "is no mirror"),
        (&["run", "--insecure-registry", "a.example/x", "x"], "is no registry"),
    ] {
        let refused = output(run(args));
        let said = String::from_utf8_lossy(&refused.stderr).into_owned();
        assert!(!refused.status.success() && said.contains(expected), "{args:?}: {}", explain(&refused));
    }
    let config = home.path().join("config.toml");
    for (text, expected) in [
        ("default-registry = 'http://x'", "line 1: default-registry cannot be"),
        ("mirror = ['ghcr.io=a.example', 'ghcr.io=u:hunter2@a.example']", "line 1: mirror cannot be"),
        ("insecure-registry = [1]", "line 1: insecure-registry cannot be \"1\""),
    ] {
        fs::write(&config, text).unwrap();
        let mut command = run(&["images"]);
        command.env("SANDPEN_CONFIG", &config);
        let error = failed(command);
        assert!(error.contains(expected), "{error}");
    }
    assert!(!home.state().exists());
    home.ok(&["ps"]);
    for mirrors in [json!([{"place": "https://a.example"}]), json!([{"place": "a b"}]), json!([{"host": "a.example"}])]
    {
        let body = json!({"name": "app", "mirrors": mirrors}).to_string();
        refused(&home, "POST", "/v1/images/pull", &body, 400, "invalid_request");
    }
    let many: Vec<_> = (0..9).map(|n| json!({"place": format!("m{n}.example")})).collect();
    let body = json!({"name": "app", "mirrors": many}).to_string();
    refused(&home, "POST", "/v1/images/pull", &body, 400, "invalid_request");
}
