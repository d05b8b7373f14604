//! Who may say and hear what: every permission of the network, each with its reason.
//!
//! The parts that run in CONTROL have lists of their own, without any right to make consumers or streams (a push consumer would
//! write wherever it is told to). Devices, members and auditors in EDGE get the templates of the scoped signing keys: changing one
//! cuts every leaf, so they are complete from the first day.

use crate::jwt::{Allow, Answers, Rights, Template};

/// A subject and the reason why it is allowed.
pub type Permission = (&'static str, &'static str);

/// A part that logs in to CONTROL.
pub struct Role {
    pub name: &'static str,
    pub publish: &'static [Permission],
    pub subscribe: &'static [Permission],
    /// May answer requests, wherever the reply goes.
    pub answers: bool,
}

/// A role of EDGE, as template of a scoped signing key.
pub struct EdgeRole {
    pub name: &'static str,
    /// How it may log in; empty = any way. Only clients have their reply subjects checked by the server: a leaf can send the answer to
    /// what it asks to `$JS.ACK.…`, so a leaf is only who cannot ask for an answer that acknowledges something.
    pub connections: &'static [&'static str],
    pub publish: &'static [Permission],
    pub subscribe: &'static [Permission],
}

pub const GATEWAY: Role = Role {
    name: "gateway",
    publish: &[
        ("mesh.v1.submit.*", "every door stores to SUBMIT first, HTTP as well"),
        ("mesh.v1.job.*.*", "admitted jobs"),
        ("mesh.v1.announce", "a job whose hold is being asked for"),
        ("mesh.v1.history.*", "admitted and rejected, for the record"),
        ("mesh.v1.cancel.*", "a member wants a job to end"),
        ("mesh.v1.blob.*.*", "inputs and results that came in chunks"),
        ("mesh.v1.dlq", "what cannot be read at all"),
        ("mesh.v1.ledger.do", "asks for holds and for members and devices to be known"),
        ("mesh.v1.ctl.*.*", "tells a device: renew, pause, drain"),
        ("mesh.v1.revoker.done", "asks whether the hub refuses who was revoked"),
        ("mesh.v1.sched.holding", "asks who has a job in hand, and what it waits for"),
        ("mesh.v1.watch.*.*.*", "what a member sees live: waiting, rejected"),
        ("mesh.v1.bcast.>", "notices to everybody"),
        ("_R_.>", "answers of the service, also when it has changed nodes since: the right to answer is of one connection"),
        ("$KV.devices.>", "who was enrolled"),
        ("$KV.policy.>", "what the operator chose"),
        ("$JS.API.STREAM.INFO.*", "compares streams with the table at start"),
        ("$JS.API.CONSUMER.INFO.SUBMIT.*", "compares the consumer with the table"),
        ("$JS.API.CONSUMER.MSG.NEXT.SUBMIT.*", "pulls submissions"),
        ("$JS.ACK.SUBMIT.>", "done with a submission"),
        ("$JS.API.CONSUMER.INFO.HISTORY.*", "compares the consumer with the table"),
        ("$JS.API.CONSUMER.MSG.NEXT.HISTORY.*", "pulls history for Postgres"),
        ("$JS.ACK.HISTORY.>", "projected"),
        ("$JS.API.DIRECT.GET.*", "reads streams: results, receipts, blobs, last heartbeats"),
        ("$JS.API.DIRECT.GET.*.>", "the same, the last of a subject"),
        ("$JS.API.STREAM.MSG.GET.SUBMIT", "whether a submission waits, from the leader, where a replica shows none"),
        ("$JS.API.STREAM.MSG.GET.BLOBS", "a blob, likewise"),
        ("$JS.API.STREAM.MSG.GET.KV_devices", "whether a device was revoked, from the leader"),
    ],
    subscribe: &[
        ("_INBOX.gateway.>", "answers"),
        ("mesh.v1.api.>", "the service"),
        ("$SRV.>", "is found by `nats micro ls`"),
        ("mesh.v1.dev.*.hb", "which devices are there"),
        ("mesh.v1.sched.*.hb", "whether somebody schedules"),
        ("mesh.v1.dev.*.evt.*", "progress and logs"),
        ("mesh.v1.history.*", "wakes who waits for a job"),
        ("mesh.v1.watch.*.*.*", "wakes who waits for a result over HTTP"),
        ("mesh.v1.ledger.stored", "balances changed"),
        ("$KV.devices.>", "devices changed"),
        ("$KV.reputation.>", "reputation changed"),
        ("$KV.policy.>", "the operator chose anew"),
    ],
    answers: true,
};

