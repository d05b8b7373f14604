//! Opens auctions, collects bids, closes windows, and hands the outcome on.
//!
//! One signed batch of offers goes to all candidates of a group of equal jobs; a window closes as soon as all expected
//! devices have answered.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::time::{Duration, Instant};

use bus_schemas::eligibility::{DeviceView, Needs, nothing_fits, sort_out};
use bus_schemas::history::{Considered, Verdict};
use bus_schemas::job::JobState;
use bus_schemas::limits::{QUEUE_MAX, STEP_MAX};
use bus_schemas::offer::{Bid, BidAnswer, Decline, Offer};
use bus_schemas::{Batch, DeviceId, JobId, UnixMs, subject};
use bytes::Bytes;

use crate::auction::{Bidding, Candidate, Decided, Nobody, Window, choose_whom_to_ask, decide};
use crate::crash;
use crate::job::{Brief, Job, Phase};
use crate::measure;
use crate::next_step::left_out;
use crate::world::{Out, World, is_instant};

/// Auctions open at once; more work piles into the next one.
const OPEN_MAX: usize = 4;
/// While auctions are open and more jobs wait than devices have room for, fewer jobs than this wait for more room.
const BATCH_MIN: usize = 32;
/// Jobs that take no place in a device's queue, on one device at once: enough batches to keep it and the way there busy.
const INSTANT_MAX: usize = OPEN_MAX * STEP_MAX;
/// Auctions without a single answer that a job has in quick succession; after that it waits.
const UNANSWERED_MAX: u32 = 3;
/// A device that said its queue is full is asked again after this, or at its next receipt.
pub const FULL_FOR: Duration = Duration::from_millis(250);

/// One device of an open auction.
pub struct Asked {
    pub view: DeviceView,
    /// In the order of the jobs.
    answers: Vec<Option<BidAnswer>>,
    left: usize,
    expected: bool,
}

/// One open auction.
pub struct Auction {
    pub round: u64,
    jobs: Vec<JobId>,
    place: HashMap<JobId, usize>,
    asked: BTreeMap<DeviceId, Asked>,
    out: Vec<Considered>,
    opened: Instant,
    at: UnixMs,
    pub deadline: Instant,
}
impl Auction {
    /// Whether a device was asked, or is known not to fit.
    fn knows(&self, device: &DeviceId) -> bool {
        self.asked.contains_key(device) || self.out.iter().any(|out| out.device == *device)
    }
    /// All whose answer is waited for have answered.
    fn is_complete(&self) -> bool {
        self.asked.values().all(|asked| asked.left == 0 || !asked.expected)
            && (self.asked.values().any(|asked| asked.expected) || self.asked.values().all(|asked| asked.left == 0))
    }
}

/// Devices that may be asked.
pub struct Candidates<'a> {
    /// Each with how many more jobs it may get.
    pub with_room: Vec<(&'a DeviceView, usize)>,
    /// Those that have room for none.
    full: Vec<&'a DeviceView>,
    /// Those that do not fit.
    out: Vec<Considered>,
}
impl Candidates<'_> {
    /// Those who are asked, and all others with the reason.
    pub fn choose(mut self) -> (Vec<DeviceView>, Vec<Considered>) {
        let chosen = choose_whom_to_ask(self.with_room.iter().map(|(view, _)| *view).collect(), random_u64());
        let full = || Verdict::Out { reasons: vec![Decline::QueueFull.to_string()] };
        self.out.extend(self.full.iter().map(|view| Considered { device: view.id, name: view.name.clone(), verdict: full() }));
        let not_asked = self.with_room.iter().filter(|(view, _)| !chosen.iter().any(|asked| asked.id == view.id));
        self.out.extend(not_asked.map(|(view, _)| Considered { device: view.id, name: view.name.clone(), verdict: Verdict::NotAsked }));
        (chosen.into_iter().cloned().collect(), self.out)
    }
}

