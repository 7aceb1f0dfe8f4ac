//! `osproxy scrub` beside a running service.

use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal};
use serde_json::{Value, json};
use tokio::process::Child;

use crate::support::{Random, Service, Store, StoreServer, amount, content, eventually};

async fn scrub(service: &Service, options: &[&str]) -> (i32, String) {
    service.cli(&[&["scrub", "--rate", "0"], options].concat()).await
}

fn object(service: &Service, key: &str) -> std::path::PathBuf {
    service.object_path(key)
}

/// The id of the service's object folder.
async fn store_name(service: &Service) -> String {
    service.sql("SELECT backend FROM blobs").await.remove(0)
}

/// Flips a bit of a byte in a file.
fn flip_bit(path: &std::path::Path, at: usize) {
    let mut bytes = std::fs::read(path).unwrap();
    bytes[at] ^= 1;
    std::fs::write(path, bytes).unwrap();
}

fn lines(said: &str) -> Vec<Value> {
    said.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
}

/// Stores content over API v1, in parts, with an expected SHA-256.
async fn divided(service: &Service, bytes: &[u8], part: usize) -> String {
    use sha2::Digest;
    let sha256 = hex::encode(sha2::Sha256::digest(bytes));
    let wish = json!({"name": "x.bin", "size": bytes.len(), "part_size": part, "sha256": sha256});
    let upload = service.create_upload(&wish).await;
    for (number, part) in (1..).zip(bytes.chunks(part)) {
        assert_eq!(service.v1_put_part(&upload, number, part).await.status(), 204);
    }
    assert_eq!(service.v1_complete(&upload).await.status(), 200);
    upload.uid
}

#[tokio::test]
async fn what_is_as_it_was_is_read_and_nothing_is_said_of_it() {
    let service = Service::start().await;
    assert_eq!(scrub(&service, &[]).await.0, 0, "an empty store must be clean");
    let whole = service.store("x.bin", &content(1, 100_000)).await;
    // Shared content is read once.
    service.store("y.bin", &content(1, 100_000)).await;
    let in_parts = service.store_in_parts("y.bin", &content(2, 100_000), 30_000).await;
    service.store("empty", b"").await;
    divided(&service, &content(3, 200_000), 65_536).await;
    service.wait_until_merged(&in_parts).await;
    service.database().wait_until_idle().await;
    // Parts of an unfinished upload are not read.
    let link = service.upload_link("z.bin").await;
    service.put_parts(&link, &[b"one"]).await;
    let before = service.objects();
    let (code, said) = scrub(&service, &[]).await;
    assert_eq!(
        (code, said.as_str()),
        (
            0,
            "4 blobs, 400000 bytes read: 0 do not match, 0 not verified yet; \
             0 skipped in stores that this node cannot access\n"
        )
    );
    assert_eq!(service.objects(), before);
    assert_eq!(service.read(&whole).await.len(), 100_000);
}

