//! Attributes of files as SFTP has them, and a line of a list. Pure.

use chrono::{DateTime, TimeDelta, Utc};
use sandpen_files::{Change, Entry, FileKind, Stat, Time};

use crate::wire::{Reader, WireError, Writer};

const SIZE: u32 = 1;
const OWNER: u32 = 2;
const MODE: u32 = 4;
const TIMES: u32 = 8;
const EXTENDED: u32 = 1 << 31;
/// Behind this a list shows the year.
const RECENT: TimeDelta = TimeDelta::days(182);

/// What is said of a file; what is `None` is not.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Attributes {
    pub(super) size: Option<u64>,
    /// User and group.
    pub(super) owner: Option<(u32, u32)>,
    /// What it is, and its permission bits.
    pub(super) mode: Option<u32>,
    /// Read and changed last, in seconds since 1970.
    pub(super) times: Option<(u32, u32)>,
}

impl Attributes {
    pub(super) fn read(reader: &mut Reader<'_>) -> Result<Self, WireError> {
        let flags = reader.u32()?;
        let has = |bit: u32| flags & bit != 0;
        let mut attributes = Self::default();
        if has(SIZE) {
            attributes.size = Some(reader.u64()?);
        }
        if has(OWNER) {
            attributes.owner = Some((reader.u32()?, reader.u32()?));
        }
        if has(MODE) {
            attributes.mode = Some(reader.u32()?);
        }
        if has(TIMES) {
            attributes.times = Some((reader.u32()?, reader.u32()?));
        }
        if has(EXTENDED) {
            for _ in 0..reader.u32()? {
                reader.bytes()?;
                reader.bytes()?;
            }
        }
        Ok(attributes)
    }

    pub(super) fn write(&self, writer: Writer) -> Writer {
        let flag = |is_there: bool, bit: u32| if is_there { bit } else { 0 };
        let flags = flag(self.size.is_some(), SIZE)
            | flag(self.owner.is_some(), OWNER)
            | flag(self.mode.is_some(), MODE)
            | flag(self.times.is_some(), TIMES);
        let mut writer = writer.u32(flags);
        if let Some(size) = self.size {
            writer = writer.u64(size);
        }
        let pairs = [self.owner, self.mode.map(|mode| (mode, 0)), self.times];
        for (index, pair) in pairs.into_iter().enumerate() {
            if let Some((first, second)) = pair {
                writer = writer.u32(first);
                writer = if index == 1 { writer } else { writer.u32(second) };
            }
        }
        writer
    }

    /// What is to be changed.
    pub(super) fn change(&self) -> Change {
        let time = |seconds: u32| Time { seconds: seconds.into(), nanos: 0 };
        Change {
            size: self.size,
            mode: self.permissions(),
            uid: self.owner.map(|(uid, _)| uid),
            gid: self.owner.map(|(_, gid)| gid),
            accessed: self.times.map(|(accessed, _)| time(accessed)),
            modified: self.times.map(|(_, modified)| time(modified)),
        }
    }

    /// Permission bits.
    pub(super) fn permissions(&self) -> Option<u32> {
        self.mode.map(|mode| mode & 0o7777)
    }
}

impl From<&Stat> for Attributes {
    fn from(stat: &Stat) -> Self {
        let seconds = |time: Time| u32::try_from(time.seconds.max(0)).unwrap_or(u32::MAX);
        Self {
            size: Some(stat.size),
            owner: Some((stat.uid, stat.gid)),
            mode: Some(kind(stat.kind).1 | stat.mode),
            times: Some((seconds(stat.accessed), seconds(stat.modified))),
        }
    }
}

