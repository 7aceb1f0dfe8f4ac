//! Buckets.

use osproxy_api::ErrorCode;
use osproxy_core::ops::buckets::{BucketSummary, create_bucket, delete_bucket, list_buckets};
use s3s::{
    S3Request, S3Response, S3Result,
    dto::{
        Bucket, BucketLocationConstraint, CreateBucketInput, CreateBucketOutput, DeleteBucketInput,
        DeleteBucketOutput, GetBucketLocationInput, GetBucketLocationOutput, GetBucketVersioningInput,
        GetBucketVersioningOutput, HeadBucketInput, HeadBucketOutput, ListBucketsInput, ListBucketsOutput,
        Owner,
    },
    s3_error,
};

use super::{objects::refuse_unsupported, timestamp};
use crate::{auth::Identity, errors::to_s3, service::Service};

/// Maximum number of buckets in an answer, which is that of a tenant.
const MAX_BUCKETS: u64 = 1000;
/// The region that has no name in answers.
const UNNAMED_REGION: &str = "us-east-1";

pub(crate) fn owner(tenant: &str) -> Owner {
    Owner { id: Some(tenant.to_owned()), display_name: Some(tenant.to_owned()) }
}

impl Service {
    pub(crate) async fn list_buckets_of_caller(
        &self,
        request: S3Request<ListBucketsInput>,
    ) -> S3Result<S3Response<ListBucketsOutput>> {
        let identity = Identity::of(&request)?.clone();
        let ListBucketsInput { prefix, max_buckets, continuation_token, .. } = request.input;
        let after = continuation_token.as_deref();
        let all =
            list_buckets(&self.app.uploads, &identity.caller, after, MAX_BUCKETS).await.map_err(to_s3)?;
        let is_shown = |bucket: &BucketSummary| {
            identity.key.allows_bucket(&bucket.name)
                && prefix.as_deref().is_none_or(|prefix| bucket.name.starts_with(prefix))
        };
        let mut shown: Vec<_> = all.into_iter().filter(is_shown).collect();
        let max = max_buckets.and_then(|max| usize::try_from(max).ok()).unwrap_or(usize::MAX);
        let is_truncated = shown.len() > max;
        shown.truncate(max);
        let continuation_token = shown.last().filter(|_| is_truncated).map(|bucket| bucket.name.clone());
        let buckets = shown.into_iter().map(|bucket| Bucket {
            creation_date: Some(timestamp(bucket.created_at)),
            name: Some(bucket.name),
            bucket_region: Some(self.settings.region.clone()),
        });
        Ok(S3Response::new(ListBucketsOutput {
            buckets: Some(buckets.collect()),
            continuation_token,
            owner: Some(owner(identity.caller.tenant.as_str())),
            prefix,
        }))
    }

    pub(crate) async fn create(
        &self,
        request: S3Request<CreateBucketInput>,
    ) -> S3Result<S3Response<CreateBucketOutput>> {
        refuse_unsupported(&request.headers)?;
        let caller = &Identity::of(&request)?.caller;
        let name = &request.input.bucket;
        let created = create_bucket(&self.app.uploads, caller, name).await;
        created.map_err(|error| match error.code {
            ErrorCode::InvalidArgument => s3_error!(InvalidBucketName, "The specified bucket is not valid"),
            _ => to_s3(error),
        })?;
        Ok(S3Response::new(CreateBucketOutput { location: Some(format!("/{name}")) }))
    }

    pub(crate) async fn head(
        &self,
        request: S3Request<HeadBucketInput>,
    ) -> S3Result<S3Response<HeadBucketOutput>> {
        self.current_bucket(&request, &request.input.bucket).await?;
        let bucket_region = Some(self.settings.region.clone());
        Ok(S3Response::new(HeadBucketOutput { bucket_region, ..HeadBucketOutput::default() }))
    }

    pub(crate) async fn delete(
        &self,
        request: S3Request<DeleteBucketInput>,
    ) -> S3Result<S3Response<DeleteBucketOutput>> {
        let (bucket, identity) = self.current_bucket(&request, &request.input.bucket).await?;
        delete_bucket(&self.app.uploads, &identity.caller, &bucket.name).await.map_err(to_s3)?;
        Ok(S3Response::new(DeleteBucketOutput {}))
    }

    pub(crate) async fn location(
        &self,
        request: S3Request<GetBucketLocationInput>,
    ) -> S3Result<S3Response<GetBucketLocationOutput>> {
        self.current_bucket(&request, &request.input.bucket).await?;
        let region = Some(self.settings.region.clone()).filter(|region| region != UNNAMED_REGION);
        let location_constraint = region.map(BucketLocationConstraint::from);
        Ok(S3Response::new(GetBucketLocationOutput { location_constraint }))
    }

    pub(crate) async fn versioning(
        &self,
        request: S3Request<GetBucketVersioningInput>,
    ) -> S3Result<S3Response<GetBucketVersioningOutput>> {
        self.current_bucket(&request, &request.input.bucket).await?;
        // Without a status, versioning was never enabled.
        Ok(S3Response::new(GetBucketVersioningOutput::default()))
    }
}
