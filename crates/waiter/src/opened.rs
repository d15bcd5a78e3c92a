//! What is opened for processes before any is started, and before the waiter enters a user namespace: from there
//! another process's files and program (`/proc/PID/…`) are out of reach.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io;
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};

use sandpen_waiter::wire::{self, DescriptorSpec, ProcessSpec, Stage, StdioSpec};

use crate::program::{Failure, failed};
use crate::sys;

/// See the module.
pub(crate) struct Opened<'a> {
    listeners: BTreeMap<&'a str, UnixListener>,
    connected: BTreeMap<&'a str, UnixStream>,
    files: BTreeMap<&'a Path, File>,
}

impl<'a> Opened<'a> {
    /// All of these processes'. Who connects may be started before who answers.
    pub(crate) fn all(processes: &'a [ProcessSpec]) -> Result<Self, Failure> {
        let mut opened = Self { listeners: BTreeMap::new(), connected: BTreeMap::new(), files: BTreeMap::new() };
        let descriptors = || processes.iter().flat_map(|process| &process.descriptors);
        for stdio in processes.iter().flat_map(|process| [&process.stdin, &process.stdout, &process.stderr]) {
            if let StdioSpec::Listener(name) = stdio {
                opened.listen(name)?;
            }
        }
        for descriptor in descriptors() {
            match descriptor {
                DescriptorSpec::Listening(name) => opened.listen(name)?,
                DescriptorSpec::File(path) => opened.open(path)?,
                DescriptorSpec::Connected(_) => {}
            }
        }
        for process in processes.iter().filter(|process| process.program.starts_with("/proc")) {
            opened.open(&process.program)?;
        }
        for descriptor in descriptors() {
            if let DescriptorSpec::Connected(name) = descriptor {
                let connected = UnixStream::connect(name).map_err(failed(Stage::Listener, name))?;
                fs::remove_file(name).map_err(failed(Stage::Listener, name))?;
                opened.connected.insert(name, connected);
            }
        }
        Ok(opened)
    }

    fn listen(&mut self, name: &'a str) -> Result<(), Failure> {
        let _ = fs::remove_file(name);
        self.listeners.insert(name, UnixListener::bind(name).map_err(failed(Stage::Listener, name))?);
        Ok(())
    }

    fn open(&mut self, path: &'a Path) -> Result<(), Failure> {
        let file = File::open(path).map_err(failed(Stage::Program, path.to_string_lossy()))?;
        self.files.insert(path, file);
        Ok(())
    }

    /// A listening socket.
    pub(crate) fn listener(&self, name: &str) -> io::Result<OwnedFd> {
        Ok(self.listeners.get(name).ok_or(io::ErrorKind::NotFound)?.try_clone()?.into())
    }

    /// What to execute for a process.
    pub(crate) fn program(&self, process: &ProcessSpec) -> PathBuf {
        let open = self.files.get(process.program.as_path());
        open.map_or_else(|| process.program.clone(), |file| format!("/proc/self/fd/{}", file.as_raw_fd()).into())
    }

    /// The descriptors of a process, with numbers beyond the ones that it is to have them under.
    pub(crate) fn descriptors(&self, process: &ProcessSpec) -> io::Result<Vec<OwnedFd>> {
        let missing = || io::Error::from(io::ErrorKind::NotFound);
        let duplicated = |descriptor: &DescriptorSpec| {
            let number = match descriptor {
                DescriptorSpec::Connected(name) => self.connected.get(name.as_str()).map(AsRawFd::as_raw_fd),
                DescriptorSpec::Listening(name) => self.listeners.get(name.as_str()).map(AsRawFd::as_raw_fd),
                DescriptorSpec::File(path) => self.files.get(path.as_path()).map(AsRawFd::as_raw_fd),
            };
            sys::duplicate_from(&number.ok_or_else(missing)?, wire::BEYOND_DESCRIPTORS)
        };
        process.descriptors.iter().map(duplicated).collect()
    }
}
