use std::{path::PathBuf, sync::Arc};

use osproxy_storage::{
    Backend, ClientSettings,
    backends::{OssSettings, oss, oss_region},
};

use super::{
    Secret, secret,
    stores::{self, RemoteStoreSection, StoreDescription},
    value::section,
};

section! {
    /// `oss`: objects in Aliyun Object Storage Service.
    OssSection {
        /// Whether this store is used.
        enabled: bool = false,
        /// Host of the region, such as `oss-cn-beijing.aliyuncs.com`, or a URL.
        endpoint: Option<String> = None,
        /// Region for request signatures; needed only if `endpoint` does not contain it.
        region: Option<String> = None,
        /// Bucket for all objects. When not set, each category has a bucket of the same name.
        bucket: Option<String> = None,
        /// Id of the access key. When not set, key and secret are taken from the environment, the
        /// usual credential files or the machine's role.
        access_key_id: Option<Secret> = None,
        /// Secret of the access key.
        access_key_secret: Option<Secret> = None,
        /// File with the secret, instead of `access_key_secret`.
        access_key_secret_file: Option<PathBuf> = None,
        /// Session token of a temporary key.
        session_token: Option<Secret> = None,
    }
    ignored []
}

impl RemoteStoreSection for OssSection {
    fn is_enabled(&self) -> bool {
        self.enabled
    }

    fn describe(&self) -> Option<StoreDescription> {
        let settings = self.settings(ClientSettings::default()).ok()?;
        Some(StoreDescription::new(settings.endpoint, settings.bucket, settings.credentials))
    }

    fn open(&self, http: ClientSettings) -> Result<Arc<dyn Backend>, String> {
        stores::into_backend(oss(self.settings(http)?))
    }
}

impl OssSection {
    fn settings(&self, http: ClientSettings) -> Result<OssSettings, String> {
        let (name, file) = ("access_key_secret", self.access_key_secret_file.as_deref());
        let secret = secret::resolve(name, self.access_key_secret.as_ref(), file)?;
        let endpoint =
            stores::parse_endpoint(self.endpoint.as_deref().ok_or("`endpoint` is missing")?, true)?;
        let region = self.region.as_deref().or_else(|| oss_region(&endpoint));
        Ok(OssSettings {
            region: region.ok_or("`region` is missing, and `endpoint` does not contain it")?.to_owned(),
            endpoint,
            bucket: stores::parse_bucket(self.bucket.as_ref())?,
            credentials: stores::pair_credentials(
                ("access_key_id", self.access_key_id.as_ref()),
                (name, secret),
                self.session_token.as_ref(),
            )?,
            http,
        })
    }
}
