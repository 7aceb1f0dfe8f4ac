use std::sync::Arc;

use futures_util::TryStreamExt;
use osproxy_storage::{
    Backend, ClientSettings,
    backends::{CosSettings, OssSettings, S3Settings, cos, oss, s3},
};
use rustix::process::{Pid, Signal};

use super::{SECRET, Settings, assert_one_problem, doctor, line, s3_at, settings};
use crate::support::{BlockMode, PATIENCE, command, eventually, start_blocking_proxy};

fn env(name: &str) -> String {
    std::env::var(name).expect("run this by `just test-servers`")
}

fn bucket(name: &str) -> String {
    format!("doctor-{name}-{}", std::process::id())
}

/// A store on one of the test servers: its settings, and direct access for the test.
struct Server {
    settings: Settings,
    store: Arc<dyn Backend>,
    /// Names of the settings for key id and secret.
    key: [&'static str; 2],
}

const KINDS: [&str; 4] = ["S3", "S3_PARTS", "COS", "OSS"];

impl Server {
    fn of(kind: &str, bucket: Option<&str>) -> Self {
        match kind {
            "COS" => Self::cos(bucket),
            "OSS" => Self::oss(bucket),
            _ => Self::s3(&env(&format!("OSPROXY_TEST_{kind}")), bucket),
        }
    }

    /// An S3 server at an endpoint.
    fn s3(endpoint: &str, bucket: Option<&str>) -> Self {
        let (id, secret) = (env("OSPROXY_TEST_S3_ID"), env("OSPROXY_TEST_S3_SECRET"));
        let mut settings = s3_at(endpoint);
        settings.retain(|(name, _)| name != "S3__BUCKET");
        settings.extend(bucket.map(|bucket| ("S3__BUCKET".to_owned(), bucket.to_owned())));
        let store = s3(S3Settings {
            endpoint: endpoint.to_owned(),
            region: "us-east-1".to_owned(),
            bucket: bucket.map(str::to_owned),
            path_style: true,
            credentials: Some((id.clone(), secret.clone(), None)),
            http: ClientSettings::default(),
        });
        let key = ["S3__ACCESS_KEY_ID", "S3__SECRET_ACCESS_KEY"];
        Self { settings, store: store.unwrap(), key }.with(key[0], &id).with(key[1], &secret)
    }

    fn cos(bucket: Option<&str>) -> Self {
        let (id, secret) = (env("OSPROXY_TEST_VENDORS_ID"), env("OSPROXY_TEST_VENDORS_SECRET"));
        let (endpoint, proxy) = ("http://cos.ap-test.myqcloud.com", env("OSPROXY_TEST_COS"));
        let mut settings = settings(&[
            ("COS__ENABLED", "true"),
            ("COS__ENDPOINT", endpoint),
            ("COS__APPID", "1250000000"),
            ("STORES__PROXY", &proxy),
        ]);
        settings.extend(bucket.map(|bucket| ("COS__BUCKET".to_owned(), bucket.to_owned())));
        let store = cos(CosSettings {
            endpoint: endpoint.to_owned(),
            appid: "1250000000".to_owned(),
            bucket: bucket.map(str::to_owned),
            credentials: Some((id.clone(), secret.clone(), None)),
            http: ClientSettings { proxy: Some(proxy), ..ClientSettings::default() },
        });
        let key = ["COS__SECRET_ID", "COS__SECRET_KEY"];
        Self { settings, store: store.unwrap(), key }.with(key[0], &id).with(key[1], &secret)
    }

    fn oss(bucket: Option<&str>) -> Self {
        let (id, secret) = (env("OSPROXY_TEST_VENDORS_ID"), env("OSPROXY_TEST_VENDORS_SECRET"));
        let (endpoint, proxy) = ("http://oss-cn-test.aliyuncs.com", env("OSPROXY_TEST_OSS"));
        let mut settings =
            settings(&[("OSS__ENABLED", "true"), ("OSS__ENDPOINT", endpoint), ("STORES__PROXY", &proxy)]);
        settings.extend(bucket.map(|bucket| ("OSS__BUCKET".to_owned(), bucket.to_owned())));
        let store = oss(OssSettings {
            endpoint: endpoint.to_owned(),
            region: "cn-test".to_owned(),
            bucket: bucket.map(str::to_owned),
            credentials: Some((id.clone(), secret.clone(), None)),
            http: ClientSettings { proxy: Some(proxy), ..ClientSettings::default() },
        });
        let key = ["OSS__ACCESS_KEY_ID", "OSS__ACCESS_KEY_SECRET"];
        Self { settings, store: store.unwrap(), key }.with(key[0], &id).with(key[1], &secret)
    }

    fn with(mut self, name: &str, value: &str) -> Self {
        self.settings.retain(|(known, _)| known != name);
        self.settings.push((name.to_owned(), value.to_owned()));
        self
    }

