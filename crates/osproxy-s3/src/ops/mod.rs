//! The operations, by resource.

pub(crate) mod buckets;
pub(crate) mod copy;
pub(crate) mod listing;
pub(crate) mod multipart;
pub(crate) mod objects;
pub(crate) mod tagging;

use osproxy_core::ops::{buckets::find_bucket, find_object::BucketRecord};
use s3s::{
    S3Request, S3Result,
    dto::{ETag, ETagCondition, Timestamp},
    s3_error,
};
use time::OffsetDateTime;

use crate::{auth::Identity, errors::to_s3, service::Service};

impl Service {
    /// Returns the bucket and the caller of a request. Fails with `NoSuchBucket`, and with
    /// `AccessDenied` for the buckets of other tenants.
    pub(crate) async fn bucket<T>(
        &self,
        request: &S3Request<T>,
        name: &str,
    ) -> S3Result<(BucketRecord, Identity)> {
        let identity = Identity::of(request)?.clone();
        let bucket = self.bucket_of(&identity, name).await?;
        let owners = ["x-amz-expected-bucket-owner", "x-amz-source-expected-bucket-owner"];
        let mut expected = owners.iter().flat_map(|name| request.headers.get_all(*name));
        if expected.any(|owner| owner.as_bytes() != bucket.tenant.as_str().as_bytes()) {
            return Err(s3_error!(AccessDenied, "Access Denied: another owner of the bucket is expected"));
        }
        Ok((bucket, identity))
    }

    pub(crate) async fn bucket_of(&self, identity: &Identity, name: &str) -> S3Result<BucketRecord> {
        let bucket = find_bucket(&self.app.uploads, name).await.map_err(to_s3)?;
        if bucket.tenant != identity.caller.tenant {
            return Err(s3_error!(AccessDenied, "Access Denied"));
        }
        Ok(bucket)
    }
}

/// Converts milliseconds since the Unix epoch. Headers have only seconds.
pub(crate) fn timestamp(ms: i64) -> Timestamp {
    let at = OffsetDateTime::from_unix_timestamp_nanos(i128::from(ms) * 1_000_000);
    Timestamp::from(at.unwrap_or(OffsetDateTime::UNIX_EPOCH))
}

pub(crate) fn etag(value: &str) -> ETag {
    ETag::Strong(value.to_owned())
}

/// Whether an `ETag` meets the condition of a header.
pub(crate) fn meets(condition: &ETagCondition, current: &str) -> bool {
    match condition {
        ETagCondition::Any => true,
        ETagCondition::ETag(etag) => etag.value() == current,
    }
}
