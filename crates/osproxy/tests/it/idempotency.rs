//! Requests under an `Idempotency-Key` take effect once, wherever their process dies.

use std::{collections::HashSet, time::SystemTime};

use futures_util::future::join_all;
use osproxy_api::v1::{CreatedUpload, File};
use reqwest::Response;
use serde_json::json;

use crate::support::{Api, Service, expect_json, expect_problem};

const PART: u64 = 64 << 10;

/// A change that the database rejects: the name of its trigger, the change, its table and its
/// condition.
type RejectedChange = (&'static str, &'static str, &'static str, &'static str);

const NO_FILE: RejectedChange = ("no_file", "BEFORE INSERT", "files", "NEW.uid > 0");
const NO_ROOM: RejectedChange = ("no_room", "BEFORE INSERT", "blobs", "NEW.id > 0");
/// Neither the answer nor the failure can be recorded: the row stays as a dying process leaves it.
const NO_ANSWER: RejectedChange = ("no_answer", "BEFORE UPDATE", "idempotency_keys", "NEW.created_at > 0");

/// The step at which the process dies, the changes rejected until then, and the status of the
/// answer.
const STEPS: [(&str, &[RejectedChange], u16); 3] = [
    ("the key is taken", &[NO_FILE, NO_ANSWER], 503),
    ("the file is recorded", &[NO_ROOM, NO_ANSWER], 503),
    ("its room is kept", &[NO_ANSWER], 201),
];

async fn create(api: &Api, key: &str) -> Response {
    let wish = json!({"name": key, "size": 3 * PART, "part_size": PART});
    let key = key.replace(' ', "-");
    api.client()
        .post(api.url("/api/v1/uploads"))
        .header("idempotency-key", key)
        .json(&wish)
        .send()
        .await
        .unwrap()
}

/// Makes all keys this old, in milliseconds.
async fn set_key_age(service: &Service, milliseconds: u64) {
    let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap();
    let taken = u64::try_from(now.as_millis()).unwrap() - milliseconds;
    service.sql(&format!("UPDATE idempotency_keys SET created_at = {taken}")).await;
}

/// Kills a node at every step of a creation, and repeats the request at the restarted node and at
/// the other one, if there is one.
async fn dies_at_every_step(mut one: Service, other: Option<Service>) {
    for (step, refused, status) in STEPS {
        for (name, change, table, condition) in refused {
            one.database().reject_changes(name, change, table, condition).await;
        }
        let first = create(&one, step).await;
        assert_eq!(first.status(), status, "{step}");
        let first = first.json::<CreatedUpload>().await.ok();
        one.kill().await;
        for (name, _, table, _) in refused {
            one.database().allow_changes(name, table).await;
        }
        one.restart().await;
        let nodes: Vec<&Api> = [&*one].into_iter().chain(other.as_deref()).collect();
        for milliseconds in [5_000, 59_000] {
            for node in &nodes {
                set_key_age(&one, milliseconds).await;
                expect_problem(create(node, step).await, 409, "in_progress").await;
            }
        }
        // All nodes at once.
        set_key_age(&one, 61_000).await;
        let mut made: HashSet<_> = first.into_iter().map(|first| first.uid).collect();
        for answer in join_all(nodes.iter().chain(&nodes).map(|node| create(node, step))).await {
            if answer.status() == 409 {
                expect_problem(answer, 409, "in_progress").await;
            } else {
                made.insert(expect_json::<CreatedUpload>(answer, 201).await.uid);
            }
        }
        for node in &nodes {
            let again = create(node, step).await;
            assert_eq!(again.headers()["idempotency-replayed"], "true", "{step}");
            made.insert(expect_json::<CreatedUpload>(again, 201).await.uid);
        }
        assert_eq!(made.len(), 1, "{step}: {made:?}");
        let recorded = one.sql(&format!("SELECT uid FROM files WHERE name = '{step}'")).await;
        assert_eq!(recorded, made.into_iter().collect::<Vec<_>>(), "{step}");
    }
    // The file that was created accepts all its content.
    let last: CreatedUpload = expect_json(create(&one, STEPS[2].0).await, 201).await;
    for number in 1..=3 {
        assert_eq!(one.v1_put_part(&last, number, &vec![7; 64 << 10]).await.status(), 204);
    }
    assert_eq!(one.v1_complete(&last).await.status(), 200);
    drop(other);
    one.wait_until_merged(&last.uid).await;
    one.assert_consistent().await;
}

