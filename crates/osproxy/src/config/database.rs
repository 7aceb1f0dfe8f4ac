use std::path::PathBuf;

use super::value::{choice, section};

section! {
    /// `database`: where metadata lies.
    DatabaseSection {
        /// Which database.
        driver: Driver = Driver::Sqlite,
        /// The SQLite file; `<data_dir>/osproxy.db` when not set.
        path: Option<PathBuf> = None,
    }
    ignored []
}

choice! {
    /// Which database holds the metadata.
    Driver {
        /// Embedded, for a single node.
        Sqlite = "sqlite",
    }
}
