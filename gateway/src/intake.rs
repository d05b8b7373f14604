//! Turns what waits in SUBMIT into jobs: sort out, ask for holds, publish to JOBS, record, acknowledge last.
//!
//! Every step may be done twice: the hold is keyed, JOBS holds one message per job, HISTORY is folded by job. So whatever dies
//! midway, the message comes again and the same happens.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use async_nats::{HeaderMap, HeaderValue};
use bus::batch::{self, Batching};
use bus::pull::{self, Delivery};
use bus::store::StoreError;
use bus_schemas::api::WatchState;
use bus_schemas::eligibility::Needs;
use bus_schemas::history::{Admitted, Decision, HistoryEvent, HistoryRecord, Transition};
use bus_schemas::id::{Asker, JobId, MemberId};
use bus_schemas::job::{AdmittedJob, AnnouncedJob, JobState};
use bus_schemas::ledger::{HoldView, Op};
use bus_schemas::letter::{Original, Stage};
use bus_schemas::{Code, Problem, UnixMs, limits, stream, subject};
use futures::future::join_all;
use futures::{StreamExt, stream as streams};
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

use crate::admission::{self, Admit, Candidate, Headers, Refused, Sorted, Submission};
use crate::attempts::ADMITTED;
use crate::backlog;
use crate::funding::{Judged, judge};
use crate::ledger_client;
use crate::letters;
use crate::recorder::Entry;
use crate::world::{World, crash_point, lock};

/// On messages that a door stored: it waits for the answer, and this is the key of a job that names none.
pub const DOOR_KEY: &str = "Mesh-Door-Key";
/// Submissions that are asked for at once.
const PREFETCH: usize = 256;
const IN_FLIGHT: usize = 4;

/// Runs until `stop`, then finishes what it has begun.
///
/// # Errors
/// Where the consumer is not there.
pub async fn run(world: Arc<World>, records: mpsc::Sender<Entry>, stop: CancellationToken) -> anyhow::Result<()> {
    let deliveries = pull::deliveries(&world.bus, stream::SUBMIT, stream::INTAKE, PREFETCH).await?;
    // No more than the next batch is chosen before its time.
    let (sender, receiver) = mpsc::channel(limits::STEP_MAX);
    tokio::spawn(backlog::in_turn(world.clone(), deliveries, sender, stop));
    let how = Batching::of(IN_FLIGHT).paced(world.timings.pace);
    // Held once here and once by each batch in hand.
    let in_hand = Arc::new(());
    let work = move |batch: Vec<Delivery>| {
        let (world, records, in_hand) = (world.clone(), records.clone(), in_hand.clone());
        async move {
            let alone = batch.len() == 1 && Arc::strong_count(&in_hand) == 2;
            let (entry, again) = handle(&world, &batch, alone).await;
            drop(in_hand);
            if records.send(entry).await.is_ok() && !again.is_empty() {
                tokio::spawn(async move { tell_again(&world, again).await });
            }
        }
    };
    batch::run(receiver, how, |delivery| delivery.payload.len(), work).await;
    Ok(())
}

/// One job of a batch, with what its message said.
struct Item {
    /// Its message's place in the batch.
    message: usize,
    asker: Asker,
    member: MemberId,
    submitted_at: UnixMs,
    candidate: Candidate,
}
/// A sound job on its way.
struct Asked {
    message: usize,
    asker: Asker,
    member: MemberId,
    submitted_at: UnixMs,
    admit: Box<Admit>,
}

