use std::{
    sync::{
        Arc,
        atomic::{AtomicU32, Ordering},
    },
    thread,
};

use futures_util::TryStreamExt;
use osproxy_storage::{
    Backend, Category, ClientSettings, Key, SizeHint,
    backends::{CosSettings, OssSettings, S3Settings, cos, oss, s3},
};

use super::{FaultyProxy, host_and_port};

/// The store servers that the test script starts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum StoreServer {
    /// rclone, which checks signatures.
    S3,
    /// The objects of [`S3`](Self::S3) over TLS, with a certificate of the CA of the tests.
    S3Tls,
    /// moto, which accepts every signature, and keeps parts separate as S3 does.
    S3Parts,
    /// Stands in for Tencent COS; checks signatures.
    Cos,
    /// Stands in for Aliyun OSS; checks signatures.
    Oss,
}

impl StoreServer {
    /// Servers that keep parts separate until the upload is completed, as real stores do.
    pub const KEEPING_PARTS: [Self; 3] = [Self::S3Parts, Self::Cos, Self::Oss];
}

/// A store for one test: one bucket of the test, or a bucket for each category.
#[derive(Clone)]
pub struct Store {
    pub server: StoreServer,
    bucket: Option<String>,
}

static NEXT: AtomicU32 = AtomicU32::new(0);

fn env(name: &str) -> String {
    std::env::var(name).unwrap_or_else(|_| panic!("{name} is not set: run this by `just test-servers`"))
}

const COS: &str = "http://cos.ap-test.myqcloud.com";
const OSS: &str = "http://oss-cn-test.aliyuncs.com";
const APPID: &str = "1250000000";

impl Store {
    /// The store that `OSPROXY_TEST_STORE` names (`s3`, `s3-parts`, `cos`, `oss`), if it is set.
    pub fn from_environment() -> Option<Self> {
        let server = match std::env::var("OSPROXY_TEST_STORE").as_deref() {
            Err(_) | Ok("") => return None,
            Ok("s3") => StoreServer::S3,
            Ok("s3-parts") => StoreServer::S3Parts,
            Ok("cos") => StoreServer::Cos,
            Ok("oss") => StoreServer::Oss,
            Ok(other) => panic!("OSPROXY_TEST_STORE is {other}"),
        };
        Some(Self::new(server))
    }

    pub fn new(server: StoreServer) -> Self {
        let bucket = format!("it-{}-{}", std::process::id(), NEXT.fetch_add(1, Ordering::Relaxed));
        if matches!(server, StoreServer::S3 | StoreServer::S3Tls) {
            // rclone removes a folder with its last object, also while it writes a new object there
            // (error 500). A folder in it, which is not an object, prevents that. The bucket, which
            // is a folder too, exists from now on.
            let folder = std::path::Path::new(&env("OSPROXY_TEST_S3_FOLDER")).join(&bucket);
            for category in Category::ALL {
                std::fs::create_dir_all(folder.join(category.as_str()).join("kept")).unwrap();
            }
        }
        Self { server, bucket: Some(bucket) }
    }

    /// A store with one bucket per category, as in the Go program. Tests share these buckets.
    pub fn with_category_buckets(server: StoreServer) -> Self {
        Self { server, bucket: None }
    }

    /// The URL of the server.
    fn url(&self) -> String {
        env(match self.server {
            StoreServer::S3 => "OSPROXY_TEST_S3",
            StoreServer::S3Tls => "OSPROXY_TEST_S3_TLS",
            StoreServer::S3Parts => "OSPROXY_TEST_S3_PARTS",
            StoreServer::Cos => "OSPROXY_TEST_COS",
            StoreServer::Oss => "OSPROXY_TEST_OSS",
        })
    }

    /// Id and secret of the access key.
    pub fn key(&self) -> (String, String) {
        let owner = match self.server {
            StoreServer::S3 | StoreServer::S3Tls | StoreServer::S3Parts => "S3",
            StoreServer::Cos | StoreServer::Oss => "VENDORS",
        };
        let key = |what: &str| env(&format!("OSPROXY_TEST_{owner}_{what}"));
        (key("ID"), key("SECRET"))
    }

    /// Id, secret and token of the temporary access key that the COS and OSS servers accept.
    pub fn temporary_key() -> (String, String, String) {
        let key = |what: &str| env(&format!("OSPROXY_TEST_VENDORS_TEMPORARY_{what}"));
        (key("ID"), key("SECRET"), key("TOKEN"))
    }

    /// The host and port of the server.
    pub fn address(&self) -> String {
        host_and_port(&self.url())
    }

    /// The settings of a service for this store, named as environment variables without the prefix
    /// `OSPROXY__`.
    pub fn settings(&self) -> Vec<(String, String)> {
        self.settings_at(&self.url())
    }

    /// Like [`settings`](Self::settings), but the service reaches the store through `proxy`.
    pub fn settings_through(&self, proxy: &FaultyProxy) -> Vec<(String, String)> {
        self.settings_at(&format!("http://{}", proxy.address))
    }

