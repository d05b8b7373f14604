//! Questions of all doors wait for their turn here, each in its asker's line. One gateway counts for itself: with several, an asker has
//! as many times the rate.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use bus_schemas::id::{Asker, MemberId, sha256};
use bus_schemas::ledger::Policy;
use bus_schemas::{Code, Problem};
use tokio::sync::oneshot;
use tokio_util::sync::CancellationToken;

use crate::fair::{Fair, Later, Next, Rate, Share};
use crate::world::{World, lock};

/// What a question asks of this gateway.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Class {
    /// Read or changed at once.
    Question,
    /// Waits until its job is admitted.
    Submission,
    /// Moves bytes.
    Blob,
}

/// What one asker may do at one gateway; 0: no limit.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::Args)]
pub struct Rates {
    /// Questions a second of one member or device, by all doors; four seconds' worth at once.
    #[arg(long, env = "MESH_QUESTIONS_PER_S", default_value_t = 1_000)]
    pub questions_per_s: u64,
    /// Submissions a second of one member or device, by all doors; what is stored already waits. Four seconds' worth at once.
    #[arg(long, env = "MESH_SUBMISSIONS_PER_S", default_value_t = 20_000)]
    pub submissions_per_s: u64,
    /// Bytes of blobs a second of one member or device; four seconds' worth at once.
    #[arg(long, env = "MESH_BLOB_BYTES_PER_S", default_value_t = 64 * 1024 * 1024)]
    pub blob_bytes_per_s: u64,
}
impl Rates {
    /// How many seconds' worth may come at once after a pause.
    const BURST_S: u64 = 4;
    pub const fn rate(per_s: u64) -> Rate {
        Rate { per_s, burst: per_s.saturating_mul(Self::BURST_S) }
    }
}
impl Rates {
    /// What the network's policy says comes first.
    pub fn under(self, policy: &Policy) -> Self {
        let first = |rule: u32, own: u64| if rule > 0 { u64::from(rule) } else { own };
        Self {
            questions_per_s: first(policy.questions_per_s, self.questions_per_s),
            submissions_per_s: first(policy.submissions_per_s, self.submissions_per_s),
            blob_bytes_per_s: first(policy.blob_bytes_per_s, self.blob_bytes_per_s),
        }
    }
}
impl Default for Rates {
    fn default() -> Self {
        Self { questions_per_s: 1_000, submissions_per_s: 20_000, blob_bytes_per_s: 64 * 1024 * 1024 }
    }
}

/// Who would wait longer is told to come again.
const PATIENCE_MS: u64 = 2_000;
/// Tokens whose member is remembered.
const HINTS_MAX: usize = 10_000;

fn share(class: Class, rates: &Rates) -> Share {
    let free = Rate::default();
    let base =
        Share { each: 8, all: 256, waiting: 512, waiting_bytes: 16 * 1024 * 1024, rate: free, bytes: free, patience_ms: PATIENCE_MS };
    match class {
        Class::Question => Share { rate: Rates::rate(rates.questions_per_s), ..base },
        // Most of its time it waits for others.
        Class::Submission => Share { each: 32, all: 512, rate: Rates::rate(rates.submissions_per_s), ..base },
        Class::Blob => Share { bytes: Rates::rate(rates.blob_bytes_per_s), ..base },
    }
}

struct Lines {
    fair: Fair<Asker, oneshot::Sender<Turn>>,
    /// Somebody looks again at this time.
    looks: Option<u64>,
}

/// The lines before this gateway.
pub struct Turns {
    begun: Instant,
    rates: Mutex<Rates>,
    questions: Mutex<Lines>,
    submissions: Mutex<Lines>,
    blobs: Mutex<Lines>,
    /// Whose each token was when it was last good, by its hash: says in whose line to wait, and nothing of what is allowed.
    hints: Mutex<BTreeMap<[u8; 32], MemberId>>,
}

/// A turn, until it is dropped.
pub struct Turn {
    turns: Arc<Turns>,
    class: Class,
    asker: Asker,
    bytes: u64,
    over: bool,
}
impl Turn {
    /// So many bytes went through.
    pub fn moved(&mut self, bytes: usize) {
        self.bytes = self.bytes.saturating_add(u64::try_from(bytes).unwrap_or(u64::MAX));
    }
}
impl Drop for Turn {
    fn drop(&mut self) {
        if !self.over {
            self.turns.ended(self.class, &self.asker, self.bytes);
        }
    }
}

