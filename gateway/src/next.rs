//! What happens next to a job, and when, in plain words. Pure: what is known and the clock come in.

use bus_schemas::holding::{HeldAttempt, HoldBack, Holding, HoldingPhase};
use bus_schemas::job::JobState;
use bus_schemas::limits::{ATTEMPTS_MAX, Timings};
use bus_schemas::{JobId, LetterId, UnixMs, date_and_time, time_of_day};

/// What came of asking the schedulers who has a job in hand. Times are hub time.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub enum Held {
    By(Box<Holding>),
    /// Schedulers were heard of a moment ago, and none says that it has it.
    Nobody,
    /// They are connected, and say nothing for longer than a heartbeat takes: frozen, or cut off. When one was last heard of.
    Silent(Option<UnixMs>),
    /// None is there to be asked. One that was heard of a moment ago is only away: the way to it is being made anew.
    NoScheduler {
        heard: Option<UnixMs>,
    },
    /// Nobody was asked.
    #[default]
    Unknown,
}

/// How the question went that no scheduler answered with "I have it".
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Unanswered {
    /// Somebody listens, and did not answer.
    TimedOut,
    /// Nobody listens.
    Nobody,
}

/// What an answer that did not come means; `heard`: the last heartbeat of any scheduler.
pub fn unanswered(how: Unanswered, heard: Option<UnixMs>, now: UnixMs, timings: &Timings) -> Held {
    match how {
        Unanswered::TimedOut if is_fresh(heard, now, timings) => Held::Nobody,
        Unanswered::TimedOut => Held::Silent(heard),
        Unanswered::Nobody => Held::NoScheduler { heard: heard.filter(|_| is_fresh(heard, now, timings)) },
    }
}
/// Two beats and a half: one may be lost, and the next may be late.
fn is_fresh(heard: Option<UnixMs>, now: UnixMs, timings: &Timings) -> bool {
    heard.is_some_and(|at| now.saturating_sub(at) <= ms(timings.heartbeat) * 5 / 2)
}

/// What is known of a job that has not ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Now<'a> {
    pub state: JobState,
    pub held: &'a Held,
    /// Hub time.
    pub at: UnixMs,
    /// Not assigned by then, it fails.
    pub gives_up_at: Option<UnixMs>,
    /// Somebody wants it to end since then.
    pub cancelled_at: Option<UnixMs>,
    /// Its hold is not made yet.
    pub awaits_hold: bool,
    /// Who had it in hand last, as its history says, and for how long nothing was heard of that one, where it was heard at all.
    pub last_holder: Option<(&'a str, Option<u64>)>,
    /// A device has said that it has it.
    pub on: Option<&'a On>,
}

/// The device that has a job by its own word.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct On {
    pub name: String,
    /// For how long nothing was heard of it; `None`: that is not known.
    pub silent_ms: Option<u64>,
}

/// Whether so long a silence of a device is worth a word: a heartbeat is missing.
pub fn is_quiet(silent_ms: u64, timings: &Timings) -> bool {
    silent_ms > ms(timings.heartbeat) * 3 / 2
}
/// The same by the word of the holder. Four heartbeats come within the silence at which a device counts as gone.
pub fn is_silent(on: &HeldAttempt) -> bool {
    on.unheard || on.silent_ms.saturating_mul(8) > on.silence_max_ms.saturating_mul(3)
}

