//! A server's side, with a client that is played here.

use ring::agreement::{EphemeralPrivateKey, UnparsedPublicKey, X25519, agree_ephemeral};
use ring::rand::SystemRandom;
use ring::signature::{ED25519, UnparsedPublicKey as UnparsedKey};

use super::cipher::CipherName;
use super::*;

pub(crate) fn key() -> Arc<HostKey> {
    let dir = tempfile::tempdir().unwrap();
    Arc::new(HostKey::of_file(&dir.path().join("key")).unwrap())
}

const METHODS: &str = "curve25519-sha256,kex-strict-c-v00@openssh.com";

/// What a client offers.
fn offer(methods: &str, ciphers: &str, is_guess: bool) -> Vec<u8> {
    let lists = [methods, "ssh-ed25519", ciphers, ciphers, "", "", "none", "none", "", ""];
    let lists =
        lists.iter().fold(Writer::message(message::KEXINIT).raw(&[7; 16]), |all, list| all.bytes(list.as_bytes()));
    lists.bool(is_guess).u32(0).done()
}

/// What begins to make new keys.
pub(crate) fn renewal() -> Writer {
    Writer::default().raw(&offer(METHODS, "chacha20-poly1305@openssh.com", false))
}

/// A client that has said who it is.
pub(crate) struct Client {
    pub(crate) server: Transport,
    sealer: Sealer,
    opener: Opener,
    sealed: u32,
    opened: u32,
    came: Vec<u8>,
    session: Option<[u8; HASH]>,
}

impl Client {
    pub(crate) fn new() -> Self {
        let mut server = Transport::new(key());
        server.push(b"SSH-2.0-test with words\r\n");
        assert_eq!(server.next_message(), Ok(None));
        let mut came = server.take_output();
        let ident = came.drain(..IDENT.len() + 2).collect::<Vec<_>>();
        assert_eq!(ident, format!("{IDENT}\r\n").into_bytes());
        Self { server, sealer: Sealer::clear(), opener: Opener::clear(), sealed: 0, opened: 0, came, session: None }
    }

    fn send(&mut self, message: &[u8]) -> Result<Option<Vec<u8>>, TransportError> {
        let mut out = Vec::new();
        self.sealer.seal(self.sealed, message, &mut out).unwrap();
        self.sealed += 1;
        // In two pieces.
        self.server.push(&out[..3]);
        assert_eq!(self.server.next_message(), Ok(None));
        self.server.push(&out[3..]);
        self.server.next_message()
    }

    pub(crate) fn receive(&mut self) -> Vec<u8> {
        self.came.extend(self.server.take_output());
        let len = self.opener.packet_len(self.opened, &self.came).unwrap().unwrap();
        let mut packet: Vec<u8> = self.came.drain(..len).collect();
        let message = self.opener.open(self.opened, &mut packet).unwrap();
        self.opened += 1;
        message
    }

    /// With keys.
    pub(crate) fn ready() -> Self {
        let mut client = Self::new();
        client.exchange(CipherName::ChaCha);
        client
    }

    /// A packet for the server.
    pub(crate) fn sealed(&mut self, message: &[u8]) -> Vec<u8> {
        let mut out = Vec::new();
        self.sealer.seal(self.sealed, message, &mut out).unwrap();
        self.sealed += 1;
        out
    }

    /// Takes what the server sent.
    pub(crate) fn came(&mut self, bytes: &[u8]) {
        self.came.extend_from_slice(bytes);
    }

    /// Whether all of it was received.
    pub(crate) fn has_all(&self) -> bool {
        self.came.is_empty()
    }

    /// Makes keys; whether that is for the first time follows from what was.
    fn exchange(&mut self, cipher: CipherName) {
        let (name, _) = CipherName::ALL.iter().find(|(_, known)| *known == cipher).unwrap();
        let ours = offer(METHODS, name, false);
        self.send(&ours).unwrap();
        let theirs = self.receive();
        assert_eq!(theirs[0], message::KEXINIT);
        self.answer(cipher, &ours, &theirs);
    }

