//! `mesh-gateway revoker` on a hub of three nodes: from a fact in LEDGER to a link that is gone, by the leaf and the client protocol, and what
//! comes of it when the revoker or a node dies. Prints what it measured; only what hangs fails.
//!
//! `MESH_TEST_REVOKED=100 cg test --test revoker -- --nocapture` measures more revocations.

// A test stops at the first surprise, and so do its helpers.
#![allow(clippy::unwrap_used)]

mod support;

use std::net::SocketAddr;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use bus::connect::{Connect, Login};
use bus::{Bus, Health};
use bus_schemas::api::people::HubTold;
use bus_schemas::ledger::{Fact, What, fact_id};
use bus_schemas::{Signer, stream, subject};
use futures::StreamExt;
use gateway::bootstrap::files::{FilesArgs, WsListen, files};
use gateway::bootstrap::net_dir::NetDir;
use gateway::bootstrap::streams::{StreamsArgs, streams};
use gateway::enrolment::mint::Minter;
use gateway::jwt::{self, Account, Claims, creds_file};
use nkeys::KeyPair;
use serde_json::json;
use support::{HUNG, Server, free_port};
use testkit::peer::Peer;
use testkit::until;

const NODES: usize = 3;
const LEAFS: usize = 200;

/// A hub of three nodes with a network of its own.
struct Cluster {
    nodes: Vec<Option<Server>>,
    clients: Vec<SocketAddr>,
    leafs: Vec<SocketAddr>,
    dir: NetDir,
    folder: tempfile::TempDir,
}
impl Cluster {
    async fn start() -> Self {
        for _ in 0..5 {
            let folder = tempfile::tempdir().unwrap();
            let ports = || (0..NODES).map(|_| free_port()).collect::<Vec<_>>();
            let (clients, leafs) = (ports(), ports());
            let args = FilesArgs {
                dir: folder.path().join("net"),
                name: Some("test".into()),
                hub_of: None,
                nodes: Some(3),
                client_listen: clients.clone(),
                leaf_listen: leafs.clone(),
                ws_listen: vec![WsListen(None)],
                monitor_listen: ports(),
                route_listen: ports(),
                routes: vec![],
                store: None,
                sync_interval: Some("2m".into()),
                tls: <_>::default(),
            };
            files(&args, bus::hub_time::here_ms() / 1000).unwrap();
            let dir = NetDir::new(&args.dir).unwrap();
            // All at once: each listens before it has found the others.
            let nodes: Vec<_> = (0..NODES).map(|n| Server::start(&dir.node_conf(n + 1), clients[n])).collect();
            if nodes.iter().any(Option::is_none) {
                continue;
            }
            let cluster = Self { nodes, clients, leafs, dir, folder };
            let made = StreamsArgs {
                dir: cluster.dir.root().to_owned(),
                nats_url: cluster.urls(),
                ca: None,
                grant_mana: None,
                time_divisor: 1,
                wait: HUNG,
                replicas: None,
            };
            streams(&made).await.unwrap();
            return cluster;
        }
        panic!("no hub in five tries");
    }
    fn urls(&self) -> String {
        self.clients.iter().map(|at| format!("nats://{at}")).collect::<Vec<_>>().join(",")
    }
    fn stop(&mut self, node: usize) {
        self.nodes[node] = None;
    }
    fn start_again(&mut self, node: usize) {
        self.nodes[node] = Server::start(&self.dir.node_conf(node + 1), self.clients[node]);
        assert!(self.nodes[node].is_some(), "the port is free again");
    }
    async fn bus(&self, urls: String, role: &str, inbox: &str) -> Bus {
        let (login, ca, name) = (Login::Creds(self.dir.creds(role)), None, "test".to_owned());
        let how = Connect { urls, login, ca, name, inbox_prefix: inbox.to_owned(), wait: HUNG };
        Bus::connect(how, &Health::default()).await.unwrap()
    }
    fn revoker(&self) -> Revoker {
        let mut command = Command::new(env!("CARGO_BIN_EXE_mesh-gateway"));
        command.arg("revoker").env("MESH_NATS_URL", self.urls()).env("MESH_DIR", self.dir.root());
        Revoker(command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap())
    }
    /// EDGE's account token as the file has it.
    fn token(&self) -> Claims<Account> {
        jwt::decode(std::fs::read_to_string(self.dir.jwt("edge")).unwrap().trim()).unwrap()
    }
}

