//! Multipart uploads of a store that requires parts of 10 to 1,000 bytes; only the last part may be
//! smaller.

use osproxy_types::tenant::Tenant;

use super::{
    create, digests,
    parts::{begin_merge, complete_as, enqueued, inspected, received},
    uid,
};
use crate::{
    BeginPartOutcome, CompleteOutcome, CompletePreconditions, CompleteRequest, ContentLayout, FileState,
    FinishPartOutcome, LostParts, MergeOutcome, Meta, MultipartUpload, ObjectRowKind, PartIntent, StoredPart,
};

/// `meta` must put new files in a store with multipart uploads.
pub(crate) async fn run(meta: &Meta) {
    slots_form_a_part_list_that_stores_accept(meta).await;
    the_first_recorded_upload_id_wins(meta).await;
    an_unchanged_part_stays_in_the_multipart_upload(meta).await;
    lost_parts_can_be_sent_again(meta).await;
    a_completed_multipart_upload_is_verified(meta).await;
    a_partial_multipart_upload_is_merged(meta).await;
}

async fn begin(meta: &Meta, file: i64, number: u32, attempt: i64, size: u64) -> PartIntent {
    match meta.uploads.begin_part(uid(file), number, uid(attempt), Some(size), None).await.unwrap() {
        BeginPartOutcome::Ready(intent) => intent,
        other => panic!("{other:?}"),
    }
}

async fn finish(meta: &Meta, file: i64, intent: &PartIntent, content: &str) -> FinishPartOutcome {
    let tag = format!("tag-{content}");
    meta.uploads.finish_part(uid(file), intent, received(content, None, tag)).await.unwrap()
}

/// Stores a part, and returns whether it went into the multipart upload.
pub(super) async fn send(meta: &Meta, file: i64, number: u32, attempt: i64, content: &str) -> bool {
    let intent = begin(meta, file, number, attempt, content.len() as u64).await;
    if intent.slot.is_some() {
        meta.uploads.record_upload_id(intent.blob_id, "upload".to_owned()).await.unwrap();
    }
    assert_eq!(finish(meta, file, &intent, content).await, FinishPartOutcome::Stored(None));
    intent.slot.is_some()
}

async fn complete(meta: &Meta, file: i64, parts: u32, size: u64, task_id: i64) -> CompleteOutcome {
    let request =
        CompleteRequest { parts: Some(parts), size: Some(size), expected: crate::ExpectedDigests::default() };
    complete_as(meta, file, request, task_id).await
}

/// Finishes a completion, and returns whether the file is complete. The id of the enqueued task is
/// `file + 20`.
pub(super) async fn finish_completion(meta: &Meta, file: i64, blob_id: i64) -> bool {
    try_finish(meta, file, blob_id).await == CompleteOutcome::Completed
}

/// Like [`finish_completion`], and returns the outcome.
pub(super) async fn try_finish(meta: &Meta, file: i64, blob_id: i64) -> CompleteOutcome {
    let mut preconditions = CompletePreconditions::default();
    loop {
        let finishing =
            meta.uploads.finish_multipart(uid(file), blob_id, preconditions.clone(), uid(file + 20));
        match finishing.await.unwrap() {
            CompleteOutcome::NeedsInspection(_) => {
                preconditions.inspected = Some(inspected(meta, blob_id).await);
            }
            finished => return finished,
        }
    }
}

pub(super) async fn multipart_to_complete(meta: &Meta, file: i64, parts: u32, size: u64) -> MultipartUpload {
    match complete(meta, file, parts, size, file + 900).await {
        CompleteOutcome::Multipart(upload) => upload,
        other => panic!("{other:?}"),
    }
}

