//! Memory stays below the bound of the capacity guide, whatever the bodies.

use std::{sync::Arc, time::Duration};

use bytes::Bytes;
use futures_util::{StreamExt, future::join_all, stream};
use reqwest::Body;
use serde_json::json;

use crate::support::{MemoryCgroup, Service, Store, StoreServer, content};

const BODIES: u64 = 64;
/// More than one part, in chunks of 64 KiB.
const CHUNKS: u64 = 192;
const CHUNK: usize = 64 << 10;

const MAX_BUFFER: u64 = 128 << 20;
const MAX_CONNECTIONS: u64 = 256;
/// The formula of docs/guides/capacity.md.
const MOST: u64 = (60 << 20) + MAX_CONNECTIONS * (30 << 10) + MAX_BUFFER;

fn chunk(body: u64, number: u64) -> Vec<u8> {
    content(body * CHUNKS + number, CHUNK)
}

/// Sends a body in chunks, again whenever the service has no memory for it, and returns its uid.
async fn send(service: &Service, body: u64) -> String {
    let upload = service.create_upload(&json!({"name": "x.bin"})).await;
    let url = service.url(&upload.links.unwrap().content);
    loop {
        let chunks = stream::iter(0..CHUNKS)
            .map(move |number| Ok::<_, std::io::Error>(Bytes::from(chunk(body, number))));
        let sent = service.client().put(&url).body(Body::wrap_stream(chunks)).send().await;
        let Ok(answer) = sent else {
            // The connection was closed while the body was being sent.
            continue;
        };
        match answer.status().as_u16() {
            200 => return upload.uid,
            503 => {
                assert_eq!(answer.headers()["osproxy-error"], "overloaded");
                let pause: u64 = answer.headers()["retry-after"].to_str().unwrap().parse().unwrap();
                tokio::time::sleep(Duration::from_secs(pause)).await;
            }
            other => panic!("{other}: {}", answer.text().await.unwrap()),
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs servers: just test-servers"]
async fn bodies_of_unknown_length_take_no_more_memory_than_the_capacity_guide_says() {
    let store = Store::new(StoreServer::S3);
    let (buffer, connections) = (MAX_BUFFER.to_string(), MAX_CONNECTIONS.to_string());
    let settings =
        [("LIMITS__MAX_BUFFER_MEMORY", buffer.as_str()), ("SERVER__MAX_CONNECTIONS", &connections)];
    let service = Arc::new(Service::start_on_store(&store, None, &settings).await);
    let cgroup = MemoryCgroup::confine(service.process_id(), MOST);
    let sending = (1..=BODIES).map(|body| {
        let service = service.clone();
        tokio::spawn(async move { send(&service, body).await })
    });
    let uids: Vec<_> = join_all(sending).await.into_iter().map(Result::unwrap).collect();
    let peak = service.peak_memory();
    println!("{peak} bytes, bound {MOST}; in a cgroup: {}", cgroup.is_some());
    assert!(peak < MOST, "{peak} bytes exceed the bound of {MOST}");
    for body in [1, BODIES / 2, BODIES] {
        let sent: Vec<_> = (0..CHUNKS).flat_map(|number| chunk(body, number)).collect();
        assert!(service.read(&uids[usize::try_from(body).unwrap() - 1]).await == sent, "{body}");
    }
    Arc::into_inner(service).unwrap().kill().await;
    drop(cgroup);
}
