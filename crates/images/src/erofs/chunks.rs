//! Files with holes, which have a map: for each chunk the block where it is, or that it is a hole. Chunks are as large as
//! where contents begin and end allows, so that a large hole takes little room.

use crate::layer::BLOCK;
use crate::layer::blob::{Run, UNIT};

/// `EROFS_NULL_ADDR`: a hole.
const HOLE: u32 = u32::MAX;
/// Logarithm of the most units of a chunk: 2 GiB, which no reader shifts out of 32 bits.
const LOG_MAX: u32 = 15;

/// The chunks of a file.
#[derive(Debug, Clone, Copy)]
pub(super) struct Chunks<'a> {
    runs: &'a [Run],
    units: u64,
    /// Logarithm of a chunk's units.
    log: u32,
}

impl<'a> Chunks<'a> {
    /// Those of a file of so many bytes; `None` if it needs no map, since it lies in one piece.
    pub(super) fn of(bytes: u64, runs: &'a [Run]) -> Option<Self> {
        let units = bytes.div_ceil(UNIT);
        let is_whole = match runs {
            [] => bytes == 0,
            [run] => run.unit == 0 && u64::from(run.count) == units,
            _ => false,
        };
        if is_whole {
            return None;
        }
        // Whatever divides all places where contents begin or end.
        let places = runs.iter().fold(0, |places, run| {
            let end = u64::from(run.unit) + u64::from(run.count);
            places | u64::from(run.unit) | if end < units { end } else { 0 }
        });
        let log =
            places.trailing_zeros().min(LOG_MAX).min(units.checked_next_power_of_two().map_or(LOG_MAX, u64::ilog2));
        Some(Self { runs, units, log })
    }

    /// The form of the map, for the inode: plain block numbers, and the logarithm of a chunk's blocks
    /// (`erofs_inode_chunk_info`).
    pub(super) fn format(&self) -> u32 {
        (UNIT / BLOCK).ilog2() + self.log
    }

    fn count(&self) -> u64 {
        self.units.div_ceil(1 << self.log)
    }

    pub(super) fn map_bytes(&self) -> u64 {
        self.count().saturating_mul(4)
    }

    /// The map, of a blob that begins at this block.
    pub(super) fn map(&self, start: u32) -> Vec<u8> {
        let blocks_of_unit = u32::try_from(UNIT / BLOCK).unwrap_or(1);
        let mut runs = self.runs.iter().copied().peekable();
        let mut map = Vec::new();
        for chunk in 0..self.count() {
            let unit = chunk << self.log;
            while runs.next_if(|run| u64::from(run.unit) + u64::from(run.count) <= unit).is_some() {}
            let place = match runs.peek() {
                Some(run) if u64::from(run.unit) <= unit => {
                    let step = u32::try_from(unit - u64::from(run.unit)).unwrap_or(u32::MAX);
                    start.saturating_add(run.block).saturating_add(step.saturating_mul(blocks_of_unit))
                }
                _ => HOLE,
            };
            map.extend_from_slice(&place.to_le_bytes());
        }
        map
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn run(unit: u32, count: u32, block: u32) -> Run {
        Run { unit, count, block }
    }

    fn map(units: u64, runs: &[Run]) -> Option<(u32, Vec<u32>)> {
        let chunks = Chunks::of(units * UNIT - 1, runs)?;
        let map = chunks.map(100);
        assert_eq!(map.len() as u64, chunks.map_bytes());
        let (places, _) = map.as_chunks::<4>();
        Some((chunks.log, places.iter().map(|place| u32::from_le_bytes(*place)).collect()))
    }

    #[test]
    fn chunks_are_as_large_as_contents_allow() {
        assert_eq!(map(3, &[run(0, 3, 7)]), None);
        assert!(Chunks::of(0, &[]).is_none());
        assert_eq!(map(1, &[]), Some((0, vec![HOLE])));
        assert_eq!(map(1000, &[]), Some((10, vec![HOLE])));
        assert_eq!(map(1 << 20, &[]).unwrap().1.len(), 32, "64 GiB");
        assert_eq!(map(20, &[run(8, 4, 0)]), Some((2, vec![HOLE, HOLE, 100, HOLE, HOLE])));
        // The end of the file may be anywhere.
        assert_eq!(map(23, &[run(8, 15, 5)]), Some((3, vec![HOLE, 105, 105 + 8 * 16])));
        // Contents that lie apart in the blob are two of a chunk.
        assert_eq!(map(8, &[run(0, 4, 0), run(4, 4, 500)]), Some((2, vec![100, 600])));
        assert_eq!(map(4, &[run(0, 1, 0), run(2, 1, 30)]), Some((0, vec![100, HOLE, 130, HOLE])));
    }
}
