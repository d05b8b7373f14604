//! Following one job: its phases on stderr, live where the network tells them, else by looking again.

use std::io::{BufRead, IsTerminal};
use std::time::Duration;

use async_nats::Subscriber;
use bus_schemas::api::{JobView, ResultView, WatchState, ask};
use bus_schemas::event::Progress;
use bus_schemas::job::JobState;
use bus_schemas::receipt::Outcome;
use bus_schemas::{Code, DeviceId, JobId, MilliMana};
use futures::StreamExt;
use tokio::time::Instant;

use super::watch_subject;
use crate::cli::client::Session;
use crate::cli::duration;
use crate::cli::failure::Failure;
use crate::cli::output::Output;

const LOOK_AGAIN: Duration = Duration::from_millis(500);
/// The result comes before the settlement; this long one waits for the latter.
const SETTLE_WAIT: Duration = Duration::from_secs(2);
/// So long the network may be away before the command gives up (the job lives on).
const AWAY_MAX: Duration = Duration::from_secs(30);

/// How a job ended.
#[derive(Debug)]
pub enum Ended {
    Completed(Box<ResultView>),
    Otherwise(Failure),
    Interrupted,
}

/// Follows one job.
pub struct Follow<'a> {
    session: &'a Session,
    output: &'a Output,
    live: Option<Subscriber>,
    start: Instant,
    deadline: Option<Instant>,
    phases: Phases,
}

impl<'a> Follow<'a> {
    /// Begins to listen; call it before the job is submitted, so that nothing is missed.
    pub async fn new(session: &'a Session, timeout: Option<Duration>, output: &'a Output) -> Self {
        let live = session.bus.client.subscribe(watch_subject(session)).await.ok();
        // The subscription must stand before the job is sent on the same connection: one round trip makes it so.
        let _ = session.bus.client.flush().await;
        let start = Instant::now();
        let rewrite = std::io::stderr().is_terminal();
        Self {
            session,
            output,
            live,
            start,
            deadline: timeout.map(|timeout| start + timeout),
            phases: Phases { rewrite, ..Phases::default() },
        }
    }

    pub fn submitted(&mut self, short: &str, kind: &str, key: Option<&str>) {
        self.phases.short = short.to_owned();
        let key = key.map(|key| format!("   key: {key}")).unwrap_or_default();
        let line = self.phases.line("submitted", &format!("{kind}{key}"));
        self.say(line);
    }
    pub fn waiting(&mut self, why: &str) {
        let line = self.phases.waiting(why);
        self.say(line);
    }
    fn say(&self, line: Option<String>) {
        if let Some(line) = line {
            self.output.say(&line);
        }
    }

    /// Waits for the end, the deadline, or an interrupt.
    ///
    /// # Errors
    /// Where the network stays away, or the time given is over.
    pub async fn until_end(&mut self, id: JobId) -> Result<Ended, Failure> {
        let token = format!(".{id}.");
        let mut look = tokio::time::interval_at(Instant::now() + LOOK_AGAIN, LOOK_AGAIN);
        look.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        let mut away_since: Option<Instant> = None;
        // A job that ended before anybody listened is seen at the first look.
        let mut first_look = true;
        loop {
            let live = async {
                match self.live.as_mut() {
                    Some(live) => live.next().await,
                    None => std::future::pending().await,
                }
            };
            let deadline = self.deadline;
            tokio::select! {
                message = live => match message {
                    Some(message) if message.subject.contains(&token) => {
                        if let Some(ended) = self.told(message.subject.as_str(), &message.payload) {
                            return self.settled(id, ended).await;
                        }
                    }
                    Some(_) => (),
                    None => self.live = None,
                },
                _ = look.tick() => match self.session.ask::<_, JobView>("job.show", &ask::ById { id: id.to_string() }).await {
                    Ok(view) => {
                        away_since = None;
                        if let Some(ended) = self.seen(&view).await? {
                            return self.settled(id, ended).await;
                        }
                    }
                    // The history's projection may be a moment behind a fresh job.
                    Err(failure) if failure.code() == Code::NoSuchJob && first_look => (),
                    Err(failure) if matches!(failure.code(), Code::Unavailable | Code::Unreachable) => {
                        let since = *away_since.get_or_insert_with(Instant::now);
                        if since.elapsed() > AWAY_MAX {
                            return Err(failure.next(format!("mesh job wait {}", self.phases.short)));
                        }
                    }
                    Err(failure) if failure.code() == Code::NoSuchJob && self.start.elapsed() < AWAY_MAX => (),
                    Err(failure) => return Err(failure),
                },
                () = sleep_until(deadline) => {
                    let waited = duration::show(self.start.elapsed());
                    return Err(Failure::new(Code::GaveUpWaiting, format!("{} has not ended after {waited}", self.phases.short))
                        .next(format!("mesh job wait {}", self.phases.short)));
                }
                _ = tokio::signal::ctrl_c() => if self.interrupted(id).await { return Ok(Ended::Interrupted) },
            }
            first_look = false;
        }
    }

