//! What a member has and how it came: read from the ledger's rows, which anyone can make again from LEDGER.

use bus_schemas::api::{BalanceView, CreditEntry, CreditHistory};
use bus_schemas::id::{Cid, JobId, MemberId};
use bus_schemas::ledger::Account;
use bus_schemas::mana::mana_text;
use bus_schemas::{Code, Problem};
use serde::Deserialize;
use tokio_postgres::Row;

use crate::world::{World, rfc3339};

const LIST_DEFAULT: u32 = 50;
const LIST_MAX: u32 = 200;

/// In one statement, so that the balances are those of exactly this sequence: who replays LEDGER holds them against it.
const BALANCE: &str =
    "select c.seq, a.id, a.balance from ledger.cursor c left join ledger.account a on a.id = any($1) where c.stream = 'LEDGER'";
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
            found.iter().find(|row| row.get::<_, Option<&str>>(1) == Some(&name)).map_or(0, |row| row.get::<_, i64>(2))
        };
        let [available, held, vesting] = accounts(member).map(of);
        let ledger_seq = found.first().map_or(rows.seq, |row| u64::try_from(row.get::<_, i64>(0)).unwrap_or(0));
        Ok(BalanceView {
            member,
            available_mmana: available,
            held_mmana: held,
            vesting_mmana: vesting,
            available: mana_text(available),
            held: mana_text(held),
            vesting: mana_text(vesting),
            ledger_seq,
        })
    }

    /// Newest first. A movement between two of one's own accounts shows on both; `limit` counts what is shown.
    ///
    /// # Errors
    /// [`Code::BadValue`] for a limit or cursor that is none; [`Code::Unavailable`].
    pub async fn credit_history(&self, member: MemberId, limit: Option<u32>, cursor: Option<&str>) -> Result<CreditHistory, Problem> {
        let limit = limit.unwrap_or(LIST_DEFAULT);
        if !(1..=LIST_MAX).contains(&limit) {
            return Err(Problem::new(Code::BadValue, format!("limit is {limit}; 1 to {LIST_MAX} are allowed")));
        }
        let after = cursor.map(Place::parse).transpose()?;
        let (seq, i, n) = after.map_or((i64::MAX, i16::MAX, i16::MAX), Place::before);
        let own = names(member);
        let limit = i64::from(limit);
        let rows = self.ledger_rows().await?.query(LEGS, &[&own, &seq, &i, &n, &limit]).await?;
        let legs: Vec<Leg> = rows.iter().map(Leg::of).collect();
        let (entries, cursor) = page(&legs, &own, after, usize::try_from(limit).unwrap_or(usize::MAX));
        Ok(CreditHistory { member, entries, cursor })
    }
}

/// One movement from account to account.
struct Leg {
    place: (i64, i16, i16),
    debit: String,
    credit: String,
    amount: i64,
    kind: String,
    job: Option<JobId>,
    at: u64,
    note: Option<String>,
}
impl Leg {
    fn of(row: &Row) -> Self {
        Self {
            place: (row.get(0), row.get(1), row.get(2)),
            debit: row.get(3),
            credit: row.get(4),
            amount: row.get(5),
            kind: row.get(6),
            job: row.get::<_, Option<Vec<u8>>>(7).and_then(|job| Cid::from_bytes(&job).ok()).map(JobId),
            at: u64::try_from(row.get::<_, i64>(8)).unwrap_or(0),
            note: note(row.get(9)),
        }
    }
    /// What it is to the owner of these accounts, in the order in which it is shown: one line, or two where both are theirs.
    fn entries(&self, own: &[String]) -> Vec<CreditEntry> {
        let entry = |account: &str, counterpart: &str, amount_mmana: i64| CreditEntry {
            seq: u64::try_from(self.place.0).unwrap_or(0),
            at: rfc3339(self.at),
            kind: self.kind.clone(),
            job: self.job,
            account: account.to_owned(),
            amount_mmana,
            counterpart: counterpart.to_owned(),
            note: self.note.clone(),
        };
        let into = own.contains(&self.credit).then(|| entry(&self.credit, &self.debit, self.amount));
        let out_of = own.contains(&self.debit).then(|| entry(&self.debit, &self.credit, -self.amount));
        into.into_iter().chain(out_of).collect()
    }
}

