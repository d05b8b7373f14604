//! `mesh dev` as a command: ports, deaths, and what it leaves behind.

use std::io::{BufRead, BufReader};
use std::os::unix::fs::PermissionsExt;
use std::process::{Command, Stdio};

use e2e::doors;
use e2e::secrets::Secrets;
use serde_json::{Value, json};
use testkit::{Launch, Stack, proc, until};

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

    // Whoever starts it again by hand starts it in the stack's folder: it goes with the stack.
    let home = stack.path("/devices/0/home");
    let started = stack.cli.command(&["start", "--detach"]).env("MESH_HOME", &home).output().expect("mesh starts");
    assert!(started.status.success(), "{}", String::from_utf8_lossy(&started.stderr));
    let pid = |file: &str| -> Option<u32> { std::fs::read_to_string(home.join(file)).ok()?.trim().parse().ok() };
    let by_hand = until("the agent and its server", || async { Some([pid("agent.pid")?, pid("nats.pid")?]) }).await;
    doors::http(&stack, &doors::echo("by hand"), "by-hand").await;
    stack.stop();
    assert_eq!(by_hand.map(proc::runs), [false, false], "nothing is left of the agent that was started by hand");
    // The dead agent was not stopped again; its leaf went when it died. The rest is told in the order of its stop.
    let stopped = until("the last of what is told", || async {
        let events = stack.events();
        let stopped = events.iter().filter(|event| event["event"] == "stopped" && event["role"] != "leaf");
        let roles: Vec<String> = stopped.filter_map(|event| event["role"].as_str().map(str::to_owned)).collect();
        roles.iter().any(|role| role == "hub").then_some(roles)
    })
    .await;
    assert_eq!(stopped, ["gateway", "revoker", "scheduler", "ledger", "postgres", "hub"]);
}

#[test]
fn nobody_else_on_the_machine_reaches_the_database() {
    let stack = Stack::start(&["--agents", "1"], &[]);
    let url = stack.text("/postgres/url");
    let folder = url.split_once("host=").expect("a socket").1.split('&').next().unwrap_or_default();
    let mode = std::fs::metadata(folder).expect("the socket's folder").permissions().mode();
    assert_eq!(mode & 0o077, 0, "{folder} has mode {mode:o}");
}

#[tokio::test]
async fn kept_data_are_there_again() {
    let mut stack = Stack::start(&["--agents", "1"], &[]);
    let done = doors::http(&stack, &doors::echo("kept"), "kept").await;
    let balance = settled_balance(&stack).await;
    stack.stop();
    // What it left says what has ended and what starts it again, whichever way the context is named.
    let file = stack.text("/contexts/mesh_file");
    for context in [vec![], vec!["-c", "dev"], vec!["-c", &file]] {
        let (code, told) = stack.cli.json(&[&["job", "ls"], context.as_slice()].concat());
        assert_eq!((code, &told["code"]), (6, &json!("M0201")), "{told}");
        assert!(told["detail"].as_str().expect("a detail").contains("the network of context dev was stopped"), "{told}");
        let again = told["next"][0].as_str().expect("a command");
        let data = stack.path("/data_dir");
        assert!(again.starts_with("mesh dev --agents 1 ") && again.ends_with(&format!("--data-dir {}", data.display())), "{told}");
    }
    stack.start_again();
    let (status, job) = doors::get(&stack, &format!("/jobs/{}", done["id"].as_str().expect("an id"))).await;
    assert_eq!((status, &job["state"], &job["key"]), (200, &json!("Completed"), &json!("kept")), "{job}");
    assert_eq!(settled_balance(&stack).await, balance);
    let again = doors::http(&stack, &doors::echo("kept"), "kept").await;
    assert_eq!(again["id"], done["id"], "the same key is still the same job");
    assert_eq!(settled_balance(&stack).await, balance);
    doors::http(&stack, &doors::echo("new"), "new").await;
    assert_eq!(stack.cli.ok_async(&["credit", "verify"]).await["ok"], true);
}

