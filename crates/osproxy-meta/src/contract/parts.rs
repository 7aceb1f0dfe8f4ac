//! Uploads in parts, merges and deletions.

use std::ops::RangeInclusive;

use osproxy_types::tenant::Tenant;

use super::{create, digests, uid, unfinished_ids};
use crate::{
    BeginMergeOutcome, BeginPartOutcome, BlobPayload, CompleteOutcome, CompletePreconditions,
    CompleteRequest, ContentLayout, DeleteOutcome, FileState, FinishPartOutcome, InspectionResult,
    MergeIntent, MergeOutcome, Meta, ObjectRowKind, PartIntent, ReceivedPart, StoreOutcome, StoredPart,
    TaskState, WholeBlob,
};

pub(super) async fn run(meta: &Meta) {
    parts_become_a_file_and_are_merged(meta).await;
    a_resent_part_replaces_the_earlier_one(meta).await;
    complete_requires_exactly_the_declared_parts(meta).await;
    one_of_two_concurrent_merges_wins(meta).await;
    merged_duplicates_share_one_blob(meta).await;
    merged_content_with_wrong_digests_is_rejected(meta).await;
    deleting_the_last_file_deletes_its_blob(meta).await;
    a_whole_upload_supersedes_parts(meta).await;
    uploads_expire_and_are_purged(meta).await;
}

/// Returns the kind of an enqueued task and the id of its blob.
pub(super) async fn enqueued(meta: &Meta, id: i64) -> Option<String> {
    let (task, _) = meta.tasks.find(id).await.unwrap()?;
    assert_eq!((task.state, task.attempts), (TaskState::Queued, 0));
    let BlobPayload { blob_id } = serde_json::from_str(&task.payload).unwrap();
    Some(format!("{} {blob_id}", task.kind))
}

async fn begin(meta: &Meta, file: i64, number: u32, attempt: i64) -> PartIntent {
    match meta.uploads.begin_part(uid(file), number, uid(attempt), None, None).await.unwrap() {
        BeginPartOutcome::Ready(intent) => intent,
        other => panic!("{other:?}"),
    }
}

pub(super) fn received(content: &str, sniffed: Option<&'static str>, tag: String) -> ReceivedPart {
    ReceivedPart {
        digests: digests(content),
        sniffed,
        tag,
        max_size: None,
        content_type: None,
        checksums: None,
    }
}

async fn finish(meta: &Meta, file: i64, intent: &PartIntent, content: &str) -> FinishPartOutcome {
    meta.uploads
        .finish_part(uid(file), intent, received(content, Some("image/png"), String::new()))
        .await
        .unwrap()
}

async fn send(meta: &Meta, file: i64, number: u32, attempt: i64, content: &str) -> PartIntent {
    let intent = begin(meta, file, number, attempt).await;
    assert_eq!(finish(meta, file, &intent, content).await, FinishPartOutcome::Stored(None));
    intent
}

fn missing(stored: u64, expected: u32, missing: Option<RangeInclusive<u32>>) -> CompleteOutcome {
    CompleteOutcome::PartsMismatch { there: stored, wanted: expected, missing: missing.into_iter().collect() }
}

async fn complete(meta: &Meta, file: i64, parts: u32, size: u64, task_id: i64) -> CompleteOutcome {
    let request =
        CompleteRequest { parts: Some(parts), size: Some(size), expected: crate::ExpectedDigests::default() };
    complete_as(meta, file, request, task_id).await
}

/// Completes an upload whose first bytes are those of a PNG image.
pub(super) async fn complete_as(
    meta: &Meta,
    file: i64,
    request: CompleteRequest,
    task_id: i64,
) -> CompleteOutcome {
    complete_with(meta, file, request, CompletePreconditions::default(), task_id).await
}

/// Like [`complete_as`], with these preconditions.
pub(super) async fn complete_with(
    meta: &Meta,
    file: i64,
    request: CompleteRequest,
    mut preconditions: CompletePreconditions,
    task_id: i64,
) -> CompleteOutcome {
    loop {
        match meta.uploads.complete(uid(file), request, preconditions.clone(), uid(task_id)).await.unwrap() {
            CompleteOutcome::NeedsInspection(inspection) => {
                let mut result = inspected(meta, inspection.blob_id).await;
                result.part_ids.truncate(inspection.parts as usize);
                preconditions.inspected = Some(result);
            }
            completed => return completed,
        }
    }
}

