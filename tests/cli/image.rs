//! Images by the command line and over HTTP: what is listed, named, run and removed. They are laid into the store without
//! files in them, and run by the driver `process`, which needs none.

use std::collections::BTreeMap;
use std::fs;
use std::path::PathBuf;

use sandpen::images::digest::digest_of;
use sandpen::images::layer::{self, LayerInfo};
use sandpen::images::store::{self, ImageRecord, LayerRecord, Store};
use sandpen_types::image::ImageDigest;
use serde_json::{Value, json};

use crate::http_api::{refused, request};
use crate::support::pty::OnTerminal;
use crate::support::{Home, explain, succeeds, until};

/// A home with a data directory of its own.
struct Place {
    home: Home,
}

impl Place {
    fn new() -> Self {
        Self { home: Home::new() }
    }

    fn store(&self) -> Store {
        Store::open(&self.home.data().join(Store::DIRECTORY)).unwrap()
    }

    fn command(&self, args: &[&str]) -> std::process::Command {
        let mut command = self.home.sandpen(args);
        command.env("SANDPEN_DATA_DIR", self.home.data()).current_dir(self.home.path());
        command
    }

    fn ok(&self, args: &[&str]) -> String {
        String::from_utf8(succeeds(self.command(args)).stdout).unwrap()
    }

    fn json(&self, args: &[&str]) -> Value {
        serde_json::from_str(&self.ok(args)).unwrap()
    }

    fn fails(&self, args: &[&str]) -> String {
        let output = crate::support::output(self.command(args));
        assert!(!output.status.success(), "sandpen {args:?}: {}", explain(&output));
        String::from_utf8(output.stderr).unwrap()
    }

    /// An image with these layers, each of a block, and this `config` of its configuration.
    fn image(&self, config: &Value, layers: &[u8], names: &[&str]) -> ImageDigest {
        image(&self.store(), config, layers, names)
    }
}

fn write_json(path: PathBuf, value: &impl serde::Serialize) {
    fs::write(path, serde_json::to_vec(value).unwrap()).unwrap();
}

fn layer(store: &Store, number: u8) -> ImageDigest {
    let diff_id = ImageDigest::new([number; 32]);
    let draft = store.draft().unwrap();
    fs::write(draft.path().join(layer::BLOB), vec![number; 4096]).unwrap();
    fs::write(draft.path().join(layer::ENTRIES), "").unwrap();
    fs::write(draft.path().join(layer::TAR), "").unwrap();
    let info = LayerInfo { diff_id, tar_bytes: 0, blob_bytes: 4096, entries: 0, content_bytes: 4096 };
    let record = LayerRecord { info, files: BTreeMap::new() };
    write_json(draft.path().join(store::LAYER_RECORD), &record);
    draft.commit_layer(&diff_id).unwrap();
    diff_id
}

fn image(store: &Store, config: &Value, layers: &[u8], names: &[&str]) -> ImageDigest {
    let architecture = if cfg!(target_arch = "aarch64") { "arm64" } else { "amd64" };
    let layers: Vec<_> = layers.iter().map(|number| layer(store, *number)).collect();
    let config = json!({
        "os": "linux", "architecture": architecture, "created": "2024-05-06T07:08:09Z", "config": config,
        "rootfs": {"type": "layers", "diff_ids": layers},
    });
    let config = config.to_string();
    let digest = digest_of(config.as_bytes());
    let draft = store.draft().unwrap();
    fs::write(draft.path().join(store::CONFIG), config).unwrap();
    fs::write(draft.path().join(store::METADATA), vec![0; 4096]).unwrap();
    let record = ImageRecord {
        digest,
        layers,
        metadata_bytes: 4096,
        loaded: chrono::Utc::now(),
        manifest_digest: None,
        files: BTreeMap::new(),
    };
    write_json(draft.path().join(store::IMAGE_RECORD), &record);
    let names: Vec<_> = names.iter().map(|name| name.parse().unwrap()).collect();
    draft.commit_image(&digest, &names).unwrap();
    digest
}

fn run<'a>(options: &[&'a str], image: &'a str, command: &[&'a str]) -> Vec<&'a str> {
    [&["run", "--driver", "process"], options, &[image], command].concat()
}

