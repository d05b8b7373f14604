//! Parts of a job whose scheduler and device both died.

use bus_schemas::api::BlobInfo;
use bus_schemas::event::{Checkpoint, EventKind};
use bus_schemas::job::JobState;
use bus_schemas::{JobId, Signer, stream};

use crate::TEN_TEXTS;
use crate::network::device::{OnAssign, Script, completed};
use crate::network::{HUNG, Network, cid, member, until};

/// Both die: the next holder hears of neither, and goes on behind the last part that was stored.
#[tokio::test]
async fn parts_that_nobody_heard_of_are_not_computed_again() {
    let network = Network::start().await;
    let script = || Script { kinds: vec!["embed".into()], ..Script::echo().that(OnAssign::Keep) };
    let first = network.device(1, script()).await;
    let mut scheduler = network.scheduler();
    let jobs = network.admit(&["heard".into(), "unheard".into()], TEN_TEXTS).await;
    until("both attempts", async || (first.assigned().len() == 2).then_some(())).await;
    // Who has it is known to whoever comes next once it has lasted.
    until("two records in BACK", async || (network.bus.stream_end(stream::BACK).await.unwrap().messages == 2).then_some(())).await;
    let stored = async |job: JobId, units: u32| {
        let checkpoint = Checkpoint { cid: cid(format!("{job} {units}").as_bytes()), bytes: 7, units };
        let listed = stream::blob::info(&checkpoint.cid, &member().public().member_id());
        let info = serde_json::to_vec(&BlobInfo { bytes: 7, chunks: vec![] }).unwrap();
        network.bus.store(listed, None, info.into(), HUNG).await.unwrap();
        checkpoint
    };
    let own = first.signer();
    let attempts = [first.attempts_of(jobs[0])[0], first.attempts_of(jobs[1])[0]];
    first.tells(jobs[0], attempts[0], EventKind::Checkpoint(stored(jobs[0], 3).await), own).await;
    until("it to be noted", async || {
        let back = network.bus.last_by_subject(stream::BACK, &bus_schemas::subject::back(&jobs[0])).await.unwrap()?;
        let batch = bus_schemas::Batch::decode(&back.payload).unwrap();
        let back = batch.verify::<bus_schemas::history::Back>(&mut bus_schemas::Verifier::default()).unwrap().remove(0).into_body();
        back.kept.filter(|kept| kept.units == 3 && back.on == Some(first.id))
    })
    .await;
    scheduler.signal("KILL");
    scheduler.ended().await;
    for n in 0..2 {
        let tell = async |checkpoint, by: &Signer| first.tells(jobs[n], attempts[n], EventKind::Checkpoint(checkpoint), by).await;
        tell(stored(jobs[n], 4).await, own).await;
        tell(stored(jobs[n], 6).await, own).await;
        tell(stored(jobs[n], 5).await, own).await;
        tell(stored(jobs[n], 9).await, &Signer::from_seed(&[9; 32])).await;
        let lost = Checkpoint { cid: cid(b"never stored"), bytes: 7, units: 8 };
        tell(lost, own).await;
    }
    first.die();
    let second = network.device(2, script()).await;
    let next = network.scheduler();
    until("both elsewhere", async || (second.assigned().len() == 2).then_some(())).await;
    assert_eq!(second.resumed(), [Some(6), Some(6)], "{}", next.log.lock().unwrap());
    second.finish(completed).await;
    for job in jobs {
        assert_eq!(network.end_of(job).await.state, JobState::Completed);
    }
    network.jobs_are_gone().await;
    assert_eq!(network.books.closed(), (2, 0));
}
