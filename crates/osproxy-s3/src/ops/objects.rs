//! Objects: put, get, head, delete, attributes.

use std::{ops::Range, sync::Arc};

use axum::http::{HeaderMap, HeaderName, HeaderValue, StatusCode, header};
use futures_util::TryStreamExt;
use http_body_util::StreamBody;
use osproxy_api::ErrorCode;
use osproxy_core::{
    Caller,
    auth::until_revoked,
    check_metadata,
    ops::{
        delete_object::delete_object,
        download_file::{AdmittedContent, open_content},
        find_object::{BucketRecord, FoundObject, ObjectRecord, StoredFile, find_content},
        locate_content::store_elsewhere,
        put_object::{FileMetadata, ObjectCondition, ObjectRequest, put_object},
        update_object::update_object,
        upload_file::SizeHint,
    },
};
use osproxy_types::uid::Uid;
use s3s::{
    Body, S3Error, S3ErrorCode, S3Request, S3Response, S3Result,
    dto::{
        self, Checksum, ChecksumType, DeleteObjectInput, DeleteObjectOutput, DeleteObjectsInput,
        DeleteObjectsOutput, DeletedObject, ETagCondition, Error, GetObjectAttributesInput,
        GetObjectAttributesOutput, GetObjectAttributesParts, GetObjectInput, GetObjectOutput,
        HeadObjectInput, HeadObjectOutput, Metadata, ObjectAttributes, ObjectIdentifier, ObjectPart,
        PutObjectInput, PutObjectOutput, StorageClass, StreamingBlob, Timestamp, TimestampFormat,
    },
    s3_error,
};

use super::{
    etag,
    lifecycle::expiration,
    meets,
    multipart::{at_most, part_number},
    timestamp,
};
use crate::{
    attributes::{Attributes, parse_tags},
    auth::PublicBucket,
    body::Incoming,
    errors::{custom, to_s3},
    forward::elsewhere,
    headers::is_form,
    parts::PartList,
    service::Service,
};

/// The MIME type of objects without one, as in AWS.
pub(crate) const DEFAULT_TYPE: &str = "binary/octet-stream";
const TAG_COUNT: HeaderName = HeaderName::from_static("x-amz-tagging-count");
/// Maximum number of keys in one request to delete.
const MAX_DELETES: usize = 1000;
/// Maximum size of the names and values of user metadata, in bytes.
const MAX_METADATA: usize = 2048;
/// Why a condition of a deletion is refused, rather than ignored.
const ONLY_IF_MATCH: &str = "Of the conditions of deletions, only the ETag is implemented";
/// Maximum attempts to read an object that is replaced meanwhile.
const MAX_TRIES: usize = 3;

/// Refuses what the service does not have, so that no client relies on it.
pub(crate) fn refuse_encryption(is_wanted: bool) -> S3Result<()> {
    if is_wanted {
        Err(s3_error!(NotImplemented, "Encryption by the service is not implemented"))
    } else {
        Ok(())
    }
}

/// Maximum length of an `ETag` in bytes: an MD5 and the number of parts.
const MAX_ETAG: usize = 64;
/// Headers that change what a write means, in ways that the service does not have.
const UNSUPPORTED: [&str; 10] = [
    "x-amz-grant-full-control",
    "x-amz-grant-read",
    "x-amz-grant-read-acp",
    "x-amz-grant-write",
    "x-amz-grant-write-acp",
    "x-amz-object-lock-mode",
    "x-amz-object-lock-retain-until-date",
    "x-amz-object-lock-legal-hold",
    "x-amz-bucket-object-lock-enabled",
    "x-amz-website-redirect-location",
];
/// Values of these headers that ask for nothing: rclone sends `false` when it creates a bucket.
const OFF: [&str; 2] = ["false", "OFF"];
/// Canned ACLs that change nothing: only the owner has access.
const OWNER_ACLS: [&str; 3] = ["private", "bucket-owner-full-control", ""];

