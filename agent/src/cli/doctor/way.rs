//! Which ways to the hub are open from here: TCP to its port, TLS on it with a certificate of the network's CA, and the WebSocket that
//! passes where nothing else does. Each is opened, greeted and closed; nothing is logged in.

use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use rustls::pki_types::ServerName;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;

use super::{Finding, Verdict, bad, pass, skipped};
use crate::home::{Device, Link};
use crate::http::each;

const GROUP: &str = "device";
/// So long one step of one way may take.
const STEP: Duration = Duration::from_secs(3);
/// A round trip that people notice.
const SLOW: Duration = Duration::from_millis(500);
/// More than any server's first words.
const WORDS_MAX: usize = 16 * 1024;

/// Where to, and how.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Way {
    host: String,
    port: u16,
    tls: bool,
    websocket: bool,
}
impl Way {
    fn of(url: &str) -> Option<Self> {
        let uri: hyper::Uri = url.parse().ok()?;
        let (tls, websocket, port) = match uri.scheme_str()? {
            "nats" | "nats-leaf" => (false, false, 7422),
            "tls" => (true, false, 7422),
            "ws" => (false, true, 80),
            "wss" => (true, true, 443),
            _ => return None,
        };
        let host = uri.host()?.trim_matches(['[', ']']).to_owned();
        Some(Self { host, port: uri.port_u16().unwrap_or(port), tls, websocket })
    }
    fn to(&self) -> String {
        format!("{}:{}", self.host, self.port)
    }
}

/// How far one way goes.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
struct Tried {
    /// How long the connection took, or why there is none.
    tcp: Option<Result<Duration, String>>,
    /// Absent where the way is plain.
    tls: Option<Result<(), String>>,
    /// The server's first words: its version, or that it speaks WebSocket.
    greeting: Option<Result<String, String>>,
}

/// Tries all ways that the device knows, at once.
pub async fn look(device: &Device, ca: Option<&Path>) -> Vec<Finding> {
    let urls = if device.settings.link == Link::Leaf { &device.leaf_url } else { &device.nats_url };
    let ways = |urls: &str| each(urls).filter_map(Way::of).collect::<Vec<_>>();
    let (direct, closed) = (ways(urls), ways(&device.ws_url));
    let all = |ways: Vec<Way>| futures::future::join_all(ways.into_iter().map(|way| async move { (way.to(), attempt(&way, ca).await) }));
    let (direct, closed) = tokio::join!(all(direct), all(closed));
    told(&direct, &closed)
}

async fn attempt(way: &Way, ca: Option<&Path>) -> Tried {
    let mut tried = Tried::default();
    let start = Instant::now();
    let stream = match step(TcpStream::connect((way.host.as_str(), way.port))).await {
        Ok(stream) => stream,
        Err(why) => {
            tried.tcp = Some(Err(why));
            return tried;
        }
    };
    tried.tcp = Some(Ok(start.elapsed()));
    let mut stream = stream;
    // A nats-server speaks first, in the clear; a WebSocket begins with TLS.
    if !way.websocket {
        tried.greeting = Some(words(&mut stream, b"\r\n").await.and_then(|words| version(&words)));
    }
    if !way.tls {
        if way.websocket {
            tried.greeting = Some(upgrade(&mut stream, &way.host).await);
        }
        return tried;
    }
    match handshake(stream, &way.host, ca).await {
        Ok(mut stream) => {
            tried.tls = Some(Ok(()));
            if way.websocket {
                tried.greeting = Some(upgrade(&mut stream, &way.host).await);
            }
        }
        Err(why) => tried.tls = Some(Err(why)),
    }
    tried
}

async fn step<T>(what: impl Future<Output = std::io::Result<T>>) -> Result<T, String> {
    let late = |_| Err(format!("no answer within {} s", STEP.as_secs()));
    tokio::time::timeout(STEP, what).await.map_or_else(late, |done| done.map_err(|error| error.to_string()))
}

async fn handshake(stream: TcpStream, host: &str, ca: Option<&Path>) -> Result<impl AsyncRead + AsyncWrite + Unpin, String> {
    let config = bus::tls::client(ca).map_err(|error| format!("{error:#}"))?;
    let name = ServerName::try_from(host.to_owned()).map_err(|error| error.to_string())?;
    let shaken = tokio::time::timeout(STEP, TlsConnector::from(Arc::new(config)).connect(name, stream)).await;
    let shaken = shaken.map_err(|_| format!("no TLS within {} s", STEP.as_secs()))?;
    shaken.map_err(|error| bus::tls::complaint(&error).map_or_else(|| error.to_string(), str::to_owned))
}

