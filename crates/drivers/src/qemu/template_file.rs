//! Templates on disk, so that the next daemon has them: damage and what belongs to another machine is
//! told from a good one, and never used.
//!
//! ```text
//!   0         header: one line of JSON, then spaces        (4096 bytes)
//!   4096      the devices' state, then zeros to a whole page
//!   …         the guest's memory; pages of zeros are holes
//! ```
//!
//! The header has a SHA-256 of all that follows it: of the state, and of each page of memory that is not all
//! zeros, with its number.

use std::fs::File;
use std::io::{self, ErrorKind};
use std::os::unix::fs::FileExt as _;
use std::path::Path;

use sandpen_cache::{Draft, hex};
use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256};

use super::template::{Template, TemplateError, failed, memory_file, seal};

const PAGE: usize = 4096;
/// As [`PAGE`], for offsets.
const PAGE_BYTES: u64 = 4096;
/// Read at once: whole pages.
const CHUNK: usize = 64 * PAGE;
/// Format of the file.
const FORMAT: u32 = 1;
/// More than any state or memory of ours.
const BYTES_MAX: u64 = 1 << 40;

#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Header {
    format: u32,
    key: String,
    state_bytes: u64,
    memory_bytes: u64,
    sha256: String,
}

/// Writes a template as `path`: whole or not at all. Blocking, for as long as the disk takes, or until
/// `check` fails.
pub(super) fn write(path: &Path, key: &str, template: &Template, check: impl Fn() -> io::Result<()>) -> io::Result<()> {
    let directory = path.parent().ok_or(ErrorKind::InvalidInput)?;
    sandpen_cache::make_directory(directory)?;
    sandpen_cache::sweep(directory);
    let draft = Draft::create(directory)?;
    let file = draft.file();
    let (state_bytes, memory_bytes) = (template.state.metadata()?.len(), template.memory.metadata()?.len());
    let memory_at = PAGE_BYTES + state_bytes.next_multiple_of(PAGE_BYTES);
    file.set_len(memory_at + memory_bytes)?;
    let mut hash = Sha256::new();
    for_pages(&template.state, 0, state_bytes, |at, page| {
        check()?;
        add(&mut hash, at, page);
        file.write_all_at(page, PAGE_BYTES + at)
    })?;
    for_pages(&template.memory, 0, memory_bytes, |at, page| {
        check()?;
        add(&mut hash, at, page);
        file.write_all_at(page, memory_at + at)
    })?;
    let sha256 = hex(&hash.finalize());
    let header = Header { format: FORMAT, key: key.to_owned(), state_bytes, memory_bytes, sha256 };
    let mut line = serde_json::to_vec(&header)?;
    line.resize(PAGE, b' ');
    file.write_all_at(&line, 0)?;
    draft.commit(path)
}

/// Reads the template of `key`; `None` where there is none that is whole. Blocking, until `check` fails.
pub(super) fn read(
    path: &Path,
    key: &str,
    check: impl Fn() -> io::Result<()>,
) -> Result<Option<Template>, TemplateError> {
    let file = match File::open(path) {
        Ok(file) => file,
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(failed("opening")(error)),
    };
    let mut line = [0; PAGE];
    let header = file.read_exact_at(&mut line, 0).ok().and_then(|()| serde_json::from_slice::<Header>(&line).ok());
    let Some(header) = header else { return Ok(None) };
    let Header { format, key: of, state_bytes, memory_bytes, sha256 } = header;
    let is_sound = format == FORMAT && of == key && state_bytes < BYTES_MAX && memory_bytes < BYTES_MAX;
    let memory_at = PAGE_BYTES + state_bytes.next_multiple_of(PAGE_BYTES);
    let length = file.metadata().map_err(failed("looking at"))?.len();
    if !is_sound || length != memory_at + memory_bytes {
        return Ok(None);
    }
    let state = memory_file("sandpen-template-state", state_bytes)?;
    let memory = memory_file("sandpen-template-memory", memory_bytes)?;
    let mut hash = Sha256::new();
    for (into, from, bytes) in [(&state, PAGE_BYTES, state_bytes), (&memory, memory_at, memory_bytes)] {
        let copied = for_pages(&file, from, bytes, |at, page| {
            check()?;
            add(&mut hash, at, page);
            into.write_all_at(page, at)
        });
        copied.map_err(failed("reading"))?;
    }
    if hex(&hash.finalize()) != sha256 {
        return Ok(None);
    }
    seal(&state)?;
    seal(&memory)?;
    Ok(Some(Template { memory, state }))
}

