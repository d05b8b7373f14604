//! How soon work goes on where its device dies: many at once, measured from the death to the result that another device made.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use bus_schemas::JobId;

use crate::network::device::{Device, OnAssign, Script};
use crate::network::{HUNG, Network, next, result_text, setting, timings, until};

const ONE_TEXT: &str = r#"{"kind":"embed","text":"hello"}"#;

/// The value that `share` percent of them do not exceed.
fn percentile(sorted: &[Duration], share: usize) -> Duration {
    sorted[(sorted.len() * share).div_ceil(100).max(1) - 1]
}

/// `MESH_TEST_DIVISOR=1` measures it with the real times, and checks the limit; `MESH_TEST_JOBS`: that many in all.
#[tokio::test]
async fn fifty_devices_die_at_once_and_all_their_work_goes_on() {
    let (live, dying): (usize, usize) = (setting("MESH_TEST_DEVICES", 104), setting("MESH_TEST_DEATHS", 50));
    assert!(2 * dying < live, "where most fall silent at once it is the bus, and work is held back");
    let network = Network::start().await;
    // Each bids with what it holds, so that the work is spread.
    let script = || Script { kinds: vec!["embed".into()], job_ms: 1000, ..Script::echo() };
    let mut devices: Vec<Device> = futures::future::join_all((1..=u8::try_from(live).unwrap()).map(|n| network.device(n, script()))).await;
    let scheduler = network.scheduler();
    let mut results = network.results().await;
    // All are known once each has done a job that was for it alone.
    for (n, device) in devices.iter().enumerate() {
        network.admit_one(&format!("for {n}"), &format!(r#"{{"kind":"embed","text":"hello","target":"{}"}}"#, device.id)).await;
    }
    for _ in &devices {
        next(&mut results).await;
    }
    devices.iter().for_each(|device| device.script(|script| script.on_assign = OnAssign::Keep));
    // An auction asks a few of the devices, so the work comes in as many as spread it over most of them.
    let keys: Vec<String> = (0..setting("MESH_TEST_JOBS", 4 * live)).map(|n| format!("{n}")).collect();
    let at_work = || devices.iter().map(|device| device.assigned().len()).sum::<usize>() - live;
    for some in keys.chunks(keys.len().div_ceil(live / 2)) {
        let before = at_work();
        network.admit(some, ONE_TEXT).await;
        until("all to be on devices", async || (at_work() == before + some.len()).then_some(())).await;
    }
    devices.sort_by_key(|device| std::cmp::Reverse(device.assigned().len()));
    // They last, so their records are written; a heartbeat of each has come and gone.
    tokio::time::sleep(timings().heartbeat).await;
    let (dead, alive) = devices.split_at(dying);
    alive.iter().for_each(|device| device.script(|script| script.on_assign = OnAssign::Echo));
    let mut lost: BTreeMap<JobId, usize> = BTreeMap::new();
    let killed = Instant::now();
    for (nth, device) in dead.iter().enumerate() {
        device.die();
        lost.extend(device.jobs().into_iter().map(|job| (job, nth)));
    }
    let count = lost.len();
    // The last result of each device's jobs: that is when its work went on.
    let (mut of_jobs, mut of_devices) = (Vec::new(), vec![Duration::ZERO; dying]);
    let hung = Instant::now() + HUNG;
    while of_jobs.len() < count {
        assert!(Instant::now() < hung, "hung: {} of {count} jobs went on", of_jobs.len());
        let (job, _) = result_text(&next(&mut results).await);
        let after = killed.elapsed();
        let nth = lost.remove(&job).expect("a job of a dead device, once");
        of_jobs.push(after);
        of_devices[nth] = of_devices[nth].max(after);
    }
    assert!(of_devices.iter().all(|took| !took.is_zero()), "each that died had work: {of_devices:?}");
    of_devices.sort_unstable();
    let (p50, p99, worst) = (percentile(&of_devices, 50), percentile(&of_devices, 99), *of_devices.last().expect("some had work"));
    let limit = timings().silence + Duration::from_secs(1);
    println!(
        "{dying} of {live} devices died at once, all of them at work, with {count} jobs; done elsewhere after: first {:?}, p50 {p50:?}, p99 {p99:?}, worst {worst:?}; \
         silence is {:?}",
        of_jobs[0],
        timings().silence
    );
    assert!(!scheduler.says("fell silent at once"), "{}", scheduler.log.lock().unwrap());
    if std::env::var_os("MESH_TEST_DIVISOR").is_some() {
        assert!(p99 <= limit, "{p99:?}, the limit is {limit:?}");
    }
}
