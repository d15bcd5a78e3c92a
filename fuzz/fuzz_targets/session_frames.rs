//! The session port, in both directions: nothing on it may make a reader panic, hang or hold more than its capacity.
//! `cargo +nightly fuzz run session_frames`
#![no_main]

use libfuzzer_sys::fuzz_target;
use sandpen_guest::protocol::session::{
    Content, Direction, GuestFrame, HostFrame, SESSION_HEADER_LEN, SessionFrame, SessionFrameReader, SessionStream,
    encode_bytes, encode_message,
};

fuzz_target!(|input: (u8, u64, u8, bool, &[u8])| {
    let (reader, epoch, piece, is_message, bytes) = input;
    read::<GuestFrame>(reader, epoch, piece, bytes);
    read::<HostFrame>(reader, epoch, piece, bytes);
    if let Some(frame) = framed::<GuestFrame>(epoch, SessionStream::Stdout, is_message, bytes) {
        read::<GuestFrame>(reader, epoch, piece, &frame);
    }
    if let Some(frame) = framed::<HostFrame>(epoch, SessionStream::Stdin, is_message, bytes) {
        read::<HostFrame>(reader, epoch, piece, &frame);
    }
});

fn read<D: Direction>(reader: u8, epoch: u64, piece: u8, bytes: &[u8]) {
    let mut reader = match reader % 3 {
        0 => SessionFrameReader::<D>::new(),
        1 => SessionFrameReader::join(epoch, 4096),
        _ => SessionFrameReader::lenient(),
    };
    for mut rest in bytes.chunks(usize::from(piece).max(1)) {
        while !rest.is_empty() {
            let taken = reader.push(rest);
            rest = &rest[taken..];
            assert!(reader.buffered() <= SessionFrameReader::<D>::CAPACITY);
            loop {
                match reader.next() {
                    Ok(Some(frame)) => said_again::<D>(&frame),
                    Ok(None) => break,
                    Err(_) => return,
                }
            }
        }
    }
}

/// What was understood can be said again.
fn said_again<D: Direction>(frame: &SessionFrame<D::Message>) {
    let SessionFrame { epoch, session, content } = frame;
    let said = match content {
        Content::Message(message) => encode_message::<D>(*epoch, *session, message),
        Content::Bytes { stream, offset, bytes } => encode_bytes::<D>(*epoch, *session, *stream, *offset, &[bytes]),
    };
    assert!(said.is_ok());
}

/// The same bytes as the payload of a frame that is whole, so that the fuzzer gets behind the CRC.
fn framed<D: Direction>(epoch: u64, stream: SessionStream, is_message: bool, bytes: &[u8]) -> Option<Vec<u8>> {
    let mut frame = encode_bytes::<D>(epoch, 1, stream, 0, &[bytes]).ok()?;
    if is_message {
        (frame[5], frame[6]) = (D::KIND, 0);
        let crc = crc32fast::hash(&frame[4..36]).to_le_bytes();
        frame[36..SESSION_HEADER_LEN].copy_from_slice(&crc);
    }
    Some(frame)
}
