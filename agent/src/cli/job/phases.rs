//! What people are told while a job goes its way: each phase once, progress as one line that changes. Touches nothing.

use std::time::Duration;

use bus_schemas::api::WatchState;
use bus_schemas::event::Progress;
use bus_schemas::job::JobState;
use bus_schemas::offer::Decline;
use bus_schemas::{MilliMana, UnixMs};

use crate::cli::duration;
use crate::cli::output::count;

/// Where lines stay, progress is told at most this often.
const PROGRESS_EVERY: Duration = Duration::from_secs(1);

/// What was said so far.
#[derive(Debug, Default)]
pub struct Phases {
    short: String,
    /// The last line; whatever is told twice in a row is said once.
    last: Option<(&'static str, String)>,
    /// The reason that was told last, without its times.
    why: String,
    /// Who has the job, by name, and since when the network tells so.
    device: Option<String>,
    since: UnixMs,
    running: Option<Running>,
    /// Said once where devices find that the job may cost too little.
    more_mana: Option<String>,
    /// A terminal: progress overwrites its own line.
    rewrite: bool,
}

/// The last word on progress.
#[derive(Debug, Clone, Copy)]
struct Running {
    percent: u32,
    at: Duration,
}

impl Phases {
    pub fn new(rewrite: bool) -> Self {
        Self { rewrite, ..Self::default() }
    }
    pub fn short(&self) -> &str {
        &self.short
    }
    pub fn device(&self) -> Option<&str> {
        self.device.as_deref()
    }

    pub fn submitted(&mut self, short: &str, kind: &str, key: Option<&str>) -> Option<String> {
        short.clone_into(&mut self.short);
        let key = key.map(|key| format!("   key: {key}")).unwrap_or_default();
        self.line("submitted", format!("{kind}{key}"))
    }

    /// How much would be enough, where that is known.
    pub fn enough(&mut self, most: Option<MilliMana>) {
        self.more_mana = most.map(|most| format!("--max-mana {most}"));
    }
    /// Why it waits, once: gateway and scheduler give the same reason, each with the second in which it saw a device last.
    pub fn waiting(&mut self, why: &str) -> Option<String> {
        let again = self.last.as_ref().is_some_and(|(phase, _)| *phase == "waiting") && self.why == timeless(why);
        if again {
            return None;
        }
        self.why = timeless(why);
        let detail = format!("{why}   (mesh job explain {})", self.short);
        let line = self.line("waiting", detail)?;
        if !why.contains(&Decline::Price.to_string()) {
            return Some(line);
        }
        let Some(more) = self.more_mana.take() else { return Some(line) };
        Some(format!("{line}\n{:<12}  {:<10}  mesh job cancel {}, then the same with {more}", "", "next", self.short))
    }

    /// The network has the submission, and no such job; no word where the door has told already why it waits.
    pub fn unadmitted(&mut self) -> Option<String> {
        if self.last.as_ref().is_some_and(|(phase, _)| *phase == "waiting") {
            return None;
        }
        self.why.clear();
        self.line("waiting", "the network has the submission, and it is no job yet: its hold waits for the ledger".to_owned())
    }

    /// The network does not answer, and for how long it is asked again.
    pub fn away(&mut self, why: &str, patience: Duration) -> Option<String> {
        self.line("away", format!("{why}; the job lives on, asking again for {}", duration::show(patience)))
    }

    /// What the network tells of a change, `elapsed` since the job was sent.
    pub fn state(&mut self, state: &WatchState, elapsed: Duration) -> Option<String> {
        match state.state {
            JobState::Submitted | JobState::BiddingOpen | JobState::BiddingClosed => {
                let lost = self.lost("", state.at);
                // Whoever had it has it no more.
                (self.device, self.running) = (None, None);
                both(lost, state.why.as_ref().and_then(|why| self.waiting(why)))
            }
            JobState::Assigned | JobState::Executing => {
                let name = state.device_name.clone().or_else(|| state.device.map(|device| device.to_string())).unwrap_or_default();
                let lost = self.lost(&name, state.at);
                let matched = self.matched(&name, Some(state));
                self.since = state.at;
                let begun = if state.state == JobState::Executing { self.progress(&Progress::default(), elapsed) } else { None };
                both(both(lost, matched), begun)
            }
            JobState::Completed | JobState::Failed | JobState::Cancelled | JobState::Rejected => None,
        }
    }

    /// The attempt of the device that had it is over, where another begins (on `next`, or on nobody yet). What was told of an earlier
    /// moment and comes late ends none.
    fn lost(&mut self, next: &str, at: UnixMs) -> Option<String> {
        let before = self.device.clone().filter(|before| before != next && at >= self.since)?;
        self.line("again", format!("the attempt on {before} ended without a result, a new one begins   (mesh job explain {})", self.short))
    }

