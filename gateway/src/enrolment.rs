//! Lets people and devices in: an invite and three signatures become an account, a binding, and short-lived logins.
//!
//! In: [`bus_schemas::network::EnrolRequest`] over HTTP, and for a renewal over the service as well. Out: facts asked of the ledger
//! (open, bind_device, attest_tier), the device's record in KV `devices`, rows in Postgres, and an [`EnrolReply`].
//! `check` decides and touches nothing, `rows` is Postgres, `mint` signs logins.
//!
//! Safe to run again: rows come first and take one use of the invite; everything after has the same effect once, so whoever lost
//! the answer asks again with the same keys and the same invite. Not here: revocation (the revoker), and any key of the operator.

pub mod check;
pub mod mint;
pub mod rows;

use std::path::PathBuf;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use anyhow::Context as _;
use bus::Bus;
use bus_schemas::code::{Code, Problem};
use bus_schemas::id::{Asker, DeviceId, MemberId, NetworkId};
use bus_schemas::ledger::{LedgerOutcome, Op};
use bus_schemas::network::{DeviceRecord, EnrolReply, Invite, NetworkDocument};
use bus_schemas::{Signer, UnixMs, Verifier, stream};
use deadpool_postgres::Pool;

use crate::ledger_client::{self, Asking};
use check::{Checked, Signed, check};
use mint::Minter;
use rows::Reserved;

/// How long a bearer token lives without a renewal.
const TOKEN_MS: u64 = 90 * 24 * 3600 * 1000;
/// How long the ledger may take before the joiner is told to try again.
const LEDGER_WITHIN: Duration = Duration::from_secs(20);
const KV_WITHIN: Duration = Duration::from_secs(10);

/// Settings of enrolment; the flags are those of `run::Settings`.
#[derive(Debug, Clone)]
pub struct EnrolSettings {
    /// Seed of the signing key of devices (keys/role-device.nk).
    pub role_device_key: PathBuf,
    /// Seed of the signing key of members (keys/role-member.nk).
    pub role_member_key: PathBuf,
    /// Public key of the EDGE account (edge.pub).
    pub edge_pub: PathBuf,
    /// Where devices reach the hub, as they are told.
    pub leaf_url: String,
    /// Where members reach the hub, as they are told.
    pub public_nats_url: String,
    /// Where gateways are reached, as members and devices are told; absent: as their invite says.
    pub public_gateway_url: Option<String>,
    /// Where both reach it by WebSocket, as they are told.
    pub ws_url: Option<String>,
    /// Pays devices by the tier they claim. For development: nobody has looked at them.
    pub attest_claimed: bool,
    /// Seconds that the logins of devices and members last; agents renew theirs at half of it.
    pub credentials_s: u64,
}

/// All that enrolment works with.
pub struct EnrolContext {
    pub bus: Bus,
    pub pool: Pool,
    /// The gateway's key.
    pub signer: Signer,
    pub net: NetworkId,
    /// The signed network document, verbatim.
    pub network_text: String,
    pub minter: Minter,
    pub leaf_url: String,
    pub nats_url: String,
    pub gateway_url: Option<String>,
    pub ws_url: Option<String>,
    pub attest_claimed: bool,
    credentials_s: u64,
    verifier: Mutex<Verifier>,
}

impl Asking for EnrolContext {
    fn bus(&self) -> &Bus {
        &self.bus
    }
    fn signer(&self) -> &Signer {
        &self.signer
    }
    fn net(&self) -> NetworkId {
        self.net
    }
}

impl EnrolContext {
    /// `network_text` is the content of network.json, already checked to be `document`.
    ///
    /// # Errors
    /// Where a role key cannot be read.
    pub fn new(
        settings: &EnrolSettings,
        bus: Bus,
        pool: Pool,
        signer: Signer,
        document: &NetworkDocument,
        network_text: String,
    ) -> anyhow::Result<Self> {
        Ok(Self {
            minter: Minter::read(&settings.role_device_key, &settings.role_member_key, &settings.edge_pub)?,
            bus,
            pool,
            signer,
            net: document.network,
            network_text,
            leaf_url: settings.leaf_url.clone(),
            nats_url: settings.public_nats_url.clone(),
            gateway_url: settings.public_gateway_url.clone(),
            ws_url: settings.ws_url.clone(),
            attest_claimed: settings.attest_claimed,
            credentials_s: settings.credentials_s,
            verifier: Mutex::default(),
        })
    }

    /// Looks at the files that the settings name.
    ///
    /// # Errors
    /// Where a role key cannot be read.
    pub fn check_files(settings: &EnrolSettings) -> anyhow::Result<()> {
        Minter::read(&settings.role_device_key, &settings.role_member_key, &settings.edge_pub).map(|_| ())
    }

