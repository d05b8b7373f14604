//! What to do with a delivered job, given its past; and what to do after an attempt ended. Touches nothing.

use std::collections::BTreeMap;

use bus_schemas::eligibility::Needs;
use bus_schemas::history::{Back, Considered, EndedAttempt, Verdict};
use bus_schemas::ledger::{HoldState, SettleOutcome, VoidReason};
use bus_schemas::limits::{ATTEMPTS_MAX, BACKOFF_MS, STEP_MAX};
use bus_schemas::receipt::FailureClass;
use bus_schemas::{AttemptId, Code, DeviceId, MilliMana, Problem, ReceiptId};

/// What is known about a delivery before anything is asked.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Arrival {
    /// A hint: it can repeat after a change of leader.
    pub delivered: u64,
    /// Since the job message was stored.
    pub age_ms: u64,
    /// From this age on a job is looked up first.
    pub look_first_ms: u64,
}

/// Whether the past must be looked up: only a first delivery of a young job cannot have one.
pub fn must_look(arrival: &Arrival) -> bool {
    arrival.delivered != 1 || arrival.age_ms >= arrival.look_first_ms
}

/// What was found out about a job's past.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Past {
    pub delivered: u64,
    /// The record in BACK, verified.
    pub back: Option<Back>,
    /// How the hold stands; `None`: the books do not know the job.
    pub hold: Option<HoldState>,
    /// Devices that say they have an attempt of it.
    pub named: Vec<DeviceId>,
    /// Live devices that have not spoken since the delivery, by heartbeat or by answer.
    pub unheard: usize,
    /// It was admitted so lately that a ledger-worker which has just lost its turn may not know it yet.
    pub young: bool,
    /// The device that the hold was settled with was asked and does not have the job any more, or is gone.
    pub payee_forgot: bool,
}

/// What to do next.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Step {
    /// Nobody has it: open an auction, knowing what ended before.
    Auction { known: Option<Back> },
    /// This device has an attempt: watch it.
    TakeOver { device: DeviceId },
    /// It was paid but the holder did not get to say so: the device still has the receipt that tells the rest.
    AskPayee { device: DeviceId },
    /// It was paid, and its device was heard or is gone: what is left is to write its end, and to acknowledge the message.
    Finish { attempt: AttemptId, receipt: ReceiptId, device: DeviceId, paid: MilliMana, outcome: SettleOutcome },
    /// The hold is void: there is nothing to pay with, so the job has ended.
    Drop { reason: VoidReason },
    /// The books do not know it: it never was funded.
    DropUnfunded,
    /// The books do not know it yet: they are asked again later.
    AskAgain,
    /// Not all live devices have spoken.
    Wait,
}

/// Decides on what was found. Checks stand in the order of their weight: the books first, then a holder's own word, then the devices'.
pub fn next_step(past: &Past) -> Step {
    match &past.hold {
        None if past.young => return Step::AskAgain,
        None => return Step::DropUnfunded,
        Some(HoldState::Voided { reason }) => return Step::Drop { reason: *reason },
        Some(HoldState::Settled { attempt, receipt, device, paid_mmana, outcome }) => {
            return if past.payee_forgot {
                Step::Finish { attempt: *attempt, receipt: *receipt, device: *device, paid: *paid_mmana, outcome: *outcome }
            } else if past.named.contains(device) {
                Step::TakeOver { device: *device }
            } else {
                Step::AskPayee { device: *device }
            };
        }
        Some(HoldState::Open) => (),
    }
    if let Some(device) = past.named.first() {
        return Step::TakeOver { device: *device };
    }
    // Only the delivery right after the one it was given back from may rely on the record: others may have tried since.
    let fresh = past.back.as_ref().filter(|back| back.delivered > 0 && back.delivered + 1 == past.delivered);
    match fresh {
        Some(back) if back.on.is_none() => Step::Auction { known: Some(back.clone()) },
        Some(_) | None if past.unheard == 0 => Step::Auction { known: past.back.clone() },
        Some(_) | None => Step::Wait,
    }
}

/// What follows the end of an attempt without a result.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Retry {
    /// Another auction after this many milliseconds.
    After {
        ms: u64,
    },
    GiveUp(Problem),
}

