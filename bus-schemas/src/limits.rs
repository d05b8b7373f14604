//! Defaults and limits, in one place. Durations are values of [`Timings`], so that tests can run ten times faster.

use std::time::Duration;

use crate::mana::MilliMana;

/// Bodies under one signature: 64 for every step, 256 for facts.
pub const BATCH_MAX: usize = 256;
/// How many jobs, offers, bids, assignments or receipts one message carries.
pub const STEP_MAX: usize = 64;
/// One message of a step never exceeds this, but for one lone job.
pub const BATCH_BYTES_MAX: usize = 384 * 1024;
/// What a step aims at when it fills a message.
pub const STEP_BYTES_TARGET: usize = 240 * 1024;
/// What a message of receipts aims at; RECEIPTS takes 64 KiB.
pub const RECEIPTS_BYTES_TARGET: usize = 56 * 1024;
/// Any body but a job's.
pub const BODY_BYTES_MAX: usize = 64 * 1024;
/// A job's body, its own texts included.
pub const JOB_BYTES_MAX: usize = 256 * 1024;
/// A job with a larger body is not announced.
pub const ANNOUNCED_BYTES_MAX: usize = 32 * 1024;
/// A submission may be an array of jobs.
pub const SUBMISSION_BYTES_MAX: usize = 380_000;
/// What crosses between EDGE and CONTROL stays under this with headers; the hub cuts a leaf that sends more than 400,000.
pub const CROSSING_BYTES_MAX: usize = 390_000;
/// A result told inline; larger ones are blobs.
pub const INLINE_RESULT_MAX: usize = 32 * 1024;
/// One chunk of a blob.
pub const BLOB_CHUNK: usize = 128 * 1024;
/// One blob.
pub const BLOB_BYTES_MAX: usize = 64 * 1024 * 1024;
/// How long one text may be, in characters.
pub const TEXT_CHARS_MAX: usize = 10_000;
/// Texts of one job.
pub const TEXTS_MAX: usize = 12_000;
/// Nesting of any message.
pub const DEPTH_MAX: usize = 32;
/// An idempotency key.
pub const KEY_CHARS_MAX: usize = 128;
/// Labels of a job, and the characters of one label's name or value.
pub const LABELS_MAX: usize = 32;
pub const LABEL_CHARS_MAX: usize = 128;

/// Devices that get an offer.
pub const OFFERS_MAX: usize = 8;
/// Attempts of a job that end by disconnect, timeout or execution error.
pub const ATTEMPTS_MAX: u32 = 4;
/// Back-off after a failed attempt, by how many have failed.
pub const BACKOFF_MS: [u64; 4] = [250, 500, 1000, 2000];
/// A device tells that work has started once it lasts this long: it began that much earlier.
pub const STARTED_AFTER_MS: u64 = 1000;
/// Jobs that may wait on one device.
pub const QUEUE_MAX: usize = 64;
/// Receipts that a heartbeat lists; beyond it carries a count.
pub const UNSETTLED_LISTED_MAX: usize = 64;

pub const TIMEOUT_MS_DEFAULT: u64 = 15 * 60 * 1000;
pub const TIMEOUT_MS_MAX: u64 = 7 * 24 * 3600 * 1000;
pub const MAX_EXECUTION_WAIT_MS_DEFAULT: u64 = 24 * 3600 * 1000;
pub const MAX_EXECUTION_WAIT_MS_MAX: u64 = 7 * 24 * 3600 * 1000;
/// What a job may cost where it does not say: this, or less where less is available.
pub const COST_DEFAULT: MilliMana = MilliMana::mana(10);
/// What each member is given when a development stack opens its account.
pub const DEV_GRANT: MilliMana = MilliMana::mana(1_000_000);
/// How long a signed message may be valid, and the clock difference that is forgiven.
pub const EXP_MAX_MS: u64 = 24 * 3600 * 1000;
pub const SKEW_MS: u64 = 60_000;
/// Credentials of devices and members.
pub const CREDENTIALS_S: u64 = 24 * 3600;

/// Milli-mana per millisecond for each tier.
pub const TIER_RATES: [i64; 5] = [1, 2, 4, 8, 16];
/// The rate of a tier; what is not attested, or unknown, is tier 0.
pub fn tier_rate(tier: u8) -> i64 {
    TIER_RATES.get(usize::from(tier)).copied().unwrap_or(TIER_RATES[0])
}

/// When a hold expires: after it the ledger voids it.
pub fn hold_expires(now: u64, max_execution_wait_ms: u64, timeout_ms: u64) -> u64 {
    hold_expires_with(&Timings::default(), now, max_execution_wait_ms, timeout_ms)
}
/// The same where people wait for other times: each attempt may end two silences after its timeout, the last word comes three later.
pub fn hold_expires_with(timings: &Timings, now: u64, max_execution_wait_ms: u64, timeout_ms: u64) -> u64 {
    let silence = u64::try_from(timings.silence.as_millis()).unwrap_or(u64::MAX);
    now + max_execution_wait_ms + u64::from(ATTEMPTS_MAX) * (timeout_ms + 2 * silence) + 3 * silence
}

/// Every duration that a part waits by. `divided(10)` makes a stack that reacts ten times faster.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Timings {
    /// Bids are awaited this long; the window closes early once all expected ones are in.
    pub bid_window: Duration,
    /// An un-acked job message comes back after this.
    pub ack_wait: Duration,
    /// The lease is renewed this often.
    pub renewal: Duration,
    /// A holder whose last confirmed renewal is older does nothing more for that job.
    pub fence: Duration,
    pub heartbeat: Duration,
    /// A device is offline after this much silence. Heartbeats come every 5 s, so it forgives three lost in a row.
    pub silence: Duration,
    /// A job that nothing fits is looked at again after these.
    pub wait_again: [Duration; 3],
    /// What no member waits for runs on this tick.
    pub tick: Duration,
    /// Batches of several start at least this far apart at the gateway.
    pub pace: Duration,
    /// A standby ledger-worker takes over when the writer's lease is older.
    pub ledger_lease: Duration,
    /// A delivered job older than this is looked up before anything is done.
    pub look_first: Duration,
}

impl Default for Timings {
    fn default() -> Self {
        Self {
            bid_window: Duration::from_millis(250),
            ack_wait: Duration::from_secs(30),
            renewal: Duration::from_secs(10),
            fence: Duration::from_secs(20),
            heartbeat: Duration::from_secs(5),
            silence: Duration::from_secs(20),
            wait_again: [Duration::from_secs(5), Duration::from_secs(15), Duration::from_secs(60)],
            tick: Duration::from_millis(100),
            pace: Duration::from_millis(10),
            ledger_lease: Duration::from_secs(3),
            look_first: Duration::from_secs(10),
        }
    }
}

impl Timings {
    /// All that people wait for, divided; the tick, the pace and the bid window stay.
    pub fn divided(by: u32) -> Self {
        let by = by.max(1);
        let one = Self::default();
        Self {
            ack_wait: one.ack_wait / by,
            renewal: one.renewal / by,
            fence: one.fence / by,
            heartbeat: one.heartbeat / by,
            silence: one.silence / by,
            wait_again: one.wait_again.map(|wait| wait / by),
            ledger_lease: one.ledger_lease / by.min(3),
            look_first: one.look_first / by,
            ..one
        }
    }
}