#[test]
fn images_are_listed_named_and_removed() {
    let place = Place::new();
    assert_eq!(place.ok(&["images"]), "NAME  ID  CREATED  SIZE  LAYERS  USED BY\n");
    let app = place.image(&json!({"Cmd": ["true"]}), &[1, 2], &["app:1"]);
    let bare = place.image(&json!({"Cmd": ["false"]}), &[1], &[]);
    let table = place.ok(&["image", "ls"]);
    let line = |beginning: &str| table.lines().find(|line| line.starts_with(beginning)).unwrap().to_owned();
    let words: Vec<_> = line("app:1 ").split_whitespace().map(str::to_owned).collect();
    assert_eq!((words[1].as_str(), words[5].as_str(), words[6].as_str()), (app.short().as_str(), "2", "-"), "{table}");
    assert!(line("- ").contains(&bare.short()), "{table}");
    assert!(table.lines().all(|line| line.chars().count() <= 80), "{table}");
    assert_eq!(place.ok(&["image", "ls", "-q"]).lines().count(), 2);
    assert_eq!(place.ok(&["images", "-q", "--filter", "named=true"]), format!("{}\n", app.short()));
    let listed = place.json(&["image", "ls", "--json", "--filter", "name=app"]);
    assert_eq!(listed[0]["names"], json!(["docker.io/library/app:1"]));
    assert_eq!(listed[0]["layers"][0]["shared_by"], 2);
    let inspected = place.json(&["image", "inspect", "app:1", &bare.short()[..6]]);
    assert_eq!(inspected[0]["config"]["config"]["Cmd"], json!(["true"]));
    assert_eq!(inspected[1]["digest"], bare.to_string());

    assert_eq!(place.ok(&["image", "tag", "app:1", "ghcr.io/o/app:2"]), "ghcr.io/o/app:2\n");
    assert_eq!(place.ok(&["image", "rm", "app:1"]), "app:1: untagged\n");
    place.ok(&["image", "tag", "ghcr.io/o/app:2", "app:1"]);
    let error = place.fails(&["image", "rm", &app.short()]);
    assert!(error.contains("has several names: app:1, ghcr.io/o/app:2"), "{error}");
    let removed = place.ok(&["image", "rm", "-f", &app.short()]);
    assert_eq!(removed, format!("app:1: untagged\nghcr.io/o/app:2: untagged\n{}: removed\n", app.short()));
    let error = place.fails(&["image", "rm", "app:1", &bare.short()]);
    assert!(error.contains("no image \"app:1\""), "{error}");
    assert_eq!(place.ok(&["image", "ls", "-q"]), "", "the others are done all the same");
    assert_eq!(place.store().verify().unwrap(), Vec::<String>::new());
}

