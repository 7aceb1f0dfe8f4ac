//! API keys and tenants: who is let in, and what others never see.

use std::collections::BTreeMap;

use osproxy_api::v1::{CreatedState, CreatedUpload, File, Files};
use reqwest::{Method, Response};
use serde_json::{Value, json};

use crate::support::{Api, Service, answered, command, content, eventually, md5_hex, problem, spawn_failing};

/// An operation of the document, and the scope that it takes, if it takes one.
struct Operation {
    method: Method,
    path: String,
    scope: Option<String>,
    /// It can be done by a link as well.
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
                path: path.replace("{uid}", "1").replace("{id}", "1").replace("{number}", "1"),
                scope,
                or_link: security.len() > 1,
            });
        }
    }
    found
}

async fn send(api: &Api, operation: &Operation) -> Response {
    let query = if operation.or_link { "?uid=1" } else { "" };
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
    let strangers = [
        Api::new(service.address),
        service.with_key("x"),
        service.with_key("osk_"),
        service.with_key(&made_up),
    ];
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
    assert_eq!(scoped, 18);
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
    // The same of each of them, and of one that never was.
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
            details.push(problem(answer, 404, "file_not_found").await["detail"].clone());
        }
        let checkpoint = theirs.get(&format!("/api/storage/v0/checkpoint?uid={uid}")).await;
        assert_eq!(checkpoint.status(), 404);
        assert!(theirs.download_link(uid).await.is_none());
        told.push(details);
    }
    assert!(told.iter().all(|details| *details == told[3]), "{told:?}");
    let listed: Files = answered(theirs.v1_get("/files").await, 200).await;
    assert_eq!(listed.files.len(), 0);
    // Nor that the content is there.
    let md5 = md5_hex(&bytes);
    assert_eq!(theirs.instant_upload(&[(&md5, "x")]).await[0].uid, "");
    let wish = json!({"name": "x", "size": bytes.len(), "md5": md5});
    assert_eq!(theirs.wish(&wish).await.state, CreatedState::Pending);
    assert_eq!(ours.wish(&wish).await.state, CreatedState::Stored);
    // What they send is theirs, and goes when they say so, and no other goes with it.
    let copy = theirs.store("x.bin", &bytes).await;
    assert_eq!(service.sql("SELECT id FROM blobs WHERE state = 'stored'").await.len(), 2);
    assert_eq!(theirs.v1(Method::DELETE, &format!("/files/{copy}"), None).await.status(), 204);
    service.database().settle().await;
    assert!(ours.read(&stored).await == bytes);
    let listed: Files = answered(ours.v1_get("/files").await, 200).await;
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
        service.database().settle().await;
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
            uids.push(answered::<CreatedUpload>(answer, 201).await.uid);
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
        eventually("the key is worth nothing", async || {
            (api.v1_get("/files").await.status() == 401).then_some(())
        })
        .await;
    }
    let (code, listed) = service.cli(&["key", "ls"]).await;
    assert_eq!(code, 0, "{listed}");
    let states: Vec<_> = listed.lines().skip(1).map(|line| line.split_whitespace().nth(1).unwrap()).collect();
    assert_eq!(states, ["revoked", "expired"], "{listed}");
    assert!(!listed.contains(&old) && listed.contains("old one"), "{listed}");
    // No key is left, and nobody is let in for that; links that were made go on.
    assert_eq!(Api::new(service.address).v1_get("/files").await.status(), 401);
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
    // The path that the client put it into is the client's doing.
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
    problem(refused, 429, "rate_limited").await;
    eventually("it may come again", async || (slow.v1_get("/files").await.status() == 200).then_some(()))
        .await;
}

#[tokio::test]
async fn a_proxy_on_this_machine_does_not_stand_for_it() {
    let service = Service::start().await;
    for header in ["forwarded", "x-forwarded-for", "x-real-ip"] {
        let url = service.url("/api/v1/files");
        let answer = service.client().get(url).header(header, "127.0.0.1").send().await.unwrap();
        problem(answer, 401, "unauthenticated").await;
    }
    assert_eq!(service.v1_get("/files").await.status(), 200);
}

