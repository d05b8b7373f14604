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
