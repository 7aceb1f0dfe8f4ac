//! Which answers browsers and shared caches may keep, and for how long.

use osproxy_api::v1::CreatedLink;
use reqwest::{Method, Response};
use serde_json::{Value, json};

use crate::support::{Nginx, Service, content, eventually, expect_json};

fn field<'a>(answer: &'a Response, name: &str) -> Option<&'a str> {
    answer.headers().get(name).map(|value| value.to_str().unwrap())
}

/// Creates a download link of API v1.
async fn link(service: &Service, uid: &str, wish: &Value) -> CreatedLink {
    expect_json(service.v1_post(&format!("/files/{uid}/links"), wish).await, 201).await
}

/// The seconds of `SCOPE, max-age=SECONDS, no-transform`.
fn max_age(answer: &Response, scope: &str) -> i64 {
    let told = field(answer, "cache-control").unwrap();
    let seconds = told.strip_prefix(scope).and_then(|rest| rest.strip_prefix(", max-age="));
    let seconds = seconds.and_then(|rest| rest.strip_suffix(", no-transform"));
    seconds.unwrap_or_else(|| panic!("{told}")).parse().unwrap()
}

#[tokio::test]
async fn content_is_kept_by_its_reader_alone_until_its_link_ends() {
    let service = Service::start().await;
    let uid = service.store("x.bin", b"0123456789").await;
    let v0 = service.download_link(&uid).await.unwrap().url;
    let v1 = link(&service, &uid, &json!({"expires_in": 600})).await.url;
    let etag = format!("\"{uid}\"");
    for url in [&v0, &v1] {
        for (method, name, value, status) in [
            (Method::GET, "accept", "*/*", 200),
            (Method::HEAD, "accept", "*/*", 200),
            (Method::GET, "range", "bytes=0-1", 206),
            (Method::GET, "if-none-match", &*etag, 304),
        ] {
            let request = service.client().request(method, service.url(url)).header(name, value);
            let answer = request.send().await.unwrap();
            assert_eq!(answer.status(), status);
            assert!((500..=600).contains(&max_age(&answer, "private")), "{answer:?}");
            // The answer does not depend on request headers of a browser.
            assert_eq!(field(&answer, "vary"), None);
        }
        for (name, value, status) in [("if-match", "\"other\"", 412), ("range", "bytes=10-", 416)] {
            let answer = service.client().get(service.url(url)).header(name, value).send().await.unwrap();
            assert_eq!(
                (answer.status().as_u16(), field(&answer, "cache-control")),
                (status, Some("no-store"))
            );
        }
    }
    let counted = link(&service, &uid, &json!({"expires_in": 600, "max_uses": 1})).await.url;
    for status in [200, 403] {
        let answer = service.get(&counted).await;
        assert_eq!(answer.status(), status);
        assert!(field(&answer, "cache-control").unwrap().starts_with("no-store"));
    }
}

#[tokio::test]
async fn nothing_but_content_is_kept() {
    let service = Service::start_with(&[("ADMIN__LISTEN", "127.0.0.1:0")]).await;
    let uid = service.store("x.bin", b"x").await;
    for path in [
        "/health/live",
        "/health/ready",
        "/api/storage/v0/health",
        "/api/storage/v0/ping",
        "/api/v1/files",
        &format!("/api/v1/files/{uid}"),
        &format!("/f/{uid}/x.bin"),
        "/api/storage/v0/download",
        "/nothing",
        "/",
        "/metrics",
    ] {
        let answer = service.get(path).await;
        assert_eq!(field(&answer, "cache-control"), Some("no-store"), "{path}");
        assert_eq!(field(&answer, "vary"), None, "{path}");
    }
    let created = service.v1_post("/uploads", &json!({"name": "y.bin"})).await;
    assert_eq!((created.status().as_u16(), field(&created, "cache-control")), (201, Some("no-store")));
    let admin = service.logged_address("admin listener started").await;
    let answer = reqwest::get(format!("http://{admin}/health/ready")).await.unwrap();
    assert_eq!(field(&answer, "cache-control"), Some("no-store"));
}

#[tokio::test]
async fn answers_vary_by_the_origin_only_where_origins_are_listed() {
    let service = Service::start_configured("cors: {allow_origins: ['https://app.example.net']}").await;
    let uid = service.store("x.bin", b"x").await;
    let url = service.download_link(&uid).await.unwrap().url;
    for origin in [None, Some("https://app.example.net"), Some("https://other.example")] {
        let mut request = service.client().get(service.url(&url));
        if let Some(origin) = origin {
            request = request.header("origin", origin);
        }
        let answer = request.send().await.unwrap();
        assert_eq!((answer.status().as_u16(), field(&answer, "vary")), (200, Some("origin")));
    }
}

