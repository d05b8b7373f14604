//! What happens next to a job, and when, in plain words. Pure: what is known and the clock come in.

use bus_schemas::holding::{HeldAttempt, Holding, HoldingPhase};
use bus_schemas::job::JobState;
use bus_schemas::limits::{ATTEMPTS_MAX, Timings};
use bus_schemas::{UnixMs, time_of_day};

/// What came of asking the schedulers who has a job in hand.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub enum Held {
    By(Box<Holding>),
    /// Schedulers are there, and none says that it has it.
    Nobody,
    NoScheduler,
    /// Nobody was asked.
    #[default]
    Unknown,
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
    /// Who had it in hand last, as its history says.
    pub last_holder: Option<&'a str>,
}

/// One sentence each, the nearest first; nothing where it has ended.
pub fn next(now: &Now<'_>, timings: &Timings) -> Vec<String> {
    if now.state.is_final() {
        return vec![];
    }
    let mut said = match now.held {
        Held::By(holding) => in_hand(holding, now.at),
        Held::Nobody if now.awaits_hold => vec!["it becomes a job once the ledger has made its hold".to_owned()],
        Held::Nobody => vec![in_nobodys_hand(now, timings)],
        Held::NoScheduler => vec!["no scheduler is running: it goes on once one is".to_owned()],
        Held::Unknown => vec!["the schedulers could not be asked just now".to_owned()],
    };
    if let Some(since) = now.cancelled_at {
        said.push(format!(
            "cancelled at {}: it ends as soon as a scheduler has it in hand, within {} at the latest",
            time_of_day(since),
            span(ms(timings.silence * 3))
        ));
    }
    let unassigned = matches!(now.state, JobState::Submitted | JobState::BiddingOpen | JobState::BiddingClosed);
    if let Some(at) = now.gives_up_at.filter(|_| unassigned) {
        said.push(format!("given up {} if no device has taken it by then (max wait)", when(at, now.at)));
    }
    said
}

fn in_nobodys_hand(now: &Now<'_>, timings: &Timings) -> String {
    let within = span(ms(timings.ack_wait));
    match now.last_holder {
        Some(holder) => {
            format!("waits for a scheduler: no one has it in hand; what {holder} held goes to another within {within} of its last word")
        }
        None => format!("waits for a scheduler to take it from the queue; one that died with it in hand is replaced within {within}"),
    }
}

fn in_hand(holding: &Holding, at: UnixMs) -> Vec<String> {
    let used = format!("{} of {ATTEMPTS_MAX} attempts used", holding.attempts_used);
    let soon = |until: Option<UnixMs>| until.map_or_else(|| "now".to_owned(), |until| within(until, at));
    let mut said = match (holding.phase, &holding.current) {
        (HoldingPhase::Looking, _) => vec![format!("scheduler {} finds out what happened to it before it goes on", holding.s)],
        (HoldingPhase::Ready, _) => vec![format!("it goes into the next auction ({used})")],
        (HoldingPhase::Bidding, _) => vec![format!("devices were asked; their bids are awaited ({used})")],
        (HoldingPhase::Assigning, Some(on)) => {
            vec![format!("{} won and was asked to take it as attempt {}; its answer is awaited", on.name, on.number)]
        }
        (HoldingPhase::Running, Some(on)) => on_device(on, at),
        (HoldingPhase::Assigning | HoldingPhase::Running, None) => vec!["a device has it".to_owned()],
        (HoldingPhase::BackOff, _) => vec![format!("next attempt {} ({used})", soon(holding.until))],
        (HoldingPhase::Waiting, _) => vec![format!("offered again {}, or when a device changes ({used})", soon(holding.until))],
        (HoldingPhase::Closing, _) => vec!["it has ended: books, history and device are being told".to_owned()],
    };
    if holding.holds_back {
        said.push(
            "most devices went quiet at once, so the bus is suspected: nothing is given to other devices until they are back".to_owned(),
        );
    }
    if holding.ends_at < at {
        said.push(format!("the lease of scheduler {} could not be renewed: it lets go, and another one goes on", holding.s));
    }
    said
}

