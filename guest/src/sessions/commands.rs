//! What the host says of sessions, and what is done about it. What does not fit a session is ignored, and noted on the
//! console: the host is believed, but one that is wrong must not harm a workload.

use std::os::fd::OwnedFd;

use nix::fcntl::{FcntlArg, fcntl};
use sandpen_guest::protocol::StartFailure;
use sandpen_guest::protocol::session::{
    Content, SESSIONS_MAX, SessionCommand, SessionFrame, SessionProgram, SessionRefusal, SessionReport, SessionStart,
    SessionStream, Tool,
};

use super::opening::{Fed, Opening, Whole};
use super::session::Session;
use super::{Sessions, Stage, start};
use crate::launch::{Launched, not_executable};
use crate::log::log;
use crate::probe::Surroundings;

/// Most bytes of a session's label.
const LABEL_MAX: usize = 256;

impl Sessions {
    /// Gives a session that is to begin.
    pub(super) fn obey(&mut self, frame: SessionFrame<SessionCommand>) -> Option<Whole> {
        let SessionFrame { epoch, session: id, content } = frame;
        if content == Content::Message(SessionCommand::Resume) {
            self.resume(epoch);
            return None;
        }
        if self.epoch != Some(epoch) {
            return None;
        }
        let is_right = match content {
            Content::Bytes { stream: SessionStream::Spec, offset, bytes } => return self.describe(id, offset, &bytes),
            Content::Bytes { offset, bytes, .. } => self.find(id)?.input.push(offset, &bytes),
            Content::Message(SessionCommand::Open { len }) => {
                self.open_session(id, len);
                true
            }
            Content::Message(SessionCommand::Forget) => {
                self.forget(id);
                true
            }
            Content::Message(command) => match (command, self.opening.as_mut().filter(|opening| opening.id == id)) {
                (SessionCommand::Taken { stream, taken, limit }, Some(opening)) => {
                    opening.make_room(stream, taken, limit)
                }
                (command, _) => self.find(id)?.obey(&command),
            },
        };
        if !is_right {
            log!("the host's message of session {id:016x} does not fit it and is ignored");
        }
        None
    }

    /// One that was forgotten hears nothing.
    fn find(&mut self, id: u64) -> Option<&mut Session> {
        self.list.iter_mut().find(|session| session.id == id)
    }

    /// Another host, which knows nothing.
    fn resume(&mut self, epoch: u64) {
        self.epoch = Some(epoch);
        self.opening = None;
        self.queue.clear();
        let count = u32::try_from(self.list.len()).unwrap_or(u32::MAX);
        self.queue.push_back((0, SessionReport::Resumed { sessions: count }));
        for session in &mut self.list {
            session.resume();
            self.queue.push_back((session.id, session.state()));
        }
        if let Stage::Closing { told, .. } = &mut self.stage {
            *told = false;
        }
    }

    fn open_session(&mut self, id: u64, len: u32) {
        if let Some(session) = self.list.iter_mut().find(|session| session.id == id) {
            self.queue.push_back((id, session.state()));
            return;
        }
        // The host describes one after the other: an earlier one is no more than half of one.
        if let Some(other) = self.opening.take().filter(|other| other.id != id) {
            self.refuse(other.id, SessionRefusal::Malformed);
        }
        if let Some(refusal) = self.refusal() {
            return self.refuse(id, refusal);
        }
        match Opening::new(id, len) {
            Some(opening) => self.opening = Some(opening),
            None => self.refuse(id, SessionRefusal::Malformed),
        }
    }

    /// Why no session can begin now.
    fn refusal(&self) -> Option<SessionRefusal> {
        match self.stage {
            Stage::Before => Some(SessionRefusal::NotRunning),
            Stage::Closing { .. } => Some(SessionRefusal::Closing),
            Stage::Open if self.list.len() >= SESSIONS_MAX => Some(SessionRefusal::TooMany),
            Stage::Open => None,
        }
    }

