//! Standard input, read by a thread of its own: see `sandpen::client::stdin_channel`.

use std::io::{self, IsTerminal as _, Read};

use bytes::Bytes;
use sandpen::client::{StdinReceiver, stdin_channel};

use super::{CliError, stdio};

/// Most bytes of one read, the size of a pipe.
const CHUNK_BYTES: usize = 64 << 10;

/// Starts reading. The thread ends with the input, with the receiver, or with the process.
pub fn open() -> StdinReceiver {
    let (sender, receiver) = stdin_channel();
    let for_failure = sender.clone();
    let spawned = std::thread::Builder::new().name("stdin".to_owned()).spawn(move || {
        let mut stdin = stdio::stdin();
        let mut buffer = vec![0; CHUNK_BYTES];
        loop {
            let chunk = match stdin.read(&mut buffer) {
                Ok(0) => return,
                Ok(count) => Ok(Bytes::copy_from_slice(&buffer[..count])),
                Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
                Err(error) => Err(error),
            };
            let failed = chunk.is_err();
            if sender.blocking_send(chunk).is_err() || failed {
                return;
            }
        }
    });
    if let Err(error) = spawned {
        // The channel has room: nothing was sent yet.
        let _ = for_failure.try_send(Err(error));
    }
    receiver
}

/// The same for an archive, which nobody types.
pub fn open_archive() -> Result<StdinReceiver, CliError> {
    if io::stdin().is_terminal() { Err(CliError::ArchiveFromTerminal) } else { Ok(open()) }
}
