//! The table of streams as configuration for a server, and what differs between the table and what a server has.
//!
//! `bootstrap` creates and adjusts; every running part only compares ([`crate::Bus::check_streams`]) and refuses what nobody can have meant.

use std::fmt;
use std::time::Duration;

use async_nats::jetstream::consumer::{self, AckPolicy, DeliverPolicy, ReplayPolicy, pull};
use async_nats::jetstream::stream::{
    Compression, Config, DiscardPolicy, PersistenceMode, Republish, RetentionPolicy, StorageType, SubjectTransform,
};
use bus_schemas::limits::Timings;
use bus_schemas::stream::{self, ConsumerSpec, Full, KV_BUCKETS, Retention, StreamSpec};

/// One stream as a server takes it, with its consumers.
#[derive(Debug, Clone, PartialEq)]
pub struct Wanted {
    pub config: Config,
    pub consumers: Vec<pull::Config>,
}

/// Everything that bootstrap makes: the streams of the table, then the buckets.
pub fn wanted(timings: &Timings, replicas: usize) -> Vec<Wanted> {
    let streams = stream::all(timings)
        .into_iter()
        .map(|spec| Wanted { config: config(&spec, replicas), consumers: spec.consumers.iter().map(consumer_config).collect() });
    let buckets = KV_BUCKETS.into_iter().map(|(name, about)| Wanted { config: bucket_config(name, about, replicas), consumers: vec![] });
    streams.chain(buckets).collect()
}

/// A stream of the table as a server takes it. Every field that matters is written out, so that it can be compared.
pub fn config(spec: &StreamSpec, replicas: usize) -> Config {
    let (discard, discard_new_per_subject) = match spec.full {
        Full::DiscardOld => (DiscardPolicy::Old, false),
        Full::DiscardNew => (DiscardPolicy::New, false),
        Full::DiscardNewPerSubject => (DiscardPolicy::New, true),
    };
    Config {
        name: spec.name.to_owned(),
        description: Some(spec.about.to_owned()),
        subjects: spec.subjects.iter().map(|subject| (*subject).to_owned()).collect(),
        retention: match spec.retention {
            Retention::Limits => RetentionPolicy::Limits,
            Retention::WorkQueue => RetentionPolicy::WorkQueue,
        },
        discard,
        discard_new_per_subject,
        max_bytes: spec.max_bytes,
        max_messages: -1,
        max_messages_per_subject: spec.max_msgs_per_subject,
        max_message_size: spec.max_message_size,
        max_consumers: -1,
        max_age: spec.max_age,
        storage: StorageType::File,
        num_replicas: replicas,
        duplicate_window: spec.duplicate_window,
        deny_delete: spec.keep_for_ever,
        deny_purge: spec.keep_for_ever,
        republish: spec.republish.map(|(source, destination)| Republish {
            source: source.to_owned(),
            destination: destination.to_owned(),
            headers_only: true,
        }),
        allow_direct: true,
        subject_transform: spec
            .transform
            .map(|(source, destination)| SubjectTransform { source: source.to_owned(), destination: destination.to_owned() }),
        allow_message_ttl: spec.message_ttl,
        ..Config::default()
    }
}

/// A KV bucket with one value per key, as the stream that it is: the same comparison serves both.
pub fn bucket_config(name: &str, about: &str, replicas: usize) -> Config {
    Config {
        name: format!("KV_{name}"),
        description: Some(about.to_owned()),
        subjects: vec![format!("$KV.{name}.>")],
        retention: RetentionPolicy::Limits,
        discard: DiscardPolicy::New,
        max_bytes: 256 * 1024 * 1024,
        max_messages: -1,
        max_messages_per_subject: 1,
        max_message_size: 64 * 1024,
        max_consumers: -1,
        storage: StorageType::File,
        num_replicas: replicas,
        duplicate_window: Duration::from_secs(120),
        allow_rollup: true,
        deny_delete: true,
        allow_direct: true,
        ..Config::default()
    }
}

/// A consumer of the table as a server takes it.
pub fn consumer_config(spec: &ConsumerSpec) -> pull::Config {
    pull::Config {
        durable_name: Some(spec.name.to_owned()),
        name: Some(spec.name.to_owned()),
        description: Some(spec.about.to_owned()),
        deliver_policy: DeliverPolicy::All,
        ack_policy: AckPolicy::Explicit,
        ack_wait: spec.ack_wait,
        max_deliver: -1,
        filter_subject: spec.filter.clone().unwrap_or_default(),
        replay_policy: ReplayPolicy::Instant,
        max_ack_pending: spec.max_ack_pending,
        ..pull::Config::default()
    }
}

/// How much a difference weighs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Weight {
    /// Bootstrap adjusts it without losing anything; a running part lives with it.
    Mild,
    /// Bootstrap adjusts it; a running part that relies on the table must not start.
    Adjust,
    /// Nobody can have meant it, or adjusting would lose what is stored: a person decides.
    Refuse,
}

