use std::{path::PathBuf, time::Duration};

use osproxy_meta::{DatabaseServer, DatabaseTarget, ServerKind, TlsMode};

use super::{
    Secret, secret,
    value::{Findings, RawValue, choice, section},
};

/// Largest allowed number of open connections.
const MAX_CONNECTIONS: u32 = 10_000;
/// Longest allowed timeout, in seconds.
const MAX_TIMEOUT: u64 = 600;
/// Largest allowed number of files in the cache.
const MAX_CACHE: u64 = 10_000_000;

section! {
    /// `database`: where metadata is stored.
    DatabaseSection {
        /// Type of the database. Not needed with `url`: the scheme of the URL names the type.
        driver: Driver = Driver::Sqlite,
        /// Path of the SQLite file. When not set, `<data_dir>/osproxy.db`.
        path: Option<PathBuf> = None,
        /// Connection URL of a server: `postgres://user:password@host:5432/database` or
        /// `mysql://…`.
        url: Option<Secret> = None,
        /// File with the URL, instead of `url`.
        url_file: Option<PathBuf> = None,
        /// Host name or address of the server.
        host: Option<String> = None,
        /// TCP port of the server. When not set, 5432 for PostgreSQL and 3306 for MySQL.
        port: Option<u16> = None,
        /// Name of the database on the server. It must exist.
        database: Option<String> = None,
        /// User name on the server.
        username: Option<String> = None,
        /// Password of the user.
        password: Option<Secret> = None,
        /// File with the password, instead of `password`. Leading and trailing white space is
        /// ignored.
        password_file: Option<PathBuf> = None,
        /// Whether the connection is encrypted and the certificate of the server verified. Danger:
        /// with any mode except `verify-ca` and `verify-full`, an attacker on the network path can
        /// read and change the traffic.
        sslmode: SslMode = SslMode::Prefer,
        /// PEM file with the CA certificates that are trusted for the server. When not set, the
        /// usual public CAs.
        sslrootcert: Option<PathBuf> = None,
        /// Number of connections that stay open when idle.
        max_idle_conns: u32 = 10,
        /// Largest number of open connections.
        max_open_conns: u32 = 16,
        /// Timeout for a response from the server, in seconds. After that, the request fails
        /// with 503.
        timeout: u64 as seconds = 10,
        /// Number of complete files that are cached in memory, about 500 bytes each; 0 turns the
        /// cache off.
        cache_entries: u64 = 10_000,
        /// Maximum time that a file stays in the cache, in seconds. If an invalidation is lost,
        /// this node may serve outdated metadata for this long.
        cache_max_age | cache_seconds: u64 as seconds = 10,
    }
    ignored ["db_name", "charset", "log_mode", "enable_lg_log", "enable_file_log_writer", "log_filename"]
}

choice! {
    /// Type of the database for metadata.
    Driver {
        /// Embedded database, for a single node.
        Sqlite = "sqlite",
        /// PostgreSQL server.
        Postgres = "postgres",
        /// MySQL or MariaDB server.
        Mysql = "mysql",
    }
}

choice! {
    /// How the connection to a server is protected, in the terms of PostgreSQL.
    SslMode {
        /// Never encrypted.
        Disable = "disable",
        /// Encrypted if the server supports it.
        Prefer = "prefer",
        /// Always encrypted; the server's certificate is not verified.
        Require = "require",
        /// Always encrypted; the server's certificate must be issued by a trusted CA (see
        /// `sslrootcert`).
        VerifyCa = "verify-ca",
        /// As `verify-ca`, and the certificate must match the host name.
        VerifyFull = "verify-full",
    }
}

impl Driver {
    const fn server_kind(self) -> Option<ServerKind> {
        match self {
            Self::Sqlite => None,
            Self::Postgres => Some(ServerKind::Postgres),
            Self::Mysql => Some(ServerKind::MySql),
        }
    }
}

