//! What pages of other origins may do.

use reqwest::{Method, Response};

use crate::support::{Service, spawn_failing};

async fn preflight(service: &Service, origin: &str, path: &str) -> Response {
    let request = service.client().request(Method::OPTIONS, service.url(path)).header("origin", origin);
    let request = request.header("access-control-request-method", "PUT");
    request.header("access-control-request-headers", "authorization,content-md5").send().await.unwrap()
}

fn field<'a>(answer: &'a Response, name: &str) -> Option<&'a str> {
    answer.headers().get(name).map(|value| value.to_str().unwrap())
}

#[tokio::test]
async fn by_default_any_page_may_but_without_credentials() {
    let service = Service::start().await;
    let link = service.upload_link("x.bin").await.url.single;
    let answer = preflight(&service, "https://anywhere.example", &link).await;
    assert_eq!(answer.status(), 200);
    assert_eq!(field(&answer, "access-control-allow-origin"), Some("*"));
    assert!(field(&answer, "access-control-allow-methods").unwrap().contains("PUT"));
    assert_eq!(field(&answer, "access-control-allow-headers"), Some("authorization,content-md5"));
    assert_eq!(field(&answer, "access-control-max-age"), Some("3600"));
    assert_eq!(field(&answer, "access-control-allow-credentials"), None);
    // It had no effect.
    assert_eq!(service.sql("SELECT count(*) FROM blobs").await, ["0"]);

    // A request without a key gets an error that the page can read.
    let stranger = service.without_key();
    let request =
        stranger.client().get(service.url("/api/v1/files/1")).header("origin", "https://anywhere.example");
    let answer = request.send().await.unwrap();
    assert_eq!(answer.status(), 401);
    assert_eq!(field(&answer, "access-control-allow-origin"), Some("*"));
    assert_eq!(field(&answer, "access-control-allow-credentials"), None);
    let exposed = field(&answer, "access-control-expose-headers").unwrap();
    for name in [
        "etag",
        "content-range",
        "repr-digest",
        "x-request-id",
        "location",
        "retry-after",
        "idempotency-replayed",
        "osproxy-error",
    ] {
        assert!(
            exposed.to_ascii_lowercase().split(',').any(|exposed| exposed.trim() == name),
            "{name}: {exposed}"
        );
    }
}

#[tokio::test]
async fn only_pages_that_are_listed_may() {
    let config =
        "cors: {allow_origins: ['https://app.example.net'], allow_headers: [content-md5], max_age: 7}";
    let service = Service::start_configured(config).await;
    let answer = preflight(&service, "https://app.example.net", "/api/v1/uploads").await;
    assert_eq!(field(&answer, "access-control-allow-origin"), Some("https://app.example.net"));
    assert_eq!(field(&answer, "access-control-allow-headers"), Some("content-md5"));
    assert_eq!(field(&answer, "access-control-max-age"), Some("7"));
    for origin in ["https://evil.example", "https://app.example.net.evil.example", "null"] {
        let answer = preflight(&service, origin, "/api/v1/uploads").await;
        assert_eq!(field(&answer, "access-control-allow-origin"), None, "{origin}");
    }
}

#[tokio::test]
async fn with_no_origin_there_is_nothing_of_it() {
    let service = Service::start_configured("cors: {allow_origins: []}").await;
    let answer = preflight(&service, "https://app.example.net", "/api/v1/uploads").await;
    assert_eq!(answer.status(), 405);
    assert_eq!(field(&answer, "access-control-allow-origin"), None);
}

#[tokio::test]
async fn what_is_no_origin_is_told() {
    let folder = tempfile::tempdir().unwrap();
    let text = "cors: {allow_origins: ['app.example.net/'], allow_headers: ['a b'], max_age: 100000}";
    std::fs::write(folder.path().join("bad.yaml"), text).unwrap();
    let arguments = ["check-config", "--config", "bad.yaml"];
    let (_, _, complaint) = spawn_failing(folder.path(), &[], &arguments).await;
    for problem in ["cors.allow_origins: \"app.example.net/\"", "cors.allow_headers: \"a b\"", "cors.max_age"]
    {
        assert!(complaint.contains(problem), "{complaint}");
    }
}

#[tokio::test]
async fn what_is_not_of_the_api_is_for_no_other_page() {
    let service = Service::start().await;
    for path in ["/metrics", "/health/ready", "/health/live", "/", "/openapi.json", "/swagger/", "/apis/x"] {
        for answer in [
            service
                .client()
                .get(service.url(path))
                .header("origin", "https://evil.example")
                .send()
                .await
                .unwrap(),
            preflight(&service, "https://evil.example", path).await,
        ] {
            let told = answer.headers().keys().find(|name| name.as_str().starts_with("access-control-"));
            assert_eq!(told, None, "{path}");
        }
    }
    // CORS also covers unknown routes of the API.
    for path in ["/api/v1/nothing", "/api/storage/v0/nothing", "/f/nothing"] {
        let answer = preflight(&service, "https://app.example", path).await;
        assert_eq!(field(&answer, "access-control-allow-origin"), Some("*"), "{path}");
    }
}