/// Refuses access control lists, object locks and redirects: a client must not believe that they are
/// in effect.
pub(crate) fn refuse_unsupported(headers: &HeaderMap) -> S3Result<()> {
    let mut acls = headers.get_all("x-amz-acl").iter();
    if acls.any(|acl| !OWNER_ACLS.iter().any(|known| acl.as_bytes() == known.as_bytes())) {
        return Err(s3_error!(NotImplemented, "Access control lists are not implemented"));
    }
    let is_off = |value: &HeaderValue| OFF.iter().any(|off| value.as_bytes() == off.as_bytes());
    match UNSUPPORTED.iter().find(|name| headers.get_all(**name).iter().any(|value| !is_off(value))) {
        Some(name) => Err(s3_error!(NotImplemented, "The header {name} is not implemented")),
        None => Ok(()),
    }
}

/// Converts the conditions of a request that writes a key.
pub(crate) fn write_condition(
    if_match: Option<&ETagCondition>,
    if_none_match: Option<&ETagCondition>,
) -> S3Result<Option<ObjectCondition>> {
    match (if_match, if_none_match) {
        (None, None) => Ok(None),
        (Some(ETagCondition::ETag(etag)), None) if etag.value().len() > MAX_ETAG => {
            Err(s3_error!(PreconditionFailed, "No object has such an ETag"))
        }
        (Some(ETagCondition::ETag(etag)), None) => {
            Ok(Some(ObjectCondition::Matches(etag.value().to_owned())))
        }
        (Some(ETagCondition::Any), None) => Ok(Some(ObjectCondition::Matches("*".to_owned()))),
        (None, Some(ETagCondition::Any)) => Ok(Some(ObjectCondition::Absent)),
        _ => Err(s3_error!(NotImplemented, "Of If-None-Match, only * is implemented, and not with If-Match")),
    }
}

/// Metadata of a request, whose names are in lower case.
pub(crate) fn metadata_of(metadata: Option<Metadata>) -> S3Result<FileMetadata> {
    let metadata: FileMetadata = metadata.unwrap_or_default().into_iter().collect();
    if metadata.iter().map(|(name, value)| name.len() + value.len()).sum::<usize>() > MAX_METADATA {
        return Err(s3_error!(
            MetadataTooLarge,
            "Your metadata headers exceed the maximum allowed metadata size of 2048 bytes"
        ));
    }
    let checked = check_metadata(&metadata);
    checked.map_err(|error| S3Error::with_message(S3ErrorCode::MetadataTooLarge, error.message))?;
    Ok(metadata)
}

/// The conditions of a request that reads an object.
#[derive(Default)]
pub(crate) struct ReadConditions<'a> {
    pub(crate) matches: Option<&'a ETagCondition>,
    pub(crate) none_matches: Option<&'a ETagCondition>,
    pub(crate) modified_since: Option<&'a Timestamp>,
    pub(crate) unmodified_since: Option<&'a Timestamp>,
}

impl ReadConditions<'_> {
    /// Fails with `PreconditionFailed`, or with `not_met` if the client has the object already.
    pub(crate) fn check(&self, object: &ObjectRecord, not_met: &S3ErrorCode) -> S3Result<()> {
        // Headers have only seconds.
        let modified = timestamp(object.modified_at.div_euclid(1000) * 1000);
        let failed =
            || s3_error!(PreconditionFailed, "At least one of the pre-conditions you specified did not hold");
        match (self.matches, self.unmodified_since) {
            (Some(condition), _) if !meets(condition, &object.etag) => return Err(failed()),
            (None, Some(since)) if modified > *since => return Err(failed()),
            _ => {}
        }
        let has_it = match (self.none_matches, self.modified_since) {
            (Some(condition), _) => meets(condition, &object.etag),
            (None, Some(since)) => modified <= *since,
            (None, None) => false,
        };
        if !has_it {
            return Ok(());
        }
        let mut error = S3Error::new(not_met.clone());
        if *not_met == S3ErrorCode::NotModified {
            error.set_status_code(StatusCode::NOT_MODIFIED);
            error.set_headers(validators(object));
        }
        Err(error)
    }
}

