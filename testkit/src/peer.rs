//! A peer that speaks the client or the leaf protocol of NATS by hand: what no library would send, and any stranger can.
//!
//! [`crate::raw::Raw`] is for a publisher that must not be refused; this one expects to be, and takes note of all that the server says.

use std::fmt::Write as _;
use std::path::Path;
use std::time::Duration;

use serde_json::{Value, json};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use crate::HUNG;

/// A message that came.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Heard {
    pub subject: String,
    /// Where the answer goes; of a client's messages only.
    pub reply: Option<String>,
    pub headers: Vec<u8>,
    pub body: Vec<u8>,
}
impl Heard {
    /// Whether these bytes stand anywhere in it.
    pub fn holds(&self, marker: &str) -> bool {
        let within = |bytes: &[u8]| bytes.windows(marker.len()).any(|window| window == marker.as_bytes());
        self.subject.contains(marker) || within(&self.headers) || within(&self.body)
    }
}

/// One connection, with everything that it was told.
pub struct Peer {
    stream: TcpStream,
    leaf: bool,
    subscriptions: u32,
    unread: Vec<u8>,
    pub heard: Vec<Heard>,
    /// The texts of `-ERR`.
    pub errors: Vec<String>,
    /// The server has closed it.
    pub closed: bool,
}

/// The fields of CONNECT that log in with a credentials file.
///
/// # Errors
/// Where the file cannot be read.
///
/// # Panics
/// Where it holds no credentials.
pub fn login(info: &Value, creds: &Path) -> std::io::Result<Value> {
    let text = std::fs::read_to_string(creds)?;
    let (jwt, seed) = bus::connect::parse_creds(&text).expect("credentials");
    let nonce = info["nonce"].as_str().unwrap_or_default();
    let signature = nkeys::KeyPair::from_seed(seed).and_then(|key| key.sign(nonce.as_bytes())).expect("a signature");
    Ok(json!({"jwt": jwt, "sig": data_encoding::BASE64URL_NOPAD.encode(&signature)}))
}

fn broken(why: &str) -> std::io::Error {
    std::io::Error::other(why.to_owned())
}

impl Peer {
    /// A client of `nats://host:port`. What is in `more` goes into CONNECT last, so it may replace anything.
    ///
    /// # Errors
    /// Where the server refuses it, in its words.
    pub async fn client(url: &str, creds: Option<&Path>, more: &Value) -> std::io::Result<Self> {
        let hello = json!({"verbose": false, "pedantic": false, "headers": true, "no_responders": true, "protocol": 1, "lang": "raw", "version": "1"});
        Self::connect(url, creds, false, hello, more).await
    }

    /// A leaf of `nats://host:port`, as a server of that name would be.
    ///
    /// # Errors
    /// As [`Self::client`].
    pub async fn leaf(url: &str, creds: Option<&Path>, name: &str, more: &Value) -> std::io::Result<Self> {
        let hello = json!({"version": "2.15.2", "server_id": name, "name": name, "headers": true, "protocol": 1});
        Self::connect(url, creds, true, hello, more).await
    }

    async fn connect(url: &str, creds: Option<&Path>, leaf: bool, hello: Value, more: &Value) -> std::io::Result<Self> {
        let address = url.split("://").nth(1).ok_or_else(|| broken("no URL"))?;
        let stream = TcpStream::connect(address).await?;
        let mut peer = Self { stream, leaf, subscriptions: 0, unread: vec![], heard: vec![], errors: vec![], closed: false };
        let info = peer.line().await?;
        let info: Value =
            serde_json::from_str(info.strip_prefix("INFO ").ok_or_else(|| broken("no INFO"))?).map_err(std::io::Error::other)?;
        let mut hello = hello;
        let fields = creds.map(|creds| login(&info, creds)).transpose()?.unwrap_or_else(|| json!({}));
        for (name, value) in [&fields, more].into_iter().filter_map(Value::as_object).flatten() {
            hello[name] = value.clone();
        }
        peer.say(format!("CONNECT {hello}\r\n").as_bytes()).await;
        peer.settle().await;
        if peer.closed || peer.errors.iter().any(|error| error.contains("Authorization")) {
            return Err(broken(&peer.errors.join("; ")));
        }
        Ok(peer)
    }

    /// Bytes as they stand; a connection that the server has closed takes none.
    pub async fn say(&mut self, bytes: &[u8]) {
        if self.stream.write_all(bytes).await.is_err() {
            self.closed = true;
        }
    }