/// Whether an attempt that ended like this counts toward [`ATTEMPTS_MAX`]: a device's no and an owner's interruption do not.
pub fn counts(class: FailureClass) -> bool {
    match class {
        FailureClass::DeviceDisconnect | FailureClass::Timeout | FailureClass::ExecutionError => true,
        FailureClass::DeviceDeclined => false,
    }
}

/// Attempts of all kinds: one below what a settlement may name as ended before it. An owner takes his device back now and then; what says
/// no so often will say it for ever.
const ENDED_MAX: usize = STEP_MAX - 1;
/// After a device's no: its first is made good at once, each further one of its in the same row waits twice as long as the one before.
const NO_MS: u64 = 250;
const NO_MS_MAX: u64 = 60_000;

/// Decides after the last of `ended` (oldest first), which lasted so long from its assignment to its end. What a pause after a no keeps
/// apart are the assignments: a device that had the job for a while before it handed it back has had its pause.
pub fn after_failure(ended: &[EndedAttempt], lasted_ms: u64) -> Retry {
    let counted = ended.iter().filter(|one| counts(one.failure.class)).count();
    let Some(last) = ended.last() else { return Retry::After { ms: 0 } };
    if last.failure.class == FailureClass::ExecutionError && !last.failure.retryable {
        return Retry::GiveUp(Problem::new(Code::JobFailed, said(last)));
    }
    if counted >= ATTEMPTS_MAX as usize {
        let each: Vec<String> = ended.iter().filter(|one| counts(one.failure.class)).map(said).collect();
        return Retry::GiveUp(Problem::new(Code::JobFailed, format!("{counted} attempts failed: {}", each.join("; "))));
    }
    if ended.len() >= ENDED_MAX {
        let detail = format!("{} attempts ended without a result, the last: {}", ended.len(), said(last));
        return Retry::GiveUp(Problem::new(Code::JobFailed, detail));
    }
    if counts(last.failure.class) {
        let ms = BACKOFF_MS.get(counted.saturating_sub(1)).or(BACKOFF_MS.last()).copied().unwrap_or(0);
        return Retry::After { ms };
    }
    let in_a_row = ended.iter().rev().take_while(|one| !counts(one.failure.class)).map(|one| one.device);
    Retry::After { ms: after_noes(in_a_row).saturating_sub(lasted_ms) }
}

/// The pause in milliseconds from an assignment that was answered with a no to the next one; noes in a row, the last one first. It grows
/// with those of the device that said the last one: what one device after the other hands back goes on at once, as often as there are
/// devices; who says no again and again is asked ever more seldom.
fn after_noes(in_a_row: impl Iterator<Item = DeviceId>) -> u64 {
    let mut in_a_row = in_a_row.peekable();
    let Some(last) = in_a_row.peek().copied() else { return 0 };
    match in_a_row.filter(|device| *device == last).count() {
        0 | 1 => 0,
        again => (NO_MS << (again - 2).min(16)).min(NO_MS_MAX),
    }
}

/// How an attempt ended, for people.
pub fn said(one: &EndedAttempt) -> String {
    format!("{} on {}: {}", one.failure.class.name(), one.device, one.failure.message)
}

/// Devices that failed this job, to be left out as long as others fit. A job that names one device leaves none out.
pub fn avoided<'a>(needs: &Needs, ended: impl IntoIterator<Item = &'a EndedAttempt>) -> Vec<DeviceId> {
    if needs.target.is_some() {
        return Vec::new();
    }
    let mut devices: Vec<DeviceId> = ended.into_iter().map(|one| one.device).collect();
    devices.sort_unstable();
    devices.dedup();
    devices
}

