//! Heartbeats: liveness is per device, not per job.

use serde::{Deserialize, Serialize};

use crate::UnixMs;
use crate::code::{Code, Problem};
use crate::envelope::Body;
use crate::id::{DeviceId, InstanceId, JobId, NetworkId};
use crate::limits::{LABEL_CHARS_MAX, QUEUE_MAX};
use crate::resources::Resources;

/// `mesh.v1.dev.<d>.hb`, a batch of one signed by the device, every 5 s whatever runs.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Heartbeat {
    pub net: NetworkId,
    pub device: DeviceId,
    /// The device's clock.
    pub at: UnixMs,
    pub name: String,
    pub version: String,
    pub kinds: Vec<String>,
    pub capabilities: Vec<String>,
    pub trust_scopes: Vec<String>,
    pub federations: Vec<String>,
    /// What it says it is; the attested tier is what is paid.
    pub claimed_tier: u8,
    pub total: Resources,
    pub free: Resources,
    /// Jobs waiting or running here, complete (at most 64 wait), in the order in which they are done: what runs comes first.
    pub jobs: Vec<JobId>,
    /// Jobs that ended here and are not settled; at most 64, and how many more.
    pub unsettled: Vec<JobId>,
    #[serde(default)]
    pub unsettled_more: u32,
    /// Why it takes no work now; absent: it does.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub not_working: Option<String>,
    /// When what its owner consents to was read last, by the device's clock: another value means that it may take now what it declined
    /// before. Absent: its owner has said nothing.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub consent_at: Option<UnixMs>,
}
impl Heartbeat {
    /// What `not_working` says in the last word of an agent that ends.
    pub const STOPPED: &str = "stopped";

    /// The agent has ended: it is gone now, not only after its silence.
    pub fn has_stopped(&self) -> bool {
        self.not_working.as_deref() == Some(Self::STOPPED)
    }

    /// What a device says of itself is shown to everybody and stands in the record of each auction, so it is as short and as
    /// plain as what was checked when it joined.
    ///
    /// # Errors
    /// [`Code::BadValue`], naming the field.
    pub fn check(&self) -> Result<(), Problem> {
        let bad = |what: &str| {
            Err(Problem::new(Code::BadValue, format!("a heartbeat's {what}: at most {LIST_MAX} of 1 to {TEXT_MAX} printable characters")))
        };
        let named = [("name", &self.name), ("version", &self.version)];
        let said = self.not_working.as_ref().map(|why| ("not_working", why));
        for (what, text) in named.into_iter().chain(said) {
            let most = if what == "not_working" { SENTENCE_MAX } else { TEXT_MAX };
            if !plain(text, most) {
                return bad(what);
            }
        }
        let lists = [
            ("kinds", &self.kinds),
            ("capabilities", &self.capabilities),
            ("trust_scopes", &self.trust_scopes),
            ("federations", &self.federations),
        ];
        for (what, list) in lists {
            if list.len() > LIST_MAX || !list.iter().all(|text| plain(text, LABEL_CHARS_MAX)) {
                return bad(what);
            }
        }
        if self.jobs.len() > JOBS_MAX || self.unsettled.len() > JOBS_MAX {
            return Err(Problem::new(Code::TooMany, format!("a heartbeat lists at most {JOBS_MAX} jobs")));
        }
        Ok(())
    }
}

impl Body for Heartbeat {
    const KIND: &'static str = "heartbeat";
    // 128 job ids of 38 bytes and the rest.
    const BYTES_MAX: usize = 64 * 1024;
}

/// `mesh.v1.sched.<s>.hb`, a batch of one signed by the scheduler key. While it comes back, the bus works and silence counts.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct SchedulerHeartbeat {
    pub net: NetworkId,
    pub s: InstanceId,
    pub at: UnixMs,
    /// Jobs in hand: in bidding, executing, and waiting for a device.
    pub bidding: u32,
    pub executing: u32,
    pub waiting: u32,
    /// Why it moves no jobs away from silent devices now, for people; absent: it does.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub holds_back: Option<String>,
}
impl Body for SchedulerHeartbeat {
    const KIND: &'static str = "scheduler-heartbeat";
}

const TEXT_MAX: usize = 64;
/// Why it does not work, for people.
const SENTENCE_MAX: usize = 300;
const LIST_MAX: usize = 32;
/// Far more than a device ever has.
const JOBS_MAX: usize = 4 * QUEUE_MAX;

/// Text of 1 to `most` characters without control of a terminal and without signs that turn the text around them.
pub fn plain(text: &str, most: usize) -> bool {
    let odd = |sign: char| sign.is_control() || matches!(sign, '\u{2028}'..='\u{202e}' | '\u{2066}'..='\u{2069}');
    !text.trim().is_empty() && text.chars().count() <= most && !text.chars().any(odd)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Signer;

    #[test]
    fn what_a_device_says_of_itself_is_short_and_plain() {
        let key = Signer::from_seed(&[1; 32]).public();
        let fine = Heartbeat {
            net: key.network_id(),
            device: key.device_id(),
            at: 1,
            name: "büro-7".into(),
            version: "0.1.0".into(),
            kinds: vec!["echo".into()],
            capabilities: vec![],
            trust_scopes: vec![],
            federations: vec![],
            claimed_tier: 0,
            total: Resources::default(),
            free: Resources::default(),
            jobs: vec![],
            unsettled: vec![],
            unsettled_more: 0,
            not_working: Some("paused by its owner until 12:00".into()),
            consent_at: None,
        };
        assert_eq!(fine.check(), Ok(()));
        let named = |name: &str| Heartbeat { name: name.into(), ..fine.clone() };
        for name in ["", " ", "a\u{1b}[2J", "a\nb", "\u{202e}abc", "a\u{2028}b", &"x".repeat(65), &"\0".repeat(60_000)] {
            assert_eq!(named(name).check().map_err(|problem| problem.code), Err(Code::BadValue), "{name:?}");
        }
        for other in [
            Heartbeat { kinds: vec!["x".into(); 33], ..fine.clone() },
            Heartbeat { capabilities: vec!["x".repeat(LABEL_CHARS_MAX + 1)], ..fine.clone() },
            Heartbeat { version: "\u{7}".into(), ..fine.clone() },
            Heartbeat { not_working: Some("x".repeat(301)), ..fine.clone() },
        ] {
            assert_eq!(other.check().map_err(|problem| problem.code), Err(Code::BadValue), "{other:?}");
        }
    }
}
