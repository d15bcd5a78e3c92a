//! A tar archive, entry by entry: POSIX (pax), GNU and old headers. Bytes that are no file's contents go to the
//! [`SplitWriter`] as they are read.
//!
//! ```text
//!   [x/g/L/K header, its text]*  header  [sparse headers]*  contents, padding   …   zeros
//!    what a header cannot hold   └──────────── one entry ───────────────────┘       the end
//! ```
//!
//! No reader of others, not [`sandpen_tree::Reader`] either, since the raw bytes of an entry are kept here, and what a
//! well-known reader (Go's `archive/tar`, with which nearly all layers are written and read) takes in a certain way is taken
//! so: see `fields`.

use std::io::{self, BufRead};

use sandpen_tree::header::{Header, field};
use sandpen_tree::pax::Pax;
use sandpen_tree::record::{BLOCK, BLOCK_LEN, has_checksum};
use sandpen_tree::sparse::{self, MapReader, OldMap};
use sandpen_tree::{Segment, SparseProblem};

use super::blob::UNIT;
use super::path;
use super::split::SplitWriter;
use super::{ENTRIES_MAX, FILE_MAX, PATH_MAX};
use crate::fields;

mod meta;
mod problem;

use meta::meta;
pub use problem::{Contents, TarEntry, TarError, TarKind, TarProblem};

/// Most bytes of the text of a pax header: extended attributes are the largest part of it.
const PAX_MAX: u64 = 1 << 20;
/// Most parts of a sparse file: as many as there are units in the largest one.
const SEGMENTS_MAX: usize = (FILE_MAX / UNIT) as usize;

/// Reads an archive.
#[derive(Debug)]
pub struct ArchiveReader<R> {
    input: R,
    /// What all is told that is no contents of a file.
    pub split: SplitWriter,
    /// Bytes read.
    pub position: u64,
    entries: u64,
}

/// What comes before an entry's own header.
#[derive(Debug, Default)]
struct Prelude {
    pax: Pax,
    name: Option<Vec<u8>>,
    target: Option<Vec<u8>>,
    any: bool,
}

impl<R: BufRead> ArchiveReader<R> {
    /// Reads from `input`, which is at the beginning of an archive.
    pub fn new(input: R, split: SplitWriter) -> Self {
        Self { input, split, position: 0, entries: 0 }
    }

    /// What it reads from.
    pub fn input(&self) -> &R {
        &self.input
    }

    /// The same, to be asked.
    pub fn input_mut(&mut self) -> &mut R {
        &mut self.input
    }

    /// What it read from, and what was told all that is no contents.
    pub fn into_parts(self) -> (R, SplitWriter) {
        (self.input, self.split)
    }

    /// The next entry; `None` at the end. The contents of the one before must have been read.
    ///
    /// # Errors
    /// [`TarError`].
    pub fn read(&mut self) -> Result<Option<TarEntry>, TarError> {
        let mut prelude = Prelude::default();
        loop {
            let Some(header) = self.header()? else {
                return if prelude.any { Err(problem(&[], TarProblem::LongNameAlone)) } else { Ok(None) };
            };
            self.entries += 1;
            let raw_name = prelude.name.clone().unwrap_or_else(|| fields::name(&header));
            let wrong = |what: TarProblem| problem(&raw_name, what);
            if self.entries > ENTRIES_MAX * 2 {
                return Err(wrong(TarProblem::TooMany));
            }
            match header.kind() {
                b'x' | b'X' => {
                    let text = self.text(&header, &raw_name)?;
                    prelude.pax = Pax::parse(&text).map_err(|error| wrong(TarProblem::Pax(error)))?;
                }
                // Of the whole archive: a comment, where there is any (as `git archive` writes it).
                b'g' => {
                    self.text(&header, &raw_name)?;
                    continue;
                }
                kind @ (b'L' | b'K') => {
                    let mut text = self.text(&header, &raw_name)?;
                    while text.last() == Some(&0) {
                        text.pop();
                    }
                    let place = if kind == b'L' { &mut prelude.name } else { &mut prelude.target };
                    if place.replace(text).is_some() {
                        return Err(wrong(TarProblem::NestedLongName));
                    }
                }
                _ => return self.entry(&header, prelude, &raw_name).map(Some),
            }
            prelude.any = true;
        }
    }

