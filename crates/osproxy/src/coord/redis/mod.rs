//! Agreement through Redis: nodes that know nothing else of each other.

mod connection;
mod scripts;
mod session;

use std::{
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    time::{Duration, Instant},
};

use async_trait::async_trait;
use tokio::{
    sync::{broadcast, mpsc, watch},
    task::AbortHandle,
};

use super::{
    CoordError, Coordinator, Describe, Event, KnownNode, Message, Node, WorkerLease, lease::since_boot,
};
use crate::{
    config::{ClusterSection, Redis},
    uid::WorkerId,
};
use connection::Commands;
use scripts::Keys;

/// How long the first connection is waited for.
const START: Duration = Duration::from_secs(10);
/// How many messages wait to be sent; what comes beyond is dropped, as it is while Redis is away.
const OUTGOING: usize = 1024;
/// How many events wait for whoever listens.
const INCOMING: usize = 1024;
/// How much later than a heartbeat a node may be heard.
const GRACE: Duration = Duration::from_secs(1);
/// After this many heartbeats that did not come a node is gone.
const MISSED: u32 = 3;

/// The coordinator of a node among others. It goes on by itself when Redis was away. Dropped, it is gone at once, like a
/// node that died.
pub struct ThroughRedis {
    shared: Arc<Shared>,
    outgoing: mpsc::Sender<Message>,
    session: AbortHandle,
}

/// What the session and those who ask have in common.
struct Shared {
    redis: Redis,
    keys: Keys,
    /// What this process is called, in the registry and where it holds a number.
    id: String,
    heartbeat: Duration,
    lease: Duration,
    worker: Mutex<Option<WorkerLease>>,
    node: Mutex<Option<Describe>>,
    hears: AtomicBool,
    events: broadcast::Sender<Event>,
    /// When the session that stands began.
    since: Mutex<Instant>,
    /// Whether a session stands, for those who wait for the first one.
    up: watch::Sender<Option<Commands>>,
}

impl ThroughRedis {
    /// Connects and takes a worker number. `id` is what this process is called; no two have the same.
    pub async fn open(redis: Redis, id: String, cluster: &ClusterSection) -> Result<Self, CoordError> {
        let name = connection::name(&redis);
        let shared = Arc::new(Shared {
            keys: Keys::new(&redis.prefix),
            redis,
            id,
            heartbeat: Duration::from_secs(cluster.heartbeat),
            lease: Duration::from_secs(cluster.worker_lease),
            worker: Mutex::default(),
            node: Mutex::default(),
            hears: AtomicBool::new(false),
            events: broadcast::Sender::new(INCOMING),
            since: Mutex::new(Instant::now()),
            up: watch::Sender::new(None),
        });
        let (outgoing, queue) = mpsc::channel(OUTGOING);
        let mut up = shared.up.subscribe();
        let session = tokio::spawn(session::run(shared.clone(), queue)).abort_handle();
        let coordinator = Self { shared, outgoing, session };
        match tokio::time::timeout(START, up.wait_for(Option::is_some)).await {
            Ok(Ok(_)) => Ok(coordinator),
            _ => {
                Err(CoordError(format!("no answer from the Redis {name} within {} seconds", START.as_secs())))
            }
        }
    }
}

#[cfg(test)]
impl ThroughRedis {
    /// What a process that is stopped does.
    pub(super) fn stop_renewing(&self) {
        self.session.abort();
    }

    /// What it does first when it goes on, through the connection of another.
    pub(super) async fn renew_now(&self, other: &Self) {
        let mut commands = other.shared.commands().expect("the other is connected");
        self.shared.renew(&mut commands).await.expect("Redis answers");
    }
}

#[async_trait]
impl Coordinator for ThroughRedis {
    fn worker(&self) -> Option<WorkerLease> {
        self.shared.worker().filter(WorkerLease::holds)
    }

    async fn announce(&self, describe: Describe) {
        *self.shared.node.lock().unwrap_or_else(PoisonError::into_inner) = Some(describe);
        if let Some(mut commands) = self.shared.commands()
            && let Some(beat) = self.shared.beat()
            && let Err(error) = commands.ask::<()>(&beat).await
        {
            tracing::warn!(%error, "cannot tell other nodes of this one yet");
        }
    }

    async fn nodes(&self) -> Result<Vec<KnownNode>, CoordError> {
        let away = || CoordError("Redis is away: other nodes are not known".to_owned());
        let mut commands = self.shared.commands().ok_or_else(away)?;
        list(&mut commands, &self.shared.keys).await
    }

    async fn node_with(&self, store: &str) -> Result<Option<Node>, CoordError> {
        let away = || CoordError("Redis is away: other nodes are not known".to_owned());
        let mut commands = self.shared.commands().ok_or_else(away)?;
        let found: redis::RedisResult<Option<String>> = commands.ask(&self.shared.keys.find(store)).await;
        let found = found.map_err(|error| CoordError(error.to_string()))?;
        let found = found.and_then(|record| known(&record)).map(|known| known.node);
        // A Redis that was away may have forgotten everybody, until all have said once more that they are there.
        let since = *self.shared.since.lock().unwrap_or_else(PoisonError::into_inner);
        if found.is_none() && since.elapsed() < self.shared.heartbeat + GRACE {
            return Err(CoordError("Redis is back only now: other nodes may not have been heard".to_owned()));
        }
        Ok(found)
    }

