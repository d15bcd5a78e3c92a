//! The descriptors that a guest costs virtiofsd: one for each file that the guest's kernel remembers, one more for
//! each that is open there. They are limited, the files are not; so the guest is asked to forget in time.
//!
//! ```text
//!          0 ───────────── half ───────────────────── limit
//!          │ all is kept   │ the guest is asked to     │ what needs one more waits until one is
//!          │               │ drop its caches, listings │ free, in vain for at most 5 s: ENFILE,
//!          │               │ make nothing remembered   │ the log says so, and the guest is told
//! ```

use std::collections::HashMap;
use std::io;
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use nix::libc::ENFILE;

use super::caches::GuestCaches;

/// How long a request may wait for descriptors.
const WAIT: Duration = if cfg!(test) { Duration::from_secs(1) } else { Duration::from_secs(5) };
/// The same after one that waited in vain, until there is room again: what is held is most likely open.
const SHORT_WAIT: Duration = Duration::from_millis(100);
/// Between two requests to a guest that has forgotten something since the first.
const PAUSE: Duration = Duration::from_millis(10);
/// Between two requests to a guest that has forgotten nothing.
const LONG_PAUSE: Duration = Duration::from_millis(500);
/// Between two lines of the log about the limit.
const LOG_PAUSE: Duration = Duration::from_mins(1);

/// What counts and limits them.
#[derive(Debug)]
pub(super) struct Descriptors {
    limit: usize,
    counts: Mutex<Counts>,
    freed: Condvar,
    caches: GuestCaches,
}

#[derive(Debug)]
struct Counts {
    /// How often the guest was told of each file that it remembers.
    files: HashMap<u64, u64>,
    open: usize,
    /// For requests that are under way.
    reserved: usize,
    /// Requests that wait.
    waiting: usize,
    /// When the guest was last asked, and the least that was used since.
    asked: Option<Instant>,
    lowest: usize,
    /// How many are used when it is asked again.
    ask_at: usize,
    /// Whether the guest gave something back since then.
    forgot: bool,
    in_vain: bool,
    logged: Option<Instant>,
}

impl Counts {
    fn used(&self) -> usize {
        self.files.len() + self.open + self.reserved
    }
}

/// Descriptors that a request may use; those that it did not use are free again with the drop.
#[derive(Debug)]
pub(super) struct Reservation<'a> {
    descriptors: &'a Descriptors,
    count: usize,
}

/// There is none left for a file that the guest did not know.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct LimitMet;

impl Descriptors {
    /// At most `limit`.
    pub(super) fn new(limit: usize, caches: GuestCaches) -> Self {
        let counts = Counts {
            files: HashMap::new(),
            open: 0,
            reserved: 0,
            waiting: 0,
            asked: None,
            lowest: 0,
            ask_at: limit / 2,
            forgot: false,
            in_vain: false,
            logged: None,
        };
        Self { limit, counts: Mutex::new(counts), freed: Condvar::new(), caches }
    }

