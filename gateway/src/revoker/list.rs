//! Which logins the hub is to refuse, as the facts say, and the account token that tells it. Touches nothing; time comes in as a value.

use std::collections::BTreeMap;

use bus_schemas::UnixMs;
use bus_schemas::ledger::{Fact, What};

use crate::jwt::{Account, Claims};

/// A login that was issued up to this long after the fact is refused as well: the clocks of gateways and ledger are not one.
pub const SLACK_S: u64 = 1;

/// Public nkey of a user -> Unix seconds: what was issued up to then is refused.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Refused(BTreeMap<String, u64>);
impl Refused {
    /// Whether the fact adds something. That a member is restored takes nothing away: its logins are issued anew, later.
    pub fn apply(&mut self, fact: &Fact) -> bool {
        let Some(logins) = logins(&fact.what) else { return false };
        let until = fact.at_ms / 1000 + SLACK_S;
        let mut more = false;
        for login in logins {
            let known = self.0.entry(login.clone()).or_default();
            more |= *known < until;
            *known = (*known).max(until);
        }
        more
    }

    /// The token that comes after `current`; `None` where that says it all. What was refused before `since_s` is left out: no login lives so long.
    pub fn token_after(&self, current: &Claims<Account>, now_s: u64, since_s: u64) -> Option<Claims<Account>> {
        let mut wanted = current.nats.revocations.clone();
        for (login, until) in &self.0 {
            let known = wanted.entry(login.clone()).or_default();
            *known = (*known).max(*until);
        }
        let said = wanted.iter().all(|(login, until)| current.nats.revocations.get(login) == Some(until) || *until < since_s);
        if said {
            return None;
        }
        wanted.retain(|_, until| *until >= since_s);
        let mut next = current.clone();
        next.nats.revocations = wanted;
        // A hub keeps the later one; two in one second would be the same to it.
        next.iat = now_s.max(current.iat + 1);
        next.iss = String::new();
        next.jti = String::new();
        Some(next)
    }
}

fn logins(what: &What) -> Option<&[String]> {
    match what {
        What::RevokeDevice { logins, .. } | What::SuspendMember { logins, .. } => Some(logins),
        What::Genesis { .. }
        | What::Open { .. }
        | What::Mint { .. }
        | What::BindDevice { .. }
        | What::AttestTier { .. }
        | What::Hold { .. }
        | What::Settle { .. }
        | What::Void { .. }
        | What::RestoreMember { .. }
        | What::Regen { .. }
        | What::Transfer { .. }
        | What::Fee { .. }
        | What::Vest { .. }
        | What::Flag { .. }
        | What::ReviewRelease { .. }
        | What::ReviewSeize { .. }
        | What::Policy { .. }
        | What::Correction { .. }
        | What::Checkpoint(_) => None,
    }
}

/// Whether a message of LEDGER may hold such a fact: the text of one names its kind. Nearly none does, and only those are verified.
pub fn may_say(payload: &[u8]) -> bool {
    let holds = |word: &[u8]| payload.windows(word.len()).any(|window| window == word);
    holds(b"revoke_device") || holds(b"suspend_member")
}

/// The oldest revocation that still matters: no login lives longer than `life_s`, and an hour is for clocks.
pub const fn since(now: UnixMs, life_s: u64) -> u64 {
    (now / 1000).saturating_sub(life_s + 3600)
}

#[cfg(test)]
mod tests {
    use super::*;
    use bus_schemas::id::Cid;
    use bus_schemas::{FactId, Signer};

    fn fact(at_s: u64, what: What) -> Fact {
        let net = Signer::from_seed(&[1; 32]).public().network_id();
        Fact { net, id: FactId(Cid::of(b"x")), at_ms: at_s * 1000, policy: 1, legs: vec![], evidence: vec![], what }
    }
    fn revoke(at_s: u64, logins: &[&str]) -> Fact {
        let device = Signer::from_seed(&[2; 32]).public().device_id();
        fact(at_s, What::RevokeDevice { device, receipts_seq: 1, logins: logins.iter().map(|login| (*login).to_owned()).collect() })
    }

    #[test]
    fn a_token_follows_from_the_facts() {
        let mut refused = Refused::default();
        let current = Claims::new("A1", "EDGE", 100, Account::new(false));
        assert_eq!(refused.token_after(&current, 200, 0), None);
        assert!(refused.apply(&revoke(150, &["UA", "UB"])));
        assert!(!refused.apply(&revoke(150, &["UA"])), "a copy adds nothing");
        assert!(
            !refused
                .apply(&fact(160, What::RestoreMember { member: Signer::from_seed(&[1; 32]).public().member_id(), reason: String::new() }))
        );
        let next = refused.token_after(&current, 200, 0).unwrap();
        assert_eq!(next.iat, 200);
        assert_eq!(next.nats.revocations, BTreeMap::from([("UA".into(), 151), ("UB".into(), 151)]));
        assert_eq!(refused.token_after(&next, 300, 0), None, "it says so already");
        // Within one second, and with a clock that went back.
        assert!(refused.apply(&revoke(200, &["UC"])));
        let third = refused.token_after(&next, 150, 0).unwrap();
        assert_eq!((third.iat, third.nats.revocations.len()), (201, 3));
        // What somebody else put there stays; what no login outlives goes, when the token changes anyway.
        assert_eq!(Refused::default().token_after(&third, 900, 0), None);
        assert_eq!(refused.token_after(&third, 900, 180), None);
        assert!(refused.apply(&revoke(400, &["UA"])));
        let fourth = refused.token_after(&third, 900, 180).unwrap();
        assert_eq!(fourth.nats.revocations, BTreeMap::from([("UA".into(), 401), ("UC".into(), 201)]));
    }

    #[test]
    fn only_messages_that_may_matter_are_looked_into() {
        assert!(may_say(br#"{"b":["{\"kind\":\"revoke_device\"}"]}"#));
        assert!(may_say(br#"{"b":["{\"kind\":\"suspend_member\"}"]}"#));
        assert!(!may_say(br#"{"b":["{\"kind\":\"hold\"}"]}"#) && !may_say(b""));
    }
}
