//! A registry within the test that does whatever it is told to, and an image to have in it.
#![allow(dead_code, reason = "each test program uses a part")]
#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test that cannot go on fails")]

use std::collections::BTreeMap;
use std::io;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use bytes::Bytes;
use futures::StreamExt as _;
use sandpen_images::digest::digest_of;
use sandpen_images::manifest::{Document, media};
use sandpen_images::platform::Platform;
use sandpen_registry::{
    Blob, BlobSource, BlobStream, ByteStream, Credentials, Options, Registry, RegistryError, Secret, Times,
};
use sandpen_types::image::{ImageDigest, ImageReference};
use serde_json::json;
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use tokio_rustls::TlsAcceptor;

#[path = "../../../../tests/support/authority.rs"]
mod authority;

#[allow(unused_imports, reason = "each test program uses a part")]
pub use authority::{Authority, authority, signed};

/// A request, as it came.
#[derive(Debug, Clone)]
pub struct Request {
    pub method: String,
    /// With its query.
    pub path: String,
    pub headers: Vec<(String, String)>,
    pub body: Vec<u8>,
}

impl Request {
    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers.iter().find(|(key, _)| key.eq_ignore_ascii_case(name)).map(|(_, value)| value.as_str())
    }
}

/// What is done with a connection.
#[derive(Debug, Clone)]
pub enum Step {
    Write(Vec<u8>),
    /// Nothing, for longer than anyone waits.
    Stall,
    /// The connection is reset.
    Reset,
    /// The same, again and again.
    Endless(Vec<u8>),
    /// The same, a little at a time.
    Trickle(Vec<u8>),
}

pub type Reply = Vec<Step>;

/// A whole answer.
pub fn answer(status: u16, headers: &[(&str, &str)], body: impl AsRef<[u8]>) -> Reply {
    let mut reply = head(status, headers, body.as_ref().len());
    reply.push(Step::Write(body.as_ref().to_vec()));
    reply
}

/// An answer that is to have so many bytes.
pub fn head(status: u16, headers: &[(&str, &str)], len: usize) -> Reply {
    let mut text = format!("HTTP/1.1 {status} X\r\nContent-Length: {len}\r\nConnection: close\r\n");
    for (name, value) in headers {
        text.extend([name, ": ", value, "\r\n"]);
    }
    vec![Step::Write((text + "\r\n").into_bytes())]
}

trait Io: AsyncRead + AsyncWrite + Unpin + Send {}
impl<T: AsyncRead + AsyncWrite + Unpin + Send> Io for T {}

/// A server within the test; it ends with it.
pub struct Server {
    pub address: SocketAddr,
    requests: Arc<Mutex<Vec<Request>>>,
    task: tokio::task::JoinHandle<()>,
}

impl Drop for Server {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl Server {
    pub async fn start(handle: impl Fn(&Request) -> Reply + Send + Sync + 'static) -> Self {
        Self::start_with(None, handle).await
    }

    pub async fn start_with(
        tls: Option<TlsAcceptor>,
        handle: impl Fn(&Request) -> Reply + Send + Sync + 'static,
    ) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let requests = Arc::new(Mutex::new(Vec::new()));
        let (handle, seen) = (Arc::new(handle), Arc::clone(&requests));
        let task = tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                let (handle, seen, tls) = (Arc::clone(&handle), Arc::clone(&seen), tls.clone());
                tokio::spawn(async move {
                    let _ = serve(stream, tls, &*handle, &seen).await;
                });
            }
        });
        Self { address, requests, task }
    }

    /// Its name as a registry.
    pub fn name(&self) -> String {
        self.address.to_string()
    }

    pub fn reference(&self) -> ImageReference {
        format!("{}/app:1", self.address).parse().unwrap()
    }

    /// The requests but for the one that looks for TLS.
    pub fn requests(&self) -> Vec<Request> {
        self.requests.lock().unwrap().clone()
    }
}

async fn serve(
    stream: TcpStream,
    tls: Option<TlsAcceptor>,
    handle: &(dyn Fn(&Request) -> Reply + Send + Sync),
    seen: &Mutex<Vec<Request>>,
) -> io::Result<()> {
    if let Some(tls) = tls {
        let mut stream = tls.accept(stream).await?;
        if let Some(request) = read(&mut stream).await? {
            seen.lock().unwrap().push(request.clone());
            play(&mut stream, handle(&request)).await?;
            stream.shutdown().await?;
        }
        return Ok(());
    }
    let mut stream = stream;
    let mut first = [0];
    // A greeting of TLS: this speaks none.
    if stream.peek(&mut first).await? == 1 && first[0] == 0x16 {
        return Ok(());
    }
    if let Some(request) = read(&mut stream).await? {
        seen.lock().unwrap().push(request.clone());
        if play(&mut stream, handle(&request)).await? {
            stream.set_zero_linger()?;
        }
    }
    Ok(())
}