    /// Who got the job, once for each device that gets it; price and bids where they were told.
    pub fn matched(&mut self, name: &str, told: Option<&WatchState>) -> Option<String> {
        if name.is_empty() || self.device.as_deref() == Some(name) {
            return None;
        }
        self.device = Some(name.to_owned());
        self.running = None;
        let price = told.and_then(|told| told.price_mmana).map(|price| format!("   at most {price} mana")).unwrap_or_default();
        let bids = told.and_then(|told| Some((told.bids?, told.rejected.unwrap_or(0))));
        let bids = match bids {
            Some((bids, 0)) => format!("   ({}: mesh job explain {})", count(u64::from(bids), "bid"), self.short),
            Some((bids, others)) => {
                format!("   ({}, {others} rejected: mesh job explain {})", count(u64::from(bids), "bid"), self.short)
            }
            None => String::new(),
        };
        let resumed =
            told.and_then(|told| told.resumed_units).map(|units| format!("   goes on behind {}", count(u64::from(units), "text")));
        self.line("matched", format!("{name}{price}{}{bids}", resumed.unwrap_or_default()))
    }

    /// How far it is. Never backwards; a terminal hears of every percent, a log at most once a second.
    pub fn progress(&mut self, progress: &Progress, elapsed: Duration) -> Option<String> {
        let percent = (progress.basis_points / 100).min(100);
        let too_soon = |last: Running| !self.rewrite && elapsed < last.at + PROGRESS_EVERY;
        // The end is told by the receipt.
        if percent == 100 || self.running.is_some_and(|last| percent <= last.percent || too_soon(last)) {
            return None;
        }
        self.running = Some(Running { percent, at: elapsed });
        let stage = if progress.stage.is_empty() { String::new() } else { format!("   {}", progress.stage) };
        let eta = progress.eta_ms.map(|eta| format!("   {} left", duration::show(Duration::from_millis(eta)))).unwrap_or_default();
        let message = progress.message.as_ref().map(|message| format!("   {message}")).unwrap_or_default();
        let stages = stages_text(progress);
        self.line("running", format!("{percent}%   {}{stage}{message}{eta}{stages}", duration::show(elapsed)))
    }

    /// It has run, and for how long.
    pub fn ran(&mut self, worked: Option<Duration>) -> Option<String> {
        let worked = worked.map(|worked| format!("   {}", duration::show(worked))).unwrap_or_default();
        self.line("running", format!("100%{worked}"))
    }

    pub fn settled(&mut self, receipt: &str, by: &str, cost: Option<MilliMana>) -> String {
        let line = match cost {
            Some(cost) => self.line("settled", format!("receipt {receipt}, signed by {by}   {cost} mana")),
            None => self.line("done", format!("receipt {receipt}, signed by {by}; not settled yet")),
        };
        line.unwrap_or_default()
    }

