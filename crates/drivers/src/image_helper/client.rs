//! Starts the process that reads and writes archives, and hears what it says.

use std::fs::{self, File};
use std::io;
use std::path::{Path, PathBuf};
use std::process::Stdio;

use sandpen_images::export::Named;
use sandpen_images::import::{NewLayer, Progress};
use sandpen_images::save::ArchiveFormat;
use sandpen_images::store::{DraftDir, Store};
use sandpen_types::image::{ImageDigest, ImageReference};
use tokio::io::{AsyncBufReadExt as _, AsyncReadExt as _, AsyncWriteExt as _, BufReader};
use tokio::net::unix::pipe;
use tokio::process::{Child, Command};

use crate::confine::{JailNetwork, JailPlan, Policy, rights};
use crate::waited;
use crate::work::kept;

use super::{Documents, ImageEnd, ImageEvent, ImageWork, arguments, policy};

/// Most bytes of a line that it says, and of what it says for people.
const LINE_MAX: u64 = 1 << 20;
const SAID_MAX: u64 = 4 << 10;

/// What an archive, or a root directory, is read from.
#[derive(Debug)]
pub enum ImageSource {
    /// A file or a directory of this host, absolute.
    Path(PathBuf),
    /// What somebody sent, whole, at its beginning.
    File(File),
}

/// What joins layers that are in the store.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ComposedImage {
    /// The configuration, as it came.
    pub config: String,
    /// The manifest, as it came, if there is one.
    pub manifest: Option<String>,
    /// The names that the image gets.
    pub names: Vec<ImageReference>,
}

/// Why it was not done.
#[derive(Debug, thiserror::Error)]
pub enum ImageHelperError {
    /// What it is to read.
    #[error("opening {path:?}")]
    Source {
        /// Which.
        path: PathBuf,
        /// The cause.
        #[source]
        source: io::Error,
    },
    /// The process.
    #[error("running the process that reads and writes images")]
    Run(#[source] io::Error),
    /// What is wrong with the archive, the directory or the store, in the process's words.
    #[error("{0}")]
    Failed(String),
    /// There is no room on the disk, in the process's words.
    #[error("{0}")]
    NoRoom(String),
    /// It ended without a word.
    #[error("the process that reads and writes images ended too early ({status}): {said}")]
    Ended {
        /// How.
        status: String,
        /// What it said for people.
        said: String,
    },
}

/// Runs the process for one store.
#[derive(Debug, Clone)]
pub struct ImageHelper {
    program: PathBuf,
    /// The store's directory, absolute and without links.
    store: PathBuf,
    /// The jail, or why there is none.
    jail: Result<JailPlan, String>,
}

impl ImageHelper {
    /// With this process's own program, which has to call [`run_helper_if_asked`](crate::run_helper_if_asked). The store's
    /// directory has to be there. Blocking: the first one tries what a jail takes.
    ///
    /// # Errors
    /// There is no such program or directory.
    pub fn new(store: &Path) -> Result<Self, ImageHelperError> {
        let program = waited::own_program().map_err(ImageHelperError::Run)?;
        let real = store.canonicalize();
        let store = real.map_err(|source| ImageHelperError::Source { path: store.to_owned(), source })?;
        let jail = jail(&program);
        Ok(Self { program, store, jail })
    }

    /// Puts the images of an archive into the store: a tar, packed or not, or the directory of an OCI layout. Dropping it
    /// ends it; what is whole by then stays.
    ///
    /// # Errors
    /// [`ImageHelperError`].
    pub async fn load(
        &self,
        source: ImageSource,
        platform: &str,
        name: Option<&ImageReference>,
        progress: impl FnMut(Progress),
    ) -> Result<Vec<ImageDigest>, ImageHelperError> {
        let (input, directory) = opened(source)?;
        let work =
            ImageWork::Load { platform: platform.to_owned(), name: name.cloned(), directory: directory.is_some() };
        self.bring(&work, input, directory, false, progress).await
    }

    /// Makes an image of a root directory, or of the tar of one.
    ///
    /// # Errors
    /// [`ImageHelperError`].
    pub async fn import(
        &self,
        source: ImageSource,
        name: &ImageReference,
        progress: impl FnMut(Progress),
    ) -> Result<Vec<ImageDigest>, ImageHelperError> {
        let (input, directory) = opened(source)?;
        let work = ImageWork::Import { name: name.clone(), directory: directory.clone() };
        self.bring(&work, input, directory, true, progress).await
    }

