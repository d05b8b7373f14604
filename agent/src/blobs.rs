//! Large inputs and results: blobs with a content id, in chunks, through the gateway's door.

use std::time::Duration;

use async_nats::Message;
use async_nats::client::Request;
use bus::Bus;
use bus_schemas::api::{BLOB_CHUNKS_HEADER, ask};
use bus_schemas::envelope::encode;
use bus_schemas::id::Asker;
use bus_schemas::limits::{BLOB_BYTES_MAX, BLOB_CHUNK, JOB_BYTES_MAX};
use bus_schemas::subject::api;
use bus_schemas::{Cid, Code, Form, Problem, strict};
use bytes::Bytes;
use futures::{StreamExt, TryStreamExt};
use serde::Deserialize;
use serde_bytes::ByteBuf;

use crate::link::error_of;

/// Chunks on their way at once: enough to fill the link, few enough to leave room for heartbeats.
const IN_FLIGHT: usize = 4;
const WAIT: Duration = Duration::from_secs(10);
const PAUSE: Duration = Duration::from_millis(500);

/// The door to blobs, as one device that shows the assignment it works for. Cheap to clone.
#[derive(Clone)]
pub struct Blobs {
    uplink: Bus,
    asker: Asker,
    /// The signed assignment, as MessagePack `Proof`.
    assignment: ByteBuf,
}

impl Blobs {
    pub fn new(uplink: Bus, asker: Asker, assignment: Vec<u8>) -> Self {
        Self { uplink, asker, assignment: ByteBuf::from(assignment) }
    }

    /// Stores a blob; trying again while the hub is away, for as long as the caller waits.
    ///
    /// # Errors
    /// What the gateway refuses, by code.
    pub async fn put(&self, cid: Cid, bytes: Bytes) -> Result<(), Problem> {
        if bytes.len() > BLOB_BYTES_MAX {
            return Err(Problem::new(
                Code::TooLarge,
                format!("the result has {} bytes, at most {BLOB_BYTES_MAX} are allowed", bytes.len()),
            ));
        }
        let ranges = (0..bytes.len()).step_by(BLOB_CHUNK).map(|from| bytes.slice(from..bytes.len().min(from + BLOB_CHUNK)));
        let put = |chunk: Bytes| async move {
            let id = Cid::of(&chunk);
            self.ask("blob.put", encode(&ask::BlobPut { data: ByteBuf::from(chunk.to_vec()) })).await.map(|_| id)
        };
        let chunks: Vec<Cid> = futures::stream::iter(ranges.map(put)).buffered(IN_FLIGHT).try_collect().await?;
        let commit = ask::BlobCommit { cid, chunks, assignment: Some(self.assignment.clone()) };
        self.ask("blob.commit", encode(&commit)).await.map(|_| ())
    }

    /// Reads a blob and checks that it is the one that was asked for.
    ///
    /// # Errors
    /// What the gateway refuses; [`Code::NoSuchBlob`] where the bytes are others.
    pub async fn get(&self, cid: Cid) -> Result<Vec<u8>, Problem> {
        let first = self.chunk(cid, 0).await?;
        let number =
            |name: &str| first.headers.as_ref().and_then(|headers| headers.get(name)).and_then(|text| text.as_str().parse::<u32>().ok());
        let chunks = number(BLOB_CHUNKS_HEADER).unwrap_or(1);
        if chunks as usize > BLOB_BYTES_MAX / BLOB_CHUNK + 1 {
            return Err(Problem::new(Code::TooLarge, format!("blob {cid} has {chunks} chunks")));
        }
        let rest: Vec<Message> =
            futures::stream::iter((1..chunks).map(|chunk| self.chunk(cid, chunk))).buffered(IN_FLIGHT).try_collect().await?;
        let mut bytes = first.payload.to_vec();
        rest.iter().for_each(|answer| bytes.extend_from_slice(&answer.payload));
        if Cid::of(&bytes) == cid { Ok(bytes) } else { Err(Problem::new(Code::NoSuchBlob, format!("blob {cid} came with other bytes"))) }
    }

