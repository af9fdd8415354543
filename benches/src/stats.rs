//! Medians and percentiles. The machine is noisy, so nothing here is a mean.

use std::time::Duration;

/// The middle of `values`; 0 if there are none.
pub(crate) fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    values.get(values.len() / 2).copied().unwrap_or_default()
}

/// Percentiles of durations.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Spread {
    /// Half are shorter.
    pub(crate) p50: Duration,
    /// One of a hundred is longer.
    pub(crate) p99: Duration,
    /// The longest.
    pub(crate) max: Duration,
}

impl Spread {
    /// Of durations in microseconds.
    pub(crate) fn of_micros(mut micros: Vec<u64>) -> Self {
        micros.sort_unstable();
        let at = |percent: usize| {
            let index = (micros.len() * percent / 100).min(micros.len().saturating_sub(1));
            Duration::from_micros(micros.get(index).copied().unwrap_or_default())
        };
        Self {
            p50: at(50),
            p99: at(99),
            max: at(100),
        }
    }
}

/// A count as a float; counts here are far below 2^52.
#[expect(clippy::cast_precision_loss, reason = "counts here are far below 2^52")]
pub(crate) fn float(count: u64) -> f64 {
    count as f64
}

/// A length as a float.
pub(crate) fn float_len(length: usize) -> f64 {
    float(u64::try_from(length).unwrap_or(u64::MAX))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn percentiles_are_values_that_were_measured() {
        let spread = Spread::of_micros((1..=200).rev().collect());
        assert_eq!(
            [spread.p50, spread.p99, spread.max],
            [101, 199, 200].map(Duration::from_micros)
        );
        assert_eq!(Spread::of_micros(Vec::new()).max, Duration::ZERO);
        assert!((median(vec![3.0, 1.0, 2.0]) - 2.0).abs() < f64::EPSILON);
    }
}
