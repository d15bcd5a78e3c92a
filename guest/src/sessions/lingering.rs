//! Pipes of sessions that have ended, into which processes that they left behind still write: what comes is dropped, so
//! that those neither wait for a reader nor die of there being none.

use std::os::fd::{AsFd as _, OwnedFd};

use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags};
use nix::unistd::read;

/// How many there are at most; of more, the oldest are closed.
const MAX: usize = 256;

/// The pipes, oldest first. Their places stay as they are until [`Lingering::tidy`].
#[derive(Debug, Default)]
pub struct Lingering(Vec<Option<OwnedFd>>);

impl Lingering {
    /// Takes them in.
    pub fn extend(&mut self, pipes: impl IntoIterator<Item = OwnedFd>) {
        self.0.extend(pipes.into_iter().map(Some));
    }

    /// Forgets those that have ended, and the oldest of too many.
    pub fn tidy(&mut self) {
        self.0.retain(Option::is_some);
        let surplus = self.0.len().saturating_sub(MAX);
        self.0.drain(..surplus);
    }

    /// What to wait for, with the places.
    pub fn interests(&self) -> impl Iterator<Item = (usize, PollFd<'_>)> {
        let pipes = self.0.iter().enumerate().filter_map(|(place, pipe)| Some((place, pipe.as_ref()?)));
        pipes.map(|(place, pipe)| (place, PollFd::new(pipe.as_fd(), PollFlags::POLLIN)))
    }

    /// Drops at most `share` bytes of one.
    pub fn drop_bytes(&mut self, place: usize, share: usize) {
        let Some(slot) = self.0.get_mut(place) else { return };
        let Some(pipe) = slot else { return };
        let mut chunk = [0; 4096];
        let most = share.min(chunk.len());
        match read(pipe, &mut chunk[..most]) {
            Ok(len) if len > 0 => {}
            Err(Errno::EINTR | Errno::EAGAIN) => {}
            Ok(_) | Err(_) => *slot = None,
        }
    }
}

#[cfg(test)]
mod tests {
    use std::fs::File;
    use std::io::Write as _;

    use nix::fcntl::OFlag;
    use nix::unistd::pipe2;

    use super::*;

    #[test]
    fn writers_are_not_held_up_and_the_oldest_give_way() {
        let pipe = || {
            let (read, write) = pipe2(OFlag::O_CLOEXEC | OFlag::O_NONBLOCK).unwrap();
            (read, File::from(write))
        };
        let mut lingering = Lingering::default();
        let mut writers = Vec::new();
        for _ in 0..=MAX {
            let (read, write) = pipe();
            lingering.extend([read]);
            writers.push(write);
        }
        lingering.tidy();
        assert!(writers[0].write_all(b"x").is_err(), "closed");
        writers[1].write_all(&[0; 10_000]).unwrap();
        for _ in 0..3 {
            assert_eq!(lingering.interests().next().unwrap().0, 0);
            lingering.drop_bytes(0, 1 << 20);
        }
        writers[1].write_all(&vec![0; 60_000]).unwrap();
        writers.remove(2);
        lingering.drop_bytes(1, 100);
        assert_eq!(lingering.interests().count(), MAX - 1);
        assert!(lingering.interests().all(|(place, _)| place != 1), "places stay");
        lingering.tidy();
        assert_eq!(lingering.interests().last().unwrap().0, MAX - 2);
    }
}
