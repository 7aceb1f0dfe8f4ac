//! Create, list, change and delete buckets.

use std::sync::Arc;

use osproxy_api::{ErrorCode, v1::BucketSettings};
use osproxy_cluster::Message;
pub use osproxy_meta::{BucketChanges, BucketRecord, BucketSummary};
use osproxy_meta::{CreateBucketOutcome, DeleteBucketOutcome};

use osproxy_types::scope::Scope;

use super::{UploadOps, unknown_bucket_error};
pub use crate::buckets::{KnownBucket, cors::CorsRule, lifecycle::LifecycleRule};
use crate::{
    Caller, Error, Result, boxed_future,
    buckets::{encode_cors, encode_lifecycle},
};

/// Maximum number of buckets of a tenant.
const MAX_BUCKETS: u64 = 1000;

/// Creates a bucket of the caller's tenant. Names are unique among all tenants. Fails with
/// `InvalidArgument` for a name that S3 does not allow, and with `BucketExists`, `BucketTaken` or
/// `TooManyBuckets`.
#[boxed_future]
pub async fn create_bucket(uploads: &Arc<UploadOps>, caller: &Caller, name: &str) -> Result<()> {
    if !is_bucket_name(name) {
        let message = "a bucket name must have 3 to 63 lower-case letters, digits, dots and hyphens, must \
                       start and end with a letter or digit, and must not look like an IP address";
        return Err(Error::invalid(message).with_field("bucket"));
    }
    uploads.admission.check_database_space()?;
    let id = uploads.uids.next().await?;
    let (tenant, wanted) = (caller.tenant.clone(), name.to_owned());
    let created = uploads.meta.objects.create_bucket(id, tenant, wanted, MAX_BUCKETS).await?;
    announce_change(uploads, name);
    match created {
        CreateBucketOutcome::Created => Ok(()),
        CreateBucketOutcome::AlreadyOwned => {
            Err(Error::new(ErrorCode::BucketExists, "you have a bucket with this name"))
        }
        CreateBucketOutcome::Taken => {
            Err(Error::new(ErrorCode::BucketTaken, "another tenant has a bucket with this name"))
        }
        CreateBucketOutcome::TooMany => {
            let message = format!("a tenant can have at most {MAX_BUCKETS} buckets");
            Err(Error::new(ErrorCode::TooManyBuckets, message))
        }
    }
}

/// Returns up to `limit` buckets of the caller's tenant in the order of their names, behind the
/// name `after`.
#[boxed_future]
pub async fn list_buckets(
    uploads: &UploadOps,
    caller: &Caller,
    after: Option<&str>,
    limit: u64,
) -> Result<Vec<BucketSummary>> {
    Ok(uploads.meta.objects.buckets(&caller.tenant, after, limit).await?)
}

/// Returns a bucket of any tenant. Fails with `BucketNotFound`.
#[boxed_future]
pub async fn find_bucket(uploads: &UploadOps, name: &str) -> Result<BucketRecord> {
    uploads.meta.objects.bucket(name).await?.ok_or_else(unknown_bucket_error)
}

/// Returns a bucket of any tenant as it was a few seconds ago, without its CORS rules. Fails with
/// `BucketNotFound`. A bucket that was created a moment ago is found. Nothing can be written to a
/// bucket that was deleted.
#[boxed_future]
pub async fn recent_bucket(uploads: &UploadOps, name: &str) -> Result<BucketRecord> {
    match known_bucket(uploads, name).await? {
        Some(known) => Ok(known.record.clone()),
        None => find_bucket(uploads, name).await,
    }
}

/// Returns a bucket of the caller's tenant. Fails with `BucketNotFound`, also for the buckets of
/// other tenants.
#[boxed_future]
pub async fn own_bucket(uploads: &UploadOps, caller: &Caller, name: &str) -> Result<BucketRecord> {
    let bucket = find_bucket(uploads, name).await?;
    if bucket.tenant == caller.tenant { Ok(bucket) } else { Err(unknown_bucket_error()) }
}

/// Changes a bucket of the caller's tenant.
#[boxed_future]
pub async fn update_bucket(
    uploads: &UploadOps,
    caller: &Caller,
    name: &str,
    changes: BucketChanges,
) -> Result<()> {
    let updated = uploads.meta.objects.update_bucket(caller.tenant.clone(), name.to_owned(), changes).await?;
    announce_change(uploads, name);
    if updated { Ok(()) } else { Err(unknown_bucket_error()) }
}

/// Sets the CORS rules of a bucket of the caller's tenant. Fails with `InvalidArgument`.
#[boxed_future]
pub async fn set_cors(uploads: &UploadOps, caller: &Caller, name: &str, rules: &[CorsRule]) -> Result<()> {
    let changes = BucketChanges { cors: Some(encode_cors(rules)?), ..BucketChanges::default() };
    update_bucket(uploads, caller, name, changes).await
}

