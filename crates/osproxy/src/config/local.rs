use std::path::PathBuf;

use super::value::section;

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
        /// the database, which may lie there too, and those who read go on.
        keep_free: u64 = 256 << 20,
    }
    ignored []
}
