//! Coordination of nodes through Redis.

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
use connection::CommandConnection;
use scripts::Keys;
use tokio::{
    sync::{broadcast, mpsc, watch},
    task::AbortHandle,
};

use crate::{
    ClusterTiming, CoordError, Coordinator, DescribeNode, Event, Message, NodeDescription, RedisSettings,
    RegisteredNode, WorkerId, WorkerLease, boxed_future, worker_lease::since_boot,
};

/// Maximum time to establish the first connection.
const START_TIMEOUT: Duration = Duration::from_secs(10);
/// Capacity of the queue of outgoing messages. Messages that do not fit are dropped. After Redis
/// was unavailable, the queue is cleared before each attempt to reconnect.
const OUTGOING_MESSAGES: usize = 1024;
/// Number of events that a listener can fall behind before it misses events.
const INCOMING_EVENTS: usize = 1024;
/// Assumed maximum delay of a heartbeat.
const HEARTBEAT_GRACE: Duration = Duration::from_secs(1);
/// Number of missed heartbeats after which a node counts as gone.
const MAX_MISSED_HEARTBEATS: u32 = 3;

/// Coordinator of a node in a cluster. Reconnects by itself after Redis was unavailable. If it is
/// dropped without [`leave`](Coordinator::leave), the node looks crashed to other nodes.
pub struct RedisCoordinator {
    shared: Arc<Shared>,
    outgoing: mpsc::Sender<Message>,
    session: AbortHandle,
}

/// State shared by the task that runs the sessions and by the callers.
struct Shared {
    redis: RedisSettings,
    keys: Keys,
    /// Id of this process in the registry and as the holder of a worker id.
    id: String,
    heartbeat: Duration,
    lease: Duration,
    worker: Mutex<Option<WorkerLease>>,
    node: Mutex<Option<DescribeNode>>,
    is_connected: AtomicBool,
    events: broadcast::Sender<Event>,
    /// Start of the current session or, between sessions, of the previous session.
    connected_at: Mutex<Instant>,
    /// Connection of the current session; `None` between sessions. [`RedisCoordinator::open`] waits
    /// for the first session.
    session_connection: watch::Sender<Option<CommandConnection>>,
}

impl RedisCoordinator {
    /// Connects to Redis, and acquires a worker id if one is free. `id` must be unique among all
    /// processes. Fails if Redis does not respond within 10 seconds.
    #[boxed_future]
    pub async fn open(redis: RedisSettings, id: String, timing: ClusterTiming) -> Result<Self, CoordError> {
        let address = connection::display_address(&redis);
        let shared = Arc::new(Shared {
            keys: Keys::new(&redis.prefix),
            redis,
            id,
            heartbeat: timing.heartbeat,
            lease: timing.worker_lease,
            worker: Mutex::default(),
            node: Mutex::default(),
            is_connected: AtomicBool::new(false),
            events: broadcast::Sender::new(INCOMING_EVENTS),
            connected_at: Mutex::new(Instant::now()),
            session_connection: watch::Sender::new(None),
        });
        let (outgoing, queue) = mpsc::channel(OUTGOING_MESSAGES);
        let mut connected = shared.session_connection.subscribe();
        let session = tokio::spawn(session::run(shared.clone(), queue)).abort_handle();
        let coordinator = Self { shared, outgoing, session };
        match tokio::time::timeout(START_TIMEOUT, connected.wait_for(Option::is_some)).await {
            Ok(Ok(_)) => Ok(coordinator),
            _ => Err(CoordError(format!(
                "no response from Redis ({address}) within {} seconds",
                START_TIMEOUT.as_secs()
            ))),
        }
    }
}

#[cfg(test)]
impl RedisCoordinator {
    /// Simulates a suspended process: stops renewing the lease.
    pub(super) fn stop_session(&self) {
        self.session.abort();
    }

    /// Renews the lease as a resumed process does, through the connection of `other`.
    pub(super) async fn renew_now(&self, other: &Self) {
        let mut commands = other.shared.commands().expect("the other coordinator must be connected");
        self.shared.renew_or_acquire(&mut commands).await.expect("Redis must respond");
    }
}

#[async_trait]
impl Coordinator for RedisCoordinator {
    fn worker_lease(&self) -> Option<WorkerLease> {
        self.shared.worker().filter(WorkerLease::is_valid)
    }

    async fn announce(&self, describe: DescribeNode) {
        *self.shared.node.lock().unwrap_or_else(PoisonError::into_inner) = Some(describe);
        if let Some(mut commands) = self.shared.commands()
            && let Some(heartbeat) = self.shared.heartbeat_command()
            && let Err(error) = commands.query::<()>(&heartbeat).await
        {
            tracing::warn!(%error, "could not register this node; retrying with the next heartbeat");
        }
    }

    async fn list_nodes(&self) -> Result<Vec<RegisteredNode>, CoordError> {
        let unavailable = || CoordError("Redis is unavailable, so other nodes are unknown".to_owned());
        let mut commands = self.shared.commands().ok_or_else(unavailable)?;
        list(&mut commands, &self.shared.keys).await
    }

    async fn find_owner(&self, store: &str) -> Result<Option<NodeDescription>, CoordError> {
        let unavailable = || CoordError("Redis is unavailable, so other nodes are unknown".to_owned());
        let mut commands = self.shared.commands().ok_or_else(unavailable)?;
        let record: redis::RedisResult<Option<String>> =
            commands.query(&self.shared.keys.find_owner(store)).await;
        let record = record.map_err(|error| CoordError(error.to_string()))?;
        let owner = record.and_then(|record| parse_node(&record)).map(|registered| registered.node);
        // Redis may have lost its data. A missing owner is certain only after all nodes had time to
        // send a heartbeat.
        let since = *self.shared.connected_at.lock().unwrap_or_else(PoisonError::into_inner);
        if owner.is_none() && since.elapsed() < self.shared.heartbeat + HEARTBEAT_GRACE {
            return Err(CoordError(
                "the registry may be incomplete after a reconnect to Redis; retry in a few seconds"
                    .to_owned(),
            ));
        }
        Ok(owner)
    }

