//! Uploads that the store itself puts together, between metadata and store.

use std::time::Duration;

use osproxy_storage::{ErrorKind, Key};
use tokio::sync::Mutex;

use super::App;
use crate::{
    Error, Result, error,
    meta::{Lost, NativePlace, NativeUpload},
    tenant::Tenant,
    uid::Uid,
};

/// How often an object is looked for before all of its parts are given up, and how long between: not every store takes an
/// upload away and shows the object in the same moment.
const LOOKS: u32 = 5;
const PAUSE: Duration = Duration::from_millis(500);

/// Bounds how often the same upload is begun at the same time: blobs whose numbers fall together wait for each other.
pub(super) struct Beginning([Mutex<()>; 64]);

impl Default for Beginning {
    fn default() -> Self {
        Self(std::array::from_fn(|_| Mutex::default()))
    }
}

impl Beginning {
    fn of(&self, blob_id: i64) -> &Mutex<()> {
        // The low bits of a uid count within a millisecond, those above are the worker's.
        let mixed = blob_id.cast_unsigned().wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 58;
        let [first, ..] = &self.0;
        usize::try_from(mixed).ok().and_then(|at| self.0.get(at)).unwrap_or(first)
    }
}

/// What became of an upload that was to be completed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PutTogether {
    /// The object is there.
    Done,
    /// The store has not got all parts as they were sent; those that it has not can be sent again.
    Lost,
}

impl App {
    /// What the store calls the upload that a part is to go into: it is begun, if it has not been. `None`: nothing is
    /// collected under this blob any more.
    pub async fn begun_upload(
        &self,
        store: &str,
        blob_id: i64,
        place: &NativePlace,
        tenant: &Tenant,
    ) -> Result<Option<String>> {
        if place.upload.is_some() {
            return Ok(place.upload.clone());
        }
        let multipart = self.stores.multipart(store)?;
        // Of parts that come at the same time one begins it here; another node may do so too.
        let _beginning = self.beginning.of(blob_id).lock().await;
        if let Some(named) = self.meta.named_upload(blob_id).await? {
            return Ok(Some(named));
        }
        let may_reserve = match place.shape {
            Some(shape) if multipart.has_places() => self.may_reserve(tenant, shape.size).await?,
            _ => true,
        };
        let begun = match place.shape {
            Some(shape) if !may_reserve => multipart.begin_unreserved(&place.key, shape).await?,
            shape => multipart.begin(&place.key, shape).await?,
        };
        let named = self.meta.name_upload(blob_id, begun.clone()).await?;
        if named.as_ref() != Some(&begun)
            // What this cannot drop goes when the content is verified, or removed: it is under the blob's key.
            && let Err(error) = multipart.abort(&place.key, &begun).await
        {
            tracing::warn!(blob_id, error = error::chain(&error), "cannot drop a second upload yet");
        }
        Ok(named)
    }

    /// Keeps room for content of a tenant that was announced, where its parts have places in the object to be. An error:
    /// there is none.
    pub async fn reserve(&self, uid: Uid, tenant: &Tenant) -> Result<()> {
        if !self.stores.have_places() {
            return Ok(());
        }
        let Some((store, blob_id, place)) = self.meta.begin_places(uid, self.next_uid().await?).await? else {
            return Ok(());
        };
        self.begun_upload(&store, blob_id, &place, tenant).await?;
        Ok(())
    }

    /// The size of an object that another request may be bringing forth at this moment.
    async fn appeared(&self, store: &str, key: &Key) -> Result<Option<u64>> {
        for _ in 0..LOOKS {
            match self.stores.get(store)?.size(key).await {
                Ok(size) => return Ok(Some(size)),
                Err(absent) if absent.kind == ErrorKind::NotFound => tokio::time::sleep(PAUSE).await,
                Err(error) => return Err(error.into()),
            }
        }
        Ok(None)
    }

    /// Finds out whether the store has lost an upload that does not take a part. If so, its parts can be sent again. An upload
    /// that is complete, or given up, is not lost.
    pub async fn lose_if_gone(&self, store: &str, blob_id: i64, key: &Key, upload: &str) -> Result<bool> {
        match self.stores.multipart(store)?.parts(key, upload).await {
            Err(error) if error.kind == ErrorKind::NotFound => {
                let is_lost = self.meta.lose_upload_of_parts(blob_id, upload.to_owned()).await?;
                if is_lost {
                    tracing::error!(
                        blob_id,
                        "the store has lost an upload with its parts; they have to be sent again"
                    );
                }
                Ok(is_lost)
            }
            // It has, or does not say so now.
            _ => Ok(false),
        }
    }

    /// Lets the store make an object of the parts that it has. Harmless when it is called again.
    pub async fn put_together(&self, native: &NativeUpload) -> Result<PutTogether> {
        let NativeUpload { blob_id, store, key, upload, parts, size } = native;
        let multipart = self.stores.multipart(store)?;
        let Err(problem) = multipart.complete(key, upload, parts).await else {
            return Ok(PutTogether::Done);
        };
        let there = multipart.parts(key, upload).await;
        let lost = match (problem.kind, there) {
            // It was done before, and nobody heard of it; or all is lost.
            (_, Err(gone)) if gone.kind == ErrorKind::NotFound => match self.appeared(store, key).await? {
                Some(found) if found == *size => return Ok(PutTogether::Done),
                Some(found) => {
                    let what = format!("{key} has {found} bytes, its parts have {size}");
                    return Err(Error::internal(what));
                }
                None => Lost::Upload,
            },
            (ErrorKind::Mismatch, Ok(there)) => {
                let differs = |part: &&(u32, String)| !there.contains(part);
                let lost: Vec<_> = parts.iter().filter(differs).map(|(number, _)| *number).collect();
                if lost.is_empty() { Lost::Refused } else { Lost::Parts(lost) }
            }
            // What the store said may be of a moment in which it was done; it is asked again.
            _ => return Err(problem.into()),
        };
        tracing::error!(
            blob_id,
            ?lost,
            error = error::chain(&problem),
            "the store has not the parts that it had; they have to be sent again"
        );
        self.meta.lose_native_parts(*blob_id, upload.clone(), lost).await?;
        Ok(PutTogether::Lost)
    }
}
