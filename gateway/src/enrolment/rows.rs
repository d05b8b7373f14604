//! Who was let in, in Postgres. One transaction per question; the unique keys of the tables decide where two ask at once.

use bus_schemas::UnixMs;
use bus_schemas::code::{Code, Problem};
use bus_schemas::id::{MemberId, sha256};
use bus_schemas::network::Role;
use deadpool_postgres::{GenericClient, Pool, PoolError};
use tokio_postgres::Row;
use tokio_postgres::error::SqlState;
use tokio_postgres::types::ToSql;

use super::check::{Checked, Decided, Entry, InviteState, Wish, entry};
use crate::revocation::rows::role_of;

/// Whether an enrolment is new, or the answer to it was lost before.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Reserved {
    New,
    Repeat,
}

pub(super) fn unavailable(error: &dyn std::fmt::Display) -> Problem {
    tracing::warn!(%error, "Postgres does not answer");
    Problem::new(Code::Unavailable, "the database does not answer; try again")
}
pub(crate) fn failed(error: tokio_postgres::Error) -> Problem {
    if error.code() == Some(&SqlState::UNIQUE_VIOLATION) {
        return Problem::new(Code::AlreadyEnrolled, "one of the keys is enrolled already");
    }
    unavailable(&error)
}
pub(crate) async fn client(pool: &Pool) -> Result<deadpool_postgres::Object, Problem> {
    pool.get().await.map_err(|error: PoolError| unavailable(&error))
}
pub(crate) fn ms(at: UnixMs) -> i64 {
    i64::try_from(at).unwrap_or(i64::MAX)
}

/// Takes one use of the invite and writes down who comes in, or that it waits. The same keys with the same invite again are a repeat.
///
/// # Errors
/// What [`entry`] refuses, [`Code::AwaitsApproval`], [`Code::AlreadyEnrolled`], or that Postgres does not answer.
pub async fn reserve(pool: &Pool, checked: &Checked, now: UnixMs) -> Result<Reserved, Problem> {
    let mut client = client(pool).await?;
    let transaction = client.transaction().await.map_err(failed)?;
    let secret = checked.secret_hash();
    // The row stays locked until the end, so that one use lets one in. Looking it up by a hash says nothing about the secret.
    let sql = "select i.uses_left, i.expires_at, i.revoked_at is not null, i.role, i.device_of, i.approve, m.role, m.suspended is not null
               from invite i left join enrolled_member m on m.member = i.made_by where i.secret_hash = $1 for update of i";
    let invite = transaction.query_opt(sql, &[&secret.as_slice()]).await.map_err(failed)?.map(|row| invite_of(&row));
    if let Some(known) = known(&transaction, checked).await? {
        return if known.same_as(checked) && invite.is_some() {
            Ok(Reserved::Repeat)
        } else {
            Err(Problem::new(Code::AlreadyEnrolled, format!("{} is enrolled already", checked.holder())))
        };
    }
    let standing = transaction.query_opt("select role from enrolled_member where member = $1", &[&checked.member.to_string()]).await;
    let standing = standing.map_err(failed)?.map(|row| role_of(row.get(0)));
    let wish = wish_of(&transaction, checked).await?;
    let entry = entry(invite.as_ref(), wish.as_ref(), standing, checked, now)?;
    if matches!(entry, Entry::Enters | Entry::Waits) {
        let sql = "update invite set uses_left = uses_left - 1 where secret_hash = $1";
        transaction.execute(sql, &[&secret.as_slice()]).await.map_err(failed)?;
    }
    match entry {
        Entry::Enters | Entry::Approved => {
            let role = invite.as_ref().map_or(Role::Guest, |invite| invite.role);
            insert(&transaction, checked, role, now).await?;
            transaction.execute("delete from join_wish where holder = $1", &[&checked.holder()]).await.map_err(failed)?;
            transaction.commit().await.map_err(failed)?;
            Ok(Reserved::New)
        }
        Entry::Waits | Entry::StillWaits => {
            if !wish.is_some_and(|wish| wish.same_keys) {
                put_wish(&transaction, checked, now).await?;
            }
            transaction.commit().await.map_err(failed)?;
            Err(Problem::new(Code::AwaitsApproval, waits(checked)))
        }
    }
}

fn waits(checked: &Checked) -> String {
    let holder = checked.holder();
    let name = checked.statement.name.trim();
    format!("{name} ({holder}) waits for approval by an admin of the network, who runs: mesh network approve {}", short(&holder))
}
/// What people type of an id.
pub fn short(id: &str) -> &str {
    id.get(..12).unwrap_or(id)
}