    fn check(&self, body: &[u8], signed: Signed) -> Result<Checked, Problem> {
        let mut verifier = self.verifier.lock().unwrap_or_else(PoisonError::into_inner);
        check(&mut verifier, body, &self.net, self.bus.time.now_ms(), signed)
    }
}

/// `POST /api/v1/enrol`. For `member_only` the answer's `device_jwt` is empty and nothing is bound.
///
/// # Errors
/// What is wrong with the statement or the invite, [`Code::AlreadyEnrolled`], what the ledger refuses, or [`Code::Unavailable`]:
/// then the same keys may ask again with the same invite.
pub async fn enrol(ctx: &EnrolContext, body: &[u8]) -> Result<EnrolReply, Problem> {
    let checked = ctx.check(body, Signed::ByBoth)?;
    let now = ctx.bus.time.now_ms();
    welcome(ctx, &checked).await?;
    let reserved = rows::reserve(&ctx.pool, &checked, now).await?;
    let tier = match tell_ledger(ctx, &checked).await {
        Ok(tier) => tier,
        Err(problem) => {
            if reserved == Reserved::New && problem.code != Code::Unavailable {
                rows::undo(&ctx.pool, &checked).await?;
            }
            return Err(problem);
        }
    };
    if !checked.statement.member_only {
        let enrolled_at = rows::enrolled_at(&ctx.pool, &checked).await?.unwrap_or(now);
        put_record(ctx, &checked, tier, enrolled_at).await?;
    }
    let token = new_token()?;
    rows::put_token(&ctx.pool, &checked, &token, now + TOKEN_MS).await?;
    tracing::info!(device = %checked.device, member = %checked.member, repeat = reserved == Reserved::Repeat, "enrolled");
    reply(ctx, &checked, now, token)
}

/// `cred.renew`: a statement signed anew by the holder's identity key and the transport key on record (`member_sig` and `secret`
/// may be empty for a device). `asker` is who the subject proves, `None` over HTTP. The answer's `token` is empty: the one there is lives on.
///
/// # Errors
/// What is wrong with the statement, [`Code::Forbidden`] where the keys are not on record or revoked, or [`Code::Unavailable`].
pub async fn renew(ctx: &EnrolContext, asker: Option<Asker>, body: &[u8]) -> Result<EnrolReply, Problem> {
    let checked = ctx.check(body, Signed::ByHolder)?;
    if asker.is_some_and(|asker| asker.to_string() != checked.holder()) {
        return Err(Problem::new(Code::Forbidden, format!("the statement is about {}, not about who asks", checked.holder())));
    }
    let now = ctx.bus.time.now_ms();
    if rows::enrolled_at(&ctx.pool, &checked).await?.is_none() {
        return Err(Problem::new(Code::Forbidden, format!("{} is not enrolled with these keys", checked.holder())));
    }
    welcome(ctx, &checked).await?;
    rows::extend_token(&ctx.pool, &checked.holder(), now + TOKEN_MS).await?;
    reply(ctx, &checked, now, String::new())
}

/// Whose bearer token this is; `None` where it is nobody's.
///
/// # Errors
/// [`Code::Unavailable`] where Postgres does not answer.
pub async fn check_token(pool: &Pool, token: &str, now: UnixMs) -> Result<Option<MemberId>, Problem> {
    rows::token_member(pool, token, now).await
}

/// A new invite; `expires_at` absent: as long as the network. The secret is in the answer and nowhere else.
///
/// # Errors
/// [`Code::Unavailable`] where Postgres does not answer.
pub async fn add_invite(
    pool: &Pool,
    document: &NetworkDocument,
    url: &str,
    label: &str,
    uses: u32,
    expires_at: Option<UnixMs>,
) -> Result<Invite, Problem> {
    let secret = random_text()?;
    rows::put_invite(pool, &secret, label, uses, expires_at, bus::hub_time::here_ms()).await?;
    Ok(Invite { url: url.to_owned(), network: document.network, secret, ca_sha256: document.ca_sha256.clone() })
}

pub(crate) fn random_text() -> Result<String, Problem> {
    let bytes = bus::keys::random::<32>().map_err(|error| Problem::new(Code::Internal, format!("{error:#}")))?;
    Ok(data_encoding::BASE64URL_NOPAD.encode(&bytes))
}
fn new_token() -> Result<String, Problem> {
    Ok(format!("mesh_{}", random_text()?))
}

