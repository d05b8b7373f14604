//! A device that ends what it has and takes nothing new. It stands in the device's record, which schedulers and gateways follow, so it
//! outlives every restart and needs no word of the device.

use std::time::Duration;

use async_nats::HeaderMap;
use bus::store::StoreError;
use bus_schemas::api::{DeviceInfo, ErrorBody, ask};
use bus_schemas::id::DeviceId;
use bus_schemas::network::{DeviceRecord, Draining};
use bus_schemas::{Code, Problem, stream};

use tokio::time::Instant;

use crate::letters::Reader;
use crate::world::World;

/// Longer than the election of a stream's leader takes, and less than clients wait.
const WITHIN: Duration = Duration::from_secs(10);
const STORE_WITHIN: Duration = Duration::from_secs(4);
const PAUSE: Duration = Duration::from_millis(100);
const REASON_CHARS_MAX: usize = 200;

/// The record as it should be; `None`: it is so already.
fn changed(record: &DeviceRecord, ask: &ask::Drain, by: &str, at: u64) -> Option<DeviceRecord> {
    if record.draining.is_some() != ask.undo {
        return None;
    }
    let draining = (!ask.undo).then(|| Draining { at, by: by.to_owned(), reason: ask.reason.clone() });
    Some(DeviceRecord { draining, ..record.clone() })
}

/// A refusal for people: next comes a command about devices, not about job files.
pub fn told(problem: &Problem) -> ErrorBody {
    let mut body = problem.body();
    if problem.code == Code::BadValue {
        body.next = vec!["mesh node drain DEVICE --reason \"one short line\"".to_owned()];
    } else if problem.code == Code::Unavailable {
        body.next = vec!["the same command again".to_owned()];
    }
    body
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
        let deadline = Instant::now() + WITHIN;
        loop {
            let why = match tokio::time::timeout_at(deadline, self.change(&device, by, ask)).await {
                Ok(Ok(Some(info))) => return Ok(info),
                // Two who change one record at once: the later one looks again.
                Ok(Ok(None)) => "its record changes all the time".to_owned(),
                // Where it was stored all the same, the next look says so.
                Ok(Err(problem)) if problem.code == Code::Unavailable => problem.detail,
                Ok(Err(problem)) => return Err(problem),
                Err(_) => "the hub does not answer".to_owned(),
            };
            if Instant::now() + PAUSE > deadline {
                let wish = if ask.undo { "takes work again" } else { "drains" };
                let detail = format!("it is not known whether {device} {wish}: {why}; ask again, it is done once");
                return Err(Problem::new(Code::Unavailable, detail));
            }
            tokio::time::sleep(PAUSE).await;
        }
    }

    /// One look at the record, and one try to change it; `None` where somebody else has changed it meanwhile.
    async fn change(&self, device: &DeviceId, by: Reader, ask: &ask::Drain) -> Result<Option<DeviceInfo>, Problem> {
        let (record, seq) = self.stored_record(device).await?;
        if !by.may(&record) {
            let detail = format!("{device} is {}'s: its owner or the operator lets it drain", record.member);
            return Err(Problem::new(Code::Forbidden, detail));
        }
        let Some(record) = changed(&record, ask, &by.name(), self.now()) else { return self.told(record).map(Some) };
        if !self.replaced(&record, seq).await? {
            return Ok(None);
        }
        tracing::info!(%device, by = by.name(), drains = !ask.undo, reason = ask.reason, "a device was told whether to take work");
        self.told(record).map(Some)
    }

    fn told(&self, record: DeviceRecord) -> Result<DeviceInfo, Problem> {
        let id = record.device.to_string();
        self.fleet.note_record(record);
        self.device(&id)
    }

    pub(crate) async fn stored_record(&self, device: &DeviceId) -> Result<(DeviceRecord, u64), Problem> {
        let (bucket, subject) = (format!("KV_{}", stream::KV_DEVICES), format!("$KV.{}.{device}", stream::KV_DEVICES));
        let found = self.bus.last_from_leader(&bucket, &subject).await;
        let found = found.map_err(|error| Problem::new(Code::Unavailable, format!("its record cannot be read now: {error}")))?;
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
        match self.bus.store(subject, Some(headers), bytes.into(), STORE_WITHIN).await {
            Ok(_) => Ok(true),
            Err(error) if error.err_code() == Some(StoreError::WRONG_LAST_SEQUENCE) => Ok(false),
            Err(error) => Err(Problem::new(Code::Unavailable, format!("the hub took no change of its record: {error}"))),
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
        let record = DeviceRecord::new(did, member, "a", 0, 1);
        let ask = |undo| ask::Drain { id: device.to_string(), undo, reason: Some("new disk".into()) };
        let drained = changed(&record, &ask(false), "operator", 28_800_000).unwrap();
        assert_eq!(drained.draining.as_ref().unwrap().said(1), "draining since 1970-01-01 08:00:00 UTC: new disk");
        assert_eq!(changed(&drained, &ask(false), "mem_x", 9), None, "who was first stays");
        assert_eq!(changed(&drained, &ask(true), "mem_x", 9), Some(record.clone()));
        assert_eq!(changed(&record, &ask(true), "mem_x", 9), None);
        let other = Signer::from_seed(&[2; 32]).public().member_id();
        assert!(Reader::Operator.may(&record) && Reader::Member(Asker::Member(member), member).may(&record));
        assert!(!Reader::Member(Asker::Member(other), other).may(&record));
        assert!(!Reader::Member(Asker::Device(device), member).may(&record), "the people at that machine");
    }
}
