//! Every subject, as a function, so that no string is typed twice. `v1` is the version of the subject tree.

use crate::id::{Asker, DeviceId, InstanceId, JobId, MemberId};
use crate::job::Class;

pub fn submit(asker: &Asker) -> String {
    format!("mesh.v1.submit.{asker}")
}
pub fn job(class: Class, job: &JobId) -> String {
    format!("mesh.v1.job.{}.{job}", class.token())
}
/// What the subjects of a class begin with.
pub fn jobs_of(class: Class) -> String {
    format!("mesh.v1.job.{}.", class.token())
}
/// A job whose hold is being asked for; one of the schedulers may begin its auction.
pub const ANNOUNCE: &str = "mesh.v1.announce";
pub fn offer(device: &DeviceId) -> String {
    format!("mesh.v1.offer.{device}")
}
/// Where a device answers an offer; also the offer's reply subject.
pub fn bid(device: &DeviceId, scheduler: &InstanceId) -> String {
    format!("mesh.v1.dev.{device}.bid.{scheduler}")
}
pub fn bids_for(scheduler: &InstanceId) -> String {
    format!("mesh.v1.dev.*.bid.{scheduler}")
}
pub fn event(device: &DeviceId, kind: &str) -> String {
    format!("mesh.v1.dev.{device}.evt.{kind}")
}
pub const EVENTS: &str = "mesh.v1.dev.*.evt.*";
pub fn receipt(device: &DeviceId, scheduler: &InstanceId) -> String {
    format!("mesh.v1.dev.{device}.receipt.{scheduler}")
}
/// For whichever scheduler takes it: the one that was told is gone.
pub fn receipt_any(device: &DeviceId) -> String {
    format!("mesh.v1.dev.{device}.receipt.any")
}
pub fn receipts_for(scheduler: &InstanceId) -> String {
    format!("mesh.v1.dev.*.receipt.{scheduler}")
}
pub const RECEIPTS_ANY: &str = "mesh.v1.dev.*.receipt.any";
/// Under which a device's receipts are stored (the stream drops the last token).
pub fn receipt_stored(device: &DeviceId) -> String {
    format!("mesh.v1.dev.{device}.receipt")
}
/// Under which a device's events are stored (the stream drops the last token).
pub fn event_stored(device: &DeviceId) -> String {
    format!("mesh.v1.dev.{device}.evt")
}
pub fn heartbeat(device: &DeviceId) -> String {
    format!("mesh.v1.dev.{device}.hb")
}
pub const HEARTBEATS: &str = "mesh.v1.dev.*.hb";
pub fn scheduler_heartbeat(scheduler: &InstanceId) -> String {
    format!("mesh.v1.sched.{scheduler}.hb")
}
/// Whose heartbeat it is.
pub fn scheduler_of(subject: &str) -> Option<InstanceId> {
    subject.strip_prefix("mesh.v1.sched.")?.strip_suffix(".hb")?.parse().ok()
}
/// Who has this job in hand? Only its holder answers.
pub const HOLDING: &str = "mesh.v1.sched.holding";
pub const SCHEDULER_HEARTBEATS: &str = "mesh.v1.sched.*.hb";
/// `verb`: assign, adopt, have, cancel, closed.
pub fn ctl(device: &DeviceId, verb: &str) -> String {
    format!("mesh.v1.ctl.{device}.{verb}")
}
pub fn ctl_all(device: &DeviceId) -> String {
    format!("mesh.v1.ctl.{device}.*")
}
pub fn history(member: &MemberId) -> String {
    format!("mesh.v1.history.{member}")
}
pub const HISTORY_ALL: &str = "mesh.v1.history.*";
pub fn back(job: &JobId) -> String {
    format!("mesh.v1.back.{job}")
}
pub fn cancel(job: &JobId) -> String {
    format!("mesh.v1.cancel.{job}")
}
pub const CANCEL_ALL: &str = "mesh.v1.cancel.*";
/// Whether the hub's nodes refuse what the facts up to a sequence say; a gateway asks the revoker (JSON `{"seq":n}`).
pub const REVOKER_DONE: &str = "mesh.v1.revoker.done";
pub const LEDGER_DO: &str = "mesh.v1.ledger.do";
pub const LEDGER_FACTS: &str = "mesh.v1.ledger.facts";
pub const LEDGER_STORED: &str = "mesh.v1.ledger.stored";
pub const DLQ: &str = "mesh.v1.dlq";
/// JetStream API prefix under which an auditor reads LEDGER.
pub const AUDIT_PREFIX: &str = "mesh.v1.audit";
/// What a member sees live: `state`, `progress`, `result`.
pub fn watch(member: &MemberId, job: &JobId, what: &str) -> String {
    format!("mesh.v1.watch.{member}.{job}.{what}")
}
pub fn watch_all(member: &MemberId) -> String {
    watch_jobs(member, "*")
}
/// One `what` of all jobs.
pub fn watch_jobs(member: &MemberId, what: &str) -> String {
    format!("mesh.v1.watch.{member}.*.{what}")
}
/// `noun.verb`: job.submit, job.ls, …
pub fn api(asker: &Asker, call: &str) -> String {
    format!("mesh.v1.api.{asker}.{call}")
}
pub const API_ALL: &str = "mesh.v1.api.*.*.*";
/// Whether an answer may be sent there: an inbox, or what the server makes of one between two accounts. It passes a reply subject
/// `$JS.ACK.…` on as it is, and an answer there, with bytes of the asker's choice, would acknowledge another's message.
pub fn takes_answers(reply: &str) -> bool {
    reply.starts_with("_INBOX.") || reply.starts_with("_R_.")
}
pub fn broadcast(what: &str) -> String {
    format!("mesh.v1.bcast.{what}")
}

