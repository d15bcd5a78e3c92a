//! Files of a sandbox: lists of them, and what happens to them.

use sandpen::api::file::{FileEntry, FileEvent, FileKind};
use sandpen_types::spec::ByteString;
use sandpen_types::visible::visible;

use super::{CliError, aligned, bytes, line};

/// Files as a table.
pub fn files(entries: &[FileEntry]) -> Result<u8, CliError> {
    let heading = ["MODE", "OWNER", "SIZE", "MODIFIED", "NAME"].map(str::to_owned);
    let rows = entries.iter().map(|entry| {
        let target = entry.target.as_ref().map_or_else(String::new, |target| format!(" -> {}", shown(target)));
        [
            bits(entry.kind, entry.mode),
            format!("{}:{}", entry.uid, entry.gid),
            entry.size.to_string(),
            entry.modified.format("%Y-%m-%d %H:%M:%S").to_string(),
            format!("{}{target}", shown(&entry.name)),
        ]
    });
    bytes(aligned(std::iter::once(heading).chain(rows)).as_bytes())
}

/// An event in one line; false when nobody reads any more.
pub fn file_event(event: &FileEvent, as_json: bool) -> Result<bool, CliError> {
    line(event, as_json, |event| match event {
        FileEvent::Watching {} => "watching".to_owned(),
        FileEvent::Created { path, directory } => format!("created    {}", named(path, *directory)),
        FileEvent::Modified { path } => format!("modified   {}", shown(path)),
        FileEvent::Closed { path } => format!("closed     {}", shown(path)),
        FileEvent::Attributes { path, directory } => format!("attributes {}", named(path, *directory)),
        FileEvent::Removed { path, directory } => format!("removed    {}", named(path, *directory)),
        FileEvent::Renamed { from, to, directory } => {
            format!("renamed    {} -> {}", named(from, *directory), named(to, *directory))
        }
        FileEvent::Overflow {} => "overflow   more happened than could be told".to_owned(),
    })
}

/// A name that cannot speak to the terminal, in one line.
fn shown(name: &ByteString) -> String {
    visible(&name.as_os_str().to_string_lossy()).replace('\n', "\\n")
}

fn named(path: &ByteString, directory: bool) -> String {
    if directory { format!("{}/", shown(path)) } else { shown(path) }
}

/// As ls(1) has them.
fn bits(kind: FileKind, mode: u32) -> String {
    let first = match kind {
        FileKind::File => '-',
        FileKind::Directory => 'd',
        FileKind::Symlink => 'l',
        FileKind::Fifo => 'p',
        FileKind::Socket => 's',
        FileKind::CharDevice => 'c',
        FileKind::BlockDevice => 'b',
        FileKind::Unknown => '?',
    };
    let mut shown = String::from(first);
    // Each set of three has one of the bits above it, in the place of its last one.
    for (shift, special, letter) in [(6, 0o4000, 's'), (3, 0o2000, 's'), (0, 0o1000, 't')] {
        let of = mode >> shift;
        shown.push(if of & 4 != 0 { 'r' } else { '-' });
        shown.push(if of & 2 != 0 { 'w' } else { '-' });
        shown.push(match (mode & special != 0, of & 1 != 0) {
            (false, false) => '-',
            (false, true) => 'x',
            (true, true) => letter,
            (true, false) => letter.to_ascii_uppercase(),
        });
    }
    shown
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bits_are_letters() {
        assert_eq!(bits(FileKind::File, 0o644), "-rw-r--r--");
        assert_eq!(bits(FileKind::Directory, 0o1777), "drwxrwxrwt");
        assert_eq!(bits(FileKind::File, 0o6751), "-rwsr-s--x");
        assert_eq!(bits(FileKind::Symlink, 0o7000), "l--S--S--T");
    }

    #[test]
    fn a_name_is_one_line_and_does_not_speak_to_the_terminal() {
        let name = ByteString::from(<std::ffi::OsString as std::os::unix::ffi::OsStringExt>::from_vec(
            b"a\n\x1b[2J\xff".to_vec(),
        ));
        let shown = shown(&name);
        assert!(!shown.contains('\n') && !shown.contains('\x1b'), "{shown:?}");
    }
}
