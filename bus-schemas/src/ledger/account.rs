//! Accounts and balances.

use std::collections::BTreeMap;
use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

use crate::id::MemberId;

/// One account. Text form: `mint`, `commons`, `review`, `burn`, or `mem_…/available|held|vesting`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Account {
    /// Where credit comes from; the only one that may be below zero.
    Mint,
    /// Fees in, mutual aid out.
    Commons,
    /// Payouts that a person must look at.
    Review,
    /// Credit that is gone.
    Burn,
    Available(MemberId),
    Held(MemberId),
    Vesting(MemberId),
}
impl Account {
    pub const fn member(&self) -> Option<MemberId> {
        match self {
            Self::Available(member) | Self::Held(member) | Self::Vesting(member) => Some(*member),
            Self::Mint | Self::Commons | Self::Review | Self::Burn => None,
        }
    }
}
impl fmt::Display for Account {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Mint => f.write_str("mint"),
            Self::Commons => f.write_str("commons"),
            Self::Review => f.write_str("review"),
            Self::Burn => f.write_str("burn"),
            Self::Available(member) => write!(f, "{member}/available"),
            Self::Held(member) => write!(f, "{member}/held"),
            Self::Vesting(member) => write!(f, "{member}/vesting"),
        }
    }
}
impl FromStr for Account {
    type Err = String;
    fn from_str(text: &str) -> Result<Self, String> {
        let bad = || format!("no such account: {}", text.chars().take(60).collect::<String>());
        match text {
            "mint" => Ok(Self::Mint),
            "commons" => Ok(Self::Commons),
            "review" => Ok(Self::Review),
            "burn" => Ok(Self::Burn),
            other => {
                let (member, class) = other.split_once('/').ok_or_else(bad)?;
                let member = member.parse().map_err(|_| bad())?;
                match class {
                    "available" => Ok(Self::Available(member)),
                    "held" => Ok(Self::Held(member)),
                    "vesting" => Ok(Self::Vesting(member)),
                    _ => Err(bad()),
                }
            }
        }
    }
}
impl Serialize for Account {
    fn serialize<S: serde::Serializer>(&self, s: S) -> Result<S::Ok, S::Error> {
        s.collect_str(self)
    }
}
impl<'de> Deserialize<'de> for Account {
    fn deserialize<D: serde::Deserializer<'de>>(d: D) -> Result<Self, D::Error> {
        crate::id::parse(d)
    }
}
impl schemars::JsonSchema for Account {
    fn schema_name() -> std::borrow::Cow<'static, str> {
        "Account".into()
    }
    fn json_schema(_: &mut schemars::SchemaGenerator) -> schemars::Schema {
        schemars::json_schema!({"type": "string", "pattern": "^(mint|commons|review|burn|mem_[a-z2-7]{26}/(available|held|vesting))$"})
    }
}

/// Balances of one member.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize, schemars::JsonSchema)]
pub struct Balance {
    pub available_mmana: i64,
    pub held_mmana: i64,
    pub vesting_mmana: i64,
}

/// All balances, by account, sorted.
pub type Balances = BTreeMap<Account, i64>;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn accounts_print_and_parse() {
        let member = crate::Signer::from_seed(&[1; 32]).public().member_id();
        for account in [
            Account::Mint,
            Account::Commons,
            Account::Review,
            Account::Burn,
            Account::Available(member),
            Account::Held(member),
            Account::Vesting(member),
        ] {
            assert_eq!(account.to_string().parse(), Ok(account));
        }
        assert!("mem_x/available".parse::<Account>().is_err());
    }
}
