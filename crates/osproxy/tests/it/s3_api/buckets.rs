//! Buckets: API v1, CORS, public reading and lifecycle.

use std::fmt::Write;

use futures_util::{StreamExt, stream};
use osproxy_api::v1::{Bucket, Buckets, Events, File, Files};
use reqwest::Method;
use serde_json::{Value, json};

use super::{Scene, listener_address};
use crate::support::{Api, RawConnection, S3Answer, S3Key, eventually, expect_json, expect_problem, send_s3};

impl Scene {
    async fn shop(&self) -> Api {
        self.service.with_key(&self.service.create_key(&["--tenant", "shop"]).await)
    }

    /// Sends a request without a signature.
    async fn anonymous(&self, request: &str, headers: &[(&str, &str)]) -> S3Answer {
        let mut head = format!("{request} HTTP/1.1\r\nhost: {}\r\n", self.address);
        for (name, value) in headers {
            write!(head, "{name}: {value}\r\n").unwrap();
        }
        send_s3(self.address, head.as_bytes(), b"").await
    }

    /// Applies lifecycle rules now, by a restart.
    async fn run_lifecycle(&mut self, starts: usize) {
        self.service.kill_and_restart().await;
        self.address = listener_address(&self.service, starts).await;
    }
}

async fn put_bucket(api: &Api, name: &str, settings: &Value, status: u16) -> Bucket {
    let answer = api.v1(Method::PUT, &format!("/buckets/{name}"), Some(settings)).await;
    expect_json(answer, status).await
}

async fn events_about(api: &Api, uid: &str) -> Vec<Value> {
    let events: Events = expect_json(api.v1_get("/events?limit=200").await, 200).await;
    let about = events.events.iter().filter(|event| event.data.uid.as_deref() == Some(uid));
    about.map(|event| json!([event.kind, event.data.bucket, event.data.key])).collect()
}

/// Waits for the newest event about a file. On database servers, events can be read some time after
/// the change.
async fn wait_for_event(api: &Api, uid: &str, expected: &Value) {
    eventually("the event can be read", async || {
        (events_about(api, uid).await.last() == Some(expected)).then_some(())
    })
    .await;
}

#[tokio::test]
async fn buckets_are_managed_by_api_v1() {
    let scene = Scene::start().await;
    let shop = scene.shop().await;
    let rule = json!({"allowed_origins": ["https://shop.example"], "allowed_methods": ["GET"]});
    let expiry = json!({"id": "old", "prefix": "tmp/", "expire_after_days": 3});
    let settings = json!({"public_read": true, "cors": [rule], "lifecycle": [expiry]});
    let created = put_bucket(&shop, "photos", &settings, 201).await;
    assert!(created.public_read && created.cors.len() == 1 && created.lifecycle[0].enabled);
    assert_eq!(expect_json::<Bucket>(shop.v1_get("/buckets/photos").await, 200).await, created);
    // All settings are replaced.
    let changed = put_bucket(&shop, "photos", &json!({}), 200).await;
    assert!(!changed.public_read && changed.cors.is_empty() && changed.lifecycle.is_empty());
    assert_eq!(changed.created_at, created.created_at);
    for (name, settings, field) in [
        ("UPPER", json!({}), "bucket"),
        ("photos", json!({"cors": [{"allowed_origins": ["*"], "allowed_methods": ["PATCH"]}]}), "cors"),
        ("photos", json!({"lifecycle": [{"prefix": "a"}]}), "lifecycle"),
        ("photos", json!({"public": true}), "public"),
    ] {
        let answer = shop.v1(Method::PUT, &format!("/buckets/{name}"), Some(&settings)).await;
        assert_eq!(expect_problem(answer, 400, "invalid_argument").await["field"], field);
    }
    for name in ["albums", "music"] {
        put_bucket(&shop, name, &json!({}), 201).await;
    }
    let first: Buckets = expect_json(shop.v1_get("/buckets?limit=2").await, 200).await;
    let cursor = first.next_cursor.unwrap();
    let second: Buckets = expect_json(shop.v1_get(&format!("/buckets?cursor={cursor}")).await, 200).await;
    let names: Vec<_> = first.buckets.iter().chain(&second.buckets).map(|bucket| &*bucket.name).collect();
    assert_eq!((names, second.next_cursor), (vec!["albums", "music", "photos"], None));
    // They are the buckets of the S3 API, but not those of other tenants.
    assert_eq!(scene.list_buckets(&scene.key).await.0, 200);
    let other = scene.service.with_key(&scene.service.create_key(&["--tenant", "other"]).await);
    expect_problem(other.v1_get("/buckets/photos").await, 404, "bucket_not_found").await;
    let taken = other.v1(Method::PUT, "/buckets/photos", Some(&json!({}))).await;
    expect_problem(taken, 409, "bucket_taken").await;
    expect_problem(other.v1(Method::DELETE, "/buckets/photos", None).await, 404, "bucket_not_found").await;
    assert_eq!(shop.v1(Method::DELETE, "/buckets/photos", None).await.status(), 204);
    expect_problem(shop.v1_get("/buckets/photos").await, 404, "bucket_not_found").await;
}

