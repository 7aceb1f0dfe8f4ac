use reqwest::Method;
use serde_json::{Value, json};

use crate::support::{Service, content, eventually};

/// The JSON output of `osproxy explain`.
async fn explain_json(service: &Service, uid: &str) -> Value {
    let (code, said) = service.cli(&["explain", uid, "--json"]).await;
    assert_eq!(code, 0, "{said}");
    serde_json::from_str(&said).expect(&said)
}

/// The text output of `osproxy explain`.
async fn explain_text(service: &Service, uid: &str) -> String {
    let (code, said) = service.cli(&["explain", uid]).await;
    assert_eq!(code, 0, "{said}");
    said
}

/// The node id of the service in the database.
async fn node(service: &Service) -> String {
    let log =
        eventually("the node id is logged", async || Some(service.log()).filter(|log| log.contains("node=")))
            .await;
    let name = log.split("node=").nth(1).unwrap();
    name.trim_start_matches('"').split(['"', ' ']).next().unwrap().to_owned()
}

#[tokio::test]
async fn an_upload_in_parts_is_told_from_its_link_to_its_merge() {
    let service = Service::start().await;
    let node = node(&service).await;
    service.database().hold_merges().await;
    let bytes = content(1, 50_000);
    let link = service.upload_link("x.bin").await;
    let pending = explain_json(&service, &link.uid).await;
    assert_eq!((&pending["state"], &pending["name"]), (&json!("pending"), &json!("x.bin")));
    assert!(pending["lapses_at"].as_i64().unwrap() > pending["created_at"].as_i64().unwrap() + 500_000);
    assert_eq!((&pending["content"], &pending["tasks"]), (&Value::Null, &json!([])));

    service.put_parts(&link, &[&bytes[..20_000]]).await;
    // The first write of the second part breaks off.
    let mut broken = service.connect().await;
    let second = format!("{}&chunkNum=2", link.url.multi.upload);
    broken.send_head("PUT", &second, "Content-Length: 30000\r\n").await;
    broken.send(&bytes[20_000..30_000]).await;
    let writing = async || {
        let state = explain_json(&service, &link.uid).await["parts"][1]["state"].clone();
        (state == "writing").then_some(())
    };
    eventually("the write has started", writing).await;
    drop(broken);
    let gone = async || {
        let story = explain_json(&service, &link.uid).await;
        (story["parts"][1]["state"] == "gone").then_some(())
    };
    eventually("the write is removed", gone).await;
    assert_eq!(service.put_part(&link, 2, &bytes[20_000..]).await.status(), 200);
    assert_eq!(service.merge(&link, 2, &bytes).await.status(), 200);

    let stored = explain_json(&service, &link.uid).await;
    let parts = stored["parts"].as_array().unwrap();
    let attempts: Vec<_> =
        parts.iter().map(|part| (&part["number"], &part["attempt"], &part["state"])).collect();
    let expected = [(1, 1, "stored"), (2, 1, "gone"), (2, 2, "stored")];
    let expected = expected.map(|(number, attempt, state)| (json!(number), json!(attempt), json!(state)));
    assert!(attempts.iter().zip(&expected).all(|(a, (n, t, s))| *a == (n, t, s)), "{parts:#?}");
    assert_eq!(attempts.len(), 3);
    assert!(parts.iter().all(|part| part["node"] == node), "{parts:#?}");
    for part in parts.iter().filter(|part| part["state"] == "stored") {
        assert!(part["stored_at"].as_i64() >= part["begun_at"].as_i64(), "{part}");
    }
    assert_eq!((&stored["state"], &stored["stored_by"]), (&json!("stored"), &json!(node)));
    assert_eq!(stored["content"]["layout"], "parts");

    service.database().release_merges().await;
    service.wait_until_merged(&link.uid).await;
    service.database().wait_until_idle().await;
    let merged = explain_json(&service, &link.uid).await;
    assert_eq!((&merged["parts"], &merged["part_count"]), (&json!([]), &json!(2)));
    assert_eq!(merged["received"]["nodes"], 1);
    assert_eq!(merged["received"]["from"], parts[0]["begun_at"]);
    assert_eq!(merged["received"]["until"], parts[2]["stored_at"]);
    let content = &merged["content"];
    assert_eq!((&content["layout"], &content["verified"]), (&json!("whole"), &json!(true)));
    assert_eq!((&content["size"], &content["shared_with"]), (&json!(50_000), &json!(0)));
    let tasks = merged["tasks"].as_array().unwrap();
    let merge = tasks.iter().find(|task| task["kind"] == "merge_parts").expect("a merge");
    let last = merge["attempts"].as_array().unwrap().last().unwrap().clone();
    assert_eq!(
        (&merge["state"], &last["node"], &last["outcome"]),
        (&json!("done"), &json!(node), &json!("done"))
    );

    let told = explain_text(&service, &link.uid).await;
    for expected in [
        "state    stored",
        "2 parts received within ",
        "through 1 nodes",
        "complete by ",
        "merge_parts, attempt ",
    ] {
        assert!(told.contains(expected), "{expected} is not in {told}");
    }
}

