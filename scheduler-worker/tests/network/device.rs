//! In the agent's place: a device that bids, takes jobs and answers as its script says.

use std::collections::HashMap;
use std::sync::{Arc, Mutex};

use bus::Bus;
use bus_schemas::assignment::{AssignAnswer, AssignReply, AssignRequest, Assignment, Closed, Control, ControlReply, Held, HeldState, Verb};
use bus_schemas::envelope::encode;
use bus_schemas::event::{Event, EventKind};
use bus_schemas::heartbeat::Heartbeat;
use bus_schemas::limits::QUEUE_MAX;
use bus_schemas::offer::{Bid, BidAnswer, Decline, Offer, Quote};
use bus_schemas::receipt::{Failure, Outcome, Receipt, ReceiptMessage, ResultRef};
use bus_schemas::resources::Resources;
use bus_schemas::{AttemptId, Batch, Cid, DeviceId, Form, InstanceId, JobId, MilliMana, Proof, Signer, Verifier, subject};
use futures::StreamExt;
use serde_bytes::ByteBuf;

use super::net;

/// What the device does.
#[derive(Clone)]
pub struct Script {
    pub kinds: Vec<String>,
    /// What it bids: it begins after this and what it holds, and each job takes it so long.
    pub start_in_ms: u64,
    pub job_ms: u64,
    pub on_offer: OnOffer,
    pub on_assign: OnAssign,
}
#[derive(Clone, PartialEq)]
pub enum OnOffer {
    Bid,
    No(Decline),
    /// Says nothing.
    Ignore,
}
#[derive(Clone, PartialEq)]
pub enum OnAssign {
    /// Ends at once with the job's text.
    Echo,
    Fail(Failure),
    /// Ends at once, with a result that is said to be a blob.
    Claim(ResultRef),
    Decline(Decline),
    /// Takes it and keeps it until told.
    Keep,
    /// The same, and does not begin with it.
    Queue,
    /// Hears it and says nothing.
    Ignore,
}
impl Script {
    pub fn echo() -> Self {
        Self { kinds: vec!["echo".into()], start_in_ms: 0, job_ms: 1, on_offer: OnOffer::Bid, on_assign: OnAssign::Echo }
    }
    pub fn that(self, on_assign: OnAssign) -> Self {
        Self { on_assign, ..self }
    }
}

struct Kept {
    proof: Proof,
    assignment: Assignment,
    to: InstanceId,
    text: String,
    receipt: Option<Receipt>,
}

struct State {
    script: Script,
    kept: HashMap<AttemptId, Kept>,
    /// Attempts assigned, oldest first, and behind how many texts they go on.
    assigned: Vec<AttemptId>,
    declined: Vec<AttemptId>,
    /// How often it was asked what it has of some jobs.
    adopts: usize,
    /// Sends its receipts again before it answers.
    hasty: bool,
    resumed: Vec<Option<u32>>,
    offered_units: Vec<u32>,
    closed: Vec<Closed>,
    cancelled: Vec<AttemptId>,
    offers: usize,
    bids_messages: usize,
    /// Assignments that it did not answer to.
    unanswered: usize,
    /// Its way to the hub is cut: it hears nothing and is not heard.
    muted: bool,
    /// Does not stop what it is told to stop.
    deaf_to_cancels: bool,
}
impl State {
    /// Jobs that it has and has not ended.
    fn held(&self) -> usize {
        self.kept.values().filter(|kept| kept.receipt.is_none()).count()
    }
}

/// Whether it has no place for one more job of this kind.
fn is_full(kind: &str, held: usize) -> bool {
    kind != "echo" && held >= QUEUE_MAX
}

