//! What a running part asks the hub when it starts: is all there that it uses, and as the table says?
//!
//! While the hub elects a leader, or most of its nodes are away, nobody can say: that is no reason to end. Whoever starts asks again
//! ([`until_told`]), and ends only where the hub itself says that something is not there, or is otherwise.

use std::fmt;
use std::time::Duration;

use async_nats::jetstream::{ErrorCode, consumer, stream};
use backon::{BackoffBuilder, ExponentialBuilder};
use bus_schemas::limits::Timings;
use serde::Deserialize;
use tokio::time::Instant;

use crate::Bus;
use crate::direct::ReadError;
use crate::streams::{Difference, Wanted, Weight, compare, compare_consumer, list, wanted};

/// How long a part that starts waits for a hub that does not say how it is set up: some elections one after the other, or nodes that read
/// large streams again. They take as long as they take, whatever this network's own times are.
pub const START: Duration = Duration::from_secs(120);
/// Between two questions, at first and at most.
const AGAIN: [Duration; 2] = [Duration::from_millis(100), Duration::from_secs(2)];

/// Something is there, but not as the table says: in a way that nobody can have meant, or that a running part cannot rely on.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{what} is not as the table says: {}; run: mesh-gateway bootstrap streams", list(.differences))]
pub struct Unlike {
    /// Which stream or consumer.
    pub what: String,
    /// Those that weigh.
    pub differences: Vec<Difference>,
}

/// Why a part may not rely on what it uses.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum CheckError {
    #[error(transparent)]
    Unlike(#[from] Unlike),
    /// The hub says so.
    #[error("{0} is not there; run: mesh-gateway bootstrap streams")]
    Absent(String),
    /// Nobody says how it is: an election, most nodes away, a login that may not ask. It may be there at the next question.
    #[error("the hub does not say how {what} is set up: {why}")]
    Untold { what: String, why: String },
    /// A name that no table has.
    #[error("no {0} in the table of streams")]
    Unknown(String),
}

/// A stream or a consumer, as it is named in errors.
#[derive(Clone, Copy)]
enum What<'a> {
    Stream(&'a str),
    Consumer(&'a str, &'a str),
}
impl fmt::Display for What<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Stream(name) => write!(f, "stream {name}"),
            Self::Consumer(stream, name) => write!(f, "consumer {name} of stream {stream}"),
        }
    }
}

/// What the hub answers to `STREAM.INFO` and `CONSUMER.INFO`.
#[derive(Deserialize)]
struct Answer<C> {
    config: Option<C>,
    /// When the server made the answer.
    ts: Option<jiff::Timestamp>,
    error: Option<Refusal>,
}
#[derive(Deserialize)]
struct Refusal {
    #[serde(default)]
    err_code: u64,
    #[serde(default)]
    description: String,
}

impl Bus {
    /// Compares streams of the table, and consumers as `(stream, consumer)`, with what the server has. For running parts: they
    /// name what they use, and need `STREAM.INFO` and `CONSUMER.INFO` of exactly that. The answers also tell the hub's time.
    ///
    /// # Errors
    /// Where one is missing, cannot be seen now, or differs in a way that nobody can have meant ([`Unlike`], which names every difference).
    pub async fn check_streams(&self, timings: &Timings, streams: &[&str], consumers: &[(&str, &str)]) -> Result<(), CheckError> {
        let table = wanted(timings, 1);
        for name in streams {
            let what = What::Stream(name);
            let wanted = in_table(&table, name, what)?;
            let found: stream::Config = self.config_of(what).await?;
            refuse(what, compare(&wanted.config, &found))?;
        }
        for (stream, name) in consumers {
            let what = What::Consumer(stream, name);
            let consumers = &in_table(&table, stream, what)?.consumers;
            let wanted = consumers
                .iter()
                .find(|consumer| consumer.durable_name.as_deref() == Some(*name))
                .ok_or_else(|| CheckError::Unknown(what.to_string()))?;
            let found: consumer::Config = self.config_of(what).await?;
            refuse(what, compare_consumer(wanted, &found))?;
        }
        Ok(())
    }

