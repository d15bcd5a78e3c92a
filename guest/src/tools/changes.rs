//! What was written to the root, as a layer of an image: a tar, in which what was removed is a whiteout.
//!
//! ```text
//!   upper directory of the overlay                       layer (image-spec/layer.md of OCI)
//!     character device 0/0 NAME                     ──▶   .wh.NAME, an empty file
//!     directory with trusted.overlay.opaque = y     ──▶   the directory, and .wh..wh..opq in it
//!     all else                                      ──▶   itself; names sorted, so that the same makes the same
//! ```
//!
//! Below an opaque directory nothing is left to hide, and nothing is marked: who reads marks before all else might follow what
//! the directory has taken the place of.

use std::collections::HashMap;
use std::ffi::{CStr, CString};
use std::fs::File;
use std::io::{self, BufWriter, Write};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use nix::fcntl::{FcntlArg, OFlag, fcntl};
use nix::poll::{PollFd, PollFlags, PollTimeout};
use rustix::fs::{
    AtFlags, Dir, FileType, Mode, OFlags, ResolveFlags, Statx, StatxFlags, fgetxattr, openat2, readlinkat, statx,
};
use rustix::io::Errno;
use sandpen_tree::sparse::data_of;
use sandpen_tree::{Attributes, ContentsError, Kind, Meta, Segment, Writer};

use crate::freeze;

/// What the image-spec calls a whiteout, and one of all that lies below a directory.
const WHITEOUT: &[u8] = b".wh.";
const OPAQUE: &[u8] = b".wh..wh..opq";
/// The overlay's mark of a directory that hides what is below it.
const OPAQUE_MARK: &CStr = c"trusted.overlay.opaque";
/// So many files with several names are remembered; others are written once for each name.
const LINKS_MAX: usize = 1 << 16;
/// Holes of fewer bytes are written as zeros: not everybody reads sparse files in a tar.
const HOLES_MIN: u64 = 1 << 20;
/// Deepest directory.
const DEPTH_MAX: usize = 1024;
/// Milliseconds that the root stays frozen while nobody reads what is packed.
const PATIENCE: u16 = 10_000;
/// Bytes that are gathered, and read, at once.
const PIECE: usize = 64 << 10;

