//! Buckets and objects.

use std::{collections::HashMap, sync::Arc};

use futures_util::future::join_all;
use osproxy_types::tenant::Tenant;
use sea_orm::{ActiveValue::Set, ColumnTrait, EntityTrait, QueryFilter};

use super::{
    begin, digests, finish,
    parts::{complete_with, received},
    uid, upload,
};
use crate::{
    AttachOutcome, BeginPartOutcome, BucketChanges, CompleteOutcome, CompletePreconditions, CompleteRequest,
    CopyOutcome, CreateBucketOutcome, DeleteBucketOutcome, DeleteOutcome, EditAttributesOutcome,
    ExpectedDigests, FileState, LifecycleBucket, ListObjects, ListedObject, Meta, NewCopy, NewObject,
    NewUpload, ObjectCondition, ObjectEntry, ObjectName, ObjectRecord, ObjectRefusal, PartSelection,
    StoreOutcome,
    access::quotas::record_bytes,
    db::entities::{file, object},
};

pub(super) const BUCKET: i64 = 6000;

pub(super) async fn run(meta: &Meta) {
    buckets_belong_to_a_tenant(meta).await;
    an_object_is_replaced_in_one_transaction(meta).await;
    conditions_are_checked_when_the_key_is_written(meta).await;
    attributes_are_edited_one_after_the_other_and_charged(meta).await;
    listings_skip_common_prefixes(meta).await;
    a_page_takes_few_queries(meta).await;
    keys_are_compared_bytewise(meta).await;
    parts_are_selected_and_listed(meta).await;
    files_get_and_lose_keys(meta).await;
    objects_expire_unless_they_were_written_again(meta).await;
    lifecycle_rules_are_due_until_they_are_walked(meta).await;
    only_an_empty_bucket_can_be_deleted(meta).await;
}

pub(super) fn owner() -> Tenant {
    Tenant::default()
}

async fn objects_expire_unless_they_were_written_again(meta: &Meta) {
    assert_eq!(put(meta, 6150, "expires", None).await, StoreOutcome::Stored);
    let listed = async || {
        let object = meta.objects.object(uid(BUCKET), "expires").await.unwrap().unwrap();
        let ObjectRecord { key, uid, size, etag, modified_at, .. } = object;
        ListedObject { key, uid, size, etag, modified_at }
    };
    let first = listed().await;
    assert_eq!(put(meta, 6151, "expires", None).await, StoreOutcome::Stored);
    let second = listed().await;
    let older = ListedObject { modified_at: second.modified_at - 1, ..second.clone() };
    for stale in [first, older] {
        assert!(!meta.objects.expire_object(uid(BUCKET), stale, uid(6155)).await.unwrap());
    }
    assert_eq!(uid_at(meta, "expires").await, Some(6151));
    assert!(meta.objects.expire_object(uid(BUCKET), second.clone(), uid(6156)).await.unwrap());
    assert!(!meta.objects.expire_object(uid(BUCKET), second, uid(6157)).await.unwrap());
    assert_eq!((uid_at(meta, "expires").await, state(meta, 6151).await), (None, Some(FileState::Deleted)));
    assert!(meta.tasks.find(6156).await.unwrap().is_some());
}

