//! The HTTP door, `/api/v1`. A bearer token or a signed body proves who asks; every answer that is no success is an
//! [`bus_schemas::api::ErrorBody`] (RFC 9457), whatever went wrong.

mod blobs;
mod jobs;
mod joining;
mod ledger;
mod letters;
mod people;
pub mod problem;
mod who;

use std::sync::Arc;
use std::time::{Duration, Instant};

use axum::Router;
use axum::extract::{DefaultBodyLimit, MatchedPath, Request, State};
use axum::http::{HeaderName, HeaderValue, Method, header};
use axum::middleware::{self, Next};
use axum::response::{IntoResponse, Response};
use axum::routing::{delete, get, post};
use bus_schemas::id::Asker;
use bus_schemas::{Code, Problem};
use hyper::body::Body as _;
use tower_http::catch_panic::CatchPanicLayer;

use crate::turns::Class;
use crate::world::World;
use problem::Refusal;

/// No question takes longer, but for a large blob on a slow line.
const ANSWER_WITHIN: Duration = Duration::from_secs(30);
const BLOB_WITHIN: Duration = Duration::from_secs(300);

/// What one request hands from layer to handler.
pub type Shared = Arc<World>;

/// All routes of the API; what a program needs of its own (`/metrics`, …) is merged beside them.
pub fn api(world: Shared) -> Router {
    let quick = Router::new()
        .route("/jobs", post(jobs::submit).get(jobs::list))
        .route("/jobs/{id}", get(jobs::show))
        .route("/jobs/{id}/result", get(jobs::result))
        .route("/jobs/{id}/explain", get(jobs::explain))
        .route("/jobs/{id}/receipt", get(jobs::receipt))
        .route("/jobs/{id}/cancel", post(jobs::cancel))
        .route("/jobs/{id}/retry", post(jobs::retry))
        .route("/dlq", get(letters::list))
        .route("/dlq/{id}", get(letters::show).delete(letters::put_away))
        .route("/dlq/{id}/retry", post(letters::retry))
        .route("/operator/orders", post(letters::order))
        .route("/devices", get(people::devices))
        .route("/devices/{id}", get(people::device))
        .route("/devices/{id}/drain", post(letters::drain))
        .route("/balance", get(people::balance))
        .route("/credit/balance", get(people::balance))
        .route("/credit/history", get(people::credits))
        .route("/credit/transfer", post(ledger::transfer))
        .route("/ledger/facts", get(ledger::facts))
        .route("/ledger/balances", get(ledger::balances))
        .route("/ledger/checkpoints", get(ledger::checkpoints))
        .route("/ledger/proof/{id}", get(ledger::proof))
        .route("/ledger/consistency", get(ledger::consistency))
        .route("/ledger/commands", post(ledger::order))
        .route("/network/policy", get(ledger::policy))
        .route("/network", get(people::network))
        .route("/invites", post(joining::invite).get(joining::invites))
        .route("/invites/{id}", delete(joining::revoke))
        .route("/waiting", get(joining::waiting))
        .route("/waiting/{id}", post(joining::decide))
        .route("/enrol", post(people::enrol))
        .route("/enrol/renew", post(people::renew))
        .layer(middleware::from_fn(|request: Request, next: Next| within(ANSWER_WITHIN, request, next)));
    let large = Router::new()
        .route("/blobs", post(blobs::put))
        .route("/blobs/{cid}", get(blobs::get))
        .layer(middleware::from_fn(|request: Request, next: Next| within(BLOB_WITHIN, request, next)));
    let quick = quick.layer(middleware::from_fn_with_state(world.clone(), in_turn));
    let large = large.layer(middleware::from_fn_with_state(world.clone(), in_turn_with_bytes));
    let timed = middleware::from_fn_with_state(world.clone(), timed);
    Router::new().nest("/api/v1", quick.merge(large).layer(timed)).with_state(world)
}

/// Says what time it is on the hub: whoever signs something needs it, and the own clock may be wrong.
async fn timed(State(world): State<Shared>, request: Request, next: Next) -> Response {
    let mut response = next.run(request).await;
    response.headers_mut().insert(HeaderName::from_static("mesh-time"), HeaderValue::from(world.now()));
    response
}

/// Answers when it is the turn of whose token came along. Who has shown no good one yet stands in no line: its token is looked at first.
async fn in_turn(State(world): State<Shared>, request: Request, next: Next) -> Response {
    let submits = request.method() == Method::POST && request.uri().path().ends_with("/jobs");
    waited(&world, if submits { Class::Submission } else { Class::Question }, request, next).await
}
async fn in_turn_with_bytes(State(world): State<Shared>, request: Request, next: Next) -> Response {
    waited(&world, Class::Blob, request, next).await
}
async fn waited(world: &World, class: Class, request: Request, next: Next) -> Response {
    let given = request.headers().get(header::AUTHORIZATION).and_then(|given| given.to_str().ok());
    let Some(member) = given.and_then(|given| world.turns.hinted(given)) else { return next.run(request).await };
    let coming = request.body().size_hint().exact().and_then(|bytes| usize::try_from(bytes).ok()).unwrap_or_default();
    match world.turns.enter(class, Asker::Member(member), 0).await {
        Ok(mut turn) => {
            let response = next.run(request).await;
            let going = response.body().size_hint().exact().and_then(|bytes| usize::try_from(bytes).ok()).unwrap_or_default();
            turn.moved(coming + going);
            response
        }
        Err(problem) => Refusal::from(problem).into_response(),
    }
}

/// What holds for every route: counted, nothing unknown without an answer, no panic that ends a connection.
pub fn dressed(routes: Router) -> Router {
    let here = || async { Refusal::from(Problem::new(Code::NotFound, "no such path here")) };
    let method = || async {
        Refusal::from(Problem::new(Code::WrongMethod, "GET reads, POST changes, DELETE puts away; each path knows some of them"))
    };
    routes
        .fallback(here)
        .method_not_allowed_fallback(method)
        // Bodies are read by our own hands, so that what is too large gets an answer.
        .layer(DefaultBodyLimit::disable())
        .layer(CatchPanicLayer::custom(|_: Box<dyn std::any::Any + Send>| {
            tracing::error!("a request ended in a panic");
            Refusal::from(Problem::new(Code::Internal, "the request could not be answered")).into_response()
        }))
        .layer(middleware::from_fn(count))
}

async fn within(time: Duration, request: Request, next: Next) -> Response {
    match tokio::time::timeout(time, next.run(request)).await {
        Ok(response) => response,
        Err(_) => Refusal::from(Problem::new(Code::Unavailable, format!("no answer within {} s", time.as_secs()))).into_response(),
    }
}

async fn count(request: Request, next: Next) -> Response {
    let begun = Instant::now();
    let method = request.method().as_str().to_owned();
    // The pattern, never the path: ids are no labels.
    let route = request.extensions().get::<MatchedPath>().map_or_else(|| "none".to_owned(), |path| path.as_str().to_owned());
    let response = next.run(request).await;
    let status = response.status().as_str().to_owned();
    metrics::counter!("mesh_http_requests_total", "method" => method, "route" => route.clone(), "status" => status).increment(1);
    metrics::histogram!("mesh_http_request_seconds", "route" => route).record(begun.elapsed());
    response
}
