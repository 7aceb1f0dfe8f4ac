use std::{path::PathBuf, sync::Arc};

use osproxy_storage::{
    Backend, HttpSettings,
    backends::{OssSettings, oss},
};

use super::{
    Secret,
    stores::{self, DescribedStore, StoreSection},
    value::section,
};

section! {
    /// `oss`: Aliyun Object Storage Service.
    OssSection {
        /// Whether it is used.
        enabled: bool = false,
        /// Host of the region, or a URL, such as `oss-cn-beijing.aliyuncs.com`.
        endpoint: Option<String> = None,
        /// Region that requests are signed for, where `endpoint` does not say it.
        region: Option<String> = None,
        /// The bucket of everything; when not set, each category has one of its name.
        bucket: Option<String> = None,
        /// Id of the key; when not set, it is found in the environment, in the usual files or from the machine.
        access_key_id: Option<Secret> = None,
        /// The key's secret.
        access_key_secret: Option<Secret> = None,
        /// A file that holds the secret instead.
        access_key_secret_file: Option<PathBuf> = None,
        /// The token that belongs to a temporary key.
        session_token: Option<Secret> = None,
    }
    ignored []
}

impl StoreSection for OssSection {
    fn is_enabled(&self) -> bool {
        self.enabled
    }

    fn describe(&self) -> Option<DescribedStore> {
        let settings = self.settings(HttpSettings::default()).ok()?;
        Some(DescribedStore::new(settings.endpoint, settings.bucket, settings.credentials))
    }

    fn open(&self, http: HttpSettings) -> Result<Arc<dyn Backend>, String> {
        stores::opened(oss(self.settings(http)?))
    }
}

impl OssSection {
    fn settings(&self, http: HttpSettings) -> Result<OssSettings, String> {
        let (name, file) = ("access_key_secret", self.access_key_secret_file.as_deref());
        let secret = Secret::resolve(name, self.access_key_secret.as_ref(), file)?;
        let endpoint = stores::endpoint(self.endpoint.as_deref().ok_or("`endpoint` is missing")?, true)?;
        let region = self.region.as_deref().or_else(|| region_of(&endpoint));
        Ok(OssSettings {
            region: region.ok_or("`region` is missing, and `endpoint` does not say it")?.to_owned(),
            endpoint,
            bucket: stores::bucket(self.bucket.as_ref())?,
            credentials: stores::credentials(
                ("access_key_id", self.access_key_id.as_ref()),
                (name, secret),
                self.session_token.as_ref(),
            )?,
            http,
        })
    }
}

/// The region in `https://oss-cn-beijing-internal.aliyuncs.com`.
fn region_of(endpoint: &str) -> Option<&str> {
    let (_, host) = endpoint.split_once("://oss-")?;
    let region = host.strip_suffix(".aliyuncs.com")?;
    Some(region.strip_suffix("-internal").unwrap_or(region))
}
