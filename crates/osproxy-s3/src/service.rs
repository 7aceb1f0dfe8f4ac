//! The operations. An operation that has no method here answers 501 with its name.

use std::sync::Arc;

use osproxy_core::App;
use s3s::{S3, S3Request, S3Response, S3Result, dto};

use crate::Settings;

/// The S3 API.
pub(crate) struct Service {
    pub(crate) app: Arc<App>,
    pub(crate) settings: Settings,
}

/// Implements operations by methods of [`Service`].
macro_rules! operations {
    ($($name:ident($input:ident) -> $output:ident = $method:ident,)*) => {
        #[async_trait::async_trait]
        impl S3 for Service {
            $(async fn $name(&self, request: S3Request<dto::$input>) -> S3Result<S3Response<dto::$output>> {
                self.$method(request).await
            })*
        }
    };
}

operations! {
    list_buckets(ListBucketsInput) -> ListBucketsOutput = list_buckets_of_caller,
    create_bucket(CreateBucketInput) -> CreateBucketOutput = create,
    head_bucket(HeadBucketInput) -> HeadBucketOutput = head,
    delete_bucket(DeleteBucketInput) -> DeleteBucketOutput = delete,
    put_bucket_cors(PutBucketCorsInput) -> PutBucketCorsOutput = put_cors,
    get_bucket_cors(GetBucketCorsInput) -> GetBucketCorsOutput = get_cors,
    delete_bucket_cors(DeleteBucketCorsInput) -> DeleteBucketCorsOutput = delete_cors,
    put_bucket_lifecycle_configuration(PutBucketLifecycleConfigurationInput) -> PutBucketLifecycleConfigurationOutput = put_lifecycle,
    get_bucket_lifecycle_configuration(GetBucketLifecycleConfigurationInput) -> GetBucketLifecycleConfigurationOutput = get_lifecycle,
    delete_bucket_lifecycle(DeleteBucketLifecycleInput) -> DeleteBucketLifecycleOutput = delete_lifecycle,
    get_bucket_location(GetBucketLocationInput) -> GetBucketLocationOutput = location,
    get_bucket_versioning(GetBucketVersioningInput) -> GetBucketVersioningOutput = versioning,
    list_objects(ListObjectsInput) -> ListObjectsOutput = list_v1,
    list_objects_v2(ListObjectsV2Input) -> ListObjectsV2Output = list_v2,
    put_object(PutObjectInput) -> PutObjectOutput = put,
    get_object(GetObjectInput) -> GetObjectOutput = get,
    head_object(HeadObjectInput) -> HeadObjectOutput = head_object_of,
    get_object_attributes(GetObjectAttributesInput) -> GetObjectAttributesOutput = attributes,
    copy_object(CopyObjectInput) -> CopyObjectOutput = copy,
    delete_object(DeleteObjectInput) -> DeleteObjectOutput = delete_one,
    delete_objects(DeleteObjectsInput) -> DeleteObjectsOutput = delete_many,
    get_object_tagging(GetObjectTaggingInput) -> GetObjectTaggingOutput = tags,
    put_object_tagging(PutObjectTaggingInput) -> PutObjectTaggingOutput = put_tags,
    delete_object_tagging(DeleteObjectTaggingInput) -> DeleteObjectTaggingOutput = delete_tags,
    create_multipart_upload(CreateMultipartUploadInput) -> CreateMultipartUploadOutput = create_multipart,
    upload_part(UploadPartInput) -> UploadPartOutput = put_part,
    upload_part_copy(UploadPartCopyInput) -> UploadPartCopyOutput = copy_part,
    complete_multipart_upload(CompleteMultipartUploadInput) -> CompleteMultipartUploadOutput = complete_multipart,
    abort_multipart_upload(AbortMultipartUploadInput) -> AbortMultipartUploadOutput = abort_multipart,
    list_parts(ListPartsInput) -> ListPartsOutput = parts,
    list_multipart_uploads(ListMultipartUploadsInput) -> ListMultipartUploadsOutput = multiparts,
}
