//! Invites, and who waits for approval: who may make which, see them, end them, and say yes or no.
//!
//! An invite is a row with the hash of its secret; enrolment takes its uses. A refusal and a yes are words in the row of whoever waits,
//! which its next question meets at whatever gateway: nothing here is lost with a gateway, and all may be asked twice.

pub mod rows;

use bus_schemas::api::people::{DecideAsk, InviteAsk, InviteInfo, InviteList, InviteMade, WaitingInfo, WaitingList};
use bus_schemas::id::MemberId;
use bus_schemas::network::{Invite, Role};
use bus_schemas::{Code, Problem};

use crate::enrolment::random_text;
use crate::letters::Reader;
use crate::revocation::{check_reason, shown};
use crate::rights::{Act, may};
use crate::world::World;

const USES_MAX: u32 = 1_000;
/// Of an invite.
const LIFE_S_MIN: u64 = 10;
const LIFE_S_MAX: u64 = 90 * 24 * 3600;
/// Less of an id may be anybody's.
const ID_CHARS_MIN: usize = 12;

/// What it takes to make an invite for this role.
pub(crate) const fn act_of(role: Role, device: bool) -> Act {
    match (device, role) {
        (true, Role::Owner | Role::Admin | Role::Auditor | Role::Member | Role::Guest) => Act::InviteDevice,
        (false, Role::Owner | Role::Admin) => Act::InviteAdmin,
        (false, Role::Auditor | Role::Member) => Act::InviteMember,
        (false, Role::Guest) => Act::InviteGuest,
    }
}

/// What is wrong with the question itself.
fn check(ask: &InviteAsk) -> Result<(), Problem> {
    let bad = |detail: String| Err(Problem::new(Code::BadValue, detail));
    if ask.role == Role::Owner {
        return bad("nobody is invited as an owner; make one of a member: mesh network members role MEMBER owner".into());
    }
    if ask.device && ask.role != Role::Member {
        return bad("an invite for a device of one's own gives no role".into());
    }
    if !(1..=USES_MAX).contains(&ask.uses) {
        return bad(format!("uses is {}; 1 to {USES_MAX} are allowed", ask.uses));
    }
    if !(LIFE_S_MIN..=LIFE_S_MAX).contains(&ask.expires_s) {
        return bad(format!("expires_s is {}; {LIFE_S_MIN} to {LIFE_S_MAX} are allowed (90 days)", ask.expires_s));
    }
    Ok(())
}

impl World {
    /// A new invite. Its line is in the answer and nowhere else; whoever lost it revokes the invite and asks for another.
    ///
    /// # Errors
    /// [`Code::BadValue`], [`Code::Forbidden`], [`Code::Unavailable`].
    pub async fn invite(&self, by: Reader, ask: &InviteAsk) -> Result<InviteMade, Problem> {
        let act = act_of(ask.role, ask.device);
        let about = if ask.device { "device" } else { ask.role.name() };
        let detail = format!("uses {}, expires in {} s, approve {}", ask.uses, ask.expires_s, ask.approve);
        self.audited(act, by, about, Some(&detail), self.make_invite(by, act, ask)).await
    }

    async fn make_invite(&self, by: Reader, act: Act, ask: &InviteAsk) -> Result<InviteMade, Problem> {
        check(ask)?;
        let member = self.permitted(by, act, false).await?;
        let nobody = || Problem::new(Code::BadValue, "the operator has no devices; a member invites its own");
        let device_of = ask.device.then(|| member.ok_or_else(nobody)).transpose()?;
        let unknown = || Problem::new(Code::BadValue, "this gateway was not told its own address; name one: url");
        let url = self.enrol.gateway_url.clone().or_else(|| ask.url.clone()).ok_or_else(unknown)?;
        if url.is_empty() || url.len() > 1_024 || url.chars().any(|c| c.is_control() || c.is_whitespace()) {
            return Err(Problem::new(Code::BadValue, "url: addresses of gateways, separated by commas"));
        }
        let (secret, now) = (random_text()?, self.now());
        let new = rows::New {
            by: by.name(),
            role: ask.role,
            device_of,
            approve: ask.approve,
            uses: ask.uses,
            expires_at: now + ask.expires_s * 1000,
        };
        let info = rows::put(self.store.pool(), &secret, &new, now).await?;
        tracing::info!(invite = info.id, by = new.by, role = ask.role.name(), uses = ask.uses, approve = ask.approve, "an invite was made");
        let line = Invite { url, network: self.net, secret, ca_sha256: self.document.ca_sha256.clone() }.to_line();
        Ok(InviteMade { info, line })
    }

    /// One's own invites, or all for those who may see them.
    ///
    /// # Errors
    /// [`Code::Forbidden`], [`Code::Unavailable`].
    pub async fn invites(&self, by: Reader) -> Result<InviteList, Problem> {
        let own = match self.role_of(by).await? {
            Some((role, member)) if !may(role, Act::ListInvites, false) => Some(member.to_string()),
            Some(_) | None => None,
        };
        rows::invites(self.store.pool(), own.as_deref(), self.now()).await
    }

