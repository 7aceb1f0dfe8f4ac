//! Processing of complete files: states, verdicts and failures of steps. The steps here are programs;
//! the modules are about other steps.

mod images;
mod media;
mod sandbox;
mod scan;
mod webhook;

use std::path::Path;

use osproxy_api::{
    grpc::v1::{CreateUploadRequest, Digests, GetFileRequest, GetUploadRequest},
    v1::{CreatedState, File, FileState, UploadState},
};
use reqwest::Method;
use serde_json::{Value, json};

use crate::support::{
    Service, content, error_reason, eventually, expect_json, expect_problem, expect_v0_error, tus,
};

/// A step that waits until the file `gate` exists in `folder`, and then prints this.
pub fn gated_step(folder: &Path, output: &Value) -> Value {
    let script = format!("while ! test -e {}/gate; do sleep 0.02; done; echo '{output}'", folder.display());
    json!({"step": "command", "command": ["/bin/sh", "-c", script]})
}

/// A step that runs a script.
fn script_step(script: &str) -> Value {
    json!({"step": "command", "command": ["/bin/sh", "-c", script]})
}

/// Starts a service with these steps. The configuration file is JSON, which is YAML too.
async fn start(steps: &[Value]) -> Service {
    Service::start_configured(&configuration(steps)).await
}

fn configuration(steps: &[Value]) -> String {
    json!({"processing": steps, "tasks": {"min_backoff": 1, "max_backoff": 1}}).to_string()
}

/// Starts a service whose only step waits for a gate. Returns the folder of the gate too.
async fn start_gated(output: &Value) -> (Service, tempfile::TempDir) {
    let folder = tempfile::tempdir().unwrap();
    let service = start(&[gated_step(folder.path(), output)]).await;
    (service, folder)
}

pub fn open_gate(folder: &tempfile::TempDir) {
    std::fs::write(folder.path().join("gate"), "").unwrap();
}

/// Waits until a file is in this state.
async fn wait_for(service: &Service, uid: &str, state: FileState) -> File {
    eventually(&format!("the file is {state:?}"), async || {
        let file = service.describe(uid).await;
        (file.state == state).then_some(file)
    })
    .await
}

/// Stores content over API v1 in one request. Returns the uid.
async fn store_v1(service: &Service, name: &str, content_type: &str, content: &[u8]) -> String {
    let url = service.url(&format!("/api/v1/files?name={name}"));
    let request = service.client().post(url).header("content-type", content_type);
    let file: Value = expect_json(request.body(content.to_vec()).send().await.unwrap(), 201).await;
    file["uid"].as_str().unwrap().to_owned()
}

/// What the steps said about a file.
async fn said(service: &Service, uid: &str) -> Value {
    let (code, text) = service.cli(&["explain", "--json", uid]).await;
    assert_eq!(code, 0, "{text}");
    let history: Value = serde_json::from_str(text.lines().next().unwrap()).unwrap();
    history["processing"].clone()
}

/// Expects events of these kinds for a file, in this order. Waits, because a database server lists
/// an event a moment after the change.
async fn expect_kinds(service: &Service, uid: &str, expected: &[&str]) {
    let kinds = eventually("the file has its events", async || {
        let events: Value = expect_json(service.v1_get("/events?limit=200").await, 200).await;
        let events = events["events"].as_array().unwrap().iter();
        let kinds = events.filter(|event| event["data"]["uid"] == uid);
        let kinds: Vec<_> = kinds.map(|event| event["type"].as_str().unwrap().to_owned()).collect();
        (kinds.len() >= expected.len()).then_some(kinds)
    });
    assert_eq!(kinds.await, expected);
}

