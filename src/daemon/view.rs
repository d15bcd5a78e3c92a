//! What actors know, as it goes over the wire; the rest is made from data alone and is in `sandpen-api`.

use std::time::Duration;

use sandpen_actors::log_writer::LogChunk;
use sandpen_api::frame::Frame;
use sandpen_api::{StepTime, Timings};
use sandpen_vmm::start_timings::{StartTimings, TimedStep};

/// Where the time of a start went.
pub fn timings(timings: &StartTimings) -> Timings {
    let us = |time: Duration| u64::try_from(time.as_micros()).unwrap_or(u64::MAX);
    let steps = timings.steps().into_iter().map(|TimedStep { step, at, took }| StepTime {
        step: step.name().to_owned(),
        by: step.spender().name().to_owned(),
        at_us: us(at),
        took_us: us(took),
    });
    Timings { adopted: timings.is_adopted(), began_us: timings.began_us(), steps: steps.collect() }
}

/// A piece of a log.
pub fn frame(chunk: LogChunk) -> Frame {
    match chunk {
        LogChunk::Bytes { stream, at, position, bytes } => Frame::Bytes { stream, at, position, bytes: bytes.into() },
        LogChunk::Gap { position, bytes } => Frame::Gap { position, bytes },
        LogChunk::Dropped { stream, position, bytes } => Frame::Dropped { stream, position, bytes },
    }
}
