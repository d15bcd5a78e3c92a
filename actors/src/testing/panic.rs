//! Faults on purpose, for tests: a message that makes an actor panic at a chosen place.

use std::collections::HashMap;
use std::sync::{Mutex, PoisonError};

use actix::Message;
use sandpen_types::spec::SandboxKey;
use serde::{Deserialize, Serialize};

/// Which actor.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ActorKind {
    /// The supervisor.
    Supervisor,
    /// A sandbox's monitor.
    Monitor,
    /// A sandbox's log writer.
    LogWriter,
    /// The database actor.
    Database,
    /// The keeper of a sandbox's jobs.
    JobKeeper,
}

/// Where in its life.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum PanicPlace {
    /// While it handles a message.
    Handler,
    /// In a future that it runs.
    Future,
    /// At an item of a stream.
    Stream,
    /// When a timer fires.
    Timer,
    /// In `stopped()`, after a panic while it handled a message.
    Stopped,
    /// In its `Drop`, after a panic while it handled a message.
    Drop,
    /// While it handles a message; and its successor is not made at the first try.
    Factory,
}

/// All places.
pub const PLACES: [PanicPlace; 7] = [
    PanicPlace::Handler,
    PanicPlace::Future,
    PanicPlace::Stream,
    PanicPlace::Timer,
    PanicPlace::Stopped,
    PanicPlace::Drop,
    PanicPlace::Factory,
];

/// Makes the actor that gets it panic.
#[derive(Debug, Clone, Copy, Message)]
#[rtype(result = "()")]
pub struct Panic(pub PanicPlace);

/// Makes one of a supervisor's actors panic; answers whether it was there.
#[derive(Debug, Clone, Message)]
#[rtype(result = "bool")]
pub struct InjectPanic {
    /// Which one: itself, or of `sandbox`.
    pub actor: ActorKind,
    /// Where.
    pub place: PanicPlace,
    /// Whose monitor, log writer or keeper of jobs.
    pub sandbox: Option<SandboxKey>,
}

/// Successors that are not to be made. Of all actors of a kind in this process, whosever they are.
static FACTORIES: Mutex<Option<HashMap<ActorKind, usize>>> = Mutex::new(None);

/// What an actor carries to panic where no message reaches.
#[derive(Debug)]
pub(crate) struct Bomb {
    kind: ActorKind,
    armed: Option<PanicPlace>,
}

impl Bomb {
    /// Runs in the actor's factory.
    pub(crate) fn new(kind: ActorKind) -> Self {
        let mut factories = FACTORIES.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(left) = factories.as_mut().and_then(|left| left.get_mut(&kind)).filter(|left| **left > 0) {
            *left -= 1;
            drop(factories);
            panic!("injected: in the factory");
        }
        Self { kind, armed: None }
    }

    /// Makes the next thing panic that cannot be reached from here.
    pub(crate) fn arm(&mut self, place: PanicPlace) {
        if place == PanicPlace::Factory {
            let mut factories = FACTORIES.lock().unwrap_or_else(PoisonError::into_inner);
            *factories.get_or_insert_default().entry(self.kind).or_default() += 1;
        }
        self.armed = Some(place);
    }

    /// Runs in `stopped()`.
    pub(crate) fn stopped(&mut self) {
        assert!(self.armed != Some(PanicPlace::Stopped), "injected: in stopped()");
    }
}

impl Drop for Bomb {
    fn drop(&mut self) {
        assert!(self.armed != Some(PanicPlace::Drop), "injected: in Drop");
    }
}

/// Lets an actor with a field `bomb` take [`Panic`].
macro_rules! takes_panics {
    ($actor:ty) => {
        impl actix::Handler<$crate::testing::panic::Panic> for $actor {
            type Result = ();

            fn handle(&mut self, message: $crate::testing::panic::Panic, ctx: &mut Self::Context) {
                use actix::{
                    ActorFutureExt as _, ActorStreamExt as _, AsyncContext as _, WrapFuture as _, WrapStream as _,
                };
                use $crate::testing::panic::PanicPlace as Place;
                let place = message.0;
                self.bomb.arm(place);
                match place {
                    Place::Handler | Place::Stopped | Place::Drop | Place::Factory => panic!("injected: in a handler"),
                    Place::Future => {
                        ctx.spawn(async {}.into_actor(self).map(|(), _, _| panic!("injected: in a future")));
                    }
                    Place::Stream => {
                        let items = futures::stream::iter([()]).into_actor(self);
                        ctx.spawn(items.map(|(), _, _| panic!("injected: at an item of a stream")).finish());
                    }
                    Place::Timer => {
                        ctx.run_later(std::time::Duration::from_millis(1), |_, _| panic!("injected: in a timer"));
                    }
                }
            }
        }
    };
}
pub(crate) use takes_panics;
