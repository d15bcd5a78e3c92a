//! Reads a tar, entry by entry: POSIX (pax), GNU and old headers.
//!
//! ```text
//!   [x/g/L/K header, its text]*  header  [sparse headers]*  contents, padding   …   two records of zeros
//!    what a header cannot hold   └──────────── one entry ───────────────────┘       the end
//! ```
//!
//! A stream without its end is one that broke off, wherever that was.

use std::io::{self, Read};

use crate::entry::{Entry, Kind, Meta};
use crate::header::{Header, field, unsigned};
use crate::name::{self, NameProblem};
use crate::pax::{Pax, PaxProblem};
use crate::record::{BLOCK, BLOCK_LEN, has_checksum};
use crate::report::Shown;
use crate::sparse::{self, MapReader, OldMap, Segment, SparseProblem};

/// Most bytes of the text of an extended header: attributes are the largest part of it.
pub const TEXT_MAX: u64 = 1 << 20;
/// Most bytes of a long name in GNU's own format.
const LONG_NAME_MAX: u64 = 64 << 10;
/// Most extended headers of one entry.
const EXTENDED_MAX: u32 = 64;
/// Most parts of a sparse file: 4 MiB of memory.
const SEGMENTS_MAX: usize = 1 << 18;
/// Most bytes behind the end that are read, so that whoever writes them is not told that they are too many.
const TRAILER_MAX: usize = 1 << 20;
/// Bytes that are read at once.
const PIECE: usize = 128 << 10;

/// Why a stream cannot be read.
#[derive(Debug, thiserror::Error)]
pub enum StreamError {
    /// Whoever it comes from.
    #[error("the stream broke")]
    Read(#[source] io::Error),
    /// It is no tar, or a wrong one.
    #[error("the tar stream is broken{}", match entry.as_slice() {
        [] => String::new(),
        entry => format!(" at {}", Shown(entry)),
    })]
    Broken {
        /// The name of the entry, where it has one.
        entry: Vec<u8>,
        /// The cause.
        #[source]
        problem: StreamProblem,
    },
}

