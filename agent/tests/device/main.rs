//! A device on a real hub over its own nats-server: what it keeps while the hub is away, what it answers, and what it survives.

#![allow(clippy::unwrap_used)] // a test may end where it stands

mod alarm;
mod consent;
mod crashes;
mod disk;
mod doctor;
mod frozen;
mod hostile;
mod hub;
mod offline;
mod queue;
mod scheduler;
mod stop;

use agent::home::{Home, Settings};
use async_nats::HeaderMap;
use bus_schemas::assignment::{AssignAnswer, HeldState, Verb};
use bus_schemas::id::Asker;
use bus_schemas::offer::{BidAnswer, Decline};
use bus_schemas::receipt::{FailureClass, Outcome};
use bus_schemas::subject::{self, header};
use bus_schemas::{Cid, JobId};
use bytes::Bytes;
use futures::StreamExt;
use hub::{HUNG, Hub, Network, Running, eventually, id};
use scheduler::Scheduler;

fn echo_only() -> Settings {
    Settings { kinds: vec!["echo".into()], ..Settings::default() }
}

/// A device whose link is up, and a scheduler that knows it.
struct AtWork {
    network: Network,
    home: Home,
    hub: Hub,
    agent: Running,
    local: bus::Bus,
    scheduler: Scheduler,
}
async fn at_work(settings: Settings, variables: &[(&str, &str)]) -> AtWork {
    let network = Network::new();
    let home = network.device(settings);
    let hub = network.start_hub().await;
    let agent = Running::start(&home, variables);
    let local = agent.local().await;
    agent.until(&local, "the link", |status| status.link.up).await;
    let scheduler = Scheduler::new(&hub, id(&home), "s-1").await;
    AtWork { network, home, hub, agent, local, scheduler }
}

async fn next(subscriber: &mut async_nats::Subscriber) -> async_nats::Message {
    tokio::time::timeout(HUNG, subscriber.next()).await.expect("a message").expect("an open connection")
}

