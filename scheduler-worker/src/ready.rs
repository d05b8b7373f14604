//! The queue in front of the auctions: jobs that ask for the same stand in one group, so that one auction serves many.

use std::collections::BTreeMap;

use bus_schemas::eligibility::Needs;
use bus_schemas::job::Class;
use bus_schemas::{DeviceId, JobId};

/// Class first, then arrival.
type Place = (Class, u64);

/// Ready jobs by group. An entry is good only while its job says that it is ready at this very place.
#[derive(Default)]
pub struct Ready {
    groups: BTreeMap<String, BTreeMap<Place, JobId>>,
    next: u64,
}

/// Jobs with equal names may share an auction.
pub fn group_name(needs: &Needs, avoid: &[DeviceId]) -> String {
    let plain = avoid.is_empty() && *needs == Needs { kind: needs.kind.clone(), ..Needs::default() };
    if plain { needs.kind.clone() } else { format!("{needs:?} {avoid:?}") }
}

impl Ready {
    /// Adds a job behind its class and gives its place.
    pub fn push(&mut self, group: String, class: Class, job: JobId) -> u64 {
        let place = self.next;
        self.next += 1;
        self.groups.entry(group).or_default().insert((class, place), job);
        place
    }

    /// The group, other than the blocked ones, whose first job is due before all others'; with up to `max` of its jobs in order.
    /// Entries that are not good any more are dropped on the way.
    pub fn first_group(&mut self, blocked: &[String], max: usize, good: impl Fn(&JobId, u64) -> bool) -> Option<(String, Vec<JobId>)> {
        loop {
            let (name, _) = self
                .groups
                .iter()
                .filter(|(name, _)| !blocked.contains(name))
                .filter_map(|(name, jobs)| jobs.first_key_value().map(|(place, _)| (name, *place)))
                .min_by_key(|(_, place)| *place)?;
            let name = name.clone();
            let jobs = self.groups.get_mut(&name)?;
            let mut found = Vec::new();
            let mut gone = Vec::new();
            for (place, id) in jobs.iter() {
                if good(id, place.1) {
                    found.push(*id);
                } else {
                    gone.push(*place);
                }
                if found.len() == max {
                    break;
                }
            }
            for place in gone {
                jobs.remove(&place);
            }
            if jobs.is_empty() {
                self.groups.remove(&name);
            }
            if !found.is_empty() {
                return Some((name, found));
            }
        }
    }

    /// How many jobs a group has, some of which may not be good any more.
    pub fn size(&self, group: &str) -> usize {
        self.groups.get(group).map_or(0, BTreeMap::len)
    }
    /// The same of all groups, in the order of their names.
    pub fn sizes(&self) -> impl Iterator<Item = (&str, usize)> {
        self.groups.iter().map(|(name, jobs)| (name.as_str(), jobs.len()))
    }
    pub fn has(&self, group: &str) -> bool {
        self.groups.contains_key(group)
    }

    /// Takes the last good job out of a group: of the lowest class the youngest.
    pub fn take_last(&mut self, group: &str, good: impl Fn(&JobId, u64) -> bool) -> Option<JobId> {
        let jobs = self.groups.get_mut(group)?;
        while let Some(((_, place), id)) = jobs.pop_last() {
            if good(&id, place) {
                return Some(id);
            }
        }
        self.groups.remove(group);
        None
    }

    /// Takes the first `count` jobs out of a group.
    pub fn take(&mut self, group: &str, count: usize) {
        if let Some(jobs) = self.groups.get_mut(group) {
            for _ in 0..count {
                jobs.pop_first();
            }
            if jobs.is_empty() {
                self.groups.remove(group);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use bus_schemas::Cid;

    fn job(n: u8) -> JobId {
        JobId(Cid::of(&[n]))
    }

    #[test]
    fn higher_classes_and_earlier_jobs_go_first() {
        let mut ready = Ready::default();
        ready.push("echo".into(), Class::Normal, job(1));
        ready.push("embed".into(), Class::High, job(2));
        ready.push("echo".into(), Class::Low, job(3));
        ready.push("echo".into(), Class::High, job(4));
        let all = |_: &JobId, _| true;
        assert_eq!(ready.first_group(&[], 9, all), Some(("embed".into(), vec![job(2)])));
        assert_eq!(ready.first_group(&["embed".into()], 9, all), Some(("echo".into(), vec![job(4), job(1), job(3)])));
        ready.take("embed", 1);
        assert_eq!(ready.first_group(&[], 2, all), Some(("echo".into(), vec![job(4), job(1)])));
        assert_eq!(ready.first_group(&[], 9, |id, _| *id == job(3)), Some(("echo".into(), vec![job(3)])), "stale ones are skipped");
        assert_eq!(ready.first_group(&[], 9, |_, _| false), None);
    }

    #[test]
    fn the_youngest_of_the_lowest_class_gives_way() {
        let mut ready = Ready::default();
        for (class, n) in [(Class::Low, 1), (Class::High, 2), (Class::Low, 3), (Class::Normal, 4)] {
            ready.push("echo".into(), class, job(n));
        }
        let good = |id: &JobId, _| *id != job(1);
        let taken: Vec<Option<JobId>> = (0..4).map(|_| ready.take_last("echo", good)).collect();
        assert_eq!(taken, [Some(job(3)), Some(job(4)), Some(job(2)), None]);
        assert_eq!((ready.size("echo"), ready.sizes().count()), (0, 0));
    }

    #[test]
    fn only_equal_asks_share_a_group() {
        let plain = Needs { kind: "echo".into(), ..Needs::default() };
        let picky = Needs { trust_scope: Some("lab".into()), ..plain.clone() };
        assert_eq!(group_name(&plain, &[]), "echo");
        assert_ne!(group_name(&picky, &[]), group_name(&plain, &[]));
        let device = bus_schemas::Signer::from_seed(&[1; 32]).public().device_id();
        assert_ne!(group_name(&plain, &[device]), group_name(&plain, &[]));
    }
}