/// The inspection result for all parts of a blob.
pub(super) async fn inspected(meta: &Meta, blob_id: i64) -> InspectionResult {
    let attempts = meta.blobs.parts(blob_id).await.unwrap().iter().map(|part| part.id).collect();
    InspectionResult { part_ids: attempts, detected_type: Some("image/png"), digests: None }
}

/// Creates a complete file with the parts `a` and `bc`. Returns the id of its blob.
async fn completed(meta: &Meta, file: i64) -> i64 {
    create(meta, file).await;
    let blob = send(meta, file, 1, file + 1, "a").await.blob_id;
    send(meta, file, 2, file + 2, "bc").await;
    assert_eq!(complete(meta, file, 2, 3, file + 3).await, CompleteOutcome::Completed);
    blob
}

pub(super) async fn begin_merge(meta: &Meta, blob: i64, fallback_id: i64) -> MergeIntent {
    match meta.blobs.begin_merge(blob, fallback_id).await.unwrap() {
        BeginMergeOutcome::Ready(intent) => intent,
        other => panic!("{other:?}"),
    }
}

async fn numbers(meta: &Meta, blob: i64) -> Vec<u32> {
    meta.blobs.parts(blob).await.unwrap().iter().map(|part| part.number).collect()
}

async fn parts_become_a_file_and_are_merged(meta: &Meta) {
    let unknown = meta.uploads.begin_part(uid(100), 1, uid(101), None, None).await.unwrap();
    assert!(matches!(unknown, BeginPartOutcome::Unknown));
    assert!(meta.uploads.status(uid(100)).await.unwrap().is_none());
    create(meta, 100).await;
    assert_eq!(meta.uploads.status(uid(100)).await.unwrap().unwrap().parts, [0; 0]);
    // Parts may arrive in any order.
    let second = begin(meta, 100, 2, 101).await;
    assert_eq!((second.blob_id, second.key.as_str()), (100, "unknown/100_2"));
    send(meta, 100, 1, 102, "a").await;
    assert_eq!(meta.uploads.status(uid(100)).await.unwrap().unwrap().parts, [1]);
    assert_eq!(finish(meta, 100, &second, "bc").await, FinishPartOutcome::Stored(None));
    assert!(meta.files.stored(uid(100)).await.unwrap().is_none());
    assert_eq!(complete(meta, 100, 2, 3, 103).await, CompleteOutcome::Completed);
    assert_eq!(enqueued(meta, 103).await.unwrap(), "merge_parts 100");

    // The file can be read immediately, but instant uploads use the content only after the merge.
    let stored = meta.files.stored(uid(100)).await.unwrap().unwrap();
    assert_eq!((&stored.content.layout, stored.content.size), (&ContentLayout::Parts, 3));
    assert_eq!(stored.content_type, "image/png");
    assert!(stored.content.digests.is_none());
    assert!(meta.blobs.by_md5(&Tenant::default(), digests("abc").md5.unwrap()).await.unwrap().is_none());
    let parts: Vec<StoredPart> = meta.blobs.parts(100).await.unwrap();
    let parts: Vec<_> = parts.iter().map(|part| (part.number, part.key.as_str(), part.size)).collect();
    assert_eq!(parts, [(1, "unknown/100_1", 1), (2, "unknown/100_2", 2)]);

    let intent = begin_merge(meta, 100, 104).await;
    assert_eq!((intent.key.as_str(), intent.size), ("unknown/100.txt", 3));
    assert_eq!(meta.blobs.finish_merge(100, &intent, digests("abc")).await.unwrap(), MergeOutcome::Stored);
    let stored = meta.files.stored(uid(100)).await.unwrap().unwrap();
    assert_eq!(stored.content.layout, ContentLayout::Whole(intent.key));
    assert_eq!(stored.content.digests, Some(digests("abc")));
    assert_eq!(
        meta.blobs.by_md5(&Tenant::default(), digests("abc").md5.unwrap()).await.unwrap().unwrap().id,
        100
    );
    assert!(matches!(
        meta.blobs.begin_merge(100, 105).await.unwrap(),
        BeginMergeOutcome::AlreadyMerged(WholeBlob { size: 3, .. })
    ));
    // Part rows stay after the merge, until `delete_part_rows` is called.
    assert_eq!(numbers(meta, 100).await, [1, 2]);
    let ids = meta.blobs.parts(100).await.unwrap().iter().map(|part| part.id).collect();
    meta.blobs.delete_part_rows(ids).await.unwrap();
    assert_eq!(numbers(meta, 100).await, [0; 0]);
    assert_eq!(meta.uploads.status(uid(100)).await.unwrap().unwrap().parts, [1, 2]);
}

