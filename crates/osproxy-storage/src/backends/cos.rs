//! Tencent COS.

use std::sync::Arc;

use async_trait::async_trait;
use crc_fast::CrcAlgorithm;
use reqsign_core::Signer;
use reqsign_tencent_cos::{Credential, DefaultCredentialProvider, RequestSigner, StaticCredentialProvider};

use super::s3::split_endpoint;
use crate::{
    Backend, ClientSettings, Result,
    object_http::{CrcHeader, HttpStore, Vendor, context},
};

/// Address and credentials of a Tencent COS store.
#[derive(Clone)]
pub struct CosSettings {
    /// Scheme and host, such as `https://cos.ap-nanjing.myqcloud.com`.
    pub endpoint: String,
    /// The `appid` of the account; buckets are named `<name>-<appid>`.
    pub appid: String,
    /// One bucket for all categories, without the `appid`. If `None`, each category has its own
    /// bucket.
    pub bucket: Option<String>,
    /// Key id, secret, and the token of a temporary key. If `None`, credentials come from the
    /// environment.
    pub credentials: Option<(String, String, Option<String>)>,
    /// Connection settings.
    pub http: ClientSettings,
}

/// Tencent Cloud Object Storage.
pub(crate) struct Cos {
    scheme: String,
    authority: String,
    appid: String,
    signer: Signer<Credential>,
}

/// Creates a COS backend. Does not contact the store.
pub fn cos(settings: CosSettings) -> Result<Arc<dyn Backend>> {
    Ok(Arc::new(open(settings)?))
}

pub(crate) fn open(settings: CosSettings) -> Result<HttpStore<Cos>> {
    let (scheme, authority) = split_endpoint(&settings.endpoint);
    let signer = match settings.credentials {
        Some((id, secret, None)) => {
            Signer::new(context(), StaticCredentialProvider::new(&id, &secret), RequestSigner::new())
        }
        Some((id, secret, Some(token))) => {
            let provider = StaticCredentialProvider::with_security_token(&id, &secret, &token);
            Signer::new(context(), provider, RequestSigner::new())
        }
        None => Signer::new(context(), DefaultCredentialProvider::new(), RequestSigner::new()),
    };
    HttpStore::new(Cos { scheme, authority, appid: settings.appid, signer }, settings.bucket, &settings.http)
}

#[async_trait]
impl Vendor for Cos {
    const NAME: &'static str = "cos";
    const CRC: CrcHeader =
        CrcHeader { name: "x-cos-hash-crc64ecma", algorithm: CrcAlgorithm::Crc64Xz, is_base64: false };

    fn bucket_url(&self, bucket: &str) -> String {
        let Self { scheme, authority, appid, .. } = self;
        format!("{scheme}://{bucket}-{appid}.{authority}")
    }

    async fn sign(&self, _bucket: &str, request: &mut http::request::Parts) -> reqsign_core::Result<()> {
        self.signer.sign(request, None).await
    }
}
