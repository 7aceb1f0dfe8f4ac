//! API keys and tenants: who is admitted, and what other tenants cannot see.

use std::{collections::BTreeMap, os::unix::fs::PermissionsExt};

use osproxy_api::grpc::v1::{self as pb, CopyFileRequest};
use osproxy_api::v1::{CreatedState, CreatedUpload, File, Files};
use reqwest::{Method, Response};
use serde_json::{Value, json};

use crate::cluster::stack;
use crate::support::{
    Api, Database, Nginx, Service, command, content, eventually, expect_json, expect_problem, md5_hex,
    spawn_failing,
};

/// An operation of the OpenAPI document, and the scope it requires, if any.
struct Operation {
    method: Method,
    path: String,
    scope: Option<String>,
    /// A link also authorizes it.
    or_link: bool,
}

fn operations() -> Vec<Operation> {
    let document: Value = serde_json::from_str(include_str!("../../../../docs/openapi.json")).unwrap();
    let mut found = Vec::new();
    for (path, item) in document["paths"].as_object().unwrap() {
        for (method, operation) in item.as_object().unwrap() {
            let security = operation["security"].as_array().cloned().unwrap_or_default();
            let scope = security.iter().find_map(|one| one["api_key"][0].as_str().map(str::to_owned));
            found.push(Operation {
                method: method.to_uppercase().parse().unwrap(),
                path: path
                    .replace("{uid}", "1")
                    .replace("{id}", "1")
                    .replace("{number}", "1")
                    .replace("{bucket}", "none"),
                scope,
                or_link: security.len() > 1,
            });
        }
    }
    found
}

async fn send(api: &Api, operation: &Operation) -> Response {
    // API v1 has the uid in the path, and reads any query parameter as part of a signed link.
    let query =
        if operation.or_link && operation.path.starts_with("/api/storage/v0") { "?uid=1" } else { "" };
    let url = api.url(&format!("{}{query}", operation.path));
    let request = api.client().request(operation.method.clone(), url);
    let has_body = [Method::POST, Method::PATCH].contains(&operation.method);
    if has_body { request.json(&json!({})) } else { request }.send().await.unwrap()
}