#[tokio::test]
async fn what_is_damaged_shorter_longer_or_missing_is_told() {
    let service = Service::start().await;
    let mut uids = Vec::new();
    for seed in 1..=5 {
        uids.push(service.store("x.bin", &content(seed, 100_000)).await);
    }
    let shared = service.store("y.bin", &content(1, 100_000)).await;
    let [turned, short, long, missing, _] = &uids[..] else { unreachable!() };
    let name = |uid: &str| format!("unknown/{uid}.bin");
    let key = |uid: &str| Service::object_key(&name(uid));
    flip_bit(&object(&service, &name(turned)), 77_777);
    std::fs::write(object(&service, &name(short)), &content(2, 100_000)[..99_999]).unwrap();
    std::fs::write(object(&service, &name(long)), [&content(3, 100_000)[..], b"more"].concat()).unwrap();
    std::fs::remove_file(object(&service, &name(missing))).unwrap();
    let (code, said) = scrub(&service, &[]).await;
    assert_eq!(code, 4, "{said}");
    let store = store_name(&service).await;
    let told = |uid: &str, files: &str, what: &str| {
        format!("blob {uid} ({store}: {}; files: {files}) {what}\n", key(uid))
    };
    let expected = [
        told(turned, &format!("{turned}, {shared}"), "has different content than recorded"),
        told(short, short, "has 99999 bytes instead of 100000"),
        told(long, long, "has 100004 bytes instead of 100000"),
        told(missing, missing, "has no object"),
        "5 blobs, 200000 bytes read: 4 do not match, 0 not verified yet; \
         0 skipped in stores that this node cannot access\n"
            .to_owned(),
    ];
    assert_eq!(said, expected.concat());
    // The same as JSON.
    let (code, said) = scrub(&service, &["--json"]).await;
    let told = lines(&said);
    let problems: Vec<_> = told.iter().filter_map(|line| line["problem"].as_str()).collect();
    assert_eq!((code, problems), (4, vec!["different", "shorter", "longer", "missing"]));
    let first = json!({"blob": turned, "uids": [turned, shared], "more_uids": false, "store": store,
        "key": key(turned), "problem": "different", "detail": "has different content than recorded"});
    assert_eq!(told[0], first);
    let summary = json!({"complete": true, "blobs": 5, "bytes": 200_000, "mismatched": 4, "unverified": 0,
        "skipped": 0, "skipped_stores": [], "after": uids[4]});
    assert_eq!(told[4], summary);
    // Resumes after the last blob of another run.
    let (code, said) = scrub(&service, &["--json", "--after", long]).await;
    assert_eq!((code, lines(&said).len(), &lines(&said)[1]["blobs"]), (4, 2, &json!(2)), "{said}");
    assert_eq!(scrub(&service, &["--after", missing]).await.0, 0);
}

/// MD5, BLAKE3 and SHA-256 must all match their recorded values.
#[tokio::test]
async fn every_digest_that_is_known_is_compared() {
    let service = Service::start().await;
    let uid = divided(&service, &content(1, 200_000), 65_536).await;
    service.database().wait_until_idle().await;
    let known = "SELECT sha256 FROM blobs WHERE sha256 IS NOT NULL";
    assert_eq!(service.sql(known).await.len(), 1);
    let md5 = service.store("y.bin", b"md5").await;
    assert_eq!(scrub(&service, &[]).await.0, 0);
    for (digest, uid) in [("sha256", &uid), ("blake3", &uid), ("md5", &md5)] {
        let record = format!("UPDATE blobs SET {digest}");
        let before = service.sql(&format!("SELECT {digest} FROM blobs WHERE id = {uid}")).await.remove(0);
        let turned = format!("{}{}", if before.starts_with('0') { "1" } else { "0" }, &before[1..]);
        for (value, expected) in [(&turned, 4), (&before, 0)] {
            let value = service.database().bytes_literal(value);
            service.sql(&format!("{record} = {value} WHERE id = {uid}")).await;
            assert_eq!(scrub(&service, &[]).await.0, expected, "{digest}");
        }
    }
}

#[tokio::test]
async fn content_in_parts_is_known_by_its_parts() {
    let service = Service::start().await;
    service.database().hold_merges().await;
    let uid = service.store_in_parts("x.bin", &content(1, 100_000), 40_000).await;
    let (code, said) = scrub(&service, &[]).await;
    assert_eq!(code, 0, "{said}");
    assert!(said.starts_with("1 blobs, 100000 bytes read: 0 do not match, 0 not verified"), "{said}");
    flip_bit(&object(&service, &format!("unknown/{uid}_2")), 10);
    let (code, said) = scrub(&service, &[]).await;
    assert_eq!(code, 4, "{said}");
    let store = store_name(&service).await;
    let what = "has different content than recorded";
    let key = Service::object_key(&format!("unknown/{uid}_2"));
    let told = format!("part 2 of blob {uid} ({store}: {key}; files: {uid}) {what}\n");
    assert!(said.starts_with(&told), "{said}");
    std::fs::remove_file(object(&service, &format!("unknown/{uid}_3"))).unwrap();
    let (_, said) = scrub(&service, &["--json"]).await;
    let told = lines(&said);
    assert_eq!((&told[0]["part"], &told[0]["problem"]), (&json!(2), &json!("different")), "{said}");
    assert_eq!((&told[1]["part"], &told[1]["problem"]), (&json!(3), &json!("missing")), "{said}");
    assert_eq!(told[2]["mismatched"], 1, "{said}");
    service.sql("DELETE FROM parts WHERE number = 3").await;
    let (code, said) = scrub(&service, &[]).await;
    assert_eq!(code, 4);
    assert!(said.contains("is missing parts"), "{said}");
}

