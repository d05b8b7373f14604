//! One job in hand: what was admitted, its lease, its attempts, and where it stands.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Instant;

use bus_schemas::assignment::Assignment;
use bus_schemas::eligibility::Needs;
use bus_schemas::event::{Checkpoint, Progress};
use bus_schemas::history::{Back, CancelRequest, Decision, EndedAttempt, HistoryEvent, HistoryRecord, Transition};
use bus_schemas::job::{AdmittedJob, Class, JobSpec, JobState};
use bus_schemas::ledger::Ended;
use bus_schemas::offer::{Offer, Quote};
use bus_schemas::{AttemptId, Batch, Cid, DeviceId, JobId, MemberId, MilliMana, NetworkId, Proof, UnixMs};

use crate::next_step::avoided;

/// The un-acked message.
#[derive(Debug, Clone)]
pub struct Lease {
    /// Where acks go.
    pub ack: String,
    /// When it was delivered here first.
    pub since: Instant,
    /// The last renewal that the server confirmed; the delivery is the first.
    pub confirmed: Instant,
    /// A renewal is on its way.
    pub asking: bool,
    pub delivered: u64,
    /// The place of the message in JOBS.
    pub seq: u64,
    /// Nobody else had it since it was given back from here.
    pub vouched: bool,
}

/// A signed body that can be shown to others: by itself, and with the batch it came in where that is at hand.
#[derive(Debug, Clone)]
pub struct Evidence {
    pub proof: Arc<Proof>,
    pub batch: Option<Arc<Batch>>,
}

/// One signed assignment of the job.
#[derive(Debug, Clone)]
pub struct Attempt {
    pub id: AttemptId,
    pub number: u32,
    pub device: DeviceId,
    pub evidence: Evidence,
    /// Hub time.
    pub assigned_at: UnixMs,
    pub price: MilliMana,
    /// When it was sent from here, or taken over.
    pub at: Instant,
    /// The device said that it has it.
    pub accepted: Option<Instant>,
    /// Hub time and own time of the device's word that it runs.
    pub started: Option<(UnixMs, Instant)>,
    /// It was to have started by then: when its device expected to, and a silence.
    pub start_by: Instant,
    /// No word of a start by then: the device is asked.
    pub ask_at: Instant,
    /// Full heartbeats in a row that did not name it.
    pub absent: u8,
    /// How far it is, as the device told last.
    pub progress: Option<Progress>,
    /// Texts that were done before it.
    pub resumed: Option<u32>,
    /// A cancel was sent; the last one.
    pub cancel_sent: Option<Instant>,
    /// The first one.
    pub cancel_since: Option<Instant>,
}

/// An attempt that its holder left when it died or gave the job back, as BACK says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Left {
    pub attempt: AttemptId,
    pub number: u32,
    pub device: DeviceId,
    /// Hub time: it had begun by then.
    pub at: UnixMs,
}

impl Attempt {
    /// One that is sent from here now, or was taken over from its device just now.
    pub fn new(id: AttemptId, assignment: &Assignment, evidence: Evidence, at: Instant, start_by: Instant) -> Self {
        Self {
            id,
            number: assignment.attempt,
            device: assignment.device,
            evidence,
            assigned_at: assignment.assigned_at,
            price: assignment.price_mmana,
            at,
            accepted: None,
            started: None,
            start_by,
            ask_at: start_by,
            absent: 0,
            progress: None,
            resumed: assignment.resume.map(|resume| resume.units),
            cancel_sent: None,
            cancel_since: None,
        }
    }
    /// Sent from here, not taken over with its device's word that it has it: when the device expects to begin is known.
    pub fn is_from_here(&self) -> bool {
        self.accepted.is_none_or(|accepted| accepted > self.at)
    }
}

