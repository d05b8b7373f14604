//! A gateway's intake: sort, ask for holds, JOBS, HISTORY, and the ack last. Deciding is the gateway's own `admission` and `funding`.

use std::collections::BTreeMap;
use std::sync::Arc;

use bus_schemas::history::{Admitted, HistoryEvent, HistoryRecord, Transition};
use bus_schemas::id::Asker;
use bus_schemas::job::{AdmittedJob, JobState};
use bus_schemas::ledger::{Command, HoldView, LedgerOutcome, LedgerRequest, Op};
use bus_schemas::{JobId, MemberId, UnixMs, limits};
use gateway::admission::{self, Admit, Candidate, Headers};
use gateway::funding::{Judged, judge};

use crate::cx::{Asks, Cx, Stores};
use crate::hub::ACK_WAIT;
use crate::message::{Acked, Delivery, Ms, Msg, NotStored, Queue, Store, Submission, Who};
use crate::mutation::Mutation;

/// HISTORY is tried so long before the submission is given back.
const STORE_FOR: Ms = 20_000;

/// One submission in hand.
struct Taken {
    seq: u64,
    member: MemberId,
    submitted_at: UnixMs,
    until: Ms,
    asked: Vec<Admit>,
    records: Vec<HistoryRecord>,
    /// What HISTORY or JOBS have not acknowledged.
    open: usize,
    failed: bool,
}

#[derive(Clone)]
enum Then {
    Job(u64, Box<HistoryRecord>),
    History(u64),
    Cancel(u64),
}

#[derive(Default)]
pub struct Gateway {
    taken: BTreeMap<u64, Taken>,
    stores: Stores<Then>,
    asks: Asks<u64>,
}

impl Gateway {
    pub fn on(&mut self, cx: &mut Cx<'_>, msg: Msg) {
        match msg {
            Msg::Submitted(delivery) => self.take(cx, delivery),
            Msg::Answer { id, outcomes } => {
                if let Some(seq) = self.asks.answered(id) {
                    self.funded(cx, seq, outcomes);
                }
            }
            Msg::PubAck { id, answer } => {
                if let Some(then) = self.stores.acked(id) {
                    self.stored(cx, then, answer);
                }
            }
            Msg::CancelAsked { id, job, member } => {
                self.stores.store(cx, Store::Cancel { job, member }, cx.now + 10_000, Then::Cancel(id));
            }
            Msg::Again(id) => {
                if let Some(seq) = self.asks.again(cx, id) {
                    cx.counters.add("submissions given back");
                    self.give_back(cx, seq);
                }
                if let Some(then) = self.stores.again(cx, id) {
                    self.not_stored(cx, &then);
                }
            }
            _ => {}
        }
    }