async fn slots_form_a_part_list_that_stores_accept(meta: &Meta) {
    // Part numbers and sizes in order of arrival, and whether each goes into the multipart upload.
    let cases: [&[(u32, u64, bool)]; 8] = [
        &[(1, 10, true), (2, 10, true), (3, 1, true)],
        &[(3, 1, true), (2, 10, true), (1, 1000, true), (4, 10, false), (5, 1, false)],
        &[(1, 9, true), (2, 9, false), (3, 10, false)],
        &[(2, 10, true), (1, 9, false), (3, 10, true)],
        &[(1, 0, false), (2, 1001, false), (3, 1000, true)],
        &[(1, 10, true), (1, 10, false)],
        &[(10_000, 5, true), (10_001, 10, false), (9_999, 10, true)],
        &[(2, 9, true), (2, 10, false), (1, 10, true), (3, 9, false)],
    ];
    for (case, parts) in (0..).zip(cases) {
        let file = 93_000_000 + case * 100;
        create(meta, file).await;
        for (attempt, (number, size, slot)) in (1..).zip(parts) {
            let intent = begin(meta, file, *number, file + attempt, *size).await;
            assert_eq!(intent.slot.is_some(), *slot, "{case}: part {number} of {size} bytes");
        }
    }
    // Random parts in random order.
    let mut state = 1_u64;
    let mut random = |below: u64| {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (state >> 33) % below
    };
    for round in 0..40 {
        let file = 93_100_000 + round * 100;
        create(meta, file).await;
        let mut accepted = std::collections::BTreeMap::new();
        for attempt in 1..12 {
            let number = u32::try_from(random(6)).unwrap() + 1;
            let size = [3, 9, 10, 500][usize::try_from(random(4)).unwrap()];
            let intent = begin(meta, file, number, file + attempt, size).await;
            if intent.slot.is_some() {
                assert!(accepted.insert(number, size).is_none(), "two parts with the same number");
            }
            // Some writes are aborted, and the part can be sent again.
            if random(3) == 0 {
                meta.blobs.mark_deleting(ObjectRowKind::Part, intent.id).await.unwrap();
                meta.blobs.delete_row(ObjectRowKind::Part, intent.id).await.unwrap();
                if intent.slot.is_some() {
                    accepted.remove(&number);
                }
            }
            let last = accepted.len().saturating_sub(1);
            assert!(accepted.values().take(last).all(|size| *size >= 10), "{accepted:?}");
        }
    }
}

async fn the_first_recorded_upload_id_wins(meta: &Meta) {
    create(meta, 93_200_000).await;
    let intent = begin(meta, 93_200_000, 1, 93_200_001, 10).await;
    let slot = intent.slot.unwrap();
    assert_eq!((slot.key.as_str(), slot.upload_id), ("unknown/93200000.txt", None));
    let named =
        async |name: &str| meta.uploads.record_upload_id(intent.blob_id, name.to_owned()).await.unwrap();
    assert_eq!(named("first").await.as_deref(), Some("first"));
    assert_eq!(named("second").await.as_deref(), Some("first"));
    let later = begin(meta, 93_200_000, 2, 93_200_002, 10).await.slot.unwrap();
    assert_eq!(later.upload_id.as_deref(), Some("first"));
    meta.files.delete(Tenant::default(), uid(93_200_000), uid(93_200_010)).await.unwrap();
    assert_eq!(named("third").await, None);
    let remains = meta.blobs.deleting(intent.blob_id).await.unwrap().unwrap();
    assert_eq!(remains.object.unwrap().as_str(), "unknown/93200000.txt");
    assert!(remains.parts.iter().all(|(_, key)| key.is_none()), "{:?}", remains.parts);
}

async fn an_unchanged_part_stays_in_the_multipart_upload(meta: &Meta) {
    create(meta, 93_210_000).await;
    assert!(send(meta, 93_210_000, 1, 93_210_001, "0123456789").await);
    let again = begin(meta, 93_210_000, 1, 93_210_002, 10).await;
    assert!(again.slot.is_none());
    assert_eq!(finish(meta, 93_210_000, &again, "0123456789").await, FinishPartOutcome::Unchanged);
    let other = begin(meta, 93_210_000, 1, 93_210_003, 10).await;
    assert_eq!(
        finish(meta, 93_210_000, &other, "9876543210").await,
        FinishPartOutcome::Stored(Some(93_210_001))
    );
    // The replaced part does not have its own object.
    let pending_delete = meta.blobs.mark_deleting(ObjectRowKind::Part, 93_210_001).await.unwrap().unwrap();
    assert_eq!((pending_delete.store.as_str(), pending_delete.key), ("s3", None));
    // No part is left in the multipart upload, so the store has nothing to complete.
    assert_eq!(complete(meta, 93_210_000, 1, 10, 93_210_010).await, CompleteOutcome::Completed);
}

