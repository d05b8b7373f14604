//! Books with people, and the words to ask them.

use std::sync::OnceLock;

pub use bus_schemas::ledger::{CheckpointState, Done, FlagWhy, HoldState, LedgerOutcome, Policy};
pub use bus_schemas::receipt::{Failure, FailureClass, Outcome, ResultRef};
pub use bus_schemas::replay::{Books, LedgerKeys};
pub use bus_schemas::{AttemptId, NetworkId, ReceiptId, Signer, Verifier};

pub use super::super::*;
pub use crate::round::{Message, Round};

pub const NOW: UnixMs = 1_800_000_000_000;
pub const MANA: i64 = 1000;

/// Keys are made once: a property asks for them a thousand times.
pub fn signer(seed: u8) -> &'static Signer {
    static SIGNERS: OnceLock<Vec<Signer>> = OnceLock::new();
    &SIGNERS.get_or_init(|| (0..=u8::MAX).map(|seed| Signer::from_seed(&[seed; 32])).collect())[usize::from(seed)]
}
pub fn member(n: u8) -> &'static Signer {
    signer(100 + n)
}
pub fn device(n: u8) -> &'static Signer {
    signer(150 + n)
}
pub fn job(n: u8) -> JobId {
    JobId(Cid::of(&[n]))
}
pub fn member_id(n: u8) -> MemberId {
    member(n).public().member_id()
}
pub fn device_id(n: u8) -> DeviceId {
    device(n).public().device_id()
}
pub fn mmana(amount: i64) -> MilliMana {
    MilliMana::new(amount).unwrap()
}
pub fn net() -> NetworkId {
    signer(1).public().network_id()
}

/// Books with a genesis, and the keys of everybody who speaks.
pub struct World {
    pub standing: Standing,
    pub now: UnixMs,
    pub messages: Vec<Message>,
}
pub const GATEWAY: u8 = 2;
pub const OPERATOR: u8 = 77;
pub const SCHEDULER: u8 = 3;
pub const LEDGER: u8 = 4;
pub const STRANGER: u8 = 9;

pub fn parts() -> Parts {
    Parts {
        gateway: vec![signer(GATEWAY).public()],
        scheduler: vec![signer(SCHEDULER).public()],
        operator: vec![signer(OPERATOR).public()],
    }
}
pub fn keys() -> LedgerKeys {
    LedgerKeys::from([signer(LEDGER).public()])
}

