//! Database statements of operations: how many there are, and whether each uses an index.

use std::collections::BTreeMap;

use osproxy_api::v1::{CreatedUpload, File, Files, Tasks, UploadGrant, Webhook, WebhookDeliveries};
use reqwest::Method;
use sea_orm::ConnectionTrait;
use serde_json::json;

use crate::support::{Service, connect, content, eventually, expect_json, md5_hex};

/// Every table that grows with the stored files.
const TABLES: [&str; 5] = ["files", "blobs", "parts", "tasks", "task_attempts"];
/// How often each operation runs.
const TIMES: u64 = 10;

/// No background work: the task engine only runs when notified.
const QUIET: [(&str, &str); 2] = [("TASKS__POLL_INTERVAL", "3600"), ("DATABASE__CACHE_ENTRIES", "0")];

/// Statements that the server has run in the service's database so far, including BEGIN and COMMIT,
/// without those that prepare a new connection.
async fn statements(service: &Service) -> u64 {
    let url = std::env::var("OSPROXY_TEST_POSTGRES").unwrap();
    let name = service.database().url().unwrap().rsplit('/').next().unwrap().to_owned();
    let admin = connect(url).await;
    let sql = format!(
        "SELECT sum(calls)::bigint AS calls FROM pg_stat_statements AS s JOIN pg_database AS d ON d.oid = s.dbid \
         WHERE datname = '{name}' AND query NOT LIKE 'SET %'"
    );
    let asked = sea_orm::Statement::from_string(sea_orm::DbBackend::Postgres, sql);
    let row = admin.query_one_raw(asked).await.unwrap().unwrap();
    row.try_get::<i64>("", "calls").unwrap().unsigned_abs()
}

/// Statements of an operation after a warm-up that prepares statements and opens connections.
async fn count_statements(service: &Service, operation: impl AsyncFn(u64)) -> u64 {
    for number in 0..3 {
        operation(1_000_000 + number).await;
    }
    let before = statements(service).await;
    for number in 0..TIMES {
        operation(number).await;
    }
    let asked = statements(service).await - before;
    // Work that runs every minute may add a few: less than one per operation.
    asked / TIMES
}

#[tokio::test]
#[ignore = "needs servers: just test-servers"]
async fn operations_ask_no_more_than_they_must() {
    // Events add one statement, and positions are assigned to many of them at once.
    let settings: Vec<_> = QUIET.into_iter().chain([("EVENTS__ENABLED", "false")]).collect();
    let service = Service::start_on("OSPROXY_TEST_POSTGRES", &settings).await;
    service.wait_until_started().await;
    let mut links = Vec::new();
    for _ in 0..40 {
        links.push(service.upload_link("x.bin").await);
    }
    let stored = service.store("x.bin", b"stored").await;
    let in_parts = service.upload_link("x.bin").await;
    service.put_parts(&in_parts, &[b"one"]).await;
    let url = service.download_link(&stored).await.unwrap().url;
    let md5 = md5_hex(b"stored");
    let number = |number: u64| usize::try_from(number % 1_000).unwrap();

    let mut counted = BTreeMap::new();
    let link = async |_| drop(service.upload_link("x.bin").await);
    counted.insert("create_upload", count_statements(&service, link).await);
    let upload = async |at: u64| {
        let link = &links[number(at) + if at < 1_000 { 3 } else { 0 }];
        assert_eq!(service.put(&link.url.single, &content(at, 100)).await.status(), 200);
    };
    counted.insert("upload_file", count_statements(&service, upload).await);
    let known = async |at: u64| {
        let link = &links[20 + number(at) + if at < 1_000 { 3 } else { 0 }];
        assert_eq!(service.put(&link.url.single, b"stored").await.status(), 200);
    };
    counted.insert("upload_file of known content", count_statements(&service, known).await);
    let part = async |at: u64| {
        let number = u32::try_from(at % 1_000).unwrap() + if at < 1_000 { 10 } else { 2 };
        assert_eq!(service.put_part(&in_parts, number, &content(at, 100)).await.status(), 200);
    };
    counted.insert("upload_part", count_statements(&service, part).await);
    let status = async |_| assert!(!service.checkpoint(&in_parts.uid).await.is_empty());
    counted.insert("upload_status", count_statements(&service, status).await);
    let instant = async |_| assert_ne!(service.instant_upload(&[(&md5, "x.bin")]).await[0].uid, "");
    counted.insert("instant_upload", count_statements(&service, instant).await);
    let link = async |_| assert!(service.download_link(&stored).await.is_some());
    counted.insert("create_download_link", count_statements(&service, link).await);
    let download = async |_| assert_eq!(service.get(&url).await.bytes().await.unwrap(), b"stored"[..]);
    counted.insert("download_file", count_statements(&service, download).await);
    let expected = [
        ("create_download_link", 1),
        // BEGIN, the rows, COMMIT.
        ("create_upload", 3),
        // Whether the link is revoked, and the file: the same rows, normally cached.
        ("download_file", 2),
        // Lookup by md5; BEGIN, the reference, the file, COMMIT.
        ("instant_upload", 5),
        // Whether the link is revoked (normally cached, here and below); BEGIN, the file, its
        // state, the write intent, COMMIT; lookup by BLAKE3; BEGIN, the blob, the file, whether it is
        // an object (with events, the same query reads the file for its event), COMMIT.
        ("upload_file", 12),
        // The same, but the reference is added and the write intent deleted.
        ("upload_file of known content", 13),
        // Which node has the other parts; BEGIN, the file and earlier writes, the write intent,
        // COMMIT; BEGIN, the file, the part to replace, the part, the received bytes, COMMIT.
        ("upload_part", 12),
        ("upload_status", 2),
    ];
    assert_eq!(counted, BTreeMap::from(expected));
}

