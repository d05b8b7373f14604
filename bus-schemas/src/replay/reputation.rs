//! Reputation: a fold over the facts, one score for each device.
//!
//! +1 for a result that another member pays for, −1 for an execution error or a timeout, −10 for a failed check, 0 at a proven
//! lie; an epoch moves every score towards the start. Work for one's own member counts nothing, an owner's interruption neither.

use crate::ledger::FlagWhy;
use crate::receipt::FailureClass;
use serde::{Deserialize, Serialize};

/// Where every device starts, and where decay leads.
pub const START: u32 = 50;
pub const MAX: u32 = 100;
const FAILED_CHECK: u32 = 10;

/// A device's standing; also the value of KV `reputation`, key = device id.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Reputation {
    /// 0 to 100.
    pub score: u32,
    /// Results that counted, ever.
    pub verified: u64,
    /// Results that counted since the last that did not.
    pub streak: u64,
}
impl Default for Reputation {
    fn default() -> Self {
        Self { score: START, verified: 0, streak: 0 }
    }
}

impl Reputation {
    pub fn verified(&mut self) {
        self.score = (self.score + 1).min(MAX);
        self.verified += 1;
        self.streak += 1;
    }
    pub fn ended(&mut self, class: FailureClass) {
        match class {
            FailureClass::ExecutionError | FailureClass::Timeout => {
                self.score = self.score.saturating_sub(1);
                self.streak = 0;
            }
            FailureClass::DeviceDisconnect | FailureClass::DeviceDeclined => {}
        }
    }
    pub fn flagged(&mut self, why: FlagWhy) {
        match why {
            FlagWhy::FailedCheck => {
                self.score = self.score.saturating_sub(FAILED_CHECK);
                self.streak = 0;
            }
            FlagWhy::Lie => {
                self.score = 0;
                self.streak = 0;
            }
            FlagWhy::AbsurdTime | FlagWhy::Anomaly | FlagWhy::Operator => {}
        }
    }
    pub fn decay(&mut self, points: u32) {
        self.score = if self.score > START { self.score.saturating_sub(points).max(START) } else { (self.score + points).min(START) };
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_score_moves_as_the_rules_say() {
        let score = |steps: &[fn(&mut Reputation)]| {
            let mut reputation = Reputation::default();
            steps.iter().for_each(|step| step(&mut reputation));
            (reputation.score, reputation.verified, reputation.streak)
        };
        assert_eq!(score(&[]), (50, 0, 0));
        assert_eq!(score(&[Reputation::verified, Reputation::verified]), (52, 2, 2));
        assert_eq!(score(&[Reputation::verified, |r| r.ended(FailureClass::Timeout)]), (50, 1, 0));
        assert_eq!(score(&[|r| r.ended(FailureClass::ExecutionError)]), (49, 0, 0));
        assert_eq!(score(&[|r| r.ended(FailureClass::DeviceDisconnect), |r| r.ended(FailureClass::DeviceDeclined)]), (50, 0, 0));
        assert_eq!(score(&[Reputation::verified, |r| r.flagged(FlagWhy::FailedCheck)]), (41, 1, 0));
        assert_eq!(score(&[Reputation::verified, |r| r.flagged(FlagWhy::Lie), |r| r.decay(7)]), (7, 1, 0));
        assert_eq!(score(&[Reputation::verified, |r| r.decay(7)]), (50, 1, 1));
        assert_eq!(score(&[|r| (0..200).for_each(|_| r.verified())]), (100, 200, 200));
        assert_eq!(score(&[|r| (0..9).for_each(|_| r.flagged(FlagWhy::FailedCheck))]), (0, 0, 0));
    }
}
