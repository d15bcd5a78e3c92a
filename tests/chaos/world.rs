//! What must be true: each sandbox, what runs in it, what it wrote, and how it may end.

use std::time::Instant;

use serde_json::Value;

use crate::control::Control;
use crate::lines::{FLOOD_BYTES, Lines};
use crate::plan::Kind;

/// Most sandboxes of a kind at one time.
pub fn most(kind: Kind) -> usize {
    match kind {
        Kind::Writer => 20,
        Kind::Flood | Kind::Halting => 4,
        Kind::Linux => 2,
    }
}

/// One `sandpen run`.
pub struct Start {
    pub lines: Lines,
    /// Of a writer.
    pub control: Option<Control>,
    /// Position of its first byte in the log.
    pub from: u64,
}

/// How a sandbox was made to end.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Ending {
    /// By itself.
    Code(u8),
    /// `sandpen stop`.
    Stop,
    /// `sandpen kill`.
    Kill,
    /// SIGKILL to its VMM.
    KillVmm,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Life {
    /// `run` was asked for and is not answered yet.
    Starting,
    Live,
    /// Was made to end in this round.
    Ending(Ending),
    Ended,
    /// `rm` was asked for.
    Removing,
}

/// When a waiter of a start was killed last. The one that took its place is not the VMM's parent and is not
/// told its exit status, so this may be unknown from then on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum WaiterKilled {
    Never,
    Earlier,
    ThisRound,
}

pub struct Sandbox {
    pub name: String,
    pub kind: Kind,
    pub life: Life,
    pub starts: Vec<Start>,
    /// The row's generation of the last start that was seen.
    pub generation: u64,
    /// The VMM process while it is live: pid and start time.
    pub vmm: Option<(u32, u64)>,
    /// When it was seen to run.
    pub since: Instant,
    /// Stopped by a signal in this round.
    pub paused: bool,
    pub waiter_killed: WaiterKilled,
    /// It said that it wrote everything.
    pub complete: bool,
    /// How long its log was when it was first looked at after the end. It stays so.
    pub final_length: Option<u64>,
    /// Bytes of its log that were compared.
    pub verified: u64,
}

impl Sandbox {
    pub fn last_start(&self) -> &Start {
        self.starts.last().unwrap()
    }

    /// Whether an ended row tells the truth.
    ///
    /// `unwatched`: for a moment of this round no daemon, monitor or log writer was there.
    pub fn may_have_ended(&self, ending: Ending, row: &Value, unwatched: bool) -> bool {
        let code = |code: u64| row["state"] == "STOPPED" && row["exit_code"] == code && row["exit_signal"].is_null();
        let signal = |signal: u64| row["state"] == "STOPPED" && row["exit_signal"] == signal;
        let vmm_lost = row["state"] == "FAILED" && row["failure_kind"] == "vmm_lost";
        // A flood may have come to its end first.
        if self.kind == Kind::Flood && code(42) {
            return true;
        }
        if self.waiter_killed != WaiterKilled::Never {
            let unknown = row["state"] == "STOPPED" && row["exit_code"].is_null() && row["exit_signal"].is_null();
            let unseen = row["state"] == "FAILED" && row["failure_kind"] == "lost";
            // Ended while neither a waiter nor a daemon was there to see it.
            let alone = self.waiter_killed == WaiterKilled::ThisRound && unwatched;
            // Linux reports its workload's end itself, to a daemon that is there to hear it.
            if (unknown && (alone || self.kind != Kind::Linux)) || (unseen && alone) {
                return true;
            }
        }
        match (ending, self.kind) {
            (Ending::Code(expected), _) => code(expected.into()),
            (Ending::Stop, Kind::Writer | Kind::Linux) => signal(15),
            // Bare-metal guests take no message: they are stopped by force.
            (Ending::Stop, Kind::Flood | Kind::Halting) => signal(15) || signal(9),
            // A writer's process is the workload.
            (Ending::Kill, _) | (Ending::KillVmm, Kind::Writer) => signal(9),
            (Ending::KillVmm, _) => vmm_lost,
        }
    }

    /// Bytes that its log may have now, from shortest to longest; `None`: any number.
    pub fn possible_lengths(&self) -> Option<[u64; 2]> {
        let start = self.last_start();
        match (self.kind, self.life) {
            (Kind::Writer, _) => {
                let written = start.control.as_ref().unwrap().written();
                Some([start.from + written.done, start.from + written.intent])
            }
            (Kind::Flood, Life::Ended) if self.complete => Some([start.from + FLOOD_BYTES; 2]),
            (Kind::Halting, Life::Live) => Some([start.from + FLOOD_BYTES; 2]),
            (Kind::Flood | Kind::Halting | Kind::Linux, _) => None,
        }
    }

    /// Which lines stand at a position, the position within them, and where they end at most.
    pub fn lines_at(&self, position: u64) -> (Lines, u64, u64) {
        let at = self.starts.partition_point(|start| start.from <= position) - 1;
        let end = self.starts.get(at + 1).map_or(u64::MAX, |next| next.from);
        (self.starts[at].lines, position - self.starts[at].from, end)
    }
}
