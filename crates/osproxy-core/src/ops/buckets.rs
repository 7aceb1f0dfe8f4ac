//! Create, list, change and delete buckets.

use std::sync::Arc;

use osproxy_api::ErrorCode;
pub use osproxy_meta::{BucketChanges, BucketRecord};
use osproxy_meta::{CreateBucketOutcome, DeleteBucketOutcome};

use super::{UploadOps, unknown_bucket_error};
use crate::{Caller, Error, Result, boxed_future};

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
    let (tenant, name) = (caller.tenant.clone(), name.to_owned());
    match uploads.meta.objects.create_bucket(id, tenant, name, MAX_BUCKETS).await? {
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
) -> Result<Vec<BucketRecord>> {
    Ok(uploads.meta.objects.buckets(&caller.tenant, after, limit).await?)
}

/// Returns a bucket of any tenant. Fails with `BucketNotFound`.
#[boxed_future]
pub async fn find_bucket(uploads: &UploadOps, name: &str) -> Result<BucketRecord> {
    uploads.meta.objects.bucket(name).await?.ok_or_else(unknown_bucket_error)
}

/// Changes a bucket of the caller's tenant.
#[boxed_future]
pub async fn update_bucket(
    uploads: &UploadOps,
    caller: &Caller,
    name: &str,
    changes: BucketChanges,
) -> Result<()> {
    let updated = uploads.meta.objects.update_bucket(caller.tenant.clone(), name.to_owned(), changes);
    if updated.await? { Ok(()) } else { Err(unknown_bucket_error()) }
}

/// Deletes a bucket of the caller's tenant. Fails with `BucketNotEmpty` if it has objects. Uploads
/// to the bucket that are not complete can no longer be completed.
#[boxed_future]
pub async fn delete_bucket(uploads: &UploadOps, caller: &Caller, name: &str) -> Result<()> {
    match uploads.meta.objects.delete_bucket(caller.tenant.clone(), name.to_owned()).await? {
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
