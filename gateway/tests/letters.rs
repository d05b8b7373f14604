//! Dead letters on real servers: whose they are, who may do what with them, and that they outlive gateways and their database; and what each
//! role may do at each door.
#![allow(clippy::unwrap_used)]

mod desk;
mod support;

use bus_schemas::envelope::encode;
use bus_schemas::history::{Ended, HistoryEvent, HistoryRecord, Transition};
use bus_schemas::id::{Asker, JobId};
use bus_schemas::job::JobState;
use bus_schemas::network::{DeviceRecord, Role};
use bus_schemas::order::{Order, What};
use bus_schemas::{Code, NetworkId, Problem, Signer, api::ask, stream, subject};
use desk::{Desk, Guest, in_jobs, job_id, until};
use futures::StreamExt;
use gateway::rights::doors::{DOORS, Gets, gets};
use serde_json::{Value, json};
use support::HUNG;

const ECHO: &str = r#"{"kind":"echo","text":"hello"}"#;

/// What a scheduler writes when nothing more can be tried.
async fn fail(desk: &Desk, me: &Guest, job: JobId) {
    let scheduler = bus::keys::read_key_file(&desk.hub.dir.key("scheduler")).unwrap();
    let (net, now) = (desk.hub.document().network, bus::hub_time::here_ms());
    let problem = Some(Problem::new(Code::NothingFits, "0 of 0 devices fit"));
    let ended = Ended { state: JobState::Failed, attempts: 2, device: None, problem, paid_mmana: None, done: None, decision: None };
    let transitions = vec![Transition { to: JobState::Failed, at: now, cause: "max wait".into(), actor: "scheduler s".into() }];
    let record = HistoryRecord { net, member: me.id, job, at: now, transitions, what: HistoryEvent::Ended(Box::new(ended)) };
    let bus = desk.hub.bus("scheduler").await;
    bus.store(format!("mesh.v1.history.{}", me.id), None, scheduler.batch(&[record]).encode().into(), HUNG).await.unwrap();
}

async fn failed(desk: &Desk, me: &Guest, key: &str) -> JobId {
    let job = job_id(&me.post(desk, ECHO, Some(key)).await.1);
    fail(desk, me, job).await;
    job
}

/// The letter about a job or a place, once it is listed.
async fn listed(desk: &Desk, list: impl AsyncFn() -> Value, about: impl Fn(&Value) -> bool) -> Value {
    until(desk, "the letter", || async {
        let answer = list().await;
        let letters = answer["letters"].as_array().unwrap_or_else(|| panic!("{answer}"));
        letters.iter().find(|letter| about(letter)).cloned()
    })
    .await
}

fn order_of(by: &Signer, net: NetworkId, at: u64, what: What) -> Vec<u8> {
    by.batch(&[Order { net, at, what }]).encode()
}

async fn order(desk: &Desk, what: What) -> Value {
    let key = bus::keys::read_key_file(&desk.hub.dir.key("network")).unwrap();
    send_order(desk, order_of(&key, desk.hub.document().network, bus::hub_time::here_ms(), what)).await
}
async fn send_order(desk: &Desk, body: Vec<u8>) -> Value {
    testkit::http::send("POST", &format!("{}/api/v1/operator/orders", desk.api), &[], body).await.1
}
fn by_id(id: &Value) -> ask::ById {
    ask::ById { id: id.as_str().unwrap().to_owned() }
}