#[tokio::test]
async fn settings_need_the_scope_for_what_they_do() {
    let scene = Scene::start().await;
    let key = scene.service.create_key(&["--scopes", "upload"]).await;
    let uploader = scene.service.with_key(&key);
    put_bucket(&uploader, "photos", &json!({}), 201).await;
    for settings in [json!({"public_read": true}), json!({"lifecycle": [{"expire_after_days": 1}]})] {
        let answer = uploader.v1(Method::PUT, "/buckets/photos", Some(&settings)).await;
        expect_problem(answer, 403, "permission_denied").await;
    }
}

#[tokio::test]
async fn a_file_gets_a_key_by_api_v1() {
    let scene = Scene::start().await;
    let shop = scene.shop().await;
    put_bucket(&shop, "photos", &json!({}), 201).await;
    let uid = shop.store("film.txt", b"film").await;
    let body = json!({"uid": uid});
    let path = "/buckets/photos/objects/2026/a%20b%2B/film.txt";
    for _ in 0..2 {
        let file: File = expect_json(shop.v1(Method::PUT, path, Some(&body)).await, 200).await;
        assert_eq!(
            (file.bucket.as_deref(), file.key.as_deref()),
            (Some("photos"), Some("2026/a b+/film.txt"))
        );
    }
    let read = scene.get("/photos/2026/a%20b%2B/film.txt").send(scene.address, &scene.key).await;
    assert_eq!(read.body(), b"film");
    // Lists and events tell the key, also of objects that were stored by S3.
    let mut request = scene.get("/photos/s3.txt");
    (request.method, request.body) = ("PUT", b"s3".to_vec());
    assert_eq!(request.send(scene.address, &scene.key).await.status, 200);
    shop.store("plain.txt", b"plain").await;
    let files: Files = expect_json(shop.v1_get("/files").await, 200).await;
    let keys: Vec<_> = files.files.iter().map(|file| file.key.as_deref()).collect();
    assert_eq!(keys, [Some("2026/a b+/film.txt"), Some("s3.txt"), None]);
    let stored = &files.files[1].uid;
    let named = |kind: &str| json!([kind, "photos", "s3.txt"]);
    wait_for_event(&shop, stored, &named("file.completed")).await;
    assert_eq!(events_about(&shop, stored).await, [named("file.created"), named("file.completed")]);
    let renamed = shop.v1(Method::PATCH, &format!("/files/{uid}"), Some(&json!({"name": "new.txt"}))).await;
    assert_eq!(expect_json::<File>(renamed, 200).await.key.as_deref(), Some("2026/a b+/film.txt"));
    wait_for_event(&shop, &uid, &json!(["file.renamed", "photos", "2026/a b+/film.txt"])).await;
    // Replacing and deleting an object say which key it had.
    assert_eq!(request.send(scene.address, &scene.key).await.status, 200);
    wait_for_event(&shop, stored, &named("file.deleted")).await;
    // A second key, and files and buckets of others.
    let second = shop.v1(Method::PUT, "/buckets/photos/objects/second", Some(&body)).await;
    expect_problem(second, 409, "file_is_object").await;
    let other = scene.service.with_key(&scene.service.create_key(&["--tenant", "other"]).await);
    expect_problem(other.v1(Method::PUT, path, Some(&body)).await, 404, "bucket_not_found").await;
    put_bucket(&other, "others", &json!({}), 201).await;
    let theirs = other.v1(Method::PUT, "/buckets/others/objects/film", Some(&body)).await;
    expect_problem(theirs, 404, "file_not_found").await;
    let long = format!("/buckets/photos/objects/{}", "x".repeat(1025));
    expect_problem(shop.v1(Method::PUT, &long, Some(&body)).await, 400, "invalid_argument").await;
    // The file outlives its key.
    let mut delete = scene.get("/photos/2026/a%20b%2B/film.txt");
    delete.method = "DELETE";
    assert_eq!(delete.send(scene.address, &scene.key).await.status, 204);
    let file: File = expect_json(shop.v1_get(&format!("/files/{uid}")).await, 200).await;
    assert_eq!((file.bucket, file.key), (None, None));
}