/// What comes up to `end`.
async fn words(stream: &mut (impl AsyncRead + Unpin), end: &[u8]) -> Result<String, String> {
    let mut read = Vec::new();
    let mut buffer = [0; 2048];
    loop {
        let count = step(stream.read(&mut buffer)).await?;
        read.extend_from_slice(&buffer[..count]);
        if read.windows(end.len()).any(|part| part == end) {
            return Ok(String::from_utf8_lossy(&read).into_owned());
        }
        if count == 0 || read.len() > WORDS_MAX {
            return Err("it does not speak like a nats-server".to_owned());
        }
    }
}

/// The version in a server's first line.
fn version(words: &str) -> Result<String, String> {
    let info = words.strip_prefix("INFO ").ok_or("it does not speak like a nats-server")?;
    let info: serde_json::Value = serde_json::from_str(info.lines().next().unwrap_or_default()).map_err(|error| error.to_string())?;
    let version = info["version"].as_str().ok_or("it names no version")?;
    let fine = |c: char| c.is_ascii_alphanumeric() || matches!(c, '.' | '-' | '+');
    Ok(version.chars().filter(|c| fine(*c)).take(32).collect())
}

async fn upgrade(stream: &mut (impl AsyncRead + AsyncWrite + Unpin), host: &str) -> Result<String, String> {
    // Any 16 bytes in base64; nothing is said over it.
    const KEY: &str = "bWVzaCBkb2N0b3IgbG9vaw==";
    let asked = format!(
        "GET /leafnode HTTP/1.1\r\nHost: {host}\r\nUpgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Key: {KEY}\r\nSec-WebSocket-Version: 13\r\n\r\n"
    );
    step(stream.write_all(asked.as_bytes())).await?;
    let answer = words(stream, b"\r\n").await?;
    let line: String = answer.lines().next().unwrap_or_default().chars().filter(|c| !c.is_control()).take(60).collect();
    if line.starts_with("HTTP/1.1 101") { Ok("it speaks WebSocket".to_owned()) } else { Err(format!("it answers {line}")) }
}

type Ways = [(String, Tried)];

/// In words. A way that is closed matters where no other one is open.
fn told(direct: &Ways, closed: &Ways) -> Vec<Finding> {
    let is_open = |(_, tried): &(String, Tried)| {
        matches!(tried.tcp, Some(Ok(_))) && !matches!(tried.tls, Some(Err(_))) && matches!(tried.greeting, Some(Ok(_)))
    };
    let any = direct.iter().chain(closed).any(is_open);
    let mut findings = vec![tcp(direct, any), tls(direct, closed)];
    findings.extend(server(direct));
    findings.push(match closed {
        [] => skipped(GROUP, "websocket", "the network has told no WebSocket"),
        closed => match closed.iter().find(|way| is_open(way)) {
            Some((to, _)) => pass(GROUP, "websocket", format!("{to} speaks WebSocket")),
            None => shut("websocket", closed, any),
        },
    });
    findings
}

fn shut(check: &'static str, ways: &Ways, any: bool) -> Finding {
    let why = |tried: &Tried| {
        let results =
            [tried.tcp.clone().map(|tcp| tcp.map(|_| ())), tried.tls.clone(), tried.greeting.clone().map(|words| words.map(|_| ()))];
        results.into_iter().flatten().find_map(Result::err).unwrap_or_else(|| "no answer".to_owned())
    };
    let said: Vec<String> = ways.iter().map(|(to, tried)| format!("{to}: {}", why(tried))).collect();
    let to = ways.first().map(|(to, _)| to.clone()).unwrap_or_default();
    if any {
        let detail = format!("{}; another way is open", said.join("; "));
        return bad(
            GROUP,
            check,
            Verdict::Warn,
            detail,
            format!("let {to} through this network's firewall; until then the other way is used"),
        );
    }
    bad(GROUP, check, Verdict::Fail, said.join("; "), "ask the operator whether the hub is up, and still at this address")
}

fn tcp(direct: &Ways, any: bool) -> Finding {
    let open =
        direct.iter().find_map(|(to, tried)| Some((to, (*tried.tcp.as_ref()?.as_ref().ok()?), tried.greeting.as_ref()?.as_ref().ok()?)));
    match open {
        Some((to, took, _)) if took < SLOW => pass(GROUP, "tcp", format!("{to} answers after {} ms", took.as_millis())),
        Some((to, took, _)) => {
            let host = to.rsplit_once(':').map_or(to.as_str(), |(host, _)| host);
            bad(GROUP, "tcp", Verdict::Warn, format!("{to} answers after {} ms", took.as_millis()), format!("ping -c 5 {host}"))
        }
        None if direct.is_empty() => bad(GROUP, "tcp", Verdict::Fail, "device.toml names no address of the hub", "mesh init --join INVITE"),
        None => shut("tcp", direct, any),
    }
}

