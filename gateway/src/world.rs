//! What every task of this gateway shares.

use std::collections::HashSet;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use bus::Bus;
use bus_schemas::api::DeviceInfo;
use bus_schemas::envelope::{Batch, Body, Verified, Verifier};
use bus_schemas::id::{Asker, DeviceId, MemberId, NetworkId, PublicKey};
use bus_schemas::limits::Timings;
use bus_schemas::network::NetworkDocument;
use bus_schemas::{Code, Problem, Signer};

use crate::enrolment::EnrolContext;
use crate::fleet::Fleet;
use crate::freshness::Freshness;
use crate::ledger_client::Asking;
use crate::live::Live;
use crate::store::Store;
use crate::turns::Turns;

/// One running gateway.
pub struct World {
    pub bus: Bus,
    pub net: NetworkId,
    pub document: NetworkDocument,
    /// The signed document, verbatim.
    pub document_text: String,
    pub signer: Signer,
    pub timings: Timings,
    pub fleet: Fleet,
    pub live: Live,
    pub store: Store,
    pub verifier: Mutex<Verifier>,
    /// How far the rows have been seen to follow HISTORY.
    pub freshness: Freshness,
    /// Members who were granted the last hold that they asked for here.
    pub solvent: Mutex<HashSet<MemberId>>,
    /// Whose question is answered next.
    pub turns: Arc<Turns>,
    /// Who may come in, and who is in.
    pub enrol: EnrolContext,
}
impl Asking for World {
    fn bus(&self) -> &Bus {
        &self.bus
    }
    fn signer(&self) -> &Signer {
        &self.signer
    }
    fn net(&self) -> NetworkId {
        self.net
    }
}

/// A poisoned lock guards values that are whole all the same: each is replaced in one step.
pub fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl World {
    /// Who pays for what this asker does.
    ///
    /// # Errors
    /// [`Code::Forbidden`] where the device is unknown here or was revoked.
    pub async fn member_of(&self, asker: &Asker) -> Result<MemberId, Problem> {
        match asker {
            Asker::Member(member) => Ok(*member),
            Asker::Device(device) => self.member_of_device(device).await,
        }
    }

    async fn member_of_device(&self, device: &DeviceId) -> Result<MemberId, Problem> {
        let record = match self.fleet.record(device) {
            Some(record) => Some(record),
            // Enrolled a moment ago: the bucket knows it before its news are here.
            None => self.fleet.look_up(&self.bus, device).await,
        };
        match record {
            Some(record) => match record.barred() {
                Some(_) if record.revoked => Err(Problem::new(Code::Revoked, format!("{device} was revoked"))),
                Some(suspended) => Err(Problem::new(Code::Suspended, format!("{device}: {suspended}"))),
                // One whose member is suspended ends what it has; new jobs of the member get no hold.
                None => Ok(record.member),
            },
            None => Err(Problem::new(Code::Forbidden, format!("{device} is not enrolled here"))),
        }
    }

    /// Bodies of a batch that one of `keys` signed.
    ///
    /// # Errors
    /// What is wrong with the batch, or [`Code::WrongSigner`].
    pub fn verified<T: Body>(&self, bytes: &[u8], keys: &[&[PublicKey]]) -> Result<Vec<Verified<T>>, Problem> {
        let batch = Batch::decode(bytes)?;
        if !keys.iter().any(|keys| keys.contains(&batch.k)) {
            return Err(Problem::new(Code::WrongSigner, format!("{} does not speak for this network here", batch.k)));
        }
        batch.verify::<T>(&mut lock(&self.verifier))
    }

    /// One device of the network, for people.
    ///
    /// # Errors
    /// [`Code::NoSuchDevice`].
    pub fn device(&self, id: &str) -> Result<DeviceInfo, Problem> {
        let none = || Problem::new(Code::NoSuchDevice, format!("no device {}", id.chars().take(80).collect::<String>()));
        let device: DeviceId = id.parse().map_err(|_| none())?;
        self.fleet.list().devices.into_iter().find(|info| info.id == device).ok_or_else(none)
    }

    /// Hub time.
    pub fn now(&self) -> u64 {
        self.bus.time.now_ms()
    }
}

/// For tests of what survives: ends the program at once where `MESH_CRASH_AT` names this point.
pub fn crash_point(point: &str) {
    if crashes_at(point) {
        std::process::abort();
    }
}
/// Whether it is told to end here.
pub fn crashes_at(point: &str) -> bool {
    static AT: std::sync::OnceLock<Option<String>> = std::sync::OnceLock::new();
    let at = AT.get_or_init(|| std::env::var("MESH_CRASH_AT").ok().and_then(|at| at.strip_prefix("gateway.").map(str::to_owned)));
    at.as_deref() == Some(point)
}

/// A time as people and programs read it: RFC 3339 in UTC, to the millisecond.
pub fn rfc3339(ms: u64) -> String {
    let time = i64::try_from(ms).ok().and_then(|ms| jiff::Timestamp::from_millisecond(ms).ok()).unwrap_or(jiff::Timestamp::UNIX_EPOCH);
    format!("{time:.3}")
}

#[cfg(test)]
mod tests {
    #[test]
    fn times_are_rfc_3339() {
        assert_eq!(super::rfc3339(1_800_000_000_123), "2027-01-15T08:00:00.123Z");
        assert_eq!(super::rfc3339(u64::MAX), "1970-01-01T00:00:00.000Z");
    }
}
