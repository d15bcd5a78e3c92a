//! How both sides come to keys that nobody else has: what they offer, and what follows of it. Pure, but for random bytes.

use ring::agreement::{EphemeralPrivateKey, UnparsedPublicKey, X25519, agree_ephemeral};
use ring::digest::{Context, SHA256};
use ring::rand::{SecureRandom as _, SystemRandom};

use super::TransportError;
use super::cipher::{CipherName, IV, Opener, Sealer};
use crate::host_key::{self, HostKey};
use crate::message;
use crate::wire::{Reader, Writer};

/// How a secret is agreed on; both names are the same thing.
const METHODS: [&str; 2] = ["curve25519-sha256", "curve25519-sha256@libssh.org"];
/// Numbers of packets begin anew with new keys, and nothing else may come before them: no packet can be left out unseen.
const STRICT_OURS: &str = "kex-strict-s-v00@openssh.com";
const STRICT_THEIRS: &str = "kex-strict-c-v00@openssh.com";
/// For ciphers that have none of their own, which ours are not; a list may not be empty.
const MAC: &str = "hmac-sha2-256";
const COMPRESSION: &str = "none";
/// Bytes of a hash.
pub(super) const HASH: usize = 32;

/// What both sides say and are, in the order of the hash.
pub(super) struct Said<'a> {
    pub(super) their_ident: &'a [u8],
    pub(super) our_ident: &'a [u8],
    pub(super) their_offer: &'a [u8],
    pub(super) our_offer: &'a [u8],
}

/// What both sides can do.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Agreed {
    pub(super) theirs: CipherName,
    pub(super) ours: CipherName,
    /// Whether the next message is of a guess that was wrong.
    pub(super) ignores_next: bool,
    pub(super) is_strict: bool,
}

/// What we offer.
pub(super) fn offer() -> Result<Vec<u8>, TransportError> {
    let mut cookie = [0; 16];
    SystemRandom::new().fill(&mut cookie).map_err(|_| TransportError::Cryptography)?;
    let methods = [METHODS[0], METHODS[1], STRICT_OURS].join(",");
    let ciphers = CipherName::ALL.map(|(name, _)| name).join(",");
    let lists = [&methods, host_key::KIND, &ciphers, &ciphers, MAC, MAC, COMPRESSION, COMPRESSION, "", ""];
    let lists =
        lists.iter().fold(Writer::message(message::KEXINIT).raw(&cookie), |so_far, list| so_far.bytes(list.as_bytes()));
    Ok(lists.bool(false).u32(0).done())
}

/// What follows of their offer.
pub(super) fn agree(offer: &[u8]) -> Result<Agreed, TransportError> {
    let mut reader = Reader::new(offer);
    reader.take(1 + 16)?;
    let mut list = || reader.text().map(|list| list.split(',').collect::<Vec<_>>());
    let (methods, keys, theirs, ours) = (list()?, list()?, list()?, list()?);
    let (_, _, to_us, to_them) = (list()?, list()?, list()?, list()?);
    let (_, _) = (list()?, list()?);
    let is_guessed = reader.bool()?;
    let none = |what, offered: &[&str]| TransportError::NothingInCommon { what, offered: offered.join(",") };
    let cipher = |offered: &[&str]| {
        let known = |name: &&str| CipherName::ALL.iter().find(|(known, _)| known == name).map(|(_, cipher)| *cipher);
        offered.iter().find_map(known).ok_or_else(|| none("ciphers", offered))
    };
    if !methods.iter().any(|method| METHODS.contains(method)) {
        return Err(none("key exchange methods", &methods));
    }
    if !keys.contains(&host_key::KIND) {
        return Err(none("kinds of host keys", &keys));
    }
    for offered in [&to_us, &to_them] {
        if !offered.contains(&COMPRESSION) {
            return Err(none("ways without compression", offered));
        }
    }
    let is_right =
        methods.first().is_some_and(|first| METHODS[..1].contains(first)) && keys.first() == Some(&host_key::KIND);
    Ok(Agreed {
        theirs: cipher(&theirs)?,
        ours: cipher(&ours)?,
        ignores_next: is_guessed && !is_right,
        is_strict: methods.contains(&STRICT_THEIRS),
    })
}

/// What comes of an exchange.
pub(super) struct Exchanged {
    /// Our answer.
    pub(super) reply: Vec<u8>,
    pub(super) hash: [u8; HASH],
    secret: Vec<u8>,
}

/// Answers their half.
pub(super) fn exchange(said: &Said<'_>, theirs: &[u8], key: &HostKey) -> Result<Exchanged, TransportError> {
    let broken = |_| TransportError::Cryptography;
    let private = EphemeralPrivateKey::generate(&X25519, &SystemRandom::new()).map_err(broken)?;
    let public = private.compute_public_key().map_err(broken)?;
    let secret = agree_ephemeral(private, &UnparsedPublicKey::new(&X25519, theirs), |secret| {
        Writer::default().mpint(secret).done()
    })
    .map_err(|_| TransportError::Exchange)?;
    let mut all = Writer::default();
    let host_key = key.public();
    for part in [said.their_ident, said.our_ident, said.their_offer, said.our_offer, &host_key, theirs, public.as_ref()]
    {
        all = all.bytes(part);
    }
    let hash = hash(&[&all.raw(&secret).done()]);
    let reply = Writer::message(message::KEX_REPLY).bytes(&host_key).bytes(public.as_ref()).bytes(&key.sign(&hash));
    Ok(Exchanged { reply: reply.done(), hash, secret })
}

fn hash(parts: &[&[u8]]) -> [u8; HASH] {
    let mut context = Context::new(&SHA256);
    for part in parts {
        context.update(part);
    }
    let mut hash = [0; HASH];
    hash.copy_from_slice(context.finish().as_ref());
    hash
}

impl Exchanged {
    /// So many bytes of a key. `letter` says which one.
    fn key(&self, letter: u8, session: &[u8; HASH], len: usize) -> Vec<u8> {
        let mut key = hash(&[&self.secret, &self.hash, &[letter], session]).to_vec();
        while key.len() < len {
            let more = hash(&[&self.secret, &self.hash, &key]);
            key.extend_from_slice(&more);
        }
        key.truncate(len);
        key
    }

    fn iv(&self, letter: u8, session: &[u8; HASH]) -> [u8; IV] {
        let mut iv = [0; IV];
        iv.copy_from_slice(&self.key(letter, session, IV));
        iv
    }

    /// The keys of a session, which the hash of the first exchange is the name of.
    pub(super) fn keys(&self, agreed: Agreed, session: &[u8; HASH]) -> Result<(Opener, Sealer), TransportError> {
        let opener = self.key(b'C', session, agreed.theirs.key_len());
        let sealer = self.key(b'D', session, agreed.ours.key_len());
        Ok((
            Opener::new(agreed.theirs, &opener, self.iv(b'A', session))?,
            Sealer::new(agreed.ours, &sealer, self.iv(b'B', session))?,
        ))
    }
}
