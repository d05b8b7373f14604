//! `mesh dev` as a command: ports, deaths, and what it leaves behind.

use e2e::doors;
use testkit::{Stack, proc, until};

#[tokio::test]
async fn what_dies_is_restarted_or_reported() {
    let mut stack = Stack::start(&["--agents", "1"], &[]);
    for role in ["gateway", "scheduler", "ledger"] {
        proc::signal(stack.pids(role)[0], "KILL");
        until(&format!("the restart of the {role}"), || async {
            stack.events().iter().any(|event| event["event"] == "restarted" && event["role"] == role).then_some(())
        })
        .await;
    }
    until("a ready gateway", || async {
        // Until it listens again a connection is refused.
        let (status, _) = testkit::http::try_send("GET", &stack.api("/readyz"), &[], "").await.ok()?;
        (status == 200).then_some(())
    })
    .await;
    doors::http(&stack, &doors::echo("after the restarts"), "after").await;

    let (agent, leaf) = (stack.pids("agent")[0], stack.pids("leaf")[0]);
    proc::signal(agent, "KILL");
    until("the report of the dead agent", || async {
        stack.events().iter().any(|event| event["role"] == "agent" && event["event"] == "exited").then_some(())
    })
    .await;
    until("the end of its orphaned nats-server", || async { (!proc::runs(leaf)).then_some(()) }).await;
    stack.stop();
}

#[tokio::test]
async fn a_taken_port_is_named_with_its_flag() {
    let taken = std::net::TcpListener::bind("127.0.0.1:0").expect("a port");
    let port = taken.local_addr().expect("an address").port();
    let folder = testkit_folder();
    let output = tokio::task::spawn_blocking(move || {
        std::process::Command::new(proc::bin_dir().join("mesh"))
            .args(["dev", "--gateway-port", &port.to_string(), "-o", "json"])
            .env("MESH_CONFIG_HOME", &folder)
            .stdin(std::process::Stdio::null())
            .output()
            .map(|output| (output, port, folder))
    })
    .await
    .expect("a wait")
    .expect("mesh dev starts");
    let (output, port, folder) = output;
    let text = format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    assert!(!output.status.success());
    assert!(text.contains("M0204") && text.contains(&port.to_string()) && text.contains("--gateway-port"), "{text}");
    let _ = std::fs::remove_dir_all(folder);
}

fn testkit_folder() -> std::path::PathBuf {
    std::env::temp_dir().join(format!("mesh-config-{}", bus::keys::random_hex::<6>().expect("random")))
}