pub const SCHEDULER: Role = Role {
    name: "scheduler",
    publish: &[
        ("mesh.v1.offer.*", "offers; the reply is the device's bid subject"),
        ("mesh.v1.ctl.*.*", "assign, adopt, have, cancel, closed"),
        ("mesh.v1.watch.*.*.*", "what a member sees live: state and result"),
        ("mesh.v1.history.*", "each attempt's end and the end"),
        ("mesh.v1.back.*", "why a job is given back"),
        ("mesh.v1.sched.*.hb", "its own heartbeat: while it comes back, the bus works"),
        ("mesh.v1.dlq", "what ran out of attempts"),
        ("mesh.v1.ledger.do", "asks to settle and to void"),
        ("$JS.API.STREAM.INFO.*", "compares streams with the table at start"),
        ("$JS.API.CONSUMER.INFO.JOBS.*", "compares the consumers with the table"),
        ("$JS.API.CONSUMER.MSG.NEXT.JOBS.*", "pulls jobs"),
        ("$JS.ACK.JOBS.>", "holds, gives back and finishes jobs"),
        ("$JS.API.DIRECT.GET.JOBS", "what still waits"),
        ("$JS.API.DIRECT.GET.JOBS.>", "whether a job is still there"),
        ("$JS.API.DIRECT.GET.RECEIPTS", "a receipt counts once it is stored"),
        ("$JS.API.DIRECT.GET.RECEIPTS.>", "a device's last receipt"),
        ("$JS.API.STREAM.MSG.GET.RECEIPTS", "the same from the leader, where a replica lags"),
        ("$JS.API.DIRECT.GET.HISTORY", "what already happened to a job"),
        ("$JS.API.DIRECT.GET.HISTORY.>", "the same, the last of a member"),
        ("$JS.API.DIRECT.GET.BACK", "why jobs were given back"),
        ("$JS.API.DIRECT.GET.BACK.>", "why one job was given back"),
        ("$JS.API.STREAM.MSG.GET.BACK", "the same from the leader"),
        ("$JS.API.DIRECT.GET.CANCELS", "all cancels at start"),
        ("$JS.API.DIRECT.GET.CANCELS.>", "whether one job is cancelled"),
        ("$JS.API.STREAM.MSG.GET.CANCELS", "the same from the leader, where a replica lags"),
        ("$JS.API.DIRECT.GET.HEARTBEATS", "last heartbeats at start"),
        ("$JS.API.DIRECT.GET.HEARTBEATS.>", "one device's last heartbeat"),
        ("$JS.API.DIRECT.GET.EVENTS", "what a device told about an attempt"),
        ("$JS.API.DIRECT.GET.EVENTS.>", "the last of it"),
        ("$JS.API.DIRECT.GET.LEDGER", "follows the facts: attested tiers, revoked devices"),
        ("$JS.API.DIRECT.GET.BLOBS", "whether a large result is there before it is paid"),
        ("$JS.API.STREAM.MSG.GET.BLOBS", "the same from the leader, where a replica shows none"),
        ("$JS.API.DIRECT.GET.KV_devices", "who is enrolled"),
        ("$JS.API.DIRECT.GET.KV_devices.>", "one device"),
        ("$JS.API.DIRECT.GET.KV_reputation", "all reputations"),
        ("$JS.API.DIRECT.GET.KV_reputation.>", "one reputation"),
        ("$JS.API.DIRECT.GET.KV_policy", "the operator's choices"),
        ("$JS.API.DIRECT.GET.KV_policy.>", "one of them"),
    ],
    subscribe: &[
        ("_INBOX.scheduler.>", "answers"),
        ("mesh.v1.dev.*.bid.*", "bids to it, by its own id"),
        ("mesh.v1.dev.*.receipt.*", "receipts to it, and those for anybody as one of a queue group"),
        ("mesh.v1.dev.*.evt.*", "started, checkpoint, dropped"),
        ("mesh.v1.dev.*.hb", "which devices are there"),
        ("mesh.v1.sched.*.hb", "whether its own heartbeat comes back, and who else schedules"),
        ("mesh.v1.cancel.*", "jobs that are to end"),
        ("mesh.v1.sched.holding", "who has a job in hand, asked by gateways for people"),
        ("mesh.v1.announce", "a job that comes alone: its auction begins while its hold is asked for"),
        ("mesh.v1.ledger.stored", "follows the facts"),
        ("$KV.devices.>", "devices changed"),
        ("$KV.reputation.>", "reputation changed"),
        ("$KV.policy.>", "the operator chose anew"),
        ("$SRV.>", "is found by `nats micro ls`"),
    ],
    answers: true,
};