    /// An invite lets nobody in any more, nor those who wait by it. Who came in stays.
    ///
    /// # Errors
    /// [`Code::NotFound`], [`Code::Forbidden`], [`Code::Unavailable`].
    pub async fn revoke_invite(&self, by: Reader, id: &str) -> Result<InviteInfo, Problem> {
        self.audited(Act::RevokeInvite, by, id, None, self.end_invite(by, id)).await
    }

    async fn end_invite(&self, by: Reader, id: &str) -> Result<InviteInfo, Problem> {
        let none = || Problem::new(Code::NotFound, format!("no invite {}", shown(id)));
        let invite = rows::invite(self.store.pool(), id, self.now()).await?.ok_or_else(none)?;
        self.permitted(by, Act::RevokeInvite, invite.by == by.name()).await?;
        rows::revoke(self.store.pool(), &invite.id, self.now()).await?;
        rows::invite(self.store.pool(), id, self.now()).await?.ok_or_else(none)
    }

    /// Who waits for approval, and who was refused.
    ///
    /// # Errors
    /// [`Code::Forbidden`], [`Code::Unavailable`].
    pub async fn waiting_to_join(&self, by: Reader) -> Result<WaitingList, Problem> {
        self.permitted(by, Act::ListWaiting, false).await?;
        rows::waiting(self.store.pool(), "").await
    }

    /// Lets in one that waits, or refuses it. A later word replaces an earlier one until it has come in.
    ///
    /// # Errors
    /// [`Code::NotFound`], [`Code::Ambiguous`], [`Code::Forbidden`], [`Code::Unavailable`].
    pub async fn decide(&self, by: Reader, ask: &DecideAsk) -> Result<WaitingInfo, Problem> {
        let word = if ask.deny { "deny" } else { "approve" };
        let detail = ask.reason.as_ref().map_or_else(|| word.to_owned(), |reason| format!("{word}: {reason}"));
        self.audited(Act::DecideJoin, by, &ask.id, Some(&detail), self.decide_join(by, ask)).await
    }

    async fn decide_join(&self, by: Reader, ask: &DecideAsk) -> Result<WaitingInfo, Problem> {
        check_reason(ask.reason.as_deref())?;
        self.permitted(by, Act::DecideJoin, false).await?;
        if ask.id.len() < ID_CHARS_MIN {
            return Err(Problem::new(Code::BadValue, format!("id: at least its first {ID_CHARS_MIN} characters")));
        }
        let found = rows::waiting(self.store.pool(), &ask.id).await?.waiting;
        let [one] = <[WaitingInfo; 1]>::try_from(found).map_err(|found| match found.len() {
            0 => Problem::new(Code::NotFound, format!("nobody waits as {}", shown(&ask.id))),
            many => Problem::new(Code::Ambiguous, format!("{many} that wait begin with {}", shown(&ask.id))),
        })?;
        if one.role <= Role::Admin {
            self.permitted(by, Act::InviteAdmin, false).await?;
        }
        let state = if ask.deny { "denied" } else { "approved" };
        // Only for the keys that are there now: who changes them in between waits again.
        let done = rows::decide(self.store.pool(), &one, state, &by.name(), ask.reason.as_deref()).await?;
        if !done {
            return Err(Problem::new(Code::NotFound, format!("{} does not wait any more as it did; look again", one.id)));
        }
        tracing::info!(who = one.id, by = by.name(), state, "one that waited was decided about");
        Ok(WaitingInfo { state: state.to_owned(), by: Some(by.name()), ..one })
    }

    /// Who asks, `None` for the operator, where its role lets it.
    async fn permitted(&self, by: Reader, act: Act, own: bool) -> Result<Option<MemberId>, Problem> {
        match self.role_of(by).await? {
            None => Ok(None),
            Some((role, member)) if may(role, act, own) => Ok(Some(member)),
            Some((role, _)) => Err(Problem::new(Code::Forbidden, format!("{} of this kind is not for the role {role}", act.name()))),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_may_be_asked() {
        let good = InviteAsk { role: Role::Member, device: false, uses: 1, expires_s: 3_600, approve: false, url: None };
        assert_eq!(check(&good), Ok(()));
        for wrong in [
            InviteAsk { role: Role::Owner, ..good.clone() },
            InviteAsk { role: Role::Admin, device: true, ..good.clone() },
            InviteAsk { uses: 0, ..good.clone() },
            InviteAsk { uses: USES_MAX + 1, ..good.clone() },
            InviteAsk { expires_s: 0, ..good.clone() },
            InviteAsk { expires_s: u64::MAX, ..good.clone() },
        ] {
            assert_eq!(check(&wrong).unwrap_err().code, Code::BadValue, "{wrong:?}");
        }
        let acts = Role::ALL.map(|role| act_of(role, false));
        assert_eq!(acts, [Act::InviteAdmin, Act::InviteAdmin, Act::InviteMember, Act::InviteMember, Act::InviteGuest]);
    }
}
