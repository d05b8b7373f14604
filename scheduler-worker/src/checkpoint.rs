//! What a running job has kept. A device says that so many texts are done and lie in a blob; once the member can read that blob, the
//! job's next attempt goes on behind it. It is written to BACK too, for whoever takes the job after this scheduler.

use std::time::Instant;

use bus_schemas::event::Checkpoint;
use bus_schemas::limits::BLOB_BYTES_MAX;
use bus_schemas::receipt::ResultRef;
use bus_schemas::{AttemptId, DeviceId, JobId};

use crate::crash;
use crate::job::Phase;
use crate::measure;
use crate::stored::missing;
use crate::tell::message;
use crate::world::{Done, World};

/// What was found of a checkpoint's blob; `missing` says why it does not count.
pub struct Seen {
    job: JobId,
    attempt: AttemptId,
    checkpoint: Checkpoint,
    missing: Option<String>,
}

/// Whether a job with `units` texts, of which `kept` are done already, may be kept so far.
///
/// # Errors
/// One sentence, where it may not.
pub fn check(checkpoint: &Checkpoint, units: u32, kept: Option<&Checkpoint>) -> Result<(), String> {
    let Checkpoint { units: done, bytes, .. } = *checkpoint;
    let before = kept.map_or(0, |kept| kept.units);
    if done >= units {
        return Err(format!("{done} texts are done, the job has {units}"));
    }
    if done <= before {
        return Err(format!("{done} texts are done, {before} were before"));
    }
    if bytes > BLOB_BYTES_MAX as u64 {
        return Err(format!("it has {bytes} bytes, at most {BLOB_BYTES_MAX} are allowed"));
    }
    Ok(())
}

impl World {
    /// A device's signed word that its attempt is kept so far.
    pub fn hear_checkpoint(&mut self, device: DeviceId, id: JobId, attempt: AttemptId, checkpoint: Checkpoint) {
        // Also one of an attempt that has just ended: its device may have given the job back.
        let Some(job) = self.jobs.get(&id).filter(|job| job.phase != Phase::Closing && job.phase != Phase::Looking) else { return };
        let theirs = job.attempt(&attempt).is_some_and(|attempt| attempt.device == device);
        let checked = if theirs {
            check(&checkpoint, job.units, job.kept.as_ref())
        } else {
            Err("it is of no attempt of this job on this device".to_owned())
        };
        if let Err(why) = checked {
            measure::refused("checkpoint");
            tracing::warn!(job = ?id, %device, why, "a checkpoint was refused");
            return;
        }
        let (bus, member) = (self.bus.clone(), job.admitted.member);
        self.spawn(async move {
            let blob = ResultRef { cid: checkpoint.cid, bytes: checkpoint.bytes };
            let missing = missing(&bus, &blob, &member).await;
            Done::Kept(Box::new(Seen { job: id, attempt, checkpoint, missing }))
        });
    }

    pub fn checkpoint_seen(&mut self, seen: Seen, now: Instant) {
        let Seen { job: id, attempt, checkpoint, missing } = seen;
        let Some(job) = self.jobs.get_mut(&id).filter(|job| job.phase != Phase::Closing) else { return };
        if let Some(why) = missing {
            measure::refused("checkpoint");
            tracing::warn!(job = ?id, ?attempt, why, "a checkpoint does not count");
            return;
        }
        // Another one may have come meanwhile.
        if check(&checkpoint, job.units, job.kept.as_ref()).is_err() {
            return;
        }
        job.kept = Some(checkpoint);
        measure::checkpoint();
        self.tell_kept(&id, &checkpoint);
        self.store_back(&id);
        self.need_tick(now);
        crash::at("after_checkpoint");
    }

    pub fn tell_kept(&mut self, id: &JobId, checkpoint: &Checkpoint) {
        let Some(job) = self.jobs.get(id) else { return };
        self.out.extend(message(&job.admitted, "out", checkpoint));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use bus_schemas::Cid;

    #[test]
    fn a_checkpoint_goes_forward_and_not_to_the_end() {
        let at = |units| Checkpoint { cid: Cid::of(b"x"), bytes: 9, units };
        for (checkpoint, kept, why) in [
            (at(1), None, ""),
            (at(99), Some(at(98)), ""),
            (at(0), None, "0 texts are done, 0 were before"),
            (at(98), Some(at(98)), "98 texts are done, 98 were before"),
            (at(7), Some(at(98)), "7 texts are done, 98 were before"),
            (at(100), None, "100 texts are done, the job has 100"),
            (at(u32::MAX), None, "4294967295 texts are done, the job has 100"),
            (Checkpoint { bytes: u64::MAX, ..at(5) }, None, "it has 18446744073709551615 bytes, at most 67108864 are allowed"),
        ] {
            assert_eq!(check(&checkpoint, 100, kept.as_ref()).err().unwrap_or_default(), why);
        }
    }
}
