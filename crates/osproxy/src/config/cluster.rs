use std::{
    net::{IpAddr, SocketAddr, ToSocketAddrs, UdpSocket},
    path::PathBuf,
};

use super::{
    Config, Secret,
    value::{Findings, section},
};

/// Longest time of any, in seconds.
const MAX: u64 = 24 * 60 * 60;
/// Fewest bytes of the secret.
const MIN_SECRET: usize = 16;

section! {
    /// `cluster`: how nodes know of each other, where there are several.
    ClusterSection {
        /// Address and port at which other nodes reach this one, such as `10.0.0.7:8888` or `node-7:8888`. When not set, the
        /// address it listens on; where that is any, the one of the interface that leads to Redis.
        advertise: Option<String> = None,
        /// How often a node says that it is there, in seconds. One that was not heard of three times is gone.
        heartbeat: u64 = 5,
        /// How long a node may issue uids without having heard from Redis, in seconds. The number of a node that died is
        /// free for others after that time.
        worker_lease: u64 = 120,
        /// How long a node that a request was passed on to may do nothing, in seconds.
        forward_timeout: u64 = 30,
        /// What nodes know each other's requests by, the same for all: at least 16 bytes that nobody can guess. When not
        /// set, it is made of the keys that sign links.
        secret: Option<Secret> = None,
        /// A file that holds the secret instead; white space around it does not count.
        secret_file: Option<PathBuf> = None,
    }
    ignored []
}

impl ClusterSection {
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

    /// The secret, if there is one; else a sentence that says what is wrong with it. Blocks to read the file, if there is one.
    pub fn secret(&self) -> Result<Option<Vec<u8>>, String> {
        let secret = Secret::resolve("secret", self.secret.as_ref(), self.secret_file.as_deref())?;
        match secret {
            Some(secret) if secret.reveal().len() < MIN_SECRET => {
                Err(format!("`secret` must have at least {MIN_SECRET} bytes"))
            }
            secret => Ok(secret.map(|secret| secret.reveal().as_bytes().to_vec())),
        }
    }
}

impl Config {
    /// Whether there may be several nodes: those on one database agree through Redis, or there is only one.
    pub fn is_clustered(&self) -> bool {
        self.database.server().is_ok_and(|server| server.is_some())
            && self.redis.redis().is_ok_and(|redis| redis.is_some())
    }

    /// Whether the address at which others shall reach a node that listens at `listening` leads nowhere from other machines,
    /// without anybody having said that it is right.
    pub fn is_out_of_reach(&self, listening: SocketAddr) -> bool {
        let server = self.redis.redis().ok().flatten().and_then(|redis| redis.server());
        let leading = server.and_then(|server| leading_to(&server, listening.is_ipv4()));
        let is_near = leading.is_some_and(|address| address.is_loopback());
        let is_any = listening.ip().is_unspecified();
        self.cluster.advertise.is_none() && (is_any && is_near || listening.ip().is_loopback() && !is_near)
    }

    /// Where other nodes reach this one, which listens at `listening`. Fails with a sentence where that must be said.
    pub fn advertised(&self, listening: SocketAddr) -> Result<String, String> {
        if let Some(address) = &self.cluster.advertise {
            return Ok(address.clone());
        }
        if !listening.ip().is_unspecified() {
            return Ok(listening.to_string());
        }
        let redis = self.redis.redis().ok().flatten();
        let server = redis.and_then(|redis| redis.server());
        let reached = server.and_then(|server| leading_to(&server, listening.is_ipv4()));
        match reached {
            Some(address) => Ok(SocketAddr::new(address, listening.port()).to_string()),
            None => {
                Err("`cluster.advertise` must say at which address other nodes reach this one".to_owned())
            }
        }
    }
}

/// The address of the interface that leads to a host. Sends nothing; blocks while the host's name is looked up.
fn leading_to(server: &str, by_ipv4: bool) -> Option<IpAddr> {
    let any: SocketAddr = if by_ipv4 { ([0; 4], 0).into() } else { ([0_u16; 8], 0).into() };
    let mut targets = server.to_socket_addrs().ok()?;
    targets.find_map(|target| {
        let socket = UdpSocket::bind(any).ok()?;
        socket.connect(target).ok()?;
        Some(socket.local_addr().ok()?.ip())
    })
}

/// Whether a text is a host and a port, and nothing besides.
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
        assert_eq!(config.advertised(listening).unwrap(), "10.1.2.3:80");
        let any = "0.0.0.0:80".parse().unwrap();
        assert!(config.advertised(any).unwrap_err().contains("cluster.advertise"));
        let url = Some(Secret::new("redis://:hush@127.0.0.1:6379/0"));
        let redis = RedisSection { url, ..RedisSection::default() };
        let config = Config { redis, ..config };
        assert_eq!(config.advertised(any).unwrap(), "127.0.0.1:80");
        let cluster = ClusterSection { advertise: Some("node-1:90".into()), ..ClusterSection::default() };
        assert_eq!(Config { cluster, ..config }.advertised(any).unwrap(), "node-1:90");
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
