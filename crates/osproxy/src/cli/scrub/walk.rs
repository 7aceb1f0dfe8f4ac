use osproxy_storage::{Digests, ErrorKind, Key, Wanted};

use super::report::{Fault, Finding, NAMED, Report};
use crate::{
    Result,
    app::Stores,
    error,
    meta::{DbErr, Fingerprint, Meta, RecordedContent, RecordedLayout, StoredPart},
};

/// Number of blobs that are loaded at a time.
const PAGE: u64 = 500;

/// Number of unreadable blobs in a row after which the store counts as unavailable.
const PATIENCE: u32 = 3;

/// How often content is checked again when it moves while it is read.
const ROUNDS: usize = 4;

/// Checks all content in the order of blob ids, while services may be using it.
pub(super) struct Walk {
    pub(super) meta: Meta,
    pub(super) stores: Stores,
    pub(super) report: Report,
}

/// A range of an object and its recorded digests.
struct Piece {
    part: Option<u32>,
    object_key: String,
    offset: u64,
    size: u64,
    /// Whether the range is the whole object.
    is_object: bool,
    recorded: Known,
}

enum Known {
    Whole(Digests),
    Part(Fingerprint),
    /// Only the size is recorded.
    Size,
}

impl Known {
    fn wanted(&self) -> Option<Wanted> {
        match self {
            Self::Whole(digests) => Some(digests.wanted()),
            Self::Part(known) => Some(known.wanted()),
            Self::Size => None,
        }
    }

    fn is_of(&self, found: &Digests) -> bool {
        match self {
            Self::Whole(digests) => digests == found,
            Self::Part(known) => known.is_of(found),
            Self::Size => true,
        }
    }
}

impl Walk {
    /// Checks every blob after `report.after`. Fails if a store has become unavailable; the report
    /// then points to the last blob before those that could not be read.
    pub(super) async fn go(&mut self) -> anyhow::Result<()> {
        let (mut at, mut in_a_row) = (self.report.after, 0);
        loop {
            let page = self.meta.recorded_contents(at, PAGE).await?;
            if page.is_empty() {
                self.report.after = at;
                return Ok(());
            }
            for blob in page {
                let store = blob.store.clone();
                at = blob.id;
                let Some(why) = self.blob(blob).await? else {
                    (self.report.after, in_a_row) = (at, 0);
                    continue;
                };
                in_a_row += 1;
                if in_a_row == PATIENCE {
                    anyhow::bail!("cannot read from the store {store}: {why}");
                }
            }
        }
    }

    /// Checks a blob. Returns why its store cannot read it, if so.
    async fn blob(&mut self, mut blob: RecordedContent) -> Result<Option<String>> {
        let mut unreadable = None;
        for round in 1.. {
            if !self.stores.has(&blob.store) {
                self.report.skip(&blob.store);
                return Ok(None);
            }
            let findings = self.examine(&blob).await?;
            if !findings.is_empty() {
                // It may have been merged, moved or removed meanwhile.
                match self.meta.recorded_content(blob.id).await? {
                    None => return Ok(None),
                    Some(now) if now != blob && round < ROUNDS => {
                        blob = now;
                        continue;
                    }
                    Some(_) => {
                        let uids = self.meta.files_of(blob.id, NAMED as u64 + 1).await?;
                        self.report.mismatch(&blob, &uids, &findings);
                    }
                }
            }
            unreadable = findings.into_iter().find_map(|finding| match finding.fault {
                Fault::Unreadable(why) => Some(why),
                _ => None,
            });
            self.report.blobs += 1;
            // Content in parts is verified by the digests of its parts.
            let is_known = blob.digests.is_some() || blob.layout == RecordedLayout::Parts;
            self.report.unverified += u64::from(!is_known);
            break;
        }
        Ok(unreadable)
    }

    /// Reads a blob and returns all its faults.
    async fn examine(&mut self, blob: &RecordedContent) -> Result<Vec<Finding>> {
        let mut findings = Vec::new();
        let pieces = match self.pieces(blob).await? {
            Ok(pieces) => pieces,
            Err(fault) => {
                return Ok(vec![Finding { part: None, object_key: blob.object_key.clone(), fault }]);
            }
        };
        for piece in pieces {
            let Err(fault) = self.piece(&blob.store, &piece).await else {
                continue;
            };
            // Further pieces would have the same fault.
            let is_all = match fault {
                Fault::Missing => !piece.is_object,
                Fault::Unreadable(_) => true,
                _ => false,
            };
            findings.push(Finding { part: piece.part, object_key: piece.object_key, fault });
            if is_all {
                break;
            }
        }
        Ok(findings)
    }

    /// Returns the ranges to read of a blob.
    async fn pieces(&self, blob: &RecordedContent) -> Result<std::result::Result<Vec<Piece>, Fault>> {
        let size = blob.size.unsigned_abs();
        let whole = |known| {
            let object_key = blob.object_key.clone();
            vec![Piece { part: None, object_key, offset: 0, size, is_object: true, recorded: known }]
        };
        if let (RecordedLayout::Whole, Some(digests)) = (blob.layout, blob.digests) {
            return Ok(Ok(whole(Known::Whole(digests))));
        }
        let parts = match self.meta.parts(blob.id).await {
            Err(DbErr::Custom(why)) => return Ok(Err(Fault::Unreadable(why))),
            parts => parts?,
        };
        let are_all = parts.iter().map(|part| part.size).sum::<u64>() == size && !parts.is_empty();
        Ok(match blob.layout {
            _ if are_all => Ok(parts.into_iter().map(Piece::from).collect()),
            RecordedLayout::Whole => Ok(whole(Known::Size)),
            RecordedLayout::Parts => Err(Fault::Parts),
        })
    }

    async fn piece(&mut self, store: &str, piece: &Piece) -> std::result::Result<(), Fault> {
        let unreadable = |error: &(dyn std::error::Error + 'static)| Fault::Unreadable(error::chain(error));
        let key = Key::parse(&piece.object_key).map_err(|error| unreadable(&error))?;
        let backend = self.stores.get(store).map_err(|error| unreadable(&error))?;
        let end = piece.offset + piece.size;
        match backend.size(&key).await {
            Err(error) if error.kind == ErrorKind::NotFound => return Err(Fault::Missing),
            Err(error) => return Err(unreadable(&error)),
            Ok(found) if found < end || piece.is_object && found != end => {
                return Err(Fault::Size { found: found.saturating_sub(piece.offset), recorded: piece.size });
            }
            Ok(_) => {}
        }
        let Some(wanted) = piece.recorded.wanted() else {
            return Ok(());
        };
        let read = self.stores.digest(store, &key, piece.offset..end, wanted).await;
        let digests = read.map_err(|error| unreadable(&error))?;
        self.report.bytes += digests.size;
        if piece.recorded.is_of(&digests) { Ok(()) } else { Err(Fault::Digest) }
    }
}

impl From<StoredPart> for Piece {
    fn from(part: StoredPart) -> Self {
        Self {
            part: Some(part.number),
            object_key: part.key.to_string(),
            offset: part.offset,
            size: part.size,
            is_object: part.is_own_object,
            recorded: Known::Part(part.digests),
        }
    }
}