#[tokio::test]
async fn a_file_cannot_be_read_before_it_is_accepted() {
    let verdict =
        json!({"verdict": "accept", "metadata": {"seen": "yes"}, "media": {"width": 7, "height": 9}});
    let (service, folder) = start_gated(&verdict).await;
    let bytes = content(1, 100_000);
    let upload = service.create_upload(&json!({"name": "x.bin", "size": bytes.len()})).await;
    assert!(service.put(&upload.links.as_ref().unwrap().content, &bytes).await.status().is_success());
    let uid = &upload.uid;

    let waiting = service.describe(uid).await;
    assert_eq!((waiting.state, waiting.size), (FileState::Processing, Some(100_000)));
    assert!(waiting.content_type.is_none() && waiting.blake3.is_none() && waiting.stored_at.is_none());
    assert_eq!(service.v1_status(&upload).await.state, UploadState::Processing);
    let listed: Value = expect_json(service.v1_get("/files?state=processing").await, 200).await;
    assert_eq!(listed["files"][0]["uid"], **uid);
    let link = service.v1_post(&format!("/files/{uid}/links"), &json!({"expires_in": 60})).await;
    expect_problem(link, 409, "file_processing").await;
    let copy = service.v1_post(&format!("/files/{uid}/copy"), &json!({})).await;
    expect_problem(copy, 409, "file_processing").await;
    assert!(service.download_link(uid).await.is_none());
    let mut files = service.grpc().files;
    let found = files.get_file(GetFileRequest { uid: uid.clone() }).await.unwrap().into_inner();
    assert_eq!(found.state(), osproxy_api::grpc::v1::FileState::Processing);
    let found = files.get_upload(GetUploadRequest { uid: uid.clone() }).await.unwrap().into_inner();
    assert_eq!(found.state(), osproxy_api::grpc::v1::FileState::Processing);

    // The same content again is no conflict, other content is.
    let put = async |bytes: &[u8]| service.put(&upload.links.as_ref().unwrap().content, bytes).await;
    assert!(put(&bytes).await.status().is_success());
    expect_problem(put(&content(2, 100_000)).await, 409, "already_stored").await;

    expect_kinds(&service, uid, &["file.created"]).await;
    open_gate(&folder);
    let stored = wait_for(&service, uid, FileState::Stored).await;
    expect_kinds(&service, uid, &["file.created", "file.completed", "file.processed"]).await;
    assert_eq!(service.read(uid).await, bytes);
    assert_eq!(stored.metadata.get("seen").map(String::as_str), Some("yes"));
    assert_eq!(Value::from(stored.media.unwrap()), json!({"width": 7, "height": 9}));
    let meta = service.download_link(uid).await.unwrap().meta;
    assert_eq!((meta.width, meta.height), (7, 9));
    assert_eq!(said(&service, uid).await["steps"][0]["outcome"], "accepted");
}

