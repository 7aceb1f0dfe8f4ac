//! Parts of unannounced size in a store that preallocates files.

use super::{create, digests, parts::complete_as, uid};
use crate::{
    BeginPartOutcome, CompleteOutcome, CompleteRequest, FinishPartOutcome, Meta, ObjectRowKind, PartIntent,
    ReceivedPart, UnusedSlot,
};

const SLOT: u64 = 64 << 10;
/// Each slot begins before this offset, in bytes.
pub(crate) const MAX_SLOT_START: u64 = 10 * SLOT;

/// `meta` must put new files in a store with preallocated files, and use [`MAX_SLOT_START`].
pub(crate) async fn run(meta: &Meta) {
    parts_of_one_size_get_slots(meta).await;
    a_slot_is_not_used_while_its_part_is_deleted(meta).await;
    the_object_ends_with_the_last_slot(meta).await;
}

async fn begin(meta: &Meta, file: i64, number: u32, attempt: i64, size: Option<u64>) -> PartIntent {
    match meta.uploads.begin_part(uid(file), number, uid(attempt), size, None).await.unwrap() {
        BeginPartOutcome::Ready(intent) => intent,
        other => panic!("{other:?}"),
    }
}

/// Stores a part, and returns its intent.
async fn send(meta: &Meta, file: i64, number: u32, attempt: i64, size: u64) -> PartIntent {
    let intent = begin(meta, file, number, attempt, Some(size)).await;
    meta.uploads.record_upload_id(intent.blob_id, "65536+".to_owned()).await.unwrap();
    let digests = osproxy_storage::Digests { size, ..digests(&format!("{file} {number}")) };
    let part =
        ReceivedPart { digests, sniffed: None, tag: String::new(), max_size: None, content_type: None };
    let finished = meta.uploads.finish_part(uid(file), &intent, part).await.unwrap();
    assert_eq!(finished, FinishPartOutcome::Stored(None));
    intent
}

async fn parts_of_one_size_get_slots(meta: &Meta) {
    // Numbers and sizes in order of arrival, and whether each part gets a slot.
    let cases: [&[(u32, Option<u64>, bool)]; 6] = [
        &[(2, Some(SLOT), true), (1, Some(SLOT), true), (3, Some(9), true), (4, Some(SLOT), false)],
        &[(3, Some(SLOT), true), (2, Some(SLOT - 1), false), (1, Some(SLOT + 1), false), (4, Some(1), true)],
        &[(1, Some(SLOT - 1), false), (2, None, false), (3, Some(SLOT), true), (1, Some(SLOT), false)],
        &[(1, Some(SLOT + 1), false), (2, Some(2 * SLOT), true), (3, Some(SLOT), true)],
        &[(10, Some(SLOT), true), (11, Some(SLOT), false), (10_001, Some(SLOT), false)],
        &[(1, Some(0), false), (2, Some(SLOT), true), (2, Some(SLOT), false)],
    ];
    for (case, parts) in (0..).zip(cases) {
        let file = 94_000_000 + case * 100;
        create(meta, file).await;
        for (attempt, (number, size, gets_slot)) in (1..).zip(parts) {
            let intent = begin(meta, file, *number, file + attempt, *size).await;
            assert_eq!(intent.slot.is_some(), *gets_slot, "{case}: part {number} of {size:?} bytes");
            assert!(intent.layout.is_none());
            let slot_size = if case == 3 { 2 * SLOT } else { SLOT };
            assert!(intent.slot.is_none_or(|slot| slot.slot_size == Some(slot_size)));
        }
    }
}

async fn a_slot_is_not_used_while_its_part_is_deleted(meta: &Meta) {
    let file = 94_100_000;
    create(meta, file).await;
    let first = send(meta, file, 1, file + 1, SLOT).await;
    let key = first.slot.unwrap().key;
    let mark = async |attempt: i64| {
        let pending = meta.blobs.mark_deleting(ObjectRowKind::Part, file + attempt).await.unwrap().unwrap();
        (pending.key.is_some(), pending.slot)
    };
    let remove = async |attempt: i64| {
        assert!(meta.blobs.delete_row(ObjectRowKind::Part, file + attempt).await.unwrap());
    };
    assert!(begin(meta, file, 2, file + 2, Some(SLOT)).await.slot.is_some());
    let slot = UnusedSlot { key, upload_id: "65536+".to_owned(), number: 2 };
    assert_eq!(mark(2).await, (false, Some(slot)));
    assert!(begin(meta, file, 2, file + 3, Some(SLOT)).await.slot.is_none(), "the slot is being discarded");
    assert_eq!(mark(3).await, (true, None));
    remove(3).await;
    assert!(begin(meta, file, 2, file + 4, Some(SLOT)).await.slot.is_none(), "the slot is being discarded");
    mark(4).await;
    remove(4).await;
    remove(2).await;
    assert!(begin(meta, file, 2, file + 5, Some(SLOT)).await.slot.is_some());
}

async fn the_object_ends_with_the_last_slot(meta: &Meta) {
    let file = 94_200_000;
    create(meta, file).await;
    let blob_id = send(meta, file, 1, file + 1, SLOT).await.blob_id;
    assert!(send(meta, file, 2, file + 2, 5).await.slot.is_some(), "it may be the last part");
    assert!(send(meta, file, 3, file + 3, SLOT).await.slot.is_none());
    let request = CompleteRequest { parts: Some(3), size: None, expected: crate::ExpectedDigests::default() };
    let CompleteOutcome::Multipart(upload) = complete_as(meta, file, request, file + 4).await else {
        panic!("the file must be completed");
    };
    assert_eq!((upload.parts.len(), upload.size), (2, SLOT + 5));
    let parts = meta.blobs.parts(blob_id).await.unwrap();
    let places: Vec<_> = parts.iter().map(|part| (part.is_own_object, part.range())).collect();
    assert_eq!(places, [(false, 0..SLOT), (false, SLOT..SLOT + 5), (true, 0..SLOT)]);
    let incomplete: Vec<_> = parts.iter().map(|part| part.incomplete_upload.as_deref()).collect();
    assert_eq!(incomplete, [Some("65536+"), Some("65536+"), None]);
}
