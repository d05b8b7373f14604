//! The books: facts, balances, checkpoints, proofs, the policy; transfers and orders.

use axum::Json;
use axum::body::Body;
use axum::extract::State;
use axum::http::{HeaderMap, Uri};
use bus_schemas::api::ledger::{
    BalanceList, CheckpointList, ConsistencyView, FactList, PolicyView, ProofView, TransferView,
    ask::{Checkpoints, Consistency, Facts, Transfer},
};
use bus_schemas::id::Asker;
use bus_schemas::ledger::LedgerReply;
use bus_schemas::{Form, limits, strict};

use super::Shared;
use super::problem::{Id, Nothing, Parameters, Refusal, whole};
use super::who::{bearer, one_key};
use crate::ledger::orders;

type Said<T> = Result<Json<T>, Refusal>;

const FACTS: Parameters = Parameters {
    known: &[("after", "a sequence, or the cursor of the page before"), ("limit", "a number from 1 to 1000")],
    example: "GET /api/v1/ledger/facts?after=17&limit=100",
};

pub async fn facts(State(world): State<Shared>, headers: HeaderMap, uri: Uri) -> Said<FactList> {
    bearer(&world, &headers).await?;
    let asked: Facts = FACTS.read(&uri)?;
    Ok(Json(world.ledger_facts(&asked).await.map_err(|problem| FACTS.refuse(problem))?))
}

const BALANCES: Parameters = Parameters { known: &[], example: "GET /api/v1/ledger/balances" };

pub async fn balances(State(world): State<Shared>, headers: HeaderMap, uri: Uri) -> Said<BalanceList> {
    let member = bearer(&world, &headers).await?;
    let Nothing {} = BALANCES.read(&uri)?;
    Ok(Json(world.ledger_balances(member).await?))
}

const CHECKPOINTS: Parameters = Parameters {
    known: &[("before", "the sequence that a checkpoint covers"), ("limit", "a number from 1 to 200")],
    example: "GET /api/v1/ledger/checkpoints?limit=20",
};

pub async fn checkpoints(State(world): State<Shared>, headers: HeaderMap, uri: Uri) -> Said<CheckpointList> {
    bearer(&world, &headers).await?;
    let asked: Checkpoints = CHECKPOINTS.read(&uri)?;
    Ok(Json(world.ledger_checkpoints(&asked).await.map_err(|problem| CHECKPOINTS.refuse(problem))?))
}

pub async fn proof(State(world): State<Shared>, headers: HeaderMap, Id(id): Id) -> Said<ProofView> {
    let member = bearer(&world, &headers).await?;
    Ok(Json(world.ledger_proof(&member, &id).await?))
}

pub const CONSISTENCY: Parameters = Parameters {
    known: &[("from", "the sequence of a message, from 1"), ("to", "the sequence of a later message")],
    example: "GET /api/v1/ledger/consistency?from=1&to=17",
};

pub async fn consistency(State(world): State<Shared>, headers: HeaderMap, uri: Uri) -> Said<ConsistencyView> {
    bearer(&world, &headers).await?;
    let asked: Consistency = CONSISTENCY.read(&uri)?;
    Ok(Json(world.ledger_consistency(asked).await.map_err(|problem| CONSISTENCY.refuse(problem))?))
}

const POLICY: Parameters = Parameters { known: &[], example: "GET /api/v1/network/policy" };

pub async fn policy(State(world): State<Shared>, headers: HeaderMap, uri: Uri) -> Said<PolicyView> {
    bearer(&world, &headers).await?;
    let Nothing {} = POLICY.read(&uri)?;
    Ok(Json(world.network_policy().await?))
}

/// A request that is right.
const TRANSFER: &str = r#"POST /api/v1/credit/transfer {"to":"mem_…","amount":"1.5","key":"a key of your own"}"#;

pub async fn transfer(State(world): State<Shared>, headers: HeaderMap, body: Body) -> Said<TransferView> {
    let member = bearer(&world, &headers).await;
    let body = whole(body, limits::BODY_BYTES_MAX).await;
    let (member, body) = (member?, body?);
    let mut ask: Transfer = strict::decode(Form::Json, &body, limits::BODY_BYTES_MAX).map_err(|problem| {
        let mut body = problem.body();
        body.next = vec![TRANSFER.to_owned()];
        Refusal(body)
    })?;
    ask.key = one_key(ask.key.as_deref(), &headers)?.map(str::to_owned);
    Ok(Json(world.credit_transfer(&Asker::Member(member), ask).await.map_err(|problem| Refusal(orders::told(&problem)))?))
}

/// The network key's signature inside says who orders; no token is asked for.
pub async fn order(State(world): State<Shared>, body: Body) -> Said<LedgerReply> {
    let body = whole(body, limits::SUBMISSION_BYTES_MAX).await?;
    Ok(Json(world.ledger_order(body).await?))
}
