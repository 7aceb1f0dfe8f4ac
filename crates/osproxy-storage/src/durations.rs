//! Histograms of durations.

use std::{
    iter,
    sync::atomic::{AtomicU64, Ordering},
    time::Duration,
};

/// Upper bounds of the buckets in microseconds. They cover durations from page cache reads to
/// merges of large files. Longer durations are counted in one more bucket, without a bound.
const BOUNDS_US: [u64; 18] = [
    100,
    500,
    1_000,
    2_500,
    5_000,
    10_000,
    25_000,
    50_000,
    100_000,
    250_000,
    500_000,
    1_000_000,
    2_500_000,
    5_000_000,
    10_000_000,
    30_000_000,
    60_000_000,
    300_000_000,
];

/// A histogram of durations. Counting is lock-free.
#[derive(Debug, Default)]
pub struct DurationHistogram {
    buckets: [AtomicU64; BOUNDS_US.len()],
    overflow: AtomicU64,
    sum_us: AtomicU64,
}

/// A snapshot of [`DurationHistogram`].
#[derive(Clone, Debug, PartialEq)]
pub struct HistogramSnapshot {
    /// Number of observations.
    pub count: u64,
    /// Sum of all observations, in seconds.
    pub sum: f64,
    /// Upper bound in seconds, and number of observations, of each bucket. The numbers are not
    /// cumulative.
    pub buckets: Vec<(f64, u64)>,
}

impl DurationHistogram {
    /// Counts one observation.
    pub fn observe(&self, duration: Duration) {
        let us = u64::try_from(duration.as_micros()).unwrap_or(u64::MAX);
        let bucket = BOUNDS_US.partition_point(|bound| *bound < us);
        self.buckets.get(bucket).unwrap_or(&self.overflow).fetch_add(1, Ordering::Relaxed);
        self.sum_us.fetch_add(us, Ordering::Relaxed);
    }

    /// Number of observations and their sum in microseconds.
    pub fn total(&self) -> (u64, u64) {
        let counts = self.buckets.iter().chain(iter::once(&self.overflow));
        (counts.map(|count| count.load(Ordering::Relaxed)).sum(), self.sum_us.load(Ordering::Relaxed))
    }

    /// Takes a snapshot. In a snapshot, `count` always equals the total of the numbers in
    /// `buckets`, even while other threads observe durations.
    pub fn snapshot(&self) -> HistogramSnapshot {
        let counts = self.buckets.iter().chain(iter::once(&self.overflow));
        let bounds = BOUNDS_US.iter().map(|us| seconds(*us)).chain(iter::once(f64::INFINITY));
        let buckets: Vec<_> = bounds.zip(counts.map(|count| count.load(Ordering::Relaxed))).collect();
        HistogramSnapshot {
            count: buckets.iter().map(|(_, count)| count).sum(),
            sum: seconds(self.sum_us.load(Ordering::Relaxed)),
            buckets,
        }
    }
}

fn seconds(us: u64) -> f64 {
    Duration::from_micros(us).as_secs_f64()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bounds_are_inclusive_and_larger_values_overflow() {
        let durations = DurationHistogram::default();
        for us in [0, 100, 101, 300_000_000, 300_000_001] {
            durations.observe(Duration::from_micros(us));
        }
        let snapshot = durations.snapshot();
        assert_eq!((snapshot.count, durations.total().0), (5, 5));
        assert!((snapshot.sum - 600.000_202).abs() < 1e-9, "{}", snapshot.sum);
        let not_empty: Vec<_> = snapshot.buckets.iter().filter(|(_, count)| *count > 0).copied().collect();
        assert_eq!(not_empty, [(0.000_1, 2), (0.000_5, 1), (300.0, 1), (f64::INFINITY, 1)]);
    }
}
