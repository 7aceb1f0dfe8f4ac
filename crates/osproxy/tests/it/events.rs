//! `GET /api/v1/events`.

use std::{
    collections::BTreeMap,
    sync::atomic::{AtomicBool, AtomicU64, Ordering},
    time::Duration,
};

use osproxy_api::v1::{CreatedUpload, Event, Events, File};
use reqwest::{Method, Response};
use serde_json::json;

use crate::support::{Api, Service, content, eventually, expect_json, expect_problem, tus};

async fn list(api: &Api, query: &str) -> Events {
    expect_json(api.v1_get(&format!("/events?{query}")).await, 200).await
}

/// All events, read in pages of five.
async fn all(api: &Api) -> Vec<Event> {
    let (mut all, mut after) = (Vec::new(), "0".to_owned());
    loop {
        let page = list(api, &format!("after={after}&limit=5")).await;
        all.extend(page.events);
        after = page.next;
        if !page.has_more {
            return all;
        }
    }
}

fn about<'e>(events: &'e [Event], uid: &str) -> Vec<&'e Event> {
    events.iter().filter(|event| event.data.uid.as_deref() == Some(uid)).collect()
}

fn kinds(events: &[Event], uid: &str) -> Vec<String> {
    about(events, uid).into_iter().map(|event| event.kind.clone()).collect()
}

/// Waits for the events of a file.
async fn wait_for_kinds(api: &Api, uid: &str, expected: &[&str]) -> Vec<Event> {
    eventually("the file has its events", async || {
        let events = all(api).await;
        (kinds(&events, uid) == expected).then_some(events)
    })
    .await
}

/// A stream of Server-Sent Events.
struct Stream {
    answer: Response,
    received: String,
    /// What a browser would send as `Last-Event-ID`.
    last_id: Option<String>,
}

impl Stream {
    async fn open(api: &Api, query: &str, last: Option<&str>) -> Self {
        let answer = Self::request(api, query, last).await;
        assert_eq!(answer.status(), 200);
        assert_eq!(answer.headers()["content-type"], "text/event-stream");
        assert_eq!(answer.headers()["cache-control"], "no-store");
        Self { answer, received: String::new(), last_id: None }
    }

    async fn request(api: &Api, query: &str, last: Option<&str>) -> Response {
        let mut request = api.client().get(api.url(&format!("/api/v1/events?{query}")));
        request = request.header("accept", "text/event-stream").bearer_auth(api.key().unwrap());
        if let Some(last) = last {
            request = request.header("last-event-id", last);
        }
        request.send().await.unwrap()
    }

    /// The next event; `None` at the end of the stream. Checks the framing.
    async fn next(&mut self) -> Option<Event> {
        loop {
            if let Some((block, rest)) = self.received.split_once("\n\n") {
                let (block, rest) = (block.to_owned(), rest.to_owned());
                self.received = rest;
                let fields: Vec<_> = block.lines().map(|line| line.split_once(": ").unwrap()).collect();
                let names: Vec<_> = fields.iter().map(|(name, _)| *name).collect();
                let id = fields.iter().find(|(name, _)| *name == "id").unwrap().1;
                self.last_id = Some(id.to_owned());
                if names == ["retry", "id"] || names == ["id"] {
                    continue;
                }
                assert_eq!(names, ["id", "event", "data"], "{block}");
                let event: Event = serde_json::from_str(fields[2].1).unwrap();
                assert_eq!((fields[0].1, fields[1].1), (event.id.as_str(), event.kind.as_str()));
                return Some(event);
            }
            let chunk = tokio::time::timeout(Duration::from_mins(1), self.answer.chunk()).await;
            let chunk = chunk.expect("the stream is silent").ok().flatten()?;
            self.received.push_str(std::str::from_utf8(&chunk).unwrap());
        }
    }
}