/// One sentence each, the nearest first; nothing where it has ended.
pub fn next(now: &Now<'_>, timings: &Timings) -> Vec<String> {
    if now.state.is_final() {
        return vec![];
    }
    let mut said = match now.held {
        Held::By(holding) => in_hand(holding, now.at),
        Held::Nobody | Held::Silent(_) | Held::NoScheduler { .. } if now.awaits_hold => {
            vec!["it becomes a job once the ledger has made its hold".to_owned()]
        }
        Held::Nobody => in_nobodys_hand(now, timings),
        Held::Silent(heard) => {
            let heard = heard
                .map_or_else(|| "none was heard of for minutes".to_owned(), |at| format!("the last word of any is {} old", ago(at, now)));
            with_device(now, format!("no scheduler answers, though they are connected ({heard}): it goes on as soon as one does"), timings)
        }
        Held::NoScheduler { heard: Some(at) } => {
            let heard = ago(*at, now);
            with_device(
                now,
                format!("no scheduler answers right now; one was heard of {heard} ago: it goes on as soon as one does"),
                timings,
            )
        }
        Held::NoScheduler { heard: None } => with_device(now, "no scheduler is running: it goes on once one is".to_owned(), timings),
        Held::Unknown => with_device(now, "the schedulers could not be asked just now".to_owned(), timings),
    };
    if let Some((since, how)) = now.cancelled_at.zip(cancelled(now.held, timings)) {
        said.push(format!("cancelled at {}: {how}", clock(since, now.at)));
    }
    // What ends anyway is not given up as well.
    let unassigned =
        matches!(now.state, JobState::Submitted | JobState::BiddingOpen | JobState::BiddingClosed) && now.cancelled_at.is_none();
    if let Some(at) = now.gives_up_at.filter(|_| unassigned) {
        said.push(format!("given up {} if no device has taken it by then (max wait)", when(at, now.at)));
    }
    said
}

fn in_nobodys_hand(now: &Now<'_>, timings: &Timings) -> Vec<String> {
    let again = span(ms(timings.ack_wait));
    let said = match now.last_holder {
        Some((holder, silent_ms)) => {
            // It renews while it speaks.
            let heard = silent_ms.map(|silent| now.at.saturating_sub(silent).saturating_add(ms(timings.heartbeat + timings.ack_wait)));
            let by = heard.filter(|by| *by > now.at).map(|by| format!("{} at the latest", when(by, now.at)));
            let by = by.unwrap_or_else(|| format!("{again} after its last renewal"));
            format!(
                "no scheduler says that it has it in hand; {holder} had it last: it is delivered to one again {by}, and {again} later once \
                 more should that one be silent, too"
            )
        }
        None => format!("it is in the queue for a scheduler; should one have taken it and died, it is delivered again {again} later"),
    };
    with_device(now, said, timings)
}

/// A device goes on with what it has, whatever becomes of the schedulers, as long as it is there itself.
fn with_device(now: &Now<'_>, said: String, timings: &Timings) -> Vec<String> {
    let on = now.on.map(|On { name, silent_ms }| match silent_ms {
        Some(silent) if *silent > ms(timings.silence) => {
            format!("{name} had it, and was last heard of {} ago: whoever takes the job next counts it as gone", span(*silent))
        }
        Some(silent) if is_quiet(*silent, timings) => {
            let gone = when(now.at.saturating_add(ms(timings.silence) - silent), now.at);
            format!("{name} has it, and was last heard of {} ago: it counts as gone {gone}, if no word of it comes", span(*silent))
        }
        Some(_) | None => format!("{name} goes on with it meanwhile, and keeps what comes of it until a scheduler takes it"),
    });
    std::iter::once(said).chain(on).collect()
}

/// When a job ends that somebody wants to end; nothing where it has, and that is being written down.
fn cancelled(held: &Held, timings: &Timings) -> Option<String> {
    match held {
        Held::By(holding) if holding.phase == HoldingPhase::Closing => None,
        Held::By(holding) if holding.cancelled && holding.phase == HoldingPhase::Running => {
            let (name, silence) = holding.current.as_ref().map_or(("its device", ms(timings.silence)), |on| (&on.name, on.silence_max_ms));
            Some(format!("{name} was told to stop it; it ends once that has, or {} later if it does not", span(silence)))
        }
        Held::By(holding) if holding.cancelled => Some(format!("scheduler {} knows, and ends it", holding.s)),
        Held::By(holding) => Some(format!("scheduler {} ends it as soon as it hears of that", holding.s)),
        Held::Nobody => Some(format!("it ends as soon as a scheduler has it in hand, within {} as a rule", span(ms(timings.silence * 3)))),
        // Nothing bounds it while nobody can end it.
        Held::Silent(_) | Held::NoScheduler { .. } | Held::Unknown => Some("it ends as soon as a scheduler has it in hand".to_owned()),
    }
}

