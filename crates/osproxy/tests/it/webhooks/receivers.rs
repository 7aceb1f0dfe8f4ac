//! What receivers do with messages, and what the service does then.

use std::sync::Arc;

use osproxy_api::v1::{WebhookDeliveries, WebhookDeliveryState, WebhookReplay, WebhookState};
use reqwest::Method;
use serde_json::json;
use tokio::sync::Semaphore;

use super::{
    create, create_for, deliveries, describe, is_signed, make_due, start, update, wait_for_delivery,
};
use crate::support::{Answer, Receiver, eventually, expect_json, expect_problem};

#[tokio::test]
async fn a_receiver_gets_signed_messages_about_its_events() {
    let service = start().await;
    let receiver = Receiver::start().await;
    let webhook = create(&service, &json!({"url": receiver.url()})).await;
    let secret = webhook.secret.clone().unwrap();
    let uid = service.store("a.txt", b"hello").await;
    let completed = receiver.wait_for_event("file.completed", &uid).await;
    assert!(is_signed(&completed, &secret));
    let mut forged = completed.clone();
    forged.body.push(b' ');
    assert!(!is_signed(&forged, &secret));
    assert_eq!(completed.headers["content-type"], "application/json");
    assert!(completed.headers["user-agent"].starts_with("osproxy/"));
    let (message, sequence) = (completed.json(), completed.sequence());
    assert_eq!(completed.id(), format!("evt_{sequence}"));
    assert_eq!((&message["data"]["name"], &message["data"]["size"]), (&json!("a.txt"), &json!(5)));
    assert_eq!(message["data"]["tenant"], "default");
    assert!(message["timestamp"].as_str().unwrap().ends_with('Z'), "{message}");
    let created = receiver.wait_for_event("file.created", &uid).await;
    assert!(created.sequence() < sequence);

    service.v1(Method::DELETE, &format!("/files/{uid}"), None).await;
    let deleted = receiver.wait_for_event("file.deleted", &uid).await;
    assert!(deleted.sequence() > sequence);
    let delivery = wait_for_delivery(&service, &webhook, &uid, |one| one.kind == "file.deleted").await;
    assert_eq!((delivery.state, delivery.attempts), (WebhookDeliveryState::Delivered, 1));
    assert_eq!((delivery.id, delivery.status), (deleted.id().to_owned(), Some(204)));
    assert_eq!(receiver.received().len(), 3);
    eventually("the position is recorded", async || {
        (describe(&service, &webhook).await.position >= deleted.sequence()).then_some(())
    })
    .await;
}

#[tokio::test]
async fn a_refused_message_is_sent_again_until_it_is_dead() {
    let service = start().await;
    let receiver = Receiver::start().await;
    let webhook = create_for(&service, &receiver).await;
    receiver.set_answer(Answer::Status(500, ""));
    let uid = service.store("a.txt", b"hello").await;
    let failed = wait_for_delivery(&service, &webhook, &uid, |_| true).await;
    assert_eq!(
        (failed.state, failed.attempts, failed.status),
        (WebhookDeliveryState::Retrying, 1, Some(500))
    );
    assert_eq!(failed.error.as_deref(), Some("the endpoint answered 500"));
    assert!(failed.next_attempt_at.is_some());
    // The first retry is due after 5 seconds.
    let again = wait_for_delivery(&service, &webhook, &uid, |one| one.attempts == 2).await;
    assert_eq!(again.state, WebhookDeliveryState::Retrying);
    let messages = receiver.received();
    assert_eq!(messages[0].id(), messages[1].id());
    assert_eq!(messages[0].body, messages[1].body);
    // Another event is delivered all the same.
    receiver.set_answer(Answer::Status(200, ""));
    let other = service.store("b.txt", b"hello").await;
    receiver.wait_for_event("file.completed", &other).await;

    receiver.set_answer(Answer::Status(503, ""));
    service.sql("UPDATE webhook_deliveries SET attempts = 9 WHERE state = 'retrying'").await;
    make_due(&service, &webhook).await;
    let dead = wait_for_delivery(&service, &webhook, &uid, |one| one.attempts == 10).await;
    assert_eq!((dead.state, &dead.next_attempt_at), (WebhookDeliveryState::Dead, &None));
    let route = format!("/webhooks/{}/deliveries?state=dead", webhook.id);
    let list: WebhookDeliveries = expect_json(service.v1_get(&route).await, 200).await;
    assert_eq!(list.deliveries, [dead]);

    receiver.set_answer(Answer::Status(200, ""));
    let route = format!("/webhooks/{}/replay", webhook.id);
    let replay: WebhookReplay =
        expect_json(service.v1_post(&route, &json!({"state": "dead"})).await, 200).await;
    assert_eq!(replay.deliveries, Some(1));
    receiver.wait_for_event("file.completed", &uid).await;
    let delivered =
        wait_for_delivery(&service, &webhook, &uid, |one| one.state == WebhookDeliveryState::Delivered).await;
    assert_eq!(delivered.attempts, 1);
    let replay: WebhookReplay =
        expect_json(service.v1_post(&route, &json!({"state": "dead"})).await, 200).await;
    assert_eq!(replay.deliveries, Some(0));
}

