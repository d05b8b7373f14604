//! What computes: one trait, one file per engine, and the thread that runs them.
//!
//! Each engine says what it needs and whether its files are there; a kind is offered only where they are. Engines run on a thread of
//! their own, at a lower priority than the link, so that a busy processor never makes the device look dead.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, channel};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use bus_schemas::event::Progress;
use bus_schemas::job::KINDS;
use bus_schemas::receipt::{Failure, FailureClass};
use bus_schemas::resources::Resources;
use bus_schemas::{AttemptId, Cid, Problem};

use crate::home::Settings;

pub mod echo;
pub mod embed;

/// What an engine tells while it works.
pub enum Step {
    Progress(Progress),
    Part(Part),
}

/// A part of the result that can be kept: another device could go on behind it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Part {
    /// [`bus_schemas::api::PartialResult`] as JSON.
    pub bytes: Vec<u8>,
    pub cid: Cid,
    /// Texts of the job that are done with it.
    pub units: u32,
}

/// What an engine made.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Made {
    /// The result's JSON.
    pub bytes: Vec<u8>,
    /// Texts that were computed here; what was kept by others is not.
    pub units: u32,
}

/// What an engine is told after each step.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Control {
    Continue,
    Stop,
}

/// Why there is no result.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Ended {
    Failed(Failure),
    /// It was told to stop.
    Stopped,
}
impl Ended {
    /// The engine failed; another device may fare better.
    pub fn error(message: impl std::fmt::Display) -> Self {
        Self::Failed(failure(FailureClass::ExecutionError, message, true))
    }
}

/// A failure of one attempt.
pub fn failure(class: FailureClass, message: impl std::fmt::Display, retryable: bool) -> Failure {
    // What the sentence says is for people, and it travels in a signed body: keep it short.
    Failure { class, message: Problem::new(bus_schemas::Code::JobFailed, message.to_string()).detail, retryable }
}

/// One engine.
pub trait Executor: Send {
    fn kind(&self) -> &'static str;
    /// What it takes to run, beside what the job itself asks for.
    fn needs(&self) -> Resources;
    /// Looks whether all files are there; cheap enough to ask often.
    ///
    /// # Errors
    /// One sentence that says what is missing and how to get it.
    fn available(&self) -> Result<(), String>;
    /// Loads what it needs, unless it is loaded.
    ///
    /// # Errors
    /// Why it cannot.
    fn prepare(&mut self) -> Result<(), Ended>;
    /// Computes: the texts in, the result's JSON out. `kept` are the parts that earlier attempts have left, the first texts first; what
    /// cannot be used of them is computed again.
    ///
    /// # Errors
    /// Why there is no result.
    fn run(&mut self, texts: &[String], kept: &[Vec<u8>], tell: &mut dyn FnMut(Step) -> Control) -> Result<Made, Ended>;
    /// Frees what it loaded.
    fn release(&mut self);
    fn is_loaded(&self) -> bool;
}

/// Where work is, in the order in which it comes there. Which of them a job goes through is said by [`stages`].
pub mod stage {
    pub const FETCHING: &str = "fetching";
    pub const LOADING: &str = "loading";
    pub const STORING: &str = "storing";
}

/// The stages of a job of this kind; `fetches`: its texts or what was kept of it have to be fetched first.
pub fn stages(kind: &str, fetches: bool) -> Vec<&'static str> {
    let own: &[&str] = match kind {
        echo::KIND => &echo::STAGES,
        embed::KIND => &embed::STAGES,
        _ => &[],
    };
    let fetching: &[&str] = if fetches { &[stage::FETCHING] } else { &[] };
    [fetching, own, &[stage::STORING]].concat()
}

/// The engine of a kind.
pub fn engine(kind: &str, settings: &Settings) -> Option<Box<dyn Executor>> {
    match kind {
        echo::KIND => Some(Box::new(echo::Echo)),
        embed::KIND => Some(Box::new(embed::Embed::new(settings))),
        _ => None,
    }
}

/// SHA-256 of the weights that a job of this kind is computed with; its engine loads no others.
pub fn model(kind: &str) -> Option<&'static str> {
    (kind == embed::KIND).then_some(agent_embed::WEIGHTS_SHA256)
}

/// Kinds that can run here and that the owner allows, in the order of [`KINDS`].
pub fn kinds(settings: &Settings) -> Vec<String> {
    let allowed = |kind: &&str| settings.kinds.is_empty() || settings.kinds.iter().any(|allowed| allowed == kind);
    let runs = |kind: &&str| match engine(kind, settings).map(|engine| engine.available()) {
        Some(Ok(())) => true,
        Some(Err(why)) => {
            tracing::debug!(kind, why, "not offered");
            false
        }
        None => false,
    };
    KINDS.into_iter().filter(allowed).filter(runs).map(str::to_owned).collect()
}

/// One piece of work for the engines' thread.
pub struct Order {
    pub attempt: AttemptId,
    pub kind: String,
    pub texts: Vec<String>,
    /// What earlier attempts have left.
    pub kept: Vec<Vec<u8>>,
    /// It must have ended by then.
    pub deadline: Instant,
    pub reins: Reins,
}

