//! `bootstrap files`: keys, account tokens, credentials, network document and hub configuration, before anything runs.
//!
//! May be run again at any time: keys are never overwritten, tokens are signed anew only where what they say has changed or they
//! are half over, and the hub's configuration follows the flags.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, bail, ensure};
use bus_schemas::Signer;
use bus_schemas::network::NetworkDocument;
use nkeys::{KeyPair, KeyPairType};
use serde::Serialize;
use serde::de::DeserializeOwned;

use super::accounts::{self, RoleKeys};
use super::host::{self, Host};
use super::hub_conf::{self, Cluster, HubConf};
use super::net_dir::{Change, NetDir};
use super::nodes::{self, Nodes};
use super::roles::{self, CONTROL_ROLES};
use super::tls::{self, TlsArgs};
use crate::jwt::{self, Account, Claims, Kind, Operator, User};

/// Flags of `bootstrap files`.
#[derive(Debug, Clone, clap::Args)]
pub struct FilesArgs {
    /// The network's folder; made if it is not there.
    #[arg(long, env = "MESH_NETWORK_DIR")]
    pub dir: PathBuf,
    /// Name of the network, for people.
    #[arg(long)]
    pub name: Option<String>,
    /// The folder of another network, whose hub this one shares from the beginning [default for a new network: a hub of its own; what is there stays].
    #[arg(long, value_name = "DIR")]
    pub hub_of: Option<PathBuf>,
    /// Nodes of the hub: 1 or 3 [default: 1 for a new network; what is there stays]. With 3, each address below is one for all, or three separated by commas.
    #[arg(long)]
    pub nodes: Option<u8>,
    /// Where the hub listens for workers and members.
    #[arg(long, default_value = "127.0.0.1:4222", value_delimiter = ',')]
    pub client_listen: Vec<SocketAddr>,
    /// Where the hub listens for devices.
    #[arg(long, default_value = "127.0.0.1:7422", value_delimiter = ',')]
    pub leaf_listen: Vec<SocketAddr>,
    /// Where the hub listens for websockets; `off` for nowhere.
    #[arg(long, default_value = "127.0.0.1:8443", value_delimiter = ',')]
    pub ws_listen: Vec<WsListen>,
    /// Where the hub tells about itself (/healthz, /varz); never public.
    #[arg(long, default_value = "127.0.0.1:8222", value_delimiter = ',')]
    pub monitor_listen: Vec<SocketAddr>,
    /// Where each of three nodes listens for the other two.
    #[arg(long, default_value = "127.0.0.1:6222", value_delimiter = ',')]
    pub route_listen: Vec<SocketAddr>,
    /// Where each of three nodes is for the other two, three times `host:port` separated by commas [default: what --route-listen says].
    #[arg(long, value_delimiter = ',')]
    pub routes: Vec<String>,
    /// The hub's data; a node of three has a folder of its own in it [default: DIR/store].
    #[arg(long)]
    pub store: Option<PathBuf>,
    /// How often the hub syncs to disk: `always`, or a duration such as 2m [default for a new network: always with three nodes, otherwise 2m; what is there stays].
    #[arg(long)]
    pub sync_interval: Option<String>,
    #[command(flatten)]
    pub tls: TlsArgs,
}

/// An address, or nowhere.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct WsListen(pub Option<SocketAddr>);
impl std::str::FromStr for WsListen {
    type Err = String;
    fn from_str(text: &str) -> Result<Self, String> {
        if text == "off" {
            return Ok(Self(None));
        }
        text.parse().map(|at| Self(Some(at))).map_err(|_| "an address such as 127.0.0.1:8443, or off, is expected".to_owned())
    }
}

/// The one-shot user of `bootstrap streams`, in seconds.
const BOOTSTRAP_VALID_S: u64 = 3600;
/// How often a new hub of one node syncs to disk, and one of several: there it costs one fsync per Raft batch, not per message.
const SYNC_INTERVAL: (&str, &str) = ("2m", "always");
/// The auditor of this machine, in seconds.
const AUDITOR_VALID_S: u64 = 30 * 24 * 3600;

