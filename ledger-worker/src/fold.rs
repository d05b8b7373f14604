//! From stored messages to what is written as rows: each is checked, applied to books and linked into the chain, in order.

use bus::direct::StoredMessage;
use bus_schemas::replay::{LedgerKeys, Wrong};
use bus_schemas::{NetworkId, Verifier};

use crate::posting::Standing;
use crate::round::Message;

/// Why the books cannot go on; what follows stands on something wrong.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Broken {
    #[error("sequence {expected} is missing in LEDGER, the next is {found}")]
    Gap { expected: u64, found: u64 },
    #[error("sequence {seq}: {wrong}")]
    Wrong { seq: u64, wrong: Wrong },
}

/// Books that grow message by message.
pub struct Fold {
    pub standing: Standing,
    verifier: Verifier,
    /// Messages since the last checkpoint that count for nothing, each with the reason.
    pub foreign: Vec<(u64, String)>,
}

impl Fold {
    pub fn new(net: NetworkId, keys: LedgerKeys) -> Self {
        Self { standing: Standing::new(net, keys), verifier: Verifier::default(), foreign: vec![] }
    }

    pub fn seq(&self) -> u64 {
        self.standing.books().seq()
    }

    /// Takes the next message. One that counts for nothing has no facts, and stands in `foreign`.
    ///
    /// # Errors
    /// [`Broken`].
    pub fn take(&mut self, message: StoredMessage) -> Result<Message, Broken> {
        let seq = self.seq() + 1;
        if message.seq != seq {
            return Err(Broken::Gap { expected: seq, found: message.seq });
        }
        let facts = match self.standing.books().facts_of(&mut self.verifier, &message.payload) {
            Ok(facts) => facts,
            Err(reason) => {
                self.foreign.push((seq, reason));
                vec![]
            }
        };
        for (fact, _) in &facts {
            self.standing.apply(seq, fact).map_err(|wrong| Broken::Wrong { seq, wrong })?;
        }
        self.standing.link(seq, &message.payload);
        Ok(Message { seq, payload: message.payload, chain: *self.standing.books().chain(), facts })
    }
}
