//! What goes through a session's WebSocket, in both directions: no message may make its reader panic, and what was understood
//! is said in the same way again. `cargo +nightly fuzz run session_socket`
#![no_main]

use std::fmt::Debug;

use libfuzzer_sys::fuzz_target;
use sandpen_api::session::{PIECE_MAX_BYTES, SessionNews, SessionPiece, SessionWish};
use serde::Serialize;
use serde::de::DeserializeOwned;

fuzz_target!(|message: &[u8]| {
    if let Ok(piece) = SessionPiece::decode(message.to_vec().into()) {
        assert!((1..=PIECE_MAX_BYTES).contains(&piece.bytes.len()));
        let said: Vec<_> = SessionPiece::encode(piece.stream, piece.offset, &piece.bytes).collect();
        assert_eq!(said, [message]);
    }
    if let Ok(text) = std::str::from_utf8(message) {
        said_again::<SessionWish>(text);
        said_again::<SessionNews>(text);
    }
});

fn said_again<T: Serialize + DeserializeOwned + PartialEq + Debug>(text: &str) {
    let Ok(message) = serde_json::from_str::<T>(text) else { return };
    let said = serde_json::to_string(&message).expect("what was read can be written");
    let read = serde_json::from_str::<T>(&said).expect("what was written can be read");
    assert_eq!(read, message, "{said}");
}
