//! A device's disk: WORK and OUTBOX.

use std::collections::BTreeMap;

use agent::local::Kept;
use bus_schemas::AttemptId;

use crate::message::{Disk, OutboxItem};

/// What survives a crash of the device.
#[derive(Debug, Default)]
pub struct DiskState {
    pub work: BTreeMap<AttemptId, Kept>,
    pub outbox: BTreeMap<u64, OutboxItem>,
    pub last: u64,
    /// New with each store: keys are made of it.
    pub outbox_id: String,
    pub full: bool,
}
impl DiskState {
    pub fn apply(&mut self, change: Disk) {
        match change {
            Disk::Keep(attempt, kept) => {
                self.work.insert(attempt, *kept);
            }
            Disk::KeepOn(attempt, resume) => {
                if let Some(kept) = self.work.get_mut(&attempt) {
                    kept.resume = Some(resume);
                }
            }
            Disk::Done(attempt) => {
                self.work.remove(&attempt);
            }
            Disk::Out(item) => {
                self.last += 1;
                self.outbox.insert(self.last, item);
            }
            Disk::OutAcked(seq) => {
                self.outbox.remove(&seq);
            }
        }
    }
}
