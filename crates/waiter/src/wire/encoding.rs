//! The specification as bytes.
//!
//! ```text
//! specification   MAGIC  u32 length  body  END          (integers little-endian)
//! body            items, each u32 length + bytes; lists are a u32 count and their items
//! ```

use std::ffi::OsString;
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::PathBuf;

use super::{DescriptorSpec, Namespaces, ProcessSpec, StdioSpec, WaiterSpec};

const MAGIC: [u8; 8] = *b"SPWAIT2\n";
const END: [u8; 8] = *b"SPWEND1\n";
/// Most bytes of an encoded specification's body: the kernel takes at most 2 MiB of arguments and
/// environment for one execve, and there are few processes.
const BODY_MAX: usize = 16 << 20;

fn put(out: &mut Vec<u8>, bytes: &[u8]) {
    put_count(out, bytes.len());
    out.extend_from_slice(bytes);
}

fn put_count(out: &mut Vec<u8>, count: usize) {
    // A larger one exceeds BODY_MAX, which the receiver refuses.
    out.extend_from_slice(&u32::try_from(count).unwrap_or(u32::MAX).to_le_bytes());
}

fn put_stdio(out: &mut Vec<u8>, stdio: &StdioSpec) {
    let (kind, content): (_, &[u8]) = match stdio {
        StdioSpec::Null => ("null", b""),
        StdioSpec::VmmLog => ("log", b""),
        StdioSpec::Fifo(name) => ("fifo", name.as_bytes()),
        StdioSpec::Listener(name) => ("listener", name.as_bytes()),
        StdioSpec::Data(bytes) => ("data", bytes),
    };
    put(out, kind.as_bytes());
    put(out, content);
}

fn put_namespaces(out: &mut Vec<u8>, namespaces: Option<&Namespaces>) {
    put_count(out, usize::from(namespaces.is_some()));
    if let Some(Namespaces { user, network }) = namespaces {
        put(out, user.as_ref().map_or(&[], |user| user.as_os_str().as_bytes()));
        put(out, &[u8::from(*network)]);
    }
}

/// The specification as the waiter reads it; `None` when it is too large.
pub fn encode(spec: &WaiterSpec) -> Option<Vec<u8>> {
    let mut body = Vec::new();
    for texts in [&spec.tags, &spec.fifos] {
        put_count(&mut body, texts.len());
        for text in texts {
            put(&mut body, text.as_bytes());
        }
    }
    put(&mut body, spec.vmm_log.as_os_str().as_bytes());
    put(&mut body, &spec.vmm_log_limit.to_le_bytes());
    put_count(&mut body, spec.processes.len());
    for process in &spec.processes {
        put(&mut body, process.role.as_bytes());
        put(&mut body, process.program.as_os_str().as_bytes());
        put_count(&mut body, process.args.len());
        for arg in &process.args {
            put(&mut body, arg.as_bytes());
        }
        put_count(&mut body, process.env.len());
        for (name, value) in &process.env {
            put(&mut body, name.as_bytes());
            put(&mut body, value.as_bytes());
        }
        put(&mut body, &[u8::from(process.clear_env)]);
        for stdio in [&process.stdin, &process.stdout, &process.stderr] {
            put_stdio(&mut body, stdio);
        }
        put_count(&mut body, process.descriptors.len());
        for descriptor in &process.descriptors {
            let (kind, name) = match descriptor {
                DescriptorSpec::Connected(name) => ("connected", name.as_bytes()),
                DescriptorSpec::Listening(name) => ("listening", name.as_bytes()),
                DescriptorSpec::File(path) => ("file", path.as_os_str().as_bytes()),
            };
            put(&mut body, kind.as_bytes());
            put(&mut body, name);
        }
    }
    // What is held for another waiter stays as it ever was: it may be of another version.
    if !spec.processes.is_empty() {
        put_namespaces(&mut body, spec.namespaces.as_ref());
    }
    // A version that knows no leases reads what has none.
    if !spec.leases.is_empty() {
        put_count(&mut body, spec.leases.len());
        for lease in &spec.leases {
            put(&mut body, lease.as_os_str().as_bytes());
        }
    }
    if body.len() > BODY_MAX {
        return None;
    }
    let mut out = MAGIC.to_vec();
    put(&mut out, &body);
    out.extend_from_slice(&END);
    Some(out)
}

