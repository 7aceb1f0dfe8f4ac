//! Errors of metadata operations, grouped by how the caller should react.

use sea_orm::{DbErr, SqlErr};

use crate::db::error_class::{ErrorClass, error_class};

/// Why a metadata operation failed.
#[derive(Debug, thiserror::Error)]
pub enum MetaError {
    /// A unique constraint was violated: another transaction wrote the same key first. Read the
    /// rows again before retrying.
    #[error("another transaction wrote the same key")]
    Conflict(#[source] DriverError),
    /// The database is unreachable, busy or rejects the operation for now, or all retries ended in
    /// a conflict. The same call may succeed later. If the connection broke during a commit, the
    /// outcome is unknown.
    #[error("the database is unavailable")]
    Retryable(#[source] DriverError),
    /// The database's disk is full. The same call fails until an operator frees space.
    #[error("the disk of the database is full")]
    DiskFull(#[source] DriverError),
    /// An invalid statement, row or value, or a schema of another version: the same call fails
    /// again.
    #[error("a database operation failed")]
    Bug(#[source] DriverError),
}

/// The error of the database driver, for logs.
#[derive(Debug, thiserror::Error)]
#[error(transparent)]
pub struct DriverError(pub(crate) DbErr);

impl From<DbErr> for MetaError {
    fn from(error: DbErr) -> Self {
        if matches!(error.sql_err(), Some(SqlErr::UniqueConstraintViolation(_))) {
            return Self::Conflict(DriverError(error));
        }
        match error_class(&error) {
            ErrorClass::DiskFull => Self::DiskFull(DriverError(error)),
            ErrorClass::Transient => Self::Retryable(DriverError(error)),
            ErrorClass::Bug => Self::Bug(DriverError(error)),
        }
    }
}

impl MetaError {
    /// Message of an error that this crate itself reports, mostly about an inconsistent row; `None`
    /// for errors of the database driver.
    pub fn row_fault(&self) -> Option<&str> {
        match self.driver() {
            DbErr::Custom(fault) => Some(fault),
            _ => None,
        }
    }

    /// The error of the database driver.
    pub(super) const fn driver(&self) -> &DbErr {
        let (Self::Conflict(error) | Self::Retryable(error) | Self::DiskFull(error) | Self::Bug(error)) =
            self;
        &error.0
    }
}
