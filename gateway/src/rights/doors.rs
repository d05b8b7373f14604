//! Every door and which role may go through it: one table, of the service's calls and the HTTP routes. A door without a row fails a test here,
//! and each pair of role and door is tried on a running gateway (`gateway/tests/letters.rs`).

use bus_schemas::network::Role;

/// What a role gets behind a door.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Gets {
    /// All that is there for any member, or what is others' as well.
    All,
    /// What is its own.
    Own,
    /// Nothing: [`bus_schemas::Code::Forbidden`].
    Nothing,
}

/// A call of the service, its HTTP routes below `/api/v1`, and what each role gets: owner, admin, auditor, member, guest; `y` all, `o` its own,
/// `-` nothing. A call that only the network key's signature opens, or only a key's proof of possession, asks for no role: `s`.
pub const DOORS: [(&str, &[&str], &str); 43] = [
    ("job.submit", &["POST /jobs"], "ooooo"),
    ("job.ls", &["GET /jobs"], "ooooo"),
    ("job.show", &["GET /jobs/{id}"], "ooooo"),
    ("job.result", &["GET /jobs/{id}/result"], "ooooo"),
    ("job.explain", &["GET /jobs/{id}/explain"], "ooooo"),
    ("job.receipt", &["GET /jobs/{id}/receipt"], "ooooo"),
    ("job.cancel", &["POST /jobs/{id}/cancel"], "ooooo"),
    ("job.retry", &["POST /jobs/{id}/retry"], "ooooo"),
    ("dlq.ls", &["GET /dlq"], "ooooo"),
    ("dlq.show", &["GET /dlq/{id}"], "ooooo"),
    ("dlq.retry", &["POST /dlq/{id}/retry"], "ooooo"),
    ("dlq.drop", &["DELETE /dlq/{id}"], "sssss"),
    ("operator.order", &["POST /operator/orders"], "sssss"),
    ("device.ls", &["GET /devices"], "yyyyy"),
    ("device.show", &["GET /devices/{id}"], "yyyyy"),
    ("device.drain", &["POST /devices/{id}/drain"], "ooooo"),
    ("device.revoke", &[], "yyooo"),
    ("member.ls", &[], "yyy--"),
    ("member.suspend", &[], "yy---"),
    ("member.restore", &[], "yy---"),
    ("member.role", &[], "yy---"),
    ("network.audit", &[], "yyy--"),
    // A role below one's own, or a device of one's own.
    ("network.invite", &["POST /invites"], "yyoo-"),
    ("invite.ls", &["GET /invites"], "yyyoo"),
    ("invite.revoke", &["DELETE /invites/{id}"], "yyooo"),
    ("network.waiting", &["GET /waiting"], "yyy--"),
    ("network.decide", &["POST /waiting/{id}"], "yy---"),
    ("credit.balance", &["GET /balance", "GET /credit/balance"], "ooooo"),
    ("credit.history", &["GET /credit/history"], "ooooo"),
    ("credit.transfer", &["POST /credit/transfer"], "oooo-"),
    ("ledger.facts", &["GET /ledger/facts"], "yyyyy"),
    ("ledger.balances", &["GET /ledger/balances"], "ooooo"),
    ("ledger.checkpoints", &["GET /ledger/checkpoints"], "yyyyy"),
    ("ledger.proof", &["GET /ledger/proof/{id}"], "ooooo"),
    ("ledger.consistency", &["GET /ledger/consistency"], "yyyyy"),
    ("ledger.ask", &["POST /ledger/commands"], "sssss"),
    ("network.policy", &["GET /network/policy"], "yyyyy"),
    ("network.show", &["GET /network"], "yyyyy"),
    ("blob.put", &["POST /blobs"], "ooooo"),
    ("blob.commit", &[], "ooooo"),
    ("blob.get", &["GET /blobs/{cid}"], "ooooo"),
    ("cred.renew", &["POST /enrol/renew"], "sssss"),
    // No call: who joins has no login yet; an invite's secret opens it.
    ("", &["POST /enrol"], "sssss"),
];

/// What a role gets behind a call's door; nothing where there is no such door. `None`: it asks for no role.
pub fn gets(call: &str, role: Role) -> Option<Gets> {
    let Some((.., row)) = DOORS.iter().find(|(name, ..)| *name == call) else { return Some(Gets::Nothing) };
    let place = Role::ALL.iter().position(|one| *one == role)?;
    match row.as_bytes().get(place) {
        Some(b'y') => Some(Gets::All),
        Some(b'o') => Some(Gets::Own),
        Some(b's') => None,
        Some(_) | None => Some(Gets::Nothing),
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::super::{Act, may};
    use super::*;

    #[test]
    fn each_door_has_a_row_and_each_row_a_door() {
        let rows: BTreeSet<&str> = DOORS.iter().map(|(call, ..)| *call).filter(|call| !call.is_empty()).collect();
        let calls: BTreeSet<&str> = crate::service::CALLS.iter().map(|(call, _)| *call).collect();
        assert_eq!(rows, calls, "the service's calls");
        let listed: BTreeSet<String> = DOORS.iter().flat_map(|(_, routes, _)| routes.iter().map(|route| (*route).to_owned())).collect();
        assert_eq!(listed, routes(include_str!("../routes/mod.rs")), "the HTTP routes");
        for (call, _, row) in DOORS {
            assert!(row.len() == Role::ALL.len() && row.bytes().all(|one| b"yo-s".contains(&one)), "{call}: {row}");
        }
    }

    /// `GET /jobs` of `.route("/jobs", post(jobs::submit).get(jobs::list))`, and all others.
    fn routes(source: &str) -> BTreeSet<String> {
        let lines = source.lines().filter_map(|line| line.trim().strip_prefix(".route(\""));
        let found = lines.flat_map(|line| {
            let (path, rest) = line.split_once('"').unwrap();
            let methods = ["get", "post", "put", "delete", "patch", "any"];
            let of = methods.into_iter().filter(move |method| [' ', '.'].iter().any(|before| rest.contains(&format!("{before}{method}("))));
            of.map(move |method| format!("{} {path}", method.to_uppercase()))
        });
        found.collect()
    }

    #[test]
    fn the_rows_say_what_the_acts_are_decided_by() {
        let acts = [
            ("device.revoke", Act::RevokeDevice),
            ("member.ls", Act::ListMembers),
            ("member.suspend", Act::SuspendMember),
            ("member.restore", Act::RestoreMember),
            ("member.role", Act::GiveRole),
            ("network.audit", Act::ReadAudit),
            ("invite.ls", Act::ListInvites),
            ("invite.revoke", Act::RevokeInvite),
            ("network.waiting", Act::ListWaiting),
            ("network.decide", Act::DecideJoin),
        ];
        for (call, act) in acts {
            for role in Role::ALL {
                let expected = match (may(role, act, false), may(role, act, true)) {
                    (true, _) => Gets::All,
                    (false, true) => Gets::Own,
                    (false, false) => Gets::Nothing,
                };
                assert_eq!(gets(call, role), Some(expected), "{call} {role}");
            }
        }
        assert_eq!(gets("no.such", Role::Owner), Some(Gets::Nothing));
    }
}