async fn lifecycle_rules_are_due_until_they_are_walked(meta: &Meta) {
    let set = async |lifecycle: Option<&str>| {
        let changes =
            BucketChanges { lifecycle: Some(lifecycle.map(str::to_owned)), ..BucketChanges::default() };
        assert!(meta.objects.update_bucket(owner(), "photos".to_owned(), changes).await.unwrap());
    };
    let due = async || meta.objects.due_lifecycle(meta.now_ms()).await.unwrap();
    assert_eq!(due().await, None);
    set(Some("[1]")).await;
    let bucket = due().await.unwrap();
    assert_eq!((bucket.id, &*bucket.lifecycle, &bucket.position), (uid(BUCKET), "[1]", &None));
    let position = Some("half".to_owned());
    assert!(meta.objects.save_lifecycle(&bucket, bucket.due_at, position.clone()).await.unwrap());
    assert_eq!(due().await, Some(LifecycleBucket { position, ..bucket.clone() }));
    // A walk by rules that were replaced records nothing.
    let other = LifecycleBucket { due_at: bucket.due_at - 1, ..bucket.clone() };
    assert!(!meta.objects.save_lifecycle(&other, i64::MAX, None).await.unwrap());
    assert!(meta.objects.save_lifecycle(&bucket, i64::MAX, None).await.unwrap());
    assert_eq!(due().await, None);
    set(Some("[2]")).await;
    assert_eq!(due().await.unwrap().lifecycle, "[2]");
    set(None).await;
    assert_eq!(due().await, None);
}

async fn buckets_belong_to_a_tenant(meta: &Meta) {
    let create = async |id, tenant: &str, name: &str| {
        let tenant = Tenant::from_db(tenant);
        meta.objects.create_bucket(uid(id), tenant, name.to_owned(), 2).await.unwrap()
    };
    let owner = owner();
    assert_eq!(create(BUCKET, owner.as_str(), "photos").await, CreateBucketOutcome::Created);
    assert_eq!(create(6001, owner.as_str(), "photos").await, CreateBucketOutcome::AlreadyOwned);
    assert_eq!(create(6001, "other", "photos").await, CreateBucketOutcome::Taken);
    assert_eq!(create(6001, owner.as_str(), "empty").await, CreateBucketOutcome::Created);
    assert_eq!(create(6002, owner.as_str(), "third").await, CreateBucketOutcome::TooMany);
    let names = async |after: Option<&str>, limit| {
        let page = meta.objects.buckets(&owner, after, limit).await.unwrap();
        page.into_iter().map(|bucket| bucket.name).collect::<Vec<_>>()
    };
    assert_eq!(names(None, 10).await, ["empty", "photos"]);
    assert_eq!(names(None, 1).await, ["empty"]);
    assert_eq!(names(Some("empty"), 10).await, ["photos"]);
    assert!(meta.objects.buckets(&Tenant::from_db("other"), None, 10).await.unwrap().is_empty());
    let changes = BucketChanges { is_public: Some(true), cors: Some(Some("[]".to_owned())), lifecycle: None };
    let update = async |tenant: Tenant| {
        meta.objects.update_bucket(tenant, "photos".to_owned(), changes.clone()).await.unwrap()
    };
    assert!(!update(Tenant::from_db("other")).await);
    assert!(update(owner.clone()).await);
    let bucket = meta.objects.bucket("photos").await.unwrap().unwrap();
    assert_eq!((bucket.id, bucket.is_public, bucket.cors.as_deref()), (uid(BUCKET), true, Some("[]")));
    assert!(meta.objects.bucket("Photos").await.unwrap().is_none());
}

pub(super) fn object(key: &str, task_id: i64, condition: Option<ObjectCondition>) -> NewObject {
    NewObject {
        bucket_id: uid(BUCKET),
        key: key.to_owned(),
        condition,
        attributes: Some("{}".to_owned()),
        is_multipart: false,
        task_id: uid(task_id),
    }
}

/// Creates the file `number`, which is to become an object.
pub(super) async fn create(meta: &Meta, number: i64, object: NewObject) {
    let mut new: NewUpload = upload(number, &format!("{number}.txt"));
    new.file.announced.object = Some(Arc::new(object));
    meta.files.create(vec![new], i64::MAX).await.unwrap();
}

/// Stores content as an object.
pub(super) async fn put(
    meta: &Meta,
    number: i64,
    key: &str,
    condition: Option<ObjectCondition>,
) -> StoreOutcome {
    create(meta, number, object(key, number + 500, condition)).await;
    let blob = begin(meta, number, number + 200).await;
    finish(meta, number, blob, &format!("content of {number}")).await
}

