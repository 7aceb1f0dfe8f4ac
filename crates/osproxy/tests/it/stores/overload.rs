//! The effect of the transfer limit on readers.

use super::MIN;
use crate::support::{Fault, FaultyProxy, Service, Store, StoreServer, content};

/// The smallest number that may be set.
const TRANSFERS: usize = 8;

/// The next part is opened ahead. If there is no permit for that, the reader of the current part
/// must not fail.
#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs servers: just test-servers"]
async fn a_reader_goes_on_when_there_was_no_place_to_open_its_next_part_ahead() {
    let store = Store::new(StoreServer::S3);
    let wire = FaultyProxy::start(store.address(), 1).await;
    let mut service = Service::start_on_store(&store, Some(&wire), &[("STORES__MAX_TRANSFERS", "8")]).await;
    let large = service.store("large.bin", &content(1, 64 << 20)).await;
    service.set_setting("STORES__TIMEOUT", "2");
    service.kill_and_restart().await;
    // The first part is too small for a multipart upload of the store.
    let bytes = content(2, 5 * MIN);
    let link = service.upload_link("x.bin").await;
    service.database().hold_merges().await;
    let (first, last) = (100_000, 5 * MIN - 100_000);
    service.put_parts(&link, &[&bytes[..first], &bytes[first..last], &bytes[last..]]).await;
    assert_eq!(service.merge(&link, 3, &bytes).await.status(), 200);
    assert_eq!(service.sql(&format!("SELECT layout FROM blobs WHERE id = {}", link.uid)).await, ["parts"]);
    // All permits but one are held by readers that have stalled.
    let url = service.download_link(&large).await.unwrap().url;
    let mut stalled = Vec::new();
    for _ in 1..TRANSFERS {
        let mut connection = service.connect().await;
        connection.send_head("GET", &url, "").await;
        connection.read_some().await;
        stalled.push(connection);
    }
    // The second part takes longer than the wait for a permit.
    wire.plan_fault("GET", Fault::Slow);
    wire.plan_fault("GET", Fault::Slow);
    assert!(service.read(&link.uid).await == bytes);
    assert_eq!(wire.faults().1, [Fault::Slow, Fault::Slow]);
    drop(stalled);
}