    fn publish(&self, message: Message) {
        // Dropping the message is safe: cache entries expire after a short time anyway, and nodes
        // also poll for tasks.
        let _ = self.outgoing.try_send(message);
    }

    fn subscribe(&self) -> broadcast::Receiver<Event> {
        self.shared.events.subscribe()
    }

    fn is_connected(&self) -> bool {
        self.shared.is_connected.load(Ordering::Acquire)
    }

    async fn leave(&self) {
        self.session.abort();
        let worker = self.shared.worker.lock().unwrap_or_else(PoisonError::into_inner).take();
        let Some(mut commands) = self.shared.commands() else {
            return;
        };
        let number = worker.map_or(0, |worker| worker.id.get());
        let leave = self.shared.keys.leave(number, &self.shared.id, &self.shared.id);
        if let Err(error) = commands.query::<()>(&leave).await {
            tracing::warn!(
                %error,
                "could not unregister this node; other nodes will notice that its heartbeats are missing"
            );
        }
    }
}

impl Drop for RedisCoordinator {
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

    fn commands(&self) -> Option<CommandConnection> {
        self.session_connection.borrow().clone()
    }

    /// The heartbeat command; `None` before the node is announced.
    fn heartbeat_command(&self) -> Option<redis::Cmd> {
        let describe = self.node.lock().unwrap_or_else(PoisonError::into_inner).clone()?;
        let node = describe();
        let text = serde_json::to_string(&node).ok()?;
        Some(self.keys.heartbeat(
            &node.id,
            millis(self.heartbeat * MAX_MISSED_HEARTBEATS),
            &text,
            &node.own_stores,
        ))
    }

    /// Renews the lease of the worker id, or acquires a worker id. If Redis does not answer the
    /// renewal, the current lease stays in force until its end.
    async fn renew_or_acquire(&self, commands: &mut CommandConnection) -> redis::RedisResult<()> {
        // Read the clock before the request: this node must end the lease before Redis does.
        let requested_at = since_boot();
        // Subtract a tenth, because clocks do not run at exactly the same speed.
        let expires_at = requested_at + self.lease * 9 / 10;
        if let Some(current) = self.worker() {
            let renew = self.keys.renew(current.id.get(), &self.id, millis(self.lease), current.until_ms);
            if let Some(lease) = request_lease(commands, &renew, expires_at).await? {
                self.set_worker(Some(lease));
                return Ok(());
            }
            self.set_worker(None);
            tracing::warn!(
                "another node has taken over the worker id of this node; acquiring a new worker id"
            );
        }
        let mut random = [0; 2];
        getrandom::fill(&mut random)
            .map_err(|_| (redis::ErrorKind::Client, "random number source failed"))?;
        // Start at a random id: if Redis has lost its data, two nodes are unlikely to get the same
        // id.
        let first = u16::from_be_bytes(random) % WorkerId::COUNT;
        let acquire = self.keys.acquire(first, &self.id, millis(self.lease));
        if let Some(lease) = request_lease(commands, &acquire, expires_at).await? {
            self.set_worker(Some(lease));
        } else {
            tracing::error!("all worker ids are in use; this node cannot issue uids");
        }
        Ok(())
    }
}

/// Sends a command that acquires or renews a lease. Returns `None` if Redis did not grant the
/// lease.
async fn request_lease(
    commands: &mut CommandConnection,
    command: &redis::Cmd,
    expires_at: Duration,
) -> redis::RedisResult<Option<WorkerLease>> {
    let granted: Option<(u16, u64, u64)> = commands.query(command).await?;
    Ok(granted.and_then(|(id, after_ms, until_ms)| {
        Some(WorkerLease { id: WorkerId::new(id)?, after_ms, until_ms, expires_at })
    }))
}

/// Lists the registered nodes, for a process that is not a node itself.
#[boxed_future]
pub async fn list_registry(redis: &RedisSettings) -> Result<Vec<RegisteredNode>, CoordError> {
    let address = connection::display_address(redis);
    let connected = connection::connect(redis).await;
    let (mut commands, _) =
        connected.map_err(|error| CoordError(format!("cannot connect to Redis ({address}): {error}")))?;
    list(&mut commands, &Keys::new(&redis.prefix)).await
}

async fn list(commands: &mut CommandConnection, keys: &Keys) -> Result<Vec<RegisteredNode>, CoordError> {
    let records: redis::RedisResult<Vec<String>> = commands.query(&keys.list()).await;
    let records = records.map_err(|error| CoordError(error.to_string()))?;
    let mut nodes: Vec<_> = records.iter().filter_map(|record| parse_node(record)).collect();
    nodes.sort_by(|a, b| a.node.id.cmp(&b.node.id));
    Ok(nodes)
}

/// Parses a record of the registry.
fn parse_node(record: &str) -> Option<RegisteredNode> {
    let mut fields = record.splitn(3, ' ');
    let last_heartbeat = fields.next()?.parse().ok()?;
    let node = serde_json::from_str(fields.nth(1)?).ok()?;
    Some(RegisteredNode { node, last_heartbeat })
}

fn millis(duration: Duration) -> u64 {
    duration.as_millis().try_into().unwrap_or(u64::MAX)
}
