//! Roles, suspensions, the keys that somebody logs in with, and the audit log, in Postgres.

use bus_schemas::api::people::{AuditEntry, AuditList, MemberInfo, MemberList};
use bus_schemas::id::{DeviceId, JobId, MemberId};
use bus_schemas::network::{Role, Suspended};
use bus_schemas::{Code, Problem, UnixMs};
use deadpool_postgres::Pool;
use tokio_postgres::Row;

use crate::enrolment::rows::{client, failed, ms};
use crate::world::rfc3339;

/// What a member may do, and whether it is suspended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Standing {
    pub role: Role,
    pub suspended: Option<Suspended>,
}

pub(crate) fn role_of(text: &str) -> Role {
    // A role that this program does not know may do least.
    text.parse().unwrap_or(Role::Guest)
}
fn suspended_of(text: Option<String>) -> Option<Suspended> {
    let unread = || Suspended { at: 0, by: String::new(), reason: None, now: false };
    text.map(|text| serde_json::from_str(&text).unwrap_or_else(|_| unread()))
}

/// `None`: no such member here.
///
/// # Errors
/// That Postgres does not answer.
pub async fn standing(pool: &Pool, member: &MemberId) -> Result<Option<Standing>, Problem> {
    let client = client(pool).await?;
    let sql = "select role, suspended from enrolled_member where member = $1";
    let row = client.query_opt(sql, &[&member.to_string()]).await.map_err(failed)?;
    Ok(row.map(|row| Standing { role: role_of(row.get(0)), suspended: suspended_of(row.get(1)) }))
}

/// # Errors
/// That Postgres does not answer.
pub async fn suspend(pool: &Pool, member: &MemberId, suspended: Option<&Suspended>) -> Result<(), Problem> {
    let text = suspended.map(serde_json::to_string).transpose().map_err(|error| Problem::new(Code::Internal, error.to_string()))?;
    let client = client(pool).await?;
    client.execute("update enrolled_member set suspended = $2 where member = $1", &[&member.to_string(), &text]).await.map_err(failed)?;
    Ok(())
}

/// # Errors
/// That Postgres does not answer.
pub async fn set_role(pool: &Pool, member: &MemberId, role: Role) -> Result<(), Problem> {
    let client = client(pool).await?;
    client.execute("update enrolled_member set role = $2 where member = $1", &[&member.to_string(), &role.name()]).await.map_err(failed)?;
    Ok(())
}

/// # Errors
/// That Postgres does not answer.
pub async fn members(pool: &Pool) -> Result<MemberList, Problem> {
    let sql = "select m.member, m.did, m.role, m.suspended, m.enrolled_at,
               (select count(*) from enrolled_device d where d.member = m.member) from enrolled_member m order by m.enrolled_at, m.member";
    let rows = client(pool).await?.query(sql, &[]).await.map_err(failed)?;
    let info = |row: &Row| {
        Some(MemberInfo {
            id: row.get::<_, &str>(0).parse().ok()?,
            did: row.get::<_, &str>(1).parse().ok()?,
            role: role_of(row.get(2)),
            suspended: suspended_of(row.get(3)).map(|suspended| {
                let why = suspended.reason.map(|reason| format!(": {reason}")).unwrap_or_default();
                format!("since {}, by {}{why}", rfc3339(suspended.at), suspended.by)
            }),
            enrolled: rfc3339(u64::try_from(row.get::<_, i64>(4)).unwrap_or(0)),
            devices: u32::try_from(row.get::<_, i64>(5)).unwrap_or(0),
        })
    };
    Ok(MemberList { members: rows.iter().filter_map(info).collect() })
}

/// The devices of a member, revoked ones among them.
///
/// # Errors
/// That Postgres does not answer.
pub async fn devices(pool: &Pool, member: &MemberId) -> Result<Vec<DeviceId>, Problem> {
    let sql = "select device from enrolled_device where member = $1 order by device";
    let rows = client(pool).await?.query(sql, &[&member.to_string()]).await.map_err(failed)?;
    Ok(rows.iter().filter_map(|row| row.get::<_, &str>(0).parse().ok()).collect())
}

