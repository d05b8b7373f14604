//! The doors on real servers: every form of submission, what bad input gets, and what people see of a job until its end.
#![allow(clippy::unwrap_used)]

mod desk;
#[path = "desk/joining.rs"]
mod joining;
mod support;

use bus_schemas::assignment::Assignment;
use bus_schemas::envelope::{Batch, Proof};
use bus_schemas::history::{CompletedEnd, Ended, HistoryEvent, HistoryRecord, Transition};
use bus_schemas::id::{AttemptId, Cid, JobId, ReceiptId};
use bus_schemas::job::{AdmittedJob, AnnouncedJob, JobSpec, JobState, Text};
use bus_schemas::receipt::{Outcome, Receipt, ResultRef};
use bus_schemas::{MilliMana, Signer, Verifier, subject};
use desk::{Desk, Guest, in_jobs, job_id, until};
use futures::StreamExt;
use futures::future::join_all;
use serde_json::json;
use support::HUNG;

const ECHO: &str = r#"{"kind":"echo","text":"hello"}"#;

#[tokio::test]
async fn the_doors() {
    let desk = Desk::new(10).await;
    let program = desk.open(&[]).await;
    let (me, other) = (desk.guest(1).await, desk.guest(2).await);
    each_form_becomes_a_job(&desk, &me).await;
    a_lone_job_is_announced(&desk, &me).await;
    signed_forms(&desk, &me).await;
    the_same_key_is_the_same_job(&desk, &me, &other).await;
    bad_input(&desk, &me).await;
    who_asks(&desk, &me, &other).await;
    a_job_until_its_end(&desk, &me, &other).await;
    large_results_and_blobs(&desk, &me, &other).await;
    the_service_is_found(&desk).await;
    many_at_once(&desk, &me).await;
    assert!(program.stop(), "{}", desk.log());
}

async fn each_form_becomes_a_job(desk: &Desk, me: &Guest) {
    let gateway = desk.hub.bus("gateway").await;
    // HTTP answers with the id, and the job is there at once.
    let (status, answer) = me.post(desk, ECHO, Some("by-http")).await;
    assert_eq!(status, 202, "{answer}\n{}", desk.log());
    let by_http = job_id(&answer);
    assert_eq!((&answer["state"], &answer["key"], &answer["short"]), (&json!("Submitted"), &json!("by-http"), &json!(by_http.short())));
    assert!(answer["waiting"].as_str().unwrap().starts_with("0 of 0 devices fit"), "{answer}");
    let (status, shown) = me.get(desk, &format!("/jobs/{}", by_http.short())).await;
    assert_eq!((status, &shown["state"], &shown["kind"], &shown["hold_mmana"]), (200, &json!("Submitted"), &json!("echo"), &json!(10_000)));
    assert!(shown["waiting"].is_string() && shown["cost"].is_null() && shown["finished_at"].is_null(), "{shown}");
    let stored = in_jobs(&gateway, &by_http).await.expect("in JOBS");
    let job = Proof::decode(&stored).unwrap().verify::<AdmittedJob>(&mut Verifier::default()).unwrap();
    assert_eq!(
        (job.by(), job.job, job.member, job.body.as_slice()),
        (desk.hub.document().gateway_keys[0], by_http, me.id, ECHO.as_bytes())
    );

    // The service, the submit subject, and a list.
    let answer: serde_json::Value =
        serde_json::from_slice(&me.ask("job.submit", ECHO, &[("Mesh-Job-Key", "by-service")]).await.payload).unwrap();
    assert_eq!(answer["key"], "by-service", "{answer}");
    assert!(in_jobs(&gateway, &job_id(&answer)).await.is_some());
    me.send(ECHO, &[("Mesh-Job-Key", "by-subject")]).await;
    let listed = me.listed(desk, "by-subject").await;
    assert_eq!(listed["state"], "Submitted", "{listed}");
    assert!(in_jobs(&gateway, &job_id(&listed)).await.is_some());
    let list = r#"[{"kind":"echo","text":"a"},{"kind":"echo","text":""},{"kind":"echo","text":"c"}]"#;
    let (status, answer) = me.post(desk, list, Some("list")).await;
    assert_eq!(
        (status, &answer[0]["key"], &answer[1]["code"], &answer[2]["key"]),
        (202, &json!("list/0"), &json!("M0112"), &json!("list/2"))
    );
    let rejected = me.listed(desk, "list/1").await;
    assert_eq!((&rejected["state"], &rejected["error"]["code"]), (&json!("Rejected"), &json!("M0112")));
    // Without any key two messages are two jobs.
    let (one, two) = (me.post(desk, ECHO, None).await.1, me.post(desk, ECHO, None).await.1);
    assert_ne!(job_id(&one), job_id(&two));
}

