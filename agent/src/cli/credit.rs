//! `mesh credit`: what one has, what came and went, and whether the books add up.

use std::time::Duration;

use bus::Bus;
use bus::connect::Login;
use bus_schemas::api::{BalanceView, CreditEntry, CreditHistory, VerifyReport};
use bus_schemas::mana::mana_text;
use bus_schemas::replay::{Applied, Books};
use bus_schemas::stream::LEDGER;
use bus_schemas::{Code, Verifier};

use super::args::{Cli, CreditCommand};
use super::client::{Session, connect, network};
use super::context::{Context, Contexts};
use super::failure::{Done, End, Failure};
use super::output::{self, Output};

/// `mesh credit …`.
pub async fn run(cli: &Cli, command: &CreditCommand, output: &Output) -> Done {
    match command {
        CreditCommand::Balance => {
            let session = Session::open(cli).await?;
            let balance: BalanceView = session.ask("credit.balance", &serde_json::json!({})).await?;
            let human = || {
                format!(
                    "{}   context: {}\n  available  {} mana\n  held       {} mana\n  vesting    {} mana",
                    balance.member, session.context.name, balance.available, balance.held, balance.vesting
                )
            };
            output.print("credit.balance", &balance, || balance.member.to_string(), human);
            Ok(End::Fine)
        }
        CreditCommand::History { cursor } => {
            let session = Session::open(cli).await?;
            let question = cursor.as_ref().map_or_else(|| serde_json::json!({}), |cursor| serde_json::json!({ "cursor": cursor }));
            let history: CreditHistory = session.ask("credit.history", &question).await?;
            output.print_list("credit.history", &history, &history.entries, |entry| entry.seq.to_string(), || history_text(&history));
            Ok(End::Fine)
        }
        CreditCommand::Verify => {
            let context = Contexts::of_user()?.find(cli.global.context.as_deref())?;
            let report = verify(&context).await?;
            output.print("credit.verify", &report, || report.digest.clone(), || verify_text(&report));
            Ok(if report.ok { End::Fine } else { End::Exit(Code::BooksWrong.exit()) })
        }
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
        ]
    };
    let mut text = output::table(["SEQ", "AT", "WHAT", "MANA", "ACCOUNT", "WITH", "JOB"], history.entries.iter().map(row));
    if let Some(cursor) = &history.cursor {
        text.push_str(&format!("\nmore: mesh credit history --cursor {cursor}"));
    }
    text
}

fn verify_text(report: &VerifyReport) -> String {
    let verdict = if report.ok { "the books add up" } else { "THE BOOKS ARE WRONG" };
    let mut text = format!(
        "{verdict}: {} facts up to sequence {}, {} accounts, sum {} mana, {} open holds\n  digest  {}\n  chain   {}",
        report.facts,
        report.seq,
        report.accounts,
        mana_text(report.total_mmana),
        report.open_holds,
        report.digest,
        report.chain
    );
    report.wrong.iter().for_each(|wrong| text.push_str(&format!("\n  wrong: {wrong}")));
    text
}

/// Replays the whole ledger with the auditor's eyes: nothing of the network's own answers is believed.
///
/// # Errors
/// Where the context holds no auditor's credentials, or the ledger cannot be read.
pub async fn verify(context: &Context) -> Result<VerifyReport, Failure> {
    let auditor = context.auditor.as_ref().ok_or_else(|| {
        Failure::new(Code::Forbidden, format!("context {} holds no auditor's credentials, which may read the ledger", context.name))
    })?;
    let document = network(context)?;
    let bus = connect(context, Login::Creds(auditor.creds.clone()), &auditor.inbox_prefix, Duration::from_secs(3)).await?;
    let bus = bus.with_api_prefix(&auditor.js_prefix);
    let books = Books::new(document.network, document.ledger_keys.iter().copied().collect());
    replay(&bus, books).await
}

async fn replay(bus: &Bus, mut books: Books) -> Result<VerifyReport, Failure> {
    let unreadable = |error: bus::direct::ReadError| Failure::new(Code::Unavailable, error.to_string());
    let end = bus.stream_end(LEDGER).await.map_err(unreadable)?;
    let mut verifier = Verifier::default();
    let mut wrong = Vec::new();
    'reading: while books.seq() < end.last_seq {
        let next = books.seq() + 1;
        let messages = bus.from_seq(LEDGER, next, 256).await.map_err(unreadable)?;
        if messages.is_empty() {
            wrong.push(format!("sequence {next} is missing"));
            break;
        }
        for message in messages {
            let expected = books.seq() + 1;
            if message.seq != expected {
                wrong.push(format!("sequence {expected} is missing"));
                break 'reading;
            }
            match books.apply_message(&mut verifier, message.seq, &message.payload) {
                Ok(Applied::Facts(_)) => (),
                Ok(Applied::Foreign(why)) => wrong.push(format!("sequence {} is no batch of a ledger key: {why}", message.seq)),
                Err(error) => {
                    wrong.push(format!("sequence {}: {error}", message.seq));
                    break 'reading;
                }
            }
        }
    }
    Ok(report(&books, wrong))
}

fn report(books: &Books, mut wrong: Vec<String>) -> VerifyReport {
    let hex = |bytes: &[u8; 32]| data_encoding::HEXLOWER.encode(bytes);
    if let Err(more) = books.check_all() {
        wrong.extend(more);
    }
    VerifyReport {
        ok: wrong.is_empty(),
        seq: books.seq(),
        facts: books.fact_count(),
        digest: hex(&books.digest()),
        chain: hex(books.chain()),
        total_mmana: i64::try_from(books.total()).unwrap_or(i64::MAX),
        accounts: books.balances().len() as u64,
        open_holds: books.holds().filter(|hold| hold.state == bus_schemas::ledger::HoldState::Open).count() as u64,
        wrong,
        database_digest: None,
    }
}
