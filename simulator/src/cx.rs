//! What a process is handed with each message, and what it leaves behind: effects, in order. A crash keeps only the first of them.

use bus_schemas::{UnixMs, Verifier};
use fastrand::Rng;
use std::time::Instant;

use crate::cast::{Cast, EPOCH};
use crate::counters::Counters;
use crate::hub::Hub;
use crate::message::{Disk, Ms, Msg, Store, To, Who};
use crate::mutation::Mutation;

/// One thing that a process does to the world outside of its memory.
#[derive(Debug)]
pub enum Effect {
    Send(To, Msg),
    /// A message to oneself.
    After(Ms, Msg),
    Disk(Disk),
}

/// The world as a process sees it while it handles one message.
pub struct Cx<'a> {
    pub now: Ms,
    pub me: Who,
    pub cast: &'static Cast,
    /// For reads of streams, which are taken at the moment they are handled.
    pub hub: &'a Hub,
    /// Reads and requests reach the hub.
    pub linked: bool,
    pub rng: &'a mut Rng,
    pub verifier: &'a mut Verifier,
    pub counters: &'a mut Counters,
    pub out: &'a mut Vec<Effect>,
    pub wrong: &'a mut Vec<String>,
    /// Attempts that began to run.
    pub runs: &'a mut Vec<bus_schemas::JobId>,
    pub broken: Option<Mutation>,
    /// Numbers for requests, never used twice.
    pub next_id: &'a mut u64,
}

impl Cx<'_> {
    /// Hub time, as the process has learned it.
    pub fn hub_ms(&self) -> UnixMs {
        EPOCH + self.now
    }
    pub fn instant(&self) -> Instant {
        self.cast.instant(self.now)
    }
    pub fn is_broken(&self, mutation: Mutation) -> bool {
        self.broken == Some(mutation)
    }
    pub fn id(&mut self) -> u64 {
        *self.next_id += 1;
        *self.next_id
    }
    pub fn send(&mut self, to: Who, msg: Msg) {
        self.out.push(Effect::Send(To::One(to), msg));
    }
    pub fn publish(&mut self, to: To, msg: Msg) {
        self.out.push(Effect::Send(to, msg));
    }
    pub fn after(&mut self, ms: Ms, msg: Msg) {
        self.out.push(Effect::After(ms, msg));
    }
    pub fn disk(&mut self, change: Disk) {
        self.out.push(Effect::Disk(change));
    }
    /// Something that must never be.
    pub fn wrong(&mut self, what: impl Into<String>) {
        self.wrong.push(what.into());
    }
    /// Asks the hub once to store something.
    pub fn store_once(&mut self, what: Store) -> u64 {
        let id = self.id();
        let from = self.me;
        self.send(Who::Hub, Msg::Store { from, id, what });
        id
    }
}

/// What a process has asked the hub to store, or another process to answer, and asks again until it hears of it.
pub struct Stores<T> {
    waiting: std::collections::BTreeMap<u64, (Store, Ms, T)>,
}
impl<T> Default for Stores<T> {
    fn default() -> Self {
        Self { waiting: std::collections::BTreeMap::new() }
    }
}
const STORE_AGAIN: Ms = 700;
impl<T> Stores<T> {
    /// Stores `what` until it is acknowledged or `until` has come.
    pub fn store(&mut self, cx: &mut Cx<'_>, what: Store, until: Ms, then: T) {
        let id = cx.store_once(what.clone());
        cx.after(STORE_AGAIN, Msg::Again(id));
        self.waiting.insert(id, (what, until, then));
    }
    pub fn acked(&mut self, id: u64) -> Option<T> {
        self.waiting.remove(&id).map(|(_, _, then)| then)
    }
    /// A timer: asks again, and listens to the new answer alone; what is given up comes back.
    pub fn again(&mut self, cx: &mut Cx<'_>, id: u64) -> Option<T> {
        let (what, until, then) = self.waiting.remove(&id)?;
        if until <= cx.now {
            return Some(then);
        }
        cx.counters.add("stored again");
        self.store(cx, what, until, then);
        None
    }
    pub fn is_empty(&self) -> bool {
        self.waiting.is_empty()
    }
}

/// Questions to the ledger, repeated with the same bytes until there is an answer.
pub struct Asks<T> {
    waiting: std::collections::BTreeMap<u64, (bytes::Bytes, Ms, T)>,
}
impl<T> Default for Asks<T> {
    fn default() -> Self {
        Self { waiting: std::collections::BTreeMap::new() }
    }
}
const ASK_AGAIN: Ms = 2_100;
impl<T> Asks<T> {
    pub fn ask(&mut self, cx: &mut Cx<'_>, bytes: bytes::Bytes, until: Ms, then: T) {
        let id = cx.id();
        let from = cx.me;
        cx.publish(To::Ledgers, Msg::Ask { from, id, bytes: bytes.clone() });
        cx.after(ASK_AGAIN, Msg::Again(id));
        self.waiting.insert(id, (bytes, until, then));
    }
    pub fn answered(&mut self, id: u64) -> Option<T> {
        self.waiting.remove(&id).map(|(_, _, then)| then)
    }
    pub fn again(&mut self, cx: &mut Cx<'_>, id: u64) -> Option<T> {
        let (bytes, until, then) = self.waiting.remove(&id)?;
        if until <= cx.now {
            return Some(then);
        }
        cx.counters.add("ledger asked again");
        self.ask(cx, bytes, until, then);
        None
    }
    pub fn is_empty(&self) -> bool {
        self.waiting.is_empty()
    }
}
