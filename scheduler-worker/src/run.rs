//! The one place that waits: takes what has arrived, lets the world act, sends what it wants sent.

use std::fmt::Display;
use std::time::{Duration, Instant};

use anyhow::Context;
use async_nats::Message;
use bus::direct::{ReadError, StoredMessage};
use bus::pull::Delivery;
use bus::{Bus, Health};
use bus_schemas::job::Class;
use bus_schemas::{DeviceId, stream, subject};
use bytes::Bytes;
use futures::stream::{BoxStream, ReadyChunks, select_all};
use futures::{Stream, StreamExt};
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

use crate::config::Config;
use crate::lease::Ear;
use crate::measure;
use crate::world::{Done, World};

/// Messages taken in one turn.
const TURN_MAX: usize = 256;
/// Un-acked deliveries of one class that wait here.
const PREFETCH: usize = 256;
/// Jobs that end within this after a stop end here; the rest is given back.
const STOP_WITHIN: Duration = Duration::from_secs(5);

/// What arrives by subscription.
enum In {
    Bids(Message),
    Receipts(Message),
    Events(Message),
    Heartbeat(Message),
    OwnHeartbeat,
    Device(Message),
    Reputation(Message),
    Cancel(Message),
    Announced(Message),
    Holding(Message),
}

/// What is read from streams at start and once a minute, because a core subscription can miss something.
#[derive(Default)]
pub struct Refreshed {
    devices: Vec<Bytes>,
    reputations: Vec<(String, Bytes)>,
    cancels: Vec<StoredMessage>,
    heartbeats: Vec<StoredMessage>,
}

type Deliveries = ReadyChunks<BoxStream<'static, Delivery>>;

/// Runs one scheduler until `stop`.
///
/// # Errors
/// Where the streams are not there, or the connection is closed for good.
pub async fn run(bus: Bus, config: Config, health: Health, stop: CancellationToken) -> anyhow::Result<()> {
    measure::describe();
    let (done, mut finished) = mpsc::unbounded_channel();
    let mut world = World::new(bus.clone(), config, done, Instant::now());
    tracing::info!(s = %world.s, network = %world.net, "the scheduler starts");
    if !wait_for_streams(&world, &health, &stop).await {
        return Ok(());
    }
    let mut inbox = subscribe(&world).await?.ready_chunks(TURN_MAX);
    let Some(first) = first_refresh(&bus, &health, &stop).await else { return Ok(()) };
    world.refreshed(first, Instant::now());
    // Others are told of this one before it takes anything.
    world.beat();
    send(&mut world).await;
    let pulls = async { tokio::try_join!(pull(&bus, Class::High), pull(&bus, Class::Normal), pull(&bus, Class::Low)) };
    // Where the hub has no leader this waits for one.
    let Some(pulled) = stop.run_until_cancelled(pulls).await else { return Ok(()) };
    let (mut high, mut normal, mut low) = pulled?;
    health.set("jobs", Ok(()));

    let now = Instant::now();
    (world.awake_at, world.ears) = (now, [Ear::new(now); 3]);
    let mut refresh_at = Instant::now() + world.config.timings.wait_again[2];
    let mut stop_by: Option<Instant> = None;
    let mut arrived = Vec::new();
    loop {
        let wake = stop_by.into_iter().chain([world.wake_at(), refresh_at]).min().unwrap_or(refresh_at);
        tokio::select! {
            messages = inbox.next() => {
                let now = Instant::now();
                world.woke(now);
                for one in messages.context("the connection to NATS was closed")? {
                    world.hear(one, now);
                }
            }
            _ = finished.recv_many(&mut arrived, TURN_MAX) => {
                let now = Instant::now();
                world.woke(now);
                for one in arrived.drain(..) {
                    world.finished(one, now);
                }
            }
            deliveries = next_deliveries(&world, &mut high, &mut normal, &mut low) => world.take(deliveries, Instant::now()),
            () = tokio::time::sleep_until(wake.into()) => {}
            () = stop.cancelled(), if stop_by.is_none() => {
                tracing::info!(jobs = world.jobs.len(), "stopping: what can end now ends, the rest is given back");
                world.stopping = true;
                stop_by = Some(Instant::now() + STOP_WITHIN);
            }
        }
        let now = Instant::now();
        world.woke(now);
        if refresh_at <= now {
            refresh_at = now + world.config.timings.wait_again[2];
            let (bus, from) = (bus.clone(), world.cancels.next_seq);
            world.spawn(async move { Done::Refreshed(refresh(&bus, from, false).await.unwrap_or_default()) });
        }
        world.turn(now);
        send(&mut world).await;
        if let Some(by) = stop_by {
            // What is not assigned goes to others at once.
            world.give_back_unassigned();
            if now >= by || (world.jobs.is_empty() && world.closing.is_done()) {
                break;
            }
        }
    }
    drop((high, normal, low));
    world.give_back_all();
    // What was spawned last must reach the hub; a stuck hub must not keep the process.
    let _ = tokio::time::timeout(STOP_WITHIN, world.drained()).await;
    let _ = tokio::time::timeout(Duration::from_secs(1), bus.client.flush()).await;
    tracing::info!("the scheduler stopped");
    Ok(())
}

