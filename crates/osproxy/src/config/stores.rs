use std::{fmt, path::PathBuf, sync::Arc, time::Duration};

use osproxy_storage::{Backend, BufferBudget, ClientSettings};
use osproxy_types::error_chain;

use super::{
    Config, Secret,
    value::{Findings, choice, section},
};

choice! {
    /// Backend of a store.
    StoreKind {
        /// Disk of this machine.
        Local = "local",
        /// S3, MinIO and compatible stores.
        S3 = "s3",
        /// Tencent COS.
        Cos = "cos",
        /// Aliyun OSS.
        Oss = "oss",
    }
}

impl fmt::Display for StoreKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// Description of a remote store for messages, and the secrets that must not appear in them.
#[derive(Clone)]
pub struct StoreDescription {
    /// Scheme, host and port.
    pub endpoint: String,
    /// Bucket for all objects; `None` if each category has its own bucket.
    pub bucket: Option<String>,
    /// Key id, secret and session token.
    pub secrets: Vec<String>,
}

impl StoreDescription {
    pub(super) fn new(endpoint: String, bucket: Option<String>, key: Option<Credentials>) -> Self {
        let secrets = key.map(|(id, secret, token)| [id, secret].into_iter().chain(token).collect());
        Self { endpoint, bucket, secrets: secrets.unwrap_or_default() }
    }
}

/// The configuration section of a remote store.
pub(super) trait RemoteStoreSection {
    /// Whether the store is used.
    fn is_enabled(&self) -> bool;

    /// Describes the store; `None` if its settings are invalid. Blocks while it reads secrets from
    /// files.
    fn describe(&self) -> Option<StoreDescription>;

    /// Opens the store without contacting it. Fails with a message if the settings are invalid.
    /// Blocks while it reads secrets and certificates from files.
    fn open(&self, http: ClientSettings) -> Result<Arc<dyn Backend>, String>;
}

section! {
    /// `stores`: which enabled store receives new files, and how remote stores are accessed.
    StoresSection {
        /// Store for new files. The other stores only serve the files that they already have. When
        /// not set, the first enabled store in the order `local`, `s3`, `cos`, `oss`.
        upload_to: Option<StoreKind> = None,
        /// Whether missing buckets are created at startup.
        create_buckets | make_buckets: bool = true,
        /// Timeout for a response from a store, in seconds.
        timeout: u64 as seconds = 30,
        /// Number of attempts for operations that can be repeated.
        max_attempts | attempts: u32 = 4,
        /// Concurrent reads and writes of objects. Further reads and writes wait.
        max_transfers: u64 = 256,
        /// PEM file with the CA certificates that are trusted for stores.
        ca_file | ca: Option<PathBuf> = None,
        /// URL of an HTTP proxy for all stores; may contain a password.
        proxy: Option<Secret> = None,
    }
    ignored []
}

impl StoresSection {
    /// Checks the allowed ranges.
    pub(super) fn check(&self, findings: &mut Findings) {
        for (name, value, min, max) in [
            ("timeout", self.timeout, 1, 3600),
            ("max_attempts", self.max_attempts.into(), 1, 20),
            // A merge reads while it writes, and several merges run at the same time: they must not
            // block each other.
            ("max_transfers", self.max_transfers, 8, 1 << 20),
        ] {
            if !(min..=max).contains(&value) {
                findings.problem(&format!("stores.{name}"), format_args!("must be {min} to {max}"));
            }
        }
    }
}

impl Config {
    /// The name and the section of a remote store; `None` for the local disk.
    fn section(&self, kind: StoreKind) -> Option<(&'static str, &dyn RemoteStoreSection)> {
        match kind {
            StoreKind::Local => None,
            // `s3` and `minio` are two names of one section.
            StoreKind::S3 if self.s3.enabled => Some(("s3", &self.s3)),
            StoreKind::S3 => Some(("minio", &self.minio)),
            StoreKind::Cos => Some(("cos", &self.cos)),
            StoreKind::Oss => Some(("oss", &self.oss)),
        }
    }

    /// The enabled stores; the one for new files comes first.
    pub fn stores(&self) -> Vec<StoreKind> {
        // As in the Go program, the local disk comes first if it is enabled explicitly.
        let is_enabled = |kind: &StoreKind| match self.section(*kind) {
            Some((_, section)) => section.is_enabled(),
            None => self.local.enabled == Some(true),
        };
        let mut kinds: Vec<_> = StoreKind::ALL.iter().copied().filter(is_enabled).collect();
        if kinds.is_empty() && self.local.enabled.is_none() {
            kinds.push(StoreKind::Local);
        }
        if let Some(first) = self.stores.upload_to {
            kinds.sort_by_key(|kind| *kind != first);
        }
        kinds
    }

    /// Describes a remote store; `None` for the local disk and for invalid settings. Blocks while
    /// it reads secrets from files.
    pub fn describe_store(&self, kind: StoreKind) -> Option<StoreDescription> {
        self.section(kind)?.1.describe()
    }

