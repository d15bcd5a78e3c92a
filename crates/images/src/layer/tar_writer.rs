//! A tar archive of a directory: POSIX headers, with a pax header where one does not hold what there is to say. The same
//! entries always make the same bytes.

use std::fs::File;
use std::io::{self, Read as _, Write};

use ::tar::{EntryType, Header};
use sandpen_tree::record::{BLOCK, BLOCK_LEN, push_record, write_moment};

use super::entry::Meta;
use crate::walk::{Found, Sink};

/// What a header's name field holds.
const NAME_FIELD: usize = 100;
/// Largest numbers of octal fields: eight and twelve bytes with an end.
const ID_MAX: u32 = 0o7_777_777;
const SIZE_MAX: u64 = 0o77_777_777_777;

/// Writes the archive. Sockets are left out, as archives have none.
#[derive(Debug)]
pub struct TarWriter<W> {
    out: W,
    buffer: Vec<u8>,
}

impl<W: Write> TarWriter<W> {
    /// An archive without entries yet.
    pub fn new(out: W) -> Self {
        Self { out, buffer: vec![0; 256 << 10] }
    }

    /// Ends it.
    ///
    /// # Errors
    /// Whoever takes it.
    pub fn finish(mut self) -> io::Result<W> {
        self.out.write_all(&[0; 2 * BLOCK_LEN])?;
        self.out.flush()?;
        Ok(self.out)
    }

    fn pad(&mut self, bytes: u64) -> io::Result<()> {
        let over = usize::try_from(bytes % BLOCK).unwrap_or_default();
        if over == 0 { Ok(()) } else { self.out.write_all(&[0; BLOCK_LEN][over..]) }
    }

    fn file(&mut self, mut file: &File, mut bytes: u64) -> io::Result<()> {
        while bytes > 0 {
            let part = usize::try_from(bytes).unwrap_or(usize::MAX).min(self.buffer.len());
            // A file that has become shorter ends the walk.
            file.read_exact(&mut self.buffer[..part])?;
            self.out.write_all(&self.buffer[..part])?;
            bytes -= part as u64;
        }
        Ok(())
    }
}

/// A name that fits into its field, whole or cut where a pax header has it.
fn set_name(field: &mut [u8; NAME_FIELD], name: &[u8]) {
    let part = &name[..name.len().min(NAME_FIELD)];
    field[..part.len()].copy_from_slice(part);
}

impl<W: Write> Sink for TarWriter<W> {
    fn take(&mut self, path: &[u8], meta: Meta, found: Found<'_>) -> io::Result<()> {
        let mut header = Header::new_ustar();
        let (kind, bytes, target) = match &found {
            Found::Directory => (EntryType::Directory, 0, None),
            Found::File(_, bytes) => (EntryType::Regular, *bytes, None),
            Found::HardLink(target) => (EntryType::Link, 0, Some(*target)),
            Found::SymbolicLink(target) => (EntryType::Symlink, 0, Some(*target)),
            Found::CharacterDevice(major, minor) | Found::BlockDevice(major, minor) => {
                header.set_device_major(*major)?;
                header.set_device_minor(*minor)?;
                let kind = if matches!(found, Found::BlockDevice(..)) { EntryType::Block } else { EntryType::Char };
                (kind, 0, None)
            }
            Found::Fifo => (EntryType::Fifo, 0, None),
            Found::Socket => return Ok(()),
        };
        let name = match (path, kind) {
            (b"", _) => b"./".to_vec(),
            (path, EntryType::Directory) => [path, b"/"].concat(),
            (path, _) => path.to_owned(),
        };
        let mut pax = Vec::new();
        let mut small = |key: &str, value: u64, most: u64| {
            if value > most {
                push_record(&mut pax, key.as_bytes(), value.to_string().as_bytes());
                0
            } else {
                value
            }
        };
        header.set_uid(small("uid", meta.uid.into(), ID_MAX.into()));
        header.set_gid(small("gid", meta.gid.into(), ID_MAX.into()));
        header.set_size(small("size", bytes, SIZE_MAX));
        let whole = u64::try_from(meta.mtime).ok().filter(|seconds| *seconds <= SIZE_MAX && meta.mtime_nanos == 0);
        header.set_mtime(whole.unwrap_or(0));
        if whole.is_none() {
            push_record(&mut pax, b"mtime", write_moment(meta.mtime, meta.mtime_nanos).as_bytes());
        }
        if name.len() > NAME_FIELD {
            push_record(&mut pax, b"path", &name);
        }
        if let Some(target) = target.filter(|target| target.len() > NAME_FIELD) {
            push_record(&mut pax, b"linkpath", target);
        }
        for (name, value) in &meta.xattrs {
            push_record(&mut pax, &[b"SCHILY.xattr.", name.as_slice()].concat(), value);
        }
        if !pax.is_empty() {
            let mut extended = Header::new_ustar();
            extended.set_entry_type(EntryType::XHeader);
            set_name(&mut extended.as_old_mut().name, b"pax");
            extended.set_mode(0o644);
            extended.set_uid(0);
            extended.set_gid(0);
            extended.set_mtime(0);
            extended.set_size(pax.len() as u64);
            extended.set_cksum();
            self.out.write_all(extended.as_bytes())?;
            self.out.write_all(&pax)?;
            self.pad(pax.len() as u64)?;
        }
        header.set_entry_type(kind);
        header.set_mode(meta.mode.into());
        set_name(&mut header.as_old_mut().name, &name);
        if let Some(target) = target {
            set_name(&mut header.as_old_mut().linkname, target);
        }
        header.set_cksum();
        self.out.write_all(header.as_bytes())?;
        if let Found::File(file, bytes) = found {
            self.file(file, bytes)?;
            self.pad(bytes)?;
        }
        Ok(())
    }
}
