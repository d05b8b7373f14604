//! Every door: HTTP, the NATS service, the submit subject on the hub, a device's local server, and the CLI.

use std::time::Duration;

use bus::Bus;
use bus::async_nats::HeaderMap;
use futures::StreamExt;
use serde_json::{Value, json};
use testkit::{HUNG, Stack, http, until};

/// Submits over HTTP with the member's token and waits for the result.
pub async fn http(stack: &Stack, job: &Value, key: &str) -> Value {
    let (status, answer) = post(stack, &job.to_string(), Some(key)).await;
    assert_eq!(status, 202, "{answer}");
    result_of(stack, answer["id"].as_str().expect("an id")).await
}

/// `POST /api/v1/jobs` with the member's token.
pub async fn post(stack: &Stack, body: &str, key: Option<&str>) -> (u16, Value) {
    let authorization = format!("Bearer {}", stack.token());
    let mut headers = vec![("authorization", authorization.as_str()), ("content-type", "application/json")];
    headers.extend(key.map(|key| ("idempotency-key", key)));
    http::send("POST", &stack.api("/api/v1/jobs"), &headers, body.to_owned()).await
}

/// `GET` below `/api/v1` with the member's token.
pub async fn get(stack: &Stack, path: &str) -> (u16, Value) {
    let authorization = format!("Bearer {}", stack.token());
    http::send("GET", &stack.api(&format!("/api/v1{path}")), &[("authorization", &authorization)], "").await
}

/// Waits for a job's end and gives its result view.
pub async fn result_of(stack: &Stack, id: &str) -> Value {
    let end = until(&format!("the end of {id}"), || async {
        let (_, job) = get(stack, &format!("/jobs/{id}")).await;
        matches!(job["state"].as_str(), Some("Completed" | "Failed" | "Cancelled" | "Rejected")).then_some(job)
    })
    .await;
    assert_eq!(end["state"], "Completed", "{end}");
    let (status, result) = get(stack, &format!("/jobs/{id}/result")).await;
    assert_eq!(status, 200, "{result}");
    result
}

/// `nats req` on the service, with the member's credentials.
pub async fn service(stack: &Stack, bus: &Bus, call: &str, payload: impl Into<bytes::Bytes>, key: Option<&str>) -> Value {
    let mut headers = HeaderMap::new();
    headers.extend_key(key);
    let subject = format!("mesh.v1.api.{}.{call}", stack.text("/member/id"));
    let request = bus::async_nats::client::Request::new().payload(payload.into()).headers(headers).timeout(Some(HUNG));
    let answer = bus.client.send_request(subject.clone(), request).await.unwrap_or_else(|error| panic!("{subject}: {error}"));
    serde_json::from_slice(&answer.payload).unwrap_or_else(|error| panic!("{subject} answered no JSON ({error})"))
}

trait ExtendKey {
    fn extend_key(&mut self, key: Option<&str>);
}
impl ExtendKey for HeaderMap {
    fn extend_key(&mut self, key: Option<&str>) {
        if let Some(key) = key {
            self.insert("Mesh-Job-Key", key);
        }
    }
}

/// Publishes to the submit subject with the member's credentials; the result as it is told live to the member.
pub async fn publish(stack: &Stack, bus: &Bus, payload: &str, key: &str) -> Value {
    let member = stack.text("/member/id");
    let mut live = bus.client.subscribe(format!("mesh.v1.watch.{member}.*.result")).await.expect("a subscription");
    bus.client.flush().await.expect("a flush");
    store(stack, bus, payload.to_owned(), Some(key)).await;
    let told = async {
        while let Some(message) = live.next().await {
            let mine = message.headers.as_ref().and_then(|headers| headers.get("Mesh-Job-Key")).is_some_and(|have| have.as_str() == key);
            if mine {
                return serde_json::from_slice(&message.payload).expect("JSON");
            }
        }
        Value::Null
    };
    tokio::time::timeout(HUNG, told).await.unwrap_or_else(|_| panic!("hung: no result for {key} was told"))
}

/// Publishes to the submit subject and waits for the PubAck, as `nats pub -J` does.
pub async fn store(stack: &Stack, bus: &Bus, payload: impl Into<bytes::Bytes>, key: Option<&str>) -> u64 {
    let mut headers = HeaderMap::new();
    headers.extend_key(key);
    let subject = format!("mesh.v1.submit.{}", stack.text("/member/id"));
    bus.store(subject, Some(headers), payload.into(), Duration::from_secs(20)).await.expect("stored").seq
}

/// Publishes on a device's local server, as any program on that machine, and waits for `result.<key>` there.
pub async fn local(local: &Bus, payload: &str, key: &str) -> Value {
    let mut live = local.client.subscribe(format!("result.{key}")).await.expect("a subscription");
    local.client.flush().await.expect("a flush");
    let mut headers = HeaderMap::new();
    headers.extend_key(Some(key));
    let stored = local.store("submit".into(), Some(headers), payload.to_owned().into(), Duration::from_secs(20)).await.expect("stored");
    assert_eq!(stored.stream, "OUTBOX");
    let message = tokio::time::timeout(HUNG, live.next()).await.unwrap_or_else(|_| panic!("hung: no result.{key}")).expect("a message");
    serde_json::from_slice(&message.payload).expect("JSON")
}

/// The vectors of an embed result, fetched by content id where they are large.
pub async fn vectors(stack: &Stack, view: &Value) -> Vec<Vec<f64>> {
    let mut result = view["result"].clone();
    if let Some(cid) = result["cid"].as_str() {
        let (status, blob) = get(stack, &format!("/blobs/{cid}")).await;
        assert_eq!(status, 200);
        result = blob;
    }
    serde_json::from_value(result["vectors"].clone()).unwrap_or_else(|error| panic!("no vectors ({error}) in {view}"))
}

/// Cosine of two vectors.
pub fn cosine(a: &[f64], b: &[f64]) -> f64 {
    let dot = |x: &[f64], y: &[f64]| x.iter().zip(y).map(|(x, y)| x * y).sum::<f64>();
    assert_eq!(a.len(), b.len());
    dot(a, b) / (dot(a, a).sqrt() * dot(b, b).sqrt())
}

/// An echo job.
pub fn echo(text: &str) -> Value {
    json!({"kind": "echo", "text": text})
}
