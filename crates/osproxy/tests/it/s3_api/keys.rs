//! Keys of the S3 API: their limits, revocation, and the master key.

use std::{
    os::unix::fs::PermissionsExt,
    time::{Duration, Instant},
};

use serde_json::Value;

use super::{Scene, listener_address};
use crate::support::{S3Answer, S3Key, eventually, spawn_failing};

/// How long a revoked key may work.
const REVOCATION: Duration = Duration::from_secs(5);

#[tokio::test]
async fn a_revoked_key_is_rejected_within_5_seconds() {
    let scene = Scene::start().await;
    let other = S3Key::create(&scene.service, &["--label", "the other"]).await;
    assert_eq!(scene.list_buckets(&scene.key).await.0, 200);
    let start = Instant::now();
    let (code, said) = scene.service.cli(&["s3-key", "revoke", &scene.key.access_key_id]).await;
    assert_eq!(code, 0, "{said}");
    eventually("the key is rejected", async || {
        let (status, code) = scene.list_buckets(&scene.key).await;
        assert!(status == 200 || code == "InvalidAccessKeyId", "{code}");
        (status != 200).then_some(())
    })
    .await;
    // A busy machine needs a little longer.
    assert!(start.elapsed() < REVOCATION + Duration::from_secs(2), "{:?}", start.elapsed());
    assert_eq!(scene.list_buckets(&other).await.0, 200);
    let (_, listed) = scene.service.cli(&["s3-key", "ls", "--json"]).await;
    let lines: Vec<Value> = listed.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    let states: Vec<_> = lines.iter().map(|line| line["state"].as_str().unwrap()).collect();
    assert_eq!((&*states, &lines[1]["label"]), (&["revoked", "active"][..], &Value::from("the other")));
    assert!(!listed.contains(&scene.key.secret_access_key) && !listed.contains(&other.secret_access_key));
    for again in [&*scene.key.access_key_id, "nothing"] {
        assert_eq!(scene.service.cli(&["s3-key", "revoke", again]).await.0, 1);
    }
}

/// Whether the key permits what a request does, whatever comes of it then.
fn verdict(answer: &S3Answer) -> &'static str {
    match answer.outcome() {
        (403, "AccessDenied") => "denied",
        (200 | 204, "") | (404, "NoSuchBucket" | "NoSuchKey") => "passed",
        other => panic!("{other:?}"),
    }
}

#[tokio::test]
async fn keys_are_limited_to_reading_and_to_buckets() {
    let scene = Scene::start().await;
    let limited = S3Key::create(&scene.service, &["--buckets", "aaa,bbb", "--tenant", "shop"]).await;
    let reading = S3Key::create(&scene.service, &["--read-only", "--tenant", "shop"]).await;
    let outcome = async |key: &S3Key, method: &'static str, path: &str, headers: &[(&str, &str)]| {
        let mut request = scene.get(path);
        request.method = method;
        for (name, value) in headers {
            request = request.header(name, value);
        }
        verdict(&request.send(scene.address, key).await)
    };
    let (denied, passed) = ("denied", "passed");
    for (method, path) in
        [("PUT", "/aaa"), ("PUT", "/aaa/k"), ("DELETE", "/aaa/k"), ("POST", "/aaa/k?uploads")]
    {
        let (path, query) = path.split_once('?').unwrap_or((path, ""));
        let send = async |key: &S3Key| {
            let mut request = scene.get(path);
            (request.method, request.query) =
                (method, if query.is_empty() { String::new() } else { format!("{query}=") });
            verdict(&request.send(scene.address, key).await)
        };
        assert_eq!(send(&reading).await, denied, "{method} {path}");
        assert_eq!(send(&limited).await, passed, "{method} {path}");
    }
    for (path, expected) in
        [("/aaa", passed), ("/bbb/k", passed), ("/ccc", denied), ("/ccc/aaa", denied), ("/aaab", denied)]
    {
        assert_eq!(outcome(&limited, "GET", path, &[]).await, expected, "{path}");
        assert_eq!(outcome(&reading, "GET", path, &[]).await, passed, "{path}");
    }
    for (source, expected) in [
        ("bbb/k", passed),
        ("/bbb/k", passed),
        ("ccc/k", denied),
        ("%63cc/k", denied),
        ("nothing", denied),
        ("arn:aws:s3:eu-1:123456789012:accesspoint/a/object/k", denied),
    ] {
        let headers = [("x-amz-copy-source", source)];
        assert_eq!(outcome(&limited, "PUT", "/aaa/k", &headers).await, expected, "{source}");
        assert_eq!(outcome(&reading, "PUT", "/aaa/k", &headers).await, denied, "{source}");
    }
    for key in [&limited, &reading] {
        assert_eq!(scene.list_buckets(key).await.0, 200);
    }
    for wrong in ["a", "UPPER", "a/b", "aaa,"] {
        let (code, said) = scene.service.cli(&["s3-key", "create", "--buckets", wrong]).await;
        assert!(code == 1 && said.contains("is not the name of a bucket"), "{said}");
    }
}

