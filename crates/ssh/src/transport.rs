//! Messages to packets and back, with keys that are renewed whenever the client wants: RFC 4253. No I/O.
//!
//! ```text
//!   Ident ──their line──▶ Offered ──their KEXINIT──▶ Agreed ──their half: our answer, NEWKEYS──▶ Awaited ──NEWKEYS──▶ Idle
//!                            ▲                                                                                        │
//!                            └────────────────────────── their KEXINIT: ours goes out as well ────────────────────────┘
//!   sent meanwhile: kept from our KEXINIT on to our NEWKEYS
//! ```
//!
//! What protects here is little: both ends are processes of one user, and between them is a pipe. SSH has no cipher that does
//! nothing, so it is done as between hosts. A key of the client's own is never asked for.

mod cipher;
mod kex;
#[cfg(test)]
pub(crate) mod tests;

use std::sync::Arc;

use crate::host_key::HostKey;
use crate::message;
use crate::wire::{Reader, WireError, Writer};
use cipher::{Opener, Sealer};
use kex::{Agreed, HASH};

/// Most bytes of the client's first line.
const IDENT_MAX: usize = 255;
/// Our first line.
const IDENT: &str = concat!("SSH-2.0-sandpen_", env!("CARGO_PKG_VERSION"));
/// So many packets with one key at most; clients renew it sooner.
const PACKETS_MAX: u64 = 1 << 32;

/// Why a connection cannot go on.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum TransportError {
    /// Not the protocol, or an old one.
    #[error("the client does not speak SSH 2: it begins with {0:?}")]
    Ident(String),
    /// A packet of such a length.
    #[error("a packet of {0} bytes, which cannot be one")]
    Length(usize),
    /// More padding than packet, or none.
    #[error("a packet with {0} bytes of padding")]
    Padding(u8),
    /// A packet that nobody with the key has made.
    #[error("a packet that was changed on its way")]
    Forged,
    /// Nothing that both can do.
    #[error("there are no {what} that both sides have; the client offers {offered}")]
    NothingInCommon {
        /// What.
        what: &'static str,
        /// What the client offers.
        offered: String,
    },
    /// A half of a secret that is none.
    #[error("the client's half of the secret is none")]
    Exchange,
    /// A message where it has no place.
    #[error("message {number} while {when}")]
    Unexpected {
        /// Its number.
        number: u8,
        /// When.
        when: &'static str,
    },
    /// A message that cannot be read.
    #[error(transparent)]
    Wire(#[from] WireError),
    /// The same keys for too long.
    #[error("the client did not renew the keys in time")]
    OldKeys,
    /// No random bytes, or a key of the wrong size.
    #[error("the cryptography does not work on this system")]
    Cryptography,
    /// The client goes, and says why.
    #[error("the client has left: {0}")]
    Disconnected(String),
}

/// How far the keys are.
enum Stage {
    /// Its first line is waited for.
    Ident,
    /// We have offered, and its offer is waited for.
    Offered { ours: Vec<u8> },
    /// Its half of the secret is waited for.
    Agreed { ours: Vec<u8>, theirs: Vec<u8>, agreed: Agreed },
    /// The last message with its old keys is waited for.
    Awaited { opener: Opener },
    /// Both use the same keys.
    Idle,
}

/// One side of a connection: the server's.
pub struct Transport {
    key: Arc<HostKey>,
    stage: Stage,
    their_ident: Vec<u8>,
    session: Option<[u8; HASH]>,
    is_strict: bool,
    /// Until the client uses keys.
    is_first: bool,
    /// Whether the next message is of a wrong guess.
    ignores_next: bool,
    came: Vec<u8>,
    opener: Opener,
    opened: u32,
    opened_with_key: u64,
    out: Vec<u8>,
    sealer: Sealer,
    sealed: u32,
    sealed_with_key: u64,
    /// Waits for our new keys.
    kept: Vec<Vec<u8>>,
}

