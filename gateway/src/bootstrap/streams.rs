//! `bootstrap streams`: what lives in the hub. Creates what is missing, adjusts what can be adjusted without losing anything,
//! and refuses the rest with the difference.

use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Context as _, bail};
use async_nats::HeaderMap;
use async_nats::jetstream::consumer::{self, IntoConsumerConfig as _};
use async_nats::jetstream::response::Response;
use async_nats::jetstream::stream::{Config, Info};
use async_nats::jetstream::{self, Context, ErrorCode};
use bus::connect::{Connect, Login};
use bus::streams::{Difference, Wanted, Weight, adjusted, compare, compare_consumer, wanted};
use bus::{Bus, Health};
use bus_schemas::ledger::{Fact, Policy, What, fact_id};
use bus_schemas::limits::Timings;
use bus_schemas::network::NetworkDocument;
use bus_schemas::{MilliMana, Signer, stream, subject};
use serde::Serialize;
use serde::de::DeserializeOwned;

use super::host;
use super::net_dir::{Change, NetDir};
use crate::jwt::{self, User};

/// Flags of `bootstrap streams`.
#[derive(Debug, Clone, clap::Args)]
pub struct StreamsArgs {
    /// The network's folder, as `bootstrap files` made it.
    #[arg(long, env = "MESH_NETWORK_DIR")]
    pub dir: PathBuf,
    /// Addresses of the hub's nats-servers, separated by commas.
    #[arg(long, env = "MESH_NATS_URL", default_value = "nats://127.0.0.1:4222")]
    pub nats_url: String,
    /// CA certificate of the hub, where it is a private one.
    #[arg(long, env = "MESH_CA")]
    pub ca: Option<PathBuf>,
    /// What each new member is given, in mana; part of the first fact, and fixed with it [default: 0].
    #[arg(long)]
    pub grant_mana: Option<MilliMana>,
    /// Divides every waiting time; for tests.
    #[arg(long, env = "MESH_TIME_DIVISOR", default_value_t = 1, hide = true)]
    pub time_divisor: u32,
    /// How long to wait for the hub.
    #[arg(long, default_value = "10s", value_parser = crate::cli::duration)]
    pub wait: Duration,
    /// Copies of each stream: 1 or 3 [default: as many as the hub has nodes for what is made, and what is there stays].
    #[arg(long, value_parser = clap::value_parser!(u8).range(1..=5))]
    pub replicas: Option<u8>,
}

/// Makes and compares; answers what it did.
///
/// # Errors
/// Where the hub cannot be reached or is too old, or something there differs in a way that must not be adjusted.
pub async fn streams(args: &StreamsArgs) -> anyhow::Result<Vec<Change>> {
    let dir = NetDir::new(&args.dir)?;
    let network = bus::keys::read_network(&dir.network())?;
    let creds = dir.creds("bootstrap");
    not_expired(&creds)?;
    let host = host::of(None, &dir)?;
    let hub = host.as_ref().map_or(&dir, |host| &host.dir);
    let connect = async |creds: PathBuf, inbox: &str| {
        let how = Connect {
            urls: args.nats_url.clone(),
            login: Login::Creds(creds),
            ca: args.ca.clone(),
            name: "bootstrap".into(),
            inbox_prefix: inbox.into(),
            wait: args.wait,
        };
        Bus::connect(how, &Health::default()).await
    };
    let mut changes = vec![];
    if host.is_some() {
        host::give_accounts(connect(dir.creds("sys"), "_INBOX.bootstrap-sys").await?, &dir, &mut changes).await?;
    }
    let bus = connect(creds, "_INBOX.bootstrap").await?;
    let nodes = hub.nodes().unwrap_or(1);
    let mut work = Work {
        context: jetstream::new(bus.client.clone()),
        replicas: args.replicas.map(usize::from),
        deadline: tokio::time::Instant::now() + args.wait,
        changes,
    };
    for wanted in wanted(&Timings::divided(args.time_divisor), work.replicas.unwrap_or(nodes)) {
        work.stream(&wanted).await?;
    }
    let ledger_key = bus::keys::read_key_file(&dir.key("ledger"))?;
    work.genesis(&bus, &network, &ledger_key, args.grant_mana).await?;
    Ok(work.changes)
}

