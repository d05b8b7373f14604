//! Looking at jobs: `ls`, `show`, `explain`, and `cancel`.

use bus_schemas::Code;
use bus_schemas::api::{AttemptState, AttemptView, Explanation, JobList, JobView, ask};
use bus_schemas::event::Progress;
use bus_schemas::history::{Considered, Verdict};
use bus_schemas::id::DeviceId;
use bus_schemas::mana::mana_text;
use bus_schemas::receipt::FailureClass;

use super::phases::stages_text;
use crate::cli::args::{Cli, LsArgs};
use crate::cli::client::Session;
use crate::cli::duration;
use crate::cli::failure::{Done, End, Failure};
use crate::cli::output::{self, Output, count};

/// As much of a reason as a list shows; `show` and `explain` have all of it.
const NOTE_CHARS: usize = 60;

/// The beginning of a device's id, which is taken wherever one is asked for.
fn short(device: DeviceId) -> String {
    device.to_string().chars().take("dev_".len() + 8).collect()
}
/// `laptop-a (dev_wk7f3kq2)`, or the whole id where it has no name here.
fn named(device: DeviceId, name: Option<&String>) -> String {
    name.map_or_else(|| device.to_string(), |name| format!("{name} ({})", short(device)))
}

/// One job by id, `job_…` or prefix.
pub async fn find(session: &Session, id: &str) -> Result<JobView, Failure> {
    session.ask("job.show", &ask::ById { id: id.to_owned() }).await
}

pub async fn ls(cli: &Cli, args: &LsArgs, output: &Output) -> Done {
    let session = Session::open(cli).await?;
    let question = ask::JobLs { state: args.state, overdue: args.overdue, limit: Some(args.limit), cursor: args.cursor.clone() };
    let list: JobList = session
        .ask("job.ls", &question)
        .await
        .map_err(|failure: Failure| if failure.code() == Code::BadValue { failure.next("mesh job ls") } else { failure })?;
    output.warn_of_age(list.as_of.as_deref(), list.behind_ms);
    output.print_list("job.ls", &list, &list.jobs, |job| job.id.to_string(), || ls_text(&session, args, &list));
    Ok(End::Fine)
}

fn ls_text(session: &Session, args: &LsArgs, list: &JobList) -> String {
    let context = &session.context;
    let mut text =
        format!("{} / {}   connected to {}   context: {}\n", context.network_name, context.member.id, context.nats_url, context.name);
    text.push_str(&output::age_line(list.as_of.as_deref(), list.behind_ms));
    if list.jobs.is_empty() {
        text.push_str(&none_text(args));
        return text;
    }
    text.push_str(&list_text(list));
    text
}

/// What it means that none is listed hangs on what was asked for.
fn none_text(args: &LsArgs) -> String {
    if args.overdue {
        return "no job is overdue: each is where it should be".to_owned();
    }
    if args.cursor.is_some() {
        return "no more jobs".to_owned();
    }
    match args.state {
        Some(state) => format!("no job is {state}; next: mesh job ls"),
        None => "no jobs yet; next: mesh job run embed --text \"hello mesh\"".to_owned(),
    }
}

fn list_text(list: &JobList) -> String {
    let mut text = String::new();
    let dash = || "-".to_owned();
    let row = |job: &JobView| {
        let note = job.error.as_ref().map(|error| format!("{} {}", error.code, error.title));
        let note = job.overdue.as_ref().map(|why| format!("OVERDUE: {why}")).or(note).or_else(|| job.waiting.clone());
        // What was told of it came before what it asks for: that lies with another gateway, or waits to be delivered again.
        let nameless = job.kind.is_none().then(|| "what it asks for is not in the records yet".to_owned());
        let note = note.or(nameless).unwrap_or_default();
        [
            job.short.clone(),
            job.state.to_string(),
            job.kind.clone().unwrap_or_else(dash),
            job.device_name.clone().or_else(|| job.device.map(short)).unwrap_or_else(dash),
            job.cost.clone().unwrap_or_else(dash),
            job.created_at.clone(),
            output::cut(&note, NOTE_CHARS),
        ]
    };
    text.push_str(&output::table(["JOB", "STATE", "KIND", "DEVICE", "MANA", "CREATED", ""], list.jobs.iter().map(row)));
    if let Some(cursor) = &list.cursor {
        text.push_str(&format!("\nmore: mesh job ls --cursor {cursor}"));
    }
    text
}

