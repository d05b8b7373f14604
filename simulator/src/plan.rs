//! What one seed is about: who takes part, what is submitted and cancelled when, and which faults come how often.

use std::sync::Arc;

use agent::work::FullQueue;
use bus_schemas::{MemberId, MilliMana};
use bytes::Bytes;
use fastrand::Rng;

use crate::cast::{Cast, DEVICES, MEMBERS};
use crate::device::Build;
use crate::message::{Ms, Submission};

/// Which faults there are.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Profile {
    /// All of them.
    Storm,
    /// The network alone.
    Network,
    /// Crashes alone.
    Crashes,
    /// Schedulers alone crash and freeze: what a device has is never computed twice.
    Schedulers,
    /// Schedulers stop in order and come back: nothing that is known is forgotten.
    Orderly,
    /// The books' writers alone crash and freeze.
    Writers,
    /// More work than the devices' queues take.
    Crowd,
    Calm,
}

/// How often what happens. Chances are per ten thousand.
#[derive(Debug, Clone, Copy, Default)]
pub struct Faults {
    /// At a message that a process handles.
    pub crash_worker: u16,
    pub crash_scheduler: u16,
    pub crash_ledger: u16,
    pub crash_device: u16,
    /// Each second, of each process.
    pub freeze: u16,
    pub freeze_scheduler: u16,
    pub freeze_ledger: u16,
    pub cut: u16,
    pub unlink: u16,
    pub disk_full: u16,
    pub pause: u16,
    pub stop: u16,
    pub wipe: u16,
    /// Of each message.
    pub drop: u16,
    pub twice: u16,
    pub late: u16,
    pub ack_lost: u16,
}

impl Profile {
    pub fn of(seed: u64) -> Self {
        match seed % 16 {
            0..=6 => Self::Storm,
            7 | 8 => Self::Network,
            9 => Self::Crashes,
            10 | 11 => Self::Schedulers,
            12 => Self::Orderly,
            13 | 14 => Self::Writers,
            _ if seed % 64 == 15 => Self::Crowd,
            _ => Self::Calm,
        }
    }

    pub fn faults(self) -> Faults {
        let network = Faults { drop: 200, twice: 200, late: 200, ack_lost: 400, cut: 80, unlink: 40, disk_full: 20, ..Faults::default() };
        let crashes = Faults { crash_worker: 60, crash_scheduler: 40, crash_ledger: 40, crash_device: 40, ..Faults::default() };
        match self {
            Self::Storm => Faults {
                crash_worker: 30,
                crash_scheduler: 25,
                crash_ledger: 25,
                crash_device: 25,
                freeze: 40,
                freeze_scheduler: 80,
                freeze_ledger: 80,
                pause: 40,
                stop: 40,
                wipe: 10,
                ..network
            },
            Self::Network => network,
            Self::Crashes => crashes,
            Self::Schedulers => Faults { crash_scheduler: 60, freeze_scheduler: 150, ..Faults::default() },
            Self::Orderly => Faults { stop: 400, ..Faults::default() },
            Self::Writers => {
                Faults { crash_ledger: 60, freeze_ledger: 300, ack_lost: 600, unlink: 100, drop: 100, late: 300, ..Faults::default() }
            }
            Self::Crowd => Faults { crash_device: 4, cut: 20, ..Faults::default() },
            Self::Calm => Faults::default(),
        }
    }
}

/// Something that a client sends.
#[derive(Debug, Clone)]
pub struct Planned {
    pub at: Ms,
    pub submission: Arc<Submission>,
    /// Through the OUTBOX of this device, or straight to the hub.
    pub device: Option<usize>,
    /// When its first job is cancelled.
    pub cancel_at: Option<Ms>,
    /// No device can ever take it.
    pub hopeless: bool,
    /// Every device fails at it.
    pub poison: bool,
}

pub struct Plan {
    pub profile: Profile,
    pub faults: Faults,
    pub faults_until: Ms,
    pub devices: Vec<Build>,
    pub grants: Vec<MilliMana>,
    pub submissions: Vec<Planned>,
}