fn invite_of(row: &Row) -> InviteState {
    InviteState {
        uses_left: row.get(0),
        expires_at: row.get::<_, Option<i64>>(1).and_then(|at| u64::try_from(at).ok()),
        revoked: row.get(2),
        role: role_of(row.get(3)),
        device_of: row.get::<_, Option<&str>>(4).and_then(|id| id.parse().ok()),
        approve: row.get(5),
        maker: row.get::<_, Option<&str>>(6).map(role_of),
        maker_suspended: row.get(7),
    }
}

/// What became of this joiner's wish under this invite.
async fn wish_of(client: &impl GenericClient, checked: &Checked) -> Result<Option<Wish>, Problem> {
    let sql = "select state, reason, member, transport from join_wish where holder = $1 and invite = $2";
    let row = client.query_opt(sql, &[&checked.holder(), &checked.secret_hash().as_slice()]).await.map_err(failed)?;
    Ok(row.map(|row| Wish {
        decided: match row.get(0) {
            "approved" => Decided::Approved,
            "denied" => Decided::Denied(row.get(1)),
            _ => Decided::NotYet,
        },
        same_keys: row.get::<_, &str>(2) == checked.member.to_string() && row.get::<_, &str>(3) == checked.statement.transport,
    }))
}

async fn put_wish(client: &impl GenericClient, checked: &Checked, now: UnixMs) -> Result<(), Problem> {
    let sql = "insert into join_wish (holder, member, transport, name, invite, asked_at) values ($1, $2, $3, $4, $5, $6)
               on conflict (holder) do update set member = excluded.member, transport = excluded.transport, name = excluded.name,
               invite = excluded.invite, asked_at = excluded.asked_at, state = 'waiting', decided_by = null, reason = null";
    let Checked { statement, member, .. } = checked;
    let (name, secret) = (statement.name.trim(), checked.secret_hash());
    let values: [&(dyn ToSql + Sync); 6] =
        [&checked.holder(), &member.to_string(), &statement.transport, &name, &secret.as_slice(), &ms(now)];
    client.execute(sql, &values).await.map_err(failed)?;
    Ok(())
}

async fn insert(client: &impl GenericClient, checked: &Checked, role: Role, now: UnixMs) -> Result<(), Problem> {
    let Checked { statement, device, member } = checked;
    let (device, member) = (device.to_string(), member.to_string());
    let (secret, at) = (checked.secret_hash(), ms(now));
    let own_transport = statement.member_only.then_some(statement.transport.as_str());
    // A member with another device is there already.
    let sql = "insert into enrolled_member (member, did, transport, invite, enrolled_at, role) values ($1, $2, $3, $4, $5, $6)
               on conflict (member) do update set transport = excluded.transport, invite = excluded.invite
               where enrolled_member.transport is null and excluded.transport is not null";
    client
        .execute(sql, &[&member, &statement.member.to_string(), &own_transport, &secret.as_slice(), &at, &role.name()])
        .await
        .map_err(failed)?;
    if statement.member_only {
        return Ok(());
    }
    let sql = "insert into enrolled_device (device, did, member, transport, name, claimed_tier, invite, enrolled_at)
               values ($1, $2, $3, $4, $5, $6, $7, $8)";
    client
        .execute(
            sql,
            &[
                &device,
                &statement.device.to_string(),
                &member,
                &statement.transport,
                &statement.name.trim(),
                &i16::from(statement.claimed_tier),
                &secret.as_slice(),
                &at,
            ],
        )
        .await
        .map_err(failed)?;
    Ok(())
}

/// What is on record of a key that asks to come in.
struct Known {
    member: String,
    transport: String,
    invite: Option<Vec<u8>>,
}
impl Known {
    fn same_as(&self, checked: &Checked) -> bool {
        self.member == checked.member.to_string()
            && self.transport == checked.statement.transport
            && self.invite.as_deref() == Some(checked.secret_hash().as_slice())
    }
}

/// Also where another holder has the same transport key: one login is one's own.
async fn known(client: &impl GenericClient, checked: &Checked) -> Result<Option<Known>, Problem> {
    let statement = &checked.statement;
    let (id, sql) = if statement.member_only {
        let sql = "select member, coalesce(transport, ''), invite from enrolled_member where member = $1 and transport is not null
                   union all select member, '', null from enrolled_device where transport = $2
                   union all select member, '', null from enrolled_member where transport = $2 and member <> $1 limit 1";
        (checked.member.to_string(), sql)
    } else {
        let sql = "select member, transport, invite from enrolled_device where device = $1
                   union all select member, '', null from enrolled_device where transport = $2 and device <> $1
                   union all select member, '', null from enrolled_member where transport = $2 limit 1";
        (checked.device.to_string(), sql)
    };
    let row = client.query_opt(sql, &[&id, &statement.transport]).await.map_err(failed)?;
    Ok(row.map(|row| Known { member: row.get(0), transport: row.get(1), invite: row.get(2) }))
}

