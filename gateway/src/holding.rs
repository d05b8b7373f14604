//! Asks the schedulers who has a job in hand. Only the holder answers, in a message of its own key.

use std::time::Duration;

use bus::ask::AskError;
use bus_schemas::envelope::encode;
use bus_schemas::holding::{Holding, HoldingAsk};
use bus_schemas::id::JobId;
use bus_schemas::{UnixMs, stream, subject};

use crate::next::{Held, Unanswered, unanswered};
use crate::world::World;

/// A holder that is not frozen answers within it.
const WITHIN: Duration = Duration::from_millis(250);
const BEATS_WITHIN: Duration = Duration::from_secs(1);
/// When it is asked again where nobody listens: after a hub node has died, it takes the others a moment to know of the subscriptions.
const AGAIN: [Duration; 3] = [Duration::from_millis(100), Duration::from_millis(250), Duration::from_millis(500)];

impl World {
    pub async fn held(&self, job: &JobId) -> Held {
        let question = encode(&HoldingAsk { job: *job });
        let mut pauses = AGAIN.iter();
        loop {
            let how = match self.bus.ask_bytes(subject::HOLDING.to_owned(), question.clone().into(), WITHIN).await {
                Ok(answer) => return self.told_by(&answer, job),
                Err(AskError::TimedOut) => Unanswered::TimedOut,
                Err(AskError::Nobody(_)) => match pauses.next() {
                    Some(pause) => {
                        tokio::time::sleep(*pause).await;
                        continue;
                    }
                    None => Unanswered::Nobody,
                },
                Err(AskError::Unreadable(_) | AskError::Other(_)) => return Held::Unknown,
            };
            return match self.scheduler_heard().await {
                Some(heard) => unanswered(how, heard, self.now(), &self.timings),
                None => Held::Unknown,
            };
        }
    }

    fn told_by(&self, answer: &[u8], job: &JobId) -> Held {
        let told = self.verified::<Holding>(answer, &[self.document.scheduler_keys.as_slice()]);
        let about = |holding: &bus_schemas::Verified<Holding>| holding.net == self.net && holding.job == *job;
        let told = told.unwrap_or_default().into_iter().find(about);
        told.map_or(Held::Unknown, |holding| Held::By(Box::new(holding.into_body())))
    }

    /// When the last heartbeat of any scheduler was stored; `None` where that cannot be read.
    async fn scheduler_heard(&self) -> Option<Option<UnixMs>> {
        let beats = self.bus.multi_last(stream::HEARTBEATS, &[subject::SCHEDULER_HEARTBEATS]);
        let beats = tokio::time::timeout(BEATS_WITHIN, beats).await.ok()?.ok()?;
        Some(beats.iter().map(|beat| beat.time_ms).max())
    }
}
