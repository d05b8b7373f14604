//! Enrolment on real servers: hub, Postgres, and somebody who answers for the ledger. The credentials that come out log in.

#![allow(clippy::wildcard_enum_match_arm)] // the scripted ledger says yes to all the rest

// A test stops at the first surprise, and so do its helpers.
#![allow(clippy::unwrap_used)]

mod support;

use std::sync::{Arc, Mutex};
use std::time::Duration;

use bus_schemas::envelope::encode;
use bus_schemas::id::{Asker, Cid, FactId};
use bus_schemas::ledger::{Command, Done, LedgerOutcome, LedgerReply, LedgerRequest, Op, RefusalKind};
use bus_schemas::network::{DeviceRecord, EnrolReply, EnrolRequest, EnrolStatement, Role};
use bus_schemas::resources::Resources;
use bus_schemas::{Code, Form, Problem, Signer, Verifier, stream, strict, subject};
use futures::StreamExt;
use gateway::enrolment::{EnrolContext, EnrolSettings, add_invite, check_token, enrol, read_document, renew};
use gateway::invites::rows as invites;
use gateway::jwt::{self, User, creds_file};
use nkeys::KeyPair;
use support::Hub;
use support::postgres::Postgres;

struct Stage {
    hub: Hub,
    _postgres: Postgres,
    ctx: EnrolContext,
    asked: Arc<Mutex<Vec<Op>>>,
}

/// A hub, Postgres, and a ledger that says yes to everything but devices it was told to refuse.
async fn stage(refuse_devices: bool) -> Stage {
    let (hub, postgres) = (Hub::with_streams().await, Postgres::start().await);
    let asked = Arc::new(Mutex::new(vec![]));
    let ledger = hub.bus("ledger").await;
    let mut questions = ledger.client.subscribe(subject::LEDGER_DO).await.unwrap();
    ledger.stream_end(stream::LEDGER).await.unwrap();
    let (seen, key) = (asked.clone(), hub.document().gateway_keys[0]);
    tokio::spawn(async move {
        while let Some(message) = questions.next().await {
            let request: LedgerRequest = strict::decode(Form::Msgpack, &message.payload, 1 << 20).unwrap();
            assert_eq!(request.commands.k, key, "signed by the gateway's key");
            let commands = request.commands.verify::<Command>(&mut Verifier::default()).unwrap();
            let outcomes = commands.iter().map(|command| outcome(&command.op, refuse_devices)).collect();
            seen.lock().unwrap().extend(commands.into_iter().map(|command| command.into_body().op));
            let reply = message.reply.unwrap();
            assert!(reply.starts_with("_INBOX.gateway."), "{reply}");
            ledger.client.publish(reply, encode(&LedgerReply { outcomes }).into()).await.unwrap();
        }
    });
    let settings = EnrolSettings {
        role_device_key: hub.dir.nkey("role-device"),
        role_member_key: hub.dir.nkey("role-member"),
        edge_pub: hub.dir.edge_pub(),
        leaf_url: "nats://leaf".into(),
        public_nats_url: hub.url.clone(),
        public_gateway_url: None,
        ws_url: None,
        attest_claimed: true,
        credentials_s: bus_schemas::limits::CREDENTIALS_S,
    };
    let (document, text) = read_document(&hub.dir.network()).unwrap();
    let signer = bus::keys::read_key_file(&hub.dir.key("gateway")).unwrap();
    let ctx = EnrolContext::new(&settings, hub.bus("gateway").await, postgres.pool().await, signer, &document, text).unwrap();
    Stage { hub, _postgres: postgres, ctx, asked }
}

fn outcome(op: &Op, refuse_devices: bool) -> LedgerOutcome {
    match op {
        Op::BindDevice { .. } if refuse_devices => {
            LedgerOutcome::Refused { code: Code::Refused, why: RefusalKind::DeviceBoundElsewhere, detail: "bound to another".into() }
        }
        _ => LedgerOutcome::Done(Done { fact: FactId(Cid::of(b"f")), seq: 1, repeat: false, hold: None }),
    }
}

