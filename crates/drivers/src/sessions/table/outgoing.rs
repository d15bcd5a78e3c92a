//! What the guest is to be told, in which order: commands, then limits and sizes (the latest only), then sessions' bytes in
//! turns, so that none waits for another's.

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use sandpen_guest::protocol::TerminalSize;
use sandpen_guest::protocol::session::{
    Budget, HOST_PAYLOAD_MAX, HostFrame, SessionCommand, SessionFrameError, SessionStream, encode_bytes, encode_message,
};
use sandpen_types::output_stream::OutputStream;
use sandpen_types::session::SessionId;

use super::super::input::Next;
use super::super::output::Grant;
use super::super::session::Stage;
use super::super::wire;
use super::{CLOSING_MAX, OUTPUT_MAX, SessionTable};

/// Commands that may wait before clients are held up.
const CROWD: usize = 512;

/// See the module.
#[derive(Debug, Default)]
pub(super) struct Outgoing {
    commands: VecDeque<(u64, SessionCommand)>,
    grants: BTreeSet<(SessionId, bool)>,
    sizes: BTreeMap<SessionId, TerminalSize>,
    ready: VecDeque<SessionId>,
    /// Sessions that are to be begun; the first one is being described.
    starts: VecDeque<SessionId>,
}

impl Outgoing {
    pub(super) fn command(&mut self, id: u64, command: SessionCommand) {
        self.commands.push_back((id, command));
    }

    /// Whether the guest has been told all.
    pub(super) fn is_empty(&self) -> bool {
        self.commands.is_empty()
    }

    pub(super) fn is_crowded(&self) -> bool {
        self.commands.len() >= CROWD
    }

    /// A session's limits are to be looked at.
    pub(super) fn grant(&mut self, id: SessionId) {
        self.grants.extend([(id, false), (id, true)]);
    }

    pub(super) fn resize(&mut self, id: SessionId, size: TerminalSize) {
        self.sizes.insert(id, size);
    }

    /// A session is to be begun: guests are told of one after the other.
    pub(super) fn start(&mut self, id: SessionId) {
        self.starts.push_back(id);
        if self.starts.len() == 1 {
            self.ready(id);
        }
    }

    /// All of a session's description is sent, or is not to be.
    pub(super) fn is_started(&mut self, id: SessionId) {
        let was_first = self.starts.front() == Some(&id);
        self.starts.retain(|start| *start != id);
        if let Some(next) = self.starts.front().copied().filter(|_| was_first) {
            self.ready(next);
        }
    }

    /// A session has bytes to send.
    pub(super) fn ready(&mut self, id: SessionId) {
        if !self.ready.contains(&id) {
            self.ready.push_back(id);
        }
    }
}

impl SessionTable {
    /// The next whole frame for the guest, at most `PIPE_BUF` bytes. To be called when there is room for it.
    ///
    /// # Errors
    /// None that can be thought of: all that is sent is bounded.
    pub(in super::super) fn next_frame(&mut self) -> Result<Option<Vec<u8>>, SessionFrameError> {
        let was_crowded = self.outgoing.is_crowded();
        if let Some((id, command)) = self.outgoing.commands.pop_front() {
            if was_crowded && !self.outgoing.is_crowded() {
                self.touched.extend(self.clients.keys());
            }
            return encode_message::<HostFrame>(self.epoch, id, &command).map(Some);
        }
        while let Some((id, is_stderr)) = self.outgoing.grants.pop_first() {
            let stream = if is_stderr { OutputStream::Stderr } else { OutputStream::Stdout };
            if let Some(Grant { taken, limit }) = self.grant(id, stream) {
                let taken = SessionCommand::Taken { stream: wire::session_stream(stream), taken, limit };
                return encode_message::<HostFrame>(self.epoch, id.get(), &taken).map(Some);
            }
        }
        if let Some((id, size)) = self.outgoing.sizes.pop_first() {
            return encode_message::<HostFrame>(self.epoch, id.get(), &SessionCommand::Resize(size)).map(Some);
        }
        while let Some(id) = self.outgoing.ready.pop_front() {
            if let Some(frame) = self.bytes_of(id)? {
                return Ok(Some(frame));
            }
        }
        Ok(None)
    }

    /// What a stream's limit is to be, where it was another one.
    fn grant(&mut self, id: SessionId, stream: OutputStream) -> Option<Grant> {
        let (window, closing) = (self.window(), self.closing);
        let all = if closing { CLOSING_MAX } else { OUTPUT_MAX };
        let reserved = self.sessions.values().map(|session| session.stdout.reserved() + session.stderr.reserved());
        let room = all.saturating_sub(reserved.sum());
        let session = self.sessions.get_mut(&id).filter(|session| !session.is_ours)?;
        let output = session.output(stream);
        match closing {
            true => output.grant_all(u64::try_from(Budget::largest().window(1)).unwrap_or(u64::MAX), room),
            false => output.grant(window, room),
        }
    }

    /// A session's next bytes for the guest; it comes again behind the others where it has more.
    fn bytes_of(&mut self, id: SessionId) -> Result<Option<Vec<u8>>, SessionFrameError> {
        let epoch = self.epoch;
        let Some(session) = self.sessions.get_mut(&id) else { return Ok(None) };
        if let Stage::Asked { start, sent } = &mut session.stage {
            let Some(sent) = sent else {
                *sent = Some(0);
                let len = u32::try_from(start.len()).unwrap_or(u32::MAX);
                self.outgoing.grant(id);
                self.outgoing.ready(id);
                return encode_message::<HostFrame>(epoch, id.get(), &SessionCommand::Open { len }).map(Some);
            };
            let part = &start[*sent..start.len().min(*sent + HOST_PAYLOAD_MAX)];
            if part.is_empty() {
                return Ok(None);
            }
            let offset = u64::try_from(*sent).unwrap_or(u64::MAX);
            let frame = encode_bytes::<HostFrame>(epoch, id.get(), SessionStream::Spec, offset, &[part])?;
            *sent += part.len();
            if *sent < start.len() {
                self.outgoing.ready(id);
            } else {
                // It may be long, and secret, and the guest may never answer.
                session.stage = Stage::Asked { start: Vec::new(), sent: Some(0) };
                self.outgoing.is_started(id);
            }
            return Ok(Some(frame));
        }
        let frame = match session.input.next(HOST_PAYLOAD_MAX) {
            None => return Ok(None),
            Some(Next::Bytes(offset, bytes)) => {
                encode_bytes::<HostFrame>(epoch, id.get(), SessionStream::Stdin, offset, &[&bytes])?
            }
            Some(Next::End(total)) => {
                encode_message::<HostFrame>(epoch, id.get(), &SessionCommand::EndInput { total })?
            }
        };
        if session.input.has_next() {
            self.outgoing.ready(id);
        }
        // There may be room for more.
        self.touched.extend(session.client.as_ref().map(|client| client.key));
        Ok(Some(frame))
    }
}