/// One field that is not as the table says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Difference {
    /// The server's name of the field.
    pub field: &'static str,
    pub wanted: String,
    pub found: String,
    pub weight: Weight,
}
impl fmt::Display for Difference {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} is {} instead of {}", self.field, self.found, self.wanted)
    }
}

struct Differences(Vec<Difference>);
impl Differences {
    fn note<T: PartialEq + fmt::Debug>(&mut self, weight: Weight, field: &'static str, wanted: &T, found: &T) {
        if wanted != found {
            self.0.push(Difference { field, wanted: format!("{wanted:?}"), found: format!("{found:?}"), weight });
        }
    }
    /// A limit: less than the table is raised; more was somebody's choice. Where the table has none, any limit would lose what
    /// must stay (facts, jobs), so nobody starts on it.
    fn limit<T: PartialOrd + Copy + fmt::Debug>(&mut self, field: &'static str, wanted: T, found: T, is_none: impl Fn(&T) -> bool) {
        let too_small = !is_none(&found) && (is_none(&wanted) || found < wanted);
        if too_small {
            self.note(if is_none(&wanted) { Weight::Adjust } else { Weight::Mild }, field, &wanted, &found);
        }
    }
}

/// What differs between the table and a stream of a server. Limits that are wider than the table, extra metadata, and the number of
/// replicas (an operator's choice) are no differences; a description is not compared.
pub fn compare(wanted: &Config, found: &Config) -> Vec<Difference> {
    use Weight::{Adjust, Refuse};
    let mut all = Differences(vec![]);
    let sorted = |subjects: &[String]| {
        let mut subjects = subjects.to_vec();
        subjects.sort_unstable();
        subjects
    };
    all.note(Refuse, "subjects", &sorted(&wanted.subjects), &sorted(&found.subjects));
    all.note(Refuse, "retention", &wanted.retention, &found.retention);
    all.note(Refuse, "storage", &wanted.storage, &found.storage);
    all.note(Refuse, "discard", &wanted.discard, &found.discard);
    all.note(Refuse, "discard_new_per_subject", &wanted.discard_new_per_subject, &found.discard_new_per_subject);
    all.note(Refuse, "subject_transform", &wanted.subject_transform, &found.subject_transform);
    all.note(Refuse, "mirror", &wanted.mirror.is_some(), &found.mirror.is_some());
    all.note(Refuse, "sources", &false, &found.sources.as_ref().is_some_and(|sources| !sources.is_empty()));
    all.note(Refuse, "sealed", &wanted.sealed, &found.sealed);
    all.note(Refuse, "no_ack", &wanted.no_ack, &found.no_ack);
    all.note(Refuse, "allow_rollup_hdrs", &wanted.allow_rollup, &found.allow_rollup);
    all.note(Refuse, "allow_msg_ttl", &wanted.allow_message_ttl, &found.allow_message_ttl);
    all.note(Refuse, "allow_msg_schedules", &wanted.allow_message_schedules, &found.allow_message_schedules);
    all.note(Refuse, "allow_msg_counter", &wanted.allow_message_counter, &found.allow_message_counter);
    all.note(Refuse, "persist_mode", &false, &(found.persist_mode == Some(PersistenceMode::Async)));
    all.note(Refuse, "compression", &false, &(found.compression == Some(Compression::S2) && wanted.compression.is_none()));
    // A work queue with one message per subject is what makes a job unique: wider would be wrong as well.
    if wanted.retention == RetentionPolicy::WorkQueue && wanted.max_messages_per_subject == 1 {
        all.note(Refuse, "max_msgs_per_subject", &wanted.max_messages_per_subject, &found.max_messages_per_subject);
    }
    // These two can be set but never taken back.
    let guard = |wanted: bool| if wanted { Adjust } else { Refuse };
    all.note(guard(wanted.deny_delete), "deny_delete", &wanted.deny_delete, &found.deny_delete);
    all.note(guard(wanted.deny_purge), "deny_purge", &wanted.deny_purge, &found.deny_purge);
    all.note(Adjust, "allow_direct", &wanted.allow_direct, &found.allow_direct);
    all.note(Adjust, "republish", &wanted.republish, &found.republish);
    all.note(Adjust, "duplicate_window", &wanted.duplicate_window, &found.duplicate_window);
    all.limit("max_bytes", wanted.max_bytes, found.max_bytes, |n| *n <= 0);
    all.limit("max_msgs", wanted.max_messages, found.max_messages, |n| *n <= 0);
    all.limit("max_msgs_per_subject", wanted.max_messages_per_subject, found.max_messages_per_subject, |n| *n <= 0);
    all.limit("max_msg_size", wanted.max_message_size, found.max_message_size, |n| *n <= 0);
    all.limit("max_age", wanted.max_age, found.max_age, Duration::is_zero);
    all.0
}