/// Runs every operation of clients.
async fn everything(service: &Service) {
    let known = service.store("x.bin", b"known").await;
    service.store("again.bin", b"known").await;
    service.store_in_parts("x.bin", &content(1, 1_000), 100).await;
    let open = service.upload_link("x.bin").await;
    service.put_parts(&open, &[b"one", b"two"]).await;
    service.put_part(&open, 1, b"ONE").await;
    assert_eq!(service.checkpoint(&open.uid).await, [1, 2]);
    assert_eq!(service.merge(&open, 3, b"nothing").await.status(), 422);
    assert_eq!(service.read(&known).await, b"known");
    assert_ne!(service.instant_upload(&[(&md5_hex(b"known"), "y.bin")]).await[0].uid, "");
    let unknown = json!({"uid": ["5", "6", "7", known], "expire": 60});
    assert_eq!(service.post("/link/download", &unknown).await.status(), 200);
    assert_eq!(service.get("/api/storage/v0/ping").await.status(), 200);
    everything_of_v1(service, &known).await;
    let whole = "SELECT count(*) FROM blobs WHERE state = 'stored' AND layout = 'parts'";
    eventually("all parts are merged", async || (service.sql(whole).await == ["0"]).then_some(())).await;
}

/// The same over API v1, without statistics, which read everything by design.
async fn everything_of_v1(service: &Service, uid: &str) {
    for list in [
        "limit=1000",
        "limit=10&prefix=x",
        "limit=10&state=stored",
        "limit=10&state=deleted",
        "limit=10&category=video",
        "limit=10&created_after=2999-01-01T00:00:00Z",
        "limit=10&grant=5",
    ] {
        let page: Files = expect_json(service.v1_get(&format!("/files?{list}")).await, 200).await;
        if let Some(next) = page.next_cursor {
            assert_eq!(service.v1_get(&format!("/files?{list}&cursor={next}")).await.status(), 200);
        }
    }
    let grant: UploadGrant = expect_json(service.v1_post("/upload-grants", &json!({})).await, 201).await;
    let link = service.url(&grant.links.unwrap().uploads);
    let granted = service.client().post(link).json(&json!({"name": "granted.bin"})).send().await.unwrap();
    let granted: CreatedUpload = expect_json(granted, 201).await;
    assert_eq!(service.v1_abort(&granted).await.status(), 204);
    assert_eq!(service.v1_get("/upload-grants?limit=10").await.status(), 200);
    let revoked = service.v1(Method::DELETE, &format!("/upload-grants/{}", grant.id), None).await;
    assert_eq!(revoked.status(), 204);
    let wish = json!({"url": "https://osproxy.invalid/hook"});
    let webhook: Webhook = expect_json(service.v1_post("/webhooks", &wish).await, 201).await;
    assert_eq!(service.v1_get("/webhooks?limit=10").await.status(), 200);
    let file = format!("/files/{uid}");
    assert_eq!(service.v1_get(&file).await.status(), 200);
    let renamed = service.v1(Method::PATCH, &file, Some(&json!({"name": "z.bin"}))).await;
    assert_eq!(renamed.status(), 200);
    let url = service.url(&format!("/api/v1{file}/copy"));
    let request = || service.client().post(&url).header("idempotency-key", "x").json(&json!({}));
    let copy: File = expect_json(request().send().await.unwrap(), 201).await;
    assert_eq!(request().send().await.unwrap().status(), 201);
    let deleted = service.v1(Method::DELETE, &format!("/files/{}", copy.uid), None).await;
    assert_eq!(deleted.status(), 204);
    let webhook = format!("/webhooks/{}", webhook.id);
    for list in ["limit=10", "limit=10&state=dead"] {
        assert_eq!(service.v1_get(&format!("{webhook}/deliveries?{list}")).await.status(), 200);
    }
    eventually("a delivery has failed", async || {
        let list: WebhookDeliveries =
            expect_json(service.v1_get(&format!("{webhook}/deliveries")).await, 200).await;
        (!list.deliveries.is_empty()).then_some(())
    })
    .await;
    for replay in [json!({"state": "dead"}), json!({"after": 0})] {
        assert_eq!(service.v1_post(&format!("{webhook}/replay"), &replay).await.status(), 200);
    }
    assert_eq!(service.v1(Method::DELETE, &webhook, None).await.status(), 204);
    let page: Tasks = expect_json(service.v1_get("/tasks?limit=10").await, 200).await;
    let next = page.next_cursor.unwrap();
    assert_eq!(service.v1_get(&format!("/tasks?limit=10&cursor={next}")).await.status(), 200);
    assert_eq!(service.v1_get(&format!("/tasks/{}", page.tasks[0].id)).await.status(), 200);
}

