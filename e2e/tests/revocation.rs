//! A revoked device and a suspended member, on a whole network: the hub drops and refuses their logins, their work goes elsewhere, and they learn why.

use std::time::Instant;

use bus_schemas::api::ask;
use bus_schemas::order::{Order, What};
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
    let said = stack.cli.ok(&["network", "members", "suspend", &member, "--now", "--reason", "a test"]);
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

/// The command line of the machine that a device runs on.
fn owner(stack: &Stack, device: &Value) -> testkit::Cli {
    testkit::Cli { mesh_home: device["home"].as_str().expect("its home").into(), ..stack.cli.clone() }
}

/// A job, once it is on a device: which.
async fn device_of(stack: &Stack, job: &str) -> String {
    until("its device", || async {
        let (_, shown) = doors::get(stack, &format!("/jobs/{job}")).await;
        shown["device"].as_str().filter(|device| !device.is_empty()).map(str::to_owned)
    })
    .await
}

#[tokio::test]
async fn work_of_a_revoked_device_goes_on_elsewhere_and_one_that_was_away_learns_it_when_it_is_back() {
    let stack = Stack::start(&["--agents", "3"], &[]);
    let paid = doors::http(&stack, &doors::echo("before"), "moves-0").await;
    let file = stack.folder().join("texts.txt");
    std::fs::write(&file, (0..10_000).map(|n| format!("{n}: {}\n", "boats and trees, ".repeat(30))).collect::<String>()).expect("a file");
    let words = ["job", "submit", "embed", "--file", file.to_str().expect("a path"), "--max-mana", "1000", "--run-timeout", "60m"];
    let job = stack.cli.ok(&words)["id"].as_str().expect("an id").to_owned();

    // Revoked at work: the job is on another device, and nothing that was paid is taken back.
    let first = device_of(&stack, &job).await;
    let begun = Instant::now();
    let said = stack.cli.ok_async(&["node", "revoke", &first, "--reason", "stolen at work"]).await;
    assert_eq!(said["is"], "revoked", "{said}");
    let second = until("another device has it", || async { Some(device_of(&stack, &job).await).filter(|device| *device != first) }).await;
    println!("revoked at work: on another device after {:?}", begun.elapsed());
    until("one link fewer", || async { links(&stack).await.filter(|links| *links == 2) }).await;
    let (status, receipt) = doors::get(&stack, &format!("/jobs/{}/receipt", paid["id"].as_str().expect("an id"))).await;
    assert_eq!((status, receipt["job"].as_str()), (200, paid["id"].as_str()), "{receipt}");
    stack.cli.ok_async(&["credit", "verify"]).await;

    // Revoked while it is away: it is told when it is back, says so with a code, and stops.
    let devices = stack.ready["devices"].as_array().expect("devices");
    let third = devices.iter().find(|one| one["id"] != first.as_str() && one["id"] != second.as_str()).expect("the third");
    let cli = owner(&stack, third);
    cli.ok_async(&["stop"]).await;
    until("it is away", || async { links(&stack).await.filter(|links| *links == 1) }).await;
    stack.cli.ok_async(&["node", "revoke", third["id"].as_str().expect("an id")]).await;
    let mut refused = cli.run(&["start"]);
    // A login that was not due at its start is refused by the hub, and asked for anew: then it is told.
    assert!(!refused.status.success(), "{refused:?}");
    assert!(String::from_utf8_lossy(&refused.stderr).contains("M0405"), "{refused:?}");
    refused = cli.run(&["start"]);
    assert!(String::from_utf8_lossy(&refused.stderr).contains("M0405"), "{refused:?}");
    assert_eq!(links(&stack).await, Some(1));
    stack.cli.ok_async(&["job", "cancel", &job]).await;
}

