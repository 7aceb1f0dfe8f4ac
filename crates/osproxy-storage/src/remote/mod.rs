//! What stores behind HTTP have in common: the protocol that S3 began and the others took over. What sets a vendor apart,
//! where buckets are and how requests are signed, is a [`Vendor`].

mod checksum;
mod client;
mod diagnosis;
mod hashing;
mod kept;
mod multipart;
mod reader;
mod sending;
mod sizes;
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
use futures_util::{StreamExt, TryStreamExt, stream};
use http::Method;

use crate::{
    Backend, Category, Error, ErrorKind, Key, Listed, Multipart, ObjectList, ObjectReader, ObjectWriter,
    Result, SizeHint,
};
pub(crate) use checksum::CrcHeader;
pub(crate) use client::context;
pub use client::{Answer, HttpSettings};
use client::{Client, Request};
pub use diagnosis::Diagnosis;
use diagnosis::NoBucket;
pub use sizes::FIRST_PART as UNKNOWN_PART;

/// How many objects are removed at the same time.
const DELETES: usize = 16;
/// How often a bucket that was just made is looked for.
const LOOKS: u32 = 10;

/// What sets a vendor apart.
#[async_trait]
pub(crate) trait Vendor: Send + Sync + 'static {
    /// Name of the backend.
    const NAME: &'static str;
    /// The CRC that answers to objects and parts carry.
    const CRC: CrcHeader;

    /// Where a bucket is: scheme and authority, and a path without a slash at its end, if the bucket stands in it.
    fn bucket_url(&self, bucket: &str) -> String;

    /// Signs a request to a bucket.
    async fn sign(&self, bucket: &str, request: &mut http::request::Parts) -> reqsign_core::Result<()>;

    /// What is sent to make a bucket; most vendors need nothing.
    fn bucket_configuration(&self) -> String {
        String::new()
    }
}

/// A store behind HTTP.
pub(crate) struct Remote<V> {
    client: Arc<Client<V>>,
}

impl<V: Vendor> Remote<V> {
    /// Does not reach for the store yet. Objects of all categories go into `bucket`, or, without one, each category's into
    /// the bucket of its name.
    pub(crate) fn new(vendor: V, bucket: Option<String>, http: &HttpSettings) -> Result<Self> {
        Ok(Self { client: Arc::new(Client::new(vendor, bucket, http)?) })
    }

    fn buckets(&self) -> Vec<String> {
        match &self.client.bucket {
            Some(bucket) => vec![bucket.clone()],
            None => Category::ALL.iter().map(|category| category.as_str().to_owned()).collect(),
        }
    }

    async fn bucket_exists(&self, bucket: &str) -> Result<bool> {
        // Not HEAD, which not every vendor documents for buckets, and which gives no reason when it is refused.
        let list = Request::to_bucket(Method::GET, bucket, "look for bucket").query("max-keys", "1");
        match self.client.send(list).await {
            Ok(_) => Ok(true),
            Err(error) if error.kind == ErrorKind::NotFound => Ok(false),
            Err(error) => Err(error),
        }
    }

    async fn make_bucket(&self, bucket: &str) -> Result<()> {
        let mut put = Request::to_bucket(Method::PUT, bucket, "make bucket");
        put.body = self.client.vendor.bucket_configuration().into();
        match self.client.send(put).await {
            Ok(_) => {}
            // Another node was faster; whether it is ours shows in a moment.
            Err(error) if Answer::status_of(&error) == Some(409) => {}
            Err(error) => return Err(error),
        }
        for _ in 0..LOOKS {
            if self.bucket_exists(bucket).await? {
                return Ok(());
            }
            tokio::time::sleep(Duration::from_millis(500)).await;
        }
        let missing = NoBucket(bucket.to_owned());
        Err(Error::not_found(V::NAME, "make bucket").caused_by(Box::new(missing)))
    }
}

#[async_trait]
impl<V: Vendor> Backend for Remote<V> {
    fn name(&self) -> &'static str {
        V::NAME
    }

    async fn prepare(&self, make: bool) -> Result<()> {
        let mut missing = Vec::new();
        for bucket in self.buckets() {
            if self.bucket_exists(&bucket).await? {
                continue;
            }
            if make {
                self.make_bucket(&bucket).await?;
            } else {
                missing.push(bucket);
            }
        }
        if missing.is_empty() {
            return Ok(());
        }
        let missing = NoBucket(missing.join(", "));
        Err(Error::not_found(V::NAME, "look for bucket").caused_by(Box::new(missing)))
    }

    async fn clock(&self) -> Result<Option<SystemTime>> {
        // Which bucket is asked does not matter, nor whether it is there.
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
        let answer = self.client.send(Request::to_object(Method::HEAD, key, "size")).await?;
        client::content_length(&answer)
            .ok_or_else(|| Error::new(ErrorKind::Other, V::NAME, "size").about("no Content-Length"))
    }

    async fn delete(&self, keys: &[Key]) -> Result<()> {
        let delete = |request| async move {
            match self.client.send(request).await {
                Err(error) if error.kind != ErrorKind::NotFound => Err(error),
                _ => Ok(()),
            }
        };
        let requests: Vec<_> =
            keys.iter().map(|key| Request::to_object(Method::DELETE, key, "delete")).collect();
        let mut deleting = stream::iter(requests).map(delete).buffer_unordered(DELETES);
        let mut outcome = Ok(());
        // One that fails must not keep the others.
        while let Some(deleted) = deleting.next().await {
            outcome = outcome.and(deleted);
        }
        outcome
    }

    async fn list(&self) -> Result<ObjectList> {
        let client = self.client.clone();
        let buckets = stream::iter(self.buckets());
        let pages = buckets.map(move |bucket| xml::list_objects(client.clone(), bucket));
        let in_one_bucket = self.client.bucket.is_some();
        let named = pages.flatten().map_ok(move |(bucket, name, size)| Listed {
            name: if in_one_bucket { name } else { format!("{bucket}/{name}") },
            size,
        });
        Ok(Box::pin(named))
    }

    fn multipart(&self) -> Option<&dyn Multipart> {
        Some(self)
    }
}
