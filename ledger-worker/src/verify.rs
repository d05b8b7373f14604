//! Makes the books and all their rows again from the first message of LEDGER, and compares them with the database.
//!
//! Everything happens in one transaction of one connection: it sees the live rows as they stand at one moment, projects the
//! stream up to that sequence into temporary tables of the same shape, and is rolled back. Nothing is left behind.

use bus::Bus;
use bus::direct::StoredMessage;
use bus_schemas::api::VerifyReport;
use bus_schemas::id::sha256;
use bus_schemas::network::NetworkDocument;
use bus_schemas::replay::{LedgerKeys, read_facts};
use bus_schemas::stream::LEDGER;
use bus_schemas::{Cid, Verifier};
use deadpool_postgres::{GenericClient, Object, Transaction};
use tokio_postgres::IsolationLevel;

use crate::follow::READ_BATCH;
use crate::posting::Standing;
use crate::project::{BATCH_FACTS_MAX, write};
use crate::round::Message;
use crate::store::{Position, SCHEMA, Store, position, tables};

/// Differences named per table.
const NAMED_MAX: i64 = 5;

/// Reads LEDGER from its first message. With a database, all of its rows are compared as well.
///
/// # Errors
/// Where stream or database cannot be read. What is wrong with the books stands in the report.
pub async fn verify(bus: &Bus, network: &NetworkDocument, store: Option<&Store>) -> anyhow::Result<VerifyReport> {
    let keys: LedgerKeys = network.ledger_keys.iter().copied().collect();
    let mut replay = Replay {
        bus,
        standing: Standing::new(network.network, keys.clone()),
        keys,
        verifier: Verifier::default(),
        wrong: vec![],
        ended: false,
        waiting: vec![],
    };
    match store {
        None => {
            replay.to(u64::MAX, &mut Nowhere).await?;
            Ok(replay.report(None))
        }
        Some(store) => {
            let mut client = store.alone().await?;
            with_database(&mut replay, &mut client).await
        }
    }
}

async fn with_database(replay: &mut Replay<'_>, client: &mut Object) -> anyhow::Result<VerifyReport> {
    let transaction = client.build_transaction().isolation_level(IsolationLevel::RepeatableRead).start().await?;
    let live = position(&transaction).await?;
    transaction.batch_execute("set local search_path = pg_temp").await?;
    for sql in tables() {
        transaction.batch_execute(&sql).await?;
    }
    let mut tables = Tables { transaction: &transaction, at: Position { seq: 0, chain: [0; 32] } };
    replay.to(live.seq, &mut tables).await?;
    if replay.standing.books().seq() < live.seq && !replay.ended {
        let text = format!("sequence {}: the database has it, LEDGER ends at {}", live.seq, replay.standing.books().seq());
        replay.wrong.push(text);
    }
    let mut found = differences(&transaction).await?;
    if replay.standing.books().seq() == live.seq && live.chain != *replay.standing.books().chain() {
        found.push((i64::try_from(live.seq).unwrap_or(i64::MAX), "the chain in the database's cursor is another".to_owned()));
    }
    found.sort();
    replay.wrong.extend(found.into_iter().map(|(seq, what)| format!("sequence {seq}: {what}")));
    let digest = digest(&transaction).await?;
    if digest != replay.standing.books().digest() {
        replay.wrong.push("the digest of the database is not that of the replay".to_owned());
    }
    let report = replay.report(Some(hex(&digest)));
    transaction.rollback().await?;
    // What the database does not have yet is replayed as well, for its own sake.
    if !replay.ended {
        replay.wrong.clear();
        replay.to(u64::MAX, &mut Nowhere).await?;
    }
    let later = std::mem::take(&mut replay.wrong).into_iter().filter(|wrong| !report.wrong.contains(wrong));
    let wrong: Vec<String> = report.wrong.iter().cloned().chain(later).collect();
    Ok(VerifyReport { ok: wrong.is_empty(), wrong, ..report })
}

/// Where replayed messages are written.
trait Sink {
    async fn write(&mut self, messages: &[Message]) -> anyhow::Result<()>;
}
struct Nowhere;
impl Sink for Nowhere {
    async fn write(&mut self, _: &[Message]) -> anyhow::Result<()> {
        Ok(())
    }
}
struct Tables<'a, 'b> {
    transaction: &'a Transaction<'b>,
    at: Position,
}
impl Sink for Tables<'_, '_> {
    async fn write(&mut self, messages: &[Message]) -> anyhow::Result<()> {
        self.at = write(self.transaction, self.at, messages).await?;
        Ok(())
    }
}

struct Replay<'a> {
    bus: &'a Bus,
    standing: Standing,
    keys: LedgerKeys,
    verifier: Verifier,
    wrong: Vec<String>,
    /// The books cannot go on: what follows stands on something wrong.
    ended: bool,
    waiting: Vec<Message>,
}

