//! TLS as every part uses it: whom a client trusts, what a server shows, and in plain words what is wrong with a certificate.
//!
//! A client that is given a CA trusts that one alone, not the system's besides. A server reads its files again when they change, so a
//! certificate is renewed without a restart. Plain text is for loopback; [`leaves_this_machine`] says which addresses are beyond it.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant, SystemTime};

use anyhow::{Context as _, ensure};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::server::{ClientHello, ResolvesServerCert};
use rustls::sign::CertifiedKey;
use rustls::{CertificateError, ClientConfig, RootCertStore, ServerConfig};
use tokio::io::AsyncWriteExt;
use tokio::net::TcpStream;
use tokio_rustls::TlsAcceptor;
use tokio_rustls::server::TlsStream;

use crate::connect::install_tls;

/// Certificates of a PEM file, in its order.
///
/// # Errors
/// Where it cannot be read or holds none.
pub fn certificates(path: &Path) -> anyhow::Result<Vec<CertificateDer<'static>>> {
    let pem = std::fs::read(path).with_context(|| format!("failed to read {}", path.display()))?;
    let all: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(&pem).collect();
    let all = all.with_context(|| format!("{} is no file of certificates", path.display()))?;
    ensure!(!all.is_empty(), "{} holds no certificate", path.display());
    Ok(all)
}

/// How a CA is named in invites and in the network document: SHA-256 of its certificate (DER), in hex.
pub fn fingerprint(certificate: &[u8]) -> String {
    data_encoding::HEXLOWER.encode(&bus_schemas::id::sha256(certificate))
}

/// As [`fingerprint`], of the first certificate of a PEM file.
///
/// # Errors
/// As [`certificates`].
pub fn fingerprint_of(path: &Path) -> anyhow::Result<String> {
    Ok(fingerprint(&certificates(path)?.swap_remove(0)))
}

/// Trusts the certificates of this file and no other; without a file those of the system.
///
/// # Errors
/// Where the file is no CA's.
pub fn client(ca: Option<&Path>) -> anyhow::Result<ClientConfig> {
    install_tls();
    let mut roots = RootCertStore::empty();
    match ca {
        Some(path) => {
            for certificate in certificates(path)? {
                roots.add(certificate).with_context(|| format!("{} is no CA certificate", path.display()))?;
            }
        }
        // A machine without any is told so by the first handshake.
        None => drop(roots.add_parsable_certificates(rustls_native_certs::load_native_certs().certs)),
    }
    Ok(ClientConfig::builder().with_root_certificates(roots).with_no_client_auth())
}