pub(super) async fn uid_at(meta: &Meta, key: &str) -> Option<i64> {
    meta.objects.object(uid(BUCKET), key).await.unwrap().map(|object| object.uid.get())
}

pub(super) async fn state(meta: &Meta, number: i64) -> Option<FileState> {
    meta.files.state(uid(number)).await.unwrap()
}

async fn an_object_is_replaced_in_one_transaction(meta: &Meta) {
    assert_eq!(put(meta, 6010, "a/b.txt", None).await, StoreOutcome::Stored);
    let stored = meta.objects.object(uid(BUCKET), "a/b.txt").await.unwrap().unwrap();
    let expected = digests("content of 6010");
    assert_eq!((stored.uid, stored.size), (uid(6010), expected.size));
    assert_eq!(stored.attributes.as_deref(), Some("{}"));
    if let Some(md5) = expected.md5 {
        assert_eq!(stored.etag, hex::encode(md5));
    }
    let names = meta.objects.names_of(vec![uid(6010), uid(6011)]).await.unwrap();
    let expected = ObjectName { bucket: "photos".to_owned(), key: "a/b.txt".to_owned() };
    assert_eq!(names, HashMap::from([(uid(6010), expected)]));
    // A reader may have cached the file.
    assert!(meta.files.stored(uid(6010)).await.unwrap().is_some());
    assert_eq!(put(meta, 6011, "a/b.txt", None).await, StoreOutcome::Stored);
    assert_eq!(uid_at(meta, "a/b.txt").await, Some(6011));
    assert_eq!(state(meta, 6010).await, Some(FileState::Deleted));
    assert!(meta.files.stored(uid(6010)).await.unwrap().is_none());
    assert!(meta.objects.names_of(vec![uid(6010)]).await.unwrap().is_empty());
    // The content of the replaced file is deleted by a task.
    assert!(meta.tasks.find(6511).await.unwrap().is_some());
    // Deleting the file deletes the object.
    assert_eq!(meta.files.delete(owner(), uid(6011), uid(6012)).await.unwrap(), DeleteOutcome::Deleted);
    assert_eq!(uid_at(meta, "a/b.txt").await, None);
    // Deleting the object deletes the file.
    assert_eq!(put(meta, 6013, "a/b.txt", None).await, StoreOutcome::Stored);
    for _ in 0..2 {
        meta.objects.delete_object(uid(BUCKET), "a/b.txt".to_owned(), None, uid(6014)).await.unwrap();
        assert_eq!(
            (uid_at(meta, "a/b.txt").await, state(meta, 6013).await),
            (None, Some(FileState::Deleted))
        );
    }
}

async fn conditions_are_checked_when_the_key_is_written(meta: &Meta) {
    let matches = |etag: &str| Some(ObjectCondition::Matches(etag.to_owned()));
    let refused = StoreOutcome::Refused;
    assert_eq!(put(meta, 6020, "c", matches("*")).await, refused(ObjectRefusal::NoObject));
    assert_eq!(state(meta, 6020).await, Some(FileState::Receiving));
    assert_eq!(put(meta, 6021, "c", Some(ObjectCondition::Absent)).await, StoreOutcome::Stored);
    let failed = refused(ObjectRefusal::ConditionFailed);
    assert_eq!(put(meta, 6022, "c", Some(ObjectCondition::Absent)).await, failed);
    assert_eq!(put(meta, 6023, "c", matches("other")).await, failed);
    assert_eq!((uid_at(meta, "c").await, state(meta, 6021).await), (Some(6021), Some(FileState::Stored)));
    let etag = meta.objects.object(uid(BUCKET), "c").await.unwrap().unwrap().etag;
    assert_eq!(put(meta, 6024, "c", matches(&etag)).await, StoreOutcome::Stored);
    assert_eq!(uid_at(meta, "c").await, Some(6024));
    // An upload that ends without content leaves nothing.
    assert_eq!(meta.uploads.abort(uid(6020), uid(6025)).await.unwrap(), DeleteOutcome::Deleted);
    assert!(meta.objects.upload(uid(6020)).await.unwrap().is_none());
    meta.objects.delete_object(uid(BUCKET), "c".to_owned(), None, uid(6026)).await.unwrap();
}

