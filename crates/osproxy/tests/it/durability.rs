//! What survives a power failure depends on the order of syncs. A kill cannot show that; a trace of
//! system calls can.

mod amounts;

use crate::support::{Service, content, eventually, system_calls};

#[tokio::test]
async fn content_its_name_and_its_row_are_on_the_disk_before_the_answer() {
    synced_before_the_answer(false).await;
}

#[tokio::test]
async fn a_part_its_name_and_its_row_are_on_the_disk_before_the_answer() {
    synced_before_the_answer(true).await;
}

async fn synced_before_the_answer(in_parts: bool) {
    let calls = "trace=fdatasync,fsync,renameat,renameat2,pwrite64,writev,sendto";
    let service = Service::start_traced(calls).await;
    let link = service.upload_link("x.bin").await;
    service.wait_until_started().await;
    if in_parts {
        let url = format!("{}&chunkNum=6", link.url.multi.upload);
        assert_eq!(service.put(&url, b"before").await.status(), 200);
    }
    let before = system_calls(&service).len();
    let url = if in_parts { format!("{}&chunkNum=7", link.url.multi.upload) } else { link.url.single };
    // A part of this size is an object.
    let size = if in_parts { 60_000 } else { 300_000 };
    assert_eq!(service.put(&url, &content(1, size)).await.status(), 200);
    let calls = eventually("the answer is in the trace", async || {
        let calls = system_calls(&service).split_off(before);
        calls.iter().any(|call| call.contains("HTTP/1.1 200")).then_some(calls)
    })
    .await;

    let object =
        Service::object_key(&format!("unknown/{}{}", link.uid, if in_parts { "_7" } else { ".bin" }));
    let folder = format!("/objects/{}>", object.split('/').next().unwrap());
    let steps: [&dyn Fn(&str) -> bool; 6] = [
        // The write intent is committed before the object exists.
        &|call| call.contains("fdatasync(") && call.contains("osproxy.db-wal>"),
        &|call| call.contains("pwrite64(") && call.contains("/objects/.tmp/"),
        &|call| call.contains("fdatasync(") && call.contains("/objects/.tmp/"),
        &|call| call.contains("renameat") && call.contains(&object),
        &|call| call.contains("fsync(") && call.contains(&folder),
        &|call| call.contains("fdatasync(") && call.contains("osproxy.db-wal>"),
    ];
    let rest = in_order(&calls, &steps);
    assert!(rest.iter().any(|call| call.contains("HTTP/1.1 200")), "answered too early: {calls:#?}");
    let is_sync = |call: &&String| call.contains("sync(");
    // The first object of a folder creates it.
    let made = calls.iter().position(|call| call.contains("fsync(") && call.contains("/objects>"));
    assert_eq!(made.is_some(), !in_parts, "{calls:#?}");
    assert!(made < calls.iter().position(|call| call.contains("renameat") && call.contains(&object)));
    let synced = calls.iter().filter(is_sync).count() - usize::from(made.is_some());
    assert_eq!(synced, 4, "an unnecessary sync: {calls:#?}");
}

/// Small content needs two syncs: of the pack, then of the row.
#[tokio::test]
async fn packed_content_and_its_row_are_on_the_disk_before_the_answer() {
    let service = start_with_a_pack().await;
    let link = service.upload_link("x.bin").await;
    let before = system_calls(&service).len();
    assert_eq!(service.put(&link.url.single, &content(2, 16_000)).await.status(), 200);
    assert_two_syncs(&service, before, "HTTP/1.1 200").await;
}

/// A small file that is created with its content needs no more: one transaction does both.
#[tokio::test]
async fn a_new_small_file_is_on_the_disk_before_the_answer() {
    let service = start_with_a_pack().await;
    let before = system_calls(&service).len();
    let request = service.client().post(service.url("/api/v1/files?name=x.bin")).body(content(2, 16_000));
    assert_eq!(request.send().await.unwrap().status(), 201);
    assert_two_syncs(&service, before, "HTTP/1.1 201").await;
}

