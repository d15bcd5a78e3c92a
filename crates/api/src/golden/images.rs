//! Images on the wire.

use std::path::PathBuf;

use sandpen_types::image::{ImageDigest, ImageReference};
use sandpen_types::image_changes::ImageChanges;
use sandpen_types::spec::ImageRoot;

use super::*;

/// The values are the lines.
macro_rules! golden {
    ($file:literal, $values:expr) => {
        golden($file, include_str!($file), $values)
    };
}

fn digest(byte: u8) -> ImageDigest {
    ImageDigest::new([byte; 32])
}

fn name(text: &str) -> ImageReference {
    text.parse().unwrap()
}

#[test]
fn images() {
    let entry = ImageEntry {
        digest: digest(1),
        manifest_digest: Some(digest(2)),
        names: vec![name("debian:12"), name("ghcr.io/owner/app")],
        created: Some(at(-7)),
        loaded: at(0),
        last_used: Some(at(7)),
        os: Some("linux".into()),
        architecture: Some("amd64".into()),
        layers: vec![ImageLayer { diff_id: digest(3), bytes: 4096, shared_by: 2 }],
        bytes: 8192,
        unique_bytes: 4096,
        used_by: vec!["shop/web".into()],
    };
    let bare = ImageEntry {
        manifest_digest: None,
        names: vec![],
        created: None,
        last_used: None,
        os: None,
        architecture: None,
        layers: vec![],
        used_by: vec![],
        ..entry.clone()
    };
    golden!("images.jsonl", &[entry.clone(), bare.clone()]);
    golden!("image_detail.jsonl", &[ImageDetail { entry, config: serde_json::json!({"os": "linux"}) }]);
    let progress = |step, total_bytes| {
        ImageWork::Progress(ImageProgress { step, digest: ImageDigest::new([3; 32]), done_bytes: 1, total_bytes })
    };
    let failed = ImageWork::Error(ErrorDetail::message(ErrorCode::InvalidImage, "m"));
    let reference = name("ghcr.io/owner/app:1").with_digest(digest(2));
    let pushed = ImageWork::Pushed(ImagePushed { image: digest(1), reference, manifest_digest: digest(2) });
    let (of_before, later) = ImageStep::ALL.split_at(9);
    let all = |steps: &[ImageStep]| steps.iter().map(|step| progress(*step, Some(2))).collect::<Vec<_>>();
    let mut work = all(of_before);
    work.extend([progress(ImageStep::ImageDone, None), ImageWork::Images(vec![bare]), failed, pushed]);
    work.extend(all(later));
    golden!("image_work.jsonl", &work);
}

#[test]
fn what_is_asked_of_images() {
    let path = PathBuf::from("/srv/app.tar");
    golden!(
        "image_load.jsonl",
        &[
            ImageLoadRequest { path: path.clone(), name: None, platform: None },
            ImageLoadRequest { path: path.clone(), name: Some(name("app:1")), platform: Some("linux/arm64".into()) },
        ]
    );
    let pull = ImagePullRequest::new(name("debian"));
    let whole = |credentials| ImagePullRequest {
        platform: Some("linux/arm64".into()),
        credentials: Some(credentials),
        insecure: true,
        proxies: Some(ImageProxies {
            http: Some("p:1".into()),
            https: Some("http://u:hunter2@p:2".into()),
            no_proxy: Some("x".into()),
        }),
        ..pull.clone()
    };
    let password = RegistryPassword { username: "user".into(), password: "hunter2".into() };
    let token = RegistryToken { identity_token: "hunter2".into() };
    let mirror = |place: &str, credentials| ImageMirror { place: place.parse().unwrap(), credentials, insecure: false };
    let mirrored = ImagePullRequest {
        mirrors: vec![
            mirror("mirror.example:5000/hub", Some(ImageCredentials::Password(password.clone()))),
            ImageMirror { insecure: true, ..mirror("localhost:5000", None) },
        ],
        ..pull.clone()
    };
    let pulls = [
        pull.clone(),
        whole(ImageCredentials::Password(password)),
        whole(ImageCredentials::IdentityToken(token)),
        mirrored,
    ];
    assert!(!format!("{pulls:?}").contains("hunter2"), "secrets are not shown");
    golden!("image_pull.jsonl", &pulls);
    let bare = ImagePushRequest::new("debian");
    let [_, whole, ..] = &pulls;
    let push = ImagePushRequest {
        destination: Some(name("ghcr.io/owner/app:1")),
        credentials: whole.credentials.clone(),
        insecure: true,
        proxies: whole.proxies.clone(),
        ..bare.clone()
    };
    assert!(!format!("{push:?}").contains("hunter2"), "secrets are not shown");
    golden!("image_push.jsonl", &[bare, push]);
    golden!("image_import.jsonl", &[ImageImportRequest { path, name: name("app:1") }]);
    let changes = ImageChanges {
        entrypoint: Some(vec!["/run".into()]),
        cmd: Some(vec![]),
        env: vec![("A".into(), "1".into())],
        workdir: Some("/srv".into()),
        user: Some("web".into()),
        labels: [("team".to_owned(), "a".to_owned())].into(),
        exposed_ports: vec!["80/tcp".into()],
        author: Some("me".into()),
        message: Some("why".into()),
    };
    let commit = |changes| ImageCommitRequest { sandbox: key("web"), name: name("app:2"), changes };
    golden!("image_commit.jsonl", &[commit(ImageChanges::default()), commit(changes)]);
    golden!("image_tag.jsonl", &[ImageTagRequest { image: "debian".into(), name: name("app:1") }]);
    let save = |format| ImageSaveRequest { images: vec!["debian".into()], format };
    golden!("image_save.jsonl", &[save(ImageArchive::Docker), save(ImageArchive::Oci)]);
    golden!("image_prune.jsonl", &[ImagePruneRequest { all: true, dry_run: false }]);
    let removal = ImageRemoval { untagged: vec![name("app:1")], removed: vec![digest(1)], freed_bytes: 4096 };
    golden!("image_removal.jsonl", &[removal]);
}

#[test]
fn a_specification_of_an_image() {
    let mut root = ImageRoot::new(name("debian:12"));
    let asked = CreateSandbox::new(key("small"), Rootfs::Image(root.clone()), vec![]);
    let json = serde_json::to_value(&asked).unwrap();
    assert_eq!(json["rootfs"], serde_json::json!({"image": {"reference": "docker.io/library/debian:12"}}));
    assert!(CheckedSpec::try_from(asked).is_ok(), "the image says what runs");
    root.digest = Some(digest(1));
    (root.entrypoint, root.no_healthcheck, root.publish_all) = (Some(vec!["x".into()]), true, true);
    golden!("image_root.jsonl", &[Rootfs::Image(root.clone())]);
    let found = CreateSandbox::new(key("small"), Rootfs::Image(root), vec![]);
    assert_eq!(CheckedSpec::try_from(found), Err(SpecError::NoCommand), "nobody looks at it again");
    assert!(serde_json::from_str::<Rootfs>(r#"{"image":{"reference":"debian","pull":true}}"#).is_err());
}
