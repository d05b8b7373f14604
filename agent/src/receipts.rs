//! Receipts that are not settled yet, and when each is sent again. Decides and touches nothing.
//!
//! A message holds up to 64 receipts under one signature; it goes when the last of them is closed.

use std::collections::BTreeMap;
use std::time::Duration;

use bus_schemas::receipt::{Outcome, Receipt, ReceiptMessage};
use bus_schemas::{AttemptId, InstanceId, Signer, limits};
use bytes::Bytes;
use serde_bytes::ByteBuf;

/// A receipt that is to be signed, with its result where that travels beside it.
#[derive(Debug, Clone)]
pub struct Draft {
    pub receipt: Receipt,
    pub result: Option<Bytes>,
}

/// Number of a message in [`Unsettled`].
pub type Number = u64;

/// One signed message of receipts.
#[derive(Debug, Clone)]
pub struct Message {
    /// The scheduler that gave the work, or asked for it since.
    pub to: InstanceId,
    pub bytes: Bytes,
    attempts: Vec<AttemptId>,
    /// Receipts in it that are not closed.
    open: usize,
    /// A stream has it: the hub's, or our own OUTBOX.
    stored: bool,
    sent: u32,
    /// When it is sent again, by the monotonic clock.
    next: Duration,
}

/// All messages with an open receipt.
#[derive(Debug, Clone, Default)]
pub struct Unsettled {
    messages: BTreeMap<Number, Message>,
    of_attempt: BTreeMap<AttemptId, Number>,
    numbers: Number,
    bytes: usize,
}

/// More than this is not kept for sending again, where a stream has it.
const BYTES_MAX: usize = 64 << 20;
const ATTEMPTS_MAX: usize = 16_384;
/// Messages sent again at a time.
const AGAIN_MAX: usize = 16;

/// Splits receipts into messages that fit, in order: at most 64 receipts and 56 KiB, but for one lone receipt.
pub fn pack(drafts: Vec<Draft>) -> Vec<Vec<Draft>> {
    let mut packs: Vec<Vec<Draft>> = Vec::new();
    let mut bytes = 0;
    for draft in drafts {
        let weight = 400 + draft.result.as_ref().map_or(0, Bytes::len);
        match packs.last_mut() {
            Some(pack) if pack.len() < limits::STEP_MAX && bytes + weight <= limits::RECEIPTS_BYTES_TARGET => {
                bytes += weight;
                pack.push(draft);
            }
            Some(_) | None => {
                bytes = weight;
                packs.push(vec![draft]);
            }
        }
    }
    packs
}

/// Signs one pack: the bytes that travel.
pub fn sign(signer: &Signer, pack: &[Draft]) -> Bytes {
    let bodies: Vec<Vec<u8>> = pack.iter().map(|draft| bus_schemas::envelope::encode(&draft.receipt)).collect();
    let message = ReceiptMessage {
        receipts: signer.batch_of_bytes::<Receipt>(bus_schemas::Form::Msgpack, bodies),
        results: pack.iter().map(|draft| draft.result.as_ref().map(|result| ByteBuf::from(result.to_vec()))).collect(),
    };
    bus_schemas::envelope::encode(&message).into()
}

