use std::{fmt, path::PathBuf, sync::Arc, time::Duration};

use osproxy_storage::{Backend, BufferBudget, HttpSettings};

use super::{
    Config, Secret,
    value::{Findings, choice, section},
};

choice! {
    /// A kind of store.
    StoreKind {
        /// This machine's disk.
        Local = "local",
        /// S3, MinIO, and all that speak the same.
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

/// What a section says of its store.
#[derive(Clone)]
pub struct DescribedStore {
    /// Scheme, host and port.
    pub endpoint: String,
    /// The bucket of everything; without it each category has its own.
    pub bucket: Option<String>,
    /// Id of the key, its secret and perhaps a token: what must not be shown.
    pub secrets: Vec<String>,
}

impl DescribedStore {
    pub(super) fn new(endpoint: String, bucket: Option<String>, key: Option<Credentials>) -> Self {
        let secrets = key.map(|(id, secret, token)| [id, secret].into_iter().chain(token).collect());
        Self { endpoint, bucket, secrets: secrets.unwrap_or_default() }
    }
}

/// A section that says where a store on other machines is.
pub(super) trait StoreSection {
    /// Whether it is used.
    fn is_enabled(&self) -> bool;

    /// What it says, if that goes together. Blocks to read files.
    fn describe(&self) -> Option<DescribedStore>;

    /// The store, not reached for yet. Fails with a sentence when the settings do not go together. Blocks to read files.
    fn open(&self, http: HttpSettings) -> Result<Arc<dyn Backend>, String>;
}

section! {
    /// `stores`: which of the stores that are enabled takes new files, and how those on other machines are treated.
    StoresSection {
        /// Where new files go; the others serve what they have.
        upload_to: Option<StoreKind> = None,
        /// Whether buckets that are missing are made when the program starts.
        make_buckets: bool = true,
        /// How long an answer is waited for, in seconds.
        timeout: u64 = 30,
        /// How often something is tried that may be tried again.
        attempts: u32 = 4,
        /// How many objects are read and written at the same time, at most; more wait.
        max_transfers: u64 = 256,
        /// PEM file with the certificates that those of stores are checked against.
        ca: Option<PathBuf> = None,
        /// Proxy to go through. It may bear a password.
        proxy: Option<Secret> = None,
    }
    ignored []
}

impl StoresSection {
    /// Checks what no single setting can know.
    pub(super) fn check(&self, findings: &mut Findings) {
        for (name, value, min, max) in [
            ("timeout", self.timeout, 1, 3600),
            ("attempts", self.attempts.into(), 1, 20),
            // A merge reads while it writes, and several run at once: they must not wait for each other.
            ("max_transfers", self.max_transfers, 8, 1 << 20),
        ] {
            if !(min..=max).contains(&value) {
                findings.problem(&format!("stores.{name}"), format_args!("must be {min} to {max}"));
            }
        }
    }
}

impl Config {
    /// The section of a store on other machines, with what it is called.
    fn section(&self, kind: StoreKind) -> Option<(&'static str, &dyn StoreSection)> {
        match kind {
            StoreKind::Local => None,
            // Under whichever of its two names it stands.
            StoreKind::S3 if self.s3.enabled => Some(("s3", &self.s3)),
            StoreKind::S3 => Some(("minio", &self.minio)),
            StoreKind::Cos => Some(("cos", &self.cos)),
            StoreKind::Oss => Some(("oss", &self.oss)),
        }
    }

    /// The stores that are used, that of new files first.
    pub fn stores(&self) -> Vec<StoreKind> {
        // As in the Go program, this machine's disk comes first where it is asked for.
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

    /// What the section of a store on other machines says. Blocks to read files of secrets.
    pub fn describe_store(&self, kind: StoreKind) -> Option<DescribedStore> {
        self.section(kind)?.1.describe()
    }

    /// Opens a store on other machines, without reaching for it. Blocks to read files of secrets and certificates. `buffers` is
    /// where memory for large parts comes from.
    pub fn open_store(
        &self,
        kind: StoreKind,
        buffers: Option<BufferBudget>,
    ) -> Result<Arc<dyn Backend>, String> {
        let (_, section) = self.section(kind).ok_or("it is no store on other machines")?;
        let http = HttpSettings {
            ca: self.stores.ca.clone(),
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
                "there is `s3` already, which is the same section by its other name",
            );
        }
        let kinds = self.stores();
        match self.stores.upload_to {
            Some(first) if !kinds.contains(&first) => {
                findings.problem("stores.upload_to", format_args!("{first} is not enabled"));
            }
            _ if kinds.is_empty() => {
                findings.problem("local.enabled", "must be true: there is no other store to keep objects in");
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

/// A key id, its secret and perhaps a token, as sections have them.
pub(super) type Credentials = (String, String, Option<String>);

/// Key id and secret belong together. Neither: they are found elsewhere.
pub(super) fn credentials(
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

/// A store, or why it cannot be opened.
pub(super) fn opened(store: osproxy_storage::Result<impl Backend>) -> Result<Arc<dyn Backend>, String> {
    match store {
        Ok(store) => Ok(Arc::new(store)),
        Err(error) => Err(crate::error::chain(&error)),
    }
}

/// An endpoint with its scheme.
pub(super) fn endpoint(written: &str, use_ssl: bool) -> Result<String, String> {
    let (scheme, authority) = match written.split_once("://") {
        Some((scheme @ ("http" | "https"), authority)) => (scheme, authority),
        Some(_) => return Err("`endpoint` must begin with http:// or https://, or with the host".to_owned()),
        None => (if use_ssl { "https" } else { "http" }, written),
    };
    let authority = authority.trim_end_matches('/');
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || b".-:[]_".contains(&byte);
    if authority.is_empty() || !authority.bytes().all(plain) {
        return Err("`endpoint` must be a host, perhaps with a port, and no path".to_owned());
    }
    Ok(format!("{scheme}://{authority}"))
}

/// A name that a bucket may have.
pub(super) fn bucket(written: Option<&String>) -> Result<Option<String>, String> {
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
