//! Offers, bids, the window's close, and the assignment of the winner.

use std::sync::Arc;
use std::time::Duration;

use bus_schemas::assignment::{AssignAnswer, Assignment, Payload};
use bus_schemas::eligibility::{DeviceView, sort_out};
use bus_schemas::history::{Considered, HistoryEvent};
use bus_schemas::job::JobState;
use bus_schemas::offer::{Bid, BidAnswer, Decline, Quote};
use bus_schemas::{AttemptId, Cid, DeviceId, JobId, UnixMs};
use scheduler_worker::auction::{Bidding, Candidate, Nobody, Weights, Window, choose_whom_to_ask, decide};
use scheduler_worker::bidding::FULL_FOR;
use scheduler_worker::job::{Attempt, Evidence, Phase, Stop};
use scheduler_worker::next_step::left_out;

use super::{BACK_WITHIN, InHand, REQUEST, Request, Scheduler, Stored};
use crate::cx::Cx;
use crate::message::{Ms, Msg, Store, Who};
use crate::mutation::Mutation;

const WINDOW: Ms = 250;
const UNANSWERED_MAX: u32 = 3;
/// An attempt that lasts so long is written to BACK.
const LASTS: Ms = 550;

/// One device of an open auction.
struct Asked {
    view: DeviceView,
    answer: Option<BidAnswer>,
    expected: bool,
}

/// An auction of one job.
pub struct Auction {
    job: JobId,
    asked: Vec<Asked>,
    out: Vec<Considered>,
    opened: Ms,
    at: UnixMs,
}

impl Scheduler {
    pub(super) fn make_ready(&mut self, cx: &mut Cx<'_>, id: &JobId) {
        let Some(one) = self.jobs.get_mut(id) else { return };
        one.job.phase = Phase::Ready { place: 0 };
        self.ready.push(*id);
        if !std::mem::replace(&mut self.ready_armed, true) {
            cx.after(1, Msg::Ready);
        }
    }

    pub(super) fn open_auctions(&mut self, cx: &mut Cx<'_>) {
        let mut ready = std::mem::take(&mut self.ready);
        ready.retain(|id| self.jobs.get(id).is_some_and(|one| matches!(one.job.phase, Phase::Ready { .. })));
        // By class, then by submission.
        ready.sort_by_key(|id| self.jobs.get(id).map(|one| (one.job.admitted.class, one.job.admitted.submitted_at)));
        for id in ready {
            self.open(cx, id);
        }
    }

    fn open(&mut self, cx: &mut Cx<'_>, id: JobId) {
        let Some(one) = self.jobs.get(&id) else { return };
        let (mut fit, out) = sort_out(&one.job.needs, self.fleet.views());
        if fit.is_empty() {
            let decision = bus_schemas::eligibility::nothing_fits(cx.hub_ms(), out);
            return self.wait(cx, id, decision);
        }
        let others: Vec<&DeviceView> = fit.iter().copied().filter(|view| !one.job.avoid.contains(&view.id)).collect();
        if !others.is_empty() {
            fit = others;
        }
        let round = cx.rng.u64(..) >> 11;
        let asked = choose_whom_to_ask(fit, cx.rng.u64(..)).into_iter().cloned();
        let asked: Vec<Asked> = asked
            .map(|view| Asked {
                expected: self.fleet.get(&view.id).is_some_and(scheduler_worker::fleet::Device::is_expected),
                view,
                answer: None,
            })
            .collect();
        let at = cx.hub_ms();
        let offer = Arc::new(one.job.brief().offer(cx.cast.net, round, at, at + WINDOW));
        for device in asked.iter().filter_map(|asked| cx.cast.device(&asked.view.id)) {
            cx.send(Who::Device(device), Msg::Offer { from: self.n, offer: offer.clone() });
        }
        cx.counters.add("auctions");
        cx.after(WINDOW, Msg::Window(round));
        self.auctions.insert(round, Auction { job: id, asked, out, opened: cx.now, at });
        if let Some(one) = self.jobs.get_mut(&id) {
            one.job.phase = Phase::Bidding { round };
            one.job.decision = None;
            one.job.note(JobState::BiddingOpen, at, "offered", "scheduler");
        }
    }

    pub(super) fn hear_bid(&mut self, cx: &mut Cx<'_>, bid: Bid) {
        let Some(auction) = self.auctions.get_mut(&bid.round).filter(|auction| auction.job == bid.job) else {
            return cx.counters.add("bids that came too late");
        };
        let Some(asked) = auction.asked.iter_mut().find(|asked| asked.view.id == bid.device) else { return };
        if asked.answer.is_none() {
            asked.answer = Some(bid.answer);
            let took = cx.now - auction.opened;
            if let Some(found) = self.fleet.get_mut(&bid.device) {
                found.bid_after(took);
            }
        }
        let Some(auction) = self.auctions.get(&bid.round) else { return };
        if auction.asked.iter().all(|asked| asked.answer.is_some() || !asked.expected) {
            self.close_auction(cx, bid.round);
        }
    }

