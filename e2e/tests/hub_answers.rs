//! Questions that are on their way while the hub loses a node: whoever asks is answered within seconds, not when it gives up.

use std::time::{Duration, Instant};

use bus_schemas::id::Asker;
use bus_schemas::subject;
use e2e::doors;
use futures::future::join_all;
use serde_json::Value;
use testkit::{HUNG, Stack, http, proc, until};

/// Questions that wait in the gateway when its node dies.
const ASKED: usize = 20;
/// So long each question waits, once.
const WAIT: Duration = Duration::from_secs(40);
/// So long an answer may be on its way once the gateway can give it.
const SOON: Duration = Duration::from_secs(3);

struct Node {
    name: String,
    url: String,
    monitor: String,
}

fn nodes(stack: &Stack) -> Vec<Node> {
    let text = |node: &Value, field: &str| node[field].as_str().unwrap_or_else(|| panic!("no {field} in {node}")).to_owned();
    let node = |node: &Value| Node { name: text(node, "name"), url: text(node, "url"), monitor: text(node, "monitor_url") };
    stack.ready["nats"]["nodes"].as_array().expect("nodes").iter().map(node).collect()
}

/// Whether a client of this name is connected to a node now.
async fn has_client(node: &Node, name: &str) -> bool {
    let Ok((200, answer)) = http::try_send("GET", &format!("{}/connz?limit=1000", node.monitor), &[], "").await else { return false };
    let answer: Value = serde_json::from_slice(&answer).expect("JSON");
    answer["connections"].as_array().into_iter().flatten().any(|client| client["name"] == name)
}
async fn node_of<'a>(nodes: &'a [Node], name: &str) -> &'a Node {
    until(&format!("{name} on a node"), || async {
        for node in nodes {
            if has_client(node, name).await {
                return Some(node);
            }
        }
        None
    })
    .await
}

/// The gateway reads its rows for each of these; they stay locked until its node is dead and it has found another.
#[tokio::test]
async fn an_answer_outlives_the_node_that_its_gateway_was_on() {
    let stack = Stack::start(&["--hub", "3", "--agents", "1"], &[]);
    let nodes = nodes(&stack);
    let its = node_of(&nodes, "mesh-gateway").await;
    let other = nodes.iter().find(|node| node.name != its.name).expect("three nodes");
    let member =
        stack.connect(&other.url, bus::connect::Login::Creds(stack.path("/member/creds")), &stack.text("/member/inbox_prefix")).await;
    let asker = Asker::Member(stack.text("/member/id").parse().expect("a member"));
    let ask = || member.ask_bytes(subject::api(&asker, "job.ls"), "{}".into(), HUNG);
    ask().await.expect("the service answers");

    let (rows, connection) =
        tokio_postgres::connect(&stack.text("/postgres/url").replacen("mesh_reader", "mesh", 1), tokio_postgres::NoTls)
            .await
            .expect("the database");
    tokio::spawn(connection);
    rows.batch_execute("begin; lock table gateway.job, gateway.open_job in access exclusive mode").await.expect("a lock");
    let asked: Vec<_> = (0..ASKED)
        .map(|_| {
            let (member, subject) = (member.clone(), subject::api(&asker, "job.ls"));
            tokio::spawn(async move { member.ask_bytes(subject, "{}".into(), WAIT).await })
        })
        .collect();
    until("the questions to wait for rows", || async {
        let waiting = "select count(*) from pg_stat_activity where wait_event_type = 'Lock'";
        (rows.query_one(waiting, &[]).await.expect("a count").get::<_, i64>(0) > 0).then_some(())
    })
    .await;
    proc::signal(pid(&stack, &its.name), "KILL");
    node_of(&nodes, "mesh-gateway").await;
    let free = Instant::now();
    rows.batch_execute("rollback").await.expect("rows are free");
    for answer in join_all(asked).await {
        answer.expect("a task").expect("an answer");
    }
    let took = free.elapsed();
    println!("{ASKED} questions were on their way: the last was answered {took:.1?} after it could be");
    assert!(took < SOON, "{took:?}");
}

