//! Unique ids of files: 63 bits, ordered by time, issued without asking anyone.

use std::{
    fmt,
    str::FromStr,
    sync::atomic::{AtomicU64, Ordering},
    time::{Duration, SystemTime, UNIX_EPOCH},
};

/// Milliseconds between the Unix epoch and that of the Go program, whose uids and ours so never meet.
const EPOCH_MS: u64 = 1_417_937_700_000;
const WORKER_BITS: u32 = 10;
const SEQUENCE_BITS: u32 = 12;
const SEQUENCE_MASK: u64 = (1 << SEQUENCE_BITS) - 1;
/// Longest time that a clock which stepped back is waited for.
const MAX_STEP_BACK: Duration = Duration::from_secs(5);

/// Names a file. In JSON and in links a decimal string, since JavaScript cannot hold 63 bits.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Uid(i64);

impl Uid {
    /// The number, as the database keeps it.
    pub const fn get(self) -> i64 {
        self.0
    }

    /// When it was issued, by the clock of its node: milliseconds since the Unix epoch.
    pub const fn issued_ms(self) -> u64 {
        (self.0.unsigned_abs() >> (WORKER_BITS + SEQUENCE_BITS)) + EPOCH_MS
    }

    /// The least uid that can have been issued at a moment, in milliseconds since the Unix epoch.
    pub const fn first_of(ms: i64) -> Self {
        let since = ms.saturating_sub(EPOCH_MS.cast_signed());
        if since <= 0 {
            return Self(0);
        }
        // Far beyond the last moment that a uid can bear.
        let most = i64::MAX >> (WORKER_BITS + SEQUENCE_BITS);
        Self((if since < most { since } else { most }) << (WORKER_BITS + SEQUENCE_BITS))
    }

    /// A uid from where it was recorded.
    pub const fn from_recorded(uid: i64) -> Self {
        Self(uid)
    }
}

impl fmt::Display for Uid {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// A string that is no uid.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
#[error("a uid is a positive decimal number")]
pub struct InvalidUid;

impl FromStr for Uid {
    type Err = InvalidUid;

    fn from_str(text: &str) -> Result<Self, InvalidUid> {
        // One uid has one spelling: no sign, no leading zero.
        if !text.starts_with(|first: char| matches!(first, '1'..='9')) {
            return Err(InvalidUid);
        }
        text.parse().map(Self).map_err(|_| InvalidUid)
    }
}

/// The worker number of this process, 0 to 1023: no two processes may issue uids under one at the same time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct WorkerId(u16);

impl WorkerId {
    /// The number of a node that is alone.
    pub const FIRST: Self = Self(0);
    /// How many numbers there are.
    pub const COUNT: u16 = 1 << WORKER_BITS;

    /// The number.
    pub const fn get(self) -> u16 {
        self.0
    }

    /// `None` beyond 1023.
    pub const fn new(number: u16) -> Option<Self> {
        if number < 1 << WORKER_BITS { Some(Self(number)) } else { None }
    }
}

/// The clock stands too far behind the last uid to wait for it.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
#[error("the clock is {0:?} behind the newest uid")]
pub struct ClockBehind(Duration);

/// Issues uids: 41 bits of milliseconds since 2014-12-07, 10 of worker, 12 of sequence.
pub struct UidGenerator<C = fn() -> SystemTime> {
    clock: C,
    /// Milliseconds and sequence of the newest uid.
    last: AtomicU64,
}

impl UidGenerator {
    /// A generator on the system's clock. `newest` is the highest uid issued so far: a clock that stepped back
    /// while the process was down must not issue it again.
    pub fn new(newest: Option<Uid>) -> Self {
        Self::with_clock(newest, SystemTime::now)
    }
}

impl<C: Fn() -> SystemTime> UidGenerator<C> {
    fn with_clock(newest: Option<Uid>, clock: C) -> Self {
        let newest = newest.map_or(0, |uid| {
            let ms = uid.0.unsigned_abs() >> (WORKER_BITS + SEQUENCE_BITS);
            ms << SEQUENCE_BITS | SEQUENCE_MASK
        });
        Self { clock, last: AtomicU64::new(newest) }
    }

    /// Issues nothing any more that bears this moment (milliseconds since the Unix epoch) or an earlier one.
    pub fn skip_to(&self, ms: u64) {
        let skipped = ms.saturating_sub(EPOCH_MS) << SEQUENCE_BITS | SEQUENCE_MASK;
        self.last.fetch_max(skipped, Ordering::Relaxed);
    }

    /// The next uid, greater than every one before. Waits while the clock stands behind the newest uid
    /// for at most 5 seconds' worth; beyond that it is an error at once.
    pub async fn next(&self, worker: WorkerId) -> Result<Uid, ClockBehind> {
        loop {
            match self.try_next(worker)? {
                Ok(uid) => return Ok(uid),
                Err(wait) => tokio::time::sleep(wait).await,
            }
        }
    }