/// What may be done about a job that has ended.
pub fn ended(state: JobState, id: JobId, retried_as: Option<JobId>) -> Vec<String> {
    let short = id.short();
    let again = match retried_as {
        Some(again) => format!("it was tried again as {}: mesh job explain {}", again.short(), again.short()),
        None => format!("to try it again as a new job: mesh job retry {short}"),
    };
    match state {
        JobState::Completed => vec![format!("its result: mesh job result {short}")],
        JobState::Failed => vec![again, format!("how it failed is kept: mesh dlq show {}", LetterId::of_job(&id).short())],
        JobState::Cancelled => vec![again],
        JobState::Rejected => vec!["mend what was refused, and submit it again".to_owned()],
        JobState::Submitted | JobState::BiddingOpen | JobState::BiddingClosed | JobState::Assigned | JobState::Executing => vec![],
    }
}

fn in_hand(holding: &Holding, at: UnixMs) -> Vec<String> {
    let used = used(holding);
    let soon = |until: Option<UnixMs>| until.map_or_else(|| "now".to_owned(), |until| within(until, at));
    let mut said = match (holding.phase, &holding.current) {
        (HoldingPhase::Looking, _) => vec![format!("scheduler {} finds out what happened to it before it goes on", holding.s)],
        (HoldingPhase::Ready, _) => vec![format!("it goes into the next auction ({used})")],
        (HoldingPhase::Bidding, _) => vec![format!("devices were asked; their bids are awaited ({used})")],
        (HoldingPhase::Assigning, Some(on)) => {
            vec![format!("{} won and was asked to take it as attempt {}; its answer is awaited", on.name, on.number)]
        }
        (HoldingPhase::Running, Some(on)) => on_device(holding, on, at),
        (HoldingPhase::Assigning | HoldingPhase::Running, None) => vec!["a device has it".to_owned()],
        (HoldingPhase::BackOff, _) => vec![format!("next attempt {} ({used})", soon(holding.until))],
        (HoldingPhase::Waiting, _) => vec![format!("offered again {}, or when a device changes ({used})", soon(holding.until))],
        (HoldingPhase::Closing, _) => vec!["it has ended: books, history and device are being told".to_owned()],
    };
    let on_device = holding.phase == HoldingPhase::Running && holding.current.is_some();
    if let Some(hold_back) = holding.hold_back.filter(|_| !on_device && holding.phase != HoldingPhase::Closing) {
        let HoldBack { gone, there, .. } = hold_back;
        said.push(format!("{gone} of {there} devices fell silent at once: until they are heard again, few may bid for it"));
    }
    if holding.ends_at < at {
        said.push(format!("the lease of scheduler {} could not be renewed: it lets go, and another one goes on", holding.s));
    }
    said
}

/// How many attempts are left to it.
fn used(holding: &Holding) -> String {
    let declined = match holding.declined {
        0 => String::new(),
        1 => "; a device declined it once, which does not count".to_owned(),
        n => format!("; devices declined it {n} times, which does not count"),
    };
    format!("{} of {ATTEMPTS_MAX} attempts used{declined}", holding.attempts_used)
}

fn on_device(holding: &Holding, on: &HeldAttempt, at: UnixMs) -> Vec<String> {
    let (name, number) = (&on.name, on.number);
    let mut said = match (is_silent(on), on.started_at) {
        (true, _) => vec![silent(holding, on, at)],
        (false, Some(started)) => {
            let stops = when(started.saturating_add(on.timeout_ms), at);
            vec![format!("{name} runs attempt {number}; stopped {stops} if it has not ended by then")]
        }
        (false, None) => vec![in_queue(on, at)],
    };
    if let Some(queued) = on.queued.filter(|_| !holding.cancelled) {
        if let Some(late) = queued.late_at.filter(|late| *late < queued.gives_up_at) {
            let late = when(late, at);
            said.push(format!("given to another device that has room {late}, if {name} has not begun by then"));
        }
        let gives_up = when(queued.gives_up_at, at);
        said.push(format!("given up {gives_up} if no device has begun with it by then (max wait)"));
    }
    said
}