#[tokio::test]
async fn invented_ids_cost_no_lookups_and_unknown_ones_few() {
    let scene = Scene::start().await;
    let gone = S3Key::create(&scene.service, &[]).await;
    scene.service.sql(&format!("DELETE FROM s3_keys WHERE id = '{}'", gone.access_key_id)).await;
    let unknown = (403, "InvalidAccessKeyId".to_owned());
    assert_eq!(scene.list_buckets(&scene.key).await.0, 200);
    assert_eq!(scene.list_buckets(&gone).await, unknown);
    // Now every lookup fails, so that it can be told from the others.
    scene.service.sql("ALTER TABLE s3_keys RENAME TO other_keys").await;
    assert_eq!(scene.list_buckets(&gone).await, unknown, "the answer is cached");
    assert_eq!(scene.list_buckets(&scene.key).await.0, 200, "the key is cached");
    let (start, mut lookups) = (Instant::now(), 0);
    for number in 0..300 {
        let invented = S3Key { access_key_id: format!("OSPA{number:016}"), ..scene.key.clone() };
        let outcome = scene.list_buckets(&invented).await;
        if outcome != unknown {
            assert_eq!(outcome, (500, "InternalError".to_owned()));
            lookups += 1;
        }
    }
    let allowed = 11 + 10 * (start.elapsed().as_secs() + 1);
    assert!(lookups > 0 && lookups <= allowed, "{lookups} lookups in {:?}", start.elapsed());
    scene.service.sql("ALTER TABLE other_keys RENAME TO s3_keys").await;
    eventually("the key works again", async || (scene.list_buckets(&scene.key).await.0 == 200).then_some(()))
        .await;
}

#[tokio::test]
async fn no_secret_can_be_read_in_the_file_of_sqlite_or_the_log() {
    let scene = Scene::start_with(&[("LOG__LEVEL", "trace")]).await;
    assert_eq!(scene.list_buckets(&scene.key).await.0, 200);
    let wrong = S3Key { secret_access_key: "x".repeat(40), ..scene.key.clone() };
    let request = scene.get("/");
    assert_eq!(request.send(scene.address, &wrong).await.status, 403);
    eventually("the request is logged", async || {
        scene.service.log().contains("SignatureDoesNotMatch").then_some(())
    })
    .await;
    let (head, _) = request.sign(&scene.key);
    let (_, signature) = head.trim_end().split_once("Signature=").unwrap();
    let data = scene.service.folder().join("osproxy-data");
    let master = std::fs::read_to_string(data.join("s3-master.key")).unwrap();
    assert_eq!(std::fs::metadata(data.join("s3-master.key")).unwrap().permissions().mode() & 0o777, 0o600);
    assert_eq!(master.trim_end().len(), 64);
    let mut texts = vec![scene.service.log().into_bytes()];
    for name in ["osproxy.db", "osproxy.db-wal"] {
        texts.push(std::fs::read(data.join(name)).unwrap_or_default());
    }
    for text in texts {
        let text = String::from_utf8_lossy(&text);
        assert!(!text.contains(&scene.key.secret_access_key) && !text.contains(master.trim_end()));
        assert!(!text.contains(signature), "a signature is a secret until it expires");
    }
}

#[tokio::test]
async fn master_keys_are_rotated_and_a_wrong_one_is_noticed() {
    let (old, new) = ("old-".repeat(10), "new-".repeat(10));
    let mut scene = Scene::start_with(&[("S3_API__MASTER_KEY", &old)]).await;
    assert!(!scene.service.folder().join("osproxy-data/s3-master.key").exists());
    let first = scene.key.clone();
    scene.restart_with(&format!("{new} {old}")).await;
    let second = S3Key::create(&scene.service, &[]).await;
    for key in [&first, &second] {
        assert_eq!(scene.list_buckets(key).await.0, 200);
    }
    scene.restart_with(&new).await;
    assert_eq!(scene.list_buckets(&second).await.0, 200);
    for _ in 0..3 {
        assert_eq!(scene.list_buckets(&first).await, (403, "InvalidAccessKeyId".to_owned()));
    }
    let warnings = || scene.service.log().matches("created with another master key").count();
    eventually("the warning is logged", async || (warnings() > 0).then_some(())).await;
    assert_eq!(warnings(), 1);
    let (_, listed) = scene.service.cli(&["s3-key", "ls"]).await;
    let state = |key: &S3Key| {
        let line = listed.lines().find(|line| line.starts_with(&key.access_key_id)).unwrap();
        line.split_whitespace().nth(1).unwrap()
    };
    assert_eq!((state(&first), state(&second)), ("unusable", "active"));
    // A command with other settings than the nodes.
    scene.service.set_setting("S3_API__MASTER_KEY", &"other".repeat(10));
    let (code, said) = scene.service.cli(&["s3-key", "create"]).await;
    assert!(
        code == 0 && said.contains("warning: all other keys were created with another master key"),
        "{said}"
    );
}

#[tokio::test]
async fn a_database_server_requires_a_master_key() {
    let folder = tempfile::tempdir().unwrap();
    let own = |(name, value): (&str, &str)| (name.to_owned(), value.to_owned());
    let settings =
        [("DATABASE__URL", "postgres://a@127.0.0.1:1/a"), ("S3_API__LISTEN", "127.0.0.1:0")].map(own);
    for arguments in [&["check-config"][..], &["serve", "--listen", "127.0.0.1:0"]] {
        let (status, _, complaint) = spawn_failing(folder.path(), &settings, arguments).await;
        assert_eq!(status.code(), Some(1));
        assert!(
            complaint.contains("s3_api.master_key: must be set when metadata is on a database server"),
            "{complaint}"
        );
    }
    let (status, _, complaint) = spawn_failing(folder.path(), &settings[..1], &["s3-key", "create"]).await;
    assert_eq!(status.code(), Some(1));
    assert!(complaint.contains("s3_api.master_key must be set"), "{complaint}");
    assert!(!folder.path().join("osproxy-data/s3-master.key").exists());
}

impl Scene {
    /// Restarts the service with these master keys.
    async fn restart_with(&mut self, master_keys: &str) {
        let starts = self.service.log().matches("S3 listener started").count();
        self.service.set_setting("S3_API__MASTER_KEY", master_keys);
        self.service.kill_and_restart().await;
        self.address = listener_address(&self.service, starts + 1).await;
    }
}
