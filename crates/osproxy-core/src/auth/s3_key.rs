//! Keys of the S3 API. Their secrets are derived from a master key that is not in the database, so
//! nobody who reads the database can sign requests.

use std::{
    fmt,
    num::NonZeroU32,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Instant,
};

use base64::{Engine, prelude::BASE64_URL_SAFE_NO_PAD};
use governor::{DefaultDirectRateLimiter, Quota, RateLimiter};
use hmac::{Hmac, KeyInit, Mac};
use osproxy_meta::AccessDb;
use osproxy_types::{
    scope::{Scope, Scopes},
    secret::Secret,
    tenant::Tenant,
};
use quick_cache::sync::Cache;
use sha2::Sha256;

pub use osproxy_meta::S3KeyRecord;

use super::{CACHE_CAPACITY, CACHE_TTL, Caller, STALE_WHILE_REVALIDATE};
use crate::{Result, boxed_future};

/// Prefix of every access key id.
const PREFIX: &str = "OSP";
/// Length of an access key id in characters, as in AWS.
pub const S3_KEY_ID_CHARS: usize = 20;
/// Length of the random part of an access key id, in characters of 5 bits.
const RANDOM_CHARS: usize = 11;
/// The characters of access key ids.
const ALPHABET: &[u8; 32] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZ234567";
/// Length of a secret in bytes. Its Base64 has 40 characters, as in AWS.
const SECRET_BYTES: usize = 30;
/// Length of the fingerprint of a master key, in bytes.
const FINGERPRINT_BYTES: usize = 8;

/// What is derived from a master key. Different prefixes keep the results independent.
const SECRET_CONTEXT: &[u8] = b"osproxy-s3-key";
const CHECK_CONTEXT: &[u8] = b"osproxy-s3-key-id";
const FINGERPRINT_CONTEXT: &[u8] = b"osproxy-s3-master-key";

/// Lookups per second of access key ids that no configured master key has made. Such an id is
/// invented, or its master key is not configured here. Everything above this rate is answered
/// without the database, so a flood of invented ids does not load it.
const FOREIGN_LOOKUPS_PER_SECOND: NonZeroU32 = NonZeroU32::new(10).unwrap();
/// Maximum number of cached ids that do not exist.
const UNKNOWN_CAPACITY: usize = 10_000;

/// A secret from which the secrets of S3 keys are derived. Every node must have the same.
#[derive(Clone)]
pub struct S3MasterKey(Hmac<Sha256>);

impl S3MasterKey {
    /// Minimum length of a master key, in bytes.
    pub const MIN_BYTES: usize = 32;

    /// Creates a master key; `None` if it is too short.
    pub fn new(secret: &[u8]) -> Option<Self> {
        let is_long = secret.len() >= Self::MIN_BYTES;
        Hmac::new_from_slice(secret).ok().filter(|_| is_long).map(Self)
    }

    /// Identifies the master key without revealing it. 16 hexadecimal digits.
    pub fn fingerprint(&self) -> String {
        hex::encode(&self.derive(FINGERPRINT_CONTEXT, "")[..FINGERPRINT_BYTES])
    }

    /// Generates a random access key id. Its last characters are a checksum with the master key, so
    /// that invented ids are recognised without the database.
    pub fn generate_id(&self) -> Result<String, getrandom::Error> {
        let mut random = [0; RANDOM_CHARS];
        getrandom::fill(&mut random)?;
        let mut id = PREFIX.to_owned();
        id.extend(random.map(to_char));
        id += &self.checksum(&id);
        Ok(id)
    }

    /// The secret of the key with this access key id: 40 characters.
    pub fn secret(&self, id: &str) -> Secret {
        Secret::new(BASE64_URL_SAFE_NO_PAD.encode(&self.derive(SECRET_CONTEXT, id)[..SECRET_BYTES]))
    }

    /// Whether this master key has made this access key id.
    fn has_made(&self, id: &str) -> bool {
        id.split_at_checked(PREFIX.len() + RANDOM_CHARS)
            .is_some_and(|(start, checksum)| self.checksum(start) == checksum)
    }

