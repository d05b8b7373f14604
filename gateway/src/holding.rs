//! Asks the schedulers who has a job in hand. Only the holder answers, in a message of its own key.

use std::time::Duration;

use bus::ask::AskError;
use bus_schemas::envelope::encode;
use bus_schemas::holding::{Holding, HoldingAsk};
use bus_schemas::id::JobId;
use bus_schemas::subject;

use crate::next::Held;
use crate::world::World;

/// A holder that is not frozen answers within it.
const WITHIN: Duration = Duration::from_millis(250);

impl World {
    pub async fn held(&self, job: &JobId) -> Held {
        let question = encode(&HoldingAsk { job: *job });
        match self.bus.ask_bytes(subject::HOLDING.to_owned(), question.into(), WITHIN).await {
            Ok(answer) => {
                let told = self.verified::<Holding>(&answer, &[self.document.scheduler_keys.as_slice()]);
                let about = |holding: &bus_schemas::Verified<Holding>| holding.net == self.net && holding.job == *job;
                let told = told.unwrap_or_default().into_iter().find(about);
                told.map_or(Held::Unknown, |holding| Held::By(Box::new(holding.into_body())))
            }
            Err(AskError::TimedOut) => Held::Nobody,
            Err(AskError::Nobody(_)) => Held::NoScheduler,
            Err(AskError::Unreadable(_) | AskError::Other(_)) => Held::Unknown,
        }
    }
}
