//! The last checkpoint of a network's books that this machine has seen.
//!
//! Whoever holds the ledger key can sign a whole new history. It cannot make that history extend what somebody has kept: so each
//! machine keeps one line, and refuses, loudly, a checkpoint that does not extend it. `follow` decides and touches nothing.

use std::collections::BTreeSet;
use std::future::Future;
use std::path::PathBuf;

use bus_schemas::api::ledger::{CheckpointList, CheckpointView, ConsistencyView, ask};
use bus_schemas::ledger::{CheckpointState, Fact, Hash32, What};
use bus_schemas::network::NetworkDocument;
use bus_schemas::replay::read_facts;
use bus_schemas::{Code, NetworkId, Problem, Verifier, merkle};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use crate::home::Home;

/// What is kept.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Seen {
    pub network: NetworkId,
    /// The last message that the checkpoint covers, and the one that states it.
    pub seq: u64,
    pub message_seq: u64,
    pub chain: Hash32,
    pub root: Hash32,
}
impl Seen {
    pub fn of(network: NetworkId, state: &CheckpointState) -> Self {
        Self { network, seq: state.seq, message_seq: state.seq + 1, chain: state.chain, root: state.root }
    }
}

/// The facts of one stored message, if a ledger key of this network signed it.
///
/// # Errors
/// [`Code::BooksWrong`].
pub fn facts_of(document: &NetworkDocument, message: &str) -> Result<Vec<Fact>, Problem> {
    let keys: BTreeSet<_> = document.ledger_keys.iter().copied().collect();
    let facts = read_facts(&document.network, &keys, &mut Verifier::default(), message.as_bytes());
    let facts = facts.map_err(|why| wrong(format!("a message that should be of the ledger is not: {why}")))?;
    Ok(facts.into_iter().map(|(fact, _)| fact).collect())
}

/// A checkpoint as a gateway told it, once the ledger's own signature says the same.
///
/// # Errors
/// [`Code::BooksWrong`].
pub fn read(document: &NetworkDocument, view: &CheckpointView) -> Result<Seen, Problem> {
    let facts = facts_of(document, &view.message)?;
    let [Fact { what: What::Checkpoint(state), .. }] = facts.as_slice() else {
        return Err(wrong(format!("the message at sequence {} states no checkpoint", view.message_seq)));
    };
    let seen = Seen::of(document.network, state);
    let told = (view.seq, view.message_seq, view.chain, view.root, view.state);
    if told == (seen.seq, seen.message_seq, seen.chain, seen.root, state.state) {
        Ok(seen)
    } else {
        Err(wrong(format!("the checkpoint at sequence {} was told otherwise than the ledger signed it", view.seq)))
    }
}

/// Whether `now` may follow what was seen before; `path` is the proof that the one extends the other.
///
/// # Errors
/// [`Code::BooksWrong`], in one sentence.
pub fn follow(before: Option<&Seen>, now: &Seen, path: &[Hash32]) -> Result<(), Problem> {
    let Some(before) = before else { return Ok(()) };
    if now.seq < before.seq {
        return Err(wrong(format!(
            "the last checkpoint covers sequence {}, but this machine has seen one of {}: the ledger went back, or you are shown an old one",
            now.seq, before.seq
        )));
    }
    let hashes: Vec<merkle::Hash> = path.iter().map(|hash| hash.0).collect();
    let same_chain = now.seq > before.seq || now.chain == before.chain;
    if same_chain && merkle::extends(before.seq, &before.root.0, now.seq, &now.root.0, &hashes) {
        return Ok(());
    }
    Err(wrong(format!(
        "the checkpoint of sequence {} does not extend the one of {} that this machine has seen: messages up to {} were rewritten, \
         or you are shown other books than before",
        now.seq, before.seq, before.seq
    )))
}

fn wrong(detail: String) -> Problem {
    Problem::new(Code::BooksWrong, detail)
}

