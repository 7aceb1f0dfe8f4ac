//! The wire contract of osproxy: what clients and server agree on, and nothing else.
//!
//! [`ErrorCode`] is the closed list of things that can go wrong, the same for every protocol.
//! [`v0`] holds the JSON of `/api/storage/v0`, [`v1`] that of `/api/v1`, [`grpc`] the
//! messages and services of gRPC. [`schema`] says in the OpenAPI document what texts
//! look like.

mod error_code;
pub mod grpc;
pub mod schema;
pub mod v0;
pub mod v1;
mod whole;

pub use error_code::{ERROR_HEADER, ErrorCode};
