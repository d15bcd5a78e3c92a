//! What readers and writers of tars have in common: the checksum of a header, and the records of a pax header
//! (POSIX.1-2017, pax, "pax Extended Header"): `LENGTH KEY=VALUE\n`, with the length of all of it.

use std::fmt::Write as _;

/// Bytes of a header, of which everything is a multiple.
pub const BLOCK: u64 = BLOCK_LEN as u64;
/// The same as a length.
pub const BLOCK_LEN: usize = 512;

/// Most digits of a record's length.
const DIGITS_MAX: usize = 19;

/// Whether a header has the checksum that it states.
pub fn has_checksum(header: &[u8; BLOCK_LEN]) -> bool {
    let stated = octal(&header[148..156]);
    stated == Some(checksum(header).into())
}

/// The sum of a header's bytes, as if the checksum itself (bytes 148 to 155) were spaces.
pub fn checksum(header: &[u8; BLOCK_LEN]) -> u32 {
    let sum = |bytes: &[u8]| bytes.iter().map(|byte| u32::from(*byte)).sum::<u32>();
    sum(&header[..148]) + 8 * u32::from(b' ') + sum(&header[156..])
}

/// An octal number, with spaces before it and a space or NUL behind it; an empty field is 0.
pub fn octal(field: &[u8]) -> Option<u64> {
    let begin = field.iter().position(|byte| *byte != b' ').unwrap_or(field.len());
    let digits = &field[begin..];
    let end = digits.iter().position(|byte| matches!(byte, b' ' | 0)).unwrap_or(digits.len());
    digits[..end].iter().try_fold(0_u64, |sum, digit| match digit {
        b'0'..=b'7' => sum.checked_mul(8)?.checked_add(u64::from(digit - b'0')),
        _ => None,
    })
}

/// Why there is no first record.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RecordProblem {
    /// Its length is none, or another than it has.
    Length,
    /// It has no `=`.
    Key,
}

/// A record, and the text behind it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Record<'a> {
    /// What it says something of.
    pub key: &'a [u8],
    /// What it says.
    pub value: &'a [u8],
    /// The records behind it.
    pub rest: &'a [u8],
}

/// The first record of a text.
///
/// # Errors
/// [`RecordProblem`].
pub fn first_record(text: &[u8]) -> Result<Record<'_>, RecordProblem> {
    let space = text.iter().take(DIGITS_MAX + 1).position(|byte| *byte == b' ').ok_or(RecordProblem::Length)?;
    let length = decimal(&text[..space]).and_then(|length| usize::try_from(length).ok());
    let length = length.filter(|length| *length > space + 1).ok_or(RecordProblem::Length)?;
    let (record, rest) = text.split_at_checked(length).ok_or(RecordProblem::Length)?;
    let record = record[space + 1..].strip_suffix(b"\n").ok_or(RecordProblem::Length)?;
    let equals = record.iter().position(|byte| *byte == b'=').ok_or(RecordProblem::Key)?;
    Ok(Record { key: &record[..equals], value: &record[equals + 1..], rest })
}

/// Puts a record behind others.
pub fn push_record(to: &mut Vec<u8>, key: &[u8], value: &[u8]) {
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
pub fn decimal(text: &[u8]) -> Option<u64> {
    if text.is_empty() || !text.iter().all(u8::is_ascii_digit) {
        return None;
    }
    std::str::from_utf8(text).ok()?.parse().ok()
}

/// The text of a time with its fraction, before 1970 with a sign; `nanos` are at most 999,999,999 and count forward.
pub fn write_moment(seconds: i64, nanos: u32) -> String {
    let total = i128::from(seconds) * 1_000_000_000 + i128::from(nanos);
    let mut text = String::new();
    let (whole, rest) = (total.unsigned_abs() / 1_000_000_000, total.unsigned_abs() % 1_000_000_000);
    let sign = if total < 0 { "-" } else { "" };
    let _ = write!(text, "{sign}{whole}.{rest:09}"); // a String takes everything
    text
}

/// The other way round; digits beyond the nanosecond are passed over.
pub fn read_moment(text: &[u8]) -> Option<(i64, u32)> {
    let (is_negative, text) = text.strip_prefix(b"-").map_or((false, text), |text| (true, text));
    let (seconds, fraction) = match text.iter().position(|byte| *byte == b'.') {
        Some(point) => (&text[..point], &text[point + 1..]),
        None => (text, &[][..]),
    };
    let seconds = i64::try_from(decimal(seconds)?).ok()?;
    if !fraction.iter().all(u8::is_ascii_digit) {
        return None;
    }
    let nanos = fraction.iter().chain(std::iter::repeat(&b'0')).take(9);
    let nanos = nanos.fold(0, |sum: u32, digit| sum * 10 + u32::from(*digit - b'0'));
    Some(match (is_negative, nanos) {
        (false, _) => (seconds, nanos),
        (true, 0) => (-seconds, 0),
        // Nanoseconds count forward.
        (true, _) => (-seconds - 1, 1_000_000_000 - nanos),
    })
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

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

    #[test]
    fn octal_fields_have_ends_of_all_kinds() {
        for (field, value) in [
            (&b"0000644\0"[..], Some(0o644)),
            (b"   644 \0", Some(0o644)),
            (b"\0\0\0", Some(0)),
            (b"   ", Some(0)),
            (b"777", Some(0o777)),
            (b"8", None),
            (b"-1", None),
            (b"7777777777777777777777777777", None),
        ] {
            assert_eq!(octal(field), value, "{field:?}");
        }
    }

    #[test]
    fn moments_have_as_many_digits_as_are_of_use() {
        assert_eq!(read_moment(b"12.0000000019"), Some((12, 1)));
        assert_eq!(read_moment(b"-1.5"), Some((-2, 500_000_000)));
        for text in ["", "-", ".5", "1.x", "--1", "1e5", "9223372036854775808"] {
            assert_eq!(read_moment(text.as_bytes()), None, "{text}");
        }
    }

    proptest! {
        #[test]
        fn moments_are_read_as_they_are_written(seconds in any::<i64>(), nanos in 0_u32..1_000_000_000) {
            let text = write_moment(seconds, nanos);
            // The very first second has no text of its own: its whole seconds are more than there are.
            prop_assume!(seconds > i64::MIN + 1);
            prop_assert_eq!(read_moment(text.as_bytes()), Some((seconds, nanos)), "{}", text);
        }
    }
}
