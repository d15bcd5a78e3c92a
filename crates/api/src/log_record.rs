//! A sandbox's output as records, for programs that read lines: `logs --json`, and `format=json` of `GET …/output`.
//!
//! A record is a line of one stream with its line end, so that all texts of a stream are together its bytes. Three
//! things have none: the last line where it was never finished, a line that something is missing in (behind which a
//! `gap` or `dropped` record follows), and all but the last piece of a line of more than 64 KiB. Lines come in the order
//! in which they were finished.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use chrono::{DateTime, SecondsFormat, Utc};
use sandpen_types::output_stream::OutputStream;
use serde::{Serialize, Serializer};

use crate::frame::Frame;

/// Most bytes of one record.
pub const RECORD_MAX_BYTES: usize = 64 << 10;

/// One record, as JSON an object.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(untagged)]
pub enum LogRecord {
    /// Bytes of one stream; see the module.
    Line {
        /// When the first of them came to file.
        #[serde(serialize_with = "write_time")]
        time: DateTime<Utc>,
        /// Which stream.
        stream: OutputStream,
        /// Position of the first one in the whole log.
        position: u64,
        /// The bytes.
        #[serde(flatten)]
        bytes: RecordBytes,
    },
    /// Bytes that are no longer on file.
    Gap {
        /// Position of the first one.
        position: u64,
        /// How many.
        gap: u64,
    },
    /// Bytes that were never written.
    Dropped {
        /// Which stream's.
        stream: OutputStream,
        /// Where they would have been.
        position: u64,
        /// How many.
        dropped: u64,
    },
}

/// The bytes of a record.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum RecordBytes {
    /// Those that are UTF-8.
    Text(String),
    /// Any others.
    #[serde(serialize_with = "write_base64")]
    Base64(Vec<u8>),
}

/// To the microsecond, always with as many digits.
fn write_time<S: Serializer>(time: &DateTime<Utc>, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.serialize_str(&time.to_rfc3339_opts(SecondsFormat::Micros, true))
}

fn write_base64<S: Serializer>(bytes: &[u8], serializer: S) -> Result<S::Ok, S::Error> {
    serializer.serialize_str(&BASE64.encode(bytes))
}

impl From<Vec<u8>> for RecordBytes {
    fn from(bytes: Vec<u8>) -> Self {
        String::from_utf8(bytes).map_or_else(|error| Self::Base64(error.into_bytes()), Self::Text)
    }
}

/// A line that is not finished.
#[derive(Debug)]
struct Unfinished {
    time: DateTime<Utc>,
    position: u64,
    bytes: Vec<u8>,
}

/// Makes records of frames; holds at most one unfinished line of each stream.
#[derive(Debug, Default)]
pub struct LogRecords {
    stdout: Option<Unfinished>,
    stderr: Option<Unfinished>,
}

impl LogRecords {
    /// The records that this frame finishes.
    pub fn push(&mut self, frame: &Frame) -> Vec<LogRecord> {
        let mut records = Vec::new();
        match frame {
            Frame::Bytes { stream, at, position, bytes } => {
                let mut position = *position;
                for piece in bytes.split_inclusive(|byte| *byte == b'\n') {
                    self.add(&mut records, *stream, *at, position, piece);
                    position = position.saturating_add(piece.len() as u64);
                }
            }
            Frame::Gap { position, bytes } => {
                records = self.finish();
                records.push(LogRecord::Gap { position: *position, gap: *bytes });
            }
            Frame::Dropped { stream, position, bytes } => {
                records.extend(self.cut(*stream));
                records.push(LogRecord::Dropped { stream: *stream, position: *position, dropped: *bytes });
            }
            Frame::End(_) => {}
        }
        records
    }

    /// The lines that are not finished: nothing more comes.
    pub fn finish(&mut self) -> Vec<LogRecord> {
        let mut rest: Vec<_> = OutputStream::ALL.into_iter().filter_map(|stream| self.cut(stream)).collect();
        rest.sort_by_key(|record| match record {
            LogRecord::Line { position, .. }
            | LogRecord::Gap { position, .. }
            | LogRecord::Dropped { position, .. } => *position,
        });
        rest
    }

    fn add(
        &mut self,
        records: &mut Vec<LogRecord>,
        stream: OutputStream,
        time: DateTime<Utc>,
        mut position: u64,
        mut piece: &[u8],
    ) {
        while !piece.is_empty() {
            let line = self.of(stream).get_or_insert_with(|| Unfinished { time, position, bytes: Vec::new() });
            let (part, rest) = piece.split_at(piece.len().min(RECORD_MAX_BYTES - line.bytes.len()));
            line.bytes.extend_from_slice(part);
            position = position.saturating_add(part.len() as u64);
            piece = rest;
            if line.bytes.ends_with(b"\n") {
                records.extend(self.cut(stream));
            } else if line.bytes.len() >= RECORD_MAX_BYTES {
                // A character stays whole.
                let tail = unfinished_character(&line.bytes);
                let begun = line.bytes.split_off(line.bytes.len() - tail);
                records.extend(self.cut(stream));
                if !begun.is_empty() {
                    let position = position.saturating_sub(begun.len() as u64);
                    *self.of(stream) = Some(Unfinished { time, position, bytes: begun });
                }
            }
        }
    }

