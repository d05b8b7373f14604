//! The nodes of the hub, over the system account: who is up, which account token each has, and the new one.

use std::collections::BTreeSet;
use std::time::Duration;

use bus::Bus;
use bus_schemas::api::people::HubTold;
use futures::StreamExt;
use serde::Deserialize;
use tokio::time::{Instant, timeout_at};

/// Each node answers within milliseconds; one that does not answer is not up.
const ANSWERS_WITHIN: Duration = Duration::from_millis(500);
/// After the last answer, where it is not known how many there are.
const ANSWERS_GAP: Duration = Duration::from_millis(150);
/// More nodes than any hub has.
const NODES_MAX: usize = 64;

#[derive(Deserialize)]
struct Answer {
    server: Server,
    #[serde(default)]
    data: Option<Said>,
    #[serde(default)]
    error: Option<serde_json::Value>,
}
#[derive(Deserialize)]
struct Server {
    id: String,
}
#[derive(Deserialize)]
struct Said {
    #[serde(default)]
    code: u16,
}

pub struct Nodes {
    sys: Bus,
    /// Ids of servers, new at each start of one.
    up: BTreeSet<String>,
}
impl Nodes {
    pub fn of(sys: Bus) -> Self {
        Self { sys, up: BTreeSet::new() }
    }

    /// Asks who is up; whether one is there that was not.
    pub async fn look(&mut self) -> bool {
        let answers = self.ask("$SYS.REQ.SERVER.PING.IDZ", "", self.up.len()).await;
        let found: BTreeSet<String> = answers.iter().filter_map(|answer| id_of(answer)).collect();
        if found.is_empty() {
            return false;
        }
        let new = !found.is_subset(&self.up);
        self.up = found;
        new
    }

    /// Gives each the account token.
    pub async fn update(&mut self, token: &str) -> HubTold {
        let answers = self.ask("$SYS.REQ.CLAIMS.UPDATE", token, self.up.len().max(1)).await;
        let mut taken = BTreeSet::new();
        for answer in answers.iter().filter_map(|answer| serde_json::from_slice::<Answer>(answer).ok()) {
            self.up.insert(answer.server.id.clone());
            if answer.data.is_some_and(|said| said.code == 200) && answer.error.is_none() {
                taken.insert(answer.server.id);
            } else {
                tracing::error!(error = ?answer.error, "a node of the hub refuses the account token");
            }
        }
        let count = |set: &BTreeSet<String>| u32::try_from(set.len()).unwrap_or(u32::MAX);
        HubTold { nodes: count(&taken), of: count(&self.up) }
    }

    /// The account token that each has.
    pub async fn have(&self, account: &str) -> Vec<String> {
        let answers = self.ask(&format!("$SYS.REQ.ACCOUNT.{account}.CLAIMS.LOOKUP"), "", self.up.len()).await;
        answers.into_iter().filter_map(|answer| String::from_utf8(answer.into()).ok()).filter(|text| text.contains('.')).collect()
    }

    /// All answers to one question: until as many came as are `expected`, or no more come.
    async fn ask(&self, subject: &str, payload: &str, expected: usize) -> Vec<bytes::Bytes> {
        let client = &self.sys.client;
        let inbox = client.new_inbox();
        let Ok(mut replies) = client.subscribe(inbox.clone()).await else { return vec![] };
        if client.publish_with_reply(subject.to_owned(), inbox, payload.to_owned().into()).await.is_err() {
            return vec![];
        }
        let (mut answers, last) = (Vec::new(), Instant::now() + ANSWERS_WITHIN);
        let mut until = last;
        while let Ok(Some(message)) = timeout_at(until, replies.next()).await {
            // Nobody there.
            if message.status.is_some() {
                break;
            }
            answers.push(message.payload);
            if answers.len() >= expected.max(1) && expected > 0 || answers.len() >= NODES_MAX {
                break;
            }
            if expected == 0 {
                until = last.min(Instant::now() + ANSWERS_GAP);
            }
        }
        answers
    }
}

/// The server's id: IDZ answers with it alone, everything else below `server`.
fn id_of(answer: &[u8]) -> Option<String> {
    #[derive(Deserialize)]
    struct Idz {
        #[serde(alias = "server_id")]
        id: Option<String>,
        server: Option<Server>,
    }
    let answer: Idz = serde_json::from_slice(answer).ok()?;
    answer.id.or(answer.server.map(|server| server.id))
}
