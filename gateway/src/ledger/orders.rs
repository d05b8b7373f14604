//! What moves credit on somebody's word: a member's transfer, and commands that the operator signed.

use std::time::Duration;

use bus::ask::AskError;
use bus_schemas::api::ErrorBody;
use bus_schemas::api::ledger::{TransferView, ask::Transfer};
use bus_schemas::id::Asker;
use bus_schemas::ledger::{Command, LedgerOutcome, LedgerReply, LedgerRequest, Op};
use bus_schemas::limits::STEP_MAX;
use bus_schemas::{Code, Form, Problem, strict, subject};
use bytes::Bytes;
use tokio::time::{Instant, sleep};

use crate::ledger_client;
use crate::world::{World, lock};

/// How long an answer of the ledger is waited for; a standby takes over within it.
const ANSWER_WITHIN: Duration = Duration::from_secs(8);
const ONE_TRY: Duration = Duration::from_secs(2);
const PAUSE: Duration = Duration::from_millis(100);
/// More is refused unread.
const ORDER_BYTES_MAX: usize = 256 * 1024;

/// Why a transfer was refused, for people: where the catalogue's next step is about jobs, another one helps.
pub fn told(problem: &Problem) -> ErrorBody {
    let body = problem.body();
    let next: &[&str] = if problem.code == Code::Conflict {
        &["mesh credit history", "send it under another key"]
    } else if problem.code.next().starts_with("mesh job ") {
        &["mesh credit transfer --help"]
    } else {
        return body;
    };
    ErrorBody { next: next.iter().map(|next| (*next).to_owned()).collect(), ..body }
}

impl World {
    /// Moves credit from the member that the door has proved. A device may not: its local users are not its owner.
    ///
    /// # Errors
    /// [`Code::Forbidden`], [`Code::BadAmount`], [`Code::BadKey`], what the ledger refuses, or [`Code::Unavailable`].
    pub async fn credit_transfer(&self, asker: &Asker, ask: Transfer) -> Result<TransferView, Problem> {
        let Asker::Member(from) = *asker else {
            return Err(Problem::new(Code::Forbidden, "a device cannot give away its owner's credit; ask as the member"));
        };
        self.enters("credit.transfer", &from).await?;
        let amount_mmana = match (ask.amount, ask.amount_mmana) {
            (Some(amount), None) | (None, Some(amount)) => amount,
            (Some(_), Some(_)) => return Err(Problem::new(Code::BadAmount, "`amount` (mana) or `amount_mmana`, not both")),
            (None, None) => return Err(Problem::new(Code::MissingField, "`amount` (mana) or `amount_mmana` is missing")),
        };
        let key =
            ask.key.ok_or_else(|| Problem::new(Code::MissingField, "`key` is missing: without it a repeat would move credit twice"))?;
        let op = Op::Transfer { from, to: ask.to, amount_mmana, key: key.clone(), note: ask.note };
        let outcomes = ledger_client::ask(self, vec![op], Instant::now() + ANSWER_WITHIN).await;
        let outcomes = match outcomes {
            Ok(outcomes) => outcomes,
            Err(error) => {
                let silent = self.ledger_silent(error).await;
                // The command may be under way: the same key asks what became of it.
                let detail = format!("{}; it may still be done: the same key moves nothing twice", silent.detail);
                return Err(Problem::new(silent.code, detail));
            }
        };
        match outcomes.into_iter().next() {
            Some(LedgerOutcome::Done(done)) => Ok(TransferView {
                fact: done.fact,
                seq: done.seq,
                repeat: done.repeat,
                from,
                to: ask.to,
                amount_mmana,
                amount: amount_mmana.to_string(),
                key,
            }),
            Some(LedgerOutcome::Refused { code, detail, .. }) => Err(Problem::new(code, detail)),
            None => Err(Problem::new(Code::Unavailable, "the ledger gave no answer")),
        }
    }

    /// Hands commands to the ledger that the network key has signed; the signature says who orders, whoever brings it.
    ///
    /// # Errors
    /// What is wrong with the message; [`Code::WrongSigner`] for any other key; [`Code::Unavailable`].
    pub async fn ledger_order(&self, payload: Bytes) -> Result<LedgerReply, Problem> {
        let request: LedgerRequest = strict::decode(Form::Msgpack, &payload, ORDER_BYTES_MAX)?;
        let asked = request.commands.b.len();
        if !(1..=STEP_MAX).contains(&asked) {
            return Err(Problem::new(Code::TooMany, format!("{asked} commands; 1 to {STEP_MAX} are allowed")));
        }
        if request.commands.k != self.document.network_key {
            let detail = format!("{} is not the key of this network; only its operator orders here", request.commands.k);
            return Err(Problem::new(Code::WrongSigner, detail));
        }
        request.commands.verify::<Command>(&mut lock(&self.verifier))?;
        let deadline = Instant::now() + ANSWER_WITHIN;
        loop {
            // Repeated until it is answered: the same command has the same effect once.
            match self.forward(payload.clone()).await {
                Ok(reply) if reply.outcomes.len() == asked => return Ok(reply),
                Ok(reply) => {
                    let detail = format!("the ledger answered {} of {asked} commands", reply.outcomes.len());
                    return Err(Problem::new(Code::Unavailable, detail));
                }
                Err(error) if Instant::now() + PAUSE >= deadline => {
                    return Err(self.ledger_silent(format!("the ledger does not answer: {error}")).await);
                }
                Err(error) => tracing::debug!(%error, "asking the ledger again"),
            }
            sleep(PAUSE).await;
        }
    }

    async fn forward(&self, payload: Bytes) -> Result<LedgerReply, AskError> {
        let answer = self.bus.ask_bytes(subject::LEDGER_DO.to_owned(), payload, ONE_TRY).await?;
        strict::decode(Form::Msgpack, &answer, 1 << 20).map_err(|problem| AskError::Unreadable(problem.to_string()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_that_was_used_is_about_a_transfer() {
        let conflict = told(&Problem::new(Code::Conflict, "the key was used for another transfer"));
        assert_eq!((conflict.code, conflict.next[0].as_str()), (Code::Conflict, "mesh credit history"));
        for code in Code::ALL {
            let next = told(&Problem::new(*code, "no")).next;
            assert!(!next.is_empty() && !next.iter().any(|next| next.starts_with("mesh job")), "{code}: {next:?}");
        }
    }
}
