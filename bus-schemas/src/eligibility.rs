//! Which devices may take a job: hard filters, each refusal with its reason. Asked at intake and before each auction.

use std::cmp::Reverse;

use crate::history::{Considered, Decision, Verdict};
use crate::id::{DeviceId, MemberId};
use crate::job::{DataClass, JobSpec};
use crate::resources::Resources;

/// What a job asks for.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Needs {
    pub kind: String,
    pub resources: Resources,
    pub capabilities: Vec<String>,
    pub trust_scope: Option<String>,
    pub min_reputation: Option<u32>,
    pub federations: Vec<String>,
    pub target: Option<DeviceId>,
    /// No filter here: each device's owner decides, and it answers an offer by it.
    pub data_class: DataClass,
}
impl From<&JobSpec> for Needs {
    fn from(spec: &JobSpec) -> Self {
        Self {
            kind: spec.kind.clone(),
            resources: spec.required_resources,
            capabilities: spec.required_capabilities.clone(),
            trust_scope: spec.required_trust_scope.clone(),
            min_reputation: spec.min_executor_reputation,
            federations: spec.allowed_federations.clone(),
            target: spec.target,
            data_class: spec.data_class,
        }
    }
}

/// A device as a scheduler or a gateway sees it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DeviceView {
    pub id: DeviceId,
    pub member: MemberId,
    pub name: String,
    pub kinds: Vec<String>,
    pub capabilities: Vec<String>,
    pub trust_scopes: Vec<String>,
    pub federations: Vec<String>,
    pub total: Resources,
    pub reputation: u32,
    /// Attested tier.
    pub tier: u8,
    /// Results so far, for newcomers' chances.
    pub results: u64,
    /// Why it takes nothing now: offline since, paused, revoked. `None`: it is there.
    pub away: Option<String>,
}

/// The one reason that nothing about a device can change.
const NOT_NAMED: &str = "the job names another device";

/// Every reason against this device, in the order of the fields; empty = it fits.
pub fn reasons_against(needs: &Needs, device: &DeviceView) -> Vec<String> {
    let mut reasons = Vec::new();
    if needs.target.is_some_and(|target| target != device.id) {
        reasons.push(NOT_NAMED.to_owned());
    }
    if let Some(away) = &device.away {
        reasons.push(away.clone());
        // One that was not heard of told nothing about itself, and nothing can be said against it.
        if device.kinds.is_empty() {
            return reasons;
        }
    }
    if !device.kinds.contains(&needs.kind) {
        reasons.push(format!("kind {} is not offered", needs.kind));
    }
    let amounts = [
        ("CPU cores", "", needs.resources.cpu_cores, device.total.cpu_cores),
        ("memory", " MiB", needs.resources.memory_mb, device.total.memory_mb),
        ("storage", " MiB", needs.resources.storage_mb, device.total.storage_mb),
        ("GPU memory", " MiB", needs.resources.gpu_mb, device.total.gpu_mb),
    ];
    for (what, unit, asked, has) in amounts {
        if asked > has {
            reasons.push(format!("{what}: asked {asked}{unit}, it has {has}{unit}"));
        }
    }
    for capability in needs.capabilities.iter().filter(|capability| !device.capabilities.contains(capability)) {
        reasons.push(format!("capability {capability} is missing"));
    }
    if let Some(scope) = needs.trust_scope.as_ref().filter(|scope| !device.trust_scopes.contains(scope)) {
        reasons.push(format!("not in trust scope {scope}"));
    }
    if let Some(least) = needs.min_reputation.filter(|least| device.reputation < *least) {
        reasons.push(format!("reputation {} is below {least}", device.reputation));
    }
    if !needs.federations.is_empty() && !needs.federations.iter().any(|federation| device.federations.contains(federation)) {
        reasons.push("in none of the allowed federations".to_owned());
    }
    reasons
}