pub async fn show(cli: &Cli, id: &str, output: &Output) -> Done {
    let session = Session::open(cli).await?;
    let job = find(&session, id).await?;
    output.print("job.show", &job, || job.id.to_string(), || show_text(&job));
    Ok(End::Fine)
}

fn show_text(job: &JobView) -> String {
    let state = if job.cancelling { format!("cancelling ({})", job.state) } else { job.state.to_string() };
    let mut text = format!("{}   {state}   {}\n  id        {}\n", job.short, job.kind.as_deref().unwrap_or("?"), job.id);
    let mut line = |name: &str, value: Option<String>| {
        if let Some(value) = value {
            text.push_str(&format!("  {name:<9} {value}\n"));
        }
    };
    line("key", job.key.clone());
    line("retries", job.retry_of.map(|id| id.short()));
    line("member", Some(job.member.to_string()));
    line("retried", job.retried_as.map(|id| format!("as {0}   next: mesh job show {0}", id.short())));
    line("device", job.device.map(|device| named(device, job.device_name.as_ref())));
    line("attempts", Some(job.attempts.to_string()));
    line("created", Some(job.created_at.clone()));
    line("finished", job.finished_at.clone());
    line("cost", job.cost.as_ref().map(|cost| format!("{cost} mana")));
    line("held", job.hold_mmana.filter(|_| job.cost.is_none()).map(|hold| format!("{hold} mana")));
    line("progress", job.progress.as_ref().map(progress_text));
    let silent = job.device_silent_ms.map(std::time::Duration::from_millis);
    line("silent", silent.map(|silent| format!("its device was last heard of {} ago; this is of then", duration::show(silent))));
    line("kept", job.checkpoint.map(|kept| format!("{}; another device would go on behind them", count(u64::from(kept.units), "text"))));
    line("cancel", job.cancelling.then(|| "cancelled, and ends as soon as its holder can".to_owned()));
    line("OVERDUE", job.overdue.clone());
    line("waits", job.waiting.clone());
    line("error", job.error.as_ref().map(|error| format!("{} {}: {}", error.code, error.title, error.detail)));
    if !job.transitions.is_empty() {
        text.push_str("  history\n");
        job.transitions.iter().for_each(|change| {
            text.push_str(&format!("    {}  {:<13} {} ({})\n", time(change.at), change.to.name(), change.cause, change.actor))
        });
    }
    text
}

/// `40%   embedding   12.0 s left   done: read   then: store`.
fn progress_text(progress: &Progress) -> String {
    let left = progress.eta_ms.map(|eta| format!("   {} left", duration::show(std::time::Duration::from_millis(eta))));
    let said = progress.message.as_ref().map(|message| format!("   {message}"));
    format!(
        "{}%   {}{}{}{}",
        progress.basis_points / 100,
        progress.stage,
        said.unwrap_or_default(),
        left.unwrap_or_default(),
        stages_text(progress)
    )
}

fn time(ms: u64) -> String {
    let stamp = i64::try_from(ms).ok().and_then(|ms| jiff::Timestamp::from_millisecond(ms).ok());
    stamp.map_or_else(|| ms.to_string(), |stamp| format!("{stamp:.3}"))
}

/// A moment of the hub's clock.
fn stamp(ms: u64) -> jiff::Timestamp {
    i64::try_from(ms).ok().and_then(|ms| jiff::Timestamp::from_millisecond(ms).ok()).unwrap_or_default()
}

pub async fn explain(cli: &Cli, id: &str, output: &Output) -> Done {
    let session = Session::open(cli).await?;
    let explanation: Explanation = session.ask("job.explain", &ask::ById { id: id.to_owned() }).await?;
    output.print(
        "job.explain",
        &explanation,
        || explanation.id.to_string(),
        || explain_text(&explanation, stamp(session.bus.time.now_ms())),
    );
    Ok(End::Fine)
}

