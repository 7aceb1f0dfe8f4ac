//! Appends that run on other nodes. If a store is shared, any node may continue an upload, so a
//! request must be able to end an older one on another node. Nodes exchange messages for this. A lost
//! message only costs time: concurrent appends cannot damage an upload.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use osproxy_cluster::{Coordinator, Message};
use osproxy_types::uid::Uid;
use tokio::sync::{Notify, watch};

/// How long an append runs before it is announced. Most requests end sooner, and cost no messages.
pub(crate) const ANNOUNCE_AFTER: Duration = Duration::from_millis(100);

/// How long a request waits until an append on another node has ended.
const MAX_WAIT: Duration = Duration::from_secs(1);

/// Maximum number of appends on other nodes that this node remembers.
const MAX_KNOWN: usize = 10_000;

/// The announced appends of all nodes.
pub(crate) struct ClusterAppends {
    coordinator: Arc<dyn Coordinator>,
    known: Mutex<KnownAppends>,
}

#[derive(Default)]
struct KnownAppends {
    /// Appends on this node. Notified when a newer request arrives on another node.
    here: HashMap<u64, Arc<Notify>>,
    /// The latest append to each upload on other nodes.
    elsewhere: HashMap<Uid, RemoteAppend>,
}

struct RemoteAppend {
    id: u64,
    /// Dropped when the append has ended.
    running: watch::Sender<()>,
}

/// An append on this node that other nodes know, until it is dropped. Drop it when the received
/// bytes are durable.
pub(crate) struct AnnouncedAppend {
    appends: Arc<ClusterAppends>,
    uid: Uid,
    id: u64,
    superseded: Arc<Notify>,
}

impl ClusterAppends {
    pub(crate) fn new(coordinator: Arc<dyn Coordinator>) -> Arc<Self> {
        Arc::new(Self { coordinator, known: Mutex::default() })
    }

    fn known(&self) -> MutexGuard<'_, KnownAppends> {
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Tells the other nodes that a request on this node has appended to `uid` for
    /// [`ANNOUNCE_AFTER`]. Ends an append that was announced meanwhile: it began earlier.
    pub(crate) fn announce(self: &Arc<Self>, uid: Uid) -> Option<AnnouncedAppend> {
        let mut id = [0; 8];
        getrandom::fill(&mut id).ok()?;
        let (id, superseded) = (u64::from_ne_bytes(id), Arc::new(Notify::new()));
        let older = {
            let mut known = self.known();
            known.here.insert(id, superseded.clone());
            known.elsewhere.get(&uid).map(|append| append.id)
        };
        if let Some(append) = older {
            self.coordinator.publish(Message::AppendSuperseded { append });
        }
        self.coordinator.publish(Message::AppendStarted { uid: uid.get(), append: id });
        Some(AnnouncedAppend { appends: self.clone(), uid, id, superseded })
    }

    /// Ends the append to `uid` that runs on another node, if this node knows one. Waits until its
    /// bytes are durable, for a second at most.
    pub(crate) async fn end_elsewhere(&self, uid: Uid) {
        let Some((id, mut running)) =
            self.known().elsewhere.get(&uid).map(|append| (append.id, append.running.subscribe()))
        else {
            return;
        };
        self.coordinator.publish(Message::AppendSuperseded { append: id });
        if tokio::time::timeout(MAX_WAIT, running.changed()).await.is_err() {
            tracing::debug!(%uid, "an append on another node has not ended");
            self.forget(uid, id);
        }
    }

    fn forget(&self, uid: Uid, id: u64) {
        let elsewhere = &mut self.known().elsewhere;
        if elsewhere.get(&uid).is_some_and(|append| append.id == id) {
            elsewhere.remove(&uid);
        }
    }

    /// Forgets the appends on other nodes. Call this when messages may have been missed.
    pub(crate) fn forget_all(&self) {
        self.known().elsewhere.clear();
    }