pub const LEDGER: Role = Role {
    name: "ledger",
    publish: &[
        ("mesh.v1.ledger.facts", "the one writer of facts"),
        ("$KV.reputation.>", "derived from the facts"),
        ("$KV.ledger.>", "the writer's lease"),
        ("$JS.API.STREAM.INFO.*", "compares streams with the table; where LEDGER ends"),
        ("$JS.API.DIRECT.GET.LEDGER", "reads the facts in batches"),
        ("$JS.API.STREAM.MSG.GET.LEDGER", "what stands at one sequence, from the leader"),
        ("$JS.API.DIRECT.GET.RECEIPTS", "evidence"),
        ("$JS.API.DIRECT.GET.RECEIPTS.>", "evidence"),
        ("$JS.API.DIRECT.GET.JOBS", "whether a hold outlived its job"),
        ("$JS.API.DIRECT.GET.JOBS.>", "whether a hold outlived its job"),
        ("$JS.API.DIRECT.GET.KV_devices", "devices"),
        ("$JS.API.DIRECT.GET.KV_devices.>", "one device"),
        ("$JS.API.DIRECT.GET.KV_policy", "the operator's choices"),
        ("$JS.API.DIRECT.GET.KV_policy.>", "one of them"),
        ("$JS.API.DIRECT.GET.KV_reputation.>", "what it wrote last"),
        ("$JS.API.DIRECT.GET.KV_ledger", "the lease"),
        ("$JS.API.DIRECT.GET.KV_ledger.>", "the lease"),
        ("$JS.API.STREAM.MSG.GET.KV_ledger", "the lease, from the leader"),
    ],
    subscribe: &[
        ("_INBOX.ledger.>", "answers"),
        ("mesh.v1.ledger.do", "questions"),
        ("mesh.v1.ledger.stored", "standbys follow the facts"),
        ("$KV.devices.>", "devices changed"),
        ("$KV.policy.>", "the operator chose anew"),
        ("$KV.ledger.>", "the lease changed hands"),
        ("$SRV.>", "is found by `nats micro ls`"),
    ],
    answers: true,
};

pub const REVOKER: Role = Role {
    name: "revoker",
    publish: &[
        ("$JS.API.STREAM.INFO.LEDGER", "where the facts end"),
        ("$JS.API.DIRECT.GET.LEDGER", "reads the facts about who is revoked, with the keys that they log in with"),
    ],
    subscribe: &[
        ("_INBOX.revoker.>", "answers"),
        ("mesh.v1.ledger.stored", "a new fact"),
        ("mesh.v1.revoker.done", "gateways ask whether the hub's nodes know"),
        ("$SRV.>", "is found by `nats micro ls`"),
    ],
    answers: true,
};