/// The headers with which clients ask whether an object has changed.
fn validators(object: &ObjectRecord) -> HeaderMap {
    let mut date = Vec::new();
    let formatted = timestamp(object.modified_at).format(TimestampFormat::HttpDate, &mut date);
    let date = formatted.ok().and_then(|()| HeaderValue::from_bytes(&date).ok());
    let etag = HeaderValue::try_from(format!("\"{}\"", object.etag)).ok();
    let headers = [(header::ETAG, etag), (header::LAST_MODIFIED, date)];
    headers.into_iter().filter_map(|(name, value)| Some((name, value?))).collect()
}

/// An object with everything that headers say about it.
struct Found {
    object: ObjectRecord,
    file: Arc<StoredFile>,
    attributes: Attributes,
    metadata: FileMetadata,
    caller: Caller,
    /// The header `x-amz-expiration`.
    expiration: Option<String>,
}

/// An object whose content is open.
struct Opened {
    found: Found,
    selection: Selection,
    content: AdmittedContent,
}

/// The bytes of an object that a request asks for.
struct Selection {
    bytes: Range<u64>,
    /// The header `Content-Range`, unless these are all bytes.
    content_range: Option<String>,
    /// How many parts the object was uploaded in, if the request names a part.
    parts_count: Option<i32>,
    /// The checksums of these bytes.
    sums: Checksum,
}

impl Selection {
    fn of(
        found: &Found,
        headers: &HeaderMap,
        range: Option<&dto::Range>,
        part: Option<i32>,
    ) -> S3Result<Self> {
        let size = found.file.content.size;
        if let Some(number) = part {
            let number = part_number(number)?;
            if range.is_some() {
                let message = "Cannot specify both Range header and partNumber query parameter";
                return Err(S3Error::with_message(S3ErrorCode::InvalidRequest, message));
            }
            let (bytes, sums) = found.part(number)?;
            let content_range = content_range(&bytes, size);
            return Ok(Self { bytes, content_range, parts_count: parts_count(&found.object), sums });
        }
        let Some(range) = range.filter(|_| is_same(headers, &found.object)) else {
            let sums = found.attributes.checksums();
            return Ok(Self { bytes: 0..size, content_range: None, parts_count: None, sums });
        };
        let bytes = within(range, size)?;
        let content_range = content_range(&bytes, size);
        Ok(Self { bytes, content_range, parts_count: None, sums: Checksum::default() })
    }
}

impl Found {
    /// Returns the bytes of a part and their checksum. An object that was not uploaded in parts is its
    /// own first part.
    fn part(&self, number: u32) -> S3Result<(Range<u64>, Checksum)> {
        let count = parts_count(&self.object);
        if i64::from(number) > i64::from(count.unwrap_or(1)) {
            let message = "The requested partnumber is not satisfiable";
            return Err(custom("InvalidPartNumber", StatusCode::RANGE_NOT_SATISFIABLE, message));
        }
        let index = number as usize - 1;
        if let Some(bytes) = self.parts().and_then(|list| list.ranges().nth(index)) {
            let sums = self.attributes.checksum_of_part(index).unwrap_or_default();
            return Ok((bytes, sums.checksums()));
        }
        let all = 0..self.file.content.size;
        match count {
            None => Ok((all, self.attributes.checksums())),
            Some(1) => Ok((all, Checksum::default())),
            Some(_) => Err(s3_error!(NotImplemented, "The sizes of the parts of this object are not known")),
        }
    }

    /// The parts that the object was uploaded in, if they are known.
    fn parts(&self) -> Option<&PartList> {
        let count = u64::try_from(parts_count(&self.object)?).ok()?;
        self.attributes.parts.as_ref().filter(|list| list.describes(self.file.content.size, count))
    }
}

/// The header `Content-Range`; `None` for an empty range, which it cannot express.
fn content_range(bytes: &Range<u64>, size: u64) -> Option<String> {
    (!bytes.is_empty()).then(|| format!("bytes {}-{}/{size}", bytes.start, bytes.end - 1))
}

