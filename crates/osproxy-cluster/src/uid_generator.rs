//! Issues uids under the worker id of this process.

use std::sync::atomic::{AtomicU64, Ordering};

use osproxy_types::uid::{EPOCH_MS, SEQUENCE_BITS, Uid, WORKER_BITS};

const SEQUENCE_MASK: u64 = (1 << SEQUENCE_BITS) - 1;
/// Latest timestamp that fits into a uid, in milliseconds since the epoch of uids ([`EPOCH_MS`]):
/// August 2084.
const MAX_MS: u64 = (1 << 41) - 1;
/// Latest accepted clock reading, in milliseconds since the epoch of uids: April 2080. Later
/// readings are reduced to this value, so that the timestamps of four years remain for further
/// uids.
const MAX_CLOCK_MS: u64 = MAX_MS - (1 << 37);

/// A worker id, 0 to 1023. Two processes must never issue uids under the same worker id at the same
/// time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct WorkerId(u16);

impl WorkerId {
    /// The worker id of a node that runs without a cluster.
    pub const SINGLE_NODE: Self = Self(0);
    /// Number of worker ids.
    pub const COUNT: u16 = 1 << WORKER_BITS;

    /// The id as a number.
    pub const fn get(self) -> u16 {
        self.0
    }

    /// Creates a worker id; `None` if `number` is above 1,023.
    pub const fn new(number: u16) -> Option<Self> {
        if number < 1 << WORKER_BITS { Some(Self(number)) } else { None }
    }
}

/// The timestamps that uids of one worker id may have: later than `after_ms`, and up to `until_ms`.
/// Both are in milliseconds since the Unix epoch.
#[derive(Clone, Copy, Debug)]
pub struct UidWindow {
    /// The worker id.
    pub worker: WorkerId,
    /// Exclusive lower bound.
    pub after_ms: u64,
    /// Inclusive upper bound.
    pub until_ms: u64,
}

/// Issues uids: 41 bits of milliseconds since 2014-12-07, 10 bits of worker id, 12 bits of
/// sequence.
///
/// The timestamp follows the clock, but never goes back. While the clock is behind the newest uid,
/// each uid takes the next sequence number; if a millisecond has no sequence numbers left, the next
/// millisecond follows. So a clock that was set back does not stop the generator.
pub struct UidGenerator {
    /// Milliseconds and sequence of the newest uid.
    last: AtomicU64,
}

impl UidGenerator {
    /// Creates a generator whose uids have later timestamps than `newest`. Pass the highest uid
    /// that was issued so far under the worker ids that this process can get. Pass `None` if no uid
    /// was issued yet, or if another mechanism keeps uids unique, such as
    /// [`WorkerLease`](crate::WorkerLease).
    pub fn new(newest: Option<Uid>) -> Self {
        let newest = newest.map_or(0, |uid| {
            let ms = uid.get().unsigned_abs() >> (WORKER_BITS + SEQUENCE_BITS);
            ms << SEQUENCE_BITS | SEQUENCE_MASK
        });
        Self { last: AtomicU64::new(newest) }
    }

    /// The timestamp of the newest uid, in milliseconds since the Unix epoch. If there is no uid
    /// yet, returns [`EPOCH_MS`].
    pub fn last_timestamp_ms(&self) -> u64 {
        (self.last.load(Ordering::Relaxed) >> SEQUENCE_BITS) + EPOCH_MS
    }

    /// Returns the next uid, which is greater than all earlier uids of the same worker id. `now_ms`
    /// is the time of the clock, in milliseconds since the Unix epoch. Returns `None` if the window
    /// has no uid left.
    pub fn next(&self, window: UidWindow, now_ms: u64) -> Option<Uid> {
        let since = |ms: u64| ms.saturating_sub(EPOCH_MS);
        let until = since(window.until_ms).min(MAX_MS);
        let now = since(now_ms).min(MAX_CLOCK_MS).max(since(window.after_ms).saturating_add(1)).min(until);
        let step = |last: u64| {
            let next = (now << SEQUENCE_BITS).max(last + 1);
            (next >> SEQUENCE_BITS <= until).then_some(next)
        };
        let mut last = self.last.load(Ordering::Relaxed);
        loop {
            let next = step(last)?;
            match self.last.compare_exchange_weak(last, next, Ordering::Relaxed, Ordering::Relaxed) {
                Ok(_) => return Some(compose(next, window.worker)),
                Err(newer) => last = newer,
            }
        }
    }
}