    /// What came live; `watch` is a hint, so all that counts is checked or asked for later.
    fn told(&mut self, subject: &str, payload: &[u8]) -> Option<Ended> {
        match subject.rsplit('.').next() {
            Some("state") => {
                let state: WatchState = serde_json::from_slice(payload).ok()?;
                let line = self.phases.state(&state);
                self.say(line);
                match state.state {
                    JobState::Failed | JobState::Cancelled | JobState::Rejected => {
                        Some(Ended::Otherwise(ending(state.state, state.error.map(Failure::from), &self.phases.short)))
                    }
                    JobState::Submitted
                    | JobState::BiddingOpen
                    | JobState::BiddingClosed
                    | JobState::Assigned
                    | JobState::Executing
                    | JobState::Completed => None,
                }
            }
            Some("progress") => {
                let progress: Progress = serde_json::from_slice(payload).ok()?;
                let line = self.phases.progress(&progress, self.start.elapsed());
                self.say(line);
                None
            }
            Some("result") => serde_json::from_slice::<ResultView>(payload).ok().map(|view| Ended::Completed(Box::new(view))),
            Some(_) | None => None,
        }
    }

    async fn seen(&mut self, view: &JobView) -> Result<Option<Ended>, Failure> {
        if let Some(progress) = &view.progress {
            let line = self.phases.progress(progress, self.start.elapsed());
            self.say(line);
        }
        match view.state {
            JobState::Completed => {
                let result: ResultView = self.session.ask("job.result", &ask::ById { id: view.id.to_string() }).await?;
                Ok(Some(Ended::Completed(Box::new(result))))
            }
            JobState::Failed | JobState::Cancelled | JobState::Rejected => {
                Ok(Some(Ended::Otherwise(ending(view.state, view.error.clone().map(Failure::from), &self.phases.short))))
            }
            JobState::Assigned | JobState::Executing => {
                let device = view.device.map(|device| device.to_string()).unwrap_or_default();
                let line = self.phases.once("matched", &device);
                self.say(line);
                Ok(None)
            }
            JobState::Submitted | JobState::BiddingOpen | JobState::BiddingClosed => {
                if let Some(why) = &view.waiting {
                    self.waiting(why);
                }
                Ok(None)
            }
        }
    }

    /// Waits a moment for the settlement of a completed job, so that what follows sees the credits moved.
    async fn settled(&mut self, id: JobId, ended: Ended) -> Result<Ended, Failure> {
        let Ended::Completed(view) = &ended else { return Ok(ended) };
        let until = Instant::now() + SETTLE_WAIT;
        let mut cost: Option<MilliMana> = None;
        let mut pause = Duration::from_millis(20);
        while Instant::now() < until {
            if let Ok(job) = self.session.ask::<_, JobView>("job.show", &ask::ById { id: id.to_string() }).await
                && job.state == JobState::Completed
                && job.cost_mmana.is_some()
            {
                cost = job.cost_mmana;
                break;
            }
            tokio::time::sleep(pause).await;
            pause = (pause * 2).min(Duration::from_millis(200));
        }
        let by = match self.phases.device.clone() {
            Some(name) => name,
            None => self.matched(view.receipt.device).await,
        };
        let worked = match &view.receipt.body.outcome {
            Outcome::Completed(_) => format!("   {}", duration::show(Duration::from_millis(view.receipt.body.claimed_ms))),
            Outcome::Failed(_) | Outcome::Cancelled => String::new(),
        };
        let running = self.phases.once("running", &format!("100%{worked}"));
        self.say(running);
        let receipt = view.receipt.id.short();
        let line = match cost {
            Some(cost) => self.phases.line("settled", &format!("receipt {receipt}, signed by {by}   {cost} mana")),
            None => self.phases.line("done", &format!("receipt {receipt}, signed by {by}; not settled yet")),
        };
        self.say(line);
        Ok(ended)
    }

