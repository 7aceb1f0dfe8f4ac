//! Upload grants.

use osproxy_types::tenant::Tenant;

use super::{uid, upload};
use crate::{
    CreateOutcome, DeleteOutcome, FileFilter, FileGrant, GrantRecord, GrantRefusal, Meta, NewUpload, now_ms,
};

const HOUR: i64 = 3_600_000;

pub(super) async fn run(meta: &Meta) {
    uploads_are_counted_within_the_limits_of_a_grant(meta).await;
    grants_are_listed_revoked_and_purged(meta).await;
    attempts_are_limited(meta).await;
    active_grants_are_limited(meta).await;
}

/// Stores a grant, without a limit on their number.
async fn store(meta: &Meta, new: GrantRecord) {
    assert!(meta.access.create_grant(new, u64::from(u32::MAX)).await.unwrap());
}

fn grant(number: i64, max_uploads: Option<u32>, expires_at: i64) -> GrantRecord {
    GrantRecord {
        id: uid(number),
        tenant: Tenant::default(),
        created_at: 1,
        expires_at,
        revoked_at: None,
        max_uploads,
        uploads: 0,
        api_key: None,
        terms: "{}".to_owned(),
    }
}

fn granted(number: i64, grant: i64) -> NewUpload {
    let mut new = upload(number, &format!("granted-{number}"));
    new.file.grant = Some(FileGrant { id: uid(grant), required_types: None });
    new
}

async fn uploads_of(meta: &Meta, grant: i64) -> u32 {
    meta.access.grant(uid(grant)).await.unwrap().unwrap().uploads
}

async fn files_of(meta: &Meta, grant: i64) -> Vec<i64> {
    let filter = FileFilter { grant: Some(uid(grant)), ..FileFilter::default() };
    let files = meta.files.list(&Tenant::default(), &filter, None, 10).await.unwrap();
    files.iter().map(|file| file.uid.get()).collect()
}

async fn uploads_are_counted_within_the_limits_of_a_grant(meta: &Meta) {
    let create = async |new: Vec<NewUpload>| meta.files.create(new, 0).await.unwrap();
    let refused = CreateOutcome::Refused;
    store(meta, grant(5000, Some(2), now_ms() + HOUR)).await;
    assert_eq!(create(vec![granted(5001, 5000)]).await, CreateOutcome::Created(vec![false]));
    let two = vec![granted(5002, 5000), granted(5003, 5000)];
    assert_eq!(create(two).await, refused(GrantRefusal::UsedUp));
    assert_eq!((uploads_of(meta, 5000).await, files_of(meta, 5000).await), (1, vec![5001]));
    // A conflict counts nothing.
    assert_eq!(create(vec![granted(5001, 5000)]).await, CreateOutcome::UidTaken);
    assert_eq!(create(vec![granted(5004, 5000)]).await, CreateOutcome::Created(vec![false]));
    assert_eq!(create(vec![granted(5005, 5000)]).await, refused(GrantRefusal::UsedUp));
    // An upload that ends without content is counted down once, however it ends.
    assert_eq!(meta.uploads.abort(uid(5001), uid(5006)).await.unwrap(), DeleteOutcome::Deleted);
    assert_eq!(meta.uploads.abort(uid(5001), uid(5007)).await.unwrap(), DeleteOutcome::Unchanged);
    assert_eq!(uploads_of(meta, 5000).await, 1);
    assert_eq!(meta.uploads.expire(uid(5004), 1, uid(5008)).await.unwrap(), DeleteOutcome::Deleted);
    assert_eq!((uploads_of(meta, 5000).await, files_of(meta, 5000).await), (0, vec![]));
    store(meta, grant(5010, None, now_ms() - 1)).await;
    assert_eq!(create(vec![granted(5011, 5010)]).await, refused(GrantRefusal::Expired));
    assert_eq!(create(vec![granted(5012, 5999)]).await, refused(GrantRefusal::Revoked));
    store(meta, grant(5020, None, now_ms() + HOUR)).await;
    assert!(meta.access.revoke_grant(Tenant::default(), uid(5020)).await.unwrap());
    assert_eq!(create(vec![granted(5021, 5020)]).await, refused(GrantRefusal::Revoked));
    assert!(meta.files.state(uid(5021)).await.unwrap().is_none());
}

/// Uploads that are created and aborted again and again are limited too.
async fn attempts_are_limited(meta: &Meta) {
    store(meta, grant(5040, Some(1), now_ms() + HOUR)).await;
    for number in 5100..5210 {
        let created = meta.files.create(vec![granted(number, 5040)], 0).await.unwrap();
        assert_eq!(created, CreateOutcome::Created(vec![false]), "{number}");
        meta.uploads.abort(uid(number), uid(number + 1000)).await.unwrap();
    }
    let refused = meta.files.create(vec![granted(5210, 5040)], 0).await.unwrap();
    assert_eq!(refused, CreateOutcome::Refused(GrantRefusal::UsedUp));
    assert_eq!(uploads_of(meta, 5040).await, 0);
}

async fn grants_are_listed_revoked_and_purged(meta: &Meta) {
    let other = Tenant::from_db("other");
    assert!(!meta.access.revoke_grant(other.clone(), uid(5000)).await.unwrap());
    let revoked_at = meta.access.grant(uid(5020)).await.unwrap().unwrap().revoked_at;
    assert!(revoked_at.is_some());
    assert!(meta.access.revoke_grant(Tenant::default(), uid(5020)).await.unwrap());
    assert_eq!(meta.access.grant(uid(5020)).await.unwrap().unwrap().revoked_at, revoked_at);
    let list = async |before: Option<i64>| {
        let page = meta.access.grants(&Tenant::default(), before.map(uid), 2).await.unwrap();
        page.into_iter().map(|grant| grant.id.get()).collect::<Vec<_>>()
    };
    assert_eq!(list(None).await, [5020, 5010]);
    assert_eq!(list(Some(5010)).await, [5000]);
    assert!(meta.access.grants(&other, None, 2).await.unwrap().is_empty());
    // Only grants that have been expired for a month are removed.
    store(meta, grant(5030, None, now_ms() - 31 * 24 * HOUR)).await;
    assert_eq!(meta.access.purge_grants(10).await.unwrap(), 1);
    assert!(meta.access.grant(uid(5030)).await.unwrap().is_none());
    assert!(meta.access.grant(uid(5010)).await.unwrap().is_some());
}

async fn active_grants_are_limited(meta: &Meta) {
    let of = |number: i64, tenant: &str, expires_at: i64| GrantRecord {
        tenant: Tenant::from_db(tenant),
        ..grant(number, Some(1), expires_at)
    };
    let create = async |new: GrantRecord| meta.access.create_grant(new, 2).await.unwrap();
    let later = now_ms() + HOUR;
    // Grants that have ended do not count, nor do those of other tenants.
    assert!(create(of(5300, "many", now_ms() - 1)).await);
    assert!(create(of(5301, "other", later)).await);
    assert!(create(of(5302, "many", later)).await);
    assert!(create(of(5303, "many", later + 1)).await);
    for expires_at in [later - 1, later, later + 2] {
        assert!(!create(of(5304, "many", expires_at)).await);
    }
    assert!(meta.access.grant(uid(5304)).await.unwrap().is_none());
    assert!(create(of(5305, "other", later)).await);
    assert!(meta.access.revoke_grant(Tenant::from_db("many"), uid(5303)).await.unwrap());
    assert!(create(of(5304, "many", later)).await);
    assert!(!create(of(5306, "many", later)).await);
}
