//! Behavior that the metadata must have on every kind of database. The test of each kind calls
//! [`run`] with an empty database.

pub(super) mod concatenation;
mod events;
mod grants;
pub(super) mod growing_files;
mod listing;
pub(super) mod multipart;
mod objects;
mod packs;
mod parts;
mod s3_keys;
mod tasks;
pub(super) mod waiting_objects;
mod webhooks;

use osproxy_storage::{Digester, Digests, Key};
use osproxy_types::{tenant::Tenant, uid::Uid};

use super::{
    BeginUploadOutcome, ContentLayout, CreateOutcome, FileState, KnownContent, LinkKeyRecord, Meta, NewFile,
    NewStoredFile, NewUpload, ObjectRowKind, StoreOutcome,
};

/// Ids of the unfinished rows in `local`, the store of new files.
async fn unfinished_ids(meta: &Meta, kind: ObjectRowKind, before: i64, after: i64, limit: u64) -> Vec<i64> {
    let rows = meta.blobs.unfinished_rows(kind, "local", before, after, limit).await.unwrap();
    assert_eq!(meta.blobs.unfinished_rows(kind, "s3", before, after, limit).await.unwrap(), []);
    rows.into_iter().map(|row| row.id).collect()
}

pub(super) async fn run(meta: &Meta) {
    a_finished_upload_can_be_read(meta).await;
    sharing_records_missing_digests(meta).await;
    concurrent_writes_use_distinct_keys_and_one_wins(meta).await;
    a_swept_write_cannot_be_finished(meta).await;
    equal_content_is_stored_once(meta).await;
    lost_content_can_be_repaired(meta).await;
    instant_uploads_count_as_references(meta).await;
    create_files_creates_all_or_none(meta).await;
    unfinished_rows_lists_only_unfinished_rows(meta).await;
    the_first_link_key_is_created_once(meta).await;
    assert_eq!(meta.highest_id().await.unwrap(), Some(uid(92)));
    parts::run(meta).await;
    tasks::run(meta).await;
    listing::run(meta).await;
    packs::run(meta).await;
    grants::run(meta).await;
    s3_keys::run(meta).await;
    events::run(meta).await;
    webhooks::run(meta).await;
    objects::run(meta).await;
    meta.ping().await.unwrap();
}

fn uid(number: i64) -> Uid {
    Uid::from_db(number)
}

fn digests(content: &str) -> Digests {
    let mut digester = Digester::default();
    digester.update(content.as_bytes());
    digester.finish()
}

/// A new upload without known content.
pub(super) fn upload(number: i64, name: &str) -> NewUpload {
    let announced = crate::AnnouncedContent::default();
    let (tenant, name) = (Tenant::default(), name.to_owned());
    let file = NewFile { tenant, uid: uid(number), name, announced, grant: None };
    NewUpload { file, known_content: None }
}

async fn create(meta: &Meta, number: i64) {
    let created = meta.files.create(vec![upload(number, &format!("{number}.txt"))], 0).await.unwrap();
    assert_eq!(created, CreateOutcome::Created(vec![false]));
}

async fn create_files_creates_all_or_none(meta: &Meta) {
    let content = |blob_id| Some(KnownContent { blob_id, size: 5, content_type: "a/b".to_owned() });
    let stored = NewUpload { known_content: content(40), ..upload(90, "stored") };
    let gone = NewUpload { known_content: content(999), ..upload(91, "gone") };
    let conflicting = upload(50, "taken");
    let all = vec![stored.clone(), gone.clone(), conflicting];
    assert_eq!(meta.files.create(all, 0).await.unwrap(), CreateOutcome::UidTaken);
    assert!(meta.files.state(uid(90)).await.unwrap().is_none());
    assert!(meta.files.state(uid(91)).await.unwrap().is_none());
    let created = meta.files.create(vec![gone, stored, upload(92, "pending")], 0).await.unwrap();
    assert_eq!(created, CreateOutcome::Created(vec![false, true, false]));
    assert_eq!(meta.files.stored(uid(90)).await.unwrap().unwrap().content.blob_id, 40);
    assert_eq!(meta.files.state(uid(91)).await.unwrap(), Some(FileState::Pending));
}

