//! Checkpoints that do not fit: `mesh-ledger verify` names the first wrong sequence, whoever changed what.

use bus_schemas::envelope::JsonBatch;
use bus_schemas::ledger::{Fact, Hash32, LedgerOutcome, LedgerRequest, What};
use bus_schemas::replay::{chain_next, read_facts};
use bus_schemas::{Signer, Verifier, envelope};
use bytes::Bytes;
use ledger_worker::posting::Standing;
use ledger_worker::project::PATIENCE;
use ledger_worker::request::{Request, read};
use ledger_worker::round::{self, Message, Round};
use ledger_worker::settings::parts;
use ledger_worker::store::Store;

use crate::recoveries::{messages, replace_stream};
use crate::support::{World, gateway, hold, net};

/// Books without a worker, so that every message stands where it is expected: 1 genesis, 2 people, 3 and 4 holds, 5 a checkpoint,
/// 6 and 7 holds, 8 a checkpoint, 9 a hold. All of them in LEDGER and in the rows.
async fn books() -> (World, Vec<Vec<u8>>) {
    let world = World::start().await;
    let key = world.ledger_key();
    let mut payloads: Vec<Vec<u8>> = messages(&world).await.into_iter().map(|message| message.payload.to_vec()).collect();
    let mut standing = Standing::new(net(), [key.public()].into());
    standing.take(&mut Verifier::default(), 1, &payloads[0]).unwrap();
    // One moment for all: swapped messages do not go back in time.
    let now = bus::hub_time::here_ms();
    let parts = parts(&world.document);
    let mut decide = |request: Option<LedgerRequest>| {
        let Some(request) = request else {
            let message = round::checkpoint(&standing, &key, now, 1, u64::MAX).unwrap();
            payloads.push(round::take_checkpoint(&mut standing, message).unwrap().payload.to_vec());
            return;
        };
        let Request::Good { commands, evidence } = read(&mut Verifier::default(), &envelope::encode(&request)) else {
            panic!("a good request")
        };
        let mut round = Round::new(&mut standing, &key);
        let outcomes = round.answer(&parts, now, &commands, &evidence).unwrap();
        assert!(outcomes.iter().all(|outcome| matches!(outcome, LedgerOutcome::Done(_))), "{outcomes:?}");
        let made = round.finish();
        assert_eq!(made.len(), 1);
        payloads.push(made[0].payload.to_vec());
    };
    let hold = |n| Some(world.request(&gateway(), vec![hold(n)]));
    decide(Some(world.people_request()));
    for request in [hold(0), hold(1), None, hold(2), hold(3), None, hold(4)] {
        decide(request);
    }
    replace_stream(&world, &payloads).await;
    project(&world, &payloads).await.unwrap();
    (world, payloads)
}

/// Writes rows as a projection would that looks at nothing but signatures.
async fn project(world: &World, payloads: &[Vec<u8>]) -> anyhow::Result<()> {
    let keys = [world.ledger_key().public()].into();
    let mut chain = [0; 32];
    let all = payloads.iter().zip(1..).map(|(payload, seq)| {
        chain = chain_next(&chain, seq, payload);
        let facts = read_facts(&net(), &keys, &mut Verifier::default(), payload).unwrap_or_default();
        Message { seq, payload: Bytes::from(payload.clone()), chain, facts }
    });
    let all: Vec<Message> = all.collect();
    let store = Store::new(&world.postgres.url()).unwrap();
    let place = store.place().await?;
    store.project(&place, &all, &mut None, PATIENCE).await.map(|_| ())
}

/// The message with its one fact changed, signed again by the ledger's own key.
fn signed_again(key: &Signer, payload: &[u8], change: impl FnOnce(&mut Fact)) -> Vec<u8> {
    let batch = JsonBatch::decode(payload).unwrap();
    let mut fact: Fact = serde_json::from_str(&batch.b[0]).unwrap();
    change(&mut fact);
    key.json_batch::<Fact>(vec![serde_json::to_string(&fact).unwrap()]).encode()
}

fn longer(fact: &mut Fact) {
    let What::Hold { expires, .. } = &mut fact.what else { panic!("a hold") };
    *expires += 1;
}

/// What `verify` finds wrong; the first is what a person reads first.
fn wrong((ok, report): (bool, serde_json::Value)) -> Vec<String> {
    let wrong: Vec<String> = serde_json::from_value(report["wrong"].clone()).unwrap();
    assert_eq!(ok, wrong.is_empty(), "{report}");
    wrong
}

