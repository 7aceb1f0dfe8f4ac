use reqwest::Method;
use rustix::process::Signal;
use serde_json::{Value, json};

use crate::support::{Service, Store, content, eventually};

/// Waits for `count` access log lines (JSON) and returns them.
async fn lines(service: &Service, count: usize) -> Vec<Value> {
    eventually("all lines are logged", async || {
        let log = service.log();
        let lines: Vec<Value> = log.lines().map(|line| serde_json::from_str(line).expect(line)).collect();
        let served: Vec<_> = lines.into_iter().filter(|line| line["message"] == "served").collect();
        (served.len() == count).then_some(served)
    })
    .await
}

#[tokio::test]
async fn a_line_says_what_was_asked_and_what_came_of_it() {
    let service = Service::start_with(&[("LOG__FORMAT", "json")]).await;
    let uid = service.store("x.bin", &content(1, 5_000)).await;
    service.read(&uid).await;
    service.v1_get(&format!("/files/{uid}")).await;
    service.v1(Method::PATCH, &format!("/files/{uid}"), Some(&json!({"nothing": 1}))).await;
    let made = service.v1_post(&format!("/files/{uid}/links"), &json!({"expires_in": 60})).await;
    let link = made.json::<Value>().await.unwrap()["url"].as_str().unwrap().to_owned();
    let answer = service.get(&link.replace("signature=", "signature=0")).await;
    let id = answer.headers()["x-request-id"].to_str().unwrap().to_owned();
    service.get("/nowhere?uid=x").await;

    let lines = lines(&service, 9).await;
    let v0 = "/api/storage/v0";
    let expected = [
        ("POST", format!("{v0}/link/upload"), None, 200, None),
        ("PUT", format!("{v0}/upload"), Some(&uid), 200, None),
        ("POST", format!("{v0}/link/download"), None, 200, None),
        ("GET", format!("{v0}/download"), Some(&uid), 200, None),
        ("GET", "/api/v1/files/{uid}".to_owned(), Some(&uid), 200, None),
        ("PATCH", "/api/v1/files/{uid}".to_owned(), Some(&uid), 400, Some("invalid_argument")),
        ("POST", "/api/v1/files/{uid}/links".to_owned(), Some(&uid), 201, None),
        ("GET", "/f/{uid}/{filename}".to_owned(), Some(&uid), 403, Some("invalid_signature")),
        ("GET", "none".to_owned(), None, 404, Some("unknown_route")),
    ];
    for (line, (method, route, uid, status, error)) in lines.iter().zip(expected) {
        assert_eq!((&line["method"], &line["route"]), (&json!(method), &json!(route)), "{line}");
        assert_eq!((&line["uid"], &line["status"]), (&json!(uid), &json!(status)), "{line}");
        assert_eq!(line["error"], json!(error), "{line}");
        assert_eq!(line["why"].is_string(), error.is_some(), "{line}");
        assert!(line["duration_us"].as_u64().unwrap() > 0, "{line}");
        assert_eq!(line["spans"][0]["request_id"].as_str().unwrap().len(), 24, "{line}");
    }
    assert_eq!((&lines[1]["bytes_received"], &lines[3]["bytes_sent"]), (&json!(5_000), &json!(5_000)));
    assert_eq!(lines[5]["why"], "unknown field `nothing`, expected `name` or `metadata`");
    assert_eq!(lines[7]["spans"][0]["request_id"], id);
    assert_eq!(lines[8]["path"], "/nowhere");
}

#[tokio::test]
async fn only_failed_health_checks_are_logged() {
    let settings = [("LOG__FORMAT", "json"), ("SERVER__DRAIN_DELAY", "60")];
    let service = Service::start_with(&settings).await;
    for path in ["/health/live", "/health/ready"] {
        assert_eq!(service.get(path).await.status(), 200, "{path}");
    }
    service.signal(Signal::TERM);
    eventually("the service drains", async || {
        (service.get("/health/ready").await.status() == 503).then_some(())
    })
    .await;
    let lines = lines(&service, 1).await;
    assert_eq!((&lines[0]["route"], &lines[0]["status"]), (&json!("/health/ready"), &json!(503)));
}

/// Contains a forged log line and terminal escape sequences.
const EVIL: &str = "x\n2026-01-01T00:00:00Z  INFO forged=true\r\x1b[31mred\x1b]0;title\x07\u{9b}2J\u{7f}.bin";

#[tokio::test]
async fn whatever_clients_send_a_line_stays_a_line() {
    for format in ["text", "json"] {
        let service = Service::start_with(&[("LOG__FORMAT", format), ("LOG__LEVEL", "trace")]).await;
        // As file names, in fields that errors quote, and as values.
        service.upload_link(EVIL).await;
        service.v1_post("/uploads", &json!({"name": EVIL, "metadata": {EVIL: EVIL}})).await;
        service.v1_post("/uploads", &json!({EVIL: 1})).await;
        service.v1_post("/uploads", &json!({"name": EVIL, "md5": EVIL})).await;
        let quoted: String = form_urlencoded::byte_serialize(EVIL.as_bytes()).collect();
        for path in [
            format!("/{quoted}"),
            format!("/api/v1/files/{quoted}"),
            format!("/api/v1/files?{quoted}={quoted}"),
            format!("/api/v1/tasks?kind={quoted}"),
            format!("/f/1/{quoted}?signature={quoted}"),
            format!("/api/storage/v0/download?uid={quoted}&signature={quoted}"),
        ] {
            service.get(&path).await;
        }
        // Raw control characters, which well-behaved clients never send.
        for (path, fields) in [
            ("/\u{9b}2J\u{85}forged", ""),
            ("/x", "X-Request-Id: \x1b[31mforged\r\n"),
            ("/x", "X-Request-Id: a\tforged\r\n"),
            ("/x", "X-Request-Id: \u{9b}2J\r\n"),
        ] {
            let mut connection = service.connect().await;
            connection.send_head("GET", path, &format!("{fields}Connection: close\r\n")).await;
            connection.read_to_end().await;
        }
        eventually("the log is written", async || {
            (service.log().matches("served").count() >= 10).then_some(())
        })
        .await;
        let log = service.log();
        assert!(log.contains("forged"), "no forged text was logged");
        for line in log.lines() {
            assert!(!line.chars().any(char::is_control), "{line:?}");
            match format {
                "json" => assert!(serde_json::from_str::<Value>(line).is_ok(), "{line}"),
                // The timestamp is the log's own.
                _ => assert!(line.starts_with("20") && !line.starts_with("2026-01-01T00"), "{line}"),
            }
        }
    }
}

