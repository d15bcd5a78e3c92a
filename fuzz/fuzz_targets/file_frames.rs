//! Files of a sandbox, on both sides: no answer or event of a guest, and no request to one, may make its reader panic, hang or
//! keep more than a frame. `cargo +nightly fuzz run file_frames`
#![no_main]

use std::future::Future as _;
use std::pin::pin;
use std::task::{Context, Waker};

use libfuzzer_sys::fuzz_target;
use sandpen_files::client::EventReader;
use sandpen_files::frame::{Frame, FrameReader};
use sandpen_files::{FilesClient, Request};

fuzz_target!(|input: (u8, &[u8])| {
    let (piece, bytes) = input;
    let (client, carrier) = FilesClient::new();
    let mut calls: Vec<_> = (0..8).map(|_| client.call(Request::Stat { path: b"/".to_vec(), follow: true })).collect();
    // Some whose answer nobody wants.
    calls.truncate(4);
    let (mut events, mut frames) = (EventReader::default(), FrameReader::default());
    for piece in bytes.chunks(usize::from(piece).max(1)) {
        let _ = carrier.received(piece);
        events.push(piece);
        while let Ok(Some(_)) = events.next_event() {}
        frames.push(piece);
        while let Ok(Some(frame)) = frames.next_frame() {
            // What was understood can be said again.
            if let Ok(request) = frame.message::<Request>() {
                assert!(sandpen_files::frame::encode(frame.number, &request).is_ok());
            }
        }
    }
    let _ = Frame { number: 0, payload: bytes.to_vec() }.message::<Request>();
    drop(carrier);
    for call in calls {
        assert!(pin!(call).poll(&mut Context::from_waker(Waker::noop())).is_ready());
    }
});
