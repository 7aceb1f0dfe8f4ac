use osproxy_storage::{Digests, ErrorKind, Key, Wanted};

use super::report::{Fault, Finding, NAMED, Report};
use crate::{
    Result,
    app::Stores,
    error,
    meta::{DbErr, Fingerprint, Meta, RecordedContent, RecordedLayout, StoredPart},
};

/// How many blobs are asked for in one go.
const PAGE: u64 = 500;

/// After how many blobs in a row that a store does not give it is taken to be away.
const PATIENCE: u32 = 3;

/// How often content that moves while it is read is looked at again.
const ROUNDS: usize = 4;

/// A walk through all content, in the order of the blobs' numbers, beside whoever else uses it.
pub(super) struct Walk {
    pub(super) meta: Meta,
    pub(super) stores: Stores,
    pub(super) report: Report,
}

/// A stretch of an object, and what is known of its bytes.
struct Piece {
    part: Option<u32>,
    object_key: String,
    at: u64,
    size: u64,
    /// Whether the object is this and nothing else.
    is_object: bool,
    known: Known,
}

enum Known {
    Whole(Digests),
    Part(Fingerprint),
    /// How many bytes there are.
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
    /// Looks at every blob behind the one that the report has come to. Fails when a store gives nothing any more; then the
    /// report stands before what could not be read.
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
                    anyhow::bail!("the store {store} gives nothing: {why}");
                }
            }
        }
    }

    /// Looks at a blob, and says why its store does not give it, if so.
    async fn blob(&mut self, mut blob: RecordedContent) -> Result<Option<String>> {
        let mut unreadable = None;
        for round in 1.. {
            if !self.stores.has(&blob.store) {
                self.report.skip(&blob.store);
                return Ok(None);
            }
            let findings = self.examine(&blob).await?;
            if !findings.is_empty() {
                // It may have been merged, moved or removed in the middle of this.
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
            // Content in parts is known by its parts.
            let is_known = blob.digests.is_some() || blob.layout == RecordedLayout::Parts;
            self.report.unverified += u64::from(!is_known);
            break;
        }
        Ok(unreadable)
    }

    /// Reads a blob, and gives all that is wrong with it.
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
            // More of the same would follow.
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

    /// What has to be read of a blob.
    async fn pieces(&self, blob: &RecordedContent) -> Result<std::result::Result<Vec<Piece>, Fault>> {
        let size = blob.size.unsigned_abs();
        let whole = |known| {
            let object_key = blob.object_key.clone();
            vec![Piece { part: None, object_key, at: 0, size, is_object: true, known }]
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
        let end = piece.at + piece.size;
        match backend.size(&key).await {
            Err(error) if error.kind == ErrorKind::NotFound => return Err(Fault::Missing),
            Err(error) => return Err(unreadable(&error)),
            Ok(found) if found < end || piece.is_object && found != end => {
                return Err(Fault::Size { found: found.saturating_sub(piece.at), recorded: piece.size });
            }
            Ok(_) => {}
        }
        let Some(wanted) = piece.known.wanted() else {
            return Ok(());
        };
        let read = self.stores.digest(store, &key, piece.at..end, wanted).await;
        let digests = read.map_err(|error| unreadable(&error))?;
        self.report.bytes += digests.size;
        if piece.known.is_of(&digests) { Ok(()) } else { Err(Fault::Digest) }
    }
}

impl From<StoredPart> for Piece {
    fn from(part: StoredPart) -> Self {
        Self {
            part: Some(part.number),
            object_key: part.key.to_string(),
            at: part.offset,
            size: part.size,
            is_object: part.is_object,
            known: Known::Part(part.known),
        }
    }
}