fn on_device(on: &HeldAttempt, at: UnixMs) -> Vec<String> {
    let mut said = match on.started_at {
        Some(started) => vec![format!(
            "{} runs attempt {}; stopped {} if it has not ended by then",
            on.name,
            on.number,
            when(started.saturating_add(on.timeout_ms), at)
        )],
        None => vec![format!("{} has attempt {}, and has not said that it runs", on.name, on.number)],
    };
    // A heartbeat comes four times in that long.
    if on.silent_ms * 2 > on.silence_max_ms {
        let left = on.silence_max_ms.saturating_sub(on.silent_ms);
        said.push(format!(
            "{} has been silent for {}: the job goes elsewhere after {}, in {}",
            on.name,
            span(on.silent_ms),
            span(on.silence_max_ms),
            span(left)
        ));
    }
    said
}

/// `at 14:03:00 UTC, in 5 min`.
fn when(then: UnixMs, now: UnixMs) -> String {
    format!("at {}, {}", time_of_day(then), within(then, now))
}
fn within(then: UnixMs, now: UnixMs) -> String {
    if then <= now { "now".to_owned() } else { format!("in {}", span(then - now)) }
}

/// A length of time as a person would say it.
pub fn span(ms: u64) -> String {
    match ms {
        0..1_000 => format!("{ms} ms"),
        1_000..10_000 => format!("{}.{} s", ms / 1_000, ms / 100 % 10),
        10_000..120_000 => format!("{} s", ms / 1_000),
        120_000..7_200_000 => format!("{} min", ms / 60_000),
        _ => format!("{} h", ms / 3_600_000),
    }
}

fn ms(duration: std::time::Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;
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
            gives_up_at: AT + 3_600_000,
            cancelled: false,
            current: None,
            kept: None,
            holds_back: false,
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
            silence_max_ms: 20_000,
            timeout_ms: 60_000,
        })
    }
    fn said(state: JobState, held: Held) -> Vec<String> {
        let now = Now { state, held: &held, at: AT, gives_up_at: None, cancelled_at: None, awaits_hold: false, last_holder: None };
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
                    "laptop-a runs attempt 3; stopped at 08:00:55 UTC, in 55 s if it has not ended by then",
                    "laptop-a has been silent for 12 s: the job goes elsewhere after 20 s, in 8.0 s",
                ],
            ),
            (
                JobState::Assigned,
                by(Holding { current: on(None, 1_000), ..holding(HoldingPhase::Running, None) }),
                vec!["laptop-a has attempt 3, and has not said that it runs"],
            ),
            (
                runs,
                by(Holding { holds_back: true, ends_at: AT - 1, ..holding(HoldingPhase::Closing, None) }),
                vec![
                    "it has ended: books, history and device are being told",
                    "most devices went quiet at once, so the bus is suspected: nothing is given to other devices until they are back",
                    "the lease of scheduler s1 could not be renewed: it lets go, and another one goes on",
                ],
            ),
            (waits, Held::NoScheduler, vec!["no scheduler is running: it goes on once one is"]),
            (
                waits,
                Held::Nobody,
                vec!["waits for a scheduler to take it from the queue; one that died with it in hand is replaced within 30 s"],
            ),
            (JobState::Completed, Held::Nobody, vec![]),
        ];
        for (state, held, expected) in rows {
            assert_eq!(said(state, held.clone()), expected, "{held:?}");
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
            last_holder: Some("scheduler s7"),
        };
        let timings = Timings::default();
        assert_eq!(
            next(&now, &timings),
            [
                "waits for a scheduler: no one has it in hand; what scheduler s7 held goes to another within 30 s of its last word",
                "cancelled at 07:59:55 UTC: it ends as soon as a scheduler has it in hand, within 60 s at the latest",
                "given up at 08:03:00 UTC, in 3 min if no device has taken it by then (max wait)",
            ]
        );
        let awaits = Now { awaits_hold: true, cancelled_at: None, gives_up_at: None, ..now };
        assert_eq!(next(&awaits, &timings), ["it becomes a job once the ledger has made its hold"]);
    }

    #[test]
    fn lengths_of_time() {
        for (ms, text) in [(250, "250 ms"), (1_050, "1.0 s"), (17_400, "17 s"), (150_000, "2 min"), (86_400_000, "24 h")] {
            assert_eq!(span(ms), text);
        }
    }
}