/// What becomes of a batch of messages; `alone`: it is one message, and nothing else is in hand. Messages that cannot be finished now
/// are given back here.
async fn handle(world: &World, batch: &[Delivery], alone: bool) -> (Entry, Vec<Again>) {
    crash_point("after_take");
    let (mut entry, mut again) = (Entry::default(), Vec::new());
    let mut failed = BTreeSet::new();
    let mut asked = Vec::new();
    for item in sort(world, batch, &mut failed).await {
        let Item { message, asker, member, submitted_at, candidate } = item;
        match candidate {
            Candidate::Admit(admit) => asked.push(Asked { message, asker, member, submitted_at, admit }),
            Candidate::Refuse(refused) => entry.records.push(refuse(world, asker, member, refused).await),
        }
    }
    crash_point("after_sort");
    entry.urgent = batch.iter().any(|delivery| header(delivery.headers.as_ref(), DOOR_KEY).is_some());
    let deadline = tokio::time::Instant::now() + world.timings.ack_wait * 2 / 3;
    let announced = asked.first().filter(|_| alone && asked.len() == 1).and_then(|asked| announced(world, asked));
    let announced = announced.as_ref();
    let steps =
        streams::iter(chunks(asked)).map(|chunk| admit(world, chunk, announced, deadline)).buffered(IN_FLIGHT).collect::<Vec<_>>().await;
    for step in steps {
        entry.records.extend(step.records);
        again.extend(step.again);
        failed.extend(step.failed);
    }
    for (place, delivery) in batch.iter().enumerate() {
        if failed.contains(&place) {
            // Comes again and is asked again; nothing was refused.
            let _ = world.bus.give_back(&delivery.ack_subject, Duration::from_secs(1)).await;
        } else {
            entry.acks.push(delivery.ack_subject.clone());
        }
    }
    (entry, again)
}

fn chunks(mut asked: Vec<Asked>) -> Vec<Vec<Asked>> {
    let mut chunks = Vec::new();
    while asked.len() > limits::STEP_MAX {
        let rest = asked.split_off(limits::STEP_MAX);
        chunks.push(std::mem::replace(&mut asked, rest));
    }
    if !asked.is_empty() {
        chunks.push(asked);
    }
    chunks
}

pub fn header<'a>(headers: Option<&'a HeaderMap>, name: &str) -> Option<&'a str> {
    headers.and_then(|headers| headers.get(name)).map(|value| value.as_str())
}
/// The headers of a message that say what it is. A key that was no UTF-8 is none: two such may look alike.
pub fn headers_of(headers: Option<&HeaderMap>) -> Headers<'_> {
    let key = |name| header(headers, name).map(|key| if key.contains(char::REPLACEMENT_CHARACTER) { "" } else { key });
    Headers {
        job_key: key(subject::header::JOB_KEY),
        msg_id: key(subject::header::NATS_MSG_ID),
        content_type: header(headers, "Content-Type"),
        mesh_type: header(headers, bus_schemas::envelope::HEADER_TYPE),
        mesh_key: header(headers, bus_schemas::envelope::HEADER_KEY),
        mesh_sig: header(headers, bus_schemas::envelope::HEADER_SIG),
    }
}

/// The key of a job that names none: the one that its door made, or its place in SUBMIT.
fn fallback_key(headers: Option<&HeaderMap>, seq: u64) -> String {
    let made = header(headers, DOOR_KEY).or_else(|| header(headers, subject::header::OUTBOX_KEY));
    made.map_or_else(|| format!("submit:{seq}"), str::to_owned)
}

/// What a message that SUBMIT stores at this place asks for.
pub fn sorted(world: &World, member: MemberId, headers: Option<&HeaderMap>, payload: &[u8], seq: u64, stored_at: UnixMs) -> Sorted {
    let fallback = fallback_key(headers, seq);
    let headers = headers_of(headers);
    let submission = Submission { net: world.net, member, headers, payload, fallback_key: &fallback, now: stored_at };
    admission::sort(&submission, &mut lock(&world.verifier))
}