/// The found stream with every difference that may be adjusted taken over from the table; what an operator chose stays.
pub fn adjusted(wanted: &Config, found: &Config, differences: &[Difference]) -> Config {
    let mut config = found.clone();
    for difference in differences.iter().filter(|difference| difference.weight != Weight::Refuse) {
        match difference.field {
            "deny_delete" => config.deny_delete = wanted.deny_delete,
            "deny_purge" => config.deny_purge = wanted.deny_purge,
            "allow_direct" => config.allow_direct = wanted.allow_direct,
            "republish" => config.republish.clone_from(&wanted.republish),
            "duplicate_window" => config.duplicate_window = wanted.duplicate_window,
            "max_bytes" => config.max_bytes = wanted.max_bytes,
            "max_msgs" => config.max_messages = wanted.max_messages,
            "max_msgs_per_subject" => config.max_messages_per_subject = wanted.max_messages_per_subject,
            "max_msg_size" => config.max_message_size = wanted.max_message_size,
            "max_age" => config.max_age = wanted.max_age,
            "num_replicas" => config.num_replicas = wanted.num_replicas,
            _ => {}
        }
    }
    config
}

/// What differs between the table and a consumer of a server.
pub fn compare_consumer(wanted: &pull::Config, found: &consumer::Config) -> Vec<Difference> {
    use Weight::{Adjust, Refuse};
    let mut all = Differences(vec![]);
    all.note(Refuse, "deliver_subject", &None, &found.deliver_subject);
    all.note(Refuse, "ack_policy", &wanted.ack_policy, &found.ack_policy);
    all.note(Refuse, "deliver_policy", &wanted.deliver_policy, &found.deliver_policy);
    all.note(Refuse, "replay_policy", &wanted.replay_policy, &found.replay_policy);
    all.note(Refuse, "filter_subject", &wanted.filter_subject, &found.filter_subject);
    all.note(Refuse, "filter_subjects", &wanted.filter_subjects, &found.filter_subjects);
    all.note(Refuse, "backoff", &wanted.backoff, &found.backoff);
    all.note(Refuse, "priority_groups", &wanted.priority_groups, &found.priority_groups);
    all.note(Refuse, "headers_only", &wanted.headers_only, &found.headers_only);
    all.note(Adjust, "ack_wait", &wanted.ack_wait, &found.ack_wait);
    all.note(Adjust, "max_deliver", &wanted.max_deliver, &found.max_deliver);
    all.limit("max_ack_pending", wanted.max_ack_pending, found.max_ack_pending, |n| *n < 0);
    all.0
}

/// Differences in one line.
pub fn list(differences: &[Difference]) -> String {
    differences.iter().map(ToString::to_string).collect::<Vec<String>>().join(", ")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn stream(name: &str) -> Config {
        wanted(&Timings::default(), 1).into_iter().find(|wanted| wanted.config.name == name).unwrap().config
    }

    #[test]
    fn what_weighs_how_much() {
        type Change = fn(&mut Config);
        type Expected = &'static [(&'static str, Weight)];
        let cases: [(&str, &str, Change, Expected); 10] = [
            ("as it is", "JOBS", |_| {}, &[]),
            ("scaled out", "JOBS", |c| c.num_replicas = 3, &[]),
            ("more room", "EVENTS", |c| c.max_bytes *= 2, &[]),
            ("no age at all", "EVENTS", |c| c.max_age = Duration::ZERO, &[]),
            ("less room", "EVENTS", |c| c.max_bytes = 10, &[("max_bytes", Weight::Mild)]),
            ("a limit where there is none", "LEDGER", |c| c.max_messages = 5, &[("max_msgs", Weight::Adjust)]),
            ("no longer a queue", "JOBS", |c| c.retention = RetentionPolicy::Limits, &[("retention", Weight::Refuse)]),
            ("two of each job", "JOBS", |c| c.max_messages_per_subject = 2, &[("max_msgs_per_subject", Weight::Refuse)]),
            ("hears more", "LEDGER", |c| c.subjects.push("x".into()), &[("subjects", Weight::Refuse)]),
            ("unguarded", "LEDGER", |c| c.deny_purge = false, &[("deny_purge", Weight::Adjust)]),
        ];
        for (about, name, change, expected) in cases {
            let wanted = stream(name);
            let mut found = wanted.clone();
            change(&mut found);
            let differences = compare(&wanted, &found);
            assert_eq!(differences.iter().map(|d| (d.field, d.weight)).collect::<Vec<_>>(), expected, "{about}");
            if expected.iter().all(|(_, weight)| *weight != Weight::Refuse) {
                assert_eq!(compare(&wanted, &adjusted(&wanted, &found, &differences)), [], "{about}: adjusting heals it");
            }
        }
    }

    #[test]
    fn facts_can_be_neither_deleted_nor_purged() {
        let ledger = stream("LEDGER");
        assert!(ledger.deny_delete && ledger.deny_purge && ledger.allow_direct && ledger.republish.is_some_and(|r| r.headers_only));
        assert_eq!((ledger.max_age, ledger.max_bytes, ledger.max_messages), (Duration::ZERO, -1, -1));
    }
}
