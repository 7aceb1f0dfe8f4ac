//! Webhooks and their deliveries.

use std::slice::from_ref;

use osproxy_types::tenant::Tenant;

use super::uid;
use crate::{
    AttemptResult, DeliveryRecord, DeliveryState, Meta, MetaError, NewTask, TaskKind, WebhookChanges,
    WebhookProgress, WebhookRecord, WebhookState,
};

const FIRST: i64 = 70_000_000;
const HOUR: i64 = 3_600_000;
const DELIVER: TaskKind = TaskKind::DeliverWebhooks;

pub(super) async fn run(meta: &Meta) {
    webhooks_of_a_tenant_are_limited_and_listed(meta).await;
    a_change_applies_to_the_version_it_was_made_for(meta).await;
    a_secret_signs_until_its_rotation_has_ended(meta).await;
    configured_webhooks_have_unique_names(meta).await;
    a_position_only_grows_in_its_epoch(meta).await;
    deliveries_are_listed_and_repeated(meta).await;
    old_deliveries_are_purged(meta).await;
}

fn webhook(number: i64, tenant: &str) -> WebhookRecord {
    WebhookRecord {
        id: uid(FIRST + number),
        tenant: Tenant::from_db(tenant),
        config_name: None,
        url: "https://example.org/hook".to_owned(),
        secret: vec![1; 32],
        previous_secret: None,
        filters: "{}".to_owned(),
        state: WebhookState::Enabled,
        reason: None,
        position: 10,
        epoch: 0,
        version: 0,
        failures: 0,
        retry_at: None,
        created_at: 5,
    }
}

fn delivery(position: i64, state: DeliveryState) -> DeliveryRecord {
    DeliveryRecord {
        position,
        kind: "file.completed".to_owned(),
        uid: Some(uid(FIRST)),
        state,
        attempts: 1,
        next_at: None,
        attempted_at: position * 1000,
        status: Some(204),
        duration_ms: 7,
        error: None,
    }
}

fn retry(position: i64, next_at: i64) -> DeliveryRecord {
    let error = Some("the endpoint answered 500".to_owned());
    let failed = delivery(position, DeliveryState::Retrying);
    DeliveryRecord { next_at: Some(next_at), status: Some(500), error, ..failed }
}

async fn create(meta: &Meta, number: i64, tenant: &str) -> WebhookRecord {
    let new = webhook(number, tenant);
    assert!(meta.webhooks.create(new.clone(), 100).await.unwrap());
    new
}

async fn find(meta: &Meta, number: i64) -> WebhookRecord {
    meta.webhooks.find(uid(FIRST + number)).await.unwrap().unwrap()
}

async fn webhooks_of_a_tenant_are_limited_and_listed(meta: &Meta) {
    let first = create(meta, 1, "hooked").await;
    let retrying = WebhookRecord {
        filters: r#"{"types":["file.completed"]}"#.to_owned(),
        previous_secret: Some((vec![2; 64], 99)),
        state: WebhookState::Disabled,
        reason: Some("tired".to_owned()),
        failures: 3,
        retry_at: Some(77),
        ..webhook(2, "hooked")
    };
    assert!(meta.webhooks.create(retrying.clone(), 2).await.unwrap());
    assert!(!meta.webhooks.create(webhook(3, "hooked"), 2).await.unwrap());
    let other = webhook(4, "other");
    assert!(meta.webhooks.create(other.clone(), 1).await.unwrap());
    let hooked = Tenant::from_db("hooked");
    let list = async |before, limit| meta.webhooks.list(Some(&hooked), before, limit).await.unwrap();
    assert_eq!(list(None, 10).await, [retrying.clone(), first.clone()]);
    assert_eq!(list(None, 1).await, [retrying]);
    assert_eq!(list(Some(uid(FIRST + 2)), 10).await, from_ref(&first));
    assert_eq!(meta.webhooks.list(None, None, 10).await.unwrap().len(), 3);
    let mut enabled = meta.webhooks.enabled().await.unwrap();
    enabled.sort_unstable_by_key(|(id, _)| id.get());
    assert_eq!(enabled, [(first.id, 0), (other.id, 0)]);
    for number in [1, 2, 4] {
        assert!(meta.webhooks.delete(uid(FIRST + number)).await.unwrap());
    }
    assert!(!meta.webhooks.delete(first.id).await.unwrap());
    assert_eq!(meta.webhooks.find(first.id).await.unwrap(), None);
}