    async fn chunk(&self, cid: Cid, chunk: u32) -> Result<Message, Problem> {
        self.ask("blob.get", encode(&ask::BlobGet { cid, chunk, assignment: Some(self.assignment.clone()) })).await
    }

    /// Asks until there is an answer.
    async fn ask(&self, call: &str, question: Vec<u8>) -> Result<Message, Problem> {
        let question = Bytes::from(question);
        loop {
            let mut pause = PAUSE;
            let request = Request::new().payload(question.clone()).timeout(Some(WAIT));
            match self.uplink.client.send_request(api(&self.asker, call), request).await {
                Ok(answer) => match error_of(&answer).map(Problem::from) {
                    None => return Ok(answer),
                    Some(problem) if matches!(problem.code, Code::Unavailable | Code::TooManyWaiting | Code::TooFast) => {
                        pause = pause.max(Duration::from_millis(problem.wait_ms.map_or(0, |wait| wait.get().into())).min(WAIT));
                        tracing::debug!(call, %problem, "asking again");
                    }
                    Some(problem) => return Err(problem),
                },
                Err(error) => match error.kind() {
                    async_nats::RequestErrorKind::TimedOut
                    | async_nats::RequestErrorKind::NoResponders
                    | async_nats::RequestErrorKind::Other => {
                        tracing::debug!(call, %error, "asking again");
                    }
                    async_nats::RequestErrorKind::MaxPayloadExceeded | async_nats::RequestErrorKind::InvalidSubject => {
                        return Err(Problem::new(Code::TooLarge, format!("{call}: {error}")));
                    }
                },
            }
            tokio::time::sleep(pause).await;
        }
    }
}

/// The texts of an input blob: a line each, `{"text":…}`; blank lines do not count.
///
/// # Errors
/// The first line that is not one, by number, what is wrong with the texts, or that there are more than the `units` that were quoted.
pub fn texts(bytes: &[u8], units: u32) -> Result<Vec<String>, Problem> {
    #[derive(Deserialize)]
    #[serde(deny_unknown_fields)]
    struct Line {
        text: String,
    }
    let lines = bytes.split(|byte| *byte == b'\n').enumerate().filter(|(_, line)| !line.trim_ascii().is_empty());
    let texts = lines.map(|(number, line)| {
        let read: Result<Line, Problem> = strict::decode(Form::Json, line, JOB_BYTES_MAX);
        read.map(|line| line.text).map_err(|problem| Problem::new(problem.code, format!("line {}: {}", number + 1, problem.detail)))
    });
    let texts = texts.collect::<Result<Vec<_>, _>>()?;
    bus_schemas::job::check_texts(&texts)?;
    if texts.len() > units as usize {
        let detail = format!("the blob holds {0} texts, the job was quoted for {units}; send it with units: {0}", texts.len());
        return Err(Problem::new(Code::BadValue, detail));
    }
    Ok(texts)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_is_a_text() {
        assert_eq!(texts(b"{\"text\":\"a\"}\n\n {\"text\":\" \"}\r\n", 2).unwrap(), ["a", " "]);
        let cases: [(&[u8], Code, &str); 6] = [
            (b"{\"text\":\"a\"}\n{\"text\":\"b\"}\n{\"text\":\"c\"}", Code::BadValue, "send it with units: 3"),
            (b"", Code::EmptyText, "the list"),
            (b"{\"text\":\"a\"}\n{\"text\":\"\"}", Code::EmptyText, "text 2"),
            (b"{\"text\":\"a\"}\nb", Code::NotJson, "line 2"),
            (b"{\"text\":\"a\",\"id\":1}", Code::UnknownField, "line 1"),
            (b"{\"text\":\"\xff\"}", Code::NotUtf8, "line 1"),
        ];
        for (bytes, code, says) in cases {
            let problem = texts(bytes, 2).unwrap_err();
            assert!(problem.code == code && problem.detail.contains(says), "{problem:?}");
        }
    }
}
