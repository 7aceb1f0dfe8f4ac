//! The database of the Go program, which is read and never changed.

use std::time::Duration;

use sea_orm::{ConnectionTrait, DatabaseConnection, DbBackend, DbErr, QueryResult, Statement};

use super::{dialect, migrate::single_connection};
use crate::config::DatabaseServer;

/// How long the server may take for an answer: the tables of parts have no index that is of use here.
const PATIENCE: Duration = Duration::from_hours(1);

/// What gorm may have called the tables: as the program is set up, or as gorm does when left to itself.
const NAMES: [Tables; 2] = [
    Tables { files: "meta_data_info", parts: "multi_part_info", tasks: "task_info" },
    Tables { files: "meta_data_infos", parts: "multi_part_infos", tasks: "task_infos" },
];

/// The tables that belong together.
#[derive(Clone, Copy, Debug)]
pub struct Tables {
    /// Of files; looked for to know whether the others are there.
    pub files: &'static str,
    parts: &'static str,
    tasks: &'static str,
}

/// A file as the Go program has it.
#[derive(Clone, Debug, Default)]
pub struct GoFile {
    /// Number of the row. The oldest of several rows of one uid is the one that the program reads.
    pub id: i64,
    /// What clients know it by.
    pub uid: i64,
    /// The folder, or bucket, of its object.
    pub bucket: String,
    /// What the client calls it, percent-encoded.
    pub name: String,
    /// The name of its object.
    pub storage_name: String,
    /// In hexadecimal; said by the client, and compared where the content came in one piece or was merged.
    pub md5: String,
    /// Bytes, as the client says where the content came in parts.
    pub size: i64,
    /// Whether it lies in parts.
    pub in_parts: bool,
    /// How many there are.
    pub part_count: i64,
    /// Whether it is complete.
    pub is_complete: bool,
    /// MIME type.
    pub content_type: String,
}

/// A part as the Go program has it.
#[derive(Clone, Debug, Default)]
pub struct GoPart {
    /// Number of the row: of several for one part the highest is what was sent last.
    pub id: i64,
    /// The file that it belongs to.
    pub uid: i64,
    /// Its place among the pieces.
    pub number: i64,
    /// The folder, or bucket, of its object.
    pub bucket: String,
    /// The name of its object.
    pub storage_name: String,
    /// What it is called in the folder of the upload.
    pub file_name: String,
    /// Bytes.
    pub size: i64,
    /// In hexadecimal; compared when it came.
    pub md5: String,
}

/// How many tasks of a kind are in a state.
#[derive(Clone, Debug)]
pub struct GoTasks {
    /// What they do: `partMerge`, `partDelete`.
    pub kind: String,
    /// 0 to do, 1 running, 2 done, 99 failed.
    pub state: i64,
    /// How many.
    pub count: i64,
}

/// The database.
pub struct GoDatabase {
    connection: DatabaseConnection,
}

impl GoDatabase {
    /// Connects. Fails with a sentence for people.
    pub async fn open(server: &DatabaseServer) -> Result<Self, String> {
        let explain = |error| dialect::explain(server, &error);
        // Whether it is there is known sooner than what is in it.
        let trial = single_connection(server).await.map_err(explain)?;
        trial.execute_unprepared("SELECT 1").await.map_err(explain)?;
        trial.close().await.map_err(explain)?;
        let patient = DatabaseServer { timeout: PATIENCE.as_secs(), ..server.clone() };
        Ok(Self { connection: single_connection(&patient).await.map_err(explain)? })
    }

    /// The tables that are there.
    pub async fn tables(&self) -> Result<Vec<Tables>, DbErr> {
        let schema = match self.connection.get_database_backend() {
            DbBackend::Postgres => "current_schema()",
            _ => "DATABASE()",
        };
        let sql = format!(
            "SELECT CONCAT(table_name, '') AS name FROM information_schema.tables WHERE table_schema = {schema}"
        );
        let rows = self.ask(&sql).await?;
        let there: Vec<String> = rows.iter().map(|row| row.try_get("", "name")).collect::<Result<_, _>>()?;
        let is_there = |name: &str| there.iter().any(|there| there == name);
        Ok(NAMES.into_iter().filter(|tables| is_there(tables.files) && is_there(tables.parts)).collect())
    }

    /// How many files there are.
    pub async fn count(&self, tables: Tables) -> Result<i64, DbErr> {
        let rows = self.ask(&format!("SELECT COUNT(*) AS number FROM {}", tables.files)).await?;
        rows.first().map_or(Ok(0), |row| row.try_get("", "number"))
    }

