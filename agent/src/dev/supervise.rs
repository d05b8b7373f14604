//! While it runs, and its end: what dies is started again and reported; at a signal everything is stopped in order, by pid.

use std::io::Write;
use std::path::PathBuf;
use std::time::Duration;

use rustix::process::Signal;
use tokio::signal::unix::{Signal as SignalStream, SignalKind, signal as listen};
use tokio::time::Instant;

use super::child::{Role, Running, signal, words};
use super::ready::Event;
use super::stack::Stack;
use super::{guard, leftovers, room};
use crate::cli::context::Contexts;
use crate::cli::failure::Failure;
use crate::renewal::due_of;

/// SIGINT, SIGTERM and SIGHUP.
pub struct Signals {
    streams: [SignalStream; 3],
    requested: Option<Instant>,
}

/// # Errors
/// Where signals cannot be watched.
pub fn signals() -> Result<Signals, Failure> {
    Ok(Signals {
        streams: [listen(SignalKind::interrupt())?, listen(SignalKind::terminate())?, listen(SignalKind::hangup())?],
        requested: None,
    })
}
impl Signals {
    /// Waits for the next one.
    pub async fn requested(&mut self) {
        let [a, b, c] = &mut self.streams;
        loop {
            tokio::select! { _ = a.recv() => (), _ = b.recv() => (), _ = c.recv() => () }
            // One Ctrl-C can arrive twice: from the terminal, and from a wrapper that passes it on.
            if self.requested.is_none_or(|first| first.elapsed() > SAME_REQUEST) {
                break;
            }
        }
        self.requested = Some(Instant::now());
    }
    pub fn was_requested(&self) -> bool {
        self.requested.is_some()
    }
}

/// Signals within this time are one request.
const SAME_REQUEST: Duration = Duration::from_secs(1);
/// The member's credentials are looked at this often.
const LOOK_AT_CREDENTIALS: Duration = Duration::from_secs(1);
/// And so long after a renewal that failed.
const CREDENTIALS_AGAIN: Duration = Duration::from_secs(30);

/// Restarts of one process come further apart the more there are.
fn pause(restarts: u32) -> Duration {
    match restarts {
        0 => Duration::ZERO,
        n => Duration::from_millis(250) * 2_u32.pow(n.min(6) - 1),
    }
}
/// A process that ran this long has earned a quick restart again.
const STEADY: Duration = Duration::from_secs(60);

/// How long each has to end, in the order in which they are asked; 9 s in all.
const ORDER: [(Role, Duration); 7] = [
    (Role::Agent, Duration::from_millis(3_000)),
    (Role::Gateway, Duration::from_millis(1_250)),
    (Role::Revoker, Duration::from_millis(500)),
    (Role::Scheduler, Duration::from_millis(1_250)),
    (Role::Ledger, Duration::from_millis(1_000)),
    (Role::Postgres, Duration::from_millis(1_000)),
    (Role::Hub, Duration::from_millis(1_000)),
];

struct Due {
    at: Instant,
    index: usize,
    why: String,
    old_pid: u32,
}

