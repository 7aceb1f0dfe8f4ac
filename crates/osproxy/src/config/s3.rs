use std::{path::PathBuf, sync::Arc};

use osproxy_storage::{
    Backend, HttpSettings,
    backends::{S3Settings, s3},
};

use super::{
    Secret,
    stores::{self, DescribedStore, StoreSection},
    value::section,
};

section! {
    /// `s3`, or `minio` as the Go program calls it: a store that speaks S3.
    S3Section {
        /// Whether it is used.
        enabled: bool = false,
        /// Host and port, or a URL.
        endpoint: Option<String> = None,
        /// Whether connections are encrypted, if `endpoint` does not say.
        use_ssl: bool = false,
        /// Region that requests are signed for.
        region: String = "us-east-1".to_owned(),
        /// The bucket of everything; when not set, each category has one of its name.
        bucket: Option<String> = None,
        /// Whether the bucket stands in the path of URLs, and not in the name of the host.
        path_style: bool = true,
        /// Id of the key; when not set, it is found in the environment, in the usual files or from the machine.
        access_key_id: Option<Secret> = None,
        /// The key's secret.
        secret_access_key: Option<Secret> = None,
        /// A file that holds the secret instead.
        secret_access_key_file: Option<PathBuf> = None,
        /// The token that belongs to a temporary key.
        session_token: Option<Secret> = None,
    }
    ignored []
}

impl StoreSection for S3Section {
    fn is_enabled(&self) -> bool {
        self.enabled
    }

    fn describe(&self) -> Option<DescribedStore> {
        let settings = self.settings(HttpSettings::default()).ok()?;
        Some(DescribedStore::new(settings.endpoint, settings.bucket, settings.credentials))
    }

    fn open(&self, http: HttpSettings) -> Result<Arc<dyn Backend>, String> {
        stores::opened(s3(self.settings(http)?))
    }
}

impl S3Section {
    fn settings(&self, http: HttpSettings) -> Result<S3Settings, String> {
        let (name, file) = ("secret_access_key", self.secret_access_key_file.as_deref());
        let secret = Secret::resolve(name, self.secret_access_key.as_ref(), file)?;
        let amazon = format!("https://s3.{}.amazonaws.com", self.region);
        Ok(S3Settings {
            endpoint: stores::endpoint(self.endpoint.as_deref().unwrap_or(&amazon), self.use_ssl)?,
            region: self.region.clone(),
            bucket: stores::bucket(self.bucket.as_ref())?,
            path_style: self.path_style,
            credentials: stores::credentials(
                ("access_key_id", self.access_key_id.as_ref()),
                (name, secret),
                self.session_token.as_ref(),
            )?,
            http,
        })
    }
}