    pub(super) fn close_auction(&mut self, cx: &mut Cx<'_>, round: u64) {
        let Some(auction) = self.auctions.remove(&round) else { return };
        for asked in auction.asked.iter().filter(|asked| asked.answer.is_none()) {
            if let Some(found) = self.fleet.get_mut(&asked.view.id) {
                found.missed_a_window();
            }
        }
        let id = auction.job;
        let Some(one) = self.jobs.get(&id).filter(|one| one.job.phase == Phase::Bidding { round }) else { return };
        let round_trip = |device: &DeviceId| self.fleet.get(device).map_or(0, |found| found.round_trip_ms);
        let candidates: Vec<Candidate<'_>> =
            auction.asked.iter().map(|asked| Candidate { device: &asked.view, round_trip_ms: round_trip(&asked.view.id) }).collect();
        let bidding = Bidding {
            job: id,
            hold: one.job.admitted.hold_mmana,
            gives_up_at: one.job.gives_up_at,
            left_out: left_out(
                &one.job.ended,
                |id| auction.asked.iter().any(|asked| asked.view.id == *id) || auction.out.iter().any(|out| out.device == *id),
                |id| self.fleet.name(id),
            ),
            answers: auction.asked.iter().map(|asked| asked.answer.clone()).collect(),
        };
        let window = Window { round, at: auction.at, took_ms: cx.now - auction.opened };
        let decided = decide(&Weights::default(), window, &candidates, &auction.out, &[bidding]);
        let Some(decided) = decided.into_iter().next() else { return };
        let (now, at) = (cx.instant(), cx.hub_ms());
        let Some(one) = self.jobs.get_mut(&id) else { return };
        let job = &mut one.job;
        job.note(JobState::BiddingClosed, at, decided.decision.why.clone(), "scheduler");
        let mut order = std::collections::VecDeque::from(decided.order);
        match order.pop_front() {
            Some((device, quote)) => {
                (job.decision, job.bids_left) = (Some(decided.decision), order);
                self.assign(cx, id, device, quote);
            }
            // As the shell, which looks again once the device that is full has had time.
            None if decided.nobody == Some(Nobody::Busy) => job.phase = Phase::BackOff { until: now + FULL_FOR },
            None if decided.nobody == Some(Nobody::Answered) && job.unanswered < UNANSWERED_MAX => {
                job.unanswered += 1;
                job.phase = Phase::BackOff { until: now + FULL_FOR };
            }
            None => self.wait(cx, id, decided.decision),
        }
    }

    fn wait(&mut self, cx: &mut Cx<'_>, id: JobId, decision: bus_schemas::history::Decision) {
        let (now, at, pauses) = (cx.instant(), cx.hub_ms(), cx.cast.timings.wait_again);
        let Some(one) = self.jobs.get_mut(&id) else { return };
        let job = &mut one.job;
        let pause = pauses.get(job.waited as usize).or(pauses.last()).copied().unwrap_or(Duration::from_secs(5));
        job.waited = job.waited.saturating_add(1);
        job.phase = Phase::Waiting { next_look: now + pause };
        cx.counters.add("waits for a device");
        let pause_ms = Ms::try_from(pause.as_millis()).unwrap_or(0);
        if job.waiting_why.as_deref() != Some(decision.why.as_str()) {
            job.waiting_why = Some(decision.why.clone());
            let gives_up_at = job.gives_up_at;
            let what = HistoryEvent::Waiting { decision, next_look_at: at + pause_ms, gives_up_at };
            let record = job.record(cx.cast.net, at, what);
            self.record(cx, record, None);
        } else {
            job.transitions.clear();
        }
        // More than its share of waiting jobs are given back with a delay.
        if cx.rng.u8(..) < 40 {
            self.give_back(cx, &id, pause_ms);
        }
    }

