//! A ledger-worker: stands by, takes the lease, decides with the real books, appends with the expected sequence, and steps down when
//! somebody else has written.

use std::collections::VecDeque;

use bus_schemas::envelope;
use bus_schemas::ledger::{Fact, HoldState, LedgerOutcome, What, fact_id};
use bus_schemas::limits::BATCH_MAX;
use bytes::Bytes;
use ledger_worker::posting::standing::Taken;
use ledger_worker::posting::{Standing, clock};
use ledger_worker::request::{self, Request};
use ledger_worker::round::{self, Message, Round};

use crate::cx::Cx;
use crate::message::{Ms, Msg, NotStored, Store, Who};
use crate::mutation::Mutation;

const LEASE: Ms = 3_000;
const BEAT: Ms = 1_000;
const SWEEP: Ms = 10_000;
const TRY: Ms = 2_000;
const PATIENCE: Ms = 30_000;
const FRESH: Ms = 1_000;
/// So many facts, or so old, and a checkpoint follows.
const CHECKPOINT_AGE_MS: u64 = 50_000;

enum State {
    Standby,
    /// The write of the lease is on its way.
    Taking(u64),
    Active,
}

/// Messages on their way to the stream, and who waits for them.
struct Append {
    messages: VecDeque<Message>,
    answers: Vec<(Who, u64, Vec<LedgerOutcome>)>,
    checkpoint: bool,
    id: u64,
    sent: Ms,
    since: Ms,
    repeated: bool,
}

pub struct Ledger {
    instance: usize,
    state: State,
    standing: Standing,
    /// Revision of the lease as last seen, and since when.
    lease: (u64, Ms),
    renewing: u64,
    queue: VecDeque<(Who, u64, Bytes)>,
    append: Option<Append>,
    /// When the stream's end was last seen to be where the books are.
    seen: Option<Ms>,
}

impl Ledger {
    pub fn new(cx: &mut Cx<'_>) -> Self {
        let instance = usize::try_from(cx.id()).unwrap_or(0);
        Self {
            instance,
            state: State::Standby,
            standing: Standing::new(cx.cast.net, cx.cast.ledger_keys()),
            lease: (0, cx.now),
            renewing: 0,
            queue: VecDeque::new(),
            append: None,
            seen: None,
        }
    }

    /// The digest of its books, where it writes and nothing is on its way.
    pub fn digest(&self) -> Option<(u64, [u8; 32])> {
        let books = self.standing.books();
        (matches!(self.state, State::Active) && self.append.is_none()).then(|| (books.seq(), books.digest()))
    }
    pub fn is_idle(&self) -> bool {
        self.append.is_none() && self.queue.is_empty()
    }

    pub fn on(&mut self, cx: &mut Cx<'_>, msg: Msg) {
        match msg {
            Msg::Start => {
                cx.after(1, Msg::Beat);
                cx.after(SWEEP, Msg::Sweep);
            }
            Msg::Beat => {
                cx.after(BEAT, Msg::Beat);
                self.beat(cx);
            }
            Msg::Sweep => {
                cx.after(SWEEP, Msg::Sweep);
                self.sweep(cx);
            }
            // Only who is active listens.
            Msg::Ask { from, id, bytes } if matches!(self.state, State::Active) => {
                self.queue.push_back((from, id, bytes));
                self.next_round(cx);
            }
            Msg::PubAck { id, answer } => self.acked(cx, id, answer),
            Msg::Again(id) => self.again(cx, id),
            _ => {}
        }
    }

    fn beat(&mut self, cx: &mut Cx<'_>) {
        match self.state {
            State::Standby | State::Taking(_) => self.stand_by(cx),
            State::Active if self.append.is_none() => {
                let expected = self.lease.0;
                self.renewing = cx.store_once(Store::Lease { holder: self.instance, expected, released: false });
                self.look(cx);
            }
            State::Active => {}
        }
    }

    fn stand_by(&mut self, cx: &mut Cx<'_>) {
        self.state = State::Standby;
        if !cx.linked || !self.follow(cx) {
            return;
        }
        let lease = cx.hub.lease;
        if self.lease.0 != lease.revision {
            self.lease = (lease.revision, cx.now);
        }
        let free = lease.holder.is_none_or(|holder| holder == self.instance) || lease.released || cx.now - self.lease.1 >= LEASE;
        if free {
            let id = cx.store_once(Store::Lease { holder: self.instance, expected: lease.revision, released: false });
            self.state = State::Taking(id);
        }
    }

    /// Reads the stream to its end.
    fn follow(&mut self, cx: &mut Cx<'_>) -> bool {
        let from = usize::try_from(self.standing.books().seq()).unwrap_or(0);
        for (bytes, _) in cx.hub.ledger.iter().skip(from) {
            let seq = self.standing.books().seq() + 1;
            match self.standing.take(cx.verifier, seq, bytes) {
                Ok(Taken::Facts(_)) => {}
                Ok(Taken::Foreign(why)) => cx.wrong(format!("sequence {seq} of LEDGER counts for nothing: {why}")),
                Err(wrong) => {
                    cx.wrong(format!("sequence {seq} of LEDGER contradicts the books: {wrong}"));
                    return false;
                }
            }
        }
        true
    }