fn tls(direct: &Ways, closed: &Ways) -> Finding {
    let tried: Vec<(&String, &Result<(), String>)> =
        direct.iter().chain(closed).filter_map(|(to, tried)| Some((to, tried.tls.as_ref()?))).collect();
    match (tried.iter().find_map(|(to, tls)| Some((to, tls.as_ref().err()?))), tried.is_empty()) {
        (Some((to, why)), _) => bad(GROUP, "tls", Verdict::Fail, format!("{to}: {why}"), "mesh init --join INVITE"),
        (None, true) => skipped(GROUP, "tls", "the hub is reached in plain text, or not at all"),
        (None, false) => pass(GROUP, "tls", "certificates of the network's CA"),
    }
}

fn server(direct: &Ways) -> Option<Finding> {
    let (to, version) = direct.iter().find_map(|(to, tried)| Some((to, tried.greeting.as_ref()?.as_ref().ok()?)))?;
    Some(match bus::connect::check_version(version) {
        Ok(()) => pass(GROUP, "server", format!("nats-server {version} at {to}")),
        Err(_) => bad(
            GROUP,
            "server",
            Verdict::Fail,
            format!("nats-server {version} at {to} is too old"),
            "ask the operator to update the hub's nats-server",
        ),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_are_ways() {
        let way = |host: &str, port, tls, websocket| Some(Way { host: host.into(), port, tls, websocket });
        for (url, expected) in [
            ("nats://127.0.0.1:7422", way("127.0.0.1", 7422, false, false)),
            ("tls://hub.example:7000", way("hub.example", 7000, true, false)),
            ("wss://hub.example", way("hub.example", 443, true, true)),
            ("ws://[::1]:8080", way("::1", 8080, false, true)),
            ("http://hub", None),
            ("hub:1", None),
        ] {
            assert_eq!(Way::of(url), expected, "{url}");
        }
    }

    #[test]
    fn a_closed_way_matters_where_no_other_is_open() {
        let ms = Duration::from_millis(5);
        let up = |tls: bool| Tried { tcp: Some(Ok(ms)), tls: tls.then_some(Ok(())), greeting: Some(Ok("2.15.1".into())) };
        let refused = Tried { tcp: Some(Err("refused".into())), ..Tried::default() };
        let other_ca = Tried { tls: Some(Err("another CA".into())), ..up(true) };
        let old = Tried { greeting: Some(Ok("2.10.4".into())), ..up(false) };
        let slow = Tried { tcp: Some(Ok(SLOW)), ..up(false) };
        let dumb = Tried { greeting: Some(Err("it does not speak".into())), ..up(false) };
        let verdicts = |direct: &Tried, closed: Option<&Tried>| {
            let ways = |tried: Option<&Tried>| tried.map(|tried| ("hub:1".to_owned(), tried.clone())).into_iter().collect::<Vec<_>>();
            let findings = told(&ways(Some(direct)), &ways(closed));
            for finding in &findings {
                assert_eq!(finding.fix.is_some(), matches!(finding.verdict, Verdict::Warn | Verdict::Fail), "{finding:?}");
            }
            findings.iter().map(|finding| format!("{} {:?}", finding.check, finding.verdict)).collect::<Vec<_>>().join(", ")
        };
        for (direct, closed, expected) in [
            (&up(false), None, "tcp Pass, tls Skipped, server Pass, websocket Skipped"),
            (&up(true), Some(&up(true)), "tcp Pass, tls Pass, server Pass, websocket Pass"),
            (&refused, Some(&up(true)), "tcp Warn, tls Pass, websocket Pass"),
            (&refused, Some(&refused), "tcp Fail, tls Skipped, websocket Fail"),
            (&refused, None, "tcp Fail, tls Skipped, websocket Skipped"),
            (&up(true), Some(&refused), "tcp Pass, tls Pass, server Pass, websocket Warn"),
            (&other_ca, None, "tcp Pass, tls Fail, server Pass, websocket Skipped"),
            (&old, None, "tcp Pass, tls Skipped, server Fail, websocket Skipped"),
            (&slow, None, "tcp Warn, tls Skipped, server Pass, websocket Skipped"),
            (&dumb, None, "tcp Fail, tls Skipped, websocket Skipped"),
        ] {
            assert_eq!(verdicts(direct, closed), expected);
        }
        assert!(version("+OK").is_err() && version("INFO {}").is_err());
        assert_eq!(version("INFO {\"version\":\"2.15.1\"}\r\nPING"), Ok("2.15.1".into()));
    }
}