/// Asks as the operator, over HTTP: whoever is suspended loses the login that the command line would ask with.
async fn order(stack: &Stack, what: What) -> Value {
    let folder = stack.path("/data_dir").join("network");
    let key = bus::keys::read_key_file(&folder.join("keys/network.key")).expect("the network's key");
    let net = bus::keys::read_network(&folder.join("network.json")).expect("its document").network;
    let body = key.batch(&[Order { net, at: bus::hub_time::here_ms(), what }]).encode();
    testkit::http::send("POST", &stack.api("/api/v1/operator/orders"), &[], body).await.1
}

async fn shown(stack: &Stack, job: &str) -> Value {
    doors::get(stack, &format!("/jobs/{job}")).await.1
}

#[tokio::test]
async fn what_was_accepted_before_a_suspension_ends_and_nothing_new_enters() {
    let stack = Stack::start(&["--agents", "1"], &[]);
    let bar = |pointer: &str| ask::Bar { id: stack.text(pointer), reason: Some("left".into()), now: false };
    let file = stack.folder().join("texts.txt");
    std::fs::write(&file, (0..300).map(|n| format!("{n}: {}\n", "boats and trees, ".repeat(30))).collect::<String>()).expect("a file");
    let words = ["job", "submit", "embed", "--file", file.to_str().expect("a path"), "--max-mana", "1000"];
    let id = |answer: &Value| answer["id"].as_str().expect("an id").to_owned();

    // Who submits.
    let accepted = id(&stack.cli.ok(&words));
    device_of(&stack, &accepted).await;
    // Nobody can take this one.
    let (_, waits) = doors::post(&stack, r#"{"kind":"echo","text":"never","required_capabilities":["moon"]}"#, Some("waits")).await;
    let waits = id(&waits);
    until("it waits for a device", || async {
        shown(&stack, &waits).await["waiting"].as_str().filter(|why| !why.starts_with("it is stored")).map(|_| ())
    })
    .await;
    let said = order(&stack, What::Suspend(bar("/member/id"))).await;
    assert_eq!((said["is"].as_str(), said["hub"]["nodes"].as_u64()), (Some("suspended"), Some(1)), "{said}");
    let (status, refused) = doors::post(&stack, &doors::echo("more").to_string(), Some("more")).await;
    assert!(status == 403 && refused["code"] == "M0406", "{status} {refused}");
    let restored = order(&stack, What::Restore(bar("/member/id"))).await;
    assert_eq!(restored["is"], "restored", "{restored}");
    doors::result_of(&stack, &accepted).await;
    until("what nobody had has ended", || async { (shown(&stack, &waits).await["state"] == "Cancelled").then_some(()) }).await;

    // Whose device it is.
    let (_, accepted) = doors::post(
        &stack,
        &serde_json::json!({"kind": "embed", "text": vec!["boats and trees"; 300], "cost_mana": 1_000}).to_string(),
        Some("long"),
    )
    .await;
    let accepted = id(&accepted);
    device_of(&stack, &accepted).await;
    let said = order(&stack, What::Suspend(bar("/devices/0/member"))).await;
    assert_eq!((said["is"].as_str(), said["logins"].as_u64()), (Some("suspended"), Some(0)), "{said}");
    let (_, later) = doors::post(&stack, &doors::echo("later").to_string(), Some("later")).await;
    let later = id(&later);
    doors::result_of(&stack, &accepted).await;
    let why = until("it waits for the suspended member's device", || async {
        shown(&stack, &later).await["waiting"].as_str().filter(|why| !why.starts_with("it is stored")).map(str::to_owned)
    })
    .await;
    println!("while the only device's member is suspended: {why}");
    assert_eq!(links(&stack).await, Some(1), "its device is still linked");
    order(&stack, What::Restore(bar("/devices/0/member"))).await;
    doors::result_of(&stack, &later).await;
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
        let output = laptop.run(&["status", "-o", "json"]);
        let status: Value = serde_json::from_slice(&output.stdout).ok().filter(|_| output.status.success())?;
        (status["device"]["link"]["up"] == true && status["device"]["not_working"].is_null()).then_some(status)
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
