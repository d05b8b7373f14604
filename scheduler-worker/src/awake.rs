//! A process that stood still (stopped, swapped out, a machine that slept), and goes on. What was delivered meanwhile may be in other hands by
//! now. It is set aside until the schedulers' heartbeats have been read: where no other one can have had it, it is taken at once, and does not
//! lie until its lease at the hub is over.

use std::time::{Duration, Instant};

use bus_schemas::{InstanceId, stream, subject};

use crate::lease::Ear;
use crate::world::{Done, World};

/// What came while this process slept is taken within so many ticks after the hub has answered it.
const TAKEN_WITHIN: u32 = 3;

/// Other schedulers, and how long ago the hub stored their last heartbeat; `None`: they could not be read.
pub struct Others(Option<Vec<(InstanceId, Duration)>>);

/// Whether what was delivered to `own` at some time before can be nobody else's: every other scheduler was silent for so long that it lets go
/// of all it has. Those that slept as well may be reading this now; of them only the first by name takes what it has.
pub fn is_ours(own: &InstanceId, others: &[(InstanceId, Duration)], lets_go_after: Duration) -> bool {
    others.iter().filter(|(other, _)| other != own).all(|(other, age)| *age > lets_go_after && own < other)
}

impl World {
    /// Asks who else is there; see [`Self::others_known`].
    pub fn ask_for_others(&mut self) {
        if std::mem::replace(&mut self.in_doubt, true) {
            return;
        }
        let bus = self.bus.clone();
        self.spawn(async move {
            let found = bus.multi_last(stream::HEARTBEATS, &[subject::SCHEDULER_HEARTBEATS]).await;
            let now = bus.time.now_ms();
            let others = found.ok().map(|found| {
                let each = found.iter().filter_map(|message| {
                    Some((subject::scheduler_of(&message.subject)?, Duration::from_millis(now.saturating_sub(message.time_ms))))
                });
                each.collect()
            });
            Done::Others(Others(others))
        });
    }

    /// The answer came behind all that lay on the way when it was asked for; that is taken, or let lie, and what comes from now on is as good
    /// as ever.
    pub fn others_known(&mut self, others: Others, now: Instant) {
        self.in_doubt = false;
        let timings = self.config.timings;
        let ours = others.0.is_some_and(|others| is_ours(&self.s, &others, timings.fence + timings.heartbeat));
        let until = now + timings.tick * TAKEN_WITHIN;
        self.ears.iter_mut().for_each(|ear: &mut Ear| if ours { ear.trust() } else { ear.distrust_until_at_most(until) });
        let doubtful = std::mem::take(&mut self.doubtful);
        if ours {
            // Renewed by the next sweep: how old their leases are is not known.
            let came = now.checked_sub(timings.renewal).unwrap_or(now);
            self.take_that_came(doubtful.into_iter().map(|delivery| (delivery, came)).collect(), now);
        } else if !doubtful.is_empty() {
            tracing::warn!(jobs = doubtful.len(), "deliveries that may be old ones are let lie");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_another_scheduler_may_have_is_let_lie() {
        let second = Duration::from_secs(1);
        let id = |name: &str| name.parse::<InstanceId>().unwrap();
        for (others, ours) in [
            (vec![], true),
            (vec![("b", 0)], true),
            (vec![("b", 0), ("c", 26)], true),
            (vec![("c", 25)], false),
            (vec![("c", 3)], false),
            (vec![("a", 90)], false),
            (vec![("c", 90), ("d", 1)], false),
        ] {
            let others: Vec<(InstanceId, Duration)> = others.into_iter().map(|(name, age)| (id(name), age * second)).collect();
            assert_eq!(is_ours(&id("b"), &others, 25 * second), ours, "{others:?}");
        }
    }
}