/// Whether a node knows no leader, neither of the hub nor of any stream.
async fn leads_nothing(node: &Node) -> bool {
    let Ok((200, answer)) = http::try_send("GET", &format!("{}/jsz?streams=true", node.monitor), &[], "").await else { return false };
    let answer: Value = serde_json::from_slice(&answer).expect("JSON");
    let streams = answer["account_details"].as_array().into_iter().flatten().flat_map(|account| account["stream_detail"].as_array());
    let leads = |group: &Value| group["leader"].as_str().is_some_and(|leader| !leader.is_empty());
    !leads(&answer["meta_cluster"]) && !streams.flatten().any(|stream| leads(&stream["cluster"]))
}

/// The parts of the hub's side that ask it for something when they start, and the words with which each says that it waits. A node that
/// knows no leader says how streams are set up and nothing of consumers, so the worker without consumers gets further.
const PARTS: [(&str, &[&str]); 3] =
    [("gateway", &["waiting for the hub"]), ("scheduler-1", &["waiting for"]), ("ledger-1", &["not ready", "cannot write now"])];

async fn restarted(stack: &Stack, name: &str, old: u32) -> u32 {
    until(&format!("the restart of {name}"), || async { running(stack, name).filter(|now| *now != old) }).await
}
/// A job goes through the parts that were started last, and none of them had to start once more.
async fn work(stack: &Stack, started: &[u32], key: &str) {
    let ready = format!("{}/readyz", stack.text("/gateway/url"));
    until("a ready gateway", || async { matches!(http::try_send("GET", &ready, &[], "").await, Ok((200, _))).then_some(()) }).await;
    doors::http(stack, &doors::echo(key), key).await;
    assert_eq!(PARTS.map(|(part, _)| running(stack, part)).to_vec(), started.iter().copied().map(Some).collect::<Vec<_>>(), "{key}");
}

/// Two of three nodes stand still: there is no leader of anything, and nobody can be made one. Then all nodes are killed.
#[tokio::test]
async fn parts_that_start_while_there_is_no_leader_come_up_when_there_is_one() {
    let stack = Stack::start(&["--hub", "3", "--agents", "1"], &[("MESH_TIME_DIVISOR", "10")]);
    let nodes = nodes(&stack);
    let frozen: Vec<u32> = nodes[1..].iter().map(|node| pid(&stack, &node.name)).collect();
    frozen.iter().for_each(|node| proc::signal(*node, "STOP"));
    until("the node that is left to see that it leads nothing", || async { leads_nothing(&nodes[0]).await.then_some(()) }).await;
    let log = |part: &str| std::fs::read_to_string(stack.path("/data_dir").join(format!("logs/{part}.log"))).unwrap_or_default();
    let before = PARTS.map(|(part, says)| (part, says, pid(&stack, part), log(part).len()));
    before.iter().for_each(|(.., old, _)| proc::signal(*old, "KILL"));
    let mut started = Vec::new();
    for (part, says, old, logged) in before {
        started.push(restarted(&stack, part, old).await);
        until(&format!("{part} to say that it waits"), || async {
            says.iter().any(|says| log(part)[logged..].contains(says)).then_some(())
        })
        .await;
    }
    frozen.iter().for_each(|node| proc::signal(*node, "CONT"));
    let back = Instant::now();
    work(&stack, &started, "after two froze").await;
    println!("a job was done {:.1?} after the nodes went on", back.elapsed());

    let hub: Vec<u32> = nodes.iter().map(|node| pid(&stack, &node.name)).collect();
    hub.iter().chain(&started).for_each(|pid| proc::signal(*pid, "KILL"));
    let back = Instant::now();
    for ((part, _), old) in PARTS.iter().zip(&mut started) {
        *old = restarted(&stack, part, *old).await;
    }
    work(&stack, &started, "after all were killed").await;
    println!("a job was done {:.1?} after hub and parts were killed", back.elapsed());
}

fn running(stack: &Stack, name: &str) -> Option<u32> {
    let file = stack.path("/data_dir").join("processes.json");
    let processes: Vec<Value> = serde_json::from_slice(&std::fs::read(file).expect("processes.json")).expect("a list");
    let pid = processes.iter().find(|process| process["name"] == name).and_then(|process| process["pid"].as_u64());
    pid.and_then(|pid| u32::try_from(pid).ok())
}
fn pid(stack: &Stack, name: &str) -> u32 {
    running(stack, name).unwrap_or_else(|| panic!("no pid of {name}"))
}
