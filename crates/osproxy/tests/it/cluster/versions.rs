//! Nodes of another version: data and messages that this version does not know must not disturb it.

use redis::cmd;

use crate::support::{Service, content, eventually, redis_url};

/// The registry, messages, tables and tasks hold additions of a later version while nodes of this
/// one work.
#[tokio::test]
#[ignore = "needs servers: just test-servers"]
async fn what_a_later_version_adds_is_passed_over() {
    for server in ["OSPROXY_TEST_POSTGRES", "OSPROXY_TEST_MYSQL"] {
        let quick = [("TASKS__POLL_INTERVAL", "1"), ("CLUSTER__HEARTBEAT", "1")];
        let mut one = Service::start_on(server, &quick).await;
        let mut two = one.start_second_node(&quick).await;
        let prefix = one.database().url().unwrap().rsplit('/').next().unwrap().to_owned();
        let mut redis =
            redis::Client::open(redis_url()).unwrap().get_multiplexed_async_connection().await.unwrap();
        // One node with extra fields, and one with missing fields.
        for (id, says) in [
            (
                "later",
                r#"{"id":"later","address":"127.0.0.1:1","version":"0.2.0","stores":["x"],"started_at":1,"load":{"requests":1,"watts":3},"zone":"b"}"#,
            ),
            ("early", r#"{"id":"early","address":"127.0.0.1:1","version":"0.0.9","started_at":1}"#),
            ("strange", "no JSON at all"),
        ] {
            let record = format!("1 99999999999999 {says}");
            let mut set = cmd("HSET");
            set.arg(format!("{{{prefix}}}:nodes")).arg(id).arg(record);
            set.exec_async(&mut redis).await.unwrap();
        }
        let (code, listed) = one.cli(&["nodes"]).await;
        assert_eq!((code, listed.lines().count()), (0, 5), "{listed}");
        // Columns and tables are added while nodes run, between any two of their statements.
        let bytes = content(1, 100_000);
        let link = one.upload_link("before.bin").await;
        assert_eq!(one.put_part(&link, 1, &bytes).await.status(), 200);
        for table in ["files", "blobs", "parts", "tasks", "task_attempts", "link_keys"] {
            one.sql(&format!("ALTER TABLE {table} ADD COLUMN of_later varchar(20) NOT NULL DEFAULT 'x'"))
                .await;
        }
        one.sql("CREATE TABLE of_later (id bigint PRIMARY KEY)").await;
        // A task of an unknown kind.
        let columns = "id, kind, payload, state, attempts, max_attempts, run_at, created_at";
        one.sql(&format!(
            "INSERT INTO tasks ({columns}) VALUES (7, 'of_later', '{{}}', 'queued', 0, 5, 0, 0)"
        ))
        .await;
        for _ in 0..3 {
            let mut publish = cmd("PUBLISH");
            publish.arg(format!("{{{prefix}}}:events"));
            publish.arg(r#"{"from":"later","message":{"kind":"of_later","much":[1,2]}}"#);
            publish.exec_async(&mut redis).await.unwrap();
        }
        // All functions of a node go on working.
        assert_eq!(two.merge(&link, 1, &bytes).await.status(), 200);
        for node in [&one, &two] {
            assert!(node.read(&link.uid).await == bytes);
            let uid = node.store_in_parts("x.bin", &content(2, 50_000), 20_000).await;
            node.wait_until_merged(&uid).await;
            let uid = node.store("x.bin", &content(3, 10_000)).await;
            assert!(two.read(&uid).await == content(3, 10_000));
        }
        let md5 = crate::support::md5_hex(&content(3, 10_000));
        assert!(!one.instant_upload(&[(&md5, "y.bin")]).await[0].uid.is_empty());
        assert_eq!(one.sql("SELECT state FROM tasks WHERE id = 7").await, ["queued"]);
        assert_eq!(one.sql("SELECT count(*) FROM task_attempts WHERE task_id = 7").await, ["0"]);
        one.sql("DELETE FROM tasks WHERE id = 7").await;
        eventually("all tasks are done", async || {
            let open = one.sql("SELECT id FROM tasks WHERE state <> 'done' AND unique_key IS NULL").await;
            open.is_empty().then_some(())
        })
        .await;
        for node in [&one, &two] {
            assert!(!node.log().contains("ERROR"), "{}", node.log());
        }
        one.assert_consistent().await;
        two.assert_consistent().await;
        // A process of this version that starts now must refuse: it does not know these tables.
        one.sql("INSERT INTO seaql_migrations (version, applied_at) VALUES ('m9999_of_later', 1)").await;
        let (code, said) = two.cli(&["tasks", "ls"]).await;
        assert!(
            code != 0 && said.contains("newer version of osproxy (unknown migration m9999_of_later"),
            "{said}"
        );
    }
}
