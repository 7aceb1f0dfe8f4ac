//! All routes, and the middleware that every request passes through.

use std::sync::Arc;

use axum::{
    Router,
    extract::{Request, State},
    http::{HeaderName, StatusCode},
    middleware::{Next, from_fn, from_fn_with_state, map_request},
    response::{IntoResponse, Response},
    routing::{get, head, patch, post, put},
};
use osproxy_api::{ERROR_HEADER, ErrorCode, tus::PREFIX, v1::LINKS};
use osproxy_cluster::Forwarder;
use osproxy_core::App;
use tower::ServiceExt;

use crate::{
    console::{health, metrics, start_page, swagger},
    extract::{auth, body::with_readable_errors},
    middleware::{self, BodyCheck, Concurrency, Edge, RequestChecks, RequestLimiter, cors::Cors},
    openapi,
    respond::error,
    resumable,
    settings::{HttpSettings, RenderS3Error},
    state::HttpState,
    tus, v0, v1,
};

/// Builds the router of the admin listener: health and metrics, without authentication.
pub fn admin_router(app: Arc<App>, settings: &HttpSettings) -> Router {
    let routes = Router::new()
        .route("/health/live", get(health::live))
        .route("/health/ready", get(health::ready))
        .route("/metrics", get(metrics::metrics))
        .fallback(error::unknown_route)
        .method_not_allowed_fallback(error::method_not_allowed);
    with_middleware(routes, HttpState::new(app, settings), None)
}

/// Wraps routes in the middleware that every request passes through.
fn with_middleware(routes: Router<HttpState>, state: HttpState, cors: Option<Cors>) -> Router {
    let edge = Edge { state: state.clone(), cors: cors.map(Arc::new), render_s3_error: None };
    routes.layer(from_fn_with_state(edge, middleware::request_context)).with_state(state)
}

/// The gRPC routes, grouped by the request limits that apply to them. All calls except those in
/// `open` are authenticated: their requests have a [`Caller`](osproxy_core::Caller) extension.
#[derive(Default)]
pub struct GrpcRoutes {
    /// Calls that change nothing.
    pub reads: Router,
    /// Calls that may change something.
    pub changes: Router,
    /// Calls that upload or download content.
    pub transfers: Router,
    /// Calls without authentication.
    pub open: Router,
}

impl GrpcRoutes {
    /// Merges the routes into one router, and applies the limits of `limiter`. Authenticates all
    /// calls except those in `open`.
    fn with_limits(self, app: &Arc<App>, limiter: &Arc<RequestLimiter>) -> Router<HttpState> {
        let checks =
            |concurrency| RequestChecks { limiter: limiter.clone(), body: BodyCheck::None, concurrency };
        // Authenticate only after the limits are checked.
        let authenticated = |router: Router, concurrency| {
            router.layer(from_fn_with_state(app.auth.clone(), auth::insert_caller)).layer(checks(concurrency))
        };
        let reads = authenticated(self.reads, Concurrency::Reads);
        let changes = authenticated(self.changes, Concurrency::Changes);
        let transfers = authenticated(self.transfers, Concurrency::Transfers);
        let open =
            self.open.layer(from_fn(middleware::throttle_probes)).layer(checks(Concurrency::Unlimited));
        transfers.merge(reads).merge(changes).merge(open).with_state(())
    }
}

/// Builds the router of the gRPC listener.
pub fn grpc_router(
    app: Arc<App>,
    settings: &HttpSettings,
    limiter: &Arc<RequestLimiter>,
    grpc_routes: GrpcRoutes,
) -> Router {
    let routes = grpc_routes.with_limits(&app, limiter);
    with_middleware(routes.fallback(error::unknown_route), HttpState::new(app, settings), None)
}

/// Builds the router of the S3 listener. The routes authenticate their requests themselves, after
/// the limits are checked.
pub fn s3_router(
    app: Arc<App>,
    settings: &HttpSettings,
    limiter: &Arc<RequestLimiter>,
    routes: Router,
    render_error: RenderS3Error,
) -> Router {
    let checks = RequestChecks {
        limiter: limiter.clone(),
        body: BodyCheck::None,
        concurrency: Concurrency::TransfersByMethod,
    };
    let state = HttpState::new(app, settings);
    let edge = Edge { state: state.clone(), cors: None, render_s3_error: Some(render_error) };
    let routes = routes.layer(map_request(with_readable_errors)).layer(checks);
    routes.layer(from_fn_with_state(edge, middleware::request_context))
}

