//! Lists of objects.

use std::fmt::Write;

use osproxy_core::ops::list_objects::{ListObjects, ObjectEntry, list_objects};
use s3s::{
    S3Request, S3Response, S3Result,
    dto::{
        CommonPrefix, EncodingType, ListObjectsInput, ListObjectsOutput, ListObjectsV2Input,
        ListObjectsV2Output, Object, ObjectStorageClass, Owner,
    },
    s3_error,
};

use super::{buckets::owner, etag, timestamp};
use crate::{errors::to_s3, service::Service};

/// Maximum number of keys in an answer.
const MAX_KEYS: i32 = 1000;

/// A page of a listing.
struct Page {
    contents: Vec<Object>,
    prefixes: Vec<CommonPrefix>,
    /// The last key or common prefix, if there are more.
    next: Option<String>,
}

/// How to write keys.
#[derive(Clone, Copy)]
struct Encoding {
    is_url: bool,
}

impl Encoding {
    fn new(wanted: Option<&EncodingType>) -> S3Result<Self> {
        match wanted.map(EncodingType::as_str) {
            None => Ok(Self { is_url: false }),
            Some(EncodingType::URL) => Ok(Self { is_url: true }),
            Some(_) => Err(s3_error!(InvalidArgument, "Invalid Encoding Method specified in Request")),
        }
    }

    fn apply(self, text: String) -> String {
        if !self.is_url {
            return text;
        }
        let mut encoded = String::with_capacity(text.len());
        for byte in text.bytes() {
            if byte.is_ascii_alphanumeric() || b"-_.*/".contains(&byte) {
                encoded.push(byte.into());
            } else {
                // Writing to a string cannot fail.
                let _ = write!(encoded, "%{byte:02X}");
            }
        }
        encoded
    }

    fn apply_to(self, text: Option<String>) -> Option<String> {
        text.map(|text| self.apply(text))
    }
}

fn limit(max_keys: Option<i32>) -> S3Result<i32> {
    let max = max_keys.unwrap_or(MAX_KEYS);
    if max < 0 {
        return Err(s3_error!(
            InvalidArgument,
            "Argument max-keys must be an integer between 0 and 2147483647"
        ));
    }
    Ok(max.min(MAX_KEYS))
}

impl Service {
    async fn page<T>(
        &self,
        request: &S3Request<T>,
        bucket: &str,
        list: ListObjects,
        with_owner: bool,
        encoding: Encoding,
    ) -> S3Result<Page> {
        let (bucket, identity) = self.bucket(request, bucket).await?;
        let owner: Option<Owner> = with_owner.then(|| owner(identity.caller.tenant.as_str()));
        let found = list_objects(&self.app.uploads, &bucket, &list).await.map_err(to_s3)?;
        let next = found.entries.last().filter(|_| found.is_truncated).map(|entry| match entry {
            ObjectEntry::Object(object) => object.key.clone(),
            ObjectEntry::Prefix(prefix) => prefix.clone(),
        });
        let mut page = Page { contents: Vec::new(), prefixes: Vec::new(), next };
        for entry in found.entries {
            match entry {
                ObjectEntry::Object(object) => page.contents.push(Object {
                    key: Some(encoding.apply(object.key)),
                    e_tag: Some(etag(&object.etag)),
                    size: Some(object.size.cast_signed()),
                    last_modified: Some(timestamp(object.modified_at)),
                    storage_class: Some(ObjectStorageClass::from_static(ObjectStorageClass::STANDARD)),
                    owner: owner.clone(),
                    ..Object::default()
                }),
                ObjectEntry::Prefix(prefix) => {
                    page.prefixes.push(CommonPrefix { prefix: Some(encoding.apply(prefix)) });
                }
            }
        }
        Ok(page)
    }

    pub(crate) async fn list_v1(
        &self,
        request: S3Request<ListObjectsInput>,
    ) -> S3Result<S3Response<ListObjectsOutput>> {
        let ListObjectsInput { bucket, delimiter, encoding_type, marker, max_keys, prefix, .. } =
            request.input.clone();
        let (encoding, limit) = (Encoding::new(encoding_type.as_ref())?, limit(max_keys)?);
        let list = ListObjects {
            prefix: prefix.clone().unwrap_or_default(),
            delimiter: delimiter.clone().unwrap_or_default(),
            after: marker.clone().unwrap_or_default(),
            limit: limit.unsigned_abs().into(),
        };
        let page = self.page(&request, &bucket, list, true, encoding).await?;
        // Without a delimiter, clients continue behind the last key.
        let has_delimiter = delimiter.as_deref().is_some_and(|delimiter| !delimiter.is_empty());
        Ok(S3Response::new(ListObjectsOutput {
            name: Some(bucket),
            prefix: Some(encoding.apply(prefix.unwrap_or_default())),
            marker: Some(encoding.apply(marker.unwrap_or_default())),
            max_keys: Some(limit),
            is_truncated: Some(page.next.is_some()),
            next_marker: encoding.apply_to(page.next.filter(|_| has_delimiter)),
            contents: Some(page.contents),
            common_prefixes: Some(page.prefixes),
            delimiter: encoding.apply_to(delimiter.filter(|it| !it.is_empty())),
            encoding_type,
            request_charged: None,
        }))
    }

    pub(crate) async fn list_v2(
        &self,
        request: S3Request<ListObjectsV2Input>,
    ) -> S3Result<S3Response<ListObjectsV2Output>> {
        let ListObjectsV2Input {
            bucket,
            continuation_token,
            delimiter,
            encoding_type,
            fetch_owner,
            max_keys,
            prefix,
            start_after,
            ..
        } = request.input.clone();
        let (encoding, limit) = (Encoding::new(encoding_type.as_ref())?, limit(max_keys)?);
        let after = match &continuation_token {
            Some(token) => parse_token(token)?,
            None => start_after.clone().unwrap_or_default(),
        };
        let list = ListObjects {
            prefix: prefix.clone().unwrap_or_default(),
            delimiter: delimiter.clone().unwrap_or_default(),
            after,
            limit: limit.unsigned_abs().into(),
        };
        let page = self.page(&request, &bucket, list, fetch_owner.unwrap_or(false), encoding).await?;
        let count = page.contents.len() + page.prefixes.len();
        Ok(S3Response::new(ListObjectsV2Output {
            name: Some(bucket),
            prefix: Some(encoding.apply(prefix.unwrap_or_default())),
            max_keys: Some(limit),
            key_count: i32::try_from(count).ok(),
            continuation_token,
            is_truncated: Some(page.next.is_some()),
            next_continuation_token: page.next.map(hex::encode),
            contents: Some(page.contents),
            common_prefixes: Some(page.prefixes),
            delimiter: encoding.apply_to(delimiter.filter(|it| !it.is_empty())),
            encoding_type,
            start_after: encoding.apply_to(start_after),
            request_charged: None,
        }))
    }
}

fn parse_token(token: &str) -> S3Result<String> {
    let key = hex::decode(token).ok().and_then(|key| String::from_utf8(key).ok());
    key.ok_or_else(|| s3_error!(InvalidArgument, "The continuation token provided is incorrect"))
}
