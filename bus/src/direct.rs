//! Reading streams without a consumer: direct get, alone and in batches, and reading from the stream's leader.
//!
//! Any replica answers a direct get, so on a hub of three nodes the answer can be a moment old; on the losing side of a cut, longer. What
//! it shows is stored for ever or until a newer message takes its place; what it does not show may be there all the same. So whoever
//! concludes something from *nothing is there*, or from a value that changes, asks the leader: the functions with `leader` and `sure`.

use std::time::Duration;

use async_nats::HeaderMap;
use bytes::Bytes;
use futures::StreamExt;
use serde::Deserialize;
use serde_json::json;

use crate::Bus;

/// One message as it is stored.
#[derive(Debug, Clone)]
pub struct StoredMessage {
    pub subject: String,
    pub seq: u64,
    /// Stream time, Unix milliseconds.
    pub time_ms: u64,
    pub headers: HeaderMap,
    pub payload: Bytes,
}

/// Where a stream begins and ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct StreamEnd {
    pub first_seq: u64,
    pub last_seq: u64,
    pub messages: u64,
    /// When the stream was made, in Unix nanoseconds: another one of the same name and length has another time.
    pub created_ns: i128,
}

#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ReadError {
    #[error("no answer from stream {0} in time")]
    TimedOut(String),
    #[error("stream {stream} cannot be read: {reason}")]
    Refused { stream: String, reason: String },
}

const WAIT: Duration = Duration::from_secs(5);

impl Bus {
    /// The last message on a subject, if there is one.
    ///
    /// # Errors
    /// [`ReadError`].
    pub async fn last_by_subject(&self, stream: &str, subject: &str) -> Result<Option<StoredMessage>, ReadError> {
        let messages = self.get(stream, json!({"last_by_subj": subject}), 1).await?;
        Ok(messages.into_iter().next())
    }

    /// Up to `batch` messages from sequence `from` on, in order; fewer or none at the end of the stream.
    ///
    /// # Errors
    /// [`ReadError`].
    pub async fn from_seq(&self, stream: &str, from: u64, batch: usize) -> Result<Vec<StoredMessage>, ReadError> {
        self.get(stream, json!({"seq": from.max(1), "batch": batch}), batch).await
    }

    /// Up to `batch` messages of a subject from sequence `from` on.
    ///
    /// # Errors
    /// [`ReadError`].
    pub async fn next_by_subject(&self, stream: &str, subject: &str, from: u64, batch: usize) -> Result<Vec<StoredMessage>, ReadError> {
        let question = match batch {
            // One alone needs no subscription of its own.
            1 => json!({"seq": from.max(1), "next_by_subj": subject}),
            _ => json!({"seq": from.max(1), "next_by_subj": subject, "batch": batch}),
        };
        self.get(stream, question, batch).await
    }

    /// Up to `batch` messages of a subject from a stream time (Unix milliseconds) on.
    ///
    /// # Errors
    /// [`ReadError`].
    pub async fn next_by_subject_since(
        &self,
        stream: &str,
        subject: &str,
        since_ms: u64,
        batch: usize,
    ) -> Result<Vec<StoredMessage>, ReadError> {
        let start = jiff::Timestamp::from_millisecond(i64::try_from(since_ms).unwrap_or(i64::MAX)).unwrap_or(jiff::Timestamp::UNIX_EPOCH);
        self.get(stream, json!({"start_time": start.to_string(), "next_by_subj": subject, "batch": batch}), batch).await
    }

    /// The last message of each subject that matches; at most 1,024 subjects.
    ///
    /// # Errors
    /// [`ReadError`]; also where more than 1,024 subjects match (read by sequence then).
    pub async fn multi_last(&self, stream: &str, subjects: &[&str]) -> Result<Vec<StoredMessage>, ReadError> {
        self.get(stream, json!({"multi_last": subjects, "batch": 1000}), 1024).await
    }

