use std::{path::PathBuf, sync::Arc};

use osproxy_storage::{
    Backend, ClientSettings,
    backends::{S3Settings, s3},
};

use super::{
    Secret, secret,
    stores::{self, RemoteStoreSection, StoreDescription},
    value::section,
};

section! {
    /// `s3`, or `minio` as in the Go program: objects in an S3-compatible store.
    S3Section {
        /// Whether this store is used.
        enabled: bool = false,
        /// Host and port, or a URL. When not set, the Amazon endpoint of the region.
        endpoint: Option<String> = None,
        /// Whether to use HTTPS if `endpoint` has no scheme.
        use_ssl: bool = false,
        /// Region for request signatures.
        region: String = "us-east-1".to_owned(),
        /// Bucket for all objects. When not set, each category has a bucket of the same name.
        bucket: Option<String> = None,
        /// Whether the bucket is part of the URL path instead of the host name.
        path_style: bool = true,
        /// Id of the access key. When not set, key and secret are taken from the environment, the
        /// usual credential files or the machine's role.
        access_key_id: Option<Secret> = None,
        /// Secret of the access key.
        secret_access_key: Option<Secret> = None,
        /// File with the secret, instead of `secret_access_key`.
        secret_access_key_file: Option<PathBuf> = None,
        /// Session token of a temporary key.
        session_token: Option<Secret> = None,
    }
    ignored []
}

impl RemoteStoreSection for S3Section {
    fn is_enabled(&self) -> bool {
        self.enabled
    }

    fn describe(&self) -> Option<StoreDescription> {
        let settings = self.settings(ClientSettings::default()).ok()?;
        Some(StoreDescription::new(settings.endpoint, settings.bucket, settings.credentials))
    }

    fn open(&self, http: ClientSettings) -> Result<Arc<dyn Backend>, String> {
        stores::into_backend(s3(self.settings(http)?))
    }
}

impl S3Section {
    fn settings(&self, http: ClientSettings) -> Result<S3Settings, String> {
        let (name, file) = ("secret_access_key", self.secret_access_key_file.as_deref());
        let secret = secret::resolve(name, self.secret_access_key.as_ref(), file)?;
        let amazon = format!("https://s3.{}.amazonaws.com", self.region);
        Ok(S3Settings {
            endpoint: stores::parse_endpoint(self.endpoint.as_deref().unwrap_or(&amazon), self.use_ssl)?,
            region: self.region.clone(),
            bucket: stores::parse_bucket(self.bucket.as_ref())?,
            path_style: self.path_style,
            credentials: stores::pair_credentials(
                ("access_key_id", self.access_key_id.as_ref()),
                (name, secret),
                self.session_token.as_ref(),
            )?,
            http,
        })
    }
}
