//! Entries of a workload's environment, as a command line and files say them. Values may be secrets: nothing in
//! here shows one.

use std::ffi::{OsStr, OsString};
use std::fmt;
use std::os::unix::ffi::{OsStrExt as _, OsStringExt as _};

use super::{ByteString, SpecError};

/// Most bytes of a list, comments included: a whole environment has no more.
pub const ENV_LIST_MAX_BYTES: usize = 1 << 20;

/// `NAME=VALUE`, byte for byte. The value may be a secret: `Debug` does not show it, and no error does.
#[derive(Clone, PartialEq, Eq)]
pub struct EnvEntry {
    /// Not empty, without `=`.
    pub name: ByteString,
    /// Anything.
    pub value: ByteString,
}

/// What an option or a line says of one variable.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum EnvItem {
    /// `NAME=VALUE`.
    Entry(EnvEntry),
    /// `NAME`: with the value that whoever starts the sandbox has in the own environment; left out where there is none.
    Inherited(ByteString),
}

/// Why a list of variables is refused: where, and never with a word of it, which may be half a secret.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum EnvListError {
    /// A NUL byte in a line.
    #[error("line {0} holds a NUL byte, which no program can receive")]
    Nul(usize),
    /// Nothing before the `=` of a line.
    #[error("line {0} has no name before its \"=\"")]
    NoName(usize),
    /// A space or a tab in the name.
    #[error("line {0} has a space or a tab before its \"=\"; each line is NAME=VALUE, without `export` or quotes")]
    SpaceInName(usize),
    /// Nothing before the `=` of an entry that ends with NUL.
    #[error("entry {0} has no name before its \"=\"")]
    EntryWithoutName(usize),
}

impl EnvItem {
    /// Reads `NAME=VALUE` or `NAME`.
    ///
    /// # Errors
    /// [`SpecError::Env`].
    pub fn parse(text: &OsStr) -> Result<Self, SpecError> {
        // Without a name the rest may be a secret.
        Self::of_bytes(text.as_bytes())
            .ok_or_else(|| SpecError::Env(if text.is_empty() { "" } else { "=…" }.to_owned()))
    }

    /// `None` without a name.
    fn of_bytes(bytes: &[u8]) -> Option<Self> {
        let owned = |bytes: &[u8]| ByteString::from(OsString::from_vec(bytes.to_vec()));
        match bytes.iter().position(|byte| *byte == b'=') {
            None if !bytes.is_empty() => Some(Self::Inherited(owned(bytes))),
            Some(at) if at > 0 => {
                Some(Self::Entry(EnvEntry { name: owned(&bytes[..at]), value: owned(&bytes[at + 1..]) }))
            }
            _ => None,
        }
    }

    /// Reads the lines of a file, as other tools write them: `NAME=VALUE` or `NAME`. A value is what stands in the line,
    /// quotes included, but for a carriage return at its end. Spaces and tabs before the name, empty lines and
    /// those that begin with `#` count for nothing, nor does a byte order mark.
    ///
    /// # Errors
    /// [`EnvListError`].
    pub fn lines(bytes: &[u8]) -> Result<Vec<Self>, EnvListError> {
        let bytes = bytes.strip_prefix(b"\xef\xbb\xbf").unwrap_or(bytes);
        let mut items = Vec::new();
        for (number, line) in (1..).zip(bytes.split(|byte| *byte == b'\n')) {
            let line = line.strip_suffix(b"\r").unwrap_or(line);
            let is_space = |byte: &u8| matches!(byte, b' ' | b'\t');
            let line = &line[line.iter().position(|byte| !is_space(byte)).unwrap_or(line.len())..];
            if line.contains(&0) {
                return Err(EnvListError::Nul(number));
            }
            if line.is_empty() || line[0] == b'#' {
                continue;
            }
            if line.iter().take_while(|byte| **byte != b'=').any(is_space) {
                return Err(EnvListError::SpaceInName(number));
            }
            items.push(Self::of_bytes(line).ok_or(EnvListError::NoName(number))?);
        }
        Ok(items)
    }

    /// Reads entries that end with NUL, as `env -0` writes them, so that a value may have several lines; nothing is a
    /// comment. Bytes without any NUL are lines.
    ///
    /// # Errors
    /// [`EnvListError`].
    pub fn entries_or_lines(bytes: &[u8]) -> Result<Vec<Self>, EnvListError> {
        if !bytes.contains(&0) {
            return Self::lines(bytes);
        }
        let entries = (1..).zip(bytes.split(|byte| *byte == 0)).filter(|(_, entry)| !entry.is_empty());
        entries.map(|(number, entry)| Self::of_bytes(entry).ok_or(EnvListError::EntryWithoutName(number))).collect()
    }
}

impl fmt::Debug for EnvEntry {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("EnvEntry").field("name", &self.name).finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn entry(name: &str, value: &[u8]) -> EnvItem {
        let value = ByteString::from(OsString::from_vec(value.to_vec()));
        EnvItem::Entry(EnvEntry { name: ByteString::from(name), value })
    }