fn compose(ms_and_sequence: u64, worker: WorkerId) -> Uid {
    let ms = ms_and_sequence >> SEQUENCE_BITS;
    let uid = ms << (WORKER_BITS + SEQUENCE_BITS)
        | u64::from(worker.0) << SEQUENCE_BITS
        | (ms_and_sequence & SEQUENCE_MASK);
    // The uid is never negative, because `UidGenerator::next` limits the milliseconds to 41 bits.
    Uid::from_db(uid.cast_signed())
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::collections::HashSet;

    const WORKER: WorkerId = WorkerId(7);
    const OPEN: UidWindow = UidWindow { worker: WORKER, after_ms: 0, until_ms: u64::MAX };

    /// Issues a uid at `ms` milliseconds after the epoch of uids.
    fn at(generator: &UidGenerator, ms: u64) -> Uid {
        generator.next(OPEN, EPOCH_MS + ms).unwrap()
    }

    #[test]
    fn the_bits_are_those_of_the_go_program() {
        let generator = UidGenerator::new(None);
        assert_eq!(at(&generator, 5).get(), 5 << 22 | 7 << 12);
        assert_eq!(at(&generator, 5).get(), 5 << 22 | 7 << 12 | 1);
    }

    #[test]
    fn a_used_up_millisecond_is_followed_by_the_next() {
        let generator = UidGenerator::new(None);
        let issued: HashSet<_> = (0..4097).map(|_| at(&generator, 5)).collect();
        assert_eq!(issued.len(), 4097);
        assert_eq!(issued.iter().max().unwrap().get(), 6 << 22 | 7 << 12);
    }

    #[test]
    fn uids_increase_while_the_clock_goes_back() {
        let generator = UidGenerator::new(None);
        let ahead = at(&generator, 7 * 24 * 3_600_000);
        let behind = at(&generator, 10);
        assert_eq!(behind.get(), ahead.get() + 1);
        // This also holds after a restart.
        let restarted = UidGenerator::new(Some(behind));
        assert!(at(&restarted, 10) > behind);
        assert_eq!(restarted.last_timestamp_ms(), ahead.timestamp_ms() + 1);
        let restarted = UidGenerator::new(Some(behind));
        let later = 8 * 24 * 3_600_000;
        assert_eq!(at(&restarted, later).timestamp_ms(), EPOCH_MS + later);
    }

    #[test]
    fn a_clock_far_in_the_future_leaves_uids() {
        let generator = UidGenerator::new(None);
        let first = generator.next(OPEN, u64::MAX).unwrap();
        assert_eq!(first.timestamp_ms(), EPOCH_MS + MAX_CLOCK_MS);
        assert_eq!(generator.next(OPEN, u64::MAX).unwrap().get(), first.get() + 1);
        let newest = UidGenerator::new(Some(compose(MAX_MS << SEQUENCE_BITS, WORKER)));
        assert_eq!(newest.next(OPEN, u64::MAX), None);
    }

    #[test]
    fn uids_stay_within_their_window() {
        let window = UidWindow { after_ms: EPOCH_MS + 100, until_ms: EPOCH_MS + 110, ..OPEN };
        let generator = UidGenerator::new(None);
        // A slow clock, then a fast one, then a correct one.
        for (now, issued) in [(5, 101), (5_000, 110), (105, 110)] {
            assert_eq!(generator.next(window, EPOCH_MS + now).unwrap().timestamp_ms(), EPOCH_MS + issued);
        }
        let remaining = std::iter::from_fn(|| generator.next(window, EPOCH_MS + 105));
        assert_eq!(remaining.count(), 4094);
        let wider = UidWindow { until_ms: EPOCH_MS + 111, ..window };
        assert_eq!(generator.next(wider, EPOCH_MS).unwrap().timestamp_ms(), EPOCH_MS + 111);
    }

    #[test]
    fn min_at_ms_is_not_above_any_uid_of_that_millisecond() {
        let ms = (EPOCH_MS + 5).cast_signed();
        let issued = at(&UidGenerator::new(None), 5);
        assert!(Uid::min_at_ms(ms) <= issued && issued < Uid::min_at_ms(ms + 1));
        assert_eq!(Uid::min_at_ms(ms).timestamp_ms(), EPOCH_MS + 5);
        assert_eq!(Uid::min_at_ms(i64::MIN), Uid::from_db(0));
        assert!(Uid::min_at_ms(i64::MAX) > issued);
    }

    proptest! {
        /// Each thread sees its uids increase, and no uid is issued twice, whatever the clock does.
        #[test]
        fn uids_are_unique_and_increasing_under_concurrency(
            steps in proptest::collection::vec(-3i64..20, 1..50),
            threads in 2usize..5,
        ) {
            let clock = AtomicU64::new(1_000);
            let generator = UidGenerator::new(None);
            let issued = std::thread::scope(|scope| {
                let issuers: Vec<_> = (0..threads).map(|_| scope.spawn(|| {
                    let attempts = (0..2_000).map(|_| at(&generator, clock.load(Ordering::SeqCst)));
                    attempts.collect::<Vec<_>>()
                })).collect();
                for step in steps {
                    clock.fetch_add(step.cast_unsigned(), Ordering::SeqCst);
                    std::thread::yield_now();
                }
                issuers.into_iter().map(|issuer| issuer.join().unwrap()).collect::<Vec<_>>()
            });
            for uids in &issued {
                prop_assert!(uids.is_sorted_by(|earlier, later| earlier < later));
            }
            let all: Vec<_> = issued.concat();
            prop_assert_eq!(all.iter().collect::<HashSet<_>>().len(), threads * 2_000);
        }
    }
}