pub struct Device {
    pub id: DeviceId,
    pub name: String,
    signer: Arc<Signer>,
    bus: Bus,
    state: Arc<Mutex<State>>,
    task: tokio::task::JoinHandle<()>,
}
impl Drop for Device {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl Device {
    pub async fn start(bus: Bus, n: u8, script: Script) -> Self {
        let signer = Arc::new(Signer::from_seed(&[150 + n; 32]));
        let id = signer.public().device_id();
        let state = Arc::new(Mutex::new(State {
            script,
            kept: HashMap::new(),
            assigned: vec![],
            declined: vec![],
            adopts: 0,
            hasty: false,
            resumed: vec![],
            offered_units: vec![],
            closed: vec![],
            cancelled: vec![],
            offers: 0,
            bids_messages: 0,
            unanswered: 0,
            muted: false,
            deaf_to_cancels: false,
        }));
        let mut offers = bus.client.subscribe(subject::offer(&id)).await.unwrap();
        let mut controls = bus.client.subscribe(subject::ctl_all(&id)).await.unwrap();
        bus.client.flush().await.unwrap();
        let hands = Hands { id, name: format!("d{n}"), signer: Arc::clone(&signer), bus: bus.clone(), state: Arc::clone(&state) };
        let task = tokio::spawn(async move {
            let mut verifier = Verifier::default();
            let mut beat = tokio::time::interval(super::timings().heartbeat);
            loop {
                tokio::select! {
                    Some(message) = offers.next() => if !hands.is_muted() { hands.offer(&message, &mut verifier).await },
                    Some(message) = controls.next() => if !hands.is_muted() { hands.control(&message, &mut verifier).await },
                    _ = beat.tick() => if !hands.is_muted() { hands.beat().await },
                }
            }
        });
        Self { id, name: format!("d{n}"), signer, bus, state, task }
    }

    /// The machine is gone: no word any more, and nobody listens.
    pub fn die(&self) {
        self.task.abort();
    }
    /// Cuts its way to the hub, or mends it.
    pub fn mute(&self, muted: bool) {
        self.state.lock().unwrap().muted = muted;
    }
    pub fn unanswered(&self) -> usize {
        self.state.lock().unwrap().unanswered
    }
    pub fn ignore_cancels(&self) {
        self.state.lock().unwrap().deaf_to_cancels = true;
    }
    pub fn script(&self, change: impl FnOnce(&mut Script)) {
        change(&mut self.state.lock().unwrap().script);
    }
    pub fn assigned(&self) -> Vec<AttemptId> {
        self.state.lock().unwrap().assigned.clone()
    }
    /// Attempts that it declined, oldest first.
    pub fn declined(&self) -> Vec<AttemptId> {
        self.state.lock().unwrap().declined.clone()
    }
    pub fn adopts(&self) -> usize {
        self.state.lock().unwrap().adopts
    }
    /// From now on its receipts are quicker than its answers.
    pub fn be_hasty(&self) {
        self.state.lock().unwrap().hasty = true;
    }
    /// Attempts of one job that it still keeps.
    pub fn attempts_of(&self, job: JobId) -> Vec<AttemptId> {
        let state = self.state.lock().unwrap();
        state.assigned.iter().filter(|id| state.kept.get(id).is_some_and(|kept| kept.assignment.job == job)).copied().collect()
    }
    /// Jobs that it keeps.
    pub fn jobs(&self) -> Vec<JobId> {
        self.state.lock().unwrap().kept.values().map(|kept| kept.assignment.job).collect()
    }
    /// For each attempt assigned, behind how many texts it goes on.
    pub fn resumed(&self) -> Vec<Option<u32>> {
        self.state.lock().unwrap().resumed.clone()
    }
    pub fn offered_units(&self) -> Vec<u32> {
        self.state.lock().unwrap().offered_units.clone()
    }
    /// Tells something of an attempt, signed by `by`.
    pub async fn tells(&self, job: JobId, attempt: AttemptId, what: EventKind, by: &Signer) {
        let event = Event { net: net(), device: self.id, at: 1, job, attempt, what };
        let subject = subject::event(&self.id, event.what.token());
        self.bus.store(subject, None, by.batch(&[event]).encode().into(), super::HUNG).await.unwrap();
    }
    /// Sends a receipt, whatever it says, as if it were of work that was done.
    pub async fn claims(&self, job: JobId, attempt: AttemptId, outcome: Outcome, text: &str) {
        let receipt = Receipt { net: net(), device: self.id, job, attempt, at: 1, outcome, claimed_ms: 1, waited_ms: 0 };
        let payload = receipt_message(&self.signer, receipt, text);
        self.bus.store(subject::receipt_any(&self.id), None, payload.into(), super::HUNG).await.unwrap();
    }
    pub fn signer(&self) -> &Signer {
        &self.signer
    }
    pub fn closed(&self) -> Vec<Closed> {
        self.state.lock().unwrap().closed.clone()
    }
    pub fn cancelled(&self) -> Vec<AttemptId> {
        self.state.lock().unwrap().cancelled.clone()
    }
    pub fn offers(&self) -> usize {
        self.state.lock().unwrap().offers
    }
    /// Offers per message of them, on the average.
    pub fn batching(&self) -> (usize, usize) {
        let state = self.state.lock().unwrap();
        (state.offers, state.bids_messages)
    }

