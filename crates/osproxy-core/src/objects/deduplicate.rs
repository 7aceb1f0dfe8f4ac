//! Looks up stored content, so that the same content is not stored twice.

use osproxy_meta::{Blob, ExpectedDigests};
use osproxy_storage::{Digests, ErrorKind};
use osproxy_types::tenant::Tenant;

use super::Objects;
use crate::{Result, Stores};

/// Result of looking for a blob with the same content, within one tenant.
pub(crate) enum SameContent {
    None,
    Intact(Blob),
    /// The object of this blob is missing, has the wrong size, is on a node that is away, or is in
    /// a store that is no longer configured. The caller replaces the object.
    Lost(Blob),
}

impl Objects {
    /// Looks for a blob of `tenant` with these digests. Logs an error if the object of the blob is
    /// lost.
    pub(crate) async fn find_same_content(&self, tenant: &Tenant, digests: &Digests) -> Result<SameContent> {
        let Some(blob) = self.meta.blobs.by_blake3(tenant, digests.blake3).await? else {
            return Ok(SameContent::None);
        };
        if self.is_intact(&blob).await? {
            return Ok(SameContent::Intact(blob));
        }
        tracing::error!(
            blob_id = blob.id,
            "the store has lost the object of a blob; replacing it with identical content"
        );
        Ok(SameContent::Lost(blob))
    }

    /// Looks for an intact blob of `tenant` that has all expected digests and, if given, this size
    /// in bytes.
    pub(crate) async fn find_known_content(
        &self,
        tenant: &Tenant,
        expected: &ExpectedDigests,
        size: Option<u64>,
    ) -> Result<Option<Blob>> {
        // Prefer digests for which no collisions are known.
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

    /// Returns whether the object of a blob exists and has the right size. Only an intact blob may
    /// be shared: if something outside osproxy has damaged the object, the content that a client
    /// sends must replace it.
    ///
    /// A blob in a store of another node counts as intact while that node is alive, because only
    /// that node can check and repair the object. While that node is known to be away, the blob
    /// does not count as intact, so new content replaces it. Right after a start, it may be unknown
    /// whether the node is away; the blob then counts as intact. If this node does not have a
    /// remote store such as `s3`, no node serves that store, so its blobs do not count as intact.
    pub(crate) async fn is_intact(&self, blob: &Blob) -> Result<bool> {
        if !self.stores.has(&blob.store) {
            let has_owner = Stores::may_be_elsewhere(&blob.store);
            return Ok(has_owner && !self.owners.is_owner_away(&blob.store).await);
        }
        match self.stores.get(&blob.store)?.size(&blob.key).await {
            Ok(size) => Ok(size == blob.digests.size),
            Err(error) if error.kind == ErrorKind::NotFound => Ok(false),
            Err(error) => Err(error.into()),
        }
    }
}