/// Builds the router of the main listener.
pub fn router(
    app: Arc<App>,
    settings: &HttpSettings,
    limiter: &Arc<RequestLimiter>,
    grpc_routes: GrpcRoutes,
    s3: Option<ForwardedS3>,
) -> Router {
    let forwarder = app.forwarder.clone();
    let checks = |body, concurrency| RequestChecks { limiter: limiter.clone(), body, concurrency };
    let routes = Router::new()
        .nest(osproxy_api::v0::PREFIX, v0_routes(limiter))
        .nest(osproxy_api::v1::PREFIX, v1_routes(limiter))
        .merge(tus_routes(limiter))
        .route(
            &format!("{LINKS}/{{uid}}/{{filename}}"),
            get(v1::downloads::download_file).layer(checks(BodyCheck::Plain, Concurrency::ByMethod)),
        )
        .route(
            "/metrics",
            get(metrics::authenticated_metrics)
                .layer(from_fn_with_state(limiter.clone(), middleware::limit_metrics))
                .layer(checks(BodyCheck::None, Concurrency::Unlimited)),
        )
        .merge(grpc_routes.with_limits(&app, limiter))
        .merge(probe_routes())
        .route("/openapi.json", get(openapi::serve))
        .route("/swagger", get(swagger::redirect))
        .route("/swagger/", get(swagger::index))
        .route("/swagger/{file}", get(swagger::file))
        .fallback(error::unknown_route)
        .method_not_allowed_fallback(error::method_not_allowed);
    let complete = with_middleware(routes, HttpState::new(app, settings), Cors::new(&settings.cors));
    match s3 {
        Some(s3) => complete.layer(from_fn_with_state((forwarder, s3), take_forwarded_s3)),
        None => complete,
    }
}

/// The S3 API, for requests that other nodes forward to the main listener of this node.
#[derive(Clone, Debug)]
pub struct ForwardedS3 {
    /// Header that these requests have.
    pub header: HeaderName,
    /// The router of the S3 listener.
    pub router: Router,
}

/// Passes requests of the S3 API that another node has forwarded to the S3 API.
async fn take_forwarded_s3(
    State((forwarder, s3)): State<(Forwarder, ForwardedS3)>,
    request: Request,
    next: Next,
) -> Response {
    if !request.headers().contains_key(&s3.header) {
        return next.run(request).await;
    }
    match forwarder.is_forwarded(request.method(), request.uri(), request.headers()) {
        Ok(true) => s3.router.oneshot(request).await.into_response(),
        Ok(false) => next.run(request).await,
        Err(error) => {
            tracing::warn!(%error, "rejected a forwarded request");
            (StatusCode::FORBIDDEN, [(ERROR_HEADER, ErrorCode::PermissionDenied.as_str())]).into_response()
        }
    }
}

/// The routes of API v0. The concurrency limit does not apply to uploads of content: their
/// operations limit the number of transfers.
fn v0_routes(limiter: &Arc<RequestLimiter>) -> Router<HttpState> {
    let checks =
        |concurrency| RequestChecks { limiter: limiter.clone(), body: BodyCheck::Plain, concurrency };
    let counted = Router::new()
        .route("/ping", get(v0::health::ping).layer(from_fn(middleware::throttle_probes)))
        .route("/link/upload", post(v0::uploads::create_upload))
        .route("/link/download", post(v0::downloads::create_download_link))
        .route("/resume", post(v0::uploads::instant_upload))
        .route("/upload/merge", put(v0::uploads::complete_upload))
        .route("/proxy", get(v0::downloads::locate_content))
        .route("/checkpoint", get(v0::uploads::upload_status))
        .route("/download", get(v0::downloads::download_file))
        .route_layer(checks(Concurrency::ByMethod));
    let uncounted = Router::new()
        .route("/health", get(v0::health::health).layer(from_fn(middleware::throttle_probes)))
        .route("/upload", put(v0::content::upload_file))
        .route("/upload/multi", put(v0::content::upload_part))
        .route_layer(checks(Concurrency::Unlimited));
    counted.merge(uncounted)
}

