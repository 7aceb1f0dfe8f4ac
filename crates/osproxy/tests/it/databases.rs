//! Database servers: connecting, preparing tables, and errors.

use reqwest::Method;
use sea_orm::{ConnectionTrait, TransactionTrait};
use serde_json::json;

use crate::support::{
    Database, Service, connect, eventually, expect_problem, expect_v0_error, md5_hex, redis_url,
    spawn_failing,
};

const SERVERS: [&str; 2] = ["OSPROXY_TEST_POSTGRES", "OSPROXY_TEST_MYSQL"];

/// Creates an empty database; returns it with its settings.
async fn empty(server: &str) -> (tempfile::TempDir, Database) {
    let folder = tempfile::tempdir().unwrap();
    let database = Database::create_empty_on(server, folder.path()).await;
    (folder, database)
}

fn settings(url: &str) -> Vec<(String, String)> {
    vec![("DATABASE__URL".to_owned(), url.to_owned()), ("DATABASE__TIMEOUT".to_owned(), "4".to_owned())]
}

#[tokio::test]
#[ignore = "needs servers: just test-servers"]
async fn what_cannot_be_opened_is_named_and_no_password_shown() {
    for server in SERVERS {
        let (folder, database) = empty(server).await;
        let url = database.url().unwrap();
        let name = url.rsplit('/').next().unwrap();
        let server = database.server();
        let (host, _) = server.split_once(':').unwrap();
        for (url, complaint) in [
            (url.replace(name, "nowhere"), format!("there is no database \"nowhere\" on {server}")),
            (
                url.replace(":secret@", ":wrong@"),
                format!("\"{name}\" on {server} rejects the user name or the password"),
            ),
            (url.replace(&server, &format!("{host}:1")), format!("\"{name}\" on {host}:1 cannot be reached")),
        ] {
            for verb in [&["serve", "--listen", "127.0.0.1:0"][..], &["migrate"], &["tasks", "ls"]] {
                let (status, _, said) = spawn_failing(folder.path(), &settings(&url), verb).await;
                assert_eq!(status.code(), Some(1), "{said}");
                assert!(said.contains(&complaint), "{verb:?} {said}");
                assert!(!said.contains("secret") && !said.contains("wrong"), "{said}");
            }
        }
    }
}

#[tokio::test]
#[ignore = "needs servers: just test-servers"]
async fn settings_in_the_shape_of_the_go_program_will_do() {
    for (server, driver) in SERVERS.into_iter().zip(["postgres", "mysql"]) {
        let (folder, database) = empty(server).await;
        let url = database.url().unwrap();
        let (host, port) =
            database.server().split_once(':').map(|(h, p)| (h.to_owned(), p.to_owned())).unwrap();
        std::fs::write(folder.path().join("password"), "secret\n").unwrap();
        let text = format!(
            "database:\n  - {{db_name: default, driver: {driver}, host: {host}, port: {port}, database: {}, \
             username: osproxy, password_file: password, charset: utf8mb4, max_idle_conns: 10, max_open_conns: 100, \
             log_mode: info}}\nredis: {{host: {host}, port: '{}', db: 0, prefix: {}}}\n",
            url.rsplit('/').next().unwrap(),
            redis_url().rsplit_once(':').unwrap().1.split('/').next().unwrap(),
            url.rsplit('/').next().unwrap(),
        );
        std::fs::write(folder.path().join("config.yaml"), text).unwrap();
        let migrate = ["migrate", "--config", "config.yaml"];
        let (status, said, complaint) = spawn_failing(folder.path(), &[], &migrate).await;
        assert!(status.success(), "{complaint}");
        assert_eq!(said, "the database is up to date\n");
        assert_eq!(database.sql("SELECT count(*) FROM files").await, ["0"]);
    }
}