    /// Ends what it keeps.
    pub async fn finish(&self, outcome: impl Fn(&str) -> Outcome) {
        self.finish_where(|_| true, outcome).await;
    }
    /// Ends what it keeps of these jobs.
    pub async fn finish_some(&self, jobs: &[JobId], outcome: impl Fn(&str) -> Outcome) {
        self.finish_where(|job| jobs.contains(job), outcome).await;
    }
    async fn finish_where(&self, which: impl Fn(&JobId) -> bool, outcome: impl Fn(&str) -> Outcome) {
        let hands = Hands {
            id: self.id,
            name: self.name.clone(),
            signer: Arc::clone(&self.signer),
            bus: self.bus.clone(),
            state: Arc::clone(&self.state),
        };
        let done: Vec<AttemptId> = {
            let mut state = self.state.lock().unwrap();
            for (attempt, kept) in state.kept.iter_mut().filter(|(_, kept)| which(&kept.assignment.job)) {
                let outcome = outcome(&kept.text);
                kept.receipt.get_or_insert_with(|| receipt(&kept.assignment, *attempt, outcome));
            }
            state.kept.iter().filter(|(_, kept)| kept.receipt.is_some()).map(|(attempt, _)| *attempt).collect()
        };
        hands.send(&done).await;
    }
}

/// One receipt, signed by `by`, as it travels.
pub fn receipt_message(by: &Signer, receipt: Receipt, text: &str) -> Vec<u8> {
    let inline = (receipt.outcome == completed(text)).then(|| ByteBuf::from(echo_result(text)));
    encode(&ReceiptMessage { receipts: by.batch(&[receipt]), results: vec![inline] })
}
pub fn echo_result(text: &str) -> Vec<u8> {
    serde_json::to_vec(&serde_json::json!({"text": text})).unwrap()
}
pub fn completed(text: &str) -> Outcome {
    let bytes = echo_result(text);
    Outcome::Completed(ResultRef { cid: Cid::of(&bytes), bytes: bytes.len() as u64 })
}
fn receipt(assignment: &Assignment, attempt: AttemptId, outcome: Outcome) -> Receipt {
    Receipt { net: net(), device: assignment.device, job: assignment.job, attempt, at: 1, outcome, claimed_ms: 1, waited_ms: 0 }
}

struct Hands {
    id: DeviceId,
    name: String,
    signer: Arc<Signer>,
    bus: Bus,
    state: Arc<Mutex<State>>,
}
impl Hands {
    fn is_muted(&self) -> bool {
        self.state.lock().unwrap().muted
    }