impl Service {
    async fn find<T>(
        &self,
        request: &S3Request<T>,
        bucket: &str,
        key: &str,
        version: Option<&str>,
    ) -> S3Result<Found> {
        if version.is_some_and(|version| version != "null") {
            return Err(s3_error!(NoSuchVersion, "Versioning is not implemented"));
        }
        let (bucket, caller) = self.readable_bucket(request, bucket).await?;
        let uploads = &self.app.uploads;
        let found = find_content(uploads, &bucket, key).await.map_err(to_s3);
        let found = found.map_err(|error| match error.code() {
            // Only those who may list a bucket find out which keys it does not have.
            S3ErrorCode::NoSuchKey if request.extensions.get::<PublicBucket>().is_some() => {
                s3_error!(AccessDenied, "Access Denied")
            }
            _ => error,
        })?;
        let FoundObject { object, file, metadata } = found;
        let attributes = Attributes::parse(object.attributes.as_deref());
        let expiration = expiration(&bucket, key, object.size, object.modified_at);
        Ok(Found { object, file, attributes, metadata, caller, expiration })
    }

    pub(crate) async fn put(
        &self,
        request: S3Request<PutObjectInput>,
    ) -> S3Result<S3Response<PutObjectOutput>> {
        let (bucket, identity) = self.bucket(&request, &request.input.bucket).await?;
        refuse_unsupported(&request.headers)?;
        if request.uri.query().is_some_and(|query| query.split('&').any(|it| it.starts_with("renameObject")))
        {
            return Err(s3_error!(NotImplemented, "RenameObject is not implemented"));
        }
        let S3Request { input, headers, trailing_headers, .. } = request;
        refuse_encryption(is_encrypted!(input))?;
        if input.write_offset_bytes.is_some() {
            return Err(s3_error!(NotImplemented, "Appending to an object is not implemented"));
        }
        let condition = write_condition(input.if_match.as_ref(), input.if_none_match.as_ref())?;
        let mut attributes = attributes!(input, parse_tags(input.tagging.as_deref())?);
        let announced = announced!(input, trailing_headers);
        let incoming = Incoming::read(input.body, announced, &headers).await?;
        let sums = incoming.sums();
        let known = sums.get();
        if let Some(known) = &known {
            attributes.set_checksums(known);
        }
        let object = ObjectRequest {
            key: input.key.clone(),
            content_type: Some(input.content_type.unwrap_or_else(|| DEFAULT_TYPE.to_owned())),
            metadata: metadata_of(input.metadata)?,
            attributes: attributes.to_text(),
            condition,
        };
        let Incoming { size, body, expected, .. } = incoming;
        let expiration = match size {
            SizeHint::Exact(size) => expiration(&bucket, &input.key, size, self.app.meta.now_ms()),
            _ => None,
        };
        let body = until_revoked(self.app.auth.clone(), identity.caller.clone(), body);
        let uploads = &self.app.uploads;
        let stored = put_object(uploads, &identity.caller, &bucket, object, expected, size, body);
        let stored = stored.await.map_err(to_s3)?;
        let sums = sums.get().unwrap_or_default();
        let has_sums = Checksum { checksum_type: None, ..sums.clone() } != Checksum::default();
        if known.is_none() && has_sums {
            self.record_checksums(stored.uid, sums.clone()).await;
        }
        let mut output = PutObjectOutput {
            e_tag: Some(etag(&stored.etag)),
            expiration,
            checksum_type: has_sums.then(|| ChecksumType::from_static(ChecksumType::FULL_OBJECT)),
            ..PutObjectOutput::default()
        };
        set_checksums!(output, sums);
        let mut response = S3Response::new(output);
        if is_form(&headers) {
            // `s3s` does not send it in the answer to a form.
            response.headers.extend(etag(&stored.etag).to_http_header().map(|etag| (header::ETAG, etag)));
        }
        Ok(response)
    }

