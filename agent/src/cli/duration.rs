//! Durations as people write them: `500ms`, `30s`, `5m`, `2h`, `1d`.

use std::time::Duration;

/// Reads a duration; a bare number is refused, since nobody knows its unit.
///
/// # Errors
/// One sentence for the command line.
pub fn parse(text: &str) -> Result<Duration, String> {
    let split = text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len());
    let (number, unit) = text.split_at(split);
    let number: u64 = number.parse().map_err(|_| format!("\"{text}\" is no duration; write 30s, 5m or 2h"))?;
    let factor = match unit {
        "ms" => 1,
        "s" => 1_000,
        "m" => 60_000,
        "h" => 3_600_000,
        "d" => 86_400_000,
        _ => return Err(format!("\"{text}\" needs a unit: ms, s, m, h or d")),
    };
    number.checked_mul(factor).map(Duration::from_millis).ok_or_else(|| format!("\"{text}\" is too long"))
}

/// As [`parse`], for what must last: at least a millisecond.
///
/// # Errors
/// One sentence for the command line.
pub fn some(text: &str) -> Result<Duration, String> {
    let lasting = parse(text)?;
    if lasting.is_zero() { Err(format!("\"{text}\" is no time at all; write 30s, 5m or 2h")) } else { Ok(lasting) }
}

/// As [`some`], up to a year.
///
/// # Errors
/// One sentence for the command line.
pub fn pause(text: &str) -> Result<Duration, String> {
    match some(text)? {
        pause if pause.as_millis() <= u128::from(crate::local::PAUSE_MS_MAX) => Ok(pause),
        _ => Err(format!("\"{text}\" is longer than a year; without --for it lasts until mesh resume")),
    }
}

/// `3.1 s`, `42 ms`, `4 min 10 s`, `2 h 5 min`.
pub fn show(duration: Duration) -> String {
    let ms = duration.as_millis();
    let (s, min) = ((ms + 500) / 1_000, (ms + 30_000) / 60_000);
    match ms {
        0..1_000 => format!("{ms} ms"),
        1_000..59_950 => format!("{:.1} s", duration.as_secs_f64()),
        _ if s < 3_600 => format!("{} min {} s", s / 60, s % 60),
        _ if min < 48 * 60 => format!("{} h {} min", min / 60, min % 60),
        _ => format!("{} d {} h", (min + 30) / 60 / 24, (min + 30) / 60 % 24),
    }
}

/// How long ago something was, in whole units: `3 s ago`, `4 min 10 s ago`.
pub fn ago(duration: Duration) -> String {
    match duration.as_secs() {
        s @ 0..60 => format!("{s} s ago"),
        s => format!("{} ago", show(Duration::from_secs(s))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn people_write_durations() {
        for (text, ms) in [("500ms", 500), ("30s", 30_000), ("5m", 300_000), ("2h", 7_200_000), ("1d", 86_400_000), ("0s", 0)] {
            assert_eq!(parse(text), Ok(Duration::from_millis(ms)), "{text}");
        }
        for bad in ["", "5", "s", "-1s", "1.5s", "5 s", "99999999999999999999s", "9999999999999999999d"] {
            assert!(parse(bad).is_err(), "{bad}");
        }
        for (ms, text) in [
            (3_100, "3.1 s"),
            (59_949, "59.9 s"),
            (59_960, "1 min 0 s"),
            (250_000, "4 min 10 s"),
            (3_599_700, "1 h 0 min"),
            (86_399_000, "24 h 0 min"),
            (176_400_000, "2 d 1 h"),
        ] {
            assert_eq!(show(Duration::from_millis(ms)), text);
        }
        for (ms, text) in [(0, "0 s ago"), (3_900, "3 s ago"), (59_999, "59 s ago"), (250_000, "4 min 10 s ago")] {
            assert_eq!(ago(Duration::from_millis(ms)), text);
        }
        for (text, ok) in [("0s", false), ("0d", false), ("1ms", true), ("365d", true), ("366d", false), ("99999999d", false)] {
            assert_eq!(pause(text).is_ok(), ok, "{text}");
        }
        assert!(some("0m").is_err() && some("99999999d").is_ok());
    }
}