/// Each pair of role and door, as the table has them, by the service and, where there is a route without a name in it, over HTTP.
#[tokio::test]
async fn each_door_opens_for_whom_the_table_says() {
    let desk = Desk::new(10).await;
    let program = desk.open(&[]).await;
    let (me, other) = (desk.guest(1).await, desk.guest(2).await);
    for role in Role::ALL {
        let given = order(&desk, What::Role(ask::SetRole { id: me.id.to_string(), role })).await;
        assert_eq!(given["members"][0]["role"], role.name(), "{given}");
        for (call, routes, _) in DOORS.iter().filter(|(call, ..)| !call.is_empty()) {
            let about = json!({ "id": other.id });
            let payload = match *call {
                // What is there for everybody, or one's own, needs no words.
                "job.ls" | "dlq.ls" | "device.ls" | "member.ls" | "network.audit" | "credit.history" | "ledger.facts" | "invite.ls"
                | "network.waiting" => "{}".to_owned(),
                "member.role" => json!({ "id": other.id, "role": "member" }).to_string(),
                "credit.transfer" => json!({ "to": other.id, "amount": "1", "key": role.name() }).to_string(),
                "network.invite" => json!({ "role": "member", "device": true, "uses": 1, "expires_s": 60 }).to_string(),
                "member.suspend" | "member.restore" | "network.decide" => about.to_string(),
                _ => json!({ "id": "nothing of that name" }).to_string(),
            };
            let Some(gets) = gets(call, role) else { continue };
            let answer = me.ask(call, payload.clone(), &[]).await;
            let code = answer.headers.and_then(|headers| Some(headers.get("Nats-Service-Error-Code")?.to_string()));
            assert_eq!(code.as_deref() == Some("M0402"), gets == Gets::Nothing, "{role} {call}: {code:?} {:?}", answer.payload);
            for (method, path) in routes.iter().filter_map(|route| route.split_once(' ')).filter(|(_, path)| !path.contains('{')) {
                let body = if method == "GET" { String::new() } else { payload.clone() };
                let (status, said) = me.http(&desk, method, path, &[], body).await;
                assert_eq!(status == 403, gets == Gets::Nothing, "{role} {method} {path}: {status} {said}");
            }
        }
    }
    // What was refused is noted as well as what was done, and nobody but the operator makes an owner.
    let log = order(&desk, What::Audit(ask::Audit { limit: Some(200), cursor: None })).await;
    let noted = |did: &str, outcome: &str| {
        log["entries"].as_array().unwrap().iter().filter(|entry| entry["did"] == did && entry["outcome"] == outcome).count()
    };
    assert_eq!((noted("member.suspend", "done"), noted("member.suspend", "M0402")), (2, 3), "{log}");
    assert_eq!((noted("member.restore", "done"), noted("member.restore", "M0402")), (2, 3), "{log}");
    assert!(program.stop(), "{}", desk.log());
}

#[tokio::test]
async fn what_failed_for_good_is_kept_for_whoever_may_see_it() {
    let desk = Desk::new(10).await;
    let program = desk.open(&[]).await;
    let (me, other) = (desk.guest(1).await, desk.guest(2).await);
    a_failed_job_is_tried_again(&desk, &me, &other).await;
    what_was_put_away_stays_so(&desk, &me).await;
    what_is_nobodys_is_the_operators(&desk, &me).await;
    only_the_network_key_orders(&desk, &me).await;
    assert!(program.stop(), "{}", desk.log());
    they_outlive_gateways_and_rows(&desk, &me).await;
}

