//! What the gateway tells of one's own accounts, held against what LEDGER makes of them. Without it a replay says that the books add
//! up while the rows that people are shown say something else.

use bus_schemas::MemberId;
use bus_schemas::api::BalanceView;
use bus_schemas::ledger::Account;
use bus_schemas::mana::mana_text;
use bus_schemas::replay::Books;
use serde::Serialize;

use crate::cli::client::Session;
use crate::cli::context::Context;
use crate::cli::failure::Failure;

/// Balances as the gateway told them, with the sequence that they are of.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Told {
    pub seq: u64,
    pub balances: [(Account, i64); 3],
}
impl Told {
    fn of(member: MemberId, view: &BalanceView) -> Self {
        let balances = [
            (Account::Available(member), view.available_mmana),
            (Account::Held(member), view.held_mmana),
            (Account::Vesting(member), view.vesting_mmana),
        ];
        Self { seq: view.ledger_seq, balances }
    }

    /// What differs from books that stand at the same sequence.
    pub fn against(&self, books: &Books) -> Vec<String> {
        let differs = self.balances.iter().filter_map(|(account, told)| {
            let replayed = books.balance_of(account);
            (replayed != *told).then(|| {
                let (told, replayed) = (mana_text(*told), mana_text(replayed));
                format!("the gateway tells {told} of {account}, LEDGER makes it {replayed} at sequence {}", self.seq)
            })
        });
        differs.collect()
    }
}

/// What the gateway tells now.
///
/// # Errors
/// Where it cannot be asked.
pub async fn ask(context: &Context) -> Result<Told, Failure> {
    let session = Session::open_context(context.clone()).await?;
    let view: BalanceView = session.ask("credit.balance", &serde_json::json!({})).await?;
    Ok(Told::of(context.member.id, &view))
}

/// What became of the comparison.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Gateway {
    /// Its balances of this sequence are those of the replay.
    Same {
        member: MemberId,
        seq: u64,
    },
    Differs {
        member: MemberId,
        seq: u64,
    },
    NotCompared {
        why: String,
    },
}
impl Gateway {
    /// For people; what differs is told with what else is wrong.
    pub fn text(&self) -> String {
        match self {
            Self::Same { member, seq } => format!("\n  gateway: tells the same of {member}, at sequence {seq}"),
            Self::Differs { .. } => String::new(),
            Self::NotCompared { why } => format!("\n  gateway: its balance could not be compared: {why}"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use bus_schemas::Signer;

    #[test]
    fn another_balance_is_named() {
        let key = Signer::from_seed(&[5; 32]).public();
        let member = key.member_id();
        let books = Books::new(key.network_id(), [key].into());
        let view = |available_mmana, vesting_mmana| BalanceView {
            member,
            available_mmana,
            held_mmana: 0,
            vesting_mmana,
            available: String::new(),
            held: String::new(),
            vesting: String::new(),
            ledger_seq: 7,
        };
        assert_eq!(Told::of(member, &view(0, 0)).against(&books), [""; 0]);
        assert_eq!(
            Told::of(member, &view(1_500, -1)).against(&books),
            [
                format!("the gateway tells 1.5 of {member}/available, LEDGER makes it 0 at sequence 7"),
                format!("the gateway tells -0.001 of {member}/vesting, LEDGER makes it 0 at sequence 7"),
            ]
        );
    }
}
