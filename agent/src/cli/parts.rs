//! For `mesh doctor`: which parts of the network are heard now, and whether the hub has all its nodes. Only an operator's login sees that.

use std::collections::BTreeSet;
use std::time::Duration;

use async_nats::jetstream;
use bus::Bus;
use bus::connect::Login;
use bus_schemas::limits::Timings;
use bus_schemas::{stream, subject};
use futures::StreamExt;
use serde::Deserialize;

use super::client::connect;
use super::context::Context;

/// What was found about one kind of parts; with a fix where something is wrong.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Part {
    pub check: &'static str,
    pub detail: String,
    pub fix: Option<String>,
}
impl Part {
    fn fine(check: &'static str, detail: String) -> Self {
        Self { check, detail, fix: None }
    }
    fn wrong(check: &'static str, detail: String, fix: &str) -> Self {
        Self { check, detail, fix: Some(fix.to_owned()) }
    }
}

/// Whoever answers a ping later than this is away.
const PONGS: Duration = Duration::from_millis(500);
/// So long the hub is waited for; whether it answers at all is another check.
const HUB_WAIT: Duration = Duration::from_secs(3);
const OPERATOR_INBOX: &str = "_INBOX.operator";

/// Looks with the context's operator login; nothing where there is none, or the hub does not answer.
pub async fn look(context: &Context) -> Vec<Part> {
    let Some(creds) = &context.operator else { return vec![] };
    let Ok(bus) = connect(context, Login::Creds(creds.clone()), OPERATOR_INBOX, HUB_WAIT).await else { return vec![] };
    let (schedulers, gateways, ledger, nodes) = tokio::join!(beats(&bus), pongs(&bus), lease(&bus), replicas(&bus));
    [schedulers, gateways, ledger, nodes].into_iter().flatten().collect()
}

/// Schedulers whose heartbeat is no older than the silence that ends one.
async fn beats(bus: &Bus) -> Option<Part> {
    // Tells the hub's time as well.
    bus.stream_end(stream::HEARTBEATS).await.ok()?;
    let beats = bus.multi_last(stream::HEARTBEATS, &[subject::SCHEDULER_HEARTBEATS]).await.ok()?;
    let ages = beats.iter().map(|beat| bus.time.now_ms().saturating_sub(beat.time_ms));
    Some(schedulers(ages))
}
fn schedulers(ages_ms: impl Iterator<Item = u64>) -> Part {
    let silence = Timings::default().silence.as_millis();
    let heard = ages_ms.filter(|age| u128::from(*age) <= silence).count();
    match heard {
        0 => Part::wrong(
            "schedulers",
            "none is heard: jobs wait".into(),
            "mesh-scheduler run (its log says why it ended, or what it waits for)",
        ),
        heard => Part::fine("schedulers", format!("{heard} heard in the last {} s", silence / 1000)),
    }
}

/// Gateways that answer the service's ping.
async fn pongs(bus: &Bus) -> Option<Part> {
    #[derive(Deserialize)]
    struct Pong {
        id: String,
    }
    let inbox = bus.client.new_inbox();
    let mut answers = bus.client.subscribe(inbox.clone()).await.ok()?;
    bus.client.publish_with_reply("$SRV.PING.mesh-gateway", inbox, "".into()).await.ok()?;
    let until = tokio::time::Instant::now() + PONGS;
    let mut heard = BTreeSet::new();
    while let Ok(Some(answer)) = tokio::time::timeout_at(until, answers.next()).await {
        heard.extend(serde_json::from_slice::<Pong>(&answer.payload).ok().map(|pong| pong.id));
    }
    Some(match heard.len() {
        0 => Part::wrong("gateways", "none answers on the bus: nothing is admitted".into(), "mesh-gateway run (its log says why it ended)"),
        heard => Part::fine("gateways", format!("{heard} answer on the bus")),
    })
}

/// The ledger-worker that writes; those that stand by tell nobody.
async fn lease(bus: &Bus) -> Option<Part> {
    let held = bus.last_from_leader(&format!("KV_{}", stream::KV_LEDGER), &format!("$KV.{}.writer", stream::KV_LEDGER)).await.ok()?;
    Some(writer(held.map(|held| bus.time.now_ms().saturating_sub(held.time_ms))))
}
fn writer(age_ms: Option<u64>) -> Part {
    let over = Timings::default().ledger_lease.as_millis() * 2;
    match age_ms {
        Some(age) if u128::from(age) <= over => Part::fine("ledger", "one writes the books".into()),
        Some(age) => {
            let detail = format!("nobody has written the books for {} s: holds and settlements wait", age / 1000);
            Part::wrong("ledger", detail, "mesh-ledger run (its /readyz says why it stands still)")
        }
        None => Part::wrong("ledger", "nobody has ever written the books".into(), "mesh-ledger run"),
    }
}

/// The nodes that hold JOBS: all of them hold every stream.
async fn replicas(bus: &Bus) -> Option<Part> {
    let context = jetstream::new(bus.client.clone());
    let info = context.get_stream(stream::JOBS).await.ok()?.cached_info().cluster.clone()?;
    let others = info.replicas.iter().map(|peer| (peer.name.clone(), !peer.offline && peer.current));
    Some(nodes(info.leader.as_deref(), others.collect()))
}
fn nodes(leader: Option<&str>, others: Vec<(String, bool)>) -> Part {
    // Without a leader whoever answers counts itself among the others.
    let of = others.len() + usize::from(leader.is_some());
    let away: Vec<String> = others.into_iter().filter(|(_, current)| !current).map(|(name, _)| name).collect();
    match (leader, away.is_empty()) {
        (None, _) => Part::wrong("hub nodes", format!("JOBS has no leader among {of}"), "start the hub nodes that are away"),
        (Some(_), true) => Part::fine("hub nodes", format!("{of} of {of} have all that they should")),
        (Some(_), false) => Part::wrong(
            "hub nodes",
            format!("{} of {of} have all that they should; behind or away: {}", of - away.len(), away.join(", ")),
            "start the node that is away: nats-server -c NET/<node>.conf",
        ),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_heard_is_counted_and_what_is_not_has_a_fix() {
        let cases = [
            (schedulers([0, 19_000, 21_000].into_iter()), "2 heard in the last 20 s", false),
            (schedulers([60_000].into_iter()), "none is heard: jobs wait", true),
            (writer(Some(1_000)), "one writes the books", false),
            (writer(Some(40_000)), "nobody has written the books for 40 s: holds and settlements wait", true),
            (nodes(Some("hub-1"), vec![("hub-2".into(), true), ("hub-3".into(), true)]), "3 of 3 have all that they should", false),
            (
                nodes(Some("hub-1"), vec![("hub-2".into(), false), ("hub-3".into(), true)]),
                "2 of 3 have all that they should; behind or away: hub-2",
                true,
            ),
            (nodes(None, ["hub-1", "hub-2", "hub-3"].map(|hub| (hub.into(), false)).into()), "JOBS has no leader among 3", true),
        ];
        for (part, detail, is_wrong) in cases {
            assert_eq!((part.detail.as_str(), part.fix.is_some()), (detail, is_wrong), "{part:?}");
        }
    }
}
