//! What clients of SFTP ask and are answered, version 3 as OpenSSH has it. Pure.

use sandpen_files::{FileErrorKind, FilesError, OpenFlags, Space};

use super::attributes::Attributes;
use crate::wire::{Reader, WireError, Writer};

/// The version that is spoken.
pub(super) const VERSION: u32 = 3;
/// Longest packet either way, as of OpenSSH.
pub(super) const PACKET_MAX: usize = 256 << 10;
/// What is there besides, with its version.
pub(super) const EXTENSIONS: [(&str, &str); 8] = [
    ("posix-rename@openssh.com", "1"),
    ("statvfs@openssh.com", "2"),
    ("fstatvfs@openssh.com", "2"),
    ("hardlink@openssh.com", "1"),
    ("fsync@openssh.com", "1"),
    ("lsetstat@openssh.com", "1"),
    ("limits@openssh.com", "1"),
    ("expand-path@openssh.com", "1"),
];

const STATUS: u8 = 101;
const HANDLE: u8 = 102;
const DATA: u8 = 103;
const NAME: u8 = 104;
const ATTRIBUTES: u8 = 105;
const EXTENDED_REPLY: u8 = 201;
const VERSION_REPLY: u8 = 2;

/// How something came out.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Code {
    Ok = 0,
    Eof = 1,
    NoSuchFile = 2,
    PermissionDenied = 3,
    Failure = 4,
    BadMessage = 5,
    ConnectionLost = 7,
    Unsupported = 8,
}

/// What is asked for. Paths are as they came.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Ask {
    Init,
    Open { path: Vec<u8>, flags: OpenFlags, attributes: Attributes },
    Close { handle: u32 },
    Read { handle: u32, offset: u64, length: u32 },
    Write { handle: u32, offset: u64, data: Vec<u8> },
    Stat { path: Vec<u8>, follow: bool },
    StatOpen { handle: u32 },
    Change { path: Vec<u8>, follow: bool, attributes: Attributes },
    ChangeOpen { handle: u32, attributes: Attributes },
    OpenDirectory { path: Vec<u8> },
    ReadDirectory { handle: u32 },
    Remove { path: Vec<u8> },
    MakeDirectory { path: Vec<u8>, attributes: Attributes },
    RemoveDirectory { path: Vec<u8> },
    RealPath { path: Vec<u8>, expands: bool },
    Rename { from: Vec<u8>, to: Vec<u8>, replace: bool },
    ReadLink { path: Vec<u8> },
    Symlink { target: Vec<u8>, path: Vec<u8> },
    Link { from: Vec<u8>, to: Vec<u8> },
    Space { path: Vec<u8> },
    SpaceOpen { handle: u32 },
    Sync { handle: u32 },
    Limits,
    Unknown,
}

/// A handle as we gave it; another one is none of ours.
fn handle(reader: &mut Reader<'_>) -> Result<u32, WireError> {
    // What was never given is not found later.
    Ok(reader.bytes()?.try_into().map_or(u32::MAX, u32::from_be_bytes))
}

fn flags(bits: u32) -> OpenFlags {
    let has = |bit: u32| bits & bit != 0;
    OpenFlags {
        read: has(1),
        write: has(2),
        append: has(4),
        create: has(8),
        truncate: has(16),
        exclusive: has(32),
        no_follow: false,
    }
}