/// Opens the member's accounts and binds the device; answers the attested tier.
async fn tell_ledger(ctx: &EnrolContext, checked: &Checked) -> Result<u8, Problem> {
    let Checked { statement, device, member } = checked;
    let mut ops = vec![Op::Open { member: *member, did: statement.member }];
    if !statement.member_only {
        ops.push(Op::BindDevice { device: *device, did: statement.device, member: *member });
        if ctx.attest_claimed {
            ops.push(Op::AttestTier { device: *device, tier: statement.claimed_tier });
        }
    }
    let attested = ops.iter().any(|op| matches!(op, Op::AttestTier { .. }));
    let deadline = tokio::time::Instant::now() + LEDGER_WITHIN;
    let outcomes =
        ledger_client::ask(ctx, ops, deadline).await.map_err(|error| Problem::new(Code::Unavailable, format!("{error}; try again")))?;
    for outcome in outcomes {
        if let LedgerOutcome::Refused { code, detail, .. } = outcome {
            return Err(Problem::new(code, detail));
        }
    }
    Ok(if attested { statement.claimed_tier } else { 0 })
}

async fn put_record(ctx: &EnrolContext, checked: &Checked, tier: u8, enrolled_at: UnixMs) -> Result<(), Problem> {
    // A repeat must not make a revoked device welcome again, nor one that drains.
    let before = stored_record(ctx, &checked.device).await?;
    if before.as_ref().is_some_and(|record| record.revoked) {
        return Err(Problem::new(Code::Revoked, format!("{} is revoked", checked.device)));
    }
    let record = DeviceRecord {
        device: checked.device,
        did: checked.statement.device,
        member: checked.member,
        name: checked.statement.name.trim().to_owned(),
        tier,
        enrolled_at,
        revoked: false,
        draining: before.as_ref().and_then(|record| record.draining.clone()),
        suspended: before.and_then(|record| record.suspended),
    };
    let bytes = serde_json::to_vec(&record).map_err(|error| Problem::new(Code::Internal, error.to_string()))?;
    let subject = format!("$KV.{}.{}", stream::KV_DEVICES, checked.device);
    let stored = ctx.bus.store(subject, None, bytes.into(), KV_WITHIN).await;
    stored.map(|_| ()).map_err(|error| Problem::new(Code::Unavailable, format!("the device's record: {error}")))
}

/// Whether neither the device is revoked nor its member suspended.
async fn welcome(ctx: &EnrolContext, checked: &Checked) -> Result<(), Problem> {
    let Checked { statement, device, member } = checked;
    if !statement.member_only && stored_record(ctx, device).await?.is_some_and(|record| record.revoked) {
        return Err(Problem::new(Code::Revoked, format!("{device} is revoked")));
    }
    match crate::revocation::rows::standing(&ctx.pool, member).await? {
        Some(standing) if standing.suspended.is_some() => Err(Problem::new(Code::Suspended, format!("{member} is suspended"))),
        Some(_) | None => Ok(()),
    }
}

async fn stored_record(ctx: &EnrolContext, device: &DeviceId) -> Result<Option<DeviceRecord>, Problem> {
    let bucket = format!("KV_{}", stream::KV_DEVICES);
    // From the leader: a replica that lags would let one in again that was just revoked.
    let found = ctx.bus.last_from_leader(&bucket, &format!("$KV.{}.{device}", stream::KV_DEVICES)).await;
    let found = found.map_err(|error| Problem::new(Code::Unavailable, error.to_string()))?;
    Ok(found.and_then(|message| serde_json::from_slice(&message.payload).ok()))
}

fn reply(ctx: &EnrolContext, checked: &Checked, now: UnixMs, token: String) -> Result<EnrolReply, Problem> {
    let Checked { statement, device, member } = checked;
    let (now_s, valid_s) = (now / 1000, ctx.credentials_s);
    let failed = |error: crate::jwt::JwtError| Problem::new(Code::Internal, error.to_string());
    let device_jwt = if statement.member_only {
        String::new()
    } else {
        ctx.minter.device(&statement.transport, device, member, now_s, valid_s).map_err(failed)?
    };
    Ok(EnrolReply {
        network: ctx.network_text.clone(),
        device: *device,
        member: *member,
        device_jwt,
        member_jwt: ctx.minter.member(&statement.transport, member, now_s, valid_s).map_err(failed)?,
        token,
        leaf_url: ctx.leaf_url.clone(),
        nats_url: ctx.nats_url.clone(),
        gateway_url: ctx.gateway_url.clone(),
        ws_url: ctx.ws_url.clone(),
        expires: (now_s + valid_s) * 1000,
    })
}

/// Reads the signed network document twice: as it is, and checked.
///
/// # Errors
/// Where the file is missing or no such document.
pub fn read_document(path: &std::path::Path) -> anyhow::Result<(NetworkDocument, String)> {
    let text = std::fs::read_to_string(path).with_context(|| format!("failed to read {}", path.display()))?;
    let document = bus::keys::parse_network(text.as_bytes()).with_context(|| format!("{} is no network document", path.display()))?;
    Ok((document, text))
}
