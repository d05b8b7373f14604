//! Who answers at a gateway's address, before anything is said to it: an invite names the CA of its network by hash, and a server counts
//! only with a certificate of that CA, for that host, that is valid now.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use bus_schemas::network::Invite;
use bus_schemas::{Code, Problem};
use rustls::client::WebPkiServerVerifier;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::{CryptoProvider, ring, verify_tls12_signature, verify_tls13_signature};
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::{CertificateError, ClientConfig, DigitallySignedStruct, Error, RootCertStore, SignatureScheme};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;

use crate::home::Home;
use crate::http::{Http, each};

const WAIT: Duration = Duration::from_secs(10);

/// A client for the gateways of an invite. Where the invite names a CA, a server is checked against it first, with nothing sent but the
/// beginning of a handshake, and the CA's certificate is kept in the home: whatever the client says, it says to servers of that CA.
///
/// # Errors
/// [`Code::UntrustedServer`] where it is not the server that the invite means, [`Code::Unreachable`] where nobody answers.
pub async fn gateway_of(home: &Home, invite: &Invite) -> Result<Http, Problem> {
    let Some(sha256) = &invite.ca_sha256 else { return Http::to(&invite.url, None) };
    let certificate = authority_at_any(&invite.url, sha256).await?;
    let path = home.ca_file();
    let bad = |error: anyhow::Error| Problem::new(Code::BadFile, format!("{error:#}"));
    home.create().map_err(bad)?;
    bus::keys::write_secret(&path, pem(&certificate).as_bytes()).map_err(bad)?;
    Http::to(&invite.url, Some(&path))
}

/// As [`authority`], of the first server that has it. An impostor says more than one that is away.
async fn authority_at_any(urls: &str, sha256: &str) -> Result<CertificateDer<'static>, Problem> {
    let mut worst = Problem::new(Code::BadInvite, "the invite names no address");
    for url in each(urls) {
        match authority(url, sha256).await {
            Ok(certificate) => return Ok(certificate),
            Err(problem) if worst.code == Code::UntrustedServer => tracing::debug!(%problem, "not there either"),
            Err(problem) => worst = problem,
        }
    }
    Err(worst)
}

/// The certificate of the CA with this hash, from a server at `url` that it vouches for.
async fn authority(url: &str, sha256: &str) -> Result<CertificateDer<'static>, Problem> {
    let untrusted = |why: &str| Problem::new(Code::UntrustedServer, format!("{url}: {why}; nothing was sent to it"));
    let parts: hyper::Uri = url.parse().map_err(|error| Problem::new(Code::BadInvite, format!("{url}: {error}")))?;
    if parts.scheme_str() != Some("https") {
        return Err(untrusted("the invite names a CA, and the address is not https://"));
    }
    let host = parts.host().unwrap_or_default().trim_matches(['[', ']']).to_owned();
    let name = ServerName::try_from(host.clone()).map_err(|error| Problem::new(Code::BadInvite, format!("{url}: {error}")))?;
    let unreachable = |why: String| Problem::new(Code::Unreachable, format!("{url}: {why}"));
    let pinned = Arc::new(Pinned::new(sha256));
    let config = ClientConfig::builder_with_provider(pinned.provider.clone())
        .with_safe_default_protocol_versions()
        .map_err(|error| Problem::new(Code::Internal, error.to_string()))?
        .dangerous()
        .with_custom_certificate_verifier(pinned.clone())
        .with_no_client_auth();
    let shake = async {
        let stream =
            TcpStream::connect((host.as_str(), parts.port_u16().unwrap_or(443))).await.map_err(|error| unreachable(error.to_string()))?;
        TlsConnector::from(Arc::new(config)).connect(name, stream).await.map_err(|error| match bus::tls::complaint(&error) {
            Some(why) => untrusted(why),
            None => unreachable(error.to_string()),
        })
    };
    let late = |_| unreachable(format!("no answer within {} s", WAIT.as_secs()));
    drop(tokio::time::timeout(WAIT, shake).await.map_err(late)??);
    let found = pinned.found.lock().unwrap_or_else(PoisonError::into_inner).take();
    found.ok_or_else(|| untrusted("it showed no certificate"))
}

/// Believes a server whose certificate comes from the one CA with this hash; the server shows that one as well.
#[derive(Debug)]
struct Pinned {
    sha256: String,
    provider: Arc<CryptoProvider>,
    found: Mutex<Option<CertificateDer<'static>>>,
}

impl Pinned {
    fn new(sha256: &str) -> Self {
        Self { sha256: sha256.to_owned(), provider: Arc::new(ring::default_provider()), found: Mutex::default() }
    }
}

impl ServerCertVerifier for Pinned {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        server_name: &ServerName<'_>,
        ocsp_response: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        let authority = intermediates.iter().find(|shown| bus::tls::fingerprint(shown) == self.sha256);
        let authority = authority.ok_or(Error::InvalidCertificate(CertificateError::UnknownIssuer))?.clone().into_owned();
        let mut roots = RootCertStore::empty();
        roots.add(authority.clone())?;
        let verifier = WebPkiServerVerifier::builder_with_provider(Arc::new(roots), self.provider.clone()).build();
        let verifier = verifier.map_err(|error| Error::General(error.to_string()))?;
        let verified = verifier.verify_server_cert(end_entity, intermediates, server_name, ocsp_response, now)?;
        *self.found.lock().unwrap_or_else(PoisonError::into_inner) = Some(authority);
        Ok(verified)
    }
    fn verify_tls12_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        verify_tls12_signature(message, cert, dss, &self.provider.signature_verification_algorithms)
    }
    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        verify_tls13_signature(message, cert, dss, &self.provider.signature_verification_algorithms)
    }
    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.provider.signature_verification_algorithms.supported_schemes()
    }
}

fn pem(certificate: &[u8]) -> String {
    let text = data_encoding::BASE64.encode(certificate);
    let lines: Vec<&str> = (0..text.len()).step_by(64).map(|at| &text[at..text.len().min(at + 64)]).collect();
    format!("-----BEGIN CERTIFICATE-----\n{}\n-----END CERTIFICATE-----\n", lines.join("\n"))
}
