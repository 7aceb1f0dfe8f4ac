use std::{
    net::{IpAddr, SocketAddr, ToSocketAddrs, UdpSocket},
    path::PathBuf,
    time::Duration,
};

use osproxy_cluster::ClusterTiming;

use super::{
    Config, Secret, secret,
    value::{Findings, section},
};

/// Longest allowed duration of each setting in this section, in seconds.
const MAX: u64 = 24 * 60 * 60;
/// Minimum length of the secret, in bytes.
const MIN_SECRET: usize = 16;

section! {
    /// `cluster`: how the nodes of a cluster reach and recognise each other.
    ClusterSection {
        /// Address and port at which other nodes reach this node, such as `10.0.0.7:8888` or
        /// `node-7:8888`. If not set, the listen address. If the listen address is a wildcard such
        /// as `0.0.0.0`, the address of the interface towards Redis.
        advertise: Option<String> = None,
        /// Interval of heartbeats, in seconds. A node that misses three heartbeats counts as dead.
        heartbeat: u64 as seconds = 5,
        /// How long a node may issue uids without contact to Redis, in seconds. The worker id of a
        /// dead node becomes free after this time.
        worker_lease: u64 as seconds = 120,
        /// Idle timeout of requests that are forwarded to another node, in seconds.
        forward_timeout: u64 as seconds = 30,
        /// Secret that authenticates nodes to each other; the same on all nodes, at least 16 random
        /// bytes. When not set, it is derived from the keys that sign links.
        secret: Option<Secret> = None,
        /// File with the secret, instead of `secret`. Leading and trailing white space is ignored.
        secret_file: Option<PathBuf> = None,
    }
    ignored []
}

impl ClusterSection {
    /// Returns the heartbeat interval and the duration of worker leases.
    pub fn timing(&self) -> ClusterTiming {
        ClusterTiming {
            heartbeat: Duration::from_secs(self.heartbeat),
            worker_lease: Duration::from_secs(self.worker_lease),
        }
    }

    pub(super) fn check(&self, findings: &mut Findings) {
        for (name, value) in [
            ("heartbeat", self.heartbeat),
            ("worker_lease", self.worker_lease),
            ("forward_timeout", self.forward_timeout),
        ] {
            if !(1..=MAX).contains(&value) {
                findings.problem(&format!("cluster.{name}"), format_args!("must be 1 to {MAX} seconds"));
            }
        }
        if self.advertise.as_ref().is_some_and(|address| !is_authority(address)) {
            findings.problem("cluster.advertise", "must be a host and a port, such as 10.0.0.7:8888");
        }
        if let Err(problem) = self.secret() {
            findings.problem("cluster", problem);
        }
    }

    /// Returns the secret, if one is set. Fails with a message if the secret is too short or its
    /// file cannot be read. Blocks while it reads the file.
    pub fn secret(&self) -> Result<Option<Vec<u8>>, String> {
        let secret = secret::resolve("secret", self.secret.as_ref(), self.secret_file.as_deref())?;
        match secret {
            Some(secret) if secret.reveal().len() < MIN_SECRET => {
                Err(format!("`secret` must have at least {MIN_SECRET} bytes"))
            }
            secret => Ok(secret.map(|secret| secret.reveal().as_bytes().to_vec())),
        }
    }
}

impl Config {
    /// Whether this node is part of a cluster: the database is on a server, and Redis is
    /// configured.
    pub fn is_clustered(&self) -> bool {
        self.database.server().is_ok_and(|server| server.is_some())
            && self.redis.settings().is_ok_and(|redis| redis.is_some())
    }