#[tokio::test]
async fn the_events_of_a_receiver_that_is_down_wait_without_rows() {
    const FILES: usize = 40;
    let service = start().await;
    let mut receiver = Receiver::start().await;
    let webhook = create_for(&service, &receiver).await;
    receiver.kill();
    let mut uids = Vec::new();
    for number in 0..3 {
        uids.push(service.store(&number.to_string(), b"x").await);
    }
    let resting = eventually("the endpoint rests", async || {
        Some(describe(&service, &webhook).await).filter(|webhook| webhook.retry_at.is_some())
    })
    .await;
    assert!(resting.failures >= 3, "{resting:?}");
    for number in 3..FILES {
        uids.push(service.store(&number.to_string(), b"x").await);
    }
    let rows = deliveries(&service, &webhook).await;
    assert!(!rows.is_empty() && rows.len() < 15, "{} rows", rows.len());
    assert!(rows.iter().all(|row| row.status.is_none() && row.error.is_some()), "{rows:?}");
    receiver.restart().await;
    for uid in &uids {
        receiver.wait_for_event("file.completed", uid).await;
    }
    let up = eventually("the endpoint works", async || {
        Some(describe(&service, &webhook).await).filter(|webhook| webhook.failures == 0)
    })
    .await;
    assert_eq!(up.retry_at, None);
}

#[tokio::test]
async fn receivers_that_hang_or_are_slow_hold_up_nobody_else() {
    let service = start().await;
    let (good, hanging, slow) = (Receiver::start().await, Receiver::start().await, Receiver::start().await);
    let permits = Arc::new(Semaphore::new(0));
    hanging.set_answer(Answer::Hang);
    slow.set_answer(Answer::Wait(permits.clone(), 204));
    let late = create_for(&service, &hanging).await;
    create_for(&service, &slow).await;
    create_for(&service, &good).await;
    for number in 0..30 {
        let uid = service.store(&number.to_string(), b"x").await;
        good.wait_for_event("file.completed", &uid).await;
    }
    let failed =
        eventually("the time-out is recorded", async || deliveries(&service, &late).await.pop()).await;
    assert_eq!((failed.status, failed.state), (None, WebhookDeliveryState::Retrying));
    assert_eq!(failed.error.as_deref(), Some("the endpoint did not answer in time"));
    assert!(hanging.received().len() <= 8, "{}", hanging.received().len());
    assert!(slow.received().len() <= 8, "{}", slow.received().len());
}

#[tokio::test]
async fn a_receiver_that_is_gone_is_disabled() {
    let service = start().await;
    let receiver = Receiver::start().await;
    let webhook = create_for(&service, &receiver).await;
    receiver.set_answer(Answer::Status(410, ""));
    let uid = service.store("a", b"x").await;
    let disabled = eventually("the webhook is disabled", async || {
        Some(describe(&service, &webhook).await).filter(|webhook| webhook.state == WebhookState::Disabled)
    })
    .await;
    assert_eq!(disabled.reason.as_deref(), Some("the endpoint answered 410 Gone"));
    let dead = wait_for_delivery(&service, &webhook, &uid, |_| true).await;
    assert_eq!((dead.state, dead.status), (WebhookDeliveryState::Dead, Some(410)));
    let later = service.store("b", b"x").await;
    receiver.set_answer(Answer::Status(200, ""));
    assert_eq!(receiver.received().len(), 1);
    let enabled = update(&service, &webhook, &json!({"state": "enabled"})).await;
    assert_eq!((enabled.state, enabled.reason), (WebhookState::Enabled, None));
    receiver.wait_for_event("file.completed", &later).await;
}

