//! Reading flags that several commands have.

use std::time::Duration;

/// A duration: a whole number with `ms`, `s`, `m` or `h`.
///
/// # Errors
/// One sentence that says what is expected.
pub fn duration(text: &str) -> Result<Duration, String> {
    let digits = text.bytes().take_while(u8::is_ascii_digit).count();
    let (number, unit) = text.split_at(digits);
    let per_unit = match unit {
        "ms" => 1,
        "s" => 1_000,
        "m" => 60_000,
        "h" => 3_600_000,
        _ => 0,
    };
    let ms = number.parse::<u64>().ok().filter(|_| per_unit > 0).and_then(|n| n.checked_mul(per_unit));
    ms.map(Duration::from_millis).ok_or_else(|| "a duration such as 500ms, 10s or 2m is expected".to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations() {
        let cases = [("500ms", Some(500)), ("10s", Some(10_000)), ("2m", Some(120_000)), ("1h", Some(3_600_000)), ("0s", Some(0))];
        for (text, ms) in cases {
            assert_eq!(duration(text).ok(), ms.map(Duration::from_millis), "{text}");
        }
        for bad in ["", "10", "s", "-1s", "1.5s", "1d", "99999999999999999999s", "18446744073709551615h"] {
            assert!(duration(bad).is_err(), "{bad}");
        }
    }
}
