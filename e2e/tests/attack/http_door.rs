//! At the HTTP door: no token, another's things, paths, bodies and headers that are tricks.

use std::time::{Duration, Instant};

use e2e::doors;
use serde_json::json;
use testkit::http;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use crate::must;
use crate::stage::{Outcome, Stage};

const GROUP: &str = "http";
/// The gateway waits 10 s for a head.
const HEAD_WITHIN: Duration = Duration::from_secs(15);
/// To see that a connection has ended long ago.
const LOOK: Duration = Duration::from_secs(2);

/// Connections that say nothing whole.
pub struct Slow {
    begun: Instant,
    heads: Vec<TcpStream>,
    bodies: Vec<TcpStream>,
}

pub async fn attacks(stage: &mut Stage) -> Slow {
    let slow = slow(stage).await.expect("the gateway listens");
    let done = no_token(stage).await;
    stage.row(GROUP, "every route without a token, with a wrong one, with an odd one", done).await;
    let done = anothers(stage).await;
    stage.row(GROUP, "another member's job, result, receipt, blob, dead letter, device", done).await;
    let done = paths(stage).await;
    stage.row(GROUP, "paths that climb, double, encode or do not end", done).await;
    let done = bodies(stage).await;
    stage.row(GROUP, "bodies without end, with a false length, with two", done).await;
    let done = browsers(stage).await;
    stage.row(GROUP, "a page elsewhere: forms and scripts (CSRF, CORS)", done).await;
    let done = smuggling(stage).await;
    stage.row(GROUP, "two requests in one: lengths that differ, chunks, folded and bare lines", done).await;
    slow
}

/// Method and path of each route that is somebody's; the network document and enrolment are for everybody.
const ROUTES: [(&str, &str); 27] = [
    ("POST", "/jobs"),
    ("GET", "/jobs"),
    ("GET", "/jobs/ID"),
    ("GET", "/jobs/ID/result"),
    ("GET", "/jobs/ID/explain"),
    ("GET", "/jobs/ID/receipt"),
    ("POST", "/jobs/ID/cancel"),
    ("POST", "/jobs/ID/retry"),
    ("GET", "/dlq"),
    ("GET", "/dlq/ID"),
    ("DELETE", "/dlq/ID"),
    ("POST", "/dlq/ID/retry"),
    ("GET", "/devices"),
    ("GET", "/devices/ID"),
    ("POST", "/devices/ID/drain"),
    ("GET", "/balance"),
    ("GET", "/credit/balance"),
    ("GET", "/credit/history"),
    ("POST", "/credit/transfer"),
    ("GET", "/ledger/facts"),
    ("GET", "/ledger/balances"),
    ("GET", "/ledger/checkpoints"),
    ("GET", "/ledger/proof/ID"),
    ("GET", "/ledger/consistency?from=1&to=2"),
    ("GET", "/network/policy"),
    ("POST", "/blobs"),
    ("GET", "/blobs/ID"),
];

async fn no_token(stage: &Stage) -> Outcome {
    let token = &stage.rogue.token;
    let cut = &token[..token.len() - 1];
    let wrong = [
        String::new(),
        "Bearer".to_owned(),
        "Bearer ".to_owned(),
        format!("Bearer {cut}"),
        format!("Bearer {token}x"),
        format!("Basic {token}"),
        format!("Token {token}"),
        "Bearer ' or 1=1 --".to_owned(),
        "Bearer null".to_owned(),
    ];
    let mut tried = 0;
    for (method, path) in ROUTES {
        let url = stage.stack.api(&format!("/api/v1{}", path.replace("ID", "job_aaaaaaaaaa")));
        for authorization in wrong.iter().take(if path == "/jobs" { wrong.len() } else { 4 }) {
            let headers = [("authorization", authorization.as_str()), ("x-forwarded-user", "admin"), ("mesh-asker", "network")];
            let headers = if authorization.is_empty() { &headers[1..] } else { &headers[..] };
            let (status, answer) = http::send(method, &url, headers, doors::echo("x").to_string()).await;
            must!(status == 401, "{method} {path} with {authorization:?}: {status} {answer}");
            tried += 1;
        }
    }
    Ok(format!("{tried} requests to {} routes: 401 each", ROUTES.len()))
}

