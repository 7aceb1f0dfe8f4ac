//! The operations, by resource.

// The inputs and the outputs of operations have the same fields, but no common type.

/// The checksums in the fields of a request or of a part of it.
macro_rules! checksums_in {
    ($fields:expr) => {
        s3s::dto::Checksum {
            checksum_crc32: $fields.checksum_crc32.clone(),
            checksum_crc32c: $fields.checksum_crc32c.clone(),
            checksum_crc64nvme: $fields.checksum_crc64nvme.clone(),
            checksum_sha1: $fields.checksum_sha1.clone(),
            checksum_sha256: $fields.checksum_sha256.clone(),
            checksum_type: None,
        }
    };
}

pub(crate) use checksums_in;

/// Sets the fields with checksums, except the type of the checksum.
macro_rules! set_checksums {
    ($output:ident, $sums:expr) => {{
        let sums: s3s::dto::Checksum = $sums;
        $output.checksum_crc32 = sums.checksum_crc32;
        $output.checksum_crc32c = sums.checksum_crc32c;
        $output.checksum_crc64nvme = sums.checksum_crc64nvme;
        $output.checksum_sha1 = sums.checksum_sha1;
        $output.checksum_sha256 = sums.checksum_sha256;
    }};
}

/// Sets the fields that GET and HEAD have in common.
macro_rules! describe {
    ($output:ident, $input:ident, $found:ident, $selection:ident) => {{
        let (input, found, selection) = ($input, $found, $selection);
        if input.checksum_mode.is_some() {
            $output.checksum_type = selection.sums.checksum_type.clone();
            set_checksums!($output, selection.sums);
        }
        let Attributes { cache_control, content_disposition, content_encoding, content_language, .. } =
            &found.attributes;
        let either = |wanted: &Option<String>, kept: &Option<String>| wanted.clone().or_else(|| kept.clone());
        $output.accept_ranges = Some("bytes".to_owned());
        $output.content_length = Some((selection.bytes.end - selection.bytes.start).cast_signed());
        $output.content_range = selection.content_range;
        $output.parts_count = selection.parts_count;
        $output.content_type = either(&input.response_content_type, &Some(found.file.content_type.clone()));
        $output.cache_control = either(&input.response_cache_control, cache_control);
        $output.content_disposition = either(&input.response_content_disposition, content_disposition);
        $output.content_encoding = either(&input.response_content_encoding, content_encoding);
        $output.content_language = either(&input.response_content_language, content_language);
        $output.expires = input.response_expires.clone().or_else(|| found.attributes.expires());
        $output.e_tag = Some(etag(&found.object.etag));
        $output.expiration = found.expiration;
        $output.last_modified = Some(timestamp(found.object.modified_at));
        $output.metadata = Some(found.metadata.into_iter().collect());
    }};
}

/// What the headers of a request say about its body.
macro_rules! announced {
    ($input:ident, $trailers:expr) => {
        $crate::body::Announced {
            length: $input.content_length,
            md5: $input.content_md5,
            checksums: checksums_in!($input),
            trailers: $trailers,
        }
    };
}

/// The attributes in the headers of a request. Returns `MetadataTooLarge` from the function if they
/// are too large.
macro_rules! attributes {
    ($input:ident, $tags:expr) => {{
        let mut attributes = $crate::attributes::Attributes {
            cache_control: $input.cache_control,
            content_disposition: $input.content_disposition,
            content_encoding: $crate::ops::objects::content_coding($input.content_encoding.as_deref()),
            content_language: $input.content_language,
            tags: $tags,
            ..$crate::attributes::Attributes::default()
        };
        attributes.set_expires($input.expires.as_ref());
        attributes.check_headers()?;
        attributes
    }};
}

/// The conditions of a request that reads an object.
macro_rules! read_conditions {
    ($input:ident, $matches:ident, $none_matches:ident, $modified:ident, $unmodified:ident) => {
        $crate::ops::objects::ReadConditions {
            matches: $input.$matches.as_ref(),
            none_matches: $input.$none_matches.as_ref(),
            modified_since: $input.$modified.as_ref(),
            unmodified_since: $input.$unmodified.as_ref(),
        }
    };
}