    fn answer(&mut self, cipher: CipherName, ours: &[u8], theirs: &[u8]) {
        let private = EphemeralPrivateKey::generate(&X25519, &SystemRandom::new()).unwrap();
        let public = private.compute_public_key().unwrap();
        assert_eq!(self.send(&Writer::message(message::KEX_INIT).bytes(public.as_ref()).done()), Ok(None));
        let reply = self.receive();
        assert_eq!(reply[0], message::KEX_REPLY);
        let mut reader = Reader::new(&reply[1..]);
        let (host_key, half, signature) = (reader.bytes().unwrap(), reader.bytes().unwrap(), reader.bytes().unwrap());
        let secret = agree_ephemeral(private, &UnparsedPublicKey::new(&X25519, half), |secret| {
            Writer::default().mpint(secret).done()
        })
        .unwrap();
        let parts = [b"SSH-2.0-test with words", IDENT.as_bytes(), ours, theirs, host_key, public.as_ref(), half];
        let all = parts.iter().fold(Writer::default(), |all, part| all.bytes(part)).raw(&secret).done();
        let hash: [u8; HASH] = ring::digest::digest(&ring::digest::SHA256, &all).as_ref().try_into().unwrap();
        let (mut key, mut signature) = (Reader::new(host_key), Reader::new(signature));
        assert_eq!((key.text(), signature.text()), (Ok("ssh-ed25519"), Ok("ssh-ed25519")));
        UnparsedKey::new(&ED25519, key.bytes().unwrap()).verify(&hash, signature.bytes().unwrap()).unwrap();
        let session = *self.session.get_or_insert(hash);
        assert_eq!(self.receive(), [message::NEWKEYS]);
        assert_eq!(self.send(&[message::NEWKEYS]), Ok(None));
        let make = |letter: u8, len: usize| {
            let mut key = Vec::new();
            while key.len() < len {
                let more = match key.is_empty() {
                    true => [&secret[..], &hash, &[letter], &session].concat(),
                    false => [&secret[..], &hash, &key].concat(),
                };
                key.extend_from_slice(ring::digest::digest(&ring::digest::SHA256, &more).as_ref());
            }
            key.truncate(len);
            key
        };
        let iv = |letter| make(letter, cipher::IV).try_into().unwrap();
        self.sealer = Sealer::new(cipher, &make(b'C', cipher.key_len()), iv(b'A')).unwrap();
        self.opener = Opener::new(cipher, &make(b'D', cipher.key_len()), iv(b'B')).unwrap();
        (self.sealed, self.opened) = (0, 0);
    }
}

#[test]
fn messages_go_both_ways_and_over_new_keys_with_every_cipher() {
    for (_, cipher) in CipherName::ALL {
        let mut client = Client::new();
        client.exchange(cipher);
        for number in 0..3_u8 {
            assert_eq!(client.send(&[90, number]), Ok(Some(vec![90, number])), "{cipher:?}");
            client.server.send(vec![91, number]).unwrap();
            assert_eq!(client.receive(), [91, number]);
            assert_eq!(client.send(&[message::IGNORE, 0, 0, 0, 0]), Ok(None));
            client.exchange(cipher);
        }
        client.server.reject().unwrap();
        assert_eq!(client.receive()[0], message::UNIMPLEMENTED);
        let goodbye = Writer::message(message::DISCONNECT).u32(11).bytes(b"so long").bytes(b"").done();
        assert_eq!(client.send(&goodbye), Err(TransportError::Disconnected("so long".into())));
    }
}

#[test]
fn what_is_said_while_keys_are_made_waits_for_them() {
    let mut client = Client::new();
    client.server.send(vec![91, 1]).unwrap();
    client.exchange(CipherName::ChaCha);
    assert_eq!(client.receive(), [91, 1]);
    let ours = offer(METHODS, "chacha20-poly1305@openssh.com", false);
    assert_eq!(client.send(&ours), Ok(None));
    client.server.send(vec![91, 2]).unwrap();
    assert!(client.server.is_held());
    let theirs = client.receive();
    client.answer(CipherName::ChaCha, &ours, &theirs);
    assert_eq!(client.receive(), [91, 2]);
}