#[tokio::test]
async fn a_page_of_another_site_gets_nothing_of_this_machine() {
    let service = Service::start().await;
    let ask = async |origin: &str| {
        let request = service.client().get(service.url("/api/v1/files")).header("origin", origin);
        request.send().await.unwrap()
    };
    for origin in ["https://example.org", "null", "http://127.0.0.1:1", "http://localhost"] {
        problem(ask(origin).await, 401, "unauthenticated").await;
    }
    // Its own pages do.
    assert_eq!(ask(&format!("http://{}", service.address)).await.status(), 200);
}

#[tokio::test]
async fn a_site_whose_name_leads_to_this_machine_gets_nothing_of_it() {
    let service = Service::start().await;
    let ask = async |host: &str| {
        let request = service.client().get(service.url("/api/v1/files")).header("host", host);
        request.send().await.unwrap()
    };
    for host in ["evil.example", "evil.example:8888", "localhost.evil.example", "127.0.0.1.evil.example"] {
        problem(ask(host).await, 401, "unauthenticated").await;
    }
    for host in ["localhost", "LocalHost:1", "127.0.0.1:8888", "[::1]:8888"] {
        assert_eq!(ask(host).await.status(), 200, "{host}");
    }
}

#[tokio::test]
async fn an_open_service_serves_everyone_and_knows_its_keys() {
    let service = Service::start_with(&[("AUTH__MODE", "open")]).await;
    let key = service.create_key(&["--tenant", "ours"]).await;
    let uid = service.with_key(&key).store("x", b"x").await;
    // Another service's token means nothing here.
    for api in [Api::new(service.address), service.with_key("eyJhbGciOiJub25lIn0.e30.")] {
        assert_eq!(answered::<Files>(api.v1_get("/files").await, 200).await.files.len(), 0);
        problem(api.v1_get(&format!("/files/{uid}")).await, 404, "file_not_found").await;
    }
    let file: File = answered(service.with_key(&key).v1_get(&format!("/files/{uid}")).await, 200).await;
    assert_eq!(file.uid, uid);
    // Somebody with a key that is worth nothing must not find themselves elsewhere.
    let broken = format!("{}0", &key[..key.len() - 1]);
    let broken = if broken == key { format!("{}1", &key[..key.len() - 1]) } else { broken };
    problem(service.with_key(&broken).v1_get("/files").await, 401, "unauthenticated").await;
}

#[tokio::test]
async fn with_a_key_it_serves_others() {
    let folder = tempfile::tempdir().unwrap();
    let arguments = ["serve", "--listen", "0.0.0.0:0"];
    let (_, _, complaint) = spawn_failing(folder.path(), &[], &arguments).await;
    assert!(complaint.contains("osproxy key create"), "{complaint}");
    // The first key may be made before the service has ever run.
    let fresh = tempfile::tempdir().unwrap();
    let made = command(fresh.path(), &[], &[]).args(["key", "create", "--init"]).output().await.unwrap();
    assert!(made.status.success(), "{made:?}");
    let key = String::from_utf8(made.stdout).unwrap();
    let mut serving = command(fresh.path(), &[], &[]);
    let mut serving = serving.args(arguments).stdout(std::process::Stdio::piped()).spawn().unwrap();
    let mut lines =
        tokio::io::AsyncBufReadExt::lines(tokio::io::BufReader::new(serving.stdout.take().unwrap()));
    let ready = lines.next_line().await.unwrap().expect("it does not start");
    let port = ready.rsplit(':').next().unwrap();
    let api = Api::new(format!("127.0.0.1:{port}").parse().unwrap());
    assert_eq!(api.v1_get("/files").await.status(), 401);
    assert_eq!(api.with_key(key.trim_end()).v1_get("/files").await.status(), 200);
}