#[tokio::test]
async fn what_shares_its_content_and_what_is_gone_is_told() {
    let service = Service::start().await;
    let bytes = content(1, 50_000);
    let first = service.store("a.bin", &bytes).await;
    let second = service.store("b.bin", &bytes).await;
    let in_parts = service.store_in_parts("c\n\u{1b}[31m.bin", &bytes, 20_000).await;
    service.wait_until_merged(&in_parts).await;
    service.database().wait_until_idle().await;
    for (uid, was_there) in [(&first, false), (&second, true), (&in_parts, true)] {
        let story = explain_json(&service, uid).await;
        assert_eq!(story["content"]["shared_with"], 2, "{story}");
        assert_eq!(story["content"]["was_there"], was_there, "{story}");
    }
    // The merge belongs to the uploaded content, not to the blob that the file shares now.
    let shared = explain_json(&service, &in_parts).await;
    assert!(shared["tasks"].as_array().unwrap().iter().any(|task| task["kind"] == "merge_parts"), "{shared}");
    assert!(explain_text(&service, &second).await.contains("with content that was already stored"));
    let told_of = explain_text(&service, &in_parts).await;
    assert!(told_of.contains(r"c\n\u{1b}[31m.bin"), "{told_of}");
    assert!(!told_of.contains('\u{1b}'), "{told_of}");

    for uid in [&second, &in_parts, &first] {
        assert_eq!(service.v1(Method::DELETE, &format!("/files/{uid}"), None).await.status(), 204);
    }
    service.database().wait_until_idle().await;
    let gone = explain_json(&service, &first).await;
    assert_eq!((&gone["state"], &gone["content"]), (&json!("deleted"), &Value::Null));
    assert!(gone["gone_at"].as_i64() >= gone["stored_at"].as_i64(), "{gone}");
    let removal = gone["tasks"].as_array().unwrap().iter().find(|task| task["kind"] == "delete_blob");
    assert_eq!(removal.expect("a removed object")["state"], "done");
}

#[tokio::test]
async fn it_is_told_when_the_service_is_down_and_of_what_failed() {
    let mut service = Service::start_with(&[("TASKS__MAX_ATTEMPTS", "1")]).await;
    let bytes = content(1, 10_000);
    service.database().hold_merges().await;
    let uid = service.store_in_parts("x.bin", &bytes, 5_000).await;
    service.sql("UPDATE parts SET object_key = 'unknown/1'").await;
    service.database().release_merges().await;
    let failed = async || {
        let story = explain_json(&service, &uid).await;
        story["tasks"][0]["attempts"][0]["error"].as_str().map(str::to_owned)
    };
    let error = eventually("the merge has failed", failed).await;
    service.kill().await;
    let told = explain_text(&service, &uid).await;
    assert!(told.contains("it is dead") && told.contains(&error), "{told}");
}

#[tokio::test]
async fn what_nobody_knows_is_a_sentence_and_exit_code_1() {
    let service = Service::start().await;
    let (code, said) = service.cli(&["explain", "1"]).await;
    assert_eq!((code, said.lines().count()), (1, 1));
    assert!(said.starts_with("osproxy: there is no file 1: "), "{said}");
    for wrong in ["0", "-1", "x", ""] {
        assert_eq!(service.cli(&["explain", "--", wrong]).await.0, 2, "{wrong}");
    }
    let empty = tempfile::tempdir().unwrap();
    let (status, _, said) = crate::support::spawn_failing(empty.path(), &[], &["explain", "1"]).await;
    assert_eq!(status.code(), Some(1));
    assert!(said.contains("there is no database"), "{said}");
}