    fn checksum(&self, start: &str) -> String {
        let digest = self.derive(CHECK_CONTEXT, start);
        digest.into_iter().take(S3_KEY_ID_CHARS - PREFIX.len() - RANDOM_CHARS).map(to_char).collect()
    }

    fn derive(&self, context: &[u8], id: &str) -> [u8; 32] {
        self.0.clone().chain_update(context).chain_update([0]).chain_update(id).finalize().into_bytes().into()
    }
}

impl fmt::Debug for S3MasterKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("***")
    }
}

/// Returns the character for the lowest 5 bits of `byte`.
fn to_char(byte: u8) -> char {
    ALPHABET.get(usize::from(byte) % ALPHABET.len()).copied().unwrap_or_default().into()
}

/// The configured master keys: the first makes new keys, all verify.
pub type S3MasterKeys = Arc<[S3MasterKey]>;

/// Returns the master key with this fingerprint.
pub fn find_master_key<'k>(masters: &'k [S3MasterKey], fingerprint: &str) -> Option<&'k S3MasterKey> {
    masters.iter().find(|master| master.fingerprint() == fingerprint)
}

/// A key of the S3 API that is valid.
#[derive(Clone, Debug)]
pub struct S3Key {
    /// The access key id.
    pub id: String,
    /// The tenant whose files the key gives access to.
    pub tenant: Tenant,
    /// The buckets that the key gives access to; `None`: all buckets of the tenant.
    pub buckets: Option<Vec<String>>,
    /// Whether the key permits no changes.
    pub read_only: bool,
    /// The secret that signs requests.
    pub secret: Secret,
}

impl S3Key {
    /// Whether the key gives access to a bucket of its tenant.
    pub fn allows_bucket(&self, bucket: &str) -> bool {
        self.buckets.as_ref().is_none_or(|buckets| buckets.iter().any(|allowed| allowed == bucket))
    }

    /// The caller of requests that are signed with this key.
    pub fn caller(&self) -> Caller {
        let read = Scopes::from(Scope::Read);
        let scopes = if self.read_only { read } else { read.with(Scope::Upload).with(Scope::Delete) };
        Caller::of_s3_key(self.tenant.clone(), self.id.clone(), scopes)
    }
}

/// A cached lookup. `key` is `None` if the key is revoked or has no master key.
struct CachedS3Key {
    read_at: Instant,
    /// Set while one request reads the key again.
    is_revalidating: AtomicBool,
    key: Option<Arc<S3Key>>,
}

/// Looks up keys of the S3 API, with a cache.
pub struct S3Keys {
    db: AccessDb,
    masters: S3MasterKeys,
    keys: Cache<String, Arc<CachedS3Key>>,
    /// Ids that do not exist, and when that was read. Apart from `keys`, so that invented ids do
    /// not evict keys that exist.
    unknown: Cache<String, Instant>,
    /// Limits the lookups of ids that no master key has made.
    foreign_lookups: DefaultDirectRateLimiter,
}

impl S3Keys {
    pub(crate) fn new(db: AccessDb, masters: S3MasterKeys) -> Self {
        Self {
            db,
            masters,
            keys: Cache::new(CACHE_CAPACITY),
            unknown: Cache::new(UNKNOWN_CAPACITY),
            foreign_lookups: RateLimiter::direct(Quota::per_second(FOREIGN_LOOKUPS_PER_SECOND)),
        }
    }

