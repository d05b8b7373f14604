//! How old a list is that comes from rows. They follow HISTORY; where they are behind, whoever reads a list is told up to when it is whole.
//!
//! As a rule that is the moment of the question. Messages lie un-taken-in while the database is away, or where a gateway died with
//! them in its hands and they wait to be delivered again: then the list is as of the first of those. While hub or database do not say, it is as
//! of the last time that they did.

use std::sync::Mutex;
use std::time::Duration;

use bus::direct::ReadError;
use bus_schemas::{Problem, UnixMs, stream, subject};

use crate::store::{StoreError, big, unsigned};
use crate::world::{World, lock, rfc3339};

/// Whoever asks for a list does not wait longer for its age.
const WITHIN: Duration = Duration::from_secs(1);
/// Places are remembered for two days (`Store::tidy`); a message older than this one was taken in long ago.
const LOOKED_BACK: Duration = Duration::from_secs(24 * 3600);
/// Places that one look compares at most; only the first one of a gateway may meet so many.
const PLACES_MAX: u64 = 100_000;

/// What the last looks found.
#[derive(Default)]
pub struct Freshness(Mutex<Seen>);
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
struct Seen {
    /// The stream that was looked at.
    created_ns: i128,
    /// All messages up to this place are in the rows.
    whole_to: u64,
    /// Up to when the rows were whole then.
    as_of: Option<UnixMs>,
}

/// Up to when a list is whole, and how long ago that was.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Age {
    pub as_of: Option<String>,
    pub behind_ms: Option<u64>,
}
impl Age {
    fn of(as_of: Option<UnixMs>, now: UnixMs) -> Self {
        Self { as_of: as_of.map(rfc3339), behind_ms: as_of.map(|as_of| now.saturating_sub(as_of)) }
    }
}

/// What one look found.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Found {
    /// The rows hold all that the stream had when it was asked.
    Whole { to: u64 },
    /// They lack this one, which was stored then.
    Missing { seq: u64, stored_at: UnixMs },
}

/// What is known after a look that began at `asked_at`.
fn after(before: Seen, created_ns: i128, found: Found, asked_at: UnixMs) -> Seen {
    match found {
        Found::Whole { to } => Seen { created_ns, whole_to: to, as_of: Some(asked_at) },
        Found::Missing { seq, stored_at } => {
            // A clock that was set may say that it was stored later.
            let as_of = stored_at.min(asked_at);
            // What was whole once stays so, unless it is another stream.
            let known = before.as_of.filter(|_| before.created_ns == created_ns);
            Seen { created_ns, whole_to: seq.saturating_sub(1), as_of: Some(known.map_or(as_of, |known| known.max(as_of))) }
        }
    }
}

impl World {
    /// How old a list is that is read from the rows after this.
    pub async fn age(&self) -> Age {
        let (before, asked_at) = (*lock(&self.freshness.0), self.now());
        if let Ok(Ok((created_ns, found))) = tokio::time::timeout(WITHIN, self.look_at_rows(before, asked_at)).await {
            *lock(&self.freshness.0) = after(before, created_ns, found, asked_at);
        }
        Age::of(lock(&self.freshness.0).as_of, self.now())
    }

    async fn look_at_rows(&self, before: Seen, now: UnixMs) -> Result<(i128, Found), Problem> {
        let away = |error: ReadError| Problem::new(bus_schemas::Code::Unavailable, error.to_string());
        let end = self.bus.stream_end(stream::HISTORY).await.map_err(away)?;
        let (to, whole) = (end.last_seq, (end.created_ns, Found::Whole { to: end.last_seq }));
        if end.messages == 0 {
            return Ok(whole);
        }
        let known = before.created_ns == end.created_ns && before.whole_to > 0;
        let mut from = if known {
            before.whole_to + 1
        } else {
            let since = now.saturating_sub(u64::try_from(LOOKED_BACK.as_millis()).unwrap_or(0));
            let first = self.bus.next_by_subject_since(stream::HISTORY, subject::HISTORY_ALL, since, 1).await.map_err(away)?;
            let Some(first) = first.first() else { return Ok(whole) };
            first.seq
        };
        from = from.max(end.first_seq).max(to.saturating_sub(PLACES_MAX - 1));
        while let Some(missing) = self.store.first_missing(from, to).await? {
            let message = self.bus.from_seq(stream::HISTORY, missing, 1).await.map_err(away)?;
            match message.first() {
                Some(message) if message.seq == missing => {
                    return Ok((end.created_ns, Found::Missing { seq: missing, stored_at: message.time_ms }));
                }
                // It is no more: nobody takes it in.
                Some(message) => from = message.seq,
                None => return Err(Problem::new(bus_schemas::Code::Unavailable, "a replica of HISTORY lags")),
            }
        }
        Ok(whole)
    }
}

impl crate::store::Store {
    /// The first place from `from` to `to` that was not taken in.
    ///
    /// # Errors
    /// [`StoreError`].
    async fn first_missing(&self, from: u64, to: u64) -> Result<Option<u64>, StoreError> {
        if from > to {
            return Ok(None);
        }
        let client = self.client().await?;
        let text = "select min(place) from generate_series($1::bigint, $2::bigint) place \
                    where not exists (select from applied where seq = place)";
        let statement = client.prepare_cached(text).await?;
        Ok(client.query_one(&statement, &[&big(from), &big(to)]).await?.get::<_, Option<i64>>(0).map(unsigned))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_list_is_as_of_the_first_message_that_it_lacks() {
        let seen = |created_ns, whole_to, as_of| Seen { created_ns, whole_to, as_of };
        let none = Seen::default();
        let whole = seen(7, 10, Some(5_000));
        for (before, created_ns, found, expected) in [
            (none, 7, Found::Whole { to: 10 }, seen(7, 10, Some(9_000))),
            (whole, 7, Found::Whole { to: 12 }, seen(7, 12, Some(9_000))),
            (whole, 7, Found::Missing { seq: 11, stored_at: 6_000 }, seen(7, 10, Some(6_000))),
            (none, 7, Found::Missing { seq: 1, stored_at: 6_000 }, seen(7, 0, Some(6_000))),
            // Clocks of two nodes are not one: what was known to be whole stays known, and nothing is as of later than now.
            (whole, 7, Found::Missing { seq: 11, stored_at: 4_990 }, seen(7, 10, Some(5_000))),
            (whole, 7, Found::Missing { seq: 11, stored_at: 9_500 }, seen(7, 10, Some(9_000))),
            // A stream that was made again begins anew.
            (whole, 8, Found::Missing { seq: 1, stored_at: 4_000 }, seen(8, 0, Some(4_000))),
        ] {
            assert_eq!(after(before, created_ns, found, 9_000), expected, "{found:?}");
        }
        assert_eq!(Age::of(None, 9_000), Age::default());
        let old = Age { as_of: Some("1970-01-01T00:00:06.000Z".into()), behind_ms: Some(3_000) };
        assert_eq!(Age::of(Some(6_000), 9_000), old);
    }
}
