//! What a member has and how it came: read from the ledger's rows, which anyone can make again from LEDGER.

use bus_schemas::api::{BalanceView, CreditEntry, CreditHistory};
use bus_schemas::id::{Cid, JobId, MemberId};
use bus_schemas::ledger::Account;
use bus_schemas::mana::mana_text;
use bus_schemas::{Code, Problem};
use serde::Deserialize;

use crate::world::{World, rfc3339};

const LIST_DEFAULT: u32 = 50;
const LIST_MAX: u32 = 200;

const BALANCE: &str = "select id, balance from ledger.account where id = any($1)";
/// Two sides, each in the order of its index.
const LEGS: &str = "select l.seq, l.i, l.n, l.debit, l.credit, l.amount, f.kind, f.job, f.at_ms, f.body from (
        (select * from ledger.leg where debit = any($1) and (seq, i, n) < ($2, $3, $4) order by seq desc, i desc, n desc limit $5)
        union
        (select * from ledger.leg where credit = any($1) and (seq, i, n) < ($2, $3, $4) order by seq desc, i desc, n desc limit $5)
    ) l join ledger.fact f on f.seq = l.seq and f.i = l.i order by l.seq desc, l.i desc, l.n desc limit $5";

fn accounts(member: MemberId) -> [Account; 3] {
    [Account::Available(member), Account::Held(member), Account::Vesting(member)]
}
fn names(member: MemberId) -> Vec<String> {
    accounts(member).iter().map(Account::to_string).collect()
}

impl World {
    /// # Errors
    /// [`Code::Unavailable`] where the ledger's rows cannot be read.
    pub async fn credit_balance(&self, member: MemberId) -> Result<BalanceView, Problem> {
        let rows = self.ledger_rows().await?;
        let found = rows.query(BALANCE, &[&names(member)]).await?;
        let of = |account: Account| {
            let name = account.to_string();
            found.iter().find(|row| row.get::<_, &str>(0) == name).map_or(0, |row| row.get::<_, i64>(1))
        };
        let [available, held, vesting] = accounts(member).map(of);
        Ok(BalanceView {
            member,
            available_mmana: available,
            held_mmana: held,
            vesting_mmana: vesting,
            available: mana_text(available),
            held: mana_text(held),
            vesting: mana_text(vesting),
            ledger_seq: rows.seq,
        })
    }

    /// Newest first. A movement between two of one's own accounts shows on both.
    ///
    /// # Errors
    /// [`Code::BadValue`] for a limit or cursor that is none; [`Code::Unavailable`].
    pub async fn credit_history(&self, member: MemberId, limit: Option<u32>, cursor: Option<&str>) -> Result<CreditHistory, Problem> {
        let limit = limit.unwrap_or(LIST_DEFAULT);
        if !(1..=LIST_MAX).contains(&limit) {
            return Err(Problem::new(Code::BadValue, format!("limit is {limit}; 1 to {LIST_MAX} are allowed")));
        }
        let (seq, i, n) = match cursor {
            Some(cursor) => parse_cursor(cursor)?,
            None => (i64::MAX, i16::MAX, i16::MAX),
        };
        let rows = self.ledger_rows().await?.query(LEGS, &[&names(member), &seq, &i, &n, &i64::from(limit)]).await?;
        let own = names(member);
        let mut entries = Vec::new();
        for row in &rows {
            let (debit, credit, amount): (String, String, i64) = (row.get(3), row.get(4), row.get(5));
            let entry = |account: &str, counterpart: &str, amount_mmana: i64| CreditEntry {
                seq: u64::try_from(row.get::<_, i64>(0)).unwrap_or(0),
                at: rfc3339(u64::try_from(row.get::<_, i64>(8)).unwrap_or(0)),
                kind: row.get(6),
                job: row.get::<_, Option<Vec<u8>>>(7).and_then(|job| Cid::from_bytes(&job).ok()).map(JobId),
                account: account.to_owned(),
                amount_mmana,
                counterpart: counterpart.to_owned(),
                note: note(row.get(9)),
            };
            if own.contains(&credit) {
                entries.push(entry(&credit, &debit, amount));
            }
            if own.contains(&debit) {
                entries.push(entry(&debit, &credit, -amount));
            }
        }
        let whole_page = rows.len() == usize::try_from(limit).unwrap_or(usize::MAX);
        let cursor = rows.last().filter(|_| whole_page);
        let cursor = cursor.map(|row| format!("{}.{}.{}", row.get::<_, i64>(0), row.get::<_, i16>(1), row.get::<_, i16>(2)));
        Ok(CreditHistory { member, entries, cursor })
    }
}

fn parse_cursor(cursor: &str) -> Result<(i64, i16, i16), Problem> {
    let mut parts = cursor.split('.');
    let parsed = (|| {
        let place = (parts.next()?.parse().ok()?, parts.next()?.parse().ok()?, parts.next()?.parse().ok()?);
        parts.next().is_none().then_some(place)
    })();
    parsed.ok_or_else(|| Problem::new(Code::BadValue, "the cursor is none that was given out"))
}

/// What somebody wrote beside a movement.
fn note(body: &str) -> Option<String> {
    #[derive(Deserialize)]
    struct Said {
        note: Option<String>,
        reason: Option<String>,
    }
    let said: Said = serde_json::from_str(body).ok()?;
    said.note.or(said.reason).filter(|text| !text.is_empty())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn notes_are_what_people_wrote() {
        assert_eq!(note(r#"{"kind":"transfer","note":"for lunch"}"#).as_deref(), Some("for lunch"));
        assert_eq!(note(r#"{"kind":"mint","reason":"welcome"}"#).as_deref(), Some("welcome"));
        for nothing in [r#"{"kind":"hold"}"#, r#"{"kind":"transfer","note":""}"#, "", "[1]"] {
            assert_eq!(note(nothing), None, "{nothing}");
        }
    }

    #[test]
    fn cursors() {
        assert_eq!(parse_cursor("5.1.0"), Ok((5, 1, 0)));
        for bad in ["", "5", "5.1", "5.1.0.1", "a.b.c", "5.1.99999"] {
            assert!(parse_cursor(bad).is_err(), "{bad}");
        }
    }
}