/// Begins to upload the whole content of a file, and returns the id of the blob.
async fn begin(meta: &Meta, number: i64, fallback_id: i64) -> i64 {
    match meta.uploads.begin(uid(number), uid(fallback_id), uid(fallback_id)).await.unwrap() {
        BeginUploadOutcome::Ready(intent) => {
            assert_eq!(intent.key.to_string(), format!("unknown/{}.txt", intent.blob_id));
            intent.blob_id
        }
        other => panic!("{other:?}"),
    }
}

async fn finish(meta: &Meta, number: i64, blob: i64, content: &str) -> StoreOutcome {
    let content_type = "text/plain".to_owned();
    meta.uploads
        .finish(uid(number), Tenant::default(), blob, digests(content), None, content_type)
        .await
        .unwrap()
}

async fn share(meta: &Meta, number: i64, blob: i64, unpublished: Option<i64>) -> StoreOutcome {
    // Only BLAKE3, the digest that is always computed.
    let digests = Digests { md5: None, sha256: None, ..digests("") };
    meta.uploads
        .share_blob(uid(number), Tenant::default(), blob, digests, unpublished, "text/plain".to_owned())
        .await
        .unwrap()
}

async fn a_finished_upload_can_be_read(meta: &Meta) {
    assert!(matches!(
        meta.uploads.begin(uid(10), uid(11), uid(12)).await.unwrap(),
        BeginUploadOutcome::Unknown
    ));
    create(meta, 10).await;
    assert!(meta.files.stored(uid(10)).await.unwrap().is_none());
    assert_eq!(begin(meta, 10, 11).await, 10);
    assert!(meta.files.stored(uid(10)).await.unwrap().is_none());
    assert!(meta.blobs.by_md5(&Tenant::default(), digests("ten").md5.unwrap()).await.unwrap().is_none());
    assert_eq!(finish(meta, 10, 10, "ten").await, StoreOutcome::Stored);
    let stored = meta.files.stored(uid(10)).await.unwrap().unwrap();
    assert_eq!((stored.name.as_str(), stored.content_type.as_str()), ("10.txt", "text/plain"));
    assert_eq!(stored.content.digests, Some(digests("ten")));
    assert!(matches!(
        meta.uploads.begin(uid(10), uid(11), uid(12)).await.unwrap(),
        BeginUploadOutcome::Stored
    ));
}

async fn sharing_records_missing_digests(meta: &Meta) {
    create(meta, 15).await;
    create(meta, 16).await;
    let content = digests("fifteen");
    let without_md5 = Digests { md5: None, ..content };
    let blob = begin(meta, 15, 17).await;
    let content_type = || "text/plain".to_owned();
    let finished = meta
        .uploads
        .finish(uid(15), Tenant::default(), blob, without_md5, None, content_type())
        .await
        .unwrap();
    assert_eq!(finished, StoreOutcome::Stored);
    assert!(meta.blobs.by_md5(&Tenant::default(), content.md5.unwrap()).await.unwrap().is_none());
    let intent = begin(meta, 16, 18).await;
    let shared = meta
        .uploads
        .share_blob(uid(16), Tenant::default(), blob, content, Some(intent), content_type())
        .await
        .unwrap();
    assert_eq!(shared, StoreOutcome::Stored);
    assert_eq!(meta.blobs.by_md5(&Tenant::default(), content.md5.unwrap()).await.unwrap().unwrap().id, blob);
    // Recorded digests are not replaced.
    create(meta, 19).await;
    let intent = begin(meta, 19, 18).await;
    let other = Digests { md5: Some([9; 16]), ..content };
    assert_eq!(
        meta.uploads
            .share_blob(uid(19), Tenant::default(), blob, other, Some(intent), content_type())
            .await
            .unwrap(),
        StoreOutcome::Stored
    );
    assert_eq!(meta.files.stored(uid(19)).await.unwrap().unwrap().content.digests, Some(content));
}