/// Bytes that are charged for the row of a file.
pub(super) async fn charge(meta: &Meta, number: i64) -> i64 {
    let file = file::Entity::find_by_id(number).one(&meta.db.reader).await.unwrap();
    file.unwrap().record_bytes
}

/// Edits the attributes of a file many times at once. Returns what became of the first edit.
pub(super) async fn edit(meta: &Meta, number: i64) -> EditAttributesOutcome {
    let edits = (0..8).map(|_| {
        let edit = |text: Option<&str>| Some(format!("{}+", text.unwrap_or_default()));
        meta.objects.edit_attributes(uid(number), Arc::new(edit))
    });
    let outcomes: Vec<_> = join_all(edits).await.into_iter().map(Result::unwrap).collect();
    assert!(outcomes.iter().all(|outcome| *outcome == outcomes[0]), "{outcomes:?}");
    outcomes[0]
}

async fn attributes_are_edited_one_after_the_other_and_charged(meta: &Meta) {
    for number in [6027, 6028] {
        assert_eq!(put(meta, number, "attributes", None).await, StoreOutcome::Stored);
    }
    let before = charge(meta, 6028).await;
    assert_eq!(before, record_bytes("6028.txt", None) + 10 + 2);
    assert_eq!(edit(meta, 6027).await, EditAttributesOutcome::Unknown);
    assert_eq!(edit(meta, 6028).await, EditAttributesOutcome::Edited);
    let edited = meta.objects.object(uid(BUCKET), "attributes").await.unwrap().unwrap();
    assert_eq!(edited.attributes.as_deref(), Some("{}++++++++"));
    assert_eq!(charge(meta, 6028).await, before + 8);
    meta.objects.delete_object(uid(BUCKET), "attributes".to_owned(), None, uid(6029)).await.unwrap();
    assert_eq!(charge(meta, 6028).await, 0);
}

async fn list(meta: &Meta, prefix: &str, delimiter: &str, after: &str, limit: u64) -> (Vec<String>, bool) {
    let list = ListObjects {
        prefix: prefix.to_owned(),
        delimiter: delimiter.to_owned(),
        after: after.to_owned(),
        limit,
    };
    let page = meta.objects.list(uid(BUCKET), &list).await.unwrap();
    let name = |entry| match entry {
        ObjectEntry::Object(object) => object.key,
        ObjectEntry::Prefix(prefix) => format!("[{prefix}]"),
    };
    (page.entries.into_iter().map(name).collect(), page.is_truncated)
}

async fn listings_skip_common_prefixes(meta: &Meta) {
    let keys = ["a.txt", "dir/1", "dir/2", "dir/sub/3", "dir0", "e", "zoo/1", "zoo/2"];
    for (number, key) in (6030..).zip(keys) {
        assert_eq!(put(meta, number, key, None).await, StoreOutcome::Stored);
    }
    assert_eq!(list(meta, "", "", "", 100).await, (keys.map(str::to_owned).to_vec(), false));
    assert_eq!(list(meta, "", "", "dir/2", 2).await.0, ["dir/sub/3", "dir0"]);
    let top = ["a.txt", "[dir/]", "dir0", "e", "[zoo/]"].map(str::to_owned).to_vec();
    assert_eq!(list(meta, "", "/", "", 100).await, (top.clone(), false));
    // Page by page, with the last entry as the position.
    for limit in 1..=5 {
        let (mut after, mut all) = (String::new(), Vec::new());
        loop {
            let (page, is_truncated) = list(meta, "", "/", &after, limit).await;
            assert!(page.len() as u64 <= limit);
            all.extend(page);
            assert_eq!(is_truncated, all.len() < top.len(), "{limit}");
            if !is_truncated {
                break;
            }
            after = all.last().unwrap().trim_matches(['[', ']']).to_owned();
        }
        assert_eq!(all, top, "{limit}");
    }
    assert_eq!(list(meta, "dir/", "/", "", 100).await.0, ["dir/1", "dir/2", "[dir/sub/]"]);
    assert_eq!(list(meta, "dir", "/", "", 100).await.0, ["[dir/]", "dir0"]);
    assert_eq!(list(meta, "", "ub/", "", 100).await.0.len(), 8);
    assert_eq!(list(meta, "none", "/", "", 100).await, (vec![], false));
    assert_eq!(list(meta, "", "/", "", 0).await, (vec![], false));
    for (number, key) in (6040..).zip(keys) {
        meta.objects.delete_object(uid(BUCKET), key.to_owned(), None, uid(number)).await.unwrap();
    }
}