#[tokio::test]
async fn the_life_of_a_file_is_told_in_order() {
    let service = Service::start().await;
    let wish = json!({"name": "a.txt", "size": 5, "metadata": {"owner": "ann"}});
    let upload = service.create_upload(&wish).await;
    let uid = &upload.uid;
    assert_eq!(service.put(&upload.links.as_ref().unwrap().content, b"hello").await.status(), 200);
    let file: File = service.describe(uid).await;
    let renamed = service.v1(Method::PATCH, &format!("/files/{uid}"), Some(&json!({"name": "b.jpg"}))).await;
    assert_eq!(renamed.status(), 200);
    // Metadata alone is no renaming.
    let change = json!({"metadata": {"owner": "bob"}});
    service.v1(Method::PATCH, &format!("/files/{uid}"), Some(&change)).await;
    assert_eq!(service.v1(Method::DELETE, &format!("/files/{uid}"), None).await.status(), 204);

    let expected = ["file.created", "file.completed", "file.renamed", "file.deleted"];
    let events = wait_for_kinds(&service, uid, &expected).await;
    let [created, completed, renamed, deleted] = about(&events, uid)[..] else { panic!("{events:?}") };
    assert_eq!((created.data.size, created.data.stored_at.as_ref()), (Some(5), None));
    let data = &completed.data;
    assert_eq!((data.name.as_ref(), data.size, &data.blake3), (Some(&file.name), file.size, &file.blake3));
    assert_eq!((&data.content_type, &data.stored_at), (&file.content_type, &file.stored_at));
    assert_eq!(
        (data.created_at.as_ref(), data.metadata.as_ref()),
        (Some(&file.created_at), Some(&file.metadata))
    );
    assert_eq!((data.tenant.as_str(), data.category.as_ref()), ("default", Some(&file.category)));
    assert_eq!(
        (renamed.data.name.as_deref(), renamed.data.old_name.as_deref()),
        (Some("b.jpg"), Some("a.txt"))
    );
    assert_eq!(deleted.data.metadata, Some(BTreeMap::from([("owner".to_owned(), "bob".to_owned())])));
    assert_eq!((&deleted.data.blake3, deleted.data.size), (&file.blake3, Some(5)));

    let only = list(&service, "types=file.deleted,file.renamed").await;
    assert_eq!(kinds(&only.events, uid), ["file.renamed", "file.deleted"]);
    let rest = list(&service, &format!("after={}", renamed.id)).await;
    assert_eq!((rest.events, rest.next, rest.has_more), (vec![deleted.clone()], deleted.id.clone(), false));
}

#[tokio::test]
async fn every_interface_and_every_way_to_create_a_file_has_events() {
    let mut service = Service::start().await;
    let bytes = content(1, 300_000);
    let (small, parts) =
        (service.store("v0.txt", b"v0").await, service.store_in_parts("v0.bin", &bytes, 100_000).await);
    let one = service.client().post(service.url("/api/v1/files?name=one.txt"));
    let one = one.bearer_auth(service.key().unwrap()).body("one").send().await.unwrap();
    let one: File = expect_json(one, 201).await;
    let copy = service.v1_post(&format!("/files/{}/copy", one.uid), &json!({"name": "copy.txt"})).await;
    let copy: File = expect_json(copy, 201).await;
    let instant = json!({"name": "instant.txt", "size": 3, "blake3": blake3::hash(b"one").to_hex().as_str()});
    let instant: CreatedUpload = expect_json(service.v1_post("/uploads", &instant).await, 201).await;
    let by_tus = tus::request(&service, Method::POST, "/tus").header("upload-length", 3);
    let by_tus = by_tus.bearer_auth(service.key().unwrap());
    let by_tus =
        by_tus.header("content-type", "application/offset+octet-stream").body("tus").send().await.unwrap();
    assert_eq!(by_tus.status(), 201);
    let by_tus = by_tus.headers()["osproxy-uid"].to_str().unwrap().to_owned();
    let empty: CreatedUpload = service.create_upload(&json!({"name": "empty.txt"})).await;
    assert_eq!(service.put(&empty.links.as_ref().unwrap().content, b"").await.status(), 200);
    let aborted = service.create_upload(&json!({"name": "aborted.txt"})).await;
    assert_eq!(service.v1_abort(&aborted).await.status(), 204);

    let both = ["file.created", "file.completed"];
    let events = wait_for_kinds(&service, &aborted.uid, &["file.created", "file.deleted"]).await;
    for (uid, source) in [
        (&small, "v0"),
        (&parts, "v0"),
        (&one.uid, "v1"),
        (&copy.uid, "v1"),
        (&instant.uid, "v1"),
        (&by_tus, "tus"),
        (&empty.uid, "v1"),
    ] {
        assert_eq!(kinds(&events, uid), both, "{uid}");
        for event in about(&events, uid) {
            assert_eq!(event.data.source.as_deref(), Some(source), "{event:?}");
        }
    }
    let completed = about(&events, &parts)[1];
    assert_eq!(completed.data.size, Some(300_000));
    service.assert_consistent().await;
}

