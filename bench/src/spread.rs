//! How values are spread: HDR histograms, their percentiles, and ratios of repeated measurements.

use std::time::Duration;

use hdrhistogram::Histogram;
use serde::{Deserialize, Serialize};

/// Microseconds up to which a duration is told apart; three digits of it are kept.
const LONGEST: u64 = 3_600_000_000;

/// Percentiles of durations, in seconds.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub(crate) struct Spread {
    pub(crate) count: u64,
    pub(crate) mean: f64,
    pub(crate) min: f64,
    pub(crate) p50: f64,
    pub(crate) p90: f64,
    pub(crate) p99: f64,
    pub(crate) p999: f64,
    pub(crate) max: f64,
    /// Percentile and value, from the first to the last.
    pub(crate) percentiles: Vec<(f64, f64)>,
}

impl Spread {
    /// Of these durations; `None` where there are none.
    pub(crate) fn of(durations: impl IntoIterator<Item = Duration>) -> Option<Self> {
        let mut histogram = Histogram::<u64>::new_with_bounds(1, LONGEST, 3).expect("the bounds are valid");
        for duration in durations {
            histogram.saturating_record(u64::try_from(duration.as_micros()).unwrap_or(LONGEST));
        }
        if histogram.is_empty() {
            return None;
        }
        let seconds = |micros: u64| Duration::from_micros(micros).as_secs_f64();
        let at = |quantile| seconds(histogram.value_at_quantile(quantile));
        let curve = histogram.iter_quantiles(4);
        Some(Self {
            count: histogram.len(),
            mean: histogram.mean() / 1e6,
            min: seconds(histogram.min()),
            p50: at(0.5),
            p90: at(0.9),
            p99: at(0.99),
            p999: at(0.999),
            max: seconds(histogram.max()),
            percentiles: curve
                .map(|step| (step.quantile_iterated_to() * 100.0, seconds(step.value_iterated_to())))
                .collect(),
        })
    }

    /// Of durations in seconds; what is negative, as two clocks or an order of commits may have it, counts as zero.
    pub(crate) fn of_seconds(seconds: impl IntoIterator<Item = f64>) -> Option<Self> {
        Self::of(seconds.into_iter().map(|seconds| Duration::from_secs_f64(seconds.max(0.0))))
    }
}

/// Mean and extremes of a few values.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub(crate) struct Range {
    pub(crate) mean: f64,
    pub(crate) min: f64,
    pub(crate) max: f64,
}

impl Range {
    pub(crate) fn of(values: &[f64]) -> Option<Self> {
        if values.is_empty() {
            return None;
        }
        let min = values.iter().copied().fold(f64::INFINITY, f64::min);
        let max = values.iter().copied().fold(f64::NEG_INFINITY, f64::max);
        Some(Self { mean: values.iter().sum::<f64>() / float(values.len()), min, max })
    }

    /// The ratios of pairs that were measured one after the other, the second to the first.
    pub(crate) fn of_ratios(pairs: &[(f64, f64)]) -> Option<Self> {
        let ratios: Vec<_> =
            pairs.iter().filter(|(first, _)| *first != 0.0).map(|(first, second)| second / first).collect();
        Self::of(&ratios)
    }
}

/// The middle one; of an even number the mean of both in the middle.
pub(crate) fn median(values: &[f64]) -> Option<f64> {
    let mut sorted = values.to_vec();
    sorted.sort_by(f64::total_cmp);
    let middle = sorted.len() / 2;
    match sorted.len() {
        0 => None,
        count if count % 2 == 1 => Some(sorted[middle]),
        _ => Some(f64::midpoint(sorted[middle - 1], sorted[middle])),
    }
}

/// The slope of the line that fits the points best (least squares).
pub(crate) fn slope(points: &[(f64, f64)]) -> Option<f64> {
    let count = float(points.len());
    let mean_x = points.iter().map(|point| point.0).sum::<f64>() / count;
    let mean_y = points.iter().map(|point| point.1).sum::<f64>() / count;
    let squares = points.iter().map(|point| (point.0 - mean_x).powi(2)).sum::<f64>();
    let products = points.iter().map(|point| (point.0 - mean_x) * (point.1 - mean_y)).sum::<f64>();
    (points.len() > 1 && squares > 0.0).then(|| products / squares)
}

/// A count as a number to reckon with.
#[expect(clippy::cast_precision_loss, reason = "nothing that is counted here comes near 2^52")]
pub(crate) fn float(count: impl TryInto<u64>) -> f64 {
    count.try_into().unwrap_or(u64::MAX) as f64
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn percentiles_keep_three_digits() {
        let spread = Spread::of((1..=10_000).map(Duration::from_millis)).unwrap();
        assert_eq!(spread.count, 10_000);
        for (value, expected) in [(spread.p50, 5.0), (spread.p90, 9.0), (spread.p99, 9.9), (spread.max, 10.0)] {
            assert!((value / expected - 1.0).abs() < 0.002, "{value} instead of {expected}");
        }
        assert!(spread.percentiles.is_sorted_by(|a, b| a.0 <= b.0 && a.1 <= b.1));
        assert_eq!(Spread::of([]), None);
    }

    #[test]
    fn what_would_be_negative_is_no_time_at_all() {
        let spread = Spread::of_seconds([-0.5, 0.25]).unwrap();
        assert!((spread.mean - 0.125).abs() < 0.001, "{}", spread.mean);
    }

    #[test]
    fn ratios_are_of_neighbours() {
        let range = Range::of_ratios(&[(10.0, 20.0), (20.0, 20.0), (0.0, 5.0)]).unwrap();
        assert_eq!(range, Range { mean: 1.5, min: 1.0, max: 2.0 });
        assert_eq!(Range::of_ratios(&[]), None);
    }

    #[test]
    fn medians_and_slopes() {
        assert_eq!(median(&[3.0, 1.0, 2.0]), Some(2.0));
        assert_eq!(median(&[4.0, 1.0, 2.0, 3.0]), Some(2.5));
        assert_eq!(median(&[]), None);
        assert_eq!(slope(&[(0.0, 1.0), (1.0, 3.0), (2.0, 5.0)]), Some(2.0));
        assert_eq!(slope(&[(0.0, 1.0)]), None);
    }
}
