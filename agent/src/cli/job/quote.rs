//! How much is set aside for a job whose owner names no limit: what it may cost by the size of its input. Touches nothing.
//!
//! A device asks for its own estimate and is paid for the time it used, at most what is held; the rest comes back. So this errs on
//! the side of too much: a hold that is too small makes a job wait for nobody.

use bus_schemas::api::DeviceInfo;
use bus_schemas::job::JobSpec;
use bus_schemas::limits::{COST_DEFAULT, TIER_RATES, tier_rate};
use bus_schemas::{Code, MilliMana};

use crate::cli::failure::Failure;

/// Time that any text takes, on a slow device that has seen only single ones, in microseconds.
const PER_TEXT_US: u64 = 60_000;
/// What each character adds, up to the length at which the model cuts.
const PER_CHAR_US: u64 = 100;
const CHARS_READ_MAX: u64 = 1_200;
/// An idle, quick device needs this many times less.
const ESTIMATE_FACTOR: i64 = 3;

/// What a job may cost where that is more than is set aside for a job that names no limit; `None` where the usual is enough.
///
/// `rate` is in milli-mana per millisecond.
pub fn more_than_usual(spec: &JobSpec, rate: i64) -> Option<MilliMana> {
    enough(spec, rate).filter(|most| spec.cost_mana.is_none() && *most > COST_DEFAULT)
}

/// What lets a device of this rate take a job, in whole mana: nobody compares fractions of an estimate. `None` where the size of
/// the input says nothing.
pub fn enough(spec: &JobSpec, rate: i64) -> Option<MilliMana> {
    let texts = spec.text.as_ref().filter(|_| spec.kind != "echo")?;
    let us = texts.as_slice().iter().fold(0_u64, |us, text| {
        let chars = (text.chars().count() as u64).min(CHARS_READ_MAX);
        us.saturating_add(PER_TEXT_US + chars * PER_CHAR_US)
    });
    let ms = us.div_ceil(1000).min(spec.timeout_ms());
    MilliMana::new(MilliMana::for_time(ms, rate).get().saturating_add(999) / 1000 * 1000)
}

/// What the dearest device of the network that offers the kind earns per millisecond; of all tiers where none is known.
pub fn dearest_rate(devices: &[DeviceInfo], kind: &str) -> i64 {
    let offering = devices.iter().filter(|device| device.kinds.iter().any(|offered| offered == kind));
    offering.map(|device| tier_rate(device.tier)).max().unwrap_or_else(any_rate)
}
/// What a device of any tier may earn per millisecond, at most.
pub fn any_rate() -> i64 {
    TIER_RATES.iter().copied().max().unwrap_or(1)
}

/// What is set aside, given what the member has: all of that, where it falls short by no more than the estimate may be wrong.
///
/// # Errors
/// [`Code::TooLittleMana`], naming the command that submits it for what there is.
pub fn affordable(most: MilliMana, available_mmana: i64, texts: usize) -> Result<MilliMana, Failure> {
    let have = MilliMana::new(available_mmana.max(0)).unwrap_or(MilliMana::ZERO);
    if most.get() <= have.get().saturating_mul(ESTIMATE_FACTOR) {
        return Ok(most.min(have));
    }
    let detail = format!("{texts} texts may cost {most} mana, {have} are available");
    let next = match have {
        MilliMana::ZERO => "mesh credit balance".to_owned(),
        have => format!("add --max-mana {have}: the job waits until a device does it for that; or split the input"),
    };
    Err(Failure::new(Code::TooLittleMana, detail).next(next))
}

#[cfg(test)]
mod tests {
    use super::*;
    use bus_schemas::job::Text;
    use proptest::prelude::*;

    fn embed(texts: usize, chars: usize) -> JobSpec {
        JobSpec { kind: "embed".into(), text: Some(Text::Many(vec!["x".repeat(chars); texts])), ..JobSpec::default() }
    }
    fn mana(mana: u32) -> MilliMana {
        MilliMana::mana(mana)
    }

    #[test]
    fn larger_inputs_set_more_aside() {
        for (spec, rate, most) in [
            (embed(1, 100), 16, None),
            (embed(5, 100), 16, None),
            (embed(10, 100), 16, Some(mana(12))),
            (embed(100, 100), 16, Some(mana(112))),
            (embed(100, 100), 1, None),
            (embed(1000, 200), 8, Some(mana(640))),
            (embed(1000, 1_200), 8, Some(mana(1440))),
            (embed(1000, 9_000), 8, Some(mana(1440))),
            (JobSpec { timeout_ms: Some(2_000), ..embed(1000, 200) }, 8, Some(mana(16))),
            (JobSpec { cost_mana: Some(mana(1)), ..embed(1000, 200) }, 8, None),
            (JobSpec { kind: "echo".into(), text: Some(Text::One("x".repeat(9_000))), ..JobSpec::default() }, 16, None),
            (JobSpec { kind: "embed".into(), ..JobSpec::default() }, 16, None),
        ] {
            assert_eq!(more_than_usual(&spec, rate), most, "{} texts at {rate}", spec.units());
        }
    }

    #[test]
    fn too_little_names_the_number() {
        assert_eq!(affordable(mana(60), 60_000, 100).unwrap(), mana(60));
        assert_eq!(affordable(mana(60), 20_000, 100).unwrap(), mana(20));
        let refused = affordable(mana(60), 12_500, 100).unwrap_err();
        assert_eq!((refused.code(), refused.exit()), (Code::TooLittleMana, 8));
        assert!(refused.problem.detail.contains("may cost 60 mana, 12.5 are available"), "{refused}");
        assert!(refused.next[0].contains("--max-mana 12.5"), "{:?}", refused.next);
        assert_eq!(affordable(mana(60), 0, 100).unwrap_err().next, ["mesh credit balance"]);
    }

    proptest! {
        #[test]
        fn more_texts_never_cost_less(texts in 0_usize..50, chars in 0_usize..3_000, rate in 0_i64..20) {
            prop_assert!(more_than_usual(&embed(texts, chars), rate) <= more_than_usual(&embed(texts + 1, chars + 1), rate));
        }
    }
}