/// A person with the `nats` command: looks at everything, changes nothing.
pub const OPERATOR: Role = Role {
    name: "operator",
    publish: &[
        ("$SRV.>", "`nats micro ls`, `info`, `stats`"),
        ("$JS.API.INFO", "`nats account info`"),
        ("$JS.API.STREAM.INFO.*", "`nats stream info`"),
        ("$JS.API.STREAM.NAMES", "`nats stream ls`"),
        ("$JS.API.STREAM.LIST", "`nats stream ls`, `report`"),
        ("$JS.API.CONSUMER.INFO.*.*", "`nats consumer info`"),
        ("$JS.API.CONSUMER.NAMES.*", "`nats consumer ls`"),
        ("$JS.API.CONSUMER.LIST.*", "`nats consumer report`"),
        ("$JS.API.DIRECT.GET.>", "`nats stream get`, `nats kv get`"),
        ("$JS.API.STREAM.MSG.GET.*", "`nats stream get`"),
    ],
    subscribe: &[("_INBOX.operator.>", "answers"), ("mesh.v1.>", "`nats sub`: all that goes over the bus")],
    answers: false,
};

/// The parts with lists. `bootstrap` itself has all rights of CONTROL, for an hour.
pub const CONTROL_ROLES: [&Role; 5] = [&GATEWAY, &SCHEDULER, &LEDGER, &REVOKER, &OPERATOR];

pub const DEVICE: EdgeRole = EdgeRole {
    name: "device",
    connections: &[],
    publish: &[
        ("mesh.v1.dev.{{name()}}.hb", "it lives"),
        ("mesh.v1.dev.{{name()}}.bid.*", "answers offers"),
        ("mesh.v1.dev.{{name()}}.evt.*", "tells what it does"),
        ("mesh.v1.dev.{{name()}}.receipt.*", "how an attempt ended"),
        ("mesh.v1.submit.{{name()}}", "jobs of the people at that machine"),
        ("mesh.v1.api.{{name()}}.>", "the service, as itself"),
        ("_R_.>", "answers to ctl: their reply subjects are made by the server; a leaf loses them otherwise"),
    ],
    subscribe: &[
        ("_INBOX.{{name()}}.>", "answers"),
        ("mesh.v1.offer.{{name()}}", "offers"),
        ("mesh.v1.ctl.{{name()}}.*", "assign, adopt, have, cancel, closed"),
        ("mesh.v1.watch.{{tag(member)}}.*.*", "its member's jobs, live"),
        ("mesh.v1.bcast.>", "notices"),
    ],
};

pub const MEMBER: EdgeRole = EdgeRole {
    name: "member",
    connections: &CLIENTS,
    publish: &[("mesh.v1.submit.{{name()}}", "jobs"), ("mesh.v1.api.{{name()}}.>", "the service, as itself")],
    subscribe: &[
        ("_INBOX.{{name()}}.>", "answers"),
        ("mesh.v1.watch.{{name()}}.*.*", "its own jobs, live"),
        ("mesh.v1.bcast.>", "notices"),
    ],
};

pub const AUDITOR: EdgeRole = EdgeRole {
    name: "auditor",
    connections: &CLIENTS,
    publish: &[
        ("mesh.v1.audit.STREAM.INFO.LEDGER", "where the facts end"),
        ("mesh.v1.audit.DIRECT.GET.LEDGER", "reads the facts in batches"),
        ("mesh.v1.audit.STREAM.MSG.GET.LEDGER", "reads one fact, from the leader"),
        ("mesh.v1.api.{{name()}}.>", "the service, as itself"),
    ],
    subscribe: &[("_INBOX.{{name()}}.>", "answers"), ("mesh.v1.bcast.>", "notices")],
};

const CLIENTS: [&str; 2] = ["STANDARD", "WEBSOCKET"];
/// One message with its headers; one byte more and the hub cuts the connection.
const EDGE_PAYLOAD_MAX: i64 = 400_000;
/// Subscriptions of one connection; more are dropped, which ones is chance.
const EDGE_SUBSCRIPTIONS_MAX: i64 = 100;
/// A service must answer within a minute.
const ANSWER_WITHIN_NS: i64 = 60_000_000_000;

fn allow(permissions: &[Permission]) -> Allow {
    Allow { allow: permissions.iter().map(|(subject, _)| (*subject).to_owned()).collect() }
}

