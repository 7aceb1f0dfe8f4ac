use super::value::{Findings, section};

section! {
    /// `uploads`: what an upload may be.
    UploadsSection {
        /// Largest file, in bytes.
        max_size: u64 = 5 << 40,
        /// Largest part, in bytes.
        max_part_size: u64 = 5 << 30,
        /// Highest number of a part.
        max_parts: u32 = 10_000,
        /// How long an upload that was not completed is kept after its link has lapsed, in seconds.
        keep_lapsed: u64 = 3600,
        /// Whether a client that wants a file of content that is stored, without sending it, must show to have it. Clients of
        /// API v0 cannot, and have to send it.
        prove_possession: bool = false,
        /// Up to which size of the content, in bytes, digests that a client claims when it completes an upload are verified
        /// before it is answered. Larger content is answered at once, and becomes corrupt when a task finds it to be other. 0: that is so of all content.
        verify_up_to: u64 = 64 << 20,
    }
    ignored []
}

/// As many as object stores know.
const MAX_PARTS: u32 = 10_000;
/// Ten years, in seconds.
const MAX_KEEP: u64 = 10 * 365 * 24 * 60 * 60;

impl UploadsSection {
    /// Checks what no single setting can know.
    pub(super) fn check(&self, findings: &mut Findings) {
        for (name, value) in [("max_size", self.max_size), ("max_part_size", self.max_part_size)] {
            if !(1..=u64::MAX >> 1).contains(&value) {
                findings.problem(&format!("uploads.{name}"), "must be at least 1, and below 2^63");
            }
        }
        if !(1..=MAX_PARTS).contains(&self.max_parts) {
            findings.problem("uploads.max_parts", format_args!("must be 1 to {MAX_PARTS}"));
        }
        if self.keep_lapsed > MAX_KEEP {
            findings.problem("uploads.keep_lapsed", format_args!("must be at most {MAX_KEEP} seconds"));
        }
    }
}
