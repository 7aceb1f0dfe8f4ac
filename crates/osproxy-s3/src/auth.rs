//! Authentication and authorization: which key signs a request, and what this key permits.

use std::sync::Arc;

use axum::http::{HeaderMap, Method, Uri};
use osproxy_core::{
    App, Authenticator, Caller,
    auth::{S3Key, S3Keys},
    ops::buckets::{KnownBucket, known_bucket},
};
use s3s::{
    Body, S3Request, S3Response, S3Result,
    access::{S3Access, S3AccessContext},
    auth::{S3Auth, SecretKey},
    dto::{CopySource, PostObjectInput},
    path::S3Path,
    route::S3Route,
    s3_error,
};

use crate::{context::Context, errors::to_s3, form};

/// Header with the object to copy.
const COPY_SOURCE: &str = "x-amz-copy-source";

/// Who signed a request. Every request that reaches an operation has it in its extensions, except
/// anonymous ones, which have a [`PublicBucket`].
#[derive(Clone)]
pub(crate) struct Identity {
    /// The key that signs the request.
    pub(crate) key: Arc<S3Key>,
    /// The caller for operations.
    pub(crate) caller: Caller,
}

impl Identity {
    /// Returns who signed a request. Fails with `AccessDenied` if it is anonymous.
    pub(crate) fn of<T>(request: &S3Request<T>) -> S3Result<&Self> {
        request.extensions.get().ok_or_else(|| s3_error!(AccessDenied, "Access Denied"))
    }
}

/// The bucket from which an anonymous request reads, in its extensions.
#[derive(Clone)]
pub(crate) struct PublicBucket(pub(crate) Arc<KnownBucket>);

/// Looks up secrets, with which `s3s` verifies signatures.
pub(crate) struct Secrets(pub(crate) Arc<Authenticator>);

#[async_trait::async_trait]
impl S3Auth for Secrets {
    async fn get_secret_key(&self, access_key: &str) -> S3Result<SecretKey> {
        Context::current().set_signed();
        let key = find(&self.0.s3_keys, access_key).await?;
        Ok(SecretKey::from(key.secret.reveal()))
    }
}

async fn find(keys: &S3Keys, access_key: &str) -> S3Result<Arc<S3Key>> {
    keys.find(access_key).await.map_err(to_s3)?.ok_or_else(|| {
        s3_error!(InvalidAccessKeyId, "The AWS Access Key Id you provided does not exist in our records.")
    })
}

/// Decides whether a key permits an operation on a bucket.
pub(crate) struct Access(pub(crate) Arc<App>);

#[async_trait::async_trait]
impl S3Access for Access {
    async fn check(&self, cx: &mut S3AccessContext<'_>) -> S3Result<()> {
        let context = Context::current();
        context.set_operation(cx.s3_op().name());
        if let S3Path::Object { key, .. } = cx.s3_path() {
            context.set_key(key);
        }
        let Some(access_key) = cx.credentials().map(|credentials| credentials.access_key.clone()) else {
            let bucket = public_bucket(&self.0, cx).await?;
            cx.extensions_mut().insert(PublicBucket(bucket));
            return Ok(());
        };
        let key = find(&self.0.auth.s3_keys, &access_key).await?;
        check_key(&key, cx)?;
        let caller = key.caller();
        cx.extensions_mut().insert(Identity { key, caller });
        Ok(())
    }

    /// Completes a form. Refuses forms that are signed with Signature Version 2: they have no region.
    /// `s3s` accepts them, and the signature is not in the head of the request.
    async fn post_object(&self, request: &mut S3Request<PostObjectInput>) -> S3Result<()> {
        if request.region.is_none() {
            return Err(s3_error!(
                InvalidRequest,
                "The authorization mechanism you have provided is not supported. Please use AWS4-HMAC-SHA256."
            ));
        }
        form::complete(&mut request.input)
    }
}

/// Returns the public bucket from which a request without a signature reads an object. Fails with
/// `AccessDenied` for all other requests.
async fn public_bucket(app: &App, cx: &S3AccessContext<'_>) -> S3Result<Arc<KnownBucket>> {
    let denied = || s3_error!(AccessDenied, "Access Denied");
    let S3Path::Object { bucket, .. } = cx.s3_path() else {
        return Err(denied());
    };
    if !["GetObject", "HeadObject"].contains(&cx.s3_op().name()) {
        return Err(denied());
    }
    let bucket = known_bucket(&app.uploads, bucket).await.map_err(to_s3)?;
    let bucket = bucket.filter(|bucket| bucket.record.is_public).ok_or_else(denied)?;
    let mut query = form_urlencoded::parse(cx.uri().query().unwrap_or_default().as_bytes());
    if query.any(|(name, _)| name.starts_with("response-")) {
        return Err(s3_error!(
            InvalidRequest,
            "Request specific response headers cannot be used for anonymous GET requests."
        ));
    }
    Ok(bucket)
}

fn check_key(key: &S3Key, cx: &S3AccessContext<'_>) -> S3Result<()> {
    if key.read_only && !is_read(cx.s3_op().name()) {
        return Err(s3_error!(AccessDenied, "Access Denied: the key is read-only"));
    }
    let denied = || s3_error!(AccessDenied, "Access Denied: the key is limited to other buckets");
    match cx.s3_path() {
        S3Path::Root => {}
        S3Path::Bucket { bucket } | S3Path::Object { bucket, .. } => {
            if !key.allows_bucket(bucket) {
                return Err(denied());
            }
        }
    }
    let sources = cx.headers().get_all(COPY_SOURCE);
    // A key for all buckets may copy from all of them; `s3s` reports a source that is malformed.
    if key.buckets.is_some() && !sources.iter().all(|source| is_allowed_source(key, source.to_str().ok())) {
        return Err(denied());
    }
    Ok(())
}

fn is_allowed_source(key: &S3Key, source: Option<&str>) -> bool {
    match source.map(CopySource::parse) {
        Some(Ok(CopySource::Bucket { bucket, .. })) => key.allows_bucket(&bucket),
        _ => false,
    }
}

/// Whether an operation only reads. Every other operation counts as a change, known or not.
fn is_read(operation: &str) -> bool {
    ["Get", "Head", "List", "SelectObjectContent"].iter().any(|prefix| operation.starts_with(prefix))
}

/// Refuses POST without a signature before the body is read: `s3s` would buffer the file of an
/// unsigned form.
pub(crate) struct UnsignedPosts;

#[async_trait::async_trait]
impl S3Route for UnsignedPosts {
    fn is_match(&self, method: &Method, _: &Uri, _: &HeaderMap, _: &mut axum::http::Extensions) -> bool {
        *method == Method::POST && !Context::current().is_signed()
    }

    async fn call(&self, _: S3Request<Body>) -> S3Result<S3Response<Body>> {
        Err(s3_error!(AccessDenied, "Access Denied"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_not_known_to_read_counts_as_a_change() {
        for operation in ["ListBuckets", "GetObject", "HeadObject", "ListObjectsV2", "GetBucketCors"] {
            assert!(is_read(operation), "{operation}");
        }
        for operation in [
            "PutObject",
            "DeleteObjects",
            "CreateBucket",
            "CopyObject",
            "UploadPartCopy",
            "PostObject",
            "RestoreObject",
            "WriteGetObjectResponse",
            "AbortMultipartUpload",
            "CompleteMultipartUpload",
        ] {
            assert!(!is_read(operation), "{operation}");
        }
    }
}
