use std::path::PathBuf;

use super::value::{Findings, section};

section! {
    /// `local`: objects on the disk of this machine.
    LocalSection {
        /// Whether this store is used. When not set, it is used only if no other store is enabled.
        enabled: Option<bool> = None,
        /// Root folder of the objects. When not set, `<data_dir>/objects`. To migrate from the Go
        /// program, set `root` to that program's `localstore`.
        root: Option<PathBuf> = None,
        /// Whether an upload is acknowledged only after its content is synced to disk. Danger: when
        /// off, a power failure can lose acknowledged files.
        fsync: bool = true,
        /// Content of at most this size is stored in packs, which hold many objects each, in bytes.
        /// 0 stores every object as its own file. Changes affect new content only.
        pack_below: u64 as bytes = 64 << 10,
        /// Disk space that uploads must leave free, in bytes, so that the database and downloads
        /// keep working. Uploads are rejected when less is free. Also applies to the disk of an
        /// SQLite database, wherever objects are stored.
        min_free_space | keep_free: u64 as bytes = 256 << 20,
        /// How long disk space stays reserved for an upload that has not received content, in
        /// seconds. After that, the space is released until the first part arrives.
        reservation_timeout | reserve_secs: u64 as seconds = 86_400,
        /// Share of the disk that may be reserved for incomplete uploads, in per cent. When this
        /// share is in use, new uploads start without a reservation, and each part checks for free
        /// space.
        max_reserved_percent | reserve_percent: u32 = 50,
        /// Share of the disk that may be reserved for incomplete uploads of one tenant, in per
        /// cent.
        max_reserved_tenant_percent | reserve_tenant_percent: u32 = 25,
    }
    ignored []
}

/// Longest allowed reservation timeout, in seconds: ten years.
const MAX_RESERVATION_TIMEOUT: u64 = 10 * 365 * 24 * 60 * 60;

/// Largest allowed size of content in packs, in bytes. Such content is buffered.
const MAX_PACK_BELOW: u64 = 256 << 10;

impl LocalSection {
    /// Checks the allowed ranges.
    pub(super) fn check(&self, findings: &mut Findings) {
        if self.reservation_timeout > MAX_RESERVATION_TIMEOUT {
            findings.problem(
                "local.reservation_timeout",
                format_args!("must be at most {MAX_RESERVATION_TIMEOUT} seconds"),
            );
        }
        if self.pack_below > MAX_PACK_BELOW {
            findings.problem("local.pack_below", format_args!("must be at most {MAX_PACK_BELOW} bytes"));
        }
        for (name, value) in [
            ("max_reserved_percent", self.max_reserved_percent),
            ("max_reserved_tenant_percent", self.max_reserved_tenant_percent),
        ] {
            if value > 100 {
                findings.problem(&format!("local.{name}"), "must be 0 to 100");
            }
        }
    }
}
