//! Streams, consumers and buckets of CONTROL: one table. Bootstrap makes them; every part compares what it finds.

use std::time::Duration;

use crate::job::Class;
use crate::limits::Timings;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Retention {
    Limits,
    WorkQueue,
}
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Full {
    /// The oldest goes.
    DiscardOld,
    /// The new one is refused.
    DiscardNew,
    /// The new one is refused, per subject as well.
    DiscardNewPerSubject,
}

/// One stream. Ages of zero and counts of -1 mean no limit.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StreamSpec {
    pub name: &'static str,
    pub about: &'static str,
    pub subjects: Vec<&'static str>,
    pub retention: Retention,
    pub full: Full,
    pub max_age: Duration,
    pub max_bytes: i64,
    pub max_msgs_per_subject: i64,
    pub max_message_size: i32,
    /// Repeats inside this window are answered `duplicate`; 100 ms is the least a server takes.
    pub duplicate_window: Duration,
    /// Source and destination of a subject transform that drops a free token.
    pub transform: Option<(&'static str, &'static str)>,
    /// Republish headers of what was stored under this subject.
    pub republish: Option<(&'static str, &'static str)>,
    /// Facts are never deleted by an API call.
    pub keep_for_ever: bool,
    /// Messages may carry `Nats-TTL`.
    pub message_ttl: bool,
    pub consumers: Vec<ConsumerSpec>,
}
/// One durable pull consumer with explicit acks.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ConsumerSpec {
    pub name: &'static str,
    pub about: &'static str,
    pub filter: Option<String>,
    pub ack_wait: Duration,
    pub max_ack_pending: i64,
}

pub const SUBMIT: &str = "SUBMIT";
pub const JOBS: &str = "JOBS";
pub const BIDS: &str = "BIDS";
pub const EVENTS: &str = "EVENTS";
pub const RECEIPTS: &str = "RECEIPTS";
pub const HEARTBEATS: &str = "HEARTBEATS";
pub const HISTORY: &str = "HISTORY";
pub const BACK: &str = "BACK";
pub const CANCELS: &str = "CANCELS";
pub const LEDGER: &str = "LEDGER";
pub const DLQ: &str = "DLQ";
pub const BLOBS: &str = "BLOBS";

/// Consumer of SUBMIT, shared by all gateways.
pub const INTAKE: &str = "intake";
/// Consumer of HISTORY, for the projection.
pub const PROJECTION: &str = "projection";

/// The consumer of one class of JOBS.
pub const fn jobs_consumer(class: Class) -> &'static str {
    class.token()
}

/// KV buckets, each with one value per key.
pub const KV_DEVICES: &str = "devices";
pub const KV_REPUTATION: &str = "reputation";
pub const KV_POLICY: &str = "policy";
pub const KV_LEDGER: &str = "ledger";
pub const KV_BUCKETS: [(&str, &str); 4] = [
    (KV_DEVICES, "enrolled devices, by id"),
    (KV_REPUTATION, "reputation, derived from the ledger"),
    (KV_POLICY, "the operator's choices"),
    (KV_LEDGER, "the writer's lease"),
];

/// Blobs: each chunk under its own content id (so a chunk cannot be wrong), and for each member who may read a blob one
/// message that lists its chunks. Readers use direct get.
pub mod blob {
    use crate::id::{Cid, MemberId};
    /// One chunk, under the content id of its own bytes.
    pub fn chunk(chunk: &Cid) -> String {
        format!("mesh.v1.blob.{chunk}.chunk")
    }
    /// [`crate::api::BlobInfo`] as JSON. Present = the blob is whole, was verified, and this member may read it.
    pub fn info(blob: &Cid, member: &MemberId) -> String {
        format!("mesh.v1.blob.{blob}.{member}")
    }
}

const MIB: i64 = 1024 * 1024;
const HOUR: Duration = Duration::from_secs(3600);
const DAY: Duration = Duration::from_secs(24 * 3600);
const DUPLICATES_OFF: Duration = Duration::from_millis(100);
const DUPLICATES: Duration = Duration::from_secs(120);

