//! The text of a pax header: [`record`](crate::record)s, with the keys of GNU tar's sparse files and star's extended attributes.

use crate::record::{Record, RecordProblem, decimal, first_record, read_moment};
use crate::sparse::PaxSparse;

/// What the keys of extended attributes begin with.
const XATTR: &[u8] = b"SCHILY.xattr.";

/// The key of an extended attribute. A key ends at `=`, for which GNU tar writes `%3D`, and `%25` for `%`.
pub fn xattr_key(name: &[u8]) -> Vec<u8> {
    let mut key = XATTR.to_vec();
    for byte in name {
        match byte {
            b'%' => key.extend(b"%25"),
            b'=' => key.extend(b"%3D"),
            other => key.push(*other),
        }
    }
    key
}

/// The name in such a key. Others write names as they are: no other `%` means anything.
fn xattr_name(mut written: &[u8]) -> Vec<u8> {
    let mut name = Vec::with_capacity(written.len());
    while let Some((first, rest)) = written.split_first() {
        let (byte, rest) = match rest {
            [b'2', b'5', rest @ ..] if *first == b'%' => (b'%', rest),
            [b'3', b'D', rest @ ..] if *first == b'%' => (b'=', rest),
            rest => (*first, rest),
        };
        name.push(byte);
        written = rest;
    }
    name
}

/// What is wrong with the text.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[allow(missing_docs)] // each says it itself
pub enum PaxProblem {
    #[error("a record says another length than it has")]
    Length,
    #[error("a record has no key")]
    Key,
    #[error("the value of a number is none")]
    Number,
    #[error("the name of an extended attribute has no or more than 255 bytes, or a NUL byte")]
    XattrName,
    #[error("a path has a NUL byte")]
    Nul,
}

/// What a pax header says.
#[derive(Debug, Default)]
pub struct Pax {
    /// The name of the entry; without a NUL, and not empty.
    pub path: Option<Vec<u8>>,
    /// Where its link leads; without a NUL, and not empty.
    pub target: Option<Vec<u8>>,
    /// Bytes that follow its header.
    pub bytes: Option<u64>,
    /// Owner.
    pub uid: Option<u64>,
    /// Group.
    pub gid: Option<u64>,
    /// Seconds since 1970, and nanoseconds, which count forward.
    pub mtime: Option<(i64, u32)>,
    /// Names and values; each name once, of 1 to 255 bytes.
    pub xattrs: Vec<(Vec<u8>, Vec<u8>)>,
    /// Of a sparse file.
    pub sparse: PaxSparse,
}

impl Pax {
    /// Reads all records. Of a key that comes twice the last one counts; unknown ones say nothing.
    ///
    /// # Errors
    /// [`PaxProblem`].
    pub fn parse(mut text: &[u8]) -> Result<Self, PaxProblem> {
        let mut pax = Self::default();
        while !text.is_empty() {
            // What some writers pad with.
            if text.iter().all(|byte| *byte == 0) {
                break;
            }
            let Record { key, value, rest } = first_record(text).map_err(|problem| match problem {
                RecordProblem::Length => PaxProblem::Length,
                RecordProblem::Key => PaxProblem::Key,
            })?;
            pax.record(key, value)?;
            text = rest;
        }
        Ok(pax)
    }

