//! TLS of the hub: a CA of the network's own with a certificate that is renewed by running bootstrap again, or files that are given.
//!
//! ```text
//! ca.pem         the CA's certificate; its hash stands in invites and in the network document
//! keys/ca.key    signs the hub's certificates; needed only when one is made, may lie offline meanwhile     0600
//! tls.pem        the hub's certificate, followed by the CA's
//! keys/tls.key   its key                                                                                   0600
//! tls.json       for which names, until when
//! ```

use std::collections::BTreeSet;
use std::net::IpAddr;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, ensure};
use bus_schemas::NetworkId;
use rcgen::{
    BasicConstraints, CertificateParams, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair, KeyUsagePurpose, PKCS_ECDSA_P256_SHA256,
};
use serde::{Deserialize, Serialize};
use time::OffsetDateTime;

use super::hub_conf::TlsFiles;
use super::net_dir::{Change, NetDir};
use super::nodes::Nodes;

/// Flags of `bootstrap files` about TLS.
#[derive(Debug, Clone, Default, clap::Args)]
pub struct TlsArgs {
    /// Names and addresses under which others reach the hub, separated by commas: makes a CA of the network's own and a certificate for them [once made, both stay].
    #[arg(long, value_name = "NAMES", value_delimiter = ',', conflicts_with = "tls_cert")]
    pub tls_names: Vec<String>,
    /// A certificate that there is already; with --tls-key it turns TLS on at every door.
    #[arg(long, requires = "tls_key")]
    pub tls_cert: Option<PathBuf>,
    #[arg(long, requires = "tls_cert")]
    pub tls_key: Option<PathBuf>,
    /// Certificate of a private CA that made it; its hash goes into invites and the network document.
    #[arg(long, requires = "tls_cert")]
    pub tls_ca: Option<PathBuf>,
    /// Listen without TLS also where others can connect: only for a network that nobody else is on, such as one of containers.
    #[arg(long, env = "MESH_ALLOW_PLAIN")]
    pub allow_plain: bool,
}

/// Days that the CA and a certificate last; a certificate is made anew once half of its are over.
const CA_DAYS: i64 = 3650;
const CERTIFICATE_DAYS: i64 = 397;
/// A device whose clock is behind must not find it in its future.
const BEFORE_DAYS: i64 = 2;
const DAY_S: i64 = 24 * 3600;

/// What is in tls.json.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
struct Made {
    names: BTreeSet<String>,
    /// Unix seconds.
    from_s: u64,
    until_s: u64,
}

/// The files of the hub's TLS, made or renewed where they are our own; `None` where it has none. `now_s` is Unix time in seconds.
///
/// # Errors
/// Where a listener would be open to others without TLS (named), a name can be in no certificate, or a file is missing or useless.
pub fn files(
    args: &TlsArgs,
    nodes: &Nodes,
    dir: &NetDir,
    network: &NetworkId,
    now_s: u64,
    changes: &mut Vec<Change>,
) -> anyhow::Result<Option<TlsFiles>> {
    let files = match (&args.tls_cert, &args.tls_key) {
        (Some(cert), Some(key)) => Some(given(cert, key, args.tls_ca.as_deref())?),
        (Some(_), None) | (None, Some(_)) | (None, None) => own(args, nodes, dir, network, now_s, changes)?,
    };
    if !args.allow_plain {
        let open = open_to_others(nodes, files.is_some());
        ensure!(
            open.is_empty(),
            "error[M0116]: others could listen in on {} (next: --tls-names HOST for a CA of the network's own, or --tls-cert and --tls-key; the monitoring port stays on loopback; --allow-plain where nobody else is on that network)",
            open.join(", ")
        );
    }
    Ok(files)
}

fn given(cert: &Path, key: &Path, ca: Option<&Path>) -> anyhow::Result<TlsFiles> {
    let absolute = |path: &Path| std::path::absolute(path).with_context(|| format!("{} is no path", path.display()));
    let files = TlsFiles { cert: absolute(cert)?, key: absolute(key)?, ca: ca.map(absolute).transpose()? };
    // Better now than in the log of a server that does not start.
    bus::tls::ServerFiles { cert: files.cert.clone(), key: files.key.clone(), ca: files.ca.clone() }.config()?;
    Ok(files)
}

fn own(
    args: &TlsArgs,
    nodes: &Nodes,
    dir: &NetDir,
    network: &NetworkId,
    now_s: u64,
    changes: &mut Vec<Change>,
) -> anyhow::Result<Option<TlsFiles>> {
    let (json, cert, key) = (dir.root().join("tls.json"), dir.tls_cert(), dir.tls_key());
    let found: Option<Made> = if json.exists() {
        let text = std::fs::read_to_string(&json).with_context(|| format!("failed to read {}", json.display()))?;
        Some(serde_json::from_str(&text).with_context(|| format!("error[M0206]: {} is damaged", json.display()))?)
    } else {
        None
    };
    let names = match (&found, args.tls_names.as_slice()) {
        (None, []) => return Ok(None),
        (Some(found), []) => found.names.clone(),
        (_, asked) => names(asked, nodes)?,
    };
    let fresh = |made: &&Made| made.names == names && now_s >= made.from_s && now_s < made.from_s + (made.until_s - made.from_s) / 2;
    if found.as_ref().filter(fresh).is_none() || !cert.exists() || !key.exists() {
        let made = issue(&names, dir, network, now_s, changes)?;
        dir.put(&json, serde_json::to_string_pretty(&made)?.as_bytes(), changes)?;
    }
    Ok(Some(TlsFiles { cert, key, ca: Some(dir.ca_cert()) }))
}

