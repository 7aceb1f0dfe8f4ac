//! Idempotency keys: a request that is repeated with the same key takes effect once.

use std::sync::Arc;

use osproxy_api::ErrorCode;
use sha2::{Digest, Sha256};

pub use osproxy_meta::RecordedAnswer;
use osproxy_meta::{IdempotencyDb, IdempotentRequest, KeyAcquisition};
use osproxy_types::uid::Uid;

use crate::{Caller, DetachedWork, Error, Result, Uids, admission::Admission, boxed_future};

/// An idempotency key that a request holds while it runs. The holder must call
/// [`IdempotencyKeys::record_answer`] or [`IdempotencyKeys::release`]; otherwise, after a minute, a
/// repetition of the request may take the key over.
///
/// One uid is reserved for the result of the request. If the request is repeated, every execution
/// uses that uid: the first to succeed creates the result, and later executions find the result.
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

/// Result of acquiring an idempotency key.
#[derive(Clone, Debug)]
pub enum IdempotencyOutcome {
    /// No response is recorded yet: carry out the request.
    Held(HeldIdempotencyKey),
    /// The same request was carried out before: this response was recorded then.
    Answered(RecordedAnswer),
}

/// Acquires idempotency keys and records the answers to their requests.
pub struct IdempotencyKeys {
    pub(crate) db: IdempotencyDb,
    pub(crate) uids: Arc<Uids>,
    pub(crate) admission: Arc<Admission>,
    /// Runs requests that have an idempotency key, so that they continue when the client
    /// disconnects.
    pub detached_work: Arc<DetachedWork>,
}

impl IdempotencyKeys {
    /// Acquires `key` for the request with the hash `request`. If a response to that request is
    /// already recorded, returns the response instead. Fails with `KeyReused` if the key was used
    /// for another request, and with `InProgress` if another execution of the same request holds
    /// the key.
    #[boxed_future]
    pub async fn acquire(&self, caller: &Caller, key: &str, request: [u8; 32]) -> Result<IdempotencyOutcome> {
        self.admission.check_database_space()?;
        // Identifies this holder of the key among the holders in all processes.
        let holder = self.uids.next().await?;
        let key = scoped_key(caller.idempotency_scope().as_deref(), key);
        let request =
            IdempotentRequest { tenant: caller.tenant.clone(), key, fingerprint: request, owner: holder };
        match self.db.acquire(request.clone()).await? {
            KeyAcquisition::Acquired(uid) => {
                Ok(IdempotencyOutcome::Held(HeldIdempotencyKey { request, uid }))
            }
            KeyAcquisition::Answered(answer) => Ok(IdempotencyOutcome::Answered(answer)),
            KeyAcquisition::InProgress => Err(in_progress()),
            KeyAcquisition::DifferentRequest => Err(Error::new(
                ErrorCode::KeyReused,
                "the idempotency key was already used for a different request",
            )),
        }
    }

    /// Records the response to the request that holds `key`. Has no effect if another holder has
    /// taken the key over.
    #[boxed_future]
    pub async fn record_answer(&self, key: HeldIdempotencyKey, answer: RecordedAnswer) -> Result<()> {
        Ok(self.db.record_answer(key.request, answer).await?)
    }

    /// Releases `key` after the request failed, so that a repetition of the request can acquire the
    /// key immediately. Has no effect if another holder has taken the key over.
    #[boxed_future]
    pub async fn release(&self, key: HeldIdempotencyKey) -> Result<()> {
        Ok(self.db.release(key.request).await?)
    }

    /// Returns whether `key` is still held. If `true`, the key is now held for another minute. If
    /// `false`, do not undo what was created under the reserved uid: another holder of the key may
    /// need it.
    pub async fn is_held(&self, key: &HeldIdempotencyKey) -> Result<bool> {
        Ok(self.db.renew(key.request.clone()).await?)
    }

    /// Reserves another uid for the result. Call this if the file with the first uid was deleted.
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

/// Scopes an idempotency key to the API key or upload grant of the caller, if there is one. In that
/// case, returns a digest of both, because the two texts together may be too long for the column.
fn scoped_key(scope: Option<&str>, key: &str) -> String {
    let Some(id) = scope else {
        return key.to_owned();
    };
    let mut digest = Sha256::new();
    digest.update((id.len() as u64).to_be_bytes());
    digest.update(id);
    digest.update(key);
    hex::encode(digest.finalize())
}