/// Splits devices into those that fit and those that do not, with the reasons.
pub fn sort_out<'a>(needs: &Needs, devices: impl IntoIterator<Item = &'a DeviceView>) -> (Vec<&'a DeviceView>, Vec<Considered>) {
    let mut fit = Vec::new();
    let mut out = Vec::new();
    for device in devices {
        let reasons = reasons_against(needs, device);
        if reasons.is_empty() {
            fit.push(device);
        } else {
            out.push(Considered { device: device.id, name: device.name.clone(), verdict: Verdict::Out { reasons } });
        }
    }
    (fit, out)
}

/// The record of "nothing fits": the count, and the nearest device first.
pub fn nothing_fits(at: u64, mut out: Vec<Considered>) -> Decision {
    let reasons = |considered: &Considered| match &considered.verdict {
        Verdict::Out { reasons } => (reasons.iter().any(|reason| reason == NOT_NAMED), reasons.len()),
        Verdict::NotAsked | Verdict::Declined { .. } | Verdict::NoAnswer | Verdict::Bid { .. } => (false, 0),
    };
    out.sort_by_key(|considered| (reasons(considered), considered.device));
    let count = out.len();
    let nearest = out.first().map_or_else(String::new, |first| match &first.verdict {
        Verdict::Out { reasons } => format!("; nearest: {} ({})", first.name, reasons.join("; ")),
        Verdict::NotAsked | Verdict::Declined { .. } | Verdict::NoAnswer | Verdict::Bid { .. } => String::new(),
    });
    Decision { round: 0, at, took_ms: 0, considered: out, winner: None, why: format!("0 of {count} devices fit{nearest}") }
}

/// Best known first: reputation, tier, id. For choosing whom to ask.
pub fn rank(devices: &mut [&DeviceView]) {
    devices.sort_by_key(|device| (Reverse(device.reputation), Reverse(device.tier), device.id));
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Signer;

    fn device() -> DeviceView {
        let key = Signer::from_seed(&[1; 32]).public();
        DeviceView {
            id: key.device_id(),
            member: key.member_id(),
            name: "laptop".into(),
            kinds: vec!["echo".into()],
            capabilities: vec!["avx2".into()],
            trust_scopes: vec!["lab".into()],
            federations: vec!["north".into()],
            total: Resources { cpu_cores: 4, memory_mb: 8192, storage_mb: 100, gpu_mb: 0 },
            reputation: 50,
            tier: 1,
            results: 0,
            away: None,
        }
    }

    #[test]
    fn each_filter_speaks_for_itself() {
        let fine = Needs { kind: "echo".into(), ..Needs::default() };
        assert_eq!(reasons_against(&fine, &device()), Vec::<String>::new());
        let other = Signer::from_seed(&[2; 32]).public().device_id();
        let cases: [(Needs, &str); 8] = [
            (Needs { kind: "embed".into(), ..fine.clone() }, "kind embed is not offered"),
            (Needs { target: Some(other), ..fine.clone() }, "the job names another device"),
            (
                Needs { resources: Resources { gpu_mb: 24576, ..Resources::default() }, ..fine.clone() },
                "GPU memory: asked 24576 MiB, it has 0 MiB",
            ),
            (Needs { resources: Resources { cpu_cores: 8, ..Resources::default() }, ..fine.clone() }, "CPU cores: asked 8, it has 4"),
            (Needs { capabilities: vec!["cuda".into()], ..fine.clone() }, "capability cuda is missing"),
            (Needs { trust_scope: Some("hospital".into()), ..fine.clone() }, "not in trust scope hospital"),
            (Needs { min_reputation: Some(60), ..fine.clone() }, "reputation 50 is below 60"),
            (Needs { federations: vec!["south".into()], ..fine.clone() }, "in none of the allowed federations"),
        ];
        for (needs, reason) in cases {
            assert_eq!(reasons_against(&needs, &device()), [reason]);
        }
        let away = DeviceView { away: Some("offline since 09:12".into()), ..device() };
        assert_eq!(reasons_against(&fine, &away), ["offline since 09:12"]);
    }
}