/// Parts of a preallocated file have known digests, while the whole waits for its verification
/// task.
#[tokio::test]
async fn what_is_not_verified_yet_is_counted() {
    let service = Service::start_with(&[("UPLOADS__MAX_INLINE_VERIFICATION_SIZE", "0")]).await;
    service.database().hold_task("verify_blob").await;
    let uid = divided(&service, &content(1, 200_000), 65_536).await;
    let (code, said) = scrub(&service, &[]).await;
    assert_eq!(code, 0, "{said}");
    assert!(said.starts_with("1 blobs, 200000 bytes read: 0 do not match, 1 not verified"), "{said}");
    let path = object(&service, &format!("unknown/{uid}.bin"));
    flip_bit(&path, 70_000);
    let (code, said) = scrub(&service, &["--json"]).await;
    assert_eq!((code, &lines(&said)[0]["part"]), (4, &json!(2)), "{said}");
    // One missing object is reported once, not for each of its four parts.
    std::fs::remove_file(&path).unwrap();
    let (_, said) = scrub(&service, &["--json"]).await;
    assert_eq!((lines(&said).len(), &lines(&said)[0]["problem"]), (2, &json!("missing")), "{said}");
    // No digest of the bytes is known.
    service.sql("DELETE FROM parts").await;
    std::fs::write(&path, content(9, 200_000)).unwrap();
    let (code, said) = scrub(&service, &[]).await;
    assert_eq!(code, 0, "{said}");
    assert!(said.starts_with("1 blobs, 0 bytes read: 0 do not match, 1 not verified"), "{said}");
    std::fs::write(&path, "short").unwrap();
    assert_eq!(scrub(&service, &[]).await.0, 4);
}

#[tokio::test]
async fn no_more_is_read_in_a_second_than_is_allowed() {
    let service = Service::start().await;
    service.store("x.bin", &content(1, 1_500_000)).await;
    service.store("y.bin", &content(2, 500_000)).await;
    let start = Instant::now();
    let (code, said) = service.cli(&["scrub", "--rate", "1MB"]).await;
    assert_eq!(code, 0, "{said}");
    assert!(start.elapsed() >= Duration::from_millis(1800), "{:?}", start.elapsed());
    let (code, said) = service.cli(&["scrub", "--rate", "fast"]).await;
    assert_eq!(code, 2);
    assert!(said.contains("invalid value 'fast' for '--rate <BYTES>'"), "{said}");
}

/// Blobs that are deleted or merged during a scrub are not faults.
#[tokio::test(flavor = "multi_thread")]
async fn a_service_that_runs_is_not_disturbed_and_does_not_disturb() {
    let service = Service::start().await;
    let kept = service.store("kept.bin", &content(999, 300_000)).await;
    let mut uids = Vec::new();
    let files = amount(24, 60);
    for seed in 1..=files {
        uids.push(match seed % 3 {
            0 => service.store("x.bin", &content(seed, 50_000)).await,
            1 => service.store_in_parts("x.bin", &content(seed, 50_000), 9_000).await,
            _ => divided(&service, &content(seed, 140_000), 65_536).await,
        });
    }
    let going = async {
        let mut random = Random::new(1);
        let mut read = 0;
        while !uids.is_empty() {
            let uid = uids.swap_remove(usize::try_from(random.below(uids.len() as u64)).unwrap());
            assert_eq!(
                service.v1(reqwest::Method::DELETE, &format!("/files/{uid}"), None).await.status(),
                204
            );
            service.store_in_parts("x.bin", &content(1000 + uids.len() as u64, 50_000), 9_000).await;
            read += service.read(&kept).await.len();
        }
        assert_eq!(read as u64, files * 300_000);
    };
    let scrubbing = async {
        let mut skipped = 0;
        for _ in 0..amount(3, 8) {
            // Slow enough for changes during the run.
            let (code, said) = service.cli(&["scrub", "--rate", "4MB"]).await;
            assert_eq!(code, 0, "{said}");
            skipped += said.matches(" 0 skipped").count();
        }
        assert_eq!(skipped, amount(3, 8));
    };
    tokio::join!(going, scrubbing);
}

