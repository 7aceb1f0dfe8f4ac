//! Delivers the events of one webhook.

mod progress;

use std::{
    collections::{HashSet, VecDeque},
    sync::Arc,
    time::Duration,
};

use futures_util::{FutureExt, StreamExt, future::BoxFuture, stream::FuturesUnordered};
use osproxy_meta::{DeliveryRecord, DeliveryState, Event, EventFilter, WebhookRecord, WebhookState};
use osproxy_types::error_chain;
use tokio::{
    sync::{Notify, watch},
    time::Instant,
};
use tokio_util::sync::CancellationToken;

use self::progress::Progress;
use super::{
    SendOutcome, SendReport, WebhookFilter, WebhookOps, WebhookSecret, message, schedule, signing_secrets,
    slots::AttemptSlots,
    status::{DeliveryOutcome, EndpointStatus},
};
use crate::{Result, tasks::millis};

/// Number of events that are read at once. A worker holds at most this many that it has not sent.
const PAGE: u64 = 64;
/// Number of due retries that are read at once.
const RETRY_PAGE: u64 = 64;
/// Number of results that are recorded at once, and how long fewer of them may wait for more.
const BATCH: usize = 64;
const BATCH_DELAY: Duration = Duration::from_millis(100);
/// How long the position of events that the webhook does not get may wait to be recorded.
const POSITION_DELAY: Duration = Duration::from_secs(5);
/// Maximum number of results that wait to be recorded. Beyond it, nothing is sent.
const MAX_UNRECORDED: usize = 1024;
/// How long to wait after the database failed.
const DATABASE_PAUSE: Duration = Duration::from_secs(1);
/// How long a stopping worker waits for the attempts that are under way.
const FINISH_TIMEOUT: Duration = Duration::from_secs(5);
/// How long a worker without work sleeps if nothing wakes it.
const IDLE: Duration = Duration::from_mins(1);
/// An endpoint that takes longer than this is slow.
const SLOW: Duration = Duration::from_secs(1);

/// Delivers the events of one webhook.
pub(super) struct Worker {
    pub(super) ops: Arc<WebhookOps>,
    pub(super) slots: Arc<AttemptSlots>,
    /// Notified when there may be new events.
    pub(super) wake: Arc<Notify>,
    /// Version of the webhook. Changes when somebody changes the webhook or its deliveries.
    pub(super) version: watch::Receiver<i32>,
    pub(super) stop: CancellationToken,
}

/// An attempt that has ended.
struct Finished {
    /// The delivery before the attempt.
    delivery: DeliveryRecord,
    is_retry: bool,
    /// Version of the webhook when the attempt began.
    version: i32,
    result: Result<SendReport, Unsent>,
}

/// Why nothing was sent.
#[derive(Clone, Copy)]
enum Unsent {
    /// There is no message for this reason, and never will be.
    Never(&'static str),
    /// The event could not be read.
    NotNow,
}

/// The result of recording deliveries and the position.
struct Recorded {
    rows: Vec<DeliveryRecord>,
    position: i64,
    /// `false` if somebody has set the position.
    result: Result<bool>,
}

/// A delivery to attempt.
enum Work {
    Event(Event),
    Retry(DeliveryRecord),
}

/// What one run of a worker knows.
struct Run<'w> {
    worker: &'w Worker,
    webhook: Arc<WebhookRecord>,
    filter: WebhookFilter,
    progress: Progress,
    /// Events that were read and not sent yet.
    queue: VecDeque<Event>,
    /// Whether there were no more events when they were read last.
    is_caught_up: bool,
    /// Retries that were read and not sent yet.
    retries: VecDeque<DeliveryRecord>,
    /// Positions of retries that were read and whose result is not recorded yet.
    open_retries: HashSet<i64>,
    /// When the next retry is due, in milliseconds since the Unix epoch. `None` while there are open
    /// retries.
    next_retry: Option<i64>,
    /// Whether a retry was sent last; retries and events alternate.
    was_retry: bool,
    attempts: FuturesUnordered<BoxFuture<'w, Finished>>,
    /// Positions of the deliveries in `attempts`.
    under_way: HashSet<i64>,
    /// Maximum number of concurrent attempts now.
    window: usize,
    is_suspect: bool,
    recording: Option<BoxFuture<'w, Recorded>>,
    /// Nothing is read or recorded before this time, because the database failed.
    paused_until: Option<Instant>,
    /// Deliveries to which the endpoint answered 410: the webhook must be disabled.
    gone: Vec<DeliveryRecord>,
}

