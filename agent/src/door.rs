//! Through which door a device's own server links to the hub: directly, or by WebSocket over TLS on port 443 where the network that the
//! machine is in lets nothing else out. A remote takes addresses of one sort, so one of the two is chosen by trying.
//!
//! `next` decides and touches nothing.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use futures::StreamExt;
use futures::stream::FuturesUnordered;
use serde::Deserialize;
use tokio::net::TcpStream;
use tokio::time::Interval;

use crate::home::Device;
use crate::http::{Http, each};

/// How long a door may take to open.
const KNOCK: Duration = Duration::from_secs(3);
/// So much later than a WebSocket the direct door may open and is still the better one.
const BEHIND: Duration = Duration::from_millis(300);
/// How often a link that is down is looked at.
pub const LOOK: Duration = Duration::from_secs(5);

/// The door in use; all clones are the same one.
#[derive(Debug, Clone, Default)]
pub struct Door(Arc<AtomicBool>);

impl Door {
    fn by_websocket(&self) -> bool {
        self.0.load(Ordering::Relaxed)
    }

    /// The addresses behind it.
    pub fn urls<'a>(&self, device: &'a Device) -> &'a str {
        if self.by_websocket() { &device.ws_url } else { &device.leaf_url }
    }

    /// Tries both doors and takes the better one that opens; whether it is another than before.
    pub async fn choose(&self, device: &Device) -> bool {
        if device.ws_url.is_empty() {
            return false;
        }
        let (direct, websocket) = tokio::join!(opens(&device.leaf_url), opens(&device.ws_url));
        let chosen = next(self.by_websocket(), direct, websocket);
        self.0.swap(chosen, Ordering::Relaxed) != chosen
    }

    /// Returns once the link through it was down for two looks and another door opens instead, which is then the one in use.
    /// `monitor` is where the device's own server tells about itself.
    pub async fn moved(&self, device: &Device, monitor: &str, http: &Http, look: &mut Interval) {
        #[derive(Deserialize)]
        struct Links {
            leafnodes: u32,
        }
        if device.ws_url.is_empty() {
            return std::future::pending().await;
        }
        let mut down = 0;
        loop {
            look.tick().await;
            let links: Result<Links, _> = http.get(&format!("{monitor}/leafz")).await;
            // A server that does not answer is about to be started again by whoever watches it.
            down = if links.is_ok_and(|links| links.leafnodes == 0) { down + 1 } else { 0 };
            // A hub that is only being started again is back by then.
            if down >= 2 && self.choose(device).await {
                return;
            }
        }
    }
}

/// Whether to go by WebSocket: the direct door is cheaper, and where neither opens nothing is changed.
const fn next(by_websocket: bool, direct_opens: bool, websocket_opens: bool) -> bool {
    match (direct_opens, websocket_opens) {
        (true, _) => false,
        (false, true) => true,
        (false, false) => by_websocket,
    }
}

/// Addresses for one connection of a client, in the order in which to try them: a WebSocket before the others only where none of those
/// opens. A client would wait seconds for each that does not answer.
pub async fn in_order(urls: &str) -> String {
    let (websocket, direct): (Vec<&str>, Vec<&str>) = each(urls).partition(|url| url.starts_with("ws"));
    if websocket.is_empty() || direct.is_empty() {
        return urls.to_owned();
    }
    let (websocket, direct) = (websocket.join(","), direct.join(","));
    let behind = async {
        let is_open = opens(&websocket).await;
        tokio::time::sleep(BEHIND).await;
        is_open
    };
    tokio::select! {
        biased;
        true = opens(&direct) => format!("{direct},{websocket}"),
        true = behind => format!("{websocket},{direct}"),
        else => urls.to_owned(),
    }
}

/// Whether anybody accepts a connection at one of these addresses.
async fn opens(urls: &str) -> bool {
    let knock = |url: &str| {
        let (host, port) = place(url);
        async move { matches!(tokio::time::timeout(KNOCK, TcpStream::connect((host.as_str(), port))).await, Ok(Ok(_))) }
    };
    each(urls).map(knock).collect::<FuturesUnordered<_>>().any(|opens| async move { opens }).await
}

/// Host and port of an address; the port that its scheme means where it says none.
fn place(url: &str) -> (String, u16) {
    let (scheme, rest) = url.split_once("://").unwrap_or(("", url));
    let rest = rest.split('/').next().unwrap_or_default();
    let usual = match scheme {
        "wss" => 443,
        "ws" => 80,
        _ => 7422,
    };
    let (host, port) = match rest.rsplit_once(':') {
        Some((host, port)) if !port.contains(']') => (host, port.parse().unwrap_or(usual)),
        Some(_) | None => (rest, usual),
    };
    (host.trim_matches(['[', ']']).to_owned(), port)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn directly_where_that_is_possible() {
        for (before, direct, websocket, after) in [
            (false, true, true, false),
            (true, true, true, false),
            (false, false, true, true),
            (true, false, false, true),
            (false, false, false, false),
        ] {
            assert_eq!(next(before, direct, websocket), after, "{before} {direct} {websocket}");
        }
    }

    #[tokio::test]
    async fn a_client_goes_first_where_somebody_answers() {
        let open = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let gone = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let (here, nobody) = (open.local_addr().unwrap(), gone.local_addr().unwrap());
        drop(gone);
        for (asked, first) in [
            (format!("tls://{nobody}, tls://{nobody}/,wss://{here}"), format!("wss://{here},tls://{nobody},tls://{nobody}")),
            (format!("tls://{here},wss://{here}"), format!("tls://{here},wss://{here}")),
            (format!("tls://{nobody},wss://{nobody}"), format!("tls://{nobody},wss://{nobody}")),
            (format!("tls://{nobody}"), format!("tls://{nobody}")),
        ] {
            assert_eq!(in_order(&asked).await, first);
        }
    }

    #[test]
    fn addresses_have_a_place() {
        for (url, host, port) in [
            ("wss://hub.example.org", "hub.example.org", 443),
            ("tls://10.0.0.1:9", "10.0.0.1", 9),
            ("wss://[2001:db8::1]:8443/x", "2001:db8::1", 8443),
            ("tls://[::1]", "::1", 7422),
        ] {
            assert_eq!(place(url), (host.to_owned(), port), "{url}");
        }
    }
}
