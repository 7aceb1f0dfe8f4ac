//! gRPC over the operations: adapters that parse, call and render, one file a service.
//!
//! They are routes like others: the listener, its TLS and limits, who is let in and the lines of the log are those of HTTP.

mod cluster_service;
mod content;
mod deadline;
mod elsewhere;
mod file_service;
mod health;
mod parse;
mod render;
mod task_service;

use std::{convert::Infallible, sync::Arc};

use axum::{Router, extract::Request, middleware::from_fn, response::IntoResponse};
use osproxy_api::grpc::{
    DESCRIPTORS, Method, methods,
    v1::{
        cluster_service_server::ClusterServiceServer, file_service_server::FileServiceServer,
        task_service_server::TaskServiceServer,
    },
};
use tonic::{Request as Asked, Status, server::NamedService, service::Routes};
use tower::Service;

use crate::{
    Error,
    api_key::Scope,
    app::{App, Caller},
};

/// What every answer is.
type Answer<T> = Result<tonic::Response<T>, Status>;

/// Longest message that is taken, in bytes: a MiB of content and what stands around it, or a thousand items with long names. Each
/// is held whole while it comes.
const MAX_MESSAGE: usize = (1 << 20) + (64 << 10);

/// Longest message of those who need no key, in bytes: they ask for names.
const MAX_OPEN_MESSAGE: usize = 4 << 10;

/// The services, by what is asked of who serves them. All but the last are for callers who are known: each request has its
/// [`Caller`] among its extensions.
#[derive(Default)]
pub struct Services {
    /// Calls that change nothing.
    pub reads: Router,
    /// Calls that may change something.
    pub changes: Router,
    /// Calls that take or give content.
    pub transfers: Router,
    /// What anybody may ask: how the service is, which services there are, and what their messages look like.
    pub open: Router,
}

/// All services.
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
    let open = Routes::new(health::service(app.clone()).max_decoding_message_size(MAX_OPEN_MESSAGE))
        .add_service(reflection().build_v1()?.max_decoding_message_size(MAX_OPEN_MESSAGE))
        .add_service(reflection().build_v1alpha()?.max_decoding_message_size(MAX_OPEN_MESSAGE));
    services.open = open.into_axum_router().reset_fallback();
    let keep = |router: Router| router.layer(from_fn(content::tell_cut)).layer(from_fn(deadline::keep));
    Ok(Services {
        reads: keep(services.reads),
        changes: keep(services.changes),
        transfers: keep(services.transfers),
        open: keep(services.open),
    })
}

fn reflection<'a>() -> tonic_reflection::server::Builder<'a> {
    tonic_reflection::server::Builder::configure()
        .register_encoded_file_descriptor_set(DESCRIPTORS)
        .register_encoded_file_descriptor_set(tonic_health::pb::FILE_DESCRIPTOR_SET)
}

impl Services {
    /// Adds the methods of a service, each as a route of its own, so that each has its name in what is counted.
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

/// Who asks, if they may do that.
fn caller<T>(request: &Asked<T>, scope: Scope) -> Result<Caller, Error> {
    let caller = request.extensions().get::<Caller>().cloned();
    let caller = caller.ok_or_else(|| Error::internal("nobody found out who asks"))?;
    caller.must_have(scope)?;
    Ok(caller)
}
