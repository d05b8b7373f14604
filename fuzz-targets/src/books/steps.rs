//! From bytes to the steps of a history.

use bus_schemas::assignment::Assignment;
use bus_schemas::ledger::{Account, Command, Ended, FlagWhy, Leg, Op, Policy, VoidReason, fact_id};
use bus_schemas::receipt::{Failure, FailureClass, Outcome, Receipt, ResultRef};
use bus_schemas::{AttemptId, Cid, DeviceId, JobId, MemberId, ReceiptId, Verified, Verifier};
use ledger_worker::posting::Evidence;

use super::{GATEWAY, NOW, OPERATOR, SCHEDULER, STRANGER, amount, asker_of, net, signer};
use crate::bytes::Bytes;

/// Steps of one history, at most.
const STEPS_MAX: usize = 64;
const MEMBERS: u8 = 4;
const DEVICES: u8 = 5;
const JOBS: u8 = 12;

pub enum Step {
    /// The command of this place.
    Ask(usize),
    /// Milliseconds.
    Wait(u64),
    Sweep,
    Checkpoint,
    Forget,
}

/// What is played, with everything signed.
pub struct History {
    pub steps: Vec<Step>,
    pub commands: Vec<(Verified<Command>, u8)>,
    pub evidence: Evidence,
}

fn member(n: u8) -> MemberId {
    signer(100 + n).public().member_id()
}
fn device(n: u8) -> DeviceId {
    signer(150 + n).public().device_id()
}
fn job(n: u8) -> JobId {
    JobId(Cid::of(&[n]))
}

/// The first rules of the network; a rule that makes no sense is put right, as a genesis is checked before.
pub fn rules(bytes: &mut Bytes<'_>) -> Policy {
    let mut rules = Policy::first(amount(50_000));
    change(&mut rules, bytes);
    change(&mut rules, bytes);
    if rules.check().is_ok() { rules } else { Policy::first(amount(50_000)) }
}

/// Who is no longer welcome, or is again.
fn barred(bytes: &mut Bytes<'_>) -> Op {
    let (who, seq, logins, reason) = (bytes.below(MEMBERS.min(DEVICES)), u64::from(bytes.below(4)), vec![], "r".to_owned());
    match bytes.below(4) {
        0 | 1 => Op::RevokeDevice { device: device(who), receipts_seq: seq, logins },
        2 => Op::SuspendMember { member: member(who), receipts_seq: (seq > 1).then_some(seq), logins, reason },
        _ => Op::RestoreMember { member: member(who), reason },
    }
}

fn change(rules: &mut Policy, bytes: &mut Bytes<'_>) {
    let (which, word) = (bytes.below(12), u64::from(bytes.word()));
    let small = u32::try_from(word).unwrap_or(u32::MAX);
    match which {
        0 => rules.fee_bp = small / 6,
        1 => rules.vesting_ms = word,
        2 => (rules.regen_mmana, rules.regen_cap_mmana) = (amount(word), amount(90_000)),
        3 => rules.epoch_ms = word * 100,
        4 => rules.decay = small % 110,
        5 => rules.discount_bp = small % 5_200,
        6 => rules.earn_day_member_mmana = amount(word),
        7 => rules.earn_day_device_mmana = amount(word),
        8 => rules.open_holds_max = small % 4,
        9 => rules.regen_cap_mmana = amount(word),
        _ => {}
    }
}

impl History {
    pub fn read(bytes: &mut Bytes<'_>) -> Self {
        let mut draft = Draft::default();
        for n in 0..3 {
            draft.ask(Op::Open { member: member(n), did: signer(100 + n).public() }, None);
            draft.ask(Op::BindDevice { device: device(n), did: signer(150 + n).public(), member: member(n) }, None);
            draft.ask(Op::AttestTier { device: device(n), tier: n }, None);
        }
        while !bytes.is_empty() && draft.steps.len() < STEPS_MAX {
            draft.step(bytes);
        }
        draft.signed()
    }
}

#[derive(Default)]
struct Draft {
    steps: Vec<Step>,
    now: u64,
    version: u32,
    commands: Vec<(Command, u8)>,
    assignments: Vec<Assignment>,
    receipts: Vec<(Receipt, u8)>,
}

impl Draft {
    fn ask(&mut self, op: Op, by: Option<u8>) {
        self.steps.push(Step::Ask(self.commands.len()));
        let by = by.unwrap_or_else(|| asker_of(&op));
        self.commands.push((Command { net: net(), at: NOW + self.now, op }, by));
    }