/// Dies without a word when dropped.
struct Revoker(Child);
impl Drop for Revoker {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// A device's login.
struct Device {
    key: Signer,
    login: String,
    creds: PathBuf,
}
impl Device {
    fn new(cluster: &Cluster, n: usize) -> Self {
        let mut seed = [7; 32];
        seed[..8].copy_from_slice(&n.to_be_bytes());
        let (key, transport) = (Signer::from_seed(&seed), KeyPair::new_user());
        let (device, member) = (key.public().device_id(), key.public().member_id());
        let dir = &cluster.dir;
        let minter = Minter::read(&dir.nkey("role-device"), &dir.nkey("role-member"), &dir.edge_pub()).unwrap();
        let token = minter.device(&transport.public_key(), &device, &member, bus::hub_time::here_ms() / 1000, 3600).unwrap();
        let creds = cluster.folder.path().join(format!("{n}.creds"));
        bus::keys::write_secret(&creds, creds_file(&token, &transport.seed().unwrap()).as_bytes()).unwrap();
        Self { key, login: transport.public_key(), creds }
    }
    async fn leaf(&self, at: SocketAddr) -> std::io::Result<Peer> {
        let name = format!("lf-{}", bus::keys::random_hex::<16>().unwrap());
        Peer::leaf(&format!("nats://{at}"), Some(&self.creds), &name, &json!({})).await
    }
    async fn client(&self, at: SocketAddr) -> std::io::Result<Peer> {
        Peer::client(&format!("nats://{at}"), Some(&self.creds), &json!({})).await
    }
}

/// Whoever writes the books.
struct Books {
    bus: Bus,
    gateway: Bus,
    key: Signer,
    net: bus_schemas::NetworkId,
}
impl Books {
    async fn of(cluster: &Cluster) -> Self {
        Self {
            bus: cluster.bus(cluster.urls(), "ledger", "_INBOX.ledger").await,
            gateway: cluster.bus(cluster.urls(), "gateway", "_INBOX.gateway").await,
            key: bus::keys::read_key_file(&cluster.dir.key("ledger")).unwrap(),
            net: bus::keys::read_network(&cluster.dir.network()).unwrap().network,
        }
    }
    /// The place of the fact that says so.
    async fn revoke(&self, device: &Device) -> u64 {
        let id = device.key.public().device_id();
        let what = What::RevokeDevice { device: id, receipts_seq: 0, logins: vec![device.login.clone()] };
        let (at_ms, id) = (self.bus.time.now_ms(), fact_id::revoke_device(&id));
        let fact = Fact { net: self.net, id, at_ms, policy: 1, legs: vec![], evidence: vec![], what };
        let batch = self.key.json_batch::<Fact>(vec![serde_json::to_string(&fact).unwrap()]).encode();
        self.bus.store(subject::LEDGER_FACTS.into(), None, batch.into(), HUNG).await.unwrap().seq
    }
    /// What the revoker says once it has told the hub of that.
    async fn told(&self, seq: u64) -> HubTold {
        until("the revoker's answer", || async {
            let question = json!({ "seq": seq }).to_string();
            let answer = self.gateway.ask_bytes(subject::REVOKER_DONE.into(), question.into(), Duration::from_secs(2)).await.ok()?;
            serde_json::from_slice(&answer).ok()
        })
        .await
    }
    async fn known_everywhere(&self, seq: u64) {
        until("all nodes know", || async {
            let told = self.told(seq).await;
            (told.nodes == told.of && usize::try_from(told.of) == Ok(NODES)).then_some(())
        })
        .await;
    }
}

/// When the server closed it.
async fn gone(mut peer: Peer) -> Instant {
    while !peer.closed {
        peer.listen(HUNG).await;
    }
    Instant::now()
}

fn said(what: &str, mut all: Vec<Duration>) {
    all.sort_unstable();
    let at = |share: usize| all[(all.len() - 1) * share / 100];
    println!("{what}: {} times, p50 {:?}, p90 {:?}, p99 {:?}, worst {:?}", all.len(), at(50), at(90), at(99), at(100));
}

#[tokio::test]
async fn revoked_links_are_gone_and_their_neighbours_notice_nothing() {
    let revoked: usize = std::env::var("MESH_TEST_REVOKED").ok().and_then(|text| text.parse().ok()).unwrap_or(20);
    let cluster = Cluster::start().await;
    let books = Books::of(&cluster).await;
    let _revoker = cluster.revoker();
    books.known_everywhere(0).await;
    let mut peers = Vec::new();
    for n in 0..LEAFS {
        let device = Device::new(&cluster, n);
        // One of ten by the client protocol, like a device without a server of its own.
        let at = n % NODES;
        let peer = if n % 10 == 9 { device.client(cluster.clients[at]).await } else { device.leaf(cluster.leafs[at]).await };
        peers.push((device, peer.unwrap()));
    }
    println!("{} links to {NODES} nodes", peers.len());
    let (mut from_question, mut from_fact, before) = (Vec::new(), Vec::new(), cluster.token());
    let mut last = 0;
    for n in 0..revoked {
        // From all over: leafs and clients, of each node.
        let (device, peer) = peers.remove((n * 7) % peers.len());
        let watched = tokio::spawn(gone(peer));
        let begun = Instant::now();
        last = books.revoke(&device).await;
        let stored = Instant::now();
        let ended = tokio::time::timeout(HUNG, watched).await.expect("hung: it is still linked").unwrap();
        from_question.push(ended - begun);
        from_fact.push(ended.saturating_duration_since(stored));
        if n == 0 {
            books.known_everywhere(last).await;
            for at in 0..NODES {
                assert!(device.leaf(cluster.leafs[at]).await.is_err() && device.client(cluster.clients[at]).await.is_err(), "node {at}");
            }
        }
    }
    said("from the fact's way to LEDGER to the link's end", from_question);
    said("from the fact's place in LEDGER to the link's end", from_fact);
    books.known_everywhere(last).await;
    for (_, peer) in &mut peers {
        peer.settle().await;
        assert!(!peer.closed && peer.errors.is_empty(), "a neighbour noticed: {:?}", peer.errors);
    }
    let after = cluster.token();
    assert_eq!(after.nats.revocations.len(), revoked);
    assert!(after.iat > before.iat, "{} {}", after.iat, before.iat);
}

#[tokio::test]
async fn a_revocation_survives_the_revoker_a_second_one_and_a_node() {
    let mut cluster = Cluster::start().await;
    let books = Books::of(&cluster).await;
    let devices: Vec<Device> = (0..4).map(|n| Device::new(&cluster, n)).collect();
    let first = cluster.token().iat;

    // It dies between the fact and the hub's knowing: the next one reads it again.
    let revoker = cluster.revoker();
    books.known_everywhere(0).await;
    let peer = devices[0].leaf(cluster.leafs[0]).await.unwrap();
    drop(revoker);
    let seq = books.revoke(&devices[0]).await;
    let one = cluster.revoker();
    gone(peer).await;
    books.known_everywhere(seq).await;
    let second = cluster.token().iat;
    assert!(second > first);

    // Two of them, on one folder: what either adds stays.
    let two = cluster.revoker();
    let peers = [devices[1].client(cluster.clients[1]).await.unwrap(), devices[2].leaf(cluster.leafs[2]).await.unwrap()];
    let mut seq = 0;
    for (device, peer) in [&devices[1], &devices[2]].into_iter().zip(peers) {
        seq = books.revoke(device).await;
        gone(peer).await;
    }
    books.known_everywhere(seq).await;
    drop(two);
    books.known_everywhere(seq).await;
    assert!(cluster.token().iat > second);

    // A node is away when it happens: the others refuse at once, and it does once it is back.
    cluster.stop(2);
    let peer = devices[3].leaf(cluster.leafs[0]).await.unwrap();
    let seq = books.revoke(&devices[3]).await;
    gone(peer).await;
    // Each node takes it in its own time.
    until("the other one that is up refuses it", || async { devices[3].leaf(cluster.leafs[1]).await.is_err().then_some(()) }).await;
    cluster.start_again(2);
    let back = Instant::now();
    until("the node that was away refuses it", || async { devices[3].leaf(cluster.leafs[2]).await.is_err().then_some(()) }).await;
    let caught_up = back.elapsed();
    println!("a node that was away refuses what was revoked meanwhile {caught_up:?} after it listens");
    assert!(caught_up < HUNG);
    books.known_everywhere(seq).await;
    // All have the same, with all that was said, and so has the file.
    let sys = cluster.bus(cluster.urls(), "sys", "_INBOX.sys").await;
    let token = cluster.token();
    let have = until("what each node has", || async {
        let inbox = sys.client.new_inbox();
        let replies = sys.client.subscribe(inbox.clone()).await.unwrap();
        let question = format!("$SYS.REQ.ACCOUNT.{}.CLAIMS.LOOKUP", token.sub);
        sys.client.publish_with_reply(question, inbox, "".into()).await.unwrap();
        let answers: Vec<_> = tokio::time::timeout(Duration::from_secs(5), replies.take(NODES).collect()).await.ok()?;
        Some(answers)
    })
    .await;
    for answer in have {
        let text = String::from_utf8(answer.payload.to_vec()).unwrap();
        let known: Claims<Account> = jwt::decode(text.trim()).unwrap();
        assert_eq!((known.iat, &known.nats.revocations), (token.iat, &token.nats.revocations));
    }
    assert_eq!(token.nats.revocations.len(), devices.len());
    drop(one);
    assert!(books.bus.stream_end(stream::LEDGER).await.is_ok());
}
