//! Partial uploads, whose parts are moved to a final upload.

use osproxy_storage::Digests;
use osproxy_types::{tenant::Tenant, uid::Uid};

use super::{digests, parts::complete_as, uid};
use crate::{
    AnnouncedContent, BeginPartOutcome, BeginUploadOutcome, CompleteOutcome, CompleteRequest,
    ConcatenateOutcome, Concatenation, CreateOutcome, DeleteOutcome, ExpectedDigests, FileState,
    FinishPartOutcome, Meta, NewFile, NewFinalUpload, NewUpload, PartialProblem, ReceivedPart,
    SuspendPartOutcome,
};

/// Size of a part of a partial upload.
const PART: u64 = 64 << 10;
/// When uploads expire, in milliseconds since the Unix epoch.
const EXPIRES_AT: i64 = 5;

/// `base` is the first of 10,000 unused ids. New files may go to a store of any kind.
pub(crate) async fn run(meta: &Meta, base: i64) {
    parts_of_partial_uploads_are_separate_objects(meta, base).await;
    parts_are_moved_in_order(meta, base + 1000).await;
    partial_uploads_that_cannot_be_used(meta, base + 2000).await;
    limits_and_quota(meta, base + 3000).await;
    concurrent_concatenations(meta, base + 4000).await;
}

fn tenant(name: &str) -> Tenant {
    Tenant::from_db(name)
}

fn new_file(file: i64, tenant: &Tenant, size: Option<u64>, is_partial: bool) -> NewFile {
    let part_size = size.map(|_| PART);
    let announced = AnnouncedContent { size, part_size, is_partial, ..AnnouncedContent::default() };
    NewFile { uid: uid(file), tenant: tenant.clone(), name: "x.bin".to_owned(), announced, grant: None }
}

async fn create(meta: &Meta, file: i64, tenant: &Tenant, size: Option<u64>) {
    let upload = NewUpload { file: new_file(file, tenant, size, true), known_content: None };
    assert_eq!(
        meta.files.create(vec![upload], EXPIRES_AT).await.unwrap(),
        CreateOutcome::Created(vec![false])
    );
}

/// Stores a part. Returns the key of its object.
async fn send(meta: &Meta, file: i64, number: u32, size: u64) -> String {
    let attempt = uid(file + i64::from(number));
    let begun = meta.uploads.begin_part(uid(file), number, attempt, Some(size), None).await.unwrap();
    let BeginPartOutcome::Ready(intent) = begun else { panic!("{begun:?}") };
    assert!(intent.slot.is_none() && intent.is_partial);
    let digests = Digests { size, ..digests(&format!("{file} {number}")) };
    let part = ReceivedPart {
        digests,
        sniffed: Some("image/png"),
        tag: String::new(),
        max_size: None,
        content_type: None,
        checksums: None,
    };
    let finished = meta.uploads.finish_part(uid(file), &intent, part).await.unwrap();
    assert_eq!(finished, FinishPartOutcome::Stored(None));
    intent.key.to_string()
}

/// Creates a partial upload with all its parts. Returns the keys of their objects.
async fn send_all(meta: &Meta, file: i64, tenant: &Tenant, size: u64) -> Vec<String> {
    create(meta, file, tenant, Some(size)).await;
    let mut keys = Vec::new();
    for (number, start) in (1..).zip((0..size).step_by(usize::try_from(PART).unwrap())) {
        keys.push(send(meta, file, number, PART.min(size - start)).await);
    }
    keys
}

fn final_upload(file: i64, tenant: &Tenant, partial: &[i64]) -> NewFinalUpload {
    NewFinalUpload {
        file: new_file(file, tenant, None, false),
        partial_uids: partial.iter().copied().map(uid).collect(),
        expires_at: EXPIRES_AT,
        max_size: 100 * PART,
        max_parts: 10,
    }
}

async fn concatenate(meta: &Meta, file: i64, partial: &[i64]) -> ConcatenateOutcome {
    meta.uploads.concatenate(final_upload(file, &Tenant::default(), partial)).await.unwrap()
}

async fn state(meta: &Meta, file: i64) -> Option<FileState> {
    meta.files.state(uid(file)).await.unwrap()
}

