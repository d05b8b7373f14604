//! Sends signed jobs, as many at once as asked, and waits for each result.
//!
//! It batches as every part does: what is waiting goes under one signature, nothing waits for company.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use async_nats::Subscriber;
use bus::Bus;
use bus::batch::{self, Batching};
use bus_schemas::envelope::encode;
use bus_schemas::id::Asker;
use bus_schemas::job::{JobSpec, Text};
use bus_schemas::subject;
use bus_schemas::{Cid, Code, Form, JobId, NetworkId, Signer};
use futures::StreamExt;
use tokio::sync::mpsc;
use tokio::time::Instant;

use crate::cli::client::Session;
use crate::cli::failure::Failure;
use crate::cli::job::is_told;

/// No result for so long means that something hangs.
const STALL: Duration = Duration::from_secs(30);
/// Messages on their way to SUBMIT at once.
const MESSAGES_IN_FLIGHT: usize = 4;
const SENTENCE: &str = "Neighbours lend each other their idle machines, and the village needs no data centre.";

/// What a run came to.
pub struct Done {
    pub took: Duration,
    pub latencies: Vec<Duration>,
}

struct Shared {
    bus: Bus,
    signer: Signer,
    net: NetworkId,
    to: String,
    kind: String,
    /// Jobs without a result, and when each began.
    open: Mutex<HashMap<JobId, Instant>>,
    failed: Mutex<Option<Failure>>,
}

/// One connection that sends and listens.
pub struct Load {
    shared: Arc<Shared>,
    results: Subscriber,
    session_id: String,
    /// Numbers the jobs of all runs: each job is another one.
    next: u64,
}

impl Load {
    /// Listens for results.
    ///
    /// # Errors
    /// Where the subscription is refused.
    pub async fn new(session: &Session, signer: Signer, kind: &str) -> Result<Self, Failure> {
        let member = session.context.member.id;
        let bus = session.bus.clone();
        let failed = |error: String| Failure::new(Code::Unavailable, error);
        let results = bus.client.subscribe(subject::watch_jobs(&member, "result")).await.map_err(|error| failed(error.to_string()))?;
        bus.client.flush().await.map_err(|error| failed(error.to_string()))?;
        let shared = Shared {
            bus,
            signer,
            net: session.context.network,
            to: subject::submit(&Asker::Member(member)),
            kind: kind.to_owned(),
            open: Mutex::default(),
            failed: Mutex::default(),
        };
        Ok(Self { shared: Arc::new(shared), results, session_id: bus::keys::random_hex::<6>()?, next: 0 })
    }

    /// Runs `jobs` jobs, `in_flight` at once.
    ///
    /// # Errors
    /// Where a submission is refused, or results stay away.
    pub async fn run(&mut self, jobs: u32, in_flight: u32) -> Result<Done, Failure> {
        let (sender, receiver) = mpsc::channel(in_flight.max(1) as usize);
        let shared = self.shared.clone();
        let weigh = |job: &(Instant, JobSpec)| job.1.text.as_ref().map_or(0, |text| text.as_slice().iter().map(String::len).sum()) + 300;
        let sending = tokio::spawn(batch::run(receiver, Batching::of(MESSAGES_IN_FLIGHT), weigh, move |batch| send(shared.clone(), batch)));
        let start = Instant::now();
        let (mut sent, mut done, mut latencies) = (0, 0_u32, Vec::with_capacity(jobs as usize));
        while done < jobs {
            while sent < jobs && sent - done < in_flight {
                // The channel holds as many as may be in flight, so this never waits.
                let _ = sender.send((Instant::now(), self.job())).await;
                sent += 1;
            }
            let message = match tokio::time::timeout(STALL, self.results.next()).await {
                Ok(Some(message)) => message,
                Ok(None) => return Err(Failure::new(Code::Unreachable, "the connection was closed")),
                Err(_) => return Err(self.stalled(jobs - done)),
            };
            self.take(&message, &mut done, &mut latencies);
            // What has arrived meanwhile is taken as well, so that its places are filled by one batch.
            while done < jobs
                && let Some(Some(message)) = futures::FutureExt::now_or_never(self.results.next())
            {
                self.take(&message, &mut done, &mut latencies);
            }
            if let Some(failure) = self.shared.failed.lock().unwrap_or_else(PoisonError::into_inner).take() {
                return Err(failure);
            }
        }
        let took = start.elapsed();
        drop(sender);
        let _ = sending.await;
        Ok(Done { took, latencies })
    }

    fn take(&self, message: &async_nats::Message, done: &mut u32, latencies: &mut Vec<Duration>) {
        if !is_told(message) {
            return;
        }
        let id = message.subject.split('.').nth(4).and_then(|id| id.parse::<JobId>().ok());
        let began = id.and_then(|id| self.shared.open.lock().unwrap_or_else(PoisonError::into_inner).remove(&id));
        // Somebody else's job of the same member, or a result told twice: neither counts.
        if let Some(began) = began {
            latencies.push(began.elapsed());
            *done += 1;
        }
    }

    fn job(&mut self) -> JobSpec {
        self.next += 1;
        let at = self.shared.bus.time.now_ms();
        let text = if self.shared.kind == "embed" { SENTENCE.to_owned() } else { format!("{:0>256}", self.next) };
        JobSpec {
            net: Some(self.shared.net),
            by: Some(self.shared.signer.public()),
            key: Some(format!("bench-{}-{}", self.session_id, self.next)),
            at: Some(at),
            exp: Some(at + 3_600_000),
            kind: self.shared.kind.clone(),
            text: Some(Text::One(text)),
            ..JobSpec::default()
        }
    }

    fn stalled(&self, missing: u32) -> Failure {
        let failed = self.shared.failed.lock().unwrap_or_else(PoisonError::into_inner).take();
        failed.unwrap_or_else(|| {
            let open = self.shared.open.lock().unwrap_or_else(PoisonError::into_inner);
            let one = open.keys().min().map(|id| format!("; one of them is {}", id.short())).unwrap_or_default();
            let next = open.keys().min().map_or_else(|| "mesh doctor".into(), |id| format!("mesh job explain {id}"));
            Failure::new(Code::GaveUpWaiting, format!("{missing} results did not come within {} s{one}", STALL.as_secs())).next(next)
        })
    }
}

/// Signs and stores one batch.
async fn send(shared: Arc<Shared>, batch: Vec<(Instant, JobSpec)>) {
    let bodies: Vec<Vec<u8>> = batch.iter().map(|(_, spec)| encode(spec)).collect();
    {
        let mut open = shared.open.lock().unwrap_or_else(PoisonError::into_inner);
        batch.iter().zip(&bodies).for_each(|((began, _), body)| {
            open.insert(JobId(Cid::of(body)), *began);
        });
    }
    let signed = shared.signer.batch_of_bytes::<JobSpec>(Form::Msgpack, bodies).encode();
    if let Err(error) = shared.bus.store(shared.to.clone(), None, signed.into(), Duration::from_secs(20)).await {
        let failure = Failure::new(Code::Unavailable, format!("SUBMIT does not take jobs: {error}"));
        shared.failed.lock().unwrap_or_else(PoisonError::into_inner).get_or_insert(failure);
    }
}