impl Transport {
    /// One that has said who it is.
    pub fn new(key: Arc<HostKey>) -> Self {
        Self {
            key,
            stage: Stage::Ident,
            their_ident: Vec::new(),
            session: None,
            is_strict: false,
            is_first: true,
            ignores_next: false,
            came: Vec::new(),
            opener: Opener::clear(),
            opened: 0,
            opened_with_key: 0,
            out: format!("{IDENT}\r\n").into_bytes(),
            sealer: Sealer::clear(),
            sealed: 0,
            sealed_with_key: 0,
            kept: Vec::new(),
        }
    }

    /// Takes what came; [`Transport::next_message`] says what it is. To be called again when that has nothing more.
    pub fn push(&mut self, bytes: &[u8]) {
        self.came.extend_from_slice(bytes);
    }

    /// Bytes for the client that wait to be written.
    pub fn output(&self) -> usize {
        self.out.len()
    }

    /// Takes them.
    pub fn take_output(&mut self) -> Vec<u8> {
        std::mem::take(&mut self.out)
    }

    /// Whether what is sent now waits for new keys.
    pub fn is_held(&self) -> bool {
        !matches!(self.stage, Stage::Idle | Stage::Awaited { .. })
    }

    /// Sends a message, or keeps it for the new keys.
    ///
    /// # Errors
    /// [`TransportError::OldKeys`], [`TransportError::Cryptography`].
    pub fn send(&mut self, message: Vec<u8>) -> Result<(), TransportError> {
        if self.is_held() {
            self.kept.push(message);
            return Ok(());
        }
        self.seal(&message)
    }

    /// Says that the last message is none that is known here.
    ///
    /// # Errors
    /// As [`Transport::send`].
    pub fn reject(&mut self) -> Result<(), TransportError> {
        let number = self.opened.wrapping_sub(1);
        self.send(Writer::message(message::UNIMPLEMENTED).u32(number).done())
    }

    /// Says goodbye, whatever is waited for.
    pub fn disconnect(&mut self, reason: u32, text: &str) {
        if !matches!(self.stage, Stage::Ident) {
            let message = Writer::message(message::DISCONNECT).u32(reason).bytes(text.as_bytes()).bytes(b"");
            // There is nothing after it.
            let _ = self.seal(&message.done());
        }
    }

    fn seal(&mut self, message: &[u8]) -> Result<(), TransportError> {
        self.sealed_with_key += 1;
        if self.sealed_with_key > PACKETS_MAX {
            return Err(TransportError::OldKeys);
        }
        self.sealer.seal(self.sealed, message, &mut self.out)?;
        self.sealed = self.sealed.wrapping_add(1);
        Ok(())
    }

    /// The next message that is not about keys. `None`: more bytes are needed.
    ///
    /// # Errors
    /// [`TransportError`]: it is over.
    pub fn next_message(&mut self) -> Result<Option<Vec<u8>>, TransportError> {
        if matches!(self.stage, Stage::Ident) && !self.identify()? {
            return Ok(None);
        }
        loop {
            let Some(len) = self.opener.packet_len(self.opened, &self.came)? else { return Ok(None) };
            if self.came.len() < len {
                return Ok(None);
            }
            let rest = self.came.split_off(len);
            let mut packet = std::mem::replace(&mut self.came, rest);
            self.opened_with_key += 1;
            if self.opened_with_key > PACKETS_MAX {
                return Err(TransportError::OldKeys);
            }
            let message = self.opener.open(self.opened, &mut packet)?;
            self.opened = self.opened.wrapping_add(1);
            if let Some(message) = self.hear(message)? {
                return Ok(Some(message));
            }
        }
    }

    /// Reads its first line; whether that is there.
    fn identify(&mut self) -> Result<bool, TransportError> {
        let end = self.came.iter().take(IDENT_MAX).position(|byte| *byte == b'\n');
        let shown =
            |bytes: &[u8]| TransportError::Ident(String::from_utf8_lossy(&bytes[..bytes.len().min(40)]).into_owned());
        let Some(end) = end else {
            let is_other = !b"SSH-2.0-".starts_with(&self.came[..self.came.len().min(8)]);
            return if is_other || self.came.len() >= IDENT_MAX { Err(shown(&self.came)) } else { Ok(false) };
        };
        let rest = self.came.split_off(end + 1);
        let mut line = std::mem::replace(&mut self.came, rest);
        line.truncate(end);
        if line.last() == Some(&b'\r') {
            line.pop();
        }
        if !line.starts_with(b"SSH-2.0-") {
            return Err(shown(&line));
        }
        self.their_ident = line;
        let ours = kex::offer()?;
        self.seal(&ours)?;
        self.stage = Stage::Offered { ours };
        Ok(true)
    }