impl Turns {
    pub fn new(rates: &Rates) -> Arc<Self> {
        let lines = |class| Mutex::new(Lines { fair: Fair::new(share(class, rates)), looks: None });
        Arc::new(Self {
            begun: Instant::now(),
            rates: Mutex::new(*rates),
            questions: lines(Class::Question),
            submissions: lines(Class::Submission),
            blobs: lines(Class::Blob),
            hints: Mutex::default(),
        })
    }

    /// Waits for the asker's turn.
    ///
    /// # Errors
    /// [`Code::TooFast`] with the time to wait.
    pub async fn enter(self: &Arc<Self>, class: Class, asker: Asker, bytes: usize) -> Result<Turn, Problem> {
        let (sender, receiver) = oneshot::channel();
        if let Err((_, Later { wait_ms })) = lock(self.lines(class)).fair.join(&asker, sender, bytes, self.now()) {
            metrics::counter!("mesh_asked_too_fast_total").increment(1);
            return Err(too_fast(wait_ms));
        }
        self.go_on(class);
        receiver.await.map_err(|_| Problem::new(Code::Unavailable, "this gateway stops"))
    }

    /// From now on; what is being done is not stopped.
    pub fn set(self: &Arc<Self>, rates: &Rates) {
        *lock(&self.rates) = *rates;
        for class in [Class::Question, Class::Submission, Class::Blob] {
            lock(self.lines(class)).fair.set(share(class, rates));
            self.go_on(class);
        }
    }

    /// Those in force.
    pub fn rates(&self) -> Rates {
        *lock(&self.rates)
    }

    /// Notes whose token this is.
    pub fn hint(&self, token: &str, member: MemberId) {
        let mut hints = lock(&self.hints);
        if hints.len() >= HINTS_MAX {
            hints.clear();
        }
        hints.insert(sha256(token.as_bytes()), member);
    }
    /// In whose line the bearer of this token waits; nobody's where it has not been good yet.
    pub fn hinted(&self, token: &str) -> Option<MemberId> {
        lock(&self.hints).get(&sha256(token.as_bytes())).copied()
    }

    fn lines(&self, class: Class) -> &Mutex<Lines> {
        match class {
            Class::Question => &self.questions,
            Class::Submission => &self.submissions,
            Class::Blob => &self.blobs,
        }
    }
    fn now(&self) -> u64 {
        u64::try_from(self.begun.elapsed().as_millis()).unwrap_or(u64::MAX)
    }

    fn ended(self: &Arc<Self>, class: Class, asker: &Asker, bytes: u64) {
        lock(self.lines(class)).fair.done(asker, bytes, self.now());
        self.go_on(class);
    }

    /// Lets go who may.
    fn go_on(self: &Arc<Self>, class: Class) {
        loop {
            let now = self.now();
            let mut lines = lock(self.lines(class));
            match lines.fair.next(now) {
                Next::Go(asker, waits) => {
                    drop(lines);
                    let turn = Turn { turns: self.clone(), class, asker, bytes: 0, over: false };
                    if let Err(mut turn) = waits.send(turn) {
                        // Whoever waited has gone.
                        turn.over = true;
                        lock(self.lines(class)).fair.done(&asker, 0, now);
                    }
                }
                Next::At(at) => {
                    if lines.looks.is_none_or(|looks| at < looks) {
                        lines.looks = Some(at);
                        tokio::spawn(self.clone().look_at(class, at, Duration::from_millis(at.saturating_sub(now))));
                    }
                    return;
                }
                Next::Nothing => return,
            }
        }
    }

    async fn look_at(self: Arc<Self>, class: Class, at: u64, after: Duration) {
        tokio::time::sleep(after).await;
        {
            let mut lines = lock(self.lines(class));
            if lines.looks == Some(at) {
                lines.looks = None;
            }
        }
        self.go_on(class);
    }
}

/// Goes by the network's policy as it changes, until `stop`.
///
/// # Errors
/// Never: without the policy's word the last one counts.
pub async fn follow_policy(world: Arc<World>, own: Rates, stop: CancellationToken) -> anyhow::Result<()> {
    loop {
        match world.network_policy().await {
            Ok(policy) => {
                let rates = own.under(&policy.rules);
                if rates != world.turns.rates() {
                    tracing::info!(?rates, version = policy.rules.version, "what one asker may do");
                    world.turns.set(&rates);
                }
            }
            Err(problem) => tracing::debug!(%problem, "the policy cannot be read now"),
        }
        tokio::select! {
            () = stop.cancelled() => return Ok(()),
            () = tokio::time::sleep(world.timings.heartbeat) => {}
        }
    }
}

/// What everybody is told who is too fast.
pub fn too_fast(wait_ms: u64) -> Problem {
    Problem::new(Code::TooFast, format!("more than your share of this gateway; ask again in {wait_ms} ms")).wait(wait_ms)
}