/// Makes or completes the folder; answers what it did. `now_s` is Unix time in seconds.
///
/// # Errors
/// Where a file cannot be read or written, or a key of an existing network is missing: a new one would be another network.
pub fn files(args: &FilesArgs, now_s: u64) -> anyhow::Result<Vec<Change>> {
    let dir = NetDir::new(&args.dir)?;
    dir.make()?;
    let _lock = dir.lock()?;
    let host = host::of(args.hub_of.as_deref(), &dir)?;
    let mut work = Work { established: dir.network().exists(), dir, now_s, changes: vec![] };
    let keys = Keys::load(&mut work, host.as_ref())?;
    let tokens = work.tokens(&keys)?;
    work.all_creds(&keys)?;
    work.put_line("edge.pub", &keys.edge.public_key())?;
    if let Some(host) = &host {
        host.note(&work.dir, &mut work.changes)?;
    }
    if let Some(hub) = &tokens.hub {
        work.hub_conf(args, &keys, &tokens, hub)?;
    }
    // Last: once the document is there, every key is.
    work.network_document(args)?;
    Ok(work.changes)
}

struct Keys {
    /// Absent where another network's hub is shared.
    operator: Option<KeyPair>,
    /// The operator's, which signs for accounts.
    signing: KeyPair,
    sys: KeyPair,
    control: KeyPair,
    edge: KeyPair,
    device: KeyPair,
    member: KeyPair,
    auditor: KeyPair,
}
impl Keys {
    fn load(work: &mut Work, host: Option<&Host>) -> anyhow::Result<Self> {
        for name in ["network", "gateway", "scheduler", "ledger"] {
            work.identity(name)?;
        }
        let (operator, signing, sys) = match host {
            Some(host) => (None, read_nkey(&host.dir.nkey("operator-signing"))?, read_nkey(&host.dir.nkey("sys"))?),
            None => (
                Some(work.nkey("operator", KeyPairType::Operator)?),
                work.nkey("operator-signing", KeyPairType::Operator)?,
                work.nkey("sys", KeyPairType::Account)?,
            ),
        };
        Ok(Self {
            operator,
            signing,
            sys,
            control: work.nkey("control", KeyPairType::Account)?,
            edge: work.nkey("edge", KeyPairType::Account)?,
            device: work.nkey("role-device", KeyPairType::Account)?,
            member: work.nkey("role-member", KeyPairType::Account)?,
            auditor: work.nkey("role-auditor", KeyPairType::Account)?,
        })
    }
}

struct Tokens {
    /// Of the operator and of the system account, where the hub is its own.
    hub: Option<(String, String)>,
    control: String,
    edge: String,
}

struct Work {
    dir: NetDir,
    now_s: u64,
    /// The network exists already: its keys are not made again.
    established: bool,
    changes: Vec<Change>,
}

impl Work {
    fn may_make(&self, path: &Path) -> anyhow::Result<()> {
        if self.established {
            let file = self.dir.shown(path);
            bail!(
                "error[M0206]: {file} is missing, but the network exists: put it back, or choose a new folder (a new key would be another network)"
            );
        }
        Ok(())
    }

    fn identity(&mut self, name: &str) -> anyhow::Result<Signer> {
        let path = self.dir.key(name);
        if path.exists() {
            return bus::keys::read_key_file(&path);
        }
        self.may_make(&path)?;
        self.changes.push(Change::new(self.dir.shown(&path), "made"));
        bus::keys::create_key_file(&path)
    }

    fn nkey(&mut self, name: &str, kind: KeyPairType) -> anyhow::Result<KeyPair> {
        let path = self.dir.nkey(name);
        if path.exists() {
            let key = read_nkey(&path)?;
            ensure!(
                std::mem::discriminant(&key.key_pair_type()) == std::mem::discriminant(&kind),
                "{} is a key of another kind",
                path.display()
            );
            return Ok(key);
        }
        self.may_make(&path)?;
        let key = jwt::new_nkey(kind)?;
        bus::keys::write_secret(&path, format!("{}\n", key.seed()?).as_bytes())?;
        self.changes.push(Change::new(self.dir.shown(&path), "made"));
        Ok(key)
    }

    fn put_line(&mut self, name: &str, line: &str) -> anyhow::Result<()> {
        let path = self.dir.root().join(name);
        self.dir.put(&path, format!("{line}\n").as_bytes(), &mut self.changes)
    }

