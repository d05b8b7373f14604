//! Reading a fact in one pass: the fields that every fact has go to their places, all others to what it says.
//!
//! serde's own flattening would keep every field twice until the kind is known, which took as long as all else in a replay.

use std::borrow::Cow;
use std::fmt;

use serde::de::value::{BorrowedStrDeserializer, MapAccessDeserializer, StringDeserializer};
use serde::de::{self, Deserialize, DeserializeSeed, Deserializer, MapAccess, Visitor};

use super::{Fact, Leg, What};
use crate::UnixMs;
use crate::id::{Cid, FactId, NetworkId};
use crate::strict::Key;

impl<'de> Deserialize<'de> for Fact {
    fn deserialize<D: Deserializer<'de>>(d: D) -> Result<Self, D::Error> {
        d.deserialize_map(Whole)
    }
}

struct Whole;
impl<'de> Visitor<'de> for Whole {
    type Value = Fact;
    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a fact")
    }
    fn visit_map<A: MapAccess<'de>>(self, map: A) -> Result<Fact, A::Error> {
        let mut common = Common::default();
        let what = What::deserialize(MapAccessDeserializer::new(Others { map, common: &mut common }))?;
        let missing = <A::Error as de::Error>::missing_field;
        Ok(Fact {
            net: common.net.ok_or_else(|| missing("net"))?,
            id: common.id.ok_or_else(|| missing("id"))?,
            at_ms: common.at_ms.ok_or_else(|| missing("at_ms"))?,
            policy: common.policy.ok_or_else(|| missing("policy"))?,
            legs: common.legs.ok_or_else(|| missing("legs"))?,
            evidence: common.evidence.unwrap_or_default(),
            what,
        })
    }
}

#[derive(Default)]
struct Common {
    net: Option<NetworkId>,
    id: Option<FactId>,
    at_ms: Option<UnixMs>,
    policy: Option<u32>,
    legs: Option<Vec<Leg>>,
    evidence: Option<Vec<Cid>>,
}

/// The map without the common fields, which it puts aside as they come.
struct Others<'a, A> {
    map: A,
    common: &'a mut Common,
}
impl<'de, A: MapAccess<'de>> MapAccess<'de> for Others<'_, A> {
    type Error = A::Error;
    fn next_key_seed<K: DeserializeSeed<'de>>(&mut self, seed: K) -> Result<Option<K::Value>, A::Error> {
        let Self { map, common } = self;
        while let Some(Key(key)) = map.next_key()? {
            match &*key {
                "net" => once(&mut common.net, "net", map)?,
                "id" => once(&mut common.id, "id", map)?,
                "at_ms" => once(&mut common.at_ms, "at_ms", map)?,
                "policy" => once(&mut common.policy, "policy", map)?,
                "legs" => once(&mut common.legs, "legs", map)?,
                "evidence" => once(&mut common.evidence, "evidence", map)?,
                _ => {
                    return match key {
                        Cow::Borrowed(text) => seed.deserialize(BorrowedStrDeserializer::new(text)),
                        Cow::Owned(text) => seed.deserialize(StringDeserializer::new(text)),
                    }
                    .map(Some);
                }
            }
        }
        Ok(None)
    }
    fn next_value_seed<V: DeserializeSeed<'de>>(&mut self, seed: V) -> Result<V::Value, A::Error> {
        self.map.next_value_seed(seed)
    }
}

