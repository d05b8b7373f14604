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
pub struct Health(Arc<Mutex<BTreeMap<&'static str, Result<(), String>>>>);

impl Health {
    pub fn set(&self, what: &'static str, state: Result<(), String>) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).insert(what, state);
    }
    /// What is not fine, by name; empty = ready.
    pub fn not_ready(&self) -> BTreeMap<&'static str, String> {
        let all = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        all.iter().filter_map(|(what, state)| state.as_ref().err().map(|why| (*what, why.clone()))).collect()
    }
}

/// `/healthz`, `/readyz`, `/metrics`.
pub fn routes(health: Health, metrics: PrometheusHandle) -> Router {
    Router::new()
        .route("/healthz", get(|| async { "ok\n" }))
        .route(
            "/readyz",
            get(move || async move {
                let missing = health.not_ready();
                let status = if missing.is_empty() { StatusCode::OK } else { StatusCode::SERVICE_UNAVAILABLE };
                (status, Json(json!({"ready": missing.is_empty(), "waiting_for": missing}))).into_response()
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
