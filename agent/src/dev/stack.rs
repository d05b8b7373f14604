//! Starting the stack: what depends on nothing starts at once, each other part as soon as what it needs is there.

use std::fs::File;
use std::net::{Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::time::Duration;

use bus_schemas::api::DeviceList;
use bus_schemas::id::Asker;
use bus_schemas::network::Invite;
use bus_schemas::{Code, subject};
use bytes::Bytes;
use futures::future::try_join_all;
use hyper::Method;
use tokio::sync::mpsc;
use tokio::time::Instant;

use super::child::{Role, Running, Spec};
use super::enrol::{self, Addresses, Member};
use super::place::Place;
use super::ports::{Counts, Ports, loopback};
use super::postgres::Postgres;
use super::ready::{AuditorIs, ContextsAre, DeviceIs, Event, GatewayAt, MemberIs, NatsAt, NodeAt, OperatorIs, PostgresAt, Process, Ready};
use super::tools::{Tools, set};
use super::{DevArgs, leftovers, shell};
use crate::cli::context::{self, Auditor, Context, Contexts, Identity};
use crate::cli::failure::Failure;
use crate::cli::output::{Output, json};
use crate::enrol::Joined;
use crate::http::{Http, each};

/// What means that something hangs.
pub(super) const PART_WAIT: Duration = Duration::from_secs(30);
/// How often a part is asked whether it is ready; short, since a start is a chain of such waits.
const LOOK_AGAIN: Duration = Duration::from_millis(10);
/// A stack, started or on the way.
pub struct Stack<'a> {
    pub(super) args: &'a DevArgs,
    pub(super) output: &'a Output,
    pub(super) place: Place,
    pub(super) tools: Tools,
    pub(super) ports: Ports,
    pub(super) children: Vec<Running>,
    pub(super) exits: (mpsc::UnboundedSender<u32>, mpsc::UnboundedReceiver<u32>),
    pub(super) ready: Option<Ready>,
    pub(super) guard: Option<std::process::Child>,
    pub(super) context: Option<String>,
    /// The invite with the address that programs of this machine use, where others use another one.
    pub(super) own_invite: Option<String>,
    /// What its devices can run.
    kinds: std::collections::BTreeSet<String>,
    began: Instant,
    /// Held as long as this stack uses the folder.
    _lock: File,
}

impl<'a> Stack<'a> {
    /// Finds programs, ports and a place; starts nothing but the guard.
    ///
    /// # Errors
    /// What is missing, taken or in use.
    pub fn new(args: &'a DevArgs, output: &'a Output) -> Result<Self, Failure> {
        let began = Instant::now();
        let beside = args.open.as_ref().and_then(|open| open.beside.as_ref());
        let hubs = if beside.is_some() { 0 } else { args.hub };
        let counts = Counts { gateways: args.gateways, hubs, devices: args.agents, workers: args.schedulers + args.ledgers };
        let listen = args.open.as_ref().map_or(Ipv4Addr::LOCALHOST.into(), |open| open.listen);
        let mut ports = Ports::choose(&args.ports, args.random_ports, counts, listen).map_err(|failure| match &args.open {
            None => failure,
            Some(_) => {
                failure.next("mesh hub up --https-port PORT --hub-port PORT --leaf-port PORT (--gateway-port above is --https-port)")
            }
        })?;
        if let Some(beside) = beside {
            ports.hubs.clone_from(&beside.at.ports);
        }
        let tools = Tools::find()?;
        let place = Place::make(args.data_dir.as_deref())?;
        let lock = lock(&place, args.open.is_some())?;
        for name in leftovers::stop_noted(&place.root.join("run")) {
            output.say(&format!("stopped {name}, which an earlier run in {} had left running", place.root.display()));
        }
        leftovers::homes(&place.root.join("agents")).iter().for_each(|home| {
            leftovers::stop_orphan_of(home);
        });
        let guard = start_guard(&tools, &place)?;
        let exits = mpsc::unbounded_channel();
        let children = Vec::new();
        Ok(Self {
            args,
            output,
            place,
            tools,
            ports,
            children,
            exits,
            ready: None,
            guard: Some(guard),
            context: None,
            own_invite: None,
            kinds: <_>::default(),
            began,
            _lock: lock,
        })
    }

