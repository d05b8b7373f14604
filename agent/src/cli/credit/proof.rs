//! `mesh credit proof`: that one job's end stands in the books, checked here and not believed.

use bus_schemas::api::ledger::ProofView;
use bus_schemas::ledger::{Hash32, What};
use bus_schemas::mana::mana_text;
use bus_schemas::network::NetworkDocument;
use bus_schemas::{Code, DeviceId, JobId, MemberId, Problem, ReceiptId, merkle};
use serde::Serialize;

use super::books::{alarmed, remembered};
use crate::checkpoint;
use crate::cli::client::Session;
use crate::cli::failure::{Done, End, Failure};
use crate::cli::output::Output;

/// What the proof shows.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
struct Proven {
    ok: bool,
    job: JobId,
    receipt: Option<ReceiptId>,
    /// settle or void.
    what: &'static str,
    payer: MemberId,
    payee: Option<MemberId>,
    device: Option<DeviceId>,
    paid_mmana: i64,
    /// Where the fact stands in LEDGER.
    seq: u64,
    i: u32,
    /// The checkpoint that covers it.
    checkpoint_seq: u64,
    root: Hash32,
    /// The key of the ledger that signed both.
    signed_by: String,
    hashes: usize,
}

/// `mesh credit proof ID`.
pub async fn proof(session: &Session, id: &str, output: &Output) -> Done {
    let document = session.network()?;
    let memory = remembered();
    let before = memory.load(&document.network).map_err(alarmed)?;
    let view: ProofView = session.ask("ledger.proof", &serde_json::json!({ "id": id })).await?;
    let proven = prove(&document, &view, id)?;
    // A checkpoint that this machine can follow: otherwise the proof would be of other books.
    checkpoint::accept(session, &document, &memory, before.as_ref(), &view.checkpoint).await.map_err(alarmed)?;
    output.print("credit.proof", &proven, || proven.job.to_string(), || text(&proven));
    Ok(End::Fine)
}

/// Checks a proof: the ledger's signatures, the path to the root, and that the fact is about what was asked.
fn prove(document: &NetworkDocument, view: &ProofView, asked: &str) -> Result<Proven, Failure> {
    let wrong = |what: &str| Failure::from(Problem::new(Code::BooksWrong, format!("the proof does not hold: {what}")));
    let seen = checkpoint::read(document, &view.checkpoint)?;
    let path: Vec<merkle::Hash> = view.path.iter().map(|hash| hash.0).collect();
    let place = u32::try_from(view.seq).ok().and_then(|seq| seq.checked_sub(1)).zip(u32::try_from(seen.seq).ok());
    let root = place.and_then(|(index, count)| merkle::root_of_path(merkle::leaf(view.message.as_bytes()), index, count, &path));
    if root != Some(seen.root.0) {
        return Err(wrong("the path does not lead to the root of the checkpoint"));
    }
    let facts = checkpoint::facts_of(document, &view.message)?;
    let fact = usize::try_from(view.i).ok().and_then(|i| facts.get(i)).ok_or_else(|| wrong("there is no such fact in the message"))?;
    #[allow(clippy::wildcard_enum_match_arm)] // nothing else ends a job's hold
    let (job, receipt, payer, payee, device, paid_mmana) = match &fact.what {
        What::Settle { job, receipt, payer, payee, device, paid_mmana, .. } => {
            (*job, Some(*receipt), *payer, Some(*payee), Some(*device), paid_mmana.get())
        }
        What::Void { job, member, .. } => (*job, None, *member, None, None, 0),
        other => return Err(wrong(&format!("the fact is of the kind {}", other.kind()))),
    };
    if job != view.job || receipt != view.receipt {
        return Err(wrong("the fact is about another job or receipt"));
    }
    if !is_named(asked, &job, receipt.as_ref()) {
        return Err(wrong(&format!("it is about {}, which was not asked for", job.short())));
    }
    Ok(Proven {
        ok: true,
        job,
        receipt,
        what: fact.what.kind(),
        payer,
        payee,
        device,
        paid_mmana,
        seq: view.seq,
        i: view.i,
        checkpoint_seq: seen.seq,
        root: seen.root,
        signed_by: document.ledger_keys.iter().map(ToString::to_string).collect::<Vec<_>>().join(" or "),
        hashes: view.path.len(),
    })
}

