//! What happens now: who waits for the answer to a submission, and how far running jobs are.

use std::collections::HashMap;
use std::sync::{Arc, Mutex};

use bus_schemas::envelope::Batch;
use bus_schemas::event::{Event, EventKind, Progress};
use bus_schemas::history::{HistoryEvent, HistoryRecord};
use bus_schemas::id::{AttemptId, DeviceId, JobId, MemberId};
use bus_schemas::{Problem, UnixMs, subject};
use futures::StreamExt;
use tokio::sync::oneshot;
use tokio_util::sync::CancellationToken;

use crate::world::{World, lock};

/// How a submission went.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Told {
    /// It is a job; why it waits, where nothing fits now.
    Admitted {
        waiting: Option<String>,
    },
    Rejected(Problem),
}

/// A job that a device told of.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Running {
    pub attempt: AttemptId,
    pub device: DeviceId,
    pub progress: Option<Progress>,
    /// When it told, hub time.
    pub at: UnixMs,
}
/// Running jobs that are remembered; beyond it they are forgotten and learned again from their next event.
const RUNNING_MAX: usize = 20_000;

type Waiters = HashMap<JobId, Vec<oneshot::Sender<Told>>>;

#[derive(Default)]
pub struct Live {
    /// Who waits for which job of which member.
    waiters: Mutex<HashMap<MemberId, Waiters>>,
    running: Mutex<HashMap<JobId, Running>>,
}

impl Live {
    /// Hears how the submission of this job goes; register before it is stored.
    pub fn wait_for(&self, member: MemberId, job: JobId) -> oneshot::Receiver<Told> {
        let (sender, receiver) = oneshot::channel();
        let mut waiters = lock(&self.waiters);
        let jobs = waiters.entry(member).or_default();
        let list = jobs.entry(job).or_default();
        list.retain(|waiter| !waiter.is_closed());
        list.push(sender);
        receiver
    }
    /// Takes away those of a member that have gone.
    pub fn tidy(&self, member: &MemberId) {
        let mut waiters = lock(&self.waiters);
        if let Some(jobs) = waiters.get_mut(member) {
            jobs.retain(|_, list| {
                list.retain(|waiter| !waiter.is_closed());
                !list.is_empty()
            });
            if jobs.is_empty() {
                waiters.remove(member);
            }
        }
    }
    fn is_awaited(&self, member: &MemberId) -> bool {
        lock(&self.waiters).contains_key(member)
    }
    fn tell(&self, member: &MemberId, job: &JobId, told: &Told) {
        let list = lock(&self.waiters).get_mut(member).and_then(|jobs| jobs.remove(job)).unwrap_or_default();
        for waiter in list {
            let _ = waiter.send(told.clone());
        }
        self.tidy(member);
    }
    /// What a device last told of a job.
    pub fn running(&self, job: &JobId) -> Option<Running> {
        lock(&self.running).get(job).cloned()
    }
    pub fn forget(&self, job: &JobId) {
        lock(&self.running).remove(job);
    }
    fn note(&self, event: &Event, at: UnixMs) {
        let mut running = lock(&self.running);
        if running.len() >= RUNNING_MAX {
            running.clear();
        }
        match &event.what {
            EventKind::Started => {
                running.insert(event.job, Running { attempt: event.attempt, device: event.device, progress: None, at });
            }
            EventKind::Progress(progress) => {
                let before = running.get(&event.job).filter(|before| before.attempt == event.attempt);
                if let Err(why) = progress.follows(before.and_then(|before| before.progress.as_ref())) {
                    tracing::warn!(job = ?event.job, device = %event.device, why, "progress was refused");
                    return;
                }
                let progress = Some(progress.clone());
                running.insert(event.job, Running { attempt: event.attempt, device: event.device, progress, at });
            }
            // The scheduler tells what is kept, once it can be read.
            EventKind::Checkpoint(_) => {}
            EventKind::Dropped { .. } => {
                running.remove(&event.job);
            }
        }
    }
}

/// Follows HISTORY for those who wait, and what devices tell, until `stop`.
///
/// # Errors
/// Where the subscriptions cannot be made.
pub async fn follow(world: Arc<World>, stop: CancellationToken) -> anyhow::Result<()> {
    let mut history = world.bus.client.subscribe(subject::HISTORY_ALL).await?;
    let mut events = world.bus.client.subscribe(subject::EVENTS).await?;
    world.bus.client.flush().await?;
    loop {
        tokio::select! {
            () = stop.cancelled() => return Ok(()),
            Some(message) = history.next() => note_history(&world, &message.subject, &message.payload),
            Some(message) = events.next() => note_events(&world, &message.subject, &message.payload),
            else => return Ok(()),
        }
    }
}

fn note_history(world: &World, subject: &str, payload: &[u8]) {
    let Some(member) = subject.rsplit('.').next().and_then(|id| id.parse::<MemberId>().ok()) else { return };
    // Nobody waits: nothing is decoded.
    if !world.live.is_awaited(&member) {
        return;
    }
    let keys = [world.document.gateway_keys.as_slice(), world.document.scheduler_keys.as_slice()];
    let Ok(records) = world.verified::<HistoryRecord>(payload, &keys) else { return };
    for record in records.iter().filter(|record| record.member == member && record.net == world.net) {
        let told = match &record.what {
            HistoryEvent::Admitted(admitted) => {
                Told::Admitted { waiting: admitted.nothing_fits.as_ref().map(|decision| decision.why.clone()) }
            }
            HistoryEvent::Rejected { problem, .. } => Told::Rejected(problem.clone()),
            // It ended while somebody still waits to hear that it began.
            HistoryEvent::Ended(_) => Told::Admitted { waiting: None },
            HistoryEvent::Waiting { .. } | HistoryEvent::Assigned(_) | HistoryEvent::AttemptEnded(_) => continue,
        };
        world.live.tell(&member, &record.job, &told);
    }
}

fn note_events(world: &World, subject: &str, payload: &[u8]) {
    let Some(device) = subject::device_of(subject) else { return };
    let Ok(batch) = Batch::decode(payload) else { return };
    if world.fleet.record(&device).is_none_or(|record| record.did != batch.k) {
        return;
    }
    let Ok(events) = batch.verify::<Event>(&mut lock(&world.verifier)) else { return };
    let at = world.now();
    for event in events.iter().filter(|event| event.device == device && event.net == world.net) {
        world.live.note(event, at);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use bus_schemas::{Cid, Signer};

    #[test]
    fn who_waits_is_told_once_and_nobody_else() {
        let live = Live::default();
        let (me, other) = (Signer::from_seed(&[1; 32]).public().member_id(), Signer::from_seed(&[2; 32]).public().member_id());
        let job = JobId(Cid::of(b"j"));
        let (mut first, mut second, mut others) = (live.wait_for(me, job), live.wait_for(me, job), live.wait_for(other, job));
        live.tell(&me, &job, &Told::Admitted { waiting: None });
        assert_eq!(first.try_recv(), Ok(Told::Admitted { waiting: None }));
        assert_eq!(second.try_recv(), Ok(Told::Admitted { waiting: None }));
        assert!(others.try_recv().is_err());
        assert!(!live.is_awaited(&me), "nothing is kept");
        drop(others);
        live.tidy(&other);
        assert!(!live.is_awaited(&other));
    }
}
