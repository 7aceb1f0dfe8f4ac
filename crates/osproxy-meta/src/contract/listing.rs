//! Listings, idempotency keys, challenges and statistics.

use std::sync::Arc;

use osproxy_storage::Category;
use osproxy_types::{tenant::Tenant, uid::Uid};

use super::{begin, digests, finish, parts::enqueued, uid};
use crate::{
    CopyOutcome, DeleteOutcome, FileFilter, FileMetadata, FilePosition, FileState, IdempotentRequest,
    KeyAcquisition, Meta, MetadataEdit, NewCopy, RecordedAnswer, StoreOutcome, TaskFilter, TaskState,
    UpdateOutcome, now_ms,
};

pub(super) async fn run(meta: &Meta) {
    prefixes_match_bytewise(meta).await;
    pages_cover_all_files_in_order(meta).await;
    listings_filter_by_creation_time(meta).await;
    updates_change_name_and_metadata(meta).await;
    copies_share_content(meta).await;
    idempotency_keys_are_acquired_once(meta).await;
    challenges_are_taken_once_and_expire(meta).await;
    tasks_are_listed_newest_first(meta).await;
}

/// The first of the ids for one test case: the smallest uid with the current time.
fn base() -> i64 {
    Uid::min_at_ms(now_ms()).get()
}

async fn create(meta: &Meta, number: i64, name: &str) {
    meta.files.create(vec![super::upload(number, name)], i64::MAX).await.unwrap();
}

async fn names(meta: &Meta, filter: &FileFilter, page: u64) -> Vec<String> {
    let (mut names, mut after) = (Vec::new(), None);
    loop {
        let files = meta.files.list(&Tenant::default(), filter, after.as_ref(), page).await.unwrap();
        assert!(files.len() as u64 <= page);
        let Some(last) = files.last() else {
            return names;
        };
        after = Some(FilePosition::after(last));
        names.extend(files.into_iter().map(|file| file.name));
    }
}

fn prefixed(prefix: &str) -> FileFilter {
    FileFilter { prefix: Some(prefix.to_owned()), ..FileFilter::default() }
}

async fn prefixes_match_bytewise(meta: &Meta) {
    let base = base();
    let long = "l/".to_owned() + &"é".repeat(200);
    let longer = format!("{long}x");
    let all =
        ["q%a", "q_a", "qxa", "Q%a", "q%A", "q%a", "q\\a", "qé.JPG", "q", &longer, &long, "q a ", "q a"];
    for (number, name) in (base..).zip(all) {
        create(meta, number, name).await;
    }
    for (prefix, expected) in [
        ("q%", vec!["q%A", "q%a", "q%a"]),
        ("q_", vec!["q_a"]),
        ("Q", vec!["Q%a"]),
        ("q\\", vec!["q\\a"]),
        ("qé", vec!["qé.JPG"]),
        ("q a", vec!["q a", "q a "]),
        ("qz", vec![]),
        // Names with the same first bytes are ordered by uid.
        ("l/é", vec![longer.as_str(), long.as_str()]),
    ] {
        for page in [1, 2, 100] {
            assert_eq!(names(meta, &prefixed(prefix), page).await, expected, "{prefix} by {page}");
        }
    }
    let pictures = FileFilter { category: Some(Category::Image), ..prefixed("q") };
    assert_eq!(names(meta, &pictures, 1).await, ["qé.JPG"]);
    let stored = FileFilter { state: Some(FileState::Stored), ..prefixed("q") };
    assert_eq!(names(meta, &stored, 1).await, [""; 0]);
}

