//! Every body that travels, in both of its forms: what is read is written and read again the same; nothing may follow it, and no
//! key may stand in it twice.

use std::fmt::Debug;

use bus_schemas::assignment::{AssignReply, AssignRequest, Assignment, Control};
use bus_schemas::envelope::Body;
use bus_schemas::event::Event;
use bus_schemas::heartbeat::{Heartbeat, SchedulerHeartbeat};
use bus_schemas::history::{Back, CancelRequest, HistoryRecord};
use bus_schemas::holding::Holding;
use bus_schemas::job::{AdmittedJob, AnnouncedJob, JobSpec};
use bus_schemas::ledger::{Command, Fact, LedgerReply, LedgerRequest};
use bus_schemas::letter::Entry;
use bus_schemas::limits::BATCH_BYTES_MAX;
use bus_schemas::network::{DeviceRecord, EnrolReply, EnrolRequest, EnrolStatement, NetworkDocument};
use bus_schemas::offer::{Bid, Offer};
use bus_schemas::order::Order;
use bus_schemas::receipt::{Receipt, ReceiptMessage};
use bus_schemas::{Code, Form, envelope, strict};
use serde::Serialize;
use serde::de::DeserializeOwned;

type Read = fn(Form, &[u8]);

/// Every kind that is signed, then what carries or answers.
pub const KINDS: [(&str, Read); 28] = [
    ("job", signed::<JobSpec>),
    ("admitted-job", signed::<AdmittedJob>),
    ("announced-job", signed::<AnnouncedJob>),
    ("offer", signed::<Offer>),
    ("bid", signed::<Bid>),
    ("assignment", signed::<Assignment>),
    ("control", signed::<Control>),
    ("event", signed::<Event>),
    ("receipt", signed::<Receipt>),
    ("heartbeat", signed::<Heartbeat>),
    ("scheduler-heartbeat", signed::<SchedulerHeartbeat>),
    ("holding", signed::<Holding>),
    ("history", signed::<HistoryRecord>),
    ("back", signed::<Back>),
    ("cancel", signed::<CancelRequest>),
    ("order", signed::<Order>),
    ("command", signed::<Command>),
    ("fact", signed::<Fact>),
    ("dead-letter", signed::<Entry>),
    ("network", signed::<NetworkDocument>),
    ("enrol", signed::<EnrolStatement>),
    ("enrol-request", carried::<EnrolRequest>),
    ("enrol-reply", carried::<EnrolReply>),
    ("device", carried::<DeviceRecord>),
    ("assign-request", carried::<AssignRequest>),
    ("assign-reply", carried::<AssignReply>),
    ("receipt-message", carried::<ReceiptMessage>),
    ("ledger", ledger),
];

/// The first byte is the form and the kind, the rest the body.
///
/// # Panics
/// Where a body is read as something that is not written back.
pub fn run(data: &[u8]) {
    let Some((first, body)) = data.split_first() else { return };
    let form = if first % 2 == 0 { Form::Msgpack } else { Form::Json };
    let (_, read) = KINDS[usize::from(first / 2) % KINDS.len()];
    read(form, body);
}

/// The first byte of an input about this kind.
pub fn first_byte(kind: &str, form: Form) -> Option<u8> {
    let at = KINDS.iter().position(|(name, _)| *name == kind)?;
    u8::try_from(2 * at + usize::from(form == Form::Json)).ok()
}

fn signed<T: Body + Debug>(form: Form, bytes: &[u8]) {
    stable::<T>(form, bytes, T::BYTES_MAX);
}
fn carried<T: Serialize + DeserializeOwned + Debug>(form: Form, bytes: &[u8]) {
    stable::<T>(form, bytes, BATCH_BYTES_MAX);
}
fn ledger(form: Form, bytes: &[u8]) {
    carried::<LedgerRequest>(form, bytes);
    carried::<LedgerReply>(form, bytes);
}

fn stable<T: Serialize + DeserializeOwned + Debug>(form: Form, bytes: &[u8], bytes_max: usize) {
    let read = |bytes: &[u8]| strict::decode::<T>(form, bytes, bytes_max);
    let Ok(body) = read(bytes) else { return };
    assert_eq!(strict::check(form, bytes, bytes_max), Ok(()), "what is read passes the checks");
    let written = match form {
        Form::Json => serde_json::to_vec(&body).expect("a body is written as JSON"),
        Form::Msgpack => envelope::encode(&body),
    };
    if written.len() <= bytes_max {
        let again = read(&written).unwrap_or_else(|problem| panic!("{body:?} is written as what is refused: {problem}"));
        assert_eq!(format!("{again:?}"), format!("{body:?}"), "decode, encode, decode");
    }
    if bytes.len() + 64 > bytes_max {
        return;
    }
    for tail in [&[0_u8][..], &[0xc0], b"x", b"{}"] {
        assert!(read(&[bytes, tail].concat()).is_err(), "trailing bytes are read over");
    }
    if let Some(twice) = with_a_key_twice(form, bytes) {
        assert_eq!(read(&twice).err().map(|problem| problem.code), Some(Code::DuplicateKey), "a key stands there twice");
    }
}

/// The same map with its first key once more, in front or at the end.
fn with_a_key_twice(form: Form, bytes: &[u8]) -> Option<Vec<u8>> {
    match form {
        Form::Json => {
            let start = bytes.iter().position(|byte| *byte == b'{')? + 1;
            let mut keys = serde_json::Deserializer::from_slice(&bytes[start..]).into_iter::<String>();
            let key = serde_json::to_string(&keys.next()?.ok()?).ok()?;
            Some([&bytes[..start], key.as_bytes(), b":null,", &bytes[start..]].concat())
        }
        Form::Msgpack => {
            // Only the short maps, whose length is in the first byte; one that is full has no room for another key.
            let first = *bytes.first().filter(|first| matches!(first, 0x81..=0x8e))?;
            let key: String = rmp_serde::from_slice(bytes.get(1..)?).ok()?;
            let again = rmp_serde::to_vec(&(key, ())).ok()?;
            Some([&[first + 1], &bytes[1..], &again[1..]].concat())
        }
    }
}
