//! Golden bytes: what was ever written stays readable, and is written the same today.
//!
//! `MESH_UPDATE_GOLDEN=1 cargo test -p bus-schemas --test golden` writes the files anew; a changed file is a changed wire format
//! and needs a new version, not an update. `golden.py` decodes the same files from another language.

#![allow(clippy::unwrap_used)] // a test may end where it stands

mod support;

use std::collections::BTreeMap;
use std::fmt::Debug;
use std::path::PathBuf;

use bus_schemas::assignment::{AssignAnswer, AssignReply, AssignRequest, Assignment, Closed, Control, Payload, Verb};
use bus_schemas::envelope::{JsonBatch, encode};
use bus_schemas::event::{Event, EventKind, Progress};
use bus_schemas::heartbeat::Heartbeat;
use bus_schemas::id::Asker;
use bus_schemas::job::{AdmittedJob, Class, DataClass, JobSpec, Text};
use bus_schemas::ledger::{Account, Command, Fact, LedgerRequest, Leg, Op, Policy, What, fact_id};
use bus_schemas::offer::{Bid, BidAnswer, Decline, Offer, Quote};
use bus_schemas::receipt::{Outcome, Receipt, ReceiptMessage, ResultRef};
use bus_schemas::resources::Resources;
use bus_schemas::{AttemptId, Cid, Form, InstanceId, JobId, MilliMana, ReceiptId, Verifier};
use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_bytes::ByteBuf;
use support::{golden, signer, two};

fn plain<T: Serialize + DeserializeOwned + PartialEq + Debug>(name: &str, value: &T) {
    let bytes = encode(value);
    golden(&format!("{name}.msgpack"), &bytes);
    assert_eq!(&rmp_serde::from_slice::<T>(&bytes).unwrap(), value);
}

