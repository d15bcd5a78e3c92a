//! Packets as they go over the wire: clear ones, and what each cipher makes of them. Pure.
//!
//! ```text
//!   length (4) │ padding length (1) │ payload │ padding (4 and more) │ tag (16, but for clear ones)
//! ```

use ring::aead::chacha20_poly1305_openssh as chacha;
use ring::aead::{AES_128_GCM, AES_256_GCM, Aad, Algorithm, LessSafeKey, Nonce, UnboundKey};

use super::TransportError;

/// Bytes of a packet's length.
const LENGTH: usize = 4;
/// Bytes of a tag.
const TAG: usize = 16;
/// Bytes of a nonce of AES-GCM.
pub(super) const IV: usize = 12;
/// Least padding.
const PADDING_MIN: usize = 4;
/// Longest packet that is accepted, as of OpenSSH.
const PACKET_MAX: usize = 256 << 10;

/// What a packet is made unreadable with.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum CipherName {
    ChaCha,
    Aes256,
    Aes128,
}

impl CipherName {
    pub(super) const ALL: [(&str, Self); 3] = [
        ("chacha20-poly1305@openssh.com", Self::ChaCha),
        ("aes256-gcm@openssh.com", Self::Aes256),
        ("aes128-gcm@openssh.com", Self::Aes128),
    ];

    /// Bytes of its key.
    pub(super) fn key_len(self) -> usize {
        match self {
            Self::ChaCha => chacha::KEY_LEN,
            Self::Aes256 => 32,
            Self::Aes128 => 16,
        }
    }
}

/// The key of one direction.
enum Key<C> {
    Clear,
    ChaCha(Box<C>),
    Aes { key: Box<LessSafeKey>, iv: [u8; IV] },
}

impl<C> Key<C> {
    fn new(name: CipherName, key: &[u8], iv: [u8; IV], chacha: fn(&[u8; 64]) -> C) -> Result<Self, TransportError> {
        let aes = |algorithm: &'static Algorithm| {
            let key = UnboundKey::new(algorithm, key).map_err(|_| TransportError::Cryptography)?;
            Ok(Self::Aes { key: Box::new(LessSafeKey::new(key)), iv })
        };
        match name {
            CipherName::ChaCha => {
                let key = key.try_into().map_err(|_| TransportError::Cryptography)?;
                Ok(Self::ChaCha(Box::new(chacha(key))))
            }
            CipherName::Aes256 => aes(&AES_256_GCM),
            CipherName::Aes128 => aes(&AES_128_GCM),
        }
    }

    fn block(&self) -> usize {
        if matches!(self, Self::Aes { .. }) { 16 } else { 8 }
    }
}

/// The nonce of this packet; the next one gets another.
fn next_nonce(iv: &mut [u8; IV]) -> Nonce {
    let nonce = Nonce::assume_unique_for_key(*iv);
    let (_, counter) = iv.split_at_mut(IV - 8);
    for byte in counter.iter_mut().rev() {
        *byte = byte.wrapping_add(1);
        if *byte != 0 {
            break;
        }
    }
    nonce
}

/// Makes packets.
pub(super) struct Sealer(Key<chacha::SealingKey>);

impl Sealer {
    pub(super) fn clear() -> Self {
        Self(Key::Clear)
    }

    pub(super) fn new(name: CipherName, key: &[u8], iv: [u8; IV]) -> Result<Self, TransportError> {
        Key::new(name, key, iv, chacha::SealingKey::new).map(Self)
    }

    /// Appends a packet. `number` counts them.
    pub(super) fn seal(&mut self, number: u32, payload: &[u8], out: &mut Vec<u8>) -> Result<(), TransportError> {
        let block = self.0.block();
        // The length is a part of what is padded where it is no part of what the cipher gets for itself.
        let counted = 1 + payload.len() + if matches!(self.0, Key::Clear) { LENGTH } else { 0 };
        let padding = PADDING_MIN + (block - (counted + PADDING_MIN) % block) % block;
        let length = 1 + payload.len() + padding;
        let begin = out.len();
        let head = u32::try_from(length).map_err(|_| TransportError::Length(length))?.to_be_bytes();
        out.extend_from_slice(&head);
        // Of at most 19.
        out.push(u8::try_from(padding).map_err(|_| TransportError::Length(length))?);
        out.extend_from_slice(payload);
        // What is sealed may be padded with anything.
        out.resize(begin + LENGTH + length, 0);
        match &mut self.0 {
            Key::Clear => {}
            Key::ChaCha(key) => {
                let mut tag = [0; TAG];
                key.seal_in_place(number, &mut out[begin..], &mut tag);
                out.extend_from_slice(&tag);
            }
            Key::Aes { key, iv } => {
                let nonce = next_nonce(iv);
                let sealed = &mut out[begin + LENGTH..];
                let tag = key
                    .seal_in_place_separate_tag(nonce, Aad::from(head), sealed)
                    .map_err(|_| TransportError::Cryptography)?;
                out.extend_from_slice(tag.as_ref());
            }
        }
        Ok(())
    }
}

/// Opens packets.
pub(super) struct Opener(Key<chacha::OpeningKey>);