    fn take(&mut self, cx: &mut Cx<'_>, delivery: Delivery<Arc<Submission>>) {
        let Delivery { seq, delivered, stored_at, body } = delivery;
        if cx.is_broken(Mutation::AckSubmissionFirst) {
            ack(cx, seq, Acked::Done);
        }
        if delivered > 1 {
            cx.counters.add("submissions delivered again");
        }
        let mut fallback = body.outbox_key.clone().unwrap_or_else(|| format!("submit:{seq}"));
        let mut key = body.key.clone();
        if cx.is_broken(Mutation::KeyPerDelivery) {
            let id = cx.id();
            fallback = format!("{fallback}:{id}");
            key = key.map(|key| format!("{key}:{id}"));
        }
        let submission = admission::Submission {
            net: cx.cast.net,
            member: body.member,
            headers: Headers { job_key: key.as_deref(), ..Headers::default() },
            payload: &body.payload,
            fallback_key: &fallback,
            now: stored_at,
        };
        let until = cx.now + ACK_WAIT * 2 / 3;
        let mut taken =
            Taken { seq, member: body.member, submitted_at: stored_at, until, asked: vec![], records: vec![], open: 0, failed: false };
        for candidate in admission::sort(&submission, cx.verifier).into_vec() {
            match candidate {
                Candidate::Admit(admit) => taken.asked.push(*admit),
                Candidate::Refuse(refused) => {
                    cx.counters.add("submissions refused");
                    let what = HistoryEvent::Rejected {
                        asker: Asker::Member(body.member),
                        key: refused.key,
                        kind: refused.kind,
                        problem: refused.problem,
                    };
                    taken.records.push(record(cx, body.member, refused.job, JobState::Rejected, what));
                }
            }
        }
        let now = cx.hub_ms();
        let hold = |admit: &Admit| Op::Hold {
            job: admit.job,
            member: body.member,
            key: admit.key.clone(),
            amount_mmana: admit.spec.cost_mana,
            expires: limits::hold_expires(now, admit.spec.max_execution_wait_ms(), admit.spec.timeout_ms()),
        };
        let commands: Vec<Command> = taken.asked.iter().map(|admit| Command { net: cx.cast.net, at: now, op: hold(admit) }).collect();
        // It may come again while it is in hand.
        let number = cx.id();
        self.taken.insert(number, taken);
        if commands.is_empty() {
            self.write(cx, number);
            return;
        }
        let request = LedgerRequest { commands: cx.cast.gateway_key.batch(&commands), assignments: vec![], receipts: vec![] };
        self.asks.ask(cx, bus_schemas::envelope::encode(&request).into(), until, number);
    }

    /// The ledger has answered.
    fn funded(&mut self, cx: &mut Cx<'_>, number: u64, outcomes: Vec<LedgerOutcome>) {
        let Some(taken) = self.taken.get_mut(&number) else { return };
        let (member, submitted_at, until) = (taken.member, taken.submitted_at, taken.until);
        let asked = std::mem::take(&mut taken.asked);
        let mut records = Vec::new();
        for (admit, outcome) in asked.into_iter().zip(outcomes) {
            match judge(&admit.job, outcome) {
                Judged::Go(hold) => self.publish(cx, number, admit, &hold, member, submitted_at, until),
                Judged::Ended(hold) => {
                    cx.counters.add("submissions of ended jobs");
                    records.push(admitted_record(cx, &admit, &hold, member, submitted_at));
                }
                Judged::Refuse(_) if cx.is_broken(Mutation::AdmitWithoutHold) => {
                    let amount_mmana = bus_schemas::MilliMana::mana(1);
                    let state = bus_schemas::ledger::HoldState::Open;
                    let hold = HoldView { job: admit.job, member, amount_mmana, expires: cx.hub_ms() + 600_000, state };
                    self.publish(cx, number, admit, &hold, member, submitted_at, until);
                }
                Judged::Refuse(problem) => {
                    cx.counters.add("holds refused");
                    let what =
                        HistoryEvent::Rejected { asker: Asker::Member(member), key: Some(admit.key), kind: Some(admit.spec.kind), problem };
                    records.push(record(cx, member, admit.job, JobState::Rejected, what));
                }
            }
        }
        let Some(taken) = self.taken.get_mut(&number) else { return };
        taken.records.extend(records);
        if taken.open == 0 {
            self.write(cx, number);
        }
    }

    #[allow(clippy::too_many_arguments)] // One step of `funded`.
    fn publish(&mut self, cx: &mut Cx<'_>, number: u64, admit: Admit, hold: &HoldView, member: MemberId, submitted_at: UnixMs, until: Ms) {
        let record = admitted_record(cx, &admit, hold, member, submitted_at);
        let job = AdmittedJob {
            net: cx.cast.net,
            job: admit.job,
            member,
            asker: Asker::Member(member),
            key: admit.key,
            submitted_at,
            at: cx.hub_ms(),
            class: admit.spec.priority,
            hold_mmana: hold.amount_mmana,
            hold_expires: hold.expires,
            form: admit.form,
            body: admit.body.into(),
            signed: admit.signed,
        };
        if let Some(taken) = self.taken.get_mut(&number) {
            taken.open += 1;
        }
        self.stores.store(cx, Store::Job(Arc::new(job)), until.max(cx.now + 1000), Then::Job(number, Box::new(record)));
    }

