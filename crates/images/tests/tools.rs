//! Archives that other tools write are read, and ours are read by them: skopeo (`containers/image`, as Podman and
//! Buildah use it) and umoci.
#![allow(clippy::unwrap_used, reason = "a test that cannot go on fails")]

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::{self, Read, Write as _};
use std::path::Path;
use std::process::Command;

use sandpen_images::archive::{ArchivedImage, ImageArchive};
use sandpen_images::config::ImageConfig;
use sandpen_images::digest::digest_of;
use sandpen_images::platform::Platform;
use sandpen_images::save::{ArchiveFormat, SavedImage, SavedLayer, save};
use sandpen_skip::{Reason, has_programs};
use sandpen_types::image::ImageDigest;
use serde_json::json;

fn run(program: &str, arguments: &[&str]) -> String {
    let output = Command::new(program).args(arguments).output().unwrap();
    let errors = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(output.status.success(), "{program} {arguments:?}: {errors}");
    String::from_utf8(output.stdout).unwrap()
}

fn skopeo(arguments: &[&str]) -> String {
    run("skopeo", &[&["--insecure-policy"], arguments].concat())
}

/// A layer with one file.
fn layer(name: &str, content: &[u8]) -> Vec<u8> {
    let mut builder = tar::Builder::new(Vec::new());
    let mut header = tar::Header::new_gnu();
    header.set_size(content.len() as u64);
    header.set_mode(0o644);
    builder.append_data(&mut header, name, content).unwrap();
    builder.into_inner().unwrap()
}

struct Sample {
    layers: BTreeMap<ImageDigest, Vec<u8>>,
    images: Vec<(String, Vec<u8>, Vec<ImageDigest>)>,
}

/// Two images that share their lowest layer.
fn sample() -> Sample {
    let layers = [layer("base", &[b'b'; 3000]), layer("etc/app", b"first"), layer("etc/app", b"second")];
    let digests = layers.each_ref().map(|layer| digest_of(layer));
    let image = |name: &str, of: &[ImageDigest]| {
        let config = json!({
            "architecture": "amd64", "os": "linux", "created": "2024-01-01T00:00:00Z",
            "config": {"Cmd": ["/bin/app"], "Env": ["PATH=/bin"], "Labels": {"name": name}},
            "rootfs": {"type": "layers", "diff_ids": of},
            "history": of.iter().map(|_| json!({"created_by": "test"})).collect::<Vec<_>>(),
        });
        (name.to_owned(), config.to_string().into_bytes(), of.to_vec())
    };
    let images = vec![image("example.org/app:1", &digests[..2]), image("app:2", &[digests[0], digests[2]])];
    Sample { layers: digests.into_iter().zip(layers).collect(), images }
}

impl Sample {
    fn write(&self, path: &Path, format: ArchiveFormat) {
        let images = self.images.iter().map(|(name, config, layers)| {
            let layer =
                |diff_id: &ImageDigest| SavedLayer { diff_id: *diff_id, size: self.layers[diff_id].len() as u64 };
            SavedImage { names: vec![name.parse().unwrap()], config, layers: layers.iter().map(layer).collect() }
        });
        let images: Vec<_> = images.collect();
        let mut open = |layer: &SavedLayer| -> io::Result<Box<dyn Read>> {
            Ok(Box::new(io::Cursor::new(self.layers[&layer.diff_id].clone())))
        };
        save(&images, format, &mut open, &File::create(path).unwrap()).unwrap();
    }

    /// Checks that the image of this number is this one. Tools write a configuration anew, in another order, when
    /// they make an OCI image of one of Docker's.
    fn check(&self, number: usize, archive: &ImageArchive, image: &ArchivedImage) {
        let (_, config, layers) = &self.images[number];
        assert_eq!(image.parsed, ImageConfig::parse(config).unwrap());
        assert_eq!(&image.parsed.diff_ids, layers);
        for layer in &image.layers {
            let mut bytes = Vec::new();
            archive.open_layer(layer).unwrap().read_to_end(&mut bytes).unwrap();
            assert!(layer.blob.is_none_or(|blob| blob == digest_of(&bytes)));
            if bytes.starts_with(&[0x1f, 0x8b]) {
                let mut unpacked = Vec::new();
                flate2::read::GzDecoder::new(bytes.as_slice()).read_to_end(&mut unpacked).unwrap();
                bytes = unpacked;
            }
            assert_eq!(bytes, self.layers[&layer.diff_id]);
        }
    }
}

