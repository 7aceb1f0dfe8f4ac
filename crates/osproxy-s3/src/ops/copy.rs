//! Copies of objects.

use std::collections::BTreeMap;

use axum::http::{HeaderMap, header};
use futures_util::StreamExt;
use osproxy_core::{
    auth::until_revoked,
    ops::{
        copy_object::{self, CopySource},
        download_file::open_content,
        find_object::{BucketRecord, FoundObject, StoredFile, find_content},
        locate_content::store_elsewhere,
        put_object::{ObjectCondition, ObjectRequest},
    },
};
use s3s::{
    S3ErrorCode, S3Request, S3Response, S3Result,
    dto::{
        self, CopyObjectInput, CopyObjectOutput, CopyObjectResult, ETagCondition, MetadataDirective,
        TaggingDirective,
    },
    s3_error,
};
use time::OffsetDateTime;

use super::{
    etag,
    objects::{
        DEFAULT_TYPE, ReadConditions, metadata_of, refuse_encryption, refuse_unsupported, write_condition,
    },
};
use crate::{
    attributes::{Attributes, parse_tags},
    auth::Identity,
    body,
    checksums::Algorithm,
    errors::to_s3,
    forward::elsewhere,
    parts::PartList,
    service::Service,
};

/// Returns bucket and key of the header `x-amz-copy-source`.
fn source_of(source: &dto::CopySource) -> S3Result<(&str, &str)> {
    match source {
        dto::CopySource::Bucket { bucket, key, version_id } => {
            if version_id.as_deref().is_some_and(|version| version != "null") {
                return Err(s3_error!(NoSuchVersion, "Versioning is not implemented"));
            }
            Ok((bucket, key))
        }
        _ => Err(s3_error!(NotImplemented, "Access points are not implemented")),
    }
}

/// The conditions on the object that is replaced, which `s3s` does not parse.
fn target_condition(headers: &HeaderMap) -> S3Result<Option<ObjectCondition>> {
    let parse = |name| {
        let value = headers.get(name).map(|value| ETagCondition::parse_http_header(value.as_bytes()));
        value.transpose().map_err(|_| s3_error!(InvalidArgument, "The condition is malformed"))
    };
    write_condition(parse(header::IF_MATCH)?.as_ref(), parse(header::IF_NONE_MATCH)?.as_ref())
}

impl Service {
    /// Returns the source of a copy and its bucket, if it meets the conditions.
    pub(super) async fn source(
        &self,
        identity: &Identity,
        source: &dto::CopySource,
        conditions: ReadConditions<'_>,
    ) -> S3Result<(BucketRecord, FoundObject)> {
        let (bucket, key) = source_of(source)?;
        let bucket = self.bucket_of(identity, bucket).await?;
        let found = find_content(&self.app.uploads, &bucket, key).await.map_err(to_s3)?;
        conditions.check(&found.object, &S3ErrorCode::PreconditionFailed)?;
        Ok((bucket, found))
    }

    /// Replaces the checksums in the attributes of a copy. Reads the content, unless it has this
    /// checksum already.
    async fn choose_checksum(
        &self,
        attributes: &mut Attributes,
        algorithm: Algorithm,
        identity: &Identity,
        file: &StoredFile,
    ) -> S3Result<()> {
        let is_composite = attributes.upload_checksum.is_some_and(|checksum| checksum.is_composite);
        let known = attributes.checksums.remove(algorithm.name()).filter(|_| !is_composite);
        attributes.checksums.clear();
        attributes.upload_checksum = None;
        attributes.parts = attributes.parts.take().map(PartList::without_sums);
        if let Some(known) = known {
            attributes.checksums.insert(algorithm.name().to_owned(), known);
            return Ok(());
        }
        if let Some(store) = store_elsewhere(&self.app.files, file) {
            return Err(elsewhere(store));
        }
        let constraints = identity.caller.link_constraints();
        let content = open_content(&self.app.files, file, 0..file.content.size, &constraints).await;
        let content = until_revoked(self.app.auth.clone(), identity.caller.clone(), content.map_err(to_s3)?);
        let (mut content, sums) = body::hash(content, algorithm);
        while let Some(bytes) = content.next().await {
            bytes.map_err(to_s3)?;
        }
        attributes.set_checksums(&sums.get().unwrap_or_default());
        Ok(())
    }

    pub(crate) async fn copy(
        &self,
        request: S3Request<CopyObjectInput>,
    ) -> S3Result<S3Response<CopyObjectOutput>> {
        let (bucket, identity) = self.bucket(&request, &request.input.bucket).await?;
        refuse_unsupported(&request.headers)?;
        let condition = target_condition(&request.headers)?;
        let input = request.input;
        refuse_encryption(is_encrypted!(input))?;
        let (source_bucket, found) =
            self.source(&identity, &input.copy_source, source_conditions!(input)).await?;
        let FoundObject { object: source, file, metadata } = found;
        let is = |directive: Option<&str>| directive == Some("REPLACE");
        let replaces = is(input.metadata_directive.as_ref().map(MetadataDirective::as_str));
        let replaces_tags = is(input.tagging_directive.as_ref().map(TaggingDirective::as_str));
        if !replaces && !replaces_tags && source_bucket.id == bucket.id && source.key == input.key {
            return Err(s3_error!(
                InvalidRequest,
                "This copy request is illegal because it is trying to copy an object to itself without changing \
                 the object's metadata"
            ));
        }
        let old = Attributes::parse(source.attributes.as_deref());
        let (metadata, content_type, mut attributes) = if replaces {
            let attributes = attributes!(input, BTreeMap::new());
            let content_type = input.content_type.unwrap_or_else(|| DEFAULT_TYPE.to_owned());
            (metadata_of(input.metadata)?, content_type, attributes)
        } else {
            (metadata, file.content_type.clone(), old.clone())
        };
        attributes.tags =
            if replaces_tags { parse_tags(input.tagging.as_deref())? } else { old.tags.clone() };
        (attributes.checksums, attributes.upload_checksum) = (old.checksums, old.upload_checksum);
        attributes.parts = old.parts;
        if let Some(algorithm) = Algorithm::of_request(input.checksum_algorithm.as_ref())? {
            self.choose_checksum(&mut attributes, algorithm, &identity, &file).await?;
        }
        let sums = attributes.checksums();
        let new = ObjectRequest {
            key: input.key,
            content_type: Some(content_type),
            metadata,
            attributes: attributes.to_text(),
            condition,
        };
        let source = CopySource { bucket: &source_bucket, key: &source.key, etag: &source.etag };
        let copied = copy_object::copy_object(&self.app.uploads, &identity.caller, source, &bucket, new);
        let copied = copied.await.map_err(to_s3)?;
        let mut result = CopyObjectResult {
            e_tag: Some(etag(&copied.etag)),
            last_modified: Some(OffsetDateTime::now_utc().into()),
            checksum_type: sums.checksum_type.clone(),
            ..CopyObjectResult::default()
        };
        set_checksums!(result, sums);
        Ok(S3Response::new(CopyObjectOutput {
            copy_object_result: Some(result),
            ..CopyObjectOutput::default()
        }))
    }
}
