//! Following one job: its phases on stderr, live where the network tells them, else by looking again.

use std::io::{BufRead, IsTerminal};
use std::time::Duration;

use async_nats::Subscriber;
use async_nats::connection::State;
use bus_schemas::api::{JobView, ResultView, WatchState, ask};
use bus_schemas::event::Progress;
use bus_schemas::job::JobState;
use bus_schemas::receipt::Outcome;
use bus_schemas::{Code, DeviceId, JobId, MilliMana};
use futures::StreamExt;
use tokio::time::Instant;

use super::phases::Phases;
use super::{is_told, repeat, watch_subject};
use crate::cli::client::Session;
use crate::cli::duration;
use crate::cli::failure::Failure;
use crate::cli::output::Output;

const LOOK_AGAIN: Duration = Duration::from_millis(500);
/// The result comes before the settlement; this long one waits for the latter.
const SETTLE_WAIT: Duration = Duration::from_secs(2);
/// So long the network may be away before the command gives up (the job lives on).
const AWAY_MAX: Duration = Duration::from_secs(30);
/// So long a person who pressed Ctrl-C waits for the network to take the cancellation.
const CANCEL_WAIT: Duration = Duration::from_secs(2);

/// How a job ended.
#[derive(Debug)]
pub enum Ended {
    Completed(Box<ResultView>),
    Otherwise(Failure),
    /// The job lives on.
    Interrupted(JobId),
}

