//! How long something takes, as counts in buckets: to count takes one atomic addition, and no lock.

use std::sync::atomic::{AtomicU32, Ordering};

/// Each octave (1 to 2 µs, 2 to 4 µs, ...) has this many buckets, so that a bucket is 1/32 of its values wide at most.
const BUCKETS_OF_OCTAVE: u64 = 32;
const BITS: u32 = BUCKETS_OF_OCTAVE.ilog2();
/// What takes longer (18 minutes) is counted as that.
const LONGEST: u64 = 1 << 40;
const BUCKETS: usize = index(LONGEST) + 1;

/// Counts of nanoseconds. Its quantiles are wrong by 1/64 (1.6 %) at most: each is given as the middle of its bucket.
pub(crate) struct Histogram(Box<[AtomicU32]>);

impl Default for Histogram {
    fn default() -> Self {
        Self((0..BUCKETS).map(|_| AtomicU32::new(0)).collect())
    }
}

/// The bucket of a value: below 32 each has its own.
const fn index(value: u64) -> usize {
    if value < BUCKETS_OF_OCTAVE {
        return value as usize;
    }
    let octave = value.ilog2() - BITS;
    (octave as u64 * BUCKETS_OF_OCTAVE + (value >> octave)) as usize
}

/// The middle of a bucket.
const fn middle(index: usize) -> u64 {
    let index = index as u64;
    if index < BUCKETS_OF_OCTAVE {
        return index;
    }
    let octave = index / BUCKETS_OF_OCTAVE - 1;
    let lowest = (index - octave * BUCKETS_OF_OCTAVE) << octave;
    lowest + ((1 << octave) >> 1)
}

impl Histogram {
    pub(crate) fn count(&self, nanos: u64) {
        self.0[index(nanos.min(LONGEST))].fetch_add(1, Ordering::Relaxed);
    }

    pub(crate) fn clear(&self) {
        self.0.iter().for_each(|bucket| bucket.store(0, Ordering::Relaxed));
    }

    /// The counts of both.
    pub(crate) fn sum(one: &Self, other: &Self) -> Counts {
        let count = |bucket: &AtomicU32| u64::from(bucket.load(Ordering::Relaxed));
        Counts(one.0.iter().zip(&other.0).map(|(one, other)| count(one) + count(other)).collect())
    }
}

/// What a histogram has counted, at one time.
pub(crate) struct Counts(Vec<u64>);

impl Counts {
    pub(crate) fn total(&self) -> u64 {
        self.0.iter().sum()
    }

    /// The smallest value that so many of a hundred values do not exceed. `None`: there is no value.
    pub(crate) fn percentile(&self, percent: u64) -> Option<u64> {
        let total = self.total();
        let rank = (total * percent).div_ceil(100).max(1);
        let mut seen = 0;
        let found = self.0.iter().position(|count| {
            seen += count;
            seen >= rank
        });
        found.filter(|_| total > 0).map(middle)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn counts(values: &[u64]) -> Counts {
        let histogram = Histogram::default();
        values.iter().for_each(|&value| histogram.count(value));
        Histogram::sum(&histogram, &Histogram::default())
    }

    #[test]
    fn every_value_is_in_the_bucket_whose_middle_is_at_most_a_64th_away() {
        let mut values: Vec<u64> = (0..100_000).collect();
        values.extend((0..40).flat_map(|bit| [(1 << bit) - 1, 1 << bit, (1 << bit) + 1, (1 << bit) * 3 / 2]));
        for value in values {
            let error = middle(index(value)).abs_diff(value);
            assert!(error * 64 <= value, "{value} is counted as {}", middle(index(value)));
        }
    }

    #[test]
    fn buckets_follow_each_other_without_a_gap() {
        for value in 1..200_000 {
            assert!((index(value - 1)..=index(value - 1) + 1).contains(&index(value)), "{value}");
        }
    }

    #[test]
    fn percentiles_are_those_of_the_sorted_values_within_the_error() {
        // A generator of its own: values from nanoseconds to minutes, most of them small.
        let mut state = 42_u64;
        let mut next = || {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            state >> 24
        };
        for size in [1_usize, 2, 3, 99, 100, 101, 10_000] {
            let mut values: Vec<u64> = (0..size).map(|_| next() >> (next() % 40)).collect();
            let counts = counts(&values);
            values.sort_unstable();
            assert_eq!(counts.total(), size as u64);
            for percent in [1, 50, 99, 100] {
                let exact = values[(size * percent).div_ceil(100).max(1) - 1].min(LONGEST);
                let told = counts.percentile(percent as u64).unwrap();
                assert!(told.abs_diff(exact) * 64 <= exact, "{size} values, p{percent}: {told} for {exact}");
            }
        }
    }

    #[test]
    fn what_is_too_long_is_counted_as_the_longest_and_nothing_has_no_percentile() {
        let longest = counts(&[u64::MAX]).percentile(50).unwrap();
        assert!(longest.abs_diff(LONGEST) * 64 <= LONGEST);
        assert_eq!(counts(&[]).percentile(50), None);
        let histogram = Histogram::default();
        histogram.count(7);
        histogram.clear();
        assert_eq!(Histogram::sum(&histogram, &histogram).percentile(99), None);
    }
}