    fn acked(&mut self, cx: &mut Cx<'_>, id: u64, answer: Result<u64, NotStored>) {
        match (&self.state, answer) {
            (State::Taking(taking), Ok(revision)) if *taking == id => {
                self.lease = (revision, cx.now);
                if cx.linked && self.follow(cx) {
                    cx.counters.add("writers took over");
                    (self.state, self.seen) = (State::Active, None);
                } else {
                    self.state = State::Standby;
                }
            }
            (State::Taking(taking), Err(_)) if *taking == id => self.state = State::Standby,
            (State::Active, Ok(revision)) if self.renewing == id => self.lease = (revision, cx.now),
            (State::Active, Err(_)) if self.renewing == id => {
                if cx.hub.lease.holder == Some(self.instance) {
                    self.lease = (cx.hub.lease.revision, cx.now);
                } else {
                    cx.counters.add("writers lost the lease");
                    self.over(cx, false);
                }
            }
            (State::Active, _) if self.append.as_ref().is_some_and(|append| append.id == id) => self.appended(cx, answer),
            _ => {}
        }
    }

    /// The turn is over; what was decided and is not stored never happened.
    fn over(&mut self, cx: &mut Cx<'_>, drop_books: bool) {
        let behind = self.append.take().is_some();
        if drop_books || behind {
            self.standing = Standing::new(cx.cast.net, cx.cast.ledger_keys());
        }
        self.queue.clear();
        (self.state, self.seen) = (State::Standby, None);
    }

    /// Looks at the stream's end; whether the books are surely those.
    fn look(&mut self, cx: &mut Cx<'_>) -> bool {
        if !cx.linked {
            return false;
        }
        if cx.hub.ledger_end() == self.standing.books().seq() {
            self.seen = Some(cx.now);
            return true;
        }
        cx.counters.add("writers fenced by a look");
        self.over(cx, true);
        false
    }

    fn next_round(&mut self, cx: &mut Cx<'_>) {
        if self.append.is_some() || self.queue.is_empty() {
            return;
        }
        let (now, parts) = (cx.hub_ms(), cx.cast.parts());
        let waiting = std::mem::take(&mut self.queue);
        let mut answers = Vec::new();
        let mut round = Round::new(&mut self.standing, &cx.cast.ledger_key);
        let mut paid_again = Vec::new();
        for (from, id, bytes) in waiting {
            match request::read(cx.verifier, &bytes) {
                Request::Good { commands, evidence } => match round.answer(&parts, now, &commands, &evidence) {
                    Ok(outcomes) => {
                        for (command, outcome) in commands.iter().zip(&outcomes) {
                            if let (bus_schemas::ledger::Op::Settle { .. }, LedgerOutcome::Done(done)) = (&command.op, outcome)
                                && done.repeat
                            {
                                cx.counters.add("settlements asked again");
                                paid_again.push(done.seq);
                            }
                        }
                        answers.push((from, id, outcomes));
                    }
                    Err(wrong) => cx.wrong(format!("a decision contradicts the books: {wrong}")),
                },
                Request::Refused(outcomes) => answers.push((from, id, outcomes)),
                Request::Unreadable(problem) => cx.wrong(format!("a request cannot be read: {problem}")),
            }
        }
        let messages: VecDeque<Message> = round.finish().into();
        if cx.is_broken(Mutation::SettleTwice) {
            paid_again.into_iter().for_each(|seq| pay_again(cx, seq));
        }
        if messages.is_empty() {
            let fresh = self.seen.is_some_and(|seen| cx.now - seen < FRESH);
            if fresh || cx.is_broken(Mutation::StaleAnswers) || self.look(cx) {
                self.check_fresh(cx);
                self.answer(cx, answers);
            }
            return;
        }
        self.append_all(cx, messages, answers, false);
    }

    fn append_all(&mut self, cx: &mut Cx<'_>, messages: VecDeque<Message>, answers: Vec<(Who, u64, Vec<LedgerOutcome>)>, checkpoint: bool) {
        self.append = Some(Append { messages, answers, checkpoint, id: 0, sent: cx.now, since: cx.now, repeated: false });
        self.send_append(cx);
    }

    fn send_append(&mut self, cx: &mut Cx<'_>) {
        let Some(append) = &mut self.append else { return };
        let Some(message) = append.messages.front() else { return };
        let expected = (!cx.is_broken(Mutation::NoExpectedSequence)).then(|| message.seq - 1);
        append.sent = cx.now;
        append.id = cx.store_once(Store::Ledger { bytes: message.payload.clone(), expected });
        cx.after(TRY, Msg::Again(append.id));
    }

