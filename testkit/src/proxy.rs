//! A TCP proxy on loopback that can be told to break: one listener for each address behind it, all with the same state.
//!
//! It runs in a thread of its own, so that a busy test does not slow the line. A cut direction stalls, as TCP over a dead line does:
//! what was sent waits and arrives when the line heals, unless the connection is [`Proxy::reset`] before. A connection made over a cut line is accepted and
//! stays silent.

use std::net::{Ipv4Addr, SocketAddr, TcpListener as StdListener};
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;

/// Which direction is cut; "up" is from who connects to what lies behind.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Way {
    Both,
    Up,
    Down,
}
impl Way {
    pub const fn name(self) -> &'static str {
        match self {
            Self::Both => "both ways",
            Self::Up => "up",
            Self::Down => "down",
        }
    }
    const fn cuts(self, direction: Self) -> bool {
        matches!((self, direction), (Self::Both, _) | (Self::Up, Self::Up) | (Self::Down, Self::Down))
    }
}

#[derive(Debug, Clone, Copy, Default)]
struct State {
    cut: Option<Way>,
    delay: Duration,
    /// Connections of an older generation are closed.
    generation: u64,
    ended: bool,
}

/// A running proxy; dropped, it closes everything.
#[derive(Debug)]
pub struct Proxy {
    ports: Vec<u16>,
    state: watch::Sender<State>,
}

impl Proxy {
    /// Listens on a free port of loopback for each of these addresses (`host:port`).
    ///
    /// # Panics
    /// Where no port is free.
    pub fn start(targets: &[String]) -> Self {
        let (state, watched) = watch::channel(State::default());
        let mut ports = Vec::new();
        let mut doors = Vec::new();
        for target in targets {
            let listener = StdListener::bind((Ipv4Addr::LOCALHOST, 0)).expect("a free port");
            listener.set_nonblocking(true).expect("a listener");
            ports.push(listener.local_addr().expect("an address").port());
            doors.push((listener, target.clone()));
        }
        std::thread::spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
            runtime.block_on(async {
                for (listener, target) in doors {
                    let listener = TcpListener::from_std(listener).expect("a listener");
                    tokio::spawn(listen(listener, target, watched.clone()));
                }
                let mut watched = watched;
                let _ = watched.wait_for(|state| state.ended).await;
            });
        });
        Self { ports, state }
    }

    /// Where each address is reached through this proxy, in the same order.
    pub fn addresses(&self) -> Vec<SocketAddr> {
        self.ports.iter().map(|port| SocketAddr::from((Ipv4Addr::LOCALHOST, *port))).collect()
    }
    /// Nothing passes that way any more, until [`Self::heal`].
    pub fn cut(&self, way: Way) {
        self.state.send_modify(|state| state.cut = Some(way));
    }
    /// Every piece of data is late by this much.
    pub fn delay(&self, delay: Duration) {
        self.state.send_modify(|state| state.delay = delay);
    }
    /// All passes again, at once.
    pub fn heal(&self) {
        self.state.send_modify(|state| (state.cut, state.delay) = (None, Duration::ZERO));
    }
    /// Closes the connections that are open.
    pub fn reset(&self) {
        self.state.send_modify(|state| state.generation += 1);
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        self.state.send_modify(|state| state.ended = true);
    }
}

async fn listen(listener: TcpListener, target: String, state: watch::Receiver<State>) {
    loop {
        let Ok((client, _)) = listener.accept().await else {
            // Too many open files, say: others end, and then it goes on.
            tokio::time::sleep(Duration::from_millis(20)).await;
            continue;
        };
        tokio::spawn(serve(client, target.clone(), state.clone()));
    }
}

/// One connection, until one side ends or it is reset.
async fn serve(client: TcpStream, target: String, mut state: watch::Receiver<State>) {
    let generation = state.borrow().generation;
    let mut opened = state.clone();
    let both = async move {
        passes(&mut opened, Way::Up).await;
        let Ok(server) = TcpStream::connect(&target).await else { return };
        let _ = (client.set_nodelay(true), server.set_nodelay(true));
        let ((from_client, to_client), (from_server, to_server)) = (client.into_split(), server.into_split());
        let (up, down) = (opened.clone(), opened);
        tokio::select! {
            () = pump(from_client, to_server, up, Way::Up) => (),
            () = pump(from_server, to_client, down, Way::Down) => (),
        }
    };
    tokio::select! {
        () = both => (),
        _ = state.wait_for(|state| state.generation != generation) => (),
    }
}

