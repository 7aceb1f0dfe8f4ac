//! Objects whose files wait for processing. They count as the objects of their keys for conditions,
//! and get the keys in the order in which they were written.

use osproxy_types::tenant::Tenant;

use super::{
    digests,
    multipart::{finish_completion, multipart_to_complete, send, try_finish},
    objects::{BUCKET, charge, create, edit, object, owner, put, state, uid_at},
    uid,
};
use crate::{
    AcceptedFile, CompleteOutcome, CreateBucketOutcome, DeleteBucketOutcome, EditAttributesOutcome,
    FileState, Meta, NewObject, ObjectCondition, ObjectRefusal, Refusal, StoreOutcome, VerdictOutcome,
};

/// Number of the first file.
const FIRST: i64 = 96_000_000;

/// `meta` must have a blocking step, and put new files in a store with multipart uploads.
pub(crate) async fn run(meta: &Meta) {
    let created = meta.objects.create_bucket(uid(BUCKET), owner(), "photos".to_owned(), 9).await.unwrap();
    assert_eq!(created, CreateBucketOutcome::Created);
    conditions_are_decided_once(meta).await;
    of_conditional_writes_at_once_one_wins(meta).await;
    the_order_of_writes_is_kept(meta).await;
    attributes_can_be_edited(meta).await;
    files_in_quarantine_are_deleted_with_their_objects(meta).await;
    a_completed_multipart_upload_is_not_listed(meta).await;
    a_completion_can_lose_its_condition(meta).await;
    a_bucket_is_not_empty_while_files_wait(meta).await;
}

async fn accept(meta: &Meta, number: i64) {
    let accepted = AcceptedFile {
        from: FileState::Processing,
        content_type: None,
        media: serde_json::Map::new(),
        metadata: Vec::new(),
        record: "{}".to_owned(),
        next: None,
    };
    let outcome = meta.processing.accept(uid(number), accepted).await.unwrap();
    assert_eq!(outcome, VerdictOutcome::Recorded);
}

fn refusal() -> Refusal {
    Refusal { reason: "bad".to_owned(), record: "{}".to_owned() }
}

async fn reject(meta: &Meta, number: i64) {
    let outcome = meta.processing.reject(uid(number), refusal(), uid(number + 700)).await.unwrap();
    assert_eq!(outcome, VerdictOutcome::Recorded);
}

async fn quarantine(meta: &Meta, number: i64) {
    let outcome = meta.processing.quarantine(uid(number), refusal()).await.unwrap();
    assert_eq!(outcome, VerdictOutcome::Recorded);
}

async fn delete(meta: &Meta, key: &str, task_id: i64) {
    meta.objects.delete_object(uid(BUCKET), key.to_owned(), None, uid(task_id)).await.unwrap();
}

async fn last_etag(meta: &Meta, key: &str) -> Option<String> {
    meta.objects.last_etag(uid(BUCKET), key).await.unwrap()
}

fn etag(number: i64) -> String {
    hex::encode(digests(&format!("content of {number}")).md5.unwrap())
}

async fn conditions_are_decided_once(meta: &Meta) {
    let [first, second, third, fourth] = [0, 1, 2, 3].map(|number| FIRST + number);
    let matches = |number| Some(ObjectCondition::Matches(etag(number)));
    let absent = || Some(ObjectCondition::Absent);
    let failed = StoreOutcome::Refused(ObjectRefusal::ConditionFailed);
    assert_eq!(put(meta, first, "c", absent()).await, StoreOutcome::Stored);
    assert_eq!((uid_at(meta, "c").await, last_etag(meta, "c").await), (None, Some(etag(first))));
    assert_eq!(put(meta, FIRST + 10, "c", absent()).await, failed);
    assert_eq!(put(meta, FIRST + 11, "c", matches(second)).await, failed);
    assert_eq!(put(meta, second, "c", matches(first)).await, StoreOutcome::Stored);
    assert_eq!(put(meta, FIRST + 12, "c", matches(first)).await, failed);
    let deletion = meta.objects.delete_object(uid(BUCKET), "c".to_owned(), matches(first), uid(FIRST + 14));
    assert_eq!(deletion.await.unwrap(), Some(ObjectRefusal::ConditionFailed));
    assert_eq!(last_etag(meta, "c").await, Some(etag(second)));
    // What is rejected counts no more.
    reject(meta, second).await;
    assert_eq!(last_etag(meta, "c").await, Some(etag(first)));
    reject(meta, first).await;
    assert_eq!(last_etag(meta, "c").await, None);
    assert_eq!(put(meta, third, "c", absent()).await, StoreOutcome::Stored);
    // The condition held when the write was acknowledged.
    assert_eq!(put(meta, fourth, "c", matches(third)).await, StoreOutcome::Stored);
    accept(meta, fourth).await;
    assert_eq!(uid_at(meta, "c").await, Some(fourth));
    accept(meta, third).await;
    assert_eq!((uid_at(meta, "c").await, state(meta, third).await), (Some(fourth), Some(FileState::Deleted)));
    delete(meta, "c", FIRST + 13).await;
}

async fn of_conditional_writes_at_once_one_wins(meta: &Meta) {
    let writes = (0..8).map(|writer| put(meta, FIRST + 1020 + writer, "once", Some(ObjectCondition::Absent)));
    let outcomes = futures_util::future::join_all(writes).await;
    let stored = outcomes.iter().filter(|outcome| **outcome == StoreOutcome::Stored).count();
    assert_eq!(stored, 1, "{outcomes:?}");
    delete(meta, "once", FIRST + 1010).await;
}

