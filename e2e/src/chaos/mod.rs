//! Chaos on real processes: a whole network with a load at every door is broken by a seeded plan, comes to rest, and is then looked at by
//! a checker that knows only what its clients were told.
//!
//! In: [`Settings`] (`MESH_CHAOS_SEED`, `MESH_CHAOS_SECONDS`, …). Out: a summary, or every broken promise by name. `plan` draws the faults and is
//! pure: a seed gives the same ones again. `fleet` is the network that is broken, `faults` breaks and heals it, `load` asks and notes what it was told,
//! `checker` compares. `pulse` is what each process holds (memory, pending acknowledgements) before and after.

pub mod checker;
pub mod device;
pub mod faults;
pub mod fleet;
pub mod load;
pub mod plan;
pub mod pulse;
pub mod work;

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use fleet::Fleet;
use load::Load;
use plan::{Fault, Shape};

/// What one run is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Settings {
    pub seed: u64,
    /// How long faults are made.
    pub seconds: u64,
    /// Divides every waiting time of the network.
    pub divisor: u64,
    /// Milliseconds between two faults, on average.
    pub every_ms: u64,
    /// Milliseconds between two submissions of one client, on average.
    pub pace_ms: u64,
    pub shape: Shape,
}

impl Settings {
    /// As the environment says, otherwise these.
    #[must_use]
    pub fn or_environment(self) -> Self {
        let number = |name: &str, otherwise: u64| {
            let set = std::env::var(format!("MESH_CHAOS_{name}")).ok();
            set.map_or(otherwise, |text| text.trim().parse().unwrap_or_else(|_| panic!("MESH_CHAOS_{name}={text} is no number")))
        };
        let shape = Shape {
            hubs: number("HUBS", self.shape.hubs),
            gateways: number("GATEWAYS", self.shape.gateways),
            schedulers: number("SCHEDULERS", self.shape.schedulers),
            ledgers: number("LEDGERS", self.shape.ledgers),
            devices: number("DEVICES", self.shape.devices),
            small_disks: number("SMALL_DISKS", u64::from(self.shape.small_disks)) != 0,
        };
        Self {
            seed: number("SEED", self.seed),
            seconds: number("SECONDS", self.seconds),
            divisor: number("DIVISOR", self.divisor),
            every_ms: number("EVERY_MS", self.every_ms),
            pace_ms: number("PACE_MS", self.pace_ms),
            shape,
        }
    }
}

/// Runs it all and prints a summary.
///
/// # Panics
/// Where a promise is broken, with the seed, each finding, the last faults, and where the logs are kept.
pub async fn run(settings: Settings) {
    println!("chaos: {settings:?}");
    let mut settings = settings;
    let fleet = Fleet::start(&settings).await;
    settings.shape = fleet.shape;
    let began = Instant::now();
    let load = Load::start(&fleet, &settings).await;
    load.goes_on(u64::from(fleet.devices()) + 10).await;
    let before = pulse::look(&fleet).await;
    let plan = plan::plan(&settings);
    println!("chaos: {} faults in {} s, the network is up after {:.0?}", plan.len(), settings.seconds, began.elapsed());
    let log = faults::carry_out(&fleet, &plan, settings.divisor).await;
    let healed = Instant::now();
    fleet.whole_again().await;
    println!("chaos: all parts are back {:.1?} after the last fault", healed.elapsed());
    let told = load.end().await;
    let findings = checker::check(&fleet, &told, &before).await;
    let by_kind = log.iter().filter(|note| note.done).fold(BTreeMap::<String, u32>::new(), |mut kinds, note| {
        *kinds.entry(note.fault.kind()).or_default() += 1;
        kinds
    });
    let faults: u32 = by_kind.values().sum();
    println!("chaos: seed {} seconds {} faults {faults} {by_kind:?}; jobs {:?}", settings.seed, settings.seconds, findings.ends);
    println!("chaos: {}", findings.summary);
    if !findings.broken.is_empty() {
        let kept = fleet.keep();
        log.iter().rev().take(40).rev().for_each(|note| println!("  {note}"));
        panic!(
            "seed {}: {} broken promises; logs are kept in {}; again: make chaos SECONDS={} SEED={}\n{}",
            settings.seed,
            findings.broken.len(),
            kept.display(),
            settings.seconds,
            settings.seed,
            findings.broken.join("\n")
        );
    }
}

/// Milliseconds as a duration.
pub(crate) const fn ms(ms: u64) -> Duration {
    Duration::from_millis(ms)
}

/// A fault that was carried out, or could not be.
#[derive(Debug, Clone)]
pub struct Note {
    /// Milliseconds after the first.
    pub at_ms: u64,
    pub fault: Fault,
    /// Whether it hit something.
    pub done: bool,
    pub what: String,
}
impl std::fmt::Display for Note {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{:>7.2} s  {}  {}", self.at_ms as f64 / 1000.0, self.fault, self.what)
    }
}