    fn again(&mut self, cx: &mut Cx<'_>, id: u64) {
        let Some(append) = self.append.as_mut().filter(|append| append.id == id) else { return };
        if cx.now - append.since > PATIENCE {
            cx.counters.add("writers without an answer");
            return self.over(cx, true);
        }
        append.repeated = true;
        cx.counters.add("appends repeated");
        self.send_append(cx);
    }

    fn appended(&mut self, cx: &mut Cx<'_>, answer: Result<u64, NotStored>) {
        let Some(append) = &mut self.append else { return };
        let Some(message) = append.messages.front() else { return };
        let stored = match answer {
            Ok(seq) => seq == message.seq || cx.is_broken(Mutation::NoExpectedSequence),
            Err(_) if append.repeated && cx.is_broken(Mutation::RefusedIsStored) => true,
            Err(_) if append.repeated => {
                let at = usize::try_from(message.seq - 1).unwrap_or(0);
                let own = cx.hub.ledger.get(at).is_some_and(|(bytes, _)| *bytes == message.payload);
                if own {
                    cx.counters.add("own appends found stored");
                }
                own
            }
            Err(_) => false,
        };
        if !stored {
            cx.counters.add("fenced appends");
            return self.over(cx, true);
        }
        // A repeat may have been stored long ago, with others behind it since.
        self.seen = if append.repeated { None } else { Some(append.sent) };
        (append.since, append.repeated) = (cx.now, false);
        let message = append.messages.pop_front();
        if append.checkpoint
            && let Some(message) = message
            && let Err(wrong) = round::take_checkpoint(&mut self.standing, message)
        {
            return cx.wrong(format!("a checkpoint contradicts the books: {wrong}"));
        }
        if append.messages.is_empty() {
            let answers = std::mem::take(&mut append.answers);
            self.append = None;
            self.answer(cx, answers);
            self.next_round(cx);
        } else {
            self.send_append(cx);
        }
    }

    /// What was stored more than a moment ago is known to whoever answers.
    fn check_fresh(&self, cx: &mut Cx<'_>) {
        let seq = usize::try_from(self.standing.books().seq()).unwrap_or(0);
        if cx.hub.ledger.get(seq).is_some_and(|(_, at)| at + FRESH < cx.now) {
            cx.wrong(format!("an answer on books of sequence {seq}, LEDGER has had more for a second"));
        }
    }

    fn answer(&mut self, cx: &mut Cx<'_>, answers: Vec<(Who, u64, Vec<LedgerOutcome>)>) {
        for (to, id, outcomes) in answers {
            cx.send(to, Msg::Answer { id, outcomes });
        }
    }

    /// What time alone brings.
    fn sweep(&mut self, cx: &mut Cx<'_>) {
        if !matches!(self.state, State::Active) || self.append.is_some() {
            return;
        }
        let now = cx.hub_ms();
        let mut round = Round::new(&mut self.standing, &cx.cast.ledger_key);
        let brought = round.expire(now, BATCH_MAX).and_then(|voided| round.ripen(now, BATCH_MAX).map(|()| voided));
        match brought {
            Ok(0) => {}
            Ok(_) => cx.counters.add("holds expired"),
            Err(wrong) => return cx.wrong(format!("a decision contradicts the books: {wrong}")),
        }
        let messages: VecDeque<Message> = round.finish().into();
        if !messages.is_empty() {
            return self.append_all(cx, messages, vec![], false);
        }
        if let Some(message) = round::checkpoint(&self.standing, &cx.cast.ledger_key, now, clock::CHECKPOINT_FACTS, CHECKPOINT_AGE_MS) {
            cx.counters.add("checkpoints of the books");
            self.append_all(cx, VecDeque::from([message]), vec![], true);
        }
    }
}

/// A broken writer: the settlement in message `seq` once more, under another id.
fn pay_again(cx: &mut Cx<'_>, seq: u64) {
    let at = usize::try_from(seq).unwrap_or(0).wrapping_sub(1);
    let Some((bytes, _)) = cx.hub.ledger.get(at) else { return };
    let Ok(batch) = envelope::JsonBatch::decode(bytes) else { return };
    for body in &batch.b {
        let Ok(mut fact) = serde_json::from_str::<Fact>(body) else { continue };
        if matches!(fact.what, What::Settle { .. }) {
            let id = cx.id();
            fact.id = fact_id::mint(&cx.cast.member_ids[0], &format!("again:{id}"));
            fact.at_ms = cx.hub_ms();
            let body = serde_json::to_string(&fact).unwrap_or_default();
            let bytes = Bytes::from(cx.cast.ledger_key.json_batch::<Fact>(vec![body]).encode());
            cx.store_once(Store::Ledger { bytes, expected: None });
        }
    }
}

/// How a hold ended, in a word.
pub fn ending(state: &HoldState) -> &'static str {
    match state {
        HoldState::Open => "open",
        HoldState::Settled { .. } => "settled",
        HoldState::Voided { .. } => "void",
    }
}