fn images(archive: &ImageArchive) -> Vec<ArchivedImage> {
    archive.images(&"linux/amd64".parse::<Platform>().unwrap()).unwrap()
}

fn layout(path: &Path) -> ImageArchive {
    ImageArchive::open_layout(File::open(path).unwrap().into()).unwrap()
}

#[test]
fn skopeo_reads_what_is_written_and_what_it_writes_is_read() {
    if !has_programs(&[("skopeo", Reason::NoSkopeo)]) {
        return;
    }
    let (directory, sample) = (tempfile::tempdir().unwrap(), sample());
    let path = |name: &str| directory.path().join(name).to_str().unwrap().to_owned();
    for (format, transport) in [(ArchiveFormat::Docker, "docker-archive"), (ArchiveFormat::Oci, "oci-archive")] {
        let ours = path(transport);
        sample.write(Path::new(&ours), format);
        for (number, name) in ["example.org/app:1", "docker.io/library/app:2"].into_iter().enumerate() {
            let from = format!("{transport}:{ours}:{name}");
            let config: serde_json::Value =
                serde_json::from_str(&skopeo(&["inspect", "--config", "--raw", &from])).unwrap();
            assert_eq!(config.to_string().len(), sample.images[number].1.len());
            for (to, extra) in [("docker-archive", "theirs/app:3"), ("oci-archive", "theirs/app:3"), ("oci", "v3")] {
                let theirs = path(&format!("{transport}-{number}-{to}"));
                skopeo(&["copy", "--quiet", &from, &format!("{to}:{theirs}:{extra}")]);
                let archive = match to {
                    "oci" => layout(Path::new(&theirs)),
                    _ => ImageArchive::open(File::open(&theirs).unwrap()).unwrap(),
                };
                let read = images(&archive);
                assert_eq!(read.len(), 1);
                sample.check(number, &archive, &read[0]);
                let names: Vec<_> = read[0].names.iter().map(ToString::to_string).collect();
                match to {
                    "oci" => assert_eq!((names.len(), &read[0].ref_names[..]), (0, &["v3".to_owned()][..])),
                    _ => assert_eq!(names, ["docker.io/theirs/app:3"]),
                }
            }
        }
    }
}

#[test]
fn umoci_unpacks_what_is_written_and_what_it_writes_is_read() {
    if !has_programs(&[("umoci", Reason::NoUmoci)]) {
        return;
    }
    let (directory, sample) = (tempfile::tempdir().unwrap(), sample());
    let path = |name: &str| directory.path().join(name).to_str().unwrap().to_owned();
    let (tar, unpacked) = (path("tar"), path("layout"));
    sample.write(Path::new(&tar), ArchiveFormat::Oci);
    tar::Archive::new(File::open(&tar).unwrap()).unpack(&unpacked).unwrap();
    for (name, content) in [("example.org/app:1", "first"), ("docker.io/library/app:2", "second")] {
        let bundle = path(content);
        run("umoci", &["unpack", "--rootless", "--image", &format!("{unpacked}:{name}"), &bundle]);
        let root = Path::new(&bundle).join("rootfs");
        assert_eq!(fs::read_to_string(root.join("etc/app")).unwrap(), content);
        assert_eq!(fs::read(root.join("base")).unwrap(), [b'b'; 3000]);
    }

    let image = format!("{unpacked}:example.org/app:1");
    let mut added = File::create(path("added")).unwrap();
    added.write_all(b"third").unwrap();
    run("umoci", &["insert", "--rootless", "--image", &image, "--tag", "new", &path("added"), "/added"]);
    let archive = layout(Path::new(&unpacked));
    let read = images(&archive);
    let new = read.iter().find(|image| image.ref_names == ["new"]).unwrap();
    assert_eq!((read.len(), new.layers.len(), new.names.len()), (3, 3, 0));
    assert_eq!(new.layers[0].diff_id, sample.images[0].2[0]);
    for (number, image) in read.iter().filter(|image| image.ref_names.is_empty()).enumerate() {
        sample.check(number, &archive, image);
    }
}
