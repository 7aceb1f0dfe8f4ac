//! Reads stored content again and gives its digests, no faster than it may be read.

use std::{
    num::NonZeroU64,
    ops::Range,
    sync::{Mutex, PoisonError},
    time::Duration,
};

use futures_util::TryStreamExt;
use osproxy_storage::{Digester, Digests, Key, Wanted};
use tokio::{task::JoinHandle, time::Instant};

use super::Stores;
use crate::{Error, Result, meta::StoredPart};

/// How much time may be made up for that was lost in waiting for a store.
const SLACK: Duration = Duration::from_millis(100);

impl Stores {
    /// Reads a range of an object and gives its digests, computed where they hold nobody up.
    pub async fn digest(&self, store: &str, key: &Key, range: Range<u64>, wanted: Wanted) -> Result<Digests> {
        let [own] = self.read_through(store, key, range, [Digester::new(wanted)]).await?;
        Ok(own.finish())
    }

    /// Reads parts and gives the digests of each, those that are known of it, and of all of them one behind the other,
    /// those that are `wanted`.
    pub async fn digest_parts(
        &self,
        store: &str,
        parts: &[StoredPart],
        wanted: Wanted,
    ) -> Result<(Vec<Digests>, Digests)> {
        let (mut each, mut all) = (Vec::with_capacity(parts.len()), Digester::new(wanted));
        for part in parts {
            let [own, so_far] = self
                .read_through(store, &part.key, part.range(), [Digester::new(part.known.wanted()), all])
                .await?;
            each.push(own.finish());
            all = so_far;
        }
        Ok((each, all.finish()))
    }

    async fn read_through<const N: usize>(
        &self,
        store: &str,
        key: &Key,
        range: Range<u64>,
        mut digesters: [Digester; N],
    ) -> Result<[Digester; N]> {
        let mut object = self.get(store)?.open(key, range).await?;
        let mut digesting: Option<JoinHandle<[Digester; N]>> = None;
        // The next bytes come while the ones before are digested.
        while let Some(bytes) = object.try_next().await? {
            let count = bytes.len();
            if let Some(before) = digesting.take() {
                digesters = before.await.map_err(Error::internal)?;
            }
            let mut busy = digesters.clone();
            digesting = Some(tokio::task::spawn_blocking(move || {
                for digester in &mut busy {
                    digester.update(&bytes);
                }
                busy
            }));
            self.pace.pass(count).await;
        }
        match digesting {
            Some(last) => last.await.map_err(Error::internal),
            None => Ok(digesters),
        }
    }
}

/// How fast content is read again.
pub struct Pace {
    /// Bytes a second; `None`: as fast as it can be had.
    limit: Option<NonZeroU64>,
    /// When what was read so far may have been read.
    due: Mutex<Instant>,
}

impl Pace {
    /// At most so many bytes a second; 0: no limit.
    pub fn new(bytes_per_second: u64) -> Self {
        Self { limit: NonZeroU64::new(bytes_per_second), due: Mutex::new(Instant::now()) }
    }

    /// Waits for as long as so many bytes have to take.
    async fn pass(&self, bytes: usize) {
        if let Some(until) = self.due(bytes, Instant::now()) {
            tokio::time::sleep_until(until).await;
        }
    }

    /// Until when there is to be waited once so many bytes were read, if it is `now`.
    fn due(&self, bytes: usize, now: Instant) -> Option<Instant> {
        let taking = Duration::from_nanos((bytes as u64).saturating_mul(1_000_000_000) / self.limit?);
        let mut due = self.due.lock().unwrap_or_else(PoisonError::into_inner);
        *due = (*due).max(now.checked_sub(SLACK).unwrap_or(now)) + taking;
        Some(*due)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bytes_take_the_time_that_they_must_and_no_more() {
        let (pace, start) = (Pace::new(1000), Instant::now());
        *pace.due.lock().unwrap() = start;
        let mut now = start;
        for _ in 0..100 {
            now = pace.due(10, now).unwrap();
        }
        assert_eq!(now - start, Duration::from_secs(1));
        // What the store itself takes is no further wait.
        for _ in 0..10 {
            now = pace.due(10, now + Duration::from_millis(9)).unwrap();
        }
        assert_eq!(now - start, Duration::from_millis(1100));
        // What was not read for long is not read at once after it.
        let later = now + Duration::from_mins(1);
        assert_eq!(pace.due(1000, later).unwrap() - later, Duration::from_millis(900));
    }

    #[test]
    fn without_a_limit_nothing_waits() {
        assert_eq!(Pace::new(0).due(usize::MAX, Instant::now()), None);
    }
}
