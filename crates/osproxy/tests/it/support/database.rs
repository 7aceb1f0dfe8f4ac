use std::{
    path::{Path, PathBuf},
    sync::atomic::{AtomicU32, Ordering},
    time::{Instant, UNIX_EPOCH},
};

use sea_orm::{ConnectOptions, ConnectionTrait, Database as Orm, DatabaseConnection, DbBackend, Statement};

use super::{PATIENCE, Proxy, command};

/// The database of one test: a SQLite file in the folder of the service, or a new database on a
/// database server. Dropping this value removes the database from the server, but not if the value
/// is from [`shared_with_folder`](Self::shared_with_folder).
pub struct Database {
    folder: PathBuf,
    on_server: Option<OnServer>,
    is_shared: bool,
}

#[derive(Clone)]
struct OnServer {
    admin: String,
    name: String,
}

/// Number of the next database on a server.
static NEXT: AtomicU32 = AtomicU32::new(0);

/// Selects unfinished work: tasks (except recurring tasks), content in parts, and rows that are
/// being written or deleted. Dead tasks count as unfinished.
const UNSETTLED: &str = "SELECT concat('task ', kind, ' ', state) FROM tasks WHERE unique_key IS NULL AND state <> 'done' \
     UNION ALL SELECT concat('blob ', id, ' ', state) FROM blobs WHERE state IN ('writing', 'deleting') \
     UNION ALL SELECT concat('blob ', id, ' in parts') FROM blobs WHERE state = 'stored' AND layout = 'parts' \
     UNION ALL SELECT concat('part ', id, ' ', state) FROM parts WHERE state IN ('writing', 'deleting')";

/// The host and port of a URL.
pub fn host_and_port(url: &str) -> String {
    let (_, rest) = url.split_once("://").unwrap();
    let authority = rest.split('/').next().unwrap();
    authority.rsplit('@').next().unwrap().to_owned()
}

/// The URL of the tests' Redis.
pub fn redis_url() -> String {
    env("OSPROXY_TEST_REDIS").expect("run this by `just test-servers`")
}

fn env(name: &str) -> Option<String> {
    std::env::var(name).ok().filter(|value| !value.is_empty())
}

/// Connects for a few statements. Turns off the maintenance task of the connection pool: in sqlx
/// 0.9.0, this task sometimes never ends (transact-rs/sqlx#3645), and the test would hang. Retries,
/// because a database server can close new connections while it recovers from the crash of one of
/// its processes.
pub async fn connect(options: impl Into<ConnectOptions>) -> DatabaseConnection {
    let mut options = options.into();
    options.idle_timeout(None).max_lifetime(None);
    super::eventually("the database accepts a connection", async || {
        Orm::connect(options.clone()).await.inspect_err(|error| println!("connecting again: {error}")).ok()
    })
    .await
}

/// The URL of another database on the same server.
fn url_of(admin: &str, name: &str) -> String {
    let (server, _) = admin.rsplit_once('/').unwrap();
    format!("{server}/{name}")
}

/// Key of the PostgreSQL advisory lock that a test holds while it creates the template.
const TEMPLATE_LOCK: i64 = 7711;

/// Returns the name of the template: a PostgreSQL database that has all tables of this binary. The
/// first test creates the template. Copying the template is much faster than running all
/// migrations.
async fn ensure_template(connection: &DatabaseConnection, admin: &str, folder: &Path) -> String {
    let built = std::fs::metadata(env!("CARGO_BIN_EXE_osproxy")).unwrap().modified().unwrap();
    let name = format!("it_template_{}", built.duration_since(UNIX_EPOCH).unwrap().as_nanos());
    let run = async |sql: String| connection.execute_unprepared(&sql).await.unwrap();
    run(format!("SELECT pg_advisory_lock({TEMPLATE_LOCK})")).await;
    let find = format!("SELECT 1 FROM pg_database WHERE datname = '{name}'");
    let find = Statement::from_string(DbBackend::Postgres, find);
    if connection.query_one_raw(find).await.unwrap().is_none() {
        run(format!("DROP DATABASE IF EXISTS {name}_new")).await;
        run(format!("CREATE DATABASE {name}_new")).await;
        let settings = [("DATABASE__URL".to_owned(), url_of(admin, &format!("{name}_new")))];
        let migrated = command(folder, &settings, &[]).arg("migrate").status().await.unwrap();
        assert!(migrated.success(), "{migrated}");
        run(format!("ALTER DATABASE {name}_new RENAME TO {name}")).await;
    }
    run(format!("SELECT pg_advisory_unlock({TEMPLATE_LOCK})")).await;
    name
}

impl Database {
    /// Creates the database for a service in a folder: on the server that `OSPROXY_TEST_DATABASE`
    /// selects (`postgres` or `mysql`), or as a SQLite file if the variable is not set. The service
    /// creates the SQLite file.
    pub async fn create(folder: &Path) -> Self {
        let admin = match env("OSPROXY_TEST_DATABASE").as_deref() {
            None => return Self { folder: folder.to_owned(), on_server: None, is_shared: false },
            Some("postgres") => "OSPROXY_TEST_POSTGRES",
            Some("mysql") => "OSPROXY_TEST_MYSQL",
            Some(other) => panic!("OSPROXY_TEST_DATABASE is {other}"),
        };
        Self::create_on(admin, folder).await
    }