#[tokio::test]
async fn a_file_that_cannot_be_kept_says_why() {
    let service = Service::start_with(&[("UPLOADS__MAX_INLINE_VERIFICATION_SIZE", "0")]).await;
    let bytes = content(2, 300_000);
    let wish = json!({
        "name": "wrong.bin", "size": bytes.len(), "part_size": 131_072, "md5": "0".repeat(32), "expires_in": 3600,
    });
    let upload = service.create_upload(&wish).await;
    for (number, part) in (1..).zip(bytes.chunks(131_072)) {
        assert_eq!(service.v1_put_part(&upload, number, part).await.status(), 204);
    }
    // A task compares the digest after the file can be read.
    assert_eq!(service.v1_complete(&upload).await.status(), 200);
    let expected = ["file.created", "file.completed", "file.corrupt"];
    let events = wait_for_kinds(&service, &upload.uid, &expected).await;
    let reason = about(&events, &upload.uid)[2].data.reason.clone().unwrap();
    assert!(reason.starts_with("the md5 of the content is "), "{reason}");

    let lapsed = service.create_upload(&json!({"name": "lapsed.bin"})).await;
    service.sql(&format!("UPDATE files SET expires_at = 1 WHERE uid = {}", lapsed.uid)).await;
    service.sql("UPDATE tasks SET run_at = 0 WHERE kind = 'expire_uploads'").await;
    let mut service = service;
    service.kill_and_restart().await;
    wait_for_kinds(&service, &lapsed.uid, &["file.created", "upload.expired"]).await;
}

#[tokio::test]
async fn tenants_see_only_their_own_events() {
    let service = Service::start().await;
    let shop = service.with_key(&service.create_key(&["--tenant", "shop"]).await);
    let ours = service.store("ours.txt", b"ours").await;
    let theirs = shop.create_upload(&json!({"name": "theirs.txt"})).await.uid;
    wait_for_kinds(&service, &ours, &["file.created", "file.completed"]).await;
    wait_for_kinds(&shop, &theirs, &["file.created"]).await;
    assert_eq!(about(&all(&shop).await, &ours).len(), 0);
    assert_eq!(about(&all(&service).await, &theirs).len(), 0);
    let mut stream = Stream::open(&shop, "after=0", None).await;
    assert_eq!(stream.next().await.unwrap().data.uid, Some(theirs));
    let writer = service.with_key(&service.create_key(&["--scopes", "upload"]).await);
    expect_problem(writer.v1_get("/events").await, 403, "permission_denied").await;
    expect_problem(service.without_key().v1_get("/events").await, 401, "unauthenticated").await;
}

#[tokio::test]
async fn a_stream_goes_on_where_it_broke() {
    let service = Service::start().await;
    let before = service.store("before.txt", b"1").await;
    wait_for_kinds(&service, &before, &["file.created", "file.completed"]).await;
    // Without a position, a stream begins with the next event.
    let mut stream = Stream::open(&service, "types=file.completed", None).await;
    let first = service.store("first.txt", b"2").await;
    let event = stream.next().await.unwrap();
    assert_eq!((event.data.uid.as_ref(), event.kind.as_str()), (Some(&first), "file.completed"));
    drop(stream);
    let second = service.store("second.txt", b"3").await;
    let mut stream = Stream::open(&service, "types=file.completed&after=0", Some(&event.id)).await;
    assert_eq!(stream.next().await.unwrap().data.uid, Some(second));
    let mut stream = Stream::open(&service, "after=0", None).await;
    let oldest = stream.next().await.unwrap();
    assert_eq!((oldest.data.uid.as_ref(), oldest.kind.as_str()), (Some(&before), "file.created"));
}

/// A stream tells its position before the first event, so that nothing is lost if it breaks.
#[tokio::test]
async fn a_stream_without_an_event_can_be_continued_too() {
    let mut service = Service::start().await;
    let before = service.store("before.txt", b"1").await;
    wait_for_kinds(&service, &before, &["file.created", "file.completed"]).await;
    let mut stream = Stream::open(&service, "", None).await;
    service.signal(rustix::process::Signal::TERM);
    assert_eq!(stream.next().await, None);
    let position = stream.last_id.expect("a position");
    service.exit_status().await;
    service.restart().await;
    let missed = service.store("missed.txt", b"2").await;
    let mut stream = Stream::open(&service, "types=file.completed", Some(&position)).await;
    assert_eq!(stream.next().await.unwrap().data.uid, Some(missed));
}