    fn inherited(name: &str) -> EnvItem {
        EnvItem::Inherited(ByteString::from(name))
    }

    #[test]
    fn what_has_no_name_is_refused_and_no_value_is_shown() {
        let parse = |text: &str| EnvItem::parse(OsStr::new(text));
        for text in ["", "=s3cret", "=", "=A=s3cret"] {
            let error = parse(text).unwrap_err().to_string();
            assert!(error.contains("NAME=VALUE") && !error.contains("s3cret"), "{error}");
        }
        assert_eq!(parse("A").unwrap(), inherited("A"));
        assert!(!format!("{:?}", parse("A=s3cret").unwrap()).contains("s3cret"));
    }

    #[test]
    fn lines_are_read_as_other_tools_write_them() {
        let text = b"\xef\xbb\xbfA=1\r\n\n  # B=2\n\t \n \tC= \"x\" # y\nD\nE=\nF=a=b\xff\n#\nA=3";
        let items = [
            entry("A", b"1"),
            entry("C", b" \"x\" # y"),
            inherited("D"),
            entry("E", b""),
            entry("F", b"a=b\xff"),
            entry("A", b"3"),
        ];
        assert_eq!(EnvItem::lines(text).unwrap(), items);
        assert_eq!(EnvItem::entries_or_lines(text).unwrap(), items);
        for nothing in [&b""[..], b"\n\n", b"\r\n", b"# s3cret"] {
            assert_eq!(EnvItem::lines(nothing).unwrap(), []);
        }
    }

    #[test]
    fn what_no_line_can_be_is_refused_with_its_number_alone() {
        for (text, expected) in [
            (&b"A=1\n=s3cret\n"[..], EnvListError::NoName(2)),
            (b"\n\n  =s3cret", EnvListError::NoName(3)),
            (b"A=s3\0cret", EnvListError::Nul(1)),
            (b"\0", EnvListError::Nul(1)),
            (b"export A=s3cret", EnvListError::SpaceInName(1)),
            (b"A =s3cret", EnvListError::SpaceInName(1)),
            (b"s3cret s3cret", EnvListError::SpaceInName(1)),
        ] {
            let error = EnvItem::lines(text).unwrap_err();
            assert_eq!(error, expected);
            assert!(!format!("{error} {error:?}").contains("s3"), "{error}");
        }
    }

    #[test]
    fn entries_that_end_with_nul_have_lines_in_them() {
        let text = b"A=1\n2\0B\0#C= 3\0\0D d=4\xff\0";
        let items = [entry("A", b"1\n2"), inherited("B"), entry("#C", b" 3"), entry("D d", b"4\xff")];
        assert_eq!(EnvItem::entries_or_lines(text).unwrap(), items);
        assert_eq!(EnvItem::entries_or_lines(b"A=1\0=s3cret"), Err(EnvListError::EntryWithoutName(2)));
    }

    proptest! {
        #[test]
        fn an_entry_is_read_as_it_is_written(name in proptest::collection::vec(any::<u8>(), 1..9), value in proptest::collection::vec(any::<u8>(), 0..20)) {
            prop_assume!(!name.contains(&b'='));
            let text = [&name[..], b"=", &value[..]].concat();
            let Ok(EnvItem::Entry(entry)) = EnvItem::parse(&OsString::from_vec(text)) else { panic!("no entry") };
            prop_assert_eq!((entry.name.as_bytes(), entry.value.as_bytes()), (&name[..], &value[..]));
        }

        #[test]
        fn a_list_is_read_as_it_is_written(
            list in proptest::collection::vec(("[^ \t\n\r\0=#][^ \t\n\r\0=]{0,5}", "[^\0]{0,9}"), 0..6),
        ) {
            let list: Vec<_> = list.into_iter().filter(|(name, _)| !name.starts_with('\u{feff}')).collect();
            let expected: Vec<_> = list.iter().map(|(name, value)| entry(name, value.as_bytes())).collect();
            let text: String = list.iter().map(|(name, value)| format!("{name}={value}\0")).collect();
            prop_assert_eq!(EnvItem::entries_or_lines(text.as_bytes()), Ok(expected.clone()));
            prop_assume!(list.iter().all(|(_, value)| !value.contains(['\n', '\r'])));
            prop_assert_eq!(EnvItem::lines(text.replace('\0', "\n").as_bytes()), Ok(expected));
        }

        #[test]
        fn any_bytes_are_a_list_or_refused(bytes in proptest::collection::vec(any::<u8>(), 0..64)) {
            for read in [EnvItem::lines(&bytes), EnvItem::entries_or_lines(&bytes)].into_iter().flatten() {
                for item in read {
                    let (EnvItem::Entry(EnvEntry { name, .. }) | EnvItem::Inherited(name)) = item;
                    prop_assert!(!name.as_bytes().is_empty() && !name.as_bytes().contains(&b'='));
                }
            }
        }
    }
}
