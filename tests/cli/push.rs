//! Images into Debian's docker-registry on loopback, through the built program: what is sent and what is not, and what
//! skopeo, umoci and another store make of it.

mod sent;

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::os::unix::fs::{MetadataExt as _, symlink};
use std::path::Path;
use std::process::{Command, Stdio};

use nix::sys::signal::Signal;
use sandpen::images::digest::digest_of;
use serde_json::{Value, json};

use self::sent::Sent;
use crate::http_api::refused;
use crate::pull::{Place, RIGHT, WRONG, failed};
use crate::support::registry::{has_all, noise, tool};
use crate::support::{Home, output, send, succeeds, until};

impl Place {
    /// The program, as somebody who may do everything.
    fn entitled(&self, args: &[&str]) -> Command {
        let mut command = self.sandpen(args);
        command.env("REGISTRY_AUTH_FILE", self.credentials(RIGHT));
        command
    }

    fn does(&self, args: &[&str]) -> (String, String) {
        let output = succeeds(self.entitled(args));
        (String::from_utf8(output.stdout).unwrap(), String::from_utf8(output.stderr).unwrap())
    }

    fn manifest(&self, name: &str) -> Value {
        serde_json::from_slice(&self.skopeo(name, &["--raw"])).unwrap()
    }

    /// The program, with a store that has nothing in it.
    fn elsewhere<'a>(&'a self, home: &Home) -> impl Fn(&[&str]) -> Command + use<'a> {
        let (state, data) = (home.state(), home.data());
        move |args| {
            let mut command = self.entitled(args);
            command.env("SANDPEN_STATE_DIR", &state).env("SANDPEN_DATA_DIR", &data);
            command
        }
    }
}

/// What is in a tree: paths with permissions, owner, and content or target.
fn tree(root: &Path) -> BTreeMap<String, String> {
    let mut all = BTreeMap::new();
    let mut directories = vec![root.to_owned()];
    while let Some(directory) = directories.pop() {
        for entry in fs::read_dir(directory).unwrap() {
            let path = entry.unwrap().path();
            let meta = path.symlink_metadata().unwrap();
            let what = if meta.is_dir() {
                directories.push(path.clone());
                "directory".to_owned()
            } else if meta.is_symlink() {
                fs::read_link(&path).unwrap().display().to_string()
            } else {
                digest_of(&fs::read(&path).unwrap()).to_string()
            };
            let name = path.strip_prefix(root).unwrap().display().to_string();
            all.insert(name, format!("{:o} {} {} {what}", meta.mode(), meta.uid(), meta.mtime()));
        }
    }
    all
}

fn make_tree(root: &Path) {
    fs::create_dir_all(root.join("etc/deep")).unwrap();
    fs::write(root.join("etc/deep/noise"), noise(3 << 20)).unwrap();
    fs::write(root.join("etc/empty"), "").unwrap();
    fs::write(root.join("text"), "text\n".repeat(5000)).unwrap();
    symlink("../text", root.join("etc/link")).unwrap();
}

