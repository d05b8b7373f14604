//! The NATS door: `mesh.v1.api.<a>.<noun>.<verb>`, registered as a service, so that `nats micro ls` finds it. Who asks is the
//! id in the subject, which the server lets nobody else use.

use std::sync::Arc;

use async_nats::HeaderMap;
use async_nats::service::{Request, ServiceExt};
use bus_schemas::api::ask::{BlobCommit, BlobGet, BlobPut, ById, JobLs};
use bus_schemas::api::{BLOB_BYTES_HEADER, BLOB_CHUNKS_HEADER};
use bus_schemas::envelope::Form;
use bus_schemas::id::Asker;
use bus_schemas::{Code, Problem, limits, strict, subject};
use bytes::Bytes;
use futures::StreamExt;
use futures::stream::SelectAll;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use tokio::sync::Semaphore;
use tokio_util::sync::CancellationToken;

use crate::enrolment;
use crate::intake::headers_of;
use crate::ledger::orders;
use crate::world::World;

/// Every call, with what it does.
const CALLS: [(&str, &str); 24] = [
    ("job.submit", "a job, or a list of them, as JSON or signed; answers its id"),
    ("job.ls", "your jobs, newest first: {state, limit, cursor}"),
    ("job.show", "one job: {id}"),
    ("job.result", "its result: {id}"),
    ("job.explain", "why it runs where it runs, or why it waits: {id}"),
    ("job.receipt", "its receipt: {id}"),
    ("job.cancel", "ends it: {id}"),
    ("device.ls", "the devices of the network"),
    ("device.show", "one device: {id}"),
    ("credit.balance", "what you have"),
    ("credit.history", "how it came: {limit, cursor}"),
    ("credit.transfer", "gives credit to another member: {to, amount, note, key}"),
    ("ledger.facts", "the facts as they were signed: {after, limit}"),
    ("ledger.balances", "your accounts, and those of nobody"),
    ("ledger.checkpoints", "what the books were, signed, newest first: {before, limit}"),
    ("ledger.proof", "that a job's end stands in the books: {id} of a job or a receipt"),
    ("ledger.consistency", "that the books only grew: {from, to}"),
    ("ledger.ask", "commands that the network key has signed (MessagePack LedgerRequest)"),
    ("network.policy", "the rules in force"),
    ("network.show", "the signed network document"),
    ("blob.put", "stores one chunk (MessagePack {data})"),
    ("blob.commit", "makes a blob of chunks (MessagePack {cid, chunks, assignment})"),
    ("blob.get", "one chunk of a blob (MessagePack {cid, chunk, assignment})"),
    ("cred.renew", "new credentials for the holder of these keys"),
];
/// Questions that are answered at once; more wait.
const AT_ONCE: usize = 1_024;

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

/// Answers until `stop`.
///
/// # Errors
/// Where the service cannot be registered.
pub async fn run(world: Arc<World>, stop: CancellationToken) -> anyhow::Result<()> {
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
    world.bus.client.flush().await?;
    let permits = Arc::new(Semaphore::new(AT_ONCE));
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
    let _ = permits.acquire_many(u32::try_from(AT_ONCE).unwrap_or(u32::MAX)).await;
    Ok(())
}

async fn answer(world: &World, request: &Request) {
    let call = subject::api_call(&request.message.subject).unwrap_or_default().to_owned();
    let answered = match subject::asker_of(&request.message.subject) {
        Some(asker) => ask(world, &asker, &call, request).await,
        None => Err(Problem::new(Code::Unauthenticated, "the subject names nobody: mesh.v1.api.<your id>.<noun>.<verb>")),
    };
    // What is larger would cut the link of a device that asked.
    let answered = answered.and_then(|answer| match answer.payload.len() {
        bytes if bytes > limits::CROSSING_BYTES_MAX - 4_096 => {
            Err(Problem::new(Code::TooLarge, format!("the answer has {bytes} bytes; ask for less, or over HTTP")))
        }
        _ => Ok(answer),
    });
    let outcome = answered.as_ref().map_or_else(|problem| problem.code.code(), |_| "ok");
    let is_transfer = call == "credit.transfer";
    metrics::counter!("mesh_api_requests_total", "call" => call, "outcome" => outcome).increment(1);
    let Answer { payload, headers } = answered.unwrap_or_else(|problem| {
        let body = if is_transfer { orders::told(&problem) } else { problem.body() };
        let mut headers = HeaderMap::new();
        headers.insert(subject::header::SERVICE_ERROR, body.title.as_str());
        headers.insert(subject::header::SERVICE_ERROR_CODE, body.code.code());
        Answer { payload: serde_json::to_vec(&body).unwrap_or_default().into(), headers }
    });
    // Nobody to answer: the asker did not want to know.
    let _ = request.respond_with_headers(Ok(payload), headers).await;
}

#[derive(Deserialize, Default)]
#[serde(deny_unknown_fields)]
struct CreditAsk {
    #[serde(default)]
    limit: Option<u32>,
    #[serde(default)]
    cursor: Option<String>,
}

async fn ask(world: &World, asker: &Asker, call: &str, request: &Request) -> Result<Answer, Problem> {
    let payload = &request.message.payload;
    if call == "job.submit" {
        let headers = headers_of(request.message.headers.as_ref());
        return Answer::of(world.submit(asker, headers, payload.clone()).await?.to_json());
    }
    let member = world.member_of(asker).await?;
    let by_id = || read::<ById>(payload).map(|ask| ask.id);
    match call {
        "job.ls" => Answer::json(&world.job_ls(&member, &read_or_default::<JobLs>(payload)?).await?),
        "job.show" => Answer::json(&world.job_show(&member, &by_id()?).await?),
        "job.result" => Answer::json(&world.job_result(&member, &by_id()?).await?.0),
        "job.explain" => Answer::json(&world.job_explain(&member, &by_id()?).await?),
        "job.receipt" => Answer::json(&world.job_receipt(&member, &by_id()?).await?),
        "job.cancel" => Answer::json(&world.job_cancel(&member, &by_id()?).await?),
        "device.ls" => Answer::json(&world.fleet.list()),
        "device.show" => Answer::json(&world.device(&by_id()?)?),
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
    }
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

fn read<T: DeserializeOwned>(payload: &[u8]) -> Result<T, Problem> {
    strict::decode(Form::Json, payload, limits::BODY_BYTES_MAX)
}
fn read_or_default<T: DeserializeOwned + Default>(payload: &[u8]) -> Result<T, Problem> {
    if payload.is_empty() { Ok(T::default()) } else { read(payload) }
}
fn read_msgpack<T: DeserializeOwned>(payload: &[u8]) -> Result<T, Problem> {
    strict::decode(Form::Msgpack, payload, limits::SUBMISSION_BYTES_MAX)
}
