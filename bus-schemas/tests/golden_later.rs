//! Golden bytes of what came after `golden.rs`: orders, what a holder says, dead letters, every kind of event. Same rules: a changed file is a
//! changed wire format. `MESH_UPDATE_GOLDEN=1 cargo test -p bus-schemas --test golden_later` writes them.

#![allow(clippy::unwrap_used)] // a test may end where it stands

mod support;

use bus_schemas::api::ask;
use bus_schemas::envelope::{JsonBatch, encode};
use bus_schemas::event::{Checkpoint, EventKind, Progress};
use bus_schemas::history::Transition;
use bus_schemas::holding::{HeldAttempt, HoldBack, Holding, HoldingAsk, HoldingPhase, Queued};
use bus_schemas::job::JobState;
use bus_schemas::letter::{Entry, Letter, Mark, Original, Stage};
use bus_schemas::order::{Order, What};
use bus_schemas::{AttemptId, Cid, Code, InstanceId, JobId, LetterId, Problem, Verifier};
use support::{golden, signer, two};

#[test]
fn orders_are_written_as_ever() {
    let net = signer().public().network_id();
    let device = signer().public().device_id();
    let id = || ask::ById { id: "dlq_abcdefgh".into() };
    let all = [
        What::DlqLs(ask::LetterLs { limit: Some(7), cursor: Some("9".into()) }),
        What::DlqShow(id()),
        What::DlqRetry(id()),
        What::DlqDrop(id()),
        What::Drain(ask::Drain { id: device.to_string(), undo: true, reason: Some("a new disk".into()) }),
    ];
    golden("order-whats.msgpack", &encode(&all));
    assert_eq!(rmp_serde::from_slice::<Vec<What>>(&encode(&all)).unwrap(), all);
    let [list, .., drain] = all.map(|what| Order { net, at: 12, what });
    two(&[list, drain]);
}

#[test]
fn what_a_holder_says_is_written_as_ever() {
    let net = signer().public().network_id();
    let job = JobId(Cid::of(b"a job"));
    let attempt = AttemptId(Cid::of(b"an attempt"));
    let s: InstanceId = "0badcafe".parse().unwrap();
    let (device, cid) = (signer().public().device_id(), Cid::of(b"a part"));
    let ask = HoldingAsk { job };
    golden("holding-ask.msgpack", &encode(&ask));
    assert_eq!(rmp_serde::from_slice::<HoldingAsk>(&encode(&ask)).unwrap(), ask);
    let least = Holding {
        net,
        job,
        s,
        at: 20,
        since: 10,
        renewed_at: 19,
        renews_at: 29,
        ends_at: 39,
        phase: HoldingPhase::Looking,
        until: None,
        attempts_used: 0,
        gives_up_at: 99,
        cancelled: false,
        current: None,
        kept: None,
        holds_back: false,
        declined: 0,
        hold_back: None,
        unwritten: vec![],
    };
    let held = HeldAttempt {
        attempt,
        number: 2,
        device,
        name: "laptop-a".into(),
        assigned_at: 11,
        started_at: Some(12),
        silent_ms: 300,
        unheard: false,
        silence_max_ms: 20_000,
        gone_at: None,
        timeout_ms: 900_000,
        queued: None,
    };
    let most = Holding {
        phase: HoldingPhase::Running,
        until: Some(30),
        attempts_used: 1,
        cancelled: true,
        current: Some(held.clone()),
        kept: Some(Checkpoint { cid, bytes: 7, units: 512 }),
        holds_back: true,
        ..least.clone()
    };
    // What came later.
    let queued = Queued { ahead: Some(3), starts_at: Some(21), late_at: Some(31), gives_up_at: 99 };
    let held = HeldAttempt { unheard: true, gone_at: Some(25), queued: Some(queued), ..held };
    let transition = Transition { to: JobState::Assigned, at: 11, cause: "attempt 2".into(), actor: "dev_x".into() };
    let hold_back = Some(HoldBack { gone: 5, there: 6, until: 60, follow_ms: 10_000 });
    let later = Holding { declined: 3, current: Some(held), hold_back, unwritten: vec![transition], ..most.clone() };
    golden("holding-later.msgpack", &encode(&later));
    assert_eq!(rmp_serde::from_slice::<Holding>(&encode(&later)).unwrap(), later);
    let all = [least, most];
    two(&all);
    let phases = [
        HoldingPhase::Looking,
        HoldingPhase::Ready,
        HoldingPhase::Bidding,
        HoldingPhase::Assigning,
        HoldingPhase::Running,
        HoldingPhase::BackOff,
        HoldingPhase::Waiting,
        HoldingPhase::Closing,
    ];
    golden("holding-phases.msgpack", &encode(&phases));
}

#[test]
fn dead_letters_are_written_as_ever() {
    let (net, member) = (signer().public().network_id(), signer().public().member_id());
    let id = LetterId::of_message("JOBS", 7, 8);
    let letter = Letter {
        net,
        id,
        at: 8,
        stage: Stage::Job,
        member: None,
        job: None,
        attempts: 0,
        problem: Problem::new(Code::WrongSigner, "not admitted by a gateway of this network"),
        original: Some(Original::keeping("JOBS", 7, "mesh.v1.job.normal.x", b"bytes")),
    };
    let failed = Letter {
        stage: Stage::Failed,
        member: Some(member),
        job: Some(JobId(Cid::of(b"a job"))),
        attempts: 4,
        original: None,
        ..letter.clone()
    };
    let mark = Mark { at: 9, by: member.to_string(), job: Some(JobId(Cid::of(b"another job"))) };
    let dropped = Mark { at: 10, by: "operator".into(), job: None };
    let all = [
        Entry::Letter(Box::new(letter)),
        Entry::Letter(Box::new(failed)),
        Entry::Retried { net, id, mark },
        Entry::Dropped { net, id, mark: dropped },
    ];
    for (name, entry) in ["of-a-message", "of-a-job", "retried", "dropped"].into_iter().zip(all) {
        let bytes = entry.signed(&signer());
        golden(&format!("dead-letter.{name}.json"), &bytes);
        let read = JsonBatch::decode(&bytes).unwrap().verify::<Entry>(&mut Verifier::default()).unwrap();
        assert_eq!(*read[0], entry);
    }
}

#[test]
fn every_kind_of_event_is_written_as_ever() {
    let progress = Progress {
        basis_points: 4_000,
        stage: "embedding".into(),
        eta_ms: Some(12_000),
        message: Some("4000 of 10000 texts".into()),
        done_stages: vec!["fetching".into(), "loading".into()],
        remaining_stages: vec!["storing".into()],
    };
    let all = [
        EventKind::Started,
        EventKind::Progress(progress),
        EventKind::Checkpoint(Checkpoint { cid: Cid::of(b"a part"), bytes: 7, units: 512 }),
        EventKind::Dropped { reason: "paused by its owner".into() },
    ];
    golden("event-kinds.msgpack", &encode(&all));
    assert_eq!(rmp_serde::from_slice::<Vec<EventKind>>(&encode(&all)).unwrap(), all);
}