#[test]
fn what_the_registry_has_is_not_sent_and_the_manifest_stays() {
    if !has_all() {
        return;
    }
    let place = Place::new(true);
    place.put("first/app:1", 3 << 20);
    let (name, digest) = (place.reference("first/app:1"), place.digest("first/app:1"));
    place.does(&["pull", &name]);
    let before = place.sent();

    // Under its own name: nothing but the manifest, which is the same.
    let (out, said) = place.does(&["push", &name]);
    assert_eq!(out, format!("{name}@{digest}\n"));
    assert!(said.starts_with(&format!("sandpen: pushing {name}\n")), "{said}");
    assert_eq!(said.matches("  there already").count(), 2, "{said}");
    assert_eq!(place.sent(), Sent { manifests: before.manifests + 1, ..before });

    // In another repository: from the one of which it has a name.
    let other = place.reference("other/team/app:2");
    let (out, said) = place.does(&["image", "push", &name, &other]);
    assert_eq!(out, format!("{other}@{digest}\n"));
    assert_eq!(said.matches("in another repository").count(), 2, "{said}");
    let mounted = Sent { mounts: 3, manifests: before.manifests + 2, ..before };
    assert_eq!(place.sent(), mounted);
    assert_eq!(place.digest("other/team/app:2"), digest);

    // By its id, with nothing but the reference; and as JSON.
    let id = place.ok(&["images", "-q"]).trim().to_owned();
    let third = place.reference("other/team/app:latest");
    let output = succeeds(place.entitled(&["push", "-q", &id, third.strip_suffix(":latest").unwrap()]));
    assert_eq!((output.stdout, output.stderr), (format!("{third}@{digest}\n").into_bytes(), Vec::new()));
    let (out, _) = place.does(&["push", "--json", &id, &third]);
    let words: Vec<Value> = out.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    let steps: BTreeSet<_> = words.iter().filter_map(|word| word["progress"]["step"].as_str()).collect();
    assert!(steps.is_superset(&["layer_present", "image_done"].into()), "{steps:?}");
    let out = &words.last().unwrap()["pushed"];
    let image = &place.images()[0];
    let expected =
        json!({"image": image["digest"], "reference": format!("{third}@{digest}"), "manifest_digest": digest});
    assert_eq!(out, &expected);
    assert_eq!(image["names"], json!([name]), "it gets no name here");
    assert!(!place.has_drafts());
}

/// Another registry, which has nothing of it: layers are packed anew.
#[test]
fn what_the_registry_has_not_is_packed_and_is_the_same_image() {
    if !has_all() {
        return;
    }
    let (from, to) = (Place::new(true), Place::new(true));
    from.put("app:1", 3 << 20);
    let docker = ["copy", "--insecure-policy", "--src-tls-verify=false", "--dest-tls-verify=false", "--format", "v2s2"];
    let creds = ["--src-creds", "user:hunter2", "--dest-creds", "user:hunter2"];
    from.put("app:2", 1 << 20);
    let (oci, v2s2) = (from.reference("app:2"), from.reference("app:docker"));
    tool("skopeo", &[&docker[..], &creds, &[&format!("docker://{oci}"), &format!("docker://{v2s2}")]].concat());
    for (name, kind) in [("app:1", "application/vnd.oci.image"), ("app:docker", "application/vnd.docker.")] {
        let here = from.reference(name);
        let there = to.reference(name);
        from.does(&["pull", &here]);
        let mut push = from.entitled(&["push", &here, &there]);
        push.env("REGISTRY_AUTH_FILE", to.credentials(RIGHT));
        let pushed = succeeds(push);
        let (before, after) = (from.manifest(name), to.manifest(name));
        assert_eq!(String::from_utf8(pushed.stdout).unwrap(), format!("{there}@{}\n", to.digest(name)));
        assert_eq!((&before["mediaType"], &before["config"]), (&after["mediaType"], &after["config"]));
        let types = after["layers"].as_array().unwrap().iter().map(|layer| layer["mediaType"].as_str().unwrap());
        let types: Vec<_> = types.collect();
        assert_eq!(types.len(), 2);
        assert!(types.iter().all(|of| of.starts_with(kind) && of.ends_with("gzip")), "{types:?}");
        // Skopeo looks at every digest.
        let copy = format!("oci:{}:1", to.home.path().join(name.replace(':', "-")).display());
        let get = ["copy", "--insecure-policy", "--src-tls-verify=false", "--src-creds", "user:hunter2"];
        tool("skopeo", &[&get[..], &[&format!("docker://{there}"), &copy]].concat());
        let home = Home::with_data();
        let elsewhere = to.elsewhere(&home);
        let ids = succeeds(elsewhere(&["pull", "-q", &there])).stdout;
        let of = |images: &[u8]| serde_json::from_slice::<Value>(images).unwrap()[0]["digest"].clone();
        let id = of(&succeeds(elsewhere(&["images", "--json"])).stdout);
        assert_eq!(id, after["config"]["digest"]);
        assert!(!ids.is_empty());
        succeeds(elsewhere(&["shutdown"]));
    }
    let sent = to.sent();
    assert_eq!((sent.mounts, sent.manifests, sent.uploads), (0, 2, sent.pieces), "{sent:?}");
    assert!(!from.has_drafts());
}

