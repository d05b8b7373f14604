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

use super::told::{self, Gateway, Told};
use crate::checkpoint::{self, Ask, Memory, Seen};
use crate::cli::client::{Session, connect, network};
use crate::cli::context::Context;
use crate::cli::failure::Failure;
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
    let folder = remembered().folder().display().to_string();
    let kept = if failure.code() == Code::BooksWrong {
        format!("keep {folder} as evidence, and compare with other members")
    } else if failure.code() == Code::BadFile {
        // Whoever shows other books than before would like this file to be unreadable.
        format!("ask other members whether the books are those that they know, keep a copy of {folder}, then remove the file")
    } else {
        return failure;
    };
    failure.next("mesh credit verify").next(kept)
}

/// Looks whether the newest checkpoint extends the remembered one. Without an answer nothing is told: a gateway that shows other books
/// than before could simply not answer this.
///
/// # Errors
/// [`Code::BooksWrong`] where it does not; why it cannot be seen otherwise.
pub async fn look(session: &Session) -> Result<(), Failure> {
    let looked = checkpoint::look(session, &session.network()?, &remembered()).await;
    looked.map(|_| ()).map_err(|problem| {
        if matches!(problem.code, Code::BooksWrong | Code::BadFile) {
            return alarmed(problem);
        }
        Failure::from(Problem::new(problem.code, format!("the last checkpoint could not be compared: {}", problem.detail)))
    })
}

/// What a replay came to, and whether the gateway tells the same.
#[derive(Debug, Serialize)]
pub struct Verified {
    #[serde(flatten)]
    pub report: VerifyReport,
    pub gateway: Gateway,
}
impl Verified {
    pub fn text(&self) -> String {
        self.report.text() + &self.gateway.text()
    }
}

/// Replays the whole ledger with the auditor's eyes: nothing of the network's own answers is believed. What the gateway tells of
/// one's own accounts is held against it.
///
/// # Errors
/// Where the context holds no auditor's credentials, or the ledger cannot be read.
pub async fn verify(context: &Context) -> Result<Verified, Failure> {
    let auditor = context.auditor.as_ref().ok_or_else(|| {
        Failure::new(Code::Forbidden, format!("context {} holds no auditor's credentials, which may read the ledger", context.name))
    })?;
    let document = network(context)?;
    let memory = remembered();
    // What was kept and cannot be read is no reason to look at nothing; the verdict cannot be good then.
    let (before, unusable) = match memory.load(&document.network) {
        Ok(before) => (before, None),
        Err(problem) => (None, Some(problem)),
    };
    let bus = connect(context, Login::Creds(auditor.creds.clone()), &auditor.inbox_prefix, Duration::from_secs(3)).await?;
    let bus = bus.with_api_prefix(&auditor.js_prefix);
    // Asked before LEDGER's end is looked up: so the replay comes by the sequence that the answer is of, whatever flows meanwhile.
    let told = told::ask(context).await;
    let mut replay = Replay::new(Books::new(document.network, document.ledger_keys.iter().copied().collect()));
    replay.told = told.as_ref().ok().copied();
    read(&bus, &mut replay, before.as_ref()).await?;
    let (books, mut report, differs) = replay.end(before.as_ref());
    if let Some(problem) = unusable.filter(|_| report.ok) {
        return Err(alarmed(problem).tried(format!("LEDGER itself adds up: {} facts, digest {}", report.facts, report.digest)));
    }
    // The checkpoint is the stream's; a gateway that tells otherwise does not change it.
    if let Some(state) = books.checkpoint().filter(|_| report.ok) {
        memory.save(&Seen::of(document.network, state))?;
    }
    let gateway = match (told, differs) {
        (Err(failure), _) => Gateway::NotCompared { why: failure.body().detail },
        (Ok(told), None) => Gateway::NotCompared { why: format!("the replay did not come to sequence {}, of which it is", told.seq) },
        (Ok(told), Some(differs)) if differs.is_empty() => Gateway::Same { member: context.member.id, seq: told.seq },
        (Ok(told), Some(differs)) => {
            report.ok = false;
            report.wrong.extend(differs);
            Gateway::Differs { member: context.member.id, seq: told.seq }
        }
    };
    Ok(Verified { report, gateway })
}

async fn read(bus: &Bus, replay: &mut Replay, before: Option<&Seen>) -> Result<(), Failure> {
    let unreadable = |error: bus::direct::ReadError| Failure::new(Code::Unavailable, error.to_string());
    let end = bus.stream_end(LEDGER).await.map_err(unreadable)?;
    while replay.books.seq() < end.last_seq {
        let next = replay.books.seq() + 1;
        let messages = bus.from_seq_sure(LEDGER, next, 256).await.map_err(unreadable)?;
        if messages.is_empty() {
            replay.wrong.push(format!("sequence {next} is missing"));
            return Ok(());
        }
        for message in messages {
            if !replay.take(message.seq, &message.payload, before) {
                return Ok(());
            }
        }
    }
    Ok(())
}