/// The keys that a device or a member with all its devices logs in with.
///
/// # Errors
/// That Postgres does not answer.
pub async fn logins(pool: &Pool, holder: &str) -> Result<Vec<String>, Problem> {
    let sql = "select transport from enrolled_device where device = $1 or member = $1
               union select transport from enrolled_member where member = $1 and transport is not null order by 1";
    let rows = client(pool).await?.query(sql, &[&holder]).await.map_err(failed)?;
    Ok(rows.iter().map(|row| row.get(0)).collect())
}

/// The keys that a member logs in with where it has no device.
///
/// # Errors
/// That Postgres does not answer.
pub async fn own_logins(pool: &Pool, member: &MemberId) -> Result<Vec<String>, Problem> {
    let sql = "select transport from enrolled_member where member = $1 and transport is not null
               and transport not in (select transport from enrolled_device where member = $1)";
    let rows = client(pool).await?.query(sql, &[&member.to_string()]).await.map_err(failed)?;
    Ok(rows.iter().map(|row| row.get(0)).collect())
}

/// Ends the bearer token of a device.
///
/// # Errors
/// That Postgres does not answer.
pub async fn end_token(pool: &Pool, holder: &str) -> Result<(), Problem> {
    client(pool).await?.execute("delete from token where holder = $1", &[&holder]).await.map_err(failed)?;
    Ok(())
}

/// Jobs of a member that have not ended.
///
/// # Errors
/// That Postgres does not answer.
pub async fn open_jobs(pool: &Pool, member: &MemberId) -> Result<Vec<JobId>, Problem> {
    let sql = "select id from job where member = $1 and rank = 1 order by created_at";
    let rows = client(pool).await?.query(sql, &[&member.to_string()]).await.map_err(failed)?;
    Ok(rows.iter().filter_map(|row| row.get::<_, &str>(0).parse().ok()).collect())
}

/// One line of the audit log.
#[derive(Debug, Clone)]
pub struct Line<'a> {
    pub at: UnixMs,
    pub by: String,
    pub did: &'a str,
    pub about: &'a str,
    pub outcome: &'a str,
    pub detail: &'a str,
}

/// # Errors
/// That Postgres does not answer.
pub async fn note(pool: &Pool, line: &Line<'_>) -> Result<(), Problem> {
    let sql = "insert into audit (at, by, did, about, outcome, detail) values ($1, $2, $3, $4, $5, $6)";
    let client = client(pool).await?;
    client.execute(sql, &[&ms(line.at), &line.by, &line.did, &line.about, &line.outcome, &line.detail]).await.map_err(failed)?;
    Ok(())
}

/// A page of the audit log, newest first; `before`: an id of the last page.
///
/// # Errors
/// That Postgres does not answer.
pub async fn audit(pool: &Pool, limit: i64, before: i64) -> Result<AuditList, Problem> {
    let sql = "select id, at, by, did, about, outcome, detail from audit where id < $2 order by id desc limit $1";
    let rows = client(pool).await?.query(sql, &[&limit, &before]).await.map_err(failed)?;
    let entry = |row: &Row| AuditEntry {
        at: rfc3339(u64::try_from(row.get::<_, i64>(1)).unwrap_or(0)),
        by: row.get(2),
        did: row.get(3),
        about: row.get(4),
        outcome: row.get(5),
        detail: row.get(6),
    };
    let full = i64::try_from(rows.len()).is_ok_and(|found| found == limit);
    let cursor = rows.last().filter(|_| full).map(|row| row.get::<_, i64>(0).to_string());
    Ok(AuditList { entries: rows.iter().map(entry).collect(), cursor })
}