    /// The entry of a header, with what came before it.
    fn entry(&mut self, header: &Header, prelude: Prelude, raw_name: &[u8]) -> Result<TarEntry, TarError> {
        let Prelude { mut pax, name, target, .. } = prelude;
        let name = pax.sparse.name.take().or(pax.path.take()).or(name);
        let name = name.unwrap_or_else(|| raw_name.to_owned());
        let wrong = |what: TarProblem| problem(&name, what);
        let mut kind = header.kind();
        // Old archives have no other way to say it.
        if matches!(kind, 0 | b'0') && name.last() == Some(&b'/') {
            kind = b'5';
        }
        let target = pax.target.take().or(target).unwrap_or_else(|| header.target().to_owned());
        let target = Some(target).filter(|target| !target.is_empty());
        let path = path::clean(&name).map_err(|error| wrong(TarProblem::Name(error)))?;
        let meta = meta(header, &mut pax).map_err(&wrong)?;
        let device = || fields::device(header).ok_or_else(|| wrong(TarProblem::Number("device number")));
        let kind = match kind {
            0 | b'0' | b'7' | b'S' => {
                let bytes = pax.bytes.or_else(|| fields::number_or_nothing(&header.0[field::SIZE]));
                let bytes = bytes.ok_or_else(|| wrong(TarProblem::Number("size")))?;
                TarKind::File(self.contents(header, bytes, &pax, &name)?)
            }
            b'1' => {
                let target = target.ok_or_else(|| wrong(TarProblem::NoTarget))?;
                TarKind::HardLink(path::clean_target(&target).map_err(|error| wrong(TarProblem::Target(error)))?)
            }
            b'2' => {
                let target = target.ok_or_else(|| wrong(TarProblem::NoTarget))?;
                if target.len() > PATH_MAX || target.contains(&0) {
                    return Err(wrong(TarProblem::SymbolicTarget));
                }
                TarKind::SymbolicLink(target)
            }
            b'3' => match device()? {
                (0, 0) => return Err(wrong(TarProblem::WhiteoutDevice)),
                (major, minor) => TarKind::CharacterDevice(major, minor),
            },
            b'4' => device().map(|(major, minor)| TarKind::BlockDevice(major, minor))?,
            b'5' => TarKind::Directory,
            b'6' => TarKind::Fifo,
            other => return Err(wrong(TarProblem::Type(char::from(other)))),
        };
        if let TarKind::CharacterDevice(major, minor) | TarKind::BlockDevice(major, minor) = kind
            && (major >= 1 << 12 || minor >= 1 << 20)
        {
            return Err(wrong(TarProblem::Range));
        }
        Ok(TarEntry { path, kind, meta })
    }

    /// Where a file's contents are in the archive.
    fn contents(&mut self, header: &Header, stored: u64, pax: &Pax, name: &[u8]) -> Result<Contents, TarError> {
        let wrong = |what: TarProblem| problem(name, what);
        let sparse_error = |what: SparseProblem| problem(name, TarProblem::Sparse(what));
        let (segments, bytes) = if header.kind() == b'S' {
            if !fields::is_gnu(header) {
                return Err(sparse_error(SparseProblem::NoSize));
            }
            let mut map = OldMap::new(SEGMENTS_MAX, fields::number);
            map.push(&header.0[field::OLD_MAP]).map_err(sparse_error)?;
            let bytes = fields::number(&header.0[field::OLD_BYTES]);
            let bytes = bytes.ok_or_else(|| sparse_error(SparseProblem::Number))?;
            let mut goes_on = header.0[field::OLD_MAP_GOES_ON];
            while goes_on == 1 {
                let block = self.block(name)?;
                goes_on = map.push_record(&block).map_err(sparse_error)?;
            }
            (map.into_segments(), bytes)
        } else if pax.sparse.is_any() {
            if pax.sparse.has_map_in_contents() {
                let (segments, map_bytes) = self.map_in_contents(stored, name)?;
                let stored = stored.checked_sub(map_bytes).ok_or_else(|| sparse_error(SparseProblem::Map))?;
                let bytes = pax.sparse.bytes.ok_or_else(|| sparse_error(SparseProblem::NoSize))?;
                return Self::checked(segments, bytes, stored, name);
            }
            let segments = pax.sparse.segments(SEGMENTS_MAX).map_err(sparse_error)?;
            (segments, pax.sparse.bytes.ok_or_else(|| sparse_error(SparseProblem::NoSize))?)
        } else if stored > FILE_MAX {
            return Err(wrong(TarProblem::FileTooLarge));
        } else {
            return Ok(Contents { bytes: stored, segments: Segment::whole(stored) });
        };
        Self::checked(segments, bytes, stored, name)
    }

    fn checked(segments: Vec<Segment>, bytes: u64, stored: u64, name: &[u8]) -> Result<Contents, TarError> {
        if bytes > FILE_MAX {
            return Err(problem(name, TarProblem::FileTooLarge));
        }
        sparse::check(&segments, bytes, stored).map_err(|error| problem(name, TarProblem::Sparse(error)))?;
        Ok(Contents { bytes, segments })
    }