    fn of(&mut self, stream: OutputStream) -> &mut Option<Unfinished> {
        match stream {
            OutputStream::Stdout => &mut self.stdout,
            OutputStream::Stderr => &mut self.stderr,
        }
    }

    fn cut(&mut self, stream: OutputStream) -> Option<LogRecord> {
        let Unfinished { time, position, bytes } = self.of(stream).take()?;
        Some(LogRecord::Line { time, stream, position, bytes: bytes.into() })
    }
}

/// How many bytes at the end begin a character that goes on: 0 to 3.
fn unfinished_character(bytes: &[u8]) -> usize {
    let end = bytes.len();
    (1..=3.min(end))
        .find(|back| bytes[end - back] & 0xc0 != 0x80)
        .filter(|back| {
            let len = match bytes[end - back] {
                0xc0..0xe0 => 2,
                0xe0..0xf0 => 3,
                0xf0..0xf8 => 4,
                _ => 1,
            };
            len > *back
        })
        .unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn frame(stream: OutputStream, position: u64, bytes: &[u8]) -> Frame {
        let at = DateTime::from_timestamp_micros(1_700_000_000_000_000 + i64::try_from(position).unwrap()).unwrap();
        Frame::Bytes { stream, at, position, bytes: bytes.to_vec().into() }
    }

    fn json(records: &[LogRecord]) -> String {
        records.iter().map(|record| serde_json::to_string(record).unwrap() + "\n").collect()
    }

    #[test]
    fn records_are_those_of_version_1() {
        use OutputStream::{Stderr, Stdout};
        let mut lines = LogRecords::default();
        let mut all = Vec::new();
        for frame in [
            frame(Stdout, 0, b"one\ntw"),
            frame(Stderr, 6, b"odd \xff\n"),
            frame(Stdout, 12, b"o\n\n"),
            Frame::Dropped { stream: Stdout, position: 15, bytes: 9 },
            frame(Stdout, 15, b"ask: "),
            Frame::Gap { position: 20, bytes: 30 },
            frame(Stderr, 50, b"open"),
        ] {
            all.extend(lines.push(&frame));
        }
        all.extend(lines.finish());
        assert_eq!(
            json(&all),
            "\
{\"time\":\"2023-11-14T22:13:20.000000Z\",\"stream\":\"stdout\",\"position\":0,\"text\":\"one\\n\"}
{\"time\":\"2023-11-14T22:13:20.000006Z\",\"stream\":\"stderr\",\"position\":6,\"base64\":\"b2RkIP8K\"}
{\"time\":\"2023-11-14T22:13:20.000000Z\",\"stream\":\"stdout\",\"position\":4,\"text\":\"two\\n\"}
{\"time\":\"2023-11-14T22:13:20.000012Z\",\"stream\":\"stdout\",\"position\":14,\"text\":\"\\n\"}
{\"stream\":\"stdout\",\"position\":15,\"dropped\":9}
{\"time\":\"2023-11-14T22:13:20.000015Z\",\"stream\":\"stdout\",\"position\":15,\"text\":\"ask: \"}
{\"position\":20,\"gap\":30}
{\"time\":\"2023-11-14T22:13:20.000050Z\",\"stream\":\"stderr\",\"position\":50,\"text\":\"open\"}
"
        );
    }

    #[test]
    fn a_long_line_comes_in_pieces_of_whole_characters() {
        let text = "é".repeat(RECORD_MAX_BYTES) + "\n";
        let bytes = [b"x", text.as_bytes()].concat();
        let mut lines = LogRecords::default();
        let mut records = Vec::new();
        let mut at = 0;
        for piece in bytes.chunks(1000) {
            records.extend(lines.push(&frame(OutputStream::Stdout, at, piece)));
            at += piece.len() as u64;
        }
        assert!(lines.finish().is_empty());
        let mut next = 0;
        for record in &records {
            let LogRecord::Line { position, bytes: RecordBytes::Text(text), .. } = record else { panic!("{record:?}") };
            assert!(*position == next && text.len() <= RECORD_MAX_BYTES);
            next += text.len() as u64;
        }
        assert_eq!((records.len(), next), (3, bytes.len() as u64));
    }

    proptest! {
        #[test]
        fn all_texts_of_a_stream_are_its_bytes(
            pieces in prop::collection::vec((any::<bool>(), prop::collection::vec(prop_oneof![Just(b'\n'), any::<u8>()], 0..40)), 0..20),
        ) {
            let (mut lines, mut records, mut position) = (LogRecords::default(), Vec::new(), 0);
            let mut expected = [Vec::new(), Vec::new()];
            for (is_stderr, bytes) in &pieces {
                let stream = if *is_stderr { OutputStream::Stderr } else { OutputStream::Stdout };
                records.extend(lines.push(&frame(stream, position, bytes)));
                position += bytes.len() as u64;
                expected[usize::from(*is_stderr)].extend_from_slice(bytes);
            }
            records.extend(lines.finish());
            let mut got = [Vec::new(), Vec::new()];
            for record in records {
                let LogRecord::Line { stream, bytes, .. } = record else { panic!() };
                got[usize::from(stream == OutputStream::Stderr)].extend(match bytes {
                    RecordBytes::Text(text) => text.into_bytes(),
                    RecordBytes::Base64(bytes) => bytes,
                });
            }
            prop_assert_eq!(got, expected);
        }
    }
}
