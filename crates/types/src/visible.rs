//! Text of somebody else for a terminal: what would act on the terminal, or reorder or hide text, is shown as
//! an escape, `\u{1b}` for a character and `\x9b` for a byte that belongs to none. What acts on nothing is left as
//! it is, so the escapes of a guest that writes such words itself cannot be told from these: whoever needs the
//! exact bytes takes them without.
//!
//! ```text
//!   whole ──▶ the beginning of a character, or a carriage return that may stand before a line feed
//!     ▲                     │ the next byte, or the end
//!     └─────────────────────┘
//! ```
//!
//! Left alone are line feeds and tabs, and of output the carriage return, with which programs draw their
//! progress over one line: it leads no further than to the beginning of that line, so it can cover nothing but
//! what the same program wrote there.

/// What a terminal reads.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Charset {
    /// UTF-8.
    Utf8,
    /// Something else, in which the bytes of a character may be controls: only ASCII is safe.
    Ascii,
}

/// Which carriage returns are left alone.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Returns {
    /// All.
    All,
    /// Those before a line feed: what stands at the beginning of the line is not the guest's.
    AtLineEnd,
}

/// Whether a terminal that reads UTF-8 shows this character, alone and in its place: it is no control, no
/// separator of lines, does not change the direction of text, and takes room or joins the one before.
pub fn is_visible(c: char) -> bool {
    !c.is_control()
        && !matches!(
            c,
            // Formats (category Cf), and what else is ignored when it is shown (Default_Ignorable_Code_Point), but
            // for U+FE00 to U+FE0F, which choose how the character before is drawn, as emoji or as text.
            '\u{ad}'
            | '\u{34f}'
            | '\u{600}'..='\u{605}'
            | '\u{61c}'
            | '\u{6dd}'
            | '\u{70f}'
            | '\u{890}'..='\u{891}'
            | '\u{8e2}'
            | '\u{115f}'..='\u{1160}'
            | '\u{17b4}'..='\u{17b5}'
            | '\u{180b}'..='\u{180f}'
            | '\u{200b}'..='\u{200f}'
            // Separators of lines and paragraphs come before the directions.
            | '\u{2028}'..='\u{202e}'
            | '\u{2060}'..='\u{206f}'
            | '\u{3164}'
            | '\u{feff}'
            | '\u{ffa0}'
            | '\u{fff0}'..='\u{fffb}'
            | '\u{110bd}'
            | '\u{110cd}'
            | '\u{13430}'..='\u{1343f}'
            | '\u{1bca0}'..='\u{1bca3}'
            | '\u{1d173}'..='\u{1d17a}'
            | '\u{e0000}'..='\u{e0fff}'
        )
}

/// A text on lines of its own; a tab or carriage return in it is an escape too.
pub fn visible(text: &str) -> String {
    let mut shown = String::with_capacity(text.len());
    for c in text.chars() {
        if c == '\n' || is_visible(c) {
            shown.push(c);
        } else {
            shown.extend(c.escape_default());
        }
    }
    shown
}

/// Makes a stream of bytes visible, whatever pieces it comes in.
#[derive(Debug, Clone)]
pub struct Visible {
    charset: Charset,
    returns: Returns,
    /// The beginning of a character.
    cut: [u8; 3],
    cut_len: usize,
    /// A carriage return came, and what follows it decides.
    returned: bool,
}

impl Visible {
    /// For a terminal of this kind.
    pub fn new(charset: Charset, returns: Returns) -> Self {
        Self { charset, returns, cut: [0; 3], cut_len: 0, returned: false }
    }

    /// Adds the next piece to `shown`, but for what the one after it decides: at most three bytes.
    pub fn push(&mut self, piece: &[u8], shown: &mut Vec<u8>) {
        let mut rest = piece;
        while self.cut_len > 0 {
            let Some((next, after)) = rest.split_first() else { return };
            let mut character = [0; 4];
            character[..self.cut_len].copy_from_slice(&self.cut[..self.cut_len]);
            character[self.cut_len] = *next;
            let character = &character[..=self.cut_len];
            match std::str::from_utf8(character) {
                Ok(text) => {
                    self.cut_len = 0;
                    self.text(text, shown);
                }
                Err(error) if error.error_len().is_none() => self.cut(character),
                Err(_) => {
                    // The byte is of something else.
                    self.settle(shown);
                    break;
                }
            }
            rest = after;
        }
        let mut chunks = rest.utf8_chunks().peekable();
        while let Some(chunk) = chunks.next() {
            self.text(chunk.valid(), shown);
            let other = chunk.invalid();
            let is_beginning = || std::str::from_utf8(other).is_err_and(|error| error.error_len().is_none());
            if chunks.peek().is_none() && is_beginning() {
                self.cut(other);
            } else {
                self.bytes(other, shown);
            }
        }
    }

