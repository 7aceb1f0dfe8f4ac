use std::path::PathBuf;

use osproxy_cluster::{RedisAddress, RedisSettings};

use super::{
    Secret, secret,
    value::{Findings, RawValue, SettingValue, section},
};

section! {
    /// `redis`: coordination between the nodes of a cluster. Used if the database is on a server
    /// and one of `host`, `url`, `sentinel` or `cluster` is set.
    RedisSection {
        /// Host name or address of the server.
        host: Option<String> = None,
        /// TCP port.
        port: RedisPort = RedisPort(6379),
        /// Number of the database.
        db: u32 = 0,
        /// User name. When not set, the default user of the server.
        username: Option<String> = None,
        /// Password of the user.
        password: Option<Secret> = None,
        /// File with the password, instead of `password`. Leading and trailing white space is
        /// ignored.
        password_file: Option<PathBuf> = None,
        /// Connection URL: `redis://user:password@host:6379/0`, or `rediss://…` for an encrypted
        /// connection.
        url: Option<Secret> = None,
        /// File with the URL, instead of `url`.
        url_file: Option<PathBuf> = None,
        /// Whether connections are encrypted and the server's certificate is verified.
        tls: bool = false,
        /// PEM file with the CA certificates that are trusted for the server. When not set, the
        /// usual public CAs.
        tls_ca: Option<PathBuf> = None,
        /// High availability with Redis Sentinel.
        sentinel: SentinelSection = SentinelSection::default(),
        /// Nodes of a Redis Cluster, each `host:port`; a few are enough to discover the others.
        cluster: Vec<String> = Vec::new(),
        /// Prefix of all keys; the same on all nodes of one osproxy cluster.
        prefix: String = "osproxy".to_owned(),
    }
    ignored []
}

section! {
    /// `redis.sentinel`: high availability with Redis Sentinel.
    SentinelSection {
        /// Name of the monitored master.
        master: Option<String> = None,
        /// Sentinels, each `host:port`.
        nodes: Vec<String> = Vec::new(),
    }
    ignored []
}

/// A TCP port. Accepts a number in quotes too, as the Go program does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RedisPort(pub u16);

impl SettingValue for RedisPort {
    fn read(node: RawValue, path: &str, findings: &mut Findings) -> Option<Self> {
        let node = if let RawValue::Text(text) = node { RawValue::Untyped(text) } else { node };
        u16::read(node, path, findings).map(Self)
    }
}

impl RedisSection {
    /// Returns the settings of Redis; `None` if no address is configured. Fails with one message
    /// for each problem. Blocks while it reads secrets and certificates from files.
    pub fn settings(&self) -> Result<Option<RedisSettings>, Vec<String>> {
        let mut problems = Vec::new();
        let mut resolved = |name, written: &Option<Secret>, file: &Option<PathBuf>| {
            secret::resolve(name, written.as_ref(), file.as_deref()).unwrap_or_else(|problem| {
                problems.push(problem);
                None
            })
        };
        let url = resolved("url", &self.url, &self.url_file);
        let password = resolved("password", &self.password, &self.password_file);
        let sentinel = self.sentinel.master.is_some() || !self.sentinel.nodes.is_empty();
        let ways = [url.is_some(), self.host.is_some(), sentinel, !self.cluster.is_empty()];
        match ways.into_iter().filter(|way| *way).count() {
            0 if problems.is_empty() => return Ok(None),
            0 | 1 => {}
            _ => problems.push("set only one of `url`, `host`, `sentinel` and `cluster`".into()),
        }
        let at = if let Some(url) = url {
            if !url.reveal().starts_with("redis://") && !url.reveal().starts_with("rediss://") {
                problems.push("`url` must begin with redis:// or rediss://".into());
            }
            RedisAddress::Url(url)
        } else if let Some(host) = &self.host {
            RedisAddress::Server(host.clone(), self.port.0)
        } else if sentinel {
            let master = self.sentinel.master.clone().unwrap_or_else(|| {
                problems.push("`sentinel.master` is missing".into());
                String::new()
            });
            RedisAddress::Sentinel(
                master,
                parse_addresses("sentinel.nodes", &self.sentinel.nodes, &mut problems),
            )
        } else {
            RedisAddress::Cluster(parse_addresses("cluster", &self.cluster, &mut problems))
        };
        if matches!(at, RedisAddress::Cluster(_)) && self.db != 0 {
            problems.push("a Redis Cluster has no database other than 0".into());
        }
        let trusted = self.tls_ca.as_ref().and_then(|path| {
            #[expect(clippy::disallowed_methods, reason = "settings are read before the reactor has work")]
            let read = std::fs::read(path);
            read.map_err(|error| problems.push(format!("{}: {error}", path.display()))).ok()
        });
        if self.prefix.is_empty() || self.prefix.contains(['{', '}']) {
            problems.push("`prefix` must not be empty or contain braces".into());
        }
        let redis = RedisSettings {
            address: at,
            username: self.username.clone(),
            password,
            db: self.db,
            tls: self.tls,
            ca_pem: trusted,
            prefix: self.prefix.clone(),
        };
        if problems.is_empty() { Ok(Some(redis)) } else { Err(problems) }
    }

