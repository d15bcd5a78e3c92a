//! What the waiter and the orchestrator say to each other: the specification over the waiter's
//! standard input, one report line back, and the names in the runtime directory.
//!
//! ```text
//! specification   MAGIC  u32 length  body  END          (integers little-endian)
//! body            items, each u32 length + bytes; lists are a u32 count and their items
//! held            a specification without processes, which a waiter takes up where another one died
//! report          "ready\n", or "failed\tSTAGE\tERRNO\tSUBJECT\n"
//! commands        lines "release\n" and "close FIFO\n", each one atomic write
//! ```

use std::ffi::OsString;
use std::fmt;
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::PathBuf;

const MAGIC: [u8; 8] = *b"SPWAIT2\n";
const END: [u8; 8] = *b"SPWEND1\n";
/// Most bytes of an encoded specification's body: the kernel takes at most 2 MiB of arguments and
/// environment for one execve, and there are few processes.
const BODY_MAX: usize = 16 << 20;

/// The waiter's own role in the `processes` record.
pub const WAITER_ROLE: &str = "waiter";
/// The role of the first process of the processes' own namespace of process ids: with it end all others in it.
pub const INIT_ROLE: &str = "init";
/// The role of the process whose end is the microVM's end.
pub const VMM_ROLE: &str = "vmm";

/// The waiter's lock and last words: whoever has it locked is the directory's live waiter.
pub const LOCK_FILE: &str = "waiter.err";
/// Who runs, written before the waiter reports ready.
pub const PROCESSES_FILE: &str = "processes";
/// How the VMM ended.
pub const EXIT_FILE: &str = "exit";
/// The exit record before its rename; made at the start, so that a full disk cannot refuse it.
pub const EXIT_DRAFT_FILE: &str = "exit.draft";
/// Commands to the waiter.
pub const COMMANDS_FIFO: &str = "commands";
/// Reads as ended once the exit record is written, or the waiter is gone.
pub const ENDED_FIFO: &str = "ended";
/// What the VMM log is copied from: the output of processes marked [`StdioSpec::VmmLog`]. It has a name
/// so that a waiter's death neither ends nor empties it.
pub const LOG_FIFO: &str = "log";
/// What a waiter has to hold, for the one that comes after it.
pub const HELD_FILE: &str = "held";
/// Names that a specification cannot use for its own FIFOs and sockets.
pub const RESERVED: [&str; 9] = [
    LOCK_FILE,
    PROCESSES_FILE,
    "processes.draft",
    EXIT_FILE,
    EXIT_DRAFT_FILE,
    COMMANDS_FIFO,
    ENDED_FIFO,
    LOG_FIFO,
    HELD_FILE,
];

/// What the waiter holds and starts. Host environment values may be secrets; `Debug` hides them.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct WaiterSpec {
    /// Words for the waiter's argv, so that people and tools can tell whose it is. No secrets.
    pub tags: Vec<String>,
    /// FIFOs that the waiter makes in the runtime directory and holds open for reading and writing.
    pub fifos: Vec<String>,
    /// What it starts, in this order; exactly one has the role [`VMM_ROLE`]. Without any the waiter
    /// takes up those that are recorded in the runtime directory.
    pub processes: Vec<ProcessSpec>,
    /// The namespaces in which they run, of their own; `None` for the waiter's, and always without processes.
    pub namespaces: Option<Namespaces>,
    /// Where output that is marked [`StdioSpec::VmmLog`] goes; absolute, emptied at each launch.
    pub vmm_log: PathBuf,
    /// Most bytes kept in `vmm_log`; what comes after is discarded.
    pub vmm_log_limit: u64,
}

/// Namespaces that a sandbox's processes share, and nobody else: of process ids (whose first process is one of the
/// waiter's, the role [`INIT_ROLE`]), of System V IPC, of host names, and what is said here. See namespaces(7).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Namespaces {
    /// The file of a user namespace in which the others are made, for a user who may not make them in its own. The
    /// processes are its root.
    pub user: Option<PathBuf>,
    /// Whether there is a network namespace too: an empty one, without a single address.
    pub network: bool,
}

/// One process. Its working directory is the runtime directory.
#[derive(Clone, PartialEq, Eq)]
pub struct ProcessSpec {
    /// [`VMM_ROLE`], or a companion's name (1 to 32 of `a-z 0-9 _ -`), for example `virtiofsd`.
    pub role: String,
    /// The program; looked up in `PATH` when it has no slash.
    pub program: PathBuf,
    /// Its arguments.
    pub args: Vec<OsString>,
    /// Added to its environment.
    pub env: Vec<(OsString, OsString)>,
    /// Whether it gets `env` only, and not the orchestrator's environment.
    pub clear_env: bool,
    /// Its descriptor 0.
    pub stdin: StdioSpec,
    /// Its descriptor 1.
    pub stdout: StdioSpec,
    /// Its descriptor 2.
    pub stderr: StdioSpec,
    /// What else it gets open: descriptors from [`FIRST_DESCRIPTOR`] on.
    pub descriptors: Vec<DescriptorSpec>,
}

