//! What is wrong, as an HTTP answer; and reading bodies and queries so that what is wrong with them gets one.

use axum::Json;
use axum::body::Body;
use axum::extract::Query;
use axum::extract::rejection::QueryRejection;
use axum::http::{HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use bus_schemas::{Code, Problem};
use bytes::{Bytes, BytesMut};
use http_body_util::BodyExt;

pub struct Refusal(pub Problem);

impl From<Problem> for Refusal {
    fn from(problem: Problem) -> Self {
        Self(problem)
    }
}
impl IntoResponse for Refusal {
    fn into_response(self) -> Response {
        let status = StatusCode::from_u16(self.0.code.http()).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
        let mut response = (status, Json(self.0.body())).into_response();
        let headers = response.headers_mut();
        headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("application/problem+json"));
        if status == StatusCode::UNAUTHORIZED {
            headers.insert(header::WWW_AUTHENTICATE, HeaderValue::from_static("Bearer"));
        }
        response
    }
}

/// What a client that sends too much may go on sending before it hears so: cut off at once, it would not hear it.
const DRAINED_MAX: usize = 8 * 1024 * 1024;

/// A whole body of at most `most` bytes.
pub async fn whole(body: Body, most: usize) -> Result<Bytes, Refusal> {
    let mut body = body;
    let mut read = BytesMut::new();
    let mut seen = 0;
    while let Some(frame) = body.frame().await {
        let frame = frame.map_err(|_| Problem::new(Code::BadValue, "the body ended before it was whole"))?;
        let Ok(data) = frame.into_data() else { continue };
        seen += data.len();
        if seen <= most {
            read.extend_from_slice(&data);
        } else if seen > most + DRAINED_MAX {
            break;
        }
    }
    if seen > most {
        return Err(Problem::new(Code::TooLarge, format!("more than {most} bytes, the most that are allowed here")).into());
    }
    Ok(read.freeze())
}

/// The query, or what is wrong with it.
pub fn query<T>(query: Result<Query<T>, QueryRejection>) -> Result<T, Refusal> {
    query.map(|Query(query)| query).map_err(|error| Problem::new(Code::BadValue, error.body_text()).into())
}