/// What became of each device that was considered, in words.
fn explain_text(explanation: &Explanation, now: jiff::Timestamp) -> String {
    let mut text = format!("{}   {}\n", explanation.short, explanation.summary);
    let winner = explanation.decisions.iter().find_map(|decision| decision.winner);
    let rows: Vec<[String; 3]> = explanation.devices.iter().map(|device| verdict_row(device, winner)).collect();
    if !rows.is_empty() {
        for line in output::table(["DEVICE", "", "WHY"], rows).lines() {
            text.push_str(&format!("  {line}\n"));
        }
    }
    if let Some(decision) = explanation.decisions.first() {
        let awaited = if decision.took_ms > 0 { format!("bids were awaited {} ms", decision.took_ms) } else { String::new() };
        // What the first line says is not said twice.
        let why = if explanation.summary.contains(&decision.why) { String::new() } else { format!("decided: {}", decision.why) };
        let said: Vec<&str> = [why.as_str(), awaited.as_str()].into_iter().filter(|part| !part.is_empty()).collect();
        if !said.is_empty() {
            text.push_str(&format!("  {}\n", said.join("   ")));
        }
    }
    for attempt in &explanation.attempts {
        text.push_str(&format!("  {}\n", attempt_line(attempt)));
    }
    if let Some(lease) = &explanation.lease {
        let (renews, ends) = (within(&lease.renews_at, now), within(&lease.ends_at, now));
        text.push_str(&format!(
            "  scheduler {} has it in hand since {}: renews its lease {renews}, lets go {ends} if it cannot\n",
            lease.scheduler, lease.since
        ));
    }
    if let Some(overdue) = &explanation.overdue {
        text.push_str(&format!("  OVERDUE: {overdue}\n"));
    }
    explanation.next.iter().for_each(|next| text.push_str(&format!("next: {next}\n")));
    // A gateway of an older version says no more than this.
    if let Some(next) = explanation.next_look_at.as_ref().filter(|_| explanation.next.is_empty()) {
        let gives_up = explanation.gives_up_at.as_ref().map(|at| format!("; gives up {at}")).unwrap_or_default();
        // What is told may be a moment old, and the look be made by now.
        let over = next.parse::<jiff::Timestamp>().is_ok_and(|next| next <= now);
        let next = if over { "now" } else { next };
        text.push_str(&format!("will be looked at again {next}, or when a device changes{gives_up}\n"));
    }
    text
}

/// `in 7.0 s`, or `now` where it is over.
fn within(at: &str, now: jiff::Timestamp) -> String {
    let left = at.parse::<jiff::Timestamp>().ok().and_then(|at| u64::try_from(at.as_millisecond() - now.as_millisecond()).ok());
    left.map_or_else(|| "now".to_owned(), |left| format!("in {}", duration::show(std::time::Duration::from_millis(left))))
}

fn between(from: u64, to: u64) -> String {
    duration::show(std::time::Duration::from_millis(to.saturating_sub(from)))
}

/// How one attempt stands or ended, in a line.
pub fn attempt_line(attempt: &AttemptView) -> String {
    let (number, device) = (attempt.number, named(attempt.device, attempt.device_name.as_ref()));
    let at = |at: Option<u64>| at.map_or_else(String::new, |at| format!(" {}", bus_schemas::date_and_time(at)));
    let ended = |how: &str| {
        // Without its begin, how long it ran is not known.
        let lasted = match (attempt.started_at, attempt.assigned_at, attempt.ended_at) {
            (Some(started), _, Some(to)) => format!(" after {}", between(started, to)),
            (None, Some(assigned), Some(to)) => format!(", {} after it was assigned", between(assigned, to)),
            (None, None, _) | (_, _, None) => String::new(),
        };
        // It had been given up, and its device came back with the result.
        let before = if attempt.class.is_empty() { String::new() } else { format!(" (it had counted as {})", attempt.class) };
        format!("attempt {number} on {device} {how} at{}{lasted}{before}", at(attempt.ended_at))
    };
    match attempt.state {
        AttemptState::Offered => format!("attempt {number} on {device}: offered at{}", at(attempt.assigned_at)),
        AttemptState::Waiting => format!("attempt {number} on {device}: assigned at{}, not begun", at(attempt.assigned_at)),
        // Whether it still does, nobody knows of a device that is silent.
        AttemptState::Running if attempt.started_at.is_some() => {
            format!("attempt {number} on {device}: begun at{}, not ended", at(attempt.started_at))
        }
        AttemptState::Running => format!("attempt {number} on {device}: assigned at{}, not ended", at(attempt.assigned_at)),
        AttemptState::Completed => ended("completed"),
        AttemptState::Cancelled => ended("was stopped"),
        AttemptState::Failed => failed_line(attempt),
    }
}