    /// Returns the key with this access key id; `None` if there is none, or if it is revoked, or if
    /// its master key is not configured. A revoked key is returned for at most 5 seconds.
    #[boxed_future]
    pub async fn find(&self, access_key_id: &str) -> Result<Option<Arc<S3Key>>> {
        // Longer ids do not exist, and must not fill the cache.
        if access_key_id.len() != S3_KEY_ID_CHARS {
            return Ok(None);
        }
        let before = self.keys.get(access_key_id);
        if let Some(known) = &before
            && (known.read_at.elapsed() < CACHE_TTL
                || known.read_at.elapsed() < CACHE_TTL + STALE_WHILE_REVALIDATE
                    && known.is_revalidating.swap(true, Ordering::Relaxed))
        {
            return Ok(known.key.clone());
        }
        if self.unknown.get(access_key_id).is_some_and(|read_at| read_at.elapsed() < CACHE_TTL) {
            return Ok(None);
        }
        let is_foreign = !self.masters.iter().any(|master| master.has_made(access_key_id));
        if is_foreign && before.is_none() && self.foreign_lookups.check().is_err() {
            return Ok(None);
        }
        let read_at = Instant::now();
        let Some(record) = self.db.s3_key(access_key_id).await? else {
            self.keys.remove(access_key_id);
            self.unknown.insert(access_key_id.to_owned(), read_at);
            return Ok(None);
        };
        let key = self.usable(record, before.is_some());
        let known = CachedS3Key { read_at, is_revalidating: AtomicBool::new(false), key: key.clone() };
        self.keys.insert(access_key_id.to_owned(), Arc::new(known));
        Ok(key)
    }

    /// Returns the key of a record with its secret. Warns once if the master key is missing.
    fn usable(&self, record: S3KeyRecord, was_known: bool) -> Option<Arc<S3Key>> {
        if record.revoked_at.is_some() {
            return None;
        }
        let Some(master) = find_master_key(&self.masters, &record.master_key) else {
            if !was_known {
                tracing::warn!(
                    id = record.id,
                    "an S3 key cannot be used: it was created with another master key than those of this node; \
                     give all nodes and `osproxy s3-key create` the same `s3_api.master_key`"
                );
            }
            return None;
        };
        Some(Arc::new(S3Key {
            secret: master.secret(&record.id),
            id: record.id,
            tenant: record.tenant,
            buckets: record.buckets,
            read_only: record.read_only,
        }))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn master(letter: &str) -> S3MasterKey {
        S3MasterKey::new(letter.repeat(32).as_bytes()).unwrap()
    }

    #[test]
    fn ids_and_secrets_look_as_in_aws() {
        let id = master("a").generate_id().unwrap();
        assert!(id.len() == S3_KEY_ID_CHARS && id.starts_with("OSP"), "{id}");
        assert!(id.bytes().all(|byte| ALPHABET.contains(&byte)), "{id}");
        assert_eq!(master("a").secret(&id).reveal().len(), 40);
        assert!(!format!("{:?}", master("a")).contains('a'));
    }

    #[test]
    fn everything_depends_on_the_master_key() {
        let (one, other) = (master("a"), master("b"));
        let id = one.generate_id().unwrap();
        assert!(one.has_made(&id) && !other.has_made(&id));
        assert_ne!(one.secret(&id).reveal(), other.secret(&id).reveal());
        assert_ne!(one.secret(&id).reveal(), one.secret(&id.replace("OSP", "OSQ")).reveal());
        assert_ne!(one.fingerprint(), other.fingerprint());
        let both = [other, one.clone()];
        assert_eq!(find_master_key(&both, &one.fingerprint()).unwrap().fingerprint(), one.fingerprint());
        assert!(find_master_key(&both, "").is_none());
        assert!(S3MasterKey::new(&[1; 31]).is_none());
    }

    #[test]
    fn invented_ids_are_recognised() {
        let master = master("a");
        let id = master.generate_id().unwrap();
        for position in 0..id.len() {
            let mut changed = id.clone().into_bytes();
            changed[position] = if changed[position] == b'A' { b'B' } else { b'A' };
            assert!(!master.has_made(&String::from_utf8(changed).unwrap()), "{position}");
        }
        for text in ["", "OSP", "€€€€€€€€€€€€€€€€€€€€", &id[1..], &format!("{id}A")]
        {
            assert!(!master.has_made(text), "{text}");
        }
    }
}