    /// A job that is done at once tells no state of its own; its device has a name all the same.
    async fn matched(&mut self, device: DeviceId) -> String {
        let devices = crate::cli::node::all(self.session).await.map(|list| list.devices).unwrap_or_default();
        let name = devices.into_iter().find(|seen| seen.id == device).map_or_else(|| device.to_string(), |seen| seen.name);
        let line = self.phases.once("matched", &name);
        self.say(line);
        name
    }

    /// After Ctrl-C: offers to cancel on a terminal. True where the command ends.
    async fn interrupted(&mut self, id: JobId) -> bool {
        let short = self.phases.short.clone();
        if !self.output.interactive {
            self.output.say(&format!("{short} lives on: mesh job wait {short}, or: mesh job cancel {short}"));
            return true;
        }
        eprint!("\ncancel {short} as well? [y/N, c to go on waiting] ");
        let answer = tokio::task::spawn_blocking(|| {
            let mut line = String::new();
            std::io::stdin().lock().read_line(&mut line).map(|_| line)
        });
        let answer = tokio::select! {
            answer = answer => answer.ok().and_then(Result::ok).unwrap_or_default(),
            _ = tokio::signal::ctrl_c() => String::new(),
        };
        match answer.trim() {
            "c" | "C" => return false,
            "y" | "Y" | "yes" => match super::look::ask_cancel(self.session, &id.to_string()).await {
                Ok(_) => self.output.say(&format!("{short} is being cancelled")),
                Err(failure) => self.output.say(failure.text().trim_end()),
            },
            _ => self.output.say(&format!("{short} lives on: mesh job wait {short}")),
        }
        true
    }
}

async fn sleep_until(deadline: Option<Instant>) {
    match deadline {
        Some(deadline) => tokio::time::sleep_until(deadline).await,
        None => std::future::pending().await,
    }
}

/// A job that ended without a result, as a failure of the command.
pub fn ending(state: JobState, why: Option<Failure>, short: &str) -> Failure {
    let next = format!("mesh job explain {short}");
    match (state, why) {
        (JobState::Cancelled, _) => {
            Failure::new(Code::JobCancelled, format!("{short} was cancelled")).next(format!("mesh job show {short}"))
        }
        // Rejected, or nothing fitted: the code says which; its exit code is "not placeable or rejected", money, or usage.
        (JobState::Rejected, Some(why)) => why,
        (_, Some(why)) if why.code() == Code::NothingFits => Failure { next: vec![next], ..why },
        (_, Some(why)) => {
            let because = if why.code() == Code::JobFailed {
                why.problem.detail
            } else {
                format!("{}: {}", why.problem.code.title(), why.problem.detail)
            };
            Failure::new(Code::JobFailed, format!("{short}: {because}")).next(next)
        }
        (_, None) => Failure::new(Code::JobFailed, short.to_owned()).next(next),
    }
}