impl World {
    /// Opens auctions as long as jobs are ready, devices have room, and fewer than `OPEN_MAX` are open. Looks only where
    /// something changed that may let one open.
    pub fn open_auctions(&mut self, now: Instant) {
        if !std::mem::take(&mut self.try_open) || self.stopping {
            return;
        }
        // Groups whose devices have no room now: the next receipt or the end of an auction brings them back.
        let mut blocked: Vec<String> = Vec::new();
        while self.auctions.len() < OPEN_MAX {
            let jobs = &self.jobs;
            let good = |id: &JobId, place| jobs.get(id).is_some_and(|job| job.phase == Phase::Ready { place });
            let Some((name, group)) = self.ready.first_group(&blocked, STEP_MAX, good) else { return };
            let Some(first) = group.first().and_then(|id| self.jobs.get(id)) else { return };
            let found = match self.candidates(&first.needs, &first.avoid, now) {
                Ok(found) => found,
                Err(out) => {
                    let decision = nothing_fits(self.hub_ms(), out);
                    self.ready.take(&name, group.len());
                    for id in group {
                        self.wait(id, decision.clone(), now);
                    }
                    continue;
                }
            };
            let in_auction: usize = self.auctions.values().map(|auction| auction.jobs.len()).sum();
            let free = found.with_room.iter().map(|(_, room)| room).sum::<usize>().saturating_sub(in_auction);
            let take = group.len().min(free);
            if take == 0 || (take < BATCH_MIN && take < group.len() && !self.auctions.is_empty()) {
                blocked.push(name);
                continue;
            }
            let (asked, out) = found.choose();
            self.ready.take(&name, take);
            if let Some(pace) = self.paces.get_mut(&name) {
                pace.took(take);
            }
            self.open(group.into_iter().take(take).collect(), asked, out, now);
        }
    }