    /// Everything that `doctor` left in the store.
    async fn left(&self) -> Vec<String> {
        let objects: Vec<_> = self.store.list().await.unwrap().try_collect().await.unwrap();
        let uploads = self.store.multipart().unwrap().list_uploads(None).await.unwrap();
        let uploads: Vec<_> = uploads.try_collect().await.unwrap();
        let names = objects.into_iter().map(|object| object.name);
        let names = names.chain(uploads.into_iter().map(|upload| upload.name));
        names.filter(|name| name.contains("/doctor-")).collect()
    }
}

const PROBES: [&str; 11] =
    ["reach", "credentials", "clock", "buckets", "put", "get", "range", "parts", "abort", "list", "delete"];

#[tokio::test]
#[ignore = "needs servers: just test-servers"]
async fn a_store_that_is_well_is_told_so_and_left_as_it_was() {
    for kind in KINDS {
        let bucket = bucket("well");
        let server = Server::of(kind, Some(&bucket));
        server.store.prepare(true).await.unwrap();
        let (code, said) = doctor(&server.settings).await;
        let probes: Vec<_> = PROBES.iter().map(|probe| line(&said, "ok", probe)).collect();
        assert_eq!(probes[3], format!("found: {bucket}"));
        assert_eq!(said.lines().count(), 1 + PROBES.len() + 1, "{said}");
        assert_eq!((code, said.lines().last()), (0, Some("no problem found")));
        assert_eq!(server.left().await, [""; 0]);
    }
}

#[tokio::test]
#[ignore = "needs servers: just test-servers"]
async fn a_bucket_whose_name_is_mistyped_is_told_and_not_made() {
    for kind in KINDS {
        let bucket = bucket("mistyped");
        let server = Server::of(kind, Some(&bucket));
        for _ in 0..2 {
            let (code, said) = doctor(&server.settings).await;
            let what = line(&said, "warning", "buckets");
            assert!(what.starts_with(&format!("missing: {bucket}; check the name")), "{said}");
            assert!(said.contains("skipped  put, get, range, parts, abort, list, delete\n"), "{said}");
            let last = "no problem found, but some probes were skipped";
            assert_eq!((code, said.lines().last()), (0, Some(last)));
        }
        assert!(server.store.prepare(false).await.is_err(), "{kind}: the bucket was created");
    }
}

#[tokio::test]
#[ignore = "needs servers: just test-servers"]
async fn several_stores_are_looked_at_one_after_the_other() {
    let stores = Server::of("S3_PARTS", None);
    stores.store.prepare(true).await.unwrap();
    let mut both = stores.settings;
    both.extend(settings(&[("LOCAL__ENABLED", "true"), ("STORES__UPLOAD_TO", "s3")]));
    let (code, said) = doctor(&both).await;
    let buckets = line(&said, "ok", "buckets");
    assert!(buckets.ends_with(": image, video, audio, doc, archive, unknown"), "{buckets}");
    let stores: Vec<_> = said.lines().filter(|line| !line.starts_with(' ')).collect();
    assert!(stores[0].starts_with("s3: http://") && stores[1].starts_with("local: "), "{said}");
    assert_eq!((code, stores[2]), (0, "no problem found"));
    assert_eq!(Server::of("S3_PARTS", None).left().await, [""; 0]);
}

#[tokio::test]
#[ignore = "needs servers: just test-servers"]
async fn a_key_that_is_wrong_is_told() {
    // The other S3 server accepts every signature.
    for (kind, id, secret) in [
        ("S3", "s3.access_key_id", "s3.secret_access_key"),
        ("COS", "cos.secret_id", "cos.secret_key"),
        ("OSS", "oss.access_key_id", "oss.access_key_secret"),
    ] {
        let bucket = bucket("keys");
        for make in [false, true] {
            let server = Server::of(kind, Some(&bucket));
            server.store.prepare(make).await.unwrap_or_default();
            let key = server.key;
            let unknown = server.with(key[0], "no-such-key");
            let told = format!("the store does not know the access key; check `{id}`");
            assert_one_problem(&unknown.settings, "credentials", &told).await;
            let wrong = Server::of(kind, Some(&bucket)).with(key[1], SECRET);
            let told = format!("the secret does not match the access key; check `{secret}`");
            let said = assert_one_problem(&wrong.settings, "credentials", &told).await;
            assert_eq!(line(&said, "ok", "clock"), "matches the store");
            assert!(
                said.contains("skipped  buckets, put, get, range, parts, abort, list, delete\n"),
                "{said}"
            );
        }
    }
}

#[tokio::test]
#[ignore = "needs servers: just test-servers"]
async fn a_token_that_is_wrong_is_told() {
    for (kind, section) in [("COS", "cos"), ("OSS", "oss")] {
        let server = Server::of(kind, Some(&bucket("tokens")));
        let key = server.key;
        let temporary = server
            .with(key[0], &env("OSPROXY_TEST_VENDORS_TEMPORARY_ID"))
            .with(key[1], &env("OSPROXY_TEST_VENDORS_TEMPORARY_SECRET"))
            .with(&format!("{kind}__SESSION_TOKEN"), "not-the-token-of-this-key");
        assert_one_problem(&temporary.settings, "credentials", &format!("`{section}.session_token`")).await;
        let token = env("OSPROXY_TEST_VENDORS_TEMPORARY_TOKEN");
        let (code, said) = doctor(&temporary.with(&format!("{kind}__SESSION_TOKEN"), &token).settings).await;
        assert_eq!(code, 0, "{said}");
    }
}

#[tokio::test]
#[ignore = "needs servers: just test-servers"]
async fn buckets_that_are_missing_are_all_told_and_not_made() {
    for kind in KINDS {
        let bucket = bucket("missing");
        let server = Server::of(kind, Some(&bucket)).with("STORES__CREATE_BUCKETS", "false");
        for _ in 0..2 {
            let said =
                assert_one_problem(&server.settings, "buckets", "`stores.create_buckets` is off; create it")
                    .await;
            assert!(line(&said, "wrong", "buckets").ends_with(&format!("find bucket: not found: {bucket})")));
            assert!(said.contains("skipped  put, get, range, parts, abort, list, delete\n"), "{said}");
        }
    }
    // With buckets per category, some may be missing.
    let server = Server::of("COS", None).with("STORES__CREATE_BUCKETS", "false");
    if server.store.prepare(false).await.is_err() {
        assert_one_problem(&server.settings, "buckets", "image, video, audio, doc, archive, unknown").await;
    }
}

#[tokio::test]
#[ignore = "needs servers: just test-servers"]
async fn a_certificate_is_told_from_a_protocol() {
    let endpoint = env("OSPROXY_TEST_REDIS_TLS").replace("rediss:", "https:").replace("/0", "");
    let mut elsewhere = s3_at(&endpoint);
    assert_one_problem(&elsewhere, "reach", "the certificate is not trusted; set `stores.ca_file`").await;
    let ca = env("OSPROXY_TEST_CA");
    elsewhere.extend(settings(&[("STORES__CA_FILE", &ca)]));
    assert_one_problem(&elsewhere, "reach", "the store closes connections without an answer").await;
    let other_name = s3_at(&endpoint.replace("127.0.0.1", "localhost"));
    let other_name = [other_name, settings(&[("STORES__CA_FILE", &ca)])].concat();
    assert_one_problem(&other_name, "reach", "the certificate is for another host name").await;
}

/// A store behind a proxy that blocks some requests.
async fn with_blocked_requests(
    bucket: &str,
    method: &'static str,
    text: &'static str,
    how: BlockMode,
) -> Server {
    let endpoint = env("OSPROXY_TEST_S3_PARTS");
    Server::s3(&endpoint, Some(bucket)).store.prepare(true).await.unwrap();
    let target = endpoint.strip_prefix("http://").unwrap().to_owned();
    let address = start_blocking_proxy(target, method, text, how).await;
    let meddled = Server::s3(&format!("http://{address}"), Some(bucket));
    Server { store: Server::s3(&endpoint, Some(bucket)).store, ..meddled }
}

#[tokio::test]
#[ignore = "needs servers: just test-servers"]
async fn what_fails_half_way_is_told_and_nothing_is_left() {
    let bucket = bucket("half");
    for (method, text, probe, skipped) in [
        ("PUT", "partNumber=1&", "parts", "abort"),
        ("POST", "uploadId=", "parts", "abort"),
        ("GET", "marker=", "list", ""),
        ("GET", "?uploads=", "abort", ""),
    ] {
        let server = with_blocked_requests(&bucket, method, text, BlockMode::Refuse).await;
        let (code, said) = doctor(&server.settings).await;
        assert!(line(&said, "wrong", probe).contains("the access key lacks permissions"), "{said}");
        assert_eq!(code, 1);
        assert!(skipped.is_empty() || said.contains(&format!("skipped  {skipped}\n")), "{said}");
        line(&said, "ok", "delete");
        assert_eq!(server.left().await, [""; 0], "{said}");
    }
}

#[tokio::test]
#[ignore = "needs servers: just test-servers"]
async fn what_is_stopped_half_way_leaves_nothing() {
    let bucket = bucket("stopped");
    for (signal, method, text) in [
        (Signal::TERM, "POST", "uploadId="),
        (Signal::INT, "PUT", "partNumber=1&"),
        (Signal::TERM, "GET", "marker="),
    ] {
        let server = with_blocked_requests(&bucket, method, text, BlockMode::Ignore)
            .await
            .with("STORES__TIMEOUT", "60");
        let folder = tempfile::tempdir().unwrap();
        let mut process = command(folder.path(), &server.settings, &[]).arg("doctor").spawn().unwrap();
        eventually("it has written an object", async || (!server.left().await.is_empty()).then_some(()))
            .await;
        eventually("the multipart upload has started", async || {
            (server.left().await.len() > 1 || text == "marker=").then_some(())
        })
        .await;
        let pid = Pid::from_raw(i32::try_from(process.id().unwrap()).unwrap()).unwrap();
        rustix::process::kill_process(pid, signal).unwrap();
        let status = tokio::time::timeout(PATIENCE, process.wait()).await.expect("it does not end").unwrap();
        assert_eq!(status.code(), Some(1));
        assert_eq!(server.left().await, [""; 0]);
    }
}