/// Where a job in hand stands.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Phase {
    /// Its past is being looked up.
    Looking,
    /// It goes into the next auction; its place in the queue.
    Ready {
        place: u64,
    },
    Bidding {
        round: u64,
    },
    /// The current attempt was sent; the device's answer is awaited.
    Assigning,
    /// A device has it.
    Running,
    /// An attempt failed; the next auction is after this.
    BackOff {
        until: Instant,
    },
    /// Nothing fits now.
    Waiting {
        next_look: Instant,
    },
    /// It has ended; the books, HISTORY and the ack follow.
    Closing,
}

/// What a job asks of devices; two jobs with equal briefs may win the same bids.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Brief {
    pub job: JobId,
    pub member: MemberId,
    pub class: Class,
    pub hold: MilliMana,
    pub bytes: u32,
    pub units: u32,
    pub timeout_ms: u64,
    pub needs: Needs,
}
impl Brief {
    pub fn offer(&self, net: NetworkId, round: u64, at: UnixMs, exp: UnixMs) -> Offer {
        Offer {
            net,
            at,
            exp,
            job: self.job,
            round,
            member: self.member,
            kind: self.needs.kind.clone(),
            units: self.units,
            bytes: self.bytes,
            class: self.class,
            timeout_ms: self.timeout_ms,
            hold_mmana: self.hold,
            required_resources: self.needs.resources,
            data_class: self.needs.data_class,
        }
    }
}

pub struct Job {
    pub admitted: Arc<AdmittedJob>,
    pub needs: Needs,
    pub units: u32,
    pub timeout_ms: u64,
    /// Hub time: not placed by then, it fails.
    pub gives_up_at: UnixMs,
    /// Content id of the body.
    pub payload: Cid,
    pub lease: Lease,
    pub phase: Phase,
    /// Assignments known here, oldest first.
    pub attempts: Vec<Attempt>,
    /// The attempt in [`Phase::Assigning`] or [`Phase::Running`].
    pub current: Option<AttemptId>,
    /// Assignments that their device refused in words: it cannot come back to them.
    pub declined: Vec<AttemptId>,
    /// How earlier attempts ended, oldest first; from BACK too.
    pub ended: Vec<EndedAttempt>,
    /// What its last holder left on a device, until that one has shown it or is known not to have it.
    pub left: Option<Left>,
    /// Left out as long as others fit.
    pub avoid: Vec<DeviceId>,
    /// How far it is kept.
    pub kept: Option<Checkpoint>,
    pub last_number: u32,
    pub waited: u32,
    /// Auctions in which nobody said a word.
    pub unanswered: u32,
    /// The last reason for waiting that was recorded.
    pub waiting_why: Option<String>,
    /// The auction that led to the current attempt, or found nobody.
    pub decision: Option<Decision>,
    /// The next best bids of that auction.
    pub bids_left: VecDeque<(DeviceId, Quote)>,
    pub stop: Stop,
    /// The result was told.
    pub told: bool,
    /// Changes of state that no record of HISTORY covers yet.
    pub transitions: Vec<Transition>,
}

/// Whether a job is to end before it is done.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord)]
pub enum Stop {
    #[default]
    No,
    /// A device that has it ends it; no other gets it.
    BeforeNext,
    /// What runs is stopped, too.
    Now,
}
impl Stop {
    pub const fn of(wish: &CancelRequest) -> Self {
        if wish.unless_assigned { Self::BeforeNext } else { Self::Now }
    }
}

/// Whether a job that gives up waiting for its begin at `gives_up_at` has waited long enough by `at`; both hub time.
pub fn has_waited(gives_up_at: UnixMs, at: UnixMs) -> bool {
    gives_up_at <= at
}

