//! What no device and no stranger may say of a job, by one table: each row is refused by name, and the job, the books and the next honest
//! job are as without it. What the doors refuse of cancels is in `e2e/tests/strangers.rs`.

use bus_schemas::api::BlobInfo;
use bus_schemas::event::{Checkpoint, Event, EventKind, Progress};
use bus_schemas::history::CancelRequest;
use bus_schemas::job::JobState;
use bus_schemas::ledger::HoldState;
use bus_schemas::limits::BLOB_BYTES_MAX;
use bus_schemas::offer::Decline;
use bus_schemas::receipt::Receipt;
use bus_schemas::{AttemptId, DeviceId, JobId, NetworkId, Signer, stream, subject};

use crate::network::device::{Device, OnAssign, Script, completed, receipt_message};
use crate::network::{HUNG, Network, Proc, cid, gateway, member, net, next, result_text, timings, until};
use crate::{ECHO, TEN_TEXTS, ends};

/// One row: what is sent, and what the scheduler's log says of it.
struct Row {
    name: &'static str,
    subject: String,
    payload: Vec<u8>,
    says: String,
}

/// Two honest devices at work, and a stranger.
struct Scene {
    network: Network,
    scheduler: Proc,
    results: bus::async_nats::Subscriber,
    /// Keeps what it is given of `embed`.
    worker: Device,
    /// Serves `echo`.
    other: Device,
    honest: usize,
}

impl Scene {
    async fn start() -> Self {
        let network = Network::start().await;
        let worker = network.device(1, Script { kinds: vec!["embed".into()], ..Script::echo().that(OnAssign::Keep) }).await;
        let other = network.device(2, Script::echo()).await;
        let scheduler = network.scheduler();
        let results = network.results().await;
        Self { network, scheduler, results, worker, other, honest: 0 }
    }
    /// A job that the worker keeps, and its attempt.
    async fn kept(&self, key: &str) -> (JobId, AttemptId) {
        let before = self.worker.assigned().len();
        let job = self.network.admit_one(key, TEN_TEXTS).await;
        (job, until("an attempt", async || self.worker.assigned().get(before).copied()).await)
    }
    /// A blob that the member can read.
    async fn stored(&self, bytes: u64, units: u32) -> Checkpoint {
        let checkpoint = Checkpoint { cid: cid(format!("{bytes} {units}").as_bytes()), bytes, units };
        let listed = stream::blob::info(&checkpoint.cid, &member().public().member_id());
        let info = serde_json::to_vec(&BlobInfo { bytes, chunks: vec![] }).unwrap();
        self.network.bus.store(listed, None, info.into(), HUNG).await.unwrap();
        checkpoint
    }
    /// An honest job goes through.
    async fn honest(&mut self) {
        self.honest += 1;
        let job = self.network.admit_one(&format!("honest {}", self.honest), ECHO).await;
        // Other jobs' results may come before it.
        while result_text(&next(&mut self.results).await).0 != job {}
    }
    /// Sends each row, and looks that nothing but its refusal came of it.
    async fn refuses(&mut self, rows: Vec<Row>, untouched: &[JobId]) {
        // What lasts is told once more: until then records come by themselves.
        until("all to be told", async || {
            let before = self.state(untouched).await;
            tokio::time::sleep(timings().heartbeat).await;
            (self.state(untouched).await == before).then_some(())
        })
        .await;
        for Row { name, subject, payload, says } in rows {
            let before = self.state(untouched).await;
            let refusals = self.count(&says);
            self.network.bus.client.publish(subject, payload.into()).await.unwrap();
            until(&format!("the refusal of: {name} ({says})"), async || (self.count(&says) > refusals).then_some(())).await;
            assert_eq!(self.state(untouched).await, before, "{name}");
            self.honest().await;
            println!("refused: {name}: {says}");
        }
    }
    fn count(&self, text: &str) -> usize {
        self.scheduler.log.lock().unwrap().matches(text).count()
    }
    /// All that must not change: holds, records, assignments, what the worker was told.
    async fn state(&self, jobs: &[JobId]) -> String {
        let mut state = format!("{:?} {:?} ", self.worker.assigned(), self.worker.cancelled());
        for job in jobs {
            let records = self.network.history(*job).await.len();
            state.push_str(&format!("{:?} {records} {:?};", self.network.books.of(*job), ends(&self.network, *job).await));
        }
        state
    }
}