/// A replay of stored messages, and what it found on its way.
struct Replay {
    books: Books,
    verifier: Verifier,
    wrong: Vec<String>,
    alarms: Vec<String>,
    /// The last sequence under a checkpoint that fits, and the messages after it that count for nothing.
    fits: Option<u64>,
    foreign: Vec<(u64, String)>,
    /// What the gateway told, and what of it is otherwise in the books at the same sequence, once they have come by it.
    told: Option<Told>,
    differs: Option<Vec<String>>,
}
impl Replay {
    fn new(books: Books) -> Self {
        let verifier = Verifier::default();
        Self { books, verifier, wrong: vec![], alarms: vec![], fits: None, foreign: vec![], told: None, differs: None }
    }

    /// Takes the next message; `false` where the books cannot go on.
    fn take(&mut self, seq: u64, payload: &[u8], before: Option<&Seen>) -> bool {
        let expected = self.books.seq() + 1;
        if seq != expected {
            self.wrong.push(format!("sequence {expected} is missing"));
            return false;
        }
        match self.books.apply_message(&mut self.verifier, seq, payload) {
            Ok(Applied::Facts(_)) => {
                if let Some(state) = self.books.checkpoint().filter(|state| Some(state.seq) != self.fits) {
                    self.fits = Some(state.seq);
                    self.foreign.clear();
                }
            }
            // Whether it once counted, the next checkpoint tells.
            Ok(Applied::Foreign(why)) => {
                self.alarms.push(format!("sequence {seq} counts for nothing: {why}"));
                self.foreign.push((seq, why));
            }
            Err(error) => {
                self.wrong.extend(suspects(&self.foreign));
                let first = self.fits.map_or(1, |seq| seq + 1);
                self.wrong.push(format!("sequence {seq}: {error}; a message from {first} on was altered, left out or moved"));
                return false;
            }
        }
        if let Some(before) = before.filter(|before| before.seq == seq) {
            self.wrong.extend(against(&self.books, before));
        }
        if let Some(told) = self.told.filter(|told| told.seq == seq) {
            self.differs = Some(told.against(&self.books));
        }
        true
    }

    /// The books, the report of them alone, and what the gateway told otherwise, where it could be compared.
    fn end(mut self, before: Option<&Seen>) -> (Books, VerifyReport, Option<Vec<String>>) {
        let ends = self.books.seq();
        if let Some(before) = before.filter(|before| before.seq > ends && self.wrong.is_empty()) {
            let text = format!("sequence {}: LEDGER ends before it, but this machine has seen a checkpoint of {}", ends + 1, before.seq);
            self.wrong.push(text);
        }
        if let Some(told) = self.told.filter(|told| told.seq > ends && self.wrong.is_empty()) {
            self.wrong.push(format!(
                "sequence {}: LEDGER ends before it, but the gateway tells a balance of sequence {}",
                ends + 1,
                told.seq
            ));
        }
        let report = VerifyReport::of(&self.books, self.wrong, self.alarms, None);
        (self.books, report, self.differs)
    }
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
    use bus_schemas::ledger::{Account, CheckpointState, Fact, Hash32, Leg, Policy, What, fact_id};
    use bus_schemas::{MilliMana, Signer};

    const LEDGER_KEY: u8 = 4;

    fn signer(seed: u8) -> Signer {
        Signer::from_seed(&[seed; 32])
    }
    fn empty() -> Books {
        Books::new(signer(1).public().network_id(), [signer(LEDGER_KEY).public()].into())
    }
    fn stored(fact: &Fact) -> Vec<u8> {
        signer(LEDGER_KEY).json_batch::<Fact>(vec![serde_json::to_string(fact).unwrap()]).encode()
    }
    fn fact(books: &Books, id: bus_schemas::FactId, legs: Vec<Leg>, what: What) -> Fact {
        Fact { net: books.net, id, at_ms: 1, policy: 1, legs, evidence: vec![], what }
    }
    /// A grant to the only member; `n` tells them apart.
    fn grant(books: &Books, n: u32, mana: u32) -> Fact {
        let member = signer(5).public().member_id();
        let leg = Leg { from: Account::Mint, to: Account::Available(member), amount_mmana: MilliMana::mana(mana) };
        fact(books, fact_id::mint(&member, &n.to_string()), vec![leg], What::Mint { member, reason: String::new() })
    }
    fn checkpoint(books: &Books, state: CheckpointState) -> Fact {
        fact(books, fact_id::checkpoint(state.seq), vec![], What::Checkpoint(state))
    }
    /// 1 genesis, 2 a member, 3 a grant, 4 a checkpoint, 5 and 6 grants, 7 a checkpoint.
    fn sound() -> Vec<Vec<u8>> {
        let (mut books, mut all) = (empty(), vec![]);
        let (net, key, member) = (books.net, signer(1).public(), signer(5).public());
        for n in 1..=7 {
            let next = match n {
                1 => {
                    let rules = Policy::first(MilliMana::ZERO);
                    fact(&books, fact_id::genesis(&net), vec![], What::Genesis { network: net, network_key: key, rules })
                }
                2 => {
                    let what = What::Open { member: member.member_id(), did: member };
                    fact(&books, fact_id::open(&member.member_id()), vec![], what)
                }
                4 | 7 => checkpoint(&books, books.state().unwrap()),
                n => grant(&books, n, 10),
            };
            all.push(stored(&next));
            books.apply_message(&mut Verifier::default(), u64::from(n), &all[all.len() - 1]).unwrap();
        }
        all
    }
    fn replayed(messages: &[Vec<u8>]) -> VerifyReport {
        let mut replay = Replay::new(empty());
        let all = messages.iter().zip(1..).all(|(payload, seq)| replay.take(seq, payload, None));
        let (_, report, _) = replay.end(None);
        assert_eq!(all, report.ok);
        report
    }

