//! A revoked device and a suspended member, on a whole network: the hub drops and refuses their logins, their work goes elsewhere, and they learn why.

use std::time::Instant;

use e2e::doors;
use serde_json::Value;
use testkit::{Stack, until};

/// Links of devices that the hub's nodes have, all together.
async fn links(stack: &Stack) -> Option<u64> {
    let mut all = 0;
    for node in stack.ready["nats"]["nodes"].as_array()? {
        let url = format!("{}/leafz", node["monitor_url"].as_str()?);
        let (_, links) = testkit::http::try_send("GET", &url, &[], "").await.ok()?;
        all += serde_json::from_slice::<Value>(&links).ok()?["leafnodes"].as_u64()?;
    }
    Some(all)
}

#[tokio::test]
async fn a_revoked_device_is_gone_at_once_and_a_suspended_member_until_it_is_restored() {
    let stack = Stack::start(&["--agents", "2", "--hub", "3"], &[]);
    let (device, home) = (stack.text("/devices/0/id"), stack.path("/devices/0/home"));
    assert_eq!(doors::http(&stack, &doors::echo("before"), "revoked-0").await["state"], "Completed");
    until("both links", || async { links(&stack).await.filter(|links| *links == 2) }).await;

    // Revoked: all three nodes say so, and the link is gone.
    let begun = Instant::now();
    let said = stack.cli.ok(&["node", "revoke", &device, "--reason", "stolen"]);
    let answered = begun.elapsed();
    until("its link is gone", || async { links(&stack).await.filter(|links| *links == 1) }).await;
    println!("revoked: answered after {answered:?}, no link after {:?}: {said}", begun.elapsed());
    assert_eq!(
        (said["is"].as_str(), said["hub"]["nodes"].as_u64(), said["hub"]["of"].as_u64()),
        (Some("revoked"), Some(3), Some(3)),
        "{said}"
    );
    // It is told, says so, and does not try for ever.
    until("the agent ends", || async { home.join("revoked").exists().then_some(()) }).await;
    until("its server ends", || async { (!home.join("nats.pid").exists()).then_some(()) }).await;
    let own = testkit::Cli { config_home: stack.cli.config_home.clone(), mesh_home: home.clone() };
    let refused = own.run(&["start"]);
    assert!(String::from_utf8_lossy(&refused.stderr).contains("M0405"), "{refused:?}");
    // Work goes on elsewhere; asked again, nothing changes.
    assert_eq!(doors::http(&stack, &doors::echo("after"), "revoked-1").await["state"], "Completed");
    let again = stack.cli.ok(&["node", "revoke", &device]);
    assert_eq!((again["repeat"].as_bool(), again["seq"].as_u64()), (Some(true), said["seq"].as_u64()), "{again}");

    // A member: its other device goes too, comes back once it is restored, and works.
    let member = stack.text("/devices/1/member");
    let said = stack.cli.ok(&["network", "members", "suspend", &member, "--reason", "a test"]);
    assert_eq!((said["is"].as_str(), said["hub"]["nodes"].as_u64()), (Some("suspended"), Some(3)), "{said}");
    until("no link is left", || async { links(&stack).await.filter(|links| *links == 0) }).await;
    let restored = stack.cli.ok(&["network", "members", "restore", &member]);
    assert_eq!(restored["is"], "restored", "{restored}");
    until("its device is back", || async { links(&stack).await.filter(|links| *links == 1) }).await;
    assert_eq!(doors::http(&stack, &doors::echo("back"), "revoked-2").await["state"], "Completed");

    let log = stack.cli.ok(&["network", "audit"]);
    let did: Vec<&str> = log["entries"].as_array().unwrap().iter().filter_map(|entry| entry["did"].as_str()).collect();
    assert_eq!(did, ["member.restore", "member.suspend", "device.revoke", "device.revoke"], "{log}");
}