/// Extracts the signatures of links.
fn signatures(links: &str) -> Vec<String> {
    let found = links.split("signature=").skip(1);
    let end = |letter: char| !(letter.is_ascii_alphanumeric() || "-_.~%".contains(letter));
    found.map(|rest| rest.split(end).next().unwrap().to_owned()).collect()
}

#[tokio::test]
async fn a_log_of_everything_has_no_secret_in_it() {
    let mut service = Service::start_with(&[("LOG__LEVEL", "trace")]).await;
    let made = service.sql("SELECT secret FROM link_keys").await.remove(0);
    let mut links = use_links(&service).await;
    // A process that ends waits only a second for its last lines.
    log_of(&service, REQUESTS).await;
    // The same with a configured link key.
    let config = "links: {keys: [{id: mine, secret: hush-hush-hush-hush}]}\ncluster: {secret: whisper-whisper-whisper}\n";
    std::fs::write(service.folder().join("config.yaml"), config).unwrap();
    service.restart_configured().await;
    links += &use_links(&service).await;

    let log = log_of(&service, 2 * REQUESTS).await;
    let mut secrets = signatures(&links);
    assert!(secrets.len() >= 20, "{secrets:?}");
    // A signature begins with the id of its key, which is not secret.
    secrets
        .extend(secrets.clone().iter().filter_map(|signature| Some(signature.split_once('.')?.1.to_owned())));
    let raw = hex::decode(&made).unwrap();
    secrets.extend([made, base64(&raw), "hush-hush".to_owned(), "whisper-whisper".to_owned()]);
    secrets.extend(["signature=".to_owned(), "osproxy-forwarded:".to_owned()]);
    if let Some(url) = service.database().url() {
        secrets.push(url);
        secrets.push(":secret@".to_owned());
    }
    secrets.extend(Store::from_environment().map(|store| store.key().1));
    for secret in secrets {
        assert!(secret.len() > 6, "{secret:?} was logged");
        let found = log.lines().find(|line| line.contains(&secret));
        assert_eq!(found, None, "{secret}");
    }
    assert!(log.contains("TRACE") || log.contains("DEBUG"), "the log is too short");
}

fn base64(bytes: &[u8]) -> String {
    use base64::{Engine, prelude::BASE64_STANDARD_NO_PAD};
    BASE64_STANDARD_NO_PAD.encode(bytes)
}

/// Waits until the log has this number of requests, and returns it.
async fn log_of(service: &Service, requests: usize) -> String {
    eventually("the log is written", async || {
        let log = service.log();
        (log.matches("served").count() >= requests).then_some(log)
    })
    .await
}

/// Minimum number of requests that `use_links` sends.
const REQUESTS: usize = 19;

/// Makes valid and invalid requests with every kind of link, and returns the links.
async fn use_links(service: &Service) -> String {
    let bytes = content(1, 20_000);
    let mut links = String::new();
    let link = service.upload_link("x.bin").await;
    links += &serde_json::to_string(&link).unwrap();
    service.put(&link.url.single, &bytes).await;
    service.put(&format!("{}x", link.url.single), &bytes).await;
    let parts = service.upload_link("y.bin").await;
    links += &serde_json::to_string(&parts).unwrap();
    service.put_parts(&parts, &[&bytes[..10_000], &bytes[10_000..]]).await;
    service.merge(&parts, 2, &bytes).await;
    let download = service.download_link(&link.uid).await.unwrap();
    links += &serde_json::to_string(&download).unwrap();
    service.get(&download.url).await;
    service.get(&download.url.replace("uid=", "uid=1")).await;
    service.get(&download.url.replace("signature=", "signature=x")).await;
    let wish = service.create_upload(&json!({"name": "z.bin", "size": bytes.len()})).await;
    links += &serde_json::to_string(&wish).unwrap();
    service.v1_put_part(&wish, 1, &bytes).await;
    service.v1_status(&wish).await;
    service.v1_complete(&wish).await;
    let made = service
        .v1_post(&format!("/files/{}/links", link.uid), &json!({"expires_in": 60}))
        .await
        .text()
        .await
        .unwrap();
    let url = serde_json::from_str::<Value>(&made).unwrap()["url"].as_str().unwrap().to_owned();
    service.get(&url).await;
    service.get(&format!("{url}&more=1")).await;
    let mut connection = service.connect().await;
    connection.send_head("GET", &url, "Connection: close\r\nRange: bytes=99999-\r\n").await;
    connection.read_to_end().await;
    links + &made
}
