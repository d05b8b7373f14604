//! I1 to I11 over messages as a stranger reads them: JSON text, a fold of legs, two hashes.

use std::collections::{BTreeMap, BTreeSet};

use bus_schemas::{Cid, DeviceId};
use serde_json::Value;
use sha2::{Digest, Sha256};

use super::world::Message;

/// The books as the fold leaves them.
#[derive(Debug, Default)]
pub struct Fold {
    pub balances: BTreeMap<String, i128>,
    /// Open holds: job, and (member, amount, expires).
    holds: BTreeMap<String, (String, i128, u64)>,
    closed: BTreeSet<String>,
    ids: BTreeSet<String>,
    pub chain: [u8; 32],
    last_at: u64,
}

/// Folds all messages and checks every invariant after every fact. `assigned`: which device each assignment names.
///
/// # Errors
/// The first that does not hold.
pub fn fold(messages: &[Message], assigned: &BTreeMap<Cid, DeviceId>) -> Result<Fold, String> {
    let assigned: BTreeMap<String, String> = assigned.iter().map(|(cid, device)| (cid.to_string(), device.to_string())).collect();
    let mut fold = Fold::default();
    for (n, message) in messages.iter().enumerate() {
        expect(message.seq == n as u64 + 1, "sequences follow each other")?;
        let mut hasher = Sha256::new();
        hasher.update(fold.chain);
        hasher.update(message.seq.to_be_bytes());
        hasher.update(Sha256::digest(&message.payload));
        fold.chain = hasher.finalize().into();
        expect(fold.chain == message.chain, "I8: the chain")?;
        let batch: Value = serde_json::from_slice(&message.payload).map_err(|error| error.to_string())?;
        let bodies = batch["b"].as_array().ok_or("a list of bodies")?;
        expect((1..=256).contains(&bodies.len()), "1 to 256 facts in a message")?;
        for body in bodies {
            let fact: Value = serde_json::from_str(body.as_str().ok_or("a body is text")?).map_err(|error| error.to_string())?;
            fold.fact(&fact, &assigned).map_err(|why| format!("sequence {}: {why} in {fact}", message.seq))?;
        }
    }
    Ok(fold)
}

fn expect(holds: bool, what: &str) -> Result<(), String> {
    if holds { Ok(()) } else { Err(what.to_owned()) }
}
fn text(value: &Value) -> String {
    value.as_str().unwrap_or_default().to_owned()
}
fn amount(value: &Value) -> i128 {
    value.as_i64().unwrap_or(0).into()
}

impl Fold {
    fn fact(&mut self, fact: &Value, assigned: &BTreeMap<String, String>) -> Result<(), String> {
        expect(self.ids.insert(text(&fact["id"])), "a fact id twice")?;
        let at = fact["at_ms"].as_u64().ok_or("no fact time")?;
        expect(at >= self.last_at, "fact time goes back")?;
        self.last_at = at;
        let mut net: BTreeMap<String, i128> = BTreeMap::new();
        for leg in fact["legs"].as_array().ok_or("no legs")? {
            let (from, to, moved) = (text(&leg["from"]), text(&leg["to"]), amount(&leg["amount_mmana"]));
            expect(moved > 0 && from != to, "a leg moves something")?;
            *net.entry(from.clone()).or_default() -= moved;
            *net.entry(to.clone()).or_default() += moved;
            *self.balances.entry(from.clone()).or_default() -= moved;
            *self.balances.entry(to).or_default() += moved;
            expect(from == "mint" || self.balances[&from] >= 0, "I3: an account below zero")?;
        }
        expect(net.values().sum::<i128>() == 0, "I1: the legs of a fact")?;
        expect(self.balances.values().sum::<i128>() == 0, "I2: all balances together")?;
        let minted = -self.balances.get("mint").copied().unwrap_or(0);
        let others: i128 = self.balances.iter().filter(|(account, _)| *account != "mint").map(|(_, balance)| balance).sum();
        expect(minted == others && (0..1 << 53).contains(&minted), "I2: what was minted is all there is")?;
        let job = text(&fact["job"]);
        match fact["kind"].as_str().ok_or("no kind")? {
            "hold" => {
                let expires = fact["expires"].as_u64().ok_or("no end")?;
                expect(at <= expires, "I10: a hold after its end")?;
                expect(!self.closed.contains(&job), "I5: a hold of a closed job")?;
                let hold = (text(&fact["member"]), amount(&fact["amount_mmana"]), expires);
                expect(self.holds.insert(job, hold).is_none(), "a second hold of a job")?;
            }
            "settle" => {
                let (_, held, _) = self.close(&job)?;
                let (paid, fee) = (amount(&fact["paid_mmana"]), amount(&fact["fee_mmana"]));
                expect(paid >= 0 && fee >= 0 && paid + fee <= held, "I6: pay above the hold")?;
                let evidence = fact["evidence"].as_array().ok_or("no evidence")?;
                let device = text(&fact["device"]);
                let cites = evidence.iter().any(|cid| assigned.get(&text(cid)) == Some(&device));
                expect(cites, "I11: no assignment to the device that is paid")?;
            }
            "void" => drop(self.close(&job)?),
            _ => {}
        }
        let mut escrow: BTreeMap<String, i128> = BTreeMap::new();
        for (member, held, _) in self.holds.values() {
            *escrow.entry(format!("{member}/held")).or_default() += held;
        }
        let held: BTreeMap<String, i128> = self
            .balances
            .iter()
            .filter(|(account, balance)| account.ends_with("/held") && **balance != 0)
            .map(|(a, b)| (a.clone(), *b))
            .collect();
        expect(held == escrow, "I4: escrow and open holds")
    }

    fn close(&mut self, job: &str) -> Result<(String, i128, u64), String> {
        expect(self.closed.insert(job.to_owned()), "I5: a job closed twice")?;
        self.holds.remove(job).ok_or_else(|| "a close without a hold".to_owned())
    }

    /// As `docs/ledger-format.md` says it.
    pub fn digest(&self) -> [u8; 32] {
        let mut lines: Vec<String> = vec![];
        for (account, balance) in &self.balances {
            if *balance != 0 {
                lines.push(format!("{account} {balance}\n"));
            }
        }
        for (job, (member, amount, _)) in &self.holds {
            lines.push(format!("hold {job} {member} {amount}\n"));
        }
        Sha256::digest(lines.concat()).into()
    }
}
