//! A job that was paid, but whose holder died before its end was written. Whoever settled it had seen its receipt in RECEIPTS, so it is
//! read there: the device may have forgotten it by now, or be gone.

use std::collections::BTreeMap;
use std::time::Duration;

use bus::Bus;
use bus::direct::{ReadError, StoredMessage};
use bus_schemas::history::CompletedEnd;
use bus_schemas::ledger::SettleOutcome;
use bus_schemas::limits::CROSSING_BYTES_MAX;
use bus_schemas::receipt::{Receipt, ReceiptMessage};
use bus_schemas::{AttemptId, DeviceId, Form, JobId, MilliMana, ReceiptId, UnixMs, Verifier, stream, subject};
use serde_bytes::ByteBuf;

use crate::job::Phase;
use crate::world::{Done, World};

/// Messages read at once.
const READ_BATCH: usize = 64;
/// Between two looks at a hub that is away, or a replica that lags.
const PAUSE: Duration = Duration::from_millis(500);
/// A receipt is stored after its job was admitted; the two times are of two clocks.
const BEFORE_MS: u64 = bus_schemas::limits::SKEW_MS;

/// What the books say of a job that they have paid.
#[derive(Debug, Clone, Copy)]
pub struct Settled {
    pub job: JobId,
    pub device: DeviceId,
    pub attempt: AttemptId,
    pub receipt: ReceiptId,
    pub paid: MilliMana,
    pub outcome: SettleOutcome,
}

/// Paid jobs of one device, with the receipts that were found.
pub struct Recalled(Vec<(Settled, Option<CompletedEnd>)>);

impl World {
    /// Seeks the receipts of paid jobs of one device, and goes on with [`Self::recalled`].
    pub fn recall(&self, device: DeviceId, paid: Vec<Settled>) {
        let admitted = paid.iter().filter_map(|one| self.jobs.get(&one.job)).map(|job| job.admitted.submitted_at);
        let since = admitted.min().unwrap_or_default().saturating_sub(BEFORE_MS);
        let bus = self.bus.clone();
        self.spawn(async move {
            let mut found = find(&bus, &device, since, &paid).await;
            Done::Recalled(Recalled(paid.into_iter().map(|one| (one, found.remove(&one.receipt))).collect()))
        });
    }

    pub fn recalled(&mut self, recalled: Recalled) {
        for (paid, done) in recalled.0 {
            let Some(job) = self.jobs.get(&paid.job).filter(|job| job.phase != Phase::Closing) else { continue };
            // Its device came back with the receipt meanwhile, and tells the rest.
            if done.is_none() && job.phase != Phase::Looking {
                continue;
            }
            // The device showed it, if it still has it.
            let assignment = job.attempt(&paid.attempt).map(|attempt| (*attempt.evidence.proof).clone());
            match &done {
                Some(_) => tracing::info!(job = ?paid.job, "it was paid before: its end is written from RECEIPTS"),
                None => {
                    tracing::error!(job = ?paid.job, device = %paid.device, receipt = ?paid.receipt, "it was paid, but RECEIPTS has not its receipt")
                }
            }
            self.close_paid_before(&paid, done.map(|done| CompletedEnd { assignment_proof: assignment, ..done }));
        }
    }
}

/// Reads what a device has stored since, until all is found or the stream's leader has no more.
async fn find(bus: &Bus, device: &DeviceId, since: UnixMs, paid: &[Settled]) -> BTreeMap<ReceiptId, CompletedEnd> {
    let subject = subject::receipt_stored(device);
    let mut found = BTreeMap::new();
    let mut from = None;
    loop {
        match next(bus, &subject, since, from).await {
            Ok(Some(messages)) => {
                from = messages.last().map(|message| message.seq + 1).or(from);
                for message in &messages {
                    found.extend(ends(device, paid, message));
                }
                if paid.iter().all(|one| found.contains_key(&one.receipt)) {
                    return found;
                }
                if messages.is_empty() {
                    tokio::time::sleep(PAUSE).await;
                }
            }
            Ok(None) => return found,
            Err(error) => {
                tracing::warn!(%error, %device, "RECEIPTS is read again");
                tokio::time::sleep(PAUSE).await;
            }
        }
    }
}

/// The next messages; `None`: there are no more. None yet, where a replica lags behind the leader.
async fn next(bus: &Bus, subject: &str, since: UnixMs, from: Option<u64>) -> Result<Option<Vec<StoredMessage>>, ReadError> {
    let messages = match from {
        None => bus.next_by_subject_since(stream::RECEIPTS, subject, since, READ_BATCH).await?,
        Some(from) => bus.next_by_subject(stream::RECEIPTS, subject, from, READ_BATCH).await?,
    };
    if !messages.is_empty() {
        return Ok(Some(messages));
    }
    let last = bus.last_from_leader(stream::RECEIPTS, subject).await?;
    let is_over = last.is_none_or(|last| last.time_ms < since || from.is_some_and(|from| last.seq < from));
    Ok((!is_over).then_some(messages))
}

/// The ends of the paid jobs whose receipts are in this message. A receipt counts by its content id, which the books have checked, and by
/// the device's signature.
fn ends(device: &DeviceId, paid: &[Settled], message: &StoredMessage) -> Vec<(ReceiptId, CompletedEnd)> {
    let Ok(stored) = bus_schemas::strict::decode::<ReceiptMessage>(Form::Msgpack, &message.payload, CROSSING_BYTES_MAX) else {
        return vec![];
    };
    let Ok(receipts) = stored.receipts.verify::<Receipt>(&mut Verifier::default()) else { return vec![] };
    let results = stored.results.into_iter().chain(std::iter::repeat(None));
    let proofs = stored.receipts.proofs();
    let each = receipts.into_iter().zip(proofs).zip(results);
    each.filter_map(|((receipt, receipt_proof), result)| {
        let id = ReceiptId(receipt.cid());
        let wanted = paid.iter().find(|one| one.receipt == id && one.attempt == receipt.attempt && one.job == receipt.job)?;
        if receipt.by().device_id() != *device {
            return None;
        }
        let result = result.map(ByteBuf::into_vec).map(ByteBuf::from);
        let (attempt, receipt_seq) = (wanted.attempt, message.seq);
        Some((id, CompletedEnd { attempt, receipt: id, receipt_seq, receipt_proof, assignment_proof: None, result }))
    })
    .collect()
}
