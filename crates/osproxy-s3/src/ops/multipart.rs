//! Multipart uploads.

use osproxy_api::ErrorCode;
use osproxy_core::{
    auth::{S3Key, until_revoked},
    ops::{
        UploadOptions,
        choose_part_node::{choose_part_node, parts_elsewhere},
        download_file::open_content,
        find_object::BucketRecord,
        object_uploads::{
            ObjectCompletion, ObjectUploadRecord, abort_object_upload, complete_object_upload,
            create_object_upload, find_object_upload, is_completed_upload, list_object_parts,
            list_object_uploads,
        },
        put_object::ObjectRequest,
        upload_file::{DigestSelection, ExpectedDigests, SizeHint},
        upload_part::upload_part,
    },
};
use osproxy_types::uid::Uid;
use s3s::{
    S3Error, S3ErrorCode, S3Request, S3Response, S3Result,
    dto::{
        self, AbortMultipartUploadInput, AbortMultipartUploadOutput, Checksum, CompleteMultipartUploadInput,
        CompleteMultipartUploadOutput, CompletedPart, CopyPartResult, CreateMultipartUploadInput,
        CreateMultipartUploadOutput, Initiator, ListMultipartUploadsInput, ListMultipartUploadsOutput,
        ListPartsInput, ListPartsOutput, MultipartUpload, Part, StorageClass, UploadPartCopyInput,
        UploadPartCopyOutput, UploadPartInput, UploadPartOutput,
    },
    s3_error,
};

use super::{
    buckets::owner,
    etag,
    objects::{DEFAULT_TYPE, metadata_of, no_upload, refuse_encryption, refuse_unsupported, write_condition},
    timestamp,
};
use crate::{
    attributes::{Attributes, parse_tags},
    auth::Identity,
    body::{self, Incoming, Sums},
    checksums::{self, UploadChecksum},
    errors::to_s3,
    forward::elsewhere,
    parts::PartList,
    service::Service,
};

/// Highest part number.
const MAX_PARTS: i32 = 10_000;
/// Maximum number of parts or uploads in an answer.
const MAX_LISTED: i32 = 1000;

fn parse_id(id: &str) -> S3Result<Uid> {
    let no_upload = || s3_error!(NoSuchUpload, "The specified upload does not exist");
    id.parse().map_err(|_| no_upload())
}

pub(super) fn part_number(number: i32) -> S3Result<u32> {
    if (1..=MAX_PARTS).contains(&number) {
        return Ok(number.unsigned_abs());
    }
    Err(s3_error!(InvalidArgument, "Part number must be an integer between 1 and 10000, inclusive"))
}

pub(super) fn at_most(wanted: Option<i32>) -> S3Result<i32> {
    let wanted = wanted.unwrap_or(MAX_LISTED);
    if wanted < 0 { Err(s3_error!(InvalidArgument)) } else { Ok(wanted.min(MAX_LISTED)) }
}

fn part_options(identity: &Identity, expected: ExpectedDigests, sums: &Sums) -> UploadOptions {
    UploadOptions {
        expected,
        digests: DigestSelection::MD5,
        constraints: identity.caller.link_constraints(),
        checksums: Some(sums.text()),
    }
}

fn initiator(key: &S3Key) -> Initiator {
    Initiator { id: Some(key.id.clone()), display_name: Some(key.tenant.to_string()) }
}

impl Service {
    /// Returns the upload of a request.
    async fn upload(&self, bucket: &BucketRecord, key: &str, id: &str) -> S3Result<ObjectUploadRecord> {
        let found = find_object_upload(&self.app.uploads, bucket, key, parse_id(id)?).await;
        found.map_err(no_upload)
    }

    /// Fails if only another node can receive the parts of an upload.
    async fn check_node(&self, uid: Uid) -> S3Result<()> {
        match choose_part_node(&self.app.uploads, uid).await.map_err(no_upload)? {
            Some(store) => Err(elsewhere(&store)),
            None => Ok(()),
        }
    }

