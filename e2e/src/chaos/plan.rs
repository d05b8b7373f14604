//! Which faults, when, at whom: a function of the settings, so that a seed gives the same plan again.

use std::fmt;

use testkit::{Dice, Way};

use super::Settings;

/// How many of each there are.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Shape {
    pub hubs: u64,
    pub gateways: u64,
    pub schedulers: u64,
    pub ledgers: u64,
    pub devices: u64,
    /// Whether Postgres, the last device and the last of several nodes of the hub live on small disks, which takes root.
    pub small_disks: bool,
}
impl Shape {
    /// Who lives on a small disk.
    pub fn on_small_disk(&self, role: Role) -> Option<Target> {
        let any = match role {
            Role::Hub => self.hubs > 1,
            Role::Postgres => true,
            Role::Agent => self.devices > 0,
            Role::Gateway | Role::Scheduler | Role::Ledger | Role::Leaf => false,
        };
        (self.small_disks && any).then(|| Target { role, n: index(role.count(self).saturating_sub(1)) })
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Role {
    Hub,
    Postgres,
    Gateway,
    Scheduler,
    Ledger,
    Agent,
    /// A device's own nats-server.
    Leaf,
}
impl Role {
    /// As `mesh dev` calls it.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Hub => "hub",
            Self::Postgres => "postgres",
            Self::Gateway => "gateway",
            Self::Scheduler => "scheduler",
            Self::Ledger => "ledger",
            Self::Agent => "agent",
            Self::Leaf => "leaf",
        }
    }
    const fn count(self, shape: &Shape) -> u64 {
        match self {
            Self::Hub => shape.hubs,
            Self::Postgres => 1,
            Self::Gateway => shape.gateways,
            Self::Scheduler => shape.schedulers,
            Self::Ledger => shape.ledgers,
            Self::Agent | Self::Leaf => shape.devices,
        }
    }
}

/// One process: the n-th of its role, counted from 0.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Target {
    pub role: Role,
    pub n: usize,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fault {
    /// SIGKILL.
    Kill(Target),
    /// SIGSTOP, and SIGCONT after so many milliseconds.
    Freeze(Target, u64),
    /// The device's link is silent that way for so long.
    Cut(usize, Way, u64),
    /// All connections of the device's link are closed.
    Reset(usize),
    /// The device's link is slow by the first number of milliseconds, for the second.
    Slow(usize, u64, u64),
    /// The disk of this one is full for so long.
    FullDisk(Target, u64),
}
impl Fault {
    /// For counting: `kill scheduler`.
    pub fn kind(&self) -> String {
        match self {
            Self::Kill(target) => format!("kill {}", target.role.name()),
            Self::Freeze(target, _) => format!("freeze {}", target.role.name()),
            Self::Cut(_, way, _) => format!("cut {}", way.name()),
            Self::Reset(_) => "reset".into(),
            Self::Slow(..) => "slow link".into(),
            Self::FullDisk(target, _) => format!("full disk {}", target.role.name()),
        }
    }
}
impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Kill(target) => write!(f, "kill {} {}", target.role.name(), target.n),
            Self::Freeze(target, ms) => write!(f, "freeze {} {} for {ms} ms", target.role.name(), target.n),
            Self::Cut(device, way, ms) => write!(f, "cut the link of device {device} {} for {ms} ms", way.name()),
            Self::Reset(device) => write!(f, "reset the link of device {device}"),
            Self::Slow(device, delay, ms) => write!(f, "slow the link of device {device} by {delay} ms for {ms} ms"),
            Self::FullDisk(target, ms) => write!(f, "fill the disk of {} {} for {ms} ms", target.role.name(), target.n),
        }
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Planned {
    pub at_ms: u64,
    pub fault: Fault,
}

/// A lease without a renewal ends after 30 s; a device is given up after 20 s of silence. Some freezes and cuts last longer.
const LEASE_MS: u64 = 30_000;
/// After this much of a cut the other side has forgotten the connection, as a router between them would have.
pub const FORGOTTEN_MS: u64 = 20_000;

#[derive(Clone, Copy)]
enum Draw {
    Kill(Role),
    Freeze(Role),
    Cut,
    Reset,
    Slow,
    FullDisk(Target),
}

