//! The lease of the writer: one key in KV. It only says who tries; what fences is the expected sequence of each append.
//!
//! The holder rewrites the key every third of the lease. Another one takes it when it has not changed for a whole lease by its
//! own monotonic clock, or when the holder gave it up. Plain requests, because the role may neither watch nor make consumers.

use std::time::Duration;

use bus::Bus;
use bus::async_nats::HeaderMap;
use bus::direct::StoredMessage;
use bus::store::StoreError;
use bus_schemas::InstanceId;
use bus_schemas::stream::KV_LEDGER;
use serde::{Deserialize, Serialize};
use tokio::time::Instant;

const KEY: &str = "writer";
const TRY: Duration = Duration::from_secs(1);
/// A lease that was written this many leases ago by the hub's clock is over, even for one who has just started to look.
const LONG_OVER: u32 = 10;
/// The hub's clock is read off the key this often, in beats: what expires is judged by hub time.
const TIME_EVERY: u32 = 10;

/// The value under the key.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
struct Holder {
    instance: String,
    at_ms: u64,
    #[serde(default)]
    released: bool,
}

/// How the lease stands for this instance.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Stand {
    /// It may be taken now.
    Free,
    /// Another one holds it; look again after this long.
    Held(Duration),
    Mine,
}

#[derive(Debug, thiserror::Error)]
pub enum LeaseError {
    #[error("another instance took the lease")]
    Lost,
    #[error("the lease cannot be read or written: {0}")]
    Away(String),
}

/// One instance's view of the lease.
pub struct Lease {
    bus: Bus,
    instance: InstanceId,
    length: Duration,
    /// Revision of the key as last seen or written, and when that was first seen here.
    seen: Option<(u64, Instant)>,
    mine: bool,
    beats: u32,
}

impl Lease {
    pub fn new(bus: Bus, instance: InstanceId, length: Duration) -> Self {
        Self { bus, instance, length, seen: None, mine: false, beats: 0 }
    }

    /// How often the holder writes and others look.
    pub fn beat(&self) -> Duration {
        self.length / 3
    }

    /// Looks who holds it.
    ///
    /// # Errors
    /// [`LeaseError::Away`].
    pub async fn look(&mut self) -> Result<Stand, LeaseError> {
        let Some((revision, holder, stored_ms)) = self.read().await? else {
            self.seen = None;
            return Ok(Stand::Free);
        };
        let since = match self.seen {
            Some((seen, since)) if seen == revision => since,
            _ => {
                let now = Instant::now();
                self.seen = Some((revision, now));
                now
            }
        };
        if holder.instance == self.instance.as_str() && !holder.released {
            // A write of ours whose answer was lost counts as not taken yet.
            return Ok(if self.mine { Stand::Mine } else { Stand::Free });
        }
        let age = since.elapsed();
        if holder.released || age >= self.length || self.is_long_over(stored_ms) {
            Ok(Stand::Free)
        } else {
            Ok(Stand::Held((self.length - age).min(self.beat())))
        }
    }

    /// Judged by the hub's own clock only: by a wrong one of ours, a lease that its holder keeps would seem to be over.
    fn is_long_over(&self, stored_ms: u64) -> bool {
        let long_over = u64::try_from((self.length * LONG_OVER).as_millis()).unwrap_or(u64::MAX);
        self.bus.time.is_known() && self.bus.time.now_ms() > stored_ms.saturating_add(long_over)
    }

    /// Takes it, if nobody else did since the last look.
    ///
    /// # Errors
    /// [`LeaseError`].
    pub async fn take(&mut self) -> Result<(), LeaseError> {
        self.learn_time().await?;
        self.mine = true;
        Ok(())
    }

    /// Keeps it.
    ///
    /// # Errors
    /// [`LeaseError::Lost`] where another one has it now.
    pub async fn renew(&mut self) -> Result<(), LeaseError> {
        self.beats = self.beats.wrapping_add(1);
        let written = if self.beats.is_multiple_of(TIME_EVERY) { self.learn_time().await } else { self.write(false).await };
        match written {
            Err(LeaseError::Lost) => {
                // An earlier write of our own whose answer was lost moved the revision: that is no loss.
                match self.look().await? {
                    Stand::Mine => self.write(false).await,
                    Stand::Free | Stand::Held(_) => {
                        self.mine = false;
                        Err(LeaseError::Lost)
                    }
                }
            }
            other => other,
        }
    }

    /// Gives it up, so that another one need not wait.
    pub async fn release(&mut self) {
        if self.mine
            && let Err(error) = self.write(true).await
        {
            tracing::debug!(%error, "the lease was not given up; it will run out");
        }
        self.mine = false;
    }

    /// Writes the key and reads its stream time at once: the hub's clock, a moment ago.
    async fn learn_time(&mut self) -> Result<(), LeaseError> {
        self.write(false).await?;
        if let Some((_, _, stored_ms)) = self.read().await? {
            self.bus.time.observe(stored_ms);
        }
        Ok(())
    }

    async fn read(&mut self) -> Result<Option<(u64, Holder, u64)>, LeaseError> {
        // From the leader: a replica that lags would show an older holder.
        let (bucket, key) = (format!("KV_{KV_LEDGER}"), format!("$KV.{KV_LEDGER}.{KEY}"));
        let answer = tokio::time::timeout(TRY, self.bus.last_from_leader(&bucket, &key)).await;
        let answer = answer.map_err(|_| LeaseError::Away("no answer".into()))?.map_err(|error| LeaseError::Away(error.to_string()))?;
        let Some(StoredMessage { seq: revision, time_ms: stored_ms, payload, .. }) = answer else { return Ok(None) };
        // What cannot be read was written by no ledger-worker: it is nobody's lease.
        let holder = serde_json::from_slice(&payload).unwrap_or(Holder { instance: String::new(), at_ms: 0, released: true });
        Ok(Some((revision, holder, stored_ms)))
    }

    async fn write(&mut self, released: bool) -> Result<(), LeaseError> {
        let expected = self.seen.map_or(0, |(revision, _)| revision);
        let mut headers = HeaderMap::new();
        headers.insert("Nats-Expected-Last-Subject-Sequence", expected.to_string());
        let holder = Holder { instance: self.instance.to_string(), at_ms: self.bus.time.now_ms(), released };
        let payload = serde_json::to_vec(&holder).unwrap_or_default();
        let subject = format!("$KV.{KV_LEDGER}.{KEY}");
        match self.bus.store_once(subject, Some(headers), payload.into(), TRY).await {
            Ok(stored) => {
                self.seen = Some((stored.seq, Instant::now()));
                Ok(())
            }
            Err(StoreError::Refused { err_code: StoreError::WRONG_LAST_SEQUENCE, .. }) => Err(LeaseError::Lost),
            Err(error) => Err(LeaseError::Away(error.to_string())),
        }
    }
}
