//! Deletes objects, many with one request if the store can.

use std::sync::atomic::{AtomicBool, Ordering};

use base64::{Engine, prelude::BASE64_STANDARD};
use futures_util::{StreamExt, stream};
use http::{HeaderName, Method, StatusCode, header};
use md5::{Digest, Md5};

use super::{
    Vendor,
    client::{Client, ErrorResponse, Request},
    xml,
};
use crate::{Error, ErrorKind, Key, Result};

/// Maximum number of objects in one request; a limit of all vendors.
const MAX_BATCH: usize = 1000;
/// Maximum number of concurrent requests of one call.
const CONCURRENT_REQUESTS: usize = 16;

const CONTENT_MD5: HeaderName = HeaderName::from_static("content-md5");

/// Whether a store deletes many objects with one request (`DeleteObjects`). Assumed until the store
/// refuses such a request.
#[derive(Default)]
pub(super) struct BatchSupport {
    is_refused: AtomicBool,
}

impl BatchSupport {
    pub(super) fn is_refused(&self) -> bool {
        self.is_refused.load(Ordering::Relaxed)
    }
}

/// Deletes objects. Objects that do not exist count as deleted. If this fails, it has still tried to
/// delete every object.
pub(super) async fn delete<V: Vendor>(client: &Client<V>, keys: &[Key]) -> Result<()> {
    let mut keys: Vec<_> = keys.to_vec();
    let (mut batches, mut single) = (Vec::new(), Vec::new());
    keys.sort_unstable_by(|one, other| client.bucket_of(one).cmp(client.bucket_of(other)));
    for in_bucket in keys.chunk_by(|one, other| client.bucket_of(one) == client.bucket_of(other)) {
        for batch in in_bucket.chunks(MAX_BATCH) {
            if batch.len() > 1 && !client.batch_deletes.is_refused() {
                batches.push(batch.to_vec());
            } else {
                single.extend_from_slice(batch);
            }
        }
    }
    let mut outcome = Ok(());
    let in_batches = |batch: Vec<Key>| async move { (delete_batch(client, &batch).await, batch) };
    let mut deleting = stream::iter(batches).map(in_batches).buffer_unordered(CONCURRENT_REQUESTS);
    while let Some((deleted, batch)) = deleting.next().await {
        match deleted {
            Err(error) if is_unsupported(&error) => {
                client.batch_deletes.is_refused.store(true, Ordering::Relaxed);
                single.extend(batch);
            }
            deleted => outcome = outcome.and(deleted),
        }
    }
    let one_by_one = |key: Key| async move { delete_one(client, &key).await };
    let mut deleting = stream::iter(single).map(one_by_one).buffer_unordered(CONCURRENT_REQUESTS);
    while let Some(deleted) = deleting.next().await {
        outcome = outcome.and(deleted);
    }
    outcome
}

async fn delete_one<V: Vendor>(client: &Client<V>, key: &Key) -> Result<()> {
    match client.send(Request::to_object(Method::DELETE, key, "delete")).await {
        Err(error) if error.kind != ErrorKind::NotFound => Err(error),
        _ => Ok(()),
    }
}

/// Deletes objects of one bucket with one request.
async fn delete_batch<V: Vendor>(client: &Client<V>, keys: &[Key]) -> Result<()> {
    let operation = "delete";
    let bucket = keys.first().map(|key| client.bucket_of(key)).unwrap_or_default();
    let document = xml::deletion_document(keys.iter().map(|key| client.name_of(key)));
    let mut request = Request::to_bucket(Method::POST, bucket, operation).query("delete", "");
    request.headers.insert(header::CONTENT_TYPE, "application/xml".to_owned());
    // All vendors require it.
    request.headers.insert(CONTENT_MD5, BASE64_STANDARD.encode(Md5::digest(&document)));
    request.body = document.into();
    match client.fetch_document(request).await {
        Ok(text) => check_result::<V>(operation, &text),
        // The bucket does not exist.
        Err(error) if error.kind == ErrorKind::NotFound => Ok(()),
        Err(error) => Err(error),
    }
}

/// Checks the response to a quiet request: it lists the objects that were not deleted.
fn check_result<V: Vendor>(operation: &'static str, text: &str) -> Result<()> {
    // OSS sends no document if everything was deleted.
    if text.trim().is_empty() {
        return Ok(());
    }
    let result: xml::Deletion = xml::parse::<V, _>(operation, text)?;
    for failure in result.error {
        let xml::ErrorDocument { code, message } = failure;
        let response = ErrorResponse { status: StatusCode::OK.as_u16(), code, message };
        let error: Error = response.into_error(V::NAME, operation);
        if error.kind != ErrorKind::NotFound {
            return Err(error);
        }
    }
    Ok(())
}

/// Whether a store does not accept requests that delete many objects. Google Cloud Storage and
/// others answer with one of these statuses. The key of a COS store may have the permission to
/// delete one object, but not to delete many.
fn is_unsupported(error: &Error) -> bool {
    !error.retryable
        && ErrorResponse::of(error).is_some_and(|response| match response.status {
            400 | 405 | 411 | 501 => true,
            403 => response.code == "AccessDenied",
            _ => false,
        })
}
