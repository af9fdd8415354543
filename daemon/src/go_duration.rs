//! Go's duration syntax, which Istio's and Kubernetes' settings use: `1h30m`, `24h0m0s`, `1.5h`.
//!
//! Strict: a unit is required (except for a plain `0`), nothing may precede or follow, and what does
//! not fit Go's 64-bit nanoseconds is refused. Display prints as Go prints, so that a value goes
//! through both unchanged. Signed, as Go's is; use [`GoDuration::positive`] where time must be ahead.

use std::{fmt, str::FromStr, time::Duration};

/// A signed duration with nanoseconds, at most about 292 years.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct GoDuration {
    nanos: i64,
}

/// Why a text is no duration.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum GoDurationError {
    /// Empty, or a sign alone.
    #[error("empty duration, expected a number with a unit such as 10s, 90m or 24h")]
    Empty,
    /// Below zero where that makes no sense.
    #[error("negative duration, expected one that is not below 0s")]
    Negative,
    /// A digit was expected.
    #[error("malformed number in a duration, expected digits with at most one dot, such as 1.5h")]
    Number,
    /// More than Go's int64 nanoseconds.
    #[error("duration is too long, expected at most about 292 years (2562047h)")]
    TooLong,
    /// A number without unit, or an unknown unit.
    #[error("missing or unknown unit in a duration, expected ns, us, ms, s, m or h after each number")]
    Unit,
    /// Zero where that makes no sense.
    #[error("duration is zero, expected more than 0s")]
    Zero,
}

// === impl GoDuration ===

impl GoDuration {
    /// The value, unless it is negative.
    pub fn not_negative(self) -> Result<Duration, GoDurationError> {
        let nanos = u64::try_from(self.nanos).map_err(|_| GoDurationError::Negative)?;
        Ok(Duration::from_nanos(nanos))
    }

    /// The value, unless it is zero or negative.
    pub fn positive(self) -> Result<Duration, GoDurationError> {
        let duration = self.not_negative()?;
        if duration.is_zero() {
            Err(GoDurationError::Zero)
        } else {
            Ok(duration)
        }
    }

    /// From signed nanoseconds.
    pub const fn from_nanos(nanos: i64) -> Self {
        Self { nanos }
    }
}

impl From<Duration> for GoDuration {
    /// Longer than Go can hold becomes the longest.
    fn from(duration: Duration) -> Self {
        Self {
            nanos: i64::try_from(duration.as_nanos()).unwrap_or(i64::MAX),
        }
    }
}

impl FromStr for GoDuration {
    type Err = GoDurationError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let (negative, mut rest) = match text.as_bytes().first() {
            None => return Err(GoDurationError::Empty),
            Some(b'-') => (true, &text[1..]),
            Some(b'+') => (false, &text[1..]),
            Some(_) => (false, text),
        };
        if rest == "0" {
            return Ok(Self::default());
        }
        if rest.is_empty() {
            return Err(GoDurationError::Empty);
        }
        let mut total: i128 = 0;
        while !rest.is_empty() {
            let (nanos, after) = one_part(rest)?;
            total = total.checked_add(nanos).ok_or(GoDurationError::TooLong)?;
            rest = after;
        }
        let signed = if negative { -total } else { total };
        let nanos = i64::try_from(signed).map_err(|_| GoDurationError::TooLong)?;
        Ok(Self { nanos })
    }
}

impl fmt::Display for GoDuration {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let nanos = self.nanos.unsigned_abs();
        if nanos == 0 {
            return formatter.write_str("0s");
        }
        if self.nanos < 0 {
            formatter.write_str("-")?;
        }
        // Below a second Go uses the largest unit that leaves a whole part.
        for (unit, size) in [("ns", 1_000), ("µs", 1_000_000), ("ms", SECOND)] {
            if nanos < size {
                return write!(formatter, "{}{unit}", decimal(nanos, size / 1_000));
            }
        }
        let seconds = nanos / SECOND;
        let (hours, minutes) = (seconds / 3_600, seconds / 60 % 60);
        if hours > 0 {
            write!(formatter, "{hours}h")?;
        }
        if hours > 0 || minutes > 0 {
            write!(formatter, "{minutes}m")?;
        }
        write!(formatter, "{}s", decimal(nanos % (60 * SECOND), SECOND))
    }
}

