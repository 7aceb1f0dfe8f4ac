use std::path::PathBuf;

use super::value::{Findings, section};

section! {
    /// `local`: objects on this machine's disk.
    LocalSection {
        /// Whether objects are kept here; when not set, if no other store is enabled.
        enabled: Option<bool> = None,
        /// The folder; `<data_dir>/objects` when not set. A deployment that comes from the Go program
        /// names its `localstore`.
        root: Option<PathBuf> = None,
        /// Whether an upload is answered only when its bytes are on the disk. Danger: without it a power failure
        /// can lose files that were acknowledged.
        fsync: bool = true,
        /// How much of the disk is not for objects, in bytes: uploads are refused when there is no more than that, so that
        /// the database, which may lie there too, and those who read go on. Holds for the disk of an SQLite database as
        /// well, wherever objects lie.
        keep_free: u64 = 256 << 20,
        /// How long room is reserved for an upload of which nothing has come, in seconds. After that it is reserved with its
        /// first part.
        reserve_secs: u64 = 86_400,
        /// How much of the disk may be reserved for uploads that are not complete, in per cent. Uploads beyond that begin all
        /// the same, and find out with each part whether there is room for it.
        reserve_percent: u32 = 50,
        /// The same, of the uploads of one tenant.
        reserve_tenant_percent: u32 = 25,
    }
    ignored []
}

/// Ten years, in seconds.
const MAX_RESERVE: u64 = 10 * 365 * 24 * 60 * 60;

impl LocalSection {
    /// Checks what no single setting can know.
    pub(super) fn check(&self, findings: &mut Findings) {
        if self.reserve_secs > MAX_RESERVE {
            findings.problem("local.reserve_secs", format_args!("must be at most {MAX_RESERVE} seconds"));
        }
        for (name, value) in [
            ("reserve_percent", self.reserve_percent),
            ("reserve_tenant_percent", self.reserve_tenant_percent),
        ] {
            if value > 100 {
                findings.problem(&format!("local.{name}"), "must be 0 to 100");
            }
        }
    }
}
