use osproxy_api::v1::{File, FileState, Files};
use reqwest::Method;
use serde_json::json;

use crate::support::{Service, expect_json, expect_problem};

async fn page(service: &Service, query: &str) -> Files {
    expect_json(service.v1_get(&format!("/files?{query}")).await, 200).await
}

/// Reads all pages of a listing.
async fn all(service: &Service, query: &str) -> Vec<File> {
    let (mut files, mut cursor) = (Vec::new(), String::new());
    loop {
        let page = page(service, &format!("{query}{cursor}")).await;
        files.extend(page.files);
        match page.next_cursor {
            Some(next) => cursor = format!("&cursor={next}"),
            None => return files,
        }
    }
}

fn names(files: &[File]) -> Vec<&str> {
    files.iter().map(|file| file.name.as_str()).collect()
}

#[tokio::test]
async fn pages_hold_every_file_once_in_an_order_that_stays() {
    let service = Service::start().await;
    assert_eq!(page(&service, "").await, Files { files: Vec::new(), next_cursor: None });
    let paths: Vec<_> = (0..25).map(|number| format!("{number}.txt")).collect();
    let paths: Vec<_> = paths.iter().map(String::as_str).collect();
    let links = service.upload_links(&paths).await;
    let gone = &links[10].uid;
    assert_eq!(service.v1(Method::DELETE, &format!("/files/{gone}"), None).await.status(), 204);
    let expected: Vec<_> = links.iter().map(|link| &link.uid).filter(|uid| *uid != gone).collect();
    for limit in [1, 5, 24, 1000] {
        let files = all(&service, &format!("limit={limit}")).await;
        assert_eq!(files.iter().map(|file| &file.uid).collect::<Vec<_>>(), expected, "{limit}");
    }
    // Files created or deleted between two pages do not disturb the rest.
    let first = page(&service, "limit=5").await;
    service.upload_link("late.txt").await;
    for link in &links[3..5] {
        service.v1(Method::DELETE, &format!("/files/{}", link.uid), None).await;
    }
    let second = page(&service, &format!("limit=5&cursor={}", first.next_cursor.unwrap())).await;
    assert_eq!(names(&second.files), ["5.txt", "6.txt", "7.txt", "8.txt", "9.txt"]);
    let deleted = all(&service, "state=deleted&limit=2").await;
    assert_eq!(names(&deleted), ["3.txt", "4.txt", "10.txt"]);
    assert!(deleted.iter().all(|file| file.state == FileState::Deleted && file.expires_at.is_none()));
}

#[tokio::test]
async fn filters_choose_what_they_say() {
    let service = Service::start().await;
    let stored = service.store("100%.JPG", b"stored").await;
    for name in ["100_.jpg", "100x.jpg", "other.mp3", "Other.mp3"] {
        service.upload_link(name).await;
    }
    for (query, expected) in [
        ("prefix=100", vec!["100%.JPG", "100_.jpg", "100x.jpg"]),
        ("prefix=100%25", vec!["100%.JPG"]),
        ("prefix=100_", vec!["100_.jpg"]),
        ("prefix=o", vec!["other.mp3"]),
        ("prefix=%00", vec![]),
        ("prefix=O", vec!["Other.mp3"]),
        ("category=image", vec!["100%.JPG", "100_.jpg", "100x.jpg"]),
        ("category=audio", vec!["other.mp3", "Other.mp3"]),
        ("category=video", vec![]),
        ("state=stored", vec!["100%.JPG"]),
        ("state=pending&category=image", vec!["100_.jpg", "100x.jpg"]),
        ("state=pending&prefix=100&category=image", vec!["100_.jpg", "100x.jpg"]),
        ("created_after=2020-01-01T00:00:00Z&prefix=other", vec!["other.mp3"]),
        ("created_before=2020-01-01T00:00:00Z", vec![]),
        ("created_after=2999-01-01T00:00:00%2B01:00", vec![]),
    ] {
        for limit in [1, 2, 100] {
            let files = all(&service, &format!("{query}&limit={limit}")).await;
            assert_eq!(names(&files), expected, "{query} by {limit}");
        }
    }
    let file = &all(&service, "state=stored").await[0];
    let since = all(&service, &format!("created_after={}&state=stored", file.created_at)).await;
    assert_eq!(since[0].uid, stored);
    let until = all(&service, &format!("created_before={}&state=stored", file.created_at)).await;
    assert!(until.is_empty());
    // A new name is found at once.
    let renamed =
        service.v1(Method::PATCH, &format!("/files/{stored}"), Some(&json!({"name": "z.mp3"}))).await;
    assert_eq!(renamed.status(), 200);
    assert_eq!(names(&all(&service, "prefix=z").await), ["z.mp3"]);
    assert_eq!(all(&service, "category=audio").await.len(), 3);
}