#[tokio::test]
async fn a_stream_that_was_changed_and_signed_again_does_not_fit_its_checkpoint() {
    let (world, good) = books().await;
    let key = world.ledger_key();
    assert_eq!(wrong(world.verify()), [""; 0]);
    type Change = fn(&Signer, &mut Vec<Vec<u8>>);
    // What was done; the message named first with the rows, without them, and what the checkpoint says.
    let cases: [(&str, Change, u64, u64, &str); 5] = [
        (
            "changed and signed again",
            |key, all| all[5] = signed_again(key, &all[5], longer),
            6,
            8,
            "the checkpoint of sequence 7 is wrong: its chain is another; the last checkpoint that fits covers 4: a message from 5 to 8 was altered",
        ),
        (
            "before the first checkpoint",
            |key, all| all[2] = signed_again(key, &all[2], longer),
            3,
            5,
            "the checkpoint of sequence 4 is wrong: its chain is another; no checkpoint fits before it: a message from 1 to 5 was altered",
        ),
        ("swapped", |_, all| all.swap(5, 6), 6, 8, "the checkpoint of sequence 7 is wrong: its chain is another"),
        ("left out", |_, all| drop(all.remove(5)), 6, 7, "the checkpoint of sequence 7 is wrong: it is not about the message before it"),
        (
            "a byte, so that nobody signed it",
            |_, all| {
                let at = all[5].len() / 3;
                all[5][at] ^= 1;
            },
            6,
            6,
            "the last checkpoint that fits covers 4: suspicious are first 6, then all from 5 to 8",
        ),
    ];
    for (what, change, with_rows, alone, says) in cases {
        let mut changed = good.clone();
        change(&key, &mut changed);
        replace_stream(&world, &changed).await;
        for (found, first) in [(wrong(world.verify()), with_rows), (wrong(world.verify_stream()), alone)] {
            assert!(found[0].starts_with(&format!("sequence {first}:")), "{what}: {found:#?}");
            assert!(found.iter().any(|line| line.contains(says)), "{what}: {found:#?}");
        }
        assert!(wrong(world.verify()).iter().any(|line| line.contains("LEDGER was changed")), "{what}");
    }
}

#[tokio::test]
async fn rows_of_a_checkpoint_that_were_changed_are_named() {
    let (world, _) = books().await;
    let flip = |column: &str| {
        format!("update ledger.checkpoint set {column} = set_byte({column}, 9, get_byte({column}, 9) # 1) where message_seq = 8")
    };
    let cases = [
        (flip("chain"), "sequence 8: the checkpoint is another in the database"),
        (flip("root"), "sequence 8: the checkpoint is another in the database"),
        (flip("state"), "sequence 8: the checkpoint is another in the database"),
        ("delete from ledger.checkpoint where message_seq = 8".into(), "sequence 8: the checkpoint is missing in the database"),
        (
            "update ledger.checkpoint set seq = 3, message_seq = 4 where seq = 7".into(),
            "sequence 4: the checkpoint is in the database but not in the stream",
        ),
        (
            "update ledger.event set chain = set_byte(chain, 0, get_byte(chain, 0) # 1) where seq = 6".into(),
            "sequence 6: the message is another in the database than in the stream: its bytes are the same, but not its chain",
        ),
        (
            "update ledger.cursor set chain = set_byte(chain, 0, get_byte(chain, 0) # 1)".into(),
            "sequence 9: the chain in the database's cursor is another",
        ),
    ];
    let client = world.postgres.client().await;
    for (change, named) in cases {
        let table = change.split_whitespace().find(|word| word.starts_with("ledger.")).unwrap();
        client.batch_execute(&format!("create table saved as select * from {table}; {change}")).await.unwrap();
        let found = wrong(world.verify());
        assert!(found[0].starts_with(named), "{change}: {found:#?}");
        client.batch_execute(&format!("delete from {table}; insert into {table} select * from saved; drop table saved")).await.unwrap();
    }
    assert_eq!(wrong(world.verify()), [""; 0], "put back");
}

#[tokio::test]
async fn a_writer_that_states_something_else_is_named() {
    let (world, good) = books().await;
    let key = world.ledger_key();
    let state = |fact: &mut Fact, change: fn(&mut bus_schemas::ledger::CheckpointState)| {
        let What::Checkpoint(state) = &mut fact.what else { panic!("a checkpoint") };
        change(state);
    };
    type Change = fn(&mut bus_schemas::ledger::CheckpointState);
    let cases: [(Change, &str); 4] = [
        (|state| state.seq = 6, "the checkpoint of sequence 6 is wrong: it is not about the message before it"),
        (|state| state.chain = Hash32([7; 32]), "the checkpoint of sequence 7 is wrong: its chain is another"),
        (|state| state.root = Hash32([7; 32]), "the checkpoint of sequence 7 is wrong: its Merkle root is another"),
        (|state| state.state = Hash32([7; 32]), "the checkpoint of sequence 7 is wrong: its digest of balances and holds is another"),
    ];
    for (change, says) in cases {
        let mut lying = good.clone();
        lying[7] = signed_again(&key, &good[7], |fact| state(fact, change));
        replace_stream(&world, &lying).await;
        // The rows are made from the lie: only a replay can tell.
        let found = wrong(world.verify_stream());
        assert!(found.len() == 1 && found[0].starts_with(&format!("sequence 8: {says}")), "{found:#?}");
        world.postgres.client().await.batch_execute("drop schema ledger cascade").await.unwrap();
        world.migrate();
        if let Err(error) = project(&world, &lying).await {
            // One about another message does not even become a row.
            assert!(says.contains("not about the message") && format!("{error:#}").contains("checkpoint_check"), "{error:#}");
            continue;
        }
        let found = wrong(world.verify());
        assert!(found.len() == 1 && found[0].starts_with(&format!("sequence 8: {says}")), "{found:#?}");
    }
    // A worker does not go on from it either.
    let worker = world.worker();
    crate::support::until("it to say why it does not write", async || worker.says("sequence 8 contradicts the books").then_some(())).await;
}