#[test]
fn what_is_not_there_is_said_with_what_is_near() {
    let place = Place::new();
    place.image(&json!({"Cmd": ["true"]}), &[1], &["debian:12"]);
    for args in [
        &["image", "inspect", "debain"][..],
        &["image", "rm", "debain"],
        &["run", "--pull", "never", "debain"],
        &["image", "save", "debain"],
    ] {
        let error = place.fails(args);
        let wanted = "no image \"debain\" (did you mean docker.io/library/debian:12?); see `sandpen image ls`, or get one \
                      with `sandpen pull NAME` or `sandpen image load FILE`";
        assert!(error.contains(wanted), "{args:?}: {error}");
    }
    let hostile = ["../../etc/passwd", "UPPER", "a\nb", "%2e%2e", "a&force=true", "\u{202e}x", "-", "a@sha256:0"];
    for name in hostile {
        for args in
            [&["image", "inspect", "--", name][..], &["image", "rm", "--", name], &["image", "tag", "--", name, "x"]]
        {
            let error = place.fails(args);
            assert!(error.contains("is no name of an image"), "{args:?}: {error}");
            assert!(!error.trim_end().contains('\n') && !error.contains('\u{202e}'), "{error:?}");
        }
    }
    let error = place.fails(&["image", "tag", "debian:12", "../x"]);
    assert!(error.contains("is no name of an image"), "{error}");
    assert_eq!(place.ok(&["images", "-q"]).lines().count(), 1);
    refused(&place.home, "GET", "/v1/image?name=..%2f..%2fetc", "", 400, "invalid_name");
    refused(&place.home, "GET", "/v1/image?name=none", "", 404, "image_not_found");
    refused(&place.home, "DELETE", "/v1/image?name=none", "", 404, "image_not_found");
    refused(&place.home, "POST", "/v1/images/load", r#"{"path":"relative"}"#, 400, "invalid_request");
    refused(&place.home, "POST", "/v1/images/load", r#"{"path":"/nowhere"}"#, 422, "invalid_image");
    refused(&place.home, "POST", "/v1/images/load", r#"{"path":"/","platform":"a/b/c/d/e"}"#, 400, "invalid_request");
    refused(&place.home, "POST", "/v1/images/save", r#"{"images":[]}"#, 400, "invalid_request");
    refused(&place.home, "PUT", "/v1/images/load?name=UPPER", "x", 400, "invalid_request");
    refused(&place.home, "POST", "/v1/images/prune", r#"{"everything":true}"#, 400, "invalid_request");
}

#[test]
fn a_sandbox_runs_what_its_image_says() {
    let place = Place::new();
    let config = json!({
        "Entrypoint": ["/bin/sh", "-c"], "Cmd": ["echo \"image says $GREETING to $WHOM\""],
        "Env": ["GREETING=hello", "WHOM=nobody"], "Labels": {"team": "search"}, "StopSignal": "SIGINT",
    });
    let digest = place.image(&config, &[1], &["app"]);
    assert_eq!(place.ok(&run(&["-n", "a", "-e", "WHOM=you"], "app", &[])), "image says hello to you\n");
    assert_eq!(place.ok(&run(&["--rm"], &digest.short(), &["--", "echo mine"])), "mine\n");
    assert_eq!(place.ok(&run(&["--rm", "--entrypoint", "/bin/echo"], "app", &["--", "a b"])), "a b\n");
    assert_eq!(place.ok(&run(&["--rm", "--entrypoint", ""], "app", &["--", "/bin/echo", "c"])), "c\n");
    let error = place.fails(&run(&["--entrypoint", ""], "app", &[]));
    assert!(error.contains("names no command to run"), "{error}");
    let inspected = place.json(&["inspect", "a"]);
    assert_eq!(inspected["rootfs"], format!("image:docker.io/library/app:latest={digest}"));
    assert_eq!(inspected["labels"]["team"], "search");
    assert_eq!(place.json(&["images", "--json"])[0]["used_by"], json!(["default/a"]));

    // The bytes that it was made of, whatever the name means by now.
    let other = place.image(&json!({"Cmd": ["/bin/echo", "another"]}), &[2], &["app"]);
    place.ok(&["start", "a"]);
    assert_eq!(place.ok(&["wait", "a"]), "0\n");
    assert_eq!(place.ok(&["logs", "a"]), "image says hello to you\n", "its latest run's");
    assert_eq!(place.json(&["inspect", "a"])["generation"], 2);
    assert_eq!(place.ok(&run(&["--rm"], "app", &[])), "another\n");

    // What a sandbox may be started from again stays.
    let error = place.fails(&["image", "rm", "-f", &digest.short()]);
    assert!(error.contains("is in use by sandbox default/a"), "{error}");
    refused(&place.home, "DELETE", &format!("/v1/image?name={}", digest.hex()), "", 409, "image_in_use");
    assert_eq!(place.ok(&["image", "prune", "--all", "--dry-run", "--json"]).matches(&other.to_string()).count(), 1);
    place.ok(&["image", "prune", "-a", "-y"]);
    assert_eq!(place.ok(&["images", "-q"]), format!("{}\n", digest.short()));
    place.ok(&["rm", "a"]);
    place.ok(&["image", "prune", "-f"]);
    assert_eq!(place.ok(&["images", "-q"]), "");
    assert_eq!(fs::read_dir(place.home.data().join("images/layers")).unwrap().count(), 0);
}

#[test]
fn what_no_sandbox_can_have_is_said_with_the_images_field() {
    let place = Place::new();
    for (name, config, wanted) in [
        ("signal", json!({"Cmd": ["true"], "StopSignal": "SIGNOPE"}), "config.StopSignal of image signal:latest"),
        ("user", json!({"Cmd": ["true"], "User": "a b"}), "config.User of image user:latest"),
        ("empty", json!({}), "names no command to run"),
        ("shape", json!({"Cmd": 7}), "config.Cmd"),
    ] {
        place.image(&config, &[1], &[name]);
        let error = place.fails(&run(&[], name, &[]));
        assert!(error.contains(wanted), "{name}: {error}");
    }
    assert_eq!(place.ok(&run(&["--rm", "--stop-signal", "TERM"], "signal", &[])), "");
    let body = r#"{"key":{"config":"default","name":"x"},"rootfs":{"image":{"reference":"empty"}},"command":[]}"#;
    refused(&place.home, "POST", "/v1/sandboxes", body, 400, "invalid_spec");
    let body = body.replace("empty", "nowhere");
    refused(&place.home, "POST", "/v1/sandboxes", &body, 404, "image_not_found");
    assert_eq!(place.json(&["ps", "-a", "--json"]), json!([]), "nothing was begun");
}

#[test]
fn a_name_is_an_image_and_a_path_a_directory() {
    let place = Place::new();
    fs::create_dir(place.home.path().join("debian")).unwrap();
    let error = place.fails(&run(&[], "debian", &[]));
    assert!(error.contains("give ./debian for the directory"), "{error}");
    let error = place.fails(&run(&[], "UPPER", &[]));
    assert!(error.contains("is no directory, which would start with"), "{error}");
    for (options, wanted) in [
        (&["--overlay", "./debian"][..], "--overlay does not go with an image"),
        (&["--root", "image"], "--root does not go with an image"),
    ] {
        assert!(place.fails(&run(options, "app", &[])).contains(wanted));
    }
    for options in [&["--entrypoint", "x"][..], &["--no-healthcheck"], &["-P"], &["--pull", "always"]] {
        assert!(place.fails(&run(options, "./debian", &[])).contains("is for an image"));
    }
}

#[test]
fn a_pruning_of_everything_takes_images_without_a_name() {
    let place = Place::new();
    place.image(&json!({"Cmd": ["true"]}), &[1, 2], &["app"]);
    let bare = place.image(&json!({"Cmd": ["false"]}), &[1, 3], &[]);
    let of_kind = |kind: &str| {
        let usage = place.json(&["df", "--json"]);
        usage["kinds"].as_array().unwrap().iter().find(|of| of["kind"] == kind).unwrap().clone()
    };
    let (images, layers) = (of_kind("images"), of_kind("image_layers"));
    assert_eq!((&images["count"], &layers["count"]), (&json!(2), &json!(3)));
    assert!(images["reclaimable_bytes"].as_u64() > Some(0) && layers["reclaimable_bytes"].as_u64() > Some(0));
    let planned = place.ok(&["prune", "--dry-run"]);
    assert!(planned.contains(&bare.hex()) && !planned.contains("app:latest"), "{planned}");
    let pruned = place.ok(&["prune", "-f"]);
    assert!(pruned.contains(&format!("{}: removed", place.store().image_path(&bare).display())), "{pruned}");
    assert_eq!((&of_kind("images")["count"], &of_kind("image_layers")["count"]), (&json!(1), &json!(2)));
}

/// Whoever reads the database finds what is in the store, also after a start.
#[test]
fn the_index_follows_the_store() {
    let place = Place::new();
    let a = place.image(&json!({"Cmd": ["true"]}), &[1], &["a"]);
    place.ok(&["ps"]);
    let indexed = || {
        let options = sqlx::sqlite::SqliteConnectOptions::new().filename(place.home.state().join("sandpen.db"));
        let read = async {
            let mut connection = sqlx::ConnectOptions::connect(&options.read_only(true)).await?;
            sqlx::query_scalar::<_, String>("SELECT names FROM images").fetch_all(&mut connection).await
        };
        sandpen::block_on(read).unwrap().unwrap_or_default()
    };
    until("the index", || indexed() == [r#"["docker.io/library/a:latest"]"#]);
    place.ok(&["image", "tag", "a", "b"]);
    assert_eq!(indexed(), [r#"["docker.io/library/a:latest","docker.io/library/b:latest"]"#]);
    place.ok(&["image", "rm", "-f", &a.short()]);
    assert_eq!(indexed(), Vec::<String>::new());
}

#[test]
fn an_archive_is_not_for_a_terminal() {
    let place = Place::new();
    place.image(&json!({"Cmd": ["true"]}), &[1], &["app"]);
    let save = OnTerminal::spawn(&place.command(&["image", "save", "app"]), 24, 80);
    let (status, shown) = save.end();
    assert!(shown.contains("an archive is not for a terminal") && status.code() == Some(1), "{status} {shown}");
    let file = place.home.path().join("app.tar");
    assert!(!place.fails(&["image", "save", "none", "-o", file.to_str().unwrap()]).is_empty());
    let left: Vec<_> = fs::read_dir(place.home.path()).unwrap().flatten().map(|entry| entry.file_name()).collect();
    assert!(!file.exists() && left.iter().all(|name| !name.to_string_lossy().starts_with(".sandpen-")), "{left:?}");
    let error = place.fails(&["image", "save", "app", "-o", "/nowhere/app.tar"]);
    assert!(error.contains("cannot be written"), "{error}");
    assert!(place.fails(&["image", "load", "./nowhere"]).contains("\"./nowhere\" cannot be read"));
    let (status, _) = request(&place.home, "GET", "/v1/images", "");
    assert_eq!(status, 200);
    assert!(place.home.data().join("images").is_dir());
}

/// A root directory becomes an image, the image an archive of either kind, and those the same image again.
#[test]
fn what_is_imported_is_saved_and_loaded_again() {
    let place = Place::new();
    let root = place.home.path().join("root");
    fs::create_dir_all(root.join("etc")).unwrap();
    fs::write(root.join("etc/hello"), "hello").unwrap();
    let imported = place.json(&["image", "import", "./root", "tools:1", "--json"]);
    assert_eq!(imported[0]["names"], json!(["docker.io/library/tools:1"]));
    let digest = imported[0]["digest"].as_str().unwrap().to_owned();
    let error = place.fails(&run(&[], "tools:1", &[]));
    assert!(error.contains("names no command to run") && error.contains("sandpen run tools:1 -- /bin/sh"), "{error}");
    assert_eq!(place.ok(&run(&["--rm"], "tools:1", &["--", "echo", "x"])), "x\n");
    for (format, file) in [("docker", "a.tar"), ("oci", "b.tar")] {
        place.ok(&["image", "save", "tools:1", "-o", file, "--format", format]);
    }
    let to_stdout = succeeds(place.command(&["image", "save", "tools:1"])).stdout;
    assert_eq!(to_stdout, fs::read(place.home.path().join("a.tar")).unwrap());
    place.ok(&["image", "rm", "tools:1"]);
    for (args, input, names) in [
        (&["image", "load", "-", "--name", "other:2", "--json"][..], Some("a.tar"), &["other:2", "tools:1"][..]),
        (&["image", "load", "b.tar", "--json"], None, &["tools:1"]),
        (&["image", "load", "./a.tar", "--json"], None, &["tools:1"]),
    ] {
        let mut command = place.command(args);
        if let Some(file) = input {
            command.stdin(fs::File::open(place.home.path().join(file)).unwrap());
        }
        let loaded: Value = serde_json::from_slice(&succeeds(command).stdout).unwrap();
        assert_eq!(loaded[0]["digest"], digest, "{args:?}");
        let named: Vec<_> = names.iter().map(|name| json!(format!("docker.io/library/{name}"))).collect();
        assert_eq!(loaded[0]["names"].as_array().unwrap(), &named, "{args:?}");
        assert_eq!(place.store().verify().unwrap(), Vec::<String>::new());
        place.ok(&["image", "rm", "-f", &digest]);
    }
    fs::write(place.home.path().join("none.tar"), "no archive").unwrap();
    assert!(!place.fails(&["image", "load", "none.tar"]).is_empty());
    refused(&place.home, "PUT", "/v1/images/load", "no archive", 422, "invalid_image");
    assert_eq!(place.ok(&["images", "-q"]), "");
}

/// What came in last stays, whatever the budget; what a sandbox has stays too.
#[test]
fn beyond_the_budget_images_go_that_nobody_has() {
    let place = Place::new();
    let root = place.home.path().join("root");
    fs::create_dir(&root).unwrap();
    // It starts the daemon that everything else finds.
    let mut first = place.command(&["ps"]);
    first.env("SANDPEN_IMAGE_BUDGET", "4k");
    succeeds(first);
    for name in ["one", "two", "three"] {
        fs::write(root.join("file"), name.repeat(4096)).unwrap();
        place.ok(&["image", "import", "./root", name]);
        if name == "one" {
            place.ok(&run(&["-n", "keeper"], "one", &["--", "true"]));
        }
    }
    let listed = place.json(&["images", "--json"]);
    let names: Vec<_> = listed.as_array().unwrap().iter().map(|image| image["names"][0].as_str().unwrap()).collect();
    assert_eq!(names, ["docker.io/library/three:latest", "docker.io/library/one:latest"]);
    assert_eq!(place.store().verify().unwrap(), Vec::<String>::new());
}
