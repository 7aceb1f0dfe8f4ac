use std::{
    collections::HashMap,
    sync::{Mutex, PoisonError},
};

use async_trait::async_trait;
use crc_fast::CrcAlgorithm;
use http::{HeaderValue, header};
use reqsign_aliyun_oss::{
    Credential, DefaultCredentialProvider, RequestSigner, SigningVersion, StaticCredentialProvider,
};
use reqsign_core::Signer;

use super::s3::split;
use crate::{
    Backend, HttpSettings, Result,
    remote::{CrcHeader, Remote, Vendor, context},
};

/// Where an Aliyun OSS store is, and who asks.
#[derive(Clone)]
pub struct OssSettings {
    /// Scheme and name, such as `https://oss-cn-beijing.aliyuncs.com`.
    pub endpoint: String,
    /// Region that requests are signed for, such as `cn-beijing`.
    pub region: String,
    /// The bucket of everything; without it each category has its own.
    pub bucket: Option<String>,
    /// Key id and secret, and the token of temporary ones; without them the environment, the usual files and the services of
    /// the machine are asked.
    pub credentials: Option<(String, String, Option<String>)>,
    /// How it is reached.
    pub http: HttpSettings,
}

/// Aliyun Object Storage Service.
pub(crate) struct Oss {
    scheme: String,
    authority: String,
    region: String,
    /// Signs for no bucket; those of buckets share its credential.
    signer: Signer<Credential>,
    of_buckets: Mutex<HashMap<String, Signer<Credential>>>,
}

/// Opens an OSS store, without reaching for it.
pub fn oss(settings: OssSettings) -> Result<impl Backend> {
    open(settings)
}

pub(crate) fn open(settings: OssSettings) -> Result<Remote<Oss>> {
    let (scheme, authority) = split(&settings.endpoint);
    let builder = RequestSigner::new("");
    let signer = match settings.credentials {
        Some((id, secret, token)) => {
            let given = StaticCredentialProvider::new(&id, &secret);
            let given = token.iter().fold(given, |given, token| given.with_security_token(token));
            Signer::new(context(), given, builder)
        }
        None => Signer::new(context(), DefaultCredentialProvider::new(), builder),
    };
    let (region, of_buckets) = (settings.region, Mutex::default());
    let vendor = Oss { scheme, authority, region, signer, of_buckets };
    Remote::new(vendor, settings.bucket, &settings.http)
}

impl Oss {
    fn signer(&self, bucket: &str) -> Signer<Credential> {
        let mut signers = self.of_buckets.lock().unwrap_or_else(PoisonError::into_inner);
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
            // Otherwise a range that reaches beyond the end is answered with status 200 and the whole object, which may
            // be just as long as the range.
            request.headers.insert("x-oss-range-behavior", HeaderValue::from_static("standard"));
        }
        self.signer(bucket).sign(request, None).await
    }
}