async fn a_resent_part_replaces_the_earlier_one(meta: &Meta) {
    create(meta, 110).await;
    send(meta, 110, 1, 111, "first").await;
    let again = begin(meta, 110, 1, 112).await;
    assert_eq!(again.key.as_str(), "unknown/110_1_112");
    match finish(meta, 110, &again, "second").await {
        FinishPartOutcome::Stored(replaced) => assert_eq!(replaced, Some(111)),
        other => panic!("{other:?}"),
    }
    assert_eq!(numbers(meta, 110).await, [1]);
    assert_eq!(meta.blobs.parts(110).await.unwrap()[0].digests.md5, digests("second").md5);
    let unfinished = unfinished_ids(meta, ObjectRowKind::Part, i64::MAX, 0, 10).await;
    assert_eq!(unfinished, [111]);
    // A write that was swept does not become the part.
    let slow = begin(meta, 110, 1, 113).await;
    assert_eq!(
        meta.blobs.mark_deleting(ObjectRowKind::Part, 113).await.unwrap().unwrap().key.unwrap().as_str(),
        "unknown/110_1_113"
    );
    assert_eq!(finish(meta, 110, &slow, "third").await, FinishPartOutcome::Swept);
    assert_eq!(meta.blobs.parts(110).await.unwrap()[0].digests.md5, digests("second").md5);
    assert!(
        meta.blobs.mark_deleting(ObjectRowKind::Part, 112).await.unwrap().is_none(),
        "a stored part was marked for deletion"
    );
    assert_eq!(
        meta.blobs.mark_deleting(ObjectRowKind::Part, 111).await.unwrap().unwrap().key.unwrap().as_str(),
        "unknown/110_1"
    );
    for id in [111, 113] {
        meta.blobs.delete_row(ObjectRowKind::Part, id).await.unwrap();
    }
    assert_eq!(unfinished_ids(meta, ObjectRowKind::Part, i64::MAX, 0, 10).await, [0; 0]);
    // No key is written twice, even after every write of the part was removed.
    create(meta, 115).await;
    let first = begin(meta, 115, 1, 116).await;
    meta.blobs.mark_deleting(ObjectRowKind::Part, first.id).await.unwrap();
    meta.blobs.delete_row(ObjectRowKind::Part, first.id).await.unwrap();
    meta.blobs.delete_gone_parts(None).await.unwrap();
    assert_eq!(begin(meta, 115, 1, 117).await.key.as_str(), "unknown/115_1_117");
    assert_eq!(
        meta.files.delete(Tenant::default(), uid(115), uid(118)).await.unwrap(),
        DeleteOutcome::Deleted
    );
    remove(meta, 115, 2).await;
}

