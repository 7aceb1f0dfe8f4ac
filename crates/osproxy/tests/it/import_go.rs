//! Files stored by the Go program are served as before, with their objects where they are.

mod program;

use std::path::Path;

use osproxy_api::v0::DownloadLink;
use tempfile::TempDir;

use crate::support::{Database, Service, Store, StoreServer, content, eventually, md5_hex, spawn_failing};
use program::{GoProgram, Row};

/// A uid as the Go program issued it in 2023.
const fn uid(number: i64) -> i64 {
    1_140_000_000_000_000_000 + (number << 22)
}

/// A file with one object.
async fn whole(go: &GoProgram, number: i64, name: &str, bytes: &[u8]) {
    let object = format!("doc/{}.pdf", uid(number));
    go.object(&object, bytes);
    let row = Row { uid: uid(number), name, object: &object, content: bytes, parts: None, is_stored: true };
    go.file(&row).await;
}

/// A completed upload that declares this many parts.
async fn in_parts(go: &GoProgram, number: i64, bytes: &[u8], parts: usize) {
    let object = format!("video/{}.mp4", uid(number));
    let row = Row {
        uid: uid(number),
        name: "film.mp4",
        object: &object,
        content: bytes,
        parts: Some(parts),
        is_stored: true,
    };
    go.file(&row).await;
}

/// A file whose upload link was issued.
async fn pending(go: &GoProgram, number: i64) {
    let object = format!("video/{}.mp4", uid(number));
    let row = Row {
        uid: uid(number),
        name: "film.mp4",
        object: &object,
        content: b"",
        parts: None,
        is_stored: false,
    };
    go.file(&row).await;
}

/// A part, with its object.
async fn part(go: &GoProgram, number: i64, part: usize, bytes: &[u8]) {
    go.part(uid(number), part, "video", bytes, 1).await;
    go.object(&format!("video/{}_{part}", uid(number)), bytes);
}

fn port_of(database: &Database) -> String {
    database.server().rsplit(':').next().unwrap().to_owned()
}

/// Runs `import-go`; returns its exit code and output.
async fn import(folder: &Path, settings: &[(String, String)], options: &[&str]) -> (i32, String) {
    let arguments = [&["import-go", "--init", "--from", "go.yaml"], options].concat();
    let (status, said, complaint) = spawn_failing(folder, settings, &arguments).await;
    (status.code().unwrap(), said + &complaint)
}

#[track_caller]
fn assert_says(said: &str, lines: &[String]) {
    for line in lines {
        assert!(said.lines().any(|found| found == line), "{line:?} is not in\n{said}");
    }
}

async fn meta_of(service: &Service, uid: i64) -> Option<DownloadLink> {
    service.download_link(&uid.to_string()).await
}