/// Waits until a run reads an object on the disk.
async fn wait_until_reading(run: &Child, object: &str) {
    let folder = format!("/proc/{}/fd", run.id().unwrap());
    eventually("the object is being read", async || {
        let open =
            std::fs::read_dir(&folder).ok()?.filter_map(|entry| std::fs::read_link(entry.ok()?.path()).ok());
        open.filter(|path| path.ends_with(object)).count().checked_sub(1)
    })
    .await;
}

fn signal(run: &Child, signal: Signal) {
    let pid = Pid::from_raw(i32::try_from(run.id().unwrap()).unwrap()).unwrap();
    rustix::process::kill_process(pid, signal).unwrap();
}

/// The scrub looked up some blobs before they were deleted or merged.
#[tokio::test]
async fn what_went_or_moved_since_it_was_looked_up_is_no_fault() {
    let service = Service::start().await;
    let slow = service.store("x.bin", &content(1, 200_000)).await;
    let deleted = service.store("y.bin", &content(2, 1000)).await;
    service.database().hold_merges().await;
    let merged = service.store_in_parts("z.bin", &content(3, 1000), 300).await;
    let run = service.spawn_cli(&["scrub", "--json", "--rate", "50KB"]);
    wait_until_reading(&run, &Service::object_key(&format!("unknown/{slow}.bin"))).await;
    signal(&run, Signal::STOP);
    let file = format!("/files/{deleted}");
    assert_eq!(service.v1(reqwest::Method::DELETE, &file, None).await.status(), 204);
    service.database().release_merges().await;
    service.wait_until_merged(&merged).await;
    service.database().wait_until_idle().await;
    signal(&run, Signal::CONT);
    let output = run.wait_with_output().await.unwrap();
    let said = String::from_utf8(output.stdout).unwrap();
    let summary = json!({"complete": true, "blobs": 2, "bytes": 201_000, "mismatched": 0, "unverified": 0,
        "skipped": 0, "skipped_stores": [], "after": merged});
    assert_eq!((output.status.code(), lines(&said)), (Some(0), vec![summary]));
}

#[tokio::test]
async fn a_run_that_is_stopped_says_where_to_go_on() {
    let service = Service::start().await;
    let first = service.store("x.bin", b"first").await;
    let second = service.store("y.bin", &content(1, 1_000_000)).await;
    let run = service.spawn_cli(&["scrub", "--rate", "1KiB"]);
    wait_until_reading(&run, &Service::object_key(&format!("unknown/{second}.bin"))).await;
    signal(&run, Signal::TERM);
    let output = run.wait_with_output().await.unwrap();
    let said = String::from_utf8(output.stdout).unwrap();
    assert_eq!(output.status.code(), Some(1), "{said}");
    assert!(said.ends_with(&format!("interrupted; continue with --after {first}\n")), "{said}");
    assert!(said.starts_with("1 blobs, 5 bytes read: 0 do not match"), "{said}");
    let (code, said) = scrub(&service, &["--after", &first]).await;
    assert_eq!(code, 0);
    assert!(said.starts_with("1 blobs, 1000000 bytes read"), "{said}");
}