#[tokio::test]
async fn an_endpoint_that_was_replaced_meanwhile_is_not_disabled() {
    let service = start().await;
    let (old, new) = (Receiver::start().await, Receiver::start().await);
    let webhook = create_for(&service, &old).await;
    let permits = Arc::new(Semaphore::new(0));
    old.set_answer(Answer::Wait(permits.clone(), 410));
    let uid = service.store("a", b"x").await;
    old.wait_for(1).await;
    update(&service, &webhook, &json!({"url": new.url()})).await;
    permits.add_permits(1);
    // Its message is sent to the other one, by the first retry.
    new.wait_for_event("file.completed", &uid).await;
    let changed = describe(&service, &webhook).await;
    assert_eq!((changed.state, changed.reason), (WebhookState::Enabled, None));
    let later = service.store("b", b"x").await;
    new.wait_for_event("file.completed", &later).await;
    assert_eq!(old.received().len(), 1);
}

#[tokio::test]
async fn a_replay_after_a_position_that_is_ahead_skips_events() {
    let service = start().await;
    let receiver = Receiver::start().await;
    let webhook = create_for(&service, &receiver).await;
    let first = service.store("a", b"x").await;
    let position = receiver.wait_for_event("file.completed", &first).await.sequence();
    update(&service, &webhook, &json!({"state": "disabled"})).await;
    let skipped = service.store("b", b"x").await;
    let delivered = service.store("c", b"x").await;
    let replay = async |after: i64| {
        let route = format!("/webhooks/{}/replay", webhook.id);
        let replay = service.v1_post(&route, &json!({"after": after})).await;
        expect_json::<WebhookReplay>(replay, 200).await;
    };
    // Each file has two events.
    let uid = format!("SELECT uid FROM events WHERE id = {}", position + 2);
    assert_eq!(service.sql(&uid).await, std::slice::from_ref(&skipped));
    replay(position + 2).await;
    assert_eq!(describe(&service, &webhook).await.position, position + 2);
    update(&service, &webhook, &json!({"state": "enabled"})).await;
    receiver.wait_for_event("file.completed", &delivered).await;

    // Events that do not exist yet cannot be skipped.
    replay(i64::MAX).await;
    let newest = describe(&service, &webhook).await.position;
    assert!((position + 4..position + 10).contains(&newest), "{position} {newest}");
    let last = service.store("d", b"x").await;
    receiver.wait_for_event("file.completed", &last).await;
    let uids: Vec<_> = receiver.accepted().iter().map(crate::support::Received::uid).collect();
    assert_eq!(uids, [first, delivered, last]);
    assert!(!uids.contains(&skipped));
}

#[tokio::test]
async fn a_redirect_is_not_followed() {
    let service = start().await;
    let (receiver, elsewhere) = (Receiver::start().await, Receiver::start().await);
    let webhook = create_for(&service, &receiver).await;
    // `Answer` has a static text, and the address is not known before.
    let location = format!("location: {}\r\n", elsewhere.url());
    receiver.set_answer(Answer::Status(307, location.leak()));
    let uid = service.store("a", b"x").await;
    let failed = wait_for_delivery(&service, &webhook, &uid, |_| true).await;
    assert_eq!((failed.state, failed.status), (WebhookDeliveryState::Retrying, Some(307)));
    assert_eq!(failed.error.as_deref(), Some("the endpoint answered 307; redirects are not followed"));
    assert!(elsewhere.received().is_empty());
}

