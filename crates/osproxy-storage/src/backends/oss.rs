//! Aliyun OSS.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, PoisonError},
};

use async_trait::async_trait;
use crc_fast::CrcAlgorithm;
use http::{HeaderValue, header};
use reqsign_aliyun_oss::{
    Credential, DefaultCredentialProvider, RequestSigner, SigningVersion, StaticCredentialProvider,
};
use reqsign_core::Signer;

use super::s3::split_endpoint;
use crate::{
    Backend, ClientSettings, Result,
    object_http::{CrcHeader, HttpStore, Vendor, context},
};

/// Address and credentials of an Aliyun OSS store.
#[derive(Clone)]
pub struct OssSettings {
    /// Scheme and host, such as `https://oss-cn-beijing.aliyuncs.com`.
    pub endpoint: String,
    /// Region for which requests are signed, such as `cn-beijing`; see [`oss_region`].
    pub region: String,
    /// One bucket for all categories. If `None`, each category has its own bucket.
    pub bucket: Option<String>,
    /// Key id, secret, and the token of a temporary key. If `None`, credentials come from the
    /// environment, the usual files, or the metadata service of the machine.
    pub credentials: Option<(String, String, Option<String>)>,
    /// Connection settings.
    pub http: ClientSettings,
}

/// The region in an endpoint such as `https://oss-cn-beijing-internal.aliyuncs.com`. `None` for an
/// endpoint without a region, such as `https://oss-accelerate.aliyuncs.com`.
pub fn oss_region(endpoint: &str) -> Option<&str> {
    let (_, host) = endpoint.split_once("://oss-")?;
    let region = host.trim_end_matches('/').strip_suffix(".aliyuncs.com")?;
    let region = region.strip_suffix("-internal").unwrap_or(region);
    let is_region = !region.starts_with("accelerate") && region.contains('-') && !region.contains('.');
    is_region.then_some(region)
}

/// Aliyun Object Storage Service.
pub(crate) struct Oss {
    scheme: String,
    authority: String,
    region: String,
    /// The signers of all buckets are derived from this signer, and share its credential cache.
    signer: Signer<Credential>,
    bucket_signers: Mutex<HashMap<String, Signer<Credential>>>,
}

/// Creates an OSS backend. Does not contact the store.
pub fn oss(settings: OssSettings) -> Result<Arc<dyn Backend>> {
    Ok(Arc::new(open(settings)?))
}

pub(crate) fn open(settings: OssSettings) -> Result<HttpStore<Oss>> {
    let (scheme, authority) = split_endpoint(&settings.endpoint);
    let builder = RequestSigner::new("");
    let signer = match settings.credentials {
        Some((id, secret, token)) => {
            let provider = StaticCredentialProvider::new(&id, &secret);
            let provider = token.iter().fold(provider, |provider, token| provider.with_security_token(token));
            Signer::new(context(), provider, builder)
        }
        None => Signer::new(context(), DefaultCredentialProvider::new(), builder),
    };
    let (region, bucket_signers) = (settings.region, Mutex::default());
    let vendor = Oss { scheme, authority, region, signer, bucket_signers };
    HttpStore::new(vendor, settings.bucket, &settings.http)
}

impl Oss {
    fn signer(&self, bucket: &str) -> Signer<Credential> {
        let mut signers = self.bucket_signers.lock().unwrap_or_else(PoisonError::into_inner);
        let signer = signers.entry(bucket.to_owned()).or_insert_with(|| {
            let builder = RequestSigner::new(bucket)
                .with_region(self.region.clone())
                .with_signing_version(SigningVersion::V4);
            self.signer.clone().with_request_signer(builder)
        });
        signer.clone()
    }
}

#[async_trait]
impl Vendor for Oss {
    const NAME: &'static str = "oss";
    const CRC: CrcHeader =
        CrcHeader { name: "x-oss-hash-crc64ecma", algorithm: CrcAlgorithm::Crc64Xz, is_base64: false };

    fn bucket_url(&self, bucket: &str) -> String {
        let Self { scheme, authority, .. } = self;
        format!("{scheme}://{bucket}.{authority}")
    }

    async fn sign(&self, bucket: &str, request: &mut http::request::Parts) -> reqsign_core::Result<()> {
        if request.headers.contains_key(header::RANGE) {
            // Without this header, OSS answers a range beyond the end with status 200 and the whole
            // object, instead of an error.
            request.headers.insert("x-oss-range-behavior", HeaderValue::from_static("standard"));
        }
        self.signer(bucket).sign(request, None).await
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_endpoint_of_a_region_names_it() {
        for (endpoint, region) in [
            ("https://oss-cn-beijing.aliyuncs.com", Some("cn-beijing")),
            ("http://oss-cn-beijing-internal.aliyuncs.com", Some("cn-beijing")),
            ("https://oss-ap-southeast-1.aliyuncs.com/", Some("ap-southeast-1")),
            ("https://oss-accelerate.aliyuncs.com", None),
            ("https://oss-accelerate-overseas.aliyuncs.com", None),
            ("https://oss-cn-beijing.oss-accesspoint.aliyuncs.com", None),
            ("https://files.example.com", None),
        ] {
            assert_eq!(oss_region(endpoint), region, "{endpoint}");
        }
    }
}
