//! Long work with images, told line by line to whoever asked for it.
//!
//! ```text
//!   work ─ how far each layer is ─▶ what waits: one of each layer ─▶ {"progress": …} lines ─▶ {"images": …} or {"error": …}
//! ```
//! A reader that is slow misses how far a layer was in between, and neither a layer's end nor where one goes on.

use std::io;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use actix_web::HttpResponse;
use actix_web::web::{Bytes, Data};
use tokio::sync::{Notify, oneshot};

use crate::api::{EVENTS_CONTENT_TYPE, ErrorCode, ErrorDetail, ImageProgress, ImageStep, ImageWork};
use crate::daemon::reject::Rejection;
use crate::daemon::shared::Shared;
use crate::orchestrator::{Handle, SandpenError};

/// How long nothing comes until the last line is said again, to see whether anybody is there who reads it.
const AGAIN: Duration = Duration::from_secs(2);

/// What the work is given to tell how far it is.
pub type Tell = Box<dyn FnMut(ImageProgress) + Send>;

/// What waits to be told.
#[derive(Default)]
struct Waiting {
    /// One of each layer and image, in the order in which it began.
    steps: Mutex<Vec<ImageProgress>>,
    changed: Notify,
}

impl Waiting {
    /// In the place of what waits of the same layer.
    fn add(&self, step: ImageProgress) {
        let mut steps = self.steps.lock().unwrap_or_else(PoisonError::into_inner);
        // Where it goes on is said once.
        let is_passed =
            |waiting: &&mut ImageProgress| waiting.digest == step.digest && waiting.step != ImageStep::LayerResuming;
        match steps.iter_mut().find(is_passed) {
            Some(waiting) => *waiting = step,
            None => steps.push(step),
        }
        self.changed.notify_one();
    }

    /// All of it; waits until there is any.
    async fn take(&self) -> Vec<ImageProgress> {
        loop {
            let steps = std::mem::take(&mut *self.steps.lock().unwrap_or_else(PoisonError::into_inner));
            if !steps.is_empty() {
                return steps;
            }
            self.changed.notified().await;
        }
    }
}

/// Does the work, and tells how far it is. It ends when nobody is told any more.
pub async fn work<F>(shared: Data<Shared>, begin: impl FnOnce(Handle, Tell) -> F) -> Result<HttpResponse, Rejection>
where
    F: Future<Output = Result<ImageWork, SandpenError>> + 'static,
{
    let waiting = Arc::new(Waiting::default());
    let told = waiting.clone();
    let work = begin(shared.handle.clone(), Box::new(move |step| told.add(step)));
    let (mut sender, mut end) = oneshot::channel();
    actix_web::rt::spawn(async move {
        let done = tokio::select! {
            done = work => done,
            () = sender.closed() => return,
        };
        let _ = sender.send(done.unwrap_or_else(|error| ImageWork::Error(ErrorDetail::new(error.code(), &error))));
    });
    let mut lines = Vec::new();
    tokio::select! {
        biased;
        steps = waiting.take() => lines.extend(steps.into_iter().map(ImageWork::Progress)),
        end = &mut end => match ended(end) {
            ImageWork::Error(detail) => return Err(Rejection::from_detail(detail)),
            end => lines.push(end),
        }
    }
    let lines = async_stream::stream! {
        loop {
            let mut text = Vec::new();
            for line in &lines {
                let _ = serde_json::to_writer(&mut text, line); // a Vec takes everything
                text.push(b'\n');
            }
            yield Ok::<_, io::Error>(Bytes::from(text));
            // The end is always alone, or the last one.
            if lines.last().is_some_and(|line| !matches!(line, ImageWork::Progress(_))) {
                break;
            }
            tokio::select! {
                biased;
                () = shared.ending.cancelled() => lines = vec![shutting_down()],
                steps = waiting.take() => lines = steps.into_iter().map(ImageWork::Progress).collect(),
                end = &mut end => lines = vec![ended(end)],
                () = tokio::time::sleep(AGAIN) => drop(lines.drain(..lines.len() - 1)),
            }
        }
    };
    Ok(HttpResponse::Ok().content_type(EVENTS_CONTENT_TYPE).streaming(lines))
}

/// Who does the work says its end, or was ended with the daemon.
fn ended(end: Result<ImageWork, oneshot::error::RecvError>) -> ImageWork {
    end.unwrap_or_else(|_| shutting_down())
}

fn shutting_down() -> ImageWork {
    ImageWork::Error(ErrorDetail::message(ErrorCode::ShuttingDown, "the daemon is shutting down; ask again"))
}

#[cfg(test)]
mod tests {
    use sandpen_types::image::ImageDigest;

    use super::*;

    fn step(of: u8, step: ImageStep, done_bytes: u64) -> ImageProgress {
        ImageProgress { step, digest: ImageDigest::new([of; 32]), done_bytes, total_bytes: None }
    }

    #[actix_web::test]
    async fn a_slow_reader_hears_each_layers_last_word() {
        let waiting = Waiting::default();
        for bytes in 0..1000 {
            waiting.add(step(1, ImageStep::LayerPulling, bytes));
            waiting.add(step(2, ImageStep::LayerPulling, bytes));
        }
        waiting.add(step(1, ImageStep::LayerDone, 1000));
        let told = waiting.take().await;
        assert_eq!(told, [step(1, ImageStep::LayerDone, 1000), step(2, ImageStep::LayerPulling, 999)]);
        waiting.add(step(4, ImageStep::LayerResuming, 7));
        waiting.add(step(4, ImageStep::LayerPulling, 8));
        waiting.add(step(4, ImageStep::LayerPulling, 9));
        let resumed = waiting.take().await;
        assert_eq!(resumed, [step(4, ImageStep::LayerResuming, 7), step(4, ImageStep::LayerPulling, 9)]);
        let (next, ()) = tokio::join!(waiting.take(), async { waiting.add(step(3, ImageStep::LayerPulling, 0)) });
        assert_eq!(next, [step(3, ImageStep::LayerPulling, 0)]);
    }
}
