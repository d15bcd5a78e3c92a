//! Debian's docker-registry on loopback, and images that are made with umoci and pushed with skopeo.

use std::fs::{self, File};
use std::net::{TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::SystemTime;

use sandpen_skip::{Reason, has_programs};
use sandpen_types::image::ImageDigest;

use super::{succeeds, until};

/// `user:hunter2`, as htpasswd has it.
const HTPASSWD: &str = "user:$2y$04$abcdefghijklmnopqrstuuV3duMsC0HpUex6N9qapiuOHHWkwRXVm\n";

/// Whether all programs are here; if not the test is skipped.
pub fn has_all() -> bool {
    has_programs(&[
        ("docker-registry", Reason::NoDockerRegistry),
        ("skopeo", Reason::NoSkopeo),
        ("umoci", Reason::NoUmoci),
    ])
}

/// Runs a program, which must succeed; its output.
pub fn tool(program: &str, arguments: &[&str]) -> Vec<u8> {
    let mut command = Command::new(program);
    command.args(arguments);
    succeeds(command).stdout
}

/// A registry that runs, with its files in a directory of whoever made it.
pub struct Registry {
    pub port: u16,
    pub process: Child,
    directory: PathBuf,
}

impl Drop for Registry {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

impl Registry {
    /// With a password, or for everybody.
    pub fn start(directory: &Path, has_password: bool) -> Self {
        Self::with_tls(directory, has_password, None)
    }

    /// The same with a certificate and its key.
    pub fn with_tls(directory: &Path, has_password: bool, tls: Option<(String, String)>) -> Self {
        // Nobody takes a port twice in the moments until the registry does.
        let port = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
        let at = directory.display();
        fs::write(directory.join("htpasswd"), HTPASSWD).unwrap();
        let auth = format!("auth: {{htpasswd: {{realm: test, path: {at}/htpasswd}}}}\n");
        let tls = tls.map_or_else(String::new, |(certificate, key)| {
            fs::write(directory.join("server.crt"), certificate).unwrap();
            fs::write(directory.join("server.key"), key).unwrap();
            format!(", tls: {{certificate: {at}/server.crt, key: {at}/server.key}}")
        });
        let config = format!(
            "version: 0.1\nstorage: {{filesystem: {{rootdirectory: {at}/storage}}}}\n\
             http: {{addr: '127.0.0.1:{port}', secret: test{tls}}}\n{}",
            if has_password { &auth } else { "" }
        );
        let path = directory.join("registry.yml");
        fs::write(&path, config).unwrap();
        File::create(directory.join("registry.log")).unwrap();
        Self { port, process: serve(directory, port), directory: directory.to_owned() }
    }

    /// Starts it again, with what it had, when it has ended.
    pub fn restart(&mut self) {
        self.process = serve(&self.directory, self.port);
    }

    pub fn reference(&self, name: &str) -> String {
        format!("127.0.0.1:{}/{name}", self.port)
    }

    /// An image with these files, a layer each.
    pub fn put(&self, name: &str, files: &[(&str, Vec<u8>)]) {
        let layout = self.directory.join(format!("layout-{}", name.replace(['/', ':'], "-")));
        let at = layout.to_str().unwrap();
        let image = format!("{at}:1");
        tool("umoci", &["init", "--layout", at]);
        tool("umoci", &["new", "--image", &image]);
        for (file, bytes) in files {
            let path = self.directory.join(file);
            fs::write(&path, bytes).unwrap();
            // The same file is the same layer in each image.
            File::options().write(true).open(&path).unwrap().set_modified(SystemTime::UNIX_EPOCH).unwrap();
            tool("umoci", &["insert", "--rootless", "--image", &image, path.to_str().unwrap(), &format!("/{file}")]);
        }
        let to = format!("docker://{}", self.reference(name));
        let copy = ["--insecure-policy", "copy", "--dest-tls-verify=false", "--dest-creds", "user:hunter2"];
        tool("skopeo", &[&copy[..], &[&format!("oci:{image}"), &to]].concat());
    }

    /// The bytes of a blob that it has.
    pub fn blob(&self, digest: &ImageDigest) -> Vec<u8> {
        let hex = digest.hex();
        let blobs = self.directory.join("storage/docker/registry/v2/blobs/sha256");
        fs::read(blobs.join(&hex[..2]).join(hex).join("data")).unwrap()
    }

    /// The lines of its log about blobs that were asked for.
    pub fn fetched(&self) -> Vec<String> {
        let log = fs::read_to_string(self.directory.join("registry.log")).unwrap();
        let is_blob = |line: &&str| line.contains("\"GET /v2/") && line.contains("/blobs/");
        log.lines().filter(is_blob).map(str::to_owned).collect()
    }
}

fn serve(directory: &Path, port: u16) -> Child {
    let log = File::options().append(true).open(directory.join("registry.log")).unwrap();
    let mut command = Command::new("docker-registry");
    command.arg("serve").arg(directory.join("registry.yml")).stdin(Stdio::null());
    let process = command.stdout(log.try_clone().unwrap()).stderr(log).spawn().unwrap();
    until("the registry answers", || TcpStream::connect(("127.0.0.1", port)).is_ok());
    process
}

/// Bytes that are the same each time and that nothing makes fewer.
pub fn noise(len: usize) -> Vec<u8> {
    let mut state = 0x9E37_79B9_7F4A_7C15u64;
    let mut next = || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        state.to_le_bytes()
    };
    (0..len.div_ceil(8)).flat_map(|_| next()).collect()
}
