//! How far a webhook has come, and the results that are not recorded yet.

use std::collections::BTreeMap;

use osproxy_meta::{DeliveryRecord, DeliveryState, WebhookProgress, WebhookRecord};
use tokio::time::Instant;

use super::{BATCH, BATCH_DELAY, POSITION_DELAY};

/// The position of a webhook with everything that it depends on.
pub(super) struct Progress {
    epoch: i32,
    /// Every event up to it was read.
    pub(super) cursor: i64,
    /// The position that is recorded.
    recorded: i64,
    /// Position and time of the events that were read and have no result yet.
    open: BTreeMap<i64, i64>,
    /// Results that are not recorded yet.
    done: Vec<DeliveryRecord>,
    /// Number of results that are being recorded.
    in_record: usize,
    /// Since when there is something to record.
    since: Option<Instant>,
    /// Failed attempts since the latest successful one.
    pub(super) failures: u32,
    /// Nothing is sent before this time, in milliseconds since the Unix epoch.
    pub(super) retry_at: Option<i64>,
}

impl Progress {
    pub(super) fn new(webhook: &WebhookRecord) -> Self {
        Self {
            epoch: webhook.epoch,
            cursor: webhook.position,
            recorded: webhook.position,
            open: BTreeMap::new(),
            done: Vec::new(),
            in_record: 0,
            since: None,
            failures: webhook.failures,
            retry_at: webhook.retry_at,
        }
    }

    /// Goes to the position that somebody has set.
    pub(super) fn set_position(&mut self, webhook: &WebhookRecord) {
        (self.epoch, self.cursor, self.recorded) = (webhook.epoch, webhook.position, webhook.position);
        self.open.clear();
    }

    /// An event was read that the webhook gets.
    pub(super) fn open(&mut self, position: i64, created_at: i64) {
        self.open.insert(position, created_at);
    }

    /// All events up to `position` were read.
    pub(super) fn read_up_to(&mut self, position: i64) {
        self.cursor = self.cursor.max(position);
        self.touch();
    }

    /// A delivery has a result.
    pub(super) fn close(&mut self, delivery: DeliveryRecord) {
        self.open.remove(&delivery.position);
        self.add(delivery);
        self.touch();
    }

    /// Adds a result, or replaces an earlier one of the same event: one statement inserts all rows,
    /// and may contain each row once. An event can have two results if it is replayed while it is
    /// repeated.
    fn add(&mut self, delivery: DeliveryRecord) {
        match self.done.iter_mut().find(|earlier| earlier.position == delivery.position) {
            Some(earlier) if earlier.state == DeliveryState::Delivered => {}
            Some(earlier) => *earlier = delivery,
            None => self.done.push(delivery),
        }
    }

    /// Whether the event at `position` was read and has no result yet.
    pub(super) fn is_open(&self, position: i64) -> bool {
        self.open.contains_key(&position)
    }

    fn touch(&mut self) {
        if self.since.is_none() && self.has_changed() {
            self.since = Some(Instant::now());
        }
    }

    fn has_changed(&self) -> bool {
        !self.done.is_empty() || self.position() > self.recorded
    }

    /// Every event up to this position has a result.
    fn position(&self) -> i64 {
        self.open.first_key_value().map_or(self.cursor, |(first, _)| first - 1)
    }

    /// Time of the oldest event without a result, in milliseconds since the Unix epoch.
    pub(super) fn oldest_open(&self) -> Option<i64> {
        self.open.first_key_value().map(|(_, created_at)| *created_at)
    }

    /// Number of results that are not recorded yet.
    pub(super) fn unrecorded(&self) -> usize {
        self.done.len() + self.in_record
    }

    /// Whether the delivery of the event at `position` has a result that is not recorded yet. Does not
    /// know results that are being recorded.
    pub(super) fn is_unrecorded(&self, position: i64) -> bool {
        self.done.iter().any(|delivery| delivery.position == position)
    }

    /// When there is something to record at the latest.
    pub(super) fn due_at(&self) -> Option<Instant> {
        let delay = if self.done.is_empty() { POSITION_DELAY } else { BATCH_DELAY };
        self.since.map(|since| since + delay)
    }

    /// Whether there is enough to record, or it has waited long enough.
    pub(super) fn is_due(&self, now: Instant) -> bool {
        self.done.len() >= BATCH || self.due_at().is_some_and(|at| at <= now)
    }

    /// Takes what is to be recorded in one transaction.
    pub(super) fn take(&mut self) -> (Vec<DeliveryRecord>, WebhookProgress) {
        let rows = std::mem::take(&mut self.done);
        self.in_record = rows.len();
        self.since = None;
        let (position, failures, retry_at) = (self.position(), self.failures, self.retry_at);
        (rows, WebhookProgress { epoch: self.epoch, position, failures, retry_at })
    }

