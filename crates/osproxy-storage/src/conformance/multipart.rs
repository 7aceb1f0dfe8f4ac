//! Conformance suite of [`Multipart`].

use bytes::Bytes;
use futures_util::TryStreamExt;

use super::{assert_absent, get, key, pattern};
use crate::{Backend, Digester, ErrorKind, Key, ListedUpload, Multipart, Result};

const MIB: usize = 1 << 20;

/// Tests for all servers, including a server that appends parts to the object as they arrive and
/// cannot replace a part.
pub(crate) async fn run_without_replacing(store: &dyn Backend) {
    let uploads = store.multipart().unwrap();
    parts_in_any_order_become_one_object(store, uploads).await;
    an_aborted_part_leaves_the_earlier_one(store, uploads).await;
    an_aborted_upload_is_gone(store, uploads).await;
}

/// Tests for servers that store parts separately until completion, where parts can be replaced and
/// left out.
pub(crate) async fn run_replacing(store: &dyn Backend) {
    let uploads = store.multipart().unwrap();
    parts_in_any_order_become_one_object(store, uploads).await;
    a_part_sent_again_counts_once(store, uploads).await;
    an_aborted_part_leaves_the_earlier_one(store, uploads).await;
    wrong_tags_are_a_mismatch(store, uploads).await;
    parts_can_be_left_out(store, uploads).await;
}

pub(crate) async fn listed(uploads: &dyn Multipart, key: Option<&Key>) -> Vec<ListedUpload> {
    uploads.list_uploads(key).await.unwrap().try_collect().await.unwrap()
}

async fn send(
    uploads: &dyn Multipart,
    key: &Key,
    upload: &str,
    number: u32,
    content: &Bytes,
) -> Result<String> {
    let mut writer = uploads.create_part(key, upload, number, content.len() as u64).await?;
    for chunk in content.chunks(60_001) {
        writer.write(content.slice_ref(chunk)).await?;
    }
    let mut expected = Digester::default();
    expected.update(content);
    assert_eq!(writer.finish().await?, expected.finish());
    writer.publish().await
}

async fn parts_in_any_order_become_one_object(store: &dyn Backend, uploads: &dyn Multipart) {
    let key = key("native-order");
    let sizes = [5 * MIB, 6 * MIB + 1, 5 * MIB, 17];
    let content = pattern(20, sizes.iter().sum());
    let upload = uploads.begin(&key, None).await.unwrap();
    assert_absent(store, &key).await;
    let listed_upload = ListedUpload { name: key.to_string(), id: upload.clone() };
    assert!(listed(uploads, None).await.contains(&listed_upload));
    assert_eq!(listed(uploads, Some(&key)).await, std::slice::from_ref(&listed_upload));
    let prefix = Key::parse("unknown/native-orde").unwrap();
    assert_eq!(listed(uploads, Some(&prefix)).await, []);
    uploads.abort_all(&prefix, None).await.unwrap();
    let mut parts = vec![(0, String::new()); sizes.len()];
    for at in [3, 1, 0, 2] {
        let start: usize = sizes[..at].iter().sum();
        let number = u32::try_from(at).unwrap() + 1;
        let part = content.slice(start..start + sizes[at]);
        parts[at] = (number, send(uploads, &key, &upload, number, &part).await.unwrap());
    }
    assert_eq!(uploads.list_parts(&key, &upload).await.unwrap(), parts);
    assert_absent(store, &key).await;
    uploads.complete(&key, &upload, &parts, content.len() as u64).await.unwrap();
    assert_eq!(store.size(&key).await.unwrap(), content.len() as u64);
    assert!(get(store, &key, 0, content.len()).await == content);
    assert!(!listed(uploads, None).await.contains(&listed_upload));
    if let Err(again) = uploads.complete(&key, &upload, &parts, content.len() as u64).await {
        assert_eq!(again.kind, ErrorKind::NotFound);
    }
    assert!(get(store, &key, 0, content.len()).await == content);
    store.delete(&[key]).await.unwrap();
}

