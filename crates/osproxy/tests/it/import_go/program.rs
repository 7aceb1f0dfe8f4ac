//! The data of a Go program: a database with its tables, and a folder of objects.

use std::path::{Path, PathBuf};

use crate::support::{Database, connect, md5_hex};
use sea_orm::{ConnectionTrait, DatabaseConnection, DbBackend};

/// A stopped Go program.
pub struct GoProgram {
    connection: DatabaseConnection,
    /// Whether gorm chose the table names, which are then plural.
    plural: bool,
    localstore: PathBuf,
}

/// A row of a file.
pub struct Row<'a> {
    pub uid: i64,
    /// The name as it is in the table, perhaps URL-encoded.
    pub name: &'a str,
    /// Folder and name of the object.
    pub object: &'a str,
    pub content: &'a [u8],
    /// The number of parts, if the content is in parts.
    pub parts: Option<usize>,
    pub is_stored: bool,
}

impl GoProgram {
    /// Creates the tables in a database, as gorm does.
    pub async fn new(database: &Database, plural: bool, localstore: &Path) -> Self {
        let connection = connect(&database.url().unwrap()).await;
        let program = Self { connection, plural, localstore: localstore.to_owned() };
        let (serial, text, moment, truth, options) = match program.connection.get_database_backend() {
            DbBackend::Postgres => ("bigserial", "text", "timestamptz", "boolean", ""),
            _ => {
                ("bigint AUTO_INCREMENT", "longtext", "datetime(3)", "tinyint(1)", "DEFAULT CHARSET=utf8mb4")
            }
        };
        program
            .run(&format!(
                "CREATE TABLE {} (id {serial}, uid bigint NOT NULL, bucket {text} NOT NULL, name {text} NOT NULL, \
                 storage_name {text} NOT NULL, address {text} NOT NULL, md5 {text}, height bigint, width bigint, \
                 storage_size bigint, multi_part {truth} NOT NULL, part_num bigint, status bigint, content_type {text}, \
                 compress_uid bigint, created_at {moment} NOT NULL, updated_at {moment} NOT NULL, PRIMARY KEY (id, uid)) {options}",
                program.table("meta_data_info")
            ))
            .await;
        program
            .run(&format!(
                "CREATE TABLE {} (id {serial}, storage_uid bigint NOT NULL, chunk_num bigint NOT NULL, bucket {text} NOT NULL, \
                 storage_name {text} NOT NULL, storage_size bigint, part_file_name {text} NOT NULL, part_md5 {text} NOT NULL, \
                 status bigint NOT NULL, created_at {moment} NOT NULL, updated_at {moment} NOT NULL, PRIMARY KEY (id)) {options}",
                program.table("multi_part_info")
            ))
            .await;
        program
            .run(&format!(
                "CREATE TABLE {} (id {serial}, status bigint NOT NULL, task_type varchar(255) NOT NULL, user_id varchar(255), \
                 extra_data text, node_id varchar(255), task_log_id bigint, execute_time bigint DEFAULT 0, \
                 created_at {moment} NOT NULL, updated_at {moment} NOT NULL, PRIMARY KEY (id)) {options}",
                program.table("task_info")
            ))
            .await;
        program
    }

    /// A configuration of the Go program with this database and store.
    pub fn config(database: &Database, store: &str) -> String {
        let url = database.url().unwrap();
        let (driver, rest) = url.split_once("://").unwrap();
        let (user, rest) = rest.split_once('@').unwrap();
        let (username, password) = user.split_once(':').unwrap();
        let (server, name) = rest.split_once('/').unwrap();
        let (host, port) = server.split_once(':').unwrap();
        format!(
            "app: {{env: prod, port: 8888, app_name: osproxy, app_url: http://127.0.0.1}}\n\
             log: {{level: info, root_dir: ./storage/logs, filename: app.log, format: json, enable_file: false}}\n\
             database:\n  - {{db_name: default, driver: {driver}, host: {host}, port: {port}, database: {name}, \
             username: {username}, password: {password}, charset: utf8mb4, max_idle_conns: 10, max_open_conns: 100, \
             log_mode: info, enable_lg_log: false}}\n\
             {store}\n"
        )
    }

    fn table(&self, name: &str) -> String {
        if self.plural { format!("{name}s") } else { name.to_owned() }
    }

    /// Inserts the row of a file.
    pub async fn file(&self, row: &Row<'_>) {
        let Row { uid, name, object, content, parts, is_stored } = row;
        let (bucket, storage_name) = object.split_once('/').unwrap();
        let md5 = if *is_stored { md5_hex(content) } else { String::new() };
        let size = if *is_stored { content.len() } else { 0 };
        let (in_parts, count) = (parts.is_some(), parts.unwrap_or(0));
        let status = if *is_stored { 1 } else { -1 };
        let name = name.replace('\'', "''");
        self.run(&format!(
            "INSERT INTO {} (uid, bucket, name, storage_name, address, md5, height, width, storage_size, multi_part, part_num, \
             status, content_type, compress_uid, created_at, updated_at) VALUES ({uid}, '{bucket}', '{name}', '{storage_name}', \
             '{object}', '{md5}', 0, 0, {size}, {in_parts}, {count}, {status}, 'text/x-go', 0, CURRENT_TIMESTAMP, \
             CURRENT_TIMESTAMP)",
            self.table("meta_data_info")
        ))
        .await;
    }

    /// Inserts the row of a part and writes its object. Each version of a part has its own row.
    pub async fn part(&self, uid: i64, number: usize, bucket: &str, content: &[u8], status: i64) {
        let (size, md5) = (content.len(), md5_hex(content));
        self.run(&format!(
            "INSERT INTO {} (storage_uid, chunk_num, bucket, storage_name, storage_size, part_file_name, part_md5, status, \
             created_at, updated_at) VALUES ({uid}, {number}, '{bucket}', '{uid}_{number}', {size}, '{uid}_{number}', '{md5}', \
             {status}, CURRENT_TIMESTAMP, CURRENT_TIMESTAMP)",
            self.table("multi_part_info")
        ))
        .await;
    }

    /// Inserts a task.
    pub async fn task(&self, kind: &str, uid: i64, parts: usize, status: i64) {
        self.run(&format!(
            "INSERT INTO {} (status, task_type, user_id, extra_data, node_id, task_log_id, execute_time, created_at, \
             updated_at) VALUES ({status}, '{kind}', '', '{{\"storageUid\":{uid},\"chunkSum\":{parts}}}', '10.0.0.1', 0, 1, \
             CURRENT_TIMESTAMP, CURRENT_TIMESTAMP)",
            self.table("task_info")
        ))
        .await;
    }

    /// Writes an object.
    pub fn object(&self, path: &str, content: &[u8]) {
        let path = self.localstore.join(path);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(path, content).unwrap();
    }

    /// Removes an object.
    pub fn remove(&self, path: &str) {
        std::fs::remove_file(self.localstore.join(path)).unwrap();
    }

    /// Removes the object of a part as the program does: its row stays.
    pub async fn remove_part(&self, uid: i64, number: usize) {
        let table = self.table("multi_part_info");
        self.run(&format!(
            "UPDATE {table} SET status = -1 WHERE storage_uid = {uid} AND chunk_num = {number}"
        ))
        .await;
    }

    /// Updates the row of a file.
    pub async fn update_file(&self, uid: i64, change: &str) {
        self.run(&format!("UPDATE {} SET {change} WHERE uid = {uid}", self.table("meta_data_info"))).await;
    }

    async fn run(&self, sql: &str) {
        self.connection.execute_unprepared(sql).await.unwrap();
    }
}
