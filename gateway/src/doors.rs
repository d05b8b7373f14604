//! Which doors others may use, and the one behind which is the hub: what asks for a WebSocket is passed on to the hub, so that one port with
//! TLS (443) carries everything that a device or a member needs from a network that lets nothing else out.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context as _, ensure};
use axum::Router;
use axum::body::Body;
use axum::extract::{Request, State};
use axum::http::{HeaderMap, HeaderName, HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use bus::tls::{ServerFiles, is_plain_to_others, leaves_this_machine};
use bus_schemas::{Code, Problem};
use hyper_util::rt::TokioIo;
use rustls::ServerConfig;
use rustls::pki_types::ServerName;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::sync::Semaphore;
use tokio_rustls::TlsConnector;

use crate::routes::problem::Refusal;
use crate::run::Settings;

/// Flags about TLS and the hub's WebSocket.
#[derive(Debug, Clone, Default, clap::Args)]
pub struct DoorSettings {
    /// Certificate of the HTTP port, with those between it and its CA.
    #[arg(long, env = "MESH_TLS_CERT", requires = "tls_key")]
    pub tls_cert: Option<PathBuf>,
    #[arg(long, env = "MESH_TLS_KEY", requires = "tls_cert")]
    pub tls_key: Option<PathBuf>,
    /// Speak plain text also to other machines: only where nobody else is on that network, or behind a proxy that speaks TLS.
    #[arg(long, env = "MESH_ALLOW_PLAIN")]
    pub allow_plain: bool,
    /// Where the hub listens for WebSockets (`ws://127.0.0.1:8443`, `wss://localhost:8443`): those that come to the HTTP port go there.
    #[arg(long, env = "MESH_HUB_WS")]
    pub hub_ws: Option<String>,
}

impl DoorSettings {
    /// The TLS of the HTTP port, where it has one.
    ///
    /// # Errors
    /// Where others could listen in (named), or a file cannot be used.
    pub fn check(&self, settings: &Settings) -> anyhow::Result<Option<ServerConfig>> {
        let tls = match (&self.tls_cert, &self.tls_key) {
            (Some(cert), Some(key)) => {
                let files = ServerFiles { cert: cert.clone(), key: key.clone(), ca: settings.bus.ca.clone() };
                Some(files.config()?)
            }
            (Some(_), None) | (None, Some(_)) | (None, None) => None,
        };
        if self.allow_plain {
            return Ok(tls);
        }
        ensure!(
            tls.is_some() || !leaves_this_machine(&settings.http),
            "error[M0116]: --http {} would be plain text to other machines (next: --tls-cert and --tls-key, or --allow-plain where nobody else is on that network)",
            settings.http
        );
        let told = [
            ("--leaf-url", Some(&settings.leaf_url)),
            ("--public-nats-url", Some(&settings.public_nats_url)),
            ("--public-ws-url", settings.public_ws_url.as_ref()),
            ("--public-gateway-url", settings.public_gateway_url.as_ref()),
        ];
        for (flag, urls) in told.into_iter().filter_map(|(flag, urls)| Some((flag, urls?))) {
            if let Some(url) = urls.split(',').find(|url| is_plain_to_others(url.trim())) {
                anyhow::bail!(
                    "error[M0116]: {flag} {url} would send devices there in plain text (next: tls://, wss:// or https://, or --allow-plain where nobody else is on that network)"
                );
            }
        }
        Ok(tls)
    }

    /// The routes that lead to the hub; none where it has no WebSocket.
    ///
    /// # Errors
    /// Where its address is none.
    pub fn tunnel(&self, ca: Option<&Path>) -> anyhow::Result<Router> {
        let Some(url) = &self.hub_ws else { return Ok(Router::new()) };
        let hub = Arc::new(Hub::of(url, ca)?);
        // Leafs, and clients.
        Ok(Router::new().route("/leafnode", get(pass)).route("/", get(pass)).with_state(hub))
    }
}

/// Connections passed on at once; a hub is not meant for more leafs.
const PASSED_MAX: usize = 4096;
/// How long the hub may take to answer, and how much.
const ANSWER: Duration = Duration::from_secs(10);
const ANSWER_BYTES_MAX: usize = 8192;

trait Stream: AsyncRead + AsyncWrite + Unpin + Send {}
impl<T: AsyncRead + AsyncWrite + Unpin + Send> Stream for T {}

struct Hub {
    host: String,
    port: u16,
    tls: Option<TlsConnector>,
    room: Arc<Semaphore>,
}

impl Hub {
    fn of(url: &str, ca: Option<&Path>) -> anyhow::Result<Self> {
        let bad = || format!("--hub-ws {url}: ws://HOST:PORT or wss://HOST:PORT is expected");
        let uri: axum::http::Uri = url.parse().with_context(bad)?;
        let tls = match uri.scheme_str() {
            Some("ws") => None,
            Some("wss") => Some(TlsConnector::from(Arc::new(bus::tls::client(ca)?))),
            Some(_) | None => anyhow::bail!(bad()),
        };
        let (host, port) = (uri.host().with_context(bad)?.to_owned(), uri.port_u16().with_context(bad)?);
        Ok(Self { host, port, tls, room: Arc::new(Semaphore::new(PASSED_MAX)) })
    }

    async fn connect(&self) -> anyhow::Result<Box<dyn Stream>> {
        let stream = TcpStream::connect((self.host.as_str(), self.port)).await?;
        let _ = stream.set_nodelay(true);
        Ok(match &self.tls {
            None => Box::new(stream),
            Some(connector) => Box::new(connector.connect(ServerName::try_from(self.host.clone())?, stream).await?),
        })
    }
}

/// Hands a WebSocket to the hub: its handshake first, then every byte in both directions.
async fn pass(State(hub): State<Arc<Hub>>, mut request: Request) -> Response {
    let refuse = |code: Code, why: &str| Refusal::from(Problem::new(code, why)).into_response();
    let wants = request.headers().get(header::UPGRADE).is_some_and(|value| value.as_bytes().eq_ignore_ascii_case(b"websocket"));
    if !wants {
        return refuse(Code::NotFound, "only WebSockets of NATS come in here; the API is under /api/v1");
    }
    let Ok(place) = hub.room.clone().try_acquire_owned() else {
        return refuse(Code::Unavailable, "too many connections are passed on already");
    };
    let asked = question(request.uri().path(), request.headers());
    let opened = tokio::time::timeout(ANSWER, open(&hub, &asked)).await;
    let (answer, mut upstream) = match opened {
        Ok(Ok(opened)) => opened,
        Ok(Err(error)) => {
            tracing::warn!(error = format!("{error:#}"), "a WebSocket was not passed on");
            return refuse(Code::Unavailable, "the hub does not take WebSockets now");
        }
        Err(_) => return refuse(Code::Unavailable, "the hub does not answer"),
    };
    let mut response = Response::new(Body::empty());
    *response.status_mut() = StatusCode::SWITCHING_PROTOCOLS;
    *response.headers_mut() = answer.headers;
    let upgraded = hyper::upgrade::on(&mut request);
    tokio::spawn(async move {
        let _place = place;
        let Ok(upgraded) = upgraded.await else { return };
        let mut downstream = TokioIo::new(upgraded);
        if downstream.write_all(&answer.rest).await.is_ok() {
            let _ = tokio::io::copy_bidirectional(&mut downstream, &mut upstream).await;
        }
    });
    response
}

/// Headers that belong to the handshake of a WebSocket of NATS; no other goes on.
fn belongs(name: &HeaderName) -> bool {
    let name = name.as_str();
    name.starts_with("sec-websocket-") || name.starts_with("nats-") || name == "host"
}

fn question(path: &str, headers: &HeaderMap) -> Vec<u8> {
    let mut text = format!("GET {path} HTTP/1.1\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n").into_bytes();
    for (name, value) in headers.iter().filter(|(name, _)| belongs(name)) {
        text.extend([name.as_str().as_bytes(), b": ", value.as_bytes(), b"\r\n"].concat());
    }
    text.extend(b"\r\n");
    text
}

/// What the hub said, and the first bytes after it.
#[derive(Debug)]
struct Answer {
    headers: HeaderMap,
    rest: Vec<u8>,
}

async fn open(hub: &Hub, asked: &[u8]) -> anyhow::Result<(Answer, Box<dyn Stream>)> {
    let mut upstream = hub.connect().await?;
    upstream.write_all(asked).await?;
    let mut bytes = Vec::new();
    loop {
        ensure!(upstream.read_buf(&mut bytes).await? > 0, "the hub hung up");
        if let Some(answer) = read_answer(&bytes)? {
            return Ok((answer, upstream));
        }
        ensure!(bytes.len() < ANSWER_BYTES_MAX, "the hub's answer does not end");
    }
}

/// `None` while it is not whole.
fn read_answer(bytes: &[u8]) -> anyhow::Result<Option<Answer>> {
    let Some(end) = bytes.windows(4).position(|four| four == b"\r\n\r\n") else { return Ok(None) };
    let head = std::str::from_utf8(&bytes[..end]).context("the hub's answer is no HTTP")?;
    let mut lines = head.split("\r\n");
    let status = lines.next().unwrap_or_default();
    ensure!(status.starts_with("HTTP/1.1 101 "), "the hub said {status:?}");
    let mut headers = HeaderMap::new();
    for (name, value) in lines.filter_map(|line| line.split_once(':')) {
        let (name, value) = (name.trim().parse::<HeaderName>()?, HeaderValue::from_str(value.trim())?);
        if belongs(&name) || name == header::UPGRADE || name == header::CONNECTION {
            headers.append(name, value);
        }
    }
    Ok(Some(Answer { headers, rest: bytes[end + 4..].to_vec() }))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_handshake_goes_on() {
        let mut headers = HeaderMap::new();
        for (name, value) in [
            ("host", "hub"),
            ("sec-websocket-key", "k"),
            ("authorization", "Bearer x"),
            ("nats-no-masking", "true"),
            ("content-length", "5"),
        ] {
            headers.insert(name, HeaderValue::from_static(value));
        }
        let text = String::from_utf8(question("/leafnode", &headers)).unwrap();
        assert!(text.starts_with("GET /leafnode HTTP/1.1\r\n") && text.ends_with("\r\n\r\n"), "{text}");
        assert!(text.contains("sec-websocket-key: k\r\n") && text.contains("nats-no-masking: true\r\n") && text.contains("host: hub\r\n"));
        assert!(!text.contains("Bearer") && !text.contains("content-length"), "{text}");
    }

    #[test]
    fn what_follows_the_answer_is_kept() {
        assert!(read_answer(b"HTTP/1.1 101 Switching Protocols\r\nUpgra").unwrap().is_none());
        let answer =
            read_answer(b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nSet-Cookie: a=b\r\n\r\nINFO").unwrap().unwrap();
        assert_eq!((answer.rest.as_slice(), answer.headers.len()), (&b"INFO"[..], 1));
        assert!(read_answer(b"HTTP/1.1 400 Bad Request\r\n\r\n").is_err());
    }

    #[test]
    fn addresses_of_the_hub() {
        for bad in ["127.0.0.1:8443", "http://127.0.0.1:1", "ws://127.0.0.1", ""] {
            assert!(Hub::of(bad, None).is_err(), "{bad}");
        }
        let hub = Hub::of("ws://127.0.0.1:8443", None).unwrap();
        assert_eq!((hub.host.as_str(), hub.port, hub.tls.is_none()), ("127.0.0.1", 8443, true));
    }

    fn settings(more: &[&str]) -> Settings {
        #[derive(clap::Parser)]
        struct Cli {
            #[command(flatten)]
            settings: Settings,
        }
        let fixed = ["x", "--key", "k", "--network", "n", "--database-url", "d"];
        <Cli as clap::Parser>::try_parse_from(fixed.iter().chain(more)).unwrap().settings
    }

    #[test]
    fn plain_text_to_others_is_refused_by_name() {
        for (flags, named) in [
            (&["--http", "0.0.0.0:8085"][..], "--http 0.0.0.0:8085"),
            (&["--leaf-url", "tls://h:1,nats://hub:7422"][..], "--leaf-url nats://hub:7422"),
            (&["--public-nats-url", "nats://10.0.0.1:4222"][..], "--public-nats-url"),
            (&["--public-ws-url", "ws://10.0.0.1"][..], "--public-ws-url"),
            (&["--public-gateway-url", "https://h,http://10.0.0.1:8085"][..], "--public-gateway-url http://10.0.0.1:8085"),
        ] {
            let all = settings(flags);
            let error = all.doors.check(&all).unwrap_err().to_string();
            assert!(error.contains(named) && error.contains("M0116"), "{error}");
            let all = settings(&[flags, &["--allow-plain"]].concat());
            assert!(all.doors.check(&all).unwrap().is_none());
        }
        let here = settings(&["--leaf-url", "tls://hub:7422"]);
        assert!(here.doors.check(&here).unwrap().is_none());
    }
}