async fn a_change_applies_to_the_version_it_was_made_for(meta: &Meta) {
    let resting = WebhookRecord { failures: 9, retry_at: Some(5), ..webhook(10, "hooked") };
    assert!(meta.webhooks.create(resting.clone(), 100).await.unwrap());
    let filters = WebhookChanges { filters: Some("new".to_owned()), ..WebhookChanges::default() };
    let state = WebhookChanges { state: Some(WebhookState::Disabled), ..WebhookChanges::default() };
    let id = resting.id;
    // Two callers change the version that both have read: one of them has to read again.
    let (first, second) = tokio::join!(
        meta.webhooks.update(id, 0, filters.clone()),
        meta.webhooks.update(id, 0, state.clone())
    );
    let (first, second) = (first.unwrap(), second.unwrap());
    assert!(first != second, "{first} {second}");
    let again = if first { state } else { filters };
    assert!(!meta.webhooks.update(id, 2, again.clone()).await.unwrap());
    assert!(meta.webhooks.update(id, 1, again).await.unwrap());
    let changed = find(meta, 10).await;
    assert_eq!(
        (changed.filters.as_str(), changed.state, changed.version),
        ("new", WebhookState::Disabled, 2)
    );
    assert_eq!((changed.failures, changed.retry_at), (0, None));

    let url = WebhookChanges {
        url: Some("https://example.org/new".to_owned()),
        state: Some(WebhookState::Enabled),
        ..WebhookChanges::default()
    };
    assert!(meta.webhooks.update(id, 2, url).await.unwrap());
    // The endpoint at the earlier URL has answered.
    assert!(!meta.webhooks.disable(id, 2, "gone").await.unwrap());
    assert!(meta.webhooks.disable(id, 3, "gone").await.unwrap());
    assert!(!meta.webhooks.disable(id, 4, "gone").await.unwrap(), "it is disabled");
    let disabled = find(meta, 10).await;
    assert_eq!((disabled.state, disabled.reason.as_deref()), (WebhookState::Disabled, Some("gone")));
    assert_eq!((disabled.url.as_str(), disabled.version), ("https://example.org/new", 4));
    assert!(meta.webhooks.delete(id).await.unwrap());
    assert!(!meta.webhooks.update(id, 4, WebhookChanges::default()).await.unwrap());
}

async fn a_secret_signs_until_its_rotation_has_ended(meta: &Meta) {
    let id = create(meta, 20, "hooked").await.id;
    let (now, secret) = (meta.now_ms(), |byte| vec![byte; 32]);
    let rotate = async |byte, until| meta.webhooks.rotate_secret(id, secret(byte), until).await.unwrap();
    assert!(rotate(2, now + HOUR).await);
    let rotated = find(meta, 20).await;
    assert_eq!((rotated.secret, rotated.version), (secret(2), 1));
    assert_eq!(rotated.previous_secret, Some((secret(1), now + HOUR)));
    assert!(!rotate(3, now + 2 * HOUR).await, "the first secret still signs");
    assert_eq!(find(meta, 20).await.secret, secret(2));
    // This ends all earlier secrets.
    assert!(rotate(4, now).await);
    assert_eq!(find(meta, 20).await.previous_secret, Some((secret(2), now)));
    assert!(rotate(5, now + HOUR).await);
    assert_eq!(find(meta, 20).await.previous_secret, Some((secret(4), now + HOUR)));
    assert!(meta.webhooks.delete(id).await.unwrap());
    assert!(!rotate(6, now).await);
}