    async fn offer(&self, message: &bus::async_nats::Message, verifier: &mut Verifier) {
        let offers = Batch::decode(&message.payload).unwrap().verify::<Offer>(verifier).unwrap();
        let reply = message.reply.clone().expect("an offer has a reply");
        let to: InstanceId = reply.rsplit('.').next().unwrap().parse().unwrap();
        let (script, held) = {
            let mut state = self.state.lock().unwrap();
            state.offers += offers.len();
            state.offered_units.extend(offers.iter().map(|offer| offer.units));
            state.bids_messages += 1;
            (state.script.clone(), state.held())
        };
        let answer = |kind: &str| match &script.on_offer {
            OnOffer::Ignore => None,
            OnOffer::No(decline) => Some(BidAnswer::No(decline.clone())),
            OnOffer::Bid if is_full(kind, held) => Some(BidAnswer::No(Decline::QueueFull)),
            OnOffer::Bid => Some(BidAnswer::Bid(Quote {
                price_mmana: MilliMana::mana(1),
                start_in_ms: script.start_in_ms + held as u64 * script.job_ms,
                duration_ms: script.job_ms,
                free_bp: 10_000,
            })),
        };
        let bids: Vec<Bid> = offers
            .iter()
            .filter_map(|offer| {
                let answer = answer(&offer.kind)?;
                Some(Bid { net: net(), device: self.id, to: to.clone(), at: 1, job: offer.job, round: offer.round, answer })
            })
            .collect();
        if bids.is_empty() {
            return;
        }
        self.bus.client.publish(reply, self.signer.batch(&bids).encode().into()).await.unwrap();
    }

    async fn control(&self, message: &bus::async_nats::Message, verifier: &mut Verifier) {
        let reply = message.reply.clone().expect("a control message has a reply");
        if message.subject.ends_with(".assign") {
            let request: AssignRequest = bus_schemas::strict::decode(Form::Msgpack, &message.payload, 400_000).unwrap();
            if self.state.lock().unwrap().script.on_assign == OnAssign::Ignore {
                return self.state.lock().unwrap().unanswered += 1;
            }
            let (answers, ended) = self.assign(&request, verifier);
            self.bus.client.publish(reply, encode(&AssignReply { answers }).into()).await.unwrap();
            self.send(&ended).await;
            return;
        }
        let control = Batch::decode(&message.payload).unwrap().verify::<Control>(verifier).unwrap().remove(0).into_body();
        let mut have = vec![];
        let mut send = vec![];
        {
            let mut state = self.state.lock().unwrap();
            let queues = state.script.on_assign == OnAssign::Queue;
            match control.verb {
                Verb::Adopt { jobs } => {
                    state.adopts += 1;
                    for (attempt, kept) in state.kept.iter_mut().filter(|(_, kept)| jobs.contains(&kept.assignment.job)) {
                        kept.to = control.s.clone();
                        let held = match (&kept.receipt, queues) {
                            (Some(_), _) => HeldState::Done,
                            (None, true) => HeldState::Waiting,
                            (None, false) => HeldState::Running,
                        };
                        have.push(Held { job: kept.assignment.job, assignment: kept.proof.clone(), state: held });
                        send.push(*attempt);
                    }
                }
                Verb::Have => (),
                Verb::Cancel { attempts } => {
                    for attempt in attempts {
                        state.cancelled.push(attempt);
                        if state.deaf_to_cancels {
                            continue;
                        }
                        if let Some(kept) = state.kept.get_mut(&attempt) {
                            let claimed_ms = u64::from(!queues);
                            let stopped = || Receipt { claimed_ms, ..receipt(&kept.assignment, attempt, Outcome::Cancelled) };
                            kept.receipt.get_or_insert_with(stopped);
                            send.push(attempt);
                        }
                    }
                }
                Verb::Closed { attempts } => {
                    for closed in attempts {
                        state.kept.remove(&closed.attempt);
                        state.closed.push(closed);
                    }
                }
            }
        }
        let hasty = self.state.lock().unwrap().hasty;
        if hasty {
            self.send(&send).await;
            tokio::time::sleep(super::timings().heartbeat / 10).await;
        }
        self.bus.client.publish(reply, encode(&ControlReply { have, declined: None }).into()).await.unwrap();
        if !hasty {
            self.send(&send).await;
        }
    }

