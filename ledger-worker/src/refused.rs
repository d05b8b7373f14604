//! A stream that takes no facts (its limits are reached, its disk is full): told until it takes one again, and tried again by itself.

use std::time::Duration;

use bus::Health;

/// How long nobody tries after a refusal, doubled with each that follows it.
const FIRST: Duration = Duration::from_secs(1);
const LONGEST: Duration = Duration::from_secs(10);

/// The last refusal, until an append succeeds.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Refused {
    pub why: String,
    /// Where the stream ended: where it has grown, somebody's append was taken.
    pub end: u64,
    pub pause: Duration,
}

impl Refused {
    pub fn after(before: Option<Self>, why: String, end: u64) -> Self {
        Self { why, end, pause: before.map_or(FIRST, |before| (before.pause * 2).min(LONGEST)) }
    }
}

/// Says how the books are, where nothing else is wrong with them.
pub fn tell(health: &Health, refused: Option<&Refused>) {
    health.set("ledger", refused.map_or(Ok(()), |refused| Err(refused.why.clone())));
    metrics::gauge!("mesh_ledger_stopped").set(if refused.is_some() { 1.0 } else { 0.0 });
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_refusal_in_a_row_waits_longer() {
        let mut last = None;
        let mut pauses = vec![];
        for _ in 0..6 {
            let refused = Refused::after(last, "full".into(), 7);
            pauses.push(refused.pause.as_secs());
            last = Some(refused);
        }
        assert_eq!(pauses, [1, 2, 4, 8, 10, 10]);
        let health = Health::default();
        tell(&health, last.as_ref());
        assert_eq!(health.not_ready().get("ledger").map(String::as_str), Some("full"));
        tell(&health, None);
        assert!(health.not_ready().is_empty());
    }
}