async fn configured_webhooks_have_unique_names(meta: &Meta) {
    let wish = WebhookRecord { config_name: Some("billing".to_owned()), ..webhook(30, "hooked") };
    let task = NewTask { id: FIRST + 39, kind: DELIVER, payload: "{}".to_owned(), max_attempts: 1000 };
    meta.tasks.ensure_recurring(task, None).await.unwrap();
    let claimed = meta.tasks.claim(FIRST + 39, "one", HOUR).await.unwrap().unwrap();
    assert!(meta.tasks.end(&claimed, "one", AttemptResult::Repeat(HOUR)).await.unwrap());
    assert_eq!(meta.tasks.due(&[DELIVER], 10).await.unwrap(), []);
    meta.webhooks.configure(wish.clone()).await.unwrap();
    assert_eq!(meta.tasks.due(&[DELIVER], 10).await.unwrap(), [(FIRST + 39, DELIVER)]);
    meta.webhooks.configure(WebhookRecord { id: uid(FIRST + 31), ..wish.clone() }).await.unwrap();
    assert_eq!(meta.webhooks.configured().await.unwrap(), from_ref(&wish), "nothing has changed");
    let same_name = meta.webhooks.create(WebhookRecord { id: uid(FIRST + 32), ..wish.clone() }, 100).await;
    assert!(matches!(same_name, Err(MetaError::Conflict(_))), "{same_name:?}");
    let changed = WebhookRecord {
        id: uid(FIRST + 33),
        tenant: Tenant::from_db("other"),
        url: "https://example.org/new".to_owned(),
        secret: vec![9; 24],
        filters: "new".to_owned(),
        position: 99,
        ..wish.clone()
    };
    meta.webhooks.configure(changed.clone()).await.unwrap();
    let expected = WebhookRecord { id: wish.id, position: 10, version: 1, ..changed.clone() };
    assert_eq!(meta.webhooks.configured().await.unwrap(), from_ref(&expected));
    assert!(meta.webhooks.disable(wish.id, 1, "gone").await.unwrap());
    meta.webhooks.configure(changed).await.unwrap();
    assert_eq!(meta.webhooks.configured().await.unwrap(), [WebhookRecord { version: 3, ..expected }]);
    assert!(meta.webhooks.delete(wish.id).await.unwrap());
}

async fn a_position_only_grows_in_its_epoch(meta: &Meta) {
    let id = create(meta, 40, "hooked").await.id;
    let progress = |epoch, position| WebhookProgress { epoch, position, failures: 2, retry_at: Some(8) };
    let record = async |epoch, position| {
        meta.webhooks.record(id, progress(epoch, position), Vec::new()).await.unwrap()
    };
    let position = async || find(meta, 40).await.position;
    assert!(record(0, 15).await);
    let recorded = find(meta, 40).await;
    assert_eq!((recorded.position, recorded.failures, recorded.retry_at), (15, 2, Some(8)));
    assert_eq!(recorded.version, 0, "nobody has changed the webhook");
    assert!(!record(0, 14).await);
    assert!(!record(1, 20).await);
    assert_eq!(position().await, 15);
    // Somebody replays events, and somebody else skips some.
    for (epoch, to) in [(1, 3), (2, 30)] {
        assert!(meta.webhooks.set_position(id, to).await.unwrap());
        assert!(!record(epoch - 1, 40).await, "read before the position was set");
        let set = find(meta, 40).await;
        assert_eq!((set.position, set.epoch, set.version), (to, epoch, epoch));
        assert_eq!((set.failures, set.retry_at), (0, None));
    }
    assert!(record(2, 31).await);
    assert_eq!(position().await, 31);
    assert!(meta.webhooks.delete(id).await.unwrap());
    assert!(!record(2, 32).await);
    assert!(!meta.webhooks.set_position(id, 1).await.unwrap());
}

