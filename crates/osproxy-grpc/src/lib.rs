//! gRPC adapters of the operations: each method parses the request, calls an operation and renders
//! the result. There is one file per service.
//!
//! The methods are routes of the HTTP router, so the listener, TLS, limits, authentication and
//! access log of HTTP apply to them too.

mod cluster_service;
mod content;
mod deadline;
mod event_service;
mod file_service;
mod forward;
mod health;
mod parse;
mod render;
mod status;
mod task_service;

use std::{convert::Infallible, sync::Arc};

use axum::{Router, extract::Request, middleware::from_fn, response::IntoResponse};
use osproxy_api::grpc::{
    DESCRIPTORS, Method, methods,
    v1::{
        cluster_service_server::ClusterServiceServer, event_service_server::EventServiceServer,
        file_service_server::FileServiceServer, task_service_server::TaskServiceServer,
    },
};
use osproxy_core::{App, Caller, Error};
use osproxy_types::scope::Scope;
use tonic::{Request as Asked, Status, server::NamedService, service::Routes};
use tower::Service;

pub use status::render_error;

/// Result of every method.
type RpcResult<T> = Result<tonic::Response<T>, Status>;

/// Maximum message size in bytes: 1 MiB of content with its framing, or a thousand items with long
/// names. Each message is buffered as a whole.
const MAX_MESSAGE: usize = (1 << 20) + (64 << 10);

/// Maximum message size of methods that need no API key, in bytes: their requests contain only
/// names.
const MAX_OPEN_MESSAGE: usize = 4 << 10;

/// Routers of the services, grouped by the middleware they need. All except `anonymous` must be
/// behind authentication, which puts the [`Caller`] into the extensions of each request.
#[derive(Default)]
pub struct Services {
    /// Methods without side effects.
    pub reads: Router,
    /// Methods that may change something.
    pub changes: Router,
    /// Methods that stream content.
    pub transfers: Router,
    /// Methods without authentication: health and reflection.
    pub anonymous: Router,
}

/// Creates the routers of all services.
pub fn services(app: &Arc<App>) -> Result<Services, tonic_reflection::server::Error> {
    let mut services = Services::default();
    services.add(
        &FileServiceServer::new(file_service::Service(app.clone())).max_decoding_message_size(MAX_MESSAGE),
    );
    services.add(
        &TaskServiceServer::new(task_service::Service(app.clone())).max_decoding_message_size(MAX_MESSAGE),
    );
    services.add(
        &ClusterServiceServer::new(cluster_service::Service(app.clone()))
            .max_decoding_message_size(MAX_MESSAGE),
    );
    services.add(
        &EventServiceServer::new(event_service::Service(app.clone())).max_decoding_message_size(MAX_MESSAGE),
    );
    let open = Routes::new(health::service(app.clone()).max_decoding_message_size(MAX_OPEN_MESSAGE))
        .add_service(reflection().build_v1()?.max_decoding_message_size(MAX_OPEN_MESSAGE))
        .add_service(reflection().build_v1alpha()?.max_decoding_message_size(MAX_OPEN_MESSAGE));
    services.anonymous = open.into_axum_router().reset_fallback();
    let with_middleware = |router: Router| {
        router
            .layer(from_fn(status::carry_error))
            .layer(from_fn(content::report_body_errors))
            .layer(from_fn(deadline::enforce))
    };
    Ok(Services {
        reads: with_middleware(services.reads),
        changes: with_middleware(services.changes),
        transfers: with_middleware(services.transfers),
        anonymous: with_middleware(services.anonymous),
    })
}

fn reflection<'a>() -> tonic_reflection::server::Builder<'a> {
    tonic_reflection::server::Builder::configure()
        .register_encoded_file_descriptor_set(DESCRIPTORS)
        .register_encoded_file_descriptor_set(tonic_health::pb::FILE_DESCRIPTOR_SET)
}

impl Services {
    /// Adds one route for each method of a service, so that metrics count each method separately.
    fn add<S>(&mut self, service: &S)
    where
        S: Service<Request, Error = Infallible> + NamedService + Clone + Send + Sync + 'static,
        S::Response: IntoResponse,
        S::Future: Send + 'static,
    {
        for Method { path, streams, reads, .. } in methods(S::NAME) {
            let router = match (streams, reads) {
                (true, _) => &mut self.transfers,
                (false, true) => &mut self.reads,
                (false, false) => &mut self.changes,
            };
            *router = std::mem::take(router).route_service(&path, service.clone());
        }
    }
}

/// Returns the caller of a request. Fails unless the caller has `scope`.
fn caller<T>(request: &Asked<T>, scope: Scope) -> Result<Caller, Error> {
    let caller = request.extensions().get::<Caller>().cloned();
    let caller = caller.ok_or_else(|| Error::internal("the request has no authenticated caller"))?;
    caller.require_scope(scope)?;
    Ok(caller)
}
