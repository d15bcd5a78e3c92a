//! Lists a directory tree, one line an entry, in the order of names: so that two trees can be compared wherever they are.
//!
//! ```sh
//! cargo run --example list_tree -- DIRECTORY
//! ```
//! Each line has the path below the directory, the kind, permissions, owner and group, when it was changed, what the kind
//! needs (a file's bytes and digest, where a link leads, a device's number, the first name of a further one) and the
//! extended attributes. What is mounted in the tree is an empty directory.

use std::fs::File;
use std::io::{self, BufWriter, Read as _, StdoutLock, Write as _};
use std::path::PathBuf;
use std::process::ExitCode;

use sandpen_images::layer::entry::Meta;
use sandpen_images::walk::{Found, Owners, Sink, walk};
use sha2::{Digest as _, Sha256};

struct Lister(BufWriter<StdoutLock<'static>>);

impl Sink for Lister {
    fn take(&mut self, path: &[u8], meta: Meta, found: Found<'_>) -> io::Result<()> {
        let out = &mut self.0;
        let Meta { mode, uid, gid, mtime, mtime_nanos, xattrs } = meta;
        write!(out, "/{} ", escaped(path))?;
        let kind = match &found {
            Found::Directory => "directory",
            Found::File(..) => "file",
            Found::HardLink(first) => return writeln!(out, "same as /{}", escaped(first)),
            Found::SymbolicLink(_) => "link",
            Found::CharacterDevice(..) => "character-device",
            Found::BlockDevice(..) => "block-device",
            Found::Fifo => "fifo",
            Found::Socket => "socket",
        };
        write!(out, "{kind} {mode:04o} {uid}:{gid} {mtime}.{mtime_nanos:09}")?;
        match found {
            Found::File(file, bytes) => write!(out, " {bytes} {}", digest(file)?)?,
            Found::SymbolicLink(target) => write!(out, " -> {}", escaped(target))?,
            Found::CharacterDevice(major, minor) | Found::BlockDevice(major, minor) => write!(out, " {major}:{minor}")?,
            _ => {}
        }
        for (name, value) in xattrs {
            write!(out, " {}={}", escaped(&name), escaped(&value))?;
        }
        writeln!(out)
    }
}

/// Without spaces and newlines, and without anything that is no text.
fn escaped(bytes: &[u8]) -> String {
    bytes.escape_ascii().to_string().replace(' ', "\\x20")
}

fn digest(mut file: &File) -> io::Result<String> {
    let (mut hash, mut buffer) = (Sha256::new(), vec![0; 256 << 10]);
    loop {
        match file.read(&mut buffer)? {
            0 => break Ok(hash.finalize().iter().map(|byte| format!("{byte:02x}")).collect()),
            length => hash.update(&buffer[..length]),
        }
    }
}

fn main() -> ExitCode {
    let Some(path) = std::env::args_os().nth(1).map(PathBuf::from) else {
        eprintln!("usage: list_tree DIRECTORY");
        return ExitCode::from(2);
    };
    let mut lister = Lister(BufWriter::new(io::stdout().lock()));
    let listed = File::open(&path).map_err(|error| error.to_string()).and_then(|root| {
        walk(root, &path, Owners::Same, true, &mut lister).map_err(|error| format!("{error} ({error:?})"))
    });
    match listed.and_then(|()| lister.0.flush().map_err(|error| error.to_string())) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("list_tree: {}: {error}", path.display());
            ExitCode::FAILURE
        }
    }
}
