//! The wire contract of osproxy: what clients and server agree on, and nothing else.
//!
//! [`ErrorCode`] is the closed list of things that can go wrong, the same for every protocol.
//! [`v0`] holds the JSON of `/api/storage/v0`, [`v1`] that of `/api/v1`, [`grpc`] the
//! messages and services of gRPC. [`schema`] says in the OpenAPI document what texts
//! look like.
//!
//! A client in Rust takes the types of [`v1`] for the bodies of its requests and of their answers:
//!
//! ```
//! use osproxy_api::{ErrorCode, v1};
//!
//! let wanted = v1::CreateUploadRequest { name: "film.mp4".into(), size: Some(40 << 20), ..Default::default() };
//! let body = serde_json::to_value(&wanted)?;
//! assert_eq!(body["size"], 41_943_040);
//!
//! // What came instead of an upload.
//! let problem: v1::Problem = serde_json::from_str(
//!     r#"{"type": "urn:osproxy:error:overloaded", "title": "Overloaded", "status": 503,
//!         "detail": "as much is being done as the service takes on", "code": "overloaded"}"#,
//! )?;
//! assert_eq!(ErrorCode::named(&problem.code), Some(ErrorCode::Overloaded));
//! # Ok::<(), serde_json::Error>(())
//! ```

mod error_code;
pub mod grpc;
mod nullable;
pub mod schema;
pub mod v0;
pub mod v1;
mod whole;

pub use error_code::{ERROR_HEADER, ErrorCode};