fn in_queue(on: &HeldAttempt, at: UnixMs) -> String {
    let (name, number) = (&on.name, on.number);
    let before = match on.queued.and_then(|queued| queued.ahead) {
        None => format!("{name} has attempt {number}, and has not said that it runs"),
        Some(0) => format!("{name} has attempt {number} as the first in its queue"),
        Some(1) => format!("{name} has attempt {number} in its queue, behind 1 other job"),
        Some(n) => format!("{name} has attempt {number} in its queue, behind {n} other jobs"),
    };
    match on.queued.and_then(|queued| queued.starts_at) {
        Some(starts) if starts > at => format!("{before}; by its bid it begins {}", when(starts, at)),
        Some(starts) => format!("{before}; by its bid it was to begin at {}", clock(starts, at)),
        None => before,
    }
}

/// Of a device of which a heartbeat is missing: when its job goes elsewhere.
fn silent(holding: &Holding, on: &HeldAttempt, at: UnixMs) -> String {
    let (name, number) = (&on.name, on.number);
    let heard = match on.unheard {
        true => format!("has not been heard of since scheduler {} started", holding.s),
        false => format!("was last heard of {} ago", span(on.silent_ms)),
    };
    let has = format!("{name} has attempt {number}, and {heard}");
    if let Some(HoldBack { gone, there, until, follow_ms }) = holding.hold_back {
        return format!(
            "{has}; {gone} of {there} devices fell silent at once, so the bus is suspected, not they: the job stays with {name} until {}; if \
             most are still silent then, this attempt ends{}; once most are heard again, {name} has {} to follow, until {} at the latest",
            until_when(until, at),
            after(holding, on),
            span(follow_ms),
            clock(until.saturating_add(follow_ms), at)
        );
    }
    match on.gone_at {
        Some(gone) => {
            let after = after(holding, on);
            format!("{has}: it counts as gone {}, if no word of it comes, and this attempt ends{after}", when(gone, at))
        }
        None => format!("{has}: that does not count while the bus itself does not work"),
    }
}

/// What becomes of a job whose device counts as gone.
fn after(holding: &Holding, on: &HeldAttempt) -> String {
    let used = holding.attempts_used + 1;
    if holding.cancelled {
        return ", and the job with it".to_owned();
    }
    if used >= ATTEMPTS_MAX {
        return format!(", and the job fails: it was the last of {ATTEMPTS_MAX} attempts");
    }
    let kept = holding.kept.map_or(0, |kept| kept.units);
    let behind = match kept {
        0 => String::new(),
        1 => ", behind 1 kept text".to_owned(),
        n => format!(", behind {n} kept texts"),
    };
    format!(": the job is offered anew as attempt {}{behind} ({used} of {ATTEMPTS_MAX} attempts used then)", on.number + 1)
}

/// `at 14:03:00 UTC, in 5 min`.
fn when(then: UnixMs, now: UnixMs) -> String {
    format!("at {}", until_when(then, now))
}
/// `14:03:00 UTC, in 5 min`.
fn until_when(then: UnixMs, now: UnixMs) -> String {
    format!("{}, {}", clock(then, now), within(then, now))
}
fn within(then: UnixMs, now: UnixMs) -> String {
    if then <= now { "now".to_owned() } else { format!("in {}", span(then - now)) }
}
fn ago(then: UnixMs, now: &Now<'_>) -> String {
    span(now.at.saturating_sub(then))
}
/// A time of another day than this one has its date.
fn clock(at: UnixMs, now: UnixMs) -> String {
    const DAY_MS: u64 = 86_400_000;
    if at / DAY_MS == now / DAY_MS { time_of_day(at) } else { date_and_time(at) }
}

/// A length of time as a person would say it, rounded to what is shown.
pub fn span(ms: u64) -> String {
    let rounded = |unit: u64| ms.saturating_add(unit / 2) / unit;
    let (tenths, seconds, minutes, hours) = (rounded(100), rounded(1_000), rounded(60_000), rounded(3_600_000));
    let and = |rest: u64, unit: &str| if rest == 0 { String::new() } else { format!(" {rest} {unit}") };
    match ms {
        0..1_000 => format!("{ms} ms"),
        _ if tenths < 100 => format!("{}.{} s", tenths / 10, tenths % 10),
        _ if seconds < 120 => format!("{seconds} s"),
        _ if minutes < 120 => format!("{minutes} min"),
        _ if minutes < 48 * 60 => format!("{} h{}", minutes / 60, and(minutes % 60, "min")),
        _ => format!("{} d{}", hours / 24, and(hours % 24, "h")),
    }
}

