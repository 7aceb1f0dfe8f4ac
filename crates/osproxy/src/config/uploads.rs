use super::value::{Findings, section};

section! {
    /// `uploads`: limits and verification of uploads.
    UploadsSection {
        /// Largest file, in bytes.
        max_size: u64 as bytes = 5 << 40,
        /// Largest part, in bytes.
        max_part_size: u64 as bytes = 5 << 30,
        /// Highest part number.
        max_parts: u32 = 10_000,
        /// How long an incomplete upload is kept after its expiry (`expires_at`), in seconds. New
        /// upload links can extend the expiry, but never shorten it.
        expired_retention | keep_lapsed: u64 as seconds = 3600,
        /// Whether a client must prove possession of known content before it gets a file without
        /// sending the content. Clients of API v0 cannot prove possession and must send the
        /// content.
        require_possession_proof | prove_possession: bool = false,
        /// Applies to uploads in parts whose expected digests osproxy can compute only by reading
        /// the content again. Content up to this size is verified before the upload is acknowledged
        /// as complete. Larger content is acknowledged immediately and verified by a task; on a
        /// mismatch, the file becomes corrupt. 0: a task verifies all such content.
        max_inline_verification_size | verify_up_to: u64 as bytes = 64 << 20,
        /// How long an upload that a client creates through tus stays open, in seconds. At most
        /// `links.max_lifetime`.
        tus_lifetime: u64 as seconds = 24 * 60 * 60,
    }
    ignored []
}

/// Largest allowed `max_parts`: the limit of object stores.
const MAX_PARTS: u32 = 10_000;
/// Longest allowed `expired_retention`, in seconds: ten years.
const MAX_RETENTION: u64 = 10 * 365 * 24 * 60 * 60;

impl UploadsSection {
    /// Checks the allowed ranges.
    pub(super) fn check(&self, findings: &mut Findings) {
        for (name, value) in [("max_size", self.max_size), ("max_part_size", self.max_part_size)] {
            if !(1..=u64::MAX >> 1).contains(&value) {
                findings.problem(&format!("uploads.{name}"), "must be at least 1, and below 2^63");
            }
        }
        if !(1..=MAX_PARTS).contains(&self.max_parts) {
            findings.problem("uploads.max_parts", format_args!("must be 1 to {MAX_PARTS}"));
        }
        if !(1..=MAX_RETENTION).contains(&self.tus_lifetime) {
            findings.problem("uploads.tus_lifetime", format_args!("must be 1 to {MAX_RETENTION} seconds"));
        }
        if self.expired_retention > MAX_RETENTION {
            findings.problem(
                "uploads.expired_retention",
                format_args!("must be at most {MAX_RETENTION} seconds"),
            );
        }
    }
}