#[tokio::test]
async fn a_database_of_ones_own() {
    let folder =
        tempfile::Builder::new().prefix("mesh-pg-").permissions(std::fs::Permissions::from_mode(0o711)).tempdir().expect("a folder");
    let postgres = testkit::postgres::Postgres::start(folder.path()).await.expect("Postgres");
    let mut stack = Stack::start(&["--agents", "1"], &[("DATABASE_URL", &postgres.url)]);
    assert_eq!(stack.pids("postgres"), [0_u32; 0], "it starts none of its own");
    doors::http(&stack, &doors::echo("elsewhere"), "elsewhere").await;
    settled_balance(&stack).await;
    assert_eq!(stack.cli.ok_async(&["credit", "verify"]).await["ok"], true);
    stack.stop();
}

#[test]
fn an_interrupted_start_leaves_nothing_behind() {
    let folder =
        tempfile::Builder::new().prefix("mesh-cut-").permissions(std::fs::Permissions::from_mode(0o711)).tempdir().expect("a folder");
    for role in ["hub", "postgres", "gateway", "agent"] {
        let mut child = Command::new(proc::bin_dir().join("mesh"))
            .args(["dev", "--random-ports", "--agents", "1", "-o", "json"])
            .env("MESH_CONFIG_HOME", folder.path())
            .env("TMPDIR", folder.path())
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .spawn()
            .expect("mesh dev starts");
        let mut pids = Vec::new();
        let mut signalled = false;
        for line in BufReader::new(child.stdout.take().expect("a pipe")).lines().map_while(Result::ok) {
            let event: Value = serde_json::from_str(&line).expect("JSON");
            pids.extend(event["pid"].as_u64().and_then(|pid| u32::try_from(pid).ok()));
            if event["role"] == role && !signalled {
                proc::signal(child.id(), "INT");
                signalled = true;
            }
        }
        assert!(signalled, "no {role} was started");
        assert_eq!(child.wait().expect("an end").code(), Some(130), "{role}");
        assert!(pids.iter().all(|pid| !proc::runs(*pid)), "{role}: one of {pids:?} still runs");
        let left: Vec<_> = std::fs::read_dir(folder.path()).expect("the folder").flatten().map(|entry| entry.file_name()).collect();
        assert!(left.iter().all(|name| !name.to_string_lossy().starts_with("mesh-")), "{role}: {left:?}");
    }
}

/// Only root can become somebody else; for anybody else every other test shows it.
#[tokio::test]
async fn an_ordinary_user_has_it_all() {
    let Some(account) = proc::account("nobody").filter(|_| proc::is_root()) else { return };
    let folder =
        tempfile::Builder::new().prefix("mesh-user-").permissions(std::fs::Permissions::from_mode(0o755)).tempdir().expect("a folder");
    let nats = std::env::var_os("NATS_SERVER_BIN").map_or_else(|| proc::bin_dir().join("nats-server"), Into::into);
    let programs = ["mesh", "mesh-gateway", "mesh-scheduler", "mesh-ledger"].map(|name| proc::bin_dir().join(name));
    for program in programs.iter().chain([&nats]) {
        // That account may not pass through the folders above the programs.
        let name = program.file_name().expect("a name");
        std::fs::copy(program, folder.path().join(if *program == nats { "nats-server".as_ref() } else { name })).expect("a copy");
    }
    let server = folder.path().join("nats-server").display().to_string();
    let launch = Launch {
        args: ["--agents", "1"].map(str::to_owned).into(),
        variables: vec![("NATS_SERVER_BIN".into(), server)],
        account: Some(account),
        programs: Some(folder.path().to_owned()),
    };
    let mut stack = launch.start();
    doors::http(&stack, &doors::echo("as nobody"), "nobody").await;
    let took = stack.stop();
    assert!(took < std::time::Duration::from_secs(10), "stopping took {took:?}");
    for process in stack.ready["processes"].as_array().expect("processes") {
        let pid = process["pid"].as_u64().and_then(|pid| u32::try_from(pid).ok()).expect("a pid");
        assert!(!proc::runs(pid), "{process} still runs");
    }
}

/// What the member has, once nothing is held any more.
async fn settled_balance(stack: &Stack) -> Value {
    until("the last settlement", || async {
        let balance = stack.cli.ok_async(&["credit", "balance"]).await;
        (balance["held_mmana"] == 0).then(|| balance["available_mmana"].clone())
    })
    .await
}

