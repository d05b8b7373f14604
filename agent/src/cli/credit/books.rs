//! The whole ledger replayed, and what this machine remembers of it.

use std::time::Duration;

use bus::Bus;
use bus::connect::Login;
use bus_schemas::api::VerifyReport;
use bus_schemas::replay::{Applied, Books};
use bus_schemas::stream::LEDGER;
use bus_schemas::{Code, Problem, Verifier};
use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::checkpoint::{self, Ask, Memory, Seen};
use crate::cli::client::{Session, connect, network};
use crate::cli::context::Context;
use crate::cli::failure::Failure;
use crate::cli::output::Output;
use crate::home::Home;

impl Ask for Session {
    async fn ask<Q: Serialize + Sync, A: DeserializeOwned + Send>(&self, call: &str, question: &Q) -> Result<A, Problem> {
        Self::ask(self, call, question).await.map_err(|failure| failure.problem)
    }
}

/// The checkpoints that this machine has seen.
pub fn remembered() -> Memory {
    Memory::of(&Home::discover())
}

/// A rewritten ledger is not to be overlooked, nor its evidence.
pub fn alarmed(problem: Problem) -> Failure {
    let failure = Failure::from(problem);
    if failure.code() != Code::BooksWrong {
        return failure;
    }
    let kept = format!("keep {} as evidence, and compare with other members", remembered().folder().display());
    failure.next("mesh credit verify").next(kept)
}

/// Looks whether the newest checkpoint extends the remembered one. What cannot be looked at is said, and no reason to stop.
///
/// # Errors
/// [`Code::BooksWrong`] where it does not.
pub async fn look(session: &Session, output: &Output) -> Result<(), Failure> {
    match checkpoint::look(session, &session.network()?, &remembered()).await {
        Ok(_) => Ok(()),
        Err(problem) if problem.code == Code::BooksWrong => Err(alarmed(problem)),
        Err(problem) => {
            output.warn(&format!("the last checkpoint could not be compared: {}", problem.detail));
            Ok(())
        }
    }
}

/// Replays the whole ledger with the auditor's eyes: nothing of the network's own answers is believed.
///
/// # Errors
/// Where the context holds no auditor's credentials, or the ledger cannot be read.
pub async fn verify(context: &Context) -> Result<VerifyReport, Failure> {
    let auditor = context.auditor.as_ref().ok_or_else(|| {
        Failure::new(Code::Forbidden, format!("context {} holds no auditor's credentials, which may read the ledger", context.name))
    })?;
    let document = network(context)?;
    let memory = remembered();
    let before = memory.load(&document.network)?;
    let bus = connect(context, Login::Creds(auditor.creds.clone()), &auditor.inbox_prefix, Duration::from_secs(3)).await?;
    let bus = bus.with_api_prefix(&auditor.js_prefix);
    let books = Books::new(document.network, document.ledger_keys.iter().copied().collect());
    let (books, report) = replay(&bus, books, before.as_ref()).await?;
    if let Some(state) = books.checkpoint().filter(|_| report.ok) {
        memory.save(&Seen::of(document.network, state))?;
    }
    Ok(report)
}

async fn replay(bus: &Bus, mut books: Books, before: Option<&Seen>) -> Result<(Books, VerifyReport), Failure> {
    let unreadable = |error: bus::direct::ReadError| Failure::new(Code::Unavailable, error.to_string());
    let end = bus.stream_end(LEDGER).await.map_err(unreadable)?;
    let mut verifier = Verifier::default();
    let (mut wrong, mut alarms) = (Vec::new(), Vec::new());
    // Since the last checkpoint that fits.
    let (mut fits, mut foreign) = (None, Vec::new());
    'reading: while books.seq() < end.last_seq {
        let next = books.seq() + 1;
        let messages = bus.from_seq(LEDGER, next, 256).await.map_err(unreadable)?;
        if messages.is_empty() {
            wrong.push(format!("sequence {next} is missing"));
            break;
        }
        for message in messages {
            let expected = books.seq() + 1;
            if message.seq != expected {
                wrong.push(format!("sequence {expected} is missing"));
                break 'reading;
            }
            match books.apply_message(&mut verifier, message.seq, &message.payload) {
                Ok(Applied::Facts(_)) => {
                    if let Some(state) = books.checkpoint().filter(|state| Some(state.seq) != fits) {
                        fits = Some(state.seq);
                        foreign.clear();
                    }
                }
                // Whether it once counted, the next checkpoint tells.
                Ok(Applied::Foreign(why)) => {
                    alarms.push(format!("sequence {} counts for nothing: {why}", message.seq));
                    foreign.push((message.seq, why));
                }
                Err(error) => {
                    wrong.extend(suspects(&foreign));
                    let first = fits.map_or(1, |seq| seq + 1);
                    wrong.push(format!("sequence {}: {error}; a message from {first} on was altered, left out or moved", message.seq));
                    break 'reading;
                }
            }
            if let Some(before) = before.filter(|before| before.seq == books.seq()) {
                wrong.extend(against(&books, before));
            }
        }
    }
    if let Some(before) = before.filter(|before| before.seq > books.seq() && wrong.is_empty()) {
        wrong.push(format!(
            "sequence {}: LEDGER ends before it, but this machine has seen a checkpoint of {}",
            books.seq() + 1,
            before.seq
        ));
    }
    let report = VerifyReport::of(&books, wrong, alarms, None);
    Ok((books, report))
}

/// Where the books do not fit, messages that nobody signed are to be looked at first.
fn suspects(foreign: &[(u64, String)]) -> impl Iterator<Item = String> + '_ {
    foreign
        .iter()
        .map(|(seq, why)| format!("sequence {seq}: no valid batch of a ledger key ({why}), and what follows does not fit without it"))
}

/// What is wrong where the books stand at the remembered checkpoint.
fn against(books: &Books, before: &Seen) -> Option<String> {
    let same = books.state().is_some_and(|state| state.root == before.root && state.chain == before.chain);
    let text =
        || format!("sequence {} or one before it was rewritten: this machine has seen a checkpoint of it with another root", before.seq);
    (!same).then(text)
}

#[cfg(test)]
mod tests {
    use super::*;
    use bus_schemas::ledger::Hash32;

    #[test]
    fn a_replay_is_held_against_what_was_seen() {
        let net = bus_schemas::Signer::from_seed(&[1; 32]).public().network_id();
        let mut books = Books::new(net, std::collections::BTreeSet::new());
        for (seq, payload) in [(1, "a"), (2, "b"), (3, "c")] {
            books.link(seq, payload.as_bytes());
        }
        let seen = Seen::of(net, &books.state().unwrap());
        assert_eq!(against(&books, &seen), None);
        for other in [Seen { root: Hash32([1; 32]), ..seen }, Seen { chain: Hash32([1; 32]), ..seen }] {
            assert!(against(&books, &other).unwrap().starts_with("sequence 3 "), "it names the sequence");
        }
    }
}
