//! Objects on a disk, written by any version, and the cost of reaching one of many.

use reqwest::Method;
use serde_json::json;
use sha2::{Digest as _, Sha256};

use crate::support::{
    Service, command, content, eventually, expect_json, expect_problem, expect_v0_error, system_calls,
};

const PART: usize = 65536;

/// No request and no task lists a folder: its cost does not depend on what else is stored.
#[tokio::test]
async fn nothing_that_is_done_for_a_file_lists_a_folder() {
    let service = Service::start_traced("trace=getdents64,unlink,unlinkat").await;
    let calls = || system_calls(&service);
    service.wait_until_started().await;
    let before = calls().len();

    // Whole, failed, in merged parts, in parts of a preallocated file, and aborted.
    let whole = service.store("x.bin", &content(1, 100_000)).await;
    let broken = service.upload_link("y.bin").await;
    assert_ne!(
        service
            .put(&format!("{}&md5=00000000000000000000000000000000", broken.url.single), b"broken")
            .await
            .status(),
        200
    );
    let merged = service.store_in_parts("z.bin", &content(2, 200_000), 100_000).await;
    service.wait_until_merged(&merged).await;
    let bytes = content(3, 2 * PART);
    // A task verifies expected digests other than BLAKE3.
    let sha256 = hex::encode(Sha256::digest(&bytes));
    let wish = json!({"name": "p.bin", "size": bytes.len(), "part_size": PART, "sha256": sha256});
    let placed = service.create_upload(&wish).await;
    for (number, part) in (1..).zip(bytes.chunks(PART)) {
        assert_eq!(service.v1_put_part(&placed, number, part).await.status(), 204);
    }
    assert!(service.v1_complete(&placed).await.status().is_success());
    let given_up =
        service.create_upload(&json!({"name": "g.bin", "size": bytes.len(), "part_size": PART})).await;
    assert_eq!(service.v1_abort(&given_up).await.status(), 204);
    let one_piece = service.create_upload(&json!({"name": "o.bin", "size": 5, "part_size": PART})).await;
    assert_eq!(service.put(&one_piece.links.as_ref().unwrap().content, b"whole").await.status(), 200);
    service.database().wait_until_idle().await;
    for uid in [&whole, &merged, &placed.uid, &one_piece.uid] {
        assert_eq!(service.v1(Method::DELETE, &format!("/files/{uid}"), None).await.status(), 204);
    }
    eventually("all objects are removed", async || service.objects().is_empty().then_some(())).await;
    service.database().wait_until_idle().await;

    let calls = calls().split_off(before);
    assert!(calls.iter().filter(|call| call.contains("unlink")).count() >= 6, "{calls:#?}");
    let is_listing = |call: &&String| call.contains("getdents64(") && call.contains("/objects");
    let listed: Vec<_> = calls.iter().filter(is_listing).collect();
    assert!(listed.is_empty(), "{listed:#?}");
}

/// A data folder of the previous version: objects, parts and preallocated files are directly in the
/// folders of their categories.
#[tokio::test]
async fn objects_of_the_version_before_are_read_completed_and_removed() {
    let mut service = Service::start().await;
    let bytes = content(4, 2 * PART);
    let whole = service.store("x.bin", &content(5, 100_000)).await;
    let link = service.upload_link("film.mp4").await;
    service.put_parts(&link, &[&bytes[..PART]]).await;
    let wish = json!({"name": "p.pdf", "size": bytes.len(), "part_size": PART});
    let (placed, given_up) = (service.create_upload(&wish).await, service.create_upload(&wish).await);
    for upload in [&placed, &given_up] {
        assert_eq!(service.v1_put_part(upload, 1, &bytes[..PART]).await.status(), 204);
    }
    service.kill().await;
    let root = service.objects_folder();
    for name in service.objects().iter().filter(|name| !name.starts_with('.')) {
        let (category, _) = name.split_once('/').unwrap();
        std::fs::create_dir_all(root.join(category)).unwrap();
        std::fs::rename(service.object_path(name), root.join(name)).unwrap();
    }
    for folder in std::fs::read_dir(&root).unwrap().map(|folder| folder.unwrap().path()) {
        if folder.file_name().unwrap().to_str().unwrap().contains('-') && folder.is_dir() {
            std::fs::remove_dir(folder).unwrap();
        }
    }
    for table in ["blobs", "parts"] {
        for key in service.sql(&format!("SELECT object_key FROM {table} WHERE object_key <> ''")).await {
            let (folder, name) = key.split_once('/').unwrap();
            let (category, _) = folder.split_once('-').unwrap();
            let flat =
                format!("UPDATE {table} SET object_key = '{category}/{name}' WHERE object_key = '{key}'");
            service.sql(&flat).await;
        }
    }
    let (code, said) = service.cli(&["fsck", "--deep"]).await;
    assert_eq!(code, 0, "{said}");
    service.restart().await;

    assert!(service.read(&whole).await == content(5, 100_000));
    service.put_part(&link, 2, &bytes[PART..]).await;
    assert_eq!(service.merge(&link, 2, &bytes).await.status(), 200);
    service.wait_until_merged(&link.uid).await;
    assert_eq!(service.v1_put_part(&placed, 2, &bytes[PART..]).await.status(), 204);
    assert_eq!(service.v1_complete(&placed).await.status(), 200);
    let placed_file = root.join(format!("doc/{}.pdf", placed.uid));
    assert!(service.read(&link.uid).await == bytes && service.read(&placed.uid).await == bytes);
    assert_eq!(service.v1_abort(&given_up).await.status(), 204);
    service.database().wait_until_idle().await;
    assert!(placed_file.exists() || service.sql("SELECT count(*) FROM blobs").await == ["2"], "shared");
    service.assert_consistent().await;
    service.restart().await;
    for uid in [&whole, &link.uid, &placed.uid] {
        assert_eq!(service.v1(Method::DELETE, &format!("/files/{uid}"), None).await.status(), 204);
    }
    eventually("all objects are removed", async || service.objects().is_empty().then_some(())).await;
}