/// Fills a database of the Go program with every known state; returns the expected messages.
async fn fill(go: &GoProgram) -> Vec<String> {
    let bytes = |number: i64| content(number.unsigned_abs(), 300_000);
    // 1 and 2: the same object; the second by instant upload, whose name is not URL-encoded.
    whole(go, 1, "report.pdf", &bytes(1)).await;
    let object = format!("doc/{}.pdf", uid(1));
    let row = Row {
        uid: uid(2),
        name: "100% 报告.pdf",
        object: &object,
        content: &bytes(1),
        parts: None,
        is_stored: true,
    };
    go.file(&row).await;
    // 3 and 4: names that are URL-encoded once and twice.
    whole(go, 3, "%E6%8A%A5%E5%91%8A%201.pdf", &bytes(3)).await;
    whole(go, 4, "%25E6%258A%25A5%25E5%2591%258A.pdf", &bytes(4)).await;
    // 5: its merge started but did not finish; one part was sent twice with different bytes.
    let film = content(5, 2_500_000);
    in_parts(go, 5, &film, 3).await;
    part(go, 5, 1, &film[..1_000_000]).await;
    go.part(uid(5), 2, "video", b"other bytes", 1).await;
    part(go, 5, 2, &film[1_000_000..2_000_000]).await;
    part(go, 5, 3, &film[2_000_000..]).await;
    go.part(uid(5), 4, "video", b"removed", -1).await;
    go.task("partMerge", uid(5), 3, 1).await;
    // 6: merged; its parts were not removed.
    whole(go, 6, "merged.pdf", &bytes(6)).await;
    go.part(uid(6), 1, "video", &bytes(6)[..200_000], 1).await;
    go.part(uid(6), 2, "video", &bytes(6)[200_000..], 1).await;
    go.object(&format!("video/{}_1", uid(6)), &bytes(6)[..200_000]);
    go.task("partMerge", uid(6), 2, 2).await;
    // 7: its object is missing. 8: truncated. 9: the client declared a wrong size.
    whole(go, 7, "gone.pdf", &bytes(7)).await;
    go.remove(&format!("doc/{}.pdf", uid(7)));
    whole(go, 8, "cut.pdf", &bytes(8)).await;
    go.object(&format!("doc/{}.pdf", uid(8)), &bytes(8)[..299_999]);
    whole(go, 9, "longer.pdf", &bytes(9)).await;
    go.update_file(uid(9), "storage_size = 1").await;
    // 10: only a link. 11: parts that exist only in the upload's folder, and one that is missing.
    pending(go, 10).await;
    pending(go, 11).await;
    for number in [1, 3, 4] {
        go.part(uid(11), number, "video", &bytes(11), 1).await;
    }
    go.object(&format!("{0}/{0}_1", uid(11)), &bytes(11));
    go.object(&format!("{0}/{0}_3", uid(11)), &bytes(11));
    go.task("partDelete", uid(11), 4, 0).await;
    // 12: complete, but without a part. 13: stopped right after its merge, so its parts are gone.
    in_parts(go, 12, &bytes(12), 2).await;
    part(go, 12, 1, &bytes(12)[..100_000]).await;
    go.part(uid(12), 2, "video", &bytes(12)[100_000..], 1).await;
    in_parts(go, 13, &bytes(13), 2).await;
    go.object(&format!("video/{}.mp4", uid(13)), &bytes(13));
    // 15: parts numbered from 0.
    in_parts(go, 15, &bytes(15), 2).await;
    part(go, 15, 0, &bytes(15)[..100_000]).await;
    part(go, 15, 1, &bytes(15)[100_000..]).await;
    // 16: two rows; the program reads the older one. 17: a name that is not allowed.
    whole(go, 16, "first.pdf", &bytes(16)).await;
    whole(go, 16, "second.pdf", &bytes(16)).await;
    whole(go, 17, "", &bytes(17)).await;
    // 18: two of its parts have arrived.
    pending(go, 18).await;
    part(go, 18, 1, &bytes(18)).await;
    part(go, 18, 2, &bytes(19)).await;
    // A part of no file.
    go.part(uid(99), 1, "video", b"orphan", 1).await;
    vec![
        format!("{}: its name was URL-encoded twice; imported as \"报告.pdf\"", uid(4)),
        format!("{}: 1 older rows of its parts are ignored", uid(5)),
        format!("skipped {0}: its object is missing: doc/{0}.pdf", uid(7)),
        format!("skipped {0}: its object is damaged: doc/{0}.pdf does not match the recorded MD5; it has 299999 bytes, recorded are 300000", uid(8)),
        format!("{}: it has 300000 bytes; its row in the Go database has 1", uid(9)),
        format!("{}: its part 4 is not imported; the client must send it again", uid(11)),
        format!("skipped {}: its parts are missing: 1 of 2 found; missing part numbers: [2]", uid(12)),
        format!("{}: it was merged just before the Go program stopped", uid(13)),
        format!("skipped {}: its name is not allowed: \"\"", uid(17)),
        "1 part rows belong to no file; `osproxy fsck` finds their objects, if there are any".to_owned(),
        "1 partMerge tasks were started but did not finish; they are not imported, since osproxy schedules its own tasks".to_owned(),
        "1 partDelete tasks were not started; they are not imported, since osproxy schedules its own tasks".to_owned(),
        "1 part objects, 195.3 KiB, were left behind by merges (see --remove-leftovers)".to_owned(),
    ]
}

