//! Location of the database.

use std::{path::PathBuf, time::Duration};

use osproxy_types::secret::Secret;

/// Location of the metadata database.
#[derive(Clone, Debug)]
pub enum DatabaseLocation {
    /// In an SQLite file.
    File(PathBuf),
    /// On a server.
    Server(DatabaseServer),
}

/// A database server and its connection settings.
#[derive(Clone, Debug)]
pub struct DatabaseServer {
    /// Type of the server.
    pub kind: ServerKind,
    /// Address and credentials, as a URL or as separate settings.
    pub target: DatabaseTarget,
    /// Number of connections that stay open while idle.
    pub max_idle_connections: u32,
    /// Maximum number of open connections.
    pub max_connections: u32,
    /// Deadline for a query, or for a transaction with all its retries.
    pub timeout: Duration,
}

/// Address and credentials of a database server.
#[derive(Clone, Debug)]
pub enum DatabaseTarget {
    /// A URL, which can also set parameters of the driver.
    Url(Secret),
    /// Separate settings.
    Fields {
        /// Host name or address.
        host: String,
        /// TCP port.
        port: u16,
        /// Name of the database.
        database: String,
        /// User name.
        username: String,
        /// Password of the user, if set.
        password: Option<Secret>,
        /// How the connection is protected.
        tls: TlsMode,
        /// PEM file with trusted CA certificates.
        ca_file: Option<PathBuf>,
    },
}

/// Type of a database server.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ServerKind {
    /// PostgreSQL.
    Postgres,
    /// MySQL or MariaDB.
    MySql,
}

/// How the connection to a server is protected.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum TlsMode {
    /// Never encrypted.
    Disable,
    /// Encrypted if the server supports it.
    #[default]
    Prefer,
    /// Always encrypted; the server's certificate is not verified.
    Require,
    /// Encrypted, and the server's certificate must be issued by a trusted CA.
    VerifyCa,
    /// Like `VerifyCa`, and the certificate must match the host name.
    VerifyFull,
}

impl ServerKind {
    /// Returns the type of server that the URL's scheme stands for; `None` for any other scheme.
    pub fn of_url(url: &Secret) -> Option<Self> {
        match url.reveal().split_once("://")?.0 {
            "postgres" | "postgresql" => Some(Self::Postgres),
            "mysql" | "mariadb" => Some(Self::MySql),
            _ => None,
        }
    }
}
