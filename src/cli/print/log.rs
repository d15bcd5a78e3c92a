//! A sandbox's log as `logs` shows it: byte for byte, or as one JSON object per line.

use sandpen::api::frame::Frame;
use sandpen::api::{LogRecord, LogRecords};

use super::{CliError, Controls, Output, line};

/// Writes the frames of a log.
pub enum LogPrinter {
    /// As they are.
    Text(Output),
    /// As records.
    Json(LogRecords),
}

impl LogPrinter {
    /// The bytes, with or without the time before each line.
    pub fn text(timestamps: bool, controls: Controls) -> Self {
        Self::Text(Output::of_log(timestamps, controls))
    }

    /// One JSON object per line.
    pub fn json() -> Self {
        Self::Json(LogRecords::default())
    }

    /// Writes one frame; false when nobody reads any more.
    pub fn frame(&mut self, frame: &Frame) -> Result<bool, CliError> {
        match self {
            Self::Text(output) => output.frame(frame),
            Self::Json(records) => write(&records.push(frame)),
        }
    }

    /// Writes what is left of all: no more comes.
    pub fn finish(&mut self) -> Result<(), CliError> {
        match self {
            Self::Text(output) => output.finish(),
            Self::Json(records) => write(&records.finish()).map(drop),
        }
    }
}

fn write(records: &[LogRecord]) -> Result<bool, CliError> {
    for record in records {
        if !line(record, true, |_| String::new())? {
            return Ok(false);
        }
    }
    Ok(true)
}