async fn sort(world: &World, batch: &[Delivery], failed: &mut BTreeSet<usize>) -> Vec<Item> {
    let mut items = Vec::new();
    for (message, delivery) in batch.iter().enumerate() {
        let Some(asker) = subject::asker_of(&delivery.subject) else {
            if !dead_letter(world, delivery, &Problem::new(Code::Forbidden, "the subject names nobody")).await {
                failed.insert(message);
            }
            continue;
        };
        let member = match world.member_of(&asker).await {
            Ok(member) => member,
            Err(problem) => {
                if !nobodys(world, delivery, &asker, &problem, message, &mut items).await {
                    failed.insert(message);
                }
                continue;
            }
        };
        let Delivery { headers, payload, stream_seq, stored_at, .. } = delivery;
        let sorted = sorted(world, member, headers.as_ref(), payload, *stream_seq, *stored_at).into_vec();
        metrics::counter!("mesh_jobs_submitted_total").increment(sorted.len() as u64);
        items.extend(sorted.into_iter().map(|candidate| Item { message, asker, member, submitted_at: delivery.stored_at, candidate }));
    }
    items
}

/// A message of a device that may not submit: the owner of a revoked one finds it rejected, an unknown one is a dead letter.
async fn nobodys(world: &World, delivery: &Delivery, asker: &Asker, problem: &Problem, message: usize, items: &mut Vec<Item>) -> bool {
    let owner = match asker {
        Asker::Device(device) => world.fleet.record(device).map(|record| record.member),
        Asker::Member(_) => None,
    };
    let Some(member) = owner else { return dead_letter(world, delivery, problem).await };
    let key = format!("submit:{}", delivery.stream_seq);
    let job = bus_schemas::job::unsigned_job_id(&member, &key, &delivery.payload);
    let refused = Refused { job, key: Some(key), kind: None, problem: problem.clone() };
    items.push(Item { message, asker: *asker, member, submitted_at: delivery.stored_at, candidate: Candidate::Refuse(refused) });
    true
}

async fn dead_letter(world: &World, delivery: &Delivery, problem: &Problem) -> bool {
    metrics::counter!("mesh_jobs_rejected_total").increment(1);
    tracing::warn!(subject = delivery.subject, %problem, "a submission of nobody");
    let kept = Original::keeping(stream::SUBMIT, delivery.stream_seq, &delivery.subject, &delivery.payload);
    let original = Original { headers: letters::telling(delivery.headers.as_ref()), ..kept };
    world.keep_letter(letters::about(world.net, Stage::Submission, delivery.stored_at, original, problem.clone())).await
}

/// A job that was sent once more after its end.
struct Again {
    member: MemberId,
    asker: Asker,
    job: JobId,
    key: String,
}

#[derive(Default)]
struct Step {
    records: Vec<HistoryRecord>,
    again: Vec<Again>,
    /// Messages that must come again.
    failed: Vec<usize>,
}

/// A funded job.
struct Funded {
    message: usize,
    job: AdmittedJob,
    kind: String,
    nothing_fits: Option<Decision>,
}

/// What schedulers may know of a job before its hold is there; nothing of a large one, and nothing of a member who was not granted the last
/// hold: nobody bids twice for somebody who cannot pay.
fn announced(world: &World, asked: &Asked) -> Option<AnnouncedJob> {
    let Admit { job, spec, form, body, .. } = &*asked.admit;
    (body.len() <= limits::ANNOUNCED_BYTES_MAX && lock(&world.solvent).contains(&asked.member)).then(|| AnnouncedJob {
        net: world.net,
        job: *job,
        member: asked.member,
        class: spec.priority,
        hold_mmana: spec.cost_mana.unwrap_or(limits::COST_DEFAULT),
        form: *form,
        body: body.clone().into(),
    })
}

/// Lets a job's auction begin while its hold is asked for. Nobody waits for the word, and nothing depends on it.
async fn announce(world: &World, announced: Option<&AnnouncedJob>) {
    let Some(announced) = announced else { return };
    // The question about the hold goes out first.
    tokio::task::yield_now().await;
    let payload = world.signer.batch(std::slice::from_ref(announced)).encode();
    let _ = world.bus.client.publish(subject::ANNOUNCE, payload.into()).await;
}