    #[test]
    fn a_checkpoint_that_does_not_fit_is_named() {
        let good = sound();
        assert_eq!(replayed(&good).wrong, [""; 0]);
        let state = |change: fn(&mut CheckpointState)| {
            move |all: &mut Vec<Vec<u8>>| {
                let mut books = empty();
                for (payload, seq) in all[..6].iter().zip(1..) {
                    books.apply_message(&mut Verifier::default(), seq, payload).unwrap();
                }
                let mut state = books.state().unwrap();
                change(&mut state);
                all[6] = stored(&checkpoint(&books, state));
            }
        };
        type Change = Box<dyn Fn(&mut Vec<Vec<u8>>)>;
        let cases: Vec<(&str, Change, &[&str])> = vec![
            (
                "signed again",
                Box::new(|all| all[4] = stored(&grant(&empty(), 5, 11))),
                &["sequence 7: the checkpoint of sequence 6 is wrong: its chain is another; a message from 4 on was altered"],
            ),
            (
                "signed again before the first",
                Box::new(|all| all[2] = stored(&grant(&empty(), 3, 11))),
                &["sequence 4: the checkpoint of sequence 3 is wrong: its chain is another; a message from 1 on was altered"],
            ),
            ("swapped", Box::new(|all| all.swap(4, 5)), &["sequence 7: the checkpoint of sequence 6 is wrong: its chain is another"]),
            (
                "left out",
                Box::new(|all| drop(all.remove(4))),
                &["sequence 6: the checkpoint of sequence 6 is wrong: it is not about the message before it"],
            ),
            (
                "a byte, so that nobody signed it",
                Box::new(|all| all[4][60] ^= 1),
                &["sequence 5: no valid batch of a ledger key", "sequence 7: the checkpoint of sequence 6 is wrong: its chain is another"],
            ),
            (
                "another place",
                Box::new(state(|state| state.seq = 5)),
                &["sequence 7: the checkpoint of sequence 5 is wrong: it is not about the message before it"],
            ),
            (
                "another chain",
                Box::new(state(|state| state.chain = Hash32([9; 32]))),
                &["sequence 7: the checkpoint of sequence 6 is wrong: its chain is another"],
            ),
            (
                "another root",
                Box::new(state(|state| state.root = Hash32([9; 32]))),
                &["sequence 7: the checkpoint of sequence 6 is wrong: its Merkle root is another"],
            ),
            (
                "other balances",
                Box::new(state(|state| state.state = Hash32([9; 32]))),
                &["sequence 7: the checkpoint of sequence 6 is wrong: its digest of balances and holds is another"],
            ),
        ];
        for (what, change, expected) in cases {
            let mut changed = good.clone();
            change(&mut changed);
            let report = replayed(&changed);
            assert_eq!(report.wrong.len(), expected.len(), "{what}: {:#?}", report.wrong);
            for (line, expected) in report.wrong.iter().zip(expected) {
                assert!(line.starts_with(expected), "{what}: {line}");
            }
        }
    }

    #[test]
    fn what_the_gateway_told_is_compared_at_its_own_sequence() {
        let member = signer(5).public().member_id();
        // 10 mana after sequence 4, 20 after 5, 30 after 6.
        let cases = [
            (3, 10_000, Some(0), 0),
            (4, 10_000, Some(0), 0),
            (5, 20_000, Some(0), 0),
            (5, 30_000, Some(1), 0),
            (7, 30_000, Some(0), 0),
            (7, 29_999, Some(1), 0),
            (8, 30_000, None, 1),
        ];
        for (seq, available, differs, wrong) in cases {
            let mut replay = Replay::new(empty());
            replay.told = Some(Told { seq, balances: [(Account::Available(member), available); 3] });
            assert!(sound().iter().zip(1..).all(|(payload, seq)| replay.take(seq, payload, None)));
            let (_, report, found) = replay.end(None);
            assert_eq!((found.map(|found| found.len().min(1)), report.wrong.len()), (differs, wrong), "{available} at {seq}");
        }
    }

    #[test]
    fn a_replay_is_held_against_what_was_seen() {
        let (net, mut books) = (signer(1).public().network_id(), empty());
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