    /// Has a layer in the store. `stdin` is read once [`Progress::LayerStarted`] was said, and not at all where the layer
    /// is there, or somebody else has unpacked it meanwhile. Dropping it ends the process; what that leaves goes with
    /// the next draft.
    ///
    /// # Errors
    /// [`ImageHelperError`]; also where the stream is something else than `layer` says.
    pub async fn add_layer(
        &self,
        stdin: Stdio,
        layer: NewLayer,
        progress: impl FnMut(Progress),
    ) -> Result<(), ImageHelperError> {
        self.bring(&ImageWork::Layer(layer), stdin, None, false, progress).await.map(drop)
    }

    /// Has a layer in the store of which nobody knows the digest, and answers that; `tar` is read from where it is. Whoever
    /// is to make an image of it holds a draft of the store meanwhile.
    ///
    /// # Errors
    /// [`ImageHelperError`].
    pub async fn add_changes(
        &self,
        tar: File,
        progress: impl FnMut(Progress),
    ) -> Result<ImageDigest, ImageHelperError> {
        let layers = self.bring(&ImageWork::Changes, tar.into(), None, false, progress).await?;
        let [layer] = layers[..] else {
            return Err(ImageHelperError::Failed("the layer has no digest".to_owned()));
        };
        Ok(layer)
    }

    /// Makes an image of layers that are all in the store.
    ///
    /// # Errors
    /// [`ImageHelperError`].
    pub async fn compose(
        &self,
        image: ComposedImage,
        progress: impl FnMut(Progress),
    ) -> Result<Vec<ImageDigest>, ImageHelperError> {
        let ComposedImage { config, manifest, names } = image;
        let text = serde_json::to_vec(&Documents { config, manifest });
        let text = text.map_err(|error| ImageHelperError::Run(error.into()))?;
        let (stdin, writer) = io::pipe().map_err(ImageHelperError::Run)?;
        let writer = pipe::Sender::from_owned_fd(writer.into()).map_err(ImageHelperError::Run)?;
        let written = async move {
            let mut writer = writer;
            // Why it is read no further is what the process says itself.
            let _ = writer.write_all(&text).await;
        };
        let work = ImageWork::Compose { names };
        let (composed, ()) = tokio::join!(self.bring(&work, stdin.into(), None, false, progress), written);
        composed
    }

    /// Writes an archive of images to `out`.
    ///
    /// # Errors
    /// [`ImageHelperError`]; what was written is no whole archive then.
    pub async fn export(&self, images: Vec<Named>, format: ArchiveFormat, out: Stdio) -> Result<(), ImageHelperError> {
        let work = ImageWork::Export { images, oci: format == ArchiveFormat::Oci };
        self.write(&work, (self.store.clone(), false), out).await
    }

    /// Packs a layer of the store, whose tar has so many bytes, with gzip to `out`. Dropping it ends the process.
    ///
    /// # Errors
    /// [`ImageHelperError`]; what was written is not all of it then.
    pub async fn pack(&self, diff_id: ImageDigest, tar_bytes: u64, out: Stdio) -> Result<(), ImageHelperError> {
        let store = Store::open(&self.store).map_err(|error| ImageHelperError::Run(io::Error::other(error)))?;
        self.write(&ImageWork::Pack { diff_id, tar_bytes }, (store.layer_path(&diff_id), true), out).await
    }

    /// Has bytes written to `out` out of a directory, which may be one that is only read.
    async fn write(&self, work: &ImageWork, tree: (PathBuf, bool), out: Stdio) -> Result<(), ImageHelperError> {
        let policy = Policy { jail: self.jail.clone(), ..policy([tree]) };
        let (mut child, _directory) = self.start(&policy, work, Stdio::null(), out)?;
        let (status, said) = ended(&mut child).await?;
        if status.success() { Ok(()) } else { Err(failed(status, &said)) }
    }

