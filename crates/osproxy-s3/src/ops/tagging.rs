//! Tags of objects.

use std::{collections::BTreeMap, sync::Arc};

use osproxy_core::ops::{
    find_object::find_object,
    update_object::{AttributesEdit, update_object},
};
use s3s::{
    S3Request, S3Response, S3Result,
    dto::{
        DeleteObjectTaggingInput, DeleteObjectTaggingOutput, GetObjectTaggingInput, GetObjectTaggingOutput,
        PutObjectTaggingInput, PutObjectTaggingOutput,
    },
    s3_error,
};

use crate::{
    attributes::{Attributes, check_tags},
    errors::to_s3,
    service::Service,
};

/// Maximum attempts if the object is replaced meanwhile.
const MAX_TRIES: usize = 3;

impl Service {
    pub(crate) async fn tags(
        &self,
        request: S3Request<GetObjectTaggingInput>,
    ) -> S3Result<S3Response<GetObjectTaggingOutput>> {
        let (bucket, _) = self.bucket(&request, &request.input.bucket).await?;
        let object = find_object(&self.app.uploads, &bucket, &request.input.key).await.map_err(to_s3)?;
        let attributes = Attributes::parse(object.attributes.as_deref());
        Ok(S3Response::new(GetObjectTaggingOutput { tag_set: attributes.tag_set(), version_id: None }))
    }

    pub(crate) async fn put_tags(
        &self,
        request: S3Request<PutObjectTaggingInput>,
    ) -> S3Result<S3Response<PutObjectTaggingOutput>> {
        let tags = request.input.tagging.tag_set.iter();
        let pairs =
            tags.map(|tag| (tag.key.clone().unwrap_or_default(), tag.value.clone().unwrap_or_default()));
        let tags = check_tags(pairs)?;
        self.set_tags(&request, &request.input.bucket, &request.input.key, tags).await?;
        Ok(S3Response::new(PutObjectTaggingOutput::default()))
    }

    pub(crate) async fn delete_tags(
        &self,
        request: S3Request<DeleteObjectTaggingInput>,
    ) -> S3Result<S3Response<DeleteObjectTaggingOutput>> {
        self.set_tags(&request, &request.input.bucket, &request.input.key, BTreeMap::new()).await?;
        Ok(S3Response::new(DeleteObjectTaggingOutput::default()))
    }

    async fn set_tags<T>(
        &self,
        request: &S3Request<T>,
        bucket: &str,
        key: &str,
        tags: BTreeMap<String, String>,
    ) -> S3Result<()> {
        let (bucket, _) = self.bucket(request, bucket).await?;
        let uploads = &self.app.uploads;
        let edit: AttributesEdit =
            Arc::new(move |text| Attributes { tags: tags.clone(), ..Attributes::parse(text) }.to_text());
        for _ in 0..MAX_TRIES {
            let object = find_object(uploads, &bucket, key).await.map_err(to_s3)?;
            if update_object(uploads, object.uid, edit.clone()).await.map_err(to_s3)? {
                return Ok(());
            }
        }
        Err(s3_error!(OperationAborted, "The object is replaced too often; try again"))
    }
}
