//! Reads parts of an upload while the upload is being completed, to detect the MIME type and
//! compute digests.

use std::error::Error as _;

use bytes::Bytes;
use futures_util::{StreamExt, TryStreamExt, stream};
use osproxy_meta::{Inspection, InspectionResult, StoredPart};
use osproxy_storage::{self as storage, ErrorKind};
use osproxy_types::content_type::{self, HEAD};

use super::Objects;
use crate::{Error, Result};

/// Maximum concurrent inspections; further inspections wait.
pub(crate) const MAX_INSPECTIONS: usize = 8;
/// Maximum concurrent reads of short parts of one upload.
const MAX_READS: usize = 8;

impl Objects {
    /// Reads the parts that `inspection` asks for. Returns `None` if parts were replaced or removed
    /// in the meantime.
    pub async fn inspect(&self, inspection: &Inspection) -> Result<Option<InspectionResult>> {
        let _permit = self.inspections.acquire().await.map_err(Error::internal)?;
        let mut parts = self.meta.blobs.parts(inspection.blob_id).await?;
        parts.truncate(inspection.parts as usize);
        match self.read_parts(inspection, &parts).await {
            Err(error) if is_gone(&error) => Ok(None),
            read => read,
        }
    }

    async fn read_parts(
        &self,
        inspection: &Inspection,
        parts: &[StoredPart],
    ) -> Result<Option<InspectionResult>> {
        let (store, mut inspected) = (inspection.store.as_str(), InspectionResult::default());
        if inspection.needs_first_bytes {
            let (head, read) = self.read_head(store, parts).await?;
            inspected.detected_type = content_type::sniff(&head);
            inspected.part_ids = parts.iter().take(read).map(|part| part.id).collect();
        }
        if let Some(selection) = inspection.digests {
            let (each, all) = self.stores.digest_parts(store, parts, selection).await?;
            if let Some((part, _)) = parts.iter().zip(each).find(|(part, found)| !part.digests.matches(found))
            {
                // The bytes of a part that was replaced meanwhile are meaningless.
                let stored = self.meta.blobs.parts(inspection.blob_id).await?;
                if !stored.iter().any(|stored| stored.id == part.id) {
                    return Ok(None);
                }
                return Err(Error::internal(format!("part {} was damaged in the store", part.number)));
            }
            inspected.digests = Some(all);
            inspected.part_ids = parts.iter().map(|part| part.id).collect();
        }
        Ok(Some(inspected))
    }

    /// Returns the first bytes of the content, and the number of parts that contain them.
    async fn read_head(&self, store: &str, parts: &[StoredPart]) -> Result<(Vec<u8>, usize)> {
        let (mut missing, mut ranges) = (HEAD as u64, Vec::new());
        for part in parts {
            if missing == 0 {
                break;
            }
            let length = part.size.min(missing);
            missing -= length;
            ranges.push((part.clone(), part.offset..part.offset + length));
        }
        let read = ranges.len();
        ranges.retain(|(_, range)| !range.is_empty());
        let open = |(part, range): (StoredPart, _)| async move {
            let bytes: Vec<Bytes> = self.stores.open_part(store, &part, range).await?.try_collect().await?;
            Ok::<_, Error>(bytes.concat())
        };
        let heads: Vec<_> =
            stream::iter(ranges.into_iter().map(open)).buffered(MAX_READS).try_collect().await?;
        Ok((heads.concat(), read))
    }
}

/// Whether the error means that an object, or bytes at its end, no longer exist.
pub fn is_gone(error: &Error) -> bool {
    let of_store = error.source().and_then(|source| source.downcast_ref::<storage::Error>());
    of_store.is_some_and(|error| matches!(error.kind, ErrorKind::NotFound | ErrorKind::Truncated))
}