#[tokio::test]
async fn what_is_submitted_while_the_hub_is_away_gets_there() {
    let network = Network::new();
    let home = network.device(echo_only());
    let port = hub::free_port();
    let http = format!("127.0.0.1:{port}");
    let mut agent = Running::start(&home, &[("MESH_HTTP", &http)]);
    let local = agent.local().await;
    let status = agent.until(&local, "the agent", |_| true).await;
    assert!(!status.link.up && status.outbox == Some(0), "{status:?}");
    // It is ready, since it keeps what comes, and says beside that nobody is there to send it to.
    let alone =
        eventually("word of the hub", || async { disk::ready(port).await.filter(|(_, body)| body.contains("\"hub\":{\"ok\":false")) })
            .await;
    assert!(alone.0 && alone.1.contains("\"link\":{\"ok\":"), "{alone:?}");

    let job = Bytes::from_static(br#"{"kind":"echo","text":"hi"}"#);
    let mut headers = HeaderMap::new();
    headers.insert(header::NATS_MSG_ID, "mine");
    headers.insert("Mesh-Type", "t");
    headers.insert("Other", "o");
    let wait = std::time::Duration::from_secs(5);
    let stored = local.store_once("submit".into(), None, job.clone(), wait).await.unwrap();
    assert_eq!((stored.stream.as_str(), stored.seq), ("OUTBOX", 1));
    // Everybody on this machine may submit and hear; the streams and what the agent says there are the agent's.
    for subject in ["$JS.API.STREAM.DELETE.OUTBOX", "$JS.API.STREAM.PURGE.OUTBOX", "out.receipt", "work.x", "result.forged"] {
        local.client.publish(subject, "{}".into()).await.unwrap();
    }
    local.client.flush().await.unwrap();
    local.store_once("submit".into(), Some(headers.clone()), job.clone(), wait).await.unwrap();
    assert!(local.store_once("submit".into(), Some(headers), job.clone(), wait).await.unwrap().duplicate);
    let mut refused = local.client.subscribe("result.huge").await.unwrap();
    let mut key = HeaderMap::new();
    key.insert(header::JOB_KEY, "huge");
    local.store_once("submit.later".into(), Some(key), vec![b' '; 385_000].into(), wait).await.unwrap();
    let problem: serde_json::Value = serde_json::from_slice(&next(&mut refused).await.payload).unwrap();
    assert_eq!(problem["code"], "M0107");
    assert_eq!(agent.until(&local, "what waits", |status| status.outbox == Some(2)).await.totals.refused, 1);

    // A restart of the agent loses nothing either.
    agent.stop().await;
    let agent = Running::start(&home, &[("MESH_HTTP", &http)]);
    let local = agent.local().await;
    let hub = network.start_hub().await;
    eventually("both to be there", || async {
        let (is_ready, body) = disk::ready(port).await?;
        let there = ["hub", "link"].iter().all(|what| body.contains(&format!("\"{what}\":{{\"ok\":true")));
        (is_ready && there).then_some(())
    })
    .await;
    let stored = eventually("both submissions", || async {
        let messages = hub.bus.from_seq("SUBMIT", 1, 10).await.unwrap();
        (messages.len() == 2).then_some(messages)
    })
    .await;
    let mut keys = Vec::new();
    for message in &stored {
        assert_eq!((message.subject.as_str(), &message.payload), (subject::submit(&Asker::Device(id(&home))).as_str(), &job));
        assert!(message.headers.get("Other").is_none() && message.headers.get(header::NATS_MSG_ID).is_none());
        let key = message.headers.get(header::JOB_KEY).or_else(|| message.headers.get(header::OUTBOX_KEY));
        keys.push(key.unwrap().as_str().to_owned());
    }
    keys.sort_unstable_by_key(String::len);
    assert_eq!(keys[0], "mine");
    assert!(keys[1].ends_with(":1") && keys[1].len() == 14, "the place in the outbox: {}", keys[1]);
    let status = agent.until(&local, "the link", |status| status.link.up && status.outbox == Some(0)).await;
    assert_eq!(status.totals.forwarded, 2);

    // Results of our own submissions, and of nobody else's, are told on this machine.
    let job = JobId(Cid::of(b"job"));
    let mut results = local.client.subscribe("result.>").await.unwrap();
    local.client.flush().await.unwrap();
    for asker in [Asker::Member(status.member), Asker::Device(status.id)] {
        let mut headers = HeaderMap::new();
        headers.insert(header::ASKER, asker.to_string().as_str());
        headers.insert(header::JOB_KEY, "my key");
        let body = Bytes::from(asker.to_string());
        hub.bus.client.publish_with_headers(subject::watch(&status.member, &job, "result"), headers, body).await.unwrap();
    }
    for expected in [format!("result.{job}"), "result.my_key".into()] {
        let told = next(&mut results).await;
        assert_eq!((told.subject.as_str(), &told.payload[..]), (expected.as_str(), status.id.to_string().as_bytes()));
    }
}

#[tokio::test]
async fn offers_assignments_and_receipts() {
    let AtWork { network: _network, home, hub, mut agent, local, mut scheduler } = at_work(echo_only(), &[]).await;

    // Two offers, one batch of answers.
    let bids = scheduler.offer(&["echo", "embed"]).await;
    assert!(matches!(bids[0].answer, BidAnswer::Bid(quote) if quote.start_in_ms == 0 && quote.price_mmana.get() > 0), "{bids:?}");
    assert_eq!(bids[1].answer, BidAnswer::No(Decline::KindNotOffered));
    let stored = eventually("the stored bids", || async {
        hub.bus.last_by_subject("BIDS", &format!("mesh.v1.dev.{}.bid", id(&home))).await.unwrap()
    });
    assert!(!stored.await.payload.is_empty());

    // 64 jobs in one message come back in one message.
    let texts: Vec<String> = (0..64).map(|n| format!("text {n}")).collect();
    let assigned: Vec<_> = texts.iter().map(|text| scheduler.echo(text, 1)).collect();
    let start = std::time::Instant::now();
    let answers = scheduler.assign(&assigned).await;
    assert!(answers.iter().all(|answer| *answer == AssignAnswer::Accepted), "{answers:?}");
    let receipts = scheduler.receipts().await;
    eprintln!("64 jobs assigned and answered for in {:?}", start.elapsed());
    assert_eq!(receipts.len(), 64);
    for ((receipt, result), text) in receipts.iter().zip(&texts) {
        let Outcome::Completed(reference) = &receipt.outcome else { panic!("{receipt:?}") };
        let expected = format!(r#"{{"text":"{text}"}}"#);
        assert_eq!((result.as_deref(), reference.cid), (Some(expected.as_bytes()), Cid::of(expected.as_bytes())));
        assert!(receipt.claimed_ms == 1 && receipt.waited_ms == 0);
    }
    // They are heard a moment before they are stored.
    eventually("the stored receipts", || async {
        hub.bus.last_by_subject("RECEIPTS", &subject::receipt_stored(&id(&home))).await.unwrap()
    })
    .await;

    // What is asked again is not run again, and the receipt comes again, to whoever asks now.
    let (attempt, _) = &assigned[3];
    assert_eq!(scheduler.assign(&assigned[3..4]).await, [AssignAnswer::Done]);
    assert!(scheduler.receipts().await.iter().any(|(receipt, _)| receipt.attempt.0 == attempt.cid()));
    let mut other = Scheduler::new(&hub, id(&home), "s-2").await;
    let have = other.control(Verb::Adopt { jobs: vec![receipts[3].0.job, JobId(Cid::of(b"unknown"))] }).await.have;
    assert_eq!((have.len(), have[0].state, have[0].job), (1, HeldState::Done, receipts[3].0.job));
    have[0].assignment.verify::<bus_schemas::assignment::Assignment>(&mut bus_schemas::Verifier::default()).unwrap();
    assert!(!other.receipts().await.is_empty());
    assert_eq!(other.control(Verb::Have).await.have.len(), 64);

    // Closed receipts are forgotten.
    let closed = receipts.iter().map(|(receipt, _)| scheduler::closed(receipt.attempt)).collect();
    assert_eq!(scheduler.control(Verb::Closed { attempts: closed }).await.declined, None);
    let status = agent.until(&local, "nothing left", |status| status.unsettled == 0).await;
    assert_eq!((status.totals.completed, status.totals.settled, status.totals.earned_mmana), (64, 64, 64 * 7));
    let older = scheduler.again(&assigned[5], 0);
    assert_eq!(scheduler.assign(&[older]).await, [AssignAnswer::Declined(Decline::Superseded)]);

    // What is not from a scheduler of this network has no effect.
    scheduler.forge().await;
    let status = agent.until(&local, "what was dropped", |status| status.totals.dropped >= 2).await;
    assert_eq!((status.totals.completed, status.totals.offers), (64, 2));

    // An orderly stop says so.
    agent.stop().await;
    let beat = scheduler.heartbeat().await;
    assert_eq!(beat.not_working.as_deref(), Some("stopped"));
}

#[tokio::test]
async fn odd_assignments_are_declined_in_words() {
    let AtWork { network: _network, hub: _hub, agent, local, mut scheduler, .. } = at_work(echo_only(), &[]).await;
    let cases = scheduler.odd();
    let assigned: Vec<_> = cases.iter().map(|(assigned, _)| assigned.clone()).collect();
    let answers = scheduler.assign(&assigned).await;
    for (answer, (_, expected)) in answers.iter().zip(&cases) {
        let AssignAnswer::Declined(decline) = answer else { panic!("{answer:?} instead of {expected}") };
        assert!(decline.to_string().contains(expected), "{decline} instead of {expected}");
    }
    assert_eq!(answers.len(), cases.len());
    for garbage in [Bytes::new(), Bytes::from_static(b"\x81\xa1a"), vec![0x81; 100_000].into()] {
        let answers = scheduler.assign_bytes(garbage).await;
        assert!(matches!(answers[..], [AssignAnswer::Declined(Decline::Invalid(_))]), "{answers:?}");
    }
    // A long result is a blob: nobody opens that door here, so it waits, and a cancel ends it.
    let long = scheduler.echo(&"é\u{1}".repeat(5_000), 1);
    assert_eq!(scheduler.assign(std::slice::from_ref(&long)).await, [AssignAnswer::Accepted]);
    agent.until(&local, "the upload", |status| status.running == 1).await;
    scheduler.control(Verb::Cancel { attempts: vec![bus_schemas::AttemptId(long.0.cid())] }).await;
    assert_eq!(scheduler.receipts().await[0].0.outcome, Outcome::Cancelled);
}

#[tokio::test]
async fn its_server_is_started_again() {
    let AtWork { network: _network, home, hub: _hub, mut agent, local, scheduler } =
        at_work(echo_only(), &[("MESH_TIME_DIVISOR", "10")]).await;
    let url = local.client.server_info().port;
    let server = agent::home::Home::live_pid(&home.nats_pid()).expect("its server");
    hub::kill(server);
    let again = agent.local().await;
    agent.until(&again, "the link again", |status| status.link.up && agent::home::Home::live_pid(&home.nats_pid()) != Some(server)).await;
    assert_eq!(again.client.server_info().port, url, "on the same port");
    eventually("the device behind the new link", || async { scheduler.reaches().await.then_some(()) }).await;
    assert_eq!(scheduler.assign(&[scheduler.echo("hi", 1)]).await, [AssignAnswer::Accepted]);

    // A second agent in the same home is refused, and an agent that was killed leaves a server that the next one stops.
    let mut second = Running::start(&home, &[]);
    second.ended().await;
    let server = agent::home::Home::live_pid(&home.nats_pid()).expect("its server");
    agent.kill();
    assert_eq!(agent::home::Home::live_pid(&home.nats_pid()), Some(server), "an orphan");
    let mut next = Running::start(&home, &[]);
    eventually("another server", || std::future::ready(agent::home::Home::live_pid(&home.nats_pid()).filter(|pid| *pid != server))).await;
    let local = next.local().await;
    next.until(&local, "the link", |status| status.link.up).await;
    next.stop().await;
}

/// Only where the model is there (`make model onnxruntime`).
fn can_embed() -> bool {
    agent::executor::kinds(&Settings::default()).contains(&"embed".to_owned())
}

#[tokio::test]
async fn an_accepted_job_survives_a_crash() {
    if !can_embed() {
        return eprintln!("skipped: no model here");
    }
    let AtWork { network: _network, home, hub: _hub, mut agent, mut scheduler, .. } =
        at_work(Settings::default(), &[("MESH_CRASH_AT", "agent.after_accept")]).await;
    let job = scheduler.embed(&["hello mesh", "ciao"]);
    assert_eq!(scheduler.assign(std::slice::from_ref(&job)).await, [AssignAnswer::Accepted]);
    agent.ended().await;

    let mut agent = Running::start(&home, &[]);
    let receipts = scheduler.receipts().await;
    assert_eq!(receipts[0].0.attempt.0, job.0.cid());
    let result: serde_json::Value = serde_json::from_slice(receipts[0].1.as_deref().unwrap()).unwrap();
    assert_eq!((result["dims"].as_u64(), result["vectors"].as_array().map(Vec::len)), (Some(384), Some(2)));
    let local = agent.local().await;
    agent.until(&local, "the loaded model", |status| status.model_loaded && status.totals.completed == 1).await;

    // Ended jobs are not taken up again.
    agent.kill();
    let agent = Running::start(&home, &[]);
    let local = agent.local().await;
    let status = agent.until(&local, "the link", |status| status.link.up).await;
    assert_eq!((status.waiting, status.running, status.totals.completed), (0, 0, 0));
}

#[tokio::test]
async fn large_results_go_through_the_door_for_blobs() {
    if !can_embed() {
        return eprintln!("skipped: no model here");
    }
    let AtWork { network: _network, hub, agent: _agent, mut scheduler, .. } =
        at_work(Settings::default(), &[("MESH_TIME_DIVISOR", "10")]).await;
    let door = scheduler::Door::open(&hub).await;
    let input = (0..40).map(|n| format!("{{\"text\":\"sentence number {n}\"}}\n")).collect::<String>();
    let cid = door.put(input.into_bytes());
    let job = scheduler.embed_blob(cid, 40);
    assert_eq!(scheduler.assign(&[job]).await, [AssignAnswer::Accepted]);
    let (receipt, result) = scheduler.receipts().await.remove(0);
    let Outcome::Completed(reference) = receipt.outcome else { panic!("{receipt:?}") };
    assert!(result.is_none() && reference.bytes > 100_000);
    let result: serde_json::Value = serde_json::from_slice(&door.get(&reference.cid).expect("the blob")).unwrap();
    assert_eq!(result["vectors"].as_array().map(Vec::len), Some(40));
}

/// As `mesh pause`, `resume` and `stop` ask.
async fn wish(local: &bus::Bus, wish: &str) -> serde_json::Value {
    let answer = local.ask_bytes(subject::local::OWNER.to_owned(), wish.to_owned().into(), HUNG).await.unwrap();
    serde_json::from_slice(&answer).unwrap()
}

#[tokio::test]
async fn its_owner_says_when_it_works() {
    if !can_embed() {
        return eprintln!("skipped: no model here");
    }
    let AtWork { network: _network, home, hub, mut agent, mut local, mut scheduler } =
        at_work(Settings::default(), &[("MESH_TIME_DIVISOR", "10")]).await;
    for (bad, code) in [
        ("", "M0101"),
        ("{}", "M0110"),
        (r#"{"do":"dance"}"#, "M0108"),
        (r#"{"do":"pause","for":1}"#, "M0109"),
        (r#"{"do":"pause","reason":"a\nb"}"#, "M0116"),
        (r#"{"do":"pause","for_ms":0}"#, "M0115"),
        (r#"{"do":"pause","for_ms":8640000000000000}"#, "M0115"),
    ] {
        let answer = wish(&local, bad).await;
        assert_eq!(answer["code"], code, "{bad}: {answer}");
    }

    // One runs, two wait: all go at once, and nothing new is taken.
    let texts: Vec<String> = (0..2_000).map(|n| format!("sentence number {n} about boats and trees")).collect();
    let many: Vec<&str> = texts.iter().map(String::as_str).collect();
    let jobs = [scheduler.embed(&many), scheduler.embed(&["a"]), scheduler.embed(&["b"])];
    assert_eq!(scheduler.assign(&jobs).await, vec![AssignAnswer::Accepted; 3]);
    agent.until(&local, "one at work", |status| (status.running, status.waiting) == (1, 2)).await;
    let paused = wish(&local, r#"{"do":"pause","for_ms":3600000,"reason":"in use"}"#).await;
    assert_eq!(paused["handed_back"], 3, "{paused}");
    let mut receipts = Vec::new();
    while receipts.len() < 3 {
        receipts.extend(scheduler.receipts().await);
    }
    for (receipt, _) in &receipts {
        let Outcome::Failed(failure) = &receipt.outcome else { panic!("{receipt:?}") };
        assert_eq!((failure.class, failure.retryable), (FailureClass::DeviceDeclined, true));
        assert_eq!(failure.message, "its device was paused by its owner");
    }
    assert_eq!(scheduler.assign(&[scheduler.echo("hi", 1)]).await, [AssignAnswer::Declined(Decline::Paused)]);
    let is_paused = |why: Option<&str>| why.is_some_and(|why| why.starts_with("paused by its owner until ") && why.ends_with(": in use"));
    let beat =
        eventually("the schedulers to know", || async { Some(scheduler.heartbeat().await).filter(|beat| beat.not_working.is_some()) });
    assert!(is_paused(beat.await.not_working.as_deref()));

    // It outlives a restart, until it is taken back or over.
    agent.stop().await;
    agent = Running::start(&home, &[("MESH_TIME_DIVISOR", "10")]);
    local = agent.local().await;
    let status = agent.until(&local, "the link", |status| status.link.up).await;
    assert!(is_paused(status.not_working.as_deref()), "{status:?}");
    assert_eq!(wish(&local, r#"{"do":"resume"}"#).await["not_working"], serde_json::Value::Null);
    assert_eq!(scheduler.assign(&[scheduler.echo("hi", 1)]).await, [AssignAnswer::Accepted]);
    assert!(matches!(scheduler.receipts().await[0].0.outcome, Outcome::Completed(_)));
    wish(&local, r#"{"do":"pause","for_ms":300}"#).await;
    agent.until(&local, "the end of the pause", |status| status.not_working.is_none()).await;
    assert!(home.device().unwrap().settings.paused.is_empty());

    // Told to stop: what waits goes, what runs ends here.
    let _door = scheduler::Door::open(&hub).await;
    let jobs = [scheduler.embed(&many), scheduler.embed(&["c"])];
    assert_eq!(scheduler.assign(&jobs).await, vec![AssignAnswer::Accepted; 2]);
    agent.until(&local, "one at work", |status| (status.running, status.waiting) == (1, 1)).await;
    let stopping = wish(&local, r#"{"do":"stop"}"#).await;
    assert_eq!((&stopping["handed_back"], &stopping["running"]), (&1.into(), &1.into()), "{stopping}");
    let mut ended = Vec::new();
    while ended.len() < 2 {
        ended.extend(scheduler.receipts().await);
    }
    assert!(matches!(&ended[0].0.outcome, Outcome::Failed(failure) if failure.message == "its device was stopped by its owner"));
    assert!(matches!(ended[1].0.outcome, Outcome::Completed(_)), "{:?}", ended[1].0);
    agent.ended().await;
}