/// Starts a service that is idle and has a pack already.
async fn start_with_a_pack() -> Service {
    let calls = "trace=fdatasync,fsync,renameat,renameat2,openat,pwrite64,pwritev,writev,sendto";
    let service = Service::start_traced_with(calls, &[("LOCAL__PACK_BELOW", "64KiB")]).await;
    // The first content creates the pack.
    service.store("y.bin", &content(1, 3000)).await;
    service.wait_until_started().await;
    service
}

/// Checks the system calls after the first `before`: the pack is synced, then the row, then the
/// answer is sent.
async fn assert_two_syncs(service: &Service, before: usize, answer: &str) {
    let calls = eventually("the answer is in the trace", async || {
        let calls = system_calls(service).split_off(before);
        calls.iter().any(|call| call.contains(answer)).then_some(calls)
    })
    .await;
    let steps: [&dyn Fn(&str) -> bool; 3] = [
        &|call| call.contains("pwritev(") && call.contains("/objects/packs/"),
        &|call| call.contains("fdatasync(") && call.contains("/objects/packs/"),
        &|call| call.contains("fdatasync(") && call.contains("osproxy.db-wal>"),
    ];
    let rest = in_order(&calls, &steps);
    assert!(rest.iter().any(|call| call.contains(answer)), "answered too early: {calls:#?}");
    let synced = calls.iter().filter(|call| call.contains("sync(")).count();
    assert_eq!(synced, 2, "an unnecessary sync: {calls:#?}");
}

#[tokio::test]
async fn a_part_in_its_place_and_its_row_are_on_the_disk_before_the_answer() {
    let calls = "trace=fdatasync,fsync,renameat,renameat2,pwrite64,copy_file_range,writev,sendto";
    let service = Service::start_traced(calls).await;
    let link = service.upload_link("x.bin").await;
    service.wait_until_started().await;
    let bytes = content(1, 4 << 16);
    let parts: Vec<_> = bytes.chunks(2 << 16).collect();
    let key = |name: &str| Service::object_key(&format!("unknown/{name}"));
    let (whole, file) = (key(&format!("{}.bin", link.uid)), format!("/.{}.bin.131072+>", link.uid));
    let folder = format!("/objects/{}>", whole.split('/').next().unwrap());
    let database = |call: &str| call.contains("fdatasync(") && call.contains("osproxy.db-wal>");
    let answered = async |before: usize| {
        eventually("the answer is in the trace", async || {
            let calls = system_calls(&service).split_off(before);
            calls.iter().any(|call| call.contains("HTTP/1.1 200")).then_some(calls)
        })
        .await
    };
    let before = system_calls(&service).len();
    assert_eq!(service.put_part(&link, 1, parts[0]).await.status(), 200);
    let calls = answered(before).await;
    let steps: [&dyn Fn(&str) -> bool; 6] = [
        // The write intent, which names the file, is committed before the file exists.
        &database,
        &|call| call.contains("fsync(") && call.contains(&folder),
        &database,
        &|call| call.contains("pwrite64(") && call.contains(&file),
        &|call| call.contains("fdatasync(") && call.contains(&file),
        &database,
    ];
    let rest = in_order(&calls, &steps);
    assert!(rest.iter().any(|call| call.contains("HTTP/1.1 200")), "answered too early: {calls:#?}");
    let before = system_calls(&service).len();
    assert_eq!(service.put_part(&link, 2, parts[1]).await.status(), 200);
    let calls = answered(before).await;
    let steps: [&dyn Fn(&str) -> bool; 4] = [&database, steps[3], steps[4], &database];
    let rest = in_order(&calls, &steps);
    assert!(rest.iter().any(|call| call.contains("HTTP/1.1 200")), "answered too early: {calls:#?}");
    let synced = calls.iter().filter(|call| call.contains("sync(")).count();
    assert_eq!(synced, 3, "an unnecessary sync: {calls:#?}");
    let before = system_calls(&service).len();
    assert_eq!(service.merge(&link, 2, &bytes).await.status(), 200);
    let calls = answered(before).await;
    let steps: [&dyn Fn(&str) -> bool; 4] = [
        &database,
        &|call| call.contains("renameat") && call.contains(&whole),
        &|call| call.contains("fsync(") && call.contains(&folder),
        &database,
    ];
    let rest = in_order(&calls, &steps);
    assert!(rest.iter().any(|call| call.contains("HTTP/1.1 200")), "answered too early: {calls:#?}");
    let copied = |call: &&String| {
        call.contains("copy_file_range(") || call.contains("pwrite64(") && call.contains("/objects/")
    };
    assert_eq!(calls.iter().filter(copied).count(), 0, "bytes were copied: {calls:#?}");
}