async fn a_part_sent_again_counts_once(store: &dyn Backend, uploads: &dyn Multipart) {
    let key = key("native-again");
    let (first, second) = (pattern(21, 5 * MIB), pattern(22, 5 * MIB + 5));
    let upload = uploads.begin(&key, None).await.unwrap();
    send(uploads, &key, &upload, 1, &first).await.unwrap();
    let tag = send(uploads, &key, &upload, 1, &second).await.unwrap();
    uploads.complete(&key, &upload, &[(1, tag)], second.len() as u64).await.unwrap();
    assert!(get(store, &key, 0, second.len()).await == second);
    store.delete(&[key]).await.unwrap();
}

async fn an_aborted_part_leaves_the_earlier_one(store: &dyn Backend, uploads: &dyn Multipart) {
    let key = key("native-broken");
    let (good, bad) = (pattern(23, 5 * MIB), pattern(24, 5 * MIB));
    let upload = uploads.begin(&key, None).await.unwrap();
    let tag = send(uploads, &key, &upload, 1, &good).await.unwrap();
    for sent in [1, 3 * MIB, 5 * MIB] {
        let mut writer = uploads.create_part(&key, &upload, 1, 5 << 20).await.unwrap();
        writer.write(bad.slice(..sent)).await.unwrap();
        let whole = writer.finish().await.is_ok();
        assert_eq!(whole, sent == 5 * MIB);
    }
    uploads.complete(&key, &upload, &[(1, tag)], good.len() as u64).await.unwrap();
    assert!(get(store, &key, 0, good.len()).await == good);
    store.delete(&[key]).await.unwrap();
}

async fn wrong_tags_are_a_mismatch(store: &dyn Backend, uploads: &dyn Multipart) {
    let key = key("native-tags");
    let (first, second) = (pattern(25, 5 * MIB), pattern(26, 5 * MIB));
    let upload = uploads.begin(&key, None).await.unwrap();
    let old = send(uploads, &key, &upload, 1, &first).await.unwrap();
    let new = send(uploads, &key, &upload, 1, &second).await.unwrap();
    for parts in [vec![(1, old)], vec![(1, new.clone()), (2, new.clone())]] {
        let error = uploads.complete(&key, &upload, &parts, 5 << 20).await.unwrap_err();
        assert_eq!(error.kind, ErrorKind::Mismatch, "{error:?}");
        assert_absent(store, &key).await;
    }
    uploads.complete(&key, &upload, &[(1, new)], 5 << 20).await.unwrap();
    store.delete(&[key]).await.unwrap();
}

async fn an_aborted_upload_is_gone(store: &dyn Backend, uploads: &dyn Multipart) {
    let key = key("native-aborted");
    let upload = uploads.begin(&key, None).await.unwrap();
    let part = pattern(27, 5 * MIB);
    let tag = send(uploads, &key, &upload, 1, &part).await.unwrap();
    uploads.abort_all(&key, None).await.unwrap();
    uploads.abort(&key, &upload).await.unwrap();
    for outcome in [
        send(uploads, &key, &upload, 2, &part).await.map(|_| ()),
        uploads.complete(&key, &upload, &[(1, tag)], 5 << 20).await,
        uploads.list_parts(&key, &upload).await.map(|_| ()),
    ] {
        let error = outcome.unwrap_err();
        assert_eq!(error.kind, ErrorKind::NotFound, "{error:?}");
    }
    assert_absent(store, &key).await;
    let objects: Vec<_> = store.list().await.unwrap().try_collect().await.unwrap();
    assert_eq!(objects, []);
}

async fn parts_can_be_left_out(store: &dyn Backend, uploads: &dyn Multipart) {
    let key = key("native-some");
    let (second, fourth) = (pattern(28, 5 * MIB), pattern(29, 7 * MIB));
    let upload = uploads.begin(&key, None).await.unwrap();
    let parts = [
        (2, send(uploads, &key, &upload, 2, &second).await.unwrap()),
        (4, send(uploads, &key, &upload, 4, &fourth).await.unwrap()),
    ];
    uploads.complete(&key, &upload, &parts, 12 << 20).await.unwrap();
    assert!(get(store, &key, 5 * MIB, 12 * MIB).await == fourth);
    store.delete(&[key]).await.unwrap();
}