    /// Who may be asked about jobs like this.
    ///
    /// # Errors
    /// What speaks against each device, where none fits.
    pub fn candidates(&self, needs: &Needs, avoid: &[DeviceId], now: Instant) -> Result<Candidates<'_>, Vec<Considered>> {
        let (mut fit, out) = sort_out(needs, self.fleet.views());
        if fit.is_empty() {
            return Err(out);
        }
        // Devices that failed these jobs are left out as long as others fit.
        let others: Vec<&DeviceView> = fit.iter().copied().filter(|view| !avoid.contains(&view.id)).collect();
        if !others.is_empty() {
            fit = others;
        }
        let mut full = Vec::new();
        let with_room = fit.into_iter().filter_map(|view| match self.room_on(&view.id, &needs.kind, now) {
            0 => {
                full.push(view);
                None
            }
            room => Some((view, room)),
        });
        let with_room = with_room.collect();
        Ok(Candidates { with_room, full, out })
    }

    /// How many more jobs of a kind this scheduler may put on a device.
    fn room_on(&self, device: &DeviceId, kind: &str, now: Instant) -> usize {
        let load = self.on_device.get(device);
        if is_instant(kind) {
            return INSTANT_MAX.saturating_sub(load.map_or(0, |load| load.jobs.len()));
        }
        let full = self.fleet.get(device).is_some_and(|found| found.full_until.is_some_and(|until| until > now));
        if full { 0 } else { QUEUE_MAX.saturating_sub(load.map_or(0, |load| load.queued)) }
    }

    fn open(&mut self, jobs: Vec<JobId>, asked: Vec<DeviceView>, out: Vec<Considered>, now: Instant) {
        let briefs: Vec<Brief> = jobs.iter().filter_map(|id| self.jobs.get(id)).map(Job::brief).collect();
        let auction = self.ask_devices(&briefs, asked, out, now);
        self.begin(auction);
        crash::at("after_offer");
    }

    /// The jobs of an auction are in it from now on.
    pub fn begin(&mut self, auction: Auction) {
        let actor = self.actor();
        for id in &auction.jobs {
            let Some(job) = self.jobs.get_mut(id) else { continue };
            job.phase = Phase::Bidding { round: auction.round };
            job.decision = None;
            job.note(JobState::BiddingOpen, auction.at, "offered", actor.clone());
        }
        self.auctions.insert(auction.round, auction);
    }

    /// Sends offers; the auction that collects the answers.
    pub fn ask_devices(&mut self, briefs: &[Brief], asked: Vec<DeviceView>, out: Vec<Considered>, now: Instant) -> Auction {
        // 53 bits: JSON readers keep it exact. Never a round that is open here.
        let mut round = random_u64() >> 11;
        while self.auctions.contains_key(&round) || self.ahead.contains_key(&round) {
            round = round.wrapping_add(1);
        }
        let at = self.hub_ms();
        let window = self.config.timings.bid_window;
        let exp = at + u64::try_from(window.as_millis()).unwrap_or(0);
        let offers: Vec<Offer> = briefs.iter().map(|brief| brief.offer(self.net, round, at, exp)).collect();
        let payload: Bytes = self.config.signer.batch(&offers).encode().into();
        for view in &asked {
            self.out.push(Out {
                subject: subject::offer(&view.id),
                reply: Some(subject::bid(&view.id, &self.s)),
                headers: None,
                payload: payload.clone(),
            });
        }
        measure::auction_opened();
        let asked = asked
            .into_iter()
            .map(|view| {
                let expected = self.fleet.get(&view.id).is_some_and(crate::fleet::Device::is_expected);
                (view.id, Asked { view, answers: vec![None; briefs.len()], left: briefs.len(), expected })
            })
            .collect();
        let jobs: Vec<JobId> = briefs.iter().map(|brief| brief.job).collect();
        let place = jobs.iter().enumerate().map(|(at, id)| (*id, at)).collect();
        Auction { round, jobs, place, asked, out, opened: now, at, deadline: now + window }
    }

    /// An auction that collects answers, of jobs in hand or ahead of its job.
    fn auction(&mut self, round: u64) -> Option<&mut Auction> {
        match self.auctions.get_mut(&round) {
            Some(auction) => Some(auction),
            None => self.ahead.get_mut(&round).map(|ahead| &mut ahead.auction),
        }
    }

    /// A message on `mesh.v1.dev.<d>.bid.<s>`.
    pub fn hear_bids(&mut self, message: &async_nats::Message, now: Instant) {
        let Some(device) = subject::device_of(&message.subject) else { return };
        if message.status == Some(async_nats::StatusCode::NO_RESPONDERS) {
            self.nobody_listens(&device);
            self.close_complete(now);
            return;
        }
        let Some(did) = self.fleet.get(&device).map(|found| found.record.did) else { return };
        let bids = match Batch::decode(&message.payload).and_then(|batch| batch.verify::<Bid>(&mut self.verifier)) {
            Ok(bids) => bids,
            Err(problem) => {
                measure::refused("bid");
                tracing::warn!(%device, %problem, "bids were refused");
                return;
            }
        };
        measure::bids(bids.len());
        let mut rounds = BTreeSet::new();
        for bid in bids {
            if bid.by() != did || bid.device != device || bid.to != self.s || bid.net != self.net {
                measure::refused("bid");
                continue;
            }
            let bid = bid.into_body();
            let Some(auction) = self.auction(bid.round) else { continue };
            let Some(place) = auction.place.get(&bid.job).copied() else { continue };
            let Some(asked) = auction.asked.get_mut(&device) else { continue };
            // The first word counts.
            if let Some(answer) = asked.answers.get_mut(place)
                && answer.is_none()
            {
                *answer = Some(bid.answer);
                asked.left -= 1;
                rounds.insert(bid.round);
            }
        }
        let opened = rounds.iter().filter_map(|round| self.auction(*round).map(|auction| auction.opened)).min();
        if let (Some(opened), Some(found)) = (opened, self.fleet.get_mut(&device)) {
            found.bid_after(u64::try_from(now.duration_since(opened).as_millis()).unwrap_or(u64::MAX));
        }
        self.close_complete(now);
    }

    /// Its server said that nobody listens: a definite no to every open offer.
    fn nobody_listens(&mut self, device: &DeviceId) {
        let at = self.hub_ms();
        self.fleet.unreachable(device, at);
        for auction in self.auctions.values_mut().chain(self.ahead.values_mut().map(|ahead| &mut ahead.auction)) {
            if let Some(asked) = auction.asked.get_mut(device) {
                for answer in asked.answers.iter_mut().filter(|answer| answer.is_none()) {
                    *answer = Some(BidAnswer::No(Decline::Unreachable));
                }
                asked.left = 0;
            }
        }
    }

    pub fn close_complete(&mut self, now: Instant) {
        let complete: Vec<u64> = self.auctions.values().filter(|auction| auction.is_complete()).map(|auction| auction.round).collect();
        for round in complete {
            self.close(round, now);
        }
    }

    /// Windows whose time is over.
    pub fn close_due_auctions(&mut self, now: Instant) {
        let due: Vec<u64> = self.auctions.values().filter(|auction| auction.deadline <= now).map(|auction| auction.round).collect();
        for round in due {
            self.close(round, now);
        }
    }

    fn close(&mut self, round: u64, now: Instant) {
        let Some(auction) = self.auctions.remove(&round) else { return };
        self.try_open = true;
        let mut full = Vec::new();
        for (device, asked) in &auction.asked {
            if asked.left == auction.jobs.len()
                && let Some(found) = self.fleet.get_mut(device)
            {
                found.missed_a_window();
            }
            if asked.answers.iter().any(|answer| matches!(answer, Some(BidAnswer::No(Decline::QueueFull)))) {
                full.push(*device);
            }
        }
        for device in full {
            if let Some(found) = self.fleet.get_mut(&device) {
                found.full_until = Some(now + FULL_FOR);
                self.open_at = Some(now + FULL_FOR);
            }
        }
        let candidates: Vec<Candidate<'_>> = auction
            .asked
            .values()
            .map(|asked| Candidate {
                device: &asked.view,
                round_trip_ms: self.fleet.get(&asked.view.id).map_or(0, |found| found.round_trip_ms),
            })
            .collect();
        let bidding: Vec<Bidding> = auction
            .jobs
            .iter()
            .enumerate()
            .filter_map(|(place, id)| {
                let job = self.jobs.get(id).filter(|job| job.phase == Phase::Bidding { round })?;
                Some(Bidding {
                    job: *id,
                    hold: job.admitted.hold_mmana,
                    gives_up_at: job.gives_up_at,
                    left_out: left_out(&job.ended, |id| auction.knows(id), |id| self.fleet.name(id)),
                    answers: auction.asked.values().map(|asked| asked.answers.get(place).cloned().flatten()).collect(),
                })
            })
            .collect();
        let took_ms = u64::try_from(now.duration_since(auction.opened).as_millis()).unwrap_or(u64::MAX);
        let window = Window { round, at: auction.at, took_ms };
        crash::at("after_bids");
        let decided = decide(self.config.scoring.as_ref(), window, &candidates, &auction.out, &bidding);
        self.outcome(decided, now);
    }

    fn outcome(&mut self, decided: Vec<Decided>, now: Instant) {
        let at = self.hub_ms();
        let actor = self.actor();
        let mut wins = BTreeMap::<DeviceId, Vec<_>>::new();
        for one in decided {
            let Some(job) = self.jobs.get_mut(&one.job) else { continue };
            job.note(JobState::BiddingClosed, at, one.decision.why.clone(), actor.clone());
            let mut order = std::collections::VecDeque::from(one.order);
            match order.pop_front() {
                Some((device, quote)) => {
                    job.decision = Some(one.decision);
                    job.bids_left = order;
                    wins.entry(device).or_default().push((one.job, quote));
                }
                None if one.nobody == Some(Nobody::Busy) => self.make_ready(one.job),
                None if one.nobody == Some(Nobody::Answered) && job.unanswered < UNANSWERED_MAX => {
                    job.unanswered += 1;
                    let until = now + FULL_FOR;
                    job.phase = Phase::BackOff { until };
                    self.back_off_by(until);
                }
                None => self.wait(one.job, one.decision, now),
            }
        }
        self.assign(wins, now);
    }
}

/// A random number; the clock's low bits where the operating system has none, because chance here decides nothing that must be secret.
pub fn random_u64() -> u64 {
    bus::keys::random::<8>().map_or_else(|_| bus::hub_time::here_ms().wrapping_mul(0x9e37_79b9_7f4a_7c15), u64::from_le_bytes)
}
