//! HTTP: listeners, middleware, and the adapters of API v0 and v1. An adapter parses the request,
//! calls one operation and renders the result. It contains no other logic.

mod console;
mod extract;
mod forward;
pub mod listener;
mod middleware;
pub mod openapi;
#[doc(hidden)]
pub mod parsers;
mod rate_check;
mod respond;
mod resumable;
mod routes;
mod settings;
mod state;
mod tus;
mod v0;
mod v1;

pub use extract::public_url::PublicUrl;
pub use middleware::{AccessLine, AccessLog, RequestLimiter};
pub use routes::{ForwardedS3, GrpcRoutes, admin_router, grpc_router, router, s3_router};
pub use settings::{
    Allowed, CorsSettings, HttpSettings, ListenerSettings, RenderGrpcError, RenderS3Error, RequestLimits,
};
