//! Dead letters over HTTP, and what the operator orders.

use axum::Json;
use axum::body::Body;
use axum::extract::State;
use axum::http::{HeaderMap, Uri};
use bus_schemas::api::ask::{Drain, LetterLs};
use bus_schemas::api::letters::{LetterList, LetterView};
use bus_schemas::api::{DeviceInfo, ErrorBody};
use bus_schemas::id::Asker;
use bus_schemas::{Code, Form, Problem, limits, strict};
use serde_json::Value;

use super::Shared;
use super::problem::{Id, Parameters, Refusal, whole};
use super::who::bearer;
use crate::drain;
use crate::letters::Reader;

type Said<T> = Result<Json<T>, Refusal>;

const LIST: Parameters = Parameters {
    known: &[("limit", "a number from 1 to 200"), ("cursor", "the cursor of the page before")],
    example: "GET /api/v1/dlq?limit=20",
};

pub(super) async fn reader(world: &Shared, headers: &HeaderMap) -> Result<Reader, Problem> {
    let member = bearer(world, headers).await?;
    Ok(Reader::Member(Asker::Member(member), member))
}

pub async fn list(State(world): State<Shared>, headers: HeaderMap, uri: Uri) -> Said<LetterList> {
    let reader = reader(&world, &headers).await?;
    let asked: LetterLs = LIST.read(&uri)?;
    Ok(Json(world.dlq_ls(reader, &asked).await.map_err(|problem| LIST.refuse(problem))?))
}

pub async fn show(State(world): State<Shared>, headers: HeaderMap, Id(id): Id) -> Said<LetterView> {
    let reader = reader(&world, &headers).await?;
    Ok(Json(world.dlq_show(reader, &id).await.map_err(|problem| Refusal::about(&problem, &id))?))
}

pub async fn retry(State(world): State<Shared>, headers: HeaderMap, Id(id): Id) -> Said<LetterView> {
    let reader = reader(&world, &headers).await?;
    Ok(Json(world.dlq_retry(reader, &id).await.map_err(|no| Refusal(no.body(&id)))?))
}

/// Refused: a token proves a member, and only the operator drops letters, by an order.
pub async fn put_away(State(world): State<Shared>, headers: HeaderMap, Id(id): Id) -> Said<LetterView> {
    let reader = reader(&world, &headers).await?;
    Ok(Json(world.dlq_drop(reader, &id).await.map_err(|problem| Refusal::about(&problem, &id))?))
}

const DRAIN: &str = r#"POST /api/v1/devices/ID/drain {"undo":false,"reason":"…"}"#;

/// What the body says of it; the path says which device.
#[derive(serde::Deserialize, Default)]
#[serde(deny_unknown_fields)]
struct DrainBody {
    #[serde(default)]
    undo: bool,
    #[serde(default)]
    reason: Option<String>,
}

pub async fn drain(State(world): State<Shared>, headers: HeaderMap, Id(id): Id, body: Body) -> Said<DeviceInfo> {
    let reader = reader(&world, &headers).await;
    let body = whole(body, limits::BODY_BYTES_MAX).await;
    let (reader, body) = (reader?, body?);
    let asked = if body.is_empty() { Ok(DrainBody::default()) } else { strict::decode(Form::Json, &body, limits::BODY_BYTES_MAX) };
    // What is wrong with the body is there, whoever found it; the catalogue's line is about job files.
    let about_the_body = |problem: Problem| Refusal(ErrorBody { next: vec![DRAIN.replace("ID", &id)], ..problem.body() });
    let DrainBody { undo, reason } = asked.map_err(about_the_body)?;
    let drained = world.drain(reader, &Drain { id: id.clone(), undo, reason }).await;
    Ok(Json(drained.map_err(|problem| match problem.code == Code::BadValue {
        true => about_the_body(problem),
        false => Refusal(drain::told(&problem)),
    })?))
}

/// The network key's signature inside says who orders; no token is asked for.
pub async fn order(State(world): State<Shared>, body: Body) -> Said<Value> {
    let body = whole(body, limits::BODY_BYTES_MAX).await?;
    Ok(Json(world.order(&body).await?))
}
