//! `mesh credit`: what one has, what came and went, and whether the books add up.

pub mod books;
mod export;
pub mod orders;
mod proof;
mod told;

use bus_schemas::Code;
use bus_schemas::api::{BalanceView, CreditEntry, CreditHistory};
use bus_schemas::mana::mana_text;

use super::args::{Cli, CreditCommand};
use super::client::Session;
use super::context::Contexts;
use super::failure::{Done, End};
use super::output::{self, Output};

pub use books::{alarmed, remembered, verify};
pub use orders::operator;

/// `mesh credit …`.
pub async fn run(cli: &Cli, command: &CreditCommand, output: &Output) -> Done {
    match command {
        CreditCommand::Balance => {
            let session = Session::open(cli).await?;
            let balance: BalanceView = session.ask("credit.balance", &serde_json::json!({})).await?;
            books::look(&session).await?;
            let human = || {
                format!(
                    "{}   context: {}\n  available  {} mana\n  held       {} mana\n  vesting    {} mana",
                    balance.member, session.context.name, balance.available, balance.held, balance.vesting
                )
            };
            output.print("credit.balance", &balance, || balance.member.to_string(), human);
            Ok(End::Fine)
        }
        CreditCommand::History { limit, cursor } => {
            let session = Session::open(cli).await?;
            let question = serde_json::json!({ "limit": limit, "cursor": cursor });
            let history: CreditHistory = session.ask("credit.history", &question).await?;
            books::look(&session).await?;
            output.print_list("credit.history", &history, &history.entries, |entry| entry.seq.to_string(), || history_text(&history));
            Ok(End::Fine)
        }
        CreditCommand::Transfer(args) => orders::transfer(&Session::open(cli).await?, args, output).await,
        CreditCommand::Grant(args) => orders::grant(&Session::open(cli).await?, args, output).await,
        CreditCommand::Export(args) => export::export(&Session::open(cli).await?, args, output).await,
        CreditCommand::Verify => {
            let context = Contexts::of_user()?.find(cli.global.context.as_deref())?;
            let verified = verify(&context).await?;
            output.print("credit.verify", &verified, || verified.report.digest.clone(), || verified.text());
            Ok(if verified.report.ok { End::Fine } else { End::Exit(Code::BooksWrong.exit()) })
        }
        CreditCommand::Proof { id } => proof::proof(&Session::open(cli).await?, id, output).await,
    }
}

fn history_text(history: &CreditHistory) -> String {
    if history.entries.is_empty() {
        return format!("{}: nothing has moved yet", history.member);
    }
    let row = |entry: &CreditEntry| {
        let sign = if entry.amount_mmana > 0 { "+" } else { "" };
        [
            entry.seq.to_string(),
            entry.at.clone(),
            entry.kind.clone(),
            format!("{sign}{}", mana_text(entry.amount_mmana)),
            entry.account.clone(),
            entry.counterpart.clone(),
            entry.job.map(|job| job.short()).unwrap_or_default(),
            entry.note.clone().unwrap_or_default(),
        ]
    };
    let mut text = output::table(["SEQ", "AT", "WHAT", "MANA", "ACCOUNT", "WITH", "JOB", "NOTE"], history.entries.iter().map(row));
    if let Some(cursor) = &history.cursor {
        text.push_str(&format!("\nmore: mesh credit history --cursor {cursor}"));
    }
    text
}