    /// Starts everything and tells so.
    ///
    /// # Errors
    /// What did not start, in its own words; what did stays in `children` and is the caller's to stop.
    pub async fn start(&mut self) -> Result<(), Failure> {
        let database = set("DATABASE_URL").map(|url| url.to_string_lossy().into_owned());
        if let Some(url) = &database {
            super::postgres::check_url(url).await?;
        }
        if !self.output.format.is_json() {
            let what =
                if self.args.open.is_some() { "network for other machines, TLS at every door" } else { "local stack, loopback only" };
            self.output.line(&format!("mesh {}  {what}", env!("CARGO_PKG_VERSION")));
        }
        let (hub, postgres) = tokio::join!(self.hub(), self.postgres(database.is_none()));
        // Both are kept, so that both are stopped where one did not start.
        let (hub, postgres) = (self.keep(hub), self.keep(postgres));
        let (version, postgres) = (hub?, postgres?);
        let url = |role: &str| database.clone().or_else(|| postgres.as_ref().map(|postgres| postgres.url(role))).unwrap_or_default();
        let at = self.addresses();
        let survives = match (&self.args.open, self.args.hub) {
            (Some(_), _) => "one node: survives a power cut, not its disk",
            (None, 1) => "one node: survives a crash, not a power cut",
            (None, _) => "three nodes: any one may die",
        };
        self.tell("nats", &format!("{}     nats-server {version}, {survives}", at.nats));
        let account = postgres.as_ref().and_then(Postgres::account_name).map(|name| format!(", runs as {name}")).unwrap_or_default();
        self.tell(
            "ledger",
            &match &postgres {
                Some(_) => format!("postgres, {}{account}", if self.place.temporary { "temporary" } else { "kept" }),
                None => "postgres of DATABASE_URL".into(),
            },
        );

        let invite = self.invite()?;
        let own = self.own_invite.clone().unwrap_or_else(|| invite.clone());
        self.workers(&url("mesh_gateway"), &url("mesh_ledger")).await?;
        self.tell("gateway", &self.gateways().iter().map(|url| format!("{url}/api/v1")).collect::<Vec<_>>().join(" "));

        let (place, ports) = (&self.place, &self.ports);
        let join = |n: u8| {
            let (name, invite, at, port) = (enrol::name(n), invite.clone(), at.clone(), ports.devices[usize::from(n)]);
            async move { enrol::device(place, &invite, &name, port, &at).await.map(|joined| (name, joined)) }
        };
        let (member, joined) = tokio::join!(enrol::member(place, &own, self.member_name()), try_join_all((0..self.args.agents).map(join)));
        let (member, joined) = (member?, joined?);
        for (name, joined) in &joined {
            let agent = self.agent(name, &joined.home)?;
            self.children.push(agent);
        }
        let devices = self.devices(&member, &joined).await?;
        let names: Vec<&str> = joined.iter().map(|(name, _)| name.as_str()).collect();
        if !self.output.format.is_json() && self.args.open.is_none() {
            self.output.line(&format!("  {:<10} {:<6} {}", "agents", names.len(), names.join(", ")));
        }
        self.finish(&member, devices, invite, version, url("mesh_reader"))
    }

    /// A port of this stack, which has ended, that another program listens on.
    pub fn taken_port(&self) -> Option<u16> {
        self.ports.taken()
    }

    /// Keeps what was started, and gives the rest on.
    fn keep<T>(&mut self, started: Started<T>) -> Result<T, Failure> {
        self.children.extend(started.children);
        started.what
    }

    pub(super) fn spec(&self, role: Role, name: &str, program: &Path, args: &[&str]) -> Spec {
        let args = args.iter().map(Into::into).collect();
        Spec {
            role,
            name: name.into(),
            program: program.to_owned(),
            args,
            env: vec![],
            log: self.place.log(name),
            ours: true,
            http: None,
            account: None,
            lazy_timers: false,
            mark: None,
        }
    }

    /// Of all gateways.
    fn gateways(&self) -> Vec<String> {
        self.ports.gateways.iter().map(|port| self.http_url(Role::Gateway, *port)).collect()
    }

    /// Where a program of this machine reaches a port that others reach too.
    pub(super) fn reached(&self, port: u16) -> SocketAddr {
        self.args.open.as_ref().map_or_else(|| loopback(port), |open| SocketAddr::new(open.inside(), port))
    }