fn failed_line(attempt: &AttemptView) -> String {
    let kept = attempt.kept_units.map(|units| format!("; {} kept, the next one goes on behind them", count(u64::from(units), "text")));
    // Until when a device ran that fell silent, nobody knows.
    let fell_silent = attempt.class == FailureClass::DeviceDisconnect.name();
    let lasted = attempt.assigned_at.zip(attempt.ended_at).map(|(from, to)| {
        let lasted = match attempt.started_at {
            Some(started) if fell_silent => {
                format!("after it waited there {}, {} after it began", between(from, started), between(started, to))
            }
            None if fell_silent => format!("{} after it was assigned", between(from, to)),
            Some(started) => format!("after it waited there {} and ran {}", between(from, started), between(started, to)),
            None => format!("after {}", between(from, to)),
        };
        format!(" at {} {lasted}", bus_schemas::date_and_time(to))
    });
    let last = if attempt.retryable == Some(false) { "; no other device would fare better" } else { "" };
    let (number, class, message) = (attempt.number, &attempt.class, &attempt.message);
    let device = named(attempt.device, attempt.device_name.as_ref());
    format!("attempt {number} on {device} ended{}: {class} ({message}{}{last})", lasted.unwrap_or_default(), kept.unwrap_or_default())
}

fn verdict_row(considered: &Considered, winner: Option<DeviceId>) -> [String; 3] {
    let (what, why) = match &considered.verdict {
        Verdict::Out { reasons } => ("out".to_owned(), reasons.join("; ")),
        Verdict::NotAsked => ("not asked".to_owned(), "others were asked first".to_owned()),
        Verdict::Declined { reason } => ("declined".to_owned(), reason.clone()),
        Verdict::NoAnswer => ("no answer".to_owned(), "it did not answer in time".to_owned()),
        Verdict::Bid { quote, score } => {
            let won = winner == Some(considered.device);
            let words = format!(
                "at most {} mana, done in {} ms; score {} = price {} + reputation {} + resources {} + latency {}, weighted",
                mana_text(quote.price_mmana.get()),
                quote.start_in_ms + quote.duration_ms,
                score.total,
                score.price,
                score.reputation,
                score.resources,
                score.latency
            );
            (if won { "won" } else { "bid" }.to_owned(), words)
        }
    };
    [considered.name.clone(), what, why]
}

pub async fn ask_cancel(session: &Session, id: &str) -> Result<JobView, Failure> {
    session.ask("job.cancel", &ask::ById { id: id.to_owned() }).await
}

pub async fn cancel(cli: &Cli, id: &str, output: &Output) -> Done {
    let session = Session::open(cli).await?;
    let job = ask_cancel(&session, id).await?;
    let human = || {
        if job.state.is_final() {
            format!("{} is {}", job.short, job.state)
        } else {
            format!("{0} is being cancelled\nnext: mesh job explain {0}", job.short)
        }
    };
    output.print("job.cancel", &job, || job.id.to_string(), human);
    Ok(End::Fine)
}

#[cfg(test)]
mod tests {
    use super::*;
    use bus_schemas::api::LeaseView;
    use bus_schemas::holding::HoldingPhase;
    use bus_schemas::job::JobState;
    use bus_schemas::{Cid, JobId};

