//! Jobs that nothing fits, or that many others stand before, given back for a while. Only so many wait in hand; of the rest this process keeps a few words each, by the place
//! of the message in JOBS, so that one that comes again is put off again at once: tens of thousands of a kind that nobody serves then
//! cost next to nothing, and stop nobody.
//!
//! Putting a message off changes nothing about its job, so it is always safe; what it may cost is time, and so a job that was put off
//! several times is looked up like any that comes again.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;
use std::time::{Duration, Instant};

use bus::pull::Delivery;
use bus_schemas::eligibility::Needs;
use bus_schemas::{JobId, MemberId, UnixMs};

use crate::crash;
use crate::job::{Job, Stop, has_waited};
use crate::ready::group_name;
use crate::world::World;

/// Remembered at most; JOBS has no more un-acked messages of a class than this.
const PARKED_MAX: usize = 100_000;
/// Put off so often without a look at the books, which may have closed the hold meanwhile.
const UNSEEN_MAX: u8 = 10;

/// What is remembered of one.
struct Parked {
    job: JobId,
    member: MemberId,
    needs: Arc<Needs>,
    /// The delivery it was given back from.
    delivered: u64,
    waited: u32,
    unseen: u8,
    gives_up_at: UnixMs,
    /// Not seen again by then: another scheduler has it.
    forget_at: Instant,
}

/// How a delivered message stands to what is remembered.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Seen {
    /// Nothing has changed: it was put off again.
    PutOff,
    /// Nobody else had it since it was given back from here.
    Vouched,
    Unknown,
}

/// Why a message is put off again.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Why {
    /// No device fits.
    Nobody,
    /// Those that do are busy, and enough jobs for them are in hand.
    Busy,
}

#[derive(Default)]
pub struct Parking {
    by_seq: HashMap<u64, Parked>,
    /// One copy of what tens of thousands ask for alike.
    needs: BTreeMap<String, Arc<Needs>>,
}

impl Parking {
    pub fn len(&self) -> usize {
        self.by_seq.len()
    }
    pub fn is_empty(&self) -> bool {
        self.by_seq.is_empty()
    }
    fn shared(&mut self, needs: &Needs) -> Arc<Needs> {
        Arc::clone(self.needs.entry(group_name(needs, &[])).or_insert_with(|| Arc::new(needs.clone())))
    }
    /// Drops what did not come again to this process.
    pub fn forget_old(&mut self, now: Instant) {
        if self.by_seq.is_empty() {
            return;
        }
        self.by_seq.retain(|_, parked| parked.forget_at > now);
        self.needs.retain(|_, needs| Arc::strong_count(needs) > 1);
    }
}

/// When a job that is put off comes again: spread, so that what was put off together does not come together, and at whole `step`s of the
/// hub's clock, because the server looks through all un-acked messages each time when one is due.
fn comes_after(pause: Duration, job: &JobId, hub_ms: UnixMs, step: Duration) -> Duration {
    let share = u32::from(job.0.to_bytes().last().copied().unwrap_or(0));
    let spread = pause * 3 / 4 + pause * share / 512;
    let step = u64::try_from(step.as_millis()).unwrap_or(u64::MAX).max(1);
    let due = hub_ms.saturating_add(u64::try_from(spread.as_millis()).unwrap_or(0)).next_multiple_of(step);
    Duration::from_millis(due.saturating_sub(hub_ms))
}

impl World {
    /// After this a job that has waited so often is looked at again.
    pub fn pause(&self, waited: u32) -> Duration {
        let pauses = self.config.timings.wait_again;
        pauses.get(waited as usize).or(pauses.last()).copied().unwrap_or(self.config.timings.heartbeat)
    }

    /// Gives back a job that waits, and remembers it.
    pub fn park(&mut self, id: &JobId, pause: Duration, now: Instant) {
        let Some(job) = self.jobs.get(id) else { return };
        // What happened before must reach whoever takes it next.
        if !job.ended.is_empty() || job.kept.is_some() || self.parking.len() >= PARKED_MAX {
            self.give_back(id, pause);
            return;
        }
        let needs = self.parking.shared(&job.needs);
        let Job { waited, gives_up_at, .. } = *job;
        let member = job.admitted.member;
        let (seq, delivered, ack) = (job.lease.seq, job.lease.delivered, job.lease.ack.clone());
        self.forget(id);
        let parked = Parked { job: *id, member, needs, delivered, waited, unseen: 0, gives_up_at, forget_at: now };
        self.put_off(seq, parked, &ack, pause, now);
        crash::at("after_park");
    }

    fn put_off(&mut self, seq: u64, mut parked: Parked, ack: &str, pause: Duration, now: Instant) {
        let at = self.hub_ms();
        let after = comes_after(pause, &parked.job, at, self.config.timings.renewal / 10);
        // What gives up meanwhile comes in time for it.
        let after = after.min(Duration::from_millis(parked.gives_up_at.saturating_sub(at)));
        parked.forget_at = now + after + self.config.timings.ack_wait;
        self.parking.by_seq.insert(seq, parked);
        self.send(ack.to_owned(), bus::store::not_now(after));
    }

    /// Whether this message is put off again, without so much as a look at it.
    pub fn seen_before(&mut self, delivery: &Delivery, hopeless: &mut BTreeMap<*const Needs, Option<Why>>, now: Instant) -> Seen {
        let Some(mut parked) = self.parking.by_seq.remove(&delivery.stream_seq) else { return Seen::Unknown };
        let delivered = u64::try_from(delivery.delivered).unwrap_or(0);
        let known = if delivered == parked.delivered + 1 { Seen::Vouched } else { Seen::Unknown };
        let due = parked.unseen >= UNSEEN_MAX
            || self.cancels.stop(&parked.job, &parked.member) > Stop::No
            || has_waited(parked.gives_up_at, self.hub_ms());
        let why = *hopeless.entry(Arc::as_ptr(&parked.needs)).or_insert_with(|| match self.candidates(&parked.needs, &[], now) {
            Err(_) => Some(Why::Nobody),
            Ok(_) => self.is_backed_up(&group_name(&parked.needs, &[])).then_some(Why::Busy),
        });
        let Some(why) = why.filter(|_| !due && !self.stopping) else { return known };
        parked.unseen += 1;
        let pause = match why {
            Why::Nobody => {
                parked.waited = parked.waited.saturating_add(1);
                self.pause(parked.waited.saturating_sub(1))
            }
            Why::Busy => self.surplus_pause(),
        };
        // Where another one had it in between, nothing is vouched for from here on either.
        parked.delivered = if known == Seen::Vouched { delivered } else { 0 };
        self.put_off(delivery.stream_seq, parked, &delivery.ack_subject, pause, now);
        Seen::PutOff
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use bus_schemas::Cid;

    #[test]
    fn what_is_put_off_together_comes_apart_and_at_whole_steps() {
        let (pause, step) = (Duration::from_secs(60), Duration::from_secs(1));
        let mut due: Vec<u64> = (0..1000_u32)
            .map(|n| {
                let after = comes_after(pause, &JobId(Cid::of(&n.to_be_bytes())), 1_234, step);
                assert!(after >= pause * 3 / 4 && after <= pause * 5 / 4 + step, "{after:?}");
                1_234 + u64::try_from(after.as_millis()).unwrap()
            })
            .collect();
        assert!(due.iter().all(|at| at % 1000 == 0));
        due.sort_unstable();
        due.dedup();
        assert!((29..=32).contains(&due.len()), "half of the pause, second by second: {}", due.len());
    }
}
