//! Events on several nodes.

use std::collections::{BTreeMap, HashSet};

use osproxy_api::v1::{Event, Events};
use serde_json::json;

use crate::support::{Api, Service, eventually, expect_json};

const SERVERS: [&str; 2] = ["OSPROXY_TEST_POSTGRES", "OSPROXY_TEST_MYSQL"];

async fn after(api: &Api, position: &str) -> Events {
    expect_json(api.v1_get(&format!("/events?after={position}&limit=200")).await, 200).await
}

/// Writers on three nodes, and a reader that changes the node with every page. A node is killed
/// meanwhile.
#[tokio::test]
#[ignore = "needs servers: just test-servers"]
async fn a_reader_on_any_node_sees_every_event_once_and_in_order() {
    const FILES: usize = 40;
    for server in SERVERS {
        let one = Service::start_on(server, &[]).await;
        let (two, mut three) = (one.start_second_node(&[]).await, one.start_second_node(&[]).await);
        let apis = [one.without_key(), two.without_key()].map(|api| api.with_key(one.key().unwrap()));
        let writer = |api: Api, name: &'static str| async move {
            let mut uids = HashSet::new();
            for number in 0..FILES {
                let uid =
                    api.store(&format!("{name}-{number}.txt"), format!("{name} {number}").as_bytes()).await;
                let renamed = json!({"name": format!("{name}-{number}.md")});
                let answer = api.v1(reqwest::Method::PATCH, &format!("/files/{uid}"), Some(&renamed)).await;
                assert_eq!(answer.status(), 200);
                uids.insert(uid);
            }
            uids
        };
        // It dies right after the commit, so another node makes its events visible.
        let dying = async {
            let uid = three.store("three.txt", b"three").await;
            three.kill().await;
            uid
        };
        let [first, second] = apis.clone();
        let (uids, others, third) = tokio::join!(writer(first, "one"), writer(second, "two"), dying);
        let uids: HashSet<_> = uids.union(&others).cloned().collect();
        let (mut seen, mut position, mut turn): (Vec<Event>, _, _) = (Vec::new(), "0".to_owned(), 0);
        let lives = eventually("all events are there", async || {
            let page = after(&apis[turn % 2], &position).await;
            (turn, position) = (turn + 1, page.next);
            seen.extend(page.events);
            let mut lives: BTreeMap<&str, Vec<&str>> = BTreeMap::new();
            for event in &seen {
                lives.entry(event.data.uid.as_deref().unwrap()).or_default().push(&event.kind);
            }
            let is_complete = lives.values().filter(|life| life.len() == 3).count() == 2 * FILES
                && lives.get(&*third).is_some_and(|life| life.len() == 2);
            is_complete.then(|| lives.values().map(|life| life.join(" ")).collect::<HashSet<_>>())
        })
        .await;
        let (life, renamed) = ("file.created file.completed", "file.created file.completed file.renamed");
        assert_eq!(lives, HashSet::from([life.to_owned(), renamed.to_owned()]));
        assert!(uids.iter().all(|uid| seen.iter().any(|event| event.data.uid.as_ref() == Some(uid))));
        let ids: Vec<i64> = seen.iter().map(|event| event.id.parse().unwrap()).collect();
        assert!(ids.is_sorted_by(|a, b| a < b), "{ids:?}");
    }
}
