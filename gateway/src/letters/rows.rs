//! Dead letters in Postgres.

use bus_schemas::UnixMs;
use bus_schemas::id::{LetterId, MemberId};
use bus_schemas::letter::{Entry, Letter, Mark};
use deadpool_postgres::Transaction;
use tokio_postgres::Row;

use crate::store::{Store, StoreError, big, json, parse_json, storable};

/// As long as DLQ and HISTORY keep what they are about.
const KEPT_MS: u64 = 30 * 24 * 3600 * 1000;

/// A letter with what was done about it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Kept {
    pub letter: Letter,
    pub retried: Option<Mark>,
    pub dropped: Option<Mark>,
}

/// Where a page begins: after this letter.
pub type After = (u64, LetterId);

/// # Errors
/// [`StoreError`].
pub async fn insert(transaction: &Transaction<'_>, entry: Entry) -> Result<(), StoreError> {
    match entry {
        Entry::Letter(letter) => insert_letters(transaction, std::slice::from_ref(&*letter)).await,
        Entry::Retried { id, mark, .. } => insert_mark(transaction, id, "retried", &mark).await,
        Entry::Dropped { id, mark, .. } => insert_mark(transaction, id, "dropped", &mark).await,
    }
}

/// # Errors
/// [`StoreError`].
pub async fn insert_letters(transaction: &Transaction<'_>, letters: &[Letter]) -> Result<(), StoreError> {
    let statement = transaction
        .prepare_cached("insert into letter (id, member, job, at, body) values ($1, $2, $3, $4, $5) on conflict (id) do nothing")
        .await?;
    for letter in letters {
        let (member, job) = (letter.member.map(|member| member.to_string()), letter.job.map(|job| job.to_string()));
        let body = storable(&json(letter));
        transaction.execute(&statement, &[&letter.id.to_string(), &member, &job, &big(letter.at), &body]).await?;
    }
    Ok(())
}

async fn insert_mark(transaction: &Transaction<'_>, id: LetterId, what: &str, mark: &Mark) -> Result<(), StoreError> {
    let statement = "insert into letter_mark (id, what, mark, at) values ($1, $2, $3, $4) on conflict (id, what) do nothing";
    transaction.execute(statement, &[&id.to_string(), &what, &storable(&json(mark)), &big(mark.at)]).await?;
    Ok(())
}

const WITH_MARKS: &str = "select letter.body, retried.mark as retried, dropped.mark as dropped from letter \
     left join letter_mark retried on retried.id = letter.id and retried.what = 'retried' \
     left join letter_mark dropped on dropped.id = letter.id and dropped.what = 'dropped'";

fn read(row: &Row) -> Option<Kept> {
    let mark = |name: &str| row.get::<_, Option<String>>(name).and_then(|text| parse_json(&text));
    Some(Kept { letter: parse_json(&row.get::<_, String>("body"))?, retried: mark("retried"), dropped: mark("dropped") })
}

/// Newest first; of everybody where no member is named.
///
/// # Errors
/// [`StoreError`].
pub async fn list(store: &Store, of: Option<MemberId>, after: Option<After>, limit: u32) -> Result<Vec<Kept>, StoreError> {
    let client = store.client().await?;
    let text = format!(
        "{WITH_MARKS} where dropped.id is null and ($1::text is null or letter.member = $1) \
         and ($2::bigint is null or (letter.at, letter.id) < ($2, $3::text)) order by letter.at desc, letter.id desc limit $4"
    );
    let statement = client.prepare_cached(&text).await?;
    let (at, id) = after.map_or((None, None), |(at, id)| (Some(big(at)), Some(id.to_string())));
    let member = of.map(|member| member.to_string());
    let rows = client.query(&statement, &[&member, &at, &id, &i64::from(limit)]).await?;
    Ok(rows.iter().filter_map(read).collect())
}

/// Those whose id begins so, `or_job`: or that of their job; at most two.
///
/// # Errors
/// [`StoreError`].
pub async fn like(store: &Store, of: Option<MemberId>, prefix: &str, or_job: bool) -> Result<Vec<Kept>, StoreError> {
    let client = store.client().await?;
    let text = format!(
        "{WITH_MARKS} where ($1::text is null or letter.member = $1) \
         and (letter.id >= $2 and letter.id < $3 or $4 and letter.job >= $2 and letter.job < $3) order by letter.id limit 2"
    );
    let statement = client.prepare_cached(&text).await?;
    let member = of.map(|member| member.to_string());
    let rows = client.query(&statement, &[&member, &prefix, &format!("{prefix}~"), &or_job]).await?;
    Ok(rows.iter().filter_map(read).collect())
}

/// Forgets what is older than the streams.
///
/// # Errors
/// [`StoreError`].
pub async fn tidy(store: &Store, now: UnixMs) -> Result<(), StoreError> {
    let client = store.client().await?;
    let before = big(now.saturating_sub(KEPT_MS));
    for table in ["letter", "letter_mark", "cancel_wish"] {
        client.execute(&format!("delete from {table} where at < $1"), &[&before]).await?;
    }
    Ok(())
}
