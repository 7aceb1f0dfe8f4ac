use reqwest::{StatusCode, header};
use rustix::process::Signal;
use serde_json::Value;

use crate::support::{Browser, Service, eventually, expect_problem};

#[tokio::test]
async fn swagger_comes_from_the_binary() {
    let service = Service::start().await;
    for path in ["/swagger", "/swagger/"] {
        let answer = service.get(path).await;
        assert_eq!((answer.status(), answer.url().path()), (StatusCode::OK, "/swagger/"));
        assert_eq!(answer.headers()[header::CONTENT_TYPE], "text/html");
        let policy = answer.headers()[header::CONTENT_SECURITY_POLICY].to_str().unwrap();
        assert!(policy.starts_with("default-src 'none'; script-src 'self';"), "{policy}");
        let html = answer.text().await.unwrap();
        // It loads nothing from other hosts, and all of its files exist.
        assert!(!html.contains("//"), "{html}");
        for (_, rest) in ["src=\"./", "href=\"./"]
            .iter()
            .flat_map(|start| html.match_indices(start).map(|(at, _)| (at, &html[at + start.len()..])))
        {
            let (file, _) = rest.split_once('"').unwrap();
            assert_eq!(service.get(&format!("/swagger/{file}")).await.status(), StatusCode::OK, "{file}");
        }
    }
    let initializer = service.get("/swagger/swagger-initializer.js").await.text().await.unwrap();
    assert!(initializer.contains("\"../openapi.json\""), "{initializer}");
    for path in ["/swagger/nothing", "/swagger/a/b", "/swagger/%ff", "/swagger/..%2fCargo.toml"] {
        expect_problem(service.get(path).await, 404, "unknown_route").await;
    }
    let post = service.client().post(service.url("/swagger/")).send().await.unwrap();
    expect_problem(post, 405, "method_not_allowed").await;
}

#[tokio::test]
async fn the_page_says_what_this_is_and_whether_it_is_well() {
    let mut service = Service::start_with(&[("SERVER__DRAIN_DELAY", "60")]).await;
    let answer = service.get("/").await;
    assert_eq!(answer.status(), StatusCode::OK);
    assert_eq!(answer.headers()[header::CONTENT_TYPE], "text/html; charset=utf-8");
    let policy = answer.headers()[header::CONTENT_SECURITY_POLICY].to_str().unwrap();
    assert!(policy.starts_with("default-src 'none'; style-src 'sha256-"), "{policy}");
    let html = answer.text().await.unwrap();
    for part in [env!("CARGO_PKG_VERSION"), ">ready<", "href=\"swagger/\"", "href=\"openapi.json\"", "docs/"]
    {
        assert!(html.contains(part), "{part} is not in {html}");
    }
    assert!(!html.contains("://") && !html.contains("<script"), "{html}");

    let answer = service.client().head(service.url("/")).send().await.unwrap();
    assert_eq!(answer.status(), StatusCode::OK);
    assert_eq!(answer.headers()[header::CONTENT_LENGTH], html.len().to_string());
    assert_eq!(answer.bytes().await.unwrap().len(), 0);

    service.signal(Signal::TERM);
    eventually("the service drains", async || {
        let answer = service.get("/").await;
        let is_told = answer.status() == StatusCode::SERVICE_UNAVAILABLE;
        (is_told && answer.text().await.unwrap().contains(">draining<")).then_some(())
    })
    .await;
    service.kill().await;
}

#[tokio::test]
#[ignore = "needs servers: just test-servers"]
async fn a_call_can_be_tried_in_a_browser() {
    let service = Service::start().await;
    let browser = Browser::start().await;
    browser.open(&service.url("/")).await;
    browser.wait_for_text("td.ready", "ready").await;
    // The page's own style sheet is applied.
    let width = browser.execute("return getComputedStyle(document.body).maxWidth").await;
    assert_ne!(width, "none");
    browser.click("a[href='swagger/']").await;

    // With the key of the user.
    browser.click(".btn.authorize").await;
    browser.wait_for_text(".auth-container", "Bearer").await;
    browser.fill(".auth-container input", service.key().unwrap()).await;
    browser.click(".auth-btn-wrapper .authorize").await;
    browser.click(".auth-btn-wrapper .btn-done").await;

    // With a body and a header too, using the example values.
    for (operation, status, said) in [
        ("#operations-Health-ping", "200", "\"data\": \"pong\""),
        ("#operations-Uploads-v1_create_upload", "201", "\"state\": \"pending\""),
    ] {
        browser.click(&format!("{operation} .opblock-summary-control")).await;
        browser.click(&format!("{operation} .try-out__btn")).await;
        browser.click(&format!("{operation} .execute")).await;
        let answer = format!("{operation} .live-responses-table");
        browser.wait_for_text(&format!("{answer} .response-col_status"), status).await;
        browser.wait_for_text(&format!("{answer} .highlight-code"), said).await;
    }
    assert_eq!(service.sql("SELECT name FROM files").await, ["film.mp4"]);

    // The policy blocked nothing, and the page requested nothing from other hosts.
    assert_eq!(browser.console_messages().await, [Value::Null; 0]);
    let elsewhere = "return performance.getEntriesByType('resource').map(entry => entry.name)\
                     .filter(name => !name.startsWith(location.origin) && !name.startsWith('data:'))";
    assert_eq!(browser.execute(elsewhere).await, Value::Array(Vec::new()));
    service.wait_for_log("/api/storage/v0/ping").await;
}
