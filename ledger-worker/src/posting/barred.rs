//! Who is no longer welcome: a device for ever, a member until it is restored. What was stored before stays payable.

use bus_schemas::id::{DeviceId, FactId, MemberId};
use bus_schemas::ledger::{RefusalKind, What, fact_id};
use bus_schemas::mana::MAX_MMANA;
use bus_schemas::{Code, UnixMs};

use super::{Decided, Refusal, Standing, check_reason, known_member, record};

/// More keys than one device or member can have.
const LOGINS_MAX: usize = 256;

pub fn revoke_device(
    standing: &Standing,
    now: UnixMs,
    device: &DeviceId,
    receipts_seq: u64,
    logins: &[String],
) -> Result<Decided, Refusal> {
    let id = fact_id::revoke_device(device);
    let unknown = || Refusal::new(RefusalKind::UnknownDevice, Code::NoSuchDevice, format!("{device} is bound to no member"));
    if standing.books().device(device).ok_or_else(unknown)?.revoked.is_some() {
        return Ok(known(standing, id));
    }
    check_place(receipts_seq)?;
    check_logins(logins)?;
    Ok(record(standing, now, id, vec![], What::RevokeDevice { device: *device, receipts_seq, logins: logins.to_vec() }))
}

pub fn suspend_member(
    standing: &Standing,
    now: UnixMs,
    member: &MemberId,
    receipts_seq: Option<u64>,
    logins: &[String],
    reason: &str,
) -> Result<Decided, Refusal> {
    known_member(standing, member)?;
    let found = standing.books().suspension(member).unwrap_or_default();
    if !found.may_follow(receipts_seq) {
        return Ok(known(standing, fact_id::member_standing(member, found.times.saturating_sub(1))));
    }
    receipts_seq.map_or(Ok(()), check_place)?;
    check_logins(logins)?;
    check_reason(reason)?;
    let what = What::SuspendMember { member: *member, receipts_seq, logins: logins.to_vec(), reason: reason.to_owned() };
    Ok(record(standing, now, fact_id::member_standing(member, found.times), vec![], what))
}

pub fn restore_member(standing: &Standing, now: UnixMs, member: &MemberId, reason: &str) -> Result<Decided, Refusal> {
    known_member(standing, member)?;
    let never = || Refusal::new(RefusalKind::NotAllowed, Code::BadValue, format!("{member} never was suspended"));
    let found = standing.books().suspension(member).ok_or_else(never)?;
    if !found.is_suspended {
        return Ok(known(standing, fact_id::member_standing(member, found.times.saturating_sub(1))));
    }
    check_reason(reason)?;
    let what = What::RestoreMember { member: *member, reason: reason.to_owned() };
    Ok(record(standing, now, fact_id::member_standing(member, found.times), vec![], what))
}

/// The last word about a member; `None` before the first.
pub fn last_fact(standing: &Standing, member: &MemberId) -> Option<FactId> {
    let last = standing.books().suspension(member)?.times.checked_sub(1)?;
    Some(fact_id::member_standing(member, last))
}

/// # Errors
/// [`RefusalKind::MemberSuspended`].
pub fn check_member(standing: &Standing, member: &MemberId) -> Result<(), Refusal> {
    if standing.books().suspension(member).is_some_and(|found| found.is_suspended) {
        return Err(Refusal::new(RefusalKind::MemberSuspended, Code::Suspended, format!("{member} is suspended")));
    }
    Ok(())
}

fn known(standing: &Standing, fact: FactId) -> Decided {
    let seq = standing.books().fact(&fact).map_or(0, |(seq, _)| seq);
    Decided::Known { fact, seq, hold: None }
}

/// Facts are JSON and rows are signed: beyond this, readers would see another number.
fn check_place(receipts_seq: u64) -> Result<(), Refusal> {
    if receipts_seq > MAX_MMANA.unsigned_abs() {
        let detail = format!("{receipts_seq} is no sequence that a stream can reach");
        return Err(Refusal::new(RefusalKind::BadAmount, Code::BadValue, detail));
    }
    Ok(())
}

/// Public nkeys of users: 56 characters of base32 that begin with U.
fn check_logins(logins: &[String]) -> Result<(), Refusal> {
    let is_key = |login: &String| {
        login.len() == 56 && login.starts_with('U') && login.bytes().all(|byte| byte.is_ascii_uppercase() || matches!(byte, b'2'..=b'7'))
    };
    if logins.len() > LOGINS_MAX || !logins.iter().all(is_key) {
        let detail = format!("logins are at most {LOGINS_MAX} public nkeys of users");
        return Err(Refusal::new(RefusalKind::BadAmount, Code::BadValue, detail));
    }
    Ok(())
}
