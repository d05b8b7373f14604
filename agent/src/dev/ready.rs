//! What `mesh dev` tells: one JSON object a line, and the files that other commands read.

use std::path::PathBuf;

use bus_schemas::{DeviceId, MemberId, NetworkId, PublicKey};
use serde::Serialize;

use super::child::Role;

/// The line that says that everything works.
#[derive(Debug, Clone, Serialize)]
pub struct Ready {
    pub event: &'static str,
    pub network: NetworkId,
    pub data_dir: PathBuf,
    pub gateway: GatewayAt,
    pub nats: NatsAt,
    pub postgres: PostgresAt,
    pub member: MemberIs,
    pub auditor: AuditorIs,
    pub operator: OperatorIs,
    /// Lets a device join, as long as the stack lives.
    pub invite: String,
    pub devices: Vec<DeviceIs>,
    pub processes: Vec<Process>,
    /// Contexts: of `mesh`, and files for the `nats` command.
    pub contexts: ContextsAre,
    /// Whether all of it goes when the stack ends.
    pub temporary: bool,
    pub started_in_ms: u64,
}
#[derive(Debug, Clone, Serialize)]
pub struct GatewayAt {
    /// Of the first one.
    pub url: String,
    pub urls: Vec<String>,
}
#[derive(Debug, Clone, Serialize)]
pub struct NatsAt {
    /// Of all nodes, separated by commas, as the two below: what every client and every leaf is told.
    pub url: String,
    pub leaf_url: String,
    pub ws_url: String,
    pub version: String,
    pub nodes: Vec<NodeAt>,
}
/// One node of the hub.
#[derive(Debug, Clone, Serialize)]
pub struct NodeAt {
    /// Also the name of its process.
    pub name: String,
    pub url: String,
    pub leaf_url: String,
    pub ws_url: String,
    /// `/healthz`, `/jsz`, `/varz`.
    pub monitor_url: String,
}
#[derive(Debug, Clone, Serialize)]
pub struct PostgresAt {
    /// Of a role that may read all rows.
    pub url: String,
}
#[derive(Debug, Clone, Serialize)]
pub struct MemberIs {
    pub id: MemberId,
    pub did: PublicKey,
    pub creds: PathBuf,
    pub token_file: PathBuf,
    pub submit_subject: String,
    pub inbox_prefix: String,
    pub key: PathBuf,
}
#[derive(Debug, Clone, Serialize)]
pub struct AuditorIs {
    pub creds: PathBuf,
    pub js_prefix: String,
    pub inbox_prefix: String,
}
#[derive(Debug, Clone, Serialize)]
pub struct OperatorIs {
    pub creds: PathBuf,
    pub inbox_prefix: String,
}
#[derive(Debug, Clone, Serialize)]
pub struct DeviceIs {
    pub id: DeviceId,
    pub did: PublicKey,
    pub member: MemberId,
    pub name: String,
    pub tier: u8,
    /// A plain client here submits for the device's owner.
    pub local_url: String,
    pub home: PathBuf,
}
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Process {
    pub role: Role,
    pub name: String,
    pub pid: u32,
    /// Where it tells about itself: /metrics, /readyz.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub http: Option<String>,
}
#[derive(Debug, Clone, Serialize)]
pub struct ContextsAre {
    pub mesh: String,
    pub mesh_file: PathBuf,
    pub nats_member: PathBuf,
    pub nats_operator: PathBuf,
}