    async fn get(&self, stream: &str, question: serde_json::Value, expected: usize) -> Result<Vec<StoredMessage>, ReadError> {
        let subject = format!("{}.DIRECT.GET.{stream}", self.api_prefix);
        let refused = |reason: String| ReadError::Refused { stream: stream.to_owned(), reason };
        let batched = question.get("batch").is_some();
        let payload = Bytes::from(question.to_string());
        if !batched {
            let answer = self.client.request(subject, payload).await.map_err(|error| match error.kind() {
                async_nats::RequestErrorKind::TimedOut => ReadError::TimedOut(stream.to_owned()),
                async_nats::RequestErrorKind::NoResponders
                | async_nats::RequestErrorKind::MaxPayloadExceeded
                | async_nats::RequestErrorKind::InvalidSubject
                | async_nats::RequestErrorKind::Other => refused(error.to_string()),
            })?;
            if let Some(message) = read(&answer) {
                return Ok(vec![message]);
            }
            return match answer.status.map(|status| status.as_u16()) {
                Some(404) => Ok(vec![]),
                Some(status) if status >= 400 => Err(refused(format!("status {status} {}", answer.description.unwrap_or_default()))),
                _ => Ok(vec![]),
            };
        }
        let inbox = self.client.new_inbox();
        let mut answers = self.client.subscribe(inbox.clone()).await.map_err(|error| refused(error.to_string()))?;
        self.client.publish_with_reply(subject, inbox, payload).await.map_err(|error| refused(error.to_string()))?;
        let mut messages = Vec::with_capacity(expected.min(1024));
        loop {
            let answer = tokio::time::timeout(WAIT, answers.next())
                .await
                .map_err(|_| ReadError::TimedOut(stream.to_owned()))?
                .ok_or_else(|| ReadError::TimedOut(stream.to_owned()))?;
            if let Some(message) = read(&answer) {
                messages.push(message);
                continue;
            }
            match answer.status.map(|status| status.as_u16()) {
                Some(204 | 404) => break,
                Some(status) if status >= 400 => {
                    return Err(refused(format!("status {status} {}", answer.description.unwrap_or_default())));
                }
                _ => {}
            }
        }
        Ok(messages)
    }

    /// The payload of one message by sequence, from the stream's leader: never old.
    ///
    /// # Errors
    /// [`ReadError`].
    pub async fn from_leader(&self, stream: &str, seq: u64) -> Result<Option<Bytes>, ReadError> {
        Ok(self.leader(stream, json!({"seq": seq})).await?.map(|message| message.payload))
    }

    /// The last message on a subject, from the stream's leader: for a value that changes.
    ///
    /// # Errors
    /// [`ReadError`].
    pub async fn last_from_leader(&self, stream: &str, subject: &str) -> Result<Option<StoredMessage>, ReadError> {
        self.leader(stream, json!({"last_by_subj": subject})).await
    }

    /// The last message of each of the subjects that have one, from the stream's leader, in the order of the subjects.
    ///
    /// # Errors
    /// [`ReadError`], the first one.
    pub async fn each_last_from_leader(&self, stream: &str, subjects: &[String]) -> Result<Vec<StoredMessage>, ReadError> {
        let asked = subjects.iter().map(|subject| self.last_from_leader(stream, subject));
        Ok(futures::future::try_join_all(asked).await?.into_iter().flatten().collect())
    }

    /// The last message on a subject whose messages are all the same, so that any answer is right; where a replica has none, the leader is
    /// asked.
    ///
    /// # Errors
    /// [`ReadError`].
    pub async fn last_sure(&self, stream: &str, subject: &str) -> Result<Option<StoredMessage>, ReadError> {
        match self.last_by_subject(stream, subject).await? {
            Some(message) => Ok(Some(message)),
            None => self.last_from_leader(stream, subject).await,
        }
    }

    /// As [`Self::from_seq`]; none only where the leader has none either.
    ///
    /// # Errors
    /// [`ReadError`].
    pub async fn from_seq_sure(&self, stream: &str, from: u64, batch: usize) -> Result<Vec<StoredMessage>, ReadError> {
        let messages = self.from_seq(stream, from, batch).await?;
        self.or_next_of_leader(stream, ">", from, messages).await
    }

    /// As [`Self::next_by_subject`]; none only where the leader has none either.
    ///
    /// # Errors
    /// [`ReadError`].
    pub async fn next_by_subject_sure(
        &self,
        stream: &str,
        subject: &str,
        from: u64,
        batch: usize,
    ) -> Result<Vec<StoredMessage>, ReadError> {
        let messages = self.next_by_subject(stream, subject, from, batch).await?;
        self.or_next_of_leader(stream, subject, from, messages).await
    }

    async fn or_next_of_leader(
        &self,
        stream: &str,
        subject: &str,
        from: u64,
        messages: Vec<StoredMessage>,
    ) -> Result<Vec<StoredMessage>, ReadError> {
        if !messages.is_empty() {
            return Ok(messages);
        }
        let next = self.leader(stream, json!({"seq": from.max(1), "next_by_subj": subject})).await?;
        Ok(next.into_iter().collect())
    }

    /// One message as the stream's leader has it.
    async fn leader(&self, stream: &str, question: serde_json::Value) -> Result<Option<StoredMessage>, ReadError> {
        #[derive(Deserialize)]
        struct Answer {
            message: Option<Message>,
            error: Option<ApiError>,
        }
        #[derive(Deserialize)]
        struct Message {
            subject: String,
            seq: u64,
            time: jiff::Timestamp,
            #[serde(default)]
            hdrs: String,
            #[serde(default)]
            data: String,
        }
        let answer: Answer = self.api(stream, &format!("STREAM.MSG.GET.{stream}"), question).await?;
        match (answer.message, answer.error) {
            (Some(message), _) => Ok(Some(StoredMessage {
                subject: message.subject,
                seq: message.seq,
                time_ms: u64::try_from(message.time.as_millisecond()).unwrap_or(0),
                headers: headers(&base64(&message.hdrs)),
                payload: base64(&message.data).into(),
            })),
            (None, Some(error)) if error.code == 404 => Ok(None),
            (None, Some(error)) => Err(ReadError::Refused { stream: stream.to_owned(), reason: error.description }),
            (None, None) => Ok(None),
        }
    }