#[test]
fn what_was_imported_or_loaded_is_pushed_once_and_is_the_same_elsewhere() {
    if !has_all() {
        return;
    }
    let place = Place::new(true);
    let root = place.home.path().join("root");
    make_tree(&root);
    place.ok(&["image", "import", root.to_str().unwrap(), "tools:1"]);
    let archive = place.home.path().join("tools.tar");
    place.ok(&["image", "save", "-o", archive.to_str().unwrap(), "tools:1"]);
    let there = place.reference("tools:1");
    let error = failed(place.entitled(&["push", "tools:2", &there]));
    assert!(error.contains("tools:2"), "{error}");
    let (out, said) = place.does(&["push", "tools:1", &there]);
    let digest = place.digest("tools:1");
    assert_eq!(out, format!("{there}@{digest}\n"));
    assert_eq!(said.matches("  done  ").count(), 1, "{said}");
    let sent = place.sent();
    assert_eq!(sent, Sent { uploads: 2, pieces: 2, mounts: 0, manifests: 1 });

    // The second time nothing is sent, and nothing packed either, even into another repository.
    let is_known = || fs::read_dir(place.home.data().join("images/packed")).unwrap().count();
    assert_eq!(is_known(), 1);
    let (again, said) = place.does(&["push", "tools:1", &there]);
    assert_eq!((again, said.matches("  there already").count()), (out.clone(), 1));
    assert_eq!(place.sent(), Sent { manifests: 2, ..sent });
    // Without knowing what it was packed to it is packed to the same.
    fs::remove_dir_all(place.home.data().join("images/packed")).unwrap();
    let (again, _) = place.does(&["push", "tools:1", &there]);
    assert_eq!(again, out);
    assert_eq!(place.sent(), Sent { manifests: 3, ..sent });

    // What others make of it.
    let layout = place.home.path().join("copied");
    let copy = ["copy", "--insecure-policy", "--src-tls-verify=false", "--src-creds", "user:hunter2"];
    let (from, to) = (format!("docker://{there}"), format!("oci:{}:1", layout.display()));
    tool("skopeo", &[&copy[..], &[&from, &to]].concat());
    let bundle = place.home.path().join("bundle");
    let image = format!("{}:1", layout.display());
    tool("umoci", &["unpack", "--image", &image, bundle.to_str().unwrap()]);
    assert_eq!(tree(&bundle.join("rootfs")), tree(&root));
    let config: Value = serde_json::from_slice(&place.skopeo("tools:1", &["--config", "--raw"])).unwrap();
    let images = place.images();
    assert_eq!(config["rootfs"]["diff_ids"][0], images[0]["layers"][0]["diff_id"]);

    // In a store that has it by pulling, and in one that has it out of an archive.
    let pulled = Home::with_data();
    let elsewhere = place.elsewhere(&pulled);
    succeeds(elsewhere(&["pull", &there]));
    let of = |images: Vec<u8>| serde_json::from_slice::<Value>(&images).unwrap()[0]["digest"].clone();
    assert_eq!(of(succeeds(elsewhere(&["images", "--json"])).stdout), images[0]["digest"]);
    let third = place.reference("third:1");
    let pushed = succeeds(elsewhere(&["push", "-q", &there, &third])).stdout;
    assert_eq!(String::from_utf8(pushed).unwrap(), format!("{third}@{digest}\n"));
    succeeds(elsewhere(&["shutdown"]));
    let loaded = Home::with_data();
    let elsewhere = place.elsewhere(&loaded);
    succeeds(elsewhere(&["image", "load", archive.to_str().unwrap()]));
    let pushed = succeeds(elsewhere(&["push", "-q", "tools:1", &place.reference("fourth:1")])).stdout;
    assert!(String::from_utf8(pushed).unwrap().ends_with(&format!("@{digest}\n")), "the same of each store");
    succeeds(elsewhere(&["shutdown"]));
    assert_eq!(place.store().verify().unwrap(), Vec::<String>::new());
}