/// A day in milliseconds.
const DAY_MS: i64 = 24 * 3_600_000;

const CORS: &str = "<CORSConfiguration><CORSRule><ID>pages</ID><AllowedOrigin>https://*.example.org</AllowedOrigin>\
    <AllowedMethod>GET</AllowedMethod><AllowedMethod>PUT</AllowedMethod><AllowedHeader>x-amz-*</AllowedHeader>\
    <ExposeHeader>ETag</ExposeHeader><MaxAgeSeconds>600</MaxAgeSeconds></CORSRule></CORSConfiguration>";

#[tokio::test]
async fn pages_of_allowed_origins_use_a_bucket() {
    let scene = Scene::start().await;
    assert_eq!(scene.on_bucket("PUT", "", b"").await.status, 200);
    let preflight = async |origin: &str, method: &str, wanted: &str| {
        let headers = [
            ("origin", origin),
            ("access-control-request-method", method),
            ("access-control-request-headers", wanted),
        ];
        scene.anonymous("OPTIONS /photos/1.jpg", &headers).await
    };
    let page = "https://shop.example.org";
    assert_eq!(preflight(page, "GET", "").await.outcome(), (403, "AccessForbidden"));
    assert_eq!(scene.on_bucket("GET", "cors=", b"").await.outcome(), (404, "NoSuchCORSConfiguration"));
    let set = scene.on_bucket("PUT", "cors=", CORS.as_bytes()).await;
    assert_eq!(set.status, 200, "{}", set.text);
    assert!(scene.on_bucket("GET", "cors=", b"").await.text.contains("<MaxAgeSeconds>600</MaxAgeSeconds>"));
    // A change is seen at once.
    let allowed = preflight(page, "PUT", "X-Amz-Date, x-amz-meta-a").await;
    let seen = ["origin", "methods", "headers", "credentials"]
        .map(|name| allowed.header(&format!("access-control-allow-{name}")).to_owned());
    assert_eq!(allowed.status, 200, "{}", allowed.text);
    assert_eq!(seen, [page, "GET, PUT", "x-amz-date, x-amz-meta-a", "true"]);
    assert_eq!(allowed.header("access-control-max-age"), "600");
    assert!(allowed.header("vary").starts_with("Origin"), "{}", allowed.text);
    for (origin, method, wanted) in [
        ("https://example.org", "PUT", ""),
        ("https://shop.example.org.evil", "PUT", ""),
        (page, "DELETE", ""),
        (page, "PUT", "authorization"),
    ] {
        let refused = preflight(origin, method, wanted).await;
        assert_eq!(refused.outcome(), (403, "AccessForbidden"), "{origin} {method} {wanted}");
        assert_eq!(refused.header("access-control-allow-origin"), "");
    }
    let without = scene.anonymous("OPTIONS /photos", &[("access-control-request-method", "GET")]).await;
    assert_eq!(without.outcome(), (400, "BadRequest"));
    let unknown = [("origin", page), ("access-control-request-method", "GET")];
    let unknown = scene.anonymous("OPTIONS /unknown/1.jpg", &unknown).await;
    assert_eq!(unknown.outcome(), (403, "AccessForbidden"));
    // Answers to other requests tell who may read them, errors too.
    let missing = scene.get("/photos/1.jpg").header("origin", page).send(scene.address, &scene.key).await;
    assert_eq!(missing.outcome(), (404, "NoSuchKey"));
    let denied = scene.anonymous("GET /photos/1.jpg", &[("origin", page)]).await;
    assert_eq!(denied.outcome(), (403, "AccessDenied"));
    for answer in [missing, denied] {
        assert_eq!(answer.header("access-control-allow-origin"), page);
        assert_eq!(answer.header("access-control-expose-headers"), "ETag");
    }
    let stranger = scene.anonymous("GET /photos/1.jpg", &[("origin", "https://evil.example")]).await;
    assert_eq!(stranger.header("access-control-allow-origin"), "");
    assert!(stranger.header("vary").starts_with("Origin"));
    assert_eq!(scene.on_bucket("DELETE", "cors=", b"").await.status, 204);
    assert_eq!(preflight(page, "PUT", "").await.outcome(), (403, "AccessForbidden"));
}