fn once<'de, T: Deserialize<'de>, A: MapAccess<'de>>(place: &mut Option<T>, name: &'static str, map: &mut A) -> Result<(), A::Error> {
    if place.is_some() {
        return Err(de::Error::duplicate_field(name));
    }
    *place = Some(map.next_value()?);
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ledger::{Account, CheckpointState, Ended, Hash32, SettleOutcome, VoidReason};
    use crate::receipt::FailureClass;
    use crate::{AttemptId, JobId, MilliMana, ReceiptId, Signer};
    use proptest::prelude::*;

    /// What serde makes of the same fields by itself.
    #[derive(Debug, serde::Deserialize)]
    struct Plain {
        net: NetworkId,
        id: FactId,
        at_ms: UnixMs,
        policy: u32,
        legs: Vec<Leg>,
        #[serde(default)]
        evidence: Vec<Cid>,
        #[serde(flatten)]
        what: What,
    }

    fn facts() -> Vec<Fact> {
        let key = Signer::from_seed(&[1; 32]).public();
        let (member, device) = (key.member_id(), key.device_id());
        let (job, attempt, receipt) = (JobId(Cid::of(b"j")), AttemptId(Cid::of(b"a")), ReceiptId(Cid::of(b"r")));
        let amount_mmana = MilliMana::mana(1);
        let ended = vec![Ended { attempt, device, class: FailureClass::Timeout }];
        let hash = Hash32([7; 32]);
        let whats = [
            What::Hold { job, member, key: "k \"ä\"".into(), amount_mmana, expires: 9 },
            What::Settle {
                job,
                payer: member,
                payee: member,
                device,
                attempt,
                receipt,
                billed_ms: 4,
                paid_mmana: amount_mmana,
                fee_mmana: amount_mmana,
                discount_mmana: amount_mmana,
                vests_at: Some(7),
                outcome: SettleOutcome::Cancelled,
                ended: ended.clone(),
            },
            What::Void { job, member, reason: VoidReason::Failed, ended },
            What::Transfer { from: member, to: member, key: "k".into(), note: "n".into() },
            What::Vest { member, jobs: vec![job, job] },
            What::Regen { epoch: 3, part: 0, decay: 1, next: Some(member) },
            What::Checkpoint(CheckpointState { seq: 7, chain: hash, root: hash, state: hash }),
            What::Policy { rules: crate::ledger::Policy::first(amount_mmana) },
        ];
        let legs = vec![Leg { from: Account::Available(member), to: Account::Held(member), amount_mmana }];
        let fact = |what| Fact {
            net: key.network_id(),
            id: FactId(Cid::of(b"f")),
            at_ms: 5,
            policy: 1,
            legs: legs.clone(),
            evidence: vec![attempt.0, receipt.0],
            what,
        };
        whats.map(fact).to_vec()
    }

    fn alike(text: &str) -> Result<bool, TestCaseError> {
        let (ours, plain) = (serde_json::from_str::<Fact>(text), serde_json::from_str::<Plain>(text));
        let plain =
            plain.map(|Plain { net, id, at_ms, policy, legs, evidence, what }| Fact { net, id, at_ms, policy, legs, evidence, what });
        prop_assert_eq!(ours.as_ref().ok(), plain.as_ref().ok(), "{}: {:?}", text, ours);
        Ok(ours.is_ok())
    }

    /// The fields of a fact as pieces of text, which can be moved, dropped, doubled and changed.
    fn fields(fact: &Fact) -> Vec<(String, String)> {
        let serde_json::Value::Object(map) = serde_json::to_value(fact).unwrap() else { panic!("an object") };
        map.into_iter().map(|(key, value)| (key, value.to_string())).collect()
    }
    fn object(fields: &[(String, String)]) -> String {
        let fields: Vec<String> = fields.iter().map(|(key, value)| format!("\"{key}\":{value}")).collect();
        format!("{{{}}}", fields.join(","))
    }

    #[test]
    fn every_kind_is_read_in_any_order() {
        for fact in facts() {
            let mut fields = fields(&fact);
            for _ in 0..fields.len() {
                fields.rotate_left(1);
                assert_eq!(serde_json::from_str::<Fact>(&object(&fields)).unwrap(), fact);
            }
            for missing in 0..fields.len() {
                let mut fewer = fields.clone();
                fewer.remove(missing);
                alike(&object(&fewer)).unwrap();
            }
        }
        assert!(!alike("[]").unwrap() && !alike("null").unwrap() && !alike("{}").unwrap());
    }

    proptest! {
        #[test]
        fn a_changed_fact_is_read_as_serde_reads_it(
            n in 0_usize..8,
            changes in proptest::collection::vec((0_usize..5, any::<proptest::sample::Index>(), any::<proptest::sample::Index>()), 0..4),
        ) {
            let all = facts();
            let mut fields = fields(&all[n]);
            for (how, at, other) in changes {
                let i = at.index(fields.len());
                let values = ["1", "null", "\"hold\"", "[]", "{\"a\":1}", "-1", "1.5", "\"x\"", "18446744073709551615"];
                let names = ["reason", "kind", "net", "unknown", "legs", "k\\u0069nd", "evidence", "seq", "job"];
                match how {
                    0 => fields[i].1 = values[other.index(values.len())].to_owned(),
                    1 => fields.push((names[other.index(names.len())].to_owned(), values[at.index(values.len())].to_owned())),
                    2 => fields.push(fields[i].clone()),
                    3 if fields.len() > 1 => { fields.remove(i); }
                    _ => { let j = other.index(fields.len()); fields.swap(i, j); }
                }
            }
            alike(&object(&fields))?;
        }
    }
}