#[test]
fn who_may_not_is_told_before_anything_is_packed() {
    if !has_all() {
        return;
    }
    let place = Place::new(true);
    let root = place.home.path().join("root");
    make_tree(&root);
    let there = place.reference("tools:1");
    place.ok(&["image", "import", root.to_str().unwrap(), &there]);
    let error = place.fails(&["push", &there]);
    assert!(error.contains("log in with: "), "{error}");
    let mut wrong = place.sandpen(&["push", &there]);
    wrong.env("REGISTRY_AUTH_FILE", place.credentials(WRONG));
    let error = failed(wrong);
    assert!(error.contains("log in as somebody else") && !error.contains("hunter"), "{error}");
    let refused = |body: Value, status, code| {
        refused(&place.home, "POST", "/v1/images/push", &body.to_string(), status, code);
    };
    let wrong = json!({"username": "user", "password": "hunter3"});
    refused(json!({"image": there, "credentials": wrong}), 403, "registry_denied");
    refused(json!({"image": there, "credentials": {"password": "hunter3"}}), 400, "invalid_request");
    refused(json!({"image": there, "destination": "127.0.0.1:1/app"}), 502, "registry_failed");
    refused(json!({"image": there, "destination": "../x"}), 400, "invalid_request");
    refused(json!({"image": there, "platform": "linux/arm64"}), 400, "invalid_request");
    refused(json!({"image": "nothing"}), 404, "image_not_found");
    let by_digest = format!("{there}@{}", digest_of(b""));
    refused(json!({"image": there, "destination": by_digest}), 400, "invalid_request");
    let id = place.ok(&["images", "-q"]).trim().to_owned();
    refused(json!({"image": id}), 400, "invalid_request");
    let error = failed(place.entitled(&["push", &id]));
    assert!(
        error.contains("nothing says where the image goes") && error.contains("sandpen push IMAGE DEST"),
        "{error}"
    );
    let error = failed(place.entitled(&["push", "nothing:1"]));
    assert!(error.contains("nothing:1"), "{error}");
    assert!(place.fails(&["push", &there, "../x"]).contains("is no name of an image"));
    assert_eq!(place.home.data().join("images/packed").read_dir().unwrap().count(), 0, "nothing was packed");
    assert_eq!(place.sent(), Sent::default());
}

/// Nobody has looked whether the blobs that a manifest names are the layers of its configuration where those were there
/// already.
#[test]
fn a_manifest_gives_nothing_of_another_repository_away() {
    if !has_all() {
        return;
    }
    let place = Place::new(true);
    place.put("private/app:1", 1 << 20);
    let name = place.reference("private/app:1");
    place.does(&["pull", &name]);
    let (before, image) = (place.manifest("private/app:1"), place.images()[0].clone());
    let config = json!({
        "os": "linux", "architecture": "amd64", "config": {},
        "rootfs": {"type": "layers", "diff_ids": [image["layers"][0]["diff_id"]]},
    });
    let config = config.to_string().into_bytes();
    let mut manifest = before.clone();
    manifest["config"]["digest"] = json!(digest_of(&config));
    manifest["config"]["size"] = json!(config.len());
    // Its only layer is said to be the other one's blob.
    manifest["layers"] = json!([before["layers"][1]]);
    let manifest = manifest.to_string().into_bytes();
    let evil = place.reference("private/app:evil").parse().unwrap();
    let store = place.store();
    sandpen::images::import::compose(&store, &config, Some(&manifest), &[evil], &|_| {}).unwrap();
    place.does(&["push", &place.reference("private/app:evil"), &place.reference("public/app:1")]);
    let pushed = place.manifest("public/app:1");
    assert_eq!(pushed["layers"], json!([before["layers"][0]]), "what was seen to be this layer");
    assert_eq!(place.sent().mounts, 1);
    let of = "storage/docker/registry/v2/repositories/public/app/_layers/sha256";
    let links = fs::read_dir(place.home.path().join(of)).unwrap().count();
    assert_eq!(links, 2, "a configuration and a layer");
}