/// Waits until that direction is open.
async fn passes(state: &mut watch::Receiver<State>, direction: Way) -> Duration {
    loop {
        let seen = *state.borrow_and_update();
        if !seen.cut.is_some_and(|way| way.cuts(direction)) {
            return seen.delay;
        }
        if state.changed().await.is_err() {
            // The proxy is gone, and this with it.
            return std::future::pending().await;
        }
    }
}

async fn pump(mut from: OwnedReadHalf, mut to: OwnedWriteHalf, mut state: watch::Receiver<State>, direction: Way) {
    let mut buffer = vec![0; 64 * 1024];
    while let Ok(read @ 1..) = from.read(&mut buffer).await {
        let delay = passes(&mut state, direction).await;
        if !delay.is_zero() {
            tokio::time::sleep(delay).await;
            // It may have been cut meanwhile.
            passes(&mut state, direction).await;
        }
        if to.write_all(&buffer[..read]).await.is_err() {
            return;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::{Read, Write};
    use std::net::TcpStream as Std;
    use std::time::Instant;

    /// A server that gives everything back.
    fn mirror() -> String {
        let listener = StdListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap().to_string();
        std::thread::spawn(move || {
            for stream in listener.incoming().map_while(Result::ok) {
                std::thread::spawn(move || {
                    let (mut read, mut write) = (stream.try_clone().unwrap(), stream);
                    let _ = std::io::copy(&mut read, &mut write);
                });
            }
        });
        address
    }
    fn through(proxy: &Proxy) -> Std {
        Std::connect(proxy.addresses()[0]).unwrap()
    }
    fn silent(stream: &mut Std) -> bool {
        stream.set_read_timeout(Some(Duration::from_millis(150))).unwrap();
        let silent = stream.read(&mut [0; 16]).is_err_and(|error| matches!(error.kind(), std::io::ErrorKind::WouldBlock));
        stream.set_read_timeout(Some(crate::HUNG)).unwrap();
        silent
    }
    fn hears(stream: &mut Std, text: &str) {
        let mut heard = vec![0; text.len()];
        stream.read_exact(&mut heard).unwrap();
        assert_eq!(String::from_utf8_lossy(&heard), text);
    }

    #[test]
    fn it_forwards_and_what_was_cut_arrives_when_it_heals() {
        let proxy = Proxy::start(&[mirror()]);
        let mut stream = through(&proxy);
        stream.write_all(b"one").unwrap();
        hears(&mut stream, "one");
        for way in [Way::Both, Way::Up, Way::Down] {
            proxy.cut(way);
            stream.write_all(way.name().as_bytes()).unwrap();
            assert!(silent(&mut stream), "{way:?}");
            proxy.heal();
            hears(&mut stream, way.name());
        }
    }

    #[test]
    fn only_the_direction_that_is_cut_stalls() {
        let listener = StdListener::bind("127.0.0.1:0").unwrap();
        let proxy = Proxy::start(&[listener.local_addr().unwrap().to_string()]);
        let mut client = through(&proxy);
        let (mut server, _) = listener.accept().unwrap();
        proxy.cut(Way::Up);
        client.write_all(b"lost").unwrap();
        server.write_all(b"down").unwrap();
        hears(&mut client, "down");
        assert!(silent(&mut server));
        proxy.cut(Way::Down);
        hears(&mut server, "lost");
        server.write_all(b"late").unwrap();
        assert!(silent(&mut client));
        proxy.heal();
        hears(&mut client, "late");
    }

    #[test]
    fn connections_are_reset_delayed_and_refused_with_what_lies_behind() {
        let proxy = Proxy::start(&[mirror(), "127.0.0.1:1".into()]);
        let mut stream = through(&proxy);
        proxy.delay(Duration::from_millis(60));
        let start = Instant::now();
        stream.write_all(b"late").unwrap();
        hears(&mut stream, "late");
        assert!(start.elapsed() >= Duration::from_millis(120), "both ways are late: {:?}", start.elapsed());
        proxy.reset();
        assert_eq!(stream.read(&mut [0; 1]).unwrap_or(0), 0, "it is closed");
        proxy.heal();
        let mut again = through(&proxy);
        again.write_all(b"again").unwrap();
        hears(&mut again, "again");
        let mut nobody = Std::connect(proxy.addresses()[1]).unwrap();
        assert_eq!(nobody.read(&mut [0; 1]).unwrap_or(0), 0, "nobody is there");
        let address = proxy.addresses()[0];
        drop(proxy);
        assert_eq!(again.read(&mut [0; 1]).unwrap_or(0), 0);
        let start = Instant::now();
        while Std::connect(address).is_ok() {
            assert!(start.elapsed() < crate::HUNG, "it still listens");
        }
    }
}
