//! Storing one message at one place of LEDGER, or learning that another writer is at work.
//!
//! The expectation fences: the stream takes the message only as the next one. An append without an answer is repeated with the
//! same id and the same expectation; where that is refused, the message at this place says whose it is.

use std::time::Duration;

use bus::Bus;
use bus::async_nats::HeaderMap;
use bus::store::StoreError;
use bus_schemas::id::sha256;
use bus_schemas::{stream, subject};
use tokio::time::Instant;

use crate::freshness::Moment;
use crate::round::Message;

/// Why a message is not known to be stored. Each ends the turn of this writer; the books are built again.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum NotStored {
    #[error("another writer is at work: {0}")]
    Fenced(String),
    #[error("the stream refuses facts: {0} (next: is its disk full? nats stream info LEDGER; mesh-gateway bootstrap streams)")]
    Refused(String),
    #[error("the stream gave no answer within {0:?}")]
    Silent(Duration),
}

const TRY: Duration = Duration::from_secs(2);

/// Stores a message as sequence `message.seq`; returns since when the stream surely ends with it, if that is known. `silent` hears of each try that
/// got no answer.
///
/// # Errors
/// [`NotStored`].
pub async fn append(bus: &Bus, message: &Message, patience: Duration, silent: impl Fn(&str)) -> Result<Moment, NotStored> {
    let expected = message.seq - 1;
    let mut headers = HeaderMap::new();
    headers.insert("Nats-Expected-Last-Sequence", expected.to_string());
    headers.insert(subject::header::NATS_MSG_ID, message_id(message.seq, &message.payload));
    let end = Instant::now() + patience;
    let mut pause = Duration::from_millis(10);
    let mut repeated = false;
    loop {
        let sent = Moment::now();
        match bus.store_once(subject::LEDGER_FACTS.to_owned(), Some(headers.clone()), message.payload.clone(), TRY).await {
            // A repeat may have been stored long ago, with others behind it since: it says nothing about the stream's end.
            Ok(stored) if stored.seq == message.seq => return Ok(if repeated { Moment::never() } else { sent }),
            Ok(stored) => return Err(NotStored::Fenced(format!("the message stands at {}, not at {}", stored.seq, message.seq))),
            Err(StoreError::Refused { err_code: StoreError::WRONG_LAST_SEQUENCE, description }) if !repeated => {
                return Err(NotStored::Fenced(description));
            }
            Err(StoreError::Refused { err_code: StoreError::WRONG_LAST_SEQUENCE, description }) => {
                // One node checks the sequence before the id, so a repeat of our own stored message looks like this as well.
                match bus.from_leader(stream::LEDGER, message.seq).await {
                    Ok(Some(stored)) if stored == message.payload => return Ok(Moment::never()),
                    Ok(Some(_)) => return Err(NotStored::Fenced(format!("sequence {} is another's", message.seq))),
                    Ok(None) => return Err(NotStored::Fenced(format!("{description}, and nothing stands at {}", message.seq))),
                    Err(error) => {
                        tracing::warn!(%error, seq = message.seq, "cannot see whose message this is; trying again");
                        silent(&error.to_string());
                    }
                }
            }
            Err(error) if error.is_transient() => {
                tracing::warn!(%error, seq = message.seq, "no answer to an append; repeating it");
                silent(&error.to_string());
            }
            Err(error) => return Err(NotStored::Refused(error.to_string())),
        }
        if Instant::now() >= end {
            return Err(NotStored::Silent(patience));
        }
        repeated = true;
        tokio::time::sleep(pause).await;
        pause = (pause * 2).min(Duration::from_secs(1));
    }
}

/// The same for the same bytes at the same place, so that a repeat inside the duplicate window is recognised. Equal bytes at two
/// places (anybody's, stored again by a reseed) are two messages.
fn message_id(seq: u64, payload: &[u8]) -> String {
    sha256(&[&seq.to_be_bytes(), payload].concat())[..16].iter().map(|byte| format!("{byte:02x}")).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_message_is_its_bytes_at_its_place() {
        assert_eq!(message_id(7, b"x"), message_id(7, b"x"), "a repeat");
        assert_ne!(message_id(7, b"x"), message_id(8, b"x"), "equal bytes at another place");
        assert_ne!(message_id(7, b"x"), message_id(7, b"y"), "other bytes at the same place");
        assert_eq!(message_id(7, b"x").len(), 32);
    }
}
