//! The three accounts and what crosses between them.
//!
//! CONTROL holds streams and workers; EDGE holds devices and members and has no JetStream; SYS is the server's own. A subject that
//! is not named here crosses nowhere. Which form each has is no taste: in any other, answers get lost without an error.

use super::roles::{AUDITOR, DEVICE, EdgeRole, MEMBER};
use crate::jwt::{Account, Crossing, Export, Import, ScopedKey};

/// Subject, form, response type, and the subject it has in EDGE where that differs.
struct Crossed {
    name: &'static str,
    subject: &'static str,
    crossing: Crossing,
    response: Option<&'static str>,
    in_edge: Option<&'static str>,
}
const fn service(name: &'static str, subject: &'static str) -> Crossed {
    Crossed { name, subject, crossing: Crossing::Service, response: None, in_edge: None }
}
const fn stream(name: &'static str, subject: &'static str) -> Crossed {
    Crossed { name, subject, crossing: Crossing::Stream, response: None, in_edge: None }
}

/// Exported by CONTROL, imported by EDGE.
const TO_EDGE: [Crossed; 9] = [
    // What devices and members send; a service, so that the PubAck comes back.
    service("dev", "mesh.v1.dev.>"),
    service("submit", "mesh.v1.submit.*"),
    service("api", "mesh.v1.api.>"),
    // What they hear.
    stream("bcast", "mesh.v1.bcast.>"),
    stream("watch", "mesh.v1.watch.*.*.*"),
    stream("offer", "mesh.v1.offer.*"),
    // LEDGER for auditors, under a prefix of its own.
    Crossed { in_edge: Some("mesh.v1.audit.STREAM.INFO.LEDGER"), ..service("audit-info", "$JS.API.STREAM.INFO.LEDGER") },
    Crossed {
        in_edge: Some("mesh.v1.audit.DIRECT.GET.LEDGER"),
        response: Some("Stream"),
        ..service("audit-get", "$JS.API.DIRECT.GET.LEDGER")
    },
    Crossed { in_edge: Some("mesh.v1.audit.STREAM.MSG.GET.LEDGER"), ..service("audit-msg", "$JS.API.STREAM.MSG.GET.LEDGER") },
];
/// Exported by EDGE, imported by CONTROL: one answer each.
const TO_CONTROL: Crossed = Crossed { response: Some("Singleton"), ..service("ctl", "mesh.v1.ctl.*.*") };

fn export(crossed: &Crossed) -> Export {
    Export {
        name: crossed.name.to_owned(),
        subject: crossed.subject.to_owned(),
        crossing: crossed.crossing,
        response_type: crossed.response.map(str::to_owned),
        account_token_position: None,
    }
}
fn import(crossed: &Crossed, from: &str) -> Import {
    Import {
        name: crossed.name.to_owned(),
        subject: crossed.subject.to_owned(),
        account: from.to_owned(),
        local_subject: crossed.in_edge.map(str::to_owned),
        crossing: crossed.crossing,
    }
}

/// Public keys that sign users of EDGE, one per role.
pub struct RoleKeys {
    pub device: String,
    pub member: String,
    pub auditor: String,
}

pub fn control(edge: &str) -> Account {
    Account { exports: TO_EDGE.iter().map(export).collect(), imports: vec![import(&TO_CONTROL, edge)], ..Account::new(true) }
}

pub fn edge(control: &str, roles: &RoleKeys) -> Account {
    let scoped = |role: &EdgeRole, key: &str| ScopedKey {
        kind: "user_scope".into(),
        key: key.to_owned(),
        role: role.name.into(),
        template: role.template(),
    };
    Account {
        exports: vec![export(&TO_CONTROL)],
        imports: TO_EDGE.iter().map(|crossed| import(crossed, control)).collect(),
        signing_keys: vec![scoped(&DEVICE, &roles.device), scoped(&MEMBER, &roles.member), scoped(&AUDITOR, &roles.auditor)],
        ..Account::new(false)
    }
}

pub fn sys() -> Account {
    let monitoring = |name: &str, subject: &str, crossing, response: Option<&str>, position| Export {
        name: name.into(),
        subject: subject.into(),
        crossing,
        response_type: response.map(str::to_owned),
        account_token_position: Some(position),
    };
    Account {
        exports: vec![
            monitoring("account-monitoring-streams", "$SYS.ACCOUNT.*.>", Crossing::Stream, None, 3),
            monitoring("account-monitoring-services", "$SYS.REQ.ACCOUNT.*.*", Crossing::Service, Some("Stream"), 4),
        ],
        ..Account::new(false)
    }
}