    /// Creates a database on a server. The environment variable `admin` contains the URL of the
    /// server.
    pub async fn create_on(admin: &str, folder: &Path) -> Self {
        Self::create_from(admin, folder, true).await
    }

    /// Creates a database without tables on a server. The environment variable `admin` contains the
    /// URL of the server.
    pub async fn create_empty_on(admin: &str, folder: &Path) -> Self {
        Self::create_from(admin, folder, false).await
    }

    async fn create_from(admin: &str, folder: &Path, has_tables: bool) -> Self {
        let admin =
            env(admin).unwrap_or_else(|| panic!("{admin} is not set: run this by `just test-servers`"));
        let name = format!("it_{}_{}", std::process::id(), NEXT.fetch_add(1, Ordering::Relaxed));
        // Use one connection: the connection that took the lock must also release it.
        let mut options = ConnectOptions::new(&admin);
        options.max_connections(1);
        let connection = connect(options).await;
        let is_copy = has_tables && connection.get_database_backend() == DbBackend::Postgres;
        let create = if is_copy {
            let template = ensure_template(&connection, &admin, folder).await;
            format!("CREATE DATABASE {name} TEMPLATE {template}")
        } else {
            format!("CREATE DATABASE {name}")
        };
        connection.execute_unprepared(&create).await.unwrap();
        connection.close().await.unwrap();
        Self { folder: folder.to_owned(), on_server: Some(OnServer { admin, name }), is_shared: false }
    }

    /// The same database on a server, for a second service in another folder. Dropping the returned
    /// value does not remove the database.
    pub fn shared_with_folder(&self, folder: &Path) -> Self {
        Self { folder: folder.to_owned(), on_server: self.on_server.clone(), is_shared: true }
    }

    /// The URL of the database if it is on a server.
    pub fn url(&self) -> Option<String> {
        let OnServer { admin, name } = self.on_server.as_ref()?;
        Some(url_of(admin, name))
    }

    /// The [settings](Self::settings) with the addresses of proxies in front of the database and
    /// Redis. Without `redis`, the service reaches Redis directly.
    pub fn settings_through(&self, database: &Proxy, redis: Option<&Proxy>) -> Vec<(String, String)> {
        let mut settings = self.settings();
        for (name, value) in &mut settings {
            let proxy = match name.as_str() {
                "DATABASE__URL" => Some(database),
                "REDIS__URL" => redis,
                _ => None,
            };
            if let Some(proxy) = proxy {
                *value = value.replace(&host_and_port(value), &proxy.address.to_string());
            }
        }
        settings
    }

    /// The host and port of the server.
    pub fn server(&self) -> String {
        host_and_port(&self.url().unwrap())
    }

    /// The settings of a service for this database and for the Redis of the tests, if there is one.
    /// Named as environment variables without the prefix `OSPROXY__`. Empty for SQLite.
    pub fn settings(&self) -> Vec<(String, String)> {
        let Some(url) = self.url() else {
            return Vec::new();
        };
        let mut settings = vec![
            ("DATABASE__URL".to_owned(), url),
            ("DATABASE__MAX_IDLE_CONNS".to_owned(), "0".to_owned()),
            // At shutdown, the service need not wait until a load balancer notices the shutdown.
            ("SERVER__DRAIN_DELAY".to_owned(), "0".to_owned()),
        ];
        if let Some(redis) = env("OSPROXY_TEST_REDIS") {
            settings.push(("REDIS__URL".to_owned(), redis));
            settings.push(("REDIS__PREFIX".to_owned(), self.on_server.as_ref().unwrap().name.clone()));
        }
        settings
    }

    /// Runs SQL, and returns the first column of the rows as text. Converts `'local'` in the SQL to
    /// the name of the local store, and `x'00'` to the syntax of the database.
    pub async fn sql(&self, sql: &str) -> Vec<String> {
        self.run(sql, true).await
    }

    /// Runs SQL without checking foreign keys.
    pub async fn unchecked_sql(&self, sql: &str) {
        self.run(sql, false).await;
    }

    async fn connect(&self, checked: bool) -> DatabaseConnection {
        let Some(url) = self.url() else {
            let path = self.folder.join("osproxy-data/osproxy.db");
            let mut options = ConnectOptions::new(format!("sqlite://{}", path.display()));
            options.map_sqlx_sqlite_opts(move |options| options.foreign_keys(checked));
            return connect(options).await;
        };
        let mut options = ConnectOptions::new(url);
        options.max_connections(1);
        let connection = connect(options).await;
        if !checked {
            let unchecked = match connection.get_database_backend() {
                DbBackend::Postgres => "SET session_replication_role = replica",
                _ => "SET foreign_key_checks = 0",
            };
            connection.execute_unprepared(unchecked).await.unwrap();
        }
        connection
    }