#[tokio::test]
async fn every_way_to_complete_a_file_waits_for_the_verdict() {
    let (service, folder) = start_gated(&json!({"verdict": "accept"})).await;
    let bytes = content(1, 200_000);
    let mut uids = vec![
        service.store("whole.bin", &bytes).await,
        service.store_in_parts("parts.bin", &content(2, 200_000), 70_000).await,
        store_v1(&service, "one.bin", "application/x-one", &content(3, 1000)).await,
    ];
    // A file of known content, and one whose content is announced by digest.
    let md5 = crate::support::md5_hex(&bytes);
    uids.push(service.instant_upload(&[(&md5, "instant.bin")]).await[0].uid.clone());
    let known = json!({"name": "known.bin", "size": bytes.len(), "md5": md5});
    let known = service.create_upload(&known).await;
    assert!(known.links.is_none(), "the content is known");
    assert_eq!(known.state, CreatedState::Processing);
    uids.push(known.uid);
    let digests = Digests { md5: hex::decode(&md5).unwrap().into(), ..Digests::default() };
    let request = CreateUploadRequest {
        name: "grpc.bin".to_owned(),
        size: Some(bytes.len() as u64),
        digests: Some(digests),
        ..CreateUploadRequest::default()
    };
    let known = service.grpc().files.create_upload(request).await.unwrap().into_inner();
    assert_eq!(known.state(), osproxy_api::grpc::v1::FileState::Processing);
    uids.push(known.uid);
    // An upload of tus in two requests.
    let created = tus::request(&service, Method::POST, "/tus").header("upload-length", 4000);
    let created = created.header("upload-metadata", "filename dHVzLmJpbg==").send().await.unwrap();
    let url = created.headers()["location"].to_str().unwrap().to_owned();
    let tus_bytes = content(4, 4000);
    tus::append(&service, &url, 0, &tus_bytes[..1500]).await;
    tus::append(&service, &url, 1500, &tus_bytes[1500..]).await;
    assert_eq!(tus::offset(&service, &url).await, 4000);
    uids.push(tus::uid(&url).to_owned());

    for uid in &uids {
        assert_eq!(service.describe(uid).await.state, FileState::Processing, "{uid}");
    }
    open_gate(&folder);
    for uid in &uids {
        wait_for(&service, uid, FileState::Stored).await;
        expect_kinds(&service, uid, &["file.created", "file.completed", "file.processed"]).await;
    }
    assert_eq!(service.read(&uids[4]).await, bytes);
    // A copy of an accepted file can be read at once.
    std::fs::remove_file(folder.path().join("gate")).unwrap();
    let copy: Value =
        expect_json(service.v1_post(&format!("/files/{}/copy", uids[0]), &json!({})).await, 201).await;
    assert_eq!(copy["state"], "stored");
}

#[tokio::test]
async fn small_files_in_packs_wait_too() {
    let folder = tempfile::tempdir().unwrap();
    let config = json!({
        "processing": [gated_step(folder.path(), &json!({"verdict": "accept"}))],
        "local": {"pack_below": "64KiB"},
    });
    let mut service = Service::start().await;
    std::fs::write(service.folder().join("config.yaml"), config.to_string()).unwrap();
    service.set_setting("LOCAL__PACK_BELOW", "64KiB");
    service.restart_configured().await;
    let one = store_v1(&service, "one.txt", "text/plain", b"one").await;
    let two = service.store("two.txt", b"two").await;
    for uid in [&one, &two] {
        assert_eq!(service.describe(uid).await.state, FileState::Processing);
    }
    open_gate(&folder);
    wait_for(&service, &one, FileState::Stored).await;
    wait_for(&service, &two, FileState::Stored).await;
    assert_eq!(service.read(&two).await, b"two");
}

