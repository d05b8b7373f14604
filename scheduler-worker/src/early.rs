//! Receipts that come before the device's answer does. Asked what it has of a job whose past is being looked up, a device answers and sends
//! the receipt again; which of both is read first is chance. Without this such a job would wait for the device's next heartbeat.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Instant;

use bus_schemas::receipt::Receipt;
use bus_schemas::{Batch, DeviceId, JobId, Proof, Verified};

use crate::job::{Job, Phase};
use crate::settle::Carried;
use crate::world::World;

/// A verified receipt of a device, as it came.
pub struct Heard {
    pub receipt: Verified<Receipt>,
    pub proof: Proof,
    pub batch: Arc<Batch>,
    /// Where it travelled beside the receipt.
    pub result: Option<Vec<u8>>,
    pub carried: Arc<Carried>,
}

/// The last one of each device for each job whose past is being looked up; what they share with the messages they came in is not copied.
#[derive(Default)]
pub struct Early(BTreeMap<(JobId, DeviceId), Heard>);

impl Early {
    pub fn keep(&mut self, heard: Heard) {
        self.0.insert((heard.receipt.job, heard.receipt.device), heard);
    }
    fn take(&mut self, job: JobId, device: DeviceId) -> Option<Heard> {
        self.0.remove(&(job, device))
    }
    fn keep_only(&mut self, looking: impl Fn(&JobId) -> bool) {
        self.0.retain(|(job, _), _| looking(job));
    }
}

impl World {
    /// The device has shown its assignment: the job is in hand, and what it said of it before counts now.
    pub fn hear_early(&mut self, job: JobId, device: DeviceId, now: Instant) {
        if let Some(heard) = self.early.take(job, device) {
            self.hear_receipt(heard, now);
        }
    }

    /// Forgets receipts of jobs whose past is known: whoever waits for one asks its device.
    pub fn forget_early(&mut self) {
        let looking = |job: &Job| job.phase == Phase::Looking;
        self.early.keep_only(|id| self.jobs.get(id).is_some_and(looking));
    }
}