impl Opener {
    pub(super) fn clear() -> Self {
        Self(Key::Clear)
    }

    pub(super) fn new(name: CipherName, key: &[u8], iv: [u8; IV]) -> Result<Self, TransportError> {
        Key::new(name, key, iv, chacha::OpeningKey::new).map(Self)
    }

    /// The bytes of the packet that begins here; `None` before its length is there.
    pub(super) fn packet_len(&self, number: u32, bytes: &[u8]) -> Result<Option<usize>, TransportError> {
        let Some(head) = bytes.first_chunk::<LENGTH>() else { return Ok(None) };
        let head = if let Key::ChaCha(key) = &self.0 { key.decrypt_packet_length(number, *head) } else { *head };
        let length = usize::try_from(u32::from_be_bytes(head)).unwrap_or(usize::MAX);
        let tag = if matches!(self.0, Key::Clear) { 0 } else { TAG };
        let is_whole = (length.saturating_add(if tag == 0 { LENGTH } else { 0 })).is_multiple_of(self.0.block());
        if !(1 + PADDING_MIN..=PACKET_MAX).contains(&length) || !is_whole {
            return Err(TransportError::Length(length));
        }
        Ok(Some(LENGTH + length + tag))
    }

    /// The payload of a whole packet.
    pub(super) fn open(&mut self, number: u32, packet: &mut [u8]) -> Result<Vec<u8>, TransportError> {
        let opened: &[u8] = match &mut self.0 {
            Key::Clear => packet.get(LENGTH..).unwrap_or_default(),
            Key::ChaCha(key) => {
                let (sealed, tag) = packet.split_last_chunk_mut::<TAG>().ok_or(TransportError::Forged)?;
                key.open_in_place(number, sealed, tag).map_err(|_| TransportError::Forged)?
            }
            Key::Aes { key, iv } => {
                let (head, sealed) = packet.split_first_chunk_mut::<LENGTH>().ok_or(TransportError::Forged)?;
                let nonce = next_nonce(iv);
                key.open_in_place(nonce, Aad::from(*head), sealed).map_err(|_| TransportError::Forged)?
            }
        };
        let (padding, rest) = opened.split_first().ok_or(TransportError::Length(0))?;
        let payload = rest.len().checked_sub(usize::from(*padding)).filter(|_| usize::from(*padding) >= PADDING_MIN);
        Ok(rest[..payload.ok_or(TransportError::Padding(*padding))?].to_vec())
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn pair(cipher: usize) -> (Sealer, Opener) {
        let key: Vec<u8> = (0..64).collect();
        match CipherName::ALL.get(cipher) {
            None => (Sealer::clear(), Opener::clear()),
            Some((_, name)) => {
                let key = &key[..name.key_len()];
                // A counter that goes over.
                let iv = [0xff; IV];
                (Sealer::new(*name, key, iv).unwrap(), Opener::new(*name, key, iv).unwrap())
            }
        }
    }

    proptest! {
        #[test]
        fn what_is_sealed_is_opened(cipher in 0..4_usize, payloads in proptest::collection::vec(0..2000_usize, 1..5)) {
            let (mut sealer, mut opener) = pair(cipher);
            let mut bytes = Vec::new();
            for (number, len) in (0..).zip(&payloads) {
                sealer.seal(number, &vec![7; *len], &mut bytes).unwrap();
            }
            for (number, len) in (0..).zip(&payloads) {
                prop_assert_eq!(opener.packet_len(number, &bytes[..3]).unwrap(), None);
                let whole = opener.packet_len(number, &bytes).unwrap().unwrap();
                let mut packet: Vec<u8> = bytes.drain(..whole).collect();
                prop_assert_eq!(opener.open(number, &mut packet).unwrap(), vec![7; *len]);
            }
            prop_assert!(bytes.is_empty());
        }

        #[test]
        fn any_bytes_are_opened_or_refused(cipher in 0..4_usize, mut bytes in proptest::collection::vec(any::<u8>(), 0..80)) {
            let (_, mut opener) = pair(cipher);
            let _ = opener.packet_len(0, &bytes);
            let opened = opener.open(0, &mut bytes);
            prop_assert!(cipher == 3 || opened.is_err(), "{:?}", opened);
        }
    }

    #[test]
    fn one_changed_bit_is_seen() {
        for cipher in 0..3 {
            let (mut sealer, mut opener) = pair(cipher);
            let mut bytes = Vec::new();
            sealer.seal(0, b"hello", &mut bytes).unwrap();
            let last = bytes.len() - 1;
            bytes[last] ^= 1;
            assert!(matches!(opener.open(0, &mut bytes), Err(TransportError::Forged)), "{cipher}");
        }
    }

    #[test]
    fn lengths_that_cannot_be_are_refused() {
        for length in [0, 1, 11, 13, PACKET_MAX + 4, usize::try_from(u32::MAX).unwrap()] {
            let head = u32::try_from(length).unwrap().to_be_bytes();
            assert!(matches!(Opener::clear().packet_len(0, &head), Err(TransportError::Length(_))), "{length}");
        }
        assert_eq!(Opener::clear().packet_len(0, &[0, 0, 0, 12]).unwrap(), Some(16));
    }
}
