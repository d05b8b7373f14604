//! A small HTTP client for the gateway: JSON out, JSON or bytes in, errors as [`Problem`]s.

use std::path::Path;
use std::time::Duration;

use bus::HubTime;
use bus_schemas::api::ErrorBody;
use bus_schemas::{Code, Problem};
use bytes::Bytes;
use http_body_util::{BodyExt, Full, Limited};
use hyper::header::{AUTHORIZATION, CONTENT_TYPE};
use hyper::{Method, Request};
use hyper_rustls::{HttpsConnector, HttpsConnectorBuilder};
use hyper_util::client::legacy::Client;
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::rt::TokioExecutor;
use rustls::{ClientConfig, RootCertStore};
use serde::Serialize;
use serde::de::DeserializeOwned;

/// More than any answer of a gateway; a blob comes in chunks over NATS or as a whole here.
const ANSWER_BYTES_MAX: usize = bus_schemas::limits::BLOB_BYTES_MAX + (1 << 20);
/// A door waits up to 5 s for the parts behind it.
const WAIT: Duration = Duration::from_secs(15);

/// [`bus_schemas::subject::header::TIME`], as HTTP writes it.
const TIME_HEADER: &str = "mesh-time";

/// Addresses separated by commas, without the `/` at their ends.
pub fn each(urls: &str) -> impl Iterator<Item = &str> {
    urls.split(',').map(|url| url.trim().trim_end_matches('/')).filter(|url| !url.is_empty())
}

/// A client that keeps its connections. Cheap to clone.
#[derive(Clone)]
pub struct Http {
    client: Client<HttpsConnector<HttpConnector>, Full<Bytes>>,
    bearer: Option<String>,
}

/// An answer of any status.
#[derive(Debug, Clone)]
pub struct Answer {
    pub status: u16,
    pub headers: hyper::HeaderMap,
    pub body: Bytes,
}

impl Default for Http {
    /// For this machine: it trusts no certificate.
    fn default() -> Self {
        bus::connect::install_tls();
        Self::with(ClientConfig::builder().with_root_certificates(RootCertStore::empty()).with_no_client_auth())
    }
}

/// Set where plain text may go to other machines, because nobody else is on that network.
const ALLOW_PLAIN: &str = "MESH_ALLOW_PLAIN";

impl Http {
    fn with(tls: ClientConfig) -> Self {
        let connector = HttpsConnectorBuilder::new().with_tls_config(tls).https_or_http().enable_http1().build();
        Self { client: Client::builder(TokioExecutor::new()).build(connector), bearer: None }
    }

    /// For the gateways at `urls`, separated by commas, which have certificates of this CA; without one, of a CA that the system trusts.
    ///
    /// # Errors
    /// [`Code::UntrustedServer`] where it would be plain text to another machine, [`Code::BadFile`] where the CA cannot be read.
    pub fn to(urls: &str, ca: Option<&Path>) -> Result<Self, Problem> {
        let allowed = || std::env::var(ALLOW_PLAIN).is_ok_and(|value| value == "true" || value == "1");
        if let Some(url) = each(urls).find(|url| bus::tls::is_plain_to_others(url))
            && !allowed()
        {
            let why = format!(
                "{url} would be plain text to another machine; an invite with https:// is needed ({ALLOW_PLAIN}=1 where nobody else is on that network)"
            );
            return Err(Problem::new(Code::UntrustedServer, why));
        }
        if !each(urls).any(|url| url.starts_with("https://")) {
            return Ok(Self::default());
        }
        bus::tls::client(ca).map(Self::with).map_err(|error| Problem::new(Code::BadFile, format!("{error:#}")))
    }

    /// With this bearer token on every request.
    #[must_use]
    pub fn with_bearer(self, token: &str) -> Self {
        Self { bearer: Some(token.trim().to_owned()), ..self }
    }

