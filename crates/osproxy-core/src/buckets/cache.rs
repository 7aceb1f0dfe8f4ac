//! A cache of buckets.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use osproxy_api::v1::CorsRule;
use osproxy_meta::{BucketRecord, ObjectDb};
use quick_cache::{Weighter, sync::Cache};

use super::parse_rules;
use crate::{Result, ops::buckets::is_bucket_name};

/// How long a bucket is used before it is read again, if no node tells of a change.
const TTL: Duration = Duration::from_secs(5);
/// Maximum size of the cache in bytes.
const MAX_BYTES: u64 = 32 << 20;
/// Estimated size of an entry without rules, in bytes.
const ENTRY_BYTES: u64 = 512;

/// A bucket of any tenant.
#[derive(Clone, Debug)]
pub struct KnownBucket {
    /// The bucket, without its CORS rules.
    pub record: BucketRecord,
    /// CORS rules.
    pub cors: Vec<CorsRule>,
}

/// Buckets by name. Also knows names that no bucket has.
pub struct BucketCache {
    buckets: Cache<String, Entry, Weight>,
}

#[derive(Clone)]
struct Entry {
    read_at: Instant,
    bytes: u64,
    bucket: Option<Arc<KnownBucket>>,
}

#[derive(Clone)]
struct Weight;

impl Weighter<String, Entry> for Weight {
    fn weight(&self, _: &String, entry: &Entry) -> u64 {
        entry.bytes
    }
}

impl Default for BucketCache {
    fn default() -> Self {
        let entries = usize::try_from(MAX_BYTES / ENTRY_BYTES).unwrap_or_default();
        Self { buckets: Cache::with_weighter(entries, MAX_BYTES, Weight) }
    }
}

impl BucketCache {
    /// Returns a bucket as it was at most [`TTL`] ago.
    pub(crate) async fn get(&self, db: &ObjectDb, name: &str) -> Result<Option<Arc<KnownBucket>>> {
        if !is_bucket_name(name) {
            return Ok(None);
        }
        if let Some(entry) = self.buckets.get(name).filter(|entry| entry.read_at.elapsed() < TTL) {
            return Ok(entry.bucket);
        }
        let read_at = Instant::now();
        let found = db.bucket(name).await?;
        let rules = found.as_ref().map(|record| [&record.cors, &record.lifecycle]);
        let bytes: usize = rules.into_iter().flatten().flatten().map(String::len).sum();
        let bucket = found.map(|record| {
            let cors = parse_rules(record.cors.as_deref());
            Arc::new(KnownBucket { record: BucketRecord { cors: None, ..record }, cors })
        });
        let entry = Entry { read_at, bytes: ENTRY_BYTES + bytes as u64, bucket: bucket.clone() };
        self.buckets.insert(name.to_owned(), entry);
        Ok(bucket)
    }

    /// Returns a bucket if it is in the cache, however old.
    pub(crate) fn peek(&self, name: &str) -> Option<Arc<KnownBucket>> {
        self.buckets.get(name)?.bucket
    }

    /// Forgets a bucket that has changed.
    pub(crate) fn forget(&self, name: &str) {
        self.buckets.remove(name);
    }

    /// Forgets all buckets.
    pub(crate) fn forget_all(&self) {
        self.buckets.clear();
    }
}
