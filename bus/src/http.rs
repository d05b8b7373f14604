//! Serves HTTP connections, and lets nobody keep one by never saying what he wants.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use hyper::server::conn::http1;
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::service::TowerToHyperService;
use rustls::ServerConfig;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpListener, TcpStream};
use tokio_rustls::TlsAcceptor;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

/// The head of a request comes within it, and the next request on a connection begins within it: a connection costs a file
/// descriptor and memory before anybody has said who he is. The same goes for getting to TLS.
const HEAD_WITHIN: Duration = Duration::from_secs(10);
/// After a failed accept, mostly for want of descriptors, which others give back.
const TRY_AGAIN: Duration = Duration::from_millis(200);

/// Serves until `stop`, encrypted where `tls` says how, and then what was begun to its end.
pub async fn serve(listener: TcpListener, tls: Option<ServerConfig>, routes: Router, stop: CancellationToken) {
    let tls = tls.map(|config| TlsAcceptor::from(Arc::new(config)));
    let tasks = TaskTracker::new();
    loop {
        let accepted = tokio::select! {
            () = stop.cancelled() => break,
            accepted = listener.accept() => accepted,
        };
        match accepted {
            Ok((stream, peer)) => {
                tasks.spawn(accepted_from(peer, stream, tls.clone(), routes.clone(), stop.clone()));
            }
            Err(error) => {
                tracing::warn!(%error, "a connection could not be taken");
                tokio::time::sleep(TRY_AGAIN).await;
            }
        }
    }
    drop(listener);
    tasks.close();
    tasks.wait().await;
}

async fn accepted_from(peer: SocketAddr, stream: TcpStream, tls: Option<TlsAcceptor>, routes: Router, stop: CancellationToken) {
    let Some(tls) = tls else { return connection(stream, routes, stop).await };
    // Nobody waits for an answer yet.
    let shaken = tokio::select! {
        () = stop.cancelled() => return,
        shaken = tokio::time::timeout(HEAD_WITHIN, crate::tls::handshake(stream, &tls)) => shaken,
    };
    match shaken {
        Ok(Ok(stream)) => connection(stream, routes, stop).await,
        Ok(Err(error)) => tracing::debug!(%peer, %error, "a connection did not get to TLS"),
        Err(_) => tracing::debug!(%peer, "a connection did not get to TLS in time"),
    }
}

async fn connection(stream: impl AsyncRead + AsyncWrite + Unpin + Send + 'static, routes: Router, stop: CancellationToken) {
    let mut http = http1::Builder::new();
    http.timer(TokioTimer::new()).header_read_timeout(HEAD_WITHIN);
    // What is passed on to the hub is no HTTP any more.
    let serving = http.serve_connection(TokioIo::new(stream), TowerToHyperService::new(routes)).with_upgrades();
    let mut serving = std::pin::pin!(serving);
    let served = tokio::select! {
        served = serving.as_mut() => served,
        () = stop.cancelled() => {
            serving.as_mut().graceful_shutdown();
            serving.await
        }
    };
    if let Err(error) = served {
        tracing::trace!(%error, "a connection ended");
    }
}