    /// Up to `limit` files whose rows come behind number `after`, in the order of these numbers.
    pub async fn files(&self, tables: Tables, after: i64, limit: u64) -> Result<Vec<GoFile>, DbErr> {
        let sql = format!(
            "SELECT {id}, {uid}, bucket, name, storage_name, md5, {size}, {in_parts}, {part_count}, {status}, content_type \
             FROM {table} WHERE id > {after} ORDER BY id LIMIT {limit}",
            id = self.number("id", "id"),
            uid = self.number("uid", "uid"),
            size = self.number("storage_size", "size"),
            in_parts = self.number("CASE WHEN multi_part THEN 1 ELSE 0 END", "in_parts"),
            part_count = self.number("part_num", "part_count"),
            status = self.number("status", "status"),
            table = tables.files,
        );
        self.ask(&sql).await?.iter().map(file).collect()
    }

    /// The parts that count of the files whose rows have these numbers, first to last, by file, number and age.
    pub async fn parts(&self, tables: Tables, (first, last): (i64, i64)) -> Result<Vec<GoPart>, DbErr> {
        let sql = format!(
            "SELECT {id}, {uid}, {number}, bucket, storage_name, part_file_name, {size}, part_md5 FROM {table} \
             WHERE status = 1 AND storage_uid IN (SELECT uid FROM {files} WHERE id BETWEEN {first} AND {last}) \
             ORDER BY storage_uid, chunk_num, id",
            id = self.number("id", "id"),
            uid = self.number("storage_uid", "uid"),
            number = self.number("chunk_num", "number"),
            size = self.number("storage_size", "size"),
            table = tables.parts,
            files = tables.files,
        );
        self.ask(&sql).await?.iter().map(part).collect()
    }

    /// Parts of files that there are not.
    pub async fn orphans(&self, tables: Tables) -> Result<i64, DbErr> {
        let sql = format!(
            "SELECT COUNT(*) AS number FROM {} WHERE status = 1 AND storage_uid NOT IN (SELECT uid FROM {})",
            tables.parts, tables.files
        );
        self.ask(&sql).await?.first().map_or(Ok(0), |row| row.try_get("", "number"))
    }

    /// What the program has, or had, to do.
    pub async fn tasks(&self, tables: Tables) -> Result<Vec<GoTasks>, DbErr> {
        let sql = format!(
            "SELECT task_type, {state}, COUNT(*) AS number FROM {table} GROUP BY task_type, status ORDER BY task_type, status",
            state = self.number("status", "state"),
            table = tables.tasks,
        );
        let tasks = self.ask(&sql).await?;
        let tasks = tasks.iter().map(|row| {
            Ok(GoTasks {
                kind: row.try_get("", "task_type")?,
                state: row.try_get("", "state")?,
                count: row.try_get("", "number")?,
            })
        });
        tasks.collect()
    }

    async fn ask(&self, sql: &str) -> Result<Vec<QueryResult>, DbErr> {
        let backend = self.connection.get_database_backend();
        self.connection.query_all_raw(Statement::from_string(backend, sql)).await
    }

    /// A column as a number of 64 bits, whatever gorm made it.
    fn number(&self, column: &str, name: &str) -> String {
        let kind = match self.connection.get_database_backend() {
            DbBackend::Postgres => "BIGINT",
            _ => "SIGNED",
        };
        format!("CAST(COALESCE({column}, 0) AS {kind}) AS {name}")
    }
}

fn text(row: &QueryResult, column: &str) -> Result<String, DbErr> {
    Ok(row.try_get::<Option<String>>("", column)?.unwrap_or_default())
}

fn file(row: &QueryResult) -> Result<GoFile, DbErr> {
    Ok(GoFile {
        id: row.try_get("", "id")?,
        uid: row.try_get("", "uid")?,
        bucket: text(row, "bucket")?,
        name: text(row, "name")?,
        storage_name: text(row, "storage_name")?,
        md5: text(row, "md5")?,
        size: row.try_get("", "size")?,
        in_parts: row.try_get::<i64>("", "in_parts")? != 0,
        part_count: row.try_get("", "part_count")?,
        is_complete: row.try_get::<i64>("", "status")? == 1,
        content_type: text(row, "content_type")?,
    })
}

fn part(row: &QueryResult) -> Result<GoPart, DbErr> {
    Ok(GoPart {
        id: row.try_get("", "id")?,
        uid: row.try_get("", "uid")?,
        number: row.try_get("", "number")?,
        bucket: text(row, "bucket")?,
        storage_name: text(row, "storage_name")?,
        file_name: text(row, "part_file_name")?,
        size: row.try_get("", "size")?,
        md5: text(row, "part_md5")?,
    })
}