/// Removes the status of an endpoint when its worker ends.
struct StatusGuard<'w>(&'w Worker, osproxy_types::uid::Uid);

impl Drop for StatusGuard<'_> {
    fn drop(&mut self) {
        self.0.ops.metrics.set_status(self.1, None);
    }
}

impl Worker {
    /// Delivers until the worker is stopped, or the endpoint wants no more events.
    pub(super) async fn run(&self, webhook: WebhookRecord) -> Result<()> {
        let _status = StatusGuard(self, webhook.id);
        let filter = WebhookFilter::parse(&webhook.filters)?;
        let mut run = Run {
            worker: self,
            filter,
            progress: Progress::new(&webhook),
            queue: VecDeque::new(),
            is_caught_up: false,
            retries: VecDeque::new(),
            open_retries: HashSet::new(),
            next_retry: self.ops.meta.webhooks.next_retry(webhook.id).await?,
            was_retry: false,
            attempts: FuturesUnordered::new(),
            under_way: HashSet::new(),
            window: 1,
            is_suspect: webhook.failures > 0,
            recording: None,
            paused_until: None,
            gone: Vec::new(),
            webhook: Arc::new(webhook),
        };
        let mut version = self.version.clone();
        loop {
            if !run.gone.is_empty() && run.disable().await? {
                return Ok(());
            }
            if let Err(error) = run.advance().await {
                run.pause("cannot read events for a webhook", &error);
            }
            run.report_status();
            let timer = run.next_timer();
            tokio::select! {
                () = self.stop.cancelled() => {
                    run.finish().await;
                    return Ok(());
                }
                Some(finished) = run.attempts.next() => run.complete(finished),
                recorded = async { match &mut run.recording {
                    Some(recording) => recording.await,
                    None => std::future::pending().await,
                } } => {
                    if !run.after_recording(recorded) && !run.reload().await? {
                        return Ok(());
                    }
                }
                () = self.wake.notified() => run.is_caught_up = false,
                Ok(()) = version.changed() => {
                    if !run.reload().await? {
                        return Ok(());
                    }
                }
                () = tokio::time::sleep_until(timer) => {}
            }
        }
    }
}

/// Host and port of a webhook. The rest of its URL may be secret.
fn host(webhook: &WebhookRecord) -> String {
    let authority = webhook.url.split("://").nth(1).unwrap_or_default();
    authority.split(['/', '?']).next().unwrap_or_default().to_owned()
}