    /// The map that version 1.0 of GNU's pax format puts before the contents, and its bytes.
    fn map_in_contents(&mut self, stored: u64, name: &[u8]) -> Result<(Vec<Segment>, u64), TarError> {
        let wrong = |what: SparseProblem| problem(name, TarProblem::Sparse(what));
        let (mut map, mut read) = (MapReader::new(SEGMENTS_MAX), 0);
        while !map.is_complete() {
            if read + BLOCK > stored {
                return Err(wrong(SparseProblem::Map));
            }
            let block = self.block(name)?;
            read += BLOCK;
            map.push(&block).map_err(wrong)?;
        }
        Ok((map.into_segments(), read))
    }

    /// One record of 512 bytes that must be there.
    fn block(&mut self, name: &[u8]) -> Result<[u8; BLOCK_LEN], TarError> {
        let mut block = [0; BLOCK_LEN];
        self.fill(&mut block, name)?;
        self.split.raw(&block)?;
        Ok(block)
    }

    fn fill(&mut self, block: &mut [u8], name: &[u8]) -> Result<(), TarError> {
        match self.input.read_exact(block) {
            Ok(()) => {
                self.position += block.len() as u64;
                Ok(())
            }
            Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => Err(problem(name, TarProblem::Truncated)),
            Err(error) => Err(error.into()),
        }
    }

    /// The next header; at the end of the archive all that follows is read.
    fn header(&mut self) -> Result<Option<Header>, TarError> {
        if self.input.fill_buf()?.is_empty() {
            return Ok(None);
        }
        let mut block = self.block(&[])?;
        if block.iter().all(|byte| *byte == 0) {
            if self.input.fill_buf()?.is_empty() {
                return Ok(None);
            }
            block = self.block(&[])?;
            if block.iter().all(|byte| *byte == 0) {
                self.rest()?;
                return Ok(None);
            }
        }
        if has_checksum(&block) { Ok(Some(Header(block))) } else { Err(problem(&[], TarProblem::Checksum)) }
    }

    /// What follows the end of the archive belongs to its digest.
    fn rest(&mut self) -> Result<(), TarError> {
        loop {
            let buffer = self.input.fill_buf()?;
            if buffer.is_empty() {
                return Ok(());
            }
            let length = buffer.len();
            self.split.raw(buffer)?;
            self.input.consume(length);
            self.position += length as u64;
        }
    }

    /// The text of an extended header.
    fn text(&mut self, header: &Header, name: &[u8]) -> Result<Vec<u8>, TarError> {
        let bytes = fields::number(&header.0[field::SIZE]).ok_or_else(|| problem(name, TarProblem::Number("size")))?;
        if bytes > PAX_MAX {
            return Err(problem(name, TarProblem::HeaderTooLong));
        }
        let mut text = vec![0; usize::try_from(bytes).unwrap_or_default()];
        self.fill(&mut text, name)?;
        self.split.raw(&text)?;
        self.padding(bytes)?;
        Ok(text)
    }

    /// Hands out `bytes` of contents, in parts.
    ///
    /// # Errors
    /// [`TarError`], and those of `take`.
    pub fn content(
        &mut self,
        mut bytes: u64,
        name: &[u8],
        mut take: impl FnMut(&[u8]) -> io::Result<()>,
    ) -> Result<(), TarError> {
        while bytes > 0 {
            let buffer = self.input.fill_buf()?;
            if buffer.is_empty() {
                return Err(problem(name, TarProblem::Truncated));
            }
            let part = buffer.len().min(usize::try_from(bytes).unwrap_or(usize::MAX));
            take(&buffer[..part])?;
            self.input.consume(part);
            self.position += part as u64;
            bytes -= part as u64;
        }
        Ok(())
    }

    /// Reads what follows contents of `bytes` bytes up to the next record. At the end of an archive it may be missing, as
    /// Go's reader has it: `umoci insert` writes such ones.
    ///
    /// # Errors
    /// [`TarError`].
    pub fn padding(&mut self, bytes: u64) -> Result<(), TarError> {
        let over = bytes % BLOCK;
        let mut left = usize::try_from(if over == 0 { 0 } else { BLOCK - over }).unwrap_or_default();
        while left > 0 {
            let buffer = self.input.fill_buf()?;
            if buffer.is_empty() {
                break;
            }
            let part = buffer.len().min(left);
            self.split.raw(&buffer[..part])?;
            self.input.consume(part);
            self.position += part as u64;
            left -= part;
        }
        Ok(())
    }
}

fn problem(entry: &[u8], problem: TarProblem) -> TarError {
    TarError::Archive { entry: entry.to_owned(), problem }
}