#[tokio::test]
#[ignore = "needs servers: just test-servers"]
async fn nodes_that_start_at_once_make_the_tables_once() {
    for server in SERVERS {
        let mut first = Service::start_on(server, &[]).await;
        first.kill().await;
        // Drops all tables, as in a new database.
        let tables = [
            "task_attempts",
            "tasks",
            "tenants",
            "parts",
            "files",
            "blobs",
            "link_keys",
            "link_uses",
            "api_keys",
            "s3_keys",
            "buckets",
            "objects",
            "object_uploads",
            "idempotency_keys",
            "challenges",
            "upload_grants",
            "events",
            "event_positions",
            "webhook_deliveries",
            "webhooks",
            "seaql_migrations",
        ];
        for table in tables {
            first.sql(&format!("DROP TABLE {table}")).await;
        }
        let starting = (0..4).map(|_| first.start_second_node(&[]));
        let nodes = futures_util::future::join_all(starting).await;
        // One of the nodes created the key for all.
        let keys: Vec<_> = nodes
            .iter()
            .filter_map(|node| std::fs::read_to_string(node.folder().join("osproxy-data/bootstrap-key")).ok())
            .collect();
        assert_eq!(keys.len(), 1);
        assert_eq!(first.sql("SELECT count(*) FROM api_keys").await, ["1"]);
        let twice = "SELECT count(*) - count(DISTINCT version) FROM seaql_migrations";
        assert_eq!(first.sql(twice).await, ["0"]);
        assert_eq!(first.sql("SELECT count(*) FROM link_keys").await, ["1"]);
        // All nodes share one link key, whichever created it: a link of one is valid at the others.
        drop(nodes);
        first.sql("DELETE FROM link_keys").await;
        let starting = (0..6).map(|_| first.start_second_node(&[]));
        let nodes = futures_util::future::join_all(starting).await;
        assert_eq!(first.sql("SELECT count(*) FROM link_keys").await, ["1"]);
        for node in &nodes {
            let link = node.with_key(keys[0].trim_end()).upload_link("x.txt").await;
            for other in &nodes {
                let other_content = format!("{}&md5={}", link.url.single, md5_hex(b"y"));
                let said = expect_v0_error(other.put(&other_content, b"x").await, 422).await;
                assert!(said.contains("md5") && !said.contains("signature"), "{said}");
            }
            assert_eq!(nodes[0].put(&link.url.single, b"x").await.status(), 200);
        }
    }
}

#[tokio::test]
#[ignore = "needs servers: just test-servers"]
async fn a_migration_that_was_cut_off_is_run_again() {
    for server in SERVERS {
        let mut service = Service::start_on(server, &[]).await;
        let link = service.upload_link("x.txt").await;
        service.put(&link.url.single, b"kept").await;
        service.kill().await;
        // The tables exist but the migration is not recorded, as after a crash where DDL is not
        // transactional.
        let repeatable = if server.ends_with("MYSQL") { "m000%" } else { "m0003%" };
        service.sql(&format!("DELETE FROM seaql_migrations WHERE version LIKE '{repeatable}'")).await;
        let (code, said) = service.cli(&["migrate"]).await;
        assert_eq!((code, said.as_str()), (0, "the database is up to date\n"));
        service.restart().await;
        assert_eq!(service.read(&link.uid).await, b"kept");
    }
}

#[tokio::test]
#[ignore = "needs servers: just test-servers"]
async fn tables_of_a_newer_version_are_refused() {
    for server in SERVERS {
        let mut service = Service::start_on(server, &[]).await;
        service.kill().await;
        service.sql("INSERT INTO seaql_migrations (version, applied_at) VALUES ('m9999_later', 0)").await;
        for verb in [&["serve", "--listen", "127.0.0.1:0"][..], &["migrate"], &["tasks", "ls"]] {
            let (code, said) = service.cli(verb).await;
            assert_eq!(code, 1);
            assert!(said.contains("newer version of osproxy (unknown migration m9999_later"), "{said}");
        }
    }
}

#[tokio::test]
#[ignore = "needs servers: just test-servers"]
async fn without_redis_a_node_has_its_database_alone() {
    for server in SERVERS {
        let (folder, database) = empty(server).await;
        let url = database.url().unwrap();
        let alone = vec![("DATABASE__URL".to_owned(), url)];
        let mut service = Service::start_at(folder, database, alone.clone(), &[], &[]).await;
        let elsewhere = tempfile::tempdir().unwrap();
        let serve = ["serve", "--listen", "127.0.0.1:0"];
        let (status, _, said) = spawn_failing(elsewhere.path(), &alone, &serve).await;
        assert_eq!(status.code(), Some(1));
        assert!(said.contains("another node uses this database"), "{said}");
        // The lock of a dead process does not block the next one.
        let uid = service.store("x.txt", b"x").await;
        service.kill().await;
        service.restart().await;
        assert_eq!(service.read(&uid).await, b"x");
        service.assert_consistent().await;
    }
}