    /// Takes a message of another node.
    pub(crate) fn receive(&self, message: &Message) {
        match *message {
            Message::AppendStarted { uid, append: id } => {
                let append = RemoteAppend { id, running: watch::Sender::default() };
                let elsewhere = &mut self.known().elsewhere;
                if elsewhere.len() >= MAX_KNOWN
                    && let Some(any) = elsewhere.keys().next().copied()
                {
                    // Nodes that crashed have not ended theirs.
                    elsewhere.remove(&any);
                }
                elsewhere.insert(Uid::from_db(uid), append);
            }
            Message::AppendEnded { uid, append } => self.forget(Uid::from_db(uid), append),
            Message::AppendSuperseded { append } => {
                if let Some(superseded) = self.known().here.get(&append) {
                    superseded.notify_one();
                }
            }
            _ => {}
        }
    }
}

impl AnnouncedAppend {
    /// Returns when a newer request for the upload has arrived on another node.
    pub(crate) async fn superseded(&self) {
        self.superseded.notified().await;
    }
}

impl Drop for AnnouncedAppend {
    fn drop(&mut self) {
        self.appends.known().here.remove(&self.id);
        self.appends.coordinator.publish(Message::AppendEnded { uid: self.uid.get(), append: self.id });
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use osproxy_cluster::LocalCoordinator;

    fn node() -> Arc<ClusterAppends> {
        ClusterAppends::new(Arc::new(LocalCoordinator::without_lock()))
    }

    fn is_known(node: &ClusterAppends, uid: Uid) -> bool {
        node.known().elsewhere.contains_key(&uid)
    }

    #[tokio::test]
    async fn only_the_named_append_is_ended() {
        let node = node();
        let (old, new) = (node.announce(Uid::from_db(1)).unwrap(), node.announce(Uid::from_db(1)).unwrap());
        node.receive(&Message::AppendSuperseded { append: old.id });
        node.receive(&Message::AppendSuperseded { append: 7 });
        old.superseded().await;
        let others = tokio::time::timeout(Duration::from_millis(10), new.superseded()).await;
        assert!(others.is_err(), "another append was ended");
        drop((old, new));
        assert!(node.known().here.is_empty());
    }

    #[tokio::test]
    async fn a_request_waits_until_the_other_append_has_ended() {
        let (node, uid) = (node(), Uid::from_db(1));
        node.end_elsewhere(uid).await;
        node.receive(&Message::AppendStarted { uid: 1, append: 5 });
        // The end of an earlier append.
        node.receive(&Message::AppendEnded { uid: 1, append: 4 });
        let waiting = tokio::spawn({
            let node = node.clone();
            async move { node.end_elsewhere(uid).await }
        });
        tokio::task::yield_now().await;
        assert!(!waiting.is_finished());
        node.receive(&Message::AppendEnded { uid: 1, append: 5 });
        waiting.await.unwrap();
        assert!(!is_known(&node, uid));
    }

    #[tokio::test(start_paused = true)]
    async fn a_node_that_crashed_costs_a_second_once() {
        let (node, uid) = (node(), Uid::from_db(1));
        node.receive(&Message::AppendStarted { uid: 1, append: 5 });
        let started = tokio::time::Instant::now();
        node.end_elsewhere(uid).await;
        node.end_elsewhere(uid).await;
        assert_eq!(started.elapsed(), MAX_WAIT);
        node.receive(&Message::AppendStarted { uid: 1, append: 6 });
        node.forget_all();
        node.end_elsewhere(uid).await;
        assert_eq!(started.elapsed(), MAX_WAIT);
    }

    #[test]
    fn few_appends_are_remembered() {
        let node = node();
        let last = 2 * MAX_KNOWN as u64;
        for uid in 1..=last {
            node.receive(&Message::AppendStarted { uid: uid.cast_signed(), append: uid });
        }
        assert_eq!(node.known().elsewhere.len(), MAX_KNOWN);
        assert!(is_known(&node, Uid::from_db(last.cast_signed())));
    }
}