pub fn ms(duration: std::time::Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;
    use bus_schemas::event::Checkpoint;
    use bus_schemas::holding::Queued;
    use bus_schemas::{AttemptId, Cid, JobId, Signer};

    const AT: UnixMs = 1_800_000_000_000;

    fn holding(phase: HoldingPhase, until: Option<UnixMs>) -> Holding {
        Holding {
            net: Signer::from_seed(&[1; 32]).public().network_id(),
            job: JobId(Cid::of(b"j")),
            s: "s1".parse().unwrap(),
            at: AT,
            since: AT - 30_000,
            renewed_at: AT - 3_000,
            renews_at: AT + 7_000,
            ends_at: AT + 17_000,
            phase,
            until,
            attempts_used: 2,
            declined: 0,
            gives_up_at: AT + 3_600_000,
            cancelled: false,
            current: None,
            kept: None,
            holds_back: false,
            hold_back: None,
            unwritten: vec![],
        }
    }
    fn on(started_at: Option<UnixMs>, silent_ms: u64) -> Option<HeldAttempt> {
        let (device, attempt) = (Signer::from_seed(&[2; 32]).public().device_id(), AttemptId(Cid::of(b"a")));
        let name = "laptop-a".to_owned();
        Some(HeldAttempt {
            attempt,
            number: 3,
            device,
            name,
            assigned_at: AT,
            started_at,
            silent_ms,
            unheard: false,
            silence_max_ms: 20_000,
            gone_at: Some(AT + 20_000 - silent_ms),
            timeout_ms: 60_000,
            queued: None,
        })
    }
    fn said(state: JobState, held: Held) -> Vec<String> {
        let now =
            Now { state, held: &held, at: AT, gives_up_at: None, cancelled_at: None, awaits_hold: false, last_holder: None, on: None };
        next(&now, &Timings::default())
    }
    fn by(holding: Holding) -> Held {
        Held::By(Box::new(holding))
    }

    #[test]
    fn each_phase_says_what_is_next_and_when() {
        let (waits, runs) = (JobState::Submitted, JobState::Executing);
        let silent = Holding { current: on(Some(AT - 5_000), 12_000), ..holding(HoldingPhase::Running, None) };
        let rows = [
            (waits, by(holding(HoldingPhase::BackOff, Some(AT + 1_000))), vec!["next attempt in 1.0 s (2 of 4 attempts used)"]),
            (
                waits,
                by(holding(HoldingPhase::Waiting, Some(AT + 15_000))),
                vec!["offered again in 15 s, or when a device changes (2 of 4 attempts used)"],
            ),
            (waits, by(holding(HoldingPhase::Looking, None)), vec!["scheduler s1 finds out what happened to it before it goes on"]),
            (
                runs,
                by(silent),
                vec![
                    "laptop-a has attempt 3, and was last heard of 12 s ago: it counts as gone at 08:00:08 UTC, in 8.0 s, if no word of it comes, \
                     and this attempt ends: the job is offered anew as attempt 4 (3 of 4 attempts used then)",
                ],
            ),
            (
                JobState::Assigned,
                by(Holding { current: on(None, 1_000), ..holding(HoldingPhase::Running, None) }),
                vec!["laptop-a has attempt 3, and has not said that it runs"],
            ),
            (
                runs,
                by(Holding { ends_at: AT - 1, ..holding(HoldingPhase::Closing, None) }),
                vec![
                    "it has ended: books, history and device are being told",
                    "the lease of scheduler s1 could not be renewed: it lets go, and another one goes on",
                ],
            ),
            (waits, Held::NoScheduler { heard: None }, vec!["no scheduler is running: it goes on once one is"]),
            (
                waits,
                Held::NoScheduler { heard: Some(AT - 2_000) },
                vec!["no scheduler answers right now; one was heard of 2.0 s ago: it goes on as soon as one does"],
            ),
            (
                waits,
                Held::Silent(Some(AT - 45_000)),
                vec!["no scheduler answers, though they are connected (the last word of any is 45 s old): it goes on as soon as one does"],
            ),
            (
                waits,
                Held::Silent(None),
                vec!["no scheduler answers, though they are connected (none was heard of for minutes): it goes on as soon as one does"],
            ),
            (
                waits,
                Held::Nobody,
                vec!["it is in the queue for a scheduler; should one have taken it and died, it is delivered again 30 s later"],
            ),
            (JobState::Completed, Held::Nobody, vec![]),
        ];
        for (state, held, expected) in rows {
            assert_eq!(said(state, held.clone()), expected, "{held:?}");
        }
    }

    #[test]
    fn what_comes_after_a_gone_device_is_said() {
        let kept = |units| Some(Checkpoint { cid: Cid::of(b"{}"), bytes: 2, units });
        let on = on(Some(AT), 12_000).unwrap();
        let base = Holding { attempts_used: 0, ..holding(HoldingPhase::Running, None) };
        let first = HeldAttempt { number: 1, ..on.clone() };
        let cancelled = Holding { cancelled: true, ..base.clone() };
        let last = Holding { attempts_used: 3, kept: kept(9), ..base.clone() };
        for (holding, on, said) in [
            (
                Holding { kept: kept(12), ..base.clone() },
                &first,
                ": the job is offered anew as attempt 2, behind 12 kept texts (1 of 4 attempts used then)",
            ),
            (
                Holding { kept: kept(1), ..base.clone() },
                &first,
                ": the job is offered anew as attempt 2, behind 1 kept text (1 of 4 attempts used then)",
            ),
            // Two of three did not count.
            (base, &on, ": the job is offered anew as attempt 4 (1 of 4 attempts used then)"),
            (last, &on, ", and the job fails: it was the last of 4 attempts"),
            (cancelled, &first, ", and the job with it"),
        ] {
            assert_eq!(after(&holding, on), said);
        }
    }

    #[test]
    fn while_most_are_silent_a_job_stays_and_says_until_when() {
        let hold_back = Some(HoldBack { gone: 5, there: 6, until: AT + 40_000, follow_ms: 10_000 });
        let mass = |phase, current| by(Holding { holds_back: true, hold_back, current, ..holding(phase, None) });
        let rows = [
            (
                mass(HoldingPhase::Running, on(Some(AT - 60_000), 40_000)),
                vec![
                    "laptop-a has attempt 3, and was last heard of 40 s ago; 5 of 6 devices fell silent at once, so the bus is suspected, not \
                     they: the job stays with laptop-a until 08:00:40 UTC, in 40 s; if most are still silent then, this attempt ends: the job \
                     is offered anew as attempt 4 (3 of 4 attempts used then); once most are heard again, laptop-a has 10 s to follow, until \
                     08:00:50 UTC at the latest",
                ],
            ),
            (
                mass(HoldingPhase::Running, on(Some(AT - 5_000), 3_000)),
                vec!["laptop-a runs attempt 3; stopped at 08:00:55 UTC, in 55 s if it has not ended by then"],
            ),
            (
                mass(HoldingPhase::Ready, None),
                vec![
                    "it goes into the next auction (2 of 4 attempts used)",
                    "5 of 6 devices fell silent at once: until they are heard again, few may bid for it",
                ],
            ),
            (
                by(Holding {
                    current: on(Some(AT - 60_000), 40_000).map(|on| HeldAttempt { gone_at: None, unheard: true, ..on }),
                    ..holding(HoldingPhase::Running, None)
                }),
                vec![
                    "laptop-a has attempt 3, and has not been heard of since scheduler s1 started: that does not count while the bus itself \
                     does not work",
                ],
            ),
        ];
        for (held, expected) in rows {
            assert_eq!(said(JobState::Executing, held.clone()), expected, "{held:?}");
        }
    }

    #[test]
    fn what_waits_in_a_queue_says_for_what_and_how_long() {
        let queued = |ahead, starts_at| Queued { ahead, starts_at, late_at: Some(AT + 110_000), gives_up_at: AT + 3_600_000 };
        let waits = |queued| {
            let current = on(None, 0).map(|on| HeldAttempt { queued: Some(queued), ..on });
            said(JobState::Assigned, by(Holding { current, ..holding(HoldingPhase::Running, None) }))
        };
        assert_eq!(
            waits(queued(Some(4), Some(AT + 30_000))),
            [
                "laptop-a has attempt 3 in its queue, behind 4 other jobs; by its bid it begins at 08:00:30 UTC, in 30 s",
                "given to another device that has room at 08:01:50 UTC, in 110 s, if laptop-a has not begun by then",
                "given up at 09:00:00 UTC, in 60 min if no device has begun with it by then (max wait)",
            ]
        );
        let first = |ahead, starts_at| waits(queued(ahead, starts_at)).remove(0);
        assert_eq!(first(Some(1), None), "laptop-a has attempt 3 in its queue, behind 1 other job");
        assert_eq!(
            first(Some(0), Some(AT - 1_000)),
            "laptop-a has attempt 3 as the first in its queue; by its bid it was to begin at 07:59:59 UTC"
        );
        assert_eq!(
            first(None, Some(AT + 5_000)),
            "laptop-a has attempt 3, and has not said that it runs; by its bid it begins at 08:00:05 UTC, in 5.0 s"
        );
        let impatient = Queued { gives_up_at: AT + 60_000, ..queued(Some(1), None) };
        let there_or_nowhere = Queued { late_at: None, ..queued(Some(1), None) };
        assert!(waits(there_or_nowhere)[1].starts_with("given up at 09:00:00 UTC"));
        assert_eq!(waits(impatient)[1], "given up at 08:01:00 UTC, in 60 s if no device has begun with it by then (max wait)");
    }

    #[test]
    fn a_no_is_told_and_does_not_count() {
        let used = |attempts_used, declined| used(&Holding { attempts_used, declined, ..holding(HoldingPhase::Waiting, None) });
        assert_eq!(used(0, 0), "0 of 4 attempts used");
        assert_eq!(used(1, 1), "1 of 4 attempts used; a device declined it once, which does not count");
        assert_eq!(used(0, 3), "0 of 4 attempts used; devices declined it 3 times, which does not count");
    }

    #[test]
    fn a_wish_to_end_says_who_was_told() {
        let cancelled = |phase, cancelled| {
            let holding = Holding { cancelled, current: on(Some(AT), 0), ..holding(phase, None) };
            super::cancelled(&by(holding), &Timings::default())
        };
        for (phase, knows, said) in [
            (HoldingPhase::Running, true, Some("laptop-a was told to stop it; it ends once that has, or 20 s later if it does not")),
            (HoldingPhase::Running, false, Some("scheduler s1 ends it as soon as it hears of that")),
            (HoldingPhase::Looking, true, Some("scheduler s1 knows, and ends it")),
            (HoldingPhase::Closing, true, None),
            (HoldingPhase::Closing, false, None),
        ] {
            assert_eq!(cancelled(phase, knows).as_deref(), said, "{phase:?} {knows}");
        }
    }

    #[test]
    fn waits_end_by_themselves() {
        let now = Now {
            state: JobState::Submitted,
            held: &Held::Nobody,
            at: AT,
            gives_up_at: Some(AT + 180_000),
            cancelled_at: Some(AT - 5_000),
            awaits_hold: false,
            last_holder: Some(("scheduler s7", None)),
            on: None,
        };
        let timings = Timings::default();
        assert_eq!(
            next(&now, &timings),
            [
                "no scheduler says that it has it in hand; scheduler s7 had it last: it is delivered to one again 30 s after its last \
                 renewal, and 30 s later once more should that one be silent, too",
                "cancelled at 07:59:55 UTC: it ends as soon as a scheduler has it in hand, within 60 s as a rule",
            ]
        );
        // Heard of 20 s ago, its last renewal was before the heartbeat that is missing; one that has been silent for long says nothing of the time.
        for (silent, by) in [(20_000, "at 08:00:15 UTC, in 15 s at the latest"), (40_000, "30 s after its last renewal")] {
            let said = next(&Now { last_holder: Some(("scheduler s7", Some(silent))), ..now.clone() }, &timings);
            assert!(said[0].contains(&format!("delivered to one again {by}, and")), "{}", said[0]);
        }
        let wanted = next(&Now { cancelled_at: None, ..now.clone() }, &timings);
        assert_eq!(wanted[1], "given up at 08:03:00 UTC, in 3 min if no device has taken it by then (max wait)");
        // Nobody who could end it: no time is promised.
        let on = |silent_ms| On { name: "laptop-a".into(), silent_ms };
        let fresh = on(Some(2_000));
        let silent = Now { held: &Held::Silent(None), cancelled_at: Some(AT - 86_400_000), on: Some(&fresh), ..now.clone() };
        let said = next(&silent, &timings);
        assert_eq!(said[1], "laptop-a goes on with it meanwhile, and keeps what comes of it until a scheduler takes it");
        assert_eq!(said[2], "cancelled at 2027-01-14 08:00:00 UTC: it ends as soon as a scheduler has it in hand");
        for (silent_ms, about) in [
            (None, "laptop-a goes on with it meanwhile, and keeps what comes of it until a scheduler takes it"),
            (
                Some(12_000),
                "laptop-a has it, and was last heard of 12 s ago: it counts as gone at 08:00:08 UTC, in 8.0 s, if no word of it comes",
            ),
            (Some(45_000), "laptop-a had it, and was last heard of 45 s ago: whoever takes the job next counts it as gone"),
        ] {
            let on = on(silent_ms);
            assert_eq!(next(&Now { on: Some(&on), ..silent.clone() }, &timings)[1], about);
        }
        let awaits = Now { awaits_hold: true, cancelled_at: None, gives_up_at: None, ..now };
        for held in [Held::Nobody, Held::Silent(None), Held::NoScheduler { heard: None }] {
            assert_eq!(next(&Now { held: &held, ..awaits.clone() }, &timings), ["it becomes a job once the ledger has made its hold"]);
        }
    }

    #[test]
    fn silence_is_told_from_absence() {
        use Unanswered::{Nobody, TimedOut};
        let (just, long) = (Some(AT - 12_500), Some(AT - 12_501));
        for (how, heard, held) in [
            (TimedOut, just, Held::Nobody),
            (TimedOut, Some(AT + 3_000), Held::Nobody),
            (TimedOut, long, Held::Silent(long)),
            (TimedOut, None, Held::Silent(None)),
            (Nobody, just, Held::NoScheduler { heard: just }),
            (Nobody, long, Held::NoScheduler { heard: None }),
            (Nobody, None, Held::NoScheduler { heard: None }),
        ] {
            assert_eq!(unanswered(how, heard, AT, &Timings::default()), held, "{how:?} {heard:?}");
        }
    }

    #[test]
    fn what_has_ended_says_what_may_be_done() {
        let (id, again) = (JobId(Cid::of(b"j")), JobId(Cid::of(b"k")));
        let (short, letter) = (id.short(), LetterId::of_job(&id).short());
        let shown = format!("how it failed is kept: mesh dlq show {letter}");
        let retry = format!("to try it again as a new job: mesh job retry {short}");
        let retried = format!("it was tried again as {0}: mesh job explain {0}", again.short());
        for (state, retried_as, said) in [
            (JobState::Completed, None, vec![format!("its result: mesh job result {short}")]),
            (JobState::Failed, None, vec![retry.clone(), shown.clone()]),
            (JobState::Failed, Some(again), vec![retried.clone(), shown]),
            (JobState::Cancelled, None, vec![retry]),
            (JobState::Cancelled, Some(again), vec![retried]),
            (JobState::Rejected, None, vec!["mend what was refused, and submit it again".to_owned()]),
            (JobState::Executing, None, vec![]),
        ] {
            assert_eq!(ended(state, id, retried_as), said, "{state} {retried_as:?}");
        }
    }

    #[test]
    fn lengths_of_time() {
        for (ms, text) in [
            (250, "250 ms"),
            (1_050, "1.1 s"),
            (9_940, "9.9 s"),
            (9_960, "10 s"),
            (17_400, "17 s"),
            (119_600, "2 min"),
            (150_000, "3 min"),
            (7_200_000, "2 h"),
            (86_340_000, "23 h 59 min"),
            (86_400_000, "24 h"),
            (3 * 86_400_000 + 3_600_000, "3 d 1 h"),
            (u64::MAX, "213503982334 d 14 h"),
        ] {
            assert_eq!(span(ms), text);
        }
    }
}