impl Stack<'_> {
    /// Runs until a signal comes.
    ///
    /// # Errors
    /// Where a program that is to be restarted is gone.
    pub async fn supervise(&mut self, stop: &mut Signals) -> Result<(), Failure> {
        let mut due: Vec<Due> = Vec::new();
        let mut since: Vec<Instant> = vec![Instant::now(); self.children.len()];
        let mut renew = tokio::time::interval(LOOK_AT_CREDENTIALS);
        let divisor = crate::run::time_divisor();
        let mut look = tokio::time::interval(room::LOOK / divisor);
        let nodes = room::Nodes::default();
        loop {
            let next = due.iter().map(|due| due.at).min();
            tokio::select! {
                () = stop.requested() => return Ok(()),
                pid = self.exits.1.recv() => {
                    let found = self.children.iter().position(|child| Some(child.pid) == pid && child.status().is_some());
                    let Some(index) = found else { continue };
                    let child = &mut self.children[index];
                    if since[index].elapsed() > STEADY / divisor {
                        child.restarts = 0;
                    }
                    let why = words(child.status());
                    if child.spec.role.restarts() {
                        due.push(Due { at: Instant::now() + pause(child.restarts) / divisor, index, why, old_pid: child.pid });
                    } else {
                        self.down(index, why).await;
                    }
                }
                _ = look.tick() => self.look_at_nodes(&nodes, &since),
                _ = renew.tick() => if !self.renew().await {
                    renew.reset_after(CREDENTIALS_AGAIN);
                },
                () = sleep_until(next) => {
                    let now = Instant::now();
                    for due in due.extract_if(.., |due| due.at <= now).collect::<Vec<_>>() {
                        since[due.index] = now;
                        self.restart(due)?;
                    }
                }
            }
        }
    }

    /// Renews the member's credentials where they are due: the member has no agent that would do it. Whether all is well.
    async fn renew(&self) -> bool {
        let Some(ready) = &self.ready else { return true };
        if due_of(&ready.member.creds).is_none_or(|due| due > bus::hub_time::here_ms()) {
            return true;
        }
        let invite = self.own_invite.as_deref().unwrap_or(&ready.invite);
        let renewed = super::enrol::member(&self.place, invite, self.member_name()).await;
        if let Err(failure) = &renewed {
            self.output.warn(&format!("the member's credentials were not renewed: {failure}"));
        }
        renewed.is_ok()
    }

    fn restart(&mut self, due: Due) -> Result<(), Failure> {
        let old = &self.children[due.index];
        let restarts = old.restarts + 1;
        let (role, name) = (old.spec.role, old.spec.name.clone());
        let mut child = old.spec.start(&self.exits.0)?;
        child.restarts = restarts;
        let pid = child.pid;
        self.note(&child);
        self.children[due.index] = child;
        self.note_processes()?;
        self.event(&Event::Restarted { role, name, pid, old_pid: due.old_pid, why: due.why });
        Ok(())
    }

    /// An agent is gone: it is reported, and its nats-server does not stay behind.
    async fn down(&mut self, index: usize, why: String) {
        let child = &self.children[index];
        let (name, pid) = (child.spec.name.clone(), child.pid);
        let home = self.place.agent(&name);
        let of_device = (child.spec.role == Role::Agent).then(|| home.clone());
        self.event(&Event::Exited { role: child.spec.role, name: name.clone(), pid, why, home: of_device });
        let orphan = tokio::task::spawn_blocking(move || leftovers::stop_orphan_of(&home)).await;
        if let Ok(Some(pid)) = orphan {
            self.event(&Event::Stopped { role: Role::Leaf, name: format!("{name}-leaf"), pid });
        }
        let _ = self.note_processes();
    }

    /// Stops everything it started, in order, and nothing else; a second signal means at once.
    pub async fn stop(&mut self, signals: &mut Signals) {
        if self.ready.is_some() {
            self.output.say("stopping");
        }
        let homes = leftovers::homes(&self.place.root.join("agents"));
        let dead = self.children.iter().filter(|child| child.spec.role == Role::Agent && child.status().is_some());
        let by_hand: Vec<PathBuf> = dead.map(|child| self.place.agent(&child.spec.name)).collect();
        let mut asked = Vec::new();
        let hurried = tokio::select! {
            () = stop_in_order(&mut self.children, by_hand, &mut asked) => false,
            () = signals.requested() => true,
        };
        if hurried {
            for (index, child) in self.children.iter().enumerate().filter(|(_, child)| child.status().is_none()) {
                signal(child.pid, Signal::KILL);
                if !asked.contains(&index) {
                    asked.push(index);
                }
            }
            for child in &mut self.children {
                child.ended_within(Duration::from_secs(1)).await;
            }
        }
        // Where an agent had to be killed, its server is still there.
        let _ = tokio::task::spawn_blocking(move || homes.iter().filter_map(|home| leftovers::stop_orphan_of(home)).count()).await;
        // Where the start was interrupted, what had just begun is not among the children yet; it is noted all the same.
        let run = self.place.root.join("run");
        let _ = tokio::task::spawn_blocking(move || leftovers::stop_noted(&run)).await;
        if self.output.format.is_json() && self.ready.is_some() {
            for child in asked.into_iter().map(|index| &self.children[index]) {
                self.event(&Event::Stopped { role: child.spec.role, name: child.spec.name.clone(), pid: child.pid });
            }
        }
        if let (Some(name), Ok(contexts)) = (self.context.take(), Contexts::of_user()) {
            contexts.stopped(&name);
        }
        if let Some(mut guard) = self.guard.take() {
            if let Some(mut stdin) = guard.stdin.take() {
                let _ = stdin.write_all(&[guard::DONE]);
            }
            let _ = guard.wait();
        }
        self.place.clear();
        if self.ready.is_some() {
            let data = if self.place.temporary { "; its data are gone" } else { "" };
            self.output.say(&format!("stopped{data}; next: {}", self.args.again(&self.place)));
        }
    }
}