impl Role {
    pub fn rights(&self) -> Rights {
        Rights {
            subs: -1,
            data: -1,
            payload: -1,
            publish: allow(self.publish),
            subscribe: allow(self.subscribe),
            answers: self.answers.then_some(Answers { max: 1, ttl: ANSWER_WITHIN_NS }),
        }
    }
}
impl EdgeRole {
    pub fn template(&self) -> Template {
        Template {
            publish: allow(self.publish),
            subscribe: allow(self.subscribe),
            subs: EDGE_SUBSCRIPTIONS_MAX,
            data: -1,
            payload: EDGE_PAYLOAD_MAX,
            allowed_connection_types: self.connections.iter().map(|kind| (*kind).to_owned()).collect(),
        }
    }
}

/// Everything: for `bootstrap` in CONTROL and for the system account.
pub fn all_rights() -> Rights {
    Rights { subs: -1, data: -1, payload: -1, publish: Allow::default(), subscribe: Allow::default(), answers: None }
}

#[cfg(test)]
mod tests {
    use super::*;
    use bus_schemas::id::{Asker, Cid, DeviceId, InstanceId, JobId, MemberId};
    use bus_schemas::job::Class;
    use bus_schemas::limits::Timings;
    use bus_schemas::{stream, subject};

    /// Whether one of the patterns covers a subject.
    fn covers(permissions: &[Permission], subject: &str) -> bool {
        permissions.iter().any(|(pattern, _)| {
            let (mut pattern, mut tokens) = (pattern.split('.'), subject.split('.'));
            loop {
                match (pattern.next(), tokens.next()) {
                    (Some(">"), Some(_)) | (None, None) => return true,
                    (Some("*"), Some(_)) => {}
                    (Some(one), Some(other)) if one == other => {}
                    _ => return false,
                }
            }
        })
    }
    fn device() -> DeviceId {
        bus_schemas::Signer::from_seed(&[1; 32]).public().device_id()
    }
    fn member() -> MemberId {
        bus_schemas::Signer::from_seed(&[1; 32]).public().member_id()
    }

    #[test]
    fn every_part_may_say_what_it_says() {
        let (d, m, job) = (device(), member(), JobId(Cid::of(b"j")));
        let s: InstanceId = "s1".parse().unwrap();
        let asker = Asker::Member(m);
        for class in Class::ALL {
            assert!(covers(GATEWAY.publish, &subject::job(class, &job)));
        }
        for said in [
            subject::submit(&asker),
            subject::history(&m),
            subject::cancel(&job),
            subject::ANNOUNCE.into(),
            subject::HOLDING.into(),
            subject::DLQ.into(),
            subject::LEDGER_DO.into(),
            subject::ctl(&d, "renew"),
            subject::watch(&m, &job, "state"),
            subject::broadcast("x"),
            stream::blob::chunk(&Cid::of(b"c")),
            stream::blob::info(&Cid::of(b"c"), &m),
            format!("$KV.devices.{d}"),
            "_R_.made.by-the-server".into(),
        ] {
            assert!(covers(GATEWAY.publish, &said), "gateway: {said}");
        }
        for said in [
            subject::offer(&d),
            subject::ctl(&d, "assign"),
            subject::watch(&m, &job, "result"),
            subject::history(&m),
            subject::back(&job),
            subject::scheduler_heartbeat(&s),
            subject::DLQ.into(),
            subject::LEDGER_DO.into(),
        ] {
            assert!(covers(SCHEDULER.publish, &said), "scheduler: {said}");
        }
        for heard in [
            subject::bids_for(&s),
            subject::receipts_for(&s),
            subject::RECEIPTS_ANY.into(),
            subject::EVENTS.into(),
            subject::HEARTBEATS.into(),
            subject::SCHEDULER_HEARTBEATS.into(),
            subject::CANCEL_ALL.into(),
            subject::ANNOUNCE.into(),
            subject::LEDGER_STORED.into(),
        ] {
            assert!(covers(SCHEDULER.subscribe, &heard), "scheduler hears {heard}");
        }
        for heard in [subject::API_ALL, subject::HEARTBEATS, subject::SCHEDULER_HEARTBEATS, subject::HISTORY_ALL, subject::LEDGER_STORED] {
            assert!(covers(GATEWAY.subscribe, heard), "gateway hears {heard}");
        }
        assert!(covers(LEDGER.publish, subject::LEDGER_FACTS) && covers(LEDGER.subscribe, subject::LEDGER_DO));
    }

