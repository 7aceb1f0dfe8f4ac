//! Read-only access to the database of the Go program, for imports.

use std::{ops::RangeInclusive, time::Duration};

use sea_orm::{ConnectionTrait, DatabaseConnection, DbBackend, DbErr, QueryResult, Statement};

use crate::MetaError;
use crate::{
    DatabaseServer, boxed_future,
    db::{connect, migrate::single_connection},
};

/// Statement timeout: long, because the Go program's part tables have no index for these queries.
const QUERY_TIMEOUT: Duration = Duration::from_hours(1);

/// Possible table names: as configured by the Go program, and gorm's default plurals.
const TABLE_SETS: [GoTables; 2] = [
    GoTables { files: "meta_data_info", parts: "multi_part_info", tasks: "task_info" },
    GoTables { files: "meta_data_infos", parts: "multi_part_infos", tasks: "task_infos" },
];

/// The names of one set of tables.
#[derive(Clone, Copy, Debug)]
pub struct GoTables {
    /// The table of files.
    pub files: &'static str,
    parts: &'static str,
    tasks: &'static str,
}

/// A file's row in the Go program's database.
#[derive(Clone, Debug, Default)]
pub struct GoFile {
    /// Id of the row. If a uid has several rows, the Go program reads the oldest.
    pub id: i64,
    /// Uid, as clients know it.
    pub uid: i64,
    /// Folder or bucket of the object.
    pub bucket: String,
    /// File name, percent-encoded.
    pub name: String,
    /// Name of the object.
    pub storage_name: String,
    /// MD5 in hexadecimal, as claimed by the client. The Go program has verified the MD5 of content
    /// that was merged or uploaded in one request.
    pub md5: String,
    /// Size in bytes; claimed by the client for content uploaded in parts.
    pub size: i64,
    /// Whether the content consists of part objects.
    pub in_parts: bool,
    /// Number of parts.
    pub part_count: i64,
    /// Whether the content is complete.
    pub is_complete: bool,
    /// MIME type.
    pub content_type: String,
}

/// A part's row in the Go program's database.
#[derive(Clone, Debug, Default)]
pub struct GoPart {
    /// Id of the row. If a part has several rows, the highest id is the latest upload.
    pub id: i64,
    /// Uid of the file.
    pub uid: i64,
    /// Part number.
    pub number: i64,
    /// Folder or bucket of the object.
    pub bucket: String,
    /// Name of the object.
    pub storage_name: String,
    /// File name of the part in the folder of the upload.
    pub file_name: String,
    /// Size in bytes.
    pub size: i64,
    /// MD5 in hexadecimal; verified on upload.
    pub md5: String,
}

/// The number of tasks of one kind in one state.
#[derive(Clone, Debug)]
pub struct GoTaskCount {
    /// Task type: `partMerge` or `partDelete`.
    pub kind: String,
    /// 0 queued, 1 running, 2 done, 99 failed.
    pub state: i64,
    /// Number of tasks.
    pub count: i64,
}

/// A connection to the Go program's database.
pub struct GoDatabase {
    connection: DatabaseConnection,
}

impl GoDatabase {
    /// Connects to the server. The error is a human-readable message.
    #[boxed_future]
    pub async fn open(server: &DatabaseServer) -> Result<Self, String> {
        let to_message = |error| connect::open_error_message(server, &error);
        // Fail fast if the server is unreachable, before switching to the long timeout.
        let probe = single_connection(server).await.map_err(to_message)?;
        probe.execute_unprepared("SELECT 1").await.map_err(to_message)?;
        probe.close().await.map_err(to_message)?;
        let server_with_timeout = DatabaseServer { timeout: QUERY_TIMEOUT, ..server.clone() };
        Ok(Self { connection: single_connection(&server_with_timeout).await.map_err(to_message)? })
    }

    /// Returns the known sets of tables whose tables of files and parts exist.
    #[boxed_future]
    pub async fn tables(&self) -> Result<Vec<GoTables>, MetaError> {
        let schema = match self.connection.get_database_backend() {
            DbBackend::Postgres => "current_schema()",
            _ => "DATABASE()",
        };
        let sql = format!(
            "SELECT CONCAT(table_name, '') AS name FROM information_schema.tables WHERE table_schema = {schema}"
        );
        let rows = self.query(&sql).await?;
        let existing: Vec<String> =
            rows.iter().map(|row| row.try_get("", "name")).collect::<Result<_, _>>()?;
        let exists = |name: &str| existing.iter().any(|existing| existing == name);
        Ok(TABLE_SETS.into_iter().filter(|tables| exists(tables.files) && exists(tables.parts)).collect())
    }

    /// Counts the files.
    #[boxed_future]
    pub async fn count_files(&self, tables: GoTables) -> Result<i64, MetaError> {
        let rows = self.query(&format!("SELECT COUNT(*) AS number FROM {}", tables.files)).await?;
        rows.first().map_or(Ok(0), |row| Ok(row.try_get("", "number")?))
    }

