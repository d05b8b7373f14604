//! Pulling from a durable consumer that bootstrap made.

use std::time::Duration;

use async_nats::jetstream::consumer::PullConsumer;
use async_nats::jetstream::stream::ConsumerErrorKind;
use async_nats::jetstream::{self, Message};
use futures::stream::BoxStream;
use futures::{StreamExt, TryStreamExt};

use crate::Bus;
use crate::check::{CheckError, START, is_absent, until_told};

/// A pull that waits ends after this long, and the next one begins.
const EXPIRES: Duration = Duration::from_secs(30);
/// A consumer's leader that waits with us says so this often. One that dies takes our pull with it: after two beats without a word we
/// pull again.
const HEARTBEAT: Duration = Duration::from_secs(2);

/// One delivered message, with what its consumer knows of it.
pub struct Delivery {
    pub subject: String,
    pub payload: bytes::Bytes,
    pub headers: Option<async_nats::HeaderMap>,
    /// Where acks go.
    pub ack_subject: String,
    /// 1 for the first delivery. A hint: it can repeat after a change of leader.
    pub delivered: i64,
    pub stream_seq: u64,
    /// Stream time, Unix milliseconds.
    pub stored_at: u64,
}

impl Delivery {
    fn from(message: Message, bus: &Bus) -> Option<Self> {
        let (delivered, stream_seq, stored_at) = {
            let info = message.info().ok()?;
            let stored_at = u64::try_from(info.published.unix_timestamp_nanos() / 1_000_000).unwrap_or(0);
            (info.delivered, info.stream_sequence, stored_at)
        };
        // `split` would take the reply subject away with the acker.
        let message = message.message;
        if delivered == 1 {
            bus.time.at_least(stored_at);
        }
        Some(Self {
            subject: message.subject.to_string(),
            payload: message.payload,
            headers: message.headers,
            ack_subject: message.reply.map(|reply| reply.to_string())?,
            delivered,
            stream_seq,
            stored_at,
        })
    }
}

async fn found(context: &jetstream::Context, stream: &str, consumer: &str) -> Result<PullConsumer, CheckError> {
    let what = || format!("consumer {consumer} of stream {stream}");
    context.get_consumer_from_stream(consumer, stream).await.map_err(|error| match error.kind() {
        ConsumerErrorKind::JetStream(error) if is_absent(error.error_code().0) => CheckError::Absent(what()),
        ConsumerErrorKind::JetStream(_)
        | ConsumerErrorKind::TimedOut
        | ConsumerErrorKind::Request
        | ConsumerErrorKind::InvalidConsumerType
        | ConsumerErrorKind::InvalidName
        | ConsumerErrorKind::Other => CheckError::Untold { what: what(), why: error.to_string() },
    })
}

/// An endless stream of deliveries: at most `prefetch` wait here un-acked. Errors of the pull (a missed heartbeat, a hub that
/// is away) are waited out: they are retries, not failures.
///
/// # Errors
/// Where the consumer does not exist, or nobody says whether it does.
pub async fn deliveries(bus: &Bus, stream: &str, consumer: &str, prefetch: usize) -> anyhow::Result<BoxStream<'static, Delivery>> {
    let context = jetstream::new(bus.client.clone());
    let consumer = until_told(START, || found(&context, stream, consumer)).await?;
    let messages = consumer
        .stream()
        .max_messages_per_batch(prefetch)
        .expires(EXPIRES)
        .heartbeat(HEARTBEAT)
        .messages()
        .await
        .map_err(|error| anyhow::anyhow!("{error}"))?;
    let bus = bus.clone();
    let deliveries = messages
        .into_stream()
        .filter_map(move |message| {
            let bus = bus.clone();
            async move {
                match message {
                    Ok(message) => Delivery::from(message, &bus),
                    Err(error) => {
                        tracing::debug!(%error, "pulling again");
                        tokio::time::sleep(Duration::from_millis(200)).await;
                        None
                    }
                }
            }
        })
        .boxed();
    Ok(deliveries)
}