    /// What was taken is recorded.
    pub(super) fn recorded(&mut self, position: i64, rows: usize) {
        self.recorded = self.recorded.max(position);
        self.in_record = self.in_record.saturating_sub(rows);
        self.touch();
    }

    /// What was taken could not be recorded.
    pub(super) fn put_back(&mut self, rows: Vec<DeliveryRecord>) {
        self.in_record = 0;
        let later = std::mem::replace(&mut self.done, rows);
        for delivery in later {
            self.add(delivery);
        }
        self.touch();
    }
}

#[cfg(test)]
mod tests {
    use osproxy_meta::WebhookState;
    use osproxy_types::{tenant::Tenant, uid::Uid};

    use super::*;

    fn webhook(position: i64, epoch: i32) -> WebhookRecord {
        WebhookRecord {
            id: Uid::from_db(1),
            tenant: Tenant::default(),
            config_name: None,
            url: String::new(),
            secret: Vec::new(),
            previous_secret: None,
            filters: "{}".to_owned(),
            state: WebhookState::Enabled,
            reason: None,
            position,
            epoch,
            version: 0,
            failures: 0,
            retry_at: None,
            created_at: 0,
        }
    }

    fn delivery(position: i64) -> DeliveryRecord {
        DeliveryRecord {
            position,
            kind: String::new(),
            uid: None,
            state: DeliveryState::Delivered,
            attempts: 1,
            next_at: None,
            attempted_at: 0,
            status: None,
            duration_ms: 0,
            error: None,
        }
    }

    /// Records, and returns the position.
    fn record(progress: &mut Progress) -> i64 {
        let (rows, taken) = progress.take();
        progress.recorded(taken.position, rows.len());
        taken.position
    }

    #[tokio::test(start_paused = true)]
    async fn a_position_is_never_ahead_of_an_event_without_a_result() {
        let mut progress = Progress::new(&webhook(10, 0));
        assert!(!progress.has_changed());
        for position in [12, 13, 15] {
            progress.open(position, position * 1000);
        }
        progress.read_up_to(17);
        // Event 11 is of another tenant.
        assert_eq!((record(&mut progress), progress.oldest_open()), (11, Some(12_000)));
        progress.close(delivery(13));
        assert_eq!(record(&mut progress), 11);
        progress.close(delivery(12));
        assert_eq!(record(&mut progress), 14);
        progress.close(delivery(15));
        let (rows, taken) = progress.take();
        assert_eq!((rows.len(), taken.position, progress.oldest_open()), (1, 17, None));
        // The transaction fails; the results are not lost.
        progress.close(delivery(18));
        progress.put_back(rows);
        assert_eq!(progress.unrecorded(), 2);
        assert_eq!(record(&mut progress), 17);
        assert_eq!((progress.unrecorded(), progress.has_changed()), (0, false));
        progress.set_position(&webhook(3, 1));
        assert_eq!(progress.take().1.epoch, 1);
        assert_eq!((progress.cursor, record(&mut progress)), (3, 3));
    }

    #[tokio::test(start_paused = true)]
    async fn an_event_has_one_result() {
        let mut progress = Progress::new(&webhook(10, 0));
        progress.open(13, 0);
        assert!(progress.is_open(13));
        let failed = DeliveryRecord { state: DeliveryState::Retrying, ..delivery(13) };
        progress.close(failed.clone());
        progress.close(delivery(13));
        progress.close(failed.clone());
        let (rows, _) = progress.take();
        assert_eq!((rows.len(), rows[0].state), (1, DeliveryState::Delivered));
        progress.close(failed);
        progress.put_back(rows);
        let (rows, _) = progress.take();
        assert_eq!((rows.len(), rows[0].state), (1, DeliveryState::Delivered));
    }

    #[tokio::test(start_paused = true)]
    async fn results_wait_for_more_for_a_moment() {
        let mut progress = Progress::new(&webhook(0, 0));
        assert_eq!(progress.due_at(), None);
        progress.read_up_to(5);
        assert_eq!(progress.due_at(), Some(Instant::now() + POSITION_DELAY));
        progress.close(delivery(3));
        assert_eq!(progress.due_at(), Some(Instant::now() + BATCH_DELAY));
        assert!(!progress.is_due(Instant::now()));
        assert!(progress.is_due(Instant::now() + BATCH_DELAY));
        for position in 6..6 + 64 {
            progress.close(delivery(position));
        }
        assert!(progress.is_due(Instant::now()));
    }
}