async fn concurrent_writes_use_distinct_keys_and_one_wins(meta: &Meta) {
    create(meta, 20).await;
    assert_eq!(begin(meta, 20, 21).await, 20);
    assert_eq!(begin(meta, 20, 22).await, 22);
    assert_eq!(finish(meta, 20, 22, "twenty-two").await, StoreOutcome::Stored);
    assert_eq!(finish(meta, 20, 20, "twenty").await, StoreOutcome::Superseded);
    // The losing blob is not found by its digests, although its object is complete.
    assert!(meta.blobs.by_md5(&Tenant::default(), digests("twenty").md5.unwrap()).await.unwrap().is_none());
    assert!(meta.blobs.mark_deleting(ObjectRowKind::Blob, 20).await.unwrap().is_some());
    meta.blobs.delete_row(ObjectRowKind::Blob, 20).await.unwrap();
}

async fn a_swept_write_cannot_be_finished(meta: &Meta) {
    create(meta, 30).await;
    begin(meta, 30, 31).await;
    assert!(meta.blobs.mark_deleting(ObjectRowKind::Blob, 30).await.unwrap().is_some());
    assert_eq!(finish(meta, 30, 30, "thirty").await, StoreOutcome::Swept);
    assert!(meta.files.stored(uid(30)).await.unwrap().is_none());
    // A second sweep can finish what an interrupted one began.
    assert!(meta.blobs.mark_deleting(ObjectRowKind::Blob, 30).await.unwrap().is_some());
    meta.blobs.delete_row(ObjectRowKind::Blob, 30).await.unwrap();
    assert!(meta.blobs.mark_deleting(ObjectRowKind::Blob, 30).await.unwrap().is_none());

    assert_eq!(begin(meta, 30, 32).await, 32, "no key is written twice");
    assert_eq!(finish(meta, 30, 32, "thirty").await, StoreOutcome::Stored);
    assert!(
        meta.blobs.mark_deleting(ObjectRowKind::Blob, 32).await.unwrap().is_none(),
        "stored content was marked for deletion"
    );
    meta.blobs.delete_row(ObjectRowKind::Blob, 32).await.unwrap();
    assert!(
        meta.blobs.by_blake3(&Tenant::default(), digests("thirty").blake3).await.unwrap().is_some(),
        "stored content was deleted"
    );
}

async fn equal_content_is_stored_once(meta: &Meta) {
    for number in [40, 41, 42] {
        create(meta, number).await;
        begin(meta, number, number + 5).await;
    }
    assert_eq!(finish(meta, 40, 40, "forty").await, StoreOutcome::Stored);
    assert_eq!(finish(meta, 41, 41, "forty").await, StoreOutcome::Conflict);
    assert!(meta.files.stored(uid(41)).await.unwrap().is_none());
    let same = meta.blobs.by_blake3(&Tenant::default(), digests("forty").blake3).await.unwrap().unwrap();
    assert_eq!(same.id, 40);
    // The write intent of a published object stays, so that the sweep removes the object. The
    // intent of an unpublished object is deleted.
    assert_eq!(share(meta, 41, 40, None).await, StoreOutcome::Stored);
    assert!(meta.blobs.mark_deleting(ObjectRowKind::Blob, 41).await.unwrap().is_some());
    meta.blobs.delete_row(ObjectRowKind::Blob, 41).await.unwrap();
    assert_eq!(share(meta, 42, 40, Some(42)).await, StoreOutcome::Stored);
    assert!(meta.blobs.mark_deleting(ObjectRowKind::Blob, 42).await.unwrap().is_none());
    assert_eq!(meta.files.stored(uid(42)).await.unwrap().unwrap().content.blob_id, same.id);
    // A blob that is not stored cannot be shared.
    create(meta, 43).await;
    assert_eq!(begin(meta, 43, 48).await, 43);
    assert_eq!(share(meta, 43, 43, None).await, StoreOutcome::Conflict);
    assert_eq!(share(meta, 42, 40, None).await, StoreOutcome::Superseded);
    assert!(meta.blobs.mark_deleting(ObjectRowKind::Blob, 43).await.unwrap().is_some());
    meta.blobs.delete_row(ObjectRowKind::Blob, 43).await.unwrap();
}