/// Rows with these keys, without files.
async fn insert_rows(meta: &Meta, first: i64, keys: impl Iterator<Item = String>) {
    let row = |(number, key): (i64, String)| object::ActiveModel {
        bucket_id: Set(BUCKET),
        object_key: Set(key.into_bytes()),
        uid: Set(number),
        size: Set(1),
        etag: Set("etag".to_owned()),
        modified_at: Set(1),
        attributes: Set(None),
        owns_file: Set(0),
    };
    let rows: Vec<_> = (first..).zip(keys).map(row).collect();
    meta.db
        .write(move |transaction| {
            let rows = rows.clone();
            Box::pin(async move {
                for rows in rows.chunks(100) {
                    object::Entity::insert_many(rows.to_vec()).exec_without_returning(transaction).await?;
                }
                Ok(())
            })
        })
        .await
        .unwrap();
}

async fn a_page_takes_few_queries(meta: &Meta) {
    let folders = |name: &'static str, count: i64, files: i64| {
        (0..count).flat_map(move |folder| (0..files).map(move |file| format!("{name}/{folder:03}/{file:03}")))
    };
    insert_rows(meta, 970_000, folders("short", 300, 1)).await;
    insert_rows(meta, 971_000, folders("pairs", 300, 2)).await;
    insert_rows(meta, 972_000, folders("long", 10, 100)).await;
    insert_rows(meta, 974_000, (0..1001).map(|file| format!("flat/{file:04}"))).await;
    for (prefix, limit, entries, queries) in [
        ("short/", 1000, 300, 3),
        ("pairs/", 1000, 300, 5),
        // One for each, to skip the rest of it.
        ("long/", 1000, 10, 11),
        ("long/", 3, 3, 4),
        ("flat/", 1000, 1000, 4),
    ] {
        let before = meta.metrics().reads.durations.count;
        let (page, is_truncated) = list(meta, prefix, "/", "", limit).await;
        let needed = meta.metrics().reads.durations.count - before;
        assert_eq!((page.len(), is_truncated), (entries, limit == 3 || prefix == "flat/"), "{prefix}");
        assert!(needed <= queries, "{prefix} took {needed} queries");
    }
    let before = meta.metrics().reads.durations.count;
    assert_eq!(list(meta, "flat/", "", "", 1000).await.0.len(), 1000);
    assert_eq!(meta.metrics().reads.durations.count - before, 1);
    meta.db
        .write(|transaction| {
            Box::pin(async move {
                let rows = object::Entity::delete_many().filter(object::Column::Uid.gte(970_000));
                rows.exec(transaction).await?;
                Ok(())
            })
        })
        .await
        .unwrap();
}