    fn assign(&mut self, cx: &mut Cx<'_>, id: JobId, device: DeviceId, quote: Quote) {
        self.fenced(cx, &id, "assign");
        let (now, at) = (cx.instant(), cx.hub_ms());
        let timings = cx.cast.timings;
        let lasts = Ms::try_from((timings.silence + timings.look_first).as_millis()).unwrap_or(0);
        let tier = self.fleet.get(&device).map_or(0, |found| found.record.tier);
        let Some(one) = self.jobs.get_mut(&id) else { return };
        let job = &mut one.job;
        job.last_number += 1;
        if cx.is_broken(Mutation::NumberByDelivery) {
            job.last_number = job.last_number.max(u32::try_from(job.lease.delivered).unwrap_or(u32::MAX));
        }
        let assignment = Assignment {
            net: cx.cast.net,
            job: id,
            attempt: job.last_number,
            device,
            member: job.admitted.member,
            assigned_at: at,
            exp: at + lasts,
            price_mmana: quote.price_mmana,
            tier,
            timeout_ms: job.timeout_ms,
            payload: job.payload,
            resume: job.kept,
        };
        let batch = cx.cast.scheduler_key.batch(std::slice::from_ref(&assignment));
        let Some(proof) = batch.proof(0) else { return };
        let proof = Arc::new(proof);
        let attempt = AttemptId(Cid::of(&proof.b));
        let start_in = Duration::from_millis(quote.start_in_ms.min(assignment.timeout_ms));
        job.phase = Phase::Assigning;
        job.current = Some(attempt);
        let evidence = Evidence { proof: proof.clone(), batch: None };
        job.attempts.push(Attempt::new(attempt, &assignment, evidence, now, now + start_in + timings.silence));
        let payload = Arc::new(Payload { form: job.admitted.form, body: job.admitted.body.clone() });
        self.on_device.entry(device).or_default().insert(id);
        cx.counters.add("assignments");
        self.ask_to_take(cx, Request::Assign { job: id, attempt, device, assignment: proof, payload });
    }

    fn ask_to_take(&mut self, cx: &mut Cx<'_>, request: Request) {
        let Request::Assign { device, assignment, payload, .. } = &request else { return };
        let Some(to) = cx.cast.device(device) else { return };
        let id = cx.id();
        cx.send(Who::Device(to), Msg::Assign { from: self.n, id, assignment: assignment.clone(), payload: payload.clone() });
        cx.after(REQUEST, Msg::RequestTimeout(id));
        self.requests.insert(id, request);
    }

    /// A missing answer is no refusal: the same device is asked again until it is silent.
    pub(super) fn assign_again(&mut self, cx: &mut Cx<'_>, request: Request) {
        if let Request::Assign { job, attempt, .. } = &request
            && self.is_awaited(job, attempt)
        {
            cx.counters.add("assignments sent again");
            self.ask_to_take(cx, request);
        }
    }

    fn is_awaited(&self, job: &JobId, attempt: &AttemptId) -> bool {
        self.jobs.get(job).is_some_and(|one| one.job.phase == Phase::Assigning && one.job.current == Some(*attempt))
    }

    pub(super) fn assign_answered(&mut self, cx: &mut Cx<'_>, id: u64, answer: AssignAnswer) {
        let Some(Request::Assign { job, attempt, .. }) = self.requests.remove(&id) else { return };
        if !self.is_awaited(&job, &attempt) {
            return cx.counters.add("answers that nobody waits for");
        }
        match answer {
            AssignAnswer::Accepted | AssignAnswer::Running | AssignAnswer::Done => self.accepted(cx, &job),
            AssignAnswer::Declined(decline) => self.declined(cx, job, &decline),
        }
    }

    pub(super) fn accepted(&mut self, cx: &mut Cx<'_>, id: &JobId) {
        let now = cx.instant();
        let Some(one) = self.jobs.get_mut(id) else { return };
        one.job.phase = Phase::Running;
        if let Some(attempt) = one.job.current_mut() {
            attempt.accepted = Some(now);
            let attempt = attempt.id;
            cx.after(LASTS, Msg::Lasts { job: *id, attempt });
        }
        if one.job.stop > Stop::No {
            self.cancel_running(cx, id);
        }
    }

    /// Should this scheduler die, the next one knows whose the attempt is.
    pub(super) fn lasts(&mut self, cx: &mut Cx<'_>, id: JobId, attempt: AttemptId) {
        let running = |one: &&InHand| one.job.phase == Phase::Running && one.job.current == Some(attempt);
        if let Some(one) = self.jobs.get(&id).filter(running) {
            let back = one.job.back_on_the_way(cx.cast.net, cx.hub_ms());
            self.stores.store(cx, Store::Back(Box::new(back)), cx.now + BACK_WITHIN, Stored::Back);
        }
    }

    fn declined(&mut self, cx: &mut Cx<'_>, id: JobId, decline: &Decline) {
        let now = cx.instant();
        cx.counters.add("devices that said no");
        self.off_device(&id);
        let Some(one) = self.jobs.get_mut(&id) else { return };
        let job = &mut one.job;
        // The attempt never began there: it is no evidence of anything.
        job.attempts.pop();
        job.note(JobState::BiddingClosed, 0, format!("declined: {decline}"), "scheduler");
        if job.stop > Stop::No {
            return self.close_cancelled(cx, id);
        }
        while let Some((next, quote)) = job.bids_left.pop_front() {
            if self.fleet.get(&next).is_some_and(|found| found.view.away.is_none()) {
                return self.assign(cx, id, next, quote);
            }
        }
        job.phase = Phase::BackOff { until: now + FULL_FOR };
    }
}