async fn parts_of_partial_uploads_are_separate_objects(meta: &Meta, file: i64) {
    let tenant = Tenant::default();
    create(meta, file, &tenant, Some(2 * PART)).await;
    assert!(meta.uploads.preallocate(uid(file), uid(file + 9)).await.unwrap().is_none());
    let key = send(meta, file, 1, PART).await;
    let parts = meta.blobs.parts(file).await.unwrap();
    assert!(parts[0].is_own_object && parts[0].key.as_str() == key);
    // The hash does not depend on the place of the part.
    assert_eq!(parts[0].digests.subtree_offset, None);
    // Nothing but a final upload makes it content.
    let whole = meta.uploads.begin(uid(file), uid(file + 8), uid(file + 8)).await.unwrap();
    assert!(matches!(whole, BeginUploadOutcome::Closed(FileState::Partial)), "{whole:?}");
    assert!(meta.uploads.open_upload(uid(file)).await.unwrap().is_none());
    send(meta, file, 2, PART).await;
    let request = CompleteRequest { parts: None, size: None, expected: ExpectedDigests::default() };
    let completed = complete_as(meta, file, request, file + 7).await;
    assert_eq!(completed, CompleteOutcome::NotOpen(FileState::Partial));
    assert_eq!(meta.uploads.append_position(uid(file)).await.unwrap().unwrap().offset, 2 * PART);
    // It ends as other uploads.
    assert_eq!(meta.uploads.abort(uid(file), uid(file + 6)).await.unwrap(), DeleteOutcome::Deleted);
    assert_eq!(state(meta, file).await, Some(FileState::Deleted));
    create(meta, file + 100, &tenant, None).await;
    let expired = meta.uploads.expire(uid(file + 100), EXPIRES_AT + 1, uid(file + 101)).await.unwrap();
    assert_eq!(expired, DeleteOutcome::Deleted);
}

async fn parts_are_moved_in_order(meta: &Meta, file: i64) {
    let (tenant, [a, b, c, merged]) = (Tenant::default(), [file, file + 100, file + 200, file + 300]);
    // Created in another order than they are concatenated.
    let last_part = send_all(meta, c, &tenant, 9).await;
    let first = send_all(meta, a, &tenant, 2 * PART + 1).await;
    create(meta, b, &tenant, Some(0)).await;
    let list = [a, b, c];
    assert_eq!(concatenate(meta, merged, &list).await, ConcatenateOutcome::Created(2 * PART + 10));
    let parts = meta.blobs.parts(merged).await.unwrap();
    let moved: Vec<_> = parts.iter().map(|part| (part.number, part.key.to_string(), part.size)).collect();
    let keys = first.into_iter().chain(last_part);
    let expected: Vec<_> =
        (1..).zip(keys).zip([PART, PART, 1, 9]).map(|((number, key), size)| (number, key, size)).collect();
    assert_eq!(moved, expected);
    assert_eq!(state(meta, merged).await, Some(FileState::Receiving));
    let record = meta.files.record(uid(merged)).await.unwrap().unwrap();
    let uids: Vec<Uid> = list.into_iter().map(uid).collect();
    assert_eq!(record.concatenation, Some(Concatenation::Final(uids)));
    for partial in list {
        assert_eq!(state(meta, partial).await, Some(FileState::Deleted));
        let position = meta.uploads.append_position(uid(partial)).await.unwrap().unwrap();
        assert_eq!(position.concatenation, Some(Concatenation::Used(uid(merged))));
        assert_eq!(Some(position.offset), position.size);
        // Nothing is left of it but its row.
        assert!(meta.admin.part_records(partial).await.unwrap().is_empty());
        assert_eq!(meta.uploads.store_of(uid(partial)).await.unwrap(), None);
        let late = meta.uploads.begin_part(uid(partial), 1, uid(partial + 50), Some(1), None).await.unwrap();
        assert!(matches!(late, BeginPartOutcome::Closed(FileState::Deleted)), "{late:?}");
    }
    // Again, before and after completion.
    assert_eq!(concatenate(meta, file + 400, &list).await, ConcatenateOutcome::Exists(uid(merged)));
    let request = CompleteRequest { parts: None, size: None, expected: ExpectedDigests::default() };
    assert_eq!(complete_as(meta, merged, request, file + 301).await, CompleteOutcome::Completed);
    assert_eq!(concatenate(meta, file + 400, &list).await, ConcatenateOutcome::Exists(uid(merged)));
    for other in [&[a, c, b][..], &[a, b], &[c]] {
        let refused = ConcatenateOutcome::Refused(uid(other[0]), PartialProblem::Used);
        assert_eq!(concatenate(meta, file + 400, other).await, refused);
    }
    assert_eq!(state(meta, file + 400).await, None);
}