async fn keys_are_compared_bytewise(meta: &Meta) {
    let longest = "x".repeat(1024);
    let keys = ["A", "B", "Z", "a", "a ", "b", &longest, "\u{e9}", "\u{4e2d}", "\u{1f600}"];
    for (number, key) in (6050..).zip(keys) {
        assert_eq!(put(meta, number, key, None).await, StoreOutcome::Stored);
    }
    assert_eq!(list(meta, "", "", "", 100).await.0, keys);
    assert_eq!(uid_at(meta, "a").await, Some(6053));
    assert_eq!(list(meta, "\u{e9}", "", "", 100).await.0, ["\u{e9}"]);
    for (number, key) in (6070..).zip(keys) {
        meta.objects.delete_object(uid(BUCKET), key.to_owned(), None, uid(number)).await.unwrap();
    }
}

async fn send(meta: &Meta, number: u32, attempt: i64, content: &str) {
    let begun = meta.uploads.begin_part(uid(6090), number, uid(attempt), None, None).await.unwrap();
    let BeginPartOutcome::Ready(intent) = begun else { panic!("{begun:?}") };
    let part = received(content, None, String::new());
    meta.uploads.finish_part(uid(6090), &intent, part).await.unwrap();
}

async fn parts_are_selected_and_listed(meta: &Meta) {
    create(meta, 6090, NewObject { is_multipart: true, ..object("big", 6091, None) }).await;
    let uploads = async |prefix: &str, after: (&str, Option<i64>)| {
        let after = (after.0, after.1.map(uid));
        let page = meta.objects.uploads(uid(BUCKET), prefix, after, 10).await.unwrap();
        page.into_iter().map(|upload| upload.uid.get()).collect::<Vec<_>>()
    };
    assert_eq!(uploads("", ("", None)).await, [6090]);
    assert_eq!(uploads("bi", ("big", Some(6089))).await, [6090]);
    assert_eq!(uploads("", ("big", Some(6090))).await, [0; 0]);
    assert_eq!(uploads("c", ("", None)).await, [0; 0]);
    for (number, content) in [(1, "first"), (2, "second"), (3, "third")] {
        send(meta, number, 6092 + i64::from(number), content).await;
    }
    let parts = meta.objects.parts(uid(6090), 1, 10).await.unwrap();
    assert_eq!(parts.iter().map(|part| (part.number, part.size)).collect::<Vec<_>>(), [(2, 6), (3, 5)]);
    let md5 = |content: &str| digests(content).md5.unwrap_or_default();
    let complete = async |parts: Vec<(u32, [u8; 16])>, min_size, size, condition| {
        let request = CompleteRequest { parts: Some(2), size, expected: ExpectedDigests::default() };
        let attributes = Some("{complete}".to_owned());
        let selection = Some(Arc::new(PartSelection { parts, min_size, condition, attributes }));
        let preconditions = CompletePreconditions { selection, ..CompletePreconditions::default() };
        complete_with(meta, 6090, request, preconditions, 6096).await
    };
    let wanted = vec![(1, md5("first")), (2, md5("second"))];
    for (parts, min_size, size, refusal) in [
        (vec![(1, md5("other"))], 0, None, CompleteOutcome::PartMissing(1)),
        (vec![(4, md5("first"))], 0, None, CompleteOutcome::PartMissing(4)),
        (wanted.clone(), 6, None, CompleteOutcome::PartTooSmall(1)),
        (wanted.clone(), 5, Some(16), CompleteOutcome::SizeMismatch(11, 16)),
    ] {
        assert_eq!(complete(parts, min_size, size, None).await, refusal);
        // The upload is as it was.
        assert_eq!(meta.objects.parts(uid(6090), 0, 10).await.unwrap().len(), 3);
    }
    let any = Some(ObjectCondition::Matches("*".to_owned()));
    assert_eq!(
        complete(wanted.clone(), 5, None, any).await,
        CompleteOutcome::Refused(ObjectRefusal::NoObject)
    );
    let upload = meta.objects.upload(uid(6090)).await.unwrap().unwrap();
    assert_eq!((upload.state, upload.attributes.as_deref()), (FileState::Receiving, Some("{}")));
    assert_eq!(meta.objects.parts(uid(6090), 0, 10).await.unwrap().len(), 3);
    let absent = Some(ObjectCondition::Absent);
    assert_eq!(complete(wanted.clone(), 5, None, absent).await, CompleteOutcome::Completed);
    assert_eq!(meta.objects.parts(uid(6090), 0, 10).await.unwrap().len(), 2);
    assert_eq!(complete(wanted, 5, None, None).await, CompleteOutcome::AlreadyCompleted);
    let stored = meta.objects.object(uid(BUCKET), "big").await.unwrap().unwrap();
    assert_eq!((stored.uid, stored.size), (uid(6090), 11));
    assert_eq!(stored.attributes.as_deref(), Some("{complete}"));
    assert!(stored.etag.ends_with("-2"), "{}", stored.etag);
    assert_eq!(uploads("", ("", None)).await, [0; 0]);
    assert!(meta.objects.upload(uid(6090)).await.unwrap().is_none());
}