/// The first of a process's [`ProcessSpec::descriptors`].
pub const FIRST_DESCRIPTOR: i32 = 3;
/// Most of them.
pub const DESCRIPTORS_MAX: u8 = 24;
/// Beyond all of them.
pub const BEYOND_DESCRIPTORS: i32 = FIRST_DESCRIPTOR + DESCRIPTORS_MAX as i32;

/// What a process gets open, so that it makes no socket and reaches no path for it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum DescriptorSpec {
    /// The other end of the only connection to another process's [`StdioSpec::Listener`] of this name. The name is
    /// gone before any process is started: nobody else connects.
    Connected(String),
    /// A socket that listens in the runtime directory under this name.
    Listening(String),
    /// A file, open for reading: opened before a user namespace is entered, from which another process's files
    /// (`/proc/PID/fd/N`) are out of reach.
    File(PathBuf),
}

impl fmt::Debug for ProcessSpec {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ProcessSpec")
            .field("role", &self.role)
            .field("program", &self.program)
            .field("args", &self.args)
            .field("env", &self.env.iter().map(|(name, _)| name).collect::<Vec<_>>())
            .finish_non_exhaustive()
    }
}

/// What a standard descriptor of a process is.
#[derive(Clone, PartialEq, Eq)]
pub enum StdioSpec {
    /// `/dev/null`.
    Null,
    /// Copied into the VMM log (output only).
    VmmLog,
    /// One of the specification's FIFOs. As input it is opened for reading, as output for reading
    /// and writing: without a reader the process waits on a full pipe and gets no SIGPIPE.
    Fifo(String),
    /// A Unix socket of this name in the runtime directory, which the waiter binds and listens on
    /// before it starts any process.
    Listener(String),
    /// These bytes, then the end (input only): what must not stand in a command line or in an
    /// environment. `Debug` hides them. A sealed file in memory, so a process that dies early or
    /// reads late holds up nobody.
    Data(Vec<u8>),
}

impl fmt::Debug for StdioSpec {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Null => f.write_str("Null"),
            Self::VmmLog => f.write_str("VmmLog"),
            Self::Fifo(name) => f.debug_tuple("Fifo").field(name).finish(),
            Self::Listener(name) => f.debug_tuple("Listener").field(name).finish(),
            Self::Data(bytes) => f.debug_tuple("Data").field(&bytes.len()).finish(),
        }
    }
}

/// Which of the waiter's steps failed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Stage {
    /// Detaching from the orchestrator.
    Detach,
    /// Making namespaces for the processes.
    Namespaces,
    /// Reading the specification.
    Spec,
    /// Making a FIFO.
    Fifo,
    /// Binding a socket.
    Listener,
    /// Opening the VMM log.
    Log,
    /// Executing a program.
    Program,
    /// Writing a record.
    Record,
}

impl Stage {
    const ALL: [(Self, &'static str); 8] = [
        (Self::Detach, "detach"),
        (Self::Namespaces, "namespaces"),
        (Self::Spec, "spec"),
        (Self::Fifo, "fifo"),
        (Self::Listener, "listener"),
        (Self::Log, "log"),
        (Self::Program, "program"),
        (Self::Record, "record"),
    ];
}

/// The waiter's one line.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Report {
    /// All programs were executed.
    Ready,
    /// Nothing runs.
    Failed {
        /// The step that failed.
        stage: Stage,
        /// The system's error, 0 where it was none of the system's.
        errno: i32,
        /// What it failed with.
        subject: String,
    },
}

impl Report {
    /// The line, with its newline.
    pub fn to_line(&self) -> String {
        match self {
            Self::Ready => "ready\n".to_owned(),
            Self::Failed { stage, errno, subject } => {
                let stage = Stage::ALL.iter().find(|(known, _)| known == stage).map_or("", |(_, word)| word);
                let subject: String = subject.chars().map(|c| if c.is_control() { '?' } else { c }).collect();
                format!("failed\t{stage}\t{errno}\t{subject}\n")
            }
        }
    }

    /// Reads it again; `None` where it is cut short or none of ours.
    pub fn from_line(line: &str) -> Option<Self> {
        let line = line.strip_suffix('\n')?;
        if line == "ready" {
            return Some(Self::Ready);
        }
        let mut parts = line.strip_prefix("failed\t")?.splitn(3, '\t');
        let word = parts.next()?;
        let (stage, _) = Stage::ALL.iter().find(|(_, known)| *known == word)?;
        Some(Self::Failed { stage: *stage, errno: parts.next()?.parse().ok()?, subject: parts.next()?.to_owned() })
    }
}

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
    reader.0.is_empty().then_some(WaiterSpec { tags, fifos, processes, namespaces, vmm_log, vmm_log_limit })
}
