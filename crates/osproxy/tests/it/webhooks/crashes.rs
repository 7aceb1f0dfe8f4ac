//! The service and the receiver are killed while files are stored.

use std::collections::{BTreeMap, BTreeSet};

use osproxy_api::v1::FileState;
use serde_json::json;

use super::{create, start};
use crate::support::{Random, Receiver, amount, eventually};

#[tokio::test(flavor = "multi_thread")]
async fn every_file_is_reported_whoever_is_killed() {
    let (files, kills) = amount((200, 6), (20_000, 50));
    let mut service = start().await;
    let mut receiver = Receiver::start().await;
    create(&service, &json!({"url": receiver.url(), "types": ["file.created", "file.completed"]})).await;
    let mut random = Random::new(25);
    let mut stored = BTreeSet::new();
    let until_kill = files / kills;
    for number in 0..files {
        let body = format!("content {number}").into_bytes();
        let url = service.url(&format!("/api/v1/files?name={number}.txt"));
        let answer = service.client().post(url).header("content-type", "text/plain").body(body).send().await;
        if let Ok(answer) = answer
            && answer.status() == 201
        {
            let file: serde_json::Value = answer.json().await.unwrap();
            stored.insert(file["uid"].as_str().unwrap().to_owned());
        }
        if number % until_kill == until_kill - 1 {
            if random.below(2) == 0 {
                service.restart_configured().await;
            } else {
                receiver.kill();
                receiver.restart().await;
            }
        }
    }
    assert!(stored.len() >= files - kills, "{} files are stored", stored.len());
    eventually("all files are reported", async || {
        let reported: BTreeSet<_> = receiver
            .accepted()
            .into_iter()
            .filter(|message| message.kind() == "file.completed")
            .map(|message| message.uid())
            .collect();
        stored.is_subset(&reported).then_some(())
    })
    .await;
    // Each message has the same content whenever it is sent, and the sequence of a file is right.
    let mut bodies = BTreeMap::new();
    let mut sequences: BTreeMap<String, BTreeMap<String, i64>> = BTreeMap::new();
    for message in receiver.received() {
        let body = bodies.entry(message.id().to_owned()).or_insert_with(|| message.body.clone());
        assert_eq!(*body, message.body);
        sequences.entry(message.uid()).or_default().insert(message.kind(), message.sequence());
    }
    for uid in &stored {
        let of_file = &sequences[uid];
        if let Some(created) = of_file.get("file.created") {
            assert!(*created < of_file["file.completed"], "{uid} {of_file:?}");
        }
        assert_eq!(service.describe(uid).await.state, FileState::Stored);
    }
    let sent = receiver.received().len();
    println!("{} files, {sent} messages, {} different ones", stored.len(), bodies.len());
    service.assert_consistent().await;
}

#[tokio::test]
async fn a_file_can_be_read_when_its_event_arrives() {
    let service = start().await;
    let receiver = Receiver::start().await;
    super::create_for(&service, &receiver).await;
    let reader = async {
        let mut read = 0;
        while read < 60 {
            for message in receiver.wait_for(read + 1).await.split_off(read) {
                assert_eq!(service.describe(&message.uid()).await.state, FileState::Stored);
                assert!(!service.read(&message.uid()).await.is_empty());
                read += 1;
            }
        }
    };
    let writer = async {
        for number in 0..30 {
            service.store(&number.to_string(), b"content").await;
            service.store_in_parts(&number.to_string(), &[7; 3000], 1000).await;
        }
    };
    tokio::join!(reader, writer);
}
