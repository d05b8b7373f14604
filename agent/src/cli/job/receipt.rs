//! `mesh job receipt [--verify]`: who signed what, checked again here, by nothing but the network's document.

use std::collections::BTreeSet;

use bus_schemas::api::{ReceiptView, ResultView, ask};
use bus_schemas::assignment::Assignment;
use bus_schemas::network::NetworkDocument;
use bus_schemas::receipt::{Outcome, Receipt};
use bus_schemas::{AttemptId, Cid, Code, Problem, Proof, PublicKey, ReceiptId, Verifier};
use serde::Serialize;

use super::result;
use crate::cli::args::{Cli, ReceiptArgs};
use crate::cli::client::Session;
use crate::cli::failure::{Done, End};
use crate::cli::output::Output;

#[derive(Serialize)]
struct Report {
    ok: bool,
    checks: Vec<Check>,
    receipt: ReceiptView,
}
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Check {
    pub what: &'static str,
    pub ok: bool,
    pub detail: String,
}

pub async fn run(cli: &Cli, args: &ReceiptArgs, output: &Output) -> Done {
    let session = Session::open(cli).await?;
    let id = ask::ById { id: args.job.id.clone() };
    if !args.verify {
        let receipt: ReceiptView = session.ask("job.receipt", &id).await?;
        output.print("job.receipt", &receipt, || receipt.id.to_string(), || text(&receipt));
        return Ok(End::Fine);
    }
    // Not `result::fetch`: that refuses a wrong result, and here it is to be shown which check fails.
    let receipt: ReceiptView = session.ask("job.receipt", &id).await?;
    let mut checks = verify(&receipt, &session.network()?);
    if matches!(receipt.body.outcome, Outcome::Completed(_)) {
        let view: ResultView = session.ask("job.result", &id).await?;
        let whole = result::whole(&session, Box::new(view)).await;
        checks.push(match &whole {
            Ok(view) => check_result(&receipt, view.result.get().as_bytes()),
            Err(failure) => Check { what: "result", ok: false, detail: failure.problem.to_string() },
        });
    }
    let report = Report { ok: checks.iter().all(|check| check.ok), checks, receipt };
    let human = || {
        let lines =
            report.checks.iter().map(|check| format!("  {:<11} {:<5} {}", check.what, if check.ok { "good" } else { "BAD" }, check.detail));
        let verdict = if report.ok { "valid" } else { "NOT valid" };
        format!("{}: {verdict}\n{}", report.receipt.id.short(), lines.collect::<Vec<_>>().join("\n"))
    };
    output.print("job.receipt", &report, || report.receipt.id.to_string(), human);
    Ok(if report.ok { End::Fine } else { End::Exit(Code::BadSignature.exit()) })
}

fn text(receipt: &ReceiptView) -> String {
    let outcome = match &receipt.body.outcome {
        Outcome::Completed(result) => format!("completed, result {} ({} bytes)", result.cid, result.bytes),
        Outcome::Failed(failure) => format!("failed: {} ({})", failure.message, failure.class.name()),
        Outcome::Cancelled => "cancelled".to_owned(),
    };
    format!(
        "{}   {outcome}\n  id        {}\n  job       {}\n  attempt   {}\n  device    {}\n  signed by {}\n  worked    {} ms, waited {} ms\nnext: mesh job receipt {} --verify",
        receipt.id.short(),
        receipt.id,
        receipt.job,
        receipt.attempt,
        receipt.device,
        receipt.did,
        receipt.body.claimed_ms,
        receipt.body.waited_ms,
        receipt.job.short()
    )
}

/// Checks the receipt's and the assignment's signatures and that the two are about each other.
pub fn verify(receipt: &ReceiptView, network: &NetworkDocument) -> Vec<Check> {
    let mut verifier = Verifier::default();
    let result = |what, outcome: Result<String, Problem>| match outcome {
        Ok(detail) => Check { what, ok: true, detail },
        Err(problem) => Check { what, ok: false, detail: problem.detail },
    };
    let wrong = |why: String| Problem::new(Code::BadSignature, why);
    let mut signed = || -> Result<String, Problem> {
        let proof = decode(&receipt.proof)?;
        let body = proof.verify::<Receipt>(&mut verifier)?;
        let (by, id): (PublicKey, _) = (body.by(), ReceiptId(body.cid()));
        if by != receipt.did || by.device_id() != receipt.device || body.device != receipt.device {
            return Err(wrong(format!("signed by {by}, which is {}", by.device_id())));
        }
        if id != receipt.id || *body != receipt.body {
            return Err(wrong(format!("the signed receipt is {id}")));
        }
        if body.job != receipt.job || body.attempt != receipt.attempt || body.net != network.network {
            return Err(wrong("the signed receipt is about another job, attempt or network".into()));
        }
        Ok(format!("by {} ({by})", receipt.device))
    };
    let signature = result("receipt", signed());
    let schedulers: BTreeSet<PublicKey> = network.scheduler_keys.iter().copied().collect();
    let mut verifier = Verifier::default();
    let mut assigned = || -> Result<String, Problem> {
        let Some(assignment) = &receipt.assignment else {
            return Err(wrong(format!(
                "it was not kept: a scheduler died before it wrote the job's end; the books name attempt {}",
                receipt.attempt
            )));
        };
        let proof = decode(assignment)?;
        let body = proof.verify::<Assignment>(&mut verifier)?;
        if !schedulers.contains(&body.by()) {
            return Err(wrong(format!("signed by {}, which is no scheduler of this network", body.by())));
        }
        if AttemptId(body.cid()) != receipt.attempt {
            return Err(wrong(format!("the receipt answers attempt {}, this is {}", receipt.attempt, body.cid())));
        }
        if body.device != receipt.device || body.job != receipt.job || body.net != network.network {
            return Err(wrong("it is about another device, job or network".into()));
        }
        Ok(format!("attempt {} by a scheduler of {}, at most {} mana", body.attempt, network.name, body.price_mmana))
    };
    vec![signature, result("assignment", assigned())]
}