    /// Shows interest in a subject, as one of a queue group where one is named.
    pub async fn subscribe(&mut self, subject: &str, queue: Option<&str>) {
        self.subscriptions += 1;
        let line = match (self.leaf, queue) {
            (true, None) => format!("LS+ {subject}\r\n"),
            (true, Some(queue)) => format!("LS+ {subject} {queue} 1\r\n"),
            (false, queue) => format!("SUB {subject} {} {}\r\n", queue.unwrap_or_default(), self.subscriptions),
        };
        self.say(line.as_bytes()).await;
    }

    /// Publishes, with a header block as it stands where there is one.
    pub async fn publish(&mut self, subject: &str, reply: Option<&str>, block: &[u8], body: &[u8]) {
        let verb = match (self.leaf, block.is_empty()) {
            (true, true) => "LMSG",
            (true, false) => "HMSG",
            (false, true) => "PUB",
            (false, false) => "HPUB",
        };
        let mut line = format!("{verb} {subject} ");
        if let Some(reply) = reply {
            let _ = write!(line, "{reply} ");
        }
        if !block.is_empty() {
            let _ = write!(line, "{} ", block.len());
        }
        let _ = write!(line, "{}\r\n", block.len() + body.len());
        self.say(&[line.as_bytes(), block, body, b"\r\n"].concat()).await;
    }

    /// Waits until the server has read everything that was said, or has closed the connection.
    pub async fn settle(&mut self) {
        self.say(b"PING\r\n").await;
        while !self.closed {
            match self.line().await {
                Ok(line) if line == "PONG" => return,
                Ok(line) => self.take(&line).await,
                Err(_) => self.closed = true,
            }
        }
    }

    /// Takes note of what comes until it has heard something, or this long.
    pub async fn listen(&mut self, within: Duration) {
        let until = tokio::time::Instant::now() + within;
        let before = self.heard.len();
        while !self.closed && self.heard.len() == before {
            match tokio::time::timeout_at(until, self.line()).await {
                Ok(Ok(line)) => self.take(&line).await,
                Ok(Err(_)) => self.closed = true,
                Err(_) => return,
            }
        }
    }

    async fn take(&mut self, line: &str) {
        if line == "PING" {
            self.say(b"PONG\r\n").await;
        } else if let Some(error) = line.strip_prefix("-ERR") {
            self.errors.push(error.trim().trim_matches('\'').to_owned());
        } else if line.starts_with("MSG ") || line.starts_with("LMSG ") || line.starts_with("HMSG ") {
            let parts: Vec<&str> = line.split_whitespace().collect();
            let number = |back: usize| parts.len().checked_sub(back).and_then(|at| parts[at].parse::<usize>().ok()).unwrap_or_default();
            let total = number(1);
            let block = if line.starts_with('H') { number(2).min(total) } else { 0 };
            let Ok(mut bytes) = self.bytes(total + 2).await else {
                self.closed = true;
                return;
            };
            bytes.truncate(total);
            let body = bytes.split_off(block);
            // MSG subject sid [reply] total, HMSG subject sid [reply] headers total.
            let with_reply = !self.leaf && parts.len() == if line.starts_with('H') { 6 } else { 5 };
            let reply = with_reply.then(|| parts[3].to_owned());
            self.heard.push(Heard { subject: parts.get(1).copied().unwrap_or_default().to_owned(), reply, headers: bytes, body });
        }
    }

    async fn line(&mut self) -> std::io::Result<String> {
        loop {
            if let Some(end) = self.unread.iter().position(|byte| *byte == b'\n') {
                let line: Vec<u8> = self.unread.drain(..=end).collect();
                return Ok(String::from_utf8_lossy(&line).trim_end().to_owned());
            }
            self.more().await?;
        }
    }
    async fn bytes(&mut self, count: usize) -> std::io::Result<Vec<u8>> {
        while self.unread.len() < count {
            self.more().await?;
        }
        Ok(self.unread.drain(..count).collect())
    }
    /// Cancel-safe: what was read stays.
    async fn more(&mut self) -> std::io::Result<()> {
        let mut chunk = [0_u8; 16 * 1024];
        let read = tokio::time::timeout(HUNG, self.stream.read(&mut chunk)).await.expect("hung: the server says nothing")?;
        if read == 0 {
            return Err(broken("closed"));
        }
        self.unread.extend_from_slice(&chunk[..read]);
        Ok(())
    }
}