struct Joiner {
    device: Signer,
    member: Signer,
    transport: KeyPair,
    member_only: bool,
}
impl Joiner {
    fn new(seed: u8) -> Self {
        Self {
            device: Signer::from_seed(&[seed; 32]),
            member: Signer::from_seed(&[seed + 100; 32]),
            transport: KeyPair::new_user(),
            member_only: false,
        }
    }
    fn request(&self, stage: &Stage, secret: &str) -> Vec<u8> {
        let statement = serde_json::to_string(&EnrolStatement {
            net: stage.ctx.net,
            device: self.device.public(),
            member: self.member.public(),
            transport: self.transport.public_key(),
            name: "laptop".into(),
            at: stage.ctx.bus.time.now_ms(),
            secret: secret.to_owned(),
            claimed_tier: 2,
            total: Resources::default(),
            kinds: vec!["echo".into()],
            member_only: self.member_only,
        })
        .unwrap();
        let [.., (_, device_sig)] = self.device.headers::<EnrolStatement>(statement.as_bytes());
        let [.., (_, member_sig)] = self.member.headers::<EnrolStatement>(statement.as_bytes());
        let transport_sig = data_encoding::BASE64URL_NOPAD.encode(&self.transport.sign(statement.as_bytes()).unwrap());
        serde_json::to_vec(&EnrolRequest { statement, device_sig, member_sig, transport_sig }).unwrap()
    }
    async fn enrol(&self, stage: &Stage, secret: &str) -> Result<EnrolReply, Problem> {
        enrol(&stage.ctx, &self.request(stage, secret)).await
    }
}
impl Stage {
    async fn invite(&self, uses: u32, expires_at: Option<u64>) -> String {
        let invite = add_invite(&self.ctx.pool, &self.hub.document(), "http://gateway", "test", uses, expires_at).await.unwrap();
        assert_eq!((invite.network, invite.url.as_str()), (self.ctx.net, "http://gateway"));
        invite.secret
    }
    async fn member_of(&self, token: &str) -> Option<String> {
        check_token(&self.ctx.pool, token, self.ctx.bus.time.now_ms()).await.unwrap().map(|member| member.to_string())
    }
}
fn code(answer: Result<EnrolReply, Problem>) -> Option<Code> {
    answer.err().map(|problem| problem.code)
}

#[tokio::test]
async fn who_joins_can_log_in_and_is_known() {
    let stage = stage(false).await;
    let (joiner, secret) = (Joiner::new(1), stage.invite(1, None).await);
    let reply = joiner.enrol(&stage, &secret).await.unwrap();
    let (d, m) = (joiner.device.public().device_id(), joiner.member.public().member_id());
    assert_eq!((reply.device, reply.member, reply.leaf_url.as_str()), (d, m, "nats://leaf"));
    assert_eq!(bus::keys::parse_network(reply.network.as_bytes()).unwrap(), stage.hub.document());

    // The ledger was asked in order, and the tier that was claimed is the tier of this development network.
    let asked: Vec<&str> = stage.asked.lock().unwrap().iter().map(kind).collect();
    assert_eq!(asked, ["open", "bind", "attest"]);
    let record = stage.ctx.bus.last_by_subject("KV_devices", &format!("$KV.devices.{d}")).await.unwrap().unwrap();
    let record: DeviceRecord = serde_json::from_slice(&record.payload).unwrap();
    assert_eq!((record.member, record.tier, record.name.as_str(), record.revoked), (m, 2, "laptop", false));

    // Both logins work, each in its role, for a day.
    let seed = joiner.transport.seed().unwrap();
    for (token, said) in [(&reply.device_jwt, subject::heartbeat(&d)), (&reply.member_jwt, subject::submit(&Asker::Member(m)))] {
        let claims = jwt::decode::<User>(token).unwrap();
        assert_eq!(claims.exp.unwrap() * 1000, reply.expires);
        assert_eq!(claims.exp.unwrap() - claims.iat, 24 * 3600);
        let creds = stage.hub.folder.path().join("joiner.creds");
        bus::keys::write_secret(&creds, creds_file(token, &seed).as_bytes()).unwrap();
        let bus = stage.hub.bus_with(&creds, &format!("_INBOX.{}", claims.name)).await;
        bus.store_once(said, None, "x".into(), Duration::from_secs(5)).await.unwrap();
    }

    assert_eq!(stage.member_of(&reply.token).await, Some(m.to_string()));
    assert_eq!(stage.member_of("mesh_another").await, None);
    assert_eq!(check_token(&stage.ctx.pool, &reply.token, u64::MAX / 2).await.unwrap(), None, "tokens end");
}

#[allow(clippy::wildcard_enum_match_arm)]
fn kind(op: &Op) -> &'static str {
    match op {
        Op::Open { .. } => "open",
        Op::BindDevice { .. } => "bind",
        Op::AttestTier { .. } => "attest",
        _ => "other",
    }
}