/// The same for a decision record: each device that is not `known` to the auction by itself, with what it did with the job last.
pub fn left_out(ended: &[EndedAttempt], known: impl Fn(&DeviceId) -> bool, name: impl Fn(&DeviceId) -> String) -> Vec<Considered> {
    let last: BTreeMap<DeviceId, &EndedAttempt> = ended.iter().map(|one| (one.device, one)).collect();
    let unknown = last.into_iter().filter(|(device, _)| !known(device));
    unknown
        .map(|(device, last)| {
            let class = last.failure.class;
            let did = if counts(class) { "failed this job" } else { "handed this job back" };
            let reason = format!("it {did} before: attempt {}, {}", last.number, class.name());
            Considered { device, name: name(&device), verdict: Verdict::Out { reasons: vec![reason] } }
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use bus_schemas::receipt::Failure;
    use bus_schemas::{Cid, JobId, NetworkId, Signer};
    use proptest::prelude::*;

    fn device(n: u8) -> DeviceId {
        Signer::from_seed(&[n; 32]).public().device_id()
    }
    fn net() -> NetworkId {
        Signer::from_seed(&[9; 32]).public().network_id()
    }
    fn back(delivered: u64, on: Option<DeviceId>) -> Back {
        Back {
            net: net(),
            job: JobId(Cid::of(b"j")),
            at: 1,
            ended: vec![],
            waited: 0,
            last_attempt: 2,
            delivered,
            on,
            attempt: None,
            kept: None,
        }
    }
    fn ended(class: FailureClass, retryable: bool) -> EndedAttempt {
        ended_on(1, class, retryable)
    }
    fn ended_on(n: u8, class: FailureClass, retryable: bool) -> EndedAttempt {
        let failure = Failure { class, message: "m".into(), retryable };
        EndedAttempt { attempt: AttemptId(Cid::of(b"a")), number: 1, device: device(n), failure, let_go: false }
    }

    #[test]
    fn only_a_young_first_delivery_has_no_past() {
        for (delivered, age_ms, look) in [(1, 0, false), (1, 9_999, false), (1, 10_000, true), (2, 0, true), (0, 0, true)] {
            assert_eq!(must_look(&Arrival { delivered, age_ms, look_first_ms: 10_000 }), look, "{delivered} {age_ms}");
        }
    }

    #[test]
    fn what_follows_from_the_past() {
        let (attempt, receipt) = (AttemptId(Cid::of(b"a")), ReceiptId(Cid::of(b"r")));
        let open = Past { delivered: 2, hold: Some(HoldState::Open), ..Past::default() };
        let settled = Past {
            hold: Some(HoldState::Settled {
                attempt,
                receipt,
                device: device(1),
                paid_mmana: MilliMana::ZERO,
                outcome: SettleOutcome::Cancelled,
            }),
            ..open.clone()
        };
        let voided = |reason| Past { hold: Some(HoldState::Voided { reason }), ..open.clone() };
        let fresh = back(1, None);
        let cases = [
            ("unknown to the books", Past { hold: None, ..open.clone() }, Step::DropUnfunded),
            ("not known to the books yet", Past { hold: None, young: true, ..open.clone() }, Step::AskAgain),
            ("void", voided(VoidReason::Expired), Step::Drop { reason: VoidReason::Expired }),
            ("paid, not told", settled.clone(), Step::AskPayee { device: device(1) }),
            ("paid, device has it", Past { named: vec![device(1)], ..settled.clone() }, Step::TakeOver { device: device(1) }),
            (
                "paid, device forgot",
                Past { payee_forgot: true, ..settled.clone() },
                Step::Finish { attempt, receipt, device: device(1), paid: MilliMana::ZERO, outcome: SettleOutcome::Cancelled },
            ),
            ("a device has it", Past { named: vec![device(2)], unheard: 3, ..open.clone() }, Step::TakeOver { device: device(2) }),
            (
                "given back last time",
                Past { back: Some(fresh.clone()), unheard: 3, ..open.clone() },
                Step::Auction { known: Some(fresh.clone()) },
            ),
            ("given back while running", Past { back: Some(back(1, Some(device(1)))), unheard: 1, ..open.clone() }, Step::Wait),
            ("given back long ago", Past { delivered: 3, back: Some(fresh.clone()), unheard: 1, ..open.clone() }, Step::Wait),
            (
                "old record, all heard",
                Past { delivered: 3, back: Some(fresh.clone()), ..open.clone() },
                Step::Auction { known: Some(fresh) },
            ),
            ("not all heard", Past { unheard: 1, ..open.clone() }, Step::Wait),
            ("all heard", open, Step::Auction { known: None }),
        ];
        for (what, past, expected) in cases {
            assert_eq!(next_step(&past), expected, "{what}");
        }
    }

    #[test]
    fn retries_by_class() {
        use FailureClass::{DeviceDeclined, DeviceDisconnect, ExecutionError, Timeout};
        let after = |ms| Retry::After { ms };
        let all = |classes: &[FailureClass]| classes.iter().map(|class| ended(*class, true)).collect::<Vec<_>>();
        let cases = [
            (all(&[]), after(0)),
            (all(&[DeviceDisconnect]), after(250)),
            (all(&[DeviceDisconnect, Timeout]), after(500)),
            (all(&[DeviceDisconnect, Timeout, ExecutionError]), after(1000)),
            (all(&[DeviceDeclined]), after(0)),
            (all(&[DeviceDeclined; 2]), after(250)),
            (all(&[DeviceDeclined; 9]), after(32_000)),
            (all(&[DeviceDeclined; 40]), after(60_000)),
            (all(&[Timeout, DeviceDeclined]), after(0)),
            (all(&[Timeout, DeviceDeclined, DeviceDeclined]), after(250)),
            (all(&[DeviceDeclined, DeviceDeclined, Timeout, DeviceDeclined]), after(0)),
            (all(&[DeviceDeclined, DeviceDeclined, Timeout]), after(250)),
        ];
        for (ended, expected) in cases {
            assert_eq!(after_failure(&ended, 0), expected, "{ended:?}");
        }
        let Retry::GiveUp(problem) = after_failure(&all(&[Timeout; 4]), 0) else { panic!("four are enough") };
        assert!(problem.code == Code::JobFailed && problem.detail.starts_with("4 attempts failed: Timeout on dev_"), "{problem:?}");
        assert!(matches!(after_failure(&[ended(ExecutionError, false)], 0), Retry::GiveUp(_)));
        let Retry::GiveUp(problem) = after_failure(&all(&[DeviceDeclined; 63]), 0) else { panic!("a settlement may name 64") };
        assert!(problem.detail.starts_with("63 attempts ended without a result, the last: DeviceDeclined on dev_"), "{problem:?}");
    }

    /// The pause after each no of such a row; devices by letter.
    fn pauses(row: &str) -> Vec<u64> {
        let noes: Vec<DeviceId> = row.bytes().map(device).collect();
        (1..=noes.len()).map(|said| after_noes(noes[..said].iter().rev().copied())).collect()
    }

    #[test]
    fn a_device_that_says_no_again_and_again_is_slowed_and_others_are_not() {
        for (row, expected) in [
            ("A", vec![0]),
            ("AAAA", vec![0, 250, 500, 1000]),
            ("ABCDE", vec![0; 5]),
            ("AAAB", vec![0, 250, 500, 0]),
            // Two in turn are a loop as well.
            ("ABABABAB", vec![0, 0, 250, 250, 500, 500, 1000, 1000]),
            ("ABCABC", vec![0, 0, 0, 250, 250, 250]),
            ("AAABA", vec![0, 250, 500, 0, 1000]),
            ("AAAAAAAAAAA", vec![0, 250, 500, 1000, 2000, 4000, 8000, 16_000, 32_000, 60_000, 60_000]),
        ] {
            assert_eq!(pauses(row), expected, "{row}");
        }
        use FailureClass::{DeviceDeclined, Timeout};
        let cases = [
            (vec![ended_on(1, DeviceDeclined, true), ended_on(2, DeviceDeclined, true)], 0),
            (vec![ended_on(1, DeviceDeclined, true), ended_on(2, DeviceDeclined, true), ended_on(1, DeviceDeclined, true)], 250),
            // What it said before an attempt that failed is another row.
            (vec![ended_on(1, DeviceDeclined, true), ended_on(2, Timeout, true), ended_on(1, DeviceDeclined, true)], 0),
        ];
        for (ended, ms) in cases {
            assert_eq!(after_failure(&ended, 0), Retry::After { ms }, "{ended:?}");
        }
        // Who had it for a while has had the pause; what failed backs off from its end.
        for (class, times, lasted_ms, ms) in [
            (DeviceDeclined, 4, 0, 1000),
            (DeviceDeclined, 4, 900, 100),
            (DeviceDeclined, 4, 3000, 0),
            (DeviceDeclined, 40, 3000, 57_000),
            (Timeout, 2, 3000, 500),
        ] {
            let ended = vec![ended_on(1, class, true); times];
            assert_eq!(after_failure(&ended, lasted_ms), Retry::After { ms }, "{times} {class:?} after {lasted_ms}");
        }
    }

    #[test]
    fn failing_devices_are_left_out() {
        let one = ended(FailureClass::Timeout, true);
        assert_eq!(avoided(&Needs::default(), [&one, &one]), [device(1)]);
        assert!(avoided(&Needs { target: Some(device(1)), ..Needs::default() }, [&one]).is_empty());
    }

    #[test]
    fn a_decision_names_who_was_left_out_and_why() {
        let number = |number, one: EndedAttempt| EndedAttempt { number, ..one };
        let ended = [
            number(1, ended_on(1, FailureClass::DeviceDeclined, true)),
            number(2, ended_on(1, FailureClass::Timeout, true)),
            number(3, ended_on(2, FailureClass::DeviceDisconnect, true)),
            number(4, ended_on(3, FailureClass::DeviceDeclined, true)),
        ];
        // One of them was asked all the same.
        let said = left_out(&ended, |id| *id == device(2), |id| if *id == device(1) { "one".into() } else { "three".into() });
        let reasons = |one: &Considered| {
            let Verdict::Out { reasons } = &one.verdict else { panic!("{one:?}") };
            (one.name.clone(), reasons.join("; "))
        };
        let mut said: Vec<(String, String)> = said.iter().map(reasons).collect();
        said.sort();
        let expected = [
            ("one".to_owned(), "it failed this job before: attempt 2, Timeout".to_owned()),
            ("three".to_owned(), "it handed this job back before: attempt 4, DeviceDeclined".to_owned()),
        ];
        assert_eq!(said, expected);
        assert!(left_out(&[], |_| false, |_| String::new()).is_empty());
    }

    proptest! {
        #[test]
        fn an_open_job_with_nobody_near_is_never_lost(delivered in 0_u64..9, given in proptest::option::of(0_u64..9), unheard in 0_usize..4) {
            let past = Past { delivered, back: given.map(|d| back(d, None)), hold: Some(HoldState::Open), unheard, ..Past::default() };
            match next_step(&past) {
                Step::Auction { .. } => prop_assert!(unheard == 0 || given.is_some_and(|d| d + 1 == delivered)),
                Step::Wait => prop_assert!(unheard > 0),
                Step::TakeOver { .. }
                | Step::AskPayee { .. }
                | Step::Finish { .. }
                | Step::Drop { .. }
                | Step::DropUnfunded
                | Step::AskAgain => {
                    prop_assert!(false, "an open job that nobody names is auctioned or waits");
                }
            }
        }

        /// Nine noes of each device are all that come faster than the longest pause, in whatever order they are said.
        #[test]
        fn noes_without_end_slow_down(devices in 1_u8..7, row in proptest::collection::vec(any::<u8>(), 0..200)) {
            let row: String = row.iter().map(|n| char::from(b'A' + n % devices)).collect();
            let pauses = pauses(&row);
            let fast = pauses.iter().filter(|ms| **ms < NO_MS_MAX).count();
            prop_assert!(fast <= 9 * usize::from(devices), "{row}: {pauses:?}");
            prop_assert!(pauses.iter().all(|ms| *ms <= NO_MS_MAX));
        }

        #[test]
        fn retries_end(classes in proptest::collection::vec(0_usize..4, 0..70)) {
            use FailureClass::{DeviceDeclined, DeviceDisconnect, ExecutionError, Timeout};
            let all: Vec<EndedAttempt> =
                classes.iter().map(|c| ended([DeviceDeclined, DeviceDisconnect, Timeout, ExecutionError][*c], true)).collect();
            let counted = all.iter().filter(|one| counts(one.failure.class)).count();
            prop_assert_eq!(matches!(after_failure(&all, 0), Retry::GiveUp(_)), counted >= 4 || all.len() >= 63);
        }
    }
}
