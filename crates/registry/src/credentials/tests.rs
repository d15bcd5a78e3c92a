//! Files and helpers as people have them, and as they should not be.

use std::os::unix::fs::{PermissionsExt as _, symlink};
use std::time::Instant;

use tempfile::TempDir;

use super::*;
use crate::secret::Secret;

fn password(username: &str, password: &str) -> Credentials {
    Credentials::Password { username: username.to_owned(), password: Secret::new(password) }
}

fn places(file: &Path) -> Places {
    Places { files: vec![file.to_owned()], own: None, helper_timeout: Duration::from_secs(5) }
}

async fn find(text: &str, reference: &str) -> Result<Option<Credentials>, CredentialError> {
    let dir = TempDir::new().unwrap();
    let file = dir.path().join("auth.json");
    std::fs::write(&file, text).unwrap();
    places(&file).find(&reference.parse().unwrap()).await
}

#[tokio::test]
async fn entries_of_docker_and_podman() {
    // a:b, c:d:e, f:g
    let text = r#"{"auths": {
        "https://index.docker.io/v1/": {"auth": "YTpi"},
        "ghcr.io": {"auth": "YzpkOmU="},
        "ghcr.io/owner/app": {"auth": "Zjpn"},
        "https://old.example:5000/v2/": {"username": "u", "password": "p"},
        "empty.example": {},
        "null.example": null,
        "token.example": {"auth": "YTpi", "identitytoken": "t"},
        "nopad.example": {"auth": "YzpkOmU"}
    }, "HttpHeaders": {"User-Agent": "x"}, "credsStore": ""}"#;
    for (reference, expected) in [
        ("debian", Some(password("a", "b"))),
        ("ghcr.io/owner/other", Some(password("c", "d:e"))),
        ("ghcr.io/owner/app", Some(password("f", "g"))),
        ("ghcr.io/owner/app/part", Some(password("f", "g"))),
        ("ghcr.io/owner/apple", Some(password("c", "d:e"))),
        ("old.example:5000/x", Some(password("u", "p"))),
        ("empty.example/x", None),
        ("null.example/x", None),
        ("token.example/x", Some(Credentials::IdentityToken(Secret::new("t")))),
        ("nopad.example/x", Some(password("c", "d:e"))),
        ("other.example/x", None),
    ] {
        assert_eq!(find(text, reference).await.unwrap(), expected, "{reference}");
    }
}

#[tokio::test]
async fn a_file_that_is_none_shows_nothing_of_it() {
    for text in [
        r#"{"auths": {"a.example": {"auth": "hunter2"}}}"#,
        r#"{"auths": {"a.example": {"auth": ["hunter2"]}}}"#,
        r#"{"auths": "hunter2"}"#,
        r#"{"auths": {"a.example": {"auth": "aHVudGVyMg=="}}} hunter2"#,
        r#"{"auths": {"a.example": {"auth": "aHVudGVyMg=="}}}"#,
    ] {
        let error = find(text, "a.example/x").await.unwrap_err();
        let words = format!("{error} {error:?}");
        assert!(words.contains("auth.json") && !words.contains("hunter2") && !words.contains("aHVu"), "{words}");
    }
    assert_eq!(find("", "a.example/x").await.unwrap(), None);
    let nowhere = places(Path::new("/nowhere/auth.json"));
    assert_eq!(nowhere.find_for_registry("a.example").await.unwrap(), None);
}

#[test]
fn places_are_those_of_podman_and_docker() {
    let of = |set: &[(&str, &str)]| {
        Places::new(|name| set.iter().find(|(key, _)| *key == name).map(|(_, value)| OsString::from(value)))
    };
    let all = of(&[("HOME", "/h"), ("XDG_RUNTIME_DIR", "/r"), ("REGISTRY_AUTH_FILE", "")]);
    let expected = ["/r/containers/auth.json", "/h/.config/containers/auth.json", "/h/.docker/config.json"];
    assert_eq!(all.files, expected.map(PathBuf::from));
    assert_eq!(all.own, Some("/h/.config/containers/auth.json".into()));
    let other = of(&[("HOME", "/h"), ("DOCKER_CONFIG", "/d"), ("XDG_CONFIG_HOME", "/c")]);
    assert_eq!(other.files, ["/c/containers/auth.json", "/d/config.json"].map(PathBuf::from));
    let only = of(&[("HOME", "/h"), ("REGISTRY_AUTH_FILE", "/a.json")]);
    assert_eq!((only.files, only.own), (vec!["/a.json".into()], Some("/a.json".into())));
    let none = of(&[]);
    assert_eq!((none.files, none.own), (vec![], None));
}

