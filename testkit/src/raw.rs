//! A publisher that writes bytes as they stand: what no client library would send, and any stranger can.

use std::fmt::Write as _;
use std::path::Path;

use tokio::io::{AsyncBufReadExt, AsyncWriteExt, BufReader};
use tokio::net::TcpStream;

use crate::HUNG;

const CHUNK: usize = 64 * 1024;

/// A connection to a NATS server.
pub struct Raw {
    stream: BufReader<TcpStream>,
}

impl Raw {
    /// Connects to `nats://host:port`, with a credentials file where one is needed.
    ///
    /// # Panics
    /// Where it is refused.
    pub async fn connect(url: &str, creds: Option<&Path>) -> Self {
        let address = url.strip_prefix("nats://").expect("a nats:// URL");
        let mut raw = Self { stream: BufReader::new(TcpStream::connect(address).await.expect("the server listens")) };
        let info = raw.line().await;
        let info: serde_json::Value = serde_json::from_str(info.strip_prefix("INFO ").expect("INFO")).expect("JSON");
        let login = creds.map_or_else(String::new, |creds| {
            let text = std::fs::read_to_string(creds).expect("the credentials");
            let (jwt, seed) = bus::connect::parse_creds(&text).expect("credentials");
            let nonce = info["nonce"].as_str().expect("a nonce");
            let signature = nkeys::KeyPair::from_seed(seed).and_then(|key| key.sign(nonce.as_bytes())).expect("a signature");
            let signature = data_encoding::BASE64URL_NOPAD.encode(&signature);
            format!(r#","jwt":"{jwt}","sig":"{signature}""#)
        });
        raw.write(
            format!("CONNECT {{\"verbose\":false,\"headers\":true,\"protocol\":1,\"lang\":\"raw\",\"version\":\"1\"{login}}}\r\n")
                .as_bytes(),
        )
        .await;
        raw.arrived().await;
        raw
    }

    /// Publishes a body under a header block as it stands, its first line with it.
    ///
    /// # Panics
    /// Where the server refuses it.
    pub async fn publish(&mut self, subject: &str, reply: Option<&str>, block: &[u8], body: &[u8]) {
        let mut line = format!("HPUB {subject} ");
        if let Some(reply) = reply {
            let _ = write!(line, "{reply} ");
        }
        let _ = write!(line, "{} {}\r\n", block.len(), block.len() + body.len());
        self.write(&[line.as_bytes(), block, body, b"\r\n"].concat()).await;
        self.arrived().await;
    }

    /// Begins to publish so many bytes, and goes on as long as the server reads; what the server says to it, until it hangs up.
    pub async fn refused(mut self, subject: &str, bytes: usize) -> String {
        let stream = self.stream.get_mut();
        let mut sent = stream.write_all(format!("PUB {subject} {bytes}\r\n").as_bytes()).await;
        for _ in 0..bytes / CHUNK {
            if sent.is_err() {
                break;
            }
            sent = stream.write_all(&[b'x'; CHUNK]).await;
        }
        let mut said = String::new();
        let mut line = String::new();
        while let Ok(1..) = tokio::time::timeout(HUNG, self.stream.read_line(&mut line)).await.expect("hung: the server says nothing") {
            said.push_str(&std::mem::take(&mut line));
        }
        said
    }

    /// Subscribes, and reads nothing from then on. The connection stays as long as this does.
    pub async fn stall(mut self, subject: &str) -> Self {
        self.write(format!("SUB {subject} 1\r\n").as_bytes()).await;
        self.arrived().await;
        self
    }

    async fn write(&mut self, bytes: &[u8]) {
        self.stream.get_mut().write_all(bytes).await.expect("the server reads");
    }

    /// Waits until the server has read everything.
    async fn arrived(&mut self) {
        self.write(b"PING\r\n").await;
        loop {
            match self.line().await.as_str() {
                "PONG" => return,
                "PING" => self.write(b"PONG\r\n").await,
                other => assert!(!other.starts_with("-ERR"), "the server says {other}"),
            }
        }
    }

    async fn line(&mut self) -> String {
        let mut line = String::new();
        let read = tokio::time::timeout(HUNG, self.stream.read_line(&mut line)).await;
        assert!(read.expect("hung: the server says nothing").expect("the server speaks") > 0, "the server closed the connection");
        line.trim_end().to_owned()
    }
}
