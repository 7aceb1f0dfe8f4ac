//! Settings of the coordination between nodes.

use std::time::Duration;

use osproxy_types::secret::Secret;

/// A Redis and its connection settings.
#[derive(Clone, Debug)]
pub struct RedisSettings {
    /// Address of the Redis.
    pub address: RedisAddress,
    /// User name, if not the default user.
    pub username: Option<String>,
    /// Password of the user, if set.
    pub password: Option<Secret>,
    /// Number of the database.
    pub db: u32,
    /// Whether connections are encrypted.
    pub tls: bool,
    /// PEM text of the trusted CA certificates; the usual public CAs if `None`.
    pub ca_pem: Option<Vec<u8>>,
    /// Prefix of all keys: not empty, without braces.
    pub prefix: String,
}

/// Address of a Redis.
#[derive(Clone, Debug)]
pub enum RedisAddress {
    /// A URL, which contains all settings.
    Url(Secret),
    /// One server.
    Server(String, u16),
    /// Sentinels, and the name of the master to ask them for.
    Sentinel(String, Vec<(String, u16)>),
    /// Some nodes of a cluster, which know the others.
    Cluster(Vec<(String, u16)>),
}

impl RedisSettings {
    /// Host and port of the server that is contacted first.
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

/// Intervals of the registry. At least a second each.
#[derive(Clone, Copy, Debug)]
pub struct ClusterTiming {
    /// Interval of heartbeats. A node that misses three counts as dead.
    pub heartbeat: Duration,
    /// How long a node may issue uids without contact to Redis.
    pub worker_lease: Duration,
}