/// The table. `timings` sets how long an un-acked job is waited for.
pub fn all(timings: &Timings) -> Vec<StreamSpec> {
    let base = |name, about, subjects: &[&'static str]| StreamSpec {
        name,
        about,
        subjects: subjects.to_vec(),
        retention: Retention::Limits,
        full: Full::DiscardOld,
        max_age: Duration::ZERO,
        max_bytes: 1024 * MIB,
        max_msgs_per_subject: -1,
        max_message_size: 400_000,
        duplicate_window: DUPLICATES_OFF,
        transform: None,
        republish: None,
        keep_for_ever: false,
        message_ttl: false,
        consumers: vec![],
    };
    let consumer = |name, about| ConsumerSpec { name, about, filter: None, ack_wait: timings.ack_wait, max_ack_pending: 10_000 };
    vec![
        StreamSpec {
            retention: Retention::WorkQueue,
            full: Full::DiscardNewPerSubject,
            max_age: 7 * DAY,
            max_msgs_per_subject: 10_000,
            // What is put off so that others come first is pending as well.
            consumers: vec![ConsumerSpec { max_ack_pending: 100_000, ..consumer(INTAKE, "shared by all gateways") }],
            ..base(SUBMIT, "what people send, before it is admitted", &["mesh.v1.submit.*"])
        },
        StreamSpec {
            retention: Retention::WorkQueue,
            full: Full::DiscardNewPerSubject,
            max_bytes: 4096 * MIB,
            max_msgs_per_subject: 1,
            consumers: Class::ALL
                .into_iter()
                .map(|class| ConsumerSpec {
                    name: jobs_consumer(class),
                    about: "the lease of each job",
                    filter: Some(format!("mesh.v1.job.{}.*", class.token())),
                    ack_wait: timings.ack_wait,
                    max_ack_pending: 100_000,
                })
                .collect(),
            ..base(JOBS, "admitted jobs; the un-acked message is the lease", &["mesh.v1.job.*.*"])
        },
        StreamSpec {
            max_age: HOUR,
            max_msgs_per_subject: 1_000,
            max_message_size: 96 * 1024,
            transform: Some(("mesh.v1.dev.*.bid.*", "mesh.v1.dev.$1.bid")),
            ..base(BIDS, "what devices answered to offers", &["mesh.v1.dev.*.bid.*"])
        },
        StreamSpec {
            max_age: 7 * DAY,
            max_msgs_per_subject: 4_000,
            max_message_size: 64 * 1024,
            transform: Some(("mesh.v1.dev.*.evt.*", "mesh.v1.dev.$1.evt")),
            ..base(EVENTS, "what devices tell while they work", &["mesh.v1.dev.*.evt.*"])
        },
        StreamSpec {
            max_age: 30 * DAY,
            max_bytes: 4096 * MIB,
            max_msgs_per_subject: 16_000,
            max_message_size: 64 * 1024,
            transform: Some(("mesh.v1.dev.*.receipt.*", "mesh.v1.dev.$1.receipt")),
            ..base(RECEIPTS, "how attempts ended, signed by devices", &["mesh.v1.dev.*.receipt.*"])
        },
        StreamSpec {
            max_age: Duration::from_secs(120),
            max_bytes: 64 * MIB,
            max_msgs_per_subject: 1,
            max_message_size: 64 * 1024,
            ..base(HEARTBEATS, "the last heartbeat of each device and scheduler", &["mesh.v1.dev.*.hb", "mesh.v1.sched.*.hb"])
        },
        StreamSpec {
            max_age: 30 * DAY,
            max_bytes: 8192 * MIB,
            duplicate_window: DUPLICATES,
            max_message_size: 1_000_000,
            consumers: vec![consumer(PROJECTION, "into Postgres, by the gateways")],
            ..base(HISTORY, "what happened to each job", &["mesh.v1.history.*"])
        },
        StreamSpec {
            max_age: 25 * HOUR,
            max_msgs_per_subject: 1,
            max_message_size: 64 * 1024,
            ..base(BACK, "why a job was given back", &["mesh.v1.back.*"])
        },
        StreamSpec {
            max_age: 8 * DAY,
            max_msgs_per_subject: 1,
            max_message_size: 64 * 1024,
            ..base(CANCELS, "jobs that are to be cancelled", &["mesh.v1.cancel.*"])
        },
        StreamSpec {
            max_bytes: -1,
            max_message_size: 1_000_000,
            duplicate_window: DUPLICATES,
            republish: Some(("mesh.v1.ledger.facts", "mesh.v1.ledger.stored")),
            keep_for_ever: true,
            ..base(LEDGER, "the facts, for ever", &["mesh.v1.ledger.facts"])
        },
        StreamSpec {
            max_age: 30 * DAY,
            max_bytes: 256 * MIB,
            ..base(
                DLQ,
                "what could not be done",
                &["mesh.v1.dlq", "$JS.EVENT.ADVISORY.CONSUMER.MAX_DELIVERIES.>", "$JS.EVENT.ADVISORY.CONSUMER.MSG_TERMINATED.>"],
            )
        },
        StreamSpec {
            full: Full::DiscardNewPerSubject,
            max_age: 30 * DAY,
            max_bytes: 16 * 1024 * MIB,
            max_msgs_per_subject: 1,
            max_message_size: 300 * 1024,
            ..base(BLOBS, "inputs and results by content id, in chunks", &["mesh.v1.blob.*.*"])
        },
    ]
}