#[tokio::test]
async fn what_is_kept_is_found_and_private_and_goes_again() {
    let dir = TempDir::new().unwrap();
    let (file, link) = (dir.path().join("deep/er/auth.json"), dir.path().join("link.json"));
    login(&file, "ghcr.io", &password("u", "p:w")).unwrap();
    assert_eq!(file.metadata().unwrap().permissions().mode() & 0o777, 0o600);
    assert_eq!(file.parent().unwrap().metadata().unwrap().permissions().mode() & 0o777, 0o700);
    std::fs::write(&file, r#"{"credHelpers": {"x": "y"}, "auths": {"https://index.docker.io/v1/": {"auth": "YTpi"}}}"#)
        .unwrap();
    symlink(&file, &link).unwrap();
    login(&link, "docker.io", &password("me", "secret")).unwrap();
    login(&link, "ghcr.io", &Credentials::IdentityToken(Secret::new("token"))).unwrap();
    assert!(link.symlink_metadata().unwrap().is_symlink());
    let text = std::fs::read_to_string(&file).unwrap();
    assert!(text.contains("credHelpers") && !text.contains("index.docker.io"), "{text}");
    let places = places(&file);
    assert_eq!(places.find_for_registry("docker.io").await.unwrap(), Some(password("me", "secret")));
    let token = Some(Credentials::IdentityToken(Secret::new("token")));
    assert_eq!(places.find(&"ghcr.io/a/b".parse().unwrap()).await.unwrap(), token);

    assert!(logout(&file, "docker.io").unwrap());
    assert!(!logout(&file, "docker.io").unwrap());
    assert!(!logout(&dir.path().join("nowhere"), "docker.io").unwrap());
    assert_eq!(places.find_for_registry("docker.io").await.unwrap(), None);
    assert_eq!(std::fs::read_dir(file.parent().unwrap()).unwrap().count(), 1, "nothing is left beside it");

    std::fs::write(&file, "hunter2").unwrap();
    let error = login(&file, "ghcr.io", &password("u", "p")).unwrap_err().to_string();
    assert!(!error.contains("hunter2"), "{error}");
    assert_eq!(std::fs::read_to_string(&file).unwrap(), "hunter2");
    assert!(matches!(login(&file, "ghcr.io", &password("u:v", "p")), Err(CredentialError::Username)));
}

#[test]
fn two_who_log_in_at_once_are_both_kept() {
    let dir = TempDir::new().unwrap();
    let file = dir.path().join("auth.json");
    std::thread::scope(|scope| {
        for n in 0..8 {
            let file = &file;
            scope.spawn(move || login(file, &format!("r{n}.example"), &password("u", "p")).unwrap());
        }
    });
    let text = std::fs::read_to_string(&file).unwrap();
    assert_eq!(text.matches(".example").count(), 8, "{text}");
}

/// A helper in a directory of its own.
struct Program {
    dir: TempDir,
    name: String,
}

impl Program {
    fn new(script: &str) -> Self {
        let name = "sandpen-test".to_owned();
        let dir = TempDir::new().unwrap();
        let path = dir.path().join(format!("docker-credential-{name}"));
        std::fs::write(&path, format!("#!/bin/sh\n{script}\n")).unwrap();
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o755)).unwrap();
        Self { dir, name }
    }

    fn helper(&self, timeout: Duration) -> helper::Helper<'_> {
        helper::Helper { name: &self.name, directory: Some(self.dir.path()), path: Path::new("/c.json"), timeout }
    }

    async fn get(&self, registry: &str, timeout: Duration) -> Result<Option<(String, Secret)>, CredentialError> {
        helper::get(&self.helper(timeout), registry).await
    }
}

const SOON: Duration = Duration::from_secs(10);