impl Run<'_> {
    fn now(&self) -> i64 {
        self.worker.ops.meta.now_ms()
    }

    /// Reads what is needed, starts attempts, and starts to record results.
    async fn advance(&mut self) -> Result<()> {
        if self.paused_until.is_some_and(|until| Instant::now() < until) {
            return Ok(());
        }
        self.paused_until = None;
        self.start_recording();
        self.read_retries().await?;
        self.read_events().await?;
        while self.attempts.len() < self.allowed_attempts() {
            let Some(work) = self.next_work() else { break };
            self.start_attempt(work);
        }
        Ok(())
    }

    /// Waits before the database is used again.
    fn pause(&mut self, what: &str, error: &crate::Error) {
        tracing::warn!(webhook = self.webhook.id.get(), error = error_chain(error), "{what}");
        self.paused_until = Some(Instant::now() + DATABASE_PAUSE);
    }

    /// Maximum number of concurrent attempts now.
    fn allowed_attempts(&self) -> usize {
        if self.progress.unrecorded() >= MAX_UNRECORDED || !self.gone.is_empty() {
            return 0;
        }
        match self.progress.retry_at {
            Some(at) if self.now() < at => 0,
            // One attempt, to see whether the endpoint is back.
            Some(_) => 1,
            None => self.window,
        }
    }

    /// Reads events into the empty queue. Goes on until there are some that the webhook gets, so that
    /// many others do not hold it up.
    async fn read_events(&mut self) -> Result<()> {
        while self.queue.is_empty() && !self.is_caught_up {
            let filter = self.filter.of_tenant(&self.webhook.tenant);
            let page = self.worker.ops.meta.events.after(&filter, self.progress.cursor, PAGE).await?;
            // A resting endpoint holds one event, which tells how long its events have been waiting.
            let is_resting = self.allowed_attempts() == 0;
            for event in page.events {
                if !self.filter.matches(&event) {
                    continue;
                }
                let position = event.position;
                self.progress.open(position, event.created_at);
                self.queue.push_back(event);
                if is_resting {
                    self.progress.read_up_to(position);
                    return Ok(());
                }
            }
            self.is_caught_up = !page.has_more;
            self.progress.read_up_to(page.position);
        }
        Ok(())
    }

    /// Reads due retries, unless there are open ones.
    async fn read_retries(&mut self) -> Result<()> {
        let now = self.now();
        let is_due = self.next_retry.is_some_and(|at| at <= now);
        // The rows do not show results that are being recorded.
        if !is_due || self.recording.is_some() || self.allowed_attempts() == 0 {
            return Ok(());
        }
        let due = self.worker.ops.meta.webhooks.due_retries(self.webhook.id, now, RETRY_PAGE).await?;
        if due.is_empty() {
            self.next_retry = self.worker.ops.meta.webhooks.next_retry(self.webhook.id).await?;
            return Ok(());
        }
        let due = due.into_iter().filter(|retry| {
            !self.under_way.contains(&retry.position)
                && !self.progress.is_unrecorded(retry.position)
                && !self.progress.is_open(retry.position)
        });
        self.retries = due.collect();
        self.open_retries = self.retries.iter().map(|retry| retry.position).collect();
        // If their results are not recorded yet, look again later.
        self.next_retry = self.open_retries.is_empty().then(|| now + millis(BATCH_DELAY));
        Ok(())
    }

    /// Returns what to send next. Retries and events take turns.
    fn next_work(&mut self) -> Option<Work> {
        let retry_first = !self.was_retry || self.queue.is_empty();
        if retry_first && let Some(retry) = self.retries.pop_front() {
            self.was_retry = true;
            return Some(Work::Retry(retry));
        }
        self.was_retry = false;
        self.queue.pop_front().map(Work::Event)
    }

    fn start_attempt(&mut self, work: Work) {
        let (worker, webhook, is_suspect) = (self.worker, self.webhook.clone(), self.is_suspect);
        let secrets = signing_secrets(&webhook, self.now());
        self.under_way.insert(match &work {
            Work::Event(event) => event.position,
            Work::Retry(retry) => retry.position,
        });
        let attempt = async move {
            let (delivery, is_retry, event) = match work {
                Work::Event(event) => (new_delivery(&event), false, Ok(Some(event))),
                Work::Retry(retry) => {
                    let filter = EventFilter { tenant: Some(webhook.tenant.clone()), kinds: Vec::new() };
                    let page = worker.ops.meta.events.after(&filter, retry.position - 1, 1).await;
                    let found = page.map(|page| page.events.into_iter().next());
                    let position = retry.position;
                    let found = found.map(|event| event.filter(|event| event.position == position));
                    (retry, true, found)
                }
            };
            let result = match event {
                Ok(Some(event)) => worker.send(&event, &webhook, &secrets, is_suspect).await,
                Ok(None) => Err(Unsent::Never("the event is not kept any more")),
                Err(error) => {
                    let webhook = webhook.id.get();
                    tracing::warn!(webhook, error = error_chain(&error), "cannot read an event");
                    Err(Unsent::NotNow)
                }
            };
            Finished { delivery, is_retry, version: webhook.version, result }
        };
        self.attempts.push(attempt.boxed());
    }

    /// Takes the result of an attempt.
    fn complete(&mut self, finished: Finished) {
        let Finished { mut delivery, is_retry, version, result } = finished;
        self.under_way.remove(&delivery.position);
        let now = self.now();
        let attempt = match result {
            Ok(attempt) => attempt,
            Err(Unsent::NotNow) => {
                // The row stays as it is, and is due again.
                self.open_retries.remove(&delivery.position);
                self.next_retry = self.open_retries.is_empty().then_some(now + millis(DATABASE_PAUSE));
                return;
            }
            Err(Unsent::Never(reason)) => {
                delivery.state = DeliveryState::Dead;
                delivery.next_at = None;
                delivery.attempted_at = now;
                delivery.error = Some(reason.to_owned());
                self.worker.ops.metrics.count(DeliveryOutcome::Dead, Duration::ZERO);
                return self.progress.close(delivery);
            }
        };
        delivery.attempts += 1;
        delivery.attempted_at = now;
        delivery.status = attempt.status;
        delivery.duration_ms = u32::try_from(attempt.duration.as_millis()).unwrap_or(u32::MAX);
        delivery.error.clone_from(&attempt.error);
        let retry_after = attempt.retry_after.unwrap_or_default();
        let delay = match attempt.outcome {
            SendOutcome::Delivered => None,
            _ => schedule::retry_delay(delivery.attempts).map(|delay| delay.max(retry_after)),
        };
        delivery.next_at = delay.map(|delay| now + millis(delay));
        let (state, counted) = match (attempt.is_delivered(), delay) {
            (true, _) => (DeliveryState::Delivered, DeliveryOutcome::Delivered),
            (false, Some(_)) => (DeliveryState::Retrying, DeliveryOutcome::Failed),
            (false, None) => (DeliveryState::Dead, DeliveryOutcome::Dead),
        };
        delivery.state = state;
        tracing::debug!(
            webhook = self.webhook.id.get(),
            position = delivery.position,
            is_retry,
            status = delivery.status,
            error = delivery.error,
            "attempted a delivery"
        );
        // The result says nothing about an endpoint that was changed meanwhile.
        let is_current = version == self.webhook.version;
        if is_current && attempt.outcome == SendOutcome::Gone {
            return if self.is_disabled() { self.close_gone(delivery) } else { self.gone.push(delivery) };
        }
        self.worker.ops.metrics.count(counted, attempt.duration);
        self.progress.close(delivery);
        if is_current {
            self.adapt(&attempt, now);
        }
    }

    /// Whether this worker has disabled the webhook.
    fn is_disabled(&self) -> bool {
        self.webhook.state == WebhookState::Disabled
    }

    /// Takes the result of an attempt to which the endpoint answered 410.
    fn close_gone(&mut self, mut delivery: DeliveryRecord) {
        if self.is_disabled() {
            (delivery.state, delivery.next_at) = (DeliveryState::Dead, None);
        }
        let is_dead = delivery.state == DeliveryState::Dead;
        let counted = if is_dead { DeliveryOutcome::Dead } else { DeliveryOutcome::Failed };
        self.worker.ops.metrics.count(counted, Duration::from_millis(delivery.duration_ms.into()));
        self.progress.close(delivery);
    }

    /// Disables the webhook, because its endpoint has answered 410. If somebody has changed the
    /// webhook meanwhile, its deliveries are repeated instead. Returns whether this worker must end.
    async fn disable(&mut self) -> Result<bool> {
        const REASON: &str = "the endpoint answered 410 Gone";
        let (id, version) = (self.webhook.id, self.webhook.version);
        if self.worker.ops.meta.webhooks.disable(id, version, REASON).await? {
            Arc::make_mut(&mut self.webhook).state = WebhookState::Disabled;
        }
        for delivery in std::mem::take(&mut self.gone) {
            self.close_gone(delivery);
        }
        if !self.is_disabled() {
            return Ok(!self.reload().await?);
        }
        self.finish().await;
        tracing::warn!(webhook = id.get(), host = host(&self.webhook), reason = REASON, "disabled a webhook");
        Ok(true)
    }

    /// Adapts the window and the backoff to the result of an attempt.
    fn adapt(&mut self, attempt: &SendReport, now: i64) {
        self.is_suspect = !attempt.is_delivered() || attempt.duration > SLOW;
        if attempt.is_delivered() {
            self.window = (self.window + 1).min(self.worker.ops.settings.max_concurrency);
            self.progress.failures = 0;
            self.progress.retry_at = None;
            return;
        }
        if attempt.is_about_event() {
            return;
        }
        self.window = (self.window / 2).max(1);
        if self.progress.retry_at.is_some_and(|at| now < at) {
            // It began before the endpoint backed off.
            return;
        }
        self.progress.failures = self.progress.failures.saturating_add(1);
        let backoff = schedule::backoff(self.progress.failures, attempt.outcome);
        if let Some(pause) = backoff.max(attempt.retry_after.filter(|delay| !delay.is_zero())) {
            let at = now + millis(pause);
            if self.progress.retry_at.is_none() {
                let (webhook, error) = (self.webhook.id.get(), &attempt.error);
                let host = host(&self.webhook);
                tracing::warn!(webhook, host, error, "an endpoint fails; its events wait");
            }
            self.progress.retry_at = Some(at);
        }
    }

    /// Starts to record results, if there are enough or they have waited long enough.
    fn start_recording(&mut self) {
        if self.recording.is_some() || !self.progress.is_due(Instant::now()) {
            return;
        }
        let (rows, progress) = self.progress.take();
        let (meta, id) = (self.worker.ops.meta.clone(), self.webhook.id);
        let recording = async move {
            let recorded = meta.webhooks.record(id, progress, rows.clone()).await;
            Recorded { rows, position: progress.position, result: recorded.map_err(crate::Error::from) }
        };
        self.recording = Some(recording.boxed());
    }

    /// Takes the result of recording. Returns `false` if somebody has set the position.
    fn after_recording(&mut self, Recorded { rows, position, result }: Recorded) -> bool {
        self.recording = None;
        let is_current = match result {
            Ok(is_current) => is_current,
            Err(error) => {
                self.progress.put_back(rows);
                self.pause("cannot record deliveries of a webhook", &error);
                return true;
            }
        };
        let had_retries = !self.open_retries.is_empty();
        for row in &rows {
            self.open_retries.remove(&row.position);
        }
        if self.open_retries.is_empty() {
            let next = rows.iter().filter_map(|row| row.next_at).min();
            // There may be more that are due.
            let more = had_retries.then(|| self.now());
            self.next_retry = [self.next_retry, next, more].into_iter().flatten().min();
        }
        self.progress.recorded(position, rows.len());
        is_current
    }

    /// Reads the webhook again. Returns `false` if this worker must end.
    async fn reload(&mut self) -> Result<bool> {
        let found = self.worker.ops.meta.webhooks.find(self.webhook.id).await?;
        let usable = found.filter(|webhook| {
            webhook.state == WebhookState::Enabled && webhook.tenant == self.webhook.tenant
        });
        let Some(webhook) = usable else {
            self.finish().await;
            return Ok(false);
        };
        self.filter = WebhookFilter::parse(&webhook.filters)?;
        if webhook.epoch != self.webhook.epoch {
            self.queue.clear();
            self.progress.set_position(&webhook);
        }
        self.progress.failures = webhook.failures;
        self.progress.retry_at = webhook.retry_at;
        self.is_caught_up = false;
        if self.open_retries.is_empty() {
            self.next_retry = self.worker.ops.meta.webhooks.next_retry(webhook.id).await?;
        }
        self.webhook = Arc::new(webhook);
        Ok(true)
    }

    /// Returns when `advance` has something to do, if nothing else happens before.
    fn next_timer(&self) -> Instant {
        if let Some(until) = self.paused_until {
            return until;
        }
        let (now, instant) = (self.now(), Instant::now());
        let resting_until = self.progress.retry_at.filter(|until| now < *until);
        // Whatever else ends also leads to `advance`.
        let is_waiting = self.recording.is_some() || !self.open_retries.is_empty();
        let next_attempt = resting_until.or(self.next_retry.filter(|_| !is_waiting));
        let next_attempt =
            next_attempt.map(|at| instant + Duration::from_millis((at - now).max(0).unsigned_abs()));
        let record = self.progress.due_at().filter(|_| self.recording.is_none());
        [next_attempt, record].into_iter().flatten().fold(instant + IDLE, Ord::min)
    }

    fn report_status(&self) {
        let status = EndpointStatus {
            waiting_since: self.progress.oldest_open(),
            is_backing_off: self.progress.retry_at.is_some(),
        };
        self.worker.ops.metrics.set_status(self.webhook.id, Some(status));
    }

    /// Waits for the attempts that are under way, and records their results.
    async fn finish(&mut self) {
        let ending = async {
            while let Some(finished) = self.attempts.next().await {
                self.complete(finished);
            }
        };
        // Attempts that take longer are repeated by the next worker.
        let _ = tokio::time::timeout(FINISH_TIMEOUT, ending).await;
        let recording = async {
            if let Some(recording) = self.recording.take() {
                let recorded = recording.await;
                self.after_recording(recorded);
            }
            let (rows, progress) = self.progress.take();
            if let Err(error) = self.worker.ops.meta.webhooks.record(self.webhook.id, progress, rows).await {
                let webhook = self.webhook.id.get();
                tracing::warn!(webhook, error = error_chain(&error), "cannot record the last deliveries");
            }
        };
        let _ = tokio::time::timeout(FINISH_TIMEOUT, recording).await;
    }
}

impl Worker {
    async fn send(
        &self,
        event: &Event,
        webhook: &WebhookRecord,
        secrets: &[WebhookSecret],
        is_suspect: bool,
    ) -> Result<SendReport, Unsent> {
        let message =
            message::of_event(event).map_err(|_| Unsent::Never("the event has no valid payload"))?;
        let _slot = self.slots.acquire(&webhook.tenant, is_suspect).await;
        Ok(self.ops.client.send(&webhook.tenant, &webhook.url, secrets, &message).await)
    }
}

/// Returns the delivery of an event before its first attempt.
fn new_delivery(event: &Event) -> DeliveryRecord {
    DeliveryRecord {
        position: event.position,
        kind: event.kind.clone(),
        uid: event.uid,
        state: DeliveryState::Retrying,
        attempts: 0,
        next_at: None,
        attempted_at: event.created_at,
        status: None,
        duration_ms: 0,
        error: None,
    }
}
