//! Store keys outside the configuration: from files, the environment, and instance metadata
//! services.

use std::time::Duration;

use axum::{Json, Router, http::HeaderMap, routing};
use osproxy::{config::ServerSection, wiring::http::listener_settings};
use osproxy_http as http;
use serde_json::json;
use tempfile::TempDir;
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;

use crate::support::{Database, Service, Store, StoreServer, content};

/// Starts with the settings of a store without its key, and with environment variables as clouds
/// and their tools set them. The stored object must be readable with the key.
async fn assert_stores_with(
    store: &Store,
    folder: TempDir,
    settings: &[(&str, &str)],
    environment: &[(&str, &str)],
) {
    let database = Database::create(folder.path()).await;
    let mut known = database.settings();
    let is_key = |name: &str| name.contains("ACCESS_KEY") || name.contains("SECRET");
    known.extend(store.settings().into_iter().filter(|(name, _)| !is_key(name)));
    let set: Vec<_> = environment.iter().map(|(name, value)| format!("{name}={value}")).collect();
    let mut wrapper = vec!["env"];
    wrapper.extend(set.iter().map(String::as_str));
    let service = Service::start_at(folder, database, known, settings, &wrapper).await;
    let uid = service.store("x.bin", &content(1, 1000)).await;
    assert!(store.objects().contains(&format!("unknown/{uid}.bin")));
    assert!(!service.log().contains(&store.key().1), "the secret is in the log");
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs servers: just test-servers"]
async fn keys_come_from_files() {
    for (server, id_name, file_name) in [
        (StoreServer::S3, "S3__ACCESS_KEY_ID", "S3__SECRET_ACCESS_KEY_FILE"),
        (StoreServer::Cos, "COS__SECRET_ID", "COS__SECRET_KEY_FILE"),
        (StoreServer::Oss, "OSS__ACCESS_KEY_ID", "OSS__ACCESS_KEY_SECRET_FILE"),
    ] {
        let (store, folder) = (Store::new(server), tempfile::tempdir().unwrap());
        let (id, secret) = store.key();
        std::fs::write(folder.path().join("secret"), format!("{secret}\n")).unwrap();
        assert_stores_with(&store, folder, &[(id_name, &id), (file_name, "secret")], &[]).await;
    }
    // As the vendors' tools store them.
    let (store, folder) = (Store::new(StoreServer::S3), tempfile::tempdir().unwrap());
    let (id, secret) = store.key();
    let text = format!("[default]\naws_access_key_id = {id}\naws_secret_access_key = {secret}\n");
    std::fs::write(folder.path().join("credentials"), text).unwrap();
    assert_stores_with(&store, folder, &[], &[("AWS_SHARED_CREDENTIALS_FILE", "credentials")]).await;
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs servers: just test-servers"]
async fn keys_come_from_the_environment() {
    for (server, names) in [
        (StoreServer::S3, ["AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"]),
        (StoreServer::Cos, ["TENCENTCLOUD_SECRET_ID", "TENCENTCLOUD_SECRET_KEY"]),
        (StoreServer::Oss, ["ALIBABA_CLOUD_ACCESS_KEY_ID", "ALIBABA_CLOUD_ACCESS_KEY_SECRET"]),
    ] {
        let store = Store::new(server);
        let (id, secret) = store.key();
        let environment = [(names[0], id.as_str()), (names[1], secret.as_str())];
        assert_stores_with(&store, tempfile::tempdir().unwrap(), &[], &environment).await;
    }
}

/// The metadata services of Amazon and Aliyun, as far as they can be simulated.
#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs servers: just test-servers"]
async fn keys_come_from_the_machine() {
    let store = Store::new(StoreServer::S3);
    let (id, secret) = store.key();
    let later = "2099-01-01T00:00:00Z";
    let answer = json!({"Code": "Success", "Type": "AWS-HMAC", "AccessKeyId": id, "SecretAccessKey": secret,
        "Token": "token", "LastUpdated": "2026-01-01T00:00:00Z", "Expiration": later});
    let roles = "/latest/meta-data/iam/security-credentials/";
    let asked =
        |headers: HeaderMap| headers.get("x-aws-ec2-metadata-token").is_some_and(|token| token == "it");
    let router = Router::new()
        .route("/latest/api/token", routing::put(async || "it"))
        .route(roles, routing::get(async move |headers| if asked(headers) { "role" } else { "" }))
        .route(&format!("{roles}role"), routing::get(async move || Json(answer)));
    let endpoint = serve(router).await;
    let environment = [("AWS_EC2_METADATA_SERVICE_ENDPOINT", endpoint.as_str())];
    assert_stores_with(&store, tempfile::tempdir().unwrap(), &[], &environment).await;

    let store = Store::new(StoreServer::Oss);
    let (id, secret, token) = Store::temporary_key();
    let answer = json!({"Code": "Success", "AccessKeyId": id, "AccessKeySecret": secret, "SecurityToken": token,
        "Expiration": later});
    let router = Router::new().route("/key", routing::get(async move || Json(answer)));
    let uri = format!("{}/key", serve(router).await);
    assert_stores_with(&store, tempfile::tempdir().unwrap(), &[], &[("ALIBABA_CLOUD_CREDENTIALS_URI", &uri)])
        .await;
}

async fn serve(router: Router) -> String {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(async move {
        let never = CancellationToken::new();
        let settings = listener_settings(&ServerSection::default());
        http::listener::serve(listener, router, settings, None, never, Duration::ZERO).await;
    });
    format!("http://{address}")
}
