//! The hub: streams that lose nothing that they have acknowledged, work queues that deliver again what nobody acknowledged.

use std::collections::BTreeMap;
use std::sync::Arc;

use bus_schemas::event::Event;
use bus_schemas::history::{Back, HistoryRecord};
use bus_schemas::job::AdmittedJob;
use bus_schemas::{DeviceId, JobId, MemberId, UnixMs};
use bytes::Bytes;

use crate::message::{Acked, Delivery, Ms, NotStored, Queue, Store, Submission};

/// Un-acknowledged messages come again after this.
pub const ACK_WAIT: Ms = 30_000;

/// One message of a work queue.
#[derive(Debug, Clone)]
struct Waiting<T> {
    body: T,
    stored_at: UnixMs,
    delivered: u64,
    /// Delivered or given back: comes (again) then.
    due: Ms,
}

/// A work queue: in order of arrival, each message until it is acknowledged.
#[derive(Debug)]
pub struct WorkQueue<T> {
    messages: BTreeMap<u64, Waiting<T>>,
    last: u64,
}
impl<T> Default for WorkQueue<T> {
    fn default() -> Self {
        Self { messages: BTreeMap::new(), last: 0 }
    }
}
impl<T: Clone> WorkQueue<T> {
    fn store(&mut self, body: T, at: UnixMs, now: Ms) -> u64 {
        self.last += 1;
        self.messages.insert(self.last, Waiting { body, stored_at: at, delivered: 0, due: now });
        self.last
    }
    /// What is due, each delivered once more.
    pub fn deliveries(&mut self, now: Ms) -> Vec<Delivery<T>> {
        let due = self.messages.iter_mut().filter(|(_, waiting)| waiting.due <= now);
        due.map(|(seq, waiting)| {
            waiting.delivered += 1;
            waiting.due = now + ACK_WAIT;
            Delivery { seq: *seq, delivered: waiting.delivered, stored_at: waiting.stored_at, body: waiting.body.clone() }
        })
        .collect()
    }
    /// When the next message is due.
    pub fn next_due(&self) -> Option<Ms> {
        self.messages.values().map(|waiting| waiting.due).min()
    }
    fn ack(&mut self, seq: u64, what: Acked, now: Ms) -> Option<T> {
        match what {
            Acked::Done => return self.messages.remove(&seq).map(|waiting| waiting.body),
            Acked::Nak(delay) => {
                if let Some(waiting) = self.messages.get_mut(&seq) {
                    waiting.due = now + delay;
                }
            }
            Acked::InProgress => {
                if let Some(waiting) = self.messages.get_mut(&seq) {
                    waiting.due = now + ACK_WAIT;
                }
            }
        }
        None
    }
    pub fn bodies(&self) -> impl Iterator<Item = &T> {
        self.messages.values().map(|waiting| &waiting.body)
    }
    pub fn is_empty(&self) -> bool {
        self.messages.is_empty()
    }
}

/// The writer's lease.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Lease {
    pub revision: u64,
    pub holder: Option<usize>,
    pub released: bool,
}

/// What a message did to the hub, for the checks.
pub enum Stored {
    Submit(Arc<Submission>),
    Job(Arc<AdmittedJob>),
    Ledger(u64, Bytes),
    History(Box<HistoryRecord>),
    Cancel(JobId, MemberId),
    Back(Box<Back>),
    Event(Event),
    Receipts(Bytes),
    Other,
}

#[derive(Default)]
pub struct Hub {
    pub submit: WorkQueue<Arc<Submission>>,
    pub jobs: WorkQueue<Arc<AdmittedJob>>,
    pub back: BTreeMap<JobId, Back>,
    pub cancels: Vec<(JobId, MemberId)>,
    /// Device, message, stream time; the sequence is the place and one.
    pub receipts: Vec<(DeviceId, Bytes, UnixMs)>,
    pub heartbeats: BTreeMap<DeviceId, Bytes>,
    /// Message and when it was stored; the sequence is the place and one.
    pub ledger: Vec<(Bytes, Ms)>,
    pub lease: Lease,
    pub history: Vec<HistoryRecord>,
    /// What devices told of their attempts.
    pub events: Vec<Event>,
}

impl Hub {
    pub fn ledger_end(&self) -> u64 {
        self.ledger.len() as u64
    }

    /// Stores one message.
    ///
    /// # Errors
    /// As a stream refuses.
    pub fn store(&mut self, what: Store, at: UnixMs, now: Ms) -> Result<(u64, Stored), NotStored> {
        Ok(match what {
            Store::Submit(submission) => (self.submit.store(submission.clone(), at, now), Stored::Submit(submission)),
            Store::Job(job) => {
                // One message per subject; an ack frees it.
                if self.jobs.bodies().any(|known| known.job == job.job) {
                    return Err(NotStored::MaxPerSubject);
                }
                (self.jobs.store(job.clone(), at, now), Stored::Job(job))
            }
            Store::Event(event) => {
                self.events.push(event.clone());
                (self.events.len() as u64, Stored::Event(event))
            }
            Store::Receipts { device, bytes, .. } => {
                self.receipts.push((device, bytes.clone(), at));
                (self.receipts.len() as u64, Stored::Receipts(bytes))
            }
            Store::Heartbeat { device, bytes } => {
                self.heartbeats.insert(device, bytes);
                (0, Stored::Other)
            }
            Store::Back(back) => {
                self.back.insert(back.job, (*back).clone());
                (0, Stored::Back(back))
            }
            Store::Cancel { job, member } => {
                self.cancels.push((job, member));
                (self.cancels.len() as u64, Stored::Cancel(job, member))
            }
            Store::Ledger { bytes, expected } => {
                if expected.is_some_and(|expected| expected != self.ledger_end()) {
                    return Err(NotStored::WrongLastSequence);
                }
                self.ledger.push((bytes.clone(), now));
                (self.ledger_end(), Stored::Ledger(self.ledger_end(), bytes))
            }
            Store::History(record) => {
                self.history.push((*record).clone());
                (self.history.len() as u64, Stored::History(record))
            }
            Store::Lease { holder, expected, released } => {
                if expected != self.lease.revision {
                    return Err(NotStored::WrongLastSequence);
                }
                self.lease = Lease { revision: expected + 1, holder: Some(holder), released };
                (expected + 1, Stored::Other)
            }
        })
    }

    /// Notes an acknowledgement, also a late one; what left the queue with it.
    pub fn ack(&mut self, queue: Queue, seq: u64, what: Acked, now: Ms) -> Gone {
        match queue {
            Queue::Submit => self.submit.ack(seq, what, now).map_or(Gone::Nothing, Gone::Submission),
            Queue::Jobs => self.jobs.ack(seq, what, now).map_or(Gone::Nothing, Gone::Job),
        }
    }

    /// Where a message of receipts stands, and since when.
    pub fn find_receipts(&self, device: &DeviceId, bytes: &Bytes) -> Option<(u64, UnixMs)> {
        let at = self.receipts.iter().position(|(by, known, _)| by == device && known == bytes)?;
        Some((at as u64 + 1, self.receipts[at].2))
    }
}

/// What an acknowledgement took out of a queue.
pub enum Gone {
    Nothing,
    Submission(Arc<Submission>),
    Job(Arc<AdmittedJob>),
}