/// A login that is over would be refused without a reason.
fn not_expired(creds: &std::path::Path) -> anyhow::Result<()> {
    let text = bus::keys::read_secret(creds)?;
    let token = bus::connect::parse_creds(&text).map(|(token, _)| token).unwrap_or_default();
    let claims = jwt::decode::<User>(token).with_context(|| format!("{} is no credentials file", creds.display()))?;
    if claims.exp.is_some_and(|exp| exp <= bus::hub_time::here_ms() / 1000) {
        bail!("error[M0304]: the login of bootstrap lives for an hour and is over (next: mesh-gateway bootstrap files)");
    }
    Ok(())
}

struct Work {
    context: Context,
    replicas: Option<usize>,
    /// Until then the hub may still be electing its leaders.
    deadline: tokio::time::Instant,
    changes: Vec<Change>,
}

impl Work {
    /// One API request; `None` where the stream or consumer is not there. What may pass (no leader yet) is asked again.
    async fn api<Q: Serialize, A: DeserializeOwned>(&self, call: String, question: &Q) -> anyhow::Result<Option<A>> {
        loop {
            let passing: anyhow::Error = match self.context.request::<_, _, Response<A>>(call.clone(), question).await {
                Ok(Response::Ok(answer)) => return Ok(Some(answer)),
                Ok(Response::Err { error }) => {
                    let code = error.error_code();
                    if code == ErrorCode::STREAM_NOT_FOUND || code == ErrorCode::CONSUMER_NOT_FOUND {
                        return Ok(None);
                    }
                    let refused = anyhow::anyhow!("the hub refused ({}): {error}", code.0);
                    // Nodes that have only just found each other count as offline for some seconds.
                    if error.code() != 503 && code != ErrorCode::CLUSTER_NO_PEERS {
                        return Err(refused);
                    }
                    refused
                }
                Err(error) => anyhow::anyhow!("{error}"),
            };
            if tokio::time::Instant::now() >= self.deadline {
                return Err(passing).with_context(|| format!("JetStream of the hub does not answer to {call}"));
            }
            tokio::time::sleep(Duration::from_millis(200)).await;
        }
    }

    async fn stream(&mut self, wanted: &Wanted) -> anyhow::Result<()> {
        let name = &wanted.config.name;
        let what = format!("stream {name}");
        match self.api::<_, Info>(format!("STREAM.INFO.{name}"), &serde_json::json!({})).await? {
            None => {
                self.api::<_, Info>(format!("STREAM.CREATE.{name}"), &wanted.config)
                    .await
                    .with_context(|| format!("failed to make {what}"))?;
                self.changes.push(Change::new(what, "made"));
            }
            Some(found) => {
                let mut differences = compare(&wanted.config, &found.config);
                differences.extend(self.replicas_differ(&wanted.config, &found.config));
                refuse(&what, &differences)?;
                if self.replicas.is_none() && found.config.num_replicas < wanted.config.num_replicas {
                    let (has, nodes) = (found.config.num_replicas, wanted.config.num_replicas);
                    let stays =
                        format!("left as it is, with num_replicas {has} on {nodes} nodes (next: bootstrap streams --replicas {nodes})");
                    self.changes.push(Change::new(&what, stays));
                }
                if !differences.is_empty() {
                    let config = adjusted(&wanted.config, &found.config, &differences);
                    self.api::<_, Info>(format!("STREAM.UPDATE.{name}"), &config)
                        .await
                        .with_context(|| format!("failed to adjust {what}"))?;
                    self.changes.push(Change::new(what, told(&differences)));
                }
            }
        }
        for consumer in &wanted.consumers {
            self.consumer(name, consumer).await?;
        }
        Ok(())
    }

    /// Only where it was asked for: otherwise the operator's choice stays.
    fn replicas_differ(&self, wanted: &Config, found: &Config) -> Option<Difference> {
        (self.replicas.is_some() && wanted.num_replicas != found.num_replicas).then(|| Difference {
            field: "num_replicas",
            wanted: wanted.num_replicas.to_string(),
            found: found.num_replicas.to_string(),
            weight: Weight::Adjust,
        })
    }