/// Where it is kept: `checkpoints/<network>.json` in the home. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Memory {
    folder: PathBuf,
    /// Nothing is remembered: what is seen is only compared.
    is_closed: bool,
}
impl Memory {
    pub fn of(home: &Home) -> Self {
        Self { folder: home.root().join("checkpoints"), is_closed: false }
    }
    /// For who only looks.
    #[must_use]
    pub fn read_only(self) -> Self {
        Self { is_closed: true, ..self }
    }
    pub fn folder(&self) -> &std::path::Path {
        &self.folder
    }
    pub fn path(&self, network: &NetworkId) -> PathBuf {
        self.folder.join(format!("{network}.json"))
    }
    /// # Errors
    /// [`Code::BadFile`] where the file is there and cannot be used: it is evidence, so it is not written over.
    pub fn load(&self, network: &NetworkId) -> Result<Option<Seen>, Problem> {
        let path = self.path(network);
        let bad = |why: String| Problem::new(Code::BadFile, format!("{}: {why}", path.display()));
        let text = match std::fs::read_to_string(&path) {
            Ok(text) => text,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(bad(error.to_string())),
        };
        let seen: Seen = serde_json::from_str(&text).map_err(|error| bad(format!("no remembered checkpoint ({error})")))?;
        if seen.network != *network {
            return Err(bad(format!("it is of {}", seen.network)));
        }
        if seen.seq == 0 || seen.seq.checked_add(1) != Some(seen.message_seq) {
            return Err(bad(format!("no checkpoint covers sequence {} and stands at {}", seen.seq, seen.message_seq)));
        }
        Ok(Some(seen))
    }
    /// Keeps the newer one; agent and command line share the file.
    ///
    /// # Errors
    /// [`Code::BadFile`].
    pub fn save(&self, seen: &Seen) -> Result<(), Problem> {
        use std::os::unix::fs::DirBuilderExt;
        if self.is_closed || self.load(&seen.network)?.is_some_and(|there| there.seq >= seen.seq) {
            return Ok(());
        }
        let path = self.path(&seen.network);
        let bad = |why: String| Problem::new(Code::BadFile, format!("{}: {why}", path.display()));
        std::fs::DirBuilder::new().recursive(true).mode(0o700).create(&self.folder).map_err(|error| bad(error.to_string()))?;
        let text = serde_json::to_string(seen).map_err(|error| bad(error.to_string()))?;
        bus::keys::write_secret(&path, format!("{text}\n").as_bytes()).map_err(|error| bad(format!("{error:#}")))
    }
}

/// Whoever can ask the gateway.
pub trait Ask {
    fn ask<Q: Serialize + Sync, A: DeserializeOwned + Send>(
        &self,
        call: &str,
        question: &Q,
    ) -> impl Future<Output = Result<A, Problem>> + Send;
}

/// Asks for the newest checkpoint, and for the proof that it extends the remembered one; then remembers it. `None`: there is none yet.
///
/// # Errors
/// [`Code::BooksWrong`] where it does not; otherwise why it cannot be told.
pub async fn look(ask: &(impl Ask + Sync), document: &NetworkDocument, memory: &Memory) -> Result<Option<Seen>, Problem> {
    // What is remembered is read first: another program may remember a newer one while the answer is on its way.
    let before = memory.load(&document.network)?;
    let newest = ask::Checkpoints { limit: Some(1), before: None };
    let list: CheckpointList = ask.ask("ledger.checkpoints", &newest).await?;
    match list.checkpoints.first() {
        Some(view) => accept(ask, document, memory, before.as_ref(), view).await.map(Some),
        None => match before {
            Some(before) => Err(wrong(format!("the ledger shows no checkpoint, but this machine has seen one of sequence {}", before.seq))),
            None => Ok(None),
        },
    }
}

