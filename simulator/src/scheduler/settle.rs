//! Ends jobs: the receipt's place, the books, HISTORY, the device, and last of all the ack.

use bus_schemas::assignment::{Closed, Verb};
use bus_schemas::history::{Ended, HistoryEvent, HistoryRecord};
use bus_schemas::job::JobState;
use bus_schemas::ledger::{LedgerOutcome, Op, SettleOutcome, VoidReason};
use bus_schemas::receipt::Receipt;
use bus_schemas::{DeviceId, JobId, MilliMana, Problem, ReceiptId, Verified};
use bytes::Bytes;
use scheduler_worker::attempts::SettledBy;
use scheduler_worker::job::{Evidence, Phase};
use scheduler_worker::verdict::judge;

use super::{Asked, Request, Scheduler};
use crate::cx::Cx;
use crate::message::{Acked, Ms, Msg, Queue, Who};
use crate::mutation::Mutation;

const ACK_AGAIN: Ms = 2_000;
const ACK_TRIES: u8 = 3;

/// The end of one job on its way.
pub struct Ending {
    pub job: JobId,
    seq: u64,
    op: Option<Op>,
    paid: Option<(DeviceId, ReceiptId, Evidence, Evidence)>,
    record: HistoryRecord,
    /// The message of receipts whose place is not known yet.
    carried: Option<(DeviceId, Bytes, Ms)>,
    /// The books were asked: this goes on whatever becomes of the lease.
    pub asked: bool,
    acks: u8,
}
impl Ending {
    fn end(&mut self) -> Option<&mut Ended> {
        match &mut self.record.what {
            HistoryEvent::Ended(end) => Some(end),
            _ => None,
        }
    }
}

impl Scheduler {
    pub(super) fn settle(&mut self, cx: &mut Cx<'_>, receipt: &Verified<Receipt>, id: ReceiptId, evidence: Evidence, carried: &Bytes) {
        self.settle_as(cx, receipt, id, evidence, carried);
    }

    pub(super) fn settle_as(&mut self, cx: &mut Cx<'_>, receipt: &Receipt, id: ReceiptId, evidence: Evidence, carried: &Bytes) {
        self.fenced(cx, &receipt.job, "settle");
        let at = cx.hub_ms();
        let Some(one) = self.jobs.get_mut(&receipt.job) else { return };
        let (seq, job) = (one.seq, &mut one.job);
        let Some(SettledBy { op, end, assignment, other }) = job.settled_by(receipt, id, &evidence.proof, None, at) else { return };
        let paid = Some((receipt.device, id, assignment, evidence));
        if cx.is_broken(Mutation::AckBeforeSettle) {
            let from = cx.me;
            cx.send(Who::Hub, Msg::Ack { from, id: 0, queue: Queue::Jobs, seq, what: Acked::Done });
        }
        self.ending(cx, receipt.job, Some(op), paid, end, Some((receipt.device, carried.clone(), cx.now)));
        if let Some((device, attempt)) = other {
            self.control_device(cx, device, Verb::Cancel { attempts: vec![attempt] }, Request::Control);
        }
        self.need_tick(cx);
    }

    pub(super) fn close_without_result(&mut self, cx: &mut Cx<'_>, id: JobId, state: JobState, problem: &Problem, op: Option<Op>) {
        self.fenced(cx, &id, "void");
        let at = cx.hub_ms();
        let Some(one) = self.jobs.get_mut(&id) else { return };
        one.job.note(state, at, problem.detail.clone(), "scheduler");
        let end = Ended {
            state,
            attempts: one.job.last_number,
            device: None,
            problem: Some(problem.clone()),
            paid_mmana: None,
            done: None,
            decision: one.job.decision.take(),
        };
        self.ending(cx, id, op, None, end, None);
    }

    pub(super) fn close_paid_before(&mut self, cx: &mut Cx<'_>, id: JobId, device: DeviceId, paid: MilliMana, outcome: SettleOutcome) {
        let at = cx.hub_ms();
        let Some(one) = self.jobs.get_mut(&id) else { return };
        let state = if outcome.is_completed() { JobState::Completed } else { JobState::Cancelled };
        one.job.note(state, at, "the books had paid it", "scheduler");
        let attempts = one.job.last_number;
        let end = Ended { state, attempts, device: Some(device), problem: None, paid_mmana: Some(paid), done: None, decision: None };
        self.ending(cx, id, None, None, end, None);
    }

    fn ending(
        &mut self,
        cx: &mut Cx<'_>,
        id: JobId,
        op: Option<Op>,
        paid: Option<(DeviceId, ReceiptId, Evidence, Evidence)>,
        end: Ended,
        carried: Option<(DeviceId, Bytes, Ms)>,
    ) {
        self.off_device(&id);
        let (net, at) = (cx.cast.net, cx.hub_ms());
        let Some(one) = self.jobs.get_mut(&id) else { return };
        one.job.phase = Phase::Closing;
        one.job.bids_left.clear();
        let record = one.job.record(net, at, HistoryEvent::Ended(Box::new(end)));
        let ending = Ending { job: id, seq: one.seq, op, paid, record, carried, asked: false, acks: 0 };
        let number = cx.id();
        let ready = ending.carried.is_none();
        self.endings.insert(number, ending);
        if ready {
            self.ask_the_books(cx, number);
        }
    }