#[tokio::test]
async fn no_operation_is_done_without_a_key_or_without_its_scope() {
    let service = Service::start().await;
    let mut keys = BTreeMap::new();
    for scope in ["upload", "read", "delete", "admin"] {
        keys.insert(scope, service.with_key(&service.create_key(&["--scopes", scope]).await));
    }
    let made_up = format!("osk_{}_{}", "0".repeat(12), "0".repeat(64));
    let strangers =
        [service.without_key(), service.with_key("x"), service.with_key("osk_"), service.with_key(&made_up)];
    let mut scoped = 0;
    for operation in operations() {
        let what = format!("{} {}", operation.method, operation.path);
        let Some(scope) = &operation.scope else {
            let answer = send(&strangers[0], &operation).await;
            assert_ne!(answer.status(), 401, "{what}");
            continue;
        };
        scoped += 1;
        for stranger in &strangers {
            let answer = send(stranger, &operation).await;
            assert_eq!(answer.status(), 401, "{what}");
            assert_eq!(answer.headers()["www-authenticate"], r#"Bearer realm="osproxy""#);
            assert_eq!(answer.headers()["osproxy-error"], "unauthenticated");
        }
        for (name, holder) in &keys {
            let answer = send(holder, &operation).await;
            let is_refused =
                answer.headers().get("osproxy-error").is_some_and(|it| it == "permission_denied");
            assert_eq!(is_refused, name != scope, "{what} with a key for {name}: {}", answer.status());
            assert_eq!(answer.status() == 403, is_refused, "{what}");
        }
    }
    assert_eq!(scoped, 41);
}

#[tokio::test]
async fn a_stranger_finds_out_nothing_about_another_tenants_file() {
    let service = Service::start().await;
    let ours = service.with_key(&service.create_key(&["--tenant", "ours"]).await);
    let theirs = service.with_key(&service.create_key(&["--tenant", "theirs"]).await);
    let bytes = content(1, 300_000);
    let stored = ours.store("secret.bin", &bytes).await;
    let pending = ours.upload_link("pending.bin").await.uid;
    let deleted = ours.store("deleted.bin", b"gone").await;
    assert_eq!(ours.v1(Method::DELETE, &format!("/files/{deleted}"), None).await.status(), 204);
    // The answers must be the same for every uid, including one that never existed.
    let mut told = Vec::new();
    for uid in [&stored, &pending, &deleted, "1"] {
        let file = format!("/files/{uid}");
        let mut details = Vec::new();
        for answer in [
            theirs.v1_get(&file).await,
            theirs.v1(Method::PATCH, &file, Some(&json!({"name": "x"}))).await,
            theirs.v1(Method::DELETE, &file, None).await,
            theirs.v1_post(&format!("{file}/copy"), &json!({})).await,
            theirs.v1_post(&format!("{file}/links"), &json!({"expires_in": 60})).await,
        ] {
            details.push(expect_problem(answer, 404, "file_not_found").await["detail"].clone());
        }
        let checkpoint = theirs.get(&format!("/api/storage/v0/checkpoint?uid={uid}")).await;
        assert_eq!(checkpoint.status(), 404);
        assert!(theirs.download_link(uid).await.is_none());
        told.push(details);
    }
    assert!(told.iter().all(|details| *details == told[3]), "{told:?}");
    let listed: Files = expect_json(theirs.v1_get("/files").await, 200).await;
    assert_eq!(listed.files.len(), 0);
    // Deduplication does not reveal the content of another tenant.
    let md5 = md5_hex(&bytes);
    assert_eq!(theirs.instant_upload(&[(&md5, "x")]).await[0].uid, "");
    let wish = json!({"name": "x", "size": bytes.len(), "md5": md5});
    assert_eq!(theirs.create_upload(&wish).await.state, CreatedState::Pending);
    assert_eq!(ours.create_upload(&wish).await.state, CreatedState::Stored);
    // The other tenant's copy is a blob of its own; deleting it removes nothing else.
    let copy = theirs.store("x.bin", &bytes).await;
    assert_eq!(service.sql("SELECT id FROM blobs WHERE state = 'stored'").await.len(), 2);
    assert_eq!(theirs.v1(Method::DELETE, &format!("/files/{copy}"), None).await.status(), 204);
    service.database().wait_until_idle().await;
    assert!(ours.read(&stored).await == bytes);
    let listed: Files = expect_json(ours.v1_get("/files").await, 200).await;
    assert_eq!(listed.files.len(), 3);
}

#[tokio::test]
async fn what_was_merged_is_shared_within_its_tenant_alone() {
    let service = Service::start().await;
    let ours = service.with_key(&service.create_key(&["--tenant", "ours"]).await);
    let theirs = service.with_key(&service.create_key(&["--tenant", "theirs"]).await);
    let bytes = content(2, 400_000);
    for tenant in [&ours, &ours, &theirs] {
        let uid = tenant.store_in_parts("x.bin", &bytes, 150_000).await;
        service.database().wait_until_idle().await;
        assert!(tenant.read(&uid).await == bytes);
    }
    let blobs = service.sql("SELECT tenant FROM blobs WHERE state = 'stored' ORDER BY tenant").await;
    assert_eq!(blobs, ["ours", "theirs"]);
    assert_eq!(service.sql("SELECT refs FROM blobs ORDER BY tenant").await, ["2", "1"]);
}

#[tokio::test]
async fn tenants_may_use_the_same_idempotency_key() {
    let service = Service::start().await;
    let mut uids = Vec::new();
    for tenant in ["ours", "theirs"] {
        let api = service.with_key(&service.create_key(&["--tenant", tenant]).await);
        let url = api.url("/api/v1/uploads");
        for _ in 0..2 {
            let request = api.client().post(&url).header("idempotency-key", "k");
            let answer = request.json(&json!({"name": "x"})).send().await.unwrap();
            uids.push(expect_json::<CreatedUpload>(answer, 201).await.uid);
        }
    }
    assert_eq!(uids[0], uids[1]);
    assert_eq!(uids[2], uids[3]);
    assert_ne!(uids[0], uids[2]);
}

#[tokio::test]
async fn a_key_that_was_revoked_or_is_too_old_opens_nothing() {
    let service = Service::start().await;
    let (revoked, old) =
        (service.create_key(&[]).await, service.create_key(&["--expires", "1", "--label", "old one"]).await);
    for key in [&revoked, &old] {
        assert_eq!(service.with_key(key).v1_get("/files").await.status(), 200);
    }
    let link = service.with_key(&old).upload_link("x").await;
    let id = old.split('_').nth(1).unwrap();
    service.sql(&format!("UPDATE api_keys SET expires_at = 1 WHERE id = '{id}'")).await;
    let (code, said) = service.cli(&["key", "revoke", &revoked]).await;
    assert_eq!(code, 0, "{said}");
    for key in [&revoked, &old] {
        let api = service.with_key(key);
        eventually("the key is rejected", async || {
            (api.v1_get("/files").await.status() == 401).then_some(())
        })
        .await;
    }
    let (code, listed) = service.cli(&["key", "ls"]).await;
    assert_eq!(code, 0, "{listed}");
    let states: Vec<_> = listed.lines().skip(1).map(|line| line.split_whitespace().nth(1).unwrap()).collect();
    assert_eq!(states, ["active", "revoked", "expired"], "{listed}");
    assert!(!listed.contains(&old) && listed.contains("old one"), "{listed}");
    // With no key left, requests are still rejected. Links issued before go on working.
    let (code, said) = service.cli(&["key", "revoke", service.key().unwrap()]).await;
    assert_eq!(code, 0, "{said}");
    eventually("no key is valid", async || (service.v1_get("/files").await.status() == 401).then_some(()))
        .await;
    assert_eq!(service.without_key().v1_get("/files").await.status(), 401);
    assert_eq!(service.put(&link.url.single, b"x").await.status(), 200);
    for again in [revoked.as_str(), "nothing"] {
        let (code, said) = service.cli(&["key", "revoke", again]).await;
        assert_eq!(code, 1, "{said}");
        assert!(!said.contains(&revoked), "{said}");
    }
}

#[tokio::test]
async fn a_secret_is_kept_nowhere() {
    let mut service = Service::start_with(&[("LOG__LEVEL", "trace")]).await;
    let key = service.create_key(&[]).await;
    let secret = key.rsplit('_').next().unwrap();
    assert_eq!(service.with_key(&key).v1_get("/files").await.status(), 200);
    assert_eq!(service.with_key(&key).v1_get(&format!("/files/{secret}")).await.status(), 400);
    let wrong = key.replace(&secret[..8], "00000000");
    assert_eq!(service.with_key(&wrong).v1_get("/files").await.status(), 401);
    service.kill().await;
    let log = service.log();
    let lines: Vec<_> = log.lines().filter(|line| line.contains(secret)).collect();
    // Only the request path may contain it, because the client put it there.
    assert!(lines.iter().all(|line| line.contains("/files/")), "{lines:?}");
    assert!(!log.contains(&wrong));
    let bytes = hex::decode(secret).unwrap();
    for entry in std::fs::read_dir(service.folder().join("osproxy-data")).unwrap() {
        let path = entry.unwrap().path();
        if path.is_file() {
            let kept = std::fs::read(&path).unwrap();
            for form in [secret.as_bytes(), &bytes] {
                assert!(!kept.windows(form.len()).any(|window| window == form), "{}", path.display());
            }
        }
    }
}

#[tokio::test]
async fn too_many_requests_with_a_key_are_told_when_to_come_again() {
    let service = Service::start().await;
    let slow = service.with_key(&service.create_key(&["--rate", "2"]).await);
    let other = service.with_key(&service.create_key(&[]).await);
    let mut refused = None;
    for _ in 0..20 {
        let answer = slow.v1_get("/files").await;
        assert_eq!(other.v1_get("/files").await.status(), 200);
        if answer.status() != 200 {
            refused = Some(answer);
            break;
        }
    }
    let refused = refused.expect("every request was served");
    assert_eq!(refused.headers()["retry-after"], "1");
    expect_problem(refused, 429, "rate_limited").await;
    eventually("requests succeed", async || (slow.v1_get("/files").await.status() == 200).then_some(()))
        .await;
}

#[tokio::test]
async fn an_open_service_serves_everyone_and_knows_its_keys() {
    let service = Service::start_with(&[("AUTH__MODE", "open")]).await;
    let key = service.create_key(&["--tenant", "ours"]).await;
    let uid = service.with_key(&key).store("x", b"x").await;
    // A token of another service has no effect in open mode.
    for api in [service.without_key(), service.with_key("eyJhbGciOiJub25lIn0.e30.")] {
        assert_eq!(expect_json::<Files>(api.v1_get("/files").await, 200).await.files.len(), 0);
        expect_problem(api.v1_get(&format!("/files/{uid}")).await, 404, "file_not_found").await;
    }
    let file: File = expect_json(service.with_key(&key).v1_get(&format!("/files/{uid}")).await, 200).await;
    assert_eq!(file.uid, uid);
    // An invalid key of osproxy must not fall back to the default tenant.
    let broken = format!("{}0", &key[..key.len() - 1]);
    let broken = if broken == key { format!("{}1", &key[..key.len() - 1]) } else { broken };
    expect_problem(service.with_key(&broken).v1_get("/files").await, 401, "unauthenticated").await;
}

/// Returns the bootstrap key from the service's folder.
fn bootstrap_key(service: &Service) -> String {
    std::fs::read_to_string(service.folder().join("osproxy-data/bootstrap-key"))
        .unwrap()
        .trim_end()
        .to_owned()
}

#[tokio::test]
async fn the_first_start_makes_a_key_and_nobody_is_served_without_one() {
    let mut service = Service::start().await;
    let key = bootstrap_key(&service);
    let mode = std::fs::metadata(service.folder().join("osproxy-data/bootstrap-key")).unwrap().permissions();
    assert_eq!(mode.mode() & 0o777, 0o600);
    assert_eq!(
        service.ready_line(),
        format!(
            "osproxy is ready on {} (API key {key}, kept in osproxy-data/bootstrap-key)",
            service.url("")
        )
    );
    // It has every scope, in the tenant `default`.
    service.store("x.bin", b"x").await;
    assert_eq!(service.v1_get("/tasks").await.status(), 200);
    assert_eq!(service.get("/metrics").await.status(), 200);
    let (code, listed) = service.cli(&["key", "ls", "--json"]).await;
    assert_eq!(code, 0, "{listed}");
    let listed: Value = serde_json::from_str(&listed).unwrap();
    assert_eq!(listed["label"], "bootstrap");
    assert_eq!(listed["tenant"], "default");
    assert_eq!(listed["scopes"], "upload,read,delete,admin");
    // A proxied request also comes from this machine, whatever its headers.
    let stranger = service.without_key();
    for (name, value) in [("x-forwarded-for", "192.0.2.7"), ("host", "localhost"), ("origin", "null")] {
        for path in ["/api/v1/files", "/metrics", "/api/v1/stats"] {
            let request = stranger.client().get(stranger.url(path)).header(name, value);
            expect_problem(request.send().await.unwrap(), 401, "unauthenticated").await;
        }
    }
    // It is created once, printed once, and useless once revoked.
    service.kill_and_restart().await;
    assert_eq!(service.ready_line(), format!("osproxy is ready on {}", service.url("")));
    assert_eq!(bootstrap_key(&service), key);
    let (code, said) = service.cli(&["key", "revoke", &key]).await;
    assert_eq!(code, 0, "{said}");
    service.kill_and_restart().await;
    assert_eq!(service.ready_line(), format!("osproxy is ready on {}", service.url("")));
    expect_problem(service.v1_get("/files").await, 401, "unauthenticated").await;
    assert_eq!(service.sql("SELECT count(*) FROM api_keys").await, ["1"]);
}

#[tokio::test]
async fn a_start_that_was_cut_off_leaves_the_key_that_the_next_one_takes() {
    let mut service = Service::start().await;
    let key = bootstrap_key(&service);
    service.kill().await;
    // The file is written before the row is committed.
    service.sql("DELETE FROM api_keys").await;
    service.restart().await;
    assert!(service.ready_line().contains(&key), "{}", service.ready_line());
    assert_eq!(bootstrap_key(&service), key);
    assert_eq!(service.v1_get("/files").await.status(), 200);
    // A file without a valid key is rejected, and the error names the file.
    service.kill().await;
    service.sql("DELETE FROM api_keys").await;
    let file = service.folder().join("osproxy-data/bootstrap-key");
    std::fs::write(&file, "osk_").unwrap();
    let (status, _, complaint) =
        spawn_failing(service.folder(), &[], &["serve", "--listen", "127.0.0.1:0"]).await;
    assert_eq!(status.code(), Some(1));
    assert!(complaint.contains("osproxy-data/bootstrap-key"), "{complaint}");
}

#[tokio::test]
async fn where_there_is_a_key_no_other_is_made() {
    let folder = tempfile::tempdir().unwrap();
    let made = command(folder.path(), &[], &[]).args(["key", "create", "--init"]).output().await.unwrap();
    assert!(made.status.success(), "{made:?}");
    let key = String::from_utf8(made.stdout).unwrap();
    let database = Database::create(folder.path()).await;
    let service = Service::start_at(folder, database, Vec::new(), &[], &[]).await;
    assert_eq!(service.key(), None);
    assert_eq!(service.ready_line(), format!("osproxy is ready on {}", service.url("")));
    expect_problem(service.v1_get("/files").await, 401, "unauthenticated").await;
    assert_eq!(service.with_key(key.trim_end()).v1_get("/files").await.status(), 200);
    // No bootstrap key is created in open mode.
    let open = Service::start_with(&[("AUTH__MODE", "open")]).await;
    assert_eq!(open.key(), None);
    assert_eq!(open.v1_get("/files").await.status(), 200);
    assert_eq!(open.sql("SELECT count(*) FROM api_keys").await, ["0"]);
}

#[tokio::test]
#[ignore = "needs nginx: just test-servers"]
async fn a_plain_nginx_gives_nobody_rights() {
    let service = Service::start().await;
    let address = format!("{}:8880", stack::host()).parse().unwrap();
    let text = format!(
        "access_log off; server {{ listen {address}; location / {{ proxy_pass http://{}; }} }}",
        service.address
    );
    let nginx = Nginx::start_with_config(address, &text).await;
    let stranger = Api::new(nginx.address);
    expect_problem(stranger.v1_post("/uploads", &json!({"name": "x"})).await, 401, "unauthenticated").await;
    expect_problem(stranger.get("/metrics").await, 401, "unauthenticated").await;
    let owner = stranger.with_key(service.key().unwrap());
    assert_eq!(owner.v1_post("/uploads", &json!({"name": "x"})).await.status(), 201);
}

#[tokio::test]
async fn a_key_without_the_scope_read_is_told_nothing_of_files() {
    let service = Service::start().await;
    let secret = json!({"name": "secret.txt", "metadata": {"owner": "ann"}});
    let upload = service.create_upload(&secret).await;
    let uid = upload.uid.clone();
    assert_eq!(service.put(&upload.links.unwrap().content, b"content").await.status(), 200);
    let uploader = service.with_key(&service.create_key(&["--scopes", "upload"]).await);
    let file = format!("/files/{uid}");
    for patch in [json!({}), json!({"metadata": {"seen": "yes"}})] {
        let answer = uploader.v1(Method::PATCH, &file, Some(&patch)).await;
        assert_eq!(answer.status(), 204);
        assert_eq!(answer.text().await.unwrap(), "");
    }
    let answer = uploader.v1_post(&format!("{file}/copy"), &json!({})).await;
    let location = answer.headers()["location"].to_str().unwrap().to_owned();
    let told: Value = expect_json(answer, 201).await;
    let copy = told["uid"].as_str().unwrap();
    assert_eq!(told, json!({ "uid": copy }));
    assert_eq!(location, format!("/api/v1/files/{copy}"));
    let request = CopyFileRequest { uid: uid.clone(), ..CopyFileRequest::default() };
    let told = uploader.grpc().files.copy_file(request.clone()).await.unwrap().into_inner();
    assert_eq!(told, pb::File { uid: told.uid.clone(), ..pb::File::default() });
    // The calls took effect, and callers with the scope see the result.
    assert_eq!(service.describe(&uid).await.metadata["seen"], "yes");
    assert_eq!(service.describe(copy).await.name, "secret.txt");
    let told = service.grpc().files.copy_file(request).await.unwrap().into_inner();
    assert_eq!(told.name, "secret.txt");
}
