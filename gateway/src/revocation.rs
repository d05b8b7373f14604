//! Who is no longer welcome: a device for ever, a member until it is restored.
//!
//! Each step may be done twice and is safe to stop after: first the records, which schedulers follow and renewals are refused by; then the
//! fact, which says up to which receipt is paid and which logins end; the revoker reads it and tells the hub; tokens and jobs last. Whoever
//! lost the answer asks again. What was refused stands in the audit log as well as what was done.

pub mod rows;

use std::future::Future;
use std::time::Duration;

use bus_schemas::api::ask;
use bus_schemas::api::people::{AuditList, BarView, HubTold, MemberList};
use bus_schemas::history::CancelRequest;
use bus_schemas::id::{Asker, DeviceId, MemberId};
use bus_schemas::ledger::{Done, LedgerOutcome, Op};
use bus_schemas::network::{DeviceRecord, Role, Suspended};
use bus_schemas::{Code, Problem, stream, subject};
use tokio::time::Instant;

use crate::ledger_client;
use crate::letters::Reader;
use crate::revoker::list::SLACK_S;
use crate::rights::{Act, doors, may};
use crate::world::World;

const LEDGER_WITHIN: Duration = Duration::from_secs(8);
/// The hub's nodes answer the revoker within milliseconds.
const HUB_WITHIN: Duration = Duration::from_secs(3);
const STORE_WITHIN: Duration = Duration::from_secs(5);
const REASON_CHARS_MAX: usize = 200;
const PAGE_DEFAULT: u32 = 20;
const PAGE_MAX: u32 = 200;
/// Two who change one record at once: the later one looks again.
const TRIES: u32 = 5;

impl World {
    /// A device's logins end for ever; what it has goes elsewhere at once; what it sent before stays payable.
    ///
    /// # Errors
    /// [`Code::NoSuchDevice`], [`Code::Forbidden`], [`Code::BadValue`], what the ledger refuses, [`Code::Unavailable`]: then it may be
    /// half done, and asking again ends it.
    pub async fn revoke(&self, by: Reader, ask: &ask::Bar) -> Result<BarView, Problem> {
        self.audited(Act::RevokeDevice, by, &ask.id, ask.reason.as_deref(), self.revoke_device(by, ask)).await
    }

    async fn revoke_device(&self, by: Reader, ask: &ask::Bar) -> Result<BarView, Problem> {
        check_reason(ask.reason.as_deref())?;
        let device: DeviceId = ask.id.parse().map_err(|_| Problem::new(Code::NoSuchDevice, format!("no device {}", shown(&ask.id))))?;
        let (record, _) = self.stored_record(&device).await?;
        self.allowed(by, Act::RevokeDevice, &record.member).await?;
        let record =
            self.change_record(&device, |record| (!record.revoked).then(|| DeviceRecord { revoked: true, ..record.clone() })).await?;
        let pool = self.store.pool();
        let logins = rows::logins(pool, &device.to_string()).await?;
        let count = logins.len();
        let done = self.say(Op::RevokeDevice { device, receipts_seq: self.receipts_end().await?, logins }).await?;
        rows::end_token(pool, &device.to_string()).await?;
        tracing::info!(%device, by = by.name(), reason = ask.reason, seq = done.seq, "a device was revoked");
        let view = view("revoked", by, ask, &done, vec![device], count, self.hub_told(done.seq).await);
        Ok(BarView { name: Some(record.name), ..view })
    }

    /// A member submits nothing until it is restored; its jobs that no device has accepted end. Its devices end what they have and take nothing
    /// new, or, where `now` is asked for, lose their logins with it.
    ///
    /// # Errors
    /// As [`Self::revoke`]; [`Code::NotFound`] for a member that is not here.
    pub async fn suspend(&self, by: Reader, ask: &ask::Bar) -> Result<BarView, Problem> {
        self.audited(Act::SuspendMember, by, &ask.id, ask.reason.as_deref(), self.suspend_member(by, ask)).await
    }