    async fn consumer(&mut self, stream: &str, wanted: &consumer::pull::Config) -> anyhow::Result<()> {
        let name = wanted.durable_name.clone().unwrap_or_default();
        let what = format!("consumer {name} of stream {stream}");
        let found = self.api::<_, consumer::Info>(format!("CONSUMER.INFO.{stream}.{name}"), &serde_json::json!({})).await?;
        let (action, how) = match &found {
            None => ("create", "made".to_owned()),
            Some(found) => {
                let differences = compare_consumer(wanted, &found.config);
                refuse(&what, &differences)?;
                if differences.is_empty() {
                    return Ok(());
                }
                ("update", told(&differences))
            }
        };
        let mut config = wanted.clone().into_consumer_config();
        if let Some(found) = &found {
            // A limit that an operator has raised stays raised.
            config.max_ack_pending = config.max_ack_pending.max(found.config.max_ack_pending);
        }
        let filter = if wanted.filter_subject.is_empty() { String::new() } else { format!(".{}", wanted.filter_subject) };
        let question = serde_json::json!({"stream_name": stream, "config": config, "action": action});
        self.api::<_, consumer::Info>(format!("CONSUMER.CREATE.{stream}.{name}{filter}"), &question)
            .await
            .with_context(|| format!("failed to {action} {what}"))?;
        self.changes.push(Change::new(what, how));
        Ok(())
    }

    /// The first fact binds the stream to the network; where there is one, it must be this network's.
    async fn genesis(&mut self, bus: &Bus, network: &NetworkDocument, key: &Signer, grant: Option<MilliMana>) -> anyhow::Result<()> {
        if bus.stream_end(stream::LEDGER).await?.last_seq == 0 {
            let made = grant.unwrap_or(MilliMana::ZERO);
            let fact = genesis_fact(network, bus.time.now_ms(), made);
            let mut headers = HeaderMap::new();
            headers.insert(subject::header::NATS_MSG_ID, fact.id.to_string());
            headers.insert("Nats-Expected-Last-Sequence", "0");
            let batch = key.json_batch::<Fact>(vec![serde_json::to_string(&fact)?]);
            match bus.store(subject::LEDGER_FACTS.into(), Some(headers), batch.encode().into(), Duration::from_secs(10)).await {
                Ok(_) => {
                    self.changes.push(Change::new("fact genesis", format!("made, {made} mana for each new member")));
                    return Ok(());
                }
                // Somebody else was first: what stands there decides.
                Err(error) if error.err_code() == Some(bus::store::StoreError::WRONG_LAST_SEQUENCE) => {}
                Err(error) => return Err(error).context("failed to store the first fact"),
            }
        }
        let first = bus.from_leader(stream::LEDGER, 1).await?.context("error[M0603]: LEDGER no longer has its first fact")?;
        let began = check_genesis(&first, network).context("error[M0603]: LEDGER does not begin with this network's first fact")?;
        if let Some(grant) = grant.filter(|grant| *grant != began) {
            let stays = format!("left as it is, with {began} mana for each new member; not {grant} (next: mesh network policy set)");
            self.changes.push(Change::new("fact genesis", stays));
        }
        Ok(())
    }
}

/// The first fact of a network.
pub fn genesis_fact(network: &NetworkDocument, at_ms: u64, grant: MilliMana) -> Fact {
    Fact {
        net: network.network,
        id: fact_id::genesis(&network.network),
        at_ms,
        policy: 1,
        legs: vec![],
        evidence: vec![],
        what: What::Genesis { network: network.network, network_key: network.network_key, rules: Policy::first(grant) },
    }
}

/// What the first fact gives each new member.
fn check_genesis(message: &[u8], network: &NetworkDocument) -> anyhow::Result<MilliMana> {
    let batch = bus_schemas::envelope::JsonBatch::decode(message)?;
    anyhow::ensure!(network.ledger_keys.contains(&batch.k), "it is signed by {}, which is no ledger key of the network", batch.k);
    let facts = batch.verify::<Fact>(&mut bus_schemas::Verifier::default())?;
    if let Some(Fact { what: What::Genesis { network: of, rules, .. }, .. }) = facts.first().map(|fact| &**fact)
        && *of == network.network
    {
        return Ok(rules.grant_mmana);
    }
    bail!("its first message is no genesis of {}", network.network)
}

fn refuse(what: &str, differences: &[Difference]) -> anyhow::Result<()> {
    let hard: Vec<String> = differences.iter().filter(|d| d.weight == Weight::Refuse).map(|d| format!("  {d}")).collect();
    anyhow::ensure!(
        hard.is_empty(),
        "error[M0206]: {what} is not as the table says, and is left as it is:\n{}\nnext: set it right by hand, or move its messages away and delete it",
        hard.join("\n")
    );
    Ok(())
}

fn told(differences: &[Difference]) -> String {
    let list: Vec<String> = differences.iter().map(|d| format!("{} {} -> {}", d.field, d.found, d.wanted)).collect();
    list.join(", ")
}
