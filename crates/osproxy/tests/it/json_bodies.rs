//! JSON request bodies, and the errors for malformed ones.

use reqwest::Response;
use serde_json::{Value, json};

use crate::support::{Service, expect_json, expect_problem, expect_v0_error};

async fn post(service: &Service, route: &str, body: &str) -> Response {
    let request = service.client().post(service.url(route)).header("content-type", "application/json");
    request.body(body.to_owned()).send().await.unwrap()
}

#[tokio::test]
async fn null_is_as_good_as_absent() {
    let service = Service::start().await;
    let nulls = json!({
        "name": "x.txt", "size": null, "content_type": null, "md5": null, "sha256": null, "blake3": null,
        "part_size": null, "metadata": null, "constraints": null, "expires_in": null,
    });
    let upload = service.create_upload(&nulls).await;
    assert_eq!(upload.state, osproxy_api::v1::CreatedState::Pending);
    let in_nested = json!({
        "name": "x.txt", "metadata": {"a": "b"},
        "constraints": {"max_size": null, "content_type": null, "networks": null},
    });
    let upload = service.create_upload(&in_nested).await;
    let content = &upload.links.unwrap().content;
    assert_eq!(service.put(content, b"hello").await.status(), 200);
    let file = service.describe(&upload.uid).await;
    assert_eq!(json!(file.metadata), json!({"a": "b"}));
    let route = format!("/files/{}/links", upload.uid);
    let link =
        json!({"expires_in": 60, "disposition": null, "filename": null, "networks": null, "max_uses": null});
    assert_eq!(service.v1_post(&route, &link).await.status(), 201);
    let route = format!("/files/{}/copy", upload.uid);
    let copy: Value =
        expect_json(service.v1_post(&route, &json!({"name": null, "metadata": null})).await, 201).await;
    assert_eq!((&copy["name"], &copy["metadata"]), (&json!("x.txt"), &json!({"a": "b"})));
    // A required field must not be `null`, nor a metadata value.
    let null_note = json!({"name": "x.txt", "metadata": {"a": null}});
    let wrong = expect_problem(service.v1_post("/uploads", &null_note).await, 400, "invalid_argument").await;
    assert_eq!(wrong["field"], "metadata.a");
    let wrong =
        expect_problem(service.v1_post("/uploads", &json!({"name": null})).await, 400, "invalid_argument")
            .await;
    assert_eq!(wrong["field"], "name");
}

#[tokio::test]
async fn what_is_wrong_is_said_in_words_of_the_api() {
    let service = Service::start().await;
    let nested = format!("{{\"name\":\"x\",\"metadata\":{{\"a\":{}{}}}}}", "[".repeat(500), "]".repeat(500));
    for (body, expected, field) in [
        ("", "the body is empty: it must be a JSON object", None),
        ("7", "the body must be a JSON object", None),
        ("null", "the body must be a JSON object", None),
        ("[]", "the body must be a JSON object", None),
        ("{'name': 1}", "the body is not JSON: ", None),
        (r#"{"name": "x"} x"#, "the body is not JSON: ", None),
        (r#"{"name": "x", "size": 1e400}"#, "`size`: number out of range", Some("size")),
        (r#"{"name": "\ud800"}"#, "`name`: ", Some("name")),
        (
            r#"{"name": "x", "constraints": 7}"#,
            "`constraints`: invalid type: integer `7`, expected an object",
            Some("constraints"),
        ),
        (
            r#"{"name": "x", "metadata": [7]}"#,
            "`metadata`: invalid type: sequence, expected an object",
            Some("metadata"),
        ),
        (
            r#"{"name": "x", "metadata": {"a": "1", "a": "2"}}"#,
            "`metadata`: the key `a` is given twice",
            Some("metadata"),
        ),
        (&nested, "`metadata.a", Some("metadata.a")),
    ] {
        let wrong =
            expect_problem(post(&service, "/api/v1/uploads", body).await, 400, "invalid_argument").await;
        let detail = wrong["detail"].as_str().unwrap();
        assert!(detail.starts_with(expected), "{body}: {detail}");
        assert!(!detail.contains("struct"), "{body}: {detail}");
        assert_eq!(wrong["field"].as_str(), field, "{body}: {detail}");
    }
    let twice = r#"{"metadata": {"a": null, "a": "2"}}"#;
    let uid = service.store("x.txt", b"x").await;
    let patch = service.client().patch(service.url(&format!("/api/v1/files/{uid}")));
    let patch = patch.header("content-type", "application/merge-patch+json").body(twice);
    expect_problem(patch.send().await.unwrap(), 400, "invalid_argument").await;
    // API v0 has the same message in its envelope.
    let message = expect_v0_error(post(&service, "/api/storage/v0/link/upload", "7").await, 422).await;
    assert_eq!(message, "the body must be a JSON object");
    let message =
        expect_v0_error(post(&service, "/api/storage/v0/resume", r#"{"data": [7]}"#).await, 422).await;
    assert!(message.contains("expected an object") && !message.contains("struct"), "{message}");
    assert_eq!(service.sql("SELECT count(*) FROM files WHERE state = 'pending'").await, ["0"]);
}
