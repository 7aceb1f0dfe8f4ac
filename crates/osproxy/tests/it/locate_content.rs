use osproxy_api::v0::Envelope;

use crate::support::{Service, expect_v0_error};

#[tokio::test]
async fn a_node_says_where_it_is_if_it_has_the_bytes() {
    let service = Service::start().await;
    let uid = service.store("x.bin", b"x").await;
    let link = service.upload_link("y.bin").await;
    let ask = async |uid: &str| service.get(&format!("/api/storage/v0/proxy?uid={uid}")).await;
    // Without content there is no location.
    expect_v0_error(ask(&link.uid).await, 404).await;
    assert_eq!(service.put_part(&link, 1, b"y").await.status(), 200);
    let is_local = std::env::var("OSPROXY_TEST_STORE").is_err();
    for uid in [&uid, &link.uid] {
        let answer = ask(uid).await;
        // A client that reaches the store itself needs no node address.
        if is_local || service.database().url().is_none() {
            let said: Envelope<String> = answer.json().await.unwrap();
            assert_eq!(said.data, service.address.to_string());
        } else {
            expect_v0_error(answer, 404).await;
        }
    }
    expect_v0_error(ask("1").await, 404).await;
    expect_v0_error(ask("x").await, 422).await;
}
