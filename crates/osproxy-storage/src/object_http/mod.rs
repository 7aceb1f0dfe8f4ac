//! Remote stores that use the protocol of S3. A [`Vendor`] implements the differences between
//! vendors, such as bucket URLs and request signing.

mod background_hasher;
mod block_buffer;
mod checksum;
mod client;
mod delete;
mod diagnosis;
mod multipart;
mod reader;
mod sizes;
mod streaming_put;
#[cfg(test)]
mod tests;
mod writer;
mod xml;

use std::{
    ops::Range,
    sync::Arc,
    time::{Duration, SystemTime},
};

use async_trait::async_trait;
use futures_util::{StreamExt, stream};
use http::Method;

use crate::{
    Backend, Category, Error, ErrorKind, Key, Multipart, ObjectList, ObjectReader, ObjectWriter, Result,
    SizeHint,
};
pub(crate) use checksum::CrcHeader;
pub(crate) use client::context;
use client::{Client, Request};
pub use client::{ClientSettings, ErrorResponse, install_crypto_provider};
use diagnosis::BucketNotFound;
pub use diagnosis::Diagnosis;
pub use sizes::FIRST_PART as UNKNOWN_PART;

/// Maximum number of checks whether a new bucket exists.
const BUCKET_CHECKS: u32 = 10;
/// Pause between two checks whether a new bucket exists.
const BUCKET_CHECK_INTERVAL: Duration = Duration::from_millis(500);

/// The differences between vendors.
#[async_trait]
pub(crate) trait Vendor: Send + Sync + 'static {
    /// Name of the backend.
    const NAME: &'static str;
    /// The CRC header in responses to PUT requests for objects and parts.
    const CRC: CrcHeader;

    /// URL of a bucket, without a trailing slash. The name of the bucket is in the host name or in
    /// the path.
    fn bucket_url(&self, bucket: &str) -> String;

    /// Signs a request to a bucket.
    async fn sign(&self, bucket: &str, request: &mut http::request::Parts) -> reqsign_core::Result<()>;

    /// Body of the request that creates a bucket; empty for most vendors.
    fn bucket_configuration(&self) -> String {
        String::new()
    }
}

/// A store behind HTTP.
pub(crate) struct HttpStore<V> {
    client: Arc<Client<V>>,
}

impl<V: Vendor> HttpStore<V> {
    /// Creates a store without contacting the server. Objects of all categories go into `bucket`;
    /// if it is `None`, each category has its own bucket, named after the category.
    pub(crate) fn new(vendor: V, bucket: Option<String>, http: &ClientSettings) -> Result<Self> {
        Ok(Self { client: Arc::new(Client::new(vendor, bucket, http)?) })
    }

    fn buckets(&self) -> Vec<String> {
        match &self.client.bucket {
            Some(bucket) => vec![bucket.clone()],
            None => Category::ALL.iter().map(|category| category.as_str().to_owned()).collect(),
        }
    }

    async fn bucket_exists(&self, bucket: &str) -> Result<bool> {
        // A list request instead of HEAD: not every vendor documents HEAD for buckets, and a
        // response to HEAD does not say why the store refused the request.
        let list = Request::to_bucket(Method::GET, bucket, "find bucket").query("max-keys", "1");
        match self.client.send(list).await {
            Ok(_) => Ok(true),
            Err(error) if error.kind == ErrorKind::NotFound => Ok(false),
            Err(error) => Err(error),
        }
    }

    async fn create_bucket(&self, bucket: &str) -> Result<()> {
        let mut put = Request::to_bucket(Method::PUT, bucket, "create bucket");
        put.body = self.client.vendor.bucket_configuration().into();
        match self.client.send(put).await {
            Ok(_) => {}
            // Either another node has created the bucket, or the bucket belongs to another account.
            // The check below tells which.
            Err(error) if ErrorResponse::status_of(&error) == Some(409) => {}
            Err(error) => return Err(error),
        }
        for _ in 0..BUCKET_CHECKS {
            if self.bucket_exists(bucket).await? {
                return Ok(());
            }
            tokio::time::sleep(BUCKET_CHECK_INTERVAL).await;
        }
        let not_found = BucketNotFound(bucket.to_owned());
        Err(Error::not_found(V::NAME, "create bucket").with_source(Box::new(not_found)))
    }
}

#[async_trait]
impl<V: Vendor> Backend for HttpStore<V> {
    fn name(&self) -> &'static str {
        V::NAME
    }

    async fn prepare(&self, create_missing: bool) -> Result<()> {
        let mut missing = Vec::new();
        for bucket in self.buckets() {
            if self.bucket_exists(&bucket).await? {
                continue;
            }
            if create_missing {
                self.create_bucket(&bucket).await?;
            } else {
                missing.push(bucket);
            }
        }
        if missing.is_empty() {
            return Ok(());
        }
        let not_found = BucketNotFound(missing.join(", "));
        Err(Error::not_found(V::NAME, "find bucket").with_source(Box::new(not_found)))
    }

    async fn clock(&self) -> Result<Option<SystemTime>> {
        // Any bucket works, even one that does not exist.
        let bucket = self.buckets().into_iter().next().unwrap_or_default();
        self.client.clock(&bucket).await
    }

    async fn create(&self, key: &Key, size: SizeHint) -> Result<Box<dyn ObjectWriter>> {
        Ok(Box::new(writer::Writer::object(self.client.clone(), key.clone(), size)))
    }

    async fn open(&self, key: &Key, range: Range<u64>) -> Result<ObjectReader> {
        if range.is_empty() {
            let size = self.size(key).await?;
            if range.start > size || range.end > size || range.start > range.end {
                return Err(Error::new(ErrorKind::Truncated, V::NAME, "open"));
            }
            return Ok(Box::pin(stream::empty()));
        }
        reader::open(&self.client, key, range).await
    }

    async fn size(&self, key: &Key) -> Result<u64> {
        let response = self.client.send(Request::to_object(Method::HEAD, key, "size")).await?;
        client::content_length(&response)
            .ok_or_else(|| Error::new(ErrorKind::Other, V::NAME, "size").with_message("no Content-Length"))
    }

    async fn delete(&self, keys: &[Key]) -> Result<()> {
        delete::delete(&self.client, keys).await
    }

    async fn list(&self) -> Result<ObjectList> {
        let client = self.client.clone();
        let buckets = stream::iter(self.buckets());
        let objects = buckets.map(move |bucket| xml::list_objects(client.clone(), bucket));
        Ok(Box::pin(objects.flatten()))
    }

    fn multipart(&self) -> Option<&dyn Multipart> {
        Some(self)
    }
}