/// One event as it travels, signed by `by`.
fn event(device: DeviceId, by: &Signer, net: NetworkId, job: JobId, attempt: AttemptId, what: EventKind) -> Vec<u8> {
    by.batch(&[Event { net, device, at: 1, job, attempt, what }]).encode()
}
fn at(basis_points: u32) -> EventKind {
    EventKind::Progress(Progress { basis_points, stage: "embedding".into(), ..Progress::default() })
}
fn cut(mut bytes: Vec<u8>) -> Vec<u8> {
    bytes.truncate(bytes.len() - 9);
    bytes
}

#[tokio::test]
async fn what_is_told_of_running_work() {
    let mut scene = Scene::start().await;
    let (a, in_a) = scene.kept("a").await;
    let (b, in_b) = scene.kept("b").await;
    let other_net = Signer::from_seed(&[77; 32]).public().network_id();
    let (worker, other) = (scene.worker.id, scene.other.id);
    let [worker_key, other_key, stranger] = [151, 152, 149].map(|seed| Signer::from_seed(&[seed; 32]));
    let nobody = stranger.public().device_id();

    // What is true so far: 4 of 10 texts are kept, and it is at 50 %.
    let honest = scene.stored(7, 4).await;
    let mut told = scene.network.bus.client.subscribe(subject::watch_jobs(&member().public().member_id(), "out")).await.unwrap();
    scene.worker.tells(a, in_a, EventKind::Checkpoint(honest), scene.worker.signer()).await;
    next(&mut told).await;
    let mut told = scene.network.bus.client.subscribe(subject::watch_jobs(&member().public().member_id(), "progress")).await.unwrap();
    scene.worker.tells(a, in_a, at(5_000), scene.worker.signer()).await;
    next(&mut told).await;

    let good = scene.stored(9, 6).await;
    let kept = |checkpoint| EventKind::Checkpoint(checkpoint);
    let from_worker = |job, attempt, what| event(worker, &worker_key, net(), job, attempt, what);
    let none = (JobId(cid(b"no job")), AttemptId(cid(b"no attempt")));
    let row =
        |name, from: &DeviceId, kind, payload, says: &str| Row { name, subject: subject::event(from, kind), payload, says: says.into() };
    let is_none = "it is of no attempt of this job on this device";
    let huge = Checkpoint { bytes: BLOB_BYTES_MAX as u64 + 1, ..good };
    let never = Checkpoint { cid: cid(b"never stored"), ..good };
    let short = Checkpoint { bytes: 8, ..good };
    let started = EventKind::Started;
    let rows = vec![
        row("checkpoint with another job's attempt", &worker, "checkpoint", from_worker(a, in_b, kept(good)), is_none),
        row("checkpoint of an attempt that never was", &worker, "checkpoint", from_worker(a, none.1, kept(good)), is_none),
        row("checkpoint of another device", &other, "checkpoint", event(other, &other_key, net(), a, in_a, kept(good)), is_none),
        row(
            "checkpoint in another device's name",
            &other,
            "checkpoint",
            event(worker, &other_key, net(), a, in_a, kept(good)),
            "it is in another's name",
        ),
        row(
            "checkpoint forged: another's key",
            &worker,
            "checkpoint",
            event(worker, &other_key, net(), a, in_a, kept(good)),
            "events signed by another key than the device's",
        ),
        row(
            "checkpoint forged: another's signature",
            &worker,
            "checkpoint",
            {
                let mut batch = worker_key.batch(&[Event { net: net(), device: worker, at: 1, job: a, attempt: in_a, what: kept(good) }]);
                batch.s = other_key.batch(&[Event { net: net(), device: worker, at: 1, job: a, attempt: in_a, what: kept(good) }]).s;
                batch.encode()
            },
            "events were refused",
        ),
        row(
            "checkpoint of a device that is not enrolled",
            &nobody,
            "checkpoint",
            event(nobody, &stranger, net(), a, in_a, kept(good)),
            "events of a device that is not enrolled",
        ),
        row(
            "checkpoint of another network",
            &worker,
            "checkpoint",
            event(worker, &worker_key, other_net, a, in_a, kept(good)),
            "it is in another's name",
        ),
        row("checkpoint cut short", &worker, "checkpoint", cut(from_worker(a, in_a, kept(good))), "events were refused"),
        row("checkpoint whose blob is shorter", &worker, "checkpoint", from_worker(a, in_a, kept(short)), "has 9 bytes, not 8"),
        row("checkpoint whose blob never came", &worker, "checkpoint", from_worker(a, in_a, kept(never)), "was never stored"),
        row(
            "checkpoint too large",
            &worker,
            "checkpoint",
            from_worker(a, in_a, kept(huge)),
            "it has 67108865 bytes, at most 67108864 are allowed",
        ),
        row("message too large", &worker, "checkpoint", vec![0x80; 500_000], "events were refused"),
        row(
            "checkpoint older than the last",
            &worker,
            "checkpoint",
            from_worker(a, in_a, kept(Checkpoint { units: 3, ..good })),
            "3 texts are done, 4 were before",
        ),
        row(
            "checkpoint of as much as the last",
            &worker,
            "checkpoint",
            from_worker(a, in_a, kept(Checkpoint { units: 4, ..good })),
            "4 texts are done, 4 were before",
        ),
        row(
            "checkpoint of more texts than there are",
            &worker,
            "checkpoint",
            from_worker(a, in_a, kept(Checkpoint { units: 11, ..good })),
            "11 texts are done, the job has 10",
        ),
        row("progress going backwards", &worker, "progress", from_worker(a, in_a, at(4_999)), "49.99 % after 50.00 %: it goes backwards"),
        row("progress over 100 %", &worker, "progress", from_worker(a, in_a, at(10_001)), "100.01 % are more than the whole"),
        row(
            "progress of another device",
            &other,
            "progress",
            event(other, &other_key, net(), a, in_a, at(6_000)),
            "that device has no such attempt",
        ),
        row("progress with another job's attempt", &worker, "progress", from_worker(b, in_a, at(6_000)), "that device has no such attempt"),
        row(
            "started, of another device",
            &other,
            "started",
            event(other, &other_key, net(), a, in_a, started.clone()),
            "that device has no such attempt",
        ),
        row(
            "dropped, by another device",
            &other,
            "dropped",
            event(other, &other_key, net(), a, in_a, EventKind::Dropped { reason: "mine".into() }),
            "that device has no such attempt",
        ),
        row("started, of no job", &worker, "started", from_worker(none.0, none.1, started), "what=\"started\""),
        row(
            "checkpoint of no job, by an idle device",
            &other,
            "checkpoint",
            event(other, &other_key, net(), JobId(cid(b"no other job")), none.1, kept(good)),
            "what=\"checkpoint\"",
        ),
        row("nonsense", &other, "progress", b"nonsense".to_vec(), "events were refused"),
    ];
    assert_eq!(scene.count("the books do not know its job"), 0);
    scene.refuses(rows, &[a, b]).await;
    assert_eq!(scene.count("the books do not know its job"), 2, "both events of no job");

    // The same device's honest words count as ever: on from 50 % and from 4 texts.
    scene.worker.tells(a, in_a, at(6_000), scene.worker.signer()).await;
    let progress: Progress = serde_json::from_slice(&next(&mut told).await.payload).unwrap();
    assert_eq!(progress.basis_points, 6_000);
    scene.worker.tells(a, in_a, EventKind::Dropped { reason: "enough".into() }, scene.worker.signer()).await;
    until("the next attempt", async || (scene.worker.assigned().len() == 3).then_some(())).await;
    assert_eq!(scene.worker.resumed(), [None, None, Some(4)], "it goes on behind the honest checkpoint");
    scene.worker.finish(completed).await;
    for job in [a, b] {
        assert_eq!(scene.network.end_of(job).await.state, JobState::Completed);
    }
    scene.network.jobs_are_gone().await;
    assert_eq!(scene.network.books.closed(), (2 + scene.honest as u64, 0));
}

