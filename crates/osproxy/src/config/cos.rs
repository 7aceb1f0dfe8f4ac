use std::{path::PathBuf, sync::Arc};

use osproxy_storage::{
    Backend, ClientSettings,
    backends::{CosSettings, cos},
};

use super::{
    Secret, secret,
    stores::{self, RemoteStoreSection, StoreDescription},
    value::section,
};

section! {
    /// `cos`: objects in Tencent Cloud Object Storage.
    CosSection {
        /// Whether this store is used.
        enabled: bool = false,
        /// `APPID` of the account: its buckets are named `<bucket>-<appid>`.
        appid: Option<Secret> = None,
        /// Region of the buckets, such as `ap-nanjing`.
        region: Option<String> = None,
        /// Host of the region, or a URL. When not set, `cos.<region>.myqcloud.com`.
        endpoint: Option<String> = None,
        /// Bucket for all objects, without the `-<appid>` suffix. When not set, each category has a
        /// bucket of the same name.
        bucket: Option<String> = None,
        /// Id of the access key. When not set, key and secret are taken from the environment.
        secret_id: Option<Secret> = None,
        /// Secret of the access key.
        secret_key: Option<Secret> = None,
        /// File with the secret, instead of `secret_key`.
        secret_key_file: Option<PathBuf> = None,
        /// Session token of a temporary key.
        session_token: Option<Secret> = None,
    }
    ignored []
}

impl RemoteStoreSection for CosSection {
    fn is_enabled(&self) -> bool {
        self.enabled
    }

    fn describe(&self) -> Option<StoreDescription> {
        let settings = self.settings(ClientSettings::default()).ok()?;
        Some(StoreDescription::new(settings.endpoint, settings.bucket, settings.credentials))
    }

    fn open(&self, http: ClientSettings) -> Result<Arc<dyn Backend>, String> {
        stores::into_backend(cos(self.settings(http)?))
    }
}

impl CosSection {
    fn settings(&self, http: ClientSettings) -> Result<CosSettings, String> {
        let (name, file) = ("secret_key", self.secret_key_file.as_deref());
        let secret = secret::resolve(name, self.secret_key.as_ref(), file)?;
        let endpoint = match (&self.endpoint, &self.region) {
            (Some(endpoint), _) => endpoint.clone(),
            (None, Some(region)) => format!("cos.{region}.myqcloud.com"),
            (None, None) => return Err("`region` is missing".to_owned()),
        };
        Ok(CosSettings {
            endpoint: stores::parse_endpoint(&endpoint, true)?,
            appid: self.appid.as_ref().ok_or("`appid` is missing")?.reveal().to_owned(),
            bucket: stores::parse_bucket(self.bucket.as_ref())?,
            credentials: stores::pair_credentials(
                ("secret_id", self.secret_id.as_ref()),
                (name, secret),
                self.session_token.as_ref(),
            )?,
            http,
        })
    }
}