    #[allow(clippy::too_many_lines)] // one arm a kind, read top to bottom
    fn step(&mut self, bytes: &mut Bytes<'_>) {
        let text = |n: u8| format!("k{n}");
        let op = match bytes.below(32) {
            0 => return self.wait(u64::from(bytes.word())),
            1 => return self.wait(bytes.number() % (40 * 3_600_000)),
            2 | 3 => return self.steps.push(Step::Sweep),
            4 => return self.steps.push(Step::Checkpoint),
            5 => return self.steps.push(Step::Forget),
            // Something that was asked before, by the same one or by another.
            6 | 7 => {
                let at = usize::from(bytes.byte()) % self.commands.len();
                let by = [GATEWAY, SCHEDULER, OPERATOR, STRANGER].get(usize::from(bytes.below(16))).copied();
                let (command, before) = self.commands[at].clone();
                return self.ask(command.op, Some(by.unwrap_or(before)));
            }
            8 => Op::Open { member: member(bytes.below(MEMBERS)), did: signer(100 + bytes.below(MEMBERS)).public() },
            9 => {
                let (of, with, to) = (bytes.below(DEVICES), bytes.below(DEVICES), bytes.below(MEMBERS));
                Op::BindDevice { device: device(of), did: signer(150 + with).public(), member: member(to) }
            }
            10 => Op::AttestTier { device: device(bytes.below(DEVICES)), tier: bytes.below(6) },
            11 => barred(bytes),
            12 => {
                let (to, key) = (bytes.below(MEMBERS), bytes.below(6));
                Op::Mint { member: member(to), amount_mmana: amount(bytes.number()), reason: "r".into(), key: text(key) }
            }
            13 => {
                let (from, to, key) = (bytes.below(MEMBERS), bytes.below(MEMBERS), bytes.below(6));
                let amount_mmana = amount(bytes.number());
                Op::Transfer { from: member(from), to: member(to), amount_mmana, key: text(key), note: String::new() }
            }
            14 => {
                let (from, key) = (bytes.below(MEMBERS), bytes.below(6));
                Op::Fee { member: member(from), amount_mmana: amount(bytes.number()), reason: "r".into(), key: text(key) }
            }
            15 => {
                let whys = [FlagWhy::AbsurdTime, FlagWhy::Anomaly, FlagWhy::FailedCheck, FlagWhy::Lie, FlagWhy::Operator];
                Op::Flag { job: job(bytes.below(JOBS)), why: whys[usize::from(bytes.below(5))], note: "n".into() }
            }
            16 => Op::ReviewRelease { job: job(bytes.below(JOBS)), reason: "r".into() },
            17 => Op::ReviewSeize { job: job(bytes.below(JOBS)), reason: "r".into() },
            18 => {
                let mut rules = Policy::first(amount(50_000));
                change(&mut rules, bytes);
                self.version += 1;
                rules.version = self.version + 1 - u32::from(bytes.below(8) == 7);
                Op::SetPolicy { rules }
            }
            19 => {
                let legs = (0..bytes.below(4)).map(|_| {
                    let (from, to) = (account(bytes.byte()), account(bytes.byte()));
                    Leg { from, to, amount_mmana: amount(bytes.number()) }
                });
                Op::Correct { legs: legs.collect(), of: fact_id::open(&member(0)), reason: "r".into(), key: text(bytes.below(4)) }
            }
            20 => Op::Look { job: job(bytes.below(JOBS)) },
            21 | 22 => {
                let reasons =
                    [VoidReason::Failed, VoidReason::Cancelled, VoidReason::NotPlaced, VoidReason::NotAdmitted, VoidReason::Expired];
                let (about, reason) = (bytes.below(JOBS), reasons[usize::from(bytes.below(5))]);
                Op::Void { job: job(about), reason, ended: ended(bytes) }
            }
            23..=26 => {
                let (about, of, key) = (bytes.below(JOBS), bytes.below(MEMBERS), bytes.below(16));
                let wanted = bytes.number();
                let amount_mmana = (wanted > 0).then(|| amount(wanted));
                let expires = NOW + self.now + bytes.number() % (48 * 3_600_000);
                Op::Hold { job: job(about), member: member(of), key: text(key), amount_mmana, expires }
            }
            _ => self.claim(bytes),
        };
        self.ask(op, None);
    }

    fn wait(&mut self, ms: u64) {
        self.now += ms;
        self.steps.push(Step::Wait(ms));
    }