async fn lost_content_can_be_repaired(meta: &Meta) {
    create(meta, 60).await;
    begin(meta, 60, 61).await;
    assert_eq!(finish(meta, 60, 60, "sixty").await, StoreOutcome::Stored);
    let before = meta.files.stored(uid(60)).await.unwrap().unwrap();
    let damaged =
        meta.blobs.by_md5(&Tenant::default(), digests("sixty").md5.unwrap()).await.unwrap().unwrap();
    create(meta, 62).await;
    begin(meta, 62, 63).await;
    assert_eq!(meta.blobs.repair(&damaged, 999).await.unwrap(), StoreOutcome::Swept);
    assert_eq!(meta.blobs.repair(&damaged, 62).await.unwrap(), StoreOutcome::Stored);
    let after = meta.files.stored(uid(60)).await.unwrap().unwrap();
    for (file, key) in [(before, "unknown/60.txt"), (after, "unknown/62.txt")] {
        assert_eq!(file.content.layout, ContentLayout::Whole(Key::parse(key).unwrap()));
    }
    // The write intent now names the damaged object, so that the sweep removes that object.
    let unfinished = unfinished_ids(meta, ObjectRowKind::Blob, i64::MAX, 0, 10).await;
    assert_eq!(unfinished[0], 62);
    assert_eq!(
        meta.blobs.mark_deleting(ObjectRowKind::Blob, 62).await.unwrap().unwrap().key.unwrap().as_str(),
        "unknown/60.txt"
    );
    // A later write that also found the damaged object must not replace the repaired one.
    create(meta, 64).await;
    begin(meta, 64, 65).await;
    assert_eq!(meta.blobs.repair(&damaged, 64).await.unwrap(), StoreOutcome::Conflict);
    for number in [62, 64] {
        assert!(meta.blobs.mark_deleting(ObjectRowKind::Blob, number).await.unwrap().is_some());
        meta.blobs.delete_row(ObjectRowKind::Blob, number).await.unwrap();
    }
    assert_eq!(share(meta, 62, 60, None).await, StoreOutcome::Stored);
}

async fn instant_uploads_count_as_references(meta: &Meta) {
    let copy = |number| NewFile {
        tenant: Tenant::default(),
        uid: uid(number),
        name: "copy".to_owned(),
        announced: crate::AnnouncedContent::default(),
        grant: None,
    };
    let sharing = |number, blob_id| NewStoredFile {
        file: copy(number),
        content: KnownContent { blob_id, size: 5, content_type: "a/b".to_owned() },
    };
    let files = vec![sharing(50, 40), sharing(51, 999)];
    assert_eq!(meta.files.create_stored(files).await.unwrap(), Some(vec![true, false]));
    let stored = meta.files.stored_among(&[uid(51), uid(50), uid(10)]).await.unwrap();
    let uids: Vec<_> = stored.iter().map(|file| file.uid).collect();
    assert_eq!(uids, [uid(50), uid(10)]);
    assert_eq!(stored[0].content.blob_id, 40);
}

async fn unfinished_rows_lists_only_unfinished_rows(meta: &Meta) {
    for number in [70, 71, 72] {
        create(meta, number).await;
        begin(meta, number, number + 5).await;
    }
    assert!(meta.blobs.mark_deleting(ObjectRowKind::Blob, 71).await.unwrap().is_some());
    assert_eq!(finish(meta, 72, 72, "seventy-two").await, StoreOutcome::Stored);
    let numbers =
        async |before, after, limit| unfinished_ids(meta, ObjectRowKind::Blob, before, after, limit).await;
    assert_eq!(numbers(i64::MAX, 0, 10).await, [70, 71]);
    assert_eq!(numbers(i64::MAX, 70, 10).await, [71]);
    assert_eq!(numbers(i64::MAX, 0, 1).await, [70]);
    assert_eq!(numbers(0, 0, 10).await, [0; 0]);
}

async fn the_first_link_key_is_created_once(meta: &Meta) {
    let key = |id: &str, secret| LinkKeyRecord { id: id.to_owned(), secret: vec![secret; 32] };
    let created = meta.access.link_keys_or_create(key("one", 1)).await.unwrap();
    assert_eq!(created, [key("one", 1)]);
    assert_eq!(meta.access.link_keys_or_create(key("two", 2)).await.unwrap(), created);
}