    /// A live message is no proof that it was stored: it is looked up before it is believed.
    pub(super) fn confirm_receipts(&mut self, cx: &mut Cx<'_>) {
        if !cx.linked {
            return;
        }
        let waiting: Vec<u64> = self.endings.iter().filter(|(_, ending)| ending.carried.is_some()).map(|(number, _)| *number).collect();
        for number in waiting {
            let Some(ending) = self.endings.get_mut(&number) else { continue };
            let Some((device, bytes, since)) = ending.carried.clone() else { continue };
            match cx.hub.find_receipts(&device, &bytes) {
                Some((seq, time)) => {
                    if let Some(Op::Settle { receipt_at, receipt_seq, .. }) = &mut ending.op {
                        (*receipt_at, *receipt_seq) = (time, seq);
                    }
                    ending.carried = None;
                    self.ask_the_books(cx, number);
                }
                None if cx.now - since > 10_000 => {
                    cx.counters.add("receipts heard and not stored");
                    let (job, seq) = (ending.job, ending.seq);
                    self.endings.remove(&number);
                    self.forget(&job);
                    let from = cx.me;
                    cx.send(Who::Hub, Msg::Ack { from, id: 0, queue: Queue::Jobs, seq, what: Acked::Nak(100) });
                }
                None => {}
            }
        }
    }

    fn ask_the_books(&mut self, cx: &mut Cx<'_>, number: u64) {
        let Some(ending) = self.endings.get(&number) else { return };
        self.fenced(cx, &ending.job, "the books");
        let Some(ending) = self.endings.get_mut(&number) else { return };
        ending.asked = true;
        let Some(op) = ending.op.clone() else { return self.judged(cx, number, None) };
        let Some(ending) = self.endings.get(&number) else { return };
        let assignments = ending.paid.iter().map(|(_, _, assignment, _)| assignment).collect();
        let receipts = ending.paid.iter().map(|(_, _, _, receipt)| receipt).collect();
        let bytes = self.question(cx, vec![op], assignments, receipts);
        self.asks.ask(cx, bytes, Ms::MAX, Asked::End(number));
    }

    pub(super) fn answered(&mut self, cx: &mut Cx<'_>, asked: Asked, outcomes: Vec<LedgerOutcome>) {
        let outcome = outcomes.into_iter().next();
        match asked {
            Asked::Look(job) => self.looked(cx, job, outcome),
            Asked::Stray { device, attempt, receipt } => self.stray_answered(cx, device, attempt, receipt, outcome),
            Asked::End(number) => self.judged(cx, number, outcome),
            Asked::Void(number) => self.write(cx, number),
        }
    }

    fn judged(&mut self, cx: &mut Cx<'_>, number: u64, outcome: Option<LedgerOutcome>) {
        let Some(ending) = self.endings.get_mut(&number) else { return };
        let verdict = judge(ending.op.as_ref(), outcome);
        if let Some(end) = ending.end() {
            end.paid_mmana = verdict.paid.or(end.paid_mmana);
            end.problem = verdict.problem.clone().or(end.problem.take());
        }
        if let (Some((paid_mmana, not_paid)), Some((device, ..)), Some(Op::Settle { attempt, .. })) =
            (verdict.closed, &ending.paid, &ending.op)
        {
            let (device, closed) = (*device, Closed { attempt: *attempt, paid_mmana, not_paid });
            self.closed.insert(closed.attempt, closed.clone());
            self.tell_closed(cx, device, closed);
        }
        let Some(ending) = self.endings.get(&number) else { return };
        if !verdict.write {
            cx.counters.add("endings that another one has written");
            // It comes again, and ends as the books say.
            let job = ending.job;
            self.acks.remove(&number);
            return self.acked(&job);
        }
        if verdict.void {
            cx.counters.add("settlements refused, hold returned");
            let op = Op::Void { job: ending.job, reason: VoidReason::Failed, ended: vec![] };
            let bytes = self.question(cx, vec![op], vec![], vec![]);
            return self.asks.ask(cx, bytes, Ms::MAX, Asked::Void(number));
        }
        self.write(cx, number);
    }

    fn write(&mut self, cx: &mut Cx<'_>, number: u64) {
        let Some(ending) = self.endings.get(&number) else { return };
        let record = ending.record.clone();
        if cx.is_broken(Mutation::AckBeforeHistory) {
            self.ack(cx, number);
        }
        self.record(cx, record, Some(number));
    }

    pub(super) fn written(&mut self, cx: &mut Cx<'_>, number: u64) {
        if !cx.is_broken(Mutation::AckBeforeHistory) {
            self.ack(cx, number);
        }
    }

    fn ack(&mut self, cx: &mut Cx<'_>, number: u64) {
        let from = cx.me;
        let Some(ending) = self.endings.get_mut(&number) else { return };
        ending.acks += 1;
        let (job, seq) = (ending.job, ending.seq);
        cx.send(Who::Hub, Msg::Ack { from, id: number, queue: Queue::Jobs, seq, what: Acked::Done });
        cx.after(ACK_AGAIN, Msg::Again(number));
        self.acks.insert(number, job);
    }

    /// What comes again after three tries has its hold closed by then, and is dropped.
    pub(super) fn ack_again(&mut self, cx: &mut Cx<'_>, number: u64) {
        if !self.acks.contains_key(&number) {
            return;
        }
        if self.endings.get(&number).is_some_and(|ending| ending.acks < ACK_TRIES) {
            return self.ack(cx, number);
        }
        if let Some(job) = self.acks.remove(&number) {
            self.acked(&job);
        }
    }

    pub(super) fn acked(&mut self, job: &JobId) {
        self.endings.retain(|_, ending| ending.job != *job);
        self.forget(job);
    }
}