/// Imports what [`fill`] creates, and serves it.
async fn serve_what_was_taken_over(folder: TempDir, go: GoProgram, database: Database) {
    let expected = fill(&go).await;
    let settings = database.settings();
    let path = folder.path();
    let (code, said) = import(path, &settings, &["--dry-run"]).await;
    assert_eq!(code, 4, "{said}");
    assert_says(&said, &expected);
    let sum = "13 files would be imported: 8 whole, 2 in parts, 3 unfinished; 0 of them again; 1 already present; 4 skipped";
    assert_says(&said, &[sum.to_owned()]);
    assert_eq!(database.sql("SELECT uid FROM files").await, [""; 0]);
    assert_eq!(database.sql("SELECT id FROM blobs").await, [""; 0]);

    let (code, said) = import(path, &settings, &[]).await;
    assert_eq!(code, 4, "{said}");
    assert_says(&said, &expected);
    assert_says(&said, &[sum.replace("would be imported", "imported")]);

    // The Go program went on: it merged 15, which was imported in parts, and completed 11.
    go.object(&format!("video/{}.mp4", uid(15)), &content(15, 300_000));
    go.update_file(uid(15), "multi_part = false").await;
    // 19 shares the content of 15 by instant upload.
    let object = format!("video/{}.mp4", uid(15));
    let bytes = content(15, 300_000);
    let row = Row {
        uid: uid(19),
        name: "film.mp4",
        object: &object,
        content: &bytes,
        parts: None,
        is_stored: true,
    };
    go.file(&row).await;
    let bytes = content(11, 300_000);
    go.update_file(
        uid(11),
        &format!(
            "status = 1, multi_part = true, part_num = 2, storage_size = 600000, md5 = '{}'",
            md5_hex(&bytes.repeat(2))
        ),
    )
    .await;
    go.remove_part(uid(11), 4).await;
    let (code, said) = import(path, &settings, &[]).await;
    assert_eq!(code, 4, "{said}");
    // 10, 11 and 18 were not complete: they are imported again in their present state.
    let sum =
        "4 files imported: 1 whole, 1 in parts, 2 unfinished; 3 of them again; 11 already present; 4 skipped";
    assert_says(&said, &[sum.to_owned()]);
    // Complete files keep their tenant; unfinished uploads move to the other tenant, and back.
    for options in [&["--remove-leftovers", "--tenant", "other"][..], &[]] {
        let (code, said) = import(path, &settings, options).await;
        assert_eq!(code, 4, "{said}");
        let sum = "2 files imported: 0 whole, 0 in parts, 2 unfinished; 2 of them again; 13 already present; 4 skipped";
        assert_says(&said, &[sum.to_owned()]);
    }

    if database.url().is_some() {
        another_node_takes_nothing_away(path, &settings).await;
    }
    let mut service = Service::start_at(folder, database, settings, &[], &[]).await;
    read_all(&service).await;
    service.database().wait_until_idle().await;
    read_all(&service).await;
    recognise_and_refuse(&service).await;
    // Objects of skipped files stay, and so does that of 15, which osproxy merges itself.
    service.kill().await;
    let (code, said) = service.cli(&["fsck", "--deep"]).await;
    assert_eq!(code, 4, "{said}");
    let strays = [("doc", 8, ".pdf"), ("video", 12, "_1"), ("video", 15, ".mp4"), ("doc", 17, ".pdf")];
    for (folder, number, end) in strays {
        let stray = format!("{folder}/{}{end}", uid(number));
        assert!(said.contains(&stray), "{stray} is not in {said}");
    }
    assert!(said.contains(" 4 differences"), "{said}");
}

/// Importing on a node without the objects must not change what the first node imported.
async fn another_node_takes_nothing_away(first: &Path, settings: &[(String, String)]) {
    let folder = tempfile::tempdir().unwrap();
    std::fs::copy(first.join("go.yaml"), folder.path().join("go.yaml")).unwrap();
    std::fs::create_dir_all(folder.path().join("osproxy-data/objects")).unwrap();
    let (code, said) = import(folder.path(), settings, &[]).await;
    assert_eq!(code, 4, "{said}");
    // 10 has no parts anywhere; those of 18 are on the other node.
    let sum =
        "1 files imported: 0 whole, 0 in parts, 1 unfinished; 1 of them again; 14 already present; 4 skipped";
    assert_says(&said, &[sum.to_owned()]);
}