impl SslMode {
    const fn tls_mode(self) -> TlsMode {
        match self {
            Self::Disable => TlsMode::Disable,
            Self::Prefer => TlsMode::Prefer,
            Self::Require => TlsMode::Require,
            Self::VerifyCa => TlsMode::VerifyCa,
            Self::VerifyFull => TlsMode::VerifyFull,
        }
    }
}

impl DatabaseSection {
    /// Returns the database server; `None` for SQLite. Fails with one message for each problem.
    /// Blocks while it reads secrets from files.
    pub fn server(&self) -> Result<Option<DatabaseServer>, Vec<String>> {
        let mut problems = Vec::new();
        let mut resolved = |name, written: &Option<Secret>, file: &Option<PathBuf>| {
            let secret = secret::resolve(name, written.as_ref(), file.as_deref());
            secret.unwrap_or_else(|problem| {
                problems.push(problem);
                None
            })
        };
        let url = resolved("url", &self.url, &self.url_file);
        let password = resolved("password", &self.password, &self.password_file);
        let server = if let Some(url) = url {
            self.by_url(url, &mut problems)
        } else if let Some(kind) = self.driver.server_kind() {
            Some(self.by_fields(kind, password, &mut problems))
        } else {
            if self.host.is_some() || self.database.is_some() || self.username.is_some() {
                problems.push("`host`, `database` and `username` need a `driver`: postgres or mysql".into());
            }
            None
        };
        if server.is_some() && self.path.is_some() {
            problems.push("`path` applies only to sqlite".into());
        }
        if problems.is_empty() { Ok(server) } else { Err(problems) }
    }

    fn by_url(&self, url: Secret, problems: &mut Vec<String>) -> Option<DatabaseServer> {
        let Some(kind) = ServerKind::of_url(&url) else {
            problems.push("`url` must begin with postgres:// or mysql://".into());
            return None;
        };
        if self.driver.server_kind().is_some_and(|driver| driver != kind) {
            problems.push("`driver` and `url` name different databases".into());
        }
        let single = [&self.host, &self.database, &self.username];
        if single.into_iter().any(Option::is_some)
            || self.port.is_some()
            || self.password.is_some()
            || self.password_file.is_some()
            || self.sslmode != SslMode::Prefer
            || self.sslrootcert.is_some()
        {
            problems.push(
                "`url` excludes host, port, database, username, password, sslmode and sslrootcert: \
                                 put them into the URL"
                    .into(),
            );
        }
        Some(self.server_at(kind, DatabaseTarget::Url(url)))
    }

    fn by_fields(
        &self,
        kind: ServerKind,
        password: Option<Secret>,
        problems: &mut Vec<String>,
    ) -> DatabaseServer {
        let default_port = match kind {
            ServerKind::Postgres => 5432,
            ServerKind::MySql => 3306,
        };
        let mut required = |name, value: &Option<String>| match value {
            Some(value) if !value.is_empty() => value.clone(),
            _ => {
                problems.push(format!("`{name}` is missing"));
                String::new()
            }
        };
        let target = DatabaseTarget::Fields {
            host: required("host", &self.host),
            database: required("database", &self.database),
            username: required("username", &self.username),
            port: self.port.unwrap_or(default_port),
            password,
            tls: self.sslmode.tls_mode(),
            ca_file: self.sslrootcert.clone(),
        };
        self.server_at(kind, target)
    }

    fn server_at(&self, kind: ServerKind, target: DatabaseTarget) -> DatabaseServer {
        DatabaseServer {
            kind,
            target,
            max_idle_connections: self.max_idle_conns,
            max_connections: self.max_open_conns,
            timeout: Duration::from_secs(self.timeout),
        }
    }

    pub(super) fn check(&self, findings: &mut Findings) {
        for problem in self.server().err().unwrap_or_default() {
            findings.problem("database", problem);
        }
        if !(1..=MAX_CONNECTIONS).contains(&self.max_open_conns) {
            findings.problem("database.max_open_conns", format_args!("must be 1 to {MAX_CONNECTIONS}"));
        }
        if !(1..=MAX_TIMEOUT).contains(&self.timeout) {
            findings.problem("database.timeout", format_args!("must be 1 to {MAX_TIMEOUT} seconds"));
        }
        if self.cache_entries > MAX_CACHE {
            findings.problem("database.cache_entries", format_args!("must be 0 to {MAX_CACHE}"));
        }
    }
}

