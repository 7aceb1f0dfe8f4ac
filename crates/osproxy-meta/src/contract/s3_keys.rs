//! Keys of the S3 API.

use osproxy_types::tenant::Tenant;

use crate::{Meta, S3KeyRecord};

pub(super) async fn run(meta: &Meta) {
    keys_are_stored_listed_and_revoked(meta).await;
}

fn key(id: &str, buckets: Option<&[&str]>, read_only: bool, created_at: i64) -> S3KeyRecord {
    S3KeyRecord {
        id: id.to_owned(),
        label: "a label".to_owned(),
        tenant: Tenant::default(),
        buckets: buckets.map(|buckets| buckets.iter().map(|&bucket| bucket.to_owned()).collect()),
        read_only,
        master_key: "0123456789abcdef".to_owned(),
        created_at,
        revoked_at: None,
    }
}

async fn keys_are_stored_listed_and_revoked(meta: &Meta) {
    let many: Vec<_> = (0..1000).map(|number| format!("bucket-{number:0>56}")).collect();
    let many: Vec<_> = many.iter().map(String::as_str).collect();
    let (one, other) = ("OSPAAAAAAAAAAAAAAAAA", "OSPBBBBBBBBBBBBBBBBB");
    meta.access.create_s3_key(key(other, None, false, 2)).await.unwrap();
    meta.access.create_s3_key(key(one, Some(&many), true, 1)).await.unwrap();
    assert!(meta.access.create_s3_key(key(one, None, false, 3)).await.is_err());
    let found = meta.access.s3_key(one).await.unwrap().unwrap();
    assert_eq!(found.buckets.unwrap(), many);
    assert!(found.read_only && found.revoked_at.is_none());
    assert_eq!((&*found.label, &*found.master_key, found.created_at), ("a label", "0123456789abcdef", 1));
    // Ids are compared bytewise on every database.
    assert!(meta.access.s3_key(&one.to_lowercase()).await.unwrap().is_none());
    assert!(meta.access.revoke_s3_key(one).await.unwrap());
    assert!(!meta.access.revoke_s3_key(one).await.unwrap());
    assert!(!meta.access.revoke_s3_key("OSPCCCCCCCCCCCCCCCCC").await.unwrap());
    let keys = meta.access.s3_keys().await.unwrap();
    let states: Vec<_> = keys.iter().map(|key| (&*key.id, key.revoked_at.is_some(), key.read_only)).collect();
    assert_eq!(states, [(one, true, true), (other, false, false)]);
}