    async fn config_of<C: serde::de::DeserializeOwned>(&self, what: What<'_>) -> Result<C, CheckError> {
        let untold = |why: String| CheckError::Untold { what: what.to_string(), why };
        let (stream, call) = match what {
            What::Stream(name) => (name, format!("STREAM.INFO.{name}")),
            What::Consumer(stream, name) => (stream, format!("CONSUMER.INFO.{stream}.{name}")),
        };
        let answer: Result<Answer<C>, ReadError> = self.api(stream, &call, serde_json::json!({})).await;
        let Answer { config, ts, error } = answer.map_err(|error| untold(error.to_string()))?;
        // What waits in the streams does not tell what time it is there; the server itself does.
        if let Some(ms) = ts.and_then(|ts| u64::try_from(ts.as_millisecond()).ok()) {
            self.time.observe(ms);
        }
        match (config, error) {
            (Some(config), _) => Ok(config),
            (None, Some(error)) if is_absent(error.err_code) => Err(CheckError::Absent(what.to_string())),
            (None, error) => Err(untold(error.map_or_else(|| "an empty answer".into(), |error| error.description))),
        }
    }
}

/// All other codes say something about the server (10008: no leader; 10076: no streams yet), and not about what was asked for.
pub(crate) fn is_absent(err_code: u64) -> bool {
    [ErrorCode::STREAM_NOT_FOUND, ErrorCode::CONSUMER_NOT_FOUND].iter().any(|absent| absent.0 == err_code)
}

fn in_table<'a>(table: &'a [Wanted], stream: &str, what: What<'_>) -> Result<&'a Wanted, CheckError> {
    table.iter().find(|wanted| wanted.config.name == stream).ok_or_else(|| CheckError::Unknown(what.to_string()))
}

fn refuse(what: What<'_>, mut differences: Vec<Difference>) -> Result<(), Unlike> {
    differences.retain(|difference| difference.weight != Weight::Mild);
    if differences.is_empty() { Ok(()) } else { Err(Unlike { what: what.to_string(), differences }) }
}

/// Asks until the hub says something, at most for `wait`, ever more slowly. What it waits for is in the log.
///
/// # Errors
/// What the hub says; [`CheckError::Untold`] where it said nothing in time.
pub async fn until_told<T, F>(wait: Duration, ask: impl Fn() -> F) -> Result<T, CheckError>
where
    F: Future<Output = Result<T, CheckError>>,
{
    let give_up = Instant::now() + wait;
    let [first, most] = AGAIN;
    let mut pauses = ExponentialBuilder::default().with_min_delay(first).with_max_delay(most).without_max_times().with_jitter().build();
    let mut said = false;
    loop {
        let untold = match ask().await {
            Err(untold @ CheckError::Untold { .. }) => untold,
            told => {
                if said {
                    tracing::info!("the hub answers");
                }
                return told;
            }
        };
        let left = give_up.saturating_duration_since(Instant::now());
        let Some(pause) = pauses.next().filter(|_| !left.is_zero()) else {
            return Err(untold);
        };
        if !said {
            tracing::warn!(why = %untold, "waiting for the hub, at most {} s: is it electing a leader, or are most of its nodes away?", wait.as_secs());
            said = true;
        }
        tokio::time::sleep(pause.min(left)).await;
    }
}

#[cfg(test)]
mod tests {
    use std::future::ready;
    use std::sync::atomic::{AtomicU32, Ordering};

    use super::*;

    fn untold() -> CheckError {
        CheckError::Untold { what: "stream JOBS".into(), why: "no leader".into() }
    }

    #[tokio::test(start_paused = true)]
    async fn only_silence_is_waited_out_and_not_for_ever() {
        let absent = || CheckError::Absent("stream JOBS".into());
        let cases = [
            ("there", vec![Ok(())], Ok(()), 1),
            ("an election", vec![Err(untold()), Err(untold()), Ok(())], Ok(()), 3),
            ("absent", vec![Err(absent()), Ok(())], Err(absent()), 1),
            ("absent, once somebody says so", vec![Err(untold()), Err(absent())], Err(absent()), 2),
        ];
        for (about, answers, expected, asked) in cases {
            let n = AtomicU32::new(0);
            let ask = || ready(answers[n.fetch_add(1, Ordering::Relaxed) as usize].clone());
            assert_eq!(until_told(START, ask).await, expected, "{about}");
            assert_eq!(n.into_inner(), asked, "{about}");
        }
        let (n, began) = (AtomicU32::new(0), Instant::now());
        let never = || {
            n.fetch_add(1, Ordering::Relaxed);
            ready(Err::<(), _>(untold()))
        };
        assert_eq!(until_told(START, never).await, Err(untold()));
        assert_eq!(began.elapsed().as_secs(), START.as_secs());
        let asked = n.into_inner();
        assert!((30..200).contains(&asked), "asked {asked} times");
    }

    #[test]
    fn what_a_server_says_of_itself_says_nothing_of_the_stream() {
        for (err_code, absent) in
            [(10_059, true), (10_014, true), (10_005, false), (10_008, false), (10_009, false), (10_076, false), (0, false)]
        {
            assert_eq!(is_absent(err_code), absent, "{err_code}");
        }
    }
}
