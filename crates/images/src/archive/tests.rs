mod directories;
mod docker_archives;
mod oci_archives;
mod tars;

use std::io::Write as _;

use serde_json::{Value, json};
use tar::{EntryType, Header};

use super::*;
use crate::digest::digest_of;
use crate::manifest::media;

/// A tar in the making.
#[derive(Default)]
struct Tar(Vec<u8>);

impl Tar {
    fn file(self, name: &str, bytes: impl AsRef<[u8]>) -> Self {
        self.entry(EntryType::Regular, name, "", bytes.as_ref())
    }

    fn link(self, name: &str, target: &str) -> Self {
        self.entry(EntryType::Symlink, name, target, &[])
    }

    fn entry(self, kind: EntryType, name: &str, target: &str, bytes: &[u8]) -> Self {
        let mut header = Header::new_ustar();
        header.as_old_mut().name[..name.len()].copy_from_slice(name.as_bytes());
        header.as_old_mut().linkname[..target.len()].copy_from_slice(target.as_bytes());
        header.set_entry_type(kind);
        header.set_size(bytes.len() as u64);
        self.header(&mut header, bytes)
    }

    fn header(mut self, header: &mut Header, bytes: &[u8]) -> Self {
        header.set_cksum();
        self.0.extend_from_slice(header.as_bytes());
        self.0.extend_from_slice(bytes);
        self.0.resize(self.0.len().next_multiple_of(512), 0);
        self
    }

    fn open(mut self) -> Result<ImageArchive, ArchiveError> {
        self.0.extend_from_slice(&[0; 1024]);
        ImageArchive::open(file(&self.0))
    }

    fn images(self) -> Result<Vec<ArchivedImage>, ArchiveError> {
        self.open()?.images(&platform("linux/amd64"))
    }

    fn refused(self) -> String {
        let error = self.images().unwrap_err().to_string();
        assert!(error.chars().all(sandpen_types::visible::is_visible) && error.len() < 1000, "{error:?}");
        error
    }
}

fn file(bytes: &[u8]) -> File {
    let mut file = tempfile::tempfile().unwrap();
    file.write_all(bytes).unwrap();
    file
}

fn platform(text: &str) -> Platform {
    text.parse().unwrap()
}

/// A configuration with these layers.
fn config(layers: &[&str]) -> String {
    let diff_ids: Vec<_> = layers.iter().map(|layer| digest_of(layer.as_bytes())).collect();
    json!({"os": "linux", "architecture": "amd64", "rootfs": {"type": "layers", "diff_ids": diff_ids}}).to_string()
}

fn hex(bytes: impl AsRef<[u8]>) -> String {
    digest_of(bytes.as_ref()).hex()
}

fn blob(bytes: impl AsRef<[u8]>) -> String {
    format!("blobs/sha256/{}", hex(bytes))
}

fn descriptor(media_type: &str, bytes: &str) -> Value {
    json!({"mediaType": media_type, "digest": digest_of(bytes.as_bytes()), "size": bytes.len()})
}

fn manifest(config: &str, layers: &[&str]) -> String {
    let layers: Vec<_> = layers.iter().map(|layer| descriptor(media::LAYER, layer)).collect();
    json!({"schemaVersion": 2, "config": descriptor(media::CONFIG, config), "layers": layers}).to_string()
}

fn index(entries: &[Value]) -> String {
    json!({"schemaVersion": 2, "manifests": entries}).to_string()
}

fn named(mut entry: Value, key: &str, name: &str) -> Value {
    entry["annotations"] = json!({ key: name });
    entry
}

fn for_platform(mut entry: Value, os: &str, architecture: &str) -> Value {
    entry["platform"] = json!({"os": os, "architecture": architecture});
    entry
}

fn content(archive: &ImageArchive, layer: &ArchivedLayer) -> String {
    io::read_to_string(archive.open_layer(layer).unwrap()).unwrap()
}
