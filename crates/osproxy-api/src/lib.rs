//! The wire contract of osproxy: the types that clients and server exchange, and nothing else.
//!
//! [`ErrorCode`] is the closed list of errors, the same for every protocol. [`v0`] has the JSON
//! types of `/api/storage/v0`, [`v1`] has the JSON types of `/api/v1`, [`grpc`] has the gRPC
//! messages and services, [`tus`] has the headers of tus, and [`resumable`] those of the IETF draft
//! for resumable uploads. [`schema`] describes the formats of fields in the OpenAPI document.
//!
//! A Rust client uses the types of [`v1`] for request and response bodies:
//!
//! ```
//! use osproxy_api::{ErrorCode, v1};
//!
//! let request = v1::CreateUploadRequest {
//!     name: "film.mp4".into(),
//!     size: Some(40 << 20),
//!     ..Default::default()
//! };
//! let body = serde_json::to_value(&request)?;
//! assert_eq!(body["size"], 41_943_040);
//!
//! // The body of an error response.
//! let problem: v1::Problem = serde_json::from_str(
//!     r#"{"type": "urn:osproxy:error:overloaded", "title": "Overloaded", "status": 503,
//!         "detail": "too many concurrent requests; retry later", "code": "overloaded"}"#,
//! )?;
//! assert_eq!(ErrorCode::named(&problem.code), Some(ErrorCode::Overloaded));
//! # Ok::<(), serde_json::Error>(())
//! ```

mod error_code;
pub mod grpc;
mod integer;
pub mod nullable;
pub mod resumable;
pub mod schema;
pub mod tus;
pub mod v0;
pub mod v1;

pub use error_code::{ERROR_HEADER, ErrorCode};