/// The first `limit` lines that these legs, newest first, come to, and where the next page begins if there may be one.
fn page(legs: &[Leg], own: &[String], after: Option<Place>, limit: usize) -> (Vec<CreditEntry>, Option<String>) {
    let mut entries = Vec::new();
    for leg in legs {
        let all = leg.entries(own);
        let shown = after.filter(|after| after.leg == leg.place).map_or(0, |after| usize::from(after.half));
        let room = limit - entries.len();
        let rest = all.len().saturating_sub(shown);
        entries.extend(all.into_iter().skip(shown).take(room));
        if entries.len() == limit {
            return (entries, Some(Place { leg: leg.place, half: rest > room }.to_string()));
        }
    }
    // Every leg is at least one line, so a page that is not full is the last.
    (entries, None)
}

/// Where a page ended: behind this leg, or between its two lines.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Place {
    leg: (i64, i16, i16),
    half: bool,
}
impl Place {
    fn parse(cursor: &str) -> Result<Self, Problem> {
        let parts: Vec<&str> = cursor.split('.').collect();
        let leg = |seq: &str, i: &str, n: &str| Some((seq.parse().ok()?, i.parse().ok()?, n.parse().ok()?));
        let parsed = match parts.as_slice() {
            [seq, i, n] => leg(seq, i, n).map(|leg| Self { leg, half: false }),
            [seq, i, n, "half"] => leg(seq, i, n).map(|leg| Self { leg, half: true }),
            _ => None,
        };
        parsed.ok_or_else(|| Problem::new(Code::BadValue, "the cursor is none that was given out"))
    }
    /// What is to come lies before this: the leg itself is asked for again where half of it is left.
    fn before(self) -> (i64, i16, i16) {
        let (seq, i, n) = self.leg;
        (seq, i, n.saturating_add(i16::from(self.half)))
    }
}
impl std::fmt::Display for Place {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let (seq, i, n) = self.leg;
        write!(f, "{seq}.{i}.{n}{}", if self.half { ".half" } else { "" })
    }
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
        for (text, half, before) in [("5.1.0", false, (5, 1, 0)), ("5.1.0.half", true, (5, 1, 1))] {
            let place = Place::parse(text).unwrap();
            assert_eq!((place, place.before(), place.to_string().as_str()), (Place { leg: (5, 1, 0), half }, before, text));
        }
        for bad in ["", "5", "5.1", "5.1.0.1", "a.b.c", "5.1.99999", "5.1.0.half.half"] {
            assert!(Place::parse(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn a_page_has_as_many_lines_as_were_asked_for() {
        let own: Vec<String> = ["me/available", "me/held"].map(str::to_owned).into();
        let leg = |seq: i64, n: i16, debit: &str, credit: &str| Leg {
            place: (seq, 0, n),
            debit: debit.to_owned(),
            credit: credit.to_owned(),
            amount: seq,
            kind: "x".into(),
            job: None,
            at: 1,
            note: None,
        };
        let all = [
            leg(9, 1, "me/held", "me/available"),
            leg(9, 0, "me/held", "you/available"),
            leg(7, 0, "me/available", "me/held"),
            leg(2, 0, "mint", "me/available"),
        ];
        let lines = ["9 me/available 9", "9 me/held -9", "9 me/held -9", "7 me/held 7", "7 me/available -7", "2 me/available 2"];
        // As the database gives them: so many legs from there on.
        let asked = |cursor: Option<&str>, limit: usize| {
            let after = cursor.map(|cursor| Place::parse(cursor).unwrap());
            let before = after.map_or((i64::MAX, 0, 0), Place::before);
            let first = all.iter().position(|leg| leg.place < before).unwrap_or(all.len());
            page(&all[first..all.len().min(first + limit)], &own, after, limit)
        };
        for limit in 1..=7 {
            let (mut seen, mut cursor) = (Vec::new(), None::<String>);
            loop {
                let (entries, next) = asked(cursor.as_deref(), limit);
                assert_eq!(entries.len(), limit.min(lines.len() - seen.len()), "at most {limit} after {cursor:?}");
                seen.extend(entries.iter().map(|entry| format!("{} {} {}", entry.seq, entry.account, entry.amount_mmana)));
                cursor = next;
                if cursor.is_none() {
                    break;
                }
            }
            assert_eq!(seen, lines, "{limit} at a time");
        }
    }
}
