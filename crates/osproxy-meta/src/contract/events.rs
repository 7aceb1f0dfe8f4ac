//! Events.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::atomic::{AtomicBool, Ordering},
};

use osproxy_types::tenant::Tenant;
use serde_json::Value;

use super::{begin, finish, uid, upload};
use crate::{
    CreateOutcome, Event, EventFilter, EventKind, FileGrant, KnownContent, Meta, NewUpload, StoreOutcome,
    UpdateOutcome,
};

const FIRST: i64 = 60_000_000;

pub(super) async fn run(meta: &Meta) {
    events_tell_the_life_of_a_file(meta).await;
    a_change_that_is_undone_leaves_no_event(meta).await;
    readers_see_every_event_once_and_in_order(meta).await;
    old_events_are_purged(meta).await;
}

/// All events after a position, read in small pages.
async fn read_all(meta: &Meta, filter: &EventFilter, mut after: i64) -> Vec<Event> {
    meta.events.assign_positions().await.unwrap();
    let mut all = Vec::new();
    loop {
        let page = meta.events.after(filter, after, 7).await.unwrap();
        assert!(page.position >= after);
        after = page.position;
        all.extend(page.events);
        if !page.has_more {
            return all;
        }
    }
}

fn of_file(events: &[Event], number: i64) -> Vec<(&str, Value)> {
    let about = events.iter().filter(|event| event.uid == Some(uid(number)));
    about.map(|event| (event.kind.as_str(), serde_json::from_str(&event.payload).unwrap())).collect()
}

fn kinds(events: &[Event], number: i64) -> Vec<String> {
    of_file(events, number).into_iter().map(|(kind, _)| kind.to_owned()).collect()
}

async fn create(meta: &Meta, new: NewUpload) {
    let created = meta.files.create(vec![new], 0).await.unwrap();
    assert!(matches!(created, CreateOutcome::Created(_)), "{created:?}");
}

async fn events_tell_the_life_of_a_file(meta: &Meta) {
    let everything = EventFilter::default();
    meta.events.assign_positions().await.unwrap();
    let before = meta.events.newest_position().await.unwrap();
    let mut new = upload(FIRST, "life.txt");
    new.file.announced.size = Some(4);
    new.file.announced.metadata.insert("owner".to_owned(), "ann".to_owned());
    create(meta, new).await;
    let blob = begin(meta, FIRST, FIRST + 1).await;
    assert_eq!(finish(meta, FIRST, blob, "life").await, StoreOutcome::Stored);
    let name = Some("later.jpg".to_owned());
    let renamed = meta.files.update(Tenant::default(), uid(FIRST), name.clone(), None).await.unwrap();
    assert_eq!(renamed, UpdateOutcome::Updated);
    // The name is the same: nothing was renamed.
    meta.files.update(Tenant::default(), uid(FIRST), name, None).await.unwrap();
    meta.files.delete(Tenant::default(), uid(FIRST), uid(FIRST + 2)).await.unwrap();
    let events = read_all(meta, &everything, before).await;
    let life = of_file(&events, FIRST);
    let names: Vec<_> = life.iter().map(|(kind, _)| *kind).collect();
    assert_eq!(names, ["file.created", "file.completed", "file.renamed", "file.deleted"]);
    let blake3 = hex::encode(super::digests("life").blake3);
    for (kind, payload) in &life {
        assert_eq!(payload["uid"], FIRST.to_string(), "{kind}");
        assert_eq!((&payload["tenant"], &payload["source"]), (&"default".into(), &"service".into()));
        assert_eq!((&payload["size"], &payload["metadata"]["owner"]), (&4.into(), &"ann".into()), "{kind}");
        assert_eq!(payload.get("blake3").is_some(), *kind != "file.created", "{kind}");
    }
    assert_eq!((&life[0].1["name"], life[0].1.get("stored_at")), (&"life.txt".into(), None));
    assert_eq!((&life[1].1["blake3"], &life[1].1["content_type"]), (&blake3.into(), &"text/plain".into()));
    let renamed = &life[2].1;
    assert_eq!((&renamed["name"], &renamed["old_name"]), (&"later.jpg".into(), &"life.txt".into()));
    assert_eq!(renamed["category"], "image");
    assert_eq!(meta.events.of_file(uid(FIRST), 2).await.unwrap(), events[events.len() - 2..]);

    // Filters: by kind, and by tenant.
    let deletions = EventFilter { kinds: vec![EventKind::FileDeleted], ..EventFilter::default() };
    assert_eq!(kinds(&read_all(meta, &deletions, before).await, FIRST), ["file.deleted"]);
    let others = EventFilter { tenant: Some("other".parse().unwrap()), ..EventFilter::default() };
    assert_eq!(read_all(meta, &others, 0).await, []);

    // An upload that is aborted, and content that is shared from the start.
    create(meta, upload(FIRST + 3, "aborted.txt")).await;
    meta.uploads.abort(uid(FIRST + 3), uid(FIRST + 4)).await.unwrap();
    let known = KnownContent { blob_id: 40, size: 5, content_type: "a/b".to_owned() };
    create(meta, NewUpload { known_content: Some(known), ..upload(FIRST + 5, "shared.txt") }).await;
    create(meta, upload(FIRST + 6, "expired.txt")).await;
    meta.uploads.expire(uid(FIRST + 6), i64::MAX, uid(FIRST + 7)).await.unwrap();
    let events = read_all(meta, &everything, before).await;
    assert_eq!(kinds(&events, FIRST + 3), ["file.created", "file.deleted"]);
    assert_eq!(kinds(&events, FIRST + 5), ["file.created", "file.completed"]);
    assert_eq!(kinds(&events, FIRST + 6), ["file.created", "upload.expired"]);
}

