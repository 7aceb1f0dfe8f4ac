//! Runs a worker for each enabled webhook, and wakes it when its tenant has new events.

use std::{
    collections::{HashMap, HashSet},
    sync::Arc,
    time::Duration,
};

use osproxy_meta::EventFilter;
use osproxy_types::{error_chain, tenant::Tenant, uid::Uid};
use tokio::{
    sync::{Notify, watch},
    task::JoinSet,
    time::MissedTickBehavior,
};
use tokio_util::sync::CancellationToken;

use super::{WebhookOps, slots::AttemptSlots, worker::Worker};
use crate::{Result, tasks::TaskError};

/// How often to look for changes of webhooks, and for events, when no notification arrives.
const POLL_INTERVAL: Duration = Duration::from_secs(2);
/// Up to this number of webhooks, all of them look for new events when there are any. With more, this
/// task reads the new events to see which tenants have some.
const MAX_WOKEN_AT_ONCE: usize = 8;
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
    loop {
        let has_changed = tokio::select! {
            () = stop.cancelled() => {
                workers.finish().await;
                return Err(TaskError::HandBack);
            }
            () = ops.changed.notified() => true,
            _ = poll.tick() => true,
            changed = events.changed(), if is_subscribed => {
                is_subscribed = changed.is_ok();
                false
            }
            true = workers.wait_for_one() => false,
        };
        if let Err(error) = workers.update(has_changed).await {
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
    /// The position up to which new events were looked at; `None` while there are so few webhooks
    /// that nobody looks.
    tail: Option<i64>,
}

struct RunningWorker {
    tenant: Tenant,
    wake: Arc<Notify>,
    version: watch::Sender<i32>,
    stop: CancellationToken,
}

impl Workers {
    fn new(ops: Arc<WebhookOps>) -> Self {
        let slots = Arc::new(AttemptSlots::new());
        Self { ops, slots, running: HashMap::new(), tasks: JoinSet::new(), tail: None }
    }

    /// Reads the enabled webhooks if they may have changed, and wakes the workers that may have new
    /// events.
    async fn update(&mut self, has_changed: bool) -> Result<()> {
        if has_changed {
            self.update_webhooks().await?;
        }
        if self.running.len() <= MAX_WOKEN_AT_ONCE {
            self.tail = None;
            self.running.values().for_each(|worker| worker.wake.notify_one());
            return Ok(());
        }
        let Some(mut tail) = self.tail else {
            // Everything before this position is seen by the workers that are woken now.
            self.tail = Some(self.ops.meta.events.newest_position().await?);
            self.running.values().for_each(|worker| worker.wake.notify_one());
            return Ok(());
        };
        loop {
            let page = self.ops.meta.events.after(&EventFilter::default(), tail, PAGE).await?;
            let tenants: HashSet<_> = page.events.iter().map(|event| &event.tenant).collect();
            let concerned = self.running.values().filter(|worker| tenants.contains(&worker.tenant));
            concerned.for_each(|worker| worker.wake.notify_one());
            tail = page.position;
            self.tail = Some(tail);
            if !page.has_more {
                return Ok(());
            }
        }
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
            match self.running.get(&id) {
                Some(worker) => {
                    worker.version.send_if_modified(|known| std::mem::replace(known, version) != version);
                }
                None => self.start(id, version).await?,
            }
        }
        Ok(())
    }

    async fn start(&mut self, id: Uid, version: i32) -> Result<()> {
        let Some(webhook) = self.ops.meta.webhooks.find(id).await? else {
            return Ok(());
        };
        let (version, changes) = watch::channel(version);
        let running = RunningWorker {
            tenant: webhook.tenant.clone(),
            wake: Arc::default(),
            version,
            stop: CancellationToken::new(),
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