#[tokio::test]
async fn where_nothing_was_ever_stored_it_cannot_run() {
    let service = Service::start().await;
    let (code, said) = scrub(&service, &["--data-dir", "elsewhere"]).await;
    assert_eq!(code, 1);
    assert!(said.contains("--data-dir"), "{said}");
    // As if the disk were not mounted.
    std::fs::rename(service.objects_folder(), service.folder().join("away")).unwrap();
    std::fs::create_dir(service.objects_folder()).unwrap();
    let (code, said) = scrub(&service, &[]).await;
    assert_eq!(code, 1);
    assert!(said.contains("cannot read the object folder"), "{said}");
    assert_eq!(std::fs::read_dir(service.objects_folder()).unwrap().count(), 0);
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs servers: just test-servers"]
async fn what_a_store_has_lost_or_changed_is_told() {
    for server in [StoreServer::S3Parts, StoreServer::Oss] {
        let store = Store::new(server);
        let service = Service::start_on_store(&store, None, &[]).await;
        service.database().hold_merges().await;
        let (whole, lost) =
            (service.store("x.bin", &content(1, 3_000_000)).await, service.store("y.bin", b"lost").await);
        let in_parts = service.store_in_parts("z.bin", &content(2, 100_000), 40_000).await;
        let (code, said) = scrub(&service, &[]).await;
        assert_eq!(code, 0, "{said}");
        assert!(said.starts_with("3 blobs, 3100004 bytes read"), "{said}");
        let backend = store.backend();
        let key = |name: String| osproxy_storage::Key::parse(&format!("unknown/{name}")).unwrap();
        let mut damaged = content(1, 3_000_000);
        damaged[2_000_000] ^= 1;
        for (name, bytes) in [(format!("{whole}.bin"), damaged), (format!("{in_parts}_2"), b"short".to_vec())]
        {
            let size = osproxy_storage::SizeHint::Exact(bytes.len() as u64);
            let mut writer = backend.create(&key(name), size).await.unwrap();
            writer.write(bytes.into()).await.unwrap();
            writer.finish().await.unwrap();
            writer.publish().await.unwrap();
        }
        backend.delete(&[key(format!("{lost}.bin"))]).await.unwrap();
        let (code, said) = scrub(&service, &["--json"]).await;
        let told = lines(&said);
        let problems: Vec<_> = told.iter().filter_map(|line| line["problem"].as_str()).collect();
        assert_eq!((code, problems), (4, vec!["different", "missing", "shorter"]), "{said}");
        assert_eq!(told[2]["part"], 2);
    }
}

/// A store that does not answer has lost nothing, but is not clean either.
#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs servers: just test-servers"]
async fn what_a_store_does_not_give_is_told() {
    let store = Store::new(StoreServer::S3Parts);
    let wire = crate::support::FaultyProxy::start(store.address(), 1).await;
    let quick = [("STORES__TIMEOUT", "1"), ("STORES__MAX_ATTEMPTS", "1")];
    let service = Service::start_on_store(&store, Some(&wire), &quick).await;
    service.store("x.bin", b"x").await;
    assert_eq!(scrub(&service, &[]).await.0, 0);
    wire.set_silent(true);
    let (code, said) = scrub(&service, &["--json"]).await;
    assert_eq!((code, &lines(&said)[0]["problem"]), (4, &json!("unreadable")), "{said}");
    wire.set_silent(false);
    let mut blobs = Vec::new();
    for number in 0..5 {
        blobs.push(service.store("y.bin", &content(number, 1000)).await);
    }
    assert_eq!(scrub(&service, &[]).await.0, 0);
    // A silent store is skipped after a few blobs, and the run can be resumed from there.
    wire.set_silent(true);
    let output =
        service.spawn_cli(&["scrub", "--json", "--after", &blobs[0]]).wait_with_output().await.unwrap();
    let said = String::from_utf8(output.stdout).unwrap();
    let told = lines(&said);
    assert_eq!((output.status.code(), told.len()), (Some(1), 4), "{said}");
    assert_eq!((&told[3]["complete"], &told[3]["after"]), (&json!(false), &json!(blobs[0])), "{said}");
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs servers: just test-servers"]
async fn each_node_reads_what_it_has_and_says_what_it_cannot() {
    for server in ["OSPROXY_TEST_POSTGRES", "OSPROXY_TEST_MYSQL"] {
        let one = Service::start_on(server, &[]).await;
        let two = one.start_second_node(&[]).await;
        let ours = one.store("x.bin", &content(1, 100_000)).await;
        let theirs = two.store("y.bin", &content(2, 50_000)).await;
        std::fs::remove_file(object(&two, &format!("unknown/{theirs}.bin"))).unwrap();
        let (code, said) = scrub(&one, &[]).await;
        assert_eq!(code, 0, "{said}");
        let name = one.sql(&format!("SELECT backend FROM blobs WHERE id = {theirs}")).await.remove(0);
        let skipped = format!("1 skipped in stores that this node cannot access ({name})\n");
        assert!(said.starts_with("1 blobs, 100000 bytes read: 0 do not match"), "{said}");
        assert!(said.ends_with(&skipped), "{said}");
        let (code, said) = scrub(&two, &["--json"]).await;
        let told = lines(&said);
        assert_eq!((code, &told[0]["blob"], &told[0]["problem"]), (4, &json!(theirs), &json!("missing")));
        assert_eq!((&told[1]["skipped"], &told[1]["blobs"]), (&json!(1), &json!(1)), "{said}");
        assert!(one.read(&ours).await.len() == 100_000);
    }
}
