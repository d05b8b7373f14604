//! What must hold afterwards, seen from outside: every submission that was acknowledged has exactly one end; what completed has a valid receipt,
//! the right result and one settlement; no hold is open; the books are those of a replay; and all is quiet.

use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, Instant};

use bus_schemas::api::ReceiptView;
use bus_schemas::assignment::Assignment;
use bus_schemas::network::NetworkDocument;
use bus_schemas::receipt::{Outcome, Receipt};
use bus_schemas::{AttemptId, Cid, JobId, Proof, ReceiptId, Verifier};
use serde_json::Value;
use testkit::{HUNG, within};

use super::fleet::Fleet;
use super::load::{Ack, Told};
use super::pulse::{self, Pulse};
use super::work::Kind;
use crate::books;

/// Nothing may end or be started again for this long, once all work is done.
const QUIET: Duration = Duration::from_secs(10);
/// What ends so long after the last fault is named. It is no fault: this machine may have other work.
const LATE: Duration = Duration::from_secs(15);
/// Between two looks at everything.
const LOOK: Duration = Duration::from_millis(250);

#[derive(Debug, Default)]
pub struct Findings {
    pub broken: Vec<String>,
    /// Jobs by their end.
    pub ends: BTreeMap<String, u32>,
    pub summary: String,
}

/// Looks at everything.
pub async fn check(fleet: &Fleet, told: &Told, before: &Pulse) -> Findings {
    let mut found = Findings { broken: told.broken.clone(), ..Findings::default() };
    let begun = Instant::now();
    let ends = all_ended(fleet, told, &mut found).await;
    let took = begun.elapsed();
    for end in ends.values() {
        *found.ends.entry(end["state"].as_str().unwrap_or("?").to_owned()).or_default() += 1;
    }
    one_end_each(told, &ends, &mut found);
    most_is_done(told, &ends, &mut found);
    let receipts = receipts(fleet, told, &ends, &mut found).await;
    let in_books = settled_once(fleet, told, &ends, &mut found).await;
    quiet(fleet, &mut found).await;
    let after = pulse::look(fleet).await;
    found.broken.extend(after.grown_since(before));
    let out: Vec<String> = after.pending.iter().filter(|(_, out)| **out > 0).map(|(name, out)| format!("{name} {out}")).collect();
    if !out.is_empty() {
        found.broken.push(format!("handed out and not acknowledged: {}", out.join(", ")));
    }
    let attempts = ends.values().filter_map(|view| view["attempts"].as_u64()).max().unwrap_or(0);
    let memory = |pulse: &Pulse| pulse.memory.values().sum::<u64>();
    found.summary = format!(
        "{} acknowledged, {} asked again, slowest clear answer {:.1?}; all ended {took:.1?} after; {receipts} receipts; at most {attempts} attempts; {in_books}; memory {} -> {} MiB in {} processes; {} told live",
        told.jobs.len(),
        told.repeats,
        told.slowest,
        memory(before),
        memory(&after),
        after.memory.len(),
        told.watched.len(),
    );
    found
}

/// Waits until every acknowledged job has ended; how.
async fn all_ended(fleet: &Fleet, told: &Told, found: &mut Findings) -> BTreeMap<JobId, Value> {
    let mut ends = BTreeMap::new();
    let mut seen: BTreeMap<JobId, Value> = BTreeMap::new();
    // As long as it goes on, we wait.
    let begun = Instant::now();
    let mut since = Instant::now();
    while ends.len() < told.jobs.len() && since.elapsed() < HUNG {
        for (id, ack) in told.jobs.iter().filter(|(id, _)| !ends.contains_key(*id)).collect::<Vec<_>>() {
            match fleet.get(ack.who, &format!("/jobs/{id}")).await {
                Some((200, view)) if is_end(&view) => {
                    // Of those that were seen open before.
                    if begun.elapsed() > LATE && seen.contains_key(id) {
                        let (state, attempts) = (&view["state"], &view["attempts"]);
                        println!("  late: {id} ({}) is {state} after {:.0?}, {attempts} attempts", about(ack), begun.elapsed());
                    }
                    ends.insert(*id, view);
                    since = Instant::now();
                }
                Some((_, view)) => {
                    seen.insert(*id, view);
                }
                None => {}
            }
        }
        tokio::time::sleep(LOOK).await;
    }
    for (id, ack) in told.jobs.iter().filter(|(id, _)| !ends.contains_key(*id)) {
        let explained = fleet.get(ack.who, &format!("/jobs/{id}/explain")).await.map(|(_, explained)| explained["summary"].to_string());
        let last = seen
            .get(id)
            .map_or("nothing".to_owned(), |view| if view["code"].is_null() { view["state"].to_string() } else { view.to_string() });
        found.broken.push(format!("{id} ({}) has no end: {last}; {}", about(ack), explained.unwrap_or_default()));
    }
    ends
}

