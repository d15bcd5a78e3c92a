//! PID 1's side of sessions: commands beside the workload, over one port; see [`sandpen_guest::protocol::session`].
//!
//! ```text
//!   before ──workload runs──▶ open ──its main process ended──▶ closing ──▶ done: Exit is told
//!     │ Open: NotRunning         Open: runs             Open: Closing  ▲
//!     └──── NotStarted ────────────────────────────────────────────────┘
//!
//!   closing: all are hung up ──▶ all main processes ended, or the grace is over ──▶ everybody is killed
//!            ──▶ each is forgotten by the host, or nothing moves on the port for DRAIN_QUIET ──▶ done
//!   done, and the host, which may be another one by now, has heard of the workload's end: the same once more, for LAST_QUIET
//! ```
//!
//! Nothing here waits or takes long: a turn carries at most [`TURN`] bytes each way and begins at most one process, and
//! then all else has its turn.

use std::collections::VecDeque;
use std::os::fd::OwnedFd;
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags};
use nix::unistd::Pid;
use sandpen_guest::protocol::WorkloadEnd;
use sandpen_guest::protocol::session::{
    Budget, GuestFrame, HANG_UP_GRACE, SESSIONS_MAX, SessionReport, SessionStream, encode_message,
};

use self::lingering::Lingering;
use self::opening::Opening;
use self::port::Port;
use self::session::Session;
use crate::freeze;
use crate::log::log;
use crate::probe::Surroundings;

mod commands;
mod input;
mod lingering;
mod opening;
mod output;
mod port;
mod processes;
mod session;
mod start;

/// Most bytes that are carried in one go, before others get their turn.
const TURN: usize = 256 << 10;
/// Most frames of the host that are obeyed in one go.
const FRAMES: usize = 64;
/// Reports that wait before more is read: whoever asks must also listen. More than a `Resume` makes.
const QUEUE_MAX: usize = SESSIONS_MAX + 64;
/// While the machine is about to end: how long nothing may move on the port.
const DRAIN_QUIET: Duration = if cfg!(test) { Duration::from_secs(1) } else { Duration::from_secs(5) };

/// The same when only the host's last word was waited for: it is there, and takes what is left.
const LAST_QUIET: Duration = if cfg!(test) { Duration::from_millis(300) } else { Duration::from_secs(2) };

/// Something of a session's that can be waited for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Source {
    /// The session at this place.
    Stream(usize, SessionStream),
    /// The lingering pipe at this place.
    Lingering(usize),
}

/// How far the machine is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Stage {
    Before,
    Open,
    Closing {
        /// When what still runs is killed; `None` when it was.
        grace_until: Option<Instant>,
        /// After that: when the host is given up; `None` when it was.
        quiet_until: Option<Instant>,
        /// For so long.
        quiet: Duration,
        told: bool,
    },
}

/// All sessions of the machine, oldest first.
#[derive(Debug)]
pub struct Sessions {
    port: Port,
    budget: Budget,
    stage: Stage,
    /// The host's; `None` before there was any, which hears nothing.
    epoch: Option<u64>,
    list: Vec<Session>,
    opening: Option<Opening>,
    lingering: Lingering,
    /// What is sent before all else.
    queue: VecDeque<(u64, SessionReport)>,
    /// Bytes that each stream of each session may have here, since the last turn.
    window: usize,
    /// Whose turn it is.
    turn: usize,
    /// Frames may have come that were not obeyed for want of time.
    has_more: bool,
    /// There is something to send that the port did not take.
    is_full: bool,
    /// Who packs what was written to the root, and that, which it may have frozen.
    packing: Option<(Pid, OwnedFd)>,
    /// Room of a turn for what is read; none before the first. A writer that waits for its pipe is woken by each read, and
    /// runs before the next one: hence few large ones.
    scratch: Vec<u8>,
}

impl Sessions {
    /// None yet, over the non-blocking `port`.
    pub fn new(port: OwnedFd, budget: Budget) -> Self {
        Self {
            port: Port::new(port),
            budget,
            stage: Stage::Before,
            epoch: None,
            list: Vec::new(),
            opening: None,
            lingering: Lingering::default(),
            queue: VecDeque::new(),
            window: budget.window(0),
            turn: 0,
            has_more: false,
            is_full: false,
            packing: None,
            scratch: Vec::new(),
        }
    }

