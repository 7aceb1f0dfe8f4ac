//! Security headers of answers.

use reqwest::Response;
use serde_json::json;

use crate::support::{Service, expect_json};

fn field<'a>(answer: &'a Response, name: &str) -> &'a str {
    answer.headers().get(name).unwrap_or_else(|| panic!("{name} is missing")).to_str().unwrap()
}

#[tokio::test]
async fn every_answer_says_what_must_not_be_made_of_it() {
    let service = Service::start().await;
    for path in [
        "/",
        "/swagger/",
        "/openapi.json",
        "/health/live",
        "/api/v1/files",
        "/api/storage/v0/health",
        "/nothing",
    ] {
        let answer = service.get(path).await;
        assert_eq!(field(&answer, "x-content-type-options"), "nosniff", "{path}");
        assert!(field(&answer, "content-security-policy").starts_with("default-src 'none'"), "{path}");
        assert_eq!(field(&answer, "referrer-policy"), "no-referrer", "{path}");
        assert_eq!(field(&answer, "cross-origin-resource-policy"), "same-origin", "{path}");
        assert!(!answer.headers().contains_key("strict-transport-security"), "{path}");
    }
}

#[tokio::test]
async fn content_that_a_browser_would_run_is_never_shown() {
    let service = Service::start().await;
    let script = &b"<script>fetch('/api/v1/files')</script>"[..];
    let passive =
        "default-src 'none'; media-src 'self'; style-src 'unsafe-inline'; sandbox allow-same-origin";
    let pdf = "default-src 'none'; object-src 'self'; style-src 'unsafe-inline'";
    for (name, bytes, shown) in [
        ("page.html", script, false),
        ("page.xhtml", b"<html xmlns=\"http://www.w3.org/1999/xhtml\"/>", false),
        ("drawing.svg", b"<svg xmlns=\"http://www.w3.org/2000/svg\" onload=\"x()\"/>", false),
        ("data.xml", b"<?xml version=\"1.0\"?><a/>", false),
        ("style.xsl", b"<x/>", false),
        ("code.js", b"x()", false),
        ("innocent.png", b"<!DOCTYPE html><script>x()</script>", false),
        ("archive.mht", b"x", false),
        ("paper.pdf", b"%PDF-1.4", true),
        ("picture.png", b"\x89PNG\r\n\x1a\n\0\0\0\rIHDR", true),
        ("notes.txt", b"fetch('/api/v1/files')", true),
    ] {
        let policy = match (shown, name) {
            (false, _) => "default-src 'none'; sandbox",
            (true, "paper.pdf") => pdf,
            (true, _) => passive,
        };
        let uid = service.store(name, bytes).await;
        let v0 = service.download_link(&uid).await.unwrap().url;
        let wish = json!({"expires_in": 600, "disposition": "inline"});
        let v1: serde_json::Value =
            expect_json(service.v1_post(&format!("/files/{uid}/links"), &wish).await, 201).await;
        for url in [&*v0, v1["url"].as_str().unwrap()] {
            let answer = service.get(url).await;
            let disposition = field(&answer, "content-disposition");
            assert_eq!(disposition.starts_with("inline"), shown, "{name}: {disposition}");
            assert_eq!(field(&answer, "content-security-policy"), policy, "{name}");
            assert_eq!(field(&answer, "x-content-type-options"), "nosniff");
            assert_eq!(field(&answer, "cross-origin-resource-policy"), "cross-origin");
            assert_eq!(field(&answer, "cross-origin-embedder-policy"), "require-corp");
            // A 304 answer carries the same policy.
            let etag = field(&answer, "etag").to_owned();
            let again =
                service.client().get(service.url(url)).header("if-none-match", etag).send().await.unwrap();
            assert_eq!(again.status(), 304);
            assert_eq!(field(&again, "content-security-policy"), policy);
        }
    }
}
