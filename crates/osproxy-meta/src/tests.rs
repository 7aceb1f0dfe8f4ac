//! Runs the contract on each database.

use osproxy_types::secret::Secret;

use super::*;

const MEMORY: CacheLimits = CacheLimits { max_entries: 100, max_age: Duration::from_secs(10) };

fn here() -> NodeStores {
    let part_sizes = Some(PartSizeLimits { min: 10, max: 1000, preallocated: false });
    let stores = vec![
        LocalStore { name: "local".to_owned(), part_sizes: None, has_shards: false },
        LocalStore { name: "s3".to_owned(), part_sizes, has_shards: false },
    ];
    NodeStores::new("this".to_owned(), stores)
}

fn options(node_stores: NodeStores) -> DatabaseOptions {
    DatabaseOptions { node_stores, cache: MEMORY, max_task_attempts: 1 }
}

#[tokio::test]
async fn sqlite_keeps_the_contract() {
    let folder = tempfile::tempdir().unwrap();
    let location = DatabaseLocation::File(folder.path().join("test.db"));
    keeps_the_contract(&location).await;
}

#[tokio::test]
#[ignore = "needs servers: just test-servers"]
async fn postgres_keeps_the_contract() {
    on_a_server("OSPROXY_TEST_POSTGRES").await;
}

#[tokio::test]
#[ignore = "needs servers: just test-servers"]
async fn mysql_keeps_the_contract() {
    on_a_server("OSPROXY_TEST_MYSQL").await;
}

/// Runs the contract in a new database, on the server that the environment variable names.
async fn on_a_server(variable: &str) {
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
    keeps_the_contract(&location).await;
    many_nodes_make_one_link_key(&location).await;
    attempts_at_once_have_keys_of_their_own(&location).await;
    connections_that_nobody_uses_are_closed(&location).await;
    admin.execute_unprepared(&format!("DROP DATABASE {name}")).await.unwrap();
}

async fn many_nodes_make_one_link_key(location: &DatabaseLocation) {
    let mut nodes = Vec::new();
    for _ in 0..4 {
        nodes.push(Meta::open(location, options(here())).await.unwrap());
    }
    for round in 0..10 {
        nodes[0].reader.execute_unprepared("DELETE FROM link_keys").await.unwrap();
        let fresh = |node| LinkKeyRecord { id: format!("{round}-{node}"), secret: vec![node; 16] };
        let asked = nodes.iter().zip(0..).map(|(meta, node)| meta.link_keys_or_create(fresh(node)));
        let keys = futures_util::future::join_all(asked).await;
        let keys: Vec<_> = keys.into_iter().map(Result::unwrap).collect();
        assert_eq!(keys, vec![keys[0].clone(); 4]);
        assert_eq!(keys[0].len(), 1);
    }
}

async fn attempts_at_once_have_keys_of_their_own(location: &DatabaseLocation) {
    let meta = Meta::open(location, options(here())).await.unwrap();
    for round in 1..=10 {
        let uid = Uid::from_db(round * 1_000_000);
        meta.create_files(vec![contract::upload(uid.get(), "x.bin")], i64::MAX).await.unwrap();
        let begin = |number: u32, attempt: i64| {
            let (meta, attempt) = (&meta, Uid::from_db(uid.get() + attempt));
            async move {
                loop {
                    match meta.begin_part(uid, number, attempt, None, None).await.unwrap() {
                        BeginPartOutcome::Ready(intent) => return intent.key,
                        BeginPartOutcome::Conflict => {}
                        other => panic!("{other:?}"),
                    }
                }
            }
        };
        begin(1, 100).await;
        let keys_taken = futures_util::future::join_all((1..=8).map(|attempt| begin(2, attempt))).await;
        let keys: std::collections::HashSet<_> =
            keys_taken.iter().map(osproxy_storage::Key::as_str).collect();
        assert_eq!(keys.len(), 8, "{keys_taken:?}");
    }
}

async fn connections_that_nobody_uses_are_closed(location: &DatabaseLocation) {
    let DatabaseLocation::Server(server) = location else { unreachable!() };
    let mut server = server.clone();
    server.max_idle_connections = 2;
    let options = db::connect::server_options(&server).unwrap();
    let pool = &options.options;
    assert_eq!((pool.get_idle_timeout(), pool.get_max_lifetime()), (Some(None), Some(None)));
    let server = ServerPool::connect(options, Duration::from_secs(5), 2).await.unwrap();
    let ask = || server.read(|pool| async move { pool.execute_unprepared("SELECT 1").await });
    futures_util::future::join_all((0..12).map(|_| ask())).await.into_iter().for_each(|asked| {
        asked.unwrap();
    });
    assert!(server.pool_usage().connections > 2);
    // A connection becomes idle only a moment after its answer is read.
    let start = std::time::Instant::now();
    while server.pool_usage().connections > 2 {
        assert!(start.elapsed() < Duration::from_secs(10), "{} are open", server.pool_usage().connections);
        server.close_idle(2).await;
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    ask().await.unwrap();
}

async fn keeps_the_contract(location: &DatabaseLocation) {
    let meta = Meta::open(location, options(here())).await.unwrap();
    contract::run(&meta).await;
    // Opening it again migrates nothing and finds everything.
    let again = Meta::open(location, options(here())).await.unwrap();
    assert_eq!(again.highest_id().await.unwrap(), meta.highest_id().await.unwrap());
    let mut elsewhere = here();
    elsewhere.stores.reverse();
    contract::multipart::run(&Meta::open(location, options(elsewhere)).await.unwrap()).await;
}