    /// A uid, or how long to wait before asking again.
    fn try_next(&self, worker: WorkerId) -> Result<Result<Uid, Duration>, ClockBehind> {
        let now = (self.clock)().duration_since(UNIX_EPOCH).unwrap_or(Duration::ZERO);
        let now = u64::try_from(now.as_millis()).unwrap_or(u64::MAX).saturating_sub(EPOCH_MS);
        let mut last = self.last.load(Ordering::Relaxed);
        loop {
            let (last_ms, sequence) = (last >> SEQUENCE_BITS, last & SEQUENCE_MASK);
            let next = if now > last_ms {
                now << SEQUENCE_BITS
            } else if now == last_ms && sequence < SEQUENCE_MASK {
                last + 1
            } else {
                // The sequence of this millisecond is used up, or the clock went back.
                let behind = Duration::from_millis(last_ms - now);
                if behind > MAX_STEP_BACK {
                    return Err(ClockBehind(behind));
                }
                return Ok(Err(behind.max(Duration::from_millis(1))));
            };
            match self.last.compare_exchange_weak(last, next, Ordering::Relaxed, Ordering::Relaxed) {
                Ok(_) => return Ok(Ok(compose(next, worker))),
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
    // 41 bits of milliseconds last until 2084; the sign bit is never reached before.
    Uid(i64::try_from(uid).unwrap_or(i64::MAX))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::{collections::HashSet, sync::Arc};

    const WORKER: WorkerId = WorkerId(7);

    fn at(ms: u64) -> SystemTime {
        UNIX_EPOCH + Duration::from_millis(EPOCH_MS + ms)
    }

    fn stepping(clock: &Arc<AtomicU64>) -> impl Fn() -> SystemTime + use<> {
        let clock = clock.clone();
        move || at(clock.load(Ordering::SeqCst))
    }

    #[test]
    fn bits_lie_where_the_go_program_has_them() {
        let generator = UidGenerator::with_clock(None, || at(5));
        let first = generator.try_next(WORKER).unwrap().unwrap();
        let second = generator.try_next(WORKER).unwrap().unwrap();
        assert_eq!(first.get(), 5 << 22 | 7 << 12);
        assert_eq!(second.get(), 5 << 22 | 7 << 12 | 1);
    }

    #[test]
    fn a_millisecond_holds_4096_uids() {
        let generator = UidGenerator::with_clock(None, || at(5));
        let issued = (0..4096).map(|_| generator.try_next(WORKER).unwrap().unwrap());
        assert_eq!(issued.collect::<HashSet<_>>().len(), 4096);
        assert_eq!(generator.try_next(WORKER), Ok(Err(Duration::from_millis(1))));
    }

    #[test]
    fn a_clock_that_steps_back_is_waited_for_and_then_refused() {
        let clock = Arc::new(AtomicU64::new(10_000));
        let generator = UidGenerator::with_clock(None, stepping(&clock));
        let before = generator.try_next(WORKER).unwrap().unwrap();
        clock.store(9_000, Ordering::SeqCst);
        assert_eq!(generator.try_next(WORKER), Ok(Err(Duration::from_secs(1))));
        clock.store(4_999, Ordering::SeqCst);
        assert_eq!(generator.try_next(WORKER), Err(ClockBehind(Duration::from_millis(5_001))));
        clock.store(10_000, Ordering::SeqCst);
        assert!(generator.try_next(WORKER).unwrap().unwrap() > before);
    }

    #[tokio::test]
    async fn waiting_ends_when_the_clock_catches_up() {
        let clock = Arc::new(AtomicU64::new(1_000));
        let generator = UidGenerator::with_clock(None, stepping(&clock));
        let before = generator.next(WORKER).await.unwrap();
        clock.store(990, Ordering::SeqCst);
        let (after, ()) = tokio::join!(generator.next(WORKER), async {
            tokio::task::yield_now().await;
            clock.store(1_001, Ordering::SeqCst);
        });
        assert!(after.unwrap() > before);
    }

    #[test]
    fn a_restart_does_not_issue_old_uids_again() {
        let generator = UidGenerator::with_clock(None, || at(10_000));
        let newest = generator.try_next(WORKER).unwrap().unwrap();
        let restarted = UidGenerator::with_clock(Some(newest), || at(10_000));
        assert_eq!(restarted.try_next(WORKER), Ok(Err(Duration::from_millis(1))));
        let restarted = UidGenerator::with_clock(Some(newest), || at(10_001));
        assert!(restarted.try_next(WORKER).unwrap().unwrap() > newest);
    }

    #[test]
    fn the_first_uid_of_a_moment_is_not_later_than_any_of_it() {
        let ms = (EPOCH_MS + 5).cast_signed();
        let issued = UidGenerator::with_clock(None, || at(5)).try_next(WORKER).unwrap().unwrap();
        assert!(Uid::first_of(ms) <= issued && issued < Uid::first_of(ms + 1));
        assert_eq!(Uid::first_of(ms).issued_ms(), EPOCH_MS + 5);
        assert_eq!(Uid::first_of(i64::MIN), Uid(0));
        assert!(Uid::first_of(i64::MAX) > issued);
    }

    #[test]
    fn one_uid_has_one_spelling() {
        assert_eq!("42".parse(), Ok(Uid(42)));
        for text in ["", "0", "-1", "+1", "007", "1 ", "1.0", "x", "9223372036854775808", "٣"] {
            assert_eq!(text.parse::<Uid>(), Err(InvalidUid), "{text:?}");
        }
    }

    proptest! {
        /// Each thread sees its uids increase, and no uid is issued twice, whatever the clock does.
        #[test]
        fn unique_and_increasing_under_concurrency(
            steps in proptest::collection::vec(-3i64..20, 1..50),
            threads in 2usize..5,
        ) {
            let clock = Arc::new(AtomicU64::new(1_000));
            let generator = UidGenerator::with_clock(None, stepping(&clock));
            let issued = std::thread::scope(|scope| {
                let issuers: Vec<_> = (0..threads).map(|_| scope.spawn(|| {
                    let attempts = (0..2_000).filter_map(|_| generator.try_next(WORKER).unwrap().ok());
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
            prop_assert!(!all.is_empty());
            prop_assert_eq!(all.iter().collect::<HashSet<_>>().len(), all.len());
        }
    }
}
