//! The books: facts, balances, checkpoints, proofs, the policy; transfers and orders.

use axum::Json;
use axum::body::Body;
use axum::extract::{Path, State};
use axum::http::{HeaderMap, Uri};
use bus_schemas::api::ledger::{
    BalanceList, CheckpointList, ConsistencyView, FactList, PolicyView, ProofView, TransferView,
    ask::{Checkpoints, Consistency, Facts, Transfer},
};
use bus_schemas::id::Asker;
use bus_schemas::ledger::LedgerReply;
use bus_schemas::subject::header::JOB_KEY;
use bus_schemas::{Code, Form, Problem, limits, strict};

use super::Shared;
use super::problem::{Nothing, Parameters, Refusal, shown, whole};
use super::who::{IDEMPOTENCY_KEY, bearer};
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

pub async fn proof(State(world): State<Shared>, headers: HeaderMap, Path(id): Path<String>) -> Said<ProofView> {
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
    let given = |name: &str| headers.get(name).map(|value| value.to_str().unwrap_or_default());
    let headers = [IDEMPOTENCY_KEY, JOB_KEY].map(|name| (name, given(name)));
    ask.key = one_key(ask.key.as_deref(), headers)?.map(str::to_owned);
    Ok(Json(world.credit_transfer(&Asker::Member(member), ask).await.map_err(|problem| Refusal(orders::told(&problem)))?))
}

/// The key under which a transfer happens once: in the body or in a header. Two that differ leave open which of them a repeat is to
/// meet, so neither is taken.
fn one_key<'a>(body: Option<&'a str>, headers: [(&'static str, Option<&'a str>); 2]) -> Result<Option<&'a str>, Refusal> {
    let places = std::iter::once(("`key` in the body", body)).chain(headers);
    let mut given = places.filter_map(|(place, key)| Some((place, key?)));
    let Some((place, key)) = given.next() else { return Ok(None) };
    let Some((other_place, other)) = given.find(|(_, other)| *other != key) else { return Ok(Some(key)) };
    let detail = format!("{place} is \"{}\", {other_place} is \"{}\": a transfer has one key", shown(key), shown(other));
    let mut body = Problem::new(Code::BadValue, detail).body();
    body.next = vec!["send the same key in both places, or in one of them".to_owned()];
    Err(Refusal(body))
}

/// The network key's signature inside says who orders; no token is asked for.
pub async fn order(State(world): State<Shared>, body: Body) -> Said<LedgerReply> {
    let body = whole(body, limits::SUBMISSION_BYTES_MAX).await?;
    Ok(Json(world.ledger_order(body).await?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_transfer_has_one_key() {
        let key = |body, idempotency, job| one_key(body, [(IDEMPOTENCY_KEY, idempotency), (JOB_KEY, job)]).map_err(|Refusal(body)| body);
        assert_eq!(key(None, None, None), Ok(None));
        for (body, idempotency, job) in [
            (Some("a"), None, None),
            (None, Some("a"), None),
            (None, None, Some("a")),
            (Some("a"), Some("a"), None),
            (Some("a"), Some("a"), Some("a")),
        ] {
            assert_eq!(key(body, idempotency, job), Ok(Some("a")));
        }
        for (body, idempotency, job, said) in [
            (Some("a"), Some("b"), None, "`key` in the body is \"a\", Idempotency-Key is \"b\": a transfer has one key"),
            (Some("a"), None, Some("b"), "`key` in the body is \"a\", Mesh-Job-Key is \"b\": a transfer has one key"),
            (Some("a"), Some("a"), Some("b"), "`key` in the body is \"a\", Mesh-Job-Key is \"b\": a transfer has one key"),
            (None, Some("a"), Some("b"), "Idempotency-Key is \"a\", Mesh-Job-Key is \"b\": a transfer has one key"),
        ] {
            let refused = key(body, idempotency, job).unwrap_err();
            assert_eq!((refused.code, refused.detail.as_str()), (Code::BadValue, said));
            assert!(!refused.next[0].contains("job"), "{refused:?}");
        }
    }
}
