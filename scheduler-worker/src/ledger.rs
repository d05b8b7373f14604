//! Asks the ledger: signed commands with their evidence, asked again with the same content until there is an answer.

use std::sync::Arc;
use std::time::Duration;

use bus::Bus;
use bus_schemas::ledger::{Command, HoldView, LedgerOutcome, LedgerReply, LedgerRequest, Op};
use bus_schemas::{JobId, NetworkId, Signer, subject};
use serde_bytes::ByteBuf;

use crate::world::World;

/// All that asking takes.
#[derive(Clone)]
pub struct Asker {
    pub bus: Bus,
    pub signer: Arc<Signer>,
    pub net: NetworkId,
}

impl World {
    pub fn ledger(&self) -> Asker {
        Asker { bus: self.bus.clone(), signer: Arc::clone(&self.config.signer), net: self.net }
    }
}

impl Asker {
    /// Asks until there is one outcome per command. A missing answer is no refusal, and every command has its effect once.
    pub async fn ask(&self, ops: Vec<Op>, assignments: Vec<ByteBuf>, receipts: Vec<ByteBuf>) -> Vec<LedgerOutcome> {
        let count = ops.len();
        let at = self.bus.time.now_ms();
        let commands: Vec<Command> = ops.into_iter().map(|op| Command { net: self.net, at, op }).collect();
        let request = LedgerRequest { commands: self.signer.batch(&commands), assignments, receipts };
        let bytes: bytes::Bytes = bus_schemas::envelope::encode(&request).into();
        let mut pause = Duration::from_millis(50);
        loop {
            let answer = self.bus.ask_bytes(subject::LEDGER_DO.to_owned(), bytes.clone(), Duration::from_secs(3)).await;
            let reply = answer.map_err(|error| error.to_string()).and_then(|bytes| {
                bus_schemas::strict::decode::<LedgerReply>(bus_schemas::Form::Msgpack, &bytes, 1 << 20)
                    .map_err(|problem| problem.to_string())
            });
            match reply {
                Ok(reply) if reply.outcomes.len() == count => return reply.outcomes,
                Ok(reply) => {
                    tracing::warn!(asked = count, answered = reply.outcomes.len(), "the ledger's answer does not fit the question")
                }
                Err(error) => tracing::debug!(%error, "asking the ledger again"),
            }
            tokio::time::sleep(pause).await;
            pause = (pause * 2).min(Duration::from_secs(1));
        }
    }

    /// How the holds of these jobs stand, in order; `None` for one that the books do not know, and for all where they refuse to look.
    pub async fn look(&self, jobs: &[JobId]) -> Option<Vec<Option<HoldView>>> {
        let mut all = Vec::with_capacity(jobs.len());
        for some in jobs.chunks(bus_schemas::limits::STEP_MAX) {
            let outcomes = self.ask(some.iter().map(|job| Op::Look { job: *job }).collect(), vec![], vec![]).await;
            for outcome in outcomes {
                match outcome {
                    LedgerOutcome::Done(done) => all.push(done.hold),
                    LedgerOutcome::Refused { why: bus_schemas::ledger::RefusalKind::UnknownJob, .. } => all.push(None),
                    LedgerOutcome::Refused { code, detail, .. } => {
                        tracing::error!(%code, detail, "the ledger refused to say how a hold stands");
                        return None;
                    }
                }
            }
        }
        Some(all)
    }
}
