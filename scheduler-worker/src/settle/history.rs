//! Stores records of HISTORY: batches of one member's records under one signature.

use std::collections::BTreeMap;
use std::time::Duration;

use async_nats::HeaderMap;
use bus::Bus;
use bus_schemas::envelope::encode;
use bus_schemas::history::HistoryRecord;
use bus_schemas::limits::{STEP_BYTES_TARGET, STEP_MAX};
use bus_schemas::subject::{self, header};
use bus_schemas::{Form, MemberId, Signer};

/// Stores all records; comes back when every one is stored (or refused for good, which is logged).
pub async fn store_history(bus: &Bus, signer: &Signer, records: Vec<HistoryRecord>) {
    let mut by_member = BTreeMap::<MemberId, Vec<Vec<u8>>>::new();
    for record in &records {
        by_member.entry(record.member).or_default().push(encode(record));
    }
    let mut messages = Vec::new();
    for (member, bodies) in by_member {
        let mut batch: Vec<Vec<u8>> = Vec::new();
        let mut bytes = 0;
        for body in bodies {
            if !batch.is_empty() && (batch.len() == STEP_MAX || bytes + body.len() > STEP_BYTES_TARGET) {
                messages.push((member, std::mem::take(&mut batch)));
                bytes = 0;
            }
            bytes += body.len();
            batch.push(body);
        }
        messages.push((member, batch));
    }
    futures::future::join_all(messages.into_iter().map(|(member, bodies)| store_one(bus, signer, member, bodies))).await;
}

async fn store_one(bus: &Bus, signer: &Signer, member: MemberId, bodies: Vec<Vec<u8>>) {
    let batch = signer.batch_of_bytes::<HistoryRecord>(Form::Msgpack, bodies);
    let mut headers = HeaderMap::new();
    // The signature names the content: a repeat of this very message is stored once.
    headers.insert(header::NATS_MSG_ID, data_encoding::HEXLOWER.encode(batch.s.get(..16).unwrap_or_default()));
    let payload = bytes::Bytes::from(batch.encode());
    loop {
        match bus.store(subject::history(&member), Some(headers.clone()), payload.clone(), Duration::from_secs(30)).await {
            Ok(_) => return,
            Err(error) if error.is_transient() => tracing::warn!(%error, "HISTORY does not answer; storing again"),
            Err(error) => {
                tracing::error!(%error, %member, "HISTORY refused records");
                return;
            }
        }
    }
}