#[tokio::test]
#[ignore = "needs servers: just test-servers"]
async fn connections_are_encrypted_when_that_is_asked_for() {
    let authority = std::env::var("OSPROXY_TEST_CA").expect("run this by `just test-servers`");
    for (server, parameters) in
        SERVERS.into_iter().zip(["sslmode=verify-full&sslrootcert=", "ssl-mode=VERIFY_IDENTITY&ssl-ca="])
    {
        let (folder, database) = empty(server).await;
        let url = database.url().unwrap();
        let trusting = settings(&format!("{url}?{parameters}{authority}"));
        let (status, _, said) = spawn_failing(folder.path(), &trusting, &["migrate"]).await;
        assert!(status.success(), "{said}");
        // The server's certificate has no trusted issuer.
        let (usual, _) = parameters.rsplit_once('&').unwrap();
        let strict = settings(&format!("{url}?{usual}"));
        let (status, _, said) = spawn_failing(folder.path(), &strict, &["migrate"]).await;
        assert_eq!(status.code(), Some(1), "{said}");
        // The server enforces TLS for this user.
        if server.ends_with("MYSQL") {
            database
                .sql("CREATE USER IF NOT EXISTS careful@'127.0.0.1' IDENTIFIED BY 'secret' REQUIRE SSL")
                .await;
            database.sql("GRANT ALL ON *.* TO careful@'127.0.0.1'").await;
            let careful = url.replace("osproxy:secret", "careful:secret");
            for (mode, succeeds) in [("DISABLED", false), ("PREFERRED", true)] {
                let settings = settings(&format!("{careful}?ssl-mode={mode}"));
                let (status, _, said) = spawn_failing(folder.path(), &settings, &["migrate"]).await;
                assert_eq!(status.success(), succeeds, "{mode}: {said}");
            }
        }
    }
}

/// The connections of a service to its database, as the server lists them.
async fn connections(service: &Service) -> Vec<String> {
    let is_postgres = service.database().url().unwrap().starts_with("postgres");
    let all = if is_postgres {
        "SELECT pid::TEXT FROM pg_stat_activity WHERE datname = current_database() AND pid <> pg_backend_pid() \
         AND application_name = 'osproxy' ORDER BY pid"
    } else {
        "SELECT CAST(id AS CHAR) FROM information_schema.processlist WHERE db = DATABASE() \
         AND id <> CONNECTION_ID() AND user <> 'event_scheduler' ORDER BY id"
    };
    service.sql(all).await
}

#[tokio::test]
#[ignore = "needs servers: just test-servers"]
async fn a_slow_statement_costs_no_other_connection() {
    for server in SERVERS {
        let settings = [("DATABASE__TIMEOUT", "2"), ("DATABASE__MAX_OPEN_CONNS", "4")];
        let service = Service::start_on(server, &settings).await;
        let uid = service.store("x.txt", b"x").await;
        let file = format!("/files/{uid}");
        let rename = json!({"name": "y.txt"});
        // Opens all connections of the pool.
        eventually("all connections are open", async || {
            let asking = (0..16).map(|_| service.v1(Method::PATCH, &file, Some(&rename)));
            futures_util::future::join_all(asking).await;
            (connections(&service).await.len() == 4).then_some(())
        })
        .await;
        let before = connections(&service).await;
        // Another session locks the file's row.
        let holder = connect(service.database().url().unwrap()).await;
        let holding = holder.begin().await.unwrap();
        let hold = format!("SELECT name FROM files WHERE uid = {uid} FOR UPDATE");
        holding.execute_unprepared(&hold).await.unwrap();
        let slow = service.v1(Method::PATCH, &file, Some(&rename));
        let watching = async {
            loop {
                // On PostgreSQL the other session's connection has another name and is not counted.
                let now = connections(&service).await;
                let extra = usize::from(server.ends_with("MYSQL"));
                assert!(now.len() <= 4 + extra, "{now:?}");
                assert!(before.iter().all(|one| now.contains(one)), "{before:?} became {now:?}");
                assert_eq!(service.v1_get("/files").await.status(), 200);
                tokio::time::sleep(std::time::Duration::from_millis(20)).await;
            }
        };
        tokio::select! {
            answer = slow => { expect_problem(answer, 503, "unavailable").await; },
            () = watching => {},
        }
        holding.rollback().await.unwrap();
        holder.close().await.unwrap();
        assert_eq!(service.v1(Method::PATCH, &file, Some(&rename)).await.status(), 200);
        assert_eq!(connections(&service).await, before);
    }
}