/// What is wrong with a stream.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[allow(missing_docs)] // each says it itself
pub enum StreamProblem {
    #[error("there is nothing in it")]
    Empty,
    #[error("it ends in the middle")]
    Truncated,
    #[error("a header has another checksum than it says; is it compressed, or no tar at all?")]
    Checksum,
    #[error("the {0} of an entry is no number, or too large")]
    Number(&'static str),
    #[error("an extended header has more than {TEXT_MAX} bytes")]
    HeaderTooLong,
    #[error("an entry has more than {EXTENDED_MAX} extended headers")]
    Extended,
    #[error("an extended header has no entry behind it")]
    Alone,
    #[error("its pax header")]
    Pax(#[source] PaxProblem),
    #[error("its name")]
    Name(#[source] NameProblem),
    #[error("the name that it links to")]
    Target(#[source] NameProblem),
    #[error("it links to nothing, to a NUL byte, or to more than 4095 bytes")]
    SymbolicTarget,
    #[error("its map of holes")]
    Sparse(#[source] SparseProblem),
    #[error("its kind is {0:?}, which is not known")]
    Kind(char),
}

/// Reads a tar.
#[derive(Debug)]
pub struct Reader<R> {
    input: R,
    buffer: Vec<u8>,
    /// Bytes of the entry's contents, and of what fills their last record.
    left: u64,
    padding: u64,
    has_begun: bool,
}

/// What comes before an entry's own header.
#[derive(Debug, Default)]
struct Prelude {
    pax: Pax,
    name: Option<Vec<u8>>,
    target: Option<Vec<u8>>,
    count: u32,
}

fn broken(entry: &[u8], problem: StreamProblem) -> StreamError {
    StreamError::Broken { entry: entry.to_owned(), problem }
}

impl<R: Read> Reader<R> {
    /// Reads from the beginning of a tar.
    pub fn new(input: R) -> Self {
        Self { input, buffer: vec![0; PIECE], left: 0, padding: 0, has_begun: false }
    }

    /// The next entry; `None` at the end. What is left of the contents of the one before is passed over.
    ///
    /// # Errors
    /// [`StreamError`].
    pub fn read(&mut self) -> Result<Option<Entry>, StreamError> {
        while !self.chunk()?.is_empty() {}
        let mut prelude = Prelude::default();
        loop {
            let Some(header) = self.header()? else {
                return if prelude.count > 0 { Err(broken(&[], StreamProblem::Alone)) } else { Ok(None) };
            };
            let raw = prelude.name.clone().unwrap_or_else(|| header.name());
            match header.kind() {
                b'x' | b'X' => {
                    let text = self.text(&header, TEXT_MAX, &raw)?;
                    prelude.pax = Pax::parse(&text).map_err(|problem| broken(&raw, StreamProblem::Pax(problem)))?;
                }
                // Of the whole archive: a comment, where there is any (as `git archive` writes it).
                b'g' | b'V' => {
                    self.text(&header, TEXT_MAX, &raw)?;
                }
                kind @ (b'L' | b'K') => {
                    let mut text = self.text(&header, LONG_NAME_MAX, &raw)?;
                    text.truncate(text.iter().position(|byte| *byte == 0).unwrap_or(text.len()));
                    *(if kind == b'L' { &mut prelude.name } else { &mut prelude.target }) = Some(text);
                }
                _ => return self.entry(&header, prelude, raw).map(Some),
            }
            prelude.count += 1;
            if prelude.count > EXTENDED_MAX {
                return Err(broken(&raw, StreamProblem::Extended));
            }
        }
    }

    /// The next bytes of the contents of the entry that was read last; empty at their end.
    ///
    /// # Errors
    /// [`StreamError`].
    pub fn chunk(&mut self) -> Result<&[u8], StreamError> {
        if self.left == 0 {
            while self.padding > 0 {
                let most = usize::try_from(self.padding).unwrap_or(PIECE).min(PIECE);
                match self.some(most)? {
                    0 => return Err(broken(&[], StreamProblem::Truncated)),
                    count => self.padding -= count as u64,
                }
            }
            return Ok(&[]);
        }
        let most = usize::try_from(self.left).unwrap_or(PIECE).min(PIECE);
        match self.some(most)? {
            0 => Err(broken(&[], StreamProblem::Truncated)),
            count => {
                self.left -= count as u64;
                Ok(&self.buffer[..count])
            }
        }
    }

    /// Reads some bytes into the buffer.
    fn some(&mut self, most: usize) -> Result<usize, StreamError> {
        loop {
            match self.input.read(&mut self.buffer[..most]) {
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                read => return read.map_err(StreamError::Read),
            }
        }
    }

    fn fill(&mut self, bytes: &mut [u8]) -> Result<(), StreamError> {
        self.input.read_exact(bytes).map_err(|error| match error.kind() {
            io::ErrorKind::UnexpectedEof => broken(&[], StreamProblem::Truncated),
            _ => StreamError::Read(error),
        })
    }

    fn block(&mut self) -> Result<[u8; BLOCK_LEN], StreamError> {
        let mut block = [0; BLOCK_LEN];
        self.fill(&mut block)?;
        Ok(block)
    }

    /// The next header; `None` at the end.
    fn header(&mut self) -> Result<Option<Header>, StreamError> {
        let block = match self.block() {
            Err(StreamError::Broken { .. }) if !self.has_begun => return Err(broken(&[], StreamProblem::Empty)),
            block => block?,
        };
        self.has_begun = true;
        if block.iter().all(|byte| *byte == 0) {
            self.trailer()?;
            return Ok(None);
        }
        if has_checksum(&block) { Ok(Some(Header(block))) } else { Err(broken(&[], StreamProblem::Checksum)) }
    }

    fn trailer(&mut self) -> Result<(), StreamError> {
        let mut read = 0;
        while read < TRAILER_MAX {
            match self.some(PIECE)? {
                0 => break,
                count => read += count,
            }
        }
        Ok(())
    }

    /// The text of an extended header.
    fn text(&mut self, header: &Header, most: u64, name: &[u8]) -> Result<Vec<u8>, StreamError> {
        let bytes = header.size().ok_or_else(|| broken(name, StreamProblem::Number("size")))?;
        if bytes > most {
            return Err(broken(name, StreamProblem::HeaderTooLong));
        }
        let whole = usize::try_from(bytes.next_multiple_of(BLOCK)).unwrap_or_default();
        let mut text = vec![0; whole];
        self.fill(&mut text)?;
        text.truncate(usize::try_from(bytes).unwrap_or_default());
        Ok(text)
    }

    /// The entry of a header, with what came before it.
    fn entry(&mut self, header: &Header, prelude: Prelude, raw: Vec<u8>) -> Result<Entry, StreamError> {
        let Prelude { mut pax, target, .. } = prelude;
        let name = pax.sparse.name.take().or(pax.path.take()).unwrap_or(raw);
        let wrong = |problem| broken(&name, problem);
        let mut kind = header.kind();
        // Old archives have no other way to say it.
        if matches!(kind, 0 | b'0') && name.last() == Some(&b'/') {
            kind = b'5';
        }
        let target = pax.target.take().or(target).unwrap_or_else(|| header.target().to_owned());
        let path = name::clean(&name).map_err(|problem| wrong(StreamProblem::Name(problem)))?;
        let meta = meta(header, &mut pax).map_err(wrong)?;
        let device = || header.device().ok_or_else(|| wrong(StreamProblem::Number("device number")));
        let kind = match kind {
            0 | b'0' | b'7' | b'S' => {
                let stored = pax.bytes.or_else(|| header.size()).filter(|size| i64::try_from(*size).is_ok());
                let stored = stored.ok_or_else(|| wrong(StreamProblem::Number("size")))?;
                let (bytes, segments) = self.contents(header, stored, &pax, &name)?;
                Kind::File { bytes, segments }
            }
            b'1' => Kind::HardLink(name::clean(&target).map_err(|problem| wrong(StreamProblem::Target(problem)))?),
            b'2' => {
                if target.is_empty() || target.len() > name::PATH_MAX || target.contains(&0) {
                    return Err(wrong(StreamProblem::SymbolicTarget));
                }
                Kind::SymbolicLink(target)
            }
            b'3' => device().map(|(major, minor)| Kind::CharacterDevice(major, minor))?,
            b'4' => device().map(|(major, minor)| Kind::BlockDevice(major, minor))?,
            b'5' => Kind::Directory,
            b'6' => Kind::Fifo,
            other => return Err(wrong(StreamProblem::Kind(char::from(other)))),
        };
        Ok(Entry { path, kind, meta })
    }

    /// Where a file's contents are: its bytes, and its data in the stream.
    fn contents(
        &mut self,
        header: &Header,
        stored: u64,
        pax: &Pax,
        name: &[u8],
    ) -> Result<(u64, Vec<Segment>), StreamError> {
        let wrong = |problem| broken(name, StreamProblem::Sparse(problem));
        self.padding = stored.next_multiple_of(BLOCK) - stored;
        self.left = stored;
        let mut data = stored;
        let (bytes, segments) = if header.kind() == b'S' {
            let mut map = OldMap::new(SEGMENTS_MAX, unsigned);
            map.push(&header.0[field::OLD_MAP]).map_err(wrong)?;
            let mut goes_on = header.0[field::OLD_MAP_GOES_ON];
            while goes_on != 0 {
                let block = self.block()?;
                goes_on = map.push_record(&block).map_err(wrong)?;
            }
            (unsigned(&header.0[field::OLD_BYTES]), map.into_segments())
        } else if pax.sparse.has_map_in_contents() {
            let mut map = MapReader::new(SEGMENTS_MAX);
            while !map.is_complete() {
                data = data.checked_sub(BLOCK).ok_or_else(|| wrong(SparseProblem::Map))?;
                let block = self.block()?;
                map.push(&block).map_err(wrong)?;
            }
            self.left = data;
            (pax.sparse.bytes, map.into_segments())
        } else if pax.sparse.is_any() {
            (pax.sparse.bytes, pax.sparse.segments(SEGMENTS_MAX).map_err(wrong)?)
        } else {
            (Some(stored), Segment::whole(stored))
        };
        let bytes = bytes.filter(|bytes| i64::try_from(*bytes).is_ok());
        let bytes = bytes.ok_or_else(|| wrong(SparseProblem::NoSize))?;
        sparse::check(&segments, bytes, data).map_err(wrong)?;
        Ok((bytes, segments))
    }
}

/// The attributes that a header and its pax header say.
fn meta(header: &Header, pax: &mut Pax) -> Result<Meta, StreamProblem> {
    let mode = header.mode().ok_or(StreamProblem::Number("mode"))?;
    let id = |pax: Option<u64>, header: Option<i64>, what| {
        let id = pax.map_or(header, |id| i64::try_from(id).ok());
        // Minus one is nobody: the system's calls take it for "as it is".
        let id = id.and_then(|id| u32::try_from(id).ok()).filter(|id| *id != u32::MAX);
        id.ok_or(StreamProblem::Number(what))
    };
    let uid = id(pax.uid, header.uid(), "owner")?;
    let gid = id(pax.gid, header.gid(), "group")?;
    let mtime = match pax.mtime {
        Some(moment) => moment,
        None => (header.mtime().ok_or(StreamProblem::Number("time"))?, 0),
    };
    let mode = u32::try_from(mode & 0o7777).unwrap_or_default();
    Ok(Meta { mode, uid, gid, mtime, xattrs: std::mem::take(&mut pax.xattrs) })
}
