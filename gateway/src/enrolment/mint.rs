//! NATS tokens for devices and members: signed by the scoped key of a role, so the role's template is all that they may do.

use std::path::Path;

use anyhow::{Context as _, ensure};
use bus_schemas::id::{DeviceId, MemberId};
use nkeys::{KeyPair, KeyPairType};

use crate::bootstrap::files::read_nkey;
use crate::jwt::{self, Claims, JwtError, User};

/// Holds the two role keys. They sign logins of these roles, and nothing else.
pub struct Minter {
    device_role: KeyPair,
    member_role: KeyPair,
    /// Public key of the EDGE account.
    edge: String,
}

impl Minter {
    /// # Errors
    /// Where a file is missing, open to others, or not such a key.
    pub fn read(device_role: &Path, member_role: &Path, edge_pub: &Path) -> anyhow::Result<Self> {
        let edge = std::fs::read_to_string(edge_pub).with_context(|| format!("failed to read {}", edge_pub.display()))?.trim().to_owned();
        let is_account = KeyPair::from_public_key(&edge).is_ok_and(|key| matches!(key.key_pair_type(), KeyPairType::Account));
        ensure!(is_account, "{} is no public key of an account", edge_pub.display());
        Ok(Self { device_role: read_nkey(device_role)?, member_role: read_nkey(member_role)?, edge })
    }

    /// A device's login: its id is the name that the role's subjects are made of; the tag lets it hear its member's results.
    ///
    /// # Errors
    /// Where the key cannot sign.
    pub fn device(&self, transport: &str, device: &DeviceId, member: &MemberId, now_s: u64, valid_s: u64) -> Result<String, JwtError> {
        let user = User::scoped(&self.edge, vec![format!("member:{member}")]);
        jwt::encode(&Claims::new(transport, device.to_string(), now_s, user).expires(now_s + valid_s), &self.device_role)
    }

    /// A member's login.
    ///
    /// # Errors
    /// Where the key cannot sign.
    pub fn member(&self, transport: &str, member: &MemberId, now_s: u64, valid_s: u64) -> Result<String, JwtError> {
        let user = User::scoped(&self.edge, vec![]);
        jwt::encode(&Claims::new(transport, member.to_string(), now_s, user).expires(now_s + valid_s), &self.member_role)
    }
}