async fn a_failed_job_is_tried_again(desk: &Desk, me: &Guest, other: &Guest) {
    let job = failed(desk, me, "fails").await;
    let about = |letter: &Value| letter["job"] == json!(job);
    let letter = listed(desk, async || me.ask_json("dlq.ls", "").await, about).await;
    assert_eq!((&letter["stage"], &letter["attempts"], &letter["error"]["code"]), (&json!("failed"), &json!(2), &json!("M0512")));
    let (status, over_http) = me.get(desk, "/dlq?limit=5").await;
    assert_eq!((status, &over_http["letters"][0]), (200, &letter), "both doors say the same");
    // Its end told twice is one letter.
    fail(desk, me, job).await;
    let short = letter["short"].as_str().unwrap();
    let (status, shown) = me.get(desk, &format!("/dlq/{short}")).await;
    assert_eq!((status, &shown["id"]), (200, &letter["id"]), "{shown}");

    // Another member's letter does not exist; nobody but the operator drops one.
    for (method, path, guest, expected) in [
        ("GET", format!("/dlq/{short}"), other, (404, "M0515")),
        ("POST", format!("/dlq/{short}/retry"), other, (404, "M0515")),
        ("DELETE", format!("/dlq/{short}"), other, (403, "M0402")),
        ("DELETE", format!("/dlq/{short}"), me, (403, "M0402")),
        ("GET", "/dlq/dlq_x".to_owned(), me, (409, "M0507")),
        ("GET", "/dlq/nonsense!".to_owned(), me, (404, "M0515")),
        ("GET", "/dlq?limit=0".to_owned(), me, (400, "M0116")),
    ] {
        let (status, answer) = guest.http(desk, method, &path, &[], "").await;
        assert_eq!((status, answer["code"].as_str().unwrap()), expected, "{method} {path}: {answer}");
    }
    assert_eq!(other.ask_json("dlq.ls", "").await["letters"], json!([]));
    let refused = order(desk, What::DlqRetry(by_id(&letter["short"]))).await;
    assert_eq!(refused["code"], "M0402", "the operator does not spend a member's mana: {refused}");

    let (status, tried) = me.http(desk, "POST", &format!("/dlq/{short}/retry"), &[], "").await;
    assert_eq!((status, &tried["retried"]["by"]), (200, &json!(me.id)), "{tried}");
    let new = tried["retried"]["job"].as_str().unwrap().to_owned();
    assert!(in_jobs(&desk.hub.bus("gateway").await, &new.parse().unwrap()).await.is_some());
    let shown =
        until(desk, "the new job", || async { Some(me.get(desk, &format!("/jobs/{new}")).await.1).filter(|job| job["id"] == new) }).await;
    assert_eq!(shown["retry_of"], json!(job));
    let again = me.ask_json("dlq.retry", json!({"id": short}).to_string()).await;
    assert_eq!(again["retried"], tried["retried"], "asked twice it is done once");
    assert_eq!(me.ask_json("job.retry", json!({"id": job}).to_string()).await["id"], new);

    // A job names its letter, too.
    let by_job = me.ask_json("dlq.show", json!({"id": format!("job_{}", &job.to_string()[7..15])}).to_string()).await;
    assert_eq!(by_job["id"], letter["id"], "{by_job}");
    // Once the retry has failed, nothing is tried again by that name, and the answer says what to try.
    fail(desk, me, new.parse().unwrap()).await;
    let ended = until(desk, "its end", || async {
        Some(me.get(desk, &format!("/jobs/{new}/explain")).await.1).filter(|job| job["state"] == "Failed")
    });
    let next = ended.await["next"].to_string();
    let new_short = format!("job_{}", &new[7..15]);
    assert!(next.contains(&format!("mesh job retry {new_short}")) && next.contains("mesh dlq show dlq_"), "{next}");
    for (call, id) in [("dlq.retry", json!(short)), ("job.retry", json!(job))] {
        let refused = me.ask_json(call, json!({"id": id}).to_string()).await;
        assert_eq!((&refused["code"], &refused["next"]), (&json!("M0519"), &json!([format!("mesh job retry {new_short}")])), "{refused}");
    }
    let (status, refused) = me.http(desk, "POST", &format!("/jobs/{job}/retry"), &[], "").await;
    assert_eq!((status, &refused["next"][0]), (409, &json!(format!("mesh job retry {new_short}"))), "{refused}");
    let third = me.ask_json("job.retry", json!({"id": new}).to_string()).await;
    assert!(third["id"] != json!(new) && third["state"] == "Submitted", "{third}");
    let explained = me.ask_json("job.explain", json!({"id": job}).to_string()).await;
    assert!(explained["next"].to_string().contains(&format!("it was tried again as {new_short}")), "{explained}");

    // `job retry` says so on the letter.
    let job = failed(desk, me, "fails too").await;
    let letter = listed(desk, async || me.ask_json("dlq.ls", "").await, |letter| letter["job"] == json!(job)).await;
    assert!(letter["retried"].is_null());
    let new = me.ask_json("job.retry", json!({"id": job}).to_string()).await;
    let shown = me.ask_json("dlq.show", json!({"id": letter["id"]}).to_string()).await;
    assert_eq!(shown["retried"]["job"], new["id"], "{shown}");
}

/// What was put away is not tried again, by its own id or by its job's, at either door.
async fn what_was_put_away_stays_so(desk: &Desk, me: &Guest) {
    let job = failed(desk, me, "put away").await;
    let letter = listed(desk, async || me.ask_json("dlq.ls", "").await, |letter| letter["job"] == json!(job)).await;
    assert_eq!(order(desk, What::DlqDrop(by_id(&letter["id"]))).await["dropped"]["by"], "operator");
    for (call, id, next) in [("dlq.retry", &letter["short"], &letter["short"]), ("job.retry", &json!(job), &json!(job))] {
        let refused = me.ask_json(call, json!({"id": id}).to_string()).await;
        let next = format!("mesh dlq show {}", next.as_str().unwrap());
        assert_eq!((&refused["code"], &refused["next"]), (&json!("M0516"), &json!([next])), "{call}: {refused}");
        assert!(refused["detail"].as_str().unwrap().contains("was put away by operator at "), "{call}: {refused}");
    }
    let (status, refused) = me.http(desk, "POST", &format!("/jobs/{job}/retry"), &[], "").await;
    let next = json!([format!("mesh dlq show {job}"), format!("GET /api/v1/dlq/{job}")]);
    assert_eq!((status, &refused["code"], &refused["next"]), (409, &json!("M0516"), &next), "{refused}");
}

