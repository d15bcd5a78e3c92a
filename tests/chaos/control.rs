//! The page that a writer and the test share (see `writer.c`). Reads and writes of the file, and the
//! writer's map of it, are one memory.

use std::fs::{File, OpenOptions};
use std::os::unix::fs::FileExt as _;
use std::path::Path;
use std::process::Command;

pub struct Control(File);

/// Bytes before and after the write that was under way.
#[derive(Debug, Clone, Copy)]
pub struct Written {
    pub done: u64,
    pub intent: u64,
}

impl Control {
    pub fn create(path: &Path) -> Self {
        let file = OpenOptions::new().read(true).write(true).create_new(true).open(path).unwrap();
        file.set_len(4096).unwrap();
        Self(file)
    }

    fn read(&self, word: u64) -> u64 {
        let mut bytes = [0; 8];
        self.0.read_exact_at(&mut bytes, word * 8).unwrap();
        u64::from_le_bytes(bytes)
    }

    fn write(&self, word: u64, value: u64) {
        self.0.write_all_at(&value.to_le_bytes(), word * 8).unwrap();
    }

    pub fn limit(&self) -> u64 {
        self.read(0)
    }

    pub fn raise_limit(&self, bytes: u64) {
        self.write(0, self.limit() + bytes);
    }

    pub fn finish(&self, code: u8) {
        self.write(1, u64::from(code) + 1);
    }

    pub fn written(&self) -> Written {
        // In this order: a write may be under way.
        let done = self.read(2);
        Written { done, intent: self.read(3).max(done) }
    }
}

/// Compiles `writer.c` into `dir`.
pub fn build_writer(dir: &Path) {
    let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/chaos/writer.c");
    let mut cc = Command::new("cc");
    cc.args(["-std=gnu11", "-Wall", "-Wextra", "-Werror", "-O1", "-o"]).arg(dir.join("writer")).arg(source);
    let output = cc.output().expect("a C compiler (package gcc)");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
}
