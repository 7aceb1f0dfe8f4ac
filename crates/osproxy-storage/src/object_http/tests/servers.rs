//! Addresses of the servers that the test script starts, and stores opened on them.

use async_trait::async_trait;
use http::{HeaderValue, header, request::Parts};

use super::super::{CrcHeader, HttpStore, Vendor};
use crate::{
    ClientSettings,
    backends::{Cos, CosSettings, Oss, OssSettings, S3, S3Settings, open_cos, open_oss, open_s3},
};

/// Key id, secret, and the token of a temporary key.
pub(super) type Credentials = (String, String, Option<String>);

fn env(name: &str) -> String {
    #[expect(clippy::disallowed_methods, reason = "the test script sets the addresses of its servers")]
    std::env::var(name).expect("run this test with `just test-servers`")
}

/// The name of a bucket of this test run.
pub(super) fn bucket(name: &str) -> String {
    format!("{name}-{}", std::process::id())
}

/// A vendor whose test server verifies signatures.
pub(super) trait TestedVendor: Vendor + Sized {
    /// Whether the test server stores parts separately until completion, as the vendor's servers
    /// do.
    const KEEPS_PARTS: bool;

    /// The key that the test server accepts.
    fn credentials() -> Credentials;

    /// Opens a store in one bucket of this test run; if `name` is `None`, with a bucket for each
    /// category.
    fn open_as(name: Option<&str>, credentials: Credentials) -> HttpStore<Self>;

    fn open(name: Option<&str>) -> HttpStore<Self> {
        Self::open_as(name, Self::credentials())
    }
}

impl TestedVendor for S3 {
    const KEEPS_PARTS: bool = false;

    fn credentials() -> Credentials {
        (env("OSPROXY_TEST_S3_ID"), env("OSPROXY_TEST_S3_SECRET"), None)
    }

    fn open_as(name: Option<&str>, credentials: Credentials) -> HttpStore<Self> {
        s3_at("OSPROXY_TEST_S3", name, credentials)
    }
}

/// Opens a store on the second S3 server, which stores parts separately but accepts every
/// signature. The first S3 server verifies signatures, but appends parts as they arrive.
pub(super) fn s3_that_keeps_parts(name: &str) -> HttpStore<S3> {
    s3_at("OSPROXY_TEST_S3_PARTS", Some(name), S3::credentials())
}

fn s3_at(server: &str, name: Option<&str>, credentials: Credentials) -> HttpStore<S3> {
    let settings = S3Settings {
        endpoint: env(server),
        region: "us-east-1".to_owned(),
        bucket: name.map(bucket),
        path_style: true,
        credentials: Some(credentials),
        http: ClientSettings::default(),
    };
    open_s3(settings).unwrap()
}

impl TestedVendor for Cos {
    const KEEPS_PARTS: bool = true;

    fn credentials() -> Credentials {
        vendor_credentials()
    }

    fn open_as(name: Option<&str>, credentials: Credentials) -> HttpStore<Self> {
        let settings = CosSettings {
            endpoint: "http://cos.ap-test.myqcloud.com".to_owned(),
            appid: "1250000000".to_owned(),
            bucket: name.map(bucket),
            credentials: Some(credentials),
            http: proxied("OSPROXY_TEST_COS"),
        };
        open_cos(settings).unwrap()
    }
}

impl TestedVendor for Oss {
    const KEEPS_PARTS: bool = true;

    fn credentials() -> Credentials {
        vendor_credentials()
    }

    fn open_as(name: Option<&str>, credentials: Credentials) -> HttpStore<Self> {
        let settings = OssSettings {
            endpoint: "http://oss-cn-test.aliyuncs.com".to_owned(),
            region: "cn-test".to_owned(),
            bucket: name.map(bucket),
            credentials: Some(credentials),
            http: proxied("OSPROXY_TEST_OSS"),
        };
        open_oss(settings).unwrap()
    }
}

fn vendor_credentials() -> Credentials {
    (env("OSPROXY_TEST_VENDORS_ID"), env("OSPROXY_TEST_VENDORS_SECRET"), None)
}

/// The temporary key that the COS and OSS servers accept.
pub(super) fn temporary_credentials() -> Credentials {
    let key = |what: &str| env(&format!("OSPROXY_TEST_VENDORS_TEMPORARY_{what}"));
    (key("ID"), key("SECRET"), Some(key("TOKEN")))
}

/// The stand-ins for COS and OSS are proxies. So requests are signed for the real host names, which
/// are never resolved.
fn proxied(server: &str) -> ClientSettings {
    ClientSettings { proxy: Some(env(server)), ..ClientSettings::default() }
}

/// Signs each request for an address that differs from the real address.
pub(super) struct WrongSigner<V> {
    pub(super) vendor: V,
    pub(super) signed_as: fn(&str) -> String,
}

#[async_trait]
impl<V: Vendor> Vendor for WrongSigner<V> {
    const NAME: &'static str = V::NAME;
    const CRC: CrcHeader = V::CRC;

    fn bucket_url(&self, bucket: &str) -> String {
        self.vendor.bucket_url(bucket)
    }

    async fn sign(&self, bucket: &str, request: &mut Parts) -> reqsign_core::Result<()> {
        let (uri, host) = (request.uri.clone(), request.headers[header::HOST].clone());
        let signed_as = (self.signed_as)(&uri.to_string());
        request.uri = signed_as.parse().unwrap();
        let authority = request.uri.authority().unwrap().as_str();
        request.headers.insert(header::HOST, HeaderValue::from_str(authority).unwrap());
        let signed = self.vendor.sign(&(self.signed_as)(bucket), request).await;
        request.uri = uri;
        request.headers.insert(header::HOST, host);
        signed
    }
}
