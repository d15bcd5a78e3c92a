//! A file's contents, as they come, with its holes.

use std::fs::File;
use std::io::Read;
use std::num::NonZero;
use std::os::unix::fs::FileExt as _;

use rustix::fs::{Advice, fadvise};

use super::problem::{Problem, Trouble, trouble};
use crate::reader::{Reader, StreamError, StreamProblem};
use crate::sparse::Segment;

/// So much is written before the disk is asked to take it: what is waited for at the end is on its way.
const BEHIND: u64 = 8 << 20;

/// Writes what comes to an empty file.
pub(super) fn fill<R: Read>(
    file: &File,
    bytes: u64,
    segments: &[Segment],
    reader: &mut Reader<R>,
) -> Result<(), Trouble> {
    let is_whole = matches!(segments, [Segment { offset: 0, bytes: all }] if *all == bytes);
    if !is_whole {
        // All that is not written is a hole; a file system that has no files of this size says so.
        file.set_len(bytes).map_err(|source| trouble(source, Problem::Make))?;
    }
    let mut segments = segments.iter().filter(|segment| segment.bytes > 0);
    let (mut at, mut left, mut asked) = (0, 0, 0);
    loop {
        let mut chunk = reader.chunk()?;
        if chunk.is_empty() {
            return Ok(());
        }
        while !chunk.is_empty() {
            if left == 0 {
                let next = segments.next();
                // The reader has compared them with the bytes that there are.
                let broken = StreamError::Broken { entry: Vec::new(), problem: StreamProblem::Truncated };
                Segment { offset: at, bytes: left } = *next.ok_or(broken)?;
            }
            let part = usize::try_from(left).unwrap_or(chunk.len()).min(chunk.len());
            file.write_all_at(&chunk[..part], at).map_err(|source| trouble(source, Problem::Make))?;
            (at, left) = (at + part as u64, left - part as u64);
            chunk = &chunk[part..];
            if let Some(behind) = NonZero::new(at - asked).filter(|bytes| bytes.get() >= BEHIND) {
                // Linux begins to write what it is told of (fadvise64 in mm/fadvise.c); what it has not written stays in
                // memory. Without it the end takes longer.
                let _ = fadvise(file, asked, Some(behind), Advice::DontNeed);
                asked = at;
            }
        }
    }
}
