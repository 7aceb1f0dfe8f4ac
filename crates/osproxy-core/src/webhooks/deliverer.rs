//! Runs a worker for each enabled webhook, and wakes it when its tenant has new events.

use std::{
    collections::{HashMap, HashSet},
    sync::Arc,
    time::Duration,
};

use osproxy_types::{error_chain, tenant::Tenant, uid::Uid};
use tokio::{
    sync::{Notify, watch},
    task::JoinSet,
    time::{Instant, MissedTickBehavior},
};
use tokio_util::sync::CancellationToken;

use super::{WebhookFilter, WebhookOps, WebhookRecord, slots::AttemptSlots, worker::Worker};
use crate::{Result, tasks::TaskError};

/// How often to look for changes of webhooks, and for events, when no notification arrives.
const POLL_INTERVAL: Duration = Duration::from_secs(2);
/// Shortest time between two looks for events. The first of many events is found at once; those that
/// follow soon are found together.
const LOOK_INTERVAL: Duration = Duration::from_millis(20);
/// How often workers look at events of their tenants that they do not get. Their positions must not
/// fall behind, or they had to look through many events at once later.
const CATCH_UP_INTERVAL: Duration = Duration::from_mins(1);
/// Number of events that are read at once.
const PAGE: u64 = 500;

/// Delivers events until `stop` is cancelled, which ends it with `HandBack`, or until no webhook is
/// enabled.
pub(crate) async fn deliver(ops: &Arc<WebhookOps>, stop: &CancellationToken) -> Result<(), TaskError> {
    let mut events = ops.meta.events.subscribe();
    let mut poll = tokio::time::interval(POLL_INTERVAL);
    poll.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut workers = Workers::new(ops.clone());
    let mut is_subscribed = true;
    let (mut has_events, mut next_look) = (true, Instant::now());
    loop {
        let mut has_changed = false;
        tokio::select! {
            () = stop.cancelled() => {
                workers.finish().await;
                return Err(TaskError::HandBack);
            }
            () = ops.changed.notified() => has_changed = true,
            _ = poll.tick() => (has_changed, has_events) = (true, true),
            changed = events.changed(), if is_subscribed && !has_events => {
                is_subscribed = changed.is_ok();
                has_events = true;
            }
            () = tokio::time::sleep_until(next_look), if has_events => {}
            true = workers.wait_for_one() => {}
        };
        let now = Instant::now();
        let is_time = has_events && next_look <= now;
        if is_time {
            (has_events, next_look) = (false, now + LOOK_INTERVAL);
        }
        if let Err(error) = workers.update(has_changed, is_time).await {
            // The next poll repeats it.
            tracing::warn!(error = error_chain(&error), "cannot read webhooks or events");
        } else if has_changed && workers.running.is_empty() {
            workers.finish().await;
            return Ok(());
        }
    }
}

/// The workers of the enabled webhooks.
struct Workers {
    ops: Arc<WebhookOps>,
    slots: Arc<AttemptSlots>,
    running: HashMap<Uid, RunningWorker>,
    tasks: JoinSet<Uid>,
    /// The position up to which new events were looked at.
    tail: Option<i64>,
    next_catch_up: Instant,
}

struct RunningWorker {
    tenant: Tenant,
    /// Types of the events that the webhook gets; empty: all types.
    types: Vec<String>,
    wake: Arc<Notify>,
    version: watch::Sender<i32>,
    stop: CancellationToken,
    /// Whether its tenant has had events since it was woken last.
    is_behind: bool,
}

impl RunningWorker {
    fn wake(&mut self) {
        self.is_behind = false;
        self.wake.notify_one();
    }

    /// Whether the webhook may get one of the events of its tenant.
    fn may_get(&self, events: &HashSet<&str>) -> bool {
        self.types.is_empty() || self.types.iter().any(|kind| events.contains(kind.as_str()))
    }
}

/// Types of the events that a webhook gets; empty: all types. The worker reports an invalid filter.
fn types(webhook: &WebhookRecord) -> Vec<String> {
    WebhookFilter::parse(&webhook.filters).map(|filter| filter.types).unwrap_or_default()
}

impl Workers {
    fn new(ops: Arc<WebhookOps>) -> Self {
        Self {
            ops,
            slots: Arc::new(AttemptSlots::new()),
            running: HashMap::new(),
            tasks: JoinSet::new(),
            tail: None,
            next_catch_up: Instant::now() + CATCH_UP_INTERVAL,
        }
    }