#[tokio::test]
async fn a_page_can_read_why_a_request_is_refused() {
    let limits = [("LIMITS__MAX_ADDRESS_RATE", "30"), ("SERVER__BODY_TIMEOUT", "1")];
    let scene = Scene::start_with(&limits).await;
    assert_eq!(scene.on_bucket("PUT", "", b"").await.status, 200);
    assert_eq!(scene.on_bucket("PUT", "cors=", CORS.as_bytes()).await.status, 200);
    let page = "https://shop.example.org";
    // A body that stays away.
    let mut request = scene.get("/photos/1.jpg").header("origin", page);
    (request.method, request.body) = ("PUT", b"body".to_vec());
    let (head, _) = request.sign(&scene.key);
    let mut connection = RawConnection::open(scene.address).await;
    connection.send(format!("{head}content-length: 4\r\n\r\nbo").as_bytes()).await;
    let text = connection.read_to_end().await.to_lowercase();
    assert!(text.contains("<code>incompletebody</code>"), "{text}");
    assert!(text.contains(&format!("access-control-allow-origin: {page}\r\n")), "{text}");
    // Too many requests.
    let mut refused = None;
    for _ in 0..200 {
        let answer = scene.anonymous("GET /photos/1.jpg", &[("origin", page)]).await;
        if answer.outcome().1 == "SlowDown" {
            refused = Some(answer);
            break;
        }
    }
    let refused = refused.expect("every request was served");
    assert_eq!(refused.header("access-control-allow-origin"), page, "{}", refused.text);
    assert_eq!(refused.header("access-control-expose-headers"), "ETag");
}

#[tokio::test]
async fn cors_rules_that_aws_refuses_are_refused() {
    let scene = Scene::start().await;
    assert_eq!(scene.on_bucket("PUT", "", b"").await.status, 200);
    let rule = |origin: &str, method: &str, more: &str| {
        format!(
            "<CORSRule><AllowedOrigin>{origin}</AllowedOrigin><AllowedMethod>{method}</AllowedMethod>{more}</CORSRule>"
        )
    };
    let good = rule("*", "GET", "");
    for (rules, code) in [
        (String::new(), "MalformedXML"),
        (good.repeat(101), "MalformedXML"),
        ("<CORSRule><AllowedMethod>GET</AllowedMethod></CORSRule>".to_owned(), "MalformedXML"),
        (rule("*", "PATCH", ""), "InvalidRequest"),
        (rule("https://*.*", "GET", ""), "InvalidRequest"),
        (rule("*", "GET", "<AllowedHeader>*-*</AllowedHeader>"), "InvalidRequest"),
        (rule("*", "GET", "<ExposeHeader>x-*</ExposeHeader>"), "InvalidRequest"),
    ] {
        let document = format!("<CORSConfiguration>{rules}</CORSConfiguration>");
        let answer = scene.on_bucket("PUT", "cors=", document.as_bytes()).await;
        assert_eq!(answer.outcome(), (400, code), "{rules}");
    }
    let document = format!("<CORSConfiguration>{}</CORSConfiguration>", good.repeat(100));
    assert_eq!(scene.on_bucket("PUT", "cors=", document.as_bytes()).await.status, 200);
    let reader = S3Key::create(&scene.service, &["--tenant", "shop", "--read-only"]).await;
    let mut request = scene.get("/photos");
    (request.method, request.query) = ("DELETE", "cors=".to_owned());
    assert_eq!(request.send(scene.address, &reader).await.outcome(), (403, "AccessDenied"));
}

