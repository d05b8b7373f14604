//! Histories of ledger commands, with the invariants of the books as oracle.
//!
//! The bytes are read as steps: somebody asks for something, time passes, the writer sweeps. All commands of a history are
//! signed at once, one signature per asker, so that what is measured is the deciding. Beside the books runs a second fold of the
//! legs, in code of its own; at the end what was stored is replayed into empty books.

mod steps;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::LazyLock;

use bus_schemas::ledger::{Account, Command, Fact, HoldState, HoldView, Op, Policy, What, fact_id};
use bus_schemas::replay::{Applied, Books, LedgerKeys};
use bus_schemas::{FactId, JobId, MemberId, MilliMana, NetworkId, Signer, UnixMs, Verified, Verifier};
use ledger_worker::posting::{self, Decided, Evidence, Parts, Standing, clock};
use ledger_worker::round;

use crate::bytes::Bytes;
use steps::{History, Step};

/// A signature for so many facts: signing is not what is fuzzed here.
const FACTS_OF_A_MESSAGE: usize = 24;
const NOW: UnixMs = 1_800_000_000_000;

/// Keys are made once, not for each of a million histories.
static KEYS: LazyLock<Vec<Signer>> = LazyLock::new(|| (0..=u8::MAX).map(|seed| Signer::from_seed(&[seed; 32])).collect());
fn signer(seed: u8) -> &'static Signer {
    &KEYS[usize::from(seed)]
}
fn net() -> NetworkId {
    signer(1).public().network_id()
}
const GATEWAY: u8 = 2;
const SCHEDULER: u8 = 3;
const LEDGER: u8 = 4;
const OPERATOR: u8 = 5;
const STRANGER: u8 = 9;

fn parts() -> Parts {
    let key = |seed| vec![signer(seed).public()];
    Parts { gateway: key(GATEWAY), scheduler: key(SCHEDULER), operator: key(OPERATOR) }
}
fn keys() -> LedgerKeys {
    LedgerKeys::from([signer(LEDGER).public()])
}

/// Plays one history.
///
/// # Panics
/// Where an invariant of the books does not hold.
pub fn run(data: &[u8]) {
    let mut bytes = Bytes::new(data);
    let rules = steps::rules(&mut bytes);
    let history = History::read(&mut bytes);
    let mut play = Play::new(rules);
    for step in &history.steps {
        match step {
            Step::Ask(at) => play.ask(&history.commands[*at].0, &history.evidence),
            Step::Wait(ms) => play.now += ms,
            Step::Sweep => play.sweep(),
            Step::Checkpoint => play.checkpoint(),
            Step::Forget => play.standing.forget(play.now.saturating_sub(25 * 3_600_000)),
        }
    }
    play.close();
    play.replay();
}

/// The writer's books, what it stored, and the second fold.
struct Play {
    standing: Standing,
    now: UnixMs,
    /// Sequence and payload, as they are stored.
    messages: Vec<(u64, bytes::Bytes)>,
    waiting: Vec<Fact>,
    fold: Fold,
    archive: Archive,
}

/// What the database knows of what the books may have forgotten.
#[derive(Default)]
struct Archive {
    facts: BTreeMap<FactId, (u64, Fact, Option<HoldView>)>,
}

impl Archive {
    fn take(&mut self, books: &Books, seq: u64, fact: &Fact) {
        let closes = matches!(fact.what, What::Settle { .. } | What::Void { .. });
        let hold = fact.what.job().filter(|_| closes).and_then(|job| books.hold(&job)).cloned();
        self.facts.insert(fact.id, (seq, fact.clone(), hold));
    }
    /// What is looked up before a command is decided.
    fn recall(&self, standing: &mut Standing, op: &Op) {
        for id in posting::depends_on(standing, op) {
            if standing.books().may_be_forgotten(&id)
                && standing.books().fact(&id).is_none()
                && let Some((seq, fact, hold)) = self.facts.get(&id)
            {
                standing.recall(*seq, fact, hold.clone());
            }
        }
    }
}