/// Holds, JOBS and records for up to 64 jobs; one that comes alone is announced.
async fn admit(world: &World, chunk: Vec<Asked>, announced: Option<&AnnouncedJob>, deadline: tokio::time::Instant) -> Step {
    let now = world.now();
    let ops: Vec<Op> = chunk.iter().map(|asked| hold(&world.timings, asked, now)).collect();
    let (outcomes, ()) = tokio::join!(ledger_client::ask(world, ops, deadline), announce(world, announced));
    let outcomes = match outcomes {
        Ok(outcomes) => outcomes,
        Err(error) => {
            tracing::warn!(%error, jobs = chunk.len(), "the ledger does not answer; the submissions come again");
            return Step { failed: chunk.iter().map(|asked| asked.message).collect(), ..Step::default() };
        }
    };
    crash_point("after_hold");
    let mut step = Step::default();
    let mut funded = Vec::new();
    for (asked, outcome) in chunk.into_iter().zip(outcomes) {
        match judge(&asked.admit.job, outcome) {
            Judged::Go(hold) => {
                lock(&world.solvent).insert(asked.member);
                funded.push(fund(world, asked, &hold, now));
            }
            // It may have ended before its gateway could record it, and whoever asks again hears how it ended.
            Judged::Ended(hold) => {
                step.again.push(Again { member: asked.member, asker: asked.asker, job: asked.admit.job, key: asked.admit.key.clone() });
                let ended = Funded { nothing_fits: None, ..fund(world, asked, &hold, now) };
                step.records.push(record(world.net, ended, now));
            }
            Judged::Refuse(problem) => {
                lock(&world.solvent).remove(&asked.member);
                let refused = Refused { job: asked.admit.job, key: Some(asked.admit.key), kind: Some(asked.admit.spec.kind), problem };
                step.records.push(refuse(world, asked.asker, asked.member, refused).await);
            }
        }
    }
    let stored = publish(world, &funded, deadline).await;
    crash_point("after_job");
    for (funded, stored) in funded.into_iter().zip(stored) {
        if !stored {
            step.failed.push(funded.message);
            continue;
        }
        if let Some(decision) = &funded.nothing_fits {
            watch(
                world,
                &funded.job,
                WatchState { why: Some(decision.why.clone()), ..WatchState::of(funded.job.job, JobState::Submitted, now) },
            )
            .await;
        }
        step.records.push(record(world.net, funded, now));
    }
    step
}

fn hold(timings: &limits::Timings, asked: &Asked, now: UnixMs) -> Op {
    let spec = &asked.admit.spec;
    Op::Hold {
        job: asked.admit.job,
        member: asked.member,
        key: asked.admit.key.clone(),
        amount_mmana: spec.cost_mana,
        expires: limits::hold_expires_with(timings, now, spec.max_execution_wait_ms(), spec.timeout_ms()),
    }
}

fn fund(world: &World, asked: Asked, hold: &HoldView, now: UnixMs) -> Funded {
    let Asked { message, asker, member, submitted_at, admit } = asked;
    let nothing_fits = world.fleet.nothing_fits(&Needs::from(&admit.spec), now);
    let Admit { job, key, spec, form, body, signed } = *admit;
    let job = AdmittedJob {
        net: world.net,
        job,
        member,
        asker,
        key,
        submitted_at,
        at: now,
        class: spec.priority,
        hold_mmana: hold.amount_mmana,
        hold_expires: hold.expires,
        form,
        body: body.into(),
        signed,
    };
    Funded { message, job, kind: spec.kind, nothing_fits }
}

/// Stores each job as its own message, signed once; says which are there.
async fn publish(world: &World, funded: &[Funded], deadline: tokio::time::Instant) -> Vec<bool> {
    if funded.is_empty() {
        return vec![];
    }
    let bodies = funded.iter().map(|funded| bus_schemas::envelope::encode(&funded.job)).collect();
    let proofs = world.signer.batch_of_bytes::<AdmittedJob>(bus_schemas::Form::Msgpack, bodies).proofs();
    let time = deadline.saturating_duration_since(tokio::time::Instant::now()).max(Duration::from_secs(1));
    join_all(funded.iter().zip(proofs).map(|(funded, proof)| async move {
        let subject = subject::job(funded.job.class, &funded.job.job);
        match world.bus.store(subject, None, proof.encode().into(), time).await {
            Ok(_) => true,
            // The job is there already: a repeat.
            Err(error) if error.err_code() == Some(StoreError::MAX_PER_SUBJECT) => true,
            Err(error) => {
                tracing::error!(%error, job = %funded.job.job, "a job cannot be stored; its submission comes again");
                false
            }
        }
    }))
    .await
}

