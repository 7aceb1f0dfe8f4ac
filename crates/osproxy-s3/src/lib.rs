//! S3 adapters of the operations: each method parses the request, calls an operation and renders
//! the result. The crate `s3s` parses the protocol, verifies signatures and writes XML.
//!
//! The service is a route of an HTTP router, so the listener, TLS, limits, timeouts and access log
//! of HTTP apply to it too.

mod attributes;
mod auth;
mod body;
mod checksums;
mod context;
mod cors;
mod errors;
mod form;
mod forward;
mod headers;
mod host;
mod ops;
mod parts;
mod request;
mod service;
mod signature;

use std::sync::Arc;

use axum::{Router, extract::Request, middleware::from_fn_with_state};
use osproxy_core::App;
use s3s::{
    config::{S3Config, StaticConfigProvider},
    service::S3ServiceBuilder,
};

pub use errors::render_error;
pub use forward::FORWARDED;
pub use host::is_domain;

/// Maximum size of a body that is XML, in bytes. It is read whole.
const MAX_XML_BYTES: usize = 2 << 20;
/// Maximum size of a file in a form, in bytes. `s3s` buffers it.
const MAX_FORM_FILE_BYTES: u64 = 16 << 20;
/// Maximum memory of all forms, in bytes.
const MAX_FORMS_BYTES: usize = 128 << 20;
/// Maximum size of one field of a form and of all of them, in bytes. AWS allows 20 KB.
const MAX_FORM_FIELD_BYTES: usize = 32 << 10;
const MAX_FORM_BYTES: usize = 64 << 10;
/// Maximum number of fields of a form.
const MAX_FORM_FIELDS: usize = 100;
/// Maximum difference between the clocks of client and service, in seconds, as in AWS.
const MAX_CLOCK_SKEW_SECS: u32 = 15 * 60;

/// Settings of the S3 API.
#[derive(Clone, Debug)]
pub struct Settings {
    /// The domain whose subdomains are buckets; `None` if buckets are only in paths.
    pub domain: Option<String>,
    /// The region that buckets are reported to be in.
    pub region: String,
}

/// Builds the router of the S3 API, which authenticates all requests. Errors of layers around it
/// must be rendered with [`render_error`].
pub fn router(app: &Arc<App>, settings: Settings) -> Router {
    let mut config = S3Config::default();
    config.xml_max_body_size = MAX_XML_BYTES;
    config.post_object_max_file_size = MAX_FORM_FILE_BYTES;
    config.form_max_field_size = MAX_FORM_FIELD_BYTES;
    config.form_max_fields_size = MAX_FORM_BYTES;
    config.form_max_parts = MAX_FORM_FIELDS;
    config.presigned_url_max_skew_time_secs = MAX_CLOCK_SKEW_SECS;
    let domain = settings.domain.clone();
    let cors = Arc::new(cors::Cors::new(app.clone(), host::Domain::new(domain.clone())));
    let mut builder = S3ServiceBuilder::new(service::Service { app: app.clone(), settings });
    builder.set_config(Arc::new(StaticConfigProvider::new(Arc::new(config))));
    builder.set_auth(auth::Secrets(app.auth.clone()));
    builder.set_access(auth::Access(app.clone()));
    builder.set_route(auth::UnsignedPosts);
    builder.set_host(host::Domain::new(domain));
    let service = builder.build();
    let service = Arc::new(request::Front::new(service, app.forwarder.clone()));
    // One route for all paths: object keys are not paths of a router.
    Router::new().fallback(move |request: Request| request::handle(service.clone(), cors.clone(), request))
}

/// Adds the CORS headers of buckets to the errors of the layers around [`router`].
pub fn with_cors(router: Router, app: &Arc<App>, settings: &Settings) -> Router {
    let cors = cors::Cors::new(app.clone(), host::Domain::new(settings.domain.clone()));
    router.layer(from_fn_with_state(Arc::new(cors), cors::complete_refusals))
}