#[tokio::test]
async fn a_stream_ends_with_its_key_and_with_the_node() {
    let mut service = Service::start().await;
    let key = service.create_key(&["--scopes", "read"]).await;
    let reader = service.with_key(&key);
    let mut stream = Stream::open(&reader, "", None).await;
    let mut busy = Stream::open(&reader, "after=0", None).await;
    let id = key.split('_').nth(1).unwrap();
    assert_eq!(service.cli(&["key", "revoke", id]).await.0, 0);
    assert_eq!(stream.next().await, None);
    // Also if there is always another event.
    let (writer, ended) = (service.without_key().with_key(service.key().unwrap()), AtomicBool::new(false));
    let writing = async {
        while !ended.load(Ordering::SeqCst) {
            writer.store("busy.txt", b"busy").await;
        }
    };
    let reading = async {
        while busy.next().await.is_some() {}
        ended.store(true, Ordering::SeqCst);
    };
    tokio::join!(writing, reading);
    let mut stream = Stream::open(&service, "", None).await;
    service.signal(rustix::process::Signal::TERM);
    // The last events of the writer may follow.
    while stream.next().await.is_some() {}
    assert!(service.exit_status().await.success());
}

#[tokio::test]
async fn a_position_that_was_purged_is_refused() {
    let mut service = Service::start().await;
    service.store("x.txt", b"1").await;
    let key = service.create_key(&["--tenant", "shop"]).await;
    let shop = service.with_key(&key);
    let quiet = shop.create_upload(&json!({"name": "quiet.txt"})).await.uid;
    wait_for_kinds(&shop, &quiet, &["file.created"]).await;
    let last = service.store("x.txt", b"2").await;
    let events = wait_for_kinds(&service, &last, &["file.created", "file.completed"]).await;
    let (second, newest) = (events[1].id.clone(), events.last().unwrap().id.clone());
    // A tenant without new events, and a reader of rare events, do not fall behind.
    let position = list(&shop, "").await.next;
    let rare = list(&service, "types=file.deleted").await;
    assert_eq!((rare.events, &rare.next, &position), (Vec::new(), &newest, &newest));
    service.sql("UPDATE events SET created_at = 1").await;
    service.sql("UPDATE tasks SET run_at = 0 WHERE kind = 'sweep'").await;
    service.kill_and_restart().await;
    eventually("old events are purged", async || {
        (service.sql("SELECT count(*) FROM events").await == ["1"]).then_some(())
    })
    .await;
    expect_problem(service.v1_get(&format!("/events?after={second}")).await, 410, "cursor_expired").await;
    let refused = Stream::request(&service, "", Some(&second)).await;
    expect_problem(refused, 410, "cursor_expired").await;
    assert_eq!(all(&service).await.len(), 1);
    let shop = service.with_key(&key);
    assert_eq!(list(&service, &format!("after={newest}")).await.next, newest);
    assert_eq!(list(&shop, &format!("after={position}")).await.events, []);
    // A database that was restored from a backup does not have all events that a reader has seen.
    for later in [newest.parse::<i64>().unwrap() + 1, i64::MAX] {
        expect_problem(service.v1_get(&format!("/events?after={later}")).await, 410, "cursor_expired").await;
    }
}

#[tokio::test]
async fn bad_parameters_are_named() {
    let service = Service::start().await;
    for (query, field) in [
        ("after=x", "after"),
        ("after=-1", "after"),
        ("after=", "after"),
        ("after=9223372036854775808", "after"),
        ("limit=0", "limit"),
        ("limit=201", "limit"),
        ("types=", "types"),
        ("types=file.created,nope", "types"),
        ("cursor=1", "cursor"),
    ] {
        let problem =
            expect_problem(service.v1_get(&format!("/events?{query}")).await, 400, "invalid_argument").await;
        assert_eq!(problem["field"], field, "{query}");
    }
    expect_problem(Stream::request(&service, "", Some("x")).await, 400, "invalid_argument").await;
}

#[tokio::test]
async fn events_can_be_turned_off() {
    let service = Service::start_with(&[("EVENTS__ENABLED", "false")]).await;
    service.store("x.txt", b"x").await;
    assert_eq!(all(&service).await, []);
    assert_eq!(service.sql("SELECT count(*) FROM events").await, ["0"]);
}