    /// First and last sequence and the number of messages, from the leader. The answer also tells the hub's time, which is
    /// observed.
    ///
    /// # Errors
    /// [`ReadError`].
    pub async fn stream_end(&self, stream: &str) -> Result<StreamEnd, ReadError> {
        #[derive(Deserialize)]
        struct Answer {
            state: Option<State>,
            created: Option<jiff::Timestamp>,
            /// When the server made the answer.
            ts: Option<jiff::Timestamp>,
            error: Option<ApiError>,
        }
        #[derive(Deserialize)]
        struct State {
            first_seq: u64,
            last_seq: u64,
            messages: u64,
        }
        let answer: Answer = self.api(stream, &format!("STREAM.INFO.{stream}"), json!({})).await?;
        if let Some(ms) = answer.ts.and_then(|ts| u64::try_from(ts.as_millisecond()).ok()) {
            self.time.observe(ms);
        }
        match (answer.state, answer.error) {
            (Some(state), _) => Ok(StreamEnd {
                first_seq: state.first_seq,
                last_seq: state.last_seq,
                messages: state.messages,
                created_ns: answer.created.map_or(0, jiff::Timestamp::as_nanosecond),
            }),
            (None, error) => {
                Err(ReadError::Refused { stream: stream.to_owned(), reason: error.map_or_else(String::new, |error| error.description) })
            }
        }
    }

    pub(crate) async fn api<A: serde::de::DeserializeOwned>(
        &self,
        stream: &str,
        call: &str,
        question: serde_json::Value,
    ) -> Result<A, ReadError> {
        let answer = self.client.request(format!("{}.{call}", self.api_prefix), question.to_string().into()).await.map_err(|error| {
            match error.kind() {
                async_nats::RequestErrorKind::TimedOut => ReadError::TimedOut(stream.to_owned()),
                async_nats::RequestErrorKind::NoResponders
                | async_nats::RequestErrorKind::MaxPayloadExceeded
                | async_nats::RequestErrorKind::InvalidSubject
                | async_nats::RequestErrorKind::Other => ReadError::Refused { stream: stream.to_owned(), reason: error.to_string() },
            }
        })?;
        serde_json::from_slice(&answer.payload).map_err(|error| ReadError::Refused { stream: stream.to_owned(), reason: error.to_string() })
    }
}

#[derive(Deserialize)]
struct ApiError {
    #[serde(default)]
    code: u32,
    #[serde(default)]
    description: String,
}

/// What the server says of a stored message comes after the headers that were stored with it, whatever their names; so the last value
/// of a name is the server's. An answer without a sequence is the server's own, whatever status a stored message had.
fn read(answer: &async_nats::Message) -> Option<StoredMessage> {
    let headers = answer.headers.clone()?;
    let text = |name: &str| headers.get_last(name).map(|value| value.as_str().to_owned());
    let seq = text("Nats-Sequence")?.parse().ok()?;
    let time: jiff::Timestamp = text("Nats-Time-Stamp")?.parse().ok()?;
    Some(StoredMessage {
        subject: text("Nats-Subject")?,
        seq,
        time_ms: u64::try_from(time.as_millisecond()).unwrap_or(0),
        headers,
        payload: answer.payload.clone(),
    })
}

/// Headers as they are stored: a line that says so, then one for each. A line that is none was a publisher's, and is left out.
fn headers(stored: &[u8]) -> HeaderMap {
    let mut headers = HeaderMap::new();
    for line in String::from_utf8_lossy(stored).split("\r\n").skip(1) {
        let Some((name, value)) = line.split_once(':').filter(|(name, _)| !name.is_empty()) else { continue };
        let (name, value) = (name.parse::<async_nats::HeaderName>(), value.trim().parse::<async_nats::HeaderValue>());
        if let (Ok(name), Ok(value)) = (name, value) {
            headers.append(name, value);
        }
    }
    headers
}

fn base64(text: &str) -> Vec<u8> {
    data_encoding::BASE64.decode(text.as_bytes()).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn stored_headers_are_read_as_far_as_they_are_some() {
        let headers = headers(b"NATS/1.0\r\nMesh-Key: a\r\nno header\r\n: x\r\nMesh-Sig:b:c \r\n\r\n");
        let text = |name: &str| headers.get_last(name).map(|value| value.as_str().to_owned());
        assert_eq!((text("Mesh-Key").as_deref(), text("Mesh-Sig").as_deref(), headers.len()), (Some("a"), Some("b:c"), 2));
        assert_eq!(super::headers(b"").len(), 0);
    }
}
