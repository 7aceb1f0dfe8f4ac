//! The command line: what it creates, how it answers mistakes, and how it prints tables.

use osproxy_api::v1::CreatedUpload;
use serde_json::{Value, json};

use crate::support::{Service, content, eventually, expect_json, spawn_failing};

#[tokio::test]
async fn only_serve_migrate_and_init_create_a_database() {
    let folder = tempfile::tempdir().unwrap();
    let commands: [&[&str]; 12] = [
        &["key", "create"],
        &["key", "ls"],
        &["key", "revoke", "0"],
        &["link-key", "ls"],
        &["upload-grant", "create"],
        &["upload-grant", "ls"],
        &["tenant", "ls"],
        &["tenant", "set", "default", "--max-bytes", "1MB"],
        &["tasks", "ls"],
        &["explain", "1"],
        &["fsck"],
        &["scrub"],
    ];
    for arguments in commands {
        let (status, printed, complaint) = spawn_failing(folder.path(), &[], arguments).await;
        assert_ne!(status.code(), Some(0), "{arguments:?}");
        assert_eq!(printed, "", "{arguments:?}");
        assert!(!complaint.is_empty(), "{arguments:?}");
        let created: Vec<_> = std::fs::read_dir(folder.path()).unwrap().collect();
        assert!(created.is_empty(), "{arguments:?}: {created:?}");
    }
    let (_, _, complaint) = spawn_failing(folder.path(), &[], &["key", "create"]).await;
    for named in ["osproxy-data/osproxy.db", "--data-dir", "OSPROXY_CONFIG", "osproxy migrate"] {
        assert!(complaint.contains(named), "{complaint}");
    }

    let (status, key, complaint) = spawn_failing(folder.path(), &[], &["key", "create", "--init"]).await;
    assert_eq!(status.code(), Some(0), "{complaint}");
    assert!(key.starts_with("osk_"), "{key}");
    let migrated = spawn_failing(folder.path(), &[], &["migrate", "--data-dir", "other"]).await;
    assert_eq!(migrated.0.code(), Some(0), "{}", migrated.2);
    let listed = spawn_failing(folder.path(), &[], &["key", "ls", "--data-dir", "other"]).await;
    assert_eq!((listed.0.code(), listed.1.as_str()), (Some(0), "none\n"));
}

#[tokio::test]
async fn tenants_are_listed_with_logical_and_stored_bytes() {
    let service = Service::start().await;
    let (code, printed) = service.cli(&["tenant", "ls"]).await;
    assert_eq!(code, 0);
    assert!(printed.contains("osproxy tenant ls --all"), "{printed}");

    // A tenant that no key, file or quota names is treated as a typing mistake.
    let (code, printed) = service.cli(&["tenant", "set", "shpo", "--max-bytes", "1MB"]).await;
    assert_eq!(code, 1);
    assert!(printed.contains("the tenant shpo has no key, file or quota"), "{printed}");
    let api = service.with_key(&service.create_key(&["--tenant", "shop"]).await);
    let (code, printed) = service.cli(&["tenant", "set", "shop", "--max-bytes", "10MB"]).await;
    assert_eq!(code, 0, "{printed}");

    // Logical bytes count the same content twice, stored bytes once. The other tenant has no quota.
    let bytes = content(1, 50_000);
    let other = service.with_key(&service.create_key(&["--tenant", "other"]).await);
    for api in [&api, &api, &other] {
        let created: CreatedUpload =
            expect_json(api.v1_post("/uploads", &json!({"name": "x.bin"})).await, 201).await;
        let url = api.url(created.links.unwrap().content.as_str());
        let sent = api.client().put(url).body(bytes.clone()).send().await.unwrap();
        assert_eq!(sent.status(), 200);
    }
    let (_, printed) = service.cli(&["tenant", "ls", "--json"]).await;
    let counted: Value = serde_json::from_str(printed.trim_end()).unwrap();
    // Each file also counts 512 bytes and its name.
    let record = 512 + "x.bin".len();
    let used = 100_000 + 2 * record;
    assert_eq!(counted, json!({"tenant": "shop", "max_bytes": 10_000_000, "used": used}));
    let (_, printed) = service.cli(&["tenant", "ls", "--all", "--json"]).await;
    let all: Vec<Value> = printed.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    let of = |name: &str| all.iter().find(|line| line["tenant"] == name).unwrap().clone();
    assert_eq!((&of("shop")["used"], &of("shop")["stored"]), (&json!(used), &json!(50_000)));
    assert_eq!((&of("other")["used"], &of("other")["stored"]), (&json!(50_000 + record), &json!(50_000)));
    let (_, printed) = service.cli(&["tenant", "ls", "--all"]).await;
    assert!(printed.starts_with("TENANT"), "{printed}");
    assert!(printed.contains("USED (LOGICAL)") && printed.contains("STORED"), "{printed}");
}

#[tokio::test]
async fn tasks_are_shown_without_made_up_limits_and_with_what_a_time_means() {
    let service = Service::start().await;
    let (_, printed) = service.cli(&["tasks", "ls", "--state", "dead"]).await;
    assert_eq!(printed, "none\n");
    let id = eventually("the sweep is due again", async || {
        let (_, printed) = service.cli(&["tasks", "ls", "--state", "queued"]).await;
        let line = printed.lines().find(|line| line.contains("sweep"))?;
        assert!(printed.lines().next()?.contains("WHEN") && line.contains("due 20"), "{printed}");
        line.split(' ').next().map(str::to_owned)
    })
    .await;
    let (code, printed) = service.cli(&["tasks", "show", &id]).await;
    assert_eq!(code, 0, "{printed}");
    let attempts = printed.lines().find(|line| line.starts_with("attempts")).unwrap();
    assert_eq!(attempts, "attempts  1");
    let (code, printed) = service.cli(&["tasks", "show", "abc"]).await;
    assert_eq!(code, 2);
    assert!(printed.contains("a task id is a number"), "{printed}");
}

#[tokio::test]
async fn help_groups_the_commands_and_lists_the_exit_codes_of_the_docs() {
    let folder = tempfile::tempdir().unwrap();
    let (status, help, _) = spawn_failing(folder.path(), &[], &["--help"]).await;
    assert_eq!(status.code(), Some(0));
    let groups: Vec<_> = ["\nServe:", "\nInspect:", "\nAccess:", "\nRepair:", "\nExit codes:"]
        .iter()
        .map(|title| help.find(title).expect(title))
        .collect();
    assert!(groups.is_sorted(), "{help}");
    assert!(help.lines().all(|line| line.len() <= 100), "{help}");
    let page = include_str!("../../../../docs/guides/operations.md");
    let codes = help[groups[4]..].lines().skip(2).filter(|line| !line.is_empty());
    for line in codes {
        let (code, meaning) = line.trim().split_once("  ").unwrap();
        assert!(page.contains(&format!("| {code} | {meaning} |")), "{line}");
    }
}