#[tokio::test]
async fn a_quota_that_refuses_is_told_once() {
    let service = Service::start().await;
    let shop = service.with_key(&service.create_key(&["--tenant", "shop"]).await);
    assert_eq!(service.cli(&["tenant", "set", "shop", "--new", "--max-bytes", "1MB"]).await.0, 0);
    for _ in 0..3 {
        let refused = shop.v1_post("/uploads", &json!({"name": "x", "size": 2_000_000})).await;
        expect_problem(refused, 507, "quota_exceeded").await;
    }
    let told = eventually("the tenant hears of it", async || {
        let events = list(&shop, "types=quota.exceeded").await.events;
        (!events.is_empty()).then_some(events)
    })
    .await;
    assert_eq!(told[0].data.tenant, "shop");
    let refused = shop.v1_post("/uploads", &json!({"name": "x", "size": 2_000_000})).await;
    expect_problem(refused, 507, "quota_exceeded").await;
    // Another tenant that exceeds its quota later shows that the loop has run.
    let other = service.with_key(&service.create_key(&["--tenant", "other"]).await);
    assert_eq!(service.cli(&["tenant", "set", "other", "--new", "--max-bytes", "1MB"]).await.0, 0);
    let refused = other.v1_post("/uploads", &json!({"name": "x", "size": 2_000_000})).await;
    expect_problem(refused, 507, "quota_exceeded").await;
    eventually("the other tenant hears of it", async || {
        (!list(&other, "types=quota.exceeded").await.events.is_empty()).then_some(())
    })
    .await;
    assert_eq!(list(&shop, "types=quota.exceeded").await.events.len(), 1);
}

/// The metadata of an event that would exceed 20 kB is left out.
#[tokio::test]
async fn a_payload_is_bounded() {
    let service = Service::start().await;
    let name = "\u{1}".repeat(1000);
    let metadata: BTreeMap<_, _> = (0..4).map(|key| (key.to_string(), "\u{1}".repeat(900))).collect();
    let upload = service.create_upload(&json!({"name": name, "metadata": metadata})).await;
    let renamed = json!({"name": "\u{2}".repeat(1000)});
    let answer = service.v1(Method::PATCH, &format!("/files/{}", upload.uid), Some(&renamed)).await;
    assert_eq!(answer.status(), 200);
    let small = service.create_upload(&json!({"name": "x", "metadata": {"k": "\u{1}\"\n"}})).await.uid;
    let events = wait_for_kinds(&service, &small, &["file.created"]).await;
    assert_eq!(about(&events, &small)[0].data.metadata.as_ref().unwrap()["k"], "\u{1}\"\n");
    for event in about(&events, &upload.uid) {
        assert_eq!(event.data.metadata, None, "{}", event.kind);
    }
    let longest = service.sql("SELECT max(length(payload)) FROM events").await;
    assert!(longest[0].parse::<u64>().unwrap() < 20_000, "{longest:?}");
}

/// Every file that was acknowledged has its events, whenever the process dies.
#[tokio::test]
async fn no_event_is_lost_by_a_crash() {
    let mut service = Service::start().await;
    let mut stored = Vec::new();
    for round in 0..5_u64 {
        let api = service.without_key().with_key(service.key().unwrap());
        let acknowledged = AtomicU64::new(0);
        let uploads = (0..40_u64).map(|number| {
            let (api, acknowledged) = (&api, &acknowledged);
            async move {
                let name = format!("{round}-{number}.txt");
                let creation = api.client().post(api.url("/api/v1/uploads")).json(&json!({"name": name}));
                let answer = creation.bearer_auth(api.key().unwrap()).send().await.ok()?;
                let created: CreatedUpload = answer.json().await.ok()?;
                let status = api.try_put(&created.links?.content, name.as_bytes()).await;
                (status == Some(200)).then(|| {
                    acknowledged.fetch_add(1, Ordering::SeqCst);
                    created.uid
                })
            }
        });
        // In every round, later: before, while and after files become complete.
        let kill = async {
            eventually("some files are complete", async || {
                (acknowledged.load(Ordering::SeqCst) > 3 * round).then_some(())
            })
            .await;
            service.kill().await;
        };
        let (uids, ()) = tokio::join!(futures_util::future::join_all(uploads), kill);
        stored.extend(uids.into_iter().flatten());
        service.restart().await;
    }
    let last = service.store("last.txt", b"last").await;
    let events = wait_for_kinds(&service, &last, &["file.created", "file.completed"]).await;
    assert!(!stored.is_empty());
    for uid in &stored {
        assert_eq!(kinds(&events, uid), ["file.created", "file.completed"], "{uid}");
    }
    // No event tells of a file that does not exist, and none of a file that cannot be read.
    for event in &events {
        let uid = event.data.uid.as_ref().unwrap();
        let file: File = service.describe(uid).await;
        assert!(event.kind != "file.completed" || file.stored_at.is_some(), "{event:?}");
    }
}