    pub(crate) async fn create_multipart(
        &self,
        request: S3Request<CreateMultipartUploadInput>,
    ) -> S3Result<S3Response<CreateMultipartUploadOutput>> {
        let (bucket, identity) = self.bucket(&request, &request.input.bucket).await?;
        refuse_unsupported(&request.headers)?;
        let input = request.input;
        refuse_encryption(is_encrypted!(input))?;
        let mut attributes = attributes!(input, parse_tags(input.tagging.as_deref())?);
        attributes.upload_checksum =
            UploadChecksum::of_request(input.checksum_algorithm.as_ref(), input.checksum_type.as_ref())?;
        let object = ObjectRequest {
            key: input.key.clone(),
            content_type: Some(input.content_type.unwrap_or_else(|| DEFAULT_TYPE.to_owned())),
            metadata: metadata_of(input.metadata)?,
            attributes: attributes.to_text(),
            condition: None,
        };
        let uid = create_object_upload(&self.app.uploads, &identity.caller, &bucket, object)
            .await
            .map_err(to_s3)?;
        Ok(S3Response::new(CreateMultipartUploadOutput {
            bucket: Some(bucket.name),
            key: Some(input.key),
            upload_id: Some(uid.to_string()),
            checksum_algorithm: input.checksum_algorithm,
            checksum_type: attributes.upload_checksum.map(UploadChecksum::kind),
            ..CreateMultipartUploadOutput::default()
        }))
    }

    pub(crate) async fn put_part(
        &self,
        request: S3Request<UploadPartInput>,
    ) -> S3Result<S3Response<UploadPartOutput>> {
        let (bucket, identity) = self.bucket(&request, &request.input.bucket).await?;
        let S3Request { input, headers, trailing_headers, .. } = request;
        refuse_encryption(input.sse_customer_algorithm.is_some())?;
        let number = part_number(input.part_number)?;
        let upload = self.upload(&bucket, &input.key, &input.upload_id).await?;
        self.check_node(upload.uid).await?;
        let announced = announced!(input, trailing_headers);
        let incoming = Incoming::read(input.body, announced, &headers).await?;
        let sums = incoming.sums();
        let options = part_options(&identity, incoming.expected, &sums);
        let uploads = &self.app.uploads;
        let body = until_revoked(self.app.auth.clone(), identity.caller.clone(), incoming.body);
        let stored = upload_part(uploads, upload.uid, number, options, incoming.size, body);
        let digests = stored.await.map_err(no_upload)?;
        let e_tag = digests.md5.map(|md5| etag(&hex::encode(md5)));
        let mut output = UploadPartOutput { e_tag, ..UploadPartOutput::default() };
        set_checksums!(output, sums.get().unwrap_or_default());
        Ok(S3Response::new(output))
    }