    /// A line for a phase, unless it was the last thing said.
    fn line(&mut self, phase: &'static str, detail: String) -> Option<String> {
        if self.last.as_ref().is_some_and(|(last, said)| *last == phase && *said == detail) {
            return None;
        }
        let head = if self.last.is_none() { self.short.as_str() } else { "" };
        let over = self.rewrite && phase == "running" && self.last.as_ref().is_some_and(|(last, _)| *last == phase);
        let up = if over { "\x1b[1A\x1b[2K" } else { "" };
        let line = format!("{up}{head:<12}  {phase:<10}  {detail}").trim_end().to_owned();
        self.last = Some((phase, detail));
        Some(line)
    }
}

/// `   done: fetching   then: storing`; nothing where the executor names no stages.
pub fn stages_text(progress: &Progress) -> String {
    let list = |what: &str, stages: &[String]| if stages.is_empty() { String::new() } else { format!("   {what}: {}", stages.join(", ")) };
    list("done", &progress.done_stages) + &list("then", &progress.remaining_stages)
}

/// Two lines, where there are two.
fn both(first: Option<String>, second: Option<String>) -> Option<String> {
    match (first, second) {
        (Some(first), Some(second)) => Some(format!("{first}\n{second}")),
        (first, second) => first.or(second),
    }
}

/// A reason without its times: what follows a "since", up to the end of its clause, is left out.
fn timeless(why: &str) -> String {
    let mut parts = why.split(" since ");
    let mut text = parts.next().unwrap_or_default().to_owned();
    for part in parts {
        let clause = part.find([';', ',', ')']).unwrap_or(part.len());
        text.push_str(" since");
        text.push_str(&part[clause..]);
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;
    use bus_schemas::{Cid, JobId};

    /// What was told of a job, in short: `progress 35 at 1500`, `Assigned laptop-a`, `wait why`, `ran`.
    fn told(rewrite: bool, events: &[&str]) -> Vec<String> {
        let mut phases = Phases::new(rewrite);
        let mut lines: Vec<String> = phases.submitted("job_7f3kq2ab", "embed", None).into_iter().collect();
        for event in events {
            let words: Vec<&str> = event.split(' ').collect();
            let state = |state: JobState, device: Option<&str>, why: Option<&str>| WatchState {
                device_name: device.map(str::to_owned),
                price_mmana: Some(MilliMana::mana(2)),
                bids: Some(2),
                resumed_units: device.filter(|device| *device == "laptop-c").map(|_| 4_096),
                why: why.map(str::to_owned),
                ..WatchState::of(JobId(Cid::of(b"job")), state, 1)
            };
            let ms = |text: &str| Duration::from_millis(text.parse().unwrap());
            let line = match words.as_slice() {
                ["progress", percent, "at", at] => {
                    let basis_points = percent.parse::<u32>().unwrap() * 100;
                    phases.progress(&Progress { basis_points, stage: "embedding".into(), ..Progress::default() }, ms(at))
                }
                ["Assigned", device] => phases.state(&state(JobState::Assigned, Some(device), None), ms("0")),
                ["Executing", device, "at", at] => phases.state(&state(JobState::Executing, Some(device), None), ms(at)),
                ["seen", device] => phases.matched(device, None),
                ["wait", why] => phases.state(&state(JobState::Submitted, None, Some(why)), ms("0")),
                ["asked", why] => phases.waiting(why),
                ["away", why] => phases.away(why, ms("30000")),
                ["ran"] => phases.ran(Some(ms("3100"))),
                other => panic!("{other:?}"),
            };
            lines.extend(line.iter().flat_map(|line| line.lines()).map(str::to_owned));
        }
        lines.into_iter().skip(1).map(|line| line.replace("\x1b[1A\x1b[2K", "^").replace("  ", " ").trim().to_owned()).collect()
    }
    fn check(rewrite: bool, events: &[&str], phases: &[&str]) {
        let lines = told(rewrite, events);
        assert_eq!(lines.len(), phases.len(), "{lines:#?}");
        for (line, phase) in lines.iter().zip(phases) {
            assert!(line.replace(' ', "").starts_with(&phase.replace(' ', "")), "{phase}: {lines:#?}");
        }
    }

    #[test]
    fn each_phase_is_said_once() {
        check(
            false,
            &["Assigned a", "seen a", "Executing a at 1000", "seen a", "ran", "ran"],
            &["matched a", "running 0%", "running 100% 3.1 s"],
        );
        check(false, &["ran"], &["running 100%"]);
        check(false, &["asked x", "wait x", "wait y", "wait x"], &["waiting x", "waiting y", "waiting x"]);
        check(false, &["seen a", "Assigned a", "Assigned a"], &["matched a"]);
        check(false, &["Executing a at 1100"], &["matched a", "running 0%"]);
        check(false, &["seen a", "away x", "away x", "ran"], &["matched a", "away x; the job lives on", "running 100%"]);
    }

    #[test]
    fn a_reason_is_said_once_whoever_saw_it_when() {
        let mut phases = Phases::new(false);
        phases.submitted("job_7f3kq2ab", "embed", None);
        let why = |since: &str| format!("0 of 2 devices fit; nearest: b ({since}; kind embed is not offered)");
        let rows = [
            ("offline since 09:12:01 UTC", true),
            ("offline since 09:12:02 UTC", false),
            // As an older gateway writes it.
            ("offline since 2026-11-21T09:12:01.007Z", false),
            ("nobody listens there since 09:12:02 UTC", true),
            ("nobody listens there since 09:13:00 UTC", false),
            ("paused by its owner", true),
            ("offline since 09:12:01 UTC", true),
        ];
        for (since, said) in rows {
            assert_eq!(phases.waiting(&why(since)).is_some(), said, "{since}");
        }
        phases.away("the connection is lost", Duration::from_secs(30));
        assert!(phases.waiting(&why("offline since 09:12:09 UTC")).is_some(), "after something else it is said again");
        for (why, expected) in [
            ("", ""),
            ("offline since 09:12:01 UTC", "offline since"),
            ("a (offline since 1), b (offline since 2)", "a (offline since), b (offline since)"),
            ("reputation 50 is below 60", "reputation 50 is below 60"),
        ] {
            assert_eq!(timeless(why), expected, "{why}");
        }
    }

    #[test]
    fn progress_is_a_line_that_changes_or_one_a_second() {
        let events = [
            "Assigned a",
            "progress 10 at 1000",
            "progress 11 at 1100",
            "progress 9 at 2500",
            "progress 30 at 2500",
            "progress 100 at 4000",
            "ran",
        ];
        check(false, &events, &["matched a", "running 10%", "running 30%", "running 100% 3.1 s"]);
        check(true, &events, &["matched a", "running 10%", "^ running 11%", "^ running 30%", "^ running 100%"]);
    }

    #[test]
    fn another_attempt_begins_anew() {
        check(
            false,
            &["Assigned a", "progress 50 at 1000", "Assigned b", "progress 10 at 1200", "ran"],
            &["matched a", "running 50%", "again the attempt on a ended", "matched b", "running 10%", "running 100%"],
        );
        check(false, &["Assigned a", "wait x", "Assigned a"], &["matched a", "again the attempt on a ended", "waiting x", "matched a"]);
        // A device that had lost the job may have been the first to end it.
        check(false, &["Assigned b", "seen a"], &["matched b", "matched a"]);
    }

    #[test]
    fn a_job_that_is_none_yet_is_told_once() {
        let mut phases = Phases::new(false);
        phases.submitted("job_7f3kq2ab", "embed", None);
        let told = phases.unadmitted().unwrap();
        assert!(told.contains("waiting     the network has the submission, and it is no job yet"), "{told}");
        assert_eq!(phases.unadmitted(), None);
        assert!(phases.waiting("0 of 2 fit").is_some());
        assert_eq!(phases.unadmitted(), None, "a reason was told");
    }

    #[test]
    fn what_comes_late_ends_no_attempt() {
        let mut phases = Phases::new(false);
        phases.submitted("job_7f3kq2ab", "embed", None);
        let state = |state, at, device: Option<&str>| WatchState {
            device_name: device.map(str::to_owned),
            ..WatchState::of(JobId(Cid::of(b"job")), state, at)
        };
        for (told, says) in [
            (state(JobState::Assigned, 10, Some("a")), Some("matched")),
            (state(JobState::Submitted, 9, None), None),
            (state(JobState::Assigned, 20, Some("a")), None),
            (state(JobState::Submitted, 21, None), Some("the attempt on a ended")),
            (state(JobState::Submitted, 22, None), None),
        ] {
            let line = phases.state(&told, Duration::ZERO);
            assert_eq!(line.is_some(), says.is_some(), "{told:?}: {line:?}");
            assert!(says.is_none_or(|says| line.is_some_and(|line| line.contains(says))), "{told:?}");
        }
    }

    #[test]
    fn too_little_mana_names_what_is_enough() {
        let mut phases = Phases::new(false);
        phases.submitted("job_7f3kq2ab", "embed", None);
        phases.enough(Some(MilliMana::mana(12)));
        assert!(!phases.waiting("0 of 2 devices fit").unwrap().contains("max-mana"));
        let why = format!("nobody bid: {}", Decline::Price);
        let told = phases.waiting(&why).unwrap();
        assert!(told.ends_with("  next        mesh job cancel job_7f3kq2ab, then the same with --max-mana 12"), "{told}");
        assert_eq!(phases.waiting(&why), None);
        assert!(!phases.waiting(&format!("again, {why}")).unwrap().contains("max-mana"), "once");
    }

    #[test]
    fn progress_names_its_stages() {
        let mut phases = Phases::new(false);
        phases.submitted("job_7f3kq2ab", "embed", None);
        let progress = Progress {
            basis_points: 4_000,
            stage: "embedding".into(),
            eta_ms: Some(12_000),
            message: Some("400 of 1000 texts".into()),
            done_stages: vec!["fetching".into()],
            remaining_stages: vec!["storing".into()],
        };
        let said = phases.progress(&progress, Duration::from_secs(8)).unwrap();
        let expected = "running     40%   8.0 s   embedding   400 of 1000 texts   12.0 s left   done: fetching   then: storing";
        assert_eq!(said.trim_start(), expected);
    }

    #[test]
    fn a_line_reads_well() {
        let mut phases = Phases::new(false);
        assert_eq!(phases.submitted("job_7f3kq2ab", "embed", Some("k")).as_deref(), Some("job_7f3kq2ab  submitted   embed   key: k"));
        assert_eq!(phases.waiting("0 of 2 fit").as_deref(), Some("              waiting     0 of 2 fit   (mesh job explain job_7f3kq2ab)"));
        assert_eq!(phases.settled("rcp_1", "a", Some(MilliMana::mana(1))), "              settled     receipt rcp_1, signed by a   1 mana");
    }
}
