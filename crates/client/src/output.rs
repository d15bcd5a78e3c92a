//! Reads a sandbox's output: frame by frame from one daemon, and over daemons from the last position.

use bytes::BytesMut;
use hyper::Method;
use sandpen_api::frame::{End, Frame, POSITION_HEADER};
use sandpen_api::{ErrorCode, ErrorDetail, OutputQuery};
use sandpen_types::log_start::LogStart;

use super::connection::{Body, Reply};
use super::resume::Resume;
use super::source::Source;
use super::{Client, ClientError, ClientOptions};

/// The output of a sandbox or of a job, frame by frame, each byte once, whatever becomes of the daemon.
pub struct OutputReader {
    client: Client,
    source: Source,
    request: OutputQuery,
    place: Place,
    /// `None` between two daemons.
    frames: Option<FrameReader>,
    resume: Resume,
}

impl OutputReader {
    pub(super) async fn open(
        client: Client,
        options: &ClientOptions,
        source: Source,
        request: OutputQuery,
    ) -> Result<Self, ClientError> {
        let (resume, place) = (Resume::new(options, Some(&source.key)), Place::new(request.from));
        let mut reader = Self { client, source, request, place, frames: None, resume };
        loop {
            match reader.frames().await {
                Ok(_) => return Ok(reader),
                Err(error) => reader.client = reader.resume.after(error).await?,
            }
        }
    }

    /// Position in the whole log of what [`OutputReader::next`] answers next; `None` where the daemon does not say.
    pub fn position(&self) -> Option<u64> {
        self.place.position()
    }

    /// The next bytes or gap; `None` when everything has come. Where the daemon dies or is replaced, the
    /// next one is found, or started, and goes on at [`OutputReader::position`]. Safe to cancel.
    ///
    /// # Errors
    /// [`ClientError::OutputIncomplete`] where not everything can be read, [`ClientError::NoSuccessor`] and
    /// [`ClientError::RemovedMeanwhile`] where no daemon goes on.
    pub async fn next(&mut self) -> Result<Option<Frame>, ClientError> {
        loop {
            let next = match self.frames().await {
                Ok(frames) => frames.next().await,
                Err(error) => Err(error),
            };
            match next {
                Ok(frame) => {
                    if let Some(frame) = &frame {
                        self.place.pass(frame);
                        self.resume.progressed();
                    }
                    return Ok(frame);
                }
                Err(error) => {
                    if error.is_away() {
                        self.frames = None;
                    }
                    self.client = self.resume.after(error).await?;
                }
            }
        }
    }

    async fn frames(&mut self) -> Result<&mut FrameReader, ClientError> {
        let frames = match self.frames.take() {
            Some(frames) => frames,
            None => FrameReader::open(&self.client, &self.source, self.request, &mut self.place).await?,
        };
        Ok(self.frames.insert(frames))
    }
}

/// How far output has been read.
#[derive(Debug, Clone, Copy)]
pub(super) struct Place {
    from: LogStart,
    /// How many marks of dropped bytes were told there: they take no positions, and are told again to
    /// whoever asks from there.
    marks: u64,
}

impl Place {
    pub(super) fn new(from: LogStart) -> Self {
        Self { from, marks: 0 }
    }

    fn position(self) -> Option<u64> {
        match self.from {
            LogStart::Position(position) => Some(position),
            _ => None,
        }
    }

    fn move_to(&mut self, position: u64) {
        if self.position() != Some(position) {
            *self = Self::new(LogStart::Position(position));
        }
    }

    /// Goes on behind a frame that was passed on.
    pub(super) fn pass(&mut self, frame: &Frame) {
        match frame {
            Frame::Bytes { position, bytes, .. } => self.move_to(position.saturating_add(bytes.len() as u64)),
            Frame::Gap { position, bytes } => self.move_to(position.saturating_add(*bytes)),
            Frame::Dropped { position, .. } => {
                self.move_to(*position);
                self.marks += 1;
            }
            Frame::End(_) => {}
        }
    }