    /// The token of `name`, signed anew only where it says something else. `iat` never falls: a hub keeps the later one.
    fn token<N>(&mut self, name: &str, mut claims: Claims<N>, signer: &KeyPair, keep: fn(&mut N, &N)) -> anyhow::Result<String>
    where
        N: Serialize + DeserializeOwned + Clone + PartialEq,
    {
        let path = self.dir.jwt(name);
        if path.exists() {
            let old = bus::keys::read_secret(&path)?;
            let found: Claims<N> = jwt::decode(old.trim()).with_context(|| format!("{} is no such token", path.display()))?;
            keep(&mut claims.nats, &found.nats);
            let same =
                found.nats == claims.nats && found.sub == claims.sub && found.name == claims.name && found.iss == signer.public_key();
            if same {
                return Ok(old.trim().to_owned());
            }
            claims.iat = claims.iat.max(found.iat + 1);
        }
        let token = jwt::encode(&claims, signer)?;
        self.dir.put(&path, format!("{token}\n").as_bytes(), &mut self.changes)?;
        Ok(token)
    }

    fn tokens(&mut self, keys: &Keys) -> anyhow::Result<Tokens> {
        let (control, edge) = (keys.control.public_key(), keys.edge.public_key());
        let roles = RoleKeys { device: keys.device.public_key(), member: keys.member.public_key(), auditor: keys.auditor.public_key() };
        let now = self.now_s;
        // Revocations belong to the revoker and stay.
        let keep_revocations = |wanted: &mut Account, found: &Account| wanted.revocations.clone_from(&found.revocations);
        Ok(Tokens {
            hub: keys.operator.as_ref().map(|operator| self.hub_tokens(operator, keys)).transpose()?,
            control: self.token("control", Claims::new(&control, "CONTROL", now, accounts::control(&edge)), &keys.signing, |_, _| {})?,
            edge: self.token("edge", Claims::new(&edge, "EDGE", now, accounts::edge(&control, &roles)), &keys.signing, keep_revocations)?,
        })
    }

    fn hub_tokens(&mut self, operator: &KeyPair, keys: &Keys) -> anyhow::Result<(String, String)> {
        let sys = keys.sys.public_key();
        let says =
            Operator { kind: Kind::Operator, version: 2, signing_keys: vec![keys.signing.public_key()], system_account: sys.clone() };
        let own = self.token("operator", Claims::new(operator.public_key(), "mesh", self.now_s, says), operator, |_, _| {})?;
        Ok((own, self.token("sys", Claims::new(&sys, "SYS", self.now_s, accounts::sys()), &keys.signing, |_, _| {})?))
    }

    /// One credentials file; a user keeps its key when its token is signed anew.
    fn creds(&mut self, name: &str, nats: User, signer: &KeyPair, valid_s: Option<u64>) -> anyhow::Result<()> {
        let path = self.dir.creds(name);
        let old = if path.exists() { Some(bus::keys::read_secret(&path)?) } else { None };
        let user = match &old {
            None => jwt::new_nkey(KeyPairType::User)?,
            Some(text) => {
                let (token, seed) =
                    bus::connect::parse_creds(text).with_context(|| format!("{} is no credentials file", path.display()))?;
                let user = KeyPair::from_seed(seed).with_context(|| format!("{} is no credentials file", path.display()))?;
                let good = jwt::decode::<User>(token).is_ok_and(|found| {
                    let fresh = match (found.exp, valid_s) {
                        (None, None) => true,
                        (Some(exp), Some(valid)) => exp > self.now_s + valid / 2,
                        (Some(_), None) | (None, Some(_)) => false,
                    };
                    fresh && found.nats == nats && found.name == name && found.sub == user.public_key() && found.iss == signer.public_key()
                });
                if good {
                    return Ok(());
                }
                user
            }
        };
        let mut claims = Claims::new(user.public_key(), name, self.now_s, nats);
        claims.exp = valid_s.map(|valid| self.now_s + valid);
        let text = jwt::creds_file(&jwt::encode(&claims, signer)?, &user.seed()?);
        self.dir.put(&path, text.as_bytes(), &mut self.changes)
    }