#[tokio::test]
async fn everybody_reads_the_objects_of_a_public_bucket() {
    let scene = Scene::start().await;
    let shop = scene.shop().await;
    put_bucket(&shop, "photos", &json!({}), 201).await;
    let mut request = scene.get("/photos/1.txt");
    (request.method, request.body) = ("PUT", b"0123456789".to_vec());
    assert_eq!(request.send(scene.address, &scene.key).await.status, 200);
    assert_eq!(scene.anonymous("GET /photos/1.txt", &[]).await.outcome(), (403, "AccessDenied"));
    put_bucket(&shop, "photos", &json!({"public_read": true}), 200).await;
    let read = scene.anonymous("GET /photos/1.txt", &[]).await;
    assert_eq!((read.status, read.body()), (200, &b"0123456789"[..]), "{}", read.text);
    let part = scene.anonymous("GET /photos/1.txt", &[("range", "bytes=2-4")]).await;
    assert_eq!((part.status, part.body()), (206, &b"234"[..]));
    let head = scene.anonymous("HEAD /photos/1.txt", &[]).await;
    assert_eq!((head.status, head.header("content-length")), (200, "10"));
    let etag = read.header("etag").to_owned();
    assert_eq!(scene.anonymous("GET /photos/1.txt", &[("if-none-match", &etag)]).await.status, 304);
    for denied in [
        "GET /photos",
        "GET /photos/",
        "GET /photos/?list-type=2",
        "GET /photos/unknown.txt",
        "GET /photos/1.txt?tagging=",
        "GET /photos/1.txt?attributes=",
        "GET /photos/1.txt?acl=",
        "PUT /photos/1.txt",
        "DELETE /photos/1.txt",
        "POST /photos/1.txt?uploads=",
        "POST /photos?delete=",
        "GET /unknown/1.txt",
        "GET /",
    ] {
        assert_eq!(scene.anonymous(denied, &[]).await.outcome(), (403, "AccessDenied"), "{denied}");
    }
    let html = scene.anonymous("GET /photos/1.txt?response-content-type=text/html", &[]).await;
    assert_eq!(html.outcome(), (400, "InvalidRequest"));
    let other = scene.anonymous("GET /photos/1.txt", &[("x-amz-expected-bucket-owner", "other")]).await;
    assert_eq!(other.outcome(), (403, "AccessDenied"));
    // A signature that is wrong does not become anonymous.
    let wrong = S3Key { secret_access_key: "x".repeat(40), ..scene.key.clone() };
    let signed = scene.get("/photos/1.txt").send(scene.address, &wrong).await;
    assert_eq!(signed.outcome(), (403, "SignatureDoesNotMatch"));
    put_bucket(&shop, "photos", &json!({}), 200).await;
    assert_eq!(scene.anonymous("GET /photos/1.txt", &[]).await.outcome(), (403, "AccessDenied"));
}