/// How the loop looks at running work, and stops it. Cheap to clone.
#[derive(Clone, Default)]
pub struct Reins {
    stop: Arc<AtomicBool>,
    progress: Arc<Mutex<Progress>>,
}
impl Reins {
    /// The work ends within a step.
    pub fn stop(&self) {
        self.stop.store(true, Ordering::Relaxed);
    }
    pub fn is_stopped(&self) -> bool {
        self.stop.load(Ordering::Relaxed)
    }
    /// Where it is.
    pub fn progress(&self) -> Progress {
        self.progress.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
    /// What an engine says; nonsense is not passed on, and changes nothing.
    fn tell(&self, progress: Progress) {
        let mut known = self.progress.lock().unwrap_or_else(PoisonError::into_inner);
        match progress.follows(Some(&known)) {
            Ok(()) => *known = progress,
            Err(why) => {
                metrics::counter!("mesh_agent_progress_refused_total").increment(1);
                tracing::warn!(why, "an engine's progress was refused");
            }
        }
    }
}

/// What comes back from the engines' threads.
pub enum Reported {
    Part(AttemptId, Part),
    Finished(Finished),
}

/// How an order ended.
pub struct Finished {
    pub attempt: AttemptId,
    pub kind: String,
    /// Texts that were computed.
    pub units: u32,
    /// The result's bytes and their content id.
    pub result: Result<(Vec<u8>, Cid), Ended>,
    /// Computing alone; loading a model is the device's own affair.
    pub took: Duration,
}

/// The threads that run engines. Dropped, they end after the order in hand.
pub struct Engines {
    orders: Sender<Order>,
    loaded: Arc<AtomicBool>,
}

/// An engine that was idle this long frees its model.
const IDLE_MAX: Duration = Duration::from_secs(300);

impl Engines {
    /// Starts `slots` threads; each calls `report` for every order, and for every part of one.
    ///
    /// # Errors
    /// Where the system gives no thread.
    pub fn start(settings: &Settings, slots: usize, report: impl Fn(Reported) + Send + Sync + 'static) -> std::io::Result<Self> {
        let (orders, receiver) = channel();
        let receiver = Arc::new(Mutex::new(receiver));
        let report = Arc::new(report);
        let loaded = Arc::new(AtomicBool::new(false));
        for slot in 0..slots.max(1) {
            let (receiver, report, loaded, settings) = (receiver.clone(), report.clone(), loaded.clone(), settings.clone());
            let work = move || Worker { settings, engines: vec![], loaded }.work(&receiver, &*report);
            std::thread::Builder::new().name(format!("engine-{slot}")).spawn(work)?;
        }
        Ok(Self { orders, loaded })
    }
    /// Hands an order over; it starts once a thread is free.
    pub fn run(&self, order: Order) -> Result<(), AttemptId> {
        self.orders.send(order).map_err(|refused| refused.0.attempt)
    }
    /// Whether a model is in memory.
    pub fn is_loaded(&self) -> bool {
        self.loaded.load(Ordering::Relaxed)
    }
}

struct Worker {
    settings: Settings,
    engines: Vec<Box<dyn Executor>>,
    loaded: Arc<AtomicBool>,
}

impl Worker {
    fn work(mut self, orders: &Mutex<Receiver<Order>>, report: &dyn Fn(Reported)) {
        lower_priority();
        loop {
            let order = {
                let orders = orders.lock().unwrap_or_else(PoisonError::into_inner);
                if self.engines.iter().any(|engine| engine.is_loaded()) {
                    orders.recv_timeout(IDLE_MAX)
                } else {
                    orders.recv().map_err(|_| RecvTimeoutError::Disconnected)
                }
            };
            match order {
                Ok(order) => {
                    let finished = self.run(order, report);
                    report(Reported::Finished(finished));
                }
                Err(RecvTimeoutError::Timeout) => {
                    self.engines.iter_mut().for_each(|engine| engine.release());
                    self.loaded.store(false, Ordering::Relaxed);
                    tracing::info!("released the model after {} idle minutes", IDLE_MAX.as_secs() / 60);
                }
                Err(RecvTimeoutError::Disconnected) => return,
            }
        }
    }

    fn run(&mut self, order: Order, report: &dyn Fn(Reported)) -> Finished {
        let (made, took) = self.result(&order, report);
        let units = made.as_ref().map_or(0, |made| made.units);
        let result = made.map(|made| {
            let cid = Cid::of(&made.bytes);
            (made.bytes, cid)
        });
        Finished { attempt: order.attempt, kind: order.kind, units, result, took }
    }