    fn send(&self, message: Message) {
        // Whoever does not hear it remembers what it remembers for a short time only.
        let _ = self.outgoing.try_send(message);
    }

    fn listen(&self) -> broadcast::Receiver<Event> {
        self.shared.events.subscribe()
    }

    fn hears(&self) -> bool {
        self.shared.hears.load(Ordering::Acquire)
    }

    async fn leave(&self) {
        self.session.abort();
        let worker = self.shared.worker.lock().unwrap_or_else(PoisonError::into_inner).take();
        let Some(mut commands) = self.shared.commands() else {
            return;
        };
        let number = worker.map_or(0, |worker| worker.id.get());
        let leave = self.shared.keys.leave(number, &self.shared.id, &self.shared.id);
        if let Err(error) = commands.ask::<()>(&leave).await {
            tracing::warn!(%error, "cannot tell other nodes that this one stops; they will find out");
        }
    }
}

impl Drop for ThroughRedis {
    fn drop(&mut self) {
        self.session.abort();
    }
}

impl Shared {
    fn worker(&self) -> Option<WorkerLease> {
        *self.worker.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn set_worker(&self, worker: Option<WorkerLease>) {
        *self.worker.lock().unwrap_or_else(PoisonError::into_inner) = worker;
    }

    fn commands(&self) -> Option<Commands> {
        self.up.borrow().clone()
    }

    /// Says that this node is there, once there is something to say.
    fn beat(&self) -> Option<redis::Cmd> {
        let describe = self.node.lock().unwrap_or_else(PoisonError::into_inner).clone()?;
        let node = describe();
        let text = serde_json::to_string(&node).ok()?;
        Some(self.keys.beat(&node.id, millis(self.heartbeat * MISSED), &text, &node.own_stores))
    }

    /// Holds the worker number further, or takes one. An error says nothing about it: what is held stays held.
    async fn renew(&self, commands: &mut Commands) -> redis::RedisResult<()> {
        // From before Redis is asked: what it grants, it grants for longer than this.
        let asked = since_boot();
        // Clocks do not run at quite the same speed.
        let ends = asked + self.lease * 9 / 10;
        if let Some(held) = self.worker() {
            let renew = self.keys.renew(held.id.get(), &self.id, millis(self.lease), held.until_ms);
            if let Some(granted) = commands.ask::<Option<Granted>>(&renew).await? {
                self.set_worker(lease(granted, ends));
                return Ok(());
            }
            self.set_worker(None);
            tracing::warn!("another node has the worker number of this one now; taking another");
        }
        let mut random = [0; 2];
        getrandom::fill(&mut random).map_err(|_| (redis::ErrorKind::Client, "no randomness"))?;
        // Anywhere: should Redis have lost what it knew, two nodes hardly meet.
        let first = u16::from_be_bytes(random) % WorkerId::COUNT;
        let acquire = self.keys.acquire(first, &self.id, millis(self.lease));
        if let Some(granted) = commands.ask::<Option<Granted>>(&acquire).await? {
            self.set_worker(lease(granted, ends));
        } else {
            tracing::error!("no worker number is free");
        }
        Ok(())
    }
}

/// What Redis answers to a request for a worker number: the number, and after and until when its uids may be.
type Granted = (u16, u64, u64);

fn lease((id, after_ms, until_ms): Granted, ends: Duration) -> Option<WorkerLease> {
    Some(WorkerLease { id: WorkerId::new(id)?, after_ms, until_ms, ends })
}

/// The nodes that a Redis knows, for whoever is none of them.
pub async fn registry(redis: &Redis) -> Result<Vec<KnownNode>, CoordError> {
    let name = connection::name(redis);
    let connected = connection::connect(redis).await;
    let (mut commands, _) =
        connected.map_err(|error| CoordError(format!("cannot use the Redis {name}: {error}")))?;
    list(&mut commands, &Keys::new(&redis.prefix)).await
}

async fn list(commands: &mut Commands, keys: &Keys) -> Result<Vec<KnownNode>, CoordError> {
    let found: redis::RedisResult<Vec<String>> = commands.ask(&keys.list()).await;
    let found = found.map_err(|error| CoordError(error.to_string()))?;
    let mut nodes: Vec<_> = found.iter().filter_map(|record| known(record)).collect();
    nodes.sort_by(|a, b| a.node.id.cmp(&b.node.id));
    Ok(nodes)
}

/// A record of the registry.
fn known(record: &str) -> Option<KnownNode> {
    let mut fields = record.splitn(3, ' ');
    let heard_at = fields.next()?.parse().ok()?;
    let node = serde_json::from_str(fields.nth(1)?).ok()?;
    Some(KnownNode { node, heard_at })
}

fn millis(duration: Duration) -> u64 {
    duration.as_millis().try_into().unwrap_or(u64::MAX)
}