impl Play {
    fn new(rules: Policy) -> Self {
        let mut standing = Standing::new(net(), keys());
        let what = What::Genesis { network: net(), network_key: signer(1).public(), rules };
        let genesis = Fact { net: net(), id: fact_id::genesis(&net()), at_ms: NOW, policy: 1, legs: vec![], evidence: vec![], what };
        let body = serde_json::to_string(&genesis).expect("a fact is written as JSON");
        let payload = bytes::Bytes::from(signer(LEDGER).json_batch::<Fact>(vec![body]).encode());
        standing.take(&mut Verifier::default(), 1, &payload).expect("a genesis begins the books");
        let messages = vec![(1, payload)];
        Self { standing, now: NOW, messages, waiting: vec![], fold: Fold::default(), archive: Archive::default() }
    }

    fn ask(&mut self, command: &Verified<Command>, evidence: &Evidence) {
        self.archive.recall(&mut self.standing, &command.op);
        let decided = posting::decide(&self.standing, &parts(), self.now, command, evidence);
        let fact = match decided {
            Err(_) => return,
            Ok(Decided::Known { fact, .. }) => fact,
            Ok(Decided::Record(facts)) => {
                let first = facts.first().expect("a record has a fact").id;
                facts.into_iter().for_each(|fact| self.add(fact));
                first
            }
        };
        match posting::decide(&self.standing, &parts(), self.now, command, evidence) {
            Ok(Decided::Known { fact: again, .. }) => assert_eq!(again, fact, "the same command has the same effect once"),
            other => panic!("asked twice, {:?} is {other:?}", command.op),
        }
    }

    /// As the writer does when it has nothing else to do: holds that outlived their jobs, pay that has vested, a new epoch.
    fn sweep(&mut self) {
        for job in self.standing.outlived(posting::fact_time(&self.standing, self.now), 256) {
            let expired = clock::expire(&self.standing, posting::fact_time(&self.standing, self.now), &job);
            expired.into_iter().for_each(|fact| self.add(fact));
        }
        clock::vest(&self.standing, self.now, 256).into_iter().for_each(|fact| self.add(fact));
        while let Some(fact) = clock::epoch(&self.standing, self.now) {
            self.add(fact);
        }
        self.close();
    }

    fn checkpoint(&mut self) {
        self.close();
        if let Some(message) = round::checkpoint(&self.standing, signer(LEDGER), self.now, 1, u64::MAX) {
            let stored = round::take_checkpoint(&mut self.standing, message).expect("a checkpoint of these books");
            stored.facts.iter().for_each(|(fact, _)| self.fold.take(fact));
            self.messages.push((stored.seq, stored.payload));
        }
    }

    /// Decided, and thereby on the books; it is stored with what follows.
    fn add(&mut self, fact: Fact) {
        let seq = self.standing.books().seq() + 1;
        self.standing.apply(seq, &fact).expect("a decision that the books accept");
        self.fold.take(&fact);
        self.archive.take(self.standing.books(), seq, &fact);
        self.waiting.push(fact);
        if self.waiting.len() >= FACTS_OF_A_MESSAGE {
            self.close();
        }
    }

    /// Stores what waits, as one message.
    fn close(&mut self) {
        if !self.waiting.is_empty() {
            let bodies = self.waiting.drain(..).map(|fact| serde_json::to_string(&fact).expect("a fact is written as JSON"));
            let payload = bytes::Bytes::from(signer(LEDGER).json_batch::<Fact>(bodies.collect()).encode());
            let seq = self.standing.books().seq() + 1;
            self.standing.link(seq, &payload);
            self.messages.push((seq, payload));
        }
        assert_eq!(self.standing.books().check_all(), Ok(()));
        self.fold.same(self.standing.books());
    }

    /// What is stored makes the same books again.
    fn replay(&self) {
        let mut books = Books::new(net(), keys());
        let mut verifier = Verifier::default();
        for (seq, payload) in &self.messages {
            let applied = books.apply_message(&mut verifier, *seq, payload).expect("what was stored can be replayed");
            assert!(matches!(applied, Applied::Facts(_)), "what was stored counts: {applied:?}");
        }
        let ours = self.standing.books();
        assert_eq!((books.digest(), books.chain(), books.seq()), (ours.digest(), ours.chain(), ours.seq()), "replay is the state");
        assert_eq!((books.balances(), &books.policy), (ours.balances(), &ours.policy));
    }
}

