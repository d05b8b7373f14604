//! Blobs over HTTP: whole in one request, in chunks behind it.

use axum::Json;
use axum::body::Body;
use axum::extract::State;
use axum::http::{HeaderMap, StatusCode, header};
use axum::response::{IntoResponse, Response};
use bus_schemas::api::BlobInfo;
use bus_schemas::id::Cid;
use bus_schemas::{Code, Problem};
use bytes::Bytes;
use futures::{Stream, StreamExt};
use http_body_util::BodyExt;

use super::Shared;
use super::problem::{Id, Refusal};
use super::who::bearer;
use crate::blobs::Upload;

/// Chunks that are read ahead of who reads.
const READ_AHEAD: usize = 4;

pub async fn put(State(world): State<Shared>, headers: HeaderMap, mut body: Body) -> Result<Response, Refusal> {
    let member = bearer(&world, &headers).await?;
    let mut upload = Upload::default();
    while let Some(frame) = body.frame().await {
        let frame = frame.map_err(|_| Problem::new(Code::BadValue, "the body ended before it was whole"))?;
        if let Ok(data) = frame.into_data() {
            upload.take(&world, &data).await?;
        }
    }
    let stored = upload.finish(&world, &member).await?;
    Ok((StatusCode::CREATED, Json(stored)).into_response())
}

pub async fn get(State(world): State<Shared>, headers: HeaderMap, Id(cid): Id) -> Result<Response, Refusal> {
    let member = bearer(&world, &headers).await?;
    let cid: Cid = cid.parse().map_err(|error: bus_schemas::id::IdError| Problem::new(Code::NoSuchBlob, error.to_string()))?;
    let info = world.blob_info(&member, &cid).await?;
    let headers = [
        (header::CONTENT_TYPE, "application/octet-stream".to_owned()),
        (header::CONTENT_LENGTH, info.bytes.to_string()),
        (header::ETAG, format!("\"{cid}\"")),
    ];
    Ok((headers, Body::from_stream(chunks(world, info))).into_response())
}

/// The bytes of a blob. One that is missing ends the answer before its announced length, so nobody takes it for whole.
pub fn chunks(world: Shared, info: BlobInfo) -> impl Stream<Item = Result<Bytes, Problem>> + Send + 'static {
    let read = move |chunk: Cid| {
        let world = world.clone();
        async move { world.chunk(&chunk).await }
    };
    futures::stream::iter(info.chunks).map(read).buffered(READ_AHEAD)
}
