//! A gateway killed at each of its steps, and one that is told to stop while people wait for its answers: nothing is lost, nothing is done
//! twice, and nothing is acknowledged that is not done.
#![allow(clippy::unwrap_used)]

mod desk;
mod support;

use bus_schemas::history::{Ended, HistoryEvent, HistoryRecord};
use bus_schemas::id::Asker;
use bus_schemas::job::JobState;
use bus_schemas::order::{Order, What};
use bus_schemas::{Code, Problem, Signer, api::ask, subject};
use desk::{Desk, Guest, Program, in_jobs, job_id, until};
use serde_json::{Value, json};
use std::time::{Duration, Instant};
use support::HUNG;

const ECHO: &str = r#"{"kind":"echo","text":"hello"}"#;

async fn crashing(desk: &Desk, point: &str) -> Program {
    desk.open(&[("MESH_CRASH_AT", &format!("gateway.{point}"))]).await
}
async fn crashed(mut program: Program, point: &str) {
    let start = Instant::now();
    while !program.has_ended() {
        assert!(start.elapsed() < HUNG, "no crash {point}");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}
async fn submit_is_empty(desk: &Desk) {
    let gateway = desk.hub.bus("gateway").await;
    until(desk, "SUBMIT to be empty", || async { (gateway.stream_end("SUBMIT").await.unwrap().messages == 0).then_some(()) }).await;
}
async fn ordered(desk: &Desk, what: What) -> Value {
    let key = bus::keys::read_key_file(&desk.hub.dir.key("network")).unwrap();
    let body = key.batch(&[Order { net: desk.hub.document().network, at: bus::hub_time::here_ms(), what }]).encode();
    testkit::http::send("POST", &format!("{}/api/v1/operator/orders", desk.api), &[], body).await.1
}

#[tokio::test]
async fn killed_at_any_step_it_goes_on() {
    let desk = Desk::new(10).await;
    let me = {
        let _program = desk.open(&[]).await;
        desk.guest(1).await
    };
    let points = ["after_take", "after_sort", "after_ack", "after_rows", "after_store"];
    for point in points {
        let program = crashing(&desk, point).await;
        let headers = [("idempotency-key", point), ("authorization", &format!("Bearer {}", me.token))];
        // By a door: it may hear nothing, and its key makes a repeat the same job.
        let _ = testkit::http::try_send("POST", &format!("{}/api/v1/jobs", desk.api), &headers, ECHO).await;
        crashed(program, point).await;
        let program = desk.open(&[]).await;
        let job = me.listed(&desk, point).await;
        assert_eq!((&job["state"], &job["kind"]), (&json!("Submitted"), &json!("echo")), "{point}: {job}");
        assert_eq!(job_id(&me.post(&desk, ECHO, Some(point)).await.1), job_id(&job), "{point}: sent again it is the same job");
        assert!(in_jobs(&desk.hub.bus("gateway").await, &job_id(&job)).await.is_some(), "{point}");
        submit_is_empty(&desk).await;
        assert!(program.stop(), "{point}: {}", desk.log());
    }
    assert_eq!(desk.books.lock().unwrap().holds.len(), points.len());
    assert_eq!(desk.hub.bus("gateway").await.stream_end("JOBS").await.unwrap().messages, points.len() as u64);
    a_letter_is_kept_once(&desk).await;
    a_retry_is_one_job(&desk, &me).await;
}

async fn a_letter_is_kept_once(desk: &Desk) {
    let program = crashing(desk, "after_letter").await;
    let nobody = Signer::from_seed(&[77; 32]).public().device_id();
    let gateway = desk.hub.bus("gateway").await;
    gateway.store(subject::submit(&Asker::Device(nobody)), None, ECHO.into(), HUNG).await.unwrap();
    crashed(program, "after_letter").await;
    let program = desk.open(&[]).await;
    submit_is_empty(desk).await;
    assert!(gateway.stream_end("DLQ").await.unwrap().messages >= 2, "told twice");
    let list = ordered(desk, What::DlqLs(ask::LetterLs::default())).await;
    assert_eq!(list["letters"].as_array().unwrap().len(), 1, "and one letter: {list}");
    assert!(program.stop(), "{}", desk.log());
}

async fn a_retry_is_one_job(desk: &Desk, me: &Guest) {
    let program = crashing(desk, "after_retry").await;
    let job = job_id(&me.post(desk, ECHO, Some("fails")).await.1);
    let scheduler = bus::keys::read_key_file(&desk.hub.dir.key("scheduler")).unwrap();
    let problem = Some(Problem::new(Code::JobFailed, "no"));
    let ended = Ended { state: JobState::Failed, attempts: 4, device: None, problem, paid_mmana: None, done: None, decision: None };
    let (net, at, what) = (desk.hub.document().network, bus::hub_time::here_ms(), HistoryEvent::Ended(Box::new(ended)));
    let record = HistoryRecord { net, member: me.id, job, at, transitions: vec![], what };
    let bus = desk.hub.bus("scheduler").await;
    bus.store(subject::history(&me.id), None, scheduler.batch(&[record]).encode().into(), HUNG).await.unwrap();
    let letter = until(desk, "the letter", || async {
        let list = me.get(desk, "/dlq").await.1;
        list["letters"].as_array().unwrap().first().cloned()
    })
    .await;
    let path = format!("/dlq/{}/retry", letter["short"].as_str().unwrap());
    let bearer = format!("Bearer {}", me.token);
    let lost = testkit::http::try_send("POST", &format!("{}/api/v1{path}", desk.api), &[("authorization", bearer.as_str())], "").await;
    assert!(lost.is_err(), "it died before it could answer");
    crashed(program, "after_retry").await;
    let program = desk.open(&[]).await;
    let new = me.listed(desk, &format!("retry:{job}")).await;
    let tried = me.http(desk, "POST", &path, &[], "").await.1;
    assert_eq!(tried["retried"]["job"], new["id"], "{tried}");
    let (_, list) = me.get(desk, "/jobs?limit=200").await;
    let again = list["jobs"].as_array().unwrap().iter().filter(|job| job["key"].as_str().unwrap().starts_with("retry:")).count();
    assert_eq!(again, 1, "{list}");
    assert!(program.stop(), "{}", desk.log());
}

#[tokio::test]
async fn told_to_stop_it_answers_whoever_waits() {
    let desk = Desk::new(10).await;
    let program = desk.open(&[]).await;
    let me = desk.guest(1).await;
    // The ledger thinks while the gateway is told to stop.
    desk.books.lock().unwrap().pause = Duration::from_millis(700);
    let gateway = desk.hub.bus("gateway").await;
    let by_http = me.post(&desk, ECHO, Some("by-http"));
    let by_service = me.ask("job.submit", ECHO, &[("Mesh-Job-Key", "by-service")]);
    let stopping = async {
        until(&desk, "the ledger to be asked", || async { (desk.books.lock().unwrap().asked > 1).then_some(()) }).await;
        let start = Instant::now();
        assert!(tokio::task::spawn_blocking(|| program.stop()).await.unwrap(), "{}", desk.log());
        start.elapsed()
    };
    let ((status, over_http), over_service, took) = tokio::join!(by_http, by_service, stopping);
    assert_eq!((status, &over_http["key"]), (202, &json!("by-http")), "{over_http}");
    let over_service: Value = serde_json::from_slice(&over_service.payload).unwrap();
    assert_eq!(over_service["key"], "by-service", "{over_service}");
    assert!(took < Duration::from_secs(15), "{took:?}");
    // What was acknowledged is in JOBS; what is not comes again to the next gateway.
    desk.books.lock().unwrap().pause = Duration::ZERO;
    let program = desk.open(&[]).await;
    for answer in [over_http, over_service] {
        let id = job_id(&answer);
        until(&desk, "the job in JOBS", || async { in_jobs(&gateway, &id).await }).await;
    }
    submit_is_empty(&desk).await;
    assert_eq!(desk.books.lock().unwrap().holds.len(), 2);
    assert!(program.stop(), "{}", desk.log());
}
