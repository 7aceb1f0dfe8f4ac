//! Instant upload: create files of known content without sending it.

use osproxy_meta::{AnnouncedContent, KnownContent, NewFile, NewStoredFile};
use osproxy_types::{content_type, uid::Uid};

use super::{UploadOps, file_name};
use crate::{Caller, Error, Result, boxed_future, metrics::DedupSource};

/// Content that the client has, and its path on the client.
#[derive(Debug)]
pub struct InstantItem<'a> {
    /// MD5 of the whole content.
    pub md5: [u8; 16],
    /// Path on the client; the last component becomes the name.
    pub path: &'a str,
}

/// Creates a complete file of the caller's tenant for every item whose content is stored and was
/// verified by osproxy. Returns the new uids in the order of the items; `None` means that the
/// client must send the content. With `uploads.require_possession_proof`, all are `None`.
#[boxed_future]
pub async fn instant_upload(
    uploads: &UploadOps,
    caller: &Caller,
    items: &[InstantItem<'_>],
) -> Result<Vec<Option<Uid>>> {
    let names = items.iter().map(|item| file_name(item.path)).collect::<Result<Vec<_>>>()?;
    uploads.admission.admit_instant_uploads().await?;
    if uploads.limits.require_possession_proof {
        // API v0 has no way to answer a challenge.
        return Ok(vec![None; items.len()]);
    }
    let mut created = vec![None; items.len()];
    let (mut files, mut sizes) = (Vec::new(), Vec::new());
    for ((item, name), slot) in items.iter().zip(names).zip(&mut created) {
        if let Some(blob) = uploads.meta.blobs.by_md5(&caller.tenant, item.md5).await?
            // The caller's size limit applies even though nothing is sent.
            && caller.max_size.is_none_or(|max| blob.digests.size <= max)
            && uploads.objects.is_intact(&blob).await?
        {
            let uid = uploads.uids.next().await?;
            let content_type = content_type::mime_type_of(blob.detected_type.as_deref(), name);
            let name = name.to_owned();
            let (tenant, announced) = (caller.tenant.clone(), AnnouncedContent::default());
            let file = NewFile { uid, tenant, name, announced, grant: None };
            let size = blob.digests.size;
            let content = KnownContent { blob_id: blob.id, size, content_type };
            files.push(NewStoredFile { file, content });
            sizes.push(size);
            *slot = Some(uid);
        }
    }
    if !files.is_empty() {
        let recorded = uploads.meta.files.create_stored(files).await?.ok_or_else(Error::quota_exceeded)?;
        let mut recorded = recorded.into_iter().zip(sizes);
        // If a blob was removed in the meantime, its content counts as unknown.
        for slot in created.iter_mut().filter(|slot| slot.is_some()) {
            match recorded.next() {
                Some((true, size)) => uploads.metrics.count_deduplicated(DedupSource::Instant, size),
                _ => *slot = None,
            }
        }
    }
    created.iter().filter(|slot| slot.is_none()).for_each(|_| uploads.metrics.count_instant_miss());
    Ok(created)
}