/// Whether what was typed is this job or this receipt: a full id, a short one, or the beginning of one.
fn is_named(asked: &str, job: &JobId, receipt: Option<&ReceiptId>) -> bool {
    let bare = |text: &str| text.strip_prefix(bus_schemas::id::CID_TEXT_PREFIX).unwrap_or(text).to_owned();
    let begins = |id: &str, prefix: &str| bare(id).starts_with(&bare(asked.strip_prefix(prefix).unwrap_or(asked)));
    let of_receipt = receipt.is_some_and(|receipt| begins(&receipt.to_string(), "rcp_"));
    !asked.is_empty() && (begins(&job.to_string(), "job_") || of_receipt)
}

fn text(proven: &Proven) -> String {
    let job = proven.job.short();
    let what = match (&proven.receipt, &proven.payee) {
        (Some(receipt), Some(payee)) => {
            format!("{} of {job} is in the books: {} mana paid to {payee}", receipt.short(), mana_text(proven.paid_mmana))
        }
        _ => format!("the end of {job} is in the books: its hold was returned to {}", proven.payer),
    };
    format!(
        "{what}\n  fact        {} of message {} of LEDGER\n  checkpoint  of {} messages, root {}\n  proof       {} hashes, checked here\n  signed by   {}",
        proven.i + 1,
        proven.seq,
        proven.checkpoint_seq,
        proven.root,
        proven.hashes,
        proven.signed_by
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::checkpoint::tests::Ledger;
    use bus_schemas::ledger::{Fact, VoidReason, fact_id};
    use bus_schemas::{Cid, Signer};

    /// A void at sequence 4 among 9 messages, under a checkpoint of all.
    fn sample() -> (NetworkDocument, ProofView) {
        let mut ledger = Ledger::new();
        let (key, job) = (Signer::from_seed(&[2; 32]), JobId(Cid::of(b"job")));
        let member = key.public().member_id();
        let fact = Fact {
            net: ledger.document.network,
            id: fact_id::close(&job),
            at_ms: 1,
            policy: 1,
            legs: vec![],
            evidence: vec![],
            what: What::Void { job, member, reason: VoidReason::Expired, ended: vec![] },
        };
        let message = key.json_batch::<Fact>(vec![serde_json::to_string(&fact).unwrap()]).encode();
        for n in 1..=9_u8 {
            if n == 4 { ledger.push(&message) } else { ledger.push(&[n]) }
        }
        ledger.checkpoint();
        let path = ledger.path(&merkle::path_ranges(3, 9));
        let checkpoint = ledger.checkpoints[0].clone();
        let message = String::from_utf8(message).unwrap();
        (ledger.document, ProofView { job, receipt: None, seq: 4, i: 0, message, path, checkpoint })
    }

    #[test]
    fn a_proof_holds_as_it_was_made_and_not_otherwise() {
        let (document, sound) = sample();
        let job = sound.job;
        for asked in [job.to_string(), job.short(), job.short()[4..].to_owned()] {
            let proven = prove(&document, &sound, &asked).unwrap();
            assert_eq!((proven.what, proven.seq, proven.checkpoint_seq), ("void", 4, 9));
        }
        assert!(prove(&document, &sound, &JobId(Cid::of(b"other")).to_string()).is_err());
        type Change = fn(&mut ProofView);
        let changes: [Change; 8] = [
            |view| view.seq = 5,
            |view| view.seq = 0,
            |view| view.i = 1,
            |view| view.path[0] = Hash32([1; 32]),
            |view| view.path.truncate(1),
            |view| view.job = JobId(Cid::of(b"other")),
            |view| view.message = view.message.replacen("expired", "failed", 1),
            |view| view.checkpoint.root = Hash32([1; 32]),
        ];
        for change in changes {
            let mut view = sound.clone();
            change(&mut view);
            assert_eq!(prove(&document, &view, &job.to_string()).unwrap_err().code(), Code::BooksWrong, "{view:?}");
        }
    }
}
