//! Looks now and then whether the network's books still extend what this device has seen of them.

use std::time::Duration;

use bus::Bus;
use bus_schemas::id::Asker;
use bus_schemas::network::NetworkDocument;
use bus_schemas::{Code, Problem};
use serde::Serialize;
use serde::de::DeserializeOwned;
use tokio::sync::mpsc;

use super::state::{Agent, Happened};
use crate::checkpoint::{self, Ask, Memory};
use crate::link::ask_gateway;

/// Every device of a network asks so often; `MESH_BOOKS_EVERY_S` says otherwise.
const EVERY: Duration = Duration::from_secs(180);
/// The first time, once the link is there.
const FIRST: Duration = Duration::from_secs(10);

/// The gateway's door, as this device.
struct Door {
    uplink: Bus,
    asker: Asker,
}
impl Ask for Door {
    async fn ask<Q: Serialize + Sync, A: DeserializeOwned + Send>(&self, call: &str, question: &Q) -> Result<A, Problem> {
        ask_gateway(&self.uplink, &self.asker, call, question).await
    }
}

impl Agent {
    /// Starts looking; what is found comes back as [`Happened::Books`]. Ends with the agent.
    pub fn watch_books(&self, document: NetworkDocument, time_divisor: u32) {
        let door = Door { uplink: self.uplink.clone(), asker: Asker::Device(self.trust.device) };
        let (memory, happened) = (Memory::of(&self.home), self.happened.clone());
        tokio::spawn(watch(door, document, memory, happened, time_divisor));
    }

    pub fn on_books(&mut self, alarm: Option<Problem>) {
        if let Some(problem) = &alarm {
            // Said each time: this is not to be overlooked.
            let kept = Memory::of(&self.home).path(&self.trust.net);
            let what = if problem.code == Code::BooksWrong {
                "the books of this network were rewritten, or this device is shown others than before; keep that file, and compare \
                 with other members (next: mesh credit verify)"
            } else {
                "what this device remembers of the books cannot be used: it could not tell whether they were rewritten; keep a copy of \
                 that file, compare with other members, then remove it (next: mesh credit verify)"
            };
            tracing::error!(code = %problem.code, detail = problem.detail, kept = %kept.display(), "{what}");
        }
        self.alarm = alarm;
    }
}

async fn watch(door: Door, document: NetworkDocument, memory: Memory, happened: mpsc::UnboundedSender<Happened>, time_divisor: u32) {
    let every = std::env::var("MESH_BOOKS_EVERY_S").ok().and_then(|text| text.parse().ok()).filter(|seconds| *seconds > 0);
    let every = every.map_or(EVERY, Duration::from_secs);
    tokio::time::sleep(FIRST.min(every) / time_divisor).await;
    loop {
        let found = match checkpoint::look(&door, &document, &memory).await {
            Ok(_) => Some(None),
            Err(problem) if matches!(problem.code, Code::BooksWrong | Code::BadFile) => Some(Some(problem)),
            Err(problem) => {
                tracing::debug!(%problem, "the books could not be looked at");
                None
            }
        };
        if found.is_some_and(|alarm| happened.send(Happened::Books(alarm)).is_err()) {
            return;
        }
        tokio::time::sleep(every / time_divisor).await;
    }
}
