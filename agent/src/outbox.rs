//! From the device's OUTBOX to the hub: each stored message is published until a stream of the hub has it, then acknowledged here.
//!
//! Nothing is lost while the hub is away, and what is sent twice is the same job: its key is made of the place in this OUTBOX.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use async_nats::HeaderMap;
use async_nats::jetstream::{self, consumer::AckPolicy, consumer::pull};
use bus::Bus;
use bus::pull::Delivery;
use bus::store::StoreError;
use bus_schemas::id::Asker;
use bus_schemas::limits::{CROSSING_BYTES_MAX, STEP_MAX, SUBMISSION_BYTES_MAX};
use bus_schemas::receipt::ReceiptMessage;
use bus_schemas::subject::{self, header, local};
use bus_schemas::{Batch, Code, DeviceId, Form, Problem, PublicKey, strict};
use futures::StreamExt;
use tokio_util::sync::CancellationToken;

use crate::local::{Local, subject_words};

/// Headers of a submission that go on to the hub as they are.
const PASSED_ON: [&str; 4] =
    [bus_schemas::envelope::HEADER_TYPE, bus_schemas::envelope::HEADER_KEY, bus_schemas::envelope::HEADER_SIG, "Content-Type"];
/// The stream refuses a message of this size: it will never be stored.
const MESSAGE_TOO_LARGE: u32 = 10054;
/// Un-acknowledged messages come again after this; it is renewed while the hub is away.
const ACK_WAIT: Duration = Duration::from_secs(30);

/// What went on, and what could not.
#[derive(Default)]
pub struct Counts {
    pub forwarded: AtomicU64,
    pub refused: AtomicU64,
}

/// Carries one device's OUTBOX to the hub.
#[derive(Clone)]
pub struct Forwarder {
    pub local: Local,
    pub uplink: Bus,
    pub device: DeviceId,
    /// The device's own key: nobody else's receipts go on.
    pub key: PublicKey,
    pub counts: Arc<Counts>,
}

impl Forwarder {
    /// Runs until `stop`. Submissions, receipts and events go side by side, so that a full SUBMIT holds up no receipt. Events go one after
    /// the other: each tells more than the one before.
    ///
    /// # Errors
    /// Where the local server refuses the consumers.
    pub async fn run(self, stop: CancellationToken) -> anyhow::Result<()> {
        let submissions = self.clone().follow("submissions", local::OUT_SUBMIT, STEP_MAX, stop.clone());
        let receipts = self.clone().follow("receipts", local::OUT_RECEIPT, STEP_MAX, stop.clone());
        let events = self.follow("events", local::OUT_EVENT, 1, stop);
        tokio::try_join!(submissions, receipts, events).map(|_| ())
    }

    async fn follow(self, name: &str, filter: &str, at_once: usize, stop: CancellationToken) -> anyhow::Result<()> {
        let config = pull::Config {
            durable_name: Some(name.to_owned()),
            filter_subject: filter.to_owned(),
            ack_policy: AckPolicy::Explicit,
            ack_wait: ACK_WAIT,
            max_ack_pending: 256,
            ..pull::Config::default()
        };
        let context = jetstream::new(self.local.bus.client.clone());
        // A consumer of a former run still waits for its acknowledgements; a new one hands everything out at once.
        let _ = context.delete_consumer_from_stream(name, local::OUTBOX).await;
        context.create_consumer_on_stream(config, local::OUTBOX).await.map_err(|error| anyhow::anyhow!("{error}"))?;
        let deliveries = bus::pull::deliveries(&self.local.bus, local::OUTBOX, name, STEP_MAX).await?;
        // Each on its own: one that must wait for the hub holds up none that cannot go there anyway.
        let carried = deliveries.for_each_concurrent(at_once, |delivery| self.carry(delivery));
        tokio::select! {
            // What was not acknowledged comes again at the next start.
            () = stop.cancelled() => {}
            () = carried => {}
        }
        Ok(())
    }

    /// Carries one message, trying again while the hub is away.
    async fn carry(&self, delivery: Delivery) {
        let mut pause = Duration::from_millis(100);
        let mut held_since = tokio::time::Instant::now();
        while !self.forward(&delivery).await {
            tokio::time::sleep(pause).await;
            pause = (pause * 2).min(Duration::from_secs(2));
            if held_since.elapsed() > ACK_WAIT / 3 {
                held_since = tokio::time::Instant::now();
                let _ = self.local.bus.renew_confirmed(&delivery.ack_subject).await;
            }
        }
        if let Err(error) = self.local.bus.ack_confirmed(&delivery.ack_subject).await {
            tracing::debug!(%error, "a forwarded message will come again");
        }
    }

