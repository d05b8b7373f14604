//! Credit: milli-mana, integers only.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Deserializer, Serialize, de};

/// The most that one amount can be: 2^53 - 1, so that JSON keeps it exact.
pub const MAX_MMANA: i64 = (1 << 53) - 1;

/// Credit in milli-mana (1,000 make one mana = one credit), 0 to 2^53 - 1.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default, Serialize, schemars::JsonSchema)]
#[serde(transparent)]
pub struct MilliMana(#[schemars(range(min = 0, max = 9_007_199_254_740_991_i64))] i64);

#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum AmountError {
    #[error("the amount must not be negative")]
    Negative,
    #[error("the amount must be at most {} mana", MAX_MMANA / 1000)]
    TooLarge,
    #[error("the amount must have at most three decimals")]
    TooFine,
    #[error("the amount must be a number or a decimal string such as \"1.25\"")]
    NotANumber,
}

impl MilliMana {
    pub const ZERO: Self = Self(0);
    pub const fn new(mmana: i64) -> Option<Self> {
        if mmana >= 0 && mmana <= MAX_MMANA { Some(Self(mmana)) } else { None }
    }
    /// Whole mana, for constants.
    pub const fn mana(mana: u32) -> Self {
        Self(mana as i64 * 1000)
    }
    pub const fn get(self) -> i64 {
        self.0
    }
    pub fn checked_add(self, other: Self) -> Option<Self> {
        self.0.checked_add(other.0).and_then(Self::new)
    }
    /// Returns `None` where the result would fall below zero.
    pub fn checked_sub(self, spent: Self) -> Option<Self> {
        self.0.checked_sub(spent.0).and_then(Self::new)
    }
    /// What `ms` milliseconds cost at `rate` milli-mana per millisecond, capped at the largest amount.
    pub fn for_time(ms: u64, rate: i64) -> Self {
        let product = u128::from(ms) * u128::from(rate.unsigned_abs());
        Self(i64::try_from(product).unwrap_or(MAX_MMANA).min(MAX_MMANA))
    }
}

impl fmt::Display for MilliMana {
    /// In mana, with as many decimals as it takes: `1.25`.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&mana_text(self.0))
    }
}
impl fmt::Debug for MilliMana {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} mana", self)
    }
}

/// A signed amount of milli-mana as mana: `-0.5`, `1.25`, `3`.
pub fn mana_text(mmana: i64) -> String {
    let sign = if mmana < 0 { "-" } else { "" };
    let (whole, rest) = (mmana.unsigned_abs() / 1000, mmana.unsigned_abs() % 1000);
    if rest == 0 { format!("{sign}{whole}") } else { format!("{sign}{whole}.{}", format!("{rest:03}").trim_end_matches('0')) }
}

impl FromStr for MilliMana {
    type Err = AmountError;
    /// Parses mana: `3`, `1.25`. No exponent, no sign but `-` (which is refused by name).
    fn from_str(text: &str) -> Result<Self, AmountError> {
        let (negative, text) = text.strip_prefix('-').map_or((false, text), |rest| (true, rest));
        let (whole, rest) = text.split_once('.').unwrap_or((text, ""));
        let digits = |part: &str| part.bytes().all(|b| b.is_ascii_digit());
        if whole.is_empty() || !digits(whole) || !digits(rest) || (text.contains('.') && rest.is_empty()) {
            return Err(AmountError::NotANumber);
        }
        let rest = rest.trim_end_matches('0');
        if rest.len() > 3 {
            return Err(AmountError::TooFine);
        }
        let joined = format!("{whole}{rest:0<3}");
        let value: i64 = joined
            .trim_start_matches('0')
            .parse()
            .or_else(|_| if joined.bytes().all(|b| b == b'0') { Ok(0) } else { Err(AmountError::TooLarge) })?;
        if negative && value != 0 {
            return Err(AmountError::Negative);
        }
        Self::new(value).ok_or(AmountError::TooLarge)
    }
}
impl<'de> Deserialize<'de> for MilliMana {
    fn deserialize<D: Deserializer<'de>>(d: D) -> Result<Self, D::Error> {
        Self::new(i64::deserialize(d)?).ok_or_else(|| de::Error::custom("an amount must be 0 to 2^53 - 1 milli-mana"))
    }
}

/// Reads what people write: a JSON number or a decimal string of mana. For `#[serde(deserialize_with)]`.
pub mod written {
    use super::*;

    struct Written;
    impl de::Visitor<'_> for Written {
        type Value = MilliMana;
        fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
            f.write_str("an amount of mana: a number or a decimal string such as \"1.25\"")
        }
        fn visit_u64<E: de::Error>(self, mana: u64) -> Result<MilliMana, E> {
            self.visit_str(&mana.to_string())
        }
        fn visit_i64<E: de::Error>(self, mana: i64) -> Result<MilliMana, E> {
            self.visit_str(&mana.to_string())
        }
        fn visit_f64<E: de::Error>(self, mana: f64) -> Result<MilliMana, E> {
            if !mana.is_finite() {
                return Err(amount(AmountError::NotANumber));
            }
            // `{}` prints the shortest decimal that reads back the same, without an exponent: what was written.
            self.visit_str(&format!("{mana}"))
        }
        fn visit_str<E: de::Error>(self, text: &str) -> Result<MilliMana, E> {
            text.parse().map_err(amount)
        }
    }
    /// The marker lets the door tell a bad amount from a wrong type.
    pub const MARK: &str = "amount: ";
    fn amount<E: de::Error>(error: AmountError) -> E {
        E::custom(format!("{MARK}{error}"))
    }
    pub fn option<'de, D: Deserializer<'de>>(d: D) -> Result<Option<MilliMana>, D::Error> {
        struct Opt;
        impl<'de> de::Visitor<'de> for Opt {
            type Value = Option<MilliMana>;
            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                Written.expecting(f)
            }
            fn visit_none<E: de::Error>(self) -> Result<Self::Value, E> {
                Ok(None)
            }
            fn visit_unit<E: de::Error>(self) -> Result<Self::Value, E> {
                Ok(None)
            }
            fn visit_some<D: Deserializer<'de>>(self, d: D) -> Result<Self::Value, D::Error> {
                d.deserialize_any(Written).map(Some)
            }
        }
        d.deserialize_option(Opt)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn people_write_mana() {
        let cases: [(&str, Result<i64, AmountError>); 13] = [
            ("0", Ok(0)),
            ("3", Ok(3000)),
            ("1.25", Ok(1250)),
            ("0.001", Ok(1)),
            ("1.2500", Ok(1250)),
            ("0.0001", Err(AmountError::TooFine)),
            ("-1", Err(AmountError::Negative)),
            ("1e3", Err(AmountError::NotANumber)),
            ("", Err(AmountError::NotANumber)),
            ("1.", Err(AmountError::NotANumber)),
            (".5", Err(AmountError::NotANumber)),
            ("9007199254740.991", Ok(MAX_MMANA)),
            ("9007199254740.992", Err(AmountError::TooLarge)),
        ];
        for (text, expected) in cases {
            assert_eq!(text.parse::<MilliMana>().map(MilliMana::get), expected, "{text}");
        }
        assert_eq!(MilliMana(1250).to_string(), "1.25");
        assert_eq!(mana_text(-500), "-0.5");
    }
}