#[tokio::test]
async fn bad_input_is_refused_with_the_parameter_that_is_wrong() {
    let service = Service::start().await;
    service.upload_links(&["a.txt", "b.txt"]).await;
    let long = "x".repeat(256);
    for (query, field) in [
        ("limit=0", "limit"),
        ("limit=1001", "limit"),
        ("limit=-1", "limit"),
        ("limit=+1", "limit"),
        ("limit=", "limit"),
        ("limit=99999999999999999999", "limit"),
        ("limit=1&limit=1", "limit"),
        ("limt=1", "limt"),
        ("state=gone", "state"),
        ("state=", "state"),
        ("category=Image", "category"),
        ("created_after=yesterday", "created_after"),
        ("created_before=2020-01-01", "created_before"),
        ("prefix=", "prefix"),
        (&*format!("prefix={long}"), "prefix"),
        ("cursor=", "cursor"),
        ("cursor=x", "cursor"),
        ("cursor=!!!!", "cursor"),
    ] {
        let told =
            expect_problem(service.v1_get(&format!("/files?{query}")).await, 400, "invalid_argument").await;
        assert_eq!(told["field"], field, "{query}: {told}");
    }
    // A cursor is valid only unchanged, and only with the filters of its listing.
    let cursor = page(&service, "limit=1&state=pending").await.next_cursor.unwrap();
    assert_eq!(page(&service, &format!("limit=2&state=pending&cursor={cursor}")).await.files.len(), 1);
    let query = |cursor: &str, filters: &str| format!("/files?limit=1{filters}&cursor={cursor}");
    for filters in ["", "&state=stored", "&state=pending&prefix=a", "&state=pending&category=unknown"] {
        expect_problem(service.v1_get(&query(&cursor, filters)).await, 400, "invalid_argument").await;
    }
    for at in 0..cursor.len() {
        let mut tampered = cursor.clone().into_bytes();
        tampered[at] = if tampered[at] == b'A' { b'B' } else { b'A' };
        let tampered = String::from_utf8(tampered).unwrap();
        expect_problem(service.v1_get(&query(&tampered, "&state=pending")).await, 400, "invalid_argument")
            .await;
    }
    expect_problem(service.v1_get(&query(&cursor[1..], "&state=pending")).await, 400, "invalid_argument")
        .await;
    expect_problem(service.v1(Method::GET, "/files", Some(&json!({}))).await, 400, "invalid_argument").await;
    expect_problem(service.v1(Method::DELETE, "/files", None).await, 405, "method_not_allowed").await;
}

/// Files of a version without listings are listed too.
#[tokio::test]
async fn files_from_before_are_listed_too() {
    let mut service = Service::start().await;
    if service.database().url().is_some() {
        // Not every server can drop the columns while other sessions are connected.
        return;
    }
    for name in ["old.jpg", "old.txt", "gone.txt"] {
        service.upload_link(name).await;
    }
    service.kill().await;
    service.sql("UPDATE files SET state = 'expired' WHERE name = 'gone.txt'").await;
    for statement in [
        "DELETE FROM seaql_migrations WHERE version LIKE 'm0006%' OR version LIKE 'm0016%'",
        "DROP INDEX ix_files_grant",
        "DROP INDEX ix_files_listed",
        "DROP INDEX ix_files_category",
        "DROP INDEX ix_files_name_start",
        "ALTER TABLE files DROP COLUMN listed",
        "ALTER TABLE files DROP COLUMN category",
        "ALTER TABLE files DROP COLUMN name_start",
        "ALTER TABLE files DROP COLUMN metadata",
    ] {
        service.sql(statement).await;
    }
    service.restart().await;
    assert_eq!(names(&all(&service, "").await), ["old.jpg", "old.txt"]);
    assert_eq!(names(&all(&service, "prefix=old.t").await), ["old.txt"]);
    assert_eq!(names(&all(&service, "category=image").await), ["old.jpg"]);
    assert_eq!(names(&all(&service, "state=expired").await), ["gone.txt"]);
}

#[tokio::test]
async fn text_is_listed_as_documents_and_stored_where_the_go_program_would() {
    let mut service = Service::start().await;
    let uid = service.store("notes.TXT", b"text").await;
    for name in ["readme.md", "table.csv", "data.json", "report.pdf", "program.bin"] {
        service.upload_link(name).await;
    }
    let documents = ["notes.TXT", "readme.md", "table.csv", "data.json", "report.pdf"];
    assert_eq!(names(&all(&service, "category=doc").await), documents);
    assert_eq!(names(&all(&service, "category=unknown").await), ["program.bin"]);
    assert_eq!(service.describe(&uid).await.category, "doc");
    assert!(service.objects().contains(&format!("unknown/{uid}.txt")), "{:?}", service.objects());
    let link = service.download_link(&uid).await.unwrap();
    assert!(link.url.contains("bucket=unknown&"), "{}", link.url);

    // Rows of the previous version.
    service.kill().await;
    service.sql("UPDATE files SET category = 'unknown' WHERE name <> 'report.pdf'").await;
    service.sql("DELETE FROM seaql_migrations WHERE version LIKE 'm0011%'").await;
    service.restart().await;
    assert_eq!(names(&all(&service, "category=doc").await), documents);
    assert_eq!(names(&all(&service, "category=unknown").await), ["program.bin"]);
}