impl Unsettled {
    /// Remembers a message that is about to be sent for the first time.
    pub fn add(&mut self, to: InstanceId, attempts: Vec<AttemptId>, bytes: Bytes, now: Duration) -> Number {
        self.numbers += 1;
        let number = self.numbers;
        self.of_attempt.extend(attempts.iter().map(|attempt| (*attempt, number)));
        self.bytes += bytes.len();
        let open = attempts.len();
        self.messages.insert(number, Message { to, bytes, attempts, open, stored: false, sent: 1, next: now + PATIENCE });
        number
    }
    /// Lets the oldest stored messages go while there is too much: a stream has them, and a scheduler finds them there. The
    /// attempts that are forgotten.
    pub fn shrink(&mut self) -> Vec<AttemptId> {
        let mut forgotten = Vec::new();
        while (self.bytes > BYTES_MAX || self.of_attempt.len() > ATTEMPTS_MAX)
            && let Some(number) = self.messages.iter().find(|(_, message)| message.stored).map(|(number, _)| *number)
        {
            forgotten.extend(self.forget(number));
        }
        forgotten
    }
    /// A stream has it.
    pub fn stored(&mut self, number: Number) {
        if let Some(message) = self.messages.get_mut(&number) {
            message.stored = true;
        }
    }
    /// The message of an attempt.
    pub fn of(&self, attempt: &AttemptId) -> Option<Number> {
        self.of_attempt.get(attempt).copied()
    }
    pub fn get(&self, number: Number) -> Option<&Message> {
        self.messages.get(&number)
    }
    /// Sends its receipts to another scheduler from now on.
    pub fn redirect(&mut self, number: Number, to: &InstanceId) {
        if let Some(message) = self.messages.get_mut(&number) {
            message.to = to.clone();
        }
    }
    /// One receipt is settled, or will not be paid.
    pub fn close(&mut self, attempt: &AttemptId) {
        let Some(number) = self.of_attempt.remove(attempt) else { return };
        if let Some(message) = self.messages.get_mut(&number) {
            message.open = message.open.saturating_sub(1);
            if message.open == 0 {
                self.forget(number);
            }
        }
    }
    /// Messages that are due to be sent again, at most 16; each counts as sent. `every` is the first pause, doubled up to six
    /// times it: a scheduler that is away for an hour must not find a thousand copies.
    pub fn due(&mut self, now: Duration, every: Duration) -> Vec<Number> {
        let due = self.messages.iter_mut().filter(|(_, message)| message.next <= now).take(AGAIN_MAX);
        due.map(|(number, message)| {
            message.next = now + every * (1 << message.sent.min(3)).min(6);
            message.sent = message.sent.saturating_add(1);
            *number
        })
        .collect()
    }
    /// Sets when a message that was just sent is sent again.
    pub fn sent(&mut self, number: Number, now: Duration, every: Duration) {
        if let Some(message) = self.messages.get_mut(&number) {
            message.next = now + every;
        }
    }
    pub fn is_empty(&self) -> bool {
        self.messages.is_empty()
    }
    pub fn len(&self) -> usize {
        self.of_attempt.len()
    }
    /// Messages that no stream has.
    pub fn not_stored(&self) -> Vec<Number> {
        self.messages.iter().filter(|(_, message)| !message.stored).map(|(number, _)| *number).collect()
    }

    /// Drops a message; its attempts that were open.
    fn forget(&mut self, number: Number) -> Vec<AttemptId> {
        let Some(message) = self.messages.remove(&number) else { return vec![] };
        self.bytes -= message.bytes.len();
        let open = message.attempts.into_iter().filter(|attempt| self.of_attempt.get(attempt) == Some(&number));
        let open: Vec<AttemptId> = open.collect();
        open.iter().for_each(|attempt| {
            self.of_attempt.remove(attempt);
        });
        open
    }
}

/// Until a fresh message is looked at for the first time; then [`Unsettled::sent`] has set its time.
const PATIENCE: Duration = Duration::from_secs(30);

/// Whether the result travels beside the receipt, or must be a blob before.
pub fn is_inline(result: &[u8]) -> bool {
    result.len() <= limits::INLINE_RESULT_MAX
}

/// The outcome with the result's content id.
pub fn completed(result: &[u8]) -> Outcome {
    Outcome::Completed(bus_schemas::receipt::ResultRef { cid: bus_schemas::Cid::of(result), bytes: result.len() as u64 })
}

#[cfg(test)]
mod tests {
    use super::*;
    use bus_schemas::{Cid, JobId, Verifier};
    use proptest::prelude::*;

    fn attempt(n: usize) -> AttemptId {
        AttemptId(Cid::of(&n.to_be_bytes()))
    }
    fn draft(n: usize, bytes: usize) -> Draft {
        let key = Signer::from_seed(&[1; 32]).public();
        let result = vec![b'x'; bytes];
        Draft {
            receipt: Receipt {
                net: key.network_id(),
                device: key.device_id(),
                job: JobId(Cid::of(&n.to_be_bytes())),
                attempt: attempt(n),
                at: 1,
                outcome: completed(&result),
                claimed_ms: 1,
                waited_ms: 0,
            },
            result: Some(result.into()),
        }
    }
    fn to(name: &str) -> InstanceId {
        name.parse().unwrap()
    }

