//! Runs the contract tests on each kind of database.

use std::time::Duration;

use osproxy_types::secret::Secret;
use sea_orm::ConnectionTrait;

use super::*;
use crate::db::server_pool::ServerPool;

const CACHE: CacheLimits = CacheLimits { max_entries: 100, max_age: Duration::from_secs(10) };

fn node_stores() -> NodeStores {
    let part_sizes = Some(PartSizeLimits { min: 10, max: 1000, preallocated: false });
    let stores = vec![
        LocalStore { name: "local".to_owned(), part_sizes: None, has_shards: false },
        LocalStore { name: "s3".to_owned(), part_sizes, has_shards: false },
    ];
    NodeStores::new("this".to_owned(), stores)
}

fn options(node_stores: NodeStores) -> DatabaseOptions {
    DatabaseOptions { node_stores, cache: CACHE, max_task_attempts: 1, records_events: true }
}

#[tokio::test]
async fn sqlite_keeps_the_contract() {
    let folder = tempfile::tempdir().unwrap();
    let location = DatabaseLocation::File(folder.path().join("test.db"));
    check_contract(&location).await;
}

#[tokio::test]
#[ignore = "needs servers: just test-servers"]
async fn postgres_keeps_the_contract() {
    check_contract_on_server("OSPROXY_TEST_POSTGRES").await;
}

#[tokio::test]
#[ignore = "needs servers: just test-servers"]
async fn mysql_keeps_the_contract() {
    check_contract_on_server("OSPROXY_TEST_MYSQL").await;
}

/// Runs the contract tests in a new database, on the server whose URL is in the environment
/// variable `variable`.
async fn check_contract_on_server(variable: &str) {
    #[expect(clippy::disallowed_methods, reason = "the test script sets the addresses of its servers")]
    let url = std::env::var(variable).expect("run this with `just test-servers`");
    let (server, _) = url.rsplit_once('/').unwrap();
    let name = format!("contract_{}", std::process::id());
    let mut options = sea_orm::ConnectOptions::new(&url);
    options.idle_timeout(None).max_lifetime(None);
    let admin = sea_orm::Database::connect(options).await.unwrap();
    admin.execute_unprepared(&format!("CREATE DATABASE {name}")).await.unwrap();
    let url = Secret::new(format!("{server}/{name}"));
    let location = DatabaseLocation::Server(DatabaseServer {
        kind: ServerKind::of_url(&url).unwrap(),
        target: DatabaseTarget::Url(url),
        max_idle_connections: 10,
        max_connections: 16,
        timeout: Duration::from_secs(10),
    });
    check_contract(&location).await;
    concurrent_nodes_create_one_link_key(&location).await;
    concurrent_writes_of_a_part_use_distinct_keys(&location).await;
    idle_connections_are_closed(&location).await;
    admin.execute_unprepared(&format!("DROP DATABASE {name}")).await.unwrap();
}

async fn concurrent_nodes_create_one_link_key(location: &DatabaseLocation) {
    let mut nodes = Vec::new();
    for _ in 0..4 {
        nodes.push(Meta::open(location, options(node_stores())).await.unwrap());
    }
    for round in 0..10 {
        nodes[0].db.reader.execute_unprepared("DELETE FROM link_keys").await.unwrap();
        let fresh = |node| LinkKeyRecord { id: format!("{round}-{node}"), secret: vec![node; 16] };
        let results = nodes.iter().zip(0..).map(|(meta, node)| meta.access.link_keys_or_create(fresh(node)));
        let keys = futures_util::future::join_all(results).await;
        let keys: Vec<_> = keys.into_iter().map(Result::unwrap).collect();
        assert_eq!(keys, vec![keys[0].clone(); 4]);
        assert_eq!(keys[0].len(), 1);
    }
}

async fn concurrent_writes_of_a_part_use_distinct_keys(location: &DatabaseLocation) {
    let meta = Meta::open(location, options(node_stores())).await.unwrap();
    for round in 1..=10 {
        let uid = Uid::from_db(round * 1_000_000);
        meta.files.create(vec![contract::upload(uid.get(), "x.bin")], i64::MAX).await.unwrap();
        let begin = |number: u32, attempt: i64| {
            let (meta, attempt) = (&meta, Uid::from_db(uid.get() + attempt));
            async move {
                loop {
                    match meta.uploads.begin_part(uid, number, attempt, None, None).await.unwrap() {
                        BeginPartOutcome::Ready(intent) => return intent.key,
                        BeginPartOutcome::Conflict => {}
                        other => panic!("{other:?}"),
                    }
                }
            }
        };
        begin(1, 100).await;
        let keys_of_part = futures_util::future::join_all((1..=8).map(|attempt| begin(2, attempt))).await;
        let keys: std::collections::HashSet<_> =
            keys_of_part.iter().map(osproxy_storage::Key::as_str).collect();
        assert_eq!(keys.len(), 8, "{keys_of_part:?}");
    }
}

async fn idle_connections_are_closed(location: &DatabaseLocation) {
    let DatabaseLocation::Server(server) = location else { unreachable!() };
    let mut server = server.clone();
    server.max_idle_connections = 2;
    let options = db::connect::server_options(&server).unwrap();
    let pool = &options.options;
    assert_eq!((pool.get_idle_timeout(), pool.get_max_lifetime()), (Some(None), Some(None)));
    let server = ServerPool::connect(options, Duration::from_secs(5), 2).await.unwrap();
    let query = || server.read(|pool| async move { pool.execute_unprepared("SELECT 1").await });
    futures_util::future::join_all((0..12).map(|_| query())).await.into_iter().for_each(|results| {
        results.unwrap();
    });
    assert!(server.pool_usage().connections > 2);
    // A connection becomes idle only a moment after its answer is read.
    let start = std::time::Instant::now();
    while server.pool_usage().connections > 2 {
        assert!(start.elapsed() < Duration::from_secs(10), "{} are open", server.pool_usage().connections);
        server.close_idle(2).await;
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    query().await.unwrap();
}

async fn check_contract(location: &DatabaseLocation) {
    let meta = Meta::open(location, options(node_stores())).await.unwrap();
    contract::run(&meta).await;
    // Opening the database again must neither migrate it nor lose rows.
    let reopened = Meta::open(location, options(node_stores())).await.unwrap();
    assert_eq!(reopened.highest_id().await.unwrap(), meta.highest_id().await.unwrap());
    let mut s3_first = node_stores();
    s3_first.stores.reverse();
    let s3_first = Meta::open(location, options(s3_first)).await.unwrap();
    contract::multipart::run(&s3_first).await;
    contract::concatenation::run(&s3_first, 95_000_000).await;
    let mut processed = node_stores();
    processed.stores.reverse();
    processed.processing.blocking = vec!["scan".to_owned()];
    let processed = Meta::open(location, options(processed)).await.unwrap();
    contract::waiting_objects::run(&processed).await;
    let part_sizes = Some(PartSizeLimits { min: 0, max: u64::MAX, preallocated: true });
    let disk = LocalStore { name: "local".to_owned(), part_sizes, has_shards: false };
    let mut with_disk = NodeStores::new("this".to_owned(), vec![disk]);
    with_disk.max_slot_start = contract::growing_files::MAX_SLOT_START;
    let with_disk = Meta::open(location, options(with_disk)).await.unwrap();
    contract::growing_files::run(&with_disk).await;
    contract::concatenation::run(&with_disk, 95_010_000).await;
}