/// The faults, in the order of their times.
pub fn plan(settings: &Settings) -> Vec<Planned> {
    let shape = &settings.shape;
    let mut dice = Dice::new(settings.seed);
    let mut choices = vec![
        (12, Draw::Kill(Role::Scheduler)),
        (14, Draw::Kill(Role::Agent)),
        (5, Draw::Kill(Role::Leaf)),
        (8, Draw::Kill(Role::Ledger)),
        (8, Draw::Kill(Role::Gateway)),
        (6, Draw::Kill(Role::Hub)),
        (3, Draw::Kill(Role::Postgres)),
        (8, Draw::Freeze(Role::Scheduler)),
        (6, Draw::Freeze(Role::Agent)),
        (3, Draw::Freeze(Role::Leaf)),
        (5, Draw::Freeze(Role::Ledger)),
        (4, Draw::Freeze(Role::Gateway)),
        (3, Draw::Freeze(Role::Hub)),
        (2, Draw::Freeze(Role::Postgres)),
        (14, Draw::Cut),
        (6, Draw::Reset),
        (4, Draw::Slow),
    ];
    let small = [(3, Role::Agent), (3, Role::Hub), (2, Role::Postgres)];
    choices.extend(small.into_iter().filter_map(|(weight, role)| Some((weight, Draw::FullDisk(shape.on_small_disk(role)?)))));
    let divided = |ms: u64| (ms / settings.divisor.max(1)).max(1);
    let mut at_ms = 0;
    let mut plan = Vec::new();
    loop {
        at_ms += dice.between(settings.every_ms / 4, settings.every_ms * 7 / 4);
        if at_ms >= settings.seconds * 1_000 {
            return plan;
        }
        let draw = *dice.weighted(&choices);
        // One in four outlasts a lease.
        let lasts = |dice: &mut Dice| {
            divided(if dice.percent(25) { dice.between(LEASE_MS, LEASE_MS * 4 / 3) } else { dice.between(1_000, LEASE_MS / 2) })
        };
        let target = |dice: &mut Dice, role: Role| Target { role, n: index(dice.below(role.count(shape))) };
        let device = |dice: &mut Dice| index(dice.below(shape.devices));
        let fault = match draw {
            Draw::Kill(role) => Fault::Kill(target(&mut dice, role)),
            Draw::Freeze(role) => {
                let target = target(&mut dice, role);
                Fault::Freeze(target, lasts(&mut dice))
            }
            Draw::Cut => {
                let way = *dice.weighted(&[(2, Way::Both), (1, Way::Up), (1, Way::Down)]);
                Fault::Cut(device(&mut dice), way, lasts(&mut dice))
            }
            Draw::Reset => Fault::Reset(device(&mut dice)),
            Draw::Slow => Fault::Slow(device(&mut dice), dice.between(20, 250), lasts(&mut dice)),
            Draw::FullDisk(target) => Fault::FullDisk(target, lasts(&mut dice)),
        };
        plan.push(Planned { at_ms, fault });
    }
}

fn index(n: u64) -> usize {
    usize::try_from(n).unwrap_or(usize::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeSet;

    const SHAPE: Shape = Shape { hubs: 3, gateways: 2, schedulers: 2, ledgers: 2, devices: 4, small_disks: true };
    fn settings(seed: u64) -> Settings {
        Settings { seed, seconds: 120, divisor: 10, every_ms: 1_000, pace_ms: 300, shape: SHAPE }
    }

    #[test]
    fn a_seed_gives_its_plan_again_and_another_seed_another() {
        assert_eq!(plan(&settings(1)), plan(&settings(1)));
        assert_ne!(plan(&settings(1)), plan(&settings(2)));
        let longer = Settings { seconds: 240, ..settings(1) };
        assert!(plan(&longer).starts_with(&plan(&settings(1))), "a longer run begins in the same way");
    }

    #[test]
    fn everything_is_hit_and_nothing_that_is_not_there() {
        let all: Vec<Planned> = (0..20).flat_map(|seed| plan(&settings(seed))).collect();
        assert!((2_000..3_000).contains(&all.len()), "{}", all.len());
        let kinds: BTreeSet<String> = all.iter().map(|planned| planned.fault.kind()).collect();
        assert_eq!(kinds.len(), 14 + 3 + 1 + 1 + 3, "{kinds:?}");
        for planned in all {
            match planned.fault {
                Fault::Kill(Target { role, n }) | Fault::Freeze(Target { role, n }, _) => assert!((n as u64) < role.count(&SHAPE)),
                Fault::Cut(device, ..) | Fault::Reset(device) | Fault::Slow(device, ..) => assert!(device < 4),
                Fault::FullDisk(target, ms) => assert!(SHAPE.on_small_disk(target.role) == Some(target) && ms <= 4_000),
            }
        }
        let without = Settings { shape: Shape { small_disks: false, ..SHAPE }, ..settings(1) };
        assert!(plan(&without).iter().all(|planned| !planned.fault.kind().starts_with("full disk")));
    }
}
