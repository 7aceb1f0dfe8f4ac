//! Reads content and compares it with the recorded sizes and digests.

use osproxy_core::{Result, Stores};
use osproxy_meta::{BlobLayout, ContentRecord, Meta, PartDigests, StoredPart};
use osproxy_storage::{DigestSelection, Digests, ErrorKind, Key};
use osproxy_types::error_chain;

use super::report::{ContentFault, LocatedFault, MAX_NAMED_FILES, ScrubReport};

/// Number of blobs that are loaded at a time.
const PAGE: u64 = 500;

/// Number of consecutive unreadable blobs after which the store counts as unavailable.
const MAX_UNREADABLE_IN_A_ROW: u32 = 3;

/// Maximum number of checks of a blob whose record changes during the check.
const MAX_ATTEMPTS: usize = 4;

/// Checks all content in the order of blob ids, while services may be using it.
pub(super) struct Scrubber {
    pub(super) meta: Meta,
    pub(super) stores: Stores,
    pub(super) report: ScrubReport,
}

/// A range of an object, with the recorded digests of the range.
struct Extent {
    part: Option<u32>,
    object_key: String,
    offset: u64,
    size: u64,
    /// Whether the range is the whole object.
    is_object: bool,
    recorded: RecordedDigest,
}

/// Why the ranges of a blob cannot be determined.
enum ExtentError {
    /// The record of the blob is damaged.
    Fault(ContentFault),
    /// The database returned an error.
    Failed(osproxy_core::Error),
}

enum RecordedDigest {
    Whole(Digests),
    Part(PartDigests),
    /// Only the size is recorded.
    Size,
}

impl RecordedDigest {
    fn selection(&self) -> Option<DigestSelection> {
        match self {
            Self::Whole(digests) => Some(digests.selection()),
            Self::Part(recorded) => Some(recorded.selection()),
            Self::Size => None,
        }
    }

    fn matches(&self, actual: &Digests) -> bool {
        match self {
            Self::Whole(digests) => digests == actual,
            Self::Part(recorded) => recorded.matches(actual),
            Self::Size => true,
        }
    }
}

impl Scrubber {
    /// Checks every blob after `report.after`. Fails if a store has become unavailable;
    /// `report.after` is then the last blob before the unreadable blobs.
    pub(super) async fn run(&mut self) -> anyhow::Result<()> {
        let (mut last_checked, mut in_a_row) = (self.report.after, 0);
        loop {
            let page = self.meta.admin.content_records(last_checked, PAGE).await?;
            if page.is_empty() {
                self.report.after = last_checked;
                return Ok(());
            }
            for blob in page {
                let store = blob.store.clone();
                last_checked = blob.id;
                let Some(reason) = self.check_blob(blob).await? else {
                    (self.report.after, in_a_row) = (last_checked, 0);
                    continue;
                };
                in_a_row += 1;
                if in_a_row == MAX_UNREADABLE_IN_A_ROW {
                    anyhow::bail!("cannot read from the store {store}: {reason}");
                }
            }
        }
    }

    /// Checks a blob. Returns the reason if the store could not read the blob.
    async fn check_blob(&mut self, mut blob: ContentRecord) -> Result<Option<String>> {
        let mut unreadable = None;
        for attempt in 1.. {
            if !self.stores.has(&blob.store) {
                self.report.count_skipped(&blob.store);
                return Ok(None);
            }
            let faults = self.find_faults(&blob).await?;
            if !faults.is_empty() {
                // The blob may have been merged, moved or removed during the check.
                match self.meta.admin.content_record(blob.id).await? {
                    None => return Ok(None),
                    Some(now) if now != blob && attempt < MAX_ATTEMPTS => {
                        blob = now;
                        continue;
                    }
                    Some(_) => {
                        let uids = self.meta.admin.files_of_blob(blob.id, MAX_NAMED_FILES as u64 + 1).await?;
                        self.report.mismatch(&blob, &uids, &faults);
                    }
                }
            }
            unreadable = faults.into_iter().find_map(|located| match located.fault {
                ContentFault::Unreadable(reason) => Some(reason),
                _ => None,
            });
            self.report.blobs += 1;
            // Content in parts is verified by the digests of its parts.
            let is_known = blob.digests.is_some() || blob.layout == BlobLayout::Parts;
            self.report.unverified += u64::from(!is_known);
            break;
        }
        Ok(unreadable)
    }

