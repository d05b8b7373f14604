//! Writes HISTORY for what intake did, and acknowledges SUBMIT last. Nobody waits for most of it, so it runs on a tick; what an
//! answered door waits for goes at once.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use async_nats::HeaderMap;
use bus_schemas::envelope::{Body, encode};
use bus_schemas::history::HistoryRecord;
use bus_schemas::id::{Cid, MemberId};
use bus_schemas::{Form, limits, subject};
use futures::future::join_all;
use tokio::sync::{Semaphore, mpsc};

use crate::world::{World, crash_point};

/// What one batch of intake leaves behind.
#[derive(Default)]
pub struct Entry {
    pub records: Vec<HistoryRecord>,
    /// Submissions that are done once the records are stored.
    pub acks: Vec<String>,
    /// A door waits for these records.
    pub urgent: bool,
}

/// How long it tries to store before the submissions are given back; they come again, and the same is written again.
const STORE_FOR: Duration = Duration::from_secs(20);

/// Runs until the senders are gone, then writes what is left.
pub async fn run(world: Arc<World>, mut entries: mpsc::Receiver<Entry>) {
    let permits = Arc::new(Semaphore::new(4));
    let mut waiting = Vec::new();
    while entries.recv_many(&mut waiting, 256).await > 0 {
        let tick = tokio::time::sleep(world.timings.tick);
        tokio::pin!(tick);
        while !waiting.iter().any(|entry| entry.urgent) {
            tokio::select! {
                () = &mut tick => break,
                more = entries.recv_many(&mut waiting, 256) => if more == 0 { break },
            }
        }
        let Ok(permit) = permits.clone().acquire_owned().await else { break };
        let world = world.clone();
        let entries = std::mem::take(&mut waiting);
        tokio::spawn(async move {
            write(&world, entries).await;
            drop(permit);
        });
    }
    let _ = permits.acquire_many(4).await;
}

async fn write(world: &World, entries: Vec<Entry>) {
    let mut acks = Vec::new();
    let mut by_member: BTreeMap<MemberId, Vec<HistoryRecord>> = BTreeMap::new();
    for entry in entries {
        acks.extend(entry.acks);
        for record in entry.records {
            by_member.entry(record.member).or_default().push(record);
        }
    }
    let messages = by_member.into_iter().flat_map(|(member, records)| {
        cut(records.iter().map(encode).collect()).into_iter().map(move |bodies| (member, bodies)).collect::<Vec<_>>()
    });
    let stored = join_all(messages.map(|(member, bodies)| store(world, member, bodies))).await;
    crash_point("before_ack");
    let all = stored.into_iter().all(|stored| stored);
    for ack in acks {
        let done = if all {
            world.bus.client.publish(ack, "+ACK".into()).await.map_err(|error| error.to_string())
        } else {
            world.bus.give_back(&ack, Duration::from_secs(1)).await.map_err(|error| error.to_string())
        };
        if let Err(error) = done {
            tracing::debug!(error, "a submission comes again");
        }
    }
    if crate::world::crashes_at("after_ack") {
        let _ = world.bus.client.flush().await;
        crash_point("after_ack");
    }
}

async fn store(world: &World, member: MemberId, bodies: Vec<Vec<u8>>) -> bool {
    let batch = world.signer.batch_of_bytes::<HistoryRecord>(Form::Msgpack, bodies).encode();
    // Only our own parts write HISTORY, so ids cannot be taken by strangers; a repeat of the same bytes vanishes.
    let mut headers = HeaderMap::new();
    headers.insert(subject::header::NATS_MSG_ID, Cid::of(&batch).to_string());
    match world.bus.store(subject::history(&member), Some(headers), batch.into(), STORE_FOR).await {
        Ok(_) => true,
        Err(error) => {
            tracing::error!(%error, %member, "history cannot be written; the submissions come again");
            false
        }
    }
}

/// Cuts records into messages of at most 64 and about 240 KiB; one large record travels alone.
fn cut(bodies: Vec<Vec<u8>>) -> Vec<Vec<Vec<u8>>> {
    let mut messages: Vec<Vec<Vec<u8>>> = Vec::new();
    let mut bytes = 0;
    for body in bodies {
        bytes += body.len();
        match messages.last_mut() {
            Some(message) if message.len() < limits::STEP_MAX && bytes <= limits::STEP_BYTES_TARGET => message.push(body),
            Some(_) | None => {
                bytes = body.len();
                messages.push(vec![body]);
            }
        }
    }
    messages
}

const _: () = assert!(HistoryRecord::BYTES_MAX + 4096 < limits::BATCH_BYTES_MAX);

#[cfg(test)]
mod tests {
    use super::cut;

    #[test]
    fn messages_stay_small() {
        let sizes = |sizes: &[usize]| {
            let bodies = sizes.iter().map(|size| vec![0; *size]).collect();
            cut(bodies).iter().map(|message| message.iter().map(Vec::len).collect::<Vec<_>>()).collect::<Vec<_>>()
        };
        assert_eq!(sizes(&[]), Vec::<Vec<usize>>::new());
        assert_eq!(sizes(&[1, 2, 3]), [[1, 2, 3]]);
        assert_eq!(sizes(&[200_000, 100_000, 10]), [vec![200_000], vec![100_000, 10]]);
        assert_eq!(sizes(&[260_000, 260_000]), [[260_000], [260_000]]);
        assert_eq!(cut(vec![vec![0]; 130]).iter().map(Vec::len).collect::<Vec<_>>(), [64, 64, 2]);
    }
}