    async fn suspend_member(&self, by: Reader, ask: &ask::Bar) -> Result<BarView, Problem> {
        check_reason(ask.reason.as_deref())?;
        let (member, standing) = self.member_known(&ask.id).await?;
        self.allowed(by, Act::SuspendMember, &member).await?;
        self.outranks(by, standing.role).await?;
        let pool = self.store.pool();
        // A repeat keeps what was said first; that devices lose their logins may come later.
        let said = || Suspended { at: self.now(), by: by.name(), reason: ask.reason.clone(), now: ask.now };
        let suspended = standing.suspended.filter(|known| known.now || !ask.now).unwrap_or_else(said);
        rows::suspend(pool, &member, Some(&suspended)).await?;
        let devices = rows::devices(pool, &member).await?;
        for device in &devices {
            let barred = |record: &DeviceRecord| {
                (record.suspended.as_ref() != Some(&suspended))
                    .then(|| DeviceRecord { suspended: Some(suspended.clone()), ..record.clone() })
            };
            known(self.change_record(device, barred).await)?;
        }
        let (logins, receipts_seq) = match suspended.now {
            true => (rows::logins(pool, &member.to_string()).await?, Some(self.receipts_end().await?)),
            false => (rows::own_logins(pool, &member).await?, None),
        };
        let count = logins.len();
        let reason = ask.reason.clone().unwrap_or_default();
        let done = self.say(Op::SuspendMember { member, receipts_seq, logins, reason }).await?;
        let cancelled = self.cancel_all(&member).await?;
        tracing::info!(%member, by = by.name(), reason = ask.reason, seq = done.seq, cancelled, "a member was suspended");
        let view = view("suspended", by, ask, &done, devices, count, self.hub_told(done.seq).await);
        Ok(BarView { cancelled, ..view })
    }

    /// A suspended member may come back: its devices renew their logins and take work again.
    ///
    /// # Errors
    /// As [`Self::suspend`].
    pub async fn restore(&self, by: Reader, ask: &ask::Bar) -> Result<BarView, Problem> {
        self.audited(Act::RestoreMember, by, &ask.id, ask.reason.as_deref(), self.restore_member(by, ask)).await
    }

    async fn restore_member(&self, by: Reader, ask: &ask::Bar) -> Result<BarView, Problem> {
        check_reason(ask.reason.as_deref())?;
        let (member, standing) = self.member_known(&ask.id).await?;
        self.allowed(by, Act::RestoreMember, &member).await?;
        let done = self.say(Op::RestoreMember { member, reason: ask.reason.clone().unwrap_or_default() }).await?;
        // The hub refuses logins that were issued up to a second after the suspension: none is given until that has passed.
        if let Some(since) = standing.suspended.map(|suspended| suspended.at / 1000 + SLACK_S + 1) {
            let left = since.saturating_sub(self.now() / 1000).min(SLACK_S + 1);
            tokio::time::sleep(Duration::from_secs(left)).await;
        }
        let pool = self.store.pool();
        let devices = rows::devices(pool, &member).await?;
        for device in &devices {
            let back = |record: &DeviceRecord| record.suspended.is_some().then(|| DeviceRecord { suspended: None, ..record.clone() });
            known(self.change_record(device, back).await)?;
        }
        rows::suspend(pool, &member, None).await?;
        tracing::info!(%member, by = by.name(), reason = ask.reason, seq = done.seq, "a member was restored");
        Ok(view("restored", by, ask, &done, devices, 0, None))
    }

    /// All members, for those who may see them.
    ///
    /// # Errors
    /// [`Code::Forbidden`], [`Code::Unavailable`].
    pub async fn members(&self, by: Reader) -> Result<MemberList, Problem> {
        self.allowed_at_all(by, Act::ListMembers).await?;
        rows::members(self.store.pool()).await
    }

    /// Gives a member another role.
    ///
    /// # Errors
    /// [`Code::NotFound`], [`Code::Forbidden`], [`Code::Unavailable`].
    pub async fn set_role(&self, by: Reader, ask: &ask::SetRole) -> Result<MemberList, Problem> {
        let act = if ask.role <= Role::Admin { Act::AppointAdmin } else { Act::GiveRole };
        self.audited(act, by, &ask.id, Some(ask.role.name()), self.give_role(by, act, ask)).await
    }

    async fn give_role(&self, by: Reader, act: Act, ask: &ask::SetRole) -> Result<MemberList, Problem> {
        let (member, standing) = self.member_known(&ask.id).await?;
        self.allowed(by, act, &member).await?;
        self.outranks(by, standing.role).await?;
        let pool = self.store.pool();
        rows::set_role(pool, &member, ask.role).await?;
        let all = rows::members(pool).await?;
        Ok(MemberList { members: all.members.into_iter().filter(|info| info.id == member).collect() })
    }