    /// Records the checksums that became known with the last byte. The object is stored, so an error
    /// does not fail the request: then the checksums are missing in answers.
    async fn record_checksums(&self, uid: Uid, sums: Checksum) {
        let edit = move |text: Option<&str>| {
            let mut attributes = Attributes::parse(text);
            attributes.set_checksums(&sums);
            attributes.to_text()
        };
        if let Err(error) = update_object(&self.app.uploads, uid, Arc::new(edit)).await {
            tracing::debug!(why = &*error.message, "the checksums of an object are not recorded");
        }
    }

    /// Finds an object and opens the content that is asked for.
    async fn open(&self, request: &S3Request<GetObjectInput>) -> S3Result<Opened> {
        let input = &request.input;
        let conditions =
            read_conditions!(input, if_match, if_none_match, if_modified_since, if_unmodified_since);
        let mut tries = 0;
        loop {
            let found = self.find(request, &input.bucket, &input.key, input.version_id.as_deref()).await?;
            conditions.check(&found.object, &S3ErrorCode::NotModified)?;
            let range = input.range.as_ref();
            let selection = Selection::of(&found, &request.headers, range, input.part_number)?;
            if let Some(store) = store_elsewhere(&self.app.files, &found.file) {
                return Err(elsewhere(store));
            }
            let constraints = found.caller.link_constraints();
            tries += 1;
            match open_content(&self.app.files, &found.file, selection.bytes.clone(), &constraints).await {
                // The object was replaced after it was found.
                Err(error) if tries < MAX_TRIES && is_absent(&error) => {}
                Err(error) => return Err(to_s3(error)),
                Ok(content) => return Ok(Opened { found, selection, content }),
            }
        }
    }

    pub(crate) async fn get(
        &self,
        request: S3Request<GetObjectInput>,
    ) -> S3Result<S3Response<GetObjectOutput>> {
        refuse_encryption(request.input.sse_customer_algorithm.is_some())?;
        let Opened { found, selection, content } = self.open(&request).await?;
        let (input, caller) = (&request.input, found.caller.clone());
        let frames = until_revoked(self.app.auth.clone(), caller, content).map_ok(http_body::Frame::data);
        let body = StreamingBlob::from(Body::http_body_unsync(StreamBody::new(frames)));
        let tag_count = tag_count(&found.attributes);
        let mut output = GetObjectOutput { body: Some(body), tag_count, ..GetObjectOutput::default() };
        describe!(output, input, found, selection);
        Ok(match output.content_range {
            Some(_) => S3Response::with_status(output, StatusCode::PARTIAL_CONTENT),
            None => S3Response::new(output),
        })
    }

    pub(crate) async fn head_object_of(
        &self,
        request: S3Request<HeadObjectInput>,
    ) -> S3Result<S3Response<HeadObjectOutput>> {
        let input = &request.input;
        refuse_encryption(input.sse_customer_algorithm.is_some())?;
        let found = self.find(&request, &input.bucket, &input.key, input.version_id.as_deref()).await?;
        let conditions =
            read_conditions!(input, if_match, if_none_match, if_modified_since, if_unmodified_since);
        conditions.check(&found.object, &S3ErrorCode::NotModified)?;
        let range = input.range.as_ref();
        let selection = Selection::of(&found, &request.headers, range, input.part_number)?;
        let tag_count = tag_count(&found.attributes);
        let mut output = HeadObjectOutput::default();
        describe!(output, input, found, selection);
        let mut response = S3Response::new(output);
        if let Some(count) = tag_count {
            // `s3s` has no field for it.
            response.headers.insert(TAG_COUNT, count.into());
        }
        Ok(response)
    }