#[test]
fn a_wrong_guess_is_passed_over() {
    let mut client = Client::new();
    let ours = offer(&format!("sntrup761x25519-sha512,{METHODS}"), "aes256-gcm@openssh.com", true);
    client.send(&ours).unwrap();
    assert_eq!(client.send(&[message::KEX_INIT, 1, 2, 3]), Ok(None));
    let theirs = client.receive();
    client.answer(CipherName::Aes256, &ours, &theirs);
    assert_eq!(client.send(&[90]), Ok(Some(vec![90])));
}

#[test]
fn what_is_no_ssh_client_is_refused() {
    let heard = |bytes: &[u8]| {
        let mut server = Transport::new(key());
        server.push(bytes);
        server.next_message()
    };
    assert_eq!(heard(b"GET / HTTP/1.1\r\n"), Err(TransportError::Ident("GET / HTTP/1.1".into())));
    assert!(matches!(heard(b"SSH-1.5-old\r\n"), Err(TransportError::Ident(_))));
    assert!(matches!(heard(&[0; 9]), Err(TransportError::Ident(_))));
    assert!(matches!(heard(&[b"SSH-2.0-", &[b'x'; 300][..]].concat()), Err(TransportError::Ident(_))));
    assert_eq!(heard(b"SSH-2."), Ok(None), "more may come");
    assert!(matches!(heard(b"SSH-2.0-x\n\xff\xff\xff\xff"), Err(TransportError::Length(_))), "a huge packet");
    assert!(matches!(heard(b"SSH-2.0-x\ngarbage of a client"), Err(TransportError::Length(_))));
}

#[test]
fn messages_out_of_place_are_refused() {
    let is_refused = |message: &[u8]| {
        let mut client = Client::new();
        matches!(client.send(message), Err(TransportError::Unexpected { .. }))
    };
    assert!(is_refused(&[message::NEWKEYS]) && is_refused(&[message::KEX_INIT, 0, 0, 0, 0]) && is_refused(&[90]));
    // Nothing may come before the keys that could be left out unseen.
    let mut client = Client::new();
    client.send(&[message::IGNORE, 0, 0, 0, 0]).unwrap();
    let late = client.send(&offer(METHODS, "aes128-gcm@openssh.com", false));
    assert!(matches!(late, Err(TransportError::Unexpected { .. })));
    let mut client = Client::new();
    client.send(&offer(METHODS, "aes128-gcm@openssh.com", false)).unwrap();
    let private = EphemeralPrivateKey::generate(&X25519, &SystemRandom::new()).unwrap();
    let half = private.compute_public_key().unwrap();
    client.send(&Writer::message(message::KEX_INIT).bytes(half.as_ref()).done()).unwrap();
    let between = client.send(&[message::IGNORE, 0, 0, 0, 0]);
    assert!(matches!(between, Err(TransportError::Unexpected { .. })), "the client's last message without keys is due");
    let mut client = Client::new();
    let none = client.send(&offer("diffie-hellman-group1-sha1", "aes128-gcm@openssh.com", false));
    assert!(matches!(none, Err(TransportError::NothingInCommon { what: "key exchange methods", .. })));
    let mut client = Client::new();
    let none = client.send(&offer(METHODS, "3des-cbc", false));
    assert!(matches!(none, Err(TransportError::NothingInCommon { what: "ciphers", .. })));
    let mut client = Client::new();
    client.send(&offer(METHODS, "aes128-gcm@openssh.com", false)).unwrap();
    let half = client.send(&Writer::message(message::KEX_INIT).bytes(&[0; 32]).done());
    assert_eq!(half, Err(TransportError::Exchange), "a half that makes no secret");
}

proptest::proptest! {
    #[test]
    fn any_bytes_are_heard_without_a_panic(bytes in proptest::collection::vec(proptest::prelude::any::<u8>(), 0..200), with_ident: bool) {
        let mut server = Transport::new(key());
        if with_ident {
            server.push(b"SSH-2.0-x\r\n");
        }
        server.push(&bytes);
        while let Ok(Some(_)) = server.next_message() {}
    }
}