impl Replay<'_> {
    /// Replays up to and with sequence `last`, or to the end of the stream.
    async fn to(&mut self, last: u64, sink: &mut impl Sink) -> anyhow::Result<()> {
        let mut facts = 0;
        while !self.ended && self.standing.books().seq() < last {
            let messages = self.bus.from_seq(LEDGER, self.standing.books().seq() + 1, READ_BATCH).await?;
            if messages.is_empty() {
                break;
            }
            for message in messages {
                if self.standing.books().seq() >= last || !self.step(message) {
                    break;
                }
                facts += self.waiting.last().map_or(0, |message| message.facts.len());
                if facts >= BATCH_FACTS_MAX {
                    sink.write(&self.waiting).await?;
                    self.waiting.clear();
                    facts = 0;
                }
            }
        }
        sink.write(&self.waiting).await?;
        self.waiting.clear();
        Ok(())
    }

    /// Applies one message; `false` where the books cannot go on.
    fn step(&mut self, message: StoredMessage) -> bool {
        let expected = self.standing.books().seq() + 1;
        if message.seq != expected {
            self.wrong.push(format!("sequence {expected}: missing, the next in LEDGER is {}", message.seq));
            self.ended = true;
            return false;
        }
        let net = self.standing.books().net;
        let facts = match read_facts(&net, &self.keys, &mut self.verifier, &message.payload) {
            Ok(facts) => facts,
            Err(reason) => {
                // It counts for nothing. Whether it once counted, only the database or a remembered chain can tell.
                tracing::warn!(seq = expected, reason, "no valid batch of a ledger key");
                vec![]
            }
        };
        for (fact, _) in &facts {
            if let Err(wrong) = self.standing.apply(expected, fact) {
                self.wrong.push(format!("sequence {expected}: {wrong}"));
                self.ended = true;
                return false;
            }
        }
        self.standing.link(expected, &message.payload);
        let chain = *self.standing.books().chain();
        self.waiting.push(Message { seq: expected, payload: message.payload, chain, facts });
        true
    }

    fn report(&self, database_digest: Option<String>) -> VerifyReport {
        let books = self.standing.books();
        let mut wrong = self.wrong.clone();
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
            accounts: u64::try_from(books.balances().len()).unwrap_or(u64::MAX),
            open_holds: u64::try_from(self.standing.open_holds()).unwrap_or(u64::MAX),
            wrong,
            database_digest,
        }
    }
}

/// Every row that the live schema and the temporary one do not share, with its sequence; the first few of each table.
async fn differences(client: &impl GenericClient) -> anyhow::Result<Vec<(i64, String)>> {
    // Table, key, sequence of a row, and how to name it.
    let tables = [
        ("event", "seq", "seq", "'the message'"),
        ("fact", "seq, i", "seq", "'fact ' || i"),
        ("leg", "seq, i, n", "seq", "'leg ' || n || ' of fact ' || i"),
        ("account", "id", "coalesce(there.last_seq, here.last_seq)", "'account ' || id"),
        (
            "hold",
            "job",
            "coalesce(there.closed_seq, there.opened_seq, here.closed_seq, here.opened_seq)",
            "'hold of job ' || encode(job, 'hex')",
        ),
        ("member", "id", "coalesce(there.seq, here.seq)", "id"),
        ("device", "id", "coalesce(there.bound_seq, here.bound_seq)", "id"),
    ];
    let mut found = vec![];
    for (table, key, seq, name) in tables {
        // `here` is the database, `there` what the stream makes.
        let sql = format!(
            "select {seq} as seq, {name} as name, (here is null) as lacking, (there is null) as extra
             from {SCHEMA}.{table} as here full join pg_temp.{table} as there using ({key})
             where row(here.*) is distinct from row(there.*)
             order by 1 limit {NAMED_MAX}"
        );
        for row in client.query(&sql, &[]).await? {
            let (seq, name): (Option<i64>, Option<String>) = (row.get(0), row.get(1));
            let how = match (row.get::<_, bool>(2), row.get::<_, bool>(3)) {
                (true, _) => "is missing in the database",
                (_, true) => "is in the database but not in the stream",
                (false, false) => "is another in the database than in the stream",
            };
            found.push((seq.unwrap_or(0), format!("{} {how}", name.unwrap_or_default())));
        }
    }
    Ok(found)
}

/// The digest of replay, over the live rows.
async fn digest(client: &impl GenericClient) -> anyhow::Result<[u8; 32]> {
    let accounts = client.query(&format!("select id, balance from {SCHEMA}.account where balance <> 0"), &[]).await?;
    let holds = client.query(&format!("select job, member, amount from {SCHEMA}.hold where state = 'open'"), &[]).await?;
    let mut lines: Vec<String> = accounts.iter().map(|row| format!("{} {}\n", row.get::<_, &str>(0), row.get::<_, i64>(1))).collect();
    lines.sort_unstable();
    let job = |bytes: &[u8]| Cid::from_bytes(bytes).map_or_else(|_| "?".to_owned(), |cid| cid.to_string());
    let mut open: Vec<String> = holds
        .iter()
        .map(|row| format!("hold {} {} {}\n", job(row.get::<_, &[u8]>(0)), row.get::<_, &str>(1), row.get::<_, i64>(2)))
        .collect();
    open.sort_unstable();
    lines.append(&mut open);
    Ok(sha256(lines.concat().as_bytes()))
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// The report for people.
pub fn text(report: &VerifyReport) -> String {
    let verdict = if report.ok { "ok: the books add up" } else { "NOT ok" };
    let mut text = format!(
        "{verdict}\n  replayed    {} facts up to sequence {}\n  accounts    {}, sum {}\n  open holds  {}\n  digest      {}\n  chain       {}\n",
        report.facts,
        report.seq,
        report.accounts,
        bus_schemas::mana::mana_text(report.total_mmana),
        report.open_holds,
        report.digest,
        report.chain
    );
    match &report.database_digest {
        Some(digest) if *digest == report.digest => text.push_str("  database    the same, row by row\n"),
        Some(digest) => text.push_str(&format!("  database    {digest}\n")),
        None => text.push_str("  database    not compared (no DATABASE_URL)\n"),
    }
    for wrong in &report.wrong {
        text.push_str(&format!("  wrong: {wrong}\n"));
    }
    text
}
