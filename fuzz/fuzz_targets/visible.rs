//! What a hostile guest prints: nothing of it may act on a terminal, however it is cut into pieces.
//! `cargo +nightly fuzz run visible`
#![no_main]

use libfuzzer_sys::fuzz_target;
use sandpen_types::visible::{Charset, Returns, Visible, is_visible};

fuzz_target!(|input: (bool, bool, u8, &[u8])| {
    let (is_utf8, keep_returns, piece, bytes) = input;
    let charset = if is_utf8 { Charset::Utf8 } else { Charset::Ascii };
    let returns = if keep_returns { Returns::All } else { Returns::AtLineEnd };
    let show = |piece: usize| {
        let (mut visible, mut shown) = (Visible::new(charset, returns), Vec::new());
        for piece in bytes.chunks(piece.max(1)) {
            visible.push(piece, &mut shown);
        }
        visible.settle(&mut shown);
        shown
    };
    let whole = show(bytes.len());
    assert_eq!(show(usize::from(piece)), whole);
    let Ok(text) = std::str::from_utf8(&whole) else { panic!("{whole:?}") };
    for (at, c) in text.char_indices() {
        match c {
            '\n' | '\t' => {}
            '\r' => assert!(keep_returns || text[at + 1..].starts_with('\n')),
            _ => assert!(is_visible(c) && (is_utf8 || c.is_ascii()), "{c:?}"),
        }
    }
});
