//! Publishing into a stream: it counts only after the PubAck.

use std::time::Duration;

use async_nats::HeaderMap;
use async_nats::client::Request;
use bytes::Bytes;
use serde::Deserialize;

use crate::Bus;

/// What a stream answered.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Stored {
    pub stream: String,
    pub seq: u64,
    pub duplicate: bool,
}

#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum StoreError {
    /// The stream said no; asking again gets the same answer.
    #[error("refused by the stream ({err_code}): {description}")]
    Refused { err_code: u32, description: String },
    #[error("no stream listens on {0} (or the hub is away)")]
    NoStream(String),
    #[error("no answer from the stream in time")]
    TimedOut,
    #[error("{0} bytes are more than the server takes")]
    TooLarge(usize),
    #[error("failed to publish: {0}")]
    Other(String),
}
impl StoreError {
    /// JOBS holds this subject already.
    pub const MAX_PER_SUBJECT: u32 = 10077;
    /// Another writer appended.
    pub const WRONG_LAST_SEQUENCE: u32 = 10071;
    /// The first copy is not committed yet.
    const DUPLICATE_IN_PROCESS: u32 = 10158;

    /// May pass later.
    pub fn is_transient(&self) -> bool {
        match self {
            Self::NoStream(_) | Self::TimedOut | Self::Other(_) => true,
            Self::Refused { err_code, .. } => *err_code == Self::DUPLICATE_IN_PROCESS,
            Self::TooLarge(_) => false,
        }
    }
    pub fn err_code(&self) -> Option<u32> {
        match self {
            Self::Refused { err_code, .. } => Some(*err_code),
            Self::NoStream(_) | Self::TimedOut | Self::TooLarge(_) | Self::Other(_) => None,
        }
    }
}

#[derive(Deserialize)]
struct PubAck {
    #[serde(default)]
    stream: String,
    #[serde(default)]
    seq: u64,
    #[serde(default)]
    duplicate: bool,
    error: Option<ApiError>,
}
#[derive(Deserialize)]
struct ApiError {
    #[serde(default)]
    err_code: u32,
    #[serde(default)]
    code: u32,
    #[serde(default)]
    description: String,
}

/// A renewal that fell into an election is answered by nobody: it is asked again soon, so that several fit between the first one that is
/// due and the end of the lease.
const RENEW_WITHIN: Duration = Duration::from_secs(2);

/// What an ack subject is told so that the message comes again after `delay`.
pub fn not_now(delay: Duration) -> String {
    format!("-NAK {{\"delay\": {}}}", delay.as_nanos())
}

impl Bus {
    /// One try.
    ///
    /// # Errors
    /// [`StoreError`]; on `TimedOut` it may have been stored all the same.
    pub async fn store_once(
        &self,
        subject: String,
        headers: Option<HeaderMap>,
        payload: Bytes,
        timeout: Duration,
    ) -> Result<Stored, StoreError> {
        let size = payload.len();
        if size > self.client.max_payload() {
            return Err(StoreError::TooLarge(size));
        }
        let mut request = Request::new().payload(payload).timeout(Some(timeout));
        if let Some(headers) = headers {
            request = request.headers(headers);
        }
        let answer = self.client.send_request(subject.clone(), request).await.map_err(|error| match error.kind() {
            async_nats::RequestErrorKind::TimedOut => StoreError::TimedOut,
            async_nats::RequestErrorKind::NoResponders => StoreError::NoStream(subject.clone()),
            async_nats::RequestErrorKind::MaxPayloadExceeded => StoreError::TooLarge(size),
            async_nats::RequestErrorKind::InvalidSubject | async_nats::RequestErrorKind::Other => StoreError::Other(error.to_string()),
        })?;
        let ack: PubAck = serde_json::from_slice(&answer.payload).map_err(|error| StoreError::Other(format!("{subject}: {error}")))?;
        match ack.error {
            Some(error) => Err(StoreError::Refused {
                err_code: if error.err_code == 0 { error.code } else { error.err_code },
                description: error.description,
            }),
            None => Ok(Stored { stream: ack.stream, seq: ack.seq, duplicate: ack.duplicate }),
        }
    }

    /// Tries until it is stored, refused, or `deadline` is over. Where the stream has a duplicate window, pass the same
    /// `Nats-Msg-Id` in `headers`; elsewhere readers recognise repeats.
    ///
    /// # Errors
    /// [`StoreError`], the last one.
    pub async fn store(
        &self,
        subject: String,
        headers: Option<HeaderMap>,
        payload: Bytes,
        deadline: Duration,
    ) -> Result<Stored, StoreError> {
        let end = tokio::time::Instant::now() + deadline;
        let mut pause = Duration::from_millis(20);
        loop {
            match self.store_once(subject.clone(), headers.clone(), payload.clone(), Duration::from_secs(2)).await {
                Err(error) if error.is_transient() && tokio::time::Instant::now() < end => {
                    tracing::debug!(%error, subject, "storing again");
                    tokio::time::sleep(pause).await;
                    pause = (pause * 2).min(Duration::from_secs(1));
                }
                answer => return answer,
            }
        }
    }

    /// Acknowledges a pulled message and waits until the server has noted it.
    ///
    /// # Errors
    /// Where no answer comes: the message may come again.
    pub async fn ack_confirmed(&self, ack_subject: &str) -> Result<(), StoreError> {
        match self.client.request(ack_subject.to_owned(), Bytes::from_static(b"+ACK")).await {
            Ok(_) => Ok(()),
            Err(error) if error.kind() == async_nats::RequestErrorKind::TimedOut => Err(StoreError::TimedOut),
            Err(error) => Err(StoreError::Other(error.to_string())),
        }
    }

    /// Acknowledges pulled messages of one consumer and waits until the server has noted all of them. It notes what one connection
    /// acknowledges in the order in which it came, so the answer about the last stands for those before it.
    ///
    /// # Errors
    /// Where no answer comes: some may come again.
    pub async fn ack_all_confirmed(&self, ack_subjects: &[String]) -> Result<(), StoreError> {
        let Some((last, others)) = ack_subjects.split_last() else { return Ok(()) };
        for one in others {
            let sent = self.client.publish(one.clone(), Bytes::from_static(b"+ACK")).await;
            sent.map_err(|error| StoreError::Other(error.to_string()))?;
        }
        self.ack_confirmed(last).await
    }

    /// Holds a pulled message a while longer, and waits until the server has noted it.
    ///
    /// # Errors
    /// Where no answer comes: the lease is not renewed.
    pub async fn renew_confirmed(&self, ack_subject: &str) -> Result<(), StoreError> {
        let renewal = Request::new().payload(Bytes::from_static(b"+WPI")).timeout(Some(RENEW_WITHIN));
        match self.client.send_request(ack_subject.to_owned(), renewal).await {
            Ok(_) => Ok(()),
            Err(error) => Err(StoreError::Other(error.to_string())),
        }
    }

    /// Gives a pulled message back; it comes again after `delay`.
    ///
    /// # Errors
    /// Where the connection is gone: it comes again after ack_wait.
    pub async fn give_back(&self, ack_subject: &str, delay: Duration) -> Result<(), StoreError> {
        self.client.publish(ack_subject.to_owned(), not_now(delay).into()).await.map_err(|error| StoreError::Other(error.to_string()))
    }
}