impl Job {
    /// A job that was just delivered: nothing is known of its past.
    pub fn new(admitted: AdmittedJob, spec: &JobSpec, lease: Lease, stop: Stop) -> Self {
        Self {
            needs: Needs::from(spec),
            units: spec.units(),
            timeout_ms: spec.timeout_ms(),
            gives_up_at: admitted.submitted_at.saturating_add(spec.max_execution_wait_ms()),
            payload: Cid::of(&admitted.body),
            lease,
            phase: Phase::Looking,
            attempts: Vec::new(),
            current: None,
            declined: Vec::new(),
            ended: Vec::new(),
            left: None,
            avoid: Vec::new(),
            kept: None,
            last_number: 0,
            waited: 0,
            unanswered: 0,
            waiting_why: None,
            decision: None,
            bids_left: VecDeque::new(),
            stop,
            told: false,
            transitions: Vec::new(),
            admitted: Arc::new(admitted),
        }
    }
    pub fn attempt(&self, id: &AttemptId) -> Option<&Attempt> {
        self.attempts.iter().find(|attempt| attempt.id == *id)
    }
    pub fn current(&self) -> Option<&Attempt> {
        self.current.as_ref().and_then(|id| self.attempt(id))
    }
    pub fn current_mut(&mut self) -> Option<&mut Attempt> {
        let id = self.current?;
        self.attempts.iter_mut().find(|attempt| attempt.id == id)
    }
    pub fn note(&mut self, to: JobState, at: UnixMs, cause: impl Into<String>, actor: impl Into<String>) {
        self.transitions.push(Transition { to, at, cause: cause.into(), actor: actor.into() });
    }
    /// Takes in what an earlier holder knew.
    pub fn recall(&mut self, back: Back) {
        self.last_number = self.last_number.max(back.last_attempt);
        self.waited = back.waited;
        self.avoid = avoided(&self.needs, &back.ended);
        self.left = back.on.zip(back.attempt).map(|(device, attempt)| Left { attempt, number: back.last_attempt, device, at: back.at });
        self.ended = back.ended;
        self.keep(back.kept);
    }
    /// An attempt goes on although its end was written: its device was not told, and shows it. When it ends, it is counted then.
    pub fn revive(&mut self, attempt: &AttemptId) {
        self.ended.retain(|one| one.attempt != *attempt);
        self.avoid = avoided(&self.needs, &self.ended);
    }
    /// Who came first goes first.
    pub fn age(&self) -> (UnixMs, u64) {
        (self.admitted.submitted_at, self.lease.seq)
    }
    /// The checkpoint that is further of two.
    pub fn keep(&mut self, other: Option<Checkpoint>) {
        let units = |kept: Option<Checkpoint>| kept.map_or(0, |kept| kept.units);
        if units(other) > units(self.kept) && units(other) < self.units {
            self.kept = other;
        }
    }
    /// What devices are told of it.
    pub fn brief(&self) -> Brief {
        let AdmittedJob { job, member, class, hold_mmana, ref body, .. } = *self.admitted;
        let bytes = u32::try_from(body.len()).unwrap_or(u32::MAX);
        // What is kept is not computed, and not paid, again.
        let units = Checkpoint::left(self.kept, self.units);
        Brief { job, member, class, hold: hold_mmana, bytes, units, timeout_ms: self.timeout_ms, needs: self.needs.clone() }
    }
    /// A record of HISTORY about this job; it covers every change of state since the last one.
    pub fn record(&mut self, net: NetworkId, at: UnixMs, what: HistoryEvent) -> HistoryRecord {
        let AdmittedJob { member, job, .. } = *self.admitted;
        HistoryRecord { net, member, job, at, transitions: std::mem::take(&mut self.transitions), what }
    }
    /// The attempts that ended without a result, for the books: they count for the reputation of their devices.
    pub fn ended_badly(&self) -> Vec<Ended> {
        self.ended.iter().map(|end| Ended { attempt: end.attempt, device: end.device, class: end.failure.class }).collect()
    }
    /// Its time to wait for a begin is over.
    pub fn has_waited(&self, at: UnixMs) -> bool {
        has_waited(self.gives_up_at, at)
    }
    /// Neither assigned nor ended.
    pub fn is_unassigned(&self) -> bool {
        match self.phase {
            Phase::Ready { .. } | Phase::Bidding { .. } | Phase::BackOff { .. } | Phase::Waiting { .. } => true,
            Phase::Looking | Phase::Assigning | Phase::Running | Phase::Closing => false,
        }
    }
}