    /// Adds what was held back: nothing follows it.
    pub fn settle(&mut self, shown: &mut Vec<u8>) {
        let (cut, len) = (self.cut, std::mem::take(&mut self.cut_len));
        self.bytes(&cut[..len], shown);
        self.end_return(shown);
    }

    fn cut(&mut self, beginning: &[u8]) {
        self.cut_len = beginning.len();
        self.cut[..beginning.len()].copy_from_slice(beginning);
    }

    fn text(&mut self, text: &str, shown: &mut Vec<u8>) {
        for c in text.chars() {
            if std::mem::take(&mut self.returned) {
                shown.extend_from_slice(if c == '\n' { b"\r" } else { b"\\r" });
            }
            match c {
                '\r' if self.returns == Returns::AtLineEnd => self.returned = true,
                '\n' | '\t' | '\r' => shown.push(c as u8),
                _ if is_visible(c) && (c.is_ascii() || self.charset == Charset::Utf8) => {
                    shown.extend_from_slice(c.encode_utf8(&mut [0; 4]).as_bytes());
                }
                _ => shown.extend(c.escape_default().map(|c| c as u8)),
            }
        }
    }

    /// Bytes that are no text.
    fn bytes(&mut self, bytes: &[u8], shown: &mut Vec<u8>) {
        if !bytes.is_empty() {
            self.end_return(shown);
        }
        shown.extend(bytes.iter().flat_map(|byte| std::ascii::escape_default(*byte)));
    }