#[tokio::test]
async fn links_that_are_asked_for_within_a_window_are_the_same_and_hold_long_enough() {
    let service = Service::start_with(&[("LINKS__ROUNDING_WINDOW", "86400")]).await;
    let uid = service.store("x.bin", b"x").await;
    let wish = json!({"expires_in": 60});
    let v0 = async || service.download_link(&uid).await.unwrap().url;
    let v1 = async || link(&service, &uid, &wish).await;
    // Retried, because the window may end between two links.
    let same = async || {
        let (first, second) = (v1().await, v1().await);
        (first.url == second.url && v0().await == v0().await).then_some(first)
    };
    let first = eventually("two links are the same", same).await;
    let answer = service.get(&first.url).await;
    assert_eq!(answer.status(), 200);
    assert!((60..=86_460).contains(&max_age(&answer, "private")));
    assert!(first.expires_at.ends_with(":00.000Z"), "{}", first.expires_at);
    assert_eq!(service.get(&v0().await).await.status(), 200);
    // Different constraints give a different link, and each counted link is its own.
    assert_ne!(link(&service, &uid, &json!({"expires_in": 61})).await.url, first.url);
    let counted = json!({"expires_in": 60, "max_uses": 1});
    assert_ne!(link(&service, &uid, &counted).await.url, link(&service, &uid, &counted).await.url);
    // A revoked link does not come back within its window: the next one is new and valid at once.
    assert_eq!(service.v1(Method::DELETE, &format!("/files/{uid}/links"), None).await.status(), 204);
    assert_eq!(service.get(&first.url).await.status(), 403);
    let (new, again) = (v1().await, v1().await);
    assert_eq!(new.url, again.url);
    assert_eq!(service.get(&new.url).await.status(), 200);
    assert_eq!(service.get(&v0().await).await.status(), 200);
}

/// An nginx that caches all it may, for ten minutes if the answer names no lifetime.
async fn cache_in_front_of(service: &Service) -> Nginx {
    let http = format!(
        "proxy_cache_path cache keys_zone=all:1m;\n\
         server {{\n\
             listen LISTEN;\n\
             location / {{\n\
                 proxy_pass http://{};\n\
                 proxy_set_header Authorization $http_authorization;\n\
                 proxy_cache all;\n\
                 proxy_cache_valid any 10m;\n\
                 add_header X-Cache $upstream_cache_status always;\n\
             }}\n\
         }}",
        service.address
    );
    Nginx::start_configured(&http).await
}

/// Returns the status of an answer through the cache, and whether it was a cache hit.
async fn get_through_cache(nginx: &Nginx, url: &str) -> (u16, bool) {
    let answer = reqwest::get(format!("http://{}{url}", nginx.address)).await.unwrap();
    let told = (answer.status().as_u16(), field(&answer, "x-cache") == Some("HIT"));
    answer.bytes().await.unwrap();
    told
}

#[tokio::test]
#[ignore = "needs nginx: just test-servers"]
async fn a_shared_cache_outlives_no_link() {
    let service = Service::start().await;
    let nginx = cache_in_front_of(&service).await;
    let uid = service.store("x.bin", &content(1, 10_000)).await;
    let url = link(&service, &uid, &json!({"expires_in": 600})).await.url;
    let v0 = service.download_link(&uid).await.unwrap().url;
    let counted = link(&service, &uid, &json!({"expires_in": 600, "max_uses": 2})).await.url;
    let short = link(&service, &uid, &json!({"expires_in": 2})).await.url;
    assert_eq!(get_through_cache(&nginx, &short).await, (200, false));
    for path in [&*url, &v0, "/health/ready", "/health/live"] {
        for _ in 0..2 {
            assert_eq!(get_through_cache(&nginx, path).await, (200, false), "{path}");
        }
    }
    for status in [200, 200, 403, 403] {
        assert_eq!(get_through_cache(&nginx, &counted).await, (status, false));
    }
    eventually("the link has expired", async || {
        (get_through_cache(&nginx, &short).await.0 == 403).then_some(())
    })
    .await;
    assert_eq!(service.v1(Method::DELETE, &format!("/files/{uid}/links"), None).await.status(), 204);
    assert_eq!(get_through_cache(&nginx, &url).await, (403, false));
    assert_eq!(get_through_cache(&nginx, &v0).await, (422, false));
    // An error is not cached either.
    let wish = json!({"name": "y.bin"});
    let upload = service.create_upload(&wish).await;
    let state = upload.links.as_ref().unwrap().state.clone();
    let (pending, _) =
        (get_through_cache(&nginx, &state).await, service.put(&upload.links.unwrap().content, b"y").await);
    assert_eq!(pending, (200, false));
    let answer = reqwest::get(format!("http://{}{state}", nginx.address)).await.unwrap();
    assert!(answer.text().await.unwrap().contains("\"stored\""));
}

#[tokio::test]
#[ignore = "needs nginx: just test-servers"]
async fn a_shared_cache_keeps_content_where_it_may_and_links_are_rounded() {
    let settings = [("LINKS__PUBLIC_CACHE", "true"), ("LINKS__ROUNDING_WINDOW", "86400")];
    let service = Service::start_with(&settings).await;
    let nginx = cache_in_front_of(&service).await;
    let uid = service.store("x.bin", &content(1, 10_000)).await;
    let wish = json!({"expires_in": 600});
    // Retried, because the window may end in between.
    eventually("the next link is a cache hit", async || {
        let first = get_through_cache(&nginx, &link(&service, &uid, &wish).await.url).await;
        let second = get_through_cache(&nginx, &link(&service, &uid, &wish).await.url).await;
        assert_eq!(first.0, 200);
        (second == (200, true)).then_some(())
    })
    .await;
    // Links restricted to networks or to a number of uses are not cached.
    for more in [json!({"networks": ["127.0.0.1"]}), json!({"max_uses": 3})] {
        let mut wish = wish.clone();
        wish.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        let url = link(&service, &uid, &wish).await.url;
        for _ in 0..2 {
            assert_eq!(get_through_cache(&nginx, &url).await, (200, false), "{more}");
        }
    }
    assert_eq!(get_through_cache(&nginx, "/health/ready").await, (200, false));
    assert_eq!(get_through_cache(&nginx, "/health/ready").await, (200, false));
}
