//! Parts of unannounced size in a store that preallocates files.

use super::{create, digests, parts::complete_as, uid};
use crate::{
    AnnounceSizeOutcome, BeginPartOutcome, CompleteOutcome, CompleteRequest, FinishPartOutcome, Meta,
    ObjectRowKind, PartIntent, ReceivedPart, SuspendPartOutcome, SuspendedPart, UnusedSlot,
};

const SLOT: u64 = 64 << 10;
/// Each slot begins before this offset, in bytes.
pub(crate) const MAX_SLOT_START: u64 = 10 * SLOT;

/// `meta` must put new files in a store with preallocated files, and use [`MAX_SLOT_START`].
pub(crate) async fn run(meta: &Meta) {
    parts_of_one_size_get_slots(meta).await;
    a_slot_is_not_used_while_its_part_is_deleted(meta).await;
    the_object_ends_with_the_last_slot(meta).await;
    a_suspended_part_is_continued(meta).await;
    a_suspended_part_is_replaced(meta).await;
    bytes_that_are_not_content_are_not_kept(meta).await;
    the_size_is_announced_once(meta).await;
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
    let part = ReceivedPart {
        digests,
        sniffed: None,
        tag: String::new(),
        max_size: None,
        content_type: None,
        checksums: None,
    };
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

/// Suspends a part of which this many bytes are durable.
async fn suspend(meta: &Meta, file: i64, intent: &PartIntent, size: u64) -> SuspendPartOutcome {
    meta.uploads.record_upload_id(intent.blob_id, "65536+".to_owned()).await.unwrap();
    meta.uploads.suspend_part(uid(file), intent, size, [7; 32]).await.unwrap()
}

/// Offset, number of the next part, and the durable bytes of that part.
async fn position(meta: &Meta, file: i64) -> (u64, u32, Option<SuspendedPart>) {
    let position = meta.uploads.append_position(uid(file)).await.unwrap().unwrap();
    (position.offset, position.number, position.suspended)
}

async fn received(meta: &Meta, file: i64) -> Option<u64> {
    meta.files.record(uid(file)).await.unwrap().unwrap().received
}

async fn a_suspended_part_is_continued(meta: &Meta) {
    let file = 94_300_000;
    create(meta, file).await;
    assert_eq!(position(meta, file).await, (0, 1, None));
    send(meta, file, 1, file + 1, SLOT).await;
    let intent = begin(meta, file, 2, file + 2, Some(SLOT)).await;
    assert_eq!(position(meta, file).await, (SLOT, 2, None));
    assert_eq!(suspend(meta, file, &intent, 100).await, SuspendPartOutcome::Suspended(None));
    let suspended = |size, is_resumed| {
        Some(SuspendedPart { id: file + 2, size, key: None, blake3: Some([7; 32]), is_resumed })
    };
    assert_eq!(position(meta, file).await, (SLOT + 100, 2, suspended(100, false)));
    assert_eq!(meta.uploads.status(uid(file)).await.unwrap().unwrap().parts, [1]);
    assert_eq!(received(meta, file).await, Some(SLOT + 100));
    // Only one write continues it. If that write breaks off, the part is suspended as before.
    let resumed = meta.uploads.resume_part(uid(file), file + 2).await.unwrap().unwrap();
    assert_eq!((resumed.resumed, resumed.number, resumed.slot.is_some()), (100, 2, true));
    assert_eq!(position(meta, file).await, (SLOT + 100, 2, suspended(100, true)));
    assert!(meta.uploads.resume_part(uid(file), file + 2).await.unwrap().is_none());
    assert_eq!(meta.blobs.mark_deleting(ObjectRowKind::Part, file + 2).await.unwrap(), None);
    assert_eq!(position(meta, file).await, (SLOT + 100, 2, suspended(100, false)));
    // A sweep that has read the row of an earlier write does not end the write that continues it.
    meta.uploads.resume_part(uid(file), file + 2).await.unwrap().unwrap();
    let abandon = async |writer: &str| meta.blobs.abandon_part(file + 2, writer.to_owned()).await.unwrap();
    assert!(!abandon("another process").await);
    assert_eq!(position(meta, file).await, (SLOT + 100, 2, suspended(100, true)));
    assert!(abandon(&meta.db.node_stores.node).await);
    assert_eq!(position(meta, file).await, (SLOT + 100, 2, suspended(100, false)));
    assert!(!abandon(&meta.db.node_stores.node).await);
    let resumed = meta.uploads.resume_part(uid(file), file + 2).await.unwrap().unwrap();
    assert_eq!(suspend(meta, file, &resumed, 300).await, SuspendPartOutcome::Suspended(None));
    assert_eq!(received(meta, file).await, Some(SLOT + 300));
    let resumed = meta.uploads.resume_part(uid(file), file + 2).await.unwrap().unwrap();
    assert_eq!(finish(meta, file, &resumed, SLOT).await, FinishPartOutcome::Stored(None));
    assert_eq!(position(meta, file).await, (2 * SLOT, 3, None));
    assert_eq!(received(meta, file).await, Some(2 * SLOT));
}

async fn finish(meta: &Meta, file: i64, intent: &PartIntent, size: u64) -> FinishPartOutcome {
    let digests = osproxy_storage::Digests { size, ..digests(&format!("{file} {}", intent.id)) };
    let part = ReceivedPart {
        digests,
        sniffed: None,
        tag: String::new(),
        max_size: None,
        content_type: None,
        checksums: None,
    };
    meta.uploads.finish_part(uid(file), intent, part).await.unwrap()
}

async fn a_suspended_part_is_replaced(meta: &Meta) {
    let file = 94_400_000;
    create(meta, file).await;
    let in_slot = begin(meta, file, 1, file + 1, Some(SLOT)).await;
    assert_eq!(suspend(meta, file, &in_slot, 300).await, SuspendPartOutcome::Suspended(None));
    // The slot is not given to another write.
    let whole = begin(meta, file, 1, file + 2, Some(SLOT)).await;
    assert!(whole.slot.is_none());
    let prefix = async |id: i64| match meta.uploads.begin_prefix(uid(file), 1, uid(id), None).await.unwrap() {
        BeginPartOutcome::Ready(intent) => intent,
        other => panic!("{other:?}"),
    };
    let short = prefix(file + 3).await;
    assert_eq!(suspend(meta, file, &short, 200).await, SuspendPartOutcome::Superseded);
    let long = prefix(file + 4).await;
    assert_eq!(suspend(meta, file, &long, 400).await, SuspendPartOutcome::Suspended(Some(file + 1)));
    let (offset, _, suspended) = position(meta, file).await;
    assert_eq!((offset, suspended.unwrap().key), (400, Some(long.key)));
    assert_eq!(received(meta, file).await, Some(400));
    assert_eq!(finish(meta, file, &whole, SLOT).await, FinishPartOutcome::Stored(Some(file + 4)));
    assert_eq!(received(meta, file).await, Some(SLOT));
    assert_eq!(position(meta, file).await, (SLOT, 2, None));
    let late = prefix(file + 5).await;
    assert_eq!(suspend(meta, file, &late, SLOT - 1).await, SuspendPartOutcome::Superseded);
    // A part that is being continued is replaced too.
    let second = begin(meta, file, 2, file + 6, Some(SLOT)).await;
    assert_eq!(suspend(meta, file, &second, 10).await, SuspendPartOutcome::Suspended(None));
    let resumed = meta.uploads.resume_part(uid(file), file + 6).await.unwrap().unwrap();
    let other = begin(meta, file, 2, file + 7, Some(SLOT)).await;
    assert_eq!(finish(meta, file, &other, SLOT).await, FinishPartOutcome::Stored(None));
    assert_eq!(finish(meta, file, &resumed, SLOT).await, FinishPartOutcome::Swept);
    assert_eq!(received(meta, file).await, Some(2 * SLOT));
}

async fn bytes_that_are_not_content_are_not_kept(meta: &Meta) {
    let file = 94_500_000;
    create(meta, file).await;
    send(meta, file, 1, file + 1, SLOT).await;
    let second = begin(meta, file, 2, file + 2, Some(SLOT)).await;
    assert_eq!(suspend(meta, file, &second, 10).await, SuspendPartOutcome::Suspended(None));
    meta.uploads.drop_suspended_part(uid(file), file + 2).await.unwrap();
    assert_eq!((position(meta, file).await, received(meta, file).await), ((SLOT, 2, None), Some(SLOT)));
    let third = begin(meta, file, 3, file + 3, Some(SLOT)).await;
    assert_eq!(suspend(meta, file, &third, 10).await, SuspendPartOutcome::Suspended(None));
    let request = CompleteRequest { parts: Some(1), size: None, expected: crate::ExpectedDigests::default() };
    let completed = complete_as(meta, file, request, file + 4).await;
    assert!(matches!(completed, CompleteOutcome::Multipart(_)), "{completed:?}");
    for id in [file + 2, file + 3] {
        assert!(meta.blobs.mark_deleting(ObjectRowKind::Part, id).await.unwrap().is_some(), "{id}");
    }
}

async fn the_size_is_announced_once(meta: &Meta) {
    let file = 94_600_000;
    assert_eq!(meta.uploads.announce_size(uid(file), 1).await.unwrap(), AnnounceSizeOutcome::Unknown);
    create(meta, file).await;
    send(meta, file, 1, file + 1, SLOT).await;
    for (size, expected) in [
        (SLOT - 1, AnnounceSizeOutcome::TooSmall(SLOT)),
        (SLOT + 5, AnnounceSizeOutcome::Announced),
        (SLOT + 5, AnnounceSizeOutcome::Announced),
        (SLOT + 6, AnnounceSizeOutcome::Differs(SLOT + 5)),
    ] {
        assert_eq!(meta.uploads.announce_size(uid(file), size).await.unwrap(), expected, "{size}");
    }
    let position = meta.uploads.append_position(uid(file)).await.unwrap().unwrap();
    assert_eq!((position.size, position.layout, position.slot_size), (Some(SLOT + 5), None, Some(SLOT)));
    // No protocol can send more than was announced.
    let second = begin(meta, file, 2, file + 2, Some(SLOT)).await;
    let exceeded = SuspendPartOutcome::ExceedsAnnounced(SLOT + 5);
    assert_eq!(suspend(meta, file, &second, 6).await, exceeded);
    let exceeded = FinishPartOutcome::ExceedsAnnounced(SLOT + 5);
    assert_eq!(finish(meta, file, &second, SLOT).await, exceeded);
    assert_eq!(finish(meta, file, &second, 5).await, FinishPartOutcome::Stored(None));
    assert_eq!(received(meta, file).await, Some(SLOT + 5));
}