    /// One try; `true`: it is done with, stored by the hub or refused for ever.
    async fn forward(&self, delivery: &Delivery) -> bool {
        if delivery.subject == local::OUT_RECEIPT {
            return self.forward_receipt(delivery).await;
        }
        if let Some(kind) = delivery.subject.strip_prefix("out.event.") {
            return self.forward_event(delivery, kind).await;
        }
        let key = self.key_of(delivery);
        let headers = headers(&key, delivery.headers.as_ref());
        let bytes = delivery.payload.len() + headers_bytes(&headers);
        if delivery.payload.len() > SUBMISSION_BYTES_MAX || bytes > CROSSING_BYTES_MAX {
            let text = format!("{} bytes, at most {SUBMISSION_BYTES_MAX} are allowed", delivery.payload.len());
            self.refuse(&key, &Problem::new(Code::TooLarge, text)).await;
            return true;
        }
        let to = subject::submit(&Asker::Device(self.device));
        match self.uplink.store_once(to, Some(headers), delivery.payload.clone(), Duration::from_secs(5)).await {
            Ok(_) => {
                self.counts.forwarded.fetch_add(1, Ordering::Relaxed);
                true
            }
            Err(StoreError::TooLarge(bytes)) => {
                self.refuse(&key, &Problem::new(Code::TooLarge, format!("{bytes} bytes are more than the hub takes"))).await;
                true
            }
            Err(StoreError::Refused { err_code: MESSAGE_TOO_LARGE, description }) => {
                self.refuse(&key, &Problem::new(Code::TooLarge, description)).await;
                true
            }
            Err(error) => {
                tracing::debug!(%error, key, "a submission waits for the hub");
                false
            }
        }
    }

    async fn forward_receipt(&self, delivery: &Delivery) -> bool {
        let read: Result<ReceiptMessage, Problem> = strict::decode(Form::Msgpack, &delivery.payload, CROSSING_BYTES_MAX);
        let ours = read.is_ok_and(|message| message.receipts.k == self.key);
        self.forward_own(delivery, ours, "receipt", subject::receipt_any(&self.device)).await
    }

    async fn forward_event(&self, delivery: &Delivery, kind: &str) -> bool {
        let ours = Batch::decode(&delivery.payload).is_ok_and(|batch| batch.k == self.key);
        self.forward_own(delivery, ours, "event", subject::event(&self.device, kind)).await
    }

    /// What the agent itself has put there: it can only be ours, whoever else finds a way to publish here would only be refused above.
    async fn forward_own(&self, delivery: &Delivery, ours: bool, what: &str, to: String) -> bool {
        if !ours {
            tracing::warn!(seq = delivery.stream_seq, "something in the OUTBOX is no {what} of this device; dropped");
            self.counts.refused.fetch_add(1, Ordering::Relaxed);
            return true;
        }
        match self.uplink.store_once(to, None, delivery.payload.clone(), Duration::from_secs(5)).await {
            Ok(_) => true,
            Err(error) => {
                tracing::debug!(%error, "a {what} waits for the hub");
                false
            }
        }
    }

    /// The client's own key, or else the place in this OUTBOX: the same message is the same job however often it is sent.
    fn key_of(&self, delivery: &Delivery) -> String {
        let place = || format!("{}:{}", self.local.outbox_id, delivery.stream_seq);
        clients_key(delivery.headers.as_ref()).map_or_else(place, str::to_owned)
    }

    async fn refuse(&self, key: &str, problem: &Problem) {
        tracing::warn!(key, %problem, "a submission was refused on this machine");
        self.counts.refused.fetch_add(1, Ordering::Relaxed);
        let body = serde_json::to_vec(&problem.body()).unwrap_or_default();
        self.local.tell(&subject_words(key), body.into()).await;
    }
}

/// The key that the client gave.
fn clients_key(headers: Option<&HeaderMap>) -> Option<&str> {
    let given = |name: &str| headers?.get(name).map(async_nats::HeaderValue::as_str).filter(|value| !value.is_empty());
    given(header::JOB_KEY).or_else(|| given(header::NATS_MSG_ID))
}

/// What goes along: a key that the client gave, as it gave it, else the one that is made up here and yields to the body's own.
fn headers(key: &str, given: Option<&HeaderMap>) -> HeaderMap {
    let mut headers = HeaderMap::new();
    let name = if clients_key(given).is_some() { header::JOB_KEY } else { header::OUTBOX_KEY };
    headers.insert(name, key);
    for name in PASSED_ON {
        if let Some(value) = given.and_then(|given| given.get(name)) {
            headers.insert(name, value.as_str());
        }
    }
    headers
}

fn headers_bytes(headers: &HeaderMap) -> usize {
    let fields =
        headers.iter().flat_map(|(name, values)| values.iter().map(move |value| name.to_string().len() + value.as_str().len() + 4));
    12 + fields.sum::<usize>()
}