async fn deliveries_are_listed_and_repeated(meta: &Meta) {
    let id = create(meta, 50, "hooked").await.id;
    let other = create(meta, 51, "hooked").await.id;
    let progress = WebhookProgress { epoch: 0, position: 10, failures: 0, retry_at: None };
    // More rows than one statement inserts.
    let delivered: Vec<_> = (100..251).map(|position| delivery(position, DeliveryState::Delivered)).collect();
    assert!(meta.webhooks.record(id, progress, delivered.clone()).await.unwrap());
    let failed = vec![retry(20, 5000), retry(21, 3000), retry(22, 9000)];
    assert!(meta.webhooks.record(id, progress, failed.clone()).await.unwrap());
    assert!(meta.webhooks.record(other, progress, vec![retry(20, 1)]).await.unwrap());
    let list = async |state, before, limit| meta.webhooks.deliveries(id, state, before, limit).await.unwrap();
    let mut all = delivered;
    all.splice(0..0, failed.clone());
    all.reverse();
    assert_eq!(list(None, None, 1000).await, all);
    assert_eq!(list(None, Some(102), 3).await, [&all[149], &all[150], &all[151]].map(Clone::clone));
    assert_eq!(list(Some(DeliveryState::Retrying), None, 2).await, [failed[2].clone(), failed[1].clone()]);
    let [first, second, _] = &failed[..] else { panic!("{failed:?}") };
    let due = async |now, limit| meta.webhooks.due_retries(id, now, limit).await.unwrap();
    assert_eq!(due(5000, 10).await, [second.clone(), first.clone()]);
    assert_eq!(due(5000, 1).await, from_ref(second));
    assert_eq!(due(2999, 10).await, []);
    assert_eq!(meta.webhooks.next_retry(id).await.unwrap(), Some(3000));

    // Later results replace earlier ones.
    let long = Some("é\0".repeat(200));
    let dead = |position| DeliveryRecord { attempts: 10, ..delivery(position, DeliveryState::Dead) };
    let results =
        vec![dead(20), DeliveryRecord { error: long, ..dead(21) }, delivery(22, DeliveryState::Delivered)];
    assert!(meta.webhooks.record(id, progress, results).await.unwrap());
    assert_eq!(meta.webhooks.next_retry(id).await.unwrap(), None);
    let dead_ones = list(Some(DeliveryState::Dead), None, 10).await;
    assert_eq!(dead_ones.iter().map(|one| one.position).collect::<Vec<_>>(), [21, 20]);
    assert_eq!(dead_ones[0].error.as_deref(), Some("é".repeat(85).as_str()));
    assert_eq!(dead_ones[1], dead(20));
    assert_eq!(meta.webhooks.replay_dead(id, 1).await.unwrap(), 1);
    assert_eq!(meta.webhooks.replay_dead(id, 10).await.unwrap(), 1);
    assert_eq!(meta.webhooks.replay_dead(id, 10).await.unwrap(), 0);
    let due = due(i64::MAX, 10).await;
    assert!(due.iter().all(|one| one.attempts == 0 && one.state == DeliveryState::Retrying), "{due:?}");
    assert_eq!(due.len(), 2);
    assert_eq!(find(meta, 50).await.version, 3);
    for id in [id, other] {
        assert!(meta.webhooks.delete(id).await.unwrap());
    }
}

async fn old_deliveries_are_purged(meta: &Meta) {
    while meta.webhooks.purge_deliveries(i64::MAX, 1000).await.unwrap() > 0 {}
    let (one, two) = (uid(FIRST + 60), uid(FIRST + 61));
    let progress = WebhookProgress { epoch: 0, position: 10, failures: 0, retry_at: None };
    for id in [one, two] {
        let mut rows: Vec<_> = (1..=8).map(|position| delivery(position, DeliveryState::Delivered)).collect();
        rows[1] = delivery(2, DeliveryState::Dead);
        rows[2] = retry(3, 3500);
        rows[3] = retry(4, 90_000);
        meta.webhooks.record(id, progress, rows).await.unwrap();
    }
    let left = async |id| {
        let mut left = meta.webhooks.deliveries(id, None, None, 100).await.unwrap();
        left.reverse();
        left.into_iter().map(|one| one.position).collect::<Vec<_>>()
    };
    let delivered = async |attempted, limit| meta.webhooks.purge_delivered(attempted, limit).await.unwrap();
    assert_eq!(delivered(0..1000, 100).await, 0);
    assert_eq!(delivered(2000..6000, 1).await, 1);
    assert_eq!(left(one).await.len() + left(two).await.len(), 15);
    assert_eq!(delivered(2000..6000, 100).await, 1);
    for id in [one, two] {
        assert_eq!(left(id).await, [1, 2, 3, 4, 6, 7, 8], "dead ones and retries are kept");
    }
    // The oldest come first. Retries that are due later are kept.
    let old = async |before, limit| meta.webhooks.purge_deliveries(before, limit).await.unwrap();
    assert_eq!(old(7000, 2).await, 2);
    for id in [one, two] {
        assert_eq!(left(id).await, [2, 3, 4, 6, 7, 8]);
    }
    assert_eq!(old(7000, 100).await, 6);
    for id in [one, two] {
        assert_eq!(left(id).await, [4, 7, 8]);
    }
    assert_eq!(old(90_001, 100).await, 6);
}
