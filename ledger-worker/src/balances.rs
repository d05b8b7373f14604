//! What every account has, kept beside the rows by the one who writes them: a balance that somebody else changed is found when a fact
//! touches it, and at the next checkpoint at the latest, also where all balances together still are nothing.

use std::collections::BTreeMap;

use bus_schemas::replay::Books;
use deadpool_postgres::GenericClient;

use crate::project::told;

/// Balances in milli-mana by account; one that is not named has nothing.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Balances(BTreeMap<String, i64>);

impl Balances {
    /// What the books make them.
    pub fn of(books: &Books) -> Self {
        Self(books.balances().iter().map(|(account, balance)| (account.to_string(), *balance)).collect())
    }

    /// What the rows say.
    ///
    /// # Errors
    /// Where the database is away.
    pub async fn in_rows(client: &impl GenericClient) -> anyhow::Result<Self> {
        let rows = client.query("select id, balance from account where balance <> 0", &[]).await.map_err(told)?;
        Ok(Self(rows.iter().map(|row| (row.get(0), row.get(1))).collect()))
    }

    pub fn get(&self, account: &str) -> i64 {
        self.0.get(account).copied().unwrap_or(0)
    }

    pub fn add(&mut self, account: &str, delta: i64) {
        match self.0.get_mut(account) {
            Some(balance) => *balance = balance.saturating_add(delta),
            None => drop(self.0.insert(account.to_owned(), delta)),
        }
    }

    /// The first account that the rows give another balance, in a sentence.
    pub fn other(&self, rows: &Self) -> Option<String> {
        let id = self.0.keys().chain(rows.0.keys()).filter(|id| self.get(id) != rows.get(id)).min()?;
        Some(format!("account {id} has {} milli-mana in the database, the stream makes it {}", rows.get(id), self.get(id)))
    }
}

/// The books at one message, for whoever brings the rows to it.
#[derive(Debug, Clone)]
pub struct Snapshot {
    pub seq: u64,
    pub balances: Balances,
}
impl Snapshot {
    pub fn of(books: &Books) -> Self {
        Self { seq: books.seq(), balances: Balances::of(books) }
    }
}

#[cfg(test)]
mod tests {
    use super::Balances;

    type Rows<'a> = &'a [(&'a str, i64)];

    #[test]
    fn the_first_other_balance_is_named() {
        let balances = |of: &[(&str, i64)]| {
            let mut balances = Balances::default();
            of.iter().for_each(|(id, amount)| balances.add(id, *amount));
            balances
        };
        let books = balances(&[("mint", -5), ("m/available", 3), ("m/available", 2), ("idle", 0)]);
        let cases: [(Rows<'_>, Option<&str>); 5] = [
            (&[("mint", -5), ("m/available", 5)], None),
            (&[("mint", -6), ("m/available", 6)], Some("account m/available has 6 milli-mana in the database, the stream makes it 5")),
            (&[("mint", -5), ("n/available", 5)], Some("account m/available has 0 milli-mana in the database, the stream makes it 5")),
            (
                &[("mint", -5), ("m/available", 5), ("burn", 1)],
                Some("account burn has 1 milli-mana in the database, the stream makes it 0"),
            ),
            (&[], Some("account m/available has 0 milli-mana in the database, the stream makes it 5")),
        ];
        for (rows, named) in cases {
            assert_eq!(books.other(&balances(rows)).as_deref(), named);
        }
    }
}