    fn unexpected(number: u8, when: &'static str) -> TransportError {
        TransportError::Unexpected { number, when }
    }

    /// Whether nothing but the exchange itself may come.
    fn is_strictly_first(&self) -> bool {
        self.is_strict && self.is_first
    }

    fn hear(&mut self, message: Vec<u8>) -> Result<Option<Vec<u8>>, TransportError> {
        let number = *message.first().ok_or(WireError::Short)?;
        if std::mem::take(&mut self.ignores_next) {
            return Ok(None);
        }
        match number {
            message::DISCONNECT => {
                let mut reader = Reader::new(&message[1..]);
                reader.u32()?;
                Err(TransportError::Disconnected(String::from_utf8_lossy(reader.bytes()?).into_owned()))
            }
            message::IGNORE | message::UNIMPLEMENTED | message::DEBUG | message::EXT_INFO => {
                match self.is_strictly_first() {
                    true => Err(Self::unexpected(number, "the first keys are made")),
                    false => Ok(None),
                }
            }
            message::KEXINIT | message::NEWKEYS | message::KEX_INIT => self.renew(number, message).map(|()| None),
            _ if matches!(self.stage, Stage::Idle) => Ok(Some(message)),
            _ => Err(Self::unexpected(number, "keys are made")),
        }
    }

    /// What is about keys.
    fn renew(&mut self, number: u8, message: Vec<u8>) -> Result<(), TransportError> {
        match (std::mem::replace(&mut self.stage, Stage::Idle), number) {
            (Stage::Idle, message::KEXINIT) => {
                let ours = kex::offer()?;
                self.seal(&ours)?;
                self.agree(ours, message)
            }
            (Stage::Offered { ours }, message::KEXINIT) => self.agree(ours, message),
            (Stage::Agreed { ours, theirs, agreed }, message::KEX_INIT) => {
                let half = Reader::new(&message[1..]).bytes()?;
                let said = kex::Said {
                    their_ident: &self.their_ident,
                    our_ident: IDENT.as_bytes(),
                    their_offer: &theirs,
                    our_offer: &ours,
                };
                let exchanged = kex::exchange(&said, half, &self.key)?;
                let session = *self.session.get_or_insert(exchanged.hash);
                let (opener, sealer) = exchanged.keys(agreed, &session)?;
                self.seal(&exchanged.reply)?;
                self.seal(&[message::NEWKEYS])?;
                (self.sealer, self.sealed_with_key) = (sealer, 0);
                if self.is_strict {
                    self.sealed = 0;
                }
                self.stage = Stage::Awaited { opener };
                for message in std::mem::take(&mut self.kept) {
                    self.seal(&message)?;
                }
                Ok(())
            }
            (Stage::Awaited { opener }, message::NEWKEYS) => {
                (self.opener, self.opened_with_key, self.is_first) = (opener, 0, false);
                if self.is_strict {
                    self.opened = 0;
                }
                Ok(())
            }
            _ => Err(Self::unexpected(number, "it has no place")),
        }
    }

    fn agree(&mut self, ours: Vec<u8>, theirs: Vec<u8>) -> Result<(), TransportError> {
        let agreed = kex::agree(&theirs)?;
        if self.is_first {
            self.is_strict = agreed.is_strict;
            if self.is_strict && self.opened != 1 {
                return Err(Self::unexpected(message::KEXINIT, "another message came first"));
            }
        }
        self.ignores_next = agreed.ignores_next;
        self.stage = Stage::Agreed { ours, theirs, agreed };
        Ok(())
    }
}
