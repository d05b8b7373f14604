//! Taking up again what was accepted before a restart.

use std::time::Duration;

use bus_schemas::assignment::Assignment;
use bus_schemas::job::JobSpec;
use bus_schemas::{AttemptId, Cid, Problem, Verified};

use super::state::{Agent, Shown, Stage};
use crate::local::Kept;
use crate::work::Admission;

/// What is older than its timeout and this was given to another device long ago.
const GRACE: Duration = Duration::from_secs(60);
/// So much longer while the hub has not told its time: this machine's clock may be wrong.
const GRACE_UNTOLD: Duration = Duration::from_secs(15 * 60);

impl Agent {
    /// Reads WORK: what is still valid waits again, the rest is forgotten.
    ///
    /// # Errors
    /// Where WORK cannot be read.
    pub async fn resume(&mut self) -> anyhow::Result<()> {
        let Some(local) = self.local.clone() else { return Ok(()) };
        let mut resumed = 0;
        for (seq, kept) in local.kept().await? {
            match kept.and_then(|kept| self.take_up(kept)) {
                Ok(()) => resumed += 1,
                Err(problem) => {
                    tracing::info!(seq, %problem, "a kept job is not taken up again");
                    local.forget(seq).await;
                }
            }
        }
        if resumed > 0 {
            tracing::info!(resumed, "jobs are taken up again");
        }
        Ok(())
    }

    fn take_up(&mut self, kept: Kept) -> Result<(), Problem> {
        let no = |why: &str| Problem::new(bus_schemas::Code::Expired, why);
        let assignment: Verified<Assignment> = self.trust.one_by_scheduler(&kept.assignment)?;
        if assignment.net != self.trust.net || assignment.device != self.trust.device {
            return Err(no("it is for another device"));
        }
        let grace = if self.uplink.time.is_known() { GRACE } else { GRACE_UNTOLD };
        let grace = u64::try_from(grace.as_millis()).unwrap_or(0);
        if assignment.assigned_at.saturating_add(assignment.timeout_ms).saturating_add(grace) < self.uplink.time.now_ms() {
            return Err(no("it is too old"));
        }
        if Cid::of(&kept.payload.body) != assignment.payload {
            return Err(no("its body is not the one that was assigned"));
        }
        let spec = JobSpec::parse(kept.payload.form, &kept.payload.body)?;
        let attempt = AttemptId(assignment.cid());
        let task = self.task(&assignment, attempt, &spec);
        match self.work.admit_again(task) {
            Admission::Queue { .. } => {}
            Admission::Run | Admission::Known(_) | Admission::Decline(_) => return Err(no("it has no place")),
        }
        self.hold(attempt, assignment.into_body(), Shown::Alone(Box::new(kept.assignment)), &kept.s, Some(spec), Stage::Waiting);
        if let Some(held) = self.held.get_mut(&attempt) {
            held.kept = true;
            held.resume = kept.resume.or(held.resume);
        }
        self.work.stored(&attempt);
        Ok(())
    }
}