impl Ask {
    /// Reads one, and the number that its answer has.
    pub(super) fn read(packet: &[u8]) -> Result<(u32, Self), WireError> {
        let mut reader = Reader::new(packet);
        let (kind, number) = (reader.u8()?, reader.u32()?);
        let reader = &mut reader;
        let path = |reader: &mut Reader<'_>| reader.bytes().map(<[u8]>::to_vec);
        let ask = match kind {
            1 => Self::Init,
            3 => Self::Open { path: path(reader)?, flags: flags(reader.u32()?), attributes: Attributes::read(reader)? },
            4 => Self::Close { handle: handle(reader)? },
            5 => Self::Read { handle: handle(reader)?, offset: reader.u64()?, length: reader.u32()? },
            6 => Self::Write { handle: handle(reader)?, offset: reader.u64()?, data: path(reader)? },
            7 | 17 => Self::Stat { path: path(reader)?, follow: kind == 17 },
            8 => Self::StatOpen { handle: handle(reader)? },
            9 => Self::Change { path: path(reader)?, follow: true, attributes: Attributes::read(reader)? },
            10 => Self::ChangeOpen { handle: handle(reader)?, attributes: Attributes::read(reader)? },
            11 => Self::OpenDirectory { path: path(reader)? },
            12 => Self::ReadDirectory { handle: handle(reader)? },
            13 => Self::Remove { path: path(reader)? },
            14 => Self::MakeDirectory { path: path(reader)?, attributes: Attributes::read(reader)? },
            15 => Self::RemoveDirectory { path: path(reader)? },
            16 => Self::RealPath { path: path(reader)?, expands: false },
            18 => Self::Rename { from: path(reader)?, to: path(reader)?, replace: false },
            19 => Self::ReadLink { path: path(reader)? },
            // In the order of OpenSSH, which is not that of the draft.
            20 => Self::Symlink { target: path(reader)?, path: path(reader)? },
            200 => match reader.bytes()? {
                b"posix-rename@openssh.com" => Self::Rename { from: path(reader)?, to: path(reader)?, replace: true },
                b"statvfs@openssh.com" => Self::Space { path: path(reader)? },
                b"fstatvfs@openssh.com" => Self::SpaceOpen { handle: handle(reader)? },
                b"hardlink@openssh.com" => Self::Link { from: path(reader)?, to: path(reader)? },
                b"fsync@openssh.com" => Self::Sync { handle: handle(reader)? },
                b"lsetstat@openssh.com" => {
                    Self::Change { path: path(reader)?, follow: false, attributes: Attributes::read(reader)? }
                }
                b"limits@openssh.com" => Self::Limits,
                b"expand-path@openssh.com" => Self::RealPath { path: path(reader)?, expands: true },
                _ => Self::Unknown,
            },
            _ => Self::Unknown,
        };
        Ok((number, ask))
    }
}

/// An answer, without its number.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Reply {
    Version,
    Status(Code, String),
    Handle(u32),
    Data(Vec<u8>),
    /// Names with how a list shows them.
    Names(Vec<(Vec<u8>, Vec<u8>, Attributes)>),
    Attributes(Attributes),
    Space(Space),
    Limits {
        packet: u64,
        piece: u64,
        handles: u64,
    },
}

impl Reply {
    pub(super) fn ok() -> Self {
        Self::Status(Code::Ok, String::new())
    }

    /// What an error is.
    pub(super) fn error(error: &FilesError) -> Self {
        let code = match error.kind() {
            Some(FileErrorKind::NotFound) => Code::NoSuchFile,
            Some(FileErrorKind::PermissionDenied | FileErrorKind::ReadOnly) => Code::PermissionDenied,
            Some(FileErrorKind::Unsupported) => Code::Unsupported,
            Some(_) => Code::Failure,
            None => Code::ConnectionLost,
        };
        Self::Status(code, error.to_string())
    }

    /// One path.
    pub(super) fn path(path: Vec<u8>) -> Self {
        Self::Names(vec![(path.clone(), path, Attributes::default())])
    }