    /// The carriage return that was held back stands before no line feed.
    fn end_return(&mut self, shown: &mut Vec<u8>) {
        if std::mem::take(&mut self.returned) {
            shown.extend_from_slice(b"\\r");
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn shown(pieces: &[&[u8]], charset: Charset, returns: Returns) -> String {
        let (mut visible, mut shown) = (Visible::new(charset, returns), Vec::new());
        for piece in pieces {
            visible.push(piece, &mut shown);
        }
        visible.settle(&mut shown);
        String::from_utf8(shown).unwrap()
    }

    #[test]
    fn what_acts_on_a_terminal_is_an_escape() {
        for (bytes, utf8, ascii) in [
            (&b"a\tb\r\n10%\r20%\r\n"[..], "a\tb\r\n10%\r20%\r\n", "a\tb\r\n10%\r20%\r\n"),
            (b"\x1b]52;c;eA==\x07", "\\u{1b}]52;c;eA==\\u{7}", "\\u{1b}]52;c;eA==\\u{7}"),
            (b"\x00\x08\x0b\x0c\x7f", "\\u{0}\\u{8}\\u{b}\\u{c}\\u{7f}", "\\u{0}\\u{8}\\u{b}\\u{c}\\u{7f}"),
            // CSI as a byte of its own, as a character, and as the second byte of a letter.
            (b"\x9b6n", "\\x9b6n", "\\x9b6n"),
            (b"\xc2\x9b6n", "\\u{9b}6n", "\\u{9b}6n"),
            (b"\xc3\x9b6n", "\u{db}6n", "\\u{db}6n"),
            (
                "a\u{202e}b\u{2066}\u{200b}\u{feff}".as_bytes(),
                "a\\u{202e}b\\u{2066}\\u{200b}\\u{feff}",
                "a\\u{202e}b\\u{2066}\\u{200b}\\u{feff}",
            ),
            ("\u{2028}\u{ad}\u{e0041}".as_bytes(), "\\u{2028}\\u{ad}\\u{e0041}", "\\u{2028}\\u{ad}\\u{e0041}"),
            (
                "日本 e\u{301} ⚠\u{fe0f}".as_bytes(),
                "日本 e\u{301} ⚠\u{fe0f}",
                "\\u{65e5}\\u{672c} e\\u{301} \\u{26a0}\\u{fe0f}",
            ),
            // Too long a form of ESC, half of a pair, and a character that does not come to its end.
            (
                b"\xc0\x9b\xed\xa0\x80\xf0\x9f\x98",
                "\\xc0\\x9b\\xed\\xa0\\x80\\xf0\\x9f\\x98",
                "\\xc0\\x9b\\xed\\xa0\\x80\\xf0\\x9f\\x98",
            ),
        ] {
            assert_eq!(shown(&[bytes], Charset::Utf8, Returns::All), utf8);
            assert_eq!(shown(&[bytes], Charset::Ascii, Returns::All), ascii);
        }
        assert_eq!(visible("a\u{1b}[2Jb\t\r\nc\u{202e}\u{200d}"), "a\\u{1b}[2Jb\\t\\r\nc\\u{202e}\\u{200d}");
    }

    #[test]
    fn a_lone_return_is_an_escape_where_the_line_begins_with_something_else() {
        for (pieces, expected) in [
            (&[&b"10%\r20%\r\n"[..]][..], "10%\\r20%\r\n"),
            (&[b"10%\r", b"20%\r", b"\n"], "10%\\r20%\r\n"),
            (&[b"\r\r", b"\r\n\r"], "\\r\\r\r\n\\r"),
            (&[b"\r", b"\xff", b"\r", b"\x1b"], "\\r\\xff\\r\\u{1b}"),
            (&[b"\r", b"\xc3", b"\r", b"\n"], "\\r\\xc3\r\n"),
        ] {
            assert_eq!(shown(pieces, Charset::Utf8, Returns::AtLineEnd), expected, "{pieces:?}");
        }
    }

    /// Bytes among which there are many of the difficult ones.
    fn any_bytes() -> impl Strategy<Value = Vec<u8>> {
        let difficult = proptest::sample::select(vec![
            b'\r', b'\n', b'\t', 0x1b, b'[', 0x7f, 0x80, 0x9b, 0x9f, 0xa0, 0xc2, 0xc3, 0xe2, 0x80, 0xae, 0xef, 0xbb,
            0xbf, 0xf0, 0x9f, 0xf3, 0xff,
        ]);
        let part = prop_oneof![
            proptest::collection::vec(difficult, 0..8),
            proptest::collection::vec(any::<u8>(), 0..8),
            any::<String>().prop_map(String::into_bytes),
        ];
        proptest::collection::vec(part, 0..8).prop_map(|parts| parts.concat())
    }

    fn any_kind() -> impl Strategy<Value = (Charset, Returns)> {
        let charset = prop_oneof![Just(Charset::Utf8), Just(Charset::Ascii)];
        (charset, prop_oneof![Just(Returns::All), Just(Returns::AtLineEnd)])
    }

    proptest! {
        #[test]
        fn nothing_that_acts_gets_through_and_pieces_do_not_matter(
            bytes in any_bytes(),
            cuts in proptest::collection::vec(any::<proptest::sample::Index>(), 0..6),
            (charset, returns) in any_kind(),
        ) {
            let whole = shown(&[&bytes], charset, returns);
            for (at, c) in whole.char_indices() {
                let is_fine = match c {
                    '\n' | '\t' => true,
                    '\r' => returns == Returns::All || whole[at + 1..].starts_with('\n'),
                    _ => is_visible(c) && (charset == Charset::Utf8 || c.is_ascii()),
                };
                prop_assert!(is_fine, "{c:?} in {whole:?}");
            }
            let mut cuts: Vec<_> = cuts.iter().map(|cut| cut.index(bytes.len() + 1)).chain([0, bytes.len()]).collect();
            cuts.sort_unstable();
            let pieces: Vec<_> = cuts.windows(2).map(|cut| &bytes[cut[0]..cut[1]]).collect();
            prop_assert_eq!(shown(&pieces, charset, returns), whole);
        }

        #[test]
        fn visible_text_stays_as_it_is(text in any::<String>()) {
            let text: String = text.chars().filter(|c| is_visible(*c) || matches!(c, '\n' | '\t' | '\r')).collect();
            prop_assert_eq!(shown(&[text.as_bytes()], Charset::Utf8, Returns::All), text.clone());
            let lines: String = text.chars().filter(|c| !matches!(c, '\t' | '\r')).collect();
            prop_assert_eq!(visible(&lines), lines);
        }

        #[test]
        fn every_byte_is_there(bytes in any_bytes(), (charset, returns) in any_kind()) {
            // Without backslashes of its own a text can be read back.
            let bytes: Vec<u8> = bytes.into_iter().filter(|byte| *byte != b'\\').collect();
            let shown = shown(&[&bytes], charset, returns);
            let mut parts = shown.split('\\');
            let mut back = parts.next().unwrap_or_default().as_bytes().to_vec();
            for part in parts {
                if let Some(rest) = part.strip_prefix('r') {
                    back.push(b'\r');
                    back.extend_from_slice(rest.as_bytes());
                } else if let Some(rest) = part.strip_prefix('x') {
                    back.push(u8::from_str_radix(&rest[..2], 16).unwrap());
                    back.extend_from_slice(&rest.as_bytes()[2..]);
                } else {
                    let (number, rest) = part.strip_prefix("u{").unwrap().split_once('}').unwrap();
                    let c = char::from_u32(u32::from_str_radix(number, 16).unwrap()).unwrap();
                    back.extend_from_slice(c.encode_utf8(&mut [0; 4]).as_bytes());
                    back.extend_from_slice(rest.as_bytes());
                }
            }
            prop_assert_eq!(back, bytes);
        }
    }
}