    /// # Errors
    /// [`Code::Unreachable`] where nobody answers, otherwise the gateway's own error.
    pub async fn get<A: DeserializeOwned>(&self, url: &str) -> Result<A, Problem> {
        self.send(Method::GET, url, &[], Bytes::new()).await?.json()
    }
    /// # Errors
    /// As [`Self::get`].
    pub async fn post<Q: Serialize, A: DeserializeOwned>(&self, url: &str, question: &Q) -> Result<A, Problem> {
        let body = serde_json::to_vec(question).map_err(|error| Problem::new(Code::Internal, error.to_string()))?;
        self.send(Method::POST, url, &[], body.into()).await?.json()
    }
    /// Asks gateways in turn, `urls` being their addresses separated by commas, until one of them answers; learns the hub's time from
    /// what they say.
    ///
    /// # Errors
    /// As [`Self::get`], of the last one where none answers.
    pub async fn post_to_any<Q: Serialize, A: DeserializeOwned>(
        &self,
        urls: &str,
        path: &str,
        question: &Q,
        time: &HubTime,
    ) -> Result<A, Problem> {
        let body = Bytes::from(serde_json::to_vec(question).map_err(|error| Problem::new(Code::Internal, error.to_string()))?);
        let mut last = Problem::new(Code::BadValue, "no address of a gateway is known");
        for url in each(urls) {
            let answer = match self.send(Method::POST, &format!("{url}{path}"), &[], body.clone()).await {
                Ok(answer) => answer,
                Err(problem) => {
                    last = problem;
                    continue;
                }
            };
            let told = answer.headers.get(TIME_HEADER).and_then(|ms| ms.to_str().ok()?.parse().ok());
            told.into_iter().for_each(|ms| time.observe(ms));
            match answer.json() {
                Err(problem) if problem.code == Code::Unavailable => last = problem,
                answered => return answered,
            }
        }
        Err(last)
    }
    /// Sends bytes with more headers and gives the answer whatever its status.
    ///
    /// # Errors
    /// [`Code::Unreachable`] where nobody answers; [`Code::BadValue`] where the address is none.
    pub async fn send(&self, method: Method, url: &str, headers: &[(&str, &str)], body: Bytes) -> Result<Answer, Problem> {
        if !url.starts_with("http://") && !url.starts_with("https://") {
            return Err(Problem::new(Code::BadValue, format!("{url} is no http:// or https:// address")));
        }
        let mut request = Request::builder().method(method).uri(url).header(CONTENT_TYPE, "application/json");
        if let Some(token) = &self.bearer {
            request = request.header(AUTHORIZATION, format!("Bearer {token}"));
        }
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        let request = request.body(Full::new(body)).map_err(|error| Problem::new(Code::BadValue, format!("{url}: {error}")))?;
        let unreachable = |why: String| Problem::new(Code::Unreachable, format!("{url}: {why}"));
        let exchange = async {
            let answer = self.client.request(request).await.map_err(|error| match bus::tls::complaint(&error) {
                Some(why) => Problem::new(Code::UntrustedServer, format!("{url}: {why}")),
                None => unreachable(chain(&error)),
            })?;
            let (parts, body) = answer.into_parts();
            let body = Limited::new(body, ANSWER_BYTES_MAX).collect().await.map_err(|error| unreachable(error.to_string()))?;
            Ok(Answer { status: parts.status.as_u16(), headers: parts.headers, body: body.to_bytes() })
        };
        let late = || unreachable(format!("no answer within {} s", WAIT.as_secs()));
        tokio::time::timeout(WAIT, exchange).await.unwrap_or_else(|_| Err(late()))
    }
}

impl Answer {
    /// The body of a success.
    ///
    /// # Errors
    /// The gateway's own error where the status is none of success; [`Code::Internal`] where the body is not what was expected.
    pub fn json<A: DeserializeOwned>(&self) -> Result<A, Problem> {
        if !(200..300).contains(&self.status) {
            return Err(self.problem());
        }
        let unread = |error: serde_json::Error| Problem::new(Code::Internal, format!("the answer cannot be read: {error}"));
        serde_json::from_slice(&self.body).map_err(unread)
    }
    /// What an answer that is no success says.
    pub fn problem(&self) -> Problem {
        match serde_json::from_slice::<ErrorBody>(&self.body) {
            Ok(body) => body.into(),
            Err(_) => {
                let text: String = String::from_utf8_lossy(&self.body).chars().take(200).collect();
                Problem::new(Code::Unavailable, format!("HTTP status {}: {}", self.status, text.trim()))
            }
        }
    }
}

/// An error with its causes; hyper's own text stops at "client error (Connect)".
fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(inner) = cause {
        text = format!("{text}: {inner}");
        cause = inner.source();
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_answer_speaks_for_itself() {
        let answer = |status: u16, body: &'static str| Answer { status, headers: hyper::HeaderMap::new(), body: body.into() };
        assert_eq!(answer(200, "[1]").json::<Vec<u8>>().unwrap(), [1]);
        assert_eq!(answer(200, "no").json::<Vec<u8>>().unwrap_err().code, Code::Internal);
        let body = r#"{"type":"urn:mesh:error:M0403","code":"M0403","title":"t","detail":"d","next":[]}"#;
        assert_eq!(answer(403, body).json::<u8>().unwrap_err(), Problem::new(Code::BadInvite, "d"));
        assert_eq!(answer(502, "<html>").json::<u8>().unwrap_err().code, Code::Unavailable);
    }

    #[tokio::test]
    async fn nobody_there() {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let url = format!("http://{}/", listener.local_addr().unwrap());
        drop(listener);
        assert_eq!(Http::default().get::<u8>(&url).await.unwrap_err().code, Code::Unreachable);
        assert_eq!(Http::default().get::<u8>("ftp://x").await.unwrap_err().code, Code::BadValue);
    }
}
