//! What is wrong, as an HTTP answer; and reading bodies and queries so that what is wrong with them gets one.

use axum::Json;
use axum::body::Body;
use axum::extract::{FromRequestParts, Path, Query};
use axum::http::request::Parts;
use axum::http::{HeaderValue, StatusCode, Uri, header};
use axum::response::{IntoResponse, Response};
use bus_schemas::api::ErrorBody;
use bus_schemas::{Code, Problem};
use bytes::{Bytes, BytesMut};
use http_body_util::BodyExt;
use serde::de::DeserializeOwned;

pub struct Refusal(pub ErrorBody);

impl Refusal {
    /// With the id in the commands to run next.
    pub fn about(problem: &Problem, id: &str) -> Self {
        Self(problem.body().about(id))
    }
}
impl From<Problem> for Refusal {
    fn from(problem: Problem) -> Self {
        Self(problem.body())
    }
}
/// The id in a path, as it stands there.
pub struct Id(pub String);
impl<S: Send + Sync> FromRequestParts<S> for Id {
    type Rejection = Refusal;
    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self, Refusal> {
        match Path::<String>::from_request_parts(parts, state).await {
            Ok(Path(id)) => Ok(Self(id)),
            Err(_) => Err(Refusal::from(Problem::new(Code::NotUtf8, "the id in the path is no UTF-8"))),
        }
    }
}
impl IntoResponse for Refusal {
    fn into_response(self) -> Response {
        let Self(mut body) = self;
        let status = StatusCode::from_u16(body.code.http()).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
        let requests: Vec<String> = body.next.iter().filter_map(|command| request_of(command)).collect();
        body.next.extend(requests);
        let wait_ms = body.wait_ms;
        let mut response = (status, Json(body)).into_response();
        let headers = response.headers_mut();
        headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("application/problem+json"));
        if let Some(seconds) = wait_ms.map(|wait_ms| wait_ms.div_ceil(1000).max(1)) {
            headers.insert(header::RETRY_AFTER, HeaderValue::from(seconds));
        }
        if status == StatusCode::UNAUTHORIZED {
            headers.insert(header::WWW_AUTHENTICATE, HeaderValue::from_static("Bearer"));
        }
        response
    }
}