/// Stops the children role by role; `asked` gets the places of those that ran, in the order in which they were asked to end.
async fn stop_in_order(children: &mut [Running], mut by_hand: Vec<PathBuf>, asked: &mut Vec<usize>) {
    for (role, wait) in ORDER {
        let running = |(_, child): &(usize, &mut Running)| child.spec.role == role && child.status().is_none();
        let (places, mut stopping): (Vec<usize>, Vec<&mut Running>) = children.iter_mut().enumerate().filter(running).unzip();
        asked.extend(places);
        let by_hand = if role == Role::Agent { std::mem::take(&mut by_hand) } else { vec![] };
        let ours = futures::future::join_all(stopping.iter_mut().map(|child| child.stop(wait)));
        tokio::join!(ours, stop_agents_of(by_hand, wait));
    }
}

/// Agents that died and that somebody started again (`mesh start`) live in the stack's folder, so they go with the stack.
async fn stop_agents_of(homes: Vec<PathBuf>, wait: Duration) {
    let stops = homes.into_iter().map(|home| tokio::task::spawn_blocking(move || leftovers::stop_agent_of(&home, wait)));
    futures::future::join_all(stops).await;
}

async fn sleep_until(at: Option<Instant>) {
    match at {
        Some(at) => tokio::time::sleep_until(at).await,
        None => std::future::pending().await,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::dev::child::Spec;

    #[tokio::test]
    async fn only_what_runs_is_stopped_and_told_in_that_order() {
        let (exits, _told) = tokio::sync::mpsc::unbounded_channel();
        let log = std::env::temp_dir().join(format!("mesh-stop-{}.log", bus::keys::random_hex::<6>().unwrap()));
        let start = |role: Role, script: &str| {
            let spec = Spec {
                role,
                name: role.name().into(),
                program: "/bin/sh".into(),
                args: vec!["-c".into(), script.into()],
                env: vec![],
                log: log.clone(),
                ours: false,
                http: None,
                account: None,
                lazy_timers: false,
                mark: None,
            };
            spec.start(&exits).unwrap()
        };
        let long = "while :; do sleep 0.01; done";
        // In the order in which a stack starts them.
        let mut children = [
            start(Role::Hub, long),
            start(Role::Ledger, "exit 1"),
            start(Role::Gateway, long),
            start(Role::Agent, "exit 0"),
            start(Role::Agent, long),
        ];
        for dead in [1, 3] {
            assert!(children[dead].ended_within(Duration::from_secs(10)).await);
        }
        let mut asked = Vec::new();
        stop_in_order(&mut children, vec![], &mut asked).await;
        assert_eq!(asked, [4, 2, 0]);
        assert!(children.iter().all(|child| child.status().is_some()));
        std::fs::remove_file(log).unwrap();
    }

    #[test]
    fn stopping_takes_less_than_ten_seconds() {
        let all: Duration = ORDER.iter().map(|(_, wait)| *wait).sum();
        assert!(all < Duration::from_secs(10), "{all:?}");
        let roles: Vec<&str> = ORDER.iter().map(|(role, _)| role.name()).collect();
        assert_eq!(roles, ["agent", "gateway", "revoker", "scheduler", "ledger", "postgres", "hub"]);
    }

    #[test]
    fn what_keeps_dying_is_restarted_ever_more_slowly() {
        let pauses: Vec<u128> = (0..9).map(|n| pause(n).as_millis()).collect();
        assert_eq!(pauses, [0, 250, 500, 1000, 2000, 4000, 8000, 8000, 8000]);
    }
}