    fn counts(&self) -> MutexGuard<'_, Counts> {
        // Counts are whole at each point where a panic could be.
        self.counts.lock().unwrap_or_else(PoisonError::into_inner)
    }

    #[cfg(test)]
    pub(super) fn ask_again(&self) {
        self.caches.ask_to_drop();
    }

    /// Forgets all but the root directory, which every guest knows from the start.
    pub(super) fn reset(&self, root: u64) {
        let mut counts = self.counts();
        counts.files.clear();
        counts.files.insert(root, 2);
        counts.open = 0;
        self.fell(&mut counts);
    }

    /// Whether half of them are used: what need not be remembered should not be.
    pub(super) fn are_scarce(&self) -> bool {
        self.counts().used() >= self.limit / 2
    }

    /// Notes that the guest was told of a file.
    pub(super) fn remember(&self, file: u64) -> Result<(), LimitMet> {
        let mut counts = self.counts();
        let full = counts.used() >= self.limit;
        match counts.files.get_mut(&file) {
            Some(told) => *told = told.saturating_add(1),
            None if full => return Err(LimitMet),
            None => {
                counts.files.insert(file, 1);
                self.rose(&mut counts);
            }
        }
        Ok(())
    }

    /// Notes that the guest has forgotten a file `times` times.
    pub(super) fn forget(&self, file: u64, times: u64) {
        let mut counts = self.counts();
        if let Some(told) = counts.files.get_mut(&file) {
            *told = told.saturating_sub(times);
            if *told == 0 {
                counts.files.remove(&file);
                counts.forgot = true;
                self.fell(&mut counts);
            }
        }
    }

    /// Notes that an open file was closed.
    pub(super) fn closed(&self) {
        let mut counts = self.counts();
        counts.open = counts.open.saturating_sub(1);
        counts.forgot = true;
        self.fell(&mut counts);
    }

    /// Waits until there are `count` and keeps them.
    ///
    /// # Errors
    /// `ENFILE`: the guest did not give back enough in time.
    pub(super) fn reserve(&self, count: usize) -> io::Result<Reservation<'_>> {
        let mut counts = self.counts();
        let began = Instant::now();
        loop {
            if counts.used() + count <= self.limit {
                counts.reserved += count;
                self.rose(&mut counts);
                return Ok(Reservation { descriptors: self, count });
            }
            let limit = if counts.in_vain { SHORT_WAIT } else { WAIT };
            let left = limit.saturating_sub(began.elapsed());
            if left.is_zero() {
                self.waited_in_vain(&mut counts);
                return Err(io::Error::from_raw_os_error(ENFILE));
            }
            let until_next = self.ask(&mut counts);
            counts.waiting += 1;
            let waited = self.freed.wait_timeout(counts, left.min(until_next));
            counts = waited.unwrap_or_else(PoisonError::into_inner).0;
            counts.waiting -= 1;
        }
    }

    fn waited_in_vain(&self, counts: &mut Counts) {
        counts.in_vain = true;
        if counts.logged.is_none_or(|at| at.elapsed() >= LOG_PAUSE) {
            counts.logged = Some(Instant::now());
            tracing::error!(
                "the guest needs more files at once than the {} that the limit of open files allows \
                 ({} open, {} remembered): it gets ENFILE; raise the hard limit (ulimit -Hn, LimitNOFILE=)",
                self.limit,
                counts.open,
                counts.files.len()
            );
            self.caches.tell_limit();
        }
    }

    fn rose(&self, counts: &mut Counts) {
        if counts.used() >= counts.ask_at {
            self.ask(counts);
        }
    }

    /// Asks the guest, unless it was asked a moment ago; how long it is until it may be asked again.
    fn ask(&self, counts: &mut Counts) -> Duration {
        let pause = if counts.forgot { PAUSE } else { LONG_PAUSE };
        let left = counts.asked.map_or(Duration::ZERO, |at| pause.saturating_sub(at.elapsed()));
        if !left.is_zero() {
            return left;
        }
        counts.asked = Some(Instant::now());
        counts.lowest = counts.used();
        counts.forgot = false;
        self.caches.ask_to_drop();
        LONG_PAUSE
    }

    fn fell(&self, counts: &mut Counts) {
        let used = counts.used();
        counts.lowest = counts.lowest.min(used);
        // Half of the way from what the guest seems to need. Each question costs it all of its caches.
        counts.ask_at = counts.lowest + (self.limit.saturating_sub(counts.lowest)) / 2;
        counts.in_vain &= self.limit.saturating_sub(used) <= self.limit / 8;
        // It is a system call, whether anybody waits or not.
        if counts.waiting > 0 {
            self.freed.notify_all();
        }
    }
}

impl Reservation<'_> {
    /// One of them is an open file's from now on.
    pub(super) fn opened(&mut self) {
        let mut counts = self.descriptors.counts();
        if self.count > 0 {
            self.count -= 1;
            counts.reserved -= 1;
        }
        counts.open += 1;
    }

    /// One of them is a remembered file's from now on, unless the guest knew the file.
    pub(super) fn remembered(&mut self, file: u64) {
        let mut counts = self.descriptors.counts();
        let told = counts.files.entry(file).or_insert(0);
        *told = told.saturating_add(1);
        if *told == 1 && self.count > 0 {
            self.count -= 1;
            counts.reserved -= 1;
        }
    }
}

impl Drop for Reservation<'_> {
    fn drop(&mut self) {
        if self.count > 0 {
            let mut counts = self.descriptors.counts();
            counts.reserved -= self.count;
            self.descriptors.fell(&mut counts);
        }
    }
}