async fn partial_uploads_that_cannot_be_used(meta: &Meta, file: i64) {
    let (tenant, other) = (Tenant::default(), tenant("other"));
    let [good, short, suspended, foreign, plain, aborted] =
        [100, 200, 300, 400, 500, 600].map(|at| file + at);
    send_all(meta, good, &tenant, 5).await;
    create(meta, short, &tenant, Some(2 * PART)).await;
    send(meta, short, 1, PART).await;
    // The size is announced after all bytes, but the part is not stored yet.
    create(meta, suspended, &tenant, None).await;
    let begun = meta.uploads.begin_prefix(uid(suspended), 1, uid(suspended + 1), None).await.unwrap();
    let BeginPartOutcome::Ready(intent) = begun else { panic!("{begun:?}") };
    let outcome = meta.uploads.suspend_part(uid(suspended), &intent, 7, [7; 32]).await.unwrap();
    assert_eq!(outcome, SuspendPartOutcome::Suspended(None));
    meta.uploads.announce_size(uid(suspended), 7).await.unwrap();
    send_all(meta, foreign, &other, 5).await;
    let ordinary = NewUpload { file: new_file(plain, &tenant, None, false), known_content: None };
    meta.files.create(vec![ordinary], 0).await.unwrap();
    send_all(meta, aborted, &tenant, 5).await;
    meta.uploads.abort(uid(aborted), uid(aborted + 50)).await.unwrap();
    for (bad, problem) in [
        (short, PartialProblem::Unfinished),
        (suspended, PartialProblem::Unfinished),
        (foreign, PartialProblem::Unknown),
        (file + 999, PartialProblem::Unknown),
        (plain, PartialProblem::NotPartial),
        (aborted, PartialProblem::Gone),
    ] {
        for list in [[good, bad], [bad, good]] {
            let refused = ConcatenateOutcome::Refused(uid(bad), problem);
            assert_eq!(concatenate(meta, file, &list).await, refused);
        }
    }
    assert_eq!(state(meta, file).await, None);
    assert_eq!(state(meta, good).await, Some(FileState::Partial));
    assert_eq!(concatenate(meta, file, &[good]).await, ConcatenateOutcome::Created(5));
}

async fn limits_and_quota(meta: &Meta, file: i64) {
    let tenant = tenant("concatenation");
    meta.tenants.set_quota(&tenant, Some(1 << 30)).await.unwrap();
    let list = [file + 100, file + 200];
    for partial in list {
        send_all(meta, partial, &tenant, 3 * PART).await;
    }
    let upload = final_upload(file, &tenant, &list);
    let try_with = async |upload: NewFinalUpload| meta.uploads.concatenate(upload).await.unwrap();
    let too_many = ConcatenateOutcome::TooManyParts(6);
    assert_eq!(try_with(NewFinalUpload { max_parts: 5, ..upload.clone() }).await, too_many);
    let small = NewFinalUpload { max_size: 6 * PART - 1, ..upload.clone() };
    assert_eq!(try_with(small).await, ConcatenateOutcome::TooLarge);
    let used = async || {
        let usage = meta.tenants.quota_usage().await.unwrap();
        usage.into_iter().find(|usage| usage.tenant == tenant).unwrap().used
    };
    let rows = used().await - 6 * PART;
    assert_eq!(
        try_with(NewFinalUpload { max_parts: 6, ..upload }).await,
        ConcatenateOutcome::Created(6 * PART)
    );
    // One row instead of two.
    assert_eq!(used().await, 6 * PART + rows / 2);
    meta.files.delete(tenant.clone(), uid(file), uid(file + 1)).await.unwrap();
    assert_eq!(used().await, 0);
}

/// Of two concatenations of the same partial upload, one wins.
async fn concurrent_concatenations(meta: &Meta, file: i64) {
    let tenant = Tenant::default();
    for round in 0..5 {
        let base = file + round * 100;
        let [a, b, c] = [base + 10, base + 20, base + 30];
        for partial in [a, b, c] {
            send_all(meta, partial, &tenant, 5).await;
        }
        let (lists, finals) = ([[a, b], [c, b], [a, b]], [base + 1, base + 2, base + 3]);
        let attempts = finals.iter().zip(&lists).map(|(file, list)| concatenate(meta, *file, list));
        let outcomes = futures_util::future::join_all(attempts).await;
        let created = outcomes.iter().filter(|outcome| **outcome == ConcatenateOutcome::Created(10)).count();
        assert_eq!(created, 1, "{outcomes:?}");
        let used = ConcatenateOutcome::Refused(uid(b), PartialProblem::Used);
        let [one, other, same] = &outcomes[..] else { unreachable!() };
        if *other == ConcatenateOutcome::Created(10) {
            assert_eq!([one, same], [&used; 2]);
        } else {
            assert_eq!(*other, used);
            let existing = [finals[0], finals[2]].map(|file| ConcatenateOutcome::Exists(uid(file)));
            assert!(existing.contains(one) || existing.contains(same), "{outcomes:?}");
        }
        let loser = if *other == ConcatenateOutcome::Created(10) { a } else { c };
        assert_eq!(concatenate(meta, base + 4, &[loser]).await, ConcatenateOutcome::Created(5));
    }
}