async fn read_all(service: &Service) {
    let film = content(5, 2_500_000);
    for (number, name, bytes) in [
        (1, "report.pdf", content(1, 300_000)),
        (2, "100% 报告.pdf", content(1, 300_000)),
        (3, "报告 1.pdf", content(3, 300_000)),
        (4, "报告.pdf", content(4, 300_000)),
        (5, "film.mp4", film),
        (6, "merged.pdf", content(6, 300_000)),
        (9, "longer.pdf", content(9, 300_000)),
        (11, "film.mp4", content(11, 300_000).repeat(2)),
        (13, "film.mp4", content(13, 300_000)),
        (15, "film.mp4", content(15, 300_000)),
        (19, "film.mp4", content(15, 300_000)),
        (16, "first.pdf", content(16, 300_000)),
    ] {
        let link = meta_of(service, uid(number)).await.unwrap_or_else(|| panic!("{number} is missing"));
        assert_eq!((&*link.meta.src_name, &*link.meta.size), (name, &*bytes.len().to_string()));
        assert_eq!(link.meta.md5, md5_hex(&bytes));
        let answer = service.get(&link.url).await;
        assert_eq!(answer.headers()["content-type"], "text/x-go");
        assert!(answer.bytes().await.unwrap() == bytes, "{number}");
    }
    for number in [7, 8, 10, 12, 17] {
        assert!(meta_of(service, uid(number)).await.is_none(), "{number}");
    }
}

/// Imported content is found by instant uploads; damaged content is not served.
async fn recognise_and_refuse(service: &Service) {
    let bytes = content(1, 300_000);
    let again = service.instant_upload(&[(&md5_hex(&bytes), "again.pdf")]).await.remove(0).uid;
    assert!(service.read(&again).await == bytes);
    let state =
        async |number| service.sql(&format!("SELECT state FROM files WHERE uid = {}", uid(number))).await;
    assert_eq!(state(10).await, ["pending"]);
    assert_eq!(service.checkpoint(&uid(18).to_string()).await, [1, 2]);
    // The parts merged here are gone, and so are those left by the Go program.
    let objects = service.objects();
    for number in [5, 6, 11, 15] {
        let part = format!("{}_", uid(number));
        assert!(!objects.iter().any(|object| object.contains(&part)), "{number}: {objects:?}");
    }
    service.wait_until_merged(&uid(5).to_string()).await;
    // New uids do not collide with imported ones.
    let uid: i64 = service.store("new.txt", b"new").await.parse().unwrap();
    assert!(uid > self::uid(1000));
}