    fn assign(&self, request: &AssignRequest, verifier: &mut Verifier) -> (Vec<AssignAnswer>, Vec<AttemptId>) {
        let assignments = request.assignments.verify::<Assignment>(verifier).unwrap();
        let proofs = request.assignments.proofs();
        let mut state = self.state.lock().unwrap();
        let mut ended = vec![];
        let mut answers = vec![];
        for ((assignment, proof), payload) in assignments.into_iter().zip(proofs).zip(&request.payloads) {
            assert_eq!(Cid::of(&payload.body), assignment.payload);
            let attempt = AttemptId(assignment.cid());
            let spec: serde_json::Value = serde_json::from_slice(&payload.body).unwrap();
            let text = spec["text"].as_str().unwrap_or_default().to_owned();
            let assignment = assignment.into_body();
            let mut on_assign = state.script.on_assign.clone();
            if is_full(spec["kind"].as_str().unwrap_or_default(), state.held()) {
                on_assign = OnAssign::Decline(Decline::QueueFull);
            }
            let outcome = match &on_assign {
                OnAssign::Decline(decline) => {
                    answers.push(AssignAnswer::Declined(decline.clone()));
                    state.declined.push(attempt);
                    continue;
                }
                OnAssign::Echo => Some(completed(&text)),
                OnAssign::Fail(failure) => Some(Outcome::Failed(failure.clone())),
                OnAssign::Claim(blob) => Some(Outcome::Completed(blob.clone())),
                OnAssign::Keep | OnAssign::Queue => None,
                // Above.
                OnAssign::Ignore => continue,
            };
            let receipt = outcome.map(|outcome| receipt(&assignment, attempt, outcome));
            if receipt.is_some() {
                ended.push(attempt);
            }
            state.assigned.push(attempt);
            state.resumed.push(assignment.resume.map(|resume| resume.units));
            state.kept.insert(attempt, Kept { proof, assignment, to: request.s.clone(), text, receipt });
            answers.push(AssignAnswer::Accepted);
        }
        (answers, ended)
    }

    /// Sends the receipts of these attempts, as far as there are some.
    async fn send(&self, attempts: &[AttemptId]) {
        let mut by_scheduler: HashMap<InstanceId, (Vec<Receipt>, Vec<Option<ByteBuf>>)> = HashMap::new();
        {
            let state = self.state.lock().unwrap();
            for kept in attempts.iter().filter_map(|attempt| state.kept.get(attempt)) {
                let Some(receipt) = kept.receipt.clone() else { continue };
                let inline = (receipt.outcome == completed(&kept.text)).then(|| ByteBuf::from(echo_result(&kept.text)));
                let to = by_scheduler.entry(kept.to.clone()).or_default();
                to.0.push(receipt);
                to.1.push(inline);
            }
        }
        for (to, (receipts, results)) in by_scheduler {
            for (receipts, results) in receipts.chunks(64).zip(results.chunks(64)) {
                let message = ReceiptMessage { receipts: self.signer.batch(receipts), results: results.to_vec() };
                let (bus, subject) = (self.bus.clone(), subject::receipt(&self.id, &to));
                tokio::spawn(async move { bus.store(subject, None, encode(&message).into(), super::HUNG).await.unwrap() });
            }
        }
    }

    async fn beat(&self) {
        let body = {
            let state = self.state.lock().unwrap();
            let of = |ended: bool| -> Vec<JobId> {
                state.kept.values().filter(|kept| kept.receipt.is_some() == ended).map(|kept| kept.assignment.job).take(64).collect()
            };
            Heartbeat {
                net: net(),
                device: self.id,
                at: 1,
                name: self.name.clone(),
                version: "1".into(),
                kinds: state.script.kinds.clone(),
                capabilities: vec![],
                trust_scopes: vec![],
                federations: vec![],
                claimed_tier: 0,
                total: Resources { cpu_cores: 4, ..Resources::default() },
                free: Resources { cpu_cores: 4, ..Resources::default() },
                jobs: of(false),
                unsettled: of(true),
                unsettled_more: u32::try_from(state.kept.values().filter(|kept| kept.receipt.is_some()).count().saturating_sub(64))
                    .unwrap(),
                not_working: None,
                consent_at: None,
            }
        };
        let _ = self.bus.store_once(subject::heartbeat(&self.id), None, self.signer.batch(&[body]).encode().into(), super::HUNG).await;
    }
}