/// Whether it ends with a reset.
async fn play(stream: &mut dyn Io, reply: Reply) -> io::Result<bool> {
    for step in reply {
        match step {
            Step::Write(bytes) => stream.write_all(&bytes).await?,
            Step::Stall => tokio::time::sleep(Duration::from_mins(10)).await,
            Step::Reset => {
                stream.flush().await?;
                // What was written before has to get there.
                tokio::time::sleep(Duration::from_millis(50)).await;
                return Ok(true);
            }
            Step::Trickle(bytes) => loop {
                stream.write_all(&bytes).await?;
                tokio::time::sleep(Duration::from_millis(100)).await;
            },
            Step::Endless(bytes) => loop {
                stream.write_all(&bytes).await?;
            },
        }
    }
    stream.flush().await?;
    Ok(false)
}

async fn read(stream: &mut dyn Io) -> io::Result<Option<Request>> {
    let mut bytes = Vec::new();
    let end = loop {
        if let Some(end) = bytes.windows(4).position(|four| four == b"\r\n\r\n") {
            break end + 4;
        }
        if stream.read_buf(&mut bytes).await? == 0 {
            return Ok(None);
        }
    };
    let text = String::from_utf8_lossy(&bytes[..end]).into_owned();
    let mut lines = text.lines();
    let mut first = lines.next().unwrap_or_default().split(' ');
    let (method, path) = (first.next().unwrap_or_default().to_owned(), first.next().unwrap_or_default().to_owned());
    let headers = lines.filter_map(|line| line.split_once(": "));
    let headers = headers.map(|(name, value)| (name.to_owned(), value.to_owned())).collect();
    let mut request = Request { method, path, headers, body: Vec::new() };
    let len = request.header("content-length").and_then(|len| len.parse().ok()).unwrap_or(0);
    let mut body = bytes.split_off(end);
    while body.len() < len {
        if stream.read_buf(&mut body).await? == 0 {
            break;
        }
    }
    request.body = body;
    Ok(Some(request))
}

/// An image of one layer, as a registry has it.
#[derive(Debug, Clone)]
pub struct Image {
    pub manifest: Vec<u8>,
    pub config: Vec<u8>,
    pub layer: Vec<u8>,
}

impl Image {
    pub fn new(layer_len: usize) -> Self {
        Self::of_type(layer_len, "application/vnd.oci.image.layer.v1.tar")
    }

    pub fn of_type(layer_len: usize, media_type: &str) -> Self {
        let layer: Vec<u8> = (0..layer_len).map(|n| u8::try_from(n * 7 % 251).unwrap()).collect();
        let config = json!({
            "os": "linux", "architecture": "amd64", "config": {},
            "rootfs": { "type": "layers", "diff_ids": [digest_of(&layer).to_string()] },
        })
        .to_string()
        .into_bytes();
        let manifest = json!({
            "schemaVersion": 2, "mediaType": media::MANIFEST,
            "config": descriptor(media::CONFIG, &config),
            "layers": [descriptor(media_type, &layer)],
        })
        .to_string()
        .into_bytes();
        Self { manifest, config, layer }
    }

    pub fn blob(&self) -> Blob {
        Blob { digest: digest_of(&self.layer), size: u64::try_from(self.layer.len()).unwrap() }
    }

    pub fn digest(&self) -> ImageDigest {
        digest_of(&self.manifest)
    }