async fn complete_requires_exactly_the_declared_parts(meta: &Meta) {
    assert_eq!(complete(meta, 120, 1, 1, 129).await, CompleteOutcome::Unknown);
    create(meta, 120).await;
    assert_eq!(complete(meta, 120, 2, 1, 129).await, missing(0, 2, Some(1..=2)));
    send(meta, 120, 1, 121, "a").await;
    send(meta, 120, 3, 122, "c").await;
    assert_eq!(complete(meta, 120, 3, 3, 129).await, missing(2, 3, Some(2..=2)));
    // The number of parts is right, but part 3 is stored instead of part 2.
    assert_eq!(complete(meta, 120, 2, 2, 129).await, missing(2, 2, Some(2..=2)));
    let late = begin(meta, 120, 4, 124).await;
    send(meta, 120, 2, 123, "b").await;
    assert_eq!(complete(meta, 120, 2, 2, 129).await, missing(3, 2, None));
    assert_eq!(complete(meta, 120, 3, 4, 129).await, CompleteOutcome::SizeMismatch(3, 4));
    assert_eq!(enqueued(meta, 129).await, None);
    assert_eq!(complete(meta, 120, 3, 3, 129).await, CompleteOutcome::Completed);
    assert_eq!(complete(meta, 120, 3, 3, 130).await, CompleteOutcome::AlreadyCompleted);
    assert_eq!(complete(meta, 120, 3, 4, 130).await, CompleteOutcome::AlreadyCompletedMismatch);
    assert_eq!(complete(meta, 120, 2, 3, 130).await, CompleteOutcome::AlreadyCompletedMismatch);
    assert_eq!(enqueued(meta, 130).await, None);
    // The file accepts no more parts, not even those whose write has begun.
    assert_eq!(finish(meta, 120, &late, "d").await, FinishPartOutcome::Closed);
    let closed = meta.uploads.begin_part(uid(120), 1, uid(131), None, None).await.unwrap();
    assert!(matches!(closed, BeginPartOutcome::Closed(FileState::Stored)));
    assert!(meta.blobs.mark_deleting(ObjectRowKind::Part, 124).await.unwrap().is_some());
    meta.blobs.delete_row(ObjectRowKind::Part, 124).await.unwrap();
}

async fn one_of_two_concurrent_merges_wins(meta: &Meta) {
    create(meta, 140).await;
    send(meta, 140, 1, 141, "one-forty").await;
    assert_eq!(complete(meta, 140, 1, 9, 142).await, CompleteOutcome::Completed);
    let slow = begin_merge(meta, 140, 143).await;
    let fast = begin_merge(meta, 140, 144).await;
    assert_eq!((slow.key.as_str(), fast.key.as_str()), ("unknown/140.txt", "unknown/144.txt"));
    let content = digests("one-forty");
    assert_eq!(meta.blobs.finish_merge(140, &fast, content).await.unwrap(), MergeOutcome::Stored);
    assert_eq!(meta.blobs.finish_merge(140, &slow, content).await.unwrap(), MergeOutcome::Superseded);
    let stored = meta.files.stored(uid(140)).await.unwrap().unwrap();
    assert_eq!(stored.content.layout, ContentLayout::Whole(fast.key));
    // The object of the slow merge is not content, and can be removed.
    assert!(meta.blobs.mark_deleting(ObjectRowKind::Blob, 143).await.unwrap().is_some());
    meta.blobs.delete_row(ObjectRowKind::Blob, 143).await.unwrap();
    let ids = meta.blobs.parts(140).await.unwrap().iter().map(|part| part.id).collect();
    meta.blobs.delete_part_rows(ids).await.unwrap();
}

async fn merged_duplicates_share_one_blob(meta: &Meta) {
    // Blob 100 has the content "abc".
    let blob = completed(meta, 150).await;
    let intent = begin_merge(meta, blob, 154).await;
    assert_eq!(meta.blobs.finish_merge(blob, &intent, digests("abc")).await.unwrap(), MergeOutcome::Conflict);
    assert_eq!(
        meta.blobs.share_content(blob, 99_999, digests("abc"), uid(155)).await.unwrap(),
        MergeOutcome::Conflict
    );
    assert_eq!(
        meta.blobs.share_content(blob, 100, digests("abc"), uid(155)).await.unwrap(),
        MergeOutcome::Stored
    );
    assert_eq!(enqueued(meta, 155).await.unwrap(), format!("delete_blob {blob}"));
    assert_eq!(
        meta.blobs.share_content(blob, 100, digests("abc"), uid(156)).await.unwrap(),
        MergeOutcome::Superseded
    );
    let stored = meta.files.stored(uid(150)).await.unwrap().unwrap();
    assert_eq!((stored.content.blob_id, stored.content.digests), (100, Some(digests("abc"))));
    assert!(matches!(meta.blobs.begin_merge(blob, 156).await.unwrap(), BeginMergeOutcome::Gone));
    remove(meta, blob, 2).await;
    assert!(meta.blobs.mark_deleting(ObjectRowKind::Blob, 154).await.unwrap().is_some());
    meta.blobs.delete_row(ObjectRowKind::Blob, 154).await.unwrap();
}