    #[test]
    fn an_explanation_for_people() {
        let (id, device) = (JobId(Cid::of(b"job")), bus_schemas::Signer::from_seed(&[1; 32]).public().device_id());
        let attempt = |number, class: &str, retryable| AttemptView {
            attempt: bus_schemas::AttemptId(Cid::of(b"a")),
            number,
            device,
            device_name: (number == 2).then(|| "laptop-b".to_owned()),
            state: AttemptState::Failed,
            class: class.into(),
            message: "it ran for longer than 1000 ms".into(),
            kept_units: (number == 2).then_some(512),
            assigned_at: Some(1_800_000_000_000),
            started_at: None,
            ended_at: Some(1_800_000_001_500),
            retryable: Some(retryable),
        };
        let explanation = Explanation {
            id,
            short: id.short(),
            state: JobState::Submitted,
            summary: "waits since 2027-01-15T08:00:00.000Z for a device".into(),
            attempts: vec![attempt(1, "Timeout", true), attempt(2, "ExecutionError", false)],
            next: vec!["next attempt in 1.0 s (2 of 4 attempts used)".into(), "given up at 09:00:00 UTC, in 59 min".into()],
            lease: Some(LeaseView {
                scheduler: "s1".into(),
                since: "2027-01-15T08:00:00.000Z".into(),
                renewed_at: "2027-01-15T08:00:50.000Z".into(),
                renews_at: "2027-01-15T08:01:00.000Z".into(),
                ends_at: "2027-01-15T08:01:10.000Z".into(),
                phase: HoldingPhase::BackOff,
            }),
            cancelling: true,
            overdue: Some("it was cancelled at 07:58:59 UTC and has not ended; whoever holds it has to end it".into()),
            next_look_at: None,
            gives_up_at: Some("2027-01-15T09:00:00.000Z".into()),
            transitions: vec![],
            devices: vec![],
            decisions: vec![],
        };
        insta::assert_snapshot!(explain_text(&explanation, "2027-01-15T08:00:53Z".parse().unwrap()));
        let progress = Progress {
            basis_points: 4_000,
            stage: "embedding".into(),
            eta_ms: Some(12_000),
            message: Some("400 of 1000 texts".into()),
            done_stages: vec!["read".into()],
            remaining_stages: vec!["store".into()],
        };
        assert_eq!(progress_text(&progress), "40%   embedding   400 of 1000 texts   12.0 s left   done: read   then: store");
    }

    #[test]
    fn a_list_fits_the_screen() {
        let device = bus_schemas::Signer::from_seed(&[1; 32]).public().device_id();
        let why = "0 of 9 devices fit: 4 offer other kinds, 3 are paused by their owners, and 2 were not heard of for a while";
        let job: JobView = serde_json::from_value(serde_json::json!({
            "id": JobId(Cid::of(b"job")), "short": "job_7f3kq2ab", "state": "Submitted", "kind": "embed", "key": null, "attempts": 0,
            "member": bus_schemas::Signer::from_seed(&[1; 32]).public().member_id(), "created_at": "2027-01-15T08:00:00.000Z",
            "finished_at": null, "cost": null, "cost_mmana": null, "hold_mmana": null, "device": null, "waiting": why,
        }))
        .unwrap();
        let runs = JobView {
            device: Some(device),
            device_name: Some("laptop-a".into()),
            waiting: None,
            state: JobState::Executing,
            ..job.clone()
        };
        let nameless = JobView { device_name: None, overdue: Some("its hold ended".into()), ..runs.clone() };
        insta::assert_snapshot!(list_text(&JobList {
            jobs: vec![job, runs.clone(), nameless],
            cursor: None,
            as_of: None,
            behind_ms: None
        }));
        let unknown = JobView { kind: None, ..runs };
        let told = list_text(&JobList { jobs: vec![unknown], cursor: None, as_of: None, behind_ms: None });
        assert!(told.contains("  -     laptop-a") && told.contains("what it asks for is not in the records yet"), "{told}");
        let args = |state, overdue| LsArgs { state, overdue, limit: 20, cursor: None };
        for (args, said) in [
            (args(None, false), "no jobs yet; next: mesh job run embed --text \"hello mesh\""),
            (args(None, true), "no job is overdue: each is where it should be"),
            (args(Some(JobState::Failed), false), "no job is Failed; next: mesh job ls"),
        ] {
            assert_eq!(none_text(&args), said);
        }
    }

