//! A small HTTP client for tests: one request, the status and the JSON of the answer.

use bytes::Bytes;
use http_body_util::{BodyExt, Full};
use hyper::Request;
use hyper_util::client::legacy::Client;
use hyper_util::rt::TokioExecutor;
use serde_json::Value;

/// Sends one request. The answer's body is JSON, or `Null` where it is none.
///
/// # Panics
/// Where the server does not answer at all.
pub async fn send(method: &str, url: &str, headers: &[(&str, &str)], body: impl Into<Bytes>) -> (u16, Value) {
    let (status, body) = send_raw(method, url, headers, body).await;
    (status, serde_json::from_slice(&body).unwrap_or(Value::Null))
}

/// As [`send`], with the answer's bytes as they are.
///
/// # Panics
/// Where the server does not answer at all.
pub async fn send_raw(method: &str, url: &str, headers: &[(&str, &str)], body: impl Into<Bytes>) -> (u16, Bytes) {
    try_send(method, url, headers, body).await.unwrap_or_else(|error| panic!("{url}: {error}"))
}

/// As [`send_raw`], for a server that may be away.
///
/// # Errors
/// Where it does not answer.
pub async fn try_send(method: &str, url: &str, headers: &[(&str, &str)], body: impl Into<Bytes>) -> anyhow::Result<(u16, Bytes)> {
    let client = Client::builder(TokioExecutor::new()).build_http::<Full<Bytes>>();
    let request = headers.iter().fold(Request::builder().method(method).uri(url), |request, (name, value)| request.header(*name, *value));
    let answer = client.request(request.body(Full::new(body.into()))?).await?;
    let status = answer.status().as_u16();
    Ok((status, answer.into_body().collect().await?.to_bytes()))
}