    /// HISTORY, once JOBS has all that is funded.
    fn write(&mut self, cx: &mut Cx<'_>, number: u64) {
        let Some(taken) = self.taken.get_mut(&number) else { return };
        if taken.failed {
            return self.give_back(cx, number);
        }
        let records = std::mem::take(&mut taken.records);
        if records.is_empty() {
            if let Some(taken) = self.taken.remove(&number) {
                ack(cx, taken.seq, Acked::Done);
            }
            return;
        }
        taken.open = records.len();
        for record in records {
            self.stores.store(cx, Store::History(Box::new(record)), cx.now + STORE_FOR, Then::History(number));
        }
    }

    fn stored(&mut self, cx: &mut Cx<'_>, then: Then, answer: Result<u64, NotStored>) {
        match then {
            Then::Job(number, record) => {
                if answer == Err(NotStored::MaxPerSubject) {
                    cx.counters.add("jobs that were in JOBS already");
                }
                let Some(taken) = self.taken.get_mut(&number) else { return };
                taken.records.push(*record);
                taken.open -= 1;
                if taken.open == 0 {
                    self.write(cx, number);
                }
            }
            Then::History(number) => {
                let Some(taken) = self.taken.get_mut(&number) else { return };
                taken.open -= 1;
                if taken.open == 0 {
                    let seq = taken.seq;
                    self.taken.remove(&number);
                    ack(cx, seq, Acked::Done);
                }
            }
            Then::Cancel(id) => cx.send(Who::Client, Msg::CancelDone { id }),
        }
    }

    fn not_stored(&mut self, cx: &mut Cx<'_>, then: &Then) {
        match then {
            Then::Job(number, _) => {
                let Some(taken) = self.taken.get_mut(number) else { return };
                (taken.failed, taken.open) = (true, taken.open - 1);
                if taken.open == 0 {
                    self.write(cx, *number);
                }
            }
            Then::History(number) => self.give_back(cx, *number),
            Then::Cancel(_) => {}
        }
    }

    fn give_back(&mut self, cx: &mut Cx<'_>, number: u64) {
        if let Some(taken) = self.taken.remove(&number) {
            ack(cx, taken.seq, Acked::Nak(1000));
        }
    }

    pub fn is_idle(&self) -> bool {
        self.taken.is_empty() && self.stores.is_empty() && self.asks.is_empty()
    }
}

fn ack(cx: &mut Cx<'_>, seq: u64, what: Acked) {
    let from = cx.me;
    cx.send(Who::Hub, Msg::Ack { from, id: 0, queue: Queue::Submit, seq, what });
}

fn record(cx: &Cx<'_>, member: MemberId, job: JobId, to: JobState, what: HistoryEvent) -> HistoryRecord {
    let at = cx.hub_ms();
    let transitions = vec![Transition { to, at, cause: String::new(), actor: "gateway".into() }];
    HistoryRecord { net: cx.cast.net, member, job, at, transitions, what }
}

fn admitted_record(cx: &Cx<'_>, admit: &Admit, hold: &HoldView, member: MemberId, submitted_at: UnixMs) -> HistoryRecord {
    let what = HistoryEvent::Admitted(Box::new(Admitted {
        asker: Asker::Member(member),
        key: admit.key.clone(),
        kind: admit.spec.kind.clone(),
        submitted_at,
        hold_mmana: hold.amount_mmana,
        hold_expires: hold.expires,
        form: admit.form,
        body: admit.body.clone().into(),
        signed: admit.signed.clone(),
        nothing_fits: None,
    }));
    record(cx, member, admit.job, JobState::Submitted, what)
}
