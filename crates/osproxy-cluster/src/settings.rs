//! Settings of the coordination between nodes.

use std::time::Duration;

use osproxy_types::secret::Secret;

/// Address of Redis, and connection settings.
#[derive(Clone, Debug)]
pub struct RedisSettings {
    /// Address of the server, the sentinels or the cluster.
    pub address: RedisAddress,
    /// User name; the default user if `None`.
    pub username: Option<String>,
    /// Password of the user, if set.
    pub password: Option<Secret>,
    /// Number of the Redis database.
    pub db: u32,
    /// Whether connections are encrypted.
    pub tls: bool,
    /// PEM text of the trusted CA certificates; the usual public CAs if `None`.
    pub ca_pem: Option<Vec<u8>>,
    /// Prefix of all keys. Must not be empty or contain braces.
    pub prefix: String,
}

/// How to reach Redis.
#[derive(Clone, Debug)]
pub enum RedisAddress {
    /// A URL, which also contains the user, the password and the database. The scheme of the URL
    /// selects TLS.
    Url(Secret),
    /// Host and port of one server.
    Server(String, u16),
    /// Name of the master, and hosts and ports of the sentinels that know its address.
    Sentinel(String, Vec<(String, u16)>),
    /// Hosts and ports of some nodes of a Redis Cluster. The other nodes are discovered.
    Cluster(Vec<(String, u16)>),
}

impl RedisSettings {
    /// Host and port of the server or sentinel that is contacted first.
    pub fn first_server(&self) -> Option<String> {
        let named = |(host, port): &(String, u16)| format!("{host}:{port}");
        match &self.address {
            RedisAddress::Url(url) => {
                let (_, rest) = url.reveal().split_once("://")?;
                let authority = rest.split(['/', '?']).next()?;
                let authority = authority.rsplit_once('@').map_or(authority, |(_, server)| server);
                let has_port =
                    authority.rsplit_once(':').is_some_and(|(_, port)| port.parse::<u16>().is_ok());
                Some(if has_port { authority.to_owned() } else { format!("{authority}:6379") })
            }
            RedisAddress::Server(host, port) => Some(format!("{host}:{port}")),
            RedisAddress::Sentinel(_, nodes) | RedisAddress::Cluster(nodes) => nodes.first().map(named),
        }
    }
}

/// Timing of heartbeats and worker ids. Each duration is at least one second.
#[derive(Clone, Copy, Debug)]
pub struct ClusterTiming {
    /// Interval of heartbeats. A node that misses three heartbeats counts as gone.
    pub heartbeat: Duration,
    /// Duration of the lease of a worker id. A node that cannot reach Redis can issue uids for at
    /// most this time after the latest renewal.
    pub worker_lease: Duration,
}
