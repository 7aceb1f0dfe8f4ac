//! Make files of content that is stored already, without sending it again.

use super::name_of;
use crate::{
    Error, Result,
    app::{App, Beginning, Caller},
    content_type,
    meta::{Announced, NewFile},
    metrics::Saving,
    uid::Uid,
};

/// Content that the client has, by its md5, and the path it has there.
#[derive(Debug)]
pub struct Wanted<'a> {
    /// MD5 of the whole content.
    pub md5: [u8; 16],
    /// Path on the client; its last component becomes the name.
    pub path: &'a str,
}

/// Creates a complete file of the caller's tenant for every item whose content is stored and was verified by osproxy itself.
/// Gives the new uids in the order of the items; `None` where the content has to be sent.
pub async fn instant_upload(app: &App, caller: &Caller, wanted: &[Wanted<'_>]) -> Result<Vec<Option<Uid>>> {
    let names = wanted.iter().map(|item| name_of(item.path)).collect::<Result<Vec<_>>>()?;
    app.must_keep_up(Beginning::Upload)?;
    app.must_leave_free(0).await?;
    if app.limits.prove_possession {
        // A client of API v0 could not answer.
        return Ok(vec![None; wanted.len()]);
    }
    let mut created = vec![None; wanted.len()];
    let (mut files, mut sizes) = (Vec::new(), Vec::new());
    for ((item, name), slot) in wanted.iter().zip(names).zip(&mut created) {
        if let Some(blob) = app.meta.blob_by_md5(&caller.tenant, item.md5).await?
            // A larger file is not the caller's to create: sending it is refused as well.
            && caller.max_size.is_none_or(|max| blob.digests.size <= max)
            && app.is_intact(&blob).await?
        {
            let uid = app.next_uid().await?;
            let content_type = content_type::of_file(blob.sniffed.as_deref(), name);
            let name = name.to_owned();
            let file = NewFile { uid, tenant: caller.tenant.clone(), name, announced: Announced::default() };
            let size = blob.digests.size;
            files.push((file, (blob.id, size), content_type));
            sizes.push(size);
            *slot = Some(uid);
        }
    }
    if !files.is_empty() {
        let recorded = app.meta.create_stored_files(files).await?.ok_or_else(Error::over_quota)?;
        let mut recorded = recorded.into_iter().zip(sizes);
        // A blob that went away meanwhile is as good as one that was never there.
        for slot in created.iter_mut().filter(|slot| slot.is_some()) {
            match recorded.next() {
                Some((true, size)) => app.metrics.shared(Saving::Instant, size),
                _ => *slot = None,
            }
        }
    }
    created.iter().filter(|slot| slot.is_none()).for_each(|_| app.metrics.not_there());
    Ok(created)
}