async fn pages_cover_all_files_in_order(meta: &Meta) {
    let base = base();
    for number in 0..7 {
        // All names have the same start.
        create(meta, base + number, if number % 2 == 0 { "same.mp3" } else { "same.mp4" }).await;
    }
    assert_eq!(
        meta.files.delete(Tenant::default(), uid(base + 3), uid(base + 100)).await.unwrap(),
        DeleteOutcome::Deleted
    );
    assert_eq!(enqueued(meta, base + 100).await, None, "the file had no content to delete");
    for filter in [
        FileFilter::default(),
        prefixed("same"),
        FileFilter { state: Some(FileState::Pending), ..FileFilter::default() },
        FileFilter { category: Some(Category::Audio), ..FileFilter::default() },
    ] {
        for page in [1, 2, 3, 1000] {
            let (mut found, mut after) = (Vec::new(), None::<FilePosition>);
            loop {
                let files = meta.files.list(&Tenant::default(), &filter, after.as_ref(), page).await.unwrap();
                let Some(last) = files.last() else { break };
                after = Some(FilePosition::after(last));
                found.extend(files.iter().map(|file| file.uid.get()));
            }
            found.retain(|uid| (base..base + 7).contains(uid));
            let expected = match (&filter.prefix, filter.category) {
                // Ordered by name first.
                (Some(_), _) => vec![0, 2, 4, 6, 1, 5],
                (None, Some(_)) => vec![0, 2, 4, 6],
                (None, None) => vec![0, 1, 2, 4, 5, 6],
            };
            let expected: Vec<_> = expected.into_iter().map(|number| base + number).collect();
            assert_eq!(found, expected, "{filter:?} by {page}");
        }
    }
    for filter in [FileFilter::default(), prefixed("same")] {
        let removed = FileFilter { state: Some(FileState::Deleted), ..filter };
        let removed = meta.files.list(&Tenant::default(), &removed, None, 1000).await.unwrap();
        assert!(removed.iter().any(|file| file.uid == uid(base + 3)));
        assert!(removed.iter().all(|file| file.state == FileState::Deleted));
    }
}

async fn listings_filter_by_creation_time(meta: &Meta) {
    let base = base();
    create(meta, base, "moment").await;
    let file = meta.files.record(uid(base)).await.unwrap().unwrap();
    let at = file.created_at;
    for (after, before, is_listed) in [
        (None, None, true),
        (Some(at), None, true),
        (Some(at + 1), None, false),
        (None, Some(at), false),
        (None, Some(at + 1), true),
        (Some(at), Some(at), false),
        (Some(i64::MIN), Some(i64::MAX), true),
        (Some(i64::MAX), Some(i64::MIN), false),
    ] {
        let filter = FileFilter { created_after: after, created_before: before, ..prefixed("moment") };
        assert_eq!(names(meta, &filter, 10).await.len(), usize::from(is_listed), "{after:?} {before:?}");
    }
}

async fn updates_change_name_and_metadata(meta: &Meta) {
    let base = base();
    create(meta, base, "before.jpg").await;
    let note = |key: &str, value: &str| -> MetadataEdit {
        let (key, value) = (key.to_owned(), value.to_owned());
        Arc::new(move |metadata: &mut FileMetadata| {
            metadata.insert(key.clone(), value.clone());
            value != "refused"
        })
    };
    let name = Some("after.mp3".to_owned());
    let special = "\u{1}\"\\ é\u{10ffff}";
    assert_eq!(
        meta.files.update(Tenant::default(), uid(base), name, Some(note(special, special))).await.unwrap(),
        UpdateOutcome::Updated
    );
    assert_eq!(
        meta.files.update(Tenant::default(), uid(base), None, Some(note("b", "c"))).await.unwrap(),
        UpdateOutcome::Updated
    );
    assert_eq!(
        meta.files.update(Tenant::default(), uid(base), None, Some(note("b", "refused"))).await.unwrap(),
        UpdateOutcome::InvalidMetadata
    );
    let file = meta.files.record(uid(base)).await.unwrap().unwrap();
    assert_eq!((file.name.as_str(), file.category()), ("after.mp3", Category::Audio));
    let expected = [(special, special), ("b", "c")].map(|(key, value)| (key.to_owned(), value.to_owned()));
    assert_eq!(file.metadata, FileMetadata::from(expected));
    assert_eq!(names(meta, &prefixed("before"), 10).await, [""; 0]);
    let audio = FileFilter { category: Some(Category::Audio), ..prefixed("after") };
    assert_eq!(names(meta, &audio, 10).await, ["after.mp3"]);
    // About the maximum size of metadata. Escaped in JSON, it exceeds the `TEXT` type of some
    // databases.
    let long = "\u{1}".repeat(16_000);
    assert_eq!(
        meta.files.update(Tenant::default(), uid(base), None, Some(note("long", &long))).await.unwrap(),
        UpdateOutcome::Updated
    );
    let file = meta.files.record(uid(base)).await.unwrap().unwrap();
    assert_eq!(file.metadata.get("long"), Some(&long));
    assert_eq!(
        meta.files.update(Tenant::default(), uid(base + 1), None, None).await.unwrap(),
        UpdateOutcome::Unknown
    );
    assert_eq!(
        meta.files.delete(Tenant::default(), uid(base), uid(base + 100)).await.unwrap(),
        DeleteOutcome::Deleted
    );
    let closed = UpdateOutcome::Gone(FileState::Deleted);
    assert_eq!(meta.files.update(Tenant::default(), uid(base), None, None).await.unwrap(), closed);
}