/// Takes a new enrolment back: the ledger refused it.
///
/// # Errors
/// That Postgres does not answer.
pub async fn undo(pool: &Pool, checked: &Checked) -> Result<(), Problem> {
    let mut client = client(pool).await?;
    let transaction = client.transaction().await.map_err(failed)?;
    let (device, member) = (checked.device.to_string(), checked.member.to_string());
    let sql = if checked.statement.member_only {
        "update enrolled_member set transport = null where member = $1"
    } else {
        "delete from enrolled_device where device = $1"
    };
    let holder = if checked.statement.member_only { &member } else { &device };
    transaction.execute(sql, &[holder]).await.map_err(failed)?;
    let sql = "delete from enrolled_member m where member = $1 and not exists (select from enrolled_device d where d.member = m.member)
               and not exists (select from token t where t.member = m.member)";
    transaction.execute(sql, &[&member]).await.map_err(failed)?;
    let sql = "update invite set uses_left = uses_left + 1 where secret_hash = $1";
    transaction.execute(sql, &[&checked.secret_hash().as_slice()]).await.map_err(failed)?;
    transaction.commit().await.map_err(failed)
}

/// When a holder was enrolled, if its keys are those on record.
///
/// # Errors
/// That Postgres does not answer.
pub async fn enrolled_at(pool: &Pool, checked: &Checked) -> Result<Option<UnixMs>, Problem> {
    let client = client(pool).await?;
    let member = checked.member.to_string();
    let row = if checked.statement.member_only {
        let sql = "select enrolled_at from enrolled_member where member = $1 and transport = $2";
        client.query_opt(sql, &[&member, &checked.statement.transport]).await
    } else {
        let sql = "select enrolled_at from enrolled_device where device = $1 and member = $2 and transport = $3";
        client.query_opt(sql, &[&checked.device.to_string(), &member, &checked.statement.transport]).await
    };
    Ok(row.map_err(failed)?.and_then(|row| u64::try_from(row.get::<_, i64>(0)).ok()))
}

/// Keeps the hash of a holder's bearer token; an earlier one ends.
///
/// # Errors
/// That Postgres does not answer.
pub async fn put_token(pool: &Pool, checked: &Checked, token: &str, expires_at: UnixMs) -> Result<(), Problem> {
    let sql = "insert into token (hash, member, holder, expires_at) values ($1, $2, $3, $4)
               on conflict (holder) do update set hash = excluded.hash, member = excluded.member, expires_at = excluded.expires_at";
    let hash = sha256(token.as_bytes());
    let client = client(pool).await?;
    client.execute(sql, &[&hash.as_slice(), &checked.member.to_string(), &checked.holder(), &ms(expires_at)]).await.map_err(failed)?;
    Ok(())
}

/// A holder that renews keeps its token alive.
///
/// # Errors
/// That Postgres does not answer.
pub async fn extend_token(pool: &Pool, holder: &str, expires_at: UnixMs) -> Result<(), Problem> {
    let client = client(pool).await?;
    client.execute("update token set expires_at = $2 where holder = $1", &[&holder, &ms(expires_at)]).await.map_err(failed)?;
    Ok(())
}

/// Whose token this is; `None` where it is nobody's, or over. Tokens are looked up by hash.
///
/// # Errors
/// That Postgres does not answer.
pub async fn token_member(pool: &Pool, token: &str, now: UnixMs) -> Result<Option<MemberId>, Problem> {
    let hash = sha256(token.as_bytes());
    let client = client(pool).await?;
    let sql =
        "select t.member, m.suspended from token t join enrolled_member m on m.member = t.member where t.hash = $1 and t.expires_at > $2";
    let statement = client.prepare_cached(sql).await.map_err(failed)?;
    let row = client.query_opt(&statement, &[&hash.as_slice(), &ms(now)]).await.map_err(failed)?;
    let Some(row) = row else { return Ok(None) };
    let member: String = row.get(0);
    if row.get::<_, Option<String>>(1).is_some() {
        return Err(Problem::new(Code::Suspended, format!("{member} is suspended")));
    }
    Ok(member.parse().ok())
}

/// Keeps the hash of an invite's secret.
///
/// # Errors
/// That Postgres does not answer.
pub async fn put_invite(pool: &Pool, secret: &str, label: &str, uses: u32, expires_at: Option<UnixMs>, now: UnixMs) -> Result<(), Problem> {
    let sql = "insert into invite (secret_hash, label, uses_left, expires_at, created_at) values ($1, $2, $3, $4, $5)";
    let hash = sha256(secret.as_bytes());
    let uses = i32::try_from(uses).unwrap_or(i32::MAX);
    let client = client(pool).await?;
    client.execute(sql, &[&hash.as_slice(), &label, &uses, &expires_at.map(ms), &ms(now)]).await.map_err(failed)?;
    Ok(())
}
