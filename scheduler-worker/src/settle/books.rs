//! One batch of endings: ask the books, write HISTORY, tell devices and members, ack.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Arc;
use std::time::Duration;

use bus_schemas::api::WatchState;
use bus_schemas::assignment::{Closed, Verb};
use bus_schemas::history::HistoryRecord;
use bus_schemas::job::JobState;
use bus_schemas::ledger::{LedgerOutcome, Op, VoidReason};
use bus_schemas::letter::{Entry, Letter, Stage};
use bus_schemas::{Batch, DeviceId, InstanceId, LetterId, subject};
use serde_bytes::ByteBuf;

use super::{Ended, Item, ack_all, ask_device, store_history};
use crate::crash;
use crate::job::Evidence;
use crate::ledger::Asker;
use crate::tell;
use crate::verdict::{self, Verdict};

pub async fn end_batch(asker: Asker, s: InstanceId, mut items: Vec<Item>) -> Ended {
    let (assignments, receipts) = evidence(&items);
    let ops: Vec<Op> = items.iter().filter_map(|item| item.op.clone()).collect();
    let outcomes = if ops.is_empty() { vec![] } else { asker.ask(ops, assignments, receipts).await };
    crash::at("after_settle");
    let mut outcomes = outcomes.into_iter();
    let mut closed = BTreeMap::<DeviceId, Vec<Closed>>::new();
    let mut records: Vec<HistoryRecord> = Vec::with_capacity(items.len());
    let mut messages = Vec::with_capacity(items.len());
    let mut voids = Vec::new();
    let mut others = BTreeSet::new();
    for item in &mut items {
        let outcome = if item.op.is_some() { outcomes.next() } else { None };
        let verdict = judge(item, outcome);
        if let (Some((paid_mmana, not_paid)), Some(paid), Some(Op::Settle { attempt, .. })) = (verdict.closed, &item.paid, &item.op) {
            closed.entry(paid.device).or_default().push(Closed { attempt: *attempt, paid_mmana, not_paid });
        }
        if let Some((device, one)) = item.paid_before.take() {
            closed.entry(device).or_default().push(one);
        }
        if verdict.void {
            voids.push(Op::Void { job: item.job, reason: VoidReason::Failed, ended: vec![] });
        }
        if !verdict.write {
            others.insert(item.job);
            continue;
        }
        messages.extend(last_word(item));
        records.push(item.record.clone());
    }
    if !voids.is_empty() {
        asker.ask(voids, vec![], vec![]).await;
    }
    dead_letters(&asker, &mut items).await;
    crash::at("after_dead_letter");
    store_history(&asker.bus, &asker.signer, records).await;
    crash::at("after_history");
    let told: Vec<Closed> = closed.values().flatten().cloned().collect();
    for (device, attempts) in closed {
        let (asker, s) = (asker.clone(), s.clone());
        // A device that misses this sends its receipt again and is told then.
        tokio::spawn(async move { ask_device(&asker, s, device, Verb::Closed { attempts }, Duration::from_secs(5)).await });
    }
    for out in messages {
        let _ = asker.bus.client.publish_with_headers(out.subject, out.headers.unwrap_or_default(), out.payload).await;
    }
    let jobs = items.iter().map(|item| item.job).collect();
    // Whoever settled one of these has acked it too; where it died before, the message comes again, and is ended as the books say.
    let acks = items.into_iter().filter(|item| !others.contains(&item.job)).map(|item| (item.admitted.class, item.ack)).collect();
    ack_all(&asker.bus, acks).await;
    Ended { jobs, closed: told }
}

/// Keeps what failed for good where an operator looks for it.
async fn dead_letters(asker: &Asker, items: &mut [Item]) {
    let letters: Vec<Vec<u8>> = items
        .iter_mut()
        .filter_map(|item| {
            let (job, at, member) = (item.job, item.record.at, Some(item.record.member));
            let end = item.end().filter(|end| end.state == JobState::Failed)?;
            let (attempts, problem) = (end.attempts, end.problem.clone()?);
            let (net, id) = (asker.net, LetterId::of_job(&job));
            let letter = Letter { net, id, at, stage: Stage::Failed, member, job: Some(job), attempts, problem, original: None };
            Some(Entry::Letter(Box::new(letter)).signed(&asker.signer))
        })
        .collect();
    let stored = letters.into_iter().map(|letter| asker.bus.store(subject::DLQ.to_owned(), None, letter.into(), Duration::from_secs(5)));
    for outcome in futures::future::join_all(stored).await {
        if let Err(error) = outcome {
            tracing::warn!(%error, "a dead letter was not kept; HISTORY has the job's end");
        }
    }
}

/// Reads the books' answer into the record, and says what is left to do.
fn judge(item: &mut Item, outcome: Option<LedgerOutcome>) -> Verdict {
    let verdict = verdict::judge(item.op.as_ref(), outcome);
    if let Some(problem) = &verdict.problem {
        tracing::error!(job = ?item.job, detail = problem.detail, "the books refused to settle a job");
    }
    if let Some(end) = item.end() {
        end.paid_mmana = verdict.paid.or(end.paid_mmana);
        end.problem = verdict.problem.clone().or(end.problem.take());
    }
    verdict
}

/// What the member is told when all is written.
fn last_word(item: &mut Item) -> Option<crate::world::Out> {
    let (at, job) = (item.record.at, item.job);
    let admitted = Arc::clone(&item.admitted);
    let end = item.end()?;
    match (&end.problem, end.state) {
        (Some(problem), state) if state != JobState::Completed => tell::ended_without_result(&admitted, state, at, problem),
        (_, state) => {
            let told = WatchState { device: end.device, price_mmana: end.paid_mmana, ..WatchState::of(job, state, at) };
            tell::message(&admitted, "state", &told)
        }
    }
}

/// The signed bodies that the commands cite: a whole batch where most of it is cited, single proofs otherwise.
fn evidence(items: &[Item]) -> (Vec<ByteBuf>, Vec<ByteBuf>) {
    let paid = || items.iter().filter_map(|item| item.paid.as_ref());
    (pack(paid().map(|paid| &paid.assignment)), pack(paid().map(|paid| &paid.evidence)))
}

fn pack<'a>(all: impl Iterator<Item = &'a Evidence> + Clone) -> Vec<ByteBuf> {
    let mut cited: HashMap<*const Batch, usize> = HashMap::new();
    for batch in all.clone().filter_map(|one| one.batch.as_ref()) {
        *cited.entry(Arc::as_ptr(batch)).or_default() += 1;
    }
    let mut packed = Vec::new();
    for one in all {
        match &one.batch {
            Some(batch) if cited.get(&Arc::as_ptr(batch)).is_none_or(|count| count * 2 >= batch.b.len()) => {
                // The first to cite a batch brings it, the others find it there.
                if cited.remove(&Arc::as_ptr(batch)).is_some() {
                    packed.push(ByteBuf::from(batch.encode()));
                }
            }
            Some(_) | None => packed.push(ByteBuf::from(one.proof.encode())),
        }
    }
    packed
}
