//! Requests that must not take effect twice.

use osproxy_api::ErrorCode;

use super::App;
pub use crate::meta::KeyedAnswer;
use crate::{
    Error, Result,
    meta::{Keyed, KeyedRequest},
    tenant::Tenant,
};

/// A key that this process has for a request. Whoever has it says how it ended, by [`App::answer_key`] or
/// [`App::release_key`]; if nobody does, another attempt may take it over after a minute.
#[derive(Clone, Debug)]
pub struct TakenKey(KeyedRequest);

impl App {
    /// Takes a key of a tenant for a request, told by what it hashes to; or gives what was answered to the same request before. An error,
    /// if the key is another request's, or the same one has not ended.
    pub async fn take_key(
        &self,
        tenant: &Tenant,
        key: &str,
        request: [u8; 32],
    ) -> Result<std::result::Result<TakenKey, KeyedAnswer>> {
        // No two attempts have the same, in this process or another.
        let owner = self.next_uid().await?.to_string();
        let request = KeyedRequest { tenant: tenant.clone(), key: key.to_owned(), request, owner };
        match self.meta.take_key(request.clone()).await? {
            Keyed::Taken => Ok(Ok(TakenKey(request))),
            Keyed::Answered(answer) => Ok(Err(answer)),
            Keyed::Running => {
                Err(Error::new(ErrorCode::InProgress, "the first request with this key has not ended yet"))
            }
            Keyed::Other => {
                Err(Error::new(ErrorCode::KeyReused, "this key was used before, with another request"))
            }
        }
    }

    /// Remembers what was answered to the request of a key.
    pub async fn answer_key(&self, key: TakenKey, answer: KeyedAnswer) -> Result<()> {
        Ok(self.meta.answer_key(key.0, answer).await?)
    }

    /// Gives a key back whose request took no effect.
    pub async fn release_key(&self, key: TakenKey) -> Result<()> {
        Ok(self.meta.release_key(key.0).await?)
    }
}
