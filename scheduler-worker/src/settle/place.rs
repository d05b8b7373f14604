//! Where a receipt lies in RECEIPTS. A live message is no proof that it was stored: it is looked up before it is believed.

use std::sync::Arc;
use std::time::Instant;

use bus_schemas::ledger::Op;
use bus_schemas::{DeviceId, UnixMs, stream, subject};

use super::{Carried, Closing, Item};
use crate::world::{Done, World};

/// Messages read at once.
const READ_BATCH: usize = 64;
/// So few are read one by one: a batch takes a subscription of its own, which costs the hub more than they do.
const READ_ALONE: usize = 3;
/// How far before its arrival a message is searched for, by stream time.
const BEFORE_MS: u64 = 5_000;
const LONG_BEFORE_MS: u64 = 120_000;

/// Ends that wait for the place of one message.
pub struct Unconfirmed {
    carried: Arc<Carried>,
    items: Vec<Item>,
    tries: u32,
}

/// What a read of one device's receipts found.
pub struct Confirmed {
    device: DeviceId,
    /// Message, sequence, stream time.
    found: Vec<(Arc<Carried>, u64, UnixMs)>,
}

impl Closing {
    pub fn wait_for_place(&mut self, carried: Arc<Carried>, item: Item) {
        let waiting = self.unconfirmed.entry(carried.device).or_default();
        match waiting.iter_mut().find(|one| Arc::ptr_eq(&one.carried, &carried)) {
            Some(one) => one.items.push(item),
            None => waiting.push(Unconfirmed { carried, items: vec![item], tries: 0 }),
        }
    }
}

impl World {
    /// Reads the receipts of every device that has some to be confirmed.
    pub fn confirm_receipts(&mut self, _now: Instant) {
        let mut reads = Vec::new();
        for (device, waiting) in &self.closing.unconfirmed {
            if self.closing.reading.contains(device) {
                continue;
            }
            let known = self.fleet.get(device).map_or(0, |found| found.receipts_from);
            let lost = waiting.iter().any(|one| one.tries >= 2);
            let earliest = waiting.iter().map(|one| one.carried.heard_ms).min().unwrap_or(0);
            let since = earliest.saturating_sub(if lost { LONG_BEFORE_MS } else { BEFORE_MS });
            let wanted: Vec<Arc<Carried>> = waiting.iter().map(|one| Arc::clone(&one.carried)).collect();
            reads.push((*device, if lost { 0 } else { known }, since, wanted));
        }
        for (device, from, since, wanted) in reads {
            self.closing.reading.insert(device);
            let bus = self.bus.clone();
            self.spawn(async move { Done::Confirmed(Confirmed { device, found: find(&bus, device, from, since, wanted).await }) });
        }
    }

    /// Takes what was found to the books; what was not is looked for again, for a while.
    pub fn confirmed(&mut self, confirmed: Confirmed, now: Instant) {
        let Confirmed { device, found } = confirmed;
        self.closing.reading.remove(&device);
        let Some(waiting) = self.closing.unconfirmed.remove(&device) else { return };
        if let (Some(last), Some(device)) = (found.iter().map(|(_, seq, _)| *seq).max(), self.fleet.get_mut(&device)) {
            device.receipts_from = last + 1;
        }
        let mut left = Vec::new();
        let mut lost = Vec::new();
        for mut one in waiting {
            match found.iter().find(|(carried, ..)| Arc::ptr_eq(carried, &one.carried)) {
                Some((_, seq, time)) => {
                    for mut item in one.items {
                        place(&mut item, *seq, *time);
                        self.closing.queue.push(item);
                    }
                }
                None if now.duration_since(one.carried.heard) > self.config.timings.look_first => {
                    lost.extend(one.items.into_iter().map(|item| (item.job, item.ack)));
                }
                None => {
                    one.tries += 1;
                    left.push(one);
                }
            }
        }
        if !left.is_empty() {
            self.closing.unconfirmed.entry(device).or_default().extend(left);
            self.need_tick(now);
        }
        // Never stored: the job goes back, and whoever takes it asks the device, which sends its receipt again.
        for (job, ack) in lost {
            tracing::warn!(?job, %device, "its receipt was heard but is not in RECEIPTS");
            self.forget(&job);
            let bus = self.bus.clone();
            self.spawn(async move {
                let _ = bus.give_back(&ack, std::time::Duration::from_millis(100)).await;
                Done::Sent
            });
        }
        self.close_batches(now);
    }
}

fn place(item: &mut Item, seq: u64, time: UnixMs) {
    if let Some(Op::Settle { receipt_at, receipt_seq, .. }) = &mut item.op {
        *receipt_at = time;
        *receipt_seq = seq;
    }
    if let Some(done) = item.end().and_then(|end| end.done.as_mut()) {
        done.receipt_seq = seq;
    }
}

async fn find(
    bus: &bus::Bus,
    device: DeviceId,
    from: u64,
    since: UnixMs,
    mut wanted: Vec<Arc<Carried>>,
) -> Vec<(Arc<Carried>, u64, UnixMs)> {
    let subject = subject::receipt_stored(&device);
    let mut found = Vec::new();
    let mut from = from;
    let mut size = if from > 0 && wanted.len() <= READ_ALONE { 1 } else { READ_BATCH };
    while !wanted.is_empty() {
        let read = if from == 0 {
            bus.next_by_subject_since(stream::RECEIPTS, &subject, since, size).await
        } else {
            bus.next_by_subject(stream::RECEIPTS, &subject, from, size).await
        };
        let messages = match read {
            Ok(messages) => messages,
            Err(error) => {
                tracing::debug!(%error, "RECEIPTS is read again");
                break;
            }
        };
        let Some(last) = messages.last().map(|message| message.seq) else { break };
        let whole = messages.len() < size;
        let before = found.len();
        for message in messages {
            if let Some(at) = wanted.iter().position(|carried| carried.payload == message.payload) {
                bus.time.at_least(message.time_ms);
                found.push((wanted.swap_remove(at), message.seq, message.time_ms));
            }
        }
        if whole {
            break;
        }
        if found.len() == before {
            // Somebody else's lie in between.
            size = READ_BATCH;
        }
        from = last + 1;
    }
    found
}
