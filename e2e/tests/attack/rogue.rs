//! A member of the network who means harm: valid keys and credentials, and no agent that would keep to the rules.

use std::path::PathBuf;

use bus_schemas::network::{EnrolReply, EnrolRequest, EnrolStatement, Invite};
use bus_schemas::resources::Resources;
use bus_schemas::{DeviceId, MemberId, Signer};
use nkeys::KeyPair;
use serde_json::{Value, json};
use testkit::{Peer, Stack, http};

pub struct Rogue {
    pub device: Signer,
    pub member: Signer,
    pub transport: KeyPair,
    pub device_id: DeviceId,
    pub member_id: MemberId,
    pub creds: PathBuf,
    pub member_creds: PathBuf,
    pub token: String,
    pub hub: String,
    pub leaf: String,
}

/// What somebody states who joins; [`request`] signs it.
pub fn statement(stack: &Stack, device: &Signer, member: &Signer, transport: &KeyPair) -> EnrolStatement {
    let invite = Invite::parse(&stack.text("/invite")).expect("an invite");
    EnrolStatement {
        net: invite.network,
        device: device.public(),
        member: member.public(),
        transport: transport.public_key(),
        name: "rogue".into(),
        at: bus::hub_time::here_ms(),
        secret: invite.secret,
        claimed_tier: 0,
        total: Resources { cpu_cores: 64, memory_mb: 65_536, storage_mb: 1_000_000, ..Resources::default() },
        kinds: vec!["echo".into()],
        member_only: false,
    }
}

pub fn request(statement: &EnrolStatement, device: &Signer, member: &Signer, transport: &KeyPair) -> EnrolRequest {
    let statement = serde_json::to_string(statement).expect("JSON");
    let [.., (_, device_sig)] = device.headers::<EnrolStatement>(statement.as_bytes());
    let [.., (_, member_sig)] = member.headers::<EnrolStatement>(statement.as_bytes());
    let transport_sig = data_encoding::BASE64URL_NOPAD.encode(&transport.sign(statement.as_bytes()).expect("a signature"));
    EnrolRequest { statement, device_sig, member_sig, transport_sig }
}

pub async fn enrol(stack: &Stack, request: &EnrolRequest) -> (u16, Value) {
    http::send("POST", &stack.api("/api/v1/enrol"), &[], serde_json::to_vec(request).expect("JSON")).await
}

impl Rogue {
    /// Joins with the stack's invite.
    pub async fn join(stack: &Stack) -> Self {
        let signer = || Signer::from_seed(&bus::keys::random::<32>().expect("random"));
        let (device, member, transport) = (signer(), signer(), KeyPair::new_user());
        let (status, answer) = enrol(stack, &request(&statement(stack, &device, &member, &transport), &device, &member, &transport)).await;
        assert_eq!(status, 200, "{answer}");
        let reply: EnrolReply = serde_json::from_value(answer).expect("an answer");
        let seed = transport.seed().expect("a seed");
        let write = |name: &str, jwt: &str| {
            let path = stack.folder().join(name);
            let text = format!(
                "-----BEGIN NATS USER JWT-----\n{jwt}\n------END NATS USER JWT------\n\n-----BEGIN USER NKEY SEED-----\n{seed}\n------END USER NKEY SEED------\n"
            );
            bus::keys::write_secret(&path, text.as_bytes()).expect("a file");
            path
        };
        Self {
            creds: write("rogue.creds", &reply.device_jwt),
            member_creds: write("rogue-member.creds", &reply.member_jwt),
            device_id: reply.device,
            member_id: reply.member,
            token: reply.token,
            hub: stack.text("/nats/url"),
            leaf: stack.text("/nats/leaf_url"),
            device,
            member,
            transport,
        }
    }

    /// As a plain client with the device's login.
    pub async fn client(&self) -> Peer {
        Peer::client(&self.hub, Some(&self.creds), &json!({})).await.expect("a login")
    }
    /// As a plain client with the member's login.
    pub async fn as_member(&self) -> Peer {
        Peer::client(&self.hub, Some(&self.member_creds), &json!({})).await.expect("a login")
    }
    /// As a leaf of a name that nobody else has.
    pub async fn leaf(&self) -> Peer {
        let name = format!("lf-{}", bus::keys::random_hex::<16>().expect("random"));
        Peer::leaf(&self.leaf, Some(&self.creds), &name, &json!({})).await.expect("a login")
    }
    /// Where it may publish, as far as its id goes.
    pub fn may(&self, subject: &str) -> bool {
        let ids = [self.device_id.to_string(), self.member_id.to_string()];
        ids.iter().any(|id| {
            ["dev", "submit", "api", "history", "watch"].iter().any(|noun| {
                let own = format!("mesh.v1.{noun}.{id}");
                subject == own || subject.starts_with(&format!("{own}."))
            })
        })
    }
}