async fn a_change_that_is_undone_leaves_no_event(meta: &Meta) {
    let taken = vec![upload(FIRST + 10, "new.txt"), upload(FIRST + 3, "taken.txt")];
    assert_eq!(meta.files.create(taken, 0).await.unwrap(), CreateOutcome::UidTaken);
    // Refused after the events were inserted.
    let mut refused = upload(FIRST + 10, "new.txt");
    refused.file.grant = Some(FileGrant { id: uid(1), required_types: None });
    let refused = meta.files.create(vec![refused], 0).await.unwrap();
    assert!(matches!(refused, CreateOutcome::Refused(_)), "{refused:?}");
    let events = read_all(meta, &EventFilter::default(), 0).await;
    assert_eq!(kinds(&events, FIRST + 10), [""; 0]);
    assert_eq!(kinds(&events, FIRST + 3).len(), 2);
}

/// Writers, two assigners and a reader work at the same time.
async fn readers_see_every_event_once_and_in_order(meta: &Meta) {
    const FILES: i64 = 60;
    let everything = EventFilter::default();
    meta.events.assign_positions().await.unwrap();
    let before = meta.events.newest_position().await.unwrap();
    let is_done = AtomicBool::new(false);
    let writer = |first: i64| async move {
        for number in (first..FIRST + 1000 + FILES).step_by(6) {
            create(meta, upload(number, "many.txt")).await;
            let blob = begin(meta, number, number + 10_000).await;
            assert_eq!(finish(meta, number, blob, &number.to_string()).await, StoreOutcome::Stored);
            meta.files.delete(Tenant::default(), uid(number), uid(number + 20_000)).await.unwrap();
        }
    };
    let writers = async {
        futures_util::future::join_all((FIRST + 1000..FIRST + 1006).map(writer)).await;
        is_done.store(true, Ordering::SeqCst);
    };
    let assigner = || async {
        while !is_done.load(Ordering::SeqCst) {
            meta.events.assign_positions().await.unwrap();
            tokio::task::yield_now().await;
        }
    };
    let reader = async {
        let (mut seen, mut after) = (Vec::new(), before);
        loop {
            let was_done = is_done.load(Ordering::SeqCst);
            if was_done {
                meta.events.assign_positions().await.unwrap();
            }
            let page = meta.events.after(&everything, after, 13).await.unwrap();
            after = page.position;
            seen.extend(page.events);
            if was_done && !page.has_more {
                return seen;
            }
            tokio::task::yield_now().await;
        }
    };
    let (seen, ..) = tokio::join!(reader, writers, assigner(), assigner());
    let positions: Vec<_> = seen.iter().map(|event| event.position).collect();
    assert!(positions.is_sorted_by(|a, b| a < b), "{positions:?}");
    assert_eq!(positions, (positions[0]..=*positions.last().unwrap()).collect::<Vec<_>>(), "no gaps");
    let mut lives: BTreeMap<_, Vec<_>> = BTreeMap::new();
    for event in &seen {
        lives.entry(event.uid).or_default().push(event.kind.as_str());
    }
    assert_eq!(lives.len(), usize::try_from(FILES).unwrap());
    let lives: BTreeSet<_> = lives.into_values().collect();
    assert_eq!(lives, BTreeSet::from([vec!["file.created", "file.completed", "file.deleted"]]));
}

async fn old_events_are_purged(meta: &Meta) {
    let newest = meta.events.newest_position().await.unwrap();
    assert_eq!(meta.events.oldest_position().await.unwrap(), Some(1));
    assert_eq!(meta.events.purge(0, 10).await.unwrap(), 0, "all are younger");
    assert_eq!(meta.events.purge(i64::MAX, 10).await.unwrap(), 10);
    assert_eq!(meta.events.oldest_position().await.unwrap(), Some(11));
    while meta.events.purge(i64::MAX, 100).await.unwrap() > 0 {}
    // The newest event stays, and shows which positions were removed.
    assert_eq!(meta.events.oldest_position().await.unwrap(), Some(newest));
    create(meta, upload(FIRST + 20, "after.txt")).await;
    let events = read_all(meta, &EventFilter::default(), newest).await;
    assert_eq!((events.len(), events[0].position), (1, newest + 1));
}