/// The conditions on the source of a copy.
macro_rules! source_conditions {
    ($input:ident) => {
        read_conditions!(
            $input,
            copy_source_if_match,
            copy_source_if_none_match,
            copy_source_if_modified_since,
            copy_source_if_unmodified_since
        )
    };
}

/// Whether a request asks for encryption by the service.
macro_rules! is_encrypted {
    ($input:ident) => {
        $input.sse_customer_algorithm.is_some()
            || $input.ssekms_key_id.is_some()
            || $input.server_side_encryption.is_some()
    };
}

pub(crate) mod buckets;
pub(crate) mod copy;
pub(crate) mod cors;
pub(crate) mod lifecycle;
pub(crate) mod listing;
pub(crate) mod multipart;
pub(crate) mod objects;
pub(crate) mod tagging;

use axum::http::HeaderMap;
use osproxy_core::{
    Caller,
    ops::{
        buckets::{find_bucket, recent_bucket},
        find_object::BucketRecord,
    },
};
use s3s::{
    S3Request, S3Result,
    dto::{ETag, ETagCondition, Timestamp},
    s3_error,
};
use time::OffsetDateTime;

use crate::{
    auth::{Identity, PublicBucket},
    errors::to_s3,
    service::Service,
};

impl Service {
    /// Returns the bucket and the caller of a request about objects. The bucket is that of a few
    /// seconds ago and has no CORS rules. Fails with `NoSuchBucket`, and with `AccessDenied` for the
    /// buckets of other tenants.
    pub(crate) async fn bucket<T>(
        &self,
        request: &S3Request<T>,
        name: &str,
    ) -> S3Result<(BucketRecord, Identity)> {
        let identity = Identity::of(request)?.clone();
        let bucket = self.bucket_of(&identity, name).await?;
        check_owner(&request.headers, &bucket)?;
        Ok((bucket, identity))
    }

    /// Like [`bucket`](Self::bucket), for a request about the bucket itself: all of it is that of now.
    pub(crate) async fn current_bucket<T>(
        &self,
        request: &S3Request<T>,
        name: &str,
    ) -> S3Result<(BucketRecord, Identity)> {
        let identity = Identity::of(request)?.clone();
        let bucket = find_bucket(&self.app.uploads, name).await.map_err(to_s3)?;
        check_tenant(&identity, &bucket)?;
        check_owner(&request.headers, &bucket)?;
        Ok((bucket, identity))
    }

    /// Like [`bucket`](Self::bucket), but also for anonymous requests that read from public buckets.
    pub(crate) async fn readable_bucket<T>(
        &self,
        request: &S3Request<T>,
        name: &str,
    ) -> S3Result<(BucketRecord, Caller)> {
        if let Some(PublicBucket(known)) = request.extensions.get() {
            check_owner(&request.headers, &known.record)?;
            return Ok((known.record.clone(), Caller::of_public_bucket(known.record.tenant.clone())));
        }
        let (bucket, identity) = self.bucket(request, name).await?;
        Ok((bucket, identity.caller))
    }

    pub(crate) async fn bucket_of(&self, identity: &Identity, name: &str) -> S3Result<BucketRecord> {
        let bucket = recent_bucket(&self.app.uploads, name).await.map_err(to_s3)?;
        check_tenant(identity, &bucket)?;
        Ok(bucket)
    }
}

/// Fails with `AccessDenied` for the bucket of another tenant.
fn check_tenant(identity: &Identity, bucket: &BucketRecord) -> S3Result<()> {
    if bucket.tenant == identity.caller.tenant {
        Ok(())
    } else {
        Err(s3_error!(AccessDenied, "Access Denied"))
    }
}

/// Fails with `AccessDenied` if the client expects another owner of the bucket.
fn check_owner(headers: &HeaderMap, bucket: &BucketRecord) -> S3Result<()> {
    let owners = ["x-amz-expected-bucket-owner", "x-amz-source-expected-bucket-owner"];
    let mut expected = owners.iter().flat_map(|name| headers.get_all(*name));
    if expected.any(|owner| owner.as_bytes() != bucket.tenant.as_str().as_bytes()) {
        return Err(s3_error!(AccessDenied, "Access Denied: another owner of the bucket is expected"));
    }
    Ok(())
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
