//! Decides auctions: whom to ask, and who wins. Touches nothing: time, chance and measurements come in as values.
//!
//! Every term of a score lies on a fixed range of 0 to 10,000, so that a score means the same in every auction. Hard
//! requirements and limits are checked before any score is looked at.

use std::cmp::Reverse;
use std::collections::{BTreeMap, BTreeSet};

use bus_schemas::eligibility::{DeviceView, rank};
use bus_schemas::history::{Considered, Decision, Score, Verdict};
use bus_schemas::limits::OFFERS_MAX;
use bus_schemas::offer::{BidAnswer, Decline, Quote};
use bus_schemas::{DeviceId, JobId, MilliMana, UnixMs};

/// A device with fewer results than this is a newcomer; one auction in ten prefers it.
pub const NEWCOMER_RESULTS: u64 = 10;
/// A bid that finishes more than twice as late as the best, and by more than this, is out. Forgives noise between fast devices.
pub const LATE_MS: u64 = 50;
/// How many devices that do not fit, or were not asked, a decision record names; `why` always counts all.
const NAMED_MAX: usize = 16;
const TOP: u32 = 10_000;

/// The terms of one bid, each 0 to 10,000, higher is better.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Terms {
    pub price: u32,
    pub reputation: u32,
    pub resources: u32,
    pub latency: u32,
}

/// How terms become a score: the part of a policy that can be exchanged.
pub trait Scoring: Send + Sync {
    fn score(&self, terms: &Terms) -> Score;
}

/// The default policy: a weight per term.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Weights {
    pub price: u32,
    pub reputation: u32,
    pub resources: u32,
    pub latency: u32,
}
impl Default for Weights {
    fn default() -> Self {
        Self { price: 1, reputation: 50, resources: 1, latency: 1 }
    }
}
impl Scoring for Weights {
    fn score(&self, terms: &Terms) -> Score {
        let weighted = |term: u32, weight: u32| u64::from(term) * u64::from(weight);
        Score {
            price: terms.price,
            reputation: terms.reputation,
            resources: terms.resources,
            latency: terms.latency,
            total: weighted(terms.price, self.price)
                + weighted(terms.reputation, self.reputation)
                + weighted(terms.resources, self.resources)
                + weighted(terms.latency, self.latency),
        }
    }
}

/// A device that takes part, with what was measured about it.
#[derive(Debug, Clone, Copy)]
pub struct Candidate<'a> {
    pub device: &'a DeviceView,
    /// From offer to bid, lately.
    pub round_trip_ms: u64,
}

/// One job of an auction with what each candidate said; `answers` stands in the order of the candidates.
#[derive(Debug, Clone)]
pub struct Bidding {
    pub job: JobId,
    /// The most the member pays.
    pub hold: MilliMana,
    /// Hub time: it waits for its begin until then.
    pub gives_up_at: UnixMs,
    /// Devices that were not asked because of what they did with it before.
    pub left_out: Vec<Considered>,
    pub answers: Vec<Option<BidAnswer>>,
}

/// When an auction was and how long its window was open.
#[derive(Debug, Clone, Copy)]
pub struct Window {
    /// Random; also the auction's name in offers and bids.
    pub round: u64,
    /// Hub time.
    pub at: UnixMs,
    pub took_ms: u64,
}
impl Window {
    /// One auction in ten prefers newcomers.
    fn prefers_newcomers(&self) -> bool {
        self.round.is_multiple_of(10)
    }
}

/// The outcome for one job.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Decided {
    pub job: JobId,
    /// Best first: a definite no lets the next one win.
    pub order: Vec<(DeviceId, Quote)>,
    pub decision: Decision,
    /// Where `order` is empty: what kind of nobody.
    pub nobody: Option<Nobody>,
}

/// Why an auction found nobody.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Nobody {
    /// Not one word came in time: a hiccup, worth asking again soon.
    Answered,
    /// All who answered said that their queue is full: worth asking again as soon as something ends there.
    Busy,
    /// The noes have reasons that last.
    Willing,
}

/// Chooses whom to ask: of the devices that fit at most [`OFFERS_MAX`], the best known and a random rest. `chance` is a random number.
pub fn choose_whom_to_ask(mut fit: Vec<&DeviceView>, chance: u64) -> Vec<&DeviceView> {
    if fit.len() <= OFFERS_MAX {
        return fit;
    }
    rank(&mut fit);
    let mut rest = fit.split_off(OFFERS_MAX / 2);
    let mut state = chance | 1;
    while fit.len() < OFFERS_MAX && !rest.is_empty() {
        // One step of a xorshift generator: enough to spread offers, and the same everywhere for the same `chance`.
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        let at = usize::try_from(state % rest.len() as u64).unwrap_or(0);
        fit.push(rest.swap_remove(at));
    }
    fit
}

