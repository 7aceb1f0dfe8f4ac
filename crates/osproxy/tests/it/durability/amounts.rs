//! The bytes of an upload are written to disk once and never read back. A trace of system calls
//! shows it.

use std::sync::atomic::{AtomicU32, Ordering};

use osproxy_api::v1::{CreatedState, CreatedUpload, UploadState, UploadStatus};
use serde_json::json;

use crate::support::{Service, content, expect_json, system_calls};

const MIB: u64 = 1 << 20;
const PART: u64 = 8 * MIB;
/// Parts that are sent concurrently.
const CONNECTIONS: usize = 4;

/// Every system call that reads or writes.
const CALLS: &str = "trace=read,pread64,readv,preadv,preadv2,write,pwrite64,writev,pwritev,pwritev2,copy_file_range,\
                     sendfile,splice,mmap";

/// Bytes that moved between a service and its data folder.
#[derive(Debug, Default, PartialEq)]
struct Traffic {
    written: u64,
    read: u64,
    /// Bytes to and from the database's files.
    database: u64,
}

/// Sums up the calls from index `from` on.
fn traffic(service: &Service, from: usize) -> Traffic {
    let mut traffic = Traffic::default();
    for call in system_calls(service).iter().skip(from).filter(|call| call.contains("/osproxy-data/")) {
        let name = call.split_whitespace().nth(1).and_then(|call| call.split('(').next()).unwrap();
        // A failed call moved nothing.
        let moved = call.rsplit("= ").next().unwrap().split(' ').next().unwrap().parse().unwrap_or(0);
        match name {
            _ if call.contains("/osproxy.db") => traffic.database += if name == "mmap" { 0 } else { moved },
            "write" | "pwrite64" | "writev" | "pwritev" | "pwritev2" => traffic.written += moved,
            "read" | "pread64" | "readv" | "preadv" | "preadv2" => traffic.read += moved,
            "copy_file_range" | "splice" | "sendfile" => {
                traffic.written += moved;
                traffic.read += moved;
            }
            // Reads through mapped memory cannot be counted.
            "mmap" => panic!("a file was mapped: {call}"),
            _ => {}
        }
    }
    traffic
}

/// Content that repeats one buffer, with a number at the beginning of each part.
struct NumberedContent(Vec<u8>);

impl NumberedContent {
    fn new() -> Self {
        Self(content(1, usize::try_from(PART).unwrap()))
    }

    fn part(&self, number: u32) -> Vec<u8> {
        let mut part = self.0.clone();
        part[..4].copy_from_slice(&number.to_le_bytes());
        part
    }

    fn blake3(&self, parts: u32) -> String {
        let mut hasher = blake3::Hasher::new();
        for number in 1..=parts {
            hasher.update(&number.to_le_bytes()).update(&self.0[4..]);
        }
        hasher.finalize().to_hex().to_string()
    }
}

/// Starts a service, waits for the work of every start, and returns it with the number of calls so
/// far.
async fn start() -> (Service, usize) {
    let service = Service::start_traced(CALLS).await;
    service.wait_until_started().await;
    let calls = system_calls(&service).len();
    (service, calls)
}

async fn create(service: &Service, parts: u32) -> CreatedUpload {
    let wish = json!({"name": "x.bin", "size": u64::from(parts) * PART, "part_size": PART});
    expect_json(service.v1_post("/uploads", &wish).await, 201).await
}

/// Asserts that the content is known by its digest, which was computed while it was received.
async fn assert_known(service: &Service, blake3: &str) {
    let wish = json!({"name": "y.bin", "blake3": blake3});
    let again: CreatedUpload = expect_json(service.v1_post("/uploads", &wish).await, 201).await;
    assert_eq!(again.state, CreatedState::Stored);
}

fn assert_once(traffic: &Traffic, size: u64) {
    let written = size..=size + size / 100;
    assert!(written.contains(&traffic.written) && traffic.read == 0, "of {size} bytes: {traffic:?}");
    assert!(traffic.database < size / 20, "of {size} bytes: {traffic:?}");
}

#[tokio::test]
async fn parts_are_written_once_where_they_are_read_and_never_read_to_complete_them() {
    const PARTS: u32 = 128;
    let (service, before) = start().await;
    let (upload, stamped, next) = (create(&service, PARTS).await, NumberedContent::new(), AtomicU32::new(1));
    let links = upload.links.unwrap();
    let send = async || {
        loop {
            let number = next.fetch_add(1, Ordering::Relaxed);
            if number > PARTS {
                return;
            }
            let url = service.url(&links.part.replace("{number}", &number.to_string()));
            let sent = service.client().put(url).body(stamped.part(number)).send().await.unwrap();
            assert_eq!(sent.status(), 204);
        }
    };
    futures_util::future::join_all((0..CONNECTIONS).map(|_| send())).await;
    let size = u64::from(PARTS) * PART;
    // A call is in the trace before the process continues.
    assert_once(&traffic(&service, before), size);
    // Completing renames a file, whatever the size of the content.
    let before = system_calls(&service).len();
    let completing = service.client().post(service.url(&links.complete)).send().await.unwrap();
    let stored: UploadStatus = expect_json(completing, 200).await;
    assert_eq!((stored.state, stored.received), (UploadState::Stored, size));
    service.database().wait_until_idle().await;
    assert_known(&service, &stamped.blake3(PARTS)).await;
    let completing = traffic(&service, before);
    assert_eq!((completing.written, completing.read), (0, 0), "{completing:?}");
    assert!(service.peak_memory() < 100 * MIB, "{} bytes", service.peak_memory());
}

#[tokio::test]
async fn content_in_one_piece_is_written_once_and_never_read() {
    const PARTS: u32 = 8;
    let (service, before) = start().await;
    let (upload, stamped) = (create(&service, PARTS).await, NumberedContent::new());
    let (blake3, size) = (stamped.blake3(PARTS), u64::from(PARTS) * PART);
    let pieces = (1..=PARTS).map(move |number| Ok::<_, std::io::Error>(stamped.part(number)));
    let body = reqwest::Body::wrap_stream(futures_util::stream::iter(pieces));
    let request = service.client().put(service.url(&upload.links.unwrap().content)).body(body);
    let sent = request.header("content-length", size).send().await.unwrap();
    assert_eq!(expect_json::<UploadStatus>(sent, 200).await.state, UploadState::Stored);
    service.database().wait_until_idle().await;
    assert_known(&service, &blake3).await;
    assert_once(&traffic(&service, before), size);
}