/// The id of a device in `mesh.v1.dev.<d>.…` and of an asker in `mesh.v1.api.<a>.…` or `mesh.v1.submit.<a>`.
pub fn device_of(subject: &str) -> Option<DeviceId> {
    subject.strip_prefix("mesh.v1.dev.").and_then(|rest| rest.split('.').next()).and_then(|id| id.parse().ok())
}
pub fn asker_of(subject: &str) -> Option<Asker> {
    let rest = subject.strip_prefix("mesh.v1.api.").or_else(|| subject.strip_prefix("mesh.v1.submit."))?;
    rest.split('.').next().and_then(|id| id.parse().ok())
}
/// `noun.verb` of `mesh.v1.api.<a>.<noun>.<verb>`.
pub fn api_call(subject: &str) -> Option<&str> {
    subject.strip_prefix("mesh.v1.api.").and_then(|rest| rest.split_once('.')).map(|(_, call)| call)
}
pub fn job_of(subject: &str) -> Option<JobId> {
    subject.rsplit('.').next().and_then(|id| id.parse().ok())
}

/// Headers of ours. They hint; what counts is signed.
pub mod header {
    /// The client's idempotency key.
    pub const JOB_KEY: &str = "Mesh-Job-Key";
    /// What a device's OUTBOX made up for a submission: the key of a job that names none.
    pub const OUTBOX_KEY: &str = "Mesh-Outbox-Key";
    /// On the gateway's answers, over NATS and HTTP: the hub's time, Unix milliseconds.
    pub const TIME: &str = "Mesh-Time";
    /// On watch messages: who submitted.
    pub const ASKER: &str = "Mesh-Asker";
    pub const NATS_MSG_ID: &str = "Nats-Msg-Id";
    pub const SERVICE_ERROR: &str = "Nats-Service-Error";
    pub const SERVICE_ERROR_CODE: &str = "Nats-Service-Error-Code";
}

/// On a device's local server, in the account of the people at that machine.
pub mod local {
    /// Publish a job here; the server stores it in OUTBOX.
    pub const SUBMIT: &str = "submit";
    pub const OUT_SUBMIT: &str = "out.submit.*";
    pub const OUT_RECEIPT: &str = "out.receipt";
    pub const OUT_EVENT: &str = "out.event.*";
    /// Where an event of this kind waits for the hub.
    pub fn out_event(kind: &str) -> String {
        format!("out.event.{kind}")
    }
    pub const OUTBOX: &str = "OUTBOX";
    pub const WORK: &str = "WORK";
    pub const WORK_SUBJECT: &str = "work.>";
    /// `result.<job>` and `result.<key>`.
    pub fn result(of: &str) -> String {
        format!("result.{of}")
    }
    /// Asks the agent how it does; answers JSON.
    pub const STATUS: &str = "mesh.status";
    /// What the device's owner wants of it: to pause, to go on, to end its work and stop. JSON, answered in JSON.
    pub const OWNER: &str = "mesh.owner";
}