    /// The workload runs.
    pub fn open(&mut self) {
        self.stage = Stage::Open;
    }

    /// The workload has ended, or never ran: hangs all up. Does nothing the second time.
    pub fn close(&mut self, now: Instant) {
        if matches!(self.stage, Stage::Closing { .. }) {
            return;
        }
        for session in &mut self.list {
            session.hang_up(now);
        }
        let grace_until = Some(now + HANG_UP_GRACE);
        self.stage = Stage::Closing { grace_until, quiet_until: None, quiet: DRAIN_QUIET, told: false };
        self.end_grace(now);
    }

    /// The host knows how the workload ended, and would have the machine end. A host that has just come may not have all that
    /// sessions said at last: it is not given up as long as it takes some of it.
    pub fn say_last(&mut self, now: Instant) {
        if let Stage::Closing { quiet_until, quiet, .. } = &mut self.stage {
            (*quiet, *quiet_until) = (LAST_QUIET, Some(now + LAST_QUIET));
        }
    }

    /// While closing: from when on nobody has time to end any more. Says whether that is so only now.
    fn end_grace(&mut self, now: Instant) -> bool {
        let some_run = self.list.iter().any(Session::runs);
        match &mut self.stage {
            Stage::Closing { grace_until, quiet_until, quiet, .. }
                if grace_until.is_some_and(|until| now >= until || !some_run) =>
            {
                (*grace_until, *quiet_until) = (None, Some(now + *quiet));
                true
            }
            _ => false,
        }
    }

    /// While closing: whether nobody has time to end any more.
    pub fn may_be_killed(&self) -> bool {
        matches!(self.stage, Stage::Closing { grace_until: None, .. })
    }

    /// While closing: whether the host has all there is, or is given up.
    pub fn are_done(&self) -> bool {
        self.list.is_empty() || matches!(self.stage, Stage::Closing { grace_until: None, quiet_until: None, .. })
    }

    /// What to wait for, but for the port.
    pub fn interests(&self) -> impl Iterator<Item = (Source, PollFd<'_>)> {
        let window = self.window;
        let streams = self.list.iter().enumerate().flat_map(move |(place, session)| {
            let fds = [
                (SessionStream::Stdin, session.input.interest()),
                (SessionStream::Stdout, session.stdout.interest(window)),
                (SessionStream::Stderr, session.stderr.interest(window)),
            ];
            fds.into_iter().filter_map(move |(stream, fd)| Some((Source::Stream(place, stream), fd?)))
        });
        streams.chain(self.lingering.interests().map(|(place, fd)| (Source::Lingering(place), fd)))
    }

