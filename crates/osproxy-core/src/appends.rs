//! Appends to uploads on this node: at most one at a time for each upload. The newest request wins.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError, Weak},
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
pub(crate) struct Appends(Mutex<HashMap<Uid, Weak<Upload>>>);

#[derive(Debug)]
struct Upload {
    /// Number of the newest request.
    newest: watch::Sender<u64>,
    running: Arc<AsyncMutex<()>>,
}

/// The turn of a request. Until it is dropped, no other request appends to the upload on this node.
#[derive(Debug)]
pub(crate) struct Turn {
    appends: Arc<Appends>,
    uid: Uid,
    number: u64,
    newest: watch::Receiver<u64>,
    running: Option<OwnedMutexGuard<()>>,
    upload: Option<Arc<Upload>>,
}

impl Appends {
    fn uploads(&self) -> MutexGuard<'_, HashMap<Uid, Weak<Upload>>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Takes the turn of a new request. Ends the request that appends to `uid` now, and waits until
    /// its bytes are durable. Fails with `Unavailable` if that takes longer than 10 seconds.
    pub(crate) async fn take_turn(self: &Arc<Self>, uid: Uid) -> Result<Turn> {
        let upload = {
            let mut uploads = self.uploads();
            let entry = uploads.entry(uid).or_default();
            entry.upgrade().unwrap_or_else(|| {
                let created = Arc::new(Upload { newest: watch::Sender::new(0), running: Arc::default() });
                *entry = Arc::downgrade(&created);
                created
            })
        };
        let mut number = 0;
        upload.newest.send_modify(|newest| {
            *newest += 1;
            number = *newest;
        });
        let mut turn = Turn {
            appends: self.clone(),
            uid,
            number,
            newest: upload.newest.subscribe(),
            running: None,
            upload: Some(upload.clone()),
        };
        let running = tokio::time::timeout(MAX_WAIT, upload.running.clone().lock_owned()).await;
        let busy = |_| Error::unavailable("another request for this upload has not ended yet; retry");
        turn.running = Some(running.map_err(busy)?);
        Ok(turn)
    }
}

impl Turn {
    /// Returns when a newer request for the upload waits for this one to end.
    pub(crate) async fn superseded(&mut self) {
        let number = self.number;
        // The sender lives as long as this turn.
        let _ = self.newest.wait_for(|newest| *newest > number).await;
    }
}

impl Drop for Turn {
    fn drop(&mut self) {
        self.running = None;
        let mut uploads = self.appends.uploads();
        self.upload = None;
        if uploads.get(&self.uid).is_some_and(|upload| upload.strong_count() == 0) {
            uploads.remove(&self.uid);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn the_newest_request_ends_all_others() {
        let appends = Arc::new(Appends::default());
        let uid = Uid::from_db(1);
        let mut first = appends.take_turn(uid).await.unwrap();
        let waiting: Vec<_> = (0..2)
            .map(|_| {
                let appends = appends.clone();
                tokio::spawn(async move { appends.take_turn(uid).await.unwrap() })
            })
            .collect();
        first.superseded().await;
        drop(first);
        let mut turns = waiting.into_iter();
        let mut second = turns.next().unwrap().await.unwrap();
        second.superseded().await;
        drop(second);
        drop(turns.next().unwrap().await.unwrap());
        assert!(appends.uploads().is_empty());
        drop(appends.take_turn(Uid::from_db(2)).await.unwrap());
    }
}
