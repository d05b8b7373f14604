//! Nodes of the hub that had no room. At the first write that does not fit, one of several gives up its streams; one alone keeps them, says that all is
//! well, and takes nothing more. Either works again only when it is started anew; so one that has room again is ended here, and the supervisor starts it.

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
/// With less, a write did not fit, or the next one will not.
const NO_ROOM: u64 = 1 << 20;

/// What was seen of processes, by pid.
#[derive(Debug, Default)]
pub struct Seen {
    /// They had their streams.
    worked: BTreeSet<u32>,
    /// They had no room.
    full: BTreeSet<u32>,
}
pub type Nodes = Arc<Mutex<Seen>>;

impl Seen {
    /// Notes what is found, and says whether to end the process, which runs so long.
    fn look(&mut self, pid: u32, runs: Duration, has_streams: bool, free: Option<u64>) -> bool {
        let Some(free) = free else { return false };
        if has_streams {
            self.worked.insert(pid);
        }
        if free < NO_ROOM {
            self.full.insert(pid);
        }
        let lost = !has_streams && (self.worked.contains(&pid) || runs > STARTS);
        let end = free >= ROOM && (lost || self.full.contains(&pid));
        if end {
            self.worked.remove(&pid);
            self.full.remove(&pid);
        }
        end
    }
}

impl Stack<'_> {
    /// Looks at every node, and does not wait for it.
    pub(super) fn look_at_nodes(&self, nodes: &Nodes, since: &[Instant]) {
        let store = self.place.network().join("store");
        for (child, since) in self.children.iter().zip(since).filter(|(child, _)| child.spec.role == Role::Hub && child.status().is_none())
        {
            let Some(node) = self.nodes().into_iter().find(|node| node.name == child.spec.name) else { continue };
            let (pid, runs, nodes, store) = (child.pid, since.elapsed(), Arc::clone(nodes), store.join(&node.name));
            tokio::spawn(async move {
                let Some(has_streams) = has_streams(&node.monitor_url).await else { return };
                let end = nodes.lock().unwrap_or_else(PoisonError::into_inner).look(pid, runs, has_streams, free(&store));
                if end {
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
        for (worked, full, runs, has_streams, free, expected) in [
            (true, false, short, false, Some(ROOM), true),
            (false, false, long, false, Some(ROOM), true),
            (false, false, short, false, Some(ROOM), false),
            (true, false, long, true, Some(ROOM), false),
            (true, true, short, true, Some(ROOM), true),
            (true, true, long, false, Some(ROOM - 1), false),
            (true, true, long, false, None, false),
        ] {
            let of = |is: bool| is.then_some(7).into_iter().collect();
            let mut seen = Seen { worked: of(worked), full: of(full) };
            assert_eq!(seen.look(7, runs, has_streams, free), expected, "{worked} {full} {runs:?} {has_streams} {free:?}");
        }
        let mut seen = Seen::default();
        assert!(!seen.look(7, long, true, Some(NO_ROOM - 1)));
        assert!(seen.look(7, long, true, Some(ROOM)));
        assert!(!seen.look(7, long, true, Some(ROOM)), "once");
    }
}