/// A Go program whose objects are in the object folder of a service.
async fn on_disk(folder: &Path, database: &Database, plural: bool) -> GoProgram {
    let config =
        GoProgram::config(database, "local: {enabled: true}\nminio: {enabled: true, endpoint: 'minio:9000'}");
    std::fs::write(folder.join("go.yaml"), config).unwrap();
    GoProgram::new(database, plural, &folder.join("osproxy-data/objects")).await
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs servers: just test-servers"]
async fn a_program_on_postgresql_goes_on_in_the_same_database() {
    let folder = tempfile::tempdir().unwrap();
    let database = Database::create_on("OSPROXY_TEST_POSTGRES", folder.path()).await;
    let go = on_disk(folder.path(), &database, false).await;
    serve_what_was_taken_over(folder, go, database).await;
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs servers: just test-servers"]
async fn a_program_on_mysql_with_tables_in_the_plural_moves_to_sqlite() {
    let folder = tempfile::tempdir().unwrap();
    let old = Database::create_on("OSPROXY_TEST_MYSQL", folder.path()).await;
    let go = on_disk(folder.path(), &old, true).await;
    let database = Database::create(folder.path()).await;
    serve_what_was_taken_over(folder, go, database).await;
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs servers: just test-servers"]
async fn content_that_is_not_what_it_was_is_kept_and_somebody_is_told() {
    let folder = tempfile::tempdir().unwrap();
    let database = Database::create_on("OSPROXY_TEST_POSTGRES", folder.path()).await;
    let go = on_disk(folder.path(), &database, false).await;
    let (before, now) = (content(1, 1000), content(2, 1000));
    whole(&go, 1, "a.pdf", &before).await;
    let object = format!("doc/{}.pdf", uid(1));
    go.object(&object, &now);
    whole(&go, 2, "b.pdf", &before).await;
    // Its merge failed, because the client declared another digest.
    in_parts(&go, 3, b"other", 1).await;
    part(&go, 3, 1, b"parts").await;
    let settings = database.settings();
    assert_eq!(import(folder.path(), &settings, &[]).await.0, 0);
    let service = Service::start_at(folder, database, settings, &[], &[]).await;
    let dead = async || {
        let dead = service.sql("SELECT last_error FROM tasks WHERE state = 'dead' ORDER BY kind").await;
        (dead.len() == 2).then_some(dead)
    };
    let dead = eventually("the tasks are given up", dead).await;
    for (error, found) in dead.iter().zip([&b"parts"[..], &now]) {
        assert!(error.contains("the imported content is damaged"), "{error}");
        assert!(error.ends_with(&md5_hex(found)), "{error}");
    }
    // What the Go program served is still served.
    assert!(service.objects().contains(&object));
    assert!(service.read(&uid(1).to_string()).await == now);
    assert!(service.read(&uid(3).to_string()).await == b"parts");
    // An instant upload never gets this content for the md5 of the other one.
    let again = async || {
        let uid = service.instant_upload(&[(&md5_hex(&before), "again.pdf")]).await.remove(0).uid;
        (!uid.is_empty()).then_some(uid)
    };
    let again = eventually("instant upload finds the other content", again).await;
    assert!(service.read(&again).await == before);
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs servers: just test-servers"]
async fn what_cannot_be_taken_over_is_said_beforehand() {
    let folder = tempfile::tempdir().unwrap();
    let database = Database::create_on("OSPROXY_TEST_POSTGRES", folder.path()).await;
    let settings = database.settings();
    let said = async |config: &str| {
        std::fs::write(folder.path().join("go.yaml"), config).unwrap();
        let (code, said) = import(folder.path(), &settings, &[]).await;
        assert_eq!(code, 1, "{said}");
        said
    };
    let local = GoProgram::config(&database, "local: {enabled: true}");
    assert!(said(&local).await.contains("has no tables of the Go program"));
    assert!(said("local: {enabled: true}").await.contains("configures no PostgreSQL or MySQL database"));
    let gone = local.replace(&format!("port: {}", port_of(&database)), "port: 1");
    assert!(said(&gone).await.contains("127.0.0.1:1"), "the message does not name the database");
    assert!(said("locl: {enabled: true}").await.contains("go.yaml cannot be read"));
    let _go = GoProgram::new(&database, false, folder.path()).await;
    assert!(said(&local).await.contains("set `local.root` to the Go program's `localstore`"));
    std::fs::create_dir_all(folder.path().join("osproxy-data/objects")).unwrap();
    // The Go program's configuration may also be that of osproxy.
    std::fs::write(folder.path().join("go.yaml"), local).unwrap();
    let (code, said_of_nothing) = import(folder.path(), &[], &["--config", "go.yaml", "--dry-run"]).await;
    assert_eq!(code, 0, "{said_of_nothing}");
    assert!(said_of_nothing.contains("0 files would be imported"), "{said_of_nothing}");
    let minio = GoProgram::config(&database, "minio: {enabled: true, endpoint: 'minio:9000'}");
    assert!(said(&minio).await.contains("in s3; enable that store in the configuration of osproxy"));
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs servers: just test-servers"]
async fn what_is_taken_over_counts_towards_the_quota() {
    let folder = tempfile::tempdir().unwrap();
    let database = Database::create_on("OSPROXY_TEST_POSTGRES", folder.path()).await;
    let go = on_disk(folder.path(), &database, false).await;
    let settings = database.settings();
    let bytes = content(1, 2000);
    whole(&go, 1, "a.pdf", &bytes).await;
    pending(&go, 2).await;
    part(&go, 2, 1, &bytes).await;
    let quota = async |tenant, bytes| {
        let arguments = ["tenant", "set", tenant, "--new", "--max-bytes", bytes];
        let (status, said, complaint) = spawn_failing(folder.path(), &settings, &arguments).await;
        assert!(status.success(), "{said}{complaint}");
    };
    assert_eq!(import(folder.path(), &settings, &["--dry-run"]).await.0, 0);
    quota("default", "3999B").await;
    let (code, said) = import(folder.path(), &settings, &[]).await;
    assert_eq!(code, 1, "{said}");
    assert!(said.contains("quota"), "{said}");
    // Batches before the one that the quota refuses may stay.
    assert!(!database.sql("SELECT uid FROM files").await.contains(&uid(2).to_string()));
    quota("default", "4000B").await;
    // The second import replaces the upload, which is counted once.
    for _ in 0..2 {
        assert_eq!(import(folder.path(), &settings, &[]).await.0, 0);
        assert_eq!(database.sql("SELECT used FROM tenants").await, ["4000"]);
    }
    // Importing for another tenant: the complete file stays, and the upload is counted for its new
    // tenant.
    quota("other", "5000B").await;
    let used = "SELECT used FROM tenants ORDER BY name";
    let to_other = ["--tenant", "other"];
    assert_eq!(import(folder.path(), &settings, &to_other).await.0, 0);
    assert_eq!(database.sql(used).await, ["2000", "2000"]);
    // It was completed with content that another tenant has: it is skipped, and still counted.
    let (first, md5) = (uid(1), md5_hex(&bytes));
    let shared = format!("bucket = 'doc', storage_name = '{first}.pdf', md5 = '{md5}'");
    go.update_file(uid(2), &format!("status = 1, multi_part = false, storage_size = 2000, {shared}")).await;
    assert_eq!(import(folder.path(), &settings, &to_other).await.0, 4);
    assert_eq!(database.sql(used).await, ["2000", "2000"]);
    let files = "SELECT CAST(sum(charged) AS BIGINT) FROM files GROUP BY tenant ORDER BY tenant";
    assert_eq!(database.sql(files).await, ["2000", "2000"]);
}

/// In a store, the Go program has a bucket for each category.
#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs servers: just test-servers"]
async fn objects_stay_in_the_buckets_of_a_store() {
    let folder = tempfile::tempdir().unwrap();
    let old = Database::create_on("OSPROXY_TEST_POSTGRES", folder.path()).await;
    let store = Store::with_category_buckets(StoreServer::S3);
    let settings = store.settings();
    let go = GoProgram::new(&old, false, folder.path()).await;
    let minio = GoProgram::config(&old, "minio: {enabled: true, endpoint: 'minio:9000'}");
    std::fs::write(folder.path().join("go.yaml"), minio).unwrap();
    // Other tests may share these buckets, so the uids depend on the process id.
    let (small, film) = (content(1, 1000), content(2, 3_000_000));
    let (whole, parts) =
        (uid(i64::from(std::process::id())), uid(i64::from(std::process::id()) + 100_000_000));
    let object = format!("doc/{whole}.pdf");
    store.put(&object, &small).await;
    let row =
        Row { uid: whole, name: "a.pdf", object: &object, content: &small, parts: None, is_stored: true };
    go.file(&row).await;
    let object = format!("video/{parts}.mp4");
    let row = Row {
        uid: parts,
        name: "film.mp4",
        object: &object,
        content: &film,
        parts: Some(3),
        is_stored: true,
    };
    go.file(&row).await;
    for (number, part) in (1..).zip(film.chunks(1_000_000)) {
        store.put(&format!("video/{parts}_{number}"), part).await;
        go.part(parts, number, "video", part, 1).await;
    }

    let mut with_bucket = settings.clone();
    with_bucket.push(("S3__BUCKET".to_owned(), "files".to_owned()));
    let (code, said) = import(folder.path(), &with_bucket, &[]).await;
    assert_eq!(code, 1, "{said}");
    assert!(said.contains("remove `bucket` from the section of s3"), "{said}");
    let (code, said) = import(folder.path(), &settings, &[]).await;
    assert_eq!(code, 0, "{said}");
    let database = Database::create(folder.path()).await;
    let service = Service::start_at(folder, database, settings, &[], &[]).await;
    for _ in 0..2 {
        assert!(service.read(&whole.to_string()).await == small);
        assert!(service.read(&parts.to_string()).await == film);
        service.database().wait_until_idle().await;
    }
    let again = service.instant_upload(&[(&md5_hex(&film), "again.mp4")]).await.remove(0).uid;
    assert!(service.read(&again).await == film);
}