    pub(crate) async fn attributes(
        &self,
        request: S3Request<GetObjectAttributesInput>,
    ) -> S3Result<S3Response<GetObjectAttributesOutput>> {
        let input = &request.input;
        let found = self.find(&request, &input.bucket, &input.key, input.version_id.as_deref()).await?;
        // `s3s` takes a list in one header for one name.
        let wanted = request.headers.get_all("x-amz-object-attributes").iter();
        let wanted: Vec<_> =
            wanted.filter_map(|list| list.to_str().ok()).flat_map(|list| list.split(',')).collect();
        let wants = |name: &'static str| wanted.iter().any(|wanted| wanted.trim() == name);
        let sums = Some(found.attributes.checksums()).filter(|sums| sums.checksum_type.is_some());
        let count = parts_count(&found.object).filter(|_| wants(ObjectAttributes::OBJECT_PARTS));
        let parts =
            count.map(|count| page_of_parts(&found, count, input.max_parts, input.part_number_marker));
        Ok(S3Response::new(GetObjectAttributesOutput {
            object_parts: parts.transpose()?,
            checksum: sums.filter(|_| wants(ObjectAttributes::CHECKSUM)),
            e_tag: wants(ObjectAttributes::ETAG).then(|| etag(&found.object.etag)),
            last_modified: Some(timestamp(found.object.modified_at)),
            object_size: wants(ObjectAttributes::OBJECT_SIZE).then_some(found.object.size.cast_signed()),
            storage_class: wants(ObjectAttributes::STORAGE_CLASS)
                .then(|| StorageClass::from_static(StorageClass::STANDARD)),
            ..GetObjectAttributesOutput::default()
        }))
    }

    pub(crate) async fn delete_one(
        &self,
        request: S3Request<DeleteObjectInput>,
    ) -> S3Result<S3Response<DeleteObjectOutput>> {
        let input = &request.input;
        let (bucket, _) = self.bucket(&request, &input.bucket).await?;
        let has_time = input.if_match_last_modified_time.is_some();
        if request.headers.contains_key(header::IF_NONE_MATCH) || input.if_match_size.is_some() || has_time {
            return Err(s3_error!(NotImplemented, "{ONLY_IF_MATCH}"));
        }
        check_version(input.version_id.as_deref())?;
        let condition = write_condition(input.if_match.as_ref(), None)?;
        delete_object(&self.app.uploads, &bucket, &input.key, condition).await.map_err(to_s3)?;
        Ok(S3Response::new(DeleteObjectOutput::default()))
    }

    pub(crate) async fn delete_many(
        &self,
        request: S3Request<DeleteObjectsInput>,
    ) -> S3Result<S3Response<DeleteObjectsOutput>> {
        let (bucket, _) = self.bucket(&request, &request.input.bucket).await?;
        let delete = request.input.delete;
        if delete.objects.len() > MAX_DELETES {
            return Err(s3_error!(MalformedXML, "At most 1000 keys can be deleted at once"));
        }
        if delete.objects.iter().any(|object| object.key.is_empty()) {
            return Err(s3_error!(MalformedXML, "A key to delete is empty"));
        }
        let is_quiet = delete.quiet.unwrap_or(false);
        let (mut deleted, mut errors) = (Vec::new(), Vec::new());
        for object in delete.objects {
            match self.delete_entry(&bucket, &object).await {
                Ok(()) if is_quiet => {}
                Ok(()) => deleted.push(DeletedObject { key: Some(object.key), ..DeletedObject::default() }),
                Err(error) => errors.push(Error {
                    code: Some(error.code().as_str().to_owned()),
                    key: Some(object.key),
                    message: error.message().map(str::to_owned),
                    version_id: object.version_id,
                }),
            }
        }
        Ok(S3Response::new(DeleteObjectsOutput {
            deleted: Some(deleted),
            errors: Some(errors),
            request_charged: None,
        }))
    }

    /// Deletes one of several objects.
    async fn delete_entry(&self, bucket: &BucketRecord, object: &ObjectIdentifier) -> S3Result<()> {
        check_version(object.version_id.as_deref())?;
        if object.size.is_some() || object.last_modified_time.is_some() {
            return Err(s3_error!(NotImplemented, "{ONLY_IF_MATCH}"));
        }
        let condition = write_condition(object.e_tag.clone().map(ETagCondition::ETag).as_ref(), None)?;
        delete_object(&self.app.uploads, bucket, &object.key, condition).await.map_err(to_s3)
    }
}