/// The plans in a log that scan a whole table.
fn whole_scans(log: &str) -> Vec<String> {
    let mut found = Vec::new();
    for plan in log.split("plan:\n").skip(1) {
        let plan: Vec<_> = plan.lines().take_while(|line| line.starts_with(['\t', ' '])).collect();
        let scanned = |table: &&str| plan.iter().any(|line| line.contains(&format!("Seq Scan on {table}")));
        if TABLES.iter().any(scanned) {
            found.push(plan.join("\n"));
        }
    }
    found
}

#[tokio::test]
#[ignore = "needs servers: just test-servers"]
async fn every_question_of_a_request_uses_an_index() {
    let service = Service::start_on("OSPROXY_TEST_POSTGRES", &QUIET).await;
    service.wait_until_started().await;
    let database = connect(service.database().url().unwrap()).await;
    database.execute_unprepared(include_str!("support/million.sql")).await.unwrap();
    assert_eq!(service.sql("SELECT count(*) FROM parts").await, ["10000000"]);
    // From the next connections on, every plan is written to the server's log.
    let name = service.database().url().unwrap().rsplit('/').next().unwrap().to_owned();
    for statement in [
        format!("ALTER DATABASE {name} SET auto_explain.log_min_duration = 0"),
        "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = current_database() \
         AND application_name = 'osproxy'"
            .to_owned(),
    ] {
        database.execute_unprepared(&statement).await.unwrap();
    }
    let log = std::env::var("OSPROXY_TEST_POSTGRES_LOG").unwrap();
    let begin = std::fs::metadata(&log).unwrap().len();
    everything(&service).await;
    let plans = || {
        let log = std::fs::read(&log).unwrap();
        String::from_utf8_lossy(&log[usize::try_from(begin).unwrap()..]).into_owned()
    };
    // Checks that this search finds a scan.
    service.sql("SELECT count(*) FROM parts WHERE size = 5 AND md5 IS NULL").await;
    eventually("the log is written", async || plans().contains("size = 5").then_some(())).await;
    let plans = plans();
    assert!(plans.matches("plan:").count() > 80, "{}", plans.matches("plan:").count());
    let scans: Vec<_> = whole_scans(&plans.replace("Parallel Seq Scan", "Seq Scan"));
    let (expected, unexpected): (Vec<_>, Vec<_>) = scans.iter().partition(|plan| plan.contains("size = 5"));
    assert_eq!(expected.len(), 1, "{expected:#?}");
    // The test's own query, which waits for the merge.
    let unexpected: Vec<_> =
        unexpected.into_iter().filter(|plan| !plan.contains("SELECT count(*)")).collect();
    assert!(
        unexpected.is_empty(),
        "{}",
        unexpected.iter().map(|plan| plan.as_str()).collect::<Vec<_>>().join("\n")
    );
}
