//! The actor: what it holds, and how it begins.

use std::collections::{HashMap, HashSet};

use actix::{Actor, ArbiterHandle, Context, Recipient, ResponseActFuture, WrapFuture as _};
use sandpen_types::spec::{DiskName, SandboxKey};
use sandpen_types::state_dir::StateDir;
use sandpen_vmm::driver::Drivers;
use sandpen_vmm::process_identity::boot_id;
use sandpen_vmm::start_timings::LatestTimings;
use sandpen_vmm::uid_block::UidBlock;

use super::admission::{FILES_OF_ONE, files_of_logs};
use super::admits::{Refusal, Request, When, admits};
use super::child::Child;
use super::first_look::FirstLook;
use super::phase::PhaseKind;
use super::removal_hold::{Held, Lingering};
use super::succession::Succession;
use super::tree_removals::TreeRemovals;
use super::volumes::LeavingVolumes;
use super::{Shutdown, SupervisorError};
use crate::database::{Database, GetSandbox};
use crate::log_writer::OpenLogs;
use crate::monitor::StateChanged;
use crate::runtime::actor_ref::ActorRef;
use crate::runtime::intensity::RestartIntensity;
use crate::telemetry::faults::Faults;

pub(super) type Answer<T> = ResponseActFuture<Supervisor, Result<T, SupervisorError>>;

/// What the supervisor needs.
#[derive(Clone)]
pub struct SupervisorConfig {
    /// Where everything lies.
    pub state_dir: StateDir,
    /// Tag of the state directory, for the argv of VMM processes.
    pub state_id: String,
    /// The host's uids for sandboxes, where the host's root runs them.
    pub uids: Option<UidBlock>,
    /// The drivers of this host.
    pub drivers: Drivers,
    /// The database actor.
    pub database: ActorRef<Database>,
    /// Where monitors run: the supervisor's own arbiter.
    pub control_arbiter: ArbiterHandle,
    /// Where log writers run; at least one.
    pub log_arbiters: Vec<ArbiterHandle>,
    /// This process, for the rows.
    pub supervisor_pid: u32,
    /// How many files this process may open.
    pub open_files_limit: u64,
    /// So many bytes stay free on the state directory's disk for what runs; `None`: see
    /// [`crate::host::room::RESERVE_DEFAULT`].
    pub reserve: Option<u64>,
    /// The faults of the host, and the counters.
    pub faults: Faults,
    /// Where the time of each sandbox's latest start went.
    pub timings: LatestTimings,
    /// How often a sandbox may lose its monitor or its log writer before it is FAILED.
    pub intensity: RestartIntensity,
}

/// The supervisor of all sandboxes of one state directory.
pub struct Supervisor {
    #[cfg(feature = "testing")]
    pub(super) bomb: crate::testing::panic::Bomb,
    pub(super) config: SupervisorConfig,
    pub(super) children: HashMap<SandboxKey, Child>,
    pub(super) subscribers: Vec<Recipient<StateChanged>>,
    pub(super) shutting_down: Option<Shutdown>,
    pub(super) removing_disks: HashSet<DiskName>,
    pub(super) leaving_volumes: LeavingVolumes,
    pub(super) tree_removals: TreeRemovals,
    pub(super) open_logs: OpenLogs,
    /// Ended, and to be removed soon.
    pub(super) lingering: HashMap<SandboxKey, Lingering>,
    pub(super) held: Held,
    /// Whether it will be looked whether there is room again.
    pub(super) watches_room: bool,
    /// Files that whoever was refused last would have kept open.
    pub(super) files_lacked: u64,
    pub(super) first_look: FirstLook,
    /// The host's boot; `None` where it cannot be told.
    pub(super) boot_id: Option<String>,
    /// Set where another one follows when this one panics.
    pub(super) itself: Option<ActorRef<Self>>,
    pub(super) succession: Option<Succession>,
}

impl Supervisor {
    /// A supervisor without children; send [`Reconcile`](super::Reconcile) first.
    pub fn new(config: SupervisorConfig) -> Self {
        Self {
            #[cfg(feature = "testing")]
            bomb: crate::testing::panic::Bomb::new(crate::testing::panic::ActorKind::Supervisor),
            children: HashMap::new(),
            subscribers: Vec::new(),
            shutting_down: None,
            removing_disks: HashSet::new(),
            leaving_volumes: LeavingVolumes::default(),
            tree_removals: TreeRemovals::new(),
            lingering: HashMap::new(),
            held: Held::default(),
            watches_room: false,
            files_lacked: FILES_OF_ONE,
            first_look: FirstLook::default(),
            open_logs: OpenLogs::within(files_of_logs(config.open_files_limit)),
            config,
            boot_id: boot_id().ok(),
            itself: None,
            succession: None,
        }
    }

    /// Whether and when a request for this sandbox is carried out.
    pub(super) fn admit(&self, key: &SandboxKey, request: Request) -> Result<When, Refusal> {
        admits(self.children.get(key).map_or(PhaseKind::Absent, Child::kind), request)
    }

    /// The child of a request that only one that is there admits.
    pub(super) fn admitted(&mut self, key: &SandboxKey, request: Request) -> Result<&mut Child, Refusal> {
        let child = self.children.get_mut(key).ok_or(Refusal::NotLive)?;
        admits(child.kind(), request).map(|_| child)
    }

    /// The word for the state of a sandbox that has a child.
    pub(super) fn status(&self, key: &SandboxKey) -> &'static str {
        self.children.get(key).map_or("not there", Child::status)
    }

    /// [`Refusal::NotLive`] for who wants to know more: with the state of its row, or `NotFound`.
    pub(super) fn not_live<T>(
        &self,
        key: &SandboxKey,
    ) -> impl Future<Output = Result<T, SupervisorError>> + Send + use<T> {
        let (database, key) = (self.config.database.clone(), key.clone());
        async move {
            Err(match database.send(GetSandbox(key.clone())).await?? {
                Some(row) => SupervisorError::NotLive { key, status: row.state.status().as_str() },
                None => SupervisorError::NotFound { key },
            })
        }
    }

    pub(super) fn refuse<T: 'static>(&self, error: SupervisorError) -> Answer<T> {
        Box::pin(async move { Err(error) }.into_actor(self))
    }
}

#[cfg(feature = "testing")]
crate::testing::panic::takes_panics!(Supervisor);

impl Actor for Supervisor {
    type Context = Context<Self>;

    #[cfg(feature = "testing")]
    fn stopped(&mut self, _: &mut Self::Context) {
        self.bomb.stopped();
    }

    fn started(&mut self, ctx: &mut Self::Context) {
        self.inherit(ctx);
    }
}