#[tokio::test]
async fn only_the_status_of_a_broken_answer_counts() {
    let service = start().await;
    let receiver = Receiver::start().await;
    let webhook = create_for(&service, &receiver).await;
    for (number, (answer, delivered)) in [
        (Answer::Raw(b"HTTP/1.1 200 OK\r\ncontent-length: 1000\r\n\r\nshort"), true),
        (Answer::Raw(b"HTTP/1.1 204 No Content\r\ncontent-length: 7\r\n\r\n"), true),
        (Answer::Raw(b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\nzz\r\n"), true),
        (Answer::Close, false),
        (Answer::Raw(b"HTTP/1.1 20"), false),
        (Answer::Raw(b"220 mail.example.org ESMTP\r\n"), false),
        (Answer::Raw(b"HTTP/1.1 200 OK\r\ncontent-length: -1\r\n\r\n"), false),
        (Answer::Raw(b"HTTP/1.1 100 Continue\r\n\r\n"), false),
    ]
    .into_iter()
    .enumerate()
    {
        receiver.set_answer(answer.clone());
        update(&service, &webhook, &json!({})).await;
        let uid = service.store(&number.to_string(), b"x").await;
        let one = wait_for_delivery(&service, &webhook, &uid, |_| true).await;
        assert_eq!(one.state == WebhookDeliveryState::Delivered, delivered, "{answer:?} {one:?}");
        assert_eq!(one.error.is_none(), delivered, "{answer:?} {one:?}");
    }
}

#[tokio::test]
async fn a_receiver_says_when_to_come_back() {
    let service = start().await;
    let receiver = Receiver::start().await;
    let webhook = create_for(&service, &receiver).await;
    receiver.set_answer(Answer::Status(429, "retry-after: 86400\r\n"));
    let first = service.store("a", b"x").await;
    let failed = wait_for_delivery(&service, &webhook, &first, |_| true).await;
    // At most an hour.
    let (at, next) = (failed.attempted_at, failed.next_attempt_at.unwrap());
    let minutes = |text: &str| -> i64 {
        let (hour, minute) = (&text[11..13], &text[14..16]);
        hour.parse::<i64>().unwrap() * 60 + minute.parse::<i64>().unwrap()
    };
    let delay = (minutes(&next) - minutes(&at)).rem_euclid(24 * 60);
    assert!((59..=61).contains(&delay), "{at} {next}");
    let resting = describe(&service, &webhook).await;
    assert_eq!(resting.retry_at.as_ref(), Some(&next));
    let second = service.store("b", b"x").await;
    receiver.set_answer(Answer::Status(200, ""));
    // Somebody who changes the webhook ends its rest.
    update(&service, &webhook, &json!({})).await;
    receiver.wait_for_event("file.completed", &second).await;
    assert!(receiver.accepted().iter().all(|message| message.uid() != first), "{:?}", receiver.accepted());
    make_due(&service, &webhook).await;
    receiver.wait_for_event("file.completed", &first).await;
}

#[tokio::test]
async fn both_secrets_sign_while_they_are_rotated() {
    let service = start().await;
    let receiver = Receiver::start().await;
    let old = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw";
    let webhook =
        create(&service, &json!({"url": receiver.url(), "secret": old, "types": ["file.completed"]})).await;
    assert_eq!(webhook.secret.as_deref(), Some(old));
    let route = format!("/webhooks/{}/rotate-secret", webhook.id);
    let rotated: osproxy_api::v1::Webhook =
        expect_json(service.v1_post(&route, &json!({"overlap": 600})).await, 200).await;
    let new = rotated.secret.unwrap();
    assert_ne!(new, old);
    // The deliverer reads the new secret within seconds.
    let both = eventually("both secrets sign", async || {
        let uid = service.store("a", b"x").await;
        let message = receiver.wait_for_event("file.completed", &uid).await;
        is_signed(&message, &new).then_some(message)
    })
    .await;
    assert!(is_signed(&both, old));
    // The receivers may still have the old one.
    let refused = service.v1_post(&route, &json!({"overlap": 600})).await;
    expect_problem(refused, 409, "webhook_secret_rotating").await;
    let uid = service.store("b", b"x").await;
    let message = receiver.wait_for_event("file.completed", &uid).await;
    assert!(is_signed(&message, old) && is_signed(&message, &new));
    assert_eq!(both.headers["webhook-signature"].split(' ').count(), 2);
    let newest = "whsec_AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA";
    let wish = json!({"overlap": 0, "secret": newest});
    expect_json::<osproxy_api::v1::Webhook>(service.v1_post(&route, &wish).await, 200).await;
    let one = eventually("only the newest secret signs", async || {
        let uid = service.store("a", b"x").await;
        let message = receiver.wait_for_event("file.completed", &uid).await;
        is_signed(&message, newest).then_some(message)
    })
    .await;
    assert!(!is_signed(&one, &new) && !is_signed(&one, old));
    assert!(describe(&service, &webhook).await.secret.is_none());
}

#[tokio::test]
async fn a_filter_selects_events() {
    let service = start().await;
    let receiver = Receiver::start().await;
    let wish = json!({
        "url": receiver.url(), "types": ["file.completed", "file.deleted"], "categories": ["image"],
        "metadata": {"kind": "photo"},
    });
    let webhook = create(&service, &wish).await;
    let store = async |name: &str, kind: &str| {
        let wish = json!({"name": name, "size": 1, "metadata": {"kind": kind}});
        let upload = service.create_upload(&wish).await;
        assert_eq!(service.put(&upload.links.as_ref().unwrap().content, b"x").await.status(), 200);
        upload.uid
    };
    store("a.txt", "photo").await;
    store("a.png", "scan").await;
    let wanted = store("b.png", "photo").await;
    receiver.wait_for_event("file.completed", &wanted).await;
    assert_eq!(receiver.received().len(), 1);
    wait_for_delivery(&service, &webhook, &wanted, |_| true).await;
    assert_eq!(deliveries(&service, &webhook).await.len(), 1);
    let changed = update(&service, &webhook, &json!({"types": [], "categories": [], "metadata": {}})).await;
    assert!(changed.types.is_empty() && changed.categories.is_empty() && changed.metadata.is_empty());
    // The change may take effect between two events of one file.
    eventually("the filter is changed", async || {
        let uid = store("c.txt", "x").await;
        tokio::time::sleep(std::time::Duration::from_millis(200)).await;
        receiver.accepted().into_iter().any(|message| message.uid() == uid).then_some(())
    })
    .await;
    let next = store("d.txt", "x").await;
    receiver.wait_for_event("file.created", &next).await;
}

#[tokio::test]
async fn a_disabled_webhook_gets_its_events_when_it_is_enabled() {
    let service = start().await;
    let receiver = Receiver::start().await;
    let webhook = create_for(&service, &receiver).await;
    let before = service.store("a", b"x").await;
    receiver.wait_for_event("file.completed", &before).await;
    update(&service, &webhook, &json!({"state": "disabled"})).await;
    let route = format!("/webhooks/{}/test", webhook.id);
    // A message that is sent now would be sent before this one.
    let test: osproxy_api::v1::WebhookTest =
        expect_json(service.v1(Method::POST, &route, None).await, 200).await;
    assert_eq!((test.delivered, test.status), (true, Some(204)));
    let running = "SELECT count(*) FROM tasks WHERE kind = 'deliver_webhooks' AND state = 'running'";
    eventually("the task ends", async || (service.sql(running).await == ["0"]).then_some(())).await;
    let meanwhile = service.store("b", b"x").await;
    let kinds: Vec<_> = receiver.received().iter().map(crate::support::Received::kind).collect();
    assert_eq!(kinds, ["file.completed", "webhook.test"]);
    update(&service, &webhook, &json!({"state": "enabled"})).await;
    receiver.wait_for_event("file.completed", &meanwhile).await;

    // Everything again, from the beginning.
    let route = format!("/webhooks/{}/replay", webhook.id);
    let replay: WebhookReplay = expect_json(service.v1_post(&route, &json!({"after": 0})).await, 200).await;
    assert_eq!(replay.deliveries, None);
    eventually("both are delivered again", async || {
        let times = |uid: &String| receiver.accepted().iter().filter(|one| one.uid() == *uid).count();
        (times(&before) == 2 && times(&meanwhile) == 2).then_some(())
    })
    .await;
}
