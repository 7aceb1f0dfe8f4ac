//! The traffic between service and store.

use super::MIN;
use crate::support::{FaultyProxy, Service, Store, StoreServer, content, eventually};

const PART: usize = 8 << 20;
const PARTS: usize = 32;
/// Allowance for request heads and part lists, in bytes.
const LITTLE: u64 = 64 << 10;

/// A part travels to the store once, and completing moves no bytes.
#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs servers: just test-servers"]
async fn parts_travel_once_and_completing_writes_nothing() {
    for server in [StoreServer::S3, StoreServer::Oss] {
        let store = Store::new(server);
        let wire = FaultyProxy::start(store.address(), 1).await;
        let mut service = Service::start_on_store(&store, Some(&wire), &[]).await;
        service.database().hold_task("verify_blob").await;
        let bytes = content(1, PART * PARTS);
        let link = service.upload_link("film.mp4").await;
        let before = wire.sent();
        for (number, part) in (1..).zip(bytes.chunks(PART)) {
            assert_eq!(service.put_part(&link, number, part).await.status(), 200);
        }
        let sent = wire.sent() - before;
        let exactly = bytes.len() as u64;
        println!("{server:?}: {sent} bytes to the store for {exactly}");
        assert!((exactly..exactly + exactly / 100).contains(&sent), "{sent} bytes instead of {exactly}");
        let (before, received) = (wire.sent(), wire.received());
        assert_eq!(service.merge(&link, PARTS, &bytes).await.status(), 200);
        let (sent, got) = (wire.sent() - before, wire.received() - received);
        println!("{server:?}: {sent} bytes to the store and {got} from it to complete");
        assert!(sent < LITTLE && got < LITTLE, "{sent} {got}");
        assert_eq!(service.sql("SELECT layout FROM blobs").await, ["whole"]);
        // The verification reads it once.
        service.database().release_merges().await;
        service.wait_until_merged(&link.uid).await;
        service.database().wait_until_idle().await;
        let (sent, got) = (wire.sent() - before, wire.received() - received);
        println!("{server:?}: {sent} bytes to the store and {got} from it until it is verified");
        assert!(sent < LITTLE && (exactly..exactly + exactly / 100).contains(&got), "{sent} {got}");
        service.assert_consistent().await;
    }
}

/// A reader that stops takes no more bytes from the store than those in transit.
#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs servers: just test-servers"]
async fn who_stops_reading_stops_the_store() {
    let store = Store::new(StoreServer::S3);
    let wire = FaultyProxy::start(store.address(), 1).await;
    let service = Service::start_on_store(&store, Some(&wire), &[]).await;
    let uid = service.store("x.bin", &content(2, 64 << 20)).await;
    let before = wire.received();
    let url = service.download_link(&uid).await.unwrap().url;
    let mut connection = service.connect().await;
    connection.send_head("GET", &url, "").await;
    connection.read_some().await;
    // The client reads no more: buffers fill up, and then the service requests nothing from the
    // store.
    let mut last = wire.received();
    eventually("no more bytes arrive", async || {
        tokio::time::sleep(std::time::Duration::from_millis(500)).await;
        let now = wire.received();
        let still = now == last;
        last = now;
        still.then_some(())
    })
    .await;
    let taken = last - before;
    println!("{taken} bytes were read for a stalled reader");
    assert!(taken < 32 << 20, "{taken}");
}

/// No unnecessary requests to the store.
#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs servers: just test-servers"]
async fn parts_that_come_at_the_same_time_begin_one_upload() {
    let store = Store::new(StoreServer::S3Parts);
    let wire = FaultyProxy::start(store.address(), 1).await;
    let service =
        Service::start_on_store(&store, Some(&wire), &[("UPLOADS__MAX_INLINE_VERIFICATION_SIZE", "0")]).await;
    service.database().hold_task("verify_blob").await;
    let bytes = content(3, 6 * MIN);
    let link = service.upload_link("film.mp4").await;
    let before = wire.request_lines().len();
    let sent = (1..).zip(bytes.chunks(MIN)).map(|(number, part)| service.put_part(&link, number, part));
    for answer in futures_util::future::join_all(sent).await {
        assert_eq!(answer.status(), 200);
    }
    assert_eq!(service.merge(&link, 6, &bytes).await.status(), 200);
    let asked = wire.request_lines().split_off(before);
    let count = |method: &str| asked.iter().filter(|line| line.starts_with(method)).count();
    assert_eq!((count("PUT"), count("POST"), asked.len()), (6, 2, 8), "{asked:#?}");
}