async fn the_order_of_writes_is_kept(meta: &Meta) {
    let numbers = [0, 1, 2, 3, 4].map(|number| FIRST + 2000 + number);
    // Many of them in the same millisecond.
    for number in numbers {
        assert_eq!(put(meta, number, "order", None).await, StoreOutcome::Stored);
    }
    for index in [2, 4, 0, 3, 1] {
        accept(meta, numbers[index]).await;
    }
    assert_eq!(uid_at(meta, "order").await, Some(numbers[4]));
    for number in &numbers[..4] {
        assert_eq!(state(meta, *number).await, Some(FileState::Deleted));
    }
    delete(meta, "order", FIRST + 2010).await;
}

async fn attributes_can_be_edited(meta: &Meta) {
    let file = FIRST + 3000;
    assert_eq!(put(meta, file, "a", None).await, StoreOutcome::Stored);
    let before = charge(meta, file).await;
    assert_eq!(edit(meta, file).await, EditAttributesOutcome::Edited);
    accept(meta, file).await;
    assert_eq!(edit(meta, file).await, EditAttributesOutcome::Edited);
    let object = meta.objects.object(uid(BUCKET), "a").await.unwrap().unwrap();
    assert_eq!(object.attributes, Some(format!("{{}}{}", "+".repeat(16))));
    assert_eq!(charge(meta, file).await, before + 16);
    delete(meta, "a", FIRST + 3010).await;
}

async fn files_in_quarantine_are_deleted_with_their_objects(meta: &Meta) {
    let [first, second, third, fourth] = [0, 1, 2, 3].map(|number| FIRST + 4000 + number);
    assert_eq!(put(meta, first, "q", None).await, StoreOutcome::Stored);
    quarantine(meta, first).await;
    assert_eq!(put(meta, second, "q", Some(ObjectCondition::Absent)).await, StoreOutcome::Stored);
    delete(meta, "q", FIRST + 4010).await;
    // An object is put into quarantine by another processing, then replaced.
    assert_eq!(put(meta, third, "q", None).await, StoreOutcome::Stored);
    accept(meta, third).await;
    quarantine(meta, third).await;
    assert_eq!(
        (uid_at(meta, "q").await, state(meta, third).await),
        (Some(third), Some(FileState::Quarantined))
    );
    assert_eq!(put(meta, fourth, "q", None).await, StoreOutcome::Stored);
    accept(meta, fourth).await;
    assert_eq!(state(meta, third).await, Some(FileState::Deleted));
    quarantine(meta, fourth).await;
    delete(meta, "q", FIRST + 4011).await;
    for number in [first, second, third, fourth] {
        assert_eq!((state(meta, number).await, charge(meta, number).await), (Some(FileState::Deleted), 0));
    }
}

async fn a_completed_multipart_upload_is_not_listed(meta: &Meta) {
    let file = FIRST + 5000;
    create(meta, file, NewObject { is_multipart: true, ..object("parts", file + 1, None) }).await;
    send(meta, file, 1, file + 2, "ten bytes.").await;
    send(meta, file, 2, file + 3, "end").await;
    let upload = multipart_to_complete(meta, file, 2, 13).await;
    let listed = async || meta.objects.uploads(uid(BUCKET), "", ("", None), 9).await.unwrap().len();
    assert_eq!(listed().await, 1);
    assert!(finish_completion(meta, file, upload.blob_id).await);
    assert_eq!((listed().await, state(meta, file).await), (0, Some(FileState::Processing)));
    let completed = meta.objects.completed_upload(uid(file)).await.unwrap().unwrap();
    assert_eq!((completed.bucket_id, completed.key.as_str()), (uid(BUCKET), "parts"));
    assert!(completed.etag.ends_with("-2"), "{}", completed.etag);
    assert_eq!(last_etag(meta, "parts").await, Some(completed.etag.clone()));
    accept(meta, file).await;
    assert_eq!(uid_at(meta, "parts").await, Some(file));
    assert_eq!(meta.objects.completed_upload(uid(file)).await.unwrap(), Some(completed));
    delete(meta, "parts", file + 4).await;
}

async fn a_completion_can_lose_its_condition(meta: &Meta) {
    let file = FIRST + 5100;
    let new = object("race", file + 1, Some(ObjectCondition::Absent));
    create(meta, file, NewObject { is_multipart: true, ..new }).await;
    send(meta, file, 1, file + 2, "ten bytes.").await;
    send(meta, file, 2, file + 3, "end").await;
    let upload = multipart_to_complete(meta, file, 2, 13).await;
    // The key is written while the store completes the upload.
    assert_eq!(put(meta, file + 4, "race", None).await, StoreOutcome::Stored);
    let refused = CompleteOutcome::Refused(ObjectRefusal::ConditionFailed);
    assert_eq!(try_finish(meta, file, upload.blob_id).await, refused);
    assert_eq!(state(meta, file).await, Some(FileState::Deleted));
    delete(meta, "race", file + 6).await;
}

async fn a_bucket_is_not_empty_while_files_wait(meta: &Meta) {
    let delete_bucket =
        async || meta.objects.delete_bucket(Tenant::default(), "photos".to_owned()).await.unwrap();
    let file = FIRST + 6000;
    assert_eq!(put(meta, file, "late", None).await, StoreOutcome::Stored);
    assert_eq!(delete_bucket().await, DeleteBucketOutcome::NotEmpty);
    reject(meta, file).await;
    assert_eq!(delete_bucket().await, DeleteBucketOutcome::Deleted);
}