#[tokio::test]
async fn a_taken_port_is_named_with_its_flag() {
    let taken = std::net::TcpListener::bind("127.0.0.1:0").expect("a port");
    let port = taken.local_addr().expect("an address").port();
    let folder = testkit_folder();
    let output = tokio::task::spawn_blocking(move || {
        Command::new(proc::bin_dir().join("mesh"))
            .args(["dev", "--gateway-port", &port.to_string(), "-o", "json"])
            .env("MESH_CONFIG_HOME", &folder)
            .stdin(Stdio::null())
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

/// What is asked of a running network and said by it, in words and in JSON.
const ASKED: [&[&str]; 12] = [
    &["doctor"],
    &["-vv", "doctor"],
    &["doctor", "-o", "json"],
    &["status"],
    &["node", "ls", "-o", "json"],
    &["job", "ls", "-o", "json"],
    &["network", "show", "-o", "json"],
    &["context", "ls", "-o", "json"],
    &["context", "show", "-o", "json"],
    &["credit", "balance", "-o", "json"],
    &["credit", "verify", "-o", "json"],
    &["-vv", "job", "run", "echo", "--text", "hello"],
];

#[tokio::test]
async fn no_secret_stands_where_it_is_not_kept() {
    let mut stack = Stack::start(&["--agents", "2"], &[("MESH_LOG", "trace")]);
    doors::http(&stack, &doors::echo("with everything logged"), "logged").await;
    let folder = stack.folder().to_owned();
    let data = stack.path("/data_dir");
    let secrets = Secrets::below(&folder);
    // Of the network, its roles and two devices with their owners; of each key the file and the logins made of it.
    assert!(secrets.len() > 20, "{} secrets are known", secrets.len());

    // Programs that cannot read a key say so without the key.
    let homes: Vec<_> = (0..2).map(|n| stack.path(&format!("/devices/{n}/home"))).collect();
    let broken = folder.join("broken");
    std::fs::create_dir_all(broken.join("keys")).expect("a folder");
    for file in ["device.toml", "network.json", "keys/device.key", "keys/member.key", "keys/transport.nk", "creds-a.creds", "token"] {
        let text = std::fs::read_to_string(homes[0].join(file)).unwrap_or_default();
        // Without its last letter no key is one.
        let cut = text.trim_end();
        bus::keys::write_secret(&broken.join(file), &cut.as_bytes()[..cut.len().saturating_sub(1)]).expect("a copy");
    }
    let mut said = Vec::new();
    for home in homes.iter().chain([&broken]) {
        for asked in ASKED {
            let output = stack.cli.command(asked).env("MESH_HOME", home).env("MESH_LOG", "trace").output().expect("mesh starts");
            said.push((format!("mesh {asked:?} at {}", home.display()), [output.stdout, output.stderr].concat()));
        }
    }
    let failed = stack.cli.command(&["start"]).env("MESH_HOME", &broken).env("MESH_LOG", "trace").output().expect("mesh starts");
    assert!(!failed.status.success(), "a device without a key does not start");
    said.push(("mesh start at a broken home".into(), [failed.stdout, failed.stderr].concat()));
    let mut command_lines = 0;
    for process in stack.ready["processes"].as_array().expect("processes") {
        let line = std::fs::read(format!("/proc/{}/cmdline", process["pid"])).unwrap_or_default();
        command_lines += usize::from(!line.is_empty());
        said.push((format!("the command line of {process}"), line));
    }
    assert!(command_lines > 5, "{command_lines} command lines were read");
    for (who, text) in &said {
        let found = secrets.in_bytes(text);
        assert!(found.is_empty(), "{who} says {found:?}");
    }
    stack.stop();
    std::fs::remove_dir_all(&broken).expect("the copies go");
    assert!(data.join("logs").is_dir() && folder.join("dev.log").is_file(), "there are logs to look at");
    let spilt = secrets.spilt_below(&folder);
    assert!(spilt.is_empty(), "secrets lie about:\n  {}", spilt.join("\n  "));
}