#[tokio::test]
async fn one_line_lets_a_device_in_once_an_admin_says_so() {
    let stack = Stack::start(&["--agents", "1"], &[]);
    let folder = tempfile::tempdir().unwrap();
    let machine = |name: &str| testkit::Cli {
        config_home: folder.path().join(name).join("config"),
        mesh_home: folder.path().join(name).join("home"),
    };
    let line = |args: &[&str]| {
        let made = stack.cli.ok(&[&["network", "invite"], args].concat());
        (made["line"].as_str().unwrap().to_owned(), made["id"].as_str().unwrap().to_owned())
    };
    let code = |cli: &testkit::Cli, args: &[&str]| cli.json(args).1["code"].as_str().unwrap_or("none").to_owned();

    // It waits, says what an admin types, and `mesh start` goes on by itself once that is done.
    let (approved, _) = line(&["--approve"]);
    let laptop = machine("laptop");
    let waits = laptop.ok(&["init", "--join", &approved, "--name", "laptop"]);
    assert_eq!(waits["waiting"], true, "{waits}");
    let again = laptop.ok(&["init"]);
    assert_eq!(again["approve"], waits["approve"], "{again}");
    let mut agent = laptop.command(&["start"]).stdout(std::process::Stdio::null()).stderr(std::process::Stdio::null()).spawn().unwrap();
    let listed = stack.cli.ok(&["network", "approvals", "ls"]);
    assert_eq!(
        (listed["waiting"][0]["id"].as_str(), listed["waiting"][0]["name"].as_str()),
        (waits["device"]["id"].as_str(), Some("laptop")),
        "{listed}"
    );
    let approve: Vec<&str> = waits["approve"].as_str().unwrap().split(' ').skip(1).collect();
    assert_eq!(stack.cli.ok(&approve)["state"], "approved");
    let idle = until("it is idle and offers", || async {
        let (code, status) = laptop.json(&["status"]);
        (code == 0 && status["device"]["link"]["up"] == true && status["device"]["not_working"].is_null()).then_some(status)
    });
    println!("joined: {}", idle.await["device"]["name"]);
    assert!(!laptop.mesh_home.join("pending.json").exists());
    laptop.ok(&["stop"]);
    agent.wait().unwrap();

    // Used, revoked, denied, altered: refused, each with its code.
    assert_eq!(code(&machine("second"), &["init", "--join", &approved]), "M0403");
    let (revoked, id) = line(&[]);
    stack.cli.ok(&["network", "invites", "revoke", &id]);
    assert_eq!(code(&machine("third"), &["init", "--join", &revoked]), "M0403");
    assert_eq!(code(&machine("third"), &["init", "--join", &revoked[..revoked.len() - 9]]), "M0403");
    let (asked, _) = line(&["--approve"]);
    let fourth = machine("fourth");
    let waits = fourth.ok(&["init", "--join", &asked]);
    stack.cli.ok(&["network", "deny", waits["device"]["id"].as_str().unwrap(), "--reason", "unknown"]);
    assert_eq!(code(&fourth, &["init"]), "M0408");

    // A guest brings no device, and asks as itself.
    let (guests, _) = line(&["--role", "guest"]);
    let guest = machine("guest");
    assert_eq!(code(&guest, &["init", "--join", &guests]), "M0402");
    let joined = guest.ok(&["init", "--join", &guests, "--no-device"]);
    assert!(joined["member"]["id"].is_string(), "{joined}");
    guest.ok(&["credit", "balance"]);
    assert_eq!(code(&guest, &["network", "invite"]), "M0402");
    // A member's other machine comes in with the member's key, and nobody else does.
    let (own, _) = {
        let made = laptop.ok(&["network", "invite", "--device"]);
        (made["line"].as_str().unwrap().to_owned(), ())
    };
    assert_eq!(code(&machine("stranger"), &["init", "--join", &own]), "M0403");
    let key = laptop.mesh_home.join("keys/member.key");
    let desktop = machine("desktop").ok(&["init", "--join", &own, "--name", "desktop", "--member-key", key.to_str().unwrap()]);
    assert_eq!(desktop["member"]["id"], listed["waiting"][0]["member"], "{desktop}");
    let log = stack.cli.ok(&["network", "audit", "--limit", "200"]).to_string();
    for did in ["network.invite", "invite.revoke", "network.decide"] {
        assert!(log.contains(did), "{did}: {log}");
    }
}
