//! Who may do what.

use std::{
    num::NonZeroU32,
    sync::{
        Arc, Mutex, PoisonError,
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
/// How long one, or that there are none, is believed beyond that while somebody looks.
const LOOKING: Duration = Duration::from_secs(1);
/// How long it is believed that there are no keys.
const NONE_REMEMBERED: Duration = Duration::from_secs(1);
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
    /// Someone who needs no key.
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

    /// Refuses who may not do that.
    pub fn must_have(&self, scope: Scope) -> Result<()> {
        if self.scopes.has(scope) {
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

/// What is known of keys.
pub(super) struct Access {
    mode: AuthMode,
    /// There are keys, which cannot change any more.
    has_keys: AtomicBool,
    /// When there was none.
    found_none: Mutex<Option<Instant>>,
    /// Somebody looks whether there are some by now: one, however many requests there are.
    is_looked_for: AtomicBool,
    keys: Cache<String, Arc<KnownKey>>,
}

impl Access {
    pub(super) fn new(config: &Config) -> Self {
        Self {
            mode: config.auth.mode,
            has_keys: AtomicBool::new(false),
            found_none: Mutex::default(),
            is_looked_for: AtomicBool::new(false),
            keys: Cache::new(KEYS),
        }
    }
}

impl App {
    /// Finds out who asks, by the token of `Authorization: Bearer`. Without any API keys whoever is on this machine needs
    /// none (`is_local`), and with `auth.mode: open` nobody does. A key's own rate is counted here.
    pub async fn authenticate(&self, token: Option<&str>, is_local: bool) -> Result<Caller> {
        let is_open = self.access.mode == AuthMode::Open;
        match token {
            // To a service that is open, tokens of others mean nothing.
            Some(token) if !is_open || ApiKey::is_meant(token) => self.holder(token).await,
            _ if is_open => Ok(Caller::trusted()),
            _ if is_local && !self.has_api_keys().await? => Ok(Caller::trusted()),
            _ => Err(unauthenticated("this takes an API key, as `Authorization: Bearer KEY`")),
        }
    }

    /// Whether there are API keys, or were.
    pub async fn has_api_keys(&self) -> Result<bool> {
        if self.access.has_keys.load(Ordering::Acquire) {
            return Ok(true);
        }
        let looking = Instant::now();
        let found = *self.access.found_none.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(at) = found
            && (at.elapsed() < NONE_REMEMBERED
                || at.elapsed() < NONE_REMEMBERED + LOOKING
                    && self.access.is_looked_for.swap(true, Ordering::Relaxed))
        {
            return Ok(false);
        }
        let has_keys = self.meta.has_api_keys().await;
        self.access.is_looked_for.store(false, Ordering::Relaxed);
        let has_keys = has_keys?;
        if has_keys {
            self.access.has_keys.store(true, Ordering::Release);
        } else {
            *self.access.found_none.lock().unwrap_or_else(PoisonError::into_inner) = Some(looking);
        }
        Ok(has_keys)
    }

    /// Whether everyone is served who can reach this node.
    pub fn is_open(&self) -> bool {
        self.access.mode == AuthMode::Open
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