impl World {
    pub fn new(rules: Policy) -> Self {
        let mut standing = Standing::new(net(), keys());
        let what = What::Genesis { network: net(), network_key: signer(1).public(), rules };
        let genesis = fact(&standing, NOW, fact_id::genesis(&net()), vec![], vec![], what);
        let body = serde_json::to_string(&genesis).unwrap();
        let payload = bytes::Bytes::from(signer(LEDGER).json_batch::<Fact>(vec![body.clone()]).encode());
        standing.take(&mut Verifier::default(), 1, &payload).unwrap();
        let chain = *standing.books().chain();
        Self { standing, now: NOW, messages: vec![Message { seq: 1, payload, chain, facts: vec![(genesis, body)] }] }
    }
    /// Two members with 100 mana each and a device of tier 1 for each.
    pub fn peopled(rules: Policy) -> Self {
        let mut world = Self::new(Policy { grant_mmana: mmana(100 * MANA), ..rules });
        for n in 0..2 {
            let (member, device) = (member(n).public(), device(n).public());
            world.ok(Op::Open { member: member.member_id(), did: member });
            world.ok(Op::BindDevice { device: device.device_id(), did: device, member: member.member_id() });
            world.ok(Op::AttestTier { device: device.device_id(), tier: 1 });
        }
        world
    }
    pub fn ask_as(&mut self, by: u8, op: Op, evidence: &Evidence) -> LedgerOutcome {
        let command = Command { net: net(), at: self.now, op };
        self.ask_all(by, &[command], evidence).remove(0)
    }
    pub fn ask_all(&mut self, by: u8, commands: &[Command], evidence: &Evidence) -> Vec<LedgerOutcome> {
        let commands = signer(by).batch(commands).verify::<Command>(&mut Verifier::default()).unwrap();
        let mut round = Round::new(&mut self.standing, signer(LEDGER));
        let outcomes = round.answer(&parts(), self.now, &commands, evidence).expect("a decision that the books accept");
        self.messages.extend(round.finish());
        outcomes
    }
    /// Asked by whoever may ask it.
    pub fn ask(&mut self, op: Op) -> LedgerOutcome {
        let by = match &op {
            Op::Settle { .. } => SCHEDULER,
            Op::Void { reason: VoidReason::Failed | VoidReason::NotPlaced, .. } => SCHEDULER,
            Op::Mint { .. }
            | Op::Fee { .. }
            | Op::Flag { .. }
            | Op::ReviewRelease { .. }
            | Op::ReviewSeize { .. }
            | Op::SetPolicy { .. }
            | Op::Correct { .. } => OPERATOR,
            _ => GATEWAY,
        };
        self.ask_as(by, op, &Evidence::default())
    }
    pub fn ok(&mut self, op: Op) -> Done {
        match self.ask(op.clone()) {
            LedgerOutcome::Done(done) => done,
            LedgerOutcome::Refused { detail, .. } => panic!("{op:?}: {detail}"),
        }
    }
    pub fn hold(&mut self, n: u8, amount: i64) -> Done {
        self.ok(hold(n, 0, &format!("k{n}"), Some(amount)))
    }
    /// Holds, and settles with this work.
    pub fn earn(&mut self, held: i64, work: &Work) -> LedgerOutcome {
        self.ok(hold_by(work.job, work.payer, held, self.now));
        let (op, evidence) = work.claim();
        self.ask_as(SCHEDULER, op, &evidence)
    }
    /// What time alone brings, as the writer's sweep does it; how many holds were voided.
    pub fn sweep(&mut self) -> usize {
        let mut round = Round::new(&mut self.standing, signer(LEDGER));
        let voided = round.expire(self.now, 256).unwrap();
        round.ripen(self.now, 256).unwrap();
        self.messages.extend(round.finish());
        voided
    }
    pub fn later(&mut self, ms: u64) -> &mut Self {
        self.now += ms;
        self
    }
    pub fn books(&self) -> &Books {
        self.standing.books()
    }
    pub fn balance(&self, account: Account) -> i64 {
        self.books().balance_of(&account)
    }
    /// The facts of the last message.
    pub fn last(&self) -> Vec<&What> {
        self.messages.last().unwrap().facts.iter().map(|(fact, _)| &fact.what).collect()
    }
    /// The same policy with a change, in force from here on.
    pub fn policy(&mut self, change: impl FnOnce(&mut Policy)) {
        let mut rules = self.books().policy.clone();
        rules.version += 1;
        change(&mut rules);
        self.ok(Op::SetPolicy { rules });
    }
    /// Sound, and the same when it is played again.
    pub fn sound(&self) {
        assert_eq!(self.books().check_all(), Ok(()));
        let replayed = self.replayed();
        assert_eq!((replayed.digest(), replayed.chain()), (self.books().digest(), self.books().chain()));
    }
    pub fn balances(&self, n: u8) -> (i64, i64, i64) {
        let balance = self.standing.books().member_balance(&member_id(n)).unwrap();
        (balance.available_mmana, balance.held_mmana, balance.vesting_mmana)
    }
    /// Plays the stored messages into fresh books.
    pub fn replayed(&self) -> Books {
        let mut books = Books::new(net(), keys());
        for message in &self.messages {
            books.apply_message(&mut Verifier::default(), message.seq, &message.payload).unwrap();
        }
        books
    }
}

pub fn hold(n: u8, of: u8, key: &str, amount: Option<i64>) -> Op {
    let member = member(of).public().member_id();
    Op::Hold { job: job(n), member, key: key.into(), amount_mmana: amount.map(mmana), expires: NOW + 3_600_000 }
}

pub fn hold_by(n: u8, of: u8, amount: i64, now: UnixMs) -> Op {
    let key = format!("k{n}");
    Op::Hold { job: job(n), member: member_id(of), key, amount_mmana: Some(mmana(amount)), expires: now + 3_600_000 }
}

