//! Asking the ledger: commands signed by this part, repeated until an answer comes.
//!
//! The ledger takes a repeat for what it is: the same command has the same effect once. So no answer means: ask again.

use std::time::Duration;

use bus::Bus;
use bus::ask::AskError;
use bus_schemas::id::NetworkId;
use bus_schemas::ledger::{Command, LedgerOutcome, LedgerReply, LedgerRequest, Op};
use bus_schemas::{Signer, subject};
use tokio::time::Instant;

/// Whoever asks: a connection, the key that the network document names for this part, and the network.
pub trait Asking {
    fn bus(&self) -> &Bus;
    fn signer(&self) -> &Signer;
    fn net(&self) -> NetworkId;
}

/// Why there is no answer. Ask again later: nothing was refused.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum LedgerError {
    #[error("the ledger does not answer: {0}")]
    Silent(AskError),
    #[error("the ledger answered {got} of {asked} questions")]
    Short { asked: usize, got: usize },
}

/// One try waits this long; a standby takes over within a few of them.
const ONE_TRY: Duration = Duration::from_secs(2);
const PAUSE: Duration = Duration::from_millis(100);

/// Asks 1 to 64 questions under one signature until they are answered or `deadline` is over; one outcome per question, in order.
///
/// # Errors
/// [`LedgerError`]; what was asked may have been done all the same.
pub async fn ask(by: &impl Asking, ops: Vec<Op>, deadline: Instant) -> Result<Vec<LedgerOutcome>, LedgerError> {
    let (asked, net, at) = (ops.len(), by.net(), by.bus().time.now_ms());
    let commands: Vec<Command> = ops.into_iter().map(|op| Command { net, at, op }).collect();
    let request = LedgerRequest { commands: by.signer().batch(&commands), assignments: vec![], receipts: vec![] };
    loop {
        match by.bus().ask::<_, LedgerReply>(subject::LEDGER_DO.to_owned(), &request, ONE_TRY).await {
            Ok(reply) if reply.outcomes.len() == asked => return Ok(reply.outcomes),
            Ok(reply) => return Err(LedgerError::Short { asked, got: reply.outcomes.len() }),
            Err(error) if Instant::now() + PAUSE >= deadline => return Err(LedgerError::Silent(error)),
            Err(error) => tracing::debug!(%error, "asking the ledger again"),
        }
        tokio::time::sleep(PAUSE).await;
    }
}