/// The routes of API v1. The concurrency limit does not apply to uploads of content: their
/// operations limit the number of transfers.
fn v1_routes(limiter: &Arc<RequestLimiter>) -> Router<HttpState> {
    let checks = |concurrency| RequestChecks {
        limiter: limiter.clone(),
        body: BodyCheck::PlainAndExpected,
        concurrency,
    };
    let counted = Router::new()
        // Applications call these with an API key.
        .route("/files", get(v1::files::list_files))
        .route(
            "/files/{uid}",
            get(v1::files::describe_file).patch(v1::files::update_file).delete(v1::files::delete_file),
        )
        .route("/files/{uid}/copy", post(v1::files::copy_file))
        .route("/files/{uid}/links", post(v1::links::create_link).delete(v1::links::revoke_links))
        .route("/links", post(v1::links::create_links))
        .route("/buckets", get(v1::buckets::list_buckets))
        .route(
            "/buckets/{bucket}",
            get(v1::buckets::describe_bucket).put(v1::buckets::put_bucket).delete(v1::buckets::delete_bucket),
        )
        .route("/buckets/{bucket}/objects/{*key}", put(v1::buckets::attach_object))
        .route("/tasks", get(v1::tasks::list_tasks))
        .route("/tasks/{id}", get(v1::tasks::describe_task))
        .route("/tasks/{id}/retry", post(v1::tasks::retry_task))
        .route("/events", get(v1::events::list_events))
        .route("/nodes", get(v1::service::list_nodes))
        .route("/stats", get(v1::service::describe_service))
        .route("/uploads", post(v1::uploads::create_upload))
        .route("/uploads/{uid}/links", post(v1::uploads::create_upload_links))
        .route(
            "/upload-grants",
            post(v1::upload_grants::create_upload_grant).get(v1::upload_grants::list_upload_grants),
        )
        .route(
            "/upload-grants/{id}",
            get(v1::upload_grants::describe_upload_grant).delete(v1::upload_grants::revoke_upload_grant),
        )
        .route("/webhooks", post(v1::webhooks::create_webhook).get(v1::webhooks::list_webhooks))
        .route(
            "/webhooks/{id}",
            get(v1::webhooks::describe_webhook)
                .patch(v1::webhooks::update_webhook)
                .delete(v1::webhooks::delete_webhook),
        )
        .route("/webhooks/{id}/rotate-secret", post(v1::webhooks::rotate_webhook_secret))
        .route("/webhooks/{id}/test", post(v1::webhooks::test_webhook))
        .route("/webhooks/{id}/deliveries", get(v1::webhooks::list_webhook_deliveries))
        .route("/webhooks/{id}/replay", post(v1::webhooks::replay_webhook))
        // Clients of the applications call these with a signed link.
        .route("/uploads/{uid}", get(v1::uploads::upload_status).delete(v1::uploads::abort_upload))
        .route("/uploads/{uid}/proof", post(v1::uploads::prove_possession))
        .route("/uploads/{uid}/complete", post(v1::uploads::complete_upload))
        .route_layer(checks(Concurrency::ByMethod));
    let transfers = Router::new()
        .route("/files", post(v1::store_file::store_file))
        .route_layer(checks(Concurrency::Transfers));
    let uncounted = Router::new()
        .route("/uploads/{uid}/content", put(v1::content::upload_file).options(resumable::describe_content))
        .route("/uploads/{uid}/parts/{number}", put(v1::content::upload_part))
        .route_layer(checks(Concurrency::Unlimited));
    counted.merge(transfers).merge(uncounted)
}

/// Resumable uploads by tus.
fn tus_routes(limiter: &Arc<RequestLimiter>) -> Router<HttpState> {
    let checks = |concurrency| RequestChecks {
        limiter: limiter.clone(),
        body: BodyCheck::PlainAndExpected,
        concurrency,
    };
    let path = format!("{PREFIX}/{{uid}}");
    let creation = post(tus::create_upload).options(tus::describe_protocol);
    let creations = Router::new()
        .route(PREFIX, creation.clone())
        .route(&format!("{PREFIX}/"), creation)
        .route_layer(checks(Concurrency::Transfers));
    let counted = Router::new()
        .route(&path, head(tus::upload_offset).delete(tus::abort_upload).options(tus::describe_protocol))
        .route_layer(checks(Concurrency::ByMethod));
    let uncounted = Router::new()
        .route(&path, patch(tus::append_upload).post(tus::override_method))
        .route_layer(checks(Concurrency::Unlimited));
    creations.merge(counted).merge(uncounted)
}

/// Health probes and the start page. Load balancers may use the start page as a probe.
fn probe_routes() -> Router<HttpState> {
    Router::new()
        .route("/health/live", get(health::live))
        .route("/health/ready", get(health::ready))
        .route("/", get(start_page::start_page))
        .route_layer(from_fn(middleware::throttle_probes))
}