fn is_end(view: &Value) -> bool {
    matches!(view["state"].as_str(), Some("Completed" | "Failed" | "Cancelled" | "Rejected"))
}

fn about(ack: &Ack) -> String {
    format!("{:?} {} at {}", ack.work.kind, ack.work.key, ack.door)
}

/// One end by every account: the state, the transitions, what was told live.
fn one_end_each(told: &Told, ends: &BTreeMap<JobId, Value>, found: &mut Findings) {
    for (id, view) in ends {
        let Some(ack) = told.jobs.get(id) else { continue };
        let state = view["state"].as_str().unwrap_or_default();
        if !ack.work.may_end(state, ack.cancel_asked) {
            found.broken.push(format!("{id} ({}) ended {state}: {}", about(ack), view["error"]));
        }
        let mut all: BTreeSet<&str> = told.watched.get(id).into_iter().flatten().map(String::as_str).collect();
        let transitions = view["transitions"].as_array().map_or(&[][..], Vec::as_slice);
        let ended: Vec<&str> = transitions
            .iter()
            .filter_map(|one| one["to"].as_str())
            .filter(|to| matches!(*to, "Completed" | "Failed" | "Cancelled" | "Rejected"))
            .collect();
        all.extend(&ended);
        all.insert(state);
        if all.len() != 1 || ended.len() != 1 {
            found.broken.push(format!("{id} ({}) ended more than once, or never: {all:?}, transitions {ended:?}", about(ack)));
        }
        if view["member"].as_str().is_none_or(|member| !told.jobs.contains_key(id) || member.is_empty()) {
            found.broken.push(format!("{id} ({}) belongs to nobody", about(ack)));
        }
    }
}

/// A network that fails everything would keep all other promises.
fn most_is_done(told: &Told, ends: &BTreeMap<JobId, Value>, found: &mut Findings) {
    let echoes = || told.jobs.iter().filter(|(_, ack)| ack.work.kind == Kind::Echo && !ack.cancel_asked);
    let done = echoes().filter(|(id, _)| ends.get(*id).is_some_and(|view| view["state"] == "Completed")).count();
    if done * 10 < echoes().count() * 9 {
        found.broken.push(format!("only {done} of {} echoes were done", echoes().count()));
    }
}

/// Each completed job has a receipt that verifies, and the result that belongs to it; how many.
async fn receipts(fleet: &Fleet, told: &Told, ends: &BTreeMap<JobId, Value>, found: &mut Findings) -> usize {
    let network = bus::keys::read_network(&fleet.stack.path("/data_dir").join("network/network.json")).expect("the network document");
    let completed = ends.iter().filter(|(_, view)| view["state"] == "Completed");
    let mut good = 0;
    for (id, _) in completed {
        let Some(ack) = told.jobs.get(id) else { continue };
        let (begun, path) = (Instant::now(), format!("/jobs/{id}/result"));
        let asked = || async { fleet.get(ack.who, &path).await.and_then(|(status, view)| (status == 200).then_some(view)) };
        let Some(view) = within(HUNG, asked).await else {
            let last = fleet.get(ack.who, &path).await;
            found.broken.push(format!("{id} ({}) completed, and its result cannot be had: {last:?}", about(ack)));
            continue;
        };
        if begun.elapsed() > Duration::from_secs(1) {
            println!("  late: the result of {id} ({}) came after {:.1?}", about(ack), begun.elapsed());
        }
        let wrong = wrong_receipt(&network, id, &view).or_else(|| ack.work.wrong_result(&view["result"]));
        match wrong {
            Some(why) => found.broken.push(format!("{id} ({}): {why}", about(ack))),
            None => good += 1,
        }
    }
    good
}

