//! Invites and approvals at the doors of a real gateway: which role gets what, and a joiner from the line to the token.

use bus_schemas::api::people::InviteAsk;
use bus_schemas::network::Invite;
use bus_schemas::network::Role;
use bus_schemas::order::{Order, What};
use serde_json::{Value, json};

use super::desk::{Desk, Guest, Joining};

impl Guest {
    /// The code of a refusal, `None` of an answer.
    async fn refused(&self, call: &str, ask: &Value) -> Option<String> {
        self.ask_json(call, ask.to_string()).await["code"].as_str().map(str::to_owned)
    }
}

async fn order(desk: &Desk, what: What) -> Value {
    let key = bus::keys::read_key_file(&desk.hub.dir.key("network")).unwrap();
    let order = Order { net: desk.hub.document().network, at: bus::hub_time::here_ms(), what };
    let batch = key.batch(&[order]).encode();
    testkit::http::send("POST", &format!("{}/api/v1/operator/orders", desk.api), &[], batch).await.1
}

fn ask(role: &str, approve: bool) -> Value {
    json!({"role": role, "uses": 1, "expires_s": 3600, "approve": approve, "url": "http://127.0.0.1:1"})
}

#[tokio::test]
async fn who_may_invite_whom_and_what_becomes_of_it() {
    let desk = Desk::new(10).await;
    let program = desk.open(&[]).await;
    let (member, admin) = (desk.guest(1).await, desk.guest(2).await);
    let given = order(&desk, What::Role(bus_schemas::api::ask::SetRole { id: admin.id.to_string(), role: Role::Admin })).await;
    assert_eq!(given["members"][0]["role"], "admin", "{given}");

    // Below one's own role; the operator may all; nobody invites an owner.
    for (who, role, wanted) in [
        (&member, "guest", None),
        (&member, "member", Some("M0402")),
        (&member, "auditor", Some("M0402")),
        (&member, "admin", Some("M0402")),
        (&admin, "guest", None),
        (&admin, "member", None),
        (&admin, "auditor", None),
        (&admin, "admin", Some("M0402")),
        (&admin, "owner", Some("M0116")),
    ] {
        assert_eq!(who.refused("network.invite", &ask(role, false)).await.as_deref(), wanted, "{role} by {}", who.id);
    }
    let by_operator =
        InviteAsk { role: Role::Admin, device: false, uses: 1, expires_s: 3_600, approve: true, url: Some("http://127.0.0.1:1".into()) };
    let made = order(&desk, What::Invite(by_operator.clone())).await;
    assert_eq!((&made["role"], &made["by"], &made["state"]), (&json!("admin"), &json!("operator"), &json!("open")), "{made}");
    let own_device = order(&desk, What::Invite(InviteAsk { device: true, role: Role::Member, ..by_operator })).await;
    assert_eq!(own_device["code"], "M0116", "{own_device}");
    for call in ["network.waiting", "network.audit"] {
        assert_eq!(member.refused(call, &json!({})).await.as_deref(), Some("M0402"), "{call}");
    }
    let (status, refused) = member.http(&desk, "POST", "/invites", &[], r#"{"role":"guest"}"#).await;
    assert!(status == 400 && refused["next"][0].as_str().unwrap().starts_with("POST /api/v1/invites"), "{refused}");

    // A member sees its own, an admin all; another's is not its to end.
    let own = member.ask_json("invite.ls", "").await;
    assert_eq!(own["invites"].as_array().unwrap().len(), 1, "{own}");
    let (_, all) = admin.get(&desk, "/invites").await;
    assert!(all["invites"].as_array().unwrap().len() > 4 && !all.to_string().contains(super::desk::SECRET), "{all}");
    let others = json!({"id": made["id"]});
    assert_eq!(member.refused("invite.revoke", &others).await.as_deref(), Some("M0402"));
    let (status, ended) = member.http(&desk, "DELETE", &format!("/invites/{}", own["invites"][0]["id"].as_str().unwrap()), &[], "").await;
    assert_eq!((status, &ended["state"]), (200, &json!("revoked")), "{ended}");

    // An admin's invite with approval: what waits for the role of an admin is not an admin's to approve.
    let line = Invite::parse(made["line"].as_str().unwrap()).unwrap();
    let joiner = Joining::new(7, &line.secret);
    let (status, waits) = joiner.ask(&desk).await;
    assert!(status == 403 && waits["code"] == "M0407", "{waits}");
    let id = joiner.id.to_string();
    let (_, listed) = admin.get(&desk, "/waiting").await;
    assert_eq!((&listed["waiting"][0]["id"], &listed["waiting"][0]["role"]), (&json!(id), &json!("admin")), "{listed}");
    assert_eq!(member.refused("network.decide", &json!({"id": id})).await.as_deref(), Some("M0402"));
    assert_eq!(admin.refused("network.decide", &json!({"id": id})).await.as_deref(), Some("M0402"));
    assert_eq!(admin.refused("network.decide", &json!({"id": "mem_"})).await.as_deref(), Some("M0116"));
    let decide = |deny| bus_schemas::api::people::DecideAsk { id: id[..12].to_owned(), deny, reason: None };
    let approved = order(&desk, What::Decide(decide(false))).await;
    assert_eq!((&approved["state"], &approved["by"]), (&json!("approved"), &json!("operator")), "{approved}");

    // The gateway dies with the yes; the next one knows it. The same keys twice are one enrolment.
    drop(program);
    let program = desk.open(&[]).await;
    let (status, first) = joiner.ask(&desk).await;
    assert_eq!((status, &first["member"]), (200, &json!(id)), "{first}");
    let (status, again) = joiner.ask(&desk).await;
    assert_eq!((status, &again["member"]), (200, &json!(id)), "{again}");
    let late = order(&desk, What::Decide(decide(true))).await;
    assert_eq!(late["code"], "M0513", "{late}");

    let (_, members) = (0, admin.ask_json("member.ls", "").await);
    let joined = members["members"].as_array().unwrap().iter().find(|one| one["id"] == id).unwrap();
    assert_eq!(joined["role"], "admin", "{members}");
    let log = admin.ask_json("network.audit", r#"{"limit":200}"#).await.to_string();
    for did in ["network.invite", "invite.revoke", "network.decide"] {
        assert!(log.contains(did), "{did}: {log}");
    }
    assert!(!log.contains(&line.secret) && !desk.log().contains(&line.secret), "the secret is told once");
    assert!(program.stop(), "{}", desk.log());
}