/// Replaces the list of databases in a `database` section of the Go program by one entry: the only
/// one, or the one with `db_name: default` if there are several.
pub(super) fn flatten_go_list(tree: &mut RawValue, findings: &mut Findings) {
    let Some(section) = tree.get_mut("database") else {
        return;
    };
    let RawValue::List(entries) = section else {
        return;
    };
    let named_default = |entry: &mut RawValue| matches!(entry.get_mut("db_name"), Some(RawValue::Text(name)) if name == "default");
    let chosen = match entries.len() {
        1 => Some(0),
        _ => entries.iter_mut().position(named_default),
    };
    if let Some(chosen) = chosen {
        *section = entries.swap_remove(chosen);
    } else {
        findings.problem("database", "one entry of the list must have `db_name: default`");
        *section = RawValue::Null;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::tests::parse;

    fn server(text: &str) -> DatabaseServer {
        parse(text, &[]).unwrap().database.server().unwrap().unwrap()
    }

    #[test]
    fn the_go_programs_list_is_understood() {
        let entry = "driver: postgres, host: db, port: 5433, database: files, username: u, password: 123456, \
                     charset: utf8mb4, max_idle_conns: 10, max_open_conns: 100, log_mode: info, \
                     enable_lg_log: false, enable_file_log_writer: false, log_filename: sql.log";
        for text in [
            format!("database: [{{db_name: default, {entry}}}]"),
            format!("database: [{{db_name: other}}, {{db_name: default, {entry}}}]"),
            format!("database: {{{entry}}}"),
        ] {
            let found = server(&text);
            assert_eq!((found.kind, found.max_connections), (ServerKind::Postgres, 100));
            let DatabaseTarget::Fields { host, port, database, username, password, .. } = found.target else {
                panic!("the server must be configured by fields, not by a URL");
            };
            assert_eq!(
                (host.as_str(), port, database.as_str(), username.as_str()),
                ("db", 5433, "files", "u")
            );
            assert_eq!(password.unwrap().reveal(), "123456");
        }
        assert!(parse("database: [{db_name: a}, {db_name: b}]", &[]).is_err());
    }

    #[test]
    fn a_url_says_the_driver_and_stands_alone() {
        assert_eq!(server("database: {url: 'postgresql://u:hush@db/files'}").kind, ServerKind::Postgres);
        assert_eq!(server("database: {url: 'mysql://u:hush@db/files'}").kind, ServerKind::MySql);
        for (text, problem) in [
            ("{url: 'mysql://u:hush@db/f', host: x}", "`url` excludes host"),
            ("{url: 'mysql://u:hush@db/f', driver: postgres}", "different databases"),
            ("{url: 'oracle://u:hush@db/f'}", "must begin with"),
            ("{url: 'mysql://u:hush@db/f', path: x}", "`path` applies only to sqlite"),
            ("{url: 'mysql://u:hush@db/f', url_file: x}", "one of `url` and `url_file`"),
            ("{driver: mysql, host: h}", "`database` is missing"),
            ("{host: h}", "need a `driver`"),
            ("{driver: mysql, host: h, database: d, username: u, password_file: /no/such}", "/no/such"),
            ("{max_open_conns: 0}", "1 to"),
            ("{timeout: 0}", "1 to"),
        ] {
            let problems = parse(&format!("database: {text}"), &[]).unwrap_err();
            assert!(problems.iter().any(|found| found.contains(problem)), "{text}: {problems:?}");
            assert!(!format!("{problems:?}").contains("hush"), "{problems:?}");
        }
    }

    #[test]
    fn secrets_never_show() {
        let config = parse("database: {url: 'mysql://u:hush@db/f'}", &[]).unwrap();
        assert!(!format!("{config:?}").contains("hush"));
        assert!(!format!("{:?}", config.database.server()).contains("hush"));
    }
}