#[tokio::test]
async fn a_lost_answer_is_given_again_and_a_duplicate_is_not() {
    let stage = stage(false).await;
    let joiner = Joiner::new(1);
    let (once, other) = (stage.invite(1, None).await, stage.invite(1, None).await);
    let first = joiner.enrol(&stage, &once).await.unwrap();
    // The same keys with the same invite, although it is used up.
    let again = joiner.enrol(&stage, &once).await.unwrap();
    assert_eq!(first.device, again.device);
    assert_eq!(stage.member_of(&first.token).await, None, "a new token replaces the one that was lost");
    assert!(stage.member_of(&again.token).await.is_some());

    assert_eq!(code(joiner.enrol(&stage, &other).await), Some(Code::AlreadyEnrolled), "another invite");
    let thief = Joiner { transport: KeyPair::new_user(), ..Joiner::new(1) };
    assert_eq!(code(thief.enrol(&stage, &once).await), Some(Code::AlreadyEnrolled), "another transport key");
    let sharing = Joiner { transport: KeyPair::from_seed(&joiner.transport.seed().unwrap()).unwrap(), ..Joiner::new(2) };
    assert_eq!(code(sharing.enrol(&stage, &other).await), Some(Code::AlreadyEnrolled), "another device with the same transport key");
    // None of that used the second invite: it still lets a second device of the same member in.
    let second = Joiner { member: Signer::from_seed(&[101; 32]), ..Joiner::new(2) };
    let reply = second.enrol(&stage, &other).await.unwrap();
    assert_eq!(reply.member, first.member);
}

#[tokio::test]
async fn an_invite_lets_in_whom_it_says() {
    let stage = stage(false).await;
    let now = stage.ctx.bus.time.now_ms();
    let (twice, over) = (stage.invite(2, Some(now + 3_600_000)).await, stage.invite(5, Some(now - 1)).await);
    assert_eq!(code(Joiner::new(1).enrol(&stage, "nonsense").await), Some(Code::BadInvite));
    assert_eq!(code(Joiner::new(1).enrol(&stage, "").await), Some(Code::BadInvite));
    assert_eq!(code(Joiner::new(1).enrol(&stage, &over).await), Some(Code::BadInvite));
    // Three at once, two uses.
    let joiners = [Joiner::new(1), Joiner::new(2), Joiner::new(3)];
    let answers = futures::future::join_all(joiners.iter().map(|joiner| joiner.enrol(&stage, &twice))).await;
    let refused: Vec<Code> = answers.into_iter().filter_map(code).collect();
    assert_eq!(refused, [Code::BadInvite]);
    let kept = stage.ctx.pool.get().await.unwrap().query("select secret_hash from invite", &[]).await.unwrap();
    assert!(kept.iter().all(|row| row.get::<_, Vec<u8>>(0) != twice.as_bytes()), "secrets are kept as hashes");
}

#[tokio::test]
async fn what_the_ledger_refuses_leaves_nothing_behind() {
    let stage = stage(true).await;
    let secret = stage.invite(1, None).await;
    let answer = Joiner::new(1).enrol(&stage, &secret).await.unwrap_err();
    assert_eq!((answer.code, answer.detail.as_str()), (Code::Refused, "bound to another"));
    // The invite is whole again: a member without a device comes in with it.
    let alone = Joiner { member_only: true, ..Joiner::new(2) };
    let reply = alone.enrol(&stage, &secret).await.unwrap();
    assert!(reply.device_jwt.is_empty() && stage.member_of(&reply.token).await.is_some());
    assert_eq!(alone.enrol(&stage, &secret).await.unwrap().member, reply.member, "a lost answer");
    let gone = stage.ctx.bus.last_by_subject("KV_devices", &format!("$KV.devices.{}", reply.device)).await.unwrap();
    assert!(gone.is_none(), "no device was enrolled");
}

