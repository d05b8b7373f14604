//! Jobs over HTTP.

use axum::Json;
use axum::body::Body;
use axum::extract::State;
use axum::http::{HeaderMap, StatusCode, Uri, header};
use axum::response::{IntoResponse, Response};
use bus_schemas::api::ask::JobLs;
use bus_schemas::api::{BlobInfo, Explanation, JobList, JobView, ReceiptView, ResultView};
use bus_schemas::id::Asker;
use bus_schemas::{Code, Problem, limits};
use bytes::Bytes;
use futures::StreamExt;
use serde::Deserialize;

use super::Shared;
use super::blobs::chunks;
use super::problem::{Id, Parameters, Refusal, whole};
use super::who::{bearer, submission, submitter};
use crate::submit::{Answer, Each};

type Said<T> = Result<Json<T>, Refusal>;

pub async fn submit(State(world): State<Shared>, headers: HeaderMap, body: Body) -> Result<Response, Refusal> {
    let member = submitter(&world, &headers).await;
    let payload = whole(body, limits::SUBMISSION_BYTES_MAX).await;
    // Who asks comes first, and the body is read all the same, so that the answer is heard.
    let (member, payload) = (member?, payload?);
    let answer = world.submit(&Asker::Member(member), submission(&headers)?, payload).await?;
    let status = match &answer {
        Answer::Many(list) if list.iter().all(|each| matches!(each, Each::Wrong(_))) => StatusCode::BAD_REQUEST,
        Answer::One(_) | Answer::Many(_) => StatusCode::ACCEPTED,
    };
    let json = answer.to_json().map_err(|error| Problem::new(Code::Internal, error.to_string()))?;
    Ok((status, [(header::CONTENT_TYPE, "application/json")], json).into_response())
}

pub const LIST: Parameters = Parameters {
    known: &[
        ("state", "one of Submitted, BiddingOpen, BiddingClosed, Assigned, Executing, Completed, Failed, Cancelled, Rejected"),
        ("overdue", "true or false"),
        ("limit", "a number from 1 to 200"),
        ("cursor", "the cursor of the page before"),
    ],
    example: "GET /api/v1/jobs?state=Completed&limit=20",
};

pub async fn list(State(world): State<Shared>, headers: HeaderMap, uri: Uri) -> Said<JobList> {
    let member = bearer(&world, &headers).await?;
    let asked: JobLs = LIST.read(&uri)?;
    Ok(Json(world.job_ls(&member, &asked).await.map_err(|problem| LIST.refuse(problem))?))
}

pub async fn show(State(world): State<Shared>, headers: HeaderMap, Id(id): Id) -> Said<JobView> {
    let member = bearer(&world, &headers).await?;
    Ok(Json(world.job_show(&member, &id).await.map_err(|problem| Refusal::about(&problem, &id))?))
}

pub async fn explain(State(world): State<Shared>, headers: HeaderMap, Id(id): Id) -> Said<Explanation> {
    let member = bearer(&world, &headers).await?;
    Ok(Json(world.job_explain(&member, &id).await.map_err(|problem| Refusal::about(&problem, &id))?))
}

pub async fn receipt(State(world): State<Shared>, headers: HeaderMap, Id(id): Id) -> Said<ReceiptView> {
    let member = bearer(&world, &headers).await?;
    Ok(Json(world.job_receipt(&member, &id).await.map_err(|problem| Refusal::about(&problem, &id))?))
}

pub async fn cancel(State(world): State<Shared>, headers: HeaderMap, Id(id): Id) -> Said<JobView> {
    let member = bearer(&world, &headers).await?;
    Ok(Json(world.job_cancel(&member, &id).await.map_err(|problem| Refusal::about(&problem, &id))?))
}

pub async fn retry(State(world): State<Shared>, headers: HeaderMap, Id(id): Id) -> Result<Response, Refusal> {
    let member = bearer(&world, &headers).await?;
    let submitted = world.job_retry(&Asker::Member(member), &id).await.map_err(|no| Refusal(no.body(&id)))?;
    Ok((StatusCode::ACCEPTED, Json(submitted)).into_response())
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ResultAsk {
    /// `false`: a large result is answered as `{"cid","bytes"}`.
    #[serde(default = "yes")]
    inline: bool,
}
fn yes() -> bool {
    true
}

const RESULT: Parameters = Parameters { known: &[("inline", "true or false")], example: "GET /api/v1/jobs/ID/result?inline=false" };

pub async fn result(State(world): State<Shared>, headers: HeaderMap, Id(id): Id, uri: Uri) -> Result<Response, Refusal> {
    let member = bearer(&world, &headers).await?;
    let asked: ResultAsk = RESULT.read(&uri)?;
    let (view, blob) = world.job_result(&member, &id).await.map_err(|problem| Refusal::about(&problem, &id))?;
    match blob {
        Some(blob) if asked.inline => {
            let info = world.blob_info(&member, &blob.cid).await?;
            spliced(world, &view, info)
        }
        Some(_) | None => Ok(Json(view).into_response()),
    }
}

/// The whole view, with the blob's bytes where the result stands, as they come.
fn spliced(world: Shared, view: &ResultView, info: BlobInfo) -> Result<Response, Refusal> {
    let failed = |error: serde_json::Error| Problem::new(Code::Internal, error.to_string());
    let (id, state) = (serde_json::to_string(&view.id).map_err(failed)?, serde_json::to_string(&view.state).map_err(failed)?);
    let receipt = serde_json::to_string(&view.receipt).map_err(failed)?;
    let (before, after) = (format!(r#"{{"id":{id},"state":{state},"result":"#), format!(r#","receipt":{receipt}}}"#));
    let length = before.len() as u64 + info.bytes + after.len() as u64;
    let piece = |text: String| futures::stream::once(async { Ok(Bytes::from(text)) });
    let stream = piece(before).chain(chunks(world, info)).chain(piece(after));
    let headers = [(header::CONTENT_TYPE, "application/json".to_owned()), (header::CONTENT_LENGTH, length.to_string())];
    Ok((headers, Body::from_stream(stream)).into_response())
}