async fn lost_parts_can_be_sent_again(meta: &Meta) {
    for (file, lost, remaining) in [
        (93_220_000, LostParts::Parts(vec![2]), vec![1, 3]),
        (93_221_000, LostParts::Upload, vec![]),
        (93_222_000, LostParts::Rejected, vec![]),
    ] {
        create(meta, file).await;
        for (number, content) in [(1, "0123456789"), (2, "abcdefghij"), (3, "end")] {
            assert!(send(meta, file, number, file + i64::from(number), content).await);
        }
        let blob = multipart_to_complete(meta, file, 3, 23).await.blob_id;
        assert_eq!(meta.files.state(uid(file)).await.unwrap(), Some(FileState::Completing));
        assert!(matches!(
            meta.uploads.begin_part(uid(file), 2, uid(file + 10), Some(10), None).await.unwrap(),
            BeginPartOutcome::Closed(FileState::Completing)
        ));
        let other = || "another".to_owned();
        // A completed upload is missing from the store, too. So a part that does not find the
        // upload does not prove that the upload was lost.
        assert!(!meta.uploads.drop_lost_upload(blob, "upload".to_owned()).await.unwrap());
        meta.uploads.drop_lost_parts(blob, other(), lost.clone()).await.unwrap();
        assert_eq!(meta.files.state(uid(file)).await.unwrap(), Some(FileState::Completing), "another upload");
        meta.uploads.drop_lost_parts(blob, "upload".to_owned(), lost.clone()).await.unwrap();
        assert_eq!(meta.uploads.status(uid(file)).await.unwrap().unwrap().parts, remaining);
        assert_eq!(meta.files.state(uid(file)).await.unwrap(), Some(FileState::Receiving));
        let slot = begin(meta, file, 2, file + 11, 10).await.slot;
        assert_eq!(slot.is_some(), !matches!(lost, LostParts::Rejected));
        let upload = slot.and_then(|slot| slot.upload_id);
        assert_eq!(upload.is_some(), matches!(lost, LostParts::Parts(_)), "a new upload must be begun");
    }
}

async fn a_completed_multipart_upload_is_verified(meta: &Meta) {
    let file = 93_230_000;
    create(meta, file).await;
    assert!(send(meta, file, 2, file + 2, "end").await);
    assert!(send(meta, file, 1, file + 1, "the beginning ").await);
    let upload = multipart_to_complete(meta, file, 2, 17).await;
    let tags: Vec<_> = upload.parts.iter().map(|(number, tag)| (*number, tag.as_str())).collect();
    assert_eq!(tags, [(1, "tag-the beginning "), (2, "tag-end")]);
    assert_eq!((upload.size, upload.store.as_str(), upload.upload_id.as_str()), (17, "s3", "upload"));
    // Completing again returns the same upload. The list of completing uploads contains it, too.
    assert_eq!(multipart_to_complete(meta, file, 2, 17).await, upload);
    assert_eq!(meta.uploads.completing("s3", 10).await.unwrap(), [(uid(file), upload.clone())]);
    assert_eq!(meta.uploads.completing("local", 10).await.unwrap(), []);
    assert!(meta.files.stored(uid(file)).await.unwrap().is_none());
    let finish = async || finish_completion(meta, file, upload.blob_id).await;
    assert!(finish().await);
    assert!(!finish().await);
    assert_eq!(enqueued(meta, file + 20).await, Some(format!("verify_blob {}", upload.blob_id)));
    let stored = meta.files.stored(uid(file)).await.unwrap().unwrap();
    assert_eq!(stored.content.layout, ContentLayout::Whole(upload.key.clone()));
    assert_eq!(stored.content.digests, None);
    assert!(
        meta.blobs
            .by_md5(&Tenant::default(), digests("the beginning end").md5.unwrap())
            .await
            .unwrap()
            .is_none()
    );
    let unverified = meta.blobs.unverified(upload.blob_id).await.unwrap().unwrap();
    assert_eq!((unverified.key, unverified.size), (upload.key, 17));
    let parts = meta.blobs.parts(upload.blob_id).await.unwrap();
    assert_eq!(parts.iter().map(StoredPart::range).collect::<Vec<_>>(), [0..14, 14..17]);
    let digests = digests("the beginning end");
    assert_eq!(meta.blobs.finish_verification(upload.blob_id, digests).await.unwrap(), MergeOutcome::Stored);
    assert!(meta.blobs.unverified(upload.blob_id).await.unwrap().is_none());
    assert_eq!(
        meta.blobs.by_md5(&Tenant::default(), digests.md5.unwrap()).await.unwrap().unwrap().id,
        upload.blob_id
    );
    // A second blob with the same content cannot be verified.
    let other = file + 500;
    create(meta, other).await;
    assert!(send(meta, other, 1, other + 1, "the beginning end").await);
    let second = multipart_to_complete(meta, other, 1, 17).await.blob_id;
    assert!(finish_completion(meta, other, second).await);
    assert_eq!(meta.blobs.finish_verification(second, digests).await.unwrap(), MergeOutcome::Conflict);
    // If the object of the first blob is lost, the files of that blob move to the second blob.
    assert_eq!(
        meta.blobs.replace_lost(upload.blob_id, second, uid(other + 22)).await.unwrap(),
        MergeOutcome::Stored
    );
    assert_eq!(meta.blobs.finish_verification(second, digests).await.unwrap(), MergeOutcome::Stored);
    for uid in [uid(file), uid(other)] {
        assert_eq!(meta.files.stored(uid).await.unwrap().unwrap().content.blob_id, second);
    }
    assert_eq!(enqueued(meta, other + 22).await, Some(format!("delete_blob {}", upload.blob_id)));
}