    fn http_url(&self, role: Role, port: u16) -> String {
        match (role, &self.args.open) {
            (Role::Gateway, Some(_)) => format!("https://{}", self.reached(port)),
            _ => format!("http://{}", loopback(port)),
        }
    }

    /// The network's own CA, where it has one.
    pub(super) fn ca(&self) -> Option<PathBuf> {
        Some(self.place.network().join("ca.pem")).filter(|path| self.args.open.is_some() && path.is_file())
    }

    pub(super) fn member_name(&self) -> &'static str {
        if self.args.open.is_some() { "hub operator" } else { "dev member" }
    }

    /// What programs are told that this is.
    fn schema(&self) -> &'static str {
        if self.args.open.is_some() { "hub" } else { "dev" }
    }

    /// What others are told.
    pub(super) fn told(&self) -> Addresses {
        let (Some(open), [hub, ..], [gateway, ..]) = (&self.args.open, self.ports.hubs.as_slice(), self.ports.gateways.as_slice()) else {
            return self.addresses();
        };
        Addresses {
            gateway: format!("https://{}", open.told(*gateway)),
            nats: format!("tls://{}", open.told(hub.client)),
            leaf: format!("tls://{}", open.told(hub.leaf)),
            ws: format!("wss://{}", open.told(*gateway)),
        }
    }

    pub(super) fn addresses(&self) -> Addresses {
        let all = |of: fn(&NodeAt) -> &str| self.nodes().iter().map(of).collect::<Vec<_>>().join(",");
        Addresses {
            gateway: self.gateways().join(","),
            nats: all(|node| &node.url),
            leaf: all(|node| &node.leaf_url),
            ws: all(|node| &node.ws_url),
        }
    }

    async fn postgres(&self, wanted: bool) -> Started<Option<Postgres>> {
        let mut started = Started::nothing();
        if !wanted {
            started.what = Ok(None);
            return started;
        }
        started.what = async {
            let postgres = Postgres::find(&self.place).await?;
            postgres.prepare().await?;
            let spec = postgres.spec(self.place.log("postgres"));
            started.children.push(self.begin(&spec)?);
            let running = &started.children[0];
            postgres.wait_ready(running, PART_WAIT).await?;
            // The worker may not: it owns nothing.
            self.run(&self.tools.ledger, &["migrate"], &[("DATABASE_URL", &postgres.url("mesh_owner"))]).await?;
            Ok(Some(postgres))
        }
        .await;
        started
    }

    /// Gateways, ledger-workers and schedulers: none waits for another to start, each says itself when it can work.
    async fn workers(&mut self, gateway_db: &str, ledger_db: &str) -> Result<(), Failure> {
        let network = self.place.network();
        let file = |name: &str| network.join(name).into_os_string();
        let (at, told) = (self.addresses(), self.told());
        let common = |part: &str| {
            let mut common = vec![
                ("MESH_NATS_URL", at.nats.clone().into()),
                ("MESH_CREDS", file(&format!("creds/{part}.creds"))),
                ("MESH_KEY", file(&format!("keys/{part}.key"))),
                ("MESH_NETWORK", file("network.json")),
            ];
            common.extend(self.ca().map(|ca| ("MESH_CA", ca.into_os_string())));
            common
        };
        let mut specs = Vec::new();
        for (n, port) in (1..).zip(&self.ports.gateways) {
            let name = if self.args.gateways == 1 { "gateway".to_owned() } else { format!("gateway-{n}") };
            let mut gateway = self.spec(Role::Gateway, &name, &self.tools.gateway, &["run"]);
            gateway.env = common("gateway");
            gateway.http = Some(*port);
            gateway.env.extend([
                ("DATABASE_URL", gateway_db.into()),
                ("MESH_LEAF_URL", told.leaf.clone().into()),
                ("MESH_PUBLIC_NATS_URL", told.nats.clone().into()),
                ("MESH_INVITE_FILE", self.place.invite().into_os_string()),
            ]);
            gateway.env.extend(match &self.args.open {
                // Nobody but us has looked at these devices: they are this machine.
                None => vec![("MESH_ATTEST_CLAIMED", "true".into())],
                Some(_) => vec![
                    ("MESH_TLS_CERT", self.hub_network().join("tls.pem").into_os_string()),
                    ("MESH_TLS_KEY", self.hub_network().join("keys/tls.key").into_os_string()),
                    ("MESH_PUBLIC_WS_URL", told.ws.clone().into()),
                    ("MESH_HUB_WS", at.ws.clone().into()),
                ],
            });
            specs.push(gateway);
        }
        let mut ports = self.ports.workers.iter().copied();
        let mut more = |role: Role, count: u8, program: &PathBuf, part: &str, db: Option<&str>| {
            for n in 1..=count {
                let mut spec = self.spec(role, &format!("{}-{n}", role.name()), program, &["run"]);
                spec.env = common(part);
                spec.env.extend(db.map(|db| ("DATABASE_URL", db.into())));
                spec.http = ports.next();
                specs.push(spec);
            }
        };
        more(Role::Ledger, self.args.ledgers, &self.tools.ledger, "ledger", Some(ledger_db));
        more(Role::Scheduler, self.args.schedulers, &self.tools.scheduler, "scheduler", None);
        let mut revoker = self.spec(Role::Revoker, "revoker", &self.tools.gateway, &["revoker"]);
        revoker.env = vec![("MESH_NATS_URL", at.nats.clone().into()), ("MESH_DIR", network.clone().into_os_string())];
        revoker.env.extend(self.ca().map(|ca| ("MESH_CA", ca.into_os_string())));
        specs.push(revoker);
        let first = self.children.len();
        for mut spec in specs {
            let listen = |port| match (spec.role, &self.args.open) {
                (Role::Gateway, Some(open)) => SocketAddr::new(open.listen, port),
                _ => loopback(port),
            };
            spec.env.extend(spec.http.map(|port| ("MESH_HTTP", listen(port).to_string().into())));
            let child = self.begin(&spec)?;
            self.children.push(child);
        }
        let http = Http::to(&self.addresses().gateway, self.ca().as_deref())?;
        let ready = self.children[first..].iter().filter_map(|child| child.spec.http.map(|port| (child, port))).map(|(child, port)| {
            let http = &http;
            let url = format!("{}/readyz", self.http_url(child.spec.role, port));
            wait_for(&child.spec.name, child, move || {
                let url = url.clone();
                async move { http.send(Method::GET, &url, &[], Bytes::new()).await.is_ok_and(|answer| answer.status == 200) }
            })
        });
        try_join_all(ready).await.map(|_| ())
    }

    fn agent(&self, name: &str, home: &Path) -> Result<Running, Failure> {
        let mut spec = self.spec(Role::Agent, name, &self.tools.mesh, &["start"]);
        spec.env = vec![("MESH_HOME", home.into()), ("NATS_SERVER_BIN", self.tools.nats_server.clone().into())];
        self.begin(&spec)
    }

    /// The line that lets devices and members in, as long as the stack lives. The gateway reads it at its start. Kept data keep
    /// its secret: who is enrolled may ask again only with the same one.
    fn invite(&mut self) -> Result<String, Failure> {
        let network = bus::keys::read_network(&self.place.network().join("network.json"))?;
        let kept = bus::keys::read_secret(&self.place.invite()).ok().and_then(|line| Invite::parse(&line).ok());
        let secret = match kept.filter(|kept| kept.network == network.network) {
            Some(kept) => kept.secret,
            None => bus::keys::random_hex::<16>()?,
        };
        let line =
            |url: String| Invite { url, network: network.network, secret: secret.clone(), ca_sha256: network.ca_sha256.clone() }.to_line();
        let (own, told) = (line(self.addresses().gateway), line(self.told().gateway));
        bus::keys::write_secret(&self.place.invite(), told.as_bytes())?;
        self.own_invite = Some(own);
        Ok(told)
    }

    /// Waits until every device is seen by the network, and says what each is.
    async fn devices(&mut self, member: &Member, joined: &[(String, Joined)]) -> Result<Vec<DeviceIs>, Failure> {
        let token = bus::keys::read_secret(&member.home.token())?;
        let http = Http::to(&self.addresses().gateway, self.ca().as_deref())?.with_bearer(&token);
        let url = format!("{}/api/v1/devices", self.gateways().swap_remove(0));
        let until = Instant::now() + PART_WAIT;
        loop {
            let list = http.get::<DeviceList>(&url).await;
            let seen = |joined: &Joined| list.as_ref().ok()?.devices.iter().find(|device| device.id == joined.device.id && device.online);
            let found: Vec<_> = joined.iter().map(|(_, joined)| seen(joined)).collect();
            if found.iter().all(Option::is_some) {
                self.kinds = found.iter().copied().flatten().flat_map(|device| device.kinds.iter().cloned()).collect();
                let pairs = joined.iter().zip(found).zip(&self.ports.devices);
                let is = |(((name, joined), seen), port): ((&(String, Joined), Option<&bus_schemas::api::DeviceInfo>), &u16)| DeviceIs {
                    id: joined.device.id,
                    did: joined.device.did,
                    member: joined.member.id,
                    name: name.clone(),
                    tier: seen.map_or(0, |seen| seen.tier),
                    local_url: format!("nats://{}", loopback(*port)),
                    home: joined.home.clone(),
                };
                return Ok(pairs.map(is).collect());
            }
            if let Some(dead) = self.children.iter().find(|child| child.status().is_some()) {
                return Err(did_not_start(&dead.spec.name, dead));
            }
            if Instant::now() > until {
                let missing: Vec<&str> =
                    joined.iter().zip(&found).filter(|(_, seen)| seen.is_none()).map(|((name, _), _)| name.as_str()).collect();
                let failure = Failure::new(Code::Unavailable, format!("{} did not come online", missing.join(", ")));
                let words = missing.iter().map(|name| super::child::last_words(&self.place.log(name))).collect::<Vec<_>>().join("\n");
                return Err(failure
                    .tried(words)
                    .cause(list.err().map_or_else(|| "no heartbeat came".into(), |problem| problem.to_string())));
            }
            tokio::time::sleep(LOOK_AGAIN).await;
        }
    }

    fn finish(&mut self, member: &Member, devices: Vec<DeviceIs>, invite: String, version: String, reader: String) -> Result<(), Failure> {
        let document = bus::keys::read_network(&self.place.network().join("network.json"))?;
        let (at, told) = (self.addresses(), self.told());
        let creds = |name: &str| self.place.network().join("creds").join(format!("{name}.creds"));
        let auditor = Auditor { creds: creds("auditor"), inbox_prefix: "_INBOX.auditor".into(), js_prefix: subject::AUDIT_PREFIX.into() };
        let operator = OperatorIs { creds: creds("operator"), inbox_prefix: "_INBOX.operator".into() };
        let inbox_prefix = format!("_INBOX.{}", member.id);
        let context = Context {
            name: self.schema().into(),
            network: document.network,
            network_name: document.name.clone(),
            nats_url: at.nats.clone(),
            ca: self.ca(),
            member: Identity {
                id: member.id,
                did: member.did,
                creds: member.home.member_creds(),
                inbox_prefix: inbox_prefix.clone(),
                token_file: member.home.token(),
                key: Some(member.home.member_key()),
            },
            gateway_url: at.gateway.clone(),
            network_file: self.place.network().join("network.json"),
            auditor: Some(auditor.clone()),
            operator: Some(operator.creds.clone()),
            network_key: Some(self.place.network().join("keys").join("network.key")),
            device: None,
            processes: Some(self.place.processes()),
            made_by_pid: Some(std::process::id()),
            start_again: Some(self.args.again(&self.place)),
            home: None,
            stopped: false,
        };
        let file = |name: &str| self.place.contexts().join(format!("{name}.json"));
        context.write(&file("mesh"))?;
        context::write_json(&file("nats-member"), &context.nats_context())?;
        context::write_json(
            &file("nats-operator"),
            &context::nats_context("mesh operator", &at.nats, &operator.creds, &operator.inbox_prefix),
        )?;
        let contexts = Contexts::of_user()?;
        let name = contexts.add(context, true)?;
        self.context = Some(name.clone());
        let selected = contexts.current().as_deref() == Some(name.as_str());
        let processes = self.note_processes()?;
        let ready = Ready {
            event: "ready",
            network: document.network,
            data_dir: self.place.root.clone(),
            gateway: GatewayAt { url: each(&told.gateway).next().unwrap_or_default().to_owned(), urls: self.gateways() },
            nats: NatsAt { url: told.nats, leaf_url: told.leaf, ws_url: told.ws, version, nodes: self.nodes() },
            postgres: PostgresAt { url: reader },
            member: MemberIs {
                id: member.id,
                did: member.did,
                creds: member.home.member_creds(),
                token_file: member.home.token(),
                submit_subject: subject::submit(&Asker::Member(member.id)),
                inbox_prefix,
                key: member.home.member_key(),
            },
            auditor: AuditorIs { creds: auditor.creds, js_prefix: auditor.js_prefix, inbox_prefix: auditor.inbox_prefix },
            operator,
            invite,
            devices,
            processes,
            contexts: ContextsAre {
                mesh: name.clone(),
                mesh_file: contexts.path(&name),
                nats_member: file("nats-member"),
                nats_operator: file("nats-operator"),
            },
            temporary: self.place.temporary,
            started_in_ms: u64::try_from(self.began.elapsed().as_millis()).unwrap_or(u64::MAX),
        };
        self.announce(&ready, selected);
        self.ready = Some(ready);
        Ok(())
    }

    fn announce(&self, ready: &Ready, selected: bool) {
        if self.output.format.is_json() {
            self.output.line(&json(self.schema(), ready));
            return;
        }
        let data = if ready.temporary {
            "temporary, deleted on exit; keep it with --data-dir DIR".to_owned()
        } else {
            format!("kept in {}", ready.data_dir.display())
        };
        let flag = if selected { String::new() } else { format!(" -c {}", ready.contexts.mesh) };
        let line = |name: &str, what: &str| self.output.line(&format!("  {name:<10} {what}"));
        line("member", &format!("{}   context: {}", ready.member.id, ready.contexts.mesh));
        line("data", &data);
        line("files", &format!("token {}   contexts for nats {}", ready.member.token_file.display(), self.place.contexts().display()));
        line("invite", &ready.invite);
        #[allow(clippy::cast_precision_loss)] // for people
        let seconds = ready.started_in_ms as f64 / 1000.0;
        self.output.say(&format!("ready after {seconds:.1} s; Ctrl-C stops it all"));
        if self.args.open.is_some() {
            line(
                "listens",
                &format!("{} (API, WebSocket), {} (members), {} (devices)", ready.gateway.url, ready.nats.url, ready.nats.leaf_url),
            );
            self.output.line(&format!("next, on another machine: mesh init --join {} && mesh start", ready.invite));
            return;
        }
        if self.args.agents == 0 {
            // In the stack's folder, so that it ends with the stack.
            let home = shell(&self.place.agent("own").display().to_string());
            self.output.line(&format!("next: export MESH_HOME={home} && mesh init --join {} && mesh start --detach", ready.invite));
            return;
        }
        let kind = if self.kinds.contains("embed") { "embed" } else { "echo" };
        if kind == "echo" {
            line("embed", "off: a model or ONNX Runtime is missing (next: mesh doctor --only tools)");
        }
        self.output.line(&format!("next: mesh{flag} job run {kind} --text \"hello mesh\""));
    }

    /// Tells people that a part is ready.
    fn tell(&self, part: &str, what: &str) {
        if !self.output.format.is_json() {
            self.output.line(&format!("  {part:<10} ready  {what}"));
        }
    }
    /// Tells programs, and people on stderr, what happened.
    pub(super) fn event(&self, event: &Event) {
        if self.output.format.is_json() {
            self.output.line(&json(self.schema(), event));
        } else {
            self.output.say(&event.text());
        }
    }

    /// Starts a child and tells so.
    pub(super) fn begin(&self, spec: &Spec) -> Result<Running, Failure> {
        let running = spec.start(&self.exits.0)?;
        self.note(&running);
        if self.output.format.is_json() {
            self.event(&Event::Started { role: spec.role, name: spec.name.clone(), pid: running.pid });
        }
        Ok(running)
    }

    /// Notes what would be left running where this program is killed.
    pub(super) fn note(&self, running: &Running) {
        if let Some(mark) = &running.spec.mark {
            leftovers::note(&self.place.root.join("run"), &running.spec.name, running.pid, mark);
        }
    }

    /// All processes, the devices' own servers among them; also written where `mesh bench` looks.
    pub(super) fn note_processes(&self) -> Result<Vec<Process>, Failure> {
        let mut processes = Vec::new();
        for child in self.children.iter().filter(|child| child.status().is_none()) {
            let http = child.spec.http.map(|port| self.http_url(child.spec.role, port));
            processes.push(Process { role: child.spec.role, name: child.spec.name.clone(), pid: child.pid, http });
            if child.spec.role == Role::Agent
                && let Some(pid) = leftovers::orphan_of(&self.place.agent(&child.spec.name))
            {
                processes.push(Process { role: Role::Leaf, name: format!("{}-leaf", child.spec.name), pid, http: None });
            }
        }
        context::write_json(&self.place.processes(), &processes)?;
        Ok(processes)
    }

    /// Runs a program to its end.
    pub(super) async fn run(&self, program: &Path, args: &[&str], env: &[(&str, &str)]) -> Result<(), Failure> {
        let mut command = tokio::process::Command::new(program);
        command.args(args).envs(env.iter().copied()).stdin(std::process::Stdio::null()).process_group(0).kill_on_drop(true);
        let name = program.file_name().unwrap_or(program.as_os_str()).to_string_lossy();
        let shown = format!("{name} {}", args.iter().take(2).copied().collect::<Vec<_>>().join(" "));
        let output = command.output().await.map_err(|error| Failure::new(Code::MissingTool, format!("{shown}: {error}")))?;
        if output.status.success() {
            return Ok(());
        }
        let said = String::from_utf8_lossy(&output.stderr).trim().to_owned();
        Err(Failure::from(anyhow::anyhow!("{said}")).tried(shown))
    }
}

