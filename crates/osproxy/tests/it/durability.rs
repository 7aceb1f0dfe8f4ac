//! What a power failure would take is decided by the order of syncs, which no kill can show: system calls do.

use std::collections::HashMap;

use crate::support::{Service, content, eventually};

#[tokio::test]
async fn content_its_name_and_its_row_are_on_the_disk_before_the_answer() {
    synced_before_the_answer(false).await;
}

#[tokio::test]
async fn a_part_its_name_and_its_row_are_on_the_disk_before_the_answer() {
    synced_before_the_answer(true).await;
}

async fn synced_before_the_answer(in_parts: bool) {
    let calls = "trace=fdatasync,fsync,renameat,renameat2,write,writev,sendto";
    let service = Service::start_traced(calls).await;
    let link = service.upload_link("x.bin").await;
    // What every start does in the background is not what is looked at here.
    eventually("it is idle", async || {
        (service.sql("SELECT count(*) FROM task_attempts WHERE outcome = 'done'").await == ["2"])
            .then_some(())
    })
    .await;
    let before = trace(&service).len();
    let url = if in_parts { format!("{}&chunkNum=7", link.url.multi.upload) } else { link.url.single };
    assert_eq!(service.put(&url, &content(1, 300_000)).await.status(), 200);
    let calls = eventually("the answer is in the trace", async || {
        let calls = trace(&service).split_off(before);
        calls.iter().any(|call| call.contains("HTTP/1.1 200")).then_some(calls)
    })
    .await;

    let object = format!("unknown/{}{}", link.uid, if in_parts { "_7" } else { ".bin" });
    let steps: [&dyn Fn(&str) -> bool; 6] = [
        // The row that names the object, before there is one.
        &|call| call.contains("fdatasync(") && call.contains("osproxy.db-wal>"),
        &|call| call.contains("write(") && call.contains("/objects/.tmp/"),
        &|call| call.contains("fdatasync(") && call.contains("/objects/.tmp/"),
        &|call| call.contains("renameat") && call.contains(&object),
        &|call| call.contains("fsync(") && call.contains("/objects/unknown>"),
        &|call| call.contains("fdatasync(") && call.contains("osproxy.db-wal>"),
    ];
    let mut rest = calls.as_slice();
    for (number, step) in steps.iter().enumerate() {
        let at = rest.iter().position(|call| step(call));
        let at = at.unwrap_or_else(|| panic!("step {number} is not in its place: {calls:#?}"));
        rest = &rest[at + 1..];
    }
    assert!(rest.iter().any(|call| call.contains("HTTP/1.1 200")), "answered too early: {calls:#?}");
    let synced = calls.iter().filter(|call| call.contains("sync(")).count();
    assert_eq!(synced, 4, "a sync too many costs every upload: {calls:#?}");
}

/// The system calls so far, in the order in which they returned. A call that others overtook is written in two
/// pieces: its thread tells which belong together.
fn trace(service: &Service) -> Vec<String> {
    let text = std::fs::read_to_string(service.folder().join("trace")).unwrap();
    let mut begun = HashMap::new();
    let mut calls = Vec::new();
    for line in text.lines() {
        let thread = line.split_whitespace().next().unwrap();
        if let Some(call) = line.strip_suffix(" <unfinished ...>") {
            begun.insert(thread, call);
        } else if line.contains(" resumed>") {
            calls.push(format!("{}{line}", begun.remove(thread).unwrap()));
        } else {
            calls.push(line.to_owned());
        }
    }
    calls
}
