//! Requests that must not take effect twice.

use osproxy_api::ErrorCode;
use sha2::{Digest, Sha256};

use super::{App, Caller};
pub use crate::meta::KeyedAnswer;
use crate::{
    Error, Result,
    meta::{Keyed, KeyedRequest},
    uid::Uid,
};

/// A key that this process has for a request. Whoever has it says how it ended, by [`App::answer_key`] or
/// [`App::release_key`]; if nobody does, another attempt may take it over after a minute.
///
/// What the request makes has the reserved uid, whichever attempt makes it: of several, one makes it, and the others find
/// it there.
#[derive(Clone, Debug)]
pub struct TakenKey {
    request: KeyedRequest,
    uid: Uid,
}

impl TakenKey {
    /// The uid that is reserved for what the request makes.
    pub fn uid(&self) -> Uid {
        self.uid
    }
}

/// What a request finds under its key.
#[derive(Clone, Debug)]
pub enum KeyOutcome {
    /// No answer: the request is to be done.
    Taken(TakenKey),
    /// The answer to the same request before.
    Answered(KeyedAnswer),
}

impl App {
    /// Takes a key of a caller for a request, told by what it hashes to, or gives what was answered to it before. Fails with
    /// `KeyReused` if the key is another request's, and with `InProgress` if the same one has not ended.
    pub async fn take_key(&self, caller: &Caller, key: &str, request: [u8; 32]) -> Result<KeyOutcome> {
        self.must_have_room()?;
        // No two attempts have the same number, in this process or another.
        let attempt = self.next_uid().await?;
        let key = scoped(caller.key.as_deref(), key);
        let request = KeyedRequest { tenant: caller.tenant.clone(), key, request, attempt };
        match self.meta.take_key(request.clone()).await? {
            Keyed::Taken(uid) => Ok(KeyOutcome::Taken(TakenKey { request, uid })),
            Keyed::Answered(answer) => Ok(KeyOutcome::Answered(answer)),
            Keyed::Running => Err(in_progress()),
            Keyed::Other => {
                Err(Error::new(ErrorCode::KeyReused, "this key was used before, with another request"))
            }
        }
    }

    /// Remembers what was answered to the request of a key.
    pub async fn answer_key(&self, key: TakenKey, answer: KeyedAnswer) -> Result<()> {
        Ok(self.meta.answer_key(key.request, answer).await?)
    }

    /// Gives a key back whose request failed.
    pub async fn release_key(&self, key: TakenKey) -> Result<()> {
        Ok(self.meta.release_key(key.request).await?)
    }

    /// Whether this attempt still has its key: only then it may take back what was made under the reserved uid.
    pub async fn hold_key(&self, key: &TakenKey) -> Result<bool> {
        Ok(self.meta.hold_key(key.request.clone()).await?)
    }

    /// Reserves another uid for what the request makes, where that of an earlier attempt was taken back. Fails with
    /// `InProgress` if another attempt has taken the key over.
    pub async fn reserve_uid(&self, key: &TakenKey) -> Result<Uid> {
        let uid = self.next_uid().await?;
        if self.meta.reserve_uid(key.request.clone(), uid).await? { Ok(uid) } else { Err(in_progress()) }
    }
}

fn in_progress() -> Error {
    Error::new(ErrorCode::InProgress, "the first request with this key has not ended yet")
}

/// What the key of a request is called: every API key has a space of names of its own. A digest, since the database has room
/// for no more than the longest key.
fn scoped(api_key: Option<&str>, key: &str) -> String {
    let Some(id) = api_key else {
        return key.to_owned();
    };
    let mut digest = Sha256::new();
    digest.update((id.len() as u64).to_be_bytes());
    digest.update(id);
    digest.update(key);
    hex::encode(digest.finalize())
}
