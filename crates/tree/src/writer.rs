//! Writes a tar, entry by entry: POSIX headers, with a pax header where one does not hold what there is to say.

use std::fs::File;
use std::io::{self, BufWriter, Write};
use std::os::unix::fs::FileExt as _;

use rustix::fs::sendfile;
use rustix::io::Errno;

use crate::entry::{Kind, Meta};
use crate::header::{Header, ID_MAX, NAME_FIELD, SIZE_MAX};
use crate::name;
use crate::pax::xattr_key;
use crate::record::{BLOCK, BLOCK_LEN, push_record, write_moment};
use crate::sparse::{self, Segment};

/// Why the contents of a file were not written, or not to their end.
#[derive(Debug, thiserror::Error)]
pub enum ContentsError {
    /// The file cannot be read, or ends before its segments do ([`UnexpectedEof`](io::ErrorKind::UnexpectedEof)).
    #[error("reading the file")]
    Read(#[source] io::Error),
    /// Whoever takes it.
    #[error("the stream broke")]
    Write(#[source] io::Error),
}

/// Bytes that are gathered before a pipe is written to.
const GATHERED: usize = 64 << 10;
/// Contents that are sent to a pipe by reference: fewer are not worth that what was gathered is written before.
const SENT_MIN: u64 = 64 << 10;
/// Bytes that are sent at once (sendfile(2) takes 2 GiB).
const SENT_MAX: u64 = 1 << 30;

/// Sends so many bytes of a file from there on; answers how many, none at its end. [`Errno::INVAL`]: it is not a file that can
/// be sent.
type SendFile<W> = fn(&mut W, &File, &mut u64, usize) -> Result<usize, SendError>;

/// Who failed to send.
enum SendError {
    File(Errno),
    Out(io::Error),
}

/// Writes a tar.
#[derive(Debug)]
pub struct Writer<W> {
    out: W,
    send: Option<SendFile<W>>,
    /// Bytes of the last file's contents that have not come yet.
    left: u64,
    padding: usize,
}

impl<W: Write> Writer<W> {
    /// A tar without entries yet.
    pub fn new(out: W) -> Self {
        Self { out, send: None, left: 0, padding: 0 }
    }

    /// Begins an entry: `path` is below the root, and empty for the root. Behind a file come the bytes of its segments
    /// ([`Writer::contents`]), all of them.
    ///
    /// # Errors
    /// Whoever takes it.
    pub fn begin(&mut self, path: &[u8], kind: &Kind, meta: &Meta) -> io::Result<()> {
        let mut pax = Vec::new();
        let (mut map, mut sparse_bytes) = (Vec::new(), None);
        let (letter, stored, target) = match kind {
            Kind::Directory => (b'5', 0, None),
            Kind::File { bytes, segments } => {
                let data = segments.iter().map(|segment| segment.bytes).sum::<u64>();
                self.left = data;
                if data < *bytes {
                    map = sparse::map_text(segments, *bytes);
                    sparse_bytes = Some(*bytes);
                }
                (b'0', data + map.len() as u64, None)
            }
            Kind::HardLink(target) => (b'1', 0, Some(target)),
            Kind::SymbolicLink(target) => (b'2', 0, Some(target)),
            Kind::CharacterDevice(..) => (b'3', 0, None),
            Kind::BlockDevice(..) => (b'4', 0, None),
            Kind::Fifo => (b'6', 0, None),
        };
        let mut header = Header::new(letter);
        if let Kind::CharacterDevice(major, minor) | Kind::BlockDevice(major, minor) = kind {
            if u64::from(*major.max(minor)) > ID_MAX {
                return Err(io::Error::new(io::ErrorKind::InvalidInput, "a device number that no header holds"));
            }
            header.set_device(*major, *minor);
        }
        let mut name = match (path, kind) {
            (b"", _) => b"./".to_vec(),
            (path, Kind::Directory) => [path, b"/"].concat(),
            (path, _) => path.to_owned(),
        };
        if let Some(bytes) = sparse_bytes {
            push_record(&mut pax, b"GNU.sparse.major", b"1");
            push_record(&mut pax, b"GNU.sparse.minor", b"0");
            push_record(&mut pax, b"GNU.sparse.name", &name);
            push_record(&mut pax, b"GNU.sparse.realsize", bytes.to_string().as_bytes());
            // What a tar that knows no holes makes of it shall not be taken for the file.
            let (above, last) = name::split(&name);
            name = name::join(above, &[b"GNUSparseFile.0/", last].concat());
        }
        let mut small = |key: &[u8], value: u64, most: u64| {
            if value > most {
                push_record(&mut pax, key, value.to_string().as_bytes());
                return 0;
            }
            value
        };
        header.set_owner(small(b"uid", meta.uid.into(), ID_MAX), small(b"gid", meta.gid.into(), ID_MAX));
        header.set_size(small(b"size", stored, SIZE_MAX));
        let (seconds, nanos) = meta.mtime;
        let whole = u64::try_from(seconds).ok().filter(|seconds| *seconds <= SIZE_MAX);
        header.set_mtime(whole.unwrap_or(0));
        if whole.is_none() || nanos != 0 {
            push_record(&mut pax, b"mtime", write_moment(seconds, nanos).as_bytes());
        }
        if name.len() > NAME_FIELD {
            push_record(&mut pax, b"path", &name);
        }
        if let Some(target) = target.filter(|target| target.len() > NAME_FIELD) {
            push_record(&mut pax, b"linkpath", target);
        }
        for (name, value) in &meta.xattrs {
            push_record(&mut pax, &xattr_key(name), value);
        }
        if !pax.is_empty() {
            let mut extended = Header::new(b'x');
            extended.set_name(b"pax");
            extended.set_mode(0o644);
            extended.set_size(pax.len() as u64);
            self.out.write_all(&extended.finish())?;
            pax.resize(pax.len().next_multiple_of(BLOCK_LEN), 0);
            self.out.write_all(&pax)?;
        }
        header.set_mode(meta.mode);
        header.set_name(&name);
        if let Some(target) = target {
            header.set_target(target);
        }
        self.out.write_all(&header.finish())?;
        self.out.write_all(&map)?;
        self.padding = usize::try_from(stored.next_multiple_of(BLOCK) - stored).unwrap_or_default();
        Ok(())
    }

    /// The next bytes of the file that was begun.
    ///
    /// # Errors
    /// Whoever takes it; more bytes than its segments have.
    pub fn contents(&mut self, bytes: &[u8]) -> io::Result<()> {
        let left = self.left.checked_sub(bytes.len() as u64);
        self.left = left.ok_or_else(|| io::Error::from(io::ErrorKind::InvalidInput))?;
        self.out.write_all(bytes)?;
        self.pad()
    }

    /// Behind the last byte of a file.
    fn pad(&mut self) -> io::Result<()> {
        if self.left == 0 {
            let padding = std::mem::take(&mut self.padding);
            self.out.write_all(&[0; BLOCK_LEN][..padding])?;
        }
        Ok(())
    }

    /// All contents of the file that was begun, with the segments that it was begun with. `buffer` is what is read at once;
    /// it is not empty.
    ///
    /// # Errors
    /// [`ContentsError`]. After one of reading [`Writer::zeros`] makes the entry whole.
    pub fn file(&mut self, file: &File, segments: &[Segment], buffer: &mut [u8]) -> Result<(), ContentsError> {
        for segment in segments {
            let (mut at, mut left) = (segment.offset, segment.bytes);
            self.send(file, &mut at, &mut left)?;
            while left > 0 {
                let most = usize::try_from(left).unwrap_or(usize::MAX).min(buffer.len());
                let count = match file.read_at(&mut buffer[..most], at) {
                    Ok(0) => return Err(ContentsError::Read(io::ErrorKind::UnexpectedEof.into())),
                    Ok(count) => count,
                    Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
                    Err(error) => return Err(ContentsError::Read(error)),
                };
                self.contents(&buffer[..count]).map_err(ContentsError::Write)?;
                at += count as u64;
                left -= count as u64;
            }
        }
        Ok(())
    }

    /// Sends what is worth it and can be sent.
    fn send(&mut self, file: &File, at: &mut u64, left: &mut u64) -> Result<(), ContentsError> {
        let Some(send) = self.send else { return Ok(()) };
        if *left > self.left {
            return Err(ContentsError::Write(io::ErrorKind::InvalidInput.into()));
        }
        while *left >= SENT_MIN {
            let most = usize::try_from((*left).min(SENT_MAX)).unwrap_or(usize::MAX);
            let count = match send(&mut self.out, file, at, most) {
                Ok(0) => return Err(ContentsError::Read(io::ErrorKind::UnexpectedEof.into())),
                Ok(count) => count as u64,
                Err(SendError::File(Errno::INTR)) => continue,
                Err(SendError::File(Errno::INVAL)) => return Ok(()),
                Err(SendError::File(errno)) => return Err(ContentsError::Read(errno.into())),
                Err(SendError::Out(error)) => return Err(ContentsError::Write(error)),
            };
            *left -= count;
            self.left -= count;
        }
        self.pad().map_err(ContentsError::Write)
    }

    /// Zeros for all contents of the file that was begun that have not come.
    ///
    /// # Errors
    /// Whoever takes it.
    pub fn zeros(&mut self) -> io::Result<()> {
        let zeros = [0; 16 * BLOCK_LEN];
        while self.left > 0 {
            let most = usize::try_from(self.left).unwrap_or(usize::MAX).min(zeros.len());
            self.contents(&zeros[..most])?;
        }
        Ok(())
    }

    /// Ends it.
    ///
    /// # Errors
    /// Whoever takes it.
    pub fn finish(mut self) -> io::Result<W> {
        self.out.write_all(&[0; 2 * BLOCK_LEN])?;
        self.out.flush()?;
        Ok(self.out)
    }
}

impl Writer<BufWriter<File>> {
    /// A tar for a pipe. Large contents go into it as the pages that the kernel has of their files, and are not copied: whoever
    /// changes a file may change what is in the pipe.
    pub fn to_pipe(out: File) -> Self {
        Self { send: Some(send_to_pipe), ..Self::new(BufWriter::with_capacity(GATHERED, out)) }
    }
}

fn send_to_pipe(out: &mut BufWriter<File>, file: &File, at: &mut u64, most: usize) -> Result<usize, SendError> {
    out.flush().map_err(SendError::Out)?;
    sendfile(out.get_ref(), file, Some(at), most).map_err(|errno| match errno {
        Errno::PIPE => SendError::Out(errno.into()),
        errno => SendError::File(errno),
    })
}
