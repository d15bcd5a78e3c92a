//! What is in the making: directories that nobody takes for whole, and who makes what.

use std::fs::{self, File};
use std::io;
use std::path::{Path, PathBuf};

use sandpen_types::image::{ImageDigest, ImageReference};

use super::record::{self, CONFIG, ImageRecord, LayerRecord, MANIFEST};
use super::{Locked, Store, StoreError, files, names};

/// The file of a draft that its maker has locked.
const HELD: &str = "held";
/// The directory of a draft that becomes a layer or an image.
const CONTENT: &str = "content";

/// What the names of drafts begin with that become nothing: what is on its way out, or needed for a while.
const GOING: &str = "going-";

/// Whoever has it makes the layer or image of a digest, alone.
#[derive(Debug)]
pub struct DigestGuard {
    path: PathBuf,
    _file: File,
}

impl Drop for DigestGuard {
    fn drop(&mut self) {
        // While it is locked: whoever waits for it sees that it is gone, and makes a new one.
        let _ = fs::remove_file(&self.path);
    }
}

/// A directory that becomes a layer or an image. Dropping it removes it.
#[derive(Debug)]
pub struct DraftDir {
    store: Store,
    directory: PathBuf,
    content: PathBuf,
    _held: File,
}

/// Who makes a draft.
enum Holder {
    Somebody,
    /// With its lock, which is ours now, if it has a file for one.
    Nobody(#[allow(dead_code, reason = "held, not looked at")] Option<File>),
}

impl Store {
    /// Waits until nobody else makes a layer or image of this digest. Look afterwards whether it is there by now. Nobody
    /// may wait for a second one while he makes something that others may wait for, but for layers while he makes their
    /// image.
    ///
    /// # Errors
    /// What the system said.
    pub fn lock_digest(&self, digest: &ImageDigest) -> Result<DigestGuard, StoreError> {
        let path = self.directory.join("locks").join(digest.hex());
        loop {
            let file = files::open_lock(&path)?;
            file.lock().map_err(StoreError::io("lock", &path))?;
            // Whoever had it before has removed it.
            if is_at(&file, &path) {
                return Ok(DigestGuard { path, _file: file });
            }
        }
    }

    /// Whether a layer is there. It stays for as long as the asker has a [`DigestGuard`] or a [`DraftDir`] from before he
    /// asked.
    ///
    /// # Errors
    /// What the system said.
    pub fn has_layer(&self, diff_id: &ImageDigest) -> Result<bool, StoreError> {
        // Whoever removes layers looks for makers under the lock: he has seen the asker, or we see what he did.
        let _locked = self.lock()?;
        Ok(self.layer(diff_id)?.is_some())
    }

    /// A new draft, empty. Removes those that nobody makes any more, their makers died.
    ///
    /// # Errors
    /// What the system said.
    pub fn draft(&self) -> Result<DraftDir, StoreError> {
        self.sweep()?;
        self.new_draft(&self.lock()?, "")
    }

    /// A directory for what a process that works on the store needs meanwhile. No layer stays for it; like a draft it goes
    /// with the answer, or with the next sweep if this process dies.
    ///
    /// # Errors
    /// What the system said.
    pub fn scratch(&self) -> Result<DraftDir, StoreError> {
        self.grave(&self.lock()?)
    }

    /// Removes drafts of makers that died, and what came of layers that nobody has asked for in a week.
    ///
    /// # Errors
    /// What the system said.
    pub fn sweep(&self) -> Result<(), StoreError> {
        let locked = self.lock()?;
        let drafts = self.drafts(&locked)?;
        sandpen_cache::sweep(&self.directory);
        sandpen_cache::sweep(&self.directory.join(super::packed::DIRECTORY));
        self.remove_old_leases(&locked)?;
        self.remove_old_manifests(&locked)?;
        drop(locked);
        self.sweep_partials()?;
        for (draft, holder) in drafts {
            match holder {
                Holder::Somebody => {}
                // Its lock, if it had one, is ours until it is gone.
                Holder::Nobody(_held) => remove_tree(&draft),
            }
        }
        Ok(())
    }

    /// Whether anybody makes something now, so that layers stay that no image has.
    ///
    /// # Errors
    /// What the system said.
    pub fn is_being_made(&self) -> Result<bool, StoreError> {
        self.has_makers(&self.lock()?)
    }

    /// Whether anybody makes anything.
    pub(super) fn has_makers(&self, locked: &Locked) -> Result<bool, StoreError> {
        let is_made = |(path, holder): &(PathBuf, Holder)| matches!(holder, Holder::Somebody) && !is_going(path);
        if self.drafts(locked)?.iter().any(is_made) {
            return Ok(true);
        }
        let directory = self.directory.join("locks");
        for digest in files::digests(&directory)? {
            let path = directory.join(digest.hex());
            match files::try_alone(&path) {
                // Its maker died.
                Ok(Some(_held)) => drop(fs::remove_file(&path)),
                Ok(None) => return Ok(true),
                Err(StoreError::Io { source, .. }) if source.kind() == io::ErrorKind::NotFound => {}
                Err(error) => return Err(error),
            }
        }
        Ok(false)
    }

    /// A draft for what is on its way out.
    pub(super) fn grave(&self, locked: &Locked) -> Result<DraftDir, StoreError> {
        self.new_draft(locked, GOING)
    }

    /// A new draft under the lock, so that nobody sees one whose maker does not hold it yet.
    fn new_draft(&self, _: &Locked, prefix: &str) -> Result<DraftDir, StoreError> {
        let drafts = self.directory.join("drafts");
        let made = tempfile::Builder::new().prefix(prefix).rand_bytes(16).tempdir_in(&drafts);
        let directory = made.map_err(StoreError::io("create a directory in", &drafts))?.keep();
        let path = directory.join(HELD);
        let held = files::open_lock(&path)?;
        held.lock().map_err(StoreError::io("lock", &path))?;
        let content = directory.join(CONTENT);
        sandpen_cache::make_directory(&content).map_err(StoreError::io("create", &content))?;
        Ok(DraftDir { store: self.clone(), directory, content, _held: held })
    }

