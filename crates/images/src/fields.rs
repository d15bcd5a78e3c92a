//! What the fields of a tar's header say: as Go's `archive/tar` and the crate `tar` take them, with which nearly all images
//! and layers are written and read. [`Header`]'s own rule, for streams between sandpen's ends, is another one: it takes octal
//! numbers with something behind them, and no binary ones that do not fit.

use sandpen_tree::header::{Header, POSIX, field, text};

/// The magic and the version of GNU's own headers.
const GNU: &[u8] = b"ustar  \0";

/// An octal number, perhaps between spaces.
pub(crate) fn octal(field: &[u8]) -> Option<u64> {
    u64::from_str_radix(std::str::from_utf8(text(field)).ok()?.trim(), 8).ok()
}

/// An octal number, or a binary one behind a set first bit: the last eight bytes, two's complement where it has a sign.
pub(crate) fn number(field: &[u8]) -> Option<u64> {
    if field.first()? & 0x80 == 0 {
        return octal(field);
    }
    let mut binary = *field.last_chunk::<8>()?;
    if field.len() == binary.len() {
        binary[0] ^= 0x80;
    }
    Some(u64::from_be_bytes(binary))
}

/// A number; nothing at all is 0.
pub(crate) fn number_or_nothing(field: &[u8]) -> Option<u64> {
    if is_empty(field) { Some(0) } else { number(field) }
}

/// The same, and octal only.
pub(crate) fn octal_or_nothing(field: &[u8]) -> Option<u64> {
    if is_empty(field) { Some(0) } else { octal(field) }
}

fn is_empty(field: &[u8]) -> bool {
    field.iter().all(|byte| matches!(byte, 0 | b' '))
}

/// Whether a header is GNU's own.
pub(crate) fn is_gnu(header: &Header) -> bool {
    header.0[field::MAGIC] == *GNU
}

fn is_posix(header: &Header) -> bool {
    header.0[field::MAGIC] == *POSIX
}

/// The name. Only POSIX's headers have the beginning of a long one.
pub(crate) fn name(header: &Header) -> Vec<u8> {
    if is_posix(header) { header.name() } else { text(&header.0[field::NAME]).to_owned() }
}

/// Major and minor number; 0 in old headers, which have none.
pub(crate) fn device(header: &Header) -> Option<(u32, u32)> {
    if !is_posix(header) && !is_gnu(header) {
        return Some((0, 0));
    }
    let part = |field: &[u8]| octal(field).and_then(|part| u32::try_from(part).ok());
    Some((part(&header.0[field::MAJOR])?, part(&header.0[field::MINOR])?))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// What is in a field: as writers put it there, and as nobody does.
    fn value() -> impl Strategy<Value = Vec<u8>> {
        let binary = (any::<u64>(), prop::sample::select(vec![0x80_u8, 0xff, 0xc1]), any::<bool>());
        prop_oneof![
            "[ 0-7]{0,12}[\0 ]?".prop_map(String::into_bytes),
            "[ \t+0-9a\0]{0,13}".prop_map(String::into_bytes),
            prop::collection::vec(any::<u8>(), 0..13),
            binary.prop_map(|(value, first, is_long)| {
                let before = if is_long { 4 } else { 1 };
                [&vec![first; before], &value.to_be_bytes()[usize::from(!is_long)..]].concat()
            }),
        ]
    }

    proptest! {
        #![proptest_config(ProptestConfig { cases: 2000, ..ProptestConfig::default() })]

        /// Whatever a header holds.
        #[test]
        fn fields_are_read_as_the_crate_tar_reads_them(
            values in prop::collection::vec(value(), 10),
            texts in prop::collection::vec("[a/\\\\\0]{0,20}", 3),
            magic in prop::sample::select(vec![POSIX, GNU, b"ustar\0\0\0", b"ustar 00", b"\0\0\0\0\0\0\0\0"]),
        ) {
            let mut header = Header([0; 512]);
            let numbers = [field::MODE, field::UID, field::GID, field::SIZE, field::MTIME, field::MAJOR, field::MINOR];
            let old_map = [386..398, 398..410, field::OLD_BYTES];
            // GNU has other things where POSIX has the beginning of a long name.
            let is_gnu = magic == GNU;
            let names = [field::NAME, field::TARGET].into_iter().chain((!is_gnu).then_some(field::PREFIX));
            let places = names.zip(texts.into_iter().map(String::into_bytes));
            let numbers = numbers.into_iter().chain(old_map.into_iter().filter(|_| is_gnu)).zip(values);
            for (place, value) in places.chain(numbers) {
                let length = value.len().min(place.len());
                header.0[place][..length].copy_from_slice(&value[..length]);
            }
            header.0[field::MAGIC].copy_from_slice(magic);

            let theirs = tar::Header::from_byte_slice(&header.0);
            prop_assert_eq!(name(&header), theirs.path_bytes().into_owned());
            prop_assert_eq!(header.target().to_owned(), theirs.link_name_bytes().unwrap_or_default().into_owned());
            prop_assert_eq!(number(&header.0[field::SIZE]), theirs.entry_size().ok());
            prop_assert_eq!(number(&header.0[field::UID]), theirs.uid().ok());
            prop_assert_eq!(number(&header.0[field::GID]), theirs.gid().ok());
            prop_assert_eq!(number(&header.0[field::MTIME]), theirs.mtime().ok());
            prop_assert_eq!(octal(&header.0[field::MODE]), theirs.mode().ok().map(u64::from));
            let parts = (theirs.device_major(), theirs.device_minor());
            let theirs_device = match parts {
                (Ok(major), Ok(minor)) => Some((major.unwrap_or(0), minor.unwrap_or(0))),
                _ => None,
            };
            prop_assert_eq!(device(&header), theirs_device);
            prop_assert_eq!(super::is_gnu(&header), theirs.as_gnu().is_some());
            if let Some(gnu) = theirs.as_gnu() {
                prop_assert_eq!(number(&header.0[field::OLD_BYTES]), gnu.real_size().ok());
                prop_assert_eq!(number(&header.0[386..398]), gnu.sparse[0].offset().ok());
                prop_assert_eq!(number(&header.0[398..410]), gnu.sparse[0].length().ok());
            }
        }
    }
}