/// What happens before and after.
#[derive(Debug, Clone, Serialize)]
#[serde(tag = "event", rename_all = "lowercase")]
pub enum Event {
    /// A process runs.
    Started { role: Role, name: String, pid: u32 },
    /// A process ended by itself and was started again.
    Restarted { role: Role, name: String, pid: u32, old_pid: u32, why: String },
    /// A process ended by itself and stays down.
    Exited {
        role: Role,
        name: String,
        pid: u32,
        why: String,
        /// Where a device is started again.
        #[serde(skip_serializing_if = "Option::is_none")]
        home: Option<PathBuf>,
    },
    /// A process was stopped.
    Stopped { role: Role, name: String, pid: u32 },
}
impl Event {
    /// For people.
    pub fn text(&self) -> String {
        match self {
            Self::Started { name, pid, .. } => format!("{name} started (pid {pid})"),
            Self::Restarted { name, pid, why, .. } => format!("{name} ended ({why}) and was started again (pid {pid})"),
            Self::Exited { name, why, home, .. } => {
                let next = home
                    .as_ref()
                    .map(|home| format!("; next: MESH_HOME={} mesh start --detach", super::shell(&home.display().to_string())));
                format!("{name} ended ({why}) and stays down{}", next.unwrap_or_default())
            }
            Self::Stopped { name, pid, .. } => format!("{name} stopped (pid {pid})"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_ready_line_has_the_fields_that_people_script_against() {
        let key = bus_schemas::Signer::from_seed(&[1; 32]).public();
        let ready = Ready {
            event: "ready",
            network: key.network_id(),
            data_dir: "data".into(),
            gateway: GatewayAt { url: "http://127.0.0.1:8085".into(), urls: vec!["http://127.0.0.1:8085".into()] },
            nats: NatsAt {
                url: "n".into(),
                leaf_url: "l".into(),
                ws_url: "w".into(),
                version: "2.15.2".into(),
                nodes: vec![NodeAt {
                    name: "hub".into(),
                    url: "n".into(),
                    leaf_url: "l".into(),
                    ws_url: "w".into(),
                    monitor_url: "m".into(),
                }],
            },
            postgres: PostgresAt { url: "p".into() },
            member: MemberIs {
                id: key.member_id(),
                did: key,
                creds: "c".into(),
                token_file: "t".into(),
                submit_subject: "s".into(),
                inbox_prefix: "i".into(),
                key: "k".into(),
            },
            auditor: AuditorIs { creds: "a".into(), js_prefix: "j".into(), inbox_prefix: "_INBOX.auditor".into() },
            operator: OperatorIs { creds: "o".into(), inbox_prefix: "_INBOX.operator".into() },
            invite: "mesh1.x".into(),
            devices: vec![DeviceIs {
                id: key.device_id(),
                did: key,
                member: key.member_id(),
                name: "laptop-a".into(),
                tier: 1,
                local_url: "nats://127.0.0.1:4230".into(),
                home: "h".into(),
            }],
            processes: vec![Process { role: Role::Hub, name: "hub".into(), pid: 1, http: None }],
            contexts: ContextsAre { mesh: "dev".into(), mesh_file: "m".into(), nats_member: "m".into(), nats_operator: "o".into() },
            temporary: true,
            started_in_ms: 1,
        };
        let value: serde_json::Value = serde_json::from_str(&crate::cli::output::json("dev", &ready)).unwrap();
        for pointer in [
            "/schema",
            "/network",
            "/data_dir",
            "/gateway/url",
            "/gateway/urls/0",
            "/nats/url",
            "/nats/leaf_url",
            "/nats/ws_url",
            "/nats/nodes/0/monitor_url",
            "/postgres/url",
            "/member/id",
            "/member/did",
            "/member/creds",
            "/member/token_file",
            "/member/submit_subject",
            "/member/inbox_prefix",
            "/auditor/creds",
            "/auditor/js_prefix",
            "/operator/creds",
            "/invite",
            "/devices/0/id",
            "/devices/0/did",
            "/devices/0/member",
            "/devices/0/name",
            "/devices/0/local_url",
            "/devices/0/home",
            "/processes/0/name",
        ] {
            assert!(value.pointer(pointer).is_some_and(serde_json::Value::is_string), "{pointer} in {value}");
        }
        assert_eq!(
            (&value["event"], &value["devices"][0]["tier"], &value["processes"][0]["role"]),
            (&"ready".into(), &1.into(), &"hub".into())
        );
        let event = Event::Restarted { role: Role::Gateway, name: "gateway".into(), pid: 2, old_pid: 1, why: "signal 9".into() };
        let event: serde_json::Value = serde_json::to_value(event).unwrap();
        assert_eq!((&event["event"], &event["role"], &event["pid"]), (&"restarted".into(), &"gateway".into(), &2.into()));
    }
}
