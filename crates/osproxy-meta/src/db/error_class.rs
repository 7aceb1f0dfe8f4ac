//! Classification of database errors: can the transaction be retried, and what does the client get?

use sea_orm::{
    DbErr, RuntimeErr,
    sqlx::{self, error::DatabaseError, mysql::MySqlDatabaseError, sqlite::SqliteError},
};

/// Whether and how a transaction can be retried after an error.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum RetryClass {
    /// A conflict with another transaction: retry on the same connection.
    Conflict,
    /// The connection is unusable: retry on another connection.
    Disconnected,
    /// Do not retry.
    Fatal,
}

/// Classifies an error for the retry logic.
pub(crate) fn retry_class(error: &DbErr) -> RetryClass {
    let Some(error) = driver_error(error) else {
        return RetryClass::Fatal;
    };
    let error = match error {
        sqlx::Error::Database(error) => error,
        sqlx::Error::Io(_)
        | sqlx::Error::Tls(_)
        | sqlx::Error::Protocol(_)
        | sqlx::Error::PoolClosed
        | sqlx::Error::WorkerCrashed => return RetryClass::Disconnected,
        _ => return RetryClass::Fatal,
    };
    if let Some(error) = error.try_downcast_ref::<MySqlDatabaseError>() {
        return match error.number() {
            // Lock wait timeout, deadlock, row changed since it was read.
            1205 | 1213 | 1020 => RetryClass::Conflict,
            // Server shutdown, connection killed or timed out, or a read-only server that is no
            // longer the primary.
            1053 | 1079 | 1290 | 1836 | 1927 | 2006 | 2013 | 4031 => RetryClass::Disconnected,
            _ => RetryClass::Fatal,
        };
    }
    match error.code().as_deref() {
        Some("40001" | "40P01") => RetryClass::Conflict,
        // Server shutdown, crash or startup, or a read-only server that is no longer the primary.
        Some("57P01" | "57P02" | "57P03" | "25006") => RetryClass::Disconnected,
        _ => RetryClass::Fatal,
    }
}

/// Kind of error to report to the client.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum ErrorClass {
    /// The database's disk is full.
    DiskFull,
    /// The database is unreachable or busy, or rejects the request for now. The same request may
    /// succeed later.
    Transient,
    /// An invalid statement, row or value. The same request will fail again.
    Bug,
}

/// Classifies an error for the answer to the client.
pub(crate) fn error_class(error: &DbErr) -> ErrorClass {
    match driver_error(error) {
        Some(sqlx::Error::Database(error)) => class_of_database_error(&**error),
        Some(
            sqlx::Error::Io(_)
            | sqlx::Error::Tls(_)
            | sqlx::Error::Protocol(_)
            | sqlx::Error::PoolTimedOut
            | sqlx::Error::PoolClosed
            | sqlx::Error::WorkerCrashed,
        ) => ErrorClass::Transient,
        Some(_) => ErrorClass::Bug,
        None => match error {
            DbErr::ConnectionAcquire(_) | DbErr::Conn(_) => ErrorClass::Transient,
            _ => ErrorClass::Bug,
        },
    }
}

fn class_of_database_error(error: &dyn DatabaseError) -> ErrorClass {
    let code = error.code();
    let code = code.as_deref().unwrap_or_default();
    if error.try_downcast_ref::<SqliteError>().is_some() {
        return class_of_sqlite_code(code.parse().unwrap_or(0));
    }
    if let Some(error) = error.try_downcast_ref::<MySqlDatabaseError>() {
        return match error.number() {
            // No space left on the device or in the table.
            1021 | 1114 => ErrorClass::DiskFull,
            // Too many connections of one user. The SQLSTATE would classify this as a syntax error.
            1203 | 1226 => ErrorClass::Transient,
            _ => class_of_sqlstate(code),
        };
    }
    // PostgreSQL: disk_full.
    if code == "53100" { ErrorClass::DiskFull } else { class_of_sqlstate(code) }
}

