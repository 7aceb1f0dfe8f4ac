//! Prints the faults of content, and the summary.

use std::{collections::BTreeMap, fmt};

use osproxy_meta::ContentRecord;
use osproxy_types::uid::Uid;
use serde::Serialize;

use super::super::print_line;

/// Maximum number of files that are named for a damaged blob.
pub(super) const MAX_NAMED_FILES: usize = 20;

/// How content differs from its record.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum ContentFault {
    /// The object does not exist.
    Missing,
    /// The object has a different size than recorded.
    Size { found: u64, recorded: u64 },
    /// The content has different digests than recorded.
    Digest,
    /// The sizes of the recorded parts do not add up to the size of the content, or no parts are
    /// recorded.
    Parts,
    /// The store cannot read the content, or the recorded key or part rows are invalid.
    Unreadable(String),
}

impl ContentFault {
    fn name(&self) -> &'static str {
        match self {
            Self::Missing => "missing",
            Self::Size { found, recorded } if found < recorded => "shorter",
            Self::Size { .. } => "longer",
            Self::Digest => "different",
            Self::Parts => "parts",
            Self::Unreadable(_) => "unreadable",
        }
    }
}

impl fmt::Display for ContentFault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Missing => f.write_str("has no object"),
            Self::Size { found, recorded } => write!(f, "has {found} bytes instead of {recorded}"),
            Self::Digest => f.write_str("has different content than recorded"),
            Self::Parts => f.write_str("is missing parts"),
            Self::Unreadable(why) => write!(f, "cannot be read ({why})"),
        }
    }
}

/// A fault of a whole blob or of one of its parts.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct LocatedFault {
    pub(super) part: Option<u32>,
    pub(super) object_key: String,
    pub(super) fault: ContentFault,
}

/// A line of JSON output about a fault of a blob.
#[derive(Serialize)]
struct FaultLine<'a> {
    blob: String,
    uids: Vec<String>,
    /// Whether the blob has more files than those in `uids`.
    more_uids: bool,
    store: &'a str,
    key: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    part: Option<u32>,
    problem: &'static str,
    detail: String,
}

/// The last line of JSON output, which summarises the run.
#[derive(Serialize)]
struct Summary<'a> {
    complete: bool,
    blobs: u64,
    bytes: u64,
    mismatched: u64,
    unverified: u64,
    skipped: u64,
    skipped_stores: Vec<&'a str>,
    /// The blob after which another run continues.
    after: String,
}

/// Prints faults and counts them for the summary.
pub(super) struct ScrubReport {
    json: bool,
    /// The blob after which another run continues.
    pub(super) after: i64,
    /// Number of checked blobs, including those that could not be read.
    pub(super) blobs: u64,
    /// Number of bytes that were read.
    pub(super) bytes: u64,
    /// Number of checked whole blobs for which osproxy has not computed digests yet.
    pub(super) unverified: u64,
    mismatched: u64,
    /// Number of skipped blobs by store. This node cannot access these stores.
    skipped: BTreeMap<String, u64>,
}

impl ScrubReport {
    pub(super) fn new(json: bool, after: i64) -> Self {
        Self { json, after, blobs: 0, bytes: 0, unverified: 0, mismatched: 0, skipped: BTreeMap::new() }
    }

    /// Whether all blobs that were checked so far match their records.
    pub(super) fn is_clean(&self) -> bool {
        self.mismatched == 0
    }

    pub(super) fn count_skipped(&mut self, store: &str) {
        *self.skipped.entry(store.to_owned()).or_default() += 1;
    }

    /// Reports all faults of a blob. `uids` lists files of the blob. Only [`MAX_NAMED_FILES`] of
    /// them are named; a further uid shows that there are more.
    pub(super) fn mismatch(&mut self, blob: &ContentRecord, uids: &[Uid], located_faults: &[LocatedFault]) {
        self.mismatched += 1;
        let named_uids: Vec<_> = uids.iter().take(MAX_NAMED_FILES).map(ToString::to_string).collect();
        let more = uids.len() > MAX_NAMED_FILES;
        for located in located_faults {
            let LocatedFault { part, object_key, fault } = located;
            if self.json {
                let line = FaultLine {
                    blob: blob.id.to_string(),
                    uids: named_uids.clone(),
                    more_uids: more,
                    store: &blob.store,
                    key: object_key,
                    part: *part,
                    problem: fault.name(),
                    detail: fault.to_string(),
                };
                print_line(&serde_json::to_string(&line).unwrap_or_default());
                continue;
            }
            let part_text = part.map_or_else(String::new, |number| format!("part {number} of "));
            let files = if named_uids.is_empty() { "none".to_owned() } else { named_uids.join(", ") };
            let more = if more { " and more" } else { "" };
            let (id, store) = (blob.id, &blob.store);
            print_line(&format!(
                "{part_text}blob {id} ({store}: {object_key}; files: {files}{more}) {fault}"
            ));
        }
    }

    /// Prints the summary. A run that is not `complete` can be continued.
    pub(super) fn summarize(&self, complete: bool) {
        let skipped: u64 = self.skipped.values().sum();
        let stores: Vec<_> = self.skipped.keys().map(String::as_str).collect();
        let Self { blobs, bytes, unverified, mismatched, after, .. } = *self;
        if self.json {
            let (skipped_stores, after) = (stores, after.to_string());
            let summary =
                Summary { complete, blobs, bytes, mismatched, unverified, skipped, skipped_stores, after };
            return print_line(&serde_json::to_string(&summary).unwrap_or_default());
        }
        let store_list = if stores.is_empty() { String::new() } else { format!(" ({})", stores.join(", ")) };
        print_line(&format!(
            "{blobs} blobs, {bytes} bytes read: {mismatched} do not match, {unverified} not verified yet; \
                         {skipped} skipped in stores that this node cannot access{store_list}"
        ));
        if !complete {
            print_line(&format!("interrupted; continue with --after {after}"));
        }
    }
}