/// What a part of the start gave, and the children that run whether or not it went well.
pub(super) struct Started<T> {
    pub(super) children: Vec<Running>,
    pub(super) what: Result<T, Failure>,
}
impl<T> Started<T> {
    pub(super) fn nothing() -> Self {
        Self { children: vec![], what: Err(Failure::ours("not started")) }
    }
}

/// Looks again until the child can work, it ends, or it hangs.
pub(super) async fn wait_for<F: Future<Output = bool>>(what: &str, child: &Running, look: impl Fn() -> F) -> Result<(), Failure> {
    let until = Instant::now() + PART_WAIT;
    loop {
        // First whether it lives: another program may answer on its port.
        if child.status().is_some() {
            return Err(did_not_start(what, child));
        }
        if look().await {
            return Ok(());
        }
        if Instant::now() > until {
            let failure = Failure::new(Code::Unavailable, format!("{what} did not become ready within {} s", PART_WAIT.as_secs()));
            return Err(failure.tried(child.last_words()).next(format!("read {}", child.spec.log.display())));
        }
        tokio::time::sleep(LOOK_AGAIN).await;
    }
}

fn did_not_start(what: &str, child: &Running) -> Failure {
    let words = child.last_words();
    let failure = Failure::from(anyhow::anyhow!("{words}"));
    if failure.code() != Code::Internal {
        return failure;
    }
    Failure::new(Code::Internal, format!("{what} ended while it started ({})", super::child::words(child.status()))).tried(words)
}