    async fn bring(
        &self,
        work: &ImageWork,
        input: Stdio,
        directory: Option<PathBuf>,
        any_owner: bool,
        mut progress: impl FnMut(Progress),
    ) -> Result<Vec<ImageDigest>, ImageHelperError> {
        let trees = [(self.store.clone(), false)].into_iter().chain(directory.map(|directory| (directory, true)));
        let mut policy = Policy { jail: self.jail.clone(), ..policy(trees) };
        if any_owner {
            // Of root's alone: whose files a root directory has.
            policy.capabilities.push("DAC_READ_SEARCH".to_owned());
        }
        let (mut child, _directory) = self.start(&policy, work, input, Stdio::piped())?;
        let out = child.stdout.take().ok_or_else(|| ImageHelperError::Run(io::ErrorKind::BrokenPipe.into()))?;
        let mut end = None;
        let mut out = BufReader::new(out);
        let mut line = Vec::new();
        let said = kept(child.stderr.take(), SAID_MAX);
        let heard = async {
            while (&mut out).take(LINE_MAX).read_until(b'\n', &mut line).await? > 0 {
                match serde_json::from_slice(&line) {
                    Ok(ImageEvent::Progress(step)) => progress(step),
                    Ok(ImageEvent::End(last)) => end = Some(last),
                    Err(error) => tracing::warn!(%error, "the process that reads images said what nobody understands"),
                }
                line.clear();
            }
            Ok::<_, io::Error>(())
        };
        let ((), said, status) = tokio::try_join!(heard, said, child.wait()).map_err(ImageHelperError::Run)?;
        match end {
            Some(ImageEnd::Done { images }) => Ok(images),
            Some(ImageEnd::Failed { error, no_room: true }) => Err(ImageHelperError::NoRoom(error)),
            Some(ImageEnd::Failed { error, no_room: false }) => Err(ImageHelperError::Failed(error)),
            None => Err(failed(status, &said)),
        }
    }

    fn start(
        &self,
        policy: &Policy,
        work: &ImageWork,
        input: Stdio,
        out: Stdio,
    ) -> Result<(Child, DraftDir), ImageHelperError> {
        // Where its root is mounted, and its report written. If this process is killed, the store's next one removes it.
        let directory = Store::open(&self.store).and_then(|store| store.scratch());
        let directory = directory.map_err(|error| ImageHelperError::Run(io::Error::other(error)))?;
        let mut command = Command::new(&self.program);
        command.args(arguments(policy, work).map_err(ImageHelperError::Run)?);
        command.current_dir(directory.path()).env_clear().stdin(input).stdout(out).stderr(Stdio::piped());
        let child = command.kill_on_drop(true).spawn().map_err(ImageHelperError::Run)?;
        Ok((child, directory))
    }
}

/// The jail of a process that no waiter starts. Its user stays who it is: what it writes is the store's.
fn jail(program: &Path) -> Result<JailPlan, String> {
    match rights::find(program)?.user() {
        None => Ok(JailPlan { uid: None, network: JailNetwork::Own, empty_root: None }),
        Some(_) => Err("only the host's root has one beside a waiter".to_owned()),
    }
}

/// Standard input, and a directory.
fn opened(source: ImageSource) -> Result<(Stdio, Option<PathBuf>), ImageHelperError> {
    let path = match source {
        ImageSource::File(file) => return Ok((file.into(), None)),
        ImageSource::Path(path) => path,
    };
    let failed = |source| ImageHelperError::Source { path: path.clone(), source };
    if fs::metadata(&path).map_err(failed)?.is_dir() {
        let real = path.canonicalize().map_err(failed)?;
        return Ok((Stdio::null(), Some(real)));
    }
    Ok((File::open(&path).map_err(failed)?.into(), None))
}

async fn ended(child: &mut Child) -> Result<(std::process::ExitStatus, Vec<u8>), ImageHelperError> {
    let said = kept(child.stderr.take(), SAID_MAX);
    let (said, status) = tokio::try_join!(said, child.wait()).map_err(ImageHelperError::Run)?;
    Ok((status, said))
}

/// The error of a process that said nothing but for people.
fn failed(status: std::process::ExitStatus, said: &[u8]) -> ImageHelperError {
    let said = String::from_utf8_lossy(said).trim().to_owned();
    match said.strip_prefix("image: ") {
        Some(words) => ImageHelperError::Failed(words.to_owned()),
        None => ImageHelperError::Ended { status: status.to_string(), said },
    }
}