#[tokio::test]
async fn explain_shows_the_events_of_a_file() {
    let service = Service::start().await;
    let uid = service.store("x.txt", b"x").await;
    let events = wait_for_kinds(&service, &uid, &["file.created", "file.completed"]).await;
    let (code, said) = service.cli(&["explain", &uid, "--json"]).await;
    assert_eq!(code, 0, "{said}");
    let said: serde_json::Value = serde_json::from_str(&said).unwrap();
    assert_eq!(said["events"].as_array().unwrap().len(), 2);
    for (event, shown) in events.iter().zip(said["events"].as_array().unwrap()) {
        assert_eq!((shown["id"].as_str(), shown["type"].as_str()), (Some(&*event.id), Some(&*event.kind)));
    }
    let (_, text) = service.cli(&["explain", &uid]).await;
    assert!(text.contains(&format!("event {} file.completed", events[1].id)), "{text}");
}

#[tokio::test]
async fn grpc_lists_and_follows_the_same_events() {
    use osproxy_api::grpc::v1::{ListEventsRequest, WatchEventsRequest};

    let service = Service::start().await;
    let first = service.store("first.txt", b"1").await;
    let events = wait_for_kinds(&service, &first, &["file.created", "file.completed"]).await;
    let mut client = service.grpc().events;
    let types = vec!["file.completed".to_owned()];
    let request = ListEventsRequest { after: 0, types: types.clone(), page_size: 0 };
    let page = client.list_events(request).await.unwrap().into_inner();
    let [event] = &page.events[..] else { panic!("{page:?}") };
    assert_eq!((event.id.to_string(), &event.r#type, &event.uid), (events[1].id.clone(), &types[0], &first));
    let data: osproxy_api::v1::EventData = serde_json::from_str(&event.data).unwrap();
    assert_eq!(data, events[1].data);

    let request = WatchEventsRequest { after: None, types: types.clone() };
    let mut stream = client.watch_events(request).await.unwrap().into_inner();
    let position = stream.message().await.unwrap().unwrap();
    assert_eq!((position.id.to_string(), position.r#type.as_str()), (events[1].id.clone(), ""));
    let second = service.store("second.txt", b"2").await;
    let event = stream.message().await.unwrap().unwrap();
    assert_eq!(event.uid, second);
    let request = WatchEventsRequest { after: Some(page.next), types: Vec::new() };
    let mut stream = client.watch_events(request).await.unwrap().into_inner();
    assert_eq!(stream.message().await.unwrap().unwrap().r#type, "");
    let next: Vec<_> =
        [stream.message().await, stream.message().await].into_iter().map(Result::unwrap).collect();
    let next: Vec<_> = next.into_iter().flatten().map(|event| (event.r#type, event.uid)).collect();
    assert_eq!(next, ["file.created", "file.completed"].map(|kind| (kind.to_owned(), second.clone())));

    for (wrong, field) in [
        (ListEventsRequest { after: u64::MAX, types: Vec::new(), page_size: 0 }, "after"),
        (ListEventsRequest { after: 0, types: vec!["nope".to_owned()], page_size: 0 }, "types"),
        (ListEventsRequest { after: 0, types: Vec::new(), page_size: 201 }, "page_size"),
    ] {
        let refused = client.list_events(wrong).await.unwrap_err();
        let expected = ("invalid_argument".to_owned(), Some(field.to_owned()));
        assert_eq!(crate::support::error_reason(&refused), expected);
    }
    let key = service.create_key(&["--scopes", "upload"]).await;
    let refused = service.with_key(&key).grpc().events.list_events(ListEventsRequest::default()).await;
    assert_eq!(refused.unwrap_err().code(), tonic::Code::PermissionDenied);
}
