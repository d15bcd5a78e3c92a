//! Images of tests: in the store of a home's daemon, which brings them there itself, and what is in that store.

use std::fs::{self, File};
use std::io::{self, Read as _, Write as _};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};

use sandpen_client::{Client, ClientError, ClientOptions, ImageWorkReader};
use sandpen_images::layer::tar_writer::TarWriter;
use sandpen_images::save::{ArchiveFormat, SavedImage, SavedLayer, save};
use sandpen_images::store::Store;
use sandpen_images::walk::{Owners, walk};
use sandpen_types::image::ImageDigest;
use serde_json::{Value, json};

use super::{DEADLINE, Home, explain};

/// The store of a home with data of its own.
pub fn store(home: &Home) -> Store {
    Store::open(&home.data().join(Store::DIRECTORY)).unwrap()
}

/// Runs what a client does with the daemon of a home, which there is.
pub fn with_client<T>(home: &Home, act: impl AsyncFnOnce(Client) -> Result<T, ClientError>) -> Result<T, ClientError> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime
        .block_on(async { act(Client::connect(&ClientOptions { state_dir: home.state(), daemon: None }).await?).await })
}

/// The digests of the images that came.
pub async fn brought(mut reader: ImageWorkReader) -> Result<Vec<ImageDigest>, ClientError> {
    loop {
        if let sandpen_api::ImageWork::Images(images) = reader.next().await? {
            return Ok(images.into_iter().map(|image| image.digest).collect());
        }
    }
}

/// The daemon of a home makes an image of a root directory.
pub fn import(home: &Home, path: &Path, name: &str) -> ImageDigest {
    home.ok(&["ps"]);
    let request = sandpen_api::ImageImportRequest { path: path.to_owned(), name: name.parse().unwrap() };
    let images = with_client(home, async |client| brought(client.import_image(&request).await?).await);
    one(&images.unwrap())
}

/// The daemon of a home loads an archive, or a directory, of one image.
pub fn load(home: &Home, path: &Path, name: &str) -> ImageDigest {
    home.ok(&["ps"]);
    let name = Some(name.parse().unwrap());
    let request = sandpen_api::ImageLoadRequest { path: path.to_owned(), name, platform: None };
    let images = with_client(home, async |client| brought(client.load_images(&request).await?).await);
    one(&images.unwrap())
}

fn one(images: &[ImageDigest]) -> ImageDigest {
    assert_eq!(images.len(), 1, "{images:?}");
    images[0]
}

/// The tar of a directory.
pub fn tar(directory: &Path, path: &Path) {
    let mut tar = TarWriter::new(io::BufWriter::new(File::create(path).unwrap()));
    walk(File::open(directory).unwrap(), directory, Owners::Same, true, &mut tar).unwrap();
    tar.finish().unwrap();
}

/// An archive of one image, of layers that are tars in files, the lowest first.
pub fn archive(path: &Path, format: ArchiveFormat, name: &str, layers: &[PathBuf]) {
    let digests: Vec<_> =
        layers.iter().map(|layer| sandpen_images::digest::digest_of(&fs::read(layer).unwrap())).collect();
    let platform = sandpen_images::platform::Platform::host();
    let config = json!({
        "architecture": platform.architecture(), "os": platform.os(), "config": {},
        "rootfs": {"type": "layers", "diff_ids": digests},
    });
    let config = config.to_string();
    let saved = digests
        .iter()
        .zip(layers)
        .map(|(diff_id, layer)| SavedLayer { diff_id: *diff_id, size: fs::metadata(layer).unwrap().len() });
    let image = SavedImage { names: vec![name.parse().unwrap()], config: config.as_bytes(), layers: saved.collect() };
    let mut open = |layer: &SavedLayer| -> io::Result<Box<dyn io::Read>> {
        let at = digests.iter().position(|digest| *digest == layer.diff_id);
        Ok(Box::new(File::open(&layers[at.unwrap()])?))
    };
    save(&[image], format, &mut open, io::BufWriter::new(File::create(path).unwrap())).unwrap();
}

/// Asks the daemon for a sandbox over the image; `more` is what its specification says besides.
pub fn start(home: &Home, digest: ImageDigest, name: &str, script: &str, more: &Value) {
    let mut spec = json!({
        "key": {"config": "default", "name": name},
        "rootfs": {"image": {"reference": "test", "digest": digest}},
        "command": ["sh", "-c", script],
        "driver": {"named": "qemu"},
    });
    spec.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
    let body = spec.to_string();
    home.ok(&["ps"]);
    let mut stream = UnixStream::connect(home.state().join("sandpen.sock")).unwrap();
    stream.set_read_timeout(Some(DEADLINE)).unwrap();
    write!(
        stream,
        "POST /v1/sandboxes HTTP/1.1\r\nhost: x\r\nconnection: close\r\ncontent-type: application/json\r\n\
         content-length: {}\r\n\r\n{body}",
        body.len()
    )
    .unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).unwrap();
    assert!(answer.starts_with("HTTP/1.1 201"), "{answer}");
}

/// What a sandbox that ended with 0 has said.
pub fn said(home: &Home, name: &str) -> String {
    let ended = home.run(&["wait", name]);
    let log = home.state().join(format!("logs/default/{name}.vmm"));
    let vmm = fs::read_to_string(log).unwrap_or_default();
    assert_eq!(String::from_utf8_lossy(&ended.stdout), "0\n", "{}\n{}\n{vmm}", explain(&ended), home.inspect(name));
    home.ok(&["logs", name])
}
