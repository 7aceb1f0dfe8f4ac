//! S3 and stores with the same API.

use std::sync::Arc;

use async_trait::async_trait;
use crc_fast::CrcAlgorithm;
use reqsign_aws_v4::{Credential, DefaultCredentialProvider, RequestSigner, StaticCredentialProvider};
use reqsign_core::Signer;

use crate::{
    Backend, ClientSettings, Result,
    object_http::{CrcHeader, HttpStore, Vendor, context},
};

/// Address and credentials of an S3 store.
#[derive(Clone)]
pub struct S3Settings {
    /// Scheme, host and port, such as `http://127.0.0.1:9000`.
    pub endpoint: String,
    /// Region for which requests are signed.
    pub region: String,
    /// One bucket for all categories. If `None`, each category has its own bucket.
    pub bucket: Option<String>,
    /// Whether URLs have the bucket in the path instead of the host name.
    pub path_style: bool,
    /// Key id, secret, and the token of a temporary key. If `None`, credentials come from the
    /// environment, the usual files, or the metadata service of the machine.
    pub credentials: Option<(String, String, Option<String>)>,
    /// Connection settings.
    pub http: ClientSettings,
}

/// S3, `MinIO` and other stores with the S3 API.
pub(crate) struct S3 {
    scheme: String,
    authority: String,
    path_style: bool,
    region: String,
    signer: Signer<Credential>,
}

/// Creates an S3 backend. Does not contact the store.
pub fn s3(settings: S3Settings) -> Result<Arc<dyn Backend>> {
    Ok(Arc::new(open(settings)?))
}

pub(crate) fn open(settings: S3Settings) -> Result<HttpStore<S3>> {
    let (scheme, authority) = split_endpoint(&settings.endpoint);
    let builder = RequestSigner::new("s3", &settings.region);
    let signer = match settings.credentials {
        Some((id, secret, token)) => {
            let provider = StaticCredentialProvider::new(&id, &secret);
            let provider = token.iter().fold(provider, |provider, token| provider.with_session_token(token));
            Signer::new(context(), provider, builder)
        }
        None => Signer::new(context(), DefaultCredentialProvider::new(), builder),
    };
    let (path_style, region) = (settings.path_style, settings.region);
    let vendor = S3 { scheme, authority, path_style, region, signer };
    HttpStore::new(vendor, settings.bucket, &settings.http)
}

/// Splits an endpoint into scheme and authority.
pub(super) fn split_endpoint(endpoint: &str) -> (String, String) {
    let (scheme, rest) = endpoint.split_once("://").unwrap_or(("https", endpoint));
    (scheme.to_owned(), rest.trim_end_matches('/').to_owned())
}

#[async_trait]
impl Vendor for S3 {
    const NAME: &'static str = "s3";
    const CRC: CrcHeader =
        CrcHeader { name: "x-amz-checksum-crc64nvme", algorithm: CrcAlgorithm::Crc64Nvme, is_base64: true };

    fn bucket_url(&self, bucket: &str) -> String {
        let Self { scheme, authority, .. } = self;
        if self.path_style {
            format!("{scheme}://{authority}/{bucket}")
        } else {
            format!("{scheme}://{bucket}.{authority}")
        }
    }

    async fn sign(&self, _bucket: &str, request: &mut http::request::Parts) -> reqsign_core::Result<()> {
        self.signer.sign(request, None).await
    }

    fn bucket_configuration(&self) -> String {
        // S3 rejects a `LocationConstraint` that names its default region.
        if self.region == "us-east-1" {
            return String::new();
        }
        let region = quick_xml::escape::escape(&self.region);
        format!(
            "<CreateBucketConfiguration xmlns=\"http://s3.amazonaws.com/doc/2006-03-01/\">\
             <LocationConstraint>{region}</LocationConstraint></CreateBucketConfiguration>"
        )
    }
}