#[tokio::test]
async fn what_is_claimed_for_pay() {
    let mut scene = Scene::start().await;
    let (worker, other) = (scene.worker.id, scene.other.id);
    let [worker_key, other_key, stranger] = [151, 152, 149].map(|seed| Signer::from_seed(&[seed; 32]));
    let nobody = stranger.public().device_id();

    // Declined, then taken by nobody else until the worker takes it.
    scene.worker.script(|script| script.on_assign = OnAssign::Decline(Decline::QueueFull));
    let d = scene.network.admit_one("d", TEN_TEXTS).await;
    let declined = until("a no", async || scene.worker.declined().first().copied()).await;
    scene.worker.script(|script| script.on_assign = OnAssign::Keep);
    until("it to be taken", async || (!scene.worker.attempts_of(d).is_empty()).then_some(())).await;
    let taken = scene.worker.attempts_of(d)[0];
    // Dropped once, then done by its second attempt.
    let (f, old) = scene.kept("f").await;
    scene.worker.tells(f, old, EventKind::Dropped { reason: "no room".into() }, scene.worker.signer()).await;
    let second = until("its second attempt", async || scene.worker.attempts_of(f).get(1).copied()).await;
    scene.worker.claims(f, second, completed(""), "").await;
    assert_eq!(scene.network.end_of(f).await.state, JobState::Completed);
    // Cancelled before it ran, so nothing of it is paid.
    scene.worker.script(|script| script.on_offer = crate::network::device::OnOffer::No(Decline::Paused));
    let e = scene.network.admit_one("e", TEN_TEXTS).await;
    tokio::time::sleep(timings().heartbeat / 4).await;
    scene.network.cancel(e).await;
    assert_eq!(scene.network.end_of(e).await.state, JobState::Cancelled);
    let (none, never) = (JobId(cid(b"no job")), AttemptId(cid(b"never")));

    let result = |by: &Signer, device: DeviceId, net: NetworkId, job, attempt| {
        let outcome = completed("");
        receipt_message(by, Receipt { net, device, job, attempt, at: 1, outcome, claimed_ms: 1, waited_ms: 0 }, "")
    };
    let row = |name, from: &DeviceId, payload, says: &str| Row { name, subject: subject::receipt_any(from), payload, says: says.into() };
    let other_net = Signer::from_seed(&[77; 32]).public().network_id();
    let rows = vec![
        row("receipt for an attempt that never was", &worker, result(&worker_key, worker, net(), d, never), "nobody assigned this attempt"),
        row("receipt for another device's attempt", &other, result(&other_key, other, net(), d, taken), "nobody assigned this attempt"),
        row(
            "accepted and done after it was declined",
            &worker,
            result(&worker_key, worker, net(), d, declined),
            "its device had declined this assignment",
        ),
        row("receipt of no job", &worker, result(&worker_key, worker, net(), none, never), "the books do not know its job"),
        row("receipt in another device's name", &other, result(&other_key, worker, net(), d, taken), "it is in another's name"),
        row("receipt of another network", &worker, result(&worker_key, worker, other_net, d, taken), "it is in another's name"),
        row(
            "receipt with another's key",
            &worker,
            result(&other_key, worker, net(), d, taken),
            "receipts signed by another key than the device's",
        ),
        row(
            "receipt of a device that is not enrolled",
            &nobody,
            result(&stranger, nobody, net(), d, taken),
            "receipts of a device that is not enrolled",
        ),
        row("receipt cut short", &worker, cut(result(&worker_key, worker, net(), d, taken)), "receipts were refused"),
        row("receipts too large", &worker, vec![0x80; 500_000], "receipts were refused"),
        row("nonsense", &worker, b"nonsense".to_vec(), "receipts were refused"),
        row(
            "receipt for an old attempt of a job that is paid",
            &worker,
            result(&worker_key, worker, net(), f, old),
            "another receipt settled the job",
        ),
        row(
            "receipt for a job that was cancelled",
            &worker,
            result(&worker_key, worker, net(), e, AttemptId(cid(b"too late"))),
            "the job had ended",
        ),
    ];
    scene.refuses(rows, &[d, e, f]).await;
    let told = |attempt: AttemptId, why: &str| {
        scene.worker.closed().iter().any(|closed| closed.attempt == attempt && closed.not_paid.as_deref() == Some(why))
    };
    until("the device to be told why", async || {
        let all = told(declined, "its device had declined this assignment") && told(old, "another receipt settled the job");
        all.then_some(())
    })
    .await;
    scene.worker.finish(completed).await;
    assert_eq!(scene.network.end_of(d).await.state, JobState::Completed);
    assert!(matches!(scene.network.books.of(d), HoldState::Settled { attempt, .. } if attempt == taken));
    scene.network.jobs_are_gone().await;
    assert_eq!(scene.network.books.closed(), (2 + scene.honest as u64, 1));
}

