//! Locks of the uploads that are appended to on this node. The newest request wins.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use osproxy_types::uid::Uid;
use tokio::sync::{Mutex as AsyncMutex, OwnedMutexGuard, watch};

use crate::{Error, Result};

/// How long a request waits until the request before it has ended. That request only has to make
/// the bytes durable that it has received.
const MAX_WAIT: Duration = Duration::from_secs(10);

/// The uploads with a request that appends, or asks for the offset.
#[derive(Debug, Default)]
pub(crate) struct AppendLocks(Mutex<HashMap<Uid, Arc<LockedUpload>>>);

#[derive(Debug, Default)]
struct LockedUpload {
    /// Notified when a newer request arrives.
    newest: watch::Sender<()>,
    lock: Arc<AsyncMutex<()>>,
}

/// The right of a request to append to an upload on this node, until it is dropped.
#[derive(Debug)]
pub(crate) struct AppendLock {
    locks: Arc<AppendLocks>,
    uid: Uid,
    newer: watch::Receiver<()>,
    upload: Arc<LockedUpload>,
    guard: Option<OwnedMutexGuard<()>>,
}

impl AppendLocks {
    fn uploads(&self) -> MutexGuard<'_, HashMap<Uid, Arc<LockedUpload>>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Acquires the lock of `uid` for a new request. Tells the requests before it to end, and waits
    /// until their bytes are durable. Fails with `Unavailable` if that takes longer than 10 seconds.
    pub(crate) async fn acquire(self: &Arc<Self>, uid: Uid) -> Result<AppendLock> {
        let mut lock = {
            let mut uploads = self.uploads();
            let upload = uploads.entry(uid).or_default().clone();
            upload.newest.send_replace(());
            let newer = upload.newest.subscribe();
            AppendLock { locks: self.clone(), uid, newer, upload, guard: None }
        };
        let guard = tokio::time::timeout(MAX_WAIT, lock.upload.lock.clone().lock_owned()).await;
        let busy = |_| Error::unavailable("another request for this upload has not ended yet; retry");
        lock.guard = Some(guard.map_err(busy)?);
        Ok(lock)
    }
}

impl AppendLock {
    /// Returns when a newer request waits for this one to end.
    pub(crate) async fn superseded(&mut self) {
        // The sender lives as long as this lock.
        let _ = self.newer.changed().await;
    }
}

impl Drop for AppendLock {
    fn drop(&mut self) {
        self.guard = None;
        let mut uploads = self.locks.uploads();
        // This lock and the map.
        if Arc::strong_count(&self.upload) == 2 {
            uploads.remove(&self.uid);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn the_newest_request_ends_all_others() {
        let locks = Arc::new(AppendLocks::default());
        let uid = Uid::from_db(1);
        let mut first = locks.acquire(uid).await.unwrap();
        let acquire = || {
            let locks = locks.clone();
            tokio::spawn(async move { locks.acquire(uid).await.unwrap() })
        };
        let second = acquire();
        first.superseded().await;
        let third = acquire();
        tokio::task::yield_now().await;
        drop(first);
        let mut second = second.await.unwrap();
        second.superseded().await;
        drop(second);
        drop(third.await.unwrap());
        assert!(locks.uploads().is_empty());
        drop(locks.acquire(Uid::from_db(2)).await.unwrap());
    }
}
