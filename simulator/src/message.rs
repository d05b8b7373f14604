//! What travels: between processes, to the hub's streams and back, and from a process to its own future (timers).

use std::sync::Arc;

use agent::local::Kept;
use bus_schemas::assignment::{AssignAnswer, Control, ControlReply, Payload};
use bus_schemas::event::Event;
use bus_schemas::history::{Back, HistoryRecord};
use bus_schemas::job::AdmittedJob;
use bus_schemas::ledger::LedgerOutcome;
use bus_schemas::offer::{Bid, Offer};
use bus_schemas::{AttemptId, DeviceId, JobId, MemberId, Proof, UnixMs};
use bytes::Bytes;

/// Milliseconds since the simulation began.
pub type Ms = u64;

/// A process, the hub, or those who submit.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Who {
    Gateway(usize),
    Scheduler(usize),
    Ledger(usize),
    Device(usize),
    Client,
    Hub,
}

/// Whom a message is for: one, or whoever listens on its subject.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum To {
    One(Who),
    Ledgers,
    Schedulers,
    /// A queue group.
    AnyScheduler,
}

/// One submission, as a client or an OUTBOX publishes it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Submission {
    pub member: MemberId,
    /// `Mesh-Job-Key`, where the client gave one.
    pub key: Option<String>,
    /// The key that an OUTBOX made.
    pub outbox_key: Option<String>,
    pub payload: Bytes,
}

/// Something for a stream (or the lease's bucket) of the hub.
#[derive(Debug, Clone)]
pub enum Store {
    Submit(Arc<Submission>),
    Job(Arc<AdmittedJob>),
    Event(Event),
    /// To this scheduler, or to any.
    Receipts {
        device: DeviceId,
        to: Option<usize>,
        bytes: Bytes,
    },
    Heartbeat {
        device: DeviceId,
        bytes: Bytes,
    },
    Back(Box<Back>),
    Cancel {
        job: JobId,
        member: MemberId,
    },
    /// `None`: whatever the last sequence is (a broken writer).
    Ledger {
        bytes: Bytes,
        expected: Option<u64>,
    },
    History(Box<HistoryRecord>),
    Lease {
        holder: usize,
        expected: u64,
        released: bool,
    },
}

/// Why the hub stored nothing.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum NotStored {
    WrongLastSequence,
    MaxPerSubject,
}

/// A delivery of a work queue.
#[derive(Debug, Clone)]
pub struct Delivery<T> {
    pub seq: u64,
    pub delivered: u64,
    pub stored_at: UnixMs,
    pub body: T,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Queue {
    Submit,
    Jobs,
}

/// What an acknowledgement says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Acked {
    Done,
    Nak(Ms),
    InProgress,
}

#[derive(Debug, Clone)]
pub enum Msg {
    // To the hub and back.
    Store { from: Who, id: u64, what: Store },
    PubAck { id: u64, answer: Result<u64, NotStored> },
    Ack { from: Who, id: u64, queue: Queue, seq: u64, what: Acked },
    AckNoted { id: u64 },
    Submitted(Delivery<Arc<Submission>>),
    Job(Delivery<Arc<AdmittedJob>>),

    // Between processes.
    Ask { from: Who, id: u64, bytes: Bytes },
    Answer { id: u64, outcomes: Vec<LedgerOutcome> },
    Offer { from: usize, offer: Arc<Offer> },
    Bid(Bid),
    Assign { from: usize, id: u64, assignment: Arc<Proof>, payload: Arc<Payload> },
    AssignAnswered { id: u64, answer: AssignAnswer },
    Control { from: usize, id: u64, control: Arc<Control> },
    ControlAnswered { id: u64, device: DeviceId, reply: ControlReply },
    CancelAsked { id: u64, job: JobId, member: MemberId },
    CancelDone { id: u64 },

    // Live copies of what streams store.
    Receipts { device: DeviceId, bytes: Bytes },
    Event(Event),
    Heartbeat { device: DeviceId, bytes: Bytes },
    OwnHeartbeat,
    Cancel { job: JobId, member: MemberId },

    // To oneself, later.
    Again(u64),
    Start,
    Beat,
    Sweep,
    Tick,
    Window(u64),
    Ready,
    LookRead(JobId),
    RequestTimeout(u64),
    Lasts { job: JobId, attempt: AttemptId },
    Parts { job: JobId, device: DeviceId, attempt: AttemptId },
    BlobSeen { job: JobId, attempt: AttemptId, checkpoint: bus_schemas::event::Checkpoint },
    Engine { attempt: AttemptId, units: u32 },
    KeptInWork(AttemptId),
    Forward,
    Submit(usize),
    Owner(Wish),
    Stop,
}

/// What a device's owner does.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Wish {
    Pause,
    Resume,
}

/// A change of what a device keeps on its disk.
#[derive(Debug, Clone)]
pub enum Disk {
    Keep(AttemptId, Box<Kept>),
    KeepOn(AttemptId, bus_schemas::event::Checkpoint),
    Done(AttemptId),
    Out(OutboxItem),
    OutAcked(u64),
}

/// One message of an OUTBOX.
#[derive(Debug, Clone)]
pub enum OutboxItem {
    /// Which of the plan's submissions, and the bytes.
    Submit(usize, Arc<Submission>),
    Receipts(Bytes),
}