/// Decides every job of one auction, in order: what an earlier job takes on a device delays the later ones there.
pub fn decide(scoring: &dyn Scoring, window: Window, candidates: &[Candidate<'_>], out: &[Considered], jobs: &[Bidding]) -> Vec<Decided> {
    let mut taken: BTreeMap<DeviceId, u64> = BTreeMap::new();
    jobs.iter()
        .map(|job| {
            let decided = decide_one(scoring, window, candidates, out, job, &taken);
            if let Some((device, quote)) = decided.order.first() {
                *taken.entry(*device).or_default() += quote.duration_ms;
            }
            decided
        })
        .collect()
}

struct Ranked<'a> {
    candidate: &'a Candidate<'a>,
    quote: Quote,
    finish_ms: u64,
    score: Score,
}

fn decide_one(
    scoring: &dyn Scoring,
    window: Window,
    candidates: &[Candidate<'_>],
    out: &[Considered],
    job: &Bidding,
    taken: &BTreeMap<DeviceId, u64>,
) -> Decided {
    let mut ranked: Vec<Ranked<'_>> = Vec::new();
    let mut considered: Vec<Considered> = Vec::with_capacity(candidates.len() + out.len().min(NAMED_MAX));
    let (mut answered, mut busy) = (0_usize, 0_usize);
    for (candidate, answer) in candidates.iter().zip(job.answers.iter().map(Option::as_ref).chain(std::iter::repeat(None))) {
        let verdict = match answer {
            None => Verdict::NoAnswer,
            Some(BidAnswer::No(decline)) => {
                answered += 1;
                busy += usize::from(*decline == Decline::QueueFull);
                Verdict::Declined { reason: decline.to_string() }
            }
            Some(BidAnswer::Bid(quote)) if quote.price_mmana > job.hold => {
                answered += 1;
                Verdict::Out { reasons: vec![format!("its price {} is above the job's limit {}", quote.price_mmana, job.hold)] }
            }
            Some(BidAnswer::Bid(quote)) if begins_too_late(quote, window, job, taken.get(&candidate.device.id)) => {
                answered += 1;
                busy += 1;
                Verdict::Out { reasons: vec![format!("it would begin in {} ms, and the job waits no longer than that", quote.start_in_ms)] }
            }
            Some(BidAnswer::Bid(quote)) => {
                answered += 1;
                let before = taken.get(&candidate.device.id).copied().unwrap_or(0);
                let finish_ms =
                    quote.start_in_ms.saturating_add(before).saturating_add(quote.duration_ms).saturating_add(candidate.round_trip_ms);
                let score = scoring.score(&terms(job.hold, quote, candidate.device.reputation, finish_ms));
                ranked.push(Ranked { candidate, quote: *quote, finish_ms, score });
                Verdict::Bid { quote: *quote, score }
            }
        };
        considered.push(Considered { device: candidate.device.id, name: candidate.device.name.clone(), verdict });
    }
    let bids = ranked.len();
    let best_finish = ranked.iter().map(|bid| bid.finish_ms).min().unwrap_or(0);
    let late = |bid: &Ranked<'_>| bid.finish_ms > best_finish.saturating_mul(2).saturating_add(LATE_MS);
    // Late ones stay at the end of the order: better late than not at all, when the others say no.
    let newcomer = |bid: &Ranked<'_>| window.prefers_newcomers() && bid.candidate.device.results < NEWCOMER_RESULTS;
    let rank = |bid: &Ranked<'_>| (Reverse(bid.score.total), bid.finish_ms, bid.candidate.device.id);
    let without = ranked.iter().min_by_key(|bid| (late(bid), rank(bid))).map(|bid| bid.candidate.device.id);
    ranked.sort_by_key(|bid| (late(bid), !newcomer(bid), rank(bid)));
    let late_count = ranked.iter().filter(|bid| late(bid)).count();
    let why = match ranked.first() {
        Some(first) => {
            let preferred = without != Some(first.candidate.device.id);
            why_it_won(first, ranked.get(1).filter(|second| !late(second)), bids, candidates.len() - bids, late_count, preferred)
        }
        None => why_nobody(candidates.len(), answered, busy, out.len() + job.left_out.len(), &considered),
    };
    considered.extend(job.left_out.iter().cloned());
    considered.extend(out.iter().take(NAMED_MAX).cloned());
    let decision = Decision {
        round: window.round,
        at: window.at,
        took_ms: window.took_ms,
        considered,
        winner: ranked.first().map(|first| first.candidate.device.id),
        why,
    };
    let nobody = match (bids, answered) {
        (1.., _) => None,
        (0, 0) => Some(Nobody::Answered),
        (0, _) if busy == answered => Some(Nobody::Busy),
        (0, _) => Some(Nobody::Willing),
    };
    let order = ranked.iter().map(|bid| (bid.candidate.device.id, bid.quote)).collect();
    Decided { job: job.job, order, decision, nobody }
}

/// By the time it would begin there the job has given up; `before` is what the device takes of this auction first.
fn begins_too_late(quote: &Quote, window: Window, job: &Bidding, before: Option<&u64>) -> bool {
    let begins_in = quote.start_in_ms.saturating_add(before.copied().unwrap_or(0));
    begins_in > 0 && window.at.saturating_add(begins_in) > job.gives_up_at
}

fn why_it_won(first: &Ranked<'_>, second: Option<&Ranked<'_>>, bids: usize, others: usize, late: usize, preferred: bool) -> String {
    let name = &first.candidate.device.name;
    let mut why = match second {
        None if bids == 1 => format!("{name} was the only one to bid"),
        None => format!("{name} would finish first by far"),
        Some(second) if preferred => {
            let next = &second.candidate.device.name;
            format!("{name} has fewer than {NEWCOMER_RESULTS} results, and one round in ten prefers such (second: {next})")
        }
        Some(second) if second.score.total == first.score.total && second.finish_ms == first.finish_ms => {
            format!("{name} and {} are equal; the lower id wins", second.candidate.device.name)
        }
        Some(second) if second.score.total == first.score.total => {
            format!("{name} scores as {} and would finish sooner", second.candidate.device.name)
        }
        Some(second) => {
            format!("{name} scores {}, ahead of {} with {}", first.score.total, second.candidate.device.name, second.score.total)
        }
    };
    why.push_str(&format!("; {bids} bid, {others} did not"));
    if late > 0 {
        why.push_str(&format!(", {late} would finish more than twice as late"));
    }
    why
}

fn why_nobody(asked: usize, answered: usize, busy: usize, out: usize, considered: &[Considered]) -> String {
    if busy > 0 && busy == answered {
        return format!("every device that answered is busy ({busy} of {asked} asked)");
    }
    let reasons: BTreeSet<String> = considered
        .iter()
        .filter_map(|one| match &one.verdict {
            Verdict::Declined { reason } => Some(reason.clone()),
            Verdict::Out { reasons } => reasons.first().cloned(),
            Verdict::NotAsked | Verdict::NoAnswer | Verdict::Bid { .. } => None,
        })
        .collect();
    let silent = asked - answered;
    let mut parts: Vec<String> = reasons.into_iter().take(4).collect();
    if silent > 0 {
        parts.push(format!("{silent} did not answer"));
    }
    format!("0 of {} devices took it: {}", asked + out, parts.join("; "))
}

/// The terms of one bid on fixed ranges.
pub fn terms(hold: MilliMana, quote: &Quote, reputation: u32, finish_ms: u64) -> Terms {
    let saved = hold.checked_sub(quote.price_mmana).map_or(0, MilliMana::get);
    let price = u32::try_from(i128::from(saved) * i128::from(TOP) / i128::from(hold.get().max(1))).unwrap_or(TOP);
    Terms { price: price.min(TOP), reputation: reputation.min(100) * 100, resources: quote.free_bp.min(TOP), latency: latency(finish_ms) }
}

/// 10,000 at once, 0 after 17 minutes and more, and 500 less for each doubling in between: twice as late is as bad on a fast
/// device as on a slow one.
fn latency(finish_ms: u64) -> u32 {
    let x = finish_ms.saturating_add(1);
    let doublings = x.ilog2();
    let rest = x - (1 << doublings);
    // Straight between two powers of two.
    let between = u32::try_from(u128::from(rest) * 500 / (1_u128 << doublings)).unwrap_or(0);
    TOP.saturating_sub(doublings.saturating_mul(500).saturating_add(between))
}

#[cfg(test)]
mod tests;
