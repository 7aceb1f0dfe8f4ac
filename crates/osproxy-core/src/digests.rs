//! Computes digests of stored content, with a rate limit on reading it.

use std::{
    num::NonZeroU64,
    ops::Range,
    sync::{Mutex, PoisonError},
    time::Duration,
};

use futures_util::TryStreamExt;
use osproxy_meta::StoredPart;
use osproxy_storage::{DigestSelection, Digester, Digests, ErrorKind, Key, ObjectReader};
use tokio::{task::JoinHandle, time::Instant};

use crate::{Error, Result, Stores, boxed_future};

/// If reading was slower than the rate limit, it may exceed the limit afterwards, until it has made
/// up for at most this much time.
const MAX_LAG: Duration = Duration::from_millis(100);

impl Stores {
    /// Reads a range of an object and returns the digests of the range. Hashing runs on blocking
    /// threads.
    #[boxed_future]
    pub async fn digest(
        &self,
        store: &str,
        key: &Key,
        range: Range<u64>,
        selection: DigestSelection,
    ) -> Result<Digests> {
        let object = self.get(store)?.open(key, range).await?;
        let [own] = self.digest_object(object, [Digester::new(selection)]).await?;
        Ok(own.finish())
    }

    /// Reads parts and computes two kinds of digests: for each part, the digests that are recorded
    /// for it; for the concatenation of all parts, the digests in `selection`.
    #[boxed_future]
    pub async fn digest_parts(
        &self,
        store: &str,
        parts: &[StoredPart],
        selection: DigestSelection,
    ) -> Result<(Vec<Digests>, Digests)> {
        let (mut each, mut all) = (Vec::with_capacity(parts.len()), Digester::new(selection));
        for part in parts {
            let [own, so_far] = self
                .digest_object(
                    self.open_part(store, part, part.range()).await?,
                    [Digester::new(part.digests.selection()), all],
                )
                .await?;
            each.push(own.finish());
            all = so_far;
        }
        Ok((each, all.finish()))
    }

    /// Opens `range` of the object that contains `part`. Falls back to the object if the upload was
    /// completed after the row was read.
    pub(crate) async fn open_part(
        &self,
        store: &str,
        part: &StoredPart,
        range: Range<u64>,
    ) -> Result<ObjectReader> {
        if let Some(upload) = &part.incomplete_upload {
            match self.multipart(store)?.open_incomplete(&part.key, upload, range.clone()).await {
                Err(error) if error.kind == ErrorKind::NotFound => {}
                opened => return Ok(opened?),
            }
        }
        Ok(self.get(store)?.open(&part.key, range).await?)
    }

    async fn digest_object<const N: usize>(
        &self,
        mut object: ObjectReader,
        mut digesters: [Digester; N],
    ) -> Result<[Digester; N]> {
        let mut digesting: Option<JoinHandle<[Digester; N]>> = None;
        // The next bytes are read while the previous ones are hashed.
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
            self.read_rate.throttle(count).await;
        }
        match digesting {
            Some(last) => last.await.map_err(Error::internal),
            None => Ok(digesters),
        }
    }
}

/// Rate limiter for reading stored content.
pub struct ReadRateLimit {
    /// Bytes per second; `None` means no limit.
    limit: Option<NonZeroU64>,
    /// When the rate limit allows the next read.
    due: Mutex<Instant>,
}

impl ReadRateLimit {
    /// Limits reading to `bytes_per_second`; 0 means no limit.
    pub fn new(bytes_per_second: u64) -> Self {
        Self { limit: NonZeroU64::new(bytes_per_second), due: Mutex::new(Instant::now()) }
    }

    /// Counts `bytes` that were just read, and waits until the rate limit allows the next read.
    async fn throttle(&self, bytes: usize) {
        if let Some(until) = self.reserve(bytes, Instant::now()) {
            tokio::time::sleep_until(until).await;
        }
    }

    /// Counts `bytes`, which were read at `now`. Returns when the next read may start; `None` if
    /// there is no limit.
    fn reserve(&self, bytes: usize, now: Instant) -> Option<Instant> {
        let taking = Duration::from_nanos((bytes as u64).saturating_mul(1_000_000_000) / self.limit?);
        let mut due = self.due.lock().unwrap_or_else(PoisonError::into_inner);
        *due = (*due).max(now.checked_sub(MAX_LAG).unwrap_or(now)) + taking;
        Some(*due)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bytes_take_the_time_that_they_must_and_no_more() {
        let (pace, start) = (ReadRateLimit::new(1000), Instant::now());
        *pace.due.lock().unwrap() = start;
        let mut now = start;
        for _ in 0..100 {
            now = pace.reserve(10, now).unwrap();
        }
        assert_eq!(now - start, Duration::from_secs(1));
        // The time that a read takes counts towards the wait.
        for _ in 0..10 {
            now = pace.reserve(10, now + Duration::from_millis(9)).unwrap();
        }
        assert_eq!(now - start, Duration::from_millis(1100));
        // After a pause, reading catches up by at most `MAX_LAG`.
        let later = now + Duration::from_mins(1);
        assert_eq!(pace.reserve(1000, later).unwrap() - later, Duration::from_millis(900));
    }

    #[test]
    fn without_a_limit_nothing_waits() {
        assert_eq!(ReadRateLimit::new(0).reserve(usize::MAX, Instant::now()), None);
    }
}