#[tokio::test]
async fn the_command_line_makes_buckets_public() {
    let scene = Scene::start().await;
    assert_eq!(scene.on_bucket("PUT", "", b"").await.status, 200);
    assert_eq!(scene.request_to("/photos/1.txt", "PUT", "", b"1").await.status, 200);
    let set = async |tenant: &str, public: &str| {
        scene.service.cli(&["bucket", "set", "photos", "--tenant", tenant, "--public-read", public]).await
    };
    assert_eq!(scene.anonymous("GET /photos/1.txt", &[]).await.status, 403);
    assert_eq!(set("shop", "true").await.0, 0);
    assert_eq!(set("other", "false").await.0, 1);
    let listed = scene.service.cli(&["bucket", "ls", "--tenant", "shop"]).await.1;
    assert!(listed.starts_with("photos ") && listed.contains(" public "), "{listed}");
    // A node may not know of it for 5 seconds.
    eventually("the bucket is public", async || {
        (scene.anonymous("GET /photos/1.txt", &[]).await.status == 200).then_some(())
    })
    .await;
}

const LIFECYCLE: &str = "<LifecycleConfiguration>\
    <Rule><ID>tmp</ID><Filter><Prefix>tmp/</Prefix></Filter><Status>Enabled</Status><Expiration><Days>2</Days></Expiration>\
    <AbortIncompleteMultipartUpload><DaysAfterInitiation>1</DaysAfterInitiation></AbortIncompleteMultipartUpload></Rule>\
    <Rule><ID>large</ID><Filter><And><Prefix>big/</Prefix><ObjectSizeGreaterThan>5</ObjectSizeGreaterThan></And></Filter>\
    <Status>Enabled</Status><Expiration><Date>2020-01-01T00:00:00Z</Date></Expiration></Rule>\
    <Rule><ID>off</ID><Filter><Prefix></Prefix></Filter><Status>Disabled</Status><Expiration><Days>1</Days></Expiration></Rule>\
    </LifecycleConfiguration>";

impl Scene {
    async fn on_bucket(&self, method: &'static str, query: &str, body: &[u8]) -> S3Answer {
        self.request_to("/photos", method, query, body).await
    }

    async fn request_to(&self, path: &str, method: &'static str, query: &str, body: &[u8]) -> S3Answer {
        let mut request = self.get(path);
        (request.method, request.query, request.body) = (method, query.to_owned(), body.to_vec());
        request.send(self.address, &self.key).await
    }

    async fn keys(&self) -> Vec<String> {
        let listing = self.on_bucket("GET", "list-type=2&max-keys=1000", b"").await.text;
        let keys = listing.split("<Key>").skip(1).map(|rest| rest.split("</Key>").next().unwrap().to_owned());
        keys.collect()
    }
}