#[test]
fn every_message_is_written_as_ever() {
    let signer = signer();
    let key = signer.public();
    let (net, member, device) = (key.network_id(), key.member_id(), key.device_id());
    let s: InstanceId = "0badcafe".parse().unwrap();
    let job = JobId(Cid::of(b"a job"));
    let mana = |mmana| MilliMana::new(mmana).unwrap();

    let spec = JobSpec {
        net: Some(net),
        by: Some(key),
        key: Some("note-1".into()),
        at: Some(1_700_000_000_000),
        exp: Some(1_700_000_060_000),
        kind: "embed".into(),
        text: Some(Text::Many(vec!["hello".into(), "wörld".into()])),
        required_resources: Resources { cpu_cores: 2, memory_mb: 512, ..Resources::default() },
        timeout_ms: Some(60_000),
        cost_mana: Some(mana(1250)),
        priority: Class::High,
        labels: BTreeMap::from([("team".to_owned(), "lab".to_owned())]),
        ..JobSpec::default()
    };
    two(&[spec.clone(), JobSpec { text: Some(Text::One("x".into())), kind: "echo".into(), ..spec.clone() }]);

    let admitted = AdmittedJob {
        net,
        job,
        member,
        asker: Asker::Device(device),
        key: "note-1".into(),
        submitted_at: 1_700_000_000_001,
        at: 1_700_000_000_002,
        class: Class::Normal,
        hold_mmana: mana(10_000),
        hold_expires: 1_700_000_900_000,
        form: Form::Json,
        body: ByteBuf::from(br#"{"kind":"echo","text":"a"}"#.to_vec()),
        signed: None,
    };
    two(&[
        admitted.clone(),
        AdmittedJob { asker: Asker::Member(member), signed: Some(signer.batch(&[spec]).proof(0).unwrap().into()), ..admitted.clone() },
    ]);

    let offer = Offer {
        net,
        at: 1,
        exp: 2,
        job,
        round: u64::MAX,
        member,
        kind: "echo".into(),
        units: 1,
        bytes: 26,
        class: Class::Low,
        timeout_ms: 900_000,
        hold_mmana: mana(10_000),
        required_resources: Resources::default(),
        data_class: DataClass::default(),
    };
    two(&[offer.clone(), Offer { required_resources: Resources { gpu_mb: 8192, ..Resources::default() }, ..offer.clone() }]);

    let quote = Quote { price_mmana: mana(4), start_in_ms: 0, duration_ms: 1, free_bp: 9_500 };
    let bid = Bid { net, device, to: s.clone(), at: 3, job, round: 5, answer: BidAnswer::Bid(quote) };
    two(&[bid.clone(), Bid { answer: BidAnswer::No(Decline::Resources("memory".into())), ..bid.clone() }]);

    let assignment = Assignment {
        net,
        job,
        attempt: 1,
        device,
        member,
        assigned_at: 4,
        exp: 5,
        price_mmana: mana(4),
        tier: 1,
        timeout_ms: 900_000,
        payload: Cid::of(b"body"),
        resume: None,
    };
    two(&[assignment.clone(), Assignment { attempt: 2, ..assignment.clone() }]);
    let assignments = signer.batch(&[assignment]);
    let attempt = AttemptId(Cid::of(&assignments.b[0]));
    plain(
        "assign-request",
        &AssignRequest { s: s.clone(), assignments, payloads: vec![Payload { form: Form::Json, body: ByteBuf::from(b"body".to_vec()) }] },
    );
    plain(
        "assign-reply",
        &AssignReply {
            answers: vec![AssignAnswer::Accepted, AssignAnswer::Declined(Decline::QueueFull), AssignAnswer::Running, AssignAnswer::Done],
        },
    );

    let control = Control { net, device, at: 6, exp: 7, s, verb: Verb::Adopt { jobs: vec![job] } };
    let closed = Verb::Closed { attempts: vec![Closed { attempt, paid_mmana: Some(mana(3)), not_paid: None }] };
    two(&[control.clone(), Control { verb: closed, ..control.clone() }]);

    let event = Event { net, device, at: 8, job, attempt, what: EventKind::Started };
    let progress = Progress { basis_points: 5_000, stage: "embedding".into(), eta_ms: Some(900), ..Progress::default() };
    two(&[event.clone(), Event { what: EventKind::Progress(progress), ..event.clone() }]);

    let receipt = Receipt {
        net,
        device,
        job,
        attempt,
        at: 9,
        outcome: Outcome::Completed(ResultRef { cid: Cid::of(b"result"), bytes: 6 }),
        claimed_ms: 1,
        waited_ms: 0,
    };
    two(&[receipt.clone(), Receipt { outcome: Outcome::Cancelled, ..receipt.clone() }]);
    let receipts = signer.batch(&[receipt]);
    plain("receipt-message", &ReceiptMessage { receipts, results: vec![Some(ByteBuf::from(b"result".to_vec()))] });

    let heartbeat = Heartbeat {
        net,
        device,
        at: 10,
        name: "laptop-a".into(),
        version: "0.1.0".into(),
        kinds: vec!["echo".into(), "embed".into()],
        capabilities: vec![],
        trust_scopes: vec![],
        federations: vec![],
        claimed_tier: 1,
        total: Resources { cpu_cores: 4, memory_mb: 8192, storage_mb: 1000, gpu_mb: 0 },
        free: Resources { cpu_cores: 3, memory_mb: 4096, storage_mb: 900, gpu_mb: 0 },
        jobs: vec![job],
        unsettled: vec![],
        unsettled_more: 0,
        not_working: None,
        consent_at: None,
    };
    two(&[heartbeat.clone(), Heartbeat { not_working: Some("paused by its owner".into()), ..heartbeat.clone() }]);

    let command = Command { net, at: 11, op: Op::Hold { job, member, key: "note-1".into(), amount_mmana: Some(mana(1250)), expires: 99 } };
    let settle =
        Op::Settle { job, attempt, receipt: ReceiptId(Cid::of(b"r")), receipt_at: 12, receipt_seq: 3, started_at: None, ended: vec![] };
    two(&[command.clone(), Command { op: settle, ..command.clone() }]);
    plain(
        "ledger-request",
        &LedgerRequest { commands: signer.batch(&[command]), assignments: vec![], receipts: vec![ByteBuf::from(vec![1, 2])] },
    );

    let genesis = Fact {
        net,
        id: fact_id::genesis(&net),
        at_ms: 1,
        policy: 1,
        legs: vec![],
        evidence: vec![],
        what: What::Genesis { network: net, network_key: key, rules: Policy::first(mana(1_000_000_000)) },
    };
    let open = Fact {
        id: fact_id::open(&member),
        legs: vec![Leg { from: Account::Mint, to: Account::Available(member), amount_mmana: mana(1_000_000_000) }],
        what: What::Open { member, did: key },
        ..genesis.clone()
    };
    let hold = Fact {
        id: fact_id::hold(&member, "note-1"),
        legs: vec![Leg { from: Account::Available(member), to: Account::Held(member), amount_mmana: mana(1250) }],
        what: What::Hold { job, member, key: "note-1".into(), amount_mmana: mana(1250), expires: 99 },
        ..genesis.clone()
    };
    let texts = [&genesis, &open, &hold].map(|fact| serde_json::to_string(fact).unwrap()).to_vec();
    let ledger = signer.json_batch::<Fact>(texts);
    golden("fact.batch.json", &ledger.encode());
    let read = JsonBatch::decode(&ledger.encode()).unwrap().verify::<Fact>(&mut Verifier::default()).unwrap();
    assert_eq!(*read[2], hold);

    let mut books = bus_schemas::replay::Books::new(net, [key].into());
    books.apply_message(&mut Verifier::default(), 1, &ledger.encode()).unwrap();
    let hex = |bytes: &[u8]| bytes.iter().map(|b| format!("{b:02x}")).collect::<String>();
    golden("fact.digest.txt", format!("{}\n{}\n", hex(&books.digest()), hex(books.chain())).as_bytes());
}

#[test]
fn python_reads_the_same_bytes() {
    let here = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("tests");
    let output = std::process::Command::new("python3")
        .arg(here.join("golden.py"))
        .arg(here.join("golden"))
        .output()
        .expect("python3 is needed for this test");
    assert!(output.status.success(), "{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
}
