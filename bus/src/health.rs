//! Whether a program is ready, and what it waits for; served with its metrics where an address is given.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, PoisonError};

use anyhow::Context;
use axum::http::StatusCode;
use axum::response::IntoResponse;
use axum::routing::get;
use axum::{Json, Router};
use metrics_exporter_prometheus::PrometheusHandle;
use serde_json::json;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

/// The things a program needs, each fine or with a sentence that says why not. Cheap to clone.
#[derive(Clone, Default)]
pub struct Health(Arc<Mutex<All>>);
#[derive(Default)]
struct All {
    needs: BTreeMap<&'static str, Result<(), String>>,
    told: BTreeMap<&'static str, Result<String, String>>,
}

impl Health {
    pub fn set(&self, what: &'static str, state: Result<(), String>) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).needs.insert(what, state);
    }
    /// Tells of something that it can work without: how it stands, or what is wrong with it. It decides nothing.
    pub fn tell(&self, what: &'static str, found: Result<String, String>) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).told.insert(what, found);
    }
    /// What is not fine, by name; empty = ready.
    pub fn not_ready(&self) -> BTreeMap<&'static str, String> {
        let all = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        all.needs.iter().filter_map(|(what, state)| state.as_ref().err().map(|why| (*what, why.clone()))).collect()
    }
    /// What `/readyz` answers: `{"ready":true,"waiting_for":{}}`, and what it was told beside: `"details":{"hub":{"ok":true,"said":"…"}}`.
    fn body(&self) -> serde_json::Value {
        let missing = self.not_ready();
        let mut body = json!({"ready": missing.is_empty(), "waiting_for": missing});
        let all = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let detail = |found: &Result<String, String>| match found {
            Ok(said) => json!({"ok": true, "said": said}),
            Err(why) => json!({"ok": false, "said": why}),
        };
        let details: BTreeMap<_, _> = all.told.iter().map(|(what, found)| (*what, detail(found))).collect();
        if !details.is_empty() {
            body["details"] = json!(details);
        }
        body
    }
}

/// `/healthz`, `/readyz`, `/metrics`.
pub fn routes(health: Health, metrics: PrometheusHandle) -> Router {
    Router::new()
        .route("/healthz", get(|| async { "ok\n" }))
        .route(
            "/readyz",
            get(move || async move {
                let body = health.body();
                let status = if body["ready"] == true { StatusCode::OK } else { StatusCode::SERVICE_UNAVAILABLE };
                (status, Json(body)).into_response()
            }),
        )
        .route(
            "/metrics",
            get(move || async move {
                metrics.run_upkeep();
                ([("content-type", "text/plain; version=0.0.4")], metrics.render())
            }),
        )
}

/// Serves the routes until `stop`; returns the address that was bound (port 0 picks a free one).
///
/// # Errors
/// Where the address is taken or not ours.
pub async fn serve(address: SocketAddr, routes: Router, stop: CancellationToken) -> anyhow::Result<SocketAddr> {
    Ok(serving(address, routes, stop).await?.0)
}

/// The same, with what ends once `stop` is there and every request in flight was answered.
///
/// # Errors
/// As [`serve`].
pub async fn serving(address: SocketAddr, routes: Router, stop: CancellationToken) -> anyhow::Result<(SocketAddr, JoinHandle<()>)> {
    serving_with(address, None, routes, stop).await
}

/// The same, encrypted where there is a certificate.
///
/// # Errors
/// As [`serve`].
pub async fn serving_with(
    address: SocketAddr,
    tls: Option<rustls::ServerConfig>,
    routes: Router,
    stop: CancellationToken,
) -> anyhow::Result<(SocketAddr, JoinHandle<()>)> {
    let listener =
        tokio::net::TcpListener::bind(address).await.with_context(|| format!("error[M0204]: cannot listen on {address} (flag --http)"))?;
    let bound = listener.local_addr()?;
    let serving = tokio::spawn(crate::http::serve(listener, tls, routes, stop));
    Ok((bound, serving))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_told_beside_decides_nothing() {
        let health = Health::default();
        assert_eq!(health.body(), json!({"ready": true, "waiting_for": {}}));
        health.tell("hub", Err("no answer in time".into()));
        health.tell("link", Ok("up".into()));
        let details = json!({"hub": {"ok": false, "said": "no answer in time"}, "link": {"ok": true, "said": "up"}});
        assert_eq!(health.body(), json!({"ready": true, "waiting_for": {}, "details": details}));
        health.set("store", Err("no room".into()));
        assert_eq!(health.body(), json!({"ready": false, "waiting_for": {"store": "no room"}, "details": details}));
    }
}