pub(super) fn text(path: &Path) -> Result<String, Failure> {
    path.to_str().map(str::to_owned).ok_or_else(|| Failure::new(Code::BadFile, format!("{} is not UTF-8", path.display())))
}

fn lock(place: &Place, open: bool) -> Result<File, Failure> {
    let path = place.root.join("run").join("lock");
    let file = File::create(&path).map_err(|error| Failure::new(Code::BadFile, format!("{}: {error}", path.display())))?;
    match file.try_lock() {
        Ok(()) => Ok(file),
        Err(_) => {
            let (command, next) = if open { ("hub", "mesh hub up --data DIR") } else { ("mesh dev", "mesh dev --data-dir DIR") };
            let why = format!("another {command} uses {}", place.root.display());
            Err(Failure::new(Code::AlreadyRunning, why).next(next))
        }
    }
}

fn start_guard(tools: &Tools, place: &Place) -> Result<std::process::Child, Failure> {
    use std::os::unix::process::CommandExt;
    let mut command = std::process::Command::new(&tools.mesh);
    command.arg("dev-guard").arg(&place.root);
    if place.temporary {
        command.arg("--remove").arg(&place.root);
    }
    if !place.socket.starts_with(&place.root) {
        command.arg("--remove").arg(&place.socket);
    }
    let null = std::process::Stdio::null;
    command.stdin(std::process::Stdio::piped()).stdout(null()).stderr(null()).process_group(0);
    command.spawn().map_err(|error| Failure::ours(format!("{}: {error}", tools.mesh.display())))
}