/// Whether the client has the beginning of this object: `If-Range` has its `ETag`, or is missing.
fn is_same(headers: &HeaderMap, object: &ObjectRecord) -> bool {
    headers
        .get(header::IF_RANGE)
        .is_none_or(|known| known.as_bytes() == format!("\"{}\"", object.etag).as_bytes())
}

/// Returns the bytes of a range, which must not be empty.
fn within(range: &dto::Range, size: u64) -> S3Result<Range<u64>> {
    let found = range.check(size).ok().filter(|found| !found.is_empty());
    found.ok_or_else(|| s3_error!(InvalidRange, "The requested range is not satisfiable"))
}

/// The number of parts that the object was uploaded in, which ends its `ETag`; `None` if it was
/// uploaded whole.
fn parts_count(object: &ObjectRecord) -> Option<i32> {
    object.etag.split_once('-')?.1.parse().ok()
}

/// Returns a page of the parts that an object was uploaded in. If they are not known, only their
/// number.
fn page_of_parts(
    found: &Found,
    count: i32,
    max: Option<i32>,
    marker: Option<i32>,
) -> S3Result<GetObjectAttributesParts> {
    let total =
        GetObjectAttributesParts { total_parts_count: Some(count), ..GetObjectAttributesParts::default() };
    let Some(list) = found.parts() else {
        return Ok(total);
    };
    let (max, marker) = (at_most(max)?, marker.unwrap_or(0).max(0));
    let skipped = usize::try_from(marker).unwrap_or(usize::MAX);
    let page = list.ranges().enumerate().skip(skipped).take(usize::try_from(max).unwrap_or(0));
    let parts = (1..).zip(page).map(|(number, (index, bytes))| {
        let size = Some((bytes.end - bytes.start).cast_signed());
        let mut part = ObjectPart { part_number: Some(marker + number), size, ..ObjectPart::default() };
        set_checksums!(part, found.attributes.checksum_of_part(index).unwrap_or_default().checksums());
        part
    });
    let parts: Vec<_> = parts.collect();
    let end = parts.last().and_then(|part| part.part_number).unwrap_or(marker);
    Ok(GetObjectAttributesParts {
        is_truncated: Some(end < count),
        max_parts: Some(max),
        next_part_number_marker: Some(end),
        part_number_marker: Some(marker),
        parts: Some(parts),
        ..total
    })
}

fn check_version(version: Option<&str>) -> S3Result<()> {
    match version {
        None | Some("null" | "") => Ok(()),
        Some(_) => Err(s3_error!(NoSuchVersion, "Versioning is not implemented")),
    }
}

fn tag_count(attributes: &Attributes) -> Option<i32> {
    i32::try_from(attributes.tags.len()).ok().filter(|count| *count > 0)
}

/// The coding of the content, without that of the transfer.
pub(crate) fn content_coding(encoding: Option<&str>) -> Option<String> {
    let codings = encoding?.split(',').map(str::trim);
    let codings: Vec<_> = codings.filter(|coding| !coding.eq_ignore_ascii_case("aws-chunked")).collect();
    Some(codings.join(",")).filter(|coding| !coding.is_empty())
}

/// Whether an error says that a file has no content any more.
fn is_absent(error: &osproxy_core::Error) -> bool {
    matches!(error.code, ErrorCode::FileNotFound | ErrorCode::FileGone | ErrorCode::NotStored)
}

/// Whether an error says that there is no upload.
pub(crate) fn no_upload(error: osproxy_core::Error) -> S3Error {
    match error.code {
        ErrorCode::FileNotFound | ErrorCode::FileGone | ErrorCode::NotStored | ErrorCode::AlreadyStored => {
            s3_error!(NoSuchUpload, "The specified upload does not exist")
        }
        _ => to_s3(error),
    }
}
