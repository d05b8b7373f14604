//! Devices, credits, the network, and letting people in.

use axum::Json;
use axum::body::Body;
use axum::extract::State;
use axum::http::{HeaderMap, Uri, header};
use axum::response::IntoResponse;
use bus_schemas::api::{BalanceView, CreditHistory, DeviceInfo, DeviceList};
use bus_schemas::limits;
use bus_schemas::network::EnrolReply;
use serde::Deserialize;

use super::Shared;
use super::problem::{Id, Nothing, Parameters, Refusal, whole};
use super::who::bearer;
use crate::enrolment;

type Said<T> = Result<Json<T>, Refusal>;

const DEVICES: Parameters = Parameters { known: &[], example: "GET /api/v1/devices" };

pub async fn devices(State(world): State<Shared>, headers: HeaderMap, uri: Uri) -> Said<DeviceList> {
    bearer(&world, &headers).await?;
    let Nothing {} = DEVICES.read(&uri)?;
    Ok(Json(world.fleet.list()))
}

pub async fn device(State(world): State<Shared>, headers: HeaderMap, Id(id): Id) -> Said<DeviceInfo> {
    bearer(&world, &headers).await?;
    Ok(Json(world.device(&id)?))
}

const BALANCE: Parameters = Parameters { known: &[], example: "GET /api/v1/credit/balance" };

pub async fn balance(State(world): State<Shared>, headers: HeaderMap, uri: Uri) -> Said<BalanceView> {
    let member = bearer(&world, &headers).await?;
    let Nothing {} = BALANCE.read(&uri)?;
    Ok(Json(world.credit_balance(member).await?))
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Page {
    limit: Option<u32>,
    cursor: Option<String>,
}

const CREDITS: Parameters = Parameters {
    known: &[("limit", "a number from 1 to 200"), ("cursor", "the cursor of the page before")],
    example: "GET /api/v1/credit/history?limit=20",
};

pub async fn credits(State(world): State<Shared>, headers: HeaderMap, uri: Uri) -> Said<CreditHistory> {
    let member = bearer(&world, &headers).await?;
    let page: Page = CREDITS.read(&uri)?;
    let told = world.credit_history(member, page.limit, page.cursor.as_deref()).await;
    Ok(Json(told.map_err(|problem| CREDITS.refuse(problem))?))
}

/// Public: it says who speaks for the network, under the network's signature.
pub async fn network(State(world): State<Shared>) -> impl IntoResponse {
    ([(header::CONTENT_TYPE, "application/json")], world.document_text.clone())
}

/// The invite inside is what lets one in.
pub async fn enrol(State(world): State<Shared>, body: Body) -> Said<EnrolReply> {
    let body = whole(body, limits::BODY_BYTES_MAX).await?;
    Ok(Json(enrolment::enrol(&world.enrol, &body).await?))
}

/// The signatures of the keys on record are what renews their logins.
pub async fn renew(State(world): State<Shared>, body: Body) -> Said<EnrolReply> {
    let body = whole(body, limits::BODY_BYTES_MAX).await?;
    Ok(Json(enrolment::renew(&world.enrol, None, &body).await?))
}