    fn record(&mut self, key: &[u8], value: &[u8]) -> Result<(), PaxProblem> {
        let count = || decimal(value).ok_or(PaxProblem::Number);
        let path = || if value.contains(&0) { Err(PaxProblem::Nul) } else { Ok(value.to_owned()) };
        match key {
            b"" => return Err(PaxProblem::Key),
            // An empty value takes back what was said before.
            b"path" => self.path = Some(path()?).filter(|path| !path.is_empty()),
            b"linkpath" => self.target = Some(path()?).filter(|path| !path.is_empty()),
            b"size" => self.bytes = Some(count()?),
            b"uid" => self.uid = Some(count()?),
            b"gid" => self.gid = Some(count()?),
            b"mtime" => self.mtime = Some(read_moment(value).ok_or(PaxProblem::Number)?),
            b"GNU.sparse.name" => self.sparse.name = Some(path()?),
            b"GNU.sparse.major" => self.sparse.major = Some(count()?),
            b"GNU.sparse.realsize" | b"GNU.sparse.size" => self.sparse.bytes = Some(count()?),
            b"GNU.sparse.numblocks" => self.sparse.count = Some(count()?),
            b"GNU.sparse.offset" | b"GNU.sparse.numbytes" => self.sparse.numbers.push(count()?),
            b"GNU.sparse.map" => {
                let numbers = value.split(|byte| *byte == b',').filter(|part| !part.is_empty()).map(decimal);
                self.sparse.numbers = numbers.collect::<Option<_>>().ok_or(PaxProblem::Number)?;
                self.sparse.has_map = true;
            }
            _ => {
                if let Some(name) = key.strip_prefix(XATTR).map(xattr_name) {
                    if name.is_empty() || name.len() > 255 || name.contains(&0) {
                        return Err(PaxProblem::XattrName);
                    }
                    self.xattrs.retain(|(there, _)| *there != name);
                    self.xattrs.push((name, value.to_owned()));
                }
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::record::push_record;

    fn record(key: &str, value: &[u8]) -> Vec<u8> {
        let mut text = Vec::new();
        push_record(&mut text, key.as_bytes(), value);
        text
    }

    #[test]
    fn records_are_read_whatever_their_values_hold() {
        let value = b"a\nb=c\0d";
        let text = [
            record("path", b"x/y"),
            record("SCHILY.xattr.user.k", value),
            record("SCHILY.xattr.user.k", b"last"),
            record("SCHILY.xattr.security.capability", value),
            record("mtime", b"-1.5"),
            record("uid", b"70000"),
            record("unknown", b""),
        ]
        .concat();
        let pax = Pax::parse(&text).unwrap();
        assert_eq!(pax.path.unwrap(), b"x/y");
        assert_eq!((pax.mtime, pax.uid), (Some((-2, 500_000_000)), Some(70_000)));
        let xattr = |name: &str, value: &[u8]| (name.as_bytes().to_owned(), value.to_owned());
        assert_eq!(pax.xattrs, [xattr("user.k", b"last"), xattr("security.capability", value)]);
    }

    #[test]
    fn names_of_attributes_are_written_as_gnu_tar_does_and_read_however_they_are() {
        for (name, key) in [("user.k", "user.k"), ("user.a=b%c", "user.a%3Db%25c"), ("user.%3D", "user.%253D")] {
            assert_eq!(xattr_key(name.as_bytes()), [XATTR, key.as_bytes()].concat());
            let pax = Pax::parse(&record(&format!("SCHILY.xattr.{key}"), b"v")).unwrap();
            assert_eq!(pax.xattrs, [(name.into(), b"v".to_vec())]);
        }
        // Of a writer that knows nothing of it.
        let pax = Pax::parse(&record("SCHILY.xattr.user.100%.%2e%", b"v")).unwrap();
        assert_eq!(pax.xattrs, [(b"user.100%.%2e%".to_vec(), b"v".to_vec())]);
        let longest = format!("SCHILY.xattr.{}", "%3D".repeat(255));
        assert_eq!(Pax::parse(&record(&longest, b"v")).unwrap().xattrs[0].0, [b'='; 255]);
    }

    #[test]
    fn malformed_text_is_refused() {
        for (text, problem) in [
            (&b"x"[..], PaxProblem::Length),
            (b"99 a=b\n", PaxProblem::Length),
            (b"2 a=b\n", PaxProblem::Length),
            (b"6 a=b\n6 a", PaxProblem::Length),
            (b"6 a=bc", PaxProblem::Length),
            (b"5 ab\n", PaxProblem::Key),
            (b"5 =b\n", PaxProblem::Key),
            (&record("size", b"-1"), PaxProblem::Number),
            (&record("size", b"18446744073709551616"), PaxProblem::Number),
            (&record("mtime", b"1.x"), PaxProblem::Number),
            (&record("path", b"a\0b"), PaxProblem::Nul),
            (&record("SCHILY.xattr.", b"v"), PaxProblem::XattrName),
        ] {
            assert_eq!(Pax::parse(text).err(), Some(problem), "{:?}", String::from_utf8_lossy(text));
        }
    }
}
