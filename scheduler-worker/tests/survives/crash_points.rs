//! Every step of the scheduler has a point where a test kills it; whoever takes the job then brings it to its one end. What leads to a
//! point differs, so points stand by their walks; those on the way of every job are in `real_server.rs` too.

use std::future::Future;

use bus_schemas::api::BlobInfo;
use bus_schemas::event::{Checkpoint, EventKind};
use bus_schemas::job::JobState;
use bus_schemas::receipt::{Failure, FailureClass};
use bus_schemas::{JobId, stream};

use crate::network::device::{Device, OnAssign, Script, completed};
use crate::network::{HUNG, Network, cid, member, until};
use crate::{ECHO, TEN_TEXTS, ends};

const NOBODY: &str = r#"{"kind":"embed","text":"x"}"#;

fn keeping() -> Script {
    Script { kinds: vec!["echo".into(), "embed".into()], ..Script::echo().that(OnAssign::Keep) }
}
fn failing(retryable: bool) -> Script {
    let failure = Failure { class: FailureClass::ExecutionError, message: "out of paper".into(), retryable };
    Script::echo().that(OnAssign::Fail(failure))
}

/// All points of a walk at the same time, each in a network of its own: most of it is waiting for leases.
async fn each<F: Future<Output = ()>>(points: &[&'static str], walk: impl Fn(&'static str) -> F) {
    futures::future::join_all(points.iter().map(|point| walk(point))).await;
}

/// The end of a healed job: one in the books, the same in every record.
async fn ended(network: &Network, point: &str, job: JobId, state: JobState, settled: u64) {
    network.jobs_are_gone().await;
    let ends = ends(network, job).await;
    assert!(!ends.is_empty() && ends.iter().all(|end| *end == state), "{point}: {ends:?}");
    assert_eq!(network.books.closed(), (settled, 1 - settled), "{point}: closed once");
}

#[tokio::test]
async fn on_the_way_of_every_job() {
    each(&["after_take", "after_bids", "before_assign", "after_assign"], async |point| {
        let network = Network::start().await;
        let device = network.device(1, Script::echo()).await;
        let mut dying = network.crashing_scheduler(point);
        let job = network.admit_one("a", ECHO).await;
        assert!(!dying.ended().await.success(), "{point}");
        let _healer = network.scheduler();
        ended(&network, point, job, JobState::Completed, 1).await;
        assert_eq!(device.assigned().len(), 1, "{point}: done once");
    })
    .await;
}

#[tokio::test]
async fn while_a_device_has_the_job() {
    each(&["after_lasting", "after_checkpoint", "after_cancel", "after_back"], async |point| {
        let network = Network::start().await;
        let device = network.device(1, keeping()).await;
        let mut dying = network.crashing_scheduler(point);
        let job = network.admit_one("a", TEN_TEXTS).await;
        until("an attempt", async || (device.assigned().len() == 1).then_some(())).await;
        match point {
            "after_checkpoint" => tell_a_part(&network, &device, job).await,
            "after_cancel" => network.cancel(job).await,
            "after_back" => dying.signal("TERM"),
            _ => {}
        }
        assert!(!dying.ended().await.success(), "{point}");
        let healer = network.scheduler();
        if point == "after_cancel" {
            ended(&network, point, job, JobState::Cancelled, 1).await;
        } else {
            until("it to be taken over", async || healer.says("taken over").then_some(())).await;
            device.finish(completed).await;
            ended(&network, point, job, JobState::Completed, 1).await;
        }
        assert_eq!(device.assigned().len(), 1, "{point}: done once");
    })
    .await;
}

async fn tell_a_part(network: &Network, device: &Device, job: JobId) {
    let checkpoint = Checkpoint { cid: cid(b"part"), bytes: 7, units: 4 };
    let listed = stream::blob::info(&checkpoint.cid, &member().public().member_id());
    let info = serde_json::to_vec(&BlobInfo { bytes: 7, chunks: vec![] }).unwrap();
    network.bus.store(listed, None, info.into(), HUNG).await.unwrap();
    device.tells(job, device.assigned()[0], EventKind::Checkpoint(checkpoint), device.signer()).await;
}

#[tokio::test]
async fn while_a_past_is_looked_up() {
    each(&["after_look", "after_adopt"], async |point| {
        let network = Network::start().await;
        let device = network.device(1, keeping()).await;
        let mut first = network.scheduler();
        let job = network.admit_one("a", ECHO).await;
        until("an attempt", async || (device.assigned().len() == 1).then_some(())).await;
        first.signal("KILL");
        first.ended().await;
        assert!(!network.crashing_scheduler(point).ended().await.success(), "{point}");
        let healer = network.scheduler();
        until("it to be taken over", async || healer.says("taken over").then_some(())).await;
        device.finish(completed).await;
        ended(&network, point, job, JobState::Completed, 1).await;
        assert_eq!(device.assigned().len(), 1, "{point}: done once");
    })
    .await;
}

#[tokio::test]
async fn while_nothing_fits() {
    each(&["after_wait", "after_park"], async |point| {
        let network = Network::start().await;
        let device = network.device(1, Script::echo()).await;
        let mut command = network.command(Some(point));
        let mut dying = crate::network::Proc::spawn(command.env("MESH_JOBS_MAX", "64"));
        let keys: Vec<String> = (0..40).map(|n| format!("k{n}")).collect();
        let jobs = network.admit(&keys, NOBODY).await;
        assert!(!dying.ended().await.success(), "{point}");
        let _healer = network.scheduler();
        device.script(|script| script.kinds.push("embed".into()));
        network.jobs_are_gone().await;
        assert_eq!((network.books.closed(), device.assigned().len()), ((40, 0), 40), "{point}");
        assert_eq!(network.end_of(jobs[0]).await.state, JobState::Completed);
    })
    .await;
}

#[tokio::test]
async fn when_an_attempt_or_the_job_fails() {
    each(&["after_attempt_ended", "after_settle", "after_dead_letter", "after_history", "before_ack"], async |point| {
        let network = Network::start().await;
        let device = network.device(1, failing(point == "after_attempt_ended")).await;
        let mut dying = network.crashing_scheduler(point);
        let job = network.admit_one("a", ECHO).await;
        assert!(!dying.ended().await.success(), "{point}");
        device.script(|script| script.on_assign = OnAssign::Echo);
        let _healer = network.scheduler();
        if point == "after_attempt_ended" {
            // The failure was heard but not recorded: its device says it again, and the next attempt works.
            return ended(&network, point, job, JobState::Completed, 1).await;
        }
        ended(&network, point, job, JobState::Failed, 0).await;
        let letters = network.bus.stream_end(stream::DLQ).await.unwrap().messages;
        assert!((1..=2).contains(&letters) || point == "after_settle", "{point}: {letters} dead letters");
    })
    .await;
}

#[tokio::test]
async fn when_a_message_is_no_job() {
    let network = Network::start().await;
    let mut dying = network.crashing_scheduler("after_refuse");
    network.bus.store("mesh.v1.job.normal.x".into(), None, "nonsense".into(), HUNG).await.unwrap();
    assert!(!dying.ended().await.success());
    let _healer = network.scheduler();
    network.jobs_are_gone().await;
    assert_eq!(network.bus.stream_end(stream::DLQ).await.unwrap().messages, 2, "said twice, lost never");
}
