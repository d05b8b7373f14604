//! What devices tell of jobs that are not in hand here: another scheduler has them, or they do not exist. The books are asked once about each
//! of which there is room to ask: at most one question of 64 jobs a sweep, however many jobs others have. The rest is passed over without
//! a look, so that another scheduler's work costs this one next to nothing; who invents jobs is found out by those that are asked about.

use std::collections::{HashSet, VecDeque};

use bus_schemas::event::Event;
use bus_schemas::ledger::HoldView;
use bus_schemas::limits::{BODY_BYTES_MAX, STEP_MAX};
use bus_schemas::{AttemptId, Batch, DeviceId, Form, JobId, strict};
use serde::Deserialize;

use crate::measure;
use crate::world::{Done, World};

/// Jobs that were asked about; the oldest is forgotten first, and would be asked about again.
const KNOWN_MAX: usize = 65_536;

/// One event's word.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Told {
    pub job: JobId,
    pub attempt: AttemptId,
    pub device: DeviceId,
    pub what: &'static str,
}

/// What the books say of them.
pub struct Answers(Vec<(Told, Option<HoldView>)>);

/// Jobs of others, and what is to be asked at the next sweep: at most one question.
#[derive(Debug, Default)]
pub struct Elsewhere {
    order: VecDeque<JobId>,
    known: HashSet<JobId>,
    to_ask: Vec<Told>,
}

impl Elsewhere {
    fn has_room(&self) -> bool {
        self.to_ask.len() < STEP_MAX
    }
    /// Takes what was told; `false` where there is no room for it now.
    fn note(&mut self, told: Told) -> bool {
        if self.known.contains(&told.job) {
            return true;
        }
        if !self.has_room() {
            return false;
        }
        self.known.insert(told.job);
        self.order.push_back(told.job);
        self.to_ask.push(told);
        if self.order.len() > KNOWN_MAX
            && let Some(oldest) = self.order.pop_front()
        {
            self.known.remove(&oldest);
        }
        true
    }
}

/// What is read of an event before its signature is looked at.
#[derive(Deserialize)]
struct About {
    job: JobId,
}

impl World {
    /// Whether a message of events is to be looked at: all schedulers hear all devices, so most are about other schedulers' jobs, and their
    /// signatures are left alone. What cannot be read is looked at.
    pub fn concerns_us(&self, events: &Batch) -> bool {
        let has_room = self.elsewhere.has_room();
        let mut unheard_of = false;
        let concerns_us = events.b.iter().any(|body| match strict::decode::<About>(Form::Msgpack, body, BODY_BYTES_MAX) {
            Ok(about) if self.jobs.contains_key(&about.job) => true,
            Ok(about) => {
                unheard_of |= !self.elsewhere.known.contains(&about.job);
                unheard_of && has_room
            }
            Err(_) => true,
        });
        if unheard_of && !concerns_us {
            measure::passed_over();
        }
        concerns_us
    }

    /// A device's signed word about a job that is not in hand here.
    pub fn hear_of_another(&mut self, event: &Event) {
        let told = Told { job: event.job, attempt: event.attempt, device: event.device, what: event.what.token() };
        if !self.elsewhere.note(told) {
            measure::passed_over();
        }
    }

    /// Asks the books about jobs that were not heard of before.
    pub fn ask_of_others(&mut self) {
        let told = std::mem::take(&mut self.elsewhere.to_ask);
        if told.is_empty() {
            return;
        }
        measure::asked_of_others(told.len());
        let asker = self.ledger();
        self.spawn(async move {
            let holds = asker.look(&told.iter().map(|told| told.job).collect::<Vec<_>>()).await;
            Done::Elsewhere(Answers(told.into_iter().zip(holds.unwrap_or_default()).collect()))
        });
    }

    pub fn others_answered(&self, answers: &Answers) {
        for (Told { job, attempt, device, what }, _) in answers.0.iter().filter(|(_, hold)| hold.is_none()) {
            measure::refused("event");
            tracing::warn!(?job, %attempt, %device, what, "an event was refused: the books do not know its job");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use bus_schemas::{Cid, Signer};

    #[test]
    fn each_job_is_asked_about_once_and_few_at_a_time() {
        let device = Signer::from_seed(&[1; 32]).public().device_id();
        let told = |n: usize| {
            let cid = Cid::of(&n.to_le_bytes());
            Told { job: JobId(cid), attempt: AttemptId(cid), device, what: "started" }
        };
        let mut elsewhere = Elsewhere::default();
        assert!(elsewhere.note(told(0)) && elsewhere.note(told(0)));
        assert_eq!(elsewhere.to_ask, [told(0)]);
        assert!((1..STEP_MAX).all(|n| elsewhere.note(told(n))));
        assert!(!elsewhere.note(told(STEP_MAX)), "no room before the next sweep");
        assert!(elsewhere.note(told(3)), "it was asked about");
        for n in 0..=KNOWN_MAX {
            elsewhere.to_ask.clear();
            assert!(elsewhere.note(told(n)));
        }
        assert_eq!((elsewhere.known.len(), elsewhere.order.len()), (KNOWN_MAX, KNOWN_MAX));
        assert!(!elsewhere.known.contains(&told(0).job) && elsewhere.known.contains(&told(KNOWN_MAX).job));
    }
}