    /// The whole packet.
    pub(super) fn packet(&self, number: u32) -> Vec<u8> {
        let begin = |kind: u8| Writer::message(kind).u32(number);
        let writer = match self {
            Self::Version => {
                let version = Writer::message(VERSION_REPLY).u32(VERSION);
                EXTENSIONS.iter().fold(version, |all, (name, value)| all.bytes(name.as_bytes()).bytes(value.as_bytes()))
            }
            Self::Status(code, text) => begin(STATUS).u32(*code as u32).bytes(text.as_bytes()).bytes(b"en"),
            Self::Handle(handle) => begin(HANDLE).bytes(&handle.to_be_bytes()),
            Self::Data(data) => begin(DATA).bytes(data),
            Self::Names(names) => {
                let count = u32::try_from(names.len()).unwrap_or(u32::MAX);
                names.iter().fold(begin(NAME).u32(count), |all, (name, shown, attributes)| {
                    attributes.write(all.bytes(name).bytes(shown))
                })
            }
            Self::Attributes(attributes) => attributes.write(begin(ATTRIBUTES)),
            Self::Space(space) => {
                let flags = u64::from(space.read_only) | u64::from(space.no_setuid) << 1;
                let numbers = [
                    space.block,
                    space.block,
                    space.blocks,
                    space.free,
                    space.available,
                    space.files,
                    space.files_free,
                    space.files_available,
                    space.id,
                    flags,
                    space.name_max,
                ];
                numbers.into_iter().fold(begin(EXTENDED_REPLY), Writer::u64)
            }
            Self::Limits { packet, piece, handles } => {
                [*packet, *piece, *piece, *handles].into_iter().fold(begin(EXTENDED_REPLY), Writer::u64)
            }
        };
        let body = writer.done();
        Writer::default().bytes(&body).done()
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn any_packet_is_read_without_a_panic(kind: u8, bytes in proptest::collection::vec(any::<u8>(), 0..60)) {
            let _ = Ask::read(&bytes);
            let _ = Ask::read(&[&[kind, 0, 0, 0, 1, 0, 0, 0, 1], &bytes[..]].concat());
        }
    }

    #[test]
    fn requests_are_read_as_openssh_writes_them() {
        let read = |kind: u8, rest: Writer| Ask::read(&Writer::message(kind).u32(7).raw(&rest.done()).done()).unwrap();
        let open = Writer::default().bytes(b"/a").u32(2 | 8 | 16).u32(4).u32(0o100_644);
        let flags = OpenFlags { write: true, create: true, truncate: true, ..OpenFlags::default() };
        let attributes = Attributes { mode: Some(0o100_644), ..Attributes::default() };
        assert_eq!(read(3, open), (7, Ask::Open { path: b"/a".to_vec(), flags, attributes }));
        let symlink = Writer::default().bytes(b"target").bytes(b"/link");
        let wanted = Ask::Symlink { target: b"target".to_vec(), path: b"/link".to_vec() };
        assert_eq!(read(20, symlink), (7, wanted));
        let rename = Writer::default().bytes(b"posix-rename@openssh.com").bytes(b"/a").bytes(b"/b");
        let wanted = Ask::Rename { from: b"/a".to_vec(), to: b"/b".to_vec(), replace: true };
        assert_eq!(read(200, rename), (7, wanted));
        assert_eq!(read(200, Writer::default().bytes(b"of-later@example.com")), (7, Ask::Unknown));
        assert_eq!(read(99, Writer::default()), (7, Ask::Unknown));
        assert_eq!(read(4, Writer::default().bytes(b"not ours")), (7, Ask::Close { handle: u32::MAX }));
        assert_eq!(Ask::read(&[3, 0, 0]), Err(WireError::Short));
    }

    #[test]
    fn replies_have_their_length_and_number() {
        assert_eq!(Reply::Handle(1).packet(7), [0, 0, 0, 13, 102, 0, 0, 0, 7, 0, 0, 0, 4, 0, 0, 0, 1]);
        let version = Reply::Version.packet(0);
        assert_eq!(version[4..9], [2, 0, 0, 0, 3]);
        let limits = Reply::Limits { packet: 1, piece: 2, handles: 3 }.packet(7);
        assert_eq!(limits.len(), 4 + 5 + 4 * 8);
    }
}