    fn all_creds(&mut self, keys: &Keys) -> anyhow::Result<()> {
        for role in CONTROL_ROLES {
            self.creds(role.name, User::with_rights(role.rights()), &keys.control, None)?;
        }
        self.creds("bootstrap", User::with_rights(roles::all_rights()), &keys.control, Some(BOOTSTRAP_VALID_S))?;
        self.creds("sys", User::with_rights(roles::all_rights()), &keys.sys, None)?;
        let auditor = User::scoped(&keys.edge.public_key(), vec![]);
        self.creds("auditor", auditor, &keys.auditor, Some(AUDITOR_VALID_S))
    }

    fn hub_conf(&mut self, args: &FilesArgs, keys: &Keys, tokens: &Tokens, (operator, sys): &(String, String)) -> anyhow::Result<()> {
        let Nodes { nodes, routes } = nodes::nodes(args, &self.dir)?;
        let network = self.identity("network")?.public().network_id();
        let placed = Nodes { nodes, routes };
        let tls = tls::files(&args.tls, &placed, &self.dir, &network, self.now_s, &mut self.changes)?;
        let Nodes { nodes, routes } = placed;
        let secret = if routes.is_empty() { None } else { Some(self.route_secret()?) };
        // Nobody is to lose what was acknowledged because a flag was left out the second time.
        let before = nodes.iter().find_map(|node| hub_conf::sync_interval_of(&std::fs::read_to_string(&node.conf).ok()?));
        let usual = if routes.is_empty() { SYNC_INTERVAL.0 } else { SYNC_INTERVAL.1 };
        let sync_interval = args.sync_interval.clone().or(before).unwrap_or_else(|| usual.to_owned());
        for node in &nodes {
            let cluster = secret.as_deref().map(|secret| Cluster { listen: node.route_listen, routes: &routes, secret });
            let text = hub_conf::render(&HubConf {
                name: &node.name,
                cluster,
                client_listen: node.client_listen,
                leaf_listen: node.leaf_listen,
                ws_listen: node.ws_listen,
                monitor_listen: node.monitor_listen,
                store: &node.store,
                sync_interval: &sync_interval,
                tls: tls.as_ref(),
                operator_jwt: operator,
                sys: (&keys.sys.public_key(), sys),
                control: (&keys.control.public_key(), &tokens.control),
                edge: (&keys.edge.public_key(), &tokens.edge),
            })?;
            let old = std::fs::read_to_string(&node.conf).unwrap_or_default();
            if !old.is_empty() {
                let file = self.dir.shown(&node.conf);
                self.changes.extend(hub_conf::changed_lines(&old, &text).into_iter().map(|change| Change::new(&file, change)));
            }
            self.dir.put(&node.conf, text.as_bytes(), &mut self.changes)?;
        }
        Ok(())
    }

    /// What the nodes know each other by; made once. A new one is no new network: the nodes only have to be started with it.
    fn route_secret(&mut self) -> anyhow::Result<String> {
        let path = self.dir.route_secret();
        if path.exists() {
            let secret = bus::keys::read_secret(&path)?.trim().to_owned();
            let fine = secret.len() >= 32 && secret.bytes().all(|byte| byte.is_ascii_alphanumeric());
            ensure!(fine, "error[M0206]: {} is damaged; remove it, and a new one is made", self.dir.shown(&path));
            return Ok(secret);
        }
        let secret = bus::keys::random_hex::<32>()?;
        self.dir.put(&path, format!("{secret}\n").as_bytes(), &mut self.changes)?;
        Ok(secret)
    }

    fn network_document(&mut self, args: &FilesArgs) -> anyhow::Result<()> {
        let network = self.identity("network")?;
        let path = self.dir.network();
        let found = if path.exists() { Some(bus::keys::read_network(&path)?) } else { None };
        let own = Some(self.dir.ca_cert()).filter(|path| args.tls.tls_cert.is_none() && path.exists());
        let ca_sha256 = match args.tls.tls_ca.clone().or(own) {
            Some(ca) => Some(bus::tls::fingerprint_of(&ca)?),
            // A certificate of a public CA needs none.
            None if args.tls.tls_cert.is_some() => None,
            None => found.as_ref().and_then(|found| found.ca_sha256.clone()),
        };
        let name = args.name.clone().or_else(|| found.as_ref().map(|found| found.name.clone())).unwrap_or_else(|| "mesh".into());
        ensure!((1..=64).contains(&name.chars().count()) && !name.chars().any(char::is_control), "--name: 1 to 64 printable characters");
        let mut document = NetworkDocument {
            network: network.public().network_id(),
            network_key: network.public(),
            name,
            version: found.as_ref().map_or(1, |found| found.version),
            gateway_keys: vec![self.identity("gateway")?.public()],
            scheduler_keys: vec![self.identity("scheduler")?.public()],
            ledger_keys: vec![self.identity("ledger")?.public()],
            ca_sha256,
        };
        if found.as_ref() == Some(&document) {
            return Ok(());
        }
        if let Some(found) = &found {
            if found.name != document.name {
                self.changes.push(Change::new("name", format!("{} -> {}", found.name, document.name)));
            }
            ensure!(found.network == document.network, "error[M0206]: network.json is another network's than keys/network.key");
            document.version = found.version + 1;
        }
        let signed = network.json_batch::<NetworkDocument>(vec![serde_json::to_string(&document)?]);
        self.dir.put(&path, &signed.encode(), &mut self.changes)
    }
}

