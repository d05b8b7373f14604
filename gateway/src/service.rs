//! The NATS door: `mesh.v1.api.<a>.<noun>.<verb>`, registered as a service, so that `nats micro ls` finds it. Who asks is the
//! id in the subject, which the server lets nobody else use.

use std::sync::Arc;

use async_nats::HeaderMap;
use async_nats::service::{Request, ServiceExt};
use bus::Health;
use bus_schemas::api::ask::{BlobCommit, BlobGet, BlobPut, ById, JobLs};
use bus_schemas::api::{BLOB_BYTES_HEADER, BLOB_CHUNKS_HEADER, ErrorBody};
use bus_schemas::envelope::Form;
use bus_schemas::id::Asker;
use bus_schemas::{Code, Problem, limits, stream, strict, subject};
use bytes::Bytes;
use futures::StreamExt;
use futures::stream::SelectAll;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use tokio::sync::Semaphore;
use tokio_util::sync::CancellationToken;

use crate::drain;
use crate::enrolment;
use crate::intake::headers_of;
use crate::jobs::About;
use crate::ledger::orders;
use crate::letters::Reader;
use crate::turns::Class;
use crate::world::World;

/// Every call, with what it does.
pub(crate) const CALLS: [(&str, &str); 42] = [
    ("job.submit", "a job, or a list of them, as JSON or signed; answers its id"),
    ("job.ls", r#"your jobs, newest first: {"state":"Completed","limit":20,"cursor":"…"}"#),
    ("job.show", r#"one job: {"id":"job_…"}"#),
    ("job.result", r#"its result: {"id":"job_…"}"#),
    ("job.explain", r#"why it runs where it runs, or why it waits: {"id":"job_…"}"#),
    ("job.receipt", r#"its receipt: {"id":"job_…"}"#),
    ("job.cancel", r#"ends it: {"id":"job_…"}"#),
    ("job.retry", r#"tries one that failed or was cancelled again, as a new job: {"id":"job_…"}"#),
    ("dlq.ls", r#"what failed for good, newest first: {"limit":20,"cursor":"…"}"#),
    ("dlq.show", r#"one dead letter: {"id":"dlq_…"}"#),
    ("dlq.retry", r#"tries what it is about again: {"id":"dlq_…"}"#),
    ("dlq.drop", r#"puts it away; the operator's, by operator.order: {"id":"dlq_…"}"#),
    ("operator.order", "what the network key has signed (MessagePack batch of one Order)"),
    ("device.ls", "the devices of the network"),
    ("device.show", r#"one device: {"id":"dev_…"}"#),
    ("device.drain", r#"it ends what it has and takes nothing new: {"id":"dev_…","undo":false,"reason":"…"}"#),
    ("device.revoke", r#"its logins end for ever; its owner's or an admin's: {"id":"dev_…","reason":"…"}"#),
    ("member.ls", "the members of the network; for admins and auditors"),
    ("member.suspend", r#"it submits nothing, its devices end what they have; an admin's: {"id":"mem_…","reason":"…","now":false}"#),
    ("member.restore", r#"it may come back; an admin's: {"id":"mem_…","reason":"…"}"#),
    ("member.role", r#"what it may do to others; an admin's: {"id":"mem_…","role":"auditor"}"#),
    ("network.audit", r#"who did what to others, newest first: {"limit":20,"cursor":"…"}"#),
    ("network.invite", r#"a line that lets somebody in: {"role":"member","device":false,"uses":1,"expires_s":3600,"approve":false}"#),
    ("invite.ls", "the invites there are: your own, or all for admins and auditors"),
    ("invite.revoke", r#"an invite lets nobody in any more: {"id":"inv_…"}"#),
    ("network.waiting", "who waits for approval; for admins and auditors"),
    ("network.decide", r#"lets in one that waits, or refuses it; an admin's: {"id":"dev_…","deny":false,"reason":"…"}"#),
    ("credit.balance", "what you have"),
    ("credit.history", r#"how it came: {"limit":20,"cursor":"…"}"#),
    ("credit.transfer", r#"gives credit to another member: {"to":"mem_…","amount":"1.5","key":"…","note":"…"}"#),
    ("ledger.facts", r#"the facts as they were signed: {"after":"17","limit":100}"#),
    ("ledger.balances", "your accounts, and those of nobody"),
    ("ledger.checkpoints", r#"what the books were, signed, newest first: {"before":"17","limit":20}"#),
    ("ledger.proof", r#"that a job's end stands in the books, by job or receipt: {"id":"job_…"}"#),
    ("ledger.consistency", r#"that the books only grew: {"from":1,"to":17}"#),
    ("ledger.ask", "commands that the network key has signed (MessagePack LedgerRequest)"),
    ("network.policy", "the rules in force"),
    ("network.show", "the signed network document"),
    ("blob.put", "stores one chunk (MessagePack {data})"),
    ("blob.commit", "makes a blob of chunks (MessagePack {cid, chunks, assignment})"),
    ("blob.get", "one chunk of a blob (MessagePack {cid, chunk, assignment})"),
    ("cred.renew", "new credentials for the holder of these keys"),
];
/// Questions that are in hand at once, waiting for their turn or being answered.
const IN_HAND: usize = 16_384;

/// In which line a call waits.
fn class_of(call: &str) -> Class {
    match call {
        "job.submit" | "job.retry" => Class::Submission,
        "blob.put" | "blob.commit" | "blob.get" => Class::Blob,
        _ => Class::Question,
    }
}

/// An answer: bytes, and headers where there are some.
struct Answer {
    payload: Bytes,
    headers: HeaderMap,
}
impl Answer {
    fn json<T: Serialize>(value: &T) -> Result<Self, Problem> {
        Self::of(serde_json::to_vec(value))
    }
    fn of(json: serde_json::Result<Vec<u8>>) -> Result<Self, Problem> {
        let payload = json.map_err(|error| Problem::new(Code::Internal, error.to_string()))?;
        Ok(Self { payload: payload.into(), headers: HeaderMap::new() })
    }
}

/// Answers until `stop`; `health` hears when it can be asked.
///
/// # Errors
/// Where the service cannot be registered.
pub async fn run(world: Arc<World>, health: Health, stop: CancellationToken) -> anyhow::Result<()> {
    let failed = |error: async_nats::Error| anyhow::anyhow!("failed to register the service: {error}");
    let service = world
        .bus
        .client
        .service_builder()
        .description("The doors of a Mesh network: jobs, devices, credits, blobs")
        .queue_group("gateway")
        .start("mesh-gateway", env!("CARGO_PKG_VERSION"))
        .await
        .map_err(failed)?;
    let mut requests = SelectAll::new();
    for (call, about) in CALLS {
        let metadata = std::collections::HashMap::from([("about".to_owned(), about.to_owned())]);
        let endpoint = service.endpoint_builder().name(call.replace('.', "-")).metadata(metadata);
        requests.push(endpoint.add(format!("mesh.v1.api.*.{call}")).await.map_err(failed)?);
    }
    // The hub reads a connection in order: an answer to a later question, even a refusal, says that the subscriptions hold.
    drop(world.bus.stream_end(stream::SUBMIT).await);
    health.set("service", Ok(()));
    let permits = Arc::new(Semaphore::new(IN_HAND));
    loop {
        let request = tokio::select! {
            () = stop.cancelled() => break,
            request = requests.next() => match request { Some(request) => request, None => break },
        };
        let Ok(permit) = permits.clone().acquire_owned().await else { break };
        let world = world.clone();
        tokio::spawn(async move {
            answer(&world, &request).await;
            drop(permit);
        });
    }
    let _ = service.stop().await;
    let _ = permits.acquire_many(u32::try_from(IN_HAND).unwrap_or(u32::MAX)).await;
    Ok(())
}

async fn answer(world: &World, request: &Request) {
    let call = subject::api_call(&request.message.subject).unwrap_or_default().to_owned();
    let reply = request.message.reply.as_ref().map(|reply| reply.as_str());
    if !reply.is_none_or(subject::takes_answers) {
        metrics::counter!("mesh_api_requests_total", "call" => call.clone(), "outcome" => "foreign_reply").increment(1);
        tracing::warn!(subject = %request.message.subject, reply = reply.unwrap_or_default(), "a question whose answer would be no answer where it is sent");
        return;
    }
    let answered = match subject::asker_of(&request.message.subject) {
        Some(asker) => in_turn(world, &asker, &call, request).await,
        None => Err(Problem::new(Code::Unauthenticated, "the subject names nobody: mesh.v1.api.<your id>.<noun>.<verb>").into()),
    };
    // What is larger would cut the link of a device that asked.
    let answered = answered.and_then(|answer| match answer.payload.len() {
        bytes if bytes > limits::CROSSING_BYTES_MAX - 4_096 => {
            Err(Problem::new(Code::TooLarge, format!("the answer has {bytes} bytes; ask for less, or over HTTP")).into())
        }
        _ => Ok(answer),
    });
    let outcome = answered.as_ref().map_or_else(|refused| refused.problem.code.code(), |_| "ok");
    metrics::counter!("mesh_api_requests_total", "call" => call.clone(), "outcome" => outcome).increment(1);
    let Answer { payload, mut headers } = answered.unwrap_or_else(|refused| {
        let body = told(&call, &request.message.payload, &refused);
        let mut headers = HeaderMap::new();
        headers.insert(subject::header::SERVICE_ERROR, body.title.as_str());
        headers.insert(subject::header::SERVICE_ERROR_CODE, body.code.code());
        Answer { payload: serde_json::to_vec(&body).unwrap_or_default().into(), headers }
    });
    headers.insert(subject::header::TIME, world.now().to_string());
    // Nobody to answer: the asker did not want to know.
    let _ = request.respond_with_headers(Ok(payload), headers).await;
}

/// Answers when it is the asker's turn.
async fn in_turn(world: &World, asker: &Asker, call: &str, request: &Request) -> Result<Answer, Refused> {
    let bytes = request.message.payload.len();
    let mut turn = world.turns.enter(class_of(call), *asker, bytes).await?;
    let answered = ask(world, asker, call, request).await;
    turn.moved(bytes + answered.as_ref().map_or(0, |answer| answer.payload.len()));
    answered
}

#[derive(Deserialize, Default)]
#[serde(deny_unknown_fields)]
struct CreditAsk {
    #[serde(default)]
    limit: Option<u32>,
    #[serde(default)]
    cursor: Option<String>,
}

/// Why a call got no answer.
#[derive(Debug)]
struct Refused {
    problem: Problem,
    /// The question itself could not be read.
    unread: bool,
    /// What it is about, where that is not what was asked about.
    about: Option<String>,
}
impl From<Problem> for Refused {
    fn from(problem: Problem) -> Self {
        Self { problem, unread: false, about: None }
    }
}
impl From<About> for Refused {
    fn from(about: About) -> Self {
        Self { problem: about.problem, unread: false, about: about.id }
    }
}

/// The refusal for people: what the call takes where the question could not be read, and the id it was about in the commands to run.
fn told(call: &str, payload: &[u8], refused: &Refused) -> ErrorBody {
    let body = match call {
        "credit.transfer" => orders::told(&refused.problem),
        "device.drain" => drain::told(&refused.problem),
        _ => refused.problem.body(),
    };
    if refused.unread {
        let about = CALLS.iter().find(|(name, _)| *name == call).map_or("", |(_, about)| *about);
        return ErrorBody { next: vec![format!("send to {call} what it takes: {about}")], ..body };
    }
    let asked = read::<ById>(payload).ok().map(|ask| ask.id);
    match refused.about.as_ref().or(asked.as_ref()) {
        Some(id) => body.about(id),
        None => body,
    }
}

async fn ask(world: &World, asker: &Asker, call: &str, request: &Request) -> Result<Answer, Refused> {
    let payload = &request.message.payload;
    if call == "job.submit" {
        let headers = headers_of(request.message.headers.as_ref());
        return Ok(Answer::of(world.submit(asker, headers, payload.clone()).await?.to_json())?);
    }
    let member = world.member_of(asker).await?;
    let by_id = || read::<ById>(payload).map(|ask| ask.id);
    let answer = match call {
        "job.ls" => Answer::json(&world.job_ls(&member, &read_or_default::<JobLs>(payload)?).await?),
        "job.show" => Answer::json(&world.job_show(&member, &by_id()?).await?),
        "job.result" => Answer::json(&world.job_result(&member, &by_id()?).await?.0),
        "job.explain" => Answer::json(&world.job_explain(&member, &by_id()?).await?),
        "job.receipt" => Answer::json(&world.job_receipt(&member, &by_id()?).await?),
        "job.cancel" => Answer::json(&world.job_cancel(&member, &by_id()?).await?),
        "job.retry" => Answer::json(&world.job_retry(asker, &by_id()?).await?),
        "dlq.ls" => Answer::json(&world.dlq_ls(Reader::Member(*asker, member), &read_or_default(payload)?).await?),
        "dlq.show" => Answer::json(&world.dlq_show(Reader::Member(*asker, member), &by_id()?).await?),
        "dlq.retry" => Answer::json(&world.dlq_retry(Reader::Member(*asker, member), &by_id()?).await?),
        "dlq.drop" => Answer::json(&world.dlq_drop(Reader::Member(*asker, member), &by_id()?).await?),
        "operator.order" => Answer::json(&world.order(payload).await?),
        "device.ls" => Answer::json(&world.fleet.list()),
        "device.show" => Answer::json(&world.device(&by_id()?)?),
        "device.drain" => Answer::json(&world.drain(Reader::Member(*asker, member), &read(payload)?).await?),
        "device.revoke" => Answer::json(&world.revoke(Reader::Member(*asker, member), &read(payload)?).await?),
        "member.ls" => Answer::json(&world.members(Reader::Member(*asker, member)).await?),
        "member.suspend" => Answer::json(&world.suspend(Reader::Member(*asker, member), &read(payload)?).await?),
        "member.restore" => Answer::json(&world.restore(Reader::Member(*asker, member), &read(payload)?).await?),
        "member.role" => Answer::json(&world.set_role(Reader::Member(*asker, member), &read(payload)?).await?),
        "network.invite" => Answer::json(&world.invite(Reader::Member(*asker, member), &read(payload)?).await?),
        "invite.ls" => Answer::json(&world.invites(Reader::Member(*asker, member)).await?),
        "invite.revoke" => Answer::json(&world.revoke_invite(Reader::Member(*asker, member), &by_id()?).await?),
        "network.waiting" => Answer::json(&world.waiting_to_join(Reader::Member(*asker, member)).await?),
        "network.decide" => Answer::json(&world.decide(Reader::Member(*asker, member), &read(payload)?).await?),
        "network.audit" => Answer::json(&world.audit(Reader::Member(*asker, member), &read_or_default(payload)?).await?),
        "credit.balance" => Answer::json(&world.credit_balance(member).await?),
        "credit.history" => {
            let ask: CreditAsk = read_or_default(payload)?;
            Answer::json(&world.credit_history(member, ask.limit, ask.cursor.as_deref()).await?)
        }
        "credit.transfer" => Answer::json(&world.credit_transfer(asker, read(payload)?).await?),
        "ledger.facts" => Answer::json(&world.ledger_facts(&read_or_default(payload)?).await?),
        "ledger.balances" => Answer::json(&world.ledger_balances(member).await?),
        "ledger.checkpoints" => Answer::json(&world.ledger_checkpoints(&read_or_default(payload)?).await?),
        "ledger.proof" => Answer::json(&world.ledger_proof(&member, &by_id()?).await?),
        "ledger.consistency" => Answer::json(&world.ledger_consistency(read(payload)?).await?),
        "ledger.ask" => Answer::json(&world.ledger_order(payload.clone()).await?),
        "network.policy" => Answer::json(&world.network_policy().await?),
        "network.show" => Ok(Answer { payload: world.document_text.clone().into(), headers: HeaderMap::new() }),
        "blob.put" => {
            let put: BlobPut = read_msgpack(payload)?;
            Answer::json(&world.blob_put(put.data.into_vec().into()).await?)
        }
        "blob.commit" => {
            let commit: BlobCommit = read_msgpack(payload)?;
            let owner = world.blob_owner(asker, commit.assignment.as_deref().map(Vec::as_slice)).await?;
            Answer::json(&world.blob_commit(&owner, commit.cid, commit.chunks).await?)
        }
        "blob.get" => blob_get(world, asker, &read_msgpack(payload)?).await,
        "cred.renew" => Answer::json(&enrolment::renew(&world.enrol, Some(*asker), payload).await?),
        other => Err(Problem::new(Code::NotFound, format!("no call {other}"))),
    }?;
    Ok(answer)
}

async fn blob_get(world: &World, asker: &Asker, get: &BlobGet) -> Result<Answer, Problem> {
    let owner = world.blob_owner(asker, get.assignment.as_deref().map(Vec::as_slice)).await?;
    let info = world.blob_info(&owner, &get.cid).await?;
    let chunk = usize::try_from(get.chunk).ok().and_then(|chunk| info.chunks.get(chunk)).ok_or_else(|| {
        Problem::new(Code::NoSuchBlob, format!("{} has {} chunks, and {} was asked for", get.cid, info.chunks.len(), get.chunk))
    })?;
    let payload = world.chunk(chunk).await?;
    let mut headers = HeaderMap::new();
    headers.insert(BLOB_BYTES_HEADER, info.bytes.to_string());
    headers.insert(BLOB_CHUNKS_HEADER, info.chunks.len().to_string());
    Ok(Answer { payload, headers })
}

fn read<T: DeserializeOwned>(payload: &[u8]) -> Result<T, Refused> {
    strict::decode(Form::Json, payload, limits::BODY_BYTES_MAX).map_err(unread)
}
fn read_or_default<T: DeserializeOwned + Default>(payload: &[u8]) -> Result<T, Refused> {
    if payload.is_empty() { Ok(T::default()) } else { read(payload) }
}
fn read_msgpack<T: DeserializeOwned>(payload: &[u8]) -> Result<T, Refused> {
    strict::decode(Form::Msgpack, payload, limits::SUBMISSION_BYTES_MAX).map_err(unread)
}
fn unread(problem: Problem) -> Refused {
    Refused { problem, unread: true, about: None }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_refusal_says_what_the_call_takes_or_names_what_it_was_about() {
        let next = |call: &str, payload: &[u8], refused: Refused| told(call, payload, &refused).next;
        let unreadable = read::<ById>(b"job_a").map(|_| ()).unwrap_err();
        assert_eq!(next("job.show", b"job_a", unreadable), [r#"send to job.show what it takes: one job: {"id":"job_…"}"#]);
        let running = || Problem::new(Code::NotFinished, "it runs").into();
        assert_eq!(next("job.result", br#"{"id":"job_a"}"#, running()), ["mesh job wait job_a"]);
        assert_eq!(next("job.ls", b"", Problem::new(Code::Unavailable, "").into()), [Code::Unavailable.next()]);
    }

    #[test]
    fn what_a_call_takes_is_what_it_reads() {
        for (call, about) in CALLS {
            let Some((_, takes)) = about.split_once(": {") else { continue };
            let json = format!("{{{takes}");
            let read = match call {
                "job.ls" => read::<JobLs>(json.as_bytes()).map(|_| ()),
                "device.drain" => read::<bus_schemas::api::ask::Drain>(json.as_bytes()).map(|_| ()),
                "device.revoke" | "member.suspend" | "member.restore" => read::<bus_schemas::api::ask::Bar>(json.as_bytes()).map(|_| ()),
                "member.role" => read::<bus_schemas::api::ask::SetRole>(json.as_bytes()).map(|_| ()),
                "network.audit" => read::<bus_schemas::api::ask::Audit>(json.as_bytes()).map(|_| ()),
                "network.invite" => read::<bus_schemas::api::people::InviteAsk>(json.as_bytes()).map(|_| ()),
                "network.decide" => read::<bus_schemas::api::people::DecideAsk>(json.as_bytes()).map(|_| ()),
                "dlq.ls" => read::<bus_schemas::api::ask::LetterLs>(json.as_bytes()).map(|_| ()),
                "credit.history" => read::<CreditAsk>(json.as_bytes()).map(|_| ()),
                "ledger.facts" => read::<bus_schemas::api::ledger::ask::Facts>(json.as_bytes()).map(|_| ()),
                "ledger.checkpoints" => read::<bus_schemas::api::ledger::ask::Checkpoints>(json.as_bytes()).map(|_| ()),
                "ledger.consistency" => read::<bus_schemas::api::ledger::ask::Consistency>(json.as_bytes()).map(|_| ()),
                // The ids in it are no ids.
                "credit.transfer" => Ok(()),
                _ => read::<ById>(json.as_bytes()).map(|_| ()),
            };
            assert!(read.is_ok(), "{call}: {json}");
        }
    }
}