impl Plan {
    pub fn new(seed: u64, cast: &Cast, rng: &mut Rng) -> Self {
        let profile = Profile::of(seed);
        let crowd = profile == Profile::Crowd;
        let count = if crowd { 1 } else { rng.usize(2..=DEVICES) };
        let devices = (0..count)
            .map(|n| Build {
                full: if rng.bool() { FullQueue::RejectNew } else { FullQueue::DropOldest },
                slots: rng.usize(1..=2),
                per_unit_ms: if crowd { rng.u64(1_500..2_500) } else { rng.u64(50..900) },
                skew_ms: rng.i64(-300_000..=300_000),
                embeds: n == 0 || rng.u8(..) > 30,
            })
            .collect();
        // One member is poor: what it cannot pay is refused.
        let grant = |n: usize| MilliMana::mana(if n == MEMBERS - 1 { 20 } else { 100_000 });
        let grants = (0..MEMBERS).map(grant).collect();
        let count = if crowd { 90 } else { rng.usize(4..13) };
        let submissions = (0..count).map(|n| planned(n, crowd, cast, rng)).collect();
        Self { profile, faults: profile.faults(), faults_until: rng.u64(40_000..120_000), devices, grants, submissions }
    }
}

fn planned(n: usize, crowd: bool, cast: &Cast, rng: &mut Rng) -> Planned {
    // In a crowd nobody is poor.
    let member: MemberId = cast.member_ids[rng.usize(0..if crowd { MEMBERS - 1 } else { MEMBERS })];
    let at = rng.u64(if crowd { 1..3_000 } else { 1..50_000 });
    let roll = if crowd { 50 } else { rng.u8(0..100) };
    let mut cost = if rng.u8(0..10) == 0 { 500 } else { 50 };
    if crowd {
        cost = 100;
    }
    let limits = format!(
        r#""cost_mana":{cost},"timeout_ms":{},"max_execution_wait_ms":{}"#,
        if crowd { 60_000 } else { rng.u64(4_000..40_000) },
        if crowd { 900_000 } else { rng.u64(30_000..150_000) }
    );
    let class = ["high", "normal", "normal", "low"][rng.usize(0..4)];
    let texts = |word: &str, units: usize| {
        let all: Vec<String> = (0..units).map(|i| format!(r#""{word} {n} {i}""#)).collect();
        format!("[{}]", all.join(","))
    };
    let (mut hopeless, mut poison) = (false, false);
    let body = match roll {
        0..=29 => format!(r#"{{"kind":"echo","text":"t{n}",{limits}}}"#),
        30..=69 => {
            let units = if crowd { rng.usize(1..3) } else { rng.usize(1..24) };
            format!(r#"{{"kind":"embed","text":{},"priority":"{class}",{limits}}}"#, texts("w", units))
        }
        70..=79 => {
            poison = true;
            format!(r#"{{"kind":"embed","text":{},{limits}}}"#, texts("poison", 2))
        }
        80..=83 => format!(r#"{{"kind":"embed","text":["broken {n}"],{limits}}}"#),
        84..=89 => {
            hopeless = true;
            format!(r#"{{"kind":"embed","text":["h{n}"],"min_executor_reputation":100,{limits}}}"#)
        }
        90..=93 => format!(r#"[{{"kind":"echo","text":"a{n}",{limits}}},{{"kind":"embed","text":["b{n}"],{limits}}}]"#),
        94..=96 => format!(r#"{{"kind":"echo","text":"x{n}","cost_mana":90000000,"timeout_ms":5000}}"#),
        _ => format!(r#"{{"kind":"juggle","text":"t{n}"}}"#),
    };
    let device = (rng.u8(0..10) < 3 && !crowd).then(|| rng.usize(0..2));
    let key = (device.is_none() || rng.bool()).then(|| format!("k{n}"));
    let cancel_at = (rng.u8(0..100) < if hopeless { 50 } else { 15 }).then(|| at + rng.u64(1..20_000));
    let submission = Submission { member, key, outbox_key: None, payload: Bytes::from(body) };
    Planned { at, submission: Arc::new(submission), device, cancel_at, hopeless, poison }
}