async fn copies_share_content(meta: &Meta) {
    let base = base();
    super::create(meta, base).await;
    let copy = async |from: i64, to: i64, name: Option<&str>| {
        let name = name.map(str::to_owned);
        let copy = NewCopy { uid: uid(to), name, metadata: None, content_type: None, object: None };
        meta.files.copy(Tenant::default(), uid(from), copy).await.unwrap()
    };
    assert_eq!(copy(base, base + 1, None).await, CopyOutcome::NotStored(FileState::Pending));
    assert_eq!(begin(meta, base, base + 5).await, base);
    assert_eq!(finish(meta, base, base, "copied").await, StoreOutcome::Stored);
    let before = meta.admin.stats().await.unwrap();
    assert_eq!(copy(base, base + 1, None).await, CopyOutcome::Copied);
    assert_eq!(copy(base + 1, base + 2, Some("x.json")).await, CopyOutcome::Copied);
    assert_eq!(copy(base + 9, base + 3, None).await, CopyOutcome::Unknown);
    assert_eq!(copy(base, base + 1, None).await, CopyOutcome::UidTaken);
    let files = meta.files.stored_among(&[uid(base + 1), uid(base + 2)]).await.unwrap();
    assert_eq!(files[0].name, format!("{base}.txt"));
    assert_eq!(
        (files[0].content_type.as_str(), files[1].content_type.as_str()),
        ("text/plain", "application/json")
    );
    assert!(files.iter().all(|file| file.content.blob_id == base));
    assert_eq!(files[1].content.digests, Some(digests("copied")));
    let after = meta.admin.stats().await.unwrap();
    assert_eq!((after.blobs, after.bytes_stored), (before.blobs, before.bytes_stored));
    assert_eq!(after.bytes_saved, before.bytes_saved + 12);
    let stored = |stats: &crate::DatabaseStats| {
        stats.files.iter().find(|(state, _)| *state == FileState::Stored).map(|(_, count)| *count)
    };
    assert_eq!(stored(&after), stored(&before).map(|count| count + 2));
}

