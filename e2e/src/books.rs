//! The books as an auditor sees them: LEDGER read with read-only credentials and replayed.

use bus::Bus;
use bus_schemas::ledger::{Fact, HoldState, What};
use bus_schemas::replay::{Applied, Books};
use bus_schemas::{JobId, Verifier};
use testkit::Stack;

/// What a replay gave.
pub struct Replayed {
    pub books: Books,
    pub facts: Vec<Fact>,
    /// Why messages count for nothing.
    pub foreign: Vec<String>,
}

/// Replays all of LEDGER and checks every invariant.
///
/// # Panics
/// Where a fact is wrong or foreign, or the books do not add up.
pub async fn replay(stack: &Stack, auditor: &Bus) -> Replayed {
    let replayed = replay_with_foreign(stack, auditor).await;
    assert!(replayed.foreign.is_empty(), "foreign bytes in LEDGER: {:?}", replayed.foreign);
    replayed
}

/// As [`replay`], where somebody stored what counts for nothing.
///
/// # Panics
/// Where a fact is wrong, or the books do not add up.
pub async fn replay_with_foreign(stack: &Stack, auditor: &Bus) -> Replayed {
    let network = bus::keys::read_network(&stack.path("/data_dir").join("network/network.json")).expect("the network document");
    let mut books = Books::new(network.network, network.ledger_keys.iter().copied().collect());
    let mut verifier = Verifier::default();
    let (mut facts, mut foreign) = (Vec::new(), Vec::new());
    loop {
        let batch = auditor.from_seq("LEDGER", books.seq() + 1, 256).await.expect("LEDGER can be read");
        if batch.is_empty() {
            break;
        }
        for message in batch {
            assert_eq!(message.seq, books.seq() + 1, "a gap in LEDGER");
            match books.apply_message(&mut verifier, message.seq, &message.payload).expect("sound facts") {
                Applied::Facts(more) => facts.extend(more),
                Applied::Foreign(why) => foreign.push(why),
            }
        }
    }
    books.check_all().expect("sound books");
    Replayed { books, facts, foreign }
}

impl Replayed {
    /// How often a job was settled: 0 or 1 in sound books.
    pub fn settlements(&self, job: &JobId) -> usize {
        self.facts.iter().filter(|fact| matches!(&fact.what, What::Settle { job: settled, .. } if settled == job)).count()
    }
    pub fn is_settled(&self, job: &JobId) -> bool {
        self.books.hold(job).is_some_and(|hold| matches!(hold.state, HoldState::Settled { .. }))
    }
    pub fn open_holds(&self) -> usize {
        self.books.holds().filter(|hold| hold.state == HoldState::Open).count()
    }
}

/// The digest in hex.
pub fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}