/// As [`look`], for a checkpoint that was asked for after `before` was read.
///
/// # Errors
/// As [`look`].
pub async fn accept(
    ask: &(impl Ask + Sync),
    document: &NetworkDocument,
    memory: &Memory,
    before: Option<&Seen>,
    view: &CheckpointView,
) -> Result<Seen, Problem> {
    let now = read(document, view)?;
    let path = match before {
        Some(before) if before.seq < now.seq => {
            let between = ask::Consistency { from: before.seq, to: now.seq };
            ask.ask::<_, ConsistencyView>("ledger.consistency", &between).await?.path
        }
        Some(_) | None => vec![],
    };
    follow(before, &now, &path)?;
    memory.save(&now)?;
    Ok(now)
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;
    use bus_schemas::ledger::fact_id;
    use bus_schemas::merkle::{Frontier, cover};
    use bus_schemas::{Signer, replay};
    use std::collections::BTreeMap;

    /// A ledger of messages that need not mean anything: checkpoints and proofs are about their bytes alone.
    pub(crate) struct Ledger {
        key: Signer,
        pub document: NetworkDocument,
        tree: Frontier,
        chain: [u8; 32],
        nodes: BTreeMap<(u8, u64), merkle::Hash>,
        pub checkpoints: Vec<CheckpointView>,
    }
    impl Ledger {
        pub fn new() -> Self {
            let (network, key) = (Signer::from_seed(&[1; 32]).public(), Signer::from_seed(&[2; 32]));
            let document = NetworkDocument {
                network: network.network_id(),
                network_key: network,
                name: "lab".into(),
                version: 1,
                gateway_keys: vec![],
                scheduler_keys: vec![],
                ledger_keys: vec![key.public()],
                ca_sha256: None,
            };
            Self { key, document, tree: Frontier::default(), chain: [0; 32], nodes: BTreeMap::new(), checkpoints: vec![] }
        }
        pub fn push(&mut self, message: &[u8]) {
            let closed = self.tree.push(merkle::leaf(message));
            self.chain = replay::chain_next(&self.chain, self.tree.count(), message);
            self.nodes.extend(closed.into_iter().map(|(level, index, hash)| ((level, index), hash)));
        }
        pub fn checkpoint(&mut self) {
            let (seq, root) = (self.tree.count(), self.tree.root().unwrap());
            let state = CheckpointState { seq, chain: Hash32(self.chain), root: Hash32(root), state: Hash32([7; 32]) };
            let (net, id) = (self.document.network, fact_id::checkpoint(seq));
            let fact = Fact { net, id, at_ms: 1, policy: 1, legs: vec![], evidence: vec![], what: What::Checkpoint(state) };
            let message = self.key.json_batch::<Fact>(vec![serde_json::to_string(&fact).unwrap()]).encode();
            let CheckpointState { seq, chain, root, state } = state;
            let text = String::from_utf8(message.clone()).unwrap();
            self.checkpoints.push(CheckpointView { seq, message_seq: seq + 1, chain, root, state, message: text });
            self.push(&message);
        }
        pub fn path(&self, ranges: &[(u64, u64)]) -> Vec<Hash32> {
            let part = |(start, end): &(u64, u64)| {
                merkle::fold(&cover(*start, *end).iter().map(|at| self.nodes[at]).collect::<Vec<_>>()).map(Hash32).unwrap()
            };
            ranges.iter().map(part).collect()
        }
        fn seen(&self) -> Seen {
            read(&self.document, self.checkpoints.last().unwrap()).unwrap()
        }
    }
    impl Ask for Ledger {
        async fn ask<Q: Serialize + Sync, A: DeserializeOwned + Send>(&self, call: &str, question: &Q) -> Result<A, Problem> {
            let question = serde_json::to_value(question).unwrap();
            let answer = if call == "ledger.checkpoints" {
                let checkpoints = self.checkpoints.last().cloned().into_iter().collect();
                serde_json::to_value(CheckpointList { checkpoints, cursor: None, ledger_seq: self.tree.count() })
            } else {
                let between: ask::Consistency = serde_json::from_value(question).unwrap();
                let path = self.path(&merkle::consistency_ranges(between.from, between.to));
                serde_json::to_value(ConsistencyView { from: between.from, to: between.to, path })
            };
            Ok(serde_json::from_value(answer.unwrap()).unwrap())
        }
    }
    fn honest(messages: u32) -> Ledger {
        let mut ledger = Ledger::new();
        for n in 0..messages {
            ledger.push(format!("message {n}").as_bytes());
            if n % 5 == 4 {
                ledger.checkpoint();
            }
        }
        ledger
    }

    #[tokio::test]
    async fn an_honest_ledger_is_followed_and_a_forked_one_is_refused() {
        let folder = tempfile::tempdir().unwrap();
        let memory = Memory::of(&Home::at(folder.path()));
        let network = Ledger::new().document.network;
        assert_eq!(look(&Ledger::new(), &Ledger::new().document, &memory).await, Ok(None));
        for messages in [5, 5, 9, 10, 64, 101] {
            let ledger = honest(messages);
            assert_eq!(look(&ledger, &ledger.document, &memory).await, Ok(Some(ledger.seen())), "{messages}");
            assert_eq!(memory.load(&network), Ok(Some(ledger.seen())));
        }
        let before = memory.load(&network).unwrap();
        // Signed by the right key, and of the right length: only the memory can tell.
        let mut forked = Ledger::new();
        for n in 0..300 {
            forked.push(format!("message {}", if n == 17 { 99 } else { n }).as_bytes());
            if n % 5 == 4 {
                forked.checkpoint();
            }
            if n % 50 == 49 {
                let refused = look(&forked, &forked.document, &memory).await.unwrap_err();
                assert_eq!(refused.code, Code::BooksWrong, "{refused}");
            }
        }
        // One that went back is refused although all of it is true, and so is one without any checkpoint.
        let older = honest(20);
        assert!(look(&older, &older.document, &memory).await.unwrap_err().detail.contains("went back"));
        assert!(look(&Ledger::new(), &older.document, &memory).await.unwrap_err().detail.contains("no checkpoint"));
        assert_eq!(memory.load(&network).unwrap(), before, "nothing of it is remembered");
    }

    #[test]
    fn a_checkpoint_counts_as_the_ledger_signed_it() {
        let ledger = honest(10);
        let sound = ledger.checkpoints[1].clone();
        assert!(read(&ledger.document, &sound).is_ok());
        type Change = fn(&mut CheckpointView);
        let changes: [Change; 6] = [
            |view| view.seq += 1,
            |view| view.message_seq += 1,
            |view| view.root = Hash32([1; 32]),
            |view| view.chain = Hash32([1; 32]),
            |view| view.state = Hash32([1; 32]),
            |view| view.message = view.message.replacen("checkpoint", "checkpoinT", 1),
        ];
        for change in changes {
            let mut view = sound.clone();
            change(&mut view);
            assert_eq!(read(&ledger.document, &view).unwrap_err().code, Code::BooksWrong);
        }
        let mut other = ledger.document.clone();
        other.ledger_keys = vec![Signer::from_seed(&[9; 32]).public()];
        assert!(read(&other, &sound).is_err(), "another key than the network's");
    }

    #[test]
    fn the_same_place_with_another_root_or_chain_is_a_fork() {
        let seen = honest(10).seen();
        assert_eq!(follow(Some(&seen), &seen, &[]), Ok(()));
        for other in [Seen { root: Hash32([1; 32]), ..seen }, Seen { chain: Hash32([1; 32]), ..seen }] {
            assert_eq!(follow(Some(&seen), &other, &[]).unwrap_err().code, Code::BooksWrong);
        }
        assert!(follow(Some(&seen), &Seen { seq: seen.seq + 1, ..seen }, &[]).is_err(), "without a proof");
        assert_eq!(follow(None, &seen, &[]), Ok(()));
    }

    #[test]
    fn what_is_kept_is_private_and_never_goes_back() {
        let folder = tempfile::tempdir().unwrap();
        let memory = Memory::of(&Home::at(folder.path()));
        let (old, new) = (honest(5).seen(), honest(10).seen());
        memory.save(&new).unwrap();
        memory.save(&old).unwrap();
        assert_eq!(memory.load(&new.network), Ok(Some(new)));
        std::fs::write(memory.path(&new.network), "{").unwrap();
        assert_eq!(memory.load(&new.network).unwrap_err().code, Code::BadFile);
        assert_eq!(memory.save(&new).unwrap_err().code, Code::BadFile, "evidence is not written over");
    }
}