async fn anothers(stage: &Stage) -> Outcome {
    let (_, answer) = doors::post(&stage.stack, &doors::echo("private").to_string(), Some("attack-theirs")).await;
    let id = answer["id"].as_str().ok_or("no job")?.to_owned();
    doors::result_of(&stage.stack, &id).await;
    let authorization = format!("Bearer {}", stage.stack.token());
    let (_, blob) = http::send("POST", &stage.stack.api("/api/v1/blobs"), &[("authorization", &authorization)], "private blob").await;
    let cid = blob["cid"].as_str().ok_or("no blob")?.to_owned();
    let mine = format!("Bearer {}", stage.rogue.token);
    let victim = stage.victim();
    let mut refused = vec![];
    for (method, path, body) in [
        ("GET", format!("/jobs/{id}"), json!({})),
        ("GET", format!("/jobs/{id}/result"), json!({})),
        ("GET", format!("/jobs/{id}/explain"), json!({})),
        ("GET", format!("/jobs/{id}/receipt"), json!({})),
        ("POST", format!("/jobs/{id}/cancel"), json!({})),
        ("POST", format!("/jobs/{id}/retry"), json!({})),
        ("GET", format!("/blobs/{cid}"), json!({})),
        ("POST", format!("/devices/{victim}/drain"), json!({"undo": false, "reason": "evil"})),
        ("POST", "/ledger/commands".into(), json!({"v": 1})),
        ("POST", "/operator/orders".into(), json!({"v": 1})),
    ] {
        let (status, answer) =
            http::send(method, &stage.stack.api(&format!("/api/v1{path}")), &[("authorization", &mine)], body.to_string()).await;
        must!((400..500).contains(&status), "{method} {path}: {status} {answer}");
        must!(!answer.to_string().contains("private"), "{method} {path} tells {answer}");
        refused.push(status);
    }
    let (_, list) = http::send("GET", &stage.stack.api("/api/v1/jobs?limit=200"), &[("authorization", &mine)], "").await;
    must!(!list.to_string().contains("private"), "the rogue sees jobs: {list}");
    must!(!list.to_string().contains(&id), "the rogue sees {id}: {list}");
    let (_, devices) = doors::get(&stage.stack, "/devices").await;
    let draining = devices["devices"].as_array().is_some_and(|all| all.iter().any(|one| !one["draining"].is_null()));
    must!(!draining, "a device was drained");
    Ok(format!("{} requests: {refused:?}", refused.len()))
}

/// Sends bytes as they stand; everything that comes back until the server closes or says nothing for this long.
async fn raw(stage: &Stage, bytes: &[u8], quiet: Duration) -> String {
    let Ok(mut stream) = TcpStream::connect(address(stage)).await else { return "no connection".into() };
    let _ = stream.write_all(bytes).await;
    let (mut read, mut chunk) = (vec![], [0_u8; 8192]);
    while let Ok(Ok(count)) = tokio::time::timeout(quiet, stream.read(&mut chunk)).await {
        if count == 0 {
            break;
        }
        read.extend_from_slice(&chunk[..count]);
    }
    String::from_utf8_lossy(&read).into_owned()
}
fn address(stage: &Stage) -> String {
    stage.stack.api("").trim_start_matches("http://").trim_end_matches('/').to_owned()
}
/// The status of each answer in what came back.
fn statuses(text: &str) -> Vec<u16> {
    text.match_indices("HTTP/1.1 ").filter_map(|(at, _)| text.get(at + 9..at + 12)?.parse().ok()).collect()
}

