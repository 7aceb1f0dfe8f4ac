use crate::support::{Service, expect_v0_error};

#[tokio::test]
async fn it_tells_the_parts_that_are_there_ascending() {
    let mut service = Service::start().await;
    let link = service.upload_link("x.bin").await;
    assert_eq!(service.checkpoint(&link.uid).await, [0; 0]);
    for number in [12, 2, 9, 1] {
        assert_eq!(service.put_part(&link, number, b"x").await.status(), 200);
    }
    assert_eq!(service.checkpoint(&link.uid).await, [1, 2, 9, 12]);
    service.kill().await;
    service.restart().await;
    assert_eq!(service.checkpoint(&link.uid).await, [1, 2, 9, 12]);
}

#[tokio::test]
async fn of_a_complete_file_it_tells_all() {
    let service = Service::start().await;
    let uid = service.store_in_parts("x.bin", b"abcdefg", 2).await;
    assert_eq!(service.checkpoint(&uid).await, [1, 2, 3, 4]);
    service.wait_until_merged(&uid).await;
    assert_eq!(service.checkpoint(&uid).await, [1, 2, 3, 4]);
    let whole = service.store("y.bin", b"in one piece").await;
    assert_eq!(service.checkpoint(&whole).await, [0; 0]);
}

#[tokio::test]
async fn unknown_uids_are_told() {
    let service = Service::start().await;
    for (uid, status) in [("1", 404), ("9223372036854775807", 404), ("", 422), ("x", 422), ("-1", 422)] {
        expect_v0_error(service.get(&format!("/api/storage/v0/checkpoint?uid={uid}")).await, status).await;
    }
    expect_v0_error(service.get("/api/storage/v0/checkpoint").await, 422).await;
}