    /// Opens a remote store without contacting it. Memory for large parts is taken from `buffers`.
    /// Blocks while it reads secrets and certificates from files.
    pub fn open_store(
        &self,
        kind: StoreKind,
        buffers: Option<BufferBudget>,
    ) -> Result<Arc<dyn Backend>, String> {
        let (_, section) = self.section(kind).ok_or("not a remote store")?;
        let http = ClientSettings {
            ca: self.stores.ca_file.clone(),
            proxy: self.stores.proxy.as_ref().map(|proxy| proxy.reveal().to_owned()),
            connect_timeout: Some(Duration::from_secs(self.stores.timeout.min(10))),
            buffers,
        };
        section.open(http)
    }

    /// Checks the sections of all stores.
    pub(super) fn check_stores(&self, findings: &mut Findings) {
        if self.s3.enabled && self.minio.enabled {
            findings.problem(
                "minio.enabled",
                "`s3` is enabled already, and `minio` is another name for the same section",
            );
        }
        let kinds = self.stores();
        match self.stores.upload_to {
            Some(first) if !kinds.contains(&first) => {
                findings.problem("stores.upload_to", format_args!("{first} is not enabled"));
            }
            _ if kinds.is_empty() => {
                findings.problem("local.enabled", "must be true, because no other store is enabled");
            }
            _ => {}
        }
        self.stores.check(findings);
        for kind in kinds {
            if let Some((name, _)) = self.section(kind)
                && let Err(problem) = self.open_store(kind, None)
            {
                findings.problem(name, problem);
            }
        }
    }
}

/// Key id, secret and session token.
pub(super) type Credentials = (String, String, Option<String>);

/// Combines key id, secret and session token. Returns `None` if id and secret are not set: the
/// store then looks for credentials elsewhere. Fails with a message if only one of them is set.
pub(super) fn pair_credentials(
    id: (&str, Option<&Secret>),
    secret: (&str, Option<Secret>),
    token: Option<&Secret>,
) -> Result<Option<Credentials>, String> {
    match (id.1, secret.1) {
        (Some(id), Some(secret)) => Ok(Some((
            id.reveal().to_owned(),
            secret.reveal().to_owned(),
            token.map(|token| token.reveal().to_owned()),
        ))),
        (None, None) => Ok(None),
        (Some(_), None) => Err(format!("`{}` is missing", secret.0)),
        (None, Some(_)) => Err(format!("`{}` is missing", id.0)),
    }
}

/// Converts the result of opening a store; the error becomes one line of text.
pub(super) fn into_backend(
    store: osproxy_storage::Result<Arc<dyn Backend>>,
) -> Result<Arc<dyn Backend>, String> {
    store.map_err(|error| error_chain(&error))
}

/// Checks an endpoint, and adds a scheme if it has none.
pub(super) fn parse_endpoint(written: &str, use_ssl: bool) -> Result<String, String> {
    let (scheme, authority) = match written.split_once("://") {
        Some((scheme @ ("http" | "https"), authority)) => (scheme, authority),
        Some(_) => return Err("`endpoint` must begin with http:// or https:// or be a host".to_owned()),
        None => (if use_ssl { "https" } else { "http" }, written),
    };
    let authority = authority.trim_end_matches('/');
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || b".-:[]_".contains(&byte);
    if authority.is_empty() || !authority.bytes().all(plain) {
        return Err("`endpoint` must be a host with an optional port, without a path".to_owned());
    }
    Ok(format!("{scheme}://{authority}"))
}

/// Checks the name of a bucket.
pub(super) fn parse_bucket(written: Option<&String>) -> Result<Option<String>, String> {
    let plain = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || b".-".contains(&byte);
    match written {
        Some(name) if !(3..=63).contains(&name.len()) || !name.bytes().all(plain) => {
            Err("`bucket` must be 3 to 63 lower-case letters, digits, dots and hyphens".to_owned())
        }
        name => Ok(name.cloned()),
    }
}

#[cfg(test)]
mod tests {
    use crate::config::tests::parse;

    #[test]
    fn the_password_of_a_proxy_never_shows() {
        let s3 = "s3: {enabled: true, endpoint: 'http://127.0.0.1:1', bucket: files}";
        let config = parse(&format!("{s3}\nstores: {{proxy: 'http://u:hush@proxy:3128'}}"), &[]).unwrap();
        assert!(!format!("{config:?}").contains("hush"));
        for wrong in ["http://u:hush@proxy:x", "u:hush@proxy:70000"] {
            let problems = parse(&format!("{s3}\nstores: {{proxy: '{wrong}'}}"), &[]).unwrap_err();
            assert!(problems[0].contains("the proxy must be a URL"), "{problems:?}");
            assert!(!format!("{problems:?}").contains("hush"), "{problems:?}");
        }
    }
}
