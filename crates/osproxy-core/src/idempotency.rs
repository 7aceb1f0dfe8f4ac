//! Idempotency keys: a request that is repeated takes effect once.

use std::sync::Arc;

use osproxy_api::ErrorCode;
use sha2::{Digest, Sha256};

pub use osproxy_meta::RecordedAnswer;
use osproxy_meta::{IdempotencyDb, IdempotentRequest, KeyAcquisition};
use osproxy_types::uid::Uid;

use crate::{Caller, DetachedWork, Error, Result, Uids, admission::Admission};

/// An idempotency key that is held for a request. The holder ends it with [`IdempotencyKeys::record_answer`] or
/// [`IdempotencyKeys::release`]. Otherwise a repetition of the request may take the key over
/// after a minute.
///
/// Every repetition creates its result under the same reserved uid: one of them creates it, the
/// others find it.
#[derive(Clone, Debug)]
pub struct HeldIdempotencyKey {
    request: IdempotentRequest,
    uid: Uid,
}

impl HeldIdempotencyKey {
    /// Returns the uid that is reserved for the result of the request.
    pub fn uid(&self) -> Uid {
        self.uid
    }
}

/// Result of taking an idempotency key.
#[derive(Clone, Debug)]
pub enum IdempotencyOutcome {
    /// There is no response yet: carry out the request.
    Held(HeldIdempotencyKey),
    /// The response to the same request before.
    Answered(RecordedAnswer),
}

/// Acquires idempotency keys and records the answers to their requests.
pub struct IdempotencyKeys {
    pub(crate) db: IdempotencyDb,
    pub(crate) uids: Arc<Uids>,
    pub(crate) admission: Arc<Admission>,
    /// Runs the requests, which continue when their client disconnects.
    pub detached_work: Arc<DetachedWork>,
}

impl IdempotencyKeys {
    /// Takes an idempotency key for a request, which is identified by its hash, or returns the
    /// response that was recorded for it. Fails with `KeyReused` if the key was used for another
    /// request, and with `InProgress` if the same request has not ended.
    pub async fn acquire(&self, caller: &Caller, key: &str, request: [u8; 32]) -> Result<IdempotencyOutcome> {
        self.admission.check_database_space()?;
        // Identifies this holder of the key, in this process and all others.
        let holder = self.uids.next().await?;
        let key = scoped_key(caller.key.as_deref(), key);
        let request =
            IdempotentRequest { tenant: caller.tenant.clone(), key, fingerprint: request, owner: holder };
        match self.db.acquire(request.clone()).await? {
            KeyAcquisition::Acquired(uid) => {
                Ok(IdempotencyOutcome::Held(HeldIdempotencyKey { request, uid }))
            }
            KeyAcquisition::Answered(answer) => Ok(IdempotencyOutcome::Answered(answer)),
            KeyAcquisition::InProgress => Err(in_progress()),
            KeyAcquisition::DifferentRequest => {
                Err(Error::new(ErrorCode::KeyReused, "the idempotency key belongs to another request"))
            }
        }
    }

    /// Records the response to the request of a key.
    pub async fn record_answer(&self, key: HeldIdempotencyKey, answer: RecordedAnswer) -> Result<()> {
        Ok(self.db.record_answer(key.request, answer).await?)
    }

    /// Releases the key of a request that failed.
    pub async fn release(&self, key: HeldIdempotencyKey) -> Result<()> {
        Ok(self.db.release(key.request).await?)
    }

    /// Returns whether this holder still has its key. Only then may it undo what was created under
    /// the reserved uid.
    pub async fn is_held(&self, key: &HeldIdempotencyKey) -> Result<bool> {
        Ok(self.db.renew(key.request.clone()).await?)
    }

    /// Reserves another uid for the result, after what was created under the first one was undone.
    /// Fails with `InProgress` if another holder has taken the key over.
    pub async fn reserve_uid(&self, key: &HeldIdempotencyKey) -> Result<Uid> {
        let uid = self.uids.next().await?;
        if self.db.reserve_uid(key.request.clone(), uid).await? { Ok(uid) } else { Err(in_progress()) }
    }
}

fn in_progress() -> Error {
    Error::new(
        ErrorCode::InProgress,
        "the first request with this idempotency key is still running; retry later",
    )
}

/// Scopes an idempotency key to an API key. Returns a digest, because both together may not fit
/// into the column.
fn scoped_key(api_key: Option<&str>, key: &str) -> String {
    let Some(id) = api_key else {
        return key.to_owned();
    };
    let mut digest = Sha256::new();
    digest.update((id.len() as u64).to_be_bytes());
    digest.update(id);
    digest.update(key);
    hex::encode(digest.finalize())
}
