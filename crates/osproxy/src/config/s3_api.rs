use std::{
    net::{AddrParseError, SocketAddr},
    path::PathBuf,
};

use osproxy_core::auth::S3MasterKey;

use super::{
    Secret, secret,
    tls::TlsSection,
    value::{Findings, section},
};

section! {
    /// `s3_api`: a listener for clients of S3.
    S3ApiSection {
        /// Address and port of the listener, such as `127.0.0.1:9000`. When not set, there is no
        /// S3 API.
        listen: Option<String> = None,
        /// Domain whose subdomains are buckets, such as `s3.example.org`, for clients that use
        /// virtual-host style. Path style always works.
        domain: Option<String> = None,
        /// Region that buckets are reported to be in. Clients may sign with any region.
        region: String = "us-east-1".to_owned(),
        /// Secret from which the secrets of S3 keys are derived: at least 32 random bytes of
        /// visible characters. The same on all nodes, and for `osproxy s3-key`. Several secrets,
        /// separated by white space: the first is used for new keys, all are accepted. When not
        /// set, a node with SQLite creates the file `s3-master.key` in the data folder; with a
        /// database server, it must be set.
        master_key: Option<Secret> = None,
        /// File with the secret, instead of `master_key`.
        master_key_file: Option<PathBuf> = None,
        /// TLS of the S3 listener; independent of `tls`.
        tls: TlsSection = TlsSection::default(),
    }
    ignored []
}

impl S3ApiSection {
    /// Checks the section. `needs_master_key` is set if no master key can be created.
    pub(super) fn check(&self, needs_master_key: bool, findings: &mut Findings) {
        if self.listen_address().is_err() {
            findings.problem("s3_api.listen", "must be an address and a port, such as 127.0.0.1:9000");
        }
        if self.domain.as_deref().is_some_and(|domain| !osproxy_s3::is_domain(domain)) {
            findings.problem("s3_api.domain", "must be a domain name without a port, such as s3.example.org");
        }
        let is_plain = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'-';
        if !(1..=32).contains(&self.region.len()) || !self.region.bytes().all(is_plain) {
            findings.problem("s3_api.region", "must have 1 to 32 letters, digits or '-'");
        }
        match self.master_keys() {
            Err(problem) => findings.problem("s3_api.master_key", problem),
            Ok(keys) if keys.is_empty() && needs_master_key && self.listen.is_some() => {
                findings.problem("s3_api.master_key", MISSING_MASTER_KEY);
            }
            Ok(_) => {}
        }
        self.tls.check("s3_api.tls", findings);
        if self.listen.is_none() && self.tls.is_enabled() {
            findings.problem(
                "s3_api.tls",
                "has no effect without `s3_api.listen`; set `s3_api.listen`, or remove `s3_api.tls`",
            );
        }
    }

    /// Address of the listener, if there is one.
    pub fn listen_address(&self) -> Result<Option<SocketAddr>, AddrParseError> {
        self.listen.as_ref().map(|listen| super::parse_address(listen)).transpose()
    }

    /// Returns the configured master keys; empty if none is configured. Fails with a message if a
    /// key is too short. Blocks while it reads the file.
    pub fn master_keys(&self) -> Result<Vec<S3MasterKey>, String> {
        let text = secret::resolve("master_key", self.master_key.as_ref(), self.master_key_file.as_deref())?;
        text.map_or_else(|| Ok(Vec::new()), |text| parse_master_keys(&text))
    }
}

/// The problem of a node on a database server without a master key.
pub const MISSING_MASTER_KEY: &str = "must be set when metadata is on a database server, to the same secret on all nodes; \
     `openssl rand -hex 32` creates one";

/// Parses the master keys in a text. Fails with a message if there is none, or one is too short.
pub fn parse_master_keys(text: &Secret) -> Result<Vec<S3MasterKey>, String> {
    let parse = |key: &str| S3MasterKey::new(key.as_bytes());
    let keys: Option<Vec<_>> = text.reveal().split_whitespace().map(parse).collect();
    let keys = keys.filter(|keys| !keys.is_empty());
    keys.ok_or_else(|| format!("each secret must have at least {} bytes", S3MasterKey::MIN_BYTES))
}

#[cfg(test)]
mod tests {
    use super::super::tests::parse;
    use super::*;

    #[test]
    fn master_keys_are_long_and_never_shown() {
        let keys = |text: &str| parse_master_keys(&Secret::new(text)).map(|keys| keys.len());
        let (long, short) = ("h".repeat(32), "h".repeat(31));
        assert_eq!(keys(&long), Ok(1));
        assert_eq!(keys(&format!("{long}\n{long}1\n")), Ok(2));
        for wrong in [&short, "", " ", &format!("{long} {short}")] {
            assert!(keys(wrong).is_err(), "{wrong:?}");
        }
        let config = parse(&format!("s3_api: {{master_key: {long}}}"), &[]).unwrap();
        assert!(!format!("{config:?}").contains("hhh"));
    }

    #[test]
    fn a_database_server_needs_a_master_key() {
        let server = "database: {url: 'postgres://a@127.0.0.1/a'}\n";
        let listen = "s3_api: {listen: '127.0.0.1:0'";
        let problems = parse(&format!("{server}{listen}}}"), &[]).unwrap_err();
        assert!(
            problems.iter().any(|problem| problem.starts_with("s3_api.master_key: must be set")),
            "{problems:?}"
        );
        let key = "0".repeat(64);
        assert!(parse(&format!("{server}{listen}, master_key: '{key}'}}"), &[]).is_ok());
        assert!(parse(&format!("{listen}}}"), &[]).is_ok());
        assert!(parse(server, &[]).is_ok());
    }

    #[test]
    fn invalid_settings_are_named() {
        for (section, expected) in [
            ("listen: x", "s3_api.listen: must be"),
            ("domain: 'a.b:80'", "s3_api.domain: must be"),
            ("region: ''", "s3_api.region: must have"),
            ("master_key: short", "s3_api.master_key: each secret"),
            ("master_key: x, master_key_file: key.txt", "s3_api.master_key: set only one"),
        ] {
            let problems = parse(&format!("s3_api: {{{section}}}"), &[]).unwrap_err();
            assert!(problems.iter().any(|problem| problem.starts_with(expected)), "{problems:?}");
        }
    }
}