/// Removes what is left of a blob marked for deletion.
async fn remove(meta: &Meta, blob: i64, parts: usize) {
    let remains = meta.blobs.deleting(blob).await.unwrap().expect("the blob is not marked for deletion");
    assert_eq!(remains.parts.len(), parts);
    meta.blobs.delete_part_rows(remains.parts.into_iter().map(|(id, _)| id).collect()).await.unwrap();
    meta.blobs.delete_row(ObjectRowKind::Blob, blob).await.unwrap();
    assert!(meta.blobs.deleting(blob).await.unwrap().is_none());
}

async fn merged_content_with_wrong_digests_is_rejected(meta: &Meta) {
    create(meta, 160).await;
    send(meta, 160, 1, 161, "abc").await;
    let request = CompleteRequest {
        parts: Some(1),
        size: Some(3),
        expected: crate::ExpectedDigests::md5_only(Some([7; 16])),
    };
    assert_eq!(
        meta.uploads.complete(uid(160), request, CompletePreconditions::default(), uid(162)).await.unwrap(),
        CompleteOutcome::Completed
    );
    let other = CompleteRequest { expected: crate::ExpectedDigests::md5_only(Some([8; 16])), ..request };
    assert_eq!(
        meta.uploads.complete(uid(160), other, CompletePreconditions::default(), uid(163)).await.unwrap(),
        CompleteOutcome::AlreadyCompletedMismatch
    );
    assert_eq!(meta.files.stored(uid(160)).await.unwrap().unwrap().content.md5(), Some([7; 16]));
    assert_eq!(begin_merge(meta, 160, 164).await.expected.md5, Some([7; 16]));
    assert_eq!(
        meta.blobs.reject_content(160, "wrong".to_owned(), uid(165)).await.unwrap(),
        MergeOutcome::Stored
    );
    assert_eq!(enqueued(meta, 165).await.unwrap(), "delete_blob 160");
    assert!(meta.files.stored(uid(160)).await.unwrap().is_none());
    assert_eq!(meta.files.state(uid(160)).await.unwrap(), Some(FileState::Corrupt));
    let closed =
        meta.uploads.complete(uid(160), request, CompletePreconditions::default(), uid(166)).await.unwrap();
    assert_eq!(closed, CompleteOutcome::NotOpen(FileState::Corrupt));
    remove(meta, 160, 1).await;
    assert!(meta.blobs.mark_deleting(ObjectRowKind::Blob, 164).await.unwrap().is_some());
    meta.blobs.delete_row(ObjectRowKind::Blob, 164).await.unwrap();
}

async fn deleting_the_last_file_deletes_its_blob(meta: &Meta) {
    assert_eq!(
        meta.files.delete(Tenant::default(), uid(170), uid(179)).await.unwrap(),
        DeleteOutcome::Unknown
    );
    // Files 100 and 150 share blob 100.
    assert_eq!(
        meta.files.delete(Tenant::default(), uid(100), uid(171)).await.unwrap(),
        DeleteOutcome::Deleted
    );
    assert_eq!(enqueued(meta, 171).await, None);
    assert!(meta.files.stored(uid(100)).await.unwrap().is_none(), "the file is still cached");
    assert_eq!(meta.files.state(uid(100)).await.unwrap(), Some(FileState::Deleted));
    assert_eq!(
        meta.files.delete(Tenant::default(), uid(100), uid(171)).await.unwrap(),
        DeleteOutcome::Unchanged
    );
    assert!(meta.files.stored(uid(150)).await.unwrap().is_some());
    let blob = meta.blobs.by_md5(&Tenant::default(), digests("abc").md5.unwrap()).await.unwrap().unwrap();
    assert_eq!(
        meta.files.delete(Tenant::default(), uid(150), uid(172)).await.unwrap(),
        DeleteOutcome::Deleted
    );
    assert_eq!(enqueued(meta, 172).await.unwrap(), "delete_blob 100");
    // From now on the blob cannot be shared, not even by a request that found it before.
    assert!(meta.blobs.by_md5(&Tenant::default(), digests("abc").md5.unwrap()).await.unwrap().is_none());
    let late = crate::NewFile {
        tenant: Tenant::default(),
        uid: uid(173),
        name: "late.txt".to_owned(),
        announced: crate::AnnouncedContent::default(),
        grant: None,
    };
    let content = crate::KnownContent { blob_id: blob.id, size: 3, content_type: String::new() };
    let late = crate::NewStoredFile { file: late, content };
    let created = meta.files.create_stored(vec![late]).await.unwrap();
    assert_eq!(created, Some(vec![false]));
    // The next upload of this content creates a new blob.
    create(meta, 174).await;
    assert_eq!(super::begin(meta, 174, 175).await, 174);
    assert_eq!(super::finish(meta, 174, 174, "abc").await, StoreOutcome::Stored);
    remove(meta, 100, 0).await;

    // Deleting an incomplete upload deletes its parts.
    create(meta, 176).await;
    let late = begin(meta, 176, 1, 177).await;
    assert_eq!(
        meta.files.delete(Tenant::default(), uid(176), uid(178)).await.unwrap(),
        DeleteOutcome::Deleted
    );
    assert_eq!(enqueued(meta, 178).await.unwrap(), "delete_blob 176");
    assert_eq!(finish(meta, 176, &late, "late").await, FinishPartOutcome::Closed);
    remove(meta, 176, 1).await;
}