/// A message that a gateway took and died with is not in the rows until it is delivered again: lists say as of when they are.
#[tokio::test]
async fn a_list_says_how_old_it_is() {
    let desk = Desk::new(1).await;
    let program = desk.open(&[]).await;
    let me = desk.guest(1).await;
    let job = job_id(&me.post(&desk, ECHO, Some("old")).await.1);
    me.listed(&desk, "old").await;
    assert!(program.stop(), "{}", desk.log());

    let gateway = desk.hub.bus("gateway").await;
    fail(&desk, &me, job).await;
    let mut taken = bus::pull::deliveries(&gateway, stream::HISTORY, stream::PROJECTION, 1).await.unwrap();
    let held = taken.next().await.unwrap();
    drop(taken);
    // What comes after it is taken in, so that the last place alone says nothing.
    fail(&desk, &me, JobId(bus_schemas::Cid::of(b"another"))).await;
    let _program = desk.open(&[]).await;
    let told = until(&desk, "the later one", async || {
        let list = me.ask_json("job.ls", "").await;
        let later = list["jobs"].as_array().unwrap().iter().any(|job| job["state"] == "Failed");
        later.then_some(list)
    })
    .await;
    let stored_at = jiff::Timestamp::from_millisecond(i64::try_from(held.stored_at).unwrap()).unwrap();
    assert_eq!(told["as_of"], format!("{stored_at:.3}"), "{told}");
    assert!(told["behind_ms"].as_u64().is_some_and(|behind| behind > 0), "{told}");
    let state = |list: &Value| list["jobs"].as_array().unwrap().iter().find(|one| one["id"] == json!(job)).unwrap()["state"].clone();
    assert_eq!(state(&told), "Submitted");
    let (_, over_http) = me.get(&desk, "/dlq").await;
    assert_eq!(over_http["as_of"], told["as_of"], "letters of failed jobs come the same way: {over_http}");

    gateway.client.publish(held.ack_subject, "-NAK".into()).await.unwrap();
    let whole = until(&desk, "all of it", async || {
        let list = me.ask_json("job.ls", "").await;
        (state(&list) == "Failed" && list["as_of"] != told["as_of"]).then_some(list)
    })
    .await;
    assert!(whole["as_of"].as_str() > told["as_of"].as_str(), "{whole}");
}

async fn what_is_nobodys_is_the_operators(desk: &Desk, me: &Guest) {
    let gateway = desk.hub.bus("gateway").await;
    let did = Signer::from_seed(&[77; 32]).public();
    let stranger = did.device_id();
    let mut headers = async_nats::HeaderMap::new();
    headers.insert("Mesh-Job-Key", "from nobody");
    let subject = subject::submit(&Asker::Device(stranger));
    let stored = gateway.store(subject.clone(), Some(headers), ECHO.into(), HUNG).await.unwrap();
    let all = async || order(desk, What::DlqLs(ask::LetterLs::default())).await;
    let letter = listed(desk, all, |letter| letter["stage"] == "submission").await;
    assert_eq!((&letter["original"]["seq"], &letter["original"]["subject"]), (&json!(stored.seq), &json!(subject)));
    assert!(letter["member"].is_null() && letter["original"]["payload"].is_null(), "a list is brief: {letter}");
    let short = letter["short"].as_str().unwrap();
    assert_eq!(me.get(desk, &format!("/dlq/{short}")).await.0, 404);

    let refused = order(desk, What::DlqRetry(by_id(&letter["id"]))).await;
    assert_eq!(refused["code"], "M0516", "{refused}");
    assert!(refused["detail"].as_str().unwrap().contains("is not enrolled here"), "{refused}");
    // Once the device is known, what it sent becomes the job that it would have been.
    let record = DeviceRecord::new(did, me.id, "late", 0, 1);
    gateway.store(format!("$KV.devices.{stranger}"), None, serde_json::to_vec(&record).unwrap().into(), HUNG).await.unwrap();
    let tried = order(desk, What::DlqRetry(by_id(&letter["id"]))).await;
    let job = bus_schemas::job::unsigned_job_id(&me.id, "from nobody", ECHO.as_bytes());
    assert_eq!((&tried["retried"]["job"], &tried["retried"]["by"]), (&json!(job), &json!("operator")), "{tried}");
    assert_eq!(order(desk, What::DlqRetry(by_id(&letter["id"]))).await["retried"], tried["retried"]);
    assert_eq!(me.listed(desk, "from nobody").await["id"], json!(job));

    // What no part of the network signed is shown as that, and only HISTORY's own copy is named where HISTORY keeps it.
    gateway.store("mesh.v1.dlq".into(), None, "garbage \u{0}".into(), HUNG).await.unwrap();
    gateway.store(format!("mesh.v1.history.{}", me.id), None, "garbage".into(), HUNG).await.unwrap();
    for stage in ["foreign", "history"] {
        let letter = listed(desk, all, |letter| letter["stage"] == stage).await;
        let refused = order(desk, What::DlqRetry(by_id(&letter["id"]))).await;
        assert_eq!(refused["code"], "M0516", "{stage}: {refused}");
    }
    let foreign = listed(desk, all, |letter| letter["stage"] == "foreign").await;
    let dropped = order(desk, What::DlqDrop(by_id(&foreign["short"]))).await;
    assert_eq!(dropped["dropped"]["by"], "operator", "{dropped}");
    assert_eq!(order(desk, What::DlqDrop(by_id(&foreign["id"]))).await["dropped"], dropped["dropped"]);
    let letters = all().await;
    assert!(letters["letters"].as_array().unwrap().iter().all(|letter| letter["id"] != foreign["id"]), "{letters}");
    assert_eq!(order(desk, What::DlqRetry(by_id(&foreign["id"]))).await["code"], "M0516", "what was put away stays so");
}

