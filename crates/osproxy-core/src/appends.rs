//! Locks of the uploads that are appended to. The newest request wins.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use osproxy_cluster::Coordinator;
use osproxy_types::uid::Uid;
use tokio::{
    sync::{Mutex as AsyncMutex, OwnedMutexGuard, watch},
    time::Instant,
};

use crate::{
    Error, Result,
    appends_elsewhere::{ANNOUNCE_AFTER, AnnouncedAppend, ClusterAppends},
};

/// How long a request waits until the request before it has ended. That request only has to make
/// the bytes durable that it has received.
const MAX_WAIT: Duration = Duration::from_secs(10);

/// The uploads with a request that appends, or asks for the offset.
pub(crate) struct AppendLocks {
    here: Mutex<HashMap<Uid, Arc<LockedUpload>>>,
    pub(crate) elsewhere: Arc<ClusterAppends>,
}

#[derive(Debug, Default)]
struct LockedUpload {
    /// Notified when a newer request arrives.
    newest: watch::Sender<()>,
    lock: Arc<AsyncMutex<()>>,
}

/// The right of a request to append to an upload on this node, until it is dropped.
pub(crate) struct AppendLock {
    locks: Arc<AppendLocks>,
    uid: Uid,
    newer: watch::Receiver<()>,
    upload: Arc<LockedUpload>,
    guard: Option<OwnedMutexGuard<()>>,
    /// When to announce this request to the other nodes, if they can append to the upload too.
    announce_at: Option<Instant>,
    announced: Option<AnnouncedAppend>,
}

impl AppendLocks {
    pub(crate) fn new(coordinator: Arc<dyn Coordinator>) -> Arc<Self> {
        Arc::new(Self { here: Mutex::default(), elsewhere: ClusterAppends::new(coordinator) })
    }

    fn uploads(&self) -> MutexGuard<'_, HashMap<Uid, Arc<LockedUpload>>> {
        self.here.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Acquires the lock of `uid` for a new request. Tells the requests before it to end, and waits
    /// until their bytes are durable. Fails with `Unavailable` if that takes longer than 10 seconds
    /// on this node. Waits for a second at most for a request on another node.
    pub(crate) async fn acquire(self: &Arc<Self>, uid: Uid) -> Result<AppendLock> {
        let mut lock = {
            let mut uploads = self.uploads();
            let upload = uploads.entry(uid).or_default().clone();
            upload.newest.send_replace(());
            let newer = upload.newest.subscribe();
            AppendLock {
                locks: self.clone(),
                uid,
                newer,
                upload,
                guard: None,
                announce_at: None,
                announced: None,
            }
        };
        let guard = tokio::time::timeout(MAX_WAIT, lock.upload.lock.clone().lock_owned()).await;
        let busy = |_| Error::unavailable("another request for this upload has not ended yet; retry");
        lock.guard = Some(guard.map_err(busy)?);
        self.elsewhere.end_elsewhere(uid).await;
        Ok(lock)
    }
}

impl AppendLock {
    /// Lets newer requests on other nodes end this one, once it has run for a moment. Call this if
    /// other nodes can append to the upload.
    pub(crate) fn announce_soon(&mut self) {
        self.announce_at = Some(Instant::now() + ANNOUNCE_AFTER);
    }

    /// Returns when a newer request waits for this one to end.
    pub(crate) async fn superseded(&mut self) {
        loop {
            let Self { newer, announced, announce_at, .. } = self;
            let superseded_elsewhere = async {
                match announced {
                    Some(announced) => announced.superseded().await,
                    None => std::future::pending().await,
                }
            };
            let announcement = async {
                match *announce_at {
                    Some(at) => tokio::time::sleep_until(at).await,
                    None => std::future::pending().await,
                }
            };
            tokio::select! {
                biased;
                // The sender lives as long as this lock.
                _ = newer.changed() => return,
                () = superseded_elsewhere => return,
                () = announcement => {}
            }
            self.announce_at = None;
            self.announced = self.locks.elsewhere.announce(self.uid);
        }
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
        let locks = AppendLocks::new(Arc::new(osproxy_cluster::LocalCoordinator::without_lock()));
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