/// Compares what this part uses with the table, again and again until it fits: nobody waits for another part to start.
async fn wait_for_streams(world: &World, health: &Health, stop: &CancellationToken) -> bool {
    let buckets = [stream::KV_DEVICES, stream::KV_REPUTATION].map(|bucket| format!("KV_{bucket}"));
    let plain =
        [stream::JOBS, stream::RECEIPTS, stream::HISTORY, stream::BACK, stream::CANCELS, stream::HEARTBEATS, stream::DLQ, stream::BLOBS];
    let streams: Vec<&str> = plain.into_iter().chain(buckets.iter().map(String::as_str)).collect();
    let consumers = Class::ALL.map(|class| (stream::JOBS, stream::jobs_consumer(class)));
    let check = || world.bus.check_streams(&world.config.timings, &streams, &consumers);
    until_read("the streams", health, stop, check).await.is_some()
}

/// What this part has to know before it takes anything; a hub that elects a leader is waited for. `None`: told to stop.
async fn first_refresh(bus: &Bus, health: &Health, stop: &CancellationToken) -> Option<Refreshed> {
    until_read("devices and cancels", health, stop, || refresh(bus, 1, true)).await
}

/// Asks again and again until it is told. `None`: told to stop.
async fn until_read<T, E: Display, F>(what: &str, health: &Health, stop: &CancellationToken, read: impl Fn() -> F) -> Option<T>
where
    F: Future<Output = Result<T, E>>,
{
    let mut said = String::new();
    while !stop.is_cancelled() {
        match read().await {
            Ok(found) => return Some(found),
            Err(error) => {
                let why = error.to_string();
                health.set("jobs", Err(why.clone()));
                if said != why {
                    tracing::warn!(why, "waiting for {what}");
                    said = why;
                }
            }
        }
        tokio::select! {
            () = tokio::time::sleep(Duration::from_millis(250)) => {}
            () = stop.cancelled() => {}
        }
    }
    None
}

/// Sends what the world wants sent.
async fn send(world: &mut World) {
    if world.out.is_empty() {
        return;
    }
    let client = world.bus.client.clone();
    for out in std::mem::take(&mut world.out) {
        let sent = match (out.reply, out.headers) {
            (Some(reply), _) => client.publish_with_reply(out.subject, reply, out.payload).await,
            (None, Some(headers)) => client.publish_with_headers(out.subject, headers, out.payload).await,
            (None, None) => client.publish(out.subject, out.payload).await,
        };
        if let Err(error) = sent {
            tracing::warn!(%error, "failed to send");
        }
    }
}

async fn subscribe(world: &World) -> anyhow::Result<impl Stream<Item = In> + Unpin + use<>> {
    let client = &world.bus.client;
    let own = subject::scheduler_heartbeat(&world.s);
    let streams: Vec<BoxStream<'static, In>> = vec![
        client.subscribe(subject::bids_for(&world.s)).await?.map(In::Bids).boxed(),
        client.subscribe(subject::receipts_for(&world.s)).await?.map(In::Receipts).boxed(),
        client.queue_subscribe(subject::RECEIPTS_ANY, "scheduler".into()).await?.map(In::Receipts).boxed(),
        client.subscribe(subject::EVENTS).await?.map(In::Events).boxed(),
        client.subscribe(subject::HEARTBEATS).await?.map(In::Heartbeat).boxed(),
        client.subscribe(own).await?.map(|_| In::OwnHeartbeat).boxed(),
        client.subscribe(format!("$KV.{}.>", stream::KV_DEVICES)).await?.map(In::Device).boxed(),
        client.subscribe(format!("$KV.{}.>", stream::KV_REPUTATION)).await?.map(In::Reputation).boxed(),
        client.subscribe(subject::CANCEL_ALL).await?.map(In::Cancel).boxed(),
        client.subscribe(subject::HOLDING).await?.map(In::Holding).boxed(),
        client.queue_subscribe(subject::ANNOUNCE, "scheduler".into()).await?.map(In::Announced).boxed(),
    ];
    client.flush().await?;
    Ok(select_all(streams))
}

async fn pull(bus: &Bus, class: Class) -> anyhow::Result<Deliveries> {
    Ok(bus::pull::deliveries(bus, stream::JOBS, stream::jobs_consumer(class), PREFETCH).await?.ready_chunks(TURN_MAX))
}

/// The next deliveries, higher classes first; waits for ever while there is no room.
async fn next_deliveries(world: &World, high: &mut Deliveries, normal: &mut Deliveries, low: &mut Deliveries) -> Vec<Delivery> {
    let next = tokio::select! {
        biased;
        next = high.next(), if world.room(Class::High) > 0 => next,
        next = normal.next(), if world.room(Class::Normal) > 0 => next,
        next = low.next(), if world.room(Class::Low) > 0 => next,
        else => None,
    };
    match next {
        Some(deliveries) => deliveries,
        None => std::future::pending().await,
    }
}

