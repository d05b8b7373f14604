//! Invites and those who wait, in Postgres.

use bus_schemas::api::people::{InviteInfo, InviteList, WaitingInfo, WaitingList};
use bus_schemas::id::{MemberId, sha256};
use bus_schemas::network::Role;
use bus_schemas::{Problem, UnixMs};
use deadpool_postgres::Pool;
use tokio_postgres::Row;

use crate::enrolment::rows::{client, failed, ms};
use crate::revocation::rows::role_of;
use crate::world::rfc3339;

/// Of the hash, so that it says nothing about the secret.
const ID: &str = "'inv_' || substr(encode(secret_hash, 'hex'), 1, 12)";
const INVITES_MAX: i64 = 200;
const WAITING_MAX: i64 = 200;

/// What a new invite says.
#[derive(Debug, Clone)]
pub struct New {
    pub by: String,
    pub role: Role,
    pub device_of: Option<MemberId>,
    pub approve: bool,
    pub uses: u32,
    pub expires_at: UnixMs,
}

fn at(text: i64) -> UnixMs {
    u64::try_from(text).unwrap_or(0)
}

fn info(row: &Row, now: UnixMs) -> InviteInfo {
    let (uses, expires) = (row.get::<_, i32>(4), row.get::<_, Option<i64>>(5).map(at));
    let state = match (row.get::<_, bool>(8), expires) {
        (true, _) => "revoked",
        (false, Some(expires)) if expires <= now => "expired",
        (false, Some(_) | None) if uses < 1 => "used",
        (false, Some(_) | None) => "open",
    };
    InviteInfo {
        id: row.get(0),
        role: role_of(row.get(1)),
        device_of: row.get::<_, Option<&str>>(2).and_then(|id| id.parse().ok()),
        approve: row.get(3),
        uses_left: u32::try_from(uses).unwrap_or(0),
        expires: expires.map(rfc3339),
        by: row.get(6),
        made: rfc3339(at(row.get(7))),
        state: state.to_owned(),
    }
}
fn select(rest: &str) -> String {
    format!("select {ID}, role, device_of, approve, uses_left, expires_at, made_by, created_at, revoked_at is not null from invite {rest}")
}

/// # Errors
/// That Postgres does not answer.
pub async fn put(pool: &Pool, secret: &str, new: &New, now: UnixMs) -> Result<InviteInfo, Problem> {
    let sql = "insert into invite (secret_hash, label, uses_left, expires_at, created_at, role, device_of, approve, made_by)
               values ($1, '', $2, $3, $4, $5, $6, $7, $8)";
    let (hash, uses) = (sha256(secret.as_bytes()), i32::try_from(new.uses).unwrap_or(i32::MAX));
    let (expires, device_of) = (ms(new.expires_at), new.device_of.map(|member| member.to_string()));
    let client = client(pool).await?;
    client
        .execute(sql, &[&hash.as_slice(), &uses, &expires, &ms(now), &new.role.name(), &device_of, &new.approve, &new.by])
        .await
        .map_err(failed)?;
    let row = client.query_one(&select("where secret_hash = $1"), &[&hash.as_slice()]).await.map_err(failed)?;
    Ok(info(&row, now))
}

/// # Errors
/// That Postgres does not answer.
pub async fn invite(pool: &Pool, id: &str, now: UnixMs) -> Result<Option<InviteInfo>, Problem> {
    let row = client(pool).await?.query_opt(&select(&format!("where {ID} = $1")), &[&id]).await.map_err(failed)?;
    Ok(row.map(|row| info(&row, now)))
}

/// The newest; `by`: those of one alone.
///
/// # Errors
/// That Postgres does not answer.
pub async fn invites(pool: &Pool, by: Option<&str>, now: UnixMs) -> Result<InviteList, Problem> {
    let sql = select("where $1::text is null or made_by = $1 order by created_at desc, secret_hash limit $2");
    let rows = client(pool).await?.query(&sql, &[&by, &INVITES_MAX]).await.map_err(failed)?;
    Ok(InviteList { invites: rows.iter().map(|row| info(row, now)).collect() })
}

/// The first revocation counts.
///
/// # Errors
/// That Postgres does not answer.
pub async fn revoke(pool: &Pool, id: &str, now: UnixMs) -> Result<(), Problem> {
    let sql = format!("update invite set revoked_at = coalesce(revoked_at, $2) where {ID} = $1");
    client(pool).await?.execute(&sql, &[&id, &ms(now)]).await.map_err(failed)?;
    Ok(())
}

/// Those whose id begins so.
///
/// # Errors
/// That Postgres does not answer.
pub async fn waiting(pool: &Pool, prefix: &str) -> Result<WaitingList, Problem> {
    let sql = format!(
        "select w.holder, w.name, w.member, coalesce(m.role, i.role), w.state, w.asked_at, {ID}, i.made_by, w.decided_by
         from join_wish w join invite i on i.secret_hash = w.invite left join enrolled_member m on m.member = w.member
         where left(w.holder, length($1)) = $1 and i.revoked_at is null order by w.asked_at, w.holder limit $2"
    );
    let rows = client(pool).await?.query(&sql, &[&prefix, &WAITING_MAX]).await.map_err(failed)?;
    let one = |row: &Row| {
        Some(WaitingInfo {
            id: row.get(0),
            name: row.get(1),
            member: row.get::<_, &str>(2).parse().ok()?,
            role: role_of(row.get(3)),
            state: row.get(4),
            asked: rfc3339(at(row.get(5))),
            invite: row.get(6),
            invited_by: row.get(7),
            by: row.get(8),
        })
    };
    Ok(WaitingList { waiting: rows.iter().filter_map(one).collect() })
}

/// Whether it was still there as it was seen.
///
/// # Errors
/// That Postgres does not answer.
pub async fn decide(pool: &Pool, seen: &WaitingInfo, state: &str, by: &str, reason: Option<&str>) -> Result<bool, Problem> {
    let sql = "update join_wish set state = $3, decided_by = $4, reason = $5 where holder = $1 and member = $2";
    let client = client(pool).await?;
    let done = client.execute(sql, &[&seen.id, &seen.member.to_string(), &state, &by, &reason]).await.map_err(failed)?;
    Ok(done == 1)
}