#[tokio::test]
async fn logins_are_renewed_by_who_holds_the_keys() {
    let stage = stage(false).await;
    let (joiner, secret) = (Joiner::new(1), stage.invite(1, None).await);
    assert_eq!(code(renew(&stage.ctx, None, &joiner.request(&stage, "")).await), Some(Code::Forbidden), "not enrolled yet");
    let first = joiner.enrol(&stage, &secret).await.unwrap();
    let me = Some(Asker::Device(first.device));
    let again = renew(&stage.ctx, me, &joiner.request(&stage, "")).await.unwrap();
    assert_eq!((again.device, again.token.as_str()), (first.device, ""));
    assert!(stage.member_of(&first.token).await.is_some(), "the token lives on");
    assert_eq!(jwt::decode::<User>(&again.device_jwt).unwrap().name, first.device.to_string());

    let neighbour = Some(Asker::Device(Joiner::new(2).device.public().device_id()));
    assert_eq!(code(renew(&stage.ctx, neighbour, &joiner.request(&stage, "")).await), Some(Code::Forbidden), "asked as another");
    let moved = Joiner { transport: KeyPair::new_user(), ..Joiner::new(1) };
    assert_eq!(code(renew(&stage.ctx, me, &moved.request(&stage, "")).await), Some(Code::Forbidden), "another transport key");

    // Revoked: no renewal, and no way back in by an old invite.
    let subject = format!("$KV.devices.{}", first.device);
    let record = stage.ctx.bus.last_by_subject("KV_devices", &subject).await.unwrap().unwrap();
    let record = DeviceRecord { revoked: true, ..serde_json::from_slice(&record.payload).unwrap() };
    stage.ctx.bus.store(subject, None, serde_json::to_vec(&record).unwrap().into(), Duration::from_secs(5)).await.unwrap();
    assert_eq!(code(renew(&stage.ctx, me, &joiner.request(&stage, "")).await), Some(Code::Revoked));
    assert_eq!(code(joiner.enrol(&stage, &secret).await), Some(Code::Revoked));
}

impl Stage {
    /// An invite as somebody of this network makes one: its secret and its id.
    async fn made(&self, change: impl Fn(&mut invites::New)) -> (String, String) {
        let now = self.ctx.bus.time.now_ms();
        let mut new = invites::New {
            by: "operator".into(),
            role: Role::Member,
            device_of: None,
            approve: false,
            uses: 1,
            expires_at: now + 3_600_000,
        };
        change(&mut new);
        let secret = KeyPair::new_user().public_key();
        let info = invites::put(&self.ctx.pool, &secret, &new, now).await.unwrap();
        (secret, info.id)
    }
    async fn invite_now(&self, id: &str) -> (String, u32) {
        let info = invites::invite(&self.ctx.pool, id, self.ctx.bus.time.now_ms()).await.unwrap().unwrap();
        (info.state, info.uses_left)
    }
    async fn decide(&self, holder: &str, state: &str, reason: Option<&str>) {
        let [one] = <[_; 1]>::try_from(invites::waiting(&self.ctx.pool, holder).await.unwrap().waiting).unwrap();
        assert!(invites::decide(&self.ctx.pool, &one, state, "mem_admin", reason).await.unwrap());
    }
    async fn role(&self, reply: &EnrolReply) -> Role {
        gateway::revocation::rows::standing(&self.ctx.pool, &reply.member).await.unwrap().unwrap().role
    }
}

#[tokio::test]
async fn an_invite_gives_a_role_and_binds_devices_and_can_be_revoked() {
    let stage = stage(false).await;
    let (guests, _) = stage.made(|new| new.role = Role::Guest).await;
    assert_eq!(code(Joiner::new(1).enrol(&stage, &guests).await), Some(Code::Forbidden), "a guest brings no device");
    let guest = Joiner { member_only: true, ..Joiner::new(1) }.enrol(&stage, &guests).await.unwrap();
    assert_eq!(stage.role(&guest).await, Role::Guest);
    let (members, _) = stage.made(|_| {}).await;
    assert_eq!(code(Joiner::new(1).enrol(&stage, &members).await), Some(Code::Forbidden), "nor by another invite");

    let (admins, _) = stage.made(|new| new.role = Role::Admin).await;
    let admin = Joiner::new(2);
    let reply = admin.enrol(&stage, &admins).await.unwrap();
    assert_eq!(stage.role(&reply).await, Role::Admin);
    // Another device of the same member, and nobody else's; its role stays.
    let (own, own_id) = stage
        .made(|new| {
            new.device_of = Some(reply.member);
            new.by = reply.member.to_string();
        })
        .await;
    let stranger = Joiner::new(3).enrol(&stage, &own).await.unwrap_err();
    assert!(stranger.code == Code::BadInvite && stranger.detail.contains("--member-key"), "{stranger}");
    let second = Joiner { member: Signer::from_seed(&[102; 32]), ..Joiner::new(4) };
    let again = second.enrol(&stage, &own).await.unwrap();
    assert_eq!((again.member, stage.role(&again).await), (reply.member, Role::Admin));
    assert_eq!(stage.invite_now(&own_id).await, ("used".into(), 0));

    // What an admin made counts while it is one.
    let (by_admin, _) = stage.made(|new| new.by = reply.member.to_string()).await;
    gateway::revocation::rows::set_role(&stage.ctx.pool, &reply.member, Role::Member).await.unwrap();
    assert_eq!(code(Joiner::new(6).enrol(&stage, &by_admin).await), Some(Code::BadInvite));
    gateway::revocation::rows::set_role(&stage.ctx.pool, &reply.member, Role::Owner).await.unwrap();
    assert_eq!(code(Joiner::new(6).enrol(&stage, &by_admin).await), None);

    let (secret, id) = stage.made(|new| new.uses = 5).await;
    invites::revoke(&stage.ctx.pool, &id, 1).await.unwrap();
    let refused = Joiner::new(5).enrol(&stage, &secret).await.unwrap_err();
    assert_eq!((refused.code, refused.detail.as_str()), (Code::BadInvite, "the invite was revoked"));
    assert_eq!(stage.invite_now(&id).await, ("revoked".into(), 5));
}

