use std::path::PathBuf;

use super::value::{Findings, section};

section! {
    /// `local`: objects on the disk of this machine.
    LocalSection {
        /// Whether objects are stored here. When not set, only if no other store is enabled.
        enabled: Option<bool> = None,
        /// Root folder of the objects. When not set, `<data_dir>/objects`. Migrating from the Go
        /// program: set it to that program's `localstore`.
        root: Option<PathBuf> = None,
        /// Whether an upload is acknowledged only after its content is synced to disk. Danger:
        /// without it, a power failure can lose acknowledged files.
        fsync: bool = true,
        /// Free disk space that uploads may not use, in bytes, so that the database and downloads
        /// keep working. Uploads are rejected when less is free. Also applies to the disk of an
        /// SQLite database, wherever objects are stored.
        keep_free: u64 = 256 << 20,
        /// How long space stays reserved for an upload that has not received content, in seconds.
        /// After that, space is reserved with its first part.
        reserve_secs: u64 = 86_400,
        /// Share of the disk that may be reserved for incomplete uploads, in per cent. Uploads
        /// beyond it start without a reservation, and each part checks whether there is space.
        reserve_percent: u32 = 50,
        /// Share of the disk that may be reserved for incomplete uploads of one tenant, in per
        /// cent.
        reserve_tenant_percent: u32 = 25,
    }
    ignored []
}

/// Ten years, in seconds.
const MAX_RESERVE: u64 = 10 * 365 * 24 * 60 * 60;

impl LocalSection {
    /// Checks the allowed ranges.
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
