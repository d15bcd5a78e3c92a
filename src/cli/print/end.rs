//! The end of a sandbox: its exit code, and what is said of it.

use std::io::{self, Read as _, Seek as _, SeekFrom};
use std::path::Path;

use sandpen::api::{Sandbox, Word};
use sandpen_types::state::FailureKind;

use super::super::FAILED;
use super::{CliError, bytes, message, short_name, visible};

/// The end of a sandbox in the foreground: says what is not the workload's doing, answers the exit
/// code. `kept`: its logs stay.
pub fn ended(sandbox: &Sandbox, kept: bool) -> u8 {
    let name = short_name(&sandbox.config_file, &sandbox.name);
    match &sandbox.failure {
        Some(failure) => {
            message(&format!("sandbox {name}: {failure}"));
            if matches!(
                sandbox.failure_kind.as_ref().and_then(Word::known),
                Some(FailureKind::VmmLost | FailureKind::CompanionLost | FailureKind::BootTimedOut)
            ) {
                last_words(&sandbox.vmm_log);
                if kept {
                    message(&format!("all that its microVM said: sandpen logs --vmm {name}"));
                }
            }
        }
        None if sandbox.shell_code().is_none() => message(&format!("sandbox {name}: its exit status is unknown")),
        None => {}
    }
    if let Some(process) = &sandbox.out_of_memory {
        let process = if process.is_empty() { "a process".to_owned() } else { visible(process) };
        let memory = sandbox.memory_mib;
        message(&format!(
            "sandbox {name}: its memory of {memory} MiB was used up, and its kernel ended {process}; `run --memory` gives more"
        ));
    }
    sandbox.run_code()
}

/// The end of what the VMM and the guest's console said, on stderr.
fn last_words(log: &Path) {
    const LINES: usize = 3;
    const LINE_CHARS: usize = 300;
    const END_BYTES: u64 = 4096;
    let read_end = || -> io::Result<Vec<u8>> {
        let mut file = std::fs::File::open(log)?;
        let len = file.seek(SeekFrom::End(0))?;
        file.seek(SeekFrom::Start(len.saturating_sub(END_BYTES)))?;
        let mut end = Vec::new();
        file.take(END_BYTES).read_to_end(&mut end)?;
        Ok(end)
    };
    // Without it the message before is all that is known.
    let Ok(end) = read_end() else { return };
    for line in last_lines(&String::from_utf8_lossy(&end), LINES) {
        message(&format!("  {}", line.chars().take(LINE_CHARS).collect::<String>()));
    }
}

fn last_lines(text: &str, count: usize) -> Vec<&str> {
    let lines: Vec<_> = text.lines().filter(|line| !line.trim().is_empty()).collect();
    lines[lines.len().saturating_sub(count)..].to_vec()
}

/// The exit code of an ended sandbox on stdout.
pub fn exit_code(sandbox: &Sandbox) -> Result<u8, CliError> {
    if let Some(code) = sandbox.shell_code() {
        return bytes(format!("{code}\n").as_bytes());
    }
    ended(sandbox, !sandbox.remove_on_end);
    Ok(FAILED)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_last_lines_are_those_with_words() {
        assert_eq!(last_lines("a\nb\n\nc\n  \n", 2), ["b", "c"]);
        assert_eq!(last_lines("a", 2), ["a"]);
        assert!(last_lines("", 2).is_empty());
    }
}