async fn only_the_network_key_orders(desk: &Desk, me: &Guest) {
    let key = bus::keys::read_key_file(&desk.hub.dir.key("network")).unwrap();
    let (net, now) = (desk.hub.document().network, bus::hub_time::here_ms());
    let ls = || What::DlqLs(ask::LetterLs::default());
    let two = key.batch(&[Order { net, at: now, what: ls() }, Order { net, at: now, what: ls() }]).encode();
    let mut altered = order_of(&key, net, now, ls());
    let last = altered.len() - 1;
    altered[last] ^= 1;
    for (body, code) in [
        (order_of(&me.key, net, now, ls()), "M0302"),
        (order_of(&key, net, now - 120_000, ls()), "M0304"),
        (order_of(&key, me.key.public().network_id(), now, ls()), "M0306"),
        (two, "M0117"),
        (altered, "M0301"),
        (b"garbage".to_vec(), "M0104"),
        (encode(&ask::LetterLs::default()), "M0110"),
    ] {
        let refused = send_order(desk, body.clone()).await;
        assert_eq!(refused["code"], code, "{refused}");
        let by_service: Value = serde_json::from_slice(&me.ask("operator.order", body, &[]).await.payload).unwrap();
        assert_eq!(by_service["code"], refused["code"], "{by_service}");
    }
}

async fn they_outlive_gateways_and_rows(desk: &Desk, me: &Guest) {
    let letters = async || {
        let mut list = order(desk, What::DlqLs(ask::LetterLs { limit: Some(200), cursor: None })).await["letters"].clone();
        list.as_array_mut().unwrap().sort_by_key(|letter| letter["id"].to_string());
        list
    };
    let before = {
        let _program = desk.open(&[]).await;
        letters().await
    };
    assert!(before.as_array().unwrap().len() >= 4, "{before}");
    let sql = "truncate gateway.letter, gateway.letter_mark, gateway.cancel_wish, gateway.job, gateway.applied; \
               update gateway.tail set created = '', seq = 0";
    desk.postgres.pool().await.get().await.unwrap().batch_execute(sql).await.unwrap();
    let program = desk.open(&[]).await;
    // HISTORY is acknowledged and is not read again here, as an operator would make it; what DLQ has comes back by itself.
    let after = letters().await;
    let there = |letter: &Value| after.as_array().unwrap().contains(letter);
    let lost: Vec<&Value> = before.as_array().unwrap().iter().filter(|letter| letter["stage"] != "failed" && !there(letter)).collect();
    assert!(lost.is_empty(), "{lost:?} of {after}");
    // Two gateways read one stream once.
    let job = failed(desk, me, "after").await;
    listed(desk, async || me.ask_json("dlq.ls", "").await, |letter| letter["job"] == json!(job)).await;
    assert!(program.stop(), "{}", desk.log());
}
