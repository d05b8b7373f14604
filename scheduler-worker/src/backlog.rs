//! One kind must not starve another: jobs whose devices are all busy wait in hand only as far as they will be needed soon. Of a kind that is
//! served slowly the rest is put off, like jobs that nobody serves, so that there is always room for other kinds.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use bus_schemas::JobId;

use crate::job::Phase;
use crate::world::World;

/// So many of a group stay in hand, however slow it is: what one device may have in its queue.
const KEEP_MIN: usize = 64;
/// Of all jobs in hand at once, at most one in so many waits for busy devices, where its kind is slow.
pub const SHARE: usize = 4;
/// A group is known for so many sweeps before anything of it is put off.
const KNOWN_AFTER: u32 = 2;
/// Up to so many that are put off come again after the shortest of the three pauses, or after the second: about a thousand a second in all.
const PUT_OFF: [usize; 2] = [5_000, 15_000];

/// How fast the jobs of one group leave the queue for the auctions.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Pace {
    sweeps: u32,
    /// Since the last sweep.
    taken: usize,
    /// Per sweep: the most of late.
    per_sweep: usize,
    /// More than this of the group are put off.
    pub limit: Option<usize>,
}

impl Pace {
    pub fn took(&mut self, jobs: usize) {
        self.taken += jobs;
    }

    /// A sweep: how many of the group may stay in hand, where those that are put off come again after so many sweeps. Without a limit where
    /// the group is so fast that it would run dry before, or where there is room for all.
    pub fn swept(&mut self, comes_after: usize, share: usize, is_full: bool) {
        self.sweeps = self.sweeps.saturating_add(1);
        self.per_sweep = std::mem::take(&mut self.taken).max(self.per_sweep * 3 / 4);
        let needed = (2 * self.per_sweep * comes_after).max(KEEP_MIN);
        let slow = self.sweeps > KNOWN_AFTER && needed <= share.max(KEEP_MIN);
        self.limit = (slow && (is_full || self.limit.is_some())).then_some(needed);
    }
}

/// The pace of each group that has jobs in the queue.
pub type Paces = BTreeMap<String, Pace>;

impl World {
    /// Looks how fast each group is, and puts off what is too much of a slow one: the lowest class first, then the youngest.
    pub fn sweep_backlog(&mut self, now: Instant) {
        self.paces.retain(|name, _| self.ready.has(name));
        let is_full = self.jobs.len() > self.config.jobs_max / 2;
        let share = self.config.jobs_max / SHARE;
        let comes_after = self.surplus_pause().as_millis() / self.sweep_every().as_millis().max(1);
        let comes_after = usize::try_from(comes_after).unwrap_or(usize::MAX).max(1);
        let mut too_many = Vec::new();
        for (name, jobs) in self.ready.sizes() {
            let pace = match self.paces.get_mut(name) {
                Some(pace) => pace,
                None => self.paces.entry(name.to_owned()).or_default(),
            };
            pace.swept(comes_after, share, is_full);
            if let Some(surplus) = pace.limit.map(|limit| jobs.saturating_sub(limit)).filter(|surplus| *surplus > 0) {
                too_many.push((name.to_owned(), surplus));
            }
        }
        for (name, surplus) in too_many {
            self.put_off_surplus(&name, surplus, now);
        }
    }

    /// Whether a group has as many jobs in hand as it may.
    pub fn is_backed_up(&self, group: &str) -> bool {
        self.paces.get(group).and_then(|pace| pace.limit).is_some_and(|limit| self.ready.size(group) >= limit)
    }

    /// A group has one more job in hand than it may: the last one is put off.
    pub fn put_off_if_backed_up(&mut self, group: &str, now: Instant) {
        if self.is_backed_up(group) {
            self.put_off_surplus(group, 1, now);
        }
    }

    fn put_off_surplus(&mut self, group: &str, surplus: usize, now: Instant) {
        let pause = self.surplus_pause();
        for _ in 0..surplus {
            let jobs = &self.jobs;
            let good = |id: &JobId, place| jobs.get(id).is_some_and(|job| job.phase == Phase::Ready { place });
            let Some(id) = self.ready.take_last(group, good) else { return };
            self.park(&id, pause, now);
        }
    }

    /// After this a job comes again that was put off because its devices are busy: the later the more there are.
    pub fn surplus_pause(&self) -> Duration {
        let at = PUT_OFF.iter().filter(|most| self.parking.len() > **most).count();
        self.config.timings.wait_again.get(at).copied().unwrap_or(self.config.timings.heartbeat)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_slow_group_has_a_limit_and_only_where_there_is_no_room() {
        let limit = |per_sweep, sweeps, is_full| {
            let mut pace = Pace::default();
            for _ in 0..sweeps {
                pace.took(per_sweep);
                pace.swept(5, 2048, is_full);
            }
            pace.limit
        };
        for (per_sweep, sweeps, is_full, expected) in [
            (0, 3, true, Some(64)),
            (0, 3, false, None),
            (0, 2, true, None),
            (20, 3, true, Some(200)),
            (204, 3, true, Some(2040)),
            (300, 3, true, None),
            (3000, 9, true, None),
        ] {
            assert_eq!(limit(per_sweep, sweeps, is_full), expected, "{per_sweep} a sweep, {sweeps} sweeps, full: {is_full}");
        }
    }

    #[test]
    fn a_limit_stays_while_there_is_a_backlog_and_rises_with_the_pace() {
        let mut pace = Pace { sweeps: 3, ..Pace::default() };
        pace.swept(5, 2048, true);
        assert_eq!(pace.limit, Some(64));
        pace.took(50);
        pace.swept(5, 2048, false);
        assert_eq!(pace.limit, Some(500));
        pace.took(1000);
        pace.swept(5, 2048, false);
        assert_eq!(pace.limit, None, "fast now");
    }
}