    pub(super) fn check(&self, findings: &mut Findings) {
        for problem in self.settings().err().unwrap_or_default() {
            findings.problem("redis", problem);
        }
    }
}

fn parse_addresses(name: &str, nodes: &[String], problems: &mut Vec<String>) -> Vec<(String, u16)> {
    if nodes.is_empty() {
        problems.push(format!("`{name}` is missing"));
    }
    let mut found = Vec::new();
    for node in nodes {
        match node.rsplit_once(':').map(|(host, port)| (host, port.parse())) {
            Some((host, Ok(port))) if !host.is_empty() => found.push((host.to_owned(), port)),
            _ => problems.push(format!("`{name}`: {node:?} must be a host and a port, such as redis-1:6379")),
        }
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::tests::parse;

    #[test]
    fn the_go_programs_section_is_understood() {
        for port in ["6380", "'6380'"] {
            let text = format!("redis: {{host: r, port: {port}, db: 2, password: 123456}}");
            let redis = parse(&text, &[]).unwrap().redis.settings().unwrap().unwrap();
            assert!(matches!(redis.address, RedisAddress::Server(host, 6380) if host == "r"));
            assert_eq!((redis.db, redis.password.unwrap().reveal()), (2, "123456"));
        }
        assert!(parse("", &[]).unwrap().redis.settings().unwrap().is_none());
    }

    #[test]
    fn sentinel_cluster_and_a_private_ca_are_passed_on() {
        let settings = |text: &str| parse(text, &[]).unwrap().redis.settings().unwrap().unwrap();
        let redis = settings("redis: {sentinel: {master: m, nodes: ['a:1', 'b:2']}}");
        let RedisAddress::Sentinel(master, nodes) = redis.address else { panic!("{:?}", redis.address) };
        assert_eq!((master.as_str(), nodes), ("m", vec![("a".to_owned(), 1), ("b".to_owned(), 2)]));
        let redis = settings("redis: {cluster: ['c:3']}");
        let RedisAddress::Cluster(nodes) = redis.address else { panic!("{:?}", redis.address) };
        assert_eq!(nodes, [("c".to_owned(), 3)]);
        // Any file will do: certificates are parsed later, when connecting.
        let ca = concat!(env!("CARGO_MANIFEST_DIR"), "/Cargo.toml");
        let redis = settings(&format!("redis: {{host: r, tls: true, tls_ca: '{ca}'}}"));
        let content = include_bytes!("../../Cargo.toml").as_slice();
        assert_eq!((redis.tls, redis.ca_pem.as_deref()), (true, Some(content)));
    }

    #[test]
    fn what_does_not_go_together_is_told() {
        for (text, problem) in [
            ("{host: r, url: 'redis://hush@r'}", "set only one of"),
            ("{url: 'http://hush@r'}", "must begin with"),
            ("{sentinel: {nodes: ['a:1']}}", "`sentinel.master` is missing"),
            ("{sentinel: {master: m}}", "`sentinel.nodes` is missing"),
            ("{cluster: ['a']}", "must be a host and a port"),
            ("{cluster: ['a:1'], db: 1}", "no database other than 0"),
            ("{host: r, tls_ca: /no/such}", "/no/such"),
            ("{host: r, prefix: '{x}'}", "braces"),
            ("{host: r, password: hush, password_file: f}", "one of `password`"),
        ] {
            let problems = parse(&format!("redis: {text}"), &[]).unwrap_err();
            assert!(problems.iter().any(|found| found.contains(problem)), "{text}: {problems:?}");
            assert!(!format!("{problems:?}").contains("hush"));
        }
    }
}