/// Of this machine, of what was asked for, and of the nodes as they find each other.
fn names(asked: &[String], nodes: &Nodes) -> anyhow::Result<BTreeSet<String>> {
    let here = ["localhost", "127.0.0.1", "::1"].map(str::to_owned);
    let routes = nodes.routes.iter().filter_map(|route| route.rsplit_once(':')).map(|(host, _)| host.trim_matches(['[', ']']).to_owned());
    let names: BTreeSet<String> = here.into_iter().chain(asked.iter().map(|name| name.trim().to_owned())).chain(routes).collect();
    for name in &names {
        let fine = name.parse::<IpAddr>().is_ok_and(|ip| !ip.is_unspecified()) || is_host(name);
        ensure!(fine, "--tls-names {name}: a host name or an address is expected, without a port");
    }
    Ok(names)
}

fn is_host(name: &str) -> bool {
    let label = |label: &str| {
        !label.is_empty()
            && label.len() <= 63
            && label.chars().all(|c| c.is_ascii_alphanumeric() || matches!(c, '-' | '_'))
            && !label.starts_with('-')
    };
    name.len() <= 253 && name.split('.').all(label) && name.chars().any(|c| c.is_ascii_alphabetic())
}

fn day(now_s: u64, days: i64) -> anyhow::Result<OffsetDateTime> {
    OffsetDateTime::from_unix_timestamp(i64::try_from(now_s)? + days * DAY_S).context("the clock is far off")
}

fn ca_params(network: &NetworkId, now_s: u64) -> anyhow::Result<CertificateParams> {
    let mut params = CertificateParams::default();
    params.distinguished_name.remove(DnType::CommonName);
    params.distinguished_name.push(DnType::CommonName, format!("mesh CA of {network}"));
    params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
    (params.not_before, params.not_after) = (day(now_s, -BEFORE_DAYS)?, day(now_s, CA_DAYS)?);
    Ok(params)
}

/// The CA's key, made with its certificate the first time.
fn ca(dir: &NetDir, network: &NetworkId, now_s: u64, changes: &mut Vec<Change>) -> anyhow::Result<KeyPair> {
    let (key_path, cert_path) = (dir.ca_key(), dir.ca_cert());
    if cert_path.exists() {
        let pem = bus::keys::read_secret(&key_path).with_context(|| {
            format!("error[M0206]: {} has to sign a certificate; put it back (another one would be another CA)", dir.shown(&key_path))
        })?;
        return KeyPair::from_pem(&pem).with_context(|| format!("error[M0206]: {} is damaged", dir.shown(&key_path)));
    }
    let key = if key_path.exists() {
        KeyPair::from_pem(&bus::keys::read_secret(&key_path)?)?
    } else {
        KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256)?
    };
    dir.put(&key_path, key.serialize_pem().as_bytes(), changes)?;
    let cert = ca_params(network, now_s)?.self_signed(&key)?;
    dir.put(&cert_path, cert.pem().as_bytes(), changes)?;
    Ok(key)
}

/// A new certificate and key for these names.
fn issue(names: &BTreeSet<String>, dir: &NetDir, network: &NetworkId, now_s: u64, changes: &mut Vec<Change>) -> anyhow::Result<Made> {
    let ca_key = ca(dir, network, now_s, changes)?;
    let about_ca = ca_params(network, now_s)?;
    let issuer = Issuer::from_params(&about_ca, &ca_key);
    let mut params = CertificateParams::new(names.iter().cloned().collect::<Vec<_>>())?;
    params.distinguished_name.remove(DnType::CommonName);
    params.distinguished_name.push(DnType::CommonName, "mesh hub");
    params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
    // Nodes show it to each other, from both ends.
    params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth, ExtendedKeyUsagePurpose::ClientAuth];
    params.use_authority_key_identifier_extension = true;
    (params.not_before, params.not_after) = (day(now_s, -BEFORE_DAYS)?, day(now_s, CERTIFICATE_DAYS)?);
    let key = KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256)?;
    let cert = params.signed_by(&key, &issuer)?;
    let ca_pem = std::fs::read_to_string(dir.ca_cert())?;
    // Where it ends between the two, the next start finds no tls.json that fits and makes both again.
    let json = dir.root().join("tls.json");
    if json.exists() {
        std::fs::remove_file(&json).with_context(|| format!("failed to remove {}", json.display()))?;
    }
    dir.put(&dir.tls_key(), key.serialize_pem().as_bytes(), changes)?;
    dir.put(&dir.tls_cert(), format!("{}{ca_pem}", cert.pem()).as_bytes(), changes)?;
    Ok(Made { names: names.clone(), from_s: now_s, until_s: now_s + u64::try_from(CERTIFICATE_DAYS * DAY_S)? })
}

/// Listeners that speak plain text to others than this machine, as flags.
fn open_to_others(nodes: &Nodes, tls: bool) -> Vec<String> {
    let alone = nodes.routes.is_empty();
    let mut open = Vec::new();
    for node in &nodes.nodes {
        let encrypted = [
            ("--client-listen", Some(node.client_listen)),
            ("--leaf-listen", Some(node.leaf_listen)),
            ("--ws-listen", node.ws_listen),
            ("--route-listen", Some(node.route_listen).filter(|_| !alone)),
        ];
        let plain = [("--monitor-listen", Some(node.monitor_listen))];
        let all = encrypted.into_iter().filter(|_| !tls).chain(plain);
        open.extend(
            all.filter_map(|(flag, at)| Some((flag, at?)))
                .filter(|(_, at)| bus::tls::leaves_this_machine(at))
                .map(|(flag, at)| format!("{flag} {at}")),
        );
    }
    open.dedup();
    open
}
