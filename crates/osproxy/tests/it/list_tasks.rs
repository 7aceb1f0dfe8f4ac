use osproxy_api::v1::{TaskState, Tasks};
use reqwest::Method;

use crate::support::{Service, content, eventually, expect_json, expect_problem};

async fn page(service: &Service, query: &str) -> Tasks {
    expect_json(service.v1_get(&format!("/tasks?{query}")).await, 200).await
}

#[tokio::test]
async fn tasks_are_listed_page_by_page_the_newest_first() {
    let service = Service::start().await;
    for seed in 0..3 {
        let uid = service.store_in_parts("x.bin", &content(seed, 10_000), 5_000).await;
        service.wait_until_merged(&uid).await;
    }
    service.database().wait_until_idle().await;
    let all = page(&service, "").await.tasks;
    assert!(all.len() >= 6, "{all:?}");
    let ids: Vec<i64> = all.iter().map(|task| task.id.parse().unwrap()).collect();
    assert!(ids.is_sorted_by(|newer, older| newer > older));
    let (mut found, mut cursor) = (Vec::new(), String::new());
    loop {
        let page = page(&service, &format!("limit=2{cursor}")).await;
        assert!(page.tasks.len() <= 2);
        found.extend(page.tasks.into_iter().map(|task| task.id));
        let Some(next) = page.next_cursor else { break };
        cursor = format!("&cursor={next}");
    }
    assert_eq!(found, all.iter().map(|task| task.id.clone()).collect::<Vec<_>>());
    let merges = page(&service, "kind=merge_parts&state=done").await;
    assert_eq!((merges.tasks.len(), merges.next_cursor), (3, None));
    let merge = &merges.tasks[0];
    assert_eq!((merge.state, merge.attempts), (TaskState::Done, 1));
    assert!(merge.payload["blob_id"].is_i64() && merge.ended_at.is_some() && merge.run_at.is_none());
    assert!(page(&service, "kind=nothing").await.tasks.is_empty());
    assert!(page(&service, "state=dead").await.tasks.is_empty());
}

#[tokio::test]
async fn bad_input_is_refused() {
    let service = Service::start().await;
    let cursor = async || page(&service, "limit=1").await.next_cursor;
    let cursor = eventually("there are two tasks", cursor).await;
    for (query, field) in [
        ("limit=0".to_owned(), "limit"),
        ("state=lost".to_owned(), "state"),
        ("kinds=x".to_owned(), "kinds"),
        ("kind=%00".to_owned(), "kind"),
        ("cursor=AAAA".to_owned(), "cursor"),
        (format!("state=done&cursor={cursor}"), "cursor"),
    ] {
        let told =
            expect_problem(service.v1_get(&format!("/tasks?{query}")).await, 400, "invalid_argument").await;
        assert_eq!(told["field"], field, "{query}");
    }
    // A cursor of tasks is not valid for files.
    expect_problem(service.v1_get(&format!("/files?cursor={cursor}")).await, 400, "invalid_argument").await;
    expect_problem(service.v1(Method::POST, "/tasks", None).await, 405, "method_not_allowed").await;
}
