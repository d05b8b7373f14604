//! Invites over HTTP, and who waits for approval.

use axum::Json;
use axum::body::Body;
use axum::extract::State;
use axum::http::{HeaderMap, Uri};
use bus_schemas::api::ErrorBody;
use bus_schemas::api::people::{DecideAsk, InviteAsk, InviteInfo, InviteList, InviteMade, WaitingInfo, WaitingList};
use bus_schemas::{Form, Problem, limits, strict};

use super::Shared;
use super::letters::reader;
use super::problem::{Id, Nothing, Parameters, Refusal, whole};

type Said<T> = Result<Json<T>, Refusal>;

const INVITE: &str = r#"POST /api/v1/invites {"role":"member","uses":1,"expires_s":3600,"approve":true}"#;
const DECIDE: &str = r#"POST /api/v1/waiting/ID {"deny":false}"#;
const INVITES: Parameters = Parameters { known: &[], example: "GET /api/v1/invites" };
const WAITING: Parameters = Parameters { known: &[], example: "GET /api/v1/waiting" };

/// What is wrong with the body is told with one that is right.
fn refuse(problem: Problem, example: &str) -> Refusal {
    Refusal(ErrorBody { next: vec![example.to_owned()], ..problem.body() })
}

pub async fn invite(State(world): State<Shared>, headers: HeaderMap, body: Body) -> Said<InviteMade> {
    let reader = reader(&world, &headers).await;
    let body = whole(body, limits::BODY_BYTES_MAX).await;
    let (reader, body) = (reader?, body?);
    let asked: InviteAsk = strict::decode(Form::Json, &body, limits::BODY_BYTES_MAX).map_err(|problem| refuse(problem, INVITE))?;
    Ok(Json(world.invite(reader, &asked).await?))
}

pub async fn invites(State(world): State<Shared>, headers: HeaderMap, uri: Uri) -> Said<InviteList> {
    let reader = reader(&world, &headers).await?;
    let Nothing {} = INVITES.read(&uri)?;
    Ok(Json(world.invites(reader).await?))
}

pub async fn revoke(State(world): State<Shared>, headers: HeaderMap, Id(id): Id) -> Said<InviteInfo> {
    let reader = reader(&world, &headers).await?;
    Ok(Json(world.revoke_invite(reader, &id).await?))
}

pub async fn waiting(State(world): State<Shared>, headers: HeaderMap, uri: Uri) -> Said<WaitingList> {
    let reader = reader(&world, &headers).await?;
    let Nothing {} = WAITING.read(&uri)?;
    Ok(Json(world.waiting_to_join(reader).await?))
}

/// What the body says of it; the path says who.
#[derive(serde::Deserialize, Default)]
#[serde(deny_unknown_fields)]
struct Decision {
    #[serde(default)]
    deny: bool,
    #[serde(default)]
    reason: Option<String>,
}

pub async fn decide(State(world): State<Shared>, headers: HeaderMap, Id(id): Id, body: Body) -> Said<WaitingInfo> {
    let reader = reader(&world, &headers).await;
    let body = whole(body, limits::BODY_BYTES_MAX).await;
    let (reader, body) = (reader?, body?);
    let asked = if body.is_empty() { Ok(Decision::default()) } else { strict::decode(Form::Json, &body, limits::BODY_BYTES_MAX) };
    let Decision { deny, reason } = asked.map_err(|problem| refuse(problem, &DECIDE.replace("ID", &id)))?;
    Ok(Json(world.decide(reader, &DecideAsk { id, deny, reason }).await?))
}
