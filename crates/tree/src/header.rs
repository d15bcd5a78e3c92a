//! A header's fields: POSIX ustar, and GNU's.

use crate::record::{BLOCK_LEN, checksum, octal};

/// What a name's field holds.
pub const NAME_FIELD: usize = 100;
/// Largest numbers of octal fields of eight and twelve bytes, with their ends.
pub const ID_MAX: u64 = 0o7_777_777;
pub const SIZE_MAX: u64 = 0o77_777_777_777;

/// A header.
#[derive(Debug, Clone, Copy)]
pub struct Header(pub [u8; BLOCK_LEN]);

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

fn text(field: &[u8]) -> &[u8] {
    field.split(|byte| *byte == 0).next().unwrap_or_default()
}

impl Header {
    /// A POSIX header with nothing in it.
    pub fn new(kind: u8) -> Self {
        let mut header = [0; BLOCK_LEN];
        header[257..265].copy_from_slice(b"ustar\x0000");
        header[156] = kind;
        let mut header = Self(header);
        for place in [100, 108, 116, 329, 337] {
            header.put(place, 8, 0);
        }
        header.put(124, 12, 0);
        header.put(136, 12, 0);
        header
    }

    /// An octal number, which fits.
    fn put(&mut self, place: usize, length: usize, value: u64) {
        let digits = format!("{value:0width$o}", width = length - 1);
        let digits = &digits.as_bytes()[digits.len() - (length - 1)..];
        self.0[place..place + digits.len()].copy_from_slice(digits);
    }

    fn put_text(&mut self, place: usize, value: &[u8]) {
        let part = &value[..value.len().min(NAME_FIELD)];
        self.0[place..place + part.len()].copy_from_slice(part);
    }

    /// A name, cut where it does not fit.
    pub fn set_name(&mut self, name: &[u8]) {
        self.put_text(0, name);
    }

    /// A link's target, cut where it does not fit.
    pub fn set_target(&mut self, target: &[u8]) {
        self.put_text(157, target);
    }

    pub fn set_mode(&mut self, mode: u32) {
        self.put(100, 8, mode.into());
    }

    /// Both at most [`ID_MAX`].
    pub fn set_owner(&mut self, uid: u64, gid: u64) {
        self.put(108, 8, uid);
        self.put(116, 8, gid);
    }

    /// At most [`SIZE_MAX`].
    pub fn set_size(&mut self, bytes: u64) {
        self.put(124, 12, bytes);
    }

    /// At most [`SIZE_MAX`].
    pub fn set_mtime(&mut self, seconds: u64) {
        self.put(136, 12, seconds);
    }

    /// Both at most [`ID_MAX`].
    pub fn set_device(&mut self, major: u32, minor: u32) {
        self.put(329, 8, major.into());
        self.put(337, 8, minor.into());
    }

    /// Its bytes, with their checksum.
    pub fn finish(mut self) -> [u8; BLOCK_LEN] {
        let sum = format!("{:06o}\0 ", checksum(&self.0));
        self.0[148..156].copy_from_slice(sum.as_bytes());
        self.0
    }

    pub fn kind(&self) -> u8 {
        self.0[156]
    }

    /// Whether it is of GNU's own format, which has other things where POSIX has the beginning of a long name.
    fn is_gnu(&self) -> bool {
        self.0[257..263] == *b"ustar "
    }

    pub fn name(&self) -> Vec<u8> {
        let (name, prefix) = (text(&self.0[..100]), text(&self.0[345..500]));
        let has_prefix = self.0[257..262] == *b"ustar" && !self.is_gnu() && !prefix.is_empty();
        if has_prefix { [prefix, b"/", name].concat() } else { name.to_owned() }
    }

    pub fn target(&self) -> &[u8] {
        text(&self.0[157..257])
    }

    pub fn mode(&self) -> Option<i64> {
        number(&self.0[100..108])
    }

    pub fn uid(&self) -> Option<i64> {
        number(&self.0[108..116])
    }

    pub fn gid(&self) -> Option<i64> {
        number(&self.0[116..124])
    }

    pub fn size(&self) -> Option<u64> {
        number(&self.0[124..136]).and_then(|size| u64::try_from(size).ok())
    }

    pub fn mtime(&self) -> Option<i64> {
        number(&self.0[136..148])
    }

    pub fn device(&self) -> Option<(u32, u32)> {
        let part = |field: &[u8]| number(field).and_then(|part| u32::try_from(part).ok());
        Some((part(&self.0[329..337])?, part(&self.0[337..345])?))
    }

    /// Of an old sparse file (kind `S`): the beginning of its map, whether that goes on, and the file's bytes.
    pub fn sparse(&self) -> (&[u8], bool, Option<u64>) {
        let bytes = number(&self.0[483..495]).and_then(|bytes| u64::try_from(bytes).ok());
        (&self.0[386..482], self.0[482] != 0, bytes)
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