/// For example when an older database was restored beside newer objects.
#[tokio::test]
async fn an_object_that_no_row_names_is_never_replaced() {
    let service = Service::start().await;
    let link = service.upload_link("x.bin").await;
    let there = service.objects_folder().join(Service::object_key(&format!("unknown/{}.bin", link.uid)));
    std::fs::create_dir_all(there.parent().unwrap()).unwrap();
    std::fs::write(&there, "somebody's").unwrap();
    expect_v0_error(service.put(&link.url.single, b"other").await, 503).await;
    service.database().wait_until_idle().await;
    assert_eq!(std::fs::read(&there).unwrap(), b"somebody's");
    // The next write uses another key.
    assert_eq!(service.put(&link.url.single, b"other").await.status(), 200);
    assert!(service.read(&link.uid).await == b"other");
    assert_eq!(std::fs::read(&there).unwrap(), b"somebody's");

    let upload = service.create_upload(&json!({"name": "y.bin", "size": 5, "part_size": PART})).await;
    assert_eq!(service.v1_put_part(&upload, 1, b"bytes").await.status(), 204);
    let there = service.objects_folder().join(Service::object_key(&format!("unknown/{}.bin", upload.uid)));
    std::fs::write(&there, "somebody's").unwrap();
    expect_problem(service.v1_complete(&upload).await, 503, "unavailable").await;
    assert_eq!(std::fs::read(&there).unwrap(), b"somebody's");
    std::fs::remove_file(&there).unwrap();
    let _: osproxy_api::v1::UploadStatus = expect_json(service.v1_complete(&upload).await, 200).await;
    assert!(service.read(&upload.uid).await == b"bytes");
}

/// Unknown objects are the worst case: each is reported, and none is kept in memory.
#[tokio::test]
async fn fsck_needs_no_more_memory_for_many_objects() {
    const SOME: usize = 5_000;
    const MANY: usize = 150_000;
    let mut service = Service::start().await;
    service.store("x.bin", b"x").await;
    service.assert_consistent().await;
    let peak = async |service: &Service| {
        let code = "import resource, subprocess, sys\n\
                    subprocess.run(sys.argv[1:], stdout=subprocess.DEVNULL)\n\
                    print(resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss)";
        let mut fsck = command(service.folder(), &[], &["python3", "-c", code]);
        let output = fsck.arg("fsck").output().await.unwrap();
        String::from_utf8(output.stdout).unwrap().trim().parse::<usize>().unwrap()
    };
    let folder = service.objects_folder().join("unknown");
    std::fs::create_dir_all(&folder).unwrap();
    let create = |numbers: std::ops::Range<usize>| {
        for number in numbers {
            let name = format!("stray-object-of-nobody-at-all-{number}.bin");
            std::fs::File::create(folder.join(name)).unwrap();
        }
    };
    create(0..SOME);
    let with_some = peak(&service).await;
    create(SOME..MANY);
    let with_many = peak(&service).await;
    // An entry of a map would take more than 100 bytes.
    assert!(with_many < with_some + 9 * 1024, "{with_many} KiB instead of {with_some} KiB");
}