/// Follows one job.
pub struct Follow<'a> {
    session: &'a Session,
    output: &'a Output,
    live: Option<Subscriber>,
    start: Instant,
    deadline: Option<Instant>,
    phases: Phases,
    /// Who has the job, as far as it was told.
    device: Option<DeviceId>,
    /// Of a job that this command has just sent: what makes a repeat the same job.
    again: Option<String>,
    /// The network was seen to have it.
    known: bool,
    /// It was sent, and the network says that it has no such job.
    pending: bool,
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
            phases: Phases::new(rewrite),
            device: None,
            again: None,
            known: false,
            pending: false,
        }
    }

    pub fn submitted(&mut self, short: &str, kind: &str, key: Option<&str>) {
        let line = self.phases.submitted(short, kind, key);
        self.say(line);
    }
    /// This command has sent it, so it need not be a job yet: it becomes one with its hold. `again` makes a repeat the same job.
    pub fn just_sent(&mut self, again: String) {
        self.again = Some(again);
    }
    /// What makes a repeat the same job, where the network has the submission and no job yet.
    fn unadmitted(&self) -> Option<&str> {
        self.again.as_deref().filter(|_| self.pending)
    }
    fn is_known(&mut self) {
        (self.known, self.pending) = (true, false);
    }
    /// How much would let any device take it, should it wait for that.
    pub fn enough(&mut self, most: Option<MilliMana>) {
        self.phases.enough(most);
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

    /// Waits for the end, the deadline, or an interrupt. The last two act at once, also while the network leaves a question open.
    ///
    /// # Errors
    /// Where the network stays away, or the time given is over.
    pub async fn until_end(&mut self, id: JobId) -> Result<Ended, Failure> {
        let ended = loop {
            let deadline = self.deadline;
            match unless_stopped(self.watched(id), sleep_until(deadline), interrupt()).await {
                Ok(ended) => break ended?,
                Err(Stop::Deadline) => {
                    return Err(gave_up(self.phases.short(), self.start.elapsed(), self.unadmitted()));
                }
                Err(Stop::Interrupt) if self.interrupted(id).await => return Ok(Ended::Interrupted(id)),
                Err(Stop::Interrupt) => (),
            }
        };
        // It has ended in time, however long the settlement takes.
        match unless_stopped(self.settled(id, ended), std::future::pending(), interrupt()).await {
            Ok(ended) => Ok(ended),
            Err(Stop::Interrupt | Stop::Deadline) => {
                let short = self.phases.short();
                self.output.say(&format!("{short} has completed: mesh job result {short}"));
                Ok(Ended::Interrupted(id))
            }
        }
    }

    /// Waits for the end alone. May be dropped and begun anew at any moment: whatever it missed is seen at the next look.
    async fn watched(&mut self, id: JobId) -> Result<Ended, Failure> {
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
            tokio::select! {
                message = live => match message {
                    Some(message) if message.subject.contains(&token) && is_told(&message) => {
                        self.is_known();
                        if let Some(ended) = self.told(message.subject.as_str(), &message.payload) {
                            return Ok(ended);
                        }
                    }
                    Some(_) => (),
                    None => self.live = None,
                },
                _ = look.tick() => match self.look(id).await {
                    Ok(view) => {
                        away_since = None;
                        self.is_known();
                        if let Some(ended) = self.seen(&view).await? {
                            return Ok(ended);
                        }
                    }
                    // The history's projection may be a moment behind a fresh job.
                    Err(failure) if failure.code() == Code::NoSuchJob && first_look => (),
                    Err(failure) if matches!(failure.code(), Code::Unavailable | Code::Unreachable) => {
                        let line = self.phases.away(&failure.problem.detail, AWAY_MAX);
                        self.say(line);
                        let since = *away_since.get_or_insert_with(Instant::now);
                        if since.elapsed() > AWAY_MAX {
                            let next = self.unadmitted().map_or_else(|| format!("mesh job wait {}", self.phases.short()), repeat);
                            return Err(failure.next(next));
                        }
                    }
                    Err(failure) if failure.code() == Code::NoSuchJob && self.again.is_some() && !self.known => {
                        (away_since, self.pending) = (None, true);
                        let line = self.phases.unadmitted();
                        self.say(line);
                    }
                    Err(failure) if failure.code() == Code::NoSuchJob && self.start.elapsed() < AWAY_MAX => (),
                    Err(failure) => return Err(failure),
                },
            }
            first_look = false;
        }
    }

    /// As the network sees it; at once an error where there is no connection.
    async fn look(&self, id: JobId) -> Result<JobView, Failure> {
        if self.session.bus.client.connection_state() == State::Disconnected {
            return Err(Failure::new(Code::Unreachable, format!("the connection to {} is lost", self.session.context.nats_url)));
        }
        self.session.ask("job.show", &ask::ById { id: id.to_string() }).await
    }

    /// What came live; `watch` is a hint, so all that counts is checked or asked for later.
    fn told(&mut self, subject: &str, payload: &[u8]) -> Option<Ended> {
        match subject.rsplit('.').next() {
            Some("state") => {
                let state: WatchState = serde_json::from_slice(payload).ok()?;
                self.device = state.device;
                let line = self.phases.state(&state, self.start.elapsed());
                self.say(line);
                match state.state {
                    JobState::Failed | JobState::Cancelled | JobState::Rejected => {
                        Some(Ended::Otherwise(ending(state.state, state.error.map(Failure::from), self.phases.short())))
                    }
                    JobState::Submitted
                    | JobState::BiddingOpen
                    | JobState::BiddingClosed
                    | JobState::Assigned
                    | JobState::Executing
                    | JobState::Completed => None,
                }
            }
            // Before it is known who has the job; the next look tells both.
            Some("progress") if self.device.is_none() => None,
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
        match view.state {
            JobState::Completed => {
                let result: ResultView = self.session.ask("job.result", &ask::ById { id: view.id.to_string() }).await?;
                Ok(Some(Ended::Completed(Box::new(result))))
            }
            JobState::Failed | JobState::Cancelled | JobState::Rejected => {
                Ok(Some(Ended::Otherwise(ending(view.state, view.error.clone().map(Failure::from), self.phases.short()))))
            }
            JobState::Assigned | JobState::Executing => {
                if let Some(device) = view.device.filter(|_| self.phases.device().is_none()) {
                    self.matched(device).await;
                }
                // What the gateway saw last may be of a device that has lost the job.
                let progress = view.progress.as_ref().filter(|_| view.device == self.device);
                let running = progress.and_then(|progress| self.phases.progress(progress, self.start.elapsed()));
                self.say(running);
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
    async fn settled(&mut self, id: JobId, ended: Ended) -> Ended {
        let Ended::Completed(view) = &ended else { return ended };
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
        // A device that had lost the job may have been the first to end it all the same.
        let by = match self.phases.device() {
            Some(name) if self.device == Some(view.receipt.device) => name.to_owned(),
            Some(_) | None => self.matched(view.receipt.device).await,
        };
        let worked = match &view.receipt.body.outcome {
            Outcome::Completed(_) => Some(Duration::from_millis(view.receipt.body.claimed_ms)),
            Outcome::Failed(_) | Outcome::Cancelled => None,
        };
        let ran = self.phases.ran(worked);
        self.say(ran);
        let line = self.phases.settled(&view.receipt.id.short(), &by, cost);
        self.say(Some(line));
        ended
    }

    /// A job that is done at once tells no state of its own; its device has a name all the same.
    async fn matched(&mut self, device: DeviceId) -> String {
        let devices = crate::cli::node::all(self.session).await.map(|list| list.devices).unwrap_or_default();
        let name = devices.into_iter().find(|seen| seen.id == device).map_or_else(|| device.to_string(), |seen| seen.name);
        self.device = Some(device);
        let line = self.phases.matched(&name, None);
        self.say(line);
        name
    }

    /// After Ctrl-C: offers to cancel on a terminal. True where the command ends.
    async fn interrupted(&mut self, id: JobId) -> bool {
        let short = self.phases.short().to_owned();
        if !self.output.interactive {
            self.output.say(&lives_on(&short, self.unadmitted()));
            return true;
        }
        eprint!("\ncancel {short} as well? [y/N, c to go on waiting] ");
        let answer = tokio::task::spawn_blocking(|| {
            let mut line = String::new();
            std::io::stdin().lock().read_line(&mut line).map(|_| line)
        });
        let answer = tokio::select! {
            answer = answer => answer.ok().and_then(Result::ok).unwrap_or_default(),
            () = interrupt() => String::new(),
        };
        match answer.trim() {
            "c" | "C" => return false,
            "y" | "Y" | "yes" => {
                let (session, named) = (self.session, id.to_string());
                let cancel = super::look::ask_cancel(session, &named);
                match unless_stopped(cancel, tokio::time::sleep(CANCEL_WAIT), interrupt()).await {
                    Ok(Ok(_)) => self.output.say(&format!("{short} is being cancelled")),
                    Ok(Err(failure)) if failure.code() == Code::NoSuchJob && self.pending => {
                        self.output.say(&lives_on(&short, self.unadmitted()));
                    }
                    Ok(Err(failure)) => self.output.say(failure.text().trim_end()),
                    Err(Stop::Deadline | Stop::Interrupt) => self.output.say(&format!(
                        "the network does not answer, {short} may live on: mesh job wait {short}, or: mesh job cancel {short}"
                    )),
                }
            }
            _ if self.pending => self.output.say(&lives_on(&short, self.unadmitted())),
            _ => self.output.say(&format!("{short} lives on: mesh job wait {short}")),
        }
        true
    }
}

/// What ends waiting before its time.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Stop {
    Deadline,
    Interrupt,
}

/// Does `work` unless the deadline or an interrupt comes first: they are heard at every moment, whatever the work waits for.
///
/// # Errors
/// Which of the two came.
pub async fn unless_stopped<T>(
    work: impl Future<Output = T>,
    deadline: impl Future<Output = ()>,
    interrupt: impl Future<Output = ()>,
) -> Result<T, Stop> {
    tokio::select! {
        biased;
        done = work => Ok(done),
        () = interrupt => Err(Stop::Interrupt),
        () = deadline => Err(Stop::Deadline),
    }
}

/// Ctrl-C. Once it was listened for, the process no longer ends by itself at it, so whatever waits afterwards must listen as well.
pub async fn interrupt() {
    if tokio::signal::ctrl_c().await.is_err() {
        std::future::pending().await
    }
}

async fn sleep_until(deadline: Option<Instant>) {
    match deadline {
        Some(deadline) => tokio::time::sleep_until(deadline).await,
        None => std::future::pending().await,
    }
}

/// The time given is over. `unadmitted`: it is no job yet, so no command finds it by its id.
fn gave_up(short: &str, waited: Duration, unadmitted: Option<&str>) -> Failure {
    let waited = duration::show(waited);
    match unadmitted {
        Some(again) => {
            let detail = format!("{short} is no job yet after {waited}; the network has the submission, and its hold waits for the ledger");
            Failure::new(Code::GaveUpWaiting, detail).next(repeat(again)).next("mesh job ls")
        }
        None => Failure::new(Code::GaveUpWaiting, format!("{short} has not ended after {waited}")).next(format!("mesh job wait {short}")),
    }
}

/// What becomes of a job that nobody waits for any more.
fn lives_on(short: &str, unadmitted: Option<&str>) -> String {
    match unadmitted {
        Some(again) => format!("{short} is no job yet and may become one: mesh job ls, or {}", repeat(again)),
        None => format!("{short} lives on: mesh job wait {short}, or: mesh job cancel {short}"),
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

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn deadline_and_interrupt_act_while_the_network_is_silent() {
        let after = |ms: Option<u64>| async move {
            match ms {
                Some(ms) => tokio::time::sleep(Duration::from_millis(ms)).await,
                None => std::future::pending().await,
            }
        };
        // When each comes: the work's answer, the deadline, the interrupt.
        for (work, deadline, interrupt, expected) in [
            (None, None, Some(5), Err(Stop::Interrupt)),
            (None, Some(5), None, Err(Stop::Deadline)),
            (Some(12_000), Some(9_000), Some(5), Err(Stop::Interrupt)),
            (Some(12_000), Some(5), Some(9_000), Err(Stop::Deadline)),
            (Some(5), Some(9_000), Some(9_000), Ok(())),
            (Some(0), Some(0), Some(0), Ok(())),
        ] {
            assert_eq!(
                unless_stopped(after(work), after(deadline), after(interrupt)).await,
                expected,
                "{work:?} {deadline:?} {interrupt:?}"
            );
        }
    }

    #[test]
    fn what_is_no_job_yet_is_found_by_its_key() {
        let again = "the same command with --key cli-1 (it is one job however often it is sent)";
        for (unadmitted, says, next, lives) in [
            (None, "job_a has not ended", vec!["mesh job wait job_a"], "job_a lives on: mesh job wait job_a"),
            (Some("--key cli-1"), "job_a is no job yet", vec![again, "mesh job ls"], "job_a is no job yet and may become one"),
        ] {
            let failure = gave_up("job_a", Duration::from_secs(60), unadmitted);
            assert_eq!((failure.exit(), &failure.next), (5, &next.into_iter().map(str::to_owned).collect()));
            assert!(failure.problem.detail.starts_with(says), "{failure}");
            let told = lives_on("job_a", unadmitted);
            assert!(told.starts_with(lives) && unadmitted.is_none_or(|key| told.contains(key)), "{told}");
        }
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
