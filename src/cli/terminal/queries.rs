//! Whether output asks a terminal something, whose answer the terminal would type. Pure.
//!
//! ```text
//!   text ─ESC─▶ escape ─[─▶ sequence ─ its last byte ─▶ text
//! ```
//!
//! In doubt it does: what is known to be answered by nothing is listed, the rest counts. (ECMA-48, and xterm's control
//! sequences.)

/// Looks at output as it comes, in pieces of any size.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Queries {
    /// Outside of everything.
    #[default]
    Text,
    /// ESC came.
    Escape,
    /// A control sequence has begun, with these in it.
    Sequence {
        /// A private one: it began with `?`.
        is_private: bool,
        /// Something that no harmless one has.
        is_odd: bool,
    },
}

impl Queries {
    /// Goes on with the next piece; whether it may have asked something.
    pub fn push(&mut self, piece: &[u8]) -> bool {
        let mut asked = false;
        for byte in piece {
            asked |= self.byte(*byte);
        }
        asked
    }

    fn byte(&mut self, byte: u8) -> bool {
        const BEGUN: Queries = Queries::Sequence { is_private: false, is_odd: false };
        let (next, asks) = match (*self, byte) {
            (_, 0x1b) => (Self::Escape, false),
            // ENQ in any place, and DECID, DCS, OSC and APC as one byte or two.
            (_, 0x05 | 0x90 | 0x9a | 0x9d | 0x9f) | (Self::Escape, b'Z' | b'P' | b']' | b'_') => (Self::Text, true),
            (_, 0x9b) | (Self::Escape, b'[') => (BEGUN, false),
            // Other controls are carried out in the middle of a sequence.
            (state, 0x00..0x20) => (state, false),
            (Self::Sequence { is_odd, .. }, b'?') => (Self::Sequence { is_private: true, is_odd }, false),
            (sequence @ Self::Sequence { .. }, b'0'..=b';') => (sequence, false),
            (Self::Sequence { is_private, .. }, b' '..=b'?') => (Self::Sequence { is_private, is_odd: true }, false),
            (Self::Sequence { is_private: true, is_odd }, last) => (Self::Text, is_odd || !b"hlrsJK".contains(&last)),
            (Self::Sequence { is_odd, .. }, last) => {
                (Self::Text, is_odd || !b"@ABCDEFGHIJKLMPXZ`abdefghjklmrs".contains(&last))
            }
            (Self::Text | Self::Escape, _) => (Self::Text, false),
        };
        *self = next;
        asks
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn questions_are_noticed_and_drawing_is_none() {
        for drawing in [
            "plain text\r\n\ttabs, bells\x07 and \x08",
            "\x1b[?1049h\x1b[22;0m\x1b[H\x1b[2J\x1b[1;31mred\x1b[0m\x1b[K\x1b[10;20H\x1b[?25l\x1b[?25h\x1b[3A\x1b[1;24r",
            "\x1b7\x1b8\x1bM\x1b(B\x1b=\x1b>\x1b[?2004h\x1b[4h",
        ] {
            assert!(!Queries::default().push(drawing.as_bytes()), "{drawing:?}");
        }
        for question in [
            &b"\x1b[6n"[..],
            b"\x1b[?6n",
            b"\x1b[5n",
            b"\x1b[c",
            b"\x1b[>c",
            b"\x1b[=c",
            b"\x1b[x",
            b"\x1b[21t",
            b"\x1b[>q",
            b"\x1b[?u",
            b"\x1b[?4m",
            b"\x1b[4$p",
            b"\x1b[?1049$p",
            b"\x1b[1$w",
            b"\x1b[1;1;1;1;1;1*y",
            b"\x1b[?2;1;0S",
            b"\x1b[\x0a6n",
            b"\x1b\x1b[6n",
            b"\x1b[1;\x1b[6n",
            b"\x1bZ",
            b"\x05",
            b"\x1bP$qm\x1b\\",
            b"\x1b]11;?\x07",
            b"\x1b_Gi=1,a=q;\x1b\\",
            b"\x9b6n",
            b"\xc2\x9b6n",
            b"\x90$qm",
        ] {
            assert!(Queries::default().push(question), "{question:?}");
            let mut queries = Queries::default();
            let asked = question.chunks(1).filter(|byte| queries.push(byte)).count();
            assert!(asked > 0, "{question:?} in pieces");
        }
    }
}
