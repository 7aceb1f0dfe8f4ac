//! gRPC messages and services, generated from `proto/`.

use prost::Message as _;
use prost_types::{FileDescriptorSet, method_options::IdempotencyLevel};

/// Package `osproxy.v1`.
#[allow(missing_docs, clippy::all, clippy::pedantic, clippy::nursery, clippy::restriction)]
pub mod v1 {
    tonic::include_proto!("osproxy.v1");
}

/// Prefix of the paths of all methods.
pub const PREFIX: &str = "/osproxy.v1.";

/// All files of `proto/` and their imports as an encoded `FileDescriptorSet`, for server
/// reflection.
pub const DESCRIPTORS: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/descriptors.bin"));

/// A method of a service.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Method {
    /// The path of the HTTP request: `/package.Service/Method`.
    pub path: String,
    /// Whether the request or the response is a stream.
    pub streams: bool,
    /// Whether the method has no side effects.
    pub reads: bool,
}

/// The methods of a service, such as `osproxy.v1.FileService`.
pub fn methods(service: &str) -> Vec<Method> {
    // Cannot fail: the build script wrote the descriptors.
    let files = FileDescriptorSet::decode(DESCRIPTORS).unwrap_or_default().file;
    let services = files.iter().flat_map(|file| file.service.iter().map(|service| (file.package(), service)));
    let found = services.filter(|(package, found)| {
        service.strip_prefix(package).and_then(|rest| rest.strip_prefix('.')) == Some(found.name())
    });
    let methods = found.flat_map(|(_, found)| &found.method);
    let described = methods.map(|method| Method {
        path: format!("/{service}/{}", method.name()),
        streams: method.client_streaming() || method.server_streaming(),
        reads: method
            .options
            .as_ref()
            .is_some_and(|options| options.idempotency_level() == IdempotencyLevel::NoSideEffects),
    });
    described.collect()
}
