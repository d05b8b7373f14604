//! Request and reply in MessagePack.

use std::time::Duration;

use async_nats::client::Request;
use bytes::Bytes;
use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::Bus;

#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum AskError {
    /// Nobody listens there: a definite no.
    #[error("nobody listens on {0}")]
    Nobody(String),
    /// A missing answer is no refusal.
    #[error("no answer in time")]
    TimedOut,
    #[error("the answer cannot be read: {0}")]
    Unreadable(String),
    #[error("failed to ask: {0}")]
    Other(String),
}

impl Bus {
    /// Sends bytes and waits for the answer's bytes.
    ///
    /// # Errors
    /// [`AskError`].
    pub async fn ask_bytes(&self, subject: String, payload: Bytes, timeout: Duration) -> Result<Bytes, AskError> {
        let request = Request::new().payload(payload).timeout(Some(timeout));
        match self.client.send_request(subject.clone(), request).await {
            Ok(answer) => Ok(answer.payload),
            Err(error) => Err(match error.kind() {
                async_nats::RequestErrorKind::NoResponders => AskError::Nobody(subject),
                async_nats::RequestErrorKind::TimedOut => AskError::TimedOut,
                async_nats::RequestErrorKind::MaxPayloadExceeded
                | async_nats::RequestErrorKind::InvalidSubject
                | async_nats::RequestErrorKind::Other => AskError::Other(error.to_string()),
            }),
        }
    }

    /// Sends a value as named MessagePack and reads the answer likewise.
    ///
    /// # Errors
    /// [`AskError`].
    pub async fn ask<Q: Serialize, A: DeserializeOwned>(&self, subject: String, question: &Q, timeout: Duration) -> Result<A, AskError> {
        let answer = self.ask_bytes(subject, bus_schemas::envelope::encode(question).into(), timeout).await?;
        bus_schemas::strict::decode(bus_schemas::Form::Msgpack, &answer, 1 << 20)
            .map_err(|problem| AskError::Unreadable(problem.to_string()))
    }
}