async fn a_whole_upload_supersedes_parts(meta: &Meta) {
    create(meta, 180).await;
    let blob = send(meta, 180, 1, 181, "part").await.blob_id;
    let attempt = super::begin(meta, 180, 182).await;
    assert_eq!(attempt, 182);
    assert_eq!(super::finish(meta, 180, attempt, "all of it").await, StoreOutcome::Stored);
    assert_eq!(meta.files.stored(uid(180)).await.unwrap().unwrap().content.blob_id, 182);
    let unfinished = unfinished_ids(meta, ObjectRowKind::Blob, i64::MAX, 100, 10).await;
    assert_eq!(unfinished, [blob]);
    remove(meta, blob, 1).await;
    // If the whole upload begins first, the parts get a blob with another id.
    create(meta, 185).await;
    assert_eq!(super::begin(meta, 185, 186).await, 185);
    assert_eq!(send(meta, 185, 1, 187, "part").await.blob_id, 187);
    assert_eq!(complete(meta, 185, 1, 4, 188).await, CompleteOutcome::Completed);
    assert_eq!(super::finish(meta, 185, 185, "all of it, but late").await, StoreOutcome::Superseded);
    assert!(meta.blobs.mark_deleting(ObjectRowKind::Blob, 185).await.unwrap().is_some());
    meta.blobs.delete_row(ObjectRowKind::Blob, 185).await.unwrap();
}

async fn uploads_expire_and_are_purged(meta: &Meta) {
    // All files here expire at 0. The list also contains open uploads of earlier tests.
    create(meta, 190).await;
    send(meta, 190, 1, 191, "part").await;
    assert!(meta.uploads.expired(1, 100).await.unwrap().contains(&uid(190)));
    assert!(!meta.uploads.expired(1, 100).await.unwrap().contains(&uid(180)), "the file is complete");
    assert_eq!(meta.uploads.expired(0, 100).await.unwrap(), []);
    assert_eq!(meta.uploads.expired(1, 1).await.unwrap().len(), 1);
    assert_eq!(meta.uploads.expire(uid(190), i64::MAX, uid(192)).await.unwrap(), DeleteOutcome::Deleted);
    assert_eq!(enqueued(meta, 192).await.unwrap(), "delete_blob 190");
    assert_eq!(meta.files.state(uid(190)).await.unwrap(), Some(FileState::Expired));
    assert!(!meta.uploads.expired(1, 100).await.unwrap().contains(&uid(190)));
    assert_eq!(meta.uploads.expire(uid(180), i64::MAX, uid(193)).await.unwrap(), DeleteOutcome::Unchanged);
    remove(meta, 190, 1).await;
    // Rows of removed files stay for a while.
    assert_eq!(meta.files.purge(0, 100).await.unwrap(), 0);
    assert!(meta.files.purge(i64::MAX, 100).await.unwrap() >= 2);
    assert_eq!(meta.files.state(uid(190)).await.unwrap(), None);
    assert_eq!(meta.files.state(uid(180)).await.unwrap(), Some(FileState::Stored));
}