    /// The drafts, and who holds them.
    fn drafts(&self, _: &Locked) -> Result<Vec<(PathBuf, Holder)>, StoreError> {
        let drafts = self.directory.join("drafts");
        let entries = fs::read_dir(&drafts).map_err(StoreError::io("read", &drafts))?;
        let paths = entries.flatten().map(|entry| entry.path());
        let looked_at = paths.map(|path| {
            let holder = match files::try_alone(&path.join(HELD)) {
                Ok(Some(file)) => Holder::Nobody(Some(file)),
                Ok(None) => Holder::Somebody,
                Err(StoreError::Io { source, .. }) if source.kind() == io::ErrorKind::NotFound => Holder::Nobody(None),
                Err(error) => return Err(error),
            };
            Ok((path, holder))
        });
        looked_at.collect()
    }

    /// Gives a draft its name, unless there is something of that name: whether it was.
    fn place(&self, _: &Locked, content: &Path, target: &Path) -> Result<bool, StoreError> {
        if fs::symlink_metadata(target).is_ok() {
            return Ok(false);
        }
        fs::rename(content, target).map_err(StoreError::io("rename a draft to", target))?;
        files::sync(target.parent().unwrap_or(&self.directory))?;
        Ok(true)
    }
}

impl DraftDir {
    /// The directory that becomes a layer or an image: with the files of it, and no others.
    pub fn path(&self) -> &Path {
        &self.content
    }

    /// Makes it the layer of this digest, on the disk when this answers; one that is there already stays, and this one
    /// goes. Needs [`BLOB`](crate::layer::BLOB), [`ENTRIES`](crate::layer::ENTRIES), [`TAR`](crate::layer::TAR), and a [`LayerRecord`] in
    /// [`super::LAYER_RECORD`]; that the content has the digest is the maker's word.
    ///
    /// # Errors
    /// [`StoreError::NotWhole`], and what the system said: nothing has changed then, but for a last sync that fails.
    pub fn commit_layer(self, diff_id: &ImageDigest) -> Result<(), StoreError> {
        record::seal::<LayerRecord>(&self.content, diff_id)?;
        let locked = self.store.lock()?;
        self.store.place(&locked, &self.content, &self.store.layer_path(diff_id))?;
        Ok(())
    }

    /// Makes it the image of this digest, and gives it these names, which other images lose; on the disk when this answers.
    /// One that is there already stays, with more names, as used now, and known by this manifest too. Needs [`super::CONFIG`], [`super::METADATA`], an
    /// [`ImageRecord`] in [`super::IMAGE_RECORD`], and takes [`super::MANIFEST`].
    ///
    /// # Errors
    /// [`StoreError::NotWhole`], [`StoreError::LayersMissing`], and what the system said. Without its names it may be there
    /// then.
    pub fn commit_image(self, digest: &ImageDigest, names: &[ImageReference]) -> Result<(), StoreError> {
        let config = files::read(&self.content.join(CONFIG))?.unwrap_or_default();
        let is = crate::digest::digest_of(&config);
        if is != *digest {
            let reason = format!("{CONFIG} has the digest {is}, not {digest}");
            return Err(StoreError::NotWhole { path: self.content.clone(), reason });
        }
        let record = record::seal::<ImageRecord>(&self.content, digest)?;
        for name in names {
            names::check_tag(name)?;
        }
        let locked = self.store.lock()?;
        let is_missing = |layer: &&ImageDigest| !self.store.layer_path(layer).is_dir();
        let missing: Vec<_> = record.layers.iter().filter(is_missing).map(ImageDigest::to_string).collect();
        if !missing.is_empty() {
            return Err(StoreError::LayersMissing { image: *digest, layers: missing });
        }
        if !self.store.place(&locked, &self.content, &self.store.image_path(digest))? {
            // Whoever brings it again wants it: it is not the first to go now.
            self.store.used(digest)?;
            if let Some(manifest) = files::read(&self.content.join(MANIFEST))? {
                self.store.note_manifest(&locked, digest, &manifest)?;
            }
        }
        self.store.name(&locked, digest, names)
    }

    /// Puts what has this name into the draft, in the place of its content: so it is gone at once, and whole.
    pub(super) fn take(&self, path: &Path) -> Result<(), StoreError> {
        let into = self.directory.join(path.file_name().unwrap_or_default());
        fs::rename(path, &into).map_err(StoreError::io("remove", path))
    }
}

impl Drop for DraftDir {
    fn drop(&mut self) {
        remove_tree(&self.directory);
    }
}

/// Removes a draft that we hold. What stays is found by the next one.
fn remove_tree(draft: &Path) {
    match fs::remove_dir_all(draft) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => {
            tracing::warn!(%error, path = ?draft, "what was not finished of an image stays");
        }
        _ => {}
    }
}

fn is_going(draft: &Path) -> bool {
    draft.file_name().is_some_and(|name| name.as_encoded_bytes().starts_with(GOING.as_bytes()))
}

/// Whether the open file is the one at this path.
fn is_at(file: &File, path: &Path) -> bool {
    use std::os::unix::fs::MetadataExt as _;
    let identity = |meta: fs::Metadata| (meta.dev(), meta.ino());
    match (file.metadata(), fs::symlink_metadata(path)) {
        (Ok(open), Ok(there)) => identity(open) == identity(there),
        _ => false,
    }
}