/// What is wrong with a server's certificate, where that is why a connection failed.
pub fn complaint(error: &(dyn std::error::Error + 'static)) -> Option<&'static str> {
    let mut next = Some(error);
    while let Some(error) = next {
        if let Some(rustls) = error.downcast_ref::<rustls::Error>() {
            return Some(in_words(rustls));
        }
        // A wrapped error of an i/o error is its content, not its source.
        let inner = error.downcast_ref::<std::io::Error>().and_then(std::io::Error::get_ref);
        next = inner.map(|inner| inner as &(dyn std::error::Error + 'static)).or_else(|| error.source());
    }
    None
}

fn in_words(error: &rustls::Error) -> &'static str {
    let rustls::Error::InvalidCertificate(wrong) = error else { return "it does not speak TLS as it should" };
    #[allow(clippy::wildcard_enum_match_arm)] // there are thirty of them, and more with each version
    match wrong {
        CertificateError::Expired | CertificateError::ExpiredContext { .. } => "its certificate has expired",
        CertificateError::NotValidYet | CertificateError::NotValidYetContext { .. } => {
            "its certificate is not valid yet; is this machine's clock right?"
        }
        CertificateError::NotValidForName | CertificateError::NotValidForNameContext { .. } => "its certificate is for another host name",
        // The second: its issuer has the same name, and another key.
        CertificateError::UnknownIssuer | CertificateError::BadSignature => "its certificate is of another CA than the network's",
        CertificateError::Revoked => "its certificate was revoked",
        _ => "its certificate is not valid",
    }
}

/// Whether what is said in plain text to this address, or heard on it, passes other hands than this machine's.
pub fn leaves_this_machine(address: &SocketAddr) -> bool {
    !address.ip().to_canonical().is_loopback()
}

/// As [`leaves_this_machine`], of a URL: `http://host:port/…`, `nats://host:port`. One that is encrypted does not.
pub fn is_plain_to_others(url: &str) -> bool {
    let (scheme, rest) = url.split_once("://").unwrap_or(("", url));
    if matches!(scheme, "https" | "tls" | "wss") {
        return false;
    }
    let host = rest.split(['/', '?']).next().unwrap_or_default().rsplit('@').next().unwrap_or_default();
    let host = match host.strip_prefix('[') {
        Some(six) => six.split(']').next().unwrap_or_default(),
        None => host.split(':').next().unwrap_or_default(),
    };
    let loopback = host.parse::<std::net::IpAddr>().is_ok_and(|ip| ip.to_canonical().is_loopback());
    !loopback && host != "localhost" && !host.is_empty()
}

/// Files of a server: certificate with those between it and its CA, private key, and a private CA's certificate, which is shown as well so
/// that a joining device can compare it with its invite.
#[derive(Debug, Clone)]
pub struct ServerFiles {
    pub cert: PathBuf,
    pub key: PathBuf,
    pub ca: Option<PathBuf>,
}

impl ServerFiles {
    fn read(&self) -> anyhow::Result<CertifiedKey> {
        let mut chain = certificates(&self.cert)?;
        if let Some(ca) = &self.ca {
            let ca = certificates(ca)?.swap_remove(0);
            if !chain.contains(&ca) {
                chain.push(ca);
            }
        }
        let pem = crate::keys::read_secret(&self.key)?;
        let key = PrivateKeyDer::from_pem_slice(pem.as_bytes()).with_context(|| format!("{} is no private key", self.key.display()))?;
        let signer = rustls::crypto::ring::sign::any_supported_type(&key)
            .with_context(|| format!("{} is a key of a kind that is not used", self.key.display()))?;
        let pair = CertifiedKey::new(chain, signer);
        pair.keys_match().with_context(|| format!("{} is not the key of {}", self.key.display(), self.cert.display()))?;
        Ok(pair)
    }
    fn changed(&self) -> Option<SystemTime> {
        let at = |path: &PathBuf| std::fs::metadata(path).and_then(|meta| meta.modified()).ok();
        at(&self.cert).max(at(&self.key))
    }

    /// # Errors
    /// Where a file is missing, open to others, or not what it should be.
    pub fn config(&self) -> anyhow::Result<ServerConfig> {
        install_tls();
        let shown = Shown { now: Arc::new(self.read()?), changed: self.changed(), looked: Instant::now() };
        let fresh = Fresh { files: self.clone(), shown: Mutex::new(shown) };
        let mut config = ServerConfig::builder().with_no_client_auth().with_cert_resolver(Arc::new(fresh));
        config.alpn_protocols = vec![b"http/1.1".to_vec()];
        Ok(config)
    }
}

/// How often the files are looked at.
const LOOK: Duration = Duration::from_secs(10);

#[derive(Debug)]
struct Shown {
    now: Arc<CertifiedKey>,
    changed: Option<SystemTime>,
    looked: Instant,
}
#[derive(Debug)]
struct Fresh {
    files: ServerFiles,
    shown: Mutex<Shown>,
}
impl ResolvesServerCert for Fresh {
    fn resolve(&self, _: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        let mut shown = self.shown.lock().unwrap_or_else(PoisonError::into_inner);
        if shown.looked.elapsed() > LOOK {
            shown.looked = Instant::now();
            let changed = self.files.changed();
            if changed != shown.changed {
                match self.files.read() {
                    Ok(pair) => (shown.now, shown.changed) = (Arc::new(pair), changed),
                    Err(error) => tracing::error!(error = format!("{error:#}"), "the new certificate cannot be used; the old one stays"),
                }
            }
        }
        Some(shown.now.clone())
    }
}

/// The first byte of TLS; what begins otherwise is plain text.
const TLS_RECORD: u8 = 0x16;
const PLAIN: &[u8] =
    b"HTTP/1.1 400 Bad Request\r\nContent-Type: text/plain\r\nConnection: close\r\n\r\nthis port speaks TLS: use https://\n";

/// The beginning of a server's connection; who speaks plain text is told so.
///
/// # Errors
/// Where it does not get to TLS.
pub async fn handshake(mut stream: TcpStream, acceptor: &TlsAcceptor) -> std::io::Result<TlsStream<TcpStream>> {
    let _ = stream.set_nodelay(true);
    let mut first = [0];
    if stream.peek(&mut first).await? == 1 && first[0] != TLS_RECORD {
        stream.write_all(PLAIN).await?;
        stream.shutdown().await?;
        return Err(std::io::Error::other("it spoke plain text"));
    }
    acceptor.accept(stream).await
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn plain_text_is_for_loopback() {
        for url in [
            "http://127.0.0.1:80/x",
            "nats://localhost:1",
            "http://[::1]:80",
            "https://example.org",
            "tls://h:1",
            "wss://h",
            "nats://u:p@127.0.0.1:4",
        ] {
            assert!(!is_plain_to_others(url), "{url}");
        }
        for url in
            ["http://10.0.0.1:80", "nats://hub:4222", "http://[2001:db8::1]:80/x", "ws://h:1", "hub:4222", "http://127.0.0.1@evil.example/"]
        {
            assert!(is_plain_to_others(url), "{url}");
        }
        let at = |text: &str| leaves_this_machine(&text.parse().unwrap());
        assert!(!at("127.0.0.1:1") && !at("[::1]:1") && !at("[::ffff:127.0.0.1]:1"));
        assert!(at("0.0.0.0:1") && at("[::]:1") && at("192.0.2.1:1"));
    }

    #[test]
    fn what_is_wrong_is_found_inside() {
        let wrong = rustls::Error::InvalidCertificate(CertificateError::Expired);
        assert_eq!(complaint(&std::io::Error::other(wrong)), Some("its certificate has expired"));
        assert_eq!(complaint(&std::io::Error::other("x")), None);
    }
}