    async fn run(&self, sql: &str, checked: bool) -> Vec<String> {
        let database = self.connect(checked).await;
        let backend = database.get_database_backend();
        let mut sql = sql.to_owned();
        if self.on_server.is_some() && sql.contains("'local'") {
            let id = std::fs::read_to_string(self.folder.join("osproxy-data/objects/store-id")).unwrap();
            sql = sql.replace("'local'", &format!("'local:{}'", id.trim()));
        }
        if backend == DbBackend::Postgres {
            sql = sql.replace("x'00'", "'\\x00'::bytea");
        }
        let rows = database.query_all_raw(Statement::from_string(backend, sql)).await.unwrap();
        let first = |row: &sea_orm::QueryResult| {
            let text = row.try_get_by_index::<String>(0);
            text.or_else(|_| row.try_get_by_index::<i64>(0).map(|number| number.to_string()))
                .or_else(|_| row.try_get_by_index::<i32>(0).map(|number| number.to_string()))
                .or_else(|_| row.try_get_by_index::<Vec<u8>>(0).map(hex::encode))
                .unwrap()
        };
        let texts = rows.iter().map(first).collect();
        database.close().await.unwrap();
        texts
    }

    /// Bytes, given in hexadecimal, as an SQL literal.
    pub fn bytes_literal(&self, hex: &str) -> String {
        match self.url() {
            Some(url) if url.starts_with("postgres") => format!("'\\x{hex}'::bytea"),
            _ => format!("x'{hex}'"),
        }
    }

    /// Creates a trigger with this name that rejects changes of the rows in `table` that match
    /// `condition`. `change` is the event of the trigger, such as `BEFORE UPDATE`.
    pub async fn reject_changes(&self, name: &str, change: &str, table: &str, condition: &str) {
        let database = self.connect(true).await;
        let statements = match database.get_database_backend() {
            DbBackend::Sqlite => vec![format!(
                "CREATE TRIGGER {name} {change} ON {table} WHEN {condition} \
                 BEGIN SELECT RAISE(ABORT, 'forbidden by the test'); END"
            )],
            DbBackend::Postgres => vec![
                format!(
                    "CREATE FUNCTION {name}() RETURNS trigger LANGUAGE plpgsql AS \
                     $$ BEGIN RAISE EXCEPTION 'forbidden by the test'; END $$"
                ),
                format!(
                    "CREATE TRIGGER {name} {change} ON {table} FOR EACH ROW WHEN ({condition}) \
                     EXECUTE FUNCTION {name}()"
                ),
            ],
            _ => vec![format!(
                "CREATE TRIGGER {name} {change} ON {table} FOR EACH ROW IF {condition} THEN \
                 SIGNAL SQLSTATE '45000' SET MESSAGE_TEXT = 'forbidden by the test'; END IF"
            )],
        };
        for statement in statements {
            database.execute_unprepared(&statement).await.unwrap();
        }
        database.close().await.unwrap();
    }

    /// Removes a trigger that [`reject_changes`](Self::reject_changes) created.
    pub async fn allow_changes(&self, name: &str, table: &str) {
        let database = self.connect(true).await;
        let statement = match database.get_database_backend() {
            DbBackend::Postgres => format!("DROP TRIGGER {name} ON {table}; DROP FUNCTION {name}"),
            _ => format!("DROP TRIGGER {name}"),
        };
        database.execute_unprepared(&statement).await.unwrap();
        database.close().await.unwrap();
    }

    /// Prevents merges from starting until [`release_merges`](Self::release_merges) is called.
    pub async fn hold_merges(&self) {
        self.hold_task("merge_parts").await;
    }

    /// Prevents tasks of a kind from starting until [`release_merges`](Self::release_merges) is
    /// called.
    pub async fn hold_task(&self, kind: &str) {
        let running = format!("NEW.state = 'running' AND NEW.kind = '{kind}'");
        self.reject_changes("held", "BEFORE UPDATE", "tasks", &running).await;
    }

    pub async fn release_merges(&self) {
        self.allow_changes("held", "tasks").await;
    }

    /// Waits until all background work except recurring tasks has finished.
    pub async fn wait_until_idle(&self) {
        let start = Instant::now();
        loop {
            let unsettled = self.sql(UNSETTLED).await;
            if unsettled.is_empty() {
                return;
            }
            assert!(start.elapsed() < PATIENCE, "timed out waiting for {unsettled:?}");
            tokio::time::sleep(std::time::Duration::from_millis(10)).await;
        }
    }
}

impl Drop for Database {
    fn drop(&mut self) {
        let Some(OnServer { admin, name }) = self.on_server.take().filter(|_| !self.is_shared) else {
            return;
        };
        // Use a new thread and runtime, because the runtime of the test may be shutting down.
        let dropping = std::thread::spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
            runtime.block_on(async {
                let connection = connect(&admin).await;
                let force = if connection.get_database_backend() == DbBackend::Postgres {
                    " WITH (FORCE)"
                } else {
                    ""
                };
                let _ = connection.execute_unprepared(&format!("DROP DATABASE {name}{force}")).await;
                let _ = connection.close().await;
            });
        });
        let _ = dropping.join();
    }
}
