//! Fact ids. What makes a fact unique is what it is about, not who asked or when.

use crate::id::{Cid, DeviceId, FactId, JobId, MemberId, NetworkId};

fn of(kind: &str, parts: &[&[u8]]) -> FactId {
    let mut text = kind.as_bytes().to_vec();
    for part in parts {
        // Lengths keep ("ab","c") and ("a","bc") apart.
        text.extend_from_slice(&(part.len() as u64).to_be_bytes());
        text.extend_from_slice(part);
    }
    FactId(Cid::of(&text))
}
pub fn genesis(network: &NetworkId) -> FactId {
    of("genesis", &[network.to_string().as_bytes()])
}
pub fn open(member: &MemberId) -> FactId {
    of("open", &[member.to_string().as_bytes()])
}
pub fn mint(member: &MemberId, key: &str) -> FactId {
    of("mint", &[member.to_string().as_bytes(), key.as_bytes()])
}
pub fn bind_device(device: &DeviceId) -> FactId {
    of("bind_device", &[device.to_string().as_bytes()])
}
/// `nth`: how many attestations the device had before.
pub fn attest_tier(device: &DeviceId, nth: u32) -> FactId {
    of("attest_tier", &[device.to_string().as_bytes(), &nth.to_be_bytes()])
}
pub fn hold(member: &MemberId, key: &str) -> FactId {
    of("hold", &[member.to_string().as_bytes(), key.as_bytes()])
}
/// A job is settled or voided at most once, never both: both have this id.
pub fn close(job: &JobId) -> FactId {
    of("close", &[job.0.to_bytes().as_slice()])
}
/// `policy` because it says how long an epoch is; `part` because one message holds only so many legs.
pub fn regen(policy: u32, epoch: u64, part: u32) -> FactId {
    of("regen", &[&policy.to_be_bytes(), &epoch.to_be_bytes(), &part.to_be_bytes()])
}
pub fn transfer(from: &MemberId, key: &str) -> FactId {
    of("transfer", &[from.to_string().as_bytes(), key.as_bytes()])
}
pub fn fee(member: &MemberId, key: &str) -> FactId {
    of("fee", &[member.to_string().as_bytes(), key.as_bytes()])
}
/// The pay of a job vests once; a fact that vests several is named by its first.
pub fn vest(first: &JobId) -> FactId {
    of("vest", &[first.0.to_bytes().as_slice()])
}
/// One flag a job and reason.
pub fn flag(job: &JobId, why: &str) -> FactId {
    of("flag", &[job.0.to_bytes().as_slice(), why.as_bytes()])
}
/// What is in review is released or seized once, never both: both have this id.
pub fn review(job: &JobId) -> FactId {
    of("review", &[job.0.to_bytes().as_slice()])
}
pub fn revoke_device(device: &DeviceId) -> FactId {
    of("revoke_device", &[device.to_string().as_bytes()])
}
/// `nth`: how often the member was suspended or restored before.
pub fn member_standing(member: &MemberId, nth: u32) -> FactId {
    of("member_standing", &[member.to_string().as_bytes(), &nth.to_be_bytes()])
}
pub fn policy(version: u32) -> FactId {
    of("policy", &[&version.to_be_bytes()])
}
pub fn correction(key: &str) -> FactId {
    of("correction", &[key.as_bytes()])
}
/// `seq`: the last message that the checkpoint covers.
pub fn checkpoint(seq: u64) -> FactId {
    of("checkpoint", &[&seq.to_be_bytes()])
}