/// Checks that these bytes are the result that was signed.
pub fn check_result(receipt: &ReceiptView, bytes: &[u8]) -> Check {
    let cid = Cid::of(bytes);
    match &receipt.body.outcome {
        Outcome::Completed(signed) if signed.cid == cid && signed.bytes == bytes.len() as u64 => {
            Check { what: "result", ok: true, detail: format!("{cid}, {} bytes", bytes.len()) }
        }
        Outcome::Completed(signed) => Check {
            what: "result",
            ok: false,
            detail: format!("signed {} ({} bytes), got {cid} ({} bytes)", signed.cid, signed.bytes, bytes.len()),
        },
        Outcome::Failed(_) | Outcome::Cancelled => {
            Check { what: "result", ok: false, detail: "the receipt is of a job without a result".into() }
        }
    }
}

fn decode(text: &str) -> Result<Proof, Problem> {
    let bytes = data_encoding::BASE64URL_NOPAD
        .decode(text.as_bytes())
        .map_err(|_| Problem::new(Code::BadSignature, "the proof is not base64url"))?;
    Proof::decode(&bytes)
}

#[cfg(test)]
mod tests {
    use super::*;
    use bus_schemas::receipt::ResultRef;
    use bus_schemas::{JobId, MilliMana, Signer};

    struct World {
        network: NetworkDocument,
        scheduler: Signer,
        device: Signer,
    }
    fn world() -> World {
        let key = |seed| Signer::from_seed(&[seed; 32]);
        let (network, scheduler, device) = (key(1).public(), key(2), key(3));
        let network = NetworkDocument {
            network: network.network_id(),
            network_key: network,
            name: "lab".into(),
            version: 1,
            gateway_keys: vec![],
            scheduler_keys: vec![scheduler.public()],
            ledger_keys: vec![],
            ca_sha256: None,
        };
        World { network, scheduler, device }
    }
    fn receipt(world: &World) -> ReceiptView {
        let job = JobId(Cid::of(b"job"));
        let net = world.network.network;
        let assignment = Assignment {
            net,
            job,
            attempt: 1,
            device: world.device.public().device_id(),
            member: Signer::from_seed(&[4; 32]).public().member_id(),
            assigned_at: 1,
            exp: 2,
            price_mmana: MilliMana::mana(1),
            tier: 1,
            timeout_ms: 1000,
            payload: Cid::of(b"body"),
            resume: None,
        };
        let assigned = world.scheduler.batch(std::slice::from_ref(&assignment)).proof(0).unwrap();
        let attempt = AttemptId(Cid::of(&assigned.b));
        let outcome = Outcome::Completed(ResultRef { cid: Cid::of(b"{}"), bytes: 2 });
        let body = Receipt { net, device: assignment.device, job, attempt, at: 3, outcome, claimed_ms: 1, waited_ms: 0 };
        let proof = world.device.batch(std::slice::from_ref(&body)).proof(0).unwrap();
        let text = |proof: &Proof| data_encoding::BASE64URL_NOPAD.encode(&proof.encode());
        ReceiptView {
            id: ReceiptId(Cid::of(&proof.b)),
            job,
            attempt,
            device: assignment.device,
            did: world.device.public(),
            body,
            proof: text(&proof),
            assignment: Some(text(&assigned)),
        }
    }

    #[test]
    fn a_good_receipt_is_good() {
        let world = world();
        let receipt = receipt(&world);
        let checks = verify(&receipt, &world.network);
        assert!(checks.iter().all(|check| check.ok), "{checks:?}");
        assert!(check_result(&receipt, b"{}").ok);
        assert!(!check_result(&receipt, b"{ }").ok);
    }

    #[test]
    fn any_change_is_found() {
        let mut world = world();
        let good = receipt(&world);
        let bad: Vec<(&str, ReceiptView)> = vec![
            ("did", ReceiptView { did: world.scheduler.public(), ..good.clone() }),
            ("body", ReceiptView { body: Receipt { claimed_ms: 2, ..good.body.clone() }, ..good.clone() }),
            ("job", ReceiptView { job: JobId(Cid::of(b"other")), ..good.clone() }),
            ("proof", ReceiptView { proof: good.proof[..good.proof.len() - 4].to_owned(), ..good.clone() }),
            ("assignment", ReceiptView { assignment: Some(good.proof.clone()), ..good.clone() }),
            ("no assignment", ReceiptView { assignment: None, ..good.clone() }),
            ("text", ReceiptView { proof: "***".into(), ..good.clone() }),
        ];
        for (what, receipt) in bad {
            assert!(verify(&receipt, &world.network).iter().any(|check| !check.ok), "{what}");
        }
        world.network.scheduler_keys.clear();
        assert!(!verify(&good, &world.network)[1].ok, "a stranger's assignment");
    }
}
