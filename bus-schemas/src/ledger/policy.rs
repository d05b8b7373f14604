//! The rules of a network: a versioned document, signed by the network key and changed by a fact.

use serde::{Deserialize, Serialize};

use crate::mana::MilliMana;

const DAY_MS: u64 = 24 * 3600 * 1000;

/// The rules of a network, version by version. Zero switches a rule off.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, schemars::JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Policy {
    /// One more than that of the policy before.
    pub version: u32,
    /// Basis points of the gross that go to the commons.
    pub fee_bp: u32,
    /// How long earnings vest, in milliseconds; 0 = pay goes to available.
    pub vesting_ms: u64,
    /// Given to each member when its account opens.
    pub grant_mmana: MilliMana,
    /// Regeneration per member and epoch; 0 = none.
    pub regen_mmana: MilliMana,
    /// Regeneration stops where available and held together reach this.
    #[serde(default)]
    pub regen_cap_mmana: MilliMana,
    /// Length of an epoch in milliseconds.
    #[serde(default = "day")]
    pub epoch_ms: u64,
    /// Points by which every reputation moves towards the start (50) each epoch.
    #[serde(default)]
    pub decay: u32,
    /// Basis points that a payer of reputation 100 saves; the commons pay them while they can. At most 5,000.
    #[serde(default)]
    pub discount_bp: u32,
    /// What a member may earn in one day of fact time; 0 = no limit.
    #[serde(default)]
    pub earn_day_member_mmana: MilliMana,
    /// What a device may earn in one day of fact time; 0 = no limit.
    #[serde(default)]
    pub earn_day_device_mmana: MilliMana,
    /// Holds that a member may have open at once; 0 = no limit.
    #[serde(default)]
    pub open_holds_max: u32,
    /// What a member may have held at once; 0 = no limit.
    #[serde(default, skip_serializing_if = "is_none")]
    pub held_max_mmana: MilliMana,
    /// Devices that a member may have, without those that were revoked; 0 = no limit.
    #[serde(default, skip_serializing_if = "is_no_number")]
    pub devices_max: u32,
    /// Questions a second of one member or device, at each gateway; 0 = as its own settings say.
    #[serde(default, skip_serializing_if = "is_no_number")]
    pub questions_per_s: u32,
    /// Submissions a second of one member or device, at each gateway; 0 = as its own settings say.
    #[serde(default, skip_serializing_if = "is_no_number")]
    pub submissions_per_s: u32,
    /// Bytes of blobs a second of one member or device, at each gateway; 0 = as its own settings say.
    #[serde(default, skip_serializing_if = "is_no_number")]
    pub blob_bytes_per_s: u32,
}

// A rule that is off is not written where versions before this one did not know it: the bytes of old facts stay what they were.
#[allow(clippy::trivially_copy_pass_by_ref)] // as serde calls it
fn is_no_number(rule: &u32) -> bool {
    *rule == 0
}
#[allow(clippy::trivially_copy_pass_by_ref)] // as serde calls it
fn is_none(rule: &MilliMana) -> bool {
    *rule == MilliMana::ZERO
}

fn day() -> u64 {
    DAY_MS
}

impl Policy {
    /// Rules that are written only where they are on.
    pub const WHERE_ON: [&'static str; 5] = ["held_max_mmana", "devices_max", "questions_per_s", "submissions_per_s", "blob_bytes_per_s"];

    /// Version 1: no fee, no vesting, no regeneration, no limits.
    pub fn first(grant: MilliMana) -> Self {
        Self {
            version: 1,
            fee_bp: 0,
            vesting_ms: 0,
            grant_mmana: grant,
            regen_mmana: MilliMana::ZERO,
            regen_cap_mmana: MilliMana::ZERO,
            epoch_ms: DAY_MS,
            decay: 0,
            discount_bp: 0,
            earn_day_member_mmana: MilliMana::ZERO,
            earn_day_device_mmana: MilliMana::ZERO,
            open_holds_max: 0,
            held_max_mmana: MilliMana::ZERO,
            devices_max: 0,
            questions_per_s: 0,
            submissions_per_s: 0,
            blob_bytes_per_s: 0,
        }
    }

    /// Whether the numbers make sense by themselves.
    ///
    /// # Errors
    /// One sentence about the first that does not.
    pub fn check(&self) -> Result<(), String> {
        let rules = [
            (self.fee_bp <= 10_000, "fee_bp is more than 10,000: a fee cannot exceed the pay"),
            (self.discount_bp <= 5_000, "discount_bp is more than 5,000: a price is at least half"),
            (self.vesting_ms <= 365 * DAY_MS, "vesting_ms is more than a year"),
            (self.epoch_ms >= 1_000, "epoch_ms is less than a second"),
            (self.epoch_ms <= 366 * DAY_MS, "epoch_ms is more than a year"),
            (self.decay <= 100, "decay is more than 100 points"),
            (
                self.regen_mmana == MilliMana::ZERO || self.regen_cap_mmana > MilliMana::ZERO,
                "regen_mmana without regen_cap_mmana: credit would grow without end",
            ),
        ];
        rules.iter().find(|(holds, _)| !holds).map_or(Ok(()), |(_, why)| Err((*why).to_owned()))
    }

    /// The epoch that a fact time falls into.
    pub fn epoch(&self, at_ms: u64) -> u64 {
        at_ms / self.epoch_ms.max(1)
    }
    /// Whether an epoch has anything to write down.
    pub fn has_epochs(&self) -> bool {
        self.regen_mmana > MilliMana::ZERO || self.decay > 0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_that_make_no_sense_are_refused() {
        let sound = Policy::first(MilliMana::mana(10));
        assert_eq!(sound.check(), Ok(()));
        type Change = fn(&mut Policy);
        let cases: [(&str, Change); 6] = [
            ("fee_bp", |p| p.fee_bp = 10_001),
            ("discount_bp", |p| p.discount_bp = 5_001),
            ("vesting_ms", |p| p.vesting_ms = u64::MAX),
            ("epoch_ms", |p| p.epoch_ms = 0),
            ("decay", |p| p.decay = 101),
            ("regen_mmana", |p| p.regen_mmana = MilliMana::mana(1)),
        ];
        for (field, change) in cases {
            let mut policy = sound.clone();
            change(&mut policy);
            assert!(policy.check().unwrap_err().starts_with(field), "{field}");
        }
    }

    #[test]
    fn a_policy_of_the_first_version_is_still_read() {
        let old = r#"{"version":1,"fee_bp":0,"vesting_ms":0,"grant_mmana":1000,"regen_mmana":0}"#;
        assert_eq!(serde_json::from_str::<Policy>(old).unwrap(), Policy::first(MilliMana::mana(1)));
        assert!(serde_json::from_str::<Policy>(&old.replace("fee_bp", "feebp")).is_err());
    }
}
