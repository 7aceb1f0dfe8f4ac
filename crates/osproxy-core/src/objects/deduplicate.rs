//! Finds stored content that need not be stored again.

use osproxy_meta::{Blob, ExpectedDigests};
use osproxy_storage::{Digests, ErrorKind};
use osproxy_types::tenant::Tenant;

use super::Objects;
use crate::Result;

/// Whether a tenant has content already.
pub(crate) enum SameContent {
    None,
    Intact(Blob),
    /// The store has lost the content, which must be replaced.
    Lost(Blob),
}

impl Objects {
    /// Looks for a blob of `tenant` with this content. Logs an error if its object is lost.
    pub(crate) async fn find_same_content(&self, tenant: &Tenant, digests: &Digests) -> Result<SameContent> {
        let Some(blob) = self.meta.blobs.by_blake3(tenant, digests.blake3).await? else {
            return Ok(SameContent::None);
        };
        if self.is_intact(&blob).await? {
            return Ok(SameContent::Intact(blob));
        }
        tracing::error!(
            blob_id = blob.id,
            "the store has lost content; replacing it with the same content from this upload"
        );
        Ok(SameContent::Lost(blob))
    }

    /// Looks for an intact blob of `tenant` that has all expected digests, and the size if it is
    /// given.
    pub(crate) async fn find_known_content(
        &self,
        tenant: &Tenant,
        expected: &ExpectedDigests,
        size: Option<u64>,
    ) -> Result<Option<Blob>> {
        // Digests without known collisions come first.
        let found = match expected {
            ExpectedDigests { blake3: Some(blake3), .. } => {
                self.meta.blobs.by_blake3(tenant, *blake3).await?
            }
            ExpectedDigests { sha256: Some(sha256), .. } => {
                self.meta.blobs.by_sha256(tenant, *sha256).await?
            }
            ExpectedDigests { md5: Some(md5), .. } => self.meta.blobs.by_md5(tenant, *md5).await?,
            _ => None,
        };
        let Some(blob) = found else {
            return Ok(None);
        };
        let matches = size.is_none_or(|size| size == blob.digests.size)
            && expected.first_mismatch(&blob.digests).is_none();
        Ok(if matches && self.is_intact(&blob).await? { Some(blob) } else { None })
    }

    /// Returns whether the object of a blob exists with its full size. Only then is its content
    /// shared: if an object was damaged outside of osproxy, content that clients send again must
    /// replace it.
    ///
    /// A blob in the store of another node counts as intact while that node is alive, since only
    /// that node can check and repair it. If the node is away, content that a client sends again
    /// replaces the blob.
    async fn is_intact(&self, blob: &Blob) -> Result<bool> {
        if !self.stores.has(&blob.store) {
            return Ok(!self.owners.is_owner_away(&blob.store).await);
        }
        match self.stores.get(&blob.store)?.size(&blob.key).await {
            Ok(size) => Ok(size == blob.digests.size),
            Err(error) if error.kind == ErrorKind::NotFound => Ok(false),
            Err(error) => Err(error.into()),
        }
    }
}
