//! What moves credit: a member's transfer, and the operator's orders, signed with the network key.

use std::path::Path;

use async_nats::HeaderMap;
use bus_schemas::api::ledger::{TransferView, ask::Transfer};
use bus_schemas::envelope::encode;
use bus_schemas::ledger::{Command, Done as LedgerDone, LedgerOutcome, LedgerReply, LedgerRequest, Op};
use bus_schemas::{Code, FactId, MemberId, MilliMana, PublicKey, Signer};
use serde::Serialize;

use super::books::look;
use crate::cli::args::{GrantArgs, TransferArgs};
use crate::cli::client::{Session, read};
use crate::cli::failure::{Done, End, Failure};
use crate::cli::output::Output;

/// `mesh credit transfer`.
pub async fn transfer(session: &Session, args: &TransferArgs, output: &Output) -> Done {
    let (to, amount) = (member(&args.to)?, amount(&args.amount)?);
    let key = key_or_new(args.key.as_deref())?;
    let ask =
        Transfer { to, amount: None, amount_mmana: Some(amount), note: args.note.clone().unwrap_or_default(), key: Some(key.clone()) };
    // Before anything moves: credit in other books than before is not to be trusted with more.
    look(session).await?;
    let done: TransferView = session.ask("credit.transfer", &ask).await.map_err(|failure| keyed(failure, &key))?;
    let human = || {
        let how = if done.repeat { "moved earlier, under the same key" } else { "moved" };
        format!(
            "{how}: {} mana from {} to {}\n  fact  {} at sequence {}   key: {}",
            done.amount, done.from, done.to, done.fact, done.seq, done.key
        )
    };
    output.print("credit.transfer", &done, || done.fact.to_string(), human);
    Ok(End::Fine)
}

#[derive(Serialize)]
struct Granted {
    fact: FactId,
    seq: u64,
    repeat: bool,
    member: MemberId,
    amount_mmana: MilliMana,
    amount: String,
    reason: String,
    key: String,
}

/// `mesh credit grant`.
pub async fn grant(session: &Session, args: &GrantArgs, output: &Output) -> Done {
    let (member, amount_mmana) = (member(&args.member)?, amount(&args.amount)?);
    let signer = operator(session, args.network_key.as_deref())?;
    let key = key_or_new(args.key.as_deref())?;
    let op = Op::Mint { member, amount_mmana, reason: args.reason.clone(), key: key.clone() };
    look(session).await?;
    let done = order(session, &signer, op).await.map_err(|failure| keyed(failure, &key))?;
    let granted = Granted {
        fact: done.fact,
        seq: done.seq,
        repeat: done.repeat,
        member,
        amount_mmana,
        amount: amount_mmana.to_string(),
        reason: args.reason.clone(),
        key,
    };
    let human = || {
        let how = if granted.repeat { "granted earlier, under the same key" } else { "granted" };
        format!(
            "{how}: {} mana to {} ({})\n  fact  {} at sequence {}   key: {}",
            granted.amount, granted.member, granted.reason, granted.fact, granted.seq, granted.key
        )
    };
    output.print("credit.grant", &granted, || granted.fact.to_string(), human);
    Ok(End::Fine)
}

/// The network's key: from the file that was named, or that the context knows.
///
/// # Errors
/// Where there is none, or it is another network's.
pub fn operator(session: &Session, named: Option<&Path>) -> Result<Signer, Failure> {
    let context = &session.context;
    let path = named.or(context.network_key.as_deref()).ok_or_else(|| {
        let detail = format!("only the operator may do this, and context {} does not know the network's key", context.name);
        Failure::new(Code::Forbidden, detail).next("add --network-key FILE")
    })?;
    let signer = bus::keys::read_key_file(path).map_err(|error| Failure::new(Code::BadFile, format!("{error:#}")))?;
    if signer.public() == session.network()?.network_key {
        Ok(signer)
    } else {
        Err(Failure::new(Code::WrongSigner, format!("{} is not the key of {}", path.display(), context.network)))
    }
}

