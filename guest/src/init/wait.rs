//! What PID 1 waits for, and what it does about each.

use std::os::fd::AsFd as _;
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use sandpen_guest::protocol::GuestMessage;

use super::{DRAIN_QUIET, Init, InitError, State};
use crate::probe::Probe;
use crate::sessions;
use crate::stdin::StdinFeed;

/// How long a port without a host is left alone.
const NO_HOST_PAUSE: Duration = Duration::from_millis(50);

#[derive(Clone, Copy, PartialEq, Eq)]
enum Source {
    Control,
    Children,
    Stdout,
    Stderr,
    StdinPort,
    StdinPipe,
    Probe,
    Files,
    Session(sessions::Source),
    SessionsPort,
}

impl Init {
    /// Waits for something to do and does it.
    pub(super) fn wait(&mut self) -> Result<(), InitError> {
        let stream = |stream| move |source| InitError::Stream { stream, source };
        self.sessions.send().map_err(stream("sessions"))?;
        let ready = self.poll().map_err(|source| InitError::Wait { action: "waiting for events", source })?;
        let timed_out = self.probe.as_mut().and_then(|probe| probe.timed_out(Instant::now()));
        self.end_probe(timed_out)?;
        self.clock.look(Instant::now());
        if self.sessions.look(Instant::now()) {
            self.kill_others();
        }
        let of_sessions = ready.iter().filter(|(source, _)| matches!(source, Source::Session(_))).count();
        let mut progress = false;
        for (source, flags) in self.in_order(ready) {
            match source {
                Source::Control => {
                    self.control.flush()?;
                    self.control.receive()?;
                }
                Source::Children => {
                    self.reap()?;
                    self.tell_out_of_memory()?;
                }
                Source::Probe => {
                    if let Some(probe) = &mut self.probe {
                        probe.read();
                    }
                }
                Source::Files => {
                    let running = matches!(self.state, State::Running { .. });
                    if self.caches.carry(running).map_err(stream("shared files"))? {
                        self.control.send(&GuestMessage::FilesLimitMet)?;
                    }
                }
                Source::Session(source) => self.sessions.carry(source, flags, of_sessions),
                // All else of sessions has its place in this turn by now.
                Source::SessionsPort => {
                    self.sessions.receive(self.surroundings.as_ref(), &self.null).map_err(stream("sessions"))?;
                }
                Source::Stdout => progress |= self.stdout.carry().map_err(stream("standard output"))?,
                Source::Stderr => progress |= self.stderr.carry().map_err(stream("standard error"))?,
                Source::StdinPort | Source::StdinPipe => {
                    let Some(feed) = &mut self.stdin else { continue };
                    if source == Source::StdinPipe && flags.intersects(PollFlags::POLLERR | PollFlags::POLLHUP) {
                        feed.reader_gone();
                    }
                    feed.carry().map_err(stream("standard input"))?;
                }
            }
            // An ended pipe says the same, but is done now.
            let may_be_port =
                !matches!(source, Source::Children | Source::StdinPipe | Source::Probe | Source::Session(_));
            let nothing_else = !flags.intersects(PollFlags::POLLIN | PollFlags::POLLOUT);
            if may_be_port && nothing_else && flags.contains(PollFlags::POLLHUP) && !progress {
                self.hostless_until = Some(Instant::now() + NO_HOST_PAUSE);
            }
        }
        if progress && self.quiet_until.is_some() {
            self.quiet_until = Some(Instant::now() + DRAIN_QUIET);
        }
        Ok(())
    }

    /// Where both streams have something, what was written before comes first: we may have been late.
    fn in_order(&self, mut ready: Vec<(Source, PollFlags)>) -> Vec<(Source, PollFlags)> {
        let find = |wanted| ready.iter().position(|(source, _)| *source == wanted);
        if let (Some(stdout), Some(stderr)) = (find(Source::Stdout), find(Source::Stderr))
            && self.stderr.last_write() < self.stdout.last_write()
        {
            ready.swap(stdout, stderr);
        }
        ready
    }

    fn poll(&mut self) -> Result<Vec<(Source, PollFlags)>, Errno> {
        let now = Instant::now();
        self.hostless_until = self.hostless_until.filter(|until| *until > now);
        let has_host = self.hostless_until.is_none();
        let stdin = self.stdin.as_ref();
        let wanted = [
            (Source::Control, has_host.then(|| self.control.interest())),
            (Source::Children, Some(PollFd::new(self.children.as_fd(), PollFlags::POLLIN))),
            (Source::Stdout, self.stdout.interest(has_host)),
            (Source::Stderr, self.stderr.interest(has_host)),
            (Source::StdinPort, stdin.filter(|_| has_host).and_then(StdinFeed::port_interest)),
            (Source::StdinPipe, stdin.and_then(StdinFeed::pipe_interest)),
            (Source::Files, has_host.then(|| self.caches.interest())),
            (Source::Probe, self.probe.as_ref().and_then(Probe::interest)),
        ];
        let of_sessions = self.sessions.interests().map(|(source, fd)| (Source::Session(source), Some(fd)));
        let port = (Source::SessionsPort, has_host.then(|| self.sessions.port_interest()));
        let (sources, mut fds): (Vec<_>, Vec<_>) = wanted
            .into_iter()
            .chain(of_sessions)
            .chain([port])
            .filter_map(|(source, fd)| fd.map(|fd| (source, fd)))
            .unzip();
        let probe_until = self.probe.as_ref().map(Probe::deadline);
        let deadline = self
            .quiet_until
            .into_iter()
            .chain(self.hostless_until)
            .chain(probe_until)
            .chain(self.clock.deadline())
            .chain(self.sessions.deadline())
            .min();
        let has_more = self.sessions.has_more();
        let timeout = deadline.map_or(PollTimeout::NONE, |deadline| {
            // Rounded up, or the last millisecond would be spent spinning.
            let left = deadline.saturating_duration_since(now) + Duration::from_millis(1);
            PollTimeout::try_from(left).unwrap_or(PollTimeout::MAX)
        });
        match poll(&mut fds, if has_more { PollTimeout::ZERO } else { timeout }) {
            Ok(_) | Err(Errno::EINTR) => {}
            Err(errno) => return Err(errno),
        }
        let flags = fds.iter().map(|fd| fd.revents().unwrap_or(PollFlags::empty()));
        let mut ready: Vec<_> = sources.into_iter().zip(flags).filter(|(_, flags)| !flags.is_empty()).collect();
        if has_more && ready.last().is_none_or(|(source, _)| *source != Source::SessionsPort) {
            ready.push((Source::SessionsPort, PollFlags::POLLIN));
        }
        Ok(ready)
    }
}
