//! A daemon with directories of its own, and what is asked of it.

use std::cell::RefCell;
use std::collections::BTreeSet;
use std::fs;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use sandpen::actors::state_dir::StateDir;
use sandpen::api::{ImageLoadRequest, ImageWork};
use sandpen::client::{Client, ClientOptions};
use sandpen::paths;

use super::Result;
use super::inputs::Image;

/// What everything uses. Its directory goes with it, and its daemon with all sandboxes.
pub struct Setup {
    pub directory: tempfile::TempDir,
    pub rootfs: PathBuf,
    pub sandpen: PathBuf,
    pub runtime: tokio::runtime::Runtime,
    client: RefCell<Option<Client>>,
}

/// What came of loading an image.
pub struct Loaded {
    /// From the request to its end.
    pub time: Duration,
    /// The most memory that the process had that read the archive, in KiB (VmHWM).
    pub peak_kib: u64,
}

impl Setup {
    pub fn new() -> Result<Self> {
        let required = |name: &str| std::env::var_os(name).ok_or(format!("set {name}; `make bench-images` does"));
        let setup = Self {
            directory: tempfile::tempdir()?,
            rootfs: fs::canonicalize(required("ROOTFS")?)?,
            sandpen: required("SANDPEN")?.into(),
            runtime: tokio::runtime::Builder::new_current_thread().enable_all().build()?,
            client: RefCell::new(None),
        };
        // The images of whoever runs this stay as they are; a kernel is needed.
        let data = setup.data();
        fs::create_dir_all(&data)?;
        let kernels = paths::default_data_dir().join("kernel");
        if !Command::new("cp").arg("-a").arg(kernels).arg(&data).status()?.success() {
            return Err("copying the guest kernels failed; `make kernel` makes them".into());
        }
        let started = setup.command(&["ps"]).stdout(Stdio::null()).status()?;
        if !started.success() {
            return Err("starting the daemon failed".into());
        }
        let options = ClientOptions { state_dir: setup.state(), daemon: None };
        *setup.client.borrow_mut() = Some(setup.runtime.block_on(Client::connect(&options))?);
        Ok(setup)
    }

    pub fn state(&self) -> PathBuf {
        self.directory.path().join("state")
    }

    pub fn data(&self) -> PathBuf {
        self.directory.path().join("data/sandpen")
    }

    pub fn store(&self) -> PathBuf {
        self.data().join("images")
    }

    pub fn client(&self) -> Result<Client> {
        Ok(self.client.borrow().clone().ok_or("no daemon")?)
    }

    /// A `sandpen` command of this setup.
    pub fn command(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new(&self.sandpen);
        command.env("SANDPEN_STATE_DIR", self.state()).env("XDG_DATA_HOME", self.directory.path().join("data"));
        command.args(arguments).stdin(Stdio::null());
        command
    }

    fn daemon_pid(&self) -> Result<u32> {
        Ok(fs::read_to_string(StateDir::new(self.state()).lock())?.trim().parse()?)
    }

    /// Loads an image under a name, until a start could begin.
    pub fn load(&self, image: &Image, name: &str) -> Result<Loaded> {
        let (daemon, client) = (self.daemon_pid()?, self.client()?);
        let request = ImageLoadRequest { path: image.directory.clone(), name: Some(name.parse()?), platform: None };
        let (over, peak) = (AtomicBool::new(false), AtomicU64::new(0));
        let begun = Instant::now();
        let time = std::thread::scope(|scope| {
            scope.spawn(|| watch(daemon, &over, &peak));
            let loaded = self.runtime.block_on(async {
                let mut work = client.load_images(&request).await?;
                while !matches!(work.next().await?, ImageWork::Images(_)) {}
                Ok::<_, sandpen::client::ClientError>(begun.elapsed())
            });
            over.store(true, Ordering::Relaxed);
            loaded
        })?;
        Ok(Loaded { time, peak_kib: peak.load(Ordering::Relaxed) })
    }

    /// Removes an image, and what no other one has of it.
    pub fn remove(&self, name: &str) -> Result<()> {
        let client = self.client()?;
        self.runtime.block_on(client.remove_image(name, true))?;
        Ok(())
    }

    /// Ends the daemon and all sandboxes.
    pub fn end(self) -> Result<()> {
        if self.shut_down()? { Ok(()) } else { Err("sandpen shutdown failed".into()) }
    }

    fn shut_down(&self) -> Result<bool> {
        *self.client.borrow_mut() = None;
        Ok(self.command(&["shutdown", "--stop-sandboxes"]).stdout(Stdio::null()).status()?.success())
    }
}

impl Drop for Setup {
    fn drop(&mut self) {
        if self.client.borrow().is_some() {
            // An error came before: it is told, and this is all that can still be done.
            let _ = self.shut_down();
        }
    }
}

/// Looks at the daemon's process that reads archives, until it is over. Its peak only grows, so the last look counts.
fn watch(daemon: u32, over: &AtomicBool, peak: &AtomicU64) {
    let is_helper = |pid: &u32| {
        fs::read(format!("/proc/{pid}/cmdline"))
            .is_ok_and(|line| line.split(|byte| *byte == 0).any(|word| word == b"__image"))
    };
    let mut helper = None;
    while !over.load(Ordering::Relaxed) {
        helper = helper.or_else(|| children(daemon).into_iter().find(is_helper));
        let status = helper.and_then(|pid| fs::read_to_string(format!("/proc/{pid}/status")).ok());
        let line = status.as_deref().and_then(|status| status.lines().find_map(|line| line.strip_prefix("VmHWM:")));
        if let Some(kib) = line.and_then(|line| line.trim().trim_end_matches(" kB").parse().ok()) {
            peak.fetch_max(kib, Ordering::Relaxed);
        }
        std::thread::sleep(Duration::from_millis(2));
    }
}

fn children(pid: u32) -> Vec<u32> {
    let threads = fs::read_dir(format!("/proc/{pid}/task")).into_iter().flatten().flatten();
    let lists = threads.filter_map(|thread| fs::read_to_string(thread.path().join("children")).ok());
    lists.flat_map(|list| list.split_whitespace().filter_map(|pid| pid.parse().ok()).collect::<Vec<_>>()).collect()
}

/// Bytes that files below a directory take on the disk, each counted once.
pub fn disk_bytes(directory: &Path) -> Result<u64> {
    let (mut seen, mut bytes, mut left) = (BTreeSet::new(), 0, vec![directory.to_owned()]);
    while let Some(path) = left.pop() {
        // What goes meanwhile takes nothing.
        let Ok(meta) = fs::symlink_metadata(&path) else { continue };
        if seen.insert((meta.dev(), meta.ino())) {
            bytes += meta.blocks() * 512;
        }
        if meta.is_dir() {
            left.extend(fs::read_dir(&path)?.flatten().map(|entry| entry.path()));
        }
    }
    Ok(bytes)
}

/// Has everything on the disk that was written, so that nothing of it slows down what comes next.
pub fn settle() -> Result<()> {
    if Command::new("sync").status()?.success() { Ok(()) } else { Err("sync failed".into()) }
}