/// The registry stands still in the middle; whoever waits for it goes away.
#[test]
fn a_push_ends_with_its_client() {
    if !has_all() {
        return;
    }
    let place = Place::new(true);
    let root = place.home.path().join("root");
    fs::create_dir(&root).unwrap();
    fs::write(root.join("noise"), noise(64 << 20)).unwrap();
    let there = place.reference("large:1");
    place.ok(&["image", "import", root.to_str().unwrap(), &there]);
    let helpers = || place.home.processes().into_iter().any(|(_, line)| line.contains("__image"));
    until("the importer has gone", || !helpers());
    let mut client = place.entitled(&["push", &there]);
    client.stderr(Stdio::null()).stdout(Stdio::null());
    let mut client = client.spawn().unwrap();
    until("it packs", helpers);
    send(place.registry.process.id(), Signal::SIGSTOP);
    send(client.id(), Signal::SIGINT);
    client.wait().unwrap();
    until("nobody packs any more", || !helpers());
    until("nothing is left of it", || !place.has_drafts());
    send(place.registry.process.id(), Signal::SIGCONT);
    let mut inspect = Command::new("skopeo");
    let of = format!("docker://{there}");
    inspect.args(["inspect", "--tls-verify=false", "--creds", "user:hunter2", &of]);
    assert!(!output(inspect).status.success(), "nothing has the name");

    // Once more, with a client that is killed while bytes are sent.
    let mut client = place.entitled(&["push", &there]);
    client.stderr(Stdio::null()).stdout(Stdio::null());
    let mut client = client.spawn().unwrap();
    let daemon = place.home.daemon_pid();
    until("it packs", helpers);
    until("it is packed", || !helpers());
    client.kill().unwrap();
    client.wait().unwrap();
    // The packed layer is a file without a name that only the daemon has open.
    let open = || {
        let descriptors = fs::read_dir(format!("/proc/{daemon}/fd")).unwrap().flatten();
        let mut targets = descriptors.filter_map(|entry| fs::read_link(entry.path()).ok());
        targets.any(|target| {
            target.to_string_lossy().contains("/images/") && target.to_string_lossy().ends_with("(deleted)")
        })
    };
    until("its file is gone", || !open());
    let (out, _) = place.does(&["push", &there]);
    assert_eq!(out, format!("{there}@{}\n", place.digest("large:1")));
    assert!(!place.has_drafts());
    assert_eq!(place.store().verify().unwrap(), Vec::<String>::new());
}

#[test]
fn an_ordinary_user_pushes() {
    if !has_all() {
        return;
    }
    let place = Place::new(true);
    let home = Home::of_user_without_kernel();
    let data = home.path().join("home/data");
    let credentials = home.path().join("credentials.json");
    fs::copy(place.credentials(RIGHT), &credentials).unwrap();
    let root = home.path().join("home/root");
    make_tree(&root);
    let there = place.reference("tools:1");
    let ok = |args: &[&str]| {
        let mut command = home.sandpen(args);
        command.env("SANDPEN_DATA_DIR", &data).env("REGISTRY_AUTH_FILE", &credentials);
        String::from_utf8(succeeds(command).stdout).unwrap()
    };
    ok(&["image", "import", root.to_str().unwrap(), &there]);
    assert_eq!(ok(&["push", &there]), format!("{there}@{}\n", place.digest("tools:1")));
    ok(&["shutdown"]);
}
