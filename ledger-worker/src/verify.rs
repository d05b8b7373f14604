//! Makes the books and all their rows again from the first message of LEDGER, and compares them with the database.
//!
//! Everything happens in one transaction of one connection: it sees the live rows as they stand at one moment, projects the
//! stream up to that sequence into temporary tables of the same shape, and is rolled back. Nothing is left behind.

use bus::Bus;
use bus::direct::StoredMessage;
use bus_schemas::api::VerifyReport;
use bus_schemas::id::sha256;
use bus_schemas::ledger::{CheckpointState, What};
use bus_schemas::network::NetworkDocument;
use bus_schemas::replay::chain_next;
use bus_schemas::stream::LEDGER;
use bus_schemas::{Cid, JobId};
use deadpool_postgres::{GenericClient, Object, Transaction};
use tokio_postgres::IsolationLevel;

use crate::fold::{Broken, Fold};
use crate::follow::READ_BATCH;
use crate::project::{BATCH_FACTS_MAX, write};
use crate::round::Message;
use crate::store::{Place, SCHEMA, Store, position, tables};

/// Differences named per table.
const NAMED_MAX: i64 = 5;

/// Reads LEDGER from its first message. With a database, all of its rows are compared as well.
///
/// # Errors
/// Where stream or database cannot be read. What is wrong with the books stands in the report.
pub async fn verify(bus: &Bus, network: &NetworkDocument, store: Option<&Store>) -> anyhow::Result<VerifyReport> {
    let fold = Fold::new(network.network, network.ledger_keys.iter().copied().collect());
    let mut replay = Replay { bus, fold, found: Findings::default(), checkpoint: None, waiting: vec![] };
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
    let transaction = client.build_transaction().isolation_level(IsolationLevel::RepeatableRead).read_only(false).start().await?;
    let live = position(&transaction).await?;
    transaction.batch_execute("set local search_path = pg_temp").await?;
    for sql in tables() {
        transaction.batch_execute(&sql).await?;
    }
    let mut tables = Tables { transaction: &transaction, at: Place::start() };
    replay.to(live.seq, &mut tables).await?;
    let seq = replay.fold.seq();
    if seq < live.seq && replay.found.broken_at.is_none() {
        replay.found.wrong(seq + 1, format!("sequence {}: the database has it, LEDGER ends at {seq}", seq + 1));
    }
    for (seq, what) in differences(&transaction).await? {
        // Where the replay could not go on there is nothing to compare with.
        let what = if seq > live.seq { format!("{what}, or its cursor at {} was changed", live.seq) } else { what };
        if replay.found.broken_at.is_none_or(|broken| seq < broken) {
            replay.found.wrong(seq, format!("sequence {seq}: {what}"));
        }
    }
    if seq == live.seq && live.chain != *replay.fold.standing.books().chain() {
        replay.found.wrong(seq, format!("sequence {seq}: the chain in the database's cursor is another"));
    }
    let digest = digest(&transaction).await?;
    if seq == live.seq && digest != replay.fold.standing.books().digest() {
        replay.found.wrong(u64::MAX, "the digest of the database is not that of the replay".to_owned());
    }
    let report = replay.report(Some(hex(&digest)));
    transaction.rollback().await?;
    // What the database does not have yet is replayed as well, for its own sake.
    replay.to(u64::MAX, &mut Nowhere).await?;
    let later = replay.report(None);
    Ok(VerifyReport { ok: later.ok, wrong: later.wrong, alarms: later.alarms, ..report })
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
    at: Place,
}
impl Sink for Tables<'_, '_> {
    async fn write(&mut self, messages: &[Message]) -> anyhow::Result<()> {
        self.at = write(self.transaction, &self.at, messages, None).await?.to;
        Ok(())
    }
}