/// One stream of the table by name.
pub fn spec(timings: &Timings, name: &str) -> Option<StreamSpec> {
    all(timings).into_iter().find(|spec| spec.name == name)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Where devices write and the oldest goes, one of them alone pushes out nothing of others: it has at most a quarter of the bytes.
    #[test]
    fn one_device_fills_at_most_a_quarter_of_a_stream() {
        for name in [BIDS, EVENTS, RECEIPTS, HEARTBEATS] {
            let StreamSpec { max_bytes, max_msgs_per_subject, max_message_size, .. } = spec(&Timings::default(), name).unwrap();
            // What the server keeps of each message beside its bytes: its subject and 22 bytes of its own.
            let most = max_msgs_per_subject * (i64::from(max_message_size) + 80);
            assert!(max_msgs_per_subject > 0 && most <= max_bytes / 4, "{name}: {most} of {max_bytes}");
        }
        // Both ends of a full message of receipts fit: a lone one with the largest result, and the most that share one.
        let largest = crate::limits::INLINE_RESULT_MAX.max(crate::limits::RECEIPTS_BYTES_TARGET);
        assert!(i32::try_from(largest + 8 * 1024).unwrap() <= spec(&Timings::default(), RECEIPTS).unwrap().max_message_size);
    }

    #[test]
    fn names_are_safe_and_unique() {
        let streams = all(&Timings::default());
        let mut names: Vec<_> = streams.iter().map(|s| s.name).collect();
        assert!(names.iter().all(|n| n.len() < 32 && n.bytes().all(|b| b.is_ascii_uppercase())));
        names.sort_unstable();
        names.dedup();
        assert_eq!(names.len(), streams.len());
        // Where EDGE writes, a stranger could swallow another's message id: the window is the least there is.
        for name in [SUBMIT, BIDS, EVENTS, RECEIPTS, HEARTBEATS] {
            assert_eq!(spec(&Timings::default(), name).unwrap().duplicate_window, DUPLICATES_OFF, "{name}");
        }
        // Inside a duplicate window JOBS would call an acked, gone job a duplicate.
        assert_eq!(spec(&Timings::default(), JOBS).unwrap().duplicate_window, DUPLICATES_OFF);
    }
}
