//! What a device tells while it works; a message of `mesh.v1.dev.<d>.evt.<kind>` is a batch of 1 to 64, signed by the device.

use serde::{Deserialize, Serialize};

use crate::UnixMs;
use crate::envelope::Body;
use crate::id::{AttemptId, Cid, DeviceId, JobId, NetworkId};

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Event {
    pub net: NetworkId,
    pub device: DeviceId,
    /// The device's clock.
    pub at: UnixMs,
    pub job: JobId,
    pub attempt: AttemptId,
    pub what: EventKind,
}
impl Body for Event {
    const KIND: &'static str = "event";
}

/// All of a message's events are of the kind that its subject names.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum EventKind {
    Started,
    Progress(Progress),
    /// A part of the result is kept: another device could go on behind it.
    Checkpoint(Checkpoint),
    /// The device gave the job back before it ended.
    Dropped {
        reason: String,
    },
}
impl EventKind {
    pub const fn token(&self) -> &'static str {
        match self {
            Self::Started => "started",
            Self::Progress(_) => "progress",
            Self::Checkpoint(_) => "checkpoint",
            Self::Dropped { .. } => "dropped",
        }
    }
}

/// How far a job is kept: a blob of its member, which names the one before it, back to the first text.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, schemars::JsonSchema)]
pub struct Checkpoint {
    /// The newest part: [`crate::api::PartialResult`] as JSON.
    pub cid: Cid,
    pub bytes: u64,
    /// Texts of the job that are done, from the first on.
    pub units: u32,
}
impl Checkpoint {
    /// How many of a job's `units` texts are left to compute behind what is kept.
    pub fn left(kept: Option<Self>, units: u32) -> u32 {
        units.saturating_sub(kept.map_or(0, |kept| kept.units))
    }
}

#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize, schemars::JsonSchema)]
pub struct Progress {
    /// 0 to 10,000.
    pub basis_points: u32,
    pub stage: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub eta_ms: Option<u64>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub message: Option<String>,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub done_stages: Vec<String>,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub remaining_stages: Vec<String>,
}
/// All of a job.
pub const WHOLE_BASIS_POINTS: u32 = 10_000;
impl Progress {
    /// With what is done and what remains of `stages`, where it is at one of them.
    #[must_use]
    pub fn among(self, stages: &[&str]) -> Self {
        let Some(at) = stages.iter().position(|stage| *stage == self.stage) else { return self };
        let names = |some: &[&str]| some.iter().map(|name| (*name).to_owned()).collect();
        let (done, rest) = stages.split_at(at);
        Self { done_stages: names(done), remaining_stages: names(rest.get(1..).unwrap_or_default()), ..self }
    }
    /// Whether an attempt that was `before` so far can be so far now: never over the whole, never backwards.
    ///
    /// # Errors
    /// What cannot be, in words.
    pub fn follows(&self, before: Option<&Self>) -> Result<(), String> {
        let (now, before) = (self.basis_points, before.map_or(0, |before| before.basis_points));
        let percent = |basis_points: u32| format!("{}.{:02} %", basis_points / 100, basis_points % 100);
        if now > WHOLE_BASIS_POINTS {
            return Err(format!("{} are more than the whole", percent(now)));
        }
        if now < before {
            return Err(format!("{} after {}: it goes backwards", percent(now), percent(before)));
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn progress_goes_forward_and_ends_at_the_whole() {
        let at = |basis_points| Progress { basis_points, ..Progress::default() };
        for (before, now, why) in [
            (None, 0, ""),
            (None, 10_000, ""),
            (Some(4_000), 4_000, ""),
            (Some(4_000), 4_001, ""),
            (Some(4_000), 3_999, "39.99 % after 40.00 %: it goes backwards"),
            (Some(10_000), 0, "0.00 % after 100.00 %: it goes backwards"),
            (None, 10_001, "100.01 % are more than the whole"),
            (Some(10_000), u32::MAX, "42949672.95 % are more than the whole"),
        ] {
            assert_eq!(at(now).follows(before.map(at).as_ref()).err().unwrap_or_default(), why, "{before:?} {now}");
        }
    }

    #[test]
    fn a_stage_has_those_behind_it_and_those_before_it() {
        let stages = ["fetching", "embedding", "storing"];
        for (stage, done, remaining) in [
            ("fetching", &[][..], &["embedding", "storing"][..]),
            ("embedding", &["fetching"], &["storing"]),
            ("storing", &["fetching", "embedding"], &[]),
            ("", &[], &[]),
            ("painting", &[], &[]),
        ] {
            let told = Progress { basis_points: 7, stage: stage.into(), ..Progress::default() }.among(&stages);
            assert_eq!(
                (told.done_stages, told.remaining_stages, told.basis_points),
                (done.iter().map(|name| (*name).to_owned()).collect(), remaining.iter().map(|name| (*name).to_owned()).collect(), 7)
            );
        }
    }

    #[test]
    fn what_is_kept_is_not_left() {
        let kept = |units| Some(Checkpoint { cid: Cid::of(b"x"), bytes: 1, units });
        for (kept, left) in [(None, 10), (kept(0), 10), (kept(4), 6), (kept(10), 0), (kept(u32::MAX), 0)] {
            assert_eq!(Checkpoint::left(kept, 10), left, "{kept:?}");
        }
    }
}