    pub(crate) async fn copy_part(
        &self,
        request: S3Request<UploadPartCopyInput>,
    ) -> S3Result<S3Response<UploadPartCopyOutput>> {
        let (bucket, identity) = self.bucket(&request, &request.input.bucket).await?;
        let input = request.input;
        let number = part_number(input.part_number)?;
        let upload = self.upload(&bucket, &input.key, &input.upload_id).await?;
        self.check_node(upload.uid).await?;
        let (_, source) = self.source(&identity, &input.copy_source, source_conditions!(input)).await?;
        let (uploads, file) = (&self.app.uploads, source.file);
        let size = file.content.size;
        let range = match input.copy_source_range.as_deref() {
            None => 0..size,
            Some(text) => match dto::Range::parse(text) {
                // The last byte must exist, other than in a download.
                Ok(dto::Range::Int { first, last: Some(last) }) if last < size => first..last + 1,
                _ => {
                    return Err(s3_error!(
                        InvalidArgument,
                        "The x-amz-copy-source-range value must be of the form bytes=first-last within the source"
                    ));
                }
            },
        };
        let length = range.end - range.start;
        let constraints = identity.caller.link_constraints();
        let content = open_content(&self.app.files, &file, range, &constraints).await.map_err(to_s3)?;
        let mut content = until_revoked(self.app.auth.clone(), identity.caller.clone(), content);
        let mut sums = Sums::default();
        if let Some(checksum) = Attributes::parse(upload.attributes.as_deref()).upload_checksum {
            (content, sums) = body::hash(content, checksum.algorithm);
        }
        let options = part_options(&identity, ExpectedDigests::default(), &sums);
        let stored = upload_part(uploads, upload.uid, number, options, SizeHint::Exact(length), content);
        let digests = stored.await.map_err(no_upload)?;
        let mut result = CopyPartResult {
            e_tag: digests.md5.map(|md5| etag(&hex::encode(md5))),
            last_modified: Some(time::OffsetDateTime::now_utc().into()),
            ..CopyPartResult::default()
        };
        set_checksums!(result, sums.get().unwrap_or_default());
        Ok(S3Response::new(UploadPartCopyOutput {
            copy_part_result: Some(result),
            ..UploadPartCopyOutput::default()
        }))
    }

    pub(crate) async fn complete_multipart(
        &self,
        request: S3Request<CompleteMultipartUploadInput>,
    ) -> S3Result<S3Response<CompleteMultipartUploadOutput>> {
        let (bucket, _) = self.bucket(&request, &request.input.bucket).await?;
        let input = request.input;
        let condition = write_condition(input.if_match.as_ref(), input.if_none_match.as_ref())?;
        let completed = input.multipart_upload.and_then(|upload| upload.parts).unwrap_or_default();
        let parts = parts_of(&completed)?;
        let uid = parse_id(&input.upload_id)?;
        let whole = Checksum { checksum_type: input.checksum_type.clone(), ..checksums_in!(input) };
        let attributes = match self.upload(&bucket, &input.key, &input.upload_id).await {
            Ok(upload) => {
                // The type of the content is found out where its bytes are.
                if let Some(store) = parts_elsewhere(&self.app.uploads, uid).await.map_err(to_s3)? {
                    return Err(elsewhere(&store));
                }
                self.describe_content(&upload, &completed, &whole).await?
            }
            // An upload that was completed by an earlier request is not listed any more.
            Err(error) => {
                self.completed_before(&bucket, &input.key, uid, error).await?;
                Attributes::default()
            }
        };
        let sums = attributes.checksums();
        let size = input.mpu_object_size.and_then(|size| u64::try_from(size).ok());
        let completion = ObjectCompletion { parts, size, condition, attributes: attributes.to_text() };
        let stored = complete_object_upload(&self.app.uploads, uid, completion).await;
        let stored = stored.map_err(|error| match error.code {
            ErrorCode::SizeMismatch => s3_error!(InvalidRequest, "The parts do not have the announced size"),
            ErrorCode::Superseded => {
                S3Error::with_message(S3ErrorCode::ConditionalRequestConflict, error.message)
            }
            _ => no_upload(error),
        })?;
        let mut output = CompleteMultipartUploadOutput {
            location: Some(format!("/{}/{}", bucket.name, input.key)),
            bucket: Some(bucket.name),
            key: Some(input.key),
            e_tag: Some(etag(&stored.etag)),
            checksum_type: sums.checksum_type.clone(),
            ..CompleteMultipartUploadOutput::default()
        };
        set_checksums!(output, sums);
        Ok(S3Response::new(output))
    }