/// The request that does what a command of `mesh` does, where there is one: whoever asks over HTTP may have no other way.
fn request_of(command: &str) -> Option<String> {
    let words: Vec<&str> = command.split(' ').collect();
    let request = match words.as_slice() {
        ["mesh", "job", "ls"] => "GET /api/v1/jobs".to_owned(),
        ["mesh", "job", "show" | "wait", id] => format!("GET /api/v1/jobs/{id}"),
        ["mesh", "job", "explain", id] => format!("GET /api/v1/jobs/{id}/explain"),
        ["mesh", "job", "retry", id] => format!("POST /api/v1/jobs/{id}/retry"),
        ["mesh", "job", "run", "echo", "--text", text] => format!(r#"POST /api/v1/jobs {{"kind":"echo","text":"{text}"}}"#),
        ["mesh", "node", "ls"] => "GET /api/v1/devices".to_owned(),
        ["mesh", "dlq", "ls"] => "GET /api/v1/dlq".to_owned(),
        ["mesh", "dlq", "show", id] => format!("GET /api/v1/dlq/{id}"),
        ["mesh", "credit", "balance"] => "GET /api/v1/balance".to_owned(),
        ["mesh", "credit", "history"] => "GET /api/v1/credit/history".to_owned(),
        ["mesh", "blob", "put", _] => "POST /api/v1/blobs".to_owned(),
        ["mesh", "doctor"] => "GET /readyz".to_owned(),
        _ => return None,
    };
    Some(request)
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

/// What the query of a path may say, told to whoever said something else.
pub struct Parameters {
    /// Each name with what it may be.
    pub known: &'static [(&'static str, &'static str)],
    /// A request that is right.
    pub example: &'static str,
}

/// The query of a path that knows no parameters.
#[derive(serde::Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Nothing {}

/// What people sent, no longer than a sentence bears.
pub fn shown(text: &str) -> String {
    text.chars().take(80).collect()
}

impl Parameters {
    /// Reads the query.
    ///
    /// # Errors
    /// Which parameter is unknown, given twice, missing or wrong, and what is allowed.
    pub fn read<T: DeserializeOwned>(&self, uri: &Uri) -> Result<T, Refusal> {
        self.parse(uri).map_err(|problem| self.refuse(problem))
    }

    /// A problem with what was asked here: next comes a request that is right, not the catalogue's line about job files.
    pub fn refuse(&self, problem: Problem) -> Refusal {
        let about_the_query = [Code::UnknownField, Code::DuplicateKey, Code::MissingField, Code::BadValue].contains(&problem.code);
        let mut body = problem.body();
        if about_the_query {
            body.next = vec![self.example.to_owned()];
        }
        Refusal(body)
    }

    fn parse<T: DeserializeOwned>(&self, uri: &Uri) -> Result<T, Problem> {
        let problem = match Query::<T>::try_from_uri(uri) {
            Ok(Query(query)) => return Ok(query),
            Err(error) => error.body_text(),
        };
        let pairs = Query::<Vec<(String, String)>>::try_from_uri(uri).map(|Query(pairs)| pairs).unwrap_or_default();
        let names = || self.known.iter().map(|(name, _)| *name).collect::<Vec<_>>().join(", ");
        for (at, (name, _)) in pairs.iter().enumerate() {
            if !self.known.iter().any(|(known, _)| known == name) {
                let known = if self.known.is_empty() { "there are none".to_owned() } else { format!("known are: {}", names()) };
                let detail = format!("`{}` is no parameter here; {known}", shown(name));
                return Err(Problem::new(Code::UnknownField, detail));
            }
            if pairs[..at].iter().any(|(earlier, _)| earlier == name) {
                return Err(Problem::new(Code::DuplicateKey, format!("`{name}` is given more than once")));
            }
        }
        // All are known and stand there once, so one is wrong or missing; of a wrong one the reader says "…: NAME: why".
        let wrong = problem.split(": ").nth(1).unwrap_or_default();
        for (name, allowed) in self.known {
            let given = pairs.iter().find(|(given, _)| given == name).map(|(_, value)| value);
            match given {
                Some(value) if wrong == *name => {
                    let detail = format!("`{name}` is \"{}\"; allowed is {allowed}", shown(value));
                    return Err(Problem::new(Code::BadValue, detail));
                }
                None if wrong == format!("missing field `{name}`") => {
                    return Err(Problem::new(Code::MissingField, format!("`{name}` is missing; it is {allowed}")));
                }
                Some(_) | None => (),
            }
        }
        let all: Vec<String> = self.known.iter().map(|(name, allowed)| format!("`{name}` is {allowed}")).collect();
        Err(Problem::new(Code::BadValue, all.join("; ")))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::routes::{jobs, ledger};
    use bus_schemas::api::ask::JobLs;
    use bus_schemas::api::ledger::ask::Consistency;

    fn refused<T: DeserializeOwned>(parameters: &Parameters, query: &str) -> (Code, String) {
        let uri: Uri = format!("/api/v1/x?{query}").parse().unwrap();
        let Err(Refusal(body)) = parameters.read::<T>(&uri) else { panic!("{query} is read") };
        assert_eq!(body.next, [parameters.example], "{query}");
        assert_eq!(body.title, body.code.title(), "{query}");
        (body.code, body.detail)
    }

    #[test]
    fn a_bad_query_names_the_parameter_and_what_is_allowed() {
        let rows = [
            ("limit=abc", Code::BadValue, "`limit` is \"abc\"; allowed is a number from 1 to 200"),
            ("limit=", Code::BadValue, "`limit` is \"\"; allowed is a number from 1 to 200"),
            ("limit=-1", Code::BadValue, "`limit` is \"-1\"; allowed is a number from 1 to 200"),
            ("state=Completed&limit=abc", Code::BadValue, "`limit` is \"abc\"; allowed is a number from 1 to 200"),
            (
                "state=foo",
                Code::BadValue,
                "`state` is \"foo\"; allowed is one of Submitted, BiddingOpen, BiddingClosed, Assigned, Executing, Completed, Failed, \
                 Cancelled, Rejected",
            ),
            ("colour=red", Code::UnknownField, "`colour` is no parameter here; known are: state, overdue, limit, cursor"),
            ("limit=5&colour=red", Code::UnknownField, "`colour` is no parameter here; known are: state, overdue, limit, cursor"),
            ("limit=5&limit=6", Code::DuplicateKey, "`limit` is given more than once"),
        ];
        for (query, code, detail) in rows {
            assert_eq!(refused::<JobLs>(&jobs::LIST, query), (code, detail.to_owned()), "{query}");
        }
        let nothing = Parameters { known: &[], example: "GET /api/v1/x" };
        assert_eq!(refused::<Nothing>(&nothing, "a=1"), (Code::UnknownField, "`a` is no parameter here; there are none".to_owned()));
        let rows = [
            ("from=1", Code::MissingField, "`to` is missing; it is the sequence of a later message"),
            ("from=x&to=2", Code::BadValue, "`from` is \"x\"; allowed is the sequence of a message, from 1"),
        ];
        for (query, code, detail) in rows {
            assert_eq!(refused::<Consistency>(&ledger::CONSISTENCY, query), (code, detail.to_owned()), "{query}");
        }
    }

    #[test]
    fn whoever_asks_over_http_is_told_a_request_too() {
        for (command, request) in [
            (Code::NotFinished.next(), Some("GET /api/v1/jobs/ID")),
            (Code::JobFailed.next(), Some("GET /api/v1/jobs/ID/explain")),
            (Code::TriedAgain.next(), Some("POST /api/v1/jobs/ID/retry")),
            (Code::NoSuchLetter.next(), Some("GET /api/v1/dlq")),
            (Code::CannotResend.next(), Some("GET /api/v1/dlq/ID")),
            (Code::NoSuchDevice.next(), Some("GET /api/v1/devices")),
            (Code::TooLittleMana.next(), Some("GET /api/v1/balance")),
            (Code::Empty.next(), Some(r#"POST /api/v1/jobs {"kind":"echo","text":"hello"}"#)),
            (Code::TooLarge.next(), Some("POST /api/v1/blobs")),
            (Code::Unavailable.next(), Some("GET /readyz")),
            ("GET /api/v1/jobs", None),
            ("mesh sign FILE", None),
        ] {
            assert_eq!(request_of(command).as_deref(), request, "{command}");
        }
    }

    #[test]
    fn who_is_to_wait_is_told_how_long() {
        let answer = |problem: Problem| Refusal::from(problem).into_response();
        let later = answer(Problem::new(Code::TooFast, "").wait(1_200));
        assert_eq!((later.status().as_u16(), later.headers().get(header::RETRY_AFTER).unwrap().as_bytes()), (429, b"2".as_slice()));
        assert!(answer(Problem::new(Code::TooManyWaiting, "")).headers().get(header::RETRY_AFTER).is_none());
    }

    #[test]
    fn the_examples_are_right() {
        let uri = |parameters: &Parameters| parameters.example.strip_prefix("GET ").unwrap().parse::<Uri>().unwrap();
        assert!(jobs::LIST.read::<JobLs>(&uri(&jobs::LIST)).is_ok());
        assert!(ledger::CONSISTENCY.read::<Consistency>(&uri(&ledger::CONSISTENCY)).is_ok());
    }
}
