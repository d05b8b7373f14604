//! What bad input gets, at every door, by one table. Where there is an answer it carries the code; where there is none a
//! `Rejected` record with the same code appears; where a server refuses, its error is what the sender sees.

use std::time::Duration;

use bus::async_nats::HeaderMap;
use bus_schemas::envelope::{HEADER_KEY, HEADER_SIG, HEADER_TYPE};
use bus_schemas::job::{JobSpec, Text};
use bus_schemas::offer::Offer;
use bus_schemas::{Form, MilliMana, Signer};
use e2e::doors;
use serde_json::{Value, json};
use testkit::{Stack, http, until};

/// Who says what.
#[derive(Debug, Clone, Copy, PartialEq)]
enum Gets {
    /// An error of ours with this code.
    Code(&'static str),
    /// Accepted.
    Fine,
}
use Gets::{Code, Fine};

/// One row: a name, the body, and what it gets at every door that takes JSON.
fn table() -> Vec<(&'static str, Vec<u8>, Gets)> {
    let text = |s: &str| s.as_bytes().to_vec();
    let long = "x".repeat(10_001);
    vec![
        ("not JSON", text("nope"), Code("M0103")),
        ("cut JSON", text(r#"{"kind":"echo","text":"a""#), Code("M0103")),
        ("trailing bytes", text(r#"{"kind":"echo","text":"a"} x"#), Code("M0103")),
        ("not UTF-8", b"{\"kind\":\"echo\",\"text\":\"\xff\xfe\"}".to_vec(), Code("M0102")),
        ("empty", vec![], Code("M0101")),
        ("wrong type of kind", text(r#"{"kind":7,"text":"a"}"#), Code("M0108")),
        ("wrong type of text", text(r#"{"kind":"echo","text":{"a":1}}"#), Code("M0108")),
        ("a bare string", text(r#""echo""#), Code("M0108")),
        ("unknown kind", text(r#"{"kind":"paint","text":"a"}"#), Code("M0111")),
        ("unknown field", text(r#"{"kind":"echo","text":"a","colour":"red"}"#), Code("M0109")),
        ("missing text", text(r#"{"kind":"echo"}"#), Code("M0110")),
        (
            "a blob of how many texts",
            text(r#"{"kind":"embed","inputs":["bafkreibm6jg3ux5qumhcn2b3flc3tyu6dmlb4xa7u5bf44yegnrjhc4yeq"]}"#),
            Code("M0110"),
        ),
        ("missing kind", text(r#"{"text":"a"}"#), Code("M0110")),
        ("empty text", text(r#"{"kind":"echo","text":""}"#), Code("M0112")),
        ("one empty text of two", text(r#"{"kind":"embed","text":["a",""]}"#), Code("M0112")),
        ("no texts", text(r#"{"kind":"embed","text":[]}"#), Code("M0112")),
        ("blank text", text(r#"{"kind":"echo","text":"  "}"#), Fine),
        ("text over the limit", text(&format!(r#"{{"kind":"echo","text":"{long}"}}"#)), Code("M0113")),
        ("depth", [b"{\"kind\":".to_vec(), vec![b'['; 100_000], vec![b']'; 100_000], b"}".to_vec()].concat(), Code("M0106")),
        ("duplicate keys", text(r#"{"kind":"echo","text":"a","text":"b"}"#), Code("M0105")),
        ("NaN", text(r#"{"kind":"echo","text":"a","cost_mana":NaN}"#), Code("M0103")),
        ("negative amount", text(r#"{"kind":"echo","text":"a","cost_mana":-1}"#), Code("M0114")),
        ("huge amount", text(r#"{"kind":"echo","text":"a","cost_mana":1e300}"#), Code("M0114")),
        ("amount of zero", text(r#"{"kind":"echo","text":"a","cost_mana":0}"#), Code("M0114")),
        ("more than the balance", text(r#"{"kind":"echo","text":"a","cost_mana":9007199254740}"#), Code("M0601")),
        ("zero timeout", text(r#"{"kind":"echo","text":"a","timeout_ms":0}"#), Code("M0115")),
        ("negative timeout", text(r#"{"kind":"echo","text":"a","timeout_ms":-5}"#), Code("M0108")),
        ("a target that is none", text(r#"{"kind":"echo","text":"a","target":"here"}"#), Code("M0108")),
        ("a job no device can run", text(r#"{"kind":"echo","text":"a","required_resources":{"gpu_mb":999999}}"#), Fine),
        ("signed fields without a signature", text(r#"{"kind":"echo","text":"a","at":1,"exp":2}"#), Code("M0301")),
    ]
}

#[tokio::test]
async fn each_door_says_what_is_wrong_and_moves_on() {
    let stack = Stack::start(&["--agents", "1"], &[]);
    let member = stack.member().await;
    for (name, body, gets) in table() {
        over_http(&stack, name, &body, gets).await;
        over_service(&stack, &member, name, &body, gets).await;
        over_submit(&stack, &member, name, &body, gets).await;
        over_local(&stack, name, &body, gets).await;
    }
    too_much_for_the_servers(&stack, &member).await;
    signed_forms(&stack, &member).await;
    at_the_command_line(&stack).await;
    who_asks(&stack).await;
    // After all of it everything still works.
    doors::http(&stack, &doors::echo("still here"), "still-here").await;
    let (status, _) = http::send("GET", &stack.api("/readyz"), &[], "").await;
    assert_eq!(status, 200);
    assert!(!stack.events().iter().any(|event| event["event"] == "restarted"), "no process died: {:?}", stack.events());
}

fn check(door: &str, name: &str, gets: Gets, answer: &Value) {
    match gets {
        Fine => assert!(answer["id"].is_string() && answer["code"].is_null(), "{name} at {door}: {answer}"),
        Code(code) => {
            assert_eq!(answer["code"], code, "{name} at {door}: {answer}");
            assert!(
                answer["title"].is_string() && answer["detail"].is_string() && answer["next"][0].is_string(),
                "{name} at {door}: {answer}"
            );
        }
    }
}

async fn over_http(stack: &Stack, name: &str, body: &[u8], gets: Gets) {
    let authorization = format!("Bearer {}", stack.token());
    let (status, answer) = http::send("POST", &stack.api("/api/v1/jobs"), &[("authorization", &authorization)], body.to_vec()).await;
    assert_eq!(gets == Fine, status < 300, "{name}: {status} {answer}");
    assert!(status < 500, "{name}: {status} {answer}");
    check("HTTP", name, gets, &answer);
}

async fn over_service(stack: &Stack, member: &bus::Bus, name: &str, body: &[u8], gets: Gets) {
    let answer = doors::service(stack, member, "job.submit", body.to_vec(), None).await;
    check("the service", name, gets, &answer);
}

async fn record(stack: &Stack, door: &str, name: &str, key: &str, gets: Gets) {
    let job = until(&format!("the record of {name} at {door}"), || async {
        let (_, list) = doors::get(stack, "/jobs?limit=200").await;
        // A stored submission is listed before it is taken or refused.
        let is_taken = |job: &Value| !job["waiting"].as_str().is_some_and(|why| why.starts_with("it is stored, and becomes a job"));
        list["jobs"].as_array()?.iter().find(|job| job["key"] == key && is_taken(job)).cloned()
    })
    .await;
    match gets {
        Fine => assert_ne!(job["state"], "Rejected", "{name} at {door}: {job}"),
        Code(code) => assert_eq!((&job["state"], &job["error"]["code"]), (&json!("Rejected"), &json!(code)), "{name} at {door}: {job}"),
    }
}

async fn over_submit(stack: &Stack, member: &bus::Bus, name: &str, body: &[u8], gets: Gets) {
    let key = format!("submit {name}");
    doors::store(stack, member, body.to_vec(), Some(&key)).await;
    record(stack, "the submit subject", name, &key, gets).await;
}

async fn over_local(stack: &Stack, name: &str, body: &[u8], gets: Gets) {
    // The device's owner is another member: the answer comes on its local server.
    let local = stack.local(0).await;
    let key = format!("local-{}", name.replace(' ', "-"));
    if gets == Fine {
        return;
    }
    let mut heard = local.client.subscribe(format!("result.{key}")).await.expect("a subscription");
    local.client.flush().await.expect("a flush");
    let mut headers = HeaderMap::new();
    headers.insert("Mesh-Job-Key", key.as_str());
    local.store("submit".into(), Some(headers), body.to_vec().into(), Duration::from_secs(10)).await.expect("stored");
    let message = tokio::time::timeout(testkit::HUNG, futures::StreamExt::next(&mut heard))
        .await
        .unwrap_or_else(|_| panic!("hung: no answer to {name}"));
    let answer: Value = serde_json::from_slice(&message.expect("a message").payload).expect("JSON");
    let code = if answer["code"].is_string() { &answer["code"] } else { &answer["error"]["code"] };
    let Code(expected) = gets else { return };
    assert_eq!(code, expected, "{name} on the local server: {answer}");
}

/// 1 MB + 1: refused before it is sent or by the server, never silently.
async fn too_much_for_the_servers(stack: &Stack, member: &bus::Bus) {
    let big = vec![b'x'; 1_048_577];
    let (status, answer) = doors::post(stack, &String::from_utf8(big.clone()).expect("text"), None).await;
    assert_eq!((status, &answer["code"]), (413, &json!("M0107")), "{answer}");
    let stored =
        member.store_once(format!("mesh.v1.submit.{}", stack.text("/member/id")), None, big.clone().into(), Duration::from_secs(2)).await;
    assert!(stored.is_err(), "{stored:?}");
    let local = stack.local(0).await;
    let stored = local.store_once("submit".into(), None, big.into(), Duration::from_secs(2)).await;
    assert!(stored.is_err(), "{stored:?}");
    // Another's subject: the server refuses.
    let theirs = format!("mesh.v1.submit.{}", stack.text("/devices/0/member"));
    let member = stack.member().await;
    assert!(member.store_once(theirs, None, doors::echo("x").to_string().into(), Duration::from_secs(2)).await.is_err());
}

/// The signed forms: headers over JSON, and a MessagePack batch.
async fn signed_forms(stack: &Stack, member: &bus::Bus) {
    let signer = bus::keys::read_key_file(&stack.path("/data_dir").join("member/keys/member.key")).expect("the member's key");
    let stranger = Signer::from_seed(&[42; 32]);
    let net = stack.text("/network").parse().expect("a network id");
    let now = bus::hub_time::here_ms();
    let job = |by: &Signer, key: &str| JobSpec {
        net: Some(net),
        by: Some(by.public()),
        key: Some(key.to_owned()),
        at: Some(now),
        exp: Some(now + 60_000),
        kind: "echo".into(),
        text: Some(Text::One("signed".into())),
        ..JobSpec::default()
    };
    let other_net = stranger.public().network_id();
    let fine = job(&signer, "signed-fine");
    let rows: Vec<(&str, JobSpec, &Signer, Gets)> = vec![
        ("signed", fine.clone(), &signer, Fine),
        ("signed by another key", job(&stranger, "signed-stranger"), &stranger, Code("M0302")),
        ("by another than it says", job(&signer, "signed-forged"), &stranger, Code("M0302")),
        ("expired", JobSpec { at: Some(now - 120_000), exp: Some(now - 61_000), ..job(&signer, "signed-expired") }, &signer, Code("M0304")),
        ("valid too long", JobSpec { exp: Some(now + 25 * 3_600_000), ..job(&signer, "signed-long") }, &signer, Code("M0304")),
        (
            "from the future",
            JobSpec { at: Some(now + 600_000), exp: Some(now + 660_000), ..job(&signer, "signed-future") },
            &signer,
            Code("M0305"),
        ),
        ("for another network", JobSpec { net: Some(other_net), ..job(&signer, "signed-elsewhere") }, &signer, Code("M0306")),
        ("bad amount", JobSpec { cost_mana: Some(MilliMana::ZERO), ..job(&signer, "signed-zero") }, &signer, Code("M0114")),
    ];
    for (name, spec, by, gets) in &rows {
        let body = serde_json::to_vec(spec).expect("JSON");
        let headers: Vec<(&str, String)> = by.headers::<JobSpec>(&body).to_vec();
        let sent: Vec<(&str, &str)> = headers.iter().map(|(name, value)| (*name, value.as_str())).collect();
        let (_, answer) = http::send("POST", &stack.api("/api/v1/jobs"), &sent, body.clone()).await;
        check("HTTP, header form", name, *gets, &answer);

        let mut map = HeaderMap::new();
        headers.iter().for_each(|(name, value)| {
            map.insert(*name, value.as_str());
        });
        let subject = format!("mesh.v1.submit.{}", stack.text("/member/id"));
        member.store(subject.clone(), Some(map), body.into(), Duration::from_secs(10)).await.expect("stored");
        let key = spec.key.clone().unwrap_or_default();
        record(stack, "the submit subject, header form", name, &key, *gets).await;

        let batch = by.batch(&[JobSpec { key: Some(format!("{key}-batch")), ..spec.clone() }]);
        member.store(subject, None, batch.encode().into(), Duration::from_secs(10)).await.expect("stored");
        record(stack, "the submit subject, MessagePack", name, &format!("{key}-batch"), *gets).await;
    }
    // A replayed message is the same job; a changed body is a bad signature; a signature over another type is none.
    let body = serde_json::to_vec(&fine).expect("JSON");
    let [(_, t), (_, k), (_, s)] = signer.headers::<JobSpec>(&body);
    let headers = [(HEADER_TYPE, t.as_str()), (HEADER_KEY, k.as_str()), (HEADER_SIG, s.as_str())];
    let (status, again) = http::send("POST", &stack.api("/api/v1/jobs"), &headers, body.clone()).await;
    assert!(status < 300 && again["id"].is_string(), "a replay is the same job: {again}");
    let changed = String::from_utf8(body.clone()).expect("text").replace("\"signed\"", "\"altered\"");
    let (status, answer) = http::send("POST", &stack.api("/api/v1/jobs"), &headers, changed).await;
    assert_eq!((status, &answer["code"]), (401, &json!("M0301")), "{answer}");
    let wrong_type = bus_schemas::envelope::type_name::<Offer>(Form::Json);
    let headers = [(HEADER_TYPE, wrong_type.as_str()), (HEADER_KEY, k.as_str()), (HEADER_SIG, s.as_str())];
    let (_, answer) = http::send("POST", &stack.api("/api/v1/jobs"), &headers, body).await;
    assert_eq!(answer["code"], "M0303", "{answer}");
}

async fn at_the_command_line(stack: &Stack) {
    let file = stack.folder().join("job.json");
    for (name, body, gets) in table() {
        std::fs::write(&file, &body).expect("a file");
        let (cli, path) = (stack.cli.clone(), file.to_str().expect("a path").to_owned());
        let (code, answer) = tokio::task::spawn_blocking(move || cli.json(&["job", "submit", &path])).await.expect("mesh runs");
        assert_eq!(gets == Fine, code == 0, "{name}: exit {code}, {answer}");
        check("the CLI", name, gets, &answer);
    }
    for (args, exit, code) in [
        (vec!["job", "show", "job_nothere1"], 9, "M0501"),
        (vec!["job", "run", "paint", "--text", "x"], 4, "M0111"),
        (vec!["job", "submit", "/nonexistent/file.json"], 2, "M0206"),
        (vec!["job", "run", "echo", "--text", "x", "--max-mana", "-1"], 2, "M0114"),
        (vec!["job", "run", "echo", "--text", "x", "--max-mana", "9007199254740"], 8, "M0601"),
    ] {
        let cli = stack.cli.clone();
        let shown = format!("{args:?}");
        let (status, answer) = tokio::task::spawn_blocking(move || cli.json(&args)).await.expect("mesh runs");
        assert_eq!((status, answer["code"].as_str()), (exit, Some(code)), "{shown}: {answer}");
    }
}

async fn who_asks(stack: &Stack) {
    for (headers, code) in
        [(vec![], "M0401"), (vec![("authorization", "Bearer nonsense")], "M0401"), (vec![("authorization", "Basic eDp5")], "M0401")]
    {
        for (method, path) in
            [("GET", "/api/v1/jobs"), ("POST", "/api/v1/jobs"), ("GET", "/api/v1/devices"), ("GET", "/api/v1/jobs/job_abcdefgh/result")]
        {
            let (status, answer) = http::send(method, &stack.api(path), &headers, r#"{"kind":"echo","text":"a"}"#).await;
            assert_eq!((status, answer["code"].as_str()), (401, Some(code)), "{method} {path}: {answer}");
        }
    }
    let (status, answer) = doors::get(stack, "/nothing/here").await;
    assert_eq!((status, answer["code"].as_str()), (404, Some("M0513")), "{answer}");
}