/// Reads an nkey seed file (0600).
///
/// # Errors
/// Where it is missing, open to others, or no seed.
pub fn read_nkey(path: &Path) -> anyhow::Result<KeyPair> {
    let seed = bus::keys::read_secret(path)?;
    KeyPair::from_seed(seed.trim()).map_err(|_| anyhow::anyhow!("{} is no nkey seed", path.display()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::PermissionsExt;

    struct Folder(PathBuf);
    impl Folder {
        fn new() -> Self {
            let path = std::env::temp_dir().join(format!("mesh-net-{}", bus::keys::random_hex::<8>().unwrap()));
            Self(path)
        }
        fn run(&self, flags: &[&str], now_s: u64) -> anyhow::Result<Vec<Change>> {
            #[derive(clap::Parser)]
            struct Cli {
                #[command(flatten)]
                args: FilesArgs,
            }
            let dir = self.0.to_str().unwrap();
            let args = <Cli as clap::Parser>::parse_from(["x", "--dir", dir].into_iter().chain(flags.iter().copied())).args;
            files(&args, now_s)
        }
    }
    impl Drop for Folder {
        fn drop(&mut self) {
            let _ = std::fs::remove_dir_all(&self.0);
        }
    }
    const NOW: u64 = 1_800_000_000;

    #[test]
    fn a_second_run_changes_nothing_and_a_new_port_only_the_hub() {
        let folder = Folder::new();
        let first = folder.run(&["--name", "lab"], NOW).unwrap();
        assert!(first.iter().any(|change| change.what == "network.json"));
        assert_eq!(folder.run(&[], NOW + 60).unwrap(), []);
        let moved = folder.run(&["--client-listen", "127.0.0.1:5000"], NOW + 60).unwrap();
        let told: Vec<String> = moved.into_iter().map(|change| format!("{}: {}", change.what, change.how)).collect();
        let lines = ["- listen: \"127.0.0.1:4222\"", "+ listen: \"127.0.0.1:5000\"", "written anew"].map(|how| format!("hub.conf: {how}"));
        assert_eq!(told, lines, "what stands there no longer is told");
        assert_eq!(folder.run(&["--client-listen", "127.0.0.1:5000", "--sync-interval", "always"], NOW + 60).unwrap().len(), 3);
        let kept = folder.run(&["--client-listen", "127.0.0.1:5000"], NOW + 60).unwrap();
        assert_eq!(kept, [], "how often it syncs stays");
        // Short-lived logins are renewed at half life, with the same key.
        let later: Vec<String> =
            folder.run(&["--client-listen", "127.0.0.1:5000"], NOW + 2000).unwrap().into_iter().map(|c| c.what).collect();
        assert_eq!(later, ["creds/bootstrap.creds"]);
        assert_eq!(bus::keys::read_network(&folder.0.join("network.json")).unwrap().name, "lab");
        for entry in ["keys/network.key", "keys/operator.nk", "creds/gateway.creds", "network.json", "hub.conf"] {
            let mode = std::fs::metadata(folder.0.join(entry)).unwrap().permissions().mode() & 0o777;
            assert_eq!(mode, 0o600, "{entry}");
        }
        assert_eq!(std::fs::metadata(folder.0.join("keys")).unwrap().permissions().mode() & 0o777, 0o700);
    }

    #[test]
    fn three_nodes_stay_three_and_one_stays_one() {
        let (three, one) = (Folder::new(), Folder::new());
        let listen = ["--nodes", "3", "--route-listen", "127.0.0.1:1,127.0.0.1:2,127.0.0.1:3"];
        let made: Vec<String> = three.run(&listen, NOW).unwrap().into_iter().map(|change| change.what).collect();
        for file in ["keys/route.secret", "hub-1.conf", "hub-2.conf", "hub-3.conf"] {
            assert!(made.contains(&file.to_owned()), "{file}: {made:?}");
            let mode = std::fs::metadata(three.0.join(file)).unwrap().permissions().mode() & 0o777;
            assert_eq!(mode, 0o600, "{file}");
        }
        assert!(!three.0.join("hub.conf").exists());
        let conf = std::fs::read_to_string(three.0.join("hub-2.conf")).unwrap();
        for part in ["server_name: hub-2\n", "sync_interval: always", "store/hub-2/js", "listen: \"127.0.0.1:2\""] {
            assert!(conf.contains(part), "{part} in {conf}");
        }
        assert_eq!(three.run(&listen, NOW + 60).unwrap(), []);
        assert_eq!(three.run(&listen[2..], NOW + 60).unwrap(), [], "without --nodes it is what it was");
        // A run that was killed between two files is completed.
        std::fs::remove_file(three.0.join("hub-3.conf")).unwrap();
        assert_eq!(three.run(&listen[2..], NOW + 60).unwrap(), [Change::new("hub-3.conf", "made")]);
        one.run(&[], NOW).unwrap();
        for (folder, flags) in [(&three, &["--nodes", "1"][..]), (&one, &listen)] {
            let error = folder.run(flags, NOW + 60).unwrap_err().to_string();
            assert!(error.contains("M0206") && error.contains("left as it is"), "{error}");
        }
        assert_eq!(one.run(&[], NOW + 60).unwrap(), []);
    }

    #[test]
    fn a_missing_key_is_not_replaced() {
        let folder = Folder::new();
        folder.run(&[], NOW).unwrap();
        for key in ["keys/ledger.key", "keys/edge.nk"] {
            let (path, away) = (folder.0.join(key), folder.0.join("away"));
            std::fs::rename(&path, &away).unwrap();
            let error = folder.run(&[], NOW).unwrap_err().to_string();
            assert!(error.contains(key) && error.contains("put it back"), "{error}");
            std::fs::rename(&away, &path).unwrap();
        }
        assert_eq!(folder.run(&[], NOW).unwrap(), []);
    }

    #[test]
    fn a_half_made_folder_is_completed() {
        let folder = Folder::new();
        folder.run(&[], NOW).unwrap();
        let key = std::fs::read(folder.0.join("keys/network.key")).unwrap();
        for file in ["network.json", "keys/role-member.nk", "jwt/edge.jwt"] {
            std::fs::remove_file(folder.0.join(file)).unwrap();
        }
        let changes: Vec<String> = folder.run(&[], NOW + 1).unwrap().into_iter().map(|c| c.what).collect();
        assert_eq!(changes, ["keys/role-member.nk", "jwt/edge.jwt", "hub.conf", "network.json"]);
        assert_eq!(std::fs::read(folder.0.join("keys/network.key")).unwrap(), key, "keys are never overwritten");
    }

    #[test]
    fn revocations_and_iat_survive() {
        let folder = Folder::new();
        folder.run(&[], NOW).unwrap();
        let path = folder.0.join("jwt/edge.jwt");
        let mut edge: Claims<Account> = jwt::decode(&std::fs::read_to_string(&path).unwrap()).unwrap();
        edge.nats.revocations.insert("UX".into(), 5);
        edge.nats.imports.pop();
        edge.iat = NOW + 100;
        let signing = read_nkey(&folder.0.join("keys/operator-signing.nk")).unwrap();
        bus::keys::write_secret(&path, jwt::encode(&edge, &signing).unwrap().as_bytes()).unwrap();
        folder.run(&[], NOW + 1).unwrap();
        let after: Claims<Account> = jwt::decode(&std::fs::read_to_string(&path).unwrap()).unwrap();
        assert_eq!((after.iat, after.nats.revocations.len(), after.nats.imports.len()), (NOW + 101, 1, 9));
    }
}
