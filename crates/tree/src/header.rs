//! A header's fields: POSIX ustar, and GNU's. Who reads numbers by other rules takes the bytes of a [`field`].

use std::ops::Range;

use crate::record::{BLOCK_LEN, checksum, octal};

/// What a name's field holds.
pub const NAME_FIELD: usize = 100;
/// Largest number of an octal field of eight bytes, with its end.
pub const ID_MAX: u64 = 0o7_777_777;
/// Largest number of an octal field of twelve bytes, with its end.
pub const SIZE_MAX: u64 = 0o77_777_777_777;

/// A header: its bytes, whatever they are.
#[derive(Debug, Clone, Copy)]
pub struct Header(pub [u8; BLOCK_LEN]);

/// Where the fields of a header are.
pub mod field {
    #![expect(missing_docs, reason = "POSIX.1-2017, pax, \"ustar Interchange Format\", has their names")]
    use std::ops::Range;

    pub const NAME: Range<usize> = 0..100;
    pub const MODE: Range<usize> = 100..108;
    pub const UID: Range<usize> = 108..116;
    pub const GID: Range<usize> = 116..124;
    pub const SIZE: Range<usize> = 124..136;
    pub const MTIME: Range<usize> = 136..148;
    pub const CHECKSUM: Range<usize> = 148..156;
    pub const KIND: usize = 156;
    pub const TARGET: Range<usize> = 157..257;
    /// With the version behind it.
    pub const MAGIC: Range<usize> = 257..265;
    pub const MAJOR: Range<usize> = 329..337;
    pub const MINOR: Range<usize> = 337..345;
    pub const PREFIX: Range<usize> = 345..500;
    /// Of an old sparse file (kind `S`): the beginning of its map,
    pub const OLD_MAP: Range<usize> = 386..482;
    /// whether that goes on,
    pub const OLD_MAP_GOES_ON: usize = 482;
    /// and the file's bytes.
    pub const OLD_BYTES: Range<usize> = 483..495;
}

/// The magic and the version of a POSIX header.
pub const POSIX: &[u8] = b"ustar\x0000";

/// The number of a field: octal, or as GNU has larger and negative ones, binary behind a set first bit.
pub fn number(field: &[u8]) -> Option<i64> {
    let Some((first, rest)) = field.split_first().filter(|(first, _)| *first & 0x80 != 0) else {
        return i64::try_from(octal(field)?).ok();
    };
    let is_negative = *first == 0xff;
    if !is_negative && *first != 0x80 {
        return None;
    }
    let begin: i128 = if is_negative { -1 } else { 0 };
    let value = rest.iter().try_fold(begin, |sum, byte| {
        sum.checked_mul(256).map(|sum| sum | i128::from(*byte)).filter(|sum| sum.unsigned_abs() < 1 << 100)
    });
    i64::try_from(value?).ok()
}

/// The same, without a sign.
pub fn unsigned(field: &[u8]) -> Option<u64> {
    number(field).and_then(|value| u64::try_from(value).ok())
}

/// The text of a field, up to its end.
pub fn text(field: &[u8]) -> &[u8] {
    field.split(|byte| *byte == 0).next().unwrap_or_default()
}

impl Header {
    /// A POSIX header with nothing in it.
    pub fn new(kind: u8) -> Self {
        let mut header = Self([0; BLOCK_LEN]);
        header.0[field::MAGIC].copy_from_slice(POSIX);
        header.0[field::KIND] = kind;
        for numbers in [field::MODE, field::UID, field::GID, field::SIZE, field::MTIME, field::MAJOR, field::MINOR] {
            header.put(numbers, 0);
        }
        header
    }

    /// An octal number, which fits.
    fn put(&mut self, place: Range<usize>, value: u64) {
        let width = place.len() - 1;
        let digits = format!("{value:0width$o}");
        self.0[place][..width].copy_from_slice(&digits.as_bytes()[digits.len() - width..]);
    }

    fn put_text(&mut self, place: Range<usize>, value: &[u8]) {
        let part = &value[..value.len().min(place.len())];
        self.0[place][..part.len()].copy_from_slice(part);
    }

    /// A name, cut where it does not fit.
    pub fn set_name(&mut self, name: &[u8]) {
        self.put_text(field::NAME, name);
    }

    /// A link's target, cut where it does not fit.
    pub fn set_target(&mut self, target: &[u8]) {
        self.put_text(field::TARGET, target);
    }

    /// Twelve bits of permissions.
    pub fn set_mode(&mut self, mode: u32) {
        self.put(field::MODE, mode.into());
    }

