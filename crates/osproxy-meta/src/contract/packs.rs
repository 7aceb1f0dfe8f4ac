//! Small content in packs.

use osproxy_storage::{Key, PackLocation};
use osproxy_types::tenant::Tenant;

use super::{ContentLayout, Meta, StoreOutcome, create, digests, uid};
use crate::{DeleteOutcome, ObjectRowKind, PackedBlob, PackedMove};

const FIRST: i64 = 70_000;

pub(super) async fn run(meta: &Meta) {
    packed_content_completes_a_file_in_one_step(meta).await;
    objects_move_and_leave_dead_space(meta).await;
}

fn key(pack: u32, blob_id: i64) -> Key {
    Key::packed(PackLocation { pack, offset: 64, length: 10 }, blob_id)
}

async fn store(meta: &Meta, number: i64, blob_id: i64, content: &str) -> StoreOutcome {
    let (store, digests) = ("local".to_owned(), digests(content));
    let blob = PackedBlob { id: blob_id, store, key: key(1, blob_id), digests, sniffed: None };
    meta.uploads.finish_packed(uid(number), Tenant::default(), blob, "text/plain".to_owned()).await.unwrap()
}

async fn stored_key(meta: &Meta, number: i64) -> Key {
    match meta.files.stored_uncached(uid(number)).await.unwrap().unwrap().content.layout.clone() {
        ContentLayout::Whole(key) => key,
        ContentLayout::Parts => panic!("it is in parts"),
    }
}

async fn packed_content_completes_a_file_in_one_step(meta: &Meta) {
    assert!(meta.uploads.open_upload(uid(FIRST)).await.unwrap().is_none());
    create(meta, FIRST).await;
    create(meta, FIRST + 1).await;
    let open = meta.uploads.open_upload(uid(FIRST)).await.unwrap().unwrap();
    assert_eq!((open.is_pending, &*open.name), (true, "70000.txt"));
    assert_eq!(store(meta, FIRST, FIRST, "packed").await, StoreOutcome::Stored);
    assert!(meta.uploads.open_upload(uid(FIRST)).await.unwrap().is_none());
    assert_eq!(stored_key(meta, FIRST).await, key(1, FIRST));
    // The file is complete, the id is taken, the content is there, the file is unknown.
    assert_eq!(store(meta, FIRST, FIRST + 10, "other").await, StoreOutcome::Superseded);
    assert_eq!(store(meta, FIRST + 1, FIRST, "other").await, StoreOutcome::Conflict);
    assert_eq!(store(meta, FIRST + 1, FIRST + 10, "packed").await, StoreOutcome::Conflict);
    assert_eq!(store(meta, FIRST + 2, FIRST + 10, "other").await, StoreOutcome::Superseded);
    assert_eq!(store(meta, FIRST + 1, FIRST + 10, "other").await, StoreOutcome::Stored);
}

async fn objects_move_and_leave_dead_space(meta: &Meta) {
    let (kept, deleted) = (FIRST, FIRST + 10);
    assert_eq!(
        meta.files.delete(Tenant::default(), uid(FIRST + 1), uid(FIRST + 20)).await.unwrap(),
        DeleteOutcome::Deleted
    );
    assert_eq!(meta.blobs.deleting(deleted).await.unwrap().unwrap().object, Some(key(1, deleted)));
    assert!(meta.blobs.delete_row(ObjectRowKind::Blob, deleted).await.unwrap());
    let to_compact = async |min_dead, dead_before| {
        meta.blobs.packs_to_compact("local", min_dead, dead_before, 10).await.unwrap()
    };
    assert_eq!(to_compact(128, 0).await, [1]);
    assert_eq!(to_compact(129, 0).await, [0_u32; 0]);
    assert_eq!(to_compact(129, i64::MAX).await, [1]);
    let keys = meta.blobs.stored_keys("local", vec![kept, deleted]).await.unwrap();
    assert_eq!(keys, [(kept, key(1, kept).to_string())].into());
    let moves = [kept, deleted].map(|id| PackedMove { blob_id: id, from: key(1, id), to: key(2, id) });
    meta.blobs.move_packed("local", moves.to_vec()).await.unwrap();
    assert_eq!(stored_key(meta, FIRST).await, key(2, kept));
    // The copy of the deleted object is dead space too, and so is a copy from a stale location.
    assert_eq!(to_compact(128, 0).await, [1, 2]);
    meta.blobs.move_packed("local", moves[..1].to_vec()).await.unwrap();
    assert_eq!(stored_key(meta, FIRST).await, key(2, kept));
    assert_eq!(to_compact(256, 0).await, [2]);
    meta.blobs.mark_pack_emptied("local", 1).await.unwrap();
    assert_eq!(to_compact(0, 0).await, [2]);
    assert_eq!(meta.blobs.emptied_packs("local", i64::MAX, 10).await.unwrap(), [1]);
    assert_eq!(meta.blobs.emptied_packs("local", 0, 10).await.unwrap(), [0_u32; 0]);
    meta.blobs.forget_pack("local", 1).await.unwrap();
    assert_eq!(meta.blobs.emptied_packs("local", i64::MAX, 10).await.unwrap(), [0_u32; 0]);
}