fn spec(desk: &Desk, by: &Signer, key: &str) -> JobSpec {
    let now = bus::hub_time::here_ms();
    JobSpec {
        net: Some(desk.hub.document().network),
        by: Some(by.public()),
        key: Some(key.into()),
        at: Some(now),
        exp: Some(now + 60_000),
        kind: "echo".into(),
        text: Some(Text::One("signed".into())),
        ..JobSpec::default()
    }
}

/// A job that comes alone is announced while its hold is asked for, and is a job only once it has one.
async fn a_lone_job_is_announced(desk: &Desk, me: &Guest) {
    let scheduler = desk.hub.bus("scheduler").await;
    let mut heard = scheduler.client.subscribe(subject::ANNOUNCE).await.unwrap();
    scheduler.client.flush().await.unwrap();
    let large = format!(r#"{{"kind":"embed","text":{}}}"#, serde_json::to_string(&vec!["x".repeat(9_000); 4]).unwrap());
    let dear = r#"{"kind":"echo","text":"x","cost_mana":9007199254740}"#;
    let rows = [
        ("announced-large", large.as_str(), 202, None),
        ("announced-dear", dear, 402, Some(9_007_199_254_740_000)),
        // Nobody bids twice for a member who cannot pay; who can is announced again.
        ("dear-again", dear, 402, None),
        ("not-yet", ECHO, 202, None),
        ("announced", ECHO, 202, Some(10_000)),
    ];
    for (key, body, status, hold) in rows {
        let (answered, answer) = me.post(desk, body, Some(key)).await;
        assert_eq!(answered, status, "{answer}");
        let Some(hold) = hold else { continue };
        let message = tokio::time::timeout(HUNG, heard.next()).await.expect("announced").unwrap();
        let batch = Batch::decode(&message.payload).unwrap();
        assert_eq!(batch.k, desk.hub.document().gateway_keys[0]);
        let [announced] = <[_; 1]>::try_from(batch.verify::<AnnouncedJob>(&mut Verifier::default()).unwrap()).unwrap();
        let announced = announced.into_body();
        let expected = bus_schemas::job::unsigned_job_id(&me.id, key, body.as_bytes());
        assert_eq!(
            (announced.job, announced.member, announced.hold_mmana.get()),
            (expected, me.id, hold),
            "{key}: and nothing of others before it"
        );
        assert_eq!(announced.body.as_slice(), body.as_bytes());
        assert_eq!(in_jobs(&desk.hub.bus("gateway").await, &announced.job).await.is_some(), status == 202, "{key}");
    }
}

async fn signed_forms(desk: &Desk, me: &Guest) {
    // Over HTTP the signature alone says who asks.
    let body = serde_json::to_vec(&spec(desk, &me.key, "signed-http")).unwrap();
    let headers = me.key.headers::<JobSpec>(&body);
    let sent: Vec<(&str, &str)> = headers.iter().map(|(name, value)| (*name, value.as_str())).collect();
    let url = format!("{}/api/v1/jobs", desk.api);
    let (status, answer) = testkit::http::send("POST", &url, &sent, body.clone()).await;
    assert_eq!((status, job_id(&answer)), (202, JobId(Cid::of(&body))), "{answer}");
    let (_, again) = testkit::http::send("POST", &url, &sent, body.clone()).await;
    assert_eq!(again["id"], answer["id"], "a replay is the same job");
    me.send(body, &sent).await;
    let (status, answer) = testkit::http::send("POST", &url, &sent, r#"{"kind":"echo","text":"altered"}"#).await;
    assert_eq!((status, &answer["code"]), (401, &json!("M0301")));
    let stranger = Signer::from_seed(&[77; 32]);
    let body = serde_json::to_vec(&spec(desk, &stranger, "stranger")).unwrap();
    let headers = stranger.headers::<JobSpec>(&body);
    let sent: Vec<(&str, &str)> = headers.iter().map(|(name, value)| (*name, value.as_str())).collect();
    let (status, answer) = testkit::http::send("POST", &url, &sent, body.clone()).await;
    assert_eq!((status, &answer["code"]), (403, &json!("M0302")));
    // On the subject of another it is a record of that other.
    me.send(body, &sent).await;
    assert_eq!(me.listed(desk, "stranger").await["error"]["code"], "M0302");
    // A batch, and one job with its proof.
    let batch = me.key.batch(&[spec(desk, &me.key, "unsent"), spec(desk, &me.key, "unsent too"), spec(desk, &me.key, "proof")]);
    me.send(me.key.batch(&[spec(desk, &me.key, "batch-1"), spec(desk, &me.key, "batch-2")]).encode(), &[]).await;
    me.send(batch.proof(2).unwrap().encode(), &[]).await;
    for key in ["batch-1", "batch-2", "proof"] {
        assert_eq!(me.listed(desk, key).await["state"], "Submitted", "{key}");
    }
}

async fn the_same_key_is_the_same_job(desk: &Desk, me: &Guest, other: &Guest) {
    let first = me.post(desk, ECHO, Some("twice")).await.1;
    let asked = desk.books.lock().unwrap().holds.len();
    assert_eq!(me.post(desk, ECHO, Some("twice")).await.1["id"], first["id"]);
    assert_eq!(desk.books.lock().unwrap().holds.len(), asked, "one hold");
    let different = r#"{"kind":"echo","text":"different"}"#;
    let (status, answer) = me.post(desk, different, Some("twice")).await;
    assert_eq!((status, &answer["code"]), (409, &json!("M0502")), "{answer}");
    let answer = me.ask("job.submit", different, &[("Nats-Msg-Id", "twice")]).await;
    let headers = answer.headers.as_ref().unwrap();
    assert_eq!(headers.get("Nats-Service-Error-Code").unwrap().as_str(), "M0502");
    assert_ne!(other.post(desk, ECHO, Some("twice")).await.1["id"], first["id"], "another member's key is another");
}

async fn bad_input(desk: &Desk, me: &Guest) {
    let deep = format!(r#"{{"kind":{}1{}}}"#, "[".repeat(100_000), "]".repeat(100_000));
    let long = format!(r#"{{"kind":"echo","text":"{}"}}"#, "x".repeat(10_001));
    let rows: [(&str, &[u8], &str); 9] = [
        ("not-json", b"nope", "M0103"),
        ("not-utf8", b"{\"kind\":\"echo\",\"text\":\"\xff\"}", "M0102"),
        ("empty", b"", "M0101"),
        ("deep", deep.as_bytes(), "M0106"),
        ("long", long.as_bytes(), "M0113"),
        ("nul", b"{\"kind\":\"a\\u0000b\",\"text\":\"x\"}", "M0111"),
        ("twice", b"{\"kind\":\"echo\",\"kind\":\"echo\",\"text\":\"x\"}", "M0105"),
        ("dear", br#"{"kind":"echo","text":"x","cost_mana":9007199254740}"#, "M0601"),
        ("msgpack", &[0x81, 0xa1, b'b', 0xc0], "M0104"),
    ];
    for (name, body, code) in rows {
        let (status, answer) = me.http(desk, "POST", "/jobs", &[], body.to_vec()).await;
        assert!((400..500).contains(&status), "{name}: {status}");
        assert_eq!(answer["code"], code, "{name} over HTTP: {answer}");
        let answer = me.ask_json("job.submit", body.to_vec()).await;
        assert_eq!(answer["code"], code, "{name} at the service: {answer}");
        let key = format!("bad-{name}");
        me.send(body.to_vec(), &[("Mesh-Job-Key", &key)]).await;
        let record = me.listed(desk, &key).await;
        assert_eq!((&record["state"], &record["error"]["code"]), (&json!("Rejected"), &json!(code)), "{name}: {record}");
        assert!(record["finished_at"].is_string() && record["cost"].is_null(), "{record}");
    }
    let (status, answer) = me.http(desk, "POST", "/jobs", &[], vec![b'x'; 1_048_577]).await;
    assert_eq!((status, &answer["code"]), (413, &json!("M0107")));
    // The member hears of it live, with its key.
    let mut heard = me.bus.client.subscribe(format!("mesh.v1.watch.{}.*.state", me.id)).await.unwrap();
    me.bus.client.flush().await.unwrap();
    me.send("{}", &[("Mesh-Job-Key", "heard")]).await;
    let told = tokio::time::timeout(HUNG, futures::StreamExt::next(&mut heard)).await.expect("told").unwrap();
    assert_eq!(told.headers.as_ref().unwrap().get("Mesh-Job-Key").unwrap().as_str(), "heard");
    let state: serde_json::Value = serde_json::from_slice(&told.payload).unwrap();
    assert_eq!((&state["state"], &state["error"]["code"]), (&json!("Rejected"), &json!("M0110")));
}

async fn who_asks(desk: &Desk, me: &Guest, other: &Guest) {
    let url = |path: &str| format!("{}{path}", desk.api);
    for authorization in [None, Some("Bearer nonsense"), Some("Basic eDp5"), Some("Bearer")] {
        let headers: Vec<(&str, &str)> = authorization.map(|value| ("authorization", value)).into_iter().collect();
        for (method, path) in [
            ("GET", "/api/v1/jobs"),
            ("POST", "/api/v1/jobs"),
            ("GET", "/api/v1/devices"),
            ("GET", "/api/v1/credit/balance"),
            ("POST", "/api/v1/credit/transfer"),
            ("GET", "/api/v1/ledger/facts"),
            ("GET", "/api/v1/ledger/balances"),
            ("GET", "/api/v1/ledger/checkpoints"),
            ("GET", "/api/v1/ledger/proof/job_abcdefgh"),
            ("GET", "/api/v1/ledger/consistency?from=1&to=2"),
            ("GET", "/api/v1/network/policy"),
            ("POST", "/api/v1/blobs"),
            ("GET", "/api/v1/jobs/job_abcdefgh/result"),
        ] {
            let (status, answer) = testkit::http::send(method, &url(path), &headers, ECHO).await;
            assert_eq!((status, &answer["code"]), (401, &json!("M0401")), "{method} {path}: {answer}");
        }
    }
    let rows = [
        ("GET", "/api/v1/nothing", 404, "M0513"),
        ("GET", "/nothing", 404, "M0513"),
        ("DELETE", "/api/v1/jobs", 405, "M0119"),
        ("GET", "/api/v1/jobs?limit=many", 400, "M0116"),
        ("POST", "/api/v1/ledger/commands", 400, "M0101"),
        ("GET", "/api/v1/ledger/facts?after=x", 400, "M0116"),
        ("GET", "/api/v1/ledger/facts?limit=0", 400, "M0116"),
        ("GET", "/api/v1/jobs?limit=0", 400, "M0116"),
        ("GET", "/api/v1/jobs?state=Sleeping", 400, "M0116"),
        ("GET", "/api/v1/jobs?cursor=x", 400, "M0116"),
        ("GET", "/api/v1/jobs?colour=red", 400, "M0109"),
        ("GET", "/api/v1/jobs?limit=1&limit=2", 400, "M0105"),
        ("GET", "/api/v1/ledger/consistency?from=1", 400, "M0110"),
        ("GET", "/api/v1/credit/history?limit=0", 400, "M0116"),
        ("GET", "/api/v1/jobs/nothere", 404, "M0501"),
        ("GET", "/api/v1/jobs/bafkrei", 409, "M0507"),
        ("POST", "/api/v1/jobs/job_bbbbbbbb/cancel", 404, "M0501"),
        ("GET", "/api/v1/devices/dev_x", 404, "M0506"),
        ("GET", "/api/v1/blobs/x", 404, "M0509"),
    ];
    for (method, path, status, code) in rows {
        let bearer = format!("Bearer {}", me.token);
        let (got, answer) = testkit::http::send(method, &url(path), &[("authorization", &bearer)], "").await;
        assert_eq!((got, answer["code"].as_str()), (status, Some(code)), "{method} {path}: {answer}");
        // A query that is wrong gets one that is right.
        let right = answer["next"][0].as_str().is_some_and(|next| next.starts_with("GET /api/v1/"));
        assert_eq!(right, path.contains('?'), "{path}: {answer}");
    }
    for (call, payload, code) in
        [("job.show", "", "M0101"), ("job.show", "[]", "M0108"), ("job.show", r#"{"id":7}"#, "M0108"), ("blob.get", "{}", "M0104")]
    {
        assert_eq!(me.ask_json(call, payload).await["code"], code, "{call} {payload}");
    }
    // Another's job is none.
    let mine = job_id(&me.post(desk, ECHO, Some("mine")).await.1);
    assert_eq!(other.get(desk, &format!("/jobs/{mine}")).await.0, 404);
    assert_eq!(other.ask_json("job.show", json!({"id": mine}).to_string()).await["code"], "M0501");
    // Pages do not overlap, and together they are all.
    let (_, first) = me.get(desk, "/jobs?limit=3").await;
    let (_, second) = me.get(desk, &format!("/jobs?limit=3&cursor={}", first["cursor"].as_str().unwrap())).await;
    let ids = |page: &serde_json::Value| page["jobs"].as_array().unwrap().iter().map(job_id).collect::<Vec<_>>();
    assert_eq!((ids(&first).len(), ids(&second).len()), (3, 3));
    assert!(ids(&first).iter().all(|id| !ids(&second).contains(id)));
}

/// What a scheduler writes at the end of a job.
async fn end(desk: &Desk, me: &Guest, job: JobId, result: &[u8]) -> (Proof, Proof) {
    let scheduler = bus::keys::read_key_file(&desk.hub.dir.key("scheduler")).unwrap();
    let device = Signer::from_seed(&[50; 32]);
    let (net, now) = (desk.hub.document().network, bus::hub_time::here_ms());
    let assignment = Assignment {
        net,
        job,
        attempt: 1,
        device: device.public().device_id(),
        member: me.id,
        assigned_at: now,
        exp: now + 1000,
        price_mmana: MilliMana::mana(1),
        tier: 1,
        timeout_ms: 1000,
        payload: Cid::of(ECHO.as_bytes()),
        resume: None,
    };
    let assignment_proof = scheduler.batch(&[assignment]).proof(0).unwrap();
    let attempt = AttemptId(Cid::of(&assignment_proof.b));
    let outcome = Outcome::Completed(ResultRef { cid: Cid::of(result), bytes: result.len() as u64 });
    let receipt = Receipt { net, device: device.public().device_id(), job, attempt, at: now, outcome, claimed_ms: 5, waited_ms: 0 };
    let receipt_proof = device.batch(&[receipt]).proof(0).unwrap();
    let inline = result.len() <= bus_schemas::limits::INLINE_RESULT_MAX;
    let ended = Ended {
        state: JobState::Completed,
        attempts: 1,
        device: Some(device.public().device_id()),
        problem: None,
        paid_mmana: MilliMana::new(1250),
        done: Some(CompletedEnd {
            attempt,
            receipt: ReceiptId(Cid::of(&receipt_proof.b)),
            receipt_seq: 1,
            receipt_proof: receipt_proof.clone(),
            assignment_proof: Some(assignment_proof.clone()),
            result: inline.then(|| result.to_vec().into()),
        }),
        decision: None,
    };
    let transitions = vec![Transition { to: JobState::Completed, at: now, cause: "receipt".into(), actor: "scheduler s".into() }];
    let record = HistoryRecord { net, member: me.id, job, at: now, transitions, what: HistoryEvent::Ended(Box::new(ended)) };
    let bus = desk.hub.bus("scheduler").await;
    bus.store(format!("mesh.v1.history.{}", me.id), None, scheduler.batch(&[record]).encode().into(), HUNG).await.unwrap();
    (receipt_proof, assignment_proof)
}

async fn a_job_until_its_end(desk: &Desk, me: &Guest, other: &Guest) {
    let id = job_id(&me.post(desk, ECHO, Some("to-the-end")).await.1);
    for path in ["result", "receipt"] {
        let (status, answer) = me.get(desk, &format!("/jobs/{id}/{path}")).await;
        assert_eq!((status, &answer["code"]), (409, &json!("M0504")), "{answer}");
    }
    let (status, explained) = me.get(desk, &format!("/jobs/{id}/explain")).await;
    assert_eq!(status, 200);
    assert!(explained["summary"].as_str().unwrap().contains("0 of 0 devices fit") && explained["gives_up_at"].is_string(), "{explained}");
    let (status, cancelled) = me.http(desk, "POST", &format!("/jobs/{id}/cancel"), &[], "").await;
    assert_eq!((status, &cancelled["state"]), (200, &json!("Submitted")), "{cancelled}");
    let (_, explained) = me.get(desk, &format!("/jobs/{id}/explain")).await;
    let summary = explained["summary"].as_str().unwrap();
    assert!(explained["cancelling"] == true && summary.starts_with("is being cancelled: waits since "), "{explained}");
    let wish = desk.hub.bus("gateway").await.last_by_subject("CANCELS", &format!("mesh.v1.cancel.{id}")).await.unwrap();
    assert!(wish.is_some());

    let (receipt, _) = end(desk, me, id, br#"{"text":"hello"}"#).await;
    let done = until(desk, "the end", || async {
        let (_, job) = me.get(desk, &format!("/jobs/{id}")).await;
        (job["state"] == "Completed").then_some(job)
    })
    .await;
    assert_eq!((&done["cost"], &done["cost_mmana"], &done["attempts"]), (&json!("1.25"), &json!(1250), &json!(1)));
    let (_, explained) = me.get(desk, &format!("/jobs/{id}/explain")).await;
    let [attempt] = explained["attempts"].as_array().unwrap().as_slice() else { panic!("{explained}") };
    assert_eq!((&attempt["state"], &attempt["number"], &attempt["class"]), (&json!("completed"), &json!(1), &json!("")), "{attempt}");
    assert!(attempt["assigned_at"].as_u64().unwrap() <= attempt["ended_at"].as_u64().unwrap(), "{attempt}");
    // No record says how it got there.
    let summary = explained["summary"].as_str().unwrap();
    assert!(summary.contains("ended before it could write down how") && explained["cancelling"] == false, "{explained}");
    let (status, over_http) = me.get(desk, &format!("/jobs/{id}/result")).await;
    assert_eq!((status, &over_http["result"]["text"], &over_http["state"]), (200, &json!("hello"), &json!("Completed")));
    assert_eq!(over_http, me.ask_json("job.result", json!({"id": id.short()}).to_string()).await, "both doors say the same");
    let proof = data_encoding::BASE64URL_NOPAD.decode(over_http["receipt"]["proof"].as_str().unwrap().as_bytes()).unwrap();
    assert_eq!(proof, receipt.encode());
    assert_eq!(me.get(desk, &format!("/jobs/{id}/receipt")).await.1, over_http["receipt"]);
    let (status, answer) = me.http(desk, "POST", &format!("/jobs/{id}/cancel"), &[], "").await;
    assert_eq!((status, &answer["code"]), (409, &json!("M0503")));
    assert_eq!(other.get(desk, &format!("/jobs/{id}/result")).await.0, 404);
    let (_, list) = me.get(desk, "/jobs?state=Completed").await;
    assert_eq!(list["jobs"].as_array().unwrap().iter().map(job_id).collect::<Vec<_>>(), [id]);
}

async fn large_results_and_blobs(desk: &Desk, me: &Guest, other: &Guest) {
    let text = "x".repeat(300_000);
    let result = json!({"text": text}).to_string();
    let (status, stored) = me.http(desk, "POST", "/blobs", &[], result.clone()).await;
    assert_eq!((status, &stored["bytes"]), (201, &json!(result.len())), "{stored}");
    assert_eq!(stored["cid"].as_str().unwrap(), Cid::of(result.as_bytes()).to_string());
    let url = format!("{}/api/v1/blobs/{}", desk.api, stored["cid"].as_str().unwrap());
    let (status, bytes) = testkit::http::send_raw("GET", &url, &[("authorization", &format!("Bearer {}", me.token))], "").await;
    assert_eq!((status, bytes.as_ref()), (200, result.as_bytes()));
    let (status, answer) = other.get(desk, &format!("/blobs/{}", stored["cid"].as_str().unwrap())).await;
    assert_eq!((status, &answer["code"]), (404, &json!("M0509")));

    let id = job_id(&me.post(desk, ECHO, Some("large")).await.1);
    end(desk, me, id, result.as_bytes()).await;
    let whole = until(desk, "the large result", || async {
        let (status, answer) = me.get(desk, &format!("/jobs/{id}/result")).await;
        (status == 200).then_some(answer)
    })
    .await;
    assert_eq!((&whole["result"]["text"], whole["receipt"]["job"].as_str()), (&json!(text), Some(id.to_string().as_str())));
    let (_, referred) = me.get(desk, &format!("/jobs/{id}/result?inline=false")).await;
    assert_eq!((&referred["result"]["cid"], &referred["result"]["bytes"]), (&stored["cid"], &stored["bytes"]));
    assert_eq!(me.ask_json("job.result", json!({"id": id}).to_string()).await["result"]["cid"], stored["cid"]);

    // In chunks over the service; the wrong hash makes no blob.
    use bus_schemas::api::ask::{BlobCommit, BlobGet, BlobPut};
    use bus_schemas::envelope::encode;
    let (a, b) = (vec![1_u8; 1000], vec![2_u8; 500]);
    let mut chunks = vec![];
    for data in [&a, &b] {
        let put = me.ask_json("blob.put", encode(&BlobPut { data: data.clone().into() })).await;
        chunks.push(put["cid"].as_str().unwrap().parse().unwrap());
    }
    let cid = Cid::of(&[a, b].concat());
    let commit = |cid, chunks| encode(&BlobCommit { cid, chunks, assignment: None });
    assert_eq!(me.ask_json("blob.commit", commit(Cid::of(b"other"), chunks.clone())).await["code"], "M0116");
    assert_eq!(me.ask_json("blob.commit", commit(cid, vec![Cid::of(b"missing")])).await["code"], "M0509");
    assert_eq!(me.ask_json("blob.commit", commit(cid, chunks)).await["bytes"], 1500);
    let got = me.ask("blob.get", encode(&BlobGet { cid, chunk: 1, assignment: None }), &[]).await;
    assert_eq!((got.payload.len(), got.headers.unwrap().get("Mesh-Blob-Chunks").unwrap().as_str()), (500, "2"));
    assert_eq!(me.ask_json("blob.get", encode(&BlobGet { cid, chunk: 2, assignment: None })).await["code"], "M0509");
    let mine: serde_json::Value =
        serde_json::from_slice(&other.ask("blob.get", encode(&BlobGet { cid, chunk: 0, assignment: None }), &[]).await.payload).unwrap();
    assert_eq!(mine["code"], "M0509");
}

async fn the_service_is_found(desk: &Desk) {
    let operator = desk.hub.bus("operator").await;
    let answer = operator.client.request("$SRV.INFO.mesh-gateway", "".into()).await.unwrap();
    let info: serde_json::Value = serde_json::from_slice(&answer.payload).unwrap();
    assert_eq!(info["name"], "mesh-gateway");
    let subjects: Vec<&str> = info["endpoints"].as_array().unwrap().iter().map(|endpoint| endpoint["subject"].as_str().unwrap()).collect();
    for call in ["submit", "ls", "show", "result", "explain", "cancel"] {
        assert!(subjects.contains(&format!("mesh.v1.api.*.job.{call}").as_str()), "{subjects:?}");
    }
    let (status, document) = testkit::http::send("GET", &format!("{}/api/v1/network", desk.api), &[], "").await;
    assert_eq!(status, 200);
    assert_eq!(bus::keys::parse_network(document.to_string().as_bytes()).unwrap(), desk.hub.document());
    let (_, metrics) = testkit::http::send_raw("GET", &format!("{}/metrics", desk.api), &[], "").await;
    let metrics = String::from_utf8(metrics.to_vec()).unwrap();
    for name in ["mesh_jobs_submitted_total", "mesh_jobs_rejected_total", "mesh_http_requests_total", "mesh_build_info"] {
        assert!(metrics.contains(name), "{name} is missing");
    }
}

async fn many_at_once(desk: &Desk, me: &Guest) {
    let before = desk.books.lock().unwrap().holds.len();
    let sends = (0..300).map(|n| {
        let key = format!("many-{n}");
        async move { me.send(ECHO, &[("Mesh-Job-Key", &key)]).await }
    });
    futures::future::join_all(sends).await;
    let list: Vec<_> = (0..150).map(|n| json!({"kind": "echo", "text": n.to_string()})).collect();
    me.send(json!(list).to_string(), &[("Mesh-Job-Key", "many-list")]).await;
    for key in ["many-0", "many-299", "many-list/149"] {
        me.listed_anywhere(desk, key).await;
    }
    until(desk, "all holds", || async { (desk.books.lock().unwrap().holds.len() == before + 450).then_some(()) }).await;
    let asked = desk.books.lock().unwrap().asked;
    assert!(asked < 400, "what waits is asked for together: {asked} questions");
}

impl Guest {
    async fn listed_anywhere(&self, desk: &Desk, key: &str) {
        until(desk, key, || async {
            let mut cursor = String::new();
            loop {
                let (_, page) = self.get(desk, &format!("/jobs?limit=200{cursor}")).await;
                if page["jobs"].as_array().unwrap().iter().any(|job| job["key"] == key) {
                    return Some(());
                }
                cursor = format!("&cursor={}", page["cursor"].as_str()?);
            }
        })
        .await;
    }
}

#[tokio::test]
async fn killed_anywhere_it_goes_on() {
    let desk = Desk::new(10).await;
    let me = {
        let _program = desk.open(&[]).await;
        desk.guest(1).await
    };
    for point in ["after_hold", "after_job", "before_ack"] {
        let mut program = desk.open(&[("MESH_CRASH_AT", &format!("gateway.{point}"))]).await;
        me.send(ECHO, &[("Mesh-Job-Key", point)]).await;
        let start = std::time::Instant::now();
        while !program.has_ended() {
            assert!(start.elapsed() < HUNG, "no crash {point}");
            tokio::time::sleep(std::time::Duration::from_millis(10)).await;
        }
        drop(program);
        let ended = point == "after_job";
        if ended {
            // It runs and is paid before its gateway is back.
            let job = bus_schemas::job::unsigned_job_id(&me.id, point, ECHO.as_bytes());
            end(&desk, &me, job, br#"{"text":"hello"}"#).await;
            desk.books.lock().unwrap().settle(me.id, point);
        }
        let program = desk.open(&[]).await;
        let job = me.listed(&desk, point).await;
        let state = if ended { "Completed" } else { "Submitted" };
        assert_eq!((&job["state"], &job["kind"]), (&json!(state), &json!("echo")), "{point}: {job}");
        let gateway = desk.hub.bus("gateway").await;
        assert!(in_jobs(&gateway, &job_id(&job)).await.is_some(), "{point}");
        let submit = || async { (gateway.stream_end("SUBMIT").await.unwrap().messages == 0).then_some(()) };
        until(&desk, "SUBMIT to be empty", submit).await;
        if ended {
            // Whoever sends it once more hears the result once more.
            let mut results = me.bus.client.subscribe(format!("mesh.v1.watch.{}.*.result", me.id)).await.unwrap();
            me.bus.client.flush().await.unwrap();
            me.send(ECHO, &[("Mesh-Job-Key", point)]).await;
            let told = tokio::time::timeout(HUNG, results.next()).await.expect("told").unwrap();
            let result: serde_json::Value = serde_json::from_slice(&told.payload).unwrap();
            assert_eq!((&result["id"], &result["result"]["text"]), (&job["id"], &json!("hello")), "{result}");
            assert_eq!(told.headers.unwrap().get("Mesh-Job-Key").unwrap().as_str(), point);
        }
        assert!(program.stop());
    }
    assert_eq!(desk.books.lock().unwrap().holds.len(), 3);
    assert_eq!(desk.hub.bus("gateway").await.stream_end("JOBS").await.unwrap().messages, 3);
}

#[tokio::test]
async fn a_frozen_database_or_hub_is_not_ready() {
    let desk = Desk::new(10).await;
    let program = desk.open(&[]).await;
    let ready = || async { testkit::http::send("GET", &format!("{}/readyz", desk.api), &[], "").await };
    let signal = |what: &str, name: &str| if what == "hub" { desk.hub.signal(name) } else { desk.postgres.signal(name) };
    for what in ["database", "hub"] {
        assert_eq!(ready().await.0, 200, "{what}");
        signal(what, "STOP");
        let frozen = std::time::Instant::now();
        let said = until(&desk, "not to be ready", || async { Some(ready().await).filter(|(status, _)| *status == 503) }).await.1;
        let took = frozen.elapsed();
        signal(what, "CONT");
        let expected = format!("the {what} does not answer");
        assert!(said["waiting_for"][what].as_str().is_some_and(|why| why.contains(&expected)), "{said}");
        assert!(took.as_secs() < 10, "{what}: {took:?}");
        until(&desk, "to be ready again", || async { (ready().await.0 == 200).then_some(()) }).await;
    }
    assert!(program.stop(), "{}", desk.log());
}

/// Of 60 questions at once, as many as four seconds' worth are answered at once and a few more in their turn; the others are told when to
/// come again, by the service and by HTTP, and somebody else notices nothing.
#[tokio::test]
async fn who_asks_too_fast_is_told_when_to_come_again() {
    let desk = Desk::new(10).await;
    let program = desk.open(&[("MESH_QUESTIONS_PER_S", "5")]).await;
    let (me, other) = (desk.guest(1).await, desk.guest(2).await);
    let waits = |answers: &[serde_json::Value]| -> Vec<u64> {
        let refused = answers.iter().filter(|answer| answer["code"] == "M0704");
        refused.map(|answer| answer["wait_ms"].as_u64().expect("when to come again")).collect()
    };
    let asked = join_all((0..60).map(|_| me.ask_json("device.ls", "{}")));
    let (answers, neighbour) = tokio::join!(asked, other.ask_json("device.ls", "{}"));
    assert!(neighbour["devices"].is_array(), "{neighbour}");
    let told = waits(&answers);
    // 20 at once, and 10 within the two seconds that anybody is let wait.
    assert!((28..=32).contains(&told.len()), "{}", told.len());
    assert!(told.iter().all(|wait| (2_000..=2_400).contains(wait)), "{told:?}");
    assert!(answers.iter().filter(|answer| answer["code"].is_null()).all(|answer| answer["devices"].is_array()));

    // The same share counts at the other door.
    assert_eq!(me.get(&desk, "/devices").await.0, 200, "nobody knows this token yet");
    let answers = join_all((0..20).map(|_| me.get(&desk, "/devices"))).await;
    let statuses: std::collections::BTreeSet<u16> = answers.iter().map(|(status, _)| *status).collect();
    assert_eq!(statuses, [200, 429].into(), "{answers:?}");
    let told = waits(&answers.into_iter().map(|(_, answer)| answer).collect::<Vec<_>>());
    assert!(told.len() >= 8 && told.iter().all(|wait| *wait <= 2_400), "{told:?}");
    let (status, answer) = other.get(&desk, "/devices").await;
    assert_eq!(status, 200, "{answer}");
    // Told to wait, waited, answered.
    tokio::time::sleep(std::time::Duration::from_millis(told.into_iter().max().unwrap_or_default())).await;
    assert_eq!(me.get(&desk, "/devices").await.0, 200);
    assert!(program.stop(), "{}", desk.log());
}

/// What is stored in SUBMIT faster than its sender's share waits there, and all of it becomes jobs; nobody else's job waits with it.
#[tokio::test]
async fn submissions_beyond_a_share_wait_and_are_not_lost() {
    let desk = Desk::new(10).await;
    let program = desk.open(&[("MESH_SUBMISSIONS_PER_S", "20")]).await;
    let (me, other) = (desk.guest(1).await, desk.guest(2).await);
    let begun = std::time::Instant::now();
    // 80 at once and the rest at 20 a second; of those some stand in the gateway's line, others are put off.
    for n in 0..160 {
        me.send(ECHO, &[("Mesh-Job-Key", &format!("flood-{n}"))]).await;
    }
    let (status, answer) = other.post(&desk, ECHO, Some("lone")).await;
    assert_eq!(status, 202, "{answer}");
    assert!(begun.elapsed().as_secs() < 3, "{:?}", begun.elapsed());
    let jobs = || async { desk.books.lock().unwrap().holds.len() };
    assert!(jobs().await < 150, "{} at once", jobs().await);
    until(&desk, "all to be jobs", || async { (jobs().await == 161).then_some(()) }).await;
    assert!(begun.elapsed().as_secs_f32() > 3.0, "{:?}", begun.elapsed());
    let gateway = desk.hub.bus("gateway").await;
    until(&desk, "SUBMIT to be empty", || async { (gateway.stream_end("SUBMIT").await.ok()?.messages == 0).then_some(()) }).await;
    assert_eq!(gateway.stream_end("JOBS").await.unwrap().messages, 161);
    assert!(program.stop(), "{}", desk.log());
}