    /// Who did what to others, newest first.
    ///
    /// # Errors
    /// [`Code::BadValue`], [`Code::Forbidden`], [`Code::Unavailable`].
    pub async fn audit(&self, by: Reader, ask: &ask::Audit) -> Result<AuditList, Problem> {
        self.allowed_at_all(by, Act::ReadAudit).await?;
        let limit = ask.limit.unwrap_or(PAGE_DEFAULT);
        if !(1..=PAGE_MAX).contains(&limit) {
            return Err(Problem::new(Code::BadValue, format!("limit is {limit}; 1 to {PAGE_MAX} are allowed")));
        }
        let before = ask.cursor.as_deref().map_or(Ok(i64::MAX), str::parse);
        let before = before.map_err(|_| Problem::new(Code::BadValue, "that is no cursor of an audit log"))?;
        rows::audit(self.store.pool(), i64::from(limit), before).await
    }

    pub(crate) async fn audited<T>(
        &self,
        act: Act,
        by: Reader,
        about: &str,
        detail: Option<&str>,
        done: impl Future<Output = Result<T, Problem>>,
    ) -> Result<T, Problem> {
        let answer = done.await;
        let outcome = answer.as_ref().map_or_else(|problem| problem.code.code(), |_| "done");
        let about = shown(about);
        let line = rows::Line {
            at: self.now(),
            by: by.name(),
            did: act.name(),
            about: &about,
            outcome,
            detail: detail.map_or("", |text| text.get(..400).unwrap_or(text)),
        };
        if let Err(problem) = rows::note(self.store.pool(), &line).await {
            tracing::error!(%problem, by = line.by, did = line.did, about, outcome, "not written to the audit log");
        }
        answer
    }

    /// Whether a member's role opens this door to it.
    ///
    /// # Errors
    /// [`Code::Forbidden`], [`Code::Unavailable`].
    pub async fn enters(&self, door: &str, member: &MemberId) -> Result<(), Problem> {
        match rows::standing(self.store.pool(), member).await? {
            Some(standing) if doors::gets(door, standing.role) == Some(doors::Gets::Nothing) => {
                Err(Problem::new(Code::Forbidden, format!("{door} is not for the role {}", standing.role)))
            }
            Some(_) | None => Ok(()),
        }
    }

    /// Whether `by` may do this to what is `owner`'s.
    async fn allowed(&self, by: Reader, act: Act, owner: &MemberId) -> Result<(), Problem> {
        let Some((role, member)) = self.role_of(by).await? else { return Ok(()) };
        if may(role, act, member == *owner) {
            return Ok(());
        }
        Err(Problem::new(Code::Forbidden, format!("{} is not for the role {role} here", act.name())))
    }
    async fn allowed_at_all(&self, by: Reader, act: Act) -> Result<(), Problem> {
        match self.role_of(by).await? {
            Some((role, _)) if !may(role, act, false) => {
                Err(Problem::new(Code::Forbidden, format!("{} is not for the role {role}", act.name())))
            }
            Some(_) | None => Ok(()),
        }
    }
    /// Only an owner does something to an owner or an admin.
    async fn outranks(&self, by: Reader, other: Role) -> Result<(), Problem> {
        match self.role_of(by).await? {
            Some((role, _)) if other <= Role::Admin && role != Role::Owner => {
                Err(Problem::new(Code::Forbidden, format!("a member with the role {other} is the owner's to deal with")))
            }
            Some(_) | None => Ok(()),
        }
    }
    /// `None`: the operator, who may all.
    pub(crate) async fn role_of(&self, by: Reader) -> Result<Option<(Role, MemberId)>, Problem> {
        match by {
            Reader::Operator => Ok(None),
            Reader::Member(Asker::Device(device), _) => Err(Problem::new(
                Code::Forbidden,
                format!("{device} speaks for the people at that machine, not for its owner; ask as the member"),
            )),
            Reader::Member(Asker::Member(_), member) => {
                let standing = rows::standing(self.store.pool(), &member).await?;
                let none = || Problem::new(Code::Forbidden, format!("{member} is no member here"));
                let standing = standing.ok_or_else(none)?;
                match standing.suspended {
                    Some(_) => Err(Problem::new(Code::Suspended, format!("{member} is suspended"))),
                    None => Ok(Some((standing.role, member))),
                }
            }
        }
    }

    async fn member_known(&self, id: &str) -> Result<(MemberId, rows::Standing), Problem> {
        let none = || Problem::new(Code::NotFound, format!("no member {}", shown(id)));
        let member: MemberId = id.parse().map_err(|_| none())?;
        let standing = rows::standing(self.store.pool(), &member).await?.ok_or_else(none)?;
        Ok((member, standing))
    }

