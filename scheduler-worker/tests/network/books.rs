//! In the ledger's place: holds in memory, settled or voided once, with the evidence checked.

use std::collections::HashMap;
use std::sync::{Arc, Mutex};

use bus::Bus;
use bus_schemas::assignment::Assignment;
use bus_schemas::envelope::encode;
use bus_schemas::ledger::{
    Command, Done, HoldState, HoldView, LedgerOutcome, LedgerReply, LedgerRequest, Op, RefusalKind, SettleOutcome, fact_id,
};
use bus_schemas::receipt::Receipt;
use bus_schemas::{AttemptId, Batch, Code, Form, JobId, MemberId, MilliMana, Proof, PublicKey, ReceiptId, Verifier, subject};
use futures::StreamExt;

#[derive(Default)]
struct State {
    holds: HashMap<JobId, HoldView>,
    /// Settlements that moved money.
    settled: u64,
    voided: u64,
}

#[derive(Clone)]
pub struct Books {
    state: Arc<Mutex<State>>,
}

impl Books {
    pub async fn start(bus: Bus, scheduler: PublicKey) -> Self {
        let books = Self { state: Arc::default() };
        let mut questions = bus.client.subscribe(subject::LEDGER_DO).await.unwrap();
        bus.client.flush().await.unwrap();
        let mine = books.clone();
        tokio::spawn(async move {
            let mut verifier = Verifier::default();
            while let Some(message) = questions.next().await {
                let reply = message.reply.expect("a question has a reply");
                assert!(reply.starts_with("_INBOX."), "the ledger answers inboxes only: {reply}");
                let request: LedgerRequest = bus_schemas::strict::decode(Form::Msgpack, &message.payload, 1 << 20).unwrap();
                assert!(request.assignments.len() <= 64 && request.receipts.len() <= 64);
                let attempts = bodies::<Assignment>(&request.assignments, &mut verifier);
                let receipts = bodies::<Receipt>(&request.receipts, &mut verifier);
                let commands = request.commands.verify::<Command>(&mut verifier).unwrap();
                let outcomes = commands
                    .into_iter()
                    .map(|command| {
                        assert_eq!(command.by(), scheduler);
                        mine.decide(&command.op, &attempts, &receipts)
                    })
                    .collect();
                bus.client.publish(reply, encode(&LedgerReply { outcomes }).into()).await.unwrap();
            }
        });
        books
    }

    pub fn hold(&self, job: JobId, member: MemberId, amount_mmana: MilliMana) {
        let hold = HoldView { job, member, amount_mmana, expires: u64::MAX >> 12, state: HoldState::Open };
        self.state.lock().unwrap().holds.entry(job).or_insert(hold);
    }
    pub fn void(&self, job: JobId, reason: bus_schemas::ledger::VoidReason) {
        let mut state = self.state.lock().unwrap();
        state.holds.get_mut(&job).unwrap().state = HoldState::Voided { reason };
        state.voided += 1;
    }
    pub fn of(&self, job: JobId) -> HoldState {
        self.state.lock().unwrap().holds[&job].state.clone()
    }
    /// How many jobs were settled, and how many voided.
    pub fn closed(&self) -> (u64, u64) {
        let state = self.state.lock().unwrap();
        (state.settled, state.voided)
    }

    fn decide(&self, op: &Op, attempts: &HashMap<AttemptId, Assignment>, receipts: &HashMap<ReceiptId, Receipt>) -> LedgerOutcome {
        let refused = |why, detail: &str| LedgerOutcome::Refused { code: Code::Refused, why, detail: detail.to_owned() };
        let mut state = self.state.lock().unwrap();
        let State { holds, settled, voided } = &mut *state;
        let (Op::Settle { job, .. } | Op::Void { job, .. } | Op::Look { job }) = op else { panic!("not a scheduler's question: {op:?}") };
        let Some(hold) = holds.get_mut(job) else { return refused(RefusalKind::UnknownJob, "unknown") };
        let done =
            |hold: &HoldView, repeat| LedgerOutcome::Done(Done { fact: fact_id::close(job), seq: 1, repeat, hold: Some(hold.clone()) });
        match (op, hold.state.clone()) {
            (Op::Look { .. }, _) => done(hold, true),
            (Op::Void { reason, .. }, HoldState::Open) => {
                hold.state = HoldState::Voided { reason: *reason };
                *voided += 1;
                done(hold, false)
            }
            (Op::Void { .. }, HoldState::Voided { .. }) => done(hold, true),
            (Op::Void { .. }, HoldState::Settled { .. }) => refused(RefusalKind::AlreadySettled, "settled"),
            (Op::Settle { attempt, receipt, receipt_seq, receipt_at, .. }, HoldState::Open) => {
                let (Some(assignment), Some(shown)) = (attempts.get(attempt), receipts.get(receipt)) else {
                    return refused(RefusalKind::BadEvidence, "the evidence is missing");
                };
                assert!(shown.attempt == *attempt && assignment.job == *job && shown.device == assignment.device);
                assert!(*receipt_seq > 0 && *receipt_at > 0, "the place in RECEIPTS is known");
                let (device, paid_mmana) = (assignment.device, MilliMana::new(7).unwrap());
                let stopped = matches!(shown.outcome, bus_schemas::receipt::Outcome::Cancelled);
                let outcome = if stopped { SettleOutcome::Cancelled } else { SettleOutcome::Completed };
                hold.state = HoldState::Settled { attempt: *attempt, receipt: *receipt, device, paid_mmana, outcome };
                *settled += 1;
                done(hold, false)
            }
            (Op::Settle { receipt, .. }, HoldState::Settled { receipt: known, .. }) if *receipt == known => done(hold, true),
            (Op::Settle { .. }, HoldState::Settled { .. }) => refused(RefusalKind::AlreadySettled, "settled with another receipt"),
            (Op::Settle { .. }, HoldState::Voided { .. }) => refused(RefusalKind::AlreadyVoided, "void"),
            (other, _) => panic!("not a scheduler's question: {other:?}"),
        }
    }
}

fn bodies<T: bus_schemas::envelope::Body + Named>(carriers: &[serde_bytes::ByteBuf], verifier: &mut Verifier) -> HashMap<IdOf<T>, T> {
    let mut all = HashMap::new();
    for carrier in carriers {
        let shown = match Batch::decode(carrier) {
            Ok(batch) => batch.verify::<T>(verifier).unwrap(),
            Err(_) => vec![Proof::decode(carrier).unwrap().verify::<T>(verifier).unwrap()],
        };
        all.extend(shown.into_iter().map(|body| (T::name(body.cid()), body.into_body())));
    }
    all
}

type IdOf<T> = <T as Named>::Id;
pub trait Named {
    type Id: std::hash::Hash + Eq;
    fn name(cid: bus_schemas::Cid) -> Self::Id;
}
impl Named for Assignment {
    type Id = AttemptId;
    fn name(cid: bus_schemas::Cid) -> AttemptId {
        AttemptId(cid)
    }
}
impl Named for Receipt {
    type Id = ReceiptId;
    fn name(cid: bus_schemas::Cid) -> ReceiptId {
        ReceiptId(cid)
    }
}
