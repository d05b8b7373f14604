//! Which role may do what to others. One table; who asks is proved before it, by a subject, a token or the network key's signature.

pub mod doors;

use bus_schemas::network::Role;

/// What somebody does to what may be another's.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Act {
    RevokeDevice,
    SuspendMember,
    RestoreMember,
    ListMembers,
    /// To appoint or dismiss an owner or an admin.
    AppointAdmin,
    /// To give any other role.
    GiveRole,
    ReadAudit,
    /// To let in another device of one's own.
    InviteDevice,
    InviteGuest,
    /// To let in members and auditors.
    InviteMember,
    InviteAdmin,
    /// Own: those that one made.
    ListInvites,
    RevokeInvite,
    /// To see who waits for approval.
    ListWaiting,
    /// To let in, or refuse, one that waits; for an admin's invite, [`Self::InviteAdmin`] beside it.
    DecideJoin,
}
impl Act {
    pub const ALL: [Self; 15] = [
        Self::RevokeDevice,
        Self::SuspendMember,
        Self::RestoreMember,
        Self::ListMembers,
        Self::AppointAdmin,
        Self::GiveRole,
        Self::ReadAudit,
        Self::InviteDevice,
        Self::InviteGuest,
        Self::InviteMember,
        Self::InviteAdmin,
        Self::ListInvites,
        Self::RevokeInvite,
        Self::ListWaiting,
        Self::DecideJoin,
    ];
    /// As the audit log has it.
    pub const fn name(self) -> &'static str {
        match self {
            Self::RevokeDevice => "device.revoke",
            Self::SuspendMember => "member.suspend",
            Self::RestoreMember => "member.restore",
            Self::ListMembers => "member.ls",
            Self::AppointAdmin | Self::GiveRole => "member.role",
            Self::ReadAudit => "network.audit",
            Self::InviteDevice | Self::InviteGuest | Self::InviteMember | Self::InviteAdmin => "network.invite",
            Self::ListInvites => "invite.ls",
            Self::RevokeInvite => "invite.revoke",
            Self::ListWaiting => "network.waiting",
            Self::DecideJoin => "network.decide",
        }
    }
}

/// Whether `role` may; `own`: it is about the asker's own device, or the asker.
pub const fn may(role: Role, act: Act, own: bool) -> bool {
    match (act, role) {
        (Act::RevokeDevice, Role::Auditor | Role::Member | Role::Guest) => own,
        // Nobody takes a right from himself by mistake.
        (Act::SuspendMember | Act::RestoreMember | Act::GiveRole, Role::Owner | Role::Admin) => !own,
        (Act::AppointAdmin, Role::Owner) => !own,
        (Act::RevokeDevice, Role::Owner | Role::Admin) => true,
        (Act::ListMembers | Act::ReadAudit, Role::Owner | Role::Admin | Role::Auditor) => true,
        (Act::SuspendMember | Act::RestoreMember | Act::GiveRole, Role::Auditor | Role::Member | Role::Guest)
        | (Act::AppointAdmin, Role::Admin | Role::Auditor | Role::Member | Role::Guest)
        | (Act::ListMembers | Act::ReadAudit, Role::Member | Role::Guest) => false,
        // Another device of one's own does not change who is here; a guest brings none.
        (Act::InviteDevice, Role::Owner | Role::Admin | Role::Auditor | Role::Member) => true,
        (Act::InviteGuest, Role::Owner | Role::Admin | Role::Member) => true,
        // A role below one's own.
        (Act::InviteMember | Act::DecideJoin, Role::Owner | Role::Admin) | (Act::InviteAdmin, Role::Owner) => true,
        (Act::ListInvites | Act::ListWaiting, Role::Owner | Role::Admin | Role::Auditor) => true,
        (Act::RevokeInvite, Role::Owner | Role::Admin) => true,
        (Act::ListInvites, Role::Member | Role::Guest) | (Act::RevokeInvite, Role::Auditor | Role::Member | Role::Guest) => own,
        (Act::InviteDevice, Role::Guest)
        | (Act::InviteGuest, Role::Auditor | Role::Guest)
        | (Act::InviteMember | Act::DecideJoin, Role::Auditor | Role::Member | Role::Guest)
        | (Act::InviteAdmin, Role::Admin | Role::Auditor | Role::Member | Role::Guest)
        | (Act::ListWaiting, Role::Member | Role::Guest) => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_table() {
        // owner, admin, auditor, member, guest; first about others, then about oneself.
        let rows = [
            (Act::RevokeDevice, "yy---", "yyyyy"),
            (Act::SuspendMember, "yy---", "-----"),
            (Act::RestoreMember, "yy---", "-----"),
            (Act::ListMembers, "yyy--", "yyy--"),
            (Act::AppointAdmin, "y----", "-----"),
            (Act::GiveRole, "yy---", "-----"),
            (Act::ReadAudit, "yyy--", "yyy--"),
            (Act::InviteDevice, "yyyy-", "yyyy-"),
            (Act::InviteGuest, "yy-y-", "yy-y-"),
            (Act::InviteMember, "yy---", "yy---"),
            (Act::InviteAdmin, "y----", "y----"),
            (Act::ListInvites, "yyy--", "yyyyy"),
            (Act::RevokeInvite, "yy---", "yyyyy"),
            (Act::ListWaiting, "yyy--", "yyy--"),
            (Act::DecideJoin, "yy---", "yy---"),
        ];
        assert_eq!(rows.map(|(act, ..)| act), Act::ALL);
        for (act, others, own) in rows {
            let told = |own| Role::ALL.map(|role| if may(role, act, own) { 'y' } else { '-' }).iter().collect::<String>();
            assert_eq!((told(false).as_str(), told(true).as_str()), (others, own), "{act:?}");
        }
    }
}
