//! Who takes part: keys, ids and names that are the same in every run, made once.

use std::sync::OnceLock;
use std::time::{Duration, Instant};

use bus_schemas::ledger::{Fact, Policy, What, fact_id};
use bus_schemas::limits::Timings;
use bus_schemas::network::DeviceRecord;
use bus_schemas::replay::LedgerKeys;
use bus_schemas::{DeviceId, InstanceId, MemberId, MilliMana, NetworkId, Signer, UnixMs};
use bytes::Bytes;
use ledger_worker::posting::Parts;

use crate::message::Ms;

pub const MEMBERS: usize = 4;
pub const DEVICES: usize = 6;
pub const WORKERS: usize = 2;
/// Hub time at which a run begins.
pub const EPOCH: UnixMs = 1_800_000_000_000;

pub struct Cast {
    pub net: NetworkId,
    pub network_key: Signer,
    pub gateway_key: Signer,
    pub scheduler_key: Signer,
    pub ledger_key: Signer,
    pub members: Vec<Signer>,
    pub devices: Vec<Signer>,
    pub member_ids: Vec<MemberId>,
    pub device_ids: Vec<DeviceId>,
    pub instances: Vec<InstanceId>,
    pub timings: Timings,
    /// Monotonic time of the beginning: only differences to it ever count.
    start: Instant,
}

pub fn cast() -> &'static Cast {
    static CAST: OnceLock<Cast> = OnceLock::new();
    CAST.get_or_init(Cast::new)
}

impl Cast {
    fn new() -> Self {
        let key = |n: usize| Signer::from_seed(&[u8::try_from(n).unwrap_or(0); 32]);
        let members: Vec<Signer> = (0..MEMBERS).map(|n| key(100 + n)).collect();
        let devices: Vec<Signer> = (0..DEVICES).map(|n| key(150 + n)).collect();
        let network_key = key(1);
        Self {
            net: network_key.public().network_id(),
            network_key,
            gateway_key: key(2),
            scheduler_key: key(3),
            ledger_key: key(4),
            member_ids: members.iter().map(|member| member.public().member_id()).collect(),
            device_ids: devices.iter().map(|device| device.public().device_id()).collect(),
            members,
            devices,
            instances: (0..WORKERS).filter_map(|n| format!("s{n}").parse().ok()).collect(),
            timings: Timings::default(),
            start: Instant::now(),
        }
    }

    pub fn instant(&self, now: Ms) -> Instant {
        self.start + Duration::from_millis(now)
    }
    pub fn device(&self, id: &DeviceId) -> Option<usize> {
        self.device_ids.iter().position(|known| known == id)
    }
    pub fn scheduler(&self, id: &InstanceId) -> Option<usize> {
        self.instances.iter().position(|known| known == id)
    }
    pub fn parts(&self) -> Parts {
        Parts {
            gateway: vec![self.gateway_key.public()],
            scheduler: vec![self.scheduler_key.public()],
            operator: vec![self.network_key.public()],
        }
    }
    pub fn ledger_keys(&self) -> LedgerKeys {
        LedgerKeys::from([self.ledger_key.public()])
    }
    /// A device belongs to the member of its number, as far as there are so many.
    pub fn owner(&self, device: usize) -> MemberId {
        self.member_ids[device % MEMBERS]
    }
    pub fn record(&self, device: usize) -> DeviceRecord {
        DeviceRecord::new(self.devices[device].public(), self.owner(device), format!("d{device}"), 1, EPOCH)
    }

    /// The first messages of LEDGER: genesis with the policy, members with their grants, devices with their tiers.
    pub fn first_messages(&self, grants: &[MilliMana], rules: Policy) -> Vec<Bytes> {
        let fact = |id, legs, what| Fact { net: self.net, id, at_ms: EPOCH, policy: 1, legs, evidence: vec![], what };
        let genesis = What::Genesis { network: self.net, network_key: self.network_key.public(), rules };
        let mut facts = vec![fact(fact_id::genesis(&self.net), vec![], genesis)];
        for (n, member) in self.member_ids.iter().enumerate() {
            let to = bus_schemas::ledger::Account::Available(*member);
            let grant = grants.get(n).copied().unwrap_or(MilliMana::ZERO);
            let leg = bus_schemas::ledger::Leg { from: bus_schemas::ledger::Account::Mint, to, amount_mmana: grant };
            let legs = if grant > MilliMana::ZERO { vec![leg] } else { vec![] };
            facts.push(fact(fact_id::open(member), legs, What::Open { member: *member, did: self.members[n].public() }));
        }
        for (n, device) in self.device_ids.iter().enumerate() {
            let what = What::BindDevice { device: *device, did: self.devices[n].public(), member: self.owner(n) };
            facts.push(fact(fact_id::bind_device(device), vec![], what));
            let tier = if n % 3 == 2 { 2 } else { 1 };
            facts.push(fact(fact_id::attest_tier(device, 0), vec![], What::AttestTier { device: *device, tier }));
        }
        let body = |fact: &Fact| serde_json::to_string(fact).unwrap_or_default();
        vec![Bytes::from(self.ledger_key.json_batch::<Fact>(facts.iter().map(body).collect()).encode())]
    }
}