/// What was said so far, so that each change is said once.
#[derive(Debug, Default)]
struct Phases {
    short: String,
    said: Vec<(&'static str, String)>,
    device: Option<String>,
    /// A terminal: progress overwrites its own line.
    rewrite: bool,
}
impl Phases {
    /// A line for a phase, unless it was the last thing said.
    fn line(&mut self, phase: &'static str, detail: &str) -> Option<String> {
        if self.said.last().is_some_and(|(last, said)| *last == phase && said == detail) {
            return None;
        }
        let first = self.said.is_empty();
        let over = self.rewrite && phase == "running" && self.said.last().is_some_and(|(last, _)| *last == phase);
        self.said.push((phase, detail.to_owned()));
        let head = if first { self.short.clone() } else { String::new() };
        let up = if over { "\x1b[1A\x1b[2K" } else { "" };
        Some(format!("{up}{head:<12}  {phase:<10}  {detail}").trim_end().to_owned())
    }
    /// As [`Self::line`], unless the phase was said before in any words.
    fn once(&mut self, phase: &'static str, detail: &str) -> Option<String> {
        if self.said.iter().any(|(said, detail)| *said == phase && (phase != "running" || detail.starts_with("100%"))) {
            return None;
        }
        self.line(phase, detail)
    }
    fn waiting(&mut self, why: &str) -> Option<String> {
        let detail = format!("{why}   (mesh job explain {})", self.short);
        self.line("waiting", &detail)
    }
    fn state(&mut self, state: &WatchState) -> Option<String> {
        match state.state {
            JobState::Submitted | JobState::BiddingOpen | JobState::BiddingClosed => {
                state.why.as_ref().and_then(|why| self.line("waiting", why))
            }
            JobState::Assigned => {
                let name = state.device_name.clone().or_else(|| state.device.map(|device| device.to_string())).unwrap_or_default();
                self.device = Some(name.clone());
                let price = state.price_mmana.map(|price| format!("   at most {price} mana")).unwrap_or_default();
                let bids = state.bids.map(|bids| {
                    let others = state
                        .rejected
                        .filter(|rejected| *rejected > 0)
                        .map(|rejected| format!(", {rejected} rejected"))
                        .unwrap_or_default();
                    format!("   ({bids} bids{others}: mesh job explain {})", self.short)
                });
                self.line("matched", &format!("{name}{price}{}", bids.unwrap_or_default()))
            }
            JobState::Executing => self.once("running", ""),
            JobState::Completed | JobState::Failed | JobState::Cancelled | JobState::Rejected => None,
        }
    }
    fn progress(&mut self, progress: &Progress, elapsed: Duration) -> Option<String> {
        let percent = progress.basis_points / 100;
        // Whole tens for a log, every percent for a terminal.
        let shown = if self.rewrite { percent } else { percent / 10 * 10 };
        let last = self.said.iter().rev().find(|(phase, _)| *phase == "running").and_then(|(_, said)| said.split('%').next()?.parse().ok());
        if last.is_some_and(|last: u32| shown <= last) {
            return None;
        }
        let stage = if progress.stage.is_empty() { String::new() } else { format!("   {}", progress.stage) };
        let eta = progress.eta_ms.map(|eta| format!("   {} left", duration::show(Duration::from_millis(eta)))).unwrap_or_default();
        self.line("running", &format!("{shown}%   {}{stage}{eta}", duration::show(elapsed)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn phases() -> Phases {
        Phases { short: "job_7f3kq2ab".into(), ..Phases::default() }
    }

    #[test]
    fn each_change_is_said_once() {
        let mut phases = phases();
        assert_eq!(phases.line("submitted", "embed").as_deref(), Some("job_7f3kq2ab  submitted   embed"));
        assert_eq!(phases.line("waiting", "0 of 2 devices fit").as_deref(), Some("              waiting     0 of 2 devices fit"));
        assert_eq!(phases.line("waiting", "0 of 2 devices fit"), None);
        let at = |basis_points| Progress { basis_points, ..Progress::default() };
        let second = Duration::from_secs(1);
        assert!(phases.progress(&at(1_000), second).unwrap().contains("10%"));
        assert_eq!(phases.progress(&at(1_900), second), None, "tens are enough for a log");
        assert!(phases.progress(&at(5_500), second).unwrap().contains("50%"));
        assert_eq!(phases.progress(&at(2_000), second), None, "never backwards");
        assert!(phases.once("running", "100%   3.1 s").is_some());
        assert_eq!(phases.once("running", "100%   3.1 s"), None);
    }

    #[test]
    fn exit_codes_of_jobs_that_failed() {
        let why = |code| Some(Failure::new(code, "x"));
        assert_eq!(ending(JobState::Failed, why(Code::JobFailed), "job_a").exit(), 3);
        assert_eq!(ending(JobState::Failed, why(Code::BadTimeout), "job_a").exit(), 3);
        assert_eq!(ending(JobState::Failed, why(Code::NothingFits), "job_a").exit(), 4);
        assert_eq!(ending(JobState::Rejected, why(Code::TooLittleMana), "job_a").exit(), 8);
        assert_eq!(ending(JobState::Cancelled, None, "job_a").exit(), 3);
        assert_eq!(ending(JobState::Failed, None, "job_a").next, ["mesh job explain job_a"]);
    }
}