async fn a_partial_multipart_upload_is_merged(meta: &Meta) {
    let file = 93_240_000;
    create(meta, file).await;
    assert!(send(meta, file, 1, file + 1, "0123456789").await);
    assert!(send(meta, file, 3, file + 3, "abcdefghij").await);
    assert!(!send(meta, file, 2, file + 2, "small").await);
    let upload = multipart_to_complete(meta, file, 3, 25).await;
    assert_eq!((upload.parts.len(), upload.size), (2, 20));
    assert!(finish_completion(meta, file, upload.blob_id).await);
    assert_eq!(enqueued(meta, file + 20).await, Some(format!("merge_parts {}", upload.blob_id)));
    let parts = meta.blobs.parts(upload.blob_id).await.unwrap();
    let ranges: Vec<_> =
        parts.iter().map(|part| (part.key.as_str(), part.range(), part.is_own_object)).collect();
    let (whole, own) = ("unknown/93240000.txt", "unknown/93240000_2");
    assert_eq!(ranges, [(whole, 0..10, false), (own, 0..5, true), (whole, 10..20, false)]);
    let intent = begin_merge(meta, upload.blob_id, file + 30).await;
    assert!(intent.has_multipart);
    assert_eq!(intent.key.as_str(), "unknown/93240030.txt", "the blob's own key is taken");
    let digests = digests("0123456789smallabcdefghij");
    assert_eq!(
        meta.blobs.finish_merge(upload.blob_id, &intent, digests).await.unwrap(),
        MergeOutcome::Stored
    );
    // The object of the multipart upload has a row until the object is removed. No part is read
    // from the object any more.
    let pending_delete = meta.blobs.mark_deleting(ObjectRowKind::Blob, file + 30).await.unwrap().unwrap();
    assert_eq!(pending_delete.key.unwrap().as_str(), whole);
    assert_eq!(meta.blobs.parts(upload.blob_id).await.unwrap().len(), 0);
    let mut remaining = meta.blobs.part_objects(upload.blob_id).await.unwrap();
    remaining.sort();
    let remaining: Vec<_> =
        remaining.iter().map(|(id, key)| (*id, key.as_ref().map(osproxy_storage::Key::as_str))).collect();
    assert_eq!(remaining, [(file + 1, None), (file + 2, Some(own)), (file + 3, None)]);
}