/// Signs one command, sends it to the ledger and waits for what it answers.
///
/// # Errors
/// What the ledger refuses, by its code, or that it does not answer.
pub async fn order(session: &Session, signer: &Signer, op: Op) -> Result<LedgerDone, Failure> {
    let command = Command { net: session.context.network, at: session.now_ms().await?, op };
    let request = LedgerRequest { commands: signer.batch(&[command]), assignments: vec![], receipts: vec![] };
    let answer = session.ask_bytes("ledger.ask", HeaderMap::new(), encode(&request).into()).await?;
    let reply: LedgerReply = read("ledger.ask", &answer.payload)?;
    match reply.outcomes.into_iter().next() {
        Some(LedgerOutcome::Done(done)) => Ok(done),
        Some(LedgerOutcome::Refused { code, detail, .. }) => Err(Failure::new(code, detail)),
        None => Err(Failure::ours("the ledger answered nothing")),
    }
}

/// A member by its id, or by its key.
fn member(text: &str) -> Result<MemberId, Failure> {
    let of_key = || text.parse::<PublicKey>().ok().map(|key| key.member_id());
    text.parse::<MemberId>().ok().or_else(of_key).ok_or_else(|| {
        let shown: String = text.chars().take(80).collect();
        Failure::new(Code::BadValue, format!("\"{shown}\" is no member: write mem_… or did:key:…")).next("mesh node ls")
    })
}

fn amount(text: &str) -> Result<MilliMana, Failure> {
    let amount: MilliMana = text.parse().map_err(|error| Failure::new(Code::BadAmount, format!("{text}: {error}")))?;
    if amount == MilliMana::ZERO { Err(Failure::new(Code::BadAmount, "the amount must be more than zero")) } else { Ok(amount) }
}

fn key_or_new(key: Option<&str>) -> Result<String, Failure> {
    match key {
        Some(key) => Ok(key.to_owned()),
        None => Ok(format!("cli-{}", bus::keys::random_hex::<8>()?)),
    }
}

/// What the key has to do with the failure of a transfer or a grant.
fn keyed(failure: Failure, key: &str) -> Failure {
    if failure.code() == Code::Unavailable {
        // Without an answer it may have happened: the same key makes a repeat harmless.
        failure.next(format!("the same command with --key {key}"))
    } else if failure.code() == Code::Conflict {
        // The catalogue's next step for this code is about jobs; the gateway's own says the same in other words.
        let next = ["mesh credit history", "the same command with another --key"].map(str::to_owned).to_vec();
        Failure { next, ..failure }
    } else {
        failure
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_that_was_used_is_about_what_was_done() {
        let failure = keyed(Failure::new(Code::Conflict, "the key was used for something else"), "lunch-1");
        assert!(failure.text().contains("next: mesh credit history") && !failure.text().contains("job"), "{}", failure.text());
        assert_eq!(failure.exit(), 4);
        let told = Failure::new(Code::Conflict, "").next("mesh credit history").next("send it under another key");
        assert_eq!(keyed(told, "lunch-1").next, ["mesh credit history", "the same command with another --key"]);
        assert_eq!(keyed(Failure::new(Code::Unavailable, ""), "k").next, ["the same command with --key k"]);
        assert_eq!(keyed(Failure::new(Code::TooLittleMana, ""), "k"), Failure::new(Code::TooLittleMana, ""));
    }

    #[test]
    fn what_people_write_for_a_member_and_an_amount() {
        let key = Signer::from_seed(&[1; 32]).public();
        assert_eq!(member(&key.member_id().to_string()).unwrap(), key.member_id());
        assert_eq!(member(&key.to_string()).unwrap(), key.member_id());
        for bad in ["", "mem_x", "bob", &key.device_id().to_string()] {
            assert_eq!(member(bad).unwrap_err().code(), Code::BadValue, "{bad}");
        }
        assert_eq!(amount("1.25").unwrap(), MilliMana::new(1250).unwrap());
        for bad in ["0", "-1", "0.0001", "1e3", "", "9007199254740.992"] {
            assert_eq!(amount(bad).unwrap_err().code(), Code::BadAmount, "{bad}");
        }
    }
}