    #[test]
    fn only_the_ledger_writes_facts() {
        for role in CONTROL_ROLES.iter().filter(|role| role.name != "ledger") {
            assert!(!covers(role.publish, subject::LEDGER_FACTS), "{}", role.name);
        }
    }

    #[test]
    fn nobody_makes_streams_or_consumers() {
        for role in CONTROL_ROLES {
            for call in [
                "STREAM.CREATE.X",
                "STREAM.UPDATE.LEDGER",
                "STREAM.DELETE.LEDGER",
                "STREAM.PURGE.LEDGER",
                "STREAM.MSG.DELETE.LEDGER",
                "CONSUMER.CREATE.LEDGER.x",
                "CONSUMER.DURABLE.CREATE.LEDGER.x",
                "CONSUMER.DELETE.JOBS.high",
                "CONSUMER.PAUSE.JOBS.high",
            ] {
                assert!(!covers(role.publish, &format!("$JS.API.{call}")), "{}: {call}", role.name);
            }
        }
    }

    #[test]
    fn every_consumer_of_the_table_has_its_reader_and_every_stream_can_be_read() {
        let readers = [(stream::SUBMIT, &GATEWAY), (stream::HISTORY, &GATEWAY), (stream::JOBS, &SCHEDULER)];
        for spec in stream::all(&Timings::default()) {
            for consumer in &spec.consumers {
                let (_, role) = readers.iter().find(|(name, _)| *name == spec.name).expect("a reader");
                for call in ["CONSUMER.INFO", "CONSUMER.MSG.NEXT"] {
                    assert!(covers(role.publish, &format!("$JS.API.{call}.{}.{}", spec.name, consumer.name)));
                }
                assert!(covers(role.publish, &format!("$JS.ACK.{}.{}.1.2.3.4.5", spec.name, consumer.name)));
            }
            assert!(covers(GATEWAY.publish, &format!("$JS.API.DIRECT.GET.{}", spec.name)));
        }
    }

    #[test]
    fn a_device_speaks_as_itself_alone() {
        let filled = |permissions: &'static [Permission], subject: &str, name: &str| {
            permissions.iter().any(|(pattern, _)| {
                let pattern: &'static str = pattern.replace("{{name()}}", name).replace("{{tag(member)}}", &member().to_string()).leak();
                covers(&[(pattern, "")], subject)
            })
        };
        let (d, s) = (device(), "s1".parse().unwrap());
        let other = bus_schemas::Signer::from_seed(&[2; 32]).public().device_id();
        for said in [
            subject::heartbeat(&d),
            subject::bid(&d, &s),
            subject::event(&d, "started"),
            subject::receipt(&d, &s),
            subject::receipt_any(&d),
            subject::submit(&Asker::Device(d)),
            subject::api(&Asker::Device(d), "blob.put"),
        ] {
            assert!(filled(DEVICE.publish, &said, &d.to_string()), "{said}");
            assert!(!filled(DEVICE.publish, &said, &other.to_string()), "{said}");
        }
        for heard in [subject::offer(&d), subject::ctl_all(&d), subject::watch_all(&member())] {
            assert!(filled(DEVICE.subscribe, &heard, &d.to_string()), "{heard}");
        }
        let m = member().to_string();
        assert!(filled(MEMBER.publish, &subject::api(&Asker::Member(member()), "job.ls"), &m));
        assert!(filled(MEMBER.subscribe, &subject::watch_all(&member()), &m));
        assert!(!filled(MEMBER.publish, &subject::heartbeat(&d), &m));
        for call in ["STREAM.INFO.LEDGER", "DIRECT.GET.LEDGER", "STREAM.MSG.GET.LEDGER"] {
            assert!(covers(AUDITOR.publish, &format!("{}.{call}", subject::AUDIT_PREFIX)));
        }
    }
}