    #[test]
    fn receipts_share_a_message() {
        let sizes = |drafts: Vec<Draft>| pack(drafts).iter().map(Vec::len).collect::<Vec<_>>();
        assert_eq!(sizes((0..130).map(|n| draft(n, 20)).collect()), [64, 64, 2]);
        assert_eq!(sizes((0..10).map(|n| draft(n, 32 * 1024)).collect()), [1; 10]);
        assert_eq!(sizes((0..70).map(|n| draft(n, 3 * 1024)).collect()), [16, 16, 16, 16, 6]);
        assert_eq!(sizes(vec![]), Vec::<usize>::new());
        let signer = Signer::from_seed(&[2; 32]);
        for pack in [20, 3 * 1024, 32 * 1024].into_iter().flat_map(|size| pack((0..70).map(|n| draft(n, size)).collect())) {
            let bytes = sign(&signer, &pack);
            assert!(bytes.len() <= 60 * 1024, "{}", bytes.len());
            let message: ReceiptMessage = bus_schemas::strict::decode(bus_schemas::Form::Msgpack, &bytes, limits::BATCH_BYTES_MAX).unwrap();
            let receipts = message.receipts.verify::<Receipt>(&mut Verifier::default()).unwrap();
            assert_eq!((receipts.len(), message.results.len()), (pack.len(), pack.len()));
        }
    }

    #[test]
    fn sent_again_until_closed() {
        let second = Duration::from_secs(1);
        let mut unsettled = Unsettled::default();
        let number = unsettled.add(to("s1"), vec![attempt(1), attempt(2)], Bytes::from_static(b"m"), second);
        unsettled.sent(number, second, 10 * second);
        assert_eq!(unsettled.due(10 * second, 10 * second), [] as [Number; 0]);
        let mut times = vec![];
        for now in 11..400 {
            if !unsettled.due(now * second, 10 * second).is_empty() {
                times.push(now);
            }
        }
        assert_eq!(times[..5], [11, 31, 71, 131, 191], "ever rarer, at least once a minute");
        unsettled.redirect(number, &to("s2"));
        assert_eq!(unsettled.get(number).unwrap().to, to("s2"));
        unsettled.close(&attempt(1));
        unsettled.close(&attempt(1));
        assert_eq!((unsettled.len(), unsettled.of(&attempt(2))), (1, Some(number)));
        unsettled.close(&attempt(2));
        assert!(unsettled.is_empty() && unsettled.bytes == 0);
    }

    #[test]
    fn memory_is_bounded_by_what_a_stream_has() {
        let mut unsettled = Unsettled::default();
        let big = Bytes::from(vec![0; 240 * 1024]);
        let mut forgotten = vec![];
        for n in 0..400 {
            let number = unsettled.add(to("s"), vec![attempt(n)], big.clone(), Duration::ZERO);
            if n > 0 {
                unsettled.stored(number);
            }
            forgotten.extend(unsettled.shrink());
        }
        assert!(unsettled.bytes <= BYTES_MAX);
        assert_eq!((forgotten.len() + unsettled.len(), forgotten[0]), (400, attempt(1)), "the oldest that a stream has");
        assert!(unsettled.of(&attempt(0)).is_some(), "nobody else has it");
        assert_eq!(unsettled.not_stored().len(), 1);
    }

    proptest! {
        #[test]
        fn every_receipt_is_in_one_pack(sizes in proptest::collection::vec(0..40_000_usize, 0..200)) {
            let packs = pack(sizes.iter().enumerate().map(|(n, size)| draft(n, *size)).collect());
            let all: Vec<AttemptId> = packs.iter().flatten().map(|draft| draft.receipt.attempt).collect();
            prop_assert_eq!(all, (0..sizes.len()).map(attempt).collect::<Vec<_>>());
            prop_assert!(packs.iter().all(|pack| (1..=limits::STEP_MAX).contains(&pack.len())));
        }
    }
}
