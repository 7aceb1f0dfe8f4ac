//! Events: what happened to the files of a tenant. An event is inserted in the transaction of the
//! change, so it exists if and only if the change is committed.
//!
//! Readers follow the events by their position. On a database server, transactions become visible
//! in another order than the one in which they insert. So a position is assigned only after the
//! commit, by [`EventDb::assign_positions`]: no event ever appears before a position that readers
//! have passed. SQLite has one writer, and the id of a row is its position.

pub(crate) mod positions;
pub(crate) mod purge;
pub(crate) mod read;
pub(crate) mod record;
pub(crate) mod signal;
pub(crate) mod source;

use std::sync::Arc;

use crate::db::database::Database;

/// Events.
#[derive(Clone)]
pub struct EventDb {
    pub(crate) db: Arc<Database>,
}

/// A kind of event.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum EventKind {
    /// An upload was created, or a file with content that was stored already.
    FileCreated,
    /// The content of a file is complete and can be read.
    FileCompleted,
    /// The steps that process a file have ended.
    FileProcessed,
    /// A processing step has refused a file.
    FileRejected,
    /// The content of a file does not have the expected digests or type, and was removed.
    FileCorrupt,
    /// The name of a file changed.
    FileRenamed,
    /// A file was deleted, or an upload was aborted.
    FileDeleted,
    /// A file was deleted by a lifecycle rule of its bucket.
    FileExpired,
    /// An upload was not completed in time.
    UploadExpired,
    /// A background task about the content of a file has used up its attempts.
    TaskDead,
    /// A request was refused because of the quota of the tenant.
    QuotaExceeded,
}

impl EventKind {
    /// All kinds.
    pub const ALL: [Self; 11] = [
        Self::FileCreated,
        Self::FileCompleted,
        Self::FileProcessed,
        Self::FileRejected,
        Self::FileCorrupt,
        Self::FileRenamed,
        Self::FileDeleted,
        Self::FileExpired,
        Self::UploadExpired,
        Self::TaskDead,
        Self::QuotaExceeded,
    ];

    /// The name in the API and in the database. Must never change once released.
    pub const fn name(self) -> &'static str {
        match self {
            Self::FileCreated => "file.created",
            Self::FileCompleted => "file.completed",
            Self::FileProcessed => "file.processed",
            Self::FileRejected => "file.rejected",
            Self::FileCorrupt => "file.corrupt",
            Self::FileRenamed => "file.renamed",
            Self::FileDeleted => "file.deleted",
            Self::FileExpired => "file.expired",
            Self::UploadExpired => "upload.expired",
            Self::TaskDead => "task.dead",
            Self::QuotaExceeded => "quota.exceeded",
        }
    }

    /// Returns the kind with this name.
    pub fn of_name(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|kind| kind.name() == name)
    }
}