/// What a replay found, by sequence.
#[derive(Default)]
struct Findings {
    wrong: Vec<(u64, String)>,
    alarms: Vec<String>,
    /// Where the books cannot go on.
    broken_at: Option<u64>,
}
impl Findings {
    fn wrong(&mut self, seq: u64, text: String) {
        self.wrong.push((seq, text));
    }
}

struct Replay<'a> {
    bus: &'a Bus,
    fold: Fold,
    found: Findings,
    /// The last message under a checkpoint that fits.
    checkpoint: Option<u64>,
    waiting: Vec<Message>,
}

impl Replay<'_> {
    /// Replays up to and with sequence `last`, or to the end of the stream.
    async fn to(&mut self, last: u64, sink: &mut impl Sink) -> anyhow::Result<()> {
        let mut facts = 0;
        while self.found.broken_at.is_none() && self.fold.seq() < last {
            let messages = self.bus.from_seq_sure(LEDGER, self.fold.seq() + 1, READ_BATCH).await?;
            if messages.is_empty() {
                break;
            }
            for message in messages {
                if self.fold.seq() >= last || !self.step(message) {
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
        let known = self.fold.foreign.len();
        match self.fold.take(message) {
            Ok(message) => {
                if let Some((seq, why)) = self.fold.foreign.get(known) {
                    self.found.alarms.push(format!("sequence {seq} counts for nothing: {why}"));
                }
                if let Some(state) = message.facts.iter().find_map(|(fact, _)| checkpoint(&fact.what)) {
                    self.checkpoint = Some(state.seq);
                    self.fold.foreign.clear();
                }
                self.waiting.push(message);
                true
            }
            Err(broken) => {
                let at = self.fold.seq() + 1;
                self.found.broken_at = Some(at);
                for (seq, text) in suspects(at, &broken, self.checkpoint, &self.fold.foreign) {
                    self.found.wrong(seq, text);
                }
                false
            }
        }
    }

    fn report(&self, database_digest: Option<String>) -> VerifyReport {
        let mut found = self.found.wrong.clone();
        found.sort_by_key(|(seq, _)| *seq);
        let wrong = found.into_iter().map(|(_, text)| text).collect();
        VerifyReport::of(self.fold.standing.books(), wrong, self.found.alarms.clone(), database_digest)
    }
}

fn checkpoint(what: &What) -> Option<&CheckpointState> {
    if let What::Checkpoint(state) = what { Some(state) } else { None }
}

/// What to say where message `at` does not fit: it, or one since the last checkpoint, is not what it was. Those that are signed by
/// nobody come first.
fn suspects(at: u64, broken: &Broken, checkpoint: Option<u64>, foreign: &[(u64, String)]) -> Vec<(u64, String)> {
    let wrong = match broken {
        Broken::Gap { .. } => return vec![(at, format!("sequence {at}: {broken}"))],
        Broken::Wrong { wrong, .. } => wrong,
    };
    let named: Vec<String> = foreign.iter().map(|(seq, _)| seq.to_string()).collect();
    let first = checkpoint.map_or(1, |seq| seq + 1);
    let since =
        checkpoint.map_or_else(|| "no checkpoint fits before it".to_owned(), |seq| format!("the last checkpoint that fits covers {seq}"));
    let mut found: Vec<(u64, String)> = foreign
        .iter()
        .map(|(seq, why)| {
            (*seq, format!("sequence {seq}: no valid batch of a ledger key ({why}), and what follows does not fit without it"))
        })
        .collect();
    let suspicious = match named.as_slice() {
        [] => format!("a message from {first} to {at} was altered, left out or moved"),
        named => format!("suspicious are first {}, then all from {first} to {at}", named.join(", ")),
    };
    found.push((at, format!("sequence {at}: {wrong}; {since}: {suspicious}")));
    found
}

/// Every row that the live schema and the temporary one do not share, with its sequence; the first few of each table.
async fn differences(client: &impl GenericClient) -> anyhow::Result<Vec<(u64, String)>> {
    // Table, key, the last sequence that touched a row (an earlier one is not to blame), and how to name it.
    let tables = [
        ("event", "seq", "seq", "'the message'"),
        ("fact", "seq, i", "seq", "'fact ' || i"),
        ("leg", "seq, i, n", "seq", "'leg ' || n || ' of fact ' || i"),
        ("account", "id", "greatest(there.last_seq, here.last_seq)", "'account ' || id"),
        ("hold", "job", "greatest(there.closed_seq, there.opened_seq, here.closed_seq, here.opened_seq)", "'hold of job '"),
        ("member", "id", "coalesce(there.seq, here.seq)", "id"),
        ("vesting", "job", "greatest(there.closed_seq, there.opened_seq, here.closed_seq, here.opened_seq)", "'vesting of job '"),
        ("review", "job", "greatest(there.closed_seq, there.opened_seq, here.closed_seq, here.opened_seq)", "'review of job '"),
        ("policy", "version", "coalesce(there.seq, here.seq)", "'policy ' || version"),
        ("checkpoint", "seq", "coalesce(there.message_seq, here.message_seq)", "'the checkpoint'"),
        ("merkle", "level, idx", "(idx + 1) << level", "'the tree at level ' || level || ', place ' || idx"),
        ("device", "id", "coalesce(there.bound_seq, here.bound_seq)", "id"),
    ];
    let mut found = vec![];
    for (table, key, seq, name) in tables {
        let job = if key == "job" { key } else { "null::bytea" };
        // `here` is the database, `there` what the stream makes.
        let sql = format!(
            "select {seq} as seq, {name} as name, (here is null) as lacking, (there is null) as extra, {job} as job
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
            let seq = u64::try_from(seq.unwrap_or(0)).unwrap_or(0);
            // People know a job by its id; bytes that are none are shown as they are.
            let job =
                row.get::<_, Option<&[u8]>>(4).map(|job| Cid::from_bytes(job).map_or_else(|_| hex(job), |job| JobId(job).to_string()));
            let mut text = format!("{}{} {how}", name.unwrap_or_default(), job.unwrap_or_default());
            if table == "event" && found.is_empty() && how.starts_with("is another") {
                text = format!("{text}: {}", whose(client, seq).await?);
            }
            found.push((seq, text));
        }
    }
    Ok(found)
}

/// Which of two messages was changed, where all before are the same: the database keeps the chain that its bytes led to. Where the bytes
/// are the same, only the row beside them can have been.
async fn whose(client: &impl GenericClient, seq: u64) -> anyhow::Result<&'static str> {
    let sql = format!(
        "select here.envelope, here.chain, coalesce(before.chain, decode(repeat('00', 32), 'hex')),
                here.envelope = there.envelope, here.chain <> there.chain, here.facts <> there.facts
         from {SCHEMA}.event as here join pg_temp.event as there using (seq)
         left join pg_temp.event as before on before.seq = here.seq - 1 where here.seq = $1"
    );
    let row = client.query_one(&sql, &[&crate::rows::signed(seq)]).await?;
    if row.get(3) {
        return Ok(match (row.get(4), row.get(5)) {
            (true, false) => "its bytes are the same, but not its chain: the database was changed (next: mesh-ledger rebuild)",
            (false, true) => "its bytes are the same, but not its number of facts: the database was changed (next: mesh-ledger rebuild)",
            _ => "its bytes are the same, but not what stands beside them: the database was changed (next: mesh-ledger rebuild)",
        });
    }
    let before = <[u8; 32]>::try_from(row.get::<_, &[u8]>(2)).unwrap_or_default();
    let leads = chain_next(&before, seq, row.get(0)).as_slice() == row.get::<_, &[u8]>(1);
    Ok(if leads {
        "the database's bytes lead to its chain, so LEDGER was changed"
    } else {
        "the database's bytes do not lead to its chain"
    })
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