    /// Whether a frame of a reader that began here is a mark that was told already; each is passed over once.
    fn passes_over(&mut self, frame: &Frame) -> bool {
        let is_told = matches!(frame, Frame::Dropped { position, .. } if self.position() == Some(*position));
        let is_told = is_told && self.marks > 0;
        self.marks -= u64::from(is_told);
        is_told
    }
}

/// What one daemon tells of an output.
pub(super) struct FrameReader {
    reply: Reply,
    buffer: BytesMut,
    ended: bool,
    /// Where it began.
    begin: Place,
}

impl FrameReader {
    /// Asks for what comes after `place`, which then is a position.
    pub(super) async fn open(
        client: &Client,
        source: &Source,
        request: OutputQuery,
        place: &mut Place,
    ) -> Result<Self, ClientError> {
        let query = OutputQuery { from: place.from, ..request };
        let reply = client.send(Method::GET, &source.path(&format!("/output?{query}")), Body::Empty).await?;
        if let Some(position) = reply.number(POSITION_HEADER) {
            place.move_to(position);
        }
        Ok(Self { reply, buffer: BytesMut::new(), ended: false, begin: *place })
    }

    /// The next bytes or gap; `None` when everything has come. Safe to cancel.
    ///
    /// # Errors
    /// [`ClientError::OutputIncomplete`] and [`ClientError::OutputCut`] where not everything came.
    pub(super) async fn next(&mut self) -> Result<Option<Frame>, ClientError> {
        loop {
            if self.ended {
                return Ok(None);
            }
            match Frame::decode(&mut self.buffer)? {
                Some(Frame::End(End { complete: true, .. })) => self.ended = true,
                Some(Frame::End(End { complete: false, error })) => {
                    self.ended = true;
                    let unsaid = || ErrorDetail::message(ErrorCode::Internal, "the daemon does not say why");
                    return Err(ClientError::OutputIncomplete(error.unwrap_or_else(unsaid)));
                }
                Some(frame) if self.begin.passes_over(&frame) => {}
                Some(frame) => return Ok(Some(frame)),
                None => {
                    let Some(bytes) = self.reply.next().await? else {
                        self.ended = true;
                        return Err(ClientError::OutputCut);
                    };
                    self.buffer.extend_from_slice(&bytes);
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use sandpen_types::output_stream::OutputStream;

    use super::*;

    #[test]
    fn a_place_is_after_the_last_byte_and_counts_the_marks_there() {
        let dropped = |position| Frame::Dropped { stream: OutputStream::Stdout, position, bytes: 9 };
        let mut place = Place::new(LogStart::Tail(3));
        let at = |place: &Place| (place.position(), place.marks);
        assert_eq!(at(&place), (None, 0));
        place.move_to(5);
        place.pass(&dropped(5));
        place.pass(&dropped(5));
        assert_eq!(at(&place), (Some(5), 2));
        place.move_to(5);
        assert_eq!(at(&place), (Some(5), 2), "the daemon says where it begins, which is there");
        let mut next = place;
        let again = [dropped(5), dropped(5), dropped(5), dropped(6)].map(|frame| next.passes_over(&frame));
        assert_eq!(again, [true, true, false, false], "the third one is new");
        let (at_time, bytes) = (chrono::DateTime::UNIX_EPOCH, vec![0; 7].into());
        place.pass(&Frame::Bytes { stream: OutputStream::Stderr, at: at_time, position: 5, bytes });
        assert_eq!(at(&place), (Some(12), 0));
        // Behind bytes of a stream that was not asked for.
        place.pass(&dropped(20));
        assert_eq!(at(&place), (Some(20), 1));
        place.pass(&Frame::Gap { position: 20, bytes: 30 });
        assert_eq!(at(&place), (Some(50), 0));
    }
}