fn record(net: bus_schemas::NetworkId, funded: Funded, now: UnixMs) -> HistoryRecord {
    let Funded { job, kind, nothing_fits, .. } = funded;
    HistoryRecord {
        net,
        member: job.member,
        job: job.job,
        at: now,
        transitions: vec![transition(JobState::Submitted, job.submitted_at, ADMITTED)],
        what: HistoryEvent::Admitted(Box::new(Admitted {
            asker: job.asker,
            key: job.key,
            kind,
            submitted_at: job.submitted_at,
            hold_mmana: job.hold_mmana,
            hold_expires: job.hold_expires,
            form: job.form,
            body: job.body,
            signed: job.signed,
            nothing_fits,
        })),
    }
}

fn transition(to: JobState, at: UnixMs, cause: impl Into<String>) -> Transition {
    Transition { to, at, cause: cause.into(), actor: "gateway".to_owned() }
}

/// Tells the member at once, and makes the record.
async fn refuse(world: &World, asker: Asker, member: MemberId, refused: Refused) -> HistoryRecord {
    metrics::counter!("mesh_jobs_rejected_total").increment(1);
    let Refused { job, key, kind, problem } = refused;
    let now = world.now();
    let told = WatchState { error: Some(problem.body()), ..WatchState::of(job, JobState::Rejected, now) };
    tell(world, &member, &asker, key.as_deref(), told).await;
    HistoryRecord {
        net: world.net,
        member,
        job,
        at: now,
        transitions: vec![transition(JobState::Rejected, now, problem.to_string())],
        what: HistoryEvent::Rejected { asker, key, kind, problem },
    }
}

async fn watch(world: &World, job: &AdmittedJob, told: WatchState) {
    tell(world, &job.member, &job.asker, Some(&job.key), told).await;
}

/// Tells once more how jobs ended, for whoever sent them again: a message that crashed after its submission has nothing else to hear.
async fn tell_again(world: &World, again: Vec<Again>) {
    for Again { member, asker, job, key } in again {
        let id = job.to_string();
        let told = match world.job_result(&member, &id).await {
            Ok((view, _)) => serde_json::to_vec(&view).map(|payload| ("result", payload)),
            Err(problem) => match world.job_show(&member, &id).await {
                Ok(view) if view.state.is_final() => {
                    let error = view.error.or_else(|| Some(problem.body()));
                    serde_json::to_vec(&WatchState { error, ..WatchState::of(job, view.state, world.now()) })
                        .map(|payload| ("state", payload))
                }
                // Its end is told when it is here.
                Ok(_) | Err(_) => continue,
            },
        };
        if let Ok((what, payload)) = told {
            publish_watch(world, subject::watch(&member, &job, what), &asker, Some(&key), payload).await;
        }
    }
}

async fn tell(world: &World, member: &MemberId, asker: &Asker, key: Option<&str>, told: WatchState) {
    let payload = serde_json::to_vec(&told).unwrap_or_default();
    publish_watch(world, subject::watch(member, &told.id, "state"), asker, key, payload).await;
}

async fn publish_watch(world: &World, subject: String, asker: &Asker, key: Option<&str>, payload: Vec<u8>) {
    let mut headers = HeaderMap::new();
    headers.insert(subject::header::ASKER, asker.to_string());
    if let Some(key) = key.and_then(|key| key.parse::<HeaderValue>().ok()) {
        headers.insert(subject::header::JOB_KEY, key);
    }
    // A hint: who missed it reads the record.
    let _ = world.bus.client.publish_with_headers(subject, headers, payload.into()).await;
}
