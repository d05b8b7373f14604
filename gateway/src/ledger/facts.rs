//! Facts, balances, checkpoints and the policy, as they stand in the rows.

use bus_schemas::api::ledger::{
    AccountBalance, BalanceList, CheckpointList, CheckpointView, FactList, FactView, PolicyView, ask::Checkpoints, ask::Facts,
};
use bus_schemas::ledger::{Account, Hash32};
use bus_schemas::mana::mana_text;
use bus_schemas::{Code, MemberId, Problem};
use tokio_postgres::Row;

use super::{Rows, big, damaged, limit_of, unsigned};
use crate::world::World;

/// One page stays well below what one message may be.
const PAGE_BYTES_MAX: usize = 192 * 1024;

const FACTS: &str = "select seq, i, body from ledger.fact where (seq, i) > ($1, $2) order by seq, i limit $3";
const BALANCES: &str = "select id, balance from ledger.account where id = any($1)";
const CHECKPOINTS: &str = "select c.seq, c.message_seq, c.chain, c.root, c.state, e.envelope
    from ledger.checkpoint c join ledger.event e on e.seq = c.message_seq where c.seq < $1 order by c.seq desc limit $2";
const POLICY: &str = "select rules::text, seq from ledger.policy order by version desc limit 1";

impl World {
    /// # Errors
    /// [`Code::BadValue`] for a limit or cursor that is none; [`Code::Unavailable`].
    pub async fn ledger_facts(&self, ask: &Facts) -> Result<FactList, Problem> {
        let limit = limit_of(ask.limit, 100, 1_000)?;
        let (seq, i) = ask.after.as_deref().map_or(Ok((0, i16::MAX)), after)?;
        let rows = self.ledger_rows().await?;
        let found = rows.query(FACTS, &[&seq, &i, &i64::from(limit)]).await?;
        let (mut facts, mut bytes) = (Vec::with_capacity(found.len()), 0);
        for row in &found {
            let body: String = row.get(2);
            bytes += body.len() + 64;
            if bytes > PAGE_BYTES_MAX && !facts.is_empty() {
                break;
            }
            facts.push(FactView { seq: unsigned(row.get(0)), i: u32::try_from(row.get::<_, i16>(1)).unwrap_or(0), body });
        }
        let more = facts.len() < found.len() || found.len() == usize::try_from(limit).unwrap_or(usize::MAX);
        let cursor = facts.last().filter(|_| more).map(|fact| format!("{}.{}", fact.seq, fact.i));
        Ok(FactList { facts, cursor, ledger_seq: rows.seq })
    }

    /// # Errors
    /// [`Code::Unavailable`].
    pub async fn ledger_balances(&self, member: MemberId) -> Result<BalanceList, Problem> {
        let accounts = [
            Account::Available(member),
            Account::Held(member),
            Account::Vesting(member),
            Account::Mint,
            Account::Commons,
            Account::Review,
            Account::Burn,
        ];
        let names = accounts.map(|account| account.to_string()).to_vec();
        let rows = self.ledger_rows().await?;
        let found = rows.query(BALANCES, &[&names]).await?;
        let balance = |account: Account| {
            let name = account.to_string();
            let row = found.iter().find(|row| row.get::<_, String>(0) == name);
            let balance_mmana = row.map_or(0, |row| row.get(1));
            AccountBalance { account, balance_mmana, balance: mana_text(balance_mmana) }
        };
        Ok(BalanceList { balances: accounts.map(balance).to_vec(), ledger_seq: rows.seq })
    }

    /// # Errors
    /// [`Code::BadValue`] for a limit or cursor that is none; [`Code::Unavailable`].
    pub async fn ledger_checkpoints(&self, ask: &Checkpoints) -> Result<CheckpointList, Problem> {
        let limit = limit_of(ask.limit, 20, 200)?;
        let bad = || Problem::new(Code::BadValue, "`before` is the sequence that a checkpoint covers");
        let before = ask.before.as_deref().map_or(Ok(i64::MAX), |text| text.parse().map_err(|_| bad()))?;
        let rows = self.ledger_rows().await?;
        let found = rows.query(CHECKPOINTS, &[&before, &i64::from(limit)]).await?;
        let checkpoints = found.iter().map(checkpoint).collect::<Result<Vec<_>, _>>()?;
        let whole_page = checkpoints.len() == usize::try_from(limit).unwrap_or(usize::MAX);
        let cursor = checkpoints.last().filter(|_| whole_page).map(|last| last.seq.to_string());
        Ok(CheckpointList { checkpoints, cursor, ledger_seq: rows.seq })
    }

    /// # Errors
    /// [`Code::Unavailable`].
    pub async fn network_policy(&self) -> Result<PolicyView, Problem> {
        let rows = self.ledger_rows().await?;
        let found = rows.query(POLICY, &[]).await?;
        let row = found.first().ok_or_else(|| damaged("the books begin with no policy"))?;
        let rules = serde_json::from_str(row.get(0)).map_err(|error| damaged(&format!("the policy cannot be read: {error}")))?;
        Ok(PolicyView { rules, since_seq: unsigned(row.get(1)), ledger_seq: rows.seq })
    }
}

/// The newest checkpoint.
///
/// # Errors
/// [`Code::NotCovered`] where there is none yet; [`Code::Unavailable`].
pub async fn latest(rows: &Rows) -> Result<CheckpointView, Problem> {
    let found = rows.query(CHECKPOINTS, &[&i64::MAX, &1_i64]).await?;
    let none = || Problem::new(Code::NotCovered, "the books have no checkpoint yet; one follows within a minute of the first fact");
    checkpoint(found.first().ok_or_else(none)?)
}

fn checkpoint(row: &Row) -> Result<CheckpointView, Problem> {
    let hash = |at: usize| <[u8; 32]>::try_from(row.get::<_, &[u8]>(at)).map(Hash32).map_err(|_| damaged("a hash is not 32 bytes"));
    Ok(CheckpointView {
        seq: unsigned(row.get(0)),
        message_seq: unsigned(row.get(1)),
        chain: hash(2)?,
        root: hash(3)?,
        state: hash(4)?,
        message: text(row.get(5))?,
    })
}

/// A stored message that counts is JSON, and so is text.
pub fn text(envelope: Vec<u8>) -> Result<String, Problem> {
    String::from_utf8(envelope).map_err(|_| damaged("a stored message is no text"))
}

/// `SEQ`: all of that message is known; `SEQ.I`: up to that fact.
fn after(text: &str) -> Result<(i64, i16), Problem> {
    let bad = || Problem::new(Code::BadValue, "`after` is a sequence, or the cursor of the page before");
    let (seq, i) = text.split_once('.').map_or((text, None), |(seq, i)| (seq, Some(i)));
    let seq: u64 = seq.parse().map_err(|_| bad())?;
    Ok((big(seq), i.map_or(Ok(i16::MAX), |i| i.parse().map_err(|_| bad()))?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn places_in_the_ledger() {
        assert_eq!(after("0"), Ok((0, i16::MAX)));
        assert_eq!(after("17"), Ok((17, i16::MAX)));
        assert_eq!(after("17.3"), Ok((17, 3)));
        for bad in ["", "-1", "x", "1.x", "1.2.3", "1.99999", "1."] {
            assert_eq!(after(bad).unwrap_err().code, Code::BadValue, "{bad}");
        }
    }
}