#[tokio::test]
async fn what_is_to_be_stopped() {
    let mut scene = Scene::start().await;
    let (a, _) = scene.kept("a").await;
    let (b, _) = scene.kept("b").await;
    let (me, stranger) = (member().public().member_id(), Signer::from_seed(&[149; 32]));
    let cancel = |by: &Signer, net, job, member| by.batch(&[CancelRequest { net, job, member, at: 1, unless_assigned: false }]).encode();
    let other_net = Signer::from_seed(&[77; 32]).public().network_id();
    let row = |name, payload, says: &str| Row { name, subject: subject::cancel(&a), payload, says: says.into() };
    let no_word = "it is not a gateway's word about this job";
    let rows = vec![
        row("cancel by its own member, past the door", cancel(&member(), net(), a, me), no_word),
        row("cancel by a stranger's key", cancel(&stranger, net(), a, me), no_word),
        row("cancel for another member", cancel(&gateway(), net(), a, stranger.public().member_id()), "the job is another member's"),
        row("cancel of another job", cancel(&gateway(), net(), b, me), no_word),
        row("cancel of another network", cancel(&gateway(), other_net, a, me), no_word),
        row("cancel cut short", cut(cancel(&gateway(), net(), a, me)), "a cancel was refused"),
        row("nonsense", b"nonsense".to_vec(), "a cancel was refused"),
    ];
    scene.refuses(rows, &[a, b]).await;
    scene.worker.finish(completed).await;
    for job in [a, b] {
        assert_eq!(scene.network.end_of(job).await.state, JobState::Completed);
    }
    // Of what has ended nothing is stopped any more.
    scene.network.jobs_are_gone().await;
    let before = scene.state(&[a, b]).await;
    scene.network.cancel(a).await;
    scene.honest().await;
    assert_eq!((scene.state(&[a, b]).await, scene.worker.cancelled()), (before, vec![]));
    scene.network.jobs_are_gone().await;
    assert_eq!(scene.network.books.closed(), (2 + scene.honest as u64, 0));
}
