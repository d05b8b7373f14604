//! A device that ends what it has and takes nothing new. It stands in the device's record, which schedulers and gateways follow, so it
//! outlives every restart and needs no word of the device.

use std::time::Duration;

use async_nats::HeaderMap;
use bus::store::StoreError;
use bus_schemas::api::{DeviceInfo, ask};
use bus_schemas::id::DeviceId;
use bus_schemas::network::{DeviceRecord, Draining};
use bus_schemas::{Code, Problem, stream};

use crate::letters::Reader;
use crate::world::World;

const WITHIN: Duration = Duration::from_secs(5);
/// Two who change one record at once: the later one looks again.
const TRIES: u32 = 5;
const REASON_CHARS_MAX: usize = 200;

/// The record as it should be; `None`: it is so already.
fn changed(record: &DeviceRecord, ask: &ask::Drain, by: &str, at: u64) -> Option<DeviceRecord> {
    if record.draining.is_some() != ask.undo {
        return None;
    }
    let draining = (!ask.undo).then(|| Draining { at, by: by.to_owned(), reason: ask.reason.clone() });
    Some(DeviceRecord { draining, ..record.clone() })
}

impl World {
    /// Lets a device drain, or take work again; for its owner and the operator. Asked again it changes nothing.
    ///
    /// # Errors
    /// [`Code::NoSuchDevice`], [`Code::Forbidden`], [`Code::BadValue`], [`Code::Unavailable`].
    pub async fn drain(&self, by: Reader, ask: &ask::Drain) -> Result<DeviceInfo, Problem> {
        let device = self.device(&ask.id)?.id;
        if ask.reason.as_ref().is_some_and(|reason| reason.chars().count() > REASON_CHARS_MAX || reason.chars().any(char::is_control)) {
            return Err(Problem::new(Code::BadValue, format!("a reason is one line of at most {REASON_CHARS_MAX} characters")));
        }
        for _ in 0..TRIES {
            let (record, seq) = self.stored_record(&device).await?;
            if !by.may(&record) {
                let detail = format!("{device} is {}'s: its owner or the operator lets it drain", record.member);
                return Err(Problem::new(Code::Forbidden, detail));
            }
            let Some(record) = changed(&record, ask, &by.name(), self.now()) else { return self.told(record) };
            if self.replaced(&record, seq).await? {
                tracing::info!(%device, by = by.name(), drains = !ask.undo, reason = ask.reason, "a device was told whether to take work");
                return self.told(record);
            }
        }
        Err(Problem::new(Code::Unavailable, "the device's record changes all the time"))
    }

    fn told(&self, record: DeviceRecord) -> Result<DeviceInfo, Problem> {
        let id = record.device.to_string();
        self.fleet.note_record(record);
        self.device(&id)
    }

    pub(crate) async fn stored_record(&self, device: &DeviceId) -> Result<(DeviceRecord, u64), Problem> {
        let (bucket, subject) = (format!("KV_{}", stream::KV_DEVICES), format!("$KV.{}.{device}", stream::KV_DEVICES));
        let found = self.bus.last_from_leader(&bucket, &subject).await;
        let found = found.map_err(|error| Problem::new(Code::Unavailable, error.to_string()))?;
        let none = || Problem::new(Code::NoSuchDevice, format!("{device} has no record"));
        let found = found.ok_or_else(none)?;
        let record = serde_json::from_slice(&found.payload).map_err(|_| none())?;
        Ok((record, found.seq))
    }

    /// Whether it was still the one at `seq`.
    pub(crate) async fn replaced(&self, record: &DeviceRecord, seq: u64) -> Result<bool, Problem> {
        let mut headers = HeaderMap::new();
        headers.insert("Nats-Expected-Last-Subject-Sequence", seq.to_string().as_str());
        let bytes = serde_json::to_vec(record).map_err(|error| Problem::new(Code::Internal, error.to_string()))?;
        let subject = format!("$KV.{}.{}", stream::KV_DEVICES, record.device);
        match self.bus.store(subject, Some(headers), bytes.into(), WITHIN).await {
            Ok(_) => Ok(true),
            Err(error) if error.err_code() == Some(StoreError::WRONG_LAST_SEQUENCE) => Ok(false),
            Err(error) => Err(Problem::new(Code::Unavailable, format!("the device's record: {error}"))),
        }
    }
}

impl Reader {
    fn may(self, record: &DeviceRecord) -> bool {
        match self {
            // The people at a machine are not its owner.
            Self::Member(asker, member) => matches!(asker, bus_schemas::id::Asker::Member(_)) && record.member == member,
            Self::Operator => true,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use bus_schemas::Signer;
    use bus_schemas::id::Asker;

    #[test]
    fn a_record_changes_once_and_for_those_who_may() {
        let did = Signer::from_seed(&[1; 32]).public();
        let (device, member) = (did.device_id(), did.member_id());
        let record = DeviceRecord {
            device,
            did,
            member,
            name: "a".into(),
            tier: 0,
            enrolled_at: 1,
            revoked: false,
            draining: None,
            suspended: None,
        };
        let ask = |undo| ask::Drain { id: device.to_string(), undo, reason: Some("new disk".into()) };
        let drained = changed(&record, &ask(false), "operator", 28_800_000).unwrap();
        assert_eq!(drained.draining.as_ref().unwrap().to_string(), "draining since 08:00:00 UTC: new disk");
        assert_eq!(changed(&drained, &ask(false), "mem_x", 9), None, "who was first stays");
        assert_eq!(changed(&drained, &ask(true), "mem_x", 9), Some(record.clone()));
        assert_eq!(changed(&record, &ask(true), "mem_x", 9), None);
        let other = Signer::from_seed(&[2; 32]).public().member_id();
        assert!(Reader::Operator.may(&record) && Reader::Member(Asker::Member(member), member).may(&record));
        assert!(!Reader::Member(Asker::Member(other), other).may(&record));
        assert!(!Reader::Member(Asker::Device(device), member).may(&record), "the people at that machine");
    }
}