#[tokio::test]
async fn a_rejected_file_leaves_no_content() {
    let reject = script_step(r#"echo '{"verdict": "reject", "reason": "not wanted"}'"#);
    let mut service = start(&[reject]).await;
    let uid = service.store("x.bin", &content(1, 100_000)).await;
    let rejected = wait_for(&service, &uid, FileState::Rejected).await;
    assert!(rejected.stored_at.is_none() && rejected.blake3.is_none());
    let link = service.v1_post(&format!("/files/{uid}/links"), &json!({"expires_in": 60})).await;
    expect_problem(link, 410, "file_rejected").await;
    assert!(service.download_link(&uid).await.is_none());
    eventually("the object is removed", async || service.objects().is_empty().then_some(())).await;
    expect_kinds(&service, &uid, &["file.created", "file.rejected"]).await;
    let said = said(&service, &uid).await;
    assert_eq!((&said["verdict"], &said["reason"]), (&json!("rejected"), &json!("not wanted")));
    assert_eq!(service.sql(&format!("SELECT charged FROM files WHERE uid = {uid}")).await, ["0"]);
    // The same content can be sent again, and is judged again.
    let again = service.store("y.bin", &content(1, 100_000)).await;
    wait_for(&service, &again, FileState::Rejected).await;
    let deleted = service.v1(Method::DELETE, &format!("/files/{uid}"), None).await;
    assert_eq!(deleted.status(), 204);
    service.assert_consistent().await;
}

#[tokio::test]
async fn programs_that_fail_lead_to_what_is_configured() {
    let failing = [
        ("garbage", "echo what"),
        ("silent", "true"),
        ("ends", r#"echo '{"verdict": "accept"}'; exit 3"#),
        ("aborts", "kill -ABRT $$"),
        ("much", "head -c 100000000 /dev/zero"),
        ("endless", "while true; do :; done"),
        ("sleeps", "sleep 1000"),
        ("sleeps-apart", "sleep 1000 & echo done"),
    ];
    let mut steps = Vec::new();
    for (name, script) in failing {
        for on_error in ["reject", "pass"] {
            steps.push(json!({
                "step": "command", "command": ["/bin/sh", "-c", script], "types": [format!("{on_error}/{name}")],
                "on_error": on_error, "timeout": 2,
            }));
        }
    }
    let service = start(&steps).await;
    let mut expected = Vec::new();
    for (name, _) in failing {
        for (on_error, state) in [("reject", FileState::Rejected), ("pass", FileState::Stored)] {
            let uid = store_v1(&service, "x.bin", &format!("{on_error}/{name}"), b"content").await;
            expected.push((name, uid, state));
        }
    }
    for (name, uid, state) in &expected {
        wait_for(&service, uid, *state).await;
        let run = said(&service, uid).await["steps"][0].clone();
        let outcome = if *state == FileState::Stored { "passed" } else { "rejected" };
        assert_eq!(run["outcome"], outcome, "{name}");
        let reason = run["reason"].as_str().unwrap();
        let part = match *name {
            "garbage" | "silent" => "no verdict",
            "ends" => "exit status: 3",
            "aborts" => "signal: 6",
            "much" => "more than 65536 bytes",
            _ => "did not end within 2 seconds",
        };
        assert!(reason.contains(part), "{name}: {reason}");
    }
    // Nothing of them is left.
    let left = || {
        std::fs::read_dir("/proc").unwrap().filter_map(|entry| {
            let command = std::fs::read(entry.ok()?.path().join("cmdline")).ok()?;
            let command = String::from_utf8_lossy(&command).replace('\0', " ");
            (command.trim() == "sleep 1000").then_some(())
        })
    };
    eventually("all programs are dead", async || (left().count() == 0).then_some(())).await;
}

#[tokio::test]
async fn a_file_is_held_until_the_step_gives_a_verdict() {
    let folder = tempfile::tempdir().unwrap();
    let gate = folder.path().join("gate");
    let script =
        format!(r#"test -e {} && echo '{{"verdict": "accept"}}' || echo 'not yet' >&2"#, gate.display());
    let service = start(&[script_step(&script)]).await;
    let uid = service.store("x.bin", b"held").await;
    eventually("the step has failed twice", async || {
        let attempts = service.sql("SELECT attempts FROM tasks WHERE kind = 'process_file'").await;
        attempts[0].parse::<u32>().is_ok_and(|attempts| attempts > 1).then_some(())
    })
    .await;
    assert_eq!(service.describe(&uid).await.state, FileState::Processing);
    let metrics = service.get("/metrics").await.text().await.unwrap();
    let value = |sample: &str| -> Option<f64> {
        metrics.lines().find_map(|line| line.strip_prefix(sample)?.trim().parse().ok())
    };
    let held = value(r#"osproxy_processing_runs_total{step="command",outcome="held"}"#);
    assert!(held.is_some_and(|count| count >= 1.0), "{metrics}");
    assert_eq!(value("osproxy_processing_held "), Some(1.0), "{metrics}");
    assert!(value("osproxy_processing_oldest_seconds ").is_some_and(|age| age > 0.0), "{metrics}");
    std::fs::write(gate, "").unwrap();
    wait_for(&service, &uid, FileState::Stored).await;
    let metrics = service.get("/metrics").await.text().await.unwrap();
    let accepted = r#"osproxy_processing_runs_total{step="command",outcome="accepted"} 1"#;
    assert!(metrics.contains(accepted), "{metrics}");
    service.wait_for_log("a file waits for a verdict").await;
}

#[tokio::test]
async fn a_step_that_is_killed_with_its_node_runs_again() {
    let (mut service, folder) = start_gated(&json!({"verdict": "accept"})).await;
    let mut uids = Vec::new();
    for seed in 0..6 {
        uids.push(service.store("x.bin", &content(seed, 50_000)).await);
    }
    eventually("steps run", async || {
        let running =
            service.sql("SELECT id FROM tasks WHERE kind = 'process_file' AND state = 'running'").await;
        (!running.is_empty()).then_some(())
    })
    .await;
    service.restart_configured().await;
    for uid in &uids {
        assert_eq!(service.describe(uid).await.state, FileState::Processing);
    }
    open_gate(&folder);
    for (seed, uid) in (0..).zip(&uids) {
        wait_for(&service, uid, FileState::Stored).await;
        assert!(service.read(uid).await == content(seed, 50_000));
    }
    service.assert_consistent().await;
}

#[tokio::test]
async fn a_file_that_is_deleted_while_it_is_processed_stays_deleted() {
    let (mut service, folder) = start_gated(&json!({"verdict": "accept"})).await;
    let uid = service.store("x.bin", &content(1, 50_000)).await;
    let deleted = service.v1(Method::DELETE, &format!("/files/{uid}"), None).await;
    assert_eq!(deleted.status(), 204);
    open_gate(&folder);
    eventually("the task is done", async || {
        let open = "SELECT id FROM tasks WHERE kind = 'process_file' AND state <> 'done'";
        service.sql(open).await.is_empty().then_some(())
    })
    .await;
    expect_problem(service.v1_get(&format!("/files/{uid}")).await, 410, "file_gone").await;
    eventually("the object is removed", async || service.objects().is_empty().then_some(())).await;
    service.assert_consistent().await;
}

#[tokio::test]
async fn steps_beside_run_on_readable_files() {
    let folder = tempfile::tempdir().unwrap();
    let mut beside = gated_step(folder.path(), &json!({"verdict": "reject", "reason": "found later"}));
    beside["blocking"] = false.into();
    let service = start(&[script_step(r#"echo '{"verdict": "accept", "media": {"a": 1}}'"#), beside]).await;
    let uid = service.store("x.bin", b"readable").await;
    let stored = wait_for(&service, &uid, FileState::Stored).await;
    assert_eq!(Value::from(stored.media.unwrap()), json!({"a": 1}));
    let link = service.download_link(&uid).await.unwrap();
    assert_eq!(service.get(&link.url).await.status(), 200);
    open_gate(&folder);
    wait_for(&service, &uid, FileState::Rejected).await;
    let message = expect_v0_error(service.get(&link.url).await, 404).await;
    assert!(message.contains("not accepted"), "{message}");
}

#[tokio::test]
async fn files_in_quarantine_are_kept_for_the_operator() {
    let folder = tempfile::tempdir().unwrap();
    let bad = folder.path().join("bad");
    let script = format!(
        r#"test -e {} && echo '{{"verdict": "quarantine", "reason": "bad"}}' || echo '{{"verdict": "accept"}}'"#,
        bad.display()
    );
    let mut service = start(&[script_step(&script)]).await;
    let bytes = content(1, 100_000);
    let first = service.store("a.bin", &bytes).await;
    wait_for(&service, &first, FileState::Stored).await;
    let second = service.store_in_parts("b.bin", &bytes, 40_000).await;
    wait_for(&service, &second, FileState::Stored).await;
    service.database().wait_until_idle().await;
    let link = service.download_link(&first).await.unwrap();
    let other = service.store("c.bin", b"other").await;
    wait_for(&service, &other, FileState::Stored).await;

    // A rescan finds out about one file; the others have the same content.
    std::fs::write(&bad, "").unwrap();
    let (code, text) = service.cli(&["rescan", "--config", "config.yaml", &first]).await;
    assert_eq!((code, text.as_str()), (0, "1 files will be processed\n"));
    wait_for(&service, &first, FileState::Quarantined).await;
    wait_for(&service, &second, FileState::Quarantined).await;
    assert_eq!(service.describe(&other).await.state, FileState::Stored);
    let message = expect_v0_error(service.get(&link.url).await, 404).await;
    assert!(message.contains("quarantine"), "{message}");
    let v1 = service.v1_post(&format!("/files/{first}/links"), &json!({"expires_in": 60})).await;
    expect_problem(v1, 410, "file_quarantined").await;
    let refused = service.v1(Method::DELETE, &format!("/files/{first}"), None).await;
    expect_problem(refused, 410, "file_quarantined").await;
    // The content cannot be shared any more, but sent again.
    let md5 = crate::support::md5_hex(&bytes);
    assert!(service.instant_upload(&[(&md5, "d.bin")]).await[0].uid.is_empty());
    let again = service.store("e.bin", &bytes).await;
    wait_for(&service, &again, FileState::Quarantined).await;

    let (code, listed) = service.cli(&["quarantine", "ls", "--json"]).await;
    assert_eq!(code, 0);
    let listed: Vec<Value> = listed.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    let uids: Vec<_> = listed.iter().map(|file| file["uid"].as_str().unwrap()).collect();
    assert_eq!(uids, [first.as_str(), &second, &again]);
    assert!(service.objects_folder().join(listed[0]["object_key"].as_str().unwrap()).exists());
    assert_eq!(listed[0]["verdict"]["reason"], "bad");
    let (_, table) = service.cli(&["quarantine", "ls"]).await;
    assert!(table.contains(&first) && table.contains("bad"), "{table}");

    // One is deleted, the other content is released.
    std::fs::remove_file(bad).unwrap();
    assert_eq!(service.cli(&["quarantine", "delete", &again]).await, (0, String::new()));
    assert_eq!(service.describe(&again).await.state, FileState::Rejected);
    assert_eq!(service.cli(&["quarantine", "release", &first]).await, (0, String::new()));
    for uid in [&first, &second] {
        wait_for(&service, uid, FileState::Stored).await;
        assert!(service.read(uid).await == bytes);
    }
    let (code, text) = service.cli(&["quarantine", "release", &first]).await;
    assert_eq!((code, text.contains("is not in quarantine")), (1, true), "{text}");
    eventually("the digests are computed again", async || {
        service.describe(&first).await.blake3.is_some().then_some(())
    })
    .await;
    service.database().wait_until_idle().await;
    service.assert_consistent().await;
}

#[tokio::test]
async fn types_are_accepted_and_rejected_by_content() {
    let service = start(&[json!({"step": "type", "deny": ["text/html"], "mismatch": "reject"})]).await;
    let png = b"\x89PNG\r\n\x1a\n\0\0\0\rIHDR";
    for (name, claimed, bytes, state) in [
        ("a.txt", "text/plain", &b"words"[..], FileState::Stored),
        ("a.png", "image/png", png, FileState::Stored),
        ("a.html", "text/html", b"<!DOCTYPE html>", FileState::Rejected),
        ("a.txt", "text/plain", b"<!DOCTYPE html>", FileState::Rejected),
        ("a.png", "image/png", b"MZ\x90\0\x03\0\0\0", FileState::Rejected),
        ("a.pdf", "application/pdf", png, FileState::Rejected),
    ] {
        let uid = store_v1(&service, name, claimed, bytes).await;
        wait_for(&service, &uid, state).await;
    }
}

/// Waits until a node has refused to judge a file because it lacks these steps.
async fn wait_until_refused(service: &Service, uid: &str, steps: &str) {
    let error = format!("this node lacks steps that must judge the file ({steps})");
    eventually("the node refuses the task", async || {
        let (code, tasks) = service.cli(&["tasks", "ls"]).await;
        assert_eq!(code, 0, "{tasks}");
        tasks.contains(&error).then_some(())
    })
    .await;
    let (code, text) = service.cli(&["explain", uid]).await;
    assert!(code == 0 && text.contains(&error), "{text}");
    assert_eq!(service.describe(uid).await.state, FileState::Processing);
}

#[tokio::test]
async fn a_waiting_file_stays_unreadable_without_its_steps() {
    let (mut service, _folder) = start_gated(&json!({"verdict": "accept"})).await;
    let uid = service.store("x.bin", b"waiting").await;
    assert_eq!(service.describe(&uid).await.state, FileState::Processing);
    service.kill_and_restart().await;
    wait_until_refused(&service, &uid, "command").await;
    let type_only = configuration(&[json!({"step": "type"})]);
    std::fs::write(service.folder().join("config.yaml"), type_only).unwrap();
    service.sql("UPDATE tasks SET last_error = NULL").await;
    service.restart_configured().await;
    wait_until_refused(&service, &uid, "command").await;

    // The operator has removed the step on purpose.
    let (code, text) = service.cli(&["rescan"]).await;
    assert_eq!((code, text.contains("no step is configured")), (1, true), "{text}");
    let (code, text) = service.cli(&["rescan", "--waiting", "--config", "config.yaml", "1"]).await;
    assert_eq!((code, text.contains("there is no waiting file 1")), (1, true), "{text}");
    let (code, text) = service.cli(&["rescan", "--waiting", "--config", "config.yaml"]).await;
    assert_eq!((code, text.as_str()), (0, "1 files will be processed\n"));
    wait_for(&service, &uid, FileState::Stored).await;
    assert_eq!(said(&service, &uid).await["steps"][0]["step"], "type");
    assert_eq!(service.sql("SELECT id FROM tasks WHERE kind = 'process_file'").await.len(), 1);
}

#[tokio::test]
async fn all_steps_can_be_removed_on_purpose() {
    let (mut service, _folder) = start_gated(&json!({"verdict": "accept"})).await;
    let uid = service.store("x.bin", b"waiting").await;
    service.kill_and_restart().await;
    wait_until_refused(&service, &uid, "command").await;
    let (code, text) = service.cli(&["rescan", "--waiting", &uid]).await;
    assert_eq!((code, text.as_str()), (0, "1 files will be processed\n"));
    wait_for(&service, &uid, FileState::Stored).await;
}

#[tokio::test]
async fn steps_beside_wait_for_a_node_that_has_them() {
    let folder = tempfile::tempdir().unwrap();
    let mut beside = gated_step(folder.path(), &json!({"verdict": "accept"}));
    beside["blocking"] = false.into();
    let mut service = start(&[json!({"step": "type"}), beside]).await;
    let uid = service.store("x.bin", b"readable").await;
    wait_for(&service, &uid, FileState::Stored).await;
    let unfinished = "SELECT id FROM tasks WHERE kind = 'process_file' AND state <> 'done'";
    eventually("only the task of the other step is left", async || {
        (service.sql(unfinished).await.len() == 1).then_some(())
    })
    .await;
    service.kill_and_restart().await;
    let refused =
        "SELECT id FROM tasks WHERE last_error LIKE '%lacks steps that must judge the file (command)%'";
    eventually("the node refuses", async || service.sql(refused).await.pop()).await;
    let (code, text) = service.cli(&["rescan", "--waiting"]).await;
    assert_eq!((code, text.as_str()), (0, "0 files will be processed\n"));
    eventually("the task ends", async || service.sql(unfinished).await.is_empty().then_some(())).await;
}

#[tokio::test]
async fn tasks_without_names_of_steps_need_blocking_steps() {
    let (mut service, folder) = start_gated(&json!({"verdict": "accept"})).await;
    let uid = service.store("x.bin", b"waiting").await;
    service.kill().await;
    // As an older version records it.
    let payload = format!(r#"{{"uid":{uid},"steps":"blocking"}}"#);
    service.sql(&format!("UPDATE tasks SET payload = '{payload}' WHERE kind = 'process_file'")).await;
    service.restart().await;
    wait_until_refused(&service, &uid, "blocking steps").await;
    service.restart_configured().await;
    open_gate(&folder);
    let retried = service.cli(&["tasks", "retry", &uid]).await;
    assert_eq!(retried.0, 0, "{}", retried.1);
    wait_for(&service, &uid, FileState::Stored).await;
}

#[tokio::test]
async fn a_waiting_file_without_a_task_is_found_and_gets_one() {
    let (mut service, folder) = start_gated(&json!({"verdict": "accept"})).await;
    let uid = service.store("x.bin", b"waiting").await;
    service.assert_consistent().await;
    service.sql("DELETE FROM tasks WHERE kind = 'process_file'").await;
    let fsck =
        async |options: &[&str]| service.cli(&[&["fsck", "--config", "config.yaml"], options].concat()).await;
    let problem = format!("file {uid} waits for a verdict, and no task processes it");
    let (code, text) = fsck(&[]).await;
    assert!(code == 4 && text.contains(&problem), "{text}");
    let (code, text) = fsck(&["--repair"]).await;
    assert!(code == 3 && text.contains(&format!("{problem}: repaired")), "{text}");
    let (code, text) = fsck(&[]).await;
    assert_eq!(code, 0, "{text}");
    service.resume_configured().await;
    assert_eq!(service.describe(&uid).await.state, FileState::Processing);
    open_gate(&folder);
    wait_for(&service, &uid, FileState::Stored).await;
}

/// A crash can leave the parts of merged content. If the content was in quarantine when the merge was
/// repeated, only its release can remove them.
#[tokio::test]
async fn a_release_removes_parts_that_a_crash_has_left() {
    let folder = tempfile::tempdir().unwrap();
    let bad = folder.path().join("bad");
    let script = format!(
        r#"test -e {} && echo '{{"verdict": "quarantine", "reason": "bad"}}' || echo '{{"verdict": "accept"}}'"#,
        bad.display()
    );
    let mut service = start(&[script_step(&script)]).await;
    let bytes = content(1, 100_000);
    let uid = service.store_in_parts("x.bin", &bytes, 100_000).await;
    wait_for(&service, &uid, FileState::Stored).await;
    service.wait_until_merged(&uid).await;
    service.database().wait_until_idle().await;
    let objects = service.objects();
    let part = format!("unknown/{uid}_1");
    std::fs::write(service.object_path(&part), &bytes).unwrap();
    let columns = "id, blob_id, number, state, object_key, size, md5, created_at";
    let values = format!("1, id, 1, 'stored', '{part}', size, md5, 0 FROM blobs WHERE id = {uid}");
    service.sql(&format!("INSERT INTO parts ({columns}) SELECT {values}")).await;

    std::fs::write(&bad, "").unwrap();
    assert_eq!(service.cli(&["rescan", "--config", "config.yaml", &uid]).await.0, 0);
    wait_for(&service, &uid, FileState::Quarantined).await;
    std::fs::remove_file(bad).unwrap();
    assert_eq!(service.cli(&["quarantine", "release", &uid]).await, (0, String::new()));
    wait_for(&service, &uid, FileState::Stored).await;
    service.database().wait_until_idle().await;
    assert!(service.read(&uid).await == bytes);
    assert_eq!(service.objects(), objects);
    service.assert_consistent().await;
}

#[tokio::test]
async fn grpc_names_the_state_in_its_errors() {
    let service = start(&[script_step(r#"echo '{"verdict": "quarantine", "reason": "bad"}'"#)]).await;
    let uid = service.store("x.bin", b"bad").await;
    wait_for(&service, &uid, FileState::Quarantined).await;
    let request = osproxy_api::grpc::v1::CreateDownloadLinkRequest { uid, ..Default::default() };
    let error = service.grpc().files.create_download_link(request).await.unwrap_err();
    assert_eq!(error_reason(&error).0, "file_quarantined");
}