/// Sets the lifecycle rules of a bucket of the caller's tenant. Fails with `InvalidArgument`.
#[boxed_future]
pub async fn set_lifecycle(
    uploads: &UploadOps,
    caller: &Caller,
    name: &str,
    rules: Vec<LifecycleRule>,
) -> Result<()> {
    let changes = BucketChanges { lifecycle: Some(encode_lifecycle(rules)?), ..BucketChanges::default() };
    update_bucket(uploads, caller, name, changes).await
}

/// Sets all settings of a bucket of the caller's tenant, and creates the bucket if there is none.
/// Returns the bucket, and whether it is new. A setting needs the scope for what it does: `read` to
/// make objects public, and `delete` to let them expire.
#[boxed_future]
pub async fn put_bucket(
    uploads: &Arc<UploadOps>,
    caller: &Caller,
    name: &str,
    settings: BucketSettings,
) -> Result<(BucketRecord, bool)> {
    if settings.public_read {
        caller.require_scope(Scope::Read)?;
    }
    if !settings.lifecycle.is_empty() {
        caller.require_scope(Scope::Delete)?;
    }
    let changes = BucketChanges {
        is_public: Some(settings.public_read),
        cors: Some(encode_cors(&settings.cors)?),
        lifecycle: Some(encode_lifecycle(settings.lifecycle)?),
    };
    let is_new = match create_bucket(uploads, caller, name).await {
        Ok(()) => true,
        Err(error) if error.code == ErrorCode::BucketExists => false,
        Err(error) => return Err(error),
    };
    update_bucket(uploads, caller, name, changes).await?;
    Ok((own_bucket(uploads, caller, name).await?, is_new))
}

/// Returns a bucket of any tenant as it was a few seconds ago, without its rules except CORS. For
/// requests that everybody can send.
#[boxed_future]
pub async fn known_bucket(uploads: &UploadOps, name: &str) -> Result<Option<Arc<KnownBucket>>> {
    uploads.bucket_cache.get(&uploads.meta.objects, name).await
}

/// Like [`known_bucket`], without a look-up. For the answers to requests that this node refuses to
/// process. Returns `None` if this node has not been asked for the bucket.
pub fn cached_bucket(uploads: &UploadOps, name: &str) -> Option<Arc<KnownBucket>> {
    uploads.bucket_cache.peek(name)
}

/// Evicts a bucket from the caches of all nodes.
fn announce_change(uploads: &UploadOps, name: &str) {
    uploads.bucket_cache.forget(name);
    uploads.coordinator.publish(Message::BucketChanged { name: name.to_owned() });
}

/// Deletes a bucket of the caller's tenant. Fails with `BucketNotEmpty` if it has objects. Uploads
/// to the bucket that are not complete can no longer be completed.
#[boxed_future]
pub async fn delete_bucket(uploads: &UploadOps, caller: &Caller, name: &str) -> Result<()> {
    let deleted = uploads.meta.objects.delete_bucket(caller.tenant.clone(), name.to_owned()).await?;
    announce_change(uploads, name);
    match deleted {
        DeleteBucketOutcome::Deleted => Ok(()),
        DeleteBucketOutcome::NotEmpty => {
            Err(Error::new(ErrorCode::BucketNotEmpty, "the bucket has objects; delete them first"))
        }
        DeleteBucketOutcome::Unknown => Err(unknown_bucket_error()),
    }
}

/// Whether S3 allows this name for a bucket.
pub fn is_bucket_name(name: &str) -> bool {
    let is_inner = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit();
    (3..=63).contains(&name.len())
        && name.bytes().all(|byte| is_inner(byte) || byte == b'.' || byte == b'-')
        && name.bytes().next().is_some_and(is_inner)
        && name.bytes().last().is_some_and(is_inner)
        && !name.contains("..")
        && name.parse::<std::net::Ipv4Addr>().is_err()
        && !["xn--", "sthree-", "amzn-s3-demo-"].iter().any(|prefix| name.starts_with(prefix))
        && !["-s3alias", "--ol-s3", ".mrap", "--x-s3", "--table-s3"].iter().any(|end| name.ends_with(end))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_names_of_s3_are_allowed() {
        for good in ["abc", "my-bucket.v2", "0a0", &"x".repeat(63), "1.2.3"] {
            assert!(is_bucket_name(good), "{good}");
        }
        for bad in [
            "ab",
            "",
            "Abc",
            "a_b",
            "-ab",
            "ab-",
            ".ab",
            "a..b",
            "1.2.3.4",
            "xn--a",
            "a-s3alias",
            "a/b",
            "\u{e9}ab",
            &"x".repeat(64),
        ] {
            assert!(!is_bucket_name(bad), "{bad}");
        }
    }
}