/// A power failure in the middle of a merge loses the merge, never the parts.
#[tokio::test]
async fn merged_content_is_copied_by_the_kernel_and_on_the_disk_before_its_parts_go() {
    let calls = "trace=fdatasync,fsync,renameat,renameat2,copy_file_range,pwrite64,unlink,unlinkat";
    let service = Service::start_traced(calls).await;
    let link = service.upload_link("x.bin").await;
    // Parts of this size are objects.
    let bytes = content(1, 120_000);
    service.put_parts(&link, &bytes.chunks(60_000).collect::<Vec<_>>()).await;
    let before = system_calls(&service).len();
    assert_eq!(service.merge(&link, 2, &bytes).await.status(), 200);
    service.wait_until_merged(&link.uid).await;
    service.database().wait_until_idle().await;
    let calls = system_calls(&service).split_off(before);
    let key = |suffix: &str| Service::object_key(&format!("unknown/{}{suffix}", link.uid));
    let (whole, part) = (key(".bin"), key("_"));
    let folder = format!("/objects/{}>", whole.split('/').next().unwrap());
    let steps: [&dyn Fn(&str) -> bool; 8] = [
        // The write intent is committed before the object exists.
        &|call| call.contains("fdatasync(") && call.contains("osproxy.db-wal>"),
        &|call| call.contains("copy_file_range(") && call.contains("/objects/.tmp/"),
        &|call| call.contains("fdatasync(") && call.contains("/objects/.tmp/"),
        &|call| call.contains("renameat") && call.contains(&whole),
        &|call| call.contains("fsync(") && call.contains(&folder),
        // From here on the whole object is read.
        &|call| call.contains("fdatasync(") && call.contains("osproxy.db-wal>"),
        &|call| call.contains("unlink") && call.contains(&part),
        // The rows of the parts are deleted after their objects.
        &|call| call.contains("fdatasync(") && call.contains("osproxy.db-wal>"),
    ];
    in_order(&calls, &steps);
    let first = calls.iter().position(|call| call.contains("unlink") && call.contains(&part));
    let merged = calls.iter().position(|call| call.contains("renameat") && call.contains(&whole));
    assert!(first > merged, "a part was removed before the merge: {calls:#?}");
    let written = |call: &&String| call.contains(" pwrite64(") && call.contains("/objects/");
    assert_eq!(calls.iter().filter(written).count(), 0, "the process copied bytes: {calls:#?}");
}

/// Finds the steps in this order, and returns the calls after the last one.
fn in_order<'a>(calls: &'a [String], steps: &[&dyn Fn(&str) -> bool]) -> &'a [String] {
    let mut rest = calls;
    for (number, step) in steps.iter().enumerate() {
        let at = rest.iter().position(|call| step(call));
        let at = at.unwrap_or_else(|| panic!("step {number} is missing or out of order: {calls:#?}"));
        rest = &rest[at + 1..];
    }
    rest
}
