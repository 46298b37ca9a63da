//! A histogram of durations whose buckets are numbers: a row of a table each, that can be added up.
//!
//! Up to 64 ms a bucket is a millisecond; above, each doubling has 32 buckets. A duration is known within 3 %.

use std::time::Duration;

/// Which of the buckets.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Bucket(u16);

/// Buckets in each doubling, and half of the milliseconds that have a bucket of their own.
const STEPS: u64 = 32;

impl Bucket {
    /// The bucket of a duration in microseconds.
    #[must_use]
    pub fn of(micros: u64) -> Self {
        let millis = micros / 1000;
        let doublings = u64::from(millis.checked_ilog2().unwrap_or(0).saturating_sub(STEPS.ilog2()));
        // At most 59 doublings, of 32 each.
        Self(u16::try_from(doublings * STEPS + (millis >> doublings)).unwrap_or(u16::MAX))
    }

    /// The bucket of this number.
    #[must_use]
    pub fn numbered(number: u16) -> Self {
        Self(number)
    }

    /// Its number: longer durations have higher ones.
    #[must_use]
    pub fn number(self) -> u16 {
        self.0
    }

    /// The longest duration in it.
    #[must_use]
    pub fn end(self) -> Duration {
        let number = u64::from(self.0);
        if number < 2 * STEPS {
            return Duration::from_millis(number + 1);
        }
        let doublings = number / STEPS - 1;
        Duration::from_millis((number - doublings * STEPS + 1) << doublings)
    }
}

/// The duration that this share of all durations does not exceed; `None` where there are none.
///
/// `counts` are ordered by bucket.
#[must_use]
pub fn quantile(counts: &[(Bucket, u64)], share: f64) -> Option<Duration> {
    let total: u64 = counts.iter().map(|(_, count)| count).sum();
    #[expect(clippy::cast_precision_loss, reason = "a share of more than 2^52 grants need not be exact")]
    let is_within = |count: u64| count as f64 >= share * total as f64;
    let mut below = 0;
    counts.iter().find_map(|(bucket, count)| {
        below += count;
        is_within(below).then(|| bucket.end())
    })
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn a_duration_is_known_within_three_per_cent(micros in 0..10_000_000_000_000_u64) {
            let end = u64::try_from(Bucket::of(micros).end().as_micros()).unwrap();
            prop_assert!(end > micros);
            prop_assert!(end - micros <= 1000 + micros / 32, "{micros} is in the bucket that ends at {end}");
        }

        #[test]
        fn longer_durations_are_in_later_buckets(a in 0..10_000_000_000_u64, b in 0..10_000_000_000_u64) {
            prop_assert_eq!(Bucket::of(a).end() < Bucket::of(b).end(), Bucket::of(a) < Bucket::of(b));
            prop_assert!(a > b || Bucket::of(a) <= Bucket::of(b));
        }
    }

    #[test]
    fn a_quantile_is_found_by_counting() {
        let counts = [(Bucket::of(1_000), 98), (Bucket::of(50_000), 1), (Bucket::of(900_000), 1)];
        assert_eq!(quantile(&counts, 0.5), Some(Duration::from_millis(2)));
        assert_eq!(quantile(&counts, 0.99), Some(Duration::from_millis(51)));
        assert_eq!(quantile(&counts, 1.0), Some(Bucket::of(900_000).end()));
        assert_eq!(quantile(&[], 0.5), None);
    }
}