/// Reads one number and unit; gives its nanoseconds and what follows.
fn one_part(text: &str) -> Result<(i128, &str), GoDurationError> {
    let number_end = text
        .find(|c: char| !c.is_ascii_digit() && c != '.')
        .unwrap_or(text.len());
    let (number, rest) = text.split_at(number_end);
    let unit_end = rest
        .find(|c: char| c.is_ascii_digit() || c == '.')
        .unwrap_or(rest.len());
    let (unit, after) = rest.split_at(unit_end);
    let (whole, fraction) = number.split_once('.').unwrap_or((number, ""));
    if (whole.is_empty() && fraction.is_empty()) || fraction.contains('.') {
        return Err(GoDurationError::Number);
    }
    let size = match unit {
        "ns" => 1,
        // Go takes the micro sign and the Greek letter.
        "us" | "µs" | "μs" => 1_000,
        "ms" => 1_000_000,
        "s" => i128::from(SECOND),
        "m" => 60 * i128::from(SECOND),
        "h" => 3_600 * i128::from(SECOND),
        _ => return Err(GoDurationError::Unit),
    };
    // 19 digits hold every int64; more cannot fit whatever the unit is.
    let digits = |text: &str| -> Result<i128, GoDurationError> {
        if text.is_empty() {
            return Ok(0);
        }
        text.parse::<i64>()
            .map(i128::from)
            .map_err(|_| GoDurationError::TooLong)
    };
    // Beyond 15 places nothing reaches a nanosecond: cut as Go does.
    let fraction = &fraction[..fraction.len().min(15)];
    let scale = 10_i128.pow(u32::try_from(fraction.len()).unwrap_or(15));
    let nanos = digits(whole)? * size + digits(fraction)? * size / scale;
    Ok((nanos, after))
}

/// `value / unit` with its decimal places, no trailing zeros.
fn decimal(value: u64, unit: u64) -> String {
    let (whole, mut fraction) = (value / unit, value % unit);
    if fraction == 0 {
        return whole.to_string();
    }
    let mut places = unit.ilog10() as usize;
    while fraction.is_multiple_of(10) {
        fraction /= 10;
        places -= 1;
    }
    format!("{whole}.{fraction:0places$}")
}

const SECOND: u64 = 1_000_000_000;

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use test_case::test_case;

    use super::*;

    #[test_case("1h30m", 5_400_000_000_000, "1h30m0s")]
    #[test_case("24h0m0s", 86_400_000_000_000, "24h0m0s")]
    #[test_case("100ms", 100_000_000, "100ms")]
    #[test_case("1.5h", 5_400_000_000_000, "1h30m0s")]
    #[test_case("-1s", -1_000_000_000, "-1s")]
    #[test_case("0", 0, "0s")]
    #[test_case("+5s", 5_000_000_000, "5s")]
    #[test_case(".5s", 500_000_000, "500ms")]
    #[test_case("1.s", 1_000_000_000, "1s")]
    #[test_case("1us", 1_000, "1\u{b5}s"; "micro sign")]
    #[test_case("1m0.25s", 60_250_000_000, "1m0.25s")]
    #[test_case("2540400h10m10.000000000s", 9_145_440_610_000_000_000, "2540400h10m10s")]
    fn good(text: &str, nanos: i64, printed: &str) {
        let duration: GoDuration = text.parse().unwrap();
        assert_eq!((duration.nanos, duration.to_string().as_str()), (nanos, printed));
    }

    #[test_case("", GoDurationError::Empty)]
    #[test_case("-", GoDurationError::Empty)]
    #[test_case("3", GoDurationError::Unit)]
    #[test_case("1d", GoDurationError::Unit)]
    #[test_case(" 1s", GoDurationError::Number)]
    #[test_case("1s ", GoDurationError::Unit)]
    #[test_case("1 s", GoDurationError::Unit)]
    #[test_case("..s", GoDurationError::Number)]
    #[test_case("1.2.3s", GoDurationError::Number)]
    #[test_case("s", GoDurationError::Number)]
    #[test_case("--1s", GoDurationError::Number)]
    #[test_case("3000000h", GoDurationError::TooLong)]
    #[test_case("99999999999999999999s", GoDurationError::TooLong)]
    fn bad(text: &str, error: GoDurationError) {
        assert_eq!(text.parse::<GoDuration>(), Err(error));
    }

    #[test]
    fn signs_are_checked_where_they_matter() {
        assert_eq!(
            GoDuration::from_nanos(-1).not_negative(),
            Err(GoDurationError::Negative)
        );
        assert_eq!(GoDuration::default().positive(), Err(GoDurationError::Zero));
    }

    proptest! {
        #[test]
        fn print_and_parse_agree(nanos: i64) {
            let duration = GoDuration::from_nanos(nanos);
            prop_assert_eq!(duration.to_string().parse::<GoDuration>(), Ok(duration));
        }

        #[test]
        fn no_text_panics(text in "[-+0-9.hmsnu\u{b5} ]{0,24}") {
            let _ = text.parse::<GoDuration>();
        }
    }
}