/// A claim with its evidence, honest unless changed.
#[derive(Debug, Clone)]
pub struct Work {
    pub job: u8,
    pub payer: u8,
    pub device: u8,
    pub receipt_device: u8,
    pub receipt_job: u8,
    pub receipt_signer: u8,
    pub assigner: u8,
    pub attempt: u32,
    pub price: i64,
    pub tier: u8,
    pub claimed_ms: u64,
    pub timeout_ms: u64,
    pub assigned_at: u64,
    pub started_at: Option<u64>,
    pub receipt_at: u64,
    pub outcome: Outcome,
    pub cited_attempt: Option<AttemptId>,
    pub receipt_seq: u64,
    pub ended: Vec<Ended>,
}

impl Work {
    /// Device 1 (of member 1) did job `n` for member 0 in a second, at 2 milli-mana per millisecond.
    pub fn on(n: u8) -> Self {
        Self {
            job: n,
            payer: 0,
            device: 1,
            receipt_device: 1,
            receipt_job: n,
            receipt_signer: 151,
            assigner: SCHEDULER,
            attempt: 1,
            price: 50 * MANA,
            tier: 1,
            claimed_ms: 1000,
            timeout_ms: 60_000,
            assigned_at: NOW - 5_000,
            started_at: None,
            receipt_at: NOW - 1_000,
            outcome: Outcome::Completed(ResultRef { cid: Cid::of(b"result"), bytes: 6 }),
            cited_attempt: None,
            receipt_seq: 1,
            ended: vec![],
        }
    }
    /// As [`Self::on`], done by a member's own first device, at a later time.
    pub fn at(n: u8, payer: u8, device: u8, now: UnixMs) -> Self {
        let by = Self { payer, device, receipt_device: device, receipt_signer: 150 + device, ..Self::on(n) };
        Self { assigned_at: now - 5_000, receipt_at: now - 1_000, ..by }
    }
    pub fn claim(&self) -> (Op, Evidence) {
        let assignment = Assignment {
            net: net(),
            job: job(self.job),
            attempt: self.attempt,
            device: device(self.device).public().device_id(),
            member: member(self.payer).public().member_id(),
            assigned_at: self.assigned_at,
            exp: self.assigned_at + 60_000,
            price_mmana: mmana(self.price),
            tier: self.tier,
            timeout_ms: self.timeout_ms,
            payload: Cid::of(b"payload"),
            resume: None,
        };
        let mut verifier = Verifier::default();
        let assignment = signer(self.assigner).batch(&[assignment]).verify::<Assignment>(&mut verifier).unwrap().remove(0);
        let attempt = AttemptId(assignment.cid());
        let receipt = Receipt {
            net: net(),
            device: device(self.receipt_device).public().device_id(),
            job: job(self.receipt_job),
            attempt: self.cited_attempt.unwrap_or(attempt),
            at: NOW,
            outcome: self.outcome.clone(),
            claimed_ms: self.claimed_ms,
            waited_ms: 0,
        };
        let receipt = signer(self.receipt_signer).batch(&[receipt]).verify::<Receipt>(&mut verifier).unwrap().remove(0);
        let op = Op::Settle {
            job: job(self.job),
            attempt,
            receipt: ReceiptId(receipt.cid()),
            receipt_at: self.receipt_at,
            receipt_seq: self.receipt_seq,
            started_at: self.started_at,
            ended: self.ended.clone(),
        };
        let evidence = Evidence {
            assignments: BTreeMap::from([(assignment.cid(), assignment)]),
            receipts: BTreeMap::from([(receipt.cid(), receipt)]),
        };
        (op, evidence)
    }
}

pub fn says(outcome: &LedgerOutcome) -> String {
    match outcome {
        LedgerOutcome::Done(done) if done.repeat => "known".into(),
        LedgerOutcome::Done(_) => "done".into(),
        LedgerOutcome::Refused { code, why, .. } => format!("{why:?} {code}"),
    }
}

pub fn rules() -> Policy {
    Policy::first(MilliMana::ZERO)
}
