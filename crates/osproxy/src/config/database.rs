use std::path::PathBuf;

use super::{
    Secret,
    value::{Findings, Node, choice, section},
};

/// Most connections that may be asked for.
const MAX_CONNECTIONS: u32 = 10_000;
/// Longest time that an answer may be waited for, in seconds.
const MAX_TIMEOUT: u64 = 600;
/// Most files that may be remembered.
const MAX_CACHE: u64 = 10_000_000;

section! {
    /// `database`: where metadata lies.
    DatabaseSection {
        /// Which database. With a `url` its scheme says it.
        driver: Driver = Driver::Sqlite,
        /// The SQLite file; `<data_dir>/osproxy.db` when not set.
        path: Option<PathBuf> = None,
        /// All about a server in one: `postgres://user:password@host:5432/database`, or `mysql://…`.
        url: Option<Secret> = None,
        /// A file that holds the url instead.
        url_file: Option<PathBuf> = None,
        /// Name or address of the server.
        host: Option<String> = None,
        /// TCP port; 5432 or 3306 when not set.
        port: Option<u16> = None,
        /// Name of the database on the server. It is not created.
        database: Option<String> = None,
        /// User of the server.
        username: Option<String> = None,
        /// The user's password.
        password: Option<Secret> = None,
        /// A file that holds the password instead; white space around it does not count.
        password_file: Option<PathBuf> = None,
        /// Whether the connection is encrypted and the server's certificate checked. Danger: with all but the last two, whoever
        /// sits in between can read along.
        sslmode: SslMode = SslMode::Prefer,
        /// PEM file with the certificates that the server's is checked against; the usual ones when not set.
        sslrootcert: Option<PathBuf> = None,
        /// How many connections stay open when there is nothing to do.
        max_idle_conns: u32 = 10,
        /// How many connections there are at most.
        max_open_conns: u32 = 16,
        /// How long an answer of the server is waited for, in seconds. Then the request is answered with 503.
        timeout: u64 = 10,
        /// How many complete files are remembered in memory, at some 500 bytes each; 0: none.
        cache_entries: u64 = 10_000,
        /// How long a file is remembered at most, in seconds, should the news of its end not arrive.
        cache_seconds: u64 = 10,
    }
    ignored ["db_name", "charset", "log_mode", "enable_lg_log", "enable_file_log_writer", "log_filename"]
}

choice! {
    /// Which database holds the metadata.
    Driver {
        /// Embedded, for a single node.
        Sqlite = "sqlite",
        /// A `PostgreSQL` server.
        Postgres = "postgres",
        /// A `MySQL` or `MariaDB` server.
        Mysql = "mysql",
    }
}

choice! {
    /// How far the connection to a server is protected; the words of `PostgreSQL`.
    SslMode {
        /// Never encrypted.
        Disable = "disable",
        /// Encrypted when the server can.
        Prefer = "prefer",
        /// Encrypted, whoever the server is.
        Require = "require",
        /// Encrypted, and the server has a certificate of the authority in `sslrootcert`.
        VerifyCa = "verify-ca",
        /// As `verify-ca`, and the certificate is for this host.
        VerifyFull = "verify-full",
    }
}

/// Where the metadata lies.
#[derive(Clone, Debug)]
pub enum DatabaseLocation {
    /// In a file of `SQLite`.
    File(PathBuf),
    /// On a server.
    Server(DatabaseServer),
}

/// A database server, and how to use it.
#[derive(Clone, Debug)]
pub struct DatabaseServer {
    /// What it speaks; never `Sqlite`.
    pub driver: Driver,
    /// User, password, host, port and database, as the url says or the single settings.
    pub target: Target,
    /// How many connections stay open when there is nothing to do.
    pub max_idle_conns: u32,
    /// How many connections there are at most.
    pub max_open_conns: u32,
    /// How long an answer is waited for, in seconds.
    pub timeout: u64,
}

/// How a database is found on a server.
#[derive(Clone, Debug)]
pub enum Target {
    /// By a url, which may set the parameters of its driver too.
    Url(Secret),
    /// By single settings.
    Fields {
        /// Name or address of the server.
        host: String,
        /// TCP port.
        port: u16,
        /// Name of the database.
        database: String,
        /// User of the server.
        username: String,
        /// The user's password, if there is one.
        password: Option<Secret>,
        /// How far the connection is protected.
        sslmode: SslMode,
        /// PEM file with trusted certificates.
        sslrootcert: Option<PathBuf>,
    },
}