/// Why there is no layer.
#[derive(Debug, thiserror::Error)]
pub enum ChangesError {
    /// There is no disk of its own.
    #[error("the root has no disk of its own over an image")]
    NoDisk,
    /// Somebody else does, or the file system cannot be.
    #[error("freezing the disk of the root")]
    Freeze(#[source] nix::errno::Errno),
    /// Something cannot be read.
    #[error("reading {path:?}")]
    Read {
        /// What, in the root.
        path: String,
        /// The cause.
        #[source]
        source: io::Error,
    },
    /// A name that means something else in an image.
    #[error("{path:?} has a name that marks what was removed, in an image: rename it")]
    Reserved {
        /// What, in the root.
        path: String,
    },
    /// Too many levels.
    #[error("{path:?} lies more than {DEPTH_MAX} directories deep")]
    TooDeep {
        /// What, in the root.
        path: String,
    },
    /// Nobody takes it.
    #[error("writing the layer")]
    Write(#[source] io::Error),
}

/// Freezes the file system of `upper`, and writes all below it to standard output. Whoever started this thaws it.
pub fn changes(upper: Option<OwnedFd>) -> Result<(), ChangesError> {
    let upper = upper.ok_or(ChangesError::NoDisk)?;
    let out = Patient::standard_output().map_err(|errno| ChangesError::Write(errno.into()))?;
    freeze::freeze(&upper).map_err(ChangesError::Freeze)?;
    write_layer(&upper, out)
}

/// Standard output, which gives up where nobody reads: who writes to the root waits meanwhile.
struct Patient;

impl Patient {
    fn standard_output() -> Result<Self, nix::errno::Errno> {
        // A pipe's end of our own.
        fcntl(io::stdout(), FcntlArg::F_SETFL(OFlag::O_NONBLOCK)).map(|_| Self)
    }
}

impl Write for Patient {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let stdout = io::stdout();
        loop {
            match nix::unistd::write(&stdout, bytes) {
                Err(nix::errno::Errno::EAGAIN) => {}
                written => return Ok(written?),
            }
            let mut wanted = [PollFd::new(stdout.as_fd(), PollFlags::POLLOUT)];
            if nix::poll::poll(&mut wanted, PollTimeout::from(PATIENCE))? == 0 {
                return Err(io::Error::new(io::ErrorKind::TimedOut, "nobody reads it"));
            }
        }
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

fn write_layer(upper: &OwnedFd, out: impl Write) -> Result<(), ChangesError> {
    let out = Writer::new(BufWriter::with_capacity(PIECE, out));
    let mut layer = Layer { out, links: HashMap::new(), path: Vec::new(), buffer: vec![0; PIECE] };
    layer.directory(upper, 0, false)?;
    layer.out.finish().map(drop).map_err(ChangesError::Write)
}

struct Layer<W: Write> {
    out: Writer<BufWriter<W>>,
    /// Inodes with several names, and the first one.
    links: HashMap<u64, Vec<u8>>,
    /// Of what is being looked at.
    path: Vec<u8>,
    buffer: Vec<u8>,
}

impl<W: Write> Layer<W> {
    fn shown(&self) -> String {
        format!("/{}", String::from_utf8_lossy(&self.path))
    }

    fn unread(&self, source: impl Into<io::Error>) -> ChangesError {
        ChangesError::Read { path: self.shown(), source: source.into() }
    }

    fn begin(&mut self, kind: &Kind, meta: &Meta) -> Result<(), ChangesError> {
        self.out.begin(&self.path, kind, meta).map_err(ChangesError::Write)
    }

    /// `is_hidden`: nothing of the layers below is seen in it.
    fn directory(&mut self, opened: &OwnedFd, depth: usize, is_hidden: bool) -> Result<(), ChangesError> {
        if depth > DEPTH_MAX {
            return Err(ChangesError::TooDeep { path: self.shown() });
        }
        let looked =
            statx(opened, c"", AtFlags::EMPTY_PATH, StatxFlags::BASIC_STATS).map_err(|errno| self.unread(errno))?;
        let xattrs = Attributes::All.read(opened).map_err(|error| self.unread(error))?;
        self.begin(&Kind::Directory, &Meta { xattrs, ..Meta::of(&looked) })?;
        let is_opaque = is_opaque(opened).map_err(|errno| self.unread(errno))?;
        if is_opaque && !is_hidden {
            self.mark(OPAQUE)?;
        }
        let is_hidden = is_hidden || is_opaque;
        let mut names = Vec::new();
        for entry in Dir::read_from(opened).map_err(|errno| self.unread(errno))? {
            let entry = entry.map_err(|errno| self.unread(errno))?;
            if !matches!(entry.file_name().to_bytes(), b"." | b"..") {
                names.push(entry.file_name().to_owned());
            }
        }
        names.sort_unstable();
        for name in names {
            self.below(&name, |layer| layer.entry(opened.as_fd(), &name, depth, is_hidden))?;
        }
        Ok(())
    }

    /// With a name more in the path.
    fn below(
        &mut self,
        name: &CStr,
        entry: impl FnOnce(&mut Self) -> Result<(), ChangesError>,
    ) -> Result<(), ChangesError> {
        let length = self.path.len();
        if length > 0 {
            self.path.push(b'/');
        }
        self.path.extend_from_slice(name.to_bytes());
        entry(self)?;
        self.path.truncate(length);
        Ok(())
    }

    /// An empty file of this name: a whiteout.
    fn mark(&mut self, name: &[u8]) -> Result<(), ChangesError> {
        let name = CString::new(name).map_err(|error| self.unread(io::Error::from(error)))?;
        self.below(&name, |layer| layer.begin(&Kind::File { bytes: 0, segments: Vec::new() }, &Meta::default()))
    }

    fn entry(
        &mut self,
        parent: BorrowedFd<'_>,
        name: &CStr,
        depth: usize,
        is_hidden: bool,
    ) -> Result<(), ChangesError> {
        let looked = statx(parent, name, AtFlags::SYMLINK_NOFOLLOW, StatxFlags::BASIC_STATS);
        let looked = looked.map_err(|errno| self.unread(errno))?;
        let kind = FileType::from_raw_mode(looked.stx_mode.into());
        let device = (looked.stx_rdev_major, looked.stx_rdev_minor);
        if kind == FileType::CharacterDevice && device == (0, 0) {
            if is_hidden {
                return Ok(());
            }
            let cut = self.path.len() - name.to_bytes().len();
            let name = [WHITEOUT, name.to_bytes()].concat();
            let path = std::mem::take(&mut self.path);
            self.path = path[..cut].to_vec();
            self.path.extend_from_slice(&name);
            self.begin(&Kind::File { bytes: 0, segments: Vec::new() }, &Meta::default())?;
            self.path = path;
            return Ok(());
        }
        if name.to_bytes().starts_with(WHITEOUT) {
            return Err(ChangesError::Reserved { path: self.shown() });
        }
        let open = |flags: OFlags| {
            let resolve = ResolveFlags::BENEATH | ResolveFlags::NO_SYMLINKS | ResolveFlags::NO_MAGICLINKS;
            openat2(parent, name, flags | OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty(), resolve)
        };
        if kind != FileType::Directory && looked.stx_nlink > 1 {
            if let Some(first) = self.links.get(&looked.stx_ino) {
                let first = first.clone();
                return self.begin(&Kind::HardLink(first), &Meta::of(&looked));
            }
            if self.links.len() < LINKS_MAX {
                self.links.insert(looked.stx_ino, self.path.clone());
            }
        }
        match kind {
            FileType::Directory => {
                let opened = open(OFlags::DIRECTORY).map_err(|errno| self.unread(errno))?;
                self.directory(&opened, depth + 1, is_hidden)
            }
            FileType::RegularFile => {
                let opened = open(OFlags::NONBLOCK).map_err(|errno| self.unread(errno))?;
                self.file(&File::from(opened), &looked)
            }
            FileType::Symlink => {
                let target = readlinkat(parent, name, Vec::new()).map_err(|errno| self.unread(errno))?;
                self.begin(&Kind::SymbolicLink(target.into_bytes()), &Meta::of(&looked))
            }
            FileType::CharacterDevice => self.begin(&Kind::CharacterDevice(device.0, device.1), &Meta::of(&looked)),
            FileType::BlockDevice => self.begin(&Kind::BlockDevice(device.0, device.1), &Meta::of(&looked)),
            FileType::Fifo => self.begin(&Kind::Fifo, &Meta::of(&looked)),
            // No tar has one, and nobody finds who listened.
            FileType::Socket | FileType::Unknown => Ok(()),
        }
    }

    fn file(&mut self, file: &File, looked: &Statx) -> Result<(), ChangesError> {
        let bytes = looked.stx_size;
        let xattrs = Attributes::All.read(file).map_err(|error| self.unread(error))?;
        let has_holes = looked.stx_blocks.saturating_mul(512).saturating_add(HOLES_MIN) <= bytes;
        let segments = match has_holes {
            true => data_of(file, bytes),
            false => Segment::whole(bytes),
        };
        self.begin(&Kind::File { bytes, segments: segments.clone() }, &Meta { xattrs, ..Meta::of(looked) })?;
        let written = self.out.file(file, &segments, &mut self.buffer);
        written.map_err(|error| match error {
            ContentsError::Read(source) => self.unread(source),
            ContentsError::Write(source) => ChangesError::Write(source),
        })
    }
}

fn is_opaque(directory: impl AsFd) -> Result<bool, Errno> {
    let mut mark = [0; 2];
    match fgetxattr(directory, OPAQUE_MARK, &mut mark[..]) {
        Ok(1) => Ok(mark[0] == b'y'),
        Ok(_) | Err(Errno::NODATA | Errno::NOTSUP | Errno::RANGE) => Ok(false),
        Err(errno) => Err(errno),
    }
}

#[cfg(test)]
mod tests {
    use std::fs;

    use rustix::fs::{CWD, XattrFlags, fsetxattr, mknodat};
    use sandpen_tree::Reader;

    use super::*;

    #[test]
    fn below_an_opaque_directory_nothing_is_marked() {
        if !nix::unistd::Uid::effective().is_root() {
            sandpen_skip::skip(sandpen_skip::Reason::NotRoot, "marks of an overlay");
            return;
        }
        let dir = tempfile::tempdir().unwrap();
        let at = |name: &str| dir.path().join(name);
        fs::create_dir_all(at("a/sub/deep")).unwrap();
        fs::create_dir_all(at("b/opaque")).unwrap();
        fs::write(at("a/sub/file"), "x").unwrap();
        for opaque in ["a", "a/sub", "a/sub/deep", "b/opaque"] {
            fsetxattr(File::open(at(opaque)).unwrap(), OPAQUE_MARK, b"y", XattrFlags::empty()).unwrap();
        }
        for gone in ["a/gone", "a/sub/gone", "b/gone", "gone"] {
            mknodat(CWD, at(gone), FileType::CharacterDevice, Mode::empty(), 0).unwrap();
        }
        let mut tar = Vec::new();
        write_layer(&File::open(dir.path()).unwrap().into(), &mut tar).unwrap();
        let (mut reader, mut names) = (Reader::new(tar.as_slice()), Vec::new());
        while let Some(entry) = reader.read().unwrap() {
            names.push(String::from_utf8(entry.path).unwrap());
        }
        let expected = [
            "",
            "a",
            "a/.wh..wh..opq",
            "a/sub",
            "a/sub/deep",
            "a/sub/file",
            "b",
            "b/.wh.gone",
            "b/opaque",
            "b/opaque/.wh..wh..opq",
            ".wh.gone",
        ];
        assert_eq!(names, expected);
    }
}
