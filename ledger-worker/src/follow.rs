//! Reading LEDGER from where the books stand to its end.

use bus::Bus;
use bus::direct::ReadError;
use bus_schemas::Verifier;
use bus_schemas::replay::Wrong;
use bus_schemas::stream::LEDGER;

use crate::posting::Standing;
use crate::posting::standing::Taken;

/// Messages asked for at once: some 18 MB where each is full.
pub const READ_BATCH: usize = 64;

/// Why the books cannot follow the stream.
#[derive(Debug, thiserror::Error)]
pub enum FollowError {
    #[error(transparent)]
    Read(#[from] ReadError),
    #[error(
        "sequence {expected} is missing in LEDGER, the next is {found}: facts are lost (next: keep a copy of LEDGER, delete it, mesh-ledger reseed)"
    )]
    Gap { expected: u64, found: u64 },
    #[error("sequence {seq} contradicts the books: {wrong} (next: mesh-ledger verify)")]
    Wrong { seq: u64, wrong: Wrong },
}

/// Which messages that count for nothing were told of: each once, however often it is read.
#[derive(Debug, Default)]
pub struct Foreign {
    /// The highest of them.
    told: u64,
}
impl Foreign {
    /// Tells of a message in LEDGER that counts for nothing.
    pub fn tell(&mut self, seq: u64, reason: &str) {
        if self.is_new(seq) {
            metrics::counter!("mesh_ledger_foreign_total").increment(1);
            tracing::error!(seq, reason, "a message in LEDGER counts for nothing: it is no valid batch of a ledger key, or a copy of one");
        }
    }

    fn is_new(&mut self, seq: u64) -> bool {
        let new = seq > self.told;
        self.told = self.told.max(seq);
        new
    }
}

/// Applies what is new, and forgets what is older than `remember_ms` before the last fact; returns how many messages were new.
///
/// # Errors
/// [`FollowError`]; after anything but [`FollowError::Read`] the books must be dropped.
pub async fn catch_up(
    bus: &Bus,
    standing: &mut Standing,
    verifier: &mut Verifier,
    foreign: &mut Foreign,
    remember_ms: u64,
) -> Result<u64, FollowError> {
    let mut taken = 0;
    loop {
        let messages = bus.from_seq(LEDGER, standing.books().seq() + 1, READ_BATCH).await?;
        if messages.is_empty() {
            return Ok(taken);
        }
        for message in messages {
            let expected = standing.books().seq() + 1;
            if message.seq != expected {
                return Err(FollowError::Gap { expected, found: message.seq });
            }
            match standing.take(verifier, message.seq, &message.payload) {
                Ok(Taken::Facts(_)) => {}
                Ok(Taken::Foreign(reason)) => foreign.tell(message.seq, &reason),
                Err(wrong) => return Err(FollowError::Wrong { seq: message.seq, wrong }),
            }
            taken += 1;
        }
        standing.forget(standing.books().last_at().saturating_sub(remember_ms));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_reads_the_stream_again_tells_of_nothing_twice() {
        let mut foreign = Foreign::default();
        let mut new = |seqs: &[u64]| seqs.iter().filter(|seq| foreign.is_new(**seq)).copied().collect::<Vec<_>>();
        assert_eq!(new(&[3, 5, 5]), [3, 5]);
        assert_eq!(new(&[3, 5, 8]), [8], "from the beginning again");
    }
}
