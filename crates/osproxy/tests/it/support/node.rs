use std::{ops::Deref, path::Path, sync::Arc, time::Duration};

use osproxy::{
    config::{AuthMode, Config, Secret},
    wiring::{
        self,
        http::{http_settings, listener_settings},
    },
};
use osproxy_core::{
    App, ops,
    tasks::{self, Engine},
};
use osproxy_http::{self as http, GrpcRoutes, RequestLimiter};
use tempfile::TempDir;
use tokio::{net::TcpListener, task::JoinHandle};
use tokio_util::sync::CancellationToken;

use super::{Api, Database, PATIENCE, Service, eventually, spawn_failing};

/// A node within the test process: app, task engine and listener, composed as in the binary. Tests
/// can also call operations without a request.
pub struct TestNode {
    /// `None` while the node is stopped, so that it holds no locks.
    running: Option<Running>,
    api: Api,
    database: Database,
    folder: TempDir,
    max_inline_verification_size: u64,
}

struct Running {
    app: Arc<App>,
    stop: CancellationToken,
    abort: CancellationToken,
    server: JoinHandle<()>,
    engine: JoinHandle<()>,
}

/// Short intervals, so that tests do not wait.
const PAUSES: tasks::EngineSettings = tasks::EngineSettings {
    lease: Duration::from_secs(30),
    poll_interval: Duration::from_millis(50),
    initial_backoff: Duration::from_millis(20),
    max_backoff: Duration::from_millis(100),
};

impl Running {
    async fn open(folder: &Path, database: &Database, max_inline_verification_size: u64) -> (Self, Api) {
        let mut config = Config { data_dir: folder.join("osproxy-data"), ..Config::default() };
        // Do not require an API key: only the binary creates a bootstrap key.
        config.auth.mode = AuthMode::Open;
        config.uploads.max_inline_verification_size = max_inline_verification_size;
        for (name, value) in database.settings() {
            match name.as_str() {
                "DATABASE__URL" => config.database.url = Some(Secret::new(value)),
                "REDIS__URL" => config.redis.url = Some(Secret::new(value)),
                "REDIS__PREFIX" => config.redis.prefix = value,
                "DATABASE__MAX_IDLE_CONNS" => config.database.max_idle_conns = 0,
                _ => {}
            }
        }
        // The previous run may hold its locks for a moment: a blocking call cannot be cancelled.
        let app = eventually("the locks are released", async || wiring::open_node(&config).await.ok()).await;
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let api = Api::new(listener.local_addr().unwrap());
        let (stop, abort) = (CancellationToken::new(), CancellationToken::new());
        let engine = Engine::new(app.clone(), tasks::handlers::all(), PAUSES);
        let engine = tokio::spawn(engine.run(stop.clone(), abort.clone()));
        let settings = http_settings(&config, None);
        let limiter = RequestLimiter::new(settings.limits);
        let router = http::router(app.clone(), &settings, &limiter, GrpcRoutes::default(), None);
        let settings = listener_settings(&config.server);
        let shutdown = stop.clone();
        let server = tokio::spawn(async move {
            http::listener::serve(listener, router, settings, None, shutdown, Duration::ZERO).await;
        });
        (Self { app, stop, abort, server, engine }, api)
    }

    /// Stops the node. If `abort` is set, running tasks are cancelled and handed back. Otherwise,
    /// waits until they end.
    async fn stop(self, abort: bool) {
        self.stop.cancel();
        if abort {
            self.abort.cancel();
        }
        self.server.await.unwrap();
        self.engine.await.unwrap();
        assert!(self.app.detached_work.wait_idle(PATIENCE).await, "background work has not ended");
        self.app.coordinator.leave().await;
    }
}

impl Deref for TestNode {
    type Target = Api;

    fn deref(&self) -> &Api {
        &self.api
    }
}

impl TestNode {
    /// Starts a node on which tasks, not requests, verify the expected digests that require reading
    /// the parts of an upload.
    pub async fn start() -> Self {
        Self::start_verifying(0).await
    }

    /// Starts a node that verifies the expected digests of content up to this size, in bytes,
    /// before it responds. Tasks verify larger content.
    pub async fn start_verifying(max_inline_verification_size: u64) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let database = Database::create(folder.path()).await;
        Self::open(folder, database, max_inline_verification_size).await
    }

    async fn open(folder: TempDir, database: Database, max_inline_verification_size: u64) -> Self {
        let (running, api) = Running::open(folder.path(), &database, max_inline_verification_size).await;
        Self { running: Some(running), api, database, folder, max_inline_verification_size }
    }

    /// Starts another node on the database of a service.
    pub async fn start_second_node(service: &Service) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let database = service.database().shared_with_folder(folder.path());
        Self::open(folder, database, 0).await
    }

    /// Restarts the node on the same folder. If `abort` is set, running tasks are cancelled and
    /// handed back. Otherwise, waits until they end.
    pub async fn restart(&mut self, abort: bool) {
        self.stop(abort).await;
        let (running, api) =
            Running::open(self.folder.path(), &self.database, self.max_inline_verification_size).await;
        (self.running, self.api) = (Some(running), api);
    }

    async fn stop(&mut self, abort: bool) {
        self.running.take().unwrap().stop(abort).await;
    }

    /// Stops the node, and asserts that metadata and objects agree.
    pub async fn assert_consistent(mut self) {
        self.stop(false).await;
        // The node may hold its locks for a moment: a blocking call cannot be cancelled.
        let settings = self.database.settings();
        let checked = async || {
            let checked = spawn_failing(self.folder.path(), &settings, &["fsck", "--deep"]).await;
            (!checked.2.contains("another osproxy process")).then_some(checked)
        };
        let (status, said, error) = eventually("the locks are released", checked).await;
        assert!(status.success(), "{said}{error}");
        assert!(said.ends_with(": 0 differences, 0 repaired\n"), "{said}");
    }

    /// Deletes a file. Does nothing if the file was deleted before.
    pub async fn delete(&self, uid: &str) {
        let app = &self.running.as_ref().unwrap().app;
        let deleted = ops::delete_file::delete_file(
            &app.files,
            &osproxy_types::tenant::Tenant::default(),
            uid.parse().unwrap(),
        )
        .await;
        let gone = |error: &osproxy_core::Error| error.code == osproxy_api::ErrorCode::FileGone;
        assert!(deleted.as_ref().map_or_else(gone, |()| true), "{deleted:?}");
    }

    pub fn database(&self) -> &Database {
        &self.database
    }
}
