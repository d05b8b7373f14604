//! What must add up in the rows after every message: all balances to nothing, and what is set apart to what it is set apart for.
//!
//! Each transaction of the projection brings the rows from one message to another, so this holds at any moment that a query sees.

use std::time::Duration;

use anyhow::Context;
use deadpool_postgres::Object;

use crate::balances::Balances;
use crate::project::{Moved, told};
use crate::store::{AS_A_WHOLE, Apart, Store, position};

/// The sum of all balances, and the first account that is not the sum of its open holds, of its pay that is not ripe, or of what is in
/// review.
const SUMS: &str = "with due as (
        select member || '/held' as id, sum(amount) as amount from hold where state = 'open' group by member
        union all select member || '/vesting', sum(amount) from vesting where closed_seq is null group by member
        union all select 'review', sum(amount) from review where closed_seq is null
    ), wrong as (
        select id, coalesce(has.balance, 0)::text as has, coalesce(due.amount, 0)::text as due
        from (select id, balance from account where id like '%/held' or id like '%/vesting' or id = 'review') as has full join due using (id)
        where coalesce(has.balance, 0) <> coalesce(due.amount, 0) order by id limit 1
    )
    select coalesce(sum(balance), 0)::text as total, (select id from wrong), (select has from wrong), (select due from wrong) from account";

impl Store {
    /// Adds up the rows, within `patience`: each table that is asked is read as a whole. Where it is known what the balances are at a
    /// sequence, each is compared.
    ///
    /// # Errors
    /// [`Apart`] where they do not add up or are others, [`Moved`] where another worker has gone on, or what the database says.
    pub async fn sums(&self, known: Option<(u64, &Balances)>, patience: Duration) -> anyhow::Result<()> {
        let mut client = tokio::time::timeout(patience, self.client()).await.context("the database does not answer")??;
        let work = async {
            let transaction = client.transaction().await.map_err(told)?;
            // The database itself must end a question that nobody waits for any more.
            let how = format!("set local statement_timeout = {}; {AS_A_WHOLE}", patience.as_millis());
            transaction.batch_execute(&how).await.map_err(told)?;
            let row = transaction.query_one(SUMS, &[]).await.map_err(told)?;
            let mut found = wrong(row.get(0), row.get(1), row.get(2), row.get(3));
            if let Some((seq, known)) = known.filter(|_| found.is_none()) {
                found = known.other(&Balances::in_rows(&transaction).await?);
                if position(&transaction).await?.seq != seq {
                    return Err(Moved(seq).into());
                }
            }
            transaction.rollback().await.map_err(told)?;
            Ok(found)
        };
        // A moment more, so that the database is the one to end it.
        let done = tokio::time::timeout(patience + Duration::from_millis(500), work).await;
        match done.context("the database does not answer").flatten() {
            Ok(None) => Ok(()),
            Ok(Some(wrong)) => {
                Err(Apart(format!("{wrong}: a row was changed (next: mesh-ledger verify, then mesh-ledger rebuild)")).into())
            }
            Err(error) => {
                drop(Object::take(client));
                Err(error)
            }
        }
    }
}

/// What does not add up, in milli-mana.
fn wrong(total: &str, id: Option<&str>, has: Option<&str>, due: Option<&str>) -> Option<String> {
    if total != "0" {
        return Some(format!("all balances in the database together are {total} milli-mana, not 0"));
    }
    let (id, has, due) = (id?, has.unwrap_or("0"), due.unwrap_or("0"));
    Some(format!("account {id} has {has} milli-mana in the database, the rows that it stands for {due}"))
}

#[cfg(test)]
mod tests {
    use super::wrong;

    #[test]
    fn what_does_not_add_up_is_named() {
        let cases = [
            (("0", None, None, None), None),
            (("7", None, None, None), Some("together are 7 milli-mana, not 0")),
            (("-7", Some("review"), Some("1"), Some("2")), Some("together are -7")),
            (
                ("0", Some("mem_x/held"), Some("10"), Some("20")),
                Some("account mem_x/held has 10 milli-mana in the database, the rows that it stands for 20"),
            ),
        ];
        for ((total, id, has, due), named) in cases {
            let found = wrong(total, id, has, due);
            assert_eq!(found.is_some(), named.is_some(), "{found:?}");
            assert!(found.unwrap_or_default().contains(named.unwrap_or_default()), "{named:?}");
        }
    }
}
