//! Debian's docker-registry on loopback with the images of this run.

use std::fs::{self, File};
use std::net::{TcpListener, TcpStream};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use super::Result;
use super::inputs::{Image, TAG};

/// How long it may take to begin.
const DEADLINE: Duration = Duration::from_secs(20);

pub struct Registry {
    pub port: u16,
    process: Child,
}

impl Drop for Registry {
    fn drop(&mut self) {
        let _ = self.process.kill(); // it has ended by itself
        let _ = self.process.wait();
    }
}

impl Registry {
    /// With its files in this directory.
    pub fn start(directory: &Path) -> Result<Self> {
        fs::create_dir_all(directory)?;
        let port = TcpListener::bind("127.0.0.1:0")?.local_addr()?.port();
        let config = directory.join("registry.yml");
        let at = directory.display();
        let text = format!(
            "version: 0.1\nlog: {{accesslog: {{disabled: true}}, level: error}}\n\
             storage: {{filesystem: {{rootdirectory: {at}/storage}}}}\nhttp: {{addr: '127.0.0.1:{port}', secret: bench}}\n"
        );
        fs::write(&config, text)?;
        let log = File::create(directory.join("registry.log"))?;
        let mut command = Command::new("docker-registry");
        command.arg("serve").arg(config).stdin(Stdio::null()).stdout(log.try_clone()?).stderr(log);
        let registry = Self { port, process: command.spawn()? };
        let begun = Instant::now();
        while TcpStream::connect(("127.0.0.1", port)).is_err() {
            if begun.elapsed() > DEADLINE {
                return Err("docker-registry does not answer".into());
            }
            std::thread::sleep(Duration::from_millis(20));
        }
        Ok(registry)
    }

    /// Puts an image there under a name.
    pub fn push(&self, image: &Image, name: &str) -> Result<()> {
        let mut command = Command::new("skopeo");
        command.args(["--insecure-policy", "copy", "--quiet", "--dest-tls-verify=false"]);
        command.arg(format!("oci:{}:{TAG}", image.directory.display()));
        command.arg(format!("docker://127.0.0.1:{}/{name}", self.port));
        let status = command.status()?;
        if status.success() { Ok(()) } else { Err(format!("skopeo ended with {status}").into()) }
    }
}