    /// Reads a blob and returns its faults. Stops early if the remaining ranges are likely to have
    /// the same fault.
    async fn find_faults(&mut self, blob: &ContentRecord) -> Result<Vec<LocatedFault>> {
        let mut faults = Vec::new();
        let extents = match self.extents_of(blob).await {
            Ok(extents) => extents,
            Err(ExtentError::Failed(error)) => return Err(error),
            Err(ExtentError::Fault(fault)) => {
                return Ok(vec![LocatedFault { part: None, object_key: blob.object_key.clone(), fault }]);
            }
        };
        for extent in extents {
            let Err(fault) = self.check_extent(&blob.store, &extent).await else {
                continue;
            };
            // Whether the remaining ranges are likely to have the same fault.
            let is_conclusive = match fault {
                ContentFault::Missing => !extent.is_object,
                ContentFault::Unreadable(_) => true,
                _ => false,
            };
            faults.push(LocatedFault { part: extent.part, object_key: extent.object_key, fault });
            if is_conclusive {
                break;
            }
        }
        Ok(faults)
    }

    /// Returns the ranges of a blob, with their recorded digests.
    async fn extents_of(&self, blob: &ContentRecord) -> std::result::Result<Vec<Extent>, ExtentError> {
        let size = blob.size.unsigned_abs();
        let whole = |recorded| {
            let object_key = blob.object_key.clone();
            vec![Extent { part: None, object_key, offset: 0, size, is_object: true, recorded }]
        };
        if let (BlobLayout::Whole, Some(digests)) = (blob.layout, blob.digests) {
            return Ok(whole(RecordedDigest::Whole(digests)));
        }
        let parts = match self.meta.blobs.parts(blob.id).await {
            Err(error) => match error.row_fault() {
                Some(fault) => {
                    return Err(ExtentError::Fault(ContentFault::Unreadable(fault.to_owned())));
                }
                None => return Err(ExtentError::Failed(error.into())),
            },
            Ok(parts) => parts,
        };
        let is_complete = parts.iter().map(|part| part.size).sum::<u64>() == size && !parts.is_empty();
        match blob.layout {
            _ if is_complete => Ok(parts.into_iter().map(Extent::from).collect()),
            BlobLayout::Whole => Ok(whole(RecordedDigest::Size)),
            BlobLayout::Parts => Err(ExtentError::Fault(ContentFault::Parts)),
        }
    }

    async fn check_extent(&mut self, store: &str, extent: &Extent) -> std::result::Result<(), ContentFault> {
        let unreadable =
            |error: &(dyn std::error::Error + 'static)| ContentFault::Unreadable(error_chain(error));
        let key = Key::parse(&extent.object_key).map_err(|error| unreadable(&error))?;
        let backend = self.stores.get(store).map_err(|error| unreadable(&error))?;
        let end = extent.offset + extent.size;
        match backend.size(&key).await {
            Err(error) if error.kind == ErrorKind::NotFound => return Err(ContentFault::Missing),
            Err(error) => return Err(unreadable(&error)),
            Ok(actual) if actual < end || extent.is_object && actual != end => {
                return Err(ContentFault::Size {
                    found: actual.saturating_sub(extent.offset),
                    recorded: extent.size,
                });
            }
            Ok(_) => {}
        }
        let Some(selection) = extent.recorded.selection() else {
            return Ok(());
        };
        let read = self.stores.digest(store, &key, extent.offset..end, selection).await;
        let digests = read.map_err(|error| unreadable(&error))?;
        self.report.bytes += digests.size;
        if extent.recorded.matches(&digests) { Ok(()) } else { Err(ContentFault::Digest) }
    }
}

impl From<StoredPart> for Extent {
    fn from(part: StoredPart) -> Self {
        Self {
            part: Some(part.number),
            object_key: part.key.to_string(),
            offset: part.offset,
            size: part.size,
            is_object: part.is_own_object,
            recorded: RecordedDigest::Part(part.digests),
        }
    }
}
