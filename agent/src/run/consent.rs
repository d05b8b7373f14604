//! What the device's owner consents to, followed as it changes: nothing new is taken that is not allowed, and what waits here goes back.

use std::time::{Duration, Instant};

use bus_schemas::AttemptId;
use bus_schemas::MemberId;
use bus_schemas::job::DataClass;
use bus_schemas::offer::Decline;
use bus_schemas::receipt::FailureClass;

use super::state::Agent;
use crate::consent::Asked;
use crate::executor;
use crate::work::Was;

/// How often the file is looked at while nothing is offered, assigned or begun; before each of these it is looked at as well.
const LOOK: Duration = Duration::from_millis(500);
/// What others are told where the file cannot be used; what is wrong with it is its owner's to know.
const UNREADABLE: &str = "what its owner consents to cannot be read";

impl Agent {
    /// Takes in what the owner has changed.
    pub fn look_at_consent(&mut self) {
        self.next_consent_look = Instant::now() + LOOK;
        if !self.consent.refresh() {
            return;
        }
        match self.consent.consent() {
            Ok(_) => tracing::info!("the owner's consent has changed"),
            Err(problem) => tracing::error!(%problem, "nothing new is taken"),
        }
        self.look_around();
        self.keep_to_consent();
        // All schedulers hear it now, and what waits for a device is offered again.
        self.next_beat = Instant::now();
    }

    /// Hands back what is here and no longer allowed: what waits, and what runs too where the owner wants it so.
    pub fn keep_to_consent(&mut self) {
        let Ok(consent) = self.consent.consent() else { return };
        let stop_running = consent.stop_running;
        for attempt in self.work.attempts_at_work() {
            if !stop_running && self.work.look(&attempt) == Was::Running {
                continue;
            }
            if let Err(no) = self.still_consents(&attempt) {
                tracing::info!(%attempt, %no, "handed back");
                self.hand_back_one(&attempt, &no.to_string());
            }
        }
    }

    /// Whether an attempt that is here is allowed now. Where nobody knows what is, what was accepted before stands.
    ///
    /// # Errors
    /// Why not.
    pub fn still_consents(&self, attempt: &AttemptId) -> Result<(), Decline> {
        let Some(held) = self.held.get(attempt) else { return Ok(()) };
        let (Some((kind, data_class)), Ok(_)) = (&held.asks, self.consent.consent()) else { return Ok(()) };
        self.consents(kind, held.assignment.member, *data_class)
    }

    /// Whether a job of this kind, member and data class may be taken now.
    ///
    /// # Errors
    /// What is not allowed about it.
    pub fn consents(&self, kind: &str, member: MemberId, data_class: DataClass) -> Result<(), Decline> {
        let Ok(consent) = self.consent.consent() else { return Err(Decline::NotAllowed(UNREADABLE.into())) };
        consent.check(&self.device.member.id, &Asked { kind, member, data_class, model: executor::model(kind) })
    }

    /// Why nothing new is taken, where that is the file's fault; in the words for others.
    pub fn consent_unreadable(&self) -> Option<Decline> {
        self.consent.consent().is_err().then(|| Decline::NotAllowed(UNREADABLE.into()))
    }

    /// An attempt goes to another device.
    pub fn hand_back_one(&mut self, attempt: &AttemptId, why: &str) {
        let Some(held) = self.held.get(attempt) else { return };
        if held.stage == super::state::Stage::Computing {
            held.reins.stop();
            self.ending.insert(*attempt);
        }
        self.fail(attempt, FailureClass::DeviceDeclined, why, true);
    }
}
