//! The contents of a file: as many bytes as its header says, whatever becomes of the file meanwhile.

use std::fs::File;
use std::io::{self, Write};
use std::os::unix::fs::FileExt as _;

use rustix::fd::{AsFd, BorrowedFd};
use rustix::fs::{Statx, fstatfs};

use super::{Problem, Trouble};
use crate::sparse::{Segment, data_of};
use crate::writer::{ContentsError, Writer};

/// Most bytes of a file that says nothing of its size, as those in /proc.
pub(super) const MADE_UP_MAX: usize = 1 << 20;
/// Bytes that are read at once.
const PIECE: usize = 256 << 10;

/// File systems that show what the kernel has (statfs(2), linux/magic.h): proc, sysfs, cgroup, cgroup2, debugfs, tracefs,
/// securityfs, devpts, bpf, configfs, efivarfs, pstore, binfmt_misc.
const VIEWS: [u32; 13] = [
    0x9fa0,
    0x6265_6572,
    0x0027_e0eb,
    0x6367_7270,
    0x6462_6720,
    0x7472_6163,
    0x7363_6673,
    0x1cd1,
    0xcafe_4a11,
    0x6265_6570,
    0xde5e_81e4,
    0x6165_676c,
    0x4249_4e4d,
];

/// Whether something is of such a file system.
pub(super) fn is_view(of: BorrowedFd<'_>) -> bool {
    fstatfs(of).is_ok_and(|system| u32::try_from(system.f_type).is_ok_and(|magic| VIEWS.contains(&magic)))
}

/// The file that is being packed.
pub(super) struct Contents {
    buffer: Vec<u8>,
    /// What its header says.
    pub(super) bytes: u64,
    /// All of it, where its size says nothing.
    made_up: Option<Vec<u8>>,
}

impl Contents {
    pub(super) fn new() -> Self {
        Self { buffer: vec![0; PIECE], bytes: 0, made_up: None }
    }

    /// Where the data of a file are.
    pub(super) fn find(&mut self, file: &File, now: &Statx) -> Result<Vec<Segment>, Trouble> {
        (self.bytes, self.made_up) = (now.stx_size, None);
        if now.stx_blocks == 0 && is_view(file.as_fd()) {
            let text = self.all_of(file)?;
            self.bytes = text.len() as u64;
            self.made_up = Some(text);
        } else if now.stx_blocks < now.stx_size.div_ceil(512) {
            return Ok(data_of(file, now.stx_size));
        }
        Ok(Segment::whole(self.bytes))
    }

    fn all_of(&mut self, file: &File) -> Result<Vec<u8>, Trouble> {
        let mut text = Vec::new();
        loop {
            match file.read_at(&mut self.buffer, text.len() as u64) {
                Ok(0) => return Ok(text),
                Ok(count) => text.extend_from_slice(&self.buffer[..count]),
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(Trouble::read(error)),
            }
            if text.len() > MADE_UP_MAX {
                return Err(Problem::MadeUp.into());
            }
        }
    }

    /// Writes what was found; answers what was not as it should be.
    pub(super) fn write<W: Write>(
        &mut self,
        file: &File,
        segments: &[Segment],
        out: &mut Writer<W>,
    ) -> io::Result<Option<Problem>> {
        if let Some(text) = self.made_up.take() {
            return out.contents(&text).map(|()| None);
        }
        let problem = match out.file(file, segments, &mut self.buffer) {
            Ok(()) => None,
            Err(ContentsError::Write(error)) => return Err(error),
            Err(ContentsError::Read(error)) => {
                out.zeros()?;
                Some(match error.kind() {
                    io::ErrorKind::UnexpectedEof => Problem::Shrank,
                    _ => Problem::Contents(error),
                })
            }
        };
        Ok(problem.or_else(|| match file.metadata().map_or(self.bytes, |meta| meta.len()) {
            now if now > self.bytes => Some(Problem::Grew),
            now if now < self.bytes => Some(Problem::Shrank),
            _ => None,
        }))
    }
}