async fn paths(stage: &Stage) -> Outcome {
    let token = &stage.rogue.token;
    let mut tried = 0;
    for path in [
        "/api/v1/../../etc/passwd".to_owned(),
        "/api/v1/jobs/..%2f..%2fetc%2fpasswd".into(),
        "/api/v1/jobs/%2e%2e/%2e%2e/network".into(),
        "//api//v1//jobs".into(),
        "/api/v1/jobs/".into(),
        "/api/v1/jobs/%00".into(),
        "/api/v1/jobs/%ff%fe".into(),
        "/api/v1/jobs/job_aaaa%0d%0aSet-Cookie:%20x=1".into(),
        "/api/v1/blobs/*".into(),
        "/api/v1/blobs/mesh.v1.ledger.facts".into(),
        "/api/v1/devices/dev_*".into(),
        "/api/v1/devices/%3e".into(),
        "/api/v1/jobs/'%20or%201=1--".into(),
        "/api/v1/jobs?limit=999999999999999999999".into(),
        "/api/v1/jobs?cursor=%27%3bdrop%20table%20job%3b--".into(),
        format!("/api/v1/jobs/{}", "a".repeat(60_000)),
        format!("/api/v1/jobs?{}", "a=b&".repeat(15_000)),
        "http://169.254.169.254/latest".into(),
        "*".into(),
    ] {
        let text = raw(
            stage,
            format!("GET {path} HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {token}\r\nConnection: close\r\n\r\n").as_bytes(),
            Duration::from_secs(5),
        )
        .await;
        let status = statuses(&text);
        must!(status.first().is_some_and(|status| (400..500).contains(status)), "{:.80}: {status:?} {:.200}", path, text);
        let head = text.split("\r\n\r\n").next().unwrap_or_default().to_lowercase();
        must!(!head.contains("set-cookie") && !text.contains("root:"), "{path:.80}: {text:.300}");
        tried += 1;
    }
    Ok(format!("{tried} paths: an answer of 4xx each"))
}

async fn bodies(stage: &Stage) -> Outcome {
    let authorization = format!("Authorization: Bearer {}", stage.rogue.token);
    let head = |more: &str| format!("POST /api/v1/jobs HTTP/1.1\r\nHost: x\r\n{authorization}\r\n{more}\r\n\r\n");
    // 12 MiB in chunks: told that it is too much, and cut off where it goes on.
    let mut endless = head("Transfer-Encoding: chunked").into_bytes();
    for _ in 0..192 {
        endless.extend_from_slice(b"10000\r\n");
        endless.extend(std::iter::repeat_n(b'x', 65_536));
        endless.extend_from_slice(b"\r\n");
    }
    let text = raw(stage, &endless, Duration::from_secs(5)).await;
    must!(statuses(&text).first().is_none_or(|status| *status == 413), "an endless body: {text:.200}");
    for (name, more, body, expected) in [
        ("a length that is none", "Content-Length: ten", "", 400),
        ("a length below zero", "Content-Length: -1", "", 400),
        ("a length of 20 digits", "Content-Length: 99999999999999999999", "", 400),
        ("a chunk that is none", "Transfer-Encoding: chunked", "zz\r\n", 400),
        ("a chunk of 2^64", "Transfer-Encoding: chunked", "ffffffffffffffffff\r\n", 400),
        ("another coding", "Transfer-Encoding: gzip", "", 400),
        ("two lengths", "Content-Length: 5\r\nContent-Length: 6", "hello!", 400),
    ] {
        let text = raw(stage, format!("{}{body}", head(more)).as_bytes(), Duration::from_secs(5)).await;
        must!(statuses(&text) == [expected], "{name}: {text:.200}");
    }
    Ok("12 MiB in chunks: 413; seven false lengths and codings: 400".into())
}

async fn browsers(stage: &Stage) -> Outcome {
    let token = format!("Bearer {}", stage.stack.token());
    for (method, path) in [("OPTIONS", "/api/v1/jobs"), ("GET", "/api/v1/network"), ("POST", "/api/v1/jobs")] {
        let request = format!(
            "{method} {path} HTTP/1.1\r\nHost: x\r\nOrigin: https://evil.example\r\nAccess-Control-Request-Method: POST\r\nAccess-Control-Request-Headers: authorization\r\nAuthorization: {token}\r\nContent-Length: 2\r\nConnection: close\r\n\r\n{{}}"
        );
        let text = raw(stage, request.as_bytes(), Duration::from_secs(5)).await.to_lowercase();
        must!(!text.contains("access-control-allow") && !text.contains("set-cookie"), "{method} {path}: {text:.300}");
    }
    // What a form of another page can send: no token goes with it, for no cookie proves anybody.
    for kind in ["text/plain", "application/x-www-form-urlencoded", "multipart/form-data; boundary=x"] {
        let headers = [("content-type", kind), ("origin", "https://evil.example"), ("cookie", "session=x; token=x")];
        let (status, answer) = http::send("POST", &stage.stack.api("/api/v1/jobs"), &headers, doors::echo("x").to_string()).await;
        must!(status == 401, "{kind}: {status} {answer}");
    }
    Ok("no answer lets another origin read it, no cookie is set or believed: 401".into())
}