    /// Compares the checksums of a request that completes `upload` with those of the parts. Returns the
    /// attributes of the object, with the parts and the checksum of the content.
    async fn describe_content(
        &self,
        upload: &ObjectUploadRecord,
        completed: &[CompletedPart],
        whole: &Checksum,
    ) -> S3Result<Attributes> {
        let uploads = &self.app.uploads;
        let mut attributes = Attributes::parse(upload.attributes.as_deref());
        let stored = list_object_parts(uploads, upload.uid, 0, u64::from(MAX_PARTS.unsigned_abs()));
        let stored = stored.await.map_err(to_s3)?;
        let parts = checksums::select(completed, &stored)?;
        let computed = checksums::of_content(attributes.upload_checksum, &parts, whole)?;
        if let Some((checksum, sum)) = computed {
            attributes.upload_checksum = Some(checksum);
            attributes.checksums = [(checksum.algorithm.name().to_owned(), sum)].into();
        }
        attributes.parts = PartList::of(&parts, attributes.upload_checksum);
        Ok(attributes)
    }

    /// Returns `error` unless the upload `uid` became the object with this key, or will when it is
    /// processed.
    async fn completed_before(
        &self,
        bucket: &BucketRecord,
        key: &str,
        uid: Uid,
        error: S3Error,
    ) -> S3Result<()> {
        let is_completed = is_completed_upload(&self.app.uploads, bucket, key, uid).await.map_err(to_s3)?;
        if is_completed { Ok(()) } else { Err(error) }
    }

    pub(crate) async fn abort_multipart(
        &self,
        request: S3Request<AbortMultipartUploadInput>,
    ) -> S3Result<S3Response<AbortMultipartUploadOutput>> {
        let input = &request.input;
        let (bucket, _) = self.bucket(&request, &input.bucket).await?;
        if input.if_match_initiated_time.is_some() {
            return Err(s3_error!(NotImplemented, "Conditional abortion is not implemented"));
        }
        let upload = self.upload(&bucket, &input.key, &input.upload_id).await?;
        abort_object_upload(&self.app.uploads, upload.uid).await.map_err(no_upload)?;
        Ok(S3Response::new(AbortMultipartUploadOutput::default()))
    }

    pub(crate) async fn parts(
        &self,
        request: S3Request<ListPartsInput>,
    ) -> S3Result<S3Response<ListPartsOutput>> {
        let (bucket, identity) = self.bucket(&request, &request.input.bucket).await?;
        let input = request.input;
        let upload = self.upload(&bucket, &input.key, &input.upload_id).await?;
        let (max, marker) = (at_most(input.max_parts)?, input.part_number_marker.unwrap_or(0));
        let after = u32::try_from(marker).map_err(|_| s3_error!(InvalidArgument))?;
        let limit = u64::from(max.unsigned_abs()) + 1;
        let mut found =
            list_object_parts(&self.app.uploads, upload.uid, after, limit).await.map_err(to_s3)?;
        let is_truncated = found.len() as u64 == limit;
        found.truncate(usize::try_from(max).unwrap_or(0));
        let next = found.last().filter(|_| is_truncated).map(|part| part.number.cast_signed());
        let parts = found.into_iter().map(|part| {
            let mut listed = Part {
                e_tag: part.md5.map(|md5| etag(&hex::encode(md5))),
                last_modified: Some(timestamp(part.stored_at)),
                part_number: Some(part.number.cast_signed()),
                size: Some(part.size.cast_signed()),
                ..Part::default()
            };
            set_checksums!(listed, Attributes::parse_checksums(part.checksums.as_deref()));
            listed
        });
        let checksum = Attributes::parse(upload.attributes.as_deref()).upload_checksum;
        Ok(S3Response::new(ListPartsOutput {
            bucket: Some(bucket.name),
            key: Some(input.key),
            upload_id: Some(input.upload_id),
            initiator: Some(initiator(&identity.key)),
            owner: Some(owner(bucket.tenant.as_str())),
            storage_class: Some(StorageClass::from_static(StorageClass::STANDARD)),
            max_parts: Some(max),
            part_number_marker: Some(marker),
            next_part_number_marker: next,
            is_truncated: Some(is_truncated),
            parts: Some(parts.collect()),
            checksum_algorithm: checksum.map(|checksum| checksum.algorithm.to_dto()),
            checksum_type: checksum.map(UploadChecksum::kind),
            ..ListPartsOutput::default()
        }))
    }

