//! Deletes objects, many with one request if the store can.

use std::{
    collections::HashSet,
    sync::atomic::{AtomicBool, Ordering},
};

use base64::{Engine, prelude::BASE64_STANDARD};
use futures_util::{StreamExt, stream};
use http::{HeaderName, Method, header};
use md5::{Digest, Md5};

use super::{
    Vendor,
    client::{Client, ErrorResponse, Request},
    xml,
};
use crate::{ErrorKind, Key, Result};

/// Maximum number of objects in one request; a limit of all vendors.
const MAX_BATCH: usize = 1000;
/// Maximum number of concurrent requests of one call.
const CONCURRENT_REQUESTS: usize = 16;

const CONTENT_MD5: HeaderName = HeaderName::from_static("content-md5");

/// Whether a store deletes many objects with one request (`DeleteObjects`). Assumed until the store
/// refuses such a request and deletes the same objects one by one.
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
    keys.sort_unstable_by(|one, other| client.bucket_of(one).cmp(client.bucket_of(other)));
    let mut outcome = Ok(());
    for in_bucket in keys.chunk_by(|one, other| client.bucket_of(one) == client.bucket_of(other)) {
        for batch in in_bucket.chunks(MAX_BATCH) {
            outcome = outcome.and(delete_in_bucket(client, batch).await);
        }
    }
    outcome
}

/// Deletes objects of one bucket.
async fn delete_in_bucket<V: Vendor>(client: &Client<V>, keys: &[Key]) -> Result<()> {
    let support = &client.batch_deletes;
    if keys.len() == 1 || support.is_refused() {
        return delete_one_by_one(client, keys.to_vec()).await;
    }
    let refusal = match delete_batch(client, keys).await {
        // Delete the rest one by one: the status of such a request is the reason of the failure.
        Ok(deleted) if !deleted.is_empty() => {
            let rest = keys.iter().filter(|key| !deleted.contains(&client.name_of(key)));
            return delete_one_by_one(client, rest.cloned().collect()).await;
        }
        Ok(_) => None,
        Err(error) if ErrorResponse::of(&error).is_some_and(|response| response.code == "NoSuchBucket") => {
            return Ok(());
        }
        Err(error) if error.retryable => return Err(error),
        Err(error) => Some(error),
    };
    delete_one_by_one(client, keys.to_vec()).await?;
    // The store does not know such requests, or the key may not send them.
    if !support.is_refused.swap(true, Ordering::Relaxed) {
        let code = refusal.as_ref().and_then(ErrorResponse::of).map_or("", |response| &response.code);
        tracing::info!(store = V::NAME, code, "the store does not delete many objects with one request");
    }
    Ok(())
}

async fn delete_one_by_one<V: Vendor>(client: &Client<V>, keys: Vec<Key>) -> Result<()> {
    let delete = |key: Key| async move {
        match client.send(Request::to_object(Method::DELETE, &key, "delete")).await {
            Err(error) if error.kind != ErrorKind::NotFound => Err(error),
            _ => Ok(()),
        }
    };
    let mut deleting = stream::iter(keys).map(delete).buffer_unordered(CONCURRENT_REQUESTS);
    let mut outcome = Ok(());
    while let Some(deleted) = deleting.next().await {
        outcome = outcome.and(deleted);
    }
    outcome
}

/// Deletes objects of one bucket with one request. Returns the names of the objects that do not
/// exist any more, according to the store.
async fn delete_batch<V: Vendor>(client: &Client<V>, keys: &[Key]) -> Result<HashSet<String>> {
    let operation = "delete";
    let bucket = keys.first().map(|key| client.bucket_of(key)).unwrap_or_default();
    let document = xml::deletion_document(keys.iter().map(|key| client.name_of(key)));
    let mut request = Request::to_bucket(Method::POST, bucket, operation).query("delete", "");
    request.headers.insert(header::CONTENT_TYPE, "application/xml".to_owned());
    // All vendors require it.
    request.headers.insert(CONTENT_MD5, BASE64_STANDARD.encode(Md5::digest(&document)));
    request.body = document.into();
    let text = client.fetch_document(request).await?;
    let result: xml::DeletionResult = xml::parse::<V, _>(operation, &text)?;
    let missing = result.error.into_iter().filter(|failed| failed.code == "NoSuchKey");
    let deleted = result.deleted.into_iter().map(|object| object.key);
    Ok(deleted.chain(missing.map(|failed| failed.key)).collect())
}