    fn refuse(&mut self, id: u64, refusal: SessionRefusal) {
        self.queue.push_back((id, SessionReport::Refused(refusal)));
    }

    fn describe(&mut self, id: u64, offset: u64, bytes: &[u8]) -> Option<Whole> {
        // Of another one: it was refused, or is there already.
        let opening = self.opening.as_mut().filter(|opening| opening.id == id)?;
        let refusal = match opening.feed(offset, bytes) {
            Fed::More => return None,
            Fed::Gap => {
                log!("the host's description of session {id:016x} has a gap, and what is behind it is ignored");
                return None;
            }
            Fed::Whole(SessionStart::Run(session)) if session.notes.label.len() <= LABEL_MAX => match self.refusal() {
                None => return Some(self.opening.take()?.whole(session)),
                Some(refusal) => refusal,
            },
            Fed::Whole(_) | Fed::Malformed => SessionRefusal::Malformed,
        };
        self.opening = None;
        self.refuse(id, refusal);
        None
    }

    /// Runs a session; its program is executed, or was not, when this is back.
    pub(super) fn begin(&mut self, whole: Whole, around: Option<&Surroundings>, null: &OwnedFd) {
        let Whole { id, session, rooms } = whole;
        let Some(around) = around else { return self.refuse(id, SessionRefusal::NotRunning) };
        let (notes, limit, has_terminal) = (session.notes.clone(), session.limit, session.terminal.is_some());
        let packs = session.program == SessionProgram::Tool(Tool::Changes);
        let is_tool = matches!(session.program, SessionProgram::Tool(_));
        let upper = if packs { self.to_be_packed(around) } else { Ok(None) };
        let mut session = match upper.and_then(|upper| Ok((start::start(around, session, null)?, upper))) {
            Ok((launched, upper)) => {
                if is_tool {
                    widen(&launched, self.budget.window(self.list.len() + 1));
                }
                if let Some(upper) = upper {
                    self.packing = Some((launched.pid, upper));
                }
                Session::new(id, notes, launched, limit)
            }
            Err(failure) => Session::failed(id, notes, has_terminal, failure),
        };
        for (stream, limit) in rooms {
            let _ = session.output(stream).is_some_and(|output| output.take(0, limit));
        }
        self.list.push(session);
    }

    /// What was written to the root, for who thaws it: before anybody freezes it.
    fn to_be_packed(&self, around: &Surroundings) -> Result<Option<OwnedFd>, StartFailure> {
        if self.packing.is_some() {
            return Err(not_executable("what was written to the disk is being packed already".to_owned()));
        }
        let Some(upper) = &around.upper else {
            return Err(not_executable("the root has no disk of its own over an image".to_owned()));
        };
        let upper = upper.try_clone();
        upper.map(Some).map_err(|error| not_executable(format!("opening the disk of the root once more: {error}")))
    }

    fn forget(&mut self, id: u64) {
        self.opening.take_if(|opening| opening.id == id);
        let Some(place) = self.list.iter().position(|session| session.id == id) else { return };
        let mut session = self.list.remove(place);
        session.kill();
        self.lingering.extend(session.leave());
        if place < self.turn {
            self.turn -= 1;
        }
    }
}

/// Gives the pipes of a tool as much room as its streams may have here: the two ends of one wake each other seldom then, and
/// tools carry much. Other programs have the pipes that Linux gives to anybody.
fn widen(launched: &Launched, window: usize) {
    let Ok(bytes) = i32::try_from(window) else { return };
    for pipe in launched.stdin.iter().chain([&launched.stdout]) {
        // Smaller than it is it shall not be; and one that cannot be larger is as good.
        if fcntl(pipe, FcntlArg::F_GETPIPE_SZ).is_ok_and(|now| now < bytes) {
            let _ = fcntl(pipe, FcntlArg::F_SETPIPE_SZ(bytes));
        }
    }
}
