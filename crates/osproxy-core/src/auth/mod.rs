//! Authentication with API keys, upload grants and keys of the S3 API, and authorization by scope.

mod api_key;
mod s3_key;
pub(crate) mod upload_grant;

pub use api_key::ApiKey;
pub use s3_key::{S3_KEY_ID_CHARS, S3Key, S3KeyRecord, S3Keys, S3MasterKey, S3MasterKeys, find_master_key};
pub use upload_grant::{GrantRecord, GrantRefusal, GrantTerms, UploadGrant};

use std::{
    num::NonZeroU32,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::{Duration, Instant},
};

use bytes::Bytes;
use futures_util::{Stream, StreamExt, stream, stream::BoxStream};
use governor::{DefaultDirectRateLimiter, Quota, RateLimiter, clock::Clock};
use osproxy_api::ErrorCode;
use osproxy_meta::{AccessDb, ApiKeyRecord};
use osproxy_types::{
    scope::{Scope, Scopes},
    tenant::Tenant,
};
use quick_cache::sync::Cache;

use crate::{
    Error, Result, boxed_future,
    links::{CountedLimit, LinkConstraints},
};

/// How long a cached key is used before it is read again. After a revocation, a key works for at
/// most this time plus [`STALE_WHILE_REVALIDATE`].
const CACHE_TTL: Duration = Duration::from_secs(4);
/// Stale-while-revalidate window: while one request reads the key again, other requests use the
/// cached key.
const STALE_WHILE_REVALIDATE: Duration = Duration::from_secs(1);
/// How often a transfer checks that its key is still valid.
const REVOCATION_CHECK_INTERVAL: Duration = Duration::from_millis(500);
/// Maximum number of cached keys.
const CACHE_CAPACITY: usize = 10_000;

/// The caller of a request: its tenant, scopes and limits.
#[derive(Clone, Debug)]
pub struct Caller {
    /// The tenant whose files the caller works on.
    pub tenant: Tenant,
    /// Maximum size, in bytes, of a file that the caller creates; `None` if the key has no limit.
    pub max_size: Option<u64>,
    /// Id of the API key; `None` for a caller without a key.
    pub key: Option<String>,
    /// Maximum concurrent transfers on each node. Counts transfers with the key and transfers
    /// through links that were issued with the key. `None` if the key has no limit.
    max_transfers: Option<u32>,
    scopes: Scopes,
    /// The upload grant, if the caller has no key but the URL of a grant.
    grant: Option<Arc<UploadGrant>>,
    /// Id of the key of the S3 API, if the caller has one.
    s3_key: Option<String>,
}

impl Caller {
    /// The caller for requests without a key in `auth.mode: open`.
    fn anonymous() -> Self {
        Self {
            tenant: Tenant::default(),
            max_size: None,
            key: None,
            max_transfers: None,
            scopes: Scopes::ALL,
            grant: None,
            s3_key: None,
        }
    }

    /// The caller that reads a public bucket of `tenant` without a key.
    pub fn of_public_bucket(tenant: Tenant) -> Self {
        Self { tenant, scopes: Scope::Read.into(), ..Self::anonymous() }
    }

    /// The caller that has the URL of an upload grant.
    pub(crate) fn of_grant(grant: Arc<UploadGrant>) -> Self {
        Self {
            tenant: grant.record.tenant.clone(),
            max_size: grant.terms.max_size,
            key: None,
            max_transfers: None,
            scopes: Scope::Upload.into(),
            grant: Some(grant),
            s3_key: None,
        }
    }

    /// The caller that signs requests of the S3 API with the key `id`.
    fn of_s3_key(tenant: Tenant, id: String, scopes: Scopes) -> Self {
        Self { tenant, max_size: None, key: None, max_transfers: None, scopes, grant: None, s3_key: Some(id) }
    }

    /// The upload grant, if the caller has no key but the URL of a grant.
    pub fn grant(&self) -> Option<&UploadGrant> {
        self.grant.as_deref()
    }

    /// Idempotency keys of callers with different scope ids are different. `None` for a caller
    /// without key and grant.
    pub(crate) fn idempotency_scope(&self) -> Option<String> {
        match (&self.grant, &self.s3_key) {
            (Some(grant), _) => Some(format!("grant {}", grant.record.id)),
            (None, Some(id)) => Some(id.clone()),
            (None, None) => self.key.clone(),
        }
    }

    /// Returns the constraints that every link gets when this caller issues it.
    pub fn link_constraints(&self) -> LinkConstraints {
        let limit = self.key.clone().zip(self.max_transfers);
        LinkConstraints {
            transfers: limit.map(|(id, max)| CountedLimit { id, max }),
            ..LinkConstraints::default()
        }
    }

    /// Returns the constraints that every upload link gets when this caller issues it.
    pub fn upload_constraints(&self) -> LinkConstraints {
        match &self.grant {
            Some(grant) => grant.link_constraints(),
            None => LinkConstraints { max_size: self.max_size, ..self.link_constraints() },
        }
    }

    /// Returns whether the caller has `scope`.
    pub fn has_scope(&self, scope: Scope) -> bool {
        self.scopes.contains(scope)
    }

    /// Returns `PermissionDenied` unless the caller has `scope`.
    pub fn require_scope(&self, scope: Scope) -> Result<()> {
        if self.has_scope(scope) {
            return Ok(());
        }
        let message = format!("this request requires an API key with the scope `{}`", scope.as_str());
        Err(Error::new(ErrorCode::PermissionDenied, message))
    }
}

