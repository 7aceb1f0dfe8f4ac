//! Transfers of small files with each database, and the number of SQL statements per file.

use std::path::Path;

use anyhow::{Context, Result};
use sea_orm::{ConnectOptions, ConnectionTrait, Database, DbBackend, Statement};

use super::{
    Scale,
    small::{CONNECTIONS, SMALL, get_in_turn, store_all},
    without_peer,
};
use crate::{
    client::{Connection, get},
    content::Content,
    measure::Rounds,
    report::{Report, Target},
    server::Server,
};

/// Number of small files to download.
const FILES: usize = 200;

/// The benchmark's own connection to a database server: creates the database `bench` and counts
/// statements.
pub(super) struct Statements {
    runtime: tokio::runtime::Runtime,
    admin: sea_orm::DatabaseConnection,
}

/// Measures uploads and downloads on SQLite, PostgreSQL and MariaDB, and downloads without the file
/// cache.
pub(super) fn small_files(scale: &Scale, folder: &Path, report: &mut Report) -> Result<()> {
    for (name, variable) in
        [("sqlite", None), ("postgres", Some("OSPROXY_TEST_POSTGRES")), ("mysql", Some("OSPROXY_TEST_MYSQL"))]
    {
        let folder = folder.join(name);
        std::fs::create_dir(&folder)?;
        let (statements, settings) = match variable {
            None => (None, Vec::new()),
            Some(variable) => {
                let admin =
                    std::env::var(variable).context("run this with `just bench`, which starts servers")?;
                let statements = Statements::open(&admin)?;
                let (server, _) = admin.rsplit_once('/').context("the URL names no database")?;
                (Some(statements), vec![("DATABASE__URL".to_owned(), format!("{server}/bench"))])
            }
        };
        one(scale, &folder, report, (name, statements, settings))?;
    }
    Ok(())
}

fn one(
    scale: &Scale,
    folder: &Path,
    report: &mut Report,
    (name, statements, mut settings): (&str, Option<Statements>, Vec<(String, String)>),
) -> Result<()> {
    let content = Content::new(SMALL);
    let mut uids = Vec::new();
    {
        let server = Server::start_with(folder, &settings)?;
        let mut connections = Connection::open_many(server.address(), CONNECTIONS)?;
        let before = statement_count(statements.as_ref())?;
        let (rounds, count) = store_all(scale, &server, &mut connections, &content)?;
        let queries = statement_count(statements.as_ref())? - before;
        figures(report, &format!("{name}: uploads"), &rounds, count);
        per_request(
            report,
            &format!("{name}: uploads"),
            queries,
            count * (scale.rounds + 1),
            statements.as_ref(),
        );
        let first = connections.first_mut().context("no connection")?;
        for number in 0..FILES {
            uids.push(first.store(&content.variant(usize::MAX - number))?);
        }
    }
    for (what, entries) in [("downloads", "10000"), ("downloads, cache off", "0")] {
        settings.push(("DATABASE__CACHE_ENTRIES".to_owned(), entries.to_owned()));
        let server = Server::start_with(folder, &settings)?;
        let mut connections = Connection::open_many(server.address(), CONNECTIONS)?;
        let first = connections.first_mut().context("no connection")?;
        let requests: Vec<_> = first.download_links(&uids)?.iter().map(|link| get(&link.url)).collect();
        first.verify(requests.first().context("no link")?, &content.variant(usize::MAX))?;
        let count = scale.halved(16_000);
        let before = statement_count(statements.as_ref())?;
        let rounds =
            without_peer(scale, |_| get_in_turn(&[server.id()], &mut connections, &requests, count))?;
        let queries = statement_count(statements.as_ref())? - before;
        figures(report, &format!("{name}: {what}"), &rounds, count);
        per_request(
            report,
            &format!("{name}: {what}"),
            queries,
            count * (scale.rounds + 1),
            statements.as_ref(),
        );
    }
    Ok(())
}

fn figures(report: &mut Report, what: &str, rounds: &Rounds, count: usize) {
    let rate = rounds.median(|sample| count as f64 / sample.wall);
    report.figure("databases", &format!("{what} per s"), rate, Target::None);
    let cpu = rounds.median(|sample| sample.server_cpu * 1e6 / count as f64);
    report.figure("databases", &format!("{what}, osproxy's CPU µs each"), cpu, Target::None);
}

fn per_request(report: &mut Report, what: &str, queries: f64, count: usize, known: Option<&Statements>) {
    if known.is_some() {
        report.figure("databases", &format!("{what}, statements each"), queries / count as f64, Target::None);
    }
}

fn statement_count(statements: Option<&Statements>) -> Result<f64> {
    statements.map_or(Ok(0.0), Statements::count)
}

impl Statements {
    pub(super) fn open(url: &str) -> Result<Self> {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        let admin = runtime.block_on(async {
            let mut options = ConnectOptions::new(url);
            // The pool's maintenance is off: in sqlx 0.9.0 it may never end
            // (transact-rs/sqlx#3645).
            options.idle_timeout(None).max_lifetime(None);
            let admin = Database::connect(options).await?;
            admin.execute_unprepared("DROP DATABASE IF EXISTS bench").await?;
            admin.execute_unprepared("CREATE DATABASE bench").await?;
            anyhow::Ok(admin)
        })?;
        Ok(Self { runtime, admin })
    }

    /// Number of statements that the server has run so far, including BEGIN and COMMIT.
    fn count(&self) -> Result<f64> {
        let backend = self.admin.get_database_backend();
        let sql = match backend {
            DbBackend::Postgres => {
                "SELECT sum(calls)::bigint AS count FROM pg_stat_statements AS s JOIN pg_database AS d ON d.oid = s.dbid \
                 WHERE datname = 'bench'"
            }
            _ => {
                "SELECT CAST(VARIABLE_VALUE AS SIGNED) AS count FROM information_schema.GLOBAL_STATUS \
                 WHERE VARIABLE_NAME = 'QUESTIONS'"
            }
        };
        let asked = self.admin.query_one_raw(Statement::from_string(backend, sql));
        let row = self.runtime.block_on(asked)?.context("no statistics")?;
        Ok(row.try_get::<Option<i64>>("", "count")?.unwrap_or(0) as f64)
    }
}
