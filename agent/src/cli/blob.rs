//! `mesh blob`: content by its hash, in chunks.

use std::str::FromStr;

use bus_schemas::api::{BLOB_CHUNKS_HEADER, BlobStored, ask};
use bus_schemas::{Cid, Code, limits};
use futures::{StreamExt, TryStreamExt};
use serde::Serialize;
use serde_bytes::ByteBuf;

use super::args::{BlobCommand, Cli};
use super::client::{Session, read, read_input};
use super::failure::{Done, End, Failure};
use super::output::{self, Output};

/// Chunks on their way at once.
const IN_FLIGHT: usize = 4;

/// `mesh blob …`.
pub async fn run(cli: &Cli, command: &BlobCommand, output: &Output) -> Done {
    match command {
        BlobCommand::Put { file } => {
            let content = read_input(file)?;
            let session = Session::open(cli).await?;
            let stored = put(&session, &content).await?;
            output.print("blob.put", &stored, || stored.cid.to_string(), || format!("{}   {}", stored.cid, output::bytes(stored.bytes)));
        }
        BlobCommand::Get { cid, to } => {
            #[derive(Serialize)]
            struct Got {
                cid: Cid,
                bytes: u64,
                #[serde(skip_serializing_if = "Option::is_none")]
                to: Option<std::path::PathBuf>,
                /// base64, where it went to no file.
                #[serde(skip_serializing_if = "Option::is_none")]
                content: Option<String>,
            }
            let cid = Cid::from_str(cid).map_err(|error| Failure::new(Code::NoSuchBlob, error.to_string()))?;
            let session = Session::open(cli).await?;
            let content = get(&session, cid).await?;
            let bytes = content.len() as u64;
            match to {
                Some(path) => {
                    std::fs::write(path, &content).map_err(|error| Failure::new(Code::BadFile, format!("{}: {error}", path.display())))?;
                    let got = Got { cid, bytes, to: Some(path.clone()), content: None };
                    output.print("blob.get", &got, || cid.to_string(), || format!("{}   {}", path.display(), output::bytes(bytes)));
                }
                None if output.format.is_json() => {
                    let got = Got { cid, bytes, to: None, content: Some(data_encoding::BASE64.encode(&content)) };
                    output.print("blob.get", &got, || cid.to_string(), String::new);
                }
                None => {
                    use std::io::Write;
                    std::io::stdout().lock().write_all(&content)?;
                }
            }
        }
    }
    Ok(End::Fine)
}

/// Stores content; the network checks it against its id before anyone can read it.
///
/// # Errors
/// Where it is empty or too large, or the network does not take it.
pub async fn put(session: &Session, content: &[u8]) -> Result<BlobStored, Failure> {
    if content.is_empty() {
        return Err(Failure::new(Code::Empty, "an empty blob"));
    }
    if content.len() > limits::BLOB_BYTES_MAX {
        return Err(Failure::new(Code::TooLarge, format!("{} bytes, at most {} are allowed", content.len(), limits::BLOB_BYTES_MAX)));
    }
    let chunks: Vec<Cid> = futures::stream::iter(content.chunks(limits::BLOB_CHUNK))
        .map(|chunk| async move {
            let answer = session.ask_msgpack("blob.put", &ask::BlobPut { data: ByteBuf::from(chunk) }).await?;
            let stored: BlobStored = read("blob.put", &answer.payload)?;
            if stored.cid == Cid::of(chunk) { Ok(stored.cid) } else { Err(Failure::ours("a chunk was stored under another id")) }
        })
        .buffered(IN_FLIGHT)
        .try_collect()
        .await?;
    let commit = ask::BlobCommit { cid: Cid::of(content), chunks, assignment: None };
    let answer = session.ask_msgpack("blob.commit", &commit).await?;
    read("blob.commit", &answer.payload)
}

/// Fetches content and checks it against its id.
///
/// # Errors
/// Where it is not there, not this member's to read, or not what its id says.
pub async fn get(session: &Session, cid: Cid) -> Result<Vec<u8>, Failure> {
    let ask_chunk = |chunk: u32| async move {
        let answer = session.ask_msgpack("blob.get", &ask::BlobGet { cid, chunk, assignment: None }).await?;
        let chunks = answer
            .headers
            .as_ref()
            .and_then(|headers| headers.get(BLOB_CHUNKS_HEADER))
            .and_then(|count| count.as_str().parse::<u32>().ok());
        Ok::<_, Failure>((answer.payload, chunks))
    };
    let (first, chunks) = ask_chunk(0).await?;
    let chunks = chunks.ok_or_else(|| Failure::ours("the answer does not say how many chunks there are"))?;
    let chunks_max = u32::try_from(limits::BLOB_BYTES_MAX.div_ceil(limits::BLOB_CHUNK)).unwrap_or(u32::MAX);
    if chunks > chunks_max {
        return Err(Failure::new(Code::TooLarge, format!("{cid} has {chunks} chunks, at most {chunks_max} are allowed")));
    }
    let mut content = first.to_vec();
    let mut rest = futures::stream::iter(1..chunks).map(ask_chunk).buffered(IN_FLIGHT);
    while let Some((chunk, _)) = rest.try_next().await? {
        content.extend_from_slice(&chunk);
    }
    if Cid::of(&content) == cid { Ok(content) } else { Err(Failure::new(Code::BadSignature, format!("what came is not {cid}"))) }
}