impl DatabaseSection {
    /// The server that is to be used; `None` for `SQLite`. Fails with a sentence for everything that is missing or does
    /// not go together. Blocks to read the files of secrets.
    pub fn server(&self) -> Result<Option<DatabaseServer>, Vec<String>> {
        let mut problems = Vec::new();
        let mut resolved = |name, written: &Option<Secret>, file: &Option<PathBuf>| {
            let secret = Secret::resolve(name, written.as_ref(), file.as_deref());
            secret.unwrap_or_else(|problem| {
                problems.push(problem);
                None
            })
        };
        let url = resolved("url", &self.url, &self.url_file);
        let password = resolved("password", &self.password, &self.password_file);
        let server = if let Some(url) = url {
            self.by_url(url, &mut problems)
        } else if self.driver == Driver::Sqlite {
            if self.host.is_some() || self.database.is_some() || self.username.is_some() {
                problems.push("with host, database or username, say the `driver`: postgres or mysql".into());
            }
            None
        } else {
            Some(self.by_fields(password, &mut problems))
        };
        if server.is_some() && self.path.is_some() {
            problems.push("`path` is for sqlite alone".into());
        }
        if problems.is_empty() { Ok(server) } else { Err(problems) }
    }

    fn by_url(&self, url: Secret, problems: &mut Vec<String>) -> Option<DatabaseServer> {
        let driver = match url.reveal().split_once("://").map(|(scheme, _)| scheme) {
            Some("postgres" | "postgresql") => Driver::Postgres,
            Some("mysql" | "mariadb") => Driver::Mysql,
            _ => {
                problems.push("`url` must begin with postgres:// or mysql://".into());
                return None;
            }
        };
        if self.driver != Driver::Sqlite && self.driver != driver {
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
                "beside `url` there is no host, port, database, username, password, sslmode or sslrootcert: \
                 write them into it"
                    .into(),
            );
        }
        Some(self.at(driver, Target::Url(url)))
    }

    fn by_fields(&self, password: Option<Secret>, problems: &mut Vec<String>) -> DatabaseServer {
        let default_port = if self.driver == Driver::Postgres { 5432 } else { 3306 };
        let mut required = |name, value: &Option<String>| match value {
            Some(value) if !value.is_empty() => value.clone(),
            _ => {
                problems.push(format!("`{name}` is missing"));
                String::new()
            }
        };
        let target = Target::Fields {
            host: required("host", &self.host),
            database: required("database", &self.database),
            username: required("username", &self.username),
            port: self.port.unwrap_or(default_port),
            password,
            sslmode: self.sslmode,
            sslrootcert: self.sslrootcert.clone(),
        };
        self.at(self.driver, target)
    }

    fn at(&self, driver: Driver, target: Target) -> DatabaseServer {
        DatabaseServer {
            driver,
            target,
            max_idle_conns: self.max_idle_conns,
            max_open_conns: self.max_open_conns,
            timeout: self.timeout,
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

/// The Go program's `database` is a list, of which it uses the entry that is called `default`.
pub(super) fn unlist(tree: &mut Node, findings: &mut Findings) {
    let Some(section) = tree.get_mut("database") else {
        return;
    };
    let Node::List(entries) = section else {
        return;
    };
    let named_default =
        |entry: &mut Node| matches!(entry.get_mut("db_name"), Some(Node::Text(name)) if name == "default");
    let chosen = match entries.len() {
        1 => Some(0),
        _ => entries.iter_mut().position(named_default),
    };
    if let Some(chosen) = chosen {
        *section = entries.swap_remove(chosen);
    } else {
        findings.problem("database", "one of several must have `db_name: default`");
        *section = Node::Null;
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
            assert_eq!((found.driver, found.max_open_conns), (Driver::Postgres, 100));
            let Target::Fields { host, port, database, username, password, .. } = found.target else {
                panic!("there is no url");
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
        assert_eq!(server("database: {url: 'postgresql://u:hush@db/files'}").driver, Driver::Postgres);
        assert_eq!(server("database: {url: 'mysql://u:hush@db/files'}").driver, Driver::Mysql);
        for (text, problem) in [
            ("{url: 'mysql://u:hush@db/f', host: x}", "beside `url`"),
            ("{url: 'mysql://u:hush@db/f', driver: postgres}", "different databases"),
            ("{url: 'oracle://u:hush@db/f'}", "must begin with"),
            ("{url: 'mysql://u:hush@db/f', path: x}", "`path` is for sqlite"),
            ("{url: 'mysql://u:hush@db/f', url_file: x}", "one of `url` and `url_file`"),
            ("{driver: mysql, host: h}", "`database` is missing"),
            ("{host: h}", "say the `driver`"),
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