/// What is wrong with a receipt, by nothing but signatures and content ids.
fn wrong_receipt(network: &NetworkDocument, job: &JobId, view: &Value) -> Option<String> {
    let Ok(receipt) = serde_json::from_value::<ReceiptView>(view["receipt"].clone()) else { return Some("no receipt".into()) };
    let mut verifier = Verifier::default();
    let proof = |text: &str| data_encoding::BASE64URL_NOPAD.decode(text.as_bytes()).ok().and_then(|bytes| Proof::decode(&bytes).ok());
    let Some(signed) = proof(&receipt.proof).and_then(|proof| proof.verify::<Receipt>(&mut verifier).ok()) else {
        return Some("the receipt's signature is not valid".into());
    };
    // A scheduler that died before it wrote the end took the assignment along, where the device was gone as well.
    let shown = receipt.assignment.as_deref().map(|text| proof(text).and_then(|proof| proof.verify::<Assignment>(&mut verifier).ok()));
    let assigned = match shown {
        Some(None) => return Some("the assignment's signature is not valid".into()),
        Some(Some(assigned)) => Some(assigned),
        None => None,
    };
    let about_it =
        signed.job == *job && assigned.as_ref().is_none_or(|assigned| assigned.job == *job) && ReceiptId(signed.cid()) == receipt.id;
    let one_attempt = assigned.as_ref().is_none_or(|one| signed.attempt == AttemptId(one.cid()) && signed.device == one.device);
    let by_scheduler = assigned.as_ref().is_none_or(|assigned| network.scheduler_keys.contains(&assigned.by()));
    let right_keys = signed.by().device_id() == signed.device && by_scheduler;
    let completed = matches!(signed.outcome, Outcome::Completed(_));
    let same_bytes = match (&signed.outcome, view["result"].get("text")) {
        // What an echo made is one text, so its bytes are known.
        (Outcome::Completed(result), Some(text)) => result.cid == Cid::of(serde_json::json!({ "text": text }).to_string().as_bytes()),
        _ => true,
    };
    (!(about_it && one_attempt && right_keys && completed && same_bytes)).then(|| {
        format!("receipt: about it {about_it}, one attempt {one_attempt}, keys {right_keys}, completed {completed}, bytes {same_bytes}")
    })
}

/// The books: one settlement for each completed job, none for one that failed, no open hold, and the digest of a replay everywhere.
async fn settled_once(fleet: &Fleet, told: &Told, ends: &BTreeMap<JobId, Value>, found: &mut Findings) -> String {
    let auditor = fleet.stack.auditor().await;
    let closed = || async { (books::replay(&fleet.stack, &auditor).await.open_holds() == 0).then_some(()) };
    let _ = within(HUNG, closed).await;
    let replayed = books::replay(&fleet.stack, &auditor).await;
    for hold in replayed.books.open_holds() {
        let who = told.jobs.get(&hold.job).map_or("which nobody was told of".to_owned(), about);
        let asker = fleet.people().iter().position(|person| person.member == hold.member).unwrap_or(0);
        let view = fleet.get(asker, &format!("/jobs/{}", hold.job)).await;
        found.broken.push(format!("an open hold for {} ({who}): {hold:?}; {view:?}", hold.job));
    }
    for (id, view) in ends {
        let (settled, state) = (replayed.settlements(id), view["state"].as_str().unwrap_or_default());
        let right = match state {
            "Completed" => settled == 1,
            // What was stopped may have worked a while.
            "Cancelled" => settled <= 1,
            _ => settled == 0,
        };
        if !right {
            let about = told.jobs.get(id).map(about).unwrap_or_default();
            found.broken.push(format!("{id} ({about}) is {state} and was settled {settled} times"));
        }
    }
    if replayed.books.total() != 0 {
        found.broken.push(format!("all balances sum to {}", replayed.books.total()));
    }
    // Rows follow facts.
    let digest = books::hex(&replayed.books.digest());
    let verify = || async {
        let cli = fleet.stack.cli.clone();
        tokio::task::spawn_blocking(move || cli.json(&["credit", "verify"])).await.expect("mesh runs")
    };
    let same = |(code, report): &(i32, Value)| *code == 0 && report["ok"] == true && report["digest"] == digest.as_str();
    if within(HUNG, || async { Some(verify().await).filter(same) }).await.is_none() {
        let (_, report) = verify().await;
        found.broken.push(format!("credit verify: {report}, and the replay's digest is {digest}"));
    }
    let (ok, report) = super::fleet::verify_rows(&fleet.stack).await;
    if !ok || report["digest"] != digest.as_str() || report["database_digest"] != digest.as_str() {
        found.broken.push(format!("mesh-ledger verify: {report}, and the replay's digest is {digest}"));
    }
    format!("{} facts, digest {}", replayed.facts.len(), &digest[..12])
}

/// Nothing dies or is started again, and all is ready.
async fn quiet(fleet: &Fleet, found: &mut Findings) {
    let count = || (fleet.stack.events().len(), fleet.own.iter().map(super::device::Device::starts).collect::<Vec<_>>());
    // What was being started again when the last fault healed may take its turn.
    let begun = Instant::now();
    let mut before = count();
    let mut since = Instant::now();
    while since.elapsed() < QUIET {
        tokio::time::sleep(Duration::from_millis(200)).await;
        let now = count();
        if now != before {
            (before, since) = (now, Instant::now());
        }
        if begun.elapsed() > HUNG {
            let last: Vec<String> = fleet.stack.events().iter().rev().take(4).map(Value::to_string).collect();
            found.broken.push(format!("it does not come to rest: starts of agents {:?}, last events {last:?}", before.1));
            return;
        }
    }
    if begun.elapsed() > QUIET * 2 {
        println!("  late: processes were still started again {:.0?} after all work was done", begun.elapsed() - QUIET);
    }
}