    /// Reads the enabled webhooks if they may have changed, and new events if there may be any.
    async fn update(&mut self, has_changed: bool, has_events: bool) -> Result<()> {
        if has_changed {
            self.update_webhooks().await?;
        }
        if has_events {
            self.wake_concerned().await?;
        }
        Ok(())
    }

    /// Wakes the workers whose webhooks may get new events.
    async fn wake_concerned(&mut self) -> Result<()> {
        let Some(mut tail) = self.tail else {
            // Everything before this position is seen by the workers that are woken now.
            self.tail = Some(self.ops.meta.events.newest_position().await?);
            self.running.values_mut().for_each(RunningWorker::wake);
            return Ok(());
        };
        loop {
            let page = self.ops.meta.events.headers_after(tail, PAGE).await?;
            let mut found: HashMap<_, HashSet<_>> = HashMap::new();
            for event in &page.events {
                found.entry(&event.tenant).or_default().insert(event.kind.as_str());
            }
            for worker in self.running.values_mut() {
                match found.get(&worker.tenant) {
                    Some(events) if worker.may_get(events) => worker.wake(),
                    Some(_) => worker.is_behind = true,
                    None => {}
                }
            }
            tail = page.position;
            self.tail = Some(tail);
            if !page.has_more {
                break;
            }
        }
        let now = Instant::now();
        if self.next_catch_up <= now {
            self.next_catch_up = now + CATCH_UP_INTERVAL;
            self.running.values_mut().filter(|worker| worker.is_behind).for_each(RunningWorker::wake);
        }
        Ok(())
    }

    /// Starts workers of webhooks that are enabled, and stops those of webhooks that are not.
    async fn update_webhooks(&mut self) -> Result<()> {
        let enabled = self.ops.meta.webhooks.enabled().await?;
        let ids: HashSet<_> = enabled.iter().map(|(id, _)| *id).collect();
        self.running.retain(|id, worker| {
            let is_enabled = ids.contains(id);
            if !is_enabled {
                worker.stop.cancel();
            }
            is_enabled
        });
        for (id, version) in enabled {
            match self.running.get(&id).map(|worker| *worker.version.borrow()) {
                Some(known) if known == version => {}
                Some(_) => self.announce_change(id).await?,
                None => self.start(id).await?,
            }
        }
        Ok(())
    }

    /// Tells a worker that its webhook has changed.
    async fn announce_change(&mut self, id: Uid) -> Result<()> {
        let webhook = self.ops.meta.webhooks.find(id).await?;
        if let (Some(webhook), Some(worker)) = (webhook, self.running.get_mut(&id)) {
            worker.types = types(&webhook);
            // The worker then reads the webhook, and events by its new filter.
            worker.version.send_replace(webhook.version);
        }
        Ok(())
    }

    async fn start(&mut self, id: Uid) -> Result<()> {
        let Some(webhook) = self.ops.meta.webhooks.find(id).await? else {
            return Ok(());
        };
        let (version, changes) = watch::channel(webhook.version);
        let running = RunningWorker {
            tenant: webhook.tenant.clone(),
            types: types(&webhook),
            wake: Arc::default(),
            version,
            stop: CancellationToken::new(),
            is_behind: false,
        };
        let worker = Worker {
            ops: self.ops.clone(),
            slots: self.slots.clone(),
            wake: running.wake.clone(),
            version: changes,
            stop: running.stop.clone(),
        };
        self.running.insert(id, running);
        self.tasks.spawn(async move {
            if let Err(error) = worker.run(webhook).await {
                let webhook = id.get();
                tracing::error!(webhook, error = error_chain(&error), "cannot deliver; trying again");
            }
            id
        });
        Ok(())
    }

    /// Waits until a worker has ended: its webhook is disabled, or it failed. In the second case,
    /// the next poll starts another one. Returns `false` if there is no worker.
    async fn wait_for_one(&mut self) -> bool {
        match self.tasks.join_next().await {
            Some(Ok(id)) => {
                // Not if it is the worker of a webhook that was enabled again.
                self.running.retain(|known, worker| *known != id || worker.version.receiver_count() > 0);
            }
            Some(Err(error)) => {
                tracing::error!(%error, "a worker of a webhook ended without a result; trying again");
                self.running.retain(|_, worker| worker.version.receiver_count() > 0);
            }
            None => return false,
        }
        true
    }

    /// Stops all workers, and waits until they have recorded what they have sent.
    async fn finish(&mut self) {
        self.running.drain().for_each(|(_, worker)| worker.stop.cancel());
        while self.wait_for_one().await {}
    }
}
