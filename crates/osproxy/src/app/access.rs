//! Who may do what.

use std::{
    num::NonZeroU32,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::{Duration, Instant},
};

use governor::{DefaultDirectRateLimiter, Quota, RateLimiter, clock::Clock};
use osproxy_api::ErrorCode;
use quick_cache::sync::Cache;

use super::App;
use crate::{
    Error, Result,
    api_key::{ApiKey, Scope, Scopes},
    config::{AuthMode, Config},
    link::{Limit, Terms},
    meta::KeptKey,
    tenant::Tenant,
};

/// How long a key is believed to be what it was: one that is revoked is worth nothing after that.
const REMEMBERED: Duration = Duration::from_secs(4);
/// How long a stale key is still served while one request reads it anew.
const LOOKING: Duration = Duration::from_secs(1);
/// How often a transfer looks whether its key is still worth something.
const LOOK_AGAIN: Duration = Duration::from_millis(500);
/// How many keys are remembered.
const KEYS: usize = 10_000;

/// Who asks for something.
#[derive(Clone, Debug)]
pub struct Caller {
    /// Whose files they are about.
    pub tenant: Tenant,
    /// Largest file that they may create, in bytes, if their key says so.
    pub max_size: Option<u64>,
    /// The id of their key, if they have one.
    pub key: Option<String>,
    /// How many contents may be on their way by links of theirs, if their key says so.
    max_transfers: Option<u32>,
    scopes: Scopes,
}

impl Caller {
    /// The caller without a key of `auth.mode: open`.
    fn trusted() -> Self {
        Self {
            tenant: Tenant::default(),
            max_size: None,
            key: None,
            max_transfers: None,
            scopes: Scopes::ALL,
        }
    }

    /// What every link of theirs is held to.
    pub fn terms(&self) -> Terms {
        let limit = self.key.clone().zip(self.max_transfers);
        Terms { transfers: limit.map(|(id, max)| Limit { id, max }), ..Terms::default() }
    }

    /// What their upload links are held to.
    pub fn upload_terms(&self) -> Terms {
        Terms { max_size: self.max_size, ..self.terms() }
    }

    /// Whether the caller has a scope.
    pub fn has(&self, scope: Scope) -> bool {
        self.scopes.has(scope)
    }

    /// Returns `PermissionDenied` unless the caller has `scope`.
    pub fn must_have(&self, scope: Scope) -> Result<()> {
        if self.has(scope) {
            return Ok(());
        }
        let message = format!("this takes an API key with the scope `{}`", scope.as_str());
        Err(Error::new(ErrorCode::PermissionDenied, message))
    }
}

/// A key as it is remembered.
struct KnownKey {
    since: Instant,
    /// Somebody is reading it anew: one, however many requests there are with it.
    is_looked_up: AtomicBool,
    kept: Option<KeptKey>,
    /// Goes on when the key is read anew.
    rate: Option<Arc<DefaultDirectRateLimiter>>,
}

/// Authenticates requests, with a cache of API keys.
pub(super) struct Access {
    mode: AuthMode,
    keys: Cache<String, Arc<KnownKey>>,
}

impl Access {
    pub(super) fn new(config: &Config) -> Self {
        Self { mode: config.auth.mode, keys: Cache::new(KEYS) }
    }
}

impl App {
    /// Returns the caller with this token of `Authorization: Bearer`, and counts the request in the rate of its key.
    /// Only `auth.mode: open` serves callers without a key.
    pub async fn authenticate(&self, token: Option<&str>) -> Result<Caller> {
        let is_open = self.access.mode == AuthMode::Open;
        match token {
            // An open service ignores tokens of other services.
            Some(token) if !is_open || ApiKey::is_meant(token) => self.holder(token).await,
            _ if is_open => Ok(Caller::trusted()),
            _ => Err(unauthenticated("this takes an API key, as `Authorization: Bearer KEY`")),
        }
    }

    /// Waits until the key of a caller is revoked or has expired, and returns the error for that. Of callers without a key it never returns.
    pub async fn revocation(&self, caller: &Caller) -> Error {
        let Some(id) = &caller.key else {
            return std::future::pending().await;
        };
        loop {
            tokio::time::sleep(LOOK_AGAIN).await;
            // Transfers go on while the database does not answer.
            if let Ok(known) = self.known_key(id).await
                && !known.kept.as_ref().is_some_and(|kept| kept.holds(self.meta.now_ms()))
            {
                return unauthenticated("the API key was revoked or has expired meanwhile");
            }
        }
    }

    /// Who has this key. Nobody is told what is wrong with it.
    async fn holder(&self, token: &str) -> Result<Caller> {
        let refused = || unauthenticated("the API key is not known, was revoked, or has expired");
        let key = ApiKey::parse(token).ok_or_else(refused)?;
        let known = self.known_key(key.id()).await?;
        let kept = known.kept.as_ref().filter(|kept| key.is_of(&kept.hash)).ok_or_else(refused)?;
        if !kept.holds(self.meta.now_ms()) {
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
        })
    }

    async fn known_key(&self, id: &str) -> Result<Arc<KnownKey>> {
        let before = self.access.keys.get(id);
        if let Some(known) = &before
            && (known.since.elapsed() < REMEMBERED
                || known.since.elapsed() < REMEMBERED + LOOKING
                    && known.is_looked_up.swap(true, Ordering::Relaxed))
        {
            return Ok(known.clone());
        }
        let since = Instant::now();
        let kept = self.meta.api_key(id).await?;
        let rate = kept.as_ref().and_then(|kept| kept.max_rate).and_then(NonZeroU32::new);
        let rate = rate.map(|rate| match before.and_then(|known| known.rate.clone()) {
            Some(running) => running,
            None => Arc::new(RateLimiter::direct(Quota::per_second(rate))),
        });
        let known = Arc::new(KnownKey { since, is_looked_up: AtomicBool::new(false), kept, rate });
        self.access.keys.insert(id.to_owned(), known.clone());
        Ok(known)
    }
}

fn unauthenticated(message: &'static str) -> Error {
    Error::new(ErrorCode::Unauthenticated, message)
}