    /// What to wait for on the port.
    pub fn port_interest(&self) -> PollFd<'_> {
        self.port.interest(self.queue.len() < QUEUE_MAX, self.is_full)
    }

    /// Whether there are frames to obey without waiting for the port.
    pub fn has_more(&self) -> bool {
        self.has_more && self.queue.len() < QUEUE_MAX
    }

    /// When to look again.
    pub fn deadline(&self) -> Option<Instant> {
        let closing = match self.stage {
            Stage::Closing { grace_until, quiet_until, .. } => {
                [grace_until, quiet_until.filter(|_| !self.list.is_empty())]
            }
            Stage::Before | Stage::Open => [None, None],
        };
        self.list.iter().filter_map(Session::deadline).chain(closing.into_iter().flatten()).min()
    }

    /// Kills whose time is up. Says whether now, and not before, everybody may be.
    pub fn look(&mut self, now: Instant) -> bool {
        for session in &mut self.list {
            session.look(now);
        }
        if let Stage::Closing { quiet_until, .. } = &mut self.stage {
            *quiet_until = quiet_until.filter(|until| now < *until);
        }
        self.end_grace(now)
    }

    /// A child was reaped.
    pub fn reaped(&mut self, child: Pid, how: WorkloadEnd) {
        // However it ended: nobody else would have it go on.
        if let Some((_, upper)) = self.packing.take_if(|(packer, _)| *packer == child)
            && let Err(errno) = freeze::thaw(&upper)
            && errno != Errno::EINVAL
        {
            log!("the disk of the root, which was frozen, stays so: {errno}");
        }
        if self.list.iter_mut().any(|session| session.reaped(child, how)) {
            self.end_grace(Instant::now());
        }
    }

    /// Carries what can be carried now; `ready` is how many sources share this turn. The places of others stay as they are.
    pub fn carry(&mut self, source: Source, flags: PollFlags, ready: usize) {
        let (window, share) = (self.window, TURN / ready.max(1));
        match source {
            Source::Lingering(place) => self.lingering.drop_bytes(place, share),
            Source::Stream(place, stream) => {
                let Some(session) = self.list.get_mut(place) else { return };
                if stream != SessionStream::Stdin {
                    self.scratch.reserve_exact(TURN);
                    let left = session.read(stream, window, share, self.scratch.spare_capacity_mut());
                    self.lingering.extend(left);
                } else if flags.intersects(PollFlags::POLLERR | PollFlags::POLLHUP) {
                    session.input.close();
                } else {
                    session.input.write();
                }
            }
        }
    }

    /// Before each wait: what no event tells of, and what is to be sent.
    pub fn send(&mut self) -> Result<(), Errno> {
        self.window = self.shared_window();
        self.drain();
        self.lingering.tidy();
        let mut left = TURN;
        self.is_full = false;
        loop {
            let (written, is_all) = self.port.flush()?;
            if written > 0 {
                self.moved();
            }
            if !is_all || left == 0 {
                // With no time left there may be nothing more; then the next turn finds that out.
                self.is_full = true;
                return Ok(());
            }
            let Some(frame) = self.next_frame() else { return Ok(()) };
            left = left.saturating_sub(frame.len());
            self.port.put(frame);
        }
    }

    /// What ended processes have left in their pipes; of a terminal nothing tells that it is empty.
    fn drain(&mut self) {
        let window = self.window;
        for session in self.list.iter_mut().filter(|session| session.drains()) {
            self.scratch.reserve_exact(TURN);
            for stream in [SessionStream::Stdout, SessionStream::Stderr] {
                let left = session.read(stream, window, TURN / SESSIONS_MAX, self.scratch.spare_capacity_mut());
                self.lingering.extend(left);
            }
        }
    }

    fn next_frame(&mut self) -> Option<Vec<u8>> {
        let epoch = self.epoch?;
        while let Some((session, report)) = self.next_report() {
            match encode_message::<GuestFrame>(epoch, session, &report) {
                Ok(frame) => return Some(frame),
                Err(error) => log!("a report of session {session:016x} is not sent: {error}"),
            }
        }
        let (count, first) = (self.list.len(), self.turn);
        (0..count).map(|step| (first + step) % count).find_map(|place| {
            let frame = self.list.get_mut(place)?.frame(epoch)?;
            self.turn = place + 1;
            Some(frame)
        })
    }

    fn next_report(&mut self) -> Option<(u64, SessionReport)> {
        if let Some(report) = self.queue.pop_front() {
            return Some(report);
        }
        if let Stage::Closing { told, .. } = &mut self.stage
            && !*told
        {
            *told = true;
            return Some((0, SessionReport::Closing));
        }
        let window = self.window;
        self.list.iter_mut().find_map(|session| Some((session.id, session.report(window)?)))
    }

    /// Reads the port and does what the host says.
    pub fn receive(&mut self, around: Option<&Surroundings>, null: &OwnedFd) -> Result<(), Errno> {
        let received = self.obey_frames(around, null);
        for session in &mut self.list {
            session.input.write_fresh();
        }
        received
    }

    fn obey_frames(&mut self, around: Option<&Surroundings>, null: &OwnedFd) -> Result<(), Errno> {
        self.has_more = true;
        for _ in 0..FRAMES {
            if self.queue.len() >= QUEUE_MAX {
                return Ok(());
            }
            let Some(frame) = self.port.receive()? else {
                self.has_more = false;
                return Ok(());
            };
            self.moved();
            if let Some(whole) = self.obey(frame) {
                self.begin(whole, around, null);
                return Ok(());
            }
        }
        Ok(())
    }

    /// Something moved on the port.
    fn moved(&mut self) {
        if let Stage::Closing { quiet_until: Some(until), quiet, .. } = &mut self.stage {
            *until = Instant::now() + *quiet;
        }
    }

    /// When there were fewer sessions, each had more: what is left of that counts.
    fn shared_window(&self) -> usize {
        match self.list.iter().map(Session::held).sum::<usize>() < self.budget.bytes() {
            true => self.budget.window(self.list.len()),
            false => self.budget.smallest_window(),
        }
    }
}