struct Reader<'a>(&'a [u8]);

impl<'a> Reader<'a> {
    fn take(&mut self, length: usize) -> Option<&'a [u8]> {
        let (taken, rest) = self.0.split_at_checked(length)?;
        self.0 = rest;
        Some(taken)
    }

    fn count(&mut self) -> Option<usize> {
        usize::try_from(u32::from_le_bytes(self.take(4)?.try_into().ok()?)).ok()
    }

    fn bytes(&mut self) -> Option<&'a [u8]> {
        let length = self.count()?;
        self.take(length)
    }

    fn text(&mut self) -> Option<String> {
        String::from_utf8(self.bytes()?.to_vec()).ok()
    }

    fn os(&mut self) -> Option<OsString> {
        Some(OsString::from_vec(self.bytes()?.to_vec()))
    }

    fn list<T>(&mut self, mut item: impl FnMut(&mut Self) -> Option<T>) -> Option<Vec<T>> {
        let count = self.count()?;
        // No capacity is taken from the count: it is only as good as the items that follow.
        (0..count).map(|_| item(self)).collect()
    }

    fn stdio(&mut self) -> Option<StdioSpec> {
        let kind = self.bytes()?;
        let content = self.bytes()?;
        let name = || String::from_utf8(content.to_vec()).ok();
        match (kind, content.is_empty()) {
            (b"null", true) => Some(StdioSpec::Null),
            (b"log", true) => Some(StdioSpec::VmmLog),
            (b"fifo", false) => name().map(StdioSpec::Fifo),
            (b"listener", false) => name().map(StdioSpec::Listener),
            (b"data", _) => Some(StdioSpec::Data(content.to_vec())),
            _ => None,
        }
    }

    fn process(&mut self) -> Option<ProcessSpec> {
        Some(ProcessSpec {
            role: self.text()?,
            program: PathBuf::from(self.os()?),
            args: self.list(Self::os)?,
            env: self.list(|reader| Some((reader.os()?, reader.os()?)))?,
            clear_env: self.bytes()? == [1],
            stdin: self.stdio()?,
            stdout: self.stdio()?,
            stderr: self.stdio()?,
            descriptors: self.list(Self::descriptor)?,
        })
    }

    fn descriptor(&mut self) -> Option<DescriptorSpec> {
        match self.bytes()? {
            b"connected" => Some(DescriptorSpec::Connected(self.text()?)),
            b"listening" => Some(DescriptorSpec::Listening(self.text()?)),
            b"file" => Some(DescriptorSpec::File(self.os()?.into())),
            _ => None,
        }
    }

    fn namespaces(&mut self) -> Option<Namespaces> {
        let user = Some(PathBuf::from(self.os()?)).filter(|user| !user.as_os_str().is_empty());
        Some(Namespaces { user, network: self.bytes()? == [1] })
    }
}

/// Reads a whole encoded specification from `source`; `None` when it ends early or is malformed.
pub fn read_spec(source: &mut impl std::io::Read) -> Option<WaiterSpec> {
    let mut head = [0; MAGIC.len() + 4];
    source.read_exact(&mut head).ok()?;
    let (magic, length) = head.split_at(MAGIC.len());
    let length = usize::try_from(u32::from_le_bytes(length.try_into().ok()?)).ok()?;
    if magic != MAGIC || length > BODY_MAX {
        return None;
    }
    let mut body = vec![0; length];
    source.read_exact(&mut body).ok()?;
    let mut end = [0; END.len()];
    source.read_exact(&mut end).ok()?;
    if end != END {
        return None;
    }
    let mut reader = Reader(&body);
    let tags = reader.list(Reader::text)?;
    let fifos = reader.list(Reader::text)?;
    let vmm_log = PathBuf::from(reader.os()?);
    let vmm_log_limit = u64::from_le_bytes(reader.bytes()?.try_into().ok()?);
    let processes = reader.list(Reader::process)?;
    let namespaces = if processes.is_empty() { None } else { reader.list(Reader::namespaces)?.pop() };
    let leases = if reader.0.is_empty() { Vec::new() } else { reader.list(|reader| Some(reader.os()?.into()))? };
    reader.0.is_empty().then_some(WaiterSpec { tags, fifos, processes, namespaces, vmm_log, vmm_log_limit, leases })
}