#[tokio::test]
async fn helpers_are_asked() {
    let helper = Program::new(
        r#"read -r server; [ "$1" = get ] || exit 9
        case $server in
            known.example) echo "{\"ServerURL\": \"$server\", \"Username\": \"u\", \"Secret\": \"p\"}" ;;
            *) echo "credentials not found in native keychain"; exit 1 ;;
        esac"#,
    );
    let found = helper.get("known.example", SOON).await.unwrap();
    assert_eq!(found, Some(("u".to_owned(), Secret::new("p"))));
    assert_eq!(helper.get("other.example", SOON).await.unwrap(), None);
}

#[tokio::test]
async fn helpers_keep_and_forget() {
    let program = Program::new(
        r#"at=$(dirname "$0")/kept
        case $1 in
            store) cat > "$at" ;;
            get) [ -e "$at" ] && cat "$at" || { echo "credentials not found in native keychain"; exit 1; } ;;
            erase) rm "$at" ;;
        esac"#,
    );
    let helper = program.helper(SOON);
    assert!(!helper::erase(&helper, "a.example").await.unwrap());
    helper::store(&helper, "a.example", "u", &Secret::new("p\"w")).await.unwrap();
    assert_eq!(program.get("a.example", SOON).await.unwrap(), Some(("u".to_owned(), Secret::new("p\"w"))));
    assert!(helper::erase(&helper, "a.example").await.unwrap());
    assert!(!helper::erase(&helper, "a.example").await.unwrap());
    let error = helper::store(&Program::new("exit 2").helper(SOON), "a.example", "u", &Secret::new("hunter2")).await;
    let words = format!("{0} {0:?}", error.unwrap_err());
    assert!(words.contains("ended with exit code 2") && !words.contains("hunter2"), "{words}");
}

#[tokio::test]
async fn a_helper_that_does_not_listen_is_no_problem() {
    let helper = Program::new(r#"exec 0<&-; echo '{"Username": "u", "Secret": "p"}'"#);
    assert!(helper.get("known.example", SOON).await.unwrap().is_some());
}

#[tokio::test]
async fn a_helper_that_hangs_is_killed_with_what_it_started() {
    let dir = TempDir::new().unwrap();
    let pids = dir.path().join("pids");
    let helper = Program::new(&format!("sleep 600 & echo $! $$ > {}; sleep 600", pids.display()));
    let before = Instant::now();
    let error = helper.get("a.example", Duration::from_secs(1)).await.unwrap_err().to_string();
    assert!(error.contains("has not answered for 1 s and was killed"), "{error}");
    assert!(before.elapsed() < Duration::from_secs(8));
    let pids = std::fs::read_to_string(pids).unwrap();
    for _ in 0..100 {
        let is_alive = |pid: &str| {
            let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
            !stat.is_empty() && !stat.contains(") Z ")
        };
        if !pids.split_whitespace().any(is_alive) {
            return;
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    panic!("still alive: {pids}");
}

#[tokio::test]
async fn what_helpers_write_is_bounded_and_not_shown() {
    for (script, expected) in [
        ("cat /dev/zero", "wrote more than 65536 bytes"),
        ("head -c 10000000 /dev/zero >&2; echo hunter2 >&2; echo hunter2; exit 3", "ended with exit code 3"),
        ("echo hunter2 >&2; echo hunter2; kill -9 $$", "was killed by signal 9"),
        ("echo hunter2", "answered with something other than credentials"),
        (r#"echo '{"Username": "hunter2", "Secret": 2}'"#, "answered with something other than credentials"),
    ] {
        let error = Program::new(script).get("a.example", SOON).await.unwrap_err();
        let words = format!("{error} {error:?}");
        assert!(words.contains(expected) && !words.contains("hunter2"), "{words}");
        assert!(words.contains("docker-credential-sandpen-test") && words.contains("/c.json"), "{words}");
    }
}

#[tokio::test]
async fn a_helper_that_is_not_there_is_named() {
    let file = r#"{"credsStore": "sandpen-nowhere"}"#;
    let error = find(file, "debian").await.unwrap_err().to_string();
    assert!(error.contains("docker-credential-sandpen-nowhere") && error.contains("it is not installed"), "{error}");
    for name in ["../x", "a/b", "a b", "\u{1b}[2J"] {
        let file = serde_json::json!({ "credHelpers": { "docker.io": name } }).to_string();
        let error = find(&file, "debian").await.unwrap_err().to_string();
        assert!(error.contains("a name that no such program has") && !error.contains('\u{1b}'), "{error}");
    }
}