    fn result(&mut self, order: &Order, report: &dyn Fn(Reported)) -> (Result<Made, Ended>, Duration) {
        let reins = &order.reins;
        if self.engine(&order.kind).is_ok_and(|engine| !engine.is_loaded()) && stages(&order.kind, false).contains(&stage::LOADING) {
            reins.tell(Progress { stage: stage::LOADING.into(), ..Progress::default() });
        }
        let prepared = self.engine(&order.kind).and_then(|engine| engine.prepare());
        if let Err(ended) = prepared {
            return (Err(ended), Duration::ZERO);
        }
        self.loaded.store(self.engines.iter().any(|engine| engine.is_loaded()), Ordering::Relaxed);
        let start = Instant::now();
        let mut late = false;
        let mut tell = |step: Step| {
            match step {
                Step::Progress(progress) => reins.tell(progress),
                Step::Part(part) => report(Reported::Part(order.attempt, part)),
            }
            late = late || Instant::now() > order.deadline;
            if late || reins.is_stopped() { Control::Stop } else { Control::Continue }
        };
        let computes = stages(&order.kind, false).into_iter().find(|stage| *stage != stage::LOADING).unwrap_or_default();
        if tell(Step::Progress(Progress { stage: computes.into(), ..Progress::default() })) == Control::Stop {
            return (Err(stopped(late)), Duration::ZERO);
        }
        let result = match self.engine(&order.kind) {
            Ok(engine) => engine.run(&order.texts, &order.kept, &mut tell),
            Err(ended) => Err(ended),
        };
        let result = match result {
            Err(Ended::Stopped) => Err(stopped(late)),
            result => result,
        };
        (result, start.elapsed())
    }

    fn engine(&mut self, kind: &str) -> Result<&mut Box<dyn Executor>, Ended> {
        if !self.engines.iter().any(|engine| engine.kind() == kind) {
            let unknown = || Ended::Failed(failure(FailureClass::DeviceDeclined, format!("kind {kind} cannot run here"), true));
            self.engines.push(engine(kind, &self.settings).ok_or_else(unknown)?);
        }
        let missing = || Ended::error("no engine");
        self.engines.iter_mut().find(|engine| engine.kind() == kind).ok_or_else(missing)
    }
}

fn stopped(late: bool) -> Ended {
    if late { Ended::Failed(failure(FailureClass::Timeout, "it ran longer than its timeout", true)) } else { Ended::Stopped }
}

/// On Linux a priority belongs to a thread, and the threads that it starts inherit it.
fn lower_priority() {
    #[cfg(target_os = "linux")]
    if let Err(error) = rustix::process::setpriority_process(None, 5) {
        tracing::debug!(%error, "engines run at normal priority");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn kinds_follow_what_is_there_and_what_the_owner_allows() {
        let only_echo = Settings { kinds: vec!["echo".into(), "ocr".into()], ..Settings::default() };
        assert_eq!(kinds(&only_echo), ["echo"]);
        assert_eq!(kinds(&Settings::default()).first().map(String::as_str), Some("echo"));
        assert!(engine("ocr", &only_echo).is_none());
    }

    #[test]
    fn a_job_goes_through_the_stages_of_its_kind() {
        assert_eq!(stages("embed", true), ["fetching", "loading", "embedding", "storing"]);
        assert_eq!(stages("embed", false), ["loading", "embedding", "storing"]);
        assert_eq!(stages("echo", false), ["echoing", "storing"]);
    }

    #[test]
    fn an_engine_cannot_tell_nonsense() {
        let reins = Reins::default();
        for (told, known) in [(100, 100), (50, 100), (10_001, 100), (10_000, 10_000), (9_999, 10_000)] {
            reins.tell(Progress { basis_points: told, ..Progress::default() });
            assert_eq!(reins.progress().basis_points, known, "after {told}");
        }
    }

    #[test]
    fn a_thread_runs_orders_and_stops_them() {
        let (sender, receiver) = channel();
        let sender = Mutex::new(sender);
        let engines = Engines::start(&Settings::default(), 1, move |reported| {
            let Reported::Finished(finished) = reported else { return };
            sender.lock().unwrap().send(finished).unwrap();
        })
        .unwrap();
        let order = |kind: &str, deadline: Instant, reins: Reins| Order {
            attempt: AttemptId(Cid::of(kind.as_bytes())),
            kind: kind.into(),
            texts: vec!["hi \"there\"".into()],
            kept: vec![],
            deadline,
            reins,
        };
        let later = Instant::now() + Duration::from_secs(60);
        engines.run(order("echo", later, Reins::default())).unwrap();
        let (bytes, cid) = receiver.recv().unwrap().result.unwrap();
        assert_eq!((bytes.as_slice(), cid), (br#"{"text":"hi \"there\""}"#.as_slice(), Cid::of(&bytes)));

        let reins = Reins::default();
        reins.stop();
        engines.run(order("echo", later, reins)).unwrap();
        assert_eq!(receiver.recv().unwrap().result.unwrap_err(), Ended::Stopped);

        let past = Instant::now() - Duration::from_millis(1);
        engines.run(order("echo", past, Reins::default())).unwrap();
        let Err(Ended::Failed(failure)) = receiver.recv().unwrap().result else { panic!("it was late") };
        assert_eq!(failure.class, FailureClass::Timeout);

        engines.run(order("ocr", later, Reins::default())).unwrap();
        let Err(Ended::Failed(failure)) = receiver.recv().unwrap().result else { panic!("nobody runs it") };
        assert_eq!(failure.class, FailureClass::DeviceDeclined);
    }
}
