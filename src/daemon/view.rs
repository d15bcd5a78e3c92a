//! What actors know, as it goes over the wire; the rest is made from data alone and is in `sandpen-api`.

use std::time::Duration;

use sandpen_actors::log_writer::LogChunk;
use sandpen_api::frame::Frame;
use sandpen_api::{ImageEntry, ImageLayer, ImagePushed, ImageRemoval, StepTime, Timings};
use sandpen_images::store::Removed;
use sandpen_vmm::start_timings::{StartTimings, TimedStep};

use crate::orchestrator::{ImageInfo, PushedImage};

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

/// An image.
pub fn image(ImageInfo { image, used_by }: ImageInfo) -> ImageEntry {
    let layers = image.layers.iter().map(|layer| ImageLayer {
        diff_id: layer.diff_id,
        bytes: layer.bytes,
        shared_by: u64::try_from(layer.shared_by).unwrap_or(u64::MAX),
    });
    ImageEntry {
        layers: layers.collect(),
        digest: image.digest,
        manifest_digest: image.manifest_digest,
        names: image.names,
        created: image.created,
        loaded: image.loaded,
        last_used: image.last_used,
        os: image.os,
        architecture: image.architecture,
        bytes: image.total_bytes,
        unique_bytes: image.unique_bytes,
        used_by: used_by.iter().map(ToString::to_string).collect(),
    }
}

/// An image that is in a registry now.
pub fn pushed(PushedImage { image, reference, manifest }: PushedImage) -> ImagePushed {
    ImagePushed { image, reference, manifest_digest: manifest }
}

/// What was removed of images.
pub fn removal(Removed { names, images, bytes }: Removed) -> ImageRemoval {
    ImageRemoval { untagged: names, removed: images, freed_bytes: bytes }
}