#[tokio::test]
async fn who_needs_approval_waits_for_it() {
    let stage = stage(false).await;
    let (secret, id) = stage.made(|new| (new.approve, new.uses) = (true, 2)).await;
    let joiner = Joiner::new(1);
    let holder = joiner.device.public().device_id().to_string();
    let told = joiner.enrol(&stage, &secret).await.unwrap_err();
    assert!(told.code == Code::AwaitsApproval && told.detail.contains(&format!("mesh network approve {}", &holder[..12])), "{told}");
    // Asking again takes no second use, and neither the ledger nor the hub has heard of it.
    assert_eq!(code(joiner.enrol(&stage, &secret).await), Some(Code::AwaitsApproval));
    assert_eq!(stage.invite_now(&id).await, ("open".into(), 1));
    assert_eq!(code(renew(&stage.ctx, None, &joiner.request(&stage, "")).await), Some(Code::Forbidden));
    assert!(stage.asked.lock().unwrap().is_empty());

    // What an admin said yes to were these keys.
    stage.decide(&holder, "approved", None).await;
    let other_login = Joiner { transport: KeyPair::new_user(), ..Joiner::new(1) };
    assert_eq!(code(other_login.enrol(&stage, &secret).await), Some(Code::AwaitsApproval));
    stage.decide(&holder, "approved", None).await;
    let reply = other_login.enrol(&stage, &secret).await.unwrap();
    assert_eq!(other_login.enrol(&stage, &secret).await.unwrap().device, reply.device, "a lost answer");
    assert!(invites::waiting(&stage.ctx.pool, "").await.unwrap().waiting.is_empty());
    assert_eq!(stage.invite_now(&id).await, ("open".into(), 1));

    // Refused, with the reason, as often as it asks; the other use is gone.
    let unwanted = Joiner::new(2);
    assert_eq!(code(unwanted.enrol(&stage, &secret).await), Some(Code::AwaitsApproval));
    stage.decide(&unwanted.device.public().device_id().to_string(), "denied", Some("unknown here")).await;
    for _ in 0..2 {
        let refused = unwanted.enrol(&stage, &secret).await.unwrap_err();
        assert!(refused.code == Code::JoinDenied && refused.detail.ends_with(": unknown here"), "{refused}");
    }
    assert_eq!(code(Joiner::new(3).enrol(&stage, &secret).await), Some(Code::BadInvite));

    // Two at once for the last use: one waits, one is refused. A revoked invite ends the waiting, also of who was approved.
    let (last, last_id) = stage.made(|new| new.approve = true).await;
    let (a, b) = (Joiner::new(4), Joiner::new(5));
    let (told_a, told_b) = tokio::join!(a.enrol(&stage, &last), b.enrol(&stage, &last));
    let mut codes = [code(told_a), code(told_b)];
    codes.sort();
    assert_eq!(codes, [Some(Code::BadInvite), Some(Code::AwaitsApproval)]);
    let [one] = <[_; 1]>::try_from(
        invites::waiting(&stage.ctx.pool, "").await.unwrap().waiting.into_iter().filter(|one| one.state == "waiting").collect::<Vec<_>>(),
    )
    .unwrap();
    stage.decide(&one.id, "approved", None).await;
    invites::revoke(&stage.ctx.pool, &last_id, 1).await.unwrap();
    let waited = if one.id == a.device.public().device_id().to_string() { &a } else { &b };
    assert_eq!(code(waited.enrol(&stage, &last).await), Some(Code::BadInvite));
}
