//! Parts of a result that are kept while it is computed. Each is a blob of the job's member; the network is told of one only when it
//! and all before it are stored, so that whoever hears of it can go on behind it.

use bus_schemas::api::BlobRef;
use bus_schemas::event::{Checkpoint, EventKind};
use bus_schemas::id::Asker;
use bus_schemas::limits::BLOB_BYTES_MAX;
use bus_schemas::{AttemptId, Code, Problem};
use serde::Deserialize;
use tokio::sync::mpsc;
use tokio::task::AbortHandle;

use super::state::{Agent, Happened, Stage};
use crate::blobs::Blobs;
use crate::crash;
use crate::executor::Part;
use crate::local::Local;

/// Stores the parts of one attempt, one after the other; dropped, it stops.
pub struct Parts {
    queue: mpsc::UnboundedSender<Part>,
    storing: AbortHandle,
}
impl Drop for Parts {
    fn drop(&mut self) {
        self.storing.abort();
    }
}

impl Agent {
    /// A part has come from the engine.
    pub fn on_part(&mut self, attempt: AttemptId, part: Part) {
        let (uplink, device, happened, local) = (self.uplink.clone(), self.trust.device, self.happened.clone(), self.local.clone());
        let Some(held) = self.held.get_mut(&attempt).filter(|held| held.stage == Stage::Computing) else { return };
        if held.parts.is_none() {
            let Some(proof) = held.shown.proof() else { return };
            let blobs = Blobs::new(uplink, Asker::Device(device), proof.encode());
            held.parts = Some(Parts::start(attempt, blobs, local.filter(|_| held.kept), happened));
        }
        if let Some(parts) = &held.parts {
            // Where storing has ended no later part could be used either.
            let _ = parts.queue.send(part);
        }
    }

    pub fn on_part_stored(&mut self, attempt: AttemptId, checkpoint: Checkpoint) {
        let Some(held) = self.held.get_mut(&attempt) else { return };
        crash::point("after_part");
        held.newest = Some(checkpoint);
        tracing::debug!(%attempt, units = checkpoint.units, "kept");
        self.event(&attempt, EventKind::Checkpoint(checkpoint));
    }
}

impl Parts {
    /// `work`: where this device keeps the job, so that it can go on behind a part itself.
    fn start(attempt: AttemptId, blobs: Blobs, work: Option<Local>, happened: mpsc::UnboundedSender<Happened>) -> Self {
        let (queue, mut parts) = mpsc::unbounded_channel::<Part>();
        let storing = tokio::spawn(async move {
            while let Some(Part { bytes, cid, units }) = parts.recv().await {
                let checkpoint = Checkpoint { cid, bytes: bytes.len() as u64, units };
                if let Err(problem) = blobs.put(cid, bytes.into()).await {
                    tracing::warn!(%attempt, %problem, "a part of the result could not be stored: no more are kept");
                    return;
                }
                // For this device itself, should it start anew.
                if let Some(local) = &work
                    && let Err(problem) = local.keep_on(&attempt, checkpoint).await
                {
                    tracing::debug!(%attempt, %problem, "WORK does not know how far it is");
                }
                let _ = happened.send(Happened::PartStored(attempt, checkpoint));
            }
        });
        Self { queue, storing: storing.abort_handle() }
    }
}

/// What a checkpoint stands for, the first texts first. Where it cannot be had, the work begins anew: that costs time, nothing else.
pub async fn fetch(blobs: &Blobs, resume: Option<Checkpoint>) -> Vec<Vec<u8>> {
    let Some(newest) = resume else { return vec![] };
    match chain(blobs, newest).await {
        Ok(parts) => parts,
        Err(problem) => {
            tracing::warn!(cid = %newest.cid, %problem, "a checkpoint cannot be used; the job begins anew");
            vec![]
        }
    }
}

async fn chain(blobs: &Blobs, newest: Checkpoint) -> Result<Vec<Vec<u8>>, Problem> {
    let mut parts = Vec::new();
    let (mut next, mut end, mut bytes) = (Some(newest.cid), newest.units, 0);
    while let Some(cid) = next {
        let part = blobs.get(cid).await?;
        bytes += part.len();
        let link = link(&part, end, bytes)?;
        (next, end) = (link.before.map(|before| before.cid), link.from);
        parts.push(part);
    }
    parts.reverse();
    Ok(parts)
}

/// Where a part begins, and the one before it.
#[derive(Deserialize)]
struct Link {
    from: u32,
    #[serde(default)]
    before: Option<BlobRef>,
}

/// Reads a part that ends before text `end`, where all so far have `bytes`. Each begins earlier, so that no chain is endless.
fn link(part: &[u8], end: u32, bytes: usize) -> Result<Link, Problem> {
    let link: Link = serde_json::from_slice(part).map_err(|error| Problem::new(Code::BadValue, format!("no part of a result: {error}")))?;
    if bytes > BLOB_BYTES_MAX {
        return Err(Problem::new(Code::TooLarge, format!("its parts have more than {BLOB_BYTES_MAX} bytes")));
    }
    if link.from >= end || (link.from == 0) != link.before.is_none() {
        return Err(Problem::new(Code::BadValue, format!("a part from text {} does not fit before text {end}", link.from)));
    }
    Ok(link)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_chain_goes_back_to_the_first_text() {
        let cid = bus_schemas::Cid::of(b"x");
        let before = format!(r#""before":{{"cid":"{cid}","bytes":7}}"#);
        for (part, end, good) in [
            (r#"{"from":0,"vectors":[]}"#.to_owned(), 10, true),
            (format!(r#"{{"from":9,{before}}}"#), 10, true),
            (format!(r#"{{"from":10,{before}}}"#), 10, false),
            (format!(r#"{{"from":0,{before}}}"#), 10, false),
            (r#"{"from":5}"#.to_owned(), 10, false),
            (r#"{"from":-1}"#.to_owned(), 10, false),
            ("[]".to_owned(), 10, false),
            (String::new(), 10, false),
        ] {
            assert_eq!(link(part.as_bytes(), end, 1).is_ok(), good, "{part}");
        }
        assert_eq!(link(br#"{"from":0}"#, 10, BLOB_BYTES_MAX + 1).err().unwrap().code, Code::TooLarge);
    }
}
