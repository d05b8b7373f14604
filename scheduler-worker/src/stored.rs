//! A large result lies in a blob, and counts once it is there: nobody pays for what nobody can read. The gateway lists a blob for its
//! member only after it has read all of it and its hash was right, so that list is all there is to look at.

use std::sync::Arc;
use std::time::{Duration, Instant};

use bus::Bus;
use bus_schemas::api::BlobInfo;
use bus_schemas::receipt::{Failure, FailureClass, Receipt, ResultRef};
use bus_schemas::stream::{BLOBS, blob};
use bus_schemas::{MemberId, PublicKey, ReceiptId};
use serde_json::value::RawValue;

use crate::crash;
use crate::job::{Evidence, Phase};
use crate::settle::Carried;
use crate::tell::receipt_view;
use crate::world::{Done, World};

/// A replica may lag behind the one that stored it: looked at so often before it counts as missing.
const LOOKS: u32 = 4;
const PAUSE: Duration = Duration::from_millis(250);

/// A valid receipt over a result.
pub struct Completed {
    pub receipt: Receipt,
    pub id: ReceiptId,
    pub did: PublicKey,
    pub evidence: Evidence,
    /// Where it travelled beside the receipt.
    pub result: Option<Vec<u8>>,
    /// As it is told.
    pub told: Box<RawValue>,
    pub carried: Arc<Carried>,
}

/// What was found of a blob; `missing` says why the result does not count.
pub struct Sought {
    completed: Completed,
    missing: Option<String>,
}

impl World {
    /// Looks whether the member can read the result, and goes on with [`Self::sought`].
    pub fn seek_blob(&self, completed: Completed, signed: ResultRef, member: MemberId) {
        let bus = self.bus.clone();
        self.spawn(async move {
            let missing = missing(&bus, &signed, &member).await;
            Done::Sought(Box::new(Sought { completed, missing }))
        });
    }

    pub fn sought(&mut self, sought: Sought, now: Instant) {
        let Sought { completed, missing } = sought;
        // It may have ended meanwhile, or be in other hands: who has it hears the receipt again.
        let Some(job) = self.jobs.get(&completed.receipt.job).filter(|job| job.phase != Phase::Closing) else { return };
        let is_current = job.current == Some(completed.receipt.attempt);
        match missing {
            None => self.completed(completed, now),
            Some(missing) => {
                let message = format!("its result does not count: {missing}");
                tracing::warn!(device = %completed.receipt.device, message, "a receipt is not paid");
                let failure = Failure { class: FailureClass::ExecutionError, message, retryable: true };
                self.failed_there(&completed.receipt, failure, is_current, now);
            }
        }
    }

    /// The result is told, then paid.
    pub fn completed(&mut self, completed: Completed, now: Instant) {
        let Completed { receipt, id, did, evidence, result, told, carried } = completed;
        let assignment = self.jobs.get(&receipt.job).and_then(|job| job.attempt(&receipt.attempt)).map(|attempt| attempt.evidence.clone());
        let Some(assignment) = assignment else { return };
        let view = receipt_view(&receipt, id, did, &evidence.proof, &assignment.proof);
        self.tell_result(&receipt.job, told, view);
        crash::at("after_tell");
        self.settle(receipt, id, evidence, result, &carried, now);
    }
}

/// Why the blob that a device speaks of does not count; `None`: the member can read it.
pub async fn missing(bus: &Bus, signed: &ResultRef, member: &MemberId) -> Option<String> {
    let subject = blob::info(&signed.cid, member);
    let mut looks = 0;
    loop {
        match bus.last_sure(BLOBS, &subject).await {
            Ok(Some(message)) => return unlike(signed, &message.payload),
            Ok(None) => looks += 1,
            // The hub is away: what it says then counts.
            Err(error) => tracing::debug!(%error, "looking for a result again"),
        }
        if looks >= LOOKS {
            return Some(format!("blob {} was never stored", signed.cid));
        }
        tokio::time::sleep(PAUSE).await;
    }
}

fn unlike(signed: &ResultRef, info: &[u8]) -> Option<String> {
    match serde_json::from_slice::<BlobInfo>(info) {
        Ok(info) if info.bytes == signed.bytes => None,
        Ok(info) => Some(format!("blob {} has {} bytes, not {}", signed.cid, info.bytes, signed.bytes)),
        Err(error) => Some(format!("what is stored of blob {} cannot be read: {error}", signed.cid)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use bus_schemas::Cid;

    #[test]
    fn a_blob_has_as_many_bytes_as_the_receipt_says() {
        let cid = Cid::of(b"x");
        let info = |bytes| serde_json::to_vec(&BlobInfo { bytes, chunks: vec![cid] }).unwrap();
        let signed = ResultRef { cid, bytes: 7 };
        assert_eq!(unlike(&signed, &info(7)), None);
        assert_eq!(unlike(&signed, &info(8)).unwrap(), format!("blob {cid} has 8 bytes, not 7"));
        assert!(unlike(&signed, b"{}").unwrap().contains("cannot be read"));
    }
}