impl World {
    fn hear(&mut self, one: In, now: Instant) {
        match one {
            In::Bids(message) => self.hear_bids(&message, now),
            In::Receipts(message) => self.hear_receipts(&message, now),
            In::Events(message) => self.hear_events(&message, now),
            In::Heartbeat(message) => self.hear_heartbeat(&message, now),
            In::OwnHeartbeat => self.fleet.bus_works(now),
            In::Device(message) => self.hear_device(&message.payload, now),
            In::Reputation(message) => {
                if let Some(device) = kv_key(&message.subject).and_then(|key| key.parse::<DeviceId>().ok()) {
                    self.fleet.reputation(device, &message.payload);
                }
            }
            In::Cancel(message) => self.hear_cancel(&message.subject, &message.payload, now),
            In::Holding(message) => self.hear_holding(&message, now),
            In::Announced(message) => self.hear_announced(&message.payload, now),
        }
    }

    fn hear_device(&mut self, value: &[u8], now: Instant) {
        // A deleted key: revocation is a value of its own, so nothing follows from it.
        if value.is_empty() {
            return;
        }
        match self.fleet.record(value, now, &mut self.verifier) {
            Ok(changed) => self.look_again |= changed.look_again,
            Err(problem) => tracing::error!(%problem, "a device record cannot be read"),
        }
        let barred: Vec<(DeviceId, bool)> = self
            .on_device
            .keys()
            .filter_map(|id| self.fleet.get(id).filter(|found| found.record.barred().is_some()).map(|found| (*id, found.record.revoked)))
            .collect();
        for (device, revoked) in barred {
            let why = if revoked { "the device was revoked" } else { "the device's member was suspended" };
            self.moves_on(device, why, now);
        }
    }

    pub fn refreshed(&mut self, refreshed: Refreshed, now: Instant) {
        for value in &refreshed.devices {
            self.hear_device(value, now);
        }
        for (key, value) in &refreshed.reputations {
            if let Ok(device) = key.parse() {
                self.fleet.reputation(device, value);
            }
        }
        for message in &refreshed.cancels {
            self.cancels.next_seq = self.cancels.next_seq.max(message.seq + 1);
            self.hear_cancel(&message.subject, &message.payload, now);
        }
        for message in &refreshed.heartbeats {
            if let Some(device) = subject::device_of(&message.subject) {
                // What is read at start says how a device was, not that it is there.
                let _ = self.fleet.heartbeat(device, &message.payload, false, now, &mut self.verifier);
            }
        }
    }

    /// Comes back when nothing that was spawned is at work any more.
    async fn drained(&self) {
        while self.done.strong_count() > 1 {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    }
}

fn kv_key(subject: &str) -> Option<&str> {
    subject.strip_prefix("$KV.").and_then(|rest| rest.split_once('.')).map(|(_, key)| key)
}

async fn refresh(bus: &Bus, cancels_from: u64, at_start: bool) -> Result<Refreshed, ReadError> {
    let values = |messages: Vec<StoredMessage>| messages.into_iter().filter(|message| message.headers.get("KV-Operation").is_none());
    let devices = last_values(bus, &format!("KV_{}", stream::KV_DEVICES), &format!("$KV.{}.>", stream::KV_DEVICES)).await?;
    let reputations = last_values(bus, &format!("KV_{}", stream::KV_REPUTATION), &format!("$KV.{}.>", stream::KV_REPUTATION)).await?;
    let mut cancels = Vec::new();
    let mut from = cancels_from;
    // Also tells the hub's time.
    bus.stream_end(stream::CANCELS).await?;
    loop {
        let some = bus.from_seq_sure(stream::CANCELS, from, TURN_MAX).await?;
        let Some(last) = some.last().map(|message| message.seq) else { break };
        from = last + 1;
        cancels.extend(some);
    }
    let heartbeats = if at_start { last_values(bus, stream::HEARTBEATS, subject::HEARTBEATS).await? } else { vec![] };
    Ok(Refreshed {
        devices: values(devices).map(|message| message.payload).collect(),
        reputations: values(reputations)
            .filter_map(|message| Some((kv_key(&message.subject)?.to_owned(), message.payload.clone())))
            .collect(),
        cancels,
        heartbeats,
    })
}

/// The last value of every subject of a stream that keeps one each.
async fn last_values(bus: &Bus, stream: &str, subjects: &str) -> Result<Vec<StoredMessage>, ReadError> {
    match bus.multi_last(stream, &[subjects]).await {
        // Too many subjects for one answer: the stream holds only last values, so it is read as it lies.
        Err(ReadError::Refused { reason, .. }) if reason.contains("413") => {
            let mut all = Vec::new();
            let mut from = 1;
            loop {
                let some = bus.from_seq(stream, from, 500).await?;
                let Some(last) = some.last().map(|message| message.seq) else { return Ok(all) };
                from = last + 1;
                all.extend(some);
            }
        }
        answer => answer,
    }
}
