//! What a hostile guest sends on its control port: nothing of it may make the reader panic, hang or
//! hold more than its capacity. `cargo +nightly fuzz run guest_frames`
#![no_main]

use libfuzzer_sys::fuzz_target;
use sandpen_guest::protocol::{FrameReader, Garbage, GuestMessage, HEADER_LEN, PROTOCOL_VERSION, encode};

fuzz_target!(|input: (bool, u8, &[u8])| {
    let (late, piece, bytes) = input;
    let garbage = if late { Garbage::SkipFirst(4096) } else { Garbage::Refuse };
    let mut reader = FrameReader::<GuestMessage>::new(garbage);
    for mut rest in bytes.chunks(usize::from(piece).max(1)) {
        while !rest.is_empty() {
            let taken = reader.push(rest);
            rest = &rest[taken..];
            assert!(reader.buffered() <= FrameReader::<GuestMessage>::CAPACITY);
            loop {
                match reader.next() {
                    // What was understood can be said again.
                    Ok(Some(message)) => assert!(encode(&message).is_ok()),
                    Ok(None) => break,
                    Err(_) => return,
                }
            }
        }
    }
    payload(bytes);
});

/// The same bytes as the payload of a frame that is whole, so that the fuzzer gets behind the CRC.
fn payload(bytes: &[u8]) {
    let Ok(frame) = encode(&GuestMessage::Started) else { return };
    let mut frame = frame[..HEADER_LEN].to_vec();
    let Ok(len) = u32::try_from(bytes.len()) else { return };
    assert_eq!(frame[4], PROTOCOL_VERSION);
    frame[6..10].copy_from_slice(&len.to_le_bytes());
    let mut hasher = crc32fast::Hasher::new();
    hasher.update(&frame[4..10]);
    hasher.update(bytes);
    frame[10..14].copy_from_slice(&hasher.finalize().to_le_bytes());
    frame.extend_from_slice(bytes);
    let mut reader = FrameReader::<GuestMessage>::new(Garbage::Refuse);
    let mut rest = frame.as_slice();
    while !rest.is_empty() {
        rest = &rest[reader.push(rest)..];
        match reader.next() {
            Ok(None) => {}
            Ok(Some(_)) | Err(_) => return,
        }
    }
}