#[tokio::test]
async fn objects_and_uploads_expire() {
    let mut scene = Scene::start().await;
    let shop = scene.shop().await;
    assert_eq!(scene.on_bucket("PUT", "", b"").await.status, 200);
    for key in ["tmp/old", "tmp/new", "tmpx", "big/a", "big/b"] {
        let body = if key == "big/b" { b"larger" } else { b"small" as &[u8] };
        assert_eq!(scene.request_to(&format!("/photos/{key}"), "PUT", "", body).await.status, 200);
    }
    let uid = shop.store("kept.txt", b"kept").await;
    let attach =
        shop.v1(Method::PUT, "/buckets/photos/objects/tmp/attached", Some(&json!({"uid": uid}))).await;
    assert_eq!(attach.status(), 200);
    for key in ["tmp/up-old", "tmp/up-new", "up"] {
        let begun = scene.request_to(&format!("/photos/{key}"), "POST", "uploads=", b"").await;
        assert_eq!(begun.status, 200);
    }
    let age = async |table: &str, column: &str, uid: &str| {
        let ago = format!("{column} = {column} - {}", 3 * DAY_MS);
        scene.service.sql(&format!("UPDATE {table} SET {ago} WHERE uid = {uid}")).await;
    };
    let uids: Vec<String> = scene.service.sql("SELECT uid FROM objects ORDER BY object_key").await;
    // tmp/attached, tmp/old and tmpx.
    for uid in [&uids[2], &uids[4], &uids[5]] {
        age("objects", "modified_at", uid).await;
    }
    let uploads: Vec<String> = scene.service.sql("SELECT uid FROM object_uploads ORDER BY object_key").await;
    // tmp/up-old and up.
    for uid in &uploads[1..] {
        age("object_uploads", "created_at", uid).await;
    }
    let set = scene.on_bucket("PUT", "lifecycle=", LIFECYCLE.as_bytes()).await;
    assert_eq!(set.status, 200, "{}", set.text);
    let told = scene.on_bucket("GET", "lifecycle=", b"").await.text;
    for element in ["<ObjectSizeGreaterThan>5<", "<Date>2020-01-01T00:00:00", "<Days>2<", "<Status>Disabled<"]
    {
        assert!(told.contains(element), "{element}: {told}");
    }
    let head = scene.request_to("/photos/tmp/new", "HEAD", "", b"").await;
    let expiration = head.header("x-amz-expiration");
    assert!(
        expiration.starts_with("expiry-date=\"") && expiration.ends_with("00:00:00 GMT\", rule-id=\"tmp\"")
    );
    assert_eq!(scene.request_to("/photos/tmpx", "GET", "", b"").await.header("x-amz-expiration"), "");

    scene.run_lifecycle(2).await;
    let shop = scene.service.with_key(shop.key().unwrap());
    let uid_of_old = &uids[4];
    eventually("the objects have expired", async || {
        (scene.keys().await == ["big/a", "tmp/new", "tmpx"]).then_some(())
    })
    .await;
    let expired = json!(["file.expired", "photos", "tmp/old"]);
    wait_for_event(&shop, uid_of_old, &expired).await;
    expect_problem(shop.v1_get(&format!("/files/{uid_of_old}")).await, 410, "file_gone").await;
    // A file that was given a key loses only the key.
    assert_eq!(shop.describe(&uid).await.key, None);
    eventually("the upload has expired", async || {
        let listing = scene.on_bucket("GET", "uploads=", b"").await.text;
        let keys: Vec<_> =
            listing.split("<Key>").skip(1).map(|rest| rest.split('<').next().unwrap()).collect();
        (keys == ["tmp/up-new", "up"]).then_some(())
    })
    .await;
    let expired = json!(["upload.expired", "photos", "tmp/up-old"]);
    wait_for_event(&shop, &uploads[1], &expired).await;
    // The rules are due again at midnight, and changed rules at once.
    let due = scene.service.sql("SELECT lifecycle_due_at FROM buckets").await;
    assert_eq!(due[0].parse::<i64>().unwrap() % DAY_MS, 0);
    assert_eq!(scene.on_bucket("DELETE", "lifecycle=", b"").await.status, 204);
    let answer = scene.on_bucket("GET", "lifecycle=", b"").await;
    assert_eq!(answer.outcome(), (404, "NoSuchLifecycleConfiguration"));
    scene.service.database().wait_until_idle().await;
    scene.service.assert_consistent().await;
}