async fn idempotency_keys_are_acquired_once(meta: &Meta) {
    let request = |key: &str, request: u8, attempt: i64| IdempotentRequest {
        tenant: Tenant::default(),
        key: key.to_owned(),
        fingerprint: [request; 32],
        owner: uid(attempt),
    };
    let acquire = async |key: &str, number, attempt| {
        meta.idempotency.acquire(request(key, number, attempt)).await.unwrap()
    };
    let acquired = |number| KeyAcquisition::Acquired(uid(number));
    assert_eq!(acquire("k", 1, 1).await, acquired(1));
    assert_eq!(acquire("k", 1, 2).await, KeyAcquisition::InProgress);
    assert_eq!(acquire("k", 2, 2).await, KeyAcquisition::DifferentRequest);
    assert_eq!(acquire("K", 2, 2).await, acquired(2), "keys are case-sensitive");
    let body = format!("\"{}\"", "x".repeat(100_000));
    let answer = RecordedAnswer { status: 201, location: Some("/somewhere".to_owned()), body };
    // A request that does not hold the key cannot change it.
    meta.idempotency.record_answer(request("k", 1, 2), answer.clone()).await.unwrap();
    meta.idempotency.release(request("k", 1, 2)).await.unwrap();
    assert!(!meta.idempotency.renew(request("k", 1, 2)).await.unwrap());
    assert!(!meta.idempotency.reserve_uid(request("k", 1, 2), uid(9)).await.unwrap());
    assert_eq!(acquire("k", 1, 2).await, KeyAcquisition::InProgress);
    assert!(meta.idempotency.renew(request("k", 1, 1)).await.unwrap());
    meta.idempotency.record_answer(request("k", 1, 1), answer.clone()).await.unwrap();
    assert_eq!(acquire("k", 1, 2).await, KeyAcquisition::Answered(answer.clone()));
    assert_eq!(acquire("k", 2, 2).await, KeyAcquisition::DifferentRequest);
    // An answered key cannot be released.
    meta.idempotency.release(request("k", 1, 1)).await.unwrap();
    assert_eq!(acquire("k", 1, 2).await, KeyAcquisition::Answered(answer));
    // After a release, the same request gets the same uid: the first attempt may have taken effect.
    meta.idempotency.release(request("K", 2, 2)).await.unwrap();
    assert_eq!(acquire("K", 2, 3).await, acquired(2));
    assert!(meta.idempotency.reserve_uid(request("K", 2, 3), uid(4)).await.unwrap());
    meta.idempotency.release(request("K", 2, 3)).await.unwrap();
    assert_eq!(acquire("K", 2, 5).await, acquired(4));
    meta.idempotency.release(request("K", 2, 5)).await.unwrap();
    assert_eq!(acquire("K", 3, 6).await, acquired(6), "another request gets its own uid");
    assert_eq!(meta.idempotency.purge(10).await.unwrap(), 0);
    let attempts = (10..18).map(|attempt| meta.idempotency.acquire(request("race", 1, attempt)));
    let outcomes = futures_util::future::join_all(attempts).await;
    let outcomes: Vec<_> = outcomes.into_iter().map(Result::unwrap).collect();
    assert_eq!(
        outcomes.iter().filter(|outcome| matches!(outcome, KeyAcquisition::Acquired(_))).count(),
        1,
        "{outcomes:?}"
    );
    assert_eq!(
        outcomes.iter().filter(|outcome| **outcome == KeyAcquisition::InProgress).count(),
        7,
        "{outcomes:?}"
    );
}

async fn challenges_are_taken_once_and_expire(meta: &Meta) {
    let (one, two) = (uid(7_001), uid(7_002));
    let minute = std::time::Duration::from_mins(1);
    let challenge = meta.uploads.create_challenge(one, 5, [1; 32], minute).await.unwrap();
    assert_eq!((challenge.blob_id, challenge.nonce), (5, [1; 32]));
    meta.uploads.create_challenge(two, 6, [2; 32], std::time::Duration::ZERO).await.unwrap();
    assert_eq!(meta.uploads.challenge(one).await.unwrap(), Some(challenge));
    let acquired = (0..8).map(|_| meta.uploads.take_challenge(one));
    let acquired = futures_util::future::join_all(acquired).await;
    let acquired: Vec<_> = acquired.into_iter().filter_map(Result::unwrap).collect();
    assert_eq!(acquired, [challenge]);
    assert_eq!(meta.uploads.challenge(one).await.unwrap(), None);
    meta.uploads.create_challenge(one, 5, [3; 32], minute).await.unwrap();
    assert_eq!(meta.uploads.challenge(two).await.unwrap(), None);
    assert_eq!(meta.uploads.take_challenge(two).await.unwrap(), None);
    assert_eq!(meta.uploads.purge_challenges(10).await.unwrap(), 1, "the other challenge is still valid");
}

async fn tasks_are_listed_newest_first(meta: &Meta) {
    let all = meta.tasks.list(TaskFilter::default(), None, 1000).await.unwrap();
    assert!(all.len() > 2 && all.is_sorted_by(|newer, older| newer.id > older.id));
    let rest = meta.tasks.list(TaskFilter::default(), Some(all[0].id), 1).await.unwrap();
    assert_eq!(rest[0].id, all[1].id);
    let filter = TaskFilter { state: Some(TaskState::Dead), kind: Some("a") };
    let dead = meta.tasks.list(filter, None, 1000).await.unwrap();
    let expected = all.iter().filter(|task| task.kind == "a" && task.state == TaskState::Dead);
    assert!(!dead.is_empty());
    assert_eq!(dead.len(), expected.count());
    let stats = meta.admin.stats().await.unwrap();
    assert_eq!(stats.tasks_by_state().values().sum::<u64>(), all.len() as u64);
}