    #[test]
    fn each_attempt_is_a_line() {
        let device = bus_schemas::Signer::from_seed(&[1; 32]).public().device_id();
        let attempt = |state| AttemptView {
            attempt: bus_schemas::AttemptId(Cid::of(b"a")),
            state,
            number: 2,
            device,
            device_name: Some("laptop-b".into()),
            class: String::new(),
            message: String::new(),
            kept_units: None,
            assigned_at: Some(1_800_000_000_000),
            started_at: Some(1_800_000_001_000),
            ended_at: None,
            retryable: None,
        };
        let ended = |state| AttemptView { ended_at: Some(1_800_000_004_000), ..attempt(state) };
        let back = AttemptView { class: "DeviceDisconnect".into(), ..ended(AttemptState::Completed) };
        let assigned = AttemptView { started_at: None, ..ended(AttemptState::Completed) };
        let unknown = AttemptView { assigned_at: None, ..assigned.clone() };
        let gone = AttemptView { class: "DeviceDisconnect".into(), message: "silent".into(), ..ended(AttemptState::Failed) };
        let late = AttemptView { class: "Timeout".into(), message: "no result".into(), ..ended(AttemptState::Failed) };
        for (attempt, said) in [
            (attempt(AttemptState::Offered), "attempt 2 on laptop-b (dev_gr2q7gf5): offered at 2027-01-15 08:00:00 UTC"),
            (attempt(AttemptState::Waiting), "attempt 2 on laptop-b (dev_gr2q7gf5): assigned at 2027-01-15 08:00:00 UTC, not begun"),
            (attempt(AttemptState::Running), "attempt 2 on laptop-b (dev_gr2q7gf5): begun at 2027-01-15 08:00:01 UTC, not ended"),
            (ended(AttemptState::Completed), "attempt 2 on laptop-b (dev_gr2q7gf5) completed at 2027-01-15 08:00:04 UTC after 3.0 s"),
            (ended(AttemptState::Cancelled), "attempt 2 on laptop-b (dev_gr2q7gf5) was stopped at 2027-01-15 08:00:04 UTC after 3.0 s"),
            (assigned, "attempt 2 on laptop-b (dev_gr2q7gf5) completed at 2027-01-15 08:00:04 UTC, 4.0 s after it was assigned"),
            (unknown, "attempt 2 on laptop-b (dev_gr2q7gf5) completed at 2027-01-15 08:00:04 UTC"),
            (
                gone,
                "attempt 2 on laptop-b (dev_gr2q7gf5) ended at 2027-01-15 08:00:04 UTC after it waited there 1.0 s, 3.0 s after it began: \
                 DeviceDisconnect (silent)",
            ),
            (
                late,
                "attempt 2 on laptop-b (dev_gr2q7gf5) ended at 2027-01-15 08:00:04 UTC after it waited there 1.0 s and ran 3.0 s: Timeout (no result)",
            ),
            (
                back,
                "attempt 2 on laptop-b (dev_gr2q7gf5) completed at 2027-01-15 08:00:04 UTC after 3.0 s (it had counted as DeviceDisconnect)",
            ),
        ] {
            assert_eq!(attempt_line(&attempt), said);
        }
    }

    #[test]
    fn a_job_that_is_being_cancelled_says_so_first() {
        let job: JobView = serde_json::from_value(serde_json::json!({
            "id": JobId(Cid::of(b"job")), "short": "job_7f3kq2ab", "state": "Assigned", "kind": "embed", "key": null, "attempts": 1,
            "member": bus_schemas::Signer::from_seed(&[1; 32]).public().member_id(), "created_at": "2027-01-15T08:00:00.000Z",
            "finished_at": null, "cost": null, "cost_mmana": null, "hold_mmana": null, "device": null, "cancelling": true,
        }))
        .unwrap();
        assert!(show_text(&job).starts_with("job_7f3kq2ab   cancelling (Assigned)   embed\n"), "{}", show_text(&job));
        assert!(show_text(&JobView { cancelling: false, ..job }).starts_with("job_7f3kq2ab   Assigned   embed\n"));
    }

    #[test]
    fn the_next_look_is_never_in_the_past() {
        let id = JobId(Cid::of(b"job"));
        let now: jiff::Timestamp = "2026-11-21T09:12:05Z".parse().unwrap();
        for (next, said) in [
            ("2026-11-21T09:12:10.000Z", "will be looked at again 2026-11-21T09:12:10.000Z, or when a device changes; gives up later\n"),
            ("2026-11-21T09:12:04.999Z", "will be looked at again now, or when a device changes; gives up later\n"),
        ] {
            let explanation = Explanation {
                id,
                short: id.short(),
                state: JobState::Submitted,
                summary: "waits".into(),
                attempts: vec![],
                next: vec![],
                lease: None,
                cancelling: false,
                overdue: None,
                next_look_at: Some(next.into()),
                gives_up_at: Some("later".into()),
                transitions: vec![],
                devices: vec![],
                decisions: vec![],
            };
            let text = explain_text(&explanation, now);
            assert!(text.ends_with(said), "{text}");
        }
    }
}
