//! Tells reputations: the active writer puts each device's into KV `reputation` when it changes, at most once a second, so that
//! schedulers and gateways need not fold the facts themselves. What is lost is told again by the next writer's first turn.

use std::collections::BTreeMap;

use bus::Bus;
use bus_schemas::DeviceId;
use bus_schemas::replay::{Books, Reputation};
use bus_schemas::stream::KV_REPUTATION;

/// What was told last, of each device.
#[derive(Debug, Default)]
pub struct Told {
    seq: u64,
    devices: BTreeMap<DeviceId, Reputation>,
}

impl Told {
    /// The devices whose reputation changed since the last call; all of them at the first.
    pub fn changed(&mut self, books: &Books) -> Vec<(DeviceId, Reputation)> {
        if self.seq == books.seq() {
            return vec![];
        }
        self.seq = books.seq();
        let mut changed = vec![];
        for (id, device) in books.devices() {
            if self.devices.get(id) != Some(&device.reputation) {
                self.devices.insert(*id, device.reputation);
                changed.push((*id, device.reputation));
            }
        }
        changed
    }
}

/// Sends values on their way; an answer is not waited for, because the next change tells the whole again.
pub async fn tell(bus: &Bus, changed: Vec<(DeviceId, Reputation)>) {
    for (device, reputation) in changed {
        let value = serde_json::to_vec(&reputation).unwrap_or_default();
        if let Err(error) = bus.client.publish(format!("$KV.{KV_REPUTATION}.{device}"), value.into()).await {
            tracing::debug!(%error, %device, "a reputation was not told");
            return;
        }
    }
}