    fn settings_at(&self, url: &str) -> Vec<(String, String)> {
        let (id, secret) = self.key();
        let bucket = self.bucket.as_deref().unwrap_or_default();
        let mut settings = match self.server {
            StoreServer::S3 | StoreServer::S3Tls | StoreServer::S3Parts => vec![
                ("S3__ENABLED", "true"),
                ("S3__ENDPOINT", url),
                ("S3__BUCKET", bucket),
                ("S3__ACCESS_KEY_ID", &id),
                ("S3__SECRET_ACCESS_KEY", &secret),
            ],
            StoreServer::Cos => vec![
                ("COS__ENABLED", "true"),
                ("COS__ENDPOINT", COS),
                ("COS__APPID", APPID),
                ("COS__BUCKET", bucket),
                ("COS__SECRET_ID", &id),
                ("COS__SECRET_KEY", &secret),
                ("STORES__PROXY", url),
            ],
            StoreServer::Oss => vec![
                ("OSS__ENABLED", "true"),
                ("OSS__ENDPOINT", OSS),
                ("OSS__BUCKET", bucket),
                ("OSS__ACCESS_KEY_ID", &id),
                ("OSS__ACCESS_KEY_SECRET", &secret),
                ("STORES__PROXY", url),
            ],
        };
        settings.retain(|(name, _)| self.bucket.is_some() || !name.ends_with("__BUCKET"));
        settings.into_iter().map(|(name, value)| (name.to_owned(), value.to_owned())).collect()
    }

    /// The name of the bucket. Empty if each category has a bucket.
    pub fn bucket(&self) -> &str {
        self.bucket.as_deref().unwrap_or_default()
    }

    /// Environment variables with which rclone accesses this S3 server as the remote `store`.
    pub fn rclone(&self) -> [(&'static str, String); 6] {
        let (id, secret) = self.key();
        [
            ("RCLONE_CONFIG", "/dev/null".to_owned()),
            ("RCLONE_CONFIG_STORE_TYPE", "s3".to_owned()),
            ("RCLONE_CONFIG_STORE_PROVIDER", "Other".to_owned()),
            ("RCLONE_CONFIG_STORE_ENDPOINT", self.url()),
            ("RCLONE_CONFIG_STORE_ACCESS_KEY_ID", id),
            ("RCLONE_CONFIG_STORE_SECRET_ACCESS_KEY", secret),
        ]
    }

    /// A backend for direct access to the objects.
    pub fn backend(&self) -> Arc<dyn Backend> {
        let (id, secret) = self.key();
        let (bucket, credentials) = (self.bucket.clone(), Some((id, secret, None)));
        let ca = (self.server == StoreServer::S3Tls).then(|| env("OSPROXY_TEST_CA").into());
        let http = ClientSettings { ca, ..ClientSettings::default() };
        let through = ClientSettings { proxy: Some(self.url()), ..ClientSettings::default() };
        match self.server {
            StoreServer::S3 | StoreServer::S3Tls | StoreServer::S3Parts => {
                let (endpoint, region) = (self.url(), "us-east-1".to_owned());
                let path_style = true;
                s3(S3Settings { endpoint, region, bucket, path_style, credentials, http }).unwrap()
            }
            StoreServer::Cos => {
                let (endpoint, appid) = (COS.to_owned(), APPID.to_owned());
                cos(CosSettings { endpoint, appid, bucket, credentials, http: through }).unwrap()
            }
            StoreServer::Oss => {
                let (endpoint, region) = (OSS.to_owned(), "cn-test".to_owned());
                oss(OssSettings { endpoint, region, bucket, credentials, http: through }).unwrap()
            }
        }
    }

    /// Writes an object, and creates the bucket if it is missing.
    pub async fn put(&self, key: &str, content: &[u8]) {
        let store = self.backend();
        store.prepare(true).await.unwrap();
        let size = SizeHint::Exact(content.len() as u64);
        let mut writer = store.create(&Key::parse(key).unwrap(), size).await.unwrap();
        writer.write(content.to_vec().into()).await.unwrap();
        writer.finish().await.unwrap();
        writer.publish().await.unwrap();
    }

    /// The keys of all objects. Also contains the key of each multipart upload, followed by `+`.
    pub fn objects(&self) -> Vec<String> {
        let store = self.clone();
        // Use a new thread and runtime: a thread of a runtime must not block on a future.
        let listing = thread::spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
            runtime.block_on(async {
                let store = store.backend();
                let listed: Vec<_> = store.list().await.unwrap().try_collect().await.unwrap();
                let uploads = store.multipart().unwrap().list_uploads(None).await.unwrap();
                let uploads: Vec<_> = uploads.try_collect().await.unwrap();
                let mut found: Vec<_> = listed.into_iter().map(|object| object.name).collect();
                found.extend(uploads.into_iter().map(|upload| upload.name + "+"));
                found.sort();
                found
            })
        });
        listing.join().unwrap()
    }
}
