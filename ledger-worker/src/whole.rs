//! Whether LEDGER has all that was ever stored in it, and is set up to keep it.

use std::time::Duration;

use bus::Bus;
use bus::check::{CheckError, Unlike};
use bus::direct::StreamEnd;
use bus::streams::list;
use bus_schemas::limits::Timings;
use bus_schemas::stream::LEDGER;

/// How long the hub may take to say how LEDGER is set up.
const LOOK: Duration = Duration::from_secs(2);

/// Every message from the first on: from anything else nobody can make the books again.
///
/// # Errors
/// What is missing, in a sentence that ends with the command to run.
pub fn whole(end: &StreamEnd) -> Result<(), String> {
    let lost = match end {
        StreamEnd { first_seq: 0 | 1, last_seq, messages, .. } if messages == last_seq => return Ok(()),
        StreamEnd { first_seq, messages: 1.., .. } if *first_seq > 1 => format!("begins at sequence {first_seq}"),
        StreamEnd { last_seq, messages, .. } => format!("holds {messages} of {last_seq} messages"),
    };
    Err(format!("LEDGER has lost facts: it {lost} (next: keep a copy of LEDGER, delete it, mesh-ledger reseed)"))
}

/// What `check_streams` found: a LEDGER that is set up otherwise than the table says?
pub fn unlike(error: &CheckError) -> Option<&Unlike> {
    match error {
        CheckError::Unlike(unlike) => Some(unlike).filter(|unlike| unlike.what == format!("stream {LEDGER}")),
        CheckError::Absent(_) | CheckError::Untold { .. } | CheckError::Unknown(_) => None,
    }
}

/// How LEDGER is not what the table of streams says, where that may cost facts. `None`: it is, or it cannot be seen now.
pub async fn unlike_the_table(bus: &Bus, timings: &Timings) -> Option<String> {
    let seen = tokio::time::timeout(LOOK, bus.check_streams(timings, &[LEDGER], &[])).await;
    let late = |_| Err(CheckError::Untold { what: format!("stream {LEDGER}"), why: format!("no answer within {LOOK:?}") });
    let error = seen.unwrap_or_else(late).err()?;
    let Some(Unlike { what, differences }) = unlike(&error) else {
        tracing::debug!(%error, "how LEDGER is set up cannot be seen");
        return None;
    };
    Some(format!("{what} is not as the table says: {} (next: mesh-gateway bootstrap streams)", list(differences)))
}

/// Ends, with the reason, when LEDGER is seen to be set up otherwise.
pub async fn until_unlike(bus: &Bus, timings: &Timings, every: Duration) -> String {
    loop {
        tokio::time::sleep(every).await;
        if let Some(why) = unlike_the_table(bus, timings).await {
            return why;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_stream_is_whole_from_its_first_message_to_its_last() {
        let end = |first_seq, last_seq, messages| StreamEnd { first_seq, last_seq, messages, created_ns: 7 };
        for good in [end(0, 0, 0), end(1, 0, 0), end(1, 1, 1), end(1, 14, 14)] {
            assert_eq!(whole(&good), Ok(()), "{good:?}");
        }
        let cases = [
            (end(11, 14, 4), "it begins at sequence 11 (next: "),
            (end(2, 14, 13), "it begins at sequence 2 (next: "),
            (end(1, 14, 9), "it holds 9 of 14 messages (next: "),
            (end(15, 14, 0), "it holds 0 of 14 messages (next: "),
            (end(0, 14, 0), "it holds 0 of 14 messages (next: "),
        ];
        for (lost, named) in cases {
            let why = whole(&lost).unwrap_err();
            assert!(why.contains(named) && why.ends_with("mesh-ledger reseed)"), "{lost:?}: {why}");
        }
    }
}