    pub(crate) async fn multiparts(
        &self,
        request: S3Request<ListMultipartUploadsInput>,
    ) -> S3Result<S3Response<ListMultipartUploadsOutput>> {
        let (bucket, identity) = self.bucket(&request, &request.input.bucket).await?;
        let input = request.input;
        if input.delimiter.as_deref().is_some_and(|delimiter| !delimiter.is_empty()) {
            return Err(s3_error!(NotImplemented, "A delimiter of uploads is not implemented"));
        }
        let max = at_most(input.max_uploads)?;
        let (prefix, marker) =
            (input.prefix.as_deref().unwrap_or(""), input.key_marker.as_deref().unwrap_or(""));
        let id_marker =
            input.upload_id_marker.as_deref().filter(|id| !id.is_empty()).map(parse_id).transpose()?;
        let limit = u64::from(max.unsigned_abs()) + 1;
        let found = list_object_uploads(&self.app.uploads, &bucket, prefix, (marker, id_marker), limit);
        let mut found = found.await.map_err(to_s3)?;
        let is_truncated = found.len() as u64 == limit;
        found.truncate(usize::try_from(max).unwrap_or(0));
        let last = found.last().filter(|_| is_truncated).map(|upload| (upload.key.clone(), upload.uid));
        let uploads = found.into_iter().map(|upload| {
            let checksum = Attributes::parse(upload.attributes.as_deref()).upload_checksum;
            MultipartUpload {
                initiated: Some(timestamp(upload.created_at)),
                initiator: Some(initiator(&identity.key)),
                owner: Some(owner(upload.tenant.as_str())),
                storage_class: Some(StorageClass::from_static(StorageClass::STANDARD)),
                upload_id: Some(upload.uid.to_string()),
                key: Some(upload.key),
                checksum_algorithm: checksum.map(|checksum| checksum.algorithm.to_dto()),
                checksum_type: checksum.map(UploadChecksum::kind),
            }
        });
        Ok(S3Response::new(ListMultipartUploadsOutput {
            uploads: Some(uploads.collect()),
            bucket: Some(bucket.name),
            is_truncated: Some(is_truncated),
            key_marker: input.key_marker.or(Some(String::new())),
            upload_id_marker: input.upload_id_marker.or(Some(String::new())),
            next_key_marker: last.as_ref().map(|last| last.0.clone()),
            next_upload_id_marker: last.map(|last| last.1.to_string()),
            max_uploads: Some(max),
            prefix: input.prefix.or(Some(String::new())),
            ..ListMultipartUploadsOutput::default()
        }))
    }
}

/// Returns numbers and MD5s of the parts of a request. The numbers must ascend.
fn parts_of(parts: &[CompletedPart]) -> S3Result<Vec<(u32, [u8; 16])>> {
    if parts.is_empty() {
        return Err(s3_error!(MalformedXML, "You must specify at least one part"));
    }
    let mut numbered: Vec<(u32, [u8; 16])> = Vec::with_capacity(parts.len());
    for part in parts {
        let number = part_number(part.part_number.unwrap_or(0))?;
        if numbered.last().is_some_and(|last| last.0 >= number) {
            return Err(s3_error!(InvalidPartOrder, "The list of parts was not in ascending order"));
        }
        let md5 = part.e_tag.as_ref().and_then(|etag| hex::decode(etag.value()).ok());
        let md5 = md5.and_then(|md5| md5.try_into().ok());
        let wrong = || s3_error!(InvalidPart, "One or more of the specified parts could not be found");
        numbered.push((number, md5.ok_or_else(wrong)?));
    }
    Ok(numbered)
}
