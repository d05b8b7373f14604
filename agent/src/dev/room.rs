//! Nodes of the hub that had no room. nats-server gives up its streams at the first write that does not fit and takes them up again only when it is
//! started anew; so one that has room again is ended here, and the supervisor starts it.

use std::collections::BTreeSet;
use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use hyper::Method;
use rustix::process::Signal;
use tokio::time::Instant;

use super::child::{Role, signal};
use super::stack::Stack;
use crate::http::Http;

/// They are looked at this often.
pub const LOOK: Duration = Duration::from_secs(10);
/// One that does not answer within this time is frozen, which is another matter.
const ANSWER: Duration = Duration::from_secs(1);
/// A node that starts has no streams yet either.
const STARTS: Duration = Duration::from_secs(60);
/// Less than this is gone again before it has caught up.
const ROOM: u64 = 64 << 20;

/// Processes that had their streams.
pub type Working = Arc<Mutex<BTreeSet<u32>>>;

/// Whether to end it: `worked` or started long ago, without its streams now, and with so much room.
fn to_end(worked: bool, runs: Duration, has_streams: bool, free: Option<u64>) -> bool {
    !has_streams && (worked || runs > STARTS) && free.is_some_and(|free| free >= ROOM)
}

impl Stack<'_> {
    /// Looks at every node, and does not wait for it.
    pub(super) fn look_at_nodes(&self, working: &Working, since: &[Instant]) {
        let store = self.place.network().join("store");
        for (child, since) in self.children.iter().zip(since).filter(|(child, _)| child.spec.role == Role::Hub && child.status().is_none())
        {
            let Some(node) = self.nodes().into_iter().find(|node| node.name == child.spec.name) else { continue };
            let (pid, runs, working, store) = (child.pid, since.elapsed(), Arc::clone(working), store.join(&node.name));
            tokio::spawn(async move {
                let Some(has_streams) = has_streams(&node.monitor_url).await else { return };
                let worked = {
                    let mut working = working.lock().unwrap_or_else(PoisonError::into_inner);
                    if has_streams { working.insert(pid) } else { working.contains(&pid) }
                };
                if to_end(worked, runs, has_streams, free(&store)) {
                    working.lock().unwrap_or_else(PoisonError::into_inner).remove(&pid);
                    signal(pid, Signal::TERM);
                }
            });
        }
    }
}

/// What a node says of itself; `None` where it does not answer.
async fn has_streams(monitor: &str) -> Option<bool> {
    let (http, url) = (Http::default(), format!("{monitor}/healthz?js-enabled-only=true"));
    let answer = tokio::time::timeout(ANSWER, http.send(Method::GET, &url, &[], Bytes::new())).await;
    Some(answer.ok()?.ok()?.status == 200)
}

/// Bytes that are free there, or in the folder above for a hub of one node.
fn free(store: &Path) -> Option<u64> {
    let found = store.ancestors().take(2).find_map(|folder| rustix::fs::statvfs(folder).ok())?;
    Some(found.f_bavail.saturating_mul(found.f_frsize))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_node_that_could_work_again_is_ended() {
        let (short, long) = (Duration::from_secs(1), STARTS + Duration::from_secs(1));
        for (worked, runs, has_streams, free, expected) in [
            (true, short, false, Some(ROOM), true),
            (false, long, false, Some(ROOM), true),
            (false, short, false, Some(ROOM), false),
            (true, long, true, Some(ROOM), false),
            (true, long, false, Some(ROOM - 1), false),
            (true, long, false, None, false),
        ] {
            assert_eq!(to_end(worked, runs, has_streams, free), expected, "{worked} {runs:?} {has_streams} {free:?}");
        }
    }
}
