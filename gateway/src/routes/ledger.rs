//! The books: facts, balances, checkpoints, proofs, the policy; transfers and orders.

use axum::Json;
use axum::body::Body;
use axum::extract::rejection::QueryRejection;
use axum::extract::{Path, Query, State};
use axum::http::HeaderMap;
use bus_schemas::api::ledger::{
    BalanceList, CheckpointList, ConsistencyView, FactList, PolicyView, ProofView, TransferView,
    ask::{Checkpoints, Consistency, Facts, Transfer},
};
use bus_schemas::id::Asker;
use bus_schemas::ledger::LedgerReply;
use bus_schemas::{Form, limits, strict};

use super::Shared;
use super::problem::{Refusal, query, whole};
use super::who::{bearer, submission};

type Said<T> = Result<Json<T>, Refusal>;
type Asked<T> = Result<Query<T>, QueryRejection>;

pub async fn facts(State(world): State<Shared>, headers: HeaderMap, asked: Asked<Facts>) -> Said<FactList> {
    bearer(&world, &headers).await?;
    Ok(Json(world.ledger_facts(&query(asked)?).await?))
}

pub async fn balances(State(world): State<Shared>, headers: HeaderMap) -> Said<BalanceList> {
    let member = bearer(&world, &headers).await?;
    Ok(Json(world.ledger_balances(member).await?))
}

pub async fn checkpoints(State(world): State<Shared>, headers: HeaderMap, asked: Asked<Checkpoints>) -> Said<CheckpointList> {
    bearer(&world, &headers).await?;
    Ok(Json(world.ledger_checkpoints(&query(asked)?).await?))
}

pub async fn proof(State(world): State<Shared>, headers: HeaderMap, Path(id): Path<String>) -> Said<ProofView> {
    let member = bearer(&world, &headers).await?;
    Ok(Json(world.ledger_proof(&member, &id).await?))
}

pub async fn consistency(State(world): State<Shared>, headers: HeaderMap, asked: Asked<Consistency>) -> Said<ConsistencyView> {
    bearer(&world, &headers).await?;
    Ok(Json(world.ledger_consistency(query(asked)?).await?))
}

pub async fn policy(State(world): State<Shared>, headers: HeaderMap) -> Said<PolicyView> {
    bearer(&world, &headers).await?;
    Ok(Json(world.network_policy().await?))
}

pub async fn transfer(State(world): State<Shared>, headers: HeaderMap, body: Body) -> Said<TransferView> {
    let member = bearer(&world, &headers).await;
    let body = whole(body, limits::BODY_BYTES_MAX).await;
    let (member, body) = (member?, body?);
    let mut ask: Transfer = strict::decode(Form::Json, &body, limits::BODY_BYTES_MAX)?;
    ask.key = ask.key.or_else(|| submission(&headers).job_key.map(str::to_owned));
    Ok(Json(world.credit_transfer(&Asker::Member(member), ask).await?))
}

/// The network key's signature inside says who orders; no token is asked for.
pub async fn order(State(world): State<Shared>, body: Body) -> Said<LedgerReply> {
    let body = whole(body, limits::SUBMISSION_BYTES_MAX).await?;
    Ok(Json(world.ledger_order(body).await?))
}
