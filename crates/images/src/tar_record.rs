//! What readers and writers of tars here have in common: the checksum of a header, and the records of a pax header
//! (POSIX.1-2017, pax, "pax Extended Header"): `LENGTH KEY=VALUE\n`, with the length of all of it.

use tar::Header;

/// Bytes of a header, of which everything is a multiple.
pub(crate) const BLOCK: u64 = BLOCK_LEN as u64;
pub(crate) const BLOCK_LEN: usize = 512;

/// Most digits of a record's length.
const DIGITS_MAX: usize = 19;

/// Whether a header has the checksum that it states: the sum of its bytes, as if the checksum itself (bytes 148 to 155)
/// were spaces.
pub(crate) fn has_checksum(header: &[u8; BLOCK_LEN]) -> bool {
    let sum = |bytes: &[u8]| bytes.iter().map(|byte| u32::from(*byte)).sum::<u32>();
    let expected = sum(&header[..148]) + 8 * u32::from(b' ') + sum(&header[156..]);
    Header::from_byte_slice(header).cksum().is_ok_and(|stated| stated == expected)
}

/// Why there is no first record.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum RecordProblem {
    /// Its length is none, or another than it has.
    Length,
    /// It has no `=`.
    Key,
}

/// A record, and the text behind it.
pub(crate) struct Record<'a> {
    pub(crate) key: &'a [u8],
    pub(crate) value: &'a [u8],
    pub(crate) rest: &'a [u8],
}

/// The first record of a text.
///
/// # Errors
/// [`RecordProblem`].
pub(crate) fn first_record(text: &[u8]) -> Result<Record<'_>, RecordProblem> {
    let space = text.iter().take(DIGITS_MAX + 1).position(|byte| *byte == b' ').ok_or(RecordProblem::Length)?;
    let length = decimal(&text[..space]).and_then(|length| usize::try_from(length).ok());
    let length = length.filter(|length| *length > space + 1).ok_or(RecordProblem::Length)?;
    let (record, rest) = text.split_at_checked(length).ok_or(RecordProblem::Length)?;
    let record = record[space + 1..].strip_suffix(b"\n").ok_or(RecordProblem::Length)?;
    let equals = record.iter().position(|byte| *byte == b'=').ok_or(RecordProblem::Key)?;
    Ok(Record { key: &record[..equals], value: &record[equals + 1..], rest })
}

/// Puts a record behind others.
pub(crate) fn push_record(to: &mut Vec<u8>, key: &[u8], value: &[u8]) {
    let rest = key.len() + value.len() + 3;
    let mut length = rest + 1;
    while length.to_string().len() + rest != length {
        length += 1;
    }
    to.extend_from_slice(format!("{length} ").as_bytes());
    to.extend_from_slice(key);
    to.push(b'=');
    to.extend_from_slice(value);
    to.push(b'\n');
}

/// A decimal number without a sign.
pub(crate) fn decimal(text: &[u8]) -> Option<u64> {
    if text.is_empty() || !text.iter().all(u8::is_ascii_digit) {
        return None;
    }
    std::str::from_utf8(text).ok()?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn records_are_read_as_they_are_written() {
        // Where one digit more makes the length one digit longer, too.
        for bytes in [0, 1, 90, 91, 92, 93, 989, 990, 991, 100_000] {
            let mut text = Vec::new();
            push_record(&mut text, b"key", &vec![b'='; bytes]);
            push_record(&mut text, b"next", b"\n");
            let first = first_record(&text).ok().unwrap();
            assert_eq!((first.key, first.value.len()), (&b"key"[..], bytes));
            let second = first_record(first.rest).ok().unwrap();
            assert_eq!((second.key, second.value, second.rest), (&b"next"[..], &b"\n"[..], &b""[..]));
        }
    }
}