fn add(hash: &mut Sha256, at: u64, page: &[u8]) {
    hash.update(at.to_le_bytes());
    hash.update(page);
}

/// Calls `take` with each page that is not all zeros, and with where it lies behind `from`. The last one may be
/// shorter.
fn for_pages(file: &File, from: u64, bytes: u64, mut take: impl FnMut(u64, &[u8]) -> io::Result<()>) -> io::Result<()> {
    let zeros = [0; PAGE];
    let mut chunk = vec![0; CHUNK];
    let mut at = 0;
    while at < bytes {
        let length = usize::try_from(bytes - at).map_or(CHUNK, |rest| rest.min(CHUNK));
        file.read_exact_at(&mut chunk[..length], from + at)?;
        for (number, page) in (0..).zip(chunk[..length].chunks(PAGE)) {
            if page != &zeros[..page.len()] {
                take(at + number * PAGE_BYTES, page)?;
            }
        }
        at += length as u64;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn write(path: &Path, key: &str, template: &Template) -> io::Result<()> {
        super::write(path, key, template, || Ok(()))
    }

    fn read(path: &Path, key: &str) -> Result<Option<Template>, TemplateError> {
        super::read(path, key, || Ok(()))
    }

    fn template() -> Template {
        let memory = memory_file("test", 1 << 20).unwrap();
        memory.write_all_at(b"kernel", 8192).unwrap();
        memory.write_all_at(b"end", (1 << 20) - 3).unwrap();
        let state = memory_file("test", 5000).unwrap();
        state.write_all_at(&[7; 5000], 0).unwrap();
        Template { memory, state }
    }

    fn bytes(file: &File) -> Vec<u8> {
        let mut bytes = vec![0; usize::try_from(file.metadata().unwrap().len()).unwrap()];
        file.read_exact_at(&mut bytes, 0).unwrap();
        bytes
    }

    #[test]
    fn what_is_written_is_read_and_cannot_be_changed() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("templates/a");
        assert!(read(&path, "key").unwrap().is_none());
        write(&path, "key", &template()).unwrap();
        let found = read(&path, "key").unwrap().unwrap();
        assert_eq!(bytes(&found.memory), bytes(&template().memory));
        assert_eq!(bytes(&found.state), bytes(&template().state));
        assert!(found.memory.write_all_at(b"x", 0).is_err() && found.state.set_len(1).is_err());
        assert!(std::os::unix::fs::MetadataExt::blocks(&path.metadata().unwrap()) * 512 < 100 << 10, "it is sparse");
        assert_eq!(std::fs::read_dir(path.parent().unwrap()).unwrap().count(), 1);
    }

    #[test]
    fn damage_and_foreign_templates_are_none() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("a");
        write(&path, "key", &template()).unwrap();
        assert!(read(&path, "other").unwrap().is_none());
        let whole = std::fs::read(&path).unwrap();
        // A bit of the header, the state, the memory, and of a hole; then all lengths around the edges.
        for at in [0, 20, 4096 + 100, 12288 + 8192, 12288 + 65536, whole.len() - 1] {
            let mut damaged = whole.clone();
            damaged[at] ^= 1;
            std::fs::write(&path, &damaged).unwrap();
            assert!(read(&path, "key").unwrap().is_none(), "at {at}");
        }
        for length in [0, 1, 4095, 4096, 9000, whole.len() - 1] {
            std::fs::write(&path, &whole[..length]).unwrap();
            assert!(read(&path, "key").unwrap().is_none(), "{length} bytes");
        }
        std::fs::write(&path, [&whole[..], b"x"].concat()).unwrap();
        assert!(read(&path, "key").unwrap().is_none());
        std::fs::write(&path, &whole).unwrap();
        assert!(read(&path, "key").unwrap().is_some());
    }
}
