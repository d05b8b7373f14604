//! A seeded load for a ledger: members, holds, settlements, voids, transfers. All of it can be done, so what it leaves behind does
//! not depend on how the lanes interleave or on what dies meanwhile.

#![allow(dead_code)] // Each test file uses its part of it.

use bus_schemas::assignment::Assignment;
use bus_schemas::ledger::{Command, FlagWhy, LedgerRequest, Op, Policy, VoidReason};
use bus_schemas::receipt::{Outcome, Receipt, ResultRef};
use bus_schemas::{AttemptId, Cid, JobId, MilliMana, ReceiptId, Signer};
use testkit::Dice;

use super::support::{device, gateway, job, member, net, scheduler, signer};

/// Members of the load, each with a device of the same number.
pub const PEOPLE: u8 = 4;

pub fn operator() -> Signer {
    signer(1)
}

pub fn request(by: &Signer, at: u64, ops: Vec<Op>) -> LedgerRequest {
    let commands: Vec<Command> = ops.into_iter().map(|op| Command { net: net(), at, op }).collect();
    LedgerRequest { commands: by.batch(&commands), assignments: vec![], receipts: vec![] }
}

/// Opens everybody.
pub fn people(at: u64) -> LedgerRequest {
    let ops = (0..PEOPLE).flat_map(|n| {
        let (member, device) = (member(n).public(), device(n).public());
        [
            Op::Open { member: member.member_id(), did: member },
            Op::BindDevice { device: device.device_id(), did: device, member: member.member_id() },
            Op::AttestTier { device: device.device_id(), tier: n % 5 },
        ]
    });
    request(&gateway(), at, ops.collect())
}

/// Rules with a fee. No discount: what the payer's name is worth depends on the order in which the lanes are served.
pub fn rules(at: u64) -> LedgerRequest {
    let rules = Policy { version: 2, fee_bp: 500, ..Policy::first(MilliMana::mana(1_000_000)) };
    request(&operator(), at, vec![Op::SetPolicy { rules }])
}

/// One job to settle: who pays, and whose device worked.
#[derive(Debug, Clone, Copy)]
pub struct Done {
    pub job: u64,
    pub payer: u8,
    pub device: u8,
}

/// Settles jobs as a scheduler does; all of one device, so that its receipts are under one signature.
pub fn settle(at: u64, device_n: u8, jobs: &[Done]) -> LedgerRequest {
    let by = device(device_n);
    let assignments: Vec<Assignment> = jobs
        .iter()
        .map(|done| Assignment {
            net: net(),
            job: job(done.job),
            attempt: 1,
            device: by.public().device_id(),
            member: member(done.payer).public().member_id(),
            assigned_at: at - 2_000,
            exp: at,
            price_mmana: MilliMana::mana(5),
            tier: 4,
            timeout_ms: 60_000,
            payload: Cid::of(b"payload"),
            resume: None,
        })
        .collect();
    let assigned = scheduler().batch(&assignments);
    let attempts: Vec<AttemptId> = assigned.b.iter().map(|body| AttemptId(Cid::of(body))).collect();
    let receipts: Vec<Receipt> = jobs
        .iter()
        .zip(&attempts)
        .map(|(done, attempt)| Receipt {
            net: net(),
            device: by.public().device_id(),
            job: job(done.job),
            attempt: *attempt,
            at,
            outcome: Outcome::Completed(ResultRef { cid: Cid::of(b"result"), bytes: 6 }),
            claimed_ms: 100 + done.job % 900,
            waited_ms: 0,
        })
        .collect();
    let received = by.batch(&receipts);
    let ops = jobs.iter().zip(attempts).zip(&received.b).map(|((done, attempt), receipt)| Op::Settle {
        job: job(done.job),
        attempt,
        receipt: ReceiptId(Cid::of(receipt)),
        receipt_at: at,
        receipt_seq: 1,
        started_at: None,
        ended: vec![],
    });
    let mut request = request(&scheduler(), at, ops.collect());
    request.assignments.push(assigned.encode().into());
    request.receipts.push(received.encode().into());
    request
}

pub fn hold(at: u64, payer: u8, n: u64, mana: u32) -> Op {
    let member = member(payer).public().member_id();
    Op::Hold { job: job(n), member, key: format!("key {n}"), amount_mmana: Some(MilliMana::mana(mana)), expires: at + 24 * 3_600_000 }
}

/// One asker: a sequence of requests, each made when the one before was answered.
pub struct Lane {
    n: u64,
    at: u64,
    dice: Dice,
    made: u64,
    next_job: u64,
    open: Vec<Done>,
    settled: Vec<JobId>,
    before: Option<LedgerRequest>,
}
impl Lane {
    /// `at`: the date of all its commands.
    pub fn new(seed: u64, n: u64, at: u64) -> Self {
        let dice = Dice::new(seed ^ (n << 32));
        Self { n, at, dice, made: 0, next_job: n * 1_000_000_000, open: vec![], settled: vec![], before: None }
    }

    pub fn next(&mut self) -> LedgerRequest {
        self.made += 1;
        let request = match self.dice.below(16) {
            0 if self.before.is_some() => self.before.clone().unwrap_or_else(|| people(self.at)),
            1 | 2 => self.transfers(),
            3..=5 if !self.open.is_empty() => self.voids(),
            6..=10 if !self.open.is_empty() => self.settles(),
            11 if !self.settled.is_empty() => self.flags(),
            _ => self.holds(),
        };
        self.before = Some(request.clone());
        request
    }

    fn holds(&mut self) -> LedgerRequest {
        let ops = (0..=self.dice.below(8))
            .map(|_| {
                self.next_job += 1;
                let (payer, device) = (self.dice.below(PEOPLE.into()), self.dice.below(PEOPLE.into()));
                let done = Done { job: self.next_job, payer: payer as u8, device: device as u8 };
                self.open.push(done);
                hold(self.at, done.payer, done.job, 10)
            })
            .collect();
        request(&gateway(), self.at, ops)
    }
    fn voids(&mut self) -> LedgerRequest {
        let n = self.dice.below(self.open.len() as u64) as usize;
        let done = self.open.swap_remove(n);
        request(&scheduler(), self.at, vec![Op::Void { job: job(done.job), reason: VoidReason::Failed, ended: vec![] }])
    }
    fn settles(&mut self) -> LedgerRequest {
        let n = self.dice.below(self.open.len() as u64) as usize;
        let device = self.open[n].device;
        let (mine, others) = self.open.drain(..).partition(|done| done.device == device);
        self.open = others;
        self.settled.extend(mine.iter().map(|done: &Done| job(done.job)));
        settle(self.at, device, &mine)
    }
    /// A flag with nothing to take back but a name: whether pay is still there depends on the others.
    fn flags(&mut self) -> LedgerRequest {
        let n = self.dice.below(self.settled.len() as u64) as usize;
        let job = self.settled.swap_remove(n);
        request(&operator(), self.at, vec![Op::Flag { job, why: FlagWhy::Anomaly, note: "odd".into() }])
    }
    fn transfers(&mut self) -> LedgerRequest {
        let from = self.dice.below(PEOPLE.into());
        let to = (from + 1 + self.dice.below(u64::from(PEOPLE) - 1)) % u64::from(PEOPLE);
        let id = |n: u64| member(n as u8).public().member_id();
        let key = format!("lane {} {}", self.n, self.made);
        let amount_mmana = MilliMana::mana(1 + self.dice.below(3) as u32);
        request(&gateway(), self.at, vec![Op::Transfer { from: id(from), to: id(to), amount_mmana, key, note: String::new() }])
    }
}