/// Classifies an SQLSTATE by its first two characters, which have the same meaning on every server.
fn class_of_sqlstate(code: &str) -> ErrorClass {
    match code.get(..2) {
        // Cardinality, data, constraint, syntax or name errors; internal errors of PostgreSQL.
        Some("21" | "22" | "23" | "42" | "XX") => ErrorClass::Bug,
        _ => ErrorClass::Transient,
    }
}

/// `code` is an extended result code.
fn class_of_sqlite_code(code: u32) -> ErrorClass {
    match code {
        // SQLITE_IOERR_SHMSIZE: no space for the index of the write-ahead log.
        4874 => ErrorClass::DiskFull,
        // SQLITE_CONSTRAINT_TRIGGER: a trigger that the operator installed rejects the change.
        1811 => ErrorClass::Transient,
        _ => match code & 0xff {
            // SQLITE_FULL
            13 => ErrorClass::DiskFull,
            // ERROR (syntax, names), INTERNAL, CORRUPT, SCHEMA, TOOBIG, CONSTRAINT, MISMATCH,
            // MISUSE, RANGE, NOTADB
            1 | 2 | 11 | 17..=21 | 25 | 26 => ErrorClass::Bug,
            _ => ErrorClass::Transient,
        },
    }
}

fn driver_error(error: &DbErr) -> Option<&sqlx::Error> {
    match error {
        DbErr::Conn(RuntimeErr::SqlxError(error))
        | DbErr::Exec(RuntimeErr::SqlxError(error))
        | DbErr::Query(RuntimeErr::SqlxError(error)) => Some(error),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::MetaError;
    use sea_orm::ConnectionTrait;

    #[tokio::test]
    async fn statement_and_row_errors_are_bugs() {
        let folder = tempfile::tempdir().unwrap();
        let database = crate::db::connect::sqlite_writer(&folder.path().join("test.db")).await.unwrap();
        database.execute_unprepared("CREATE TABLE t (n INTEGER PRIMARY KEY, m TEXT NOT NULL)").await.unwrap();
        for sql in [
            "SELEC 1",
            "SELECT nothing FROM t",
            "INSERT INTO u VALUES (1)",
            "INSERT INTO t VALUES (1, NULL)",
            "INSERT INTO t VALUES ('text', 'm')",
        ] {
            let error = database.execute_unprepared(sql).await.unwrap_err();
            assert_eq!(error_class(&error), ErrorClass::Bug, "{sql}: {error}");
            assert!(
                !matches!(MetaError::from(error), MetaError::Retryable(_) | MetaError::DiskFull(_)),
                "{sql}"
            );
        }
        let page_limit = "PRAGMA max_page_count = 2";
        database.execute_unprepared(page_limit).await.unwrap();
        let error = database.execute_unprepared("INSERT INTO t VALUES (1, zeroblob(100000))").await;
        assert!(matches!(MetaError::from(error.unwrap_err()), MetaError::DiskFull(_)));
        database.close().await.unwrap();
        let read_only = crate::db::connect::sqlite_reader(&folder.path().join("test.db")).await.unwrap();
        let error = read_only.execute_unprepared("INSERT INTO t VALUES (1, 'm')").await.unwrap_err();
        assert!(matches!(MetaError::from(error), MetaError::Retryable(_)));
    }

    #[test]
    fn server_errors_are_classified_as_bug_or_transient() {
        for passing in ["08006", "40001", "53300", "57014", "70100", "HY000", "P0001", "45000", "25006", ""] {
            assert_eq!(class_of_sqlstate(passing), ErrorClass::Transient, "{passing}");
        }
        for bug in ["22001", "23505", "42601", "42S02", "XX000"] {
            assert_eq!(class_of_sqlstate(bug), ErrorClass::Bug, "{bug}");
        }
        assert_eq!(error_class(&DbErr::Custom("a row is damaged".to_owned())), ErrorClass::Bug);
        assert_eq!(
            error_class(&DbErr::Conn(RuntimeErr::Internal("no answer".to_owned()))),
            ErrorClass::Transient
        );
    }
}