/// The legs, added up by themselves.
#[derive(Default)]
struct Fold {
    balances: BTreeMap<Account, i128>,
    open: BTreeMap<JobId, (MemberId, i128)>,
    closed: BTreeSet<JobId>,
}

impl Fold {
    fn add(&mut self, account: Account, amount: i128) {
        *self.balances.entry(account).or_default() += amount;
    }
    fn take(&mut self, fact: &Fact) {
        for leg in &fact.legs {
            let amount = i128::from(leg.amount_mmana.get());
            assert!(amount > 0 && leg.from != leg.to, "a leg moves something: {fact:?}");
            self.add(leg.from, -amount);
            self.add(leg.to, amount);
        }
        if let What::Hold { job, member, amount_mmana, expires, .. } = &fact.what {
            assert!(fact.at_ms <= *expires, "no hold is made after its end");
            assert!(!self.closed.contains(job), "a job is held once");
            let held = self.open.insert(*job, (*member, i128::from(amount_mmana.get())));
            assert!(held.is_none(), "a job is held once");
        }
        if let What::Settle { job, paid_mmana, fee_mmana, attempt, receipt, .. } = &fact.what {
            let (_, held) = self.close(*job);
            assert!(i128::from(paid_mmana.get()) + i128::from(fee_mmana.get()) <= held, "pay and fee within the hold");
            assert!(fact.evidence.contains(&attempt.0) && fact.evidence.contains(&receipt.0), "a settlement cites its evidence");
        }
        if let What::Void { job, .. } = &fact.what {
            self.close(*job);
        }
    }
    fn close(&mut self, job: JobId) -> (MemberId, i128) {
        assert!(self.closed.insert(job), "a job is settled or voided once");
        self.open.remove(&job).expect("what is closed was open")
    }
    fn same(&self, books: &Books) {
        assert_eq!(self.balances.values().sum::<i128>(), 0, "all balances sum to zero");
        for (account, balance) in &self.balances {
            assert!(*balance >= 0 || *account == Account::Mint, "only mint is below zero, not {account}: {balance}");
            assert_eq!(i128::from(books.balance_of(account)), *balance, "{account} is the fold of its legs");
        }
        let open: BTreeMap<JobId, (MemberId, i128)> =
            books.open_holds().map(|hold| (hold.job, (hold.member, i128::from(hold.amount_mmana.get())))).collect();
        assert_eq!(self.open, open, "the same holds are open");
        for member in books.members() {
            let own = self.open.values().filter(|(payer, _)| payer == member).map(|(_, amount)| amount).sum::<i128>();
            assert_eq!(i128::from(books.balance_of(&Account::Held(*member))), own, "escrow is the sum of open holds");
        }
        let closed = books.holds().filter(|hold| hold.state != HoldState::Open).all(|hold| self.closed.contains(&hold.job));
        assert!(closed, "a hold closes by a fact");
    }
}

fn amount(number: u64) -> MilliMana {
    i64::try_from(number).ok().and_then(MilliMana::new).unwrap_or(MilliMana::ZERO)
}

fn asker_of(op: &Op) -> u8 {
    match op {
        Op::Settle { .. } | Op::Void { .. } => SCHEDULER,
        Op::Open { .. } | Op::BindDevice { .. } | Op::Hold { .. } | Op::Transfer { .. } | Op::AttestTier { .. } | Op::Look { .. } => {
            GATEWAY
        }
        Op::RevokeDevice { .. }
        | Op::SuspendMember { .. }
        | Op::RestoreMember { .. }
        | Op::Mint { .. }
        | Op::Fee { .. }
        | Op::Flag { .. }
        | Op::ReviewRelease { .. }
        | Op::ReviewSeize { .. }
        | Op::SetPolicy { .. }
        | Op::Correct { .. } => OPERATOR,
    }
}