    /// Both at most [`ID_MAX`].
    pub fn set_owner(&mut self, uid: u64, gid: u64) {
        self.put(field::UID, uid);
        self.put(field::GID, gid);
    }

    /// At most [`SIZE_MAX`].
    pub fn set_size(&mut self, bytes: u64) {
        self.put(field::SIZE, bytes);
    }

    /// At most [`SIZE_MAX`].
    pub fn set_mtime(&mut self, seconds: u64) {
        self.put(field::MTIME, seconds);
    }

    /// Both at most [`ID_MAX`].
    pub fn set_device(&mut self, major: u32, minor: u32) {
        self.put(field::MAJOR, major.into());
        self.put(field::MINOR, minor.into());
    }

    /// Its bytes, with their checksum.
    pub fn finish(mut self) -> [u8; BLOCK_LEN] {
        let sum = format!("{:06o}\0 ", checksum(&self.0));
        self.0[field::CHECKSUM].copy_from_slice(sum.as_bytes());
        self.0
    }

    /// What kind of entry it is of.
    pub fn kind(&self) -> u8 {
        self.0[field::KIND]
    }

    /// Whether it is of GNU's own format, which has other things where POSIX has the beginning of a long name.
    fn is_gnu(&self) -> bool {
        self.0[field::MAGIC].starts_with(b"ustar ")
    }

    /// Its name, with the beginning that POSIX has elsewhere.
    pub fn name(&self) -> Vec<u8> {
        let (name, prefix) = (text(&self.0[field::NAME]), text(&self.0[field::PREFIX]));
        let has_prefix = self.0[field::MAGIC].starts_with(b"ustar") && !self.is_gnu() && !prefix.is_empty();
        if has_prefix { [prefix, b"/", name].concat() } else { name.to_owned() }
    }

    /// Where a link leads; empty for none.
    pub fn target(&self) -> &[u8] {
        text(&self.0[field::TARGET])
    }

    /// Permissions, and perhaps more; `None` where it is no number, as below.
    pub fn mode(&self) -> Option<i64> {
        number(&self.0[field::MODE])
    }

    /// Owner.
    pub fn uid(&self) -> Option<i64> {
        number(&self.0[field::UID])
    }

    /// Group.
    pub fn gid(&self) -> Option<i64> {
        number(&self.0[field::GID])
    }

    /// Bytes that follow it.
    pub fn size(&self) -> Option<u64> {
        unsigned(&self.0[field::SIZE])
    }

    /// When it was changed: seconds since 1970.
    pub fn mtime(&self) -> Option<i64> {
        number(&self.0[field::MTIME])
    }

    /// Major and minor number.
    pub fn device(&self) -> Option<(u32, u32)> {
        let part = |field: &[u8]| number(field).and_then(|part| u32::try_from(part).ok());
        Some((part(&self.0[field::MAJOR])?, part(&self.0[field::MINOR])?))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_octal_or_binary() {
        let binary = |first: u8, value: i64| {
            let mut field = vec![first; 12];
            field[4..].copy_from_slice(&value.to_be_bytes());
            field[1..4].fill(if first == 0xff { 0xff } else { 0 });
            field
        };
        for value in [0, 1, 1 << 40, i64::MAX] {
            assert_eq!(number(&binary(0x80, value)), Some(value));
        }
        for value in [-1, -1 << 40, i64::MIN] {
            assert_eq!(number(&binary(0xff, value)), Some(value));
        }
        let mut large = binary(0x80, 0);
        large[2] = 1;
        assert_eq!(number(&large), None);
        assert_eq!(number(&[0x80 | 1; 12]), None);
        assert_eq!(number(&[0xff; 12]), Some(-1));
        assert_eq!(number(b"0000644\0"), Some(0o644));
        assert_eq!(number(b"0000x44\0"), None);
    }

    #[test]
    fn a_header_is_read_as_it_is_written() {
        let mut header = Header::new(b'3');
        header.set_name(&[b'n'; 120]);
        header.set_target(b"target");
        header.set_mode(0o7777);
        header.set_owner(ID_MAX, 1);
        header.set_size(SIZE_MAX);
        header.set_mtime(5);
        header.set_device(8, 1);
        let bytes = header.finish();
        assert!(crate::record::has_checksum(&bytes));
        let header = Header(bytes);
        assert_eq!((header.name(), header.target(), header.kind()), (vec![b'n'; 100], &b"target"[..], b'3'));
        assert_eq!((header.uid(), header.gid()), (i64::try_from(ID_MAX).ok(), Some(1)));
        assert_eq!((header.mode(), header.size(), header.mtime()), (Some(0o7777), Some(SIZE_MAX), Some(5)));
        assert_eq!(header.device(), Some((8, 1)));
    }
}