async fn smuggling(stage: &Stage) -> Outcome {
    let token = &stage.rogue.token;
    let inner = format!("GET /api/v1/balance HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {token}\r\n\r\n");
    let mut seen = vec![];
    for (name, more) in [
        // A bare end of line is one to the parser, as RFC 9112 allows: chunked, refused, and then the second request is one.
        ("length and chunks", format!("Content-Length: {}\r\nTransfer-Encoding: chunked", 5 + inner.len())),
        ("chunks spelt oddly", "Transfer-Encoding: xchunked".to_owned()),
        ("chunks twice", "Transfer-Encoding: chunked\r\nTransfer-Encoding: identity".to_owned()),
        ("a blank before the colon", "Transfer-Encoding : chunked".to_owned()),
        ("a folded header", "X: a\r\n Transfer-Encoding: chunked".to_owned()),
        ("a header with a bare end of line", "X: a\nTransfer-Encoding: chunked".to_owned()),
        ("a header with a NUL", "X: a\0b".to_owned()),
        ("a header without a name", ": x".to_owned()),
        ("300 headers", (0..300).map(|n| format!("X-{n}: y")).collect::<Vec<_>>().join("\r\n")),
    ] {
        let request = format!("POST /api/v1/jobs HTTP/1.1\r\nHost: x\r\n{more}\r\n\r\n0\r\n\r\n{inner}");
        let text = raw(stage, request.as_bytes(), Duration::from_millis(300)).await;
        let statuses = statuses(&text);
        // No proxy stands before us that could read it otherwise; but an ambiguous head must not open a second request.
        must!(statuses.first().is_none_or(|status| (400..500).contains(status)), "{name}: {text:.300}");
        seen.push(format!("{name} {statuses:?}"));
    }
    Ok(seen.join(", "))
}

async fn slow(stage: &Stage) -> std::io::Result<Slow> {
    let mut slow = Slow { begun: Instant::now(), heads: vec![], bodies: vec![] };
    for n in 0..220 {
        let mut stream = TcpStream::connect(address(stage)).await?;
        if n < 200 {
            stream.write_all(b"POST /api/v1/jobs HTTP/1.1\r\nHost: x\r\nX-A: ").await?;
            slow.heads.push(stream);
        } else {
            let token = &stage.rogue.token;
            let head = format!("POST /api/v1/jobs HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {token}\r\nContent-Length: 100\r\n\r\n{{");
            stream.write_all(head.as_bytes()).await?;
            slow.bodies.push(stream);
        }
    }
    Ok(slow)
}

/// Those that were begun before everything else of this group.
pub async fn slow_ones_are_gone(stage: &mut Stage, slow: Slow) {
    let closed = |mut stream: TcpStream| async move {
        let mut chunk = [0_u8; 1024];
        let gone = async { while stream.read(&mut chunk).await.is_ok_and(|count| count > 0) {} };
        tokio::time::timeout(HEAD_WITHIN.saturating_sub(slow.begun.elapsed()).max(LOOK), gone).await.is_ok()
    };
    let ended = futures::future::join_all(slow.heads.into_iter().map(closed)).await;
    let open = ended.iter().filter(|closed| !**closed).count();
    let waited = slow.begun.elapsed().as_secs() + 1;
    let done = if open == 0 {
        Ok(format!("the gateway answered others meanwhile and cut off all 200 heads; {} bodies have 30 s", slow.bodies.len()))
    } else {
        Err(format!("{open} of 200 connections whose head never ends are still open after {waited} s"))
    };
    stage.row(GROUP, "200 requests whose head never ends, 20 whose body never does", done).await;
}