#[tokio::test]
async fn an_upload_is_created_once_wherever_the_process_dies() {
    dies_at_every_step(Service::start().await, None).await;
}

#[tokio::test]
#[ignore = "needs servers: just test-servers"]
async fn an_upload_is_created_once_by_several_nodes_wherever_one_dies() {
    for server in ["OSPROXY_TEST_POSTGRES", "OSPROXY_TEST_MYSQL"] {
        let one = Service::start_on(server, &[]).await;
        let other = one.start_second_node(&[]).await;
        dies_at_every_step(one, Some(other)).await;
    }
}

#[tokio::test]
async fn an_upload_that_was_taken_back_is_created_anew() {
    let service = Service::start().await;
    let (name, change, table, condition) = NO_ROOM;
    service.database().reject_changes(name, change, table, condition).await;
    expect_problem(create(&service, "x").await, 503, "unavailable").await;
    assert_eq!(service.sql("SELECT state FROM files").await, ["deleted"]);
    service.database().allow_changes(name, table).await;
    let made: CreatedUpload = expect_json(create(&service, "x").await, 201).await;
    assert_eq!(service.sql("SELECT uid FROM files WHERE state <> 'deleted'").await, [made.uid]);
}

#[tokio::test]
async fn a_copy_is_made_once_wherever_the_process_dies() {
    let mut service = Service::start().await;
    let uid = service.store("x.txt", b"x").await;
    let copy = async |service: &Service| {
        let url = service.url(&format!("/api/v1/files/{uid}/copy"));
        service.client().post(url).header("idempotency-key", "k").json(&json!({})).send().await.unwrap()
    };
    let (name, change, table, condition) = NO_ANSWER;
    service.database().reject_changes(name, change, table, condition).await;
    let first: File = expect_json(copy(&service).await, 201).await;
    service.kill().await;
    service.database().allow_changes(name, table).await;
    service.restart().await;
    expect_problem(copy(&service).await, 409, "in_progress").await;
    set_key_age(&service, 61_000).await;
    assert_eq!(expect_json::<File>(copy(&service).await, 201).await.uid, first.uid);
    assert_eq!(service.sql("SELECT count(*) FROM files").await, ["2"]);
    assert_eq!(service.sql("SELECT refs FROM blobs").await, ["2"]);
    // A file that was deleted meanwhile is created again.
    service.sql("UPDATE idempotency_keys SET state = 'running', owner = ''").await;
    assert_eq!(
        service.v1(reqwest::Method::DELETE, &format!("/files/{}", first.uid), None).await.status(),
        204
    );
    assert_ne!(expect_json::<File>(copy(&service).await, 201).await.uid, first.uid);
}

#[tokio::test]
async fn every_api_key_has_idempotency_keys_of_its_own() {
    let service = Service::start().await;
    let mut uids = HashSet::new();
    for options in [&["--max-size", "1MiB"][..], &[]] {
        let api = service.with_key(&service.create_key(options).await);
        let first = create(&api, "k").await;
        assert!(!first.headers().contains_key("idempotency-replayed"));
        let first: CreatedUpload = expect_json(first, 201).await;
        let again = create(&api, "k").await;
        assert_eq!(again.headers()["idempotency-replayed"], "true");
        assert_eq!(expect_json::<CreatedUpload>(again, 201).await.uid, first.uid);
        uids.insert(first.uid);
    }
    assert_eq!(uids.len(), 2);
}