    /// Returns up to `limit` files with a row id greater than `after`, ordered by row id.
    #[boxed_future]
    pub async fn files(&self, tables: GoTables, after: i64, limit: u64) -> Result<Vec<GoFile>, MetaError> {
        let sql = format!(
            "SELECT {id}, {uid}, bucket, name, storage_name, md5, {size}, {in_parts}, {part_count}, {status}, content_type \
             FROM {table} WHERE id > {after} ORDER BY id LIMIT {limit}",
            id = self.bigint_column("id", "id"),
            uid = self.bigint_column("uid", "uid"),
            size = self.bigint_column("storage_size", "size"),
            in_parts = self.bigint_column("CASE WHEN multi_part THEN 1 ELSE 0 END", "in_parts"),
            part_count = self.bigint_column("part_num", "part_count"),
            status = self.bigint_column("status", "status"),
            table = tables.files,
        );
        self.query(&sql).await?.iter().map(|row| Ok(file_from_row(row)?)).collect()
    }

    /// Returns the complete parts of the files with these row ids, ordered by uid, part number and
    /// row id.
    #[boxed_future]
    pub async fn parts(
        &self,
        tables: GoTables,
        file_ids: RangeInclusive<i64>,
    ) -> Result<Vec<GoPart>, MetaError> {
        let sql = format!(
            "SELECT {id}, {uid}, {number}, bucket, storage_name, part_file_name, {size}, part_md5 FROM {table} \
             WHERE status = 1 AND storage_uid IN (SELECT uid FROM {files} WHERE id BETWEEN {first} AND {last}) \
             ORDER BY storage_uid, chunk_num, id",
            id = self.bigint_column("id", "id"),
            uid = self.bigint_column("storage_uid", "uid"),
            number = self.bigint_column("chunk_num", "number"),
            size = self.bigint_column("storage_size", "size"),
            table = tables.parts,
            files = tables.files,
            first = file_ids.start(),
            last = file_ids.end(),
        );
        self.query(&sql).await?.iter().map(|row| Ok(part_from_row(row)?)).collect()
    }

    /// Counts complete parts whose file does not exist.
    #[boxed_future]
    pub async fn count_orphan_parts(&self, tables: GoTables) -> Result<i64, MetaError> {
        let sql = format!(
            "SELECT COUNT(*) AS number FROM {} WHERE status = 1 AND storage_uid NOT IN (SELECT uid FROM {})",
            tables.parts, tables.files
        );
        self.query(&sql).await?.first().map_or(Ok(0), |row| Ok(row.try_get("", "number")?))
    }

    /// Counts the tasks by kind and state.
    #[boxed_future]
    pub async fn task_counts(&self, tables: GoTables) -> Result<Vec<GoTaskCount>, MetaError> {
        let sql = format!(
            "SELECT task_type, {state}, COUNT(*) AS number FROM {table} GROUP BY task_type, status ORDER BY task_type, status",
            state = self.bigint_column("status", "state"),
            table = tables.tasks,
        );
        let tasks = self.query(&sql).await?;
        let tasks = tasks.iter().map(|row| {
            Ok(GoTaskCount {
                kind: row.try_get("", "task_type")?,
                state: row.try_get("", "state")?,
                count: row.try_get("", "number")?,
            })
        });
        tasks.collect()
    }

    async fn query(&self, sql: &str) -> Result<Vec<QueryResult>, DbErr> {
        let backend = self.connection.get_database_backend();
        self.connection.query_all_raw(Statement::from_string(backend, sql)).await
    }

    /// SQL that casts an expression of any type to a 64-bit integer named `name`; NULL becomes 0.
    fn bigint_column(&self, column: &str, name: &str) -> String {
        let sql_type = match self.connection.get_database_backend() {
            DbBackend::Postgres => "BIGINT",
            _ => "SIGNED",
        };
        format!("CAST(COALESCE({column}, 0) AS {sql_type}) AS {name}")
    }
}

fn text_column(row: &QueryResult, column: &str) -> Result<String, DbErr> {
    Ok(row.try_get::<Option<String>>("", column)?.unwrap_or_default())
}

fn file_from_row(row: &QueryResult) -> Result<GoFile, DbErr> {
    Ok(GoFile {
        id: row.try_get("", "id")?,
        uid: row.try_get("", "uid")?,
        bucket: text_column(row, "bucket")?,
        name: text_column(row, "name")?,
        storage_name: text_column(row, "storage_name")?,
        md5: text_column(row, "md5")?,
        size: row.try_get("", "size")?,
        in_parts: row.try_get::<i64>("", "in_parts")? != 0,
        part_count: row.try_get("", "part_count")?,
        is_complete: row.try_get::<i64>("", "status")? == 1,
        content_type: text_column(row, "content_type")?,
    })
}

fn part_from_row(row: &QueryResult) -> Result<GoPart, DbErr> {
    Ok(GoPart {
        id: row.try_get("", "id")?,
        uid: row.try_get("", "uid")?,
        number: row.try_get("", "number")?,
        bucket: text_column(row, "bucket")?,
        storage_name: text_column(row, "storage_name")?,
        file_name: text_column(row, "part_file_name")?,
        size: row.try_get("", "size")?,
        md5: text_column(row, "part_md5")?,
    })
}