    /// Changes a device's record; `None` of `wanted`: it is so already.
    async fn change_record(
        &self,
        device: &DeviceId,
        wanted: impl Fn(&DeviceRecord) -> Option<DeviceRecord>,
    ) -> Result<DeviceRecord, Problem> {
        for _ in 0..TRIES {
            let (record, seq) = self.stored_record(device).await?;
            let Some(changed) = wanted(&record) else { return Ok(record) };
            if self.replaced(&changed, seq).await? {
                self.fleet.note_record(changed.clone());
                return Ok(changed);
            }
        }
        Err(Problem::new(Code::Unavailable, "the device's record changes all the time"))
    }

    /// The last receipt that stays payable.
    async fn receipts_end(&self) -> Result<u64, Problem> {
        let end = self.bus.stream_end(stream::RECEIPTS).await;
        Ok(end.map_err(|error| Problem::new(Code::Unavailable, error.to_string()))?.last_seq)
    }

    async fn say(&self, op: Op) -> Result<Done, Problem> {
        let outcomes = ledger_client::ask(self, vec![op], Instant::now() + LEDGER_WITHIN).await;
        let outcomes = outcomes.map_err(|error| Problem::new(Code::Unavailable, format!("{error}; ask again")))?;
        match outcomes.into_iter().next() {
            Some(LedgerOutcome::Done(done)) => Ok(done),
            Some(LedgerOutcome::Refused { code, detail, .. }) => Err(Problem::new(code, detail)),
            None => Err(Problem::new(Code::Unavailable, "the ledger gave no answer; ask again")),
        }
    }

    /// How many nodes of the hub know what the books say up to `seq`; `None`: the revoker does not answer.
    pub async fn ask_revoker(&self, seq: u64) -> Option<HubTold> {
        let question = serde_json::json!({ "seq": seq }).to_string();
        let answer = self.bus.ask_bytes(subject::REVOKER_DONE.to_owned(), question.into(), HUB_WITHIN).await;
        answer.ok().and_then(|answer| serde_json::from_slice(&answer).ok())
    }
    async fn hub_told(&self, seq: u64) -> Option<HubTold> {
        let told = self.ask_revoker(seq).await;
        if told.is_none() {
            tracing::error!(seq, "the revoker does not answer: the hub may still let in who was revoked");
        }
        told
    }

    async fn cancel_all(&self, member: &MemberId) -> Result<u32, Problem> {
        let mut cancelled = 0;
        for job in rows::open_jobs(self.store.pool(), member).await? {
            let request = CancelRequest { net: self.net, job, member: *member, at: self.now(), unless_assigned: true };
            let batch = self.signer.batch(&[request]).encode();
            let stored = self.bus.store(subject::cancel(&job), None, batch.into(), STORE_WITHIN).await;
            stored.map_err(|error| Problem::new(Code::Unavailable, format!("the end of {} could not be stored: {error}", job.short())))?;
            cancelled += 1;
        }
        Ok(cancelled)
    }
}

/// A device that was enrolled without ever getting a record has nothing to lose.
fn known(changed: Result<DeviceRecord, Problem>) -> Result<(), Problem> {
    match changed {
        Err(problem) if problem.code == Code::NoSuchDevice => Ok(()),
        other => other.map(|_| ()),
    }
}

pub(crate) fn check_reason(reason: Option<&str>) -> Result<(), Problem> {
    if reason.is_some_and(|reason| reason.chars().count() > REASON_CHARS_MAX || reason.chars().any(char::is_control)) {
        return Err(Problem::new(Code::BadValue, format!("a reason is one line of at most {REASON_CHARS_MAX} characters")));
    }
    Ok(())
}

pub(crate) fn shown(text: &str) -> String {
    text.chars().filter(|c| !c.is_control()).take(80).collect()
}

fn view(is: &str, by: Reader, ask: &ask::Bar, done: &Done, devices: Vec<DeviceId>, logins: usize, hub: Option<HubTold>) -> BarView {
    BarView {
        id: ask.id.clone(),
        name: None,
        is: is.to_owned(),
        by: by.name(),
        reason: ask.reason.clone(),
        fact: done.fact,
        seq: done.seq,
        repeat: done.repeat,
        devices,
        logins: u32::try_from(logins).unwrap_or(u32::MAX),
        hub,
        cancelled: 0,
    }
}