/// Wraps a stream of content. The stream fails soon after the key of `caller` is revoked or expires.
pub fn until_revoked(
    auth: Arc<Authenticator>,
    caller: Caller,
    content: impl Stream<Item = Result<Bytes>> + Send + Unpin + 'static,
) -> BoxStream<'static, Result<Bytes>> {
    let revoked = Box::pin(async move { auth.wait_for_revocation(&caller).await });
    let next = |state: Option<_>| async move {
        let (mut content, mut revoked) = state?;
        let chunk = tokio::select! {
            biased;
            error = &mut revoked => return Some((Err(error), None)),
            piece = StreamExt::next(&mut content) => piece?,
        };
        Some((chunk, Some((content, revoked))))
    };
    stream::unfold(Some((content, revoked)), next).boxed()
}

/// A cached lookup of an API key. `record` is `None` if there is no such key.
struct CachedKey {
    read_at: Instant,
    /// Set while one request reads the key again.
    is_revalidating: AtomicBool,
    record: Option<ApiKeyRecord>,
    /// Rate limiter of the key. Kept when the key is read again, so that earlier requests still
    /// count.
    rate: Option<Arc<DefaultDirectRateLimiter>>,
}

/// Authenticates requests, with a cache of API keys.
pub struct Authenticator {
    db: AccessDb,
    /// Whether callers without a key are served.
    is_open: bool,
    keys: Cache<String, Arc<CachedKey>>,
    /// The keys of the S3 API.
    pub s3_keys: S3Keys,
}

impl Authenticator {
    pub(crate) fn new(db: AccessDb, is_open: bool, s3_masters: S3MasterKeys) -> Self {
        let s3_keys = S3Keys::new(db.clone(), s3_masters);
        Self { db, is_open, keys: Cache::new(CACHE_CAPACITY), s3_keys }
    }

    /// Returns the caller for the token in `Authorization: Bearer`, and counts the request against
    /// the rate limit of the key. Fails with `Unauthenticated` or `RateLimited`. Callers without a
    /// key are accepted only in `auth.mode: open`.
    #[boxed_future]
    pub async fn authenticate(&self, token: Option<&str>) -> Result<Caller> {
        let is_open = self.is_open;
        match token {
            // In `auth.mode: open`, ignore tokens that are not API keys: clients may send them for
            // other services.
            Some(token) if !is_open || ApiKey::has_key_prefix(token) => self.authenticate_key(token).await,
            _ if is_open => Ok(Caller::anonymous()),
            _ => Err(unauthenticated(
                "this request requires an API key; send it as `Authorization: Bearer KEY`",
            )),
        }
    }

    /// Waits until the key of a caller is revoked or expires, then returns the error for the
    /// client. Never returns if the caller has no key.
    #[boxed_future]
    pub async fn wait_for_revocation(&self, caller: &Caller) -> Error {
        if caller.key.is_none() && caller.s3_key.is_none() {
            return std::future::pending().await;
        }
        loop {
            tokio::time::sleep(REVOCATION_CHECK_INTERVAL).await;
            // A database outage does not end running transfers.
            if let Ok(false) = self.has_valid_key(caller).await {
                return unauthenticated("the API key was revoked or has expired during the transfer");
            }
        }
    }

    /// Whether the key of a caller is still valid. A caller without a key has nothing to lose.
    async fn has_valid_key(&self, caller: &Caller) -> Result<bool> {
        if let Some(id) = &caller.s3_key {
            return Ok(self.s3_keys.find(id).await?.is_some());
        }
        let Some(id) = &caller.key else {
            return Ok(true);
        };
        let known = self.cached_key(id).await?;
        Ok(known.record.as_ref().is_some_and(|kept| self.db.is_api_key_valid(kept)))
    }

    /// Returns the caller that owns this key. The error does not reveal whether the key is unknown,
    /// revoked or expired.
    async fn authenticate_key(&self, token: &str) -> Result<Caller> {
        let refused = || unauthenticated("the API key is unknown, revoked or expired");
        let key = ApiKey::parse(token).ok_or_else(refused)?;
        let known = self.cached_key(key.id()).await?;
        let kept = known.record.as_ref().filter(|kept| key.matches_hash(&kept.hash)).ok_or_else(refused)?;
        if !self.db.is_api_key_valid(kept) {
            return Err(refused());
        }
        if let Some(rate) = &known.rate
            && let Err(wait) = rate.check()
        {
            return Err(Error::rate_limited(wait.wait_time_from(rate.clock().now())));
        }
        Ok(Caller {
            tenant: kept.tenant.clone(),
            max_size: kept.max_size,
            key: Some(kept.id.clone()),
            max_transfers: kept.max_transfers,
            scopes: kept.scopes,
            grant: None,
            s3_key: None,
        })
    }

    async fn cached_key(&self, id: &str) -> Result<Arc<CachedKey>> {
        let before = self.keys.get(id);
        if let Some(known) = &before
            && (known.read_at.elapsed() < CACHE_TTL
                || known.read_at.elapsed() < CACHE_TTL + STALE_WHILE_REVALIDATE
                    && known.is_revalidating.swap(true, Ordering::Relaxed))
        {
            return Ok(known.clone());
        }
        let since = Instant::now();
        let kept = self.db.api_key(id).await?;
        let rate = kept.as_ref().and_then(|kept| kept.max_rate).and_then(NonZeroU32::new);
        let rate = rate.map(|rate| match before.and_then(|known| known.rate.clone()) {
            Some(running) => running,
            None => Arc::new(RateLimiter::direct(Quota::per_second(rate))),
        });
        let known = Arc::new(CachedKey {
            read_at: since,
            is_revalidating: AtomicBool::new(false),
            record: kept,
            rate,
        });
        self.keys.insert(id.to_owned(), known.clone());
        Ok(known)
    }
}

fn unauthenticated(message: &'static str) -> Error {
    Error::new(ErrorCode::Unauthenticated, message)
}