    /// What a sound registry answers.
    pub fn serve(&self, request: &Request) -> Reply {
        let path = request.path.split('?').next().unwrap();
        let of = |bytes: &[u8]| format!("/v2/app/blobs/{}", digest_of(bytes));
        if path == "/v2/" {
            answer(200, &[], "{}")
        } else if path == "/v2/app/manifests/1" || path == format!("/v2/app/manifests/{}", self.digest()) {
            answer(200, &[("Content-Type", media::MANIFEST)], &self.manifest)
        } else if path == of(&self.config) {
            answer(200, &[], &self.config)
        } else if path == of(&self.layer) {
            self.serve_layer(request)
        } else {
            answer(404, &[], r#"{"errors": [{"code": "NAME_UNKNOWN", "message": "nothing here"}]}"#)
        }
    }

    /// With ranges.
    pub fn serve_layer(&self, request: &Request) -> Reply {
        match start_of_range(request) {
            None => answer(200, &[], &self.layer),
            Some(start) => {
                let range = format!("bytes {start}-{}/{}", self.layer.len() - 1, self.layer.len());
                answer(206, &[("Content-Range", &range)], &self.layer[start..])
            }
        }
    }
}

pub fn start_of_range(request: &Request) -> Option<usize> {
    let range = request.header("range")?;
    Some(range.strip_prefix("bytes=").unwrap().strip_suffix('-').unwrap().parse().unwrap())
}

pub fn descriptor(media_type: &str, bytes: &[u8]) -> serde_json::Value {
    json!({ "mediaType": media_type, "digest": digest_of(bytes).to_string(), "size": bytes.len() })
}

/// Blobs in memory, in pieces.
pub struct Memory(pub BTreeMap<ImageDigest, Bytes>);

impl BlobSource for Memory {
    fn open(&self, blob: &Blob, from: u64) -> ByteStream {
        const PIECE: usize = 64 << 10;
        let Some(bytes) = self.0.get(&blob.digest) else {
            return futures::stream::iter([Err(io::Error::other("it is gone"))]).boxed();
        };
        let bytes = bytes.slice(usize::try_from(from).unwrap()..);
        let pieces: Vec<_> = (0..bytes.len()).step_by(PIECE).collect();
        futures::stream::iter(pieces).map(move |at| Ok(bytes.slice(at..bytes.len().min(at + PIECE)))).boxed()
    }
}

/// What happens to a blob.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum PushEvent {
    /// It was there.
    There(Blob),
    /// It was in another repository.
    Mounted(Blob),
    /// So many bytes were.
    Sent(Blob, u64),
    /// It is there now.
    Done(Blob),
}

/// Puts an image whose manifest is complete into a registry, its blobs side by side.
pub async fn push(
    registry: &Registry,
    reference: &ImageReference,
    manifest: &[u8],
    mounts: &[&str],
    source: &dyn BlobSource,
    on: &(dyn Fn(PushEvent) + Sync),
) -> Result<ImageDigest, RegistryError> {
    let mounts: Vec<_> = mounts.iter().map(|of| (*of).to_owned()).collect();
    let push = &registry.push(reference, &mounts).await?;
    let Document::Manifest(parsed) = Document::parse(manifest, None).unwrap() else { panic!("an index") };
    let blobs = parsed.layers.iter().map(Blob::from).chain([Blob::from(&parsed.config)]);
    let put = |blob: Blob| async move {
        if push.has(blob).await? {
            on(PushEvent::There(blob));
        } else if push.mount(blob).await {
            on(PushEvent::Mounted(blob));
        } else {
            push.send(blob, source, &|bytes| on(PushEvent::Sent(blob, bytes))).await?;
            on(PushEvent::Done(blob));
        }
        Ok(())
    };
    let puts: Vec<_> = blobs.map(put).collect();
    futures::future::try_join_all(puts).await.map(drop)?;
    push.manifest(manifest).await
}

/// Times for tests.
pub fn times() -> Times {
    Times { connect: Duration::from_secs(5), idle: Duration::from_millis(400), backoff: Duration::from_millis(20) }
}

pub fn options() -> Options {
    Options { times: times(), ..Options::default() }
}

pub fn registry() -> Registry {
    Registry::new(options()).unwrap()
}

/// A client that is logged in to a server.
pub fn logged_in(server: &Server) -> Registry {
    let mut options = options();
    options.credentials.insert(server.name(), password());
    Registry::new(options).unwrap()
}

pub fn password() -> Credentials {
    Credentials::Password { username: "user".to_owned(), password: Secret::new("hunter2") }
}

pub fn platform() -> Platform {
    "linux/amd64".parse().unwrap()
}

/// All of a stream, as far as it goes.
pub async fn collect(mut stream: BlobStream) -> (Vec<u8>, Result<(), RegistryError>) {
    let mut bytes = Vec::new();
    while let Some(chunk) = stream.next().await {
        match chunk {
            Ok(chunk) => bytes.extend_from_slice(&chunk),
            Err(error) => return (bytes, Err(error)),
        }
    }
    (bytes, Ok(()))
}