#[tokio::test]
async fn a_bucket_is_walked_page_by_page() {
    let mut scene = Scene::start().await;
    assert_eq!(scene.on_bucket("PUT", "", b"").await.status, 200);
    let keys: Vec<_> = (0..1100).map(|number| format!("/photos/logs/{number:04}")).collect();
    let puts = stream::iter(&keys).map(|key| scene.request_to(key, "PUT", "", b"log"));
    let stored = puts.buffer_unordered(16).filter(|answer| std::future::ready(answer.status == 200)).count();
    assert_eq!(stored.await, 1100);
    scene.service.sql("UPDATE objects SET modified_at = 0 WHERE uid % 7 <> 0").await;
    let kept = scene.service.sql("SELECT COUNT(*) FROM objects WHERE modified_at > 0").await;
    let rule = "<Rule><Filter><Prefix>logs/</Prefix></Filter><Status>Enabled</Status><Expiration><Days>1</Days></Expiration></Rule>";
    let rules = format!("<LifecycleConfiguration>{rule}</LifecycleConfiguration>");
    // A walk that was interrupted continues, and does not look at what lies before.
    assert_eq!(scene.on_bucket("PUT", "lifecycle=", rules.as_bytes()).await.status, 200);
    let position = r#"{"uploads":false,"prefix":"logs/","after":"logs/0099","uid":null}"#;
    scene.service.sql(&format!("UPDATE buckets SET lifecycle_position = '{position}'")).await;
    scene.run_lifecycle(2).await;
    let of_first = "SELECT COUNT(*) FROM objects WHERE modified_at = 0";
    let left = scene.service.sql(of_first).await;
    assert_ne!(left, ["0"]);
    eventually("the rest of the bucket is walked", async || {
        let due = scene.service.sql("SELECT name FROM buckets WHERE lifecycle_due_at % 86400000 = 0").await;
        (!due.is_empty()).then_some(())
    })
    .await;
    let left: u64 = scene.service.sql(of_first).await[0].parse().unwrap();
    assert!((70..=100).contains(&left), "{left}");
    assert_eq!(scene.on_bucket("PUT", "lifecycle=", rules.as_bytes()).await.status, 200);
    scene.run_lifecycle(3).await;
    eventually("the whole bucket is walked", async || {
        (scene.service.sql("SELECT COUNT(*) FROM objects").await == kept).then_some(())
    })
    .await;
    scene.service.database().wait_until_idle().await;
}

#[tokio::test]
async fn lifecycle_rules_that_cannot_be_kept_are_refused() {
    let scene = Scene::start().await;
    assert_eq!(scene.on_bucket("PUT", "", b"").await.status, 200);
    let rule = |content: &str| {
        format!("<Rule><Filter><Prefix>a</Prefix></Filter><Status>Enabled</Status>{content}</Rule>")
    };
    let days = "<Expiration><Days>1</Days></Expiration>";
    for (rules, status, code, word) in [
        (String::new(), 400, "MalformedXML", ""),
        (rule(days).repeat(1001), 400, "MalformedXML", ""),
        (rule(""), 400, "InvalidRequest", "action"),
        (rule("<Expiration><Days>0</Days></Expiration>"), 400, "InvalidArgument", "positive"),
        (
            rule("<Expiration><Date>2026-01-01T12:00:00Z</Date></Expiration>"),
            400,
            "InvalidArgument",
            "midnight",
        ),
        (rule("<Expiration></Expiration>"), 400, "MalformedXML", ""),
        (rule(&format!("<ID>a</ID>{days}")).repeat(2), 400, "InvalidArgument", "unique"),
        (
            rule("<Transition><Days>1</Days><StorageClass>GLACIER</StorageClass></Transition>"),
            501,
            "NotImplemented",
            "Transition",
        ),
        (
            rule("<Expiration><ExpiredObjectDeleteMarker>true</ExpiredObjectDeleteMarker></Expiration>"),
            501,
            "NotImplemented",
            "DeleteMarker",
        ),
        (
            rule(
                "<NoncurrentVersionExpiration><NoncurrentDays>1</NoncurrentDays></NoncurrentVersionExpiration>",
            ),
            501,
            "NotImplemented",
            "Noncurrent",
        ),
        (
            format!(
                "<Rule><Filter><Tag><Key>a</Key><Value>b</Value></Tag></Filter><Status>Enabled</Status>{days}</Rule>"
            ),
            501,
            "NotImplemented",
            "Tag",
        ),
        (format!("<Rule><Status>Enabled</Status>{days}</Rule>"), 400, "MalformedXML", ""),
        (format!("<Rule><Prefix>a</Prefix><Status>On</Status>{days}</Rule>"), 400, "MalformedXML", ""),
    ] {
        let document = format!("<LifecycleConfiguration>{rules}</LifecycleConfiguration>");
        let answer = scene.on_bucket("PUT", "lifecycle=", document.as_bytes()).await;
        assert_eq!(answer.outcome(), (status, code), "{rules}");
        assert!(answer.element("Message").contains(word), "{answer:?}");
    }
}