    /// Whether this node would advertise a loopback address that nodes on other machines cannot
    /// reach. `false` if `cluster.advertise` is set. Also `false` if this node listens on loopback
    /// and reaches Redis through loopback: all nodes are then on this machine. `listening` is the
    /// address on which the node listens. Blocks while it looks up the name of the Redis server.
    pub fn is_advertised_unreachable(&self, listening: SocketAddr) -> bool {
        let server = self.redis.settings().ok().flatten().and_then(|redis| redis.first_server());
        let leading = server.and_then(|server| local_address_towards(&server, listening.is_ipv4()));
        let is_near = leading.is_some_and(|address| address.is_loopback());
        let is_any = listening.ip().is_unspecified();
        self.cluster.advertise.is_none() && (is_any && is_near || listening.ip().is_loopback() && !is_near)
    }

    /// Returns the address at which other nodes reach this node. `listening` is the address on
    /// which the node listens. Fails with a message if the address cannot be detected. Blocks while
    /// it looks up the name of the Redis server.
    pub fn advertised_address(&self, listening: SocketAddr) -> Result<String, String> {
        if let Some(address) = &self.cluster.advertise {
            return Ok(address.clone());
        }
        if !listening.ip().is_unspecified() {
            return Ok(listening.to_string());
        }
        let redis = self.redis.settings().ok().flatten();
        let server = redis.and_then(|redis| redis.first_server());
        let reached = server.and_then(|server| local_address_towards(&server, listening.is_ipv4()));
        match reached {
            Some(address) => Ok(SocketAddr::new(address, listening.port()).to_string()),
            None => {
                Err("set `cluster.advertise` to the address at which other nodes reach this one".to_owned())
            }
        }
    }
}

/// Detects the local address from which this machine reaches a server. Returns `None` if that
/// fails. Sends nothing to the server. Blocks while it looks up the name of the server.
fn local_address_towards(server: &str, by_ipv4: bool) -> Option<IpAddr> {
    let any: SocketAddr = if by_ipv4 { ([0; 4], 0).into() } else { ([0_u16; 8], 0).into() };
    let mut targets = server.to_socket_addrs().ok()?;
    targets.find_map(|target| {
        let socket = UdpSocket::bind(any).ok()?;
        socket.connect(target).ok()?;
        Some(socket.local_addr().ok()?.ip())
    })
}

/// Whether a text is a host and a port, and nothing else.
fn is_authority(text: &str) -> bool {
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || b".-_:[]".contains(&byte);
    let split = text.rsplit_once(':');
    split.is_some_and(|(host, port)| {
        !host.is_empty()
            && host.bytes().all(plain)
            && (!host.contains(':') || host.starts_with('[') && host.ends_with(']'))
            && port.parse::<u16>().is_ok_and(|port| port > 0)
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::RedisSection;

    #[test]
    fn the_address_for_others_is_found_where_it_can_be() {
        let config = Config::default();
        let listening = "10.1.2.3:80".parse().unwrap();
        assert_eq!(config.advertised_address(listening).unwrap(), "10.1.2.3:80");
        let any = "0.0.0.0:80".parse().unwrap();
        assert!(config.advertised_address(any).unwrap_err().contains("cluster.advertise"));
        let url = Some(Secret::new("redis://:hush@127.0.0.1:6379/0"));
        let redis = RedisSection { url, ..RedisSection::default() };
        let config = Config { redis, ..config };
        assert_eq!(config.advertised_address(any).unwrap(), "127.0.0.1:80");
        let cluster = ClusterSection { advertise: Some("node-1:90".into()), ..ClusterSection::default() };
        assert_eq!(Config { cluster, ..config }.advertised_address(any).unwrap(), "node-1:90");
    }

    #[test]
    fn only_hosts_with_ports_are_advertised() {
        for address in ["node-1:8888", "10.0.0.7:80", "[fe80::1]:80"] {
            assert!(is_authority(address), "{address}");
        }
        for address in
            ["node-1", ":80", "fe80::1:80", "a/b:80", "user@host:80", "host:0", "host:70000", "ho st:1"]
        {
            assert!(!is_authority(address), "{address}");
        }
    }
}