    /// A claim for pay, honest where the twist is 0.
    fn claim(&mut self, bytes: &mut Bytes<'_>) -> Op {
        let (about, of, by, payer) = (bytes.below(JOBS), bytes.below(DEVICES), bytes.below(32), bytes.below(MEMBERS));
        let (price, twist) = (amount(bytes.number()), bytes.below(32));
        let (claimed_ms, took) = (bytes.number(), u64::from(bytes.word()));
        let at = NOW + self.now;
        let assignment = Assignment {
            net: net(),
            job: job(about),
            attempt: 1 + u32::from(twist == 1),
            device: device(of),
            member: member(payer),
            assigned_at: at.saturating_sub(took + 1),
            exp: at + 60_000,
            price_mmana: price,
            tier: bytes.below(6),
            timeout_ms: 1 + u64::from(bytes.word()),
            payload: Cid::of(b"payload"),
            resume: None,
        };
        let attempt = AttemptId(Cid::of(&bus_schemas::envelope::encode(&assignment)));
        let failure = Failure { class: FailureClass::Timeout, message: String::new(), retryable: true };
        let receipt = Receipt {
            net: net(),
            device: device(if twist == 2 { (of + 1) % DEVICES } else { of }),
            job: job(if twist == 3 { about + 1 } else { about }),
            attempt: if twist == 4 { AttemptId(Cid::of(b"x")) } else { attempt },
            at,
            outcome: match twist {
                5 => Outcome::Failed(failure),
                6 | 7 => Outcome::Cancelled,
                _ => Outcome::Completed(ResultRef { cid: Cid::of(b"result"), bytes: 6 }),
            },
            claimed_ms,
            waited_ms: 0,
        };
        let id = ReceiptId(Cid::of(&bus_schemas::envelope::encode(&receipt)));
        self.assignments.push(assignment);
        self.receipts.push((receipt, if by == 31 { (of + 1) % DEVICES } else { of }));
        let receipt_at = match twist {
            8 => at.saturating_sub(took + 9),
            9 => at + 3_600_000,
            10 => u64::MAX,
            _ => at,
        };
        let started_at = match twist {
            11..=14 => Some(at.saturating_sub(took / 2)),
            15 => Some(u64::MAX),
            16 => Some(0),
            _ => None,
        };
        Op::Settle { job: job(about), attempt, receipt: id, receipt_at, receipt_seq: u64::from(by), started_at, ended: ended(bytes) }
    }

    /// One signature for all commands of one asker, and for all receipts of one device.
    fn signed(self) -> History {
        let mut verifier = Verifier::default();
        let mut commands: Vec<Option<(Verified<Command>, u8)>> = self.commands.iter().map(|_| None).collect();
        for by in [GATEWAY, SCHEDULER, OPERATOR, STRANGER] {
            let own: Vec<usize> = (0..self.commands.len()).filter(|at| self.commands[*at].1 == by).collect();
            let bodies: Vec<Command> = own.iter().map(|at| self.commands[*at].0.clone()).collect();
            if bodies.is_empty() {
                continue;
            }
            let verified = signer(by).batch(&bodies).verify::<Command>(&mut verifier).expect("what is signed is verified");
            for (at, command) in own.into_iter().zip(verified) {
                commands[at] = Some((command, by));
            }
        }
        let mut evidence = Evidence::default();
        if !self.assignments.is_empty() {
            let assigned = signer(SCHEDULER).batch(&self.assignments).verify::<Assignment>(&mut verifier);
            evidence.assignments.extend(assigned.expect("what is signed is verified").into_iter().map(|one| (one.cid(), one)));
        }
        for n in 0..DEVICES {
            let own: Vec<Receipt> = self.receipts.iter().filter(|(_, by)| *by == n).map(|(receipt, _)| receipt.clone()).collect();
            if !own.is_empty() {
                let signed = signer(150 + n).batch(&own).verify::<Receipt>(&mut verifier).expect("what is signed is verified");
                evidence.receipts.extend(signed.into_iter().map(|one| (one.cid(), one)));
            }
        }
        History { steps: self.steps, commands: commands.into_iter().flatten().collect(), evidence }
    }
}

fn account(n: u8) -> Account {
    match n % 10 {
        0 => Account::Mint,
        1 => Account::Commons,
        2 => Account::Burn,
        3 => Account::Review,
        4 => Account::Held(member(0)),
        5 => Account::Vesting(member(1)),
        n => Account::Available(member(n - 6)),
    }
}

fn ended(bytes: &mut Bytes<'_>) -> Vec<Ended> {
    let classes = [FailureClass::DeviceDisconnect, FailureClass::Timeout, FailureClass::DeviceDeclined, FailureClass::ExecutionError];
    let count = bytes.below(8).saturating_sub(5);
    (0..count)
        .map(|n| Ended {
            attempt: AttemptId(Cid::of(&[n])),
            device: device(bytes.below(DEVICES)),
            class: classes[usize::from(bytes.below(4))],
        })
        .collect()
}