/// As a list shows it, and as the system has it.
fn kind(kind: FileKind) -> (char, u32) {
    match kind {
        FileKind::File => ('-', 0o100_000),
        FileKind::Directory => ('d', 0o040_000),
        FileKind::Symlink => ('l', 0o120_000),
        FileKind::Fifo => ('p', 0o010_000),
        FileKind::Socket => ('s', 0o140_000),
        FileKind::CharDevice => ('c', 0o020_000),
        FileKind::BlockDevice => ('b', 0o060_000),
        FileKind::Unknown => ('?', 0),
    }
}

/// A line as of `ls -l`, with numbers for users.
pub(super) fn line(entry: &Entry, now: DateTime<Utc>) -> Vec<u8> {
    let Entry { name, stat, .. } = entry;
    let bit = |shift: u32, letter: char| if stat.mode >> shift & 1 == 1 { letter } else { '-' };
    let special = |set: u32, run: u32, letter: char| match (stat.mode >> set & 1 == 1, stat.mode >> run & 1 == 1) {
        (true, true) => letter,
        (true, false) => letter.to_ascii_uppercase(),
        (false, _) => bit(run, 'x'),
    };
    let mode: String = [
        kind(stat.kind).0,
        bit(8, 'r'),
        bit(7, 'w'),
        special(11, 6, 's'),
        bit(5, 'r'),
        bit(4, 'w'),
        special(10, 3, 's'),
        bit(2, 'r'),
        bit(1, 'w'),
        special(9, 0, 't'),
    ]
    .iter()
    .collect();
    let modified = DateTime::from_timestamp(stat.modified.seconds, 0).unwrap_or_default();
    let age = now.signed_duration_since(modified);
    let format = if age < RECENT && age >= TimeDelta::zero() { "%b %e %H:%M" } else { "%b %e  %Y" };
    let date = modified.format(format);
    let head = format!("{mode} {:4} {:8} {:8} {:8} {date} ", stat.links, stat.uid, stat.gid, stat.size);
    [head.as_bytes(), name].concat()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn stat() -> Stat {
        Stat {
            kind: FileKind::File,
            mode: 0o4755,
            uid: 7,
            gid: 8,
            size: 9,
            links: 2,
            inode: 1,
            device: 1,
            allocated: 0,
            accessed: Time { seconds: -5, nanos: 0 },
            modified: Time { seconds: 1_700_000_000, nanos: 5 },
            changed: Time::default(),
        }
    }

    #[test]
    fn attributes_are_read_as_they_were_written() {
        let full = Attributes::from(&stat());
        assert_eq!((full.mode, full.times), (Some(0o104_755), Some((0, 1_700_000_000))));
        for attributes in [Attributes::default(), full, Attributes { size: None, owner: None, ..full }] {
            let written = attributes.write(Writer::default()).done();
            assert_eq!(Attributes::read(&mut Reader::new(&written)), Ok(attributes));
        }
        let extended = Writer::default().u32(EXTENDED).u32(1).bytes(b"name").bytes(b"value").done();
        assert_eq!(Attributes::read(&mut Reader::new(&extended)), Ok(Attributes::default()));
        let endless = Writer::default().u32(EXTENDED).u32(u32::MAX).done();
        assert_eq!(Attributes::read(&mut Reader::new(&endless)), Err(WireError::Short));
        assert_eq!(full.change().mode, Some(0o4755));
    }

    #[test]
    fn a_list_is_that_of_ls() {
        let entry = Entry { name: b"a b".to_vec(), stat: stat(), target: None };
        let now = DateTime::from_timestamp(1_700_000_600, 0).unwrap();
        let line = |entry: &Entry, now| String::from_utf8(line(entry, now)).unwrap();
        assert_eq!(line(&entry, now), "-rwsr-xr-x    2        7        8        9 Nov 14 22:13 a b");
        let stat = Stat { kind: FileKind::Directory, mode: 0o1776, ..stat() };
        let entry = Entry { stat, ..entry };
        let later = now + TimeDelta::days(400);
        assert_eq!(line(&entry, later), "drwxrwxrwT    2        7        8        9 Nov 14  2023 a b");
    }
}
