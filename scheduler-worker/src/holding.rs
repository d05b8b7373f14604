//! Tells who asks what this scheduler has in hand and what it waits for. Nothing follows from it.

use std::time::Instant;

use async_nats::Message;
use bus_schemas::heartbeat::Heartbeat;
use bus_schemas::holding::{HeldAttempt, Holding, HoldingAsk, HoldingPhase, Queued};
use bus_schemas::limits::Timings;
use bus_schemas::{Form, JobId, UnixMs, limits, strict};

use crate::job::{Attempt, Job, Phase, Stop};
use crate::next_step::counts;
use crate::sweep::{late_from, may_move};
use crate::world::{Out, World};

/// A moment of our own clock on the hub's.
fn on_hub(moment: Instant, now: Instant, hub_now: UnixMs) -> UnixMs {
    let ms = |duration: std::time::Duration| u64::try_from(duration.as_millis()).unwrap_or(u64::MAX);
    match moment.checked_duration_since(now) {
        Some(ahead) => hub_now.saturating_add(ms(ahead)),
        None => hub_now.saturating_sub(ms(now.duration_since(moment))),
    }
}

/// Where a job stands, and when that is over by itself.
fn phase(phase: &Phase) -> (HoldingPhase, Option<Instant>) {
    match phase {
        Phase::Looking => (HoldingPhase::Looking, None),
        Phase::Ready { .. } => (HoldingPhase::Ready, None),
        Phase::Bidding { .. } => (HoldingPhase::Bidding, None),
        Phase::Assigning => (HoldingPhase::Assigning, None),
        Phase::Running => (HoldingPhase::Running, None),
        Phase::BackOff { until } => (HoldingPhase::BackOff, Some(*until)),
        Phase::Waiting { next_look } => (HoldingPhase::Waiting, Some(*next_look)),
        Phase::Closing => (HoldingPhase::Closing, None),
    }
}

/// What an attempt waits for that its device has not begun. `hub`: a moment on the hub's clock.
fn queued(
    id: &JobId,
    job: &Job,
    attempt: &Attempt,
    beat: Option<&Heartbeat>,
    timings: &Timings,
    hub: impl Fn(Instant) -> UnixMs,
) -> Queued {
    let place = beat.and_then(|beat| beat.jobs.iter().position(|one| one == id));
    let starts_at = attempt.start_by.checked_sub(timings.silence).filter(|_| attempt.is_from_here());
    Queued {
        ahead: place.and_then(|place| u32::try_from(place).ok()),
        starts_at: starts_at.map(&hub),
        late_at: may_move(job).then(|| hub(late_from(attempt, job.timeout_ms, timings))),
        gives_up_at: job.gives_up_at.max(hub(attempt.start_by)),
    }
}

/// Attempts that counted, and how often a device said no.
fn tries(job: &Job) -> (u32, u32) {
    let count = |n: usize| u32::try_from(n).unwrap_or(u32::MAX);
    let counted = job.ended.iter().filter(|ended| counts(ended.failure.class)).count();
    // What was taken and dropped later was not declined in words before.
    (count(counted), count(job.ended.len() - counted + job.declined.len()))
}

impl World {
    /// Answers where the job is in hand here; the others are silent.
    pub fn hear_holding(&mut self, message: &Message, now: Instant) {
        let Some(reply) = message.reply.as_ref().filter(|reply| reply.starts_with("_INBOX.")) else { return };
        let Ok(HoldingAsk { job }) = strict::decode(Form::Msgpack, &message.payload, limits::BODY_BYTES_MAX) else { return };
        let Some(holding) = self.jobs.get(&job).map(|held| self.holding(job, held, now)) else { return };
        let payload = self.config.signer.batch(&[holding]).encode().into();
        self.out.push(Out { subject: reply.to_string(), reply: None, headers: None, payload });
    }

    fn holding(&self, id: JobId, job: &Job, now: Instant) -> Holding {
        let at = self.hub_ms();
        let timings = &self.config.timings;
        let hub = |moment| on_hub(moment, now, at);
        let (phase, until) = phase(&job.phase);
        let (attempts_used, declined) = tries(job);
        let unwritten = job.transitions.len().saturating_sub(Holding::UNWRITTEN_MAX);
        Holding {
            net: self.net,
            job: id,
            s: self.s.clone(),
            at,
            since: hub(job.lease.since),
            renewed_at: hub(job.lease.confirmed),
            renews_at: hub(job.lease.confirmed + timings.renewal),
            ends_at: hub(job.lease.confirmed + timings.fence),
            phase,
            until: until.map(hub),
            attempts_used,
            declined,
            gives_up_at: job.gives_up_at,
            cancelled: job.stop == Stop::Now,
            current: job.current().map(|attempt| self.held_attempt(&id, job, attempt, hub, now)),
            kept: job.kept,
            holds_back: self.fleet.mass_silence().is_some(),
            hold_back: self.fleet.mass_silence().map(|mass| mass.told(timings.silence)),
            unwritten: job.transitions.iter().skip(unwritten).cloned().collect(),
        }
    }

    fn held_attempt(&self, id: &JobId, job: &Job, attempt: &Attempt, hub: impl Fn(Instant) -> UnixMs, now: Instant) -> HeldAttempt {
        let timings = &self.config.timings;
        let device = self.fleet.get(&attempt.device);
        let word = device.and_then(|device| device.last_word());
        let ms = |duration: std::time::Duration| u64::try_from(duration.as_millis()).unwrap_or(u64::MAX);
        let waits = job.phase == Phase::Running && attempt.started.is_none();
        let beat = device.and_then(|device| device.heartbeat.as_ref());
        HeldAttempt {
            attempt: attempt.id,
            number: attempt.number,
            device: attempt.device,
            name: self.fleet.name(&attempt.device),
            assigned_at: attempt.assigned_at,
            started_at: attempt.started.map(|(at, _)| at),
            silent_ms: ms(word.map_or(timings.silence, |word| now.duration_since(word))),
            unheard: word.is_none(),
            silence_max_ms: ms(timings.silence),
            gone_at: self.fleet.gone_at(&attempt.device, now).map(&hub),
            timeout_ms: job.timeout_ms,
            queued: waits.then(|| queued(id, job, attempt, beat, timings, &hub)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    #[test]
    fn moments_are_told_in_hub_time() {
        let now = Instant::now();
        assert_eq!(on_hub(now + Duration::from_millis(250), now, 1_000), 1_250);
        assert_eq!(on_hub(now, now, 1_000), 1_000);
        assert_eq!(on_hub(now, now + Duration::from_millis(300), 1_000), 700);
        assert_eq!(phase(&Phase::BackOff { until: now }), (HoldingPhase::BackOff, Some(now)));
    }
}