async fn files_get_and_lose_keys(meta: &Meta) {
    let attach = async |number, key: &str| {
        meta.objects.attach(owner(), uid(number), object(key, 6201, None)).await.unwrap()
    };
    super::create(meta, 6200).await;
    assert_eq!(attach(6200, "v1").await, AttachOutcome::NotStored(FileState::Pending));
    assert_eq!(attach(6999, "v1").await, AttachOutcome::Unknown);
    let blob = begin(meta, 6200, 6202).await;
    assert_eq!(finish(meta, 6200, blob, "of api v1").await, StoreOutcome::Stored);
    let before = charge(meta, 6200).await;
    for _ in 0..2 {
        assert_eq!(attach(6200, "v1").await, AttachOutcome::Attached);
        assert_eq!(charge(meta, 6200).await, before + 2 + 2);
    }
    assert_eq!(attach(6200, "v2").await, AttachOutcome::HasKey);
    // A copy is another file; it replaces the object, but the file stays.
    let new = |number, key: &str| NewCopy {
        uid: uid(number),
        name: None,
        metadata: None,
        content_type: Some("a/b".to_owned()),
        object: Some((Arc::new(object(key, number + 1, None)), "etag".to_owned())),
    };
    assert_eq!(meta.files.copy(owner(), uid(6200), new(6203, "v1")).await.unwrap(), CopyOutcome::Copied);
    assert_eq!((uid_at(meta, "v1").await, state(meta, 6200).await), (Some(6203), Some(FileState::Stored)));
    assert_eq!(charge(meta, 6200).await, before);
    assert_eq!(attach(6200, "v2").await, AttachOutcome::Attached);
    meta.objects.delete_object(uid(BUCKET), "v2".to_owned(), None, uid(6205)).await.unwrap();
    assert_eq!((uid_at(meta, "v2").await, state(meta, 6200).await), (None, Some(FileState::Stored)));
}

async fn only_an_empty_bucket_can_be_deleted(meta: &Meta) {
    let delete =
        async |tenant: Tenant, name: &str| meta.objects.delete_bucket(tenant, name.to_owned()).await.unwrap();
    assert_eq!(delete(Tenant::from_db("other"), "photos").await, DeleteBucketOutcome::Unknown);
    assert_eq!(delete(owner(), "photos").await, DeleteBucketOutcome::NotEmpty);
    for (number, key) in [(6301, "big"), (6302, "v1")] {
        meta.objects.delete_object(uid(BUCKET), key.to_owned(), None, uid(number)).await.unwrap();
    }
    create(meta, 6303, object("late", 6304, None)).await;
    assert_eq!(delete(owner(), "photos").await, DeleteBucketOutcome::Deleted);
    let blob = begin(meta, 6303, 6305).await;
    assert_eq!(finish(meta, 6303, blob, "late").await, StoreOutcome::Refused(ObjectRefusal::NoBucket));
    assert_eq!(delete(owner(), "empty").await, DeleteBucketOutcome::Deleted);
}
