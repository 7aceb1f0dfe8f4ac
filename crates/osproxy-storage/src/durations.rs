//! How long things took, counted in buckets.

use std::{
    iter,
    sync::atomic::{AtomicU64, Ordering},
    time::Duration,
};

/// The upper bounds of the buckets but the last, which has none, in microseconds: from what the page cache answers to what
/// a merge of a large file takes.
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

/// How long things took. Counting takes no lock.
#[derive(Debug, Default)]
pub struct Durations {
    buckets: [AtomicU64; BOUNDS_US.len()],
    longer: AtomicU64,
    sum_us: AtomicU64,
}

/// What was counted, at one moment.
#[derive(Clone, Debug, PartialEq)]
pub struct CountedDurations {
    /// How many there were.
    pub count: u64,
    /// How long they took together, in seconds.
    pub sum: f64,
    /// How many took longer than the bucket before allows, and no longer than this one does, in seconds.
    pub buckets: Vec<(f64, u64)>,
}

impl Durations {
    /// Counts something that took so long.
    pub fn observe(&self, took: Duration) {
        let us = u64::try_from(took.as_micros()).unwrap_or(u64::MAX);
        let bucket = BOUNDS_US.partition_point(|bound| *bound < us);
        self.buckets.get(bucket).unwrap_or(&self.longer).fetch_add(1, Ordering::Relaxed);
        self.sum_us.fetch_add(us, Ordering::Relaxed);
    }

    /// How many were counted, and how many microseconds they took together.
    pub fn total(&self) -> (u64, u64) {
        let counts = self.buckets.iter().chain(iter::once(&self.longer));
        (counts.map(|count| count.load(Ordering::Relaxed)).sum(), self.sum_us.load(Ordering::Relaxed))
    }

    /// What was counted up to now. The count is that of the buckets, whatever is counted meanwhile.
    pub fn counted(&self) -> CountedDurations {
        let counts = self.buckets.iter().chain(iter::once(&self.longer));
        let bounds = BOUNDS_US.iter().map(|us| seconds(*us)).chain(iter::once(f64::INFINITY));
        let buckets: Vec<_> = bounds.zip(counts.map(|count| count.load(Ordering::Relaxed))).collect();
        CountedDurations {
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
    fn a_bound_belongs_to_its_bucket_and_what_is_beyond_all_is_counted_too() {
        let durations = Durations::default();
        for us in [0, 100, 101, 300_000_000, 300_000_001] {
            durations.observe(Duration::from_micros(us));
        }
        let counted = durations.counted();
        assert_eq!((counted.count, durations.total().0), (5, 5));
        assert!((counted.sum - 600.000_202).abs() < 1e-9, "{}", counted.sum);
        let some: Vec<_> = counted.buckets.iter().filter(|(_, count)| *count > 0).copied().collect();
        assert_eq!(some, [(0.000_1, 2), (0.000_5, 1), (300.0, 1), (f64::INFINITY, 1)]);
    }
}
